//! TLS for the servers in the tests, with the certificates below `tests/certificates/tls`.

use std::{fs, io, net::TcpStream, path::Path, sync::Arc};

use rustls::{
    HandshakeKind, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
    sign::{CertifiedKey, SingleCertAndKey},
};
use simulator::{Identity, Simulator};

/// Whether a server requires a certificate of its clients, signed by the private root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificate {
    NotRequired,
    Required,
}

/// Returns the path of a file in `tests/certificates/tls`.
pub fn certificate(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates/tls");
    folder.join(name).to_str().expect("a path in UTF-8").to_owned()
}

/// Returns the content of a file in `tests/certificates/tls`.
fn read(name: &str) -> String {
    fs::read_to_string(certificate(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn certificates(name: &str) -> Vec<CertificateDer<'static>> {
    let certificates = CertificateDer::pem_slice_iter(read(name).as_bytes()).collect::<Result<Vec<_>, _>>();
    certificates.unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Returns the settings of a server with one of the certificates.
pub fn server_config(name: &str, client_certificate: ClientCertificate) -> Arc<ServerConfig> {
    let provider = Arc::new(ring::default_provider());
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("TLS versions that ring supports");
    let config = match client_certificate {
        ClientCertificate::NotRequired => config.with_no_client_auth(),
        ClientCertificate::Required => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(certificates("private_root.pem"));
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            config.with_client_cert_verifier(verifier.expect("a root certificate"))
        }
    };
    let key = PrivateKeyDer::from_pem_slice(read("server.key").as_bytes()).expect("a private key in PEM");
    let key = ring::sign::any_supported_type(&key).expect("a key type that ring supports");
    // rustls's `with_single_cert` checks the certificate, and refuses one of version 1.
    let identity = SingleCertAndKey::from(CertifiedKey::new(certificates(name), key));
    Arc::new(config.with_cert_resolver(Arc::new(identity)))
}

/// Performs the handshake with a client.
///
/// # Errors
///
/// The handshake fails, or the client resumes a session, which Fluent Bit does not accept.
pub fn accept(
    mut socket: TcpStream,
    config: &Arc<ServerConfig>,
) -> io::Result<StreamOwned<ServerConnection, TcpStream>> {
    let mut session = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
    while session.is_handshaking() {
        session.complete_io(&mut socket)?;
    }
    if session.handshake_kind() == Some(HandshakeKind::Resumed) {
        return Err(io::Error::other("session id context uninitialized"));
    }
    Ok(StreamOwned::new(session, socket))
}

/// Starts a simulator under TLS with one of the certificates. Its URLs have this host.
pub fn start_simulator(host: &str, name: &str) -> Simulator {
    let identity = Identity { host: host.to_owned(), certificates: read(name), key: read("server.key") };
    Simulator::start_with_tls(&identity)
}
