//! Records to receivers of syslog: messages of RFC 5424 over TCP, TLS or RELP.
//!
//! - `tcp`: each message is preceded by its length (RFC 6587, section 3.4.1, octet counting). `tls`: the same over TLS (RFC
//!   5425). Nothing is acknowledged: see [`super::confirmed_stream`].
//! - `relp`: each message is acknowledged, with TLS or without: see [`relp`].
//!
//! The JSON of a record has no line breaks and no other control characters, so that receivers that divide messages at those
//! accept it too. Receivers limit the size of messages, and what they do with larger ones is bad: rsyslog acknowledges a
//! message and keeps its beginning (`imrelp`), or divides it into messages without headers (`imtcp`); syslog-ng closes the
//! connection. So larger messages are not sent: see [`message`].

mod message;
mod relp;
mod relp_frame;
mod relp_session;

use super::{
    BlobRecord, CancelToken, DeliveryError, Endpoint, Flushed, OnOpen, Output, OutputError, Rejected,
    RejectedRecord, Source, confirmed_stream::ConfirmedStream,
};
use crate::{
    config::{self, SyslogProtocol, Tls},
    delivery::OutputName,
    records::RecordBatch,
};
use message::{MessageFormat, OversizedMessage};
use relp::RelpSender;

/// Line breaks, which a receiver without TLS takes for empty messages and drops, or for a broken frame. One with TLS closes
/// the connection: they are longer than the header of a TLS record.
const EMPTY_MESSAGES: &[u8] = b"\n\n\n\n\n\n\n\n";

/// The largest message that syslog-ng accepts by default.
///
/// Source: the administration guide of syslog-ng, option `log-msg-size()`: 65536.
const SYSLOG_NG_MESSAGE_BYTES_MAX: usize = 65_536;

/// `output.syslog`
#[derive(Debug)]
pub struct SyslogOutput {
    endpoint_name: String,
    format: MessageFormat,
    bytes_max: usize,
    dead_letters: bool,
    transport: Transport,
    /// The records since the last flush that are too large, and those that the receiver rejects.
    rejected: Vec<RejectedRecord>,
    /// The size of the largest message since the last flush.
    largest: usize,
}

#[derive(Debug)]
enum Transport {
    Stream(Box<ConfirmedStream>),
    Relp(Box<RelpSender>),
}

impl SyslogOutput {
    /// Connects to nothing yet. Stops waiting for the receiver when `cancel` says so.
    pub fn new(settings: &config::SyslogOutput, cancel: &CancelToken) -> Self {
        let default_tls = Tls::default();
        let tls = settings.tls.as_ref();
        let tls = if settings.protocol == SyslogProtocol::Tls { tls.or(Some(&default_tls)) } else { tls };
        let endpoint = Endpoint::new(&settings.address, settings.port, tls, cancel);
        let endpoint_name = endpoint.name();
        let transport = match settings.protocol {
            SyslogProtocol::Relp => Transport::Relp(Box::new(RelpSender::new(
                endpoint,
                settings.ack_timeout,
                settings.retry_timeout,
                cancel,
            ))),
            SyslogProtocol::Tcp | SyslogProtocol::Tls => Transport::Stream(Box::new(ConfirmedStream::new(
                OutputName::Syslog,
                endpoint.with_tls_key("protocol: tls"),
                settings.confirm,
                settings.retry_timeout,
                cancel,
            ))),
        };
        Self {
            endpoint_name,
            format: MessageFormat::new(settings),
            bytes_max: settings.max_message_size,
            dead_letters: settings.dead_letters,
            transport,
            rejected: Vec::new(),
            largest: 0,
        }
    }

    fn send(&mut self, source: &Source<'_>, records: &RecordBatch) -> Result<(), DeliveryError> {
        for record in records.iter() {
            let id = BlobRecord { blob: source.blob, id: record.id() };
            let messages = match self.format.messages(record, source) {
                Ok(messages) => messages,
                Err(OversizedMessage { bytes }) => {
                    let reason =
                        format!("its message has {bytes} bytes, and maxMessageSize is {}", self.bytes_max);
                    self.rejected.push(RejectedRecord { record: id, line: record.line().to_owned(), reason });
                    continue;
                }
            };
            self.largest = messages.iter().map(String::len).fold(self.largest, usize::max);
            match &mut self.transport {
                Transport::Relp(sender) => self.rejected.extend(sender.push(id, record.line(), messages)?),
                Transport::Stream(stream) => stream.push(id.id, |to| {
                    for message in &messages {
                        to.extend_from_slice(format!("{} ", message.len()).as_bytes());
                        to.extend_from_slice(message.as_bytes());
                    }
                })?,
            }
        }
        Ok(())
    }

    fn send_all(&mut self) -> Result<(), DeliveryError> {
        match &mut self.transport {
            Transport::Relp(sender) => self.rejected.extend(sender.flush()?),
            Transport::Stream(stream) => stream.flush()?,
        }
        Ok(())
    }

    /// Forgets what is not accepted, which a later pass sends again, and adds the probable reason to an error of a receiver
    /// that gives none.
    fn failed(&mut self, mut failed: DeliveryError) -> DeliveryError {
        self.rejected.clear();
        let largest = std::mem::take(&mut self.largest);
        if let OutputError::Receiver { problem, hint, .. } = &mut failed.error
            && problem.contains("closed the connection")
            && largest > SYSLOG_NG_MESSAGE_BYTES_MAX
        {
            *hint = format!(
                "it was sent a message of {largest} bytes: lower maxMessageSize, or raise the limit of the receiver \
                 (log-msg-size of syslog-ng)"
            );
        }
        failed
    }

    /// Returns the records that no later attempt delivers.
    fn drain_rejected(&mut self) -> Option<Rejected> {
        let records = std::mem::take(&mut self.rejected);
        let last = records.last()?;
        let reason = OutputError::Receiver {
            receiver: self.endpoint_name.clone(),
            problem: last.reason.clone(),
            hint: "check maxMessageSize, and the receiver's log".to_owned(),
        };
        Some(Rejected { records, reason, are_dead_letters: self.dead_letters })
    }
}

impl Output for SyslogOutput {
    fn name(&self) -> OutputName {
        OutputName::Syslog
    }

    fn write(
        &mut self,
        source: &Source<'_>,
        records: &RecordBatch,
        _: &mut OnOpen<'_>,
    ) -> Result<(), DeliveryError> {
        self.send(source, records).map_err(|failed| self.failed(failed))
    }

    fn flush(&mut self, _: &mut OnOpen<'_>) -> Result<Flushed, DeliveryError> {
        self.send_all().map_err(|failed| self.failed(failed))?;
        self.largest = 0;
        Ok(Flushed { rejected: self.drain_rejected(), positions: Vec::new() })
    }

    fn check(&mut self) -> Result<&'static str, OutputError> {
        match &mut self.transport {
            Transport::Relp(sender) => sender.check()?,
            Transport::Stream(stream) => stream.check(EMPTY_MESSAGES)?,
        }
        Ok("can be reached")
    }

    fn check_offline(&mut self) -> Result<Option<&'static str>, OutputError> {
        match &mut self.transport {
            Transport::Relp(sender) => sender.read_files()?,
            Transport::Stream(stream) => stream.read_files()?,
        }
        Ok(None)
    }
}
