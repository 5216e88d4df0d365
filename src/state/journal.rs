//! `journal`: what a pass has committed so far, so that the next one knows what a killed one left behind.
//!
//! Lines of JSON, appended and made durable one after the other; the first names the version. A pass writes where each
//! output file ended before it wrote to it ([`Journal::opened`]), and at each commit where the files end now and which
//! blobs that made known ([`Journal::committed`]). That one line, written and synced at once, is what makes a batch
//! committed: all of it or, if the line is torn, nothing. At a pass's orderly end the journal is empty again.
//!
//! What a killed pass leaves is found by [`Journal::open`]:
//!
//! - Blobs of committed batches enter `known_blobs` if they are not in it yet.
//! - What is in an output file after its committed length is of an unfinished batch. The output that wrote it finds the
//!   whole records in it. They are **orphans**: their blobs are not known and will be collected again, and then each
//!   orphan is adopted: its record is not written a second time.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    StateError,
    progress::{Waiting, WaitingLine},
};
use crate::{
    disk::{self, Position},
    feed::ContentType,
    limits,
};

/// The file's name in `workingDir`.
pub const FILE_NAME: &str = "journal";

const VERSION: u32 = 1;

/// A line of the file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
enum Line {
    Version(u32),
    /// A file is about to be written to.
    Opened(Position),
    /// A batch is durable in the outputs.
    Committed {
        positions: Vec<Position>,
        known: Vec<String>,
        waiting: Vec<WaitingLine>,
        adopted: Vec<Key>,
    },
    /// A feed's subscription was started.
    Started {
        tenant_id: String,
        content_type: String,
        at: Timestamp,
    },
    /// Taken over from an earlier pass.
    Orphans {
        passes: u32,
        keys: Vec<Key>,
    },
}

/// A record's key, in hexadecimal digits: JSON's numbers are too short for it.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct Key(u128);

impl From<Key> for String {
    fn from(key: Key) -> Self {
        format!("{:032x}", key.0)
    }
}

impl TryFrom<String> for Key {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        u128::from_str_radix(&text, 16).map(Self)
    }
}

/// Records that stand in an output file although their blobs are not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orphans {
    /// Each key, and how often.
    keys: HashMap<u128, u32>,
    /// How many passes have begun since they were found. Not a time: clocks are wrong at times.
    passes: u32,
}

impl Orphans {
    fn add(&mut self, key: u128) {
        *self.keys.entry(key).or_default() += 1;
    }

    /// Takes one away, if there is one of this key.
    pub fn adopt(&mut self, key: u128) -> bool {
        let Some(count) = self.keys.get_mut(&key) else { return false };
        *count -= 1;
        if *count == 0 {
            self.keys.remove(&key);
        }
        true
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.keys.values().copied().map(u64::from).sum()
    }

    fn keys(&self) -> Vec<Key> {
        self.keys.iter().flat_map(|(&key, &count)| std::iter::repeat_n(Key(key), count as usize)).collect()
    }
}

/// What a batch brings that has to be remembered.
#[derive(Debug, Default)]
pub struct Batch {
    /// Where the output files end.
    pub positions: Vec<Position>,
    /// Lines of `known_blobs`.
    pub known: Vec<String>,
    /// Blobs that some outputs have and others do not.
    pub waiting: Vec<Waiting>,
    /// Orphans that were adopted.
    pub adopted: Vec<u128>,
}

/// What an earlier pass left.
#[derive(Debug, Default)]
pub struct Left {
    /// Lines that belong into `known_blobs`.
    pub known: Vec<String>,
    /// Blobs that some outputs have and others do not.
    pub waiting: Vec<Waiting>,
    /// Subscriptions that were started: tenant, content type, when.
    pub started: Vec<(String, ContentType, Timestamp)>,
    /// Records that stand in an output file although their blobs are not known.
    pub orphans: Orphans,
    /// Where the files end as far as was committed.
    positions: Vec<Position>,
}

/// The open journal of this pass.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    /// Opens it, and finds out what an earlier pass left. Nothing is changed in the journal until
    /// [`Self::take_over`] says that it was dealt with. `recover` returns the keys of the records that an output file
    /// contains after a committed position.
    pub fn open(
        working_dir: &Path,
        recover: impl Fn(&Position) -> io::Result<Vec<u128>>,
    ) -> Result<(Self, Left), StateError> {
        let path = working_dir.join(FILE_NAME);
        disk::recover(&path).map_err(|error| StateError::storage("recover", &path, error))?;
        let file =
            disk::open_for_append(&path, 0o600).map_err(|error| StateError::storage("open", &path, error))?;
        let bytes = fs::read(&path).map_err(|error| StateError::storage("read", &path, error))?;
        let mut left = read(&path, &bytes);
        left.orphans.passes += 1;
        if left.orphans.passes > limits::ORPHANS_PASSES_MAX {
            left.orphans = Orphans::default();
        }
        let taken_over = left.orphans.count();
        for position in std::mem::take(&mut left.positions) {
            let keys =
                recover(&position).map_err(|error| StateError::storage("read", &position.path, error))?;
            for key in keys {
                left.orphans.add(key);
            }
        }
        let found = left.orphans.count() - taken_over;
        if found > 0 {
            log::info!(
                "An earlier pass was cut off: {found} records are in the files already and will not be written again"
            );
        }
        Ok((Self { path, file }, left))
    }

    /// Begins anew, with what is taken over from earlier passes: orphans, and blobs that wait. To be called when the
    /// known blobs that were left are in `known_blobs`, durably.
    pub fn take_over(
        &mut self,
        orphans: &Orphans,
        waiting: &[Waiting],
        started: &[(String, ContentType, Timestamp)],
    ) -> Result<(), StateError> {
        let mut lines = vec![Line::Version(VERSION)];
        lines.extend(started.iter().map(|(tenant_id, content_type, at)| Line::Started {
            tenant_id: tenant_id.clone(),
            content_type: content_type.name().to_owned(),
            at: *at,
        }));
        if !orphans.is_empty() {
            lines.push(Line::Orphans { passes: orphans.passes, keys: orphans.keys() });
        }
        if !waiting.is_empty() {
            let waiting = waiting.iter().map(WaitingLine::from).collect();
            let (positions, known, adopted) = Default::default();
            lines.push(Line::Committed { positions, known, waiting, adopted });
        }
        let text: String = lines.iter().map(text_of).collect();
        let replaced = disk::replace(&self.path, 0o600, |to| to.write_all(text.as_bytes()), |_| Ok(()));
        if let Some(file) = replaced.map_err(|error| StateError::storage("replace", &self.path, error))? {
            self.file = file;
        }
        Ok(())
    }

    /// A file is about to be written to for the first time in this pass.
    pub fn opened(&mut self, position: Position) -> Result<(), StateError> {
        self.append(&Line::Opened(position))
    }

    /// Remembers that a feed's subscription was started.
    pub fn subscription_started(
        &mut self,
        tenant_id: &str,
        content_type: ContentType,
        at: Timestamp,
    ) -> Result<(), StateError> {
        let (tenant_id, content_type) = (tenant_id.to_owned(), content_type.name().to_owned());
        self.append(&Line::Started { tenant_id, content_type, at })
    }

    /// A batch is durable in its outputs: when this returns, it is committed.
    pub fn committed(&mut self, batch: &Batch) -> Result<(), StateError> {
        self.append(&Line::Committed {
            positions: batch.positions.clone(),
            known: batch.known.clone(),
            waiting: batch.waiting.iter().map(WaitingLine::from).collect(),
            adopted: batch.adopted.iter().copied().map(Key).collect(),
        })
    }

    fn append(&mut self, line: &Line) -> Result<(), StateError> {
        let before = self.file.metadata().map_or(0, |metadata| metadata.len());
        let written =
            disk::append(&mut self.file, text_of(line).as_bytes()).and_then(|()| disk::sync(&self.file));
        written.map_err(|error| {
            // A torn line ends what is read, so that it may stay if it cannot be cut off.
            let _ = disk::truncate(&self.file, before);
            StateError::storage("write", &self.path, error)
        })
    }
}

fn text_of(line: &Line) -> String {
    serde_json::to_string(line).expect("what is written is text, numbers and paths of text") + "\n"
}

/// Reads as far as whole lines go.
fn read(path: &Path, bytes: &[u8]) -> Left {
    let mut left = Left::default();
    let mut lines = bytes
        .split_inclusive(|&byte| byte == b'\n')
        .map(|line| line.strip_suffix(b"\n").and_then(|line| serde_json::from_slice::<Line>(line).ok()));
    match lines.next() {
        None | Some(Some(Line::Version(VERSION))) => {}
        Some(_) => {
            let aside = path.with_extension("unreadable");
            log::warn!(
                "{} is damaged or of a later version; it is copied to {}, and records of a pass that was cut off may be \
                 delivered twice",
                path.display(),
                aside.display()
            );
            // If there is no room for the copy, it is gone without.
            let _ = disk::replace(&aside, 0o600, |to| to.write_all(bytes), |_| Ok(()));
            return left;
        }
    }
    while let Some(line) = lines.next() {
        let Some(line) = line else {
            // A crash tears the last one; what was lost with any other was damaged.
            if lines.next().is_some() {
                log::warn!(
                    "{} is damaged; records of a pass that was cut off may be delivered twice",
                    path.display()
                );
            }
            break;
        };
        match line {
            Line::Version(_) => {}
            Line::Opened(position) => left.open(position),
            Line::Started { tenant_id, content_type, at } => {
                let content_type = ContentType::from_name(&content_type);
                left.started.extend(content_type.map(|content_type| (tenant_id, content_type, at)));
            }
            Line::Orphans { passes, keys } => {
                left.orphans.passes = passes;
                for key in keys {
                    left.orphans.add(key.0);
                }
            }
            Line::Committed { positions, known, waiting, adopted } => {
                for position in positions {
                    left.move_to(position);
                }
                left.known.extend(known);
                left.waiting.extend(waiting.into_iter().filter_map(WaitingLine::read));
                for key in adopted {
                    left.orphans.adopt(key.0);
                }
            }
        }
    }
    left
}

impl Left {
    /// A file that was opened under this name before was rotated, and left when everything in it was committed or written
    /// again.
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
