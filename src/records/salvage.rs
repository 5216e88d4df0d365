//! What can be delivered of a body that cannot be read as a whole.
//!
//! Each element that is a whole JSON object in UTF-8 is a record, whatever its neighbours are. After a mistake in the
//! syntax it is uncertain where the next element begins: an object after it counts as a record only if it has the
//! fields that every record has, because an object *within* a record must not be taken for one.

use super::{
    Head,
    index::{Entry, Index},
};
use crate::json::{Fault, Scanner};

/// A search for the next element reads at most this many times the body's length, so that no body can make it quadratic.
const SEARCH_FACTOR: usize = 8;

/// What could not be delivered of a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unreadable {
    /// Elements that are not objects: numbers, strings, `null`, …
    pub not_objects: u64,
    /// Places with wrong syntax or without UTF-8, each of at least one element.
    pub broken: u64,
    /// Whether the array has no end.
    pub is_cut: bool,
    /// Whether the body is not an array at all.
    pub is_not_array: bool,
}

/// Adds each whole object of the array to the index. Places are counted from the body's start.
pub(super) fn find_objects(body: &[u8], index: &mut Index, room: &mut impl FnMut(usize)) -> Unreadable {
    let start = body.len() - body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body).len();
    let mut elements = Elements {
        text: &body[start..],
        scanner: Scanner::over(&body[start..]),
        budget: body.len() * SEARCH_FACTOR,
    };
    let mut unreadable = Unreadable::default();
    if !elements.scanner.take(b'[') {
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
                elements.scanner.take(b',');
                continue;
            }
            b'{' => match elements.object() {
                Ok(Some(head)) => {
                    let fields = start + from..start + elements.scanner.at() - 1;
                    let has_whitespace = elements.scanner.saw_whitespace;
                    index.push(&Entry { fields, has_whitespace, id: head.id, ending: head.seen }, room);
                    continue;
                }
                Ok(None) => {
                    unreadable.broken += 1;
                    continue;
                }
                Err(fault) => unreadable.is_cut = fault.is_end,
            },
            _ => {
                if elements.scanner.value().is_ok() && elements.is_behind_element() {
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
    /// How many bytes may still be read in the search for an element.
    budget: usize,
}

impl Elements<'_> {
    /// Reads an object; `None` if that is not UTF-8.
    fn object(&mut self) -> Result<Option<Head>, Fault> {
        let from = self.scanner.at();
        self.scanner.saw_whitespace = false;
        let head = Head::read(&mut self.scanner)?;
        Ok(std::str::from_utf8(&self.text[from..self.scanner.at()]).is_ok().then_some(head))
    }

    /// Whether what comes next can follow an element.
    fn is_behind_element(&mut self) -> bool {
        matches!(self.scanner.peek(), None | Some(b',' | b']' | b'{'))
    }

    /// Goes to the next record at or after this place. `false` if there is none, or if the search has taken too long.
    fn find_record(&mut self, from: usize) -> bool {
        let mut from = from;
        while let Some(found) = self.text.get(from..).and_then(|rest| memchr::memchr(b'{', rest)) {
            let place = from + found;
            from = place + 1;
            if !self.can_begin_element(place) {
                continue;
            }
            self.scanner.go_to(place);
            let is_record = self.object().is_ok_and(|head| head.is_some_and(|head| head.is_of_record()));
            let is_record = is_record && self.is_behind_element();
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

    /// Whether what is before this place can be the end of another element, or a comma between two.
    fn can_begin_element(&self, place: usize) -> bool {
        let before = self.text[..place].trim_ascii_end().last();
        before.is_none_or(|&byte| byte != b':')
    }

    /// Whether the text ends as an array does.
    fn has_end(&self) -> bool {
        self.text.trim_ascii_end().last() == Some(&b']')
    }
}
