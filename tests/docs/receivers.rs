//! The receivers' configurations in `docs/RECEIVERS.md`: each is built as its program wants it, with keys that its
//! plugins have, and fits what the collector sends or writes. rsyslog's is run.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    net::{Ipv4Addr, TcpListener},
    path::Path,
    process::{Child, Command},
};

use office_audit_log_collector::config::Config;
use serde_yaml::Value;
use simulator::NewBlob;

use crate::support::{
    Installation,
    documents::{self, Page},
    hours_ago,
};

fn page() -> Page {
    Page::read("docs/RECEIVERS.md")
}

/// The collector's configuration of a section, the one below this heading.
fn configuration_below(heading: &str) -> Config {
    let page = page();
    let (_, section) = page.text.split_once(&format!("\n## {heading}\n")).expect("a section");
    let section = Page { name: page.name.clone(), text: section.to_owned() };
    documents::load(section.blocks("yaml")[0]).config
}

/// Keys that a plugin has, of those that are of use here.
///
/// Source: the reference documentation of each.
const KEYS: [(&str, &[&str]); 20] = [
    (
        "fluentd source tail",
        &["path", "refresh_interval", "pos_file", "tag", "read_from_head", "follow_inodes", "rotate_wait"],
    ),
    ("fluentd parse json", &["time_key", "time_type", "time_format", "utc", "keep_time_key"]),
    ("fluentd source forward", &["bind", "port"]),
    ("fluentd transport tls", &["cert_path", "private_key_path"]),
    ("fluentd security", &["self_hostname", "shared_key"]),
    ("fluentd match file", &["path", "append"]),
    ("fluentd match stdout", &[]),
    ("fluentd format json", &[]),
    ("fluentd buffer file", &["path", "timekey", "chunk_limit_size", "overflow_action", "retry_forever"]),
    (
        "fluent-bit tail",
        &[
            "name",
            "path",
            "refresh_interval",
            "tag",
            "parser",
            "read_from_head",
            "db",
            "rotate_wait",
            "buffer_max_size",
            "storage.type",
        ],
    ),
    (
        "fluent-bit forward",
        &[
            "name",
            "listen",
            "port",
            "shared_key",
            "self_hostname",
            "storage.type",
            "tls",
            "tls.crt_file",
            "tls.key_file",
        ],
    ),
    ("fluent-bit stdout", &["name", "match"]),
    ("fluent-bit parser", &["name", "format", "time_key", "time_format", "time_keep"]),
    ("fluent-bit service", &["flush", "storage.path"]),
    ("vector file", &["type", "include", "read_from", "fingerprint", "max_line_bytes"]),
    ("vector fluent", &["type", "address", "tls"]),
    ("vector http_server", &["type", "address", "path", "framing", "decoding"]),
    ("vector remap", &["type", "inputs", "source"]),
    ("vector console", &["type", "inputs", "encoding", "acknowledgements"]),
    ("vector", &["data_dir", "sources", "transforms", "sinks"]),
];

#[track_caller]
fn assert_known<'a>(plugin: &str, keys: impl IntoIterator<Item = &'a str>) {
    let known = KEYS.iter().find(|(name, _)| *name == plugin).map(|(_, known)| *known);
    let known = known.unwrap_or_else(|| panic!("no plugin {plugin}"));
    for key in keys {
        assert!(known.contains(&key), "{plugin} has no {key}");
    }
}

/// A section of Fluentd's configuration: `<source>` or `<match office365.**>`.
#[derive(Debug, Default)]
struct Section {
    name: String,
    argument: String,
    values: Vec<(String, String)>,
    sections: Vec<Section>,
}

impl Section {
    /// Takes a configuration apart. Fails where a section is not ended, or ended by another's name.
    fn parse(text: &str) -> Self {
        let mut open = vec![Self::default()];
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some(name) = line.strip_prefix("</") {
                let ended = open.pop().expect("a section");
                assert_eq!(format!("{}>", ended.name), name);
                open.last_mut().expect("an open section").sections.push(ended);
            } else if let Some(begun) = line.strip_prefix('<') {
                let begun = begun.strip_suffix('>').unwrap_or_else(|| panic!("{line}"));
                let (name, argument) = begun.split_once(' ').unwrap_or((begun, ""));
                open.push(Self { name: name.to_owned(), argument: argument.to_owned(), ..Self::default() });
            } else {
                let (key, value) = line.split_once(' ').unwrap_or_else(|| panic!("{line}"));
                let value = (key.to_owned(), value.trim().to_owned());
                open.last_mut().expect("an open section").values.push(value);
            }
        }
        assert_eq!(open.len(), 1, "{} is not ended", open.last().expect("a section").name);
        open.remove(0)
    }

    fn value(&self, key: &str) -> &str {
        let found = self.values.iter().find(|(name, _)| name == key);
        found.map_or_else(|| panic!("no {key} in {self:?}"), |(_, value)| value)
    }

    fn of(&self, name: &str) -> &Self {
        self.sections
            .iter()
            .find(|section| section.name == name)
            .unwrap_or_else(|| panic!("no {name} in {self:?}"))
    }

    /// Whether each section has the keys that its plugin knows.
    fn assert_keys(&self) {
        for section in &self.sections {
            let kind = section.values.iter().find(|(key, _)| key == "@type").map(|(_, kind)| kind.as_str());
            let transport = Some(section.argument.as_str()).filter(|_| section.name == "transport");
            let plugin = ["fluentd", &section.name].into_iter().chain(kind.or(transport)).collect::<Vec<_>>();
            let keys = section.values.iter().map(|(key, _)| key.as_str()).filter(|key| *key != "@type");
            assert_known(&plugin.join(" "), keys);
            section.assert_keys();
        }
    }
}

/// The text of a key that may hold a number or a switch.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => serde_yaml::to_string(other).expect("a scalar").trim().to_owned(),
    }
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_mapping().expect("a mapping").keys().map(|key| key.as_str().expect("a name")).collect()
}

fn documents_of(title: &str) -> Vec<Value> {
    let (page, title) = (page(), format!("yaml title={title}"));
    let parsed = |block: &str| serde_yaml::from_str(block).unwrap_or_else(|error| panic!("{error}: {block}"));
    page.blocks(&title).into_iter().map(parsed).collect()
}

/// Like [`assert_covers`], and the rotated files that a shipper may not have seen under their first name.
fn assert_covers_rotated(patterns: &str) {
    let (files, rotated) = patterns.split_once(',').expect("two patterns");
    assert_covers(files);
    assert_eq!(rotated, format!("{files}.1"));
}

/// The records' files that the collector writes, as a shipper's pattern names them.
fn assert_covers(pattern: &str) {
    let file = configuration_below("Files, followed by a shipper").output.file.expect("files");
    let folder = file.path.parent().expect("a folder");
    assert!(file.separate_by_content_type && Path::new(pattern) == folder.join("*.json"), "{pattern}");
}

#[test]
fn fluentds_configurations_fit() {
    let page = page();
    let [follows, receives] = [0, 1].map(|place| Section::parse(page.blocks("fluentd")[place]));
    for config in [&follows, &receives] {
        config.assert_keys();
        assert_eq!(config.of("match").argument, "office365.**");
    }
    let source = follows.of("source");
    assert_covers_rotated(source.value("path"));
    assert_eq!([source.value("read_from_head"), source.value("follow_inodes")], ["true"; 2]);
    assert_eq!(source.of("parse").value("time_key"), "CreationTime");

    let fluentd = configuration_below("The forward protocol").output.fluentd.expect("a receiver");
    let source = receives.of("source");
    assert_eq!(source.value("port"), fluentd.port.to_string());
    assert_eq!(source.of("security").value("self_hostname"), fluentd.address);
    assert!(fluentd.tls.is_some() && source.of("transport").argument == "tls");
    assert!(
        source.of("security").value("shared_key").contains("FLUENTD_SHARED_KEY")
            && fluentd.shared_key.is_some()
    );
    assert!(fluentd.tag.starts_with("office365."));
    let buffer = receives.of("match").of("buffer");
    assert_eq!([buffer.value("@type"), buffer.value("overflow_action")], ["file", "throw_exception"]);
    assert!(buffer.argument.split(',').any(|key| key == "tag"), "the path names the tag");
}

#[test]
fn fluent_bits_configurations_fit() {
    let documents = documents_of("fluent-bit");
    assert_eq!(documents.len(), 2);
    for document in &documents {
        assert_known("fluent-bit service", keys(&document["service"]));
        for part in ["inputs", "outputs"] {
            for plugin in document["pipeline"][part].as_sequence().expect("plugins") {
                assert_known(&format!("fluent-bit {}", text(&plugin["name"])), keys(plugin));
            }
        }
        let stored = text(&document["pipeline"]["inputs"][0]["storage.type"]);
        assert_eq!(stored, "filesystem");
        assert!(document["service"].get("storage.path").is_some(), "nowhere to store");
    }
    let tail = &documents[0]["pipeline"]["inputs"][0];
    assert_covers_rotated(&text(&tail["path"]));
    let parser = &documents[0]["parsers"][0];
    assert_known("fluent-bit parser", keys(parser));
    assert_eq!((&tail["parser"], text(&parser["time_key"])), (&parser["name"], "CreationTime".to_owned()));
    assert_eq!(tail["tag"], documents[0]["pipeline"]["outputs"][0]["match"]);

    let fluentd = configuration_below("The forward protocol").output.fluentd.expect("a receiver");
    let forward = &documents[1]["pipeline"]["inputs"][0];
    assert_eq!(text(&forward["port"]), fluentd.port.to_string());
    assert!(forward.get("tag").is_none());
    assert!(text(&documents[1]["pipeline"]["outputs"][0]["match"]).starts_with("office365."));
}

#[test]
fn vectors_configurations_fit() {
    let documents = documents_of("vector");
    assert_eq!(documents.len(), 3);
    for document in &documents {
        assert_known("vector", keys(document));
        let mut named = BTreeSet::new();
        for part in ["sources", "transforms", "sinks"] {
            let Some(components) = document.get(part) else { continue };
            for (name, component) in components.as_mapping().expect("components") {
                assert_known(&format!("vector {}", text(&component["type"])), keys(component));
                for input in component.get("inputs").and_then(Value::as_sequence).into_iter().flatten() {
                    assert!(named.contains(&text(input)), "no component {input:?}");
                }
                named.insert(text(name));
            }
        }
        assert_eq!(text(&document["sinks"]["out"]["acknowledgements"]["enabled"]), "true");
    }
    let files = &documents[0]["sources"]["office365_files"];
    assert_covers(&text(&files["include"][0]));
    assert_eq!(text(&files["fingerprint"]["strategy"]), "device_and_inode");
    let fluentd = configuration_below("The forward protocol").output.fluentd.expect("a receiver");
    let address = text(&documents[1]["sources"]["office365"]["address"]);
    assert!(address.ends_with(&format!(":{}", fluentd.port)), "{address}");
    let http = &documents[2]["sources"]["office365"];
    let url =
        format!("http://{}{}", text(&http["address"]), text(&http["path"])).replace("127.0.0.1", "localhost");
    assert!(
        page().blocks("yaml").iter().any(|block| block.contains(&url)),
        "no configuration posts to {url}"
    );
}

/// A program that ends with this.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.kill().expect("a program of ours");
        self.0.wait().expect("a program of ours");
    }
}

/// Run with `cargo test --locked --test tests -- --ignored interop`.
#[test]
#[ignore = "needs rsyslogd: cargo test --test tests -- --ignored interop_rsyslog"]
fn interop_rsyslog_follows_the_files_with_the_configuration_of_the_page() {
    let installation = Installation::new();
    installation.contoso.add_blobs("Audit.Exchange", 5, 20, hours_ago(20)..hours_ago(2));
    let long = format!("{{\"Id\":\"{}\",\"Text\":\"{}\"}}", "long", "x".repeat(1_000_000));
    installation.contoso.add_blob("Audit.General", NewBlob::texts([long]).created(hours_ago(2)));
    installation.run(&[]).assert_code(0);

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let config = page().blocks("rsyslog")[0]
        .replace("/var/spool/rsyslog", &installation.path("spool").display().to_string())
        .replace("/var/log/office365", &installation.path("output").display().to_string())
        .replace("logs.example", "127.0.0.1")
        .replace("6514", &port.to_string());
    fs::create_dir(installation.path("spool")).expect("a folder");
    let path = installation.path("rsyslog.conf");
    fs::write(&path, config).expect("a file");
    let rsyslogd = || {
        let mut command = Command::new("/usr/sbin/rsyslogd");
        command.arg("-f").arg(&path).arg("-i").arg(installation.path("rsyslog.pid"));
        command
    };
    let checked = rsyslogd().arg("-N1").output().expect("rsyslogd");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));

    let _running = Ended(rsyslogd().arg("-n").spawn().expect("rsyslogd"));
    let (connection, _) = listener.accept().expect("a connection");
    let lines = BufReader::new(connection).lines().take(101).map(|line| line.expect("a line"));
    let received: BTreeSet<_> = lines.collect();
    let written: BTreeSet<_> = installation.output().into_values().flatten().collect();
    assert_eq!(received.len(), 101);
    assert!(received == written, "what arrived is not what was written");
}
