//! `splunk-hec`: Splunk's HTTP Event Collector.
//!
//! A record is one event, on one line: `time` is its `CreationTime` in seconds; `host` is configured, or the name of the
//! tenant (else its id); `source`, `sourcetype` and `index` are configured; `event` is the record itself, unparsed. The token
//! is in the configured header `Authorization: Splunk …`.
//!
//! Success is a JSON object with `code` 0: Splunk has the events in its queue. With a `channel` each batch gets an id. It is
//! safe when `/services/collector/ack` acknowledges that id: the indexers have it. One request asks for several batches. The
//! ids start again at 0 when Splunk restarts, and each indexer has its own: an id that occurs twice belongs to the later
//! batch, and the earlier one is sent again.
//!
//! An error can name an event by `invalid-event-number`, counted from 0. The events before it are accepted. With status
//! 400 only this event is rejected, and those after it were not read; with 503 there was no room from this event on.
//!
//! Source: "Format events for HTTP Event Collector", "About HTTP Event Collector Indexer Acknowledgment" and
//! "Troubleshoot HTTP Event Collector", section "Possible error codes", of Splunk's documentation; what
//! `invalid-event-number` means for the other events was observed.

use std::{borrow::Cow, collections::HashMap, fmt::Write as _};

use jiff::Timestamp;
use serde::Deserialize;

use super::{
    batch::{Framing, HttpBatch},
    format::Format,
    outcome::{BatchOutcome, HttpError, RecordOutcomes},
};
use crate::{
    config::{Secret, SplunkHec},
    network::agents::Agents,
    output::Source,
    records::Record,
};

const FRAMING: Framing = Framing { open: "", between: "\n", close: "" };

/// The text before the line of the record. It does not occur earlier, because the quotes in earlier values are escaped.
const EVENT: &str = ",\"event\":";

/// The codes that are about an event, and not about the token or Splunk itself: no data, an invalid format, a missing or
/// blank event, indexed fields.
const CODES_OF_EVENTS: [u32; 5] = [5, 6, 12, 13, 15];

/// The format of Splunk, as configured.
#[derive(Debug)]
pub struct Splunk {
    settings: SplunkHec,
    /// The fields of every event: the source, the sourcetype and, if configured, the index.
    metadata: String,
}

impl Splunk {
    /// Returns the format with these options.
    pub fn new(settings: &SplunkHec) -> Self {
        let SplunkHec { source, sourcetype, index, .. } = settings;
        let mut fields = vec![("source", source), ("sourcetype", sourcetype)];
        fields.extend(index.as_ref().map(|index| ("index", index)));
        let fields: Vec<_> = fields.iter().map(|(key, text)| format!("\"{key}\":{}", quoted(text))).collect();
        let metadata = fields.join(",");
        Self { settings: settings.clone(), metadata }
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

impl Format for Splunk {
    fn append(&self, source: &Source<'_>, record: Record<'_>, to: &mut String) {
        to.push('{');
        if let Some(created) = record.creation_time().filter(|created| *created >= Timestamp::UNIX_EPOCH) {
            // into a String: cannot fail
            let _ = write!(to, "\"time\":{}.{:03},", created.as_second(), created.subsec_millisecond());
        }
        let host = self.settings.host.as_deref().unwrap_or(source.tenant_name.unwrap_or(source.tenant_id));
        to.extend(["\"host\":", &quoted(host), ",", &self.metadata, EVENT, record.line(), "}"]);
    }

    fn record_in<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let place = text.find(EVENT);
        place.map_or(text, |place| &text[place + EVENT.len()..]).into()
    }

    fn framing(&self) -> Framing {
        FRAMING
    }

    fn content_type(&self) -> &'static str {
        "application/json"
    }

    fn default_path(&self) -> &'static str {
        "/services/collector/event"
    }

    fn headers(&self, _: &Agents) -> Result<Vec<(&'static str, Secret)>, HttpError> {
        let channel = self.settings.channel.as_deref();
        Ok(channel.map(|channel| ("X-Splunk-Request-Channel", Secret::new(channel))).into_iter().collect())
    }

    fn explain(&self, status: u16, body: &[u8]) -> Option<(String, &'static str)> {
        let HecResponse { code, text, .. } = serde_json::from_slice(body).ok()?;
        let hint = match code? {
            1 => "enable the token under Settings, Data inputs, HTTP Event Collector",
            2 | 3 => "give the header Authorization: Splunk TOKEN, for example in header_files",
            4 => "the token is not one of this Splunk's: compare it under Data inputs, HTTP Event Collector",
            7 => "let the token write to that index, or correct splunk.index",
            10 | 11 => {
                "the token has indexer acknowledgement on: give splunk.channel a GUID, or turn it off there"
            }
            14 => "the token has indexer acknowledgement off: turn it on there, or remove splunk.channel",
            16 => "give the token in the header Authorization: Splunk TOKEN, and not in url",
            9 | 18..=20 | 22 | 26 => "its queues are full: wait until they have room, or add indexers",
            23 => "it is shutting down: wait until it has restarted",
            _ => "check splunkd.log for HttpInputDataHandler",
        };
        Some((format!("HTTP {status}: {text}"), hint))
    }

    fn is_about_records(&self, status: u16, body: &[u8]) -> bool {
        let code = HecResponse::read(body).and_then(|response| response.code);
        status == 400 && code.is_none_or(|code| CODES_OF_EVENTS.contains(&code))
    }

    fn outcome_of_error(
        &self,
        batch: &HttpBatch,
        status: u16,
        body: &[u8],
        error: &HttpError,
    ) -> Option<BatchOutcome> {
        let number = HecResponse::read(body)?.invalid_event_number.filter(|&number| number < batch.len())?;
        let (mut rest, mut rejected) = (HttpBatch::default(), Vec::new());
        let is_rejected = self.is_about_records(status, body);
        if !is_rejected && status != 503 {
            return None;
        }
        for (place, entry) in batch.records(FRAMING).enumerate().skip(number) {
            if is_rejected && place == number {
                let mut single = HttpBatch::default();
                single.push(entry, FRAMING);
                rejected.push((single, error.clone()));
            } else {
                rest.push(entry, FRAMING);
            }
        }
        let error = (!is_rejected).then(|| error.clone());
        Some(BatchOutcome::Mixed(RecordOutcomes { rest, rejected, error }))
    }

    fn outcome_of_success(&self, _: &HttpBatch, status: u16, body: &[u8]) -> BatchOutcome {
        let failed = |problem: String, hint| BatchOutcome::Failed(HttpError::new(problem, hint));
        let Some(HecResponse { code: Some(code), ack_id, .. }) = HecResponse::read(body) else {
            let problem = format!("HTTP {status} without the code by which Splunk accepts events");
            return failed(problem, "check that url is that of an HTTP Event Collector");
        };
        match (code, ack_id) {
            (0, ack_id) if ack_id.is_some() || !self.has_acks() => BatchOutcome::Accepted(ack_id),
            (0, _) => {
                let hint = "turn indexer acknowledgement on for the token, or remove splunk.channel";
                failed("it does not acknowledge what it indexes".to_owned(), hint)
            }
            _ => {
                let (problem, hint) = self.explain(status, body).unwrap_or_default();
                failed(problem, hint)
            }
        }
    }

    fn has_acks(&self) -> bool {
        self.settings.channel.is_some()
    }

    fn ack_request(&self, path: &str, ack_ids: &[u64]) -> Option<(String, String)> {
        let channel = self.settings.channel.as_ref()?;
        let ack_ids: Vec<_> = ack_ids.iter().map(u64::to_string).collect();
        let (path, query) = path.split_once('?').map_or((path, ""), |(path, query)| (path, query));
        let path = path.trim_end_matches('/');
        let path = path.strip_suffix("/1.0").unwrap_or(path);
        let path = path.strip_suffix("/event").unwrap_or(path);
        let separator = if query.is_empty() { "" } else { "&" };
        let path = format!("{path}/ack?{query}{separator}channel={channel}");
        Some((path, format!("{{\"acks\":[{}]}}", ack_ids.join(","))))
    }

    fn acknowledged(&self, body: &[u8]) -> Vec<u64> {
        #[derive(Deserialize)]
        struct AckResponse {
            acks: HashMap<String, bool>,
        }
        let response: Option<AckResponse> = serde_json::from_slice(body).ok();
        let acks = response.map(|response| response.acks).unwrap_or_default();
        acks.into_iter().filter(|(_, is_safe)| *is_safe).filter_map(|(id, _)| id.parse().ok()).collect()
    }

    fn probe(&self) -> Vec<u8> {
        Vec::new()
    }

    fn accepts_probe(&self, status: u16, body: &[u8]) -> Result<bool, HttpError> {
        // Splunk checks the token first: an error about the missing event shows that the token is valid.
        let code = HecResponse::read(body).and_then(|response| response.code);
        Ok(match code {
            Some(0) => (200..300).contains(&status),
            Some(code) => status == 400 && CODES_OF_EVENTS.contains(&code),
            None => false,
        })
    }
}

/// Splunk's response to a batch.
#[derive(Deserialize)]
struct HecResponse {
    #[serde(default)]
    text: String,
    code: Option<u32>,
    #[serde(rename = "ackId")]
    ack_id: Option<u64>,
    #[serde(rename = "invalid-event-number")]
    invalid_event_number: Option<usize>,
}

impl HecResponse {
    fn read(body: &[u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::batch::BatchRecord, *};

    #[test]
    fn requests_acknowledgements_below_the_event_path() {
        let settings = SplunkHec {
            index: None,
            source: String::new(),
            sourcetype: String::new(),
            host: None,
            channel: Some("c".to_owned()),
            ack_timeout: std::time::Duration::ZERO,
        };
        let splunk = Splunk::new(&settings);
        for (path, expected) in [
            ("/services/collector/event", "/services/collector/ack?channel=c"),
            ("/services/collector", "/services/collector/ack?channel=c"),
            ("/services/collector/event/1.0", "/services/collector/ack?channel=c"),
            ("/splunk/services/collector/event/", "/splunk/services/collector/ack?channel=c"),
            ("/hec?a=b", "/hec/ack?a=b&channel=c"),
        ] {
            let question = splunk.ack_request(path, &[3, 4]);
            assert_eq!(question, Some((expected.to_owned(), "{\"acks\":[3,4]}".to_owned())), "{path}");
        }
    }

    #[test]
    fn splits_a_batch_at_the_event_that_an_error_names() {
        let settings = SplunkHec {
            index: None,
            source: String::new(),
            sourcetype: String::new(),
            host: None,
            channel: None,
            ack_timeout: std::time::Duration::ZERO,
        };
        let splunk = Splunk::new(&settings);
        let mut batch = HttpBatch::default();
        for id in 0..5 {
            let id = Some(crate::records::RecordId::for_test(id));
            let record = crate::output::BlobRecord { blob: 0, id };
            batch.push(BatchRecord { record, text: "{}", line_bytes: 2 }, FRAMING);
        }
        for (status, body, rejected, rest) in [
            (400, r#"{"code":6,"invalid-event-number":2}"#, vec![2], vec![3, 4]),
            (400, r#"{"code":6,"invalid-event-number":0}"#, vec![0], vec![1, 2, 3, 4]),
            (503, r#"{"code":9,"invalid-event-number":2}"#, vec![], vec![2, 3, 4]),
        ] {
            let error = HttpError::new("no", "");
            let Some(BatchOutcome::Mixed(outcomes)) =
                splunk.outcome_of_error(&batch, status, body.as_bytes(), &error)
            else {
                panic!("{body} is not understood");
            };
            assert_eq!(
                outcomes.rejected.iter().flat_map(|(single, _)| single.ids()).collect::<Vec<_>>(),
                rejected
            );
            assert_eq!(outcomes.rest.ids().collect::<Vec<_>>(), rest, "{body}");
            assert_eq!(outcomes.error.is_some(), status == 503);
        }
        for body in [r#"{"code":6,"invalid-event-number":5}"#, r#"{"code":6}"#, "", "7"] {
            assert!(
                splunk.outcome_of_error(&batch, 400, body.as_bytes(), &HttpError::new("no", "")).is_none(),
                "{body}"
            );
        }
        let other = r#"{"code":4,"invalid-event-number":2}"#;
        assert!(splunk.outcome_of_error(&batch, 403, other.as_bytes(), &HttpError::new("no", "")).is_none());
    }
}
