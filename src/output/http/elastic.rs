//! `elastic-bulk`: the bulk API of Elasticsearch, and of `OpenSearch`.
//!
//! A record is a `create` action and the document: the record with `@timestamp`, which data streams demand, added at
//! its end from `CreationTime` unless it has one. The action's `_index` is `elastic.index`, a data stream or an index;
//! without that option it is the URL's (`…/NAME/_bulk`). Its `_id` is the record's `Id`, so that a record that is sent
//! again is answered with 409, which counts as taken, and overwrites nothing; in a data stream this holds as long as
//! the stream is not rolled over in between. A record without an `Id` gets an `_id` of Elasticsearch's making.
//!
//! The answer says of each record what became of it:
//!
//! - taken, or 409: done;
//! - 429 and what is wrong with the cluster (5xx): sent again, only these, later;
//! - 400: the index's mapping can never take this record, however often it is sent. So that neither the record is lost
//!   nor all that follow it wait for ever, it is sent again at once as **text**, which every mapping takes that has no
//!   strict rules: the record in `event.original`, why in `error.type` and `error.message`, with the same `_id` and
//!   `@timestamp`. The log tells how many. If even that is refused, the output fails and the message names the record;
//! - any other status, such as 403 or 404 for the index: the output fails.
//!
//! Source: "Bulk API" of the Elasticsearch reference; Elastic Common Schema, fields `event.original` and
//! `error.message`.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    answer::{Outcome, Refusal},
    batch::{Batch, Frame},
    facts::{self, Facts},
    format::{Format, Probe},
};
use crate::{limits::ELASTIC_ID_BYTES_MAX, log::one_line, output::Source, records::Record};

const FRAME: Frame = Frame { open: "", between: "\n", close: "" };

/// How the document begins that has a record as text.
const TEXT: &[u8] = b"{\"event\":{\"original\":";

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
    fn append(&self, _: &Source<'_>, record: &Record<'_>, to: &mut Vec<u8>) {
        let facts = Facts::of(record, "@timestamp");
        let index = self.index.as_ref().map(|index| format!("\"_index\":{}", Value::from(index.as_str())));
        let id = facts.id.filter(|id| id.len() <= ELASTIC_ID_BYTES_MAX);
        let id = id.map(|id| format!("\"_id\":{id}"));
        let action: Vec<_> = [index, id].into_iter().flatten().collect();
        to.extend_from_slice(format!("{{\"create\":{{{}}}}}\n", action.join(",")).as_bytes());
        facts::append_with_time(record, &facts, "@timestamp", to);
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
        #[derive(Deserialize)]
        struct Answer {
            error: Error,
        }
        let Answer { error: Error { r#type, .. } } = serde_json::from_slice(body).ok()?;
        let mend = match status {
            401 => "give the header Authorization: ApiKey KEY, for example in header_files",
            403 => "give the key the privileges create_doc and auto_configure on the index",
            404 => "check url and elastic.index: there is no such index",
            _ => "look into the log of Elasticsearch",
        };
        Some((format!("HTTP {status}: {}", one_line(&r#type)), mend))
    }

    fn blames_records(&self, _: u16, _: &[u8]) -> bool {
        false // what it says of records stands in an answer of success
    }

    fn settle(&self, batch: &Batch, body: &[u8]) -> Outcome {
        let Ok(Answer { errors, items }) = serde_json::from_slice(body) else {
            let problem = "the answer is none to a bulk request";
            return Outcome::Failed(Refusal::new(problem, "check that url ends in _bulk"), None);
        };
        if !errors {
            return Outcome::Taken(None);
        }
        if items.len() != batch.len() {
            let problem = "the answer does not speak of each record";
            return Outcome::Failed(Refusal::passing(problem, "look into the log of Elasticsearch"), None);
        }
        let (mut rest, mut busy, mut as_text) = (Batch::default(), None, Vec::new());
        for ((mark, record), Item { create }) in batch.records(FRAME).zip(items) {
            let Created { status, error } = create;
            let error = error.unwrap_or_default();
            match status {
                200..=299 | 409 => {}
                429 | 500.. => {
                    rest.push(mark, record, FRAME);
                    busy.get_or_insert_with(|| error.r#type.clone());
                }
                400 => match text_of(record, &error) {
                    Some(text) => {
                        rest.push(mark, &text, FRAME);
                        as_text.push(format!("{} ({})", id_of(record), error.summary()));
                    }
                    None => return refused(record, status, &error),
                },
                _ => return refused(record, status, &error),
            }
        }
        if let Some(first) = as_text.first() {
            log::warn!(
                "Output http: the mapping cannot take {} of {} records, such as {first}: they are sent as text in \
                 event.original",
                as_text.len(),
                batch.len()
            );
        }
        match busy {
            Some(why) => {
                let count = rest.len() - as_text.len();
                let problem = format!("{count} of {} records are not taken: {}", batch.len(), one_line(&why));
                let refusal = Refusal::passing(problem, "give the cluster time, or lower connections");
                Outcome::Failed(refusal, Some(rest))
            }
            None if rest.is_empty() => Outcome::Taken(None),
            None => Outcome::Next(rest),
        }
    }

    fn probe(&self) -> Probe {
        // A key that may only write documents is refused the root by 403, and is good all the same.
        Probe { path: Some("/"), refusals: &[401] }
    }
}

fn refused(record: &[u8], status: u16, error: &Error) -> Outcome {
    let problem = format!("record {} is refused: status {status}, {}", id_of(record), error.summary());
    let mend = match status {
        403 => {
            "give the key the privileges create_doc and auto_configure on the index, and the cluster room on its disks"
        }
        404 => "create the index or data stream, or correct elastic.index",
        _ => "mend the index's mapping so that it takes this record; the next pass sends it again",
    };
    Outcome::Failed(Refusal::new(problem, mend), None)
}

/// The action and document as text, from the record's action and document. `None` if it is text already.
fn text_of(record: &[u8], error: &Error) -> Option<Vec<u8>> {
    let line_end = record.iter().position(|&byte| byte == b'\n')?;
    let (action, document) = (&record[..=line_end], &record[line_end + 1..]);
    if document.starts_with(TEXT) {
        return None;
    }
    let fields = document.strip_suffix(b"}")?;
    let facts = Facts::of(&Record { id: None, fields, ending: b"" }, "");
    let time = facts.created.unwrap_or_else(Timestamp::now);
    let original = Value::from(std::str::from_utf8(document).ok()?);
    let error = json!({ "type": error.r#type, "message": error.reason });
    let end = format!("{original}}},\"error\":{error},\"@timestamp\":\"{time:.3}\"}}");
    Some([action, TEXT, end.as_bytes()].concat())
}

/// The record's Id, out of its action.
fn id_of(record: &[u8]) -> String {
    let action = record.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let action: Value = serde_json::from_slice(action).unwrap_or_default();
    action["create"]["_id"].as_str().map_or_else(|| "without an Id".to_owned(), one_line)
}

#[derive(Deserialize)]
struct Answer {
    errors: bool,
    #[serde(default)]
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
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
