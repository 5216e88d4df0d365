//! What follows from a request that failed: another try, a pause, or the end of a blob, a window, a feed or a tenant.
//!
//! A failure ends what its request was about, and nothing else ([`retry::judge`]). The cause of whatever a pass leaves
//! undone is in the log and in the feed's `last_error`: [`Scheduler::report_failure`] alone writes both, and
//! [`Scheduler::finish`] asserts that no failed blob and no unlisted feed is without one.

use std::time::{Duration, Instant};

use log::Level;

use super::{
    Attempt, Effect, RetryHistory, SUBSCRIPTION_START_INTERVAL, Scheduler, Subject, Ticket,
    session::{Pause, Rejection},
};
use crate::{
    api::{
        ApiError,
        pace::RequestOutcome,
        retry::{self, RequestKind, Verdict},
    },
    delivery::PendingBlob,
    network::backoff,
    pass::{
        Mode,
        feeds::{FeedIndex, TenantIndex},
        worker::{Outcome, Task},
    },
    state::GoneBlob,
};

/// The maximum number of consecutive throttling responses to a task. With one more, it fails.
const THROTTLES_MAX: u32 = 20;

/// The maximum number of a feed's consecutive requests that are rejected with HTTP 401 despite a fresh token. With one
/// more, the feed is left for the next pass.
const REJECTED_TASKS_MAX: u32 = 2;

/// What a failure ends for this pass, the smallest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    /// A blob.
    Blob,
    /// A window, or the part of it that is listed.
    Window,
    /// Everything of a feed.
    Feed,
    /// Everything of a tenant.
    Tenant,
}

impl Scope {
    /// Returns the subject of a task: the smallest scope that its failure can end.
    fn of(task: &Task) -> Self {
        match task {
            Task::Download(..) => Self::Blob,
            Task::ListPage(..) => Self::Window,
            Task::Subscribe(_) => Self::Feed,
            Task::ListSubscriptions(_) => Self::Tenant,
        }
    }
}

/// Why something was left undone.
pub(super) struct Cause {
    /// In words, with what to do about it.
    pub advice: String,
    /// What the causes of the same kind have in common.
    pub kind: String,
}

impl Cause {
    fn of(error: &ApiError) -> Self {
        Self { advice: error.advice(), kind: error.kind() }
    }
}

impl Scheduler<'_> {
    pub(super) fn login_failed(
        &mut self,
        tenant: TenantIndex,
        error: &ApiError,
        mut history: RetryHistory,
        now: Instant,
    ) {
        if self.stop.is_some() {
            return; // its connection may have been cut because of that
        }
        let at = match retry::judge(error, RequestKind::Login) {
            Verdict::Retry => self.retry_at("login", Subject::Tenant(tenant), None, &mut history, error, now),
            Verdict::Throttled { after } if history.throttled < THROTTLES_MAX => {
                history.throttled += 1;
                self.pause_until(tenant, error, after, now)
            }
            _ => None,
        };
        match at {
            Some(at) => self.tenants[tenant.place()].session.log_in_at(at, history),
            None => self.abandon_login(tenant, &Cause::of(error)),
        }
    }

    pub(super) fn failed(&mut self, task: Task, error: &ApiError, ticket: Ticket, now: Instant) {
        if self.stop.is_some() {
            return self.leave(task); // its connection may have been cut because of that
        }
        let Ticket { mut history, token_generation, .. } = ticket;
        match (retry::judge(error, kind_of(&task)), task) {
            (Verdict::Throttled { after }, task) => {
                self.throttled(Attempt { task, history }, error, after, now);
            }
            (Verdict::RenewToken, task) => {
                self.renew_token(Attempt { task, history }, error, token_generation, now);
            }
            (Verdict::Subscribe, Task::ListPage(feed, page)) => {
                let task = Task::ListPage(feed, page);
                self.subscribe_first(feed, Attempt { task, history }, error, now);
            }
            (Verdict::RestartListing, Task::ListPage(feed, page)) => {
                history.failed = history.failed.max(page.restarts());
                let task = Task::ListPage(feed, page.restarted());
                self.retry(Attempt { task, history }, error, now);
            }
            (Verdict::Retry | Verdict::RestartListing, task) => {
                self.retry(Attempt { task, history }, error, now);
            }
            (Verdict::AlreadyDone, Task::Subscribe(feed)) => {
                self.log_subscription("Already subscribed", feed);
                self.subscribed(feed, now);
            }
            (Verdict::Gone, Task::Download(feed, pending)) => self.lose(feed, pending, error),
            (Verdict::CorrectTimes, task) => self.correct_times(Attempt { task, history }, error),
            (Verdict::StopScope, task) => self.abandon(task, &Cause::of(error), Scope::Feed),
            (Verdict::Subscribe | Verdict::AlreadyDone | Verdict::Gone | Verdict::FailItem, task) => {
                self.abandon(task, &Cause::of(error), Scope::Blob);
            }
        }
    }

    /// Lists the period again as far as the server's clock allows. If that clock is unknown, or this was tried, or
    /// nothing of the period is left, the feed cannot be listed.
    fn correct_times(&mut self, attempt: Attempt, error: &ApiError) {
        let server_time = match error {
            ApiError::Response { server_time, .. } => *server_time,
            _ => None,
        };
        let task = match attempt.task {
            Task::ListPage(feed, page) => match server_time.and_then(|time| page.period_as_of(time)) {
                Some(period) => {
                    let label = self.feeds.label(feed);
                    let (tenant, name) = self.feeds.names(feed);
                    log::warn!(tenant, feed = name; "Listing for {label} corrected by Microsoft's clock: {error}");
                    let task = Task::ListPage(feed, page.corrected(period));
                    return self.enqueue(Attempt { task, history: attempt.history });
                }
                None => Task::ListPage(feed, page),
            },
            task => task,
        };
        self.abandon(task, &Cause::of(error), Scope::Feed);
    }

    /// Retries a task after a delay, a bounded number of times.
    pub(super) fn retry(&mut self, mut attempt: Attempt, error: &ApiError, now: Instant) {
        let (what, subject, blob) = match &attempt.task {
            Task::ListSubscriptions(tenant) => ("list of subscriptions", Subject::Tenant(*tenant), None),
            Task::Subscribe(feed) => ("subscription", Subject::Feed(*feed), None),
            Task::ListPage(feed, _) => ("listing", Subject::Feed(*feed), None),
            Task::Download(feed, pending) => {
                ("blob download", Subject::Feed(*feed), Some(pending.blob.content_id.as_str()))
            }
        };
        let at = self.retry_at(what, subject, blob, &mut attempt.history, error, now);
        if let Task::Download(feed, pending) = &mut attempt.task {
            match at {
                Some(_) if attempt.history.failed == 1 => self.books.count_retried(*feed),
                Some(_) => {}
                None => pending.failed_passes += u32::from(error.is_unreadable_body()),
            }
        }
        match at {
            Some(at) => self.enqueue_at(attempt, at),
            None => self.abandon(attempt.task, &Cause::of(error), Scope::Blob),
        }
    }

    /// Counts a failed attempt. Returns when the next one is due, and logs it; `None` after the last one.
    fn retry_at(
        &mut self,
        what: &str,
        subject: Subject,
        blob: Option<&str>,
        history: &mut RetryHistory,
        error: &ApiError,
        now: Instant,
    ) -> Option<Instant> {
        history.failed += 1;
        if history.failed > self.settings.retries {
            return None;
        }
        let delay = if retry::retries_without_delay(error, history.failed) {
            Duration::ZERO
        } else {
            let delay = backoff::delay(self.settings.retry_delay, history.failed, fastrand::f64());
            delay.max(retry::delay_min(error))
        };
        let key = subject.key(self.feeds, Level::Warn, &format!("Retrying {what}"), error.kind());
        let (number, number_max) = (history.failed + 1, self.settings.retries + 1);
        let seconds = delay.as_secs_f64();
        let of = of_blob(blob);
        self.line_limit.write(key, blob, |what| {
            format!("{what}{of} in {seconds:.1} s (attempt {number} of {number_max}): {error}")
        });
        Some(now + delay)
    }

    /// Makes the request again with a new token. If several new tokens in a row are rejected, with no request accepted
    /// between them, or several requests of a feed are rejected with new tokens, then the token is not the cause.
    fn renew_token(&mut self, mut attempt: Attempt, error: &ApiError, generation: u32, now: Instant) {
        let session = &mut self.tenants[attempt.task.tenant(self.feeds).place()].session;
        let scope = match (session.token_rejected(generation, now), attempt.task.feed()) {
            (Rejection::EveryToken, _) => Scope::Feed,
            (Rejection::ThisToken, _) if !attempt.history.has_renewed => {
                attempt.history.has_renewed = true;
                return self.enqueue(attempt);
            }
            (Rejection::ThisToken, None) => Scope::Tenant,
            (Rejection::ThisToken, Some(feed)) => {
                let state = &mut self.feed_states[feed.place()];
                state.rejected_requests += 1;
                if state.rejected_requests > REJECTED_TASKS_MAX { Scope::Feed } else { Scope::Blob }
            }
        };
        self.abandon(attempt.task, &Cause::of(error), scope);
    }

    /// Makes the request again after a pause of its tenant. This does not count as a failed attempt.
    fn throttled(&mut self, mut attempt: Attempt, error: &ApiError, after: Option<Duration>, now: Instant) {
        attempt.history.throttled += 1;
        if let Some(feed) = attempt.task.feed() {
            self.books.count_throttled(feed);
        }
        if attempt.history.throttled > THROTTLES_MAX {
            return self.abandon(attempt.task, &Cause::of(error), Scope::Blob);
        }
        match self.pause_until(attempt.task.tenant(self.feeds), error, after, now) {
            Some(until) => self.enqueue_at(attempt, until),
            None => self.abandon(attempt.task, &Cause::of(error), Scope::Tenant),
        }
    }

    /// Pauses all of a tenant's requests, and no other's. Returns the end of the pause; `None` if the tenant has got no
    /// request through for too long, and is left to the next pass.
    fn pause_until(
        &mut self,
        tenant: TenantIndex,
        error: &ApiError,
        after: Option<Duration>,
        now: Instant,
    ) -> Option<Instant> {
        let session = &mut self.tenants[tenant.place()].session;
        let Pause { until, is_new } = session.throttled(after, self.settings.retry_delay, now)?;
        if is_new {
            let tenant = self.feeds.tenant(tenant).label();
            log::warn!(
                tenant;
                "Throttled: {tenant} makes no request for {:.1} s, then at most {} a minute: {error}",
                (until - now).as_secs_f64(),
                session.requests_per_minute()
            );
        }
        Some(until)
    }

    /// Lets a page wait until the subscription is started; at most once in 15 minutes, as Microsoft asks.
    fn subscribe_first(&mut self, feed: FeedIndex, attempt: Attempt, error: &ApiError, now: Instant) {
        if self.mode != Mode::Collect {
            return self.abandon(attempt.task, &Cause::of(error), Scope::Feed);
        }
        let their_now = self.microsoft_time(self.feeds.tenant_of(feed), now);
        let subscription = &mut self.feed_states[feed.place()].subscription;
        if let Some(started) = subscription.within(SUBSCRIPTION_START_INTERVAL, their_now) {
            let advice = format!(
                "{error}, although the subscription was started at {started:.0}; it is started again after 15 \
                 minutes at the earliest, as Microsoft asks. If this lasts for more than a day: check that auditing is \
                 on, then stop the subscription once (subscriptions/stop) or ask Microsoft's support"
            );
            return self.abandon(attempt.task, &Cause { advice, kind: error.kind() }, Scope::Feed);
        }
        subscription.wait(attempt);
        if subscription.begin() {
            self.enqueue(Attempt::first(Task::Subscribe(feed)));
        }
    }

    /// Reports a blob that cannot be fetched any more, and has it remembered, so that it is not requested again.
    fn lose(&mut self, feed: FeedIndex, pending: PendingBlob, error: &ApiError) {
        self.books.lose(feed, &pending);
        let (id, advice) = (&pending.blob.content_id, error.advice());
        let key = Subject::Feed(feed).key(self.feeds, Level::Error, "Blob gone", error.kind());
        self.line_limit
            .write(key, Some(id), |what| format!("{what} blob {id}: {advice}; its records are lost"));
        self.remember_gone(feed, pending);
    }

    /// Has a blob remembered that cannot be fetched any more.
    pub(super) fn remember_gone(&mut self, feed: FeedIndex, pending: PendingBlob) {
        let at = self.microsoft_time(self.feeds.tenant_of(feed), self.clock.began());
        let gone = GoneBlob { content_id: pending.blob.content_id.clone(), at };
        self.feed_states[feed.place()].listing.note_gone(gone);
        self.effects.push(Effect::RememberGone(feed, pending));
    }

    fn abandon_login(&mut self, tenant: TenantIndex, cause: &Cause) {
        if !self.tenants[tenant.place()].is_stopped {
            self.report_failure("Authentication failed", Subject::Tenant(tenant), None, "", cause);
        }
        self.stop_tenant(tenant, cause);
    }

    /// Reports the failure of a task, and ends what the task is about, or more.
    fn abandon(&mut self, task: Task, cause: &Cause, at_least: Scope) {
        if !self.is_reported(&task) {
            let (phrase, subject, blob, detail) = match &task {
                Task::ListSubscriptions(tenant) => {
                    ("Subscription failed", Subject::Tenant(*tenant), None, ": the list of subscriptions")
                }
                Task::Subscribe(feed) => ("Subscription failed", Subject::Feed(*feed), None, ""),
                Task::ListPage(feed, _) => ("Listing failed", Subject::Feed(*feed), None, ""),
                Task::Download(feed, pending) => {
                    let id = pending.blob.content_id.as_str();
                    ("Blob download failed", Subject::Feed(*feed), Some(id), "")
                }
            };
            self.report_failure(phrase, subject, blob, detail, cause);
        }
        match (at_least.max(Scope::of(&task)), task.feed()) {
            (Scope::Blob | Scope::Window, _) => {}
            (Scope::Feed, Some(feed)) => self.stop_feed(feed),
            (Scope::Feed | Scope::Tenant, _) => self.stop_tenant(task.tenant(self.feeds), cause),
        }
        match task {
            Task::ListSubscriptions(_) | Task::Subscribe(_) => {}
            Task::ListPage(feed, _) => self.end_part(feed, Vec::new()),
            Task::Download(feed, pending) => self.books.fail(feed, pending),
        }
    }

    /// Returns whether the failure of what the task belongs to was reported.
    fn is_reported(&self, task: &Task) -> bool {
        match task.feed() {
            Some(feed) => self.feed_states[feed.place()].is_stopped,
            None => self.tenants[task.tenant(self.feeds).place()].is_stopped,
        }
    }

    /// Writes the cause of a failure to the log and to the feeds that it concerns. Of one feed's failures with the same
    /// cause the first few are written, and the rest is counted.
    pub(super) fn report_failure(
        &mut self,
        phrase: &str,
        subject: Subject,
        blob: Option<&str>,
        detail: &str,
        cause: &Cause,
    ) {
        let key = subject.key(self.feeds, Level::Error, phrase, cause.kind.clone());
        let of = of_blob(blob);
        self.line_limit.write(key, blob, |what| format!("{what}{of}{detail}: {}", cause.advice));
        let mut set = |feed: FeedIndex| {
            self.feed_states[feed.place()].last_error = Some(cause.advice.clone());
        };
        match subject {
            Subject::Feed(feed) => set(feed),
            Subject::Tenant(tenant) => self.feeds.feeds_of(tenant).for_each(set),
        }
    }

    /// Ends a feed for this pass. The cause was reported.
    fn stop_feed(&mut self, feed: FeedIndex) {
        self.feed_states[feed.place()].is_stopped = true;
        let tenant = self.feeds.tenant_of(feed);
        for attempt in self.queue.remove_of(tenant, |task| task.feed() == Some(feed)) {
            self.leave(attempt.task);
        }
    }

    /// Ends a tenant for this pass, for a cause that was reported.
    fn stop_tenant(&mut self, tenant: TenantIndex, cause: &Cause) {
        self.tenants[tenant.place()].is_stopped = true;
        for feed in self.feeds.feeds_of(tenant) {
            let state = &mut self.feed_states[feed.place()];
            state.is_stopped = true;
            state.last_error.get_or_insert_with(|| cause.advice.clone());
        }
        for attempt in self.queue.remove_of(tenant, |_| true) {
            self.leave(attempt.task);
        }
    }
}

/// Returns how the log names a blob after its feed: ` blob ID`, or nothing without one.
fn of_blob(blob: Option<&str>) -> String {
    blob.map(|id| format!(" blob {id}")).unwrap_or_default()
}

/// Returns what the outcome of a request means for the tenant's pace.
pub(super) fn request_outcome(outcome: &Outcome) -> RequestOutcome {
    match outcome {
        Outcome::Failed(task, error)
            if matches!(retry::judge(error, kind_of(task)), Verdict::Throttled { .. }) =>
        {
            RequestOutcome::Throttled
        }
        Outcome::Failed(_, ApiError::Network(_) | ApiError::Credential(_)) => RequestOutcome::Unknown,
        _ => RequestOutcome::Accepted,
    }
}

fn kind_of(task: &Task) -> RequestKind {
    match task {
        Task::ListSubscriptions(_) => RequestKind::ListSubscriptions,
        Task::Subscribe(_) => RequestKind::StartSubscription,
        Task::ListPage(..) => RequestKind::ListContent,
        Task::Download(..) => RequestKind::FetchBlob,
    }
}
