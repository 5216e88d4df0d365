//! Records to Graylog: GELF over TCP, each message ended by a null byte, with TLS or without.
//!
//! **A receiver of GELF acknowledges nothing.** What can be found out is found out before a blob counts as delivered:
//! after each batch, and within a large one, the connection is closed from our side, and the receiver answers that by
//! closing its own side when it has read everything; what comes next takes a new connection. If it breaks the
//! connection off instead, or closes it while we still send, everything that was not confirmed in this way is sent
//! again, so that messages can come twice but are not lost on the way. What the receiver loses *after* it has read it,
//! because it crashes or its disk is full, cannot be known here.
//!
//! A load balancer in front of the receiver closes on its own account: then the closing says only that the load
//! balancer has read everything. With `confirm: false` the connection stays open and is not closed to be confirmed.

use std::io;

use super::{
    CancelToken, Connection, DeliveryError, Endpoint, Flushed, OnOpen, Output, OutputError, ReceiverError,
    Source, connection::is_closed, gelf::Gelf, retries::Retries,
};
use crate::{
    config,
    delivery::OutputName,
    limits::{GELF_SILENCE_MAX, GELF_UNCONFIRMED_BYTES, OUTPUT_BUFFER_BYTES},
    records::{RecordBatch, RecordId},
};

/// `output.graylog`
#[derive(Debug)]
pub struct GraylogOutput {
    endpoint: Endpoint,
    cancel: CancelToken,
    retries: Retries,
    /// Whether the receiver's closing is waited for.
    confirm: bool,
    connection: Option<Connection>,
    /// Whether it was the receiver that ended the last connection. If it is given up after that, it is asked whether it
    /// expects TLS; not before, because a receiver that does not would log the question as a broken message.
    was_closed: bool,
    gelf: Gelf,
    /// Whole messages of which it is not certain that the receiver has read them.
    unconfirmed: Vec<u8>,
    /// How many bytes of these were sent on this connection.
    sent: usize,
    /// The Ids of the records that these messages are of.
    unconfirmed_ids: Vec<u128>,
    /// The Ids of the records that were confirmed since everything was: they are all of one batch, which bounds them.
    confirmed_ids: Vec<u128>,
}

impl GraylogOutput {
    /// Connects to nobody yet. Nobody waits for this receiver when `patience` is over.
    pub fn new(settings: &config::GraylogOutput, cancel: &CancelToken) -> Self {
        let config::GraylogOutput { address, port, confirm, retry_timeout, tls } = settings;
        Self {
            endpoint: Endpoint::new(address, *port, tls.as_ref(), cancel),
            cancel: cancel.clone(),
            retries: Retries::new(*retry_timeout),
            confirm: *confirm,
            connection: None,
            was_closed: false,
            gelf: Gelf::default(),
            unconfirmed: Vec::new(),
            sent: 0,
            unconfirmed_ids: Vec::new(),
            confirmed_ids: Vec::new(),
        }
    }

    /// Does this with everything unconfirmed; again, on a new connection, as long as `retryTimeout` allows.
    fn retry(&mut self, act: fn(&mut Self) -> Result<(), ReceiverError>) -> Result<(), DeliveryError> {
        self.try_until_timeout(act).map_err(|error| DeliveryError {
            accepted_ids: std::mem::take(&mut self.confirmed_ids),
            ..error.into()
        })
    }

    fn try_until_timeout(
        &mut self,
        act: fn(&mut Self) -> Result<(), ReceiverError>,
    ) -> Result<(), OutputError> {
        let mut logged = String::new();
        loop {
            let error = match act(self) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            self.connection = None;
            self.sent = 0;
            let error = match error {
                ReceiverError::Transient(error) => error,
                ReceiverError::Permanent(error) => return Err(error),
            };
            let Some(delay) = self.retries.next_delay() else {
                let missing_tls = if self.was_closed { self.endpoint.missing_tls() } else { None };
                return Err(missing_tls.map_or(error, Into::into));
            };
            let text = error.to_string();
            if text != logged {
                log::warn!("Output graylog sends again what was not confirmed: {text}");
                logged = text;
            }
            if self.cancel.sleep(delay).is_err() {
                return Err(error);
            }
        }
    }

    /// Sends what was not sent yet.
    fn send(&mut self) -> Result<(), ReceiverError> {
        if self.sent == 0 {
            // A receiver may close a connection that is idle.
            self.connection.take_if(|connection| connection.ensure_open().is_err());
        }
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => self.connection.insert(self.endpoint.connect()?),
        };
        let sent = connection
            .ensure_open()
            .and_then(|()| connection.send(&self.unconfirmed[self.sent..], GELF_SILENCE_MAX));
        sent.map_err(|error| self.failure(&error))?;
        self.sent = self.unconfirmed.len();
        Ok(())
    }

    /// Sends what was not sent yet, and returns when the receiver has read everything; with `confirm: false`, when this
    /// machine has sent it.
    fn confirm(&mut self) -> Result<(), ReceiverError> {
        self.send()?;
        let confirmed = if self.confirm {
            self.connection.take().map_or(Ok(()), |connection| connection.close(GELF_SILENCE_MAX))
        } else {
            self.connection.as_mut().map_or(Ok(()), Connection::ensure_open)
        };
        confirmed.map_err(|error| self.failure(&error))?;
        self.unconfirmed.clear();
        self.sent = 0;
        self.confirmed_ids.append(&mut self.unconfirmed_ids);
        self.retries.reset();
        Ok(())
    }

    /// What an error on the connection means.
    fn failure(&mut self, error: &io::Error) -> ReceiverError {
        self.was_closed = is_closed(error);
        self.endpoint.failure(error)
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
            self.gelf.append(record, source, &mut self.unconfirmed);
            self.unconfirmed_ids.extend(record.id().map(RecordId::key));
            if self.unconfirmed.len() >= GELF_UNCONFIRMED_BYTES {
                self.retry(Self::confirm)?;
            } else if self.unconfirmed.len() - self.sent >= OUTPUT_BUFFER_BYTES {
                self.retry(Self::send)?;
            }
        }
        Ok(())
    }

    fn flush(&mut self, _: &mut OnOpen<'_>) -> Result<Flushed, DeliveryError> {
        if !self.unconfirmed.is_empty() {
            self.retry(Self::confirm)?;
        }
        self.confirmed_ids.clear();
        Ok(Flushed::default())
    }

    fn check(&mut self) -> Result<&'static str, OutputError> {
        self.endpoint.connect().map(drop)?;
        // A receiver that expects TLS accepts a connection without it. One that does not may log the question.
        self.endpoint.missing_tls().map_or(Ok("can be reached"), |missing_tls| Err(missing_tls.into()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn confirmed_records_are_reported_by_an_error_and_forgotten_after_a_flush() {
        let settings = config::GraylogOutput {
            address: "127.0.0.1".to_owned(),
            port: 1,
            confirm: true,
            retry_timeout: Duration::ZERO,
            tls: None,
        };
        let mut output = GraylogOutput::new(&settings, &CancelToken::default());
        output.confirmed_ids = vec![1, 2];
        output.flush(&mut |_| Ok(())).expect("nothing to send");
        assert_eq!(output.confirmed_ids, [0; 0]);
        output.confirmed_ids = vec![3];
        output.unconfirmed = vec![0];
        let failed = output.flush(&mut |_| Ok(())).expect_err("no receiver");
        assert_eq!((failed.accepted_ids, failed.is_usable), (vec![3], false));
    }
}
