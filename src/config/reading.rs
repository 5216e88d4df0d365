//! What is gathered while a configuration is read: mistakes, warnings, known keys, places of secrets.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use super::{
    Config, Loaded,
    keys::Keys,
    mistake::{Mistake, Origin, Place, Unusable},
    variables::Environment,
    yaml::Document,
};
use crate::limits::MISTAKES_MAX;

/// What is shared while a configuration is read: the environment, and what was found so far.
pub(super) struct Reading<'a> {
    pub(super) environment: Environment<'a>,
    /// Whether secrets and certificates are read.
    pub(super) with_secrets: bool,
    pub(super) keys: RefCell<Keys>,
    mistakes: RefCell<Vec<Mistake>>,
    omitted: Cell<usize>,
    omitted_warnings: Cell<usize>,
    warnings: RefCell<Vec<String>>,
    /// Files that hold a secret, and the first key that does.
    holders: RefCell<Vec<(PathBuf, String)>>,
    /// Files that are read, and the keys that name them.
    files: RefCell<Vec<(String, PathBuf)>>,
    /// A file is missing that may have what is required.
    has_gaps: Cell<bool>,
}

impl<'a> Reading<'a> {
    pub(super) fn new(environment: Environment<'a>, with_secrets: bool) -> Self {
        Self {
            environment,
            with_secrets,
            keys: RefCell::default(),
            mistakes: RefCell::default(),
            omitted: Cell::default(),
            omitted_warnings: Cell::default(),
            warnings: RefCell::default(),
            holders: RefCell::default(),
            files: RefCell::default(),
            has_gaps: Cell::default(),
        }
    }

    /// A variable's value; an empty one counts as unset.
    pub(super) fn variable(&self, name: &str) -> Option<String> {
        (self.environment)(name).filter(|value| !value.is_empty())
    }

    pub(super) fn mistake(&self, place: &Place, text: impl Into<String>) {
        self.mistake_of(place, || text.into());
    }

    /// A mistake of which the text takes some work.
    fn mistake_of(&self, place: &Place, text: impl FnOnce() -> String) {
        if self.mistakes.borrow().len() < MISTAKES_MAX {
            self.add(place.mistake(text()));
        } else {
            self.omitted.set(self.omitted.get() + 1);
        }
    }

    pub(super) fn add(&self, mistake: Mistake) {
        self.mistakes.borrow_mut().push(mistake);
    }

    /// The place is put in front of the text.
    pub(super) fn warn(&self, place: &Place, text: impl Into<String>) {
        // Each costs a second look at the file, and with thousands of tenants the same thing is often true of all.
        if self.warnings.borrow().len() < MISTAKES_MAX {
            self.warnings.borrow_mut().push(place.mistake(text).to_string());
        } else {
            self.omitted_warnings.set(self.omitted_warnings.get() + 1);
        }
    }

    pub(super) fn warn_of_file(&self, file: &Path, text: &str) {
        self.warnings.borrow_mut().push(Mistake::of_file(file, None, text).to_string());
    }

    /// The second file cannot be read: what a tenant lacks may be there.
    pub(super) fn expect_gaps(&self) {
        self.has_gaps.set(true);
    }

    /// Reports keys that are unknown or repeated. Comes last, when each known key was asked for.
    pub(super) fn review(&self, document: &Document, credentials: Option<&Document>) {
        let report = &mut |place: &Place, text: &dyn Fn() -> String| self.mistake_of(place, text);
        self.keys.borrow().review("", &document.entries, &Place::root(Origin::File(document)), report);
        if let Some(document) = credentials {
            self.keys.borrow_mut().keep_only("tenants");
            self.keys.borrow().review("", &document.entries, &Place::root(Origin::File(document)), report);
        }
    }

    /// Whether what is required may be in a file that cannot be read.
    pub(super) fn has_gaps(&self) -> bool {
        self.has_gaps.get()
    }

    /// A secret stands in a file as plain text.
    pub(super) fn hold_secret(&self, file: &Path, key: String) {
        self.holders.borrow_mut().push((file.to_owned(), key));
    }

    /// A file that this key names is read.
    pub(super) fn hold_file(&self, key: String, path: &Path) {
        if !path.as_os_str().is_empty() {
            self.files.borrow_mut().push((key, path.to_owned()));
        }
    }

    /// The files that are read, and the keys that name them.
    pub(super) fn files(&self) -> Vec<(String, PathBuf)> {
        self.files.borrow().clone()
    }

    /// Whether a file holds a secret as plain text: the key that was seen first.
    pub(super) fn secret_in(&self, document: &Document) -> Option<String> {
        let holders = self.holders.borrow();
        holders.iter().find(|(path, _)| *path == document.path).map(|(_, key)| key.clone())
    }

    /// What `config` means if there was no mistake; else all mistakes, in the order of files and lines.
    pub(super) fn finish(self, config: Option<Config>) -> Result<Loaded, Unusable> {
        let listed: BTreeSet<_> = self.mistakes.into_inner().into_iter().collect();
        match config {
            Some(config) if listed.is_empty() => {
                let mut warnings = self.warnings.into_inner();
                if self.omitted_warnings.get() > 0 {
                    warnings.push(format!(
                        "… and {} more warnings about the configuration",
                        self.omitted_warnings.get()
                    ));
                }
                Ok(Loaded { config, warnings })
            }
            _ => {
                Err(Unusable::Mistakes { listed: listed.into_iter().collect(), omitted: self.omitted.get() })
            }
        }
    }
}
