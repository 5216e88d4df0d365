//! The meaning of a response for a batch.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use ureq::http::HeaderMap;

use super::{batch::HttpBatch, quotes};
use crate::{network::error::NetworkError, redact::short_reason, time};

/// The outcome of a request with a batch.
#[derive(Debug)]
pub enum BatchOutcome {
    /// All of it is accepted. If the receiver acknowledges batches, the id of the acknowledgement.
    Accepted(Option<u64>),
    /// The records have different outcomes.
    Mixed(RecordOutcomes),
    /// The receiver has rejected this number of its records, and accepted the others. It does not say which.
    Undecided(usize, HttpError),
    /// It is too large for the receiver.
    TooLarge(HttpError),
    /// The receiver never accepts a record in it.
    Rejected(HttpError),
    /// None of it is accepted.
    Failed(HttpError),
}

/// The outcomes of the records of a batch. Records that are in neither list are accepted.
#[derive(Debug, Default)]
pub struct RecordOutcomes {
    /// The records to be sent again.
    pub rest: HttpBatch,
    /// The records that the receiver rejects however often they are sent, each as a batch.
    pub rejected: Vec<(HttpBatch, HttpError)>,
    /// Why the rest has to wait; `None` if it is to be sent at once.
    pub error: Option<HttpError>,
}

/// An error returned when a receiver does not accept a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpError {
    /// What happened, in words.
    pub problem: String,
    /// What the administrator can do about it.
    pub hint: String,
    /// Whether another attempt can succeed.
    pub is_transient: bool,
    /// Whether the connection was cut: perhaps because it was idle for too long, or because the batch is too large.
    pub is_cut: bool,
    /// Whether it is an internal error of the receiver, which a single record can cause.
    pub is_internal: bool,
    /// The delay that the receiver requests.
    pub after: Option<Duration>,
}

impl HttpError {
    /// Returns an error that another attempt meets again.
    pub fn new(problem: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            problem: problem.into(),
            hint: hint.into(),
            is_transient: false,
            is_cut: false,
            is_internal: false,
            after: None,
        }
    }

    /// Returns an error after which another attempt can succeed.
    pub fn transient(problem: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { is_transient: true, ..Self::new(problem, hint) }
    }

    /// Returns the error for a request without a response from this peer.
    pub fn of_network_error(peer: &str, error: &NetworkError) -> Self {
        let text = error.to_string();
        let problem = text.strip_prefix(&format!("{peer}: ")).unwrap_or(&text);
        let hint = match error {
            NetworkError::Tls(problem) => problem.hint.as_str(),
            NetworkError::Unreachable(_)
            | NetworkError::ProxyRejected(_)
            | NetworkError::UntrustedCertificate(_) => error.hint(),
            NetworkError::Disconnected(_) => CERTIFICATE_HINT,
            NetworkError::Malformed(_) => "check the receiver's log",
        };
        let is_cut = matches!(error, NetworkError::Disconnected(_));
        Self { is_transient: error.is_transient(), is_cut, ..Self::new(problem, hint) }
    }

    /// Returns the error that an error response describes. `explanation` is that of the format, with a hint. The format also
    /// decides whether another attempt can succeed.
    pub fn of_response(
        status: u16,
        headers: &HeaderMap,
        body: &[u8],
        explanation: Option<(String, &'static str)>,
        now: Timestamp,
    ) -> Self {
        let after = time::retry_after(headers, now);
        let explanation = explanation.map(|(problem, hint)| (short(&problem), hint));
        let (problem, hint) = explanation.unwrap_or_else(|| {
            let reason = reason(body);
            let problem =
                if reason.is_empty() { format!("HTTP {status}") } else { format!("HTTP {status}: {reason}") };
            (problem, hint(status))
        });
        // 503 and 507 mean that there is no room now, for any record.
        let is_internal = status >= 500 && !matches!(status, 503 | 507) && after.is_none();
        Self { is_internal, after, ..Self::new(problem, hint) }
    }

    /// Returns the error for a web page in a successful response.
    pub fn of_web_page(status: u16) -> Self {
        let problem =
            format!("HTTP {status} with a web page, which is not how a receiver of records answers");
        Self::new(problem, "check url, and what is in front of the receiver: a proxy, a portal, a login page")
    }

    /// Returns whether one record of a batch can be the cause, so that the others are accepted without it.
    pub fn may_be_caused_by_a_record(&self) -> bool {
        self.is_internal || self.is_cut
    }

    /// Removes what the receiver quotes of the records that were sent.
    pub fn without_quotes(self, status: u16, records: &str) -> Self {
        let head = format!("HTTP {status}");
        let problem = match self.problem.strip_prefix(&head) {
            Some(reason) => head + &quotes::without_values(reason, records),
            None => quotes::without_values(&self.problem, records),
        };
        Self { problem, ..self }
    }
}

/// Returns whether a successful response is a web page, which no receiver of records returns. Some frameworks declare even
/// an empty response as a page, so 204, which has no body, does not count as one.
pub fn is_web_page(status: u16, headers: &HeaderMap, body: &[u8]) -> bool {
    let content_type = headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let is_declared_page = content_type.trim_start().to_ascii_lowercase().starts_with("text/html");
    let start = body.trim_ascii_start();
    let begins_with =
        |text: &str| start.get(..text.len()).is_some_and(|start| start.eq_ignore_ascii_case(text.as_bytes()));
    status != 204 && (is_declared_page || begins_with("<!doctype html") || begins_with("<html"))
}

/// A receiver that requires a client certificate sends an alert, or just closes the connection.
const CERTIFICATE_HINT: &str =
    "check the receiver's log; over TLS it may require a client certificate: give one in tls.cert_file";

/// Returns what the administrator can do about a response with this status.
pub fn hint(status: u16) -> &'static str {
    match status {
        300..=399 => {
            "set url to the URL that it redirects to: redirects are not followed, because the headers would be sent there"
        }
        401 | 403 => "check the token in headers or header_files, and its permissions",
        404 | 405 => "check url",
        415 => "check format, and whether the receiver accepts compress: gzip",
        408 | 429 => "wait until the receiver has recovered, or lower connections",
        500.. => "check the receiver's log",
        _ => "check format, and what the receiver expects",
    }
}

/// JSON pointers to the message in an error response.
const MESSAGE_POINTERS: [&str; 9] = [
    "/error/message",
    "/error/reason",
    "/error",
    "/message",
    "/reason",
    "/text",
    "/detail",
    "/title",
    "/errors/0/message",
];

/// Returns the reason that the receiver gives in a few words, or an empty text. A page of HTML contains none, and the text
/// after a brace can be a record.
fn reason(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let value: Option<Value> = serde_json::from_slice(body).ok();
    let found = match &value {
        Some(value) => MESSAGE_POINTERS.iter().find_map(|pointer| value.pointer(pointer)?.as_str()),
        None if text.trim_start().starts_with('<') => None,
        None => Some(text.as_ref()),
    };
    short(found.unwrap_or_default())
}

/// Returns the beginning of a text of a receiver without the record that can follow a brace.
fn short(text: &str) -> String {
    short_reason(text.split('{').next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(status: u16, headers: &[(&'static str, &'static str)], body: &str) -> HttpError {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().expect("a header's value"));
        }
        HttpError::of_response(status, &map, body.as_bytes(), None, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn suspects_a_record_only_after_an_internal_error() {
        for (status, is_internal) in
            [(500, true), (502, true), (503, false), (507, false), (429, false), (400, false)]
        {
            assert_eq!(error(status, &[], "").may_be_caused_by_a_record(), is_internal, "{status}");
        }
        assert!(!error(500, &[("retry-after", "7")], "").may_be_caused_by_a_record());
    }

    #[test]
    fn recognizes_a_web_page() {
        for (status, content_type, body, is_page) in [
            (200, "text/html; charset=utf-8", "", true),
            (204, "text/html", "", false),
            (200, "Text/HTML", "ok", true),
            (200, "text/plain", " <!DOCTYPE html><p>", true),
            (200, "text/plain", "<HTML>", true),
            (200, "text/plain", "ok", false),
            (200, "application/xml", "<ok/>", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("content-type", content_type.parse().expect("a header's value"));
            assert_eq!(is_web_page(status, &headers, body.as_bytes()), is_page, "{content_type} {body}");
        }
    }

    #[test]
    fn reads_a_requested_delay() {
        assert_eq!(error(503, &[("retry-after", "7")], "").after, Some(Duration::from_secs(7)));
        let date = "Thu, 01 Jan 1970 00:00:09 GMT";
        assert_eq!(error(503, &[("retry-after", date)], "").after, Some(Duration::from_secs(9)));
        let theirs = ("date", "Thu, 01 Jan 1970 00:00:04 GMT");
        assert_eq!(error(503, &[("retry-after", date), theirs], "").after, Some(Duration::from_secs(5)));
        assert_eq!(error(503, &[("retry-after", "0")], "").after, Some(Duration::from_secs(1)));
        assert_eq!(error(503, &[], "").after, None);
    }

    #[test]
    fn reason_is_short_and_quotes_no_record() {
        for (body, reason) in [
            ("", ""),
            ("no such source\nat line 3", "no such source"),
            ("<html><body>Bad gateway</body></html>", ""),
            (r#"{"error":{"code":"x","message":"no room"}}"#, "no room"),
            (r#"{"message":"invalid line {\"Id\":1}"}"#, "invalid line"),
            (r#"{"other":"x"}"#, ""),
        ] {
            assert_eq!(short(&super::reason(body.as_bytes())), reason, "{body}");
        }
        assert_eq!(error(404, &[], "gone").problem, "HTTP 404: gone");
        assert_eq!(
            error(404, &[], &"x".repeat(9_999)).problem.len(),
            "HTTP 404: ".len() + crate::redact::REASON_CHARACTERS_MAX
        );
    }
}
