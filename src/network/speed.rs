//! Cuts responses that arrive too slowly. A server that sends a byte now and then never meets the read time-out, and
//! would hold a thread and finally the lock without limit.

use std::{
    mem,
    time::{Duration, Instant},
};

use ureq::{
    Error,
    unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport},
};

/// The lowest accepted speed of a body, …
const BYTES_PER_SECOND_MIN: u64 = 1024;

/// … measured over this duration of waiting for it.
pub const PERIOD: Duration = Duration::from_secs(30);

/// A connector that measures the connections made by the connector before it in the chain.
#[derive(Debug)]
pub struct MinimumSpeed {
    /// The time spent waiting for data over which the speed is measured.
    pub period: Duration,
}

impl<In: Transport> Connector<In> for MinimumSpeed {
    type Out = Measured<In>;

    fn connect(&self, _: &ConnectionDetails, chained: Option<In>) -> Result<Option<Self::Out>, Error> {
        let response = ResponseSpeed::new(self.period);
        Ok(chained.map(|inner| Measured { inner, response, has_response: false }))
    }
}

/// A connection whose responses must keep to a minimum speed.
#[derive(Debug)]
pub struct Measured<T> {
    inner: T,
    response: ResponseSpeed,
    /// Whether a response has ended since the connection was last tested.
    has_response: bool,
}

impl<T: Transport> Transport for Measured<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.response = ResponseSpeed::new(self.response.period);
        self.has_response = true;
        self.inner.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let (before, began) = (self.inner.buffers().input().len(), Instant::now());
        let is_progress = self.inner.await_input(timeout)?;
        let received = self.inner.buffers().input().len().saturating_sub(before);
        // Not an I/O error: a decoder would report that as damage of the compressed body.
        self.response
            .received(received as u64, began.elapsed())
            .map_err(|slow| Error::Other(Box::new(slow)))?;
        Ok(is_progress)
    }

    /// ureq asks after each response and again before the next request. A test is three system calls, and only the second
    /// one counts.
    fn is_open(&mut self) -> bool {
        mem::take(&mut self.has_response) || self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}

/// The speed of one response. Only the time that the reader waits for data counts, from the first byte on: neither the
/// time until the server responds nor the time in which the reader does something else.
#[derive(Debug)]
struct ResponseSpeed {
    period: Duration,
    has_begun: bool,
    bytes: u64,
    waited: Duration,
}

impl ResponseSpeed {
    fn new(period: Duration) -> Self {
        Self { period, has_begun: false, bytes: 0, waited: Duration::ZERO }
    }

    /// Counts bytes that arrived after a wait.
    ///
    /// # Errors
    ///
    /// The speed over the last period was below [`BYTES_PER_SECOND_MIN`].
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
        if u128::from(self.bytes) * 1_000 < u128::from(BYTES_PER_SECOND_MIN) * self.waited.as_millis() {
            return Err(TooSlow { period: self.period });
        }
        (self.bytes, self.waited) = (0, Duration::ZERO);
        Ok(())
    }
}

/// An error returned when a response arrives too slowly.
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
    fn cuts_a_slow_response_after_one_period() {
        let mut dripping = ResponseSpeed::new(30 * SECOND);
        dripping.received(1, 3600 * SECOND).expect("the time before the first byte does not count");
        for _ in 0..5 {
            dripping.received(1, 5 * SECOND).expect("less than a period");
        }
        dripping.received(1, 5 * SECOND).expect_err("a period is over");

        let mut steady = ResponseSpeed::new(30 * SECOND);
        for _ in 0..1_000 {
            steady.received(6 * 1024, 5 * SECOND).expect("faster than the minimum");
        }
    }
}
