//! What is wrong with a configuration, and where.

use std::{fmt, path::Path};

use super::{DEFAULT_PATHS, yaml::Document};
use crate::log;

/// A longer text is not a key: the longest key has half as many characters.
const KEY_CHARACTERS_MAX: usize = 40;

/// A place in a file as an editor shows it: both numbers begin at 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column in characters.
    pub column: usize,
}

/// One thing that is wrong, and its fix. Shows the given value unless that is a secret or could be one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    /// The file's path as it was given, or `environment`.
    pub source: String,
    /// `None` if the mistake concerns the file as a whole.
    pub position: Option<Position>,
    /// The path of the key, e.g. `tenants[0].client_id`; empty if it concerns no key.
    pub key: String,
    /// What is wrong; then, after a semicolon, the fix.
    pub text: String,
}

impl Mistake {
    pub(super) fn of_file(file: &Path, position: Option<Position>, text: impl Into<String>) -> Self {
        Self { source: file.display().to_string(), position, key: String::new(), text: text.into() }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.source)?;
        if let Some(Position { line, column }) = self.position {
            write!(formatter, ":{line}:{column}")?;
        }
        if !self.key.is_empty() {
            write!(formatter, ": {}", self.key)?;
        }
        write!(formatter, ": {}", self.text)
    }
}

/// An error returned when there is no configuration without mistakes. Prints every mistake, one a line.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// No file was named, and none of the default paths exists.
    #[error(
        "no configuration: none of {}, {} and {} exists; create one of them or name a file with --config",
        DEFAULT_PATHS[0],
        DEFAULT_PATHS[1],
        DEFAULT_PATHS[2]
    )]
    Missing,
    /// At least one mistake.
    #[error("{}", lines(listed, *omitted))]
    Mistakes {
        /// In the order of files and lines.
        listed: Vec<Mistake>,
        /// The number of further mistakes.
        omitted: usize,
        /// `log.format`, as far as the files can be read.
        log_format: log::Format,
        /// What is allowed but probably not intended, such as an output of an older tool. The message does not contain it.
        warnings: Vec<String>,
    },
}

impl ConfigError {
    /// Returns the format in which the mistakes are logged: that of the configuration, if it is known.
    pub fn log_format(&self) -> log::Format {
        match self {
            Self::Missing => log::Format::default(),
            Self::Mistakes { log_format, .. } => *log_format,
        }
    }

    /// Returns what is allowed but probably not intended: whole messages for the log.
    pub fn warnings(&self) -> &[String] {
        match self {
            Self::Missing => &[],
            Self::Mistakes { warnings, .. } => warnings,
        }
    }
}

fn lines(listed: &[Mistake], omitted: usize) -> String {
    let mut lines: Vec<_> = listed.iter().map(Mistake::to_string).collect();
    if omitted > 0 {
        lines.push(format!("and {omitted} more; fix these first"));
    }
    lines.join("\n")
}

/// A step from a map or a list to a value in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The key of that name. `nth`: which of them, from 0, if it is repeated.
    Key { name: String, nth: usize },
    /// An item of a list, from 0.
    Item(usize),
}

impl Step {
    pub(super) fn key(name: &str) -> Self {
        Self::Key { name: name.to_owned(), nth: 0 }
    }
}

/// The source of a value.
#[derive(Clone, Copy)]
pub(super) enum Origin<'a> {
    File(&'a Document),
    /// The variable whose name is this prefix and the key in capitals.
    Environment(&'static str),
}

/// The place of a key or an item, present or missing.
#[derive(Clone)]
pub(super) struct Place<'a> {
    pub(super) origin: Origin<'a>,
    steps: Vec<Step>,
}

impl<'a> Place<'a> {
    pub(super) fn root(origin: Origin<'a>) -> Self {
        Self { origin, steps: Vec::new() }
    }

    pub(super) fn below(&self, step: Step) -> Self {
        let mut steps = self.steps.clone();
        steps.push(step);
        Self { origin: self.origin, steps }
    }

    pub(super) fn key(&self, name: &str) -> Self {
        self.below(Step::key(name))
    }

    /// `tenants[0].client_id`, or `CLIENT_ID` or `AZURE_CLIENT_ID` in the environment.
    pub(super) fn name(&self) -> String {
        let mut path = String::new();
        for step in &self.steps {
            match step {
                Step::Item(index) => path.extend(["[", &index.to_string(), "]"]),
                Step::Key { name, .. } => {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(shown(name));
                }
            }
        }
        match self.origin {
            Origin::File(_) => path,
            Origin::Environment(prefix) => format!("{prefix}{}", path.to_uppercase()),
        }
    }

    /// Looks it up in the file. The position of a missing key is that of the map in which it belongs.
    pub(super) fn position(&self) -> Option<Position> {
        match self.origin {
            Origin::File(document) => document.locate(&self.steps),
            Origin::Environment(_) => None,
        }
    }

    pub(super) fn is_environment(&self) -> bool {
        matches!(self.origin, Origin::Environment(_))
    }

    pub(super) fn mistake(&self, text: impl Into<String>) -> Mistake {
        let source = match self.origin {
            Origin::File(document) => document.path.display().to_string(),
            Origin::Environment(_) => "environment".to_owned(),
        };
        Mistake { source, position: self.position(), key: self.name(), text: text.into() }
    }
}

/// A key if it looks like one. Other texts can be secrets: `{client_secret:abc}` is one key.
pub(super) fn shown(key: &str) -> &str {
    let is_part = |character: char| character.is_alphanumeric() || "_-.<".contains(character);
    let is_name = !key.is_empty() && key.chars().count() <= KEY_CHARACTERS_MAX && key.chars().all(is_part);
    if is_name { key } else { "…" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_shown_if_it_looks_like_one() {
        for key in ["maxThreads", "Audit.General", "<<", "1", "größe"] {
            assert_eq!(shown(key), key);
        }
        for key in ["client_secret:hunter2", "hunter2~", "pass word", &"x".repeat(41), ""] {
            assert_eq!(shown(key), "…", "{key}");
        }
    }

    #[test]
    fn a_missing_configuration_names_all_paths_and_the_option() {
        assert_eq!(
            ConfigError::Missing.to_string(),
            "no configuration: none of config/config.yaml, /etc/office365-collector/config.yaml and /app/config.yaml \
             exists; create one of them or name a file with --config"
        );
    }
}
