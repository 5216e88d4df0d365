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

use memchr::memchr2;

/// The maximum depth of objects and arrays in a record; deeper values are sent as text. The arrays and the map that a
/// message and a receiver add around a record must fit too.
///
/// Source: msgpack-c, with which Fluent Bit decodes, accepts 32 levels (`MSGPACK_EMBED_STACK_SIZE`).
pub(super) const NESTING_MAX: usize = 24;

const _: () = assert!(NESTING_MAX < 32);

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
                let header =
                    if level.is_map { Header::map(level.values / 2) } else { Header::array(level.values) };
                header.put_before(level.header_at, to);
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
            b't' => at = append_word(at, 4, 0xc3, to),
            b'f' => at = append_word(at, 5, 0xc2, to),
            b'n' => at = append_word(at, 4, 0xc0, to),
            _ => at = append_number(json, at, to),
        }
    }
}

/// Appends a text, valid UTF-8.
pub fn append_text(text: &[u8], to: &mut Vec<u8>) {
    Header::text(text.len()).append(to);
    to.extend_from_slice(text);
}

/// Appends the header of this number of bytes that are not a text.
pub fn append_binary_header(length: usize, to: &mut Vec<u8>) {
    Header::of(length, [None, Some(0xc4), Some(0xc5), Some(0xc6)]).append(to);
}

/// Appends the header of an array; its elements follow.
pub fn append_array_header(length: usize, to: &mut Vec<u8>) {
    Header::array(length).append(to);
}

/// Appends the header of a map; its keys and values follow.
pub fn append_map_header(length: usize, to: &mut Vec<u8>) {
    Header::map(length).append(to);
}

/// Appends a number that is not negative, in as few bytes as it takes.
pub fn append_unsigned(number: u64, to: &mut Vec<u8>) {
    let bytes = number.to_be_bytes();
    match number {
        0..0x80 => to.push(bytes[7]),
        0x80..0x100 => to.extend([0xcc, bytes[7]]),
        0x100..0x1_0000 => to.extend([0xcd, bytes[6], bytes[7]]),
        0x1_0000..0x1_0000_0000 => {
            to.push(0xce);
            to.extend(&bytes[4..]);
        }
        _ => {
            to.push(0xcf);
            to.extend(bytes);
        }
    }
}

/// Appends a negative number, in as few bytes as it takes.
fn append_negative(number: i64, to: &mut Vec<u8>) {
    let bytes = number.to_be_bytes();
    match number {
        -0x20.. => to.push(bytes[7]),
        -0x80.. => to.extend([0xd0, bytes[7]]),
        -0x8000.. => to.extend([0xd1, bytes[6], bytes[7]]),
        -0x8000_0000.. => {
            to.push(0xd2);
            to.extend(&bytes[4..]);
        }
        _ => {
            to.push(0xd3);
            to.extend(bytes);
        }
    }
}

/// A header of one to five bytes: the kind of value that follows, and its length.
struct Header {
    bytes: [u8; 5],
    length: usize,
}

impl Header {
    fn map(pairs: usize) -> Self {
        Self::of(pairs, [Some(0x80), None, Some(0xde), Some(0xdf)])
    }

    fn array(elements: usize) -> Self {
        Self::of(elements, [Some(0x90), None, Some(0xdc), Some(0xdd)])
    }

    fn text(bytes: usize) -> Self {
        Self::of(bytes, [Some(0xa0), Some(0xd9), Some(0xda), Some(0xdb)])
    }

    /// `kinds` are the byte that contains a short length itself, up to 31 for texts and 15 for others, and those that are
    /// followed by a length of one, two and four bytes.
    fn of(count: usize, kinds: [Option<u8>; 4]) -> Self {
        let count = u32::try_from(count).expect("no body is as large as four gigabytes");
        let [_, _, high, low] = count.to_be_bytes();
        let itself_max = if kinds[0] == Some(0xa0) { 31 } else { 15 };
        match (count, kinds) {
            (_, [Some(kind), ..]) if count <= itself_max => {
                Self { bytes: [kind | low, 0, 0, 0, 0], length: 1 }
            }
            (0..0x100, [_, Some(kind), ..]) => Self { bytes: [kind, low, 0, 0, 0], length: 2 },
            (0..0x1_0000, [_, _, Some(kind), _]) => Self { bytes: [kind, high, low, 0, 0], length: 3 },
            (_, [.., kind]) => {
                let [highest, higher, ..] = count.to_be_bytes();
                let kind = kind.expect("every kind can be counted in four bytes");
                Self { bytes: [kind, highest, higher, high, low], length: 5 }
            }
        }
    }

    fn append(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.bytes[..self.length]);
    }

    /// Writes the header where one byte was left for it, and moves what follows if it needs more.
    fn put_before(&self, at: usize, to: &mut Vec<u8>) {
        if self.length > 1 {
            let end = to.len();
            to.resize(end + self.length - 1, 0);
            to.copy_within(at + 1..end, at + self.length);
        }
        to[at..at + self.length].copy_from_slice(&self.bytes[..self.length]);
    }
}

/// Appends `true`, `false` or `null`. Returns where it ends.
fn append_word(at: usize, length: usize, byte: u8, to: &mut Vec<u8>) -> usize {
    to.push(byte);
    at + length
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
            Header::text(to.len() - header_at - 1).put_before(header_at, to);
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
            Ok(number @ 1..) if is_negative => append_negative(-number, to),
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
        (_, Ok(number), _) => append_negative(number, to),
        (_, _, Ok(number)) if number.is_finite() && !is_whole => {
            to.push(0xcb);
            to.extend(number.to_be_bytes());
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
