//! How long receivers are waited for.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use crossbeam_channel::RecvTimeoutError;

use crate::limits::PATIENCE_STEP;

/// Until when anybody waits for a receiver. Without an end at first; a signal or `globalTimeout` sets one, from another
/// thread, so whoever waits looks here every [`PATIENCE_STEP`]. Clones share the end.
///
/// Where no step can be given, as in a request over HTTP or a look-up of a name, [`Patience::attempt`] does the
/// waiting.
#[derive(Clone, Debug, Default)]
pub struct Patience(Arc<Mutex<Option<Instant>>>);

/// Patience is over: the pass has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the pass had to end before the receiver had answered")]
pub struct Over;

impl Patience {
    /// Nobody waits beyond this time. Of several ends the earliest counts.
    pub fn end_at(&self, end: Instant) {
        let mut set = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *set = Some(set.map_or(end, |earlier| earlier.min(end)));
    }

    /// An error once it is over.
    pub fn check(&self) -> Result<(), Over> {
        let end = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if end.is_some_and(|end| Instant::now() >= end) { Err(Over) } else { Ok(()) }
    }

    /// Sleeps for so long, or until patience is over.
    pub fn sleep(&self, time: Duration) -> Result<(), Over> {
        let until = Instant::now() + time;
        loop {
            self.check()?;
            match until.saturating_duration_since(Instant::now()) {
                Duration::ZERO => return Ok(()),
                left => thread::sleep(left.min(PATIENCE_STEP)),
            }
        }
    }

    /// Lets a thread of its own do something that blocks, and waits for what comes of it. If patience is over before
    /// that, the thread is left alone and ends with the program.
    pub fn attempt<T: Send + 'static>(&self, act: impl FnOnce() -> T + Send + 'static) -> Result<T, Over> {
        let (done, result) = crossbeam_channel::bounded(1);
        let thread = thread::spawn(move || {
            // Nobody waits for it when patience is over.
            let _ = done.send(act());
        });
        loop {
            self.check()?;
            match result.recv_timeout(PATIENCE_STEP) {
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

impl From<Over> for io::Error {
    fn from(over: Over) -> Self {
        Self::other(over)
    }
}

impl Over {
    /// Whether it is the reason of this error.
    pub fn is_behind(error: &io::Error) -> bool {
        matches!(error.get_ref(), Some(inner) if inner.is::<Self>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_end_counts_and_clones_share_it() {
        let (patience, now) = (Patience::default(), Instant::now());
        let other = patience.clone();
        assert_eq!(other.check(), Ok(()));
        patience.end_at(now + Duration::from_secs(3600));
        assert_eq!(other.check(), Ok(()));
        patience.end_at(now);
        patience.end_at(now + Duration::from_secs(3600));
        assert_eq!(other.check(), Err(Over));
        assert_eq!(other.sleep(Duration::from_secs(3600)), Err(Over));
    }

    #[test]
    fn what_blocks_is_waited_for_until_patience_is_over() {
        let patience = Patience::default();
        assert_eq!(patience.attempt(|| 7), Ok(7));
        let (end_of_block, block) = crossbeam_channel::bounded::<()>(0);
        let ending = patience.clone();
        let end = thread::spawn(move || ending.end_at(Instant::now()));
        assert_eq!(patience.attempt(move || block.recv().is_err()), Err(Over));
        end.join().expect("no panic");
        drop(end_of_block);
    }
}
