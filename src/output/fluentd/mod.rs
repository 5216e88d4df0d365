//! Records to Fluentd, Fluent Bit, Vector and other receivers of the forward protocol, version 1.
//!
//! Records are converted to MessagePack and sent in chunks, `PackedForward` or `CompressedPackedForward`, each of one tag.
//! A chunk is sent when it is full, and the rest at a flush. **Every chunk requests an acknowledgement**, and a record
//! counts as delivered when its chunk is acknowledged. That means that the record is in the receiver's buffer.
//!
//! The time of an event is the record's `CreationTime`, which is UTC; for a record without a usable one it is the current
//! time.
//!
//! The id of a chunk is a random number. It stays the same whenever the chunk is sent again in a pass. A later pass
//! divides its records into other chunks, with other ids.
//!
//! Source: "Forward Protocol Specification v1",
//! <https://github.com/fluent/fluentd/wiki/Forward-Protocol-Specification-v1>.

mod chunk_sender;
pub mod message_pack;
mod server_message;
mod session;
mod tag;

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::Timestamp;

use self::{
    chunk_sender::{CHUNK_BYTES, Chunk, ChunkSender},
    message_pack::{
        append_array_header, append_binary_header, append_map_header, append_object, append_text,
        append_unsigned,
    },
    tag::Tag,
};
use super::{CancelToken, DeliveryError, Flushed, OnOpen, Output, OutputError, Source, compressed};
use crate::{
    config,
    delivery::OutputName,
    records::{HeaderField, Record, RecordBatch, RecordId},
};

/// `output.fluentd`
#[derive(Debug)]
pub struct FluentdOutput {
    chunks: ChunkSender,
    tag: Tag,
    gzip: bool,
    /// Events that are not sent yet, by tag; all of them are of one batch, which bounds them.
    filling: BTreeMap<String, Entries>,
    /// The entry of one record, and its tag.
    entry: Vec<u8>,
    entry_tag: String,
}

/// Events of one tag.
#[derive(Debug, Default)]
struct Entries {
    bytes: Vec<u8>,
    count: u64,
    /// The identities of those that have one.
    ids: Vec<u128>,
}

impl FluentdOutput {
    /// Connects to nothing yet.
    pub fn new(settings: &config::FluentdOutput, cancel: &CancelToken) -> Self {
        Self {
            chunks: ChunkSender::new(settings, cancel),
            tag: Tag::new(&settings.tag, settings.tenant_name.as_deref()),
            gzip: settings.compress,
            filling: BTreeMap::new(),
            entry: Vec::new(),
            entry_tag: String::new(),
        }
    }
}

impl Output for FluentdOutput {
    fn name(&self) -> OutputName {
        OutputName::Fluentd
    }

    fn write(
        &mut self,
        source: &Source<'_>,
        records: &RecordBatch,
        _: &mut OnOpen<'_>,
    ) -> Result<(), DeliveryError> {
        let now = Timestamp::now();
        for (place, record) in records.iter().enumerate() {
            self.entry.clear();
            append_entry(record, now, &mut self.entry);
            if place == 0 || self.tag.depends_on_record() {
                self.tag.write(source, record.value(HeaderField::Workload), &mut self.entry_tag);
            }
            let entries = match self.filling.get_mut(&self.entry_tag) {
                Some(entries) => entries,
                None => self.filling.entry(self.entry_tag.clone()).or_default(),
            };
            if !entries.bytes.is_empty() && entries.bytes.len() + self.entry.len() > CHUNK_BYTES {
                self.chunks.send(entries.drain(&self.entry_tag, self.gzip))?;
            }
            entries.bytes.extend_from_slice(&self.entry);
            entries.count += 1;
            entries.ids.extend(record.id().map(RecordId::key));
        }
        Ok(())
    }

    fn flush(&mut self, _: &mut OnOpen<'_>) -> Result<Flushed, DeliveryError> {
        for (tag, mut entries) in std::mem::take(&mut self.filling) {
            self.chunks.send(entries.drain(&tag, self.gzip))?;
        }
        self.chunks.flush()?;
        Ok(Flushed::default())
    }

    fn check(&mut self) -> Result<&'static str, OutputError> {
        self.chunks.check(&self.tag.for_check())?;
        Ok("can be reached")
    }

    fn check_offline(&mut self) -> Result<Option<&'static str>, OutputError> {
        self.chunks.read_files()?;
        Ok(None)
    }
}

/// Returns a message without events in `Forward` mode, `[tag, [], {"chunk": id}]`, and its id. Fluentd and Fluent Bit
/// acknowledge it and store nothing.
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
    /// Returns a chunk of the events, and removes them.
    fn drain(&mut self, tag: &str, gzip: bool) -> Chunk {
        let id = new_chunk_id();
        let compressed = gzip.then(|| compressed(&[&self.bytes]));
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

/// Appends `[event time, record]`.
fn append_entry(record: Record<'_>, now: Timestamp, to: &mut Vec<u8>) {
    append_array_header(2, to);
    to.extend([0xd7, 0]);
    let time = record.creation_time().and_then(event_time).or_else(|| event_time(now));
    to.extend(time.unwrap_or_default());
    append_object(record.line(), to);
}

/// Returns an `EventTime`: seconds and nanoseconds, 32 bits each. `None` before 1970 and after 2106, which do not fit.
fn event_time(time: Timestamp) -> Option<[u8; 8]> {
    let seconds = u32::try_from(time.as_second()).ok()?;
    let nanoseconds = u32::try_from(time.subsec_nanosecond()).ok()?;
    Some((u64::from(seconds) << 32 | u64::from(nanoseconds)).to_be_bytes())
}

#[cfg(test)]
mod tests;
