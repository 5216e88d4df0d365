//! Maps of the configuration, and their values by key.

use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

use super::{
    Secret,
    keys::join,
    mistake::{Origin, Place},
    reading::Reading,
    value::Value,
    yaml::{Document, Node},
};

/// Keys and their values, and where they were written.
#[derive(Clone)]
pub(super) struct Layer<'a> {
    pub(super) entries: &'a [(String, Node)],
    pub(super) place: Place<'a>,
}

impl<'a> Layer<'a> {
    fn entry(&self, reading: &'a Reading<'a>, key: &str) -> Option<Value<'a>> {
        let (_, node) = self.entries.iter().find(|(name, _)| name == key)?;
        Some(Value { reading, node, place: self.place.key(key) })
    }
}

/// A map of the configuration. One that is absent can be read as well: it has no values, and its keys become known.
#[derive(Clone)]
pub(super) struct Section<'a> {
    pub(super) reading: &'a Reading<'a>,
    schema: String,
    pub(super) place: Place<'a>,
    /// The first that has a key decides its value. None: the section is absent.
    layers: Vec<Layer<'a>>,
    /// Whether keys that are required have to be there.
    owes: bool,
}

impl<'a> Section<'a> {
    /// The outermost keys of a file.
    pub(super) fn root(reading: &'a Reading<'a>, document: &'a Document) -> Self {
        let place = Place::root(Origin::File(document));
        let layer = Layer { entries: &document.entries, place: place.clone() };
        Self { reading, schema: String::new(), place, layers: vec![layer], owes: true }
    }

    pub(super) fn is_present(&self) -> bool {
        !self.layers.is_empty()
    }

    /// Whether keys that are required have to be there.
    pub(super) fn owes(&self) -> bool {
        self.owes
    }

    /// The same, whose required keys have to be there or not.
    pub(super) fn owing(self, owes: bool) -> Self {
        Self { owes, ..self }
    }

    /// Lets the keys of another section decide before those of this one.
    pub(super) fn overlay(&mut self, layers: impl IntoIterator<Item = Layer<'a>>) {
        self.layers.splice(..0, layers);
        self.owes = !self.reading.has_gaps();
    }

    /// Lets the keys of this section decide before those of another one.
    pub(super) fn underlay(&mut self, layer: Layer<'a>) {
        self.layers.push(layer);
        self.owes = !self.reading.has_gaps();
    }

    /// The same section of another file.
    pub(super) fn into_layers(self) -> Vec<Layer<'a>> {
        self.layers
    }

    /// Reads `enabled`. What is switched off is checked as well, but need not be complete.
    pub(super) fn switch(&mut self, default: bool) -> bool {
        let enabled = self.boolean("enabled").unwrap_or(default) && self.is_present();
        self.owes = enabled;
        enabled
    }

    pub(super) fn mistake(&self, text: impl Into<String>) {
        self.reading.mistake(&self.place, text);
    }

    /// The value of a key; `null` counts as absent.
    pub(super) fn value(&self, key: &'static str) -> Option<Value<'a>> {
        self.reading.keys.borrow_mut().know(&self.schema, key);
        self.peek(key)
    }

    /// The value of a key that is accepted for the older tool's sake.
    pub(super) fn older(&self, key: &'static str) -> Option<Value<'a>> {
        self.reading.keys.borrow_mut().know_older(&self.schema, key);
        self.peek(key)
    }

    /// The value of a key without making the key known.
    pub(super) fn peek(&self, key: &str) -> Option<Value<'a>> {
        self.layers.iter().filter_map(|layer| layer.entry(self.reading, key)).find(|value| !value.is_null())
    }

    /// Whether a key is there without a value.
    pub(super) fn null(&self, key: &str) -> Option<Value<'a>> {
        self.layers.iter().filter_map(|layer| layer.entry(self.reading, key)).find(Value::is_null)
    }

    /// A value that has to be there. Without it the mend says what to add.
    pub(super) fn required<T>(
        &self,
        key: &'static str,
        mend: &str,
        read: impl FnOnce(&Self, &'static str) -> Option<T>,
    ) -> Option<T> {
        let value = read(self, key);
        if self.owes && self.peek(key).is_none() {
            self.reading.mistake(&self.place.key(key), format!("is missing; {mend}"));
        }
        value
    }

    /// Keys below a key; an absent section if there are none.
    pub(super) fn section(&self, key: &'static str) -> Self {
        let absent = Self {
            reading: self.reading,
            schema: join(&self.schema, key),
            place: self.place.key(key),
            layers: Vec::new(),
            owes: false,
        };
        let Some(value) = self.value(key) else { return absent };
        match value.node {
            Node::Map(entries) => {
                let layer = Layer { entries, place: value.place.clone() };
                Self { place: value.place, layers: vec![layer], owes: true, ..absent }
            }
            other => {
                value.mistake(format!(
                    "must have keys below it, but is {}; indent them by two spaces",
                    other.kind()
                ));
                absent
            }
        }
    }

    /// A list of maps.
    pub(super) fn sections(&self, key: &'static str) -> Vec<Self> {
        let schema = format!("{}[]", join(&self.schema, key));
        let items = self.value(key).and_then(|value| value.items("begin each of them with `- `"));
        let section = |item: Value<'a>| match item.node {
            Node::Map(entries) => {
                let layer = Layer { entries, place: item.place.clone() };
                let (schema, owes) = (schema.clone(), !self.reading.has_gaps());
                Some(Self { reading: self.reading, schema, place: item.place, layers: vec![layer], owes })
            }
            other => {
                item.mistake(format!("must have keys, but is {}; write them as `key: value`", other.kind()));
                None
            }
        };
        items.unwrap_or_default().into_iter().filter_map(section).collect()
    }

    /// An item of a list of maps that is not in the file.
    pub(super) fn absent_item(&self, key: &'static str) -> Self {
        let schema = format!("{}[]", join(&self.schema, key));
        Self { reading: self.reading, schema, place: self.place.key(key), layers: Vec::new(), owes: false }
    }

    /// The values of a map whose keys are free, such as names of headers.
    pub(super) fn free_entries(&self, key: &'static str) -> Vec<(&'a str, Value<'a>)> {
        self.value(key).map(|value| value.free_entries()).unwrap_or_default()
    }

    pub(super) fn text(&self, key: &'static str) -> Option<String> {
        self.value(key)?.text()
    }

    pub(super) fn secret(&self, key: &'static str) -> Option<Secret> {
        self.value(key)?.secret()
    }

    pub(super) fn path(&self, key: &'static str) -> Option<PathBuf> {
        self.value(key)?.path()
    }

    pub(super) fn boolean(&self, key: &'static str) -> Option<bool> {
        self.value(key)?.boolean()
    }

    /// A whole number within a range.
    pub(super) fn number<T: TryFrom<u64>>(
        &self,
        key: &'static str,
        range: &RangeInclusive<u64>,
    ) -> Option<T> {
        self.value(key)?.number(range)
    }

    /// Bytes within a range.
    pub(super) fn size(&self, key: &'static str, range: &RangeInclusive<u64>) -> Option<usize> {
        self.value(key)?.size(range)
    }

    /// A time within a range of seconds.
    pub(super) fn duration(&self, key: &'static str, range: &RangeInclusive<u64>) -> Option<Duration> {
        self.value(key)?.duration(range)
    }

    /// One of a few words, in any letter case.
    pub(super) fn choice<T: Copy>(&self, key: &'static str, choices: &[(&str, T)]) -> Option<T> {
        self.value(key)?.choice(choices)
    }
}
