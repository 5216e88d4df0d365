//! A receiver of syslog: messages of RFC 5424 over TCP or TLS with octet counting, or over RELP. Its RELP is that of librelp
//! 1.11, as rsyslog uses it: the numbers of commands begin with 1 and have no gaps, each message is acknowledged with `200 OK`
//! in its order, and the response to `close` is empty.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{self, BufRead, BufReader, ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use rustls::ServerConfig;

use super::{
    listener::{Listener, begins_with_tls, stay_silent},
    process::wait_until,
    tls,
};

/// How messages arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Counted,
    Relp,
}

/// What the receiver does with a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyslogBehavior {
    /// Reads until the client closes its side. With RELP, acknowledges each message.
    #[default]
    Read,
    /// Reads this number of messages, and closes the connection, whatever else arrives. With RELP, it acknowledges the
    /// messages.
    CloseAfter(usize),
    /// The same with RELP, but it keeps and does not acknowledge the last one of the messages.
    CloseInsteadOfLastAck(usize),
    /// Accepts the connection and never reads.
    NeverRead,
    /// Reads, and keeps its side open after the client has closed, as a load balancer can.
    NeverClose,
    /// Acknowledges messages in groups of this number, the last one of the group first.
    Reverse(usize),
    /// Responds with the code 500 to the first messages, this number, and does not keep them.
    Reject(usize),
    /// Responds with the code 500 to each message with this text, and does not keep it.
    RejectText(&'static str),
    /// Responds to `open` with this status and these offers.
    Open(&'static str, &'static str),
    /// Sends this text to each client when it connects.
    Say(&'static str),
}

/// A message as RFC 5424 defines it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyslogMessage {
    pub priority: u8,
    pub timestamp: String,
    pub hostname: String,
    pub app_name: String,
    pub message_id: String,
    /// The name of the only element of the structured data.
    pub element: String,
    pub parameters: BTreeMap<String, String>,
    pub text: String,
    /// The number of bytes of the whole message.
    pub bytes: usize,
}

/// A receiver on a free port of 127.0.0.1.
pub struct SyslogReceiver {
    listener: Listener,
    state: Arc<State>,
}

struct State {
    transport: Transport,
    /// For the next connections, in order. Later connections are read.
    behaviors: Mutex<VecDeque<SyslogBehavior>>,
    messages: Mutex<Vec<SyslogMessage>>,
    connections: AtomicUsize,
    /// The number of RELP sessions that the client has ended with `close`.
    closed_sessions: AtomicUsize,
    /// What clients did that they must not do.
    violations: Mutex<Vec<String>>,
}

impl SyslogReceiver {
    pub fn start(transport: Transport) -> Self {
        Self::listen(transport, None)
    }

    pub fn start_with_tls(transport: Transport, config: Arc<ServerConfig>) -> Self {
        Self::listen(transport, Some(config))
    }

    fn listen(transport: Transport, tls: Option<Arc<ServerConfig>>) -> Self {
        let state = Arc::new(State {
            transport,
            behaviors: Mutex::default(),
            messages: Mutex::default(),
            connections: AtomicUsize::default(),
            closed_sessions: AtomicUsize::default(),
            violations: Mutex::default(),
        });
        let served = Arc::clone(&state);
        Self { listener: Listener::start(move |socket| served.serve(socket, tls.as_ref())), state }
    }

    pub fn port(&self) -> u16 {
        self.listener.port()
    }

    /// Sets what is done with the next connections, one each. Later connections are read.
    pub fn set_behaviors(&self, behaviors: &[SyslogBehavior]) {
        *lock(&self.state.behaviors) = behaviors.iter().copied().collect();
    }

    /// Stops listening. When this returns, new connections are refused.
    #[track_caller]
    pub fn close(&self) {
        self.listener.close();
    }

    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    pub fn closed_sessions(&self) -> usize {
        self.state.closed_sessions.load(Ordering::SeqCst)
    }

    #[track_caller]
    pub fn wait_for_connections(&self, count: usize) {
        wait_until(&format!("the receiver has {count} connections"), || self.connections() >= count);
    }

    /// The messages that arrived whole.
    ///
    /// # Panics
    ///
    /// Panics if a client has violated the protocol.
    #[track_caller]
    pub fn messages(&self) -> Vec<SyslogMessage> {
        assert_eq!(*lock(&self.state.violations), [""; 0]);
        lock(&self.state.messages).clone()
    }

    /// The number of messages for each record Id.
    #[track_caller]
    pub fn ids(&self) -> BTreeMap<String, usize> {
        let mut ids = BTreeMap::new();
        for message in self.messages() {
            *ids.entry(message.parameters["recordId"].clone()).or_default() += 1;
        }
        ids
    }
}

impl SyslogMessage {
    /// Parses a message. `Err`: what is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
        Self::parse_text(text).ok_or_else(|| format!("not a message of RFC 5424: {text:.200}"))
    }

    fn parse_text(text: &str) -> Option<Self> {
        let (priority, rest) = text.strip_prefix('<')?.split_once(">1 ")?;
        let mut fields = rest.splitn(6, ' ');
        let mut field = |bytes_max: usize| {
            let field = fields.next()?;
            let is_valid =
                (1..=bytes_max).contains(&field.len()) && field.bytes().all(|byte| byte.is_ascii_graphic());
            is_valid.then(|| field.to_owned())
        };
        let (timestamp, hostname, app_name) = (field(27)?, field(255)?, field(48)?);
        let (process_id, message_id) = (field(128)?, field(32)?);
        let rest = fields.next()?.strip_prefix('[')?;
        let (element, mut rest) = rest.split_at(rest.find([' ', ']'])?);
        let mut parameters = BTreeMap::new();
        while let Some(parameter) = rest.strip_prefix(' ') {
            let (name, value) = parameter.split_once("=\"")?;
            let mut decoded = String::new();
            let mut characters = value.char_indices();
            let end = loop {
                match characters.next()? {
                    (end, '"') => break end,
                    (_, '\\') => decoded.push(characters.next().filter(|(_, it)| "\"\\]".contains(*it))?.1),
                    (_, ']') => return None,
                    (_, other) => decoded.push(other),
                }
            };
            parameters.insert(name.to_owned(), decoded).is_none().then_some(())?;
            rest = &value[end + 1..];
        }
        (process_id == "-").then_some(())?;
        Some(Self {
            priority: priority.parse().ok().filter(|number| *number < 192)?,
            timestamp,
            hostname,
            app_name,
            message_id,
            element: element.to_owned(),
            parameters,
            text: rest.strip_prefix("] ")?.to_owned(),
            bytes: text.len(),
        })
    }
}

trait Stream: Read + Write {}

impl<S: Read + Write> Stream for S {}

impl State {
    fn serve(&self, socket: TcpStream, tls: Option<&Arc<ServerConfig>>) -> io::Result<()> {
        if tls.is_none() && begins_with_tls(&socket) {
            return Ok(()); // the program looks whether this port speaks TLS
        }
        let behavior = lock(&self.behaviors).pop_front().unwrap_or_default();
        self.connections.fetch_add(1, Ordering::SeqCst);
        let writing = socket.try_clone()?;
        let mut stream: Box<dyn Stream> = match tls {
            None => Box::new(socket),
            Some(config) => Box::new(tls::accept(socket, config)?),
        };
        match behavior {
            SyslogBehavior::NeverRead => stay_silent(),
            SyslogBehavior::Say(text) => {
                stream.write_all(text.as_bytes())?;
                stream.flush()?;
                stay_silent();
            }
            _ => {}
        }
        let mut reader = BufReader::new(stream);
        match self.transport {
            Transport::Counted => self.read_counted(&mut reader, behavior)?,
            Transport::Relp => {
                self.serve_relp(&mut reader, behavior)?;
                // A connection that is closed with unread messages is reset, and responses on their way are lost.
                writing.shutdown(Shutdown::Write)?;
                io::copy(&mut reader, &mut io::sink())?;
            }
        }
        if behavior == SyslogBehavior::NeverClose {
            stay_silent();
        }
        Ok(())
    }

    fn read_counted(&self, reader: &mut impl BufRead, behavior: SyslogBehavior) -> io::Result<()> {
        let messages_max = match behavior {
            SyslogBehavior::CloseAfter(count) => count,
            _ => usize::MAX,
        };
        for _ in 0..messages_max {
            while reader.fill_buf()?.first() == Some(&b'\n') {
                reader.consume(1); // rsyslog drops empty messages
            }
            let Some(length) = number(reader)? else { return Ok(()) };
            let mut message = vec![0; length];
            reader.read_exact(&mut message)?;
            self.keep(&message);
        }
        Ok(())
    }

    fn serve_relp(
        &self,
        reader: &mut BufReader<Box<dyn Stream>>,
        behavior: SyslogBehavior,
    ) -> io::Result<()> {
        let (mut expected, mut count) = (1, 0);
        let mut group = Vec::new();
        while let Some(transaction) = number(reader)? {
            let mut command = Vec::new();
            reader.read_until(b' ', &mut command)?;
            let mut length = Vec::new();
            while let [byte, ..] = reader.fill_buf()?
                && byte.is_ascii_digit()
            {
                length.push(*byte);
                reader.consume(1);
            }
            let length: usize = String::from_utf8_lossy(&length).parse().map_err(io::Error::other)?;
            let mut data = vec![0; if length == 0 { 0 } else { length + 1 }];
            reader.read_exact(&mut data)?;
            let mut end = [0];
            reader.read_exact(&mut end)?;
            if transaction != expected || end != *b"\n" || (transaction == 1) != (command == b"open ") {
                let command = String::from_utf8_lossy(&command);
                lock(&self.violations)
                    .push(format!("command {command}: {transaction} instead of {expected}"));
                return respond(reader, "0 serverclose 0\n");
            }
            expected += 1;
            match command.as_slice() {
                b"open " => respond(reader, &open_response(&data, behavior))?,
                b"syslog " => {
                    count += 1;
                    let message = &data[1..];
                    let is_rejected = match behavior {
                        SyslogBehavior::Reject(rejected) => count <= rejected,
                        SyslogBehavior::RejectText(text) => String::from_utf8_lossy(message).contains(text),
                        _ => false,
                    };
                    if is_rejected {
                        respond(reader, &format!("{transaction} rsp 11 500 no room\n"))?;
                        continue;
                    }
                    self.keep(message);
                    if behavior == SyslogBehavior::CloseInsteadOfLastAck(count) {
                        return Ok(());
                    }
                    group.push(format!("{transaction} rsp 6 200 OK\n"));
                    let group_size = if let SyslogBehavior::Reverse(size) = behavior { size } else { 1 };
                    if group.len() >= group_size {
                        group.reverse();
                        respond(reader, &group.concat())?;
                        group.clear();
                    }
                    if behavior == SyslogBehavior::CloseAfter(count) {
                        return respond(reader, "0 serverclose 0\n");
                    }
                }
                b"close " => {
                    self.closed_sessions.fetch_add(1, Ordering::SeqCst);
                    return respond(reader, &format!("{transaction} rsp 0\n0 serverclose 0\n"));
                }
                other => lock(&self.violations).push(format!("command {}", String::from_utf8_lossy(other))),
            }
        }
        Ok(())
    }

    fn keep(&self, message: &[u8]) {
        match SyslogMessage::parse(message) {
            Ok(message) => lock(&self.messages).push(message),
            Err(problem) => lock(&self.violations).push(problem),
        }
    }
}

fn open_response(data: &[u8], behavior: SyslogBehavior) -> String {
    let offers = String::from_utf8_lossy(data);
    let is_complete = offers.contains("relp_version=0") && offers.contains("commands=syslog");
    let (status, offers) = match behavior {
        SyslogBehavior::Open(status, offers) => (status, offers),
        _ if is_complete => ("200 OK", "relp_version=0\nrelp_software=librelp,1.11.0\ncommands=syslog"),
        _ => ("500 required command not supported by client", ""),
    };
    let data = format!("{status}\n{offers}");
    format!("1 rsp {} {data}\n", data.len())
}

fn respond(reader: &mut BufReader<Box<dyn Stream>>, response: &str) -> io::Result<()> {
    let stream = reader.get_mut();
    stream.write_all(response.as_bytes())?;
    stream.flush()
}

/// Reads a number and the space after it. `None` at the end of the stream.
fn number(reader: &mut impl BufRead) -> io::Result<Option<usize>> {
    let mut digits = Vec::new();
    if reader.read_until(b' ', &mut digits)? == 0 {
        return Ok(None);
    }
    let number = std::str::from_utf8(&digits).ok().and_then(|digits| digits.strip_suffix(' ')?.parse().ok());
    number.map(Some).ok_or_else(|| ErrorKind::InvalidData.into())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
