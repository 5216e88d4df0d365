//! What follows from a failed request: another try, a wait, or the end of a blob, a window, a feed or a tenant.
//!
//! A failure stops what its request was about, and nothing else ([`retry::judge`]). Whatever a pass leaves undone has
//! its cause in the log and in the feed's `last_error`: the two are written by [`Scheduler::report_failure`] alone, and
//! [`Scheduler::finish`] asserts that no failed blob and no unlisted feed is without one.

use std::time::{Duration, Instant};

use log::Level;

use super::{Attempt, Scheduler, feed_name};
use crate::{
    api::{
        ApiError, Client,
        pace::RequestOutcome,
        retry::{self, RequestKind, Verdict},
    },
    limits::{
        REFUSED_ITEMS_MAX, REFUSED_TOKENS_MAX, RETRY_AFTER_MIN, THROTTLE_PAUSE_MAX, THROTTLED_MAX,
        THROTTLES_MAX,
    },
    network::backoff,
    pass::{
        Mode,
        feeds::{FeedIndex, TenantIndex},
        worker::{Outcome, PageOf, Task},
    },
    report::line_limit::Key,
};

/// What a failure ends for this pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// What the request was for: a blob, a window, a subscription; the tenant, if it was about all of it.
    Item,
    /// The feed that the request was about; the tenant, if it was about all of it.
    Feed,
    /// The tenant, because the cause is its quota.
    Tenant,
}

impl Scheduler<'_> {
    pub(super) fn failed(&mut self, mut attempt: Attempt, failure: &ApiError, now: Instant) {
        if self.stop.is_some() {
            return self.leave(&attempt); // its connection may have been cut because of that
        }
        match retry::judge(failure, kind_of(&attempt.task)) {
            Verdict::Retry => self.try_again(attempt, failure, now),
            Verdict::Throttled { after } => self.throttled(attempt, failure, after, now),
            Verdict::RenewToken => self.renew_token(attempt, failure, now),
            Verdict::Subscribe => self.subscribe_first(attempt, failure, now),
            Verdict::RestartListing => {
                if let Task::ListPage(_, page) = &mut attempt.task {
                    attempt.tries = attempt.tries.max(page.restarts);
                    let restarts = page.restarts + 1;
                    *page = PageOf {
                        url: page.first_url.clone(),
                        number: 1,
                        pages_before: page.pages_before.max(page.number),
                        restarts,
                        is_readable: true,
                        seen: Vec::new(),
                        ..page.clone()
                    };
                }
                self.try_again(attempt, failure, now);
            }
            Verdict::AlreadyDone => match attempt.task {
                Task::Subscribe(feed) => {
                    let suffix = self.feeds.suffix(self.feeds.tenant_of(feed));
                    log::info!("Already subscribed to feed {}{suffix}", feed_name(self.feeds, feed));
                    self.subscribed(feed, now);
                }
                _ => self.give_up(&attempt, failure, Scope::Item),
            },
            Verdict::Gone => self.gone(&attempt, failure),
            Verdict::FailItem => self.give_up(&attempt, failure, Scope::Item),
            Verdict::CorrectTimes => self.correct_times(attempt, failure),
            Verdict::StopScope => self.give_up(&attempt, failure, Scope::Feed),
        }
    }

    /// Lists the period again as far as the server's clock allows. If that clock is unknown, or this was tried, or
    /// nothing of the period is left, the feed cannot be listed.
    fn correct_times(&mut self, mut attempt: Attempt, failure: &ApiError) {
        if let (Task::ListPage(feed, page), ApiError::Refused { server_time: Some(theirs), .. }) =
            (&mut attempt.task, failure)
            && let Some(period) = page.period.as_of(*theirs).filter(|_| !page.is_corrected)
        {
            let (tenant, content_type) = self.feeds.feed(*feed);
            log::warn!("Listing for {} corrected by Microsoft's clock: {failure}", self.feeds.label(*feed));
            let url = Client::first_page(tenant, content_type, period.start, period.end);
            let (first_url, number) = (url.clone(), 1);
            let seen = Vec::new();
            *page = PageOf { period, is_corrected: true, first_url, url, number, seen, ..page.clone() };
            return self.push(attempt);
        }
        self.give_up(&attempt, failure, Scope::Feed);
    }

    pub(super) fn try_again(&mut self, mut attempt: Attempt, failure: &ApiError, now: Instant) {
        attempt.tries += 1;
        if attempt.tries > self.settings.retries {
            if let Task::Download(_, wanted) = &mut attempt.task {
                wanted.failed_passes += u32::from(failure.is_unreadable_body());
            }
            return self.give_up(&attempt, failure, Scope::Item);
        }
        let delay = if retry::retries_without_delay(failure, attempt.tries) {
            Duration::ZERO
        } else {
            backoff::delay(self.settings.retry_delay, attempt.tries, fastrand::f64())
        };
        let (what, of) = match &attempt.task {
            Task::LogIn(_) => ("login", String::new()),
            Task::ListSubscriptions(_) => ("list of subscriptions", String::new()),
            Task::Subscribe(_) => ("subscription", String::new()),
            Task::ListPage(..) => ("listing", String::new()),
            Task::Download(feed, wanted) => {
                self.feed_states[feed.place()].counts.retried += u64::from(attempt.tries == 1);
                ("blob download", format!(" blob {}", wanted.blob.content_id))
            }
        };
        let label = self.label_of(&attempt.task);
        let key =
            Key { level: Level::Warn, what: format!("Retrying {what} for {label}"), cause: failure.kind() };
        let (tries, tries_max) = (attempt.tries + 1, self.settings.retries + 1);
        let seconds = delay.as_secs_f64();
        self.line_limit.write(key, |what| {
            format!("{what}{of} in {seconds:.1} s (try {tries} of {tries_max}): {failure}")
        });
        self.push_later(attempt, now + delay);
    }

    /// Makes the request again with a new token. If several fresh tokens in a row are refused, with no request accepted
    /// between them, or several items of a feed are refused with fresh tokens, then the token is not the cause.
    fn renew_token(&mut self, mut attempt: Attempt, failure: &ApiError, now: Instant) {
        let tenant = self.tenant_of(&attempt.task);
        let state = &mut self.tenants[tenant.place()];
        let current = state.token.as_mut().filter(|token| token.generation == attempt.token_generation);
        if let Some(token) = current.filter(|token| now < token.renew_at) {
            state.refusals += 1;
            if state.refusals <= REFUSED_TOKENS_MAX {
                // It stays in its place, so that its successor has another generation, but is not used again.
                token.renew_at = now;
            }
        }
        if state.refusals > REFUSED_TOKENS_MAX {
            return self.give_up(&attempt, failure, Scope::Feed);
        }
        if !attempt.has_renewed {
            attempt.has_renewed = true;
            return self.push(attempt);
        }
        let scope = attempt.task.feed().map_or(Scope::Item, |feed| {
            let state = &mut self.feed_states[feed.place()];
            state.refused_items += 1;
            if state.refused_items > REFUSED_ITEMS_MAX { Scope::Feed } else { Scope::Item }
        });
        self.give_up(&attempt, failure, scope);
    }

    /// Lets all of the tenant's requests wait, and no other's. The request that was throttled keeps its tries. A tenant
    /// that gets no request through for too long is left to the next pass.
    pub(super) fn throttled(
        &mut self,
        mut attempt: Attempt,
        failure: &ApiError,
        after: Option<Duration>,
        now: Instant,
    ) {
        attempt.throttles += 1;
        if let Some(feed) = attempt.task.feed() {
            self.feed_states[feed.place()].counts.throttled += 1;
        }
        if attempt.throttles > THROTTLES_MAX {
            return self.give_up(&attempt, failure, Scope::Item);
        }
        let tenant = self.tenant_of(&attempt.task);
        let state = &mut self.tenants[tenant.place()];
        let since = *state.throttled_since.get_or_insert(now);
        let asked = after.map(|after| after.clamp(RETRY_AFTER_MIN, THROTTLE_PAUSE_MAX));
        let paused_until = state.pace.paused_until(now);
        let until = match (asked, paused_until) {
            // One of many that were under way when the pause began.
            (_, Some(until)) if now + asked.unwrap_or_default() <= until + RETRY_AFTER_MIN => {
                until.max(now + asked.unwrap_or_default())
            }
            (Some(asked), _) => now + backoff::delay_asked_for(asked, fastrand::f64()),
            (None, _) => {
                state.throttles += 1;
                let delay = backoff::delay(self.settings.retry_delay, state.throttles, fastrand::f64());
                now + backoff::delay_asked_for(delay.max(RETRY_AFTER_MIN), fastrand::f64())
            }
        };
        if until > since + THROTTLED_MAX {
            return self.give_up(&attempt, failure, Scope::Tenant);
        }
        state.pace.pause(until);
        if paused_until.is_none_or(|earlier| earlier + RETRY_AFTER_MIN < until) {
            log::warn!(
                "Throttled: {} makes no request for {:.1} s, then at most {} a minute: {failure}",
                self.feeds.tenant(tenant).label(),
                (until - now).as_secs_f64(),
                state.pace.requests_per_minute()
            );
        }
        self.push_later(attempt, until);
    }

    /// Lets the page wait until the subscription is started; at most once in 15 minutes, as Microsoft asks.
    fn subscribe_first(&mut self, attempt: Attempt, failure: &ApiError, now: Instant) {
        let Task::ListPage(feed, _) = attempt.task else {
            return self.give_up(&attempt, failure, Scope::Item);
        };
        if self.mode != Mode::Collect {
            return self.give_up(&attempt, failure, Scope::Feed);
        }
        if let Some(started) = self.recent_start(feed, now) {
            let advice = format!(
                "{failure}, although the subscription was started at {started:.0}; it is started again after 15 \
                 minutes at the earliest, as Microsoft asks. If this lasts for more than a day: check that auditing is \
                 on, then stop the subscription once (subscriptions/stop) or ask Microsoft's support"
            );
            return self.give_up_with(&attempt, &advice, failure.kind(), Scope::Feed);
        }
        let state = &mut self.feed_states[feed.place()];
        state.pages.push(attempt);
        if !state.is_starting {
            state.is_starting = true;
            self.push(Attempt::new(Task::Subscribe(feed)));
        }
    }

    /// Reports a blob that can no longer be fetched, once, and has it remembered, so that it is not asked for again.
    fn gone(&mut self, attempt: &Attempt, failure: &ApiError) {
        let Task::Download(feed, wanted) = &attempt.task else {
            return self.give_up(attempt, failure, Scope::Item);
        };
        self.feed_states[feed.place()].counts.gone += 1;
        self.in_flight.remove(&self.key(*feed, wanted));
        let what = format!("Blob gone for {}", self.feeds.label(*feed));
        let (id, advice) = (&wanted.blob.content_id, failure.advice());
        let key = Key { level: Level::Error, what, cause: failure.kind() };
        self.line_limit.write(key, |what| format!("{what} blob {id}: {advice}; its records are lost"));
        self.gone.push((*feed, wanted.clone()));
    }

    /// Reports a failure, and ends what it ends.
    pub(super) fn give_up(&mut self, attempt: &Attempt, failure: &ApiError, scope: Scope) {
        self.give_up_with(attempt, &failure.advice(), failure.kind(), scope);
    }

    /// The same with another message. `cause` is what the messages of the same cause have in common.
    pub(super) fn give_up_with(&mut self, attempt: &Attempt, advice: &str, cause: String, scope: Scope) {
        let tenant = self.tenant_of(&attempt.task);
        let feed = attempt.task.feed();
        let was_stopped = match feed {
            Some(feed) => self.feed_states[feed.place()].is_stopped,
            None => self.tenants[tenant.place()].is_stopped,
        };
        if !was_stopped {
            self.report_failure(&attempt.task, advice, cause);
        }
        match (&attempt.task, feed) {
            (Task::LogIn(_) | Task::ListSubscriptions(_), _) => self.stop_tenant(tenant, advice),
            (_, Some(_)) if scope == Scope::Tenant => self.stop_tenant(tenant, advice),
            (Task::Subscribe(_), Some(feed)) => self.stop_feed(feed),
            (_, Some(feed)) if scope == Scope::Feed => self.stop_feed(feed),
            _ => {}
        }
        match &attempt.task {
            Task::LogIn(_) | Task::ListSubscriptions(_) | Task::Subscribe(_) => {}
            Task::ListPage(feed, _) => {
                let wanted = self.part_ended(*feed);
                self.want(*feed, wanted);
            }
            Task::Download(feed, wanted) => {
                self.in_flight.remove(&self.key(*feed, wanted));
                self.leave_blob(*feed, wanted, true);
            }
        }
    }

    /// Writes the cause of a failure to the log and to the feeds that it concerns. Of one feed's failures with the same
    /// cause the first few are written, and the rest is counted.
    pub(super) fn report_failure(&mut self, task: &Task, advice: &str, cause: String) {
        let (phrase, detail) = match task {
            Task::LogIn(_) => ("Authentication failed", String::new()),
            Task::ListSubscriptions(_) => ("Subscription failed", ": the list of subscriptions".to_owned()),
            Task::Subscribe(_) => ("Subscription failed", String::new()),
            Task::ListPage(..) => ("Listing failed", String::new()),
            Task::Download(_, wanted) => {
                ("Blob download failed", format!(" blob {}", wanted.blob.content_id))
            }
        };
        let what = format!("{phrase} for {}", self.label_of(task));
        let key = Key { level: Level::Error, what, cause };
        self.line_limit.write(key, |what| format!("{what}{detail}: {advice}"));
        let feeds = match task.feed() {
            Some(feed) => vec![feed],
            None => self.feeds.feeds_of(self.tenant_of(task)).collect(),
        };
        for feed in feeds {
            self.feed_states[feed.place()].last_error = Some(advice.to_owned());
        }
    }

    /// How the log names what a task is about: a feed, or a tenant.
    fn label_of(&self, task: &Task) -> String {
        match task.feed() {
            Some(feed) => self.feeds.label(feed),
            None => self.feeds.tenant(self.tenant_of(task)).label().to_owned(),
        }
    }

    /// Ends a feed for this pass. The cause was reported.
    fn stop_feed(&mut self, feed: FeedIndex) {
        self.feed_states[feed.place()].is_stopped = true;
        self.drop_waiting(self.feeds.tenant_of(feed), |task| task.feed() == Some(feed));
    }

    /// Ends a tenant for this pass, for a cause that was reported.
    fn stop_tenant(&mut self, tenant: TenantIndex, cause: &str) {
        self.tenants[tenant.place()].is_stopped = true;
        for feed in self.feeds.feeds_of(tenant) {
            let state = &mut self.feed_states[feed.place()];
            state.is_stopped = true;
            state.last_error.get_or_insert_with(|| cause.to_owned());
        }
        self.drop_waiting(tenant, |_| true);
    }
}

/// What came of a request to the API, as far as the tenant's pace goes.
pub(super) fn outcome(task: &Task, result: &Result<Outcome, ApiError>) -> RequestOutcome {
    match result {
        Err(failure) if matches!(retry::judge(failure, kind_of(task)), Verdict::Throttled { .. }) => {
            RequestOutcome::Throttled
        }
        Err(ApiError::Network(_) | ApiError::Credential(_)) => RequestOutcome::Unknown,
        Ok(_) | Err(_) => RequestOutcome::Accepted,
    }
}

fn kind_of(task: &Task) -> RequestKind {
    match task {
        Task::LogIn(_) => RequestKind::Login,
        Task::ListSubscriptions(_) => RequestKind::ListSubscriptions,
        Task::Subscribe(_) => RequestKind::StartSubscription,
        Task::ListPage(..) => RequestKind::ListContent,
        Task::Download(..) => RequestKind::FetchBlob,
    }
}
