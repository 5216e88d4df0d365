//! The command line: from what was typed to typed arguments. The commands are in `commands`.

use std::{fmt, path::PathBuf, str::FromStr};

use argh::{EarlyExit, FromArgs};
use xxhash_rust::xxh3::xxh3_64;

use crate::{records, suggest, units::Scheduler};

/// Collects the audit records of Microsoft 365 tenants and delivers each of them exactly once. Without a command it
/// makes one collection pass and exits; a systemd timer or cron starts the next one.
#[derive(FromArgs, Debug, PartialEq, Eq)]
#[argh(
    note = "Without --config: config/config.yaml, then /etc/office365-collector/config.yaml, then /app/config.yaml.",
    note = "Records, lists and reports go to standard output; everything else goes to the log.",
    example = "{command_name} --config config/config.yaml check",
    example = "{command_name} --tenant contoso --hours 6 --dry-run",
    error_code(0, "the pass is complete, also when there was nothing new"),
    error_code(1, "the pass ended, but something failed; the next pass tries it again"),
    error_code(64, "the command line is wrong"),
    error_code(74, "state or output cannot be read or written; nothing was lost"),
    error_code(75, "another pass holds the lock"),
    error_code(77, "no tenant could log in"),
    error_code(78, "the configuration is wrong"),
    error_code(101, "a bug in the program; nothing was lost"),
    error_code(143, "ended by SIGTERM, or 130 by SIGINT, after committing what was delivered")
)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub struct Arguments {
    /// the configuration file, in YAML
    #[argh(option, short = 'c', arg_name = "FILE")]
    pub config: Option<PathBuf>,

    /// a second YAML file that contains the secrets of the tenants
    #[argh(option, arg_name = "FILE")]
    pub credentials: Option<PathBuf>,

    /// collect only this tenant; can be repeated
    #[argh(option, arg_name = "ID-OR-NAME")]
    pub tenant: Vec<String>,

    /// collect only the tenants of shard I of N, with I from 0 to N-1, to divide tenants among machines
    #[argh(option, arg_name = "I/N")]
    pub shard: Option<Shard>,

    /// look back this number of hours in this pass, or verify them, from 1 to 168
    #[argh(option, arg_name = "N", from_str_fn(hours))]
    pub hours: Option<u64>,

    /// list the blobs that a pass would download; change nothing
    #[argh(switch)]
    pub dry_run: bool,

    /// print the records of the period to standard output, delivered before or not; outputs and state are not changed
    #[argh(switch)]
    pub stdout: bool,

    /// exit with 0 instead of 75 if another pass holds the lock
    #[argh(switch)]
    pub skip_if_locked: bool,

    /// log details that help to find the cause of a problem
    #[argh(switch, short = 'v')]
    pub verbose: bool,

    /// log only errors
    #[argh(switch, short = 'q')]
    pub quiet: bool,

    /// print the version
    #[argh(switch, short = 'V')]
    pub version: bool,

    #[argh(subcommand)]
    /// a command to run instead of a pass
    pub command: Option<Command>,
}

/// A command that is run instead of a pass.
#[derive(FromArgs, Clone, Debug, PartialEq, Eq)]
#[argh(subcommand)]
pub enum Command {
    /// `check`
    Check(Check),
    /// `status`
    Status(Status),
    /// `verify`
    Verify(Verify),
    /// `schedule`
    Schedule(Schedule),
}

/// Checks everything that a pass needs: configuration, network, login, permissions, outputs. Collects nothing.
#[derive(FromArgs, Clone, Copy, Debug, PartialEq, Eq)]
#[argh(subcommand, name = "check")]
pub struct Check {
    /// use no network: check the configuration, files, and the form and expiry of credentials
    #[argh(switch)]
    pub offline: bool,
}

/// Shows the state of each feed: last success, lag, the last 24 hours, backlog, last error. Exits with 1 if a feed is late.
#[derive(FromArgs, Clone, Debug, PartialEq, Eq)]
#[argh(subcommand, name = "status")]
pub struct Status {
    /// print JSON: an array of objects
    #[argh(switch)]
    pub json: bool,

    /// write a page for a browser to this file; the table is not printed then
    #[argh(option, arg_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// Compares what Microsoft lists with what was delivered. Exits with 1 if anything is missing or was delivered twice.
#[derive(FromArgs, Clone, Debug, PartialEq, Eq)]
#[argh(subcommand, name = "verify")]
pub struct Verify {
    /// download the blobs again, and look for each record in the output files
    #[argh(switch)]
    pub content: bool,

    /// files to look in instead of those of output.file, as a pattern; can be repeated
    #[argh(option, arg_name = "PATTERN")]
    pub files: Vec<String>,

    /// let the next pass deliver what is missing
    #[argh(switch)]
    pub repair: bool,

    /// print JSON
    #[argh(switch)]
    pub json: bool,
}

/// Prints systemd units, or a file for /etc/cron.d, that start a pass at the configured interval. Warns about what this
/// machine lacks for them.
#[derive(FromArgs, Clone, Debug, PartialEq, Eq)]
#[argh(subcommand, name = "schedule")]
pub struct Schedule {
    /// systemd or cron
    #[argh(positional, arg_name = "systemd|cron")]
    pub scheduler: Scheduler,

    /// write the files into this folder instead of printing them
    #[argh(option, arg_name = "DIR")]
    pub install_to: Option<PathBuf>,
}

/// A part of the tenants. A tenant's shard depends on its id only, so that adding tenants moves no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    index: u64,
    count: u64,
}

impl Shard {
    /// Returns whether the tenant belongs to this shard.
    pub fn has(self, tenant_id: &str) -> bool {
        xxh3_64(tenant_id.to_ascii_lowercase().as_bytes()) % self.count == self.index
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.index, self.count)
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers =
            text.split_once('/').and_then(|(index, count)| Some((index.parse().ok()?, count.parse().ok()?)));
        match numbers {
            Some((index, count)) if index < count => Ok(Self { index, count }),
            _ => {
                Err("write I/N with I from 0 to N-1, as Kubernetes numbers the pods of an indexed job"
                    .to_owned())
            }
        }
    }
}

/// The result of reading a command line.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    /// Arguments to run with.
    Run(Arguments),
    /// A text to show: the help or the version.
    Show(String),
    /// What is wrong with the command line, and the fix.
    Wrong(String),
}

/// The options with a value.
const WITH_VALUE: [&str; 6] = ["--config", "-c", "--credentials", "--tenant", "--shard", "--hours"];
/// The options of commands, which follow the command's name.
const OF_COMMANDS: [&str; 7] =
    ["--json", "--html", "--offline", "--content", "--files", "--repair", "--install-to"];
/// Those of them with a value.
const OF_COMMANDS_WITH_VALUE: [&str; 3] = ["--html", "--files", "--install-to"];
const COMMANDS: [&str; 4] = ["check", "status", "verify", "schedule"];
const SWITCHES: [&str; 7] =
    ["--dry-run", "--stdout", "--skip-if-locked", "--verbose", "--quiet", "--version", "--help"];

/// The options of the older tools, and what replaces each.
///
/// Sources: `src/data_structures.rs` of ddbnl/office365-audit-log-collector and of Infopercept/office365-log-collector, and
/// `Source/AuditLogCollector.py` of the former's older releases.
const OLDER_OPTIONS: [(&str, &str); 13] = [
    ("--tenant-id", "write tenant_id into the configuration, or set TENANT_ID in the environment"),
    ("--client-id", "write client_id into the configuration, or set CLIENT_ID in the environment"),
    (
        "--secret-key",
        "write client_secret or client_secret_file into the configuration, or set CLIENT_SECRET",
    ),
    ("--publisher-id", OLDER_PUBLISHER_ID),
    ("-p", OLDER_PUBLISHER_ID),
    ("--oms-key", OLDER_OMS_KEY),
    ("-o", OLDER_OMS_KEY),
    ("--interactive", OLDER_INTERACTIVE),
    ("-i", OLDER_INTERACTIVE),
    ("--interactive-subscriber", "remove it: each pass starts the subscriptions that are missing"),
    (
        "--table-string",
        "remove it: write with output.file, or with output.http to a receiver that fills the table",
    ),
    ("--blob-string", "remove it: write with output.file, and upload the rotated files"),
    (
        "--sql-string",
        "remove it: write with output.fluentd or output.http to a receiver that fills the database",
    ),
];
const OLDER_PUBLISHER_ID: &str =
    "write publisher_id into the tenant of the configuration, or leave it out for the tenant's own id";
const OLDER_OMS_KEY: &str = "configure output.http with format: azure-logs-ingestion";
const OLDER_INTERACTIVE: &str =
    "remove it: check shows what a pass needs, --dry-run lists blobs, --stdout prints records";

/// Returns what to write instead of the arguments of an older tool. `None`: there are none. No value is repeated, because
/// one of them is the secret.
fn instead_of_older(typed: &[String]) -> Option<String> {
    let option = |word: &String| word.split('=').next().unwrap_or_default().to_owned();
    let mut lines: Vec<_> = OLDER_OPTIONS
        .iter()
        .filter(|(older, _)| typed.iter().any(|word| option(word) == *older))
        .map(|(older, instead)| format!("{older} is an option of an older tool; {instead}"))
        .collect();
    let is_id = |word: &str| records::guid(word.as_bytes()).is_some();
    let before = [""].into_iter().chain(typed.iter().map(String::as_str));
    let mut words = typed.iter().zip(before).filter(|(_, before)| !WITH_VALUE.contains(before));
    if lines.is_empty() && words.any(|(word, _)| is_id(word)) {
        let instead = "write tenant_id, client_id and client_secret into the configuration, or set TENANT_ID, CLIENT_ID and \
                       CLIENT_SECRET in the environment";
        lines.push(format!("an older tool had the ids and the secret as its first arguments; {instead}"));
    }
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// Reads a command line: the program's name, then its arguments.
pub fn parse(typed: impl IntoIterator<Item = String>) -> Parsed {
    let mut typed = typed.into_iter();
    let name = typed.next().unwrap_or_else(|| env!("CARGO_PKG_NAME").to_owned());
    let name = name.rsplit('/').next().unwrap_or(&name).to_owned();
    let typed: Vec<_> = typed.collect();
    if let Some(instead) = instead_of_older(&typed) {
        return Parsed::Wrong(format!("{instead}\nSee {name} --help, and docs/MIGRATION.md"));
    }
    let arguments = match options_first(typed.into_iter()) {
        Ok(arguments) => arguments,
        Err(message) => return Parsed::Wrong(format!("{message}\nSee {name} --help")),
    };
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match Arguments::from_args(&[&name], &arguments) {
        Ok(Arguments { version: true, .. }) => {
            Parsed::Show(concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")).to_owned())
        }
        Ok(arguments) => checked(arguments),
        Err(EarlyExit { output, status: Ok(()) }) => Parsed::Show(output),
        Err(EarlyExit { output, status: Err(()) }) => {
            Parsed::Wrong(with_suggestion(output.trim(), &arguments, &name))
        }
    }
}

/// Splits `--option=value`, and puts options before the command and those of the command after it, where the parser looks
/// for them.
///
/// # Errors
///
/// An option without its value, or a switch with one.
fn options_first(mut typed: impl Iterator<Item = String>) -> Result<Vec<String>, String> {
    let (mut options, mut rest, mut of_command) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(word) = typed.next() {
        let (option, mut value) = match word.split_once('=') {
            Some((option, value)) if option.starts_with("--") => (option.to_owned(), Some(value.to_owned())),
            _ => (word, None),
        };
        let name = option.as_str();
        let has_value = WITH_VALUE.contains(&name) || OF_COMMANDS_WITH_VALUE.contains(&name);
        if !has_value && value.is_some() && (SWITCHES.contains(&name) || OF_COMMANDS.contains(&name)) {
            return Err(format!("{option} does not accept a value; remove it"));
        }
        if has_value {
            let is_option = |value: &str| value.starts_with('-') && value.parse::<i64>().is_err();
            value = value.or_else(|| typed.next()).filter(|value| !value.is_empty() && !is_option(value));
            if value.is_none() {
                return Err(format!("{option} needs a value"));
            }
        }
        match option.as_str() {
            "-h" => options.push("--help".to_owned()),
            _ if OF_COMMANDS.contains(&option.as_str()) => {
                of_command.push(option);
                of_command.extend(value);
                continue;
            }
            _ if option.starts_with('-') => options.push(option),
            _ => rest.push(option),
        }
        options.extend(value);
    }
    options.append(&mut rest);
    options.append(&mut of_command);
    Ok(options)
}

fn checked(arguments: Arguments) -> Parsed {
    let Arguments { dry_run, stdout, skip_if_locked, verbose, quiet, command, .. } = &arguments;
    let is_verify = matches!(command, Some(Command::Verify(_)));
    let is_pass_option = *dry_run || *stdout || *skip_if_locked || arguments.hours.is_some() && !is_verify;
    let contradiction = if *verbose && *quiet {
        "--verbose and --quiet exclude each other; use one of them"
    } else if *dry_run && *stdout {
        "--dry-run and --stdout exclude each other; use one of them"
    } else if command.is_some() && is_pass_option {
        "--dry-run, --stdout, --skip-if-locked and --hours are options of a pass; remove them or the command"
    } else {
        return Parsed::Run(arguments);
    };
    Parsed::Wrong(contradiction.to_owned())
}

fn hours(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(hours @ 1..=168) => Ok(hours),
        _ => Err("write whole hours from 1 to 168".to_owned()),
    }
}

/// Returns the parser's message with the option that was probably meant.
fn with_suggestion(message: &str, arguments: &[&str], name: &str) -> String {
    let known = || WITH_VALUE.into_iter().chain(SWITCHES).chain(OF_COMMANDS).chain(COMMANDS);
    let unknown =
        arguments.iter().find(|word| message.contains(**word) && !known().any(|name| name == **word));
    let nearest = unknown.and_then(|unknown| suggest::nearest(unknown, known()));
    let suggestion = nearest.map(|option| format!("; did you mean {option}?")).unwrap_or_default();
    format!("{}{suggestion}\nSee {name} --help", message.lines().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &str) -> Parsed {
        let typed = std::iter::once("/usr/bin/collector").chain(words.split_whitespace());
        parse(typed.map(str::to_owned))
    }

    fn arguments(words: &str) -> Arguments {
        match parsed(words) {
            Parsed::Run(arguments) => arguments,
            other => panic!("{words}: {other:?}"),
        }
    }

    fn wrong(words: &str) -> String {
        match parsed(words) {
            Parsed::Wrong(message) => message,
            other => panic!("{words}: {other:?}"),
        }
    }

    #[test]
    fn parses_values_with_or_without_equals_sign() {
        let config = Some(PathBuf::from("a.yaml"));
        for words in
            ["--config a.yaml check", "--config=a.yaml check", "check -c a.yaml", "check --config=a.yaml"]
        {
            let arguments = arguments(words);
            assert_eq!(arguments.config, config, "{words}");
            assert_eq!(arguments.command, Some(Command::Check(Check { offline: false })), "{words}");
        }
        let arguments = arguments("--tenant contoso --tenant=fabrikam --hours=6 --dry-run -v");
        assert_eq!(arguments.tenant, ["contoso", "fabrikam"]);
        assert_eq!((arguments.hours, arguments.dry_run, arguments.verbose), (Some(6), true, true));
    }

    #[test]
    fn reports_a_wrong_command_line_with_its_fix() {
        assert!(wrong("--dryrun").contains("did you mean --dry-run?"));
        assert!(wrong("--hours 200").contains("from 1 to 168"));
        assert!(wrong("chekc").contains("did you mean check?"));
        for words in ["--hours", "--config --dry-run", "--config="] {
            assert!(wrong(words).contains("needs a value"), "{words}");
        }
        for words in ["--verbose=true", "status --json=1"] {
            assert!(wrong(words).contains("does not accept a value"), "{words}");
        }
        assert!(wrong("collect").contains("collect"));
        assert!(wrong("-v -q").contains("exclude each other"));
        assert!(wrong("--dry-run --stdout").contains("exclude each other"));
        assert!(wrong("check --dry-run").contains("options of a pass"));
    }

    #[test]
    fn the_arguments_of_older_tools_are_answered_with_what_replaces_them_and_without_their_values() {
        let older =
            "--config a.yaml --tenant-id abc --client-id=def --secret-key hunter2 --publisher-id=x -i";
        let message = wrong(older);
        for part in [
            "--tenant-id is an option of an older tool; write tenant_id into the configuration",
            "set CLIENT_ID in the environment",
            "client_secret_file",
            "publisher_id",
            "-i is an option",
            "MIGRATION.md",
        ] {
            assert!(message.contains(part), "{part}: {message}");
        }
        assert!(!message.contains("hunter2") && message.lines().count() == 6, "{message}");
        for (option, instead) in OLDER_OPTIONS {
            assert!(wrong(option).starts_with(&format!("{option} is an option of an older tool; {instead}")));
        }
        let id = "11111111-1111-4111-8111-111111111111";
        for words in
            [format!("{id} {id} hunter2~ --config a.yaml"), format!("--config a.yaml {id} {id} hunter2~")]
        {
            let message = wrong(&words);
            assert!(message.contains("TENANT_ID, CLIENT_ID and CLIENT_SECRET"), "{message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
        assert_eq!(arguments(&format!("--tenant {id}")).tenant, [id]);
    }

    #[test]
    fn each_tenant_belongs_to_one_shard() {
        let shards: Vec<_> =
            (0..4).map(|index| format!("{index}/4").parse::<Shard>().expect("a shard")).collect();
        let mut sizes = [0; 4];
        for number in 0..1000 {
            let tenant = format!("{number:08}-1111-4111-8111-111111111111");
            let places: Vec<_> = (0..4).filter(|&place| shards[place].has(&tenant)).collect();
            assert_eq!(places.len(), 1, "{tenant}");
            sizes[places[0]] += 1;
        }
        assert!(sizes.iter().all(|size| (200..300).contains(size)), "{sizes:?}");
        for wrong in ["4/4", "1", "a/b", "1/0", "-1/3", ""] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn status_accepts_its_switch_before_and_after_the_command() {
        for words in ["status --json", "--config a.yaml status --json", "status --json -c a.yaml"] {
            assert_eq!(
                arguments(words).command,
                Some(Command::Status(Status { json: true, html: None })),
                "{words}"
            );
        }
        assert!(wrong("check --json").contains("--json"));
        for words in ["status --html a.html", "--html=a.html status", "status -c a.yaml --html a.html"] {
            let html = Some(PathBuf::from("a.html"));
            assert_eq!(
                arguments(words).command,
                Some(Command::Status(Status { json: false, html })),
                "{words}"
            );
        }
        assert!(wrong("status --html").contains("needs a value"));
    }

    #[test]
    fn check_accepts_its_switch_before_and_after_the_command() {
        for words in ["check --offline", "--offline check", "check -c a.yaml --offline"] {
            assert_eq!(arguments(words).command, Some(Command::Check(Check { offline: true })), "{words}");
        }
        assert!(wrong("status --offline").contains("--offline"));
        assert!(wrong("--offline").contains("--offline"));
    }

    #[test]
    fn schedule_accepts_a_scheduler() {
        for (words, scheduler) in [
            ("schedule systemd", Scheduler::Systemd),
            ("schedule cron -c a.yaml", Scheduler::Cron),
            ("--config=a.yaml schedule cron", Scheduler::Cron),
        ] {
            let install_to = None;
            let expected = Some(Command::Schedule(Schedule { scheduler, install_to }));
            assert_eq!(arguments(words).command, expected, "{words}");
        }
        let install_to = Some(PathBuf::from("/etc/cron.d"));
        for words in ["schedule cron --install-to /etc/cron.d", "schedule --install-to=/etc/cron.d cron"] {
            let asked = Schedule { scheduler: Scheduler::Cron, install_to: install_to.clone() };
            assert_eq!(arguments(words).command, Some(Command::Schedule(asked)), "{words}");
        }
        assert!(wrong("schedule cron --install-to").contains("needs a value"));
        assert!(wrong("schedule launchd").contains("write systemd or cron"));
        assert!(wrong("schedule").contains("systemd|cron"));
        assert!(wrong("schedlue cron").contains("did you mean schedule?"));
    }

    #[test]
    fn help_names_every_option_and_exit_code() {
        for words in ["--help", "-h"] {
            let Parsed::Show(help) = parsed(words) else { panic!("{words} shows the help") };
            let of_pass =
                WITH_VALUE.into_iter().chain(SWITCHES).filter(|option| !OF_COMMANDS.contains(option));
            for named in of_pass {
                assert!(help.contains(named), "{named} in {help}");
            }
            for code in ["64", "74", "75", "77", "78", "101"] {
                assert!(help.contains(code), "{code} in {help}");
            }
        }
    }
}
