//! Sockets and HTTP/1.1. Each connection has a thread, which ends with the server.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, atomic::Ordering},
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::net::sockopt::set_socket_linger;
use rustls::ServerConfig;

use crate::{
    answer::{Answer, Delivery},
    request::Request,
    stream::{Identity, Stream},
    sync::lock,
    time::http_date,
    world::World,
};

/// The maximum length of the head of a request.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// The maximum length of the body of a request.
const BODY_BYTES_MAX: usize = 1024 * 1024;
/// The length of a chunk of an answer.
const CHUNK_BYTES: usize = 16 * 1024;
/// The time in which the client receives what was sent before a reset, which would discard it.
const RESET_PAUSE: Duration = Duration::from_millis(20);
/// The pause after a connection that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
/// The stack of a connection's thread, which needs little.
const STACK_BYTES: usize = 512 * 1024;

/// A listening socket and its threads. Dropping it ends all of them.
pub(crate) struct Server {
    address: SocketAddr,
    world: Arc<World>,
    connections: Arc<Connections>,
    listening: Option<JoinHandle<()>>,
}

/// The open connections, so that they can be shut down.
#[derive(Default)]
struct Connections {
    streams: Mutex<HashMap<usize, TcpStream>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Server {
    /// Listens on a free port of this address, under TLS if there is an identity.
    pub(crate) fn start(address: IpAddr, identity: Option<&Identity>) -> io::Result<Self> {
        let listener = TcpListener::bind((address, 0))?;
        let address = listener.local_addr()?;
        let url = match identity {
            None => format!("http://{address}"),
            Some(identity) => format!("https://{}:{}", identity.host, address.port()),
        };
        let tls = identity.map(Identity::tls);
        let world = Arc::new(World::new(url));
        let connections = Arc::new(Connections::default());
        let listening = {
            let (world, connections) = (Arc::clone(&world), Arc::clone(&connections));
            thread::Builder::new()
                .name("simulator".into())
                .spawn(move || listen(&listener, tls.as_ref(), &world, &connections))?
        };
        Ok(Self { address, world, connections, listening: Some(listening) })
    }

    pub(crate) fn world(&self) -> &Arc<World> {
        &self.world
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.world.stop.stop();
        drop(TcpStream::connect(self.address)); // wakes the listening thread
        if let Some(listening) = self.listening.take() {
            drop(listening.join());
        }
        for stream in lock(&self.connections.streams).values() {
            drop(stream.shutdown(Shutdown::Both));
        }
        let threads = std::mem::take(&mut *lock(&self.connections.threads));
        for thread in threads {
            drop(thread.join());
        }
    }
}

fn listen(
    listener: &TcpListener,
    tls: Option<&Arc<ServerConfig>>,
    world: &Arc<World>,
    connections: &Arc<Connections>,
) {
    for stream in listener.incoming() {
        if world.stop.is_stopped() {
            return;
        }
        let Ok((stream, twin)) = stream.and_then(|stream| stream.try_clone().map(|twin| (stream, twin)))
        else {
            // The client has closed the connection already, or there is no free descriptor.
            drop(world.stop.sleep(Some(ACCEPT_PAUSE)));
            continue;
        };
        let number = world.connections.fetch_add(1, Ordering::SeqCst) + 1;
        lock(&connections.streams).insert(number, twin);
        let tls = tls.cloned();
        let served = {
            let (world, connections) = (Arc::clone(world), Arc::clone(connections));
            thread::Builder::new().name(format!("connection {number}")).stack_size(STACK_BYTES).spawn(
                move || {
                    // An error means that the client has ended the connection, which it may do.
                    drop(serve(stream, tls.as_ref(), number, &world));
                    lock(&connections.streams).remove(&number);
                },
            )
        };
        let mut threads = lock(&connections.threads);
        threads.retain(|thread| !thread.is_finished());
        match served {
            Ok(thread) => threads.push(thread),
            Err(_) => drop(lock(&connections.streams).remove(&number)),
        }
    }
}

/// Answers the requests of a connection until either side closes it.
fn serve(socket: TcpStream, tls: Option<&Arc<ServerConfig>>, number: usize, world: &World) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut wire = Wire { stream: Stream::new(socket, tls), received: Vec::new() };
    while let Some(message) = wire.read_message()? {
        let Message { method, target, headers, body } = match message {
            Ok(message) => message,
            Err(Unreadable { text, status }) => {
                world.note_unreadable(&text);
                wire.send(world, &Answer::status(status).with_header("Connection", "close"))?;
                return Ok(());
            }
        };
        let request = Request::new(number, &method, &target, headers, body);
        let is_last =
            request.header("Connection").is_some_and(|connection| connection.eq_ignore_ascii_case("close"));
        let answer = {
            let _in_flight = InFlight::new(world);
            let answer = world.answer(request);
            if !answer.delay.is_zero() {
                world.stop.sleep(Some(answer.delay))?;
            }
            answer
        };
        if wire.send(world, &answer)? == Next::Close || is_last || world.stop.is_stopped() {
            return Ok(());
        }
    }
    Ok(())
}

/// Counts a request from its arrival to the beginning of its answer.
struct InFlight<'a>(&'a World);

impl<'a> InFlight<'a> {
    fn new(world: &'a World) -> Self {
        let now = world.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        world.in_flight_max.fetch_max(now, Ordering::SeqCst);
        Self(world)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The parts of a request.
struct Message {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

/// Why a request could not be parsed, and the status of the answer.
struct Unreadable {
    text: String,
    status: u16,
}

#[derive(PartialEq, Eq)]
enum Next {
    Request,
    Close,
}

/// A connection, and the bytes of the next request that were received.
struct Wire {
    stream: Stream,
    received: Vec<u8>,
}

impl Wire {
    /// Reads the next request; `None` if the client has closed the connection.
    fn read_message(&mut self) -> io::Result<Option<Result<Message, Unreadable>>> {
        let unreadable = |text: &str, status| Ok(Some(Err(Unreadable { text: text.to_owned(), status })));
        let head_end = loop {
            if let Some(at) = self.received.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break at;
            }
            if self.received.len() > HEAD_BYTES_MAX {
                return unreadable("the head is too long", 431);
            }
            if !self.receive()? {
                return Ok(None);
            }
        };
        let head = String::from_utf8_lossy(&self.received[..head_end]).into_owned();
        self.received.drain(..head_end + 4);
        let Some(mut message) = read_head(&head) else { return unreadable(&head, 400) };
        let header = |name: &str| {
            let found = message.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.as_str())
        };
        if header("Transfer-Encoding").is_some() {
            return unreadable("the body is chunked", 411);
        }
        let length = match header("Content-Length").map(str::parse::<usize>) {
            None => 0,
            Some(Ok(length)) if length <= BODY_BYTES_MAX => length,
            Some(_) => return unreadable("the Content-Length is invalid or too large", 413),
        };
        while self.received.len() < length {
            if !self.receive()? {
                return Ok(None);
            }
        }
        message.body = self.received.drain(..length).collect();
        Ok(Some(Ok(message)))
    }

    /// Reads what has arrived. Returns `false` if the client has closed its side.
    fn receive(&mut self) -> io::Result<bool> {
        let mut bytes = [0; 4096];
        let count = self.stream.read(&mut bytes)?;
        self.received.extend_from_slice(&bytes[..count]);
        Ok(count > 0)
    }

    /// Sends an answer as its [`Delivery`] defines.
    fn send(&mut self, world: &World, answer: &Answer) -> io::Result<Next> {
        let mut bytes = head(world, answer);
        let head_length = bytes.len();
        push_body(&mut bytes, answer);
        let until = |count: usize| head_length.saturating_add(count).min(bytes.len());
        match answer.delivery {
            Delivery::Unanswered => return Ok(Next::Close),
            Delivery::ResetUnanswered => {
                self.reset_on_close()?;
                return Ok(Next::Close);
            }
            Delivery::CutAfter(count) => {
                self.stream.write_all(&bytes[..until(count)])?;
                return Ok(Next::Close);
            }
            Delivery::ResetAfter(count) => {
                self.stream.write_all(&bytes[..until(count)])?;
                world.stop.sleep(Some(RESET_PAUSE))?;
                self.reset_on_close()?;
                return Ok(Next::Close);
            }
            Delivery::Whole => self.finish(bytes, 0, answer)?,
            Delivery::Stalled(time) => {
                world.stop.sleep(time)?;
                self.finish(bytes, 0, answer)?;
            }
            Delivery::StalledAfter(count, time) => {
                let pause = until(count);
                self.stream.write_all(&bytes[..pause])?;
                world.stop.sleep(time)?;
                self.finish(bytes, pause, answer)?;
            }
            Delivery::Dripping(size, pause) => {
                let size = size.max(1);
                let mut sent = 0;
                while bytes.len() - sent > size {
                    self.stream.write_all(&bytes[sent..sent + size])?;
                    sent += size;
                    world.stop.sleep(Some(pause))?;
                }
                self.finish(bytes, sent, answer)?;
            }
        }
        Ok(if answer.delivery == Delivery::Whole { Next::Request } else { Next::Close })
    }

    /// Sends the rest of an answer. The blob counts as served just before the client can have it.
    fn finish(&mut self, mut bytes: Vec<u8>, sent: usize, answer: &Answer) -> io::Result<()> {
        if answer.chunked {
            bytes.extend_from_slice(b"0\r\n\r\n");
        }
        if let Some(blob) = &answer.serves {
            blob.served.fetch_add(1, Ordering::SeqCst);
        }
        let written = self.stream.write_all(&bytes[sent..]);
        if let (Err(_), Some(blob)) = (&written, &answer.serves) {
            blob.served.fetch_sub(1, Ordering::SeqCst);
        }
        written
    }

    /// Lets the close of the connection send a RST and discard what the client has not received.
    fn reset_on_close(&self) -> io::Result<()> {
        Ok(set_socket_linger(self.stream.socket(), Some(Duration::ZERO))?)
    }
}

/// Parses a request line and headers.
fn read_head(head: &str) -> Option<Message> {
    let mut lines = head.split("\r\n");
    let mut words = lines.next()?.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    if version != "HTTP/1.1" || words.next().is_some() || !target.starts_with('/') {
        return None;
    }
    let header = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_owned(), value.trim().to_owned()))
    };
    Some(Message {
        method: method.to_owned(),
        target: target.to_owned(),
        headers: lines.map(header).collect::<Option<_>>()?,
        body: Vec::new(),
    })
}

/// Returns the status line and the headers. Every answer has a `Date`, and a `Content-Length` unless it is chunked.
fn head(world: &World, answer: &Answer) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {} {}\r\n", answer.status, reason(answer.status));
    let mut add = |name: &str, value: &str| {
        for part in [name, ": ", value, "\r\n"] {
            head.push_str(part);
        }
    };
    if answer.header("Date").is_none() {
        add("Date", &http_date(world.clock.now()));
    }
    for (name, value) in &answer.headers {
        add(name, value);
    }
    if answer.chunked {
        add("Transfer-Encoding", "chunked");
    } else {
        add("Content-Length", &answer.body.len().to_string());
    }
    head.push_str("\r\n");
    let mut bytes = head.into_bytes();
    bytes.reserve(answer.body.len() + answer.body.len() / 1024 + 16);
    bytes
}

/// Appends the body, without the last chunk of a chunked one.
fn push_body(bytes: &mut Vec<u8>, answer: &Answer) {
    if answer.chunked {
        for chunk in answer.body.chunks(CHUNK_BYTES) {
            bytes.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
        }
    } else {
        bytes.extend_from_slice(&answer.body);
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        302 => "Found",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        411 => "Length Required",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Unknown",
    }
}
