//! The certificate of an app and its private key, from PEM files.
//!
//! Two fields of the certificate are read: its expiry and its public key. The login endpoint verifies the rest.

use std::{fmt, path::Path};

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use ring::{
    digest,
    rand::SystemRandom,
    signature::{RSA_PSS_SHA256, RsaKeyPair},
};
use rustls_pki_types::PrivateKeyDer;

use super::credential_file::{CredentialError, CredentialFile, CredentialProblem};
use crate::network::pem::{self, PemError};

/// A certificate and the private key that belongs to it. `Debug` shows neither.
pub struct Certificate {
    der: Vec<u8>,
    key: RsaKeyPair,
}

impl Certificate {
    /// Reads both; the key is in the file of the certificate unless `key_file` names another one. A file may contain
    /// several certificates, such as a chain: the one with the public half of the key is used, and of several of those
    /// the one that expires last.
    pub fn read(file: &Path, key_file: Option<&Path>, now: Timestamp) -> Result<Self, CredentialError> {
        let (certificate, expires) = Self::read_with_expiry(file, key_file)?;
        if expires < now {
            return Err(
                CredentialFile::new("certificate.file", file).error(CredentialProblem::Expired(expires))
            );
        }
        Ok(certificate)
    }

    /// Returns when the certificate that [`Self::read`] would use expires, or has expired. `None` if it cannot be read.
    pub fn expiry(file: &Path, key_file: Option<&Path>) -> Option<Timestamp> {
        Self::read_with_expiry(file, key_file).ok().map(|(_, expires)| expires)
    }

    fn read_with_expiry(file: &Path, key_file: Option<&Path>) -> Result<(Self, Timestamp), CredentialError> {
        let file = CredentialFile::new("certificate.file", file);
        let key_file = key_file.map(|path| CredentialFile::new("certificate.key_file", path));
        let pem = file.read()?;
        let certificates = certificates(&pem).map_err(|error| file.error(error))?;
        let key = match &key_file {
            Some(key_file) => private_key(&key_file.read()?),
            None => private_key(&pem),
        };
        let key_file = key_file.unwrap_or_else(|| file.clone());
        let key = key.map_err(|problem| key_file.error(problem))?;

        let own = certificates.into_iter().filter(|(_, fields)| fields.public_key == key.public().as_ref());
        let (der, Fields { expires, .. }) = own
            .max_by_key(|(_, fields)| fields.expires)
            .ok_or_else(|| key_file.error(CredentialProblem::AnotherKey))?;
        Ok((Self { der, key }, expires))
    }

    /// Returns the SHA-256 digest of the certificate in DER, by which the login endpoint finds it among those of the app.
    pub fn thumbprint(&self) -> digest::Digest {
        digest::digest(&digest::SHA256, &self.der)
    }

    /// Signs a message with RSASSA-PSS and SHA-256, which JWT calls PS256 (RFC 7518, section 3.5).
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let mut signature = vec![0; self.key.public().modulus_len()];
        self.key
            .sign(&RSA_PSS_SHA256, &SystemRandom::new(), message, &mut signature)
            .expect("the system has random numbers, and a signature is as long as its key's modulus");
        signature
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Certificate(…)")
    }
}

/// Returns the readable certificates of a PEM file, at least one, each in DER and with its fields.
fn certificates(pem: &[u8]) -> Result<Vec<(Vec<u8>, Fields)>, PemError> {
    let found = pem::certificates(pem)?.into_iter();
    let found: Vec<_> = found.filter_map(|der| Some((der.to_vec(), Fields::read(&der)?))).collect();
    if found.is_empty() { Err(PemError::NoCertificate) } else { Ok(found) }
}

/// Returns the first private key of a PEM file.
fn private_key(pem: &[u8]) -> Result<RsaKeyPair, CredentialProblem> {
    let key = match pem::private_key(pem)? {
        PrivateKeyDer::Pkcs8(key) => RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()),
        PrivateKeyDer::Pkcs1(key) => RsaKeyPair::from_der(key.secret_pkcs1_der()),
        _ => return Err(CredentialProblem::NotRsa),
    };
    key.map_err(|rejected| match rejected.to_string() {
        reason if reason == "WrongAlgorithm" => CredentialProblem::NotRsa,
        reason => CredentialProblem::UnfitKey(reason),
    })
}

const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// The tag of the version: the only field before the serial number, and optional.
const VERSION: u8 = 0xa0;

/// The fields of a certificate that are used (RFC 5280, section 4.1).
struct Fields {
    /// `notAfter`
    expires: Timestamp,
    /// The RSA key in DER: modulus and exponent (RFC 8017, appendix A.1.1).
    public_key: Vec<u8>,
}

impl Fields {
    fn read(mut der: &[u8]) -> Option<Self> {
        let (_, mut certificate) = value(&mut der)?;
        let (_, mut signed) = value(&mut certificate)?;
        if signed.first() == Some(&VERSION) {
            value(&mut signed)?;
        }
        let mut next = || value(&mut signed).map(|(_, content)| content);
        let (_serial_number, _algorithm, _issuer) = (next()?, next()?, next()?);
        let (mut validity, _subject, mut key) = (next()?, next()?, next()?);
        let (_not_before, not_after) = (value(&mut validity)?, value(&mut validity)?);
        let (_algorithm, (_, bits)) = (value(&mut key)?, value(&mut key)?);
        let (_unused_bits, public_key) = bits.split_first()?;
        Some(Self { expires: time(not_after)?, public_key: public_key.to_vec() })
    }
}

/// Splits off the first value and returns its tag and content (X.690, section 8.1).
fn value<'a>(der: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (&[tag, length], rest) = der.split_first_chunk()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(length - 0x80))?;
            (digits.iter().fold(0, |number, &digit| number << 8 | usize::from(digit)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    *der = rest;
    Some((tag, content))
}

/// Parses `YYMMDDHHMMSSZ`, for the years 1950 to 2049, or `YYYYMMDDHHMMSSZ` (RFC 5280, section 4.1.2.5).
fn time((tag, digits): (u8, &[u8])) -> Option<Timestamp> {
    let digits = str::from_utf8(digits).ok()?;
    let century = match tag {
        UTC_TIME if digits < "50" => "20",
        UTC_TIME => "19",
        GENERALIZED_TIME => "",
        _ => return None,
    };
    let time = DateTime::strptime("%Y%m%d%H%M%SZ", format!("{century}{digits}")).ok()?;
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CERTIFICATE: &[u8] = include_bytes!("../../tests/certificates/certificate.pem");
    const EXPIRED: &[u8] = include_bytes!("../../tests/certificates/expired.pem");
    const KEY: &[u8] = include_bytes!("../../tests/certificates/key.pem");

    fn der(pem: &[u8]) -> Vec<u8> {
        pem::certificates(pem).expect("a certificate")[0].to_vec()
    }

    #[test]
    fn parses_both_time_formats() {
        let expires = |pem| Fields::read(&der(pem)).expect("a certificate").expires.to_string();
        assert_eq!(expires(CERTIFICATE), "2120-01-01T00:00:00Z");
        assert_eq!(expires(EXPIRED), "2021-01-01T00:00:00Z");
        assert_eq!(
            time((UTC_TIME, b"991231235959Z")).map(|time| time.to_string()).as_deref(),
            Some("1999-12-31T23:59:59Z")
        );
        assert_eq!(time((UTC_TIME, b"99123123\xff959Z")), None);
        assert_eq!(time((0x30, b"991231235959Z")), None);
    }

    #[test]
    fn certificate_and_key_have_the_same_public_key() {
        let key = private_key(KEY).expect("a key");
        assert_eq!(Fields::read(&der(CERTIFICATE)).expect("a certificate").public_key, key.public().as_ref());
    }

    #[test]
    fn damaged_certificate_does_not_panic() {
        let whole = der(CERTIFICATE);
        for length in 0..whole.len() {
            assert!(Fields::read(&whole[..length]).is_none(), "{length} bytes of {}", whole.len());
        }
        for place in 0..whole.len() {
            for byte in [0, 0x7f, 0x80, 0x84, 0xff] {
                let mut changed = whole.clone();
                changed[place] = byte;
                let _ = Fields::read(&changed);
            }
        }
    }

    #[test]
    fn debug_output_contains_no_key() {
        let file = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/certificates/combined.pem"));
        let certificate = Certificate::read(file, None, Timestamp::now()).expect("a certificate");
        assert_eq!(format!("{certificate:?}"), "Certificate(…)");
    }
}
