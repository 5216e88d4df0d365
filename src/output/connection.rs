//! A connection to a receiver: TCP, or TLS over it.
//!
//! Every wait has an end: the one that the caller gives, and that of the pass ([`Patience`]). TLS is rustls; the roots
//! of the `tls` block stand beside the system's, and there is no way to trust everybody.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpStream, ToSocketAddrs},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::ring,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};

use super::{OutputError, Over, Patience};
use crate::{
    config::Tls,
    limits::{CONNECT_TIMEOUT, PATIENCE_STEP},
    log::one_line,
};

/// Where a receiver listens, and how it is spoken to. It is connected to as often as needed.
#[derive(Debug)]
pub struct Endpoint {
    host: String,
    port: u16,
    tls: Option<Tls>,
    /// Made of `tls` when it is first needed.
    client: Option<Arc<ClientConfig>>,
    patience: Patience,
}

/// An open connection to a receiver. When it is dropped it is closed, TLS with the `close_notify` that receivers want.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    patience: Patience,
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Endpoint {
    /// Connects to nobody yet. Nobody waits for this receiver when `patience` is over.
    pub fn new(host: &str, port: u16, tls: Option<&Tls>, patience: &Patience) -> Self {
        Self { host: host.to_owned(), port, tls: tls.cloned(), client: None, patience: patience.clone() }
    }

    /// `host:port`, as messages name it.
    pub fn name(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    /// Connects, within [`CONNECT_TIMEOUT`] for TCP and the same for TLS.
    pub fn connect(&mut self) -> Result<Connection, OutputError> {
        let client = self.client()?;
        let (host, port) = (self.host.clone(), self.port);
        let socket = self.patience.attempt(move || dial(&host, port)).unwrap_or_else(|over| Err(over.into()));
        let socket = socket.map_err(|error| self.failure(&error))?;
        let stream = match client {
            None => Stream::Plain(socket),
            Some(client) => {
                let session = ClientConnection::new(client, self.server_name()?);
                let session = session.map_err(|error| self.failure(&io::Error::other(error)))?;
                Stream::Tls(Box::new(StreamOwned::new(session, socket)))
            }
        };
        let mut connection = Connection { stream, patience: self.patience.clone() };
        connection.shake_hands().map_err(|error| self.failure(&error))?;
        Ok(connection)
    }

    /// That this receiver does not take records.
    pub fn error(&self, problem: impl Into<String>, mend: impl Into<String>) -> OutputError {
        OutputError::Receiver { receiver: self.name(), problem: problem.into(), mend: mend.into() }
    }

    /// What an error on a connection to this receiver means for a person.
    pub fn failure(&self, error: &io::Error) -> OutputError {
        if Over::is_behind(error) {
            return self.error(error.to_string(), "the next pass goes on from here");
        }
        if let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return self.tls_failure(error);
        }
        let text = one_line(&error.to_string());
        let (problem, mend) = match error.kind() {
            _ if text.starts_with("failed to lookup address") => {
                ("the name cannot be resolved".to_owned(), "check address, and DNS")
            }
            io::ErrorKind::ConnectionRefused => {
                ("nobody listens there".to_owned(), "start the receiver, or check address and port")
            }
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => (
                "no answer in time".to_owned(),
                "check that the receiver runs and takes records, and the firewall on the way",
            ),
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => (
                "it closed the connection".to_owned(),
                "look into the receiver's log; perhaps only one of both sides has tls",
            ),
            _ => (text, "check address and port, and the network on the way"),
        };
        self.error(problem, mend)
    }

    fn tls_failure(&self, error: &rustls::Error) -> OutputError {
        let text = one_line(&error.to_string());
        match error {
            rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            ) => self.error(
                format!("its certificate has another name: {text}"),
                "give the certificate's name in tls.server_name",
            ),
            rustls::Error::InvalidCertificate(_) | rustls::Error::General(_) => self.error(
                format!("its certificate is not trusted: {text}"),
                "give the root that signed it in tls.ca_file, and check this machine's clock",
            ),
            rustls::Error::InvalidMessage(_) => self.error(
                "what is spoken there is no TLS",
                "give the port on which the receiver speaks TLS, or take tls out of the configuration",
            ),
            rustls::Error::AlertReceived(
                AlertDescription::CertificateRequired
                | AlertDescription::BadCertificate
                | AlertDescription::CertificateUnknown
                | AlertDescription::UnknownCA
                | AlertDescription::AccessDenied
                | AlertDescription::HandshakeFailure,
            ) => self.error(
                format!("it does not let us in: {text}"),
                "give a certificate that the receiver trusts in tls.cert_file, and its key in tls.key_file",
            ),
            _ => self.error(text, "compare the tls settings here and there"),
        }
    }

    fn server_name(&self) -> Result<ServerName<'static>, OutputError> {
        let configured = self.tls.as_ref().and_then(|tls| tls.server_name.as_deref());
        let name = configured.unwrap_or(&self.host);
        ServerName::try_from(name.to_owned()).map_err(|_| {
            self.error(
                format!("{} is no name that a certificate can have", one_line(name)),
                "give the certificate's name in tls.server_name",
            )
        })
    }

    fn client(&mut self) -> Result<Option<Arc<ClientConfig>>, OutputError> {
        if let (None, Some(tls)) = (&self.client, &self.tls) {
            let made = client_config(tls).map_err(|problem| {
                self.error(problem, "give readable PEM files whose certificate and key belong together")
            })?;
            self.client = Some(Arc::new(made));
        }
        Ok(self.client.clone())
    }
}

/// Resolves the name and connects to the first of its addresses that answers; they share the time.
fn dial(host: &str, port: u16) -> io::Result<TcpStream> {
    let addresses = (host, port).to_socket_addrs()?;
    let time_each = CONNECT_TIMEOUT / u32::try_from(addresses.len()).map_or(1, |count| count.max(1));
    let mut failure = io::Error::other("the name has no address");
    for address in addresses {
        match TcpStream::connect_timeout(&address, time_each) {
            Ok(socket) => {
                socket.set_nodelay(true)?;
                socket.set_read_timeout(Some(PATIENCE_STEP))?;
                socket.set_write_timeout(Some(PATIENCE_STEP))?;
                return Ok(socket);
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// The system's roots and those of `ca_file`, and the client's certificate if there is one. An error names the key.
fn client_config(tls: &Tls) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = &tls.ca_file {
        for root in certificates("tls.ca_file", path)? {
            roots.add(root).map_err(|error| format!("tls.ca_file {}: {error}", path.display()))?;
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let Some(cert_file) = &tls.cert_file else {
        return Ok(config.with_no_client_auth());
    };
    let certificate = certificates("tls.cert_file", cert_file)?;
    let (key, key_file) = match &tls.key_file {
        Some(key_file) => ("tls.key_file", key_file),
        None => ("tls.cert_file", cert_file),
    };
    let named = |problem: String| format!("{key} {}: {problem}", key_file.display());
    let private_key = PrivateKeyDer::from_pem_file(key_file).map_err(|error| named(error.to_string()))?;
    config.with_client_auth_cert(certificate, private_key).map_err(|error| named(error.to_string()))
}

/// At least one.
fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let named = |problem: String| format!("{key} {}: {problem}", path.display());
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    match found {
        Ok(found) if found.is_empty() => Err(named("holds no certificate".to_owned())),
        Ok(found) => Ok(found),
        Err(error) => Err(named(error.to_string())),
    }
}

impl Connection {
    /// Sends all of it, and returns when the system has taken it; that says nothing of the receiver.
    ///
    /// `silence_max` is the longest that nothing at all may move; [`io::ErrorKind::TimedOut`] after that.
    pub fn send(&mut self, bytes: &[u8], silence_max: Duration) -> io::Result<()> {
        let mut rest = bytes;
        let mut until = Instant::now() + silence_max;
        while !rest.is_empty() {
            self.patience.check()?;
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

    /// Waits for the receiver to say something, and returns how many bytes of it are in `into`: at least one. If it
    /// closes instead, [`io::ErrorKind::UnexpectedEof`]; if it is silent for this long, [`io::ErrorKind::TimedOut`].
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

    /// An error if the receiver is known to have closed the connection, or broken it off. Waits for nothing. For
    /// receivers that never answer: what one says all the same is dropped.
    pub fn ensure_open(&mut self) -> io::Result<()> {
        self.stream.socket().set_nonblocking(true)?;
        let is_open = self.drop_what_it_said();
        self.stream.socket().set_nonblocking(false)?;
        is_open
    }

    fn drop_what_it_said(&mut self) -> io::Result<()> {
        let mut bytes = [0; 4096];
        loop {
            self.patience.check()?;
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if is_pause(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Says that nothing more comes, and returns when the receiver has closed the connection in answer to that, which
    /// it does when it has read everything. If it has not within `silence_max`, [`io::ErrorKind::TimedOut`].
    ///
    /// Whoever closes with something unread, or gets something after that, answers with a reset (RFC 9293, section
    /// 3.6.1), which is an error here, unless it comes later than [`PATIENCE_STEP`] after the close.
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
        self.patience.sleep(PATIENCE_STEP)?;
        self.stream.socket().take_error()?.map_or(Ok(()), Err)
    }

    /// Brings the handshake of TLS to its end.
    fn shake_hands(&mut self) -> io::Result<()> {
        let until = Instant::now() + CONNECT_TIMEOUT;
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

    /// The error itself, unless it only says that nothing moved for a step and there is time for another.
    fn go_on_after(&self, error: io::Error, until: Instant) -> io::Result<()> {
        if !is_pause(&error) {
            return Err(error);
        }
        self.patience.check()?;
        if Instant::now() >= until { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }
}

/// Whether nothing has moved, and nothing is wrong.
fn is_pause(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), WouldBlock | TimedOut | Interrupted)
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Stream::Tls(stream) = &mut self.stream {
            stream.conn.send_close_notify();
            // Whoever has gone needs no farewell.
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

    /// A connection and its other side.
    fn connected(patience: &Patience) -> (Connection, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let connection = Endpoint::new("127.0.0.1", port, None, patience).connect().expect("a listener");
        (connection, listener.accept().expect("a connection").0)
    }

    #[test]
    fn a_receiver_that_has_closed_is_noticed_whatever_it_said_before() {
        let (mut connection, mut receiver) = connected(&Patience::default());
        for _ in 0..2 {
            connection.ensure_open().expect("an open connection");
            receiver.write_all(b"nobody asked").expect("an open connection");
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
    fn a_silent_receiver_is_waited_for_no_longer_than_told_and_none_beyond_the_end() {
        let patience = Patience::default();
        let (mut connection, receiver) = connected(&patience);
        let silence = connection.receive(&mut [0; 64], PATIENCE_STEP).expect_err("silence");
        assert_eq!(silence.kind(), io::ErrorKind::TimedOut);
        let much = vec![0; 64 * 1024 * 1024];
        let silence = connection.send(&much, PATIENCE_STEP).expect_err("nobody who reads");
        assert_eq!(silence.kind(), io::ErrorKind::TimedOut);
        patience.end_at(Instant::now());
        assert!(Over::is_behind(&connection.receive(&mut [0; 64], CONNECT_TIMEOUT).expect_err("an end")));
        assert!(Over::is_behind(&connection.send(b"1", CONNECT_TIMEOUT).expect_err("an end")));
        drop(receiver);
    }

    #[test]
    fn a_receiver_is_named_by_host_and_port() {
        let name = |host| Endpoint::new(host, 1, None, &Patience::default()).name();
        assert_eq!(name("logs.example"), "logs.example:1");
        assert_eq!(name("2001:db8::1"), "[2001:db8::1]:1");
    }
}
