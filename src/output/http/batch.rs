//! Records on their way: those of one request.

use std::{io::Write, mem};

use flate2::{Compression, write::GzEncoder};

use crate::output::BlobRecord;

/// What stands around and between the records of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Before the first record.
    pub open: &'static str,
    /// Behind each record but the last; all of it ends lines, or none.
    pub between: &'static str,
    /// Behind the last record.
    pub close: &'static str,
}

/// Records as a format writes them, one after the other, each of which can be separated again.
#[derive(Debug, Default)]
pub struct Batch {
    /// Each record followed by what its frame has between two of them.
    text: String,
    items: Vec<Item>,
}

/// Where a record ends, and which one it is.
#[derive(Clone, Copy, Debug)]
struct Item {
    /// In the batch's bytes, what follows the record included.
    end: usize,
    record: BlobRecord,
    /// The length of the record's own text, without what the format has added.
    record_bytes: usize,
}

/// A record of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Which record it is.
    pub record: BlobRecord,
    /// As the format wrote it.
    pub text: &'a str,
    /// The length of the record's own text, without what the format has added.
    pub record_bytes: usize,
}

impl Batch {
    /// How many records are in it.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// How many bytes they take.
    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    /// Returns the records one after the other.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Adds a record, as the format writes it.
    pub fn push(&mut self, entry: Entry<'_>, frame: Frame) {
        let Entry { record, text, record_bytes } = entry;
        self.text.extend([text, frame.between]);
        self.items.push(Item { end: self.text.len(), record, record_bytes });
    }

    /// The keys of its records' Ids, as far as they have any.
    pub fn ids(&self) -> impl Iterator<Item = u128> {
        self.items.iter().filter_map(|item| Some(item.record.id?.key()))
    }

    /// Each record.
    pub fn entries(&self, frame: Frame) -> impl Iterator<Item = Entry<'_>> {
        let mut start = 0;
        self.items.iter().map(move |&Item { end, record, record_bytes }| {
            let text = mem::replace(&mut start, end)..end - frame.between.len();
            Entry { record, text: &self.text[text], record_bytes }
        })
    }

    /// Its first and its second half; or itself, if it is a single record.
    pub fn halves(self) -> Result<(Self, Self), Self> {
        match self.len() / 2 {
            0 => Err(self),
            count => Ok(self.split_at(count)),
        }
    }

    /// Its first records, this many, and the others.
    pub fn split_at(mut self, count: usize) -> (Self, Self) {
        let middle = count.checked_sub(1).map_or(0, |last| self.items[last].end);
        let text = self.text.split_off(middle);
        let mut items = self.items.split_off(count);
        for item in &mut items {
            item.end -= middle;
        }
        (self, Self { text, items })
    }

    /// The body of a request.
    pub fn body(&self, frame: Frame, gzip: bool) -> Vec<u8> {
        let last = if frame.close.is_empty() || self.is_empty() { 0 } else { frame.between.len() };
        let text = &self.text[..self.text.len() - last];
        let parts = [frame.open, text, frame.close].map(str::as_bytes);
        if gzip { compressed(&parts) } else { parts.concat() }
    }
}

/// These parts as one gzip stream.
pub fn compressed(parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut encoder = GzEncoder::new(Vec::with_capacity(length / 8), Compression::fast());
    let written = parts.iter().try_for_each(|part| encoder.write_all(part));
    written.and_then(|()| encoder.finish()).expect("memory takes what is written to it")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARRAY: Frame = Frame { open: "[", between: ",", close: "]" };
    const LINES: Frame = Frame { open: "", between: "\n", close: "" };

    fn entry(line: &str) -> Entry<'_> {
        let record = BlobRecord { blob: 7, id: Some(crate::records::RecordId::for_test(line.len() as u128)) };
        Entry { record, text: line, record_bytes: line.len() }
    }

    fn batch(records: &[&str], frame: Frame) -> Batch {
        let mut batch = Batch::default();
        for record in records {
            batch.push(entry(record), frame);
        }
        batch
    }

    #[test]
    fn a_body_has_what_its_frame_says() {
        let text = |batch: &Batch, frame| String::from_utf8(batch.body(frame, false)).expect("UTF-8");
        assert_eq!(text(&batch(&["{}", "{\"a\":1}"], ARRAY), ARRAY), "[{},{\"a\":1}]");
        assert_eq!(text(&batch(&["{}", "{\"a\":1}"], LINES), LINES), "{}\n{\"a\":1}\n");
    }

    #[test]
    fn halves_have_every_record_once_and_in_order() {
        for frame in [ARRAY, LINES] {
            let records = ["1", "22", "333", "4444", "55555"];
            let (first, second) = batch(&records, frame).halves().expect("five records");
            let all: Vec<_> = first.entries(frame).chain(second.entries(frame)).collect();
            assert_eq!(all, records.map(entry));
            assert_eq!(second.ids().collect::<Vec<_>>(), [3, 4, 5]);
            assert_eq!((first.len(), second.len()), (2, 3));
            assert_eq!(batch(&["1"], frame).halves().expect_err("one record").len(), 1);
            let (none, all) = batch(&records, frame).split_at(0);
            assert_eq!((none.len(), none.bytes(), all.len()), (0, 0, 5));
            let (all, none) = batch(&records, frame).split_at(5);
            assert_eq!((all.len(), none.len(), none.bytes()), (5, 0, 0));
        }
    }
}
