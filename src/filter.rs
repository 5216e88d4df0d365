//! `collect.filter`: which records of a content type are delivered.
//!
//! A filter is a list of conditions, and a record is kept if all of them hold. A condition is a field and patterns:
//!
//! - **The field.** Dots reach into objects (`Item.Id`), and through arrays into the objects in them; a name that contains
//!   dots is found as well. Case matters. A field that occurs twice has both values.
//! - **Its values.** An array has the value of each of its elements. A string is compared by its decoded text; numbers,
//!   `true`, `false` and `null` by their JSON text; objects, and arrays in arrays, by their JSON text without whitespace.
//!   Case matters.
//! - **The patterns.** `*` matches any number of characters, also none; `**` matches the character `*`. A pattern that begins
//!   with `!` excludes values; `!!` at the beginning matches the character `!`.
//!
//! A condition holds if the field has a value, a pattern matches one of its values (or all patterns exclude), and no pattern
//! excludes one. So a record without the field is never kept: `!` means "another value", not "no value".
//!
//! The record is read once for all conditions, without a tree of values.

use crate::{json, records::BlobRecords};

/// The conditions on the records of one content type.
#[derive(Clone, Debug)]
pub struct Filter {
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug)]
struct Condition {
    field: String,
    wanted: Vec<Pattern>,
    unwanted: Vec<Pattern>,
}

/// The values of the field of a condition that were found in a record.
#[derive(Clone, Copy, Default)]
struct Seen {
    any: bool,
    wanted: bool,
    unwanted: bool,
}

impl Filter {
    /// Returns a filter of these fields and their patterns.
    pub fn new(conditions: &[(String, Vec<String>)]) -> Self {
        let condition = |(field, entries): &(String, Vec<String>)| {
            let (mut wanted, mut unwanted) = (Vec::new(), Vec::new());
            for entry in entries {
                match entry.strip_prefix('!') {
                    Some(rest) if rest.starts_with('!') => wanted.push(Pattern::new(rest)),
                    Some(rest) => unwanted.push(Pattern::new(rest)),
                    None => wanted.push(Pattern::new(entry)),
                }
            }
            Condition { field: field.clone(), wanted, unwanted }
        };
        Self { conditions: conditions.iter().map(condition).collect() }
    }

    /// Drops the records for which not all conditions hold; returns their number.
    pub fn apply(&self, records: &mut BlobRecords) -> u64 {
        let mut line = String::new();
        let dropped = records.retain(|record| {
            line.clear();
            record.render(&mut line);
            self.holds_for(&line)
        });
        dropped as u64
    }

    /// Returns whether all conditions hold for the object in this text.
    fn holds_for(&self, record: &str) -> bool {
        let fields: Vec<_> =
            self.conditions.iter().enumerate().map(|(place, it)| (place, it.field.as_str())).collect();
        let mut seen = vec![Seen::default(); fields.len()];
        self.look(record, &fields, &mut seen);
        self.conditions.iter().zip(seen).all(|(condition, seen)| {
            seen.any && !seen.unwanted && (seen.wanted || condition.wanted.is_empty())
        })
    }

    /// Looks for fields in an object, each given with the position of its condition.
    fn look(&self, object: &str, fields: &[(usize, &str)], seen: &mut [Seen]) {
        json::each_field(object, |name, value| {
            let mut below = Vec::new();
            for &(place, field) in fields {
                let Some(rest) = field.strip_prefix(&*name) else { continue };
                if rest.is_empty() {
                    self.conditions[place].compare(value, &mut seen[place]);
                } else if let Some(rest) = rest.strip_prefix('.') {
                    below.push((place, rest));
                }
            }
            if below.is_empty() {
                return;
            }
            if value.starts_with('[') {
                json::each_element(value, |element| self.look(element, &below, seen));
            } else {
                self.look(value, &below, seen);
            }
        });
    }
}

impl Condition {
    fn compare(&self, value: &str, seen: &mut Seen) {
        let mut compare_one = |value| {
            let text = json::text_of(value);
            seen.any = true;
            seen.wanted |= self.wanted.iter().any(|pattern| pattern.fits(&text));
            seen.unwanted |= self.unwanted.iter().any(|pattern| pattern.fits(&text));
        };
        if value.starts_with('[') {
            json::each_element(value, compare_one);
        } else {
            compare_one(value);
        }
    }
}

/// The texts between wildcards: one text without a wildcard.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern(Vec<String>);

impl Pattern {
    fn new(text: &str) -> Self {
        let mut pieces = vec![String::new()];
        let mut characters = text.chars().peekable();
        while let Some(character) = characters.next() {
            if character == '*' && characters.next_if_eq(&'*').is_none() {
                pieces.push(String::new());
            } else {
                pieces.last_mut().expect("there is always a text").push(character);
            }
        }
        Self(pieces)
    }

    fn fits(&self, text: &str) -> bool {
        let (first, rest) = self.0.split_first().expect("there is always a text");
        let Some((last, between)) = rest.split_last() else { return text == first };
        let Some(mut text) =
            text.strip_prefix(first.as_str()).and_then(|text| text.strip_suffix(last.as_str()))
        else {
            return false;
        };
        for piece in between {
            let Some(place) = text.find(piece.as_str()) else { return false };
            text = &text[place + piece.len()..];
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::records::{Origin, RecordBatch};

    fn filter(conditions: &[(&str, &[&str])]) -> Filter {
        let owned = |(field, entries): &(&str, &[&str])| {
            ((*field).to_owned(), entries.iter().map(|entry| (*entry).to_owned()).collect())
        };
        Filter::new(&conditions.iter().map(owned).collect::<Vec<_>>())
    }

    #[track_caller]
    fn assert_holds(record: &str, conditions: &[(&str, &[&str])], expected: bool) {
        assert_eq!(filter(conditions).holds_for(record), expected, "{conditions:?} for {record}");
    }

    #[test]
    fn compares_values_by_their_text() {
        let record =
            r#"{"s":"Send","n":1.50,"t":true,"z":null,"e":"","\u0065sc":"a\u002fb\"\n","o":{"a": 1}}"#;
        for (field, text, expected) in [
            ("s", "Send", true),
            ("s", "send", false),
            ("S", "Send", false),
            ("n", "1.50", true),
            ("n", "1.5", false),
            ("t", "true", true),
            ("z", "null", true),
            ("e", "", true),
            ("esc", "a/b\"\n", true),
            ("absent", "null", false),
            ("absent", "", false),
        ] {
            assert_holds(record, &[(field, &[text])], expected);
        }
        assert_holds(r#"{"o":{"a":1}}"#, &[("o", &["{\"a\":1}"])], true);
    }

    #[test]
    fn list_matches_any_value_and_all_fields_must_match() {
        let record = r#"{"a":"1","b":2}"#;
        assert_holds(record, &[("a", &["0", "1"])], true);
        assert_holds(record, &[("a", &["0", "2"])], false);
        assert_holds(record, &[("a", &["1"]), ("b", &["2"])], true);
        assert_holds(record, &[("a", &["1"]), ("b", &["3"])], false);
    }

    #[test]
    fn dots_reach_into_objects_and_arrays() {
        let record =
            r#"{"a":{"b":{"c":"x"},"b.c":"y"},"l":[{"n":"1","v":["p","q"]},{"n":"2"},3],"a.b":"z","e":[]}"#;
        for (field, text, expected) in [
            ("a.b.c", "x", true),
            ("a.b.c", "y", true),
            ("a.b", "z", true),
            ("a.c", "x", false),
            ("l.n", "2", true),
            ("l.n", "3", false),
            ("l.v", "q", true),
            ("l", "3", true),
            ("l.n.x", "*", false),
            ("e", "*", false),
        ] {
            assert_holds(record, &[(field, &[text])], expected);
        }
    }

    #[test]
    fn star_matches_anything_and_two_stars_match_a_star() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("*", "x", true),
            ("a*", "a", true),
            ("a*", "ba", false),
            ("*a", "ba", true),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("*b*", "abc", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "acb", false),
            ("*ab*ba*", "aba", false),
            ("a**c", "a*c", true),
            ("a**c", "abc", false),
            ("***", "*x", true),
            ("***", "x*", false),
            ("ä*ß", "äöüß", true),
        ] {
            assert_eq!(Pattern::new(pattern).fits(text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn exclamation_mark_negates() {
        for (entries, record, expected) in [
            (["!a"].as_slice(), r#"{"f":"b"}"#, true),
            (&["!a"], r#"{"f":"a"}"#, false),
            (&["!a"], r#"{"g":"b"}"#, false),
            (&["!a"], r#"{"f":["b","a"]}"#, false),
            (&["!a*", "!b"], r#"{"f":"c"}"#, true),
            (&["!a*", "!b"], r#"{"f":"ax"}"#, false),
            (&["a*", "!ab"], r#"{"f":"ac"}"#, true),
            (&["a*", "!ab"], r#"{"f":"ab"}"#, false),
            (&["a*", "!ab"], r#"{"f":"c"}"#, false),
            (&["!!a"], r#"{"f":"!a"}"#, true),
            (&["!!a"], r#"{"f":"a"}"#, false),
            (&["!"], r#"{"f":""}"#, false),
            (&["!"], r#"{"f":"x"}"#, true),
        ] {
            assert_holds(record, &[("f", entries)], expected);
        }
    }

    #[test]
    fn filters_unusual_records() {
        let deep = format!(r#"{{"a":{}{},"f":"x"}}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert_holds(&deep, &[("f", &["x"]), ("a", &["*"])], true);
        assert_holds(r#"{"f":"\ud83d","n":1e400,"f":"x"}"#, &[("f", &["x"]), ("n", &["1e400"])], true);
        assert_holds(r#"{"f":"x","f":"y"}"#, &[("f", &["!x"])], false);
    }

    #[test]
    fn counts_dropped_records() {
        let body = br#"[ {"a" : 1}, {"a" : 2}, {"b" : 1} ]"#.to_vec();
        let mut records =
            BlobRecords::parse(body, &Origin::new("DLP.All", Some("contoso"))).expect("an array");
        let conditions = filter(&[("a", &["1"]), ("OriginFeed", &["DLP.*"]), ("TenantName", &["contoso"])]);
        assert_eq!((conditions.apply(&mut records), records.len()), (2, 1));
        let kept: RecordBatch = records.iter().collect();
        assert!(kept.text().starts_with("{\"a\":1"));
        assert_eq!(conditions.apply(&mut records), 0);
    }

    /// Does the same with a tree of values.
    fn holds_naively(record: &Value, conditions: &[(String, Vec<String>)]) -> bool {
        fn values<'a>(value: &'a Value, path: &[&str], found: &mut Vec<&'a Value>) {
            match (path, value) {
                ([], Value::Array(elements)) => found.extend(elements),
                ([], _) => found.push(value),
                ([name, rest @ ..], Value::Object(fields)) => {
                    if let Some(value) = fields.get(*name) {
                        let through = value.as_array().filter(|_| !rest.is_empty());
                        for value in through.map_or_else(|| std::slice::from_ref(value), Vec::as_slice) {
                            values(value, rest, found);
                        }
                    }
                }
                _ => {}
            }
        }
        fn fits(pattern: &[char], text: &[char]) -> bool {
            match (pattern, text) {
                ([], _) => text.is_empty(),
                (['*', rest @ ..], _) => fits(rest, text) || (!text.is_empty() && fits(pattern, &text[1..])),
                ([one, rest @ ..], [first, others @ ..]) => one == first && fits(rest, others),
                _ => false,
            }
        }
        conditions.iter().all(|(field, entries)| {
            let mut found = Vec::new();
            values(record, &field.split('.').collect::<Vec<_>>(), &mut found);
            let texts: Vec<Vec<char>> = found
                .iter()
                .map(|value| {
                    value.as_str().map_or_else(|| value.to_string(), str::to_owned).chars().collect()
                })
                .collect();
            let has = |entry: &str| {
                let pattern: Vec<_> = entry.chars().collect();
                texts.iter().any(|text| fits(&pattern, text))
            };
            let wanted = || entries.iter().filter(|entry| !entry.starts_with('!'));
            let is_wanted = wanted().next().is_none() || wanted().any(|entry| has(entry));
            let is_unwanted = entries.iter().any(|entry| entry.strip_prefix('!').is_some_and(has));
            !texts.is_empty() && is_wanted && !is_unwanted
        })
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Into::into),
            (0..3).prop_map(Into::into),
            "[ab\"\\\\\n]{0,3}".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                prop::collection::btree_map("[ab]", inner, 0..3)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(crate::proptest_config())]

        #[test]
        fn agrees_with_a_filter_on_parsed_values(
            fields in prop::collection::btree_map("[ab]", value(), 0..3),
            conditions in prop::collection::vec(
                ("[ab](\\.[ab]){0,2}", prop::collection::vec("!?(\\*?[ab012]){0,2}\\*?|!?null|!?true", 1..3)),
                1..3,
            ),
        ) {
            let record = Value::Object(fields.into_iter().collect());
            let holds = Filter::new(&conditions).holds_for(&record.to_string());
            prop_assert_eq!(holds, holds_naively(&record, &conditions), "{:?} for {}", conditions, record);
        }
    }
}
