//! A connection to a receiver that answers in messages, each of which can arrive in pieces.

use std::{
    io,
    time::{Duration, Instant},
};

use super::{Connection, Endpoint, ReceiverError, connection::is_closed};

/// The number of bytes after which no more is read until they are used.
const RECEIVED_BYTES_MAX: usize = 64 * 1024;

/// A connection, and what was received on it.
#[derive(Debug)]
pub struct MessageConnection {
    connection: Connection,
    /// Bytes that were received and not yet read as a message.
    pub received: Vec<u8>,
    /// Whether the receiver has sent anything of its protocol.
    pub has_received: bool,
    is_closed: bool,
}

impl MessageConnection {
    /// Connects.
    pub fn open(endpoint: &mut Endpoint) -> Result<Self, ReceiverError> {
        let connection = endpoint.connect()?;
        Ok(Self { connection, received: Vec::new(), has_received: false, is_closed: false })
    }

    /// Returns whether the receiver has closed the connection, as far as was noticed.
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Sends all bytes. `silence_max` is the maximum time without any progress.
    pub fn send(
        &mut self,
        endpoint: &mut Endpoint,
        bytes: &[u8],
        silence_max: Duration,
    ) -> Result<(), ReceiverError> {
        self.connection.send(bytes, silence_max).map_err(|error| self.failure(endpoint, &error))
    }

    /// Waits until this time for further bytes. Returns whether any came.
    pub fn receive(&mut self, endpoint: &mut Endpoint, until: Instant) -> Result<bool, ReceiverError> {
        let mut bytes = [0; 16 * 1024];
        match self.connection.receive(&mut bytes, until.saturating_duration_since(Instant::now())) {
            Ok(count) => self.received.extend_from_slice(&bytes[..count]),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return Ok(false),
            Err(error) => return Err(self.failure(endpoint, &error)),
        }
        Ok(true)
    }

    /// Receives what has arrived. Does not wait. A closed connection is not an error; see [`Self::is_closed`].
    pub fn receive_available(&mut self) {
        let mut bytes = [0; 4096];
        while !self.is_closed && self.received.len() < RECEIVED_BYTES_MAX {
            match self.connection.receive_available(&mut bytes) {
                Ok(0) => break,
                Ok(count) => self.received.extend_from_slice(&bytes[..count]),
                Err(_) => self.is_closed = true,
            }
        }
    }

    /// Returns the error for one on this connection. A receiver that closes it and has sent nothing may expect TLS.
    pub fn failure(&mut self, endpoint: &mut Endpoint, error: &io::Error) -> ReceiverError {
        self.is_closed |= is_closed(error);
        let missing_tls = if self.is_closed && !self.has_received { endpoint.missing_tls() } else { None };
        missing_tls.unwrap_or_else(|| endpoint.failure(error))
    }
}
