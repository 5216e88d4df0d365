//! The blobs of a pass, each of them in exactly one state.
//!
//! ```text
//! carried over ─▶ known
//!      │            ▲
//!      ▼            │
//!    listed ────────┴▶ pending ─▶ in flight ─▶ delivered, failed, gone, or left for later
//! ```
//!
//! The fields are private, and each method moves a blob from one state to the next. A feed's number of listed blobs is not
//! counted but is the sum of the others, so `listed = known + delivered + failed + gone + left` cannot be broken: at the
//! end of the pass [`Books::close`] settles what is in flight, and asserts that no blob is left without an end.

use std::collections::{HashMap, HashSet};

use crate::{
    delivery::{OutputSet, PendingBlob},
    feed::ListedBlob,
    pass::{
        feeds::{FeedIndex, Feeds},
        writer::CommittedBlob,
    },
    report::Counts,
    state::{BlobKey, KnownBlobs, StateError},
};

/// The blobs of a pass and what became of them.
pub(super) struct Books<'a> {
    feeds: &'a Feeds,
    /// From earlier passes.
    known: KnownBlobs,
    /// Every blob that this pass has listed.
    listed: HashSet<BlobKey>,
    /// Blobs that a pool thread or the writer has, or that wait for another try. The writer may commit a blob before the
    /// thread that sent it reports its download.
    in_flight: HashMap<BlobKey, InFlight>,
    by_feed: Vec<FeedBooks>,
    /// Blobs that earlier passes have listed and not delivered, until this pass lists them.
    carried_over: HashMap<FeedIndex, HashMap<BlobKey, PendingBlob>>,
    /// Of all feeds: blobs delivered, blobs found, records.
    sums: (u64, u64, u64),
    /// Blobs that not every output has.
    undelivered: Vec<(FeedIndex, PendingBlob)>,
}

#[derive(Default)]
struct FeedBooks {
    /// Without `listed`, which is the sum of the states.
    counts: Counts,
    /// Listed blobs that are pending or in flight.
    open: u64,
}

/// A blob between its first download and its end.
pub(super) struct InFlight {
    pub feed: FeedIndex,
    pub pending: PendingBlob,
    /// Whether the writer has it.
    pub is_downloaded: bool,
}

/// The state of a blob that a page of a listing names.
#[derive(Debug)]
pub(super) enum Listed {
    /// This pass has listed it before.
    Before,
    /// It is older than what is collected.
    Unwanted,
    /// An earlier pass has delivered it, or it is gone.
    Known,
    /// It is to be downloaded.
    Pending(PendingBlob),
}

/// The end of a blob in this pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Delivered,
    Failed,
    Gone,
    Left,
}

impl<'a> Books<'a> {
    pub(super) fn new(feeds: &'a Feeds, known: KnownBlobs) -> Self {
        Self {
            feeds,
            known,
            listed: HashSet::new(),
            in_flight: HashMap::new(),
            by_feed: feeds.feeds().map(|_| FeedBooks::default()).collect(),
            carried_over: HashMap::new(),
            sums: (0, 0, 0),
            undelivered: Vec::new(),
        }
    }

    /// Adds a blob that an earlier pass has listed and not delivered.
    pub(super) fn carry_over(&mut self, feed: FeedIndex, pending: PendingBlob) {
        let key = self.feeds.key(feed, &pending.blob);
        self.carried_over.entry(feed).or_default().insert(key, pending);
    }

    /// Returns the number of different blobs that this pass has listed.
    pub(super) fn listed_len(&self) -> usize {
        self.listed.len()
    }

    /// Adds a blob that a listing names. A blob that was carried over keeps its history.
    ///
    /// # Errors
    ///
    /// The known blobs cannot be read. Then the blob does not count as listed.
    pub(super) fn list(
        &mut self,
        feed: FeedIndex,
        blob: ListedBlob,
        is_wanted: bool,
    ) -> Result<Listed, StateError> {
        let key = self.feeds.key(feed, &blob);
        if !self.listed.insert(key) {
            return Ok(Listed::Before);
        }
        if !is_wanted {
            return Ok(Listed::Unwanted);
        }
        let (tenant, content_type) = self.feeds.feed(feed);
        let looked_up = self.known.contains(&tenant.tenant_id, content_type, &blob.content_id);
        let is_known = looked_up.inspect_err(|_| {
            self.listed.remove(&key);
        })?;
        let books = &mut self.by_feed[feed.place()];
        let before = self.carried_over.get_mut(&feed).and_then(|of_feed| of_feed.remove(&key));
        if is_known {
            books.counts.known += 1;
            return Ok(Listed::Known);
        }
        books.open += 1;
        self.sums.1 += 1;
        Ok(Listed::Pending(match before {
            Some(before) => PendingBlob { blob, ..before },
            None => PendingBlob { blob, delivered_to: OutputSet::EMPTY, has_failed: false, failed_passes: 0 },
        }))
    }

    /// Returns the blobs that were carried over and that no listing named. From now on they count as listed.
    pub(super) fn list_carried_over(&mut self, feed: FeedIndex) -> Vec<PendingBlob> {
        let books = &mut self.by_feed[feed.place()];
        let carried_over = self.carried_over.remove(&feed).unwrap_or_default();
        books.open += carried_over.len() as u64;
        self.sums.1 += carried_over.len() as u64;
        self.listed.extend(carried_over.keys());
        carried_over.into_values().collect()
    }

    /// Settles the blobs that were carried over and have expired, and returns them.
    pub(super) fn expire(
        &mut self,
        feed: FeedIndex,
        is_expired: impl Fn(&PendingBlob) -> bool,
    ) -> Vec<PendingBlob> {
        let books = &mut self.by_feed[feed.place()];
        let Some(carried_over) = self.carried_over.get_mut(&feed) else { return Vec::new() };
        let expired: Vec<_> = carried_over.extract_if(|_, pending| is_expired(pending)).collect();
        books.counts.gone += expired.len() as u64;
        self.sums.1 += expired.len() as u64;
        self.listed.extend(expired.iter().map(|(key, _)| *key));
        expired.into_iter().map(|(_, pending)| pending).collect()
    }

    /// Records that a pool thread downloads the blob.
    pub(super) fn download(&mut self, feed: FeedIndex, pending: &PendingBlob) {
        let in_flight = InFlight { feed, pending: pending.clone(), is_downloaded: false };
        self.in_flight.insert(self.feeds.key(feed, &pending.blob), in_flight);
    }

    /// Records that the writer has the blob.
    pub(super) fn downloaded(&mut self, feed: FeedIndex, pending: &PendingBlob, bytes: usize) {
        self.by_feed[feed.place()].counts.bytes += bytes as u64;
        let key = self.feeds.key(feed, &pending.blob);
        if let Some(in_flight) = self.in_flight.get_mut(&key) {
            in_flight.is_downloaded = true;
        }
    }

    /// Records that the writer has committed the blob. Returns its feed and the blob if every output has it.
    pub(super) fn commit(&mut self, committed: &CommittedBlob) -> Option<(FeedIndex, PendingBlob)> {
        let InFlight { feed, pending, .. } = self.in_flight.remove(&committed.key)?;
        let counts = &mut self.by_feed[feed.place()].counts;
        counts.records += committed.records;
        self.sums.2 += committed.records;
        counts.duplicates += committed.duplicates;
        counts.filtered += committed.filtered;
        counts.dead_letters += committed.dead_letters;
        if committed.is_complete {
            counts.salvaged += u64::from(committed.salvaged.is_some());
            self.settle(feed, End::Delivered);
            return Some((feed, pending));
        }
        self.fail(feed, PendingBlob { delivered_to: committed.has, ..pending });
        None
    }

    /// Settles a blob that failed. The next pass tries it again.
    pub(super) fn fail(&mut self, feed: FeedIndex, pending: PendingBlob) {
        self.keep(feed, PendingBlob { has_failed: true, ..pending }, End::Failed);
    }

    /// Settles a blob that was left for later, which is not a failure. The next pass tries it.
    pub(super) fn leave(&mut self, feed: FeedIndex, pending: PendingBlob) {
        self.keep(feed, PendingBlob { has_failed: false, ..pending }, End::Left);
    }

    /// Settles a blob that this pass only lists.
    pub(super) fn leave_listed(&mut self, feed: FeedIndex) {
        self.settle(feed, End::Left);
    }

    /// Settles a blob that can no longer be fetched.
    pub(super) fn lose(&mut self, feed: FeedIndex, pending: &PendingBlob) {
        self.in_flight.remove(&self.feeds.key(feed, &pending.blob));
        self.settle(feed, End::Gone);
    }

    fn keep(&mut self, feed: FeedIndex, pending: PendingBlob, end: End) {
        self.in_flight.remove(&self.feeds.key(feed, &pending.blob));
        self.settle(feed, end);
        self.undelivered.push((feed, pending));
    }

    fn settle(&mut self, feed: FeedIndex, end: End) {
        let FeedBooks { counts, open } = &mut self.by_feed[feed.place()];
        *open = open.checked_sub(1).expect("a blob has one end");
        self.sums.0 += u64::from(end == End::Delivered);
        *match end {
            End::Delivered => &mut counts.delivered,
            End::Failed => &mut counts.failed,
            End::Gone => &mut counts.gone,
            End::Left => &mut counts.left,
        } += 1;
    }

    /// Counts a request about the feed.
    pub(super) fn count_request(&mut self, feed: FeedIndex) {
        self.by_feed[feed.place()].counts.requests += 1;
    }

    /// Counts an answer "too many requests" to a request about the feed.
    pub(super) fn count_throttled(&mut self, feed: FeedIndex) {
        self.by_feed[feed.place()].counts.throttled += 1;
    }

    /// Counts a blob that is tried a second time.
    pub(super) fn count_retried(&mut self, feed: FeedIndex) {
        self.by_feed[feed.place()].counts.retried += 1;
    }

    /// Returns the feed's counts so far, balanced if no blob is open.
    pub(super) fn counts(&self, feed: FeedIndex) -> Counts {
        let FeedBooks { counts, open } = &self.by_feed[feed.place()];
        let Counts { known, delivered, failed, gone, left, .. } = *counts;
        Counts { listed: known + delivered + failed + gone + left + open, ..*counts }
    }

    /// Returns the counts of all feeds so far: blobs delivered, blobs found, records.
    pub(super) fn sums(&self) -> (u64, u64, u64) {
        self.sums
    }

    /// Removes and returns the blobs that are in flight, for the caller to settle.
    pub(super) fn drain_in_flight(&mut self) -> Vec<InFlight> {
        self.in_flight.drain().map(|(_, in_flight)| in_flight).collect()
    }

    /// Blobs that not every output has. Blobs that were carried over and not listed are not among them.
    pub(super) fn undelivered(&self) -> impl Iterator<Item = (FeedIndex, &PendingBlob)> {
        self.undelivered.iter().map(|(feed, pending)| (*feed, pending))
    }

    /// Ends the books. Returns every blob that the next pass has to try.
    pub(super) fn close(self) -> Vec<(FeedIndex, PendingBlob)> {
        let mut pending = self.undelivered;
        for (feed, books) in self.feeds.feeds().zip(self.by_feed) {
            assert_eq!(books.open, 0, "every listed blob of {} has an end", self.feeds.label(feed));
        }
        for (feed, not_listed) in self.carried_over {
            let not_listed = not_listed.into_values();
            pending.extend(not_listed.map(|pending| (feed, PendingBlob { has_failed: true, ..pending })));
        }
        pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        feed::ContentType,
        pass::scheduler::tests::{blobs, feeds},
    };

    #[test]
    fn counts_are_balanced_after_every_step() {
        let feeds = feeds(1, &[ContentType::DlpAll]);
        let feed = feeds.feeds().next().expect("a feed");
        let mut books = Books::new(&feeds, KnownBlobs::default());
        let balanced = |books: &Books<'_>, listed| {
            let Counts { known, delivered, failed, gone, left, .. } = books.counts(feed);
            assert_eq!(books.counts(feed).listed, listed);
            known + delivered + failed + gone + left
        };
        let mut pending = Vec::new();
        for blob in blobs("a", 4) {
            let Ok(Listed::Pending(blob)) = books.list(feed, blob, true) else { panic!("a new blob") };
            pending.push(blob);
        }
        assert!(matches!(books.list(feed, blobs("a", 1).remove(0), true), Ok(Listed::Before)));
        assert!(matches!(books.list(feed, blobs("old", 1).remove(0), false), Ok(Listed::Unwanted)));
        assert_eq!(balanced(&books, 4), 0);
        let [gone, failed, left, delivered] = pending.try_into().expect("four blobs");
        books.lose(feed, &gone);
        books.fail(feed, failed);
        books.leave(feed, left);
        books.download(feed, &delivered);
        assert_eq!(balanced(&books, 4), 3);
        for in_flight in books.drain_in_flight() {
            books.fail(in_flight.feed, in_flight.pending);
        }
        assert_eq!(balanced(&books, 4), 4);
        let mut has_failed: Vec<_> = books.close().into_iter().map(|(_, blob)| blob.has_failed).collect();
        has_failed.sort_unstable();
        assert_eq!(has_failed, [false, true, true]);
    }

    #[test]
    #[should_panic(expected = "a blob has one end")]
    fn blob_cannot_end_twice() {
        let feeds = feeds(1, &[ContentType::DlpAll]);
        let feed = feeds.feeds().next().expect("a feed");
        let mut books = Books::new(&feeds, KnownBlobs::default());
        let Ok(Listed::Pending(blob)) = books.list(feed, blobs("a", 1).remove(0), true) else {
            panic!("a new blob")
        };
        books.fail(feed, blob.clone());
        books.leave(feed, blob);
    }
}
