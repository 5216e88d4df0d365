//! What comes of a failure: another try, a wait, or the end of a blob, a feed or a tenant; and what is said of it.

use std::time::{Duration, Instant};

use super::{Attempt, Schedule, feed_name};
use crate::{
    api::{
        Client, Failure,
        pace::Outcome,
        retry::{self, Verdict},
    },
    limits::{REFUSED_TOKENS_MAX, RETRY_AFTER_MIN, THROTTLE_PAUSE_MAX, THROTTLED_MAX, THROTTLES_MAX},
    network::trouble,
    pass::{
        feeds::{FeedIndex, TenantIndex},
        work::{Answer, PageOf, Task},
    },
};

impl Schedule<'_> {
    pub(super) fn failed(&mut self, mut attempt: Attempt, failure: &Failure, now: Instant) {
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
                        seen: Vec::new(),
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
            Verdict::CorrectTimes => self.correct_times(attempt, failure),
            Verdict::StopFeed => {
                if let Some(feed) = attempt.task.feed() {
                    self.stop_feed(feed);
                }
                self.give_up(&attempt, failure);
            }
            Verdict::StopTenant => self.stop_tenant(&attempt, failure),
        }
    }

    /// The period is listed again as far as the server's clock allows. If that is not told, or has been tried, or
    /// leaves nothing, the feed cannot be listed.
    fn correct_times(&mut self, mut attempt: Attempt, failure: &Failure) {
        if let (Task::ListPage(feed, page), Failure::Refused { server_time: Some(theirs), .. }) =
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
        if let Some(feed) = attempt.task.feed() {
            self.stop_feed(feed);
        }
        self.give_up(&attempt, failure);
    }

    pub(super) fn try_again(&mut self, mut attempt: Attempt, failure: &Failure, now: Instant) {
        attempt.tries += 1;
        if attempt.tries > self.settings.retries {
            return self.give_up(&attempt, failure);
        }
        let delay = if retry::is_due_at_once(failure, attempt.tries) {
            Duration::ZERO
        } else {
            trouble::delay(self.settings.retry_delay, attempt.tries, fastrand::f64())
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
    pub(super) fn renew_token(&mut self, mut attempt: Attempt, failure: &Failure, now: Instant) {
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

    /// All of the tenant's requests wait, and no other's. The request that met it keeps its tries. A tenant that gets
    /// no request through for too long is left to the next pass.
    pub(super) fn throttled(
        &mut self,
        mut attempt: Attempt,
        failure: &Failure,
        after: Option<Duration>,
        now: Instant,
    ) {
        attempt.throttles += 1;
        if let Some(feed) = attempt.task.feed() {
            self.feed_states[feed.place()].counts.throttled += 1;
        }
        if attempt.throttles > THROTTLES_MAX {
            return self.give_up(&attempt, failure);
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
            (Some(asked), _) => now + trouble::delay_as_asked(asked, fastrand::f64()),
            (None, _) => {
                state.throttles += 1;
                let delay = trouble::delay(self.settings.retry_delay, state.throttles, fastrand::f64());
                now + trouble::delay_as_asked(delay.max(RETRY_AFTER_MIN), fastrand::f64())
            }
        };
        if until > since + THROTTLED_MAX {
            return self.stop_tenant(&attempt, failure);
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

    /// The page waits until the subscription is started, once in a pass.
    pub(super) fn subscribe_first(&mut self, attempt: Attempt, failure: &Failure) {
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
    pub(super) fn gone(&mut self, attempt: &Attempt, failure: &Failure) {
        let Task::Download(feed, wanted) = &attempt.task else {
            return self.give_up(attempt, failure);
        };
        self.feed_states[feed.place()].counts.gone += 1;
        self.in_hand.remove(&self.key(*feed, wanted));
        let (label, id) = (self.feeds.label(*feed), &wanted.blob.content_id);
        log::error!("Blob gone for {label} blob {id}: {}; its records are lost", failure.advice());
        self.gone.push((*feed, wanted.clone()));
    }

    /// Says what failed, to whom, why, and what to do; and counts it.
    pub(super) fn give_up(&mut self, attempt: &Attempt, failure: &Failure) {
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
    pub(super) fn stop_feed(&mut self, feed: FeedIndex) {
        self.feed_states[feed.place()].is_stopped = true;
        self.drop_waiting(self.feeds.tenant_of(feed), |task| task.feed() == Some(feed));
    }

    /// Nothing more of this tenant in this pass; said once, by the task that met the cause.
    pub(super) fn stop_tenant(&mut self, attempt: &Attempt, failure: &Failure) {
        let tenant = self.tenant_of(&attempt.task);
        let was_stopped = self.tenants[tenant.place()].is_stopped;
        self.stop_all_of(tenant);
        if was_stopped {
            self.leave(attempt);
        } else {
            self.give_up(attempt, failure);
        }
    }

    pub(super) fn stop_all_of(&mut self, tenant: TenantIndex) {
        self.tenants[tenant.place()].is_stopped = true;
        for feed in self.feeds.feeds_of(tenant) {
            self.feed_states[feed.place()].is_stopped = true;
        }
        self.drop_waiting(tenant, |_| true);
    }
}

/// What came of a request to the API, as far as the tenant's pace goes.
pub(super) fn outcome(result: &Result<Answer, Failure>) -> Outcome {
    match result {
        Err(failure) if matches!(retry::judge(failure), Verdict::Throttled { .. }) => Outcome::Throttled,
        Err(Failure::Network(_) | Failure::Credential(_)) => Outcome::Unknown,
        Ok(_) | Err(_) => Outcome::Accepted,
    }
}
