//! The metrics of a pass: a file for `node_exporter`'s textfile collector, replaced at the end of each pass.
//!
//! All metrics are gauges, because each pass counts from zero. Source of the format: "Prometheus exposition formats",
//! text-based format.

use std::{fmt::Write, fs, path::Path, time::Duration};

use jiff::Timestamp;

use super::{FeedReport, Summary};
use crate::disk::{self, FileContext, FileError};

const PREFIX: &str = "office365_collector_";
const LAST_SUCCESS: &str = "last_success_timestamp_seconds";
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
    /// The number of blobs in quarantine and the size of their files in bytes, if known.
    pub quarantine: Option<(u64, u64)>,
    /// The tenants whose credentials expire at a known time, by name or else id.
    pub credential_expiries: &'a [(String, Timestamp)],
}

/// The name, the help text and the value of a gauge.
type FeedGauge = (&'static str, &'static str, fn(&FeedReport, Timestamp) -> Option<i64>);

/// The gauges of a feed. `blobs_listed` is the sum of the following ones up to `blobs_left`.
const FEED_GAUGES: [FeedGauge; 18] = [
    ("blobs_listed", "Distinct blobs in the listings.", |feed, _| count(feed.counts.listed)),
    ("blobs_known", "Listed blobs known from an earlier pass.", |feed, _| count(feed.counts.known)),
    ("blobs_downloaded", "Blobs delivered to every output.", |feed, _| count(feed.counts.delivered)),
    ("blobs_failed", "Blobs that the next pass tries again.", |feed, _| count(feed.counts.failed)),
    ("blobs_expired", "Blobs that can no longer be fetched.", |feed, _| count(feed.counts.gone)),
    ("blobs_left", "Blobs left for a later pass.", |feed, _| count(feed.counts.left)),
    ("blobs_found", "Listed blobs that were not known.", |feed, _| count(feed.counts.found())),
    ("blobs_retried", "Blobs tried more than once.", |feed, _| count(feed.counts.retried)),
    (
        "blobs_salvaged",
        "Downloaded blobs that could be read in part only and are in quarantine.",
        |feed, _| count(feed.counts.salvaged),
    ),
    ("records_saved", "Records delivered.", |feed, _| count(feed.counts.records)),
    ("records_filtered", "Records that were filtered out.", |feed, _| count(feed.counts.filtered)),
    ("records_duplicate", "Records dropped because their Id was delivered before.", |feed, _| {
        count(feed.counts.duplicates)
    }),
    (
        "records_dead_letter",
        "Records that a receiver rejected and that are kept as dead letters.",
        |feed, _| count(feed.counts.dead_letters),
    ),
    ("bytes_downloaded", "Bytes of blobs after decompression.", |feed, _| count(feed.counts.bytes)),
    ("api_requests", "Requests about this feed.", |feed, _| count(feed.counts.requests)),
    ("api_throttled", "Requests that were throttled.", |feed, _| count(feed.counts.throttled)),
    ("feed_lag_seconds", "Age of the newest listed content.", |feed, now| {
        Some(now.as_second() - feed.listed_until?.as_second())
    }),
    ("listed_until_timestamp_seconds", "Up to when the feed is listed.", |feed, _| {
        Some(feed.listed_until?.as_second())
    }),
];

fn count(count: u64) -> Option<i64> {
    i64::try_from(count).ok()
}

impl Metrics<'_> {
    /// Replaces the file. If the pass did not succeed, the time of the last success is copied from the old file.
    pub fn write(&self, path: &Path) -> Result<(), FileError> {
        let before = fs::read_to_string(path).unwrap_or_default();
        let text = self.text(last_success(&before));
        disk::replace_with(path, 0o644, text.as_bytes()).map(drop).context("write metrics.path", path)
    }

    fn text(&self, last_success_before: Option<f64>) -> String {
        let ended = self.ended.as_duration().as_secs_f64();
        let last_success = if self.exit_code == 0 { Some(ended) } else { last_success_before };
        let mut text = String::new();
        let mut gauge = |name: &str, help: &str, value: f64| {
            head(&mut text, name, help);
            let _ = writeln!(text, "{PREFIX}{name} {value}");
        };
        gauge("last_run_timestamp_seconds", "When the last pass ended.", ended);
        if let Some(last_success) = last_success {
            gauge(LAST_SUCCESS, "When the last complete pass ended.", last_success);
        }
        gauge("pass_duration_seconds", "How long the pass took.", self.lasted.as_secs_f64());
        gauge("exit_code", "The exit code of the pass.", f64::from(self.exit_code));
        if let Some((blobs, bytes)) = self.quarantine {
            for (name, help, value) in [
                ("quarantine_blobs", "Blobs whose bodies are in quarantine.", blobs),
                ("quarantine_bytes", "Size of the files in quarantine.", bytes),
            ] {
                head(&mut text, name, help);
                let _ = writeln!(text, "{PREFIX}{name} {value}");
            }
        }
        if !self.credential_expiries.is_empty() {
            head(&mut text, CREDENTIAL_EXPIRY, "When the tenant's certificate expires.");
        }
        for (tenant, expiry) in self.credential_expiries {
            let (tenant, expiry) = (escaped(tenant), expiry.as_second());
            let _ = writeln!(text, "{PREFIX}{CREDENTIAL_EXPIRY}{{tenant=\"{tenant}\"}} {expiry}");
        }
        for (name, help, value_of) in FEED_GAUGES {
            head(&mut text, name, help);
            for feed in self.summary.iter().flat_map(|summary| &summary.feeds) {
                if let Some(value) = value_of(feed, self.ended) {
                    let (tenant, content_type) = (escaped(&feed.tenant), feed.content_type);
                    let _ = writeln!(
                        text,
                        "{PREFIX}{name}{{tenant=\"{tenant}\",content_type=\"{content_type}\"}} {value}"
                    );
                }
            }
        }
        text
    }
}

fn head(text: &mut String, name: &str, help: &str) {
    let _ = writeln!(text, "# HELP {PREFIX}{name} {help}\n# TYPE {PREFIX}{name} gauge");
}

fn escaped(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Returns the time of the last success in an earlier file.
fn last_success(text: &str) -> Option<f64> {
    let name = format!("{PREFIX}{LAST_SUCCESS} ");
    text.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{feed::ContentType, report::Counts};

    fn metrics(exit_code: u8, summary: &Summary) -> Metrics<'_> {
        let ended = Timestamp::from_second(1_800_000_000).expect("a time of the test");
        Metrics {
            ended,
            lasted: Duration::from_millis(1_500),
            exit_code,
            summary: Some(summary),
            quarantine: Some((2, 3_000)),
            credential_expiries: &[],
        }
    }

    fn summary() -> Summary {
        let counts = Counts { listed: 3, known: 1, delivered: 2, records: 40, ..Counts::default() };
        let listed_until = Timestamp::from_second(1_799_999_940).ok();
        let (tenant, content_type) = ("a \"b\"".to_owned(), ContentType::DlpAll);
        let feed = FeedReport { tenant, content_type, counts, is_listed: true, listed_until };
        Summary { feeds: vec![feed], any_login: true, stop: None }
    }

    #[test]
    fn each_gauge_has_a_line() {
        let text = metrics(0, &summary()).text(None);
        for line in [
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
        ] {
            assert!(text.lines().any(|written| written == line), "no {line} in {text}");
        }
    }

    #[test]
    fn a_credential_has_a_gauge_of_its_expiry() {
        let summary = summary();
        let expiries = [("contoso".to_owned(), Timestamp::from_second(1_900_000_000).expect("a time"))];
        let metrics = Metrics { credential_expiries: &expiries, ..metrics(0, &summary) };
        let line = "office365_collector_credential_expiry_timestamp_seconds{tenant=\"contoso\"} 1900000000";
        assert!(metrics.text(None).lines().any(|written| written == line));
    }

    #[test]
    fn a_pass_that_fails_keeps_the_time_of_the_last_success() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("office365.prom");
        let summary = summary();
        metrics(0, &summary).write(&path).expect("room");
        let later = Metrics {
            ended: Timestamp::from_second(1_800_000_300).expect("a time of the test"),
            ..metrics(1, &summary)
        };
        later.write(&path).expect("room");
        let text = fs::read_to_string(&path).expect("a file");
        assert_eq!(last_success(&text), Some(1_800_000_000.0));
        assert!(text.contains("exit_code 1\n"), "{text}");
    }
}
