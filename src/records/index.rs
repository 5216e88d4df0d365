//! Where a blob's records are in its body, in a few bytes each.

use std::ops::Range;

use super::RecordId;
use crate::limits::{INDEX_GROWTH_BYTES_MAX, INDEX_STEP_BYTES};

/// The low bits of an entry's first byte: which ending the record gets.
const ENDING: u8 = 0b0000_0111;
/// The record has an id, which follows in the entry.
const HAS_ID: u8 = 0b0000_1000;
/// That id is a GUID.
const IS_GUID: u8 = 0b0100_0000;
/// There is whitespace between the record's tokens.
const HAS_WHITESPACE: u8 = 0b0001_0000;
/// The record was filtered out.
const IS_DROPPED: u8 = 0b0010_0000;

/// The most bytes that an entry takes: its first byte, three numbers and an id.
const ENTRY_BYTES_MAX: usize = 1 + 3 * 10 + 16;

/// The places of a body's records, in their order.
///
/// An entry takes no more bytes than its record does in the body, apart from a record's id: `{},` takes three bytes
/// there and three here. So a body of the smallest records cannot take many times its own memory.
#[derive(Debug, Default)]
pub(super) struct Index {
    bytes: Vec<u8>,
    count: usize,
    /// Where the last record ends in the body.
    end: usize,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// From the opening brace up to the closing one, which is left out.
    pub fields: Range<usize>,
    /// Whether there is whitespace between its tokens.
    pub has_whitespace: bool,
    /// Whatever its tenant.
    pub id: Option<RecordId>,
    /// Which ending it gets.
    pub ending: usize,
}

/// An entry as it is stored.
struct Stored {
    entry: Entry,
    is_dropped: bool,
    /// Where the record ends in the body, whitespace included.
    end: usize,
    /// Where the record's length without whitespace is stored. Empty for a record that has none.
    shortened: Range<usize>,
    /// Where the next entry begins.
    next: usize,
}

impl Index {
    pub fn len(&self) -> usize {
        self.count
    }

    /// Adds a record that follows those that were added before. `room` is asked for further memory, in bytes, before
    /// it is taken.
    pub fn push(&mut self, entry: &Entry, room: &mut impl FnMut(usize)) {
        if self.bytes.capacity() - self.bytes.len() < ENTRY_BYTES_MAX {
            let step = self.bytes.capacity().clamp(INDEX_STEP_BYTES, INDEX_GROWTH_BYTES_MAX);
            room(step);
            self.bytes.reserve_exact(step);
        }
        let Entry { fields, has_whitespace, id, ending } = entry;
        let mut first = u8::try_from(*ending).expect("eight endings") & ENDING;
        first |= match id {
            Some(RecordId { is_guid: true, .. }) => HAS_ID | IS_GUID,
            Some(_) => HAS_ID,
            None => 0,
        };
        first |= if *has_whitespace { HAS_WHITESPACE } else { 0 };
        self.bytes.push(first);
        self.push_number(fields.start - self.end);
        self.push_number(fields.len());
        if *has_whitespace {
            self.push_number(fields.len()); // what remains without the whitespace is at most as long
        }
        if let Some(id) = id {
            self.bytes.extend_from_slice(&id.key.to_le_bytes());
        }
        self.end = fields.end;
        self.count += 1;
    }

    /// Seven bits a byte, the lowest first; the top bit is set in all but the last byte.
    fn push_number(&mut self, mut number: usize) {
        while number >= 0x80 {
            self.bytes.push(low_bits(number) | 0x80);
            number >>= 7;
        }
        self.bytes.push(low_bits(number));
    }

    fn number(&self, at: &mut usize) -> usize {
        let (mut number, mut shift) = (0, 0);
        loop {
            let byte = self.bytes[*at];
            *at += 1;
            number |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                return number;
            }
        }
    }

    /// The entry at this place; `end` is where the record before it ends in the body.
    fn stored(&self, place: usize, end: usize) -> Stored {
        let first = self.bytes[place];
        let mut at = place + 1;
        let start = end + self.number(&mut at);
        let length = self.number(&mut at);
        let has_whitespace = first & HAS_WHITESPACE != 0;
        let from = at;
        let remaining = if has_whitespace { self.number(&mut at) } else { length };
        let shortened = from..at;
        let id = (first & HAS_ID != 0).then(|| {
            let mut key = [0; 16];
            key.copy_from_slice(&self.bytes[at..at + 16]);
            at += 16;
            RecordId { key: u128::from_le_bytes(key), is_guid: first & IS_GUID != 0 }
        });
        let ending = usize::from(first & ENDING);
        Stored {
            entry: Entry { fields: start..start + remaining, has_whitespace, id, ending },
            is_dropped: first & IS_DROPPED != 0,
            end: start + length,
            shortened,
            next: at,
        }
    }

    /// Lets `shorten` drop the whitespace of each record that has some; it returns the length that remains.
    pub fn shorten(&mut self, mut shorten: impl FnMut(Range<usize>) -> usize) {
        let (mut place, mut end) = (0, 0);
        while place < self.bytes.len() {
            let stored = self.stored(place, end);
            if stored.entry.has_whitespace {
                let mut remaining = shorten(stored.entry.fields);
                let bytes = &mut self.bytes[stored.shortened];
                let (last, others) = bytes.split_last_mut().expect("a number takes a byte at least");
                for byte in others {
                    *byte = low_bits(remaining) | 0x80;
                    remaining >>= 7;
                }
                *last = low_bits(remaining);
            }
            (place, end) = (stored.next, stored.end);
        }
    }

    /// Drops the records that `keep` refuses; returns how many those were.
    pub fn retain(&mut self, mut keep: impl FnMut(&Entry) -> bool) -> usize {
        let before = self.count;
        let (mut place, mut end) = (0, 0);
        while place < self.bytes.len() {
            let stored = self.stored(place, end);
            if !stored.is_dropped && !keep(&stored.entry) {
                self.bytes[place] |= IS_DROPPED;
                self.count -= 1;
            }
            (place, end) = (stored.next, stored.end);
        }
        before - self.count
    }

    pub fn iter(&self) -> impl Iterator<Item = Entry> {
        let (mut place, mut end) = (0, 0);
        std::iter::from_fn(move || {
            while place < self.bytes.len() {
                let stored = self.stored(place, end);
                (place, end) = (stored.next, stored.end);
                if !stored.is_dropped {
                    return Some(stored.entry);
                }
            }
            None
        })
    }
}

fn low_bits(number: usize) -> u8 {
    u8::try_from(number & 0x7f).expect("seven bits")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entries() -> impl Strategy<Value = Vec<Entry>> {
        let size = prop_oneof![0..4_usize, 100..300_usize, Just(5_000_000_000_usize)];
        let entry = (size.clone(), size, any::<bool>(), any::<Option<(u128, bool)>>(), 0..8_usize);
        prop::collection::vec(entry, 0..20).prop_map(|entries| {
            let mut end = 0;
            let place = |(gap, length, has_whitespace, id, ending): (_, _, _, Option<(_, _)>, _)| {
                let start = end + gap;
                end = start + length;
                let id = id.map(|(key, is_guid)| RecordId { key, is_guid });
                Entry { fields: start..end, has_whitespace, id, ending }
            };
            entries.into_iter().map(place).collect()
        })
    }

    proptest! {
        #[test]
        fn what_is_pushed_comes_back_without_what_is_dropped(mut entries in entries()) {
            let mut index = Index::default();
            let mut asked = 0;
            for entry in &entries {
                index.push(entry, &mut |bytes| asked += bytes);
            }
            prop_assert!(index.bytes.capacity() <= asked);
            prop_assert_eq!(index.iter().collect::<Vec<_>>(), entries.clone());
            index.shorten(|fields| fields.len() / 2);
            for entry in entries.iter_mut().filter(|entry| entry.has_whitespace) {
                entry.fields.end = entry.fields.start + entry.fields.len() / 2;
            }
            prop_assert_eq!(index.iter().collect::<Vec<_>>(), entries.clone());
            let keep = |entry: &Entry| entry.ending != 3;
            let dropped = index.retain(keep);
            entries.retain(keep);
            prop_assert_eq!(index.len(), entries.len());
            prop_assert_eq!(index.iter().collect::<Vec<_>>(), entries);
            prop_assert_eq!(index.retain(|entry| entry.ending != 3), 0, "{} were dropped before", dropped);
        }
    }

    #[test]
    fn the_smallest_records_take_no_more_than_in_the_body() {
        let mut index = Index::default();
        for place in 0..100_000 {
            let start = 1 + 3 * place;
            let entry = Entry { fields: start..start + 1, has_whitespace: false, id: None, ending: 4 };
            index.push(&entry, &mut |_| ());
        }
        assert!(index.bytes.len() <= 300_000);
    }
}
