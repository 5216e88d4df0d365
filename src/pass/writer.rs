//! The single writer: receives downloaded blobs, writes their records to every output, flushes the outputs, and only then
//! commits the blobs to the state. Nothing else uses outputs or state while a pass runs.
//!
//! It is a plain thread, never a job of the pool: if all threads of the pool waited for room in the channel, a writer
//! among their jobs would never run.
//!
//! Blobs are committed in batches, because each commit waits for the disk several times. A batch ends when it is large
//! enough or old enough, or when no more blobs come.
//!
//! Outputs fail independently. One that has failed is not used for the rest of the pass; the others continue. A blob that
//! only some outputs have is not known: it waits, together with the names of these outputs, and a later pass collects it
//! again for the others. Records that a receiver accepted before it failed are remembered by Id, so that they are not sent
//! there again. An output whose receiver rejects single records continues: these become dead letters and count as
//! delivered there, or else only their blobs wait.

use std::{
    borrow::Cow,
    collections::HashMap,
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, select};
use jiff::Timestamp;

use super::{Event, FeedIndex, Feeds, memory::Share};
use crate::{
    body::Body,
    csv,
    delivery::{OutputName, OutputSet, PendingBlob},
    error::Explain,
    output::{
        BlobRecord, DeliveryError, Flushed, OnOpen, Output, OutputError, Rejected, RejectedRecord, Source,
    },
    records::{self, BlobRecords, ParsedRecord, RecordBatch, RecordId, Unreadable},
    redact::one_line,
    state::{self, BlobKey, ContentHour, DeadLetter, Ledger, MissingRecords, StateError, quarantine},
};

/// A batch is committed when its records have this size, …
const BATCH_BYTES_MAX: usize = 16 * 1024 * 1024;

/// … or when it has this number of blobs, …
const BATCH_BLOBS_MAX: usize = 1_000;

/// … or when it is this old.
pub(super) const BATCH_AGE_MAX: Duration = Duration::from_secs(1);

/// The maximum number of records that a message names.
const NAMED_RECORDS_MAX: usize = 3;

/// A message to the writer.
#[derive(Debug)]
pub enum WriterMessage {
    /// The records of a blob, for the outputs.
    FetchedBlob(FetchedBlob),
    /// A blob that cannot be fetched any more: there is nothing to write, but it becomes known.
    Gone(FeedIndex, PendingBlob),
    /// The subscription of a feed was started at that time. The state remembers it at once: another start within 15 minutes
    /// is not allowed, also after a pass that was killed.
    Started(FeedIndex, Timestamp),
}

/// A blob whose records are to be written.
#[derive(Debug)]
pub struct FetchedBlob {
    /// The feed that listed it.
    pub feed: FeedIndex,
    /// The blob, and the outputs that have it already.
    pub pending: PendingBlob,
    /// Its records.
    pub records: BlobRecords,
    /// The number of other records, which the filter dropped.
    pub filtered: u64,
    /// The memory that it uses; returned when its records are rendered.
    pub share: Share,
    /// If the body could not be read as a whole: the body and what is wrong with it.
    pub salvaged: Option<Box<Salvaged>>,
}

/// A body that could only be read in part.
#[derive(Debug)]
pub struct Salvaged {
    /// The body as it arrived, decompressed as far as possible.
    pub raw: Vec<u8>,
    /// The body before it was decompressed, if it could not be decompressed to its end.
    pub encoded: Option<Body>,
    /// The reason, in words.
    pub cause: String,
    /// The elements that are not records.
    pub unreadable: Unreadable,
}

/// A blob of a batch that was committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedBlob {
    /// Its identity.
    pub key: BlobKey,
    /// The feed that listed it.
    pub feed: FeedIndex,
    /// The outputs that have all of its records.
    pub has: OutputSet,
    /// Whether these are all outputs.
    pub is_complete: bool,
    /// The number of its records that are new in an output.
    pub records: u64,
    /// The number of its records that were dropped because they were delivered before.
    pub duplicates: u64,
    /// The number of its records that the filter dropped.
    pub filtered: u64,
    /// The number of its records that became dead letters of an output.
    pub dead_letters: u64,
    /// If its body could not be read as a whole: why, what was delivered, and where the body is, in words.
    pub salvaged: Option<String>,
}

/// The writer and what it owns.
pub struct Writer {
    feeds: Arc<Feeds>,
    outputs: Vec<Slot>,
    all: OutputSet,
    /// `None` in a pass that remembers nothing.
    ledger: Option<Ledger>,
    events: Sender<Event>,
    batch: WrittenBatch,
    /// The memory for the records that are being written.
    slice: Slice,
}

/// An output and its state in this pass.
struct Slot {
    output: Box<dyn Output>,
    failure: Option<OutputError>,
    /// The identities of the records of this batch that the output has although it failed.
    accepted_ids: Vec<u128>,
    /// The records of this batch of which the receiver has some and rejected the others, if the output failed.
    undecided: Option<Box<Rejected>>,
    /// The records that its receiver rejected and that a later pass sends again.
    rejected: RejectedLog,
    /// The records that its receiver rejected and that are kept as dead letters.
    dead_letters: RejectedLog,
    /// Why a batch was not committed although the output is usable.
    truncation: Option<OutputError>,
    /// Whether the output has opened a file in this pass.
    has_files: bool,
    /// Whether a file can end in records that were not committed although the output is usable.
    is_truncated: bool,
}

/// Records that a receiver rejected, for the log.
#[derive(Default)]
struct RejectedLog {
    count: usize,
    /// Some of them.
    named: Vec<String>,
    /// The answer of the receiver to the first.
    reason: Option<OutputError>,
}

/// The records that an output does not have of a batch although it has the others.
#[derive(Default)]
struct Missing {
    by_blob: HashMap<usize, OutputSet>,
    by_id: HashMap<u128, OutputSet>,
}

/// Some records of a blob, and the outputs that each is written to.
#[derive(Default)]
struct Slice {
    records: RecordBatch,
    receivers: Vec<OutputSet>,
}

/// Blobs that are written but not yet committed.
#[derive(Default)]
struct WrittenBatch {
    blobs: Vec<WrittenBlob>,
    gone: Vec<(FeedIndex, PendingBlob)>,
    /// The identities of its records, the outputs that they were written to, and the content that they came with.
    ids: HashMap<u128, (OutputSet, ContentHour)>,
    /// The records that an output has from an interrupted pass: the output, and what identifies them in its files.
    adopted: Vec<(OutputName, u128)>,
    bytes: usize,
    ends: Option<Instant>,
}

/// A blob that is written but not yet committed.
struct WrittenBlob {
    feed: FeedIndex,
    pending: PendingBlob,
    /// The outputs that it was written to, or that had it.
    to: OutputSet,
    records: u64,
    duplicates: u64,
    filtered: u64,
    salvaged: Option<String>,
}

/// What is left when no more blobs come.
pub struct Closed {
    /// The state, to be finished. `None` if nothing is to be remembered.
    pub ledger: Option<Ledger>,
    /// Whether every record in the output files was committed.
    pub files_are_whole: bool,
    /// Why outputs failed.
    pub failures: Vec<OutputError>,
}

impl Writer {
    /// Returns a writer to these outputs.
    pub fn new(
        feeds: Arc<Feeds>,
        outputs: Vec<Box<dyn Output>>,
        ledger: Option<Ledger>,
        events: Sender<Event>,
    ) -> Self {
        let all = outputs.iter().map(|output| output.name()).collect();
        let outputs = outputs.into_iter().map(Slot::new).collect();
        Self { feeds, outputs, all, ledger, events, batch: WrittenBatch::default(), slice: Slice::default() }
    }

    /// Receives blobs until no more come, or until every output or the state has failed. Blobs that are not committed by
    /// then are not known, and will be collected again.
    ///
    /// When the other end of `close` is dropped, what is in `blobs` is still written.
    pub fn run(
        mut self,
        blobs: &Receiver<WriterMessage>,
        close: &Receiver<()>,
    ) -> Result<Closed, StateError> {
        let mut reported = self.all;
        loop {
            let timer = self.batch.ends.map_or_else(crossbeam_channel::never, crossbeam_channel::at);
            select! {
                recv(blobs) -> message => match message {
                    Ok(message) => self.receive(message)?,
                    Err(_) => break,
                },
                recv(timer) -> _ => self.commit()?,
                recv(close) -> _ => {
                    while let Ok(message) = blobs.try_recv() {
                        self.receive(message)?;
                    }
                    break;
                }
            }
            let usable = self.usable_outputs();
            if usable.is_empty() {
                break;
            }
            if usable != reported {
                reported = usable;
                let _ = self.events.send(Event::OutputsLeft(usable));
            }
        }
        self.commit()?;
        let is_whole = |slot: &Slot| !slot.has_files || (slot.failure.is_none() && !slot.is_truncated);
        let files_are_whole = self.outputs.iter().all(is_whole);
        let ledger = self.ledger.as_ref();
        let failures = self.outputs.into_iter().filter_map(|slot| slot.close(ledger)).collect();
        Ok(Closed { ledger: self.ledger, files_are_whole, failures })
    }

    /// Returns the outputs that have not failed.
    fn usable_outputs(&self) -> OutputSet {
        let usable = self.outputs.iter().filter(|slot| slot.failure.is_none());
        usable.map(|slot| slot.output.name()).collect()
    }

    fn receive(&mut self, message: WriterMessage) -> Result<(), StateError> {
        match message {
            WriterMessage::FetchedBlob(fetched) => self.write(fetched)?,
            WriterMessage::Gone(feed, pending) => self.batch.gone.push((feed, pending)),
            WriterMessage::Started(feed, at) => {
                let (tenant, content_type) = self.feeds.feed(feed);
                if let Some(ledger) = &mut self.ledger {
                    ledger.subscription_started(&tenant.tenant_id, content_type, at)?;
                }
                return Ok(());
            }
        }
        self.batch.ends.get_or_insert_with(|| Instant::now() + BATCH_AGE_MAX);
        if self.batch.blobs.len() >= BATCH_BLOBS_MAX || self.batch.bytes >= BATCH_BYTES_MAX {
            self.commit()?;
        }
        Ok(())
    }

    fn write(&mut self, fetched: FetchedBlob) -> Result<(), StateError> {
        let FetchedBlob { feed, pending, records, filtered, share, salvaged } = fetched;
        let (count, bytes) = (records.len() as u64, records.bytes());
        let had = pending.delivered_to;
        let (to, new) = self.write_records(feed, &pending, records, share)?;
        let duplicates = if to.or(had).is_empty() { 0 } else { count - new };
        self.batch.bytes += bytes;
        let mut written =
            WrittenBlob { feed, pending, to: to.or(had), records: new, duplicates, filtered, salvaged: None };
        if let Some(salvaged) = salvaged {
            written.salvaged = Some(self.quarantine(&written, *salvaged)?);
        }
        self.batch.blobs.push(written);
        Ok(())
    }

    /// Writes the records of a blob to the outputs that lack it. Returns the outputs that accepted them, and the number of
    /// records that are new in an output.
    fn write_records(
        &mut self,
        feed: FeedIndex,
        pending: &PendingBlob,
        records: BlobRecords,
        share: Share,
    ) -> Result<(OutputSet, u64), StateError> {
        let feeds = Arc::clone(&self.feeds);
        let (tenant, content_type) = feeds.feed(feed);
        let (tenant_id, tenant_name) = (&*tenant.tenant_id, tenant.name.as_deref());
        let content_id = &*pending.blob.content_id;
        let source =
            Source { tenant_id, tenant_name, content_type, content_id, blob: self.batch.blobs.len() };
        let mut missing =
            self.ledger.as_ref().and_then(|ledger| ledger.missing_records(feeds.key(feed, &pending.blob)));
        let content = ContentHour::new(tenant_id, content_type, pending.blob.created);
        let mut to = self.usable_outputs().without(pending.delivered_to);
        let (mut slice, mut new, mut rest) = (mem::take(&mut self.slice), 0, records.iter());
        loop {
            slice.clear();
            let mut has_more = !to.is_empty();
            while has_more && !slice.records.is_full() {
                let Some(record) = rest.next() else {
                    has_more = false;
                    break;
                };
                let lacking = self.outputs_without(&record, to, feed, content, missing.as_mut())?;
                new += u64::from(!lacking.all.is_empty());
                slice.push(&record, lacking.to_write);
            }
            if !has_more {
                break;
            }
            to = self.write_slice(&source, &slice, to)?;
        }
        drop(rest);
        share.give_back(records.into_buffer());
        to = self.write_slice(&source, &slice, to)?;
        self.slice = slice;
        Ok((to, new))
    }

    /// Writes a slice to these outputs. Returns those that accepted it.
    fn write_slice(
        &mut self,
        source: &Source<'_>,
        slice: &Slice,
        mut to: OutputSet,
    ) -> Result<OutputSet, StateError> {
        let Self { outputs, ledger, .. } = self;
        for slot in outputs {
            let name = slot.output.name();
            let own = slice.records_for(name);
            if own.is_empty() || !to.contains(name) {
                continue;
            }
            let written = slot.attempt(ledger, |output, on_open| output.write(source, &own, on_open))?;
            if written.is_none() {
                to = to.without(OutputSet::EMPTY.with(name));
            }
        }
        Ok(to)
    }

    /// Keeps the body of a blob of which only a part can be delivered, durably, before the blob can become known. Returns
    /// a description.
    fn quarantine(&self, written: &WrittenBlob, salvaged: Salvaged) -> Result<String, StateError> {
        let WrittenBlob { feed, pending, records, duplicates, filtered, .. } = written;
        let Salvaged { raw, encoded, cause, unreadable } = salvaged;
        let encoded = encoded.as_ref().map(Body::bytes);
        let (tenant, content_type) = self.feeds.feed(*feed);
        let blob = &pending.blob;
        let entry = quarantine::Entry {
            time: Timestamp::now().max(blob.created),
            tenant_id: tenant.tenant_id.to_string(),
            content_type: content_type.name().to_owned(),
            content_id: one_line(&blob.content_id),
            content_created: blob.created,
            content_expiration: one_line(&blob.expiration),
            cause,
            bytes: raw.len() as u64,
            bytes_encoded: encoded.map(|encoded| encoded.len() as u64),
            records_delivered: *records,
            records_duplicate: *duplicates,
            records_filtered: *filtered,
            elements_not_objects: unreadable.not_objects,
            places_broken: unreadable.broken,
            is_cut_short: unreadable.is_cut,
        };
        let ledger = self.ledger.as_ref().expect("only a pass that remembers blobs salvages some");
        let body = ledger.quarantine(self.feeds.key(*feed, blob), &entry, &raw, encoded)?;
        Ok(format!(
            "{}; {records} of its records are delivered, and its body is kept in {}",
            entry.cause,
            body.display()
        ))
    }

    /// Returns those of the outputs `to` that do not have a record yet: neither from an earlier batch nor from this one.
    /// Notes in the batch that they get it. A record without an Id is always delivered. Outputs of which the missing records
    /// of the blob are known get these and no others.
    fn outputs_without(
        &mut self,
        record: &ParsedRecord<'_>,
        to: OutputSet,
        feed: FeedIndex,
        content: ContentHour,
        missing: Option<&mut MissingRecords>,
    ) -> Result<Lacking, StateError> {
        let Some(ledger) = &mut self.ledger else { return Ok(Lacking { all: to, to_write: to }) };
        let guid = record.id.and_then(|id| self.feeds.origin(feed).guid_of(id));
        let mut adopted = OutputSet::EMPTY;
        let mut line = String::new();
        if ledger.has_orphans() || missing.is_some() {
            record.render(&mut line);
        }
        if ledger.has_orphans() {
            for output in self.outputs.iter().map(|slot| &slot.output).filter(|it| to.contains(it.name())) {
                let Some(key) = output.key_in_files(line.trim_end_matches('\n')) else { continue };
                // Orphans that an earlier version has found are known by their GUID alone.
                let keys = [Some(key), guid].into_iter().flatten();
                if let Some(key) = keys.into_iter().find(|&key| ledger.adopt(key)) {
                    adopted = adopted.with(output.name());
                    self.batch.adopted.push((output.name(), key));
                }
            }
        }
        let mut all = to;
        if let Some(id) = record.id.filter(|_| ledger.knows_records()) {
            let (in_batch, _) = self.batch.ids.entry(id.key()).or_insert((OutputSet::EMPTY, content));
            all = to.without(*in_batch);
            if !all.is_empty() {
                all = all.without(ledger.outputs_with(id.key(), guid)?);
            }
            *in_batch = in_batch.or(all);
        }
        if let Some(missing) = missing {
            let repaired = to.and(missing.outputs());
            let is_missing = missing.remove(csv::fingerprint_of(line.trim_end_matches('\n')).key);
            all = if is_missing { all.or(repaired) } else { all.without(repaired) };
        }
        Ok(Lacking { all, to_write: all.without(adopted) })
    }

    /// **Durable in the outputs, then in the state.** This order is the promise of the program:
    ///
    /// 1. Each output flushes the records of the batch, and records that its receiver rejects become durable as dead
    ///    letters. A crash before the end of this step leaves blobs that are not known and, in files, records that are
    ///    orphans: the blobs are collected again, and the orphans adopted; dead letters can come twice.
    /// 2. The state commits the batch ([`Ledger::commit`] says what a crash at each of its steps leaves).
    /// 3. The main thread counts the blobs as delivered.
    fn commit(&mut self) -> Result<(), StateError> {
        let WrittenBatch { blobs, gone, ids, adopted, .. } = mem::take(&mut self.batch);
        self.batch.ids.reserve(ids.len()); // the next batch has about as many records
        if blobs.is_empty() && gone.is_empty() {
            return Ok(());
        }
        let mut durable = OutputSet::EMPTY;
        let (mut positions, mut missing) = (Vec::new(), Missing::default());
        let mut dead_letters: HashMap<usize, u64> = HashMap::new();
        let Self { outputs, ledger, feeds, .. } = self;
        for slot in outputs.iter_mut().filter(|slot| slot.failure.is_none()) {
            let flushed = slot.attempt(ledger, |output, on_open| output.flush(on_open))?;
            let Some(Flushed { rejected, positions: ends }) = flushed else { continue };
            durable = durable.with(slot.output.name());
            positions.extend(ends);
            slot.is_truncated = false;
            let Some(rejected) = rejected else { continue };
            let records: Vec<_> = rejected.records.iter().map(|rejected| rejected.record).collect();
            let are_dead_letters = slot.note_rejected(rejected, feeds, &blobs, ledger.as_ref())?;
            for record in records {
                if are_dead_letters {
                    *dead_letters.entry(record.blob).or_default() += 1;
                } else {
                    missing.add(record, slot.output.name());
                }
            }
        }
        for slot in outputs.iter_mut() {
            let Some(undecided) = slot.undecided.take() else { continue };
            let records: Vec<_> = undecided.records.iter().map(|rejected| rejected.record).collect();
            if slot.note_rejected(*undecided, feeds, &blobs, ledger.as_ref())? {
                for record in records {
                    slot.accepted_ids.extend(record.id.map(RecordId::key));
                    *dead_letters.entry(record.blob).or_default() += 1;
                }
            }
        }
        let adopted = adopted.into_iter().filter(|(output, _)| durable.contains(*output));
        let adopted = adopted.map(|(_, key)| key).collect();
        let mut batch = state::BatchCommit { positions, adopted, ..state::BatchCommit::default() };
        let mut committed = Vec::new();
        for (place, written) in blobs.into_iter().enumerate() {
            let WrittenBlob { feed, pending, to, records, duplicates, filtered, salvaged } = written;
            let had = pending.delivered_to;
            let has = to.and(durable.without(missing.of_blob(place)).or(had));
            let is_complete = self.all.without(has).is_empty();
            let key = self.remember(&mut batch, feed, pending, has, is_complete);
            let is_new = !has.without(had).is_empty();
            let (records, duplicates, filtered) =
                if is_new { (records, duplicates, filtered) } else { (0, 0, 0) };
            let dead_letters = dead_letters.get(&place).copied().unwrap_or_default();
            committed.push(CommittedBlob {
                key,
                feed,
                has,
                is_complete,
                records,
                duplicates,
                filtered,
                dead_letters,
                salvaged,
            });
        }
        for (feed, pending) in gone {
            self.remember(&mut batch, feed, pending, OutputSet::EMPTY, true);
        }
        let mut accepted: HashMap<u128, OutputSet> = HashMap::new();
        for slot in &mut self.outputs {
            for id in mem::take(&mut slot.accepted_ids) {
                let outputs = accepted.entry(id).or_default();
                *outputs = outputs.with(slot.output.name());
            }
        }
        let have =
            |id| accepted.get(&id).map_or(durable, |outputs| durable.or(*outputs)).without(missing.of_id(id));
        let ids = ids.into_iter().map(|(id, (outputs, content))| (id, outputs.and(have(id)), content));
        let ids: Vec<_> = ids.collect();
        if let Some(ledger) = &mut self.ledger {
            ledger.commit(&batch, &ids)?;
        }
        // If the main thread has panicked, the event is not needed.
        let _ = self.events.send(Event::Committed(committed));
        Ok(())
    }

    /// Adds a blob to what the state remembers of a batch: that it is known, or the outputs that have it.
    fn remember(
        &self,
        batch: &mut state::BatchCommit,
        feed: FeedIndex,
        pending: PendingBlob,
        has: OutputSet,
        is_complete: bool,
    ) -> BlobKey {
        let key = self.feeds.key(feed, &pending.blob);
        if is_complete {
            let (tenant, content_type) = self.feeds.feed(feed);
            batch.known.push(state::known_blobs::line_of(&tenant.tenant_id, content_type, &pending.blob));
        } else if !has.is_empty() {
            let pending = PendingBlob { delivered_to: has, has_failed: true, ..pending };
            batch.pending.push((self.feeds.id(feed), pending));
        }
        key
    }
}

/// The outputs that lack a record.
struct Lacking {
    all: OutputSet,
    /// Those that do not have it in a file either, from a pass that was interrupted after it had written it.
    to_write: OutputSet,
}

/// Returns the name of a record in the log.
fn name_of(feeds: &Feeds, feed: FeedIndex, record: BlobRecord) -> String {
    let id = match record.id.map(|id| feeds.origin(feed).guid_of(id)) {
        None => "one without an Id".to_owned(),
        Some(None) => "one whose Id is not a GUID".to_owned(),
        Some(Some(guid)) => records::text_of_guid(guid),
    };
    format!("{id} of {}", feeds.label(feed))
}

impl Slice {
    fn clear(&mut self) {
        self.records.clear();
        self.receivers.clear();
    }

    fn push(&mut self, record: &ParsedRecord<'_>, receivers: OutputSet) {
        if !receivers.is_empty() {
            self.records.push(record);
            self.receivers.push(receivers);
        }
    }

    /// Returns the records for an output. Copies them only if others are among them.
    fn records_for(&self, output: OutputName) -> Cow<'_, RecordBatch> {
        if self.receivers.iter().all(|receivers| receivers.contains(output)) {
            return Cow::Borrowed(&self.records);
        }
        Cow::Owned(self.records.filtered(|place| self.receivers[place].contains(output)))
    }
}

impl Missing {
    fn add(&mut self, record: BlobRecord, output: OutputName) {
        let blob = self.by_blob.entry(record.blob).or_default();
        *blob = blob.with(output);
        if let Some(id) = record.id {
            let record = self.by_id.entry(id.key()).or_default();
            *record = record.with(output);
        }
    }

    fn of_blob(&self, place: usize) -> OutputSet {
        self.by_blob.get(&place).copied().unwrap_or_default()
    }

    fn of_id(&self, id: u128) -> OutputSet {
        self.by_id.get(&id).copied().unwrap_or_default()
    }
}

impl RejectedLog {
    fn add(&mut self, labels: impl ExactSizeIterator<Item = String>, reason: OutputError) {
        self.count += labels.len();
        self.named.extend(labels.take(NAMED_RECORDS_MAX.saturating_sub(self.named.len())));
        self.reason.get_or_insert(reason);
    }

    /// Returns the records in words, and why they are rejected. `None` if there are none.
    fn in_words(&self) -> Option<(String, &OutputError)> {
        let reason = self.reason.as_ref()?;
        let mut named = self.named.join(", ");
        if self.count > self.named.len() {
            named += ", …";
        }
        let records = if self.count == 1 { "record" } else { "records" };
        Some((format!("{} {records} ({named})", self.count), reason))
    }
}

impl Slot {
    fn new(output: Box<dyn Output>) -> Self {
        Self {
            output,
            failure: None,
            accepted_ids: Vec::new(),
            undecided: None,
            rejected: RejectedLog::default(),
            dead_letters: RejectedLog::default(),
            truncation: None,
            has_files: false,
            is_truncated: false,
        }
    }

    /// Uses the output. Returns `None` if that fails; unless the error says otherwise, the output is not used again in this
    /// pass then.
    fn attempt<T>(
        &mut self,
        ledger: &mut Option<Ledger>,
        act: impl FnOnce(&mut dyn Output, &mut OnOpen<'_>) -> Result<T, DeliveryError>,
    ) -> Result<Option<T>, StateError> {
        let (mut state_error, mut has_opened) = (None, false);
        let result = act(self.output.as_mut(), &mut |position| {
            has_opened = true;
            let opened = ledger.as_mut().map_or(Ok(()), |ledger| ledger.opened(position));
            opened.map_err(|error| {
                state_error = Some(error);
                OutputError::Journal
            })
        });
        self.has_files |= has_opened;
        if let Some(error) = state_error {
            return Err(error);
        }
        let DeliveryError { error, accepted_ids, undecided, is_usable } = match result {
            Ok(done) => return Ok(Some(done)),
            Err(failed) => failed,
        };
        self.accepted_ids.extend(accepted_ids);
        self.undecided = undecided;
        let name = self.output.name();
        if is_usable {
            log::warn!("Output {name}: {}", error.explain());
            self.truncation.get_or_insert(error);
            self.is_truncated = true;
        } else {
            match error {
                OutputError::Closed => log::warn!("Output {name} ended: {}", error.explain()),
                _ => log::error!("Output {name} failed: {}", error.explain()),
            }
            self.failure = Some(error);
        }
        Ok(None)
    }

    /// Keeps rejected records as dead letters if that is intended and there is room; otherwise they are sent again by a
    /// later pass. Returns whether they are kept.
    fn note_rejected(
        &mut self,
        rejected: Rejected,
        feeds: &Feeds,
        blobs: &[WrittenBlob],
        ledger: Option<&Ledger>,
    ) -> Result<bool, StateError> {
        let Rejected { records, reason, are_dead_letters } = rejected;
        let name = self.output.name();
        let label =
            |rejected: &RejectedRecord| name_of(feeds, blobs[rejected.record.blob].feed, rejected.record);
        if let Some(ledger) = ledger.filter(|_| are_dead_letters) {
            let (ids, refused_at) =
                (records.iter().map(RejectedRecord::id).collect::<Vec<_>>(), Timestamp::now());
            let letters = records.iter().zip(&ids).map(|(rejected, id)| {
                let written = &blobs[rejected.record.blob];
                let (tenant, content_type) = feeds.feed(written.feed);
                DeadLetter {
                    refused_at,
                    tenant_id: &tenant.tenant_id,
                    tenant_name: tenant.name.as_deref(),
                    content_type: content_type.name(),
                    content_id: &written.pending.blob.content_id,
                    record_id: id.as_deref(),
                    reason: &rejected.reason,
                    record: rejected.line.as_bytes(),
                }
            });
            let letters: Vec<_> = letters.collect();
            if ledger.add_dead_letters(name, &letters)? {
                self.dead_letters.add(records.iter().map(label), reason);
                return Ok(true);
            }
            log::error!(
                "{} is full: move it away; until then records that the receiver rejects are sent again by each pass",
                ledger.dead_letters_path(name).display()
            );
        }
        self.rejected.add(records.iter().map(label), reason);
        Ok(false)
    }

    /// Reports which records were rejected. Returns why the output failed, if it did.
    fn close(self, ledger: Option<&Ledger>) -> Option<OutputError> {
        let name = self.output.name();
        if let Some((records, reason)) = self.dead_letters.in_words() {
            let path = ledger.map(|ledger| ledger.dead_letters_path(name)).unwrap_or_default();
            log::warn!(
                "Output {name}: the receiver rejects {records}, kept in {}: {}",
                path.display(),
                reason.explain()
            );
        }
        if let Some((records, reason)) = self.rejected.in_words() {
            log::error!(
                "Output {name} failed for {records}: {}; the next pass sends it again",
                reason.explain()
            );
        }
        self.failure.or(self.rejected.reason).or(self.truncation)
    }
}
