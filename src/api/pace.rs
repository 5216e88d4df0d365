//! When a tenant's next request may be made. Pure: the time is passed in.
//!
//! Microsoft grants a tenant a number of requests a minute. Nobody can look the number up; it shows only in answers that
//! throttle (`AF429`), and how they are counted is not documented. A client that makes at most `rate` requests in *any*
//! 60 seconds keeps within a quota of `rate` whether the server counts in fixed minutes, in a sliding window or with a
//! bucket that refills. So that is what [`Pace`] does: requests count from the moment they are sent until 60 seconds
//! after their answer, because the server counts them somewhere between.
//!
//! The rate is fixed, or learned ([`RequestsPerMinute::Auto`]):
//!
//! - It begins at what an earlier pass has learned, else at [`AUTO_START`].
//! - While the rate holds requests back (there is a backlog) and requests are accepted, it grows exponentially.
//! - A throttling answer halves it, once for a burst of them: answers to requests that were sent before do not halve it
//!   again. What was accepted in the last minute becomes the plateau: the rate climbs back to it within seconds of
//!   accepted requests, because that many are known to work, and stays there before it grows further, slowly.
//!
//! After a throttling answer, and after the pause that the caller imposes, one request is made alone. Each one that is
//! accepted lets one more run at a time. So a pause that was too short costs one refused request, not one a thread.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::{
    config::RequestsPerMinute,
    limits::{AUTO_HOLD, AUTO_MAX, AUTO_MIN, AUTO_START},
};

const MINUTE: Duration = Duration::from_secs(60);
/// Answers that came within this time are counted together, and until 60 seconds after the last of them.
const SLOT: Duration = Duration::from_millis(500);
/// The rate grows in steps of this duration, …
const STEP: Duration = Duration::from_millis(100);
/// … and of this one at the most, however long the last step is ago.
const STEP_MAX: Duration = Duration::from_secs(1);
/// Growth that doubles the rate in 15 s: the time in which it would grow by its own size at a constant speed.
const FAST_GROWTH: Duration = Duration::from_millis(21_640);
/// The same for a rate that doubles in 5 minutes.
const SLOW_GROWTH: Duration = Duration::from_millis(432_809);
/// The time in which the rate climbs from zero to the plateau, hence from one half to it in 15 s.
const CLIMB: Duration = Duration::from_secs(30);
/// The share of what was accepted in a minute that becomes the plateau, in percent.
const PLATEAU_PERCENT: u64 = 95;
/// The rate is counted in thousandths of a request a minute, so that small steps are not lost.
const UNIT: u64 = 1000;

/// A rate that an earlier pass has learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Learned {
    /// Requests a minute.
    pub requests_per_minute: u32,
    /// Whether it is known to be near the quota, because the tenant was throttled lately.
    pub is_plateau: bool,
}

/// A permission to make one request, given back to [`Pace::answered`] with what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permit {
    /// The number of bursts of throttling answers before it was given.
    burst: u32,
}

/// What an answer says about the quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestOutcome {
    /// The request was within the quota.
    Accepted,
    /// It was not.
    Throttled,
    /// Nothing: there was no answer.
    Unknown,
}

/// A tenant's pace: at most a number of requests in any minute, and none while it is paused.
#[derive(Debug)]
pub struct Pace {
    /// In thousandths of a request a minute.
    rate: u64,
    /// How the rate changes, unless it is fixed.
    law: Option<Law>,
    /// What was answered in the last minute, oldest first.
    slots: VecDeque<Slot>,
    /// The requests in them.
    in_slots: u64,
    /// Requests without an answer so far.
    running: u32,
    /// How many may run at a time.
    running_max: u32,
    /// Bursts of throttling answers so far.
    bursts: u32,
    paused_until: Option<Instant>,
}

#[derive(Debug)]
struct Law {
    /// Where the rate was throttled, less a margin, in thousandths.
    plateau: Option<u64>,
    /// Before this time the rate does not grow beyond the plateau.
    hold_until: Option<Instant>,
    last_step: Option<Instant>,
    /// Whether a request was accepted since the last step.
    has_accepted: bool,
    /// When a throttling answer last came in this pass.
    throttled_at: Option<Instant>,
}

#[derive(Debug)]
struct Slot {
    begin: Instant,
    accepted: u32,
    /// Throttled, or without an answer: the server may have counted them.
    others: u32,
}

impl Pace {
    /// A pace that begins now. What an earlier pass has learned counts only without a fixed rate.
    pub fn new(requests_per_minute: RequestsPerMinute, learned: Option<Learned>, now: Instant) -> Self {
        let (rate, law) = match (requests_per_minute, learned) {
            (RequestsPerMinute::Fixed(rate), _) => (rate.max(1), None),
            (RequestsPerMinute::Auto, None) => (AUTO_START, Some(Law::new(None))),
            (RequestsPerMinute::Auto, Some(Learned { requests_per_minute, is_plateau })) => {
                let rate = requests_per_minute.clamp(AUTO_MIN, AUTO_MAX);
                let plateau = is_plateau.then(|| (u64::from(rate) * UNIT, now + AUTO_HOLD));
                (rate, Some(Law::new(plateau)))
            }
        };
        Self {
            rate: u64::from(rate) * UNIT,
            law,
            slots: VecDeque::new(),
            in_slots: 0,
            running: 0,
            running_max: u32::MAX,
            bursts: 0,
            paused_until: None,
        }
    }

    /// Permits one request. `Err` is the time from which on it is worth asking again; without one, that is when a
    /// running request has ended.
    pub fn take(&mut self, now: Instant) -> Result<Permit, Option<Instant>> {
        if let Some(until) = self.paused_until(now) {
            return Err(Some(until));
        }
        if self.running >= self.running_max {
            return Err(None);
        }
        self.forget_before(now);
        if self.counted() >= self.rate / UNIT {
            if let Some(law) = &mut self.law {
                law.grow(&mut self.rate, now);
            }
            if self.counted() >= self.rate / UNIT {
                let next_step = self.law.as_ref().and_then(|law| law.next_step(self.rate, now));
                let next_free = self.slots.front().map(Slot::end);
                return Err([next_step, next_free].into_iter().flatten().min());
            }
        }
        self.running += 1;
        Ok(Permit { burst: self.bursts })
    }

    /// Takes a permit back, and learns from what came of it.
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
                    if let Some(law) = &mut self.law {
                        law.has_accepted = true;
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
        // A request that ran alone after a pause and was throttled belongs to the burst before.
        let is_first = self.running_max > 1;
        self.bursts += 1;
        self.running_max = 1;
        let accepted: u64 = self.slots.iter().map(|slot| u64::from(slot.accepted)).sum();
        if let Some(law) = self.law.as_mut().filter(|_| is_first) {
            self.rate = (self.rate / 2).max(u64::from(AUTO_MIN) * UNIT);
            law.plateau = Some(self.rate.max(accepted * UNIT / 100 * PLATEAU_PERCENT));
            law.hold_until = Some(now + AUTO_HOLD);
            law.throttled_at = Some(now);
            law.has_accepted = false;
        }
    }

    /// The end of the pause that lasts now.
    pub fn paused_until(&self, now: Instant) -> Option<Instant> {
        self.paused_until.filter(|&until| now < until)
    }

    /// Lets nothing through until then.
    pub fn pause(&mut self, until: Instant) {
        self.paused_until = Some(self.paused_until.map_or(until, |earlier| earlier.max(until)));
    }

    /// The rate, in requests a minute.
    pub fn requests_per_minute(&self) -> u32 {
        u32::try_from(self.rate / UNIT).unwrap_or(u32::MAX)
    }

    /// Returns what a later pass should begin with: the rate that is known to work, and when a throttling answer last
    /// came, if one came in this pass. `None` with a fixed rate.
    pub fn learned(&self) -> Option<(u32, Option<Instant>)> {
        let law = self.law.as_ref()?;
        let rate = law.plateau.unwrap_or_default().max(self.rate) / UNIT;
        Some((u32::try_from(rate).unwrap_or(AUTO_MAX), law.throttled_at))
    }

    /// How many requests the server may have counted in the last minute.
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

impl Law {
    fn new(plateau: Option<(u64, Instant)>) -> Self {
        let (plateau, hold_until) = plateau.unzip();
        Self { plateau, hold_until, last_step: None, has_accepted: false, throttled_at: None }
    }

    /// Raises the rate by one step, if it is time for one and requests are accepted.
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
        // A step of less than one request permits none, so no answer to one can be waited for.
        self.has_accepted = *rate / UNIT == before / UNIT;
    }

    /// When the next step is due. `None` while none will come without a further answer.
    fn next_step(&self, rate: u64, now: Instant) -> Option<Instant> {
        let next = self.last_step.map_or(now, |last| last + STEP).max(now + Duration::from_millis(1));
        let held = self
            .hold_until
            .filter(|&until| self.plateau.is_some_and(|plateau| rate >= plateau) && now < until);
        self.has_accepted.then(|| held.map_or(next, |until| next.max(until)))
    }
}

impl Slot {
    /// When what is in it counts no more.
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

    /// How many requests a greedy client makes in that time, each of which is accepted at once.
    fn requests_within(pace: &mut Pace, start: Instant, span: Duration) -> u32 {
        let mut now = start;
        let mut made = 0;
        while now < start + span {
            match pace.take(now) {
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
    fn a_fixed_rate_is_the_most_in_any_minute() {
        let start = Instant::now();
        assert_eq!(requests_within(&mut fixed(600, start), start, Duration::from_millis(1)), 600);
        assert_eq!(requests_within(&mut fixed(600, start), start, 60 * SECOND), 600);
        assert_eq!(requests_within(&mut fixed(600, start), start, 605 * SECOND), 6000);
        assert_eq!(requests_within(&mut fixed(1, start), start, 119 * SECOND), 2);
        assert_eq!(fixed(1, start).learned(), None);
    }

    #[test]
    fn a_request_counts_until_a_minute_after_its_answer() {
        let start = Instant::now();
        let mut pace = fixed(1, start);
        let permit = pace.take(start).expect("the first");
        assert_eq!(pace.take(start + 90 * SECOND), Err(None), "it still runs");
        pace.answered(permit, RequestOutcome::Unknown, start + 90 * SECOND);
        let free_at = start + 150 * SECOND + SLOT;
        assert_eq!(pace.take(start + 91 * SECOND), Err(Some(free_at)));
        assert!(pace.take(free_at).is_ok());
    }

    #[test]
    fn a_pause_holds_back_and_never_shrinks() {
        let start = Instant::now();
        let mut pace = fixed(600, start);
        pace.pause(start + 9 * SECOND);
        pace.pause(start + 3 * SECOND);
        assert_eq!(pace.take(start), Err(Some(start + 9 * SECOND)));
        assert!(pace.take(start + 9 * SECOND).is_ok());
    }

    #[test]
    fn a_burst_of_throttling_answers_halves_the_rate_once() {
        let start = Instant::now();
        let mut pace = auto(None, start);
        let permits: Vec<_> = (0..50).map(|_| pace.take(start).expect("within a minute's burst")).collect();
        for permit in permits {
            pace.answered(permit, RequestOutcome::Throttled, start);
        }
        assert_eq!(pace.requests_per_minute(), AUTO_START / 2);
        // One request at a time finds out that the quota is still used up.
        let alone = pace.take(start + SECOND).expect("one");
        assert_eq!(pace.take(start + SECOND), Err(None));
        pace.answered(alone, RequestOutcome::Throttled, start + SECOND);
        assert_eq!(pace.requests_per_minute(), AUTO_START / 2);
        // Each one that is accepted lets one more run.
        let alone = pace.take(start + 2 * SECOND).expect("one");
        pace.answered(alone, RequestOutcome::Accepted, start + 2 * SECOND);
        let both = [pace.take(start + 3 * SECOND), pace.take(start + 3 * SECOND)];
        assert_eq!(pace.take(start + 3 * SECOND), Err(None));
        for permit in both {
            pace.answered(permit.expect("two"), RequestOutcome::Throttled, start + 3 * SECOND);
        }
        assert_eq!(pace.requests_per_minute(), AUTO_START / 4, "another burst");
        let (_, throttled_at) = pace.learned().expect("it learns");
        assert_eq!(throttled_at, Some(start + 3 * SECOND));
    }

    #[test]
    fn the_rate_stays_within_its_bounds() {
        let start = Instant::now();
        let mut pace = auto(None, start);
        for second in 0..100 {
            let now = start + second * SECOND;
            if let Ok(permit) = pace.take(now) {
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
    fn the_rate_grows_only_where_it_holds_requests_back() {
        let start = Instant::now();
        let mut pace = auto(None, start);
        for second in 0..600 {
            let now = start + second * SECOND;
            let permit = pace.take(now).expect("one a second is no backlog");
            pace.answered(permit, RequestOutcome::Accepted, now);
        }
        assert_eq!(pace.learned(), Some((AUTO_START, None)));
        let made = requests_within(&mut pace, start + 600 * SECOND, 60 * SECOND);
        assert!(made > 10_000, "{made} in a minute in which nothing is throttled");
    }

    #[test]
    fn a_rate_that_was_throttled_lately_is_kept_for_a_while_and_then_grows_slowly() {
        let start = Instant::now();
        let mut pace = auto(Some(Learned { requests_per_minute: 600, is_plateau: true }), start);
        requests_within(&mut pace, start, AUTO_HOLD);
        assert_eq!(pace.requests_per_minute(), 600);
        requests_within(&mut pace, start + AUTO_HOLD, 60 * SECOND);
        assert!((610..720).contains(&pace.requests_per_minute()), "{}", pace.requests_per_minute());
    }
}
