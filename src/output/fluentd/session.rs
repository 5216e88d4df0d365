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
    answer::{self, Answer, Helo, NoAnswer, Pong},
    message_pack::{append_array_header, append_text},
};
use crate::{
    config,
    limits::{CONNECT_TIMEOUT, FORWARD_ANSWER_BYTES_MAX, FORWARD_UNASKED_WAIT, PATIENCE_STEP},
    log::one_line,
    output::{Connection, Endpoint, OutputError, Over},
};

/// What we call ourselves to a receiver, which may want to know and shows it in its log.
const OUR_NAME: &str = env!("CARGO_PKG_NAME");

/// A connection on which chunks are taken.
#[derive(Debug)]
pub struct Session {
    connection: Connection,
    /// What was received and not yet read as an answer.
    received: Vec<u8>,
}

/// Why a session ended, or did not begin.
#[derive(Debug)]
pub enum Ended {
    /// Another try can go better.
    Lost(OutputError),
    /// No other try will, until somebody changes the configuration here or there.
    Refused(OutputError),
}

impl Session {
    /// Connects, and proves who we are if the configuration says how.
    pub fn open(endpoint: &mut Endpoint, settings: &config::FluentdOutput) -> Result<Self, Ended> {
        let connection = endpoint.connect().map_err(Ended::Lost)?;
        let mut session = Self { connection, received: Vec::new() };
        if settings.shared_key.is_some() || settings.username.is_some() {
            session.shake_hands(endpoint, settings)?;
        }
        Ok(session)
    }

    /// Sends a whole message.
    pub fn send(&mut self, endpoint: &Endpoint, message: &[u8], silence_max: Duration) -> Result<(), Ended> {
        let Err(error) = self.connection.send(message, silence_max) else { return Ok(()) };
        // Whoever hangs up in the middle of it may have said why before.
        Err(match self.answer(endpoint, PATIENCE_STEP) {
            Ok(Answer::Helo(_)) => demands_key(endpoint),
            Ok(Answer::Pong(pong)) if !pong.is_let_in => not_let_in(endpoint, &pong),
            _ => Ended::Lost(endpoint.failure(&error)),
        })
    }

    /// Waits for an acknowledgement, and returns the id in it.
    pub fn acknowledged(&mut self, endpoint: &Endpoint, time_max: Duration) -> Result<Vec<u8>, Ended> {
        match self.answer(endpoint, time_max) {
            Ok(Answer::Ack(id)) => Ok(id),
            Ok(Answer::Helo(_)) => Err(demands_key(endpoint)),
            Ok(Answer::Pong(pong)) => Err(not_let_in(endpoint, &pong)),
            Err(Silent::Still) => Err(Ended::Lost(endpoint.error(
                format!("no acknowledgement within {} s", time_max.as_secs()),
                "see whether the receiver keeps up with what it gets, or raise ackTimeout",
            ))),
            Err(Silent::Ended(ended)) => Err(ended),
        }
    }

    /// Whether the receiver would rather have had a handshake, or does not want us at all: it says so by itself, if it
    /// does, so it is listened to for a moment.
    pub fn expect_silence(&mut self, endpoint: &Endpoint) -> Result<(), Ended> {
        match self.answer(endpoint, FORWARD_UNASKED_WAIT) {
            Err(Silent::Still) => Ok(()),
            Err(Silent::Ended(ended)) => Err(ended),
            Ok(Answer::Helo(_)) => Err(demands_key(endpoint)),
            Ok(Answer::Pong(_) | Answer::Ack(_)) => Err(Ended::Lost(not_forward(endpoint))),
        }
    }

    /// HELO, PING, PONG.
    fn shake_hands(&mut self, endpoint: &Endpoint, settings: &config::FluentdOutput) -> Result<(), Ended> {
        let helo = match self.answer(endpoint, CONNECT_TIMEOUT) {
            Ok(Answer::Helo(helo)) => helo,
            Ok(_) => return Err(Ended::Lost(not_forward(endpoint))),
            Err(Silent::Still) => {
                return Err(Ended::Refused(endpoint.error(
                    "it does not ask for a shared key (no HELO)",
                    "take sharedKey, username and password out of the configuration, or give the receiver a <security>",
                )));
            }
            Err(Silent::Ended(ended)) => return Err(ended),
        };
        if !helo.auth.is_empty() && settings.username.is_none() {
            let mend = "give one of its <user>s in username and password";
            return Err(Ended::Refused(endpoint.error("it demands a user", mend)));
        }
        let key = settings.shared_key.as_ref().map_or("", config::Secret::reveal);
        let salt = salt().map_err(|error| Ended::Lost(endpoint.failure(&error)))?;
        self.send(endpoint, &ping(settings, &helo, key, &salt), CONNECT_TIMEOUT)?;
        let mend = "compare sharedKey, username and password with the receiver's <security>";
        match self.answer(endpoint, CONNECT_TIMEOUT) {
            Ok(Answer::Pong(pong)) if !pong.is_let_in => Err(not_let_in(endpoint, &pong)),
            Ok(Answer::Pong(pong)) => {
                let expected =
                    hexadecimal_digest(&[salt.as_bytes(), &pong.server, &helo.nonce, key.as_bytes()]);
                if pong.digest == expected.as_bytes() {
                    return Ok(());
                }
                let problem = "it does not prove that it knows the shared key";
                Err(Ended::Refused(endpoint.error(problem, "give the receiver's shared_key in sharedKey")))
            }
            Ok(_) => Err(Ended::Lost(not_forward(endpoint))),
            // Fluent Bit says nothing to whom it does not let in.
            Err(Silent::Ended(Ended::Lost(OutputError::Receiver { receiver, problem, .. }))) => {
                let problem = format!("{problem} instead of letting us in");
                Err(Ended::Lost(OutputError::Receiver { receiver, problem, mend: mend.to_owned() }))
            }
            Err(Silent::Still) => Err(Ended::Lost(endpoint.error("no PONG in time", mend))),
            Err(Silent::Ended(ended)) => Err(ended),
        }
    }

    fn answer(&mut self, endpoint: &Endpoint, time_max: Duration) -> Result<Answer, Silent> {
        let until = Instant::now() + time_max;
        loop {
            match answer::read(&self.received) {
                Ok((answer, length)) => {
                    self.received.drain(..length);
                    return Ok(answer);
                }
                Err(NoAnswer::Incomplete) if self.received.len() < FORWARD_ANSWER_BYTES_MAX => {}
                Err(_) => return Err(Silent::Ended(Ended::Lost(not_forward(endpoint)))),
            }
            let mut bytes = [0; 4096];
            let left = until.saturating_duration_since(Instant::now());
            match self.connection.receive(&mut bytes, left) {
                Ok(count) => self.received.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(Silent::Still),
                Err(error) if Over::is_behind(&error) => {
                    return Err(Silent::Ended(Ended::Refused(endpoint.failure(&error))));
                }
                Err(error) => return Err(Silent::Ended(Ended::Lost(endpoint.failure(&error)))),
            }
        }
    }
}

/// Why there is no answer.
enum Silent {
    /// The time was up.
    Still,
    /// The session is over.
    Ended(Ended),
}

fn demands_key(endpoint: &Endpoint) -> Ended {
    Ended::Refused(endpoint.error(
        "it demands a shared key (a HELO came where an acknowledgement was expected)",
        "give the shared_key of its <security> in sharedKey",
    ))
}

fn not_let_in(endpoint: &Endpoint, pong: &Pong) -> Ended {
    let reason = one_line(&pong.reason);
    Ended::Refused(endpoint.error(
        format!("it does not let us in ({reason})"),
        "compare sharedKey, username and password with the receiver's <security>",
    ))
}

fn not_forward(endpoint: &Endpoint) -> OutputError {
    endpoint.error(
        "what it answers is not of the forward protocol",
        "give the port of the receiver's forward input; if that speaks TLS, add tls",
    )
}

/// `["PING", our name, salt, digest of the shared key, user, digest of the password]`. All of it is text: Fluent Bit
/// closes the connection on anything else.
fn ping(settings: &config::FluentdOutput, helo: &Helo, key: &str, salt: &str) -> Vec<u8> {
    let key_digest = hexadecimal_digest(&[salt.as_bytes(), OUR_NAME.as_bytes(), &helo.nonce, key.as_bytes()]);
    let (user, password_digest) = match (&settings.username, &settings.password) {
        (Some(user), Some(password)) if !helo.auth.is_empty() => {
            let parts = [helo.auth.as_slice(), user.as_bytes(), password.reveal().as_bytes()];
            (user.as_str(), hexadecimal_digest(&parts))
        }
        _ => ("", String::new()),
    };
    let mut ping = Vec::new();
    append_array_header(6, &mut ping);
    for text in ["PING", OUR_NAME, salt, &key_digest, user, &password_digest] {
        append_text(text.as_bytes(), &mut ping);
    }
    ping
}

/// 32 characters that nobody can guess.
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
