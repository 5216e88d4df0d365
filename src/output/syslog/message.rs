//! A record as messages of RFC 5424.
//!
//! | RFC 5424 | record |
//! | --- | --- |
//! | `TIMESTAMP` | `CreationTime` in UTC, to the microsecond; `-` without a usable one |
//! | `HOSTNAME` | the configured name, else that of this machine |
//! | `APP-NAME` | `office365` |
//! | `PROCID` | `-` |
//! | `MSGID` | the content type |
//! | `STRUCTURED-DATA` | one element: `tenant` is the name of the tenant, else its id; `recordId` is the `Id` |
//! | `MSG` | the record as one line of JSON, with or without a byte order mark |
//!
//! A record whose message would be larger than the configured size is split, cut or not sent. Parts have `part`, counted from
//! 1, `parts` and `splitId`, a hash of the record: the parts with the same `splitId`, joined in their order, are the record.
//! A message that is cut has `truncatedFrom`, the number of bytes of the whole record. No character is cut.
//!
//! Source: RFC 5424, section 6, for the form and the limits of all fields; section 6.3.3 for escaped characters.

use std::{borrow::Cow, fmt::Write as _};

use jiff::{RoundMode, Timestamp, TimestampRound, Unit};
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    config::{self, Oversize},
    json,
    output::{Source, split_at_most},
    records::{HeaderField, Record},
};

/// The name of the program in messages.
const APP_NAME: &str = "office365";

/// The value of a header field that is not known.
const NIL: &str = "-";

/// The longest name of a machine.
const HOSTNAME_BYTES_MAX: usize = 255;

/// The longest `Id` that is repeated in the structured data, before characters are escaped. An `Id` is a GUID in practice.
const RECORD_ID_BYTES_MAX: usize = 128;

/// The largest part of a message before the record: every field as long as it can be.
const HEAD_BYTES_MAX: usize = 1024;

/// The smallest maximum size of a message.
///
/// Source: RFC 5424, section 6.1: a receiver should accept messages of up to 2048 bytes.
const MESSAGE_BYTES_MIN: usize = 2048;

const _: () = assert!(HEAD_BYTES_MAX <= MESSAGE_BYTES_MIN / 2, "each part has room for some of the record");

const BYTE_ORDER_MARK: &str = "\u{feff}";

/// Writes messages.
#[derive(Debug)]
pub struct MessageFormat {
    /// `PRI` and `VERSION`, with the space after them.
    start: String,
    hostname: String,
    /// `SD-ID`
    element: String,
    byte_order_mark: &'static str,
    bytes_max: usize,
    oversize: Oversize,
}

/// An error returned when the message of a record is larger than the configured size, and must not be split or cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OversizedMessage {
    /// The size of the message.
    pub bytes: usize,
}

impl MessageFormat {
    /// Returns the configured format.
    pub fn new(settings: &config::SyslogOutput) -> Self {
        let hostname = settings.hostname.clone().or_else(name_of_machine);
        Self {
            start: format!("<{}>1 ", settings.facility * 8 + settings.severity),
            hostname: hostname.unwrap_or_else(|| NIL.to_owned()),
            element: format!("{APP_NAME}@{}", settings.enterprise_number),
            byte_order_mark: if settings.bom { BYTE_ORDER_MARK } else { "" },
            bytes_max: settings.max_message_size.max(MESSAGE_BYTES_MIN),
            oversize: settings.oversize,
        }
    }

    /// Returns the messages of a record: one unless it is split.
    pub fn messages(&self, record: Record<'_>, source: &Source<'_>) -> Result<Vec<String>, OversizedMessage> {
        let (head, line) = (self.head(record, source), record.line());
        let bytes = head.len() + self.tail("").len() + line.len();
        if bytes <= self.bytes_max {
            return Ok(vec![self.message(&head, "", line)]);
        }
        match self.oversize {
            Oversize::DeadLetter => Err(OversizedMessage { bytes }),
            Oversize::Truncate => {
                let mark = format!(" truncatedFrom=\"{}\"", line.len());
                let (kept, _) = split_at_most(line, self.room(&head, &mark));
                Ok(vec![self.message(&head, &mark, kept)])
            }
            Oversize::Split => {
                let id = xxh3_64(line.as_bytes());
                let mark = |part, parts| format!(" splitId=\"{id:016x}\" part=\"{part}\" parts=\"{parts}\"");
                let parts = parts_of(line, self.room(&head, &mark(usize::MAX, usize::MAX)));
                let messages = parts.iter().zip(1..);
                Ok(messages.map(|(text, part)| self.message(&head, &mark(part, parts.len()), text)).collect())
            }
        }
    }

    /// Returns the message up to the parameters that a single message of a record does not have.
    fn head(&self, record: Record<'_>, source: &Source<'_>) -> String {
        let Self { start, hostname, element, .. } = self;
        let time = record.creation_time().and_then(timestamp);
        let time = time.map_or(Cow::Borrowed(NIL), |time| Cow::Owned(time.to_string()));
        let feed = source.content_type.name();
        let mut head = format!("{start}{time} {hostname} {APP_NAME} {NIL} {feed} [{element}");
        append_parameter("tenant", source.tenant_name.unwrap_or(source.tenant_id), &mut head);
        if let Some(id) = record_id(record) {
            append_parameter("recordId", &id, &mut head);
        }
        head
    }

    /// Returns what is between the head and the text of the record.
    fn tail(&self, mark: &str) -> String {
        format!("{mark}] {}", self.byte_order_mark)
    }

    /// Returns the number of bytes that a message with this head and this mark has for the text of the record.
    fn room(&self, head: &str, mark: &str) -> usize {
        let around = head.len() + self.tail(mark).len();
        debug_assert!(around <= HEAD_BYTES_MAX, "{around} bytes before the record");
        self.bytes_max - around
    }

    fn message(&self, head: &str, mark: &str, text: &str) -> String {
        [head, &self.tail(mark), text].concat()
    }
}

/// Returns the name of this machine, if it has one that a message can contain.
fn name_of_machine() -> Option<String> {
    let name = rustix::system::uname().nodename().to_str().ok()?.to_owned();
    let is_valid =
        (1..=HOSTNAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic());
    is_valid.then_some(name)
}

/// Returns the time as far as RFC 5424 can express it: with four digits of the year and six of the second. `None` if it
/// cannot.
fn timestamp(time: Timestamp) -> Option<Timestamp> {
    /// 0000-01-01T00:00:00Z
    const YEAR_0: i64 = -62_167_219_200;
    let to_microseconds = TimestampRound::new().smallest(Unit::Microsecond).mode(RoundMode::Trunc);
    time.round(to_microseconds).ok().filter(|time| time.as_second() >= YEAR_0)
}

/// Returns the `Id` of a record that has one and whose messages have room for it.
fn record_id(record: Record<'_>) -> Option<Cow<'_, str>> {
    record.id()?;
    let id = json::text_of(record.value(HeaderField::Id)?);
    let fits = id.len() <= RECORD_ID_BYTES_MAX && !id.chars().any(char::is_control);
    fits.then_some(id)
}

/// Appends a parameter of structured data.
fn append_parameter(name: &str, value: &str, to: &mut String) {
    let _ = write!(to, " {name}=\""); // into a String: cannot fail
    for character in value.chars() {
        if matches!(character, '"' | '\\' | ']') {
            to.push('\\');
        }
        to.push(character);
    }
    to.push('"');
}

/// Splits a text into parts of at most this number of bytes.
fn parts_of(mut text: &str, bytes_max: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    while !text.is_empty() {
        let (part, rest) = split_at_most(text, bytes_max);
        parts.push(part);
        text = rest;
    }
    parts
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::{config::SyslogProtocol, feed::ContentType, records::RecordBatch};

    const BYTES_MAX: usize = 2_048;

    fn format(oversize: Oversize, bom: bool) -> MessageFormat {
        MessageFormat::new(&config::SyslogOutput {
            address: "localhost".to_owned(),
            port: 6514,
            protocol: SyslogProtocol::Tcp,
            hostname: Some("collector.example".to_owned()),
            facility: 0,
            severity: 0,
            enterprise_number: 32_473,
            bom,
            max_message_size: BYTES_MAX,
            oversize,
            dead_letters: true,
            confirm: true,
            ack_timeout: Duration::ZERO,
            retry_timeout: Duration::ZERO,
            tls: None,
        })
    }

    fn source(tenant_name: Option<&str>) -> Source<'_> {
        Source {
            tenant_id: "11111111-1111-4111-8111-111111111111",
            tenant_name,
            content_type: ContentType::AuditAzureActiveDirectory,
            content_id: "blob",
            blob: 0,
        }
    }

    fn messages(format: &MessageFormat, tenant: &str, line: &str) -> Result<Vec<String>, OversizedMessage> {
        let batch = RecordBatch::for_test(&[line]);
        let record = batch.iter().next().expect("a record");
        format.messages(record, &source(Some(tenant)))
    }

    #[test]
    fn writes_each_field() {
        let start = "<0>1 2026-11-22T10:15:00Z collector.example office365 - Audit.AzureActiveDirectory [office365@32473";
        for (tenant, line, bom, expected) in [
            (
                r#"a"b\c]d"#,
                r#"{"Id":"x\"]\\","CreationTime":"2026-11-22T10:15:00"}"#,
                false,
                format!(r#"{start} tenant="a\"b\\c\]d" recordId="x\"\]\\"] "#),
            ),
            (
                "contoso",
                r#"{"Id":0,"CreationTime":"2026-11-22T10:15:00"}"#,
                true,
                format!("{start} tenant=\"contoso\"] \u{feff}"),
            ),
            (
                "contoso",
                r#"{"Id":"a\u0000b","CreationTime":"2026-11-22T10:15:00"}"#,
                false,
                format!("{start} tenant=\"contoso\"] "),
            ),
        ] {
            let written = messages(&format(Oversize::Split, bom), tenant, line);
            assert_eq!(written, Ok(vec![expected + line]));
        }
    }

    #[test]
    fn writes_times_that_a_message_can_have() {
        let format = format(Oversize::Split, false);
        for (time, expected) in [
            (r#""2026-11-22T10:15:00""#, "2026-11-22T10:15:00Z"),
            (r#""2026-11-22T10:15:00.1234567Z""#, "2026-11-22T10:15:00.123456Z"),
            (r#""2026-11-22T10:15:00+02:00""#, "2026-11-22T08:15:00Z"),
            (r#""0000-01-01T00:00:00""#, "0000-01-01T00:00:00Z"),
            (r#""-000001-12-31T23:59:59""#, "-"),
            (r#""yesterday""#, "-"),
            ("null", "-"),
            ("7", "-"),
        ] {
            let written =
                messages(&format, "c", &format!(r#"{{"CreationTime":{time}}}"#)).expect("a message");
            assert_eq!(written[0].split(' ').nth(1), Some(expected), "{time}");
        }
    }

    #[test]
    fn sends_a_message_of_the_maximum_size_whole_and_a_larger_one_not() {
        let format = format(Oversize::DeadLetter, false);
        let around = messages(&format, "c", r#"{"a":""}"#).expect("a message")[0].len();
        let text = "x".repeat(BYTES_MAX - around);
        let whole = messages(&format, "c", &format!(r#"{{"a":"{text}"}}"#)).expect("a message");
        assert_eq!(whole[0].len(), BYTES_MAX);
        let larger = messages(&format, "c", &format!(r#"{{"a":"{text}x"}}"#));
        assert_eq!(larger, Err(OversizedMessage { bytes: BYTES_MAX + 1 }));
    }

    #[test]
    fn each_part_has_room_for_some_of_the_record() {
        let longest = ("]".repeat(64), "\u{10348}".repeat(64));
        for tenant in [longest.0, longest.1] {
            let mut format = format(Oversize::Split, true);
            format.hostname = "h".repeat(HOSTNAME_BYTES_MAX);
            format.element = format!("{APP_NAME}@4294967295");
            let line =
                format!(r#"{{"Id":"{}","a":"{}"}}"#, "]".repeat(RECORD_ID_BYTES_MAX), "x".repeat(10_000));
            let parts = messages(&format, &tenant, &line).expect("parts");
            assert!(parts.iter().all(|part| part.len() <= BYTES_MAX));
            assert!(parts.len() < 15, "{} parts", parts.len());
        }
    }

    proptest! {
        #![proptest_config(crate::proptest_config())]

        #[test]
        fn parts_are_the_record_and_no_larger_than_the_maximum(
            text in proptest::collection::vec(proptest::char::any(), 0..1_500), bom: bool,
        ) {
            let text: String = text.into_iter().filter(|it| !it.is_control() && !matches!(it, '"' | '\\')).collect();
            let line = format!(r#"{{"Id":"i","a":"{text}"}}"#);
            let parts = messages(&format(Oversize::Split, bom), "c", &line).expect("parts");
            let mut joined = String::new();
            for (part, number) in parts.iter().zip(1..) {
                prop_assert!(part.len() <= BYTES_MAX);
                let (head, rest) = part.split_once("] ").expect("structured data");
                let marked = head.contains(&format!(" part=\"{number}\" parts=\"{}\"", parts.len()));
                prop_assert_eq!(marked, parts.len() > 1);
                joined.push_str(if bom { rest.strip_prefix(BYTE_ORDER_MARK).expect("a mark") } else { rest });
            }
            prop_assert_eq!(&joined, &line);

            let cut = messages(&format(Oversize::Truncate, bom), "c", &line).expect("a message");
            prop_assert_eq!(cut.len(), 1);
            let (head, rest) = cut[0].split_once("] ").expect("structured data");
            let rest = rest.trim_start_matches(BYTE_ORDER_MARK);
            prop_assert!(cut[0].len() <= BYTES_MAX && line.starts_with(rest));
            let mark = format!(" truncatedFrom=\"{}\"", line.len());
            prop_assert_eq!(head.ends_with(&mark), rest.len() < line.len());
        }
    }
}
