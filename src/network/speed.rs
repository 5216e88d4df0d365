//! Ends an answer that arrives too slowly: a body that drips a byte now and then never meets the time-out for silence,
//! and would hold its thread, and at last the lock, for as long as it likes.

use std::time::{Duration, Instant};

use ureq::{
    Error,
    unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport},
};

use crate::limits::BODY_BYTES_PER_SECOND_MIN;

/// Measures the connections that another connector makes.
#[derive(Debug)]
pub struct MinimumSpeed {
    /// The time of waiting over which the speed is measured.
    pub period: Duration,
}

impl<In: Transport> Connector<In> for MinimumSpeed {
    type Out = Measured<In>;

    fn connect(&self, _: &ConnectionDetails, chained: Option<In>) -> Result<Option<Self::Out>, Error> {
        Ok(chained.map(|inner| Measured { inner, answer: Answer::new(self.period) }))
    }
}

/// A connection whose answers must keep to a minimum speed.
#[derive(Debug)]
pub struct Measured<T> {
    inner: T,
    answer: Answer,
}

impl<T: Transport> Transport for Measured<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.answer = Answer::new(self.answer.period);
        self.inner.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let (before, began) = (self.inner.buffers().input().len(), Instant::now());
        let is_progress = self.inner.await_input(timeout)?;
        let received = self.inner.buffers().input().len().saturating_sub(before);
        // Not as an I/O error: a decoder would take that for a fault of the compressed body.
        self.answer
            .received(received as u64, began.elapsed())
            .map_err(|slow| Error::Other(Box::new(slow)))?;
        Ok(is_progress)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}

/// How fast an answer arrives. Only the time in which its reader waited for it counts, from its first byte on: how long
/// a server thinks before it answers, and how long the reader does something else, are not its speed.
#[derive(Debug)]
struct Answer {
    period: Duration,
    has_begun: bool,
    bytes: u64,
    waited: Duration,
}

impl Answer {
    fn new(period: Duration) -> Self {
        Self { period, has_begun: false, bytes: 0, waited: Duration::ZERO }
    }

    /// Counts bytes that came after a wait.
    ///
    /// # Errors
    ///
    /// They were too few for the last period of waiting.
    fn received(&mut self, bytes: u64, waited: Duration) -> Result<(), TooSlow> {
        if !self.has_begun {
            self.has_begun = true;
            return Ok(());
        }
        self.bytes += bytes;
        self.waited += waited;
        if self.waited < self.period {
            return Ok(());
        }
        if u128::from(self.bytes) * 1_000 < u128::from(BODY_BYTES_PER_SECOND_MIN) * self.waited.as_millis() {
            return Err(TooSlow { period: self.period });
        }
        (self.bytes, self.waited) = (0, Duration::ZERO);
        Ok(())
    }
}

/// An answer that arrives more slowly than it is waited for.
#[derive(Debug, thiserror::Error)]
#[error("the answer came at less than 1 KB/s for {} s", .period.as_secs())]
struct TooSlow {
    period: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_answer_that_drips_is_ended_after_one_period_and_a_steady_one_never() {
        let mut drips = Answer::new(30 * SECOND);
        drips.received(1, 3600 * SECOND).expect("the time before the first byte does not count");
        for _ in 0..5 {
            drips.received(1, 5 * SECOND).expect("less than a period");
        }
        drips.received(1, 5 * SECOND).expect_err("a period is over");

        let mut steady = Answer::new(30 * SECOND);
        for _ in 0..1_000 {
            steady.received(6 * 1024, 5 * SECOND).expect("faster than the minimum");
        }
    }
}
