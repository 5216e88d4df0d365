//! `elastic-bulk`: the bulk API of Elasticsearch, and of `OpenSearch`.
//!
//! A record is a `create` action and the document: the record with `@timestamp`, which data streams require, added at its
//! end from `CreationTime` unless it has one. The `_index` of the action is `elastic.index`, a data stream or an index;
//! without that option it is that of the URL (`…/NAME/_bulk`). Its `_id` is the `Id` of the record, so that a record that is
//! sent again gets 409, which counts as accepted, and overwrites nothing; in a data stream this holds until the stream is
//! rolled over. Elasticsearch creates an `_id` for a record without an `Id`.
//!
//! The response contains a status for each record:
//!
//! - created, or 409: accepted;
//! - 429 and errors of the cluster (5xx): only these records are sent again, later;
//! - 400 because the mapping of the index does not accept the record, or because it cannot be parsed: another attempt fails
//!   too. The record is sent again at once as **text**, which every mapping without strict rules accepts: the record in
//!   `event.original`, the reason in `error.type` and `error.message`, with the same `_id` and `@timestamp`. The number of
//!   such records is logged. A record that is rejected as text too is rejected permanently;
//! - 400 for any other reason that can be about the record, such as a failing processor of a pipeline: rejected permanently;
//! - 400 because of the index (`validation_exception` at the limit of shards, a missing pipeline or alias), and any other
//!   status, such as 403 or 404 for the index: the output fails.
//!
//! With an ingest pipeline, some versions reject the whole body with 400 if a record cannot be parsed (elastic/elasticsearch
//! issue 138445: one record with a repeated field). The batch is then halved until that record is alone.
//!
//! Source: "Bulk API" of the Elasticsearch reference; Elastic Common Schema, fields `event.original` and
//! `error.message`.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    batch::{BatchRecord, Framing, HttpBatch},
    format::{Format, append_with_time},
    outcome::{BatchOutcome, HttpError, RecordOutcomes},
};
use crate::{
    json,
    output::Source,
    records::{HeaderField, Record, TimeField},
    redact::one_line,
    time,
};

/// The longest `_id` that Elasticsearch accepts.
///
/// Source: "`_id` field" of the Elasticsearch reference.
const ID_BYTES_MAX: usize = 512;

const FRAMING: Framing = Framing { open: "", between: "\n", close: "" };

/// The beginning of a document with a record as text.
const TEXT_DOCUMENT: &str = "{\"event\":{\"original\":";

/// The errors of a mapping or of the parser of documents about a record. The record can be accepted as text instead.
///
/// Source: `mapper` and `xcontent` in elastic/elasticsearch; `OpenSearch` has the same types.
const MAPPING_ERRORS: [&str; 10] = [
    "mapper_parsing_exception",
    "document_parsing_exception",
    "strict_dynamic_mapping_exception",
    "illegal_argument_exception",
    "max_bytes_length_exceeded_exception",
    "x_content_parse_exception",
    "json_parse_exception",
    "not_x_content_exception",
    "parse_exception",
    "parsing_exception",
];

/// The errors with status 400 about the index, or about the request as such.
const INDEX_ERRORS: [&str; 5] = [
    "validation_exception",
    "action_request_validation_exception",
    "index_not_found_exception",
    "invalid_index_name_exception",
    "index_closed_exception",
];

/// Texts in an `illegal_argument_exception` about the index.
const INDEX_REASONS: [&str; 6] = [
    "pipeline with id [",
    "no write index is defined for alias",
    "only write ops with an op_type of create are allowed in data streams",
    "is not supported for data streams",
    "this action would add [",
    "Malformed action/metadata line",
];

/// The document of a check: valid JSON, but not an object, so that no index accepts it.
const PROBE: &str = "[]";

/// The format of Elasticsearch, as configured.
#[derive(Debug)]
pub struct Elastic {
    index: Option<String>,
}

impl Elastic {
    /// Returns the format for this data stream or index, or for that of the URL.
    pub fn new(index: Option<String>) -> Self {
        Self { index }
    }
}

impl Format for Elastic {
    fn append(&self, _: &Source<'_>, record: Record<'_>, to: &mut String) {
        let index = self.index.as_ref().map(|index| format!("\"_index\":{}", Value::from(index.as_str())));
        let id = record.value(HeaderField::Id);
        let id = id.filter(|id| id.starts_with('"') && (3..=ID_BYTES_MAX).contains(&id.len()));
        let id = id.map(|id| format!("\"_id\":{id}"));
        let action: Vec<_> = [index, id].into_iter().flatten().collect();
        to.extend(["{\"create\":{", &action.join(","), "}}\n"]);
        append_with_time(record, TimeField::Timestamp, to);
    }

    fn record_in<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let document = document_of(text);
        if !document.starts_with(TEXT_DOCUMENT) {
            return document.into();
        }
        let value: Value = serde_json::from_str(document).unwrap_or_default();
        value["event"]["original"].as_str().map_or_else(|| document.into(), |text| text.to_owned().into())
    }

    fn framing(&self) -> Framing {
        FRAMING
    }

    fn content_type(&self) -> &'static str {
        "application/x-ndjson"
    }

    fn default_path(&self) -> &'static str {
        "/_bulk"
    }

    fn explain(&self, status: u16, body: &[u8]) -> Option<(String, &'static str)> {
        let error = error_of(body)?;
        let hint = match status {
            401 => "give the header Authorization: ApiKey KEY, for example in header_files",
            403 => "give the key the privileges create_doc and auto_configure on the index",
            404 => "check url and elastic.index: there is no such index",
            400 if error.is_about_the_index() => INDEX_HINT,
            _ => "check the log of Elasticsearch",
        };
        let quoted = if error.is_about_the_index() { format!(", {}", error.reason) } else { String::new() };
        Some((format!("HTTP {status}: {}{quoted}", one_line(&error.r#type)), hint))
    }

    fn is_about_records(&self, status: u16, body: &[u8]) -> bool {
        status == 400 && error_of(body).is_none_or(|error| !error.is_about_the_index())
    }

    fn outcome_of_error(
        &self,
        batch: &HttpBatch,
        status: u16,
        body: &[u8],
        _: &HttpError,
    ) -> Option<BatchOutcome> {
        if batch.len() != 1 || !self.is_about_records(status, body) {
            return None;
        }
        let (record, error) = (batch.records(FRAMING).next()?, error_of(body)?);
        let text = text_of(record.text, &error)?;
        let mut rest = HttpBatch::default();
        rest.push(BatchRecord { text: &text, ..record }, FRAMING);
        warn_of_texts(&[format!("{} ({})", id_of(record.text), error.summary())], 1);
        Some(BatchOutcome::Mixed(RecordOutcomes { rest, ..RecordOutcomes::default() }))
    }

    fn outcome_of_success(&self, batch: &HttpBatch, _: u16, body: &[u8]) -> BatchOutcome {
        let Ok(BulkResponse { errors, items }) = serde_json::from_slice(body) else {
            let problem = "the answer is not that of the bulk API";
            return BatchOutcome::Failed(HttpError::new(problem, "check that url ends in _bulk"));
        };
        if !errors && items.is_empty() {
            return BatchOutcome::Accepted(None); // `filter_path` in the URL can omit the items
        }
        if items.len() != batch.len() {
            let problem = "the answer does not name each record";
            return BatchOutcome::Failed(HttpError::transient(problem, "check the log of Elasticsearch"));
        }
        let (mut outcomes, mut busy, mut as_text) = (RecordOutcomes::default(), None, Vec::new());
        for (record, BulkItem { create }) in batch.records(FRAMING).zip(items) {
            let Created { status, error } = create;
            let error = error.unwrap_or_default();
            match status {
                200..=299 | 409 => {}
                429 | 500.. => {
                    outcomes.rest.push(record, FRAMING);
                    busy.get_or_insert_with(|| error.r#type.clone());
                }
                400 if !error.is_about_the_index() => {
                    let text = error.is_about_the_mapping().then(|| text_of(record.text, &error)).flatten();
                    if let Some(text) = text {
                        outcomes.rest.push(BatchRecord { text: &text, ..record }, FRAMING);
                        as_text.push(format!("{} ({})", id_of(record.text), error.summary()));
                    } else {
                        let mut single = HttpBatch::default();
                        single.push(record, FRAMING);
                        outcomes.rejected.push((single, rejection(record.text, status, &error)));
                    }
                }
                _ => return BatchOutcome::Failed(rejection(record.text, status, &error)),
            }
        }
        warn_of_texts(&as_text, batch.len());
        outcomes.error = busy.map(|why| {
            let count = outcomes.rest.len() - as_text.len();
            let problem = format!("{count} of {} records are not accepted: {}", batch.len(), one_line(&why));
            HttpError::transient(problem, "wait until the cluster has recovered, or lower connections")
        });
        BatchOutcome::Mixed(outcomes)
    }

    fn probe(&self) -> Vec<u8> {
        let mut create = json!({ "_id": concat!(env!("CARGO_PKG_NAME"), "-check") });
        if let Some(index) = &self.index {
            create["_index"] = index.as_str().into();
        }
        format!("{}\n{PROBE}\n", json!({ "create": create })).into_bytes()
    }

    fn accepts_probe(&self, status: u16, body: &[u8]) -> Result<bool, HttpError> {
        if status == 400 {
            // With a pipeline, the whole request is rejected because of the document.
            return Ok(error_of(body).is_some() && self.is_about_records(status, body));
        }
        let Ok(BulkResponse { items, .. }) = serde_json::from_slice(body) else { return Ok(false) };
        for BulkItem { create: Created { status, error } } in items {
            let error = error.unwrap_or_default();
            let is_accepted =
                matches!(status, 200..=299 | 409) || (status == 400 && !error.is_about_the_index());
            if !is_accepted {
                let problem = format!("a document is rejected: status {status}, {}", error.in_full());
                return Err(HttpError::new(problem, rejection_hint(status, &error)));
            }
        }
        Ok((200..300).contains(&status))
    }
}

const INDEX_HINT: &str = "correct the index, its templates or the pipeline; the cluster's log has more";

fn rejection(record: &str, status: u16, error: &Error) -> HttpError {
    let summary = if error.is_about_the_index() { error.in_full() } else { error.summary() };
    let problem = format!("record {} is rejected: status {status}, {summary}", id_of(record));
    HttpError::new(problem, rejection_hint(status, error))
}

fn rejection_hint(status: u16, error: &Error) -> &'static str {
    match status {
        403 => {
            "give the key the privileges create_doc and auto_configure on the index, and the cluster room on its disks"
        }
        404 => "create the index or data stream, or correct elastic.index",
        _ if error.is_about_the_index() => INDEX_HINT,
        _ => "correct the index's mapping or pipeline so that it accepts this record",
    }
}

/// Reports the records that are sent again as text.
fn warn_of_texts(as_text: &[String], count: usize) {
    if let Some(first) = as_text.first() {
        log::warn!(
            "Output http: the mapping rejects {} of {count} records, such as {first}: they are sent as text in \
             event.original",
            as_text.len(),
        );
    }
}

/// Returns the document without its action.
fn document_of(text: &str) -> &str {
    text.split_once('\n').map_or(text, |(_, document)| document)
}

/// Returns the action and the document as text, given the record's action and document. `None` if it is text already.
fn text_of(record: &str, error: &Error) -> Option<String> {
    let (action, document) = record.split_once('\n')?;
    if document.starts_with(TEXT_DOCUMENT) {
        return None;
    }
    let mut created = None;
    json::each_field(document, |name, value| {
        if name == "CreationTime" {
            created = time::parse(&json::text_of(value));
        }
    });
    let time = created.unwrap_or_else(Timestamp::now);
    let original = Value::from(document);
    let error = json!({ "type": error.r#type, "message": error.reason });
    Some(format!("{action}\n{TEXT_DOCUMENT}{original}}},\"error\":{error},\"@timestamp\":\"{time:.3}\"}}"))
}

/// Returns the record's Id, which is in its action.
fn id_of(record: &str) -> String {
    let action = record.split('\n').next().unwrap_or_default();
    let action: Value = serde_json::from_str(action).unwrap_or_default();
    action["create"]["_id"].as_str().map_or_else(|| "without an Id".to_owned(), one_line)
}

/// Returns the error in an error response to a whole request.
fn error_of(body: &[u8]) -> Option<Error> {
    #[derive(Deserialize)]
    struct Response {
        error: Error,
    }
    serde_json::from_slice(body).ok().map(|Response { error }| error)
}

#[derive(Deserialize)]
struct BulkResponse {
    errors: bool,
    #[serde(default)]
    items: Vec<BulkItem>,
}

#[derive(Deserialize)]
struct BulkItem {
    create: Created,
}

#[derive(Deserialize)]
struct Created {
    status: u16,
    error: Option<Error>,
}

#[derive(Default, Deserialize)]
struct Error {
    #[serde(default)]
    r#type: String,
    #[serde(default)]
    reason: String,
}

impl Error {
    /// Returns whether the index is the cause, and not a record.
    fn is_about_the_index(&self) -> bool {
        INDEX_ERRORS.contains(&&*self.r#type)
            || INDEX_REASONS.iter().any(|reason| self.reason.contains(reason))
    }

    /// Returns whether the record can be accepted as text.
    fn is_about_the_mapping(&self) -> bool {
        MAPPING_ERRORS.contains(&&*self.r#type)
    }

    /// Returns its kind and its reason, which is about the index and quotes no record.
    fn in_full(&self) -> String {
        one_line(&format!("{}, {}", self.r#type, self.reason))
    }

    /// Returns its kind and the field that it is about, without the rest of the reason, which quotes the record.
    fn summary(&self) -> String {
        let field = self.reason.split_once("field [").and_then(|(_, rest)| rest.split(']').next());
        let field = field.filter(|field| field.chars().all(|c| c.is_alphanumeric() || "._-@".contains(c)));
        one_line(&match field {
            Some(field) => format!("{}, field {field}", self.r#type),
            None => self.r#type.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::RecordBatch;

    fn error(r#type: &str, reason: &str) -> Error {
        Error { r#type: r#type.to_owned(), reason: reason.to_owned() }
    }

    #[test]
    fn attributes_an_error_to_the_index_or_a_record() {
        for (r#type, reason, is_about_the_index, is_about_the_mapping) in [
            ("validation_exception", "Validation Failed: 1: this action would add [2] shards", true, false),
            ("illegal_argument_exception", "pipeline with id [o365] does not exist", true, true),
            ("illegal_argument_exception", "Limit of total fields [1000] has been exceeded", false, true),
            ("document_parsing_exception", "[1:9] failed to parse field [a]", false, true),
            ("x_content_parse_exception", "Duplicate field 'Id'", false, true),
            ("fail_processor_exception", "no", false, false),
        ] {
            let error = error(r#type, reason);
            assert_eq!(error.is_about_the_index(), is_about_the_index, "{reason}");
            assert_eq!(error.is_about_the_mapping(), is_about_the_mapping, "{reason}");
        }
    }

    #[test]
    fn finds_the_record_in_its_document_or_its_text() {
        let elastic = Elastic::new(None);
        let batch = RecordBatch::for_test(&[r#"{"Id":"a","x":"\u0041\"","OriginFeed":"DLP.All"}"#]);
        let record = batch.iter().next().expect("a record");
        let content_type = crate::feed::ContentType::DlpAll;
        let source = Source { tenant_id: "t", tenant_name: None, content_type, content_id: "", blob: 0 };
        let mut action = String::new();
        elastic.append(&source, record, &mut action);
        let text = text_of(&action, &error("t", "r")).expect("a document");
        let own = record.line();
        for form in [action, text] {
            let found = elastic.record_in(&form);
            assert_eq!(found[..own.len() - 1], own[..own.len() - 1]);
        }
    }
}
