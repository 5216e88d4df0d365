//! Where the records of a blob are in its body, in a few bytes each.

use std::ops::Range;

use super::{
    RecordId,
    header::{HAS_FEED, HAS_TENANT, HEADER_FIELDS, Header, IS_EMPTY},
};

/// Memory for the places of a body's records is allocated in steps of at least this size, …
const STEP_BYTES: usize = 4 * 1024;

/// … doubling up to this size.
const STEP_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The flags of a header that are in the first byte of an entry; the others are in the second byte.
const FIRST_FLAGS: u8 = HAS_FEED | HAS_TENANT | IS_EMPTY;
/// The record has an identity, which is in the entry.
const HAS_ID: u8 = 1 << 3;
/// There is whitespace between the tokens of the record.
const HAS_WHITESPACE: u8 = 1 << 4;
/// The record was filtered out.
const IS_DROPPED: u8 = 1 << 5;
/// The identity is a GUID.
const IS_GUID: u8 = 1 << 6;
/// A second byte follows: the other flags of the header, and which of its fields the record has.
const HAS_SECOND: u8 = 1 << 7;

/// In the second byte, the position of the bit of the first header field. The lower bits are flags of the header.
const VALUES_SHIFT: usize = 2;
/// The number of flags of a header in the first byte.
const FIRST_FLAGS_COUNT: u32 = FIRST_FLAGS.count_ones();

/// The maximum length of an entry: two bytes of flags, an identity, three numbers, and two for each header field.
const ENTRY_BYTES_MAX: usize = 2 + 16 + 10 * (3 + 2 * HEADER_FIELDS);

/// The positions of the records of a body, in their order.
///
/// An entry takes no more bytes than its record in the body, apart from the identity: `{},` takes three bytes in both.
/// So the index of a body of the smallest records is not many times as large as the body.
#[derive(Debug, Default)]
pub(super) struct Index {
    bytes: Vec<u8>,
    count: usize,
    /// Where the last record ends in the body.
    end: usize,
}

/// A record of the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// From its opening brace up to its closing one, which is not included.
    pub fields: Range<usize>,
    /// The number of bytes of whitespace between its tokens.
    pub whitespace_bytes: usize,
    /// What the scan found out about it.
    pub header: Header,
}

/// An entry as it is stored.
struct Stored {
    entry: Entry,
    is_dropped: bool,
    /// Where the next entry begins.
    next: usize,
}

impl Index {
    /// Returns the number of records that were not dropped.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Adds a record that follows those that were added before. Calls `reserve` with the number of bytes before it
    /// allocates memory.
    pub fn push(&mut self, entry: &Entry, reserve: &mut impl FnMut(usize)) {
        if self.bytes.capacity() - self.bytes.len() < ENTRY_BYTES_MAX {
            let step = self.bytes.capacity().clamp(STEP_BYTES, STEP_BYTES_MAX);
            reserve(step);
            self.bytes.reserve_exact(step);
        }
        let Entry { fields, whitespace_bytes, header } = entry;
        let mut first = header.flags & FIRST_FLAGS;
        first |= match header.id {
            Some(RecordId { is_guid: true, .. }) => HAS_ID | IS_GUID,
            Some(_) => HAS_ID,
            None => 0,
        };
        first |= if *whitespace_bytes > 0 { HAS_WHITESPACE } else { 0 };
        let mut second = header.flags >> FIRST_FLAGS_COUNT;
        for (place, value) in header.values.iter().enumerate() {
            second |= u8::from(!value.is_empty()) << (VALUES_SHIFT + place);
        }
        if second == 0 {
            self.bytes.push(first);
        } else {
            self.bytes.extend([first | HAS_SECOND, second]);
        }
        self.push_number(fields.start - self.end);
        self.push_number(fields.len());
        if *whitespace_bytes > 0 {
            self.push_number(*whitespace_bytes);
        }
        if let Some(id) = header.id {
            self.bytes.extend_from_slice(&id.key.to_le_bytes());
        }
        for value in header.values.iter().filter(|value| !value.is_empty()) {
            self.push_number(value.start);
            self.push_number(value.len());
        }
        self.end = fields.end;
        self.count += 1;
    }

    /// Appends seven bits per byte, the lowest first; the top bit is set in all but the last byte.
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

    /// Reads the entry at this position; `end` is where the record before it ends in the body.
    fn stored(&self, place: usize, end: usize) -> Stored {
        let first = self.bytes[place];
        let mut at = place + 1;
        let second = if first & HAS_SECOND == 0 {
            0
        } else {
            at += 1;
            self.bytes[place + 1]
        };
        let start = end + self.number(&mut at);
        let length = self.number(&mut at);
        let whitespace_bytes = if first & HAS_WHITESPACE == 0 { 0 } else { self.number(&mut at) };
        let id = (first & HAS_ID != 0).then(|| {
            let mut key = [0; 16];
            key.copy_from_slice(&self.bytes[at..at + 16]);
            at += 16;
            RecordId { key: u128::from_le_bytes(key), is_guid: first & IS_GUID != 0 }
        });
        let values = std::array::from_fn(|place| {
            if second & 1 << (VALUES_SHIFT + place) == 0 {
                return 0..0;
            }
            let start = self.number(&mut at);
            start..start + self.number(&mut at)
        });
        let flags = first & FIRST_FLAGS | (second & ((1 << VALUES_SHIFT) - 1)) << FIRST_FLAGS_COUNT;
        Stored {
            entry: Entry {
                fields: start..start + length,
                whitespace_bytes,
                header: Header { id, values, flags },
            },
            is_dropped: first & IS_DROPPED != 0,
            next: at,
        }
    }

    /// Drops the records for which `keep` returns `false`; returns their number.
    pub fn retain(&mut self, mut keep: impl FnMut(Entry) -> bool) -> usize {
        let before = self.count;
        let (mut place, mut end) = (0, 0);
        while place < self.bytes.len() {
            let Stored { entry, is_dropped, next } = self.stored(place, end);
            end = entry.fields.end;
            if !is_dropped && !keep(entry) {
                self.bytes[place] |= IS_DROPPED;
                self.count -= 1;
            }
            place = next;
        }
        before - self.count
    }

    /// Returns the records that were not dropped.
    pub fn iter(&self) -> impl Iterator<Item = Entry> {
        let (mut place, mut end) = (0, 0);
        std::iter::from_fn(move || {
            while place < self.bytes.len() {
                let Stored { entry, is_dropped, next } = self.stored(place, end);
                (place, end) = (next, entry.fields.end);
                if !is_dropped {
                    return Some(entry);
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
        let value = (size.clone(), size.clone())
            .prop_map(|(start, length)| if length == 0 { 0..0 } else { start..start + length });
        let header = (any::<Option<(u128, bool)>>(), prop::array::uniform4(value), 0..32_u8).prop_map(
            |(id, values, flags)| {
                let id = id.map(|(key, is_guid)| RecordId { key, is_guid });
                Header { id, values, flags }
            },
        );
        prop::collection::vec((size.clone(), size.clone(), size, header), 0..20).prop_map(|entries| {
            let mut end = 0;
            let place = |(gap, length, whitespace_bytes, header)| {
                let start = end + gap;
                end = start + length;
                Entry { fields: start..end, whitespace_bytes, header }
            };
            entries.into_iter().map(place).collect()
        })
    }

    proptest! {
        #![proptest_config(crate::proptest_config())]

        #[test]
        fn round_trips_entries_that_were_kept(mut entries in entries()) {
            let mut index = Index::default();
            let mut reserved = 0;
            for entry in &entries {
                index.push(entry, &mut |bytes| reserved += bytes);
            }
            prop_assert!(index.bytes.capacity() <= reserved);
            prop_assert_eq!(index.iter().collect::<Vec<_>>(), entries.clone());
            let keep = |entry: &Entry| entry.header.flags != 3;
            let dropped = index.retain(|entry| keep(&entry));
            entries.retain(keep);
            prop_assert_eq!(index.len(), entries.len());
            prop_assert_eq!(index.iter().collect::<Vec<_>>(), entries);
            prop_assert_eq!(index.retain(|entry| keep(&entry)), 0, "{} were dropped before", dropped);
        }
    }

    #[test]
    fn smallest_records_need_no_more_memory_than_the_body() {
        let mut index = Index::default();
        for place in 0..100_000 {
            let start = 1 + 3 * place;
            let header = Header { flags: IS_EMPTY, ..Header::default() };
            index.push(&Entry { fields: start..start + 1, whitespace_bytes: 0, header }, &mut |_| ());
        }
        assert!(index.bytes.len() <= 300_000);
    }

    #[test]
    fn header_fields_need_no_more_memory_than_the_body() {
        let record =
            r#"{"Id":1,"CreationTime":0,"Workload":0,"Operation":0,"@timestamp":0,"TimeGenerated":0}"#;
        for padding in [0, 100, 20_000] {
            let record = format!(r#"{{"x":"{}",{}"#, " ".repeat(padding), &record[1..]);
            let mut index = Index::default();
            let header = Header::read(&mut crate::json::Scanner::new(&record)).expect("an object");
            let entry = Entry { fields: 0..record.len() - 1, whitespace_bytes: 0, header };
            index.push(&entry, &mut |_| ());
            assert!(index.bytes.len() <= record.len() - padding + 16, "{}", index.bytes.len());
            assert_eq!(index.iter().collect::<Vec<_>>(), [entry]);
        }
    }
}
