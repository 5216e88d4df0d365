//! The files that hold a credential: an app certificate, its private key, or a federated token.
//!
//! The program reads them at each login and not with the configuration. So one tenant's unusable file stops no other
//! tenant, a login in mid-pass uses a renewed file, and no key stays in memory between logins.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use jiff::Timestamp;

use crate::{
    limits::SECRET_BYTES_MAX,
    network::pem::{self, PemError},
};

/// The file of a credential: the configuration key that names it, and its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialFile {
    /// E.g. `certificate.key_file`.
    pub key: &'static str,
    /// The path as configured.
    pub path: PathBuf,
}

/// An error returned when the file of a credential cannot be used. No request was sent. It repeats nothing that the
/// file contains.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {problem}")]
pub struct CredentialError {
    /// The file.
    pub file: CredentialFile,
    /// What is wrong with it.
    pub problem: CredentialProblem,
}

/// What is wrong with the file of a credential.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialProblem {
    /// The file cannot be read, or is not a PEM file with the item that is needed.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// The file does not contain exactly one line of printable ASCII.
    #[error("contains no token")]
    NoToken,
    /// The private key is of another kind, such as an elliptic-curve key.
    #[error("the private key is not an RSA key")]
    NotRsa,
    /// An RSA key that cannot sign.
    #[error("the private key cannot sign ({0})")]
    UnfitKey(String),
    /// None of the certificates has the public half of this key.
    #[error("the private key does not belong to the certificate")]
    AnotherKey,
    /// The certificate has expired, by this machine's clock.
    #[error("the certificate expired at {0}")]
    Expired(Timestamp),
}

impl CredentialError {
    /// Returns what the administrator can do about it.
    pub fn hint(&self) -> &'static str {
        match &self.problem {
            CredentialProblem::Pem(PemError::NoKey) => {
                "put the key, from -----BEGIN PRIVATE KEY----- to its end, into this file, or name its own file in \
                 certificate.key_file"
            }
            CredentialProblem::Pem(error) => error.hint(),
            CredentialProblem::NoToken => "check the path, and the program that writes the token",
            CredentialProblem::NotRsa | CredentialProblem::UnfitKey(_) => {
                "create a certificate with an RSA key of 2048 to 4096 bits, and register it with the app"
            }
            CredentialProblem::AnotherKey => "name the key that the certificate was created with",
            CredentialProblem::Expired(_) => {
                "create a new one and register it with the app under Certificates & secrets, or check this machine's clock"
            }
        }
    }
}

impl CredentialFile {
    /// Returns the file at `path` that the configuration names under `key`.
    pub fn new(key: &'static str, path: &Path) -> Self {
        Self { key, path: path.to_owned() }
    }

    /// Reads the whole file, at most [`SECRET_BYTES_MAX`] bytes.
    pub fn read(&self) -> Result<Vec<u8>, CredentialError> {
        pem::read(&self.path, SECRET_BYTES_MAX).map_err(|error| self.error(error))
    }

    /// Returns the error that this file has the given problem.
    pub fn error(&self, problem: impl Into<CredentialProblem>) -> CredentialError {
        CredentialError { file: self.clone(), problem: problem.into() }
    }
}

impl fmt::Display for CredentialFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.key, self.path.display())
    }
}
