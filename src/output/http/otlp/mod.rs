//! `otlp`: the `OpenTelemetry` protocol over HTTP, to `/v1/logs`.
//!
//! A record is a log record: `timeUnixNano` is its `CreationTime`, `observedTimeUnixNano` the time at which it was batched,
//! `eventName` its `Operation`, the attribute `log.record.uid` its `Id`, and the severity `INFO`, because audit records have
//! none. Its JSON text is the body; or the body is a map of its fields; or its fields are the attributes
//! ([`structure`]). A record whose fields OTLP cannot represent has its text as the body. The resource has the service's
//! name and the tenant; the scope is the feed.
//!
//! A batch keeps records as text, each after its source and header. The threads that send encode them.
//!
//! Success is 200 with the content type of the request and an `ExportLogsServiceResponse`. Loki answers 204 without a body,
//! which counts as well (grafana/loki issue 15761). With `partialSuccess` the receiver has rejected a number of records and
//! accepted the others, without saying which. If it has rejected all, the batch is halved like after 400, to save those
//! that are rejected only because of others. Otherwise the batch must not be sent again, and all of it becomes dead letters.
//!
//! Only 429, 502, 503 and 504 are retried. After another server error, the record that causes it is looked for at once.
//!
//! Source: "OTLP Specification 1.10", section "OTLP/HTTP"; "Logs Data Model"; semantic conventions, `log.record.uid`.

mod messages;
mod structure;

use std::{
    borrow::Cow,
    mem,
    sync::atomic::{AtomicBool, Ordering},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use ureq::http::HeaderMap;

use super::{
    batch::{Framing, HttpBatch},
    format::Format,
    outcome::{BatchOutcome, HttpError},
    quotes,
};
use crate::{
    config::{self, OtlpEncoding, OtlpRecord},
    json,
    output::{Source, compressed},
    records::{HeaderField, Record},
    redact::{self, one_line},
};
use messages::{
    KeyValue, KeyValueList, LogRecord, Resource, ResourceLogs, Scope, ScopeLogs, Value, message_of_status,
};

/// `SEVERITY_NUMBER_INFO`.
const INFO: i32 = 9;

/// The attribute with the `Id` of a record.
const UID: &str = "log.record.uid";

/// A record has its source and its header on two lines before its own.
const FRAMING: Framing = Framing { open: "", between: "\n", close: "" };

/// The format of OTLP, as configured.
#[derive(Debug)]
pub struct Otlp {
    settings: config::Otlp,
    /// Whether a warning of the receiver was logged.
    has_warned: AtomicBool,
}

/// Where a record comes from: the id of the tenant, its name, and the feed.
type Origin<'a> = (Cow<'a, str>, Option<Cow<'a, str>>, Cow<'a, str>);

/// What a log record has besides the record itself.
#[derive(Serialize, Deserialize)]
struct Header<'a> {
    created: u64,
    observed: u64,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    operation: Option<&'a RawValue>,
}

impl Otlp {
    /// Returns the format with these options.
    pub fn new(settings: &config::Otlp) -> Self {
        Self { settings: settings.clone(), has_warned: AtomicBool::new(false) }
    }

    fn encoding(&self) -> OtlpEncoding {
        self.settings.encoding
    }

    fn resource(&self, (tenant_id, tenant_name, _): &Origin<'_>) -> Resource {
        let mut attributes = vec![
            KeyValue::text("service.name", &*self.settings.service_name),
            KeyValue::text("office365.tenant.id", &**tenant_id),
        ];
        let name = tenant_name.as_deref().map(|name| KeyValue::text("office365.tenant.name", name));
        attributes.extend(name);
        Resource { attributes }
    }

    fn log_record(&self, header: &str, line: &str) -> LogRecord {
        let Header { created, observed, id, operation } =
            serde_json::from_str(header).expect("the header was written by `append`");
        let text = |value: &RawValue| json::text_of(value.get()).into_owned();
        let uid = id.map(|id| KeyValue::text(UID, text(id)));
        let fields = match self.settings.record_as {
            OtlpRecord::Text => None,
            OtlpRecord::Map | OtlpRecord::Attributes => structure::fields_of(line),
        };
        let as_text = || Some(Value::Text(line.to_owned()).into());
        let (body, fields) = match (self.settings.record_as, fields) {
            (OtlpRecord::Map, Some(values)) => (Some(Value::Map(KeyValueList { values }).into()), Vec::new()),
            (OtlpRecord::Attributes, Some(fields)) if fields.iter().all(|field| field.key != UID) => {
                (None, fields)
            }
            _ => (as_text(), Vec::new()),
        };
        LogRecord {
            time_unix_nano: created,
            observed_time_unix_nano: observed,
            severity_number: INFO,
            event_name: operation.filter(|value| value.get().starts_with('"')).map(text).unwrap_or_default(),
            body,
            attributes: uid.into_iter().chain(fields).collect(),
        }
    }

    /// Logs a warning of the receiver, once in a pass.
    fn warn(&self, message: &str, batch: &HttpBatch) {
        if !message.is_empty() && !self.has_warned.swap(true, Ordering::Relaxed) {
            let message = one_line(&quotes::without_values(message, batch.text()));
            log::warn!("Output http: the receiver accepts the records and warns: {message}");
        }
    }
}

/// Returns the nanoseconds since 1970; 0, which means unknown, for a time that OTLP cannot represent.
fn nanoseconds(time: Option<Timestamp>) -> u64 {
    time.and_then(|time| u64::try_from(time.as_nanosecond()).ok()).unwrap_or_default()
}

fn json_of(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("texts and numbers can be written as JSON")
}

/// Returns the lines of a record: its source, its header and its own.
fn lines_of(text: &str) -> (&str, &str, &str) {
    let mut lines = text.splitn(3, '\n');
    let mut next = || lines.next().unwrap_or_default();
    (next(), next(), next())
}

impl Format for Otlp {
    fn append(&self, source: &Source<'_>, record: Record<'_>, to: &mut String) {
        let origin: Origin<'_> = (
            source.tenant_id.into(),
            source.tenant_name.map(Cow::Borrowed),
            source.content_type.name().into(),
        );
        let raw = |field| serde_json::from_str(record.value(field)?).ok();
        let header = Header {
            created: nanoseconds(record.creation_time()),
            observed: nanoseconds(Some(Timestamp::now())),
            id: raw(HeaderField::Id),
            operation: raw(HeaderField::Operation),
        };
        to.extend([&*json_of(&origin), "\n", &json_of(&header), "\n", record.line()]);
    }

    fn record_in<'a>(&self, text: &'a str) -> Cow<'a, str> {
        lines_of(text).2.into()
    }

    fn framing(&self) -> Framing {
        FRAMING
    }

    fn body(&self, batch: &HttpBatch, gzip: bool) -> Vec<u8> {
        let mut groups = Vec::new();
        let (mut source, mut log_records) = ("", Vec::new());
        let mut end_group = |source: &str, log_records: Vec<_>| {
            if !log_records.is_empty() {
                let origin: Origin<'_> =
                    serde_json::from_str(source).expect("the source was written by `append`");
                let scope_logs = ScopeLogs { scope: Some(Scope { name: origin.2.to_string() }), log_records };
                groups.push(ResourceLogs {
                    resource: Some(self.resource(&origin)),
                    scope_logs: Some(scope_logs),
                });
            }
        };
        for record in batch.records(FRAMING) {
            let (record_source, header, line) = lines_of(record.text);
            if record_source != source {
                end_group(source, mem::take(&mut log_records));
                source = record_source;
            }
            log_records.push(self.encoding().log_record(&self.log_record(header, line)));
        }
        end_group(source, log_records);
        let body = self.encoding().request(groups);
        if gzip { compressed(&[&body]) } else { body }
    }

    fn content_type(&self) -> &'static str {
        self.encoding().content_type()
    }

    fn default_path(&self) -> &'static str {
        "/v1/logs"
    }

    fn redacted_body(&self, status: u16, body: &[u8]) -> Vec<u8> {
        // Removing a secret from Protobuf would make it unreadable. The messages of a success are redacted when they are logged.
        if status < 300 { body.to_vec() } else { redact::body(&self.encoding().json_of_status(body)) }
    }

    fn explain(&self, status: u16, body: &[u8]) -> Option<(String, &'static str)> {
        let message = message_of_status(body);
        let hint = match status {
            400 | 422 => "check the receiver's log",
            404 | 405 => {
                "check url: the path of an OTLP receiver ends in /v1/logs unless it is configured otherwise"
            }
            415 => "choose the other otlp.encoding; or the receiver does not accept compress: gzip",
            _ if message.is_some() => super::outcome::hint(status),
            _ => return None,
        };
        let problem =
            message.map_or_else(|| format!("HTTP {status}"), |message| format!("HTTP {status}: {message}"));
        Some((problem, hint))
    }

    fn retries(&self, status: u16) -> bool {
        matches!(status, 429 | 502 | 503 | 504)
    }

    fn check_success(&self, status: u16, headers: &HeaderMap) -> Result<(), HttpError> {
        let declared = headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let media_type = declared.split(';').next().unwrap_or_default().trim();
        let expected = self.content_type();
        let problem = match status {
            200 if media_type.eq_ignore_ascii_case(expected) => return Ok(()),
            204 => return Ok(()),
            200 => format!("HTTP 200 without the Content-Type {expected} of an OTLP receiver"),
            _ => format!("HTTP {status}, where an OTLP receiver answers 200"),
        };
        Err(HttpError::new(problem, "check url, and what is in front of the receiver"))
    }

    fn outcome_of_success(&self, batch: &HttpBatch, status: u16, body: &[u8]) -> BatchOutcome {
        if status == 204 {
            return BatchOutcome::Accepted(None);
        }
        let Some(partial) = self.encoding().partial_success(body) else {
            let problem = format!("HTTP {status} without the response of an OTLP receiver of logs");
            return BatchOutcome::Failed(HttpError::new(problem, "check url"));
        };
        let message = partial.error_message;
        let rejected = usize::try_from(partial.rejected_log_records).unwrap_or_default();
        if rejected == 0 {
            self.warn(&message, batch);
            return BatchOutcome::Accepted(None);
        }
        let reason = one_line(&quotes::without_values(&message, batch.text()));
        let reason = if reason.is_empty() { "it gives no reason".to_owned() } else { reason };
        if rejected >= batch.len() {
            let hint = "correct what the receiver complains about, or its limits";
            return BatchOutcome::Rejected(HttpError::new(
                format!("HTTP {status}: rejected: {reason}"),
                hint,
            ));
        }
        let problem =
            format!("it rejected {rejected} of {} records and does not say which: {reason}", batch.len());
        let hint = "look up which of these records the receiver has before you send any again; a smaller batchRecords makes \
                    them fewer";
        BatchOutcome::Undecided(rejected, HttpError::new(problem, hint))
    }

    fn probe(&self) -> Vec<u8> {
        self.encoding().request(Vec::new())
    }

    fn accepts_probe(&self, status: u16, body: &[u8]) -> Result<bool, HttpError> {
        // Loki rejects a request without records, which shows that everything else is right.
        let is_about_emptiness = || status == 422 && message_of_status(body).is_some();
        let is_accepted = status == 204 || (status == 200 && self.encoding().partial_success(body).is_some());
        Ok(is_accepted || is_about_emptiness())
    }
}
