//! The messages of a forward receiver: HELO, PONG and acknowledgements, in MessagePack.

use std::io;

use rmpv::{Value, decode::read_value_with_max_depth};

/// A message of a receiver.
///
/// Source: "Forward Protocol Specification v1",
/// <https://github.com/fluent/fluentd/wiki/Forward-Protocol-Specification-v1>.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerMessage {
    /// The receiver requests authentication.
    Helo(Helo),
    /// The result of the authentication.
    Pong(Pong),
    /// The receiver has the chunk with this id.
    Ack(Vec<u8>),
}

/// `["HELO", {"nonce": …, "auth": …, "keepalive": …}]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Helo {
    /// Part of the digests of the shared key.
    pub nonce: Vec<u8>,
    /// Part of the digest of the password. Fluentd and Fluent Bit send it even if they have no users.
    pub auth: Vec<u8>,
    /// `false` if the receiver closes the connection after each acknowledgement. Fluent Bit does not send this field.
    pub keeps_alive: bool,
}

/// `["PONG", is accepted, reason, server's name, digest]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pong {
    /// Whether the receiver accepts the credentials.
    pub is_accepted: bool,
    /// Why not.
    pub reason: String,
    /// The name of the receiver.
    pub server: Vec<u8>,
    /// Proves that the receiver knows the shared key.
    pub digest: Vec<u8>,
}

/// An error returned when bytes do not begin with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageError {
    /// The rest of the message is missing.
    Incomplete,
    /// The bytes are not a message of the protocol.
    Malformed,
}

/// The maximum depth of a message, as `rmpv` counts it: two for each value.
const DEPTH_MAX: usize = 8;

/// Returns the message at the start of these bytes, and its length.
pub fn read(bytes: &[u8]) -> Result<(ServerMessage, usize), MessageError> {
    let mut rest = bytes;
    let value = read_value_with_max_depth(&mut rest, DEPTH_MAX).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => MessageError::Incomplete,
        _ => MessageError::Malformed,
    })?;
    let message = match value {
        Value::Array(parts) => of_array(parts),
        Value::Map(fields) => fields.into_iter().find_map(|(key, value)| {
            let is_ack = text(key).is_some_and(|key| key == b"ack");
            text(value).filter(|_| is_ack).map(ServerMessage::Ack)
        }),
        _ => None,
    };
    message.map(|message| (message, bytes.len() - rest.len())).ok_or(MessageError::Malformed)
}

fn of_array(parts: Vec<Value>) -> Option<ServerMessage> {
    let mut parts = parts.into_iter();
    match (text(parts.next()?)?.as_slice(), parts.next()?) {
        (b"HELO", Value::Map(fields)) => {
            let mut helo = Helo { nonce: Vec::new(), auth: Vec::new(), keeps_alive: true };
            for (key, value) in fields {
                match (text(key)?.as_slice(), value) {
                    (b"nonce", value) => helo.nonce = text(value)?,
                    (b"auth", value) => helo.auth = text(value).unwrap_or_default(),
                    (b"keepalive", Value::Boolean(keeps_alive)) => helo.keeps_alive = keeps_alive,
                    _ => {}
                }
            }
            Some(ServerMessage::Helo(helo))
        }
        (b"PONG", Value::Boolean(is_accepted)) => {
            let mut next = || parts.next().and_then(text).unwrap_or_default();
            let (reason, server, digest) = (next(), next(), next());
            let reason = String::from_utf8_lossy(&reason).into_owned();
            Some(ServerMessage::Pong(Pong { is_accepted, reason, server, digest }))
        }
        _ => None,
    }
}

/// Returns the bytes of a text, which receivers send as a string or as binary.
fn text(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::String(text) => Some(text.into_bytes()),
        Value::Binary(bytes) => Some(bytes),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACK: &[u8] = b"\x81\xa3ack\xa4abc=";

    #[test]
    fn reads_messages_with_text_or_binary_strings() {
        assert_eq!(read(ACK), Ok((ServerMessage::Ack(b"abc=".to_vec()), 10)));
        assert_eq!(read(&[ACK, b"\x81"].concat()), Ok((ServerMessage::Ack(b"abc=".to_vec()), 10)));
        let helo = b"\x92\xa4HELO\x83\xa5nonce\xc4\x02\xff\x00\xa4auth\xd9\x01s\xa9keepalive\xc2";
        let expected = Helo { nonce: vec![0xff, 0], auth: b"s".to_vec(), keeps_alive: false };
        assert_eq!(read(helo), Ok((ServerMessage::Helo(expected), helo.len())));
        let helo = b"\x92\xa4HELO\x81\xa5nonce\xa1n";
        let expected = Helo { nonce: b"n".to_vec(), auth: Vec::new(), keeps_alive: true };
        assert_eq!(read(helo), Ok((ServerMessage::Helo(expected), helo.len())));
        let pong = b"\x95\xa4PONG\xc2\xa3why\xa1s\xda\x00\x02ab";
        let expected =
            Pong { is_accepted: false, reason: "why".into(), server: b"s".to_vec(), digest: b"ab".to_vec() };
        assert_eq!(read(pong), Ok((ServerMessage::Pong(expected), pong.len())));
    }

    #[test]
    fn distinguishes_incomplete_from_malformed_messages() {
        for end in 0..ACK.len() {
            assert_eq!(read(&ACK[..end]), Err(MessageError::Incomplete), "{end}");
        }
        for other in [
            b"\x15\x03\x03\x00\x02".as_slice(), // an alert of TLS
            b"HTTP/1.1 400 Bad Request",
            b"\x80",
            b"\x90",
            b"\x92\xa4HELO\xc0",
            b"\x91\x91\x91\x91\x91\x91\x91\x91",
            b"\xc1",
        ] {
            assert_eq!(read(other), Err(MessageError::Malformed), "{other:x?}");
        }
    }
}
