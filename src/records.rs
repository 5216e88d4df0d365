//! A blob's body → its records.
//!
//! A body is checked to be one whole JSON array of objects before anything of it is delivered. No tree of values is
//! built: each record stays the text that Microsoft sent, because a round trip through values would change numbers,
//! escapes, field order and duplicate keys. Only whitespace between tokens is dropped, in place, and the two fields
//! that say where a record comes from are added as it is written.
//!
//! What a record *means* is not looked at here, but for its `Id`.

mod index;
mod salvage;

use std::{borrow::Cow, sync::Arc};

use xxhash_rust::xxh3::xxh3_128;

pub use salvage::Unreadable;

use crate::{
    body::Body,
    json::{self, Fault, Scanner},
};
use index::{Entry, Index};

/// The records of one blob: its body, and where in it each record stands.
#[derive(Debug)]
pub struct Records {
    body: Body,
    index: Index,
    endings: Arc<Endings>,
    tenant_key: u128,
}

/// One record: an object's text without its closing brace, and the ending that closes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its tenant and its `Id`, if it has one that says something.
    pub id: Option<RecordId>,
    /// From the opening brace to the last field's end, free of line breaks.
    pub fields: &'a [u8],
    /// The added fields, the closing brace and the line break.
    pub ending: &'a [u8],
}

/// Why a body is not what a blob's body must be. Never quotes the body: it is nobody's business in a log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// No JSON array, or one that is cut short or followed by something.
    #[error("not one whole JSON array ({problem} at line {line}, column {column})")]
    NotAnArray {
        /// In words.
        problem: &'static str,
        /// Counted from 1.
        line: usize,
        /// Counted from 1, in bytes.
        column: usize,
    },
    /// An element of the array is a number, a text, an array, …
    #[error("element {0} of the array is no object")]
    NotAnObject(usize),
}

impl Records {
    /// Takes a blob's whole body, as it came once decompressed, and finds the records in it.
    ///
    /// `origin` adds the fields `OriginFeed` and `TenantName`.
    ///
    /// # Errors
    ///
    /// The body is not one whole JSON array of objects.
    pub fn split(body: impl Into<Body>, origin: &Origin) -> Result<Self, Malformed> {
        Self::split_within(body.into(), origin, |_| ()).map_err(|(malformed, _)| malformed)
    }

    /// The same, within bounds: `room` is asked for each further stretch of memory, in bytes, before it is taken, and
    /// may take its time to answer.
    ///
    /// # Errors
    ///
    /// The body is not one whole JSON array of objects. It is given back unchanged.
    pub fn split_within(
        body: Body,
        origin: &Origin,
        mut room: impl FnMut(usize),
    ) -> Result<Self, (Malformed, Body)> {
        let mut index = Index::default();
        match find_objects(body.bytes(), &mut index, &mut room) {
            Ok(()) => Ok(Self::of(body, index, origin)),
            Err(malformed) => Err((malformed, body)),
        }
    }

    /// Finds the elements of a body that are whole objects, whatever else is in it; and what is not.
    pub fn salvage(body: Body, origin: &Origin, mut room: impl FnMut(usize)) -> (Self, Unreadable) {
        let mut index = Index::default();
        let unreadable = salvage::find_objects(body.bytes(), &mut index, &mut room);
        (Self::of(body, index, origin), unreadable)
    }

    fn of(mut body: Body, mut index: Index, origin: &Origin) -> Self {
        index.shorten(|fields| drop_whitespace(&mut body.bytes_mut()[fields]));
        Self { body, index, endings: Arc::clone(&origin.endings), tenant_key: origin.tenant_key }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Drops those that `keep` does not want; returns how many those were.
    pub fn retain(&mut self, mut keep: impl FnMut(&Record<'_>) -> bool) -> usize {
        let Self { body, index, endings, tenant_key } = self;
        index.retain(|entry| keep(&record(entry, body, endings, *tenant_key)))
    }

    /// How much memory the body takes.
    pub fn bytes(&self) -> usize {
        self.body.len()
    }

    /// The body's buffer, for another body.
    pub fn into_buffer(self) -> Vec<u8> {
        self.body.into_buffer()
    }

    /// Each of them, in the order in which Microsoft sent them.
    pub fn iter(&self) -> impl Iterator<Item = Record<'_>> {
        self.index.iter().map(|entry| record(&entry, &self.body, &self.endings, self.tenant_key))
    }
}

fn record<'a>(entry: &Entry, body: &'a Body, endings: &'a Endings, tenant_key: u128) -> Record<'a> {
    let id = entry.id.map(|id| id.of(tenant_key));
    Record { id, fields: &body.bytes()[entry.fields.clone()], ending: &endings[entry.ending] }
}

impl Record<'_> {
    /// What tells this record from others in an output: the [`key_of_line`] of its line.
    pub fn key(&self) -> u128 {
        let mut line = Vec::new();
        self.append_line(&mut line);
        key_of_line(line.strip_suffix(b"\n").unwrap_or(&line))
    }

    /// Appends the record's line, line break included.
    pub fn append_line(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(self.fields);
        to.extend_from_slice(self.ending);
    }
}

/// What tells a record from all others of all tenants, in 128 bits: its `Id`, and its tenant. A cross-tenant event can
/// have the same `Id` in both tenants, and is a record of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RecordId {
    /// A GUID, or the hash of another text, combined with the tenant's key.
    key: u128,
    is_guid: bool,
}

impl RecordId {
    /// The 128 bits; never zero.
    pub fn key(self) -> u128 {
        self.key
    }

    /// That of the same `Id` in a tenant. For a GUID it can be reverted ([`Origin::guid_of`]).
    fn of(self, tenant_key: u128) -> Self {
        Self { key: (self.key ^ tenant_key).max(1), ..self }
    }

    /// The `Id` of this text, whatever its tenant. `None` if it says nothing: if it is blank, or the nil GUID.
    fn of_text(text: &str) -> Option<Self> {
        match guid(text.as_bytes()) {
            Some(0) => None,
            Some(key) => Some(Self { key, is_guid: true }),
            None if text.trim().is_empty() => None,
            None => Some(Self { key: xxh3_128(text.as_bytes()).max(1), is_guid: false }),
        }
    }

    /// The `Id` that is this JSON value: a string or a number other than zero.
    fn of_value(value: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?;
        match value.first()? {
            b'"' => Self::of_text(&json::text_of(text)),
            b'-' | b'0'..=b'9' if text.parse() != Ok(0.0) => Self::of_text(text),
            _ => None,
        }
    }
}

#[cfg(test)]
impl RecordId {
    /// One that a test hands around.
    pub fn of_a_test(key: u128) -> Self {
        Self { key, is_guid: true }
    }
}

/// What tells records in an output from each other: the `Id`, and what a line says of its tenant.
#[derive(Clone, Debug, Default)]
pub struct LineIdentity {
    id: Option<RecordId>,
    organization: String,
    tenant_name: String,
}

impl LineIdentity {
    /// Adds a field, given as the text that it stands for.
    pub fn add(&mut self, name: &str, text: &str) {
        match name {
            "Id" => self.id = RecordId::of_text(text),
            "OrganizationId" => text.clone_into(&mut self.organization),
            "TenantName" => text.clone_into(&mut self.tenant_name),
            _ => {}
        }
    }

    /// The key; `None` for a record without an `Id`.
    pub fn key(&self) -> Option<u128> {
        let text = |id: RecordId| format!("{:032x}\n{}\n{}", id.key, self.organization, self.tenant_name);
        self.id.map(|id| xxh3_128(text(id).as_bytes()))
    }
}

/// What tells the record in this line of an output, given without its line break, from others: its `Id` and its tenant,
/// or else the whole line. Copies of a record can differ in the order of their fields.
pub fn key_of_line(line: &[u8]) -> u128 {
    let mut identity = LineIdentity::default();
    json::each_field(std::str::from_utf8(line).unwrap_or_default(), |name, value| {
        identity.add(&name, &if value == "null" { Cow::Borrowed("") } else { json::text_of(value) });
    });
    identity.key().unwrap_or_else(|| xxh3_128(line))
}

/// Returns whether a line of an output, given without its line break, is a whole record. After a power loss a line can
/// consist of zero bytes, or of parts of two lines.
pub fn is_whole_line(line: &[u8]) -> bool {
    line.starts_with(b"{") && serde_json::from_slice::<&serde_json::value::RawValue>(line).is_ok()
}

/// How a GUID is written: in lower case.
pub fn text_of_guid(guid: u128) -> String {
    let digits = format!("{guid:032x}");
    let groups = [0..8, 8..12, 12..16, 16..20, 20..32].map(|group| &digits[group]);
    groups.join("-")
}

/// The ways in which a record can end, indexed by the bits [`HAS_FEED`], [`HAS_TENANT`] and [`HAS_NOTHING`].
type Endings = [Vec<u8>; 8];

/// The record has an `OriginFeed` of its own.
const HAS_FEED: usize = 1;
/// The record has a `TenantName` of its own.
const HAS_TENANT: usize = 2;
/// The record is `{}`: what is added follows no comma.
const HAS_NOTHING: usize = 4;

/// Where records come from: what is added to each of them unless it says so itself.
#[derive(Clone, Debug)]
pub struct Origin {
    endings: Arc<Endings>,
    /// What tells the tenant's records from other tenants' with the same `Id`.
    tenant_key: u128,
}

impl Origin {
    /// `feed` becomes `OriginFeed`; `tenant_name`, for a tenant that has one, `TenantName`.
    pub fn new(feed: &str, tenant_name: Option<&str>) -> Self {
        let field = |key: &str, value: &str| format!("\"{key}\":{}", serde_json::Value::from(value));
        let endings: Endings = std::array::from_fn(|seen| {
            let mut added = Vec::new();
            if seen & HAS_FEED == 0 {
                added.push(field("OriginFeed", feed));
            }
            if let Some(name) = tenant_name.filter(|_| seen & HAS_TENANT == 0) {
                added.push(field("TenantName", name));
            }
            let comma = if added.is_empty() || seen & HAS_NOTHING != 0 { "" } else { "," };
            format!("{comma}{}}}\n", added.join(",")).into_bytes()
        });
        Self { endings: Arc::new(endings), tenant_key: 0 }
    }

    /// The same for the records of this tenant.
    #[must_use]
    pub fn of_tenant(self, tenant_id: &str) -> Self {
        Self { tenant_key: xxh3_128(tenant_id.to_ascii_lowercase().as_bytes()), ..self }
    }

    /// The GUID of a record from here; `None` if its `Id` is another text.
    pub fn guid_of(&self, id: RecordId) -> Option<u128> {
        id.is_guid.then_some(id.key ^ self.tenant_key)
    }
}

/// Adds the objects of the array that the body is, byte order mark or not, to the index.
fn find_objects(body: &[u8], index: &mut Index, room: &mut impl FnMut(usize)) -> Result<(), Malformed> {
    const BYTE_ORDER_MARK: char = '\u{feff}';
    let malformed = |problem, at| {
        let before = &body[..at];
        let column = memchr::memrchr(b'\n', before).map_or(at + 1, |line_break| at - line_break);
        Malformed::NotAnArray { problem, line: memchr::memchr_iter(b'\n', before).count() + 1, column }
    };
    let whole = std::str::from_utf8(body).map_err(|error| malformed("no UTF-8", error.valid_up_to()))?;
    let text = whole.strip_prefix(BYTE_ORDER_MARK).unwrap_or(whole);
    let start = whole.len() - text.len();
    let mut scanner = Scanner::new(text);
    match scanner.peek() {
        Some(b'[') => {}
        None => return Err(malformed("cut short", body.len())),
        Some(_) => return Err(malformed("another type", start + scanner.at())),
    }
    let first_non_object = elements(&mut scanner, start, index, room).map_err(|Fault { at, is_end }| {
        malformed(if is_end { "cut short" } else { "wrong syntax" }, start + at)
    })?;
    first_non_object.map_or(Ok(()), |place| Err(Malformed::NotAnObject(place)))
}

/// Reads an array to the text's end and adds its objects to the index. Returns the place of the first element that is
/// not an object. Places in the body are counted from `start` on.
fn elements(
    scanner: &mut Scanner<'_>,
    start: usize,
    index: &mut Index,
    room: &mut impl FnMut(usize),
) -> Result<Option<usize>, Fault> {
    let mut first_non_object = None;
    scanner.expect(b'[')?;
    if !scanner.take(b']') {
        loop {
            if scanner.peek() == Some(b'{') {
                let from = start + scanner.at();
                scanner.saw_whitespace = false;
                let head = Head::read(scanner)?;
                let fields = from..start + scanner.at() - 1;
                let has_whitespace = scanner.saw_whitespace;
                index.push(&Entry { fields, has_whitespace, id: head.id, ending: head.seen }, room);
            } else {
                scanner.value()?;
                first_non_object.get_or_insert(index.len());
            }
            if !scanner.take(b',') {
                break;
            }
        }
        scanner.expect(b']')?;
    }
    scanner.end()?;
    Ok(first_non_object)
}

/// What has to be known of a record.
#[derive(Default)]
struct Head {
    id: Option<RecordId>,
    /// The bits that choose the ending.
    seen: usize,
    has_creation_time: bool,
}

impl Head {
    /// Whether it has the fields that tell a record from an object within one.
    ///
    /// Source: "Office 365 Management Activity API schema", common schema: `Id` and `CreationTime` are mandatory.
    fn is_of_record(&self) -> bool {
        self.id.is_some() && self.has_creation_time
    }

    /// Reads an object from its opening brace to its closing one.
    fn read(scanner: &mut Scanner<'_>) -> Result<Self, Fault> {
        let mut head = Self::default();
        scanner.expect(b'{')?;
        if scanner.take(b'}') {
            head.seen = HAS_NOTHING;
            return Ok(head);
        }
        loop {
            let name = scanner.name()?;
            let value = scanner.value()?;
            match &*name.text() {
                b"Id" => head.id = RecordId::of_value(value),
                b"OriginFeed" => head.seen |= HAS_FEED,
                b"TenantName" => head.seen |= HAS_TENANT,
                b"CreationTime" => head.has_creation_time = true,
                _ => {}
            }
            if !scanner.take(b',') {
                scanner.expect(b'}')?;
                return Ok(head);
            }
        }
    }
}

/// The 128 bits of a GUID. `None` for anything else.
fn guid(text: &[u8]) -> Option<u128> {
    let mut id = 0;
    let mut rest = text;
    for (group, digits) in [8, 4, 4, 4, 12].into_iter().enumerate() {
        if group > 0 {
            rest = rest.strip_prefix(b"-")?;
        }
        let (written, behind) = rest.split_at_checked(digits)?;
        for &digit in written {
            id = id << 4 | u128::from(char::from(digit).to_digit(16)?);
        }
        rest = behind;
    }
    rest.is_empty().then_some(id)
}

/// Moves the bytes of a valid JSON text together so that no whitespace stands between tokens; returns how many remain.
fn drop_whitespace(text: &mut [u8]) -> usize {
    let mut kept = 0;
    let mut in_string = false;
    let mut escaped = false;
    for place in 0..text.len() {
        let byte = text[place];
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
        } else if matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
            continue;
        } else {
            in_string = byte == b'"';
        }
        text[kept] = byte;
        kept += 1;
    }
    kept
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn origin() -> Origin {
        Origin::new("Audit.Exchange", Some("contoso"))
    }

    /// The lines that a body becomes.
    fn lines(body: &str) -> Result<Vec<String>, Malformed> {
        let records = Records::split(body.as_bytes().to_vec(), &origin())?;
        Ok(records
            .iter()
            .map(|record| {
                let mut line = Vec::new();
                record.append_line(&mut line);
                String::from_utf8(line).expect("a record's line is UTF-8")
            })
            .collect())
    }

    fn id_of(record: &str) -> Option<RecordId> {
        let records = Records::split(format!("[{record}]").into_bytes(), &origin()).expect("a whole array");
        let mut ids = records.iter().map(|record| record.id);
        ids.next().expect("a record")
    }

    const ADDED: &str = "\"OriginFeed\":\"Audit.Exchange\",\"TenantName\":\"contoso\"";

    #[test]
    fn a_records_own_text_is_kept_to_the_letter() {
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
    fn whitespace_between_tokens_is_dropped_and_a_byte_order_mark_too() {
        let pretty =
            "\u{feff} [\r\n  {\n\t\"a\" : \"b \\\" c\" ,\n  \"d\" : [ 1 , { } ]\n  } ,\r\n { } ]\n\n";
        assert_eq!(
            lines(pretty),
            Ok(vec![format!("{{\"a\":\"b \\\" c\",\"d\":[1,{{}}],{ADDED}}}\n"), format!("{{{ADDED}}}\n")])
        );
    }

    #[test]
    fn what_a_record_says_of_its_origin_itself_is_not_said_again() {
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
            Records::split(b"[{\"a\":{\"OriginFeed\":1}}]".to_vec(), &nameless).expect("a whole array");
        let mut line = Vec::new();
        records.iter().next().expect("a record").append_line(&mut line);
        assert_eq!(line, b"{\"a\":{\"OriginFeed\":1},\"OriginFeed\":\"DLP.All\"}\n");
    }

    #[test]
    fn a_body_that_is_not_one_whole_array_of_objects_brings_nothing() {
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
            assert!(matches!(lines(body), Err(Malformed::NotAnArray { .. })), "{body}");
        }
        assert_eq!(lines("[{},1]"), Err(Malformed::NotAnObject(1)));
        assert_eq!(lines("[[]]"), Err(Malformed::NotAnObject(0)));
        let not_utf8 = Records::split(b"[{\"a\":\"\xff\"}]".to_vec(), &origin());
        assert!(matches!(not_utf8, Err(Malformed::NotAnArray { .. })));
        assert_eq!(lines("[]"), Ok(Vec::new()));
    }

    /// The Ids of what is salvaged of a body, as far as they are numbers, and what is not.
    fn salvaged(body: &[u8]) -> (Vec<String>, Unreadable) {
        let (records, unreadable) = Records::salvage(body.to_vec().into(), &Origin::new("f", None), |_| ());
        let line = |record: Record<'_>| {
            let mut line = Vec::new();
            record.append_line(&mut line);
            let read: serde_json::Value = serde_json::from_slice(&line).expect("a line of JSON in UTF-8");
            read["n"].to_string()
        };
        (records.iter().map(line).collect(), unreadable)
    }

    #[test]
    fn whole_objects_are_salvaged_whatever_their_neighbours_are() {
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
    fn salvaging_takes_no_time_that_grows_with_the_square_of_the_body() {
        let nested = format!("[x{}", "{\"a\":[".repeat(50_000));
        assert_eq!(salvaged(nested.as_bytes()).0, [""; 0]);
        let many = format!("[x{}", ",{\"Id\":".repeat(50_000));
        assert_eq!(salvaged(many.as_bytes()).0, [""; 0]);
    }

    #[test]
    fn an_error_does_not_quote_the_body() {
        let error = lines("[{\"password\":hunter2}]").expect_err("wrong syntax").to_string();
        assert!(!error.contains("hunter2") && error.contains("column"), "{error}");
    }

    #[test]
    fn a_line_has_the_key_of_its_record() {
        let body = r#"[{"Id":"01234567-89ab-cdef-0123-456789abcdef"},{"a":1},{}]"#;
        let records = Records::split(body.as_bytes().to_vec(), &origin()).expect("a whole array");
        for (record, line) in records.iter().zip(lines(body).expect("a whole array")) {
            assert_eq!(record.key(), key_of_line(line.trim_end().as_bytes()), "{line}");
        }
    }

    #[test]
    fn nesting_has_no_limit() {
        let deep = format!("[{{\"a\":{}{}}}]", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(lines(&deep).expect("a whole array").len(), 1);
    }

    #[test]
    fn an_id_is_a_guid_that_says_something() {
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
    fn the_same_id_in_two_tenants_is_two_records() {
        let body = br#"[{"Id":"01234567-89ab-cdef-0123-456789abcdef"},{"Id":"a"}]"#;
        let [one, other] = ["1", "2"].map(|tenant| {
            let origin = origin().of_tenant(tenant);
            let records = Records::split(body.to_vec(), &origin).expect("a whole array");
            let ids: Vec<_> = records.iter().map(|record| record.id.expect("an Id")).collect();
            assert_eq!(origin.guid_of(ids[0]), Some(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef));
            assert_eq!(origin.guid_of(ids[1]), None);
            ids
        });
        assert!(one[0] != other[0] && one[1] != other[1]);
        let line = |name: &str| format!(r#"{{"Id":"a","x":1,"TenantName":"{name}"}}"#);
        assert_ne!(key_of_line(line("one").as_bytes()), key_of_line(line("two").as_bytes()));
        let reordered = br#"{"x":1,"TenantName":"one","Id":"a"}"#;
        assert_eq!(key_of_line(line("one").as_bytes()), key_of_line(reordered));
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
        #[test]
        fn an_array_of_values_becomes_its_values_or_nothing(
            values in prop::collection::vec(json(), 0..8),
            pretty in any::<bool>(),
        ) {
            let array = serde_json::Value::Array(values.clone());
            let body = if pretty { format!("{array:#}") } else { array.to_string() };
            let all_are_objects = values.iter().all(serde_json::Value::is_object);
            let Ok(lines) = lines(&body) else {
                prop_assert!(!all_are_objects, "{body} was refused");
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
        fn a_body_is_taken_exactly_when_it_reads_as_an_array_of_objects(body in "[\\[\\]{}\",:0-9a \\\\n]{0,12}") {
            let reads = serde_json::from_str::<Vec<serde_json::Map<String, serde_json::Value>>>(&body);
            prop_assert_eq!(lines(&body).map(|lines| lines.len()).ok(), reads.map(|records| records.len()).ok());
        }

        #[test]
        fn what_can_be_split_is_salvaged_as_a_whole(values in prop::collection::vec(json(), 0..4)) {
            let objects = values.into_iter().map(|value| serde_json::json!({ "value": value }));
            let body = format!("{:#}", objects.collect::<serde_json::Value>()).into_bytes();
            let (salvaged, unreadable) = Records::salvage(body.clone().into(), &origin(), |_| ());
            let split = Records::split(body, &origin()).expect("a whole array");
            prop_assert_eq!(unreadable, Unreadable::default());
            prop_assert!(split.iter().eq(salvaged.iter()));
        }

        #[test]
        fn a_body_cut_anywhere_brings_nothing(values in prop::collection::vec(json(), 1..4), cut in any::<prop::sample::Index>()) {
            let objects: Vec<_> = values.into_iter().map(|value| serde_json::json!({ "value": value })).collect();
            let mut body = serde_json::Value::Array(objects).to_string().into_bytes();
            body.truncate(cut.index(body.len()));
            prop_assert!(Records::split(body, &origin()).is_err());
        }
    }
}
