//! Records as rows of CSV, and the identity of a row.
//!
//! A file begins with a header that names its columns, and rows are only appended, so that a follower sees each row once and
//! never another header. So the columns are decided when the file begins: the fields that all records have in common, and
//! those of the first batch. **A field without a column is not lost:** the last column, [`REST`], contains all such fields
//! of a row as a JSON object. A new file, after a rotation, has new columns.
//!
//! - A string is written as its decoded text; numbers, `true`, `false`, objects and arrays as their JSON text; `null` like a
//!   missing field, as an empty cell.
//! - A row is one line: control characters in a text stay escaped as in JSON (`\n`).
//! - A cell is quoted, according to RFC 4180, if it contains the separator or a quote. Lines end in `\n`.
//! - Of a field that occurs twice, the last value is in the column, as most JSON parsers read it, and the others are in the
//!   last column.
//!
//! An interrupted pass leaves rows whose records will come again. Such a row is identified by its `Id`, or else by its
//! fields, whichever columns they are in ([`key_of`], [`Columns::key_of_row`]).

use std::{
    borrow::Cow,
    collections::HashMap,
    fmt::Write as _,
    fs::File,
    io::{self, BufRead, BufReader, Read as _, Seek, SeekFrom},
    path::Path,
};

use xxhash_rust::xxh3::xxh3_128;

use crate::{
    json,
    records::{Fingerprint, LineIdentity},
};

/// The maximum number of columns of a file. Each costs a byte in each row, and records can have fields that no other
/// one has.
const COLUMNS_MAX: usize = 1_000;

/// The longest name of a column. A field with a longer one gets no column of its own.
const NAME_BYTES_MAX: usize = 255;

/// The longest header of a file.
const HEADER_BYTES_MAX: usize = 1024 * 1024;

const _: () = assert!(
    (COLUMNS_MAX + 1) * (2 * NAME_BYTES_MAX + 6) < HEADER_BYTES_MAX,
    "every quote of a name is doubled, and a name has quotes and a separator around it"
);

/// The first columns of every file.
///
/// Source: "Office 365 Management Activity API schema", section "Common schema".
const COMMON: [&str; 13] = [
    "Id",
    "RecordType",
    "CreationTime",
    "Operation",
    "OrganizationId",
    "UserType",
    "UserKey",
    "Workload",
    "ResultStatus",
    "ObjectId",
    "UserId",
    "ClientIP",
    "Scope",
];

/// The last column of every file: the fields without a column.
pub const REST: &str = "MoreFields";

/// Returns whether a file of this name contains CSV.
pub fn is_csv(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv"))
}

/// The columns of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
    separator: char,
    /// All but the last one, [`REST`].
    names: Vec<String>,
    places: HashMap<String, usize>,
}

impl Columns {
    /// Returns the columns that every file has.
    pub fn common(separator: char) -> Self {
        let mut columns = Self { separator, names: Vec::new(), places: HashMap::new() };
        for name in COMMON {
            columns.add(name);
        }
        columns
    }

    /// Adds columns for the fields of a record, within the bounds of a header.
    pub fn unite(&mut self, record: &str) {
        json::each_field(record, |name, _| {
            let name = on_one_line(name);
            if self.names.len() < COLUMNS_MAX && name.len() <= NAME_BYTES_MAX {
                self.add(&name);
            }
        });
    }

    fn add(&mut self, name: &str) {
        if name != REST && !self.places.contains_key(name) {
            self.places.insert(name.to_owned(), self.names.len());
            self.names.push(name.to_owned());
        }
    }

    /// Reads the header of a file. Returns it with its length in bytes; `None` if it is not a whole header of this program.
    pub fn read(file: &mut File) -> io::Result<Option<(Self, u64)>> {
        file.seek(SeekFrom::Start(0))?;
        let mut line = Vec::new();
        let length = BufReader::new(file.take(HEADER_BYTES_MAX as u64)).read_until(b'\n', &mut line)?;
        let header = line.strip_suffix(b"\n").and_then(|line| std::str::from_utf8(line).ok());
        Ok(header.and_then(Self::of_header).map(|columns| (columns, length as u64)))
    }

    /// Parses a header, given without its line break; `None` if it is not a header of this program.
    pub fn of_header(header: &str) -> Option<Self> {
        let first = COMMON[0];
        let after = header.strip_prefix(first).or_else(|| header.strip_prefix(&format!("\"{first}\"")))?;
        let separator = after.chars().next()?;
        let mut columns = Self { separator, names: Vec::new(), places: HashMap::new() };
        let cells = columns.cells(header);
        let (last, names) = cells.split_last()?;
        for name in names {
            columns.add(name);
        }
        (last == REST && columns.names.len() == names.len()).then_some(columns)
    }

    /// Appends the line of the header.
    pub fn append_header(&self, to: &mut Vec<u8>) {
        for name in &self.names {
            self.append_cell(name, to);
            self.append_separator(to);
        }
        self.append_cell(REST, to);
        to.push(b'\n');
    }

    /// Appends the row of a record, given as a line of JSON.
    pub fn append_row(&self, record: &str, to: &mut Vec<u8>) {
        let mut values = vec![None; self.names.len()];
        let mut rest = String::new();
        let mut add_to_rest = |name: &str, value: &str| {
            let separator = if rest.is_empty() { '{' } else { ',' };
            let _ = write!(rest, "{separator}{}:{value}", serde_json::Value::from(name));
        };
        json::each_field(record, |name, value| match self.places.get(&*on_one_line(name.clone())) {
            None => add_to_rest(&name, value),
            Some(&place) => {
                if let Some(earlier) = values[place].replace(value) {
                    add_to_rest(&name, earlier);
                }
            }
        });
        for value in values {
            if let Some(value) = value {
                self.append_cell(&cell_text(value), to);
            }
            self.append_separator(to);
        }
        if !rest.is_empty() {
            rest.push('}');
            self.append_cell(&rest, to);
        }
        to.push(b'\n');
    }

    fn append_separator(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(self.separator.encode_utf8(&mut [0; 4]).as_bytes());
    }

    fn append_cell(&self, text: &str, to: &mut Vec<u8>) {
        if text.contains([self.separator, '"']) {
            to.push(b'"');
            to.extend_from_slice(text.replace('"', "\"\"").as_bytes());
            to.push(b'"');
        } else {
            to.extend_from_slice(text.as_bytes());
        }
    }

    /// Returns whether this line is a whole row: after a power loss a line can consist of zero bytes, or of parts of two rows.
    pub fn is_whole_row(&self, row: &str) -> bool {
        !row.contains(|character: char| character < ' ') && self.cells(row).len() == self.names.len() + 1
    }

    /// Returns the [`key_of`] the record in a row, given without its line break.
    pub fn key_of_row(&self, row: &str) -> u128 {
        self.fields_of_row(row).finish()
    }

    /// Returns the [`fingerprint_of`] the record in a row, given without its line break.
    pub fn fingerprint_of_row(&self, row: &str) -> Fingerprint {
        self.fields_of_row(row).fingerprint()
    }

    fn fields_of_row(&self, row: &str) -> Key {
        let cells = self.cells(row);
        let mut key = Key::default();
        for (name, cell) in self.names.iter().zip(&cells) {
            key.add(name, cell);
        }
        if let Some(rest) = cells.get(self.names.len()) {
            json::each_field(rest, |name, value| {
                let (name, text) = (on_one_line(name), cell_text(value));
                if !self.places.contains_key(&*name) {
                    key.identity.add(&name, &text);
                }
                key.add_to_content(&name, &text);
            });
        }
        key
    }

    /// Returns the cells of a row, without their quotes.
    fn cells<'a>(&self, row: &'a str) -> Vec<Cow<'a, str>> {
        let mut cells = Vec::new();
        let mut left = Some(row);
        while let Some(text) = left {
            // Quotes are around a cell, and in pairs inside of it: a separator after an odd number of quotes is text.
            let mut is_inside = false;
            let end = text.find(|character| {
                is_inside ^= character == '"';
                !is_inside && character == self.separator
            });
            let end = end.unwrap_or(text.len());
            let quoted = text[..end].strip_prefix('"').and_then(|cell| cell.strip_suffix('"'));
            cells.push(
                quoted.map_or(Cow::Borrowed(&text[..end]), |cell| Cow::Owned(cell.replace("\"\"", "\""))),
            );
            left = text[end..].strip_prefix(self.separator);
        }
        cells
    }
}

/// Returns what identifies a record in a row, given as a line of JSON: its Id and its tenant, or else its fields.
pub fn key_of(record: &str) -> u128 {
    let mut key = Key::default();
    json::each_field(record, |name, value| {
        key.add(&on_one_line(name), &cell_text(value));
    });
    key.finish()
}

/// Returns what a record, given as a line of JSON, is recognized by in any file, of JSON or of CSV.
pub fn fingerprint_of(record: &str) -> Fingerprint {
    read_fingerprint(record).0
}

/// Returns the [`fingerprint_of`] the record in a line; `None` if the line is not one whole JSON object.
pub fn fingerprint_of_line(line: &str) -> Option<Fingerprint> {
    let (fingerprint, is_whole) = read_fingerprint(line);
    is_whole.then_some(fingerprint)
}

fn read_fingerprint(record: &str) -> (Fingerprint, bool) {
    let mut identity = LineIdentity::default();
    let is_whole = json::read_fields(record, |name, value| {
        if LineIdentity::FIELDS.contains(&&*name) {
            identity.add(&name, &cell_text(value));
        }
    });
    let fingerprint = identity.fingerprint().unwrap_or_else(|| {
        let mut key = Key::default();
        json::each_field(record, |name, value| key.add(&on_one_line(name), &cell_text(value)));
        key.fingerprint()
    });
    (fingerprint, is_whole)
}

/// The key of a record, computed from its fields in any order.
#[derive(Default)]
struct Key {
    identity: LineIdentity,
    content: u128,
}

impl Key {
    fn add(&mut self, name: &str, text: &str) {
        self.identity.add(name, text);
        self.add_to_content(name, text);
    }

    /// Adds a field without a column, or an earlier value of a field with one.
    fn add_to_content(&mut self, name: &str, text: &str) {
        if !text.is_empty() {
            self.content = self.content.wrapping_add(xxh3_128(format!("{name}\0{text}").as_bytes()));
        }
    }

    fn fingerprint(&self) -> Fingerprint {
        self.identity.fingerprint().unwrap_or_else(|| Fingerprint::of_fields(self.content))
    }

    fn finish(self) -> u128 {
        self.identity.key().unwrap_or(self.content)
    }
}

/// Returns the text of the cell of a value, without quotes.
fn cell_text(value: &str) -> Cow<'_, str> {
    match value {
        "null" => Cow::Borrowed(""),
        _ => on_one_line(json::text_of(value)),
    }
}

/// Escapes control characters as JSON does.
fn on_one_line(text: Cow<'_, str>) -> Cow<'_, str> {
    if !text.contains(|character: char| character < ' ') {
        return text;
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        match character {
            '\u{8}' => escaped.push_str("\\b"),
            '\t' => escaped.push_str("\\t"),
            '\n' => escaped.push_str("\\n"),
            '\u{c}' => escaped.push_str("\\f"),
            '\r' => escaped.push_str("\\r"),
            '\0'..='\u{1f}' => {
                let _ = write!(escaped, "\\u{:04x}", u32::from(character));
            }
            _ => escaped.push(character),
        }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::records::{BlobRecords, Origin, RecordBatch};

    /// Returns the columns that these records need, and the row of each.
    fn rows(separator: char, records: &[&str]) -> (Columns, Vec<String>) {
        let mut columns = Columns::common(separator);
        for record in records {
            columns.unite(record);
        }
        let rows = records.iter().map(|record| row(&columns, record)).collect();
        (columns, rows)
    }

    fn row(columns: &Columns, record: &str) -> String {
        let mut row = Vec::new();
        columns.append_row(record, &mut row);
        let row = String::from_utf8(row).expect("UTF-8");
        assert_eq!(row.matches('\n').count(), 1, "{row}");
        row.trim_end_matches('\n').to_owned()
    }

    fn header(columns: &Columns) -> String {
        let mut header = Vec::new();
        columns.append_header(&mut header);
        String::from_utf8(header).expect("UTF-8").trim_end_matches('\n').to_owned()
    }

    /// Returns the cells of a row after the columns that every file has.
    fn further<'a>(columns: &Columns, row: &'a str) -> Vec<Cow<'a, str>> {
        columns.cells(row).split_off(COMMON.len())
    }

    #[test]
    fn header_has_common_columns_and_those_of_the_records() {
        let (columns, rows) = rows(';', &[r#"{"a":1,"Id":"x"}"#, r#"{"b":2,"a":3,"Operation":"o"}"#]);
        assert_eq!(
            header(&columns),
            "Id;RecordType;CreationTime;Operation;OrganizationId;UserType;UserKey;Workload;ResultStatus;ObjectId;UserId;\
             ClientIP;Scope;a;b;MoreFields"
        );
        assert_eq!(rows, ["x;;;;;;;;;;;;;1;;", ";;;o;;;;;;;;;;3;2;"]);
        assert_eq!(Columns::of_header(&header(&columns)), Some(columns));
    }

    #[test]
    fn cell_is_the_text_of_its_value() {
        let record = r#"{"s":"a;\"b\"","u":"\u00e4\/","l":"x\ny\u0001","n":1e400,"t":true,"z":null,"e":"","o":{"k":["v"]}}"#;
        let (columns, rows) = rows(';', &[record]);
        let cells = further(&columns, &rows[0]);
        assert_eq!(
            cells,
            ["a;\"b\"", "ä/", "x\\ny\\u0001", "1e400", "true", "", "", "{\"k\":[\"v\"]}", ""],
            "{rows:?}"
        );
        assert!(rows[0].contains(r#";"a;""b""";ä/;x\ny\u0001;1e400;true;;;"{""k"":[""v""]}";"#), "{rows:?}");
    }

    #[test]
    fn keeps_a_field_without_a_column_in_the_last_one() {
        let (columns, _) = rows(',', &[r#"{"a":1}"#]);
        let row = row(&columns, r#"{"a":1,"b":"x,\"y","a":2,"MoreFields":null}"#);
        assert_eq!(further(&columns, &row), ["2", r#"{"b":"x,\"y","a":1,"MoreFields":null}"#]);
    }

    #[test]
    fn bounds_the_header_and_keeps_other_fields_in_the_last_column() {
        let fields: Vec<_> = (0..2 * COLUMNS_MAX).map(|number| format!("\"f{number}\":{number}")).collect();
        let (columns, rows) = rows(';', &[&format!("{{{}}}", fields.join(","))]);
        assert_eq!(columns.names.len(), COLUMNS_MAX);
        assert!(rows[0].ends_with(":1999}\""), "{rows:?}");
        let long = "\\\"".repeat(NAME_BYTES_MAX);
        let (columns, _) = self::rows(';', &[&format!("{{\"{long}\":1,\"{long}x\":2}}")]);
        assert_eq!(columns.names.len(), COMMON.len() + 1);
        assert_eq!(Columns::of_header(&header(&columns)), Some(columns));
    }

    #[test]
    fn recognizes_the_header_of_another_program() {
        for header in ["", "Id", "Id;a", "CreationTime;Id;MoreFields", "Id;a;a;MoreFields", "{\"Id\":1}"] {
            assert_eq!(Columns::of_header(header), None, "{header}");
        }
    }

    #[test]
    fn identifies_a_row_by_its_id_or_its_fields() {
        let id = "01234567-89ab-cdef-0123-456789abcdef";
        let with_id = format!(r#"{{"Id":"{id}","a":1}}"#);
        let (columns, _) = rows(';', &[]);
        let of = |record: &str| columns.key_of_row(&row(&columns, record));
        assert_eq!(of(&with_id), of(&format!(r#"{{"b":2,"Id":"{}"}}"#, id.to_uppercase())));
        for tenant in [r#""OrganizationId":"x""#, r#""TenantName":"x""#] {
            assert_ne!(of(&with_id), of(&with_id.replace(r#""a":1"#, tenant)), "another tenant's");
        }
        assert_eq!(of(r#"{"a":1,"b":"x"}"#), of(r#"{"b":"x","a":1,"c":null}"#));
        assert_ne!(of(r#"{"a":1,"b":"x"}"#), of(r#"{"a":"x","b":1}"#));
        assert_ne!(of(r#"{"a":1}"#), of(r#"{"a":1,"b":2}"#));
    }

    fn fields() -> impl Strategy<Value = Vec<(String, String)>> {
        let name = prop_oneof![
            Just("\"Id\"".to_owned()),
            Just("\"TenantName\"".to_owned()),
            "[ab;\n]{1,2}".prop_map(|name| quoted(&name))
        ];
        let value = prop_oneof![
            Just("null".to_owned()),
            Just("-1.50e3".to_owned()),
            Just(r#"{"k;\"":["\n",{}]}"#.to_owned()),
            Just(r#""\ud83d\u0041""#.to_owned()),
            Just("\"01234567-89ab-cdef-0123-456789abcdef\"".to_owned()),
            Just("\"\\u00301234567-89ab-cdef-0123-456789abcdef\"".to_owned()),
            "[a;,\"\\\\\n\t ]{0,6}".prop_map(|text| quoted(&text)),
        ];
        prop::collection::vec((name, value), 0..8)
    }

    fn quoted(text: &str) -> String {
        serde_json::Value::from(text).to_string()
    }

    proptest! {
        #![proptest_config(crate::proptest_config())]

        #[test]
        fn row_key_does_not_depend_on_the_columns(
            fields in fields(),
            others in fields(),
            separator in prop_oneof![Just(';'), Just(','), Just('\t'), Just('d'), Just('ä')],
        ) {
            let object = |fields: &[(String, String)]| {
                let fields: Vec<_> = fields.iter().map(|(name, value)| format!("{name}:{value}")).collect();
                format!("{{{}}}", fields.join(","))
            };
            let origin = Origin::new("DLP.All", Some("a;b"));
            let body = format!("[{}]", object(&fields)).into_bytes();
            let batch: RecordBatch = BlobRecords::parse(body, &origin).expect("an array").iter().collect();
            let line = batch.iter().next().expect("a record").line().to_owned();
            for columns_of in [&line, &object(&others)] {
                let (columns, _) = rows(separator, &[columns_of]);
                let row = row(&columns, &line);
                prop_assert_eq!(columns.cells(&row).len(), columns.names.len() + 1, "{}", row);
                prop_assert_eq!(columns.key_of_row(&row), key_of(&line), "{} as {}", line, row);
                let header = header(&columns);
                prop_assert_eq!(Columns::of_header(&header), Some(columns), "{}", header);
            }
        }
    }
}
