//! What runs next: the attempts of each tenant, and the order in which tenants and attempts run.
//!
//! Tenants take turns, one attempt each. Only a tenant's first turn has several attempts, so that a tenant with nothing new
//! needs no other one: no more tenants are at work at the same time than it takes to keep all threads busy. A tenant that
//! has nothing to run, or may not run it yet, leaves the round, until [`Queue::wake`] or the time of
//! [`Queue::sleep_until`] brings it back.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    iter::repeat_n,
    time::Instant,
};

use jiff::Timestamp;

use super::Attempt;
use crate::{
    delivery::PendingBlob,
    feed::ContentType,
    limits::{CONTENT_ID_BYTES_MAX, CONTENT_URI_BYTES_MAX},
    pass::{
        feeds::{Feeds, TenantIndex},
        worker::Task,
    },
};

/// The number of attempts of a tenant's first turn: a login, a list of subscriptions, and two windows of each feed.
pub(super) const FIRST_TURN_ATTEMPTS: usize = 2 + 2 * ContentType::ALL.len();

/// The number of pending downloads at which a tenant that has some lists no further page.
pub(super) const PENDING_BLOBS_MAX: usize = 10_000;

/// The number of a page's blobs that are accepted even then. For the others the page is listed again.
pub(super) const PAGE_BLOBS_MIN: usize = 1_000;

/// The size of pending downloads with the same effect: a `contentUri` can be long.
pub(super) const PENDING_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The size of a page's blobs that are accepted even then.
pub(super) const PAGE_BYTES_MIN: usize = 1024 * 1024;

const _: () =
    assert!(CONTENT_URI_BYTES_MAX + CONTENT_ID_BYTES_MAX < PAGE_BYTES_MIN, "a page brings at least one blob");

/// The attempts that are waiting, and the number of those that are running.
pub(super) struct Queue<'a> {
    feeds: &'a Feeds,
    /// The maximum number of attempts that run at a time.
    threads: usize,
    running: usize,
    tenants: Vec<TenantQueue>,
    /// Tenants that may have something to run now, and whose first turn has begun and not ended. They come before the round.
    first_turns: VecDeque<TenantIndex>,
    /// The other tenants that may have something to run now.
    round: VecDeque<TenantIndex>,
    /// Tenants that return to the round at that time.
    sleeping: BinaryHeap<Reverse<(Instant, TenantIndex)>>,
    /// Attempts that wait for their time.
    later: BinaryHeap<Reverse<Ordered<(Instant, u64)>>>,
    /// Attempts that wait for their tenant's turn.
    waiting: usize,
    /// The downloads among them.
    downloads: Downloads,
    /// The number of attempts so far, which makes their order total.
    sequence: u64,
}

/// A turn of a tenant.
#[derive(Clone, Copy)]
pub(super) enum Turn {
    /// Its first one, which has begun.
    First,
    /// Any other, or the beginning of the first one.
    Other,
}

/// The downloads that wait for their turn.
#[derive(Default)]
struct Downloads {
    number: usize,
    /// What their blobs take in memory.
    bytes: usize,
}

impl Downloads {
    fn add(&mut self, pending: &PendingBlob) {
        self.number += 1;
        self.bytes += pending.blob.bytes();
    }

    fn remove(&mut self, task: &Task) {
        if let Task::Download(_, pending) = task {
            self.number -= 1;
            self.bytes -= pending.blob.bytes();
        }
    }

    fn are_many(&self) -> bool {
        self.number >= PENDING_BLOBS_MAX || self.bytes >= PENDING_BYTES_MAX
    }
}

/// What is accepted of the blobs of one page.
pub(super) struct PageRoom {
    number: usize,
    bytes: usize,
}

impl PageRoom {
    /// Returns whether no further blob is accepted.
    pub(super) fn is_used_up(&self) -> bool {
        self.number == 0 || self.bytes == 0
    }

    /// Accepts a blob.
    pub(super) fn accept(&mut self, pending: &PendingBlob) {
        self.number = self.number.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(pending.blob.bytes());
    }
}

#[derive(Default)]
struct TenantQueue {
    is_in_round: bool,
    /// The attempts that are left of its first turn.
    first_turn: usize,
    running: usize,
    /// Its attempts that wait for their time.
    later: usize,
    subscriptions: VecDeque<Attempt>,
    pages: VecDeque<Attempt>,
    /// New blobs before those that an earlier pass failed to collect, so that a blob that fails at every pass does not delay
    /// them; then the oldest first.
    downloads: BinaryHeap<Reverse<Ordered<(bool, Timestamp, u64)>>>,
}

/// An attempt and its place in the order.
struct Ordered<Order> {
    order: Order,
    attempt: Attempt,
}

impl<Order: Ord> PartialEq for Ordered<Order> {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl<Order: Ord> Eq for Ordered<Order> {}

impl<Order: Ord> PartialOrd for Ordered<Order> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<Order: Ord> Ord for Ordered<Order> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order.cmp(&other.order)
    }
}

/// Removes the first attempt. A queue that becomes empty frees its memory: most tenants have nothing to run most of the time.
fn pop_front(queue: &mut VecDeque<Attempt>) -> Option<Attempt> {
    let attempt = queue.pop_front();
    if queue.is_empty() {
        *queue = VecDeque::new();
    }
    attempt
}

impl<'a> Queue<'a> {
    /// Returns an empty queue.
    pub(super) fn new(feeds: &'a Feeds, threads: usize) -> Self {
        let tenant = |_| TenantQueue { first_turn: FIRST_TURN_ATTEMPTS, ..TenantQueue::default() };
        Self {
            feeds,
            threads,
            running: 0,
            tenants: feeds.tenants().map(tenant).collect(),
            first_turns: VecDeque::new(),
            round: VecDeque::new(),
            sleeping: BinaryHeap::new(),
            later: BinaryHeap::new(),
            waiting: 0,
            downloads: Downloads::default(),
            sequence: 0,
        }
    }

    /// Adds an attempt that runs as soon as its tenant's turn comes.
    pub(super) fn push(&mut self, attempt: Attempt) {
        let tenant = attempt.task.tenant(self.feeds);
        self.sequence += 1;
        self.waiting += 1;
        let queue = &mut self.tenants[tenant.place()];
        match &attempt.task {
            Task::ListSubscriptions(_) => {
                queue.subscriptions.reserve_exact(1); // every tenant begins with one
                queue.subscriptions.push_back(attempt);
            }
            Task::Subscribe(_) => queue.subscriptions.push_back(attempt),
            Task::ListPage(..) => queue.pages.push_back(attempt),
            Task::Download(_, pending) => {
                self.downloads.add(pending);
                let is_repeated = pending.has_failed || !pending.delivered_to.is_empty();
                let order = (is_repeated, pending.blob.created, self.sequence);
                queue.downloads.push(Reverse(Ordered { order, attempt }));
            }
        }
        self.wake(tenant);
    }

    /// Adds an attempt that waits for its time before it waits for its turn.
    pub(super) fn push_later(&mut self, attempt: Attempt, at: Instant) {
        self.sequence += 1;
        self.tenants[attempt.task.tenant(self.feeds).place()].later += 1;
        self.later.push(Reverse(Ordered { order: (at, self.sequence), attempt }));
    }

    /// Removes and returns the attempts whose time has come, and wakes the tenants whose time has come.
    pub(super) fn drain_due(&mut self, now: Instant) -> Vec<Attempt> {
        let mut due = Vec::new();
        while self.later.peek().is_some_and(|Reverse(later)| later.order.0 <= now) {
            due.extend(self.later.pop().map(|Reverse(later)| later.attempt));
        }
        self.count_off_later(&due);
        while self.sleeping.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            if let Some(Reverse((_, tenant))) = self.sleeping.pop() {
                self.wake(tenant);
            }
        }
        due
    }

    /// Returns when an attempt or a tenant next becomes due.
    pub(super) fn next_at(&self) -> Option<Instant> {
        let later = self.later.peek().map(|Reverse(later)| later.order.0);
        let sleeping = self.sleeping.peek().map(|Reverse((at, _))| *at);
        later.into_iter().chain(sleeping).min()
    }

    /// Puts a tenant at the end of the round, if it is not in it.
    pub(super) fn wake(&mut self, tenant: TenantIndex) {
        let queue = &mut self.tenants[tenant.place()];
        if queue.is_in_round {
            return;
        }
        queue.is_in_round = true;
        if (1..FIRST_TURN_ATTEMPTS).contains(&queue.first_turn) {
            self.first_turns.push_back(tenant);
        } else {
            self.round.push_back(tenant);
        }
    }

    /// Wakes the tenant at that time.
    pub(super) fn sleep_until(&mut self, tenant: TenantIndex, at: Instant) {
        self.sleeping.push(Reverse((at, tenant)));
    }

    /// Returns a turn for each tenant in the round, the first turns that have begun before the others.
    pub(super) fn turns(&self) -> impl Iterator<Item = Turn> + use<> {
        repeat_n(Turn::First, self.first_turns.len()).chain(repeat_n(Turn::Other, self.round.len()))
    }

    /// Removes the next tenant from the round.
    pub(super) fn pop_tenant(&mut self, turn: Turn) -> Option<TenantIndex> {
        let tenants = match turn {
            Turn::First => &mut self.first_turns,
            Turn::Other => &mut self.round,
        };
        let tenant = tenants.pop_front()?;
        self.tenants[tenant.place()].is_in_round = false;
        Some(tenant)
    }

    /// Removes a tenant's next attempt: about subscriptions first, which everything else waits for, then pages, then
    /// downloads. While many blobs wait for their download, no page is listed, so that a backlog costs no memory; but the
    /// backlog of another tenant does not count.
    pub(super) fn pop(&mut self, tenant: TenantIndex) -> Option<Attempt> {
        let may_list = !self.downloads.are_many();
        let queue = &mut self.tenants[tenant.place()];
        let may_list = may_list || queue.downloads.is_empty();
        let attempt = pop_front(&mut queue.subscriptions);
        let attempt = attempt.or_else(|| if may_list { pop_front(&mut queue.pages) } else { None });
        let attempt = attempt.or_else(|| {
            let Reverse(download) = queue.downloads.pop()?;
            self.downloads.remove(&download.attempt.task);
            Some(download.attempt)
        })?;
        self.waiting -= 1;
        Some(attempt)
    }

    /// Counts an attempt of the tenant that starts, and puts the tenant at the end of the round.
    pub(super) fn start(&mut self, tenant: TenantIndex) {
        self.running += 1;
        let queue = &mut self.tenants[tenant.place()];
        queue.running += 1;
        queue.first_turn = queue.first_turn.saturating_sub(1);
        self.wake(tenant);
    }

    /// Counts an attempt of the tenant that has ended.
    pub(super) fn end(&mut self, tenant: TenantIndex) {
        self.running -= 1;
        self.tenants[tenant.place()].running -= 1;
        self.wake(tenant);
    }

    /// Returns whether another attempt may start.
    pub(super) fn has_thread(&self) -> bool {
        self.running < self.threads
    }

    /// Returns whether a tenant has as many threads as it leaves to others that are at work. So a tenant whose requests
    /// hang, or some of them, leave threads to the next one.
    pub(super) fn has_its_share(&self, tenant: TenantIndex) -> bool {
        let running = self.tenants[tenant.place()].running;
        let is_waiting = |other: &TenantIndex| *other != tenant && !self.is_idle(*other);
        running >= self.threads - self.running
            && (self.running > running || self.first_turns.iter().chain(&self.round).any(is_waiting))
    }

    /// Returns whether no attempt of the tenant waits for its turn.
    pub(super) fn is_idle(&self, tenant: TenantIndex) -> bool {
        let TenantQueue { subscriptions, pages, downloads, .. } = &self.tenants[tenant.place()];
        subscriptions.is_empty() && pages.is_empty() && downloads.is_empty()
    }

    /// Returns whether nothing of the tenant runs, and nothing waits for its turn or its time.
    pub(super) fn has_ended(&self, tenant: TenantIndex) -> bool {
        let TenantQueue { running, later, .. } = self.tenants[tenant.place()];
        running == 0 && later == 0 && self.is_idle(tenant)
    }

    /// Returns whether nothing runs and nothing waits.
    pub(super) fn is_over(&self) -> bool {
        self.running == 0 && self.waiting == 0 && self.later.is_empty()
    }

    /// Returns what is accepted of the blobs of one page, given the downloads that wait for their turn.
    pub(super) fn page_room(&self) -> PageRoom {
        PageRoom {
            number: PENDING_BLOBS_MAX.saturating_sub(self.downloads.number).max(PAGE_BLOBS_MIN),
            bytes: PENDING_BYTES_MAX.saturating_sub(self.downloads.bytes).max(PAGE_BYTES_MIN),
        }
    }

    /// Returns whether an attempt that was not tried before waits for the tenant's turn.
    pub(super) fn has_fresh_work(&self, tenant: TenantIndex) -> bool {
        let TenantQueue { subscriptions, pages, downloads, .. } = &self.tenants[tenant.place()];
        let downloads = downloads.iter().map(|Reverse(download)| &download.attempt);
        subscriptions.iter().chain(pages).chain(downloads).any(|attempt| attempt.history.is_fresh())
    }

    /// Removes and returns the tenant's waiting attempts for which this holds.
    pub(super) fn remove_of(&mut self, tenant: TenantIndex, which: impl Fn(&Task) -> bool) -> Vec<Attempt> {
        let mut removed = self.remove_waiting(tenant, &which);
        let feeds = self.feeds;
        removed.extend(self.remove_later(|task| task.tenant(feeds) == tenant && which(task)));
        removed
    }

    /// Removes and returns the waiting attempts of all tenants for which this holds.
    pub(super) fn remove(&mut self, which: impl Fn(&Task) -> bool) -> Vec<Attempt> {
        let mut removed = Vec::new();
        for tenant in self.feeds.tenants() {
            removed.extend(self.remove_waiting(tenant, &which));
        }
        removed.extend(self.remove_later(which));
        removed
    }

    fn remove_waiting(&mut self, tenant: TenantIndex, which: impl Fn(&Task) -> bool) -> Vec<Attempt> {
        let queue = &mut self.tenants[tenant.place()];
        let mut removed = extract(&mut queue.subscriptions, &which);
        removed.extend(extract(&mut queue.pages, &which));
        let downloads = extract_ordered(&mut queue.downloads, &which);
        for download in &downloads {
            self.downloads.remove(&download.task);
        }
        removed.extend(downloads);
        self.waiting -= removed.len();
        removed
    }

    fn remove_later(&mut self, which: impl Fn(&Task) -> bool) -> Vec<Attempt> {
        let removed = extract_ordered(&mut self.later, which);
        self.count_off_later(&removed);
        removed
    }

    /// Counts attempts that do not wait for their time any more.
    fn count_off_later(&mut self, attempts: &[Attempt]) {
        for attempt in attempts {
            self.tenants[attempt.task.tenant(self.feeds).place()].later -= 1;
        }
    }
}

#[cfg(test)]
impl Queue<'_> {
    /// Returns the number of downloads that wait for their turn, and what their blobs take in memory.
    pub(super) fn waiting_downloads(&self) -> (usize, usize) {
        (self.downloads.number, self.downloads.bytes)
    }
}

fn extract(attempts: &mut VecDeque<Attempt>, which: impl Fn(&Task) -> bool) -> Vec<Attempt> {
    let (removed, kept) = std::mem::take(attempts).into_iter().partition(|attempt| which(&attempt.task));
    *attempts = kept;
    Vec::from(removed)
}

fn extract_ordered<Order: Ord>(
    attempts: &mut BinaryHeap<Reverse<Ordered<Order>>>,
    which: impl Fn(&Task) -> bool,
) -> Vec<Attempt> {
    let is_removed = |Reverse(ordered): &Reverse<Ordered<Order>>| which(&ordered.attempt.task);
    let (removed, kept): (Vec<_>, Vec<_>) = std::mem::take(attempts).into_iter().partition(is_removed);
    *attempts = kept.into();
    removed.into_iter().map(|Reverse(ordered)| ordered.attempt).collect()
}
