//! A scanner for JSON: checks the syntax of a text and finds where its parts are. It decodes, copies and stores nothing;
//! [`text_of`] decodes a single value.
//!
//! Follows RFC 8259 strictly, with two liberties that it grants to a parser: the depth of nesting is unlimited, and an
//! escape can represent half of a surrogate pair.

mod marks;

use std::borrow::Cow;

use serde::de::{Deserializer as _, Error, Visitor};

use marks::Marks;

/// An error returned when a text is not JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// The number of bytes before the first that is wrong.
    pub at: usize,
    /// Whether the text ends there.
    pub is_end: bool,
}

/// The name of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name<'a> {
    /// The text between its quotes, escapes included.
    written: &'a [u8],
    has_escapes: bool,
}

impl<'a> Name<'a> {
    /// Returns the name with its escapes decoded. A name with half of a surrogate pair, which no text can hold, is
    /// returned as it is written.
    pub fn text(self) -> Cow<'a, [u8]> {
        if self.has_escapes { self.unescaped() } else { Cow::Borrowed(self.written) }
    }

    #[cold]
    fn unescaped(self) -> Cow<'a, [u8]> {
        let quoted = [b"\"", self.written, b"\""].concat();
        let text = serde_json::from_slice::<String>(&quoted);
        text.map_or(Cow::Borrowed(self.written), |text| Cow::Owned(text.into_bytes()))
    }
}

/// A text, and the position up to which it was read.
#[derive(Debug)]
pub struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
    /// Where strings of the text may end.
    marks: Marks,
    /// The brackets that close the open arrays and objects, outermost first.
    closers: Vec<u8>,
    /// The number of bytes of whitespace between the tokens that were read since the caller last set this to 0.
    pub whitespace_bytes: usize,
}

impl<'a> Scanner<'a> {
    /// Returns a scanner at the start of a text.
    pub fn new(text: &'a str) -> Self {
        Self::over(text.as_bytes())
    }

    /// Returns a scanner at the start of bytes that may not be UTF-8. It reads any string; the caller checks the encoding.
    pub fn over(bytes: &'a [u8]) -> Self {
        Self { text: bytes, at: 0, marks: Marks::default(), closers: Vec::new(), whitespace_bytes: 0 }
    }

    /// Moves to this position, outside of any array or object.
    pub fn go_to(&mut self, at: usize) {
        self.at = at;
        self.closers.clear();
    }

    /// Returns the number of bytes that were read.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Returns the first byte of the next token without reading it; `None` at the end of the text.
    #[inline]
    pub fn peek(&mut self) -> Option<u8> {
        match self.text.get(self.at) {
            Some(&byte) if byte > b' ' => Some(byte),
            _ => self.peek_after_whitespace(),
        }
    }

    #[cold]
    fn peek_after_whitespace(&mut self) -> Option<u8> {
        while matches!(self.text.get(self.at), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
            self.whitespace_bytes += 1;
        }
        self.text.get(self.at).copied()
    }

    /// Skips this token of one byte. Returns whether it comes next.
    #[inline]
    pub fn skip(&mut self, expected: u8) -> bool {
        let comes = self.peek() == Some(expected);
        self.at += usize::from(comes);
        comes
    }

    /// Reads this token of one byte.
    ///
    /// # Errors
    ///
    /// Another one comes next.
    pub fn expect(&mut self, expected: u8) -> Result<(), SyntaxError> {
        if self.skip(expected) { Ok(()) } else { Err(self.error()) }
    }

    /// Checks that only whitespace follows.
    ///
    /// # Errors
    ///
    /// Something else follows.
    pub fn end(&mut self) -> Result<(), SyntaxError> {
        if self.peek().is_some() { Err(self.error()) } else { Ok(()) }
    }

    /// Reads the name of a field and the colon after it.
    ///
    /// # Errors
    ///
    /// Something else comes next.
    pub fn name(&mut self) -> Result<Name<'a>, SyntaxError> {
        self.read_name().ok_or_else(|| self.error())
    }

    /// Reads a value of any kind, and returns its text.
    ///
    /// # Errors
    ///
    /// Something else comes next.
    pub fn value(&mut self) -> Result<&'a [u8], SyntaxError> {
        let first = self.peek();
        let start = self.at;
        let read = match first {
            Some(b'"') => self.read_string().map(|_| ()),
            Some(b'{' | b'[') => self.read_array_or_object(),
            _ => self.read_number_or_word(),
        };
        if read.is_some() { Ok(&self.text[start..self.at]) } else { Err(self.error()) }
    }

    // The following methods return `None` if there is a syntax error at the position that they have reached: unlike an error
    // with its position, that fits into a register. Most strings are so short that the difference counts.

    #[inline]
    fn read_name(&mut self) -> Option<Name<'a>> {
        if self.peek() != Some(b'"') {
            return None;
        }
        let start = self.at + 1;
        let has_escapes = self.read_string()?;
        let written = &self.text[start..self.at - 1];
        self.skip(b':').then_some(Name { written, has_escapes })
    }

    #[inline(never)]
    fn read_array_or_object(&mut self) -> Option<()> {
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.read_string()?;
                }
                Some(b'{') => {
                    self.at += 1;
                    if !self.skip(b'}') {
                        self.closers.push(b'}');
                        self.read_name()?;
                        continue;
                    }
                }
                Some(b'[') => {
                    self.at += 1;
                    if !self.skip(b']') {
                        self.closers.push(b']');
                        continue;
                    }
                }
                _ => self.read_number_or_word()?,
            }
            if self.read_after_value()? {
                return Some(());
            }
        }
    }

    /// Reads what follows a value inside of an array or object: a comma and a name, or closing brackets. Returns whether
    /// the outermost value has ended.
    #[inline]
    fn read_after_value(&mut self) -> Option<bool> {
        while let Some(&closer) = self.closers.last() {
            if self.skip(b',') {
                if closer == b'}' {
                    self.read_name()?;
                }
                return Some(false);
            }
            if !self.skip(closer) {
                return None;
            }
            self.closers.pop();
        }
        Some(true)
    }

    /// Reads a string from its first quote to its last one. Returns whether it has escapes.
    #[inline]
    fn read_string(&mut self) -> Option<bool> {
        let mark = self.marks.next(self.text, self.at + 1);
        if self.text.get(mark) != Some(&b'"') {
            return self.read_string_with_escapes(mark);
        }
        self.at = mark + 1;
        Some(false)
    }

    /// Reads a string whose first mark is not a quote.
    #[cold]
    fn read_string_with_escapes(&mut self, mark: usize) -> Option<bool> {
        self.at = mark;
        loop {
            match self.text.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Some(true);
                }
                Some(b'\\') => self.read_escape()?,
                _ => return None, // a control character, or the end
            }
            self.at = self.marks.next(self.text, self.at);
        }
    }

    fn read_escape(&mut self) -> Option<()> {
        self.at += 1;
        match self.text.get(self.at) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
            Some(b'u') => {
                self.at += 1;
                for _ in 0..4 {
                    if !self.text.get(self.at).is_some_and(u8::is_ascii_hexdigit) {
                        return None;
                    }
                    self.at += 1;
                }
            }
            _ => return None,
        }
        Some(())
    }

    fn read_number_or_word(&mut self) -> Option<()> {
        match self.text.get(self.at) {
            Some(b'n') => return self.read_word(b"null"),
            Some(b't') => return self.read_word(b"true"),
            Some(b'f') => return self.read_word(b"false"),
            _ => {}
        }
        self.skip_if(|byte| byte == b'-');
        if !self.skip_if(|byte| byte == b'0') {
            self.read_digits()?;
        }
        if self.skip_if(|byte| byte == b'.') {
            self.read_digits()?;
        }
        if self.skip_if(|byte| matches!(byte, b'e' | b'E')) {
            self.skip_if(|byte| matches!(byte, b'+' | b'-'));
            self.read_digits()?;
        }
        Some(())
    }

    fn read_word(&mut self, word: &[u8]) -> Option<()> {
        let rest = &self.text[self.at..];
        if rest.starts_with(word) {
            self.at += word.len();
            return Some(());
        }
        if word.starts_with(rest) {
            self.at = self.text.len();
        }
        None
    }

    fn read_digits(&mut self) -> Option<()> {
        if !self.skip_if(|byte| byte.is_ascii_digit()) {
            return None;
        }
        while self.skip_if(|byte| byte.is_ascii_digit()) {}
        Some(())
    }

    fn skip_if(&mut self, is_wanted: impl Fn(u8) -> bool) -> bool {
        let is_there = self.text.get(self.at).is_some_and(|&byte| is_wanted(byte));
        self.at += usize::from(is_there);
        is_there
    }

    fn error(&self) -> SyntaxError {
        SyntaxError { at: self.at, is_end: self.at >= self.text.len() }
    }
}

/// Visits the fields of an object in their order: the decoded name and the text of the value. Stops at the first syntax
/// error; visits nothing in a text that is not an object.
pub fn each_field<'a>(object: &'a str, visit: impl FnMut(Cow<'a, str>, &'a str)) {
    read_fields(object, visit);
}

/// Does the same, and returns whether the text is one whole object.
pub fn read_fields<'a>(object: &'a str, mut visit: impl FnMut(Cow<'a, str>, &'a str)) -> bool {
    let mut scanner = Scanner::new(object);
    let field = |scanner: &mut Scanner<'a>| {
        scanner.peek();
        let start = scanner.at();
        let name = &object[start..start + scanner.name()?.written.len() + 2];
        scanner.peek();
        let start = scanner.at();
        scanner.value()?;
        Ok::<_, SyntaxError>((name, &object[start..scanner.at()]))
    };
    if scanner.expect(b'{').is_err() {
        return false;
    }
    if scanner.skip(b'}') {
        return scanner.peek().is_none();
    }
    while let Ok((name, value)) = field(&mut scanner) {
        visit(text_of(name), value);
        if !scanner.skip(b',') {
            return scanner.skip(b'}') && scanner.peek().is_none();
        }
    }
    false
}

/// Visits the texts of the elements of an array in their order. Stops at the first syntax error; visits nothing in a text
/// that is not an array.
pub fn each_element<'a>(array: &'a str, mut visit: impl FnMut(&'a str)) {
    let mut scanner = Scanner::new(array);
    let mut next = |opening| {
        scanner.expect(opening)?;
        scanner.peek();
        let start = scanner.at();
        scanner.value()?;
        Ok::<_, SyntaxError>(&array[start..scanner.at()])
    };
    let mut opening = b'[';
    while let Ok(element) = next(opening) {
        visit(element);
        opening = b',';
    }
}

/// Returns the text of a value: of a string, given with its quotes, the decoded text; of any other value, its JSON text.
/// Half of a surrogate pair, which no text can hold, becomes U+FFFD.
pub fn text_of(value: &str) -> Cow<'_, str> {
    match value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        None => Cow::Borrowed(value),
        Some(inner) if !inner.contains('\\') => Cow::Borrowed(inner),
        Some(inner) => {
            let decoded = serde_json::Deserializer::from_str(value).deserialize_bytes(Decoded);
            Cow::Owned(decoded.unwrap_or_else(|_| inner.to_owned()))
        }
    }
}

/// Decodes a string from bytes in which `serde_json` leaves half surrogate pairs as they are.
struct Decoded;

impl Visitor<'_> for Decoded {
    type Value = String;

    fn expecting(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        formatter.write_str("a string")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<String, E> {
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;

    /// Returns whether the text is one JSON value, whitespace around it or not.
    fn is_value(text: &str) -> bool {
        let mut scanner = Scanner::new(text);
        scanner.value().is_ok() && scanner.end().is_ok()
    }

    #[test]
    fn only_a_whole_object_is_read_to_its_end() {
        let count = |text: &str| {
            let mut fields = 0;
            let is_whole = read_fields(text, |_, _| fields += 1);
            assert_eq!(is_whole, serde_json::from_str::<serde_json::Map<_, _>>(text).is_ok(), "{text}");
            fields
        };
        for (text, fields) in [
            ("{}", 0),
            (" { } ", 0),
            ("{\"a\":1}", 1),
            ("{\"a\":1,\"b\":[2, {}]} ", 2),
            ("{\"a\":1,}", 1),
            ("{,}", 0),
            ("{\"a\":1", 1),
            ("{\"a\":1}x", 1),
            ("{\"a\":1}{}", 1),
            ("{\"a\" 1}", 0),
            ("{\"a\":1 \"b\":2}", 1),
            ("", 0),
            ("[]", 0),
            ("{", 0),
        ] {
            assert_eq!(count(text), fields, "{text}");
        }
    }

    #[test]
    fn accepts_valid_json_only() {
        for text in [
            "0",
            "-0",
            "10",
            "1.5",
            "1e5",
            "-1.25E-400",
            "1E+5",
            "null",
            "true",
            "false",
            "\"\"",
            "\"\\u0000\\\"\\/\"",
            "\"\\ud83d\"",
            "[]",
            "{}",
            " [ 1 , { \"a\" : [ ] } ] ",
            "{\"\":{\"\":[[[]]]}}",
            "\"\u{7f}ä😀\u{2028}\"",
        ] {
            assert!(is_value(text), "{text}");
        }
        for text in [
            "",
            " ",
            "01",
            "-",
            "+1",
            ".5",
            "1.",
            "1e",
            "1e+",
            "nul",
            "nulll",
            "True",
            "\"",
            "\"\\\"",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"\\u12\"",
            "\"\n\"",
            "\"\u{1f}\"",
            "[",
            "[1",
            "[1,",
            "[1,]",
            "[,1]",
            "]",
            "[1}",
            "{",
            "{\"a\"",
            "{\"a\":",
            "{\"a\":1",
            "{\"a\":1,",
            "{\"a\":1,}",
            "{a:1}",
            "{1:1}",
            "{\"a\" 1}",
            "{\"a\":1]",
            "1 2",
            "[] []",
            "'a'",
            "\u{a0}1",
            "NaN",
            "/**/1",
        ] {
            assert!(!is_value(text), "{text}");
        }
    }

    #[test]
    fn error_has_the_position_of_the_first_wrong_byte() {
        let error_of = |text| Scanner::new(text).value().expect_err("no value");
        assert_eq!(error_of("[1, x]"), SyntaxError { at: 4, is_end: false });
        assert_eq!(error_of("[\"ab\n\"]"), SyntaxError { at: 4, is_end: false });
        assert_eq!(error_of("{\"a\":tr"), SyntaxError { at: 7, is_end: true });
        assert_eq!(error_of("{\"abcdefghij"), SyntaxError { at: 12, is_end: true });
    }

    #[test]
    fn visits_fields_and_elements_in_order() {
        let mut seen = Vec::new();
        let object = r#" {"a":1e400,"\u0061" : [1, {}] ,"s":"\u0041","a":null}"#;
        each_field(object, |name, value| seen.push(format!("{name}={value}")));
        assert_eq!(seen, ["a=1e400", "a=[1, {}]", r#"s="\u0041""#, "a=null"]);
        seen.clear();
        each_element(r#"[1, "x",[2]]"#, |element| seen.push(element.to_owned()));
        assert_eq!(seen, ["1", "\"x\"", "[2]"]);
        for text in ["[1]", "{}", "[]", "1", ""] {
            each_field(text, |_, _| panic!("no field"));
        }
        for text in ["{\"a\":1}", "[]", "{}", "1", ""] {
            each_element(text, |_| panic!("no element"));
        }
    }

    #[test]
    fn decodes_the_text_of_a_value() {
        for (value, text) in [
            ("\"plain\"", "plain"),
            (r#""\u0041\n\"\\\/""#, "A\n\"\\/"),
            (r#""\ud83d\ude00""#, "😀"),
            ("\"\"", ""),
            ("-1.50E3", "-1.50E3"),
            ("null", "null"),
            ("{\"a\":\"b\"}", "{\"a\":\"b\"}"),
        ] {
            assert_eq!(text_of(value), text, "{value}");
        }
        let lone = text_of(r#""a\ud83d b""#);
        assert!(lone.starts_with('a') && lone.ends_with(" b") && lone.contains('\u{fffd}'), "{lone}");
    }

    proptest! {
        #![proptest_config(crate::proptest_config())]

        #[test]
        fn accepts_what_serde_json_accepts(
            text in "[\\[\\]{}\",:0-9eE+\\-. \\\\untrfalsé\u{1}\n]{0,16}",
        ) {
            let reads = serde_json::from_str::<&RawValue>(&text).is_ok();
            prop_assert_eq!(is_value(&text), reads, "{:?}", text);
        }

        #[test]
        fn reads_a_string_to_its_end(content in ".{0,64}", after in ".{0,8}") {
            let quoted = serde_json::to_string(&content).expect("a text");
            let text = format!("{quoted},{after}");
            let mut scanner = Scanner::new(&text);
            prop_assert_eq!(scanner.value(), Ok(quoted.as_bytes()));
            prop_assert!(scanner.skip(b','));
        }
    }
}
