//! `output.syslog`: messages of RFC 5424 over TCP, TLS and RELP. No outage loses a record, and RELP repeats only what was not
//! acknowledged.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use rustix::process::Signal;
use serde_json::Value;
use simulator::NewBlob;

use crate::support::{
    Installation, Run, hours_ago,
    process::{in_parallel, signal},
    set_mode,
    syslog::{SyslogBehavior, SyslogMessage, SyslogReceiver, Transport},
    tls::{ClientCertificate, certificate, server_config},
};

const FEED: &str = "Audit.General";

/// Writes a configuration with the output files and a syslog output with this protocol, this port and further keys.
/// `retryTimeout` is 1 s unless it is one of them. Returns its path.
pub fn config(installation: &Installation, protocol: &str, port: u16, keys: &[&str]) -> String {
    let mut syslog = format!(
        "  syslog:\n    address: 127.0.0.1\n    port: {port}\n    protocol: {protocol}\n    hostname: collector.example\n"
    );
    let has_retry_timeout = keys.iter().any(|key| key.starts_with("retryTimeout"));
    for key in keys.iter().chain(if has_retry_timeout { &[][..] } else { &["retryTimeout: 1s"] }) {
        syslog.extend(["    ", key, "\n"]);
    }
    let path = installation.path("syslog.yaml");
    fs::write(&path, installation.config() + &syslog).expect("a writable folder");
    set_mode(&path, 0o600);
    path.to_str().expect("a path in UTF-8").to_owned()
}

fn pass(installation: &Installation, protocol: &str, port: u16, keys: &[&str]) -> Run {
    installation.run_bare(&["-c", &config(installation, protocol, port, keys)])
}

/// An installation whose feed has 300 records, as the simulator makes them.
fn installation() -> Installation {
    let installation = Installation::new();
    installation.contoso.add_blobs(FEED, 5, 60, hours_ago(20)..hours_ago(2));
    installation
}

/// The Ids of all records of the feed, once each.
fn each_once(installation: &Installation) -> BTreeMap<String, usize> {
    installation.contoso.ids(FEED).into_iter().map(|id| (id, 1)).collect()
}

/// The lines of the output files, which are the records that were delivered.
fn lines(installation: &Installation) -> BTreeSet<String> {
    installation.output().into_values().flatten().collect()
}

/// Returns the record that these parts of a message are of.
fn joined(mut parts: Vec<SyslogMessage>) -> String {
    parts.sort_by_key(|part| part.parameters["part"].parse::<usize>().expect("a number"));
    let count = parts.len().to_string();
    let mut record = String::new();
    for (part, number) in parts.iter().zip(1..) {
        assert_eq!((&part.parameters["part"], &part.parameters["parts"]), (&number.to_string(), &count));
        record.push_str(&part.text);
    }
    record
}

/// A record with this number in its Id and this text.
fn record(number: u32, text: &str) -> String {
    format!(
        r#"{{"Id":"{number:08x}-0000-4000-8000-000000000000","CreationTime":"2026-11-22T10:15:00","Text":"{text}"}}"#
    )
}

#[test]
fn delivers_each_record_as_message_of_rfc_5424() {
    for (protocol, transport) in [("tcp", Transport::Counted), ("relp", Transport::Relp)] {
        let installation = installation();
        let odd = r#"{"Id":"odd \"] \\","CreationTime":"2026-11-22T10:15:00.5","Text":"\u0000 \n ] é 😀 \u2028 <13>1 - \" 7 rsp 3 200"}"#;
        installation.contoso.add_blob("DLP.All", NewBlob::texts([odd, r#"{"n":1}"#]).created(hours_ago(2)));
        let receiver = SyslogReceiver::start(transport);
        pass(&installation, protocol, receiver.port(), &["facility: local3", "maxMessageSize: 64K"])
            .assert_code(0);
        let messages = receiver.messages();
        let texts: BTreeSet<_> = messages.iter().map(|message| message.text.clone()).collect();
        assert_eq!(messages.len(), 302);
        assert!(texts == lines(&installation), "{protocol}: the receiver got other records than the files");
        for message in &messages {
            assert_eq!((message.priority, &*message.hostname), (19 * 8 + 6, "collector.example"));
            assert_eq!((&*message.app_name, &*message.element), ("office365", "office365@32473"));
            assert_eq!(message.parameters["tenant"], "contoso");
        }
        let of_dlp: Vec<_> = messages.iter().filter(|message| message.message_id == "DLP.All").collect();
        assert_eq!(of_dlp.len(), 2);
        let odd = of_dlp
            .iter()
            .find(|message| message.parameters.contains_key("recordId"))
            .expect("the odd record");
        assert_eq!(
            (&*odd.timestamp, &*odd.parameters["recordId"]),
            ("2026-11-22T10:15:00.5Z", r#"odd "] \"#)
        );
        let without_id =
            of_dlp.iter().find(|message| message.text.starts_with(r#"{"n":1,"#)).expect("the other one");
        assert_eq!((&*without_id.timestamp, without_id.parameters.len()), ("-", 1));
        assert_eq!(installation.known_blobs().len(), 6);
        assert!(receiver.connections() <= 2, "{} connections for one batch", receiver.connections());
        assert_eq!(receiver.closed_sessions(), usize::from(transport == Transport::Relp));
    }
}

#[test]
fn begins_the_json_with_a_byte_order_mark_on_request() {
    let installation = installation();
    let receiver = SyslogReceiver::start(Transport::Counted);
    pass(&installation, "tcp", receiver.port(), &["bom: true", "maxMessageSize: 64K"]).assert_code(0);
    assert_eq!(receiver.messages().len(), 300);
    assert!(receiver.messages().iter().all(|message| message.text.starts_with("\u{feff}{")));
}

#[test]
fn delivers_once_after_outage_of_two_passes() {
    in_parallel([("tcp", Transport::Counted), ("relp", Transport::Relp)], |(protocol, transport)| {
        let installation = Installation::new();
        let contoso = &installation.contoso;
        let stopped = SyslogReceiver::start(transport);
        stopped.close();
        for _ in 0..2 {
            contoso.add_blobs(FEED, 3, 4, hours_ago(20)..hours_ago(2));
            pass(&installation, protocol, stopped.port(), &["retryTimeout: 0s"])
                .assert_code(1)
                .assert_line_with(&[
                    "[ERROR] Output syslog failed: 127.0.0.1:",
                    "nothing listens there; start the receiver",
                ]);
            assert_eq!(installation.known_blobs(), [""; 0]);
        }
        let receiver = SyslogReceiver::start(transport);
        pass(&installation, protocol, receiver.port(), &["maxMessageSize: 64K"]).assert_code(0);
        installation.assert_delivered_once([(contoso, FEED)]);
        assert_eq!(receiver.ids(), each_once(&installation));
        assert_eq!(installation.known_blobs().len(), 6);
    });
}

#[test]
fn resends_unconfirmed_messages_over_tcp() {
    in_parallel([0, 1, 70], |messages| {
        let installation = installation();
        let receiver = SyslogReceiver::start(Transport::Counted);
        receiver
            .set_behaviors(&[SyslogBehavior::CloseAfter(messages), SyslogBehavior::CloseAfter(messages / 2)]);
        pass(&installation, "tcp", receiver.port(), &["retryTimeout: 60s", "maxMessageSize: 64K"])
            .assert_code(0)
            .assert_line_with(&["[WARN] Output syslog: sending unconfirmed messages again: 127.0.0.1:"]);
        assert_eq!(receiver.ids().into_keys().collect::<BTreeSet<_>>(), installation.contoso.ids(FEED));
        installation.assert_delivered_once([(&installation.contoso, FEED)]);
    });
}

#[test]
fn relp_resends_only_what_was_not_acknowledged() {
    in_parallel([1, 7, 299, 300], |messages| {
        let installation = installation();
        let receiver = SyslogReceiver::start(Transport::Relp);
        let keys = ["retryTimeout: 60s", "maxMessageSize: 64K"];
        receiver.set_behaviors(&[SyslogBehavior::CloseAfter(messages)]);
        pass(&installation, "relp", receiver.port(), &keys).assert_code(0);
        assert_eq!(receiver.ids(), each_once(&installation), "closed after {messages} acknowledgements");

        let installation = self::installation();
        let receiver = SyslogReceiver::start(Transport::Relp);
        receiver.set_behaviors(&[SyslogBehavior::CloseInsteadOfLastAck(messages)]);
        pass(&installation, "relp", receiver.port(), &keys).assert_code(0).assert_line_with(&[
            "[WARN] Output syslog: sending ",
            " message(s) again: 127.0.0.1:",
            "closed the connection",
        ]);
        let ids = receiver.ids();
        assert_eq!(ids.keys().cloned().collect::<BTreeSet<_>>(), installation.contoso.ids(FEED));
        assert_eq!(ids.values().sum::<usize>(), 301, "the message without an acknowledgement comes twice");
        installation.assert_delivered_once([(&installation.contoso, FEED)]);
    });
}

#[test]
fn relp_does_not_resend_acknowledged_records_in_later_passes() {
    let installation = installation();
    let receiver = SyslogReceiver::start(Transport::Relp);
    let down = SyslogBehavior::Open("500 shutting down", "");
    receiver.set_behaviors(&[&[SyslogBehavior::CloseAfter(123)][..], &[down; 100]].concat());
    pass(&installation, "relp", receiver.port(), &["maxMessageSize: 64K"]).assert_code(1).assert_line_with(
        &["[ERROR] Output syslog failed: 127.0.0.1:", "it rejects the session (500 shutting down)"],
    );
    assert_eq!(receiver.ids().len(), 123);
    receiver.set_behaviors(&[]);
    pass(&installation, "relp", receiver.port(), &["maxMessageSize: 64K"]).assert_code(0);
    assert_eq!(receiver.ids(), each_once(&installation));
    installation.assert_delivered_once([(&installation.contoso, FEED)]);
    assert_eq!(installation.known_blobs().len(), 5);
}

#[test]
fn relp_accepts_acknowledgements_in_any_order() {
    let installation = installation();
    let receiver = SyslogReceiver::start(Transport::Relp);
    receiver.set_behaviors(&[SyslogBehavior::Reverse(50)]);
    pass(&installation, "relp", receiver.port(), &["maxMessageSize: 64K"]).assert_code(0);
    assert_eq!(receiver.ids(), each_once(&installation));
    assert_eq!((receiver.connections(), receiver.closed_sessions()), (1, 1));
}

#[test]
fn relp_resends_when_acknowledgements_do_not_come() {
    let installation = installation();
    let receiver = SyslogReceiver::start(Transport::Relp);
    receiver.set_behaviors(&[SyslogBehavior::Reverse(usize::MAX)]);
    let keys = ["ackTimeout: 1s", "retryTimeout: 60s", "maxMessageSize: 64K"];
    pass(&installation, "relp", receiver.port(), &keys).assert_code(0).assert_line_with(&[
        "sending 300 message(s) again: 127.0.0.1:",
        "no response within 1 s; check whether",
    ]);
    assert!(receiver.ids().values().all(|count| *count == 2));
    installation.assert_delivered_once([(&installation.contoso, FEED)]);
}

#[test]
fn relp_resends_rejected_messages_until_they_are_accepted() {
    let installation = installation();
    let receiver = SyslogReceiver::start(Transport::Relp);
    receiver.set_behaviors(&[SyslogBehavior::Reject(150)]);
    pass(&installation, "relp", receiver.port(), &["retryTimeout: 60s", "maxMessageSize: 64K"])
        .assert_code(0)
        .assert_line_with(&["[WARN] Output syslog: sending ", "rejected message(s) again", "500 no room"]);
    assert_eq!(receiver.ids(), each_once(&installation));
    assert!(!installation.path("state/dead-letters").exists());
}

#[test]
fn relp_keeps_rejected_record_as_dead_letter() {
    let installation = installation();
    let rejected = record(1, "unwanted");
    installation.contoso.add_blob(FEED, NewBlob::texts([rejected]).created(hours_ago(2)));
    let receiver = SyslogReceiver::start(Transport::Relp);
    receiver.set_behaviors(&[SyslogBehavior::RejectText("unwanted"); 2]);
    let keys = ["retryTimeout: 0s", "deadLetters: false", "maxMessageSize: 64K"];
    let run = pass(&installation, "relp", receiver.port(), &keys);
    run.assert_code(1).assert_line_with(&[
        "[ERROR] Output syslog failed for 1 record (00000001-0000-4000-8000-000000000000 of contoso audit.general): ",
        "500 no room",
        "; the next pass sends it again",
    ]);
    assert_eq!((receiver.ids().len(), installation.known_blobs().len()), (300, 5));

    // A record becomes a dead letter only if the receiver has accepted another one in the same pass.
    installation.contoso.add_blob(FEED, NewBlob::texts([record(2, "wanted")]).created(hours_ago(2)));
    let keys = ["retryTimeout: 0s", "maxMessageSize: 64K"];
    let run = pass(&installation, "relp", receiver.port(), &keys);
    run.assert_code(0)
        .assert_line_with(&["[WARN] Output syslog: the receiver rejects 1 record (", "500 no room"]);
    let letters = fs::read_to_string(installation.path("state/dead-letters/syslog.json")).expect("a file");
    let letter: Value = serde_json::from_str(&letters).expect("one dead letter");
    assert_eq!((&letter["record"]["Text"], &letter["reason"]), (&"unwanted".into(), &"500 no room".into()));
    assert_eq!((receiver.ids().len(), installation.known_blobs().len()), (301, 7));
    assert!(receiver.ids().values().all(|count| *count == 1));
    let config = config(&installation, "relp", receiver.port(), &[]);
    let status = installation.run_bare(&["-c", &config, "status"]);
    assert!(status.stdout.contains("Dead letters of output syslog: 1 record in "), "{status}");
}

#[test]
fn relp_fails_when_every_message_is_rejected() {
    let installation = installation();
    let receiver = SyslogReceiver::start(Transport::Relp);
    receiver.set_behaviors(&[SyslogBehavior::RejectText("{")]);
    pass(&installation, "relp", receiver.port(), &["retryTimeout: 0s"]).assert_code(1).assert_line_with(&[
        "[ERROR] Output syslog failed: 127.0.0.1:",
        "records were rejected, the last one with 500 no room",
    ]);
    assert!(!installation.path("state/dead-letters").exists());
    assert_eq!(installation.known_blobs(), [""; 0]);
    pass(&installation, "relp", receiver.port(), &["maxMessageSize: 64K"]).assert_code(0);
    assert_eq!(receiver.ids(), each_once(&installation));
}

#[test]
fn splits_large_records_between_characters() {
    for (protocol, transport) in [("tcp", Transport::Counted), ("relp", Transport::Relp)] {
        let installation = Installation::new();
        let records =
            [record(1, &"ä€😀".repeat(1_000)), record(2, &"x".repeat(1_000_000)), record(3, "small")];
        installation.contoso.add_blob(FEED, NewBlob::texts(&records).created(hours_ago(2)));
        let without_id = format!(r#"{{"Text":"{}"}}"#, "y".repeat(10_000));
        installation.contoso.add_blob(FEED, NewBlob::texts([without_id]).created(hours_ago(2)));
        let receiver = SyslogReceiver::start(transport);
        if transport == Transport::Relp {
            receiver.set_behaviors(&[SyslogBehavior::CloseAfter(100)]);
        }
        pass(&installation, protocol, receiver.port(), &["retryTimeout: 60s"]).assert_code(0);
        let messages = receiver.messages();
        assert!(messages.iter().all(|message| message.bytes <= 8_000));
        let mut records = BTreeMap::<_, Vec<_>>::new();
        for message in messages {
            let group = message.parameters.get("splitId").cloned();
            records.entry(group.unwrap_or_default()).or_default().push(message);
        }
        let small = records.remove("").expect("a message that is not split");
        let small: Vec<_> = small.into_iter().map(|message| message.text).collect();
        let texts: BTreeSet<_> = records.into_values().map(joined).chain(small).collect();
        assert!(texts == lines(&installation), "{protocol}: the parts are not the records");
        assert_eq!(texts.len(), 4);
    }
}

#[test]
fn truncates_large_records_on_request() {
    let installation = Installation::new();
    let texts = [record(1, &"ä€😀".repeat(1_000)), record(2, "small")];
    installation.contoso.add_blob(FEED, NewBlob::texts(&texts).created(hours_ago(2)));
    let receiver = SyslogReceiver::start(Transport::Counted);
    pass(&installation, "tcp", receiver.port(), &["oversize: truncate"]).assert_code(0);
    let lines = lines(&installation);
    let messages = receiver.messages();
    assert_eq!(messages.len(), 2);
    for message in messages {
        let line =
            lines.iter().find(|line| line.starts_with(&message.text)).expect("the record of the message");
        let whole = message
            .parameters
            .get("truncatedFrom")
            .map_or(message.text.len(), |it| it.parse().expect("a number"));
        assert_eq!((whole, message.text.len() < whole), (line.len(), line.len() > 8_000));
        assert!(message.bytes <= 8_000);
    }
}

#[test]
fn keeps_large_records_as_dead_letters_on_request() {
    in_parallel([("tcp", Transport::Counted), ("relp", Transport::Relp)], |(protocol, transport)| {
        let installation = Installation::new();
        let large = record(1, &"ä".repeat(4_000));
        installation
            .contoso
            .add_blob(FEED, NewBlob::texts([large, record(2, "small")]).created(hours_ago(2)));
        let receiver = SyslogReceiver::start(transport);
        let run = pass(&installation, protocol, receiver.port(), &["oversize: dead-letter"]);
        run.assert_code(0).assert_line_with(&[
            "[WARN] Output syslog: the receiver rejects 1 record (00000001-0000-4000-8000-000000000000 of contoso",
            "its message has 8",
            " bytes, and maxMessageSize is 8000; check maxMessageSize",
        ]);
        assert_eq!(receiver.messages().len(), 1);
        let letters =
            fs::read_to_string(installation.path("state/dead-letters/syslog.json")).expect("a file");
        let letter: Value = serde_json::from_str(&letters).expect("one dead letter");
        let is_letter =
            |line: &String| serde_json::from_str::<Value>(line).is_ok_and(|line| line == letter["record"]);
        assert!(lines(&installation).iter().any(is_letter), "{letter}");
        assert_eq!(installation.known_blobs().len(), 1);
    });
}

#[test]
fn ends_on_signal_while_receiver_hangs() {
    in_parallel([("tcp", Transport::Counted), ("relp", Transport::Relp)], |(protocol, transport)| {
        let installation = installation();
        let receiver = SyslogReceiver::start(transport);
        receiver.set_behaviors(&[SyslogBehavior::NeverRead]);
        let config =
            config(&installation, protocol, receiver.port(), &["retryTimeout: 60s", "maxMessageSize: 64K"]);
        let child = installation.command(&["-c", &config]).spawn().expect("the program starts");
        receiver.wait_for_connections(1);
        signal(&child, Signal::TERM);
        let run = Run::finish(child);
        run.assert_code(143).assert_line_with(&["[ERROR] Output syslog failed", "the pass had to end"]);
        assert_eq!(installation.known_blobs(), [""; 0]);
        pass(&installation, protocol, receiver.port(), &["maxMessageSize: 64K"]).assert_code(0);
        assert_eq!(receiver.ids(), each_once(&installation));
        installation.assert_delivered_once([(&installation.contoso, FEED)]);
    });
}

#[test]
fn delivers_over_tls_to_certificate_of_private_root() {
    in_parallel([("tls", Transport::Counted), ("relp", Transport::Relp)], |(protocol, transport)| {
        let installation = installation();
        let tls = server_config("here.pem", ClientCertificate::NotRequired);
        let receiver = SyslogReceiver::start_with_tls(transport, tls);
        let untrusted = config(&installation, protocol, receiver.port(), &["tls: {}"]);
        installation.run_bare(&["-c", &untrusted]).assert_code(1).assert_line_with(&[
            "[ERROR] Output syslog failed",
            "certificate is not trusted",
            "tls.ca_file",
        ]);
        assert_eq!(receiver.messages(), []);
        let tls = format!("tls: {{ ca_file: {} }}", certificate("private_root.pem"));
        let config = config(&installation, protocol, receiver.port(), &[&tls, "maxMessageSize: 64K"]);
        installation.run_bare(&["-c", &config, "check"]).assert_code(0);
        assert_eq!(receiver.messages(), []);
        installation.run_bare(&["-c", &config]).assert_code(0);
        assert_eq!(receiver.ids(), each_once(&installation));
    });
    let installation = installation();
    let receiver = SyslogReceiver::start_with_tls(
        Transport::Counted,
        server_config("here.pem", ClientCertificate::NotRequired),
    );
    pass(&installation, "tls", receiver.port(), &[])
        .assert_code(1)
        .assert_line_with(&["certificate is not trusted"]);
}

#[test]
fn reports_receiver_that_expects_tls() {
    in_parallel(
        [("tcp", Transport::Counted, "protocol: tls"), ("relp", Transport::Relp, "tls")],
        |(protocol, transport, key)| {
            let installation = installation();
            let tls = server_config("here.pem", ClientCertificate::NotRequired);
            let receiver = SyslogReceiver::start_with_tls(transport, tls);
            let config = config(&installation, protocol, receiver.port(), &[]);
            let problem =
                format!("it speaks TLS on this port, and {key} is not configured; add {key} to the output");
            let check = installation.run_bare(&["-c", &config, "check"]);
            check.assert_code(1);
            assert!(check.stdout.contains(&problem), "{check}");
            let run = installation.run_bare(&["-c", &config]);
            run.assert_code(1).assert_line_with(&["[ERROR] Output syslog failed: 127.0.0.1:", &problem]);
            assert_eq!(installation.known_blobs(), [""; 0]);
        },
    );
}

#[test]
fn check_reaches_the_receiver_and_delivers_nothing() {
    let installation = installation();
    let receiver = SyslogReceiver::start(Transport::Relp);
    let check = |protocol: &str, port| {
        let config = config(&installation, protocol, port, &[]);
        installation.run_bare(&["-c", &config, "check"])
    };
    let run = check("relp", receiver.port());
    run.assert_code(0);
    assert!(run.stdout.contains("✓ output.syslog: can be reached"), "{run}");
    assert_eq!((receiver.messages().len(), receiver.connections(), receiver.closed_sessions()), (0, 1, 1));
    for (behavior, problem) in [
        (SyslogBehavior::Say("HTTP/1.1 400 Bad Request\r\n"), "its answer is not in the RELP protocol"),
        (SyslogBehavior::Open("200 OK", "commands=syslog"), "its answer is not in the RELP protocol"),
        (
            SyslogBehavior::Open("200 OK", "relp_version=0\ncommands=eventlog"),
            "the commands eventlog, and not syslog",
        ),
        (SyslogBehavior::Open("500 required command", ""), "it rejects the session (500 required command)"),
    ] {
        receiver.set_behaviors(&[behavior]);
        let run = check("relp", receiver.port());
        run.assert_code(1);
        assert!(run.stdout.contains(problem), "{behavior:?}: {run}");
    }
    let counted = SyslogReceiver::start(Transport::Counted);
    let run = check("tcp", counted.port());
    run.assert_code(0);
    assert_eq!(counted.messages(), []);
    let roots = installation.path("roots.pem");
    fs::write(&roots, "no certificate").expect("a file");
    let tls = format!("tls: {{ ca_file: {} }}", roots.display());
    let broken = config(&installation, "relp", receiver.port(), &[&tls]);
    let run = installation.run_bare(&["-c", &broken, "check", "--offline"]);
    run.assert_code(1);
    assert!(run.stdout.contains("✗ output.syslog: ") && run.stdout.contains("roots.pem"), "{run}");
}

#[test]
fn delivers_without_confirmation_to_receiver_that_does_not_close() {
    let installation = installation();
    let receiver = SyslogReceiver::start(Transport::Counted);
    receiver.set_behaviors(&[SyslogBehavior::NeverClose]);
    pass(&installation, "tcp", receiver.port(), &["confirm: false", "maxMessageSize: 64K"]).assert_code(0);
    crate::support::process::wait_until("all messages", || receiver.messages().len() >= 300);
    assert_eq!((receiver.ids(), receiver.connections()), (each_once(&installation), 1));
}

#[test]
fn names_a_large_message_as_the_reason_for_a_closed_connection() {
    let installation = Installation::new();
    let large = record(1, &"x".repeat(100_000));
    installation.contoso.add_blob(FEED, NewBlob::texts([large]).created(hours_ago(2)));
    let receiver = SyslogReceiver::start(Transport::Counted);
    receiver.set_behaviors(&[SyslogBehavior::CloseAfter(0); 50]);
    let keys = ["maxMessageSize: 1M", "retryTimeout: 0s"];
    pass(&installation, "tcp", receiver.port(), &keys).assert_code(1).assert_line_with(&[
        "[ERROR] Output syslog failed: 127.0.0.1:",
        "it was sent a message of 100",
        " bytes: lower maxMessageSize, or raise the limit of the receiver",
    ]);
}

#[test]
fn filters_apply() {
    let installation = Installation::new().collect("filter: { Audit.General: { Text: \"wanted\" } }");
    let texts = [record(1, "wanted"), record(2, "unwanted")];
    installation.contoso.add_blob(FEED, NewBlob::texts(&texts).created(hours_ago(2)));
    let receiver = SyslogReceiver::start(Transport::Relp);
    pass(&installation, "relp", receiver.port(), &[]).assert_code(0);
    assert_eq!(receiver.ids().into_keys().collect::<Vec<_>>(), ["00000001-0000-4000-8000-000000000000"]);
}
