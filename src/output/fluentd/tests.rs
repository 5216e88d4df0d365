//! Messages, read back by the decoder of another project.

use proptest::prelude::*;
use rmpv::Value;

use super::{message_pack::NESTING_MAX, *};

/// The record that this JSON becomes.
#[track_caller]
fn converted(json: &str) -> Value {
    let mut bytes = b"before".to_vec();
    append_object(json, &mut bytes);
    let mut rest = &bytes[b"before".len()..];
    let value = rmpv::decode::read_value(&mut rest).unwrap_or_else(|error| panic!("{json}: {error}"));
    assert!(rest.is_empty(), "{json}");
    value
}

/// What `{"a":…}` becomes, without its key.
#[track_caller]
fn value_of(json: &str) -> Value {
    match converted(&format!("{{\"a\":{json}}}")) {
        Value::Map(mut fields) if fields.len() == 1 => fields.remove(0).1,
        other => panic!("{json}: {other}"),
    }
}

fn bytes_of(json: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    append_object(json, &mut bytes);
    bytes
}

#[test]
fn keeps_64_bit_integers() {
    for number in [
        0,
        1,
        31,
        32,
        127,
        128,
        255,
        256,
        65_535,
        65_536,
        4_294_967_295,
        4_294_967_296,
        999_999_999_999_999_999,
        1_000_000_000_000_000_000,
        i64::MAX,
    ] {
        assert_eq!(value_of(&number.to_string()), Value::from(number));
        assert_eq!(value_of(&(-number).to_string()), Value::from(-number));
    }
    for number in [-33, -128, -129, -32_768, -32_769, -2_147_483_648, -2_147_483_649, i64::MIN] {
        assert_eq!(value_of(&number.to_string()), Value::from(number));
    }
    assert_eq!(value_of("18446744073709551615"), Value::from(u64::MAX));
    assert_eq!(value_of("-0"), Value::from(0));
}

#[test]
fn encodes_numbers_in_the_fewest_bytes() {
    for (json, expected) in [
        ("{\"a\":127}", b"\x81\xa1a\x7f".as_slice()),
        ("{\"a\":128}", b"\x81\xa1a\xcc\x80"),
        ("{\"a\":-32}", b"\x81\xa1a\xe0"),
        ("{\"a\":-33}", b"\x81\xa1a\xd0\xdf"),
        ("{\"a\":65535}", b"\x81\xa1a\xcd\xff\xff"),
        ("{\"a\":-32768}", b"\x81\xa1a\xd1\x80\0"),
        ("{\"a\":[]}", b"\x81\xa1a\x90"),
        ("{}", b"\x80"),
    ] {
        assert_eq!(bytes_of(json), expected, "{json}");
    }
}

#[test]
fn converts_larger_integers_to_text() {
    for number in
        ["18446744073709551616", "-9223372036854775809", "1e400", "-1e400", "1234567890123456789012345678901"]
    {
        assert_eq!(value_of(number), Value::from(number));
    }
}

#[test]
fn converts_fractions_to_the_nearest_double() {
    for (json, number) in [
        ("0.5", 0.5),
        ("-1.25e-3", -0.001_25),
        ("1E5", 100_000.0),
        ("2e+2", 200.0),
        ("1e-400", 0.0),
        ("-0.0", -0.0),
        ("0.1234567890123456789", 0.123_456_789_012_345_68),
        ("12345678901234567890123.5", 1.234_567_890_123_456_8e22),
    ] {
        assert_eq!(value_of(json), Value::from(number), "{json}");
    }
}

#[test]
fn decodes_escapes() {
    assert_eq!(value_of(r#""a\"\\\/\b\f\n\r\t\u00e9\u0000z""#), Value::from("a\"\\/\u{8}\u{c}\n\r\té\0z"));
    assert_eq!(value_of(r#""\ud83d\ude00\u20AC""#), Value::from("😀€"));
    assert_eq!(value_of(r#""é😀""#), Value::from("é😀"));
    assert_eq!(converted(r#"{"\u0061\n":1}"#), Value::Map(vec![(Value::from("a\n"), Value::from(1))]));
}

#[test]
fn replaces_lone_surrogates() {
    for (json, text) in [
        (r#""\ud800""#, "\u{fffd}"),
        (r#""a\ud800b""#, "a\u{fffd}b"),
        (r#""\udc00\ud800""#, "\u{fffd}\u{fffd}"),
        (r#""\ud800\ud83d\ude00""#, "\u{fffd}😀"),
        (r#""\ud800\n""#, "\u{fffd}\n"),
        (r#""\ud800\u0041""#, "\u{fffd}A"),
    ] {
        assert_eq!(value_of(json), Value::from(text), "{json}");
    }
}

#[test]
fn keeps_repeated_fields() {
    let fields = [("a", 1), ("b", 2), ("a", 3)].map(|(key, value)| (Value::from(key), Value::from(value)));
    assert_eq!(converted(r#"{"a":1,"b":2,"a":3}"#), Value::Map(fields.to_vec()));
}

#[test]
fn encodes_strings_and_containers_of_every_size() {
    for length in [0, 1, 15, 16, 31, 32, 255, 256, 65_535, 65_536, 100_000] {
        let text = "x".repeat(length);
        assert_eq!(value_of(&format!("\"{text}\"")), Value::from(text.as_str()));
        assert_eq!(value_of(&format!("\"{text}\\n\"")), Value::from(format!("{text}\n")));
        let array = Value::Array(vec![Value::from(7); length]);
        assert_eq!(value_of(&format!("[{}]", vec!["7"; length].join(","))), array);
        let fields = format!("{{{}}}", vec!["\"k\":[true,false,null]"; length].join(","));
        let values = Value::Array(vec![Value::from(true), Value::from(false), Value::Nil]);
        assert_eq!(value_of(&fields), Value::Map(vec![(Value::from("k"), values); length]));
    }
}

#[test]
fn converts_deeply_nested_values_to_text() {
    let nested = |depth: usize| format!("{}7{}", "[".repeat(depth), "]".repeat(depth));
    for depth in [NESTING_MAX, 1_000, 100_000] {
        let mut value = &value_of(&format!("[\"]\\\"[\",{}]", nested(depth)))[1];
        for _ in 2..NESTING_MAX {
            value = &value[0];
        }
        let text = nested(depth + 2 - NESTING_MAX);
        assert_eq!(value, &Value::from(text.as_str()), "{depth}");
    }
    let objects = format!("{}{{}}{}", r#"{"]}\"":["}",false],"a":"#.repeat(50_000), "}".repeat(50_000));
    assert!(value_of(&objects).is_map());
    let fits = nested(NESTING_MAX - 1);
    assert!(!format!("{}", value_of(&fits)).contains('"'));
}

#[test]
fn event_time_is_utc_with_nanoseconds() {
    let now: Timestamp = "2026-11-22T10:15:00.25Z".parse().expect("a time");
    for (record, seconds, nanoseconds) in [
        (r#"{"CreationTime":"2024-05-01T12:34:56"}"#, 1_714_566_896, 0),
        (r#"{"CreationTime":"2024-05-01T12:34:56.1234567Z"}"#, 1_714_566_896, 123_456_700),
        (r#"{"CreationTime":"2106-02-07T06:28:15"}"#, u32::MAX, 0),
        (r#"{"CreationTime":"2106-02-07T06:28:16"}"#, 1_795_342_500, 250_000_000),
        (r#"{"CreationTime":"1969-12-31T23:59:59"}"#, 1_795_342_500, 250_000_000),
        (r#"{"CreationTime":"yesterday"}"#, 1_795_342_500, 250_000_000),
        (r#"{"CreationTime":17}"#, 1_795_342_500, 250_000_000),
        ("{}", 1_795_342_500, 250_000_000),
    ] {
        let (mut entry, batch) = (Vec::new(), RecordBatch::for_test(&[record]));
        append_entry(batch.iter().next().expect("a record"), now, &mut entry);
        let mut expected = vec![0x92, 0xd7, 0];
        expected.extend(seconds.to_be_bytes());
        expected.extend(u32::to_be_bytes(nanoseconds));
        assert!(entry.starts_with(&expected), "{record}: {entry:x?}");
    }
}

/// What a value of `serde_json` is in MessagePack.
fn expected(value: &serde_json::Value) -> Value {
    match value {
        serde_json::Value::Null => Value::Nil,
        serde_json::Value::Bool(value) => Value::from(*value),
        serde_json::Value::String(text) => Value::from(text.as_str()),
        serde_json::Value::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
            (Some(number), ..) => Value::from(number),
            (_, Some(number), _) => Value::from(number),
            (_, _, number) => Value::from(number.expect("a number")),
        },
        serde_json::Value::Array(values) => Value::Array(values.iter().map(expected).collect()),
        serde_json::Value::Object(fields) => Value::Map(
            fields.iter().map(|(key, value)| (Value::from(key.as_str()), expected(value))).collect(),
        ),
    }
}

/// Any JSON value.
fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<i16>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        ".*".prop_map(Into::into),
    ];
    leaf.prop_recursive(5, 64, 20, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..20).prop_map(Into::into),
            prop::collection::btree_map(".{0,8}", inner, 0..20)
                .prop_map(|fields| serde_json::Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(crate::proptest_config())]

    #[test]
    fn decodes_any_record_to_the_same_value(fields in prop::collection::btree_map(".{0,8}", json(), 0..20)) {
        let record = serde_json::Value::Object(fields.into_iter().collect());
        prop_assert_eq!(converted(&record.to_string()), expected(&record));
        prop_assert_eq!(converted(&format!("{record:#}\n")), expected(&record));
    }

    #[test]
    fn encodes_any_json(inner in "[\\[\\]{}\",:0-9a.e+\\-\\\\nu\\\\d8]{0,16}") {
        let record = format!("{{\"a\":{inner}}}");
        if serde_json::from_str::<&serde_json::value::RawValue>(&record).is_ok() {
            converted(&record);
        }
    }
}
