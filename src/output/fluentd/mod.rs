//! Records to Fluentd, Fluent Bit, Vector and whoever else speaks the forward protocol, version 1.
//!
//! Records become MessagePack and are sent in chunks, `PackedForward` or `CompressedPackedForward`, each of one tag. A
//! chunk is sent when it is full, and the rest when the batch is to be durable; **an acknowledgement is always asked
//! for**, and a record counts as delivered when that of its chunk has come. What it says is that the record is in the
//! receiver's buffer.
//!
//! The time of an event is the record's `CreationTime`, which is UTC; that of a record without a usable one is the time
//! at which it is sent.
//!
//! A chunk's id is a random number. It is the same whenever the chunk is sent again within a pass, but a later pass,
//! which cuts its chunks elsewhere, has others.
//!
//! Source: "Forward Protocol Specification v1",
//! <https://github.com/fluent/fluentd/wiki/Forward-Protocol-Specification-v1>.

mod answer;
mod link;
pub mod message_pack;
mod session;
mod tag;

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use flate2::{Compression, write::GzEncoder};
use jiff::Timestamp;

use self::{
    link::{Chunk, Link},
    message_pack::{
        append_array_header, append_binary_header, append_map_header, append_object, append_text,
        append_unsigned,
    },
    tag::Tag,
};
use super::{CancelToken, Output, OutputError, Source};
use crate::{
    config,
    delivery::OutputName,
    limits::FORWARD_CHUNK_BYTES,
    records::{Record, RecordId},
    time,
};

/// `output.fluentd`
#[derive(Debug)]
pub struct FluentdOutput {
    link: Link,
    tag: Tag,
    gzip: bool,
    /// What is not sent yet, by tag; all of it is of one batch, which bounds it.
    filling: BTreeMap<String, Entries>,
    scratch: Scratch,
}

/// Events of one tag.
#[derive(Debug, Default)]
struct Entries {
    bytes: Vec<u8>,
    count: u64,
    /// The Ids of those that have one.
    ids: Vec<u128>,
}

/// What is written anew for each record.
#[derive(Debug, Default)]
struct Scratch {
    line: Vec<u8>,
    entry: Vec<u8>,
    tag: String,
}

impl FluentdOutput {
    /// Connects to nobody yet.
    pub fn new(settings: &config::FluentdOutput, cancel: &CancelToken) -> Self {
        Self {
            link: Link::new(settings, cancel),
            tag: Tag::new(&settings.tag, settings.tenant_name.as_deref()),
            gzip: settings.gzip,
            filling: BTreeMap::new(),
            scratch: Scratch::default(),
        }
    }
}

impl Output for FluentdOutput {
    fn name(&self) -> OutputName {
        OutputName::Fluentd
    }

    fn write(&mut self, from: &Source<'_>, records: &[Record<'_>]) -> Result<(), OutputError> {
        let Self { link, tag, gzip, filling, scratch } = self;
        let now = Timestamp::now();
        for (place, record) in records.iter().enumerate() {
            scratch.line.clear();
            record.append_line(&mut scratch.line);
            scratch.entry.clear();
            let workload = append_entry(&scratch.line, now, &mut scratch.entry);
            if place == 0 || tag.depends_on_record() {
                tag.write(from, workload, &mut scratch.tag);
            }
            let entries = match filling.get_mut(&scratch.tag) {
                Some(entries) => entries,
                None => filling.entry(scratch.tag.clone()).or_default(),
            };
            if !entries.bytes.is_empty() && entries.bytes.len() + scratch.entry.len() > FORWARD_CHUNK_BYTES {
                link.send(entries.take(&scratch.tag, *gzip))?;
            }
            entries.bytes.extend_from_slice(&scratch.entry);
            entries.count += 1;
            entries.ids.extend(record.id.map(RecordId::key));
        }
        Ok(())
    }

    fn make_durable(&mut self) -> Result<(), OutputError> {
        for (tag, mut entries) in std::mem::take(&mut self.filling) {
            self.link.send(entries.take(&tag, self.gzip))?;
        }
        self.link.settle()
    }

    fn take_safe_ids(&mut self) -> Vec<u128> {
        self.link.take_acknowledged()
    }

    fn try_out(&mut self) -> Result<(), OutputError> {
        self.link.try_out(&self.tag.for_check())
    }
}

/// A message of no events in `Forward` mode, `[tag, [], {"chunk": id}]`, and its id. Fluentd and Fluent Bit acknowledge
/// it and store nothing.
///
/// Source: `on_message` in Fluentd's `in_forward.rb`; `fw_prot_process` in Fluent Bit's `fw_prot.c`, "Process array".
fn empty_message(tag: &str) -> (String, Vec<u8>) {
    let id = new_chunk_id();
    let mut message = Vec::new();
    append_array_header(3, &mut message);
    append_text(tag.as_bytes(), &mut message);
    append_array_header(0, &mut message);
    append_map_header(1, &mut message);
    append_text(b"chunk", &mut message);
    append_text(id.as_bytes(), &mut message);
    (id, message)
}

fn new_chunk_id() -> String {
    BASE64_STANDARD.encode(fastrand::u128(..).to_be_bytes())
}

impl Entries {
    /// Makes a chunk of the events, and room for others.
    fn take(&mut self, tag: &str, gzip: bool) -> Chunk {
        let id = new_chunk_id();
        let compressed = gzip.then(|| compress(&self.bytes).expect("memory takes whatever is written to it"));
        let entries = compressed.as_ref().unwrap_or(&self.bytes);
        let mut message = Vec::with_capacity(entries.len() + tag.len() + 100);
        append_array_header(3, &mut message);
        append_text(tag.as_bytes(), &mut message);
        append_binary_header(entries.len(), &mut message);
        message.extend_from_slice(entries);
        append_map_header(if gzip { 3 } else { 2 }, &mut message);
        append_text(b"size", &mut message);
        append_unsigned(self.count, &mut message);
        append_text(b"chunk", &mut message);
        append_text(id.as_bytes(), &mut message);
        if gzip {
            append_text(b"compressed", &mut message);
            append_text(b"gzip", &mut message);
        }
        let entry_bytes = self.bytes.len();
        self.bytes.clear();
        self.count = 0;
        Chunk { id, message, entry_bytes, record_ids: std::mem::take(&mut self.ids) }
    }
}

/// The quickest compression: audit records become a quarter of what they are.
fn compress(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 8), Compression::fast());
    encoder.write_all(bytes)?;
    encoder.finish()
}

/// Appends `[event time, record]`; `line` is the record's JSON. Returns the record's workload, as it stands there.
fn append_entry<'a>(line: &'a [u8], now: Timestamp, to: &mut Vec<u8>) -> Option<&'a [u8]> {
    append_array_header(2, to);
    to.extend([0xd7, 0]);
    let time_at = to.len();
    to.extend([0; 8]);
    let seen = append_object(line, to);
    let time = seen.creation_time.and_then(|time| event_time(time::parse(std::str::from_utf8(time).ok()?)?));
    let time = time.or_else(|| event_time(now)).unwrap_or_default();
    to[time_at..time_at + 8].copy_from_slice(&time);
    seen.workload
}

/// `EventTime`: seconds and nanoseconds, 32 bits each. `None` before 1970 and after 2106, which that cannot hold.
fn event_time(time: Timestamp) -> Option<[u8; 8]> {
    let seconds = u32::try_from(time.as_second()).ok()?;
    let nanoseconds = u32::try_from(time.subsec_nanosecond()).ok()?;
    Some((u64::from(seconds) << 32 | u64::from(nanoseconds)).to_be_bytes())
}

#[cfg(test)]
mod tests;
