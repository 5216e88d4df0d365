//! The rate limiter of a tenant. Pure: the time is passed in.
//!
//! Microsoft grants each tenant a quota of requests per minute. The quota cannot be queried; a client sees it only in
//! throttling responses (`AF429`), and the counting method is not documented. A client that makes at most `rate`
//! requests in *any* 60 seconds stays within a quota of `rate` whether the server counts in fixed minutes, in a sliding
//! window or with a token bucket. [`Pace`] does that: a request counts from the moment it is sent until 60 seconds after
//! its response, because the server counts it somewhere in between.
//!
//! The rate is fixed, or adapts ([`RequestsPerMinute::Auto`]):
//!
//! - It begins with the rate learned by an earlier pass, else with [`AUTO_START`].
//! - While requests wait (there is a backlog) and requests are accepted, it grows exponentially.
//! - A throttling response halves it, once per burst: responses to requests sent earlier do not halve it again. The
//!   number of requests accepted in the last minute becomes the plateau: the rate climbs back to it within seconds,
//!   because that many are known to work, and stays there for `AUTO_HOLD` before it grows again, slowly.
//!
//! After a throttling response and the pause that the caller imposes, one request runs alone. Each accepted request lets
//! one more run concurrently. So a pause that was too short costs one rejected request, not one per thread.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::config::RequestsPerMinute;

/// The number of requests a minute that `maxRequestsPerMinute: auto` begins with: the baseline of each tenant.
///
/// Source: "Office 365 Management Activity API reference", section "API throttling".
pub const AUTO_START: u32 = 2_000;

/// The lowest rate of `maxRequestsPerMinute: auto`: enough for a pass of a tenant without a backlog.
const AUTO_MIN: u32 = 200;

/// The highest rate of `maxRequestsPerMinute: auto`.
const AUTO_MAX: u32 = 1_000_000;

/// The duration for which `maxRequestsPerMinute: auto` stays below a rate that was throttled.
const AUTO_HOLD: Duration = Duration::from_secs(10 * 60);

const MINUTE: Duration = Duration::from_secs(60);
/// Responses within this interval are counted together, until 60 seconds after the last of them.
const SLOT: Duration = Duration::from_millis(500);
/// The shortest step in which the rate grows, …
const STEP: Duration = Duration::from_millis(100);
/// … and the longest, whatever the time since the last step.
const STEP_MAX: Duration = Duration::from_secs(1);
/// The time constant of a growth that doubles the rate in 15 s (15 s / ln 2).
const FAST_GROWTH: Duration = Duration::from_millis(21_640);
/// The time constant of a growth that doubles the rate in 5 minutes.
const SLOW_GROWTH: Duration = Duration::from_millis(432_809);
/// The time in which the rate climbs from zero to the plateau; from one half of it in 15 s.
const CLIMB: Duration = Duration::from_secs(30);
/// The plateau as a percentage of the requests accepted in the last minute.
const PLATEAU_PERCENT: u64 = 95;
/// The rate is stored in thousandths of a request per minute, so that small steps are not lost.
const UNIT: u64 = 1000;

/// The rate that an earlier pass has learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Learned {
    /// Requests per minute.
    pub requests_per_minute: u32,
    /// Whether it is near the quota, because the tenant was throttled recently.
    pub is_plateau: bool,
}

/// A permission to make one request, returned to [`Pace::answered`] with its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permit {
    /// The number of bursts of throttling responses before it was issued.
    burst: u32,
}

/// The outcome of a request with respect to the quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestOutcome {
    /// The request was within the quota.
    Accepted,
    /// The request exceeded the quota.
    Throttled,
    /// Unknown, because no response arrived.
    Unknown,
}

/// The rate limiter of a tenant: a maximum number of requests in any minute, and none during a pause.
#[derive(Debug)]
pub struct Pace {
    /// In thousandths of a request per minute.
    rate: u64,
    /// How the rate adapts; `None` if it is fixed.
    adaption: Option<Adaption>,
    /// The responses of the last minute, oldest first.
    slots: VecDeque<Slot>,
    /// The number of requests in `slots`.
    in_slots: u64,
    /// Requests without a response so far.
    running: u32,
    /// The maximum number of concurrent requests.
    running_max: u32,
    /// Bursts of throttling responses so far.
    bursts: u32,
    paused_until: Option<Instant>,
}

#[derive(Debug)]
struct Adaption {
    /// The rate that is known to work since the last throttling, in thousandths.
    plateau: Option<u64>,
    /// Before this time the rate does not grow beyond the plateau.
    hold_until: Option<Instant>,
    last_step: Option<Instant>,
    /// Whether a request was accepted since the last step.
    has_accepted: bool,
    /// When a throttling response last arrived in this pass.
    throttled_at: Option<Instant>,
}

#[derive(Debug)]
struct Slot {
    begin: Instant,
    accepted: u32,
    /// Requests that were throttled or had no response: the server may have counted them.
    others: u32,
}

impl Pace {
    /// Returns a rate limiter that begins now. `learned` is ignored with a fixed rate.
    pub fn new(requests_per_minute: RequestsPerMinute, learned: Option<Learned>, now: Instant) -> Self {
        let (rate, adaption) = match (requests_per_minute, learned) {
            (RequestsPerMinute::Fixed(rate), _) => (rate.max(1), None),
            (RequestsPerMinute::Auto, None) => (AUTO_START, Some(Adaption::new(None))),
            (RequestsPerMinute::Auto, Some(Learned { requests_per_minute, is_plateau })) => {
                let rate = requests_per_minute.clamp(AUTO_MIN, AUTO_MAX);
                let plateau = is_plateau.then(|| (u64::from(rate) * UNIT, now + AUTO_HOLD));
                (rate, Some(Adaption::new(plateau)))
            }
        };
        Self {
            rate: u64::from(rate) * UNIT,
            adaption,
            slots: VecDeque::new(),
            in_slots: 0,
            running: 0,
            running_max: u32::MAX,
            bursts: 0,
            paused_until: None,
        }
    }

    /// Acquires a permit for one request.
    ///
    /// # Errors
    ///
    /// No request may be made now. The error is the time at which to ask again; `None` means when a running request ends.
    pub fn acquire(&mut self, now: Instant) -> Result<Permit, Option<Instant>> {
        if let Some(until) = self.paused_until(now) {
            return Err(Some(until));
        }
        if self.running >= self.running_max {
            return Err(None);
        }
        self.forget_before(now);
        if self.counted() >= self.rate / UNIT {
            if let Some(adaption) = &mut self.adaption {
                adaption.grow(&mut self.rate, now);
            }
            if self.counted() >= self.rate / UNIT {
                let next_step =
                    self.adaption.as_ref().and_then(|adaption| adaption.next_step(self.rate, now));
                let next_free = self.slots.front().map(Slot::end);
                return Err([next_step, next_free].into_iter().flatten().min());
            }
        }
        self.running += 1;
        Ok(Permit { burst: self.bursts })
    }

    /// Returns a permit with the outcome of its request.
    pub fn answered(&mut self, permit: Permit, outcome: RequestOutcome, now: Instant) {
        self.running = self.running.saturating_sub(1);
        self.forget_before(now);
        if self.slots.back().is_none_or(|slot| now >= slot.begin + SLOT) {
            self.slots.push_back(Slot { begin: now, accepted: 0, others: 0 });
        }
        self.in_slots += 1;
        let is_of_this_burst = permit.burst == self.bursts;
        let slot = self.slots.back_mut().expect("one was pushed");
        match outcome {
            RequestOutcome::Unknown => slot.others += 1,
            RequestOutcome::Accepted => {
                slot.accepted += 1;
                if is_of_this_burst {
                    self.running_max = self.running_max.saturating_add(1);
                    if let Some(adaption) = &mut self.adaption {
                        adaption.has_accepted = true;
                    }
                }
            }
            RequestOutcome::Throttled => {
                slot.others += 1;
                if is_of_this_burst {
                    self.slow_down(now);
                }
            }
        }
    }

    fn slow_down(&mut self, now: Instant) {
        // A throttled request that ran alone after a pause belongs to the previous burst.
        let is_first = self.running_max > 1;
        self.bursts += 1;
        self.running_max = 1;
        let accepted: u64 = self.slots.iter().map(|slot| u64::from(slot.accepted)).sum();
        if let Some(adaption) = self.adaption.as_mut().filter(|_| is_first) {
            self.rate = (self.rate / 2).max(u64::from(AUTO_MIN) * UNIT);
            adaption.plateau = Some(self.rate.max(accepted * UNIT / 100 * PLATEAU_PERCENT));
            adaption.hold_until = Some(now + AUTO_HOLD);
            adaption.throttled_at = Some(now);
            adaption.has_accepted = false;
        }
    }

    /// Returns the end of the current pause.
    pub fn paused_until(&self, now: Instant) -> Option<Instant> {
        self.paused_until.filter(|&until| now < until)
    }

    /// Permits no request until then. A pause is never shortened.
    pub fn pause(&mut self, until: Instant) {
        self.paused_until = Some(self.paused_until.map_or(until, |earlier| earlier.max(until)));
    }

    /// Forgets the requests of the last minute, because no further one is made.
    pub fn forget_requests(&mut self) {
        self.slots = VecDeque::new(); // frees the memory
        self.in_slots = 0;
    }

    /// Returns the rate in requests per minute.
    pub fn requests_per_minute(&self) -> u32 {
        u32::try_from(self.rate / UNIT).unwrap_or(u32::MAX)
    }

    /// Returns what a later pass begins with: the rate that is known to work, and when a throttling response last arrived
    /// in this pass. `None` with a fixed rate.
    pub fn learned(&self) -> Option<(u32, Option<Instant>)> {
        let adaption = self.adaption.as_ref()?;
        let rate = adaption.plateau.unwrap_or_default().max(self.rate) / UNIT;
        Some((u32::try_from(rate).unwrap_or(AUTO_MAX), adaption.throttled_at))
    }

    /// Returns the number of requests that the server may have counted in the last minute.
    fn counted(&self) -> u64 {
        self.in_slots + u64::from(self.running)
    }

    fn forget_before(&mut self, now: Instant) {
        while let Some(slot) = self.slots.front().filter(|slot| slot.end() <= now) {
            self.in_slots -= u64::from(slot.accepted + slot.others);
            self.slots.pop_front();
        }
    }
}

impl Adaption {
    fn new(plateau: Option<(u64, Instant)>) -> Self {
        let (plateau, hold_until) = plateau.unzip();
        Self { plateau, hold_until, last_step: None, has_accepted: false, throttled_at: None }
    }

    /// Raises the rate by one step if a step is due and requests are accepted.
    fn grow(&mut self, rate: &mut u64, now: Instant) {
        let since = self.last_step.map_or(STEP, |last| now.saturating_duration_since(last));
        if since < STEP || !self.has_accepted {
            return;
        }
        let held = self.plateau.filter(|_| self.hold_until.is_some_and(|until| now < until));
        let (whole, time, most) = match (self.plateau, held) {
            (Some(plateau), _) if *rate < plateau => (plateau, CLIMB, plateau),
            (_, Some(_)) => return,
            (Some(_), None) => (*rate, SLOW_GROWTH, u64::MAX),
            (None, _) => (*rate, FAST_GROWTH, u64::MAX),
        };
        let share = |whole: u64| whole.saturating_mul(millis(since.min(STEP_MAX))) / millis(time);
        let before = *rate;
        *rate = (before + share(whole)).min(most).min(u64::from(AUTO_MAX) * UNIT);
        self.last_step = Some(now);
        // A step of less than one request permits none, so no response would allow the next step.
        self.has_accepted = *rate / UNIT == before / UNIT;
    }

    /// Returns when the next step is due. `None` while it depends on a further response.
    fn next_step(&self, rate: u64, now: Instant) -> Option<Instant> {
        let next = self.last_step.map_or(now, |last| last + STEP).max(now + Duration::from_millis(1));
        let held = self
            .hold_until
            .filter(|&until| self.plateau.is_some_and(|plateau| rate >= plateau) && now < until);
        self.has_accepted.then(|| held.map_or(next, |until| next.max(until)))
    }
}

impl Slot {
    /// Returns when its requests no longer count.
    fn end(&self) -> Instant {
        self.begin + SLOT + MINUTE
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn fixed(requests_per_minute: u32, now: Instant) -> Pace {
        Pace::new(RequestsPerMinute::Fixed(requests_per_minute), None, now)
    }

    fn auto(learned: Option<Learned>, now: Instant) -> Pace {
        Pace::new(RequestsPerMinute::Auto, learned, now)
    }

    /// Returns how many requests a greedy client makes in that time, each of which is accepted at once.
    fn requests_within(pace: &mut Pace, start: Instant, span: Duration) -> u32 {
        let mut now = start;
        let mut made = 0;
        while now < start + span {
            match pace.acquire(now) {
                Ok(permit) => {
                    made += 1;
                    pace.answered(permit, RequestOutcome::Accepted, now);
                }
                Err(later) => {
                    let later = later.expect("nothing runs");
                    assert!(later > now, "a wait that is over would spin");
                    now = later;
                }
            }
        }
        made
    }

    #[test]
    fn fixed_rate_bounds_the_requests_in_any_minute() {
        let start = Instant::now();
        assert_eq!(requests_within(&mut fixed(600, start), start, Duration::from_millis(1)), 600);
        assert_eq!(requests_within(&mut fixed(600, start), start, 60 * SECOND), 600);
        assert_eq!(requests_within(&mut fixed(600, start), start, 605 * SECOND), 6000);
        assert_eq!(requests_within(&mut fixed(1, start), start, 119 * SECOND), 2);
        assert_eq!(fixed(1, start).learned(), None);
    }

    #[test]
    fn request_counts_until_a_minute_after_its_response() {
        let start = Instant::now();
        let mut pace = fixed(1, start);
        let permit = pace.acquire(start).expect("the first");
        assert_eq!(pace.acquire(start + 90 * SECOND), Err(None), "it still runs");
        pace.answered(permit, RequestOutcome::Unknown, start + 90 * SECOND);
        let free_at = start + 150 * SECOND + SLOT;
        assert_eq!(pace.acquire(start + 91 * SECOND), Err(Some(free_at)));
        assert!(pace.acquire(free_at).is_ok());
    }

    #[test]
    fn pause_stops_requests_and_is_never_shortened() {
        let start = Instant::now();
        let mut pace = fixed(600, start);
        pace.pause(start + 9 * SECOND);
        pace.pause(start + 3 * SECOND);
        assert_eq!(pace.acquire(start), Err(Some(start + 9 * SECOND)));
        assert!(pace.acquire(start + 9 * SECOND).is_ok());
    }

    #[test]
    fn halves_the_rate_once_per_throttling_burst() {
        let start = Instant::now();
        let mut pace = auto(None, start);
        let permits: Vec<_> =
            (0..50).map(|_| pace.acquire(start).expect("within a minute's burst")).collect();
        for permit in permits {
            pace.answered(permit, RequestOutcome::Throttled, start);
        }
        assert_eq!(pace.requests_per_minute(), AUTO_START / 2);
        // One request at a time finds out that the quota is still used up.
        let alone = pace.acquire(start + SECOND).expect("one");
        assert_eq!(pace.acquire(start + SECOND), Err(None));
        pace.answered(alone, RequestOutcome::Throttled, start + SECOND);
        assert_eq!(pace.requests_per_minute(), AUTO_START / 2);
        // Each one that is accepted lets one more run.
        let alone = pace.acquire(start + 2 * SECOND).expect("one");
        pace.answered(alone, RequestOutcome::Accepted, start + 2 * SECOND);
        let both = [pace.acquire(start + 3 * SECOND), pace.acquire(start + 3 * SECOND)];
        assert_eq!(pace.acquire(start + 3 * SECOND), Err(None));
        for permit in both {
            pace.answered(permit.expect("two"), RequestOutcome::Throttled, start + 3 * SECOND);
        }
        assert_eq!(pace.requests_per_minute(), AUTO_START / 4, "another burst");
        let (_, throttled_at) = pace.learned().expect("it learns");
        assert_eq!(throttled_at, Some(start + 3 * SECOND));
    }

    #[test]
    fn rate_stays_within_its_bounds() {
        let start = Instant::now();
        let mut pace = auto(None, start);
        for second in 0..100 {
            let now = start + second * SECOND;
            if let Ok(permit) = pace.acquire(now) {
                pace.answered(
                    permit,
                    if second % 2 == 0 { RequestOutcome::Throttled } else { RequestOutcome::Accepted },
                    now,
                );
            }
        }
        assert_eq!(pace.requests_per_minute(), AUTO_MIN);
        let mut pace = auto(Some(Learned { requests_per_minute: AUTO_MAX, is_plateau: false }), start);
        requests_within(&mut pace, start, 2 * SECOND);
        assert_eq!(pace.requests_per_minute(), AUTO_MAX);
        let lower = Learned { requests_per_minute: 1, is_plateau: true };
        assert_eq!(auto(Some(lower), start).requests_per_minute(), AUTO_MIN);
    }

    #[test]
    fn rate_grows_only_while_requests_wait() {
        let start = Instant::now();
        let mut pace = auto(None, start);
        for second in 0..600 {
            let now = start + second * SECOND;
            let permit = pace.acquire(now).expect("one a second is no backlog");
            pace.answered(permit, RequestOutcome::Accepted, now);
        }
        assert_eq!(pace.learned(), Some((AUTO_START, None)));
        let made = requests_within(&mut pace, start + 600 * SECOND, 60 * SECOND);
        assert!(made > 10_000, "{made} in a minute in which nothing is throttled");
    }

    #[test]
    fn holds_a_throttled_rate_before_growing_slowly() {
        let start = Instant::now();
        let mut pace = auto(Some(Learned { requests_per_minute: 600, is_plateau: true }), start);
        requests_within(&mut pace, start, AUTO_HOLD);
        assert_eq!(pace.requests_per_minute(), 600);
        requests_within(&mut pace, start + AUTO_HOLD, 60 * SECOND);
        assert!((610..720).contains(&pace.requests_per_minute()), "{}", pace.requests_per_minute());
    }
}
