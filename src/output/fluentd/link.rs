//! Chunks on their way to a forward receiver: several at a time, each held until it is acknowledged.
//!
//! Acknowledgements may come in any order. When one does not come in time, when one is of no chunk that was sent, or
//! when the connection ends, in the middle of a chunk or elsewhere, everything that is not acknowledged is sent again
//! over a new connection, under the same ids. What had arrived all the same is then there twice: a receiver that loses
//! an acknowledgement cannot be told from one that loses a chunk.

use std::collections::VecDeque;

use super::session::{Ended, Session};
use crate::{
    config,
    limits::{
        FLUENT_BIT_MESSAGE_BYTES_MAX, FORWARD_CHUNKS_IN_FLIGHT_MAX, FORWARD_RESEND_DELAY, FORWARD_RESENDS_MAX,
    },
    output::{Endpoint, OutputError, Patience},
};

/// The way to a receiver.
#[derive(Debug)]
pub struct Link {
    settings: config::FluentdOutput,
    endpoint: Endpoint,
    patience: Patience,
    session: Option<Session>,
    /// Not acknowledged, the oldest first.
    chunks: VecDeque<Chunk>,
    /// So many of them, from the first on, were sent in this session.
    sent: usize,
    /// The records in chunks that were acknowledged since all of them were.
    acknowledged: Vec<u128>,
    /// Sessions that ended in a row without an acknowledgement.
    failed_sessions: u32,
}

/// A message that wants to be acknowledged.
#[derive(Debug)]
pub struct Chunk {
    /// What its acknowledgement will say.
    pub id: String,
    /// The whole message.
    pub message: Vec<u8>,
    /// How long its entries are, before compression.
    pub entry_bytes: usize,
    /// The Ids of the records in it.
    pub record_ids: Vec<u128>,
}

impl Link {
    /// Connects to nobody yet.
    pub fn new(settings: &config::FluentdOutput, patience: &Patience) -> Self {
        Self {
            endpoint: Endpoint::new(&settings.address, settings.port, settings.tls.as_ref(), patience),
            settings: settings.clone(),
            patience: patience.clone(),
            session: None,
            chunks: VecDeque::new(),
            sent: 0,
            acknowledged: Vec::new(),
            failed_sessions: 0,
        }
    }

    /// Sends a chunk. Waits for an acknowledgement only if too many are due.
    pub fn send(&mut self, chunk: Chunk) -> Result<(), OutputError> {
        self.chunks.push_back(chunk);
        self.bring_down_to(FORWARD_CHUNKS_IN_FLIGHT_MAX - 1)
    }

    /// Returns when every chunk is acknowledged; without connecting if all of them are.
    pub fn settle(&mut self) -> Result<(), OutputError> {
        if !self.chunks.is_empty() {
            self.bring_down_to(0)?;
        }
        self.acknowledged.clear();
        Ok(())
    }

    /// The Ids of the records that are acknowledged although others are not, after an error.
    pub fn take_acknowledged(&mut self) -> Vec<u128> {
        std::mem::take(&mut self.acknowledged)
    }

    /// Connects, shakes hands, and ends the connection.
    pub fn try_out(&mut self) -> Result<(), OutputError> {
        let mut session = Session::open(&mut self.endpoint, &self.settings)?;
        session.expect_silence(&self.endpoint)?;
        Ok(())
    }

    /// Sends what is not sent, and waits until so many chunks or fewer are not acknowledged; over as many sessions as
    /// that takes and are allowed.
    fn bring_down_to(&mut self, chunks_max: usize) -> Result<(), OutputError> {
        loop {
            let error = match self.bring_down_in_session(chunks_max) {
                Ok(()) => return Ok(()),
                Err(Ended::Refused(error)) => return Err(error),
                Err(Ended::Lost(error)) => self.with_reason(error),
            };
            self.session = None;
            self.sent = 0;
            if self.failed_sessions == FORWARD_RESENDS_MAX || self.patience.check().is_err() {
                return Err(error);
            }
            self.failed_sessions += 1;
            log::warn!(
                "Output fluentd: sending {} chunk(s) again (try {} of {}): {error}",
                self.chunks.len(),
                self.failed_sessions + 1,
                FORWARD_RESENDS_MAX + 1
            );
            let delay = FORWARD_RESEND_DELAY * (1 << (self.failed_sessions - 1));
            if self.patience.sleep(delay).is_err() {
                return Err(error);
            }
        }
    }

    fn bring_down_in_session(&mut self, chunks_max: usize) -> Result<(), Ended> {
        let ack_timeout = self.settings.ack_timeout;
        let session = match &mut self.session {
            Some(session) => session,
            none => none.insert(Session::open(&mut self.endpoint, &self.settings)?),
        };
        for chunk in self.chunks.range(self.sent..) {
            session.send(&self.endpoint, &chunk.message, ack_timeout)?;
            self.sent += 1;
        }
        while self.chunks.len() > chunks_max {
            let id = session.acknowledged(&self.endpoint, ack_timeout)?;
            let Some(place) = self.chunks.iter().take(self.sent).position(|chunk| chunk.id.as_bytes() == id)
            else {
                return Err(Ended::Lost(self.endpoint.error(
                    "it acknowledged a chunk that it was not sent",
                    "see whether the receiver, or something on the way to it, mixes up connections",
                )));
            };
            if let Some(chunk) = self.chunks.remove(place) {
                self.acknowledged.extend(chunk.record_ids);
            }
            self.sent -= 1;
            self.failed_sessions = 0;
        }
        Ok(())
    }

    /// The error, with what is known to be the reason where the receiver itself does not say it.
    fn with_reason(&self, error: OutputError) -> OutputError {
        match (error, self.chunks.front()) {
            (OutputError::Receiver { receiver, problem, .. }, Some(chunk))
                if chunk.entry_bytes > FLUENT_BIT_MESSAGE_BYTES_MAX =>
            {
                let mend = format!(
                    "it was sent one record of {} bytes; if it is Fluent Bit, raise buffer_max_size of its forward \
                     input beyond that",
                    chunk.entry_bytes
                );
                OutputError::Receiver { receiver, problem, mend }
            }
            (error, _) => error,
        }
    }
}

impl From<Ended> for OutputError {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Lost(error) | Ended::Refused(error) => error,
        }
    }
}
