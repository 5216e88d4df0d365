//! `output.fluentd` against a receiver that plays faults: what arrives, what is sent again, and what is said.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::Arc,
    time::Duration,
};

use office_audit_log_collector::{
    config::{self, Sources},
    error::Explain,
    output::{CancelToken, FluentdOutput, Output},
};
use rustix::process::Signal;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
    sign::{CertifiedKey, SingleCertAndKey},
};
use simulator::NewBlob;

use crate::support::{
    Installation, Run,
    forward::{Door, Fault, Receiver},
    hours_ago,
    process::{at_once, kill, signal},
};

const FEED: &str = "Audit.Exchange";

/// A tag for each workload, so that a few records make several chunks.
const BY_WORKLOAD: &str = "tag: \"{workload}\"";

/// Contoso with some records, for the file and this receiver.
fn installation(receiver: &Receiver, keys: &str) -> Installation {
    let installation = Installation::new().with_output(&receiver.config(keys));
    installation.contoso.add_blobs(FEED, 5, 40, hours_ago(20)..hours_ago(2));
    installation
}

/// Contoso with one blob that has a record of each of this number of workloads.
fn with_workloads(receiver: &Receiver, count: usize, keys: &str) -> Installation {
    let installation = Installation::new().with_output(&receiver.config(&format!("{BY_WORKLOAD}\n{keys}")));
    add_workloads(&installation, count);
    installation
}

fn add_workloads(installation: &Installation, count: usize) {
    let record = |number| {
        let id = format!("{:08x}-0000-4000-8000-{number:012x}", fastrand::u32(..));
        format!(r#"{{"Id":"{id}","CreationTime":"2024-05-01T12:34:56","Workload":"w{number}"}}"#)
    };
    installation.contoso.add_blob(FEED, NewBlob::texts((0..count).map(record)).created(hours_ago(2)));
}

/// That the receiver got each record, and the file each record once.
#[track_caller]
fn assert_arrived(receiver: &Receiver, installation: &Installation) {
    installation.assert_delivered_once([(&installation.contoso, FEED)]);
    let expected = installation.contoso.ids(FEED);
    let counts = receiver.ids();
    let missing = expected.iter().filter(|id| !counts.contains_key(*id)).count();
    assert!(missing == 0 && counts.len() == expected.len(), "{missing} of {} missing", expected.len());
}

/// The same, and the receiver too got each record once.
#[track_caller]
fn assert_arrived_once(receiver: &Receiver, installation: &Installation) {
    assert_arrived(receiver, installation);
    let repeated = receiver.ids().values().filter(|count| **count > 1).count();
    assert_eq!(repeated, 0, "records that came more than once");
}

/// The ids of the chunks that came on this connection, in order.
fn chunk_ids(receiver: &Receiver, connection: usize) -> Vec<String> {
    let chunks = receiver.chunks().into_iter().filter(|chunk| chunk.connection == connection);
    chunks.map(|chunk| chunk.id).collect()
}

/// One of the files in `tests/certificates/tls`.
fn certificate(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates/tls");
    folder.join(name).to_str().expect("a path of text").to_owned()
}

/// A receiver's TLS. `demands_certificate`: lets in only who has a certificate of the private root.
fn tls(name: &str, demands_certificate: bool) -> Arc<ServerConfig> {
    let read = |name: &str| fs::read(certificate(name)).expect("a file of the tests");
    let chain = |name: &str| {
        CertificateDer::pem_slice_iter(&read(name)).collect::<Result<Vec<_>, _>>().expect("certificates")
    };
    let provider = Arc::new(ring::default_provider());
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("versions that ring knows");
    let config = if demands_certificate {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(chain("private_root.pem"));
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
        config.with_client_cert_verifier(verifier.expect("a root"))
    } else {
        config.with_no_client_auth()
    };
    let key = PrivateKeyDer::from_pem_slice(&read("server.key")).expect("a key");
    let key = ring::sign::any_supported_type(&key).expect("a key that ring knows");
    // Without a look at the certificate: rustls would refuse one of version 1.
    let identity = SingleCertAndKey::from(CertifiedKey::new(chain(name), key));
    Arc::new(config.with_cert_resolver(Arc::new(identity)))
}

/// A receiver behind TLS.
fn secure(name: &str, demands_certificate: bool) -> Receiver {
    Receiver::start(Door { tls: Some(tls(name, demands_certificate)), ..Door::default() })
}

/// The output of this installation's configuration, without a pass.
fn output_of(installation: &Installation) -> FluentdOutput {
    let path = installation.config_file();
    let sources = Sources { file: &path, credentials: None, environment: &|_| None, with_secrets: true };
    let config = config::load(&sources).unwrap_or_else(|unusable| panic!("{unusable}")).config;
    FluentdOutput::new(&config.output.fluentd.expect("the output"), &CancelToken::default())
}

#[test]
fn records_arrive_once_with_their_tag_and_time() {
    let receiver = Receiver::plain();
    let installation = installation(&receiver, "");
    installation.run(&[]).assert_code(0);
    assert_arrived_once(&receiver, &installation);
    for event in receiver.events() {
        assert_eq!(event.tag, "office365.contoso.Audit.Exchange");
        assert_eq!([event.field("OriginFeed"), event.field("TenantName")], [FEED, "contoso"]);
        let time: jiff::civil::DateTime = event.field("CreationTime").parse().expect("a time");
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
fn records_can_be_compressed() {
    let receiver = Receiver::plain();
    let installation = installation(&receiver, "compress: gzip");
    installation.run(&[]).assert_code(0);
    assert_arrived_once(&receiver, &installation);
    assert!(receiver.chunks().iter().all(|chunk| chunk.is_compressed));
}

#[test]
fn a_receiver_with_a_shared_key_lets_us_in() {
    for (door, keys) in [
        (Door { key: Some("sesame"), ..Door::default() }, "sharedKey: sesame"),
        (Door { key: Some("sesame"), is_fluent_bit: true, ..Door::default() }, "sharedKey: sesame"),
        (
            Door { key: Some("sesame"), ..Door::default() },
            "sharedKey: sesame\nusername: collector\npassword: hunter2",
        ),
        (
            Door { key: Some("sesame"), user: Some(("collector", "hunter2")), ..Door::default() },
            "sharedKey: sesame\nusername: collector\npassword: hunter2",
        ),
        (
            Door { key: Some(""), user: Some(("collector", "hunter2")), ..Door::default() },
            "username: collector\npassword: hunter2",
        ),
    ] {
        let receiver = Receiver::start(door);
        let installation = installation(&receiver, keys);
        output_of(&installation).check().expect("a receiver that accepts the login");
        assert_eq!(receiver.chunks().len(), 0);
        installation.run(&[]).assert_code(0);
        assert_arrived_once(&receiver, &installation);
    }
}

#[test]
fn a_receiver_that_does_not_let_us_in_is_named_with_the_mend_and_without_the_secrets() {
    let key = Door { key: Some("sesame"), ..Door::default() };
    let user = Door { user: Some(("collector", "hunter2")), ..key.clone() };
    let bit = Door { is_fluent_bit: true, ..user.clone() };
    let wrong = "sharedKey: wrong-key";
    let wrong_user = "sharedKey: sesame\nusername: collector\npassword: wrong-password";
    at_once(
        [
            (key.clone(), "", ["it demands a shared key", "in sharedKey"]),
            (key.clone(), wrong, ["it refuses the login (shared_key mismatch)", "compare sharedKey"]),
            (user.clone(), "sharedKey: sesame", ["it demands a user", "in username and password"]),
            (user, wrong_user, ["it refuses the login (username/password mismatch)", "compare sharedKey"]),
            (bit.clone(), "", ["it demands a shared key", "in sharedKey"]),
            (bit.clone(), wrong, ["it closed the connection instead of letting us in", "compare sharedKey"]),
            (bit.clone(), "sharedKey: sesame", ["it demands a user", "in username and password"]),
            (bit, wrong_user, ["it refuses the login (username/password mismatch)", "compare sharedKey"]),
        ],
        |(door, keys, said)| {
            let receiver = Receiver::start(door);
            let installation = installation(&receiver, keys);
            let run = installation.run(&[]);
            let [problem, hint] = said;
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
            let refused = output_of(&installation).check().expect_err("no entry").explain();
            assert!(refused.contains(problem) && !refused.contains("tls"), "{refused}");
            installation.assert_delivered_once([(&installation.contoso, FEED)]);
        },
    );
}

#[test]
fn why_a_receiver_hangs_up_on_a_long_message_is_told() {
    let record = |length| {
        let text = "x".repeat(length);
        format!(r#"{{"Id":"00000000-0000-4000-8000-000000000001","Text":"{text}"}}"#)
    };
    for (door, said) in [
        (Door { key: Some("sesame"), ..Door::default() }, "it demands a shared key"),
        (Door::default(), "it was sent one record of 8000"),
    ] {
        let receiver = Receiver::start(door);
        receiver.always(Fault::ResetAfter(100));
        let installation = Installation::new().with_output(&receiver.config(""));
        installation.contoso.add_blob(FEED, NewBlob::texts([record(8_000_000)]).created(hours_ago(2)));
        installation
            .run(&[])
            .assert_code(1)
            .assert_line_with(&["[ERROR] Output fluentd failed: 127.0.0.1:", said]);
        assert!(receiver.chunks().is_empty());
    }
}

#[test]
fn records_go_through_tls_and_it_ends_in_order() {
    for (demands_certificate, keys) in [(false, ""), (true, ", cert_file: HERE, key_file: KEY")] {
        let receiver = secure("here.pem", demands_certificate);
        let keys = keys.replace("HERE", &certificate("here.pem")).replace("KEY", &certificate("server.key"));
        let keys = format!("tls: {{ ca_file: {}{keys} }}", certificate("private_root.pem"));
        let installation = installation(&receiver, &keys);
        output_of(&installation).check().expect("a receiver that accepts the login");
        installation.run(&[]).assert_code(0);
        assert_arrived_once(&receiver, &installation);
        assert_eq!(receiver.cut_off(2), 0);
    }
}

#[test]
fn trouble_with_tls_is_named_with_the_mend() {
    let root = format!("ca_file: {}", certificate("private_root.pem"));
    let other_root = format!("ca_file: {}", certificate("other_root.pem"));
    let elsewhere = format!("{root}, server_name: elsewhere.test");
    let no_key = format!("cert_file: {}", certificate("here.pem"));
    let encrypted = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates/key-encrypted.pem");
    let encrypted = format!("{no_key}, key_file: {}", encrypted.display());
    let wrong_name = secure("elsewhere.pem", false);
    installation(&wrong_name, &format!("tls: {{ {elsewhere} }}")).run(&[]).assert_code(0);
    for (receiver, tls, said) in [
        (secure("here.pem", false), "", ["certificate is not trusted", "in tls.ca_file"]),
        (wrong_name, &root, ["certificate has another name", "in tls.server_name"]),
        (
            secure("expired.pem", false),
            &root,
            ["certificate is not trusted", "renew it, or set this machine's clock"],
        ),
        (secure("name_in_cn.pem", false), &other_root, ["no subjectAltName", "subjectAltName=IP:127.0.0.1"]),
        (
            secure("self_signed.pem", false),
            &root,
            ["of an authority (CA:TRUE)", "put this very certificate into tls.ca_file"],
        ),
        (secure("version_1.pem", false), &root, ["X.509 version 1", "create one of version 3"]),
        (secure("here.pem", true), &root, ["it refuses the login", "in tls.cert_file"]),
        (Receiver::plain(), &no_key, ["tls.cert_file", "-----BEGIN PRIVATE KEY-----"]),
        (Receiver::plain(), &encrypted, ["key is encrypted", "openssl pkey -in"]),
    ] {
        let installation = installation(&receiver, &format!("tls: {{ {tls} }}"));
        let failure = output_of(&installation).check().expect_err("trouble").explain();
        assert!(failure.starts_with("127.0.0.1:"), "{failure}");
        assert!(said.iter().all(|part| failure.contains(part)), "{failure}");
    }
}

#[test]
fn trouble_with_the_connection_is_named_with_the_mend() {
    let closed = Receiver::plain();
    closed.always(Fault::Closed);
    let installation = installation(&closed, "");
    let failure = output_of(&installation).check().expect_err("trouble").explain();
    assert!(failure.contains("it closed the connection; look into the receiver's log"), "{failure}");
    assert!(!failure.contains("tls"), "{failure}");
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
fn several_chunks_are_on_their_way_and_acknowledged_in_any_order() {
    let receiver = Receiver::plain();
    receiver.faults([Fault::Withholding(8)]);
    let installation = with_workloads(&receiver, 20, "");
    installation.run(&[]).assert_code(0);
    assert_arrived_once(&receiver, &installation);
    assert_eq!(receiver.chunks().len(), 20);
    assert!(receiver.events().iter().all(|event| event.tag == event.field("Workload")));
}

#[test]
fn no_chunk_is_larger_than_a_receiver_takes_unless_one_record_is() {
    let receiver = Receiver::plain();
    let installation = installation(&receiver, "");
    let record = |number, length| {
        let text = "x".repeat(length);
        format!(r#"{{"Id":"00000000-0000-4000-8000-{number:012x}","CreationTime":"t","Text":"{text}"}}"#)
    };
    let lengths = [10, 300_000, 300_000, 300_000, 300_000, 7_000_000, 10, 999_000, 10];
    let records = lengths.iter().zip(1_u64..).map(|(length, number)| record(number, *length));
    installation.contoso.add_blob(FEED, NewBlob::texts(records).created(hours_ago(2)));
    installation.run(&[]).assert_code(0);
    assert_arrived_once(&receiver, &installation);
    for chunk in receiver.chunks() {
        assert!(chunk.bytes <= 1_000_000 || chunk.events.len() == 1, "{} bytes", chunk.bytes);
    }
}

#[test]
fn a_slow_reader_and_a_late_acknowledgement_are_waited_for() {
    for fault in [Fault::Slow, Fault::Late(Duration::from_millis(300))] {
        let receiver = Receiver::plain();
        receiver.always(fault);
        let installation = installation(&receiver, "compress: none");
        installation.run(&[]).assert_code(0);
        assert_arrived_once(&receiver, &installation);
        assert_eq!(receiver.connections(), 1);
    }
}

#[test]
fn what_is_not_acknowledged_is_sent_again_under_the_same_ids() {
    at_once(
        [
            (Fault::Mute, "no acknowledgement within 1 s; see whether the receiver keeps up"),
            (Fault::Wrong, "it acknowledged a chunk that it was not sent"),
            (Fault::ClosedAfter(4), "it closed the connection"),
            (Fault::Late(Duration::from_secs(30)), "no acknowledgement within 1 s"),
        ],
        |(fault, said)| {
            let receiver = Receiver::plain();
            receiver.faults([fault]);
            let installation = with_workloads(&receiver, 4, "ackTimeout: 1s");
            let run = installation.run(&[]);
            run.assert_code(0).assert_line_with(&["[WARN] Output fluentd: sending", "chunk(s) again:", said]);
            assert_arrived(&receiver, &installation);
            let first = chunk_ids(&receiver, 0);
            let acknowledged = usize::from(fault == Fault::ClosedAfter(4));
            let second: Vec<_> =
                (1..receiver.connections()).flat_map(|connection| chunk_ids(&receiver, connection)).collect();
            assert_eq!(second.len(), 4 - acknowledged, "{fault:?}");
            assert!(first.iter().skip(acknowledged).all(|id| second.contains(id)), "{first:?} {second:?}");
        },
    );
}

#[test]
fn a_chunk_that_was_cut_in_two_is_sent_again_and_arrives_once() {
    let receiver = Receiver::plain();
    receiver.faults([Fault::ResetAfter(10_000), Fault::ResetAfter(0)]);
    let installation = installation(&receiver, "retryTimeout: 30s");
    let run = installation.run(&[]);
    run.assert_code(0).assert_line_with(&["chunk(s) again:", "it closed the connection"]);
    assert_arrived_once(&receiver, &installation);
}

#[test]
fn a_backlog_reaches_a_receiver_that_closes_after_each_acknowledgement() {
    for key in [None, Some("sesame")] {
        let receiver = Receiver::start(Door { key, denies_keepalive: true, ..Door::default() });
        let keys = if key.is_some() { "sharedKey: sesame" } else { "" };
        let installation = Installation::new().with_output(&receiver.config(keys));
        installation.contoso.add_blobs(FEED, 20, 500, hours_ago(20)..hours_ago(2));
        installation.run(&[]).assert_code(0);
        assert_arrived(&receiver, &installation);
        let chunks = receiver.chunks();
        let ids: BTreeSet<_> = chunks.iter().map(|chunk| &chunk.id).collect();
        assert!(ids.len() > 5, "{} chunks", ids.len());
        let repeated = chunks.len() - ids.len();
        assert!(repeated <= usize::from(key.is_none()), "{repeated} of {} chunks came again", ids.len());
    }
}

#[test]
fn acknowledgements_that_arrived_before_a_reset_count() {
    let receiver = Receiver::plain();
    receiver.faults([Fault::ResetAfterChunks(3)]);
    let installation = Installation::new().with_output(&receiver.config(""));
    let text = "x".repeat(900_000);
    let record = |number: usize| {
        format!(r#"{{"Id":"00000000-0000-4000-8000-{number:012x}","CreationTime":"t","Text":"{text}"}}"#)
    };
    installation.contoso.add_blob(FEED, NewBlob::texts((0..9).map(record)).created(hours_ago(2)));
    installation.run(&[]).assert_code(0);
    assert_arrived_once(&receiver, &installation);
}

#[test]
fn tls_sessions_are_not_resumed() {
    let door = Door { tls: Some(tls("here.pem", false)), denies_keepalive: true, ..Door::default() };
    let receiver = Receiver::start(door);
    let keys = format!("tls: {{ ca_file: {} }}", certificate("private_root.pem"));
    let installation = with_workloads(&receiver, 6, &keys);
    installation.run(&[]).assert_code(0);
    assert_arrived_once(&receiver, &installation);
    assert!(receiver.connections() >= 6);
}

#[test]
fn a_self_signed_certificate_that_is_in_ca_file_is_trusted() {
    let receiver = secure("self_signed.pem", false);
    let keys = format!("tls: {{ ca_file: {} }}", certificate("self_signed.pem"));
    let installation = installation(&receiver, &keys);
    installation.run(&[]).assert_code(0);
    assert_arrived_once(&receiver, &installation);
}

#[test]
fn a_receiver_that_restarts_within_the_retry_timeout_fails_no_pass() {
    let receiver = Receiver::plain();
    receiver.faults([Fault::Closed, Fault::Closed, Fault::Closed]);
    let installation = installation(&receiver, "retryTimeout: 20s");
    let run = installation.run(&[]);
    run.assert_code(0).assert_line_with(&["[WARN] Output fluentd: sending 1 chunk(s) again:", "it closed"]);
    let warnings = run.stderr.lines().filter(|line| line.contains("chunk(s) again")).count();
    assert_eq!(warnings, 1, "the same failure is logged once");
    assert_arrived_once(&receiver, &installation);
}

#[test]
fn tls_and_keys_that_do_not_match_are_told_apart() {
    let root = format!("tls: {{ ca_file: {} }}", certificate("private_root.pem"));
    let root_and_key = format!("{root}\nsharedKey: sesame");
    let with_key = Door { key: Some("sesame"), ..Door::default() };
    let with_tls = Door { tls: Some(tls("here.pem", false)), ..Door::default() };
    let bit = Door { is_fluent_bit: true, ..Door::default() };
    let speaks_tls = "it speaks TLS on this port, and tls is not configured; add tls";
    let cases = [
        (with_tls.clone(), "", speaks_tls),
        (with_tls, "sharedKey: sesame", speaks_tls),
        (with_key, root_and_key.as_str(), "it does not speak TLS on this port"),
        (Door::default(), &root, "check that the receiver speaks TLS on this port"),
        (bit, &root, "it closed the connection during the TLS handshake; check that the receiver speaks TLS"),
        (Door::default(), "sharedKey: sesame", "it does not ask for a shared key (no HELO)"),
    ];
    at_once(cases, |(door, keys, said)| {
        let receiver = Receiver::start(door);
        let installation = installation(&receiver, &format!("{keys}\nretryTimeout: 0s"));
        let failure = output_of(&installation).check().expect_err(said).explain();
        assert!(failure.contains(said), "{failure} instead of {said}");
        if failure.contains("within") || failure.contains("HELO") {
            return; // a pass waits for as long
        }
        let run = installation.run(&[]);
        run.assert_code(1).assert_line_with(&["[ERROR] Output fluentd failed: 127.0.0.1:", said]);
        assert!(receiver.events().is_empty());
        installation.assert_delivered_once([(&installation.contoso, FEED)]);
    });
}

#[test]
fn an_outage_of_two_passes_loses_nothing_and_repeats_nothing_in_the_file() {
    let receiver = Receiver::plain();
    receiver.always(Fault::Closed);
    let installation = installation(&receiver, "");
    let known = installation.known_blobs().len();
    for _ in 0..2 {
        let run = installation.run(&[]);
        run.assert_code(1).assert_line_with(&["[ERROR] Output fluentd failed: 127.0.0.1:", "it closed"]);
        installation.assert_delivered_once([(&installation.contoso, FEED)]);
        assert_eq!(installation.known_blobs().len(), known);
        installation.contoso.add_blobs(FEED, 2, 10, hours_ago(2)..hours_ago(1));
    }
    receiver.always(Fault::None);
    installation.run(&[]).assert_code(0);
    assert_arrived_once(&receiver, &installation);
    installation.run(&[]).assert_code(0).assert_line("[WARN] No new blobs found");
    assert_arrived_once(&receiver, &installation);
}

#[test]
fn what_was_acknowledged_before_an_outage_is_not_sent_again() {
    let receiver = Receiver::plain();
    receiver.faults([Fault::ClosedAfter(4)]);
    receiver.always(Fault::Closed);
    let installation = with_workloads(&receiver, 6, "");
    installation.run(&[]).assert_code(1);
    let first = receiver.events();
    assert_eq!(first.len(), 4);
    receiver.always(Fault::None);
    installation.run(&[]).assert_code(0);
    assert_arrived(&receiver, &installation);
    let counts = receiver.ids();
    let counts: Vec<_> = first.iter().map(|event| counts[&event.field("Id")]).collect();
    assert_eq!(counts, [1, 2, 2, 2], "of these only the first was acknowledged");
}

#[test]
fn a_receiver_that_there_is_nothing_for_is_left_alone() {
    let receiver = Receiver::plain();
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
    receiver.always(Fault::Closed);
    for (nothing, known) in [vec![], vec![record(2, "Update")], vec![record(1, "Send")]].iter().zip(2..) {
        add(nothing);
        installation.run(&[]).assert_code(0);
        assert_eq!((receiver.ids(), receiver.connections()), (wanted.clone(), 1), "{nothing:?}");
        assert_eq!(installation.delivered_ids(), wanted);
        assert_eq!(installation.known_blobs().len(), known);
    }
}

#[test]
fn a_kill_between_sending_and_remembering_repeats_to_the_receiver_at_most() {
    let receiver = Receiver::plain();
    receiver.faults([Fault::Mute]);
    let installation = installation(&receiver, "");
    let child = installation.pass().spawn().expect("the program starts");
    receiver.wait_for_chunks(1);
    kill(child);
    installation.run(&[]).assert_code(0);
    assert_arrived(&receiver, &installation);
}

#[test]
fn a_receiver_that_hangs_does_not_hold_up_a_signal() {
    at_once([Fault::Mute, Fault::Stuck], |fault| {
        let receiver = Receiver::plain();
        receiver.always(fault);
        let installation = installation(&receiver, "");
        let child = installation.pass().spawn().expect("the program starts");
        receiver.wait_for_connections(1);
        signal(&child, Signal::TERM);
        let run = Run::finish(child);
        run.assert_code(143).assert_line_with(&[
            "[ERROR] Output fluentd failed: 127.0.0.1:",
            "the pass had to end before the receiver had answered; the next pass goes on from here",
        ]);
        receiver.always(Fault::None);
        installation.run(&[]).assert_code(0);
        assert_arrived(&receiver, &installation);
    });
}
