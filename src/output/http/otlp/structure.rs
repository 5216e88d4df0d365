//! Values of JSON as values of OTLP, without loss.
//!
//! What OTLP cannot represent is sent as its JSON text: a number that is neither a 64-bit integer nor a decimal number that
//! a double holds, a text with half of a surrogate pair, an object with a repeated or an empty name, and what is nested more
//! deeply than [`DEPTH_MAX`].

use std::collections::HashSet;

use super::messages::{AnyValue, Array, KeyValue, KeyValueList, Value};
use crate::json;

/// The maximum number of objects and arrays around a value.
///
/// Decoders of Protobuf accept 100 messages in each other by default. A level of JSON takes three of them, and five are
/// around the body of a log record.
///
/// Source: "Encoding" and the language guides of Protobuf; `RECURSE_LIMIT` of its Rust, C++ and Python libraries.
const DEPTH_MAX: usize = 24;

const _: () = assert!(5 + 3 * (DEPTH_MAX + 1) < 100, "a decoder rejects values that are nested this deeply");

/// A character that replaces half of a surrogate pair when a name is decoded.
const REPLACEMENT: char = '\u{fffd}';

/// Returns the fields of an object, in their order; `None` if OTLP cannot represent them.
pub fn fields_of(object: &str) -> Option<Vec<KeyValue>> {
    fields_within(object, 0)
}

fn fields_within(object: &str, depth: usize) -> Option<Vec<KeyValue>> {
    if depth > DEPTH_MAX {
        return None;
    }
    let mut fields = Vec::new();
    let is_whole = json::read_fields(object, |name, value| {
        let value = Some(value_within(value, depth + 1)).filter(|value| value.value.is_some());
        fields.push(KeyValue { key: name.into_owned(), value });
    });
    let mut names = HashSet::new();
    let is_usable = |name: &str| !name.is_empty() && !name.contains(REPLACEMENT);
    let are_usable = fields.iter().all(|field| is_usable(&field.key) && names.insert(field.key.as_str()));
    (is_whole && are_usable).then_some(fields)
}

fn value_within(json: &str, depth: usize) -> AnyValue {
    let text = || Value::Text(json.to_owned());
    let value = match json.as_bytes().first() {
        Some(b'n') => return AnyValue::default(),
        Some(b't') => Value::Bool(true),
        Some(b'f') => Value::Bool(false),
        Some(b'"') => serde_json::from_str(json).map_or_else(|_| text(), Value::Text),
        Some(b'{') => {
            let fields = fields_within(json, depth);
            fields.map_or_else(text, |values| Value::Map(KeyValueList { values }))
        }
        Some(b'[') if depth <= DEPTH_MAX => {
            let mut values = Vec::new();
            json::each_element(json, |element| values.push(value_within(element, depth + 1)));
            Value::Array(Array { values })
        }
        Some(b'[') => text(),
        _ => number(json),
    };
    value.into()
}

/// Returns a number: as an integer or a double if that has the same value, else as text.
fn number(text: &str) -> Value {
    if let Ok(integer) = text.parse::<i64>()
        && (integer != 0 || !text.starts_with('-'))
    {
        return Value::Integer(integer);
    }
    match text.parse::<f64>() {
        Ok(double) if double.is_finite() && decimal(text) == decimal(&format!("{double:e}")) => {
            Value::Double(double)
        }
        _ => Value::Text(text.to_owned()),
    }
}

/// Returns the sign, the digits and the exponent of a number in a form that equal numbers share. `None` if the exponent is
/// out of range.
fn decimal(text: &str) -> Option<(bool, String, i64)> {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let exponent: i64 = exponent.parse().ok()?;
    let (is_negative, mantissa) = mantissa.strip_prefix('-').map_or((false, mantissa), |rest| (true, rest));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = [whole, fraction].concat();
    let significant = digits.trim_end_matches('0');
    let dropped = i64::try_from(digits.len() - significant.len()).ok()?;
    let exponent = exponent.checked_sub(i64::try_from(fraction.len()).ok()?)?.checked_add(dropped)?;
    let significant = significant.trim_start_matches('0').to_owned();
    let exponent = if significant.is_empty() { 0 } else { exponent };
    Some((is_negative, significant, exponent))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(json: &str) -> Option<Value> {
        value_within(json, 0).value
    }

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    #[test]
    fn represents_each_number_without_loss() {
        for (json, expected) in [
            ("0", Value::Integer(0)),
            ("-9223372036854775808", Value::Integer(i64::MIN)),
            ("9223372036854775807", Value::Integer(i64::MAX)),
            ("-0", Value::Double(-0.0)),
            ("1.0", Value::Double(1.0)),
            ("0.1", Value::Double(0.1)),
            ("-12.50e-3", Value::Double(-0.0125)),
            ("1E+300", Value::Double(1e300)),
            ("0e5", Value::Double(0.0)),
            ("1e-320", Value::Double(1e-320)),
            ("0.000", Value::Double(0.0)),
        ] {
            assert_eq!(value(json), Some(expected), "{json}");
        }
        for json in [
            "9223372036854775808",
            "123456789012345678901234567890",
            "1E400",
            "-1e400",
            "1e-400",
            "0.1000000000000000055511151231257827",
            "1e99999999999999999999999",
            "0e99999999999999999999999",
        ] {
            assert_eq!(value(json), Some(text(json)), "{json}");
        }
    }

    #[test]
    fn represents_what_otlp_cannot_as_json() {
        for json in
            [r#"{"a":1,"a":2}"#, r#"{"a":1,"\u0061":2}"#, r#"{"":1}"#, r#"{"\ud83d":1}"#, r#""half \ud83d""#]
        {
            assert_eq!(value(json), Some(text(json)), "{json}");
        }
        assert_eq!(fields_of(r#"{"a":1,"b":{"c":1,"c":2},"a":3}"#), None);
        let fields = fields_of(r#"{"b":{"c":1,"c":2},"d":null,"e":"\ud83d\ude00"}"#).expect("an object");
        let values = fields.into_iter().map(|field| (field.key, field.value.and_then(|value| value.value)));
        assert_eq!(
            values.collect::<Vec<_>>(),
            [
                ("b".to_owned(), Some(text(r#"{"c":1,"c":2}"#))),
                ("d".to_owned(), None),
                ("e".to_owned(), Some(text("😀"))),
            ]
        );
    }

    #[test]
    fn bounds_the_depth() {
        use prost::Message;
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            for levels in [DEPTH_MAX, DEPTH_MAX + 1, 1_000] {
                let json = format!("{}1{}", open.repeat(levels), close.repeat(levels));
                let encoded = value_within(&json, 1).encode_to_vec();
                let decoded = AnyValue::decode(encoded.as_slice()).expect("a decoder accepts this depth");
                let debug = format!("{decoded:?}");
                if levels > DEPTH_MAX {
                    let rest = format!("{}1", open.repeat(levels - DEPTH_MAX)).replace('"', "\\\"");
                    assert!(debug.contains(&format!("Text(\"{rest}")), "{levels} levels of {open}: {debug}");
                } else {
                    assert!(debug.contains("Integer(1)"), "{levels} levels of {open}: {debug}");
                }
            }
        }
    }
}
