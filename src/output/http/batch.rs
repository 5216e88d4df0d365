//! Records on their way: so many as one request carries.

use std::{io::Write, mem};

use flate2::{Compression, write::GzEncoder};

use crate::output::Mark;

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

/// Records as a format writes them, one behind the other, each of which can be taken out again.
#[derive(Debug, Default)]
pub struct Batch {
    /// Each record followed by what its frame has between two of them.
    bytes: Vec<u8>,
    /// Where each record ends in `bytes`, what follows it included.
    ends: Vec<usize>,
    /// Which record each of them is.
    marks: Vec<Mark>,
}

impl Batch {
    /// How many records are in it.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// How many bytes they take.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// They themselves, one behind the other.
    pub fn text(&self) -> &[u8] {
        &self.bytes
    }

    /// Adds a record, as the format writes it.
    pub fn push(&mut self, mark: Mark, record: &[u8], frame: Frame) {
        self.bytes.extend_from_slice(record);
        self.bytes.extend_from_slice(frame.between.as_bytes());
        self.ends.push(self.bytes.len());
        self.marks.push(mark);
    }

    /// The keys of its records' Ids, as far as they have any.
    pub fn ids(&self) -> impl Iterator<Item = u128> {
        self.marks.iter().filter_map(|mark| Some(mark.id?.key()))
    }

    /// Which records are in it.
    pub fn into_marks(self) -> Vec<Mark> {
        self.marks
    }

    /// Each record's mark, and the record as the format wrote it.
    pub fn records(&self, frame: Frame) -> impl Iterator<Item = (Mark, &[u8])> {
        let mut start = 0;
        self.marks.iter().zip(&self.ends).map(move |(&mark, &end)| {
            let record = mem::replace(&mut start, end)..end - frame.between.len();
            (mark, &self.bytes[record])
        })
    }

    /// Its first and its second half; or itself, if it is a single record, which nobody can halve.
    pub fn halves(mut self) -> Result<(Self, Self), Self> {
        let count = self.len() / 2;
        if count == 0 {
            return Err(self);
        }
        let middle = self.ends[count - 1];
        let bytes = self.bytes.split_off(middle);
        let ends = self.ends.split_off(count).into_iter().map(|end| end - middle).collect();
        let marks = self.marks.split_off(count);
        Ok((self, Self { bytes, ends, marks }))
    }

    /// The body of a request.
    pub fn body(&self, frame: Frame, gzip: bool) -> Vec<u8> {
        let last = if frame.close.is_empty() { 0 } else { frame.between.len() };
        let parts = [frame.open.as_bytes(), &self.bytes[..self.bytes.len() - last], frame.close.as_bytes()];
        if !gzip {
            return parts.concat();
        }
        let mut encoder = GzEncoder::new(Vec::with_capacity(self.bytes.len() / 8), Compression::fast());
        let written = parts.iter().try_for_each(|part| encoder.write_all(part));
        written.and_then(|()| encoder.finish()).expect("memory takes what is written to it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARRAY: Frame = Frame { open: "[", between: ",", close: "]" };
    const LINES: Frame = Frame { open: "", between: "\n", close: "" };

    fn mark(record: &str) -> Mark {
        Mark { blob: 7, id: Some(crate::records::RecordId::of_a_test(record.len() as u128)) }
    }

    fn batch(records: &[&str], frame: Frame) -> Batch {
        let mut batch = Batch::default();
        for record in records {
            batch.push(mark(record), record.as_bytes(), frame);
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
            let all: Vec<_> = first.records(frame).chain(second.records(frame)).collect();
            assert_eq!(all, records.map(|record| (mark(record), record.as_bytes())));
            assert_eq!(second.ids().collect::<Vec<_>>(), [3, 4, 5]);
            assert_eq!((first.len(), second.len()), (2, 3));
            assert_eq!(batch(&["1"], frame).halves().expect_err("one record").len(), 1);
        }
    }
}
