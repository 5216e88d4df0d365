//! One value of a file, read as the kind that the schema declares.

use std::path::PathBuf;

use super::{
    Filter, ManagedIdentity, Secret,
    formats::{self, quoted, trimmed},
    librdkafka,
    mistake::{Origin, Place, Step, shown},
    schema::{Key, Kind},
    url,
    values::Value,
    variables,
    walk::Walk,
    yaml::Node,
};
use crate::{feed::ContentType, redact, suggest::nearest};

/// The fix for a managed identity of another form.
const IDENTITY_HINT: &str = "write system for the system-assigned identity, or { client_id: … } with the Client ID of a user-assigned one";

/// A value and its place.
#[derive(Clone)]
pub(super) struct Entry<'w, 'a> {
    pub(super) walk: &'w Walk<'a>,
    pub(super) node: &'a Node,
    pub(super) place: Place<'a>,
}

impl<'w, 'a> Entry<'w, 'a> {
    /// Reads the value of `key`. `None`: it is wrong, which is reported, or it has no effect.
    pub(super) fn read(&self, key: &Key) -> Option<Value<'a>> {
        match &key.kind {
            Kind::Text(check) => {
                let checked = check(&self.text()?);
                checked.map_err(|problem| self.mistake(problem)).ok().map(Value::Text)
            }
            Kind::Guid => self.guid(key.hint).map(Value::Text),
            Kind::Secret => self.secret().map(Value::Secret),
            Kind::Proxy => self.proxy().map(Value::Secret),
            Kind::Path => self.path().map(Value::Path),
            Kind::OptionalPath => self.optional_path().map(Value::Path),
            Kind::SecretFile => self.secret_file().map(Value::Secret),
            Kind::PemFile => self.pem_file().map(Value::Path),
            Kind::LoginPemFile => self.pem_path().map(Value::Path),
            Kind::TokenFile => self.path_of_secret().map(Value::Path),
            Kind::ManagedIdentity => self.managed_identity().map(Value::ManagedIdentity),
            Kind::ContentTypes => self.content_types(key.hint).map(Value::ContentTypes),
            Kind::ContentTypeSwitches => self.content_type_switches().map(Value::ContentTypes),
            Kind::Filter => Some(Value::Filters(self.filters())),
            Kind::Headers => Some(Value::NamedTexts(self.headers(Self::secret))),
            Kind::HeaderFiles => Some(Value::NamedTexts(self.headers(Self::secret_file))),
            Kind::Brokers => self.brokers(key.hint).map(Value::Texts),
            Kind::LibrdkafkaOptions => Some(Value::NamedTexts(self.librdkafka_options())),
            Kind::Gone => {
                if !self.is_switched_off() {
                    self.warn(format!("has no meaning any more: {}; remove it", key.doc.trim()));
                }
                None
            }
            kind => self.scalar(kind),
        }
    }

    pub(super) fn mistake(&self, text: impl Into<String>) {
        self.walk.report.mistake(&self.place, text);
    }

    fn warn(&self, text: impl Into<String>) {
        self.walk.report.warn(&self.place, text);
    }

    /// The value for a message: a text in quotes, shortened if it is long. Not to be called for a secret.
    pub(super) fn given(&self) -> String {
        match self.node {
            Node::Text(text) => quoted(&self.text_if_valid().unwrap_or_else(|| text.clone())),
            Node::Bool(value) => value.to_string(),
            Node::Integer(value) => value.to_string(),
            Node::Float(value) => value.to_string(),
            other => other.kind().to_owned(),
        }
    }

    fn scalar(&self, kind: &Kind) -> Option<Value<'a>> {
        let text = match self.node {
            Node::Bool(_) | Node::Integer(_) | Node::Text(_) => self.any_text()?,
            _ => String::new(),
        };
        let value = kind.parse(&text);
        if value.is_none() {
            self.mistake(self.why_not(kind, &text));
        }
        value
    }

    /// `"many" is not a whole number from 1 to 512`
    fn why_not(&self, kind: &Kind, text: &str) -> String {
        let (given, expected) = (self.given(), kind.expected());
        if matches!(kind, Kind::Duration(_)) && !text.is_empty() && formats::number(text.trim()).is_some() {
            return format!("{given} has no unit; write seconds as 30s, minutes as 5m, hours as 1h");
        }
        let meant = match kind {
            Kind::Words(words) | Kind::Numbered(words) => nearest(text, words.iter().copied()),
            _ => None,
        };
        let fix = meant.map_or_else(|| kind.form().to_owned(), |word| format!("; did you mean \"{word}\"?"));
        match self.node {
            Node::List(_) | Node::Map(_) => format!("must be {expected}, but is {given}{fix}"),
            _ => format!("{given} is not {expected}{fix}"),
        }
    }

    /// A text with its variables replaced.
    pub(super) fn text(&self) -> Option<String> {
        let Node::Text(_) = self.node else {
            let fix = match self.node {
                Node::List(_) | Node::Map(_) | Node::Null => "write it after the colon",
                _ => "put it in quotes",
            };
            self.mistake(format!("must be a text, but is {}; {fix}", self.node.kind()));
            return None;
        };
        let text = self.any_text()?;
        if text.trim().is_empty() {
            self.mistake("is empty; fill it in or remove the line");
            return None;
        }
        Some(text)
    }

    /// The text of any scalar.
    fn any_text(&self) -> Option<String> {
        match self.node {
            Node::Text(text) if self.place.is_environment() => Some(text.clone()),
            Node::Text(text) => {
                let replaced = variables::replace(text, self.walk.environment);
                replaced.map_err(|mistakes| mistakes.into_iter().for_each(|text| self.mistake(text))).ok()
            }
            Node::List(_) | Node::Map(_) | Node::Null => {
                self.mistake(format!("must be a single value, but is {}", self.node.kind()));
                None
            }
            _ => Some(self.given()),
        }
    }

    /// The text, without reporting what is wrong with it.
    pub(super) fn text_if_valid(&self) -> Option<String> {
        match self.node {
            Node::Text(text) => variables::replace(text, self.walk.environment).ok(),
            _ => None,
        }
    }

    fn guid(&self, hint: &str) -> Option<String> {
        let text = self.text()?;
        if formats::is_placeholder(&text) {
            self.mistake(format!("is still a placeholder; {hint}"));
            return None;
        }
        let guid = formats::guid(&text);
        if guid.is_none() {
            // A secret from another line has other characters.
            let given =
                if formats::is_id_or_domain(&text) { format!("{} ", self.given()) } else { String::new() };
            self.mistake(format!(
                "{given}is not a GUID such as 0a1b2c3d-4e5f-6789-abcd-ef0123456789; {hint}"
            ));
        }
        guid
    }

    /// A text that is never shown, without what an editor or a pipe adds around it.
    fn secret(&self) -> Option<Secret> {
        let secret = self.text_of_secret().map(|text| Secret::new(trimmed(&text)))?;
        redact::register(secret.reveal());
        if let (Origin::File(document), Node::Text(text)) = (self.place.origin, self.node)
            && !variables::is_replaced(text)
        {
            self.walk.report.note_secret(&document.path, self.place.name());
        }
        Some(secret)
    }

    /// A secret or its path. If secrets are not read, it does not matter whether the text is valid.
    pub(super) fn text_of_secret(&self) -> Option<String> {
        if self.walk.with_secrets { self.text() } else { Some(self.text_if_valid().unwrap_or_default()) }
    }

    fn proxy(&self) -> Option<Secret> {
        let text = self.text()?;
        if !url::is_proxy(&text) {
            self.mistake(format!("is {}", url::NOT_A_PROXY));
            return None;
        }
        if text.contains('@') { self.secret() } else { Some(Secret::new(text)) }
    }

    fn path(&self) -> Option<PathBuf> {
        let text = self.text()?;
        self.refuse_shorthand()?;
        Some(PathBuf::from(text))
    }

    fn optional_path(&self) -> Option<PathBuf> {
        let is_empty = self.text_if_valid().is_some_and(|text| text.trim().is_empty());
        if is_empty { None } else { self.path() }
    }

    /// Refuses a path that only a shell understands, such as `~/audit.json`: it would be a file of that very name.
    pub(super) fn refuse_shorthand(&self) -> Option<()> {
        let Node::Text(text) = self.node else { return Some(()) };
        if self.place.is_environment() {
            return Some(());
        }
        let shown = quoted(text);
        if text.trim_start().starts_with('~') {
            self.mistake(format!(
                "{shown} begins with ~, which only a shell replaces; write the whole path, or use ${{HOME}}"
            ));
        } else if let Some(name) = variables::bare_name(text) {
            self.mistake(format!(
                "{shown} contains ${name}, which only a shell replaces; write the value, or use ${{{name}}}"
            ));
        } else {
            return Some(());
        }
        None
    }

    /// `system`, or the `client_id` of a user-assigned identity.
    fn managed_identity(&self) -> Option<ManagedIdentity> {
        if let Node::Map(_) = self.node {
            let entries = self.free_entries();
            for (name, entry) in entries.iter().filter(|(name, _)| *name != "client_id") {
                entry.mistake(format!("unknown key \"{}\"; known keys here: client_id", shown(name)));
            }
            let client_id = entries.iter().find(|(name, _)| *name == "client_id");
            if client_id.is_none() {
                self.mistake(format!("has no client_id; {IDENTITY_HINT}"));
            }
            return client_id?.1.guid(IDENTITY_HINT).map(|client_id| ManagedIdentity::User { client_id });
        }
        let text = self.text()?;
        let is_system = text.trim().eq_ignore_ascii_case("system");
        if !is_system {
            self.mistake(format!("{} is not an identity; {IDENTITY_HINT}", self.given()));
        }
        is_system.then_some(ManagedIdentity::System)
    }

    /// Whether it is a map with `enabled: false`.
    fn is_switched_off(&self) -> bool {
        let is_off = |(key, node): &(String, Node)| key == "enabled" && *node == Node::Bool(false);
        matches!(self.node, Node::Map(entries) if entries.iter().any(is_off))
    }

    /// The items of a list.
    pub(super) fn items(&self, hint: &str) -> Option<Vec<Self>> {
        let Node::List(items) = self.node else {
            self.mistake(format!("must be a list, but is {}; {hint}", self.node.kind()));
            return None;
        };
        let item = |(index, node)| self.walk.entry(node, self.place.below(Step::Item(index)));
        Some(items.iter().enumerate().map(item).collect())
    }

    /// The items of a list, or a single value as a list of one.
    fn items_or_one(&self) -> Vec<Self> {
        match self.node {
            Node::List(_) => self.items("").unwrap_or_default(),
            _ => vec![self.clone()],
        }
    }

    /// The entries of a map that can have any keys.
    fn free_entries(&self) -> Vec<(&'a str, Entry<'w, 'a>)> {
        let Node::Map(entries) = self.node else {
            self.mistake(format!("must be a map of keys, but is {}", self.node.kind()));
            return Vec::new();
        };
        let entry =
            |(key, node): &'a (String, Node)| (key.as_str(), self.walk.entry(node, self.place.key(key)));
        entries.iter().map(entry).collect()
    }

    fn content_types(&self, hint: &str) -> Option<Vec<ContentType>> {
        let items = self.items(hint)?;
        if items.is_empty() {
            self.mistake("is empty; name at least one content type, or remove the line for all five");
            return None;
        }
        let named = items.iter().filter_map(|item| item.content_type(&item.text()?));
        Some(in_order(&named.collect::<Vec<_>>()))
    }

    fn content_type_switches(&self) -> Option<Vec<ContentType>> {
        let is_true = |entry: &Self| matches!(entry.scalar(&Kind::Bool), Some(Value::Bool(true)));
        let wanted = |(name, entry): (&str, Self)| {
            let content_type = entry.content_type(name)?;
            (*entry.node != Node::Null && is_true(&entry)).then_some(content_type)
        };
        let named: Vec<_> = self.free_entries().into_iter().filter_map(wanted).collect();
        if named.is_empty() {
            self.mistake("sets no content type to true; set one of them, or remove the key for all five");
            return None;
        }
        Some(in_order(&named))
    }

    /// The content type of that name, which is in this entry or is its key.
    fn content_type(&self, name: &str) -> Option<ContentType> {
        let found = ContentType::from_name(name.trim());
        if found.is_none() {
            let names = ContentType::ALL.map(ContentType::name);
            let fix = match nearest(name, names) {
                Some(nearest) => format!("did you mean \"{nearest}\"?"),
                None => format!("known are {}", names.join(", ")),
            };
            self.mistake(format!("unknown content type {}; {fix}", quoted(name)));
        }
        found
    }

    fn filters(&self) -> Vec<(ContentType, Filter)> {
        let mut filters: Vec<(ContentType, Filter)> = Vec::new();
        for (name, conditions) in self.free_entries() {
            let Some(content_type) = conditions.content_type(name) else { continue };
            if filters.iter().any(|(other, _)| *other == content_type) {
                conditions.mistake("repeats a content type; write all fields under one of them");
            } else if *conditions.node != Node::Null {
                filters.push((content_type, conditions.filter()));
            }
        }
        filters.retain(|(_, filter)| !filter.conditions.is_empty());
        filters.sort_by_key(|(content_type, _)| *content_type);
        filters
    }

    fn filter(&self) -> Filter {
        let mut conditions = Vec::new();
        for (field, allowed) in self.free_entries() {
            if field.split('.').any(|part| part.trim().is_empty()) {
                allowed.mistake("is not the name of a field; write Field or Outer.Inner");
                continue;
            }
            let items = allowed.items_or_one();
            if items.is_empty() {
                allowed.mistake("is empty, so that no record would be delivered; name at least one value");
            }
            conditions.push((field.to_owned(), items.iter().filter_map(Self::any_text).collect()));
        }
        Filter { conditions }
    }

    /// Hosts with or without a port.
    fn brokers(&self, hint: &str) -> Option<Vec<String>> {
        let items = self.items(hint)?;
        if items.is_empty() {
            self.mistake(format!("is empty; {hint}"));
            return None;
        }
        let broker = |item: &Self| {
            let checked = formats::broker(&item.text()?);
            checked.map_err(|problem| item.mistake(problem)).ok()
        };
        Some(items.iter().filter_map(broker).collect())
    }

    fn librdkafka_options(&self) -> Vec<(String, Secret)> {
        let mut options = Vec::new();
        for (name, entry) in self.free_entries() {
            let value =
                if librdkafka::is_secret(name) { entry.secret() } else { entry.any_text().map(Secret::new) };
            let Some(value) = value else { continue };
            match librdkafka::check(name, value.reveal()) {
                Ok(()) => options.push((name.to_owned(), value)),
                Err(problem) => entry.mistake(problem),
            }
        }
        options
    }

    fn headers(&self, read: fn(&Self) -> Option<Secret>) -> Vec<(String, Secret)> {
        let mut headers: Vec<(String, Secret)> = Vec::new();
        for (name, entry) in self.free_entries() {
            let text = read(&entry);
            if !formats::is_header_name(name) {
                entry.mistake("is not the name of a header; use letters, digits and -");
            } else if headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(name)) {
                entry.mistake("repeats a header; keep one of them");
            } else if let Some(text) = text {
                if formats::is_header_value(text.reveal()) {
                    redact::register_header(text.reveal());
                    headers.push((name.to_owned(), text));
                } else {
                    entry.mistake("has a character that a header cannot have; write one line of ASCII text");
                }
            }
        }
        headers
    }
}

/// Each content type once, in the order of [`ContentType::ALL`].
fn in_order(named: &[ContentType]) -> Vec<ContentType> {
    ContentType::ALL.into_iter().filter(|content_type| named.contains(content_type)).collect()
}
