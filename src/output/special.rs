//! Output files that are not regular files: a named pipe, `/dev/stdout`, `/dev/stderr`, `/dev/null`, a terminal.
//!
//! They have a reader instead of a disk. A pipe is opened and written without blocking, so that a missing or slow reader
//! never prevents the pass from ending. Records in a pipe are accepted when the reader has read them. Standard output and
//! standard error can be sockets, which have no name to open, so they are written through the descriptors that the program
//! was started with.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::{FileTypeExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::OFlags,
    io::{Errno, ioctl_fionread},
};

use super::{CancelToken, OutputError};
use crate::{
    disk::{self, FileContext, FileError},
    limits::CANCEL_POLL_INTERVAL,
};

/// The duration after which a pipe or device that accepts nothing has failed.
const READER_STALL_MAX: Duration = Duration::from_secs(60);

/// A file that has a reader instead of a disk.
#[derive(Debug)]
pub struct Special {
    path: PathBuf,
    file: File,
    /// Whether a write can block.
    can_block: bool,
    is_pipe: bool,
    cancel: CancelToken,
}

impl Special {
    /// Opens a path if it exists and is not a regular file.
    pub fn open(path: &Path, cancel: &CancelToken) -> Result<Option<(File, Self)>, OutputError> {
        let Ok(metadata) = fs::metadata(path) else { return Ok(None) };
        if metadata.is_file() || metadata.is_dir() {
            return Ok(None);
        }
        let (file, can_block) = match standard_stream(&metadata) {
            Some(stream) => (stream.context("open", path)?, true),
            None => (open_without_blocking(path)?, false),
        };
        let is_pipe = metadata.file_type().is_fifo();
        let clone = file.try_clone().context("open", path)?;
        let special = Self { path: path.to_owned(), file: clone, can_block, is_pipe, cancel: cancel.clone() };
        Ok(Some((file, special)))
    }

    /// Writes all lines, as fast as the reader reads.
    pub fn write(&mut self, lines: &[u8]) -> Result<(), OutputError> {
        if self.can_block { self.write_in_a_thread(lines) } else { self.write_without_blocking(lines) }
    }

    fn write_in_a_thread(&self, lines: &[u8]) -> Result<(), OutputError> {
        let mut file = self.file.try_clone().map_err(|error| self.error(error))?;
        let lines = lines.to_vec();
        let written = self.cancel.attempt(move || file.write_all(&lines));
        written.map_err(|cancelled| self.unread(&cancelled.to_string()))?.map_err(|error| self.error(error))
    }

    fn write_without_blocking(&mut self, mut lines: &[u8]) -> Result<(), OutputError> {
        let mut stall = Instant::now();
        while !lines.is_empty() {
            match self.file.write(lines) {
                Ok(0) => return Err(self.error(io::ErrorKind::WriteZero.into())),
                Ok(written) => {
                    lines = &lines[written..];
                    stall = Instant::now();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.check(stall)?;
                    self.poll(PollFlags::OUT)?;
                }
                Err(error) => return Err(self.error(error)),
            }
        }
        Ok(())
    }

    /// Returns when the reader of a pipe has read everything.
    pub fn drain(&self) -> Result<(), OutputError> {
        if !self.is_pipe {
            return Ok(());
        }
        let (mut before, mut stall) = (u64::MAX, Instant::now());
        loop {
            let unread = ioctl_fionread(&self.file).map_err(|error| self.error(error.into()))?;
            if unread == 0 {
                return Ok(());
            }
            if unread < before {
                (before, stall) = (unread, Instant::now());
            }
            self.check(stall)?;
            if self.poll(PollFlags::empty())?.contains(PollFlags::ERR) {
                return Err(self.error(io::ErrorKind::BrokenPipe.into()));
            }
        }
    }

    /// Waits a moment for an event. poll(2) reports errors even if no event is requested.
    fn poll(&self, events: PollFlags) -> Result<PollFlags, OutputError> {
        let mut descriptors = [PollFd::new(&self.file, events)];
        let step = if events.is_empty() { Duration::from_millis(2) } else { CANCEL_POLL_INTERVAL };
        let step = Timespec::try_from(step).expect("a moment");
        match poll(&mut descriptors, Some(&step)) {
            Ok(_) | Err(Errno::INTR) => Ok(descriptors[0].revents()),
            Err(error) => Err(self.error(error.into())),
        }
    }

    /// Returns an error if the pass has to end, or if nothing was read for too long.
    fn check(&self, stall: Instant) -> Result<(), OutputError> {
        self.cancel.check().map_err(|cancelled| self.unread(&cancelled.to_string()))?;
        if stall.elapsed() < READER_STALL_MAX {
            return Ok(());
        }
        Err(self.unread(&format!("its reader has read nothing for {} s", READER_STALL_MAX.as_secs())))
    }

    fn error(&self, source: io::Error) -> OutputError {
        match source.kind() {
            io::ErrorKind::BrokenPipe => self.unread("its reader has closed it"),
            _ => FileError::new("write", &self.path, source).into(),
        }
    }

    fn unread(&self, problem: &str) -> OutputError {
        reader_error(&self.path, problem)
    }
}

/// Checks that lines can be appended to a file, and changes nothing.
pub fn check_append(path: &Path) -> Result<(), OutputError> {
    match Special::open(path, &CancelToken::default())? {
        Some(_) => Ok(()),
        None => Ok(disk::check_append(path).context("write", path)?),
    }
}

fn reader_error(path: &Path, problem: &str) -> OutputError {
    OutputError::Receiver {
        receiver: path.display().to_string(),
        problem: problem.to_owned(),
        hint: "check the program that reads it; the next pass collects its records again".to_owned(),
    }
}

/// Opens a pipe or device. A pipe that no process reads is an error at once.
fn open_without_blocking(path: &Path) -> Result<File, OutputError> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let flags = i32::try_from(flags.bits()).expect("flags of open are an int");
    let opened = OpenOptions::new().write(true).custom_flags(flags).open(path);
    opened.map_err(|error| match error.raw_os_error() {
        Some(number) if number == Errno::NXIO.raw_os_error() => reader_error(path, "no process reads it"),
        _ => FileError::new("open", path, error).into(),
    })
}

/// Returns a duplicate of standard output or standard error, if that is the file.
fn standard_stream(file: &Metadata) -> Option<io::Result<File>> {
    let (stdout, stderr) = (io::stdout(), io::stderr());
    [stdout.as_fd(), stderr.as_fd()].into_iter().find_map(|stream| duplicate_if(stream, file))
}

fn duplicate_if(stream: BorrowedFd<'_>, file: &Metadata) -> Option<io::Result<File>> {
    let duplicate = stream.try_clone_to_owned().map(File::from);
    let metadata = duplicate.as_ref().ok()?.metadata().ok()?;
    (disk::id_of(&metadata) == disk::id_of(file)).then_some(duplicate)
}
