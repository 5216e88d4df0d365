//! What can go wrong with Kafka, and what the administrator can do about it.

use std::{borrow::Cow, fmt, time::Duration};

use rdkafka::{error::KafkaResult, metadata::Metadata, types::RDKafkaErrorCode as Code};

use super::Cancelled;
use crate::redact::one_line;

/// A reason for which messages are not delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    text: String,
    hint: Cow<'static, str>,
    is_permanent: bool,
}

impl Problem {
    /// Returns the problem that librdkafka reports with this code and text. The text can be empty.
    pub fn of_code(code: Code, text: &str) -> Self {
        let is_untrusted = code == Code::SSL && text.contains("could not be verified");
        let (hint, is_permanent) = match code {
            _ if is_untrusted => (
                "give the root that signed the broker's certificate in tls.ca_file, name the broker in brokers as its \
                 certificate does, and check this machine's clock",
                true,
            ),
            Code::SSL => {
                ("check that the brokers speak TLS on this port, and compare tls with their settings", false)
            }
            Code::Authentication | Code::SaslAuthenticationFailed | Code::UnsupportedSASLMechanism => {
                ("compare sasl.mechanism, username and password with the brokers' users", true)
            }
            Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition => {
                ("create the topic, or check topic", true)
            }
            Code::TopicAuthorizationFailed => {
                ("allow this user to describe the topic and to write to it (DESCRIBE and WRITE)", true)
            }
            Code::ClusterAuthorizationFailed => (
                "allow this user IDEMPOTENT_WRITE on the cluster, which brokers before version 3.0 require",
                true,
            ),
            Code::MessageSizeTooLarge | Code::MessageBatchTooLarge => (
                "to accept larger records, raise max.message.bytes of the topic, and message.max.bytes in options",
                false,
            ),
            Code::InvalidRecord => ("check what the topic requires of a message", false),
            Code::NotEnoughReplicas | Code::NotEnoughReplicasAfterAppend => {
                ("start the brokers that are missing, or lower min.insync.replicas of the topic", false)
            }
            Code::Resolve | Code::BrokerTransportFailure | Code::AllBrokersDown => (
                "start the brokers, or check brokers and tls; the addresses that the brokers advertise must be reachable",
                false,
            ),
            _ => ("check the brokers' log", false),
        };
        let text = if text.is_empty() { description(code) } else { text.to_owned() };
        Self { text, hint: hint.into(), is_permanent }
    }

    /// Returns the problem that the brokers have acknowledged nothing for this time, and that librdkafka reports no reason.
    pub fn of_silence(time: Duration) -> Self {
        Self {
            text: format!("no broker has acknowledged anything for {} s", time.as_secs()),
            hint: "check the brokers' log, that each partition of the topic has a leader, and its min.insync.replicas"
                .into(),
            is_permanent: false,
        }
    }

    /// Returns the problem that the settings cannot be used.
    pub fn of_settings(text: &str, hint: impl Into<Cow<'static, str>>) -> Self {
        Self { text: one_line(text), hint: hint.into(), is_permanent: true }
    }

    /// Returns what the administrator can do about it.
    pub fn hint(&self) -> &str {
        &self.hint
    }

    /// Returns whether only a change of the configuration, here or at the brokers, helps.
    pub fn is_permanent(&self) -> bool {
        self.is_permanent
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl From<Cancelled> for Problem {
    fn from(cancelled: Cancelled) -> Self {
        Self { text: cancelled.to_string(), hint: "".into(), is_permanent: true }
    }
}

/// Returns librdkafka's description of a code: `Broker: Message size too large`.
fn description(code: Code) -> String {
    let text = code.to_string(); // MessageSizeTooLarge (Broker: Message size too large)
    let inner = text.split_once(" (").and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(&text).to_owned()
}

/// Returns whether the cause of an error is a record, its size, or another record of its batch.
pub fn is_of_record(code: Code) -> bool {
    matches!(
        code,
        Code::MessageSizeTooLarge
            | Code::MessageBatchTooLarge
            | Code::InvalidRecord
            | Code::InvalidDifferentRecord
    )
}

/// Returns whether the cluster has the topic.
pub fn of_metadata(metadata: KafkaResult<Metadata>, topic: &str) -> Result<(), Problem> {
    let metadata = metadata
        .map_err(|error| Problem::of_code(error.rdkafka_error_code().unwrap_or(Code::Unknown), ""))?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    let error = match found {
        Some(found) => found.error().map(Code::from),
        None => Some(Code::UnknownTopic),
    };
    error.map_or(Ok(()), |code| Err(Problem::of_code(code, "")))
}
