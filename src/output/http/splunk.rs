//! `splunk-hec`: Splunk's HTTP Event Collector.
//!
//! A record is one event: `time` is its `CreationTime` in seconds, `host` the tenant's name (else its id) unless
//! configured, `source`, `sourcetype` and, if configured, `index`; `event` is the record's own text, unparsed. Events
//! stand one behind the other, each on a line. The token comes in the configured header `Authorization: Splunk …`.
//!
//! A success means that Splunk has the events in its queue. With a `channel` each batch gets a number, and is safe only
//! when `/services/collector/ack` says so of that number: the indexers have it. Several batches are asked for at once.
//!
//! Source: "Format events for HTTP Event Collector", "About HTTP Event Collector Indexer Acknowledgment" and
//! "Troubleshoot HTTP Event Collector", section "Possible error codes", of Splunk's documentation.

use std::collections::HashMap;

use jiff::Timestamp;
use serde::Deserialize;

use super::{
    answer::{Outcome, Refusal},
    batch::{Batch, Frame},
    facts::Facts,
    format::{Format, Probe},
};
use crate::{
    config::{Secret, SplunkHec},
    network::agents::Agents,
    output::Source,
    records::Record,
};

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
    fn append(&self, from: &Source<'_>, record: &Record<'_>, to: &mut Vec<u8>) {
        to.push(b'{');
        let created = Facts::of(record, "").created;
        if let Some(created) = created.filter(|created| *created >= Timestamp::UNIX_EPOCH) {
            let (seconds, millis) = (created.as_second(), created.subsec_millisecond());
            to.extend_from_slice(format!("\"time\":{seconds}.{millis:03},").as_bytes());
        }
        let host = self.settings.host.as_deref().unwrap_or(from.tenant_name.unwrap_or(from.tenant_id));
        let start = format!("\"host\":{},{},\"event\":", quoted(host), self.metadata);
        to.extend_from_slice(start.as_bytes());
        record.append_line(to);
        to.pop(); // the line break
        to.push(b'}');
    }

    fn frame(&self) -> Frame {
        Frame { open: "", between: "\n", close: "" }
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
        let Answer { code, text, .. } = serde_json::from_slice(body).ok()?;
        let mend = match code? {
            1 => "enable the token under Settings, Data inputs, HTTP Event Collector",
            2 | 3 => "give the header Authorization: Splunk TOKEN, for example in header_files",
            4 => "the token is not one of this Splunk's: compare it under Data inputs, HTTP Event Collector",
            7 => "let the token write to that index, or correct splunk.index",
            10 | 11 => {
                "the token has indexer acknowledgement on: give splunk.channel a GUID, or turn it off there"
            }
            14 => "the token has indexer acknowledgement off: turn it on there, or remove splunk.channel",
            9 | 18..=20 => "its queues are full: give the indexers time, or more of them",
            _ => "look into splunkd.log for HttpInputDataHandler",
        };
        Some((format!("HTTP {status}: {text}"), mend))
    }

    fn blames_records(&self, status: u16, body: &[u8]) -> bool {
        let answer: Option<Answer> = serde_json::from_slice(body).ok();
        let code = answer.and_then(|answer| answer.code);
        // No data, a format that is invalid, an event that lacks or is blank, indexed fields; all others are about the
        // token.
        status == 400 && code.is_none_or(|code| matches!(code, 5 | 6 | 12 | 13 | 15))
    }

    fn settle(&self, _: &Batch, body: &[u8]) -> Outcome {
        if self.settings.channel.is_none() {
            return Outcome::Taken(None);
        }
        let answer: Option<Answer> = serde_json::from_slice(body).ok();
        if let Some(receipt) = answer.and_then(|answer| answer.ack_id) {
            return Outcome::Taken(Some(receipt));
        }
        let mend = "turn indexer acknowledgement on for the token, or remove splunk.channel";
        Outcome::Failed(Refusal::new("it does not acknowledge what it indexes", mend), None)
    }

    fn question(&self, receipts: &[u64]) -> Option<(String, String)> {
        let channel = self.settings.channel.as_ref()?;
        let receipts: Vec<_> = receipts.iter().map(u64::to_string).collect();
        let path = format!("/services/collector/ack?channel={channel}");
        Some((path, format!("{{\"acks\":[{}]}}", receipts.join(","))))
    }

    fn safe(&self, body: &[u8]) -> Vec<u64> {
        #[derive(Deserialize)]
        struct Answer {
            acks: HashMap<String, bool>,
        }
        let answer: Option<Answer> = serde_json::from_slice(body).ok();
        let acks = answer.map(|answer| answer.acks).unwrap_or_default();
        acks.into_iter().filter(|(_, is_safe)| *is_safe).filter_map(|(id, _)| id.parse().ok()).collect()
    }

    fn probe(&self) -> Probe {
        Probe { path: Some("/services/collector/health"), refusals: &[401, 403, 503] }
    }
}

/// What Splunk says to a batch.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    text: String,
    code: Option<u32>,
    #[serde(rename = "ackId")]
    ack_id: Option<u64>,
}
