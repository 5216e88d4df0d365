//! A certificate and its private key, from PEM files.
//!
//! Of the certificate only two fields are read, its end and its public key; whether it is the right one is for the
//! login endpoint to say.

use std::{fmt, path::Path};

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use ring::{
    digest,
    rand::SystemRandom,
    signature::{RSA_PSS_SHA256, RsaKeyPair},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use super::credential_file::{CredentialFile, Fault, Unusable};

/// A certificate, and the key that belongs to it. `Debug` shows neither.
pub struct Certificate {
    der: Vec<u8>,
    key: RsaKeyPair,
}

impl Certificate {
    /// Reads both, the key from the certificate's file if it has none of its own. Of several certificates in the file,
    /// such as a chain, the key's own is taken; of several of those, the one that lasts longest.
    pub fn read(file: &Path, key_file: Option<&Path>, now: Timestamp) -> Result<Self, Unusable> {
        let (certificate, expires) = Self::read_with_expiry(file, key_file)?;
        if expires < now {
            return Err(CredentialFile::new("certificate.file", file).unusable(Fault::Expired(expires)));
        }
        Ok(certificate)
    }

    /// When the certificate that would be read ends, or has ended; `None` if there is none.
    pub fn expiry(file: &Path, key_file: Option<&Path>) -> Option<Timestamp> {
        Self::read_with_expiry(file, key_file).ok().map(|(_, expires)| expires)
    }

    fn read_with_expiry(file: &Path, key_file: Option<&Path>) -> Result<(Self, Timestamp), Unusable> {
        let file = CredentialFile::new("certificate.file", file);
        let key_file = key_file.map(|path| CredentialFile::new("certificate.key_file", path));
        let pem = file.read()?;
        let certificates = certificates(&pem).map_err(|fault| file.unusable(fault))?;
        let key = match &key_file {
            Some(key_file) => private_key(&key_file.read()?),
            None => private_key(&pem),
        };
        let key_file = key_file.unwrap_or_else(|| file.clone());
        let key = key.map_err(|fault| key_file.unusable(fault))?;

        let own = certificates.into_iter().filter(|(_, fields)| fields.public_key == key.public().as_ref());
        let (der, Fields { expires, .. }) = own
            .max_by_key(|(_, fields)| fields.expires)
            .ok_or_else(|| key_file.unusable(Fault::AnotherKey))?;
        Ok((Self { der, key }, expires))
    }

    /// SHA-256 of the certificate's DER form: by it the login endpoint finds the certificate among the app's.
    pub fn thumbprint(&self) -> digest::Digest {
        digest::digest(&digest::SHA256, &self.der)
    }

    /// The message's signature by the key: RSASSA-PSS with SHA-256, in JWT's words PS256 (RFC 7518, section 3.5).
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

/// The readable certificates of a PEM file, one at least, each with what it says.
fn certificates(pem: &[u8]) -> Result<Vec<(Vec<u8>, Fields)>, Fault> {
    let readable = |der: CertificateDer| Some((der.to_vec(), Fields::read(&der)?));
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem).flatten().filter_map(readable).collect();
    match pem {
        _ if !found.is_empty() => Ok(found),
        [SEQUENCE, ..] => Err(Fault::Binary),
        _ => Err(Fault::NoCertificate),
    }
}

/// The first private key of a PEM file.
fn private_key(pem: &[u8]) -> Result<RsaKeyPair, Fault> {
    let key = match PrivateKeyDer::pem_slice_iter(pem).flatten().next() {
        Some(PrivateKeyDer::Pkcs8(key)) => RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()),
        Some(PrivateKeyDer::Pkcs1(key)) => RsaKeyPair::from_der(key.secret_pkcs1_der()),
        Some(_) => return Err(Fault::NotRsa),
        None if is_encrypted(pem) => return Err(Fault::EncryptedKey),
        None if pem.first() == Some(&SEQUENCE) => return Err(Fault::Binary),
        None => return Err(Fault::NoKey),
    };
    key.map_err(|rejected| match rejected.to_string() {
        word if word == "WrongAlgorithm" => Fault::NotRsa,
        word => Fault::UnfitKey(word),
    })
}

/// Whether there is a key that asks for a passphrase: PKCS#8 says so in its first line, PKCS#1 in its second.
fn is_encrypted(pem: &[u8]) -> bool {
    let begins = |line: &[u8]| {
        line.starts_with(b"-----BEGIN ENCRYPTED PRIVATE KEY") || line.starts_with(b"Proc-Type: 4,ENCRYPTED")
    };
    pem.split(|byte| matches!(byte, b'\r' | b'\n')).any(begins)
}

const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// The tag of the version, the only field before the serial number, and one that can lack.
const VERSION: u8 = 0xa0;

/// What is read of a certificate (RFC 5280, section 4.1).
struct Fields {
    /// `notAfter`
    expires: Timestamp,
    /// An RSA key as its modulus and its exponent, in DER (RFC 8017, appendix A.1.1).
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

/// Takes the first value off: its tag and its content (X.690, section 8.1).
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

/// `YYMMDDHHMMSSZ`, of the years 1950 to 2049, or `YYYYMMDDHHMMSSZ` (RFC 5280, section 4.1.2.5).
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
        CertificateDer::from_pem_slice(pem).expect("a certificate").to_vec()
    }

    #[test]
    fn both_forms_of_times_are_read() {
        let expires = |pem| Fields::read(&der(pem)).expect("a certificate").expires.to_string();
        assert_eq!(expires(CERTIFICATE), "2120-01-01T00:00:00Z");
        assert_eq!(expires(EXPIRED), "2021-01-01T00:00:00Z");
        assert_eq!(
            time((UTC_TIME, b"991231235959Z")).map(|time| time.to_string()).as_deref(),
            Some("1999-12-31T23:59:59Z")
        );
        assert_eq!(time((UTC_TIME, b"99123123\xff959Z")), None);
        assert_eq!(time((SEQUENCE, b"991231235959Z")), None);
    }

    #[test]
    fn the_public_key_is_that_of_the_private_one() {
        let key = private_key(KEY).expect("a key");
        assert_eq!(Fields::read(&der(CERTIFICATE)).expect("a certificate").public_key, key.public().as_ref());
    }

    #[test]
    fn a_certificate_that_is_cut_short_or_changed_never_panics() {
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
    fn debug_shows_no_key() {
        let file = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/certificates/combined.pem"));
        let certificate = Certificate::read(file, None, Timestamp::now()).expect("a certificate");
        assert_eq!(format!("{certificate:?}"), "Certificate(…)");
    }
}
