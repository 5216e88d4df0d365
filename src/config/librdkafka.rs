//! `output.kafka.options`: which of librdkafka's options the configuration accepts.

/// Options that other keys of `output.kafka` set, and these keys.
const SET_BY_KEYS: [(&str, &[&str]); 6] = [
    ("brokers", &["bootstrap.servers", "metadata.broker.list"]),
    ("compress", &["compression.codec", "compression.type"]),
    ("retryTimeout", &["message.timeout.ms", "delivery.timeout.ms"]),
    (
        "sasl",
        &[
            "sasl.mechanism",
            "sasl.mechanisms",
            "sasl.username",
            "sasl.password",
            "enable.sasl.oauthbearer.unsecure.jwt",
        ],
    ),
    (
        "tls",
        &[
            "ssl.ca.location",
            "ssl.ca.pem",
            "ssl.certificate.location",
            "ssl.certificate.pem",
            "ssl.key.location",
            "ssl.key.pem",
            "ssl.keystore.location",
            "ssl.keystore.password",
        ],
    ),
    ("tls and sasl", &["security.protocol"]),
];

/// Options that would break a promise of the program, and how.
const REFUSED: [(&str, &[&str]); 8] = [
    (
        "a record counts as delivered only when all in-sync replicas have it",
        &["acks", "request.required.acks"],
    ),
    (
        "a message that is sent again would be stored twice",
        &["enable.idempotence", "max.in.flight", "max.in.flight.requests.per.connection", "transactional.id"],
    ),
    (
        "every delivery report is needed",
        &["delivery.report.only.error", "dr_cb", "dr_msg_cb", "enabled_events", "log.queue"],
    ),
    (
        "a message that is sent again must be tried until retryTimeout",
        &["retries", "message.send.max.retries"],
    ),
    ("any certificate would be trusted", &["enable.ssl.certificate.verification"]),
    ("the certificate of any other host would be trusted", &["ssl.endpoint.identification.algorithm"]),
    ("a mistyped topic would be created", &["allow.auto.create.topics"]),
    ("records would go elsewhere", &["test.mock.num.brokers", "plugin.library.paths", "interceptors"]),
];

/// Words in the names of options whose values are secrets.
const SECRET_WORDS: [&str; 4] = ["password", "secret", "sasl.oauthbearer.config", "assertion.private.key"];

/// Returns whether the value of an option is a secret.
pub(super) fn is_secret(name: &str) -> bool {
    SECRET_WORDS.iter().any(|word| name.contains(word))
}

/// Checks an option. A program with librdkafka checks its value too.
///
/// # Errors
///
/// What is wrong with the option, which never contains its value if that is a secret.
pub(super) fn check(name: &str, value: &str) -> Result<(), String> {
    let owner = |table: &[(&'static str, &[&str])]| {
        table.iter().find(|(_, names)| names.contains(&name)).map(|(owner, _)| *owner)
    };
    if let Some(key) = owner(&SET_BY_KEYS) {
        return Err(format!("is set by {key}; remove the option"));
    }
    if let Some(reason) = owner(&REFUSED) {
        return Err(format!("cannot be set, because {reason}; remove the option"));
    }
    check_value(name, value)
}

#[cfg(feature = "kafka")]
fn check_value(name: &str, value: &str) -> Result<(), String> {
    use rdkafka::{ClientConfig, error::KafkaError};

    let set = ClientConfig::new().set(name, value).create_native_config();
    let problem = match set {
        Ok(_) => return Ok(()),
        Err(KafkaError::ClientConfig(_, text, ..)) if !is_secret(name) => crate::redact::one_line(&text),
        Err(_) => "librdkafka does not accept the value".to_owned(),
    };
    Err(format!("{problem}; compare it with CONFIGURATION.md of librdkafka"))
}

#[cfg(not(feature = "kafka"))]
#[expect(clippy::unnecessary_wraps, reason = "the form of the function with librdkafka")]
fn check_value(_: &str, _: &str) -> Result<(), String> {
    Ok(())
}
