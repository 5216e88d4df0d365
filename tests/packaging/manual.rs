//! The man page and the shells' completions, held against the program's own help.

use std::collections::BTreeSet;

use super::{path, text, tool};
use crate::support::Installation;

const COMMANDS: [&str; 3] = ["check", "status", "schedule"];
const SCHEDULERS: [&str; 2] = ["systemd", "cron"];

/// Every option that the program's helps list, long and short.
fn options() -> BTreeSet<String> {
    let installation = Installation::new();
    let mut options = BTreeSet::from(["-h".to_owned()]);
    for arguments in [&["--help"][..], &["check", "--help"], &["status", "--help"], &["schedule", "--help"]] {
        let help = installation.run_bare(arguments).stdout;
        options.extend(words_with_dashes(help.split("Options:").nth(1).expect("options")));
    }
    assert!(options.len() > 12, "{options:?}");
    options
}

/// The options named at the beginning of a word.
fn words_with_dashes(text: &str) -> impl Iterator<Item = String> {
    let is_part = |character: char| character.is_ascii_alphanumeric() || character == '-';
    text.split(move |character| !is_part(character))
        .filter(|word| word.trim_start_matches('-').starts_with(|letter: char| letter.is_ascii_alphabetic()))
        .filter(|word| word.starts_with("--") || word.starts_with('-') && word.len() == 2)
        .map(str::to_owned)
}

#[test]
fn the_man_page_tells_of_every_option_and_exit_code_and_no_other() {
    let page = text("man/office_audit_log_collector.1").replace("\\-", "-").replace("\\fR", " ");
    let told: BTreeSet<_> = words_with_dashes(&page).collect();
    assert_eq!(told, options());
    let help = Installation::new().run_bare(&["--help"]).stdout;
    let codes = help.split("Error codes:").nth(1).expect("exit codes").lines();
    let codes = codes.filter_map(|line| line.trim().split_once(' ')?.0.parse::<u8>().ok());
    let codes: Vec<_> = codes.collect();
    assert_eq!(codes.len(), 9, "{help}");
    for code in codes {
        let is_heading =
            |line: &str| line.starts_with(&format!(".B {code}")) || line.starts_with(&format!(".BR {code} "));
        assert!(page.lines().any(is_heading), "{code}");
    }
}

#[test]
fn bash_completes_options_commands_and_files() {
    let script = path("completions/office_audit_log_collector.bash").display().to_string();
    let completed = |words: &[&str]| -> BTreeSet<String> {
        let program = format!(
            "source {script}; COMP_WORDS=(office_audit_log_collector {}); COMP_CWORD={}; \
             _office_audit_log_collector; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" "),
            words.len()
        );
        let run = tool("bash", &["-c", &program]);
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run}");
        run.stdout.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
    };
    let texts = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<BTreeSet<_>>();
    let mut all = options();
    let own = ["--json", "--offline"];
    for (command, of_command) in [("status", &own[..1]), ("check", &own[1..])] {
        let mut expected = all.clone();
        expected.retain(|option| !own.contains(&option.as_str()) || of_command.contains(&option.as_str()));
        assert_eq!(completed(&[command, "-"]), expected, "{command}");
    }
    all.retain(|option| !own.contains(&option.as_str()));
    assert_eq!(completed(&["-"]), all);
    assert_eq!(completed(&["--config", "a.yaml", "s"]), texts(&["status", "schedule"]));
    assert_eq!(completed(&["schedule", ""]), texts(&SCHEDULERS));
    assert_eq!(completed(&["check", "--ver"]), texts(&["--verbose", "--version"]));
    let manifest = path("Cargo.t").display().to_string();
    for words in [&["-c", &manifest][..], &["--config", "=", &manifest]] {
        assert_eq!(completed(words), texts(&[&path("Cargo.toml").display().to_string()]));
    }
    assert_eq!(completed(&["--tenant", ""]), texts(&[]));
}

#[test]
fn zsh_and_fish_complete_the_same_options() {
    let zsh = text("completions/_office_audit_log_collector").replace("-c+", "-c");
    let fish = text("completions/office_audit_log_collector.fish");
    let all = options();
    let mut told: BTreeSet<_> = words_with_dashes(&zsh).collect();
    for own in ["-s", "-S"] {
        told.remove(own);
    }
    assert_eq!(told, all, "zsh");
    let mut told = BTreeSet::new();
    for line in fish.lines().filter(|line| line.starts_with("complete ")) {
        let mut words = line.split(' ');
        while let Some(word) = words.next() {
            match word {
                "-l" => told.insert(format!("--{}", words.next().expect("a name"))),
                "-s" => told.insert(format!("-{}", words.next().expect("a letter"))),
                _ => false,
            };
        }
    }
    assert_eq!(told, all, "fish");
    for name in COMMANDS.iter().chain(&SCHEDULERS) {
        assert!(zsh.contains(name) && fish.contains(name), "{name}");
    }
}

#[test]
#[ignore = "needs man, zsh and fish: cargo test --test tests -- --ignored packaging::manual"]
fn man_and_the_shells_find_no_mistake() {
    let place = |name: &str| path(name).display().to_string();
    for (name, arguments) in [
        ("man", ["--warnings=all", "--local-file", &place("man/office_audit_log_collector.1")].as_slice()),
        ("zsh", &["-n", &place("completions/_office_audit_log_collector")]),
        ("fish", &["--no-execute", &place("completions/office_audit_log_collector.fish")]),
    ] {
        let run = tool(name, arguments);
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{name}: {run}");
    }
    let line = "complete --do-complete 'office_audit_log_collector schedule '";
    let fish = place("completions/office_audit_log_collector.fish");
    let run = tool("fish", &["--no-config", "--command", &format!("source {fish}; {line}")]);
    let completed: BTreeSet<_> = run.stdout.lines().map(str::trim).collect();
    assert_eq!(completed, BTreeSet::from(SCHEDULERS), "{run}");
}
