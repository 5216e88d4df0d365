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
//! - When a batch begins, [`Files::open`] compares each open file with what its path names, and closes a file that was
//!   rotated. A batch lasts a second.
//! - After the fsync and before the commit, [`Files::flush`] looks for the file. Under its own name, or under another
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
    mem,
    num::NonZeroU64,
    os::{
        fd::AsRawFd,
        unix::fs::{FileExt, MetadataExt},
    },
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rustix::fs::{Advice, fadvise};

use super::{CancelToken, DeliveryError, OnOpen, OutputError, special::Special};
use crate::{
    disk::{self, FileContext, FileError, Position},
    limits::OUTPUT_BUFFER_BYTES,
};

/// The maximum number of times that a batch is written again because its file was removed. More means that something
/// removes the files as fast as they are written.
const REWRITES_MAX: u32 = 5;

/// The system is asked to write a batch to the disk in steps of this size while the batch grows: an fsync that has to write
/// all of a batch keeps the writer waiting for as long as the batch took.
const WRITE_BACK_BYTES: u64 = 1024 * 1024;

/// The resolution of file times: some file systems keep them in steps of two seconds.
const FILE_TIME_STEP: Duration = Duration::from_secs(2);

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
    batch: Option<Batch>,
}

/// What was written to a file since the last commit.
#[derive(Debug)]
struct Batch {
    /// When the batch began.
    since: SystemTime,
    /// The length of the file when the batch began.
    begin: u64,
    /// The number of bytes written.
    written: u64,
    /// The number of them that the system was asked to write to the disk.
    written_back: u64,
}

/// A batch in a file that is not found under any name.
struct LostBatch {
    file: File,
    begin: u64,
    end: u64,
}

/// Where a batch is after its fsync.
#[derive(Debug, PartialEq, Eq)]
enum Location {
    /// In a file that has a name and keeps its contents.
    Safe,
    /// In a file that was removed, or that a compressor reads.
    Lost(&'static str),
    /// Partly removed, by truncation.
    Truncated,
}

impl Files {
    /// Opens nothing yet: a file is created when there is something to write into it.
    pub fn new(is_whole: IsWhole, cancel: &CancelToken) -> Self {
        Self { open: Vec::new(), is_whole, cancel: cancel.clone() }
    }

    /// Returns an open file; if it is opened now, also what `inspect` returns for it. At the beginning of a batch a file
    /// that was rotated meanwhile is closed, and the one that has its name now is opened.
    pub fn open<T>(
        &mut self,
        path: &Path,
        on_open: &mut OnOpen<'_>,
        inspect: impl FnOnce(&mut File) -> io::Result<T>,
    ) -> Result<(&mut Target, Option<T>), OutputError> {
        let mut place = self.open.iter().position(|target| target.path == path);
        if let Some(rotated) = place.filter(|&place| !self.open[place].is_current()) {
            log::debug!("{} was rotated: what follows is written to a new file", path.display());
            self.open.remove(rotated);
            place = None;
        }
        let mut inspected = None;
        if place.is_none() {
            let mut target = Target::open(path.to_owned(), self.is_whole, &self.cancel)?;
            inspected = Some(target.read(inspect)?);
            target.report(on_open)?;
            self.open.push(target);
        }
        let last = self.open.len() - 1;
        let target = &mut self.open[place.unwrap_or(last)];
        target.begin_batch()?;
        Ok((target, inspected))
    }

    /// Returns a file that is open.
    pub fn get(&mut self, path: &Path) -> Option<&mut Target> {
        self.open.iter_mut().find(|target| target.path == path)
    }

    /// Returns when the batch is on the disk, in files that have a name. Returns where the files end. Writes a batch again
    /// whose file was removed meanwhile; `head_of` returns what a file that is new begins with.
    ///
    /// # Errors
    ///
    /// A file cannot be written, or a rotation has truncated one; in the second case the files are still usable.
    pub fn flush(
        &mut self,
        on_open: &mut OnOpen<'_>,
        mut head_of: impl FnMut(&Path, &mut File) -> io::Result<Vec<u8>>,
    ) -> Result<Vec<Position>, DeliveryError> {
        for _ in 0..=REWRITES_MAX {
            self.sync()?;
            let (lost, truncated) = self.reopen_lost(on_open)?;
            if lost.is_empty() {
                return self.end_batch(truncated.as_deref());
            }
            for (place, batch) in lost {
                self.open[place].write_again(&batch, &mut head_of)?;
            }
        }
        let problem = format!("its files were removed {REWRITES_MAX} times while a batch was written");
        let hint = "find out which program removes them".to_owned();
        Err(OutputError::Receiver { receiver: "output.file".to_owned(), problem, hint }.into())
    }

    fn sync(&mut self) -> Result<(), OutputError> {
        for target in self.open.iter_mut().filter(|target| target.is_dirty) {
            match &target.special {
                Some(special) => special.drain()?,
                None => disk::sync(&target.file).context("sync", &target.path)?,
            }
            target.is_dirty = false;
        }
        Ok(())
    }

    /// Opens a new file for each batch that is not found after its fsync. Returns these batches with the places of their
    /// new files, and the path of a file that was truncated.
    #[expect(clippy::type_complexity, reason = "two results of one step")]
    fn reopen_lost(
        &mut self,
        on_open: &mut OnOpen<'_>,
    ) -> Result<(Vec<(usize, LostBatch)>, Option<PathBuf>), OutputError> {
        let ours: Vec<_> = self.open.iter().map(|target| target.path.clone()).collect();
        let (mut lost, mut truncated) = (Vec::new(), None);
        for (place, target) in self.open.iter_mut().enumerate() {
            let how = match target.location(&ours)? {
                Location::Safe => continue,
                Location::Truncated => {
                    truncated = Some(target.path.clone());
                    continue;
                }
                Location::Lost(how) => how,
            };
            log::warn!(
                "{} was {how} while records were written to it: they are written again to a new file, and a rotated copy \
                 may have them too",
                target.path.display()
            );
            let new = Target::open(target.path.clone(), target.is_whole, &self.cancel)?;
            new.report(on_open)?;
            let old = mem::replace(target, new);
            target.begin_batch()?;
            if let Some(Batch { begin, written, .. }) = old.batch {
                lost.push((place, LostBatch { file: old.file, begin, end: begin + written }));
            }
        }
        Ok((lost, truncated))
    }

    /// Ends a batch that is durable. Returns where the files end.
    fn end_batch(&mut self, truncated: Option<&Path>) -> Result<Vec<Position>, DeliveryError> {
        self.open.iter_mut().for_each(|target| target.batch = None);
        let Some(path) = truncated else {
            let positions = self.open.iter().filter_map(|target| target.position().transpose());
            return Ok(positions.collect::<Result<_, _>>()?);
        };
        let error = OutputError::Receiver {
            receiver: path.display().to_string(),
            problem: "was truncated by a rotation while records were written to it; they are collected again, and those \
                      in the rotated copy are delivered twice"
                .to_owned(),
            hint: "rotate by renaming, without copytruncate".to_owned(),
        };
        Err(DeliveryError { is_usable: true, ..error.into() })
    }
}

impl Batch {
    /// Asks the system to begin to write to the disk, without waiting for it, once there is enough to write. Nothing depends
    /// on it: the fsync at the end of the batch writes what is left.
    fn write_back(&mut self, file: &File) {
        let bytes = self.written - self.written_back;
        if bytes < WRITE_BACK_BYTES {
            return;
        }
        // Linux writes a range that is said to be no longer needed, and keeps its pages in memory while it writes them, so
        // that a program that follows the file finds them there.
        let _ = fadvise(file, self.begin + self.written_back, NonZeroU64::new(bytes), Advice::DontNeed);
        self.written_back = self.written;
    }
}

impl Target {
    /// Opens a file for appending, created with its folder if it does not exist, and repairs an incomplete end.
    fn open(path: PathBuf, is_whole: IsWhole, cancel: &CancelToken) -> Result<Self, OutputError> {
        let (file, special) = match Special::open(&path, cancel)? {
            Some((file, special)) => (file, Some(special)),
            None => (open_regular(&path, is_whole)?, None),
        };
        Ok(Self { path, file, special, is_whole, is_dirty: false, batch: None })
    }

    /// Reports where the file ends, if it is a regular one.
    fn report(&self, on_open: &mut OnOpen<'_>) -> Result<(), OutputError> {
        self.position()?.map_or(Ok(()), on_open)
    }

    /// Reads from the file.
    pub fn read<T>(&mut self, read: impl FnOnce(&mut File) -> io::Result<T>) -> Result<T, OutputError> {
        Ok(read(&mut self.file).context("append to", &self.path)?)
    }

    /// Returns whether it is a regular file and empty: a rotation may have just truncated it.
    pub fn is_empty(&mut self) -> Result<bool, OutputError> {
        self.read(|file| file.metadata().map(|metadata| metadata.is_file() && metadata.len() == 0))
    }

    /// Returns where the file ends, if it is a regular one.
    fn position(&self) -> Result<Option<Position>, OutputError> {
        if self.special.is_some() {
            return Ok(None);
        }
        let position = Position::end_of(&self.file, &self.path);
        Ok(position.map(Some).context("inspect", &self.path)?)
    }

    fn begin_batch(&mut self) -> Result<(), OutputError> {
        if self.batch.is_none() {
            let since = SystemTime::now();
            let begin = self.position()?.map_or(0, |position| position.length);
            self.batch = Some(Batch { since, begin, written: 0, written_back: 0 });
        }
        Ok(())
    }

    /// Appends whole lines, in a batch. If that fails midway, the part of a line that was written is cut off again.
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
            let _ = repair_end(&mut self.file, self.is_whole);
            OutputError::from(FileError::new("write", &self.path, error))
        })?;
        if let Some(batch) = &mut self.batch {
            batch.written += lines.len() as u64;
            batch.write_back(&self.file);
        }
        Ok(())
    }

    /// Copies a batch out of a file that has no name any more.
    fn write_again(
        &mut self,
        lost: &LostBatch,
        head_of: &mut impl FnMut(&Path, &mut File) -> io::Result<Vec<u8>>,
    ) -> Result<(), OutputError> {
        if lost.begin > 0 {
            let head = head_of(&self.path, &mut self.file);
            self.append(&head.context("append to", &self.path)?)?;
        }
        let (mut at, mut piece) = (lost.begin, vec![0; OUTPUT_BUFFER_BYTES]);
        while at < lost.end {
            let length = usize::try_from(lost.end - at).unwrap_or(usize::MAX).min(piece.len());
            let read = lost.file.read_exact_at(&mut piece[..length], at);
            read.context("read again", &self.path)?;
            self.append(&piece[..length])?;
            at += length as u64;
        }
        Ok(())
    }

    /// Returns whether a batch continues in this file, or its path still names it.
    fn is_current(&self) -> bool {
        let has_its_name = || self.file.metadata().is_ok_and(|metadata| is_named(&self.path, &metadata));
        self.batch.is_some() || self.special.is_some() || has_its_name()
    }

    /// Finds the batch after its fsync. `ours` are the paths of the open files.
    fn location(&self, ours: &[PathBuf]) -> Result<Location, OutputError> {
        match &self.batch {
            Some(batch) if batch.written > 0 => Ok(self.find(batch, ours).context("find", &self.path)?),
            _ => Ok(Location::Safe),
        }
    }

    fn find(&self, batch: &Batch, ours: &[PathBuf]) -> io::Result<Location> {
        let metadata = self.file.metadata()?;
        if metadata.len() < batch.begin + batch.written {
            return Ok(Location::Truncated);
        }
        if metadata.nlink() == 0 {
            return Ok(Location::Lost("removed"));
        }
        if is_named(&self.path, &metadata) {
            return Ok(Location::Safe);
        }
        let Some(name) = self.name_by_now(&metadata) else { return Ok(Location::Lost("moved away")) };
        let is_compressed = self.is_being_compressed(&name, batch.since, ours);
        Ok(if is_compressed { Location::Lost("rotated and compressed") } else { Location::Safe })
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
    fn is_being_compressed(&self, name: &Path, since: SystemTime, ours: &[PathBuf]) -> bool {
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
                && written.is_ok_and(|written| written + FILE_TIME_STEP >= since)
        })
    }
}

/// Returns whether this path names that file.
fn is_named(path: &Path, file: &Metadata) -> bool {
    fs::metadata(path).is_ok_and(|named| disk::id_of(&named) == disk::id_of(file))
}

fn open_regular(path: &Path, is_whole: IsWhole) -> Result<File, OutputError> {
    if let Some(folder) = path.parent() {
        disk::create_folder(folder, 0o750).context("create the folder", folder)?;
    }
    let mut file = disk::open_for_append(path, 0o640).context("open", path)?;
    repair_end(&mut file, is_whole).context("repair the end of", path)?;
    Ok(file)
}

/// If the file's last line lacks its line break: appends one if the line is whole, and cuts the line off otherwise. A file
/// that is not a regular one (a pipe, `/dev/stdout`) has no end to repair.
fn repair_end(file: &mut File, is_whole: IsWhole) -> io::Result<()> {
    let metadata = file.metadata()?;
    if !metadata.file_type().is_file() || metadata.len() == 0 {
        return Ok(());
    }
    let (start, line) = last_line(file, metadata.len())?;
    if line.is_empty() {
        return Ok(());
    }
    if is_whole(&line) { disk::append(file, b"\n") } else { disk::truncate(file, start) }
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
