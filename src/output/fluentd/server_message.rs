//! The messages of a forward receiver: HELO, PONG and acknowledgements, in MessagePack.

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

/// Returns the message at the start of these bytes, and its length.
pub fn read(bytes: &[u8]) -> Result<(ServerMessage, usize), MessageError> {
    let mut reader = Reader { bytes, at: 0 };
    let message = match reader.value(0)? {
        Value::Array(parts) => of_array(parts),
        Value::Map(fields) => fields.into_iter().find_map(|(key, value)| match (key, value) {
            (Value::Text(key), Value::Text(id)) if key == b"ack" => Some(ServerMessage::Ack(id)),
            _ => None,
        }),
        _ => None,
    };
    message.map(|message| (message, reader.at)).ok_or(MessageError::Malformed)
}

fn of_array(parts: Vec<Value>) -> Option<ServerMessage> {
    let mut parts = parts.into_iter();
    match (parts.next()?.text()?.as_slice(), parts.next()?) {
        (b"HELO", Value::Map(fields)) => {
            let mut helo = Helo { nonce: Vec::new(), auth: Vec::new(), keeps_alive: true };
            for (key, value) in fields {
                match (key.text()?.as_slice(), value) {
                    (b"nonce", value) => helo.nonce = value.text()?,
                    (b"auth", Value::Text(auth)) => helo.auth = auth,
                    (b"keepalive", Value::Boolean(keeps_alive)) => helo.keeps_alive = keeps_alive,
                    _ => {}
                }
            }
            Some(ServerMessage::Helo(helo))
        }
        (b"PONG", Value::Boolean(is_accepted)) => {
            let mut text = || parts.next().and_then(Value::text).unwrap_or_default();
            let (reason, server, digest) = (text(), text(), text());
            let reason = String::from_utf8_lossy(&reason).into_owned();
            Some(ServerMessage::Pong(Pong { is_accepted, reason, server, digest }))
        }
        _ => None,
    }
}

/// The part of MessagePack that these messages use.
#[derive(Debug)]
enum Value {
    /// Bytes of any kind, text or not.
    Text(Vec<u8>),
    Boolean(bool),
    Array(Vec<Value>),
    Map(Vec<(Value, Value)>),
    /// A value without meaning in these messages.
    Other,
}

impl Value {
    fn text(self) -> Option<Vec<u8>> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// The maximum depth of a message.
const DEPTH_MAX: usize = 4;

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn value(&mut self, depth: usize) -> Result<Value, MessageError> {
        if depth > DEPTH_MAX {
            return Err(MessageError::Malformed);
        }
        let kind = self.take(1)?[0];
        match kind {
            0xc2 | 0xc3 => Ok(Value::Boolean(kind == 0xc3)),
            0x80..=0x8f => self.map((kind & 0x0f).into(), depth),
            0xde => self.length(2).and_then(|length| self.map(length, depth)),
            0x90..=0x9f => self.array((kind & 0x0f).into(), depth),
            0xdc => self.length(2).and_then(|length| self.array(length, depth)),
            0xa0..=0xbf => self.text((kind & 0x1f).into()),
            0xc4 | 0xd9 => self.length(1).and_then(|length| self.text(length)),
            0xc5 | 0xda => self.length(2).and_then(|length| self.text(length)),
            0xc6 | 0xdb => self.length(4).and_then(|length| self.text(length)),
            0x00..=0x7f | 0xe0..=0xff | 0xc0 => Ok(Value::Other),
            0xcc | 0xd0 => self.skip(1),
            0xcd | 0xd1 => self.skip(2),
            0xca | 0xce | 0xd2 => self.skip(4),
            0xcb | 0xcf | 0xd3 => self.skip(8),
            _ => Err(MessageError::Malformed),
        }
    }

    fn take(&mut self, length: usize) -> Result<&[u8], MessageError> {
        let bytes = self.bytes[self.at..].get(..length).ok_or(MessageError::Incomplete)?;
        self.at += length;
        Ok(bytes)
    }

    fn length(&mut self, bytes: usize) -> Result<usize, MessageError> {
        Ok(self.take(bytes)?.iter().fold(0, |length, &byte| length << 8 | usize::from(byte)))
    }

    fn skip(&mut self, length: usize) -> Result<Value, MessageError> {
        self.take(length).map(|_| Value::Other)
    }

    fn text(&mut self, length: usize) -> Result<Value, MessageError> {
        self.take(length).map(|text| Value::Text(text.to_vec()))
    }

    fn array(&mut self, length: usize, depth: usize) -> Result<Value, MessageError> {
        (0..length).map(|_| self.value(depth + 1)).collect::<Result<_, _>>().map(Value::Array)
    }

    fn map(&mut self, length: usize, depth: usize) -> Result<Value, MessageError> {
        let pairs = (0..length).map(|_| Ok((self.value(depth + 1)?, self.value(depth + 1)?)));
        pairs.collect::<Result<_, _>>().map(Value::Map)
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
