//! `output.graylog`, GELF over TCP and TLS: each record is a message, and no outage loses one.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::process::Signal;
use serde_json::{Map, Value};
use simulator::NewBlob;

use crate::support::{
    Installation, Run,
    gelf::{GelfBehavior, GelfReceiver},
    hours_ago,
    listener::{connect, unused_port},
    process::{in_parallel, signal, wait_until},
    set_mode,
    tls::{ClientCertificate, certificate, server_config},
};

const FEED: &str = "Audit.General";

/// Writes a configuration with the output files and a Graylog output with this port and further keys. `retryTimeout` is 1 s
/// unless it is one of them. Returns its path.
fn config(installation: &Installation, port: u16, keys: &str) -> String {
    let retry = if keys.contains("retryTimeout") { "" } else { "\n    retryTimeout: 1s" };
    let keys = format!("{keys}{retry}");
    let keys = keys.trim_start_matches('\n');
    let graylog = format!("  graylog:\n    address: 127.0.0.1\n    port: {port}\n{keys}\n");
    let path = installation.path("graylog.yaml");
    fs::write(&path, installation.config() + &graylog).expect("a writable folder");
    set_mode(&path, 0o600);
    path.to_str().expect("a path in UTF-8").to_owned()
}

fn pass(installation: &Installation, port: u16) -> Run {
    installation.run_bare(&["-c", &config(installation, port, "")])
}

#[test]
fn delivers_each_record_as_gelf_message() {
    let installation = Installation::new();
    let receiver = GelfReceiver::start();
    let contoso = &installation.contoso;
    contoso.add_blobs(FEED, 5, 40, hours_ago(20)..hours_ago(2));
    let odd = r#"{"Id":"01234567-89ab-cdef-0123-456789abcdef","CreationTime":"2026-11-22T10:15:00","id":1,"n":"\u0000",
        "Operation":"Send","UserId":"adele@contoso.example","ok":true,"none":null,"o":{"a":[1]},"n":2}"#;
    contoso.add_blob("DLP.All", NewBlob::texts([odd]).created(hours_ago(2)));
    pass(&installation, receiver.port()).assert_code(0);
    let ids = receiver.ids();
    let expected: BTreeSet<_> = contoso.ids(FEED).into_iter().chain(contoso.ids("DLP.All")).collect();
    assert_eq!(ids.keys().cloned().collect::<BTreeSet<_>>(), expected);
    assert!(ids.values().all(|count| *count == 1), "{ids:?}");
    for message in receiver.messages() {
        assert_eq!(
            (&message["version"], &message["host"], &message["level"]),
            (&"1.1".into(), &"contoso".into(), &6.into())
        );
        assert!(message["short_message"].as_str().is_some_and(|text| !text.is_empty()), "{message:?}");
        assert!(message["timestamp"].is_number(), "{message:?}");
        assert!(message.values().all(|value| value.is_string() || value.is_number()), "{message:?}");
    }
    let message = receiver
        .messages()
        .into_iter()
        .find(|message| message["_OriginFeed"] == "DLP.All")
        .expect("a message of that feed");
    let expected = serde_json::json!({
        "version": "1.1", "host": "contoso", "level": 6, "timestamp": 1_795_342_500.0,
        "short_message": "Send by adele@contoso.example", "_Id": "01234567-89ab-cdef-0123-456789abcdef",
        "_CreationTime": "2026-11-22T10:15:00", "_record_id": 1, "_n": "\0", "_n_2": 2, "_Operation": "Send",
        "_UserId": "adele@contoso.example", "_ok": "true", "_o": "{\"a\":[1]}", "_OriginFeed": "DLP.All",
        "_TenantName": "contoso",
    });
    assert_eq!(Value::Object(message), expected);
    assert_eq!(installation.known_blobs().len(), 6);
    assert!(receiver.connections() <= 2, "{} connections for one batch", receiver.connections());
}

#[test]
fn delivers_once_after_outage_of_two_passes() {
    let installation = Installation::new();
    let contoso = &installation.contoso;
    let stopped = GelfReceiver::start();
    stopped.close();
    for _ in 0..2 {
        contoso.add_blobs(FEED, 3, 4, hours_ago(20)..hours_ago(2));
        pass(&installation, stopped.port()).assert_code(1).assert_line_with(&[
            "[ERROR] Output graylog failed: 127.0.0.1:",
            "nothing listens there; start the receiver",
        ]);
        installation.assert_delivered_once([(contoso, FEED)]);
        assert_eq!(installation.known_blobs(), [""; 0]);
    }
    let receiver = GelfReceiver::start();
    contoso.add_blobs(FEED, 3, 4, hours_ago(20)..hours_ago(2));
    pass(&installation, receiver.port()).assert_code(0);
    installation.assert_delivered_once([(contoso, FEED)]);
    assert_eq!(receiver.ids(), contoso.ids(FEED).into_iter().map(|id| (id, 1)).collect());
    assert_eq!(installation.known_blobs().len(), 9);
}

#[test]
fn resends_unconfirmed_messages_after_reconnect() {
    in_parallel([0, 1, 5_000, 200_000], |bytes| {
        let installation = Installation::new();
        let contoso = &installation.contoso;
        contoso.add_blobs(FEED, 10, 60, hours_ago(20)..hours_ago(2));
        let receiver = GelfReceiver::start();
        receiver.set_behaviors(&[GelfBehavior::CloseAfter(bytes), GelfBehavior::CloseAfter(bytes / 2)]);
        let config = config(&installation, receiver.port(), "    retryTimeout: 60s");
        installation
            .run_bare(&["-c", &config])
            .assert_code(0)
            .assert_line_with(&["[WARN] Output graylog: sending unconfirmed messages again: 127.0.0.1:"]);
        let ids: BTreeSet<_> = receiver.ids().into_keys().collect();
        assert_eq!(ids, contoso.ids(FEED), "closed after {bytes} bytes");
        installation.assert_delivered_once([(contoso, FEED)]);
    });
}

#[test]
fn fails_when_receiver_always_closes() {
    let installation = Installation::new();
    installation.contoso.add_blobs(FEED, 2, 60, hours_ago(20)..hours_ago(2));
    let receiver = GelfReceiver::start();
    receiver.set_behaviors(&[GelfBehavior::CloseAfter(100); 50]);
    pass(&installation, receiver.port())
        .assert_code(1)
        .assert_line_with(&["[ERROR] Output graylog failed: 127.0.0.1:", "closed the connection"]);
    assert!((2..50).contains(&receiver.connections()), "{} connections", receiver.connections());
    assert_eq!(installation.known_blobs(), [""; 0]);
    receiver.set_behaviors(&[]);
    pass(&installation, receiver.port()).assert_code(0);
    assert_eq!(receiver.ids().into_keys().collect::<BTreeSet<_>>(), installation.contoso.ids(FEED));
    installation.assert_delivered_once([(&installation.contoso, FEED)]);
}

#[test]
fn does_not_resend_confirmed_messages_after_outage() {
    let installation = Installation::new().setting("curl_max_size: 20M");
    let contoso = &installation.contoso;
    let text = "x".repeat(30_000);
    let record = |number| {
        format!(r#"{{"Id":"{number:08x}-0000-4000-8000-000000000000","Operation":"Send","Text":"{text}"}}"#)
    };
    // 18 MB, of which 16 MiB are confirmed before the rest is sent.
    contoso.add_blob(FEED, NewBlob::texts((1..=600).map(record)).created(hours_ago(2)));
    let receiver = GelfReceiver::start();
    receiver.set_behaviors(&[&[GelfBehavior::Read][..], &[GelfBehavior::CloseAfter(0); 100]].concat());
    pass(&installation, receiver.port())
        .assert_code(1)
        .assert_line_with(&["[ERROR] Output graylog failed: 127.0.0.1:", "closed the connection"]);
    let confirmed = receiver.ids().len();
    assert!((500..600).contains(&confirmed), "{confirmed} records confirmed");
    assert_eq!(installation.known_blobs(), [""; 0]);
    receiver.set_behaviors(&[]);
    pass(&installation, receiver.port()).assert_code(0);
    assert_eq!(receiver.ids(), contoso.ids(FEED).into_iter().map(|id| (id, 1)).collect());
    installation.assert_delivered_once([(contoso, FEED)]);
    assert_eq!(installation.known_blobs().len(), 1);
}

#[test]
fn ends_on_signal_while_receiver_hangs() {
    let installation = Installation::new();
    installation.contoso.add_blobs(FEED, 2, 10, hours_ago(20)..hours_ago(2));
    let receiver = GelfReceiver::start();
    receiver.set_behaviors(&[GelfBehavior::NeverRead]);
    let config = config(&installation, receiver.port(), "");
    let child = installation.command(&["-c", &config]).spawn().expect("the program starts");
    receiver.wait_for_connections(1);
    signal(&child, Signal::TERM);
    let run = Run::finish(child);
    run.assert_code(143).assert_line_with(&["[ERROR] Output graylog failed", "the pass had to end"]);
    assert_eq!(installation.known_blobs(), [""; 0]);
    pass(&installation, receiver.port()).assert_code(0);
    assert_eq!(receiver.ids(), installation.contoso.ids(FEED).into_iter().map(|id| (id, 1)).collect());
    installation.assert_delivered_once([(&installation.contoso, FEED)]);
}

#[test]
fn delivers_over_tls_to_certificate_of_private_root() {
    let installation = Installation::new();
    installation.contoso.add_blobs(FEED, 3, 40, hours_ago(20)..hours_ago(2));
    let receiver = GelfReceiver::start_with_tls(server_config("here.pem", ClientCertificate::NotRequired));
    let untrusted = config(&installation, receiver.port(), "    tls: {}");
    installation.run_bare(&["-c", &untrusted]).assert_code(1).assert_line_with(&[
        "[ERROR] Output graylog failed",
        "certificate is not trusted",
        "tls.ca_file",
    ]);
    assert_eq!(receiver.messages(), []);
    let keys = format!("    tls: {{ ca_file: {} }}", certificate("private_root.pem"));
    let trusted = config(&installation, receiver.port(), &keys);
    installation.run_bare(&["-c", &trusted]).assert_code(0);
    assert_eq!(receiver.ids(), installation.contoso.ids(FEED).into_iter().map(|id| (id, 1)).collect());
    installation.assert_delivered_once([(&installation.contoso, FEED)]);
}

#[test]
fn reports_receiver_that_expects_tls() {
    let installation = Installation::new();
    installation.contoso.add_blobs(FEED, 1, 400, hours_ago(20)..hours_ago(2));
    let receiver = GelfReceiver::start_with_tls(server_config("here.pem", ClientCertificate::NotRequired));
    let plain = config(&installation, receiver.port(), "");
    let check = installation.run_bare(&["-c", &plain, "check"]);
    check.assert_code(1);
    assert!(check.stdout.contains("it speaks TLS on this port, and tls is not configured"), "{check}");
    pass(&installation, receiver.port()).assert_code(1).assert_line_with(&[
        "[ERROR] Output graylog failed: 127.0.0.1:",
        "it speaks TLS on this port, and tls is not configured; add tls",
    ]);
    assert_eq!(installation.known_blobs(), [""; 0]);
    installation.assert_delivered_once([(&installation.contoso, FEED)]);
}

#[test]
fn names_message_without_operation_after_content_type() {
    let installation = Installation::new();
    let record = |number, operation| {
        format!(
            r#"{{"Id":"{number:08x}-0000-4000-8000-000000000000","Operation":{operation},"UserId":null}}"#
        )
    };
    let records =
        [r#""""#, r#"" ""#, r#""\t""#, "null"].iter().zip(1..).map(|(text, number)| record(number, text));
    installation.contoso.add_blob(FEED, NewBlob::texts(records).created(hours_ago(2)));
    let receiver = GelfReceiver::start();
    pass(&installation, receiver.port()).assert_code(0);
    let messages = receiver.messages();
    assert_eq!(messages.len(), 4);
    assert!(messages.iter().all(|message| message["short_message"] == FEED), "{messages:?}");
}

#[test]
fn delivers_without_confirmation_to_receiver_that_does_not_close() {
    let installation = Installation::new();
    installation.contoso.add_blobs(FEED, 3, 40, hours_ago(20)..hours_ago(2));
    let receiver = GelfReceiver::start();
    receiver.set_behaviors(&[GelfBehavior::NeverClose]);
    let config = config(&installation, receiver.port(), "    confirm: false");
    installation.run_bare(&["-c", &config]).assert_code(0);
    receiver.wait_for_messages(120);
    assert_eq!(receiver.ids(), installation.contoso.ids(FEED).into_iter().map(|id| (id, 1)).collect());
    assert_eq!((receiver.connections(), installation.known_blobs().len()), (1, 3));
}

#[test]
fn delivers_when_receiver_restarts_within_retry_timeout() {
    let installation = Installation::new();
    installation.contoso.add_blobs(FEED, 3, 40, hours_ago(20)..hours_ago(2));
    let receiver = GelfReceiver::start();
    receiver.set_behaviors(&[GelfBehavior::CloseAfter(0); 4]);
    let config = config(&installation, receiver.port(), "    retryTimeout: 60s");
    installation.run_bare(&["-c", &config]).assert_code(0);
    assert_eq!(receiver.ids(), installation.contoso.ids(FEED).into_iter().map(|id| (id, 1)).collect());
    installation.assert_delivered_once([(&installation.contoso, FEED)]);
}

/// A receiver of another project on a free port of 127.0.0.1. Dropping it ends the program.
struct Peer {
    child: Child,
    port: u16,
    received: PathBuf,
}

impl Peer {
    /// Starts the program, given its port and the file to which it writes.
    fn start(installation: &Installation, command: impl FnOnce(u16, &Path) -> Command) -> Self {
        let port = unused_port();
        let received = installation.path("received");
        let child = command(port, &received).stdin(Stdio::null()).spawn().expect("the receiver is installed");
        wait_until("the receiver listens", || connect(port).is_ok());
        Self { child, port, received }
    }

    /// Waits until this number of messages is in its file, each followed by this byte. Returns their Ids.
    fn ids(&self, count: usize, delimiter: u8) -> Vec<String> {
        let mut bytes = Vec::new();
        wait_until("the file of the receiver has every message", || {
            bytes = fs::read(&self.received).unwrap_or_default();
            bytes.split_inclusive(|&byte| byte == delimiter).count() >= count && bytes.ends_with(&[delimiter])
        });
        let id = |message: &[u8]| {
            let message: Map<String, Value> =
                serde_json::from_slice(&message[..message.len() - 1]).expect("an object");
            message["_Id"].as_str().expect("an Id").to_owned()
        };
        bytes.split_inclusive(|&byte| byte == delimiter).map(id).collect()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.child.kill().and_then(|()| self.child.wait()).expect("a child of this process");
    }
}

#[track_caller]
fn assert_received_once(installation: &Installation, mut ids: Vec<String>) {
    ids.sort();
    assert_eq!(ids, installation.contoso.ids(FEED).into_iter().collect::<Vec<_>>());
    installation.assert_delivered_once([(&installation.contoso, FEED)]);
}

/// Run with `cargo test --locked --test tests -- --ignored interop`.
#[test]
#[ignore = "needs socat: cargo test --test tests -- --ignored interop_socat"]
fn interop_socat_receives_every_message_plain_and_over_tls() {
    for is_tls in [false, true] {
        let installation = Installation::new();
        installation.contoso.add_blobs(FEED, 20, 100, hours_ago(20)..hours_ago(2));
        let peer = Peer::start(&installation, |port, received| {
            let listen = if is_tls {
                let (own, key) = (certificate("here.pem"), certificate("server.key"));
                format!("OPENSSL-LISTEN:{port},cert={own},key={key},verify=0")
            } else {
                format!("TCP-LISTEN:{port}")
            };
            let mut command = Command::new("socat");
            command.args(["-u", &format!("{listen},bind=127.0.0.1,reuseaddr,fork")]);
            command.arg(format!("OPEN:{},creat,append", received.display()));
            command
        });
        let root = certificate("private_root.pem");
        let keys = if is_tls { format!("    tls: {{ ca_file: {root} }}") } else { String::new() };
        let config = config(&installation, peer.port, &keys);
        installation.run_bare(&["-c", &config]).assert_code(0);
        assert_received_once(&installation, peer.ids(2_000, 0));
    }
}

/// Run with `cargo test --locked --test tests -- --ignored interop`.
#[test]
#[ignore = "needs rsyslogd: cargo test --test tests -- --ignored interop_rsyslog"]
fn interop_rsyslog_receives_every_message() {
    let installation = Installation::new();
    installation.contoso.add_blobs(FEED, 20, 100, hours_ago(20)..hours_ago(2));
    let peer = Peer::start(&installation, |port, received| {
        let config = installation.path("rsyslog.conf");
        let text = format!(
            "global(workDirectory=\"{folder}\" maxMessageSize=\"2m\" parser.escapeControlCharactersOnReceive=\"off\")\n\
             module(load=\"imtcp\" addtlFrameDelimiter=\"0\" disableLFDelimiter=\"on\")\n\
             input(type=\"imtcp\" address=\"127.0.0.1\" port=\"{port}\" ruleset=\"gelf\")\n\
             template(name=\"raw\" type=\"string\" string=\"%rawmsg%\\n\")\n\
             ruleset(name=\"gelf\") {{ action(type=\"omfile\" file=\"{received}\" template=\"raw\") }}\n",
            folder = installation.path("").display(),
            received = received.display()
        );
        fs::write(&config, text).expect("a file");
        let mut command = Command::new("/usr/sbin/rsyslogd");
        command.arg("-n").arg("-f").arg(config).arg("-i").arg(installation.path("rsyslog.pid"));
        command
    });
    pass(&installation, peer.port).assert_code(0);
    assert_received_once(&installation, peer.ids(2_000, b'\n'));
}
