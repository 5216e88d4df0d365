//! What is to be done next: the pass's whole state, owned by the main thread.
//!
//! A state machine: [`Schedule::next`] hands out the task that may run now, [`Schedule::done`] takes what came of it.
//! The time is passed in, so every policy here can be tested without a network or a clock: whose turn it is, what is
//! tried again and when, how many requests a tenant may make, what is given up.
//!
//! - Tenants take turns, one task each, so that a tenant with much to do does not hold up another one; and none has more
//!   threads than it leaves to others that are at work, so that one whose requests hang does not either.
//! - Within a tenant, first what everything else waits for (login, subscriptions), then pages, then blobs, oldest
//!   first. While many blobs wait for their download no further page is listed, so a backlog costs no memory.
//! - A tenant that is throttled, paced, or without a token leaves the round until it can go on; no thread waits for it.
//! - Each listed blob ends up in exactly one of [`Counts`]' fields; [`Schedule::finish`] asserts it.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};

use super::{
    Mode,
    feeds::{FeedIndex, Feeds, TenantIndex},
    plan::{FeedPlan, Reach, Window},
    work::{Answer, PageOf, Task, Wanted},
    write::Delivered,
};
use crate::{
    api::{
        Client, Failure, Page, Subscription, Token,
        pace::Pace,
        retry::{self, Verdict},
    },
    config::Collect,
    delivery::OutputSet,
    feed::Blob,
    limits::{
        CLOCK_TOLERANCE, PAGES_BEFORE_SPLIT, PAGES_MAX, REFUSED_TOKENS_MAX, THROTTLE_PAUSE_MAX,
        THROTTLES_MAX, TOKEN_LIFETIME, TOKEN_MARGIN, WAITING_BLOBS_MAX,
    },
    report::{Counts, FeedReport, Stop, Summary},
    state::{BlobKey, FeedProgress, KnownBlobs, Progress, Waiting},
};

/// The state of a pass.
pub struct Schedule<'a> {
    feeds: &'a Feeds,
    reach: Reach,
    /// When the pass began, by both clocks.
    began: (Instant, Timestamp),
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
    in_hand: HashMap<BlobKey, (FeedIndex, Wanted)>,
    /// Blobs that are not delivered everywhere when the pass ends.
    undelivered: Vec<Undelivered>,
    /// Blobs that are gone, to be remembered.
    gone: Vec<(FeedIndex, Wanted)>,
    stop: Option<Stop>,
    is_clock_reported: bool,
    sequence: u64,
}

struct Settings {
    /// Most attempts that run at a time.
    threads: usize,
    retries: u32,
    retry_delay: Duration,
    deadline: Option<Instant>,
}

/// What is known of a tenant's login, and what it has to do.
struct TenantState {
    pace: Pace,
    token: Option<CurrentToken>,
    /// The login to be made when a token is needed, and when it may be; `None` while one runs.
    login: Option<(Attempt, Instant)>,
    has_logged_in: bool,
    /// How far Microsoft's clock is ahead of this machine's.
    clock_ahead: SignedDuration,
    /// Tokens refused in a row, with no request accepted between them.
    refusals: u32,
    is_stopped: bool,
    is_in_round: bool,
    /// Attempts that run.
    running: usize,
    /// Throttling answers in a row.
    throttles: u32,
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
    /// Whether its listing was begun.
    is_begun: bool,
    is_stopped: bool,
    /// Whether this pass has tried to start the subscription.
    has_subscribed: bool,
    /// What went wrong last.
    last_error: Option<String>,
    /// Pages that wait for the subscription.
    pages: Vec<Attempt>,
    /// Blobs that wait from earlier passes and are not yet listed in this one.
    waiting: HashMap<BlobKey, Wanted>,
}

/// A blob that is not delivered everywhere.
struct Undelivered {
    feed: FeedIndex,
    wanted: Wanted,
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
}

impl Attempt {
    fn new(task: Task) -> Self {
        Self { task, tries: 0, throttles: 0, has_renewed: false, token_generation: 0 }
    }
}

/// A download, ordered by its blob's age; the sequence makes the order total.
struct Download {
    order: (Timestamp, u64),
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

impl<'a> Schedule<'a> {
    /// A pass that starts now: each tenant's first task is its login.
    pub fn new(
        feeds: &'a Feeds,
        mode: Mode,
        reach: Reach,
        collect: &Collect,
        known: KnownBlobs,
        before: &Progress,
        began: (Instant, Timestamp),
    ) -> Self {
        let (now, _) = began;
        let tenant = |index| TenantState {
            pace: Pace::new(collect.requests_per_minute),
            token: None,
            login: Some((Attempt::new(Task::LogIn(index)), now)),
            has_logged_in: false,
            clock_ahead: SignedDuration::ZERO,
            refusals: 0,
            is_stopped: false,
            is_in_round: true,
            running: 0,
            throttles: 0,
            first: VecDeque::new(),
            pages: VecDeque::new(),
            downloads: BinaryHeap::new(),
        };
        let mut schedule = Self {
            feeds,
            reach,
            began,
            mode,
            settings: Settings {
                threads: collect.threads,
                retries: collect.retries,
                retry_delay: collect.retry_delay,
                deadline: collect.deadline.map(|after| now + after),
            },
            known,
            listed: HashSet::new(),
            tenants: feeds.tenants().map(tenant).collect(),
            feed_states: feeds
                .feeds()
                .map(|feed| {
                    let (tenant, content_type) = feeds.feed(feed);
                    let before = before.feeds.get(&(tenant.tenant_id.clone(), content_type)).cloned();
                    FeedState { before, ..FeedState::default() }
                })
                .collect(),
            round: feeds.tenants().collect(),
            later: BinaryHeap::new(),
            sleeping: BinaryHeap::new(),
            running: 0,
            waiting_blobs: 0,
            in_hand: HashMap::new(),
            undelivered: Vec::new(),
            gone: Vec::new(),
            stop: None,
            is_clock_reported: false,
            sequence: 0,
        };
        for tenant in feeds.tenants() {
            schedule.push(Attempt::new(Task::ListSubscriptions(tenant)));
        }
        schedule
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
                    self.in_hand.insert(self.key(*feed, wanted), (*feed, wanted.clone()));
                }
                return Some((attempt, token));
            }
        }
        None
    }

    /// When [`Self::next`] is worth asking again, if nothing comes back meanwhile.
    pub fn next_at(&self) -> Option<Instant> {
        let later = self.later.peek().map(|Reverse(later)| later.order.0);
        let sleeping = self.sleeping.peek().map(|Reverse((at, _))| *at);
        let deadline = self.settings.deadline.filter(|_| self.stop.is_none());
        [later, sleeping, deadline].into_iter().flatten().min()
    }

    /// Whether nothing runs and nothing is left to run.
    pub fn is_over(&self) -> bool {
        self.running == 0 && self.later.is_empty() && self.tenants.iter().all(TenantState::is_idle)
    }

    /// Why the pass ends before its work does, if it does.
    pub fn stopped(&self) -> Option<Stop> {
        self.stop
    }

    /// A blob that waits from an earlier pass. It is wanted when the feed is listed: as it is listed then, or, if it is
    /// not listed any more, as it was.
    pub fn resume(&mut self, feed: FeedIndex, wanted: Wanted) {
        let key = self.key(feed, &wanted);
        self.feed_states[feed.place()].waiting.insert(key, wanted);
    }

    /// A blob of an earlier pass that has expired before it could be collected.
    pub fn expired(&mut self, feed: FeedIndex) {
        let counts = &mut self.feed_states[feed.place()].counts;
        counts.listed += 1;
        counts.gone += 1;
    }

    /// Starts nothing more. What runs is waited for; what waits is left for later.
    pub fn stop(&mut self, why: Stop) {
        if self.stop.is_some() {
            return;
        }
        self.stop = Some(why);
        let reason = match why {
            Stop::Deadline => "globalTimeout is over",
            Stop::Interrupted => "SIGINT",
            Stop::Terminated => "SIGTERM",
            Stop::Writer => "No output is left",
        };
        log::warn!("{reason}: the pass takes no new work; the next one goes on from here");
        for tenant in self.feeds.tenants() {
            self.drop_waiting(tenant, |_| true);
        }
        self.later.retain(|_| false);
    }

    /// A batch was committed.
    pub fn delivered(&mut self, blobs: &[Delivered]) {
        for delivered in blobs {
            let Some((feed, wanted)) = self.in_hand.remove(&delivered.key) else { continue };
            let counts = &mut self.feed_states[feed.place()].counts;
            counts.records += delivered.records;
            counts.duplicates += delivered.duplicates;
            if delivered.is_complete {
                counts.delivered += 1;
            } else {
                counts.failed += 1;
                let wanted = Wanted { delivered_to: delivered.has, ..wanted };
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
        attempt: Attempt,
        result: Result<Answer, Failure>,
        now: Instant,
    ) -> Vec<(FeedIndex, Blob)> {
        self.running -= 1;
        let tenant = self.tenant_of(&attempt.task);
        self.tenants[tenant.place()].running -= 1;
        self.rouse(tenant);
        match result {
            Ok(answer) => {
                let state = &mut self.tenants[tenant.place()];
                state.throttles = 0;
                if !matches!(attempt.task, Task::LogIn(_)) {
                    state.refusals = 0;
                }
                self.succeeded(attempt, answer, now)
            }
            Err(failure) => {
                self.failed(attempt, &failure, now);
                Vec::new()
            }
        }
    }

    /// Ends the books: what is still in somebody's hands was not delivered. Returns what the pass did, and what is to be
    /// remembered of its feeds: up to when each is listed, and the blobs that wait.
    pub fn finish(mut self, now: Timestamp) -> (Summary, Progress) {
        let is_failed = self.stop.is_none_or(|stop| stop == Stop::Writer);
        for (feed, wanted) in std::mem::take(&mut self.in_hand).into_values() {
            self.leave_blob(feed, &wanted, is_failed);
        }
        let mut progress = Progress::default();
        let mut reports = Vec::new();
        for feed in self.feeds.feeds() {
            let (tenant, content_type) = self.feeds.feed(feed);
            let state = &mut self.feed_states[feed.place()];
            let counts = state.counts;
            assert!(counts.is_balanced(), "every listed blob is in exactly one count: {counts:?}");
            let before = state.before.take().unwrap_or_default();
            let is_window_listed = |window: usize| state.open_parts.get(window) == Some(&0);
            let listed_until =
                if state.is_begun { state.plan.listed_until(now, is_window_listed) } else { None };
            let listed_until = listed_until.or(before.listed_until);
            let is_listed = state.is_listed();
            let has_succeeded = is_listed && counts.failed == 0 && counts.left == 0;
            let feed_progress = FeedProgress {
                listed_until,
                wanted_from: if state.is_begun { state.plan.wanted_from } else { before.wanted_from },
                last_success: if has_succeeded { Some(now) } else { before.last_success },
                last_error: state.last_error.take(),
            };
            progress.feeds.insert((tenant.tenant_id.clone(), content_type), feed_progress);
            let tenant = tenant.label().to_owned();
            reports.push(FeedReport { tenant, content_type, counts, is_listed, listed_until });
            // What waits from earlier passes and was not listed again still waits.
            let not_listed = std::mem::take(&mut state.waiting).into_values();
            self.undelivered.extend(not_listed.map(|wanted| Undelivered { feed, wanted, has_failed: true }));
        }
        for Undelivered { feed, wanted: Wanted { blob, delivered_to }, has_failed } in self.undelivered {
            let (tenant, content_type) = self.feeds.feed(feed);
            let tenant_id = tenant.tenant_id.clone();
            progress.waiting.push(Waiting { tenant_id, content_type, blob, delivered_to, has_failed });
        }
        let any_login = self.tenants.iter().any(|tenant| tenant.has_logged_in);
        (Summary { feeds: reports, any_login, stop: self.stop }, progress)
    }

    fn key(&self, feed: FeedIndex, wanted: &Wanted) -> BlobKey {
        BlobKey::new(&self.feeds.feed(feed).0.tenant_id, &wanted.blob.content_id)
    }
}

/// Whose turn it is.
impl Schedule<'_> {
    /// Moves what has come to its time.
    fn wake(&mut self, now: Instant) {
        while self.later.peek().is_some_and(|Reverse(later)| later.order.0 <= now) {
            if let Some(Reverse(Later { attempt, .. })) = self.later.pop() {
                self.push(attempt);
            }
        }
        while self.sleeping.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            if let Some(Reverse((_, tenant))) = self.sleeping.pop() {
                self.rouse(tenant);
            }
        }
    }

    /// Puts a tenant into the round, at its end.
    fn rouse(&mut self, tenant: TenantIndex) {
        let state = &mut self.tenants[tenant.place()];
        if !state.is_in_round {
            state.is_in_round = true;
            self.round.push_back(tenant);
        }
    }

    /// A tenant's next attempt; without one the tenant leaves the round, until it is roused.
    fn next_of(&mut self, tenant: TenantIndex, now: Instant) -> Option<(Attempt, Option<Arc<Token>>)> {
        let has_room = self.waiting_blobs < WAITING_BLOBS_MAX;
        let state = &mut self.tenants[tenant.place()];
        state.is_in_round = false;
        if state.is_idle() {
            return None;
        }
        if self.has_its_share(tenant) {
            self.rouse(tenant);
            return None;
        }
        let state = &mut self.tenants[tenant.place()];
        let Some(token) = state.token.as_ref().filter(|token| now < token.renew_at) else {
            let (login, at) = state.login.take()?;
            if now < at {
                state.login = Some((login, at));
                self.sleeping.push(Reverse((at, tenant)));
                return None;
            }
            state.is_in_round = true;
            return Some((login, None));
        };
        let token = Arc::clone(&token.token);
        if let Err(at) = state.pace.take(now) {
            self.sleeping.push(Reverse((at, tenant)));
            return None;
        }
        let may_list = has_room || state.downloads.is_empty(); // another tenant's backlog is not this one's
        let attempt = state
            .first
            .pop_front()
            .or_else(|| if may_list { state.pages.pop_front() } else { None })
            .or_else(|| state.downloads.pop().map(|Reverse(download)| download.attempt))?;
        if matches!(attempt.task, Task::Download(..)) {
            self.waiting_blobs -= 1;
        }
        state.is_in_round = true;
        Some((attempt, Some(token)))
    }

    /// Whether a tenant has as many threads as are left for others that are at work. So however many tenants hang,
    /// there is a thread for the next one.
    fn has_its_share(&self, tenant: TenantIndex) -> bool {
        let is_at_work = |other: &TenantState| other.running > 0 || (other.is_in_round && !other.is_idle());
        let others = || self.feeds.tenants().filter(|other| *other != tenant);
        self.tenants[tenant.place()].running >= self.settings.threads - self.running
            && others().any(|other| is_at_work(&self.tenants[other.place()]))
    }

    /// Queues an attempt to be run as soon as its tenant's turn comes.
    fn push(&mut self, attempt: Attempt) {
        let tenant = self.tenant_of(&attempt.task);
        if self.stop.is_some()
            || self.tenants[tenant.place()].is_stopped
            || self.is_feed_stopped(&attempt.task)
        {
            return self.leave(&attempt);
        }
        self.sequence += 1;
        let state = &mut self.tenants[tenant.place()];
        match &attempt.task {
            Task::LogIn(_) => unreachable!("a login waits in its tenant's state"),
            Task::ListSubscriptions(_) | Task::Subscribe(_) => state.first.push_back(attempt),
            Task::ListPage(..) => state.pages.push_back(attempt),
            Task::Download(_, wanted) => {
                self.waiting_blobs += 1;
                state
                    .downloads
                    .push(Reverse(Download { order: (wanted.blob.created, self.sequence), attempt }));
            }
        }
        self.rouse(tenant);
    }

    /// Queues an attempt to be run from then on.
    fn push_later(&mut self, attempt: Attempt, at: Instant) {
        if self.stop.is_some() {
            return self.leave(&attempt);
        }
        if let Task::LogIn(tenant) = attempt.task {
            self.tenants[tenant.place()].login = Some((attempt, at));
            return;
        }
        self.sequence += 1;
        self.later.push(Reverse(Later { order: (at, self.sequence), attempt }));
    }

    /// Counts what is not run because the pass, its tenant or its feed has ended.
    fn leave(&mut self, attempt: &Attempt) {
        if let Task::Download(feed, wanted) = &attempt.task {
            let is_failed = self.feed_states[feed.place()].is_stopped && self.stop.is_none();
            self.in_hand.remove(&self.key(*feed, wanted));
            self.leave_blob(*feed, wanted, is_failed);
        }
    }

    fn leave_blob(&mut self, feed: FeedIndex, wanted: &Wanted, is_failed: bool) {
        let counts = &mut self.feed_states[feed.place()].counts;
        if is_failed {
            counts.failed += 1;
        } else {
            counts.left += 1;
        }
        self.undelivered.push(Undelivered { feed, wanted: wanted.clone(), has_failed: is_failed });
    }

    /// Takes a tenant's waiting attempts away, those that `which` names, and counts them.
    fn drop_waiting(&mut self, tenant: TenantIndex, which: impl Fn(&Task) -> bool) {
        let mut dropped = Vec::new();
        let mut is_kept = |attempt: &Attempt| {
            let is_kept = !which(&attempt.task);
            if !is_kept {
                dropped.push(attempt.clone());
            }
            is_kept
        };
        let state = &mut self.tenants[tenant.place()];
        let waiting = state.downloads.len();
        state.first.retain(&mut is_kept);
        state.pages.retain(&mut is_kept);
        state.downloads.retain(|Reverse(download)| is_kept(&download.attempt));
        self.waiting_blobs -= waiting - state.downloads.len();
        let feeds = self.feeds;
        self.later.retain(|Reverse(later)| {
            tenant_of(feeds, &later.attempt.task) != tenant || is_kept(&later.attempt)
        });
        for attempt in dropped {
            self.leave(&attempt);
        }
    }

    fn tenant_of(&self, task: &Task) -> TenantIndex {
        tenant_of(self.feeds, task)
    }

    fn is_feed_stopped(&self, task: &Task) -> bool {
        task.feed().is_some_and(|feed| self.feed_states[feed.place()].is_stopped)
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
}

/// What comes of a success.
impl Schedule<'_> {
    fn succeeded(&mut self, attempt: Attempt, answer: Answer, now: Instant) -> Vec<(FeedIndex, Blob)> {
        if let Answer::Page(Page { is_blank: true, .. }) = answer
            && attempt.tries < self.settings.retries
        {
            self.try_again(attempt, &Failure::Malformed("empty".to_owned()), now);
            return Vec::new();
        }
        match (attempt.task, answer) {
            (Task::LogIn(tenant), Answer::Token(token)) => self.logged_in(tenant, token, now),
            (Task::ListSubscriptions(tenant), Answer::Subscriptions(running)) => {
                self.subscriptions_listed(tenant, &running, now);
            }
            (Task::Subscribe(feed), Answer::Subscribed) => {
                let suffix = self.feeds.suffix(self.feeds.tenant_of(feed));
                log::info!("Subscribed to feed {}{suffix}", feed_name(self.feeds, feed));
                self.subscribed(feed, now);
            }
            (Task::ListPage(feed, page_of), Answer::Page(page)) => {
                return self.page_listed(feed, page_of, page);
            }
            (Task::Download(feed, wanted), Answer::Handed(bytes)) => {
                self.feed_states[feed.place()].counts.bytes += bytes as u64;
                log::debug!("Downloaded blob {} of {}", wanted.blob.content_id, self.feeds.label(feed));
            }
            (Task::Download(..), Answer::WriterGone) => self.stop(Stop::Writer),
            (task, answer) => unreachable!("{answer:?} does not answer {task:?}"),
        }
        Vec::new()
    }

    fn logged_in(&mut self, tenant: TenantIndex, token: Token, now: Instant) {
        let suffix = self.feeds.suffix(tenant);
        let state = &mut self.tenants[tenant.place()];
        if state.has_logged_in {
            log::debug!("Renewed the token{suffix}");
        } else {
            log::info!("Successfully logged in to Office Management API{suffix}");
        }
        state.has_logged_in = true;
        if let Some(ahead) = token.clock_ahead.filter(|ahead| ahead.abs() > CLOCK_TOLERANCE) {
            state.clock_ahead = ahead;
            if !self.is_clock_reported {
                self.is_clock_reported = true;
                let side = if ahead.is_positive() { "behind" } else { "ahead of" };
                log::warn!(
                    "This machine's clock is {} {side} Microsoft's; what is listed is corrected by that, but set the \
                     clock (timedatectl set-ntp true)",
                    in_words(ahead.unsigned_abs())
                );
            }
        }
        let state = &mut self.tenants[tenant.place()];
        state.login = Some((Attempt::new(Task::LogIn(tenant)), now));
        let generation = state.token.as_ref().map_or(1, |token| token.generation + 1);
        let lifetime = token.lifetime.clamp(*TOKEN_LIFETIME.start(), *TOKEN_LIFETIME.end());
        let renew_at = now + lifetime.saturating_sub(TOKEN_MARGIN.min(lifetime / 4));
        state.token = Some(CurrentToken { token: Arc::new(token), renew_at, generation });
    }

    fn subscriptions_listed(&mut self, tenant: TenantIndex, running: &[Subscription], now: Instant) {
        let suffix = self.feeds.suffix(tenant);
        for feed in self.feeds.feeds_of(tenant) {
            let (_, content_type) = self.feeds.feed(feed);
            if running.iter().any(|entry| entry.enabled && entry.content_type == Some(content_type)) {
                log::info!("Already subscribed to feed {}{suffix}", feed_name(self.feeds, feed));
                self.list(feed, now);
            } else if self.mode == Mode::DryRun {
                log::warn!(
                    "No subscription to feed {}{suffix}: a pass would start it",
                    feed_name(self.feeds, feed)
                );
                self.feed_states[feed.place()].is_begun = true; // with nothing to list
            } else {
                self.feed_states[feed.place()].has_subscribed = true;
                self.push(Attempt::new(Task::Subscribe(feed)));
            }
        }
    }

    /// The feed's subscription runs: its pages can be listed, from the start or from where that was missed.
    fn subscribed(&mut self, feed: FeedIndex, now: Instant) {
        let pages = std::mem::take(&mut self.feed_states[feed.place()].pages);
        if pages.is_empty() {
            self.list(feed, now);
        }
        for page in pages {
            self.push(page);
        }
    }

    /// Plans what is to be listed, by Microsoft's clock, and begins with it.
    fn list(&mut self, feed: FeedIndex, now: Instant) {
        let (began_at, began) = self.began;
        let ahead = self.tenants[self.feeds.tenant_of(feed).place()].clock_ahead;
        let their_now = began + now.duration_since(began_at) + ahead;
        let state = &mut self.feed_states[feed.place()];
        let plan = FeedPlan::new(their_now, self.reach, state.before.as_ref());
        if let Some(missed) = plan.missed {
            log::error!(
                "Content lost for {}: what became available from {} to {} was not listed in time, and the API lists \
                 only 7 days; run the collector more often",
                self.feeds.label(feed),
                missed.start,
                missed.end
            );
        }
        state.is_begun = true;
        state.open_parts = vec![1; plan.windows.len()];
        state.plan = plan.clone();
        for (window, &period) in plan.windows.iter().enumerate() {
            self.list_part(feed, window, period, false);
        }
        if plan.windows.is_empty() && self.mode != Mode::DryRun {
            let waiting = self.take_waiting(feed).collect();
            self.want(feed, waiting);
        }
    }

    fn list_part(&mut self, feed: FeedIndex, window: usize, period: Window, is_part: bool) {
        let (tenant, content_type) = self.feeds.feed(feed);
        let url = Client::first_page(tenant, content_type, period.start, period.end);
        let (number, restarts, is_readable) = (1, 0, true);
        let page = PageOf { window, is_part, first_url: url.clone(), url, number, restarts, is_readable };
        self.feed_states[feed.place()].running_parts += 1;
        self.push(Attempt::new(Task::ListPage(feed, page)));
    }

    /// A part is listed to its end, or given up. After the last one, what waits from earlier passes and was not listed
    /// is wanted as it was listed then.
    fn part_ended(&mut self, feed: FeedIndex) -> Vec<Wanted> {
        let state = &mut self.feed_states[feed.place()];
        state.running_parts -= 1;
        if state.running_parts == 0 { self.take_waiting(feed).collect() } else { Vec::new() }
    }

    fn page_listed(&mut self, feed: FeedIndex, mut page_of: PageOf, page: Page) -> Vec<(FeedIndex, Blob)> {
        if let Some(id) = &page.unreadable {
            // The other blobs are taken; but the window is not listed, so that the next pass finds out again.
            page_of.is_readable = false;
            log::error!(
                "Listing failed for {}: blob {id:?} has an unreadable id or time; the others are collected, and the \
                 next pass lists them again",
                self.feeds.label(feed)
            );
        }
        let (tenant, _) = self.feeds.feed(feed);
        let wanted_from = self.feed_states[feed.place()].plan.wanted_from.unwrap_or(Timestamp::MIN);
        let mut wanted = Vec::new();
        for blob in page.blobs.into_iter().filter(|blob| blob.created >= wanted_from) {
            let key = BlobKey::new(&tenant.tenant_id, &blob.content_id);
            if !self.listed.insert(key) {
                continue;
            }
            let mut feeds = self.feeds.feeds_of(self.feeds.tenant_of(feed));
            let waiting = feeds.find_map(|feed| self.feed_states[feed.place()].waiting.remove(&key));
            let delivered_to = waiting.map_or(OutputSet::EMPTY, |waiting| waiting.delivered_to);
            let state = &mut self.feed_states[feed.place()];
            if self.known.contains(&tenant.tenant_id, &blob.content_id) {
                state.counts.listed += 1;
                state.counts.known += 1;
            } else {
                wanted.push(Wanted { blob, delivered_to });
            }
        }
        match page.next {
            Some(_) if page_of.number == PAGES_BEFORE_SPLIT && !page_of.is_part => {
                let hours = self.feed_states[feed.place()].plan.windows[page_of.window].hours();
                self.feed_states[feed.place()].open_parts[page_of.window] = hours.len();
                for hour in hours {
                    self.list_part(feed, page_of.window, hour, true);
                }
                wanted.extend(self.part_ended(feed));
            }
            Some(url) if url != page_of.url && page_of.number < PAGES_MAX => {
                let next = PageOf { url, number: page_of.number + 1, ..page_of };
                self.push(Attempt::new(Task::ListPage(feed, next)));
            }
            Some(_) => {
                let label = self.feeds.label(feed);
                let number = page_of.number;
                log::error!(
                    "Listing failed for {label}: the API names ever more pages after page {number}; the next pass \
                     lists it again"
                );
                self.feed_states[feed.place()].last_error = Some("the API names ever more pages".to_owned());
                wanted.extend(self.part_ended(feed));
            }
            None => {
                let state = &mut self.feed_states[feed.place()];
                state.open_parts[page_of.window] -= usize::from(page_of.is_readable);
                wanted.extend(self.part_ended(feed));
            }
        }
        self.want(feed, wanted)
    }

    /// The blobs that wait for a feed and were not listed; from now on they count as listed.
    fn take_waiting(&mut self, feed: FeedIndex) -> impl Iterator<Item = Wanted> + use<> {
        let waiting = std::mem::take(&mut self.feed_states[feed.place()].waiting);
        self.listed.extend(waiting.keys());
        waiting.into_values()
    }

    /// Queues blobs for their download. In a dry run they are returned instead.
    fn want(&mut self, feed: FeedIndex, wanted: Vec<Wanted>) -> Vec<(FeedIndex, Blob)> {
        let counts = &mut self.feed_states[feed.place()].counts;
        counts.listed += wanted.len() as u64;
        if self.mode == Mode::DryRun {
            counts.left += wanted.len() as u64;
            return wanted.into_iter().map(|wanted| (feed, wanted.blob)).collect();
        }
        for wanted in wanted {
            self.push(Attempt::new(Task::Download(feed, wanted)));
        }
        Vec::new()
    }
}

/// What comes of a failure.
impl Schedule<'_> {
    fn failed(&mut self, mut attempt: Attempt, failure: &Failure, now: Instant) {
        if self.stop.is_some() {
            return self.leave(&attempt); // its connection may have been cut because of that
        }
        let tenant = self.tenant_of(&attempt.task);
        let verdict = match &attempt.task {
            Task::LogIn(_) => retry::judge_login(failure),
            _ => retry::judge(failure),
        };
        match verdict {
            Verdict::TryAgain => self.try_again(attempt, failure, now),
            Verdict::Throttled { after } => self.throttled(attempt, failure, after, now),
            Verdict::RenewToken => self.renew_token(attempt, failure, now),
            Verdict::Subscribe => self.subscribe_first(attempt, failure),
            Verdict::ListAgain => {
                if let Task::ListPage(_, page) = &mut attempt.task {
                    attempt.tries = attempt.tries.max(page.restarts);
                    let restarts = page.restarts + 1;
                    *page = PageOf {
                        url: page.first_url.clone(),
                        number: 1,
                        restarts,
                        is_readable: true,
                        ..page.clone()
                    };
                }
                self.try_again(attempt, failure, now);
            }
            Verdict::Done => match attempt.task {
                Task::Subscribe(feed) => {
                    let suffix = self.feeds.suffix(tenant);
                    log::info!("Already subscribed to feed {}{suffix}", feed_name(self.feeds, feed));
                    self.subscribed(feed, now);
                }
                _ => self.give_up(&attempt, failure),
            },
            Verdict::Gone => self.gone(&attempt, failure),
            Verdict::GiveUp => self.give_up(&attempt, failure),
            Verdict::StopFeed => {
                if let Some(feed) = attempt.task.feed() {
                    self.stop_feed(feed);
                }
                self.give_up(&attempt, failure);
            }
            Verdict::StopTenant => self.stop_tenant(&attempt, failure),
        }
    }

    fn try_again(&mut self, mut attempt: Attempt, failure: &Failure, now: Instant) {
        attempt.tries += 1;
        if attempt.tries > self.settings.retries {
            return self.give_up(&attempt, failure);
        }
        let delay = if retry::is_due_at_once(failure, attempt.tries) {
            Duration::ZERO
        } else {
            retry::delay(self.settings.retry_delay, attempt.tries, fastrand::f64())
        };
        let what = match &attempt.task {
            Task::LogIn(tenant) => format!("login for {}", self.feeds.tenant(*tenant).label()),
            Task::ListSubscriptions(tenant) => {
                format!("list of subscriptions for {}", self.feeds.tenant(*tenant).label())
            }
            Task::Subscribe(feed) => format!("subscription for {}", self.feeds.label(*feed)),
            Task::ListPage(feed, _) => format!("listing for {}", self.feeds.label(*feed)),
            Task::Download(feed, wanted) => {
                self.feed_states[feed.place()].counts.retried += u64::from(attempt.tries == 1);
                format!("blob download for {} blob {}", self.feeds.label(*feed), wanted.blob.content_id)
            }
        };
        log::warn!(
            "Retrying {what} in {:.1} s (try {} of {}): {failure}",
            delay.as_secs_f64(),
            attempt.tries + 1,
            self.settings.retries + 1
        );
        self.push_later(attempt, now + delay);
    }

    /// The request is made again with a new token; unless it was the cause itself, or every new token is refused too.
    fn renew_token(&mut self, mut attempt: Attempt, failure: &Failure, now: Instant) {
        let tenant = self.tenant_of(&attempt.task);
        let state = &mut self.tenants[tenant.place()];
        let current = state.token.as_mut().filter(|token| token.generation == attempt.token_generation);
        if let Some(token) = current.filter(|token| now < token.renew_at) {
            // It stays in its place, so that its successor has another generation, but is not used again.
            token.renew_at = now;
            state.refusals += 1;
        }
        if state.refusals > REFUSED_TOKENS_MAX {
            self.stop_tenant(&attempt, failure);
        } else if attempt.has_renewed {
            self.give_up(&attempt, failure);
        } else {
            attempt.has_renewed = true;
            self.push(attempt);
        }
    }

    /// All of the tenant's requests wait, and no other's. The request that met it keeps its tries.
    fn throttled(&mut self, mut attempt: Attempt, failure: &Failure, after: Option<Duration>, now: Instant) {
        attempt.throttles += 1;
        if let Some(feed) = attempt.task.feed() {
            self.feed_states[feed.place()].counts.throttled += 1;
        }
        if attempt.throttles > THROTTLES_MAX {
            return self.give_up(&attempt, failure);
        }
        let tenant = self.tenant_of(&attempt.task);
        let state = &mut self.tenants[tenant.place()];
        state.throttles += 1;
        let pause = after
            .unwrap_or_else(|| retry::delay(self.settings.retry_delay, state.throttles, fastrand::f64()));
        let pause = pause.min(THROTTLE_PAUSE_MAX);
        state.pace.pause(now + pause);
        log::warn!(
            "Throttled: {} makes no request for {:.1} s: {failure}",
            self.feeds.tenant(tenant).label(),
            pause.as_secs_f64()
        );
        self.push_later(attempt, now + pause);
    }

    /// The page waits until the subscription is started, once in a pass.
    fn subscribe_first(&mut self, attempt: Attempt, failure: &Failure) {
        let Task::ListPage(feed, _) = attempt.task else {
            return self.give_up(&attempt, failure);
        };
        let state = &mut self.feed_states[feed.place()];
        if !state.has_subscribed {
            state.has_subscribed = true;
            self.push(Attempt::new(Task::Subscribe(feed)));
        } else if state.pages.is_empty() {
            return self.give_up(&attempt, failure);
        }
        self.feed_states[feed.place()].pages.push(attempt);
    }

    /// Nobody can fetch the blob any more: said once, and remembered, so that nobody asks for it again.
    fn gone(&mut self, attempt: &Attempt, failure: &Failure) {
        let Task::Download(feed, wanted) = &attempt.task else {
            return self.give_up(attempt, failure);
        };
        self.feed_states[feed.place()].counts.gone += 1;
        self.in_hand.remove(&self.key(*feed, wanted));
        let (label, id) = (self.feeds.label(*feed), &wanted.blob.content_id);
        log::error!("Blob gone for {label} blob {id}: {}; its records are lost", failure.advice());
        self.gone.push((*feed, wanted.clone()));
    }

    /// The blobs that turned out to be gone since this was last asked.
    pub fn take_gone(&mut self) -> Vec<(FeedIndex, Wanted)> {
        std::mem::take(&mut self.gone)
    }

    /// Says what failed, to whom, why, and what to do; and counts it.
    fn give_up(&mut self, attempt: &Attempt, failure: &Failure) {
        let advice = failure.advice();
        let tenant = self.tenant_of(&attempt.task);
        for feed in
            attempt.task.feed().map_or_else(|| self.feeds.feeds_of(tenant).collect(), |feed| vec![feed])
        {
            self.feed_states[feed.place()].last_error = Some(advice.clone());
        }
        match &attempt.task {
            Task::LogIn(tenant) => {
                let label = self.feeds.tenant(*tenant).label();
                log::error!("Authentication failed for {label}: {advice}");
                self.stop_all_of(*tenant);
            }
            Task::ListSubscriptions(tenant) => {
                let label = self.feeds.tenant(*tenant).label();
                log::error!("Subscription failed for {label}: the list of subscriptions: {advice}");
                self.stop_all_of(*tenant);
            }
            Task::Subscribe(feed) => {
                log::error!("Subscription failed for {}: {advice}", self.feeds.label(*feed));
                self.stop_feed(*feed);
            }
            Task::ListPage(feed, _) => {
                log::error!("Listing failed for {}: {advice}", self.feeds.label(*feed));
                let wanted = self.part_ended(*feed);
                self.want(*feed, wanted);
            }
            Task::Download(feed, wanted) => {
                let (label, id) = (self.feeds.label(*feed), &wanted.blob.content_id);
                log::error!("Blob download failed for {label} blob {id}: {advice}");
                self.in_hand.remove(&self.key(*feed, wanted));
                self.leave_blob(*feed, wanted, true);
            }
        }
    }

    /// Nothing more of this feed in this pass.
    fn stop_feed(&mut self, feed: FeedIndex) {
        self.feed_states[feed.place()].is_stopped = true;
        self.drop_waiting(self.feeds.tenant_of(feed), |task| task.feed() == Some(feed));
    }

    /// Nothing more of this tenant in this pass; said once, by the task that met the cause.
    fn stop_tenant(&mut self, attempt: &Attempt, failure: &Failure) {
        let tenant = self.tenant_of(&attempt.task);
        let was_stopped = self.tenants[tenant.place()].is_stopped;
        self.stop_all_of(tenant);
        if was_stopped {
            self.leave(attempt);
        } else {
            self.give_up(attempt, failure);
        }
    }

    fn stop_all_of(&mut self, tenant: TenantIndex) {
        self.tenants[tenant.place()].is_stopped = true;
        for feed in self.feeds.feeds_of(tenant) {
            self.feed_states[feed.place()].is_stopped = true;
        }
        self.drop_waiting(tenant, |_| true);
    }
}

fn tenant_of(feeds: &Feeds, task: &Task) -> TenantIndex {
    match task {
        Task::LogIn(tenant) | Task::ListSubscriptions(tenant) => *tenant,
        Task::Subscribe(feed) | Task::ListPage(feed, _) | Task::Download(feed, _) => feeds.tenant_of(*feed),
    }
}

/// `2 h 3 min`, or `75 s` if that is more fitting.
fn in_words(duration: Duration) -> String {
    match duration.as_secs() {
        seconds if seconds < 120 => format!("{seconds} s"),
        seconds if seconds < 7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// How the log names a feed where its tenant is named otherwise: `audit.exchange`.
fn feed_name(feeds: &Feeds, feed: FeedIndex) -> String {
    feeds.feed(feed).1.name().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, path::PathBuf};

    use proptest::prelude::*;

    use super::*;
    use crate::{
        config::{Cloud, Credential, Secret, Tenant},
        feed::ContentType,
        state::Progress,
    };

    const HOUR: Duration = Duration::from_secs(60 * 60);

    fn pass_start() -> Timestamp {
        "2026-11-22T10:30:00Z".parse().expect("a time of the test")
    }

    /// So many tenants, each with these feeds.
    fn feeds(tenants: usize, subscriptions: &[ContentType]) -> Feeds {
        let tenant = |number| Tenant {
            tenant_id: format!("{number:08}-1111-4111-8111-111111111111"),
            client_id: String::new(),
            credential: Credential::Secret(Secret::new("s")),
            name: None,
            publisher_id: String::new(),
            cloud: Cloud::Commercial,
            login_url: String::new(),
            api_url: String::new(),
            subscriptions: subscriptions.to_vec(),
        };
        Feeds::new((0..tenants).map(tenant).collect())
    }

    /// A pass that looks back an hour: one window a feed.
    fn begin<'a>(feeds: &'a Feeds, settings: &Collect, now: Instant) -> Schedule<'a> {
        let reach = Reach { look_back: HOUR, is_whole: true, only_future: false };
        let (known, before) = (KnownBlobs::default(), Progress::default());
        Schedule::new(feeds, Mode::Collect, reach, settings, known, &before, (now, pass_start()))
    }

    fn collect(threads: usize) -> Collect {
        Collect {
            working_dir: PathBuf::new(),
            held_records_max: 1,
            held_bytes_max: 1,
            body_bytes_max: 1,
            threads,
            requests_per_minute: 1_000_000,
            retries: 3,
            retry_delay: Duration::from_secs(2),
            request_timeout: Duration::from_secs(60),
            skip_known: true,
            dedup: HOUR,
            look_back: HOUR,
            deadline: None,
            filters: Vec::new(),
        }
    }

    fn blobs(name: &str, count: usize) -> Vec<Blob> {
        let blob = |number| Blob {
            content_id: format!("{name}${number}"),
            content_uri: String::new(),
            created: pass_start(),
            expiration: "2026-11-29T10:30:00Z".to_owned(),
        };
        (0..count).map(blob).collect()
    }

    fn refused(status: u16, retry_after: Option<Duration>) -> Failure {
        Failure::Refused { status, code: String::new(), message: String::new(), retry_after }
    }

    fn tenant(task: &Task, feeds: &Feeds) -> usize {
        tenant_of(feeds, task).place()
    }

    /// What the API answers when all is well: each feed has these blobs, on one page.
    fn good_answer(feeds: &Feeds, task: &Task, blobs: &dyn Fn(FeedIndex) -> Vec<Blob>) -> Answer {
        match task {
            Task::LogIn(_) => Answer::Token(Token::of_a_test(HOUR)),
            Task::ListSubscriptions(tenant) => {
                let running = |feed| Subscription { content_type: Some(feeds.feed(feed).1), enabled: true };
                Answer::Subscriptions(feeds.feeds_of(*tenant).map(running).collect())
            }
            Task::Subscribe(_) => Answer::Subscribed,
            Task::ListPage(feed, _) => {
                Answer::Page(Page { blobs: blobs(*feed), next: None, unreadable: None, is_blank: false })
            }
            Task::Download(..) => Answer::Handed(1),
        }
    }

    /// What the writer says once it has a blob safe.
    fn delivered(schedule: &mut Schedule<'_>, feed: FeedIndex, wanted: &Wanted) {
        let key = schedule.key(feed, wanted);
        let has = OutputSet::EMPTY;
        schedule.delivered(&[Delivered { key, feed, has, is_complete: true, records: 1, duplicates: 0 }]);
    }

    /// Does all that is handed out, well, until only downloads are; gives back those that were.
    fn until_downloads(
        schedule: &mut Schedule<'_>,
        feeds: &Feeds,
        now: Instant,
        blobs: &dyn Fn(FeedIndex) -> Vec<Blob>,
    ) -> Vec<Attempt> {
        let mut downloads = Vec::new();
        while let Some((attempt, _)) = schedule.next(now) {
            if matches!(attempt.task, Task::Download(..)) {
                downloads.push(attempt);
            } else {
                let answer = good_answer(feeds, &attempt.task, blobs);
                schedule.done(attempt, Ok(answer), now);
            }
        }
        downloads
    }

    fn download_well(schedule: &mut Schedule<'_>, attempt: Attempt, now: Instant) {
        let Task::Download(feed, wanted) = attempt.task.clone() else { panic!("no download: {attempt:?}") };
        schedule.done(attempt, Ok(Answer::Handed(1)), now);
        delivered(schedule, feed, &wanted);
    }

    fn total(summary: &Summary) -> Counts {
        assert_eq!(summary.feeds.len(), 1);
        summary.feeds[0].counts
    }

    #[test]
    fn the_deadline_stops_new_work_and_what_is_left_is_counted() {
        let (feeds, start) = (feeds(1, &[ContentType::DlpAll]), Instant::now());
        let settings = Collect { deadline: Some(Duration::from_secs(60)), ..collect(2) };
        let mut schedule = begin(&feeds, &settings, start);
        let mut running = until_downloads(&mut schedule, &feeds, start, &|_| blobs("a", 5));
        assert_eq!(running.len(), 2);
        let deadline = start + Duration::from_secs(60);
        download_well(&mut schedule, running.pop().expect("two"), deadline);
        assert!(schedule.next(deadline).is_none() && !schedule.is_over());
        assert_eq!(schedule.stopped(), Some(Stop::Deadline));
        download_well(&mut schedule, running.pop().expect("two"), deadline);
        assert!(schedule.is_over());
        let (summary, progress) = schedule.finish(pass_start());
        let counts = total(&summary);
        assert_eq!((counts.listed, counts.delivered, counts.left), (5, 2, 3));
        assert_eq!(progress.waiting.len(), 3);
    }

    #[test]
    fn a_throttled_tenant_waits_while_another_goes_on() {
        let (feeds, start) = (feeds(2, &[ContentType::DlpAll]), Instant::now());
        let mut schedule = begin(&feeds, &collect(2), start);
        let running = until_downloads(&mut schedule, &feeds, start, &|_| blobs("a", 20));
        let pause = Duration::from_secs(30);
        for attempt in running {
            if tenant(&attempt.task, &feeds) == 0 {
                schedule.done(attempt, Err(refused(429, Some(pause))), start);
            } else {
                download_well(&mut schedule, attempt, start);
            }
        }
        let mut others = 0;
        while let Some((attempt, _)) = schedule.next(start + pause / 2) {
            assert_eq!(tenant(&attempt.task, &feeds), 1, "the throttled tenant waits");
            others += 1;
            download_well(&mut schedule, attempt, start + pause / 2);
        }
        assert!(others >= 18, "the other one goes on");
        assert_eq!(schedule.next_at(), Some(start + pause));
        let mut throttled = 0;
        while let Some((attempt, _)) = schedule.next(start + pause) {
            throttled += usize::from(tenant(&attempt.task, &feeds) == 0);
            download_well(&mut schedule, attempt, start + pause);
        }
        assert!(throttled >= 18 && schedule.is_over());
    }

    /// How many attempts of tenant 0 are handed out before the first download of tenant 1, if tenant 1 logs in only
    /// when so many blobs of tenant 0 wait. `None` if that never comes.
    fn attempts_before_a_newcomer(backlog: usize) -> Option<usize> {
        let (feeds, now) = (feeds(2, &[ContentType::DlpAll]), Instant::now());
        let mut schedule = begin(&feeds, &collect(4), now);
        let has = |feed: FeedIndex| if feed.place() == 0 { blobs("a", backlog) } else { blobs("b", 1) };
        let mut newcomer = None;
        let mut running = Vec::new();
        while let Some((attempt, _)) = schedule.next(now) {
            match attempt.task {
                Task::LogIn(tenant) if tenant.place() == 1 => newcomer = Some(attempt),
                Task::Download(..) => running.push(attempt),
                _ => {
                    let answer = good_answer(&feeds, &attempt.task, &has);
                    schedule.done(attempt, Ok(answer), now);
                }
            }
        }
        schedule.done(newcomer?, Ok(Answer::Token(Token::of_a_test(HOUR))), now);
        let mut before = 0;
        while before < 100 {
            while let Some((attempt, _)) = schedule.next(now) {
                if tenant(&attempt.task, &feeds) == 0 {
                    before += 1;
                } else if matches!(attempt.task, Task::Download(..)) {
                    return Some(before);
                }
                running.push(attempt);
            }
            let attempt = running.remove(0);
            if matches!(attempt.task, Task::Download(..)) {
                download_well(&mut schedule, attempt, now);
            } else {
                let answer = good_answer(&feeds, &attempt.task, &has);
                schedule.done(attempt, Ok(answer), now);
            }
        }
        None
    }

    #[test]
    fn a_tenant_with_a_thousand_blobs_does_not_hold_up_another_ones_single_blob() {
        let before = attempts_before_a_newcomer(1_000).expect("the newcomer's turn comes");
        assert!(before <= 12, "{before}");
    }

    #[test]
    fn a_token_is_renewed_once_for_many_tasks() {
        let (feeds, start) = (feeds(1, &[ContentType::DlpAll]), Instant::now());
        let mut schedule = begin(&feeds, &collect(10), start);
        let running = until_downloads(&mut schedule, &feeds, start, &|_| blobs("a", 100));
        assert_eq!(running.len(), 10);
        let later = start + HOUR;
        for attempt in running {
            schedule.done(attempt, Err(refused(401, None)), later);
        }
        let (login, token) = schedule.next(later).expect("a login");
        assert!(matches!(login.task, Task::LogIn(_)) && token.is_none());
        assert!(schedule.next(later).is_none(), "everything else waits for it");
        schedule.done(login, Ok(Answer::Token(Token::of_a_test(HOUR))), later);
        let mut downloads = 0;
        while let Some((attempt, token)) = schedule.next(later) {
            assert!(token.is_some());
            downloads += 1;
            download_well(&mut schedule, attempt, later);
        }
        assert_eq!(downloads, 100);
    }

    #[test]
    fn a_login_that_fails_in_passing_is_tried_again_later_and_the_rest_of_the_tenant_waits() {
        let (feeds, start) = (feeds(1, &[ContentType::DlpAll]), Instant::now());
        let mut schedule = begin(&feeds, &collect(10), start);
        let mut now = start;
        for failures in 0..3_u32 {
            let (login, _) = schedule.next(now).expect("a login");
            assert!(matches!(login.task, Task::LogIn(_)), "{failures} failures");
            assert!(schedule.next(now).is_none());
            schedule.done(login, Err(refused(503, None)), now);
            assert!(schedule.next(now).is_none() && !schedule.is_over());
            let at = schedule.next_at().expect("another try");
            assert!(at >= now + Duration::from_secs(1 << failures), "the wait doubles");
            now = at;
        }
        assert_eq!(until_downloads(&mut schedule, &feeds, now, &|_| blobs("a", 3)).len(), 3);
    }

    #[test]
    fn a_tenant_whose_tokens_are_all_refused_is_given_up_after_a_few() {
        let (feeds, now) = (feeds(1, &ContentType::ALL), Instant::now());
        for accepted in [0, 1, 6] {
            let mut schedule = begin(&feeds, &collect(10), now);
            let (mut logins, mut requests) = (0, 0);
            while let Some((attempt, _)) = schedule.next(now) {
                if matches!(attempt.task, Task::LogIn(_)) {
                    logins += 1;
                    schedule.done(attempt, Ok(Answer::Token(Token::of_a_test(HOUR))), now);
                } else if requests < accepted {
                    requests += 1;
                    let answer =
                        good_answer(&feeds, &attempt.task, &|feed| blobs(&feed.place().to_string(), 100));
                    schedule.done(attempt, Ok(answer), now);
                } else {
                    requests += 1;
                    schedule.done(attempt, Err(refused(401, None)), now);
                }
            }
            assert!(schedule.is_over());
            assert!(logins <= 1 + REFUSED_TOKENS_MAX, "{logins} logins");
            assert!(requests <= accepted + 10, "{requests} requests");
            schedule.finish(pass_start());
        }
    }

    fn failure(random: &mut fastrand::Rng) -> Failure {
        let code = |status, code: &str| Failure::Refused {
            status,
            code: code.to_owned(),
            message: String::new(),
            retry_after: None,
        };
        match random.u8(..16) {
            0 => refused(401, None),
            1 => refused(429, Some(Duration::from_secs(random.u64(..3000)))),
            2 => code(403, "AF429"),
            3 => code(400, "AF20022"),
            4 => code(400, "AF20024"),
            5 => code(400, "AF20031"),
            6 => code(404, "AF20050"),
            7 => code(400, "AF20020"),
            8 => code(403, "AF10001"),
            9 => refused(403, None),
            10 => Failure::Malformed("cut short".to_owned()),
            _ => refused(503, None),
        }
    }

    /// Runs a pass in which everything may fail, and holds the books against what was seen.
    fn any_pass(seed: u64) {
        let mut random = fastrand::Rng::with_seed(seed);
        let random = &mut random;
        let types = &ContentType::ALL[..random.usize(1..=3)];
        let (feeds, start) = (feeds(random.usize(1..4), types), Instant::now());
        let settings = Collect {
            deadline: (random.u8(..4) == 0).then(|| Duration::from_secs(random.u64(1..90))),
            requests_per_minute: if random.bool() { 30 } else { 1_000_000 },
            ..collect(random.usize(1..6))
        };
        let failures_of_hundred = [0, 5, 50, 100][random.usize(..4)];
        let mut schedule = begin(&feeds, &settings, start);
        let pages = Cell::new(0_usize);
        let mut running: Vec<Attempt> = Vec::new();
        let mut with_writer = Vec::new();
        let (mut listed, mut safe, mut gone) = (HashSet::new(), HashSet::new(), HashSet::new());
        let mut now = start;
        let mut steps = 0;
        loop {
            steps += 1;
            assert!(steps < 20_000, "the pass never ends");
            while let Some((attempt, token)) = schedule.next(now) {
                assert_eq!(token.is_none(), matches!(attempt.task, Task::LogIn(_)));
                assert!(running.iter().all(|other| other.task != attempt.task), "{attempt:?} runs twice");
                if let Task::Download(feed, wanted) = &attempt.task {
                    let key = schedule.key(*feed, wanted);
                    assert!(!safe.contains(&key) && !gone.contains(&key), "{attempt:?} comes again");
                }
                running.push(attempt);
                assert!(running.len() <= settings.threads);
            }
            if schedule.is_over() {
                break;
            }
            if running.is_empty() {
                now = schedule.next_at().expect("something to wait for").max(now);
                continue;
            }
            now += Duration::from_millis(random.u64(..2000));
            let attempt = running.swap_remove(random.usize(..running.len()));
            let result = if random.u8(..100) < failures_of_hundred {
                Err(failure(random))
            } else {
                let fresh = |_| {
                    pages.set(pages.get() + 1);
                    blobs(&format!("page {}", pages.get() / 2), 7) // some are listed again
                };
                let mut answer = good_answer(&feeds, &attempt.task, &fresh);
                if let (Answer::Page(page), Task::ListPage(feed, page_of)) = (&mut answer, &attempt.task) {
                    let tenant_id = &feeds.feed(*feed).0.tenant_id;
                    listed.extend(page.blobs.iter().map(|blob| BlobKey::new(tenant_id, &blob.content_id)));
                    page.next =
                        (random.u8(..3) > 0 && page_of.number < 5).then(|| format!("{}", pages.get()));
                }
                if let (Answer::Token(token), true) = (&mut answer, random.bool()) {
                    *token = Token::of_a_test(Duration::from_secs(random.u64(60..100)));
                }
                if let Task::Download(feed, wanted) = &attempt.task {
                    with_writer.push((*feed, wanted.clone()));
                }
                Ok(answer)
            };
            schedule.done(attempt, result, now);
            for (feed, wanted) in schedule.take_gone() {
                assert!(gone.insert(schedule.key(feed, &wanted)), "gone twice");
            }
            if random.u8(..3) == 0 {
                for (feed, wanted) in std::mem::take(&mut with_writer) {
                    assert!(safe.insert(schedule.key(feed, &wanted)), "delivered twice");
                    delivered(&mut schedule, feed, &wanted);
                }
            }
        }
        let (_, Progress { waiting, .. }) = schedule.finish(pass_start()); // which holds the balance
        let mut accounted: HashSet<_> = safe.union(&gone).copied().collect();
        assert_eq!(accounted.len(), safe.len() + gone.len());
        for waiting in waiting {
            let key = BlobKey::new(&waiting.tenant_id, &waiting.blob.content_id);
            assert!(accounted.insert(key), "{waiting:?} has two fates");
        }
        assert!(
            accounted == listed,
            "{} of {} listed blobs are accounted for",
            accounted.len(),
            listed.len()
        );
    }

    #[test]
    fn the_deadline_is_met_even_while_every_request_hangs() {
        let (feeds, start) = (feeds(1, &[ContentType::DlpAll]), Instant::now());
        let settings = Collect { deadline: Some(Duration::from_secs(60)), ..collect(2) };
        let mut schedule = begin(&feeds, &settings, start);
        until_downloads(&mut schedule, &feeds, start, &|_| blobs("a", 5));
        assert_eq!(schedule.next_at(), Some(start + Duration::from_secs(60)));
        assert!(schedule.next(start + Duration::from_secs(60)).is_none());
        assert_eq!((schedule.stopped(), schedule.next_at()), (Some(Stop::Deadline), None));
    }

    #[test]
    fn a_page_token_that_is_always_invalid_does_not_list_its_window_for_ever() {
        let (feeds, start) = (feeds(1, &[ContentType::DlpAll]), Instant::now());
        let mut schedule = begin(&feeds, &collect(2), start);
        let (mut now, mut pages) = (start, 0);
        while !schedule.is_over() {
            assert!(pages < 50, "the window is listed for ever");
            let Some((attempt, _)) = schedule.next(now) else {
                now = schedule.next_at().expect("something to wait for");
                continue;
            };
            let result = match &attempt.task {
                Task::ListPage(_, page) if page.number == 2 => Err(Failure::Refused {
                    status: 400,
                    code: "AF20031".to_owned(),
                    message: String::new(),
                    retry_after: None,
                }),
                Task::ListPage(..) => Ok(Answer::Page(Page {
                    blobs: Vec::new(),
                    next: Some("2".to_owned()),
                    unreadable: None,
                    is_blank: false,
                })),
                task => Ok(good_answer(&feeds, task, &|_| Vec::new())),
            };
            pages += u32::from(matches!(attempt.task, Task::ListPage(..)));
            schedule.done(attempt, result, now);
        }
        let (summary, _) = schedule.finish(pass_start());
        assert!(!summary.feeds[0].is_listed);
    }

    #[test]
    fn a_token_of_any_lifetime_is_used_and_ends_in_no_storm_of_logins() {
        let (feeds, now) = (feeds(1, &[ContentType::DlpAll]), Instant::now());
        for lifetime in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
            let mut schedule = begin(&feeds, &collect(2), now);
            for _ in 0..2 {
                let Some((attempt, _)) = schedule.next(now) else { break };
                let answer = match attempt.task {
                    Task::LogIn(_) => Answer::Token(Token::of_a_test(lifetime)),
                    _ => good_answer(&feeds, &attempt.task, &|_| Vec::new()),
                };
                schedule.done(attempt, Ok(answer), now);
            }
            let (attempt, _) = schedule.next(now).expect("the listing");
            assert!(!matches!(attempt.task, Task::LogIn(_)), "{lifetime:?}");
        }
    }

    #[test]
    fn a_backlog_of_any_size_does_not_keep_another_tenant_from_being_listed() {
        let before = attempts_before_a_newcomer(2 * WAITING_BLOBS_MAX).expect("the newcomer's turn comes");
        assert!(before <= 12, "{before}");
    }

    #[test]
    fn a_tenant_whose_requests_hang_leaves_threads_to_another() {
        let (feeds, now) = (feeds(2, &[ContentType::DlpAll]), Instant::now());
        let mut schedule = begin(&feeds, &collect(8), now);
        let mut running =
            until_downloads(&mut schedule, &feeds, now, &|feed| blobs(&feed.place().to_string(), 100));
        let mut of_the_other = 0;
        while let Some(place) = running.iter().position(|attempt| tenant(&attempt.task, &feeds) == 1) {
            let attempt = running.swap_remove(place); // those of tenant 0 never come back
            of_the_other += 1;
            download_well(&mut schedule, attempt, now);
            while let Some((attempt, _)) = schedule.next(now) {
                running.push(attempt);
            }
        }
        assert_eq!(of_the_other, 100);
        assert_eq!(running.len(), 8, "alone it may have them all");
    }

    #[test]
    fn a_blob_that_waits_for_one_feed_and_is_listed_in_another_is_downloaded_once() {
        for listed_first in [0, 1] {
            let (feeds, now) = (feeds(1, &[ContentType::AuditGeneral, ContentType::DlpAll]), Instant::now());
            let mut schedule = begin(&feeds, &collect(8), now);
            let [waits, lists] = [0, 1].map(|place| feeds.feeds().nth(place).expect("two feeds"));
            let blob = blobs("a", 1).remove(0);
            let delivered_to = OutputSet::EMPTY.with(crate::delivery::OutputName::File);
            schedule.resume(waits, Wanted { blob: blob.clone(), delivered_to });
            let mut pages = Vec::new();
            let mut downloads = Vec::new();
            while let Some((attempt, _)) = schedule.next(now) {
                if matches!(attempt.task, Task::ListPage(..)) {
                    pages.push(attempt);
                } else {
                    let answer = good_answer(&feeds, &attempt.task, &|_| Vec::new());
                    schedule.done(attempt, Ok(answer), now);
                }
            }
            pages.sort_by_key(|page| page.task.feed() != Some(feeds.feeds().nth(listed_first).expect("two")));
            for page in pages {
                let listed = if page.task.feed() == Some(lists) { vec![blob.clone()] } else { Vec::new() };
                schedule.done(
                    page,
                    Ok(Answer::Page(Page { blobs: listed, next: None, unreadable: None, is_blank: false })),
                    now,
                );
                downloads.extend(std::iter::from_fn(|| schedule.next(now)).map(|(attempt, _)| attempt));
            }
            assert_eq!(downloads.len(), 1, "{downloads:?}");
            let Task::Download(_, wanted) = &downloads[0].task else { panic!("no download") };
            assert_eq!(wanted.delivered_to, delivered_to, "who has it is not forgotten");
            download_well(&mut schedule, downloads.remove(0), now);
            schedule.finish(pass_start());
        }
    }

    proptest! {
        #[test]
        fn every_pass_ends_and_every_blob_has_one_fate_whatever_fails(seed in any::<u64>()) {
            any_pass(seed);
        }
    }
}
