//! One connection to a RELP server, from the command `open` to the last response.

use std::{
    io,
    time::{Duration, Instant},
};

use super::relp_frame::{self, FrameError, ServerFrame};
use crate::{
    limits::CANCEL_POLL_INTERVAL,
    output::{
        Endpoint, OutputError, ReceiverError, connection::TLS_PROBE_WAIT,
        message_connection::MessageConnection,
    },
    redact::short_reason,
};

/// The size at which commands are sent. Less is sent when a response is waited for.
const SEND_BYTES: usize = 64 * 1024;

/// The longest time without progress while commands are sent.
const STALL_MAX: Duration = Duration::from_secs(60);

/// The wait for the response to `open`.
const OPEN_WAIT: Duration = Duration::from_secs(5);

/// The wait for the response to `close`. Nothing depends on it.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

const _: () = assert!(
    OPEN_WAIT.as_secs() + CLOSE_WAIT.as_secs() + TLS_PROBE_WAIT.as_secs() < 10,
    "a wrong configuration is reported within ten seconds"
);

/// What this program offers to a server. Version 0 is the one that librelp implements; it answers 0 to any other.
const OFFERS: &str = concat!(
    "relp_version=0\nrelp_software=",
    env!("CARGO_PKG_NAME"),
    ",",
    env!("CARGO_PKG_VERSION"),
    "\ncommands=syslog"
);

/// A connection on which messages are accepted.
#[derive(Debug)]
pub struct RelpSession {
    connection: MessageConnection,
    /// The number of the last command.
    transaction: u32,
    /// Commands that are not sent yet.
    to_send: Vec<u8>,
}

/// The response to a message.
#[derive(Debug, PartialEq, Eq)]
pub struct RelpResponse {
    /// The number of the command with the message.
    pub transaction: u32,
    /// Why the server does not accept the message; `None` if it does.
    pub rejection: Option<String>,
}

impl RelpSession {
    /// Connects, and opens a session.
    pub fn open(endpoint: &mut Endpoint) -> Result<Self, ReceiverError> {
        let connection = MessageConnection::open(endpoint)?;
        let mut session = Self { connection, transaction: 0, to_send: Vec::new() };
        let opening = session.append("open", OFFERS.as_bytes());
        session.send(endpoint)?;
        match session.receive(endpoint, OPEN_WAIT)? {
            Some(ServerFrame::Response { transaction, is_ok, status, data }) if transaction == opening => {
                if !is_ok {
                    return Err(ReceiverError::Transient(endpoint.error(
                        format!("it rejects the session ({})", short_reason(&status)),
                        "check the receiver's log, and whether its RELP input accepts the command syslog",
                    )));
                }
                check_offers(endpoint, &data)?;
                Ok(session)
            }
            Some(_) => Err(ReceiverError::Permanent(not_relp(endpoint))),
            None => Err(endpoint.missing_tls().unwrap_or_else(|| {
                endpoint.avoid_address();
                ReceiverError::Transient(endpoint.error(
                    format!("no response to the command open within {} s", OPEN_WAIT.as_secs()),
                    "check that this is the port of the receiver's RELP input, or set another protocol",
                ))
            })),
        }
    }

    /// Adds a message to what is sent next. Returns the number of its command.
    pub fn add(&mut self, message: &str) -> u32 {
        self.append("syslog", message.as_bytes())
    }

    /// Sends what was added if it is enough.
    pub fn send_enough(&mut self, endpoint: &mut Endpoint) -> Result<(), ReceiverError> {
        if self.to_send.len() >= SEND_BYTES { self.send(endpoint) } else { Ok(()) }
    }

    /// Sends what was added, and waits for a response.
    pub fn wait_for_response(
        &mut self,
        endpoint: &mut Endpoint,
        time_max: Duration,
    ) -> Result<RelpResponse, ReceiverError> {
        self.send(endpoint)?;
        self.receive_response(endpoint, time_max)?.ok_or_else(|| {
            ReceiverError::Transient(endpoint.error(
                format!("no response within {} s", time_max.as_secs()),
                "check whether the receiver keeps up, or raise ackTimeout",
            ))
        })
    }

    /// Returns the next response that has arrived. Does not wait.
    pub fn received_response(
        &mut self,
        endpoint: &mut Endpoint,
    ) -> Result<Option<RelpResponse>, ReceiverError> {
        while let Some(frame) = self.received_frame(endpoint)? {
            if let Some(response) = response_in(frame) {
                return Ok(Some(response));
            }
        }
        Ok(None)
    }

    /// Returns the responses that arrive within a moment after an error.
    pub fn last_responses(&mut self, endpoint: &mut Endpoint) -> Vec<RelpResponse> {
        let mut responses = Vec::new();
        while let Ok(Some(response)) = self.receive_response(endpoint, CANCEL_POLL_INTERVAL) {
            responses.push(response);
        }
        responses
    }

    /// Returns whether the server has closed the connection while nothing was expected of it. Does not wait.
    pub fn has_ended(&mut self) -> bool {
        self.connection.receive_available();
        let frame = relp_frame::read(&self.connection.received);
        self.connection.is_closed() || matches!(frame, Ok((ServerFrame::Close, _)))
    }

    /// Ends the session in order, so that the server logs no error. It does not matter whether that succeeds.
    pub fn close(mut self, endpoint: &mut Endpoint) {
        let closing = self.append("close", b"");
        let until = Instant::now() + CLOSE_WAIT;
        let mut response = self.send(endpoint).map(|()| None);
        while let Ok(received) = response {
            let is_last =
                matches!(received, Some(ServerFrame::Response { transaction, .. }) if transaction == closing);
            let left = until.saturating_duration_since(Instant::now());
            if is_last || left.is_zero() {
                break;
            }
            response = self.receive(endpoint, left);
        }
    }

    fn append(&mut self, command: &str, data: &[u8]) -> u32 {
        self.transaction = relp_frame::next_transaction(self.transaction);
        relp_frame::append(self.transaction, command, data, &mut self.to_send);
        self.transaction
    }

    fn send(&mut self, endpoint: &mut Endpoint) -> Result<(), ReceiverError> {
        let sent = self.connection.send(endpoint, &self.to_send, STALL_MAX);
        self.to_send.clear();
        sent
    }

    /// Returns the next response to a message; `None` if none comes within this time.
    fn receive_response(
        &mut self,
        endpoint: &mut Endpoint,
        time_max: Duration,
    ) -> Result<Option<RelpResponse>, ReceiverError> {
        let until = Instant::now() + time_max;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Some(frame) = self.receive(endpoint, left)? else { return Ok(None) };
            if let Some(response) = response_in(frame) {
                return Ok(Some(response));
            }
        }
    }

    /// Returns the next frame; `None` if none comes within this time.
    fn receive(
        &mut self,
        endpoint: &mut Endpoint,
        time_max: Duration,
    ) -> Result<Option<ServerFrame>, ReceiverError> {
        let until = Instant::now() + time_max;
        loop {
            if let Some(frame) = self.received_frame(endpoint)? {
                return Ok(Some(frame));
            }
            if !self.connection.receive(endpoint, until)? {
                return Ok(None);
            }
        }
    }

    /// Returns the next frame that was received completely.
    fn received_frame(&mut self, endpoint: &mut Endpoint) -> Result<Option<ServerFrame>, ReceiverError> {
        let connection = &mut self.connection;
        let frame = relp_frame::read(&connection.received);
        connection.has_received |= frame.is_ok();
        match frame {
            Ok((ServerFrame::Close, _)) => {
                let error = io::ErrorKind::UnexpectedEof.into();
                Err(connection.failure(endpoint, &error))
            }
            Ok((frame, length)) => {
                connection.received.drain(..length);
                Ok(Some(frame))
            }
            Err(FrameError::Incomplete) => Ok(None),
            Err(FrameError::Invalid) => {
                connection.received.clear();
                let missing_tls = if connection.has_received { None } else { endpoint.missing_tls() };
                Err(missing_tls.unwrap_or_else(|| ReceiverError::Permanent(not_relp(endpoint))))
            }
        }
    }
}

/// Returns the response in a frame; `None` for a hint.
fn response_in(frame: ServerFrame) -> Option<RelpResponse> {
    let ServerFrame::Response { transaction, is_ok, status, .. } = frame else { return None };
    Some(RelpResponse { transaction, rejection: (!is_ok).then(|| short_reason(&status)) })
}

/// Checks what a server has offered in its response to `open`.
///
/// Source: `doc/relp.md` of rsyslog/librelp: without `relp_version` in the response, the client must close the connection; a
/// command that is not in `commands` must not be used.
fn check_offers(endpoint: &Endpoint, offers: &str) -> Result<(), ReceiverError> {
    let value_of =
        |name| offers.lines().filter_map(|line| line.split_once('=')).find(|(key, _)| *key == name);
    if value_of("relp_version").is_none() {
        return Err(ReceiverError::Permanent(not_relp(endpoint)));
    }
    match value_of("commands") {
        Some((_, commands)) if !commands.split(',').any(|command| command.trim() == "syslog") => {
            Err(ReceiverError::Permanent(endpoint.error(
                format!("it accepts the commands {}, and not syslog", short_reason(commands)),
                "give the port of a RELP input that accepts messages of syslog",
            )))
        }
        _ => Ok(()),
    }
}

fn not_relp(endpoint: &Endpoint) -> OutputError {
    endpoint.error(
        "its answer is not in the RELP protocol",
        "give the port of the receiver's RELP input, or set another protocol",
    )
}
