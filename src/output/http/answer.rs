//! What a receiver's answer means for a batch.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use ureq::http::HeaderMap;

use super::{batch::Batch, mask};
use crate::{limits::REASON_CHARACTERS_MAX, network::error::NetworkError, redact::one_line, time};

/// What became of a batch.
#[derive(Debug)]
pub enum Outcome {
    /// All of it is accepted. Where the receiver gives one: the receipt by which to ask whether it is safe.
    Accepted(Option<u64>),
    /// What became of each record.
    Sorted(Sorted),
    /// It is too large for the receiver.
    TooLarge(Refusal),
    /// A record in it is such that the receiver will never accept it.
    Refused(Refusal),
    /// Nothing of it is accepted.
    Failed(Refusal),
}

/// What became of each record of a batch; those that are in neither list are accepted.
#[derive(Debug, Default)]
pub struct Sorted {
    /// To be sent again.
    pub rest: Batch,
    /// Refused whatever is done, a batch of one record each.
    pub refused: Vec<(Batch, Refusal)>,
    /// Why the rest has to wait; `None` if it is to be sent at once.
    pub failure: Option<Refusal>,
}

/// Why nothing is accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What happened, in words.
    pub problem: String,
    /// What the administrator can do about it.
    pub hint: String,
    /// Whether it may be over the next time.
    pub is_transient: bool,
    /// Whether the connection was cut: perhaps one that was idle for too long, or because the batch is too large.
    pub is_cut: bool,
    /// Whether the receiver met an error of its own, which one record may have caused.
    pub is_internal: bool,
    /// How long the receiver asks us to wait.
    pub after: Option<Duration>,
}

impl Refusal {
    /// One that another try cannot help.
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

    /// One that may be over the next time.
    pub fn transient(problem: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { is_transient: true, ..Self::new(problem, hint) }
    }

    /// No answer came from this peer.
    pub fn of_network_error(peer: &str, error: &NetworkError) -> Self {
        let text = error.to_string();
        let problem = text.strip_prefix(&format!("{peer}: ")).unwrap_or(&text);
        let hint = match error {
            NetworkError::Tls(problem) => problem.hint.as_str(),
            NetworkError::Unreachable(_)
            | NetworkError::ProxyRefused(_)
            | NetworkError::UntrustedCertificate(_) => error.hint(),
            NetworkError::Disconnected(_) => CERTIFICATE_MEND,
            NetworkError::Malformed(_) => "look into the receiver's log",
        };
        let is_cut = matches!(error, NetworkError::Disconnected(_));
        Self { is_transient: error.is_transient(), is_cut, ..Self::new(problem, hint) }
    }

    /// Reads an answer that is no success. `words`: the receiver's own and what can be done about them, if its format
    /// knows any. Whether another try may help hangs on the status alone.
    pub fn of_answer(
        status: u16,
        headers: &HeaderMap,
        body: &[u8],
        words: Option<(String, &'static str)>,
        now: Timestamp,
    ) -> Self {
        let after = time::retry_after(headers, now);
        let words = words.map(|(words, hint)| (short(&words), hint));
        let (problem, hint) = words.unwrap_or_else(|| {
            let reason = reason(body);
            let problem =
                if reason.is_empty() { format!("HTTP {status}") } else { format!("HTTP {status}: {reason}") };
            (problem, hint(status))
        });
        let is_transient = matches!(status, 408 | 429 | 500..);
        // 503 and 507 say that there is no room now, for no record.
        let is_internal = status >= 500 && !matches!(status, 503 | 507) && after.is_none();
        Self { is_transient, is_internal, after, ..Self::new(problem, hint) }
    }

    /// A response of success that is not what the receiver answers to records.
    pub fn of_web_page(status: u16) -> Self {
        let problem =
            format!("HTTP {status} with a web page, which is not how a receiver of records answers");
        Self::new(problem, "check url, and what is in front of the receiver: a proxy, a portal, a login page")
    }

    /// Whether one record of a batch may be the reason, so that the others are accepted without it.
    pub fn may_blame_a_record(&self) -> bool {
        self.is_internal || self.is_cut
    }

    /// The same without what the receiver's words quote of the records that it was sent.
    pub fn without_quotes(self, status: u16, records: &str) -> Self {
        let head = format!("HTTP {status}");
        let problem = match self.problem.strip_prefix(&head) {
            Some(reason) => head + &mask::without_values(reason, records),
            None => mask::without_values(&self.problem, records),
        };
        Self { problem, ..self }
    }
}

/// Whether a response of success is a web page: then it does not come from a receiver of records. Some frameworks call
/// even an empty response a page, so that 204, which has no body, is none.
pub fn is_web_page(status: u16, headers: &HeaderMap, body: &[u8]) -> bool {
    let content_type = headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let is_called_page = content_type.trim_start().to_ascii_lowercase().starts_with("text/html");
    let start = body.trim_ascii_start();
    let begins_with =
        |text: &str| start.get(..text.len()).is_some_and(|start| start.eq_ignore_ascii_case(text.as_bytes()));
    status != 204 && (is_called_page || begins_with("<!doctype html") || begins_with("<html"))
}

/// A receiver that wants a client's certificate says so in an alert, or just closes.
const CERTIFICATE_MEND: &str =
    "look into the receiver's log; over TLS it may want a certificate of ours: give it in tls.cert_file";

fn hint(status: u16) -> &'static str {
    match status {
        300..=399 => {
            "give the URL that it redirects to as url: a redirect is not followed, because the headers would go along"
        }
        401 | 403 => "check the token in headers or header_files, and what it may do",
        404 | 405 => "check url",
        415 => "check format, and whether the receiver takes compress: gzip",
        408 | 429 => "give the receiver time, or lower connections",
        500.. => "look into the receiver's log",
        _ => "check format, and what the receiver wants",
    }
}

/// Where receivers put what they have to say.
const PLACES: [&str; 9] = [
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

/// The receiver's own reason in a few words, or nothing. A page of HTML says nothing, and what follows a brace may be a
/// record.
fn reason(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let value: Option<Value> = serde_json::from_slice(body).ok();
    let found = match &value {
        Some(value) => PLACES.iter().find_map(|place| value.pointer(place)?.as_str()),
        None if text.trim_start().starts_with('<') => None,
        None => Some(text.as_ref()),
    };
    short(found.unwrap_or_default())
}

/// Somebody else's words, made fit for a message.
fn short(words: &str) -> String {
    let line = one_line(words.split('{').next().unwrap_or_default());
    line.chars().take(REASON_CHARACTERS_MAX).collect::<String>().trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: u16, headers: &[(&'static str, &'static str)], body: &str) -> Refusal {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().expect("a header's value"));
        }
        Refusal::of_answer(status, &map, body.as_bytes(), None, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn only_what_may_be_over_the_next_time_is_tried_again() {
        for status in [408, 429, 500, 502, 503, 504, 507] {
            assert!(refusal(status, &[], "").is_transient, "{status}");
        }
        for status in [301, 302, 400, 401, 403, 404, 405, 409, 410, 411, 415, 422] {
            assert!(!refusal(status, &[], "").is_transient, "{status}");
        }
    }

    #[test]
    fn only_an_error_of_the_receivers_own_may_be_caused_by_one_record() {
        for (status, is_internal) in
            [(500, true), (502, true), (503, false), (507, false), (429, false), (400, false)]
        {
            assert_eq!(refusal(status, &[], "").may_blame_a_record(), is_internal, "{status}");
        }
        assert!(!refusal(500, &[("retry-after", "7")], "").may_blame_a_record());
    }

    #[test]
    fn a_web_page_is_known_by_its_type_or_by_its_beginning() {
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
    fn a_wait_that_is_asked_for_is_seconds_or_a_date() {
        assert_eq!(refusal(503, &[("retry-after", "7")], "").after, Some(Duration::from_secs(7)));
        let date = "Thu, 01 Jan 1970 00:00:09 GMT";
        assert_eq!(refusal(503, &[("retry-after", date)], "").after, Some(Duration::from_secs(9)));
        let theirs = ("date", "Thu, 01 Jan 1970 00:00:04 GMT");
        assert_eq!(refusal(503, &[("retry-after", date), theirs], "").after, Some(Duration::from_secs(5)));
        assert_eq!(refusal(503, &[("retry-after", "0")], "").after, Some(Duration::from_secs(1)));
        assert_eq!(refusal(503, &[], "").after, None);
    }

    #[test]
    fn a_reason_is_short_and_quotes_no_record() {
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
        assert_eq!(refusal(404, &[], "gone").problem, "HTTP 404: gone");
        assert_eq!(
            refusal(404, &[], &"x".repeat(9_999)).problem.len(),
            "HTTP 404: ".len() + REASON_CHARACTERS_MAX
        );
    }
}
