//! Microsoft's time, as far as a pass knows it.
//!
//! This machine's clock can be wrong by minutes or years. So everything that depends on the time of day (what is listed, what
//! has expired, what is remembered) follows the `Date` of Microsoft's responses. The time since such a response is measured
//! with the monotonic clock, which cannot be set.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use jiff::{SignedDuration, Timestamp};

use crate::limits::CLOCK_TOLERANCE;

/// The clocks of the tenants' servers, by the first response to each tenant. Clones share them.
///
/// Tenants can have different servers, and the wrong clock of one server must not affect other tenants.
#[derive(Clone, Debug)]
pub struct Clock {
    /// The start of the pass by the monotonic clock and by this machine's clock.
    began: (Instant, Timestamp),
    /// By tenant id: how far Microsoft's clock is ahead of this machine's, negative if it is behind.
    ahead: Arc<Mutex<HashMap<Arc<str>, SignedDuration>>>,
}

impl Clock {
    /// Returns a clock that knows only this machine's time.
    pub fn start() -> Self {
        Self::begun(Instant::now(), Timestamp::now())
    }

    /// Returns a clock as if the pass had started at this instant and time.
    pub fn begun(at: Instant, time: Timestamp) -> Self {
        Self { began: (at, time), ahead: Arc::default() }
    }

    /// Returns when the pass started.
    pub fn began(&self) -> Instant {
        self.began.0
    }

    /// Records the `Date` of a response if it is the tenant's first one.
    pub fn note(&self, tenant_id: &Arc<str>, date: Timestamp, received: Instant) {
        let mut ahead = self.lock();
        if !ahead.contains_key(tenant_id) {
            ahead.insert(Arc::clone(tenant_id), date.duration_since(self.here(received)));
        }
    }

    /// Returns how far Microsoft's clock is ahead of this machine's, negative if it is behind. `None` before the first
    /// response.
    pub fn ahead(&self, tenant_id: &str) -> Option<SignedDuration> {
        self.lock().get(tenant_id).copied()
    }

    /// Returns Microsoft's time at this instant. This machine's time is used before the first response, and if the two differ
    /// by no more than [`CLOCK_TOLERANCE`]: a `Date` has whole seconds, and a response takes time to arrive.
    pub fn at(&self, tenant_id: &str, instant: Instant) -> Timestamp {
        self.here(instant)
            .saturating_add(correction(self.ahead(tenant_id).unwrap_or_default()))
            .unwrap_or_else(|_| self.here(instant))
    }

    /// Returns the earliest of the tenants' times at this instant. `None` before the first response; then nothing expires.
    pub fn earliest(&self, instant: Instant) -> Option<Timestamp> {
        let ahead = self.lock().values().copied().min()?;
        self.here(instant).checked_add(correction(ahead)).ok()
    }

    /// Returns this machine's time at an instant, as if its clock had not been set since the pass started.
    fn here(&self, instant: Instant) -> Timestamp {
        let (at, time) = self.began;
        let passed = SignedDuration::try_from(instant.saturating_duration_since(at)).unwrap_or_default();
        time.saturating_add(passed).unwrap_or(time)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, SignedDuration>> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn correction(ahead: SignedDuration) -> SignedDuration {
    if ahead.abs() > CLOCK_TOLERANCE { ahead } else { SignedDuration::ZERO }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn follows_the_first_date_of_each_tenant() {
        let (start, here): (_, Timestamp) = (Instant::now(), "2026-11-22T10:00:00Z".parse().expect("a time"));
        let clock = Clock::begun(start, here);
        let after = |seconds| Duration::from_secs(seconds);
        assert_eq!((clock.ahead("a"), clock.earliest(start)), (None, None));
        assert_eq!(clock.at("a", start + after(5)), here + after(5));
        clock.note(&"a".into(), here + after(7 + 3600), start + after(7));
        clock.note(&"a".into(), here - after(3600), start + after(8));
        clock.note(&"b".into(), here + after(8), start + after(9));
        assert_eq!(clock.at("a", start + after(10)), here + after(10 + 3600));
        assert_eq!(clock.at("b", start + after(10)), here + after(10), "one second is within the tolerance");
        assert_eq!(clock.earliest(start + after(10)), Some(here + after(10)));
        assert_eq!(clock.clone().ahead("a"), Some(SignedDuration::from_hours(1)));
    }
}
