//! The header of a record: the few fields that the program or an output has to know. The scan that splits a body finds
//! them; nothing else looks for them.

use std::ops::Range;

use super::RecordId;
use crate::json::{Scanner, SyntaxError};

/// A field whose value outputs use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderField {
    /// `Id`
    Id,
    /// `CreationTime`
    CreationTime,
    /// `Workload`
    Workload,
    /// `Operation`
    Operation,
}

/// A field for the time of a record that a receiver requires, so that an output adds it to a record without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeField {
    /// `@timestamp`
    Timestamp,
    /// `TimeGenerated`
    TimeGenerated,
}

impl TimeField {
    /// Returns the name of the field.
    pub fn name(self) -> &'static str {
        match self {
            Self::Timestamp => "@timestamp",
            Self::TimeGenerated => "TimeGenerated",
        }
    }
}

/// The number of [`HeaderField`]s.
pub(super) const HEADER_FIELDS: usize = 4;

/// The record has a field `OriginFeed`.
pub(super) const HAS_FEED: u8 = 1;
/// The record has a field `TenantName`.
pub(super) const HAS_TENANT: u8 = 1 << 1;
/// The record is `{}`: no comma precedes a field that is added.
pub(super) const IS_EMPTY: u8 = 1 << 2;
/// The record has a field `@timestamp`.
const HAS_TIMESTAMP: u8 = 1 << 3;
/// The record has a field `TimeGenerated`.
const HAS_TIME_GENERATED: u8 = 1 << 4;

/// What the scan of a body finds out about a record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    /// The identity that its `Id` represents, in no tenant.
    pub id: Option<RecordId>,
    /// Where the value of each [`HeaderField`] is in the record's line; an empty range if the record lacks it. Of a field
    /// that occurs twice, the last value counts.
    pub values: [Range<usize>; HEADER_FIELDS],
    /// The bits above that apply.
    pub flags: u8,
}

impl Header {
    /// Returns whether the record has a field for its time.
    pub fn has(&self, field: TimeField) -> bool {
        let flag = match field {
            TimeField::Timestamp => HAS_TIMESTAMP,
            TimeField::TimeGenerated => HAS_TIME_GENERATED,
        };
        self.flags & flag != 0
    }

    /// Returns whether the object has the fields that distinguish a record from an object in a record.
    ///
    /// Source: "Office 365 Management Activity API schema", common schema: `Id` and `CreationTime` are mandatory.
    pub fn is_of_record(&self) -> bool {
        self.id.is_some() && !self.values[HeaderField::CreationTime as usize].is_empty()
    }

    /// Reads an object from its opening brace to its closing one. Afterwards `scanner.whitespace_bytes` is the number of
    /// bytes of whitespace in the object.
    pub fn read(scanner: &mut Scanner<'_>) -> Result<Self, SyntaxError> {
        let mut header = Self::default();
        scanner.whitespace_bytes = 0;
        let start = scanner.at();
        scanner.expect(b'{')?;
        if scanner.skip(b'}') {
            header.flags = IS_EMPTY;
            return Ok(header);
        }
        loop {
            let name = scanner.name()?;
            let value = scanner.value()?;
            let field = match &*name.text() {
                b"Id" => {
                    header.id = RecordId::of_value(value);
                    Some(HeaderField::Id)
                }
                b"CreationTime" => Some(HeaderField::CreationTime),
                b"Workload" => Some(HeaderField::Workload),
                b"Operation" => Some(HeaderField::Operation),
                b"OriginFeed" => header.note(HAS_FEED),
                b"TenantName" => header.note(HAS_TENANT),
                b"@timestamp" => header.note(HAS_TIMESTAMP),
                b"TimeGenerated" => header.note(HAS_TIME_GENERATED),
                _ => None,
            };
            if let Some(field) = field {
                let end = scanner.at() - start - scanner.whitespace_bytes;
                let whitespace =
                    if scanner.whitespace_bytes == 0 { 0 } else { whitespace_between_tokens(value) };
                header.values[field as usize] = end + whitespace - value.len()..end;
            }
            if !scanner.skip(b',') {
                scanner.expect(b'}')?;
                return Ok(header);
            }
        }
    }

    fn note(&mut self, flag: u8) -> Option<HeaderField> {
        self.flags |= flag;
        None
    }
}

/// Returns the number of bytes of whitespace between the tokens of a valid JSON text.
fn whitespace_between_tokens(json: &[u8]) -> usize {
    tokens(json).fold(json.len(), |rest, tokens| rest - tokens.len())
}

/// Returns the pieces of a valid JSON text between which there is whitespace.
pub(super) fn tokens(json: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let is_whitespace = |byte: &u8| matches!(byte, b' ' | b'\n' | b'\r' | b'\t');
        let start = at + json[at..].iter().position(|byte| !is_whitespace(byte))?;
        let (mut in_string, mut escaped) = (false, false);
        let length = json[start..].iter().position(|byte| {
            if in_string {
                in_string = escaped || *byte != b'"';
                escaped = !escaped && *byte == b'\\';
                return false;
            }
            in_string = *byte == b'"';
            is_whitespace(byte)
        });
        at = length.map_or(json.len(), |length| start + length);
        Some(start..at)
    })
}
