//! Where things go: the state, the outputs, the log, the metrics.

use std::path::Path;

use super::{expiry, lines::Lines};
use crate::{
    config::{Config, HttpFormat},
    disk,
    error::Explain,
    exit::Exit,
    limits::CHECK_WAIT_MAX,
    log,
    output::{self, CancelToken, Output},
    state::{self, StateError},
};

/// Whether a pass could keep its state here, and whether one does so now.
pub fn check_state(working_dir: &Path, lines: &mut Lines) {
    let folder = working_dir.display();
    match state::check(working_dir) {
        Ok(()) => lines.good(format_args!("state: can be written in {folder}")),
        Err(StateError::Locked { path }) => {
            lines.untried(format_args!(
                "state: not tried, for a pass is running and holds the lock on {}",
                path.display()
            ));
        }
        Err(error) => lines.bad(Exit::Storage, format_args!("state: {}", error.explain())),
    }
}

/// Whether root has left files that the user who owns their folder cannot write.
pub fn check_owners(config: &Config, lines: &mut Lines) {
    for foreign in config.foreign_files() {
        if foreign.is_empty() {
            lines.warn(foreign.advice());
        } else {
            lines.bad(Exit::Storage, &foreign);
        }
    }
}

/// Whether each enabled output would take records.
pub fn check_outputs(config: &Config, lines: &mut Lines) {
    let mut config = config.clone();
    if let Some(http) = &mut config.output.http {
        http.timeout = http.timeout.min(CHECK_WAIT_MAX);
        if let HttpFormat::AzureLogs(app) = &http.format {
            expiry::check("output.http", &app.credential, lines);
        }
    }
    for mut output in output::open(&config, &CancelToken::default()) {
        check_output(output.as_mut(), lines);
    }
}

fn check_output(output: &mut dyn Output, lines: &mut Lines) {
    let name = output.name();
    match output.check() {
        Ok(found) => lines.good(format_args!("output.{name}: {found}")),
        Err(error) => {
            let exit = if error.is_storage() { Exit::Storage } else { Exit::TryAgain };
            lines.bad(exit, format_args!("output.{name}: {error}"));
        }
    }
}

/// Whether the log could be written, if it is a file.
pub fn check_log(path: Option<&Path>, lines: &mut Lines) {
    let Some(path) = path else { return };
    match log::try_file(path) {
        Ok(()) => lines.good(format_args!("log.path: {} can be written", path.display())),
        Err(error) => lines.bad(
            Exit::Storage,
            format_args!("log.path: cannot write {}: {error}; {}", path.display(), disk::hint(&error)),
        ),
    }
}

/// Whether the metrics could be replaced, if there are any.
pub fn check_metrics(path: Option<&Path>, lines: &mut Lines) {
    let Some(path) = path else { return };
    match disk::check_replace(path) {
        Ok(()) => lines.good(format_args!("metrics.path: {} can be replaced", path.display())),
        Err(error) => lines.bad(
            Exit::Storage,
            format_args!("metrics.path: cannot replace {}: {error}; {}", path.display(), disk::hint(&error)),
        ),
    }
}
