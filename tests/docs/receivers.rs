//! Checks of the receivers' configurations in `docs/RECEIVERS.md`: each has the syntax of its program and only keys that its
//! plugins know, and matches the collector's configuration next to it. rsyslog's also runs.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    net::{Ipv4Addr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
};

use office_audit_log_collector::config::{Config, HttpFormat};
use serde_yaml::Value;
use simulator::NewBlob;

use crate::support::{
    Installation, Run,
    documents::{self, Page},
    hours_ago,
    process::{WAIT_MAX, wait_until},
};

fn page() -> Page {
    Page::read("docs/RECEIVERS.md")
}

/// Returns the collector's configuration in the section with this heading.
fn configuration_below(heading: &str) -> Config {
    let page = page();
    let (_, section) = page.text.split_once(&format!("\n## {heading}\n")).expect("a section");
    let section = Page { name: page.name.clone(), text: section.to_owned() };
    documents::load(section.blocks("yaml")[0]).config
}

/// The keys of each plugin that are used here, by the reference documentation of the plugin.
const KEYS: [(&str, &[&str]); 26] = [
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
    ("otelcol", &["extensions", "receivers", "exporters", "service"]),
    ("otelcol file_storage", &["directory", "create_directory", "fsync"]),
    ("otelcol otlp", &["protocols"]),
    ("otelcol http", &["endpoint"]),
    ("otelcol otlp_http", &["endpoint", "sending_queue", "retry_on_failure"]),
    ("otelcol service", &["extensions", "pipelines"]),
];

/// Asserts that a plugin knows these keys.
#[track_caller]
fn assert_known<'a>(plugin: &str, keys: impl IntoIterator<Item = &'a str>) {
    let known = KEYS.iter().find(|(name, _)| *name == plugin).map(|(_, known)| *known);
    let known = known.unwrap_or_else(|| panic!("KEYS lacks the plugin {plugin}"));
    for key in keys {
        assert!(known.contains(&key), "{plugin} has no key {key}");
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
    /// Parses a configuration.
    ///
    /// # Panics
    ///
    /// Panics if a section has no end tag, or an end tag with another name.
    fn parse(text: &str) -> Self {
        let mut open = vec![Self::default()];
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some(name) = line.strip_prefix("</") {
                let closed = open.pop().expect("a section");
                assert_eq!(format!("{}>", closed.name), name);
                open.last_mut().expect("an open section").sections.push(closed);
            } else if let Some(tag) = line.strip_prefix('<') {
                let tag = tag.strip_suffix('>').unwrap_or_else(|| panic!("no > in {line}"));
                let (name, argument) = tag.split_once(' ').unwrap_or((tag, ""));
                open.push(Self { name: name.to_owned(), argument: argument.to_owned(), ..Self::default() });
            } else {
                let (key, value) = line.split_once(' ').unwrap_or_else(|| panic!("no value in {line}"));
                let value = (key.to_owned(), value.trim().to_owned());
                open.last_mut().expect("an open section").values.push(value);
            }
        }
        assert_eq!(open.len(), 1, "{} has no end tag", open.last().expect("a section").name);
        open.remove(0)
    }

    fn value(&self, key: &str) -> &str {
        let entry = self.values.iter().find(|(name, _)| name == key);
        entry.map_or_else(|| panic!("no {key} in {self:?}"), |(_, value)| value)
    }

    fn section(&self, name: &str) -> &Self {
        self.sections
            .iter()
            .find(|section| section.name == name)
            .unwrap_or_else(|| panic!("no {name} in {self:?}"))
    }

    /// Asserts that each section has only keys that its plugin knows.
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

/// Returns a scalar as text, also a number or a boolean.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => serde_yaml::to_string(other).expect("a scalar").trim().to_owned(),
    }
}

/// Returns the keys of a mapping.
fn keys(value: &Value) -> Vec<&str> {
    value.as_mapping().expect("a mapping").keys().map(|key| key.as_str().expect("a name")).collect()
}

/// Returns the YAML documents of the page with this title.
fn documents_of(title: &str) -> Vec<Value> {
    let (page, title) = (page(), format!("yaml title={title}"));
    let parsed = |block: &str| serde_yaml::from_str(block).unwrap_or_else(|error| panic!("{error}: {block}"));
    page.blocks(&title).into_iter().map(parsed).collect()
}

/// Asserts that a shipper's patterns match the output files, and the rotated files that the shipper may not have read
/// completely.
fn assert_covers_rotated(patterns: &str) {
    let (files, rotated) = patterns.split_once(',').expect("two patterns");
    assert_covers(files);
    assert_eq!(rotated, format!("{files}.1"));
}

/// Asserts that a shipper's pattern matches the output files of the collector.
fn assert_covers(pattern: &str) {
    let file = configuration_below("Files, followed by a shipper").output.file.expect("files");
    let folder = file.path.parent().expect("a folder");
    assert!(file.separate_by_content_type && Path::new(pattern) == folder.join("*.json"), "{pattern}");
}

#[test]
fn the_fluentd_configurations_match_the_collectors() {
    let page = page();
    let [follows, receives] = [0, 1].map(|place| Section::parse(page.blocks("fluentd")[place]));
    for config in [&follows, &receives] {
        config.assert_keys();
        assert_eq!(config.section("match").argument, "office365.**");
    }
    let source = follows.section("source");
    assert_covers_rotated(source.value("path"));
    assert_eq!([source.value("read_from_head"), source.value("follow_inodes")], ["true"; 2]);
    assert_eq!(source.section("parse").value("time_key"), "CreationTime");

    let fluentd = configuration_below("The forward protocol").output.fluentd.expect("a receiver");
    let source = receives.section("source");
    assert_eq!(source.value("port"), fluentd.port.to_string());
    assert_eq!(source.section("security").value("self_hostname"), fluentd.address);
    assert!(fluentd.tls.is_some() && source.section("transport").argument == "tls");
    assert!(
        source.section("security").value("shared_key").contains("FLUENTD_SHARED_KEY")
            && fluentd.shared_key.is_some()
    );
    assert!(fluentd.tag.starts_with("office365."));
    let buffer = receives.section("match").section("buffer");
    assert_eq!([buffer.value("@type"), buffer.value("overflow_action")], ["file", "throw_exception"]);
    assert!(buffer.argument.split(',').any(|key| key == "tag"), "the buffer has a file for each tag");
}

#[test]
fn the_fluent_bit_configurations_match_the_collectors() {
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
        assert!(document["service"].get("storage.path").is_some(), "no folder for the storage");
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
fn the_vector_configurations_match_the_collectors() {
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

#[test]
fn the_opentelemetry_configuration_matches_the_collectors() {
    let documents = documents_of("otelcol");
    let [document] = documents.as_slice() else { panic!("one configuration") };
    assert_known("otelcol", keys(document));
    assert_known("otelcol service", keys(&document["service"]));
    for part in ["extensions", "receivers", "exporters"] {
        let components = &document[part];
        for name in keys(components) {
            assert_known(&format!("otelcol {name}"), keys(&components[name]));
        }
        let users = if part == "extensions" {
            &document["service"]
        } else {
            &document["service"]["pipelines"]["logs"]
        };
        let used: Vec<_> = users[part].as_sequence().expect("names").iter().map(text).collect();
        assert_eq!(keys(components), used);
    }
    let exporter = &document["exporters"]["otlp_http"];
    let storage = text(&exporter["sending_queue"]["storage"]);
    assert!(document["extensions"].get(&storage).is_some(), "the queue is in {storage}");
    assert_eq!(text(&document["extensions"][&storage]["fsync"]), "true");
    let http = &document["receivers"]["otlp"]["protocols"]["http"];
    assert_known("otelcol http", keys(http));
    let url = format!("url: \"http://{}\"", text(&http["endpoint"]));
    let page = page();
    let block = page.blocks("yaml").into_iter().find(|block| block.contains(&url)).expect("a configuration");
    let output = documents::load(block).config.output.http.expect("a receiver");
    assert!(matches!(output.format, HttpFormat::Otlp(_)));
}

/// A program that is killed when this is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "needs rsyslogd: cargo test --test tests -- --ignored interop_rsyslog"]
fn interop_rsyslog_follows_the_files_with_the_documented_configuration() {
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
    Run::of(rsyslogd().arg("-N1").stdout(Stdio::piped()).stderr(Stdio::piped())).assert_code(0);

    let _running = Running(rsyslogd().arg("-n").spawn().expect("rsyslogd"));
    listener.set_nonblocking(true).expect("a listening socket");
    let mut connection = None;
    wait_until("rsyslogd connects", || {
        connection = listener.accept().ok();
        connection.is_some()
    });
    let (connection, _) = connection.expect("a connection");
    connection.set_read_timeout(Some(WAIT_MAX)).expect("a socket");
    let lines = BufReader::new(connection).lines().take(101).map(|line| line.expect("a line"));
    let received: BTreeSet<_> = lines.collect();
    let written: BTreeSet<_> = installation.output().into_values().flatten().collect();
    assert_eq!(received.len(), 101);
    assert!(received == written, "the receiver got other lines than the files contain");
}
