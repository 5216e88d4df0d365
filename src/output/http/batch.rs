//! The records of one request.

use std::mem;

use crate::output::{BlobRecord, compressed};

/// What is around and between the records of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framing {
    /// Before the first record.
    pub open: &'static str,
    /// After each record except for the last; if it is a line break, also after the last.
    pub between: &'static str,
    /// After the last record.
    pub close: &'static str,
}

/// Records as a format writes them, one after the other. Each can be separated again.
#[derive(Debug, Default)]
pub struct HttpBatch {
    /// Each record, followed by the text between two records.
    text: String,
    items: Vec<BatchItem>,
}

/// A record of a batch, and where it ends.
#[derive(Clone, Copy, Debug)]
struct BatchItem {
    /// In the text of the batch, after the text between two records.
    end: usize,
    record: BlobRecord,
    line_bytes: usize,
}

/// A record of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchRecord<'a> {
    /// Which record it is.
    pub record: BlobRecord,
    /// The record as the format wrote it.
    pub text: &'a str,
    /// The length of its line, without what the format has added.
    pub line_bytes: usize,
}

impl HttpBatch {
    /// Returns the number of records.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Returns whether there are no records.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Returns the length of the records in bytes.
    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    /// Returns the records, one after the other.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Adds a record.
    pub fn push(&mut self, record: BatchRecord<'_>, framing: Framing) {
        let BatchRecord { record, text, line_bytes } = record;
        self.push_with(record, line_bytes, framing, |to| to.push_str(text));
    }

    /// Adds a record whose text `write` appends.
    pub fn push_with(
        &mut self,
        record: BlobRecord,
        line_bytes: usize,
        framing: Framing,
        write: impl FnOnce(&mut String),
    ) {
        write(&mut self.text);
        self.text.push_str(framing.between);
        self.items.push(BatchItem { end: self.text.len(), record, line_bytes });
    }

    /// Returns the identities of the records that have one.
    pub fn ids(&self) -> impl Iterator<Item = u128> {
        self.items.iter().filter_map(|item| Some(item.record.id?.key()))
    }

    /// Returns the records in their order.
    pub fn records(&self, framing: Framing) -> impl Iterator<Item = BatchRecord<'_>> {
        let mut start = 0;
        self.items.iter().map(move |&BatchItem { end, record, line_bytes }| {
            let text = mem::replace(&mut start, end)..end - framing.between.len();
            BatchRecord { record, text: &self.text[text], line_bytes }
        })
    }

    /// Returns both halves. A batch of a single record is returned as an error.
    pub fn halves(self) -> Result<(Self, Self), Self> {
        match self.len() / 2 {
            0 => Err(self),
            count => Ok(self.split_at(count)),
        }
    }

    /// Returns this number of records from the start, and the others.
    pub fn split_at(mut self, count: usize) -> (Self, Self) {
        let middle = count.checked_sub(1).map_or(0, |last| self.items[last].end);
        let text = self.text.split_off(middle);
        let mut items = self.items.split_off(count);
        for item in &mut items {
            item.end -= middle;
        }
        (self, Self { text, items })
    }

    /// Returns the body of a request.
    pub fn body(&self, framing: Framing, gzip: bool) -> Vec<u8> {
        let last = if framing.close.is_empty() || self.is_empty() { 0 } else { framing.between.len() };
        let text = &self.text[..self.text.len() - last];
        let parts = [framing.open, text, framing.close].map(str::as_bytes);
        if gzip { compressed(&parts) } else { parts.concat() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::RecordId;

    const ARRAY: Framing = Framing { open: "[", between: ",", close: "]" };
    const LINES: Framing = Framing { open: "", between: "\n", close: "" };

    fn record(line: &str) -> BatchRecord<'_> {
        let record = BlobRecord { blob: 7, id: Some(RecordId::for_test(line.len() as u128)) };
        BatchRecord { record, text: line, line_bytes: line.len() }
    }

    fn batch(records: &[&str], framing: Framing) -> HttpBatch {
        let mut batch = HttpBatch::default();
        for line in records {
            batch.push(record(line), framing);
        }
        batch
    }

    #[test]
    fn body_has_its_framing() {
        let text = |batch: &HttpBatch, framing| String::from_utf8(batch.body(framing, false)).expect("UTF-8");
        assert_eq!(text(&batch(&["{}", "{\"a\":1}"], ARRAY), ARRAY), "[{},{\"a\":1}]");
        assert_eq!(text(&batch(&["{}", "{\"a\":1}"], LINES), LINES), "{}\n{\"a\":1}\n");
    }

    #[test]
    fn splits_a_batch_into_halves_in_order() {
        for framing in [ARRAY, LINES] {
            let records = ["1", "22", "333", "4444", "55555"];
            let (first, second) = batch(&records, framing).halves().expect("five records");
            let all: Vec<_> = first.records(framing).chain(second.records(framing)).collect();
            assert_eq!(all, records.map(record));
            assert_eq!(second.ids().collect::<Vec<_>>(), [3, 4, 5]);
            assert_eq!((first.len(), second.len()), (2, 3));
            assert_eq!(batch(&["1"], framing).halves().expect_err("one record").len(), 1);
            let (none, all) = batch(&records, framing).split_at(0);
            assert_eq!((none.len(), none.bytes(), all.len()), (0, 0, 5));
            let (all, none) = batch(&records, framing).split_at(5);
            assert_eq!((all.len(), none.len(), none.bytes()), (5, 0, 0));
        }
    }
}
