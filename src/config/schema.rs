//! The table of all keys. Checks, suggestions, defaults and the production template come from it.
//!
//! A new option is an entry here, a field in [`super::model`], and the code that uses it.

use std::{collections::BTreeMap, ops::RangeInclusive, time::Duration};

use Kind::{
    AutoOrInteger, Bool, Brokers, ContentTypeSwitches, ContentTypes, Filter, Gone, Guid, HeaderFiles,
    Headers, Integer, LibrdkafkaOptions, LoginPemFile, ManagedIdentity, Numbered, OptionalPath, Path,
    PemFile, Proxy, Secret, SecretFile, Section, Sections, Separator, Size, Text, TokenFile, Words,
};

use super::{
    Cloud, OtlpEncoding, OtlpRecord, Oversize, RequestsPerMinute, SyslogProtocol, formats, values::Value,
};
use crate::{limits::RETENTION, time};

/// A key of the configuration.
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// What the template says about the key, without its range and its default. For [`Kind::Gone`]: what replaces it.
    pub(super) doc: &'static str,
    /// As in YAML. `None` if there is no default, or if `doc` describes it.
    pub(super) default: Option<&'static str>,
    /// Whether a section that is in use must have the key.
    pub(super) is_required: bool,
    /// The fix for a key that is missing or has the wrong form.
    pub(super) hint: &'static str,
    pub(super) sample: Sample,
    /// The path of the key that has replaced this one.
    pub(super) newer: Option<&'static str>,
}

/// How the template shows a key.
#[derive(Clone, Copy)]
pub(super) enum Sample {
    /// With its default.
    Default,
    /// With this value.
    On(&'static str),
    /// Commented out, with this value.
    Off(&'static str),
}

/// The values that a key accepts.
pub(super) enum Kind {
    Bool,
    Integer(RangeInclusive<u64>),
    /// A whole number, or the word `auto`.
    AutoOrInteger(RangeInclusive<u64>),
    /// In bytes.
    Size(RangeInclusive<u64>),
    /// In seconds.
    Duration(RangeInclusive<u64>),
    /// One of these words, in any letter case.
    Words(&'static [&'static str]),
    /// The same. The value is the place of the word.
    Numbered(&'static [&'static str]),
    /// A character between the columns of a CSV file. Whether it is one matters only for such a file.
    Separator,
    /// A text that this function accepts. It returns the text to use, or what is wrong.
    Text(fn(&str) -> Result<String, String>),
    Guid,
    /// A text that no message shows.
    Secret,
    /// A URL that no message shows if it has a password.
    Proxy,
    Path,
    /// A path. An empty text counts as absent.
    OptionalPath,
    /// A file that has a secret, read with the configuration.
    SecretFile,
    /// A PEM file that must be readable now.
    PemFile,
    /// A PEM file that is read at each login.
    LoginPemFile,
    /// A file with a token, read at each login.
    TokenFile,
    /// The word `system`, or a map with the `client_id` of a user-assigned identity.
    ManagedIdentity,
    /// A list of content types.
    ContentTypes,
    /// The older form of such a list: `{ Audit.General: true }`.
    ContentTypeSwitches,
    /// For each content type, fields and their values.
    Filter,
    /// Names of headers and their values.
    Headers,
    /// Names of headers and the files that have their values.
    HeaderFiles,
    /// A list of hosts, each with or without a port.
    Brokers,
    /// Names of librdkafka's options and their values.
    LibrdkafkaOptions,
    Section(&'static [Key]),
    /// A list of sections.
    Sections(&'static [Key]),
    /// A key of an older tool that has no effect.
    Gone,
}

impl Kind {
    /// Reads a scalar from text. `None`: the text is not one, or is out of range.
    pub(super) fn parse(&self, text: &str) -> Option<Value<'static>> {
        let word = text.trim();
        let within =
            |range: &RangeInclusive<u64>, number: Option<u64>| number.filter(|it| range.contains(it));
        match self {
            Self::Bool if word.eq_ignore_ascii_case("true") => Some(Value::Bool(true)),
            Self::Bool if word.eq_ignore_ascii_case("false") => Some(Value::Bool(false)),
            Self::AutoOrInteger(_) if word.eq_ignore_ascii_case("auto") => {
                Some(Value::RequestsPerMinute(RequestsPerMinute::Auto))
            }
            Self::AutoOrInteger(range) => {
                let number = within(range, formats::number(word))?.try_into().ok()?;
                Some(Value::RequestsPerMinute(RequestsPerMinute::Fixed(number)))
            }
            Self::Integer(range) => within(range, formats::number(word)).map(Value::Number),
            Self::Size(range) => within(range, formats::size(word)).map(Value::Number),
            Self::Duration(range) => {
                within(range, formats::seconds(word)).map(Duration::from_secs).map(Value::Duration)
            }
            Self::Words(words) => {
                let found = words.iter().find(|known| known.eq_ignore_ascii_case(word))?;
                Some(Value::Text((*found).to_owned()))
            }
            Self::Numbered(words) => {
                let place = words.iter().position(|known| known.eq_ignore_ascii_case(word))?;
                Some(Value::Number(place as u64))
            }
            Self::Separator => Some(Value::Text(text.to_owned())),
            Self::Text(check) => check(text).ok().map(Value::Text),
            _ => None,
        }
    }

    /// The values that it accepts, for messages.
    pub(super) fn expected(&self) -> String {
        match self {
            Self::Bool => "true or false".to_owned(),
            Self::Integer(range) => format!("a whole number from {} to {}", range.start(), range.end()),
            Self::AutoOrInteger(range) => {
                format!("auto or a whole number from {} to {}", range.start(), range.end())
            }
            Self::Size(_) => format!("a size from {}", self.range()),
            Self::Duration(_) => format!("a duration from {}", self.range()),
            Self::Words(words) | Self::Numbered(words) => format!("one of {}", words.join(", ")),
            _ => "a text".to_owned(),
        }
    }

    /// How such a value is written, for messages.
    pub(super) fn form(&self) -> &'static str {
        match self {
            Self::Bool => "; write one of them without quotes",
            Self::Size(_) => "; write 512K, 10M, 1G or bytes",
            Self::Duration(_) => "; write 30s, 5m, 1h or 1d",
            _ => "",
        }
    }

    /// `1 to 512`, or nothing.
    pub(super) fn range(&self) -> String {
        let text = |range: &RangeInclusive<u64>, unit: fn(u64) -> String| {
            format!("{} to {}", unit(*range.start()), unit(*range.end()))
        };
        match self {
            Self::Integer(range) | Self::AutoOrInteger(range) => text(range, |number| number.to_string()),
            Self::Size(range) => text(range, formats::size_text),
            Self::Duration(range) => text(range, time::duration_text),
            _ => String::new(),
        }
    }
}

const fn key(name: &'static str, kind: Kind, doc: &'static str) -> Key {
    Key { name, kind, doc, default: None, is_required: false, hint: "", sample: Sample::Default, newer: None }
}

impl Key {
    const fn default(self, default: &'static str) -> Self {
        Self { default: Some(default), ..self }
    }

    const fn hint(self, hint: &'static str) -> Self {
        Self { hint, ..self }
    }

    const fn required(self, hint: &'static str) -> Self {
        Self { is_required: true, hint, ..self }
    }

    const fn on(self, sample: &'static str) -> Self {
        Self { sample: Sample::On(sample), ..self }
    }

    const fn off(self, sample: &'static str) -> Self {
        Self { sample: Sample::Off(sample), ..self }
    }

    const fn newer(self, newer: &'static str) -> Self {
        Self { newer: Some(newer), ..self }
    }

    /// Whether the key is accepted only for configurations of older tools.
    pub(super) fn is_older(&self) -> bool {
        matches!(self.kind, Kind::Gone) || self.newer.is_some()
    }

    /// The keys of the section, or of each section of the list, that is the key's value.
    pub(super) fn keys(&self) -> Option<&'static [Self]> {
        match self.kind {
            Kind::Section(keys) | Kind::Sections(keys) => Some(keys),
            _ => None,
        }
    }
}

/// The only key that the second file can have.
pub(super) fn tenants() -> &'static [Key] {
    let at = ROOT.iter().position(|key| key.name == "tenants");
    &ROOT[at.expect("a key of the table")..][..1]
}

/// The keys of each section below `keys`, by the section's path, e.g. `tenants[].certificate`.
pub(super) fn sections(keys: &'static [Key]) -> BTreeMap<String, &'static [Key]> {
    let mut found = BTreeMap::from([(String::new(), keys)]);
    for key in keys {
        let list = if matches!(key.kind, Kind::Sections(_)) { "[]" } else { "" };
        for (path, below) in key.keys().map(sections).unwrap_or_default() {
            let dot = if path.is_empty() { "" } else { "." };
            found.insert(format!("{}{list}{dot}{path}", key.name), below);
        }
    }
    found
}

/// Declares tables of keys: the documentation of each, its name, its kind, and what else is to be said of it.
macro_rules! tables {
    ($($table:ident {
        $($(#[doc = $doc:literal])* $name:literal: $kind:expr $(, $attribute:ident($value:expr))*;)*
    })*) => {$(
        pub(super) const $table: &[Key] = &[$(key($name, $kind, concat!($($doc),*))$(.$attribute($value))*),*];
    )*};
}

tables! {
ROOT {
    /// false: a pass logs that it is switched off, does nothing and exits with 0.
    "enabled": Bool, default("true");
    /// The interval at which the scheduler starts passes. `schedule` reads it, and a pass that takes longer is reported.
    "interval": Kind::Duration(1..=RETENTION.as_secs()), default("5m"); // content expires after that time
    /// true: the first pass of a feed collects nothing that is older than now. A feed that an older tool has collected
    /// continues where that tool stopped.
    "only_future_events": Bool, default("false");
    /// One or more. The environment variables TENANT_ID, CLIENT_ID and CLIENT_SECRET override the values of a single tenant,
    /// or make up one if there is none. AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_FEDERATED_TOKEN_FILE, the variables of
    /// workload identity, complete a single tenant where neither the files nor those variables have a value.
    "tenants": Sections(TENANT);
    /// The content types to collect, in any letter case. Default: all five.
    "subscriptions": ContentTypes, hint(CONTENT_TYPES_HINT), on(ALL_CONTENT_TYPES);
    /// How a pass collects.
    "collect": Section(COLLECT);
    /// Maximum size of a response body, after decompression.
    "curl_max_size": Size(KIB..=2 * GIB), default("10M");
    /// Where records go: one or more outputs. Each record goes to all of them that are enabled.
    "output": Section(OUTPUT);
    /// Where the log goes.
    "log": Section(LOG);
    /// Metrics for Prometheus.
    "metrics": Section(METRICS);
    /// The proxy for all requests to Microsoft: http:// or https://, with user:password@ before the host if it needs them.
    /// Special characters in these are written as %XX. Default: HTTPS_PROXY of the environment, else ALL_PROXY. Hosts in
    /// NO_PROXY are reached without the proxy.
    "proxy": Proxy, off("http://proxy.example:3128");
    /// Additional root certificates, PEM, such as that of a proxy that decrypts TLS. Those of the system are always trusted.
    /// Default: none.
    "ca_file": PemFile, off("/etc/ssl/corp.pem");
    "filter": Filter, newer("collect.filter");
    "workingDir": Path, newer("collect.workingDir");
}

TENANT {
    /// Entra admin center, Overview: Tenant ID.
    "tenant_id": Guid, hint(TENANT_ID_HINT), on("YOUR-TENANT-ID");
    /// App registrations, your app: Application (client) ID. Not with managed_identity, which has no app.
    "client_id": Guid, hint(CLIENT_ID_HINT), on("YOUR-CLIENT-ID");
    /// A tenant has exactly one of the five credentials that follow. This one is the Value (not the ID) of a secret under
    /// Certificates & secrets.
    "client_secret": Secret, hint(CLIENT_SECRET_HINT), on("YOUR-CLIENT-SECRET");
    /// A file that has the secret. Each pass reads it; whitespace and line breaks around the secret are removed.
    "client_secret_file": SecretFile, off("/run/credentials/office365-collector.service/client_secret");
    "client_secret_path": SecretFile, newer("client_secret_file");
    /// A certificate that is registered with the app, with an unencrypted RSA key of 2048 to 4096 bits. PEM; read at each
    /// login. Convert a PFX file with openssl pkcs12 -in app.pfx -out app.pem -nodes
    "certificate": Section(CERTIFICATE), off("");
    /// Workload identity: a token that another identity provider signed. Read at each login, because it is renewed.
    "federated_token_file": TokenFile, off("/var/run/secrets/azure/tokens/azure-identity-token");
    /// The identity that Azure gives this machine or app: system for the system-assigned one, or
    /// { client_id: … } for a user-assigned one. It is of the tenant of its Azure subscription, so that no other tenant can
    /// be collected with it.
    "managed_identity": ManagedIdentity, off("system");
    /// The tenant's name in tags, in the field TenantName, in the log and in metrics; at most 64 characters. Default: none;
    /// the log and the metrics then have the tenant_id.
    "name": Text(formats::tenant_name), off("contoso");
    /// The tenant's cloud: commercial, gcc, gcc-high or dod.
    "api_type": Words(Cloud::WORDS), default("commercial"), off("commercial");
    /// The tenant whose quota the requests count against: this tenant, or the own tenant of a service provider that collects
    /// for its customers. Never an invented GUID. Default: the tenant_id.
    "publisher_id": Guid, hint(PUBLISHER_ID_HINT), off("33333333-3333-4333-8333-333333333333");
    /// For tests and private gateways: replaces the cloud's login URL. http:// is accepted for localhost only. Default: the
    /// URL of api_type.
    "login_url": Text(formats::origin), off("https://login.gateway.example");
    /// The same for the API's URL.
    "api_url": Text(formats::origin), off("https://manage.gateway.example");
    /// Replaces the list of all tenants below. Default: that list.
    "subscriptions": ContentTypes, hint(CONTENT_TYPES_HINT), off(r#"[ "Audit.Exchange", "Audit.General" ]"#);
}

CERTIFICATE {
    /// The certificate.
    "file": LoginPemFile, required("name the certificate's PEM file"), off("/etc/office365-collector/app.pem");
    /// Its key. Default: the key is in the same file.
    "key_file": LoginPemFile, off("/etc/office365-collector/app.key");
}

COLLECT {
    /// The folder of the state. Default: STATE_DIRECTORY of the environment, else the current directory.
    "workingDir": Path, off("/var/lib/office365-collector");
    /// Maximum number of records held in memory.
    "cacheSize": Integer(1..=1_000_000_000), default("500000");
    /// Maximum number of bytes of blobs held in memory.
    "maxMemory": Size(KIB..=2 * GIB), default("64M");
    /// Maximum number of concurrent requests.
    "maxThreads": Integer(1..=512), default("50"); // with more, threads cost memory and the API only throttles
    /// For each tenant: the maximum number of requests in any minute, or auto. auto begins with 2000, makes more requests
    /// while Microsoft does not throttle and blobs are pending, fewer after it has throttled, and remembers the rate that
    /// works.
    "maxRequestsPerMinute": AutoOrInteger(1..=1_000_000), default("auto");
    /// Maximum number of retries of a failed request.
    "retries": Integer(0..=20), default("3"); // the delay doubles: twenty retries last days
    /// The delay before the first retry. It doubles with each retry.
    "retryDelay": Kind::Duration(0..=HOUR), default("1s");
    /// A request fails when no data arrives for this duration.
    "requestTimeout": Kind::Duration(1..=HOUR), default("60s");
    /// Skip blobs that are in known_blobs. false: deliver them again; dedupHours is then off too.
    "skipKnownLogs": Bool, default("true");
    /// Drop a record whose Id another record of the same tenant had within these hours. The time is that at which their
    /// blobs became available, so that downtime does not count. 0: off.
    "dedupHours": Integer(0..=168), default("24"); // content is listed for seven days: no record comes again later
    /// The number of hours that each pass looks back.
    "hoursToCollect": Integer(1..=168), default("24"); // the API lists the last seven days: `limits::RETENTION`
    /// The number of minutes after which a pass starts nothing new. 0: none.
    "globalTimeout": Integer(0..=7 * 24 * 60), default("0");
    /// For each content type, deliver only records for which all fields match. A record without the field does not match. A
    /// list matches if any of its values does. Dots reach into objects, and through lists of objects. In a value, * matches
    /// any text (** is a literal *), and a leading ! negates (!! is a literal !); quote such values. Values are compared as
    /// text and case-sensitively: "SharePoint", 15, true, null. Default: none; every record is delivered.
    "filter": Filter, off(FILTER_SAMPLE);
    "contentTypes": ContentTypeSwitches, newer("subscriptions");
    "retryCooldown": Integer(0..=HOUR), newer("collect.retryDelay");
    /// it fetched each blob several times to measure speed; each record is now delivered once
    "duplicate": Gone;
    /// run the collector from a systemd timer or from cron
    "schedule": Gone;
    /// missing subscriptions are always started
    "autoSubscribe": Gone;
    /// each feed is resumed where it was last listed completely
    "resume": Gone;
    /// there is only one engine
    "rustEngine": Gone;
}

OUTPUT {
    /// JSON lines in files. Records are appended; after a rotation the next pass creates the file again.
    "file": Section(FILE);
    /// Fluentd, Fluent Bit and Vector: the forward protocol with acknowledgements.
    "fluentd": Section(FLUENTD);
    /// GELF 1.1 over TCP, each message ended by a null byte. GELF has no acknowledgements: a batch counts as delivered when
    /// the receiver has read everything and has closed the connection.
    "graylog": Section(GRAYLOG);
    /// Messages of RFC 5424, each with one record as JSON, over TCP, TLS or RELP. RELP has acknowledgements. TCP and TLS have
    /// none: a batch counts as delivered when the receiver has read everything and has closed the connection.
    "syslog": Section(SYSLOG);
    /// Batches over HTTP.
    "http": Section(HTTP);
    /// Kafka and what speaks its protocol, such as Azure Event Hubs: each record is a message. It needs a program that was
    /// built with the feature kafka, as the Debian package and the images are: cargo build --release --features kafka
    "kafka": Section(KAFKA);
    /// Standard output, one record a line.
    "stdout": Section(STDOUT);
    /// use output.http with `format: azure-logs-ingestion`
    "azureLogAnalytics": Gone;
    /// use output.http with `format: azure-logs-ingestion`
    "logAnalytics": Gone;
    /// use output.http with `format: azure-logs-ingestion`
    "oms": Gone;
    /// use output.file or output.http
    "azureTable": Gone;
    /// write with output.file and upload the rotated files
    "azureBlob": Gone;
    /// use output.http or output.fluentd with a receiver that writes to the database
    "sql": Gone;
    /// use `metrics.path`, or count in the system that receives the records
    "prtg": Gone;
}

FILE {
    /// false: the output is off.
    "enabled": Bool, default("true");
    /// The file to append to.
    "path": Path, required("name the file to append to"), on("/var/log/office365/audit.json");
    /// true: a file for each content type in the folder of `path`: DLPAll.json, AuditExchange.json, …
    "separateByContentType": Bool, default("false"), on("true");
    /// If `path` ends in .csv, records are written as rows of CSV; with separateByContentType to audit_DLPAll.csv,
    /// audit_AuditExchange.csv, … The columns of a file are chosen when it is created: those that all records have, and those
    /// of the first batch. Other fields are kept as JSON in the last column, MoreFields. Line breaks within a text are
    /// written as \n. This is the character between the columns; an existing file keeps its own.
    "separator": Separator, default(";"), off(";");
    /// `collect.cacheSize` holds for all outputs
    "cacheSize": Gone;
}

FLUENTD {
    /// false: the output is off.
    "enabled": Bool, default("true"), on("false");
    /// The receiver's host name or address.
    "address": Text(formats::host), required("name the receiver's host"), on("localhost");
    /// The receiver's port.
    "port": Integer(1..=65_535), default("24224");
    /// {tenant} is the tenant's name, else tenantName, else its id; {contentType} and {workload} come from the record. In
    /// names and workloads, each character other than a letter, a digit, - and _ becomes _.
    "tag": Text(formats::tag), default("office365.{tenant}.{contentType}");
    /// {tenant} for a tenant without a name. Default: none.
    "tenantName": Text(formats::any), on("MyCompany");
    /// shared_key of the receiver's <security>. Default: none.
    "sharedKey": Secret, off("${FLUENTD_SHARED_KEY}");
    /// Requires password. Default: none.
    "username": Text(formats::any), off("collector");
    /// Requires username. Default: none.
    "password": Secret, off("${FLUENTD_PASSWORD}");
    /// gzip or none.
    "compress": Words(&["gzip", "none"]), default("none"), off("gzip");
    /// The maximum wait for an acknowledgement.
    "ackTimeout": Kind::Duration(1..=HOUR), default("190s"); // the default of Fluentd's own sender
    /// The duration for which chunks are sent again after the first failure in a row, while the other outputs wait. Later
    /// passes continue.
    "retryTimeout": Kind::Duration(0..=HOUR), default("60s");
    /// TLS. `tls: {}` is TLS with the system's roots. All files are PEM. Default: none.
    "tls": Section(TLS), hint(TLS_HINT), off("");
}

GRAYLOG {
    /// false: the output is off.
    "enabled": Bool, default("true"), on("false");
    /// The receiver's host name or address.
    "address": Text(formats::host), required("name the receiver's host"), on("localhost");
    /// The receiver's port.
    "port": Integer(1..=65_535), default("12201");
    /// false: a batch counts as delivered when this machine has sent it. For a load balancer that does not close the
    /// connection when we close it.
    "confirm": Bool, default("true");
    /// The duration for which messages are sent again after the first failure in a row, while the other outputs wait.
    "retryTimeout": Kind::Duration(0..=HOUR), default("60s");
    /// As for fluentd.
    "tls": Section(TLS), hint(TLS_HINT), off("");
}

SYSLOG {
    /// false: the output is off.
    "enabled": Bool, default("true"), on("false");
    /// The receiver's host name or address.
    "address": Text(formats::host), required("name the receiver's host"), on("localhost");
    /// The receiver's port.
    "port": Integer(1..=65_535), default("6514");
    /// tls (RFC 5425), tcp (RFC 6587 with octet counting) or relp.
    "protocol": Words(SyslogProtocol::WORDS), default("tls");
    /// HOSTNAME of the messages. Default: the name of this machine.
    "hostname": Text(formats::hostname), off("collector.example");
    /// kern, user, mail, daemon, auth, syslog, lpr, news, uucp, cron, authpriv, ftp, ntp, audit, alert, clock, or local0 to
    /// local7.
    "facility": Numbered(&FACILITIES), default("local0");
    /// emerg, alert, crit, err, warning, notice, info or debug.
    "severity": Numbered(&SEVERITIES), default("info");
    /// The number after the @ in the name of the structured data, [office365@32473 …]. 32473 is reserved for examples; give
    /// your organization's own number if it has one.
    "enterpriseNumber": Integer(1..=4_294_967_295), default("32473");
    /// true: the JSON begins with a byte order mark, as RFC 5424 wants it for UTF-8. rsyslog does not remove it.
    "bom": Bool, default("false");
    /// Maximum size of a message. It must not be larger than that of the receiver: by default, rsyslog accepts 8096
    /// bytes and syslog-ng 64K.
    "maxMessageSize": Size(2 * KIB..=100 * 1024 * KIB), default("8000");
    /// What happens to a record whose message would be larger: split sends several messages with part and parts in the
    /// structured data; truncate sends the beginning, with truncatedFrom in the structured data; dead-letter sends nothing and
    /// writes the record to workingDir/dead-letters/syslog.json.
    "oversize": Words(Oversize::WORDS), default("split");
    /// true: a record that the receiver rejects is written to workingDir/dead-letters/syslog.json, and its blob is complete.
    /// false: each pass sends it again until it expires. Only a RELP receiver rejects records.
    "deadLetters": Bool, default("true");
    /// With protocol: tls and tcp only. false: a batch counts as delivered when this machine has sent it. For a load balancer
    /// that does not close the connection when we close it.
    "confirm": Bool, default("true");
    /// With protocol: relp only: the maximum wait for an acknowledgement.
    "ackTimeout": Kind::Duration(1..=HOUR), default("90s"), off("90s"); // the default of rsyslog's own sender
    /// The duration for which messages are sent again after the first failure in a row, while the other outputs wait.
    "retryTimeout": Kind::Duration(0..=HOUR), default("60s");
    /// As for fluentd. Without it, protocol: tls trusts the system's roots, and protocol: relp does not use TLS.
    "tls": Section(TLS), hint(TLS_HINT), off("");
}

HTTP {
    /// false: the output is off.
    "enabled": Bool, default("true"), on("false");
    /// http:// or https://, without user and password.
    "url": Text(formats::receiver), required("name the receiver's URL"), on("https://logs.example/ingest");
    /// ndjson, array, splunk-hec, elastic-bulk, azure-logs-ingestion or otlp.
    "format": Words(&["ndjson", "array", "splunk-hec", "elastic-bulk", "azure-logs-ingestion", "otlp"]), default("ndjson");
    /// Sent with each batch. Default: none. Keep tokens out of this file: take them from the environment …
    "headers": Headers, off(r#"{ Authorization: "Bearer ${LOGS_TOKEN}" }"#);
    /// … or from files with one value each, which each pass reads.
    "header_files": HeaderFiles, off(r#"{ X-Api-Key: "/run/credentials/office365-collector.service/api_key" }"#);
    /// gzip or none.
    "compress": Words(&["gzip", "none"]), default("none"), off("gzip");
    /// Maximum size of a batch before compression, for otlp also before encoding; for azure-logs-ingestion at most 1000000.
    "batchSize": Size(KIB..=GIB / 2), default("1M");
    /// Maximum number of records of a batch.
    "batchRecords": Integer(1..=1_000_000), default("5000");
    /// Maximum number of batches that are sent at the same time.
    "connections": Integer(1..=64), default("4"); // each holds a batch in memory, and its compressed form
    /// A request fails when no data arrives for this duration.
    "timeout": Kind::Duration(1..=600), default("60s");
    /// The duration for which a batch is sent again after the first failure in a row, while the other outputs wait.
    "retryTimeout": Kind::Duration(0..=HOUR), default("60s");
    /// true: a record that the receiver rejects in every form is written to workingDir/dead-letters/http.json, and its blob
    /// is complete. false: each pass sends it again until it expires; not for otlp.
    "deadLetters": Bool, default("true");
    /// As for fluentd.
    "tls": Section(TLS), hint(TLS_HINT), off("");
    /// With format: splunk-hec only.
    "splunk": Section(SPLUNK), off("");
    /// With format: elastic-bulk only.
    "elastic": Section(ELASTIC), off("");
    /// With format: azure-logs-ingestion only: the app that sends. Default: the app of the single tenant.
    "azure": Section(AZURE), off("");
    /// With format: otlp only.
    "otlp": Section(OTLP), off("");
}

TLS {
    /// Additional root certificates, or the receiver's own certificate if it is self-signed.
    "ca_file": PemFile, off("/etc/ssl/corp.pem");
    /// The client's certificate.
    "cert_file": PemFile, off("/etc/ssl/client.pem");
    /// Its key. Default: the key is in cert_file.
    "key_file": PemFile, off("/etc/ssl/client.key");
    /// The name to verify. Default: the address.
    "server_name": Text(formats::any), off("logs.example");
}

SPLUNK {
    /// The index. Default: the token's own.
    "index": Text(formats::any), off("o365");
    /// The source of the events.
    "source": Text(formats::any), default("office365");
    /// The sourcetype of the events.
    "sourcetype": Text(formats::any), default("o365:management:activity");
    /// The host of the events. Default: the tenant's name, else its id.
    "host": Text(formats::any), off("collector.example");
    /// A GUID that you make, for a token with indexer acknowledgement: records count as delivered only when they are
    /// indexed. Default: none.
    "channel": Guid, hint("make one with uuidgen"), off("7d1f7f1e-58a3-4c6a-9a55-0c1d3a6f2b10");
    /// The maximum wait for the index. Requires channel.
    "ackTimeout": Kind::Duration(1..=HOUR), default("2m");
}

ELASTIC {
    /// A data stream or an index. Default: the one in url.
    "index": Text(formats::any), off("logs-o365.audit-default");
}

AZURE {
    /// As for tenants, with one of the credentials.
    "tenant_id": Guid, hint(TENANT_ID_HINT), off("11111111-2222-3333-4444-555555555555");
    /// The app's id.
    "client_id": Guid, hint(CLIENT_ID_HINT), off("11111111-2222-3333-4444-555555555555");
    /// As for tenants.
    "client_secret": Secret, hint(CLIENT_SECRET_HINT), off("${AZURE_SECRET}");
    /// As for tenants.
    "client_secret_file": SecretFile, off("/run/credentials/office365-collector.service/azure_secret");
    /// As for tenants.
    "certificate": Section(CERTIFICATE), off("");
    /// As for tenants.
    "federated_token_file": TokenFile, off("/var/run/secrets/azure/tokens/azure-identity-token");
    /// As for tenants. tenant_id, client_id and login_url are not used then.
    "managed_identity": ManagedIdentity, off("system");
    /// For tests and private gateways. Default: the URL of the cloud that url belongs to.
    "login_url": Text(formats::origin), off("https://login.gateway.example");
}

OTLP {
    /// protobuf or json.
    "encoding": Words(OtlpEncoding::WORDS), default("protobuf");
    /// Where a record is in a log record: text (the body is the JSON text), map (the body has the fields) or attributes (the
    /// attributes are the fields).
    "recordAs": Words(OtlpRecord::WORDS), default("text");
    /// service.name of the resource.
    "serviceName": Text(formats::any), default("office365");
}

KAFKA {
    /// false: the output is off.
    "enabled": Bool, default("true"), on("false");
    /// One or more brokers, from which the addresses of all others are learned. The port is 9092 unless it is given.
    "brokers": Brokers, required(BROKERS_HINT), hint(BROKERS_HINT), on(r#"[ "localhost:9092" ]"#);
    /// The topic, which must exist. The key of a message is the tenant's id and the record's Id, so that compaction and
    /// consumers can drop repeated records.
    "topic": Text(formats::topic), required("name the topic"), on("office365");
    /// none, gzip, lz4, snappy or zstd.
    "compress": Words(&["none", "gzip", "lz4", "snappy", "zstd"]), default("none"), off("zstd");
    /// The duration without an acknowledgement after which the output fails. Until then, messages are sent again while the
    /// other outputs wait.
    "retryTimeout": Kind::Duration(1..=HOUR), default("60s");
    /// true: a record that is too large, or that the brokers reject for another reason of its own, is written to
    /// workingDir/dead-letters/kafka.json, and its blob is complete. false: each pass sends it again until it expires.
    "deadLetters": Bool, default("true");
    /// TLS. `tls: {}` is TLS with the system's roots. All files are PEM. Default: none.
    "tls": Section(KAFKA_TLS), hint(TLS_HINT), off("");
    /// The login with a user name and a password. Default: none.
    "sasl": Section(SASL), off("");
    /// Options of librdkafka, by the names in its CONFIGURATION.md. Those that the other keys set, and those that would let
    /// records be lost, are refused. Default: none.
    "options": LibrdkafkaOptions, off("{ message.max.bytes: 10000000, linger.ms: 50 }");
}

KAFKA_TLS {
    /// Additional root certificates, or the brokers' own certificate if it is self-signed.
    "ca_file": PemFile, off("/etc/ssl/corp.pem");
    /// The client's certificate.
    "cert_file": PemFile, off("/etc/ssl/client.pem");
    /// Its key. Default: the key is in cert_file.
    "key_file": PemFile, off("/etc/ssl/client.key");
}

SASL {
    /// PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512.
    "mechanism": Words(&["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]), required("write PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"), off("SCRAM-SHA-512");
    /// The user.
    "username": Text(formats::any), required("add it"), off("collector");
    /// Its password, here …
    "password": Secret, off("${KAFKA_PASSWORD}");
    /// … or in a file, which each pass reads.
    "password_file": SecretFile, off("/run/credentials/office365-collector.service/kafka_password");
}

STDOUT {
    /// false: the output is off.
    "enabled": Bool, default("true"), on("false");
}

LOG {
    /// A file. Errors go to standard error too. Default, and with an empty text: everything goes to standard error, which is
    /// the journal under systemd.
    "path": OptionalPath, off("/var/log/office365-collector.log");
    /// true: log also what helps to find the cause of a problem.
    "debug": Bool, default("false");
    /// text, or json: each line is an object with time, level, message and, where they apply, tenant, feed and blob.
    "format": Words(&["text", "json"]), default("text");
}

METRICS {
    /// A textfile for Prometheus' node exporter, replaced at the end of each pass. Default: none.
    "path": Path, off("/var/lib/node_exporter/office365.prom");
}
}

/// The facilities of syslog, in the order of their codes.
///
/// Source: RFC 5424, table 1.
pub(super) const FACILITIES: [&str; 24] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
    "ntp", "audit", "alert", "clock", "local0", "local1", "local2", "local3", "local4", "local5", "local6",
    "local7",
];

/// The severities of syslog, in the order of their codes.
///
/// Source: RFC 5424, table 2.
pub(super) const SEVERITIES: [&str; 8] =
    ["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"];

/// The kinds of credentials, of which an app has one.
pub(super) const CREDENTIALS: [&str; 6] = [
    "client_secret",
    "client_secret_file",
    "client_secret_path",
    "certificate",
    "federated_token_file",
    "managed_identity",
];

const HOUR: u64 = 3600;
const KIB: u64 = 1024;
const GIB: u64 = 1024 * 1024 * KIB;

const ALL_CONTENT_TYPES: &str =
    r#"[ "DLP.All", "Audit.Exchange", "Audit.SharePoint", "Audit.AzureActiveDirectory", "Audit.General" ]"#;
const FILTER_SAMPLE: &str = r#"
  Audit.Exchange: { Operation: [ "MailItemsAccessed", "Send*" ], UserId: "!*@fabrikam.example" }
  Audit.General: { RecordType: [ 25, 64 ] }
  DLP.All: { PolicyDetails.Rules.Severity: "High" }"#;

const CONTENT_TYPES_HINT: &str = r#"write [ "Audit.General", … ]"#;
const TENANT_ID_HINT: &str = "fill in the tenant_id: Entra admin center, Overview, Tenant ID";
const CLIENT_ID_HINT: &str = "fill in the client_id: App registrations, your app, Application (client) ID";
const CLIENT_SECRET_HINT: &str =
    "fill in the client_secret: your app, Certificates & secrets, the secret's Value";
const BROKERS_HINT: &str = r#"write [ "kafka.example:9092" ]"#;
const PUBLISHER_ID_HINT: &str = "fill in the publisher_id or remove the line for the tenant's own";
const TLS_HINT: &str = "write `tls: {}` for TLS with the system's roots, or remove the line";

const _: () = assert!(RETENTION.as_secs() == 7 * 24 * HOUR, "the documentation says 7d");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_default_is_a_value_of_its_kind() {
        for (section, keys) in sections(ROOT) {
            for key in keys {
                let Some(default) = key.default else { continue };
                assert!(key.kind.parse(default).is_some(), "{section}.{}: {default}", key.name);
            }
        }
    }
}
