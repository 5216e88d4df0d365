//! `output.fluentd` against a receiver that plays faults: what it receives, what is sent again, and what the log contains.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use office_audit_log_collector::{
    config::{self, Sources},
    error::Explain,
    output::{CancelToken, FluentdOutput, Output},
};
use rustix::process::Signal;
use simulator::NewBlob;

use crate::support::{
    Installation, Run,
    forward::{ForwardFault, ForwardOptions, ForwardReceiver},
    hours_ago,
    process::{in_parallel, kill, signal},
    tls::{ClientCertificate, certificate, server_config},
};

const FEED: &str = "Audit.Exchange";

/// A tag for each workload, so that a few records become several chunks.
const TAG_OF_WORKLOAD: &str = "tag: \"{workload}\"";

/// Contoso with 200 records, a file output, and this receiver with further keys.
fn installation(receiver: &ForwardReceiver, keys: &str) -> Installation {
    let installation = Installation::new().with_output(&receiver.config(keys));
    installation.contoso.add_blobs(FEED, 5, 40, hours_ago(20)..hours_ago(2));
    installation
}

/// Contoso with one blob that becomes this number of chunks: each of its records has another workload.
fn installation_with_chunks(receiver: &ForwardReceiver, count: usize, keys: &str) -> Installation {
    let installation =
        Installation::new().with_output(&receiver.config(&format!("{TAG_OF_WORKLOAD}\n{keys}")));
    let record = |number| {
        let id = format!("{:08x}-0000-4000-8000-{number:012x}", fastrand::u32(..));
        format!(r#"{{"Id":"{id}","CreationTime":"2024-05-01T12:34:56","Workload":"w{number}"}}"#)
    };
    installation.contoso.add_blob(FEED, NewBlob::texts((0..count).map(record)).created(hours_ago(2)));
    installation
}

/// Asserts that the receiver has each record, and the file has each record once.
#[track_caller]
fn assert_received(receiver: &ForwardReceiver, installation: &Installation) {
    installation.assert_delivered_once([(&installation.contoso, FEED)]);
    let expected = installation.contoso.ids(FEED);
    let counts = receiver.ids();
    let missing = expected.iter().filter(|id| !counts.contains_key(*id)).count();
    assert!(
        missing == 0 && counts.len() == expected.len(),
        "{missing} of {} records are missing",
        expected.len()
    );
}

/// Asserts that the receiver and the file have each record once.
#[track_caller]
fn assert_received_once(receiver: &ForwardReceiver, installation: &Installation) {
    assert_received(receiver, installation);
    let repeated = receiver.ids().values().filter(|count| **count > 1).count();
    assert_eq!(repeated, 0, "records that were received more than once");
}

/// The ids of the chunks that were received on this connection, in order.
fn chunk_ids(receiver: &ForwardReceiver, connection: usize) -> Vec<String> {
    let chunks = receiver.chunks().into_iter().filter(|chunk| chunk.connection == connection);
    chunks.map(|chunk| chunk.id).collect()
}

/// A receiver under TLS with one of the certificates.
fn receiver_with_tls(name: &str, client_certificate: ClientCertificate) -> ForwardReceiver {
    let tls = Some(server_config(name, client_certificate));
    ForwardReceiver::start(ForwardOptions { tls, ..ForwardOptions::default() })
}

/// Opens the output that this installation configures.
fn output_of(installation: &Installation) -> FluentdOutput {
    let path = installation.config_file();
    let sources = Sources { file: &path, credentials: None, environment: &|_| None, with_secrets: true };
    let config = config::load(&sources).unwrap_or_else(|error| panic!("{error}")).config;
    FluentdOutput::new(&config.output.fluentd.expect("the output"), &CancelToken::default())
}

#[test]
fn delivers_records_once_with_tag_and_time() {
    let receiver = ForwardReceiver::plain();
    let installation = installation(&receiver, "");
    installation.run(&[]).assert_code(0);
    assert_received_once(&receiver, &installation);
    for event in receiver.events() {
        assert_eq!(event.tag, "office365.contoso.Audit.Exchange");
        assert_eq!([event.field("OriginFeed"), event.field("TenantName")], [FEED, "contoso"]);
        let time: jiff::civil::DateTime = event.field("CreationTime").parse().expect("a date and time");
        let time = time.to_zoned(jiff::tz::TimeZone::UTC).expect("a time").timestamp();
        assert_eq!(i64::from(event.seconds), time.as_second());
        assert_eq!(i64::from(event.nanoseconds), i64::from(time.subsec_nanosecond()));
    }
    assert!(receiver.chunks().iter().all(|chunk| !chunk.is_compressed));
    assert_eq!(receiver.connections(), 1);
    installation.run(&[]).assert_code(0).assert_line("[WARN] No new blobs found");
    assert_eq!(receiver.connections(), 1);
}

#[test]
fn compresses_records() {
    let receiver = ForwardReceiver::plain();
    let installation = installation(&receiver, "compress: gzip");
    installation.run(&[]).assert_code(0);
    assert_received_once(&receiver, &installation);
    assert!(receiver.chunks().iter().all(|chunk| chunk.is_compressed));
}

#[test]
fn authenticates_with_shared_key_and_user() {
    for (options, keys) in [
        (ForwardOptions { key: Some("sesame"), ..ForwardOptions::default() }, "sharedKey: sesame"),
        (
            ForwardOptions { key: Some("sesame"), is_fluent_bit: true, ..ForwardOptions::default() },
            "sharedKey: sesame",
        ),
        (
            ForwardOptions { key: Some("sesame"), ..ForwardOptions::default() },
            "sharedKey: sesame\nusername: collector\npassword: hunter2",
        ),
        (
            ForwardOptions {
                key: Some("sesame"),
                user: Some(("collector", "hunter2")),
                ..ForwardOptions::default()
            },
            "sharedKey: sesame\nusername: collector\npassword: hunter2",
        ),
        (
            ForwardOptions {
                key: Some(""),
                user: Some(("collector", "hunter2")),
                ..ForwardOptions::default()
            },
            "username: collector\npassword: hunter2",
        ),
    ] {
        let receiver = ForwardReceiver::start(options);
        let installation = installation(&receiver, keys);
        output_of(&installation).check().expect("the receiver accepts the login");
        assert_eq!(receiver.chunks().len(), 0);
        installation.run(&[]).assert_code(0);
        assert_received_once(&receiver, &installation);
    }
}

#[test]
fn reports_failed_authentication_with_hint_and_without_secrets() {
    let key = ForwardOptions { key: Some("sesame"), ..ForwardOptions::default() };
    let user = ForwardOptions { user: Some(("collector", "hunter2")), ..key.clone() };
    let fluent_bit = ForwardOptions { is_fluent_bit: true, ..user.clone() };
    let wrong = "sharedKey: wrong-key";
    let wrong_user = "sharedKey: sesame\nusername: collector\npassword: wrong-password";
    in_parallel(
        [
            (key.clone(), "", ["it requires a shared key", "in sharedKey"]),
            (key.clone(), wrong, ["it rejects the login (shared_key mismatch)", "compare sharedKey"]),
            (user.clone(), "sharedKey: sesame", ["it requires a user", "in username and password"]),
            (user, wrong_user, ["it rejects the login (username/password mismatch)", "compare sharedKey"]),
            (fluent_bit.clone(), "", ["it requires a shared key", "in sharedKey"]),
            (
                fluent_bit.clone(),
                wrong,
                ["it closed the connection instead of accepting the login", "compare sharedKey"],
            ),
            (fluent_bit.clone(), "sharedKey: sesame", ["it requires a user", "in username and password"]),
            (
                fluent_bit,
                wrong_user,
                ["it rejects the login (username/password mismatch)", "compare sharedKey"],
            ),
        ],
        |(options, keys, [problem, hint])| {
            let receiver = ForwardReceiver::start(options);
            let installation = installation(&receiver, keys);
            let run = installation.run(&[]);
            run.assert_code(1).assert_line_with(&[
                "[ERROR] Output fluentd failed: 127.0.0.1:",
                problem,
                hint,
            ]);
            assert!(
                !["wrong-key", "sesame", "hunter2", "wrong-password"]
                    .iter()
                    .any(|key| run.stderr.contains(key))
            );
            assert_eq!(receiver.chunks().len(), 0);
            let error = output_of(&installation).check().expect_err("authentication fails").explain();
            assert!(error.contains(problem) && !error.contains("tls"), "{error}");
            installation.assert_delivered_once([(&installation.contoso, FEED)]);
        },
    );
}

#[test]
fn reports_why_receiver_may_reset_on_long_message() {
    let record = |length| {
        let text = "x".repeat(length);
        format!(r#"{{"Id":"00000000-0000-4000-8000-000000000001","Text":"{text}"}}"#)
    };
    for (options, hint) in [
        (ForwardOptions { key: Some("sesame"), ..ForwardOptions::default() }, "it requires a shared key"),
        (ForwardOptions::default(), "it was sent one record of 8000"),
    ] {
        let receiver = ForwardReceiver::start(options);
        receiver.set_fault(ForwardFault::ResetAfterBytes(100));
        let installation = Installation::new().with_output(&receiver.config(""));
        installation.contoso.add_blob(FEED, NewBlob::texts([record(8_000_000)]).created(hours_ago(2)));
        installation
            .run(&[])
            .assert_code(1)
            .assert_line_with(&["[ERROR] Output fluentd failed: 127.0.0.1:", hint]);
        assert!(receiver.chunks().is_empty());
    }
}

#[test]
fn delivers_over_tls_and_ends_it_with_close_notify() {
    let (root, own, key) =
        (certificate("private_root.pem"), certificate("here.pem"), certificate("server.key"));
    for (client_certificate, keys) in [
        (ClientCertificate::NotRequired, String::new()),
        (ClientCertificate::Required, format!(", cert_file: {own}, key_file: {key}")),
    ] {
        let receiver = receiver_with_tls("here.pem", client_certificate);
        let keys = format!("tls: {{ ca_file: {root}{keys} }}");
        let installation = installation(&receiver, &keys);
        output_of(&installation).check().expect("the receiver accepts the login");
        installation.run(&[]).assert_code(0);
        assert_received_once(&receiver, &installation);
        assert_eq!(receiver.without_close_notify(2), 0);
    }
}

#[test]
fn reports_tls_errors_with_hint() {
    let root = format!("ca_file: {}", certificate("private_root.pem"));
    let other_root = format!("ca_file: {}", certificate("other_root.pem"));
    let elsewhere = format!("{root}, server_name: elsewhere.test");
    let no_key = format!("cert_file: {}", certificate("here.pem"));
    let encrypted = format!("{no_key}, key_file: {}", certificate("../key-encrypted.pem"));
    let wrong_name = receiver_with_tls("elsewhere.pem", ClientCertificate::NotRequired);
    installation(&wrong_name, &format!("tls: {{ {elsewhere} }}")).run(&[]).assert_code(0);
    for (receiver, tls, parts) in [
        (
            receiver_with_tls("here.pem", ClientCertificate::NotRequired),
            "",
            ["certificate is not trusted", "in tls.ca_file"],
        ),
        (wrong_name, &root, ["certificate has another name", "in tls.server_name"]),
        (
            receiver_with_tls("expired.pem", ClientCertificate::NotRequired),
            &root,
            ["certificate is not trusted", "renew it, or set this machine's clock"],
        ),
        (
            receiver_with_tls("name_in_cn.pem", ClientCertificate::NotRequired),
            &other_root,
            ["no subjectAltName", "subjectAltName=IP:127.0.0.1"],
        ),
        (
            receiver_with_tls("self_signed.pem", ClientCertificate::NotRequired),
            &root,
            ["of an authority (CA:TRUE)", "put this very certificate into tls.ca_file"],
        ),
        (
            receiver_with_tls("version_1.pem", ClientCertificate::NotRequired),
            &root,
            ["X.509 version 1", "create one of version 3"],
        ),
        (
            receiver_with_tls("here.pem", ClientCertificate::Required),
            &root,
            ["it rejects the login", "in tls.cert_file"],
        ),
        (ForwardReceiver::plain(), &no_key, ["tls.cert_file", "-----BEGIN PRIVATE KEY-----"]),
        (ForwardReceiver::plain(), &encrypted, ["key is encrypted", "openssl pkey -in"]),
    ] {
        let installation = installation(&receiver, &format!("tls: {{ {tls} }}"));
        let error = output_of(&installation).check().expect_err("TLS fails").explain();
        assert!(error.starts_with("127.0.0.1:"), "{error}");
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
}

#[test]
fn reports_connection_errors_with_hint() {
    let closed = ForwardReceiver::plain();
    closed.set_fault(ForwardFault::Close);
    let installation = installation(&closed, "");
    let error = output_of(&installation).check().expect_err("the receiver closes the connection").explain();
    assert!(error.contains("it closed the connection; check the receiver's log"), "{error}");
    assert!(!error.contains("tls"), "{error}");

    let installation = Installation::new()
        .with_output("  fluentd:\n    address: 127.0.0.1\n    port: 1\n    retryTimeout: 1s");
    installation.contoso.add_blobs(FEED, 1, 1, hours_ago(20)..hours_ago(2));
    installation
        .run(&[])
        .assert_code(1)
        .assert_line_with(&[
            "[WARN] Output fluentd: sending 1 chunk(s) again: 127.0.0.1:1: nothing listens there",
        ])
        .assert_line_with(&[
            "[ERROR] Output fluentd failed: 127.0.0.1:1: nothing listens there; start the receiver",
        ]);
}

#[test]
fn accepts_acknowledgements_in_any_order() {
    let receiver = ForwardReceiver::plain();
    receiver.set_next_faults([ForwardFault::WithheldAcks(8)]);
    let installation = installation_with_chunks(&receiver, 20, "");
    installation.run(&[]).assert_code(0);
    assert_received_once(&receiver, &installation);
    assert_eq!(receiver.chunks().len(), 20);
    assert!(receiver.events().iter().all(|event| event.tag == event.field("Workload")));
}

#[test]
fn limits_chunk_size_unless_one_record_is_larger() {
    let receiver = ForwardReceiver::plain();
    let installation = installation(&receiver, "");
    let record = |number, length| {
        let text = "x".repeat(length);
        format!(r#"{{"Id":"00000000-0000-4000-8000-{number:012x}","CreationTime":"t","Text":"{text}"}}"#)
    };
    let lengths = [10, 300_000, 300_000, 300_000, 300_000, 7_000_000, 10, 999_000, 10];
    let records = lengths.iter().zip(1_u64..).map(|(length, number)| record(number, *length));
    installation.contoso.add_blob(FEED, NewBlob::texts(records).created(hours_ago(2)));
    installation.run(&[]).assert_code(0);
    assert_received_once(&receiver, &installation);
    for chunk in receiver.chunks() {
        assert!(chunk.bytes <= 1_000_000 || chunk.events.len() == 1, "{} bytes", chunk.bytes);
    }
}

#[test]
fn waits_for_slow_reads_and_late_acknowledgements() {
    for fault in [ForwardFault::SlowReads, ForwardFault::LateAcks(Duration::from_millis(300))] {
        let receiver = ForwardReceiver::plain();
        receiver.set_fault(fault);
        let installation = installation(&receiver, "compress: none");
        installation.run(&[]).assert_code(0);
        assert_received_once(&receiver, &installation);
        assert_eq!(receiver.connections(), 1);
    }
}

#[test]
fn resends_unacknowledged_chunks_with_same_ids() {
    in_parallel(
        [
            (ForwardFault::NoAcks, "no acknowledgement within 1 s; check whether the receiver keeps up"),
            (ForwardFault::WrongAcks, "it acknowledged a chunk that it was not sent"),
            (ForwardFault::CloseAfterChunks(4), "it closed the connection"),
            (ForwardFault::LateAcks(Duration::from_secs(30)), "no acknowledgement within 1 s"),
        ],
        |(fault, problem)| {
            let receiver = ForwardReceiver::plain();
            receiver.set_next_faults([fault]);
            let installation = installation_with_chunks(&receiver, 4, "ackTimeout: 1s\nretryTimeout: 60s");
            let run = installation.run(&[]);
            run.assert_code(0).assert_line_with(&[
                "[WARN] Output fluentd: sending",
                "chunk(s) again:",
                problem,
            ]);
            assert_received(&receiver, &installation);
            let first = chunk_ids(&receiver, 0);
            let acknowledged = usize::from(fault == ForwardFault::CloseAfterChunks(4));
            // On a busy machine an acknowledgement can be late again, and a chunk be sent three times.
            let later: BTreeSet<_> =
                (1..receiver.connections()).flat_map(|connection| chunk_ids(&receiver, connection)).collect();
            assert_eq!(later.len(), 4 - acknowledged, "{fault:?}");
            assert!(first.iter().skip(acknowledged).all(|id| later.contains(id)), "{first:?} {later:?}");
        },
    );
}

#[test]
fn resends_chunk_that_a_reset_cut() {
    let receiver = ForwardReceiver::plain();
    receiver.set_next_faults([ForwardFault::ResetAfterBytes(10_000), ForwardFault::ResetAfterBytes(0)]);
    let installation = installation(&receiver, "retryTimeout: 60s");
    let run = installation.run(&[]);
    run.assert_code(0).assert_line_with(&["chunk(s) again:", "it closed the connection"]);
    assert_received_once(&receiver, &installation);
}

#[test]
fn delivers_backlog_to_receiver_that_closes_after_each_acknowledgement() {
    for key in [None, Some("sesame")] {
        let receiver = ForwardReceiver::start(ForwardOptions {
            key,
            denies_keepalive: true,
            ..ForwardOptions::default()
        });
        let keys = if key.is_some() { "sharedKey: sesame" } else { "" };
        let installation = Installation::new().with_output(&receiver.config(keys));
        installation.contoso.add_blobs(FEED, 20, 500, hours_ago(20)..hours_ago(2));
        installation.run(&[]).assert_code(0);
        assert_received(&receiver, &installation);
        let chunks = receiver.chunks();
        let ids: BTreeSet<_> = chunks.iter().map(|chunk| &chunk.id).collect();
        assert!(ids.len() > 5, "{} chunks", ids.len());
        let repeated = chunks.len() - ids.len();
        assert!(repeated <= usize::from(key.is_none()), "{repeated} of {} chunks were sent again", ids.len());
    }
}

#[test]
fn counts_acknowledgements_that_arrived_before_reset() {
    let receiver = ForwardReceiver::plain();
    receiver.set_next_faults([ForwardFault::ResetAfterChunks(3)]);
    let installation = Installation::new().with_output(&receiver.config(""));
    let text = "x".repeat(900_000);
    let record = |number: usize| {
        format!(r#"{{"Id":"00000000-0000-4000-8000-{number:012x}","CreationTime":"t","Text":"{text}"}}"#)
    };
    installation.contoso.add_blob(FEED, NewBlob::texts((0..9).map(record)).created(hours_ago(2)));
    installation.run(&[]).assert_code(0);
    assert_received_once(&receiver, &installation);
}

#[test]
fn does_not_resume_tls_sessions() {
    let options = ForwardOptions {
        tls: Some(server_config("here.pem", ClientCertificate::NotRequired)),
        denies_keepalive: true,
        ..ForwardOptions::default()
    };
    let receiver = ForwardReceiver::start(options);
    let keys = format!("tls: {{ ca_file: {} }}", certificate("private_root.pem"));
    let installation = installation_with_chunks(&receiver, 6, &keys);
    installation.run(&[]).assert_code(0);
    assert_received_once(&receiver, &installation);
    assert!(receiver.connections() >= 6);
}

#[test]
fn trusts_self_signed_certificate_in_ca_file() {
    let receiver = receiver_with_tls("self_signed.pem", ClientCertificate::NotRequired);
    let keys = format!("tls: {{ ca_file: {} }}", certificate("self_signed.pem"));
    let installation = installation(&receiver, &keys);
    installation.run(&[]).assert_code(0);
    assert_received_once(&receiver, &installation);
}

#[test]
fn delivers_when_receiver_restarts_within_retry_timeout() {
    let receiver = ForwardReceiver::plain();
    receiver.set_next_faults([ForwardFault::Close, ForwardFault::Close, ForwardFault::Close]);
    let installation = installation(&receiver, "retryTimeout: 60s");
    let run = installation.run(&[]);
    run.assert_code(0).assert_line_with(&["[WARN] Output fluentd: sending 1 chunk(s) again:", "it closed"]);
    let warnings = run.stderr.lines().filter(|line| line.contains("chunk(s) again")).count();
    assert_eq!(warnings, 1, "the same error is logged once");
    assert_received_once(&receiver, &installation);
}

#[test]
fn distinguishes_missing_tls_from_missing_shared_key() {
    let root = format!("tls: {{ ca_file: {} }}", certificate("private_root.pem"));
    let root_and_key = format!("{root}\nsharedKey: sesame");
    let with_key = ForwardOptions { key: Some("sesame"), ..ForwardOptions::default() };
    let with_tls = ForwardOptions {
        tls: Some(server_config("here.pem", ClientCertificate::NotRequired)),
        ..ForwardOptions::default()
    };
    let fluent_bit = ForwardOptions { is_fluent_bit: true, ..ForwardOptions::default() };
    let speaks_tls = "it speaks TLS on this port, and tls is not configured; add tls";
    let cases = [
        (with_tls.clone(), "", speaks_tls),
        (with_tls, "sharedKey: sesame", speaks_tls),
        (with_key, root_and_key.as_str(), "it does not speak TLS on this port"),
        (ForwardOptions::default(), &root, "check that the receiver speaks TLS on this port"),
        (
            fluent_bit,
            &root,
            "it closed the connection during the TLS handshake; check that the receiver speaks TLS",
        ),
        (ForwardOptions::default(), "sharedKey: sesame", "it does not ask for a shared key (no HELO)"),
    ];
    in_parallel(cases, |(options, keys, problem)| {
        let receiver = ForwardReceiver::start(options);
        let installation = installation(&receiver, &format!("{keys}\nretryTimeout: 0s"));
        let error = output_of(&installation).check().expect_err(problem).explain();
        assert!(error.contains(problem), "{error} instead of {problem}");
        if error.contains("within") || error.contains("HELO") {
            return; // a pass would wait for several seconds again
        }
        let run = installation.run(&[]);
        run.assert_code(1).assert_line_with(&["[ERROR] Output fluentd failed: 127.0.0.1:", problem]);
        assert!(receiver.events().is_empty());
        installation.assert_delivered_once([(&installation.contoso, FEED)]);
    });
}

#[test]
fn delivers_once_after_outage_of_two_passes() {
    let receiver = ForwardReceiver::plain();
    receiver.set_fault(ForwardFault::Close);
    let installation = installation(&receiver, "");
    let known = installation.known_blobs().len();
    for _ in 0..2 {
        let run = installation.run(&[]);
        run.assert_code(1).assert_line_with(&["[ERROR] Output fluentd failed: 127.0.0.1:", "it closed"]);
        installation.assert_delivered_once([(&installation.contoso, FEED)]);
        assert_eq!(installation.known_blobs().len(), known);
        installation.contoso.add_blobs(FEED, 2, 10, hours_ago(2)..hours_ago(1));
    }
    receiver.set_fault(ForwardFault::None);
    installation.run(&[]).assert_code(0);
    assert_received_once(&receiver, &installation);
    installation.run(&[]).assert_code(0).assert_line("[WARN] No new blobs found");
    assert_received_once(&receiver, &installation);
}

#[test]
fn does_not_resend_acknowledged_chunks_after_outage() {
    let receiver = ForwardReceiver::plain();
    receiver.set_next_faults([ForwardFault::CloseAfterChunks(4)]);
    receiver.set_fault(ForwardFault::Close);
    let installation = installation_with_chunks(&receiver, 6, "");
    installation.run(&[]).assert_code(1);
    let first = receiver.events();
    assert_eq!(first.len(), 4);
    receiver.set_fault(ForwardFault::None);
    installation.run(&[]).assert_code(0);
    assert_received(&receiver, &installation);
    let counts = receiver.ids();
    let counts: Vec<_> = first.iter().map(|event| counts[&event.field("Id")]).collect();
    assert_eq!(counts, [1, 2, 2, 2], "only the first of these chunks was acknowledged");
}

#[test]
fn does_not_connect_without_records_to_send() {
    let receiver = ForwardReceiver::plain();
    let installation = Installation::new()
        .with_output(&receiver.config(""))
        .collect("filter: { Audit.Exchange: { Operation: Send } }");
    let contoso = &installation.contoso;
    let record = |number, operation| {
        format!(r#"{{"Id":"00000000-0000-4000-8000-{number:012x}","Operation":"{operation}"}}"#)
    };
    let add = |records: &[String]| {
        contoso.add_blob(FEED, NewBlob::texts(records).created(hours_ago(2)));
    };
    add(&[record(1, "Send")]);
    installation.run(&[]).assert_code(0);
    let wanted = BTreeMap::from([("00000000-0000-4000-8000-000000000001".to_owned(), 1)]);
    assert_eq!((receiver.ids(), receiver.connections()), (wanted.clone(), 1));
    receiver.set_fault(ForwardFault::Close);
    for (unwanted, known) in [vec![], vec![record(2, "Update")], vec![record(1, "Send")]].iter().zip(2..) {
        add(unwanted);
        installation.run(&[]).assert_code(0);
        assert_eq!((receiver.ids(), receiver.connections()), (wanted.clone(), 1), "{unwanted:?}");
        assert_eq!(installation.delivered_ids(), wanted);
        assert_eq!(installation.known_blobs().len(), known);
    }
}

#[test]
fn resends_chunks_after_kill_before_commit() {
    let receiver = ForwardReceiver::plain();
    receiver.set_next_faults([ForwardFault::NoAcks]);
    let installation = installation(&receiver, "");
    let child = installation.pass().spawn().expect("the program starts");
    receiver.wait_for_chunks(1);
    kill(child);
    installation.run(&[]).assert_code(0);
    assert_received(&receiver, &installation);
}

#[test]
fn ends_on_signal_while_receiver_hangs() {
    in_parallel([ForwardFault::NoAcks, ForwardFault::NoReads], |fault| {
        let receiver = ForwardReceiver::plain();
        receiver.set_fault(fault);
        let installation = installation(&receiver, "");
        let child = installation.pass().spawn().expect("the program starts");
        receiver.wait_for_connections(1);
        signal(&child, Signal::TERM);
        let run = Run::finish(child);
        run.assert_code(143).assert_line_with(&[
            "[ERROR] Output fluentd failed: 127.0.0.1:",
            "the pass had to end before the receiver had answered; the next pass continues from here",
        ]);
        receiver.set_fault(ForwardFault::None);
        installation.run(&[]).assert_code(0);
        assert_received(&receiver, &installation);
    });
}
