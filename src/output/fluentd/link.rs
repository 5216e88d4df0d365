//! Chunks on their way to a forward receiver: several at a time, each held until it is acknowledged.
//!
//! Acknowledgements may come in any order. When one does not come in time, when one is of no chunk that was sent, or
//! when the connection ends, in the middle of a chunk or elsewhere, everything that is not acknowledged is sent again
//! over a new connection, under the same ids. Acknowledgements that have arrived by then count. What had arrived without
//! one is then there twice: a receiver that loses an acknowledgement cannot be told from one that loses a chunk.
//!
//! A connection begins with one chunk: a receiver that closes it after each acknowledgement (`deny_keepalive`) loses
//! whatever else is in flight, and need not say so. From such a receiver on, each chunk gets a connection of its own.

use std::collections::VecDeque;

use super::session::Session;
use crate::{
    config,
    limits::{FLUENT_BIT_MESSAGE_BYTES_MAX, FORWARD_CHUNKS_IN_FLIGHT_MAX},
    output::{CancelToken, Endpoint, OutputError, ReceiverError, retries::Retries},
};

/// The way to a receiver.
#[derive(Debug)]
pub struct Link {
    settings: config::FluentdOutput,
    endpoint: Endpoint,
    cancel: CancelToken,
    session: Option<Session>,
    /// How many chunks were acknowledged in it.
    session_acks: usize,
    /// Not acknowledged, the oldest first.
    chunks: VecDeque<Chunk>,
    /// So many of them, from the first on, were sent in this session.
    sent: usize,
    /// The records in chunks that were acknowledged since all of them were.
    acknowledged: Vec<u128>,
    /// The receiver closes a connection after each acknowledgement.
    is_one_chunk_a_connection: bool,
    retries: Retries,
    /// The last failure that was logged since a chunk was acknowledged.
    logged: String,
}

/// A message that wants to be acknowledged.
#[derive(Debug)]
pub struct Chunk {
    /// What its acknowledgement will say.
    pub id: String,
    /// The whole message.
    pub message: Vec<u8>,
    /// How long its entries are, before compression.
    pub entry_bytes: usize,
    /// The Ids of the records in it.
    pub record_ids: Vec<u128>,
}

impl Link {
    /// Connects to nothing yet.
    pub fn new(settings: &config::FluentdOutput, cancel: &CancelToken) -> Self {
        Self {
            endpoint: Endpoint::new(&settings.address, settings.port, settings.tls.as_ref(), cancel),
            settings: settings.clone(),
            cancel: cancel.clone(),
            session: None,
            session_acks: 0,
            chunks: VecDeque::new(),
            sent: 0,
            acknowledged: Vec::new(),
            is_one_chunk_a_connection: false,
            retries: Retries::new(settings.retry_timeout),
            logged: String::new(),
        }
    }

    /// Sends a chunk. Waits for an acknowledgement only if too many are due.
    pub fn send(&mut self, chunk: Chunk) -> Result<(), OutputError> {
        self.chunks.push_back(chunk);
        self.bring_down_to(FORWARD_CHUNKS_IN_FLIGHT_MAX - 1)
    }

    /// Returns when every chunk is acknowledged; without connecting if all of them are.
    pub fn settle(&mut self) -> Result<(), OutputError> {
        if !self.chunks.is_empty() {
            self.bring_down_to(0)?;
        }
        self.acknowledged.clear();
        Ok(())
    }

    /// The Ids of the records that are acknowledged although others are not, after an error.
    pub fn take_acknowledged(&mut self) -> Vec<u128> {
        std::mem::take(&mut self.acknowledged)
    }

    /// Connects, shakes hands, has a message without events acknowledged, and ends the connection.
    pub fn try_out(&mut self, tag: &str) -> Result<(), OutputError> {
        let mut session = Session::open(&mut self.endpoint, &self.settings)?;
        Ok(session.check(&mut self.endpoint, tag)?)
    }

    /// Sends what is not sent, and waits until so many chunks or fewer are not acknowledged; over as many sessions as
    /// that takes and `retryTimeout` allows.
    fn bring_down_to(&mut self, chunks_max: usize) -> Result<(), OutputError> {
        loop {
            let error = match self.bring_down_in_session(chunks_max) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let ended = self.end_session();
            let error = match error {
                ReceiverError::Permanent(error) => return Err(error),
                ReceiverError::Transient(_) if self.chunks.is_empty() => return Ok(()),
                ReceiverError::Transient(error) => self.with_reason(error),
            };
            if ended? {
                self.log_retry(&error); // the receiver has closed the connection and is there: nothing to wait for
                continue;
            }
            let delay = self.retries.next_delay();
            let Some(delay) = delay.filter(|_| self.cancel.check().is_ok()) else { return Err(error) };
            self.log_retry_once(&error);
            if self.cancel.sleep(delay).is_err() {
                return Err(error);
            }
        }
    }

    fn bring_down_in_session(&mut self, chunks_max: usize) -> Result<(), ReceiverError> {
        let ack_timeout = self.settings.ack_timeout;
        if let Some(session) = &mut self.session {
            for id in session.arrived_acks(&mut self.endpoint)? {
                self.accept_ack(&id)?;
            }
        }
        while !self.chunks.is_empty() {
            self.leave_ended_session();
            let session = match &mut self.session {
                Some(session) => session,
                none => {
                    self.session_acks = 0;
                    none.insert(Session::open(&mut self.endpoint, &self.settings)?)
                }
            };
            self.is_one_chunk_a_connection |= session.denies_keepalive();
            let is_alone = self.is_one_chunk_a_connection || self.session_acks == 0;
            let in_flight_max = if is_alone { 1 } else { FORWARD_CHUNKS_IN_FLIGHT_MAX };
            for chunk in self.chunks.range(self.sent..).take(in_flight_max.saturating_sub(self.sent)) {
                session.send(&mut self.endpoint, &chunk.message, ack_timeout)?;
                self.sent += 1;
            }
            if self.chunks.len() <= chunks_max {
                break;
            }
            let id = session.wait_for_ack(&mut self.endpoint, ack_timeout)?;
            self.accept_ack(&id)?;
        }
        Ok(())
    }

    /// Leaves a connection with nothing in flight that the receiver has closed, or closes after each acknowledgement:
    /// nothing is lost or sent twice by that.
    fn leave_ended_session(&mut self) {
        let Some(session) = &mut self.session else { return };
        if self.sent > 0 || self.session_acks == 0 {
            return;
        }
        if self.session_acks == 1 && !self.is_one_chunk_a_connection {
            self.is_one_chunk_a_connection = session.closes_after_ack(&mut self.endpoint);
        }
        if session.is_closed() || self.is_one_chunk_a_connection {
            self.session = None;
        }
    }

    fn accept_ack(&mut self, id: &[u8]) -> Result<(), ReceiverError> {
        let place = self.chunks.iter().take(self.sent).position(|chunk| chunk.id.as_bytes() == id);
        let Some(chunk) = place.and_then(|place| self.chunks.remove(place)) else {
            return Err(ReceiverError::Transient(self.endpoint.error(
                "it acknowledged a chunk that it was not sent",
                "see whether the receiver, or something on the way to it, mixes up connections",
            )));
        };
        self.acknowledged.extend(chunk.record_ids);
        self.sent -= 1;
        self.session_acks += 1;
        self.retries.reset();
        self.logged.clear();
        Ok(())
    }

    /// Ends the session after a failure. Acknowledgements that have arrived count. Returns whether it was the receiver
    /// that closed the connection, after it had acknowledged something on it.
    fn end_session(&mut self) -> Result<bool, OutputError> {
        let Some(mut session) = self.session.take() else { return Ok(false) };
        let acks = session.last_acks(&mut self.endpoint)?;
        // An error says that the receiver mixes up chunks, which is why the session ends, or reason enough to end it.
        let _ = acks.iter().try_for_each(|id| self.accept_ack(id));
        self.sent = 0;
        let is_closed = session.is_closed() && self.session_acks > 0;
        self.is_one_chunk_a_connection |= is_closed && self.session_acks == 1;
        Ok(is_closed)
    }

    fn log_retry(&self, error: &OutputError) {
        log::warn!("Output fluentd: sending {} chunk(s) again: {error}", self.chunks.len());
    }

    /// Logs a failure unless it was the last one that was logged.
    fn log_retry_once(&mut self, error: &OutputError) {
        let text = error.to_string();
        if text != self.logged {
            self.log_retry(error);
            self.logged = text;
        }
    }

    /// The error, with what is known to be the reason where the receiver itself does not say it.
    fn with_reason(&self, error: OutputError) -> OutputError {
        match (error, self.chunks.front()) {
            (OutputError::Receiver { receiver, problem, .. }, Some(chunk))
                if chunk.entry_bytes > FLUENT_BIT_MESSAGE_BYTES_MAX =>
            {
                let hint = format!(
                    "it was sent one record of {} bytes; if it is Fluent Bit, raise buffer_max_size of its forward \
                     input beyond that",
                    chunk.entry_bytes
                );
                OutputError::Receiver { receiver, problem, hint }
            }
            (error, _) => error,
        }
    }
}
