//! A connection, plain or under TLS.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    sync::Arc,
};

use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

/// The certificate of a server, and the host name in its URLs.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The host of the simulator's URLs. A name that cannot be resolved needs a proxy.
    pub host: String,
    /// The certificate and its chain, without the root, in PEM.
    pub certificates: String,
    /// The private key of the certificate, in PEM.
    pub key: String,
}

impl Identity {
    /// Returns the TLS settings of the server.
    pub(crate) fn tls(&self) -> Arc<ServerConfig> {
        let certificates: Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(self.certificates.as_bytes()).collect();
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("a key in PEM");
        let ring = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(ring)
            .with_safe_default_protocol_versions()
            .expect("TLS versions that ring supports")
            .with_no_client_auth()
            .with_single_cert(certificates.expect("certificates in PEM"), key);
        Arc::new(config.expect("a certificate and its private key"))
    }
}

/// A connection, with or without TLS.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ServerConnection, TcpStream>>),
}

impl Stream {
    /// The first read performs the handshake.
    pub(crate) fn new(socket: TcpStream, tls: Option<&Arc<ServerConfig>>) -> Self {
        match tls {
            None => Self::Plain(socket),
            Some(config) => {
                let connection = ServerConnection::new(Arc::clone(config)).expect("a valid configuration");
                Self::Tls(Box::new(StreamOwned::new(connection, socket)))
            }
        }
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream.get_ref(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(bytes),
            Self::Tls(stream) => stream.read(bytes),
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
