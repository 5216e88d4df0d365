//! Records as outputs get them: rendered lines in one text, and the header of each.

use std::ops::Range;

use jiff::Timestamp;

use super::{HeaderField, ParsedRecord, RecordId, TimeField, header::Header};
use crate::{
    json,
    limits::{FREE_BUFFER_BYTES_MAX, OUTPUT_BUFFER_BYTES},
    time,
};

/// The size of the groups in which records are rendered: as much as is written to a file at once, and little enough to
/// stay in a processor's cache.
const RENDERED_BYTES: usize = OUTPUT_BUFFER_BYTES;

/// The maximum number of records that are rendered at once. Each takes about 150 bytes besides its text.
const RENDERED_RECORDS_MAX: usize = 4_096;

/// The lines of some records of one blob, in one text.
#[derive(Clone, Debug, Default)]
pub struct RecordBatch {
    text: String,
    records: Vec<RecordRef>,
}

/// Where a record is in the text of its batch, and its header.
#[derive(Clone, Debug)]
struct RecordRef {
    /// Without the line break.
    line: Range<usize>,
    id: Option<RecordId>,
    header: Header,
}

/// A record of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    line: &'a str,
    record: &'a RecordRef,
}

impl RecordBatch {
    /// Renders a record at the end of the batch.
    pub fn push(&mut self, record: &ParsedRecord<'_>) {
        let start = self.text.len();
        record.render(&mut self.text);
        let line = start..self.text.len() - 1;
        self.records.push(RecordRef { line, id: record.id, header: record.entry.header.clone() });
    }

    /// Removes the records. Keeps the memory for others unless one of them was large.
    pub fn clear(&mut self) {
        self.text.clear();
        self.text.shrink_to(FREE_BUFFER_BYTES_MAX);
        self.records.clear();
    }

    /// Returns whether the batch is large enough to be written.
    pub fn is_full(&self) -> bool {
        self.text.len() >= RENDERED_BYTES || self.records.len() >= RENDERED_RECORDS_MAX
    }

    /// Returns the records of which `keep` returns `true` for their position.
    #[must_use]
    pub fn filtered(&self, mut keep: impl FnMut(usize) -> bool) -> Self {
        let mut filtered = Self::default();
        for (place, RecordRef { line, id, header }) in self.records.iter().enumerate() {
            if keep(place) {
                let start = filtered.text.len();
                filtered.text.push_str(&self.text[line.start..=line.end]);
                let line = start..filtered.text.len() - 1;
                filtered.records.push(RecordRef { line, id: *id, header: header.clone() });
            }
        }
        filtered
    }

    /// Returns the number of records.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Returns whether there are no records.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Returns the lines of all records, each with its line break.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the records in their order.
    pub fn iter(&self) -> impl Iterator<Item = Record<'_>> {
        self.records.iter().map(|record| Record { line: &self.text[record.line.clone()], record })
    }
}

impl<'a> FromIterator<ParsedRecord<'a>> for RecordBatch {
    fn from_iter<Records: IntoIterator<Item = ParsedRecord<'a>>>(records: Records) -> Self {
        let mut batch = Self::default();
        records.into_iter().for_each(|record| batch.push(&record));
        batch
    }
}

impl<'a> Record<'a> {
    /// Returns the record as one line of JSON, without a line break.
    pub fn line(self) -> &'a str {
        self.line
    }

    /// Returns the identity of the record, if its `Id` is usable as one.
    pub fn id(self) -> Option<RecordId> {
        self.record.id
    }

    /// Returns the JSON text of a field, if the record has it.
    pub fn value(self, field: HeaderField) -> Option<&'a str> {
        let value = &self.line[self.record.header.values[field as usize].clone()];
        (!value.is_empty()).then_some(value)
    }

    /// Returns its `CreationTime`, if that can be read.
    pub fn creation_time(self) -> Option<Timestamp> {
        time::parse(&json::text_of(self.value(HeaderField::CreationTime)?))
    }

    /// Returns whether the record has a field for its time.
    pub fn has(self, field: TimeField) -> bool {
        self.record.header.has(field)
    }
}
