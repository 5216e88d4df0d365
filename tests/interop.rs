//! Against receivers and decoders that this project did not write. They have to be installed before:
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
    time::Duration,
};

use serde_json::{Value, json};
use simulator::NewBlob;

use crate::support::{Installation, hours_ago, whole_lines};

/// How long a peer may take to say what it is to say.
const PATIENCE: Duration = Duration::from_secs(60);

/// Somebody else's program that listens on a port of the loopback, for as long as this lives.
struct Peer {
    program: Child,
    port: u16,
    lines: Receiver<String>,
}

impl Peer {
    /// Starts a script of `tests/interop` with what was installed for it. The first line that it says is its port.
    fn start(interpreter: &str, script: &str, arguments: &[&str]) -> Self {
        let installed = PathBuf::from(
            env::var_os("INTEROP").expect("INTEROP, the folder that tests/interop/install filled"),
        );
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
        let (said, lines) = mpsc::channel();
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| said.send(line)));
        let port = lines.recv_timeout(PATIENCE).expect("a peer that says its port");
        Self { program, port: port.parse().expect("a port"), lines }
    }

    /// The next lines that it says, each read as JSON.
    fn events(&self, count: usize) -> Vec<Value> {
        let next = || self.lines.recv_timeout(PATIENCE).expect("another event");
        (0..count).map(|_| serde_json::from_str(&next()).expect("JSON")).collect()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.program.kill().expect("a program of ours");
        self.program.wait().expect("a program of ours");
    }
}

/// Contoso with records in two feeds, and one output beside the files.
fn installation(output: &str) -> Installation {
    let installation = Installation::new().with_output(output);
    for feed in ["Audit.Exchange", "Audit.AzureActiveDirectory"] {
        for _ in 0..20 {
            installation.contoso.add_blob(feed, NewBlob::records(100).plain().created(hours_ago(2)));
        }
    }
    installation
}

/// The events of a pass that delivered to this peer, each held against its line in the files.
#[track_caller]
fn assert_events_are_the_files_lines(installation: &Installation, peer: &Peer) {
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
        let (tag, record) = lines.remove(&id).unwrap_or_else(|| panic!("{id} is strange, or came twice"));
        assert_eq!(event["tag"], tag.as_str());
        assert_eq!(event["record"], record);
        let time: jiff::civil::DateTime =
            record["CreationTime"].as_str().and_then(|time| time.parse().ok()).expect("a time");
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
#[ignore = "needs Node's @fluent-org/logger, which tests/interop/install brings: INTEROP=FOLDER cargo test --test tests -- --ignored interop"]
fn the_forward_server_of_fluents_node_package_takes_our_chunks() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates/tls");
    let read = |name: &str| fs::read_to_string(folder.join(name)).expect("a file of the tests");
    let key = json!({
        "serverHostname": "receiver.example", "sharedKey": "sesame", "userDict": {}
    });
    let user = json!({
        "serverHostname": "receiver.example", "sharedKey": "sesame",
        "userDict": {"collector": "hunter2"}
    });
    let tls = json!({"cert": read("here.pem"), "key": read("server.key")});
    let keys = "    sharedKey: sesame\n    username: collector\n    password: hunter2\n";
    let root = format!("    tls: {{ ca_file: {} }}\n", folder.join("private_root.pem").display());
    for (options, keys) in [
        (json!({}), String::new()),
        (json!({}), "    compress: gzip\n".to_owned()),
        (json!({"security": key}), "    sharedKey: sesame\n".to_owned()),
        (json!({"security": user}), keys.to_owned()),
        (json!({"security": user, "tlsOptions": tls}), format!("{keys}{root}    compress: gzip\n")),
    ] {
        let peer = Peer::start("node", "fluent_server.js", &[&options.to_string()]);
        assert_events_are_the_files_lines(&installation(&forward_output(&peer, &keys)), &peer);
    }
}

#[test]
#[ignore = "needs Python's msgpack, which tests/interop/install brings: INTEROP=FOLDER cargo test --test tests -- --ignored interop"]
fn what_we_send_is_what_pythons_msgpack_reads() {
    for keys in ["", "    compress: gzip\n"] {
        let peer = Peer::start("python3", "forward_server.py", &[]);
        assert_events_are_the_files_lines(&installation(&forward_output(&peer, keys)), &peer);
    }
}
