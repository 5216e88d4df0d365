//! The result of a pass in numbers: the `Done!` line and the balance.

use std::sync::Arc;

use crate::{
    counters::counters,
    feed::ContentType,
    log::ROUTINE,
    state::{FeedProgress, Totals},
};

counters! {
    /// The numbers of a feed. Each listed blob is in exactly one of the counts from `known` to `left`.
    Counts {
        /// Distinct blobs in the listings.
        listed,
        /// Blobs known from an earlier pass.
        known,
        /// Blobs that every output has accepted; they are known from now on.
        delivered,
        /// Blobs that the next pass retries.
        failed,
        /// Blobs that have expired or disappeared: they can no longer be fetched.
        gone,
        /// Blobs that were not tried, because the pass ended first or was a dry run.
        left,
        /// Listed blobs that were tried more than once.
        retried,
        /// Delivered blobs whose bodies could not be read as a whole and are in quarantine.
        salvaged,
        /// Records delivered.
        records,
        /// Records dropped because their Id was delivered before.
        duplicates,
        /// Records that were filtered out.
        filtered,
        /// Records that a receiver rejected and that are kept as dead letters.
        dead_letters,
        /// Bytes of blobs after decompression.
        bytes,
        /// Requests about the feed.
        requests,
        /// Requests that were throttled.
        throttled,
    }
}

impl Counts {
    /// Returns the number of new blobs.
    pub fn found(&self) -> u64 {
        self.listed - self.known
    }

    /// Returns whether every listed blob is accounted for.
    pub fn is_balanced(&self) -> bool {
        self.listed == self.known + self.delivered + self.failed + self.gone + self.left
    }

    /// Returns the numbers that are summed up over all passes.
    pub fn totals(&self) -> Totals {
        Totals {
            blobs_found: self.found(),
            blobs_downloaded: self.delivered,
            blobs_failed: self.failed,
            blobs_expired: self.gone,
            blobs_salvaged: self.salvaged,
            records_saved: self.records,
            records_filtered: self.filtered,
            records_duplicate: self.duplicates,
            records_dead_letter: self.dead_letters,
            bytes_downloaded: self.bytes,
            api_requests: self.requests,
            api_throttled: self.throttled,
        }
    }
}

/// The result of a pass for one feed.
#[derive(Clone, Debug)]
pub struct FeedReport {
    /// The tenant's name, else its id.
    pub tenant: Arc<str>,
    /// The tenant's GUID.
    pub tenant_id: Arc<str>,
    /// The feed.
    pub content_type: ContentType,
    /// The numbers of its blobs, records and requests.
    pub counts: Counts,
    /// Whether the feed was listed to the end.
    pub is_listed: bool,
    /// What the state remembers of the feed after this pass.
    pub progress: Arc<FeedProgress>,
}

/// Why a pass ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// `globalTimeout` is over.
    Deadline,
    /// SIGINT, for example by Ctrl-C.
    Interrupted,
    /// SIGTERM, for example by systemd.
    Terminated,
    /// Only stragglers were left for an interval.
    Stragglers,
    /// Every output failed.
    Writer,
    /// The state failed.
    State,
}

/// The result of a pass.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Each feed of each tenant.
    pub feeds: Vec<FeedReport>,
    /// Whether at least one tenant has logged in.
    pub any_login: bool,
    /// Why the pass ended early, if it did.
    pub stop: Option<Stop>,
}

impl Summary {
    /// Returns the sums over all feeds.
    pub fn total(&self) -> Counts {
        self.feeds.iter().fold(Counts::default(), |total, feed| total.plus(feed.counts))
    }

    /// Returns whether nothing is left for the next pass.
    pub fn is_complete(&self) -> bool {
        let is_done = |feed: &FeedReport| feed.is_listed && feed.counts.failed == 0;
        self.any_login && self.stop.is_none() && self.feeds.iter().all(is_done)
    }

    /// Logs the `Done!` line and, on level debug, the balance of each feed.
    pub fn log(&self) {
        for FeedReport { tenant, content_type, counts, .. } in &self.feeds {
            let Counts {
                listed, known, delivered, failed, gone, left, records, duplicates, filtered, ..
            } = counts;
            let (tenant, feed) = (&**tenant, content_type.name());
            log::debug!(
                tenant, feed;
                "Balance of {tenant} {content_type}: {listed} listed = {known} known + {delivered} delivered + \
                 {failed} failed + {gone} gone + {left} left for later"
            );
            log::debug!(
                tenant, feed;
                "Records of {tenant} {content_type}: {records} saved, {duplicates} repeated and dropped, \
                 {filtered} filtered out"
            );
        }
        let total = self.total();
        if total.found() == 0 && self.feeds.iter().any(|feed| feed.is_listed) {
            if self.is_complete() {
                log::warn!(target: ROUTINE, "No new blobs found");
            } else {
                log::warn!("No new blobs found");
            }
        }
        log::info!("{}", done(&total));
    }
}

/// Returns `Done! Blobs found: 50 | Blobs successful: 48 | Blobs failed: 2 | Blobs retried: 5 | Logs saved: 24000`. Most
/// fields are omitted if they are zero.
fn done(total: &Counts) -> String {
    // Whether the field is always shown, its name and its value.
    let fields = [
        (true, "Blobs found", total.found()),
        (true, "Blobs successful", total.delivered),
        (false, "Blobs failed", total.failed),
        (false, "Blobs retried", total.retried),
        (true, "Logs saved", total.records),
        (false, "Logs filtered", total.filtered),
        (false, "Blobs salvaged", total.salvaged),
        (false, "Blobs gone", total.gone),
        (false, "Blobs left for later", total.left),
    ];
    let shown = fields.iter().filter(|(always, _, count)| *always || *count > 0);
    let shown: Vec<String> = shown.map(|(_, name, count)| format!("{name}: {count}")).collect();
    format!("Done! {}", shown.join(" | "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn done_line_matches_alert_rules() {
        let fine = Counts { listed: 60, known: 10, delivered: 50, records: 25_000, ..Counts::default() };
        assert_eq!(done(&fine), "Done! Blobs found: 50 | Blobs successful: 50 | Logs saved: 25000");
        let troubled = Counts { delivered: 48, failed: 2, retried: 5, records: 24_000, ..fine };
        assert_eq!(
            done(&troubled),
            "Done! Blobs found: 50 | Blobs successful: 48 | Blobs failed: 2 | Blobs retried: 5 | Logs saved: 24000"
        );
        assert!(fine.is_balanced() && troubled.is_balanced());
        let odd = Counts { gone: 1, left: 3, filtered: 7, salvaged: 2, ..troubled };
        assert_eq!(
            done(&odd),
            format!(
                "{} | Logs filtered: 7 | Blobs salvaged: 2 | Blobs gone: 1 | Blobs left for later: 3",
                done(&troubled)
            )
        );
    }
}
