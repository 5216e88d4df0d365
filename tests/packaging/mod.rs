//! What is shipped around the program: units, cron, containers, packages, alerts. What is there and whether it agrees
//! with the program is always tested. What needs a tool or root is ignored by default, and run by `.ci/run`: `cargo
//! test --locked --test tests -- --ignored packaging`.

mod containers;
mod cron;
mod debian;
mod machine;
mod manual;
mod monitoring;
mod systemd;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use office_audit_log_collector::config::{self, Sources};

use crate::support::{CONTOSO, FABRIKAM, Run, set_mode};

/// Nothing that is waited for takes as long, unless it never comes.
const PATIENCE: Duration = Duration::from_secs(100);

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// A file of the repository.
fn text(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Runs a tool to its end.
fn tool(name: &str, arguments: &[&str]) -> Run {
    let output = Command::new(name).args(arguments).env("TZ", "UTC").stdin(Stdio::null()).output();
    Run::from(output.unwrap_or_else(|error| panic!("{name}: {error}; .ci/run says what to install")))
}

/// Waits until something holds; if it never does, says also what was seen instead.
#[track_caller]
fn until(what: &str, holds: impl Fn() -> bool, seen: impl Fn() -> String) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain until {what}: {}", seen());
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Reads a shipped configuration as its reader fills it in, with this environment.
fn load(file: &Path, environment: &[(&str, &str)]) -> config::Loaded {
    let variable =
        |name: &str| environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    let sources = Sources { file, credentials: None, environment: &variable, with_secrets: true };
    config::load(&sources).unwrap_or_else(|unusable| panic!("{unusable}"))
}

/// The two ids that a reader fills in.
fn filled_in(text: &str) -> String {
    text.replace("YOUR-TENANT-ID", CONTOSO).replace("YOUR-CLIENT-ID", FABRIKAM)
}

#[test]
fn the_configuration_of_a_service_lacks_two_ids_and_a_secret_and_fits_the_units() {
    let folder = tempfile::tempdir().expect("a folder");
    let (file, secret) = (folder.path().join("config.yaml"), folder.path().join("client_secret"));
    fs::write(&file, filled_in(&text("config/config.service.yaml"))).expect("a file");
    fs::write(&secret, "a-secret\n").expect("a file");
    set_mode(&secret, 0o600);
    let credentials = folder.path().display().to_string();
    let loaded = load(&file, &[("CREDENTIALS_DIRECTORY", &credentials)]);
    assert_eq!(loaded.warnings, [""; 0]);
    let service = text("systemd/office365-collector.service");
    let state = loaded
        .config
        .collect
        .working_dir
        .strip_prefix("/var/lib")
        .expect("a state folder")
        .display()
        .to_string();
    let output = loaded.config.output.file.expect("an output").path;
    let logs = output.parent().and_then(|folder| folder.strip_prefix("/var/log").ok()).expect("a log folder");
    assert!(service.contains(&format!("\nStateDirectory={state}\n")));
    assert!(service.contains(&format!("\nLogsDirectory={}\n", logs.display())));
}
