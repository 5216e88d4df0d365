//! `check`: tries out what a pass needs, step by step, and says what was found, a line each on standard output.
//! Collects nothing and changes nothing.
//!
//! A step that fails does not hide those that do not need it; one that cannot be tried because of it says so. Nothing
//! is tried twice, and every wait has an end ([`CHECK_WAIT_MAX`]).

mod expiry;
mod lines;
mod permissions;
mod reach;
mod storage;
mod tenant;

use std::sync::{Arc, atomic::AtomicBool};

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
};

use crate::{
    api::Client,
    clock::Clock,
    config::{Collect, Config, Tenant},
    exit::Exit,
    limits::CHECK_WAIT_MAX,
};
use lines::Lines;

/// Walks through everything: the configuration with its `warnings`, the way to Microsoft, these tenants, and where
/// state, records, log and metrics go.
pub fn run(config: &Config, warnings: &[String], tenants: &[Tenant]) -> Exit {
    end_at_signals();
    let mut lines = Lines::default();
    lines.good("The configuration is valid");
    for warning in warnings {
        lines.warn(warning);
    }
    let request_timeout = config.collect.request_timeout.min(CHECK_WAIT_MAX);
    match Client::new(&config.network, &Collect { request_timeout, ..config.collect.clone() }, Clock::start())
    {
        Ok(client) => check_tenants(&client, tenants, &mut lines),
        Err(unusable) => lines.bad(Exit::Configuration, unusable),
    }
    storage::check_state(&config.collect.working_dir, &mut lines);
    storage::check_owners(config, &mut lines);
    storage::check_outputs(config, &mut lines);
    storage::check_log(config.log.path.as_deref(), &mut lines);
    storage::check_metrics(config.metrics_path.as_deref(), &mut lines);
    lines.exit()
}

/// Says that nothing can be tried, for the configuration has mistakes. They are in the log, as for every command.
pub fn refuse() -> Exit {
    let mut lines = Lines::default();
    lines.bad(Exit::Configuration, "The configuration is wrong; mend what the log lists, then check again");
    lines.exit()
}

/// Lets a signal end the program at once, as the first process of a container too: there is nothing to finish.
fn end_at_signals() {
    for (signal, exit) in [(SIGINT, Exit::Interrupted), (SIGTERM, Exit::Terminated)] {
        let always = Arc::new(AtomicBool::new(true));
        // If the system does not let us, signals end the program as they always do.
        let _ = flag::register_conditional_shutdown(signal, exit.code().into(), always);
    }
}

fn check_tenants(client: &Client, tenants: &[Tenant], lines: &mut Lines) {
    if tenants.is_empty() {
        lines.untried("No tenant falls into this shard");
        return;
    }
    let reached = reach::check(client, tenants, lines);
    let logged_in = tenants.iter().filter(|tenant| tenant::check(client, tenant, &reached, lines)).count();
    if logged_in == 0 {
        lines.note(Exit::NoLogin);
    }
}
