//! Files that lines are appended to.
//!
//! A pass opens its files by name, so rotation by renaming needs no signal; they are opened for appending, so
//! copytruncate works too. Other programs follow these files while they grow: a complete line is never removed, and an
//! incomplete one never stays. So only the incomplete end of a file is ever cut off, right after a write that failed and
//! again when a file is opened.
//!
//! # Rotation during a pass
//!
//! A file that is open can be renamed, compressed, deleted or truncated at any time. What is written to it then may be
//! lost, although each write and each fsync succeeds. Two checks prevent that:
//!
//! - When a batch begins, [`Files::open`] compares each open file with what its path names, and leaves a file that was
//!   rotated. A batch lasts a second.
//! - After the fsync and before the commit, [`Files::settle`] looks for the file. Under its own name, or under another
//!   one that no compressor works on, the batch is safe. Otherwise the batch is copied out of the file, which is still
//!   open, to a new file at the path. Its records can then be in the compressed file as well.
//!
//! Compressors (gzip, xz, zstd, and logrotate, which runs them) create the compressed file before they read: as long as
//! there is none, whatever is in the renamed file will be read.
//!
//! What copytruncate removes before a commit cannot be read again. That batch is not committed, and its blobs are
//! collected again.

use std::{
    ffi::OsStr,
    fs::{self, File, Metadata},
    io::{self, Read, Seek, SeekFrom},
    os::{
        fd::AsRawFd,
        unix::fs::{FileExt, MetadataExt},
    },
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{CancelToken, OutputError, Settled, special::Special};
use crate::{
    disk::{self, Position},
    limits::{FILE_TIME_STEP, OUTPUT_BUFFER_BYTES},
};

/// Returns whether a last line without a line break, which another program must have written, is a whole one.
pub type IsWhole = fn(&[u8]) -> bool;

/// Extensions of compressed files.
const COMPRESSED: [&str; 10] = ["gz", "bz2", "xz", "zst", "lz4", "lzma", "zip", "Z", "7z", "br"];

/// The files that a pass has written to.
#[derive(Debug)]
pub struct Files {
    open: Vec<Target>,
    is_whole: IsWhole,
    cancel: CancelToken,
}

/// A file that is written to.
#[derive(Debug)]
pub struct Target {
    path: PathBuf,
    file: File,
    /// If it is not a regular file: what it is written through.
    special: Option<Special>,
    is_whole: IsWhole,
    is_dirty: bool,
    /// Whether the batch that is being written uses it.
    is_in_batch: bool,
    /// When the batch began.
    since: SystemTime,
    /// The file's length when the batch began.
    begin: u64,
    /// The number of bytes written in the batch.
    written: u64,
    /// Where the batch is, if it has to be written again to this file.
    lost: Option<Lost>,
}

/// A batch in a file that is not to be found under any name.
#[derive(Debug)]
struct Lost {
    file: File,
    begin: u64,
    end: u64,
}

/// What [`Files::open`] did.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened {
    /// The file was open.
    Before,
    /// It is open now, and ends there; a pipe or device has no end.
    Now(Option<Position>),
}

/// Where a batch is after its fsync.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// In a file that has a name and keeps its contents.
    Safe,
    /// In a file that was removed, or that a compressor reads.
    Lost(&'static str),
    /// Partly removed, by truncation.
    Truncated,
}

impl Files {
    /// None yet: a file is created when there is something to write into it.
    pub fn new(is_whole: IsWhole, cancel: &CancelToken) -> Self {
        Self { open: Vec::new(), is_whole, cancel: cancel.clone() }
    }

    /// Opens a file, unless it is open. At the beginning of a batch a file that was rotated meanwhile is closed, and the
    /// one that has its name now is opened.
    pub fn open(&mut self, path: &Path) -> Result<Opened, OutputError> {
        if let Some(place) = self.open.iter().position(|target| target.path == path) {
            let target = &mut self.open[place];
            if target.is_in_batch || target.has_its_name() {
                target.begin_batch()?;
                return Ok(Opened::Before);
            }
            log::debug!("{} was rotated: what follows is written to a new file", path.display());
            self.open.remove(place);
        }
        let mut target = Target::open(path.to_owned(), self.is_whole, &self.cancel)?;
        target.begin_batch()?;
        let position = target.position()?;
        self.open.push(target);
        Ok(Opened::Now(position))
    }

    /// Returns a file that was opened.
    pub fn get(&mut self, path: &Path) -> &mut Target {
        let target = self.open.iter_mut().find(|target| target.path == path);
        target.expect("a feed is written only after it was prepared")
    }

    /// Returns when everything in them is on the disk.
    pub fn make_durable(&mut self) -> Result<(), OutputError> {
        for target in self.open.iter_mut().filter(|target| target.is_dirty) {
            match &target.special {
                Some(special) => special.drain()?,
                None => disk::sync(&target.file).map_err(|error| storage("sync", &target.path, error))?,
            }
            target.is_dirty = false;
        }
        Ok(())
    }

    /// Finds out where the batch is that was just made durable, and opens a new file where it has to be written again.
    pub fn settle(&mut self) -> Result<Settled, OutputError> {
        let ours: Vec<_> = self.open.iter().map(|target| target.path.clone()).collect();
        let (mut reopened, mut truncated) = (Vec::new(), None);
        for target in &mut self.open {
            if target.written == 0 {
                continue;
            }
            let place = target.place(&ours).map_err(|error| storage("look for", &target.path, error))?;
            let path = target.path.display();
            match place {
                Place::Safe => {}
                Place::Lost(how) => {
                    log::warn!(
                        "{path} was {how} while records were written to it: they are written again to a new file, and \
                         a rotated copy may have them too"
                    );
                    let new = Target::open(target.path.clone(), target.is_whole, &self.cancel)?;
                    reopened.push(new.position()?);
                    let old = std::mem::replace(target, new);
                    let (begin, end) = (old.begin, old.begin + old.written);
                    target.begin_batch()?;
                    target.lost = Some(Lost { file: old.file, begin, end });
                }
                Place::Truncated => {
                    truncated = Some(OutputError::Receiver {
                        receiver: path.to_string(),
                        problem: "was truncated by a rotation while records were written to it; they are collected \
                                  again, and those in the rotated copy are delivered twice"
                            .to_owned(),
                        hint: "rotate by renaming, without copytruncate".to_owned(),
                    });
                }
            }
        }
        if !reopened.is_empty() {
            return Ok(Settled::Reopened(reopened.into_iter().flatten().collect()));
        }
        self.open.iter_mut().for_each(Target::end_batch);
        if let Some(why) = truncated {
            return Ok(Settled::Truncated(why));
        }
        let positions = self.open.iter().filter_map(|target| target.position().transpose());
        positions.collect::<Result<_, _>>().map(Settled::Safe)
    }

    /// Writes a batch again to the files that [`Self::settle`] has opened. `head_of` returns what a file that is new
    /// begins with.
    pub fn write_again(
        &mut self,
        mut head_of: impl FnMut(&Path, &mut File) -> io::Result<Vec<u8>>,
    ) -> Result<(), OutputError> {
        for target in &mut self.open {
            let Some(Lost { file, mut begin, end }) = target.lost.take() else { continue };
            if begin > 0 {
                let head = target.read_with_path(&mut head_of)?;
                target.append(&head)?;
            }
            let mut piece = vec![0; OUTPUT_BUFFER_BYTES];
            while begin < end {
                let length = usize::try_from(end - begin).unwrap_or(usize::MAX).min(piece.len());
                let read = file.read_exact_at(&mut piece[..length], begin);
                read.map_err(|error| storage("read again", &target.path, error))?;
                target.append(&piece[..length])?;
                begin += length as u64;
            }
        }
        Ok(())
    }
}

impl Target {
    /// Opens a file for appending, created with its folder if it does not exist, and repairs an incomplete end.
    fn open(path: PathBuf, is_whole: IsWhole, cancel: &CancelToken) -> Result<Self, OutputError> {
        let (is_dirty, is_in_batch, since) = (false, false, SystemTime::UNIX_EPOCH);
        if let Some((file, special)) = Special::open(&path, cancel)? {
            let special = Some(special);
            return Ok(Self {
                path,
                file,
                special,
                is_whole,
                is_dirty,
                is_in_batch,
                since,
                begin: 0,
                written: 0,
                lost: None,
            });
        }
        if let Some(folder) = path.parent() {
            disk::make_folder(folder, 0o750).map_err(|error| storage("make the folder", folder, error))?;
        }
        let mut file = disk::open_for_append(&path, 0o640).map_err(|error| storage("open", &path, error))?;
        mend_end(&mut file, is_whole).map_err(|error| storage("mend", &path, error))?;
        let special = None;
        Ok(Self {
            path,
            file,
            special,
            is_whole,
            is_dirty,
            is_in_batch,
            since,
            begin: 0,
            written: 0,
            lost: None,
        })
    }

    /// Reads from it.
    pub fn read<T>(&mut self, read: impl FnOnce(&mut File) -> io::Result<T>) -> Result<T, OutputError> {
        read(&mut self.file).map_err(|error| storage("append to", &self.path, error))
    }

    fn read_with_path<T>(
        &mut self,
        read: impl FnOnce(&Path, &mut File) -> io::Result<T>,
    ) -> Result<T, OutputError> {
        read(&self.path, &mut self.file).map_err(|error| storage("append to", &self.path, error))
    }

    /// Returns whether it is a regular file and empty: a rotation may have just truncated it.
    pub fn is_empty(&mut self) -> Result<bool, OutputError> {
        self.read(|file| file.metadata().map(|metadata| metadata.is_file() && metadata.len() == 0))
    }

    /// Returns where it ends, if it is a regular file.
    fn position(&self) -> Result<Option<Position>, OutputError> {
        if self.special.is_some() {
            return Ok(None);
        }
        let position = Position::end_of(&self.file, &self.path);
        position.map(Some).map_err(|error| storage("look at", &self.path, error))
    }

    fn begin_batch(&mut self) -> Result<(), OutputError> {
        if !self.is_in_batch {
            (self.is_in_batch, self.since, self.written) = (true, SystemTime::now(), 0);
            self.begin = self.position()?.map_or(0, |position| position.length);
        }
        Ok(())
    }

    fn end_batch(&mut self) {
        (self.is_in_batch, self.written) = (false, 0);
    }

    /// Appends whole lines. If that fails midway, the part of a line that was written is cut off again.
    pub fn append(&mut self, lines: &[u8]) -> Result<(), OutputError> {
        if lines.is_empty() {
            return Ok(());
        }
        self.is_dirty = true;
        if let Some(special) = &mut self.special {
            return special.write(lines);
        }
        disk::append(&mut self.file, lines).map_err(|error| {
            // If this fails too, the next pass repairs the file when it opens it.
            let _ = mend_end(&mut self.file, self.is_whole);
            storage("write", &self.path, error)
        })?;
        self.written += lines.len() as u64;
        Ok(())
    }

    /// Returns whether its path still names this file.
    fn has_its_name(&self) -> bool {
        self.special.is_some() || self.file.metadata().is_ok_and(|metadata| is_named(&self.path, &metadata))
    }

    /// Finds the batch that was written and made durable. `ours` are the paths of the open files.
    fn place(&self, ours: &[PathBuf]) -> io::Result<Place> {
        let metadata = self.file.metadata()?;
        if metadata.len() < self.begin + self.written {
            return Ok(Place::Truncated);
        }
        if metadata.nlink() == 0 {
            return Ok(Place::Lost("removed"));
        }
        if is_named(&self.path, &metadata) {
            return Ok(Place::Safe);
        }
        let Some(name) = self.name_by_now(&metadata) else { return Ok(Place::Lost("moved away")) };
        let is_compressed = self.is_being_compressed(&name, ours);
        Ok(if is_compressed { Place::Lost("rotated and compressed") } else { Place::Safe })
    }

    /// Returns the name of a file that was renamed: one in its folder, or wherever the system says it is.
    fn name_by_now(&self, metadata: &Metadata) -> Option<PathBuf> {
        let siblings = fs::read_dir(disk::folder_of(&self.path)).into_iter().flatten().flatten();
        let system = fs::read_link(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        siblings.map(|entry| entry.path()).chain(system).find(|path| is_named(path, metadata))
    }

    /// Returns whether a compressed file is being made of this one, which is called `name` by now, or may be: next to it
    /// is a file whose name extends its name, or a compressed file that was written since the batch began and that is
    /// not of another of our files (`ours`). If the folder cannot be read, there may be one.
    fn is_being_compressed(&self, name: &Path, ours: &[PathBuf]) -> bool {
        let Some(own_name) = name.file_name().and_then(OsStr::to_str) else { return true };
        let Ok(siblings) = fs::read_dir(disk::folder_of(name)) else { return true };
        let other_stems: Vec<_> = ours
            .iter()
            .filter(|path| **path != self.path)
            .filter_map(|path| path.file_stem()?.to_str())
            .collect();
        siblings.flatten().any(|entry| {
            let (path, sibling) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            if ours.contains(&path) || other_stems.iter().any(|stem| sibling.starts_with(stem)) {
                return false;
            }
            if sibling.strip_prefix(own_name).is_some_and(|rest| rest.starts_with(['.', '-', '_'])) {
                return true;
            }
            let is_known =
                |extension: &OsStr| COMPRESSED.iter().any(|known| extension.eq_ignore_ascii_case(known));
            let written = entry.metadata().and_then(|metadata| metadata.modified());
            path.extension().is_some_and(is_known)
                && written.is_ok_and(|written| written + FILE_TIME_STEP >= self.since)
        })
    }
}

/// Returns whether this path names that file.
fn is_named(path: &Path, file: &Metadata) -> bool {
    fs::metadata(path).is_ok_and(|named| (named.dev(), named.ino()) == (file.dev(), file.ino()))
}

/// The error of a file or folder.
pub fn storage(action: &'static str, path: &Path, source: io::Error) -> OutputError {
    OutputError::Storage { action, path: path.display().to_string(), source }
}

/// If the file's last line lacks its line break: appends one if the line is whole, and cuts the line off otherwise. A file
/// that is not a regular one (a pipe, `/dev/stdout`) has no end to repair.
fn mend_end(file: &mut File, is_whole: IsWhole) -> io::Result<()> {
    let metadata = file.metadata()?;
    if !metadata.file_type().is_file() || metadata.len() == 0 {
        return Ok(());
    }
    let (start, line) = last_line(file, metadata.len())?;
    if line.is_empty() {
        return Ok(());
    }
    if is_whole(&line) { disk::append(file, b"\n") } else { disk::cut(file, start) }
}

/// Returns what is after the last line break, and where it starts.
fn last_line(file: &mut File, length: u64) -> io::Result<(u64, Vec<u8>)> {
    let mut line = Vec::new();
    let mut start = length;
    while start > 0 {
        let step = start.min(OUTPUT_BUFFER_BYTES as u64);
        let mut piece = vec![0; usize::try_from(step).expect("a step fits into memory")];
        file.seek(SeekFrom::Start(start - step))?;
        file.read_exact(&mut piece)?;
        let line_break = piece.iter().rposition(|&byte| byte == b'\n');
        let after = line_break.map_or(0, |place| place + 1);
        line.splice(0..0, piece[after..].iter().copied());
        start = start - step + after as u64;
        if line_break.is_some() {
            break;
        }
    }
    Ok((start, line))
}
