//! Redaction of text from servers: removes secrets of this program that a server repeats, and characters that could
//! disguise a line.
//!
//! Every text from a server passes [`one_line`] or [`content_id`] before it is written to the log, the state, `status`, the
//! metrics or the metadata of the quarantine. Secrets of the configuration are registered when they are read, tokens when
//! they arrive, and assertions when they are created. A token stays registered until no text that can contain it is left.
//!
//! A secret is found verbatim, percent-encoded, escaped as in JSON or HTML, and in Base64, alone or as a part of a longer
//! text (`Basic` authentication), also if only its beginning is repeated. Secrets of fewer than `SECRET_BYTES_MIN`
//! bytes are not searched for because they would match common words.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    ops::{Bound, Range},
    sync::{LazyLock, PoisonError, RwLock},
};

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use xxhash_rust::xxh3::xxh3_128;

use crate::limits::CONTENT_ID_BYTES_MAX;

/// The maximum number of characters of a server's text in one line of the log, …
const MESSAGE_CHARACTERS_MAX: usize = 300;

/// … and of those that are examined: secrets are removed before the text is cut.
const MESSAGE_CHARACTERS_READ_MAX: usize = 4 * 1024;

/// The maximum number of characters of a receiver's reason in a message.
pub const REASON_CHARACTERS_MAX: usize = 160;

/// Shorter secrets are not searched for in a server's text: they would match common words.
const SECRET_BYTES_MIN: usize = 6;

/// The minimum length of a secret's beginning that is removed too.
const SECRET_PREFIX_BYTES_MIN: usize = 16;

/// The number of characters that are kept of a content id that is too long or has unusual characters.
const CONTENT_ID_CHARACTERS_KEPT: usize = 100;

const _: () = {
    assert!(MESSAGE_CHARACTERS_MAX < MESSAGE_CHARACTERS_READ_MAX);
    assert!(SECRET_BYTES_MIN < SECRET_PREFIX_BYTES_MIN);
    assert!(
        4 * CONTENT_ID_CHARACTERS_KEPT + 3 + 32 < CONTENT_ID_BYTES_MAX,
        "a shortened content id is not shortened again"
    );
};

/// The replacement for a secret, and the end of a text that was cut.
const ELLIPSIS: char = '…';

/// The maximum number of times that a text is unescaped: `%252B` is `+` after two.
const ESCAPE_LEVELS_MAX: usize = 3;

/// The first bytes of a secret, by which it is found.
type Head = [u8; SECRET_BYTES_MIN];

/// The secrets of this process.
static SECRETS: LazyLock<RwLock<Secrets>> = LazyLock::new(RwLock::default);

/// Registers a secret, which is then removed from every text of a server.
pub fn register(secret: &str) {
    let mut secrets = SECRETS.write().unwrap_or_else(PoisonError::into_inner);
    secrets.add(secret);
}

/// Ends one registration of a secret: no text of a server that can contain it is left.
pub fn unregister(secret: &str) {
    let mut secrets = SECRETS.write().unwrap_or_else(PoisonError::into_inner);
    secrets.remove(secret);
}

/// Registers the value of a header and each of its words: a token follows the word `Bearer`.
pub fn register_header(value: &str) {
    let mut secrets = SECRETS.write().unwrap_or_else(PoisonError::into_inner);
    secrets.add(value);
    for word in value.split_whitespace() {
        secrets.add(word);
        let password = LENIENT_BASE64.decode(word).ok().and_then(|pair| String::from_utf8(pair).ok());
        if let Some((_, password)) = password.as_deref().and_then(|pair| pair.split_once(':')) {
            secrets.add(password);
        }
    }
}

/// Registers a URL that contains a password, and the password.
pub fn register_url(url: &str) {
    let authority = url.split("://").last().and_then(|rest| rest.split(['/', '?', '#']).next());
    let Some((user, _)) = authority.and_then(|authority| authority.rsplit_once('@')) else { return };
    register(url);
    if let Some((_, password)) = user.split_once(':') {
        register(password);
        if let Some(unescaped) = View::of(password).unescaped() {
            register(&String::from_utf8_lossy(&unescaped.bytes));
        }
    }
}

/// Returns the text with `…` in place of each secret.
pub fn secrets(text: &str) -> Cow<'_, str> {
    SECRETS.read().unwrap_or_else(PoisonError::into_inner).redacted(text)
}

/// Does the same with a body. A body is redacted before it is cut.
pub fn body(body: &[u8]) -> Vec<u8> {
    secrets(&String::from_utf8_lossy(body)).into_owned().into_bytes()
}

/// Returns the first line of a text without secrets, control characters and characters that change how text is
/// displayed; at most `MESSAGE_CHARACTERS_MAX` characters, the last of them `…` if the text was longer.
pub fn one_line(text: &str) -> String {
    let first = text.trim().lines().next().unwrap_or_default();
    let plain = plain(first, MESSAGE_CHARACTERS_READ_MAX);
    cut(&secrets(&plain), MESSAGE_CHARACTERS_MAX)
}

/// Returns the beginning of a reason that a receiver gives, as a message quotes it: [`one_line`], but shorter.
pub fn short_reason(text: &str) -> String {
    one_line(text).chars().take(REASON_CHARACTERS_MAX).collect::<String>().trim_end().to_owned()
}

/// Returns the content id of a blob in the form that the program uses everywhere: verbatim if it has at most
/// [`CONTENT_ID_BYTES_MAX`] bytes and contains neither secrets nor removed characters. Any other id is replaced by its
/// first `CONTENT_ID_CHARACTERS_KEPT` characters and a hash of the whole, so that the blob is collected and
/// remembered like any other.
pub fn content_id(id: String) -> String {
    let is_usual = is_printable_ascii(&id) || !id.chars().any(is_removed);
    if id.len() <= CONTENT_ID_BYTES_MAX && is_usual && secrets(&id) == id {
        return id;
    }
    let beginning = plain(&id, MESSAGE_CHARACTERS_READ_MAX);
    let kept: String = secrets(&beginning).chars().take(CONTENT_ID_CHARACTERS_KEPT).collect();
    format!("{kept}{ELLIPSIS}{:032x}", xxh3_128(id.as_bytes()))
}

/// Returns at most `characters_max` characters, without those that are invisible or change how others are displayed.
/// Separators of lines and words become spaces.
fn plain(text: &str, characters_max: usize) -> Cow<'_, str> {
    if text.len() <= characters_max && is_printable_ascii(text) {
        return Cow::Borrowed(text);
    }
    let plain = text.chars().take(characters_max).filter_map(|character| match character {
        '\t' | '\r' | '\n' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}' => Some(' '),
        removed if is_removed(removed) => None,
        other => Some(other),
    });
    Cow::Owned(plain.collect())
}

fn is_printable_ascii(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

/// Returns whether this is a control character or one of the general categories Cf (format), Zl and Zp (separators of
/// lines and paragraphs), such as U+202E, which displays the following text from right to left.
///
/// Source: Unicode 16, `UnicodeData.txt`.
fn is_removed(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}'
                | '\u{600}'..='\u{605}'
                | '\u{61c}'
                | '\u{6dd}'
                | '\u{70f}'
                | '\u{890}'..='\u{891}'
                | '\u{8e2}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{110bd}'
                | '\u{110cd}'
                | '\u{13430}'..='\u{1343f}'
                | '\u{1bca0}'..='\u{1bca3}'
                | '\u{1d173}'..='\u{1d17a}'
                | '\u{e0001}'
                | '\u{e0020}'..='\u{e007f}'
        )
}

fn cut(text: &str, characters_max: usize) -> String {
    match text.char_indices().nth(characters_max) {
        None => text.to_owned(),
        Some(_) => text.chars().take(characters_max - 1).chain([ELLIPSIS]).collect(),
    }
}

/// Secrets with the same first bytes, and how often each is registered.
type SameHead = BTreeMap<Box<[u8]>, usize>;

/// Secrets, by their first bytes. They are sorted, because all tokens of Microsoft begin with the same bytes.
#[derive(Debug, Default)]
struct Secrets {
    by_head: HashMap<Head, SameHead>,
    /// The first bytes of the heads.
    beginnings: Filter,
    /// A group of four characters of each head in Base64, for each of the three offsets in a group at which a secret can
    /// begin.
    encoded: Filter,
}

/// A set of four bytes that can contain others too. Most places of a text begin no secret; this finds that out in a fraction
/// of the time of a look-up, and each content id of a listing is searched.
#[derive(Debug)]
struct Filter(Box<[u64; Self::WORDS]>);

impl Default for Filter {
    fn default() -> Self {
        Self(Box::new([0; Self::WORDS]))
    }
}

impl Filter {
    /// 65,536 bits: with the secrets of a thousand tenants, few of them are set.
    const WORDS: usize = 1 << 10;

    /// Returns the index of the word and the bit of four bytes, by a multiplicative hash.
    fn place(bytes: [u8; 4]) -> (usize, u64) {
        let hash = u32::from_le_bytes(bytes).wrapping_mul(0x9E37_79B1);
        ((hash >> 22) as usize, 1 << (hash >> 16 & 63))
    }

    fn add(&mut self, bytes: [u8; 4]) {
        let (word, bit) = Self::place(bytes);
        self.0[word] |= bit;
    }

    fn may_contain(&self, bytes: [u8; 4]) -> bool {
        let (word, bit) = Self::place(bytes);
        self.0[word] & bit != 0
    }
}

impl Secrets {
    fn add(&mut self, secret: &str) {
        let secret = secret.trim().as_bytes();
        let Some(head) = secret.first_chunk::<SECRET_BYTES_MIN>() else { return };
        let [first, second, third, fourth, fifth, _] = *head;
        self.beginnings.add([first, second, third, fourth]);
        for group in [[first, second, third], [second, third, fourth], [third, fourth, fifth]] {
            let mut characters = [0; 4];
            let encoded = LENIENT_BASE64.encode_slice(group, &mut characters);
            assert_eq!(encoded, Ok(4), "three bytes are four characters of Base64");
            self.encoded.add(characters);
        }
        *self.by_head.entry(*head).or_default().entry(secret.into()).or_default() += 1;
    }

    /// Removes a registration. The filters keep its bytes: they may be those of other secrets.
    fn remove(&mut self, secret: &str) {
        let secret = secret.trim().as_bytes();
        let Some(head) = secret.first_chunk::<SECRET_BYTES_MIN>() else { return };
        let Some(same_head) = self.by_head.get_mut(head) else { return };
        match same_head.get_mut(secret) {
            Some(1) => drop(same_head.remove(secret)),
            Some(registrations) => *registrations -= 1,
            None => {}
        }
    }

    fn redacted<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if self.by_head.is_empty() || text.len() < SECRET_BYTES_MIN {
            return Cow::Borrowed(text);
        }
        let mut found = Vec::new();
        let mut view = View::of(text);
        for _ in 0..=ESCAPE_LEVELS_MAX {
            self.find(&view, &mut found);
            match view.unescaped() {
                Some(unescaped) => view = unescaped,
                None => break,
            }
        }
        if found.is_empty() {
            return Cow::Borrowed(text);
        }
        found.sort_unstable_by_key(|range| range.start);
        let (mut redacted, mut end) = (String::with_capacity(text.len()), 0);
        for range in found {
            if range.start >= end {
                redacted.push_str(&text[end..character_start(text, range.start)]);
                redacted.push(ELLIPSIS);
            }
            end = end.max(character_end(text, range.end));
        }
        redacted.push_str(&text[end..]);
        Cow::Owned(redacted)
    }

    /// Adds the ranges of the text that contain a secret, verbatim or in Base64.
    fn find(&self, view: &View, found: &mut Vec<Range<usize>>) {
        self.each_match(&view.bytes, |place| found.push(view.range(place)));
        let (mut characters, mut decoded) = (Vec::new(), Vec::new());
        for run in base64_runs(&view.bytes) {
            characters.clear();
            characters.extend(view.bytes[run.clone()].iter().copied().map(in_standard_alphabet));
            let mut groups = characters.windows(4).filter_map(<[u8]>::first_chunk);
            if !groups.any(|group| self.encoded.may_contain(*group)) {
                continue;
            }
            // A secret within a longer text can begin at any of the four offsets of a group.
            let holds_secret = (0..4).any(|offset| {
                decode(&characters[offset..], &mut decoded);
                let mut is_found = false;
                self.each_match(&decoded, |_| is_found = true);
                is_found
            });
            if holds_secret {
                found.push(view.range(run));
            }
        }
    }

    /// Calls `act` with the range of each secret, or of the beginning of one that is long enough or cut off by the end.
    fn each_match(&self, bytes: &[u8], mut act: impl FnMut(Range<usize>)) {
        let mut start = 0;
        while let Some(head) = bytes[start..].first_chunk::<SECRET_BYTES_MIN>() {
            let [first, second, third, fourth, ..] = *head;
            if !self.beginnings.may_contain([first, second, third, fourth]) {
                start += 1;
                continue;
            }
            let rest = &bytes[start..];
            let length = self.by_head.get(head).and_then(|same_head| longest_match(same_head, rest));
            if let Some(length) = length {
                act(start..start + length);
            }
            start += length.unwrap_or(1);
        }
    }
}

/// Returns the length of the longest secret at the start of a text, or of the beginning of one that is long enough or cut off
/// by the end.
fn longest_match(secrets: &SameHead, text: &[u8]) -> Option<usize> {
    // In a sorted set, a neighbour has the longest common beginning.
    let before = secrets.range::<[u8], _>((Bound::Unbounded, Bound::Included(text))).next_back();
    let after = secrets.range::<[u8], _>((Bound::Excluded(text), Bound::Unbounded)).next();
    let longest = before.into_iter().chain(after).map(|(secret, _)| length_in_common(secret, text)).max()?;
    if longest == text.len() || longest >= SECRET_PREFIX_BYTES_MIN {
        return Some(longest);
    }
    (SECRET_BYTES_MIN..=longest).rev().find(|&length| secrets.contains_key(&text[..length]))
}

fn length_in_common(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

/// The bytes of a text after unescaping, each with the range of the original text that it comes from.
struct View {
    bytes: Vec<u8>,
    /// Empty if the bytes are those of the original text.
    origins: Vec<(u32, u32)>,
}

impl View {
    fn of(text: &str) -> Self {
        Self { bytes: text.as_bytes().to_vec(), origins: Vec::new() }
    }

    fn origin(&self, place: usize) -> (u32, u32) {
        let own = || (place.try_into().unwrap_or(u32::MAX), (place + 1).try_into().unwrap_or(u32::MAX));
        self.origins.get(place).copied().unwrap_or_else(own)
    }

    /// Returns the range of the original text that these bytes come from.
    fn range(&self, bytes: Range<usize>) -> Range<usize> {
        let (start, _) = self.origin(bytes.start);
        let (_, end) = self.origin(bytes.end - 1);
        start as usize..end as usize
    }

    /// Replaces `%41`, `\u0041`, `\"`, `&#65;`, `&#x41;`, `&amp;` and the like by the characters they encode. `None` if
    /// there are none.
    fn unescaped(&self) -> Option<Self> {
        memchr::memchr3(b'%', b'\\', b'&', &self.bytes)?;
        let (mut bytes, mut origins) = (Vec::with_capacity(self.bytes.len()), Vec::new());
        let (mut place, mut is_changed) = (0, false);
        while let Some(&byte) = self.bytes.get(place) {
            let (byte, length) = escape(&self.bytes[place..]).unwrap_or((byte, 1));
            is_changed |= length > 1;
            bytes.push(byte);
            origins.push((self.origin(place).0, self.origin(place + length - 1).1));
            place += length;
        }
        is_changed.then_some(Self { bytes, origins })
    }
}

/// Returns the byte that an escape at the start encodes, and the length of the escape. Secrets are ASCII.
fn escape(bytes: &[u8]) -> Option<(u8, usize)> {
    let hex = |digits: &[u8]| u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok();
    match bytes {
        [b'%', high, low, ..] => Some((hex(&[*high, *low])?, 3)),
        [b'\\', b'u', b'0', b'0', high, low, ..] => Some((hex(&[*high, *low])?, 6)),
        [b'\\', escaped @ (b'"' | b'\\' | b'/'), ..] => Some((*escaped, 2)),
        [b'&', rest @ ..] => {
            let length = rest.iter().take(6).position(|byte| *byte == b';')?;
            let unescaped = match &rest[..length] {
                b"amp" => b'&',
                b"lt" => b'<',
                b"gt" => b'>',
                b"quot" => b'"',
                b"apos" => b'\'',
                [b'#', b'x' | b'X', digits @ ..] => hex(digits)?,
                [b'#', digits @ ..] => str::from_utf8(digits).ok()?.parse().ok()?,
                _ => return None,
            };
            Some((unescaped, length + 2))
        }
        _ => None,
    }
}

/// Decodes Base64 with or without padding, and ignores trailing bits.
const LENIENT_BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Returns the ranges with enough Base64 characters in a row to contain a secret.
fn base64_runs(bytes: &[u8]) -> Vec<Range<usize>> {
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/-_".contains(byte);
    let (mut runs, mut start) = (Vec::new(), 0);
    while start < bytes.len() {
        let length = bytes[start..].iter().take_while(|byte| is_base64(byte)).count();
        if length >= SECRET_BYTES_MIN.div_ceil(3) * 4 {
            runs.push(start..start + length);
        }
        start += length + 1;
    }
    runs
}

/// Returns the character of the standard alphabet for one of either Base64 alphabet.
fn in_standard_alphabet(character: u8) -> u8 {
    match character {
        b'-' => b'+',
        b'_' => b'/',
        other => other,
    }
}

/// Replaces `decoded` by what the characters encode, as far as there are whole groups.
fn decode(characters: &[u8], decoded: &mut Vec<u8>) {
    let length = characters.len() - usize::from(characters.len() % 4 == 1);
    decoded.clear();
    if LENIENT_BASE64.decode_vec(&characters[..length], decoded).is_err() {
        decoded.clear();
    }
}

/// Returns the start of the character that this byte belongs to.
fn character_start(text: &str, mut place: usize) -> usize {
    while !text.is_char_boundary(place) {
        place -= 1;
    }
    place
}

/// Returns the end of the character that this byte belongs to.
fn character_end(text: &str, mut place: usize) -> usize {
    while !text.is_char_boundary(place) {
        place += 1;
    }
    place
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

    use super::*;

    const SECRET: &str = "aB3~k/q+Z&x=%\"y8QwErTy";

    fn known() -> Secrets {
        let mut secrets = Secrets::default();
        secrets.add(SECRET);
        secrets.add("another-secret");
        secrets.add("short");
        secrets
    }

    #[track_caller]
    fn assert_redacted(text: &str, expected: &str) {
        assert_eq!(known().redacted(text), expected, "{text}");
    }

    #[test]
    fn finds_a_secret_in_every_encoding() {
        assert_redacted(&format!("the secret {SECRET} is wrong"), "the secret … is wrong");
        assert_redacted(&format!("{SECRET}{SECRET}another-secret"), "………");
        assert_redacted("secret=aB3%7Ek%2Fq%2BZ%26x%3D%25%22y8QwErTy&scope=x", "secret=…&scope=x");
        assert_redacted("secret=aB3~k%2fq%2bZ%26x%3d%25%22y8QwErTy", "secret=…");
        assert_redacted("twice: aB3~k%252Fq%252BZ%2526x%253D%2525%2522y8QwErTy!", "twice: …!");
        assert_redacted(r#"in JSON: aB3~k\/q\u002bZ\u0026x=%\"y8QwErTy."#, "in JSON: ….");
        assert_redacted("in HTML: aB3~k/q&#43;Z&amp;x&#x3D;%&quot;y8QwErTy<", "in HTML: …<");
        for text in
            [SECRET.to_owned(), format!("user:{SECRET}"), format!("a:{SECRET}\n"), format!("id:{SECRET};x")]
        {
            assert_redacted(
                &format!("Basic {} end", STANDARD.encode(&text).trim_end_matches('=')),
                "Basic … end",
            );
            assert_redacted(&format!("?b={}&", URL_SAFE_NO_PAD.encode(&text)), "?b=…&");
            let in_url = STANDARD.encode(&text).replace('+', "%2B").replace('/', "%2f").replace('=', "%3D");
            assert!(known().redacted(&format!("?b={in_url}")).starts_with("?b=…"), "{in_url}");
        }
        assert_redacted("not cut: aB3~k/q but other", "not cut: aB3~k/q but other");
        assert_redacted("cut off: aB3~k/q", "cut off: …");
        assert_redacted("cut: aB3~k/q+Z&x=%\"y8Q...", "cut: …...");
        assert_redacted("ü another-secretü", "ü …ü");
        assert_redacted("short words stay", "short words stay");
        assert_redacted("", "");
    }

    #[test]
    fn finds_a_secret_until_its_last_registration_ends() {
        let mut secrets = known();
        secrets.add(SECRET);
        for expected in ["…", "…", SECRET] {
            assert_eq!(secrets.redacted(SECRET), expected);
            secrets.remove(SECRET);
        }
        assert_eq!(secrets.redacted("another-secret"), "…");
    }

    #[test]
    fn does_not_change_text_without_a_secret() {
        for text in ["nothing %41 \\u0041 &amp; here", "%", "%ü", "&#999;", "\\u00", "QUFBQUFBQUFBQUFB"] {
            assert!(matches!(known().redacted(text), Cow::Borrowed(same) if same == text), "{text}");
        }
    }

    #[test]
    fn removes_control_characters_from_a_line() {
        assert_eq!(one_line(" one\u{202e}two\u{2066}\u{200b}\tthree\u{1b}[31m\r\nfour"), "onetwo three[31m");
        assert_eq!(one_line("a\u{2028}[ERROR] b\rc\u{85}d"), "a [ERROR] b c d");
        let long = one_line(&"ü".repeat(9_999));
        assert_eq!(long.chars().count(), MESSAGE_CHARACTERS_MAX);
        assert!(long.ends_with('…'));
        assert_eq!(one_line(&"x".repeat(MESSAGE_CHARACTERS_MAX)), "x".repeat(MESSAGE_CHARACTERS_MAX));
    }

    #[test]
    fn shortens_an_unusual_content_id_uniquely() {
        for id in [
            "20171014180051748005825$20171014180051748005825$audit_sharepoint$Audit_SharePoint$emea0036",
            "",
            "with,comma and ü",
        ] {
            assert_eq!(content_id(id.to_owned()), id);
        }
        let (long, other) = ("x".repeat(3_000_000), format!("{}y", "x".repeat(2_999_999)));
        let (long, other) = (content_id(long), content_id(other));
        assert!(long.len() < 200 && long != other, "{long}");
        assert_eq!(content_id(long.clone()), long, "it is the same after it was read from the state");
        let odd = content_id("a\u{202e}b\nc".to_owned());
        assert!(odd.starts_with("ab c…") && odd != content_id("ab c".to_owned()), "{odd}");
    }

    proptest::proptest! {
        #![proptest_config(crate::proptest_config())]

        #[test]
        fn redacts_any_text(text in "[%&;#\\\\xu0-9a-fA-Züa/+=\"-]{0,60}", before in 0_usize..9) {
            let _ = known().redacted(&text);
            let whole = format!("{}{SECRET}{}", &"before-x-"[..before], text);
            proptest::prop_assert!(!known().redacted(&whole).contains(SECRET));
        }
    }

    proptest::proptest! {
        #![proptest_config(crate::proptest_config())]

        #[test]
        fn finds_the_longest_match_as_a_search_through_all_secrets_does(
            secrets in proptest::collection::btree_set("aaaaaa[ab]{0,14}", 1..12),
            text in "aaaaaa[ab]{0,20}",
        ) {
            let (secrets, text) = (secrets.iter().map(|secret| (secret.as_bytes().into(), 1)).collect(), text.as_bytes());
            let lengths = SameHead::keys(&secrets).filter_map(|secret| {
                let length = length_in_common(secret, text);
                let is_enough =
                    length == secret.len() || length == text.len() || length >= SECRET_PREFIX_BYTES_MIN;
                is_enough.then_some(length)
            });
            proptest::prop_assert_eq!(longest_match(&secrets, text), lengths.max());
        }
    }
}
