//! What the README says is so: its commands run, its configurations load, its tables agree with the program.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use office_audit_log_collector::{
    cli::{self, Parsed},
    delivery::OutputName,
    exit::Exit,
};
use serde_json::value::RawValue;

use crate::support::{
    Installation, Run,
    documents::{self, PROGRAM, Page, shell},
};

/// What a reader is told to type that a test cannot run: `.ci/run` does.
const CARGO_COMMANDS: [&str; 4] = [
    "cargo run --release --example demo",
    "cargo test",
    "cargo install --locked --path .",
    "cargo bench --bench passes",
];

fn readme() -> Page {
    Page::read("README.md")
}

/// An installation with the configuration that the README shows first.
fn reader() -> Installation {
    documents::reader(readme().blocks("yaml")[0])
}

#[test]
fn its_shell_commands_run_one_after_the_other() {
    let (readme, installation) = (readme(), reader());
    let mut cargo_commands = Vec::new();
    for block in readme.blocks("sh") {
        if block.starts_with("cargo ") {
            cargo_commands.push(block.trim());
            continue;
        }
        let run = Run::from(shell(&installation, block));
        run.assert_code(0);
        assert!(!run.stderr.contains("[ERROR]"), "{block}{run}");
    }
    assert_eq!(cargo_commands, CARGO_COMMANDS);
    let text = |name| fs::read_to_string(installation.path(name)).expect("a file");
    assert_eq!(text("audit.json").lines().count(), 25);
    assert_eq!(text("last-hours.json").lines().count(), 25);
    assert_eq!(text("known_blobs").lines().count(), 5);
    installation.assert_good_manners();
}

#[test]
fn the_commands_that_no_test_can_run_are_run_by_continuous_integration() {
    let script = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/run")).expect("a script");
    for command in CARGO_COMMANDS {
        assert!(script.contains(command), "{command} is not in .ci/run");
    }
}

#[test]
fn its_crontab_line_calls_the_program_as_it_wants_to_be_called() {
    let readme = readme();
    for line in readme.blocks("crontab").into_iter().flat_map(str::lines) {
        let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        let (times, command) = words.split_at(5);
        assert!(times.iter().all(|time| time.starts_with(['*', '0'])), "{line}");
        assert!(command[0].ends_with(PROGRAM), "{line}");
        assert!(matches!(cli::parse(command.to_vec()), Parsed::Run(_)), "{line}");
    }
    assert_eq!(readme.blocks("crontab").len(), 1);
}

#[test]
fn its_configurations_load() {
    let readme = readme();
    for block in readme.blocks("yaml") {
        assert_eq!(documents::load(block).warnings, [""; 0], "{block}");
    }
    assert_eq!(readme.blocks("yaml")[0], include_str!("../config/config.yaml"));
}

#[test]
fn its_log_lines_are_those_of_a_pass() {
    let run = Run::from(shell(&reader(), &format!("chmod 600 config/config.yaml; {PROGRAM}")));
    let real: BTreeSet<_> = run.stderr.lines().map(without_numbers).collect();
    let readme = readme();
    let shown: Vec<_> = readme.blocks("log").into_iter().flat_map(str::lines).map(without_numbers).collect();
    assert!(!shown.is_empty());
    for line in shown {
        assert!(real.contains(&line), "no line {line:?} in {run}");
    }
}

/// Every run of digits as one `0`.
fn without_numbers(line: &str) -> String {
    let mut text = String::new();
    for character in line.chars() {
        if !character.is_ascii_digit() {
            text.push(character);
        } else if !text.ends_with('0') {
            text.push('0');
        }
    }
    text
}

#[test]
fn its_record_is_one_line_of_json_that_says_where_it_comes_from() {
    let readme = readme();
    for block in readme.blocks("json") {
        assert_eq!(block.lines().count(), 1);
        serde_json::from_str::<&RawValue>(block).expect("JSON");
        let last_fields = r#","OriginFeed":"Audit.AzureActiveDirectory","TenantName":"contoso"}"#;
        assert!(block.trim().ends_with(last_fields), "{block}");
    }
    assert_eq!(readme.blocks("json").len(), 1);
}

#[test]
fn its_exit_codes_are_those_of_the_program() {
    let codes = [
        Exit::Complete,
        Exit::TryAgain,
        Exit::Usage,
        Exit::Storage,
        Exit::Locked,
        Exit::NoLogin,
        Exit::Configuration,
    ];
    let signals = format!("{}, {}", Exit::Terminated.code(), Exit::Interrupted.code());
    let codes = codes.iter().map(|exit| exit.code().to_string()).chain([signals]);
    let readme = readme();
    let listed: Vec<_> = readme.table("| exit code |").iter().map(|row| row[0].to_owned()).collect();
    assert_eq!(listed, codes.collect::<Vec<_>>());
}

#[test]
fn its_outputs_are_those_that_there_are() {
    let readme = readme();
    let listed: Vec<_> = readme.table("| output |").iter().map(|row| row[0].trim_matches('`')).collect();
    let known = OutputName::ALL.map(|name| format!("output.{name}"));
    assert_eq!(listed, known);
}

#[test]
fn every_file_that_it_links_to_is_there() {
    readme().assert_links_lead_somewhere();
}

#[test]
fn the_demo_holds_what_it_shows() {
    let output = Command::new(demo()).env("CLIENT_SECRET", "not-for-the-demo").output().expect("a program");
    let run = Run::from(output);
    assert_eq!(run.code, Some(0), "{run}");
    assert!(run.stdout.contains("4000 records served, 4000 delivered: 0 missing"), "{run}");
    assert!(!run.stdout.contains('✗'), "{run}");
    run.assert_line("[INFO] Done! Blobs found: 100 | Blobs successful: 100 | Logs saved: 4000")
        .assert_line("[WARN] No new blobs found");
}

/// The demo's program, which `cargo test` builds beside the collector's.
fn demo() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_office_audit_log_collector")).with_file_name("examples/demo");
    assert!(path.exists(), "no {}: run cargo test, or cargo build --example demo before", path.display());
    path
}
