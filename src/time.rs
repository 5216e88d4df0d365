//! Times as the API writes and accepts them: UTC, with or without a zone, with any number of fraction digits. Durations as
//! the configuration writes them.

use std::time::Duration;

use jiff::{
    Timestamp,
    civil::{Date, DateTime, Time},
    fmt::rfc2822,
    tz::Offset,
};
use ureq::http::HeaderMap;

use crate::limits::RETRY_AFTER_MIN;

/// The units of durations, in seconds.
pub const UNITS: [(char, u64); 4] = [('d', 24 * 3600), ('h', 3600), ('m', 60), ('s', 1)];

/// Parses a time such as `2015-05-23T17:35:00.000Z`, `2020-02-20T10:46:42.0000000Z` or `2015-06-29T20:03:19`, which
/// without a zone is UTC. `None` for anything else, a bare date included.
pub fn parse(text: &str) -> Option<Timestamp> {
    if !text.contains('T') {
        return None;
    }
    parse_milliseconds(text).or_else(|| parse_any(text))
}

/// Parses a time in the API's usual form, with milliseconds and `Z`. This is fast, because a pass reads a million of them
/// when it starts.
fn parse_milliseconds(text: &str) -> Option<Timestamp> {
    let bytes: &[u8; 24] = text.as_bytes().try_into().ok()?;
    for (index, separator) in
        [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':'), (19, b'.'), (23, b'Z')]
    {
        if bytes[index] != separator {
            return None;
        }
    }
    let number = |start: usize, digits: usize| {
        bytes[start..start + digits].iter().try_fold(0_i16, |number, &byte| {
            let digit = i16::from(byte.wrapping_sub(b'0'));
            (digit < 10).then_some(number * 10 + digit)
        })
    };
    let two = |start| i8::try_from(number(start, 2)?).ok();
    let nanoseconds = i32::from(number(20, 3)?) * 1_000_000;
    let time =
        DateTime::new(number(0, 4)?, two(5)?, two(8)?, two(11)?, two(14)?, two(17)?, nanoseconds).ok()?;
    Offset::UTC.to_timestamp(time).ok()
}

fn parse_any(text: &str) -> Option<Timestamp> {
    let in_utc = || Offset::UTC.to_timestamp(text.parse::<DateTime>().ok()?).ok();
    text.parse().ok().or_else(in_utc)
}

/// Parses a `contentExpiration`, which has two more forms: a bare date, which means the end of that day, and .NET's
/// `DateTime.MaxValue`, `9999-12-31T23:59:59.9999999Z`, which is later than the last [`Timestamp`].
pub fn expiration(text: &str) -> Option<Timestamp> {
    let other_form = || {
        let date: Date = text.get(..10)?.parse().ok()?;
        match text.len() {
            10 => Offset::UTC.to_timestamp(date.tomorrow().ok()?.to_datetime(Time::midnight())).ok(),
            _ => (date.year() == 9999).then_some(Timestamp::MAX),
        }
    };
    parse(text).or_else(other_form)
}

/// Returns a duration in the largest unit that divides it: `90s`, `7m`, `5h`, `2d`.
pub fn duration_text(seconds: u64) -> String {
    in_largest_unit(seconds, &UNITS).unwrap_or_else(|| format!("{seconds}s"))
}

/// Returns a number in the largest of these units, the largest first, that divides it.
pub fn in_largest_unit(number: u64, units: &[(char, u64)]) -> Option<String> {
    let fits = |(_, factor): &&(char, u64)| number >= *factor && number.is_multiple_of(*factor);
    units.iter().find(fits).map(|(unit, factor)| format!("{}{unit}", number / factor))
}

/// Formats a time for `startTime` and `endTime`: `2026-11-22T10:15:00`, in UTC without a zone. Fractions are dropped.
pub fn parameter(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S").to_string()
}

/// Returns the wait that a response asks for: its `Retry-After`, in seconds or as a date.
///
/// A date is compared with the `Date` of the same response, so a wrong clock on this machine does not change the wait; `now`
/// is used only without a `Date`. Zero, negative numbers and past dates become [`RETRY_AFTER_MIN`].
///
/// Source: RFC 9110, sections 10.2.3 (`Retry-After`) and 6.6.1 (`Date`).
pub fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let value = text("retry-after")?;
    let wait = seconds(value).or_else(|| {
        let server_now = text("date").and_then(http_date).unwrap_or(now);
        http_date(value).map(|time| Duration::try_from(time.duration_since(server_now)).unwrap_or_default())
    });
    wait.map(|wait| wait.max(RETRY_AFTER_MIN))
}

/// Parses a number of seconds. A negative number is zero; one that is too large is the longest duration.
fn seconds(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let seconds: f64 = text.parse().ok().filter(|seconds: &f64| seconds.is_finite())?;
    Some(Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX))
}

/// Parses an HTTP date such as `Sun, 22 Nov 2026 10:15:00 GMT`. A date after 2099 counts as invalid.
pub fn http_date(text: &str) -> Option<Timestamp> {
    const YEAR_2100: i64 = 4_102_444_800;
    let date = rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    (date.as_second() < YEAR_2100).then_some(date)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time of the test")
    }

    #[test]
    fn parses_fractions_and_optional_zones() {
        for text in [
            "2015-05-23T17:35:00Z",
            "2015-05-23T17:35:00.000Z",
            "2015-05-23T17:35:00.0000000Z",
            "2015-05-23T17:35:00",
            "2015-05-23T19:35:00+02:00",
        ] {
            assert_eq!(parse(text), Some(at("2015-05-23T17:35:00Z")), "{text}");
        }
        for text in ["", "2015-05-23", "yesterday", "2015-05-23T17:35:0"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn fast_parser_agrees_with_the_general_one() {
        for text in [
            "2015-05-23T17:35:00.000Z",
            "1970-01-01T00:00:00.001Z",
            "2024-02-29T23:59:59.999Z",
            "9999-12-30T22:00:00.000Z",
        ] {
            assert_eq!(parse_milliseconds(text), Some(at(text)), "{text}");
        }
        for text in [
            "2023-02-29T23:59:59.999Z",
            "2015-13-23T17:35:00.000Z",
            "2015-05-23T24:35:00.000Z",
            "2015-05-23T17:35:0/.000Z",
            "2015-05-23 17:35:00.000Z",
        ] {
            assert_eq!((parse_milliseconds(text), parse(text)), (None, None), "{text}");
        }
        assert_eq!(parse("2015-05-23T17:35:60.000Z"), Some(at("2015-05-23T17:35:60.000Z")));
    }

    #[test]
    fn parses_expirations_including_the_dotnet_maximum() {
        for (text, expected) in [
            ("2026-11-29T10:00:00.000Z", Some(at("2026-11-29T10:00:00Z"))),
            ("2026-11-29", Some(at("2026-11-30T00:00:00Z"))),
            ("9999-12-31T23:59:59.9999999Z", Some(Timestamp::MAX)),
            ("9999-12-31T23:59:59", Some(Timestamp::MAX)),
            ("", None),
            ("null", None),
            ("2026-11-29 later", None),
            ("2026-13-29", None),
            ("für immer, immer", None),
        ] {
            assert_eq!(expiration(text), expected, "{text}");
        }
    }

    #[test]
    fn formats_parameters_in_utc_seconds() {
        assert_eq!(parameter(at("2026-11-22T10:15:00.987Z")), "2026-11-22T10:15:00");
    }

    #[test]
    fn parses_retry_after() {
        let now = at("2026-11-22T10:15:00Z");
        let wait = |retry_after: &str, date: Option<&str>| {
            let date = date.map(|date| ("date", date));
            let headers = std::iter::once(("retry-after", retry_after)).chain(date).map(|(name, value)| {
                let value = value.parse().expect("a value of the test");
                (name.parse::<ureq::http::HeaderName>().expect("a name of the test"), value)
            });
            super::retry_after(&headers.collect(), now)
        };
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        for (text, expected) in [
            ("7", seconds(7)),
            (" 7 ", seconds(7)),
            ("2.5", Some(Duration::from_millis(2500))),
            ("18446744073709551615", seconds(u64::MAX)),
            ("99999999999999999999", Some(Duration::MAX)),
            ("Sun, 22 Nov 2026 10:15:30 GMT", seconds(30)),
            ("Sun, 22 Nov 2026 10:14:00 GMT", seconds(1)),
            ("0", seconds(1)),
            ("-5", seconds(1)),
            ("0.01", seconds(1)),
            ("soon", None),
            ("inf", None),
            ("", None),
        ] {
            assert_eq!(wait(text, None), expected, "{text}");
        }
        let theirs = Some("Mon, 01 Jan 2024 00:00:00 GMT");
        assert_eq!(wait("Mon, 01 Jan 2024 00:00:30 GMT", theirs), seconds(30));
        assert_eq!(wait("Sun, 31 Dec 2023 23:00:00 GMT", theirs), seconds(1));
        assert_eq!(wait("Sun, 22 Nov 2026 10:15:30 GMT", Some("yesterday")), seconds(30));
    }
}
