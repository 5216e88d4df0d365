//! Times as the API writes and reads them: UTC, with or without a zone, with any number of fraction digits.

use std::time::Duration;

use jiff::{
    Timestamp,
    civil::{Date, DateTime, Time},
    fmt::rfc2822,
    tz::{Offset, TimeZone},
};

/// Reads a time such as `2015-05-23T17:35:00.000Z`, `2020-02-20T10:46:42.0000000Z` or `2015-06-29T20:03:19`, which
/// without a zone is UTC. `None` for anything else, a bare date included.
pub fn parse(text: &str) -> Option<Timestamp> {
    if !text.contains('T') {
        return None;
    }
    usual(text).or_else(|| unusual(text))
}

/// Reads a time as the API usually writes it, to the millisecond and with a `Z`: a million of them are read when a pass
/// begins.
fn usual(text: &str) -> Option<Timestamp> {
    let bytes: &[u8; 24] = text.as_bytes().try_into().ok()?;
    for (place, mark) in [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':'), (19, b'.'), (23, b'Z')] {
        if bytes[place] != mark {
            return None;
        }
    }
    let number = |place: usize, digits: usize| {
        bytes[place..place + digits].iter().try_fold(0_i16, |number, &byte| {
            let digit = i16::from(byte.wrapping_sub(b'0'));
            (digit < 10).then_some(number * 10 + digit)
        })
    };
    let two = |place| i8::try_from(number(place, 2)?).ok();
    let nanoseconds = i32::from(number(20, 3)?) * 1_000_000;
    let time =
        DateTime::new(number(0, 4)?, two(5)?, two(8)?, two(11)?, two(14)?, two(17)?, nanoseconds).ok()?;
    Offset::UTC.to_timestamp(time).ok()
}

fn unusual(text: &str) -> Option<Timestamp> {
    let without_zone = || {
        text.parse::<DateTime>()
            .ok()
            .and_then(|time| time.to_zoned(TimeZone::UTC).ok())
            .map(|time| time.timestamp())
    };
    text.parse().ok().or_else(without_zone)
}

/// Reads a `contentExpiration`, which has forms that no other time has: a date alone, which ends with that day, and
/// .NET's last moment `9999-12-31T23:59:59.9999999Z`, which is later than the last [`Timestamp`].
pub fn expiration(text: &str) -> Option<Timestamp> {
    let unusual = || {
        let date: Date = text.get(..10)?.parse().ok()?;
        match text.len() {
            10 => Offset::UTC.to_timestamp(date.tomorrow().ok()?.to_datetime(Time::midnight())).ok(),
            _ => (date.year() == 9999).then_some(Timestamp::MAX),
        }
    };
    parse(text).or_else(unusual)
}

/// Writes a time as `startTime` and `endTime` want it: `2026-11-22T10:15:00`, UTC, no zone. Fractions are dropped.
pub fn parameter(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S").to_string()
}

/// Reads `Retry-After`: seconds, or an HTTP date (RFC 9110, section 10.2.3), of which the time from `now` on counts.
pub fn retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    http_date(text).map(|time| Duration::try_from(time.duration_since(now)).unwrap_or_default())
}

/// Reads an HTTP date such as `Sun, 22 Nov 2026 10:15:00 GMT`. One after 2099 is no date of a clock that goes.
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
    fn times_are_read_with_any_number_of_fraction_digits_and_with_or_without_a_zone() {
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
    fn the_usual_form_is_read_as_any_other() {
        for text in [
            "2015-05-23T17:35:00.000Z",
            "1970-01-01T00:00:00.001Z",
            "2024-02-29T23:59:59.999Z",
            "9999-12-30T22:00:00.000Z",
        ] {
            assert_eq!(usual(text), Some(at(text)), "{text}");
        }
        for text in [
            "2023-02-29T23:59:59.999Z",
            "2015-13-23T17:35:00.000Z",
            "2015-05-23T24:35:00.000Z",
            "2015-05-23T17:35:0/.000Z",
            "2015-05-23 17:35:00.000Z",
        ] {
            assert_eq!((usual(text), parse(text)), (None, None), "{text}");
        }
        assert_eq!(parse("2015-05-23T17:35:60.000Z"), Some(at("2015-05-23T17:35:60.000Z")));
    }

    #[test]
    fn an_expiration_can_be_a_date_or_the_last_moment_of_all() {
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
    fn a_parameter_is_utc_in_whole_seconds_without_a_zone() {
        assert_eq!(parameter(at("2026-11-22T10:15:00.987Z")), "2026-11-22T10:15:00");
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = at("2026-11-22T10:15:00Z");
        assert_eq!(retry_after("7", now), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Sun, 22 Nov 2026 10:15:30 GMT", now), Some(Duration::from_secs(30)));
        assert_eq!(retry_after("Sun, 22 Nov 2026 10:14:00 GMT", now), Some(Duration::ZERO));
        assert_eq!(retry_after("soon", now), None);
    }
}
