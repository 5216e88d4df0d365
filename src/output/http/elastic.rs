//! `elastic-bulk`: the bulk API of Elasticsearch, and of `OpenSearch`.
//!
//! A record is a `create` action and the document: the record with `@timestamp`, which data streams demand, added at
//! its end from `CreationTime` unless it has one. The action's `_index` is `elastic.index`, a data stream or an index;
//! without that option it is the URL's (`…/NAME/_bulk`). Its `_id` is the record's `Id`, so that a record that is sent
//! again is answered with 409, which counts as taken, and overwrites nothing; in a data stream this holds as long as
//! the stream is not rolled over in between. A record without an `Id` gets an `_id` of Elasticsearch's making.
//!
//! The response says of each record what became of it:
//!
//! - created, or 409: accepted;
//! - 429 and what is wrong with the cluster (5xx): sent again, only these, later;
//! - 400 because the index's mapping cannot take the record or because it cannot be parsed: that is so however often it is
//!   sent. It is sent again at once as **text**, which every mapping accepts that has no strict rules: the record in
//!   `event.original`, why in `error.type` and `error.message`, with the same `_id` and `@timestamp`. The log says how many.
//!   What is refused as text as well is refused for good;
//! - 400 for any other reason that can be the record's, such as a processor of a pipeline that fails: refused for good;
//! - 400 because of the index (`validation_exception` at the limit of shards, a pipeline or an alias that is missing), and
//!   any other status, such as 403 or 404 for the index: the output fails.
//!
//! A record that cannot be parsed makes some versions refuse the whole body with 400 where an ingest pipeline is used
//! (elastic/elasticsearch issue 138445: one record with a repeated field). The batch is then halved down to that record.
//!
//! Source: "Bulk API" of the Elasticsearch reference; Elastic Common Schema, fields `event.original` and
//! `error.message`.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    answer::{Outcome, Refusal, Sorted},
    batch::{Batch, Entry, Frame},
    format::{Format, append_with_time},
};
use crate::{
    json,
    limits::ELASTIC_ID_BYTES_MAX,
    output::Source,
    records::{HeaderField, Record, TimeField},
    redact::one_line,
    time,
};

const FRAME: Frame = Frame { open: "", between: "\n", close: "" };

/// How the document begins that has a record as text.
const TEXT: &str = "{\"event\":{\"original\":";

/// What the mapping of an index or the parser of documents says of a record. A record as text may be accepted instead.
///
/// Source: `mapper` and `xcontent` in elastic/elasticsearch; `OpenSearch` has the same types.
const TYPES_OF_MAPPINGS: [&str; 10] = [
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

/// What is said with 400 of the index, or of the request as such.
const TYPES_OF_INDICES: [&str; 5] = [
    "validation_exception",
    "action_request_validation_exception",
    "index_not_found_exception",
    "invalid_index_name_exception",
    "index_closed_exception",
];

/// How an `illegal_argument_exception` begins or what it holds that is about the index.
const REASONS_OF_INDICES: [&str; 6] = [
    "pipeline with id [",
    "no write index is defined for alias",
    "only write ops with an op_type of create are allowed in data streams",
    "is not supported for data streams",
    "this action would add [",
    "Malformed action/metadata line",
];

/// The document of a check: valid JSON, but no object, so that no index accepts it.
const PROBE: &str = "[]";

/// Elasticsearch, as configured.
#[derive(Debug)]
pub struct Elastic {
    index: Option<String>,
}

impl Elastic {
    /// To this data stream or index, or to the URL's.
    pub fn new(index: Option<String>) -> Self {
        Self { index }
    }
}

impl Format for Elastic {
    fn append(&self, _: &Source<'_>, record: Record<'_>, to: &mut String) {
        let index = self.index.as_ref().map(|index| format!("\"_index\":{}", Value::from(index.as_str())));
        let id = record.value(HeaderField::Id);
        let id = id.filter(|id| id.starts_with('"') && (3..=ELASTIC_ID_BYTES_MAX).contains(&id.len()));
        let id = id.map(|id| format!("\"_id\":{id}"));
        let action: Vec<_> = [index, id].into_iter().flatten().collect();
        to.extend(["{\"create\":{", &action.join(","), "}}\n"]);
        append_with_time(record, TimeField::Timestamp, to);
    }

    fn record_in<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let document = document_of(text);
        if !document.starts_with(TEXT) {
            return document.into();
        }
        let value: Value = serde_json::from_str(document).unwrap_or_default();
        value["event"]["original"].as_str().map_or_else(|| document.into(), |text| text.to_owned().into())
    }

    fn frame(&self) -> Frame {
        FRAME
    }

    fn content_type(&self) -> &'static str {
        "application/x-ndjson"
    }

    fn usual_path(&self) -> &'static str {
        "/_bulk"
    }

    fn explain(&self, status: u16, body: &[u8]) -> Option<(String, &'static str)> {
        let error = error_of(body)?;
        let hint = match status {
            401 => "give the header Authorization: ApiKey KEY, for example in header_files",
            403 => "give the key the privileges create_doc and auto_configure on the index",
            404 => "check url and elastic.index: there is no such index",
            400 if error.is_about_the_index() => INDEX_MEND,
            _ => "look into the log of Elasticsearch",
        };
        let quoted = if error.is_about_the_index() { format!(", {}", error.reason) } else { String::new() };
        Some((format!("HTTP {status}: {}{quoted}", one_line(&error.r#type)), hint))
    }

    fn blames_records(&self, status: u16, body: &[u8]) -> bool {
        status == 400 && error_of(body).is_none_or(|error| !error.is_about_the_index())
    }

    fn sort(&self, batch: &Batch, status: u16, body: &[u8], _: &Refusal) -> Option<Outcome> {
        if batch.len() != 1 || !self.blames_records(status, body) {
            return None;
        }
        let (entry, error) = (batch.entries(FRAME).next()?, error_of(body)?);
        let text = text_of(entry.text, &error)?;
        let mut rest = Batch::default();
        rest.push(Entry { text: &text, ..entry }, FRAME);
        warn_of_texts(&[format!("{} ({})", id_of(entry.text), error.summary())], 1);
        Some(Outcome::Sorted(Sorted { rest, ..Sorted::default() }))
    }

    fn settle(&self, batch: &Batch, _: u16, body: &[u8]) -> Outcome {
        let Ok(BulkResponse { errors, items }) = serde_json::from_slice(body) else {
            let problem = "the answer is not that of the bulk API";
            return Outcome::Failed(Refusal::new(problem, "check that url ends in _bulk"));
        };
        if !errors && items.is_empty() {
            return Outcome::Accepted(None); // `filter_path` in the URL can leave the items out
        }
        if items.len() != batch.len() {
            let problem = "the answer does not name each record";
            return Outcome::Failed(Refusal::transient(problem, "look into the log of Elasticsearch"));
        }
        let (mut sorted, mut busy, mut as_text) = (Sorted::default(), None, Vec::new());
        for (entry, BulkItem { create }) in batch.entries(FRAME).zip(items) {
            let Created { status, error } = create;
            let error = error.unwrap_or_default();
            match status {
                200..=299 | 409 => {}
                429 | 500.. => {
                    sorted.rest.push(entry, FRAME);
                    busy.get_or_insert_with(|| error.r#type.clone());
                }
                400 if !error.is_about_the_index() => {
                    let text = error.is_about_the_mapping().then(|| text_of(entry.text, &error)).flatten();
                    if let Some(text) = text {
                        sorted.rest.push(Entry { text: &text, ..entry }, FRAME);
                        as_text.push(format!("{} ({})", id_of(entry.text), error.summary()));
                    } else {
                        let mut single = Batch::default();
                        single.push(entry, FRAME);
                        sorted.refused.push((single, refused(entry.text, status, &error)));
                    }
                }
                _ => return Outcome::Failed(refused(entry.text, status, &error)),
            }
        }
        warn_of_texts(&as_text, batch.len());
        sorted.failure = busy.map(|why| {
            let count = sorted.rest.len() - as_text.len();
            let problem = format!("{count} of {} records are not taken: {}", batch.len(), one_line(&why));
            Refusal::transient(problem, "give the cluster time, or lower connections")
        });
        Outcome::Sorted(sorted)
    }

    fn probe(&self) -> Vec<u8> {
        let mut create = json!({ "_id": concat!(env!("CARGO_PKG_NAME"), "-check") });
        if let Some(index) = &self.index {
            create["_index"] = index.as_str().into();
        }
        format!("{}\n{PROBE}\n", json!({ "create": create })).into_bytes()
    }

    fn passes_probe(&self, status: u16, body: &[u8]) -> Result<bool, Refusal> {
        if status == 400 {
            // With a pipeline, the whole request is refused because of the document.
            return Ok(error_of(body).is_some() && self.blames_records(status, body));
        }
        let Ok(BulkResponse { items, .. }) = serde_json::from_slice(body) else { return Ok(false) };
        for BulkItem { create: Created { status, error } } in items {
            let error = error.unwrap_or_default();
            let is_accepted =
                matches!(status, 200..=299 | 409) || (status == 400 && !error.is_about_the_index());
            if !is_accepted {
                let problem = format!("a document is refused: status {status}, {}", error.in_full());
                return Err(Refusal::new(problem, refusal_mend(status, &error)));
            }
        }
        Ok((200..300).contains(&status))
    }
}

const INDEX_MEND: &str = "correct the index, its templates or the pipeline; the cluster's log has more";

fn refused(record: &str, status: u16, error: &Error) -> Refusal {
    let summary = if error.is_about_the_index() { error.in_full() } else { error.summary() };
    let problem = format!("record {} is refused: status {status}, {summary}", id_of(record));
    Refusal::new(problem, refusal_mend(status, error))
}

fn refusal_mend(status: u16, error: &Error) -> &'static str {
    match status {
        403 => {
            "give the key the privileges create_doc and auto_configure on the index, and the cluster room on its disks"
        }
        404 => "create the index or data stream, or correct elastic.index",
        _ if error.is_about_the_index() => INDEX_MEND,
        _ => "correct the index's mapping or pipeline so that it accepts this record",
    }
}

/// Reports the records that are sent again as text.
fn warn_of_texts(as_text: &[String], count: usize) {
    if let Some(first) = as_text.first() {
        log::warn!(
            "Output http: the mapping cannot take {} of {count} records, such as {first}: they are sent as text in \
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
    if document.starts_with(TEXT) {
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
    Some(format!("{action}\n{TEXT}{original}}},\"error\":{error},\"@timestamp\":\"{time:.3}\"}}"))
}

/// Returns the record's Id, which is in its action.
fn id_of(record: &str) -> String {
    let action = record.split('\n').next().unwrap_or_default();
    let action: Value = serde_json::from_str(action).unwrap_or_default();
    action["create"]["_id"].as_str().map_or_else(|| "without an Id".to_owned(), one_line)
}

/// What an error response to a whole request says.
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
    /// Whether the index is at fault, and not a record.
    fn is_about_the_index(&self) -> bool {
        TYPES_OF_INDICES.contains(&&*self.r#type)
            || REASONS_OF_INDICES.iter().any(|reason| self.reason.contains(reason))
    }

    /// Whether the record as text may be accepted.
    fn is_about_the_mapping(&self) -> bool {
        TYPES_OF_MAPPINGS.contains(&&*self.r#type)
    }

    /// Its kind and its reason, which is about the index and quotes no record.
    fn in_full(&self) -> String {
        one_line(&format!("{}, {}", self.r#type, self.reason))
    }

    /// Its kind and the field that it is about. No more of the reason, which quotes the record.
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
    fn an_error_is_about_the_index_or_about_a_record() {
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
    fn the_record_is_found_in_its_document_and_in_its_text() {
        let elastic = Elastic::new(None);
        let batch = RecordBatch::for_test(&[r#"{"Id":"a","x":"\u0041\"","OriginFeed":"DLP.All"}"#]);
        let record = batch.iter().next().expect("a record");
        let content_type = crate::feed::ContentType::DlpAll;
        let source = Source { tenant_id: "t", tenant_name: None, content_type, blob: 0 };
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
