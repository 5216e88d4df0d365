//! What the brokers say about single messages, and what the output makes of it.

use rdkafka::{
    mocking::MockCluster,
    producer::DefaultProducerContext,
    types::{RDKafkaApiKey, RDKafkaRespErr},
};

use super::*;
use crate::feed::ContentType;

const TOO_LARGE: RDKafkaRespErr = RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;
const INVALID: RDKafkaRespErr = RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_RECORD;
const FORBIDDEN: RDKafkaRespErr = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;

const SOURCE: Source<'_> = Source {
    tenant_id: "11111111-1111-4111-8111-111111111111",
    tenant_name: None,
    content_type: ContentType::DlpAll,
    content_id: "blob",
    blob: 0,
};

struct Trial {
    cluster: MockCluster<'static, DefaultProducerContext>,
    output: KafkaOutput,
}

impl Trial {
    fn new() -> Self {
        let cluster = MockCluster::new(1).expect("a mock cluster");
        cluster.create_topic("topic", 1, 1).expect("a topic");
        let settings = config::KafkaOutput {
            brokers: vec![cluster.bootstrap_servers()],
            topic: "topic".to_owned(),
            compress: "none".to_owned(),
            retry_timeout: Duration::from_secs(60),
            dead_letters: true,
            tls: None,
            sasl: None,
            options: Vec::new(),
        };
        let output = KafkaOutput::new(&settings, &CancelToken::default());
        Self { cluster, output }
    }

    /// Makes the next requests with messages fail.
    fn fail(&self, errors: &[RDKafkaRespErr]) {
        self.cluster.request_errors(RDKafkaApiKey::Produce, errors);
    }

    /// Writes a record, which is a batch of its own because nothing else is sent, and flushes it.
    fn deliver(&mut self, line: &str) -> Result<Flushed, DeliveryError> {
        let records = RecordBatch::for_test(&[line]);
        self.output.write(&SOURCE, &records, &mut |_| Ok(()))?;
        self.output.flush(&mut |_| Ok(()))
    }

    /// Delivers a record that the brokers accept.
    fn accept(&mut self) {
        assert!(self.deliver(r#"{"Id":"accepted"}"#).expect("the brokers accept it").rejected.is_none());
    }
}

#[test]
fn record_that_is_rejected_alone_is_a_dead_letter_if_others_were_accepted() {
    for error in [TOO_LARGE, INVALID] {
        let mut trial = Trial::new();
        for are_dead_letters in [false, true] {
            trial.fail(&[error, error]);
            let line = r#"{"Id":"rejected"}"#;
            let rejected =
                trial.deliver(line).expect("the output goes on").rejected.expect("a rejected record");
            assert_eq!(rejected.records.len(), 1);
            assert_eq!(rejected.records[0].line, line);
            assert_eq!(rejected.are_dead_letters, are_dead_letters);
            trial.accept();
        }
        trial.output.settings.dead_letters = false;
        trial.fail(&[error, error]);
        let flushed = trial.deliver(r#"{"Id":"rejected"}"#).expect("the output goes on");
        assert!(!flushed.rejected.expect("a rejected record").are_dead_letters);
    }
}

#[test]
fn record_of_which_only_the_batch_is_rejected_is_delivered() {
    let mut trial = Trial::new();
    trial.fail(&[TOO_LARGE]);
    trial.accept();
    trial.fail(&[INVALID]);
    trial.accept();
}

#[test]
fn fails_if_too_many_records_are_rejected() {
    let mut trial = Trial::new();
    trial.accept();
    trial.fail(&[INVALID; 1_000]);
    let lines: Vec<_> = (0..=REJECTED_RECORDS_MAX).map(|number| format!(r#"{{"Id":"{number}"}}"#)).collect();
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    let records = RecordBatch::for_test(&lines);
    trial.output.write(&SOURCE, &records, &mut |_| Ok(())).expect("they are only queued");
    let failed = trial.output.flush(&mut |_| Ok(())).expect_err("too many are rejected");
    assert_eq!((failed.accepted_ids, failed.is_usable), (Vec::new(), false));
    assert!(failed.error.explain().contains("check what the topic requires"), "{}", failed.error.explain());
}

#[test]
fn reports_accepted_records_with_an_error() {
    let mut trial = Trial::new();
    let accepted = RecordBatch::for_test(&[r#"{"Id":"first"}"#, r#"{"Id":"second"}"#]);
    trial.output.write(&SOURCE, &accepted, &mut |_| Ok(())).expect("brokers");
    let producer = trial.output.client.as_ref().expect("it was created").producer();
    trial.output.wait_for_all(&producer).expect("brokers");
    drop(producer);
    trial.fail(&[FORBIDDEN; 10]);
    let mut failed = trial.deliver(r#"{"Id":"third"}"#).expect_err("the topic is forbidden");
    let mut expected: Vec<_> = accepted.iter().filter_map(|record| Some(record.id()?.key())).collect();
    failed.accepted_ids.sort_unstable();
    expected.sort_unstable();
    assert_eq!((failed.accepted_ids, failed.is_usable), (expected, false));
    assert!(failed.error.explain().contains("allow this user"), "{}", failed.error.explain());
}

#[test]
fn waits_while_the_queue_is_full() {
    let mut trial = Trial::new();
    let option = |name: &str, value: &str| (name.to_owned(), config::Secret::new(value));
    trial.output.settings.options = vec![option("queue.buffering.max.messages", "3")];
    let lines: Vec<_> = (0..50).map(|number| format!(r#"{{"Id":"{number}"}}"#)).collect();
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    trial.output.write(&SOURCE, &RecordBatch::for_test(&lines), &mut |_| Ok(())).expect("brokers");
    assert!(trial.output.flush(&mut |_| Ok(())).expect("brokers").rejected.is_none());
}

#[test]
fn record_that_does_not_fit_into_the_queue_is_rejected() {
    let mut trial = Trial::new();
    let option = |name: &str, value: &str| (name.to_owned(), config::Secret::new(value));
    trial.output.settings.options =
        vec![option("queue.buffering.max.kbytes", "1"), option("message.max.bytes", "1000000")];
    let line = format!(r#"{{"Id":"large","x":"{}"}}"#, "x".repeat(10_000));
    let rejected = trial.deliver(&line).expect("the output goes on").rejected.expect("a rejected record");
    assert_eq!(rejected.records[0].line, line);
}

#[test]
fn cancellation_ends_the_wait() {
    let mut trial = Trial::new();
    trial.accept();
    trial.cluster.broker_down(-1).expect("brokers");
    trial.output.cancel.cancel_at(Instant::now());
    let failed = trial.deliver(r#"{"Id":"late"}"#).expect_err("it is cancelled");
    assert!(failed.error.explain().contains("the pass had to end"), "{}", failed.error.explain());
}
