//! The elements of a list that a response contains, read one at a time from the chunks of its body.

use std::ops::ControlFlow;

use crate::{
    chunks::Chunks,
    json::{Scanner, SyntaxError},
};

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Calls a function with the text of each element of the array in a body.
///
/// # Errors
///
/// The body is not one whole JSON array. Returns the number of bytes before the first that is wrong.
pub(super) fn each_element(body: &Chunks, mut read: impl FnMut(&str)) -> Result<(), usize> {
    let mut parts = body.parts().peekable();
    let (mut text, mut elements) = (Vec::new(), Elements::default());
    let mut position = 0;
    if body.first().starts_with(BYTE_ORDER_MARK) {
        let first = parts.next().unwrap_or_default();
        position = BYTE_ORDER_MARK.len();
        text.extend_from_slice(&first[position..]);
    }
    loop {
        // An element that is not whole is read again with the next chunks. There are at least as many bytes of these as it
        // has so far, so an element of any length is read twice at most.
        let length = text.len() * 2;
        while let Some(part) = parts.next_if(|_| text.is_empty() || text.len() < length) {
            text.extend_from_slice(part);
        }
        let is_last = parts.peek().is_none();
        let (bytes, end) = elements.read(&text, is_last, &mut read);
        if let ControlFlow::Break(result) = end {
            return result.map_err(|SyntaxError { at, .. }| position + at);
        }
        text.drain(..bytes);
        position += bytes;
    }
}

/// How far an array is read.
#[derive(Default)]
struct Elements {
    has_begun: bool,
    has_ended: bool,
}

impl Elements {
    /// Reads the elements that are whole in a text, which begins where the last call has stopped. Returns the number of
    /// bytes that were read, and, if the text is the last one or is wrong, the result.
    fn read(
        &mut self,
        text: &[u8],
        is_last: bool,
        read: &mut impl FnMut(&str),
    ) -> (usize, ControlFlow<Result<(), SyntaxError>>) {
        let mut scanner = Scanner::over(text);
        let mut bytes = 0;
        loop {
            match self.next(&mut scanner, text) {
                Ok(Some(element)) => read(element),
                Ok(None) if is_last => return (text.len(), ControlFlow::Break(Ok(()))),
                Ok(None) => return (text.len(), ControlFlow::Continue(())),
                Err(error) if error.is_end && !is_last => return (bytes, ControlFlow::Continue(())),
                Err(error) => return (bytes, ControlFlow::Break(Err(error))),
            }
            bytes = scanner.at();
        }
    }

    /// Returns the next element, or `None` if the array has ended and only whitespace follows.
    fn next<'a>(
        &mut self,
        scanner: &mut Scanner<'a>,
        text: &'a [u8],
    ) -> Result<Option<&'a str>, SyntaxError> {
        if !self.has_ended {
            let is_first = !self.has_begun;
            if is_first {
                scanner.expect(b'[')?;
            }
            if scanner.skip(b']') {
                self.has_ended = true;
            } else {
                if !is_first {
                    scanner.expect(b',')?;
                }
                return self.element(scanner, text).map(Some);
            }
        }
        scanner.end().map(|()| None)
    }

    fn element<'a>(&mut self, scanner: &mut Scanner<'a>, text: &'a [u8]) -> Result<&'a str, SyntaxError> {
        scanner.peek();
        let start = scanner.at();
        let value = scanner.value()?;
        if scanner.peek().is_none() {
            return Err(SyntaxError { at: text.len(), is_end: true }); // a number can continue in the next chunk
        }
        let text = std::str::from_utf8(value);
        let text = text.map_err(|error| SyntaxError { at: start + error.valid_up_to(), is_end: false })?;
        self.has_begun = true;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;
    use crate::{chunks::ChunkPool, limits::CHUNK_BYTES};

    /// Returns the elements of an array, and how far it was read if it is wrong.
    fn elements(text: &str) -> (Vec<String>, Result<(), usize>) {
        let mut body = ChunkPool::default().bytes();
        body.append(text.as_bytes(), &mut |_| ());
        let mut elements = Vec::new();
        let result = each_element(&body, |element| elements.push(element.to_owned()));
        (elements, result)
    }

    #[test]
    fn reads_elements_that_chunks_divide() {
        for element in ["{\"a\":[\"\\u00fc ü\"]}", "1234567890", "null", "\"text\""] {
            for before in CHUNK_BYTES - 40..CHUNK_BYTES + 3 {
                let long = format!("\"{}\"", "x".repeat(3 * CHUNK_BYTES));
                let text = format!("\u{feff}{}[{element} ,{element},{long},{element}]\n", " ".repeat(before));
                let expected = [element, element, &long, element].map(str::to_owned).to_vec();
                assert_eq!(elements(&text), (expected, Ok(())), "{element} after {before} bytes");
            }
        }
    }

    #[test]
    fn error_has_the_position_in_the_body() {
        let spaces = " ".repeat(CHUNK_BYTES);
        for (wrong, at) in [
            ("[1,]", 3),
            ("[1 2]", 3),
            ("[1]]", 3),
            ("{}", 0),
            ("[\"\n\"]", 2),
            ("[1,", 3),
            ("[1", 2),
            ("", 0),
        ] {
            let (_, result) = elements(&format!("{spaces}{wrong}"));
            assert_eq!(result, Err(CHUNK_BYTES + at), "{wrong}");
        }
    }

    proptest! {
        #![proptest_config(crate::proptest_config())]

        #[test]
        fn accepts_what_serde_json_accepts(text in "[\\[\\]{}\",:0-1e+. \\\\ntrulé\n]{0,12}") {
            let read = serde_json::from_str::<Vec<&RawValue>>(&text);
            let (elements, result) = elements(&text);
            prop_assert_eq!(result.is_ok(), read.is_ok(), "{:?}", text);
            if let Ok(read) = read {
                prop_assert_eq!(elements, read.into_iter().map(RawValue::get).collect::<Vec<_>>());
            }
        }
    }
}
