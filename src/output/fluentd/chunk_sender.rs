//! Sends chunks to a forward receiver: several at a time, each kept until it is acknowledged.
//!
//! Acknowledgements can come in any order. Everything that is not acknowledged is sent again over a new connection, with
//! the same ids, if an acknowledgement does not come in time or is for a chunk that was not sent, or if the connection
//! ends. Acknowledgements that have arrived by then count. The receiver then has chunks twice whose acknowledgements were
//! lost: a lost acknowledgement cannot be distinguished from a lost chunk.
//!
//! A connection begins with one chunk: a receiver that closes it after each acknowledgement (`deny_keepalive`) loses
//! everything else in flight, and may not announce that. For such a receiver each chunk gets its own connection.

use std::{collections::VecDeque, mem, time::Instant};

use super::session::Session;
use crate::{
    config,
    error::Explain,
    network::backoff::Backoff,
    output::{CancelToken, DeliveryError, Endpoint, OutputError, ReceiverError},
};

/// The size of a chunk's entries before compression. A message of 1 to 2 MB is acknowledged within seconds. A larger
/// record is sent alone.
pub(super) const CHUNK_BYTES: usize = 1_000_000;

/// The largest message, after decompression, that Fluent Bit accepts by default.
///
/// Source: Fluent Bit's manual, input `forward`, `buffer_max_size` (6144000).
const FLUENT_BIT_MESSAGE_BYTES_MAX: usize = 6_144_000;

/// The maximum number of chunks without an acknowledgement. They are held in memory, to be sent again.
const CHUNKS_IN_FLIGHT_MAX: usize = 8;

const _: () = assert!(CHUNK_BYTES * 2 < FLUENT_BIT_MESSAGE_BYTES_MAX);

/// Sends chunks to one receiver.
#[derive(Debug)]
pub struct ChunkSender {
    settings: config::FluentdOutput,
    endpoint: Endpoint,
    cancel: CancelToken,
    session: Option<Session>,
    /// The number of chunks that were acknowledged in this session.
    session_acks: usize,
    /// The chunks that are not acknowledged, the oldest first.
    chunks: VecDeque<Chunk>,
    /// The number of these, from the first on, that were sent in this session.
    sent: usize,
    /// The identities of the records in chunks that were acknowledged since the last flush.
    acknowledged: Vec<u128>,
    /// Whether the receiver closes a connection after each acknowledgement.
    is_one_chunk_a_connection: bool,
    backoff: Backoff,
    /// The last error that was logged since a chunk was acknowledged.
    logged: String,
}

/// A message that requests an acknowledgement.
#[derive(Debug)]
pub struct Chunk {
    /// The id, which the acknowledgement repeats.
    pub id: String,
    /// The whole message.
    pub message: Vec<u8>,
    /// The length of its entries before compression.
    pub entry_bytes: usize,
    /// The identities of its records.
    pub record_ids: Vec<u128>,
}

impl ChunkSender {
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
            backoff: Backoff::of_receiver(settings.retry_timeout),
            logged: String::new(),
        }
    }

    /// Sends a chunk. Waits for an acknowledgement only if too many are due.
    pub fn send(&mut self, chunk: Chunk) -> Result<(), DeliveryError> {
        self.chunks.push_back(chunk);
        self.retry_until_in_flight(CHUNKS_IN_FLIGHT_MAX - 1).map_err(|error| self.failed(error))
    }

    /// Returns when every chunk is acknowledged. Does not connect if that is so already.
    pub fn flush(&mut self) -> Result<(), DeliveryError> {
        if !self.chunks.is_empty() {
            self.retry_until_in_flight(0).map_err(|error| self.failed(error))?;
        }
        self.acknowledged.clear();
        Ok(())
    }

    fn failed(&mut self, error: OutputError) -> DeliveryError {
        DeliveryError { accepted_ids: mem::take(&mut self.acknowledged), ..error.into() }
    }

    /// Reads the files of certificates and keys, as each connection does.
    pub fn read_files(&mut self) -> Result<(), OutputError> {
        Ok(self.endpoint.read_files()?)
    }

    /// Connects, authenticates, has a message without events acknowledged, and ends the connection.
    pub fn check(&mut self, tag: &str) -> Result<(), OutputError> {
        let mut session = Session::open(&mut self.endpoint, &self.settings)?;
        Ok(session.check(&mut self.endpoint, tag)?)
    }

    /// Sends all chunks, and waits until at most this number is not acknowledged. Starts new sessions until `retryTimeout`.
    fn retry_until_in_flight(&mut self, chunks_max: usize) -> Result<(), OutputError> {
        loop {
            let error = match self.send_in_session(chunks_max) {
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
                self.log_retry(&error); // the receiver is there and has closed the connection: nothing to wait for
                continue;
            }
            let delay = self.backoff.next_delay(Instant::now());
            let Some(delay) = delay.filter(|_| self.cancel.check().is_ok()) else { return Err(error) };
            self.log_retry_once(&error);
            if self.cancel.sleep(delay).is_err() {
                return Err(error);
            }
        }
    }

    fn send_in_session(&mut self, chunks_max: usize) -> Result<(), ReceiverError> {
        let ack_timeout = self.settings.ack_timeout;
        if let Some(session) = &mut self.session {
            for id in session.arrived_acks(&mut self.endpoint)? {
                self.accept_ack(&id)?;
            }
        }
        while !self.chunks.is_empty() {
            self.drop_ended_session();
            let session = match &mut self.session {
                Some(session) => session,
                none => {
                    self.session_acks = 0;
                    none.insert(Session::open(&mut self.endpoint, &self.settings)?)
                }
            };
            self.is_one_chunk_a_connection |= session.denies_keepalive();
            let is_alone = self.is_one_chunk_a_connection || self.session_acks == 0;
            let in_flight_max = if is_alone { 1 } else { CHUNKS_IN_FLIGHT_MAX };
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

    /// Drops a connection with nothing in flight that the receiver has closed, or closes after each acknowledgement.
    /// Nothing is lost or sent twice by that.
    fn drop_ended_session(&mut self) {
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
                "check whether the receiver, or a proxy in front of it, mixes up connections",
            )));
        };
        self.acknowledged.extend(chunk.record_ids);
        self.sent -= 1;
        self.session_acks += 1;
        self.backoff.reset();
        self.logged.clear();
        Ok(())
    }

    /// Ends the session after an error. Acknowledgements that have arrived count. Returns whether the receiver closed the
    /// connection after it had acknowledged something on it.
    fn end_session(&mut self) -> Result<bool, OutputError> {
        let Some(mut session) = self.session.take() else { return Ok(false) };
        let acks = session.last_acks(&mut self.endpoint)?;
        // An error means that the receiver mixes up chunks: the session ends for that reason, or would.
        let _ = acks.iter().try_for_each(|id| self.accept_ack(id));
        self.sent = 0;
        let is_closed = session.is_closed() && self.session_acks > 0;
        self.is_one_chunk_a_connection |= is_closed && self.session_acks == 1;
        Ok(is_closed)
    }

    fn log_retry(&self, error: &OutputError) {
        log::warn!("Output fluentd: sending {} chunk(s) again: {}", self.chunks.len(), error.explain());
    }

    /// Logs an error unless it was the last one that was logged.
    fn log_retry_once(&mut self, error: &OutputError) {
        let text = error.explain();
        if text != self.logged {
            self.log_retry(error);
            self.logged = text;
        }
    }

    /// Adds the probable reason to an error of a receiver that gives none.
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
