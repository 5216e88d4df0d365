//! Why a request brought nothing usable, typed: two decisions hang on it, "try again?" ([`super::retry`]) and what a
//! person is told to do about it ([`Failure::mend`]).

use std::{io, time::Duration};

use jiff::Timestamp;
use serde::Deserialize;
use ureq::http::HeaderMap;

use super::credential_file;
use crate::{log::one_line, time};

/// What came instead of the answer that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The other side answered, and said no.
    #[error("{}", refusal(*.status, .code, .message))]
    Refused {
        /// The HTTP status.
        status: u16,
        /// `AF20022`, `AADSTS7000215`, or empty where the answer named none.
        code: String,
        /// The answer's own words: one line, cut to a sensible length.
        message: String,
        /// How long it asks us to wait.
        retry_after: Option<Duration>,
        /// The server's clock, by the answer's `Date`.
        server_time: Option<Timestamp>,
    },
    /// No connection, or one that fell silent.
    #[error("{0}")]
    Network(String),
    /// A connection that the other side, or something on the way, closed before the answer was here.
    #[error("{0}")]
    Disconnected(String),
    /// The proxy does not let the request through.
    #[error("{0}")]
    NoPassage(String),
    /// The other side's certificate is not trusted.
    #[error("the server's certificate is not trusted: {0}")]
    Untrusted(String),
    /// An answer that is not what this request's answers are.
    #[error("the answer is {0}")]
    Malformed(String),
    /// A body beyond `curl_max_size`.
    #[error("the body is larger than curl_max_size ({limit_bytes} bytes)")]
    TooLarge {
        /// The limit that it passed.
        limit_bytes: usize,
    },
    /// A URL that is not on the API's own host: the token is not sent there.
    #[error("{what} {url} is not on the API's host {api_url}: no token was sent there")]
    ForeignUrl {
        /// `contentUri` or `NextPageUri`.
        what: &'static str,
        /// As it came, without its query.
        url: String,
        /// The configured origin.
        api_url: String,
    },
    /// A redirect: never followed, because a token would go along.
    #[error("HTTP {status}: the API redirects to {location}, which is not followed")]
    Redirected {
        /// The HTTP status.
        status: u16,
        /// Where it points, without its query.
        location: String,
    },
    /// The file of the tenant's credential cannot be used: nothing was asked.
    #[error(transparent)]
    Credential(#[from] credential_file::Unusable),
}

fn refusal(status: u16, code: &str, message: &str) -> String {
    let mut words = Vec::new();
    if !code.starts_with("AADSTS") {
        words.push(format!("HTTP {status}"));
    }
    words.extend([code, message].into_iter().filter(|text| !text.is_empty()).map(str::to_owned));
    words.join(" ")
}

/// The code that Microsoft documents only as a sentence: auditing is not turned on in the tenant.
const AUDITING_OFF: &str = "does not exist";

impl Failure {
    /// The code that Microsoft gave, empty if none.
    pub fn code(&self) -> &str {
        match self {
            Self::Refused { code, .. } => code,
            _ => "",
        }
    }

    /// Whether the tenant's unified audit log was never turned on.
    ///
    /// Source: "Office 365 Management APIs troubleshooting": a `DataServiceException` "Tenant … does not exist".
    pub fn is_auditing_off(&self) -> bool {
        matches!(self, Self::Refused { message, .. } if message.contains("Tenant") && message.contains(AUDITING_OFF))
    }

    /// What a person can do about it; empty where only waiting helps.
    ///
    /// Source of the codes: "Microsoft Entra authentication and authorization error codes" and "Office 365 Management
    /// Activity API reference", section "Errors".
    pub fn mend(&self) -> &'static str {
        if self.is_auditing_off() {
            return "turn auditing on: Set-AdminAuditLogConfig -UnifiedAuditLogIngestionEnabled $true in Exchange \
                    Online PowerShell, then allow up to 24 hours";
        }
        match self {
            Self::Refused { status, code, .. } => mend_of_code(code, *status),
            Self::Network(_) | Self::Disconnected(_) => {
                "check DNS, the firewall, and the proxy setting if there is one"
            }
            Self::NoPassage(_) => {
                "give the proxy's user and password as http://user:password@host:port, and have it let this host through"
            }
            Self::Untrusted(_) => {
                "if a proxy opens TLS on the way, give its root certificate in ca_file; otherwise check this machine's \
                 clock and its root certificates, or somebody listens in"
            }
            Self::TooLarge { .. } => "raise curl_max_size",
            Self::ForeignUrl { .. } | Self::Redirected { .. } => {
                "check api_type, login_url and api_url of the tenant, and what stands between here and Microsoft"
            }
            Self::Credential(unusable) => unusable.fault.mend(),
            Self::Malformed(_) => "",
        }
    }

    /// All that an administrator needs to hear: what happened, and what to do. Where a login failed for a reason that is
    /// known, that reason in our own words.
    pub fn advice(&self) -> String {
        match (self.code(), self.mend()) {
            (_, "") => format!("{self}; the next pass tries again"),
            (code, mend) if code.starts_with("AADSTS") => format!("{code} {mend}"),
            (_, mend) => format!("{self}; {mend}"),
        }
    }

    /// What ureq says, sorted by what can be done about it. `peer` is what was connected to.
    pub(super) fn from_ureq(peer: &str, error: ureq::Error) -> Self {
        let about_peer = |problem: &str| format!("{peer}: {}", one_line(problem));
        match error {
            ureq::Error::Timeout(which) => Self::Network(about_peer(&format!("no answer in time ({which})"))),
            ureq::Error::HostNotFound => Self::Network(about_peer(UNRESOLVED)),
            ureq::Error::Io(error) => match error.get_ref().and_then(|inner| inner.downcast_ref()) {
                Some(error) => Self::from_tls(peer, error),
                None => Self::from_io(peer, &error),
            },
            ureq::Error::Rustls(error) => Self::from_tls(peer, &error),
            ureq::Error::ConnectProxyFailed(answer) if is_refusal_of_proxy(&answer) => {
                Self::NoPassage(about_peer(&answer))
            }
            ureq::Error::Decompress(_, _) => Self::Malformed("not the gzip that it claims to be".to_owned()),
            other => Self::Network(about_peer(&other.to_string())),
        }
    }

    fn from_io(peer: &str, error: &io::Error) -> Self {
        let text = error.to_string();
        let problem = match text.strip_prefix(STD_UNRESOLVED) {
            Some(reason) => format!("{UNRESOLVED}{reason}"),
            None => text,
        };
        let message = format!("{peer}: {}", one_line(&problem));
        match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => Self::Disconnected(message),
            _ => Self::Network(message),
        }
    }

    /// A certificate that is not trusted is no passing trouble; everything else about TLS can be one.
    fn from_tls(peer: &str, error: &rustls::Error) -> Self {
        let message = format!("{peer}: {}", one_line(&error.to_string()));
        match error {
            rustls::Error::InvalidCertificate(_)
            | rustls::Error::NoCertificatesPresented
            | rustls::Error::General(_) => Self::Untrusted(message), // General: the system has no roots at all
            rustls::Error::InvalidMessage(_) => {
                Self::Network(format!("{peer}: what is spoken there is no TLS"))
            }
            _ => Self::Network(message),
        }
    }

    /// What went wrong while a body was read.
    pub(super) fn from_body(peer: &str, error: io::Error) -> Self {
        match ureq::Error::from(error) {
            ureq::Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Self::Malformed("cut short".to_owned())
            }
            other => Self::from_ureq(peer, other),
        }
    }

    /// Reads an answer with an error status. The body can be of the API's form, of the login endpoint's, of a
    /// gateway's (HTML), or nothing.
    pub(super) fn from_answer(status: u16, headers: &HeaderMap, body: &[u8], now: Timestamp) -> Self {
        let location = headers.get("location").and_then(|value| value.to_str().ok());
        if (300..400).contains(&status) {
            let location = without_query(location.unwrap_or("nowhere"));
            return Self::Redirected { status, location };
        }
        let (code, message) = match serde_json::from_slice(body) {
            Ok(ErrorBody { error: Some(ErrorField::Api { code, message }), .. }) => (code, message),
            Ok(ErrorBody { error: Some(ErrorField::Login(error)), error_description, .. }) => {
                login_error(&error, &error_description.unwrap_or_default())
            }
            Ok(ErrorBody { error: None, message: Some(message), .. }) => (String::new(), message),
            _ if body.is_empty() => (String::new(), "without a body".to_owned()),
            _ => (String::new(), format!("with a body of {} bytes that is no error of the API", body.len())),
        };
        let retry_after = headers
            .get("retry-after")
            .and_then(|value| value.to_str().ok())
            .and_then(|value| time::retry_after(value, now));
        let date = headers.get("date").and_then(|value| value.to_str().ok());
        let (code, message) = (one_line(&code), one_line(&message));
        Self::Refused { status, code, message, retry_after, server_time: date.and_then(time::http_date) }
    }
}

/// The shapes that an error's body has.
#[derive(Deserialize)]
struct ErrorBody {
    error: Option<ErrorField>,
    error_description: Option<String>,
    #[serde(rename = "Message")]
    message: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ErrorField {
    /// `{"code":"AF20022","message":"…"}`
    Api { code: String, message: String },
    /// `invalid_client`
    Login(String),
}

/// `("invalid_client", "AADSTS7000215: Invalid client secret …")` → `("AADSTS7000215", "Invalid client secret …")`
fn login_error(error: &str, description: &str) -> (String, String) {
    match description.split_once(": ") {
        Some((code, message)) if code.starts_with("AADSTS") => (code.to_owned(), message.to_owned()),
        _ => (error.to_owned(), description.to_owned()),
    }
}

fn mend_of_code(code: &str, status: u16) -> &'static str {
    match code {
        "AADSTS7000215" => {
            "the client secret is wrong: copy the secret's Value (not its Secret ID) from Certificates & secrets"
        }
        "AADSTS7000222" => "the client secret has expired; create a new one under Certificates & secrets",
        "AADSTS700016" => "no such app in this tenant: check client_id and tenant_id",
        "AADSTS90002" | "AADSTS900023" => "no such tenant: check tenant_id and api_type",
        "AADSTS700027" => {
            "the certificate is not the one registered with the app, or it has expired: upload it under Certificates & \
             secrets, Certificates"
        }
        "AADSTS700024" => {
            "the certificate's or token's time is not valid: check this machine's clock, and that the token in \
             federated_token_file is renewed"
        }
        "AADSTS70021" | "AADSTS700211" | "AADSTS700212" | "AADSTS700213" => {
            "no federated credential of the app has this token's issuer, subject and audience: compare them under \
             Certificates & secrets, Federated credentials"
        }
        "AADSTS50034" => "the account does not exist in this directory: check tenant_id and client_id",
        "AADSTS53003" => "a Conditional Access policy blocks the app: exclude its service principal",
        "AADSTS7000112" => "the app is disabled: enable it under Enterprise applications",
        "AF10001" => {
            "grant the application permission ActivityFeed.Read (for DLP.All also ActivityFeed.ReadDlp) of Office 365 \
             Management APIs under API permissions, then Grant admin consent"
        }
        "AF20010" | "AF20011" | "AF20012" | "AF20013" => "check tenant_id and api_type",
        "AF20020" => "take this content type out of subscriptions",
        "AF20001" | "AF20002" | "AF20003" => "this is a fault of this program: please report it",
        "AF20030" | "AF20055" => "check this machine's clock",
        "AF20050" | "AF20051" | "AF20052" => "nobody can fetch it any more",
        "AF429" => "lower maxRequestsPerMinute if this persists",
        _ if status == 401 => "the token was not accepted: check api_type and the app's permissions",
        _ if status == 403 => {
            "check the app's permission ActivityFeed.Read and its admin consent, and what stands between here and Microsoft"
        }
        _ => "",
    }
}

/// How the standard library says that a name was not found, and …
const STD_UNRESOLVED: &str = "failed to lookup address information";
/// … how we say it.
const UNRESOLVED: &str = "the name cannot be resolved";

/// Whether a proxy that would not connect said no for good: `proxy server responded 407/407`. With any other status it
/// has met trouble of its own.
fn is_refusal_of_proxy(answer: &str) -> bool {
    let status = answer.rsplit('/').next().and_then(|status| status.parse().ok());
    status.is_some_and(|status: u16| (400..500).contains(&status) && !matches!(status, 408 | 429))
}

/// A URL without what may be secret in it.
pub(super) fn without_query(url: &str) -> String {
    one_line(url.split(['?', '#']).next().unwrap_or_default())
}
