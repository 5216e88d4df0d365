//! How a receiver wants records, and what its responses mean.

use std::{borrow::Cow, fmt::Write as _};

use jiff::Timestamp;

use super::{
    answer::{Outcome, Refusal},
    batch::{Batch, Frame},
};
use crate::{
    config::Secret,
    network::agents::Agents,
    output::Source,
    records::{Record, TimeField},
};

/// The protocol of one kind of receiver. What they have in common is in [`super::post`].
pub trait Format: Send + Sync {
    /// Appends one record, without what the frame has between two of them. The line of the record stays in one piece,
    /// apart from its closing brace.
    fn append(&self, source: &Source<'_>, record: Record<'_>, to: &mut String);

    /// Returns what [`Format::append`] wrote from the start of the line of the record on.
    fn record_in<'a>(&self, text: &'a str) -> Cow<'a, str> {
        text.into()
    }

    /// What is around and between records.
    fn frame(&self) -> Frame;

    /// The body's `Content-Type`.
    fn content_type(&self) -> &'static str;

    /// What is posted to if the configured URL has no path; `/` if that is as good as any.
    fn usual_path(&self) -> &'static str {
        "/"
    }

    /// Headers in addition to the configured ones.
    fn headers(&self, _agents: &Agents) -> Result<Vec<(&'static str, Secret)>, Refusal> {
        Ok(Vec::new())
    }

    /// The credentials of [`Format::headers`] were refused: gets others the next time. Returns whether it can.
    fn renew(&self) -> bool {
        false
    }

    /// What the receiver says of why it accepts nothing, and what can be done about that, if its words are known.
    fn explain(&self, _status: u16, _body: &[u8]) -> Option<(String, &'static str)> {
        None
    }

    /// What can be done about a record that is too large for the receiver.
    fn too_large(&self) -> &'static str {
        "let the receiver accept larger bodies"
    }

    /// Whether a response may be about one record of a batch, so that another batch of the same kind may be accepted.
    fn blames_records(&self, status: u16, _body: &[u8]) -> bool {
        matches!(status, 400 | 422)
    }

    /// Reads more from an error response than its status says. `None` if there is nothing more.
    fn sort(&self, _batch: &Batch, _status: u16, _body: &[u8], _refusal: &Refusal) -> Option<Outcome> {
        None
    }

    /// Whether a status of success is all that the receiver answers, so that a body that is cut short says nothing.
    fn accepts_by_status(&self) -> bool {
        false
    }

    /// What became of a batch to which the receiver answered with a status of success.
    fn settle(&self, batch: &Batch, status: u16, body: &[u8]) -> Outcome;

    /// Whether an accepted batch is safe only when [`Format::question`] was answered.
    fn has_receipts(&self) -> bool {
        false
    }

    /// Where and how is asked whether batches are safe: the path of the question, given that of a batch, and the body.
    fn question(&self, _path: &str, _receipts: &[u64]) -> Option<(String, String)> {
        None
    }

    /// The receipts that the response to the question calls safe.
    fn safe(&self, _body: &[u8]) -> Vec<u64> {
        Vec::new()
    }

    /// The body of a request that delivers nothing and that is otherwise like a delivery.
    fn probe(&self) -> Vec<u8>;

    /// Whether the response to [`Format::probe`] shows that a delivery would be accepted. The error says more than the
    /// status does.
    fn passes_probe(&self, status: u16, _body: &[u8]) -> Result<bool, Refusal> {
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
    use super::*;
    use crate::records::RecordBatch;

    fn with_time(record: &str) -> String {
        let (batch, mut text) = (RecordBatch::for_test(&[record]), String::new());
        append_with_time(batch.iter().next().expect("a record"), TimeField::Timestamp, &mut text);
        text
    }

    #[test]
    fn a_time_is_added_to_a_record_without_one() {
        assert_eq!(
            with_time(r#"{"CreationTime":"2026-11-22T10:15:00"}"#),
            r#"{"CreationTime":"2026-11-22T10:15:00","@timestamp":"2026-11-22T10:15:00.000Z"}"#
        );
        assert_eq!(with_time(r#"{"@timestamp":1}"#), r#"{"@timestamp":1}"#);
        assert!(with_time(r#"{"a":1,"CreationTime":"soon"}"#).contains("\"@timestamp\":\"20"));
    }
}
