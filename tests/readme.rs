//! What the README says is so: its commands run, its configurations load, its tables agree with the program.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use office_audit_log_collector::{
    cli::{self, Parsed},
    config::{self, Loaded, Sources},
    exit::Exit,
};
use serde_json::value::RawValue;
use simulator::{CONTENT_TYPES, NewBlob, TenantSettings};

use crate::support::{CONTOSO, Installation, Run, hours_ago, set_mode};

const README: &str = include_str!("../README.md");
const PROGRAM: &str = "office_audit_log_collector";

/// What a reader is told to type that a test cannot run: `.ci/run` does.
const CARGO_COMMANDS: [&str; 3] =
    ["cargo run --release --example demo", "cargo test", "cargo install --locked --path ."];

/// The texts of the README's code blocks in this language, in order.
fn blocks(language: &str) -> Vec<&'static str> {
    blocks_of(README, language)
}

/// The same of another page.
fn blocks_of(page: &'static str, language: &str) -> Vec<&'static str> {
    let fenced = page.split("```").skip(1).step_by(2);
    fenced.filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n')).collect()
}

/// The rows of the table below this heading row, each as its cells.
fn table(heading: &str) -> Vec<Vec<&'static str>> {
    let below = README.lines().skip_while(|line| !line.starts_with(heading)).skip(2);
    let rows: Vec<Vec<_>> = below
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    assert!(!rows.is_empty(), "no table {heading}");
    rows
}

/// With the three values that a reader fills in.
fn filled_in(text: &str) -> String {
    let TenantSettings { client_id, .. } = TenantSettings::new(CONTOSO);
    text.replace("YOUR-TENANT-ID", CONTOSO)
        .replace("YOUR-CLIENT-ID", &client_id)
        .replace("YOUR-CLIENT-SECRET", "a-secret-that-nobody-may-see")
}

fn load(path: &Path, text: &str) -> Loaded {
    let sources = Sources { file: path, credentials: None, environment: &|_| None, with_secrets: true };
    config::load(&sources).unwrap_or_else(|unusable| {
        panic!(
            "{unusable}
{text}"
        )
    })
}

/// An installation as a reader has it: `config/config.yaml` filled in, and contoso with something in each feed.
fn reader() -> Installation {
    let installation = Installation::new();
    for content_type in CONTENT_TYPES {
        installation.contoso.add_blob(content_type, NewBlob::records(5).created(hours_ago(2)));
    }
    let url = installation.simulator.url();
    let simulated = format!("tenants:\n  - login_url: {url}\n    api_url: {url}\n    ");
    let config = filled_in(blocks("yaml")[0]).replace("tenants:\n  - ", &simulated);
    fs::create_dir(installation.path("config")).expect("a folder");
    fs::write(installation.path("config/config.yaml"), config).expect("a file");
    installation
}

/// Runs a block of shell commands, the first failure ends it.
fn shell(installation: &Installation, script: &str) -> Output {
    let program = Path::new(env!("CARGO_BIN_EXE_office_audit_log_collector"));
    let folder = program.parent().expect("a folder").display();
    Command::new("sh")
        .args(["-ec", script])
        .current_dir(installation.path(""))
        .env_clear()
        .env("PATH", format!("{folder}:/usr/bin:/bin"))
        .stdin(Stdio::null())
        .output()
        .expect("a shell")
}

#[test]
fn its_shell_commands_run_one_after_the_other() {
    let installation = reader();
    let mut cargo_commands = Vec::new();
    for block in blocks("sh") {
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
    for line in blocks("crontab").into_iter().flat_map(str::lines) {
        let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        let (times, command) = words.split_at(5);
        assert!(times.iter().all(|time| time.starts_with(['*', '0'])), "{line}");
        assert!(command[0].ends_with(PROGRAM), "{line}");
        assert!(matches!(cli::parse(command.to_vec()), Parsed::Run(_)), "{line}");
    }
    assert_eq!(blocks("crontab").len(), 1);
}

#[test]
fn its_configurations_load() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("config.yaml");
    for name in ["contoso.secret", "fabrikam.secret"] {
        fs::write(folder.path().join(name), "a-secret\n").expect("a file");
    }
    let in_folder = format!("client_secret_file: \"{}/", folder.path().display());
    for block in blocks("yaml") {
        fs::write(&path, filled_in(block).replace("client_secret_file: \"", &in_folder)).expect("a file");
        set_mode(&path, 0o600);
        load(&path, block);
    }
    assert_eq!(blocks("yaml")[0], include_str!("../config/config.yaml"));
}

#[test]
fn the_configurations_of_the_receivers_page_load() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("config.yaml");
    let blocks = blocks_of(include_str!("../docs/RECEIVERS.md"), "yaml");
    assert!(!blocks.is_empty());
    for block in blocks {
        let mut config =
            filled_in(block).replace("${SUMO_URL}", "https://sumo.example/receiver/v1/http/token");
        for secrets in ["/run/credentials/office365-collector.service/", "/etc/ssl/"] {
            for named in block.split(secrets).skip(1) {
                let file = folder.path().join(named.split('"').next().expect("a name"));
                fs::write(&file, "a-secret\n").expect("a file");
                set_mode(&file, 0o600);
            }
            config = config.replace(secrets, &format!("{}/", folder.path().display()));
        }
        fs::write(&path, config).expect("a file");
        set_mode(&path, 0o600);
        assert_eq!(load(&path, block).warnings, [""; 0], "{block}");
    }
}

#[test]
fn its_log_lines_are_those_of_a_pass() {
    let run = Run::from(shell(&reader(), &format!("chmod 600 config/config.yaml; {PROGRAM}")));
    let real: BTreeSet<_> = run.stderr.lines().map(without_numbers).collect();
    let shown: Vec<_> = blocks("log").into_iter().flat_map(str::lines).map(without_numbers).collect();
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
    for block in blocks("json") {
        assert_eq!(block.lines().count(), 1);
        serde_json::from_str::<&RawValue>(block).expect("JSON");
        let last_fields = r#","OriginFeed":"Audit.AzureActiveDirectory","TenantName":"contoso"}"#;
        assert!(block.trim().ends_with(last_fields), "{block}");
    }
    assert_eq!(blocks("json").len(), 1);
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
    let listed: Vec<_> = table("| exit code |").iter().map(|row| row[0].to_owned()).collect();
    assert_eq!(listed, codes.collect::<Vec<_>>());
}

#[test]
fn every_file_that_it_links_to_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for link in README.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        assert!(link.starts_with("https://") || root.join(link).is_file(), "no file {link}");
    }
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
