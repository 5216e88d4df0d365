//! Records to Graylog: GELF over TCP, each message ended by a null byte, with TLS or without.
//!
//! **A receiver of GELF acknowledges nothing.** What can be found out is found out before a blob counts as delivered:
//! after each batch, and within a large one, the connection is closed from our side, and the receiver answers that by
//! closing its own side when it has read everything; what comes next takes a new connection. If it breaks the
//! connection off instead, or closes it while we still send, everything that was not confirmed in this way is sent
//! again, so that messages can come twice but are not lost on the way. What the receiver loses *after* it has read it,
//! because it crashes or its disk is full, nobody can tell from here.

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
    /// The Ids of the records that these messages are of.
    unconfirmed_ids: Vec<u128>,
    /// The Ids of the records that were confirmed since everything was: they are all of one batch, which bounds them.
    confirmed_ids: Vec<u128>,
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
            unconfirmed_ids: Vec::new(),
            confirmed_ids: Vec::new(),
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
        self.confirmed_ids.append(&mut self.unconfirmed_ids);
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
            self.unconfirmed_ids.extend(record.id);
            if self.unconfirmed.len() >= GELF_UNCONFIRMED_BYTES {
                self.persist(Self::confirm)?;
            } else if self.unconfirmed.len() - self.sent >= OUTPUT_BUFFER_BYTES {
                self.persist(Self::send)?;
            }
        }
        Ok(())
    }

    fn make_durable(&mut self) -> Result<(), OutputError> {
        if !self.unconfirmed.is_empty() {
            self.persist(Self::confirm)?;
        }
        self.confirmed_ids.clear();
        Ok(())
    }

    fn take_safe_ids(&mut self) -> Vec<u128> {
        std::mem::take(&mut self.confirmed_ids)
    }

    fn try_out(&mut self) -> Result<(), OutputError> {
        self.endpoint.connect().map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_confirmed_is_remembered_until_everything_is() {
        let settings = config::GraylogOutput { address: "127.0.0.1".to_owned(), port: 1, tls: None };
        let mut output = GraylogOutput::new(&settings, &Patience::default());
        output.confirmed_ids = vec![1, 2];
        assert_eq!(output.take_safe_ids(), [1, 2]);
        assert_eq!(output.take_safe_ids(), [0; 0]);
        output.confirmed_ids = vec![3];
        output.make_durable().expect("nothing to send");
        assert_eq!(output.take_safe_ids(), [0; 0]);
    }
}
