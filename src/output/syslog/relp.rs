//! Sends messages to a RELP server: many at a time, each kept until it is acknowledged.
//!
//! A server responds to each message, in any order. A record counts as delivered when all of its messages are acknowledged
//! (`200`). If a response does not come in time or is for a message that was not sent, or if the connection ends, everything
//! that is not acknowledged is sent again in a new session; responses that have arrived by then count. The server then has
//! the messages twice whose responses were lost: a lost response cannot be distinguished from a lost message.
//!
//! A message that the server rejects (`500`) is sent again when the others are acknowledged, because RELP does not say
//! whether another attempt can succeed. If it is still rejected at the end of `retryTimeout`, so is its record. If the server
//! has accepted nothing in this pass, the server is the cause, and the output fails.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    mem,
    time::{Duration, Instant},
};

use super::relp_session::{RelpResponse, RelpSession};
use crate::{
    error::Explain,
    network::backoff::Backoff,
    output::{BlobRecord, CancelToken, DeliveryError, Endpoint, OutputError, ReceiverError, RejectedRecord},
    records::RecordId,
};

/// The maximum number of messages without a response. They are held in memory, to be sent again.
const MESSAGES_IN_FLIGHT_MAX: usize = 500;

/// The maximum size of these messages. A larger one is sent alone.
const BYTES_IN_FLIGHT_MAX: usize = 2 * 1024 * 1024;

/// The number of messages that are rejected at the same time before any other is sent.
const REJECTED_MESSAGES_MAX: usize = 100;

/// The maximum number of records that are rejected in a pass. With more, the cause is the receiver.
const REJECTED_RECORDS_MAX: usize = 100;

const REJECTION_HINT: &str = "check the receiver's log, and whether it has room";

/// Sends messages to one server.
#[derive(Debug)]
pub struct RelpSender {
    endpoint: Endpoint,
    cancel: CancelToken,
    ack_timeout: Duration,
    session: Option<RelpSession>,
    /// The messages that were not sent in this session, in their order.
    waiting: VecDeque<Message>,
    /// The messages without a response, by the numbers of their commands.
    in_flight: BTreeMap<u32, Message>,
    /// The number of bytes of these.
    bytes_in_flight: usize,
    /// The messages that the server has rejected.
    rejected: Vec<Message>,
    /// The last reason for a rejection.
    rejection: String,
    /// The records whose messages are not all acknowledged.
    records: HashMap<u64, PendingRecord>,
    /// The number of records that were ever added.
    added: u64,
    /// The identities of the records that were acknowledged since the last flush.
    acknowledged: Vec<u128>,
    /// Whether the server has acknowledged a message in this pass.
    has_accepted: bool,
    /// The number of records that were rejected in this pass.
    rejected_records: usize,
    /// The delays after errors.
    backoff: Backoff,
    /// The delays before rejected messages are sent again. It is reset when the server has accepted all of them.
    rejection_backoff: Backoff,
    /// The last error that was logged since a message was acknowledged.
    logged: String,
}

/// A message of a record.
#[derive(Debug)]
struct Message {
    text: String,
    /// The key of its record in the table.
    record: u64,
}

#[derive(Debug)]
struct PendingRecord {
    record: BlobRecord,
    line: String,
    /// The number of its messages that are not acknowledged.
    unacknowledged: usize,
}

impl RelpSender {
    /// Connects to nothing yet.
    pub fn new(
        endpoint: Endpoint,
        ack_timeout: Duration,
        retry_timeout: Duration,
        cancel: &CancelToken,
    ) -> Self {
        Self {
            endpoint,
            cancel: cancel.clone(),
            ack_timeout,
            session: None,
            waiting: VecDeque::new(),
            in_flight: BTreeMap::new(),
            bytes_in_flight: 0,
            rejected: Vec::new(),
            rejection: String::new(),
            records: HashMap::new(),
            added: 0,
            acknowledged: Vec::new(),
            has_accepted: false,
            rejected_records: 0,
            backoff: Backoff::of_receiver(retry_timeout),
            rejection_backoff: Backoff::of_receiver(retry_timeout),
            logged: String::new(),
        }
    }

    /// Sends the messages of a record. Waits for responses only if too many are due. Returns the records that the server
    /// rejects, if it was asked again.
    pub fn push(
        &mut self,
        record: BlobRecord,
        line: &str,
        messages: Vec<String>,
    ) -> Result<Vec<RejectedRecord>, DeliveryError> {
        self.added += 1;
        let key = self.added;
        let pending = PendingRecord { record, line: line.to_owned(), unacknowledged: messages.len() };
        self.records.insert(key, pending);
        self.waiting.extend(messages.into_iter().map(|text| Message { text, record: key }));
        let sent = self.retry(usize::MAX).and_then(|()| {
            if self.rejected.len() > REJECTED_MESSAGES_MAX { self.retry_rejected() } else { Ok(Vec::new()) }
        });
        sent.map_err(|error| self.failed(error))
    }

    /// Returns when every message is acknowledged or rejected for good. Returns the records that are rejected. Does not
    /// connect if there is nothing to send.
    pub fn flush(&mut self) -> Result<Vec<RejectedRecord>, DeliveryError> {
        let flushed = self.retry(0).and_then(|()| self.retry_rejected());
        let rejected = flushed.map_err(|error| self.failed(error))?;
        self.acknowledged.clear();
        Ok(rejected)
    }

    /// Reads the files of certificates and keys, as each connection does.
    pub fn read_files(&mut self) -> Result<(), OutputError> {
        Ok(self.endpoint.read_files()?)
    }

    /// Opens a session and closes it.
    pub fn check(&mut self) -> Result<(), OutputError> {
        RelpSession::open(&mut self.endpoint)?.close(&mut self.endpoint);
        Ok(())
    }

    fn failed(&mut self, error: OutputError) -> DeliveryError {
        DeliveryError { accepted_ids: mem::take(&mut self.acknowledged), ..error.into() }
    }

    /// Sends all messages, and waits until at most this number has no response. Starts new sessions until `retryTimeout`.
    fn retry(&mut self, in_flight_max: usize) -> Result<(), OutputError> {
        loop {
            let error = match self.send_in_session(in_flight_max) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            self.end_session();
            let error = match error {
                ReceiverError::Permanent(error) => return Err(error),
                ReceiverError::Transient(_) if self.waiting.is_empty() => return Ok(()),
                ReceiverError::Transient(error) => error,
            };
            let delay = self.backoff.next_delay(Instant::now());
            let Some(delay) = delay.filter(|_| self.cancel.check().is_ok()) else { return Err(error) };
            let text = error.explain();
            if text != self.logged {
                log::warn!("Output syslog: sending {} message(s) again: {text}", self.waiting.len());
                self.logged = text;
            }
            if self.cancel.sleep(delay).is_err() {
                return Err(error);
            }
        }
    }

    fn send_in_session(&mut self, in_flight_max: usize) -> Result<(), ReceiverError> {
        if self.in_flight.is_empty() {
            // A server may close a connection that is idle.
            self.session.take_if(RelpSession::has_ended);
        }
        loop {
            if !self.waiting.is_empty() && self.session.is_none() {
                self.session = Some(RelpSession::open(&mut self.endpoint)?);
            }
            let Some(session) = &mut self.session else { return Ok(()) };
            while let Some(message) = self.waiting.front() {
                let bytes = self.bytes_in_flight + message.text.len();
                let is_full = self.in_flight.len() >= MESSAGES_IN_FLIGHT_MAX || bytes > BYTES_IN_FLIGHT_MAX;
                if is_full && !self.in_flight.is_empty() {
                    break;
                }
                // A message that is not sent completely is in flight too.
                let transaction = session.add(&message.text);
                self.in_flight.extend(self.waiting.pop_front().map(|message| (transaction, message)));
                self.bytes_in_flight = bytes;
                session.send_enough(&mut self.endpoint)?;
            }
            if self.waiting.is_empty() && self.in_flight.len() <= in_flight_max {
                return Ok(());
            }
            let mut response = Some(session.wait_for_response(&mut self.endpoint, self.ack_timeout)?);
            while let Some(next) = response {
                self.accept_response(next)?;
                let Some(session) = &mut self.session else { break };
                response = session.received_response(&mut self.endpoint)?;
            }
        }
    }

    fn accept_response(&mut self, response: RelpResponse) -> Result<(), ReceiverError> {
        let RelpResponse { transaction, rejection } = response;
        let Some(message) = self.in_flight.remove(&transaction) else {
            return Err(ReceiverError::Transient(self.endpoint.error(
                "it responded to a message that it was not sent",
                "check whether the receiver, or a proxy in front of it, mixes up connections",
            )));
        };
        self.bytes_in_flight -= message.text.len();
        self.backoff.reset();
        if let Some(reason) = rejection {
            self.rejection = reason;
            self.rejected.push(message);
            return Ok(());
        }
        self.has_accepted = true;
        self.logged.clear();
        if let Some(record) = self.records.get_mut(&message.record) {
            record.unacknowledged -= 1;
            if record.unacknowledged == 0 {
                self.acknowledged.extend(record.record.id.map(RecordId::key));
                self.records.remove(&message.record);
            }
        }
        Ok(())
    }

    /// Ends the session after an error. Responses that have arrived count.
    fn end_session(&mut self) {
        if let Some(mut session) = self.session.take() {
            for response in session.last_responses(&mut self.endpoint) {
                // An error means that the server mixes up messages: the session ends for that reason, or would.
                let _ = self.accept_response(response);
            }
        }
        for (_, message) in mem::take(&mut self.in_flight).into_iter().rev() {
            self.waiting.push_front(message);
        }
        self.bytes_in_flight = 0;
    }

    /// Sends rejected messages again until `retryTimeout`. Returns the records that are still rejected then.
    fn retry_rejected(&mut self) -> Result<Vec<RejectedRecord>, OutputError> {
        while !self.rejected.is_empty() {
            let Some(delay) = self.rejection_backoff.next_delay(Instant::now()) else {
                return self.give_up_rejected();
            };
            let error = self.rejection_error();
            let text = error.explain();
            if text != self.logged {
                log::warn!(
                    "Output syslog: sending {} rejected message(s) again: {text}",
                    self.rejected.len()
                );
                self.logged = text;
            }
            self.cancel.sleep(delay).map_err(|_| error)?;
            self.waiting.extend(self.rejected.drain(..));
            self.retry(0)?;
        }
        self.rejection_backoff.reset();
        Ok(Vec::new())
    }

    fn give_up_rejected(&mut self) -> Result<Vec<RejectedRecord>, OutputError> {
        let reason = self.rejection.clone();
        let rejected = self.rejected.drain(..).filter_map(|message| self.records.remove(&message.record));
        let rejected: Vec<_> = rejected
            .map(|PendingRecord { record, line, .. }| RejectedRecord { record, line, reason: reason.clone() })
            .collect();
        self.rejected_records += rejected.len();
        if self.has_accepted && self.rejected_records <= REJECTED_RECORDS_MAX {
            return Ok(rejected);
        }
        let problem = format!("{} records were rejected, the last one with {reason}", self.rejected_records);
        let hint = format!("{REJECTION_HINT}: with this many, the cause is the receiver, not the records");
        Err(self.endpoint.error(problem, hint))
    }

    /// Returns the error for messages that are rejected.
    pub fn rejection_error(&self) -> OutputError {
        self.endpoint.error(format!("it rejects messages ({})", self.rejection), REJECTION_HINT)
    }
}

impl Drop for RelpSender {
    fn drop(&mut self) {
        let has_unfinished = !self.in_flight.is_empty() || !self.waiting.is_empty();
        if let Some(session) = self.session.take().filter(|_| !has_unfinished) {
            session.close(&mut self.endpoint);
        }
    }
}
