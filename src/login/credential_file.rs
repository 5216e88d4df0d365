//! The files that a credential is kept in: what they hold, or what is wrong with them, in words for whoever can mend
//! it.
//!
//! They are read at each login and not with the configuration: one tenant's file takes down no other tenant, what is
//! renewed while a pass runs is taken up by its next login, and no key is kept from one login to the next.

use std::{
    fmt, fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use jiff::Timestamp;

use crate::limits::SECRET_BYTES_MAX;

/// A credential's file: the key of the configuration that names it, and its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialFile {
    /// E.g. `certificate.key_file`.
    pub key: &'static str,
    /// As configured.
    pub path: PathBuf,
}

/// A credential's file cannot be used: nothing was sent. Nothing of what it holds is repeated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {fault}")]
pub struct Unusable {
    /// Which one.
    pub file: CredentialFile,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What is wrong with a credential's file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// There is none.
    #[error("there is no such file")]
    Missing,
    /// The system does not give it.
    #[error("the file cannot be read: {0}")]
    Unreadable(String),
    /// A folder, or whatever else cannot be read again at the next login.
    #[error("is no regular file")]
    NoFile,
    /// More than [`SECRET_BYTES_MAX`].
    #[error("the file is too large")]
    TooLarge,
    /// No text of one line.
    #[error("holds no token")]
    NoToken,
    /// ASN.1 without PEM's text around it.
    #[error("is a binary file, but PEM is needed")]
    Binary,
    /// No certificate in it, or none that can be read.
    #[error("holds no readable PEM certificate")]
    NoCertificate,
    /// No key in it, or none that can be read.
    #[error("holds no readable PEM private key")]
    NoKey,
    /// The key asks for a passphrase.
    #[error("the private key is encrypted")]
    EncryptedKey,
    /// An elliptic one, for example.
    #[error("the private key is not an RSA key")]
    NotRsa,
    /// An RSA key that cannot sign.
    #[error("the private key cannot sign ({0})")]
    UnfitKey(String),
    /// None of the certificates has this key's public half.
    #[error("the private key does not belong to the certificate")]
    AnotherKey,
    /// It is no longer valid, by this machine's clock.
    #[error("the certificate expired at {0}")]
    Expired(Timestamp),
}

impl Fault {
    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Missing => "check the path",
            Self::Unreadable(_) => "let the user that runs the collector read it",
            Self::NoFile | Self::TooLarge => "check the path, and name the file itself",
            Self::NoToken => "check what writes the token there, and the path",
            Self::Binary => {
                "convert a PFX: openssl pkcs12 -in app.pfx -out app.pem -nodes; a certificate: openssl x509 -inform DER \
                 -in app.cer -out app.pem"
            }
            Self::NoCertificate => {
                "name the PEM file that begins its certificate with -----BEGIN CERTIFICATE-----"
            }
            Self::NoKey => {
                "put the key, from -----BEGIN PRIVATE KEY----- to its end, into this file, or name its own file in \
                 certificate.key_file"
            }
            Self::EncryptedKey => {
                "nobody is there to type its passphrase: decrypt it with openssl pkey -in app.key -out decrypted.key, \
                 and let only the collector's user read it"
            }
            Self::NotRsa | Self::UnfitKey(_) => {
                "make a certificate with an RSA key of 2048 to 4096 bits, and register it with the app"
            }
            Self::AnotherKey => "name the key that the certificate was made with",
            Self::Expired(_) => {
                "make a new one and register it with the app under Certificates & secrets, or check this machine's clock"
            }
        }
    }
}

impl CredentialFile {
    /// The file that this key of the configuration names.
    pub fn new(key: &'static str, path: &Path) -> Self {
        Self { key, path: path.to_owned() }
    }

    /// All that it holds.
    pub fn read(&self) -> Result<Vec<u8>, Unusable> {
        let unreadable = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => self.unusable(Fault::Missing),
            _ => self.unusable(Fault::Unreadable(error.to_string())),
        };
        // Asked first: opening a pipe that nobody writes to would wait for ever.
        if !fs::metadata(&self.path).map_err(unreadable)?.is_file() {
            return Err(self.unusable(Fault::NoFile));
        }
        let mut bytes = Vec::new();
        let file = fs::File::open(&self.path).map_err(unreadable)?;
        file.take(SECRET_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > SECRET_BYTES_MAX {
            return Err(self.unusable(Fault::TooLarge));
        }
        Ok(bytes)
    }

    /// That it cannot be used.
    pub fn unusable(&self, fault: Fault) -> Unusable {
        Unusable { file: self.clone(), fault }
    }
}

impl fmt::Display for CredentialFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.key, self.path.display())
    }
}
