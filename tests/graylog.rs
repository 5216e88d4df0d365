//! Graylog by GELF over TCP and TLS: every record comes as a message, and no outage loses one.

use std::{
    collections::BTreeSet,
    fs,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
};

use rustix::process::Signal;
use rustls::{ServerConfig, crypto::ring};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::{Map, Value};
use simulator::{NewBlob, Operation};

use crate::support::{
    Installation, Run,
    gelf::{GelfReceiver, Manner},
    hours_ago,
    process::{WAIT_MAX, at_once, signal, wait_until},
    set_mode,
};

const FEED: &str = "Audit.General";

/// The configuration with Graylog at this port beside the files, and these further keys of it. Without `retryTimeout`
/// among them it is short.
fn config(installation: &Installation, port: u16, keys: &str) -> String {
    let retry = if keys.contains("retryTimeout") { "" } else { "\n    retryTimeout: 1s" };
    let keys = format!("{keys}{retry}");
    let keys = keys.trim_start_matches('\n');
    let graylog = format!("  graylog:\n    address: 127.0.0.1\n    port: {port}\n{keys}\n");
    let path = installation.path("graylog.yaml");
    fs::write(&path, installation.config() + &graylog).expect("a writable folder");
    set_mode(&path, 0o600);
    path.to_str().expect("a path of text").to_owned()
}

fn pass(installation: &Installation, port: u16) -> Run {
    installation.run_bare(&["-c", &config(installation, port, "")])
}

#[test]
fn every_record_is_a_message_of_gelf() {
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
        .expect("a message");
    let expected = serde_json::json!({
        "version": "1.1", "host": "contoso", "level": 6, "timestamp": 1_795_342_500.0,
        "short_message": "Send by adele@contoso.example", "_Id": "01234567-89ab-cdef-0123-456789abcdef",
        "_CreationTime": "2026-11-22T10:15:00", "_record_id": 1, "_n": "\0", "_n_2": 2, "_Operation": "Send",
        "_UserId": "adele@contoso.example", "_ok": "true", "_o": "{\"a\":[1]}", "_OriginFeed": "DLP.All",
        "_TenantName": "contoso",
    });
    assert_eq!(Value::Object(message), expected);
    assert_eq!(installation.known_blobs().len(), 6);
    assert!(receiver.connections() <= 2, "one connection a batch, not {}", receiver.connections());
}

#[test]
fn an_outage_of_two_passes_loses_nothing_and_repeats_nothing_in_the_files() {
    let installation = Installation::new();
    let contoso = &installation.contoso;
    let gone = GelfReceiver::start();
    gone.close();
    for _ in 0..2 {
        contoso.add_blobs(FEED, 3, 4, hours_ago(20)..hours_ago(2));
        pass(&installation, gone.port()).assert_code(1).assert_line_with(&[
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
fn a_connection_that_breaks_off_is_made_anew_and_everything_unconfirmed_is_sent_again() {
    at_once([0, 1, 5_000, 200_000], |read| {
        let installation = Installation::new();
        let contoso = &installation.contoso;
        contoso.add_blobs(FEED, 10, 60, hours_ago(20)..hours_ago(2));
        let receiver = GelfReceiver::start();
        receiver.behave(&[Manner::BreakOffAfter(read), Manner::BreakOffAfter(read / 2)]);
        let config = config(&installation, receiver.port(), "    retryTimeout: 30s");
        installation
            .run_bare(&["-c", &config])
            .assert_code(0)
            .assert_line_with(&["[WARN] Output graylog sends again what was not confirmed: 127.0.0.1:"]);
        let ids: BTreeSet<_> = receiver.ids().into_keys().collect();
        assert_eq!(ids, contoso.ids(FEED), "broken off after {read} bytes");
        installation.assert_delivered_once([(contoso, FEED)]);
    });
}

#[test]
fn a_receiver_that_always_breaks_off_is_given_up_and_nothing_is_known() {
    let installation = Installation::new();
    installation.contoso.add_blobs(FEED, 2, 60, hours_ago(20)..hours_ago(2));
    let receiver = GelfReceiver::start();
    receiver.behave(&[Manner::BreakOffAfter(100); 50]);
    pass(&installation, receiver.port())
        .assert_code(1)
        .assert_line_with(&["[ERROR] Output graylog failed: 127.0.0.1:", "closed the connection"]);
    assert!((2..50).contains(&receiver.connections()), "{} connections", receiver.connections());
    assert_eq!(installation.known_blobs(), [""; 0]);
    receiver.behave(&[]);
    pass(&installation, receiver.port()).assert_code(0);
    assert_eq!(receiver.ids().into_keys().collect::<BTreeSet<_>>(), installation.contoso.ids(FEED));
    installation.assert_delivered_once([(&installation.contoso, FEED)]);
}

#[test]
fn what_was_confirmed_before_an_outage_is_not_sent_again() {
    let installation = Installation::new().setting("curl_max_size: 20M");
    let contoso = &installation.contoso;
    let text = "x".repeat(30_000);
    let record = |number| {
        format!(r#"{{"Id":"{number:08x}-0000-4000-8000-000000000000","Operation":"Send","Text":"{text}"}}"#)
    };
    // 18 MB, of which 16 MiB are confirmed before the rest is sent.
    contoso.add_blob(FEED, NewBlob::texts((1..=600).map(record)).created(hours_ago(2)));
    let receiver = GelfReceiver::start();
    receiver.behave(&[&[Manner::Read][..], &[Manner::BreakOffAfter(0); 100]].concat());
    pass(&installation, receiver.port())
        .assert_code(1)
        .assert_line_with(&["[ERROR] Output graylog failed: 127.0.0.1:", "closed the connection"]);
    let confirmed = receiver.ids().len();
    assert!((500..600).contains(&confirmed), "{confirmed} records confirmed");
    assert_eq!(installation.known_blobs(), [""; 0]);
    receiver.behave(&[]);
    pass(&installation, receiver.port()).assert_code(0);
    assert_eq!(receiver.ids(), contoso.ids(FEED).into_iter().map(|id| (id, 1)).collect());
    installation.assert_delivered_once([(contoso, FEED)]);
    assert_eq!(installation.known_blobs().len(), 1);
}

#[test]
fn a_receiver_that_stands_still_does_not_keep_a_pass_from_ending() {
    let installation = Installation::new();
    installation.contoso.add_blobs(FEED, 2, 10, hours_ago(20)..hours_ago(2));
    let receiver = GelfReceiver::start();
    receiver.behave(&[Manner::Stand]);
    let config = config(&installation, receiver.port(), "");
    let child = installation.command(&["-c", &config]).spawn().expect("the program starts");
    assert!(installation.simulator.wait_for(2, Operation::FetchBlob, WAIT_MAX));
    signal(&child, Signal::TERM);
    let run = Run::finish(child);
    run.assert_code(143).assert_line_with(&["[ERROR] Output graylog failed", "the pass had to end"]);
    assert_eq!(installation.known_blobs(), [""; 0]);
    pass(&installation, receiver.port()).assert_code(0);
    assert_eq!(receiver.ids(), installation.contoso.ids(FEED).into_iter().map(|id| (id, 1)).collect());
    installation.assert_delivered_once([(&installation.contoso, FEED)]);
}

/// One of the files in `tests/certificates/tls`.
fn certificate(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates/tls").join(name)
}

/// A server that is called `here`, as far as the certificate goes.
fn tls() -> Arc<ServerConfig> {
    let certificates: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(certificate("here.pem")).expect("a file").collect();
    let key = PrivateKeyDer::from_pem_file(certificate("server.key")).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions that ring knows")
        .with_no_client_auth()
        .with_single_cert(certificates.expect("certificates"), key);
    Arc::new(config.expect("a certificate and its own key"))
}

#[test]
fn records_go_through_tls_to_whom_a_private_root_vouches_for() {
    let installation = Installation::new();
    installation.contoso.add_blobs(FEED, 3, 40, hours_ago(20)..hours_ago(2));
    let receiver = GelfReceiver::start_with_tls(tls());
    let untrusted = config(&installation, receiver.port(), "    tls: {}");
    installation.run_bare(&["-c", &untrusted]).assert_code(1).assert_line_with(&[
        "[ERROR] Output graylog failed",
        "certificate is not trusted",
        "tls.ca_file",
    ]);
    assert_eq!(receiver.messages(), []);
    let keys = format!("    tls: {{ ca_file: {} }}", certificate("private_root.pem").display());
    let trusted = config(&installation, receiver.port(), &keys);
    installation.run_bare(&["-c", &trusted]).assert_code(0);
    assert_eq!(receiver.ids(), installation.contoso.ids(FEED).into_iter().map(|id| (id, 1)).collect());
    installation.assert_delivered_once([(&installation.contoso, FEED)]);
}

#[test]
fn a_receiver_that_expects_tls_is_reported_as_such() {
    let installation = Installation::new();
    installation.contoso.add_blobs(FEED, 1, 400, hours_ago(20)..hours_ago(2));
    let receiver = GelfReceiver::start_with_tls(tls());
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
fn a_message_without_an_operation_is_called_by_its_content_type() {
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
fn a_receiver_that_does_not_close_can_be_used_without_confirmation() {
    let installation = Installation::new();
    installation.contoso.add_blobs(FEED, 3, 40, hours_ago(20)..hours_ago(2));
    let receiver = GelfReceiver::start();
    receiver.behave(&[Manner::KeepOpen]);
    let config = config(&installation, receiver.port(), "    confirm: false");
    installation.run_bare(&["-c", &config]).assert_code(0);
    receiver.wait_for_messages(120);
    assert_eq!(receiver.ids(), installation.contoso.ids(FEED).into_iter().map(|id| (id, 1)).collect());
    assert_eq!((receiver.connections(), installation.known_blobs().len()), (1, 3));
}

#[test]
fn a_receiver_that_restarts_within_the_retry_timeout_fails_no_pass() {
    let installation = Installation::new();
    installation.contoso.add_blobs(FEED, 3, 40, hours_ago(20)..hours_ago(2));
    let receiver = GelfReceiver::start();
    receiver.behave(&[Manner::BreakOffAfter(0); 4]);
    let config = config(&installation, receiver.port(), "    retryTimeout: 20s");
    installation.run_bare(&["-c", &config]).assert_code(0);
    assert_eq!(receiver.ids(), installation.contoso.ids(FEED).into_iter().map(|id| (id, 1)).collect());
    installation.assert_delivered_once([(&installation.contoso, FEED)]);
}

/// A program that another project wrote, receiving on a port of its own. It is ended when this is dropped.
struct Peer {
    child: Child,
    port: u16,
    received: PathBuf,
}

impl Peer {
    /// `command` is told the port and the file to write to.
    fn start(installation: &Installation, command: impl FnOnce(u16, &Path) -> Command) -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a port")
            .port();
        let received = installation.path("received");
        let child = command(port, &received).stdin(Stdio::null()).spawn().expect("the receiver is installed");
        wait_until("the receiver listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self { child, port, received }
    }

    /// Waits until this number of messages is in its file, each ended by this byte, and gives the Id of each.
    fn ids(&self, count: usize, delimiter: u8) -> Vec<String> {
        let mut bytes = Vec::new();
        wait_until("every message is received", || {
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
        self.child.kill().expect("a program of ours");
        self.child.wait().expect("a program of ours");
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
fn interop_socat_receives_every_message_plain_and_under_tls() {
    for is_tls in [false, true] {
        let installation = Installation::new();
        installation.contoso.add_blobs(FEED, 20, 100, hours_ago(20)..hours_ago(2));
        let peer = Peer::start(&installation, |port, received| {
            let listen = if is_tls {
                let (own, key) = (certificate("here.pem"), certificate("server.key"));
                format!("OPENSSL-LISTEN:{port},cert={},key={},verify=0", own.display(), key.display())
            } else {
                format!("TCP-LISTEN:{port}")
            };
            let mut command = Command::new("socat");
            command.args(["-u", &format!("{listen},bind=127.0.0.1,reuseaddr,fork")]);
            command.arg(format!("OPEN:{},creat,append", received.display()));
            command
        });
        let root = certificate("private_root.pem");
        let keys = if is_tls { format!("    tls: {{ ca_file: {} }}", root.display()) } else { String::new() };
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
