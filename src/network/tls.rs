//! TLS to a receiver: the client's configuration, and what its errors mean.
//!
//! A server's certificate is trusted if one of the system's roots or of those in `ca_file` signed it and it has the
//! receiver's name, or if `ca_file` contains exactly this certificate: `openssl req -x509` makes certificates that are
//! their own authority and often have no usable name. There is no way to trust every certificate.
//!
//! Sessions are never resumed: Fluent Bit kills a connection that resumes one ("session id context uninitialized", the
//! alert `InternalError`), so that every reconnect would fail.

use std::{
    fs,
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
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};

use crate::{config::Tls, log::one_line};

/// What is wrong with TLS, and a hint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct TlsProblem {
    /// What went wrong.
    pub problem: String,
    /// What a person can do about it.
    pub hint: String,
    /// Whether another attempt can succeed without a change of the configuration here or at the receiver.
    pub is_transient: bool,
}

/// The files of certificates and keys for a receiver.
#[derive(Clone, Debug, Default)]
pub struct TlsSettings {
    /// `ca_file` for all of the program: more roots.
    pub shared_roots: Option<PathBuf>,
    /// The output's `tls` block.
    pub tls: Tls,
}

/// Makes the client's configuration. An error names the key.
pub fn client_config(TlsSettings { shared_roots, tls }: &TlsSettings) -> Result<ClientConfig, TlsProblem> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = shared_roots {
        roots.add_parsable_certificates(certificates("ca_file", path)?);
    }
    let mut pinned = Vec::new();
    if let Some(path) = &tls.ca_file {
        for root in certificates("tls.ca_file", path)? {
            pinned.push(root.clone());
            roots.add(root).map_err(|error| of_file("tls.ca_file", path, &error.to_string()))?;
        }
    }
    let provider = Arc::new(ring::default_provider());
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(|error| match error {
        VerifierBuilderError::NoRootAnchors => permanent(
            "this machine has no root certificates",
            "install them (ca-certificates), or give the root that signed the receiver's certificate in \
                     tls.ca_file",
        ),
        error => permanent(error.to_string(), "compare the tls settings here and there"),
    })?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| permanent(error.to_string(), "compare the tls settings here and there"))?
        .dangerous() // needed for any verifier of our own; this one asks rustls's first
        .with_custom_certificate_verifier(Arc::new(PinningVerifier { inner, pinned }));
    let mut config = match &tls.cert_file {
        None => config.with_no_client_auth(),
        Some(cert_file) => {
            let certificate = certificates("tls.cert_file", cert_file)?;
            let (key, key_file) = match &tls.key_file {
                Some(key_file) => ("tls.key_file", key_file),
                None => ("tls.cert_file", cert_file),
            };
            config
                .with_client_auth_cert(certificate, private_key(key, key_file)?)
                .map_err(|error| of_file(key, key_file, &error.to_string()))?
        }
    };
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Returns what an error of rustls means. `name` is the name that was verified.
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
            format!("it does not let us in: {text}"),
            "give a certificate that the receiver trusts in tls.cert_file, and its key in tls.key_file",
        ),
        _ => TlsProblem {
            problem: text,
            hint: "compare the tls settings here and there".to_owned(),
            is_transient: true,
        },
    }
}

fn untrusted(error: &CertificateError, text: &str, name: &str) -> TlsProblem {
    let is = |reason: &str| matches!(error, CertificateError::Other(_)) && text.contains(reason);
    match error {
        CertificateError::NotValidForNameContext { presented, .. } if presented.is_empty() => permanent(
            "its certificate has no subjectAltName, and a name in CN does not count",
            format!("{}, or put this very certificate into tls.ca_file", how_to_make_one(name)),
        ),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => permanent(
            format!("its certificate has another name: {text}"),
            "give the certificate's name in tls.server_name",
        ),
        _ if is("CaUsedAsEndEntity") => permanent(
            "its certificate is that of an authority (CA:TRUE), and not the one in tls.ca_file",
            format!("put this very certificate into tls.ca_file, or {}", how_to_make_one(name)),
        ),
        _ if is("UnsupportedCertVersion") => {
            permanent("its certificate is of X.509 version 1", how_to_make_one(name))
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

/// Says how a certificate is made that every TLS library accepts.
fn how_to_make_one(name: &str) -> String {
    let kind = if name.parse::<std::net::IpAddr>().is_ok() { "IP" } else { "DNS" };
    format!(
        "make one of version 3 with basicConstraints=CA:FALSE and subjectAltName={kind}:{} (openssl req -x509 -addext …)",
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

/// Reads the certificates of a PEM file, at least one.
fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsProblem> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    match found {
        Ok(found) if found.is_empty() => Err(of_file(key, path, "contains no certificate")),
        Ok(found) => Ok(found),
        Err(error) => Err(of_file(key, path, &error.to_string())),
    }
}

fn private_key(key: &str, path: &Path) -> Result<PrivateKeyDer<'static>, TlsProblem> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| {
        if fs::read(path).is_ok_and(|pem| is_encrypted(&pem)) {
            let path = path.display();
            return permanent(
                format!("{key} {path}: the key is encrypted"),
                format!(
                    "decrypt it with `openssl pkey -in {path} -out FILE`, and protect FILE with mode 600"
                ),
            );
        }
        of_file(key, path, &error.to_string())
    })
}

/// Whether a PEM file has a key that needs a passphrase: PKCS #8 says so in the first line, PKCS #1 in the second.
fn is_encrypted(pem: &[u8]) -> bool {
    pem.split(|byte| matches!(byte, b'\r' | b'\n')).any(|line| {
        line.starts_with(b"-----BEGIN ENCRYPTED PRIVATE KEY") || line.starts_with(b"Proc-Type: 4,ENCRYPTED")
    })
}

/// Accepts what rustls's own verifier accepts, and the certificates that `ca_file` itself contains.
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
            // The validity period is verified before anything else, so these two hide no other error.
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
