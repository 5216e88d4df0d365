//! The time formats of the API, and the clock of the simulator.

use std::sync::Mutex;

use jiff::{SignedDuration, Timestamp, civil::DateTime, tz::Offset};

use crate::sync::lock;

/// The server's clock: this machine's clock plus a skew.
#[derive(Default)]
pub(crate) struct Clock {
    skew: Mutex<SignedDuration>,
}

impl Clock {
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::now() + *lock(&self.skew)
    }

    pub(crate) fn set_skew(&self, skew: SignedDuration) {
        *lock(&self.skew) = skew;
    }
}

/// The number of digits after the seconds in the times of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fraction {
    /// `2015-05-23T17:35:00Z`
    None,
    /// `2015-05-23T17:35:00.000Z`
    Three,
    /// `2015-05-23T17:35:00.0000000Z`
    Seven,
    /// Each of the three in turn.
    Mixed,
}

/// Formats a time as `2015-05-23T17:35:00.000Z`, with this number of digits. `turn` selects the format of [`Fraction::Mixed`].
pub(crate) fn with_zone(time: Timestamp, fraction: Fraction, turn: usize) -> String {
    let seconds = without_zone(time);
    let nanoseconds = Offset::UTC.to_datetime(time).subsec_nanosecond();
    match (fraction, turn % 3) {
        (Fraction::Three, _) | (Fraction::Mixed, 0) => format!("{seconds}.{:03}Z", nanoseconds / 1_000_000),
        (Fraction::Seven, _) | (Fraction::Mixed, 1) => format!("{seconds}.{:07}Z", nanoseconds / 100),
        (Fraction::None | Fraction::Mixed, _) => format!("{seconds}Z"),
    }
}

/// Formats a time as `2015-06-29T20:03:19`, as in records and query parameters.
pub(crate) fn without_zone(time: Timestamp) -> String {
    let time = Offset::UTC.to_datetime(time);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
        time.year(),
        time.month(),
        time.day(),
        time.hour(),
        time.minute(),
        time.second()
    )
}

/// Formats a time as `20171014180051748`, the first digits of content ids and page tokens.
pub(crate) fn digits(time: Timestamp) -> String {
    let mut text = with_zone(time, Fraction::Three, 0);
    text.retain(|character| character.is_ascii_digit());
    text
}

/// Formats a time as `Sun, 06 Nov 1994 08:49:37 GMT`, for `Date` and `Retry-After`.
///
/// Source: RFC 9110, section 5.6.7.
pub(crate) fn http_date(time: Timestamp) -> String {
    const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let time = Offset::UTC.to_datetime(time);
    let day = DAYS[usize::from(time.weekday().to_monday_zero_offset().unsigned_abs())];
    let month = MONTHS[usize::from(time.month().unsigned_abs()) - 1];
    format!(
        "{day}, {:02} {month} {:04} {:02}:{:02}:{:02} GMT",
        time.day(),
        time.year(),
        time.hour(),
        time.minute(),
        time.second()
    )
}

/// Parses `YYYY-MM-DDTHH:MM:SS`, and no other format.
pub(crate) fn parse_documented(text: &str) -> Option<Timestamp> {
    let shape = |(position, byte): (usize, u8)| match position {
        4 | 7 => byte == b'-',
        10 => byte == b'T',
        13 | 16 => byte == b':',
        _ => byte.is_ascii_digit(),
    };
    if text.len() != 19 || !text.bytes().enumerate().all(shape) {
        return None;
    }
    Offset::UTC.to_timestamp(text.parse::<DateTime>().ok()?).ok()
}

/// Parses the format in the URL of a next page, `2020-02-20T10:46:42.0000000Z`, or the documented one.
pub(crate) fn parse_in_page_url(text: &str) -> Option<Timestamp> {
    parse_documented(text).or_else(|| text.ends_with('Z').then(|| text.parse().ok())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_only_the_documented_format() {
        assert_eq!(parse_documented("2020-02-20T10:46:42"), "2020-02-20T10:46:42Z".parse().ok());
        for wrong in ["2020-02-20", "2020-02-20T10:46:42Z", "2020-02-20 10:46:42", "2020-02-31T10:46:42", ""]
        {
            assert_eq!(parse_documented(wrong), None, "{wrong}");
        }
        assert_eq!(parse_in_page_url("2020-02-20T10:46:42.0000000Z"), "2020-02-20T10:46:42Z".parse().ok());
    }

    #[test]
    fn formats_times_as_the_api_does() {
        let time: Timestamp = "1994-11-06T08:49:37.1234567Z".parse().unwrap();
        assert_eq!(http_date(time), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(with_zone(time, Fraction::None, 0), "1994-11-06T08:49:37Z");
        assert_eq!(with_zone(time, Fraction::Three, 0), "1994-11-06T08:49:37.123Z");
        assert_eq!(with_zone(time, Fraction::Seven, 0), "1994-11-06T08:49:37.1234567Z");
        assert_eq!(digits(time), "19941106084937123");
    }
}
