//! The single writer: takes downloaded blobs, writes their records to every output, makes that durable, and only then
//! remembers the blobs. Nothing else touches outputs or state while a pass runs.
//!
//! A plain thread, never a job of the pool: if all of the pool's threads waited for room in the channel, a writer
//! among their jobs would never get to run.
//!
//! Blobs are committed in batches, because each commit waits for the disk several times. A batch ends when it is large
//! enough, old enough, or when nothing more comes.
//!
//! Outputs fail one by one. One that has failed is left alone for the rest of the pass; the others go on. A blob that
//! some of them have and others do not is not known: it waits, together with who has it, and a later pass collects it
//! again for the rest only. What a receiver acknowledged before it failed is remembered record by record, by Id, so
//! that it is not sent there again. An output of which the receiver refuses single records goes on: they become dead
//! letters and count as delivered there, or else only their blobs wait.

use std::{collections::HashMap, mem, sync::Arc, time::Instant};

use crossbeam_channel::{Receiver, Sender, select};
use jiff::Timestamp;

use super::{Event, FeedIndex, Feeds, memory::Share};
use crate::{
    body::Body,
    delivery::{OutputName, OutputSet, PendingBlob},
    disk::Position,
    limits::{BATCH_AGE, BATCH_BLOBS, BATCH_BYTES, NAMED_RECORDS_MAX, RECORDS_AT_ONCE, REWRITES_MAX},
    log::one_line,
    output::{Mark, Output, OutputError, Refused, RefusedRecord, Settled, Source},
    records::{self, Record, Records, Unreadable},
    state::{self, BlobKey, Content, DeadLetter, Ledger, StateError, Waiting, quarantine},
};

/// What the writer is given.
#[derive(Debug)]
pub enum WriterMessage {
    /// A blob's records, for the outputs.
    FetchedBlob(FetchedBlob),
    /// A blob that nobody can fetch any more: nothing to write, but to be known.
    Gone(FeedIndex, PendingBlob),
    /// A feed's subscription was started at that time, which is remembered at once: another start within 15 minutes is
    /// not allowed, also after a pass that was killed.
    Started(FeedIndex, Timestamp),
}

/// A blob's records on their way to the outputs.
#[derive(Debug)]
pub struct FetchedBlob {
    /// Where it comes from.
    pub feed: FeedIndex,
    /// As it was listed, and who has it already.
    pub wanted: PendingBlob,
    /// What is in it.
    pub records: Records,
    /// How many more the filter kept back.
    pub filtered: u64,
    /// The memory that it holds; given back once it is written.
    pub share: Share,
    /// If the body could not be read as a whole: what is kept of it besides its records.
    pub salvaged: Option<Box<Salvaged>>,
}

/// A body that could be read in part only.
#[derive(Debug)]
pub struct Salvaged {
    /// The body as it arrived, decompressed as far as possible.
    pub raw: Vec<u8>,
    /// The body before it was decompressed, if it could not be decompressed to its end.
    pub encoded: Option<Body>,
    /// Why it cannot be read as a whole, in words.
    pub cause: String,
    /// What is not among its records.
    pub unreadable: Unreadable,
}

/// What became of a blob in a batch that was committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedBlob {
    /// Which one.
    pub key: BlobKey,
    /// Where it comes from.
    pub feed: FeedIndex,
    /// The outputs that have its records for certain.
    pub has: OutputSet,
    /// Whether those are all.
    pub is_complete: bool,
    /// How many of its records are new in some output.
    pub records: u64,
    /// How many were dropped because their Id was delivered before.
    pub duplicates: u64,
    /// How many the filter kept back.
    pub filtered: u64,
    /// How many became dead letters of an output.
    pub dead_letters: u64,
    /// If its body could not be read as a whole: why, what was delivered, and where the body is, in words.
    pub salvaged: Option<String>,
}

/// The writer and what it owns.
pub struct Writer {
    feeds: Arc<Feeds>,
    outputs: Vec<Slot>,
    all: OutputSet,
    /// `None` where nothing is to be remembered.
    ledger: Option<Ledger>,
    events: Sender<Event>,
    batch: Batch,
}

/// An output, and whether it failed.
struct Slot {
    output: Box<dyn Output>,
    failure: Option<OutputError>,
    /// The records that its receiver refused and that a later pass sends again.
    refused: Refusals,
    /// Those that are kept as dead letters.
    dead: Refusals,
    /// Why a batch was not committed although the output goes on: a rotation had truncated a file.
    truncation: Option<OutputError>,
    /// Whether that was the last batch, so that a file can end in records that were not committed.
    is_truncated: bool,
}

/// Records that a receiver refused, for the log.
#[derive(Default)]
struct Refusals {
    count: usize,
    /// Some of them.
    named: Vec<String>,
    /// What the receiver answered to the first.
    why: Option<OutputError>,
}

/// Records that a receiver refused of a batch.
#[derive(Default)]
struct RefusedMarks {
    to_be_sent_again: Vec<Mark>,
    dead_letters: Vec<Mark>,
}

/// What outputs lack of a batch although the rest of it is safe there.
#[derive(Default)]
struct Lacking {
    blobs: HashMap<usize, OutputSet>,
    ids: HashMap<u128, OutputSet>,
}

/// Blobs that are written but not yet committed.
#[derive(Default)]
struct Batch {
    blobs: Vec<Written>,
    gone: Vec<(FeedIndex, PendingBlob)>,
    /// The keys of its records, the outputs that they were written to, and the content that they came with.
    ids: HashMap<u128, (OutputSet, Content)>,
    adopted: Vec<u128>,
    bytes: usize,
    ends: Option<Instant>,
}

struct Written {
    feed: FeedIndex,
    wanted: PendingBlob,
    /// The outputs that it was written to, or that had it.
    to: OutputSet,
    records: u64,
    duplicates: u64,
    filtered: u64,
    salvaged: Option<String>,
}

/// What is left when nothing more comes.
pub struct Closed {
    /// The state, to be finished. `None` if nothing is to be remembered.
    pub ledger: Option<Ledger>,
    /// Whether every record in the output files was committed.
    pub files_are_whole: bool,
    /// Why outputs failed.
    pub failures: Vec<OutputError>,
}

impl Writer {
    /// A writer to these outputs.
    pub fn new(
        feeds: Arc<Feeds>,
        outputs: Vec<Box<dyn Output>>,
        ledger: Option<Ledger>,
        events: Sender<Event>,
    ) -> Self {
        let all = outputs.iter().map(|output| output.name()).collect();
        let outputs = outputs.into_iter().map(Slot::new).collect();
        Self { feeds, outputs, all, ledger, events, batch: Batch::default() }
    }

    /// Takes blobs until it is told that no more come, or until every output or the state has failed. What was not
    /// committed by then is not known, and will be collected again.
    ///
    /// `close` is told by its other end being dropped; what is in `blobs` then is still written.
    pub fn run(
        mut self,
        blobs: &Receiver<WriterMessage>,
        close: &Receiver<()>,
    ) -> Result<Closed, StateError> {
        let mut told = self.all;
        loop {
            let timer = self.batch.ends.map_or_else(crossbeam_channel::never, crossbeam_channel::at);
            select! {
                recv(blobs) -> incoming => match incoming {
                    Ok(incoming) => self.take(incoming)?,
                    Err(_) => break,
                },
                recv(timer) -> _ => self.commit()?,
                recv(close) -> _ => {
                    while let Ok(incoming) = blobs.try_recv() {
                        self.take(incoming)?;
                    }
                    break;
                }
            }
            let left = self.outputs_left();
            if left.is_empty() {
                break;
            }
            if left != told {
                told = left;
                let _ = self.events.send(Event::OutputsLeft(left));
            }
        }
        self.commit()?;
        let is_whole = |slot: &Slot| slot.failure.is_none() && !slot.is_truncated;
        let mut files = self.outputs.iter().filter(|slot| slot.output.name() == OutputName::File);
        let files_are_whole = files.all(is_whole);
        let ledger = self.ledger.as_ref();
        let failures: Vec<_> = self.outputs.into_iter().filter_map(|slot| slot.close(ledger)).collect();
        let failures = failures.into_iter().map(|(_, why)| why).collect();
        Ok(Closed { ledger: self.ledger, files_are_whole, failures })
    }

    /// The outputs that have not failed.
    fn outputs_left(&self) -> OutputSet {
        let left = self.outputs.iter().filter(|slot| slot.failure.is_none());
        left.map(|slot| slot.output.name()).collect()
    }

    fn take(&mut self, incoming: WriterMessage) -> Result<(), StateError> {
        match incoming {
            WriterMessage::FetchedBlob(downloaded) => self.write(downloaded)?,
            WriterMessage::Gone(feed, wanted) => self.batch.gone.push((feed, wanted)),
            WriterMessage::Started(feed, at) => {
                let (tenant, content_type) = self.feeds.feed(feed);
                if let Some(ledger) = &mut self.ledger {
                    ledger.subscription_started(&tenant.tenant_id, content_type, at)?;
                }
                return Ok(());
            }
        }
        self.batch.ends.get_or_insert_with(|| Instant::now() + BATCH_AGE);
        if self.batch.blobs.len() >= BATCH_BLOBS || self.batch.bytes >= BATCH_BYTES {
            self.commit()?;
        }
        Ok(())
    }

    fn write(&mut self, downloaded: FetchedBlob) -> Result<(), StateError> {
        let FetchedBlob { feed, wanted, records, filtered, share, salvaged } = downloaded;
        let feeds = Arc::clone(&self.feeds);
        let (tenant, content_type) = feeds.feed(feed);
        let (tenant_id, tenant_name) = (&*tenant.tenant_id, tenant.name.as_deref());
        let source = Source { tenant_id, tenant_name, content_type, blob: self.batch.blobs.len() };
        let content = Content::new(tenant_id, content_type, wanted.blob.created);
        let mut to = wanted.delivered_to;
        let mut is_new = vec![false; records.len()];
        for place in 0..self.outputs.len() {
            let name = self.outputs[place].output.name();
            if self.outputs[place].failure.is_some() || to.contains(name) {
                continue;
            }
            let (mut left, mut has_all) = (records.iter(), true);
            for is_new in is_new.chunks_mut(RECORDS_AT_ONCE) {
                let chosen = self.choose(place, left.by_ref(), feed, content, is_new)?;
                has_all = self.write_to(place, &source, &chosen)?;
                if !has_all {
                    break;
                }
            }
            if has_all {
                to = to.with(name);
            }
        }
        let new = is_new.iter().filter(|is_new| **is_new).count() as u64;
        let duplicates = if to.is_empty() { 0 } else { records.len() as u64 - new };
        self.batch.bytes += records.bytes();
        let mut written = Written { feed, wanted, to, records: new, duplicates, filtered, salvaged: None };
        if let Some(salvaged) = salvaged {
            written.salvaged = Some(self.quarantine(&written, *salvaged)?);
        }
        self.batch.blobs.push(written);
        share.give_back(records.into_buffer());
        Ok(())
    }

    /// Keeps the body of a blob of which only a part can be delivered, durably, before the blob can become known. Returns
    /// what is to be said of it.
    fn quarantine(&self, written: &Written, salvaged: Salvaged) -> Result<String, StateError> {
        let Written { feed, wanted, records, duplicates, filtered, .. } = written;
        let Salvaged { raw, encoded, cause, unreadable } = salvaged;
        let encoded = encoded.as_ref().map(Body::bytes);
        let (tenant, content_type) = self.feeds.feed(*feed);
        let blob = &wanted.blob;
        let entry = quarantine::Entry {
            time: Timestamp::now().max(blob.created),
            tenant_id: tenant.tenant_id.clone(),
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
        let body = ledger.quarantine(self.key(*feed, wanted), &entry, &raw, encoded)?;
        Ok(format!(
            "{}; {records} of its records are delivered, and its body is kept in {}",
            entry.cause,
            body.display()
        ))
    }

    /// Of the next records, one for each place in `is_new`, those that an output has not got yet: neither from an
    /// earlier batch, nor from this one, nor from a pass that was cut off after it had written them. A record without an
    /// Id is always delivered.
    fn choose<'r>(
        &mut self,
        place: usize,
        records: impl Iterator<Item = Record<'r>>,
        feed: FeedIndex,
        content: Content,
        is_new: &mut [bool],
    ) -> Result<Vec<Record<'r>>, StateError> {
        let slot = &self.outputs[place].output;
        let output = slot.name();
        let mut chosen = Vec::with_capacity(is_new.len());
        let Some(ledger) = &mut self.ledger else {
            chosen.extend(records.take(is_new.len()));
            is_new.fill(true);
            return Ok(chosen);
        };
        let origin = self.feeds.origin(feed);
        let may_be_there = output == OutputName::File && ledger.has_orphans();
        for (is_new, record) in is_new.iter_mut().zip(records) {
            let guid = record.id.and_then(|id| origin.guid_of(id));
            // Orphans that an earlier version has found are known by their GUID alone.
            let keys = may_be_there.then(|| [Some(slot.key(&record)), guid]);
            let adopted = keys.into_iter().flatten().flatten().find(|&key| ledger.adopt(key));
            let is_there = adopted.is_some();
            self.batch.adopted.extend(adopted);
            if let Some(id) = record.id.filter(|_| ledger.knows_records()) {
                let (batch, _) = self.batch.ids.entry(id.key()).or_insert((OutputSet::EMPTY, content));
                if batch.contains(output) || ledger.has_record(output, id.key(), guid)? {
                    continue;
                }
                *batch = batch.with(output);
            }
            *is_new = true;
            if !is_there {
                chosen.push(record);
            }
        }
        Ok(chosen)
    }

    /// Whether the output took the records. One that did not is not used again.
    fn write_to(
        &mut self,
        place: usize,
        source: &Source<'_>,
        records: &[Record<'_>],
    ) -> Result<bool, StateError> {
        let slot = &mut self.outputs[place];
        if records.is_empty() {
            return Ok(true);
        }
        match slot.output.prepare(source) {
            Err(error) => {
                slot.fail(error);
                return Ok(false);
            }
            Ok(None) => {}
            Ok(Some(position)) => {
                if let Some(ledger) = &mut self.ledger {
                    ledger.opened(position)?;
                }
            }
        }
        Ok(slot.attempt(|output| output.write(source, records)).is_some())
    }

    /// **Durable in the outputs, then in the state.** The order is the promise:
    ///
    /// 1. Each output makes the batch's records durable and checks that its files still have a name, and what its
    ///    receiver refuses becomes durable as dead letters. A crash before that is over leaves blobs that are not known
    ///    and, in files, records that are orphans: the blobs are collected again, and the orphans adopted; dead letters
    ///    can come twice.
    /// 2. The state is told ([`Ledger::commit`] says what a crash at each of its steps leaves).
    /// 3. The main thread is told, and counts the blobs as delivered.
    fn commit(&mut self) -> Result<(), StateError> {
        let Batch { blobs, gone, ids, adopted, .. } = mem::take(&mut self.batch);
        if blobs.is_empty() && gone.is_empty() {
            return Ok(());
        }
        let mut durable = OutputSet::EMPTY;
        let (mut positions, mut lacking) = (Vec::new(), Lacking::default());
        let mut dead_letters: HashMap<usize, u64> = HashMap::new();
        for slot in self.outputs.iter_mut().filter(|slot| slot.failure.is_none()) {
            if let Some(ends) = slot.make_durable(self.ledger.as_mut())? {
                durable = durable.with(slot.output.name());
                positions.extend(ends);
                let refused = slot.take_refused(&self.feeds, &blobs, self.ledger.as_ref())?;
                for mark in refused.to_be_sent_again {
                    lacking.add(mark, slot.output.name());
                }
                for mark in refused.dead_letters {
                    *dead_letters.entry(mark.blob).or_default() += 1;
                }
            }
        }
        let mut batch = state::Batch { positions, adopted, ..state::Batch::default() };
        if !durable.contains(OutputName::File) {
            batch.adopted.clear();
        }
        let mut delivered = Vec::new();
        for (place, written) in blobs.into_iter().enumerate() {
            let Written { feed, wanted, to, records, duplicates, filtered, salvaged } = written;
            let had = wanted.delivered_to;
            let has = to.and(durable.without(lacking.of_blob(place)).or(had));
            let is_complete = self.all.without(has).is_empty();
            let key = self.remember(&mut batch, feed, wanted, has, is_complete);
            let is_new = !has.without(had).is_empty();
            let (records, duplicates, filtered) =
                if is_new { (records, duplicates, filtered) } else { (0, 0, 0) };
            let dead_letters = dead_letters.get(&place).copied().unwrap_or_default();
            delivered.push(CommittedBlob {
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
        for (feed, wanted) in gone {
            self.remember(&mut batch, feed, wanted, OutputSet::EMPTY, true);
        }
        let mut safe: HashMap<u128, OutputSet> = HashMap::new();
        for slot in self.outputs.iter_mut().filter(|slot| slot.failure.is_some()) {
            for id in slot.output.take_safe_ids() {
                let outputs = safe.entry(id).or_default();
                *outputs = outputs.with(slot.output.name());
            }
        }
        let have =
            |id| safe.get(&id).map_or(durable, |outputs| durable.or(*outputs)).without(lacking.of_id(id));
        let ids = ids.into_iter().map(|(id, (outputs, content))| (id, outputs.and(have(id)), content));
        let ids: Vec<_> = ids.collect();
        if let Some(ledger) = &mut self.ledger {
            ledger.commit(&batch, &ids)?;
        }
        // The main thread may be gone already, if it panicked; then nobody counts.
        let _ = self.events.send(Event::Committed(delivered));
        Ok(())
    }

    /// Puts into the batch what has to be remembered of a blob: that it is known, or who has it.
    fn remember(
        &self,
        batch: &mut state::Batch,
        feed: FeedIndex,
        wanted: PendingBlob,
        has: OutputSet,
        is_complete: bool,
    ) -> BlobKey {
        let (tenant, content_type) = self.feeds.feed(feed);
        let tenant_id = &tenant.tenant_id;
        let key = self.key(feed, &wanted);
        if is_complete {
            batch.known.push(state::known_blobs::line_of(tenant_id, content_type, &wanted.blob));
        } else if !has.is_empty() {
            let tenant_id = tenant_id.clone();
            let blob = wanted.blob;
            batch.waiting.push(Waiting {
                tenant_id,
                content_type,
                blob,
                delivered_to: has,
                has_failed: true,
                failed_passes: wanted.failed_passes,
            });
        }
        key
    }

    fn key(&self, feed: FeedIndex, wanted: &PendingBlob) -> BlobKey {
        let (tenant, content_type) = self.feeds.feed(feed);
        BlobKey::new(&tenant.tenant_id, content_type, &wanted.blob.content_id)
    }
}

/// How the log names a record.
fn name_of(feeds: &Feeds, feed: FeedIndex, record: Mark) -> String {
    let id = match record.id.map(|id| feeds.origin(feed).guid_of(id)) {
        None => "one without an Id".to_owned(),
        Some(None) => "one whose Id is not a GUID".to_owned(),
        Some(Some(guid)) => records::text_of_guid(guid),
    };
    format!("{id} of {}", feeds.label(feed))
}

impl Lacking {
    fn add(&mut self, record: Mark, output: OutputName) {
        let blob = self.blobs.entry(record.blob).or_default();
        *blob = blob.with(output);
        if let Some(id) = record.id {
            let record = self.ids.entry(id.key()).or_default();
            *record = record.with(output);
        }
    }

    fn of_blob(&self, place: usize) -> OutputSet {
        self.blobs.get(&place).copied().unwrap_or_default()
    }

    fn of_id(&self, id: u128) -> OutputSet {
        self.ids.get(&id).copied().unwrap_or_default()
    }
}

impl Refusals {
    fn add(&mut self, labels: impl ExactSizeIterator<Item = String>, why: OutputError) {
        self.count += labels.len();
        self.named.extend(labels.take(NAMED_RECORDS_MAX.saturating_sub(self.named.len())));
        self.why.get_or_insert(why);
    }

    /// The records and why they are refused. `None` if there are none.
    fn in_words(&self) -> Option<(String, &OutputError)> {
        let why = self.why.as_ref()?;
        let mut named = self.named.join(", ");
        if self.count > self.named.len() {
            named += ", …";
        }
        let records = if self.count == 1 { "record" } else { "records" };
        Some((format!("{} {records} ({named})", self.count), why))
    }
}

impl Slot {
    fn new(output: Box<dyn Output>) -> Self {
        Self {
            output,
            failure: None,
            refused: Refusals::default(),
            dead: Refusals::default(),
            truncation: None,
            is_truncated: false,
        }
    }

    /// Makes the batch durable, and written again where its files were removed meanwhile. Returns where the files end.
    /// `None` if the output does not have the batch: it has failed, or a rotation has truncated a file.
    fn make_durable(&mut self, mut ledger: Option<&mut Ledger>) -> Result<Option<Vec<Position>>, StateError> {
        self.is_truncated = false;
        for _ in 0..=REWRITES_MAX {
            let settled = self.attempt(|output| {
                output.make_durable()?;
                output.settle()
            });
            match settled {
                None => return Ok(None),
                Some(Settled::Safe(ends)) => return Ok(Some(ends)),
                Some(Settled::Truncated(why)) => {
                    log::warn!("Output {}: {why}", self.output.name());
                    self.is_truncated = true;
                    self.truncation.get_or_insert(why);
                    return Ok(None);
                }
                Some(Settled::Reopened(positions)) => {
                    if let Some(ledger) = &mut ledger {
                        positions.into_iter().try_for_each(|position| ledger.opened(position))?;
                    }
                    if self.attempt(|output| output.write_again()).is_none() {
                        return Ok(None);
                    }
                }
            }
        }
        self.fail(OutputError::Receiver {
            receiver: format!("output.{}", self.output.name()),
            problem: format!("its files were removed {REWRITES_MAX} times while a batch was written"),
            hint: "find out which program removes them".to_owned(),
        });
        Ok(None)
    }

    /// What its receiver refused of what was just made durable, kept as dead letters where that is to be.
    fn take_refused(
        &mut self,
        feeds: &Feeds,
        blobs: &[Written],
        ledger: Option<&Ledger>,
    ) -> Result<RefusedMarks, StateError> {
        let mut marks = RefusedMarks::default();
        let Some(Refused { records, why, are_dead_letters }) = self.output.take_refused() else {
            return Ok(marks);
        };
        let all = records.iter().map(|record| record.mark).collect();
        let name = self.output.name();
        let label = |record: &RefusedRecord| name_of(feeds, blobs[record.mark.blob].feed, record.mark);
        let ledger = ledger.filter(|_| are_dead_letters);
        if let Some(ledger) = ledger {
            let (ids, refused_at) =
                (records.iter().map(RefusedRecord::id).collect::<Vec<_>>(), Timestamp::now());
            let letters = records.iter().zip(&ids).map(|(record, id)| {
                let written = &blobs[record.mark.blob];
                let (tenant, content_type) = feeds.feed(written.feed);
                DeadLetter {
                    refused_at,
                    tenant_id: &tenant.tenant_id,
                    tenant_name: tenant.name.as_deref(),
                    content_type: content_type.name(),
                    content_id: &written.wanted.blob.content_id,
                    record_id: id.as_deref(),
                    reason: &record.reason,
                    record: &record.record,
                }
            });
            let letters: Vec<_> = letters.collect();
            if ledger.add_dead_letters(name, &letters)? {
                self.dead.add(records.iter().map(label), why);
                marks.dead_letters = all;
                return Ok(marks);
            }
            log::error!(
                "{} is full: move it away; until then records that the receiver refuses are sent again by each pass",
                ledger.dead_letters_path(name).display()
            );
        }
        self.refused.add(records.iter().map(label), why);
        marks.to_be_sent_again = all;
        Ok(marks)
    }

    /// The output and why it failed, if it did; reports which records were refused.
    fn close(self, ledger: Option<&Ledger>) -> Option<(Box<dyn Output>, OutputError)> {
        let name = self.output.name();
        if let Some((records, why)) = self.dead.in_words() {
            let path = ledger.map(|ledger| ledger.dead_letters_path(name)).unwrap_or_default();
            log::warn!("Output {name} refuses {records}, kept in {}: {why}", path.display());
        }
        if let Some((records, why)) = self.refused.in_words() {
            log::error!("Output {name} failed for {records}: {why}; the next pass sends it again");
        }
        let why = self.failure.or(self.refused.why).or(self.truncation)?;
        Some((self.output, why))
    }

    /// Does something with the output, unless it fails: then it is not used again in this pass.
    fn attempt<T>(&mut self, act: impl FnOnce(&mut dyn Output) -> Result<T, OutputError>) -> Option<T> {
        act(self.output.as_mut()).map_err(|error| self.fail(error)).ok()
    }

    fn fail(&mut self, error: OutputError) {
        let name = self.output.name();
        match error {
            OutputError::Closed => log::warn!("Output {name} ended: {error}"),
            OutputError::Storage { .. } | OutputError::Receiver { .. } => {
                log::error!("Output {name} failed: {error}");
            }
        }
        self.failure = Some(error);
    }
}
