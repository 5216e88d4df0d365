//! Typed values: what the walk makes of a file. Reading them cannot fail.
//!
//! A key that is absent or wrong has its default, or the empty value of its type. A wrong key is a mistake that the walk
//! has reported, so that such a value never leaves this module's parent.

use std::{path::PathBuf, time::Duration};

use super::{
    Filter, RequestsPerMinute, Secret,
    mistake::Place,
    schema::{Key, Kind},
};
use crate::feed::ContentType;

/// The value of a key.
#[derive(Clone)]
pub(super) enum Value<'a> {
    Bool(bool),
    /// Also bytes.
    Number(u64),
    Auto,
    Duration(Duration),
    Character(char),
    Text(String),
    Secret(Secret),
    Path(PathBuf),
    /// Each at most once, in the order of [`ContentType::ALL`].
    ContentTypes(Vec<ContentType>),
    /// At most one for each content type, in the same order.
    Filters(Vec<(ContentType, Filter)>),
    Headers(Vec<(String, Secret)>),
    Section(Section<'a>),
}

/// A key that is in a file or in the environment.
#[derive(Clone)]
pub(super) struct Given<'a> {
    pub(super) name: &'static str,
    pub(super) place: Place<'a>,
    /// `None` if the value is wrong.
    pub(super) value: Option<Value<'a>>,
}

/// The values of a map. An absent one can be read as well.
#[derive(Clone)]
pub(super) struct Section<'a> {
    pub(super) keys: &'static [Key],
    pub(super) place: Place<'a>,
    pub(super) given: Vec<Given<'a>>,
    /// Whether the key of the section is there.
    pub(super) is_present: bool,
    /// Whether it has keys below it, none or more.
    pub(super) is_map: bool,
}

impl<'a> Section<'a> {
    pub(super) fn absent(keys: &'static [Key], place: Place<'a>) -> Self {
        Self { keys, place, given: Vec::new(), is_present: false, is_map: false }
    }

    /// Whether it is there and not switched off.
    pub(super) fn is_enabled(&self) -> bool {
        self.is_map && self.given("enabled").is_none_or(|it| !matches!(it.value, Some(Value::Bool(false))))
    }

    /// The key, if it has a value, right or wrong.
    pub(super) fn given(&self, name: &str) -> Option<&Given<'a>> {
        let is_there = |given: &&Given| match &given.value {
            Some(Value::Section(section)) => section.is_present,
            _ => true,
        };
        self.given.iter().find(|given| given.name == name).filter(is_there)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.given(name).is_some()
    }

    pub(super) fn has_any(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.has(name))
    }

    /// The place of a key that is there or missing.
    pub(super) fn place_of(&self, name: &str) -> Place<'a> {
        self.given(name).map_or_else(|| self.place.key(name), |given| given.place.clone())
    }

    /// The value of a key, its default, or the empty value of the type.
    pub(super) fn get<T: FromValue + Default>(&self, name: &str) -> T {
        self.find(name).unwrap_or_default()
    }

    /// The value of a key or its default.
    pub(super) fn find<T: FromValue>(&self, name: &str) -> Option<T> {
        let key = self.key(name);
        let default = || key.kind.parse(key.default?);
        let value = self.given(name).and_then(|given| given.value.clone()).or_else(default)?;
        Some(T::from_value(value).unwrap_or_else(|| panic!("the schema declares another type for {name}")))
    }

    pub(super) fn section(&self, name: &str) -> Self {
        let given = self.given.iter().find(|given| given.name == name);
        match given.and_then(|given| given.value.as_ref()) {
            Some(Value::Section(section)) => section.clone(),
            _ => match self.key(name).kind {
                Kind::Section(keys) => Self::absent(keys, self.place.key(name)),
                _ => panic!("the schema declares no section {name}"),
            },
        }
    }

    fn key(&self, name: &str) -> &'static Key {
        let key = self.keys.iter().find(|key| key.name == name);
        key.unwrap_or_else(|| panic!("the schema does not declare {name}"))
    }
}

/// A type that values are read as.
pub(super) trait FromValue: Sized {
    /// `None`: the value is of another kind.
    fn from_value(value: Value) -> Option<Self>;
}

macro_rules! from_value {
    ($($pattern:pat => $type:ty: $value:expr;)*) => {$(
        impl FromValue for $type {
            fn from_value(value: Value) -> Option<Self> {
                match value {
                    $pattern => $value,
                    _ => None,
                }
            }
        }
    )*};
}

from_value! {
    Value::Bool(value) => bool: Some(value);
    Value::Number(value) => u16: value.try_into().ok();
    Value::Number(value) => u32: value.try_into().ok();
    Value::Number(value) => u64: Some(value);
    Value::Number(value) => usize: value.try_into().ok();
    Value::Duration(value) => Duration: Some(value);
    Value::Character(value) => char: Some(value);
    Value::Text(value) => String: Some(value);
    Value::Secret(value) => Secret: Some(value);
    Value::Path(value) => PathBuf: Some(value);
    Value::ContentTypes(value) => Vec<ContentType>: Some(value);
    Value::Filters(value) => Vec<(ContentType, Filter)>: Some(value);
    Value::Headers(value) => Vec<(String, Secret)>: Some(value);
}

impl FromValue for RequestsPerMinute {
    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Auto => Some(Self::Auto),
            Value::Number(value) => value.try_into().ok().map(Self::Fixed),
            _ => None,
        }
    }
}
