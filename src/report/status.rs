//! `status`: the state of each feed, as a table and as JSON.

use std::{collections::HashMap, fmt::Write, path::PathBuf};

use jiff::Timestamp;
use serde::Serialize;

use super::history::{HOURS, History, sparkline};
use crate::{
    config::Tenant,
    feed::ContentType,
    state::{DeadLetters, Progress, quarantine::Quarantined},
};

/// The maximum number of quarantined blobs in the table of `status`.
const QUARANTINED_SHOWN_MAX: usize = 50;

/// The state of one feed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub struct FeedStatus {
    /// The tenant's name, else its id.
    pub tenant: String,
    /// The tenant's GUID.
    pub tenant_id: String,
    /// The API's name of the feed.
    pub content_type: &'static str,
    /// When a pass last listed it to the end and delivered every blob that it found.
    pub last_success: Option<Timestamp>,
    /// Up to when it is listed.
    pub listed_until: Option<Timestamp>,
    /// The number of seconds since then.
    pub lag_seconds: Option<i64>,
    /// The median of its lags at the ends of the passes in the history.
    pub usual_lag_seconds: Option<i64>,
    /// When the first of the 24 hours of the next fields begins. The last one is the current hour.
    pub hours_from: Timestamp,
    /// By hour: records delivered. `None` if there was no pass.
    pub records_by_hour: [Option<u64>; HOURS],
    /// By hour: failed blobs, and listings that failed.
    pub failures_by_hour: [u64; HOURS],
    /// The number of blobs that were listed and not tried yet.
    pub blobs_waiting: usize,
    /// The number of blobs that failed and that the next pass retries.
    pub blobs_failed: usize,
    /// The number of records that a receiver rejected and that are kept as dead letters.
    pub dead_letters: usize,
    /// The error of the last pass, in words.
    pub last_error: Option<String>,
    /// Blobs that could be delivered in part only, oldest first.
    pub quarantined: Vec<QuarantinedBlob>,
}

/// A blob whose body is kept because not all of it could be delivered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub struct QuarantinedBlob {
    /// The id of the blob.
    pub content_id: String,
    /// When it was put into quarantine.
    pub since: Timestamp,
    /// Why its body cannot be read as a whole, in words.
    pub cause: String,
    /// The number of its records that were delivered.
    pub records_delivered: u64,
    /// The length of the body.
    pub bytes: u64,
    /// The file with the body.
    pub body: PathBuf,
}

/// Returns the status of every feed of these tenants.
pub fn of(
    tenants: &[Tenant],
    progress: &Progress,
    dead_letters: &[DeadLetters],
    quarantine: &[Quarantined],
    history: &History,
    now: Timestamp,
) -> Vec<FeedStatus> {
    let mut by_feed: HashMap<(&str, ContentType), OfFeed<'_>> = HashMap::new();
    for ((tenant_id, content_type), pending) in &progress.pending {
        let of_feed = by_feed.entry((tenant_id, *content_type)).or_default();
        *if pending.has_failed { &mut of_feed.failed } else { &mut of_feed.waiting } += 1;
    }
    for quarantined in quarantine {
        let entry = &quarantined.entry;
        if let Some(content_type) = ContentType::from_name(&entry.content_type) {
            by_feed.entry((&entry.tenant_id, content_type)).or_default().quarantined.push(quarantined);
        }
    }
    let mut feeds = Vec::new();
    for (tenant, &content_type) in
        tenants.iter().flat_map(|tenant| tenant.subscriptions.iter().map(move |feed| (tenant, feed)))
    {
        let key = (tenant.tenant_id.clone(), content_type);
        let feed = progress.feeds.get(&key).cloned().unwrap_or_default();
        let past = history.of(&tenant.tenant_id, content_type);
        let blobs = by_feed.remove(&(&*tenant.tenant_id, content_type)).unwrap_or_default();
        feeds.push(FeedStatus {
            tenant: tenant.label().to_owned(),
            content_type: content_type.name(),
            last_success: feed.last_success,
            listed_until: feed.listed_until,
            lag_seconds: feed.listed_until.map(|until| now.as_second() - until.as_second()),
            usual_lag_seconds: past.usual_lag,
            hours_from: history.since,
            records_by_hour: past.records,
            failures_by_hour: past.failures,
            blobs_waiting: blobs.waiting,
            blobs_failed: blobs.failed,
            dead_letters: dead_letters.iter().filter_map(|letters| letters.of_feeds.get(&key)).sum(),
            last_error: feed.last_error.clone(),
            quarantined: blobs.quarantined.into_iter().map(QuarantinedBlob::from).collect(),
            tenant_id: key.0.to_string(),
        });
    }
    feeds
}

impl FeedStatus {
    /// Returns the number of records in the last 24 hours.
    pub fn records(&self) -> u64 {
        self.records_by_hour.iter().flatten().sum()
    }

    /// Returns the number of failures in the last 24 hours.
    pub fn failures(&self) -> u64 {
        self.failures_by_hour.iter().sum()
    }

    /// Returns the number of blobs that are still to be delivered.
    pub fn pending(&self) -> u64 {
        (self.blobs_waiting + self.blobs_failed) as u64
    }
}

/// The blobs of one feed.
#[derive(Default)]
struct OfFeed<'a> {
    /// Listed and not tried yet.
    waiting: usize,
    failed: usize,
    quarantined: Vec<&'a Quarantined>,
}

impl From<&Quarantined> for QuarantinedBlob {
    fn from(quarantined: &Quarantined) -> Self {
        let Quarantined { entry, body } = quarantined.clone();
        Self {
            content_id: entry.content_id,
            since: entry.time,
            cause: entry.cause,
            records_delivered: entry.records_delivered,
            bytes: entry.bytes,
            body,
        }
    }
}

/// Returns the feeds as JSON: an array of objects, one a line.
pub fn as_json(feeds: &[FeedStatus]) -> String {
    let lines: Vec<_> = feeds
        .iter()
        .map(|feed| serde_json::to_string(feed).expect("texts, times and numbers are written without fail"))
        .collect();
    format!("[{}]\n", lines.join(",\n "))
}

/// Returns the feeds as a table, and below it one of the blobs in quarantine, if there are any.
pub fn as_table(feeds: &[FeedStatus]) -> String {
    let mut rows = vec![
        [
            "TENANT",
            "FEED",
            "LAST SUCCESS",
            "LISTED UNTIL",
            "LAG",
            "USUAL",
            "RECORDS, 24 HOURS",
            "WAITING",
            "FAILED",
            "LAST ERROR",
        ]
        .map(str::to_owned),
    ];
    let time = |time: Option<Timestamp>| time.map_or_else(|| "never".to_owned(), |time| format!("{time:.0}"));
    let lag = |seconds: Option<i64>| seconds.map_or_else(|| "-".to_owned(), in_words);
    rows.extend(feeds.iter().map(|feed| {
        [
            feed.tenant.clone(),
            feed.content_type.to_owned(),
            time(feed.last_success),
            time(feed.listed_until),
            lag(feed.lag_seconds),
            lag(feed.usual_lag_seconds),
            format!("{} {}", sparkline(&feed.records_by_hour), feed.records()),
            feed.blobs_waiting.to_string(),
            feed.blobs_failed.to_string(),
            feed.last_error.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    }));
    let mut table = aligned(&rows);
    table.push_str(&quarantine_table(feeds));
    table
}

fn quarantine_table(feeds: &[FeedStatus]) -> String {
    let blobs = || feeds.iter().flat_map(|feed| feed.quarantined.iter().map(move |blob| (feed, blob)));
    let count = blobs().count();
    if count == 0 {
        return String::new();
    }
    let mut rows = vec![["TENANT", "FEED", "SINCE", "DELIVERED", "CAUSE", "BODY"].map(str::to_owned)];
    rows.extend(blobs().take(QUARANTINED_SHOWN_MAX).map(|(feed, blob)| {
        [
            feed.tenant.clone(),
            feed.content_type.to_owned(),
            format!("{:.0}", blob.since),
            blob.records_delivered.to_string(),
            blob.cause.clone(),
            blob.body.display().to_string(),
        ]
    }));
    let mut table = format!("\nBlobs in quarantine: {count}\n{}", aligned(&rows));
    if count > QUARANTINED_SHOWN_MAX {
        let _ = writeln!(table, "… and {} more", count - QUARANTINED_SHOWN_MAX);
    }
    table
}

/// Returns the rows as text, with each column as wide as its widest cell.
pub fn aligned(rows: &[impl AsRef<[String]>]) -> String {
    let mut widths = Vec::new();
    for row in rows {
        widths.resize(row.as_ref().len(), 0);
        for (width, cell) in widths.iter_mut().zip(row.as_ref()) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut table = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.as_ref().iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        let _ = writeln!(table, "{}", line.trim_end());
    }
    table
}

/// Returns a line for each output that has dead letters.
pub fn of_dead_letters(all: &[DeadLetters]) -> String {
    let mut lines = String::new();
    for DeadLetters { output, path, count, .. } in all {
        let records = if *count == 1 { "record" } else { "records" };
        let _ = writeln!(lines, "Dead letters of output {output}: {count} {records} in {}", path.display());
    }
    lines
}

/// Returns a duration in its two largest units: `45s`, `12m`, `3h 5m`, `2d 4h`.
pub(super) fn in_words(seconds: i64) -> String {
    match seconds {
        ..60 => format!("{}s", seconds.max(0)),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed() -> FeedStatus {
        let time = |text: &str| text.parse().ok();
        FeedStatus {
            tenant: "contoso".to_owned(),
            tenant_id: "11111111-1111-4111-8111-111111111111".to_owned(),
            content_type: "Audit.Exchange",
            last_success: time("2026-11-22T10:15:00Z"),
            listed_until: time("2026-11-22T10:14:55Z"),
            lag_seconds: Some(605),
            usual_lag_seconds: Some(70),
            hours_from: "2026-11-21T11:00:00Z".parse().expect("a time of the test"),
            records_by_hour: std::array::from_fn(|hour| (hour > 20).then(|| (hour as u64 - 21) * 10)),
            failures_by_hour: [0; HOURS],
            blobs_waiting: 3,
            blobs_failed: 1,
            dead_letters: 0,
            last_error: Some("HTTP 503".to_owned()),
            quarantined: Vec::new(),
        }
    }

    #[test]
    fn aligns_the_table() {
        let never = FeedStatus {
            last_success: None,
            listed_until: None,
            lag_seconds: None,
            usual_lag_seconds: None,
            records_by_hour: [None; HOURS],
            last_error: None,
            blobs_waiting: 0,
            blobs_failed: 0,
            ..feed()
        };
        assert_eq!(
            as_table(&[feed(), never]),
            "TENANT   FEED            LAST SUCCESS          LISTED UNTIL          LAG  USUAL  RECORDS, 24 HOURS            \
             WAITING  FAILED  LAST ERROR\n\
             contoso  Audit.Exchange  2026-11-22T10:15:00Z  2026-11-22T10:14:55Z  10m  1m     ·····················▁▅█ 30  \
             3        1       HTTP 503\n\
             contoso  Audit.Exchange  never                 never                 -    -      ························ 0   \
             0        0       -\n"
        );
    }

    #[test]
    fn lists_blobs_in_quarantine_below_the_table() {
        let blob = QuarantinedBlob {
            content_id: "blob$1".to_owned(),
            since: "2026-11-22T10:15:00.123Z".parse().expect("a time of the test"),
            cause: "the answer is cut short".to_owned(),
            records_delivered: 12,
            bytes: 40_000,
            body: PathBuf::from("/state/quarantine/1.body"),
        };
        let one = FeedStatus { quarantined: vec![blob.clone()], ..feed() };
        let table = as_table(std::slice::from_ref(&one));
        let (_, below) = table.split_once("\n\n").expect("a second table");
        assert_eq!(
            below,
            "Blobs in quarantine: 1\n\
             TENANT   FEED            SINCE                 DELIVERED  CAUSE                    BODY\n\
             contoso  Audit.Exchange  2026-11-22T10:15:00Z  12         the answer is cut short  \
             /state/quarantine/1.body\n"
        );
        let read: serde_json::Value = serde_json::from_str(&as_json(&[one])).expect("an array");
        assert_eq!(read[0]["quarantined"][0]["content_id"], "blob$1");
        assert_eq!(read[0]["quarantined"][0]["records_delivered"], 12);
        let many = FeedStatus { quarantined: vec![blob; QUARANTINED_SHOWN_MAX + 2], ..feed() };
        let table = as_table(&[many]);
        assert!(table.ends_with("\n… and 2 more\n"), "{table}");
    }

    #[test]
    fn json_is_an_array_of_objects() {
        let read: Vec<serde_json::Value> =
            serde_json::from_str(&as_json(&[feed(), feed()])).expect("an array");
        assert_eq!(read.len(), 2);
        assert_eq!(read[0]["lag_seconds"], 605);
        assert_eq!(read[0]["last_success"], "2026-11-22T10:15:00Z");
        assert_eq!(as_json(&[]), "[]\n");
    }

    #[test]
    fn formats_a_lag_in_two_units() {
        let shown = [-3, 59, 60, 3_599, 3_600, 86_399, 90_000].map(in_words);
        assert_eq!(shown, ["0s", "59s", "1m", "59m", "1h 0m", "23h 59m", "1d 1h"]);
    }
}
