//! Where records go.
//!
//! An output implements [`Output`]; [`open`] creates those that the configuration enables. `CONTRIBUTING.md` says how to
//! add one. Outputs use neither the API nor the state.

mod append;
mod cancel;
mod confirmed_stream;
mod connection;
mod csv;
mod file;
pub mod fluentd;
pub mod gelf;
mod graylog;
mod http;
#[cfg(feature = "kafka")]
mod kafka;
mod message_connection;
mod recovery;
mod special;
mod stdout;
mod syslog;

use std::io::Write;

use flate2::{Compression, write::GzEncoder};

use crate::{
    config::Config,
    delivery::{OutputName, OutputSet},
    disk::{FileError, Position},
    error::Explain,
    feed::ContentType,
    json,
    records::{RecordBatch, RecordId},
};

pub use cancel::{CancelToken, Cancelled};
pub use connection::{Connection, Endpoint, ReceiverError};
pub use file::FileOutput;
pub use fluentd::FluentdOutput;
pub use graylog::GraylogOutput;
pub use http::HttpOutput;
#[cfg(feature = "kafka")]
pub use kafka::KafkaOutput;
pub use recovery::recover;
pub use stdout::Stdout;
pub use syslog::SyslogOutput;

/// Splits a text after at most this number of bytes, between two characters.
fn split_at_most(text: &str, bytes_max: usize) -> (&str, &str) {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.split_at(end)
}

/// Returns these parts as one gzip stream. Compresses as fast as possible: audit records shrink to a quarter.
fn compressed(parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut encoder = GzEncoder::new(Vec::with_capacity(length / 8), Compression::fast());
    let written = parts.iter().try_for_each(|part| encoder.write_all(part));
    written.and_then(|()| encoder.finish()).expect("writing to memory does not fail")
}

/// A destination of records. Only the writer thread uses it.
pub trait Output: Send {
    /// Returns its name in the configuration, under which the state remembers what it has.
    fn name(&self) -> OutputName;

    /// Accepts records of one blob. A crash can lose them until [`Output::flush`] has returned. An output that opens a file
    /// calls `on_open` before it writes the first record to it.
    ///
    /// # Errors
    ///
    /// The output failed. The writer does not use it again in this pass.
    fn write(
        &mut self,
        source: &Source<'_>,
        records: &RecordBatch,
        on_open: &mut OnOpen<'_>,
    ) -> Result<(), DeliveryError>;

    /// Returns when all records since the last flush are safe: on disk or acknowledged by the receiver, apart from those
    /// that the receiver rejects one by one.
    ///
    /// # Errors
    ///
    /// Some of these records are not safe. The writer uses the output again only if [`DeliveryError::is_usable`].
    fn flush(&mut self, on_open: &mut OnOpen<'_>) -> Result<Flushed, DeliveryError>;

    /// Checks what can be checked without delivering anything: that a file can be written, that a receiver can be reached
    /// and accepts our credentials. Returns the result in a few words, such as `can be written`.
    ///
    /// # Errors
    ///
    /// A pass could not deliver to the output.
    fn check(&mut self) -> Result<&'static str, OutputError>;

    /// Checks without the network what [`Output::check`] checks: files to write, certificates and keys. Returns the result in
    /// a few words, or `None` if it depends on a receiver.
    ///
    /// # Errors
    ///
    /// A pass could not deliver to the output.
    fn check_offline(&mut self) -> Result<Option<&'static str>, OutputError>;

    /// Returns what identifies the record in this line in the files of the output, as [`recover`] finds it there after a
    /// crash. `None` for an output without files.
    fn key_in_files(&self, _line: &str) -> Option<u128> {
        None
    }
}

/// Writes to the journal where a file ends that an output is about to write to.
pub type OnOpen<'a> = dyn FnMut(Position) -> Result<(), OutputError> + 'a;

/// The result of a flush.
#[derive(Debug, Default)]
pub struct Flushed {
    /// The records that the receiver rejects however often they are sent.
    pub rejected: Option<Rejected>,
    /// Where the files of the output end.
    pub positions: Vec<Position>,
}

/// An error returned when an output does not have all records that were written to it since the last flush.
#[derive(Debug)]
pub struct DeliveryError {
    /// What failed.
    pub error: OutputError,
    /// The identities ([`RecordId::key`]) of the records that are safe nevertheless. They are not delivered here again.
    pub accepted_ids: Vec<u128>,
    /// Records of which the receiver has some and rejected the others, without saying which. The writer keeps them, so that
    /// none is lost and none is delivered here again.
    pub undecided: Option<Box<Rejected>>,
    /// Whether the output accepts further records in this pass.
    pub is_usable: bool,
}

impl From<OutputError> for DeliveryError {
    fn from(error: OutputError) -> Self {
        Self { error, accepted_ids: Vec::new(), undecided: None, is_usable: false }
    }
}

/// Where records come from.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The id of the tenant, a GUID in lower case.
    pub tenant_id: &'a str,
    /// The name of the tenant, if it has one.
    pub tenant_name: Option<&'a str>,
    /// The feed.
    pub content_type: ContentType,
    /// The id of the blob.
    pub content_id: &'a str,
    /// The number of the blob among those that were written since the last flush.
    pub blob: usize,
}

/// A record as the writer knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobRecord {
    /// Its blob, as in [`Source::blob`].
    pub blob: usize,
    /// Its identity, if it has one.
    pub id: Option<RecordId>,
}

/// Records that a receiver rejected one by one while it accepted others.
#[derive(Debug)]
pub struct Rejected {
    /// The records.
    pub records: Vec<RejectedRecord>,
    /// The reason for one of them, and what the administrator can do.
    pub reason: OutputError,
    /// Whether they are kept as dead letters. Otherwise a later pass sends them again.
    pub are_dead_letters: bool,
}

/// A record that its receiver rejected in every form.
#[derive(Debug)]
pub struct RejectedRecord {
    /// Which one.
    pub record: BlobRecord,
    /// Its line, without the line break.
    pub line: String,
    /// The answer of the receiver.
    pub reason: String,
}

impl RejectedRecord {
    /// Returns its `Id` as a text, if it has one.
    pub fn id(&self) -> Option<String> {
        let mut id = None;
        json::each_field(&self.line, |name, value| {
            let is_text = value.len() > 2 && value.starts_with('"');
            if name == "Id" && (is_text || value.starts_with(|c: char| c == '-' || c.is_ascii_digit())) {
                id = Some(json::text_of(value).into_owned());
            }
        });
        id
    }
}

/// An error returned when an output does not accept records.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// A file or its folder cannot be written.
    #[error(transparent)]
    Storage(#[from] FileError),
    /// A receiver cannot be reached, or does not accept records.
    #[error("{receiver}: {problem}")]
    Receiver {
        /// Host and port, or a URL; never with a password.
        receiver: String,
        /// What went wrong, in words.
        problem: String,
        /// What the administrator can do about it.
        hint: String,
    },
    /// The reader of standard output has closed it.
    #[error("standard output was closed by its reader")]
    Closed,
    /// The file that was opened cannot be written to the journal. The writer reports the reason.
    #[error("the journal cannot be written")]
    Journal,
}

impl OutputError {
    /// Returns whether local storage failed, and not a receiver.
    pub fn is_storage(&self) -> bool {
        matches!(self, Self::Storage(_))
    }
}

impl Explain for OutputError {
    fn hint(&self) -> &str {
        match self {
            Self::Storage(error) => error.hint(),
            Self::Receiver { hint, .. } => hint,
            Self::Closed | Self::Journal => "",
        }
    }
}

/// Returns the names of the enabled outputs.
pub fn names(config: &Config) -> OutputSet {
    open(config, &CancelToken::default()).iter().map(|output| output.name()).collect()
}

/// Returns the enabled outputs. They stop waiting for a receiver, and fail, when `cancel` says so.
pub fn open(config: &Config, cancel: &CancelToken) -> Vec<Box<dyn Output>> {
    let mut outputs: Vec<Box<dyn Output>> = Vec::new();
    if let Some(file) = &config.output.file {
        outputs.push(Box::new(FileOutput::new(file, cancel)));
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
    if let Some(syslog) = &config.output.syslog {
        outputs.push(Box::new(SyslogOutput::new(syslog, cancel)));
    }
    #[cfg(feature = "kafka")]
    if let Some(kafka) = &config.output.kafka {
        outputs.push(Box::new(KafkaOutput::new(kafka, cancel)));
    }
    if config.output.stdout {
        outputs.push(Box::new(Stdout::new(cancel)));
    }
    outputs
}
