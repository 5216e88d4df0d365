//! How a kind of receiver expects records, and the meaning of its responses.

use std::{borrow::Cow, fmt::Write as _};

use jiff::Timestamp;
use ureq::http::HeaderMap;

use super::{
    batch::{Framing, HttpBatch},
    outcome::{BatchOutcome, HttpError},
};
use crate::{
    config::Secret,
    network::agents::Agents,
    output::Source,
    records::{Record, TimeField},
    redact,
};

/// The protocol of one kind of receiver. What all kinds have in common is in [`super::client`].
pub trait Format: Send + Sync {
    /// Appends one record, without the text of the framing. The line of the record stays in one piece, apart from its closing
    /// brace.
    fn append(&self, source: &Source<'_>, record: Record<'_>, to: &mut String);

    /// Returns what [`Format::append`] wrote from the start of the line of the record on.
    fn record_in<'a>(&self, text: &'a str) -> Cow<'a, str> {
        text.into()
    }

    /// Returns what is around and between records.
    fn framing(&self) -> Framing;

    /// Returns the body of a request with a batch, compressed if `gzip`.
    fn body(&self, batch: &HttpBatch, gzip: bool) -> Vec<u8> {
        batch.body(self.framing(), gzip)
    }

    /// Returns the `Content-Type` of the body.
    fn content_type(&self) -> &'static str;

    /// Returns the path of requests if the configured URL has none.
    fn default_path(&self) -> &'static str {
        "/"
    }

    /// Returns headers in addition to the configured ones.
    fn headers(&self, _agents: &Agents) -> Result<Vec<(&'static str, Secret)>, HttpError> {
        Ok(Vec::new())
    }

    /// Drops the credentials of [`Format::headers`], which the receiver rejected. Returns whether others can be obtained.
    fn renew_credentials(&self) -> bool {
        false
    }

    /// Returns the body of a response without secrets, in the form in which the other methods read it.
    fn redacted_body(&self, _status: u16, body: &[u8]) -> Vec<u8> {
        redact::body(body)
    }

    /// Returns the explanation of an error response and a hint, if the format knows the response.
    fn explain(&self, _status: u16, _body: &[u8]) -> Option<(String, &'static str)> {
        None
    }

    /// Returns what the administrator can do about a record that is too large for the receiver.
    fn too_large_hint(&self) -> &'static str {
        "let the receiver accept larger bodies"
    }

    /// Returns whether a batch is sent again, unchanged, after a response with this status of an error.
    fn retries(&self, status: u16) -> bool {
        matches!(status, 408 | 429 | 500..)
    }

    /// Returns whether an error response can be about a record, so that a batch of others can be accepted.
    fn is_about_records(&self, status: u16, _body: &[u8]) -> bool {
        matches!(status, 400 | 422)
    }

    /// Returns the outcome that the body of an error response describes. `None` if it describes none.
    fn outcome_of_error(
        &self,
        _batch: &HttpBatch,
        _status: u16,
        _body: &[u8],
        _error: &HttpError,
    ) -> Option<BatchOutcome> {
        None
    }

    /// Returns whether the status alone shows that a batch is accepted, so that a body may be cut short.
    fn accepts_by_status(&self) -> bool {
        false
    }

    /// Checks the head of a response with a status of success.
    ///
    /// # Errors
    ///
    /// It is not that of this kind of receiver.
    fn check_success(&self, _status: u16, _headers: &HeaderMap) -> Result<(), HttpError> {
        Ok(())
    }

    /// Returns the outcome of a request that was answered with a status of success.
    fn outcome_of_success(&self, batch: &HttpBatch, status: u16, body: &[u8]) -> BatchOutcome;

    /// Returns whether an accepted batch is safe only when the receiver has acknowledged it.
    fn has_acks(&self) -> bool {
        false
    }

    /// Returns the path, given that of a batch, and the body of a request for acknowledgements.
    fn ack_request(&self, _path: &str, _ack_ids: &[u64]) -> Option<(String, String)> {
        None
    }

    /// Returns the ids that the response to this request acknowledges.
    fn acknowledged(&self, _body: &[u8]) -> Vec<u64> {
        Vec::new()
    }

    /// Returns the body of a request that delivers nothing and is otherwise like a delivery.
    fn probe(&self) -> Vec<u8>;

    /// Returns whether the response to [`Format::probe`] shows that a delivery would be accepted.
    ///
    /// # Errors
    ///
    /// A delivery would be rejected, for a reason that the status does not show.
    fn accepts_probe(&self, status: u16, _body: &[u8]) -> Result<bool, HttpError> {
        Ok((200..300).contains(&status))
    }
}

/// Appends a record, with a field for its time at its end unless it has that: its `CreationTime`, else the current time.
pub fn append_with_time(record: Record<'_>, field: TimeField, to: &mut String) {
    to.push_str(record.line());
    if !record.has(field) {
        to.pop(); // the closing brace
        let time = record.creation_time().unwrap_or_else(Timestamp::now);
        let _ = write!(to, ",\"{}\":\"{time:.3}\"}}", field.name()); // into a String: cannot fail
    }
}

#[cfg(test)]
mod tests {
    use super::{super::plain::Plain, *};
    use crate::records::RecordBatch;

    fn with_time(record: &str) -> String {
        let (batch, mut text) = (RecordBatch::for_test(&[record]), String::new());
        append_with_time(batch.iter().next().expect("a record"), TimeField::Timestamp, &mut text);
        text
    }

    #[test]
    fn retries_only_transient_errors() {
        for status in [408, 429, 500, 502, 503, 504, 507] {
            assert!(Plain::Ndjson.retries(status), "{status}");
        }
        for status in [301, 302, 400, 401, 403, 404, 405, 409, 410, 411, 415, 422] {
            assert!(!Plain::Ndjson.retries(status), "{status}");
        }
    }

    #[test]
    fn adds_a_time_to_a_record_without_one() {
        assert_eq!(
            with_time(r#"{"CreationTime":"2026-11-22T10:15:00"}"#),
            r#"{"CreationTime":"2026-11-22T10:15:00","@timestamp":"2026-11-22T10:15:00.000Z"}"#
        );
        assert_eq!(with_time(r#"{"@timestamp":1}"#), r#"{"@timestamp":1}"#);
        assert!(with_time(r#"{"a":1,"CreationTime":"soon"}"#).contains("\"@timestamp\":\"20"));
    }
}
