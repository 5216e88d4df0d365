//! What a pass did, in numbers: the `Done!` line, the balance, and the exit code.

use jiff::Timestamp;

use crate::{exit::Exit, feed::ContentType, log::ROUTINE};

/// What became of a feed's blobs. Each blob that was listed is in exactly one of the counts from `known` to `left`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Different blobs that the listings named.
    pub listed: u64,
    /// Known from an earlier pass.
    pub known: u64,
    /// Safe in every output, and known from now on.
    pub delivered: u64,
    /// To be tried again by the next pass.
    pub failed: u64,
    /// Expired or vanished: nobody can fetch them any more.
    pub gone: u64,
    /// Not tried, because the pass ended first or was a dry run.
    pub left: u64,
    /// Of all these, those that were tried more than once.
    pub retried: u64,
    /// Of those delivered, those whose bodies could not be read as a whole and are in quarantine.
    pub salvaged: u64,
    /// Records delivered.
    pub records: u64,
    /// Records dropped because their Id was delivered before.
    pub duplicates: u64,
    /// Records that the filter kept back.
    pub filtered: u64,
    /// Records that a receiver refused and that were kept as dead letters.
    pub dead_letters: u64,
    /// Bytes of blobs, decompressed.
    pub bytes: u64,
    /// Requests about the feed.
    pub requests: u64,
    /// Those of them that were answered with "too many requests".
    pub throttled: u64,
}

impl Counts {
    /// New blobs: those that were not known.
    pub fn found(&self) -> u64 {
        self.listed - self.known
    }

    /// Whether every listed blob is accounted for.
    pub fn is_balanced(&self) -> bool {
        self.listed == self.known + self.delivered + self.failed + self.gone + self.left
    }

    fn add(&mut self, other: &Self) {
        let Self {
            listed,
            known,
            delivered,
            failed,
            gone,
            left,
            retried,
            salvaged,
            records,
            duplicates,
            filtered,
            dead_letters,
            bytes,
            requests,
            throttled,
        } = other;
        self.listed += listed;
        self.known += known;
        self.delivered += delivered;
        self.failed += failed;
        self.gone += gone;
        self.left += left;
        self.retried += retried;
        self.salvaged += salvaged;
        self.records += records;
        self.duplicates += duplicates;
        self.filtered += filtered;
        self.dead_letters += dead_letters;
        self.bytes += bytes;
        self.requests += requests;
        self.throttled += throttled;
    }
}

/// What became of one feed.
#[derive(Clone, Debug)]
pub struct FeedReport {
    /// The tenant's name, else its id.
    pub tenant: String,
    /// The feed.
    pub content_type: ContentType,
    /// Its blobs.
    pub counts: Counts,
    /// Whether it was listed to the end.
    pub is_listed: bool,
    /// Up to when it is listed, by this pass or an earlier one.
    pub listed_until: Option<Timestamp>,
}

/// Why a pass ended before its work did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// `globalTimeout` is over.
    Deadline,
    /// SIGINT: somebody pressed Ctrl-C.
    Interrupted,
    /// SIGTERM: the system or the scheduler ends the program.
    Terminated,
    /// Nothing but stragglers has been left for an interval.
    Stragglers,
    /// The writer failed; its error says why.
    Writer,
}

/// What became of a pass.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Each feed of each tenant.
    pub feeds: Vec<FeedReport>,
    /// Whether at least one tenant could log in.
    pub any_login: bool,
    /// Why it ended early, if it did.
    pub stop: Option<Stop>,
}

impl Summary {
    /// All feeds' counts together.
    pub fn total(&self) -> Counts {
        let mut total = Counts::default();
        for feed in &self.feeds {
            total.add(&feed.counts);
        }
        total
    }

    /// How the pass ended, for the scheduler outside.
    pub fn exit(&self) -> Exit {
        let total = self.total();
        if self.stop == Some(Stop::Interrupted) {
            Exit::Interrupted
        } else if self.stop == Some(Stop::Terminated) {
            Exit::Terminated
        } else if !self.any_login {
            Exit::NoLogin
        } else if total.failed > 0 || self.stop.is_some() || self.feeds.iter().any(|feed| !feed.is_listed) {
            Exit::TryAgain
        } else {
            Exit::Complete
        }
    }

    /// Writes the end of the log: the `Done!` line, and with `debug` each feed's balance.
    pub fn log(&self) {
        for FeedReport { tenant, content_type, counts, .. } in &self.feeds {
            let Counts {
                listed, known, delivered, failed, gone, left, records, duplicates, filtered, ..
            } = counts;
            log::debug!(
                "Balance of {tenant} {content_type}: {listed} listed = {known} known + {delivered} delivered + \
                 {failed} failed + {gone} gone + {left} left for later"
            );
            log::debug!(
                "Records of {tenant} {content_type}: {records} saved, {duplicates} repeated and dropped, \
                 {filtered} kept back by the filter"
            );
        }
        let total = self.total();
        if total.found() == 0 && self.feeds.iter().any(|feed| feed.is_listed) {
            if self.exit() == Exit::Complete {
                log::warn!(target: ROUTINE, "No new blobs found");
            } else {
                log::warn!("No new blobs found");
            }
        }
        log::info!("{}", done(&total));
    }
}

/// `Done! Blobs found: 50 | Blobs successful: 48 | Blobs failed: 2 | Blobs retried: 5 | Logs saved: 24000`. What is
/// not out of the ordinary is left out when it is zero.
fn done(total: &Counts) -> String {
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

    fn summary(counts: Counts) -> Summary {
        let content_type = ContentType::AuditExchange;
        let feed = FeedReport {
            tenant: "contoso".to_owned(),
            content_type,
            counts,
            is_listed: true,
            listed_until: None,
        };
        Summary { feeds: vec![feed], any_login: true, stop: None }
    }

    #[test]
    fn the_done_line_is_what_alert_rules_match() {
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

    #[test]
    fn the_exit_code_says_whether_something_must_be_tried_again() {
        assert_eq!(summary(Counts::default()).exit(), Exit::Complete);
        assert_eq!(summary(Counts { gone: 1, listed: 1, ..Counts::default() }).exit(), Exit::Complete);
        assert_eq!(summary(Counts { failed: 1, listed: 1, ..Counts::default() }).exit(), Exit::TryAgain);
        assert_eq!(
            Summary { stop: Some(Stop::Deadline), ..summary(Counts::default()) }.exit(),
            Exit::TryAgain
        );
        assert_eq!(Summary { any_login: false, ..summary(Counts::default()) }.exit(), Exit::NoLogin);
    }
}
