//! One value, as the type that its key asks for.

use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

use super::{
    Secret,
    mistake::{Origin, Place, Step},
    reading::Reading,
    scalar, variables,
    yaml::Node,
};
use crate::{redact, suggest::nearest};

/// As much of a value as a message shows.
const GIVEN_CHARACTERS_MAX: usize = 100;

/// A value and where it was written.
#[derive(Clone)]
pub(super) struct Value<'a> {
    pub(super) reading: &'a Reading<'a>,
    pub(super) node: &'a Node,
    pub(super) place: Place<'a>,
}

impl<'a> Value<'a> {
    pub(super) fn mistake(&self, text: impl Into<String>) {
        self.reading.mistake(&self.place, text);
    }

    pub(super) fn is_from_environment(&self) -> bool {
        matches!(self.place.origin, Origin::Environment(_))
    }

    /// The value as a message shows it: a text in quotes, cut off where it is long. Never called for a secret.
    pub(super) fn given(&self) -> String {
        match self.node {
            Node::Text(text) => quoted(&self.quiet_text().unwrap_or_else(|| text.clone())),
            Node::Bool(value) => value.to_string(),
            Node::Integer(value) => value.to_string(),
            Node::Float(value) => value.to_string(),
            other => other.kind().to_owned(),
        }
    }

    /// A mistake of a value that is not what it must be: `"many" is not a whole number`.
    fn is_not(&self, expected: &str, hint: &str) {
        let text = match self.node {
            Node::List(_) | Node::Map(_) | Node::Null => {
                format!("must be {expected}, but is {}{hint}", self.node.kind())
            }
            _ => format!("{} is not {expected}{hint}", self.given()),
        };
        self.mistake(text);
    }

    /// A path. A shell's shorthands have no meaning here: a file of that very name would be written.
    pub(super) fn path(&self) -> Option<PathBuf> {
        let text = self.text()?;
        self.refuse_shorthand()?;
        Some(PathBuf::from(text))
    }

    /// Refuses a path that only a shell would understand: `~/audit.json`, `$HOME/audit.json`.
    pub(super) fn refuse_shorthand(&self) -> Option<()> {
        let Node::Text(text) = self.node else { return Some(()) };
        if self.is_from_environment() {
            return Some(());
        }
        let shown = quoted(text);
        if text.trim_start().starts_with('~') {
            self.mistake(format!(
                "{shown} begins with ~, which only a shell replaces; write the folder out, or use ${{HOME}}"
            ));
            return None;
        }
        if let Some(name) = variables::bare_name(text) {
            self.mistake(format!("{shown} holds ${name}; write the value out, or use ${{{name}}}"));
            return None;
        }
        Some(())
    }

    /// A text with its variables replaced.
    pub(super) fn text(&self) -> Option<String> {
        match self.node {
            Node::Text(_) => {
                let text = self.scalar_text()?;
                if text.trim().is_empty() {
                    self.mistake("is empty; fill it in or remove the line");
                    return None;
                }
                Some(text)
            }
            Node::Bool(_) | Node::Integer(_) | Node::Float(_) => {
                self.mistake(format!("must be a text, but is {}; put it in quotes", self.node.kind()));
                None
            }
            other => {
                self.mistake(format!("must be a text, but is {}; write it behind the colon", other.kind()));
                None
            }
        }
    }

    /// Whatever stands there as text: texts, numbers, true and false.
    pub(super) fn scalar_text(&self) -> Option<String> {
        match self.node {
            Node::Text(text) if self.is_from_environment() => Some(text.clone()),
            Node::Text(text) => match variables::replace(text, self.reading.environment) {
                Ok(text) => Some(text),
                Err(mistakes) => {
                    for text in mistakes {
                        self.mistake(text);
                    }
                    None
                }
            },
            Node::Bool(value) => Some(value.to_string()),
            Node::Integer(value) => Some(value.to_string()),
            Node::Float(value) => Some(value.to_string()),
            other => {
                self.mistake(format!("must be one value, but is {}", other.kind()));
                None
            }
        }
    }

    /// Its text without a mistake if there is none, for looking it up before it is checked.
    pub(super) fn quiet_text(&self) -> Option<String> {
        match self.node {
            Node::Text(text) => variables::replace(text, self.reading.environment).ok(),
            _ => None,
        }
    }

    /// A text that must not be shown, without what an editor or a pipe adds around it. Remembers that the file holds
    /// one.
    pub(super) fn secret(&self) -> Option<Secret> {
        let secret = self.text_of_secret().map(|text| Secret::new(trimmed(&text)))?;
        redact::register(secret.reveal());
        if let (Origin::File(document), Node::Text(text)) = (self.place.origin, self.node)
            && !variables::is_replaced(text)
        {
            self.reading.hold_secret(&document.path, self.place.name());
        }
        Some(secret)
    }

    /// A secret, or the path of one: if secrets are not read, what it says without a mistake.
    pub(super) fn text_of_secret(&self) -> Option<String> {
        if self.reading.with_secrets { self.text() } else { Some(self.quiet_text().unwrap_or_default()) }
    }

    pub(super) fn is_null(&self) -> bool {
        *self.node == Node::Null
    }

    /// A map with `enabled: false`.
    pub(super) fn is_switched_off(&self) -> bool {
        let is_off = |(key, node): &(String, Node)| key == "enabled" && *node == Node::Bool(false);
        matches!(self.node, Node::Map(entries) if entries.iter().any(is_off))
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        if let Node::Bool(value) = self.node {
            return Some(*value);
        }
        let value = match self.node {
            Node::Text(_) => match self.scalar_text()?.trim().to_ascii_lowercase().as_str() {
                "true" => Some(true),
                "false" => Some(false),
                _ => None,
            },
            _ => None,
        };
        if value.is_none() {
            self.is_not("true or false", "; write one of them, without quotes");
        }
        value
    }

    /// `true` or `false` of the older tool's maps.
    pub(super) fn is_true(&self) -> bool {
        self.boolean() == Some(true)
    }

    pub(super) fn number<T: TryFrom<u64>>(&self, range: &RangeInclusive<u64>) -> Option<T> {
        self.number_else(range, "")
    }

    /// A number, where a word is allowed in its place, which the caller has looked for.
    pub(super) fn number_or<T: TryFrom<u64>>(&self, word: &str, range: &RangeInclusive<u64>) -> Option<T> {
        self.number_else(range, &format!("{word} or "))
    }

    fn number_else<T: TryFrom<u64>>(&self, range: &RangeInclusive<u64>, other: &str) -> Option<T> {
        let number = match self.node {
            Node::Integer(number) => u64::try_from(*number).ok(),
            Node::Text(_) => self.scalar_text()?.trim().parse().ok(),
            _ => None,
        };
        let fitting =
            number.filter(|number| range.contains(number)).and_then(|number| T::try_from(number).ok());
        if fitting.is_none() {
            self.is_not(&format!("{other}a whole number from {} to {}", range.start(), range.end()), "");
        }
        fitting
    }

    pub(super) fn size(&self, range: &RangeInclusive<u64>) -> Option<usize> {
        let bytes = match self.node {
            Node::Integer(bytes) => u64::try_from(*bytes).ok(),
            Node::Text(_) => scalar::size(&self.scalar_text()?),
            _ => None,
        };
        let fitting =
            bytes.filter(|bytes| range.contains(bytes)).and_then(|bytes| usize::try_from(bytes).ok());
        if fitting.is_none() {
            let (least, most) = (scalar::size_text(*range.start()), scalar::size_text(*range.end()));
            self.is_not(&format!("a size from {least} to {most}"), "; write 512K, 10M, 1G or bytes");
        }
        fitting
    }

    pub(super) fn duration(&self, range: &RangeInclusive<u64>) -> Option<Duration> {
        let text = match self.node {
            Node::Integer(number) => number.to_string(),
            Node::Text(_) => self.scalar_text()?,
            _ => String::new(),
        };
        if !text.is_empty() && text.trim().bytes().all(|byte| byte.is_ascii_digit()) {
            let given = self.given();
            self.mistake(format!("{given} has no unit; write seconds as 30s, minutes as 5m, hours as 1h"));
            return None;
        }
        let fitting = scalar::duration(&text).filter(|duration| range.contains(&duration.as_secs()));
        if fitting.is_none() {
            let (least, most) = (scalar::duration_text(*range.start()), scalar::duration_text(*range.end()));
            self.is_not(&format!("a duration from {least} to {most}"), "; write 30s, 5m, 1h or 1d");
        }
        fitting
    }

    pub(super) fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Option<T> {
        let text = self.text()?;
        if let Some((_, choice)) = choices.iter().find(|(name, _)| name.eq_ignore_ascii_case(text.trim())) {
            return Some(*choice);
        }
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        let mend = match nearest(&text, names.iter().copied()) {
            Some(name) => format!("; did you mean {name}?"),
            None => String::new(),
        };
        self.is_not(&format!("one of {}", names.join(", ")), &mend);
        None
    }

    /// The items of a list.
    pub(super) fn items(&self, mend: &str) -> Option<Vec<Self>> {
        let Node::List(items) = self.node else {
            self.mistake(format!("must be a list, but is {}; {mend}", self.node.kind()));
            return None;
        };
        let item =
            |(index, node)| Self { reading: self.reading, node, place: self.place.below(Step::Item(index)) };
        Some(items.iter().enumerate().map(item).collect())
    }

    /// The items of a list, or the one value as a list of one.
    pub(super) fn items_or_one(&self) -> Vec<Self> {
        match self.node {
            Node::List(_) => self.items("").unwrap_or_default(),
            _ => vec![self.clone()],
        }
    }

    /// The values of a map whose keys are free.
    pub(super) fn free_entries(&self) -> Vec<(&'a str, Self)> {
        let Node::Map(entries) = self.node else {
            self.mistake(format!("must have keys below it, but is {}", self.node.kind()));
            return Vec::new();
        };
        let entry = |(key, node): &'a (String, Node)| {
            (key.as_str(), Self { reading: self.reading, node, place: self.place.key(key) })
        };
        entries.iter().map(entry).collect()
    }
}

/// A text in quotes, on one line, cut off where it is long.
pub(super) fn quoted(text: &str) -> String {
    let text = text.trim();
    let (cut, ellipsis) = match text.char_indices().nth(GIVEN_CHARACTERS_MAX) {
        Some((end, _)) => (&text[..end], "…"),
        None => (text, ""),
    };
    format!("\"{}{ellipsis}\"", cut.escape_debug())
}

/// A secret without a byte order mark, whitespace and line breaks around it.
pub(super) fn trimmed(secret: &str) -> &str {
    secret.trim_matches(|character: char| character.is_whitespace() || character == '\u{feff}')
}
