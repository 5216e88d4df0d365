//! The expiry of credentials that have one.

use jiff::{SignedDuration, Timestamp};

use super::lines::Lines;
use crate::{config::Credential, limits::EXPIRY_NOTICE, login};

/// Prints when a certificate expires. The login reports one that cannot be read.
pub fn check(label: &str, credential: &Credential, lines: &Lines) {
    let Some(expiry) = login::expiry(credential) else { return };
    let day = expiry.strftime("%Y-%m-%d");
    match days_until(expiry, Timestamp::now()) {
        None => lines.good(format_args!("{label}: the certificate is valid until {day}")),
        Some(days) => lines.warn(format_args!(
            "{label}: the certificate expires on {day}, in {days} day(s); create a new one and register it with the app \
             under Certificates & secrets"
        )),
    }
}

/// Returns the number of days left, if they are few enough to warn.
fn days_until(expiry: Timestamp, now: Timestamp) -> Option<i64> {
    let left = expiry.duration_since(now);
    (left < EXPIRY_NOTICE).then(|| left.max(SignedDuration::ZERO).as_hours() / 24)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_a_certificate_in_its_last_two_weeks() {
        let now: Timestamp = "2026-11-22T10:00:00Z".parse().expect("a time of the test");
        let noticed = |expiry: &str| days_until(expiry.parse().expect("a time of the test"), now);
        assert_eq!(noticed("2026-12-06T10:00:00Z"), None);
        assert_eq!(noticed("2026-12-06T09:59:59Z"), Some(13));
        assert_eq!(noticed("2026-11-23T09:59:59Z"), Some(0));
        assert_eq!(noticed("2026-11-21T10:00:00Z"), Some(0));
    }
}
