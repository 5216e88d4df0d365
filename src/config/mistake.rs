//! What is wrong with a configuration, and where.

use std::{fmt, path::Path};

use super::{DEFAULT_PATHS, yaml::Document};

/// The longest key there is has half as many characters.
const KEY_CHARS_MAX: usize = 40;

/// A place in a file as an editor shows it: both numbers begin at 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column in characters.
    pub column: usize,
}

/// One thing that is wrong, and how to fix it. Shows the given value, unless that is or could be a secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    /// The file's path as it was given, or `environment`.
    pub source: String,
    /// Where in the file; `None` if it concerns the file as a whole.
    pub position: Option<Position>,
    /// The path of the key, e.g. `tenants[0].client_id`; empty if it concerns no key.
    pub key: String,
    /// What is wrong; then, after a semicolon, the mend.
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

/// Why there is no configuration. Prints every mistake, one a line.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// No file was named and none is at a default path.
    #[error(
        "no configuration: neither {} nor {} exists; create one of them or name a file with --config",
        DEFAULT_PATHS[0],
        DEFAULT_PATHS[1]
    )]
    Missing,
    /// At least one.
    #[error("{}", lines(listed, *omitted))]
    Mistakes {
        /// In the order of files and lines.
        listed: Vec<Mistake>,
        /// How many more there are than were looked up.
        omitted: usize,
    },
}

fn lines(listed: &[Mistake], omitted: usize) -> String {
    let mut lines: Vec<_> = listed.iter().map(Mistake::to_string).collect();
    if omitted > 0 {
        lines.push(format!("and {omitted} more; mend these first"));
    }
    lines.join("\n")
}

/// One step from a map or list of a file to what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The key of that name; the `nth` of them, from 0, where it is repeated.
    Key { name: String, nth: usize },
    /// The item of a list, from 0.
    Item(usize),
}

impl Step {
    pub(super) fn key(name: &str) -> Self {
        Self::Key { name: name.to_owned(), nth: 0 }
    }
}

/// Where something was written.
#[derive(Clone, Copy)]
pub(super) enum Origin<'a> {
    File(&'a Document),
    /// A variable named like the key, in capitals, behind this prefix.
    Environment(&'static str),
}

/// A key or an item, there or missing, and the file in which it belongs.
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

    /// Looks it up in the file; that of the closest thing around it if it is missing.
    pub(super) fn position(&self) -> Option<Position> {
        match self.origin {
            Origin::File(document) => document.locate(&self.steps),
            Origin::Environment(_) => None,
        }
    }

    pub(super) fn mistake(&self, text: impl Into<String>) -> Mistake {
        let source = match self.origin {
            Origin::File(document) => document.path.display().to_string(),
            Origin::Environment(_) => "environment".to_owned(),
        };
        Mistake { source, position: self.position(), key: self.name(), text: text.into() }
    }
}

/// A key if it looks like one. What does not can hold a secret, as in `{client_secret:abc}`, which is one key.
pub(super) fn shown(key: &str) -> &str {
    let is_part = |character: char| character.is_alphanumeric() || "_-.<".contains(character);
    let is_name = !key.is_empty() && key.chars().count() <= KEY_CHARS_MAX && key.chars().all(is_part);
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
    fn a_missing_configuration_names_both_paths_and_the_option() {
        assert_eq!(
            Unusable::Missing.to_string(),
            "no configuration: neither config/config.yaml nor /etc/office365-collector/config.yaml exists; \
             create one of them or name a file with --config"
        );
    }
}
