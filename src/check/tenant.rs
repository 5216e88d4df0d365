//! One tenant: its credential, login, permissions and subscriptions.

use jiff::Timestamp;

use super::{expiry, lines::Lines, permissions, reach::Reached};
use crate::{
    api::{self, Client, Token},
    config::{Credential, Tenant},
    exit::Exit,
    login::assertion,
};

/// Checks a tenant. Returns whether it could log in.
pub fn check(client: &Client, tenant: &Tenant, reached: &Reached, lines: &mut Lines) -> bool {
    let label = tenant.label();
    if !check_credential(tenant, lines) {
        return false;
    }
    let is_identity = matches!(tenant.credential, Credential::ManagedIdentity(_));
    if !is_identity && !reached.contains(&tenant.login_url) {
        lines.skipped(format_args!(
            "{label}: login: not checked, because {} cannot be reached",
            tenant.login_url
        ));
        return false;
    }
    let token = match client.log_in(tenant, |_| ()) {
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
        lines.skipped(format_args!(
            "{label}: subscriptions: not checked, because {} cannot be reached",
            tenant.api_url
        ));
    }
    true
}

/// Checks the credential of a tenant without the network. Returns whether it could be used to log in.
pub fn check_offline(tenant: &Tenant, lines: &mut Lines) -> bool {
    let label = tenant.label();
    if !check_credential(tenant, lines) {
        return false;
    }
    match &tenant.credential {
        Credential::Secret(_) => {
            lines.good(format_args!("{label}: a client secret is set; only Microsoft knows when it expires"));
        }
        Credential::ManagedIdentity(_) => lines.skipped(format_args!(
            "{label}: the managed identity: not checked offline, because only its endpoint knows whether it exists and has \
             the role"
        )),
        Credential::Certificate { .. } | Credential::FederatedTokenFile(_) => {}
    }
    lines.skipped(format_args!("{label}: login, permissions and subscriptions: not checked offline"));
    true
}

/// Returns whether the credential can be used. A line is printed only if it is in a file or has a problem.
fn check_credential(tenant: &Tenant, lines: &mut Lines) -> bool {
    let label = tenant.label();
    if let Err(failure) = api::read_credential(tenant) {
        lines.bad(Exit::TryAgain, format_args!("{label}: login: {}", failure.advice()));
        return false;
    }
    match &tenant.credential {
        Credential::FederatedTokenFile(path) => match assertion::expiry(path) {
            Some(expiry) if expiry <= Timestamp::now() => {
                lines.bad(
                    Exit::TryAgain,
                    format_args!(
                        "{label}: login: the token in {} expired at {expiry:.0}; check the program that renews it, and \
                         this machine's clock",
                        path.display()
                    ),
                );
                return false;
            }
            _ => lines.good(format_args!("{label}: the token in {} can be read", path.display())),
        },
        Credential::Secret(_) | Credential::Certificate { .. } | Credential::ManagedIdentity(_) => {}
    }
    expiry::check(label, &tenant.credential, lines);
    true
}

fn check_subscriptions(client: &Client, tenant: &Tenant, token: &Token, lines: &mut Lines) {
    let label = tenant.label();
    let listed = match client.subscriptions(tenant, token, |_| ()) {
        Ok(listed) => listed,
        Err(failure) => {
            lines.bad(Exit::TryAgain, format_args!("{label}: subscriptions: {}", failure.advice()));
            return;
        }
    };
    for &content_type in &*tenant.subscriptions {
        let mut entries = listed.iter().filter(|entry| entry.content_type == Some(content_type)).peekable();
        if entries.peek().is_none() {
            lines.good(format_args!(
                "{label}: not yet subscribed to {content_type}; the first pass starts it"
            ));
        } else if entries.any(|entry| entry.enabled) {
            lines.good(format_args!("{label}: subscribed to {content_type}"));
        } else {
            lines.warn(format_args!(
                "{label}: the subscription to {content_type} is disabled; the next pass starts it again. If it was \
                 stopped on purpose, remove it from subscriptions"
            ));
        }
    }
}
