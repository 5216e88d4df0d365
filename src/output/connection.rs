//! A connection to a receiver: TCP, or TLS over it.
//!
//! Every wait ends: when the caller says, and when the pass has to end ([`CancelToken`]).

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs},
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto::ring};
use rustls_pki_types::ServerName;

use super::{CancelToken, Cancelled, OutputError};
use crate::{
    config::Tls,
    limits::{CANCEL_POLL_INTERVAL, CONNECT_TIMEOUT},
    network::tls::{self, TlsProblem, TlsSettings},
    redact::one_line,
};

/// The longest silence of a receiver during the TLS handshake. A receiver that does not speak TLS may send nothing at
/// all.
const TLS_HANDSHAKE_WAIT: Duration = Duration::from_secs(5);

/// The wait for the answer to a TLS handshake with a receiver that is not expected to speak TLS.
pub const TLS_PROBE_WAIT: Duration = Duration::from_secs(2);

/// The longest wait for one of several addresses of a host before the next one is tried.
const ADDRESS_WAIT_MAX: Duration = Duration::from_secs(5);

const _: () = assert!(TLS_HANDSHAKE_WAIT.as_secs() < 10);

/// The address of a receiver and the settings of its connections.
#[derive(Debug)]
pub struct Endpoint {
    host: String,
    port: u16,
    tls: Option<Tls>,
    /// Created from `tls` when it is first needed.
    client: Option<Arc<ClientConfig>>,
    /// The position of the first of the host's addresses to be tried: after one that accepted a connection and sent nothing.
    first_address: usize,
    /// Whether the receiver was already asked whether it expects TLS.
    is_probed: bool,
    /// The key of the output that turns TLS on, for a hint.
    tls_key: &'static str,
    cancel: CancelToken,
}

/// An error returned when a receiver does not accept records.
#[derive(Debug)]
pub enum ReceiverError {
    /// Another attempt can succeed.
    Transient(OutputError),
    /// Every attempt fails until the configuration here or at the receiver is changed, or the pass has to end.
    Permanent(OutputError),
}

impl From<ReceiverError> for OutputError {
    fn from(error: ReceiverError) -> Self {
        match error {
            ReceiverError::Transient(error) | ReceiverError::Permanent(error) => error,
        }
    }
}

/// An open connection to a receiver. Dropping it closes it; TLS ends with the `close_notify` that receivers expect.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    cancel: CancelToken,
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Endpoint {
    /// Connects to nothing yet. Stops waiting for the receiver when `cancel` says so.
    pub fn new(host: &str, port: u16, tls: Option<&Tls>, cancel: &CancelToken) -> Self {
        Self {
            host: host.to_owned(),
            port,
            tls: tls.cloned(),
            client: None,
            first_address: 0,
            is_probed: false,
            tls_key: "tls",
            cancel: cancel.clone(),
        }
    }

    /// Names the key of the output that turns TLS on, if that is not `tls`.
    #[must_use]
    pub fn with_tls_key(self, tls_key: &'static str) -> Self {
        Self { tls_key, ..self }
    }

    /// Returns `host:port`, the name in messages.
    pub fn name(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    /// Returns whether connections use TLS.
    pub fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Connects, within [`CONNECT_TIMEOUT`] for TCP and `TLS_HANDSHAKE_WAIT` for TLS.
    pub fn connect(&mut self) -> Result<Connection, ReceiverError> {
        let client = self.client()?;
        let socket = self.dial().map_err(|error| self.failure(&error))?;
        let stream = match client {
            None => Stream::Plain(socket),
            Some(client) => {
                let session = ClientConnection::new(client, self.server_name()?);
                let session = session.map_err(|error| self.failure(&io::Error::other(error)))?;
                Stream::Tls(Box::new(StreamOwned::new(session, socket)))
            }
        };
        let mut connection = Connection { stream, cancel: self.cancel.clone() };
        connection.shake_hands().map_err(|error| self.handshake_failure(&error))?;
        Ok(connection)
    }

    fn dial(&self) -> io::Result<TcpStream> {
        let (host, port, first) = (self.host.clone(), self.port, self.first_address);
        self.cancel
            .attempt(move || dial(&host, port, first))
            .unwrap_or_else(|cancelled| Err(cancelled.into()))
    }

    /// Starts the next connection with another address of the host, because this one sent nothing.
    pub fn avoid_address(&mut self) {
        self.first_address = self.first_address.wrapping_add(1);
    }

    /// Returns an error if a receiver that closed a connection and sent nothing expects TLS, which is not configured. Asks
    /// the receiver only once.
    pub fn missing_tls(&mut self) -> Option<ReceiverError> {
        if self.tls.is_some() || std::mem::replace(&mut self.is_probed, true) {
            return None;
        }
        let (host, port) = (self.host.clone(), self.port);
        let answers = self.cancel.attempt(move || answers_tls(&host, port));
        answers.is_ok_and(|answers| answers.unwrap_or(false)).then(|| {
            let key = self.tls_key;
            ReceiverError::Permanent(self.error(
                format!("it speaks TLS on this port, and {key} is not configured"),
                format!(
                    "add {key} to the output, or give the port on which the receiver accepts records without TLS"
                ),
            ))
        })
    }

    /// Returns an error with the name of this receiver.
    pub fn error(&self, problem: impl Into<String>, hint: impl Into<String>) -> OutputError {
        OutputError::Receiver { receiver: self.name(), problem: problem.into(), hint: hint.into() }
    }

    /// Returns the error and the hint for an error on a connection to this receiver.
    pub fn failure(&self, error: &io::Error) -> ReceiverError {
        if Cancelled::is_cause_of(error) {
            let error = self.error(error.to_string(), "the next pass continues from here");
            return ReceiverError::Permanent(error);
        }
        if let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return self.tls_failure(tls::problem(error, self.expected_name()));
        }
        let text = one_line(&error.to_string());
        let (problem, hint) = match error.kind() {
            _ if text.starts_with("failed to lookup address") => {
                ("the name cannot be resolved".to_owned(), "check address, and DNS")
            }
            io::ErrorKind::ConnectionRefused => {
                ("nothing listens there".to_owned(), "start the receiver, or check address and port")
            }
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => (
                "no answer in time".to_owned(),
                "check that the receiver runs and accepts records, and the firewalls in between",
            ),
            _ if is_closed(error) => {
                ("it closed the connection".to_owned(), "check the receiver's log, and whether it restarts")
            }
            _ => (text, "check address and port, and the network on the way"),
        };
        ReceiverError::Transient(self.error(problem, hint))
    }

    /// Returns the error for one during the TLS handshake: a receiver without TLS sends nothing, or closes the connection.
    fn handshake_failure(&mut self, error: &io::Error) -> ReceiverError {
        let problem = match error.kind() {
            io::ErrorKind::TimedOut => {
                self.avoid_address();
                format!("no answer to the TLS handshake within {} s", TLS_HANDSHAKE_WAIT.as_secs())
            }
            _ if is_closed(error) => "it closed the connection during the TLS handshake".to_owned(),
            _ => return self.failure(error),
        };
        ReceiverError::Transient(
            self.error(problem, "check that the receiver speaks TLS on this port, and its log"),
        )
    }

    fn tls_failure(&self, problem: TlsProblem) -> ReceiverError {
        let TlsProblem { problem, hint, is_transient } = problem;
        let error = self.error(problem, hint);
        if is_transient { ReceiverError::Transient(error) } else { ReceiverError::Permanent(error) }
    }

    /// Returns the name that the certificate of the receiver must have.
    fn expected_name(&self) -> &str {
        self.tls.as_ref().and_then(|tls| tls.server_name.as_deref()).unwrap_or(&self.host)
    }

    fn server_name(&self) -> Result<ServerName<'static>, ReceiverError> {
        let name = self.expected_name();
        ServerName::try_from(name.to_owned()).map_err(|_| {
            ReceiverError::Permanent(self.error(
                format!("{} is not a name that a certificate can have", one_line(name)),
                "give the certificate's name in tls.server_name",
            ))
        })
    }

    /// Reads the files of certificates and keys, as the first connection does.
    pub fn read_files(&mut self) -> Result<(), ReceiverError> {
        if self.client()?.is_some() {
            self.server_name()?;
        }
        Ok(())
    }

    fn client(&mut self) -> Result<Option<Arc<ClientConfig>>, ReceiverError> {
        if let (None, Some(tls)) = (&self.client, &self.tls) {
            let settings = TlsSettings { shared_roots: None, tls: tls.clone() };
            let made = tls::client_config(&settings).map_err(|problem| self.tls_failure(problem))?;
            self.client = Some(Arc::new(made));
        }
        Ok(self.client.clone())
    }
}

/// Resolves the name and connects to the first of its addresses that accepts.
fn dial(host: &str, port: u16, first: usize) -> io::Result<TcpStream> {
    let mut addresses: Vec<_> = (host, port).to_socket_addrs()?.collect();
    if !addresses.is_empty() {
        let places = addresses.len();
        addresses.rotate_left(first % places);
    }
    let socket = first_that_answers(&addresses, TcpStream::connect_timeout)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(CANCEL_POLL_INTERVAL))?;
    socket.set_write_timeout(Some(CANCEL_POLL_INTERVAL))?;
    Ok(socket)
}

/// Tries one address after the other. The last one gets all the time that is left.
fn first_that_answers<Socket>(
    addresses: &[SocketAddr],
    connect: impl Fn(&SocketAddr, Duration) -> io::Result<Socket>,
) -> io::Result<Socket> {
    let until = Instant::now() + CONNECT_TIMEOUT;
    let mut failure = io::Error::other("the name has no address");
    for (place, address) in addresses.iter().enumerate() {
        let left = until.saturating_duration_since(Instant::now()).max(CANCEL_POLL_INTERVAL);
        let is_last = place + 1 == addresses.len();
        match connect(address, if is_last { left } else { left.min(ADDRESS_WAIT_MAX) }) {
            Ok(socket) => return Ok(socket),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Returns whether the response to a TLS handshake begins like TLS: with a handshake or an alert of version 3.
fn answers_tls(host: &str, port: u16) -> io::Result<bool> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let mut session = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    let mut socket = dial(host, port, 0)?;
    session.write_tls(&mut socket)?;
    socket.set_read_timeout(Some(TLS_PROBE_WAIT))?;
    let mut head = [0; 2];
    socket.read_exact(&mut head)?;
    Ok(matches!(head, [0x15 | 0x16, 0x03]))
}

impl Connection {
    /// Sends all bytes, and returns when the system has accepted them. The receiver may not have them.
    ///
    /// `silence_max` is the maximum time without any progress; [`io::ErrorKind::TimedOut`] after that.
    pub fn send(&mut self, bytes: &[u8], silence_max: Duration) -> io::Result<()> {
        let mut rest = bytes;
        let mut until = Instant::now() + silence_max;
        while !rest.is_empty() {
            self.cancel.check()?;
            match self.stream.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    rest = &rest[count..];
                    until = Instant::now() + silence_max;
                }
                Err(error) => self.go_on_after(error, until)?,
            }
        }
        self.flush(until)
    }

    fn flush(&mut self, until: Instant) -> io::Result<()> {
        loop {
            match self.stream.flush() {
                Ok(()) => return Ok(()),
                Err(error) => self.go_on_after(error, until)?,
            }
        }
    }

    /// Waits for bytes from the receiver, and returns the number of bytes in `into`, at least one.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::UnexpectedEof`] if the receiver closes the connection, [`io::ErrorKind::TimedOut`] if it sends
    /// nothing for this time.
    pub fn receive(&mut self, into: &mut [u8], silence_max: Duration) -> io::Result<usize> {
        let until = Instant::now() + silence_max;
        loop {
            match self.stream.read(into) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => return Ok(count),
                Err(error) => self.go_on_after(error, until)?,
            }
        }
    }

    /// Reads what the receiver has already sent, and returns the number of bytes in `into`. Does not wait.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::UnexpectedEof`] if the receiver has closed the connection.
    pub fn receive_available(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.stream.socket().set_nonblocking(true)?;
        let received = self.stream.read(into);
        self.stream.socket().set_nonblocking(false)?;
        match received {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if is_pause(&error) => Ok(0),
            received => received,
        }
    }

    /// Returns an error if the receiver has closed or reset the connection. Does not wait. For receivers that send nothing:
    /// received bytes are dropped.
    pub fn ensure_open(&mut self) -> io::Result<()> {
        self.stream.socket().set_nonblocking(true)?;
        let is_open = self.drop_received();
        self.stream.socket().set_nonblocking(false)?;
        is_open
    }

    fn drop_received(&mut self) -> io::Result<()> {
        let mut bytes = [0; 4096];
        loop {
            self.cancel.check()?;
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if is_pause(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Closes our side of the connection, and returns when the receiver has closed its side, which it does when it has read
    /// everything. [`io::ErrorKind::TimedOut`] if it has not within `silence_max`.
    ///
    /// A receiver that closes with unread bytes, or gets bytes after that, sends a reset (RFC 9293, section 3.6.1). That is
    /// an error here, unless it comes later than [`CANCEL_POLL_INTERVAL`] after the close.
    pub fn close(mut self, silence_max: Duration) -> io::Result<()> {
        self.ensure_open()?;
        if let Stream::Tls(stream) = &mut self.stream {
            stream.conn.send_close_notify();
        }
        self.flush(Instant::now() + silence_max)?;
        self.stream.socket().shutdown(Shutdown::Write)?;
        let until = Instant::now() + silence_max;
        loop {
            match self.receive(&mut [0; 1024], until.saturating_duration_since(Instant::now())) {
                Ok(_) if Instant::now() < until => {}
                Ok(_) => return Err(io::ErrorKind::TimedOut.into()),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
                Err(error) => return Err(error),
            }
        }
        self.cancel.sleep(CANCEL_POLL_INTERVAL)?;
        self.stream.socket().take_error()?.map_or(Ok(()), Err)
    }

    /// Completes the TLS handshake.
    fn shake_hands(&mut self) -> io::Result<()> {
        let until = Instant::now() + TLS_HANDSHAKE_WAIT;
        loop {
            let Stream::Tls(stream) = &mut self.stream else { return Ok(()) };
            if !stream.conn.is_handshaking() && !stream.conn.wants_write() {
                return Ok(());
            }
            if let Err(error) = stream.conn.complete_io(&mut stream.sock) {
                self.go_on_after(error, until)?;
            }
        }
    }

    /// Returns the error, unless it only means that there was no progress in one step and there is time for another.
    fn go_on_after(&self, error: io::Error, until: Instant) -> io::Result<()> {
        if !is_pause(&error) {
            return Err(error);
        }
        self.cancel.check()?;
        if Instant::now() >= until { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }
}

/// Returns whether there was only no progress.
fn is_pause(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), WouldBlock | TimedOut | Interrupted)
}

/// Returns whether the receiver, or a proxy in front of it, has closed the connection.
pub fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe)
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Stream::Tls(stream) = &mut self.stream {
            stream.conn.send_close_notify();
            // If the receiver is gone, it does not matter.
            let _ = stream.flush();
        }
    }
}

impl Stream {
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream.get_ref(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(into),
            Self::Tls(stream) => stream.read(into),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    /// Returns a connection and its other side.
    fn connected(cancel: &CancelToken) -> (Connection, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let connection = Endpoint::new("127.0.0.1", port, None, cancel).connect().expect("a listener");
        (connection, listener.accept().expect("a connection").0)
    }

    #[test]
    fn notices_a_closed_connection() {
        let (mut connection, mut receiver) = connected(&CancelToken::default());
        for _ in 0..2 {
            connection.ensure_open().expect("an open connection");
            receiver.write_all(b"unsolicited").expect("an open connection");
        }
        connection.send(b"1", CONNECT_TIMEOUT).expect("an open connection");
        receiver.read_exact(&mut [0]).expect("what was sent");
        drop(receiver);
        let mut closed = connection.receive(&mut [0; 64], CONNECT_TIMEOUT);
        while closed.is_ok() {
            closed = connection.receive(&mut [0; 64], CONNECT_TIMEOUT);
        }
        assert_eq!(closed.expect_err("an end").kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(connection.ensure_open().expect_err("an end").kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn waits_for_a_silent_receiver_until_timeout_or_cancellation() {
        let cancel = CancelToken::default();
        let (mut connection, receiver) = connected(&cancel);
        let silence = connection.receive(&mut [0; 64], CANCEL_POLL_INTERVAL).expect_err("silence");
        assert_eq!(silence.kind(), io::ErrorKind::TimedOut);
        let much = vec![0; 64 * 1024 * 1024];
        let silence =
            connection.send(&much, CANCEL_POLL_INTERVAL).expect_err("a receiver that does not read");
        assert_eq!(silence.kind(), io::ErrorKind::TimedOut);
        cancel.cancel_at(Instant::now());
        assert!(Cancelled::is_cause_of(
            &connection.receive(&mut [0; 64], CONNECT_TIMEOUT).expect_err("an end")
        ));
        assert!(Cancelled::is_cause_of(&connection.send(b"1", CONNECT_TIMEOUT).expect_err("an end")));
        drop(receiver);
    }

    #[test]
    fn connects_to_the_next_address_after_a_silent_one() {
        let addresses: Vec<SocketAddr> = ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]
            .map(|text| text.parse().expect("an address"))
            .into();
        let answering = first_that_answers(&addresses, |address, time| {
            assert!(time <= ADDRESS_WAIT_MAX || address.port() == 3);
            if address.port() < 3 { Err(io::ErrorKind::TimedOut.into()) } else { Ok(address.port()) }
        });
        assert_eq!(answering.expect("an address that answers"), 3);
        let silent = first_that_answers(&addresses, |_, _| Err::<(), _>(io::ErrorKind::TimedOut.into()));
        assert_eq!(silent.expect_err("silence").kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn names_a_receiver_by_host_and_port() {
        let name = |host| Endpoint::new(host, 1, None, &CancelToken::default()).name();
        assert_eq!(name("logs.example"), "logs.example:1");
        assert_eq!(name("2001:db8::1"), "[2001:db8::1]:1");
    }
}
