//! The walk over a file by the schema: from YAML to typed values, reporting every mistake on its way.

use std::collections::HashMap;

use super::{
    entry::Entry,
    mistake::{Origin, Place, Step, shown},
    report::Report,
    schema::{self, Key, Kind},
    values::{Given, Section, Value},
    variables::Environment,
    yaml::{Document, Node},
};
use crate::suggest::{folded, nearest};

/// Sections that a suggestion names. A key of more sections, such as `enabled`, can be meant for any of them.
const SECTIONS_NAMED_MAX: usize = 2;

/// What every step of the walk needs.
pub(super) struct Walk<'a> {
    pub(super) report: &'a Report,
    pub(super) environment: Environment<'a>,
    /// Whether secrets and certificates are read.
    pub(super) with_secrets: bool,
}

/// Keys and their values from one source.
#[derive(Clone)]
pub(super) struct Layer<'a> {
    pub(super) entries: &'a [(String, Node)],
    pub(super) place: Place<'a>,
    /// Keys that do not count here.
    pub(super) hidden: &'static [&'static str],
}

impl<'a> Layer<'a> {
    pub(super) fn new(entries: &'a [(String, Node)], place: Place<'a>) -> Self {
        Self { entries, place, hidden: &[] }
    }

    /// The value of a key; `null` counts as absent.
    pub(super) fn value(&self, key: &str) -> Option<(&'a Node, Place<'a>)> {
        let (_, node) = self.entries.iter().find(|(name, _)| name == key && !self.hidden.contains(&key))?;
        (*node != Node::Null).then(|| (node, self.place.key(key)))
    }
}

impl<'a> Walk<'a> {
    pub(super) fn entry(&self, node: &'a Node, place: Place<'a>) -> Entry<'_, 'a> {
        Entry { walk: self, node, place }
    }

    /// Reads the outermost keys of a file, apart from lists of sections.
    pub(super) fn root(&self, document: &'a Document) -> Section<'a> {
        let place = Place::root(Origin::File(document));
        self.section(schema::ROOT, place.clone(), &[Layer::new(&document.entries, place)])
    }

    /// Reads the keys of a map. The first layer that has a key decides its value.
    pub(super) fn section(
        &self,
        keys: &'static [Key],
        place: Place<'a>,
        layers: &[Layer<'a>],
    ) -> Section<'a> {
        let given = keys.iter().filter_map(|key| self.key(key, &place, layers)).collect();
        let section = Section { keys, place, given, is_present: true, is_map: true };
        for key in keys.iter().filter(|key| key.is_required && section.is_enabled() && !section.has(key.name))
        {
            self.report.mistake(&section.place_of(key.name), format!("is missing; {}", key.hint));
        }
        section
    }

    fn key(&self, key: &'static Key, place: &Place<'a>, layers: &[Layer<'a>]) -> Option<Given<'a>> {
        let found = layers.iter().find_map(|layer| layer.value(key.name));
        let (value, place) = match (&key.kind, found) {
            (Kind::Section(keys), None) => {
                self.refuse_empty(key, layers);
                let place = place.key(key.name);
                (Some(Value::Section(Section::absent(keys, place.clone()))), place)
            }
            (Kind::Section(keys), Some((node, place))) => {
                (Some(Value::Section(self.subsection(keys, node, &place))), place)
            }
            (Kind::Sections(_), _) | (_, None) => return None,
            (_, Some((node, place))) => (self.entry(node, place.clone()).read(key), place),
        };
        Some(Given { name: key.name, place, value })
    }

    fn subsection(&self, keys: &'static [Key], node: &'a Node, place: &Place<'a>) -> Section<'a> {
        if let Node::Map(entries) = node {
            return self.section(keys, place.clone(), &[Layer::new(entries, place.clone())]);
        }
        let kind = node.kind();
        let text =
            format!("must be a map of keys, but is {kind}; write the keys below it, indented by two spaces");
        self.report.mistake(place, text);
        Section { is_present: true, ..Section::absent(keys, place.clone()) }
    }

    /// Reports a section without a value if that is likely to be meant as an empty map.
    fn refuse_empty(&self, key: &Key, layers: &[Layer<'a>]) {
        let is_empty = |layer: &&Layer| layer.entries.iter().any(|(name, _)| name == key.name);
        if let Some(layer) = layers.iter().find(is_empty).filter(|_| !key.hint.is_empty()) {
            self.report.mistake(&layer.place.key(key.name), format!("is empty; {}", key.hint));
        }
    }

    /// Reports each key of a file that is repeated or not in the schema.
    pub(super) fn check_names(&self, document: &'a Document, known: &'static [Key]) {
        let names = Names { report: self.report, root: known };
        names.check(&document.entries, Some(known), &Place::root(Origin::File(document)));
    }
}

struct Names<'r> {
    report: &'r Report,
    root: &'static [Key],
}

impl Names<'_> {
    /// `known`: the keys that can be here; `None`: any.
    fn check(&self, entries: &[(String, Node)], known: Option<&'static [Key]>, place: &Place) {
        let mut seen: HashMap<&str, usize> = HashMap::new();
        for (name, node) in entries {
            let count = seen.entry(name).or_default();
            let here = place.below(Step::Key { name: name.clone(), nth: *count });
            let key = known.and_then(|known| known.iter().find(|key| key.name == name));
            match known {
                _ if *count > 0 => self.report.mistake_with(&here, || repeated(&place.key(name))),
                Some(known) if key.is_none() => self.report.mistake_with(&here, || self.unknown(name, known)),
                _ => {}
            }
            *count += 1;
            let below = key.and_then(Key::keys);
            match node {
                Node::Map(entries) => self.check(entries, below, &here),
                Node::List(items) => {
                    for (index, item) in items.iter().enumerate() {
                        if let Node::Map(entries) = item {
                            self.check(entries, below, &here.below(Step::Item(index)));
                        }
                    }
                }
                _ => {}
            }
        }
    }

    /// What is wrong with an unknown key: the likeliest cause.
    fn unknown(&self, name: &str, known: &'static [Key]) -> String {
        let known: Vec<_> = known.iter().filter(|key| !key.is_older()).map(|key| key.name).collect();
        if name == "<<" {
            return "merge keys (\"<<\") are not supported; write the keys out".to_owned();
        }
        let unknown = format!("unknown key \"{}\"", shown(name));
        let fix = if let Some((key, _)) = name.split_once(':').filter(|(key, _)| known.contains(key)) {
            format!("write a space after \"{key}:\"")
        } else if let Some(same) = known.iter().find(|known| folded(known) == folded(name)) {
            format!("it is spelled \"{same}\"")
        } else if let Some(elsewhere) = self.elsewhere(name) {
            elsewhere
        } else if let Some(nearest) = nearest(name, known.iter().copied()) {
            format!("did you mean \"{nearest}\"?")
        } else {
            format!("known keys here: {}", known.join(", "))
        };
        format!("{unknown}; {fix}")
    }

    /// The outermost sections that have such a key, if they are few.
    fn elsewhere(&self, name: &str) -> Option<String> {
        let depth = |section: &str| section.matches('.').count();
        let mut found: Vec<_> = Vec::new();
        for (section, keys) in schema::sections(self.root) {
            let same = keys.iter().find(|key| !key.is_older() && folded(key.name) == folded(name));
            found.extend(same.map(|key| (depth(&section), section, key.name)));
        }
        let least = found.iter().map(|(depth, ..)| *depth).min()?;
        found.retain(|(depth, ..)| *depth == least);
        let place = |section: &str| match section {
            "" => "at the top level".to_owned(),
            section => format!("under \"{section}\""),
        };
        let places: Vec<_> = found.iter().map(|(_, section, _)| place(section)).collect();
        let (_, _, key) = found.first()?;
        let key = if *key == name { "it".to_owned() } else { format!("\"{key}\"") };
        (places.len() <= SECTIONS_NAMED_MAX).then(|| format!("{key} belongs {}", places.join(" or ")))
    }
}

fn repeated(first: &Place) -> String {
    let line = first.position().map_or(0, |position| position.line);
    format!("repeats a key, first in line {line}; keep one of them")
}
