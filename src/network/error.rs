//! What can go wrong on the way, sorted by what can be done about it.

use std::{io, time::Duration};

use super::{encoding::NotGzip, tls::TlsProblem};
use crate::{
    limits::{RETRY_AFTER_JITTER_MAX, RETRY_DELAY_MAX},
    log::one_line,
};

/// Why no answer came, or none that could be read to its end. Each says with whom.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// No connection, or one that fell silent.
    #[error("{0}")]
    Unreachable(String),
    /// A connection that the other side, or something on the way, closed before the answer was here.
    #[error("{0}")]
    Disconnected(String),
    /// The proxy does not let the request through.
    #[error("{0}")]
    ProxyRefused(String),
    /// The other side's certificate is not trusted.
    #[error("the server's certificate is not trusted: {0}")]
    UntrustedCertificate(String),
    /// TLS to a receiver failed.
    #[error("{0}")]
    Tls(TlsProblem),
    /// A body that is not what its headers say.
    #[error("the answer is {0}")]
    Malformed(&'static str),
}

/// How the standard library says that a name was not found, and …
const STD_UNRESOLVED: &str = "failed to lookup address information";
/// … how we say it.
const UNRESOLVED: &str = "the name cannot be resolved";

impl NetworkError {
    /// What happened, without the peer and the details.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "no answer",
            Self::Disconnected(_) => "the connection was closed",
            Self::ProxyRefused(_) => "the proxy refuses the request",
            Self::UntrustedCertificate(_) => "an untrusted certificate",
            Self::Tls(_) => "TLS failed",
            Self::Malformed(what) => what,
        }
    }

    /// Whether it may be over the next time.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Disconnected(_) | Self::Malformed(_) => true,
            Self::ProxyRefused(_) | Self::UntrustedCertificate(_) => false,
            Self::Tls(problem) => problem.is_transient,
        }
    }

    /// What a person can do about it; empty where only waiting helps, and for TLS to a receiver, whose problem has its
    /// own hint.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Unreachable(_) | Self::Disconnected(_) => {
                "check DNS, the firewall, and the proxy setting if there is one"
            }
            Self::ProxyRefused(_) => {
                "give the proxy's user and password as http://user:password@host:port, and have it let this host through"
            }
            Self::UntrustedCertificate(_) => {
                "if a proxy opens TLS on the way, give its root certificate in ca_file; otherwise check this machine's \
                 clock and its root certificates, or somebody listens in"
            }
            Self::Tls(_) | Self::Malformed(_) => "",
        }
    }

    /// What ureq says. `peer` is what was connected to.
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
            ureq::Error::ConnectProxyFailed(answer) if is_refusal_of_proxy(&answer) => {
                Self::ProxyRefused(about_peer(&answer))
            }
            ureq::Error::Other(error) => match error.downcast::<TlsProblem>() {
                Ok(problem) => Self::Tls(*problem),
                Err(error) => Self::Unreachable(about_peer(&error.to_string())),
            },
            other => Self::Unreachable(about_peer(&other.to_string())),
        }
    }

    /// What went wrong while a body was read.
    pub fn from_body(peer: &str, error: io::Error) -> Self {
        if error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<NotGzip>) {
            return Self::Malformed("not the gzip that it claims to be");
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

    /// A certificate that is not trusted is no passing trouble; everything else about TLS can be one.
    fn from_tls(peer: &str, error: &rustls::Error) -> Self {
        let message = format!("{peer}: {}", one_line(&error.to_string()));
        match error {
            rustls::Error::InvalidCertificate(_)
            | rustls::Error::NoCertificatesPresented
            | rustls::Error::General(_) => Self::UntrustedCertificate(message), // General: the system has no roots at all
            rustls::Error::InvalidMessage(_) => {
                Self::Unreachable(format!("{peer}: what is spoken there is no TLS"))
            }
            _ => Self::Unreachable(message),
        }
    }
}

/// Whether a connection was closed, by the other side or by something on the way.
fn is_disconnection(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(kind, UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe)
}

/// Whether a proxy that would not connect said no for good: `proxy server responded 407/407`. With any other status it
/// has met trouble of its own.
fn is_refusal_of_proxy(answer: &str) -> bool {
    let status = answer.rsplit('/').next().and_then(|status| status.parse().ok());
    status.is_some_and(|status: u16| (400..500).contains(&status) && !matches!(status, 408 | 429))
}

/// How long to wait before the next try: `first` after the first failure, doubled from try to try, up to
/// [`RETRY_DELAY_MAX`], and of that between a half and the whole, so that many clients do not come back in step.
/// `tries` counts those that failed, from 1; `jitter` is between 0 and 1.
pub fn delay(first: Duration, tries: u32, jitter: f64) -> Duration {
    let doubled = first.saturating_mul(1 << tries.saturating_sub(1).min(16)).min(RETRY_DELAY_MAX);
    doubled.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
}

/// Returns the wait after an answer that asks for one: what it asks for, and up to a quarter more, so that several
/// clients do not come back at the same moment. The addition is [`RETRY_AFTER_JITTER_MAX`] at most; `jitter` is between
/// 0 and 1.
pub fn delay_as_asked(asked: Duration, jitter: f64) -> Duration {
    let addition = (asked / 4).min(RETRY_AFTER_JITTER_MAX).mul_f64(jitter.clamp(0.0, 1.0));
    asked.saturating_add(addition)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_that_is_asked_for_is_kept_and_a_little_longer() {
        let second = Duration::from_secs(1);
        assert_eq!(delay_as_asked(second, 0.0), second);
        assert_eq!(delay_as_asked(second, 1.0), second + second / 4);
        assert_eq!(delay_as_asked(900 * second, 1.0), 900 * second + RETRY_AFTER_JITTER_MAX);
        assert_eq!(delay_as_asked(Duration::MAX, 1.0), Duration::MAX);
    }

    #[test]
    fn delays_double_up_to_a_bound_and_keep_half_of_it_at_least() {
        let second = Duration::from_secs(1);
        assert_eq!(delay(second, 1, 1.0), second);
        assert_eq!(delay(second, 3, 1.0), 4 * second);
        assert_eq!(delay(second, 3, 0.0), 2 * second);
        assert_eq!(delay(second, u32::MAX, 1.0), RETRY_DELAY_MAX);
    }
}
