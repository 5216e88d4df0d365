//! The configuration: what its files and the environment mean, or every mistake in them.
//!
//! ```text
//! yaml ─▶ walk (by the schema) ─▶ values ─▶ model
//!           │                       └─▶ rules
//!           └────── report ◀────────────┘
//! ```
//!
//! `schema` declares each key once. The walk reads a file by it and reports what is unknown, repeated, mistyped or out of
//! range. What the values mean is read without a failure, and `rules` holds them against each other. All mistakes are
//! reported at once.

mod entry;
mod files;
mod formats;
mod layers;
mod librdkafka;
mod mistake;
mod model;
mod report;
mod rules;
mod schema;
mod template;
mod url;
mod values;
mod variables;
mod walk;
mod yaml;

#[cfg(test)]
mod tests;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use model::Common;
use report::Report;
use rules::{Rules, UsedNames};
use walk::Walk;
use yaml::Document;

pub use mistake::{ConfigError, Mistake, Position};
pub use model::{
    AzureLogs, Cloud, Collect, Config, Credential, FileOutput, Filter, FluentdOutput, GraylogOutput,
    HttpFormat, HttpOutput, KafkaOutput, KafkaTls, Log, ManagedIdentity, Network, Otlp, OtlpEncoding,
    OtlpRecord, Output, Oversize, RequestsPerMinute, Sasl, Secret, SplunkHec, SyslogOutput, SyslogProtocol,
    Tenant, Tls,
};
pub use template::template;
pub(crate) use url::{NOT_A_PROXY, is_loopback, is_proxy};

/// The paths at which a configuration is looked for if none is named, in this order.
///
/// The last one is where older tools' container images had it.
pub const DEFAULT_PATHS: [&str; 3] =
    ["config/config.yaml", "/etc/office365-collector/config.yaml", "/app/config.yaml"];

/// Returns the first of [`DEFAULT_PATHS`] that exists, readable or not.
pub fn find_default() -> Result<PathBuf, ConfigError> {
    let is_missing =
        |path: &&str| matches!(fs::metadata(path), Err(error) if error.kind() == io::ErrorKind::NotFound);
    DEFAULT_PATHS.iter().find(|path| !is_missing(path)).map(PathBuf::from).ok_or(ConfigError::Missing)
}

/// The sources of a configuration.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    /// The configuration itself.
    pub file: &'a Path,
    /// A second file whose `tenants` are merged into the first one's by `tenant_id`.
    pub credentials: Option<&'a Path>,
    /// Returns a variable's value: for `${NAME}`, for the values of a single tenant (`TENANT_ID`, `AZURE_TENANT_ID` and
    /// the like), and for `STATE_DIRECTORY`.
    pub environment: &'a dyn Fn(&str) -> Option<String>,
    /// Whether secrets and certificates are read. If not, they need not exist, and each secret is an empty text.
    pub with_secrets: bool,
}

/// A configuration without mistakes.
#[derive(Debug)]
pub struct Loaded {
    /// What the files and the environment mean.
    pub config: Config,
    /// What is allowed but probably not intended: whole messages for the log.
    pub warnings: Vec<String>,
    /// The files that were read, or whose paths are in the configuration: what names each, and its path.
    pub files_read: Vec<(String, PathBuf)>,
}

/// Reads and checks the configuration, including the files with secrets. The error has all mistakes.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
    let report = Report::default();
    let read = |path: &Path| Document::read(path).map_err(|mistake| report.add(mistake)).ok();
    let document = read(sources.file);
    let credentials = sources.credentials.and_then(read);
    let config = document.as_ref().map(|document| meaning(sources, &report, document, credentials.as_ref()));
    for document in document.iter().chain(&credentials) {
        report.warn_if_secrets_are_exposed(document);
    }
    report.finish(config)
}

/// What the files mean. Wrong values are their defaults.
fn meaning(
    sources: &Sources,
    report: &Report,
    document: &Document,
    credentials: Option<&Document>,
) -> Config {
    let &Sources { environment, with_secrets, .. } = sources;
    for document in [Some(document), credentials].into_iter().flatten() {
        report.note_file_read("the configuration itself".to_owned(), &document.path);
    }
    let walk = Walk { report, environment, with_secrets };
    walk.check_names(document, schema::ROOT);
    if let Some(credentials) = credentials {
        walk.check_names(credentials, schema::tenants());
    }
    let variables = layers::Variables::read(environment);
    let root = walk.root(document);
    let is_complete = sources.credentials.is_some() == credentials.is_some();
    let rules = Rules { report, root: &root, is_complete };
    let (mut common, mut used) = (Common::read(&root), UsedNames::default());
    let read = |section| {
        let tenant = Tenant::read(&section, &mut common);
        rules.check_tenant(&section, &tenant, &mut used);
        tenant
    };
    let tenants = layers::tenants(&walk, document, credentials, &variables).map(read).collect();
    let config = Config::read(&root, tenants, environment);
    rules.check(&config);
    config
}
