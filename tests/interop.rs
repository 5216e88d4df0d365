//! `output.fluentd` against receivers and decoders of other projects. Install them first:
//!
//! ```text
//! tests/interop/install FOLDER
//! INTEROP=FOLDER cargo test --locked --test tests -- --ignored interop
//! ```

use std::{
    collections::BTreeMap,
    env, fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
};

use serde_json::{Value, json};
use simulator::NewBlob;

use crate::support::{Installation, hours_ago, process::WAIT_MAX, tls::certificate, whole_lines};

/// A receiver of another project on a free port of 127.0.0.1. Dropping it ends the program.
pub struct Peer {
    program: Child,
    pub port: u16,
    /// The lines that it prints after the port.
    lines: Receiver<String>,
}

impl Peer {
    /// Starts a script of `tests/interop` with the packages that were installed for it. Its first line is its port.
    pub fn start(interpreter: &str, script: &str, arguments: &[&str]) -> Self {
        let installed = env::var_os("INTEROP").expect("INTEROP names the folder of tests/interop/install");
        let installed = PathBuf::from(installed);
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop").join(script);
        let mut program = Command::new(interpreter)
            .arg(path)
            .args(arguments)
            .env("NODE_PATH", installed.join("node_modules"))
            .env("PYTHONPATH", installed.join("python"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{interpreter}: {error}"));
        let stdout = BufReader::new(program.stdout.take().expect("a pipe"));
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let port = lines.recv_timeout(WAIT_MAX).expect("the script prints its port");
        Self { program, port: port.parse().expect("a port number"), lines }
    }

    /// Waits for the next lines, and parses them as JSON.
    pub fn events(&self, count: usize) -> Vec<Value> {
        let next = || self.lines.recv_timeout(WAIT_MAX).expect("the script prints every event");
        (0..count).map(|_| serde_json::from_str(&next()).expect("JSON")).collect()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.program.kill().and_then(|()| self.program.wait()).expect("a child of this process");
    }
}

/// Contoso with 4,000 records in two feeds, the output files and one more output.
fn installation(output: &str) -> Installation {
    let installation = Installation::new().with_output(output);
    for feed in ["Audit.Exchange", "Audit.AzureActiveDirectory"] {
        for _ in 0..20 {
            installation.contoso.add_blob(feed, NewBlob::records(100).plain().created(hours_ago(2)));
        }
    }
    installation
}

/// Runs a pass and asserts that each event of the peer is a line of the files, with its tag and time.
#[track_caller]
fn assert_every_event_received(installation: &Installation, peer: &Peer) {
    installation.run(&[]).assert_code(0);
    let mut lines = BTreeMap::new();
    for (file, tag) in [
        ("AuditExchange.json", "Audit.Exchange"),
        ("AuditAzureActiveDirectory.json", "Audit.AzureActiveDirectory"),
    ] {
        for line in whole_lines(&installation.path("output").join(file)) {
            let record: Value = serde_json::from_str(&line).expect("JSON");
            lines.insert(record["Id"].to_string(), (format!("office365.contoso.{tag}"), record));
        }
    }
    assert_eq!(lines.len(), 4_000);
    for event in peer.events(lines.len()) {
        let id = event["record"]["Id"].to_string();
        let (tag, record) =
            lines.remove(&id).unwrap_or_else(|| panic!("{id} was not sent, or was received twice"));
        assert_eq!(event["tag"], tag.as_str());
        assert_eq!(event["record"], record);
        let time: jiff::civil::DateTime =
            record["CreationTime"].as_str().and_then(|time| time.parse().ok()).expect("a date and time");
        let time = time.to_zoned(jiff::tz::TimeZone::UTC).expect("a time").timestamp();
        assert_eq!(
            [event["seconds"].as_i64(), event["nanoseconds"].as_i64()],
            [Some(time.as_second()), Some(time.subsec_nanosecond().into())]
        );
    }
}

fn forward_output(peer: &Peer, keys: &str) -> String {
    format!("  fluentd:\n    address: localhost\n    port: {}\n{keys}", peer.port)
}

#[test]
#[ignore = "needs Node's @fluent-org/logger, which tests/interop/install installs: INTEROP=FOLDER cargo test --test tests -- --ignored interop"]
fn node_forward_server_receives_every_event() {
    let read = |name| fs::read_to_string(certificate(name)).expect("a readable certificate or key");
    let key = json!({
        "serverHostname": "receiver.example", "sharedKey": "sesame", "userDict": {}
    });
    let user = json!({
        "serverHostname": "receiver.example", "sharedKey": "sesame",
        "userDict": {"collector": "hunter2"}
    });
    let tls = json!({"cert": read("here.pem"), "key": read("server.key")});
    let keys = "    sharedKey: sesame\n    username: collector\n    password: hunter2\n";
    let root = format!("    tls: {{ ca_file: {} }}\n", certificate("private_root.pem"));
    for (options, keys) in [
        (json!({}), String::new()),
        (json!({}), "    compress: gzip\n".to_owned()),
        (json!({"security": key}), "    sharedKey: sesame\n".to_owned()),
        (json!({"security": user}), keys.to_owned()),
        (json!({"security": user, "tlsOptions": tls}), format!("{keys}{root}    compress: gzip\n")),
    ] {
        let peer = Peer::start("node", "fluent_server.js", &[&options.to_string()]);
        assert_every_event_received(&installation(&forward_output(&peer, &keys)), &peer);
    }
}

#[test]
#[ignore = "needs Python's msgpack, which tests/interop/install installs: INTEROP=FOLDER cargo test --test tests -- --ignored interop"]
fn python_msgpack_decodes_every_event() {
    for keys in ["", "    compress: gzip\n"] {
        let peer = Peer::start("python3", "forward_server.py", &[]);
        assert_every_event_received(&installation(&forward_output(&peer, keys)), &peer);
    }
}
