//! Messages on a connection to a receiver that acknowledges nothing.
//!
//! There is one confirmation, and a record counts as delivered only after it: the program closes its side of the connection
//! after each batch, and within a large one; the receiver closes its own side when it has read everything. The next messages
//! use a new connection. If the receiver resets the connection instead, or closes it earlier, everything that was not
//! confirmed is sent again, so that messages can come twice but are not lost on the way. Messages that the receiver loses
//! *after* it has read them, because it crashes or its disk is full, are not noticed.
//!
//! A load balancer in front of the receiver closes connections itself: the confirmation means only that the load balancer has
//! read everything. With `confirm: false` the connection stays open, and nothing is confirmed.

use std::{
    io,
    time::{Duration, Instant},
};

use super::{
    CancelToken, Connection, DeliveryError, Endpoint, OutputError, ReceiverError, connection::is_closed,
};
use crate::{
    delivery::OutputName, error::Explain, limits::OUTPUT_BUFFER_BYTES, network::backoff::Backoff,
    records::RecordId,
};

/// The maximum size of messages that the receiver has not confirmed yet. They are held in memory.
const UNCONFIRMED_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The longest time without progress after which a connection is given up.
const STALL_MAX: Duration = Duration::from_secs(60);

/// The time within which a receiver of TLS closes a connection on which it gets something else.
const REJECTION_WAIT: Duration = Duration::from_secs(1);

const _: () = assert!(OUTPUT_BUFFER_BYTES < UNCONFIRMED_BYTES_MAX);

/// Sends messages to one receiver.
#[derive(Debug)]
pub struct ConfirmedStream {
    /// The output that sends them.
    output: OutputName,
    endpoint: Endpoint,
    cancel: CancelToken,
    backoff: Backoff,
    /// Whether the receiver confirms by closing its side of the connection.
    confirm: bool,
    connection: Option<Connection>,
    /// Whether the receiver ended the last connection. It is asked whether it expects TLS when the output fails after that;
    /// not before, because a receiver without TLS logs the question as a broken message.
    was_closed: bool,
    /// Whole messages that are not confirmed.
    unconfirmed: Vec<u8>,
    /// The number of bytes of these that were sent on this connection.
    sent: usize,
    /// The identities of the records of these messages.
    unconfirmed_ids: Vec<u128>,
    /// The identities of the records that were confirmed since the last flush: they are all of one batch, which bounds them.
    confirmed_ids: Vec<u128>,
}

impl ConfirmedStream {
    /// Connects to nothing yet. Stops waiting for the receiver when `cancel` says so.
    pub fn new(
        output: OutputName,
        endpoint: Endpoint,
        confirm: bool,
        retry_timeout: Duration,
        cancel: &CancelToken,
    ) -> Self {
        Self {
            output,
            endpoint,
            cancel: cancel.clone(),
            backoff: Backoff::of_receiver(retry_timeout),
            confirm,
            connection: None,
            was_closed: false,
            unconfirmed: Vec::new(),
            sent: 0,
            unconfirmed_ids: Vec::new(),
            confirmed_ids: Vec::new(),
        }
    }

    /// Adds the messages that `append` appends: all messages of one record. Sends and confirms when enough is there.
    pub fn push(
        &mut self,
        id: Option<RecordId>,
        append: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), DeliveryError> {
        append(&mut self.unconfirmed);
        self.unconfirmed_ids.extend(id.map(RecordId::key));
        if self.unconfirmed.len() >= UNCONFIRMED_BYTES_MAX {
            self.retry(Self::confirm)
        } else if self.unconfirmed.len() - self.sent >= OUTPUT_BUFFER_BYTES {
            self.retry(Self::send)
        } else {
            Ok(())
        }
    }

    /// Returns when the receiver has confirmed everything.
    pub fn flush(&mut self) -> Result<(), DeliveryError> {
        if !self.unconfirmed.is_empty() {
            self.retry(Self::confirm)?;
        }
        self.confirmed_ids.clear();
        Ok(())
    }

    /// Connects, and delivers nothing. Returns an error if the receiver expects TLS, which is not configured.
    ///
    /// A receiver that expects TLS accepts a connection without it. It closes the connection when it gets `empty_messages`,
    /// which a receiver without TLS ignores. If there are none, the receiver is asked in any case, which one without TLS logs.
    pub fn check(&mut self, empty_messages: &[u8]) -> Result<(), OutputError> {
        let mut connection = self.endpoint.connect()?;
        if !self.endpoint.has_tls() && !empty_messages.is_empty() {
            let sent = connection.send(empty_messages, REJECTION_WAIT);
            match sent.and_then(|()| connection.receive(&mut [0; 64], REJECTION_WAIT)) {
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Ok(()),
                Err(error) if !is_closed(&error) => return Err(self.endpoint.failure(&error).into()),
                _ => {}
            }
        }
        drop(connection);
        self.endpoint.missing_tls().map_or(Ok(()), |missing_tls| Err(missing_tls.into()))
    }

    /// Reads the files of certificates and keys, as each connection does.
    pub fn read_files(&mut self) -> Result<(), OutputError> {
        Ok(self.endpoint.read_files()?)
    }

    /// Sends or confirms everything unconfirmed; again, on a new connection, as long as `retryTimeout` allows.
    fn retry(&mut self, act: fn(&mut Self) -> Result<(), ReceiverError>) -> Result<(), DeliveryError> {
        self.try_until_timeout(act).map_err(|error| DeliveryError {
            accepted_ids: std::mem::take(&mut self.confirmed_ids),
            ..error.into()
        })
    }

    fn try_until_timeout(
        &mut self,
        act: fn(&mut Self) -> Result<(), ReceiverError>,
    ) -> Result<(), OutputError> {
        let mut logged = String::new();
        loop {
            let error = match act(self) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            self.connection = None;
            self.sent = 0;
            let error = match error {
                ReceiverError::Transient(error) => error,
                ReceiverError::Permanent(error) => return Err(error),
            };
            let Some(delay) = self.backoff.next_delay(Instant::now()) else {
                let missing_tls = if self.was_closed { self.endpoint.missing_tls() } else { None };
                return Err(missing_tls.map_or(error, Into::into));
            };
            let text = error.explain();
            if text != logged {
                log::warn!("Output {}: sending unconfirmed messages again: {text}", self.output);
                logged = text;
            }
            if self.cancel.sleep(delay).is_err() {
                return Err(error);
            }
        }
    }

    /// Sends the messages that were not sent yet.
    fn send(&mut self) -> Result<(), ReceiverError> {
        if self.sent == 0 {
            // A receiver may close a connection that is idle.
            self.connection.take_if(|connection| connection.ensure_open().is_err());
        }
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => self.connection.insert(self.endpoint.connect()?),
        };
        let sent = connection
            .ensure_open()
            .and_then(|()| connection.send(&self.unconfirmed[self.sent..], STALL_MAX));
        sent.map_err(|error| self.failure(&error))?;
        self.sent = self.unconfirmed.len();
        Ok(())
    }

    /// Sends the messages that were not sent yet, and returns when the receiver has read all messages; with `confirm: false`,
    /// when the system has accepted them.
    fn confirm(&mut self) -> Result<(), ReceiverError> {
        self.send()?;
        let confirmed = if self.confirm {
            self.connection.take().map_or(Ok(()), |connection| connection.close(STALL_MAX))
        } else {
            self.connection.as_mut().map_or(Ok(()), Connection::ensure_open)
        };
        confirmed.map_err(|error| self.failure(&error))?;
        self.unconfirmed.clear();
        self.sent = 0;
        self.confirmed_ids.append(&mut self.unconfirmed_ids);
        self.backoff.reset();
        Ok(())
    }

    /// Returns the error for one on the connection.
    fn failure(&mut self, error: &io::Error) -> ReceiverError {
        self.was_closed = is_closed(error);
        self.endpoint.failure(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_confirmed_records_with_an_error_until_the_next_flush() {
        let cancel = CancelToken::default();
        let endpoint = Endpoint::new("127.0.0.1", 1, None, &cancel);
        let mut stream = ConfirmedStream::new(OutputName::Graylog, endpoint, true, Duration::ZERO, &cancel);
        stream.confirmed_ids = vec![1, 2];
        stream.flush().expect("nothing to send");
        assert_eq!(stream.confirmed_ids, [0; 0]);
        stream.confirmed_ids = vec![3];
        stream.unconfirmed = vec![0];
        let failed = stream.flush().expect_err("no receiver");
        assert_eq!((failed.accepted_ids, failed.is_usable), (vec![3], false));
    }
}
