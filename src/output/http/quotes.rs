//! Removes quotes of records from the messages of a receiver: they must not be logged. [`crate::redact`] removes quotes of
//! secrets.

use std::{borrow::Cow, cmp::Reverse};

use crate::json;

/// Shorter words are too common to identify a quote.
const CHARACTERS_MIN: usize = 4;

/// Returns the reason with "…" for each word that occurs in a value of this JSON text and is not the name of a field there.
pub fn without_values(reason: &str, json: &str) -> String {
    let mut words: Vec<Word> = Vec::new();
    for text in reason.split_whitespace() {
        words.extend(Word::of(text));
        // A name and its value may be joined: `by=bob@contoso.com`.
        words.extend(text.split(|c: char| "'\"`()[]<>{}=:;,".contains(c)).filter_map(Word::of));
    }
    each_part(json, |part| match part {
        Part::Name(name) => words.iter_mut().for_each(|word| word.is_name |= *word.text == *name),
        Part::Value(value) => {
            let value = value.to_lowercase();
            for word in words.iter_mut().filter(|word| !word.is_value) {
                word.is_value = word.begins_in(&value);
            }
        }
    });
    words.retain(|word| word.is_value && !word.is_name);
    words.sort_by_key(|word| Reverse(word.text.len()));
    words.iter().fold(reason.to_owned(), |reason, word| reason.replace(word.text, "…"))
}

/// A part of a JSON text.
enum Part<'a> {
    Name(Cow<'a, str>),
    Value(Cow<'a, str>),
}

/// Visits the names and the strings of a JSON text, and what is between them if it contains digits.
fn each_part(json: &str, mut visit: impl FnMut(Part<'_>)) {
    let mut rest = json;
    while let Some(start) = rest.find('"') {
        let (between, quoted) = rest.split_at(start);
        if between.bytes().any(|byte| byte.is_ascii_digit()) {
            visit(Part::Value(between.into()));
        }
        let (quoted, after) = quoted.split_at(end_of_text(quoted));
        if quoted.contains('\\') {
            visit(Part::Value(quoted.into())); // a receiver may quote the escaped text
        }
        let text = json::text_of(quoted);
        visit(if after.trim_start().starts_with(':') { Part::Name(text) } else { Part::Value(text) });
        rest = after;
    }
    visit(Part::Value(rest.into()));
}

/// Returns where a string ends, given from its first quote on.
fn end_of_text(quoted: &str) -> usize {
    let mut is_escaped = false;
    let end = quoted.bytes().skip(1).position(|byte| {
        let ends = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        ends
    });
    end.map_or(quoted.len(), |end| end + 2)
}

/// A word of the reason, and whether the JSON text contains it.
struct Word<'a> {
    text: &'a str,
    lower_case: String,
    is_name: bool,
    is_value: bool,
}

impl<'a> Word<'a> {
    /// Returns the word without punctuation around it. `None` if it is short.
    fn of(text: &'a str) -> Option<Self> {
        let text = text.trim_matches(|c: char| !c.is_alphanumeric());
        let is_long = text.chars().count() >= CHARACTERS_MIN;
        is_long.then(|| Self { text, lower_case: text.to_lowercase(), is_name: false, is_value: false })
    }

    /// Returns whether a word of this value begins with it: a quote can be cut off, and `line` is not part of `Online`.
    fn begins_in(&self, value: &str) -> bool {
        let mut places = value.match_indices(&self.lower_case);
        places.any(|(place, _)| !value[..place].ends_with(char::is_alphanumeric))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removes_values_but_not_field_names() {
        let json = r#"{"UserId":"bob@contoso.com","Kind":"UserId","Size":123456,"Workload":"MyOnline","Path":"C:\\new\"s","On":true},
            {"Subject":"Salary of \u0041lice","n":[98765]}"#;
        for (reason, masked) in [
            ("no room", "no room"),
            ("bad value bob@contoso.com", "bad value …"),
            ("bad value 'BOB@contoso.com'.", "bad value '…'."),
            ("field [UserId] of type [long]: by=bob@contoso.com", "field [UserId] of type [long]: by=…"),
            ("Preview of field's value: 'Salary of Alice'", "Preview of field's value: '… of …'"),
            ("contoso is cut off, and online is not", "… is cut off, and online is not"),
            (r"bad \u0041lice", r"bad \…"),
            (r#"at C:\new"s"#, "at …"),
            ("123456 and 98765 are too large, On must be true", "… and … are too large, On must be true"),
        ] {
            assert_eq!(without_values(reason, json), masked);
        }
    }
}
