//! The table of all keys. Checks, suggestions, defaults and the production template come from it.
//!
//! A new option is an entry here, a field in [`super::model`], and the code that uses it.

use std::{collections::BTreeMap, ops::RangeInclusive, time::Duration};

use super::{formats, values::Value};
use crate::limits::RETENTION;

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
    /// A character between the columns of a CSV file.
    Separator,
    /// A text that this function accepts. It returns the text to use, or what is wrong.
    Text(fn(&str) -> Result<String, String>),
    Guid,
    /// A text that no message shows.
    Secret,
    /// A URL that no message shows if it has a password.
    Proxy,
    Path,
    /// A file that has a secret, read with the configuration.
    SecretFile,
    /// A PEM file that must be readable now.
    PemFile,
    /// A PEM file that is read at each login.
    LoginPemFile,
    /// A file with a token, read at each login.
    TokenFile,
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
            Self::AutoOrInteger(_) if word.eq_ignore_ascii_case("auto") => Some(Value::Auto),
            Self::Integer(range) | Self::AutoOrInteger(range) => {
                within(range, formats::number(word)).map(Value::Number)
            }
            Self::Size(range) => within(range, formats::size(word)).map(Value::Number),
            Self::Duration(range) => {
                within(range, formats::seconds(word)).map(Duration::from_secs).map(Value::Duration)
            }
            Self::Words(words) => {
                let found = words.iter().find(|known| known.eq_ignore_ascii_case(word))?;
                Some(Value::Text((*found).to_owned()))
            }
            Self::Separator => formats::separator(text).map(Value::Character),
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
            Self::Words(words) => format!("one of {}", words.join(", ")),
            _ => "one character other than a quote or a line end".to_owned(),
        }
    }

    /// How such a value is written, for messages.
    pub(super) fn form(&self) -> &'static str {
        match self {
            Self::Bool => "; write one of them without quotes",
            Self::Size(_) => "; write 512K, 10M, 1G or bytes",
            Self::Duration(_) => "; write 30s, 5m, 1h or 1d",
            Self::Separator => "; write one, such as ;",
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
            Self::Duration(range) => text(range, formats::duration_text),
            _ => String::new(),
        }
    }
}

const fn key(name: &'static str, kind: Kind, doc: &'static str) -> Key {
    Key { name, kind, doc, default: None, is_required: false, hint: "", sample: Sample::Default, newer: None }
}

const fn gone(name: &'static str, instead: &'static str) -> Key {
    key(name, Kind::Gone, instead)
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

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
const GIB: u64 = 1024 * 1024 * 1024;

/// The outermost keys.
pub(super) const ROOT: &[Key] = &[
    key("enabled", Kind::Bool, "false: a pass logs that it is switched off, does nothing and exits with 0.")
        .default("true"),
    // Content expires after seven days: a longer interval would lose records.
    key(
        "interval",
        Kind::Duration(1..=RETENTION.as_secs()),
        "The interval at which the scheduler starts passes. `schedule` reads it, and a pass that takes longer is reported.",
    )
    .default("5m"),
    key(
        "only_future_events",
        Kind::Bool,
        "true: the first pass of a feed collects nothing that is older than now.",
    )
    .default("false"),
    TENANTS,
    key("subscriptions", Kind::ContentTypes, "The content types to collect, in any letter case. Default: all five.")
        .hint("write [ \"Audit.General\", … ]")
        .on(ALL_CONTENT_TYPES),
    key("collect", Kind::Section(COLLECT), "How a pass collects."),
    key("curl_max_size", Kind::Size(1024..=2 * GIB), "Maximum size of a response body, after decompression.")
        .default("10M"),
    key("filter", Kind::Filter, "").newer("collect.filter"),
    key(
        "output",
        Kind::Section(OUTPUT),
        "One or more outputs. Each record goes to all of them that are enabled.",
    ),
    key("log", Kind::Section(LOG), "Where the log goes."),
    key("metrics", Kind::Section(METRICS), "Metrics for Prometheus."),
    key(
        "proxy",
        Kind::Proxy,
        "The proxy for all requests to Microsoft: http:// or https://, with user:password@ before the host if it needs \
         them. Special characters in these are written as %XX. Default: HTTPS_PROXY of the environment, else ALL_PROXY. \
         Hosts in NO_PROXY are reached without the proxy.",
    )
    .off("http://proxy.example:3128"),
    key(
        "ca_file",
        Kind::PemFile,
        "Additional root certificates, PEM, such as that of a proxy that decrypts TLS. Those of the system are always \
         trusted. Default: none.",
    )
    .off("/etc/ssl/corp.pem"),
];

const ALL_CONTENT_TYPES: &str =
    r#"[ "DLP.All", "Audit.Exchange", "Audit.SharePoint", "Audit.AzureActiveDirectory", "Audit.General" ]"#;

/// The only key that both files can have.
pub(super) const TENANTS: Key = key(
    "tenants",
    Kind::Sections(TENANT),
    "One or more. The environment variables TENANT_ID, CLIENT_ID and CLIENT_SECRET override the values of a single \
     tenant, or make up one if there is none. AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_FEDERATED_TOKEN_FILE, the \
     variables of workload identity, complete a single tenant where neither the files nor those variables have a value.",
)
.hint("begin each of them with `- `");

const TENANT: &[Key] = &[
    TENANT_ID,
    CLIENT_ID,
    CLIENT_SECRET,
    CLIENT_SECRET_FILE,
    CERTIFICATE,
    FEDERATED_TOKEN_FILE,
    key(
        "name",
        Kind::Text(formats::tenant_name),
        "The tenant's name in tags, in the field TenantName, in the log and in metrics; at most 64 characters. Default: \
         none. The log and the metrics then have the tenant_id.",
    )
    .off("contoso"),
    key(
        "api_type",
        Kind::Words(&["commercial", "gcc", "gcc-high", "dod"]),
        "The tenant's cloud: commercial, gcc, gcc-high or dod.",
    )
    .default("commercial")
    .off("commercial"),
    key("publisher_id", Kind::Guid, "The GUID whose quota the requests count against. Default: the tenant_id.")
        .hint("fill in the publisher_id or remove the line for the tenant's own")
        .off("11111111-2222-3333-4444-555555555555"),
    key(
        "login_url",
        Kind::Text(formats::origin),
        "For tests and private gateways: replaces the cloud's login URL. http:// is accepted for localhost only. Default: \
         the URL of api_type.",
    )
    .off("https://login.gateway.example"),
    key("api_url", Kind::Text(formats::origin), "The same for the API's URL.").off("https://manage.gateway.example"),
    key("subscriptions", Kind::ContentTypes, "Replaces the list of all tenants below. Default: that list.")
        .hint("write [ \"Audit.General\", … ]")
        .off(r#"[ "Audit.Exchange", "Audit.General" ]"#),
];

/// The keys of an app that logs in.
pub(super) const APP: [&str; 6] =
    ["tenant_id", "client_id", "client_secret", "client_secret_file", "certificate", "federated_token_file"];

/// The kinds of credentials, of which an app has one.
pub(super) const CREDENTIALS: [&str; 4] =
    ["client_secret", "client_secret_file", "certificate", "federated_token_file"];

const TENANT_ID: Key = key("tenant_id", Kind::Guid, "Entra admin center, Overview: Tenant ID.")
    .hint("fill in the tenant_id: Entra admin center, Overview, Tenant ID")
    .on("YOUR-TENANT-ID");

const CLIENT_ID: Key = key("client_id", Kind::Guid, "App registrations, your app: Application (client) ID.")
    .hint("fill in the client_id: App registrations, your app, Application (client) ID")
    .on("YOUR-CLIENT-ID");

const CLIENT_SECRET: Key = key(
    "client_secret",
    Kind::Secret,
    "An app has exactly one of the four credentials that follow. This one is the Value (not the ID) of a secret under \
     Certificates & secrets.",
)
.hint("fill in the client_secret: your app, Certificates & secrets, the secret's Value")
.on("YOUR-CLIENT-SECRET");

const CLIENT_SECRET_FILE: Key = key(
    "client_secret_file",
    Kind::SecretFile,
    "A file that has the secret. Each pass reads it; whitespace and line breaks around the secret are removed.",
)
.off("/run/credentials/office365-collector.service/client_secret");

const CERTIFICATE: Key = key(
    "certificate",
    Kind::Section(&[
        key("file", Kind::LoginPemFile, "The certificate.")
            .required("name the certificate's PEM file")
            .off("/etc/office365-collector/app.pem"),
        key("key_file", Kind::LoginPemFile, "Its key. Default: the key is in the same file.")
            .off("/etc/office365-collector/app.key"),
    ]),
    "A certificate that is registered with the app, with an unencrypted RSA key of 2048 to 4096 bits. PEM; read at each \
     login. Convert a PFX file with openssl pkcs12 -in app.pfx -out app.pem -nodes",
)
.off("");

const FEDERATED_TOKEN_FILE: Key = key(
    "federated_token_file",
    Kind::TokenFile,
    "Workload identity: a token that another identity provider signed. Read at each login, because it is renewed.",
)
.off("/var/run/secrets/azure/tokens/azure-identity-token");

const COLLECT: &[Key] = &[
    key(
        "workingDir",
        Kind::Path,
        "The folder of the state. Default: STATE_DIRECTORY of the environment, else the current directory.",
    )
    .off("/var/lib/office365-collector"),
    key("cacheSize", Kind::Integer(1..=1_000_000_000), "Maximum number of records held in memory.").default("500000"),
    key("maxMemory", Kind::Size(1024..=2 * GIB), "Maximum number of bytes of blobs held in memory.").default("64M"),
    // With more, threads cost memory and the API only throttles.
    key("maxThreads", Kind::Integer(1..=512), "Maximum number of concurrent requests.").default("50"),
    key(
        "maxRequestsPerMinute",
        Kind::AutoOrInteger(1..=1_000_000),
        "For each tenant: the maximum number of requests in any minute, or auto. auto begins with 2000, makes more \
         requests while Microsoft does not throttle and blobs are pending, fewer after it has throttled, and remembers \
         the rate that works.",
    )
    .default("auto"),
    // With a delay that doubles, twenty retries already last days.
    key("retries", Kind::Integer(0..=20), "Maximum number of retries of a failed request.").default("3"),
    key("retryDelay", Kind::Duration(0..=HOUR), "The delay before the first retry. It doubles with each retry.")
        .default("1s"),
    key(
        "requestTimeout",
        Kind::Duration(1..=HOUR),
        "A request fails when no data arrives for this duration.",
    )
    .default("60s"),
    key(
        "skipKnownLogs",
        Kind::Bool,
        "Skip blobs that are in known_blobs. false: deliver them again; dedupHours is then off too.",
    )
    .default("true"),
    // Content can be listed for seven days, so no record comes again later.
    key(
        "dedupHours",
        Kind::Integer(0..=168),
        "Drop a record whose Id another record of the same tenant had within these hours. The time is that at which their \
         blobs became available, so that downtime does not count. 0: off.",
    )
    .default("24"),
    // The API lists the last seven days.
    // Source: "Office 365 Management Activity API reference", section "List available content".
    key("hoursToCollect", Kind::Integer(1..=168), "The number of hours that each pass looks back.").default("24"),
    key(
        "globalTimeout",
        Kind::Integer(0..=7 * 24 * 60),
        "The number of minutes after which a pass starts nothing new. 0: none.",
    )
    .default("0"),
    key(
        "filter",
        Kind::Filter,
        "For each content type, deliver only records for which all fields match. A record without the field does not \
         match. A list matches if any of its values does. Dots reach into objects, and through lists of objects. In a \
         value, * matches any text (** is a literal *), and a leading ! negates (!! is a literal !); quote such values. \
         Values are compared as text and case-sensitively: \"SharePoint\", 15, true, null. Default: none; every record is \
         delivered.",
    )
    .off(
        "\n  Audit.Exchange: { Operation: [ \"MailItemsAccessed\", \"Send*\" ], UserId: \"!*@fabrikam.example\" }\n  \
         DLP.All: { PolicyDetails.Rules.Severity: \"High\" }",
    ),
    key("contentTypes", Kind::ContentTypeSwitches, "").newer("subscriptions"),
    key("retryCooldown", Kind::Integer(0..=HOUR), "").newer("collect.retryDelay"),
    gone("duplicate", "it fetched each blob several times to measure speed; each record is now delivered once"),
    gone("schedule", "run the collector from a systemd timer or from cron"),
    gone("autoSubscribe", "missing subscriptions are always started"),
    gone("resume", "each feed is resumed where it was last listed completely"),
    gone("rustEngine", "there is only one engine"),
];

const OUTPUT: &[Key] = &[
    key(
        "file",
        Kind::Section(FILE),
        "JSON lines in files. Records are appended; after a rotation the next pass creates the file again.",
    ),
    key(
        "fluentd",
        Kind::Section(FLUENTD),
        "Fluentd, Fluent Bit and Vector: the forward protocol with acknowledgements.",
    ),
    key(
        "graylog",
        Kind::Section(GRAYLOG),
        "GELF 1.1 over TCP, each message ended by a null byte. GELF has no acknowledgements: a batch counts as delivered \
         when the receiver has read everything and has closed the connection.",
    ),
    key("http", Kind::Section(HTTP), "Batches over HTTP."),
    key("stdout", Kind::Section(&[ENABLED.on("false")]), "Standard output, one record a line."),
    gone("azureLogAnalytics", "use output.http with `format: azure-logs-ingestion`"),
    gone("oms", "use output.http with `format: azure-logs-ingestion`"),
    gone("azureTable", "use output.file or output.http"),
    gone("azureBlob", "write with output.file and upload the rotated files"),
    gone("sql", "use output.http or output.fluentd with a receiver that writes to the database"),
    gone("prtg", "use `metrics.path`, or count in the system that receives the records"),
];

const ENABLED: Key = key("enabled", Kind::Bool, "false: the output is off.").default("true");

const FILE: &[Key] = &[
    ENABLED,
    key("path", Kind::Path, "The file to append to.")
        .required("name the file to append to")
        .on("/var/log/office365/audit.json"),
    key(
        "separateByContentType",
        Kind::Bool,
        "true: a file for each content type in the folder of `path`: DLPAll.json, AuditExchange.json, …",
    )
    .default("false")
    .on("true"),
    key(
        "separator",
        Kind::Separator,
        "If `path` ends in .csv, records are written as rows of CSV; with separateByContentType to audit_DLPAll.csv, \
         audit_AuditExchange.csv, … The columns of a file are chosen when it is created: those that all records have, and \
         those of the first batch. Other fields are kept as JSON in the last column, MoreFields. Line breaks within a \
         text are written as \\n. This is the character between the columns; an existing file keeps its own.",
    )
    .default(";")
    .off(";"),
    gone("cacheSize", "`collect.cacheSize` holds for all outputs"),
];

const RECEIVER_ADDRESS: Key =
    key("address", Kind::Text(formats::host), "The receiver's host name or address.")
        .required("name the receiver's host")
        .on("localhost");

const RETRY_TIMEOUT: Key = key(
    "retryTimeout",
    Kind::Duration(0..=HOUR),
    "The duration for which records are sent again after the first failure in a row, while the other outputs wait. Later \
     passes continue.",
)
.default("60s");

const COMPRESS: Key =
    key("compress", Kind::Words(&["gzip", "none"]), "gzip or none.").default("none").off("gzip");

const TLS: Key = key(
    "tls",
    Kind::Section(&[
        key(
            "ca_file",
            Kind::PemFile,
            "Additional root certificates, or the receiver's own certificate if it is self-signed.",
        )
        .off("/etc/ssl/corp.pem"),
        key("cert_file", Kind::PemFile, "The client's certificate.").off("/etc/ssl/client.pem"),
        key("key_file", Kind::PemFile, "Its key. Default: the key is in cert_file.")
            .off("/etc/ssl/client.key"),
        key("server_name", Kind::Text(formats::any), "The name to verify. Default: the address.")
            .off("logs.example"),
    ]),
    "TLS. `tls: {}` is TLS with the system's roots. All files are PEM.",
)
.hint("write `tls: {}` for TLS with the system's roots, or remove the line")
.off("");

const FLUENTD: &[Key] = &[
    ENABLED.on("false"),
    RECEIVER_ADDRESS,
    key("port", Kind::Integer(1..=65_535), "The receiver's port.").default("24224"),
    key(
        "tag",
        Kind::Text(formats::tag),
        "{tenant} is the tenant's name, else tenantName, else its id; {contentType} and {workload} come from the record. \
         In names and workloads, each character other than a letter, a digit, - and _ becomes _.",
    )
    .default("office365.{tenant}.{contentType}"),
    key("tenantName", Kind::Text(formats::any), "{tenant} for a tenant without a name. Default: none.").on("MyCompany"),
    key("sharedKey", Kind::Secret, "shared_key of the receiver's <security>. Default: none.").off("${FLUENTD_SHARED_KEY}"),
    key("username", Kind::Text(formats::any), "Requires password. Default: none.").off("collector"),
    key("password", Kind::Secret, "Requires username. Default: none.").off("${FLUENTD_PASSWORD}"),
    COMPRESS,
    // 190 seconds is the default of Fluentd's own sender.
    key("ackTimeout", Kind::Duration(1..=HOUR), "The maximum wait for an acknowledgement.").default("190s"),
    RETRY_TIMEOUT,
    TLS,
];

const GRAYLOG: &[Key] = &[
    ENABLED.on("false"),
    RECEIVER_ADDRESS,
    key("port", Kind::Integer(1..=65_535), "The receiver's port.").default("12201"),
    key(
        "confirm",
        Kind::Bool,
        "false: a batch counts as delivered when this machine has sent it. For a load balancer that does not close the \
         connection when we close it.",
    )
    .default("true"),
    RETRY_TIMEOUT,
    TLS,
];

const HTTP: &[Key] = &[
    ENABLED.on("false"),
    key("url", Kind::Text(formats::receiver), "http:// or https://, without user and password.")
        .required("name the receiver's URL")
        .on("https://logs.example/ingest"),
    key(
        "format",
        Kind::Words(&["ndjson", "array", "splunk-hec", "elastic-bulk", "azure-logs-ingestion"]),
        "ndjson, array, splunk-hec, elastic-bulk or azure-logs-ingestion.",
    )
    .default("ndjson"),
    key(
        "headers",
        Kind::Headers,
        "Sent with each batch. Default: none. Keep tokens out of this file: take them from the environment …",
    )
    .off(r#"{ Authorization: "Bearer ${LOGS_TOKEN}" }"#),
    key("header_files", Kind::HeaderFiles, "… or from files with one value each, which each pass reads.")
        .off(r#"{ X-Api-Key: "/run/credentials/office365-collector.service/api_key" }"#),
    COMPRESS,
    key(
        "batchSize",
        Kind::Size(1024..=GIB / 2),
        "Maximum size of a batch before compression; for azure-logs-ingestion at most 1000000.",
    )
    .default("1M"),
    key("batchRecords", Kind::Integer(1..=1_000_000), "Maximum number of records of a batch.").default("5000"),
    // Each holds a batch in memory, and its compressed form.
    key("connections", Kind::Integer(1..=64), "Maximum number of batches that are sent at the same time.").default("4"),
    key("timeout", Kind::Duration(1..=600), "A request fails when no data arrives for this duration.").default("60s"),
    RETRY_TIMEOUT,
    key(
        "deadLetters",
        Kind::Bool,
        "true: a record that the receiver rejects in every form is written to workingDir/dead-letters/http.json, and its \
         blob is complete. false: each pass sends it again until it expires.",
    )
    .default("true"),
    TLS,
    key(
        "splunk",
        Kind::Section(&[
            key("index", Kind::Text(formats::any), "The index. Default: the token's own.").off("o365"),
            key("source", Kind::Text(formats::any), "The source of the events.").default("office365"),
            key("sourcetype", Kind::Text(formats::any), "The sourcetype of the events.").default("o365:management:activity"),
            key("host", Kind::Text(formats::any), "The host of the events. Default: the tenant's name, else its id.").off("collector.example"),
            key(
                "channel",
                Kind::Guid,
                "A GUID that you make, for a token with indexer acknowledgement: records count as delivered only when \
                 they are indexed. Default: none.",
            )
            .hint("make one with uuidgen")
            .off("7d1f7f1e-58a3-4c6a-9a55-0c1d3a6f2b10"),
            key("ackTimeout", Kind::Duration(1..=HOUR), "The maximum wait for the index. Requires channel.").default("2m"),
        ]),
        "With format: splunk-hec only.",
    )
    .off(""),
    key(
        "elastic",
        Kind::Section(&[key(
            "index",
            Kind::Text(formats::any),
            "A data stream or an index. Default: the one in url.",
        )
        .off("logs-o365.audit-default")]),
        "With format: elastic-bulk only.",
    )
    .off(""),
    key(
        "azure",
        Kind::Section(&[
            TENANT_ID,
            CLIENT_ID,
            CLIENT_SECRET,
            CLIENT_SECRET_FILE,
            CERTIFICATE,
            FEDERATED_TOKEN_FILE,
            key(
                "login_url",
                Kind::Text(formats::origin),
                "For tests and private gateways. Default: the URL of the cloud that url belongs to.",
            )
            .off("https://login.gateway.example"),
        ]),
        "With format: azure-logs-ingestion only: the app that sends. Default: the app of the single tenant.",
    )
    .off(""),
];

const LOG: &[Key] = &[
    key(
        "path",
        Kind::Path,
        "A file. Errors go to standard error too. Default: everything goes to standard error, which is the journal under \
         systemd.",
    )
    .off("/var/log/office365-collector.log"),
    key("debug", Kind::Bool, "true: log also what helps to find the cause of a problem.").default("false"),
];

const METRICS: &[Key] = &[key(
    "path",
    Kind::Path,
    "A textfile for Prometheus' node exporter, replaced at the end of each pass. Default: none.",
)
.off("/var/lib/node_exporter/office365.prom")];

const _: () = assert!(RETENTION.as_secs() == 7 * DAY, "the interval's range is documented as 7d");

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
