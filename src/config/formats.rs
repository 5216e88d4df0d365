//! Forms of texts: numbers, sizes, durations, GUIDs, hosts, tags, and how a message shows them.

use super::url::{self, Url};
use crate::{
    records,
    time::{self, in_largest_unit},
};

/// Characters of a value that a message shows.
const GIVEN_CHARACTERS_MAX: usize = 100;

/// Characters of a tenant's name, which becomes part of tags, labels and log lines.
const TENANT_NAME_CHARACTERS_MAX: usize = 64;

/// The longest name of a topic.
const TOPIC_BYTES_MAX: usize = 249;

/// The parts that a tag can have.
const TAG_PARTS: [&str; 3] = ["{tenant}", "{contentType}", "{workload}"];

/// Binary multiples.
const SIZES: [(char, u64); 3] = [('G', 1024 * 1024 * 1024), ('M', 1024 * 1024), ('K', 1024)];

/// A number of digits only.
pub(super) fn number(text: &str) -> Option<u64> {
    let digits = text.trim_end();
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// Bytes from `10M`, `512K`, `1G` or a plain number.
pub(super) fn size(text: &str) -> Option<u64> {
    with_unit(text, &SIZES).or_else(|| number(text.trim()))
}

/// Seconds from `30s`, `5m`, `1h` or `1d`.
pub(super) fn seconds(text: &str) -> Option<u64> {
    with_unit(text, &time::UNITS)
}

fn with_unit(text: &str, units: &[(char, u64)]) -> Option<u64> {
    let text = text.trim();
    let unit = text.chars().last()?;
    let (_, factor) = units.iter().find(|(name, _)| name.eq_ignore_ascii_case(&unit))?;
    number(&text[..text.len() - 1])?.checked_mul(*factor)
}

/// `10M` from bytes.
pub(super) fn size_text(bytes: u64) -> String {
    in_largest_unit(bytes, &SIZES).unwrap_or_else(|| bytes.to_string())
}

/// The one character between columns.
pub(super) fn separator(text: &str) -> Option<char> {
    let mut characters = text.chars();
    let one = characters.next().filter(|one| !matches!(one, '"' | '\r' | '\n'))?;
    characters.next().is_none().then_some(one)
}

/// A GUID in lower case.
pub(super) fn guid(text: &str) -> Option<String> {
    records::guid(text.trim().as_bytes()).map(records::text_of_guid)
}

/// Whether a text is similar to a GUID or is a domain such as `contoso.onmicrosoft.com`, so that it cannot be a secret
/// from the line below.
pub(super) fn is_id_or_domain(text: &str) -> bool {
    let text = text.trim();
    let is_id = text.bytes().all(|byte| byte.is_ascii_hexdigit() || b"-{} ".contains(&byte));
    let is_label = |label: &str| {
        let is_part = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !label.is_empty() && label.bytes().all(is_part)
    };
    is_id || (text.contains('.') && text.split('.').all(is_label))
}

/// Whether a text is a placeholder of a template. No real secret looks like one.
pub(super) fn is_placeholder(text: &str) -> bool {
    let text = text.trim().to_ascii_lowercase();
    let is_guid_of = |unit: char| text.len() == 36 && text.chars().all(|c| c == unit || c == '-');
    ["your-", "your_", "your ", "change-", "change_", "changeme"].iter().any(|start| text.starts_with(start))
        || (text.starts_with('<') && text.ends_with('>'))
        || text.contains('…')
        || text == "..."
        || is_guid_of('0')
        || is_guid_of('x')
}

/// Any text.
#[expect(clippy::unnecessary_wraps, reason = "the form of all functions in the schema")]
pub(super) fn any(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

/// A tenant's name.
pub(super) fn tenant_name(text: &str) -> Result<String, String> {
    let name = text.trim();
    if name.chars().any(char::is_control) || name.chars().count() > TENANT_NAME_CHARACTERS_MAX {
        return Err(format!(
            "{} must have at most {TENANT_NAME_CHARACTERS_MAX} characters on one line; it appears in tags and in the log",
            quoted(text)
        ));
    }
    Ok(name.to_owned())
}

/// A tag of the forward protocol.
pub(super) fn tag(text: &str) -> Result<String, String> {
    let rest = TAG_PARTS.iter().fold(text.to_owned(), |rest, part| rest.replace(part, ""));
    if rest.contains(['{', '}']) || rest.contains(char::is_whitespace) {
        let parts = TAG_PARTS.join(", ");
        return Err(format!("{} must not have spaces, or braces other than {parts}", quoted(text)));
    }
    Ok(text.to_owned())
}

/// A host's name or address. An IPv6 address can be in brackets.
pub(super) fn host(text: &str) -> Result<String, String> {
    let host = text.trim().trim_start_matches('[').trim_end_matches(']');
    let is_wrong = host.contains(['/', '@', '[', ']'])
        || host.contains(char::is_whitespace)
        || host.matches(':').count() == 1;
    if is_wrong {
        let given = if text.contains('@') { "the value".to_owned() } else { quoted(text) }; // a password may precede the @
        return Err(format!("{given} is not a host name or address; the port has its own key"));
    }
    Ok(host.to_owned())
}

/// A broker of Kafka: `host` or `host:port`.
pub(super) fn broker(text: &str) -> Result<String, String> {
    let broker = text.trim();
    if url::host_of(broker).is_none() {
        return Err(format!("{} is not a broker; write host:port", quoted(text)));
    }
    Ok(broker.to_owned())
}

/// The name of a topic.
///
/// Source: Kafka, `org.apache.kafka.common.internals.Topic`.
pub(super) fn topic(text: &str) -> Result<String, String> {
    let topic = text.trim();
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if topic.len() > TOPIC_BYTES_MAX || !topic.bytes().all(is_part) || matches!(topic, "." | "..") {
        return Err(format!(
            "{} is not a topic; use at most {TOPIC_BYTES_MAX} letters, digits, dots, - and _",
            quoted(text)
        ));
    }
    Ok(topic.to_owned())
}

/// The name of a machine as a syslog message can have it.
///
/// Source: RFC 5424, section 6: `HOSTNAME` has 1 to 255 characters of printable ASCII.
pub(super) fn hostname(text: &str) -> Result<String, String> {
    let name = text.trim();
    if !(1..=255).contains(&name.len()) || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("{} must be 1 to 255 ASCII characters without spaces", quoted(text)));
    }
    Ok(name.to_owned())
}

/// `https://host[:port]` without a path, or `http://` on loopback. A slash at the end is removed.
pub(super) fn origin(text: &str) -> Result<String, String> {
    let text = text.trim();
    let url = url_of(text)?;
    let given = shown_url(text);
    if !url.is_https && !url.is_loopback() {
        return Err(format!("{given} must begin with https://; http:// is for localhost only"));
    }
    if !matches!(url.path, "" | "/") || url.query.is_some() {
        return Err(format!("{given} must be the root of a server; remove what follows the host"));
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// A receiver's URL, with any path.
pub(super) fn receiver(text: &str) -> Result<String, String> {
    url_of(text.trim()).map(|_| text.trim().to_owned())
}

fn url_of(text: &str) -> Result<Url<'_>, String> {
    match Url::parse(text) {
        Some(Url { user: Some(_), .. }) => {
            Err("must not have a user or password; remove what precedes the @".to_owned())
        }
        Some(url) => Ok(url),
        None => Err(format!("{} is not a URL; write https://host or https://host:port", shown_url(text))),
    }
}

/// A URL without a password, and without its query, which has the token of some receivers.
fn shown_url(text: &str) -> String {
    match text.split_once('?') {
        _ if text.contains('@') => "the value".to_owned(),
        Some((before, _)) => format!("\"{before}?…\""),
        None => quoted(text),
    }
}

/// Whether HTTP allows the text as a header's name.
///
/// Source: RFC 9110, section 5.6.2, `token`.
pub(super) fn is_header_name(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_part)
}

/// Whether the text is ASCII on one line, as the value of a header has to be.
pub(super) fn is_header_value(text: &str) -> bool {
    text.bytes().all(|byte| byte == b' ' || byte == b'\t' || byte.is_ascii_graphic())
}

/// A text in quotes, on one line, shortened if it is long.
pub(super) fn quoted(text: &str) -> String {
    let text = text.trim();
    let (cut, ellipsis) = match text.char_indices().nth(GIVEN_CHARACTERS_MAX) {
        Some((end, _)) => (&text[..end], "…"),
        None => (text, ""),
    };
    format!("\"{}{ellipsis}\"", cut.escape_debug())
}

/// A secret without the byte order mark, whitespace and line breaks that an editor or a pipe adds.
pub(super) fn trimmed(secret: &str) -> &str {
    secret.trim_matches(|character: char| character.is_whitespace() || character == '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("1500", Some(1500)),
            ("512K", Some(512 * 1024)),
            ("10m", Some(10 * 1024 * 1024)),
            (" 1 G ", Some(1024 * 1024 * 1024)),
            ("", None),
            ("M", None),
            ("1.5M", None),
            ("-1", None),
            ("10T", None),
            ("10MB", None),
            ("10µ", None),
            ("99999999999G", None),
        ] {
            assert_eq!(size(text), bytes, "{text}");
        }
        assert_eq!(size_text(10 * 1024 * 1024), "10M");
        assert_eq!(size_text(1536), "1536");
        assert_eq!(size_text(0), "0");
    }

    #[test]
    fn durations() {
        for (text, seconds) in [
            ("30s", Some(30)),
            ("5m", Some(300)),
            ("1H", Some(3600)),
            ("7d", Some(7 * 24 * 3600)),
            ("0s", Some(0)),
            ("5 m", Some(300)),
            ("", None),
            ("s", None),
            ("30", None),
            ("5min", None),
            ("-5m", None),
            ("1h30m", None),
            ("99999999999999999999s", None),
            ("9999999999999999999d", None),
        ] {
            assert_eq!(super::seconds(text), seconds, "{text}");
        }
        assert_eq!(time::duration_text(300), "5m");
        assert_eq!(time::duration_text(90), "90s");
        assert_eq!(time::duration_text(0), "0s");
    }

    #[test]
    fn guids() {
        let lower = "0a1b2c3d-4e5f-6789-abcd-ef0123456789";
        assert_eq!(guid("0A1B2C3D-4E5F-6789-ABCD-EF0123456789").as_deref(), Some(lower));
        assert_eq!(guid(" 0a1b2c3d-4e5f-6789-abcd-ef0123456789\n").as_deref(), Some(lower));
        for text in [
            "",
            "contoso.onmicrosoft.com",
            "0a1b2c3d4e5f6789abcdef0123456789",
            "{0a1b2c3d-4e5f-6789-abcd-ef01234567}",
        ] {
            assert_eq!(guid(text), None, "{text}");
        }
    }

    #[test]
    fn placeholders() {
        for text in [
            "YOUR-TENANT-ID",
            "your_client_id",
            "<tenant>",
            "…",
            "...",
            "00000000-0000-0000-0000-000000000000",
            "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx",
            "CHANGE-ME",
        ] {
            assert!(is_placeholder(text), "{text}");
        }
        for text in ["", "00000000-0000-0000-0000-000000000001", "yourT8~x", "x", "000", "-", "<"] {
            assert!(!is_placeholder(text), "{text}");
        }
    }
}
