//! The waits between attempts.

use std::time::{Duration, Instant};

/// The longest delay before a request to Microsoft is retried.
const RETRY_DELAY_MAX: Duration = Duration::from_secs(60);

/// The longest random addition to a delay that a response asks for.
const RETRY_AFTER_JITTER_MAX: Duration = Duration::from_secs(5);

/// The delay before the first retry with a receiver. It doubles with each retry, …
const RECEIVER_RETRY_DELAY: Duration = Duration::from_millis(250);

/// … up to this: a receiver that restarts is back within seconds.
const RECEIVER_RETRY_DELAY_MAX: Duration = Duration::from_secs(5);

const _: () = assert!(RECEIVER_RETRY_DELAY.as_millis() < RECEIVER_RETRY_DELAY_MAX.as_millis());

/// Exponential backoff with jitter: the delay doubles with each consecutive failure up to a maximum. Jitter subtracts up to
/// half of it, so that clients that failed together do not retry together.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    delay_max: Duration,
    /// The time after the first of consecutive failures for which attempts are made.
    timeout: Duration,
    failures: u32,
    end: Option<Instant>,
}

impl Backoff {
    /// Returns a backoff with these first and largest delays, for attempts until `timeout` after the first failure in a
    /// row.
    pub fn new(first: Duration, delay_max: Duration, timeout: Duration) -> Self {
        Self { first, delay_max, timeout, failures: 0, end: None }
    }

    /// Returns the backoff of a receiver.
    pub fn of_receiver(timeout: Duration) -> Self {
        Self::new(RECEIVER_RETRY_DELAY, RECEIVER_RETRY_DELAY_MAX, timeout)
    }

    /// Forgets the failures, after a success.
    pub fn reset(&mut self) {
        (self.failures, self.end) = (0, None);
    }

    /// Counts a failure and returns the delay before the next attempt; `None` if that attempt would come after the
    /// timeout.
    pub fn next_delay(&mut self, now: Instant) -> Option<Duration> {
        let end = *self.end.get_or_insert(now + self.timeout);
        self.failures += 1;
        let delay = delay(self.first, self.failures, fastrand::f64()).min(self.delay_max);
        (now + delay <= end).then_some(delay)
    }
}

/// Returns the delay after `failures` failures in a row, the first of them counted as 1: `first` doubled with each
/// further failure, at most `RETRY_DELAY_MAX`, less up to one half by `jitter`, which is from 0 to 1.
pub fn delay(first: Duration, failures: u32, jitter: f64) -> Duration {
    let doubled = first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(RETRY_DELAY_MAX);
    doubled.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
}

/// Returns the delay after an answer that asks for one, such as `Retry-After`: the delay asked for, plus up to a quarter
/// of it and at most `RETRY_AFTER_JITTER_MAX` by `jitter`, which is from 0 to 1.
pub fn delay_asked_for(asked: Duration, jitter: f64) -> Duration {
    let addition = (asked / 4).min(RETRY_AFTER_JITTER_MAX).mul_f64(jitter.clamp(0.0, 1.0));
    asked.saturating_add(addition)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn extends_a_requested_delay_by_at_most_a_quarter() {
        assert_eq!(delay_asked_for(SECOND, 0.0), SECOND);
        assert_eq!(delay_asked_for(SECOND, 1.0), SECOND + SECOND / 4);
        assert_eq!(delay_asked_for(900 * SECOND, 1.0), 900 * SECOND + RETRY_AFTER_JITTER_MAX);
        assert_eq!(delay_asked_for(Duration::MAX, 1.0), Duration::MAX);
    }

    #[test]
    fn doubles_delays_up_to_a_maximum() {
        assert_eq!(delay(SECOND, 1, 1.0), SECOND);
        assert_eq!(delay(SECOND, 3, 1.0), 4 * SECOND);
        assert_eq!(delay(SECOND, 3, 0.0), 2 * SECOND);
        assert_eq!(delay(SECOND, u32::MAX, 1.0), RETRY_DELAY_MAX);
    }

    #[test]
    fn ends_with_the_timeout_and_restarts_after_a_success() {
        let now = Instant::now();
        let mut backoff = Backoff::new(SECOND, 4 * SECOND, 3600 * SECOND);
        assert!(backoff.next_delay(now).expect("the first attempt") <= SECOND);
        let last = (0..10).filter_map(|_| backoff.next_delay(now)).last().expect("the timeout is far");
        assert!((2 * SECOND..=4 * SECOND).contains(&last), "{last:?}");
        assert_eq!(backoff.next_delay(now + 3600 * SECOND), None);
        assert_eq!(Backoff::new(SECOND, SECOND, Duration::ZERO).next_delay(now), None);
        backoff.reset();
        assert!(backoff.next_delay(now + 7200 * SECOND).expect("a new beginning") <= SECOND);
    }
}
