//! One tenant: its credential, login, permissions and subscriptions.

use jiff::{SignedDuration, Timestamp};

use super::{lines::Lines, permissions, reach::Reached};
use crate::{
    api::{self, Client, Token},
    config::{Credential, Tenant},
    exit::Exit,
    limits::EXPIRY_NOTICE,
};

/// Whether the tenant could log in.
pub fn check(client: &Client, tenant: &Tenant, reached: &Reached, lines: &mut Lines) -> bool {
    let label = tenant.label();
    if !check_credential(tenant, lines) {
        return false;
    }
    if !reached.contains(&tenant.login_url) {
        lines.untried(format_args!("{label}: login: not tried, for {} does not answer", tenant.login_url));
        return false;
    }
    let token = match client.log_in(tenant) {
        Ok(token) => token,
        Err(failure) => {
            lines.bad(Exit::TryAgain, format_args!("{label}: login: {}", failure.advice()));
            return false;
        }
    };
    lines.good(format_args!("{label}: logged in"));
    permissions::check(tenant, token.claims().as_ref(), lines);
    if reached.contains(&tenant.api_url) {
        check_subscriptions(client, tenant, &token, lines);
    } else {
        lines.untried(format_args!(
            "{label}: subscriptions: not tried, for {} does not answer",
            tenant.api_url
        ));
    }
    true
}

/// Whether the credential can be read. It has a line of its own only if it is in a file.
fn check_credential(tenant: &Tenant, lines: &mut Lines) -> bool {
    let label = tenant.label();
    if let Err(failure) = api::read_credential(tenant) {
        lines.bad(Exit::TryAgain, format_args!("{label}: login: {}", failure.advice()));
        return false;
    }
    match (&tenant.credential, api::credential_expiry(tenant)) {
        (_, Some(expiry)) => check_expiry(label, expiry, Timestamp::now(), lines),
        (Credential::FederatedTokenFile(path), None) => {
            lines.good(format_args!("{label}: the token in {} can be read", path.display()));
        }
        _ => {}
    }
    true
}

fn check_expiry(label: &str, expiry: Timestamp, now: Timestamp, lines: &Lines) {
    let day = expiry.strftime("%Y-%m-%d");
    match days_until_noticed(expiry, now) {
        None => lines.good(format_args!("{label}: the certificate is valid until {day}")),
        Some(days) => lines.warn(format_args!(
            "{label}: the certificate expires on {day}, in {days} day(s); make a new one and register it with the app \
             under Certificates & secrets"
        )),
    }
}

/// How many days are left, if it is time to say so.
fn days_until_noticed(expiry: Timestamp, now: Timestamp) -> Option<i64> {
    let left = expiry.duration_since(now);
    (left < EXPIRY_NOTICE).then(|| left.max(SignedDuration::ZERO).as_hours() / 24)
}

fn check_subscriptions(client: &Client, tenant: &Tenant, token: &Token, lines: &mut Lines) {
    let label = tenant.label();
    let listed = match client.subscriptions(tenant, token) {
        Ok(listed) => listed,
        Err(failure) => {
            lines.bad(Exit::TryAgain, format_args!("{label}: subscriptions: {}", failure.advice()));
            return;
        }
    };
    for &content_type in &tenant.subscriptions {
        let mut entries = listed.iter().filter(|entry| entry.content_type == Some(content_type)).peekable();
        if entries.peek().is_none() {
            lines.good(format_args!(
                "{label}: not yet subscribed to {content_type}; the first pass starts it"
            ));
        } else if entries.any(|entry| entry.enabled) {
            lines.good(format_args!("{label}: subscribed to {content_type}"));
        } else {
            lines.warn(format_args!(
                "{label}: the subscription to {content_type} is disabled; the next pass starts it again: if somebody \
                 stopped it on purpose, take it out of subscriptions"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_noticed_for_its_last_two_weeks() {
        let now: Timestamp = "2026-11-22T10:00:00Z".parse().expect("a time of the test");
        let noticed = |expiry: &str| days_until_noticed(expiry.parse().expect("a time of the test"), now);
        assert_eq!(noticed("2026-12-06T10:00:00Z"), None);
        assert_eq!(noticed("2026-12-06T09:59:59Z"), Some(13));
        assert_eq!(noticed("2026-11-23T09:59:59Z"), Some(0));
        assert_eq!(noticed("2026-11-21T10:00:00Z"), Some(0));
    }
}
