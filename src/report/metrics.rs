//! The metrics of a pass: a file for `node_exporter`'s textfile collector, replaced at the end of each pass.
//!
//! Gauges describe the last pass, because each pass counts from zero. Counters, whose names end in `_total`, are the running
//! totals that the state keeps ([`Totals`]). Without the state they begin with zero again, which Prometheus takes for the
//! reset of a counter.
//!
//! A pass that did not start, or that is about some tenants only, knows nothing of the other feeds. Their counters and
//! times are copied from the old file, because a series that disappears would hide that its feed fails.
//!
//! Source of the format: "Prometheus exposition formats", text-based format.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    fmt::{self, Display, Write as _},
    fs::File,
    io::{self, BufRead, BufReader, Write},
    path::Path,
    time::Duration,
};

use jiff::Timestamp;

use super::{Counts, FeedReport, Summary};
use crate::{
    disk::{self, FileContext, FileError},
    feed::ContentType,
    limits::STATE_BUFFER_BYTES,
    state::Totals,
};

/// What the name of each metric begins with.
const PREFIX: &str = "office365_collector_";
const LAST_SUCCESS: &str = "last_success_timestamp_seconds";
const FEED_LAG: &str = "feed_lag_seconds";
const CREDENTIAL_EXPIRY: &str = "credential_expiry_timestamp_seconds";

/// The metrics of a pass.
#[derive(Clone, Copy, Debug)]
pub struct Metrics<'a> {
    /// When the pass ended.
    pub ended: Timestamp,
    /// The duration of the pass.
    pub lasted: Duration,
    /// The exit code of the pass.
    pub exit_code: u8,
    /// The result of the pass, if it started.
    pub summary: Option<&'a Summary>,
    /// The tenant's name, or else its id, and the content type of each configured feed, also of those that are not in this
    /// pass.
    pub feeds: &'a [(&'a str, ContentType)],
    /// The number of blobs in quarantine and the size of their files in bytes, if known.
    pub quarantine: Option<(u64, u64)>,
    /// The tenants whose credentials expire at a known time, by name or else id.
    pub credential_expiries: &'a [(String, Timestamp)],
}

/// The name, the help text and the value of a gauge that describes the last pass.
type FeedGauge = (&'static str, &'static str, fn(&Counts) -> u64);

/// The gauges of a feed. `blobs_listed` is the sum of the following ones up to `blobs_left`.
const FEED_GAUGES: [FeedGauge; 16] = [
    ("blobs_listed", "Distinct blobs in the listings.", |it| it.listed),
    ("blobs_known", "Listed blobs known from an earlier pass.", |it| it.known),
    ("blobs_downloaded", "Blobs delivered to every output.", |it| it.delivered),
    ("blobs_failed", "Blobs that the next pass retries.", |it| it.failed),
    ("blobs_expired", "Blobs that can no longer be fetched.", |it| it.gone),
    ("blobs_left", "Blobs left for a later pass.", |it| it.left),
    ("blobs_found", "Listed blobs that were not known.", |it| it.found()),
    ("blobs_retried", "Blobs that were retried.", |it| it.retried),
    ("blobs_salvaged", "Downloaded blobs that could be read in part only and are in quarantine.", |it| {
        it.salvaged
    }),
    ("records_saved", "Records delivered.", |it| it.records),
    ("records_filtered", "Records that were filtered out.", |it| it.filtered),
    ("records_duplicate", "Records dropped because their Id was delivered before.", |it| it.duplicates),
    ("records_dead_letter", "Records that a receiver rejected and that are kept as dead letters.", |it| {
        it.dead_letters
    }),
    ("bytes_downloaded", "Bytes of blobs after decompression.", |it| it.bytes),
    ("api_requests", "Requests about this feed.", |it| it.requests),
    ("api_throttled", "Requests that were throttled.", |it| it.throttled),
];

/// The name, the help text and the value of a counter.
type FeedCounter = (&'static str, &'static str, fn(&Totals) -> u64);

const FEED_COUNTERS: [FeedCounter; 12] = [
    ("blobs_found_total", "Listed blobs that were not known, in all passes.", |it| it.blobs_found),
    ("blobs_downloaded_total", "Blobs delivered to every output, in all passes.", |it| it.blobs_downloaded),
    ("blobs_failed_total", "Blobs that failed, each once for every pass in which it failed.", |it| {
        it.blobs_failed
    }),
    ("blobs_expired_total", "Blobs that could no longer be fetched, in all passes.", |it| it.blobs_expired),
    ("blobs_salvaged_total", "Downloaded blobs that could be read in part only, in all passes.", |it| {
        it.blobs_salvaged
    }),
    ("records_saved_total", "Records delivered, in all passes.", |it| it.records_saved),
    ("records_filtered_total", "Records that were filtered out, in all passes.", |it| it.records_filtered),
    (
        "records_duplicate_total",
        "Records dropped because their Id was delivered before, in all passes.",
        |it| it.records_duplicate,
    ),
    ("records_dead_letter_total", "Records that became dead letters, in all passes.", |it| {
        it.records_dead_letter
    }),
    ("bytes_downloaded_total", "Bytes of blobs after decompression, in all passes.", |it| {
        it.bytes_downloaded
    }),
    ("api_requests_total", "Requests about this feed, in all passes.", |it| it.api_requests),
    ("api_throttled_total", "Requests that were throttled, in all passes.", |it| it.api_throttled),
];

/// The name, the help text and the value of a time.
type FeedTime = (&'static str, &'static str, fn(&FeedReport) -> Option<Timestamp>);

const FEED_TIMES: [FeedTime; 2] = [
    ("listed_until_timestamp_seconds", "Up to when the feed is listed.", |feed| feed.progress.listed_until),
    (
        "feed_last_success_timestamp_seconds",
        "When a pass last listed the feed to the end and delivered every blob that it found.",
        |feed| feed.progress.last_success,
    ),
];

impl Metrics<'_> {
    /// Replaces the file. What this pass does not know is copied from the old file.
    pub fn write(&self, path: &Path) -> Result<(), FileError> {
        let before =
            File::open(path).map(|file| self.kept(BufReader::with_capacity(STATE_BUFFER_BYTES, file)));
        let before = before.unwrap_or_default();
        disk::replace(path, 0o644, |to| self.print(&before, to), |_| Ok(()))
            .map(drop)
            .context("write metrics.path", path)
    }

    /// Returns the series of an old file that this pass may copy, with their values.
    fn kept(&self, before: impl BufRead) -> HashMap<String, String> {
        let feeds = self.summary.map_or(&[][..], |summary| &summary.feeds);
        let in_pass: HashSet<_> = feeds.iter().map(|feed| feed.labels().to_string()).collect();
        let is_kept = |series: &str| match series.split_once('{') {
            None => series.strip_prefix(PREFIX) == Some(LAST_SUCCESS),
            Some((name, _)) => {
                let name = name.strip_prefix(PREFIX).unwrap_or_default();
                let is_kept = FEED_TIMES.iter().any(|time| time.0 == name)
                    || FEED_COUNTERS.iter().any(|counter| counter.0 == name);
                is_kept && !in_pass.contains(&series[PREFIX.len() + name.len()..])
            }
        };
        // A value follows the last space of its line; labels can contain spaces.
        let lines = before.lines().map_while(Result::ok);
        let kept = lines.filter_map(|line| {
            let (series, value) = line.rsplit_once(' ').filter(|(series, _)| is_kept(series))?;
            Some((series.to_owned(), value.to_owned()))
        });
        kept.collect()
    }

    /// Writes the metrics, one after the other, because the text of many tenants is long.
    fn print(&self, before: &HashMap<String, String>, to: &mut dyn Write) -> io::Result<()> {
        let mut text = self.text_of_pass(before);
        let mut flush = |text: &mut String| {
            let written = to.write_all(text.as_bytes());
            text.clear();
            written
        };
        let feeds = self.summary.map_or(&[][..], |summary| &summary.feeds);
        for (name, help, value) in FEED_GAUGES {
            head(&mut text, name, help, "gauge");
            for feed in feeds {
                sample(&mut text, name, feed.labels(), value(&feed.counts));
            }
            flush(&mut text)?;
        }
        head(&mut text, FEED_LAG, "Age of the newest listed content.", "gauge");
        for feed in feeds {
            if let Some(until) = feed.progress.listed_until {
                let lag = self.ended.as_second() - until.as_second();
                sample(&mut text, FEED_LAG, feed.labels(), lag);
            }
        }
        flush(&mut text)?;
        let in_pass: HashMap<_, _> =
            feeds.iter().map(|feed| ((&*feed.tenant, feed.content_type), feed)).collect();
        let mut kept = |name, help, kind, value: &dyn Fn(&FeedReport) -> Option<String>| {
            head(&mut text, name, help, kind);
            for &(tenant, content_type) in self.feeds {
                let labels = Labels { tenant, content_type };
                let value = match in_pass.get(&(tenant, content_type)) {
                    Some(feed) => value(feed),
                    None => before.get(&format!("{PREFIX}{name}{labels}")).cloned(),
                };
                if let Some(value) = value {
                    sample(&mut text, name, labels, value);
                }
            }
            flush(&mut text)
        };
        for (name, help, value) in FEED_TIMES {
            kept(name, help, "gauge", &|feed| Some(value(feed)?.as_second().to_string()))?;
        }
        for (name, help, value) in FEED_COUNTERS {
            kept(name, help, "counter", &|feed| Some(value(&feed.progress.totals).to_string()))?;
        }
        Ok(())
    }

    /// Returns the metrics of the pass as a whole, and of the tenants' credentials.
    fn text_of_pass(&self, before: &HashMap<String, String>) -> String {
        let ended = self.ended.as_duration().as_secs_f64().to_string();
        let last_success = match before.get(format!("{PREFIX}{LAST_SUCCESS}").as_str()) {
            _ if self.exit_code == 0 => Some(ended.clone()),
            before => before.filter(|before| before.parse::<f64>().is_ok()).cloned(),
        };
        let (blobs, bytes) = self.quarantine.unzip();
        let mut text = String::new();
        for (name, help, value) in [
            ("last_run_timestamp_seconds", "When the last pass ended.", Some(ended)),
            (LAST_SUCCESS, "When the last complete pass ended.", last_success),
            ("pass_duration_seconds", "How long the pass took.", Some(self.lasted.as_secs_f64().to_string())),
            ("exit_code", "The exit code of the pass.", Some(self.exit_code.to_string())),
            ("quarantine_blobs", "Blobs whose bodies are in quarantine.", blobs.as_ref().map(u64::to_string)),
            ("quarantine_bytes", "Size of the files in quarantine.", bytes.as_ref().map(u64::to_string)),
        ] {
            if let Some(value) = value {
                gauge(&mut text, name, help, value);
            }
        }
        if !self.credential_expiries.is_empty() {
            head(&mut text, CREDENTIAL_EXPIRY, "When the tenant's certificate expires.", "gauge");
        }
        for (tenant, expiry) in self.credential_expiries {
            let labels = format!("{{tenant=\"{}\"}}", escaped(tenant));
            sample(&mut text, CREDENTIAL_EXPIRY, &labels, expiry.as_second());
        }
        text
    }
}

/// Appends the description of a metric: a `gauge` or a `counter`.
pub fn head(text: &mut String, name: &str, help: &str, kind: &str) {
    let _ = writeln!(text, "# HELP {PREFIX}{name} {help}\n# TYPE {PREFIX}{name} {kind}");
}

/// Appends a gauge without labels.
pub fn gauge(text: &mut String, name: &str, help: &str, value: impl Display) {
    head(text, name, help, "gauge");
    let _ = writeln!(text, "{PREFIX}{name} {value}");
}

/// Appends a value of a metric with labels.
pub fn sample(text: &mut String, name: &str, labels: impl Display, value: impl Display) {
    let _ = writeln!(text, "{PREFIX}{name}{labels} {value}");
}

/// The labels of a feed. They are printed for each line, because those of all feeds would take much memory.
#[derive(Clone, Copy)]
pub struct Labels<'a> {
    /// The tenant's name, or else its id.
    pub tenant: &'a str,
    /// The content type.
    pub content_type: ContentType,
}

impl FeedReport {
    fn labels(&self) -> Labels<'_> {
        Labels { tenant: &self.tenant, content_type: self.content_type }
    }
}

impl Display for Labels<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tenant, content_type } = self;
        write!(formatter, "{{tenant=\"{}\",content_type=\"{content_type}\"}}", escaped(tenant))
    }
}

fn escaped(label: &str) -> Cow<'_, str> {
    if memchr::memchr3(b'\\', b'"', b'\n', label.as_bytes()).is_none() {
        return label.into();
    }
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n").into()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{report::Counts, state::FeedProgress};

    const TENANT: &str = "a \"b\"";
    const FEED: ContentType = ContentType::DlpAll;

    impl Metrics<'_> {
        /// Returns the text that replaces this one.
        fn text(&self, before: &str) -> String {
            let mut text = Vec::new();
            self.print(&self.kept(before.as_bytes()), &mut text).expect("memory");
            String::from_utf8(text).expect("UTF-8")
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time of the test")
    }

    fn metrics(exit_code: u8, summary: Option<&Summary>) -> Metrics<'_> {
        Metrics {
            ended: at(1_800_000_000),
            lasted: Duration::from_millis(1_500),
            exit_code,
            summary,
            feeds: &[(TENANT, FEED), (TENANT, ContentType::AuditGeneral)],
            quarantine: Some((2, 3_000)),
            credential_expiries: &[],
        }
    }

    fn summary() -> Summary {
        let counts = Counts { listed: 3, known: 1, delivered: 2, records: 40, ..Counts::default() };
        let feed = FeedReport {
            tenant: TENANT.into(),
            tenant_id: "11111111-1111-4111-8111-111111111111".into(),
            content_type: FEED,
            counts,
            is_listed: true,
            progress: Arc::new(FeedProgress {
                listed_until: Some(at(1_799_999_940)),
                last_success: Some(at(1_799_999_990)),
                totals: Totals { blobs_found: 102, ..Totals::default() },
                ..FeedProgress::default()
            }),
        };
        Summary { feeds: vec![feed], any_login: true, stop: None }
    }

    #[track_caller]
    fn assert_lines(text: &str, lines: &[&str]) {
        for line in lines {
            assert!(text.lines().any(|written| written == *line), "no {line} in {text}");
        }
    }

    #[test]
    fn each_metric_has_a_line() {
        let text = metrics(0, Some(&summary())).text("");
        assert_lines(
            &text,
            &[
                "office365_collector_last_run_timestamp_seconds 1800000000",
                "office365_collector_last_success_timestamp_seconds 1800000000",
                "office365_collector_pass_duration_seconds 1.5",
                "office365_collector_exit_code 0",
                "office365_collector_quarantine_blobs 2",
                "office365_collector_quarantine_bytes 3000",
                "# TYPE office365_collector_blobs_found gauge",
                "office365_collector_blobs_found{tenant=\"a \\\"b\\\"\",content_type=\"DLP.All\"} 2",
                "office365_collector_records_saved{tenant=\"a \\\"b\\\"\",content_type=\"DLP.All\"} 40",
                "office365_collector_feed_lag_seconds{tenant=\"a \\\"b\\\"\",content_type=\"DLP.All\"} 60",
                "office365_collector_feed_last_success_timestamp_seconds{tenant=\"a \\\"b\\\"\",content_type=\"DLP.All\"} 1799999990",
                "# TYPE office365_collector_blobs_found_total counter",
                "office365_collector_blobs_found_total{tenant=\"a \\\"b\\\"\",content_type=\"DLP.All\"} 102",
            ],
        );
    }

    #[test]
    fn credential_has_a_gauge_of_its_expiry() {
        let expiries = [("contoso".to_owned(), at(1_900_000_000))];
        let metrics = Metrics { credential_expiries: &expiries, ..metrics(0, None) };
        let line = "office365_collector_credential_expiry_timestamp_seconds{tenant=\"contoso\"} 1900000000";
        assert_lines(&metrics.text(""), &[line]);
    }

    #[test]
    fn a_pass_that_does_not_start_keeps_counters_and_times() {
        let before = metrics(0, Some(&summary())).text("");
        let later = Metrics { ended: at(1_800_000_300), ..metrics(74, None) };
        let text = later.text(&before);
        let is_kept = |line: &&str| {
            line.contains("_total{")
                || line.contains("listed_until_timestamp_seconds{")
                || line.contains("last_success_timestamp_seconds{")
                || line.starts_with("office365_collector_last_success_timestamp_seconds ")
        };
        let kept: Vec<_> = before.lines().filter(is_kept).collect();
        assert_eq!(kept.len(), 12 + 2 + 1);
        assert_lines(&text, &kept);
        assert!(!text.contains("blobs_found{"), "gauges describe a pass: {text}");
        assert_eq!(later.text(&text), text, "they are kept for any number of passes");
    }

    #[test]
    fn a_feed_that_is_not_configured_any_more_is_not_kept() {
        let before = metrics(0, Some(&summary())).text("");
        let text = Metrics { feeds: &[], ..metrics(74, None) }.text(&before);
        assert!(!text.contains("{tenant="), "{text}");
    }
}
