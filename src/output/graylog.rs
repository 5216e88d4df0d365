//! Records to Graylog: GELF over TCP, each message ended by a null byte, with TLS or without. A receiver of GELF acknowledges
//! nothing: see [`super::confirmed_stream`].

use super::{
    CancelToken, DeliveryError, Endpoint, Flushed, OnOpen, Output, OutputError, Source,
    confirmed_stream::ConfirmedStream, gelf::Gelf,
};
use crate::{config, delivery::OutputName, records::RecordBatch};

/// `output.graylog`
#[derive(Debug)]
pub struct GraylogOutput {
    stream: ConfirmedStream,
    gelf: Gelf,
}

impl GraylogOutput {
    /// Connects to nothing yet. Stops waiting for the receiver when `cancel` says so.
    pub fn new(settings: &config::GraylogOutput, cancel: &CancelToken) -> Self {
        let config::GraylogOutput { address, port, confirm, retry_timeout, tls } = settings;
        let endpoint = Endpoint::new(address, *port, tls.as_ref(), cancel);
        Self {
            stream: ConfirmedStream::new(OutputName::Graylog, endpoint, *confirm, *retry_timeout, cancel),
            gelf: Gelf::default(),
        }
    }
}

impl Output for GraylogOutput {
    fn name(&self) -> OutputName {
        OutputName::Graylog
    }

    fn write(
        &mut self,
        source: &Source<'_>,
        records: &RecordBatch,
        _: &mut OnOpen<'_>,
    ) -> Result<(), DeliveryError> {
        for record in records.iter() {
            self.stream.push(record.id(), |to| self.gelf.append(record, source, to))?;
        }
        Ok(())
    }

    fn flush(&mut self, _: &mut OnOpen<'_>) -> Result<Flushed, DeliveryError> {
        self.stream.flush()?;
        Ok(Flushed::default())
    }

    fn check(&mut self) -> Result<&'static str, OutputError> {
        // Graylog reports an empty message as a broken one.
        self.stream.check(&[])?;
        Ok("can be reached")
    }

    fn check_offline(&mut self) -> Result<Option<&'static str>, OutputError> {
        self.stream.read_files()?;
        Ok(None)
    }
}
