//! What a pass does next: all of its state and every policy, owned by the main thread.
//!
//! The scheduler is a state machine: [`Scheduler::next`] hands out the job that may run now, [`Scheduler::done`] receives
//! its outcome. The time is passed in, so every policy can be tested without a network or a clock. It joins four values,
//! each with private fields:
//!
//! - [`Books`]: the blobs, each in exactly one state.
//! - [`Queue`]: what runs next. Tenants take turns, so that a tenant with much to do does not delay another one; and none
//!   has more threads than it leaves to others that are at work.
//! - [`Listing`]: the windows, parts and pages of one feed.
//! - [`Session`]: the token, the pace and the throttling of one tenant. A tenant that is throttled, paced or without a token
//!   leaves the round until it can continue; no thread waits for it.
//!
//! This file begins and stops a pass; `outcomes` continues after a success, `failures` after a failure, and `finish` makes
//! the report.

mod books;
mod failures;
mod finish;
mod listing;
mod outcomes;
mod queue;
#[cfg(test)]
mod quota_tests;
mod session;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use log::Level;

use self::{
    books::Books,
    listing::Listing,
    queue::Queue,
    session::{Access, Session, SubscriptionStart},
};
use super::{
    Mode,
    feeds::{FeedIndex, Feeds, TenantIndex},
    plan::LookBack,
    worker::{Outcome, Task, Work},
    writer::CommittedBlob,
};
use crate::{
    api::pace::Permit,
    clock::Clock,
    config::Collect,
    delivery::{OutputSet, PendingBlob},
    error::Explain,
    feed::{ContentType, ListedBlob},
    report::{
        Stop,
        line_limit::{Key, LineLimit},
    },
    state::{KnownBlobs, Progress, StateError},
};

pub use self::listing::PageRequest;

/// The shortest interval between two starts of a subscription.
///
/// Source: "Office 365 Management Activity API reference", section "Start a subscription", as of 2025-08.
const SUBSCRIPTION_START_INTERVAL: Duration = Duration::from_secs(15 * 60);

/// A blob whose body cannot be read as a whole is salvaged when all attempts of this number of passes have failed, …
const SALVAGE_PASSES: u32 = 3;

/// … or when it expires within this duration: a later pass may come too late.
const SALVAGE_BEFORE_EXPIRY: SignedDuration = SignedDuration::from_hours(24);

/// The state of a pass.
pub struct Scheduler<'a> {
    feeds: &'a Feeds,
    mode: Mode,
    look_back: LookBack,
    settings: Settings,
    /// Microsoft's time.
    clock: Clock,
    books: Books<'a>,
    queue: Queue<'a>,
    /// By tenant.
    tenants: Vec<TenantState>,
    /// By feed.
    feed_states: Vec<FeedState>,
    stop: Option<Stop>,
    /// The outputs that have not failed, once one has.
    outputs_left: Option<OutputSet>,
    /// Why an output or the state failed.
    output_failure: Option<String>,
    /// The error that kept the known blobs from being read.
    state_error: Option<StateError>,
    is_clock_reported: bool,
    /// When a job was last handed out that had not been tried before.
    fresh_work_at: Instant,
    line_limit: LineLimit,
    effects: Vec<Effect>,
}

struct Settings {
    retries: u32,
    retry_delay: Duration,
    deadline: Option<Instant>,
    straggler_wait: Duration,
    /// A hash of each content type's filter.
    filters: HashMap<ContentType, u64>,
}

struct TenantState {
    session: Session,
    /// Whether nothing more of it is collected in this pass.
    is_stopped: bool,
}

struct FeedState {
    listing: Listing,
    subscription: SubscriptionStart<Attempt>,
    /// Whether nothing more of it is collected in this pass.
    is_stopped: bool,
    /// Consecutive requests that were rejected with a new token.
    rejected_requests: u32,
    /// Why something of the feed was left undone.
    last_error: Option<String>,
}

/// Something that the main thread has to do for the scheduler.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// Print a blob that a dry run does not download.
    Print(FeedIndex, ListedBlob),
    /// Let the writer remember a blob that is gone.
    RememberGone(FeedIndex, PendingBlob),
    /// Let the writer remember that a subscription was started at that time, by Microsoft's clock.
    RememberStart(FeedIndex, Timestamp),
}

/// A task that waits for its turn, and its earlier attempts.
#[derive(Clone, Debug)]
struct Attempt {
    task: Task,
    history: RetryHistory,
}

/// The earlier attempts of a task or a login.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct RetryHistory {
    failed: u32,
    /// Throttling responses, which do not count as failed attempts.
    throttled: u32,
    /// Whether a new token was fetched for it.
    has_renewed: bool,
}

/// What a pool thread does next.
#[derive(Debug)]
pub struct Job {
    /// What to do.
    pub work: Work,
    /// To be given back with the outcome.
    pub ticket: Ticket,
}

/// What the scheduler has to know of a job when its outcome arrives.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    history: RetryHistory,
    token_generation: u32,
    /// Its share of the tenant's pace; a login needs none.
    permit: Option<Permit>,
}

/// What a request, a message or a failure is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    Tenant(TenantIndex),
    Feed(FeedIndex),
}

impl RetryHistory {
    fn is_fresh(&self) -> bool {
        *self == Self::default()
    }
}

impl Attempt {
    fn first(task: Task) -> Self {
        Self { task, history: RetryHistory::default() }
    }
}

impl<'a> Scheduler<'a> {
    /// Returns a pass that starts now. Each tenant's first job is its login. The tenants that are listed least far come first:
    /// an earlier pass may have ended before it reached them. The progress of the feeds is removed from `before`, until
    /// [`Self::finish`] returns it.
    pub fn new(
        feeds: &'a Feeds,
        mode: Mode,
        look_back: LookBack,
        collect: &Collect,
        known: KnownBlobs,
        before: &mut Progress,
        clock: Clock,
    ) -> Self {
        let now = clock.began();
        let learned = &before.tenants;
        let tenant_state = |tenant| {
            let tenant_id = &feeds.tenant(tenant).tenant_id;
            let (before, time) = (learned.get(tenant_id).copied(), clock.at(tenant_id, now));
            TenantState {
                session: Session::new(collect.max_requests_per_minute, before, time, now),
                is_stopped: false,
            }
        };
        let listed = &mut before.feeds;
        let feed_state = |feed| {
            let before = listed.remove(&feeds.id(feed));
            let started = before.as_ref().and_then(|before| before.subscription_started);
            FeedState {
                listing: Listing::new(before),
                subscription: SubscriptionStart::new(started),
                is_stopped: false,
                rejected_requests: 0,
                last_error: None,
            }
        };
        let feed_states: Vec<_> = feeds.feeds().map(feed_state).collect();
        let listed_until = |feed: FeedIndex| feed_states[feed.place()].listing.progress()?.listed_until;
        let mut order: Vec<_> = feeds.tenants().collect();
        order.sort_by_cached_key(|tenant| feeds.feeds_of(*tenant).map(listed_until).min());
        let mut queue = Queue::new(feeds, collect.max_threads);
        for tenant in order {
            queue.push(Attempt::first(Task::ListSubscriptions(tenant)));
        }
        Self {
            feeds,
            mode,
            look_back,
            settings: Settings {
                retries: collect.retries,
                retry_delay: collect.retry_delay,
                deadline: collect.global_timeout.map(|after| now + after),
                straggler_wait: collect.interval,
                filters: ContentType::ALL.map(|feed| (feed, collect.filter_hash(feed))).into(),
            },
            books: Books::new(feeds, known),
            queue,
            tenants: feeds.tenants().map(tenant_state).collect(),
            feed_states,
            stop: None,
            outputs_left: None,
            output_failure: None,
            state_error: None,
            is_clock_reported: false,
            fresh_work_at: now,
            line_limit: LineLimit::default(),
            effects: Vec::new(),
            clock,
        }
    }

    /// Adds a blob that an earlier pass has listed and not delivered. It is downloaded when the feed is listed: as it is
    /// listed then, or, if it is not listed any more, as it was.
    pub fn carry_over(&mut self, feed: FeedIndex, pending: PendingBlob) {
        self.books.carry_over(feed, pending);
    }

    /// Returns the next job that may run now.
    pub fn next(&mut self, now: Instant) -> Option<Job> {
        if self.settings.deadline.is_some_and(|deadline| now >= deadline) {
            self.stop(Stop::Deadline);
        }
        if !self.queue.has_thread() {
            return None;
        }
        for attempt in self.queue.drain_due(now) {
            self.enqueue(attempt);
        }
        for turn in self.queue.turns() {
            let tenant = self.queue.pop_tenant(turn)?;
            if let Some(job) = self.next_of(tenant, now) {
                if job.ticket.history.is_fresh() {
                    self.fresh_work_at = now;
                }
                self.queue.start(tenant);
                return Some(job);
            }
        }
        self.stop_for_stragglers(now);
        None
    }

    /// Returns a tenant's next job. Without one the tenant stays out of the round until it is woken.
    fn next_of(&mut self, tenant: TenantIndex, now: Instant) -> Option<Job> {
        if self.queue.is_idle(tenant) {
            return None;
        }
        if self.queue.has_its_share(tenant) {
            self.queue.wake(tenant);
            return None;
        }
        match self.tenants[tenant.place()].session.access(now) {
            Access::Wait(at) => {
                // Without a time, the end of a job wakes the tenant.
                if let Some(at) = at {
                    self.queue.sleep_until(tenant, at);
                }
                None
            }
            Access::LogIn(history) => Some(Job {
                work: Work::LogIn(tenant),
                ticket: Ticket { history, token_generation: 0, permit: None },
            }),
            Access::Request { token, generation, permit } => {
                let Attempt { task, history } = self.queue.pop(tenant)?; // there is one: the tenant is not idle
                if let Some(feed) = task.feed() {
                    self.books.count_request(feed);
                }
                let mut salvages = false;
                if let Task::Download(feed, pending) = &task {
                    salvages = self.salvages(*feed, pending, history, now);
                    self.books.download(*feed, pending);
                }
                Some(Job {
                    work: Work::Request { task, token, salvages },
                    ticket: Ticket { history, token_generation: generation, permit: Some(permit) },
                })
            }
        }
    }

    /// Returns whether the blob is salvaged if this last attempt fails too: all attempts of enough passes have failed, or a
    /// later pass may come too late.
    fn salvages(&self, feed: FeedIndex, pending: &PendingBlob, history: RetryHistory, now: Instant) -> bool {
        let is_last_day = || {
            let tenant = self.feeds.tenant_of(feed);
            let last_hours = self.microsoft_time(tenant, now) + SALVAGE_BEFORE_EXPIRY;
            self.clock.ahead(&self.feeds.tenant(tenant).tenant_id).is_some()
                && pending.blob.expires().is_some_and(|expires| expires <= last_hours)
        };
        self.mode == Mode::Collect
            && history.failed >= self.settings.retries
            && (pending.failed_passes + 1 >= SALVAGE_PASSES || is_last_day())
    }

    /// Ends the pass if nothing but stragglers has been left for too long: the lock keeps every other feed waiting for
    /// the next pass.
    fn stop_for_stragglers(&mut self, now: Instant) {
        let wait = self.settings.straggler_wait;
        if self.stop.is_some() || self.is_over() || now < self.fresh_work_at + wait {
            return;
        }
        // A tenant that is throttled, or has had no good answer for this long, does not keep a pass going.
        let has_fresh_work = |tenant: TenantIndex| {
            self.tenants[tenant.place()].session.is_promising(wait, now) && self.queue.has_fresh_work(tenant)
        };
        if self.feeds.tenants().any(has_fresh_work) {
            self.fresh_work_at = now;
        } else {
            self.stop(Stop::Stragglers);
        }
    }

    /// Returns when [`Self::next`] is worth calling again, if no outcome arrives before.
    pub fn next_at(&self) -> Option<Instant> {
        let deadline = self.settings.deadline.filter(|_| self.stop.is_none());
        let stragglers = self.stop.is_none().then(|| self.fresh_work_at + self.settings.straggler_wait);
        [self.queue.next_at(), deadline, stragglers].into_iter().flatten().min()
    }

    /// Returns whether nothing runs and nothing is left to run.
    pub fn is_over(&self) -> bool {
        self.queue.is_over()
    }

    /// Receives the outcome of a job.
    pub fn done(&mut self, ticket: Ticket, outcome: Outcome, now: Instant) {
        let tenant = outcome.tenant(self.feeds);
        self.queue.end(tenant);
        let session = &mut self.tenants[tenant.place()].session;
        if let Some(permit) = ticket.permit {
            session.answered(permit, failures::request_outcome(&outcome), now);
        }
        if !outcome.is_failure() {
            session.succeeded(now);
            if !matches!(outcome, Outcome::LoggedIn(..)) {
                session.token_accepted();
            }
            if let Some(feed) = outcome.feed() {
                self.feed_states[feed.place()].rejected_requests = 0;
            }
        }
        self.report_clock(tenant);
        self.proceed(outcome, ticket, now);
        if self.queue.has_ended(tenant) {
            self.log_out(tenant);
        }
    }

    /// Drops the token of a tenant that makes no further request. The URIs of new blobs may contain it, and the state may still
    /// remember them.
    fn log_out(&mut self, tenant: TenantIndex) {
        let token = self.tenants[tenant.place()].session.log_out();
        let has_new_blobs = self.feeds.feeds_of(tenant).any(|feed| self.books.counts(feed).found() > 0);
        if let Some(token) = token.filter(|_| !has_new_blobs) {
            token.forget();
        }
    }

    /// Receives a batch that the writer has committed.
    pub fn committed(&mut self, blobs: &[CommittedBlob]) {
        for committed in blobs {
            let delivered = self.books.commit(committed);
            if let (Some((feed, pending)), Some(how)) = (delivered, &committed.salvaged) {
                let cause = "it cannot be read as a whole".to_owned();
                let key = Subject::Feed(feed).key(self.feeds, Level::Error, "Blob salvaged", cause);
                let id = &pending.blob.content_id;
                self.line_limit.write(key, Some(id), |what| format!("{what} blob {id}: {how}"));
            }
        }
    }

    /// Records which outputs still accept records. A blob that all of them have is not downloaded.
    pub fn outputs_left(&mut self, left: OutputSet) {
        self.outputs_left = Some(left);
        for attempt in self.queue.remove(|task| !is_useful(task, Some(left))) {
            self.leave(attempt.task);
        }
    }

    /// Records why an output or the state failed: the cause for the feeds whose blobs are not delivered.
    pub fn output_failed(&mut self, reason: String) {
        self.output_failure = Some(reason);
    }

    /// Ends the pass because the known blobs cannot be read.
    fn state_failed(&mut self, error: StateError) {
        self.output_failed(error.explain());
        self.state_error.get_or_insert(error);
        self.stop(Stop::State);
    }

    /// Removes and returns the error that kept the known blobs from being read.
    pub fn take_state_error(&mut self) -> Option<StateError> {
        self.state_error.take()
    }

    /// Starts nothing more. What runs is waited for; what waits is left for later.
    pub fn stop(&mut self, stop: Stop) {
        if self.stop.is_some() {
            return;
        }
        self.stop = Some(stop);
        log::warn!(
            "{}: the pass starts no new work; the next one continues from here",
            finish::reason_of(stop)
        );
        for attempt in self.queue.remove(|_| true) {
            self.leave(attempt.task);
        }
    }

    /// Returns why the pass ends early, if it does.
    pub fn stopped(&self) -> Option<Stop> {
        self.stop
    }

    /// Removes and returns what the main thread has to do.
    pub fn drain_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Returns the counts of all feeds so far: blobs delivered, blobs found, records.
    pub fn progress(&self) -> (u64, u64, u64) {
        self.books.sums()
    }

    /// Queues an attempt that runs as soon as its tenant's turn comes.
    fn enqueue(&mut self, attempt: Attempt) {
        let task = &attempt.task;
        if self.stop.is_some() || self.is_stopped(task) || !is_useful(task, self.outputs_left) {
            return self.leave(attempt.task);
        }
        self.queue.push(attempt);
    }

    /// Queues an attempt that runs at that time at the earliest.
    fn enqueue_at(&mut self, attempt: Attempt, at: Instant) {
        if self.stop.is_some() {
            return self.leave(attempt.task);
        }
        self.queue.push_later(attempt, at);
    }

    /// Queues the downloads of blobs. A dry run prints the blobs instead.
    fn enqueue_downloads(&mut self, feed: FeedIndex, blobs: Vec<PendingBlob>) {
        for pending in blobs {
            if self.mode == Mode::DryRun {
                self.books.leave_listed(feed);
                self.effects.push(Effect::Print(feed, pending.blob));
            } else {
                self.enqueue(Attempt::first(Task::Download(feed, pending)));
            }
        }
    }

    /// Counts the blob of a task that does not run because the pass, its tenant or its feed has ended.
    fn leave(&mut self, task: Task) {
        if let Task::Download(feed, pending) = task {
            if self.stop == Some(Stop::Stragglers) {
                self.report_straggler(feed, &pending, false);
            }
            if self.feed_states[feed.place()].is_stopped && self.stop.is_none() {
                self.books.fail(feed, pending);
            } else {
                self.books.leave(feed, pending);
            }
        }
    }

    fn is_stopped(&self, task: &Task) -> bool {
        self.tenants[task.tenant(self.feeds).place()].is_stopped
            || task.feed().is_some_and(|feed| self.feed_states[feed.place()].is_stopped)
    }

    fn microsoft_time(&self, tenant: TenantIndex, now: Instant) -> Timestamp {
        self.clock.at(&self.feeds.tenant(tenant).tenant_id, now)
    }
}

impl Subject {
    /// Returns the kind of the lines that begin with this phrase and are about the subject.
    fn key(self, feeds: &Feeds, level: Level, phrase: &str, cause: String) -> Key {
        let what = format!("{phrase} for {}", self.label(feeds));
        let (tenant, feed) = match self {
            Self::Tenant(tenant) => (feeds.tenant(tenant).label(), None),
            Self::Feed(feed) => {
                let (tenant, feed) = feeds.names(feed);
                (tenant, Some(feed))
            }
        };
        Key { level, what, tenant: tenant.to_owned(), feed, cause }
    }

    /// Returns its name in the log.
    fn label(self, feeds: &Feeds) -> String {
        match self {
            Self::Tenant(tenant) => feeds.tenant(tenant).label().to_owned(),
            Self::Feed(feed) => feeds.label(feed),
        }
    }
}

/// Returns whether an output that has not failed gets records by this task.
fn is_useful(task: &Task, outputs_left: Option<OutputSet>) -> bool {
    match (task, outputs_left) {
        (Task::Download(_, pending), Some(left)) => !left.without(pending.delivered_to).is_empty(),
        _ => true,
    }
}
