//! The history of passes: the line that a pass adds to it, and what `status` makes of it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};

use super::Summary;
use crate::{
    feed::ContentType,
    state::{
        FeedId,
        history::{FEEDS_MAX, FeedLine, PassLine},
    },
};

/// The hours that `status` shows.
pub const HOURS: usize = 24;

const HOUR: i64 = 60 * 60;

/// The difference in seconds from the median lag of a pass up to which a feed without deliveries and failures is quiet.
const LAG_TOLERANCE: u64 = 60;

/// Returns the line of a pass that ended at `start` plus `lasted`. Without a summary the pass did not run.
pub fn line_of(start: Timestamp, lasted: Duration, exit: u8, summary: Option<&Summary>) -> PassLine {
    let mut line = PassLine::new(start, lasted, exit);
    let Some(summary) = summary else { return line };
    let ended = start + SignedDuration::try_from(lasted).unwrap_or_default();
    let lag = |until: Timestamp| ended.as_second() - until.as_second();
    let feeds: Vec<_> = summary
        .feeds
        .iter()
        .map(|feed| {
            let is_failed = !feed.is_listed && summary.stop.is_none();
            let entry = FeedLine {
                blobs: feed.counts.delivered,
                records: feed.counts.records,
                failures: feed.counts.failed + u64::from(is_failed),
                lag: feed.progress.listed_until.map(lag),
            };
            (feed, entry)
        })
        .collect();
    line.lag = median(&mut feeds.iter().filter_map(|(_, entry)| entry.lag).collect::<Vec<_>>());
    let is_quiet = |entry: &FeedLine| {
        let nothing = FeedLine { lag: entry.lag, ..FeedLine::default() };
        let is_usual = entry.lag.zip(line.lag).is_some_and(|(a, b)| a.abs_diff(b) <= LAG_TOLERANCE);
        *entry == nothing && is_usual
    };
    let (quiet, mut others): (Vec<_>, Vec<_>) = feeds.into_iter().partition(|(_, entry)| is_quiet(entry));
    line.quiet = quiet.len() as u64;
    if quiet.is_empty() {
        line.lag = None;
    }
    if others.len() > FEEDS_MAX {
        others.sort_by_key(|(_, entry)| std::cmp::Reverse((entry.failures, entry.records)));
        line.omitted = (others.len() - FEEDS_MAX) as u64;
        others.truncate(FEEDS_MAX);
    }
    for (feed, entry) in others {
        let of_tenant = line.tenants.entry(feed.tenant_id.to_string()).or_default();
        of_tenant.insert(feed.content_type.name().to_owned(), entry);
    }
    line
}

/// Returns the middle one of some numbers, or the lower one of the two in the middle.
fn median(numbers: &mut [i64]) -> Option<i64> {
    let middle = numbers.len().checked_sub(1)? / 2;
    Some(*numbers.select_nth_unstable(middle).1)
}

/// The history as `status` shows it.
#[derive(Debug)]
pub struct History {
    /// When the first of the hours begins. The last one is the current hour.
    pub since: Timestamp,
    /// In each of the hours: the number of passes.
    pub passes: [u32; HOURS],
    /// The last pass.
    pub last: Option<LastPass>,
    /// By pass: the lag of the feeds that its line does not describe, if it says that.
    quiet_lags: Vec<Option<i64>>,
    feeds: HashMap<FeedId, Described>,
}

/// The last pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LastPass {
    /// When it started.
    pub start: Timestamp,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Its exit code.
    pub exit: u8,
}

/// What the lines say of a feed that they describe.
#[derive(Debug, Default)]
struct Described {
    records: [u64; HOURS],
    failures: [u64; HOURS],
    /// The number of the pass, and the lag.
    lags: Vec<(u32, Option<i64>)>,
}

/// The history of one feed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeedHistory {
    /// Records delivered in each of the hours. `None` if there was no pass.
    pub records: [Option<u64>; HOURS],
    /// Failures in each of the hours.
    pub failures: [u64; HOURS],
    /// The median of the lags at the ends of the passes, in seconds.
    pub usual_lag: Option<i64>,
}

impl History {
    /// Returns an empty history at this time.
    pub fn at(now: Timestamp) -> Self {
        let hours = i64::try_from(HOURS).expect("a few");
        let hour = now.as_second().div_euclid(HOUR);
        let since = Timestamp::from_second((hour + 1 - hours) * HOUR).unwrap_or_default();
        let (quiet_lags, feeds) = (Vec::new(), HashMap::new());
        Self { since, passes: [0; HOURS], last: None, quiet_lags, feeds }
    }

    /// Adds the next pass.
    pub fn add(&mut self, pass: PassLine) {
        let number = u32::try_from(self.quiet_lags.len()).unwrap_or(u32::MAX);
        let hour = self.hour_of(pass.start);
        if let Some(hour) = hour {
            self.passes[hour] += 1;
        }
        self.quiet_lags.push(pass.lag.filter(|_| !pass.restricted));
        self.last = Some(LastPass { start: pass.start, seconds: pass.seconds, exit: pass.exit });
        for (tenant_id, feeds) in pass.tenants {
            let tenant_id = Arc::<str>::from(tenant_id);
            for (name, entry) in feeds {
                let Some(content_type) = ContentType::from_name(&name) else { continue };
                let described = self.feeds.entry((Arc::clone(&tenant_id), content_type)).or_default();
                described.lags.push((number, entry.lag));
                if let Some(hour) = hour {
                    described.records[hour] = described.records[hour].saturating_add(entry.records);
                    described.failures[hour] = described.failures[hour].saturating_add(entry.failures);
                }
            }
        }
    }

    /// Returns the place of a time among the hours.
    fn hour_of(&self, time: Timestamp) -> Option<usize> {
        let hour = (time.as_second() - self.since.as_second()).div_euclid(HOUR);
        usize::try_from(hour).ok().filter(|hour| *hour < HOURS)
    }

    /// Returns the history of a feed.
    pub fn of(&self, tenant_id: &str, content_type: ContentType) -> FeedHistory {
        let nothing = Described::default();
        let described = self.feeds.get(&(tenant_id.into(), content_type)).unwrap_or(&nothing);
        let had_pass = |hour: usize| self.passes[hour] > 0;
        let mut described_lags = described.lags.iter().peekable();
        let lags = self.quiet_lags.iter().enumerate().filter_map(|(number, quiet_lag)| {
            let is_it = |(described, _): &&(u32, Option<i64>)| usize::try_from(*described) == Ok(number);
            described_lags.next_if(is_it).map_or(*quiet_lag, |(_, lag)| *lag)
        });
        FeedHistory {
            records: std::array::from_fn(|hour| had_pass(hour).then_some(described.records[hour])),
            failures: described.failures,
            usual_lag: median(&mut lags.collect::<Vec<_>>()),
        }
    }
}

/// Draws records by hour as characters: a dot for an hour without a pass, the lowest block for one without records, and
/// higher ones in proportion to the highest value.
pub fn sparkline(records: &[Option<u64>]) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let highest = records.iter().flatten().copied().max().unwrap_or_default().max(1);
    let block = |records: u64| {
        let (records, highest) = (u128::from(records), u128::from(highest));
        let step = (records * (BLOCKS.len() as u128 - 1) + highest / 2) / highest;
        BLOCKS[usize::try_from(step.max(records.min(1))).unwrap_or_default()]
    };
    records.iter().map(|records| records.map_or('·', block)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        report::{Counts, FeedReport, Stop},
        state::FeedProgress,
    };

    fn time(text: &str) -> Timestamp {
        text.parse().expect("a time of the test")
    }

    fn feed(content_type: ContentType, counts: Counts, listed_until: Option<&str>) -> FeedReport {
        FeedReport {
            tenant: "contoso".into(),
            tenant_id: "t".into(),
            content_type,
            counts,
            is_listed: listed_until.is_some(),
            progress: Arc::new(FeedProgress {
                listed_until: listed_until.map(time),
                ..FeedProgress::default()
            }),
        }
    }

    const START: &str = "2026-11-22T10:15:00Z";

    fn line(feeds: Vec<FeedReport>, stop: Option<Stop>) -> PassLine {
        let summary = Summary { feeds, any_login: true, stop };
        line_of(time(START), Duration::from_secs(10), 0, Some(&summary))
    }

    #[test]
    fn a_line_describes_the_feeds_with_something_to_tell() {
        let busy = Counts { listed: 2, delivered: 1, failed: 1, records: 7, ..Counts::default() };
        let until = Some("2026-11-22T10:15:04Z");
        let quiet = || feed(ContentType::DlpAll, Counts::default(), until);
        let of = line(
            vec![
                quiet(),
                quiet(),
                quiet(),
                feed(ContentType::AuditExchange, busy, until),
                feed(ContentType::AuditGeneral, Counts::default(), Some("2026-11-22T10:00:00Z")),
                feed(ContentType::AuditSharePoint, Counts::default(), None),
            ],
            None,
        );
        assert_eq!((of.quiet, of.lag, of.omitted), (3, Some(6), 0));
        let entry = |name: &str| of.tenants["t"].get(name).copied();
        let busy = FeedLine { blobs: 1, records: 7, failures: 1, lag: Some(6) };
        assert_eq!(entry("Audit.Exchange"), Some(busy));
        assert_eq!(entry("Audit.General"), Some(FeedLine { lag: Some(910), ..FeedLine::default() }));
        assert_eq!(entry("Audit.SharePoint"), Some(FeedLine { failures: 1, ..FeedLine::default() }));
        assert_eq!(entry("DLP.All"), None);
        let stopped = line(vec![feed(ContentType::DlpAll, Counts::default(), None)], Some(Stop::Terminated));
        assert_eq!(stopped.tenants["t"]["DLP.All"], FeedLine::default(), "a signal is not a failure");
    }

    #[test]
    fn a_line_has_a_bounded_number_of_feeds_and_keeps_those_that_fail() {
        let feeds = (0..FEEDS_MAX + 2).map(|number| {
            let failed = u64::from(number == FEEDS_MAX + 1);
            let counts = Counts { listed: 1, delivered: 1 - failed, failed, records: 1, ..Counts::default() };
            FeedReport {
                tenant_id: format!("{number:08}").into(),
                ..feed(ContentType::DlpAll, counts, Some("2026-11-22T10:15:04Z"))
            }
        });
        let of = line(feeds.collect(), None);
        assert_eq!((of.omitted, of.tenants.len()), (2, FEEDS_MAX));
        assert!(of.tenants.contains_key(&format!("{:08}", FEEDS_MAX + 1)));
    }

    fn pass(start: &str, lag: i64, entry: Option<FeedLine>) -> PassLine {
        let mut line = PassLine { lag: Some(lag), ..PassLine::new(time(start), Duration::ZERO, 0) };
        if let Some(entry) = entry {
            line.tenants.entry("t".to_owned()).or_default().insert("DLP.All".to_owned(), entry);
        }
        line
    }

    #[test]
    fn records_and_failures_are_summed_by_the_hours_of_the_clock() {
        let mut history = History::at(time("2026-11-22T10:59:59Z"));
        assert_eq!(history.since, time("2026-11-21T11:00:00Z"));
        let entry = |records, failures| Some(FeedLine { blobs: 1, records, failures, lag: Some(7) });
        history.add(pass("2026-11-21T10:59:59Z", 1, entry(100, 100)));
        history.add(pass("2026-11-21T11:00:00Z", 1, entry(1, 0)));
        history.add(pass("2026-11-22T10:00:00Z", 1, entry(2, 3)));
        history.add(pass("2026-11-22T10:30:00Z", 1, entry(4, 0)));
        history.add(pass("2026-11-22T10:45:00Z", 1, None));
        history.add(pass("2026-11-22T11:00:00Z", 1, entry(100, 100)));
        let feed = history.of("t", ContentType::DlpAll);
        let mut records = [None; HOURS];
        (records[0], records[HOURS - 1]) = (Some(1), Some(6));
        assert_eq!(feed.records, records);
        assert_eq!((feed.failures[0], feed.failures[HOURS - 1]), (0, 3));
        let other = history.of("t", ContentType::AuditGeneral);
        assert_eq!((other.records[0], other.records[1]), (Some(0), None));
    }

    #[test]
    fn the_usual_lag_is_the_median_of_all_passes_of_the_feed() {
        let mut history = History::at(time("2026-11-22T10:59:59Z"));
        assert_eq!(history.of("t", ContentType::DlpAll).usual_lag, None);
        let entry = |lag| Some(FeedLine { lag, ..FeedLine::default() });
        for (lag, entry) in
            [(5, None), (900, entry(Some(6))), (7, None), (8, entry(None)), (800, entry(Some(900)))]
        {
            history.add(pass(START, lag, entry));
        }
        assert_eq!(history.of("t", ContentType::DlpAll).usual_lag, Some(6), "5, 6, 7, 900");
        assert_eq!(history.of("t", ContentType::AuditGeneral).usual_lag, Some(8), "5, 7, 8, 800, 900");
        history.add(PassLine { restricted: true, ..pass(START, 1, None) });
        assert_eq!(
            history.of("t", ContentType::AuditGeneral).usual_lag,
            Some(8),
            "of other tenants, perhaps"
        );
    }

    #[test]
    fn a_sparkline_is_in_proportion_to_its_highest_value() {
        assert_eq!(sparkline(&[None, Some(0), Some(1), Some(350), Some(700)]), "·▁▂▅█");
        assert_eq!(sparkline(&[Some(0), Some(0)]), "▁▁");
        assert_eq!(sparkline(&[Some(u64::MAX), Some(1)]), "█▂");
    }
}
