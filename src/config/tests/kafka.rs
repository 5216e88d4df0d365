//! `output.kafka`, and the program that was built without it.

use super::*;

fn output(keys: &str) -> Trial {
    Trial::new(&format!("{BEGIN}output:\n  kafka: {keys}\n"))
}

#[cfg(not(feature = "kafka"))]
#[test]
fn rejects_kafka_in_a_program_without_it() {
    assert_mistakes(
        &format!("{BEGIN}output:\n  kafka: {{ brokers: [ a ], topic: b }}\n"),
        &[
            "config.yaml:6:3: output.kafka: this program was built without the feature kafka; use the Debian package or an \
           image, or build it with: cargo build --release --features kafka",
        ],
    );
    let off = Trial::new(&format!("{BEGIN}output:\n  kafka: {{ enabled: false }}\n  stdout: {{}}\n"));
    assert!(off.config().output.kafka.is_none());
    assert_eq!(output("{ brokers: [ a ] }").mistakes().len(), 2, "every other mistake is reported as well");
}

#[cfg(feature = "kafka")]
#[test]
fn kafka_has_defaults() {
    let kafka = output("{ brokers: [ a, 'b:9093' ], topic: o365 }").config().output.kafka.unwrap();
    assert_eq!(
        (kafka.brokers, &*kafka.topic, &*kafka.compress),
        (vec!["a".to_owned(), "b:9093".to_owned()], "o365", "none")
    );
    assert_eq!((kafka.retry_timeout, kafka.dead_letters), (Duration::from_secs(60), true));
    assert!(kafka.tls.is_none() && kafka.sasl.is_none() && kafka.options.is_empty());
}

#[cfg(feature = "kafka")]
#[test]
fn reads_every_key_of_kafka() {
    let trial = Trial::new("");
    let pem = trial.file("a.pem", "pem", 0o600);
    let secret = trial.file("secret", "hunter2~\n", 0o600);
    let (pem, secret) = (pem.display(), secret.display());
    let text = format!(
        "{BEGIN}output:\n  kafka:\n    brokers: [ '[2001:db8::1]:9093' ]\n    topic: o365\n    compress: ZSTD\n    \
         retryTimeout: 5m\n    deadLetters: false\n    tls: {{ ca_file: {pem}, cert_file: {pem}, key_file: {pem} }}\n    \
         sasl: {{ mechanism: scram-sha-512, username: $ConnectionString, password_file: {secret} }}\n    \
         options: {{ linger.ms: 50, client.id: '${{NAME}}', socket.keepalive.enable: true }}\n"
    );
    trial.file("config.yaml", text, 0o600);
    let kafka = trial.set("NAME", "me").config().output.kafka.unwrap();
    assert_eq!((&*kafka.brokers[0], &*kafka.compress), ("[2001:db8::1]:9093", "zstd"));
    assert_eq!((kafka.retry_timeout, kafka.dead_letters), (Duration::from_secs(300), false));
    let tls = kafka.tls.unwrap();
    assert!(tls.ca_file.is_some() && tls.cert_file.is_some() && tls.key_file.is_some());
    let sasl = kafka.sasl.unwrap();
    assert_eq!(
        (&*sasl.mechanism, &*sasl.username, sasl.password.reveal()),
        ("SCRAM-SHA-512", "$ConnectionString", "hunter2~")
    );
    let options: Vec<_> = kafka.options.iter().map(|(name, value)| (&**name, value.reveal())).collect();
    assert_eq!(options, [("linger.ms", "50"), ("client.id", "me"), ("socket.keepalive.enable", "true")]);
}

#[cfg(feature = "kafka")]
#[test]
fn warns_about_a_password_that_is_sent_unencrypted() {
    let keys = |broker: &str, tls: &str| {
        format!(
            "{{ brokers: [ {broker} ], topic: t, sasl: {{ mechanism: PLAIN, username: u, password: p }}{tls} }}"
        )
    };
    assert_eq!(
        output(&keys("kafka.example", "")).warnings(),
        [
            "config.yaml:6:58: output.kafka.sasl.mechanism: PLAIN sends the password unencrypted; add tls, or use SCRAM-SHA-512"
        ]
    );
    assert_eq!(output(&keys("kafka.example", ", tls: {}")).warnings(), [""; 0]);
    assert_eq!(output(&keys("'localhost:9092'", "")).warnings(), [""; 0]);
}

#[cfg(feature = "kafka")]
#[test]
fn rejects_a_wrong_kafka_output() {
    for (keys, expected) in [
        (
            "{ topic: t }",
            "config.yaml:6:3: output.kafka.brokers: is missing; write [ \"kafka.example:9092\" ]",
        ),
        (
            "{ brokers: a, topic: t }",
            "config.yaml:6:12: output.kafka.brokers: must be a list, but is a text; write [ \"kafka.example:9092\" ]",
        ),
        (
            "{ brokers: [], topic: t }",
            "config.yaml:6:12: output.kafka.brokers: is empty; write [ \"kafka.example:9092\" ]",
        ),
        (
            "{ brokers: [ 'a,b' ], topic: t }",
            "config.yaml:6:23: output.kafka.brokers[0]: \"a,b\" is not a broker; write host:port",
        ),
        (
            "{ brokers: [ a ], topic: 'x y' }",
            "config.yaml:6:28: output.kafka.topic: \"x y\" is not a topic; use at most 249 letters, digits, dots, - and _",
        ),
        (
            "{ brokers: [ a ], topic: t, tls: { server_name: x } }",
            "config.yaml:6:45: output.kafka.tls.server_name: unknown key \"server_name\"; known keys here: ca_file, cert_file, key_file",
        ),
        (
            "{ brokers: [ a ], topic: t, sasl: { mechanism: PLAIN, username: u } }",
            "config.yaml:6:38: output.kafka.sasl: has no password; add password or password_file",
        ),
        (
            "{ brokers: [ a ], topic: t, sasl: { mechanism: GSSAPI } }",
            "config.yaml:6:38: output.kafka.sasl: has no password; add password or password_file\n\
             config.yaml:6:38: output.kafka.sasl.username: is missing; add it\n\
             config.yaml:6:46: output.kafka.sasl.mechanism: \"GSSAPI\" is not one of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512",
        ),
        (
            "{ brokers: [ a ], topic: t, options: { acks: 1, compression.type: gzip } }",
            "config.yaml:6:49: output.kafka.options.acks: cannot be set, because a record counts as delivered only when all \
             in-sync replicas have it; remove the option\n\
             config.yaml:6:58: output.kafka.options.compression.type: is set by compress; remove the option",
        ),
        (
            "{ brokers: [ a ], topic: t, options: { ssl.endpoint.identification.algorithm: none, allow.auto.create.topics: true } }",
            "config.yaml:6:49: output.kafka.options.ssl.endpoint.identification.algorithm: cannot be set, because the certificate \
             of any other host would be trusted; remove the option\n\
             config.yaml:6:94: output.kafka.options.allow.auto.create.topics: cannot be set, because a mistyped topic would be \
             created; remove the option",
        ),
        (
            "{ brokers: [ a ], topic: t, options: { ssl.key.password: hunter2, linger.ms: x } }",
            "config.yaml:6:76: output.kafka.options.linger.ms: Invalid value for configuration property \"queue.buffering.max.ms\"; compare \
             it with CONFIGURATION.md of librdkafka",
        ),
    ] {
        assert_eq!(output(keys).mistakes().join("\n"), expected, "{keys}");
    }
}
