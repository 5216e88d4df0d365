//! The format and the destination of log lines.
//!
//! `2026-11-22T10:15:00Z [INFO] message`, to standard error or to `log.path`, errors to both. Under journald, which adds the
//! time itself, `<6>[INFO] message`. With `log.format: json` each line is an object instead, with the fields `time`, `level`,
//! `message` and, where they apply, `tenant`, `feed` and `blob`; journald still gets the priority before it. Only this
//! program's own lines are written: the lines of libraries can contain tokens, and no environment variable enables them.
//!
//! Text from a server is redacted before it becomes part of a message (`redact::one_line`).

use std::{
    fs::File,
    io::{self, Write},
    os::{fd::AsFd, unix::fs::MetadataExt},
    panic,
    sync::{Mutex, PoisonError, RwLock},
};

use env_logger::{Builder, Logger, Target};
use log::{
    Level, LevelFilter, Log, Metadata, Record,
    kv::{self, Key, Value, VisitSource},
};
use serde::Serialize;

/// Maximum bytes of a message in a JSON line. The rest is cut off. Container engines split longer lines: Docker at 16 KiB.
const MESSAGE_BYTES_MAX: usize = 8 * 1024;

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

/// How a line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Time, level and message, for readers and for alert rules.
    #[default]
    Text,
    /// A JSON object.
    Json,
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
pub fn to_stderr(verbosity: Verbosity, format: Format) {
    start(Box::new(Stderr), Layout { format, prefix: Prefix::of_stderr() }, None, verbosity);
}

/// Writes the following lines to a file that is open for appending. Errors go to standard error too, so that they are in
/// cron's mail, in the journal and on the terminal.
pub fn to_file(file: File, verbosity: Verbosity, format: Format) {
    let errors = Layout { format, prefix: Prefix::of_stderr() };
    start(Box::new(file), Layout { format, prefix: Prefix::Time }, Some(errors), verbosity);
}

/// Starts the log. With `errors_to_stderr`, errors are written there too, in this layout.
fn start(to: Box<dyn Write + Send>, layout: Layout, errors_to_stderr: Option<Layout>, verbosity: Verbosity) {
    let level = match verbosity {
        Verbosity::Quiet => LevelFilter::Error,
        Verbosity::Normal => LevelFilter::Info,
        Verbosity::Debug => LevelFilter::Debug,
    };
    let mut builder = Builder::new();
    builder.filter_module(env!("CARGO_CRATE_NAME"), level);
    builder.target(Target::Pipe(to)).format(move |to, record| {
        if let Some(layout) = errors_to_stderr.filter(|_| record.level() == Level::Error) {
            let mut line = Vec::new();
            let written = layout.write_line(&mut line, record).and_then(|()| Stderr.write_all(&line));
            drop(written); // the line is in the file
        }
        layout.write_line(to, record)
    });
    *LOGGER.0.write().unwrap_or_else(PoisonError::into_inner) = Some(builder.build());
    // Fails if this logger was set before.
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(level);
    if layout.format == Format::Json {
        // A panic is a line like any other, so that a reader of JSON can parse it.
        panic::set_hook(Box::new(|panic| log::error!("The program ends because of a bug: {panic}")));
    }
}

/// How a line is written to one destination.
#[derive(Clone, Copy)]
struct Layout {
    format: Format,
    prefix: Prefix,
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

impl Layout {
    fn write_line(self, to: &mut impl Write, record: &Record) -> io::Result<()> {
        let (level, message) = (record.level(), record.args());
        match self.prefix {
            Prefix::Priority => {
                let level_of_priority = if record.target() == ROUTINE { Level::Info } else { level };
                write!(to, "<{}>", priority(level_of_priority))?;
            }
            Prefix::Time if self.format == Format::Text => write!(to, "{:.0} ", jiff::Timestamp::now())?,
            Prefix::Time => {}
        }
        match self.format {
            Format::Text => writeln!(to, "[{level}] {message}"),
            Format::Json => {
                serde_json::to_writer(&mut *to, &JsonLine::of(record))?;
                to.write_all(b"\n")
            }
        }
    }
}

/// A line with `log.format: json`.
#[derive(Serialize)]
struct JsonLine {
    /// To the millisecond, in UTC.
    time: String,
    level: &'static str,
    message: String,
    #[serde(flatten)]
    about: About,
}

/// What a line is about.
#[derive(Default, Serialize)]
struct About {
    /// The tenant's name, else its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    /// The API's name of the content type.
    #[serde(skip_serializing_if = "Option::is_none")]
    feed: Option<String>,
    /// The blob's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    blob: Option<String>,
}

impl JsonLine {
    fn of(record: &Record) -> Self {
        let mut about = About::default();
        // Reading the fields of a line cannot fail: `visit_pair` does not.
        let _ = record.key_values().visit(&mut about);
        Self {
            time: format!("{:.3}", jiff::Timestamp::now()),
            level: record.level().as_str(),
            message: shortened(record.args().to_string()),
            about,
        }
    }
}

impl<'kvs> VisitSource<'kvs> for About {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        let field = match key.as_str() {
            "tenant" => &mut self.tenant,
            "feed" => &mut self.feed,
            "blob" => &mut self.blob,
            _ => return Ok(()),
        };
        *field = value.to_borrowed_str().map(str::to_owned); // `None` is not a text
        Ok(())
    }
}

/// Cuts a message off at [`MESSAGE_BYTES_MAX`].
fn shortened(mut message: String) -> String {
    if message.len() > MESSAGE_BYTES_MAX {
        let is_boundary = |length: &usize| message.is_char_boundary(*length);
        let length = (0..=MESSAGE_BYTES_MAX).rev().find(is_boundary).unwrap_or_default();
        message.truncate(length);
        message.push('…');
    }
    message
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
