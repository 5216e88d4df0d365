//! What a format has to know of a record beyond its text.

use std::fmt;

use jiff::Timestamp;
use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::{records::Record, time};

/// Of a record's own fields.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Facts<'a> {
    /// `Id`, if it is a text that is not empty, in its quotes and with its escapes.
    pub id: Option<&'a str>,
    /// `CreationTime`, if it can be read.
    pub created: Option<Timestamp>,
    /// Whether there is a field of the name that was asked for.
    pub has_field: bool,
}

impl<'a> Facts<'a> {
    /// Reads a record's keys, of which one may be of interest by name. Never fails: what is odd is not found.
    pub fn of(record: &Record<'a>, field: &str) -> Self {
        let mut facts = Self::default();
        let text = std::str::from_utf8(record.fields).unwrap_or_default();
        // Always an error in the end: the record's text stops before its closing brace.
        let _ = serde_json::Deserializer::from_str(text).deserialize_map(Reader { facts: &mut facts, field });
        facts
    }
}

struct Reader<'f, 'a> {
    facts: &'f mut Facts<'a>,
    field: &'f str,
}

impl<'a> Visitor<'a> for Reader<'_, 'a> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("a record")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut fields: A) -> Result<(), A::Error> {
        while let Some((key, value)) = fields.next_entry::<&RawValue, &RawValue>()? {
            let (key, value) = (key.get().trim_matches('"'), value.get());
            if key == "Id" {
                self.facts.id = Some(value).filter(|value| value.starts_with('"') && value.len() > 2);
            } else if key == "CreationTime" {
                self.facts.created = time::parse(value.trim_matches('"'));
            }
            self.facts.has_field |= key == self.field;
        }
        Ok(())
    }
}

/// Appends a record, free of a line break, with a time under this name at its end unless it has one: its own, else now.
pub fn append_with_time(record: &Record<'_>, facts: &Facts<'_>, field: &str, to: &mut Vec<u8>) {
    record.append_line(to);
    to.pop(); // the line break
    if !facts.has_field {
        to.pop(); // the closing brace
        let time = facts.created.unwrap_or_else(Timestamp::now);
        to.extend_from_slice(format!(",\"{field}\":\"{time:.3}\"}}").as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(fields: &str) -> Record<'_> {
        Record { id: None, fields: fields.as_bytes(), ending: b",\"OriginFeed\":\"DLP.All\"}\n" }
    }

    fn with_time(fields: &str) -> String {
        let (record, mut text) = (record(fields), Vec::new());
        append_with_time(&record, &Facts::of(&record, "@timestamp"), "@timestamp", &mut text);
        String::from_utf8(text).expect("UTF-8")
    }

    #[test]
    fn a_record_says_its_id_and_its_time() {
        let text = r#"{"x":{"Id":"n"},"Id":"a\"b","CreationTime":"2026-11-22T10:15:00","y":[1"#;
        let facts = Facts::of(&record(&text[..text.len() - 7]), "y");
        assert_eq!(facts.id, Some(r#""a\"b""#));
        assert_eq!(facts.created, time::parse("2026-11-22T10:15:00Z"));
        assert!(!facts.has_field);
        for text in [r#"{"Id":7"#, r#"{"Id":"""#, r#"{"Id":null,"CreationTime":"soon""#, "{"] {
            assert_eq!(Facts::of(&record(text), "y"), Facts::default(), "{text}");
        }
    }

    #[test]
    fn a_time_is_added_where_it_lacks() {
        assert_eq!(
            with_time(r#"{"CreationTime":"2026-11-22T10:15:00""#),
            r#"{"CreationTime":"2026-11-22T10:15:00","OriginFeed":"DLP.All","@timestamp":"2026-11-22T10:15:00.000Z"}"#
        );
        assert_eq!(with_time(r#"{"@timestamp":1"#), r#"{"@timestamp":1,"OriginFeed":"DLP.All"}"#);
        assert!(with_time(r#"{"a":1"#).contains("\"@timestamp\":\"20"));
    }
}
