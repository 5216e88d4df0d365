//! What librdkafka reports: deliveries, errors and log lines. It does so only while the producer is polled.

use std::{
    mem,
    sync::{Mutex, PoisonError},
};

use rdkafka::{
    ClientContext,
    config::RDKafkaLogLevel,
    error::KafkaError,
    message::{Message, OwnedMessage},
    producer::{DeliveryResult, ProducerContext},
    types::RDKafkaErrorCode,
};

use super::Contents;
use crate::redact::one_line;

/// The reports since they were taken the last time.
#[derive(Default)]
pub struct Reports(Mutex<Reported>);

/// Reports of librdkafka.
#[derive(Default)]
pub struct Reported {
    /// The numbers of the messages that the brokers have.
    pub delivered: Vec<usize>,
    /// The other messages of which the fate is known.
    pub failed: Vec<FailedMessage>,
    /// The last error with a broker, and its text.
    pub error: Option<(RDKafkaErrorCode, String)>,
    /// Whether all brokers were tried and none could be used.
    pub all_are_down: bool,
}

/// A message that librdkafka does not try again.
pub struct FailedMessage {
    /// The number that it was sent with.
    pub number: usize,
    /// Why.
    pub code: RDKafkaErrorCode,
    /// The message.
    pub message: OwnedMessage,
}

impl Reports {
    /// Returns the reports, and forgets them.
    pub fn take(&self) -> Reported {
        mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, note: impl FnOnce(&mut Reported)) {
        note(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl ClientContext for Reports {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        let message = one_line(message);
        // A mistake in `options`. Anything else that matters is an error as well, and reported when it fails the output.
        if facility == "CONFWARN" {
            log::warn!("Output kafka: librdkafka: {message}");
        } else {
            log::debug!("Output kafka: librdkafka: {facility} {message}");
        }
    }

    fn stats_raw(&self, _: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        if let Some(code) = error.rdkafka_error_code() {
            self.note(|reported| match code {
                // The error of the last broker says why.
                RDKafkaErrorCode::AllBrokersDown => reported.all_are_down = true,
                _ => reported.error = Some((code, one_line(reason))),
            });
        }
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        self.note(|reported| match result {
            Ok(_) => reported.delivered.push(number),
            Err((error, message)) => reported.failed.push(FailedMessage {
                number,
                code: error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown),
                message: message.detach(),
            }),
        });
    }
}

impl FailedMessage {
    /// Returns the record.
    pub fn line(&self) -> &[u8] {
        self.message.payload().unwrap_or_default()
    }

    /// Returns what the message contains.
    pub fn contents(&self) -> Contents<'_> {
        let headers = self.message.headers().cloned().unwrap_or_default();
        Contents { key: self.message.key().unwrap_or_default(), line: self.line(), headers }
    }
}
