//! Why a request brought nothing usable, typed: two decisions hang on it, "try again?" ([`super::retry`]) and what a
//! person is told to do about it ([`Failure::mend`]).

use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use ureq::http::HeaderMap;

use crate::{
    log::one_line,
    login::{self, credential_file},
    network::trouble::Trouble,
    time,
};

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
    /// No answer came, or none that could be read.
    #[error(transparent)]
    Network(#[from] Trouble),
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
            Self::Network(trouble) => trouble.mend(),
            Self::TooLarge { .. } => "raise curl_max_size",
            Self::ForeignUrl { .. } | Self::Redirected { .. } => {
                "check api_type, login_url and api_url of the tenant, and what stands between here and Microsoft"
            }
            Self::Credential(unusable) => unusable.fault.mend(),
            Self::Malformed(_) => "",
        }
    }

    /// All that an administrator needs to hear: what happened, and what to do. Where a login failed for a reason that
    /// is known, that reason in our own words.
    pub fn advice(&self) -> String {
        match (self.code(), self.mend()) {
            (_, "") => format!("{self}; the next pass tries again"),
            (code, mend) if code.starts_with("AADSTS") => format!("{code} {mend}"),
            (_, mend) => format!("{self}; {mend}"),
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
            Ok(ErrorBody { error: Some(ApiError { code, message }), .. }) => (code, message),
            Ok(ErrorBody { error: None, message: Some(message) }) => (String::new(), message),
            _ if body.is_empty() => (String::new(), "without a body".to_owned()),
            _ => login::refusal(body).unwrap_or_else(|| {
                (String::new(), format!("with a body of {} bytes that is no error of the API", body.len()))
            }),
        };
        let retry_after = time::retry_after(headers, now);
        let date = headers.get("date").and_then(|value| value.to_str().ok());
        let (code, message) = (one_line(&code), one_line(&message));
        Self::Refused { status, code, message, retry_after, server_time: date.and_then(time::http_date) }
    }
}

/// The shapes that an error of the API has.
#[derive(Deserialize)]
struct ErrorBody {
    error: Option<ApiError>,
    #[serde(rename = "Message")]
    message: Option<String>,
}

/// `{"code":"AF20022","message":"…"}`
#[derive(Deserialize)]
struct ApiError {
    code: String,
    message: String,
}

fn mend_of_code(code: &str, status: u16) -> &'static str {
    match code {
        _ if code.starts_with("AADSTS") => login::mend(code),
        "AF10001" => {
            "grant the application permission ActivityFeed.Read (for DLP.All also ActivityFeed.ReadDlp) of Office 365 \
             Management APIs under API permissions, then Grant admin consent"
        }
        "AF20010" | "AF20011" | "AF20012" | "AF20013" => "check tenant_id and api_type",
        "AF20020" => "take this content type out of subscriptions",
        "AF20001" | "AF20002" | "AF20003" => "this is a fault of this program: please report it",
        "AF20030" | "AF20055" => "check this machine's clock",
        "AF20050" | "AF20051" | "AF20052" => "nobody can fetch it any more",
        "AF429" => {
            "another program may use the same quota: set a lower maxRequestsPerMinute if this persists"
        }
        _ if status == 401 => "the token was not accepted: check api_type and the app's permissions",
        _ if status == 403 => {
            "check the app's permission ActivityFeed.Read and its admin consent, and what stands between here and Microsoft"
        }
        _ => "",
    }
}

/// A URL without what may be secret in it.
pub(super) fn without_query(url: &str) -> String {
    one_line(url.split(['?', '#']).next().unwrap_or_default())
}
