//! `splunk-hec`: Splunk's HTTP Event Collector.
//!
//! A record is one event: `time` is its `CreationTime` in seconds, `host` the tenant's name (else its id) unless
//! configured, `source`, `sourcetype` and, if configured, `index`; `event` is the record's own text, unparsed. Events
//! stand one behind the other, each on a line. The token comes in the configured header `Authorization: Splunk …`.
//!
//! Success is a JSON object with `code` 0: Splunk has the events in its queue. With a `channel` each batch gets a number,
//! and is safe only when `/services/collector/ack` says so of that number: the indexers have it. Several batches are asked
//! for at once. Numbers start again at 0 when Splunk restarts, and each indexer has its own: a number that comes twice
//! belongs to the later batch, and the earlier one is sent again.
//!
//! An error can name an event by `invalid-event-number`, counted from 0. The events before it are accepted. With status
//! 400 this event alone is refused, and those after it were not looked at; with 503 there was no room from this event on.
//!
//! Source: "Format events for HTTP Event Collector", "About HTTP Event Collector Indexer Acknowledgment" and
//! "Troubleshoot HTTP Event Collector", section "Possible error codes", of Splunk's documentation; what
//! `invalid-event-number` means for the other events was observed.

use std::{borrow::Cow, collections::HashMap, fmt::Write as _};

use jiff::Timestamp;
use serde::Deserialize;

use super::{
    answer::{Outcome, Refusal, Sorted},
    batch::{Batch, Frame},
    format::Format,
};
use crate::{
    config::{Secret, SplunkHec},
    network::agents::Agents,
    output::Source,
    records::Record,
};

const FRAME: Frame = Frame { open: "", between: "\n", close: "" };

/// What is before the record's own text; the texts before it are quoted, so that this is not in them.
const EVENT: &str = ",\"event\":";

/// The codes that are about an event, and not about the token or Splunk itself: no data, a format that is invalid, an
/// event that is missing or blank, indexed fields.
const CODES_OF_EVENTS: [u32; 5] = [5, 6, 12, 13, 15];

/// Splunk, as configured.
#[derive(Debug)]
pub struct Splunk {
    settings: SplunkHec,
    /// What every event has: its source, its sourcetype and, if configured, its index.
    metadata: String,
}

impl Splunk {
    /// With these options.
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

    fn frame(&self) -> Frame {
        FRAME
    }

    fn content_type(&self) -> &'static str {
        "application/json"
    }

    fn usual_path(&self) -> &'static str {
        "/services/collector/event"
    }

    fn headers(&self, _: &Agents) -> Result<Vec<(&'static str, Secret)>, Refusal> {
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
            9 | 18..=20 | 22 | 26 => "its queues are full: give the indexers time, or more of them",
            23 => "it is shutting down: give it time",
            _ => "look into splunkd.log for HttpInputDataHandler",
        };
        Some((format!("HTTP {status}: {text}"), hint))
    }

    fn blames_records(&self, status: u16, body: &[u8]) -> bool {
        let code = HecResponse::read(body).and_then(|response| response.code);
        status == 400 && code.is_none_or(|code| CODES_OF_EVENTS.contains(&code))
    }

    fn sort(&self, batch: &Batch, status: u16, body: &[u8], refusal: &Refusal) -> Option<Outcome> {
        let number = HecResponse::read(body)?.invalid_event_number.filter(|&number| number < batch.len())?;
        let (mut rest, mut refused) = (Batch::default(), Vec::new());
        let is_refused = self.blames_records(status, body);
        if !is_refused && status != 503 {
            return None;
        }
        for (place, entry) in batch.entries(FRAME).enumerate().skip(number) {
            if is_refused && place == number {
                let mut single = Batch::default();
                single.push(entry, FRAME);
                refused.push((single, refusal.clone()));
            } else {
                rest.push(entry, FRAME);
            }
        }
        let failure = (!is_refused).then(|| refusal.clone());
        Some(Outcome::Sorted(Sorted { rest, refused, failure }))
    }

    fn settle(&self, _: &Batch, status: u16, body: &[u8]) -> Outcome {
        let failed = |problem: String, hint| Outcome::Failed(Refusal::new(problem, hint));
        let Some(HecResponse { code: Some(code), ack_id, .. }) = HecResponse::read(body) else {
            let problem = format!("HTTP {status} without the code by which Splunk accepts events");
            return failed(problem, "check that url is that of an HTTP Event Collector");
        };
        match (code, ack_id) {
            (0, receipt) if receipt.is_some() || !self.has_receipts() => Outcome::Accepted(receipt),
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

    fn has_receipts(&self) -> bool {
        self.settings.channel.is_some()
    }

    fn question(&self, path: &str, receipts: &[u64]) -> Option<(String, String)> {
        let channel = self.settings.channel.as_ref()?;
        let receipts: Vec<_> = receipts.iter().map(u64::to_string).collect();
        let (path, query) = path.split_once('?').map_or((path, ""), |(path, query)| (path, query));
        let path = path.trim_end_matches('/');
        let path = path.strip_suffix("/1.0").unwrap_or(path);
        let path = path.strip_suffix("/event").unwrap_or(path);
        let separator = if query.is_empty() { "" } else { "&" };
        let path = format!("{path}/ack?{query}{separator}channel={channel}");
        Some((path, format!("{{\"acks\":[{}]}}", receipts.join(","))))
    }

    fn safe(&self, body: &[u8]) -> Vec<u64> {
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

    fn passes_probe(&self, status: u16, body: &[u8]) -> Result<bool, Refusal> {
        // The token is looked at first: a complaint about the missing event says that the token is good.
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
    use super::*;

    #[test]
    fn acknowledgements_are_asked_for_under_the_path_of_the_events() {
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
            let question = splunk.question(path, &[3, 4]);
            assert_eq!(question, Some((expected.to_owned(), "{\"acks\":[3,4]}".to_owned())), "{path}");
        }
    }

    #[test]
    fn an_event_that_is_named_divides_its_batch() {
        let settings = SplunkHec {
            index: None,
            source: String::new(),
            sourcetype: String::new(),
            host: None,
            channel: None,
            ack_timeout: std::time::Duration::ZERO,
        };
        let splunk = Splunk::new(&settings);
        let mut batch = Batch::default();
        for id in 0..5 {
            let id = Some(crate::records::RecordId::for_test(id));
            let record = crate::output::BlobRecord { blob: 0, id };
            batch.push(super::super::batch::Entry { record, text: "{}", record_bytes: 2 }, FRAME);
        }
        for (status, body, refused, rest) in [
            (400, r#"{"code":6,"invalid-event-number":2}"#, vec![2], vec![3, 4]),
            (400, r#"{"code":6,"invalid-event-number":0}"#, vec![0], vec![1, 2, 3, 4]),
            (503, r#"{"code":9,"invalid-event-number":2}"#, vec![], vec![2, 3, 4]),
        ] {
            let refusal = Refusal::new("no", "");
            let Some(Outcome::Sorted(sorted)) = splunk.sort(&batch, status, body.as_bytes(), &refusal) else {
                panic!("{body} is not understood");
            };
            assert_eq!(
                sorted.refused.iter().flat_map(|(single, _)| single.ids()).collect::<Vec<_>>(),
                refused
            );
            assert_eq!(sorted.rest.ids().collect::<Vec<_>>(), rest, "{body}");
            assert_eq!(sorted.failure.is_some(), status == 503);
        }
        for body in [r#"{"code":6,"invalid-event-number":5}"#, r#"{"code":6}"#, "", "7"] {
            assert!(splunk.sort(&batch, 400, body.as_bytes(), &Refusal::new("no", "")).is_none(), "{body}");
        }
        let other = r#"{"code":4,"invalid-event-number":2}"#;
        assert!(splunk.sort(&batch, 403, other.as_bytes(), &Refusal::new("no", "")).is_none());
    }
}
