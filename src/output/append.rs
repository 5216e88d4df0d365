//! Files that lines are appended to.
//!
//! A pass opens its files anew, so rotation by rename needs no signal; they are opened for appending, so copytruncate
//! works too. Other programs follow these files while they grow: a line that is complete is never taken back, and a
//! line that is not never stays. The one is why nothing but the torn end of a file is ever cut off; the other is why
//! that is done right after a write that failed, and again when a file is opened.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use super::OutputError;
use crate::{
    disk::{self, Position},
    limits::OUTPUT_BUFFER_BYTES,
};

/// Whether a last line without a line break, which somebody else must have written, is whole nevertheless.
pub type IsWhole = fn(&[u8]) -> bool;

/// The files that a pass has written to.
#[derive(Debug)]
pub struct Files {
    open: Vec<Target>,
    is_whole: IsWhole,
}

/// A file that is written to.
#[derive(Debug)]
pub struct Target {
    path: PathBuf,
    file: File,
    is_whole: IsWhole,
    is_dirty: bool,
}

impl Files {
    /// None yet: a file is made when there is something to write into it.
    pub fn new(is_whole: IsWhole) -> Self {
        Self { open: Vec::new(), is_whole }
    }

    /// Opens a file, unless it is open. If it was not: where it ends.
    pub fn open(&mut self, path: &Path) -> Result<Option<Position>, OutputError> {
        if self.open.iter().any(|target| target.path == path) {
            return Ok(None);
        }
        let target = Target::open(path.to_owned(), self.is_whole)?;
        let position = target.position()?;
        self.open.push(target);
        Ok(Some(position))
    }

    /// A file that was opened.
    pub fn get(&mut self, path: &Path) -> &mut Target {
        let target = self.open.iter_mut().find(|target| target.path == path);
        target.expect("a feed is written only after it was prepared")
    }

    /// Returns when everything in them is on the disk.
    pub fn make_durable(&mut self) -> Result<(), OutputError> {
        for target in self.open.iter_mut().filter(|target| target.is_dirty) {
            disk::sync(&target.file).map_err(|error| storage("sync", &target.path, error))?;
            target.is_dirty = false;
        }
        Ok(())
    }

    /// Where they end.
    pub fn positions(&self) -> Result<Vec<Position>, OutputError> {
        self.open.iter().map(Target::position).collect()
    }
}

impl Target {
    /// Opens a file for appending, made if it is not there, its folder too, and mends a torn end.
    fn open(path: PathBuf, is_whole: IsWhole) -> Result<Self, OutputError> {
        if let Some(folder) = path.parent() {
            disk::make_folder(folder, 0o750).map_err(|error| storage("make the folder", folder, error))?;
        }
        let mut file = disk::open_for_append(&path, 0o640).map_err(|error| storage("open", &path, error))?;
        mend_end(&mut file, is_whole).map_err(|error| storage("mend", &path, error))?;
        Ok(Self { path, file, is_whole, is_dirty: false })
    }

    /// Reads something of it.
    pub fn read<T>(&mut self, read: impl FnOnce(&mut File) -> io::Result<T>) -> Result<T, OutputError> {
        read(&mut self.file).map_err(|error| storage("append to", &self.path, error))
    }

    /// Whether it is a regular file in which nothing is, yet or any more: a rotation may just have truncated it.
    pub fn is_empty(&mut self) -> Result<bool, OutputError> {
        self.read(|file| file.metadata().map(|metadata| metadata.is_file() && metadata.len() == 0))
    }

    fn position(&self) -> Result<Position, OutputError> {
        Position::end_of(&self.file, &self.path).map_err(|error| storage("look at", &self.path, error))
    }

    /// Appends whole lines. If that fails midway, the part of a line that got through is cut off again.
    pub fn append(&mut self, lines: &[u8]) -> Result<(), OutputError> {
        if lines.is_empty() {
            return Ok(());
        }
        self.is_dirty = true;
        disk::append(&mut self.file, lines).map_err(|error| {
            // If this fails too, the next pass mends the file when it opens it.
            let _ = mend_end(&mut self.file, self.is_whole);
            storage("write", &self.path, error)
        })
    }
}

/// The error of a file or folder.
pub fn storage(action: &'static str, path: &Path, source: io::Error) -> OutputError {
    OutputError::Storage { action, path: path.display().to_string(), source }
}

/// If the file's last line lacks its line break: gives it one if the line is whole, and else cuts it off. What is not a
/// regular file (a pipe, `/dev/stdout`) has no end to mend.
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

/// What stands behind the last line break, and where it starts.
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
