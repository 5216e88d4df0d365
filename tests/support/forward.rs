//! A forward receiver that plays faults, and keeps what it was sent.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write as _,
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use flate2::read::GzDecoder;
use ring::digest::{SHA512, digest};
use rmpv::Value;
use rustls::{HandshakeKind, ServerConfig, ServerConnection, StreamOwned};

/// What the receiver demands of its clients. It behaves as `in_forward.rb` of Fluentd does, or as `fw_prot.c` of Fluent
/// Bit.
#[derive(Clone, Default)]
pub struct Door {
    /// The shared key, if there is a handshake.
    pub key: Option<&'static str>,
    /// A user and the password. Without one, what the client says of a user is ignored.
    pub user: Option<(&'static str, &'static str)>,
    /// Answers a wrong key by closing, without a PONG, and has no `keepalive` in its HELO.
    pub is_fluent_bit: bool,
    /// Fluentd's `deny_keepalive`: the connection is closed after each acknowledgement. A HELO says so; without
    /// security there is none.
    pub denies_keepalive: bool,
    /// Connections with a resumed session are killed, as Fluent Bit kills them.
    pub tls: Option<Arc<ServerConfig>>,
}

const NONCE: &[u8] = b"\0\xffnonce of sixteen";

/// The salt for passwords. Both receivers send one whenever they have a shared key, with users or without.
const AUTH: &[u8] = b"\xfe\0salt of sixteen ";

/// How a connection is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// As it should be.
    None,
    /// Acknowledgements come so much later.
    Late(Duration),
    /// They do not come at all.
    Mute,
    /// They are of other chunks.
    Wrong,
    /// After the first acknowledgement, this number of chunks has to arrive before the next one; then the last comes first.
    Withholding(usize),
    /// Closed when this number of chunks has arrived, of which only the first was acknowledged.
    ClosedAfter(usize),
    /// Every chunk is acknowledged; when this number has arrived, the connection is reset.
    ResetAfterChunks(usize),
    /// Reset after this number of bytes, in the middle of a chunk.
    ResetAfter(usize),
    /// Reads in small bits with pauses between.
    Slow,
    /// Reads nothing.
    Stuck,
    /// Closed as soon as it is made.
    Closed,
}

/// One event as it was received.
#[derive(Clone, Debug)]
pub struct Event {
    pub tag: String,
    pub seconds: u32,
    pub nanoseconds: u32,
    pub record: Value,
}

/// One chunk as it was received.
#[derive(Clone, Debug)]
pub struct Chunk {
    pub id: String,
    /// On which connection, counted from 0.
    pub connection: usize,
    pub is_compressed: bool,
    /// The entries, before compression.
    pub bytes: usize,
    pub events: Vec<Event>,
}

/// A receiver on a free port of the loopback, for as long as the tests run.
pub struct Receiver {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    door: Door,
    inside: Mutex<Inside>,
    changed: Condvar,
}

#[derive(Default)]
struct Inside {
    connections: usize,
    /// Of the next connections, in order; after them [`Inside::usual`].
    faults: VecDeque<Fault>,
    usual: Option<Fault>,
    chunks: Vec<Chunk>,
    /// Connections that the client has ended, …
    ended: usize,
    /// … and those of them that, under TLS, ended without `close_notify`.
    cut_off: usize,
}

impl Receiver {
    pub fn start(door: Door) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port on the loopback");
        let port = listener.local_addr().expect("an address").port();
        let shared = Arc::new(Shared { door, inside: Mutex::default(), changed: Condvar::new() });
        let ours = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let shared = Arc::clone(&ours);
                thread::spawn(move || shared.serve(client)); // its errors are its client's to notice
            }
        });
        Self { port, shared }
    }

    /// Without a handshake, without TLS.
    pub fn plain() -> Self {
        Self::start(Door::default())
    }

    /// The lines of `output.fluentd` for it, with these further keys. Without `retryTimeout` among them it is short.
    pub fn config(&self, further: &str) -> String {
        let retry = if further.contains("retryTimeout") { "" } else { "\nretryTimeout: 1s" };
        let further = format!("{further}{retry}");
        let further: String = further.trim().lines().fold(String::new(), |mut lines, line| {
            let _ = write!(lines, "\n    {}", line.trim());
            lines
        });
        format!("  fluentd:\n    address: 127.0.0.1\n    port: {}{further}", self.port)
    }

    /// Lets the next connections be treated so, one each.
    pub fn faults(&self, faults: impl IntoIterator<Item = Fault>) {
        self.inside().faults.extend(faults);
    }

    /// Lets all connections be treated so that no other fault is meant for.
    pub fn always(&self, fault: Fault) {
        self.inside().usual = Some(fault);
    }

    /// What was received whole, acknowledged or not.
    pub fn chunks(&self) -> Vec<Chunk> {
        self.inside().chunks.clone()
    }

    pub fn events(&self) -> Vec<Event> {
        self.chunks().into_iter().flat_map(|chunk| chunk.events).collect()
    }

    /// How often each record Id was received.
    pub fn ids(&self) -> BTreeMap<String, usize> {
        let mut ids = BTreeMap::new();
        for event in self.events() {
            *ids.entry(event.field("Id")).or_default() += 1;
        }
        ids
    }

    pub fn connections(&self) -> usize {
        self.inside().connections
    }

    /// Waits until this number of connections has ended, and counts those that, under TLS, did so without a farewell.
    #[track_caller]
    pub fn cut_off(&self, count: usize) -> usize {
        self.wait_until(|inside| inside.ended >= count);
        self.inside().cut_off
    }

    /// Waits until there have been this number of connections.
    #[track_caller]
    pub fn wait_for_connections(&self, count: usize) {
        self.wait_until(|inside| inside.connections >= count);
    }

    /// Waits until this number of chunks has arrived.
    #[track_caller]
    pub fn wait_for_chunks(&self, count: usize) {
        self.wait_until(|inside| inside.chunks.len() >= count);
    }

    #[track_caller]
    fn wait_until(&self, is_so: impl Fn(&Inside) -> bool) {
        let wait = Duration::from_secs(20);
        let (inside, waited) = self
            .shared
            .changed
            .wait_timeout_while(self.inside(), wait, |inside| !is_so(inside))
            .unwrap_or_else(PoisonError::into_inner);
        assert!(!waited.timed_out(), "{} chunks on {} connections", inside.chunks.len(), inside.connections);
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.shared.inside()
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

/// A connection from the receiver's side.
struct Line {
    stream: Box<dyn ReadWrite>,
    fault: Fault,
    read: usize,
}

impl Read for Line {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut most = into.len();
        match self.fault {
            // Closing a socket with something in it that was not read resets the connection.
            Fault::ResetAfter(bytes) if self.read >= bytes => {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            Fault::ResetAfter(bytes) => most = most.min(bytes - self.read),
            Fault::Slow => {
                most = most.min(16 * 1024);
                thread::sleep(Duration::from_millis(1));
            }
            Fault::Stuck => loop {
                thread::park();
            },
            _ => {}
        }
        let count = self.stream.read(&mut into[..most])?;
        self.read += count;
        Ok(count)
    }
}

impl Shared {
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes down what has happened.
    fn note(&self, what: impl FnOnce(&mut Inside)) {
        what(&mut self.inside());
        self.changed.notify_all();
    }

    fn serve(&self, socket: TcpStream) -> io::Result<()> {
        let (fault, connection) = {
            let mut inside = self.inside();
            inside.connections += 1;
            let usual = inside.usual.unwrap_or(Fault::None);
            (inside.faults.pop_front().unwrap_or(usual), inside.connections - 1)
        };
        self.changed.notify_all();
        if fault == Fault::Closed {
            return Ok(());
        }
        let stream: Box<dyn ReadWrite> = match &self.door.tls {
            None => Box::new(socket),
            Some(config) => {
                let mut socket = socket;
                let mut session = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
                while session.is_handshaking() {
                    session.complete_io(&mut socket)?;
                }
                if session.handshake_kind() == Some(HandshakeKind::Resumed) {
                    return Err(io::Error::other("session id context uninitialized"));
                }
                Box::new(StreamOwned::new(session, socket))
            }
        };
        let mut line = Line { stream, fault, read: 0 };
        if let Some(key) = self.door.key
            && !self.let_in(&mut line, key)?
        {
            return Ok(());
        }
        let ended = self.take_chunks(&mut line, connection);
        let is_cut = ended.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::UnexpectedEof);
        self.note(|inside| {
            inside.ended += 1;
            inside.cut_off += usize::from(is_cut);
        });
        ended
    }

    /// HELO, PING, PONG; whether the client is one that we know.
    fn let_in(&self, line: &mut Line, key: &str) -> io::Result<bool> {
        let mut helo = vec![
            (Value::from("nonce"), Value::Binary(NONCE.to_vec())),
            (Value::from("auth"), Value::Binary(AUTH.to_vec())),
        ];
        if !self.door.is_fluent_bit {
            helo.push((Value::from("keepalive"), Value::from(!self.door.denies_keepalive)));
        }
        say(line, &Value::Array(vec![Value::from("HELO"), Value::Map(helo)]))?;
        let ping = read_message(line)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let parts: Option<Vec<&str>> =
            ping.as_array().and_then(|parts| parts.iter().map(Value::as_str).collect());
        let Some(["PING", name, salt, digest, user, password]) = parts.as_deref() else {
            if !self.door.is_fluent_bit {
                answer_ping(line, "invalid ping message", "")?;
            }
            return Ok(false);
        };
        let expected = hexadecimal(&[salt.as_bytes(), name.as_bytes(), NONCE, key.as_bytes()]);
        let knows_user = self.door.user.is_none_or(|(known, secret)| {
            let expected = hexadecimal(&[AUTH, known.as_bytes(), secret.as_bytes()]);
            *user == known && *password == expected
        });
        let reason = match (*digest == expected, knows_user) {
            (true, true) => "",
            (false, _) if self.door.is_fluent_bit => return Ok(false),
            (false, _) => "shared_key mismatch",
            (_, false) => "username/password mismatch",
        };
        let proof = hexadecimal(&[salt.as_bytes(), b"receiver.example", NONCE, key.as_bytes()]);
        answer_ping(line, reason, &proof)?;
        Ok(reason.is_empty())
    }

    fn take_chunks(&self, line: &mut Line, connection: usize) -> io::Result<()> {
        let mut withheld = Vec::new();
        let mut received = 0;
        while let Some(message) = read_message(line)? {
            if !message.is_array() {
                if self.door.is_fluent_bit {
                    return Ok(()); // "expecting an array"
                }
                continue; // "incoming chunk is broken"
            }
            let chunk = read_chunk(&message, connection)?;
            let id = chunk.id.clone();
            if chunk.events.is_empty() {
                acknowledge(line, &id)?;
                continue;
            }
            received += 1;
            self.note(|inside| inside.chunks.push(chunk));
            match line.fault {
                Fault::Mute => {}
                Fault::Late(time) => {
                    thread::sleep(time);
                    acknowledge(line, &id)?;
                }
                Fault::Wrong => acknowledge(line, "bm90IHRoaXMgb25l")?,
                Fault::Withholding(_) if received == 1 => acknowledge(line, &id)?,
                Fault::Withholding(count) => {
                    withheld.push(id);
                    if withheld.len() == count {
                        line.fault = Fault::None;
                        for id in withheld.iter().rev() {
                            acknowledge(line, id)?;
                        }
                    }
                }
                Fault::ClosedAfter(count) if received == count => return Ok(()),
                Fault::ClosedAfter(_) if received > 1 => {}
                Fault::ResetAfterChunks(count) if received == count => {
                    acknowledge(line, &id)?;
                    line.fault = Fault::ResetAfter(line.read);
                }
                _ => acknowledge(line, &id)?,
            }
            if self.door.denies_keepalive {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// A client is let in if there is no reason not to.
fn answer_ping(line: &mut Line, reason: &str, proof: &str) -> io::Result<()> {
    let mut pong = ["PONG", "", reason, "receiver.example", proof].map(Value::from);
    pong[1] = Value::from(reason.is_empty());
    say(line, &Value::Array(pong.to_vec()))
}

fn acknowledge(line: &mut Line, id: &str) -> io::Result<()> {
    say(line, &Value::Map(vec![(Value::from("ack"), Value::from(id))]))
}

fn say(line: &mut Line, value: &Value) -> io::Result<()> {
    let mut bytes = Vec::new();
    rmpv::encode::write_value(&mut bytes, value).map_err(io::Error::other)?;
    line.stream.write_all(&bytes)?;
    line.stream.flush()
}

/// The next message; nothing if the client has closed in order.
fn read_message(line: &mut Line) -> io::Result<Option<Value>> {
    let mut first = [0];
    if line.read(&mut first)? == 0 {
        return Ok(None);
    }
    rmpv::decode::read_value(&mut first.as_slice().chain(line)).map(Some).map_err(io::Error::other)
}

fn read_chunk(message: &Value, connection: usize) -> io::Result<Chunk> {
    let wrong = |what: &str| io::Error::other(format!("{what} in {message}"));
    let Some([tag, entries, options]) = message.as_array().map(Vec::as_slice) else {
        return Err(wrong("no three parts"));
    };
    let option = |name: &str| {
        let options = options.as_map().map(Vec::as_slice).unwrap_or_default();
        options.iter().find(|(key, _)| key.as_str() == Some(name)).map(|(_, value)| value)
    };
    let id = option("chunk").and_then(Value::as_str).ok_or_else(|| wrong("no chunk"))?.to_owned();
    if entries.as_array().is_some_and(Vec::is_empty) {
        return Ok(Chunk { id, connection, is_compressed: false, bytes: 0, events: Vec::new() });
    }
    let (Some(tag), Value::Binary(packed)) = (tag.as_str(), entries) else {
        return Err(wrong("no tag or no entries"));
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
            return Err(wrong("no time or no record"));
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
        return Err(wrong("another size"));
    }
    Ok(Chunk { id, connection, is_compressed, bytes: bytes.len(), events })
}

fn hexadecimal(parts: &[&[u8]]) -> String {
    digest(&SHA512, &parts.concat()).as_ref().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
