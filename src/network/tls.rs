//! TLS for receivers: the client configuration, and hints for its errors.
//!
//! A server's certificate is trusted if one of the system's roots or of those in `ca_file` signed it and it has the
//! receiver's name, or if `ca_file` contains exactly this certificate: `openssl req -x509` creates certificates that are
//! their own authority and often have no usable name. There is no way to trust every certificate.
//!
//! Sessions are never resumed: Fluent Bit kills a connection that resumes one ("session id context uninitialized", the
//! alert `InternalError`), so that every reconnect would fail.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore,
    SignatureScheme,
    client::{
        Resumption, VerifierBuilderError, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::ring,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use super::pem::{self, PemError};
use crate::{config::Tls, redact::one_line};

/// An error of TLS with a receiver.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct TlsProblem {
    /// What is wrong.
    pub problem: String,
    /// What the administrator can do about it.
    pub hint: String,
    /// Whether another attempt can succeed without a change of the configuration here or at the receiver.
    pub is_transient: bool,
}

/// The files of certificates and keys for a receiver.
#[derive(Clone, Debug, Default)]
pub struct TlsSettings {
    /// The top-level `ca_file`: additional roots.
    pub shared_roots: Option<PathBuf>,
    /// The output's `tls` block.
    pub tls: Tls,
}

/// Creates the client configuration.
///
/// # Errors
///
/// A file cannot be used; the error names its key.
pub fn client_config(TlsSettings { shared_roots, tls }: &TlsSettings) -> Result<ClientConfig, TlsProblem> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = shared_roots {
        let certificates = pem::certificates_of(path).map_err(|error| unreadable("ca_file", path, &error))?;
        roots.add_parsable_certificates(certificates);
    }
    let mut pinned = Vec::new();
    if let Some(path) = &tls.ca_file {
        for root in pem::certificates_of(path).map_err(|error| unreadable("tls.ca_file", path, &error))? {
            pinned.push(root.clone());
            roots.add(root).map_err(|error| of_file("tls.ca_file", path, &error.to_string()))?;
        }
    }
    let provider = Arc::new(ring::default_provider());
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(|error| match error {
        VerifierBuilderError::NoRootAnchors => no_roots(),
        error => permanent(error.to_string(), "compare the tls settings of both sides"),
    })?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| permanent(error.to_string(), "compare the tls settings of both sides"))?
        .dangerous() // required for any custom verifier; this one asks the standard verifier first
        .with_custom_certificate_verifier(Arc::new(PinningVerifier { inner, pinned }));
    let mut config = match &tls.cert_file {
        None => config.with_no_client_auth(),
        Some(cert_file) => {
            let (certificate, private_key) = client_certificate(cert_file, tls.key_file.as_deref())?;
            let (key, key_file) = key_file_of(cert_file, tls.key_file.as_deref());
            config
                .with_client_auth_cert(certificate, private_key)
                .map_err(|error| of_file(key, key_file, &error.to_string()))?
        }
    };
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Returns the certificate and the key in the files of a `tls` block.
///
/// # Errors
///
/// A file cannot be used; the error names its key.
pub fn client_certificate(
    cert_file: &Path,
    key_file: Option<&Path>,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsProblem> {
    let certificate =
        pem::certificates_of(cert_file).map_err(|error| unreadable("tls.cert_file", cert_file, &error))?;
    let (key, key_file) = key_file_of(cert_file, key_file);
    let private_key = pem::private_key_of(key_file).map_err(|error| unreadable(key, key_file, &error))?;
    Ok((certificate, private_key))
}

/// Returns the file with the key of a certificate, and the configuration's key that names this file.
fn key_file_of<'a>(cert_file: &'a Path, key_file: Option<&'a Path>) -> (&'static str, &'a Path) {
    key_file.map_or(("tls.cert_file", cert_file), |key_file| ("tls.key_file", key_file))
}

/// Returns the system's roots and those in `ca_file` as PEM, for a library that has TLS of its own.
///
/// # Errors
///
/// The file cannot be used, or there are no roots.
#[cfg(feature = "kafka")]
pub fn roots_in_pem(ca_file: Option<&Path>) -> Result<String, TlsProblem> {
    let mut roots = rustls_native_certs::load_native_certs().certs;
    if let Some(path) = ca_file {
        roots.extend(pem::certificates_of(path).map_err(|error| unreadable("tls.ca_file", path, &error))?);
    }
    if roots.is_empty() {
        return Err(no_roots());
    }
    Ok(pem::text_of(&roots))
}

/// Converts an error of rustls. `name` is the name that the certificate was verified against.
pub fn problem(error: &Error, name: &str) -> TlsProblem {
    let text = one_line(&error.to_string());
    match error {
        Error::InvalidCertificate(error) => untrusted(error, &text, name),
        Error::General(_) => permanent(
            format!("its certificate is not trusted: {text}"),
            "give the root that signed it in tls.ca_file, and check this machine's clock",
        ),
        Error::InvalidMessage(_) => permanent(
            "it does not speak TLS on this port",
            "give the port on which the receiver speaks TLS, or remove tls from the configuration",
        ),
        Error::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::HandshakeFailure,
        ) => permanent(
            format!("it rejects the login: {text}"),
            "give a certificate that the receiver trusts in tls.cert_file, and its key in tls.key_file",
        ),
        _ => TlsProblem {
            problem: text,
            hint: "compare the tls settings of both sides".to_owned(),
            is_transient: true,
        },
    }
}

fn untrusted(error: &CertificateError, text: &str, name: &str) -> TlsProblem {
    let is = |reason: &str| matches!(error, CertificateError::Other(_)) && text.contains(reason);
    match error {
        CertificateError::NotValidForNameContext { presented, .. } if presented.is_empty() => permanent(
            "its certificate has no subjectAltName, and a name in CN does not count",
            format!("{}, or put this very certificate into tls.ca_file", how_to_create_one(name)),
        ),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => permanent(
            format!("its certificate has another name: {text}"),
            "give the certificate's name in tls.server_name",
        ),
        _ if is("CaUsedAsEndEntity") => permanent(
            "its certificate is that of an authority (CA:TRUE), and not the one in tls.ca_file",
            format!("put this very certificate into tls.ca_file, or {}", how_to_create_one(name)),
        ),
        _ if is("UnsupportedCertVersion") => {
            permanent("its certificate is of X.509 version 1", how_to_create_one(name))
        }
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => permanent(
            format!("its certificate is not trusted: {text}"),
            "renew it, or set this machine's clock",
        ),
        _ => permanent(
            format!("its certificate is not trusted: {text}"),
            "give the root that signed it in tls.ca_file, and check this machine's clock",
        ),
    }
}

fn no_roots() -> TlsProblem {
    permanent(
        "this machine has no root certificates",
        "install them (ca-certificates), or give the root that signed the receiver's certificate in tls.ca_file",
    )
}

/// Returns how to create a certificate that every TLS library accepts.
fn how_to_create_one(name: &str) -> String {
    let kind = if name.parse::<std::net::IpAddr>().is_ok() { "IP" } else { "DNS" };
    format!(
        "create one of version 3 with basicConstraints=CA:FALSE and subjectAltName={kind}:{} (openssl req -x509 -addext …)",
        one_line(name)
    )
}

fn permanent(problem: impl Into<String>, hint: impl Into<String>) -> TlsProblem {
    TlsProblem { problem: problem.into(), hint: hint.into(), is_transient: false }
}

fn of_file(key: &str, path: &Path, problem: &str) -> TlsProblem {
    permanent(
        format!("{key} {}: {problem}", path.display()),
        "give readable PEM files whose certificate and key belong together",
    )
}

fn unreadable(key: &str, path: &Path, error: &PemError) -> TlsProblem {
    permanent(format!("{key} {}: {error}", path.display()), error.hint())
}

/// A verifier that accepts what the standard verifier accepts, and the certificates that `ca_file` contains.
#[derive(Debug)]
struct PinningVerifier {
    inner: Arc<WebPkiServerVerifier>,
    pinned: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for PinningVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified =
            self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            // The validity period is verified first, so these errors hide no other one.
            Err(Error::InvalidCertificate(
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. },
            ))
            | Ok(_) => verified,
            Err(_) if self.pinned.iter().any(|certificate| certificate == end_entity) => {
                Ok(ServerCertVerified::assertion())
            }
            Err(_) => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
