//! The files that are shipped with the program: units, crontab, containers, package, man page, alerts. Most tests compare
//! them with the program. Those that need another tool or root are ignored by default; `.ci/run` runs them with
//! `cargo test --locked --test tests -- --ignored packaging`.

mod browser;
mod containers;
mod cron;
mod dashboard;
mod debian;
mod images;
mod machine;
mod manual;
mod monitoring;
mod offline;
mod older_image;
mod shards;
mod systemd;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use office_audit_log_collector::config::{self, Sources};

use crate::support::{CONTOSO, FABRIKAM, Run, process::WAIT_MAX, set_mode};

/// Returns the path of a file of the repository.
fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The same as text, for an argument of a command.
fn path_text(name: &str) -> String {
    path(name).display().to_string()
}

/// Reads a file of the repository.
fn text(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Runs a tool to its end.
fn tool(name: &str, arguments: &[&str]) -> Run {
    let mut command = Command::new(name);
    command.args(arguments).env("TZ", "UTC");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn();
    Run::finish(child.unwrap_or_else(|error| panic!("{name}: {error}; .ci/run lists what to install")))
}

/// Waits until a condition holds. Panics with `what` and the current state if it does not hold within [`WAIT_MAX`].
#[track_caller]
fn until(what: &str, holds: impl Fn() -> bool, state: impl Fn() -> String) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < WAIT_MAX, "waited {} s until {what}: {}", WAIT_MAX.as_secs(), state());
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Loads a shipped configuration, filled in, with these environment variables.
fn load(file: &Path, environment: &[(&str, &str)]) -> config::Loaded {
    let variable =
        |name: &str| environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    let sources = Sources { file, credentials: None, environment: &variable, with_secrets: true };
    config::load(&sources).unwrap_or_else(|unusable| panic!("{unusable}"))
}

/// Replaces the placeholders of the two ids.
fn filled_in(text: &str) -> String {
    text.replace("YOUR-TENANT-ID", CONTOSO).replace("YOUR-CLIENT-ID", FABRIKAM)
}

#[test]
#[ignore = "needs shellcheck: cargo test --test tests -- --ignored packaging::shellcheck"]
fn shellcheck_finds_nothing_in_the_scripts() {
    let scripts = [
        ".ci/run",
        "debian/postinst",
        "debian/postrm",
        "debian/prerm",
        "docker/cadence",
        "systemd/office365-collector-failure-mail",
        "systemd/office365-collector-run",
        "tests/interop/install",
        "tests/packaging/boot",
    ];
    let scripts = scripts.map(|script| path(script).display().to_string());
    let run = tool("shellcheck", &scripts.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), ""), "{run}");
}

#[test]
fn the_service_configuration_needs_two_ids_and_a_secret_and_matches_the_units() {
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
