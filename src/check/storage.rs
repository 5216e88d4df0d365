//! The state, the outputs, the log and the metrics.

use std::path::Path;

use super::{WAIT_MAX, expiry, lines::Lines};
use crate::{
    config::{AzureLogs, Config, HttpFormat},
    disk::{self, FileContext},
    error::Explain,
    exit::Exit,
    login::{App, LoginRequest, managed_identity},
    output::{self, CancelToken},
    state::{self, StateError},
};

/// Checks what a pass writes. `check_outputs` is one of the functions below.
pub fn check(config: &Config, check_outputs: fn(&Config, &mut Lines), lines: &mut Lines) {
    check_state(&config.collect.working_dir, lines);
    check_owners(config, lines);
    check_outputs(config, lines);
    check_log(config.log.path.as_deref(), lines);
    check_metrics(config.metrics_path.as_deref(), lines);
}

/// Checks that a pass could write its state, and that none is running.
fn check_state(working_dir: &Path, lines: &mut Lines) {
    let folder = working_dir.display();
    match state::check(working_dir) {
        Ok(()) => lines.good(format_args!("state: can be written in {folder}")),
        Err(StateError::Locked { path }) => {
            lines.skipped(format_args!(
                "state: not checked, because a pass is running and holds the lock on {}",
                path.display()
            ));
        }
        Err(error) => lines.bad(Exit::from(&error), format_args!("state: {}", error.explain())),
    }
}

/// Checks that root owns no files in the folders of other users.
fn check_owners(config: &Config, lines: &mut Lines) {
    for foreign in config.foreign_files() {
        if foreign.is_empty() {
            lines.warn(foreign.advice());
        } else {
            lines.bad(Exit::Storage, &foreign);
        }
    }
}

/// Checks that each enabled output accepts records.
pub fn check_outputs(config: &Config, lines: &mut Lines) {
    let mut config = config.clone();
    if let Some(http) = &mut config.output.http {
        http.timeout = http.timeout.min(WAIT_MAX);
        if let HttpFormat::AzureLogs(app) = &http.format {
            expiry::check("output.http", &app.credential, lines);
        }
    }
    for mut output in output::open(&config, &CancelToken::default()) {
        lines.result(format_args!("output.{}", output.name()), output.check());
    }
}

/// Checks the files of each enabled output, and the credential of the output to Azure Monitor.
pub fn check_outputs_offline(config: &Config, lines: &mut Lines) {
    if let Some(HttpFormat::AzureLogs(azure)) = config.output.http.as_ref().map(|http| &http.format) {
        let AzureLogs { tenant_id, client_id, credential, resource, login_url } = azure;
        match (App { login_url, tenant_id, client_id, credential }).request(resource) {
            Ok(LoginRequest::ManagedIdentity(identity)) => {
                if let Err(error) = managed_identity::check(identity) {
                    lines.bad(Exit::TryAgain, format_args!("output.http.azure: {error}; {}", error.hint()));
                }
            }
            Ok(LoginRequest::Form(_)) => expiry::check("output.http", credential, lines),
            Err(error) => {
                lines.bad(Exit::TryAgain, format_args!("output.http.azure: {error}; {}", error.hint()));
            }
        }
    }
    for mut output in output::open(config, &CancelToken::default()) {
        let name = output.name();
        match output.check_offline().transpose() {
            Some(checked) => lines.result(format_args!("output.{name}"), checked),
            None => lines.skipped(format_args!("output.{name}: the receiver is not checked offline")),
        }
    }
}

/// Checks that the log can be written, if it is a file.
fn check_log(path: Option<&Path>, lines: &mut Lines) {
    let Some(path) = path else { return };
    // Unlike an output's folder, the log's folder is not created.
    let checked = disk::folder_of(path).metadata().and_then(|_| disk::check_append(path));
    let checked = checked.context("write", path).map(|()| format!("{} can be written", path.display()));
    lines.result("log.path", checked);
}

/// Checks that the metrics can be replaced, if there are any.
fn check_metrics(path: Option<&Path>, lines: &mut Lines) {
    let Some(path) = path else { return };
    let checked = disk::check_replace(path).context("replace", path);
    lines.result("metrics.path", checked.map(|()| format!("{} can be replaced", path.display())));
}
