//! `output.kafka` against librdkafka's own mock cluster: each record is one message, and no outage loses one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::{Command, Stdio},
    time::Duration,
};

use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use rustix::process::Signal;
use serde_json::Value;
use simulator::{NewBlob, Operation, id_of};

use crate::support::{
    CONTOSO, FABRIKAM, Installation, Run, hours_ago,
    kafka::{Cluster, LoginBroker, TOPIC, change_leaders, output, tls_proxy},
    listener::{Listener, stay_silent, unused_port},
    process::{WAIT_MAX, kill, signal, wait_until},
    set_mode,
    tls::{ClientCertificate, certificate, server_config},
    whole_lines,
};

const FEED: &str = "Audit.General";

/// Asserts that the topic has each record of contoso's feed once, and no other record.
#[track_caller]
fn assert_received_once(cluster: &Cluster, installation: &Installation) {
    let expected: BTreeMap<_, _> = installation.contoso.ids(FEED).into_iter().map(|id| (id, 1)).collect();
    assert_eq!(cluster.ids(), expected);
    installation.assert_delivered_once([(&installation.contoso, FEED)]);
}

/// An installation with the output files, this Kafka output, and blobs of contoso.
fn installation(output: &str) -> Installation {
    let installation = Installation::new().with_output(output);
    installation.contoso.add_blobs(FEED, 10, 40, hours_ago(20)..hours_ago(2));
    installation
}

/// Runs a pass that waits longer for the brokers than the one before, which had to fail.
fn run_with_patience(installation: &Installation) -> Run {
    let path = installation.path("patient.yaml");
    let config = installation.config();
    assert!(config.contains("retryTimeout: 1s"), "{config}");
    fs::write(&path, config.replace("retryTimeout: 1s", "retryTimeout: 60s")).expect("a writable folder");
    set_mode(&path, 0o600);
    installation.run_bare(&["-c", path.to_str().expect("a path in UTF-8")])
}

/// The dead letters of the output.
fn dead_letters(installation: &Installation) -> Vec<Value> {
    let text = fs::read_to_string(installation.path("state/dead-letters/kafka.json")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn delivers_each_record_as_message_with_key_and_headers() {
    let cluster = Cluster::start(1, 3);
    let (installation, fabrikam) = Installation::with_fabrikam();
    let installation = installation.with_output(&cluster.output(""));
    let contoso = &installation.contoso;
    contoso.add_blobs(FEED, 3, 20, hours_ago(20)..hours_ago(2));
    fabrikam.add_blobs("Audit.Exchange", 2, 20, hours_ago(20)..hours_ago(2));
    let odd = [
        r#"{"Id":"0123ABCD-89ab-cdef-0123-456789abcdef","CreationTime":"2026-11-22T10:15:00","x":"ü\u0000\n"}"#,
        r#"{"Id":"not a GUID / A","CreationTime":"2026-11-22T10:15:00"}"#,
        r#"{"CreationTime":"2026-11-22T10:15:00","Operation":"without an Id"}"#,
    ];
    contoso.add_blob("DLP.All", NewBlob::texts(odd).created(hours_ago(2)));
    installation.run(&[]).assert_code(0);

    let messages = cluster.messages();
    let mut values: Vec<_> = messages.iter().map(|message| message.value.clone()).collect();
    let mut lines: Vec<_> = installation.output().into_values().flatten().collect();
    values.sort();
    lines.sort();
    assert_eq!(values, lines);
    for message in &messages {
        let record: Value = serde_json::from_str(&message.value).expect("JSON");
        let (id, name) = match record["TenantName"].as_str() {
            Some("contoso") => (CONTOSO, "contoso"),
            _ => (FABRIKAM, "fabrikam"),
        };
        let feed = record["OriginFeed"].as_str().expect("a feed");
        let headers = [("tenantId", id), ("tenantName", name), ("contentType", feed)];
        assert_eq!(message.headers, headers.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
        match record["Id"].as_str() {
            Some("not a GUID / A") => assert_eq!(message.key, format!("{id}/not a GUID / A")),
            Some(guid) => assert_eq!(message.key, format!("{id}/{}", guid.to_lowercase())),
            None => assert_eq!(message.key.len(), id.len() + "/".len() + 32),
        }
    }
    let keys: BTreeSet<_> = messages.iter().map(|message| &message.key).collect();
    assert_eq!(keys.len(), messages.len());
    assert_eq!(installation.known_blobs().len(), 6);
    installation.assert_no_violations();
}

#[test]
fn compresses_with_each_codec() {
    for codec in ["gzip", "lz4", "snappy", "zstd"] {
        let cluster = Cluster::start(1, 1);
        let installation = installation(&cluster.output(&format!("    compress: {codec}")));
        installation.run(&[]).assert_code(0);
        assert_received_once(&cluster, &installation);
    }
}

#[test]
fn delivers_once_after_outage_of_two_passes() {
    let cluster = Cluster::start(2, 2);
    let installation = installation(&cluster.output("    retryTimeout: 1s"));
    cluster.stop_brokers();
    for _ in 0..2 {
        installation.run(&[]).assert_code(1).assert_line_with(&[
            "[ERROR] Output kafka failed: 127.0.0.1:",
            " topic office365: ",
            "Connection refused",
            "start the brokers, or check brokers and tls",
        ]);
        assert_eq!(installation.known_blobs(), [""; 0]);
    }
    cluster.start_brokers();
    run_with_patience(&installation).assert_code(0);
    assert_received_once(&cluster, &installation);
    assert_eq!(installation.known_blobs().len(), 10);
}

#[test]
fn waits_for_brokers_that_start_within_the_timeout() {
    let cluster = Cluster::start(1, 1);
    let installation = installation(&cluster.output(""));
    cluster.stop_brokers();
    let program = installation.pass().spawn().expect("the program starts");
    assert!(installation.simulator.wait_for(10, Operation::FetchBlob, WAIT_MAX), "the blobs are fetched");
    cluster.start_brokers();
    Run::finish(program).assert_code(0);
    assert_received_once(&cluster, &installation);
}

#[test]
fn follows_changes_of_the_leaders() {
    let cluster = Cluster::start(3, 4);
    let installation = installation(&cluster.output(""));
    cluster.set_round_trip_time(Duration::from_millis(30));
    let mut program = installation.pass().spawn().expect("the program starts");
    let changes =
        change_leaders(&cluster, 3, || program.try_wait().expect("a child of this process").is_some());
    Run::finish(program).assert_code(0);
    assert!(changes > 0);
    cluster.set_round_trip_time(Duration::ZERO);
    assert_received_once(&cluster, &installation);
}

#[test]
fn sends_again_after_errors_of_brokers_and_cut_connections() {
    use RDKafkaRespErr::{
        RD_KAFKA_RESP_ERR__TRANSPORT as CUT, RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE as NO_LEADER,
        RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS as NO_REPLICAS,
        RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND as NO_REPLICAS_AFTER_APPEND,
        RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION as NOT_LEADER,
        RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT as TIMED_OUT,
    };
    for errors in [[NO_LEADER, NOT_LEADER, CUT], [NO_REPLICAS, NO_REPLICAS_AFTER_APPEND, TIMED_OUT]] {
        let cluster = Cluster::start(1, 2);
        let installation = installation(&cluster.output(""));
        cluster.fail(RDKafkaApiKey::Produce, &errors);
        installation.run(&[]).assert_code(0);
        assert_received_once(&cluster, &installation);
    }
}

#[test]
fn fails_when_brokers_accept_nothing() {
    let cluster = Cluster::start(1, 1);
    let installation = installation(&cluster.output("    retryTimeout: 1s"));
    let error = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS;
    cluster.fail(RDKafkaApiKey::Produce, &[error; 1_000]);
    installation.run(&[]).assert_code(1).assert_line_with(&[
        "[ERROR] Output kafka failed: 127.0.0.1:",
        " topic office365: no broker has acknowledged anything for 1 s; check the brokers' log",
    ]);
    assert_eq!(installation.known_blobs(), [""; 0]);
    cluster.stop_failing(RDKafkaApiKey::Produce);
    run_with_patience(&installation).assert_code(0);
    assert_received_once(&cluster, &installation);
}

#[test]
fn fails_when_broker_is_silent() {
    let broker = Listener::start(|client| {
        stay_silent();
        drop(client);
        Ok(())
    });
    let installation = installation(&output(&broker.address().to_string(), "    retryTimeout: 1s"));
    installation
        .run(&[])
        .assert_code(1)
        .assert_line_with(&["[ERROR] Output kafka failed: 127.0.0.1:", " topic office365: "]);
    assert_eq!(installation.known_blobs(), [""; 0]);
    installation.assert_delivered_once([(&installation.contoso, FEED)]);
}

#[test]
fn fails_when_producer_cannot_go_on() {
    let cluster = Cluster::start(1, 1);
    let installation = installation(&cluster.output(""));
    let error = RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED;
    cluster.fail(RDKafkaApiKey::InitProducerId, &[error; 10]);
    installation.run(&[]).assert_code(1).assert_line_with(&[
        "[ERROR] Output kafka failed: 127.0.0.1:",
        "allow this user IDEMPOTENT_WRITE on the cluster",
    ]);
    assert_eq!(installation.known_blobs(), [""; 0]);
    cluster.stop_failing(RDKafkaApiKey::InitProducerId);
    installation.run(&[]).assert_code(0);
    assert_received_once(&cluster, &installation);
}

#[test]
fn reports_topic_that_cannot_be_written() {
    let cluster = Cluster::start(1, 1);
    let missing = installation(&cluster.output("").replace(TOPIC, "other"));
    for arguments in [&[][..], &["check"]] {
        let run = missing.run(arguments);
        run.assert_code(1);
        let problem = " topic other: Broker: Unknown topic or partition; create the topic, or check topic";
        assert!(run.to_string().contains(problem), "{run}");
    }
    let forbidden = installation(&cluster.output(""));
    cluster.fail_topic(RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED);
    forbidden.run(&[]).assert_code(1).assert_line_with(&[
        " topic office365: ",
        "allow this user to describe the topic and to write to it",
    ]);
    assert_eq!(forbidden.known_blobs(), [""; 0]);
}

#[test]
fn keeps_record_that_is_too_large_as_dead_letter() {
    let cluster = Cluster::start(1, 1);
    let installation = installation(&cluster.output(""));
    let large = "0000aaaa-0000-4000-8000-000000000001";
    let record = format!(r#"{{"Id":"{large}","x":"{}"}}"#, "x".repeat(1_500_000));
    installation.contoso.add_blob(FEED, NewBlob::texts([record]).created(hours_ago(1)));
    installation.run(&[]).assert_code(0).assert_line_with(&[
        &format!(
            "[WARN] Output kafka: the receiver rejects 1 record ({large} of contoso audit.general), kept in "
        ),
        "/state/dead-letters/kafka.json: 127.0.0.1:",
        "Message size too large; to accept larger records, raise max.message.bytes of the topic",
    ]);
    let [letter] = &*dead_letters(&installation) else { panic!() };
    assert_eq!((&letter["recordId"], &letter["record"]["Id"]), (&large.into(), &large.into()));
    assert_eq!(installation.known_blobs().len(), 11);
    let mut expected = installation.contoso.ids(FEED);
    assert!(expected.remove(large));
    assert_eq!(cluster.ids(), expected.into_iter().map(|id| (id, 1)).collect());
    installation.run(&[]).assert_code(0);
    assert_eq!(dead_letters(&installation).len(), 1);
}

#[test]
fn delivers_large_record_when_the_limit_is_raised() {
    let cluster = Cluster::start(1, 1);
    let installation = installation(&cluster.output("    options: { message.max.bytes: 3000000 }"));
    let record =
        format!(r#"{{"Id":"0000aaaa-0000-4000-8000-000000000001","x":"{}"}}"#, "x".repeat(1_500_000));
    installation.contoso.add_blob(FEED, NewBlob::texts([record]).created(hours_ago(1)));
    installation.run(&[]).assert_code(0);
    assert_received_once(&cluster, &installation);
}

#[test]
fn sends_rejected_batch_again_record_by_record() {
    let cluster = Cluster::start(1, 1);
    let installation = installation(&cluster.output(""));
    cluster.fail(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE]);
    installation.run(&[]).assert_code(0);
    assert_received_once(&cluster, &installation);
    assert_eq!(dead_letters(&installation), [Value::Null; 0]);
}

#[test]
fn sends_records_again_that_are_rejected_before_any_was_accepted() {
    let cluster = Cluster::start(1, 1);
    let installation = Installation::new().with_output(&cluster.output(""));
    installation.contoso.add_blobs(FEED, 2, 3, hours_ago(20)..hours_ago(2));
    cluster.fail(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_RECORD; 100]);
    installation.run(&[]).assert_code(1).assert_line_with(&[
        "[ERROR] Output kafka failed for 6 records (",
        "check what the topic requires of a message; the next pass sends it again",
    ]);
    assert_eq!(installation.known_blobs(), [""; 0]);
    assert_eq!(dead_letters(&installation), [Value::Null; 0]);
    cluster.stop_failing(RDKafkaApiKey::Produce);
    installation.run(&[]).assert_code(0);
    assert_received_once(&cluster, &installation);
}

#[test]
fn repeats_only_messages_with_the_same_key_after_a_kill() {
    let cluster = Cluster::start(1, 2);
    let installation = installation(&cluster.output(""));
    cluster.set_round_trip_time(Duration::from_millis(50));
    let program = installation.pass().spawn().expect("the program starts");
    wait_until("a message has arrived", || !cluster.messages().is_empty());
    kill(program);
    cluster.set_round_trip_time(Duration::ZERO);
    installation.run(&[]).assert_code(0);
    let mut values = BTreeMap::new();
    for message in cluster.messages() {
        let id = id_of(&message.value).expect("an Id");
        let first = values.entry(id).or_insert_with(|| message.clone());
        assert_eq!(*first, message);
    }
    assert_eq!(values.into_keys().collect::<BTreeSet<_>>(), installation.contoso.ids(FEED));
    installation.assert_delivered_once([(&installation.contoso, FEED)]);
}

#[test]
fn ends_when_terminated_while_brokers_are_down() {
    let cluster = Cluster::start(1, 1);
    cluster.stop_brokers();
    let installation = installation(&cluster.output("    retryTimeout: 1h"));
    let program = installation.pass().spawn().expect("the program starts");
    assert!(installation.simulator.wait_for(10, Operation::FetchBlob, WAIT_MAX), "the blobs are fetched");
    signal(&program, Signal::TERM);
    Run::finish(program).assert_code(143);
    cluster.start_brokers();
    installation.run(&[]).assert_code(0);
    assert_received_once(&cluster, &installation);
}

#[test]
fn check_finds_topic_and_delivers_nothing() {
    let cluster = Cluster::start(1, 1);
    let installation = installation(&cluster.output(""));
    let run = installation.run(&["check"]);
    run.assert_code(0);
    assert!(run.stdout.contains("can be reached, and has the topic"), "{run}");
    assert_eq!(cluster.messages(), []);
    let unreachable = Installation::new().with_output(&output(&format!("127.0.0.1:{}", unused_port()), ""));
    let run = unreachable.run(&["check"]);
    run.assert_code(1);
    assert!(run.stdout.contains("Connection refused") && run.stdout.contains("; start the brokers"), "{run}");
    unreachable.run(&["check", "--offline"]).assert_code(0);
}

#[test]
fn verifies_certificates_and_presents_its_own() {
    let cluster = Cluster::start(1, 1);
    let proxy = tls_proxy(&cluster, server_config("here.pem", ClientCertificate::Required));
    let [root, own, key] = ["private_root.pem", "here.pem", "server.key"].map(certificate);
    let tls = format!("    tls: {{ ca_file: {root}, cert_file: {own}, key_file: {key} }}");
    let output = |lines: &str| output(&format!("localhost:{}", proxy.port()), lines);
    let trusted = installation(&output(&tls));
    trusted.run(&["check"]).assert_code(0);
    trusted.run(&[]).assert_code(0);
    assert_received_once(&cluster, &trusted);
    let untrusted = installation(&output("    tls: {}"));
    untrusted.run(&[]).assert_code(1).assert_line_with(&[
        "[ERROR] Output kafka failed: localhost:",
        "certificate",
        "give the root that signed the broker's certificate in tls.ca_file",
    ]);
}

#[test]
fn reports_rejected_login_without_the_password() {
    let broker = LoginBroker::start();
    let secret = "sesame-that-stays-secret";
    let sasl = format!("    sasl: {{ mechanism: PLAIN, username: collector, password: {secret} }}");
    let installation = installation(&output(&broker.address(), &sasl));
    for arguments in [&[][..], &["check"], &["--verbose"]] {
        let run = installation.run(arguments);
        run.assert_code(1);
        let problem = "SASL authentication error: Authentication failed for collector …";
        assert!(run.to_string().contains(problem), "{run}");
        assert!(run.to_string().contains("compare sasl.mechanism, username and password"), "{run}");
        assert!(!run.stderr.contains(secret) && !run.stdout.contains(secret), "{run}");
    }
    assert_eq!(broker.logins()[0], format!("\0collector\0{secret}"));
}

#[test]
fn reports_options_of_librdkafka_with_wrong_values() {
    let options = "{ linger.ms: many, no.such.option: 1, acks: 1 }";
    let output = output("localhost", &format!("    options: {options}"));
    Installation::new()
        .with_output(&output)
        .run(&["check", "--offline"])
        .assert_code(78)
        .assert_line_with(&["output.kafka.options.linger.ms: ", "Invalid value for configuration property"])
        .assert_line_with(&["output.kafka.options.no.such.option: ", "No such configuration property"])
        .assert_line_with(&[
            "output.kafka.options.acks: cannot be set, because a record counts as delivered",
        ]);
}

#[test]
#[ignore = "needs kcat: cargo test --features kafka --test tests -- --ignored interop_kafka"]
fn interop_kafka_is_read_by_kcat() {
    for codec in ["none", "gzip", "lz4", "snappy", "zstd"] {
        let cluster = Cluster::start(1, 3);
        let installation = installation(&cluster.output(&format!("    compress: {codec}")));
        let odd = r#"{"Id":"0123abcd-89ab-cdef-0123-456789abcdef","x":"ü\u0000\n\"\\"}"#;
        installation.contoso.add_blob(FEED, NewBlob::texts([odd]).created(hours_ago(2)));
        installation.run(&[]).assert_code(0);
        let read = Run::of(
            Command::new("kcat")
                .args(["-C", "-b", &cluster.brokers(), "-t", TOPIC, "-e", "-q", "-o", "beginning"])
                .args(["-f", "%k\t%h\t%s\n"])
                .stdout(Stdio::piped())
                .stderr(Stdio::piped()),
        );
        read.assert_code(0);
        let mut read: Vec<_> = read.stdout.lines().map(str::to_owned).collect();
        let line = |line: String| {
            let id = id_of(&line).expect("an Id");
            format!("{CONTOSO}/{id}\ttenantId={CONTOSO},contentType={FEED},tenantName=contoso\t{line}")
        };
        let written = whole_lines(&installation.path("output/AuditGeneral.json"));
        let mut written: Vec<_> = written.into_iter().map(line).collect();
        read.sort();
        written.sort();
        assert_eq!(read, written, "{codec}");
    }
}
