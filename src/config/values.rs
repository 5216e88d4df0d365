//! Typed values: what the walk makes of a file. Reading them cannot fail.
//!
//! A key that is absent or wrong has its default, or the empty value of its type. A wrong key is a mistake that the walk
//! has reported, so that such a value never leaves this module's parent.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::{
    Filter, KafkaTls, ManagedIdentity, RequestsPerMinute, Sasl, Secret, Tls, formats,
    mistake::Place,
    schema::{CREDENTIALS, Key, Kind},
};
use crate::{feed::ContentType, log::Format as LogFormat};

/// The value of a key.
#[derive(Clone)]
pub(super) enum Value<'a> {
    Bool(bool),
    /// Also bytes.
    Number(u64),
    RequestsPerMinute(RequestsPerMinute),
    Duration(Duration),
    Text(String),
    Secret(Secret),
    Path(PathBuf),
    ManagedIdentity(ManagedIdentity),
    /// Each at most once, in the order of [`ContentType::ALL`].
    ContentTypes(Vec<ContentType>),
    /// At most one for each content type, in the same order.
    Filters(Vec<(ContentType, Filter)>),
    Texts(Vec<String>),
    /// Headers, or options of a library.
    NamedTexts(Vec<(String, Secret)>),
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

    /// Whether it has a key of an app that logs in.
    pub(super) fn has_app(&self) -> bool {
        ["tenant_id", "client_id"].iter().chain(&CREDENTIALS).any(|name| self.has(name))
    }

    /// The place of a key that is there or missing.
    pub(super) fn place_of(&self, name: &str) -> Place<'a> {
        self.given(name).map_or_else(|| self.place.key(name), |given| given.place.clone())
    }

    /// The value of a key, its default, or the empty value of the type.
    pub(super) fn get<T: FromValue>(&self, name: &str) -> T {
        let key = self.key(name);
        let default = || key.kind.parse(key.default?);
        let value = self.given(name).and_then(|given| given.value.clone()).or_else(default);
        T::from_value(value).unwrap_or_else(|| panic!("the schema declares another type for {name}"))
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

/// A type that values are read as. An absent value is the type's empty one.
pub(super) trait FromValue: Sized {
    /// `None`: the value is of another kind.
    fn from_value(value: Option<Value>) -> Option<Self>;
}

impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: Option<Value>) -> Option<Self> {
        if value.is_none() { Some(None) } else { T::from_value(value).map(Some) }
    }
}

macro_rules! from_value {
    ($($type:ty: $pattern:pat => $value:expr;)*) => {$(
        impl FromValue for $type {
            fn from_value(value: Option<Value>) -> Option<Self> {
                match value {
                    None => Some(Self::default()),
                    Some($pattern) => Some($value),
                    _ => None,
                }
            }
        }
    )*};
}

from_value! {
    u16: Value::Number(value) => value.try_into().ok()?;
    u32: Value::Number(value) => value.try_into().ok()?;
    u64: Value::Number(value) => value;
    usize: Value::Number(value) => value.try_into().ok()?;
    Duration: Value::Duration(value) => value;
    char: Value::Text(value) => formats::separator(&value).unwrap_or_default();
    String: Value::Text(value) => value;
    Arc<str>: Value::Text(value) => value.into();
    Secret: Value::Secret(value) => value;
    PathBuf: Value::Path(value) => value;
    ManagedIdentity: Value::ManagedIdentity(value) => value;
    LogFormat: Value::Text(format) => if format == "json" { LogFormat::Json } else { LogFormat::Text };
    RequestsPerMinute: Value::RequestsPerMinute(value) => value;
    Vec<ContentType>: Value::ContentTypes(value) => value;
    Vec<(ContentType, Filter)>: Value::Filters(value) => value;
    Vec<String>: Value::Texts(value) => value;
    Vec<(String, Secret)>: Value::NamedTexts(value) => value;
}

impl FromValue for bool {
    fn from_value(value: Option<Value>) -> Option<Self> {
        match value {
            None => Some(false),
            Some(Value::Bool(value)) => Some(value),
            Some(Value::Text(compression)) => Some(compression == "gzip"),
            Some(_) => None,
        }
    }
}

macro_rules! from_section {
    ($($part:ty)*) => {$(
        impl FromValue for $part {
            fn from_value(value: Option<Value>) -> Option<Self> {
                match value? {
                    Value::Section(section) => Some(Self::read(&section)),
                    _ => None,
                }
            }
        }
    )*};
}

from_section! { Tls KafkaTls Sasl }
