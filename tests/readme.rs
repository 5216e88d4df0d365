//! Checks of the README: its commands run, its configurations load, and its tables, log lines and pictures match the program.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use office_audit_log_collector::{
    cli::{self, Parsed},
    delivery::OutputName,
    exit::{self, Exit},
};
use serde_json::value::RawValue;

use crate::support::{
    Installation, Run,
    documents::{self, PROGRAM, Page, shell},
    picture,
};

/// The commands of the README that a test cannot run, because they build the program. `.ci/run` runs them.
const CARGO_COMMANDS: [&str; 4] = [
    "cargo run --release --example demo",
    "cargo test",
    "cargo install --locked --path .",
    "cargo bench --bench passes",
];

fn readme() -> Page {
    Page::read("README.md")
}

/// Returns an installation with the first configuration of the README.
fn reader() -> Installation {
    documents::reader(readme().blocks("yaml")[0])
}

#[test]
fn the_shell_commands_run_in_order() {
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
    assert_eq!(text("data/audit.json").lines().count(), 25);
    assert_eq!(text("data/last-hours.json").lines().count(), 25);
    assert_eq!(text("data/known_blobs").lines().count(), 5);
    installation.assert_no_violations();
    assert_only_ignored_files_are_new(&installation);
}

/// Asserts that the commands of the README create only files that git ignores, so that no secret and no record is committed.
fn assert_only_ignored_files_are_new(installation: &Installation) {
    let ignored = fs::read_to_string(documents::repository(".gitignore")).expect("a file");
    assert!(ignored.lines().any(|line| line == "/config/local*"), "{ignored}");
    assert!(ignored.lines().any(|line| line == "/data/"), "{ignored}");
    let names = |folder: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(installation.path(folder)).expect("a folder");
        entries.map(|entry| entry.expect("an entry").file_name().display().to_string()).collect()
    };
    assert_eq!(names("config"), BTreeSet::from(["config.yaml", "local.yaml"].map(str::to_owned)));
    assert_eq!(
        names("").into_iter().filter(|name| !["config", "data"].contains(&name.as_str())).count(),
        0,
        "{:?}",
        names("")
    );
}

#[test]
fn continuous_integration_runs_the_cargo_commands() {
    let script = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/run")).expect("a script");
    for command in CARGO_COMMANDS {
        assert!(script.contains(command), "{command} is not in .ci/run");
    }
}

#[test]
fn the_crontab_line_has_valid_arguments() {
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
fn the_configurations_load() {
    let readme = readme();
    for block in readme.blocks("yaml") {
        assert_eq!(documents::load(block).warnings, [""; 0], "{block}");
    }
    assert_eq!(readme.blocks("yaml")[0], include_str!("../config/config.yaml"));
}

#[test]
fn the_log_lines_are_those_of_a_pass() {
    let run = Run::from(shell(&reader(), &format!("chmod 600 config/config.yaml; {PROGRAM}")));
    let logged: BTreeSet<_> = run.stderr.lines().map(without_numbers).collect();
    let readme = readme();
    let shown: Vec<_> = readme.blocks("log").into_iter().flat_map(str::lines).map(without_numbers).collect();
    assert!(!shown.is_empty());
    for line in shown {
        assert!(logged.contains(&line), "no line {line:?} in {run}");
    }
}

/// Replaces each sequence of digits by one `0`.
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
fn the_record_is_one_line_of_json_with_its_origin() {
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
fn the_exit_codes_are_those_of_the_program() {
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
    let codes = codes.iter().map(|exit| exit.code().to_string()).chain([exit::PANIC.to_string(), signals]);
    let readme = readme();
    let listed: Vec<_> = readme.table("| exit code |").iter().map(|row| row[0].to_owned()).collect();
    assert_eq!(listed, codes.collect::<Vec<_>>());
}

#[test]
fn the_outputs_are_those_of_the_program() {
    let readme = readme();
    let listed: Vec<_> = readme.table("| output |").iter().map(|row| row[0].trim_matches('`')).collect();
    let known = OutputName::ALL.map(|name| format!("output.{name}"));
    assert_eq!(listed, known);
}

#[test]
fn every_link_of_the_readme_leads_somewhere() {
    readme().assert_links_lead_somewhere();
}

#[test]
fn links_the_pages_for_contributors_and_their_paths_exist() {
    let readme = readme();
    for name in ["CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "LICENSE.md", ".ci/run"] {
        assert!(readme.text.contains(&format!("({name})")), "no link to {name}");
    }
    for name in ["CONTRIBUTING.md", "SECURITY.md"] {
        let page = Page::read(name);
        page.assert_links_lead_somewhere();
        let folders = ["src/", "tests/", "config/", "docs/", "man/", "completions/"];
        for quoted in page.quoted() {
            let is_path = folders.iter().any(|folder| quoted.starts_with(folder)) && !quoted.contains("NAME");
            assert!(!is_path || documents::repository(&quoted).exists(), "{name}: no {quoted}");
        }
    }
    for row in Page::read("CONTRIBUTING.md").table("| module in `src/` |") {
        for module in row[0].split('`').skip(1).step_by(2) {
            assert!(documents::repository("src").join(module).exists(), "CONTRIBUTING.md: no src/{module}");
        }
    }
}

#[test]
fn the_demo_succeeds_and_its_picture_matches() {
    // The demo ignores the variables that the collector reads.
    let run = run_demo(Command::new(demo()).env("CLIENT_SECRET", "not-for-the-demo"));
    assert_eq!(run.code, Some(0), "{run}");
    assert!(run.stdout.contains("4000 records served, 4000 delivered: 0 missing"), "{run}");
    assert!(
        run.stdout.contains("100 blobs listed, all known; 4,000 records served, each found once."),
        "{run}"
    );
    assert!(!run.stdout.contains('✗'), "{run}");
    run.assert_line("[INFO] Done! Blobs found: 100 | Blobs successful: 100 | Logs saved: 4000")
        .assert_line("[WARN] No new blobs found");

    if picture::is_requested() {
        let both = run_demo(Command::new("sh").args(["-c", "exec \"$0\" 2>&1"]).arg(demo()));
        let lines = pictured_lines(&both.stdout);
        let lines: Vec<_> = lines.iter().map(|line| (colour(line), line.as_str())).collect();
        picture::replace(PICTURE, &picture::draw(DEMO, &lines));
    }
    let shape = |line: &str| without_numbers(line.split_once("{\"").map_or(line, |(indent, _)| indent));
    let printed = with_fixed_port_and_folder(&run.stdout) + &with_fixed_port_and_folder(&run.stderr);
    let printed: BTreeSet<_> = printed.lines().flat_map(wrapped).map(shape).collect();
    let pictured = picture::lines_of(&Page::read(PICTURE).text);
    assert_eq!(pictured[0], format!("$ {DEMO}"));
    assert!(pictured.join(" ").contains("4,000 records served, each found once."), "{pictured:#?}");
    for line in &pictured[1..] {
        let is_printed = line == OMITTED || printed.contains(&shape(line));
        assert!(
            is_printed,
            "the demo does not print {line:?}; DRAW=1 cargo test picture draws {PICTURE} again: {run}"
        );
    }
}

/// Runs the demo to its end.
#[track_caller]
fn run_demo(command: &mut Command) -> Run {
    Run::of(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()))
}

const DEMO: &str = "cargo run --release --example demo";
const PICTURE: &str = "docs/demo.svg";
/// Replaces the sections that the picture omits.
const OMITTED: &str = "   …";

/// Replaces the port and the folder in the demo's output, which differ from run to run.
fn with_fixed_port_and_folder(output: &str) -> String {
    let between = |before: &str, after: &str| {
        let (_, rest) = output.split_once(before)?;
        Some(rest.split_once(after)?.0.to_owned())
    };
    let mut fixed_output = output.to_owned();
    for (changing, fixed) in
        [(between("--config=", "/config.yaml"), "/tmp/demo"), (between("http://127.0.0.1:", ": "), "8365")]
    {
        if let Some(changing) = changing {
            fixed_output = fixed_output.replace(&changing, fixed);
        }
    }
    fixed_output
}

/// Returns the lines for the picture: the sections about the tenant, the first pass, its files and `verify`.
fn pictured_lines(output: &str) -> Vec<String> {
    let mut lines = vec![format!("$ {DEMO}"), String::new()];
    let fixed = with_fixed_port_and_folder(output);
    let (mut is_shown, mut records) = (false, 0);
    for line in fixed.lines().flat_map(wrapped) {
        if is_heading(line) {
            is_shown = line.starts_with(['1', '3', '4', '7']);
            let is_omitted = lines.iter().rev().nth(1).is_some_and(|line| line == OMITTED);
            if !is_shown && !is_omitted {
                lines.extend([OMITTED.to_owned(), String::new()]);
            }
        }
        records += usize::from(line.contains("{\""));
        let is_repeated =
            line.is_empty() && lines.last().is_some_and(|last| last.is_empty() || is_heading(last));
        if is_shown && !is_repeated && !(line.contains("{\"") && records > 2) {
            lines.push(line.to_owned());
        }
    }
    lines
}

/// The number of characters after which a line continues in the next one of the picture.
const COLUMNS: usize = 110;

/// Returns the lines of the picture in which a line is shown.
fn wrapped(line: &str) -> Vec<&str> {
    let end = line.char_indices().nth(COLUMNS).map(|(end, _)| end);
    let space = end.and_then(|end| line[..end].rfind(' ')).filter(|space| !line[..*space].trim().is_empty());
    match space {
        Some(space) if !line.contains("{\"") => {
            let mut lines = vec![&line[..space]];
            lines.extend(wrapped(&line[space + 1..]));
            lines
        }
        _ => vec![line],
    }
}

fn is_heading(line: &str) -> bool {
    line.starts_with(|digit: char| digit.is_ascii_digit()) && line.get(1..3) == Some(". ")
}

fn colour(line: &str) -> &'static str {
    match line.trim_start() {
        text if text.starts_with('$') => picture::PROMPT,
        text if text.starts_with('✓') => picture::GOOD,
        text if text.starts_with('…') || text.starts_with("exit code") => picture::DIM,
        _ if is_heading(line) => picture::HEADING,
        _ => picture::PLAIN,
    }
}

/// Returns the path of the demo, which `cargo test` builds next to the program.
fn demo() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_office_audit_log_collector")).with_file_name("examples/demo");
    assert!(
        path.exists(),
        "no {}: run cargo test, or cargo build --example demo, before this test",
        path.display()
    );
    path
}
