//! What is remembered from pass to pass, in `workingDir`.
//!
//! State says only what is certain: an entry is written after what it stands for is durable, never before. Deleting
//! the state makes a pass collect again what is still available; it never breaks one.
//!
//! | file | remembers | changed |
//! | --- | --- | --- |
//! | [`known_blobs`] | delivered blobs; also carries the lock | appended at each commit |
//! | [`record_ids`] | Ids of delivered records | appended at each commit |
//! | [`progress`] | up to when feeds are listed, and blobs that wait | replaced at a pass's end |
//! | [`journal`] | what this pass has committed | appended at each commit, emptied at a pass's end |

pub mod journal;
pub mod known_blobs;
mod lock;
pub mod progress;
pub mod record_ids;

use std::{fs, io, path::Path, path::PathBuf, time::Duration};

use jiff::Timestamp;

pub use journal::Batch;
pub use known_blobs::{BlobKey, KnownBlobs};
pub use progress::{FeedProgress, Progress, Waiting};

use crate::{
    delivery::{OutputName, OutputSet},
    disk::{self, Position},
};
use journal::{Journal, Left, Orphans};
use known_blobs::KnownBlobsFile;
use record_ids::RecordIds;

/// The state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another pass holds the lock.
    #[error("another pass holds the lock on {path}; it is left to finish")]
    Locked {
        /// The file that is locked.
        path: String,
    },
    /// A file of the state, or its folder, cannot be read or written.
    #[error("cannot {action} {path}: {source}; {mend}")]
    Storage {
        /// What was tried: `read`, `write`, …
        action: &'static str,
        /// The file or folder.
        path: String,
        /// What a person can do.
        mend: &'static str,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

impl StateError {
    fn storage(action: &'static str, path: &Path, source: io::Error) -> Self {
        let mend = disk::mend(&source);
        Self::Storage { action, path: path.display().to_string(), mend, source }
    }
}

/// Locks the state and reads what a pass begins with; what an earlier pass left undone is done first.
///
/// `dedup` is how long records' Ids are remembered; zero for not at all.
///
/// Errors: another pass holds the lock; or the folder or a file in it cannot be read or written.
pub fn open(
    working_dir: &Path,
    now: Timestamp,
    dedup: Duration,
) -> Result<(Ledger, KnownBlobs, Progress), StateError> {
    fs::create_dir_all(working_dir)
        .map_err(|error| StateError::storage("make the folder", working_dir, error))?;
    let (mut known_blobs, mut known) = KnownBlobsFile::open(working_dir, now)?;
    let (mut journal, left) = Journal::open(working_dir, now)?;
    let Left { known: left_known, waiting, orphans, .. } = left;
    let is_new = |line: &String| known_blobs::key_of(line).is_some_and(|key| known.insert(key));
    let missing: Vec<_> = left_known.into_iter().filter(is_new).collect();
    known_blobs.append(&missing)?;
    known_blobs.sync()?;
    journal.take_over(&orphans, &waiting)?;
    let mut progress = Progress::read(working_dir)?;
    progress.waiting = merged(progress.waiting, waiting, &known);
    let record_ids = (!dedup.is_zero()).then(|| RecordIds::new(working_dir, now, dedup));
    let ledger = Ledger { working_dir: working_dir.to_owned(), known_blobs, journal, record_ids, orphans };
    Ok((ledger, known, progress))
}

/// Reads what a pass would begin with, without a lock and without changing anything.
pub fn peek(working_dir: &Path, now: Timestamp) -> Result<(KnownBlobs, Progress), StateError> {
    Ok((KnownBlobs::read(working_dir, now)?, Progress::read(working_dir)?))
}

/// Each waiting blob once, with all outputs that have it, and none that is known.
fn merged(first: Vec<Waiting>, then: Vec<Waiting>, known: &KnownBlobs) -> Vec<Waiting> {
    let mut places = std::collections::HashMap::new();
    let mut merged: Vec<Waiting> = Vec::new();
    for waiting in first.into_iter().chain(then) {
        if known.contains(&waiting.tenant_id, &waiting.blob.content_id) {
            continue;
        }
        let key = BlobKey::new(&waiting.tenant_id, &waiting.blob.content_id);
        let place = *places.entry(key).or_insert(merged.len());
        match merged.get_mut(place) {
            Some(there) => there.delivered_to = there.delivered_to.or(waiting.delivered_to),
            None => merged.push(waiting),
        }
    }
    merged
}

/// The state as the writer changes it. Whoever has it holds the lock.
#[derive(Debug)]
pub struct Ledger {
    working_dir: PathBuf,
    known_blobs: KnownBlobsFile,
    journal: Journal,
    /// `None` if records are not to be told apart by their Ids.
    record_ids: Option<RecordIds>,
    orphans: Orphans,
}

impl Ledger {
    /// Whether an output had a record of this Id in an earlier batch.
    pub fn has_record(&mut self, output: OutputName, id: u128) -> Result<bool, StateError> {
        self.record_ids.as_mut().map_or(Ok(false), |ids| ids.contains(output, id))
    }

    /// Whether records are told apart by their Ids.
    pub fn knows_records(&self) -> bool {
        self.record_ids.is_some()
    }

    /// Whether a record with this key stands in the output files already, left there by a pass that was cut off. Each
    /// is found once; it counts as adopted when the batch is committed.
    pub fn adopt(&mut self, key: u128) -> bool {
        self.orphans.adopt(key)
    }

    /// An output file is about to be written to for the first time in this pass.
    pub fn opened(&mut self, position: Position) -> Result<(), StateError> {
        self.journal.opened(position)
    }

    /// Commits a batch that is durable in the outputs.
    ///
    /// 1. The Ids. A crash after this leaves records that are known and blobs that are not: the blobs are collected
    ///    again, and their records dropped, which is right, for they are durable.
    /// 2. The journal's line: with it the batch is committed, all of it. A crash in the middle of it leaves the blobs
    ///    unknown and their records as orphans.
    /// 3. `known_blobs`. A crash before it is durable leaves the lines in the journal, from which they are restored.
    pub fn commit(&mut self, batch: &Batch, ids: &[(u128, OutputSet)]) -> Result<(), StateError> {
        if let Some(record_ids) = &mut self.record_ids {
            record_ids.append(ids)?;
        }
        self.journal.committed(batch)?;
        self.known_blobs.append(&batch.known)
    }

    /// Ends a pass: makes `known_blobs` durable, then replaces `progress`, and then, when nothing needs it any more,
    /// empties the journal; unless `files_are_whole` says that an output file may end in records that were not
    /// committed: then the next pass finds them by the journal.
    pub fn finish(mut self, progress: &Progress, files_are_whole: bool) -> Result<(), StateError> {
        self.known_blobs.sync()?;
        progress.write(&self.working_dir)?;
        if files_are_whole {
            self.journal.take_over(&self.orphans, &[])?;
        }
        Ok(())
    }
}
