//! Certificates and private keys from PEM files: those of the app's login, of `ca_file`, and of a receiver's `tls`
//! section.
//!
//! Source of the format: RFC 7468; RFC 1421 for the header of an encrypted PKCS #1 key.

use std::{fs, io, io::Read, path::Path};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

/// The first byte of a certificate or key in DER, that is, without the text that PEM puts around it.
const DER_SEQUENCE: u8 = 0x30;

/// The maximum size of a PEM file, in bytes. The bundle of a whole trust store has a few hundred KiB.
pub const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The number of bytes that a line of PEM encodes, in 64 characters.
#[cfg(feature = "kafka")]
const LINE_BYTES: usize = 48;

/// An error returned when a PEM file cannot be used. It repeats nothing that the file contains.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// The file does not exist.
    #[error("there is no such file")]
    Missing,
    /// The system denies access to the file; the text is the system's.
    #[error("the file cannot be read: {0}")]
    Unreadable(String),
    /// A folder, device or pipe, which cannot be read again at the next login.
    #[error("not a regular file")]
    NotRegular,
    /// The file exceeds the size limit.
    #[error("the file is too large")]
    TooLarge,
    /// DER without PEM's text around it.
    #[error("a binary file, but PEM is needed")]
    Binary,
    /// The file contains no certificate, or an unreadable one.
    #[error("contains no readable PEM certificate")]
    NoCertificate,
    /// The file contains no private key, or an unreadable one.
    #[error("contains no readable PEM private key")]
    NoKey,
    /// The private key needs a passphrase.
    #[error("the private key is encrypted")]
    EncryptedKey,
}

impl PemError {
    /// Returns what the administrator can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Missing => "check the path",
            Self::Unreadable(_) => "let the user that runs the collector read it",
            Self::NotRegular | Self::TooLarge => "check the path, and name the file itself",
            Self::Binary => {
                "convert a PFX: openssl pkcs12 -in app.pfx -out app.pem -nodes; a certificate: openssl x509 -inform DER \
                 -in app.cer -out app.pem"
            }
            Self::NoCertificate => {
                "name the PEM file in which the certificate begins with -----BEGIN CERTIFICATE-----"
            }
            Self::NoKey => "name the PEM file in which the key begins with -----BEGIN PRIVATE KEY-----",
            Self::EncryptedKey => {
                "a service cannot enter its passphrase: decrypt the key with openssl pkey -in app.key -out \
                 decrypted.key, and protect decrypted.key with mode 600"
            }
        }
    }
}

/// Reads a regular file of at most `bytes_max` bytes.
///
/// # Errors
///
/// [`PemError::Missing`], [`PemError::Unreadable`], [`PemError::NotRegular`] or [`PemError::TooLarge`].
pub fn read(path: &Path, bytes_max: u64) -> Result<Vec<u8>, PemError> {
    let unreadable = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => PemError::Missing,
        _ => PemError::Unreadable(error.to_string()),
    };
    // Checked before the file is opened: opening a pipe without a writer blocks.
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(PemError::NotRegular);
    }
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(unreadable)?;
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > bytes_max { Err(PemError::TooLarge) } else { Ok(bytes) }
}

/// Returns the certificates of a PEM file, at least one. Other items, such as keys, are skipped.
///
/// # Errors
///
/// [`PemError::NoCertificate`] or [`PemError::Binary`].
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    match CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>() {
        Ok(found) if !found.is_empty() => Ok(found),
        _ if is_der(pem) => Err(PemError::Binary),
        _ => Err(PemError::NoCertificate),
    }
}

/// Returns the first private key of a PEM file.
///
/// # Errors
///
/// [`PemError::NoKey`], [`PemError::EncryptedKey`] or [`PemError::Binary`].
pub fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, PemError> {
    match PrivateKeyDer::pem_slice_iter(pem).flatten().next() {
        Some(key) => Ok(key),
        None if is_encrypted(pem) => Err(PemError::EncryptedKey),
        None if is_der(pem) => Err(PemError::Binary),
        None => Err(PemError::NoKey),
    }
}

/// Reads the certificates of a file: see [`read`] and [`certificates`].
pub fn certificates_of(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    certificates(&read(path, FILE_BYTES_MAX)?)
}

/// Reads the private key of a file: see [`read`] and [`private_key`].
pub fn private_key_of(path: &Path) -> Result<PrivateKeyDer<'static>, PemError> {
    private_key(&read(path, FILE_BYTES_MAX)?)
}

/// Returns certificates as PEM.
#[cfg(feature = "kafka")]
pub fn text_of(certificates: &[CertificateDer<'_>]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};

    let mut text = String::new();
    for certificate in certificates {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        for line in certificate.chunks(LINE_BYTES) {
            STANDARD.encode_string(line, &mut text);
            text.push('\n');
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}

fn is_der(bytes: &[u8]) -> bool {
    bytes.first() == Some(&DER_SEQUENCE)
}

/// Returns whether the file contains a key that needs a passphrase. PKCS #8 marks it in the first line, PKCS #1 in the
/// second.
fn is_encrypted(pem: &[u8]) -> bool {
    let is_mark = |line: &[u8]| {
        line.starts_with(b"-----BEGIN ENCRYPTED PRIVATE KEY") || line.starts_with(b"Proc-Type: 4,ENCRYPTED")
    };
    pem.split(|byte| matches!(byte, b'\r' | b'\n')).any(is_mark)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_unusable_file_has_its_own_error() {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/certificates"));
        let pem = |name: &str| read(&folder.join(name), FILE_BYTES_MAX).expect(name);
        assert_eq!(certificates(&pem("certificate.pem")).map(|found| found.len()), Ok(1));
        #[cfg(feature = "kafka")]
        assert_eq!(
            certificates(text_of(&certificates(&pem("certificate.pem")).expect("a certificate")).as_bytes()),
            certificates(&pem("certificate.pem"))
        );
        assert_eq!(certificates(&pem("key.pem")), Err(PemError::NoCertificate));
        assert_eq!(certificates(&pem("public-key.der")), Err(PemError::Binary));
        for name in ["key.pem", "combined.pem", "key-pkcs1.pem", "key-elliptic.pem"] {
            assert!(private_key(&pem(name)).is_ok(), "{name}");
        }
        for name in ["key-encrypted.pem", "key-pkcs1-encrypted.pem"] {
            assert_eq!(private_key(&pem(name)), Err(PemError::EncryptedKey), "{name}");
        }
        assert_eq!(private_key(&pem("certificate.pem")), Err(PemError::NoKey));
        assert_eq!(private_key(&pem("public-key.der")), Err(PemError::Binary));
        assert_eq!(read(folder, FILE_BYTES_MAX), Err(PemError::NotRegular));
        assert_eq!(read(&folder.join("absent.pem"), FILE_BYTES_MAX), Err(PemError::Missing));
        assert_eq!(read(&folder.join("key.pem"), 16), Err(PemError::TooLarge));
    }
}
