//! Locks that a panic does not poison, and sleeps that end when the simulator stops.

use std::{
    io,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Locks a mutex, also after a thread panicked while it held the lock.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Signals the threads of the simulator to end.
#[derive(Default)]
pub(crate) struct Stop {
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    /// Ends all sleeps.
    pub(crate) fn stop(&self) {
        *lock(&self.stopped) = true;
        self.changed.notify_all();
    }

    /// Whether the simulator is stopping.
    pub(crate) fn is_stopped(&self) -> bool {
        *lock(&self.stopped)
    }

    /// Sleeps for this duration, or until the simulator stops.
    ///
    /// # Errors
    ///
    /// The simulator stops.
    pub(crate) fn sleep(&self, time: Option<Duration>) -> io::Result<()> {
        let until = time.and_then(|time| Instant::now().checked_add(time));
        let mut stopped = lock(&self.stopped);
        while !*stopped {
            stopped = match until {
                None => self.changed.wait(stopped).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Ok(());
                    }
                    self.changed.wait_timeout(stopped, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        Err(io::ErrorKind::ConnectionAborted.into())
    }
}
