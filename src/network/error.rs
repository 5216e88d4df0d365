//! Network errors, by what can be done about them.

use std::io;

use super::{encoding::NotGzip, tls::TlsProblem};
use crate::redact::one_line;

/// An error returned when no complete response arrives. Its message names the peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// No connection, or no response in time.
    #[error("{0}")]
    Unreachable(String),
    /// The peer, or a device in between, closed the connection before the response was complete.
    #[error("{0}")]
    Disconnected(String),
    /// The proxy rejects the request.
    #[error("{0}")]
    ProxyRejected(String),
    /// The server's certificate is not trusted.
    #[error("the server's certificate is not trusted: {0}")]
    UntrustedCertificate(String),
    /// TLS with a receiver failed.
    #[error("{0}")]
    Tls(TlsProblem),
    /// The body is not what its headers say.
    #[error("the answer is {0}")]
    Malformed(&'static str),
}

/// The standard library's message for a name that was not found, …
const STD_UNRESOLVED: &str = "failed to lookup address information";
/// … and the message of this program.
const UNRESOLVED: &str = "the name cannot be resolved";

impl NetworkError {
    /// Returns the kind of error in words, without the peer and the details.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "no answer",
            Self::Disconnected(_) => "the connection was closed",
            Self::ProxyRejected(_) => "the proxy rejects the request",
            Self::UntrustedCertificate(_) => "an untrusted certificate",
            Self::Tls(_) => "TLS failed",
            Self::Malformed(what) => what,
        }
    }

    /// Returns whether another attempt can succeed without a change here or at the peer.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Disconnected(_) | Self::Malformed(_) => true,
            Self::ProxyRejected(_) | Self::UntrustedCertificate(_) => false,
            Self::Tls(problem) => problem.is_transient,
        }
    }

    /// Returns what the administrator can do about it. Empty where only waiting helps, and for [`Self::Tls`], which has a
    /// hint of its own.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Unreachable(_) | Self::Disconnected(_) => {
                "check DNS, the firewall, and the proxy setting if there is one"
            }
            Self::ProxyRejected(_) => {
                "give the proxy's user and password as http://user:password@host:port, and allow this host in the proxy"
            }
            Self::UntrustedCertificate(_) => {
                "if a proxy inspects TLS, give its root certificate in ca_file; otherwise check this machine's clock \
                 and root certificates: the connection may be intercepted"
            }
            Self::Tls(_) | Self::Malformed(_) => "",
        }
    }

    /// Converts an error of ureq; `peer` names the other side.
    pub fn from_ureq(peer: &str, error: ureq::Error) -> Self {
        let about_peer = |problem: &str| format!("{peer}: {}", one_line(problem));
        match error {
            ureq::Error::Timeout(which) => {
                Self::Unreachable(about_peer(&format!("no answer in time ({which})")))
            }
            ureq::Error::HostNotFound => Self::Unreachable(about_peer(UNRESOLVED)),
            ureq::Error::Io(error) => match error.get_ref().and_then(|inner| inner.downcast_ref()) {
                Some(error) => Self::from_tls(peer, error),
                None => Self::from_io(peer, &error),
            },
            ureq::Error::Rustls(error) => Self::from_tls(peer, &error),
            ureq::Error::ConnectProxyFailed(answer) if is_rejection_by_proxy(&answer) => {
                Self::ProxyRejected(about_peer(&answer))
            }
            ureq::Error::Other(error) => match error.downcast::<TlsProblem>() {
                Ok(problem) => Self::Tls(*problem),
                Err(error) => Self::Unreachable(about_peer(&error.to_string())),
            },
            other => Self::Unreachable(about_peer(&other.to_string())),
        }
    }

    /// Converts an error met while a body was read.
    pub fn from_body(peer: &str, error: io::Error) -> Self {
        if error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<NotGzip>) {
            return Self::Malformed("not the gzip data that its header declares");
        }
        match ureq::Error::from(error) {
            ureq::Error::Io(error) if is_disconnection(error.kind()) => Self::Malformed("cut short"),
            other => Self::from_ureq(peer, other),
        }
    }

    fn from_io(peer: &str, error: &io::Error) -> Self {
        let text = error.to_string();
        let problem = match text.strip_prefix(STD_UNRESOLVED) {
            Some(reason) => format!("{UNRESOLVED}{reason}"),
            None => text,
        };
        let message = format!("{peer}: {}", one_line(&problem));
        if is_disconnection(error.kind()) { Self::Disconnected(message) } else { Self::Unreachable(message) }
    }

    /// Converts an error of rustls. Only an untrusted certificate is not transient.
    fn from_tls(peer: &str, error: &rustls::Error) -> Self {
        let message = format!("{peer}: {}", one_line(&error.to_string()));
        match error {
            rustls::Error::InvalidCertificate(_)
            | rustls::Error::NoCertificatesPresented
            | rustls::Error::General(_) => Self::UntrustedCertificate(message), // General: the system has no root certificates
            rustls::Error::InvalidMessage(_) => {
                Self::Unreachable(format!("{peer}: the port does not speak TLS"))
            }
            _ => Self::Unreachable(message),
        }
    }
}

/// Returns whether the error means that the connection was closed.
fn is_disconnection(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(kind, UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe)
}

/// Returns whether a proxy rejected the connection permanently, as in `proxy server responded 407/407`. Other statuses are
/// transient errors of the proxy.
fn is_rejection_by_proxy(answer: &str) -> bool {
    let status = answer.rsplit('/').next().and_then(|status| status.parse().ok());
    status.is_some_and(|status: u16| (400..500).contains(&status) && !matches!(status, 408 | 429))
}
