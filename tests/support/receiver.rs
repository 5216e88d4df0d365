//! A receiver over HTTP that answers as a test tells it, and writes down what it was sent.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use flate2::read::GzDecoder;
use rustls::{
    HandshakeKind, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    crypto::ring,
    server::WebPkiClientVerifier,
    sign::{CertifiedKey, SingleCertAndKey},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Received {
    pub method: String,
    pub target: String,
    pub headers: BTreeMap<String, String>,
    /// Decompressed.
    pub body: String,
    /// As it was on the way, in bytes.
    pub wire_bytes: usize,
    /// Which answer it got; `None` if none.
    pub status: Option<u16>,
}

/// How a receiver reacts to a request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Status, further headers, body.
    Answer(u16, Vec<(&'static str, String)>, String),
    /// The same, but the connection is cut in the middle of the body, which is announced as longer.
    CutBody(u16, String),
    /// The connection is cut.
    Cut,
    /// Nothing is ever said.
    Silence,
}

impl Reply {
    pub fn status(status: u16) -> Self {
        Self::Answer(status, Vec::new(), String::new())
    }

    pub fn json(status: u16, body: impl Into<String>) -> Self {
        Self::Answer(status, vec![("Content-Type", "application/json".to_owned())], body.into())
    }

    pub fn web_page(status: u16) -> Self {
        let headers = vec![("Content-Type", "text/html; charset=utf-8".to_owned())];
        Self::Answer(status, headers, "<!DOCTYPE html><p>Welcome</p>".to_owned())
    }

    pub fn retry_after(status: u16, value: impl Into<String>) -> Self {
        Self::Answer(status, vec![("Retry-After", value.into())], String::new())
    }
}

/// Returns the response to a request, given the number of requests before it.
type Manners = dyn Fn(&Received, usize) -> Reply + Send + Sync;

/// A receiver on a free port of the loopback, for as long as the tests run.
pub struct Receiver {
    port: u16,
    is_tls: bool,
    state: Arc<State>,
}

/// How large bodies are turned away: before they are read.
struct Curtness {
    body_bytes_max: usize,
    says_why: bool,
}

struct State {
    manners: Box<Manners>,
    curtness: Option<Curtness>,
    requests: Mutex<Vec<Received>>,
    connections: AtomicUsize,
}

impl Receiver {
    pub fn start(manners: impl Fn(&Received, usize) -> Reply + Send + Sync + 'static) -> Self {
        Self::listen(None, None, manners)
    }

    /// Takes everything.
    pub fn kind() -> Self {
        Self::start(|_, _| Reply::status(200))
    }

    /// Accepts bodies of up to this number of bytes, and closes on what announces more: with a 413 before, or without a word.
    pub fn curt(body_bytes_max: usize, says_why: bool) -> Self {
        let reply = |_: &Received, _| Reply::status(200);
        Self::listen(None, Some(Curtness { body_bytes_max, says_why }), reply)
    }

    /// The same under TLS, with the certificate `here` of the tests; a client needs one that the same root has signed.
    pub fn kind_with_tls() -> Self {
        Self::listen(Some(tls("here.pem", true)), None, |_, _| Reply::status(200))
    }

    /// Accepts everything under TLS with one of the certificates of the tests; a client needs none.
    pub fn certified(name: &str) -> Self {
        Self::listen(Some(tls(name, false)), None, |_, _| Reply::status(200))
    }

    /// The same, and closes the connection after each response. It kills connections that resume a session, as Fluent
    /// Bit does.
    pub fn closing_with_tls() -> Self {
        let close = vec![("Connection", "close".to_owned())];
        let reply = Reply::Answer(200, close, String::new());
        Self::listen(Some(tls("here.pem", false)), None, move |_, _| reply.clone())
    }

    fn listen(
        tls: Option<Arc<ServerConfig>>,
        curtness: Option<Curtness>,
        manners: impl Fn(&Received, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port on the loopback");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::new(State {
            manners: Box::new(manners),
            curtness,
            requests: Mutex::default(),
            connections: AtomicUsize::new(0),
        });
        let (shared, is_tls) = (Arc::clone(&state), tls.is_some());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (state, tls) = (Arc::clone(&shared), tls.clone());
                state.connections.fetch_add(1, Ordering::SeqCst);
                // What goes wrong here is the client's to notice.
                thread::spawn(move || match tls {
                    None => serve(stream, &state),
                    Some(tls) => {
                        let mut session = ServerConnection::new(tls).map_err(io::Error::other)?;
                        let mut stream = stream;
                        while session.is_handshaking() {
                            session.complete_io(&mut stream)?;
                        }
                        if session.handshake_kind() == Some(HandshakeKind::Resumed) {
                            return Err(io::Error::other("session id context uninitialized"));
                        }
                        serve(StreamOwned::new(session, stream), &state)
                    }
                });
            }
        });
        Self { port, is_tls, state }
    }

    /// Its URL with this path.
    pub fn url(&self, path: &str) -> String {
        let scheme = if self.is_tls { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}{path}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// What came so far, in the order of its arrival.
    pub fn requests(&self) -> Vec<Received> {
        lock(&self.state.requests).clone()
    }

    /// What was answered with success.
    pub fn taken(&self) -> Vec<Received> {
        let mut requests = self.requests();
        requests.retain(|request| request.status.is_some_and(|status| (200..300).contains(&status)));
        requests
    }

    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }
}

/// One of the files in `tests/certificates/tls`.
pub fn certificate(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/certificates/tls").join(name)
}

fn tls(name: &str, demands_certificate: bool) -> Arc<ServerConfig> {
    let read = |name: &str| -> Vec<CertificateDer<'static>> {
        let certificates = CertificateDer::pem_file_iter(certificate(name)).expect("a file of the tests");
        certificates.map(|der| der.expect("a certificate")).collect()
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(read("private_root.pem"));
    let provider = Arc::new(ring::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let key = PrivateKeyDer::from_pem_file(certificate("server.key")).expect("a key");
    let config =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("TLS");
    let config = if demands_certificate {
        config.with_client_cert_verifier(clients.build().expect("a root"))
    } else {
        config.with_no_client_auth()
    };
    let key = ring::sign::any_supported_type(&key).expect("a key that ring knows");
    // Without a look at the certificate: rustls would refuse one of version 1.
    let identity = SingleCertAndKey::from(CertifiedKey::new(read(name), key));
    Arc::new(config.with_cert_resolver(Arc::new(identity)))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers one request after the other.
fn serve(stream: impl Read + Write, state: &State) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let Some(received) = read(&mut stream, state.curtness.as_ref())? else { return Ok(()) };
        let place = {
            let mut requests = lock(&state.requests);
            requests.push(received.clone());
            requests.len() - 1
        };
        match (state.manners)(&received, place) {
            Reply::Cut => return Ok(()),
            Reply::CutBody(status, body) => {
                lock(&state.requests)[place].status = Some(status);
                let head =
                    format!("HTTP/1.1 {status} Said\r\nContent-Length: {}\r\n\r\n{body}", body.len() + 100);
                stream.get_mut().write_all(head.as_bytes())?;
                stream.get_mut().flush()?;
                return Ok(());
            }
            Reply::Silence => loop {
                thread::sleep(Duration::from_secs(3600));
            },
            Reply::Answer(status, headers, body) => {
                lock(&state.requests)[place].status = Some(status);
                let mut head = format!("HTTP/1.1 {status} Said\r\n");
                for (name, value) in headers {
                    head += &[name, ": ", &value, "\r\n"].concat();
                }
                let body = if received.method == "HEAD" { String::new() } else { body };
                let length =
                    if status == 204 { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
                stream.get_mut().write_all(format!("{head}{length}\r\n{body}").as_bytes())?;
                stream.get_mut().flush()?;
            }
        }
    }
}

/// The next request; `None` when the client has closed, or was turned away.
fn read(
    stream: &mut BufReader<impl Read + Write>,
    curtness: Option<&Curtness>,
) -> io::Result<Option<Received>> {
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
    if let Some(Curtness { says_why, .. }) = curtness.filter(|curtness| length > curtness.body_bytes_max) {
        if *says_why {
            stream
                .get_mut()
                .write_all(b"HTTP/1.1 413 Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
        }
        return Ok(None);
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes)?;
    let mut body = String::new();
    if headers.get("content-encoding").is_some_and(|encoding| encoding == "gzip") {
        GzDecoder::new(bytes.as_slice()).read_to_string(&mut body)?;
    } else {
        body = String::from_utf8(bytes).map_err(io::Error::other)?;
    }
    let status = None;
    Ok(Some(Received { method, target, headers, body, wire_bytes: length, status }))
}

/// A port on which nothing listens.
pub fn unused_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port on the loopback");
    listener.local_addr().expect("an address").port()
}
