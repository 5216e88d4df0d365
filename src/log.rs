//! How a line of the log looks, and where it goes.
//!
//! `2026-11-22T10:15:00Z [INFO] message` to standard error or to `log.path`, errors to both. Under journald, which
//! knows the time and the priority itself, `<6>[INFO] message`. Only this program's own lines are written: what
//! libraries log of requests is nobody's business, and the environment cannot turn it on.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::Path,
    sync::{PoisonError, RwLock},
};

use env_logger::{Builder, Logger, Target};
use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::{disk, redact, report::progress};

/// What is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Errors only: nothing if all is well, so that cron sends no mail.
    Quiet,
    /// Also what happens.
    Usual,
    /// Also what helps to find a fault.
    Debug,
}

/// The target of a warning that is routine, such as "No new blobs found" on a quiet pass. Its line says `[WARN]`, which
/// alert rules match, but under journald it has the priority of information, so that `journalctl --priority warning`
/// shows only what needs attention.
pub const ROUTINE: &str = concat!(env!("CARGO_CRATE_NAME"), "::routine");

/// The logger that the `log` crate speaks to. Its settings can be changed, because they are known only after the
/// configuration was read.
struct Switchable(RwLock<Option<Logger>>);

static LOGGER: Switchable = Switchable(RwLock::new(None));

impl Log for Switchable {
    fn enabled(&self, metadata: &Metadata) -> bool {
        self.with(|logger| logger.enabled(metadata)).unwrap_or(false)
    }

    fn log(&self, record: &Record) {
        self.with(|logger| logger.log(record));
    }

    fn flush(&self) {
        self.with(Log::flush);
    }
}

impl Switchable {
    fn with<T>(&self, act: impl FnOnce(&Logger) -> T) -> Option<T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(act)
    }
}

/// Logs from now on with this detail to standard error.
pub fn to_stderr(detail: Detail) {
    start(Box::new(Stderr), Frame::of_stderr(), None, detail);
}

/// Logs from now on with this detail to a file, which is appended to. Errors go to standard error too, so that cron
/// mails them, the journal has them, and whoever calls the program by hand sees them.
///
/// Error: the file cannot be opened; then the log stays as it was.
pub fn to_file(path: &Path, detail: Detail) -> io::Result<()> {
    let is_new = !path.exists();
    let file = OpenOptions::new().append(true).create(true).mode(0o640).open(path)?;
    if is_new {
        disk::give_to_owner(&file, path)?;
    }
    start(Box::new(file), Frame::Time, Some(Frame::of_stderr()), detail);
    Ok(())
}

/// Finds out whether [`to_file`] could work, and changes nothing. Unlike an output's, the log's folder is not made.
pub fn try_file(path: &Path) -> io::Result<()> {
    disk::folder_of(path).metadata()?;
    disk::check_append(path)
}

/// `errors_to_stderr`: whether errors are written there too, and how.
fn start(to: Box<dyn Write + Send>, frame: Frame, errors_to_stderr: Option<Frame>, detail: Detail) {
    let level = match detail {
        Detail::Quiet => LevelFilter::Error,
        Detail::Usual => LevelFilter::Info,
        Detail::Debug => LevelFilter::Debug,
    };
    let mut builder = Builder::new();
    builder.filter_module(env!("CARGO_CRATE_NAME"), level);
    builder.target(Target::Pipe(to)).format(move |to, record| {
        if let Some(frame) = errors_to_stderr.filter(|_| record.level() == Level::Error) {
            let mut line = Vec::new();
            let written = write_line(&mut line, record, frame).and_then(|()| Stderr.write_all(&line));
            drop(written); // the file has it
        }
        write_line(to, record, frame)
    });
    *LOGGER.0.write().unwrap_or_else(PoisonError::into_inner) = Some(builder.build());
    // Fails when it was set before, which is as well.
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(level);
}

/// What stands before the level.
#[derive(Clone, Copy)]
enum Frame {
    Time,
    Priority,
}

impl Frame {
    fn of_stderr() -> Self {
        if stderr_is_journal() { Self::Priority } else { Self::Time }
    }
}

fn write_line(to: &mut impl Write, record: &Record, frame: Frame) -> io::Result<()> {
    let (level, message) = (record.level(), record.args());
    match frame {
        Frame::Time => writeln!(to, "{:.0} [{level}] {message}", jiff::Timestamp::now()),
        Frame::Priority => {
            let shown_as = if record.target() == ROUTINE { Level::Info } else { level };
            writeln!(to, "<{}>[{level}] {message}", priority(shown_as))
        }
    }
}

/// Source: syslog(3), as sd-daemon(3) takes it over.
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// Whether standard error is the journal's stream: then `JOURNAL_STREAM` names its device and inode.
///
/// Source: systemd.exec(5).
fn stderr_is_journal() -> bool {
    let metadata = || File::from(io::stderr().as_fd().try_clone_to_owned().ok()?).metadata().ok();
    match (std::env::var("JOURNAL_STREAM"), metadata()) {
        (Ok(stream), Some(metadata)) => stream == format!("{}:{}", metadata.dev(), metadata.ino()),
        _ => false,
    }
}

/// Standard error, above the progress bar.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        progress::above(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// A server's text, made fit for one line of the log: its first line, without secrets, control and format characters,
/// and cut at [`MESSAGE_CHARACTERS_MAX`](crate::limits::MESSAGE_CHARACTERS_MAX) characters.
pub fn one_line(text: &str) -> String {
    redact::line(text)
}
