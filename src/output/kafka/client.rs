//! The client of librdkafka: its settings, and its end.

use std::{sync::Arc, thread, time::Duration};

use rdkafka::{ClientConfig, config::RDKafkaLogLevel, error::KafkaError, producer::BaseProducer};

use super::{problem::Problem, reports::Reports};
use crate::{
    config,
    network::tls::{self, TlsProblem},
};

/// The maximum size of the messages that librdkafka holds, in KiB. More are sent when it has delivered some.
const QUEUE_KIB_MAX: u32 = 16 * 1024;

/// The maximum wait for the end of librdkafka's threads. One that looks up a name cannot be interrupted.
const CLOSE_WAIT_MAX: Duration = Duration::from_secs(3);

/// The interval at which the end of a producer is looked for.
const CLOSE_POLL_INTERVAL: Duration = Duration::from_millis(5);

/// librdkafka's producer.
pub type Producer = BaseProducer<Reports>;

/// The owner of a producer.
pub struct Client(Option<Arc<Producer>>);

impl Client {
    /// Starts a producer, which connects to these brokers; to none if they are not to be used.
    ///
    /// # Errors
    ///
    /// A file or an option cannot be used.
    pub fn new(settings: &config::KafkaOutput, brokers: &[String]) -> Result<Self, Problem> {
        let config = client_config(settings, brokers)?;
        let producer = config.create_with_context(Reports::default()).map_err(|error| {
            let text = match error {
                KafkaError::ClientCreation(text) | KafkaError::ClientConfig(_, text, ..) => text,
                error => error.to_string(),
            };
            Problem::of_settings(&text, "check tls, sasl and options")
        })?;
        Ok(Self(Some(Arc::new(producer))))
    }

    /// Returns the producer.
    pub fn producer(&self) -> Arc<Producer> {
        Arc::clone(self.0.as_ref().expect("it is there until it is dropped"))
    }
}

impl Drop for Client {
    /// Waits for the end of librdkafka's threads: one that uses OpenSSL while the program exits can crash it.
    fn drop(&mut self) {
        let Some(mut producer) = self.0.take() else { return };
        let (done, closed) = crossbeam_channel::bounded::<()>(0);
        thread::spawn(move || {
            // Another thread may still ask for the topic.
            while Arc::get_mut(&mut producer).is_none() {
                thread::sleep(CLOSE_POLL_INTERVAL);
            }
            drop(producer);
            drop(done);
        });
        // After the longest wait the program goes on.
        let _ = closed.recv_timeout(CLOSE_WAIT_MAX);
    }
}

fn client_config(settings: &config::KafkaOutput, brokers: &[String]) -> Result<ClientConfig, Problem> {
    let config::KafkaOutput { compress, tls, sasl, options, .. } = settings;
    let mut config = ClientConfig::new();
    let is_verbose = log::log_enabled!(log::Level::Debug);
    config.set_log_level(if is_verbose { RDKafkaLogLevel::Debug } else { RDKafkaLogLevel::Warning });
    config.set("client.id", "office365-collector");
    config.set("queue.buffering.max.kbytes", QUEUE_KIB_MAX.to_string());
    // As Java's producer does, so that other programs find a key in the partition in which they expect it.
    config.set("partitioner", "murmur2_random");
    // A mistyped topic is a mistake and not a new topic.
    config.set("allow.auto.create.topics", "false");
    config.set("enable.metrics.push", "false");
    for (name, value) in options {
        config.set(name, value.reveal());
    }
    if !brokers.is_empty() {
        config.set("bootstrap.servers", brokers.join(","));
    }
    config.set("enable.idempotence", "true");
    config.set("acks", "all");
    config.set("compression.codec", compress);
    // `retryTimeout` is measured here, from one delivery to the next: a slow cluster is not one that has failed.
    config.set("message.timeout.ms", "0");
    let protocol = match (tls, sasl) {
        (None, None) => "plaintext",
        (None, Some(_)) => "sasl_plaintext",
        (Some(_), None) => "ssl",
        (Some(_), Some(_)) => "sasl_ssl",
    };
    config.set("security.protocol", protocol);
    if let Some(config::Sasl { mechanism, username, password }) = sasl {
        config.set("sasl.mechanism", mechanism);
        config.set("sasl.username", username);
        config.set("sasl.password", password.reveal());
    }
    if let Some(tls) = tls {
        add_tls(&mut config, tls)?;
    }
    Ok(config)
}

fn add_tls(config: &mut ClientConfig, tls: &config::KafkaTls) -> Result<(), Problem> {
    let of_files = |TlsProblem { problem, hint, .. }| Problem::of_settings(&problem, hint);
    config.set("ssl.ca.pem", tls::roots_in_pem(tls.ca_file.as_deref()).map_err(of_files)?);
    if let Some(cert_file) = &tls.cert_file {
        tls::client_certificate(cert_file, tls.key_file.as_deref()).map_err(of_files)?;
        let key_file = tls.key_file.as_ref().unwrap_or(cert_file);
        config.set("ssl.certificate.location", cert_file.to_string_lossy());
        config.set("ssl.key.location", key_file.to_string_lossy());
    }
    Ok(())
}
