//! Records to Graylog: GELF over TCP, each message ended by a null byte, with TLS or without.
//!
//! **A receiver of GELF acknowledges nothing.** What can be found out is found out before a blob counts as delivered:
//! after each batch the connection is closed from our side, and the receiver answers that by closing its own side when
//! it has read everything; the next batch takes a new connection. If it breaks the connection off instead, or closes it
//! while we still send, everything that was not confirmed in this way is sent again, so that messages can come twice but
//! are not lost on the way. What the receiver loses *after* it has read it, because it crashes or its disk is full,
//! nobody can tell from here.

use super::{Connection, Endpoint, Output, OutputError, Patience, Source, gelf::Gelf};
use crate::{
    config,
    delivery::OutputName,
    limits::{GELF_PAUSE, GELF_SILENCE_MAX, GELF_TRIES, GELF_UNCONFIRMED_BYTES, OUTPUT_BUFFER_BYTES},
    records::Record,
};

/// `output.graylog`
#[derive(Debug)]
pub struct GraylogOutput {
    endpoint: Endpoint,
    patience: Patience,
    connection: Option<Connection>,
    gelf: Gelf,
    /// Whole messages of which it is not certain that the receiver has read them.
    unconfirmed: Vec<u8>,
    /// How many bytes of these were sent on this connection.
    sent: usize,
}

impl GraylogOutput {
    /// Connects to nobody yet. Nobody waits for this receiver when `patience` is over.
    pub fn new(settings: &config::GraylogOutput, patience: &Patience) -> Self {
        let config::GraylogOutput { address, port, tls } = settings;
        Self {
            endpoint: Endpoint::new(address, *port, tls.as_ref(), patience),
            patience: patience.clone(),
            connection: None,
            gelf: Gelf::default(),
            unconfirmed: Vec::new(),
            sent: 0,
        }
    }

    /// Does this with everything unconfirmed; anew, on a new connection, if that fails.
    fn persist(&mut self, act: fn(&mut Self) -> Result<(), OutputError>) -> Result<(), OutputError> {
        for attempt in 1.. {
            let Err(error) = act(self) else { break };
            self.connection = None;
            self.sent = 0;
            if attempt >= GELF_TRIES || self.patience.sleep(GELF_PAUSE).is_err() {
                return Err(error);
            }
            log::warn!("Output graylog sends again what was not confirmed: {error}");
        }
        Ok(())
    }

    /// Sends what was not sent yet.
    fn send(&mut self) -> Result<(), OutputError> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => self.connection.insert(self.endpoint.connect()?),
        };
        let sent = connection
            .ensure_open()
            .and_then(|()| connection.send(&self.unconfirmed[self.sent..], GELF_SILENCE_MAX));
        sent.map_err(|error| self.endpoint.failure(&error))?;
        self.sent = self.unconfirmed.len();
        Ok(())
    }

    /// Sends what was not sent yet, and returns when the receiver has read everything.
    fn confirm(&mut self) -> Result<(), OutputError> {
        self.send()?;
        let closed = self.connection.take().map_or(Ok(()), |connection| connection.close(GELF_SILENCE_MAX));
        closed.map_err(|error| self.endpoint.failure(&error))?;
        self.unconfirmed.clear();
        self.sent = 0;
        Ok(())
    }
}

impl Output for GraylogOutput {
    fn name(&self) -> OutputName {
        OutputName::Graylog
    }

    fn write(&mut self, from: &Source<'_>, records: &[Record<'_>]) -> Result<(), OutputError> {
        let mut line = Vec::new();
        for record in records {
            line.clear();
            record.append_line(&mut line);
            self.gelf.append(&String::from_utf8_lossy(&line), from, &mut self.unconfirmed);
            if self.unconfirmed.len() >= GELF_UNCONFIRMED_BYTES {
                self.persist(Self::confirm)?;
            } else if self.unconfirmed.len() - self.sent >= OUTPUT_BUFFER_BYTES {
                self.persist(Self::send)?;
            }
        }
        Ok(())
    }

    fn make_durable(&mut self) -> Result<(), OutputError> {
        if self.unconfirmed.is_empty() { Ok(()) } else { self.persist(Self::confirm) }
    }

    fn try_out(&mut self) -> Result<(), OutputError> {
        self.endpoint.connect().map(drop)
    }
}
