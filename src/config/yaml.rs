//! From text to a tree of values, and the position of a value in the text. Only this module uses `serde_yaml`.
//!
//! The tree keeps repeated keys, so that they can be reported. `serde_yaml` gives a visitor no positions, but its errors
//! have them: [`Document::locate`] builds the tree again and fails at the value on purpose.

use std::{
    cell::Cell,
    fmt, fs,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use serde::de::{self, DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, Visitor};

use super::{
    files,
    mistake::{Mistake, Position, Step},
};

/// Maximum size of a file. It has room for 20,000 tenants with every key; a larger one is another file by mistake.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Maximum depth of lists and maps. A configuration needs five levels.
const DEPTH_MAX: usize = 100;

/// Maximum number of values, aliases resolved: a few nested aliases can mean billions of values.
const VALUES_MAX: usize = 1_000_000;

/// A text of this size takes a good part of a second to parse.
const LARGE_TEXT_BYTES: usize = 1 << 20;

/// Maximum number of positions that are looked up in such a text. Further messages name the key without its line.
const LARGE_TEXT_LOOKUPS_MAX: usize = 5;

/// A value of a YAML file. Anchors are resolved; quotes and comments are removed.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    /// In the order of the file, repeated keys included.
    Map(Vec<(String, Node)>),
}

impl Node {
    /// The kind of the value, for a message.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "empty",
            Self::Bool(_) => "true or false",
            Self::Integer(_) | Self::Float(_) => "a number",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Map(_) => "a map of keys",
        }
    }
}

/// A file and its tree.
pub(super) struct Document {
    pub(super) path: PathBuf,
    /// The permission bits.
    pub(super) mode: u32,
    text: String,
    /// The number of positions that can still be looked up in a large text.
    lookups_left: Cell<usize>,
    /// The keys of the outermost map.
    pub(super) entries: Vec<(String, Node)>,
}

impl Document {
    /// Reads a file whose outermost value is a map.
    pub(super) fn read(path: &Path) -> Result<Self, Mistake> {
        let (bytes, mode) = read_bounded(path).map_err(|error| unreadable(path, &error))?;
        let Ok(text) = String::from_utf8(bytes) else {
            return Err(Mistake::of_file(path, None, "is not UTF-8 text; save it as UTF-8"));
        };
        Self::parse(path, text, mode)
    }

    fn parse(path: &Path, text: String, mode: u32) -> Result<Self, Mistake> {
        let text = match text.strip_prefix('\u{feff}') {
            Some(rest) => rest.to_owned(),
            None => text,
        };
        if let Some(position) = too_deep(&text) {
            let text = format!("is nested more than {DEPTH_MAX} levels deep; check the brackets");
            return Err(Mistake::of_file(path, Some(position), text));
        }
        let values_left = Cell::new(VALUES_MAX);
        let tree = Tree { values_left: &values_left, path: None };
        let entries = match tree.deserialize(serde_yaml::Deserializer::from_str(&text)) {
            Ok(Node::Map(entries)) => entries,
            Ok(Node::Null) => {
                return Err(Mistake::of_file(path, None, "is empty; begin with config/config.yaml"));
            }
            Ok(other) => {
                let text = format!("must be a map of keys, such as `enabled: true`, but is {}", other.kind());
                return Err(Mistake::of_file(path, Some(Position { line: 1, column: 1 }), text));
            }
            Err(error) => return Err(syntax_mistake(path, &text, &error)),
        };
        let lookups_left = Cell::new(LARGE_TEXT_LOOKUPS_MAX);
        Ok(Self { path: path.to_owned(), mode, text, lookups_left, entries })
    }

    /// The position of a key or an item, or of the last of `steps` that exists. `None` after the first few lookups in a
    /// large text, which is parsed again for each.
    pub(super) fn locate(&self, steps: &[Step]) -> Option<Position> {
        if self.text.len() > LARGE_TEXT_BYTES {
            self.lookups_left.set(self.lookups_left.get().checked_sub(1)?);
        }
        let find = |length| {
            let tree = Tree { values_left: &Cell::new(VALUES_MAX), path: Some(&steps[..length]) };
            let found = tree.deserialize(serde_yaml::Deserializer::from_str(&self.text));
            found.err()?.location().as_ref().map(position)
        };
        (1..=steps.len()).rev().find_map(find).or(Some(Position { line: 1, column: 1 }))
    }
}

fn read_bounded(path: &Path) -> io::Result<(Vec<u8>, u32)> {
    let file = fs::File::open(path)?;
    let mode = file.metadata()?.permissions().mode();
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let text =
            format!("it is larger than {}M, the maximum size of a configuration", FILE_BYTES_MAX >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    Ok((bytes, mode))
}

/// The position at which the text opens more brackets, or more collections on one line, than a configuration needs. It
/// is found before the text is parsed, because the parser's time grows with the square of the depth.
///
/// A bracket counts where a value can begin, as in `[[`, `a: [` and `- {`, not within a text. Brackets after such a
/// character in a quoted text count too; the limit leaves room for them.
fn too_deep(text: &str) -> Option<Position> {
    let mut depth = 0_usize;
    for (number, line) in text.lines().enumerate() {
        let mut dashes = 0_usize;
        let mut may_begin = true;
        for (column, character) in line.chars().enumerate() {
            match character {
                '[' | '{' if may_begin => depth += 1,
                ']' | '}' => depth = depth.saturating_sub(1),
                '#' if may_begin => break,
                '-' | '?' | ':' if may_begin => dashes += 1,
                _ => {}
            }
            if depth + dashes > DEPTH_MAX {
                return Some(Position { line: number + 1, column: column + 1 });
            }
            may_begin = match character {
                ' ' | '\t' => may_begin,
                character => ":-,[{?".contains(character),
            };
        }
    }
    None
}

fn unreadable(path: &Path, error: &io::Error) -> Mistake {
    let hint = match error.kind() {
        io::ErrorKind::FileTooLarge => "check the path, or divide the tenants among several configurations",
        io::ErrorKind::IsADirectory => "name a YAML file",
        _ => files::hint(error),
    };
    Mistake::of_file(path, None, format!("cannot be read: {error}; {hint}"))
}

fn position(location: &serde_yaml::Location) -> Position {
    Position { line: location.line(), column: location.column() }
}

const TAG: &str = "tags such as `!name` are not supported";
const NUMBER: &str = "a number is too large";
const SIZE: &str = "there are too many values";
const KEY: &str = "a key must be a plain text";

/// Parts of `serde_yaml`'s messages, and the messages that replace them. Some of its own repeat a value, which could be a
/// secret.
const REWORDED: [(&str, &str); 10] = [
    (
        TAG,
        "tags such as `!name` are not supported; put a text that begins with ! in quotes, or remove the tag",
    ),
    (NUMBER, "a number is too large; put it in quotes if it is a text"),
    (SIZE, "there are too many values, aliases resolved; use fewer aliases, or a file for fewer tenants"),
    (KEY, "a key must be a plain text; check the brackets"),
    (
        "more than one document",
        "has more than one document; keep one, and remove the line `---` before the next",
    ),
    (
        "unknown anchor",
        "an alias (`*name`) has no anchor (`&name`) above it; a text that begins with * needs quotes",
    ),
    ("recursion limit", "is nested too deeply; look for an alias within its own anchor"),
    ("repetition limit", "repeats its aliases too often; write the values out"),
    ("invalid type", "a value does not match its tag; remove the tag"),
    ("invalid value", "a value does not match its tag; remove the tag"),
];

fn syntax_mistake(path: &Path, text: &str, error: &serde_yaml::Error) -> Mistake {
    let place = error.location().as_ref().map(position);
    let message = error.to_string();
    if let Some((_, reworded)) = REWORDED.iter().find(|(part, _)| message.contains(part)) {
        return Mistake::of_file(path, place, *reworded);
    }
    let indented_by_tab = place
        .and_then(|place| text.lines().nth(place.line - 1))
        .is_some_and(|line| line.trim_start_matches(' ').starts_with('\t'));
    if indented_by_tab {
        return Mistake::of_file(path, place, "YAML is not indented by tabs; use spaces");
    }
    let message = match place {
        Some(Position { line, column }) => {
            message.replacen(&format!(" at line {line} column {column}"), "", 1)
        }
        None => message,
    };
    let hint = "check indentation, quotes and colons here and in the line above";
    Mistake::of_file(path, place, format!("is not valid YAML: {message}; {hint}"))
}

/// Builds the tree of a text.
#[derive(Clone, Copy)]
struct Tree<'c> {
    values_left: &'c Cell<usize>,
    /// The steps to a value at which building fails, so that the error has its position.
    path: Option<&'c [Step]>,
}

impl Tree<'_> {
    /// The tree of a value below this one. `is_next`: whether the next step leads to that value.
    fn below(self, is_next: impl FnOnce(&Step) -> bool) -> Self {
        let (next, rest) = self.path.and_then(<[Step]>::split_first).unzip();
        Self { path: rest.filter(|_| next.is_some_and(is_next)), ..self }
    }
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        let Some(left) = self.values_left.get().checked_sub(1) else {
            return Err(de::Error::custom(SIZE));
        };
        self.values_left.set(left);
        match self.path {
            Some([]) => deserializer.deserialize_any(Nothing),
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Node;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    /// An empty text.
    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Integer(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Node, E> {
        Ok(Node::Integer(value))
    }

    fn visit_u128<E: de::Error>(self, value: u128) -> Result<Node, E> {
        value.try_into().map(Node::Integer).map_err(|_| E::custom(NUMBER))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element_seed(self.below(|step| *step == Step::Item(items.len())))? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries: Vec<(String, Node)> = Vec::new();
        let mut nth_of_path = 0;
        let next = match self.path {
            Some([Step::Key { name, nth }, rest @ ..]) => Some((name, *nth, rest.is_empty())),
            _ => None,
        };
        loop {
            let end = next
                .filter(|(_, nth, is_end)| *is_end && nth_of_path == *nth)
                .map(|(name, ..)| name.as_str());
            let Some(key) = map.next_key_seed(Key { end })? else { break };
            let is_named = next.is_some_and(|(name, ..)| *name == key);
            let is_next = is_named && next.is_some_and(|(_, nth, _)| nth_of_path == nth);
            nth_of_path += usize::from(is_named);
            entries.push((key, map.next_value_seed(self.below(|_| is_next))?));
        }
        Ok(Node::Map(entries))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<Node, A::Error> {
        Err(de::Error::custom(TAG))
    }
}

/// Reads a key as it is written: `yes`, `1` and `~` are texts here. Fails at the key `end`.
struct Key<'k> {
    end: Option<&'k str>,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = String;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(KEY)
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<String, E> {
        if self.end == Some(key) { Err(E::custom("here")) } else { Ok(key.to_owned()) }
    }
}

/// Fails at any value, by serde's defaults.
struct Nothing;

impl Visitor<'_> for Nothing {
    type Value = Node;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("nothing")
    }
}
