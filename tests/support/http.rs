//! An HTTP receiver that answers as a test defines, and records its requests.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Read, Write},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use flate2::read::GzDecoder;
use rustls::ServerConfig;

use super::{
    listener::{Listener, stay_silent},
    tls::{self, ClientCertificate},
};

/// A request as it was received.
#[derive(Clone, Debug)]
pub struct ReceivedRequest {
    pub method: String,
    pub target: String,
    /// The values by name, in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body, decompressed.
    pub bytes: Vec<u8>,
    /// The same as text; empty if it is not UTF-8.
    pub body: String,
    /// The length of the body as sent, in bytes.
    pub wire_bytes: usize,
    /// The status of the response; `None` before there is one.
    pub status: Option<u16>,
}

/// What the receiver does with a request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Sends a response: status, further headers, body.
    Response(u16, Vec<(&'static str, String)>, String),
    /// Sends a status and a body, and closes the connection before the announced end of the body.
    CutBody(u16, String),
    /// Closes the connection without a response.
    Close,
    /// Sends nothing, and keeps the connection open.
    Silence,
}

impl Reply {
    pub fn status(status: u16) -> Self {
        Self::Response(status, Vec::new(), String::new())
    }

    pub fn json(status: u16, body: impl Into<String>) -> Self {
        Self::Response(status, vec![("Content-Type", "application/json".to_owned())], body.into())
    }

    pub fn web_page(status: u16) -> Self {
        let headers = vec![("Content-Type", "text/html; charset=utf-8".to_owned())];
        Self::Response(status, headers, "<!DOCTYPE html><p>Welcome</p>".to_owned())
    }

    pub fn retry_after(status: u16, value: impl Into<String>) -> Self {
        Self::Response(status, vec![("Retry-After", value.into())], String::new())
    }
}

/// Decides what happens to a request, given the number of requests before it.
type ReplyTo = dyn Fn(&ReceivedRequest, usize) -> Reply + Send + Sync;

/// A receiver on a free port of 127.0.0.1.
pub struct HttpReceiver {
    listener: Listener,
    is_tls: bool,
    state: Arc<State>,
}

/// A limit that a receiver checks before it reads a body.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimit {
    pub bytes_max: usize,
    /// Whether it answers 413 before it closes the connection.
    pub sends_413: bool,
}

struct State {
    reply_to: Box<ReplyTo>,
    body_limit: Option<BodyLimit>,
    requests: Mutex<Vec<ReceivedRequest>>,
    connections: AtomicUsize,
}

impl HttpReceiver {
    /// Starts a receiver that decides what to do with each request.
    pub fn start(reply_to: impl Fn(&ReceivedRequest, usize) -> Reply + Send + Sync + 'static) -> Self {
        Self::listen(None, None, reply_to)
    }

    /// Starts a receiver that accepts everything.
    pub fn accepting() -> Self {
        Self::start(|_, _| Reply::status(200))
    }

    /// Starts a receiver that accepts bodies up to a limit, and closes the connection on larger ones.
    pub fn with_body_limit(limit: BodyLimit) -> Self {
        Self::listen(None, Some(limit), |_, _| Reply::status(200))
    }

    /// Starts a receiver under TLS that accepts everything.
    pub fn with_tls(certificate: &str, client_certificate: ClientCertificate) -> Self {
        let config = tls::server_config(certificate, client_certificate);
        Self::listen(Some(config), None, |_, _| Reply::status(200))
    }

    /// Starts a receiver under TLS that accepts everything and closes the connection after each response.
    pub fn with_tls_closing_connections() -> Self {
        let close = vec![("Connection", "close".to_owned())];
        let reply = Reply::Response(200, close, String::new());
        let config = tls::server_config("here.pem", ClientCertificate::NotRequired);
        Self::listen(Some(config), None, move |_, _| reply.clone())
    }

    fn listen(
        tls: Option<Arc<ServerConfig>>,
        body_limit: Option<BodyLimit>,
        reply_to: impl Fn(&ReceivedRequest, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let state = Arc::new(State {
            reply_to: Box::new(reply_to),
            body_limit,
            requests: Mutex::default(),
            connections: AtomicUsize::new(0),
        });
        let (served, is_tls) = (Arc::clone(&state), tls.is_some());
        let listener = Listener::start(move |socket| {
            served.connections.fetch_add(1, Ordering::SeqCst);
            match &tls {
                None => serve(socket, &served),
                Some(config) => serve(tls::accept(socket, config)?, &served),
            }
        });
        Self { listener, is_tls, state }
    }

    /// Its URL with this path.
    pub fn url(&self, path: &str) -> String {
        let scheme = if self.is_tls { "https" } else { "http" };
        format!("{scheme}://{}{path}", self.listener.address())
    }

    pub fn port(&self) -> u16 {
        self.listener.port()
    }

    /// The requests so far, in the order of their arrival.
    pub fn requests(&self) -> Vec<ReceivedRequest> {
        lock(&self.state.requests).clone()
    }

    /// The requests that were answered with a status of success.
    pub fn accepted(&self) -> Vec<ReceivedRequest> {
        let mut requests = self.requests();
        requests.retain(|request| request.status.is_some_and(|status| (200..300).contains(&status)));
        requests
    }

    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers the requests of a connection.
fn serve(stream: impl Read + Write, state: &State) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read_request(&mut stream, state.body_limit)? {
        let place = {
            let mut requests = lock(&state.requests);
            requests.push(request.clone());
            requests.len() - 1
        };
        let note_status = |status| lock(&state.requests)[place].status = Some(status);
        match (state.reply_to)(&request, place) {
            Reply::Close => break,
            Reply::CutBody(status, body) => {
                note_status(status);
                let length = body.len() + 100;
                let head = format!("HTTP/1.1 {status} Reason\r\nContent-Length: {length}\r\n\r\n");
                stream.get_mut().write_all((head + &body).as_bytes())?;
                stream.get_mut().flush()?;
                break;
            }
            Reply::Silence => {
                stay_silent();
                break;
            }
            Reply::Response(status, headers, body) => {
                note_status(status);
                let mut head = format!("HTTP/1.1 {status} Reason\r\n");
                for (name, value) in headers {
                    head += &[name, ": ", &value, "\r\n"].concat();
                }
                let body = if request.method == "HEAD" { String::new() } else { body };
                let length =
                    if status == 204 { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
                stream.get_mut().write_all(format!("{head}{length}\r\n{body}").as_bytes())?;
                stream.get_mut().flush()?;
            }
        }
    }
    Ok(())
}

/// Reads the next request; `None` if the client has closed the connection, or if the body is over the limit.
fn read_request(
    stream: &mut BufReader<impl Read + Write>,
    limit: Option<BodyLimit>,
) -> io::Result<Option<ReceivedRequest>> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").map_or(0, |length| length.parse().expect("a length"));
    if let Some(limit) = limit.filter(|limit| length > limit.bytes_max) {
        if limit.sends_413 {
            let response =
                b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            stream.get_mut().write_all(response)?;
        }
        return Ok(None);
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes)?;
    if headers.get("content-encoding").is_some_and(|encoding| encoding == "gzip") {
        let mut decompressed = Vec::new();
        GzDecoder::new(bytes.as_slice()).read_to_end(&mut decompressed)?;
        bytes = decompressed;
    }
    let body = String::from_utf8(bytes.clone()).unwrap_or_default();
    Ok(Some(ReceivedRequest { method, target, headers, bytes, body, wire_bytes: length, status: None }))
}
