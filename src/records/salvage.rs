//! The part of a body that can be delivered although the body cannot be read as a whole.
//!
//! Each element that is a whole JSON object in UTF-8 is a record, whatever its neighbours are. After a syntax error it is
//! uncertain where the next element begins. An object after it counts as a record only if it has the fields that every
//! record has, because an object *in* a record must not be mistaken for a record.

use super::{
    header::Header,
    index::{Entry, Index},
};
use crate::json::{Scanner, SyntaxError};

/// The search for the next element reads at most this many times the length of the body, so that no body makes it
/// quadratic.
const SEARCH_FACTOR: usize = 8;

/// The part of a body that could not be delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unreadable {
    /// The number of elements that are not objects: numbers, strings, `null`, …
    pub not_objects: u64,
    /// The number of places with a syntax error or without UTF-8, each of at least one element.
    pub broken: u64,
    /// Whether the array is cut short.
    pub is_cut: bool,
    /// Whether the body is not an array.
    pub is_not_array: bool,
}

/// Adds each whole object of the array in a body to the index.
pub(super) fn find_objects(body: &[u8], index: &mut Index, reserve: &mut impl FnMut(usize)) -> Unreadable {
    let start = body.len() - body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body).len();
    let mut elements = Elements {
        text: &body[start..],
        scanner: Scanner::over(&body[start..]),
        budget: body.len() * SEARCH_FACTOR,
    };
    let mut unreadable = Unreadable::default();
    if !elements.scanner.skip(b'[') {
        unreadable.is_not_array = true;
        return unreadable;
    }
    loop {
        let Some(next) = elements.scanner.peek() else {
            unreadable.is_cut = true;
            return unreadable;
        };
        let from = elements.scanner.at();
        match next {
            b']' => return unreadable,
            b',' => {
                elements.scanner.skip(b',');
                continue;
            }
            b'{' => match elements.object() {
                Ok(Some(header)) => {
                    let fields = start + from..start + elements.scanner.at() - 1;
                    let whitespace_bytes = elements.scanner.whitespace_bytes;
                    index.push(&Entry { fields, whitespace_bytes, header }, reserve);
                    continue;
                }
                Ok(None) => {
                    unreadable.broken += 1;
                    continue;
                }
                Err(error) => unreadable.is_cut = error.is_end,
            },
            _ => {
                if elements.scanner.value().is_ok() && elements.is_after_element() {
                    unreadable.not_objects += 1;
                    continue;
                }
            }
        }
        unreadable.broken += 1;
        if !elements.find_record(from + 1) {
            unreadable.is_cut |= !elements.has_end();
            return unreadable;
        }
        unreadable.is_cut = false;
    }
}

/// The elements of an array, some of which are broken.
struct Elements<'a> {
    text: &'a [u8],
    scanner: Scanner<'a>,
    /// The number of bytes that the search for an element may still read.
    budget: usize,
}

impl Elements<'_> {
    /// Reads an object; `None` if it is not UTF-8.
    fn object(&mut self) -> Result<Option<Header>, SyntaxError> {
        let from = self.scanner.at();
        let header = Header::read(&mut self.scanner)?;
        Ok(std::str::from_utf8(&self.text[from..self.scanner.at()]).is_ok().then_some(header))
    }

    /// Returns whether the next token can follow an element.
    fn is_after_element(&mut self) -> bool {
        matches!(self.scanner.peek(), None | Some(b',' | b']' | b'{'))
    }

    /// Moves to the next record at or after this position. Returns `false` if there is none, or if the search has read too
    /// much.
    fn find_record(&mut self, from: usize) -> bool {
        let mut from = from;
        while let Some(found) = self.text.get(from..).and_then(|rest| memchr::memchr(b'{', rest)) {
            let place = from + found;
            from = place + 1;
            if !self.can_begin_element(place) {
                continue;
            }
            self.scanner.go_to(place);
            let is_record =
                self.object().is_ok_and(|header| header.is_some_and(|header| header.is_of_record()));
            let is_record = is_record && self.is_after_element();
            let read = self.scanner.at() - place;
            self.scanner.go_to(place);
            if is_record {
                return true;
            }
            let Some(budget) = self.budget.checked_sub(read) else { return false };
            self.budget = budget;
        }
        false
    }

    /// Returns whether an element can begin at this position: after another one, or after the comma between two.
    fn can_begin_element(&self, place: usize) -> bool {
        let before = self.text[..place].trim_ascii_end().last();
        before.is_none_or(|&byte| byte != b':')
    }

    /// Returns whether the text ends like an array.
    fn has_end(&self) -> bool {
        self.text.trim_ascii_end().last() == Some(&b']')
    }
}
