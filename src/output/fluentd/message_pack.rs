//! Converts JSON text to MessagePack in one pass over the text, without a tree of values.
//!
//! Some JSON has no equivalent in MessagePack, or none that its decoders accept:
//!
//! - A number beyond 64 bits, and one like `1e400` that is beyond the range of a double, become the text of the number:
//!   nothing is lost, and no receiver reads infinity. Other numbers with a fraction or an exponent become the nearest double;
//!   `-0` becomes 0.
//! - A field that occurs twice stays there twice, in order; receivers usually keep the last.
//! - Half of a surrogate pair, such as `\ud800`, is not a character and becomes U+FFFD. All other escapes are decoded.
//! - Objects and arrays that are nested deeper than `NESTING_MAX` become their JSON text: decoders reject deep nesting,
//!   and with it the whole message.
//!
//! Source of the format: "MessagePack specification", <https://github.com/msgpack/msgpack/blob/master/spec.md>.

use std::io::{Cursor, Write};

use memchr::memchr2;
use rmp::{Marker, encode};

/// The maximum depth of objects and arrays in a record; deeper values are sent as text. The arrays and the map that a
/// message and a receiver add around a record must fit too.
///
/// Source: msgpack-c, with which Fluent Bit decodes, accepts 32 levels (`MSGPACK_EMBED_STACK_SIZE`).
pub(super) const NESTING_MAX: usize = 24;

const _: () = assert!(NESTING_MAX < 32);

/// The length of the longest header: the kind of value, and a length of four bytes.
const HEADER_BYTES_MAX: usize = 5;

const TO_MEMORY: &str = "memory accepts every byte";

/// An object or array that is not closed yet.
#[derive(Clone, Copy)]
struct Level {
    is_map: bool,
    /// The position of its header: one byte, until the required number is known.
    header_at: usize,
    /// The number of values in it so far; in an object, keys count too.
    values: usize,
}

/// Appends the object of a text, which must be valid JSON, as [`crate::json`] has checked it. What follows the object in
/// the text is ignored.
pub fn append_object(text: &str, to: &mut Vec<u8>) {
    let json = text.as_bytes();
    let mut levels: Vec<Level> = Vec::with_capacity(NESTING_MAX);
    let mut at = 0;
    loop {
        let byte = json[at];
        match byte {
            b',' | b':' | b' ' | b'\t' | b'\r' | b'\n' => {
                at += 1;
                continue;
            }
            b'}' | b']' => {
                let level = levels.pop().expect("valid JSON closes only what is open");
                put_header(level.header_at, to, |header| {
                    if level.is_map {
                        append_map_header(level.values / 2, header);
                    } else {
                        append_array_header(level.values, header);
                    }
                });
                if levels.is_empty() {
                    return;
                }
                at += 1;
                continue;
            }
            _ => {}
        }
        let depth = levels.len();
        if let Some(level) = levels.last_mut() {
            level.values += 1;
        }
        let start = at;
        match byte {
            b'{' | b'[' if depth < NESTING_MAX => {
                levels.push(Level { is_map: byte == b'{', header_at: to.len(), values: 0 });
                to.push(0);
                at += 1;
            }
            b'{' | b'[' => {
                at = end_of_container(json, at);
                append_text(&json[start..at], to);
            }
            b'"' => at = append_string(json, at + 1, to),
            b't' => at = append_word(at, "true", Marker::True, to),
            b'f' => at = append_word(at, "false", Marker::False, to),
            b'n' => at = append_word(at, "null", Marker::Null, to),
            _ => at = append_number(json, at, to),
        }
    }
}

/// Appends a text, valid UTF-8.
pub fn append_text(text: &[u8], to: &mut Vec<u8>) {
    append_text_header(text.len(), to);
    to.extend_from_slice(text);
}

/// Declares functions that append a header of a value with this many bytes, elements or pairs, which follow it.
macro_rules! headers {
    ($($(#[$doc:meta])* $visibility:vis $append:ident = $write:path;)*) => {$(
        $(#[$doc])*
        $visibility fn $append(length: usize, to: &mut impl Write) {
            let length = length.try_into().expect("no body is as large as four gigabytes");
            $write(to, length).expect(TO_MEMORY);
        }
    )*};
}

headers! {
    /// Appends the header of a text.
    append_text_header = encode::write_str_len;
    /// Appends the header of bytes that are not a text.
    pub append_binary_header = encode::write_bin_len;
    /// Appends the header of an array.
    pub append_array_header = encode::write_array_len;
    /// Appends the header of a map.
    pub append_map_header = encode::write_map_len;
}

/// Appends a number that is not negative, in as few bytes as it takes.
pub fn append_unsigned(number: u64, to: &mut Vec<u8>) {
    encode::write_uint(to, number).expect(TO_MEMORY);
}

/// Appends a number, in as few bytes as it takes.
fn append_signed(number: i64, to: &mut Vec<u8>) {
    encode::write_sint(to, number).expect(TO_MEMORY);
}

/// Writes a header where one byte was left for it, and moves what follows if the header needs more.
fn put_header(at: usize, to: &mut Vec<u8>, write: impl FnOnce(&mut Cursor<[u8; HEADER_BYTES_MAX]>)) {
    let mut header = Cursor::new([0; HEADER_BYTES_MAX]);
    write(&mut header);
    let length = usize::try_from(header.position()).expect("a few bytes");
    if length > 1 {
        let end = to.len();
        to.resize(end + length - 1, 0);
        to.copy_within(at + 1..end, at + length);
    }
    to[at..at + length].copy_from_slice(&header.get_ref()[..length]);
}

/// Appends `true`, `false` or `null`. Returns where it ends.
fn append_word(at: usize, word: &str, marker: Marker, to: &mut Vec<u8>) -> usize {
    to.push(marker.to_u8());
    at + word.len()
}

/// Appends the string that begins here, after its first quote. Returns where it ends, after its last quote.
fn append_string(json: &[u8], at: usize, to: &mut Vec<u8>) -> usize {
    let end = next_of_string(json, at);
    if json[end] == b'"' {
        append_text(&json[at..end], to);
        return end + 1;
    }
    let header_at = to.len();
    to.push(0);
    let (mut start, mut end) = (at, end);
    loop {
        to.extend_from_slice(&json[start..end]);
        if json[end] == b'"' {
            let length = to.len() - header_at - 1;
            put_header(header_at, to, |header| append_text_header(length, header));
            return end + 1;
        }
        start = append_escape(json, end + 1, to);
        end = next_of_string(json, start);
    }
}

/// Returns the position of the next quote or backslash.
fn next_of_string(json: &[u8], at: usize) -> usize {
    at + memchr2(b'"', b'\\', &json[at..]).expect("valid JSON ends its strings")
}

/// Appends the character of the escape that begins here, after its backslash. Returns where it ends.
fn append_escape(json: &[u8], at: usize, to: &mut Vec<u8>) -> usize {
    let byte = match json[at] {
        b'b' => 0x08,
        b'f' => 0x0c,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'u' => {
            let (character, end) = unicode_escape(json, at + 1);
            to.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            return end;
        }
        itself => itself,
    };
    to.push(byte);
    at + 1
}

/// Returns the character of four hexadecimal digits, or of two escapes of four, and where they end.
fn unicode_escape(json: &[u8], at: usize) -> (char, usize) {
    let first = four_digits(json, at);
    let end = at + 4;
    if let Some(character) = char::from_u32(first) {
        return (character, end);
    }
    let is_high = (0xd800..0xdc00).contains(&first);
    if is_high && json[end..].starts_with(b"\\u") {
        let second = four_digits(json, end + 2);
        if (0xdc00..0xe000).contains(&second) {
            let combined = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
            let character = char::from_u32(combined).expect("two surrogates make a character");
            return (character, end + 6);
        }
    }
    (char::REPLACEMENT_CHARACTER, end)
}

fn four_digits(json: &[u8], at: usize) -> u32 {
    json[at..at + 4].iter().fold(0, |number, &digit| {
        number << 4 | (digit as char).to_digit(16).expect("valid JSON has four digits here")
    })
}

/// Appends the number that begins here. Returns where it ends.
fn append_number(json: &[u8], at: usize, to: &mut Vec<u8>) -> usize {
    let is_negative = json[at] == b'-';
    let digits_at = at + usize::from(is_negative);
    let digits = json[digits_at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let end = digits_at + digits;
    if !matches!(json.get(end), Some(b'.' | b'e' | b'E')) && digits <= 18 {
        let number =
            json[digits_at..end].iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
        match i64::try_from(number) {
            Ok(number) if is_negative => append_signed(-number, to),
            _ => append_unsigned(number, to),
        }
        return end;
    }
    let rest =
        json[end..].iter().take_while(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-'));
    let end = end + rest.count();
    let text = std::str::from_utf8(&json[at..end]).expect("a number is ASCII");
    let is_whole = end == digits_at + digits;
    match (text.parse::<u64>(), text.parse::<i64>(), text.parse::<f64>()) {
        (Ok(number), _, _) => append_unsigned(number, to),
        (_, Ok(number), _) => append_signed(number, to),
        (_, _, Ok(number)) if number.is_finite() && !is_whole => {
            encode::write_f64(to, number).expect(TO_MEMORY);
        }
        _ => append_text(text.as_bytes(), to),
    }
    end
}

/// Returns where the object or array that begins here ends.
fn end_of_container(json: &[u8], mut at: usize) -> usize {
    let mut depth = 0_usize;
    loop {
        match json[at] {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            b'"' => at = end_of_string(json, at + 1) - 1,
            _ => {}
        }
        at += 1;
        if depth == 0 {
            return at;
        }
    }
}

/// Returns where the string that begins here, after its first quote, ends, after its last quote.
fn end_of_string(json: &[u8], mut at: usize) -> usize {
    loop {
        at = next_of_string(json, at);
        if json[at] == b'"' {
            return at + 1;
        }
        at += 2;
    }
}
