//! The names of outputs, and sets of them: the outputs that have a blob or a record.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::feed::ListedBlob;

/// The name of an output in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputName {
    /// `output.file`
    File,
    /// `output.fluentd`
    Fluentd,
    /// `output.graylog`
    Graylog,
    /// `output.http`
    Http,
    /// `output.kafka`
    Kafka,
    /// `output.stdout`
    Stdout,
    /// `output.syslog`
    Syslog,
}

impl OutputName {
    /// All names.
    pub const ALL: [Self; 7] =
        [Self::File, Self::Fluentd, Self::Graylog, Self::Http, Self::Kafka, Self::Stdout, Self::Syslog];

    /// Returns the word in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Fluentd => "fluentd",
            Self::Graylog => "graylog",
            Self::Http => "http",
            Self::Kafka => "kafka",
            Self::Stdout => "stdout",
            Self::Syslog => "syslog",
        }
    }
}

impl fmt::Display for OutputName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A set of outputs. As a text: their names in order, joined by `+`; the empty set is the empty text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutputSet(u8);

impl OutputSet {
    /// No output.
    pub const EMPTY: Self = Self(0);

    /// Adds an output.
    #[must_use]
    pub fn with(self, output: OutputName) -> Self {
        Self(self.0 | 1 << output as u8)
    }

    /// Returns the outputs in both sets.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Returns the outputs in either set.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns the outputs in this set that are not in the other.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Returns whether the set contains an output.
    pub fn contains(self, output: OutputName) -> bool {
        self.0 & 1 << output as u8 != 0
    }

    /// Returns whether the set is empty.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Parses a text. Returns `None` if a name is not that of an output.
    pub fn parse(text: &str) -> Option<Self> {
        let mut set = Self::EMPTY;
        for name in text.split('+').filter(|name| !name.is_empty()) {
            set = set.with(OutputName::ALL.into_iter().find(|output| output.name() == name)?);
        }
        Some(set)
    }
}

impl FromIterator<OutputName> for OutputSet {
    fn from_iter<Names: IntoIterator<Item = OutputName>>(names: Names) -> Self {
        names.into_iter().fold(Self::EMPTY, Self::with)
    }
}

impl fmt::Display for OutputSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = OutputName::ALL.into_iter().filter(|&output| self.contains(output)).map(OutputName::name);
        formatter.write_str(&names.collect::<Vec<_>>().join("+"))
    }
}

/// A blob to be collected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingBlob {
    /// The blob as it was listed.
    pub blob: ListedBlob,
    /// The outputs that have its records already, from a pass in which others failed.
    pub delivered_to: OutputSet,
    /// Whether an earlier pass failed to collect it.
    pub has_failed: bool,
    /// The number of earlier passes in which all attempts failed because its body could not be read.
    pub failed_passes: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_output_sets() {
        let all: OutputSet = OutputName::ALL.into_iter().collect();
        for set in [OutputSet::EMPTY, OutputSet::EMPTY.with(OutputName::Http), all] {
            assert_eq!(OutputSet::parse(&set.to_string()), Some(set));
        }
        assert_eq!(all.to_string(), "file+fluentd+graylog+http+kafka+stdout+syslog");
        assert_eq!(OutputSet::parse("file+oms"), None);
        assert!(all.without(all.without(OutputSet::EMPTY.with(OutputName::File))).contains(OutputName::File));
    }
}
