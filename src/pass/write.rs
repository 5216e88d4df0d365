//! The single writer: takes downloaded blobs, writes their records to every output, makes that durable, and only then
//! remembers the blobs. Nothing else touches outputs or state while a pass runs.
//!
//! A plain thread, never a job of the pool: if all of the pool's threads waited for room in the channel, a writer
//! among their jobs would never get to run.
//!
//! Blobs are committed in batches, because each commit waits for the disk several times. A batch ends when it is large
//! enough, old enough, or when nothing more comes.

use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::{Event, FeedIndex, Feeds, memory::Share};
use crate::{
    feed::Blob,
    limits::{BATCH_AGE, BATCH_BLOBS, BATCH_BYTES},
    output::{Output, OutputError, Source},
    records::Records,
    state::{KnownBlobsFile, StateError},
};

/// A blob's records on their way to the outputs.
#[derive(Debug)]
pub struct Downloaded {
    /// Where it comes from.
    pub feed: FeedIndex,
    /// As it was listed.
    pub blob: Blob,
    /// What is in it.
    pub records: Records,
    /// The memory that it holds; given back once it is written.
    pub share: Share,
}

/// A blob that is safe in every output, and known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// Where it comes from.
    pub feed: FeedIndex,
    /// How many records of it went to the outputs.
    pub records: u64,
}

/// The writer cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// An output failed.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The state failed.
    #[error(transparent)]
    State(#[from] StateError),
}

/// The writer and what it owns.
pub struct Writer<'a> {
    /// Who the blobs belong to.
    pub feeds: &'a Feeds,
    /// Each of them takes every record.
    pub outputs: Vec<Box<dyn Output>>,
    /// `None` where nothing is to be remembered.
    pub known_blobs: Option<KnownBlobsFile>,
    /// The way to the main thread.
    pub events: Sender<Event>,
}

/// Blobs that are written but not yet durable.
#[derive(Default)]
struct Batch {
    blobs: Vec<(FeedIndex, Blob, u64)>,
    bytes: usize,
    ends: Option<Instant>,
}

impl Writer<'_> {
    /// Takes blobs until no more can come, or until an output or the state fails. Then what was not committed is not
    /// known, and will be collected again; and no more blobs are taken, which ends the pass.
    pub fn run(mut self, blobs: &Receiver<Downloaded>) -> Result<(), WriteError> {
        let mut batch = Batch::default();
        loop {
            let received = match batch.ends {
                Some(ends) => blobs.recv_deadline(ends),
                None => blobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match received {
                Ok(downloaded) => self.write(downloaded, &mut batch)?,
                Err(RecvTimeoutError::Timeout) => self.commit(&mut batch)?,
                Err(RecvTimeoutError::Disconnected) => return self.commit(&mut batch),
            }
            if batch.blobs.len() >= BATCH_BLOBS || batch.bytes >= BATCH_BYTES {
                self.commit(&mut batch)?;
            }
        }
    }

    fn write(&mut self, downloaded: Downloaded, batch: &mut Batch) -> Result<(), WriteError> {
        let Downloaded { feed, blob, records, share } = downloaded;
        let (tenant, content_type) = self.feeds.feed(feed);
        for output in &mut self.outputs {
            output.write(&Source { tenant: tenant.label(), content_type }, &records)?;
        }
        batch.bytes += records.bytes();
        batch.blobs.push((feed, blob, records.len() as u64));
        batch.ends.get_or_insert_with(|| Instant::now() + BATCH_AGE);
        drop((records, share)); // in this order: the room is free when the memory is
        Ok(())
    }

    /// **Durable in the outputs, then in the state.** The order is the promise:
    ///
    /// 1. Each output makes the batch's records durable. A crash before that is over leaves blobs that are not known:
    ///    they are collected again.
    /// 2. The blobs enter `known_blobs`, durably. A crash in the middle leaves some of them known, all of which are
    ///    durable in the outputs, and a torn line, which the next pass mends.
    /// 3. The main thread is told, and counts them as delivered.
    fn commit(&mut self, batch: &mut Batch) -> Result<(), WriteError> {
        let Batch { blobs, .. } = std::mem::take(batch);
        if blobs.is_empty() {
            return Ok(());
        }
        for output in &mut self.outputs {
            output.make_durable()?;
        }
        if let Some(known_blobs) = &mut self.known_blobs {
            known_blobs.append(blobs.iter().map(|(feed, blob, _)| {
                let (tenant, content_type) = self.feeds.feed(*feed);
                (tenant.tenant_id.as_str(), content_type, blob)
            }))?;
        }
        let delivered = blobs.iter().map(|&(feed, _, records)| Delivered { feed, records }).collect();
        // The main thread may be gone already, if it panicked; then nobody counts.
        let _ = self.events.send(Event::Delivered(delivered));
        Ok(())
    }
}
