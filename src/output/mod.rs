//! Where records go.
//!
//! An output is what implements [`Output`]; [`open`] makes those that the configuration enables. To add one: a file
//! beside this one, and a line in [`open`]. Outputs know nothing of the API or of the state.

mod append;
mod cancel;
mod connection;
mod csv;
mod file;
pub mod fluentd;
pub mod gelf;
mod graylog;
mod http;
mod retries;
mod special;
mod stdout;

use std::io;

use crate::{
    config::Config,
    delivery::OutputName,
    disk::{self, Position},
    feed::ContentType,
    json,
    records::{Record, RecordId},
};

pub use cancel::{CancelToken, Cancelled};
pub use connection::{Connection, Endpoint, ReceiverError};
pub use csv::CsvOutput;
pub use file::FileOutput;
pub use fluentd::FluentdOutput;
pub use graylog::GraylogOutput;
pub use http::HttpOutput;
pub use stdout::Stdout;

/// Takes records and says when they are safe. Used by the writer thread alone. After an error it is not used again in
/// this pass.
pub trait Output: Send {
    /// Its name in the configuration, by which is remembered what it has.
    fn name(&self) -> OutputName;

    /// Makes ready to take records of this feed. If that opened a file: where it ends, which is written down before the
    /// first record is.
    fn prepare(&mut self, _from: &Source<'_>) -> Result<Option<Position>, OutputError> {
        Ok(None)
    }

    /// Takes records of one blob. When it returns they may still be lost by a crash.
    fn write(&mut self, from: &Source<'_>, records: &[Record<'_>]) -> Result<(), OutputError>;

    /// Returns when everything written so far is safe, on disk or acknowledged by its receiver, but for what
    /// [`Output::take_refused`] tells.
    fn make_durable(&mut self) -> Result<(), OutputError>;

    /// When everything else is safe: the records that the receiver refuses whatever is done. They are kept as dead letters,
    /// or else not delivered, and neither are their blobs; the output continues with others.
    fn take_refused(&mut self) -> Option<Refused> {
        None
    }

    /// After an error: the keys ([`RecordId::key`]) of those records, written since everything was last safe, that are safe all the same.
    /// They are not delivered here again.
    fn take_safe_ids(&mut self) -> Vec<u128> {
        Vec::new()
    }

    /// Tries out what can be tried without delivering anything: that a file can be written, that a receiver can be
    /// reached and lets us in.
    fn try_out(&mut self) -> Result<(), OutputError>;

    /// What tells a record from others in its files: the same key as is found there after a crash.
    fn key(&self, record: &Record<'_>) -> u128 {
        record.key()
    }

    /// After [`Output::make_durable`]: finds out whether the batch is still where it was written. If this has opened new
    /// files, the batch is to be written again ([`Output::write_again`]), made durable and settled.
    fn settle(&mut self) -> Result<Settled, OutputError> {
        Ok(Settled::Safe(Vec::new()))
    }

    /// Writes a batch again to the files that [`Output::settle`] has opened.
    fn write_again(&mut self) -> Result<(), OutputError> {
        Ok(())
    }
}

/// Where a batch is that was made durable.
#[derive(Debug)]
pub enum Settled {
    /// Where it was written; the files end there.
    Safe(Vec<Position>),
    /// In files that were removed. These were opened instead, and end there; that is to be journaled before the batch is
    /// written again.
    Reopened(Vec<Position>),
    /// Partly removed. The batch cannot be committed; the output accepts further ones.
    Truncated(OutputError),
}

/// What an output may want to know of where records come from.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The tenant's id, a GUID in lower case.
    pub tenant_id: &'a str,
    /// Its name, if it has one.
    pub tenant_name: Option<&'a str>,
    /// The feed.
    pub content_type: ContentType,
    /// The blob's number among those that were written since everything was last safe.
    pub blob: usize,
}

/// Which record it is, for whoever has seen it before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Its blob, as [`Source::blob`] has it.
    pub blob: usize,
    /// Its [`Record::id`].
    pub id: Option<RecordId>,
}

/// Records that a receiver refused, one by one, while it accepted others.
#[derive(Debug)]
pub struct Refused {
    /// Which ones.
    pub records: Vec<RefusedRecord>,
    /// What it answered to one of them, and what the administrator can do.
    pub why: OutputError,
    /// Whether they are kept as dead letters. Otherwise a later pass sends them again.
    pub are_dead_letters: bool,
}

/// A record that its receiver refused in every form.
#[derive(Debug)]
pub struct RefusedRecord {
    /// Which one.
    pub mark: Mark,
    /// Its text, one line of JSON without the line break.
    pub record: Vec<u8>,
    /// What the receiver answered.
    pub reason: String,
}

impl RefusedRecord {
    /// Its `Id` as a text, if it has one.
    pub fn id(&self) -> Option<String> {
        let text = std::str::from_utf8(&self.record).ok()?;
        let mut id = None;
        json::each_field(text, |name, value| {
            if name == "Id" && value.len() > 2 && value.starts_with('"') {
                id = Some(json::text_of(value).into_owned());
            } else if name == "Id" && value.starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
                id = Some(value.to_owned());
            }
        });
        id
    }
}

/// An output did not take records.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// A file or its folder cannot be written.
    #[error("cannot {action} {path}: {source}; {}", disk::hint(.source))]
    Storage {
        /// What was tried: `write`, `open`, …
        action: &'static str,
        /// The file or folder.
        path: String,
        /// What the system says.
        source: io::Error,
    },
    /// A receiver cannot be reached, or does not take records.
    #[error("{receiver}: {problem}; {hint}")]
    Receiver {
        /// Host and port, or a URL; never with a password.
        receiver: String,
        /// What went wrong, in words.
        problem: String,
        /// What a person can do about it.
        hint: String,
    },
    /// Whoever read our standard output has gone.
    #[error("standard output was closed by its reader")]
    Closed,
}

impl OutputError {
    /// Whether it is our own storage that failed, and not a receiver.
    pub fn is_storage(&self) -> bool {
        matches!(self, Self::Storage { .. })
    }
}

/// The enabled outputs. Those that wait for a receiver do so only until `patience` is over, and fail then.
pub fn open(config: &Config, cancel: &CancelToken) -> Vec<Box<dyn Output>> {
    let mut outputs: Vec<Box<dyn Output>> = Vec::new();
    if let Some(file) = &config.output.file {
        if crate::csv::is_csv(&file.path) {
            outputs.push(Box::new(CsvOutput::new(file, cancel)));
        } else {
            outputs.push(Box::new(FileOutput::new(file, cancel)));
        }
    }
    if let Some(fluentd) = &config.output.fluentd {
        outputs.push(Box::new(FluentdOutput::new(fluentd, cancel)));
    }
    if let Some(http) = &config.output.http {
        outputs.push(Box::new(HttpOutput::new(http, &config.network, cancel)));
    }
    if let Some(graylog) = &config.output.graylog {
        outputs.push(Box::new(GraylogOutput::new(graylog, cancel)));
    }
    if config.output.stdout {
        outputs.push(Box::new(Stdout::new(cancel)));
    }
    outputs
}
