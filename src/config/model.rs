//! The configuration as the program reads it.
//!
//! Each part is read from the typed values of its section by a `read` function, which cannot fail: until every mistake
//! has been excluded, wrong values are their defaults.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use xxhash_rust::xxh3::xxh3_64;

use super::{
    url::Url,
    values::{FromValue, Section, Value},
};
use crate::{
    csv,
    disk::{self, ForeignFiles},
    feed::ContentType,
    log::Format as LogFormat,
};

/// The largest body that the Logs Ingestion API accepts, compressed or not.
///
/// Source: "Azure Monitor service limits", section "Logs Ingestion API".
pub(super) const AZURE_BODY_BYTES_MAX: usize = 1_000_000;

/// The whole configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// `false`: a pass logs that, does nothing and exits with 0.
    pub enabled: bool,
    /// The interval at which the scheduler starts passes.
    pub interval: Duration,
    /// The first pass of a feed collects nothing that is older than now.
    pub only_future_events: bool,
    /// One or more.
    pub tenants: Vec<Tenant>,
    /// How a pass collects.
    pub collect: Collect,
    /// Where records go: one or more.
    pub output: Output,
    /// Where the log goes.
    pub log: Log,
    /// The Prometheus textfile, replaced at the end of each pass.
    pub metrics_path: Option<PathBuf>,
    /// The way to Microsoft.
    pub network: Network,
}

impl Config {
    pub(super) fn read(
        root: &Section,
        tenants: Vec<Tenant>,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Self {
        let collect = root.section("collect");
        Self {
            enabled: root.get("enabled"),
            interval: root.get("interval"),
            only_future_events: root.get("only_future_events"),
            collect: Collect::read(root, &collect, environment),
            output: Output::read(&root.section("output"), &tenants),
            tenants,
            log: Log::read(&root.section("log")),
            metrics_path: root.section("metrics").get("path"),
            network: Network::read(root),
        }
    }

    /// Files of the state, the output and the log that root owns in the folders of other users, by folder.
    pub fn foreign_files(&self) -> Vec<ForeignFiles> {
        let mut found: Vec<_> = ForeignFiles::find_all(&self.collect.working_dir).into_iter().collect();
        let outputs =
            self.output.file.iter().flat_map(|file| ContentType::ALL.map(|feed| file.path_of(feed)));
        let mut by_folder = BTreeMap::<_, Vec<_>>::new();
        for path in outputs.chain(self.log.path.clone()).filter(|path| path.is_file()) {
            let files = by_folder.entry(disk::folder_of(&path).to_owned()).or_default();
            if !files.contains(&path) {
                files.push(path);
            }
        }
        found.extend(by_folder.into_iter().filter_map(|(folder, files)| ForeignFiles::find(&folder, files)));
        found
    }
}

/// One Microsoft 365 tenant and how to log in to it. Clones share their texts.
#[derive(Clone, Debug)]
pub struct Tenant {
    /// A GUID, in lower case.
    pub tenant_id: Arc<str>,
    /// The app registration's GUID; empty with a managed identity, which has none.
    pub client_id: Arc<str>,
    /// The credential of the app.
    pub credential: Credential,
    /// Used in tags, in `TenantName`, in the log and in metrics.
    pub name: Option<Arc<str>>,
    /// The GUID whose quota the requests count against: by default the tenant's own.
    pub publisher_id: Arc<str>,
    /// The tenant's cloud.
    pub cloud: Cloud,
    /// Without a slash at the end, e.g. `https://login.microsoftonline.com`.
    pub login_url: Arc<str>,
    /// Without a slash at the end, e.g. `https://manage.office.com`. The token goes to this origin only.
    pub api_url: Arc<str>,
    /// Each at most once, in the order of [`ContentType::ALL`].
    pub subscriptions: Arc<[ContentType]>,
}

/// What tenants have in common, in memory once: there can be tens of thousands of them.
pub(super) struct Common {
    /// The subscriptions of tenants that name none.
    subscriptions: Arc<[ContentType]>,
    texts: HashSet<Arc<str>>,
}

impl Common {
    pub(super) fn read(root: &Section) -> Self {
        let subscriptions = root.get::<Option<_>>("subscriptions");
        let subscriptions = subscriptions.or_else(|| root.section("collect").get("contentTypes"));
        let subscriptions = subscriptions.unwrap_or_else(|| ContentType::ALL.to_vec());
        Self { subscriptions: subscriptions.into(), texts: HashSet::new() }
    }

    /// Returns the text, shared with all tenants that have an equal one.
    fn text(&mut self, text: &str) -> Arc<str> {
        if let Some(equal) = self.texts.get(text) {
            return Arc::clone(equal);
        }
        let text = Arc::from(text);
        self.texts.insert(Arc::clone(&text));
        text
    }
}

impl Tenant {
    pub(super) fn read(tenant: &Section, common: &mut Common) -> Self {
        let tenant_id: Arc<str> = tenant.get("tenant_id");
        let cloud: Cloud = tenant.get("api_type");
        let mut url = |key: &str, default: &str| {
            common.text(tenant.get::<Option<String>>(key).as_deref().unwrap_or(default))
        };
        let (login_url, api_url) = (url("login_url", cloud.login_url()), url("api_url", cloud.api_url()));
        let subscriptions = tenant.get::<Option<Vec<_>>>("subscriptions").map(Arc::from);
        Self {
            client_id: common.text(&tenant.get::<String>("client_id")),
            credential: Credential::read(tenant),
            name: tenant.get("name"),
            publisher_id: tenant.get::<Option<_>>("publisher_id").unwrap_or_else(|| Arc::clone(&tenant_id)),
            cloud,
            login_url,
            api_url,
            subscriptions: subscriptions.unwrap_or_else(|| Arc::clone(&common.subscriptions)),
            tenant_id,
        }
    }

    /// The name, else the id.
    pub fn label(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.tenant_id)
    }
}

impl Cloud {
    /// The API's root, which is also the resource of its tokens.
    pub fn api_url(self) -> &'static str {
        match self {
            Self::Commercial => "https://manage.office.com",
            Self::Gcc => "https://manage-gcc.office.com",
            Self::GccHigh => "https://manage.office365.us",
            Self::Dod => "https://manage.protection.apps.mil",
        }
    }

    /// The root of the login endpoint.
    pub fn login_url(self) -> &'static str {
        match self {
            Self::Commercial | Self::Gcc => "https://login.microsoftonline.com",
            Self::GccHigh | Self::Dod => "https://login.microsoftonline.us",
        }
    }
}

/// The credential of an app registration.
#[derive(Clone, Debug)]
pub enum Credential {
    /// `client_secret`, or the content of `client_secret_file`.
    Secret(Secret),
    /// A certificate registered with the app. Its files are read at each login.
    Certificate {
        /// PEM.
        file: PathBuf,
        /// PEM; the same file as the certificate if `None`.
        key_file: Option<PathBuf>,
    },
    /// A token that another identity provider signed, as Kubernetes mounts it. Read at each login, since it rotates.
    FederatedTokenFile(PathBuf),
    /// The identity that Azure gives this machine or app, instead of an app registration.
    ManagedIdentity(ManagedIdentity),
}

/// A managed identity of Azure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ManagedIdentity {
    /// The one that exists together with the machine or app.
    #[default]
    System,
    /// One that is assigned to the machine or app.
    User {
        /// Its GUID.
        client_id: String,
    },
}

impl Credential {
    fn read(app: &Section) -> Self {
        if app.has("client_secret") {
            Self::Secret(app.get("client_secret"))
        } else if app.has("client_secret_file") {
            Self::Secret(app.get("client_secret_file"))
        } else if app.has("client_secret_path") {
            Self::Secret(app.get("client_secret_path"))
        } else if app.has("certificate") {
            let certificate = app.section("certificate");
            Self::Certificate { file: certificate.get("file"), key_file: certificate.get("key_file") }
        } else if app.has("managed_identity") {
            Self::ManagedIdentity(app.get("managed_identity"))
        } else {
            Self::FederatedTokenFile(app.get("federated_token_file"))
        }
    }
}

/// A text that no log line, no panic message and no `Debug` output shows.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Keeps the text as it is.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The text, for the one place that sends it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(…)")
    }
}

/// `maxRequestsPerMinute`: the maximum number of requests of a tenant in a minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RequestsPerMinute {
    /// The tenant's quota, which is learned from the API's answers.
    #[default]
    Auto,
    /// At most this number.
    Fixed(u32),
}

/// How a pass collects.
#[derive(Clone, Debug)]
pub struct Collect {
    /// The folder of the state.
    pub working_dir: PathBuf,
    /// The maximum number of records held in memory between download and output.
    pub cache_size: usize,
    /// The maximum number of bytes of blobs held in memory.
    pub max_memory: usize,
    /// The largest response body accepted, in bytes after decompression.
    pub curl_max_size: usize,
    /// The maximum number of concurrent requests.
    pub max_threads: usize,
    /// The maximum request rate of each tenant.
    pub max_requests_per_minute: RequestsPerMinute,
    /// The maximum number of retries of a failed request.
    pub retries: u32,
    /// The delay before the first retry. It doubles with each retry.
    pub retry_delay: Duration,
    /// The duration without data after which a request fails.
    pub request_timeout: Duration,
    /// Whether blobs that are in `known_blobs` are skipped.
    pub skip_known_logs: bool,
    /// A record whose Id was delivered within this duration is dropped. Zero: none is.
    pub dedup_hours: Duration,
    /// The duration that each pass looks back, 1 to 168 hours.
    pub hours_to_collect: Duration,
    /// The duration after which a pass starts nothing new.
    pub global_timeout: Option<Duration>,
    /// [`Config::interval`]: also the maximum wait for a pass's last requests once everything else is done.
    pub interval: Duration,
    /// At most one for each content type.
    pub filter: Vec<(ContentType, Filter)>,
}

impl Collect {
    fn read(root: &Section, collect: &Section, environment: &dyn Fn(&str) -> Option<String>) -> Self {
        let skip_known_logs = collect.get("skipKnownLogs");
        let older_retry_delay = collect.get::<Option<_>>("retryCooldown").map(Duration::from_secs);
        let retry_delay = older_retry_delay.unwrap_or_else(|| collect.get("retryDelay"));
        let timeout_minutes: u64 = collect.get("globalTimeout");
        Self {
            working_dir: collect
                .get::<Option<_>>("workingDir")
                .or_else(|| root.get("workingDir"))
                .unwrap_or_else(|| state_directory(environment)),
            cache_size: collect.get("cacheSize"),
            max_memory: collect.get("maxMemory"),
            curl_max_size: root.get("curl_max_size"),
            max_threads: collect.get("maxThreads"),
            max_requests_per_minute: collect.get("maxRequestsPerMinute"),
            retries: collect.get("retries"),
            retry_delay,
            request_timeout: collect.get("requestTimeout"),
            skip_known_logs,
            dedup_hours: if skip_known_logs { hours(collect.get("dedupHours")) } else { Duration::ZERO },
            hours_to_collect: hours(collect.get("hoursToCollect")),
            global_timeout: (timeout_minutes > 0).then(|| Duration::from_secs(timeout_minutes * 60)),
            interval: root.get("interval"),
            filter: collect.get::<Option<_>>("filter").or_else(|| root.get("filter")).unwrap_or_default(),
        }
    }
}

/// The folder that a service manager provides for the state, else the current folder.
fn state_directory(environment: &dyn Fn(&str) -> Option<String>) -> PathBuf {
    let folders = environment("STATE_DIRECTORY").unwrap_or_default();
    folders.split(':').find(|folder| !folder.is_empty()).unwrap_or(".").into()
}

fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours * 60 * 60)
}

/// The conditions on records of a content type. Those for which all of them hold are delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// The name of a field, with dots that reach into objects, and the texts of which it must have one.
    pub conditions: Vec<(String, Vec<String>)>,
}

impl Collect {
    /// Returns a hash of the filter of a content type: the same from pass to pass until the filter is changed.
    pub fn filter_hash(&self, content_type: ContentType) -> u64 {
        let filter = self.filter.iter().find(|(filtered, _)| *filtered == content_type);
        filter.map_or(0, |(_, filter)| xxh3_64(format!("{:?}", filter.conditions).as_bytes()))
    }
}

/// The outputs. Each record goes to all of them.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// JSON lines in files.
    pub file: Option<FileOutput>,
    /// The forward protocol of Fluentd, Fluent Bit and Vector.
    pub fluentd: Option<FluentdOutput>,
    /// GELF over TCP.
    pub graylog: Option<GraylogOutput>,
    /// RFC 5424 over TCP, TLS or RELP.
    pub syslog: Option<SyslogOutput>,
    /// Batches over HTTP.
    pub http: Option<HttpOutput>,
    /// Messages to a topic of Kafka.
    pub kafka: Option<KafkaOutput>,
    /// Standard output.
    pub stdout: bool,
}

impl Output {
    fn read(output: &Section, tenants: &[Tenant]) -> Self {
        let enabled = |name: &str| Some(output.section(name)).filter(Section::is_enabled);
        Self {
            file: enabled("file").as_ref().map(FileOutput::read),
            fluentd: enabled("fluentd").as_ref().map(FluentdOutput::read),
            graylog: enabled("graylog").as_ref().map(GraylogOutput::read),
            syslog: enabled("syslog").as_ref().map(SyslogOutput::read),
            http: enabled("http").map(|http| HttpOutput::read(&http, tenants)),
            kafka: enabled("kafka").as_ref().map(KafkaOutput::read),
            stdout: enabled("stdout").is_some(),
        }
    }
}

impl FileOutput {
    /// The files of all content types.
    pub fn paths(&self) -> Vec<PathBuf> {
        let mut paths = ContentType::ALL.map(|content_type| self.path_of(content_type)).to_vec();
        paths.dedup();
        paths
    }

    /// The file of a content type: `DLP.All` → `DLPAll.json` in the folder of `path`; with `audit.csv`,
    /// `audit_DLPAll.csv`, as the older tool named its files but for the date.
    pub fn path_of(&self, content_type: ContentType) -> PathBuf {
        let Self { path, separate_by_content_type, .. } = self;
        let stem = content_type.file_stem();
        match (separate_by_content_type, csv::is_csv(path)) {
            (false, _) => path.clone(),
            (true, false) => path.with_file_name(format!("{stem}.json")),
            (true, true) => {
                let name = path.file_stem().unwrap_or_default().to_string_lossy();
                path.with_file_name(format!("{name}_{stem}.csv"))
            }
        }
    }
}

/// `output.http`
#[derive(Clone, Debug)]
pub struct HttpOutput {
    /// The URL to which batches are posted.
    pub url: String,
    /// The form of a batch.
    pub format: HttpFormat,
    /// Sent with each batch; values can be secrets.
    pub headers: Vec<(String, Secret)>,
    /// Whether batches are compressed with gzip.
    pub compress: bool,
    /// The maximum number of bytes of a batch before compression.
    pub batch_size: usize,
    /// The maximum number of records of a batch.
    pub batch_records: usize,
    /// The maximum number of batches that are sent at the same time.
    pub connections: usize,
    /// The duration without data after which a request fails.
    pub timeout: Duration,
    /// The duration for which a batch is sent again.
    pub retry_timeout: Duration,
    /// Whether a record that is rejected in every form is kept in a file instead of being sent again.
    pub dead_letters: bool,
    /// Private roots and client certificates.
    pub tls: Option<Tls>,
}

impl HttpOutput {
    fn read(http: &Section, tenants: &[Tenant]) -> Self {
        let format = HttpFormat::read(http, tenants);
        let bytes_max =
            if matches!(format, HttpFormat::AzureLogs(_)) { AZURE_BODY_BYTES_MAX } else { usize::MAX };
        let headers = ["headers", "header_files"].map(|key| http.get::<Vec<_>>(key)).concat();
        Self {
            url: http.get("url"),
            format,
            headers,
            compress: http.get("compress"),
            batch_size: bytes_max.min(http.get("batchSize")),
            batch_records: http.get("batchRecords"),
            connections: http.get("connections"),
            timeout: http.get("timeout"),
            retry_timeout: http.get("retryTimeout"),
            dead_letters: http.get("deadLetters"),
            tls: http.get("tls"),
        }
    }
}

/// `output.kafka.sasl`
#[derive(Clone, Debug)]
pub struct Sasl {
    /// The name of the mechanism.
    pub mechanism: String,
    /// The user.
    pub username: String,
    /// `password`, or the content of `password_file`.
    pub password: Secret,
}

impl Sasl {
    pub(super) fn read(sasl: &Section) -> Self {
        let password = if sasl.has("password") { "password" } else { "password_file" };
        Self {
            mechanism: sasl.get("mechanism"),
            username: sasl.get("username"),
            password: sasl.get(password),
        }
    }
}

/// The form of a batch for an HTTP receiver.
#[derive(Clone, Debug)]
pub enum HttpFormat {
    /// `ndjson`
    Ndjson,
    /// `array`
    Array,
    /// `splunk-hec`
    SplunkHec(SplunkHec),
    /// `elastic-bulk`
    ElasticBulk {
        /// A data stream or an index; that of the URL if `None`.
        index: Option<String>,
    },
    /// `azure-logs-ingestion`
    AzureLogs(AzureLogs),
    /// `otlp`
    Otlp(Otlp),
}

impl HttpFormat {
    fn read(http: &Section, tenants: &[Tenant]) -> Self {
        match http.get::<String>("format").as_str() {
            "array" => Self::Array,
            "splunk-hec" => Self::SplunkHec(SplunkHec::read(&http.section("splunk"))),
            "elastic-bulk" => Self::ElasticBulk { index: http.section("elastic").get("index") },
            "azure-logs-ingestion" => Self::AzureLogs(AzureLogs::read(http, tenants)),
            "otlp" => Self::Otlp(Otlp::read(&http.section("otlp"))),
            _ => Self::Ndjson,
        }
    }
}

/// `output.http.azure`: the app that sends to Azure Monitor.
#[derive(Clone, Debug)]
pub struct AzureLogs {
    /// A GUID, in lower case.
    pub tenant_id: String,
    /// The app registration's GUID.
    pub client_id: String,
    /// The credential of the app.
    pub credential: Credential,
    /// The resource of its tokens: `https://monitor.azure.com`, or the government's.
    pub resource: String,
    /// Without a slash at the end.
    pub login_url: String,
}

impl AzureLogs {
    /// The app in `azure`, else that of the single tenant.
    fn read(http: &Section, tenants: &[Tenant]) -> Self {
        let azure = http.section("azure");
        let (tenant_id, client_id, credential) = match tenants {
            [tenant] if !azure.has_app() => {
                (tenant.tenant_id.to_string(), tenant.client_id.to_string(), tenant.credential.clone())
            }
            _ => (azure.get("tenant_id"), azure.get("client_id"), Credential::read(&azure)),
        };
        let url: String = http.get("url");
        let is_government =
            Url::parse(&url).is_some_and(|url| url.host.to_ascii_lowercase().ends_with(".azure.us"));
        let (resource, login_url) = if is_government {
            ("https://monitor.azure.us", Cloud::GccHigh.login_url())
        } else {
            ("https://monitor.azure.com", Cloud::Commercial.login_url())
        };
        let login_url = azure.get::<Option<_>>("login_url").unwrap_or_else(|| login_url.to_owned());
        Self { tenant_id, client_id, credential, resource: resource.to_owned(), login_url }
    }
}

/// Declares keys that have one of several words as their value.
macro_rules! words {
    ($($(#[$attribute:meta])* $key:ident {
        $($(#[$doc:meta])* $variant:ident = $word:literal,)*
    })*) => {$(
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $key {
            $($(#[$doc])* $variant,)*
        }

        impl $key {
            pub(super) const WORDS: &'static [&'static str] = &[$($word),*];
        }

        impl FromValue for $key {
            fn from_value(value: Option<Value>) -> Option<Self> {
                match value {
                    None => [$(Self::$variant),*].first().copied(),
                    Some(Value::Text(word)) => match word.as_str() {
                        $($word => Some(Self::$variant),)*
                        _ => None,
                    },
                    Some(_) => None,
                }
            }
        }
    )*};
}

words! {
    /// Microsoft's national clouds.
    ///
    /// Source: "Office 365 Management Activity API reference", section "Activity API operations".
    Cloud {
        /// `commercial`
        Commercial = "commercial",
        /// `gcc`
        Gcc = "gcc",
        /// `gcc-high`
        GccHigh = "gcc-high",
        /// `dod`
        Dod = "dod",
    }

    /// `output.syslog.protocol`
    SyslogProtocol {
        /// `tls`
        Tls = "tls",
        /// `tcp`
        Tcp = "tcp",
        /// `relp`
        Relp = "relp",
    }

    /// `output.syslog.oversize`: what happens to a record whose message would be too large.
    Oversize {
        /// `split`
        Split = "split",
        /// `truncate`
        Truncate = "truncate",
        /// `dead-letter`
        DeadLetter = "dead-letter",
    }

    /// `output.http.otlp.encoding`: how messages are written.
    OtlpEncoding {
        /// Binary Protobuf.
        Protobuf = "protobuf",
        /// The JSON form of Protobuf.
        Json = "json",
    }

    /// `output.http.otlp.recordAs`: where a record is in a log record.
    OtlpRecord {
        /// Its JSON text is the body.
        Text = "text",
        /// The body is a map of its fields.
        Map = "map",
        /// The attributes are its fields.
        Attributes = "attributes",
    }
}

/// Declares parts of the configuration whose fields are each the value of a key of the part's section.
macro_rules! parts {
    ($($(#[$attribute:meta])* $part:ident {
        $($(#[$doc:meta])* $field:ident: $type:ty = $key:literal,)*
    })*) => {$(
        $(#[$attribute])*
        #[derive(Clone, Debug)]
        pub struct $part {
            $($(#[$doc])* pub $field: $type,)*
        }

        impl $part {
            pub(super) fn read(section: &Section) -> Self {
                Self { $($field: section.get($key),)* }
            }
        }
    )*};
}

parts! {
    /// `output.file`
    FileOutput {
        /// The file, or a name in the folder of the content types' files.
        path: PathBuf = "path",
        /// One file for each content type.
        separate_by_content_type: bool = "separateByContentType",
        /// Between the columns of a `.csv` path.
        separator: char = "separator",
    }

    /// `output.fluentd`
    FluentdOutput {
        /// `{tenant}` in the tag for a tenant without a name.
        tenant_name: Option<String> = "tenantName",
        /// Host name or address.
        address: String = "address",
        /// The port of the receiver.
        port: u16 = "port",
        /// With `{tenant}`, `{contentType}` and `{workload}`.
        tag: String = "tag",
        /// `shared_key` of the receiver's `<security>`.
        shared_key: Option<Secret> = "sharedKey",
        /// With `password`.
        username: Option<String> = "username",
        /// With `username`.
        password: Option<Secret> = "password",
        /// Whether chunks are compressed with gzip.
        compress: bool = "compress",
        /// The maximum wait for an acknowledgement.
        ack_timeout: Duration = "ackTimeout",
        /// The duration for which chunks are sent again.
        retry_timeout: Duration = "retryTimeout",
        /// TLS if present.
        tls: Option<Tls> = "tls",
    }

    /// `output.graylog`
    GraylogOutput {
        /// Host name or address.
        address: String = "address",
        /// The port of the receiver.
        port: u16 = "port",
        /// Records count as delivered when the receiver has closed the connection after we have; otherwise when this machine
        /// has sent them.
        confirm: bool = "confirm",
        /// The duration for which messages are sent again.
        retry_timeout: Duration = "retryTimeout",
        /// TLS if present.
        tls: Option<Tls> = "tls",
    }

    /// `output.syslog`
    SyslogOutput {
        /// Host name or address.
        address: String = "address",
        /// The port of the receiver.
        port: u16 = "port",
        /// How messages are sent.
        protocol: SyslogProtocol = "protocol",
        /// `HOSTNAME`; the name of this machine if `None`.
        hostname: Option<String> = "hostname",
        /// The code of the facility, 0 to 23.
        facility: usize = "facility",
        /// The code of the severity, 0 to 7.
        severity: usize = "severity",
        /// Part of `SD-ID`.
        enterprise_number: u32 = "enterpriseNumber",
        /// Whether a byte order mark precedes the JSON.
        bom: bool = "bom",
        /// The maximum number of bytes of a message.
        max_message_size: usize = "maxMessageSize",
        /// What happens to a record whose message would be larger.
        oversize: Oversize = "oversize",
        /// Whether a record that is rejected is kept in a file instead of being sent again.
        dead_letters: bool = "deadLetters",
        /// Without RELP, records count as delivered when the receiver has closed the connection after we have; otherwise when
        /// this machine has sent them.
        confirm: bool = "confirm",
        /// The maximum wait for an acknowledgement of RELP.
        ack_timeout: Duration = "ackTimeout",
        /// The duration for which messages are sent again.
        retry_timeout: Duration = "retryTimeout",
        /// Private roots and client certificates; RELP uses TLS if present.
        tls: Option<Tls> = "tls",
    }

    /// `output.http.splunk`
    SplunkHec {
        /// The token's own if `None`.
        index: Option<String> = "index",
        /// `source` of the events.
        source: String = "source",
        /// `sourcetype` of the events.
        sourcetype: String = "sourcetype",
        /// The tenant's name, else its id, if `None`.
        host: Option<String> = "host",
        /// A GUID. With it, events count as delivered only when they are indexed.
        channel: Option<String> = "channel",
        /// The maximum wait for the index.
        ack_timeout: Duration = "ackTimeout",
    }

    /// `output.http.otlp`
    Otlp {
        /// How messages are written.
        encoding: OtlpEncoding = "encoding",
        /// Where a record is in a log record.
        record_as: OtlpRecord = "recordAs",
        /// `service.name` of the resource.
        service_name: String = "serviceName",
    }

    /// The `tls` block of a network output.
    #[derive(Default)]
    Tls {
        /// Additional root certificates, PEM.
        ca_file: Option<PathBuf> = "ca_file",
        /// The client's certificate, PEM.
        cert_file: Option<PathBuf> = "cert_file",
        /// Its key, PEM.
        key_file: Option<PathBuf> = "key_file",
        /// The name to verify instead of the address.
        server_name: Option<String> = "server_name",
    }

    /// `output.kafka`
    KafkaOutput {
        /// Hosts, each with or without a port.
        brokers: Vec<String> = "brokers",
        /// The topic, which exists.
        topic: String = "topic",
        /// The name of the codec, as librdkafka has it; `none` for none.
        compress: String = "compress",
        /// The duration without an acknowledgement after which the output fails.
        retry_timeout: Duration = "retryTimeout",
        /// Whether a record that is rejected alone is kept in a file instead of being sent again.
        dead_letters: bool = "deadLetters",
        /// TLS if present.
        tls: Option<KafkaTls> = "tls",
        /// A login if present.
        sasl: Option<Sasl> = "sasl",
        /// Options of librdkafka; values can be secrets.
        options: Vec<(String, Secret)> = "options",
    }

    /// `output.kafka.tls`. The name to verify is always that of the broker.
    #[derive(Default)]
    KafkaTls {
        /// Additional root certificates, PEM.
        ca_file: Option<PathBuf> = "ca_file",
        /// The client's certificate, PEM.
        cert_file: Option<PathBuf> = "cert_file",
        /// Its key, PEM.
        key_file: Option<PathBuf> = "key_file",
    }

    /// Where the log goes.
    #[derive(Default)]
    Log {
        /// Standard error if `None`.
        path: Option<PathBuf> = "path",
        /// Log also what helps to find the cause of a problem.
        debug: bool = "debug",
        /// How a line is written.
        format: LogFormat = "format",
    }

    /// The way to Microsoft.
    #[derive(Default)]
    Network {
        /// A proxy's URL, which can hold a password; the environment's if `None`.
        proxy: Option<Secret> = "proxy",
        /// Additional root certificates, PEM.
        ca_file: Option<PathBuf> = "ca_file",
    }
}
