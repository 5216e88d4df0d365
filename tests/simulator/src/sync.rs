//! Locks that a panicking test does not poison, and waiting that the simulator's end cuts short.

use std::{
    io,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Locks, whatever happened to the thread that held the lock before.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The end of the simulator, as its threads wait for it.
#[derive(Default)]
pub(crate) struct Stop {
    stopped: Mutex<bool>,
    bell: Condvar,
}

impl Stop {
    /// Wakes everyone who waits.
    pub(crate) fn stop(&self) {
        *lock(&self.stopped) = true;
        self.bell.notify_all();
    }

    /// Whether the end has come.
    pub(crate) fn is_stopped(&self) -> bool {
        *lock(&self.stopped)
    }

    /// Sleeps; `None` sleeps until the end. Fails if the end comes first.
    pub(crate) fn sleep(&self, time: Option<Duration>) -> io::Result<()> {
        let until = time.and_then(|time| Instant::now().checked_add(time));
        let mut stopped = lock(&self.stopped);
        while !*stopped {
            stopped = match until {
                None => self.bell.wait(stopped).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Ok(());
                    }
                    self.bell.wait_timeout(stopped, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        Err(io::ErrorKind::ConnectionAborted.into())
    }
}
