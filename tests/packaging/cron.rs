//! The file for `/etc/cron.d`, and passes that Debian's cron starts.

use std::fs;

use office_audit_log_collector::cli::{self, Parsed};
use simulator::NewBlob;

use super::{machine::Machine, text, until};
use crate::support::{Installation, hours_ago, whole_lines};

#[test]
fn the_line_has_valid_arguments() {
    let crontab = text("cron/office365-collector");
    let jobs: Vec<_> = crontab.lines().filter(|line| line.starts_with('*')).collect();
    let [job] = jobs.as_slice() else { panic!("one job: {crontab}") };
    let words: Vec<_> = job.split_whitespace().map(str::to_owned).collect();
    let Parsed::Run(arguments) = cli::parse(words[6..].to_vec()) else { panic!("{job}") };
    assert!(arguments.quiet && arguments.config.is_some() && arguments.command.is_none(), "{job}");
    assert!(crontab.ends_with('\n'), "cron ignores a last line without a line break");
}

/// Runs the commands that `schedule` prints, then a pass as cron would start it. The secret comes from standard input.
const PREPARED: &str = r#"set -eux
crontab=/etc/cron.d/office365-collector
office_audit_log_collector schedule cron >"$crontab"
sed -n 's/^#   //p' "$crontab" >commands
grep -q '^useradd' commands
while IFS= read -r command; do sh -euxc "$command" <client_secret; done <commands
: STEP nothing is missing any more
test "$(office_audit_log_collector schedule cron 2>&1 | grep -c 'Run these commands\|WARN')" = 0
folder=$(sed -n 's/^CREDENTIALS_DIRECTORY=//p' "$crontab")
pass=$(sed -n 's/^[^#]* office365-collector //p' "$crontab")
setpriv --reuid=office365-collector --regid=office365-collector --init-groups \
    env -i CREDENTIALS_DIRECTORY="$folder" $pass
test "$(cat /var/opt/records/* | wc -l)" = 3
"#;

#[test]
#[ignore = "needs root: cargo test --test tests -- --ignored packaging::cron"]
fn the_commands_that_a_schedule_lists_make_its_passes_work() {
    let installation = Installation::new();
    installation.contoso.add_blob("Audit.General", NewBlob::records(3).created(hours_ago(3)));
    let place = |name| installation.path(name).display().to_string();
    let config = installation
        .config_with_credential("client_secret_file: \"${CREDENTIALS_DIRECTORY}/client_secret\"")
        .replace(&place("state"), "/var/opt/state")
        .replace(&place("output"), "/var/opt/records");
    let mut machine = Machine::bare(&installation)
        .with("steps", PREPARED)
        .with("client_secret", &installation.contoso.current_settings().secret)
        .with("etc/office365-collector/config.yaml", &config)
        .with("usr/bin/office_audit_log_collector", "");
    crate::support::set_mode(&machine.path("etc/office365-collector/config.yaml"), 0o600);
    crate::support::set_mode(&machine.path("etc/office365-collector"), 0o700);
    fs::copy(
        env!("CARGO_BIN_EXE_office_audit_log_collector"),
        machine.path("usr/bin/office_audit_log_collector"),
    )
    .expect("a copy");
    crate::support::set_mode(&machine.path("usr/bin/office_audit_log_collector"), 0o755);
    machine = machine.boot("package");
    assert!(machine.ends_successfully(), "{}", machine.console());
    installation.assert_no_violations();
}

/// The machine's `sendmail`, which writes each mail to a file.
const SENDMAIL: &str = "#!/bin/sh\ncat >/var/log/mail/$$\n";

#[test]
#[ignore = "needs cron, root and two minutes: cargo test --test tests -- --ignored packaging::cron"]
fn cron_collects_on_schedule_and_mails_only_failures() {
    let installation = Installation::new().setting("interval: 1m");
    let contoso = &installation.contoso;
    contoso.add_blob("Audit.General", NewBlob::records(3).created(hours_ago(3)));
    let (own_config, config) =
        (installation.config_file().display().to_string(), "/etc/office365-collector/config.yaml");
    let printed = installation.run(&["schedule", "cron"]).stdout;
    let printed = printed
        .replace(&own_config, config)
        .replace(env!("CARGO_BIN_EXE_office_audit_log_collector"), "/usr/bin/office_audit_log_collector");
    let failing = printed
        .replace(config, "/etc/office365-collector/nowhere.yaml")
        .replace("MAILTO=root", "MAILTO=failures");
    let machine = Machine::of(&installation)
        .with("cron.d/office365-collector", &printed)
        .with("cron.d/failing", &failing)
        .with("usr/sbin/sendmail", SENDMAIL);
    crate::support::set_mode(&machine.path("usr/sbin/sendmail"), 0o755);
    fs::create_dir_all(machine.path("var/log/mail")).expect("a folder");
    crate::support::set_mode(&machine.path("var/log/mail"), 0o1777);
    let machine = machine.boot("cron");

    let file = machine.path("var/log/office365/AuditGeneral.json");
    let lines = || if file.exists() { whole_lines(&file).len() } else { 0 };
    let mails = || -> Vec<String> {
        let files = fs::read_dir(machine.path("var/log/mail")).expect("a folder").flatten();
        files.map(|file| fs::read_to_string(file.path()).expect("a mail")).collect()
    };
    let state = || format!("{}{:?}", machine.console(), mails());
    until("the first pass delivers a blob", || lines() == 3, state);
    contoso.add_blob("Audit.General", NewBlob::records(4).created(hours_ago(2)));
    until("a later pass delivers another blob", || lines() == 7, state);
    until("two failed passes have sent a mail each", || mails().len() == 2, state);
    for mail in mails() {
        assert!(mail.contains("\nTo: failures\n") && mail.contains("[ERROR] "), "{mail}");
        assert!(mail.contains("nowhere.yaml"), "{mail}");
    }
    installation.assert_no_violations();
}
