//! What a format has to know of a record beyond its text.

use jiff::Timestamp;

use crate::{json::Scanner, records::Record, time};

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
    /// Reads a record's fields, of which one may be of interest by name. What is odd is not found.
    pub fn of(record: &Record<'a>, field: &str) -> Self {
        let mut facts = Self::default();
        let mut scanner = Scanner::new(std::str::from_utf8(record.fields).unwrap_or_default());
        scanner.take(b'{');
        // To its end, where the closing brace would be.
        while let Ok(name) = scanner.name() {
            let Some(value) = scanner.value().ok().and_then(|value| std::str::from_utf8(value).ok()) else {
                break;
            };
            let name = name.text();
            match &*name {
                b"Id" => facts.id = Some(value).filter(|value| value.starts_with('"') && value.len() > 2),
                b"CreationTime" => facts.created = time::parse(value.trim_matches('"')),
                _ => {}
            }
            facts.has_field |= *name == *field.as_bytes();
            scanner.take(b',');
        }
        facts
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
