//! One connection to a forward receiver, from the handshake to the last acknowledgement.

use std::{
    fmt::Write as _,
    io,
    time::{Duration, Instant},
};

use ring::{
    digest::{Context, SHA512},
    rand::{SecureRandom, SystemRandom},
};

use super::{
    empty_message,
    message_pack::{append_array_header, append_text},
    server_message::{self, Helo, MessageError, Pong, ServerMessage},
};
use crate::{
    config,
    limits::{CANCEL_POLL_INTERVAL, CONNECT_TIMEOUT},
    output::{
        Endpoint, OutputError, ReceiverError, connection::TLS_PROBE_WAIT,
        message_connection::MessageConnection,
    },
    redact::one_line,
};

/// The largest message of a receiver: a HELO, a PONG or an acknowledgement.
const SERVER_MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// The wait for a HELO, which a receiver with a shared key sends as soon as it has accepted the connection.
const HELO_WAIT: Duration = Duration::from_secs(3);

/// The wait for the acknowledgement of a message without events.
const CHECK_WAIT: Duration = Duration::from_secs(3);

/// The time after the first acknowledgement within which a receiver that closes the connection after each one is
/// recognized.
const CLOSE_WAIT: Duration = Duration::from_millis(50);

const _: () = assert!(
    HELO_WAIT.as_secs() + CHECK_WAIT.as_secs() + TLS_PROBE_WAIT.as_secs() < 10,
    "a wrong configuration is reported within ten seconds"
);

/// The name of this program in the handshake; a receiver logs it.
const OUR_NAME: &str = env!("CARGO_PKG_NAME");

const CHECK_SECURITY: &str = "compare sharedKey, username and password with the receiver's <security>";

/// A connection on which chunks are accepted.
#[derive(Debug)]
pub struct Session {
    connection: MessageConnection,
    /// Whether the receiver announced in its HELO that it closes the connection after each acknowledgement.
    denies_keepalive: bool,
}

impl Session {
    /// Connects, and authenticates if credentials are configured.
    pub fn open(endpoint: &mut Endpoint, settings: &config::FluentdOutput) -> Result<Self, ReceiverError> {
        let mut session = Self { connection: MessageConnection::open(endpoint)?, denies_keepalive: false };
        if settings.shared_key.is_some() || settings.username.is_some() {
            session.authenticate(endpoint, settings)?;
        }
        Ok(session)
    }

    /// Returns whether the receiver has announced that it closes the connection after each acknowledgement.
    pub fn denies_keepalive(&self) -> bool {
        self.denies_keepalive
    }

    /// Returns whether the receiver has closed the connection, as far as was noticed.
    pub fn is_closed(&self) -> bool {
        self.connection.is_closed()
    }

    /// Sends a whole message.
    pub fn send(
        &mut self,
        endpoint: &mut Endpoint,
        message: &[u8],
        silence_max: Duration,
    ) -> Result<(), ReceiverError> {
        self.connection.send(endpoint, message, silence_max)
    }

    /// Waits for an acknowledgement, and returns its id.
    pub fn wait_for_ack(
        &mut self,
        endpoint: &mut Endpoint,
        time_max: Duration,
    ) -> Result<Vec<u8>, ReceiverError> {
        match self.receive(endpoint, time_max)? {
            Some(message) => ack_in(endpoint, message),
            None => Err(ReceiverError::Transient(endpoint.error(
                format!("no acknowledgement within {} s", time_max.as_secs()),
                "check whether the receiver keeps up, or raise ackTimeout",
            ))),
        }
    }

    /// Returns the ids of the acknowledgements that have arrived, without waiting for others. A closed connection is not an
    /// error; see [`Session::is_closed`].
    pub fn arrived_acks(&mut self, endpoint: &mut Endpoint) -> Result<Vec<Vec<u8>>, ReceiverError> {
        self.connection.receive_available();
        let mut ids = Vec::new();
        while let Some(message) = self.received_message(endpoint)? {
            ids.push(ack_in(endpoint, message)?);
        }
        Ok(ids)
    }

    /// Returns the ids of the acknowledgements that arrive within a moment after an error.
    pub fn last_acks(&mut self, endpoint: &mut Endpoint) -> Result<Vec<Vec<u8>>, ReceiverError> {
        let mut ids = Vec::new();
        loop {
            match self.receive(endpoint, CANCEL_POLL_INTERVAL) {
                Ok(Some(message)) => ids.push(ack_in(endpoint, message)?),
                Err(ReceiverError::Permanent(error)) => return Err(ReceiverError::Permanent(error)),
                Ok(None) | Err(ReceiverError::Transient(_)) => return Ok(ids),
            }
        }
    }

    /// Returns whether the receiver closes the connection within a moment after an acknowledgement. Fluentd with
    /// `deny_keepalive` does so, and announces it only in a HELO.
    pub fn closes_after_ack(&mut self, endpoint: &mut Endpoint) -> bool {
        if self.connection.received.is_empty() {
            // An error is reported when the connection is used.
            let _ = self.connection.receive(endpoint, Instant::now() + CLOSE_WAIT);
        }
        self.is_closed()
    }

    /// Sends a message without events, which delivers nothing and is acknowledged like any other.
    pub fn check(&mut self, endpoint: &mut Endpoint, tag: &str) -> Result<(), ReceiverError> {
        let (id, message) = empty_message(tag);
        self.send(endpoint, &message, CHECK_WAIT)?;
        if self.wait_for_ack(endpoint, CHECK_WAIT)? == id.as_bytes() {
            return Ok(());
        }
        Err(ReceiverError::Permanent(not_forward(endpoint)))
    }

    /// Authenticates: HELO, PING, PONG.
    fn authenticate(
        &mut self,
        endpoint: &mut Endpoint,
        settings: &config::FluentdOutput,
    ) -> Result<(), ReceiverError> {
        let helo = match self.receive(endpoint, HELO_WAIT)? {
            Some(ServerMessage::Helo(helo)) => helo,
            Some(_) => return Err(ReceiverError::Permanent(not_forward(endpoint))),
            None => return Err(self.missing_helo_error(endpoint)),
        };
        self.denies_keepalive = !helo.keeps_alive;
        let key = settings.shared_key.as_ref().map_or("", config::Secret::reveal);
        let salt = salt().map_err(|error| endpoint.failure(&error))?;
        self.send(endpoint, &ping(settings, &helo, key, &salt), CONNECT_TIMEOUT)?;
        let pong = match self.receive(endpoint, CONNECT_TIMEOUT) {
            Ok(Some(ServerMessage::Pong(pong))) => pong,
            Ok(Some(_)) => return Err(ReceiverError::Permanent(not_forward(endpoint))),
            Ok(None) => {
                return Err(ReceiverError::Transient(endpoint.error("no PONG in time", CHECK_SECURITY)));
            }
            // Fluent Bit closes the connection on a wrong key. If the receiver was stopped just now, the next pass succeeds.
            Err(ReceiverError::Transient(_)) if self.is_closed() => {
                return Err(ReceiverError::Permanent(endpoint.error(
                    "it closed the connection instead of accepting the login, as Fluent Bit does for a wrong shared key",
                    CHECK_SECURITY,
                )));
            }
            Err(error) => return Err(error),
        };
        if !pong.is_accepted {
            return Err(authentication_error(endpoint, &pong, settings));
        }
        let expected = hexadecimal_digest(&[salt.as_bytes(), &pong.server, &helo.nonce, key.as_bytes()]);
        if pong.digest == expected.as_bytes() {
            return Ok(());
        }
        let problem = "it does not prove that it knows the shared key";
        Err(ReceiverError::Permanent(endpoint.error(problem, "give the receiver's shared_key in sharedKey")))
    }

    /// Finds out why a receiver does not send a HELO: a receiver without security acknowledges a message, one that expects TLS
    /// waits for the client, one that hangs does neither.
    fn missing_helo_error(&mut self, endpoint: &mut Endpoint) -> ReceiverError {
        let (_, message) = empty_message(OUR_NAME);
        let sent = self.send(endpoint, &message, CHECK_WAIT);
        match sent.and_then(|()| self.receive(endpoint, CHECK_WAIT)) {
            Ok(Some(ServerMessage::Ack(_))) => ReceiverError::Permanent(endpoint.error(
                "it does not ask for a shared key (no HELO)",
                "remove sharedKey, username and password from the configuration, or give the receiver a <security>",
            )),
            Ok(_) => endpoint.missing_tls().unwrap_or_else(|| {
                endpoint.avoid_address();
                ReceiverError::Transient(endpoint.error(
                    "it accepted the connection and sent nothing (no HELO)",
                    "check that the receiver runs, and that this is the port of its forward input",
                ))
            }),
            Err(error) => error,
        }
    }

    /// Returns the next message; `None` if none comes within this time.
    fn receive(
        &mut self,
        endpoint: &mut Endpoint,
        time_max: Duration,
    ) -> Result<Option<ServerMessage>, ReceiverError> {
        let until = Instant::now() + time_max;
        loop {
            if let Some(message) = self.received_message(endpoint)? {
                return Ok(Some(message));
            }
            if !self.connection.receive(endpoint, until)? {
                return Ok(None);
            }
        }
    }

    /// Returns the next message that was received completely.
    fn received_message(&mut self, endpoint: &mut Endpoint) -> Result<Option<ServerMessage>, ReceiverError> {
        let received = &mut self.connection.received;
        self.connection.has_received |= !received.is_empty();
        match server_message::read(received) {
            Ok((message, length)) => {
                received.drain(..length);
                Ok(Some(message))
            }
            Err(MessageError::Incomplete) if received.len() < SERVER_MESSAGE_BYTES_MAX => Ok(None),
            Err(_) => {
                received.clear();
                let missing_tls = endpoint.missing_tls();
                Err(missing_tls.unwrap_or_else(|| ReceiverError::Permanent(not_forward(endpoint))))
            }
        }
    }
}

/// Returns the id in a message that has to be an acknowledgement.
fn ack_in(endpoint: &Endpoint, message: ServerMessage) -> Result<Vec<u8>, ReceiverError> {
    match message {
        ServerMessage::Ack(id) => Ok(id),
        ServerMessage::Helo(_) => Err(ReceiverError::Permanent(endpoint.error(
            "it requires a shared key (it sent a HELO instead of an acknowledgement)",
            "give the shared_key of its <security> in sharedKey",
        ))),
        ServerMessage::Pong(pong) => Err(rejection(endpoint, &pong, CHECK_SECURITY)),
    }
}

fn authentication_error(endpoint: &Endpoint, pong: &Pong, settings: &config::FluentdOutput) -> ReceiverError {
    // Both receivers check the key first, so the key is right.
    if settings.username.is_none() && pong.reason.contains("username") {
        let problem = format!("it requires a user ({})", one_line(&pong.reason));
        let hint = "give one of its <user>s in username and password";
        return ReceiverError::Permanent(endpoint.error(problem, hint));
    }
    rejection(endpoint, pong, CHECK_SECURITY)
}

fn rejection(endpoint: &Endpoint, pong: &Pong, hint: &str) -> ReceiverError {
    let reason = one_line(&pong.reason);
    ReceiverError::Permanent(endpoint.error(format!("it rejects the login ({reason})"), hint))
}

fn not_forward(endpoint: &Endpoint) -> OutputError {
    endpoint
        .error("its answer is not in the forward protocol", "give the port of the receiver's forward input")
}

/// Returns `["PING", our name, salt, digest of the shared key, user, digest of the password]`. All elements are texts:
/// Fluent Bit closes the connection on anything else.
fn ping(settings: &config::FluentdOutput, helo: &Helo, key: &str, salt: &str) -> Vec<u8> {
    let key_digest = hexadecimal_digest(&[salt.as_bytes(), OUR_NAME.as_bytes(), &helo.nonce, key.as_bytes()]);
    let (user, password) = match (&settings.username, &settings.password) {
        (Some(user), Some(password)) => (user.as_str(), password.reveal()),
        _ => ("", ""),
    };
    // A receiver sends a salt even if it has no users, so that only its PONG shows whether it requires one.
    let (user, password_digest) = if helo.auth.is_empty() {
        ("", String::new())
    } else {
        (user, hexadecimal_digest(&[helo.auth.as_slice(), user.as_bytes(), password.as_bytes()]))
    };
    let mut ping = Vec::new();
    append_array_header(6, &mut ping);
    for text in ["PING", OUR_NAME, salt, &key_digest, user, &password_digest] {
        append_text(text.as_bytes(), &mut ping);
    }
    ping
}

/// Returns 32 unpredictable characters.
fn salt() -> io::Result<String> {
    let mut bytes = [0; 16];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| io::Error::other("the system gives no random numbers"))?;
    Ok(hexadecimal(&bytes))
}

fn hexadecimal_digest(parts: &[&[u8]]) -> String {
    let mut context = Context::new(&SHA512);
    for part in parts {
        context.update(part);
    }
    hexadecimal(context.finish().as_ref())
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // into a String: cannot fail
        text
    })
}
