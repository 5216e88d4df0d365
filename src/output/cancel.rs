//! The end of all waiting for receivers and readers.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use crossbeam_channel::RecvTimeoutError;

use crate::limits::CANCEL_POLL_INTERVAL;

/// The time at which an output stops waiting. There is none at first; a signal or `globalTimeout` sets it from another
/// thread, so an output that waits checks it every [`CANCEL_POLL_INTERVAL`]. Clones share the time.
///
/// [`CancelToken::attempt`] waits for calls that cannot be divided into such steps, such as an HTTP request or the lookup of
/// a name.
#[derive(Clone, Debug, Default)]
pub struct CancelToken(Arc<Mutex<Option<Instant>>>);

/// An error returned when the pass ends before the receiver has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the pass had to end before the receiver had answered")]
pub struct Cancelled;

impl CancelToken {
    /// Sets the time. The earliest of several counts.
    pub fn cancel_at(&self, end: Instant) {
        let mut set = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *set = Some(set.map_or(end, |earlier| earlier.min(end)));
    }

    /// Returns an error after that time.
    pub fn check(&self) -> Result<(), Cancelled> {
        let end = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if end.is_some_and(|end| Instant::now() >= end) { Err(Cancelled) } else { Ok(()) }
    }

    /// Sleeps for this time. Returns an error if it is cancelled before.
    pub fn sleep(&self, time: Duration) -> Result<(), Cancelled> {
        let until = Instant::now() + time;
        loop {
            self.check()?;
            match until.saturating_duration_since(Instant::now()) {
                Duration::ZERO => return Ok(()),
                left => thread::sleep(left.min(CANCEL_POLL_INTERVAL)),
            }
        }
    }

    /// Makes a blocking call in a thread of its own, and waits for the result. If it is cancelled before, the thread is
    /// abandoned and ends with the program.
    pub fn attempt<T: Send + 'static>(
        &self,
        act: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Cancelled> {
        let (done, result) = crossbeam_channel::bounded(1);
        let thread = thread::spawn(move || {
            // After a cancellation no thread receives it.
            let _ = done.send(act());
        });
        loop {
            self.check()?;
            match result.recv_timeout(CANCEL_POLL_INTERVAL) {
                Ok(result) => return Ok(result),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    let panic = thread.join().expect_err("a thread that ends without a result has panicked");
                    std::panic::resume_unwind(panic);
                }
            }
        }
    }
}

impl From<Cancelled> for io::Error {
    fn from(cancelled: Cancelled) -> Self {
        Self::other(cancelled)
    }
}

impl Cancelled {
    /// Returns whether it caused this error.
    pub fn is_cause_of(error: &io::Error) -> bool {
        matches!(error.get_ref(), Some(inner) if inner.is::<Self>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earliest_time_counts_for_all_clones() {
        let (cancel, now) = (CancelToken::default(), Instant::now());
        let other = cancel.clone();
        assert_eq!(other.check(), Ok(()));
        cancel.cancel_at(now + Duration::from_secs(3600));
        assert_eq!(other.check(), Ok(()));
        cancel.cancel_at(now);
        cancel.cancel_at(now + Duration::from_secs(3600));
        assert_eq!(other.check(), Err(Cancelled));
        assert_eq!(other.sleep(Duration::from_secs(3600)), Err(Cancelled));
    }

    #[test]
    fn waits_for_a_blocking_call_until_cancelled() {
        let cancel = CancelToken::default();
        assert_eq!(cancel.attempt(|| 7), Ok(7));
        let (end_of_block, block) = crossbeam_channel::bounded::<()>(0);
        let ending = cancel.clone();
        let end = thread::spawn(move || ending.cancel_at(Instant::now()));
        assert_eq!(cancel.attempt(move || block.recv().is_err()), Err(Cancelled));
        end.join().expect("no panic");
        drop(end_of_block);
    }
}
