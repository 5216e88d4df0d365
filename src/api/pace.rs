//! When a tenant's next request may be made. Pure: the time is passed in.

use std::time::{Duration, Instant};

/// A tenant's pace: so many requests a minute on average, and none while it is paused.
///
/// A token bucket that holds a minute's requests, full at first: a pass that needs no more than those is not held up.
/// Told by the time at which it will be full again.
#[derive(Debug)]
pub struct Pace {
    /// What one request costs of the bucket's minute.
    interval: Duration,
    full_at: Option<Instant>,
    paused_until: Option<Instant>,
}

const MINUTE: Duration = Duration::from_secs(60);

impl Pace {
    /// At most `requests_per_minute` on average.
    pub fn new(requests_per_minute: u32) -> Self {
        Self { interval: MINUTE / requests_per_minute.max(1), full_at: None, paused_until: None }
    }

    /// `Ok` takes one request's share; `Err` is the time from which on it is worth asking again.
    pub fn take(&mut self, now: Instant) -> Result<(), Instant> {
        if let Some(until) = self.paused_until(now) {
            return Err(until);
        }
        let full_at = self.full_at.map_or(now, |full_at| full_at.max(now)) + self.interval;
        let ahead = full_at.duration_since(now);
        if ahead > MINUTE {
            return Err(now + ahead.saturating_sub(MINUTE));
        }
        self.full_at = Some(full_at);
        Ok(())
    }

    /// The end of the pause that lasts now.
    pub fn paused_until(&self, now: Instant) -> Option<Instant> {
        self.paused_until.filter(|&until| now < until)
    }

    /// Lets nothing through until then.
    pub fn pause(&mut self, until: Instant) {
        self.paused_until = Some(self.paused_until.map_or(until, |earlier| earlier.max(until)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many requests a greedy client makes in that time.
    fn requests_within(pace: &mut Pace, start: Instant, span: Duration) -> u32 {
        let mut now = start;
        let mut made = 0;
        while now < start + span {
            match pace.take(now) {
                Ok(()) => made += 1,
                Err(later) => {
                    assert!(later > now, "a wait that is over would spin");
                    now = later;
                }
            }
        }
        made
    }

    #[test]
    fn the_average_is_kept_after_a_minutes_requests_at_once() {
        let start = Instant::now();
        assert_eq!(requests_within(&mut Pace::new(600), start, Duration::from_millis(1)), 600);
        let in_ten_minutes = requests_within(&mut Pace::new(600), start, Duration::from_secs(600));
        assert!((6599..=6601).contains(&in_ten_minutes), "{in_ten_minutes}");
    }

    #[test]
    fn even_one_request_a_minute_goes_through() {
        assert_eq!(requests_within(&mut Pace::new(1), Instant::now(), Duration::from_secs(119)), 2);
    }

    #[test]
    fn a_pause_holds_back_and_never_shrinks() {
        let start = Instant::now();
        let mut pace = Pace::new(600);
        pace.pause(start + Duration::from_secs(9));
        pace.pause(start + Duration::from_secs(3));
        assert_eq!(pace.take(start), Err(start + Duration::from_secs(9)));
        assert_eq!(pace.take(start + Duration::from_secs(9)), Ok(()));
    }
}
