//! Records to a topic of Kafka, each as a message: its value is the record's line, its key is the tenant's id and the record's
//! `Id`, and its headers are the tenant and the content type.
//!
//! librdkafka sends the messages, in batches, and again if necessary, with `enable.idempotence` and `acks=all`: while it runs,
//! the brokers store none of them twice. **A record counts as delivered when its delivery report says so.** If this program
//! ends between the report and the commit, a later pass sends the record again with the same key, so that compaction and
//! consumers can drop it.
//!
//! - The output fails if no message is delivered for `retryTimeout`, if an error is fatal to the producer, and if the brokers
//!   refuse the topic or the login. What was delivered until then is not sent again.
//! - A batch that the brokers reject because of its size or of a record in it is sent again, record by record. A record that is
//!   rejected alone, or that is larger than `message.max.bytes`, becomes a dead letter if the brokers have accepted other
//!   records in this pass. Otherwise the cause is the topic or the configuration.
//! - At most 16 MiB are in librdkafka's queue. More are sent when it has delivered some.
//!
//! librdkafka works in threads of its own, but calls this program only while the producer is polled.
//!
//! Source: librdkafka, `INTRODUCTION.md`, sections "Idempotent Producer" and "Message reliability".

mod client;
mod problem;
mod reports;

use std::{
    fmt, mem,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use crossbeam_channel::Receiver;
use rdkafka::{
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, Producer as _, PurgeConfig},
    types::RDKafkaErrorCode,
};
use xxhash_rust::xxh3::xxh3_128;

use super::{
    BlobRecord, CancelToken, Cancelled, DeliveryError, Flushed, OnOpen, Output, OutputError, Rejected,
    RejectedRecord, Source,
};
use crate::{
    config,
    delivery::OutputName,
    error::Explain,
    json,
    limits::{CANCEL_POLL_INTERVAL, CONNECT_TIMEOUT},
    records::{HeaderField, Record, RecordBatch},
};
use client::{Client, Producer};
use problem::Problem;
use reports::{FailedMessage, Reported};

/// The time for which `poll` of the producer waits, also after a report has come.
const POLL_TIME: Duration = Duration::from_millis(5);

/// The maximum number of records of a pass that are rejected alone. With more, the cause is not the records.
const REJECTED_RECORDS_MAX: usize = 100;

/// The wait for the first answer about the topic. It doubles with each attempt, …
const METADATA_WAIT_FIRST: Duration = Duration::from_millis(500);

/// … up to this: it cannot be cancelled, and a pass has to end within seconds.
const METADATA_WAIT_MAX: Duration = Duration::from_secs(2);

/// The maximum wait for messages in flight after the output has failed.
const IN_FLIGHT_WAIT_MAX: Duration = Duration::from_secs(1);

const _: () = assert!(POLL_TIME.as_millis() < CANCEL_POLL_INTERVAL.as_millis());

/// `output.kafka`
pub struct KafkaOutput {
    settings: config::KafkaOutput,
    topic: Arc<str>,
    cancel: CancelToken,
    /// Created when it is first needed, and kept if the cluster has the topic.
    client: Option<Client>,
    /// The records since the last flush. The place of a record is the number of its message.
    sent: Vec<BlobRecord>,
    /// The number of messages without a report.
    outstanding: usize,
    /// The time of the last delivery, or of the first message after which there was none.
    last_progress: Instant,
    /// The identities of the records that the brokers have, since the last flush.
    accepted_ids: Vec<u128>,
    /// Messages of which the batch was rejected.
    to_resend: Vec<FailedMessage>,
    /// Records that were rejected alone.
    rejected: Vec<RejectedRecord>,
    /// Why the first of them was.
    reason: Option<Problem>,
    /// The number of records that were rejected alone in this pass.
    rejected_count: usize,
    /// How messages are sent.
    sending: Sending,
    /// Whether the brokers have accepted a record in this pass.
    has_accepted: bool,
    /// The last error with a broker.
    last_error: Option<Problem>,
    /// Whether all brokers were tried and none could be used.
    all_are_down: bool,
    /// Whether an error was logged since the last flush.
    is_logged: bool,
}

impl KafkaOutput {
    /// Connects to nothing yet. Stops waiting for the brokers when `cancel` says so.
    pub fn new(settings: &config::KafkaOutput, cancel: &CancelToken) -> Self {
        Self {
            settings: settings.clone(),
            topic: settings.topic.as_str().into(),
            cancel: cancel.clone(),
            client: None,
            sent: Vec::new(),
            outstanding: 0,
            last_progress: Instant::now(),
            accepted_ids: Vec::new(),
            to_resend: Vec::new(),
            rejected: Vec::new(),
            reason: None,
            rejected_count: 0,
            sending: Sending::InBatches,
            has_accepted: false,
            last_error: None,
            all_are_down: false,
            is_logged: false,
        }
    }

    /// Returns the producer, when the cluster has the topic.
    fn connect(&mut self) -> Result<Arc<Producer>, Problem> {
        if let Some(client) = &self.client {
            return Ok(client.producer());
        }
        let client = Client::new(&self.settings, &self.settings.brokers)?;
        self.find_topic(&client.producer(), TopicWait::ForRetryTimeout)?;
        Ok(self.client.insert(client).producer())
    }

    /// Asks the cluster for the topic until it answers.
    fn find_topic(&mut self, producer: &Arc<Producer>, topic_wait: TopicWait) -> Result<(), Problem> {
        let is_check = topic_wait == TopicWait::UntilAllAreDown;
        let time = if is_check { CONNECT_TIMEOUT } else { self.settings.retry_timeout };
        let end = Instant::now() + time;
        let mut wait = METADATA_WAIT_FIRST;
        let mut answer = ask_for_topic(producer, &self.topic, wait);
        loop {
            self.poll(producer)?;
            self.check_last_error()?;
            match answer.try_recv() {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(problem)) if problem.is_permanent() => return Err(problem),
                Ok(Err(problem)) => {
                    self.last_error.get_or_insert(problem);
                    wait = METADATA_WAIT_MAX.min(wait * 2);
                    self.cancel.sleep(CANCEL_POLL_INTERVAL)?;
                    answer = ask_for_topic(producer, &self.topic, wait);
                }
                Err(_) => {}
            }
            if Instant::now() >= end || (is_check && self.all_are_down) {
                return Err(self.last_error.take().unwrap_or_else(|| Problem::of_silence(time)));
            }
            if !is_check {
                self.log_once();
            }
        }
    }

    /// Returns the last error with a broker if waiting does not help.
    fn check_last_error(&mut self) -> Result<(), Problem> {
        self.last_error.take_if(|problem| problem.is_permanent()).map_or(Ok(()), Err)
    }

    /// Lets librdkafka report, and notes its reports.
    fn poll(&mut self, producer: &Producer) -> Result<(), Problem> {
        producer.poll(POLL_TIME);
        self.note_reports(producer)?;
        self.cancel.check().map_err(Problem::from)
    }

    /// Notes what librdkafka has reported.
    fn note_reports(&mut self, producer: &Producer) -> Result<(), Problem> {
        let Reported { delivered, failed, error, all_are_down } = producer.context().take();
        self.outstanding -= delivered.len() + failed.len();
        self.all_are_down |= all_are_down;
        if !delivered.is_empty() {
            self.last_progress = Instant::now();
            self.has_accepted = true;
            self.last_error = None;
        }
        self.accepted_ids.extend(delivered.iter().filter_map(|number| Some(self.sent[*number].id?.key())));
        let mut failure = None;
        for failed in failed {
            if !problem::is_of_record(failed.code) {
                failure.get_or_insert_with(|| Problem::of_code(failed.code, ""));
            } else if self.sending == Sending::OneByOne {
                let rejected = self.reject(failed.number, failed.line(), failed.code);
                failure = failure.or(rejected.err());
            } else {
                self.to_resend.push(failed);
            }
        }
        if let Some((code, text)) = error {
            self.last_error = Some(Problem::of_code(code, &text));
        }
        if let Some((code, text)) = producer.client().fatal_error() {
            failure = Some(Problem::of_code(code, &text));
        }
        failure.map_or(Ok(()), Err)
    }

    /// Notes that a record is rejected whenever it is sent. Returns the reason if there are too many of them.
    fn reject(&mut self, number: usize, line: &[u8], code: RDKafkaErrorCode) -> Result<(), Problem> {
        let problem = Problem::of_code(code, "");
        self.rejected_count += 1;
        if self.rejected_count > REJECTED_RECORDS_MAX {
            return Err(problem);
        }
        self.rejected.push(RejectedRecord {
            record: self.sent[number],
            line: String::from_utf8_lossy(line).into_owned(),
            reason: problem.to_string(),
        });
        self.reason.get_or_insert(problem);
        Ok(())
    }

    /// Adds a message to librdkafka's queue. Waits while it is full.
    fn send(
        &mut self,
        producer: &Producer,
        number: usize,
        Contents { key, line, headers }: Contents<'_>,
    ) -> Result<(), Problem> {
        let topic = Arc::clone(&self.topic);
        let mut record = BaseRecord::with_opaque_to(&topic, number).key(key).payload(line).headers(headers);
        loop {
            if self.outstanding == 0 {
                self.last_progress = Instant::now();
            }
            let (error, returned) = match producer.send(record) {
                Ok(()) => {
                    self.outstanding += 1;
                    return Ok(());
                }
                Err(refused) => refused,
            };
            let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
            if code == RDKafkaErrorCode::QueueFull && self.outstanding > 0 {
                record = returned;
                self.wait_for_reports(producer)?;
            } else if code == RDKafkaErrorCode::QueueFull || problem::is_of_record(code) {
                return self.reject(number, line, RDKafkaErrorCode::MessageSizeTooLarge);
            } else {
                return Err(refusal(producer, code));
            }
        }
    }

    /// Waits for further reports.
    fn wait_for_reports(&mut self, producer: &Producer) -> Result<(), Problem> {
        self.poll(producer)?;
        self.check_last_error()?;
        let timeout = self.settings.retry_timeout;
        if self.outstanding > 0 && self.last_progress.elapsed() >= timeout {
            return Err(self.last_error.take().unwrap_or_else(|| Problem::of_silence(timeout)));
        }
        self.log_once();
        Ok(())
    }

    /// Waits for the reports of all messages.
    fn wait_for_all(&mut self, producer: &Producer) -> Result<(), Problem> {
        while self.outstanding > 0 {
            self.wait_for_reports(producer)?;
        }
        Ok(())
    }

    /// Logs the last error, if none was logged since the last flush.
    fn log_once(&mut self) {
        if let (false, Some(problem)) = (self.is_logged, &self.last_error) {
            log::warn!("Output kafka: trying again: {}", self.error(problem).explain());
            self.is_logged = true;
        }
    }

    fn send_all(&mut self, source: &Source<'_>, records: &RecordBatch) -> Result<(), Problem> {
        let producer = self.connect()?;
        let headers = headers_of(source);
        for record in records.iter() {
            let number = self.sent.len();
            self.sent.push(BlobRecord { blob: source.blob, id: record.id() });
            let key = key_of(source.tenant_id, record);
            let message =
                Contents { key: key.as_bytes(), line: record.line().as_bytes(), headers: headers.clone() };
            self.send(&producer, number, message)?;
        }
        self.note_reports(&producer)
    }

    /// Waits until each record is delivered or rejected.
    fn finish(&mut self) -> Result<(), Problem> {
        let Some(producer) = self.client.as_ref().map(Client::producer) else { return Ok(()) };
        self.wait_for_all(&producer)?;
        self.sending = Sending::OneByOne;
        let resent = mem::take(&mut self.to_resend).into_iter().try_for_each(|failed| {
            self.send(&producer, failed.number, failed.contents())?;
            self.wait_for_all(&producer)
        });
        self.sending = Sending::InBatches;
        resent
    }

    fn drain_rejected(&mut self) -> Option<Rejected> {
        let reason = self.reason.take()?;
        let records = mem::take(&mut self.rejected);
        // Brokers that have accepted nothing may have the wrong topic, or be wrongly configured.
        let are_dead_letters = self.settings.dead_letters && self.has_accepted;
        Some(Rejected { records, reason: self.error(&reason), are_dead_letters })
    }

    fn error(&self, problem: &Problem) -> OutputError {
        let (brokers, topic) = (&self.settings.brokers, &self.topic);
        let more = if brokers.len() > 1 { ",…" } else { "" };
        let broker = brokers.first().map_or("", String::as_str);
        OutputError::Receiver {
            receiver: format!("{broker}{more} topic {topic}"),
            problem: problem.to_string(),
            hint: problem.hint().to_owned(),
        }
    }

    /// Waits a little for what is in flight when the output fails. Returns the error, with the records that were delivered.
    fn failed(&mut self, problem: &Problem) -> DeliveryError {
        if let Some(producer) = self.client.as_ref().map(Client::producer) {
            producer.purge(PurgeConfig::default().queue());
            let end = Instant::now() + IN_FLIGHT_WAIT_MAX;
            while self.outstanding > 0 && Instant::now() < end && self.cancel.check().is_ok() {
                producer.poll(POLL_TIME);
                // The output has failed already.
                let _ = self.note_reports(&producer);
            }
        }
        DeliveryError { accepted_ids: mem::take(&mut self.accepted_ids), ..self.error(problem).into() }
    }
}

/// How messages are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sending {
    /// Many together.
    InBatches,
    /// Each after the report about the one before.
    OneByOne,
}

/// The wait for an answer about the topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TopicWait {
    /// At most `retryTimeout`.
    ForRetryTimeout,
    /// Until all brokers were tried once.
    UntilAllAreDown,
}

/// What a message contains.
struct Contents<'a> {
    key: &'a [u8],
    line: &'a [u8],
    headers: OwnedHeaders,
}

/// Asks the cluster for the topic in a thread, which ends after `wait`.
fn ask_for_topic(
    producer: &Arc<Producer>,
    topic: &Arc<str>,
    wait: Duration,
) -> Receiver<Result<(), Problem>> {
    let (producer, topic) = (Arc::clone(producer), Arc::clone(topic));
    let (done, answer) = crossbeam_channel::bounded(1);
    thread::spawn(move || {
        let metadata = producer.client().fetch_metadata(Some(&topic), wait);
        drop(producer);
        // If the output does not wait any more, no thread receives it.
        let _ = done.send(problem::of_metadata(metadata, &topic));
    });
    answer
}

/// Returns why librdkafka does not accept a message: the error that is fatal to it, if there is one.
fn refusal(producer: &Producer, code: RDKafkaErrorCode) -> Problem {
    let fatal = producer.client().fatal_error();
    fatal.map_or_else(|| Problem::of_code(code, ""), |(code, text)| Problem::of_code(code, &text))
}

/// Returns the key of a record's message: the tenant's id, and the record's `Id`. For a record without an `Id`, a hash of its
/// line takes its place, so that a repeated record has the same key too.
fn key_of(tenant_id: &str, record: Record<'_>) -> String {
    let id = record.id().zip(record.value(HeaderField::Id)).map(|(id, value)| (id, json::text_of(value)));
    match id {
        // The letter case of a GUID has no meaning.
        Some((id, text)) if id.is_guid() => format!("{tenant_id}/{}", text.to_ascii_lowercase()),
        Some((_, text)) => format!("{tenant_id}/{text}"),
        None => format!("{tenant_id}/{:032x}", xxh3_128(record.line().as_bytes())),
    }
}

/// Returns the headers of all messages from a blob.
fn headers_of(source: &Source<'_>) -> OwnedHeaders {
    let header = |key, value| Header { key, value: Some(value) };
    let headers = OwnedHeaders::new_with_capacity(3)
        .insert(header("tenantId", source.tenant_id))
        .insert(header("contentType", source.content_type.name()));
    match source.tenant_name {
        Some(name) => headers.insert(header("tenantName", name)),
        None => headers,
    }
}

impl fmt::Debug for KafkaOutput {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("KafkaOutput").field("outstanding", &self.outstanding).finish_non_exhaustive()
    }
}

impl Output for KafkaOutput {
    fn name(&self) -> OutputName {
        OutputName::Kafka
    }

    fn write(
        &mut self,
        source: &Source<'_>,
        records: &RecordBatch,
        _: &mut OnOpen<'_>,
    ) -> Result<(), DeliveryError> {
        self.send_all(source, records).map_err(|problem| self.failed(&problem))
    }

    fn flush(&mut self, _: &mut OnOpen<'_>) -> Result<Flushed, DeliveryError> {
        self.finish().map_err(|problem| self.failed(&problem))?;
        self.sent.clear();
        self.accepted_ids.clear();
        self.is_logged = false;
        Ok(Flushed { rejected: self.drain_rejected(), positions: Vec::new() })
    }

    fn check(&mut self) -> Result<&'static str, OutputError> {
        let client = Client::new(&self.settings, &self.settings.brokers);
        let found = client.and_then(|client| self.find_topic(&client.producer(), TopicWait::UntilAllAreDown));
        found.map_err(|problem| self.error(&problem))?;
        Ok("can be reached, and has the topic")
    }

    fn check_offline(&mut self) -> Result<Option<&'static str>, OutputError> {
        Client::new(&self.settings, &[]).map_err(|problem| self.error(&problem))?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
