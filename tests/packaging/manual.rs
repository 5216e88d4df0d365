//! The man page and the completions for shells, compared with the program's help.

use std::collections::BTreeSet;

use super::{path_text, text, tool};
use crate::support::Installation;

const COMMANDS: [&str; 4] = ["check", "status", "verify", "schedule"];
const SCHEDULERS: [&str; 2] = ["systemd", "cron"];

/// Returns every option in the help of the program and its commands, long and short.
fn options() -> BTreeSet<String> {
    let installation = Installation::new();
    let mut options = BTreeSet::from(["-h".to_owned()]);
    for arguments in [
        &["--help"][..],
        &["check", "--help"],
        &["status", "--help"],
        &["verify", "--help"],
        &["schedule", "--help"],
    ] {
        let help = installation.run_bare(arguments).stdout;
        options.extend(options_in(help.split("Options:").nth(1).expect("options")));
    }
    assert!(options.len() > 12, "{options:?}");
    options
}

/// Returns the words of a text that are options.
fn options_in(text: &str) -> impl Iterator<Item = String> {
    let is_part = |character: char| character.is_ascii_alphanumeric() || character == '-';
    text.split(move |character| !is_part(character))
        .filter(|word| word.trim_start_matches('-').starts_with(|letter: char| letter.is_ascii_alphabetic()))
        .filter(|word| word.starts_with("--") || word.starts_with('-') && word.len() == 2)
        .map(str::to_owned)
}

#[test]
fn the_man_page_lists_exactly_the_options_and_exit_codes() {
    let page = text("man/office_audit_log_collector.1").replace("\\-", "-").replace("\\fR", " ");
    let documented: BTreeSet<_> = options_in(&page).collect();
    assert_eq!(documented, options());
    let help = Installation::new().run_bare(&["--help"]).stdout;
    let codes = help.split("Error codes:").nth(1).expect("exit codes").lines();
    let codes = codes.filter_map(|line| line.trim().split_once(' ')?.0.parse::<u8>().ok());
    let codes: Vec<_> = codes.collect();
    assert_eq!(codes.len(), 9, "{help}");
    for code in codes {
        let is_heading =
            |line: &str| line.starts_with(&format!(".B {code}")) || line.starts_with(&format!(".BR {code} "));
        assert!(page.lines().any(is_heading), "the man page lacks the exit code {code}");
    }
}

#[test]
fn bash_completes_options_commands_and_files() {
    let script = path_text("completions/office_audit_log_collector.bash");
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
    let of_commands = [
        (&["check"][..], texts(&["--offline"])),
        (&["status"], texts(&["--json", "--html"])),
        (&["verify"], texts(&["--json", "--content", "--files", "--repair"])),
        (&["schedule", "cron"], texts(&["--install-to"])),
    ];
    let mut of_all = options();
    of_all.retain(|option| !of_commands.iter().any(|(_, own)| own.contains(option)));
    assert_eq!(completed(&["-"]), of_all);
    for (typed, own) in of_commands {
        assert_eq!(completed(&[typed, &["-"]].concat()), &of_all | &own);
    }
    assert_eq!(completed(&["--config", "a.yaml", "s"]), texts(&["status", "schedule"]));
    assert_eq!(completed(&["schedule", ""]), texts(&SCHEDULERS));
    assert_eq!(completed(&["check", "--ver"]), texts(&["--verbose", "--version"]));
    let manifest = path_text("Cargo.t");
    for words in [&["-c", &manifest][..], &["--config", "=", &manifest]] {
        assert_eq!(completed(words), texts(&[&path_text("Cargo.toml")]));
    }
    assert_eq!(completed(&["--tenant", ""]), texts(&[]));
}

#[test]
fn zsh_and_fish_complete_the_same_options() {
    let zsh = text("completions/_office_audit_log_collector").replace("-c+", "-c");
    let fish = text("completions/office_audit_log_collector.fish");
    let all = options();
    let mut completed: BTreeSet<_> = options_in(&zsh).collect();
    for option_of_arguments in ["-s", "-S"] {
        completed.remove(option_of_arguments); // of zsh's _arguments
    }
    assert_eq!(completed, all, "zsh");
    let mut completed = BTreeSet::new();
    for line in fish.lines().filter(|line| line.starts_with("complete ")) {
        let mut words = line.split(' ');
        while let Some(word) = words.next() {
            match word {
                "-l" => completed.insert(format!("--{}", words.next().expect("a name"))),
                "-s" => completed.insert(format!("-{}", words.next().expect("a letter"))),
                _ => false,
            };
        }
    }
    assert_eq!(completed, all, "fish");
    for name in COMMANDS.iter().chain(&SCHEDULERS) {
        assert!(zsh.contains(name) && fish.contains(name), "{name}");
    }
}

#[test]
#[ignore = "needs man, zsh and fish: cargo test --test tests -- --ignored packaging::manual"]
fn man_zsh_and_fish_report_no_mistake() {
    for (name, arguments) in [
        (
            "man",
            ["--warnings=all", "--local-file", &path_text("man/office_audit_log_collector.1")].as_slice(),
        ),
        ("man", &["--warnings=all", "--local-file", &path_text("man/office365-collector-run.8")]),
        ("zsh", &["-n", &path_text("completions/_office_audit_log_collector")]),
        ("fish", &["--no-execute", &path_text("completions/office_audit_log_collector.fish")]),
    ] {
        let run = tool(name, arguments);
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{name}: {run}");
    }
    let line = "complete --do-complete 'office_audit_log_collector schedule '";
    let fish = path_text("completions/office_audit_log_collector.fish");
    let run = tool("fish", &["--no-config", "--command", &format!("source {fish}; {line}")]);
    let completed: BTreeSet<_> = run.stdout.lines().map(str::trim).collect();
    assert_eq!(completed, BTreeSet::from(SCHEDULERS), "{run}");
}
