//! What a configuration's reading finds: mistakes, warnings, files that are read, files with secrets.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use super::{
    Config, ConfigError, Loaded,
    mistake::{Mistake, Place},
    yaml::Document,
};

/// Mistakes and warnings that are listed before the rest is only counted: the position of each costs a pass over the
/// file.
const LISTED_MAX: usize = 50;

/// Permissions of other users on a file with a secret that are reported. Those of the group are not: packages share
/// files with a service's user by its group.
const MODE_OF_OTHERS: u32 = 0o007;

/// The findings, gathered while the configuration is read.
#[derive(Default)]
pub(super) struct Report {
    mistakes: RefCell<Vec<Mistake>>,
    omitted_mistakes: Cell<usize>,
    warnings: RefCell<Vec<String>>,
    omitted_warnings: Cell<usize>,
    /// Files that have a secret in plain text, and the key of that secret.
    files_with_secrets: RefCell<Vec<(PathBuf, String)>>,
    /// Files that are read, and the keys that name them.
    files_read: RefCell<Vec<(String, PathBuf)>>,
}

impl Report {
    pub(super) fn mistake(&self, place: &Place, text: impl Into<String>) {
        self.mistake_with(place, || text.into());
    }

    /// Reports a mistake whose text is built only if it is listed.
    pub(super) fn mistake_with(&self, place: &Place, text: impl FnOnce() -> String) {
        if self.mistakes.borrow().len() < LISTED_MAX {
            self.add(place.mistake(text()));
        } else {
            self.omitted_mistakes.set(self.omitted_mistakes.get() + 1);
        }
    }

    pub(super) fn add(&self, mistake: Mistake) {
        self.mistakes.borrow_mut().push(mistake);
    }

    pub(super) fn warn(&self, place: &Place, text: impl Into<String>) {
        if self.warnings.borrow().len() < LISTED_MAX {
            self.warnings.borrow_mut().push(place.mistake(text).to_string());
        } else {
            self.omitted_warnings.set(self.omitted_warnings.get() + 1);
        }
    }

    /// Warns if other users can read a file with a secret.
    pub(super) fn warn_if_exposed(&self, place: &Place, mode: u32) {
        if mode & MODE_OF_OTHERS != 0 {
            self.warn(place, "other users can read the file; run chmod 600 on it");
        }
    }

    /// Warns if a file of the configuration has a secret in plain text and other users can read it.
    pub(super) fn warn_if_secrets_are_exposed(&self, document: &Document) {
        let files = self.files_with_secrets.borrow();
        let holder = files.iter().find(|(path, _)| *path == document.path);
        if let Some((_, key)) = holder.filter(|_| document.mode & MODE_OF_OTHERS != 0) {
            let text = format!("has a secret ({key}) and other users can read it; run chmod 600 on it");
            self.warnings.borrow_mut().push(Mistake::of_file(&document.path, None, text).to_string());
        }
    }

    pub(super) fn note_secret(&self, file: &Path, key: String) {
        self.files_with_secrets.borrow_mut().push((file.to_owned(), key));
    }

    pub(super) fn note_file_read(&self, key: String, path: &Path) {
        if !path.as_os_str().is_empty() {
            self.files_read.borrow_mut().push((key, path.to_owned()));
        }
    }

    pub(super) fn files_read(&self) -> Vec<(String, PathBuf)> {
        self.files_read.borrow().clone()
    }

    /// Returns `config` if there was no mistake, else all mistakes in the order of files and lines.
    pub(super) fn finish(self, config: Option<Config>) -> Result<Loaded, ConfigError> {
        let listed: BTreeSet<_> = self.mistakes.into_inner().into_iter().collect();
        let mut warnings = self.warnings.into_inner();
        let omitted = self.omitted_warnings.get();
        if omitted > 0 {
            warnings.push(format!("… and {omitted} more warnings about the configuration"));
        }
        match config {
            Some(config) if listed.is_empty() => {
                Ok(Loaded { config, warnings, files_read: self.files_read.into_inner() })
            }
            config => {
                let (listed, omitted) = (listed.into_iter().collect(), self.omitted_mistakes.get());
                let log_format = config.map(|config| config.log.format).unwrap_or_default();
                Err(ConfigError::Mistakes { listed, omitted, log_format, warnings })
            }
        }
    }
}
