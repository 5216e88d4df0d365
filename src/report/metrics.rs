//! The pass in numbers for Prometheus: a file for `node_exporter`'s textfile collector, replaced at each pass's end.
//!
//! All of them are gauges: a pass counts from zero. Source of the format: "Prometheus exposition formats", text-based.

use std::{fmt::Write, fs, io, path::Path, time::Duration};

use jiff::Timestamp;

use super::{FeedReport, Summary};
use crate::{disk, exit::Exit};

const PREFIX: &str = "office365_collector_";
const LAST_SUCCESS: &str = "last_success_timestamp_seconds";
const CREDENTIAL_EXPIRY: &str = "credential_expiry_timestamp_seconds";

/// What is to be told of a pass.
#[derive(Clone, Copy, Debug)]
pub struct Metrics<'a> {
    /// When it ended.
    pub ended: Timestamp,
    /// How long it took.
    pub lasted: Duration,
    /// How it ended.
    pub exit: Exit,
    /// What it did, if it began.
    pub summary: Option<&'a Summary>,
    /// How many blobs are in quarantine, and how many bytes they take, where that can be told.
    pub quarantine: Option<(u64, u64)>,
    /// Tenants by their names, else their ids, and when their credentials expire, of those where that is known.
    pub credential_expiries: &'a [(String, Timestamp)],
}

/// A gauge of a feed: its name, what it says, and how it is read off.
type OfFeed = (&'static str, &'static str, fn(&FeedReport, Timestamp) -> Option<i64>);

/// From `blobs_listed` to `blobs_left` is the balance: the first is the sum of the others.
const OF_FEED: [OfFeed; 18] = [
    ("blobs_listed", "Blobs that the listings named.", |feed, _| count(feed.counts.listed)),
    ("blobs_known", "Listed blobs that were known.", |feed, _| count(feed.counts.known)),
    ("blobs_downloaded", "Blobs delivered to every output.", |feed, _| count(feed.counts.delivered)),
    ("blobs_failed", "Blobs that the next pass tries again.", |feed, _| count(feed.counts.failed)),
    ("blobs_expired", "Blobs that nobody can fetch any more.", |feed, _| count(feed.counts.gone)),
    ("blobs_left", "Blobs left for a later pass.", |feed, _| count(feed.counts.left)),
    ("blobs_found", "Listed blobs that were not known.", |feed, _| count(feed.counts.found())),
    ("blobs_retried", "Blobs tried more than once.", |feed, _| count(feed.counts.retried)),
    (
        "blobs_salvaged",
        "Downloaded blobs that could be read in part only and are in quarantine.",
        |feed, _| count(feed.counts.salvaged),
    ),
    ("records_saved", "Records delivered.", |feed, _| count(feed.counts.records)),
    ("records_filtered", "Records that the filter kept back.", |feed, _| count(feed.counts.filtered)),
    ("records_duplicate", "Records dropped because they came before.", |feed, _| {
        count(feed.counts.duplicates)
    }),
    (
        "records_dead_letter",
        "Records that a receiver refused and that were kept as dead letters.",
        |feed, _| count(feed.counts.dead_letters),
    ),
    ("bytes_downloaded", "Bytes of blobs, decompressed.", |feed, _| count(feed.counts.bytes)),
    ("api_requests", "Requests about this feed.", |feed, _| count(feed.counts.requests)),
    ("api_throttled", "Requests answered with too many requests.", |feed, _| count(feed.counts.throttled)),
    ("feed_lag_seconds", "How long ago the feed was listed until.", |feed, now| {
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
    /// Replaces the file, at one stroke. The time of the last success is taken over from it if this pass was none.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let before = fs::read_to_string(path).unwrap_or_default();
        let text = self.text(last_success(&before));
        disk::replace(path, 0o644, |to| to.write_all(text.as_bytes()), |_| Ok(())).map(drop)
    }

    fn text(&self, last_success_before: Option<f64>) -> String {
        let ended = self.ended.as_duration().as_secs_f64();
        let last_success = if self.exit == Exit::Complete { Some(ended) } else { last_success_before };
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
        gauge("exit_code", "The exit code of the pass.", f64::from(self.exit.code()));
        if let Some((blobs, bytes)) = self.quarantine {
            for (name, help, value) in [
                ("quarantine_blobs", "Blobs whose bodies are in quarantine.", blobs),
                ("quarantine_bytes", "Bytes that the quarantine takes.", bytes),
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
        for (name, help, read) in OF_FEED {
            head(&mut text, name, help);
            for feed in self.summary.iter().flat_map(|summary| &summary.feeds) {
                if let Some(value) = read(feed, self.ended) {
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

/// The last success that an earlier file tells of.
fn last_success(text: &str) -> Option<f64> {
    let name = format!("{PREFIX}{LAST_SUCCESS} ");
    text.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{feed::ContentType, report::Counts};

    fn metrics(exit: Exit, summary: &Summary) -> Metrics<'_> {
        let ended = Timestamp::from_second(1_800_000_000).expect("a time of the test");
        Metrics {
            ended,
            lasted: Duration::from_millis(1_500),
            exit,
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
    fn each_number_has_its_line() {
        let text = metrics(Exit::Complete, &summary()).text(None);
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
    fn a_credential_that_expires_says_when() {
        let summary = summary();
        let expiries = [("contoso".to_owned(), Timestamp::from_second(1_900_000_000).expect("a time"))];
        let metrics = Metrics { credential_expiries: &expiries, ..metrics(Exit::Complete, &summary) };
        let line = "office365_collector_credential_expiry_timestamp_seconds{tenant=\"contoso\"} 1900000000";
        assert!(metrics.text(None).lines().any(|written| written == line));
    }

    #[test]
    fn a_pass_that_fails_keeps_the_time_of_the_last_success() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("office365.prom");
        let summary = summary();
        metrics(Exit::Complete, &summary).write(&path).expect("room");
        let later = Metrics {
            ended: Timestamp::from_second(1_800_000_300).expect("a time of the test"),
            ..metrics(Exit::TryAgain, &summary)
        };
        later.write(&path).expect("room");
        let text = fs::read_to_string(&path).expect("a file");
        assert_eq!(last_success(&text), Some(1_800_000_000.0));
        assert!(text.contains("exit_code 1\n"), "{text}");
    }
}
