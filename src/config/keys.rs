//! Which keys there are. Nobody lists them: each key that the checker asks for becomes known by that, and what is in
//! a file but was never asked for is a mistake.
//!
//! A section is named by the path to it without the positions of items, e.g. `tenants[].certificate`.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    mistake::{Place, Step},
    yaml::Node,
};

/// How alike two names must be, from 0 to 1, to take one for a misspelling of the other.
const ALIKE: f64 = 0.7;

/// The keys asked for so far.
#[derive(Default)]
pub(super) struct Keys {
    sections: BTreeMap<String, BTreeSet<&'static str>>,
    older: BTreeMap<String, BTreeSet<&'static str>>,
}

impl Keys {
    pub(super) fn know(&mut self, section: &str, key: &'static str) {
        self.sections.entry(section.to_owned()).or_default().insert(key);
    }

    /// A key that is accepted but no longer recommended.
    pub(super) fn know_older(&mut self, section: &str, key: &'static str) {
        self.older.entry(section.to_owned()).or_default().insert(key);
    }

    /// Leaves one key at the top level.
    pub(super) fn keep_only(&mut self, key: &'static str) {
        self.sections.insert(String::new(), BTreeSet::from([key]));
        self.older.remove("");
    }

    /// Reports each key below `entries` that is repeated or that nobody asked for.
    pub(super) fn review<'a>(
        &self,
        section: &str,
        entries: &'a [(String, Node)],
        place: &Place<'a>,
        report: &mut dyn FnMut(&Place<'a>, String),
    ) {
        for (index, (key, node)) in entries.iter().enumerate() {
            let nth = entries[..index].iter().filter(|(other, _)| other == key).count();
            let here = place.below(Step::Key { name: key.clone(), nth });
            if nth > 0 {
                let first = place.key(key).position().map_or(0, |position| position.line);
                report(&here, format!("is there twice, first in line {first}; keep one of them"));
            } else if let Some(text) = self.unknown(section, key) {
                report(&here, text);
            }
            self.review_node(&join(section, key), node, &here, report);
        }
    }

    fn review_node<'a>(
        &self,
        section: &str,
        node: &'a Node,
        place: &Place<'a>,
        report: &mut dyn FnMut(&Place<'a>, String),
    ) {
        match node {
            Node::Map(entries) => self.review(section, entries, place, report),
            Node::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.review_node(&format!("{section}[]"), item, &place.below(Step::Item(index)), report);
                }
            }
            _ => {}
        }
    }

    /// What is wrong with a key if it is not known. Keys of a section nobody asked about are free.
    fn unknown(&self, section: &str, key: &str) -> Option<String> {
        let known = self.sections.get(section)?;
        let is_older = self.older.get(section).is_some_and(|keys| keys.contains(key));
        if known.contains(key) || is_older {
            return None;
        }
        if let Some((name, _)) = key.split_once(':').filter(|(name, _)| known.contains(name)) {
            return Some(format!("is no known key; a space is missing behind `{name}:`"));
        }
        if key == "<<" {
            return Some("merge keys (`<<`) have no meaning here; write the keys out".to_owned());
        }
        if let Some(same) = known.iter().find(|other| folded(other) == folded(key)) {
            return Some(format!("is no known key; it is written `{same}`"));
        }
        let elsewhere: Vec<_> = self
            .sections
            .iter()
            .flat_map(|(section, keys)| keys.iter().map(move |key| (section, key)))
            .filter(|(_, other)| folded(other) == folded(key))
            .map(|(section, key)| {
                if section.is_empty() {
                    format!("`{key}` belongs at the top level")
                } else {
                    format!("`{key}` belongs under `{section}`")
                }
            })
            .collect();
        if let [only] = elsewhere.as_slice() {
            return Some(format!("is no known key here; {only}"));
        }
        if let Some(nearest) = nearest(key, known.iter().copied()) {
            return Some(format!("is no known key; did you mean `{nearest}`?"));
        }
        let known: Vec<_> = known.iter().copied().collect();
        Some(format!("is no known key; known here are {}", known.join(", ")))
    }

    /// The full paths of all current keys.
    #[cfg(test)]
    pub(super) fn paths(&self) -> BTreeSet<String> {
        self.sections
            .iter()
            .flat_map(|(section, keys)| keys.iter().map(move |key| join(section, key)))
            .collect()
    }
}

/// The path of a key of a section.
pub(super) fn join(section: &str, key: &str) -> String {
    if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") }
}

/// The name that was probably meant, whatever the letter case.
pub(super) fn nearest<'n>(text: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let text = folded(text);
    names
        .into_iter()
        .map(|name| (strsim::normalized_damerau_levenshtein(&text, &folded(name)), name))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|(left, _), (right, _)| left.total_cmp(right))
        .map(|(_, name)| name)
}

/// `max_threads`, `max-threads` and `MaxThreads` are the same name, misspelt.
fn folded(name: &str) -> String {
    name.chars().filter(|character| !matches!(character, '_' | '-')).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_near() {
        let names = ["maxThreads", "retries", "retryDelay"];
        assert_eq!(nearest("maxTreads", names), Some("maxThreads"));
        assert_eq!(nearest("MAX_THREADS", names), Some("maxThreads"));
        assert_eq!(nearest("retires", names), Some("retries"));
        assert_eq!(nearest("colour", names), None);
        assert_eq!(nearest("", names), None);
    }
}
