//! From files and the environment to a configuration, or to all its mistakes.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    Config, check, files, mistake::Unusable, reading::Reading, section::Section, tenants, yaml::Document,
};

/// Where a configuration is looked for if none is named, in this order.
pub const DEFAULT_PATHS: [&str; 2] = ["config/config.yaml", "/etc/office365-collector/config.yaml"];

/// The first of [`DEFAULT_PATHS`] at which there is anything, readable or not.
pub fn find_default() -> Result<PathBuf, Unusable> {
    let is_missing =
        |path: &&str| matches!(fs::metadata(path), Err(error) if error.kind() == io::ErrorKind::NotFound);
    DEFAULT_PATHS.iter().find(|path| !is_missing(path)).map(PathBuf::from).ok_or(Unusable::Missing)
}

/// What a configuration is made of.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    /// The configuration itself.
    pub file: &'a Path,
    /// A second file whose `tenants` are merged into the first one's by `tenant_id`.
    pub credentials: Option<&'a Path>,
    /// A variable's value: for `${NAME}`, for what a single tenant can have from there (`TENANT_ID`, `AZURE_TENANT_ID`
    /// and the like), and for `STATE_DIRECTORY`.
    pub environment: &'a dyn Fn(&str) -> Option<String>,
    /// Whether secrets and certificates are read. If not, it does not matter whether they are there, and each of those
    /// in the configuration is an empty text.
    pub with_secrets: bool,
}

/// A configuration without mistakes.
#[derive(Debug)]
pub struct Loaded {
    /// What it means.
    pub config: Config,
    /// What its owner should know: whole messages for the log.
    pub warnings: Vec<String>,
}

/// Reads and checks everything, the files with secrets included. The error holds all mistakes, not only the first.
pub fn load(sources: &Sources) -> Result<Loaded, Unusable> {
    let reading = Reading::new(sources.environment, sources.with_secrets);
    let read = |path: &Path| Document::read(path).map_err(|mistake| reading.add(mistake)).ok();
    let document = read(sources.file);
    let credentials = sources.credentials.and_then(read);
    if sources.credentials.is_some() && credentials.is_none() {
        reading.expect_gaps();
    }
    let config = document.as_ref().map(|document| {
        let variables = tenants::Variables::read(&reading);
        let root = Section::root(&reading, document);
        let credentials_root = credentials.as_ref().map(|document| Section::root(&reading, document));
        check::config(&root, credentials_root.as_ref(), &variables)
    });
    if let Some(document) = &document {
        reading.review(document, credentials.as_ref());
    }
    for document in document.iter().chain(&credentials) {
        warn_of_exposure(&reading, document);
    }
    reading.finish(config)
}

fn warn_of_exposure(reading: &Reading, document: &Document) {
    if let Some(key) = reading.secret_in(document).filter(|_| files::is_exposed(document.mode)) {
        let text = format!("holds a secret ({key}) and can be read by others; run chmod 600 on it");
        reading.warn_of_file(&document.path, &text);
    }
}
