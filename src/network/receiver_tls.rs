//! TLS for HTTP receivers, in place of ureq's own: no session resumption, trust in a certificate that `tls.ca_file`
//! contains, and errors with a hint (see [`super::tls`]).

use std::{
    io::{self, Read, Write},
    sync::{Arc, OnceLock},
};

use rustls::{ClientConfig, ClientConnection, StreamOwned};
use rustls_pki_types::ServerName;
use ureq::{
    Error,
    unversioned::transport::{
        Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport, TransportAdapter,
    },
};

use super::tls::{self, TlsProblem, TlsSettings};

/// A connector that adds TLS to the connections made by the connector before it in the chain, if the URL is `https`.
#[derive(Clone, Debug)]
pub struct ReceiverTls {
    settings: TlsSettings,
    /// Created from the settings with the first TLS connection: `http://` needs no certificates.
    client: Arc<OnceLock<Result<Arc<ClientConfig>, TlsProblem>>>,
}

impl ReceiverTls {
    /// Returns a connector that reads the files of `settings` with its first TLS connection.
    pub fn new(settings: TlsSettings) -> Self {
        Self { settings, client: Arc::default() }
    }

    fn client(&self) -> Result<Arc<ClientConfig>, TlsProblem> {
        self.client.get_or_init(|| tls::client_config(&self.settings).map(Arc::new)).clone()
    }
}

impl<In: Transport> Connector<In> for ReceiverTls {
    type Out = Either<In, TlsTransport>;

    fn connect(&self, details: &ConnectionDetails, chained: Option<In>) -> Result<Option<Self::Out>, Error> {
        let Some(transport) = chained else { return Ok(None) };
        if !details.needs_tls() || transport.is_tls() {
            return Ok(Some(Either::A(transport)));
        }
        let name = details.uri.host().unwrap_or_default();
        let name = name.trim_start_matches('[').trim_end_matches(']').to_owned();
        let server = ServerName::try_from(name.clone()).map_err(|_| Error::Tls("not a server name"))?;
        let client = self.client().map_err(|problem| Error::Other(Box::new(problem)))?;
        let conn = ClientConnection::new(client, server)
            .map_err(|error| Error::Other(Box::new(tls::problem(&error, &name))))?;
        let sock = TransportAdapter::new(transport.boxed(), Arc::clone(&details.current_time));
        let (input, output) = (details.config.input_buffer_size(), details.config.output_buffer_size());
        let stream = StreamOwned::new(conn, sock);
        let mut transport = TlsTransport { buffers: LazyBuffers::new(input, output), stream, name };
        let TlsTransport { stream: StreamOwned { conn, sock }, name, .. } = &mut transport;
        sock.set_timeout(details.timeout);
        conn.complete_io(sock).map_err(|error| explained(error, name))?;
        Ok(Some(Either::B(transport)))
    }
}

/// A connection with TLS.
pub struct TlsTransport {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
    /// The name of the server, against which its certificate is verified.
    name: String,
}

impl std::fmt::Debug for TlsTransport {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("TlsTransport").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Transport for TlsTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.stream.sock.set_timeout(timeout);
        let output = &self.buffers.output()[..amount];
        self.stream.write_all(output).map_err(|error| explained(error, &self.name))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.stream.sock.set_timeout(timeout);
        let input = self.buffers.input_append_buf();
        let amount = self.stream.read(input).map_err(|error| explained(error, &self.name))?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.sock.get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

/// Adds a hint to a TLS error. It is not returned as an I/O error: a decoder would report that as damage of the
/// compressed body.
fn explained(error: io::Error, name: &str) -> Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(error) => Error::Other(Box::new(tls::problem(error, name))),
        None => error.into(),
    }
}
