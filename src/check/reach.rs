//! The network: names, connections, certificates, and this machine's clock compared with the server's.
//!
//! Each host is checked once, however many tenants need it. If it is reached through a proxy, the name that is looked up
//! is the proxy's.

use std::{collections::BTreeMap, net::IpAddr, time::Instant};

use jiff::SignedDuration;

use super::{WAIT_MAX, lines::Lines};
use crate::{
    api::Client,
    config::{Credential, Tenant},
    exit::Exit,
    limits::CLOCK_TOLERANCE,
    output::CancelToken,
};

/// The servers that have answered.
#[derive(Debug, Default)]
pub struct Reached {
    origins: Vec<String>,
    /// Hosts whose clock is known, and the time by which it is ahead of this machine's.
    clocks: Vec<(SignedDuration, String)>,
}

impl Reached {
    /// Returns whether this URL of a tenant has answered.
    pub fn contains(&self, origin: &str) -> bool {
        self.origins.iter().any(|reached| reached == origin)
    }

    /// Checks that a server with a trusted certificate answers.
    fn check_connection(&mut self, client: &Client, origin: &str, lines: &mut Lines) {
        let clock_ahead = match client.reach(origin) {
            Ok(clock_ahead) => clock_ahead,
            Err(failure) => {
                lines.bad(Exit::TryAgain, format_args!("connection: {}", failure.advice()));
                return;
            }
        };
        let trusted = if origin.starts_with("https:") { ", and its certificate is trusted" } else { "" };
        lines.good(format_args!("connection: {} answers{trusted}", client.peer(origin)));
        self.origins.push(origin.to_owned());
        let host = origin.split('/').nth(2).unwrap_or(origin);
        self.clocks.extend(clock_ahead.map(|ahead| (ahead, host.to_owned())));
    }
}

/// Checks the login and API hosts of these tenants.
pub fn check(client: &Client, tenants: &[Tenant], lines: &mut Lines) -> Reached {
    let mut reached = Reached::default();
    let mut names = BTreeMap::new();
    for origin in origins(tenants) {
        let name = client.first_hop(origin);
        let is_found = *names.entry(name).or_insert_with_key(|name| check_name(client, origin, name, lines));
        if is_found {
            reached.check_connection(client, origin, lines);
        }
    }
    if let Some((ahead, host)) = reached.clocks.iter().max_by_key(|(ahead, _)| ahead.abs()) {
        check_clock(*ahead, host, lines);
    }
    reached
}

/// Returns each origin once, in the order of the tenants. A managed identity has its own endpoint in place of the login host.
fn origins(tenants: &[Tenant]) -> Vec<&str> {
    let mut origins: Vec<&str> = Vec::new();
    let needed = |tenant: &'_ Tenant| !matches!(tenant.credential, Credential::ManagedIdentity(_));
    let of_tenant = |tenant| needed(tenant).then_some(&tenant.login_url).into_iter().chain([&tenant.api_url]);
    for origin in tenants.iter().flat_map(of_tenant) {
        if !origins.contains(&&**origin) {
            origins.push(origin);
        }
    }
    origins
}

/// Returns whether the name has an address. If it is one itself, no line is printed.
fn check_name(client: &Client, origin: &str, name: &str, lines: &mut Lines) -> bool {
    if name.parse::<IpAddr>().is_ok() {
        return true;
    }
    let cancel = CancelToken::default();
    cancel.cancel_at(Instant::now() + WAIT_MAX);
    let (client, origin) = (client.clone(), origin.to_owned());
    match cancel.attempt(move || client.look_up(&origin)) {
        Ok(Ok(address)) => {
            lines.good(format_args!("DNS: {name} is {address}"));
            return true;
        }
        Ok(Err(failure)) => lines.bad(Exit::TryAgain, format_args!("DNS: {}", failure.advice())),
        Err(_) => lines.bad(
            Exit::TryAgain,
            format_args!(
                "DNS: {name}: no answer within {} s; check the name servers of this machine",
                WAIT_MAX.as_secs()
            ),
        ),
    }
    false
}

fn check_clock(ahead: SignedDuration, host: &str, lines: &Lines) {
    let seconds = ahead.abs().as_secs();
    if ahead.abs() <= CLOCK_TOLERANCE {
        lines.good(format_args!("clock: within {} s of that of {host}", seconds.max(1)));
        return;
    }
    let direction = if ahead.is_negative() { "ahead of" } else { "behind" };
    lines.warn(format_args!(
        "clock: {seconds} s {direction} that of {host}; a pass corrects for that, but set the clock (timedatectl \
         set-ntp true)"
    ));
}
