//! Keys of the older tool, `OfficeAuditLogCollector` by ddbnl: what still has a meaning works, what has none is
//! accepted with a warning that says what replaces it.

use std::time::Duration;

use super::{
    Filter,
    feeds::{content_type_named, filters, in_order},
    section::Section,
    value::Value,
};
use crate::{feed::ContentType, limits};

/// Keys under `collect` without a meaning, and what replaces them.
const COLLECT: [(&str, &str); 5] = [
    ("duplicate", "it fetched each blob several times to measure speed; each record is now delivered once"),
    ("schedule", "run the collector from a systemd timer or from cron"),
    ("autoSubscribe", "subscriptions that are missing are always started"),
    ("resume", "each feed is resumed where it was last listed completely"),
    ("rustEngine", "there is only one engine"),
];

/// Outputs that no longer exist, and what replaces them.
const OUTPUTS: [(&str, &str); 6] = [
    ("azureLogAnalytics", "use output.http with `format: azure-logs-ingestion`"),
    ("oms", "use output.http with `format: azure-logs-ingestion`"),
    ("azureTable", "use output.file or output.http"),
    ("azureBlob", "write with output.file and upload the rotated files"),
    ("sql", "use output.http or output.fluentd with a receiver that writes to the database"),
    ("prtg", "use `metrics.path`, or count in the system that receives the records"),
];

/// Warns of keys under `collect` that have no meaning any more.
pub(super) fn collect(section: &Section) {
    for (key, instead) in COLLECT {
        if let Some(value) = section.older(key) {
            warn_gone(&value, instead);
        }
    }
}

/// Warns of outputs that no longer exist, unless they are switched off.
pub(super) fn outputs(section: &Section) {
    for (key, instead) in OUTPUTS {
        if let Some(value) = section.older(key).filter(|value| !value.is_switched_off()) {
            warn_gone(&value, instead);
        }
    }
}

/// Warns of keys under `output.file` that have moved.
pub(super) fn file(section: &Section) {
    if let Some(value) = section.older("cacheSize") {
        warn_gone(&value, "`collect.cacheSize` holds for all outputs");
    }
}

fn warn_gone(value: &Value, instead: &str) {
    value.reading.warn(&value.place, format!("has no meaning any more: {instead}; remove it"));
}

/// `collect.contentTypes: {Audit.General: True, …}`: those that are true.
pub(super) fn content_types(collect: &Section) -> Option<Vec<ContentType>> {
    let value = collect.older("contentTypes")?;
    let wanted = |(name, is_wanted): (&str, Value)| {
        let content_type = content_type_named(name, &is_wanted)?;
        (!is_wanted.is_null() && is_wanted.is_true()).then_some(content_type)
    };
    let named: Vec<_> = value.free_entries().into_iter().filter_map(wanted).collect();
    if named.is_empty() {
        value.mistake("has no content type that is true; set one of them or remove the key for all five");
        return None;
    }
    Some(in_order(&named))
}

/// `filter` at the top level.
pub(super) fn top_filters(root: &Section) -> Option<Vec<(ContentType, Filter)>> {
    root.older("filter").map(|value| filters(&value))
}

/// `collect.retryCooldown` in seconds.
pub(super) fn retry_delay(collect: &Section) -> Option<Duration> {
    collect.older("retryCooldown")?.number(&limits::RETRY_DELAY_SECONDS).map(Duration::from_secs)
}

/// Says that a newer key stands beside an older one of the same meaning.
pub(super) fn refuse_both(older: Option<Value>, newer: &str) {
    if let Some(value) = older {
        value.mistake(format!("says the same as {newer}; keep only that"));
    }
}
