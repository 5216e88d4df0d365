//! Rules between keys, and between keys and what is on the disk.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{self, Path, PathBuf},
    sync::Arc,
};

use super::{
    Config, Secret, Tenant, formats,
    model::AZURE_BODY_BYTES_MAX,
    report::Report,
    schema::{CREDENTIALS, Key},
    url::{self, Url, is_loopback},
    values::{Given, Section, Value},
};
use crate::{csv, disk, feed::ContentType};

/// The formats of `output.http` that have a section of their own.
const FORMAT_SECTIONS: [(&str, &str); 4] = [
    ("splunk-hec", "splunk"),
    ("elastic-bulk", "elastic"),
    ("azure-logs-ingestion", "azure"),
    ("otlp", "otlp"),
];

/// Keys of `output.syslog` that only some protocols have.
const PROTOCOL_KEYS: [(&str, &[&str]); 3] =
    [("tls", &["tls", "relp"]), ("confirm", &["tls", "tcp"]), ("ackTimeout", &["relp"])];

/// Files of the state in `workingDir`, apart from its folder of Ids.
const STATE_FILES: [&str; 6] =
    ["known_blobs", "known_blobs_index", "progress", "journal", "history", "repairs"];

/// Extensions of the same files while they are replaced, and when they cannot be read.
const STATE_EXTENSIONS: [&str; 2] = ["new", "unreadable"];

/// Devices that log and records can go to. The first two are folders of the streams that the program was given.
const STREAMS: [&str; 6] =
    ["/dev/fd/", "/proc/self/fd/", "/dev/stdout", "/dev/stderr", "/dev/null", "/dev/full"];

/// The values that the rules are about.
pub(super) struct Rules<'r, 'a> {
    pub(super) report: &'r Report,
    pub(super) root: &'r Section<'a>,
    /// Whether all files could be read. If not, what is missing may be in one of them.
    pub(super) is_complete: bool,
}

/// The ids and names of tenants, each with the place of its tenant.
#[derive(Default)]
pub(super) struct UsedNames {
    ids: HashMap<Arc<str>, String>,
    names: HashMap<Arc<str>, String>,
}

impl Rules<'_, '_> {
    /// Reports each rule that a tenant breaks. `used` has the ids and names of the tenants before it, and gets its own.
    pub(super) fn check_tenant(&self, section: &Section, tenant: &Tenant, used: &mut UsedNames) {
        self.check_app(section, self.is_complete, &["client_id", "login_url"]);
        let id = Some(&tenant.tenant_id).filter(|id| !id.is_empty()).cloned();
        if let Some(first) = id.and_then(|id| first_use(&mut used.ids, id, section)) {
            let text = format!("is the same tenant as {first}; keep one of them");
            self.mistake(section, "tenant_id", text);
        }
        if let Some(first) = tenant.name.clone().and_then(|name| first_use(&mut used.names, name, section)) {
            let text = format!("is also the name of {first}; give each tenant its own");
            self.mistake(section, "name", text);
        }
    }

    /// Reports each other rule that is broken. `config` is what the values mean, wrong ones having their defaults.
    pub(super) fn check(&self, config: &Config) {
        self.refuse_older_and_newer();
        self.check_outputs(config);
        self.refuse_shared_files(config);
        self.refuse_unusual_files(config);
    }

    fn mistake(&self, section: &Section, key: &str, text: impl Into<String>) {
        self.report.mistake(&section.place_of(key), text);
    }

    /// `key` has no effect without `other`.
    fn require(&self, section: &Section, key: &str, other: &str, fix: &str) {
        if section.has(key) && !section.has(other) {
            self.mistake(section, key, format!("requires {other}; {fix}"));
        }
    }

    fn refuse_older_and_newer(&self) {
        let collect = self.root.section("collect");
        for section in [self.root, &collect] {
            for key in section.keys {
                let Some(newer) = key.newer.filter(|_| section.has(key.name)) else { continue };
                let has_newer = match newer.split_once('.') {
                    Some((_, name)) => collect.has(name),
                    None => self.root.has(newer),
                };
                if has_newer {
                    self.mistake(
                        section,
                        key.name,
                        format!("has the same meaning as {newer}; keep only that"),
                    );
                }
            }
        }
    }

    /// The app's ids and its one credential. `of_apps`: the keys that have no effect with a managed identity, which has no
    /// app. The variables of the environment are for all programs, so that they may be set.
    fn check_app(&self, app: &Section, must_be_complete: bool, of_apps: &[&str]) {
        let given: Vec<_> = CREDENTIALS.iter().filter_map(|key| app.given(key)).collect();
        let has_identity = matches!(given.as_slice(), [only] if only.name == "managed_identity");
        for name in of_apps.iter().filter(|_| has_identity) {
            if app.given(name).is_some_and(|given| !given.place.is_environment()) {
                let text = "has no effect with managed_identity; remove it, or name a user-assigned identity as \
                            managed_identity: { client_id: … }";
                self.mistake(app, name, text);
            }
        }
        for key in app.keys.iter().filter(|key| ["tenant_id", "client_id"].contains(&key.name)) {
            let is_needed = !(has_identity && of_apps.contains(&key.name));
            if must_be_complete && is_needed && !app.has(key.name) {
                self.mistake(app, key.name, format!("is missing; {}", key.hint));
            }
        }
        match given.as_slice() {
            [] if must_be_complete => {
                let is_credential = |key: &&Key| CREDENTIALS.contains(&key.name) && !key.is_older();
                let names: Vec<_> = app.keys.iter().filter(is_credential).map(|key| key.name).collect();
                let text = format!("has no credential; add one of {}", names.join(", "));
                self.report.mistake(&app.place, text);
            }
            [first, .., last] => {
                let text = format!("is a second credential; keep either it or {}", first.place.name());
                self.report.mistake(&last.place, text);
            }
            _ => {}
        }
        self.check_client_secret(app);
        for secret in given {
            self.warn_of_secret_id(secret);
        }
        let certificate = app.section("certificate");
        let key_file = if certificate.has("key_file") { "key_file" } else { "file" };
        let path: Option<PathBuf> = certificate.get(key_file);
        if let Some(found) = path.and_then(|path| fs::metadata(path).ok()).filter(fs::Metadata::is_file) {
            self.report.warn_if_exposed(&certificate.place_of(key_file), found.mode());
        }
    }

    fn check_client_secret(&self, app: &Section) {
        let secret: Secret = app.get("client_secret");
        if formats::is_placeholder(secret.reveal()) {
            let hint = app.keys.iter().find(|key| key.name == "client_secret").map_or("", |key| key.hint);
            self.mistake(app, "client_secret", format!("is still a placeholder; {hint}"));
        }
    }

    /// The ids of secrets are GUIDs. Their values contain other characters.
    fn warn_of_secret_id(&self, Given { place, value, .. }: &Given) {
        if let Some(Value::Secret(secret)) = value
            && formats::guid(secret.reveal()).is_some()
        {
            let text = "looks like the secret's ID, but logging in needs its Value; copy that from Certificates & secrets";
            self.report.warn(place, text);
        }
    }

    fn check_outputs(&self, config: &Config) {
        let output = self.root.section("output");
        let names: Vec<_> = output.keys.iter().filter(|key| !key.is_older()).map(|key| key.name).collect();
        if !names.iter().any(|name| output.section(name).is_enabled()) {
            let text = format!("has no enabled output; add one of {}", names.join(", "));
            self.report.mistake(&output.place, text);
        }
        self.check_file(&output.section("file"));
        let fluentd = output.section("fluentd");
        self.require(&fluentd, "username", "password", "add it");
        self.require(&fluentd, "password", "username", "add it");
        for name in names {
            let section = output.section(name);
            if section.keys.iter().any(|key| key.name == "tls") {
                self.require(&section.section("tls"), "key_file", "cert_file", "add it");
            }
        }
        self.check_syslog(&output.section("syslog"));
        self.check_http(&output.section("http"), config);
        self.check_kafka(&output);
    }

    fn check_kafka(&self, output: &Section) {
        let kafka = output.section("kafka");
        if kafka.is_enabled() && !cfg!(feature = "kafka") {
            let text = "this program was built without the feature kafka; use the Debian package or an image, or build it \
                        with: cargo build --release --features kafka";
            self.mistake(output, "kafka", text);
        }
        let sasl = kafka.section("sasl");
        match (sasl.given("password"), sasl.given("password_file")) {
            (Some(_), Some(file)) => {
                self.report.mistake(&file.place, "is a second password; keep either it or password");
            }
            (None, None) if sasl.is_present => {
                self.mistake(&kafka, "sasl", "has no password; add password or password_file");
            }
            _ => {}
        }
        let is_remote = |broker: &String| !is_loopback(url::host_of(broker).unwrap_or_default());
        let brokers: Vec<String> = kafka.get("brokers");
        if sasl.get::<String>("mechanism") == "PLAIN" && !kafka.has("tls") && brokers.iter().any(is_remote) {
            let text = "PLAIN sends the password unencrypted; add tls, or use SCRAM-SHA-512";
            self.report.warn(&sasl.place_of("mechanism"), text);
        }
    }

    fn check_file(&self, file: &Section) {
        let Some(path) = file.get::<Option<PathBuf>>("path") else { return };
        if path.file_name().is_none() || path.to_string_lossy().ends_with('/') {
            let given = formats::quoted(&path.to_string_lossy());
            self.mistake(
                file,
                "path",
                format!("{given} names a folder; add a file name, such as audit.json"),
            );
        }
        let separator: String = file.get("separator");
        if file.has("separator") && !csv::is_csv(&path) {
            let text = "has no effect: records are written as JSON lines unless the path ends in .csv";
            self.report.warn(&file.place_of("separator"), text);
        } else if formats::separator(&separator).is_none() {
            let given = formats::quoted(&separator);
            let text = format!(
                "{given} is not one character other than a quote or a line end; write one, such as ;"
            );
            self.mistake(file, "separator", text);
        }
    }

    fn check_syslog(&self, syslog: &Section) {
        let protocol: String = syslog.get("protocol");
        for (name, protocols) in PROTOCOL_KEYS {
            if syslog.has(name) && !protocols.contains(&protocol.as_str()) {
                let protocols = protocols.join(" or ");
                let text = format!("is for protocol: {protocols} only; set that protocol, or remove {name}");
                self.mistake(syslog, name, text);
            }
        }
        if syslog.get::<String>("oversize") == "dead-letter" && !syslog.get::<bool>("deadLetters") {
            self.mistake(
                syslog,
                "oversize",
                "requires deadLetters: true; set that, or choose split or truncate",
            );
        }
    }

    fn check_http(&self, http: &Section, config: &Config) {
        let format: String = http.get("format");
        for (owner, name) in FORMAT_SECTIONS {
            if owner != format && http.has(name) {
                self.mistake(
                    http,
                    name,
                    format!("is for format: {owner} only; set that format, or remove {name}"),
                );
            }
        }
        let splunk = http.section("splunk");
        self.require(&splunk, "ackTimeout", "channel", "add the GUID of one, made with uuidgen");
        let is_azure = format == "azure-logs-ingestion";
        self.check_azure(http, is_azure && http.is_enabled(), config);
        let batch_size: usize = http.get("batchSize");
        if is_azure && http.has("batchSize") && batch_size > AZURE_BODY_BYTES_MAX {
            let text = format!(
                "{batch_size} bytes are more than azure-logs-ingestion accepts; write at most {AZURE_BODY_BYTES_MAX}"
            );
            self.mistake(http, "batchSize", text);
        }
        if format == "otlp" && !http.get::<bool>("deadLetters") {
            let text = "cannot be false with format: otlp, whose receivers do not say which records of a batch they reject; \
                        remove it";
            self.mistake(http, "deadLetters", text);
        }
        let url: String = http.get("url");
        let Some(url) = Url::parse(&url) else { return };
        if !url.is_https && http.has("tls") {
            self.mistake(
                http,
                "tls",
                "requires a url that begins with https://; change the url or remove tls",
            );
        }
        if !url.is_https && !url.is_loopback() {
            if is_azure {
                self.mistake(http, "url", "must begin with https://; http:// is for localhost only");
            } else if http.has("headers") || http.has("header_files") {
                let text = "begins with http://, so that the headers are sent unencrypted; use https://";
                self.report.warn(&http.place_of("url"), text);
            }
        }
        let path = url.path.trim_end_matches('/');
        if format == "splunk-hec" && path.strip_suffix("/1.0").unwrap_or(path).ends_with("/collector/raw") {
            let text = "is the raw endpoint, which splits records at line ends and cannot say what it accepted; use \
                        /services/collector/event";
            self.mistake(http, "url", text);
        }
    }

    /// The app that sends to Azure: that in `azure`, else that of the single tenant.
    fn check_azure(&self, http: &Section, is_used: bool, config: &Config) {
        let azure = http.section("azure");
        let has_own = azure.has_app();
        self.check_app(&azure, has_own, &["tenant_id", "client_id", "login_url"]);
        if is_used && !has_own && config.tenants.len() > 1 {
            let text = "is missing; with several tenants, name the app that sends: tenant_id, client_id and a credential";
            self.mistake(http, "azure", text);
        }
    }

    /// Records, log, metrics, state and what is read each need a file of their own: a file that two of them use is
    /// destroyed. Devices such as `/dev/null` can be shared.
    fn refuse_shared_files(&self, config: &Config) {
        let mut used = UsedFiles::default();
        for (key, path) in self.report.files_read() {
            used.add(&key, &path);
        }
        for name in STATE_FILES {
            let path = config.collect.working_dir.join(name);
            used.add("the state", &path);
            for extension in STATE_EXTENSIONS {
                used.add("the state", &path.with_extension(extension));
            }
            used.add("the state", &config.collect.working_dir.join(format!("{name}.rewrite")));
        }
        let mut claim = |owner, section: &Section, paths: &[PathBuf]| {
            let files = paths.iter().filter(|path| !path.starts_with("/dev"));
            if let Some((path, other)) = files.into_iter().find_map(|path| Some((path, used.owner_of(path)?)))
            {
                let path = path::absolute(path).unwrap_or_else(|_| PathBuf::clone(path));
                let text = format!("{} is also a file of {other}; give each its own", path.display());
                self.mistake(section, "path", text);
            }
            for path in paths {
                used.add(owner, path);
            }
        };
        if let Some(file) = &config.output.file {
            let paths = ContentType::ALL.map(|content_type| file.path_of(content_type));
            claim("output.file", &self.root.section("output").section("file"), &paths);
        }
        claim("log", &self.root.section("log"), config.log.path.as_slice());
        claim("metrics", &self.root.section("metrics"), config.metrics_path.as_slice());
    }

    /// The metrics are replaced, which needs a regular file. Log and records can also go to a FIFO, and to the streams
    /// that the program was given.
    fn refuse_unusual_files(&self, config: &Config) {
        let refuse = |section: &Section, path: &Path, kind: &str, expected: &str| {
            let text = format!("{} is {kind}, but must be {expected}; choose another path", path.display());
            self.mistake(section, "path", text);
        };
        if let Some(path) = &config.metrics_path
            && let Some(kind) = unusual_kind(path)
        {
            let expected = "a regular file, because it is replaced after each pass";
            refuse(&self.root.section("metrics"), path, kind, expected);
        }
        let check_stream = |section: &Section, path: &Path| {
            if let Some(kind) = unusual_kind(path).filter(|kind| !is_stream(path) && *kind != disk::FIFO) {
                refuse(section, path, kind, "a regular file, a FIFO, /dev/stdout, /dev/stderr or /dev/null");
            }
        };
        // A feed's own file is checked when it is opened, so that it stops no other feed.
        if let Some(file) = config.output.file.as_ref().filter(|file| !file.separate_by_content_type) {
            check_stream(&self.root.section("output").section("file"), &file.path);
        }
        if let Some(path) = &config.log.path {
            check_stream(&self.root.section("log"), path);
        }
    }
}

/// Notes that a tenant uses a name. Returns the place of the tenant that has used it before.
fn first_use(used: &mut HashMap<Arc<str>, String>, name: Arc<str>, section: &Section) -> Option<String> {
    used.insert(name, section.place.name())
}

fn unusual_kind(path: &Path) -> Option<&'static str> {
    disk::special_kind(&fs::metadata(path).ok()?)
}

fn is_stream(path: &Path) -> bool {
    STREAMS.iter().any(|stream| match stream.strip_suffix('/') {
        Some(folder) => path.parent() == Some(Path::new(folder)),
        None => path == Path::new(stream),
    })
}

/// Files that are in use, by their resolved paths and by their inodes.
#[derive(Default)]
struct UsedFiles {
    by_path: HashMap<PathBuf, String>,
    by_inode: HashMap<(u64, u64), String>,
}

impl UsedFiles {
    fn add(&mut self, owner: &str, path: &Path) {
        self.by_path.entry(resolved(path)).or_insert_with(|| owner.to_owned());
        if let Some(inode) = inode_of(path) {
            self.by_inode.entry(inode).or_insert_with(|| owner.to_owned());
        }
    }

    fn owner_of(&self, path: &Path) -> Option<&str> {
        let by_path = self.by_path.get(&resolved(path));
        let owner = by_path.or_else(|| self.by_inode.get(&inode_of(path)?))?;
        Some(owner.as_str())
    }
}

/// A path without symbolic links, as far as it exists.
fn resolved(path: &Path) -> PathBuf {
    let target = disk::resolve_links(path).unwrap_or_else(|_| path.to_owned());
    let absolute = path::absolute(&target).unwrap_or(target);
    let folder = absolute.parent().and_then(|folder| folder.canonicalize().ok());
    match (folder, absolute.file_name()) {
        (Some(folder), Some(name)) => folder.join(name),
        _ => absolute,
    }
}

/// The device and inode of a regular file, which all its names share.
fn inode_of(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(path).ok()?;
    metadata.is_file().then(|| disk::id_of(&metadata))
}
