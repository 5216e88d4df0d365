//! Which content types are collected, and which of their records are delivered.

use super::{
    Filter,
    section::Section,
    value::{Value, quoted},
};
use crate::{feed::ContentType, suggest::nearest};

/// `subscriptions`, of all tenants or of one: each content type once, in the order of [`ContentType::ALL`]. Naming one
/// twice does no harm.
pub(super) fn subscriptions(section: &Section) -> Option<Vec<ContentType>> {
    let value = section.value("subscriptions")?;
    let items = value.items("write [ \"Audit.General\", … ]")?;
    if items.is_empty() {
        value.mistake("is empty; name at least one content type or remove the line for all five");
        return None;
    }
    let named: Vec<_> = items.iter().filter_map(content_type).collect();
    Some(in_order(&named))
}

/// Each content type once, in the order of [`ContentType::ALL`].
pub(super) fn in_order(named: &[ContentType]) -> Vec<ContentType> {
    ContentType::ALL.into_iter().filter(|content_type| named.contains(content_type)).collect()
}

fn content_type(item: &Value) -> Option<ContentType> {
    content_type_named(&item.text()?, item)
}

/// The content type of that name, which stands at `value` or is its key.
pub(super) fn content_type_named(name: &str, value: &Value) -> Option<ContentType> {
    let found = ContentType::from_name(name.trim());
    if found.is_none() {
        let names = ContentType::ALL.map(ContentType::name);
        let mend = match nearest(name, names) {
            Some(nearest) => format!("did you mean {nearest}?"),
            None => format!("there are {}", names.join(", ")),
        };
        value.mistake(format!("unknown content type {}; {mend}", quoted(name)));
    }
    found
}

/// `filter`: at most one for each content type, in the order of [`ContentType::ALL`].
pub(super) fn filters(value: &Value) -> Vec<(ContentType, Filter)> {
    let mut filters: Vec<(ContentType, Filter)> = Vec::new();
    for (name, conditions) in value.free_entries() {
        let Some(content_type) = content_type_named(name, &conditions) else { continue };
        if filters.iter().any(|(other, _)| *other == content_type) {
            conditions.mistake("is the same content type as one above; put all fields under one of them");
            continue;
        }
        if !conditions.is_null() {
            filters.push((content_type, filter(&conditions)));
        }
    }
    filters.retain(|(_, filter)| !filter.conditions.is_empty());
    filters.sort_by_key(|(content_type, _)| *content_type);
    filters
}

fn filter(value: &Value) -> Filter {
    let mut conditions = Vec::new();
    for (field, allowed) in value.free_entries() {
        if field.split('.').any(|part| part.trim().is_empty()) {
            allowed.mistake("is no name of a field; write Field or Outer.Inner");
            continue;
        }
        let items = allowed.items_or_one();
        if items.is_empty() {
            allowed.mistake("is empty, so that no record would be delivered; name at least one value");
        }
        let texts = items.iter().filter_map(Value::scalar_text).collect();
        conditions.push((field.to_owned(), texts));
    }
    Filter { conditions }
}
