//! A blob's body → its records → the lines that outputs write.
//!
//! A body is checked to be one whole JSON array of objects before anything of it is delivered. No tree of values is
//! built: each record stays the text that Microsoft sent, because a round trip through values would change numbers,
//! escapes, the order of fields and repeated fields. A line differs from that text in two ways only: it has no whitespace
//! between tokens, and the fields `OriginFeed` and `TenantName` are added.
//!
//! A worker parses the body and filters the records; they stay ranges of the body ([`BlobRecords`]). The writer renders
//! them, each once, in slices that all outputs get ([`RecordBatch`]). A worker cannot render a whole blob within the
//! bounds of memory: the added fields can make the lines ten times as long as the body, as in a body of many `{}`.
//!
//! What a record *means* is not looked at here, apart from the fields of its header ([`HeaderField`]).

mod batch;
mod header;
mod identity;
mod index;
mod salvage;

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_128;

pub use batch::{Record, RecordBatch};
pub use header::{HeaderField, TimeField};
pub use identity::{Fingerprint, LineIdentity, RecordId, guid, is_whole_line, key_of_line, text_of_guid};
pub use salvage::Unreadable;

use crate::{
    body::Body,
    json::{Scanner, SyntaxError},
};
use header::{HAS_FEED, HAS_TENANT, Header, IS_EMPTY, tokens};
use index::{Entry, Index};

/// The records of one blob: its body and the position of each record in it.
#[derive(Debug)]
pub struct BlobRecords {
    text: String,
    index: Index,
    endings: Arc<Endings>,
    tenant_key: u128,
}

/// A record of a blob that is not rendered.
#[derive(Clone, Debug)]
pub struct ParsedRecord<'a> {
    /// Its tenant and its `Id`, if that is usable as an identity.
    pub id: Option<RecordId>,
    /// From the opening brace to the end of the last field.
    fields: &'a str,
    /// The added fields, the closing brace and the line break.
    ending: &'a str,
    entry: Entry,
}

/// An error returned when a body is not that of a blob. Its text never quotes the body, which must not be logged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The body is not a JSON array, or one that is cut short or followed by something else.
    #[error("not one whole JSON array ({problem} at line {line}, column {column})")]
    NotAnArray {
        /// What is wrong, in words.
        problem: &'static str,
        /// The line, counted from 1.
        line: usize,
        /// The column, counted from 1, in bytes.
        column: usize,
    },
    /// An element of the array is a number, a text, an array, …
    #[error("element {0} of the array is not an object")]
    NotAnObject(usize),
}

impl BlobRecords {
    /// Finds the records in a decompressed body. `origin` adds the fields `OriginFeed` and `TenantName`.
    ///
    /// # Errors
    ///
    /// The body is not one whole JSON array of objects.
    pub fn parse(body: impl Into<Body>, origin: &Origin) -> Result<Self, ParseError> {
        Self::parse_within(body.into(), origin, |_| ()).map_err(|(error, _)| error)
    }

    /// Finds the records in a decompressed body. Calls `reserve` with the number of bytes before it allocates memory;
    /// the function may wait until they are available.
    ///
    /// # Errors
    ///
    /// The body is not one whole JSON array of objects. It is returned unchanged.
    pub fn parse_within(
        body: Body,
        origin: &Origin,
        mut reserve: impl FnMut(usize),
    ) -> Result<Self, (ParseError, Body)> {
        let text = body
            .into_text()
            .map_err(|(valid_up_to, body)| (ParseError::at(body.bytes(), valid_up_to, "no UTF-8"), body))?;
        let mut index = Index::default();
        match find_objects(&text, &mut index, &mut reserve) {
            Ok(()) => Ok(Self::new(text, index, origin)),
            Err(error) => Err((error, text.into_bytes().into())),
        }
    }

    /// Finds the elements of a body that are whole objects, whatever else is in it. Returns them and what else there is.
    /// Makes a copy of the body; calls `reserve` with the number of bytes before it allocates other memory.
    pub fn salvage(body: &[u8], origin: &Origin, mut reserve: impl FnMut(usize)) -> (Self, Unreadable) {
        let mut index = Index::default();
        let unreadable = salvage::find_objects(body, &mut index, &mut reserve);
        // Bytes that are not UTF-8 are in no record.
        let mut text = String::with_capacity(body.len());
        for chunk in body.utf8_chunks() {
            text.push_str(chunk.valid());
            text.extend(std::iter::repeat_n('?', chunk.invalid().len()));
        }
        (Self::new(text, index, origin), unreadable)
    }

    fn new(text: String, index: Index, origin: &Origin) -> Self {
        Self { text, index, endings: Arc::clone(&origin.endings), tenant_key: origin.tenant_key }
    }

    /// Returns the number of records.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Returns whether there are no records.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Drops the records for which `keep` returns `false`; returns their number.
    pub fn retain(&mut self, mut keep: impl FnMut(&ParsedRecord<'_>) -> bool) -> usize {
        let Self { text, index, endings, tenant_key } = self;
        index.retain(|entry| keep(&ParsedRecord::new(entry, text, endings, *tenant_key)))
    }

    /// Returns the length of the body in bytes.
    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    /// Returns the buffer of the body, for another body.
    pub fn into_buffer(self) -> Vec<u8> {
        self.text.into_bytes()
    }

    /// Returns the records in the order in which Microsoft sent them.
    pub fn iter(&self) -> impl Iterator<Item = ParsedRecord<'_>> {
        self.index.iter().map(|entry| ParsedRecord::new(entry, &self.text, &self.endings, self.tenant_key))
    }
}

impl<'a> ParsedRecord<'a> {
    fn new(entry: Entry, text: &'a str, endings: &'a Endings, tenant_key: u128) -> Self {
        let ending = &endings[usize::from(entry.header.flags & ENDING)];
        let id = entry.header.id.map(|id| id.in_tenant(tenant_key));
        Self { id, fields: &text[entry.fields.clone()], ending, entry }
    }

    /// Appends the line of the record, including the line break.
    pub fn render(&self, to: &mut String) {
        if self.entry.whitespace_bytes == 0 {
            to.push_str(self.fields);
        } else {
            tokens(self.fields.as_bytes()).for_each(|range| to.push_str(&self.fields[range]));
        }
        to.push_str(self.ending);
    }
}

/// The ways in which a record can end, indexed by the flags in [`ENDING`].
type Endings = [String; 8];

/// The flags of a header that choose the ending of a record.
const ENDING: u8 = HAS_FEED | HAS_TENANT | IS_EMPTY;

/// Where records come from, which is added to each of them unless it has those fields itself.
#[derive(Clone, Debug)]
pub struct Origin {
    endings: Arc<Endings>,
    /// Distinguishes the records of the tenant from those of other tenants with the same `Id`.
    tenant_key: u128,
}

impl Origin {
    /// Returns an origin with the value of `OriginFeed` and, for a tenant that has a name, of `TenantName`.
    pub fn new(feed: &str, tenant_name: Option<&str>) -> Self {
        let field = |key: &str, value: &str| format!("\"{key}\":{}", serde_json::Value::from(value));
        let endings = std::array::from_fn(|ending| {
            let has = |flag: u8| ending & usize::from(flag) != 0;
            let mut added = Vec::new();
            if !has(HAS_FEED) {
                added.push(field("OriginFeed", feed));
            }
            if let Some(name) = tenant_name.filter(|_| !has(HAS_TENANT)) {
                added.push(field("TenantName", name));
            }
            let comma = if added.is_empty() || has(IS_EMPTY) { "" } else { "," };
            format!("{comma}{}}}\n", added.join(","))
        });
        Self { endings: Arc::new(endings), tenant_key: 0 }
    }

    /// Returns the same origin in this tenant.
    #[must_use]
    pub fn of_tenant(self, tenant_id: &str) -> Self {
        Self { tenant_key: xxh3_128(tenant_id.to_ascii_lowercase().as_bytes()), ..self }
    }

    /// Returns the GUID of a record of this origin; `None` if its `Id` is another text.
    pub fn guid_of(&self, id: RecordId) -> Option<u128> {
        id.is_guid.then_some(id.key ^ self.tenant_key)
    }
}

#[cfg(test)]
impl RecordBatch {
    /// Returns these records, to which no field of an origin is added.
    pub fn for_test(records: &[&str]) -> Self {
        let origin = Origin { endings: Arc::new(std::array::from_fn(|_| "}\n".to_owned())), tenant_key: 0 };
        let body = format!("[{}]", records.join(",")).into_bytes();
        BlobRecords::parse(body, &origin).expect("records of a test").iter().collect()
    }
}

impl ParseError {
    fn at(body: &[u8], at: usize, problem: &'static str) -> Self {
        let before = &body[..at];
        let column = memchr::memrchr(b'\n', before).map_or(at + 1, |line_break| at - line_break);
        Self::NotAnArray { problem, line: memchr::memchr_iter(b'\n', before).count() + 1, column }
    }
}

/// Adds the objects of the array in a body, with or without a byte order mark, to the index.
fn find_objects(body: &str, index: &mut Index, reserve: &mut impl FnMut(usize)) -> Result<(), ParseError> {
    const BYTE_ORDER_MARK: char = '\u{feff}';
    let text = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
    let start = body.len() - text.len();
    let error = |problem, at| ParseError::at(body.as_bytes(), at, problem);
    let mut scanner = Scanner::new(text);
    match scanner.peek() {
        Some(b'[') => {}
        None => return Err(error("cut short", body.len())),
        Some(_) => return Err(error("another type", start + scanner.at())),
    }
    let first_non_object =
        elements(&mut scanner, start, index, reserve).map_err(|SyntaxError { at, is_end }| {
            error(if is_end { "cut short" } else { "wrong syntax" }, start + at)
        })?;
    first_non_object.map_or(Ok(()), |place| Err(ParseError::NotAnObject(place)))
}

/// Reads an array up to the end of the text and adds its objects to the index. Returns the position in the array of the
/// first element that is not an object. `start` is where the text begins in the body.
fn elements(
    scanner: &mut Scanner<'_>,
    start: usize,
    index: &mut Index,
    reserve: &mut impl FnMut(usize),
) -> Result<Option<usize>, SyntaxError> {
    let mut first_non_object = None;
    scanner.expect(b'[')?;
    if !scanner.skip(b']') {
        loop {
            if scanner.peek() == Some(b'{') {
                let from = start + scanner.at();
                let header = Header::read(scanner)?;
                let fields = from..start + scanner.at() - 1;
                let whitespace_bytes = scanner.whitespace_bytes;
                index.push(&Entry { fields, whitespace_bytes, header }, reserve);
            } else {
                scanner.value()?;
                first_non_object.get_or_insert(index.len());
            }
            if !scanner.skip(b',') {
                break;
            }
        }
        scanner.expect(b']')?;
    }
    scanner.end()?;
    Ok(first_non_object)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn origin() -> Origin {
        Origin::new("Audit.Exchange", Some("contoso"))
    }

    /// Returns the lines that a body becomes.
    fn lines(body: &str) -> Result<Vec<String>, ParseError> {
        let records = BlobRecords::parse(body.as_bytes().to_vec(), &origin())?;
        let batch: RecordBatch = records.iter().collect();
        let lines: Vec<_> = batch.iter().map(|record| record.line().to_owned() + "\n").collect();
        assert_eq!(batch.text(), lines.concat());
        Ok(lines)
    }

    fn id_of(record: &str) -> Option<RecordId> {
        let records =
            BlobRecords::parse(format!("[{record}]").into_bytes(), &origin()).expect("a whole array");
        let mut ids = records.iter().map(|record| record.id);
        ids.next().expect("a record")
    }

    const ADDED: &str = "\"OriginFeed\":\"Audit.Exchange\",\"TenantName\":\"contoso\"";

    #[test]
    fn does_not_change_the_text_of_a_record() {
        for record in [
            r#"{"a":1,"a":2,"A":3}"#,
            r#"{"n":1E400,"m":-0.10e+5,"big":123456789012345678901234567890}"#,
            r#"{"s":"\u0041\/\ud83d\ude00 \ud83d alone \u0000 \" \\"}"#,
            "{\"s\":\"line separator \u{2028}, no-break space \u{a0}, 😀, ä\"}",
            r#"{"s":" spaces  stay  ","deep":[[[{"x":[null,true,false]}]]]}"#,
        ] {
            let expected = format!("{},{ADDED}}}\n", record.strip_suffix('}').expect("an object"));
            assert_eq!(lines(&format!("[{record}]")), Ok(vec![expected]));
        }
    }

    #[test]
    fn drops_whitespace_and_byte_order_mark() {
        let pretty =
            "\u{feff} [\r\n  {\n\t\"a\" : \"b \\\" c\" ,\n  \"d\" : [ 1 , { } ]\n  } ,\r\n { } ]\n\n";
        assert_eq!(
            lines(pretty),
            Ok(vec![format!("{{\"a\":\"b \\\" c\",\"d\":[1,{{}}],{ADDED}}}\n"), format!("{{{ADDED}}}\n")])
        );
    }

    #[test]
    fn does_not_add_an_existing_origin_field() {
        assert_eq!(
            lines(
                r#"[{"OriginFeed":"x"},{"TenantName":1},{"\u004friginFeed":0,"TenantName":null},{"originfeed":1}]"#
            ),
            Ok(vec![
                "{\"OriginFeed\":\"x\",\"TenantName\":\"contoso\"}\n".to_owned(),
                "{\"TenantName\":1,\"OriginFeed\":\"Audit.Exchange\"}\n".to_owned(),
                "{\"\\u004friginFeed\":0,\"TenantName\":null}\n".to_owned(),
                format!("{{\"originfeed\":1,{ADDED}}}\n"),
            ])
        );
        let nameless = Origin::new("DLP.All", None);
        let records =
            BlobRecords::parse(b"[{\"a\":{\"OriginFeed\":1}}]".to_vec(), &nameless).expect("a whole array");
        let batch: RecordBatch = records.iter().collect();
        assert_eq!(batch.text(), "{\"a\":{\"OriginFeed\":1},\"OriginFeed\":\"DLP.All\"}\n");
    }

    #[test]
    fn rejects_a_body_that_is_not_an_array_of_objects() {
        for body in [
            "",
            " ",
            "null",
            "{}",
            "[",
            "[{}",
            "[{}]x",
            "[{}][{}]",
            "[{},]",
            "[{}{}]",
            "[{\"a\":1]",
            "[{\"a\":\"\n\"}]",
            "<html>",
            "\"text\"",
            "[{'a':1}]",
        ] {
            assert!(matches!(lines(body), Err(ParseError::NotAnArray { .. })), "{body}");
        }
        assert_eq!(lines("[{},1]"), Err(ParseError::NotAnObject(1)));
        assert_eq!(lines("[[]]"), Err(ParseError::NotAnObject(0)));
        let not_utf8 = BlobRecords::parse(b"[{\"a\":\"\xff\"}]".to_vec(), &origin());
        assert!(matches!(not_utf8, Err(ParseError::NotAnArray { .. })));
        assert_eq!(lines("[]"), Ok(Vec::new()));
    }

    /// Returns the Ids of what is salvaged of a body, as far as they are numbers, and what is not.
    fn salvaged(body: &[u8]) -> (Vec<String>, Unreadable) {
        let (records, unreadable) = BlobRecords::salvage(body, &Origin::new("f", None), |_| ());
        let batch: RecordBatch = records.iter().collect();
        let number = |record: Record<'_>| {
            let read: serde_json::Value = serde_json::from_str(record.line()).expect("a line of JSON");
            read["n"].to_string()
        };
        (batch.iter().map(number).collect(), unreadable)
    }

    #[test]
    fn salvages_whole_objects() {
        let record = |n: u32| {
            format!(
                r#"{{"Id":"{n:08}-89ab-cdef-0123-456789abcdef","CreationTime":"t","n":{n},"x":[{{"y":"}}"}}]}}"#
            )
        };
        let (one, two, three) = (record(1), record(2), record(3));
        let broken = |count| Unreadable { broken: count, ..Unreadable::default() };
        let not_objects = |count| Unreadable { not_objects: count, ..Unreadable::default() };
        let cut = Unreadable { is_cut: true, ..Unreadable::default() };
        let not_array = Unreadable { is_not_array: true, ..Unreadable::default() };
        for (body, expected, unreadable) in [
            (format!("[{one},null,{two},\"text\",7,[{{}}],{three}]"), "1 2 3", not_objects(4)),
            (format!("\u{feff} [ {one} ,, {two} {three} ] and more"), "1 2 3", broken(0)),
            (format!("[{one},{{\"a\":\"\n\",\"b\":[{{\"n\":9}},{{\"n\":8}}]}},{three}]"), "1 3", broken(1)),
            (
                format!("[{one},{{\"a\":\"5\" disk\",\"b\":[{{\"n\":9}}]}},{two},{{\"n\":3}}]"),
                "1 2 3",
                broken(1),
            ),
            (format!("[{one},{{\"a\" , {{\"n\":9}}}},{two}]"), "1 2", broken(1)),
            (format!("[{one},{{\"a\":{{\"n\":9}},{two}]"), "1 2", broken(1)),
            (format!("[{one},garbage,{two}]"), "1 2", broken(1)),
            (format!("[{one},12x,{two}]"), "1 2", broken(1)),
            (format!("[{one},{two},"), "1 2", cut),
            (format!("[{one},{}", &two[..40]), "1", Unreadable { broken: 1, ..cut }),
            (format!("[{one},tru"), "1", Unreadable { broken: 1, ..cut }),
            (String::new(), "", not_array),
            ("<html>[{\"n\":1}]".to_owned(), "", not_array),
            (one.clone(), "", not_array),
            ("[]".to_owned(), "", broken(0)),
        ] {
            let (found, was_unreadable) = salvaged(body.as_bytes());
            assert_eq!((found.join(" ").as_str(), was_unreadable), (expected, unreadable), "{body}");
        }
        let mut not_utf8 = format!("[{one},{two},{three}]").into_bytes();
        let place = one.len() + 12;
        not_utf8[place] = 0xff;
        assert_eq!(salvaged(&not_utf8), (vec!["1".to_owned(), "3".to_owned()], broken(1)));
    }

    #[test]
    fn salvages_in_linear_time() {
        let nested = format!("[x{}", "{\"a\":[".repeat(50_000));
        assert_eq!(salvaged(nested.as_bytes()).0, [""; 0]);
        let many = format!("[x{}", ",{\"Id\":".repeat(50_000));
        assert_eq!(salvaged(many.as_bytes()).0, [""; 0]);
    }

    #[test]
    fn error_does_not_quote_the_body() {
        let error = lines("[{\"password\":hunter2}]").expect_err("wrong syntax").to_string();
        assert!(!error.contains("hunter2") && error.contains("column"), "{error}");
    }

    #[test]
    fn header_fields_are_top_level_fields() {
        let body = r#"[{"Operation":{ "a" : [ 1, " \" " ] } , "x":{"Id":1,"@timestamp":2}, "Id" :"a\"b", "Workload" : null,
            "CreationTime":"2026-11-22T10:15:00","TimeGenerated":0},{"Id":1,"Id":"2","y":[]},{}]"#;
        let records = BlobRecords::parse(body.as_bytes().to_vec(), &origin()).expect("a whole array");
        let batch: RecordBatch = records.iter().collect();
        let records: Vec<_> = batch.iter().collect();
        let values = |record: Record<'_>| {
            [HeaderField::Id, HeaderField::CreationTime, HeaderField::Workload, HeaderField::Operation]
                .map(|field| record.value(field).map(str::to_owned))
        };
        let expected = [r#""a\"b""#, r#""2026-11-22T10:15:00""#, "null", r#"{"a":[1," \" "]}"#];
        assert_eq!(values(records[0]), expected.map(|value| Some(value.to_owned())));
        assert_eq!(values(records[1]), [Some("\"2\"".to_owned()), None, None, None]);
        assert_eq!(values(records[2]), [const { None }; 4]);
        assert_eq!(records[0].creation_time(), crate::time::parse("2026-11-22T10:15:00Z"));
        assert!(records[0].has(TimeField::TimeGenerated) && !records[0].has(TimeField::Timestamp));
        assert!(!records[2].has(TimeField::TimeGenerated));
        let filtered = batch.filtered(|place| place != 1);
        assert_eq!(filtered.text(), format!("{}\n{}\n", records[0].line(), records[2].line()));
        assert_eq!(values(filtered.iter().next().expect("a record")), values(records[0]));
    }

    #[test]
    fn nesting_has_no_limit() {
        let deep = format!("[{{\"a\":{}{}}}]", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(lines(&deep).expect("a whole array").len(), 1);
    }

    #[test]
    fn blank_or_nil_id_does_not_identify_a_record() {
        let id = Some(RecordId { key: 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef, is_guid: true });
        assert_eq!(id_of(r#"{"Id":"01234567-89ab-cdef-0123-456789abcdef"}"#), id);
        assert_eq!(id_of(r#"{"x":{"Id":1},"\u0049d" : "01234567-89AB-CDEF-0123-456789ABCDEF"}"#), id);
        for record in [
            "{}",
            r#"{"Id":0}"#,
            r#"{"Id":true}"#,
            r#"{"Id":["a"]}"#,
            r#"{"Id":""}"#,
            r#"{"Id":" "}"#,
            r#"{"Id":null}"#,
            r#"{"id":"01234567-89ab-cdef-0123-456789abcdef"}"#,
            r#"{"Id":"00000000-0000-0000-0000-000000000000"}"#,
        ] {
            assert_eq!(id_of(record), None, "{record}");
        }
        let mut others = std::collections::HashSet::new();
        for record in [
            r#"{"Id":7}"#,
            r#"{"Id":"a"}"#,
            r#"{"Id":"A"}"#,
            r#"{"Id":"01234567-89ab-cdef-0123-456789abcdeg"}"#,
            r#"{"Id":"+1234567-89ab-cdef-0123-456789abcdef"}"#,
        ] {
            assert!(others.insert(id_of(record).expect("another text is an Id too").key()), "{record}");
        }
        assert_eq!(id_of(r#"{"Id":"\u0061"}"#), id_of(r#"{"Id":"a"}"#));
    }

    #[test]
    fn same_id_in_two_tenants_is_two_records() {
        let body = br#"[{"Id":"01234567-89ab-cdef-0123-456789abcdef"},{"Id":"a"}]"#;
        let [one, other] = ["1", "2"].map(|tenant| {
            let origin = origin().of_tenant(tenant);
            let records = BlobRecords::parse(body.to_vec(), &origin).expect("a whole array");
            let ids: Vec<_> = records.iter().map(|record| record.id.expect("an Id")).collect();
            assert_eq!(origin.guid_of(ids[0]), Some(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef));
            assert_eq!(origin.guid_of(ids[1]), None);
            ids
        });
        assert!(one[0] != other[0] && one[1] != other[1]);
        let line = |name: &str| format!(r#"{{"Id":"a","x":1,"TenantName":"{name}"}}"#);
        assert_ne!(key_of_line(&line("one")), key_of_line(&line("two")));
        let reordered = r#"{"x":1,"TenantName":"one","Id":"a"}"#;
        assert_eq!(key_of_line(&line("one")), key_of_line(reordered));
    }

    /// Any JSON value, as `serde_json` would write it.
    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            ".*".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
                prop::collection::btree_map("[a-zA-Z\"\\\\]{0,8}", inner, 0..6)
                    .prop_map(|fields| serde_json::Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(crate::proptest_config())]

        #[test]
        fn parses_an_array_or_returns_nothing(
            values in prop::collection::vec(json(), 0..8),
            pretty in any::<bool>(),
        ) {
            let array = serde_json::Value::Array(values.clone());
            let body = if pretty { format!("{array:#}") } else { array.to_string() };
            let all_are_objects = values.iter().all(serde_json::Value::is_object);
            let Ok(lines) = lines(&body) else {
                prop_assert!(!all_are_objects, "{body} was rejected");
                return Ok(());
            };
            prop_assert!(all_are_objects);
            prop_assert_eq!(lines.len(), values.len());
            for (line, value) in lines.iter().zip(values) {
                prop_assert_eq!(line.matches('\n').count(), 1);
                let mut expected = value.to_string();
                expected.truncate(expected.len() - 1);
                prop_assert!(line.starts_with(&expected), "{} is not {}", line, expected);
                let mut read: serde_json::Value = serde_json::from_str(line).expect("valid JSON");
                let fields = read.as_object_mut().expect("an object");
                prop_assert_eq!(fields.remove("OriginFeed"), Some("Audit.Exchange".into()));
                prop_assert_eq!(fields.remove("TenantName"), Some("contoso".into()));
            }
        }

        #[test]
        fn accepts_what_serde_json_reads_as_an_array_of_objects(body in "[\\[\\]{}\",:0-9a \\\\n]{0,12}") {
            let reads = serde_json::from_str::<Vec<serde_json::Map<String, serde_json::Value>>>(&body);
            prop_assert_eq!(lines(&body).map(|lines| lines.len()).ok(), reads.map(|records| records.len()).ok());
        }

        #[test]
        fn salvages_a_valid_body_as_a_whole(values in prop::collection::vec(json(), 0..4)) {
            let objects = values.into_iter().map(|value| serde_json::json!({ "value": value }));
            let body = format!("{:#}", objects.collect::<serde_json::Value>()).into_bytes();
            let (salvaged, unreadable) = BlobRecords::salvage(&body, &origin(), |_| ());
            let split = BlobRecords::parse(body, &origin()).expect("a whole array");
            prop_assert_eq!(unreadable, Unreadable::default());
            let rendered = |records: &BlobRecords| records.iter().collect::<RecordBatch>().text().to_owned();
            prop_assert_eq!(rendered(&split), rendered(&salvaged));
        }

        #[test]
        fn rejects_a_truncated_body(values in prop::collection::vec(json(), 1..4), cut in any::<prop::sample::Index>()) {
            let objects: Vec<_> = values.into_iter().map(|value| serde_json::json!({ "value": value })).collect();
            let mut body = serde_json::Value::Array(objects).to_string().into_bytes();
            body.truncate(cut.index(body.len()));
            prop_assert!(BlobRecords::parse(body, &origin()).is_err());
        }
    }
}
