//! What a pass knows of one tenant: its token, its login, its pace, its throttling, and when its subscriptions were started.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};

use super::RetryHistory;
use crate::{
    api::{
        Token,
        pace::{AUTO_START, Learned, Pace, Permit, RequestOutcome},
    },
    config::RequestsPerMinute,
    limits::{RETRY_AFTER_MIN, TOKEN_LIFETIME, TOKEN_MARGIN},
    network::backoff,
    state::TenantProgress,
};

/// The longest pause of a tenant that a throttling response can ask for.
const THROTTLE_PAUSE_MAX: Duration = Duration::from_secs(15 * 60);

/// The duration of throttling without an accepted request after which a tenant is left for the next pass: the lock
/// keeps all other tenants waiting.
pub(super) const THROTTLED_MAX: Duration = Duration::from_secs(15 * 60);

/// A rate that was throttled within this duration before a pass counts as near the quota.
const THROTTLED_RATE_AGE_MAX: SignedDuration = SignedDuration::from_hours(1);

/// The maximum number of consecutive fresh tokens that are rejected. With one more, the token is not the cause.
pub(super) const REJECTED_TOKENS_MAX: u32 = 2;

/// The token, the pace and the throttling of one tenant.
pub(super) struct Session {
    pace: Pace,
    /// What earlier passes have learned about the pace.
    before: Option<TenantProgress>,
    token: Option<CurrentToken>,
    login: Login,
    has_logged_in: bool,
    /// Consecutive rejected tokens, with no request accepted between them.
    rejected_tokens: u32,
    /// Pauses in a row whose duration no answer named.
    unnamed_pauses: u32,
    /// When the first of the throttling answers arrived that no other answer followed.
    throttled_since: Option<Instant>,
    /// When a request last succeeded.
    succeeded_at: Instant,
}

struct CurrentToken {
    token: Arc<Token>,
    renew_at: Instant,
    /// Distinguishes the rejection of this token from that of an earlier one.
    generation: u32,
}

#[derive(Clone, Copy)]
enum Login {
    Running,
    /// The next login: when it may start at the earliest.
    At(Instant, RetryHistory),
}

/// What a tenant may do now.
pub(super) enum Access {
    /// Nothing before this time; without one, nothing before the end of an attempt that runs.
    Wait(Option<Instant>),
    /// Log in, because no token is valid.
    LogIn(RetryHistory),
    /// Make one request with this token.
    Request { token: Arc<Token>, generation: u32, permit: Permit },
}

/// The meaning of a request's rejection with HTTP 401.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rejection {
    /// The token was old: a new one may be accepted.
    ThisToken,
    /// Several new tokens in a row were rejected: the token is not the cause.
    EveryToken,
}

/// A pause of all requests of a tenant.
pub(super) struct Pause {
    pub until: Instant,
    /// Whether the pause is not a part of one that was logged.
    pub is_new: bool,
}

impl Session {
    /// Returns a session that starts now, whose first request is a login.
    pub(super) fn new(
        requests_per_minute: RequestsPerMinute,
        before: Option<TenantProgress>,
        time: Timestamp,
        now: Instant,
    ) -> Self {
        let learned = before.map(|before| learned(&before, time));
        Self {
            pace: Pace::new(requests_per_minute, learned, now),
            before,
            token: None,
            login: Login::At(now, RetryHistory::default()),
            has_logged_in: false,
            rejected_tokens: 0,
            unnamed_pauses: 0,
            throttled_since: None,
            succeeded_at: now,
        }
    }

    /// Returns what the tenant may do now.
    pub(super) fn access(&mut self, now: Instant) -> Access {
        let Some(current) = self.token.as_ref().filter(|token| now < token.renew_at) else {
            return match self.login {
                Login::Running => Access::Wait(None),
                Login::At(at, _) if now < at => Access::Wait(Some(at)),
                Login::At(_, history) => {
                    self.login = Login::Running;
                    Access::LogIn(history)
                }
            };
        };
        match self.pace.acquire(now) {
            Ok(permit) => {
                let (token, generation) = (Arc::clone(&current.token), current.generation);
                Access::Request { token, generation, permit }
            }
            Err(at) => Access::Wait(at),
        }
    }

    /// Records the end of a request.
    pub(super) fn answered(&mut self, permit: Permit, outcome: RequestOutcome, now: Instant) {
        self.pace.answered(permit, outcome, now);
    }

    /// Records a login or a request that succeeded.
    pub(super) fn succeeded(&mut self, now: Instant) {
        self.unnamed_pauses = 0;
        self.throttled_since = None;
        self.succeeded_at = now;
    }

    /// Records a request that was accepted with its token.
    pub(super) fn token_accepted(&mut self) {
        self.rejected_tokens = 0;
    }

    /// Uses a new token. Returns whether it is the first one.
    pub(super) fn logged_in(&mut self, token: Token, now: Instant) -> bool {
        let generation = self.token.as_ref().map_or(1, |token| token.generation + 1);
        let lifetime = token.lifetime.clamp(*TOKEN_LIFETIME.start(), *TOKEN_LIFETIME.end());
        let renew_at = now + lifetime.saturating_sub(TOKEN_MARGIN.min(lifetime / 4));
        self.token = Some(CurrentToken { token: Arc::new(token), renew_at, generation });
        self.login = Login::At(now, RetryHistory::default());
        !std::mem::replace(&mut self.has_logged_in, true)
    }

    /// Schedules another login.
    pub(super) fn log_in_at(&mut self, at: Instant, history: RetryHistory) {
        self.login = Login::At(at, history);
    }

    /// Removes and returns the token, because the tenant makes no further request. What stays in memory of each tenant until
    /// the end of the pass keeps the allocator from reusing the memory around it.
    pub(super) fn log_out(&mut self) -> Option<Arc<Token>> {
        self.pace.forget_requests();
        self.token.take().map(|current| current.token)
    }

    pub(super) fn has_logged_in(&self) -> bool {
        self.has_logged_in
    }

    /// Records that a token was rejected. It is not used again, unless several tokens in a row were rejected.
    pub(super) fn token_rejected(&mut self, generation: u32, now: Instant) -> Rejection {
        let current = self.token.as_mut().filter(|token| token.generation == generation);
        if let Some(token) = current.filter(|token| now < token.renew_at) {
            self.rejected_tokens += 1;
            if self.rejected_tokens <= REJECTED_TOKENS_MAX {
                token.renew_at = now; // it stays, so that the next one has another generation
            }
        }
        if self.rejected_tokens > REJECTED_TOKENS_MAX { Rejection::EveryToken } else { Rejection::ThisToken }
    }

    /// Pauses the tenant after a throttling answer that asked for this duration, or for none. `None` if the tenant has
    /// had no other answer for too long.
    pub(super) fn throttled(
        &mut self,
        asked: Option<Duration>,
        retry_delay: Duration,
        now: Instant,
    ) -> Option<Pause> {
        let since = *self.throttled_since.get_or_insert(now);
        let asked = asked.map(|asked| asked.clamp(RETRY_AFTER_MIN, THROTTLE_PAUSE_MAX));
        let paused_until = self.pace.paused_until(now);
        let until = match (asked, paused_until) {
            // One of many that ran when the pause began.
            (_, Some(until)) if now + asked.unwrap_or_default() <= until + RETRY_AFTER_MIN => {
                until.max(now + asked.unwrap_or_default())
            }
            (Some(asked), _) => now + backoff::delay_asked_for(asked, fastrand::f64()),
            (None, _) => {
                self.unnamed_pauses += 1;
                let delay = backoff::delay(retry_delay, self.unnamed_pauses, fastrand::f64());
                now + backoff::delay_asked_for(delay.max(RETRY_AFTER_MIN), fastrand::f64())
            }
        };
        if until > since + THROTTLED_MAX {
            return None;
        }
        self.pace.pause(until);
        let is_new = paused_until.is_none_or(|earlier| earlier + RETRY_AFTER_MIN < until);
        Some(Pause { until, is_new })
    }

    pub(super) fn requests_per_minute(&self) -> u32 {
        self.pace.requests_per_minute()
    }

    /// Returns whether requests can be expected to succeed: the tenant is not throttled, and had a good answer within
    /// this time.
    pub(super) fn is_promising(&self, within: Duration, now: Instant) -> bool {
        self.pace.paused_until(now).is_none() && now < self.succeeded_at + within
    }

    /// Returns what this pass and earlier ones have learned about the pace, unless it is what every tenant begins with.
    pub(super) fn learned(&self, time_at: impl Fn(Instant) -> Timestamp) -> Option<TenantProgress> {
        let (requests_per_minute, throttled) = self.pace.learned()?;
        let throttled_at = throttled.map(time_at).or(self.before.and_then(|before| before.throttled_at));
        let is_learned = requests_per_minute != AUTO_START || throttled_at.is_some();
        is_learned.then_some(TenantProgress { requests_per_minute, throttled_at })
    }
}

/// Returns what earlier passes have learned about a tenant's pace, as far as it is still useful.
fn learned(before: &TenantProgress, time: Timestamp) -> Learned {
    let is_recent =
        |at: Timestamp| (SignedDuration::ZERO..THROTTLED_RATE_AGE_MAX).contains(&time.duration_since(at));
    Learned {
        requests_per_minute: before.requests_per_minute,
        is_plateau: before.throttled_at.is_some_and(is_recent),
    }
}

/// The start of one feed's subscription, and the pages that wait for it.
#[derive(Default)]
pub(super) struct SubscriptionStart<Page> {
    /// When it was last started, by this pass or an earlier one, by Microsoft's clock.
    at: Option<Timestamp>,
    is_running: bool,
    waiting: Vec<Page>,
}

impl<Page> SubscriptionStart<Page> {
    pub(super) fn new(at: Option<Timestamp>) -> Self {
        Self { at, is_running: false, waiting: Vec::new() }
    }

    pub(super) fn at(&self) -> Option<Timestamp> {
        self.at
    }

    /// Returns when the subscription was started, if that is less than this ago. A time in the future, by a clock that was
    /// wrong, counts by its distance.
    pub(super) fn within(&self, interval: Duration, now: Timestamp) -> Option<Timestamp> {
        self.at.filter(|at| now.duration_since(*at).unsigned_abs() < interval)
    }

    /// Returns whether the start has to be requested, because no request for it runs.
    pub(super) fn begin(&mut self) -> bool {
        !std::mem::replace(&mut self.is_running, true)
    }

    /// Lets a page wait for the start.
    pub(super) fn wait(&mut self, page: Page) {
        self.waiting.push(page);
    }

    /// Records the start, and returns the pages that waited for it.
    pub(super) fn started(&mut self, at: Timestamp) -> Vec<Page> {
        (self.at, self.is_running) = (Some(at), false);
        std::mem::take(&mut self.waiting)
    }
}
