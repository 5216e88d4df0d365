//! What is to be done next: the pass's whole state, owned by the main thread.
//!
//! A state machine: [`Scheduler::next`] hands out the task that may run now, [`Scheduler::done`] takes what came of it.
//! The time is passed in, so every policy here can be tested without a network or a clock: whose turn it is, what is
//! tried again and when, how many requests a tenant may make, what is given up.
//!
//! - Tenants take turns, one task each, so that a tenant with much to do does not hold up another one; and none has
//!   more threads than it leaves to others that are at work, so that one whose requests hang does not either.
//! - Within a tenant, first what everything else waits for (login, subscriptions), then pages, then blobs: new ones
//!   before those that failed in an earlier pass, and oldest first. While many blobs wait for their download no further page is listed, so a backlog costs no memory.
//! - A tenant that is throttled, paced, or without a token leaves the round until it can go on; no thread waits for it.
//! - Each listed blob ends up in exactly one of [`Counts`]' fields; [`Scheduler::finish`] asserts it.
//!
//! Here stands the state, and what begins and ends a pass. Whose turn it is, what comes of a success, and what comes of
//! a failure stand in files of their own.

mod failures;
#[cfg(test)]
mod quota_tests;
mod successes;
#[cfg(test)]
mod tests;
mod turns;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use log::Level;

use super::{
    Mode,
    feeds::{FeedIndex, Feeds, TenantIndex},
    plan::{FeedPlan, LookBack},
    worker::{Outcome, Task},
    writer::CommittedBlob,
};
use crate::{
    api::{
        ApiError, Token,
        pace::{Learned, Pace, Permit},
    },
    clock::Clock,
    config::Collect,
    delivery::{OutputSet, PendingBlob},
    feed::ListedBlob,
    limits::{
        AUTO_REMEMBERED, AUTO_START, QUIET_FEED_NOTICE, SALVAGE_LAST_HOURS, SALVAGE_PASSES,
        THIN_PAGES_LAST_MAX, THIN_PAGES_MAX, THIN_PAGES_TIMED_MIN,
    },
    report::{
        Counts, FeedReport, Stop, Summary,
        line_limit::{Key, LineLimit},
    },
    state::{BlobKey, FeedProgress, KnownBlobs, Progress, TenantProgress, Waiting},
};

/// The state of a pass.
pub struct Scheduler<'a> {
    feeds: &'a Feeds,
    look_back: LookBack,
    /// Microsoft's time.
    clock: Clock,
    mode: Mode,
    settings: Settings,
    /// From earlier passes.
    known: KnownBlobs,
    /// In this pass.
    listed: HashSet<BlobKey>,
    tenants: Vec<TenantState>,
    feed_states: Vec<FeedState>,
    /// Tenants that may have something to do now.
    round: VecDeque<TenantIndex>,
    /// Attempts that wait for their time.
    later: BinaryHeap<Reverse<Later>>,
    /// Tenants that come back into the round at that time.
    sleeping: BinaryHeap<Reverse<(Instant, TenantIndex)>>,
    running: usize,
    /// Blobs that wait for their download.
    waiting_blobs: usize,
    /// Blobs that a pool thread or the writer has. The writer may say that one is delivered before the thread that
    /// handed it over says that it is done.
    in_flight: HashMap<BlobKey, InFlight>,
    /// Blobs that are not delivered everywhere when the pass ends.
    undelivered: Vec<Undelivered>,
    /// Blobs that are gone, to be remembered.
    gone: Vec<(FeedIndex, PendingBlob)>,
    stop: Option<Stop>,
    /// The outputs that have not failed, once one has.
    outputs_left: Option<OutputSet>,
    /// Why one failed.
    output_failure: Option<String>,
    is_clock_reported: bool,
    sequence: u64,
    /// When work was last handed out that had not been tried before.
    fresh_work_at: Instant,
    line_limit: LineLimit,
    /// Subscriptions that were started, to be remembered.
    started: Vec<(FeedIndex, Timestamp)>,
}

/// A blob that a pool thread or the writer has.
struct InFlight {
    feed: FeedIndex,
    wanted: PendingBlob,
    /// Whether the writer has it.
    is_downloaded: bool,
}

struct Settings {
    /// Most attempts that run at a time.
    threads: usize,
    retries: u32,
    retry_delay: Duration,
    deadline: Option<Instant>,
    straggler_wait: Duration,
}

/// What is known of a tenant's login, and what it has to do.
struct TenantState {
    pace: Pace,
    /// What earlier passes have learned about the pace.
    before: Option<TenantProgress>,
    token: Option<CurrentToken>,
    /// The login to be made when a token is needed, and when it may be; `None` while one runs.
    login: Option<(Attempt, Instant)>,
    has_logged_in: bool,
    /// Tokens refused in a row, with no request accepted between them.
    refusals: u32,
    is_stopped: bool,
    is_in_round: bool,
    /// Attempts that run.
    running: usize,
    /// Pauses in a row that nobody told the length of.
    throttles: u32,
    /// When the first of the throttling answers came that nothing else came after.
    throttled_since: Option<Instant>,
    /// When a request was last answered as it should be.
    succeeded_at: Instant,
    first: VecDeque<Attempt>,
    pages: VecDeque<Attempt>,
    downloads: BinaryHeap<Reverse<Download>>,
}

struct CurrentToken {
    token: Arc<Token>,
    renew_at: Instant,
    /// Tells a refusal of this token from one of its predecessor.
    generation: u32,
}

#[derive(Default)]
struct FeedState {
    counts: Counts,
    /// What is known from earlier passes.
    before: Option<FeedProgress>,
    /// What is to be listed, from the moment on at which that begins.
    plan: FeedPlan,
    /// By window: how many of its parts are not listed to their end.
    open_parts: Vec<usize>,
    /// Parts that are being listed, in all windows.
    running_parts: usize,
    /// Its latest pages that brought next to nothing.
    thin_pages: ThinPages,
    /// Whether its listing was begun.
    is_begun: bool,
    is_stopped: bool,
    /// Whether the start of the subscription is under way.
    is_starting: bool,
    /// When the subscription was last started, by this pass or an earlier one, by Microsoft's clock.
    subscription_started: Option<Timestamp>,
    /// Requests in a row that were refused with a fresh token.
    refused_items: u32,
    /// When the newest blob that was ever listed became available.
    last_blob: Option<Timestamp>,
    /// Why something of the feed was left undone; set by [`Scheduler::report_failure`] and by what ends a whole tenant or
    /// pass.
    last_error: Option<String>,
    /// Pages that wait for the subscription.
    pages: Vec<Attempt>,
    /// Blobs that wait from earlier passes and are not yet listed in this one.
    waiting: HashMap<BlobKey, PendingBlob>,
}

/// Pages in a row, of all listings of a feed, that name a next page and bring at most one new blob.
///
/// A listing that comes to its end, and a page with more, end the row.
#[derive(Default)]
struct ThinPages {
    number: u32,
    since: Option<Instant>,
    /// Whether there were too many of them in this pass.
    is_endless: bool,
}

/// A blob that is not delivered everywhere.
struct Undelivered {
    feed: FeedIndex,
    wanted: PendingBlob,
    has_failed: bool,
}

/// A task, and how often it was tried.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// What to do.
    pub task: Task,
    /// Tries that failed.
    tries: u32,
    /// Throttling answers met, which are no tries.
    throttles: u32,
    /// Whether a new token was fetched for it.
    has_renewed: bool,
    /// Of the token that it was handed out with.
    token_generation: u32,
    /// Its share of the tenant's pace, while it runs; a login needs none.
    permit: Option<Permit>,
    /// Whether a blob that cannot be read as a whole is delivered as far as it can be.
    pub salvages: bool,
}

impl Attempt {
    /// Whether it was never tried.
    fn is_fresh(&self) -> bool {
        self.tries == 0 && self.throttles == 0 && !self.has_renewed
    }

    fn new(task: Task) -> Self {
        Self {
            task,
            tries: 0,
            throttles: 0,
            has_renewed: false,
            token_generation: 0,
            permit: None,
            salvages: false,
        }
    }
}

/// A download. What is new goes before what an earlier pass tried in vain, so that no blob that fails at every pass holds
/// it up, and the older blob first; the sequence makes the order total.
struct Download {
    order: (bool, Timestamp, u64),
    attempt: Attempt,
}

/// An attempt that waits for its time.
struct Later {
    order: (Instant, u64),
    attempt: Attempt,
}

macro_rules! ordered_by_order {
    ($($name:ident),*) => {$(
        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self.order == other.order
            }
        }
        impl Eq for $name {}
        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
                Some(self.cmp(other))
            }
        }
        impl Ord for $name {
            fn cmp(&self, other: &Self) -> std::cmp::Ordering {
                self.order.cmp(&other.order)
            }
        }
    )*};
}
ordered_by_order!(Download, Later);

impl<'a> Scheduler<'a> {
    /// A pass that starts now: each tenant's first task is its login.
    pub fn new(
        feeds: &'a Feeds,
        mode: Mode,
        look_back: LookBack,
        collect: &Collect,
        known: KnownBlobs,
        before: &Progress,
        clock: Clock,
    ) -> Self {
        let now = clock.began();
        let tenant = |index| {
            let tenant_id = &feeds.tenant(index).tenant_id;
            let before = before.tenants.get(tenant_id).copied();
            let learned = before.map(|before| learned(&before, clock.at(tenant_id, now)));
            TenantState {
                pace: Pace::new(collect.requests_per_minute, learned, now),
                before,
                token: None,
                login: Some((Attempt::new(Task::LogIn(index)), now)),
                has_logged_in: false,
                refusals: 0,
                is_stopped: false,
                is_in_round: true,
                running: 0,
                throttles: 0,
                throttled_since: None,
                succeeded_at: now,
                first: VecDeque::new(),
                pages: VecDeque::new(),
                downloads: BinaryHeap::new(),
            }
        };
        let tenants = feeds.tenants().map(tenant).collect();
        let mut scheduler = Self {
            feeds,
            look_back,
            clock,
            mode,
            settings: Settings {
                threads: collect.threads,
                retries: collect.retries,
                retry_delay: collect.retry_delay,
                deadline: collect.deadline.map(|after| now + after),
                straggler_wait: collect.straggler_wait,
            },
            known,
            listed: HashSet::new(),
            tenants,
            feed_states: feeds
                .feeds()
                .map(|feed| {
                    let (tenant, content_type) = feeds.feed(feed);
                    let before = before.feeds.get(&(tenant.tenant_id.clone(), content_type)).cloned();
                    let subscription_started = before.as_ref().and_then(|before| before.subscription_started);
                    let last_blob = before.as_ref().and_then(|before| before.last_blob);
                    FeedState { before, subscription_started, last_blob, ..FeedState::default() }
                })
                .collect(),
            round: feeds.tenants().collect(),
            later: BinaryHeap::new(),
            sleeping: BinaryHeap::new(),
            running: 0,
            waiting_blobs: 0,
            in_flight: HashMap::new(),
            undelivered: Vec::new(),
            gone: Vec::new(),
            stop: None,
            outputs_left: None,
            output_failure: None,
            is_clock_reported: false,
            sequence: 0,
            fresh_work_at: now,
            line_limit: LineLimit::default(),
            started: Vec::new(),
        };
        for tenant in feeds.tenants() {
            scheduler.push(Attempt::new(Task::ListSubscriptions(tenant)));
        }
        scheduler
    }

    /// The next attempt that may run now, with the token to run it with.
    pub fn next(&mut self, now: Instant) -> Option<(Attempt, Option<Arc<Token>>)> {
        if self.settings.deadline.is_some_and(|deadline| now >= deadline) {
            self.stop(Stop::Deadline);
        }
        if self.running >= self.settings.threads {
            return None;
        }
        self.wake(now);
        for _ in 0..self.round.len() {
            let tenant = self.round.pop_front()?;
            if let Some((mut attempt, token)) = self.next_of(tenant, now) {
                self.round.push_back(tenant);
                self.running += 1;
                self.tenants[tenant.place()].running += 1;
                if let Some(current) = &self.tenants[tenant.place()].token {
                    attempt.token_generation = current.generation;
                }
                if let Some(feed) = attempt.task.feed() {
                    self.feed_states[feed.place()].counts.requests += 1;
                }
                if let Task::Download(feed, wanted) = &attempt.task {
                    attempt.salvages = self.salvages(*feed, wanted, attempt.tries, now);
                    let in_flight = InFlight { feed: *feed, wanted: wanted.clone(), is_downloaded: false };
                    self.in_flight.insert(self.key(*feed, wanted), in_flight);
                }
                if attempt.is_fresh() {
                    self.fresh_work_at = now;
                }
                return Some((attempt, token));
            }
        }
        self.stop_for_stragglers(now);
        None
    }

    /// Ends the pass if nothing but stragglers has been left for too long: the lock keeps every other feed waiting for
    /// the next pass.
    fn stop_for_stragglers(&mut self, now: Instant) {
        let wait = self.settings.straggler_wait;
        if self.stop.is_some() || self.is_over() || now < self.fresh_work_at + wait {
            return;
        }
        if self.tenants.iter().any(|tenant| tenant.has_fresh_work(now, wait)) {
            self.fresh_work_at = now;
        } else {
            self.stop(Stop::Stragglers);
        }
    }

    /// When [`Self::next`] is worth asking again, if nothing comes back meanwhile.
    pub fn next_at(&self) -> Option<Instant> {
        let later = self.later.peek().map(|Reverse(later)| later.order.0);
        let sleeping = self.sleeping.peek().map(|Reverse((at, _))| *at);
        let deadline = self.settings.deadline.filter(|_| self.stop.is_none());
        let stragglers = self.stop.is_none().then(|| self.fresh_work_at + self.settings.straggler_wait);
        [later, sleeping, deadline, stragglers].into_iter().flatten().min()
    }

    /// Whether nothing runs and nothing is left to run.
    pub fn is_over(&self) -> bool {
        self.running == 0 && self.later.is_empty() && self.tenants.iter().all(TenantState::is_idle)
    }

    /// Only these outputs still take records: what none of them lacks is not downloaded for a later pass to throw away.
    pub fn outputs_left(&mut self, left: OutputSet) {
        self.outputs_left = Some(left);
        for tenant in self.feeds.tenants() {
            self.drop_waiting(tenant, |task| !is_of_use(task, Some(left)));
        }
    }

    /// Why an output or the state failed: the cause for the feeds whose blobs it lacks.
    pub fn output_failed(&mut self, why: String) {
        self.output_failure = Some(why);
    }

    /// Why the pass ends before its work does, if it does.
    pub fn stopped(&self) -> Option<Stop> {
        self.stop
    }

    /// A blob that waits from an earlier pass. It is wanted when the feed is listed: as it is listed then, or, if it is
    /// not listed any more, as it was.
    pub fn resume(&mut self, feed: FeedIndex, wanted: PendingBlob) {
        let key = self.key(feed, &wanted);
        self.feed_states[feed.place()].waiting.insert(key, wanted);
    }

    /// Starts nothing more. What runs is waited for; what waits is left for later.
    pub fn stop(&mut self, why: Stop) {
        if self.stop.is_some() {
            return;
        }
        self.stop = Some(why);
        log::warn!("{}: the pass takes no new work; the next one goes on from here", reason_of(why));
        for tenant in self.feeds.tenants() {
            self.drop_waiting(tenant, |_| true);
        }
        self.later.retain(|_| false);
    }

    /// A batch was committed.
    pub fn delivered(&mut self, blobs: &[CommittedBlob]) {
        for delivered in blobs {
            let Some(InFlight { feed, wanted, .. }) = self.in_flight.remove(&delivered.key) else { continue };
            let counts = &mut self.feed_states[feed.place()].counts;
            counts.records += delivered.records;
            counts.duplicates += delivered.duplicates;
            counts.filtered += delivered.filtered;
            counts.dead_letters += delivered.dead_letters;
            if delivered.is_complete {
                counts.delivered += 1;
                if let Some(how) = &delivered.salvaged {
                    counts.salvaged += 1;
                    let what = format!("Blob salvaged for {}", self.feeds.label(feed));
                    let cause = "it cannot be read as a whole".to_owned();
                    let key = Key { level: Level::Error, what, cause };
                    let id = &wanted.blob.content_id;
                    self.line_limit.write(key, |what| format!("{what} blob {id}: {how}"));
                }
            } else {
                counts.failed += 1;
                let wanted = PendingBlob { delivered_to: delivered.has, ..wanted };
                self.undelivered.push(Undelivered { feed, wanted, has_failed: true });
            }
        }
    }

    /// All feeds' counts so far: delivered, found, records.
    pub fn progress(&self) -> (u64, u64, u64) {
        let counts = || self.feed_states.iter().map(|feed| &feed.counts);
        let delivered = counts().map(|counts| counts.delivered).sum();
        (delivered, counts().map(Counts::found).sum(), counts().map(|counts| counts.records).sum())
    }

    /// Takes what came of an attempt. Returns the blobs that a dry run would download.
    pub fn done(
        &mut self,
        mut attempt: Attempt,
        result: Result<Outcome, ApiError>,
        now: Instant,
    ) -> Vec<(FeedIndex, ListedBlob)> {
        self.running -= 1;
        let tenant = self.tenant_of(&attempt.task);
        self.tenants[tenant.place()].running -= 1;
        if let Some(permit) = attempt.permit.take() {
            self.tenants[tenant.place()].pace.answered(
                permit,
                failures::outcome(&attempt.task, &result),
                now,
            );
        }
        self.rouse(tenant);
        self.report_clock(tenant);
        match result {
            Ok(answer) => {
                let state = &mut self.tenants[tenant.place()];
                state.throttles = 0;
                state.throttled_since = None;
                state.succeeded_at = now;
                if !matches!(attempt.task, Task::LogIn(_)) {
                    state.refusals = 0;
                }
                if let Some(feed) = attempt.task.feed() {
                    self.feed_states[feed.place()].refused_items = 0;
                }
                self.succeeded(attempt, answer, now)
            }
            Err(failure) => {
                self.failed(attempt, &failure, now);
                Vec::new()
            }
        }
    }

    /// The blobs that turned out to be gone since this was last asked.
    pub fn take_gone(&mut self) -> Vec<(FeedIndex, PendingBlob)> {
        std::mem::take(&mut self.gone)
    }

    /// The subscriptions that were started since this was last asked, and when, by Microsoft's clock.
    pub fn take_started(&mut self) -> Vec<(FeedIndex, Timestamp)> {
        std::mem::take(&mut self.started)
    }

    /// Ends the pass's accounts: what a thread or the writer still has was not delivered. Returns what the pass did, and
    /// what is to be remembered of its feeds: up to when each is listed, and the pending blobs.
    pub fn finish(mut self) -> (Summary, Progress) {
        let is_failed = self.stop.is_none_or(|stop| stop == Stop::Writer);
        for InFlight { feed, wanted, is_downloaded } in std::mem::take(&mut self.in_flight).into_values() {
            if self.stop == Some(Stop::Stragglers) {
                self.report_straggler(feed, &wanted, is_downloaded);
            }
            self.leave_blob(feed, &wanted, is_failed);
        }
        if let Some(why) = &self.output_failure {
            // What a deadline or a signal left is not this output's fault.
            let is_its_fault = |blob: &&Undelivered| is_failed || blob.has_failed;
            for Undelivered { feed, .. } in self.undelivered.iter().filter(is_its_fault) {
                self.feed_states[feed.place()].last_error.get_or_insert_with(|| why.clone());
            }
        }
        self.name_causes();
        let mut progress = Progress::default();
        for tenant in self.feeds.tenants() {
            if let Some(learned) = self.learned_by(tenant) {
                progress.tenants.insert(self.feeds.tenant(tenant).tenant_id.clone(), learned);
            }
        }
        let mut reports = Vec::new();
        for feed in self.feeds.feeds() {
            let (tenant, content_type) = self.feeds.feed(feed);
            let now = self.clock.at(&tenant.tenant_id, self.clock.began());
            let state = &mut self.feed_states[feed.place()];
            let counts = state.counts;
            assert!(counts.is_balanced(), "every listed blob is in exactly one count: {counts:?}");
            let before = state.before.take().unwrap_or_default();
            let is_window_listed = |window: usize| state.open_parts.get(window) == Some(&0);
            let listed_until =
                if state.is_begun { state.plan.listed_until(now, is_window_listed) } else { None };
            let listed_until = listed_until.or(before.listed_until);
            let listed_from = state.plan.listed_from(&before, listed_until, is_window_listed);
            let is_listed = state.is_listed();
            assert!(
                (is_listed && counts.failed == 0) || state.last_error.is_some(),
                "what a pass leaves undone has a logged cause: {counts:?}"
            );
            let has_succeeded = is_listed && counts.failed == 0 && counts.left == 0;
            if is_listed {
                warn_if_quiet(&self.feeds.label(feed), state.last_blob, before.listed_until, now);
            }
            let feed_progress = FeedProgress {
                listed_until,
                listed_from,
                wanted_from: if state.is_begun { state.plan.wanted_from } else { before.wanted_from },
                last_success: if has_succeeded { Some(now) } else { before.last_success },
                last_error: state.last_error.take(),
                subscription_started: state.subscription_started,
                last_blob: state.last_blob,
            };
            progress.feeds.insert((tenant.tenant_id.clone(), content_type), feed_progress);
            let tenant = tenant.label().to_owned();
            reports.push(FeedReport { tenant, content_type, counts, is_listed, listed_until });
            // What waits from earlier passes and was not listed again still waits.
            let not_listed = std::mem::take(&mut state.waiting).into_values();
            self.undelivered.extend(not_listed.map(|wanted| Undelivered { feed, wanted, has_failed: true }));
        }
        for Undelivered { feed, wanted, has_failed } in self.undelivered {
            let (tenant, content_type) = self.feeds.feed(feed);
            let tenant_id = tenant.tenant_id.clone();
            let PendingBlob { blob, delivered_to, failed_passes, .. } = wanted;
            progress.waiting.push(Waiting {
                tenant_id,
                content_type,
                blob,
                delivered_to,
                has_failed,
                failed_passes,
            });
        }
        self.line_limit.sum_up();
        let any_login = self.tenants.iter().any(|tenant| tenant.has_logged_in);
        (Summary { feeds: reports, any_login, stop: self.stop }, progress)
    }

    /// What this pass and earlier ones have learned about a tenant's pace, unless it is what every tenant begins with.
    fn learned_by(&self, tenant: TenantIndex) -> Option<TenantProgress> {
        let TenantState { pace, before, .. } = &self.tenants[tenant.place()];
        let (requests_per_minute, throttled) = pace.learned()?;
        let throttled_at = throttled.map(|at| self.clock.at(&self.feeds.tenant(tenant).tenant_id, at));
        let throttled_at = throttled_at.or(before.and_then(|before| before.throttled_at));
        let is_learned = requests_per_minute != AUTO_START || throttled_at.is_some();
        is_learned.then_some(TenantProgress { requests_per_minute, throttled_at })
    }

    /// Names a cause for each feed that the end of the pass left unfinished.
    fn name_causes(&mut self) {
        for feed in self.feeds.feeds() {
            let label = self.feeds.label(feed);
            let state = &mut self.feed_states[feed.place()];
            let is_undone = !state.is_listed() || state.counts.failed > 0 || state.counts.left > 0;
            if !is_undone || state.last_error.is_some() || self.mode == Mode::DryRun && state.is_listed() {
                continue;
            }
            let cause = match (self.stop, &self.output_failure) {
                (Some(Stop::Writer) | None, Some(why)) => why.clone(),
                (Some(stop), _) => format!("{}: the pass ended before this feed was done", reason_of(stop)),
                (None, None) => "its listing did not come to an end; please report this".to_owned(),
            };
            if !matches!(
                self.stop,
                Some(Stop::Deadline | Stop::Interrupted | Stop::Terminated | Stop::Writer)
            ) {
                let phrase = if state.is_listed() { "Blob download failed" } else { "Listing failed" };
                log::error!("{phrase} for {label}: {cause}; the next pass goes on from here");
            }
            state.last_error = Some(cause);
        }
    }

    /// Reports a blob that kept the pass from ending.
    pub(super) fn report_straggler(&mut self, feed: FeedIndex, wanted: &PendingBlob, is_downloaded: bool) {
        let what =
            if is_downloaded { "its output has not confirmed it" } else { "its download is not finished" };
        let advice = format!(
            "{what} {} s after the rest of the pass; the next pass tries it again",
            self.settings.straggler_wait.as_secs()
        );
        self.report_failure(&Task::Download(feed, wanted.clone()), &advice, what.to_owned());
    }

    /// Microsoft's time.
    pub(super) fn microsoft_now(&self, tenant: TenantIndex, now: Instant) -> Timestamp {
        self.clock.at(&self.feeds.tenant(tenant).tenant_id, now)
    }

    /// Whether this try is the last one that a blob gets before it is salvaged: all tries of earlier passes have failed,
    /// or a later pass may come too late.
    fn salvages(&self, feed: FeedIndex, wanted: &PendingBlob, tries: u32, now: Instant) -> bool {
        let is_last_day = || {
            let tenant = self.feeds.tenant_of(feed);
            let last_hours = self.microsoft_now(tenant, now) + SALVAGE_LAST_HOURS;
            self.clock.ahead(&self.feeds.tenant(tenant).tenant_id).is_some()
                && wanted.blob.expires().is_some_and(|expires| expires <= last_hours)
        };
        self.mode == Mode::Collect
            && tries >= self.settings.retries
            && (wanted.failed_passes + 1 >= SALVAGE_PASSES || is_last_day())
    }

    fn key(&self, feed: FeedIndex, wanted: &PendingBlob) -> BlobKey {
        let (tenant, content_type) = self.feeds.feed(feed);
        BlobKey::new(&tenant.tenant_id, content_type, &wanted.blob.content_id)
    }
}

impl ThinPages {
    fn add(&mut self, now: Instant) {
        self.number += 1;
        let lasts = now.saturating_duration_since(*self.since.get_or_insert(now));
        self.is_endless |= self.number >= THIN_PAGES_MAX
            || self.number >= THIN_PAGES_TIMED_MIN && lasts >= THIN_PAGES_LAST_MAX;
    }

    fn end_row(&mut self) {
        self.number = 0;
        self.since = None;
    }
}

impl FeedState {
    fn is_listed(&self) -> bool {
        self.is_begun && self.open_parts.iter().all(|parts| *parts == 0)
    }
}

impl TenantState {
    fn is_idle(&self) -> bool {
        self.first.is_empty() && self.pages.is_empty() && self.downloads.is_empty()
    }

    /// Whether there is work that was not tried before and can be expected to get done: a tenant that is throttled, or
    /// has had no good answer for this long, does not keep a pass going.
    fn has_fresh_work(&self, now: Instant, cancel: Duration) -> bool {
        let is_fresh = self.first.iter().chain(&self.pages).any(Attempt::is_fresh)
            || self.downloads.iter().any(|Reverse(download)| download.attempt.is_fresh());
        is_fresh && self.pace.paused_until(now).is_none() && now < self.succeeded_at + cancel
    }
}

/// Why a pass ends before its work does.
fn reason_of(stop: Stop) -> &'static str {
    match stop {
        Stop::Deadline => "globalTimeout is over",
        Stop::Interrupted => "SIGINT",
        Stop::Terminated => "SIGTERM",
        Stop::Stragglers => "Everything else has been done for an interval",
        Stop::Writer => "No output is left",
    }
}

/// Warns of a feed that had content before and has none any more: once a day, not at each pass.
fn warn_if_quiet(label: &str, last_blob: Option<Timestamp>, before: Option<Timestamp>, now: Timestamp) {
    let days = |until: Timestamp, from: Timestamp| {
        until.duration_since(from).as_secs().div_euclid(QUIET_FEED_NOTICE.as_secs())
    };
    let (Some(last), Some(before)) = (last_blob, before) else { return };
    if days(now, last) > days(before.max(last), last) {
        log::warn!(
            "No content for {label} since {last:.0}: if people still work there, check that auditing is on and that the \
             subscription is enabled"
        );
    }
}

/// What a pass that starts now makes of what earlier ones have learned about a tenant's pace.
fn learned(before: &TenantProgress, pass_start: Timestamp) -> Learned {
    let lasts =
        |at: Timestamp| (SignedDuration::ZERO..AUTO_REMEMBERED).contains(&pass_start.duration_since(at));
    Learned {
        requests_per_minute: before.requests_per_minute,
        is_plateau: before.throttled_at.is_some_and(lasts),
    }
}

/// Whether an output that has not failed gets something by this.
fn is_of_use(task: &Task, outputs_left: Option<OutputSet>) -> bool {
    match (task, outputs_left) {
        (Task::Download(_, wanted), Some(left)) => !left.without(wanted.delivered_to).is_empty(),
        _ => true,
    }
}

fn tenant_of(feeds: &Feeds, task: &Task) -> TenantIndex {
    match task {
        Task::LogIn(tenant) | Task::ListSubscriptions(tenant) => *tenant,
        Task::Subscribe(feed) | Task::ListPage(feed, _) | Task::Download(feed, _) => feeds.tenant_of(*feed),
    }
}

/// How the log names a feed where its tenant is named otherwise: `audit.exchange`.
fn feed_name(feeds: &Feeds, feed: FeedIndex) -> String {
    feeds.feed(feed).1.name().to_ascii_lowercase()
}
