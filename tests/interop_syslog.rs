//! `output.syslog` against rsyslog and syslog-ng. On Debian: `apt-get install rsyslog rsyslog-gnutls rsyslog-relp`;
//! `tests/interop/install` installs syslog-ng.
//!
//! ```text
//! INTEROP=FOLDER cargo test --locked --test tests -- --ignored interop_syslog
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Stdio,
};

use simulator::NewBlob;

use crate::{
    support::{
        Installation, Run,
        documents::Page,
        hours_ago,
        listener::unused_port,
        process::wait_until,
        syslog::SyslogMessage,
        syslog_daemon::{SyslogDaemon, rsyslogd, syslog_ng},
        tls::certificate,
    },
    syslog::config,
};

const FEED: &str = "Audit.General";

/// The maximum number of messages in flight.
const WINDOW: usize = 500;

/// An installation whose feed has 10,000 records. One in sixteen is odd, and a few are odder.
fn installation() -> Installation {
    let installation = Installation::new();
    let contoso = &installation.contoso;
    contoso.add_blobs(FEED, 99, 100, hours_ago(20)..hours_ago(2));
    let odd = |number: usize| {
        let text = match number {
            0 => "x".repeat(1_000_000),
            1 => "😀ä€".repeat(20_000),
            2 => r"\u0000 \n \r \t \u001b \u007f".to_owned() + "\u{7f}\u{80}\u{2028}\u{feff}\u{fffd}",
            3 => r#"] \" [x@1 y=\"z\"] <13>1 - - - - - -"#.to_owned(),
            4 => "#012 #000 %msg% $MSG \\\\n".to_owned(),
            5 => "12 <13>hello".to_owned(),
            _ => format!("{number} {}", "ü".repeat(number * 50)),
        };
        format!(r#"{{"Id":"0000{number:04}-0000-4000-8000-000000000000","Text":"{text}"}}"#)
    };
    contoso.add_blob(FEED, NewBlob::texts((0..100).map(odd)).created(hours_ago(2)));
    installation
}

/// The lines of the output file, which are the records that were delivered.
fn records(installation: &Installation) -> BTreeSet<String> {
    installation.output().into_values().flatten().collect()
}

/// The whole lines that the receiver has written so far.
fn received(installation: &Installation) -> Vec<String> {
    let bytes = fs::read(installation.path("received")).unwrap_or_default();
    let whole = bytes.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n"));
    whole.map(|line| String::from_utf8_lossy(&line[..line.len() - 1]).into_owned()).collect()
}

/// Waits until the receiver has written all records, and asserts that each is there once.
#[track_caller]
fn assert_received_once(installation: &Installation, receiver: &str) {
    let records = records(installation);
    assert_eq!(records.len(), 10_000);
    let mut lines = Vec::new();
    wait_until("the receiver has written all records", || {
        lines = received(installation);
        lines.len() >= records.len()
    });
    let counts = lines.into_iter().fold(BTreeMap::<_, usize>::new(), |mut counts, line| {
        *counts.entry(line).or_default() += 1;
        counts
    });
    let lost = records.iter().filter(|record| !counts.contains_key(*record)).count();
    let changed = counts.keys().filter(|line| !records.contains(*line)).count();
    let repeated = counts.values().filter(|count| **count > 1).count();
    assert_eq!((lost, changed, repeated), (0, 0, 0), "{receiver}: lost, changed and repeated records");
}

fn private_root() -> String {
    format!("tls: {{ ca_file: {} }}", certificate("private_root.pem"))
}

/// Returns a configuration of the documentation, with the paths and ports of a test.
fn documented(language: &str, place: usize, installation: &Installation, ports: &[(&str, u16)]) -> String {
    let mut config = Page::read("docs/RECEIVERS.md").blocks(language)[place].to_owned();
    for (path, own) in [
        ("/var/spool/rsyslog", installation.path("spool").display().to_string()),
        ("/var/log/office365.json", installation.path("received").display().to_string()),
        ("/etc/ssl/corp.pem", certificate("private_root.pem")),
        ("/etc/ssl/logs.example.pem", certificate("here.pem")),
        ("/etc/ssl/logs.example.key", certificate("server.key")),
    ] {
        config = config.replace(path, &own);
    }
    for (port, own) in ports {
        assert!(config.contains(port), "no port {port} in {config}");
        config = config.replace(port, &own.to_string());
    }
    config
}

#[test]
#[ignore = "needs rsyslog-relp and rsyslog-gnutls: cargo test --test tests -- --ignored interop_syslog"]
fn interop_syslog_rsyslog_receives_every_record_with_the_documented_configuration() {
    for protocol in ["relp", "tls"] {
        let installation = installation();
        let (relp, tls) = (unused_port(), unused_port());
        let rsyslog = documented("rsyslog", 1, &installation, &[("2514", relp), ("6514", tls)]);
        let mut check = rsyslogd(&installation, &rsyslog);
        Run::of(check.arg("-N1").stdout(Stdio::piped()).stderr(Stdio::piped())).assert_code(0);
        let _daemon = SyslogDaemon::start(rsyslogd(&installation, &rsyslog), tls);
        let port = if protocol == "relp" { relp } else { tls };
        let keys = [&private_root(), "maxMessageSize: 8M", "retryTimeout: 60s"];
        let config = config(&installation, protocol, port, &keys);
        installation.run_bare(&["-c", &config, "check"]).assert_code(0);
        installation.run_bare(&["-c", &config]).assert_code(0);
        assert_received_once(&installation, protocol);
    }
}

#[test]
#[ignore = "needs syslog-ng, which tests/interop/install installs: INTEROP=FOLDER cargo test --test tests -- --ignored interop_syslog"]
fn interop_syslog_ng_receives_every_record_with_the_documented_configuration() {
    let installation = installation();
    let port = unused_port();
    let syslog_ng_config = documented("syslog-ng", 0, &installation, &[("6514", port)]);
    let _daemon = SyslogDaemon::start(syslog_ng(&installation, &syslog_ng_config), port);
    let keys = [&private_root(), "maxMessageSize: 8M", "retryTimeout: 60s"];
    let config = config(&installation, "tls", port, &keys);
    installation.run_bare(&["-c", &config, "check"]).assert_code(0);
    installation.run_bare(&["-c", &config]).assert_code(0);
    assert_received_once(&installation, "syslog-ng");
}

/// Returns the records in lines of structured data and text, with parts joined.
///
/// # Panics
///
/// Panics if a part comes twice.
fn joined(lines: &[String]) -> Vec<String> {
    let mut whole = Vec::new();
    let mut parts = BTreeMap::<_, BTreeMap<usize, SyslogMessage>>::new();
    for line in lines {
        let message = SyslogMessage::parse(format!("<0>1 - - - - - {line}").as_bytes()).expect("a message");
        let Some(id) = message.parameters.get("splitId").cloned() else {
            whole.push(message.text);
            continue;
        };
        let number = message.parameters["part"].parse().expect("a number");
        let earlier = parts.entry(id).or_default().insert(number, message);
        assert_eq!(earlier, None, "part {number} comes twice");
    }
    for parts in parts.into_values() {
        if parts.values().all(|part| part.parameters["parts"] == parts.len().to_string()) {
            whole.push(parts.into_values().map(|part| part.text).collect());
        }
    }
    whole
}

#[test]
#[ignore = "needs rsyslog-relp, and syslog-ng, which tests/interop/install installs: INTEROP=FOLDER cargo test --test tests -- --ignored interop_syslog"]
fn interop_syslog_receivers_with_their_default_sizes_receive_all_parts() {
    for (receiver, protocol, size) in
        [("rsyslog", "tcp", "8096"), ("rsyslog", "relp", "8096"), ("syslog-ng", "tcp", "64K")]
    {
        let installation = installation();
        let port = unused_port();
        let file = installation.path("received").display().to_string();
        let command = if receiver == "rsyslog" {
            let input = if protocol == "tcp" { "imtcp" } else { "imrelp" };
            let config = format!(
                "global(workDirectory=\"{spool}\" parser.escapeControlCharactersOnReceive=\"off\")\n\
                 module(load=\"{input}\")\n\
                 input(type=\"{input}\" address=\"127.0.0.1\" port=\"{port}\" ruleset=\"all\")\n\
                 template(name=\"all\" type=\"string\" string=\"%structured-data% %msg%\\n\")\n\
                 ruleset(name=\"all\") {{ action(type=\"omfile\" file=\"{file}\" template=\"all\") }}\n",
                spool = installation.path("spool").display(),
            );
            rsyslogd(&installation, &config)
        } else {
            let config = format!(
                "@version: 3.38\n\
                 source all {{ syslog(ip(\"127.0.0.1\") port({port}) transport(\"tcp\")); }};\n\
                 destination all {{ file(\"{file}\" template(\"$SDATA $MSG\\n\")); }};\n\
                 log {{ source(all); destination(all); flags(flow-control); }};\n"
            );
            syslog_ng(&installation, &config)
        };
        let _daemon = SyslogDaemon::start(command, port);
        let size = format!("maxMessageSize: {size}");
        let config = config(&installation, protocol, port, &[&size, "retryTimeout: 60s"]);
        installation.run_bare(&["-c", &config, "check"]).assert_code(0);
        installation.run_bare(&["-c", &config]).assert_code(0);
        let records = records(&installation);
        let mut whole = Vec::new();
        wait_until("the receiver has written all parts", || {
            whole = joined(&received(&installation));
            whole.len() >= records.len()
        });
        assert_eq!((whole.len(), records.len()), (10_000, 10_000));
        assert!(
            whole.into_iter().collect::<BTreeSet<_>>() == records,
            "{receiver} over {protocol} received other records"
        );
    }
}

#[test]
#[ignore = "needs rsyslog-relp: cargo test --test tests -- --ignored interop_syslog"]
fn interop_syslog_relp_loses_nothing_and_repeats_only_the_window_when_rsyslog_is_killed() {
    let installation = installation();
    let port = unused_port();
    let rsyslog = format!(
        "global(workDirectory=\"{spool}\" maxMessageSize=\"8m\" parser.escapeControlCharactersOnReceive=\"off\")\n\
         module(load=\"imrelp\")\n\
         input(type=\"imrelp\" address=\"127.0.0.1\" port=\"{port}\" maxDataSize=\"8m\" ruleset=\"all\")\n\
         template(name=\"all\" type=\"string\" string=\"%msg%\\n\")\n\
         ruleset(name=\"all\" queue.type=\"Direct\") {{ action(type=\"omfile\" file=\"{file}\" template=\"all\") }}\n",
        spool = installation.path("spool").display(),
        file = installation.path("received").display(),
    );
    let daemon = SyslogDaemon::start(rsyslogd(&installation, &rsyslog), port);
    let config = config(&installation, "relp", port, &["maxMessageSize: 8M", "retryTimeout: 60s"]);
    let pass = installation.command(&["-c", &config]).spawn().expect("the program starts");
    wait_until("rsyslog has received some records", || received(&installation).len() > 1_000);
    drop(daemon);
    let before = received(&installation).len();
    assert!(before < 10_000, "rsyslog was killed after the pass");
    let _daemon = SyslogDaemon::start(rsyslogd(&installation, &rsyslog), port);
    let run = Run::finish(pass);
    run.assert_code(0).assert_line_with(&["[WARN] Output syslog: sending ", " message(s) again"]);

    let records = records(&installation);
    let (mut counts, mut cut) = (BTreeMap::<&str, usize>::new(), 0);
    let lines = received(&installation);
    for line in &lines {
        // A line that was being written at the kill is followed by the next one.
        let starts = line.match_indices('{').map(|(start, _)| &line[start..]);
        let record = starts.into_iter().find(|rest| records.contains(*rest));
        let record = record.unwrap_or_else(|| panic!("not a record: {line:.100}"));
        cut += usize::from(record.len() < line.len());
        *counts.entry(record).or_default() += 1;
    }
    assert_eq!((records.len(), counts.len()), (10_000, 10_000));
    let repeated: usize = counts.values().map(|count| count - 1).sum();
    assert!(repeated <= WINDOW && cut <= 1, "{repeated} records came twice, {cut} lines were cut");
}
