//! A record as a message of GELF 1.1.
//!
//! | GELF | record |
//! | --- | --- |
//! | `host` | the tenant's name, else its id |
//! | `short_message` | `Operation`, else the content type, and by which `UserId` |
//! | `timestamp` | `CreationTime`, in seconds with milliseconds; without one the receiver uses its own time |
//! | `level` | 6, informational |
//! | `_Field` | each field, under its own name |
//!
//! What GELF, Graylog and its index do not accept is changed, and never lost without a trace:
//!
//! - A name keeps its letters, digits, `.`, `-` and `_`; any other character becomes `_`. A name that is reserved gets
//!   the prefix `record_`. The second field of a name gets the suffix `_2`, and so on.
//! - `null` is omitted. `true` and `false` become texts, because GELF has only numbers and texts. So do integers beyond 64
//!   bits, and numbers beyond the range of a double. Objects and arrays become their JSON text.
//! - A text longer than the index accepts is cut. Fields are omitted from a message that would be too large. The additional
//!   field `_CutFields` names both.
//!
//! Graylog drops a message whose `short_message` is empty or blank, so a blank `Operation` counts as missing, and so does
//! `null`; likewise for `UserId`.
//!
//! Source: "GELF Payload Specification" of Graylog's documentation, for what a message must have, the characters of
//! names and `_id`; `GelfCodec` and `Message` of graylog2-server, for the names that Graylog skips.

use std::{borrow::Cow, collections::HashMap, io::Write as _};

use super::{Source, split_at_most};
use crate::{
    json,
    records::{HeaderField, Record},
};

/// The longest value of a field, in bytes of UTF-8: the longest term of Lucene. Graylog rejects a message with a longer
/// one.
///
/// Source: Graylog2/graylog2-server, issue 873, "String fields longer than 32kb cannot be indexed".
const FIELD_BYTES_MAX: usize = 32_766;

/// The largest message without its delimiter. A GELF input drops larger ones.
///
/// Source: Graylog's default of `max_message_size`, 2097152.
const MESSAGE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// The part of a message that is reserved for the fields that every message has: the longest ones, every character
/// escaped.
const ENDING_BYTES_MAX: usize = 256 * 1024;

/// The longest name of a field.
const NAME_BYTES_MAX: usize = 255;

const _: () = {
    assert!(
        7 * FIELD_BYTES_MAX < ENDING_BYTES_MAX,
        "six bytes for an escaped one, and the names of cut fields"
    );
    assert!(ENDING_BYTES_MAX + FIELD_BYTES_MAX < MESSAGE_BYTES_MAX);
};

/// The end of a message on a TCP connection.
pub const DELIMITER: u8 = 0;

/// The additional field with the names of fields that were cut or omitted.
const CUT_FIELDS: &str = "CutFields";

/// Names that an additional field must not have: Graylog sets these itself, or skips them.
const RESERVED: [&str; 9] =
    ["id", "host", "source", "message", "short_message", "full_message", "timestamp", "level", "streams"];

/// Writes messages.
#[derive(Debug, Default)]
pub struct Gelf {
    /// The names in this message, and the number of fields that would have each.
    names: HashMap<String, u32>,
    /// The names of fields that were cut or omitted, separated by commas.
    cut: String,
}

impl Gelf {
    /// Appends the message of this record, delimiter included.
    pub fn append(&mut self, record: Record<'_>, source: &Source<'_>, to: &mut Vec<u8>) {
        self.names.clear();
        self.names.insert(CUT_FIELDS.to_owned(), 1);
        self.cut.clear();
        let start = to.len();
        let mut user = None;
        to.extend_from_slice(b"{\"version\":\"1.1\"");
        json::each_field(record.line(), |name, value| {
            if name == "UserId" {
                user = Some(value);
            }
            self.append_additional(&name, value, start, to);
        });
        if !self.cut.is_empty() {
            append_field(&format!("_{CUT_FIELDS}"), &self.cut, to);
        }
        append_field("host", source.tenant_name.unwrap_or(source.tenant_id), to);
        let operation = record.value(HeaderField::Operation).and_then(text_with_content);
        let mut message = operation.unwrap_or(source.content_type.name().into());
        if let Some(user) = user.and_then(text_with_content) {
            message = Cow::Owned(format!("{message} by {user}"));
        }
        append_field("short_message", beginning(&message), to);
        // Graylog ignores times before 1970.
        if let Some(time) = record.creation_time().filter(|time| time.as_second() > 0) {
            let milliseconds = time.subsec_millisecond();
            let _ = write!(to, ",\"timestamp\":{}.{milliseconds:03}", time.as_second()); // to memory: never fails
        }
        to.extend_from_slice(b",\"level\":6}");
        to.push(DELIMITER);
    }

    fn append_additional(&mut self, name: &str, value: &str, start: usize, to: &mut Vec<u8>) {
        if value == "null" {
            return;
        }
        let end = to.len();
        let name = self.name_of(name);
        let is_cut = if fits_a_number(value) {
            append_name(&format!("_{name}"), to);
            to.extend_from_slice(value.as_bytes());
            false
        } else {
            let text = json::text_of(value);
            append_field(&format!("_{name}"), beginning(&text), to);
            text.len() > FIELD_BYTES_MAX
        };
        let is_too_much = to.len() - start > MESSAGE_BYTES_MAX - ENDING_BYTES_MAX;
        if is_too_much {
            to.truncate(end);
        }
        if (is_cut || is_too_much) && self.cut.len() + name.len() < FIELD_BYTES_MAX {
            let comma = if self.cut.is_empty() { "" } else { "," };
            self.cut.extend([comma, &name]);
        }
    }

    /// Returns the name in the message of a field with this name, without the leading underscore.
    fn name_of(&mut self, name: &str) -> String {
        let fitting = |character: char| {
            if character.is_ascii_alphanumeric() || matches!(character, '.' | '-' | '_') {
                character
            } else {
                '_'
            }
        };
        let mut base: String = name.chars().map(fitting).take(NAME_BYTES_MAX).collect();
        if base.is_empty()
            || base.starts_with('_')
            || base.starts_with("gl2_")
            || RESERVED.contains(&base.as_str())
        {
            base.insert_str(0, "record_");
        }
        let mut unique = base.clone();
        while let Some(asked) = self.names.get(&unique) {
            let next = self.names.get(&base).unwrap_or(asked) + 1;
            self.names.insert(base.clone(), next);
            unique = format!("{base}_{next}");
        }
        self.names.insert(unique.clone(), 1);
        unique
    }
}

/// Returns the text of a value, unless it is `null` or has only whitespace and control characters.
fn text_with_content(value: &str) -> Option<Cow<'_, str>> {
    let is_blank = |character: char| character.is_whitespace() || character.is_control();
    let text = json::text_of(value);
    (value != "null" && !text.chars().all(is_blank)).then_some(text)
}

/// Returns whether Graylog can store this number: a signed integer of 64 bits, or a double.
fn fits_a_number(value: &str) -> bool {
    if !value.starts_with(|character: char| character == '-' || character.is_ascii_digit()) {
        return false;
    }
    if value.contains(['.', 'e', 'E']) {
        value.parse().is_ok_and(f64::is_finite)
    } else {
        value.parse::<i64>().is_ok()
    }
}

/// Returns the beginning of a text that the index accepts.
fn beginning(text: &str) -> &str {
    split_at_most(text, FIELD_BYTES_MAX).0
}

fn append_name(name: &str, to: &mut Vec<u8>) {
    to.extend_from_slice(b",\"");
    to.extend_from_slice(name.as_bytes());
    to.extend_from_slice(b"\":");
}

fn append_field(name: &str, text: &str, to: &mut Vec<u8>) {
    append_name(name, to);
    serde_json::to_writer(to, text).expect("a text can be written to memory");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    use super::*;
    use crate::{feed::ContentType, records::RecordBatch};

    fn message_from(record: &str, tenant_name: Option<&str>) -> (Map<String, Value>, usize) {
        let source = Source {
            tenant_id: "1111",
            tenant_name,
            content_type: ContentType::AuditGeneral,
            content_id: "",
            blob: 0,
        };
        let batch = RecordBatch::for_test(&[r#"{"Operation":"another"}"#, record]);
        let mut records = batch.iter();
        let mut next = || records.next().expect("two records");
        let mut bytes = b"before".to_vec();
        let mut gelf = Gelf::default();
        gelf.append(next(), &source, &mut bytes);
        let start = bytes.len();
        gelf.append(next(), &source, &mut bytes);
        let (delimiter, message) = bytes[start..].split_last().expect("a message");
        assert_eq!(*delimiter, DELIMITER);
        assert!(!message.contains(&DELIMITER));
        (serde_json::from_slice(message).expect("an object"), message.len())
    }

    #[test]
    fn message_has_required_fields_and_those_of_the_record() {
        let record = r#"{"CreationTime":"2026-11-22T10:15:00.5","Id":"x","Operation":"Send","UserId":"adele","RecordType":2}"#;
        let (message, _) = message_from(record, Some("contoso"));
        let expected = json!({
            "version": "1.1", "host": "contoso", "short_message": "Send by adele", "level": 6,
            "timestamp": 1_795_342_500.5, "_CreationTime": "2026-11-22T10:15:00.5", "_Id": "x", "_Operation": "Send",
            "_UserId": "adele", "_RecordType": 2,
        });
        assert_eq!(Value::Object(message), expected);
        let (message, _) = message_from(r#"{"CreationTime":"yesterday","UserId":""}"#, None);
        let expected = json!({
            "version": "1.1", "host": "1111", "short_message": "Audit.General", "level": 6,
            "_CreationTime": "yesterday", "_UserId": "",
        });
        assert_eq!(Value::Object(message), expected);
    }

    #[test]
    fn treats_a_blank_operation_or_user_as_missing() {
        for (operation, user, expected) in [
            (r#""""#, r#""adele""#, "Audit.General by adele"),
            (r#"" \t\n""#, "null", "Audit.General"),
            ("null", r#"" ""#, "Audit.General"),
            (r#""\u0000\u00a0""#, r#""""#, "Audit.General"),
            (r#"" Send""#, "null", " Send"),
            (r#""null""#, "7", "null by 7"),
        ] {
            let (message, _) = message_from(&format!(r#"{{"Operation":{operation},"UserId":{user}}}"#), None);
            assert_eq!(message["short_message"], expected, "{operation} {user}");
        }
    }

    /// Returns the additional fields.
    fn additional(record: &str) -> Value {
        let (mut message, _) = message_from(record, None);
        message.retain(|name, _| name.starts_with('_'));
        Value::Object(message)
    }

    #[test]
    fn values_are_strings_and_numbers() {
        assert_eq!(
            additional(
                r#"{"t":true,"f":false,"z":null,"n":"a\u0000b","o":{"k":[1,null]},"i":-9223372036854775808,
                "big":9223372036854775808,"d":1.50,"huge":1e400,"lone":"\ud83d!"}"#
            ),
            json!({
                "_t": "true", "_f": "false", "_n": "a\0b", "_o": "{\"k\":[1,null]}", "_i": i64::MIN,
                "_big": "9223372036854775808", "_d": 1.5, "_huge": "1e400", "_lone": "\u{fffd}\u{fffd}\u{fffd}!",
            })
        );
    }

    #[test]
    fn replaces_invalid_field_names() {
        assert_eq!(
            additional(
                r#"{"id":1,"Id":2,"@odata.type":3,"Größe":4,"a b":5,"a_b":6,"gl2_x":7,"":8,"CutFields":9}"#
            ),
            json!({
                "_record_id": 1, "_Id": 2, "_record__odata.type": 3, "_Gr__e": 4, "_a_b": 5, "_a_b_2": 6,
                "_record_gl2_x": 7, "_record_": 8, "_CutFields_2": 9,
            })
        );
        assert_eq!(
            additional(r#"{"a_2":0,"a":1,"a":2,"a":3,"a_2":4}"#),
            json!({"_a_2": 0, "_a": 1, "_a_3": 2, "_a_4": 3, "_a_2_2": 4})
        );
        let long = "x".repeat(NAME_BYTES_MAX);
        assert_eq!(
            additional(&format!(r#"{{"{long}1":1,"{long}2":2}}"#)),
            json!({format!("_{long}"): 1, format!("_{long}_2"): 2})
        );
    }

    #[test]
    fn truncates_long_fields_and_names_them() {
        let long = "ä".repeat(20_000);
        let record = format!(r#"{{"a":"{long}","b":"x","c":["{long}"],"Operation":"{long}"}}"#);
        let (message, _) = message_from(&record, None);
        assert_eq!(message["_a"].as_str().map(str::len), Some(FIELD_BYTES_MAX));
        assert_eq!(message["_CutFields"], "a,c,Operation");
        assert_eq!(message["_b"], "x");
        assert!(message["short_message"].as_str().is_some_and(|text| text.len() <= FIELD_BYTES_MAX));

        let control = "\\u0001".repeat(FIELD_BYTES_MAX);
        let fields: Vec<_> = (0..20).map(|number| format!(r#""f{number}":"{control}""#)).collect();
        let record = format!(r#"{{{},"Operation":"{control}","last":1}}"#, fields.join(","));
        let (message, length) = message_from(&record, None);
        assert!(length <= MESSAGE_BYTES_MAX, "{length}");
        assert_eq!(message["_CutFields"].as_str().map(|names| names.contains("f19,Operation")), Some(true));
        assert_eq!(message["_last"], 1, "a small field after large ones still fits");
    }

    #[test]
    fn converts_many_fields_of_one_name_in_linear_time() {
        let record = format!("{{{}\"b\":1}}", "\"a\":1,".repeat(100_000));
        assert_eq!(additional(&record).as_object().map(Map::len), Some(100_001));
    }

    proptest! {
        #![proptest_config(crate::proptest_config())]

        #[test]
        fn converts_any_record_to_a_message_with_all_fields(
            fields in prop::collection::vec(("[a-c@ä_.]{0,3}|id|level", prop_oneof!["[0-9]{1,25}", "\"\\PC*\""]), 0..12),
        ) {
            let fields: Vec<_> = fields
                .into_iter()
                .map(|(name, value)| {
                    let text = value.trim_matches('"');
                    let is_text = value.starts_with('"') || (text.len() > 1 && text.starts_with('0'));
                    let value = if is_text { Value::from(text).to_string() } else { value };
                    format!("{}:{value}", Value::from(name))
                })
                .collect();
            let record = format!("{{{}}}", fields.join(","));
            let additional = additional(&record);
            let additional = additional.as_object().expect("an object");
            prop_assert_eq!(additional.len(), fields.len(), "{} as {:?}", record, additional);
            for (name, value) in additional {
                let rest = &name[1..];
                prop_assert!(!rest.is_empty() && !RESERVED.contains(&rest) && !rest.starts_with('_'), "{}", name);
                prop_assert!(rest.chars().all(|it| it.is_ascii_alphanumeric() || "._-".contains(it)), "{}", name);
                prop_assert!(value.is_string() || value.is_i64(), "{}", value);
            }
        }
    }
}
