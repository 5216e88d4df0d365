//! A receiver of Fluentd's forward protocol that plays faults and records what it receives.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write as _,
    io::{self, Read, Write},
    net::TcpStream,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use flate2::read::GzDecoder;
use ring::digest::{SHA512, digest};
use rmpv::Value;
use rustls::ServerConfig;

use super::{
    listener::{Listener, stay_silent},
    process::wait_until,
    tls,
};

/// What the receiver requires of its clients. It behaves as `in_forward.rb` of Fluentd does, or as `fw_prot.c` of Fluent
/// Bit.
#[derive(Clone, Default)]
pub struct ForwardOptions {
    /// The shared key. Without one there is no handshake.
    pub key: Option<&'static str>,
    /// A user and the password. Without one, the receiver ignores the user that a client sends.
    pub user: Option<(&'static str, &'static str)>,
    /// Closes the connection on a wrong key, without a PONG, and sends no `keepalive` in its HELO.
    pub is_fluent_bit: bool,
    /// Fluentd's `deny_keepalive`: the connection is closed after each acknowledgement. The HELO announces it; without a
    /// shared key there is no HELO.
    pub denies_keepalive: bool,
    /// TLS without resumed sessions, as Fluent Bit requires it.
    pub tls: Option<Arc<ServerConfig>>,
}

const NONCE: &[u8] = b"\0\xffnonce of sixteen";

/// The salt for passwords. Both receivers send one whenever they have a shared key, with users or without.
const AUTH: &[u8] = b"\xfe\0salt of sixteen ";

/// What the receiver does wrong on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardFault {
    /// Nothing.
    None,
    /// Acknowledges each chunk after this time.
    LateAcks(Duration),
    /// Acknowledges nothing.
    NoAcks,
    /// Acknowledges chunks that were not sent.
    WrongAcks,
    /// Acknowledges the first chunk. Then it waits for this number of chunks and acknowledges them in reverse order.
    WithheldAcks(usize),
    /// Acknowledges the first chunk only, and closes the connection when this number of chunks has arrived.
    CloseAfterChunks(usize),
    /// Acknowledges every chunk, and resets the connection after this number of chunks.
    ResetAfterChunks(usize),
    /// Resets the connection after this number of bytes.
    ResetAfterBytes(usize),
    /// Reads a few bytes at a time, with pauses.
    SlowReads,
    /// Reads nothing.
    NoReads,
    /// Closes the connection at once.
    Close,
}

/// An event as it was received.
#[derive(Clone, Debug)]
pub struct Event {
    pub tag: String,
    pub seconds: u32,
    pub nanoseconds: u32,
    pub record: Value,
}

/// A chunk as it was received.
#[derive(Clone, Debug)]
pub struct Chunk {
    pub id: String,
    /// The number of its connection, counted from 0.
    pub connection: usize,
    pub is_compressed: bool,
    /// The length of its entries before compression.
    pub bytes: usize,
    pub events: Vec<Event>,
}

/// A receiver on a free port of 127.0.0.1.
pub struct ForwardReceiver {
    listener: Listener,
    state: Arc<State>,
}

struct State {
    options: ForwardOptions,
    received: Mutex<Received>,
}

#[derive(Default)]
struct Received {
    connections: usize,
    /// The faults of the next connections, in order.
    faults: VecDeque<ForwardFault>,
    /// The fault of all later connections.
    later_fault: Option<ForwardFault>,
    chunks: Vec<Chunk>,
    /// The number of connections that the client has ended.
    ended: usize,
    /// The number of these that ended without the `close_notify` of TLS.
    without_close_notify: usize,
}

impl ForwardReceiver {
    pub fn start(options: ForwardOptions) -> Self {
        let state = Arc::new(State { options, received: Mutex::default() });
        let served = Arc::clone(&state);
        Self { listener: Listener::start(move |socket| served.serve(socket)), state }
    }

    /// Starts a receiver without a handshake and without TLS.
    pub fn plain() -> Self {
        Self::start(ForwardOptions::default())
    }

    /// Returns the port of this receiver.
    pub fn port(&self) -> u16 {
        self.listener.port()
    }

    /// The lines of `output.fluentd` for this receiver, with further keys. `retryTimeout` is 1 s unless it is one of them.
    pub fn config(&self, further: &str) -> String {
        let retry = if further.contains("retryTimeout") { "" } else { "\nretryTimeout: 1s" };
        let further = format!("{further}{retry}");
        let further: String = further.trim().lines().fold(String::new(), |mut lines, line| {
            let _ = write!(lines, "\n    {}", line.trim());
            lines
        });
        format!("  fluentd:\n    address: 127.0.0.1\n    port: {}{further}", self.listener.port())
    }

    /// Sets the faults of the next connections, one each.
    pub fn set_next_faults(&self, faults: impl IntoIterator<Item = ForwardFault>) {
        self.received().faults.extend(faults);
    }

    /// Sets the fault of all connections after those of [`ForwardReceiver::set_next_faults`].
    pub fn set_fault(&self, fault: ForwardFault) {
        self.received().later_fault = Some(fault);
    }

    /// The chunks that arrived whole, acknowledged or not.
    pub fn chunks(&self) -> Vec<Chunk> {
        self.received().chunks.clone()
    }

    pub fn events(&self) -> Vec<Event> {
        self.chunks().into_iter().flat_map(|chunk| chunk.events).collect()
    }

    /// The number of events for each record Id.
    pub fn ids(&self) -> BTreeMap<String, usize> {
        let mut ids = BTreeMap::new();
        for event in self.events() {
            *ids.entry(event.field("Id")).or_default() += 1;
        }
        ids
    }

    pub fn connections(&self) -> usize {
        self.received().connections
    }

    /// Waits until the client has ended this number of connections, and returns the number of those without a
    /// `close_notify`.
    #[track_caller]
    pub fn without_close_notify(&self, ended: usize) -> usize {
        wait_until(&format!("the client has ended {ended} connections"), || self.received().ended >= ended);
        self.received().without_close_notify
    }

    #[track_caller]
    pub fn wait_for_connections(&self, count: usize) {
        wait_until(&format!("the receiver has {count} connections"), || self.connections() >= count);
    }

    #[track_caller]
    pub fn wait_for_chunks(&self, count: usize) {
        wait_until(&format!("the receiver has {count} chunks"), || self.received().chunks.len() >= count);
    }

    fn received(&self) -> MutexGuard<'_, Received> {
        self.state.received()
    }
}

impl Event {
    /// The text of a field; empty if there is none.
    pub fn field(&self, name: &str) -> String {
        let fields = self.record.as_map().expect("a record is a map");
        let value = fields.iter().find(|(key, _)| key.as_str() == Some(name));
        value.and_then(|(_, value)| value.as_str()).unwrap_or_default().to_owned()
    }
}

trait ReadWrite: Read + Write {}
impl<Stream: Read + Write> ReadWrite for Stream {}

/// A connection, as the receiver has it.
struct Connection {
    stream: Box<dyn ReadWrite>,
    fault: ForwardFault,
    read_bytes: usize,
}

impl Read for Connection {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut most = into.len();
        match self.fault {
            // To close a socket with unread bytes resets the connection.
            ForwardFault::ResetAfterBytes(bytes) if self.read_bytes >= bytes => {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            ForwardFault::ResetAfterBytes(bytes) => most = most.min(bytes - self.read_bytes),
            ForwardFault::SlowReads => {
                most = most.min(16 * 1024);
                thread::sleep(Duration::from_millis(1));
            }
            _ => {}
        }
        let count = self.stream.read(&mut into[..most])?;
        self.read_bytes += count;
        Ok(count)
    }
}

impl State {
    fn received(&self) -> MutexGuard<'_, Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, socket: TcpStream) -> io::Result<()> {
        let (fault, number) = {
            let mut received = self.received();
            received.connections += 1;
            let later = received.later_fault.unwrap_or(ForwardFault::None);
            (received.faults.pop_front().unwrap_or(later), received.connections - 1)
        };
        if fault == ForwardFault::Close {
            return Ok(());
        }
        let stream: Box<dyn ReadWrite> = match &self.options.tls {
            None => Box::new(socket),
            Some(config) => Box::new(tls::accept(socket, config)?),
        };
        let mut connection = Connection { stream, fault, read_bytes: 0 };
        if fault == ForwardFault::NoReads {
            stay_silent();
            return Ok(());
        }
        if let Some(key) = self.options.key
            && !self.authenticate(&mut connection, key)?
        {
            return Ok(());
        }
        let ended = self.receive_chunks(&mut connection, number);
        let is_cut = ended.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::UnexpectedEof);
        let mut received = self.received();
        received.ended += 1;
        received.without_close_notify += usize::from(is_cut);
        ended
    }

    /// Performs the handshake: HELO, PING, PONG. Returns whether the client knows the key and, if there is one, the user.
    fn authenticate(&self, connection: &mut Connection, key: &str) -> io::Result<bool> {
        let mut helo = vec![
            (Value::from("nonce"), Value::Binary(NONCE.to_vec())),
            (Value::from("auth"), Value::Binary(AUTH.to_vec())),
        ];
        if !self.options.is_fluent_bit {
            helo.push((Value::from("keepalive"), Value::from(!self.options.denies_keepalive)));
        }
        send(connection, &Value::Array(vec![Value::from("HELO"), Value::Map(helo)]))?;
        let ping = read_message(connection)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let parts: Option<Vec<&str>> =
            ping.as_array().and_then(|parts| parts.iter().map(Value::as_str).collect());
        let Some(["PING", name, salt, digest, user, password]) = parts.as_deref() else {
            if !self.options.is_fluent_bit {
                send_pong(connection, "invalid ping message", "")?;
            }
            return Ok(false);
        };
        let expected = hexadecimal_digest(&[salt.as_bytes(), name.as_bytes(), NONCE, key.as_bytes()]);
        let knows_user = self.options.user.is_none_or(|(known, secret)| {
            let expected = hexadecimal_digest(&[AUTH, known.as_bytes(), secret.as_bytes()]);
            *user == known && *password == expected
        });
        let reason = match (*digest == expected, knows_user) {
            (true, true) => "",
            (false, _) if self.options.is_fluent_bit => return Ok(false),
            (false, _) => "shared_key mismatch",
            (_, false) => "username/password mismatch",
        };
        let proof = hexadecimal_digest(&[salt.as_bytes(), b"receiver.example", NONCE, key.as_bytes()]);
        send_pong(connection, reason, &proof)?;
        Ok(reason.is_empty())
    }

    fn receive_chunks(&self, connection: &mut Connection, number: usize) -> io::Result<()> {
        let mut withheld = Vec::new();
        let mut received = 0;
        while let Some(message) = read_message(connection)? {
            if !message.is_array() {
                if self.options.is_fluent_bit {
                    return Ok(()); // "expecting an array"
                }
                continue; // "incoming chunk is broken"
            }
            let chunk = read_chunk(&message, number)?;
            let id = chunk.id.clone();
            if chunk.events.is_empty() {
                acknowledge(connection, &id)?;
                continue;
            }
            received += 1;
            self.received().chunks.push(chunk);
            match connection.fault {
                ForwardFault::NoAcks => {}
                ForwardFault::LateAcks(time) => {
                    thread::sleep(time);
                    acknowledge(connection, &id)?;
                }
                ForwardFault::WrongAcks => acknowledge(connection, "bm90IHRoaXMgb25l")?,
                ForwardFault::WithheldAcks(_) if received == 1 => acknowledge(connection, &id)?,
                ForwardFault::WithheldAcks(count) => {
                    withheld.push(id);
                    if withheld.len() == count {
                        connection.fault = ForwardFault::None;
                        for id in withheld.iter().rev() {
                            acknowledge(connection, id)?;
                        }
                    }
                }
                ForwardFault::CloseAfterChunks(count) if received == count => return Ok(()),
                ForwardFault::CloseAfterChunks(_) if received > 1 => {}
                ForwardFault::ResetAfterChunks(count) if received == count => {
                    acknowledge(connection, &id)?;
                    connection.fault = ForwardFault::ResetAfterBytes(connection.read_bytes);
                }
                _ => acknowledge(connection, &id)?,
            }
            if self.options.denies_keepalive {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Sends the result of the handshake; an empty reason means success.
fn send_pong(connection: &mut Connection, reason: &str, proof: &str) -> io::Result<()> {
    let mut pong = ["PONG", "", reason, "receiver.example", proof].map(Value::from);
    pong[1] = Value::from(reason.is_empty());
    send(connection, &Value::Array(pong.to_vec()))
}

fn acknowledge(connection: &mut Connection, id: &str) -> io::Result<()> {
    send(connection, &Value::Map(vec![(Value::from("ack"), Value::from(id))]))
}

fn send(connection: &mut Connection, value: &Value) -> io::Result<()> {
    let mut bytes = Vec::new();
    rmpv::encode::write_value(&mut bytes, value).map_err(io::Error::other)?;
    connection.stream.write_all(&bytes)?;
    connection.stream.flush()
}

/// Reads the next message; `None` if the client has closed the connection.
fn read_message(connection: &mut Connection) -> io::Result<Option<Value>> {
    let mut first = [0];
    if connection.read(&mut first)? == 0 {
        return Ok(None);
    }
    rmpv::decode::read_value(&mut first.as_slice().chain(connection)).map(Some).map_err(io::Error::other)
}

fn read_chunk(message: &Value, connection: usize) -> io::Result<Chunk> {
    let invalid = |what: &str| io::Error::other(format!("{what}: {message}"));
    let Some([tag, entries, options]) = message.as_array().map(Vec::as_slice) else {
        return Err(invalid("not three elements"));
    };
    let option = |name: &str| {
        let options = options.as_map().map(Vec::as_slice).unwrap_or_default();
        options.iter().find(|(key, _)| key.as_str() == Some(name)).map(|(_, value)| value)
    };
    let id = option("chunk").and_then(Value::as_str).ok_or_else(|| invalid("no chunk id"))?.to_owned();
    if entries.as_array().is_some_and(Vec::is_empty) {
        return Ok(Chunk { id, connection, is_compressed: false, bytes: 0, events: Vec::new() });
    }
    let (Some(tag), Value::Binary(packed)) = (tag.as_str(), entries) else {
        return Err(invalid("no tag or no entries"));
    };
    let is_compressed = option("compressed").and_then(Value::as_str) == Some("gzip");
    let mut bytes = Vec::new();
    if is_compressed {
        GzDecoder::new(packed.as_slice()).read_to_end(&mut bytes)?;
    } else {
        bytes.clone_from(packed);
    }
    let mut events = Vec::new();
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        let entry = rmpv::decode::read_value(&mut rest).map_err(io::Error::other)?;
        let Some([Value::Ext(0, time), record]) = entry.as_array().map(Vec::as_slice) else {
            return Err(invalid("no time or no record"));
        };
        let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte));
        events.push(Event {
            tag: tag.to_owned(),
            seconds: number(&time[..4]),
            nanoseconds: number(&time[4..]),
            record: record.clone(),
        });
    }
    if option("size").and_then(Value::as_u64) != Some(events.len() as u64) {
        return Err(invalid("the size is not the number of entries"));
    }
    Ok(Chunk { id, connection, is_compressed, bytes: bytes.len(), events })
}

fn hexadecimal_digest(parts: &[&[u8]]) -> String {
    digest(&SHA512, &parts.concat()).as_ref().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
