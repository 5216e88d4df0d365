//! `journal`: the commits of a pass, from which the next pass recovers after a kill.
//!
//! Lines of JSON, each synced before the next one is appended; the first one is the version. Before a pass first writes to
//! an output file, it records where the file ends ([`Journal::opened`]). Each commit records where the files end now and
//! which blobs became known ([`Journal::committed`]). This one line commits a batch: all of it or, if the line is torn,
//! nothing. When a pass ends in order, it empties the journal.
//!
//! [`Journal::open`] finds what a killed pass left:
//!
//! - Blobs of committed batches are added to `known_blobs` if they are missing there.
//! - The records after the committed length of an output file are **orphans**, which the output that wrote the file finds.
//!   Their blobs are not known, so they are collected again; then a record that is an orphan is adopted, that is, not
//!   written a second time.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    StateError, UNREADABLE,
    progress::{FeedId, PendingLine},
};
use crate::{
    delivery::PendingBlob,
    disk::{self, FileContext, Position},
    feed::ContentType,
};

/// The number of passes for which orphans are kept: three weeks at the default interval. No blob lives longer.
const ORPHANS_PASSES_MAX: u32 = 6_000;

/// The file's name in `workingDir`.
pub const FILE_NAME: &str = "journal";

const VERSION: u32 = 1;

/// A line of the file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
enum JournalLine {
    Version(u32),
    /// The end of a file before the pass first writes to it.
    Opened(Position),
    /// A batch that is durable in the outputs.
    Committed {
        positions: Vec<Position>,
        known: Vec<String>,
        #[serde(rename = "waiting")]
        pending: Vec<PendingLine>,
        adopted: Vec<RecordKey>,
    },
    /// The start of a feed's subscription.
    Started {
        tenant_id: String,
        content_type: String,
        at: Timestamp,
    },
    /// The orphans of earlier passes.
    Orphans {
        passes: u32,
        keys: Vec<RecordKey>,
    },
}

/// A record's key, written in hexadecimal digits because JSON numbers are too small for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RecordKey(pub u128);

impl From<RecordKey> for String {
    fn from(key: RecordKey) -> Self {
        format!("{:032x}", key.0)
    }
}

impl TryFrom<String> for RecordKey {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        u128::from_str_radix(&text, 16).map(Self)
    }
}

/// Records that are in an output file although their blobs are not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orphans {
    /// The number of records with each key.
    keys: HashMap<u128, u32>,
    /// The number of passes that have begun since they were found. Not a time, because clocks can be wrong.
    passes: u32,
}

impl Orphans {
    fn add(&mut self, key: u128) {
        *self.keys.entry(key).or_default() += 1;
    }

    /// Removes one with this key. Returns whether there was one.
    pub fn adopt(&mut self, key: u128) -> bool {
        let Some(count) = self.keys.get_mut(&key) else { return false };
        *count -= 1;
        if *count == 0 {
            self.keys.remove(&key);
        }
        true
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Returns the number of records.
    pub fn count(&self) -> u64 {
        self.keys.values().copied().map(u64::from).sum()
    }

    fn keys(&self) -> Vec<RecordKey> {
        self.keys
            .iter()
            .flat_map(|(&key, &count)| std::iter::repeat_n(RecordKey(key), count as usize))
            .collect()
    }
}

/// What the state records of a batch of blobs.
#[derive(Debug, Default)]
pub struct BatchCommit {
    /// The ends of the output files.
    pub positions: Vec<Position>,
    /// Lines of `known_blobs`.
    pub known: Vec<String>,
    /// Blobs that only some of the outputs have.
    pub pending: Vec<(FeedId, PendingBlob)>,
    /// Orphans that were adopted.
    pub adopted: Vec<u128>,
}

/// What an earlier pass has left in the journal.
#[derive(Debug, Default)]
pub struct RecoveredJournal {
    /// Lines for `known_blobs`.
    pub known: Vec<String>,
    /// Blobs that only some of the outputs have.
    pub pending: Vec<(FeedId, PendingBlob)>,
    /// Started subscriptions.
    pub started: Vec<(FeedId, Timestamp)>,
    /// Records that are in an output file although their blobs are not known.
    pub orphans: Orphans,
    /// The committed ends of the output files.
    positions: Vec<Position>,
}

/// The open journal of this pass.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    /// Opens the journal and reads what an earlier pass has left in it. The journal stays unchanged until [`Self::restart`].
    /// `recover` returns the keys of the records that an output file contains after a committed position.
    pub fn open(
        working_dir: &Path,
        recover: impl Fn(&Position) -> io::Result<Vec<u128>>,
    ) -> Result<(Self, RecoveredJournal), StateError> {
        let path = working_dir.join(FILE_NAME);
        disk::recover(&path).context("recover", &path)?;
        let file = disk::open_for_append(&path, 0o600).context("open", &path)?;
        let bytes = fs::read(&path).context("read", &path)?;
        let mut recovered = read(&path, &bytes);
        recovered.orphans.passes += 1;
        if recovered.orphans.passes > ORPHANS_PASSES_MAX {
            recovered.orphans = Orphans::default();
        }
        let earlier = recovered.orphans.count();
        for position in std::mem::take(&mut recovered.positions) {
            for key in recover(&position).context("read", &position.path)? {
                recovered.orphans.add(key);
            }
        }
        let found = recovered.orphans.count() - earlier;
        if found > 0 {
            log::info!(
                "An earlier pass was interrupted: {found} records are in the files already and will not be written again"
            );
        }
        Ok((Self { path, file }, recovered))
    }

    /// Replaces the journal with what later passes still need of it. The known blobs in it must be durable in `known_blobs`
    /// before.
    pub fn restart(
        &mut self,
        orphans: &Orphans,
        pending: &[(FeedId, PendingBlob)],
        started: &[(FeedId, Timestamp)],
    ) -> Result<(), StateError> {
        let mut lines = vec![JournalLine::Version(VERSION)];
        lines.extend(started.iter().map(|((tenant_id, content_type), at)| JournalLine::Started {
            tenant_id: tenant_id.to_string(),
            content_type: content_type.name().to_owned(),
            at: *at,
        }));
        if !orphans.is_empty() {
            lines.push(JournalLine::Orphans { passes: orphans.passes, keys: orphans.keys() });
        }
        if !pending.is_empty() {
            let pending = pending.iter().map(PendingLine::from).collect();
            let (positions, known, adopted) = Default::default();
            lines.push(JournalLine::Committed { positions, known, pending, adopted });
        }
        let text: String = lines.iter().map(text_of).collect();
        let replaced = disk::replace_with(&self.path, 0o600, text.as_bytes());
        if let Some(file) = replaced.context("replace", &self.path)? {
            self.file = file;
        }
        Ok(())
    }

    /// Records where an output file ends before this pass first writes to it.
    pub fn opened(&mut self, position: Position) -> Result<(), StateError> {
        self.append(&JournalLine::Opened(position))
    }

    /// Records that a feed's subscription was started.
    pub fn subscription_started(
        &mut self,
        tenant_id: &str,
        content_type: ContentType,
        at: Timestamp,
    ) -> Result<(), StateError> {
        let (tenant_id, content_type) = (tenant_id.to_owned(), content_type.name().to_owned());
        self.append(&JournalLine::Started { tenant_id, content_type, at })
    }

    /// Commits a batch that is durable in its outputs.
    pub fn committed(&mut self, batch: &BatchCommit) -> Result<(), StateError> {
        self.append(&JournalLine::Committed {
            positions: batch.positions.clone(),
            known: batch.known.clone(),
            pending: batch.pending.iter().map(PendingLine::from).collect(),
            adopted: batch.adopted.iter().copied().map(RecordKey).collect(),
        })
    }

    fn append(&mut self, line: &JournalLine) -> Result<(), StateError> {
        // A torn line that cannot be removed is harmless: reading ends there.
        Ok(disk::append_durably(&mut self.file, text_of(line).as_bytes()).context("write", &self.path)?)
    }
}

fn text_of(line: &JournalLine) -> String {
    serde_json::to_string(line).expect("what is written is text, numbers and paths of text") + "\n"
}

/// Reads the journal of a pass that may be running, without changing anything.
pub(super) fn peek(working_dir: &Path) -> Result<RecoveredJournal, StateError> {
    let path = working_dir.join(FILE_NAME);
    let bytes = disk::none_if_missing(fs::read(&path)).context("read", &path)?;
    Ok(parse(&path, &bytes.unwrap_or_default()).unwrap_or_default())
}

/// Parses the journal. One that is damaged, or of a later version, is copied to `journal.unreadable` and ignored.
fn read(path: &Path, bytes: &[u8]) -> RecoveredJournal {
    parse(path, bytes).unwrap_or_else(|| {
        let copy = path.with_extension(UNREADABLE);
        log::warn!(
            "{} is damaged or of a later version; it is copied to {}, and records of an interrupted pass may be \
             delivered twice",
            path.display(),
            copy.display()
        );
        // If there is no room for the copy, the pass goes on without it.
        let _ = disk::replace_with(&copy, 0o600, bytes);
        RecoveredJournal::default()
    })
}

/// Parses up to the first line that is not whole. `None` if the first line is not the version.
fn parse(path: &Path, bytes: &[u8]) -> Option<RecoveredJournal> {
    let mut recovered = RecoveredJournal::default();
    let mut lines = bytes.split_inclusive(|&byte| byte == b'\n').map(|line| {
        line.strip_suffix(b"\n").and_then(|line| serde_json::from_slice::<JournalLine>(line).ok())
    });
    let (None | Some(Some(JournalLine::Version(VERSION)))) = lines.next() else { return None };
    while let Some(line) = lines.next() {
        let Some(line) = line else {
            // A crash tears only the last line. Before it, the file is damaged.
            if lines.next().is_some() {
                log::warn!(
                    "{} is damaged; records of an interrupted pass may be delivered twice",
                    path.display()
                );
            }
            break;
        };
        match line {
            JournalLine::Version(_) => {}
            JournalLine::Opened(position) => recovered.open(position),
            JournalLine::Started { tenant_id, content_type, at } => {
                let content_type = ContentType::from_name(&content_type);
                recovered
                    .started
                    .extend(content_type.map(|content_type| ((tenant_id.into(), content_type), at)));
            }
            JournalLine::Orphans { passes, keys } => {
                recovered.orphans.passes = passes;
                for key in keys {
                    recovered.orphans.add(key.0);
                }
            }
            JournalLine::Committed { positions, known, pending, adopted } => {
                for position in positions {
                    recovered.move_to(position);
                }
                recovered.known.extend(known);
                recovered.pending.extend(pending.into_iter().filter_map(PendingLine::read));
                for key in adopted {
                    recovered.orphans.adopt(key.0);
                }
            }
        }
    }
    Some(recovered)
}

impl RecoveredJournal {
    /// Records an opened file. Another file of this path was rotated, and everything in it was committed or written again.
    fn open(&mut self, position: Position) {
        self.positions.retain(|known| {
            known.path != position.path || (known.device, known.inode) == (position.device, position.inode)
        });
        self.move_to(position);
    }

    fn move_to(&mut self, position: Position) {
        let is_same =
            |known: &&mut Position| (known.device, known.inode) == (position.device, position.inode);
        match self.positions.iter_mut().find(is_same) {
            Some(known) => *known = position,
            None => self.positions.push(position),
        }
    }
}
