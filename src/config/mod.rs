//! What the configuration means, checked: the rest of the program reads these types and nothing else.
//!
//! Names, defaults and limits are those of `config/config.production.template.yaml`.

mod check;
mod feeds;
mod files;
mod http;
mod keys;
mod load;
mod mistake;
mod older;
mod outputs;
mod reading;
mod scalar;
mod section;
mod tenants;
mod url;
mod value;
mod variables;
mod yaml;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

use crate::{
    csv,
    disk::{self, ForeignFiles},
    feed::ContentType,
};

pub use load::{DEFAULT_PATHS, Loaded, Sources, find_default, load};
pub use mistake::{Mistake, Position, Unusable};
pub(crate) use url::{NOT_A_PROXY, is_loopback, proxy_of};

/// Everything that a pass is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// `false`: a pass says so, does nothing and exits with 0.
    pub enabled: bool,
    /// The cadence that the scheduler outside uses.
    pub interval: Duration,
    /// The first pass of a feed takes nothing older than now.
    pub only_future_events: bool,
    /// One or more.
    pub tenants: Vec<Tenant>,
    /// How a pass collects.
    pub collect: Collect,
    /// Where records go: one or more.
    pub output: Output,
    /// Where the log goes.
    pub log: Log,
    /// The Prometheus textfile, replaced at each pass's end.
    pub metrics_path: Option<PathBuf>,
    /// The network between here and Microsoft.
    pub network: Network,
}

impl Config {
    /// The files that root has left in the folders of other users, by folder: of the state, the output and the log.
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

/// One Microsoft 365 tenant and how to log in to it.
#[derive(Clone, Debug)]
pub struct Tenant {
    /// A GUID, in lower case.
    pub tenant_id: String,
    /// The app registration's GUID.
    pub client_id: String,
    /// What proves that we are this app.
    pub credential: Credential,
    /// Used in tags, in `TenantName`, in the log and in metrics.
    pub name: Option<String>,
    /// Whose quota the requests count against: a GUID; the tenant's own unless told otherwise.
    pub publisher_id: String,
    /// The cloud that the tenant lives in.
    pub cloud: Cloud,
    /// Without a slash at the end, e.g. `https://login.microsoftonline.com`.
    pub login_url: String,
    /// Without a slash at the end, e.g. `https://manage.office.com`. The token goes to this origin only.
    pub api_url: String,
    /// Each at most once, in the order of [`ContentType::ALL`].
    pub subscriptions: Vec<ContentType>,
}

impl Tenant {
    /// What people call it: its name, else its id.
    pub fn label(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.tenant_id)
    }
}

/// Microsoft's national clouds.
///
/// Source: "Office 365 Management Activity API reference", section "Activity API operations".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cloud {
    /// `commercial`
    Commercial,
    /// `gcc`
    Gcc,
    /// `gcc-high`
    GccHigh,
    /// `dod`
    Dod,
}

impl Cloud {
    /// The API's root and the resource that a token is asked for.
    pub fn api_url(self) -> &'static str {
        match self {
            Self::Commercial => "https://manage.office.com",
            Self::Gcc => "https://manage-gcc.office.com",
            Self::GccHigh => "https://manage.office365.us",
            Self::Dod => "https://manage.protection.apps.mil",
        }
    }

    /// Where tokens come from.
    pub fn login_url(self) -> &'static str {
        match self {
            Self::Commercial | Self::Gcc => "https://login.microsoftonline.com",
            Self::GccHigh | Self::Dod => "https://login.microsoftonline.us",
        }
    }
}

/// What proves to the login endpoint that we are the app.
#[derive(Clone, Debug)]
pub enum Credential {
    /// `client_secret`, or what `client_secret_file` held at this pass's start.
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
}

/// A text that never shows itself: not in the log, not in a panic message, not in `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes the text as it is.
    pub fn new(text: impl Into<String>) -> Self {
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

/// `maxRequestsPerMinute`: how many requests a minute a tenant may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestsPerMinute {
    /// As many as the tenant's quota allows, which is learned from its answers.
    Auto,
    /// At most this number.
    Fixed(u32),
}

/// How a pass collects.
#[derive(Clone, Debug)]
pub struct Collect {
    /// Where the state lives.
    pub working_dir: PathBuf,
    /// `cacheSize`: most records held in memory between download and output.
    pub held_records_max: usize,
    /// `maxMemory`: most bytes of blobs held in memory at one time.
    pub held_bytes_max: usize,
    /// `curl_max_size`: the largest response body accepted, in bytes after decompression.
    pub body_bytes_max: usize,
    /// `maxThreads`: concurrent requests.
    pub threads: usize,
    /// `maxRequestsPerMinute`, per tenant.
    pub requests_per_minute: RequestsPerMinute,
    /// `retries`: tries again for a request that failed.
    pub retries: u32,
    /// `retryDelay`: the wait before the first new try; it doubles from try to try.
    pub retry_delay: Duration,
    /// `requestTimeout`: the longest silence of the other side before a request is given up.
    pub request_timeout: Duration,
    /// `skipKnownLogs`: skip blobs already in `known_blobs`.
    pub skip_known: bool,
    /// `dedupHours`: drop a record whose Id was delivered within this time; zero: off.
    pub dedup: Duration,
    /// `hoursToCollect`: how far each pass looks back, 1 to 168 hours.
    pub look_back: Duration,
    /// `globalTimeout`: when a pass stops taking new work.
    pub deadline: Option<Duration>,
    /// `interval` of the configuration: how long a pass waits for its last requests once everything else is done.
    pub straggler_wait: Duration,
    /// `filter`: at most one for each content type.
    pub filters: Vec<(ContentType, Filter)>,
}

/// Which records of a content type are delivered: those for which every condition holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// A field's name, with dots reaching into objects, and the texts of which it must have one.
    pub conditions: Vec<(String, Vec<String>)>,
}

/// Where records go. Each enabled output takes all of them.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// JSON lines in files.
    pub file: Option<FileOutput>,
    /// The forward protocol of Fluentd, Fluent Bit and Vector.
    pub fluentd: Option<FluentdOutput>,
    /// GELF over TCP.
    pub graylog: Option<GraylogOutput>,
    /// Batches over HTTP.
    pub http: Option<HttpOutput>,
    /// Standard output.
    pub stdout: bool,
}

/// `output.file`
#[derive(Clone, Debug)]
pub struct FileOutput {
    /// The file, or the name in whose folder the content types' files stand.
    pub path: PathBuf,
    /// One file for each content type.
    pub separate_by_content_type: bool,
    /// Between the columns of a `.csv` path.
    pub separator: char,
}

impl FileOutput {
    /// Where a content type's records go: `DLP.All` → `DLPAll.json` in the folder of `path`; with `audit.csv`,
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

/// `output.fluentd`
#[derive(Clone, Debug)]
pub struct FluentdOutput {
    /// `{tenant}` in the tag for a tenant without a name.
    pub tenant_name: Option<String>,
    /// Host name or address.
    pub address: String,
    /// 24224 unless told otherwise.
    pub port: u16,
    /// With `{tenant}`, `{contentType}` and `{workload}`.
    pub tag: String,
    /// `shared_key` of the receiver's `<security>`.
    pub shared_key: Option<Secret>,
    /// With `password`.
    pub username: Option<String>,
    /// With `username`.
    pub password: Option<Secret>,
    /// `compress: gzip`
    pub gzip: bool,
    /// How long to wait for an acknowledgement.
    pub ack_timeout: Duration,
    /// `retryTimeout`: how long a receiver that does not accept chunks is tried again.
    pub retry_timeout: Duration,
    /// TLS if present.
    pub tls: Option<Tls>,
}

/// `output.graylog`
#[derive(Clone, Debug)]
pub struct GraylogOutput {
    /// Host name or address.
    pub address: String,
    /// 12201 unless told otherwise.
    pub port: u16,
    /// Records count as delivered when the receiver has closed the connection in answer to our closing it; otherwise
    /// when this machine has sent them.
    pub confirm: bool,
    /// `retryTimeout`: how long a receiver that does not accept messages is tried again.
    pub retry_timeout: Duration,
    /// TLS if present.
    pub tls: Option<Tls>,
}

/// `output.http`
#[derive(Clone, Debug)]
pub struct HttpOutput {
    /// Where batches are posted.
    pub url: String,
    /// How a batch looks.
    pub format: HttpFormat,
    /// Sent with each batch; values can be secrets.
    pub headers: Vec<(String, Secret)>,
    /// `compress: gzip`
    pub gzip: bool,
    /// `batchSize`: most bytes of one batch before compression.
    pub batch_bytes_max: usize,
    /// `batchRecords`: most records of one batch.
    pub batch_records_max: usize,
    /// `connections`: so many batches are on their way at one time.
    pub connections: usize,
    /// `timeout`: the longest silence of the receiver before a request is given up.
    pub timeout: Duration,
    /// `retryTimeout`: for so long a batch that was not taken is tried again.
    pub retry_timeout: Duration,
    /// `deadLetters`: whether a record that is refused in every form is kept in a file instead of being sent again.
    pub dead_letters: bool,
    /// Private roots and client certificates.
    pub tls: Option<Tls>,
}

/// How a batch of records looks on its way to an HTTP receiver.
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
}

/// `output.http.splunk`
#[derive(Clone, Debug)]
pub struct SplunkHec {
    /// The token's own if `None`.
    pub index: Option<String>,
    /// `office365` unless told otherwise.
    pub source: String,
    /// `o365:management:activity` unless told otherwise.
    pub sourcetype: String,
    /// The tenant's name, else its id, if `None`.
    pub host: Option<String>,
    /// A GUID: events count as delivered only when they are indexed.
    pub channel: Option<String>,
    /// How long to wait for that.
    pub ack_timeout: Duration,
}

/// `output.http.azure`: the app that sends to Azure Monitor.
#[derive(Clone, Debug)]
pub struct AzureLogs {
    /// A GUID, in lower case.
    pub tenant_id: String,
    /// The app registration's GUID.
    pub client_id: String,
    /// What proves that we are this app.
    pub credential: Credential,
    /// What its tokens are for: `https://monitor.azure.com`, or the government's.
    pub resource: String,
    /// Without a slash at the end.
    pub login_url: String,
}

/// The `tls` block of a network output.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// Extra root certificates, PEM.
    pub ca_file: Option<PathBuf>,
    /// The client's certificate, PEM.
    pub cert_file: Option<PathBuf>,
    /// Its key, PEM.
    pub key_file: Option<PathBuf>,
    /// The name to verify instead of the address.
    pub server_name: Option<String>,
}

/// Where the log goes.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// Standard error if `None`.
    pub path: Option<PathBuf>,
    /// Also what helps to find a fault.
    pub debug: bool,
}

/// The network between here and Microsoft.
#[derive(Clone, Debug, Default)]
pub struct Network {
    /// A proxy's URL, which can hold a password; the environment's if `None`.
    pub proxy: Option<Secret>,
    /// Extra root certificates, PEM.
    pub ca_file: Option<PathBuf>,
}
