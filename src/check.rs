//! `check`: tries out what a pass needs, tenant by tenant, and says what was found. Collects nothing.

use std::io::{self, Write};

use crate::{
    api::Client,
    config::{Config, Tenant},
    exit::Exit,
};

/// Logs in to each tenant and shows its subscriptions, a line each on standard output.
pub fn run(config: &Config, tenants: &[Tenant]) -> Exit {
    let mut lines = Lines::default();
    lines.good("The configuration is valid");
    let client = match Client::new(&config.network, &config.collect) {
        Ok(client) => client,
        Err(unusable) => {
            lines.bad(&unusable.to_string());
            return Exit::Configuration;
        }
    };
    let logged_in = tenants.iter().filter(|tenant| check_tenant(&client, tenant, &mut lines)).count();
    match (logged_in, lines.bad) {
        (0, _) => Exit::NoLogin,
        (_, 0) => Exit::Complete,
        _ => Exit::TryAgain,
    }
}

/// Whether the tenant could log in.
fn check_tenant(client: &Client, tenant: &Tenant, lines: &mut Lines) -> bool {
    let label = tenant.label();
    let token = match client.log_in(tenant) {
        Ok(token) => token,
        Err(failure) => {
            lines.bad(&format!("{label}: login: {}", failure.advice()));
            return false;
        }
    };
    lines.good(&format!("{label}: logged in"));
    match client.subscriptions(tenant, &token) {
        Err(failure) => lines.bad(&format!("{label}: subscriptions: {}", failure.advice())),
        Ok(running) => {
            for &content_type in &tenant.subscriptions {
                if running.iter().any(|entry| entry.enabled && entry.content_type == Some(content_type)) {
                    lines.good(&format!("{label}: subscribed to {content_type}"));
                } else {
                    lines.good(&format!(
                        "{label}: not yet subscribed to {content_type}; the first pass starts it"
                    ));
                }
            }
        }
    }
    true
}

/// What was found, a line each.
#[derive(Default)]
struct Lines {
    bad: usize,
}

impl Lines {
    fn good(&self, text: &str) {
        self.write('✓', text);
    }

    fn bad(&mut self, text: &str) {
        self.bad += 1;
        self.write('✗', text);
    }

    #[expect(clippy::unused_self, reason = "the lines are this type's, whether counted or not")]
    fn write(&self, mark: char, text: &str) {
        // A reader that has gone has seen enough.
        let _ = writeln!(io::stdout(), "{mark} {text}");
    }
}
