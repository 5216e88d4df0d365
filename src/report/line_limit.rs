//! Limits repeated log lines: when hundreds of blobs fail for one reason, the first few lines are written and the rest is
//! counted and summed up at the end of the pass.

use std::collections::HashMap;

use log::Level;

/// The maximum number of lines of one kind that are written.
const LINES_MAX: u64 = 5;

/// The kind of a line: what is equal in lines that differ only in a blob's id or in the details of a cause.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The level of each line.
    pub level: Level,
    /// The beginning of each line: what happened to which feed, e.g. `Blob download failed for contoso audit.general`.
    pub what: String,
    /// The name of the tenant.
    pub tenant: String,
    /// The name of the feed, unless the line is about the whole tenant.
    pub feed: Option<&'static str>,
    /// The cause without its details, e.g. `HTTP 503`.
    pub cause: String,
}

/// The number of lines of a pass, by kind.
#[derive(Debug, Default)]
pub struct LineLimit {
    counts: HashMap<Key, u64>,
}

impl LineLimit {
    /// Writes a line if it is among the first of its kind. `line` gets the line's beginning and returns the whole line.
    /// `blob` is the id of the blob that it is about, if it is about one.
    pub fn write(&mut self, key: Key, blob: Option<&str>, line: impl FnOnce(&str) -> String) {
        if !log::log_enabled!(key.level) {
            return;
        }
        if self.is_below_limit(&key) {
            let (tenant, feed) = (key.tenant.as_str(), key.feed);
            log::log!(key.level, tenant, feed, blob; "{}", line(&key.what));
        }
        *self.counts.entry(key).or_default() += 1;
    }

    /// Writes one line for each kind with omitted lines: `… and 195 more: HTTP 503`.
    pub fn sum_up(self) {
        let mut rest: Vec<_> = self.counts.into_iter().filter(|(_, count)| *count > LINES_MAX).collect();
        rest.sort();
        for (Key { level, what, tenant, feed, cause }, count) in rest {
            let tenant = tenant.as_str();
            log::log!(level, tenant, feed; "{what}: … and {} more: {cause}", count - LINES_MAX);
        }
    }

    fn is_below_limit(&self, key: &Key) -> bool {
        self.counts.get(key).is_none_or(|count| *count < LINES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_each_kind_separately() {
        let key = |cause: &str| Key {
            level: Level::Error,
            what: "failed".to_owned(),
            tenant: "contoso".to_owned(),
            feed: None,
            cause: cause.to_owned(),
        };
        let mut limit = LineLimit::default();
        for _ in 0..LINES_MAX {
            assert!(limit.is_below_limit(&key("a")));
            *limit.counts.entry(key("a")).or_default() += 1;
        }
        assert!(!limit.is_below_limit(&key("a")));
        assert!(limit.is_below_limit(&key("b")));
    }
}
