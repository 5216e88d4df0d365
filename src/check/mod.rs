//! `check`: checks what a pass needs, step by step, and prints a line for each result. Collects and changes nothing.
//!
//! A failed step does not hide the steps that do not depend on it; those that do are reported as not checked. Nothing is
//! checked twice, and every wait ends after `WAIT_MAX`.
//!
//! With `--offline` only the steps are made that need no network, for machines that cannot reach Microsoft and the receivers.

mod expiry;
mod lines;
mod permissions;
mod reach;
mod storage;
mod tenant;

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
};

use crate::{
    api::Client,
    clock::Clock,
    config::{Collect, Config, Tenant},
    exit::Exit,
};
use lines::Lines;

/// The maximum wait for the lookup of a name, or for a response.
const WAIT_MAX: Duration = Duration::from_secs(20);

/// Checks the configuration with its `warnings`, the network, these tenants, state, outputs, log and metrics.
pub fn run(config: &Config, warnings: &[String], tenants: &[Tenant]) -> Exit {
    let mut lines = start(warnings);
    let request_timeout = config.collect.request_timeout.min(WAIT_MAX);
    let collect = Collect { request_timeout, ..config.collect.clone() };
    if let Some(client) = client(config, &collect, &mut lines) {
        check_tenants(&client, tenants, &mut lines);
    }
    storage::check(config, storage::check_outputs, &mut lines);
    lines.exit()
}

/// Checks the same without the network: the login, the permissions and the receivers are not checked.
pub fn run_offline(config: &Config, warnings: &[String], tenants: &[Tenant]) -> Exit {
    let mut lines = start(warnings);
    client(config, &config.collect, &mut lines);
    if tenants.is_empty() {
        lines.skipped(NO_TENANT);
    } else if tenants.iter().filter(|tenant| tenant::check_offline(tenant, &mut lines)).count() == 0 {
        lines.note(Exit::NoLogin);
    }
    storage::check(config, storage::check_outputs_offline, &mut lines);
    lines.exit()
}

const NO_TENANT: &str = "No tenant belongs to this shard";

/// Begins a check of a configuration without mistakes.
fn start(warnings: &[String]) -> Lines {
    end_at_signals();
    let lines = Lines::default();
    lines.good("The configuration is valid");
    for warning in warnings {
        lines.warn(warning);
    }
    lines
}

/// Returns a client, for which the proxy and the root certificates of the configuration are read.
fn client(config: &Config, collect: &Collect, lines: &mut Lines) -> Option<Client> {
    match Client::new(&config.network, collect, Clock::start()) {
        Ok(client) => Some(client),
        Err(error) => {
            lines.bad(Exit::Configuration, error);
            None
        }
    }
}

/// Prints that nothing can be checked because the configuration has mistakes. The log lists them, as for every command.
pub fn refuse() -> Exit {
    let mut lines = Lines::default();
    lines.bad(Exit::Configuration, "The configuration is wrong; fix what the log lists, then check again");
    lines.exit()
}

/// Lets a signal end the program at once, also as the first process of a container: there is nothing to finish.
fn end_at_signals() {
    for (signal, exit) in [(SIGINT, Exit::Interrupted), (SIGTERM, Exit::Terminated)] {
        let always = Arc::new(AtomicBool::new(true));
        // If registering fails, signals end the program as they do by default.
        let _ = flag::register_conditional_shutdown(signal, exit.code().into(), always);
    }
}

fn check_tenants(client: &Client, tenants: &[Tenant], lines: &mut Lines) {
    if tenants.is_empty() {
        lines.skipped(NO_TENANT);
        return;
    }
    let reached = reach::check(client, tenants, lines);
    let logged_in = tenants.iter().filter(|tenant| tenant::check(client, tenant, &reached, lines)).count();
    if logged_in == 0 {
        lines.note(Exit::NoLogin);
    }
}
