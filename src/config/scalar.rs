//! Sizes, durations and GUIDs: how they are written, and how they are shown again in a message.

use std::time::Duration;

/// Binary multiples, as `10M` means them.
const SIZES: [(char, u64); 3] = [('G', 1024 * 1024 * 1024), ('M', 1024 * 1024), ('K', 1024)];

const DURATIONS: [(char, u64); 4] = [('d', 24 * 3600), ('h', 3600), ('m', 60), ('s', 1)];

/// Bytes from `10M`, `512K`, `1G` or a plain number.
pub(super) fn size(text: &str) -> Option<u64> {
    let text = text.trim();
    let unit = text.chars().last()?.to_ascii_uppercase();
    match SIZES.iter().find(|(name, _)| *name == unit) {
        Some((_, factor)) => number(&text[..text.len() - 1])?.checked_mul(*factor),
        None => number(text),
    }
}

/// `10M` from bytes.
pub(super) fn size_text(bytes: u64) -> String {
    match SIZES.iter().find(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor)) {
        Some((unit, factor)) => format!("{}{unit}", bytes / factor),
        None => bytes.to_string(),
    }
}

/// A time from `30s`, `5m`, `1h` or `1d`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let unit = text.chars().last()?.to_ascii_lowercase();
    let (_, factor) = DURATIONS.iter().find(|(name, _)| *name == unit)?;
    number(&text[..text.len() - 1])?.checked_mul(*factor).map(Duration::from_secs)
}

/// `5m` from seconds.
pub(super) fn duration_text(seconds: u64) -> String {
    match DURATIONS.iter().find(|(_, factor)| seconds >= *factor && seconds.is_multiple_of(*factor)) {
        Some((unit, factor)) => format!("{}{unit}", seconds / factor),
        None => format!("{seconds}s"),
    }
}

fn number(digits: &str) -> Option<u64> {
    let digits = digits.trim_end();
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// A GUID in lower case, from one in any.
pub(super) fn guid(text: &str) -> Option<String> {
    let text = text.trim();
    let is_guid = text.len() == 36
        && text.bytes().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        });
    is_guid.then(|| text.to_ascii_lowercase())
}

/// Whether a text only holds the place of a value that has to be filled in. Careful enough to refuse no real secret.
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
            assert_eq!(duration(text), seconds.map(Duration::from_secs), "{text}");
        }
        assert_eq!(duration_text(300), "5m");
        assert_eq!(duration_text(90), "90s");
        assert_eq!(duration_text(0), "0s");
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
