//! The format and the destination of log lines.
//!
//! `2026-11-22T10:15:00Z [INFO] message`, to standard error or to `log.path`, errors to both. Under journald, which adds the
//! time itself, `<6>[INFO] message`. Only this program's own lines are written: the lines of libraries can contain
//! tokens, and no environment variable enables them.
//!
//! Text from a server is redacted before it becomes part of a message (`redact::one_line`).

use std::{
    fs::File,
    io::{self, Write},
    os::{fd::AsFd, unix::fs::MetadataExt},
    sync::{Mutex, PoisonError, RwLock},
};

use env_logger::{Builder, Logger, Target};
use log::{Level, LevelFilter, Log, Metadata, Record};

/// Which lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbosity {
    /// Errors only: nothing after a successful pass, so that cron sends no mail.
    Quiet,
    /// Errors, warnings and information.
    Normal,
    /// Also lines for debugging.
    Debug,
}

/// The target of a routine warning, such as "No new blobs found" after a quiet pass. Its line says `[WARN]`, which alert
/// rules match. Under journald it has the priority of information, so that `journalctl --priority warning` shows only what
/// needs attention.
pub const ROUTINE: &str = concat!(env!("CARGO_CRATE_NAME"), "::routine");

/// The logger of the `log` crate. It can be replaced, because its settings are known only after the configuration was read.
struct ReplaceableLogger(RwLock<Option<Logger>>);

static LOGGER: ReplaceableLogger = ReplaceableLogger(RwLock::new(None));

impl Log for ReplaceableLogger {
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

impl ReplaceableLogger {
    fn with<T>(&self, act: impl FnOnce(&Logger) -> T) -> Option<T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(act)
    }
}

/// Writes the following lines to standard error.
pub fn to_stderr(verbosity: Verbosity) {
    start(Box::new(Stderr), Prefix::of_stderr(), None, verbosity);
}

/// Writes the following lines to a file that is open for appending. Errors go to standard error too, so that they are in
/// cron's mail, in the journal and on the terminal.
pub fn to_file(file: File, verbosity: Verbosity) {
    start(Box::new(file), Prefix::Time, Some(Prefix::of_stderr()), verbosity);
}

/// With `errors_to_stderr`, errors are written there too, with this prefix.
fn start(to: Box<dyn Write + Send>, prefix: Prefix, errors_to_stderr: Option<Prefix>, verbosity: Verbosity) {
    let level = match verbosity {
        Verbosity::Quiet => LevelFilter::Error,
        Verbosity::Normal => LevelFilter::Info,
        Verbosity::Debug => LevelFilter::Debug,
    };
    let mut builder = Builder::new();
    builder.filter_module(env!("CARGO_CRATE_NAME"), level);
    builder.target(Target::Pipe(to)).format(move |to, record| {
        if let Some(prefix) = errors_to_stderr.filter(|_| record.level() == Level::Error) {
            let mut line = Vec::new();
            let written = write_line(&mut line, record, prefix).and_then(|()| Stderr.write_all(&line));
            drop(written); // the line is in the file
        }
        write_line(to, record, prefix)
    });
    *LOGGER.0.write().unwrap_or_else(PoisonError::into_inner) = Some(builder.build());
    // Fails if this logger was set before.
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(level);
}

/// What precedes the level in a line.
#[derive(Clone, Copy)]
enum Prefix {
    Time,
    Priority,
}

impl Prefix {
    fn of_stderr() -> Self {
        if stderr_is_journal() { Self::Priority } else { Self::Time }
    }
}

fn write_line(to: &mut impl Write, record: &Record, prefix: Prefix) -> io::Result<()> {
    let (level, message) = (record.level(), record.args());
    match prefix {
        Prefix::Time => writeln!(to, "{:.0} [{level}] {message}", jiff::Timestamp::now()),
        Prefix::Priority => {
            let level_of_priority = if record.target() == ROUTINE { Level::Info } else { level };
            writeln!(to, "<{}>[{level}] {message}", priority(level_of_priority))
        }
    }
}

/// Returns the priority of a line. Source: syslog(3), whose numbers sd-daemon(3) uses.
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// Returns whether standard error is the journal's stream: then `JOURNAL_STREAM` contains its device and inode numbers.
///
/// Source: systemd.exec(5).
fn stderr_is_journal() -> bool {
    let metadata = || File::from(io::stderr().as_fd().try_clone_to_owned().ok()?).metadata().ok();
    match (std::env::var("JOURNAL_STREAM"), metadata()) {
        (Ok(stream), Some(metadata)) => stream == format!("{}:{}", metadata.dev(), metadata.ino()),
        _ => false,
    }
}

/// A function that calls its argument, which writes to standard error, while nothing else is drawn there.
pub type StderrGuard = Box<dyn Fn(&mut dyn FnMut()) + Send>;

static STDERR_GUARD: Mutex<Option<StderrGuard>> = Mutex::new(None);

/// Sets the guard of standard error: a progress bar hides itself while a line is written.
pub fn set_stderr_guard(guard: Option<StderrGuard>) {
    *STDERR_GUARD.lock().unwrap_or_else(PoisonError::into_inner) = guard;
}

/// Standard error, written under its guard.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut written = Ok(0);
        let mut write = || written = io::stderr().write(bytes);
        match &*STDERR_GUARD.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(guard) => guard(&mut write),
            None => write(),
        }
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
