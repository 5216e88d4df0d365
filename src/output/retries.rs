//! When a receiver is tried again, and when the pass stops trying.

use std::time::{Duration, Instant};

use crate::{
    limits::{RECEIVER_RETRY_DELAY, RECEIVER_RETRY_DELAY_MAX},
    network::backoff,
};

/// The attempts since a receiver last accepted something.
#[derive(Debug)]
pub struct Retries {
    timeout: Duration,
    failed: u32,
    until: Option<Instant>,
}

impl Retries {
    /// `timeout` is the time after the first failure in which a receiver is tried again.
    pub fn new(timeout: Duration) -> Self {
        Self { timeout, failed: 0, until: None }
    }

    /// Forgets the failures, because the receiver has accepted something.
    pub fn reset(&mut self) {
        (self.failed, self.until) = (0, None);
    }

    /// Counts a failure, and returns the delay before the next attempt; `None` if there is none.
    pub fn next_delay(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let until = *self.until.get_or_insert(now + self.timeout);
        self.failed += 1;
        let delay = backoff::delay(RECEIVER_RETRY_DELAY, self.failed, fastrand::f64());
        let delay = delay.min(RECEIVER_RETRY_DELAY_MAX);
        (delay <= until.saturating_duration_since(now)).then_some(delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_until_the_time_is_up_and_start_again_after_a_success() {
        let mut retries = Retries::new(Duration::from_secs(3600));
        let first = retries.next_delay().expect("time is left");
        assert!(first <= RECEIVER_RETRY_DELAY);
        let last = (0..10).filter_map(|_| retries.next_delay()).last().expect("time is left");
        assert!(last >= RECEIVER_RETRY_DELAY_MAX / 2, "{last:?}");
        retries.reset();
        assert!(retries.next_delay().expect("time is left") <= RECEIVER_RETRY_DELAY);
        assert_eq!(Retries::new(Duration::ZERO).next_delay(), None);
    }
}
