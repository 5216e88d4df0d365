//! Which keys there are. Nobody lists them: each key that the checker asks for becomes known by that, and what is in
//! a file but was never asked for is a mistake.
//!
//! A section is named by the path to it without the positions of items, e.g. `tenants[].certificate`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{
    mistake::{Place, Step},
    yaml::Node,
};
use crate::suggest::{folded, nearest};

/// Places named for a key that stands at none of them; what more sections have, such as `enabled`, says nothing.
const PLACES_NAMED_MAX: usize = 2;
/// Takes a place and what composes the message, which is worth doing only while mistakes are still listed.
pub(super) type Report<'r, 'a> = dyn FnMut(&Place<'a>, &dyn Fn() -> String) + 'r;

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
        report: &mut Report<'_, 'a>,
    ) {
        let mut seen: HashMap<&str, usize> = HashMap::new();
        for (key, node) in entries {
            let count = seen.entry(key).or_default();
            let here = place.below(Step::Key { name: key.clone(), nth: *count });
            if *count > 0 {
                report(&here, &|| repeated(&place.key(key)));
            } else if self.is_unknown(section, key) {
                report(&here, &|| self.unknown(section, key));
            }
            *count += 1;
            self.review_node(&join(section, key), node, &here, report);
        }
    }

    fn review_node<'a>(&self, section: &str, node: &'a Node, place: &Place<'a>, report: &mut Report<'_, 'a>) {
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

    /// Keys of a section nobody asked about are free.
    fn is_unknown(&self, section: &str, key: &str) -> bool {
        let is_older = self.older.get(section).is_some_and(|keys| keys.contains(key));
        !is_older && self.sections.get(section).is_some_and(|keys| !keys.contains(key))
    }

    /// What is wrong with a key that is not known: the likeliest slip first.
    fn unknown(&self, section: &str, key: &str) -> String {
        let known = &self.sections[section];
        if let Some((name, _)) = key.split_once(':').filter(|(name, _)| known.contains(name)) {
            return format!("is no known key; a space is missing behind `{name}:`");
        }
        if key == "<<" {
            return "merge keys (`<<`) have no meaning here; write the keys out".to_owned();
        }
        if let Some(same) = known.iter().find(|other| folded(other) == folded(key)) {
            return format!("is no known key; it is written `{same}`");
        }
        let elsewhere: Vec<_> = self
            .sections
            .iter()
            .flat_map(|(section, keys)| keys.iter().map(move |key| (section, key)))
            .filter(|(_, other)| folded(other) == folded(key))
            .collect();
        // Who has lost a key of a tenant does not mean the app of an output.
        let depth = |section: &str| section.matches('.').count();
        let least = elsewhere.iter().map(|(section, _)| depth(section)).min();
        let elsewhere: Vec<_> = elsewhere
            .into_iter()
            .filter(|(section, _)| Some(depth(section)) == least)
            .map(|(section, key)| match section.as_str() {
                "" => format!("`{key}` belongs at the top level"),
                section => format!("`{key}` belongs under `{section}`"),
            })
            .collect();
        if (1..=PLACES_NAMED_MAX).contains(&elsewhere.len()) {
            return format!("is no known key here; {}", elsewhere.join(", or "));
        }
        if let Some(nearest) = nearest(key, known.iter().copied()) {
            return format!("is no known key; did you mean `{nearest}`?");
        }
        let known: Vec<_> = known.iter().copied().collect();
        format!("is no known key; known here are {}", known.join(", "))
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

fn repeated(first: &Place) -> String {
    let line = first.position().map_or(0, |position| position.line);
    format!("is there twice, first in line {line}; keep one of them")
}

/// The path of a key of a section.
pub(super) fn join(section: &str, key: &str) -> String {
    if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") }
}
