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
    progress::{Waiting, WaitingLine},
};
use crate::{
    disk::{self, FileContext, Position},
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
    /// The end of a file before the pass first writes to it.
    Opened(Position),
    /// A batch that is durable in the outputs.
    Committed {
        positions: Vec<Position>,
        known: Vec<String>,
        waiting: Vec<WaitingLine>,
        adopted: Vec<Key>,
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
        keys: Vec<Key>,
    },
}

/// A record's key, written in hexadecimal digits because JSON numbers are too small for it.
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

/// What the state records of a batch.
#[derive(Debug, Default)]
pub struct Batch {
    /// The ends of the output files.
    pub positions: Vec<Position>,
    /// Lines of `known_blobs`.
    pub known: Vec<String>,
    /// Blobs that only some of the outputs have.
    pub waiting: Vec<Waiting>,
    /// Orphans that were adopted.
    pub adopted: Vec<u128>,
}

/// What an earlier pass left behind.
#[derive(Debug, Default)]
pub struct Left {
    /// Lines for `known_blobs`.
    pub known: Vec<String>,
    /// Blobs that only some of the outputs have.
    pub waiting: Vec<Waiting>,
    /// Started subscriptions: tenant id, content type, time.
    pub started: Vec<(String, ContentType, Timestamp)>,
    /// Records that stand in an output file although their blobs are not known.
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
    /// Opens the journal and finds out what an earlier pass left. The journal stays unchanged until [`Self::restart`].
    /// `recover` returns the keys of the records that an output file contains after a committed position.
    pub fn open(
        working_dir: &Path,
        recover: impl Fn(&Position) -> io::Result<Vec<u128>>,
    ) -> Result<(Self, Left), StateError> {
        let path = working_dir.join(FILE_NAME);
        disk::recover(&path).context("recover", &path)?;
        let file = disk::open_for_append(&path, 0o600).context("open", &path)?;
        let bytes = fs::read(&path).context("read", &path)?;
        let mut left = read(&path, &bytes);
        left.orphans.passes += 1;
        if left.orphans.passes > limits::ORPHANS_PASSES_MAX {
            left.orphans = Orphans::default();
        }
        let taken_over = left.orphans.count();
        for position in std::mem::take(&mut left.positions) {
            for key in recover(&position).context("read", &position.path)? {
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

    /// Replaces the journal by what later passes still need of it. Known blobs that an earlier pass left must be durable in
    /// `known_blobs` by now.
    pub fn restart(
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
        let replaced = disk::replace_with(&self.path, 0o600, text.as_bytes());
        if let Some(file) = replaced.context("replace", &self.path)? {
            self.file = file;
        }
        Ok(())
    }

    /// Records where an output file ends before this pass first writes to it.
    pub fn opened(&mut self, position: Position) -> Result<(), StateError> {
        self.append(&Line::Opened(position))
    }

    /// Records that a feed's subscription was started.
    pub fn subscription_started(
        &mut self,
        tenant_id: &str,
        content_type: ContentType,
        at: Timestamp,
    ) -> Result<(), StateError> {
        let (tenant_id, content_type) = (tenant_id.to_owned(), content_type.name().to_owned());
        self.append(&Line::Started { tenant_id, content_type, at })
    }

    /// Commits a batch that is durable in its outputs.
    pub fn committed(&mut self, batch: &Batch) -> Result<(), StateError> {
        self.append(&Line::Committed {
            positions: batch.positions.clone(),
            known: batch.known.clone(),
            waiting: batch.waiting.iter().map(WaitingLine::from).collect(),
            adopted: batch.adopted.iter().copied().map(Key).collect(),
        })
    }

    fn append(&mut self, line: &Line) -> Result<(), StateError> {
        // A torn line that cannot be removed is harmless: reading ends there.
        Ok(disk::append_durably(&mut self.file, text_of(line).as_bytes()).context("write", &self.path)?)
    }
}

fn text_of(line: &Line) -> String {
    serde_json::to_string(line).expect("what is written is text, numbers and paths of text") + "\n"
}

/// Reads up to the first line that is not whole.
fn read(path: &Path, bytes: &[u8]) -> Left {
    let mut left = Left::default();
    let mut lines = bytes
        .split_inclusive(|&byte| byte == b'\n')
        .map(|line| line.strip_suffix(b"\n").and_then(|line| serde_json::from_slice::<Line>(line).ok()));
    match lines.next() {
        None | Some(Some(Line::Version(VERSION))) => {}
        Some(_) => {
            let copy = path.with_extension(UNREADABLE);
            log::warn!(
                "{} is damaged or of a later version; it is copied to {}, and records of a pass that was cut off may be \
                 delivered twice",
                path.display(),
                copy.display()
            );
            // If there is no room for the copy, the pass goes on without it.
            let _ = disk::replace_with(&copy, 0o600, bytes);
            return left;
        }
    }
    while let Some(line) = lines.next() {
        let Some(line) = line else {
            // A crash tears only the last line. Before it, the file is damaged.
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
