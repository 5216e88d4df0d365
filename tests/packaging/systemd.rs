//! The systemd units and the logrotate configuration.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    process::{Command, Stdio},
};

use jiff::Timestamp;
use office_audit_log_collector::exit::Exit;
use simulator::{LoginError, NewBlob};

use super::{machine::Machine, path, text, tool, until};
use crate::support::{Installation, Run, hours_ago, mode, set_mode, whole_lines};

const UNITS: [&str; 7] = [
    "office365-collector.service",
    "office365-collector.timer",
    "office365-collector@.service",
    "office365-collector@.timer",
    "office365-collector-failure@.service",
    "office365-collector-verify.service",
    "office365-collector-verify.timer",
];

/// The script of `office365-collector-failure@.service`, and its place on a machine.
const MAIL_SCRIPT: &str = "systemd/office365-collector-failure-mail";
const MAIL_SCRIPT_PLACE: &str = "usr/lib/office365-collector/office365-collector-failure-mail";

/// The differences between the units for the only configuration and the units for instances, one for each configuration.
const INSTANCE_DIFFERENCES: [(&str, &str); 6] = [
    ("/etc/office365-collector/config.yaml", "/etc/office365-collector/%i.yaml"),
    ("/etc/office365-collector/client_secret", "/etc/office365-collector/%i.client_secret"),
    ("StateDirectory=office365-collector\n", "StateDirectory=office365-collector/%i\n"),
    ("LogsDirectory=office365\n", "LogsDirectory=office365/%i\n"),
    ("office365-collector-failure@config.service", "office365-collector-failure@%i.service"),
    ("\n[Unit]\nDescription=", "\n[Unit]\nDescription=%i: "),
];

/// Returns a unit's settings in the order of its lines, without comments.
fn settings(unit: &str) -> Vec<(String, String)> {
    let lines = unit.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once('=')).map(|(key, value)| (key.into(), value.into())).collect()
}

#[test]
fn the_instance_units_differ_from_the_single_units_only_in_names() {
    for kind in ["service", "timer"] {
        let mut expected = text(&format!("systemd/office365-collector.{kind}"));
        for (single, instance) in INSTANCE_DIFFERENCES {
            expected = expected.replace(single, instance);
        }
        let instance = text(&format!("systemd/office365-collector@.{kind}"));
        assert_eq!(settings(&instance), settings(&expected), "{kind}");
    }
}

#[test]
fn verify_runs_as_the_user_and_in_the_sandbox_of_a_pass() {
    let of_unit = |name: &str| {
        let own = ["Description", "ExecStart", "SuccessExitStatus", "TimeoutStartSec"];
        let mut settings = settings(&text(&format!("systemd/office365-collector{name}.service")));
        settings.retain(|(key, _)| !own.contains(&key.as_str()));
        settings
    };
    assert_eq!(of_unit("-verify"), of_unit(""));
    let timer = text("systemd/office365-collector-verify.timer");
    assert!(timer.contains("\nOnCalendar=Mon ") && timer.contains("\nRandomizedDelaySec="), "{timer}");
}

#[test]
fn the_service_knows_the_exit_codes_and_waits_for_a_pass_to_end() {
    let service: BTreeMap<_, _> =
        settings(&text("systemd/office365-collector.service")).into_iter().collect();
    let no_failures = format!("{} {}", Exit::Locked.code(), Exit::Terminated.code());
    assert_eq!(service["SuccessExitStatus"], no_failures);
    let stop: u64 = service["TimeoutStopSec"].trim_end_matches('s').parse().expect("seconds");
    assert!(stop > 5, "a signal ends a pass within five seconds");
}

#[test]
#[ignore = "needs systemd-analyze: cargo test --test tests -- --ignored packaging::systemd"]
fn systemd_analyze_reports_no_mistake_in_the_units() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = env!("CARGO_BIN_EXE_office_audit_log_collector");
    let mut files = Vec::new();
    for unit in UNITS {
        let text = text(&format!("systemd/{unit}"))
            .replace("/usr/bin/office_audit_log_collector", program)
            .replace(&format!("/{MAIL_SCRIPT_PLACE}"), &path(MAIL_SCRIPT).display().to_string());
        fs::write(folder.path().join(unit), &text).expect("a file");
        let instance = unit.replace('@', "@contoso");
        fs::write(folder.path().join(&instance), &text).expect("a file");
        files.push(folder.path().join(instance).display().to_string());
    }
    for file in files {
        // It prints a line about a misspelt key and exits with 0 all the same.
        let run = tool("systemd-analyze", &["verify", "--man=no", &file]);
        assert_eq!((run.code, run.stdout.as_str(), run.stderr.as_str()), (Some(0), "", ""), "{file}");
    }
}

#[test]
#[ignore = "needs systemd-analyze: cargo test --test tests -- --ignored packaging::systemd"]
fn the_sandbox_is_as_strict_as_documented() {
    for unit in
        ["office365-collector.service", "office365-collector@.service", "office365-collector-verify.service"]
    {
        let file = path(&format!("systemd/{unit}")).display().to_string();
        let run =
            tool("systemd-analyze", &["security", "--offline=true", "--threshold=15", "--no-pager", &file]);
        assert_eq!(run.code, Some(0), "{run}");
    }
}

#[test]
#[ignore = "needs systemd-analyze: cargo test --test tests -- --ignored packaging::systemd"]
fn calendar_events_follow_the_interval() {
    for (interval, seconds) in [
        ("2s", 2),
        ("30s", 30),
        ("1m", 60),
        ("5m", 300),
        ("20m", 1200),
        ("1h", 3600),
        ("8h", 28_800),
        ("7d", 604_800),
    ] {
        let installation = Installation::new().setting(&format!("interval: {interval}"));
        let units = installation.run(&["schedule", "systemd"]);
        let calendar =
            units.stdout.lines().find_map(|line| line.strip_prefix("OnCalendar=")).expect("an event");
        let run = tool(
            "systemd-analyze",
            &["calendar", "--iterations=3", "--base-time=2026-11-22 10:15:00 UTC", calendar],
        );
        run.assert_code(0);
        let times = run.stdout.lines().filter_map(|line| {
            let (label, time) = line.trim().split_once(": ")?;
            let is_time = label == "Next elapse" || label.starts_with("Iter");
            let time = time.trim_end_matches(" UTC").split_once(' ')?.1.replace(' ', "T");
            is_time.then(|| format!("{time}Z").parse::<Timestamp>().expect("a time").as_second())
        });
        let times: Vec<_> = times.collect();
        assert!(
            times.len() == 3 && times.windows(2).all(|pair| pair[1] - pair[0] == seconds),
            "{interval}: {run}"
        );
    }
}

#[test]
#[ignore = "needs systemd and root: cargo test --test tests -- --ignored packaging::systemd"]
fn a_timer_starts_passes_that_work_in_the_sandbox() {
    let installation = Installation::new().setting("interval: 2s");
    let contoso = &installation.contoso;
    contoso.add_blob("Audit.General", NewBlob::records(3).created(hours_ago(3)));
    let secret = contoso.current_settings().secret;
    let printed = installation.run(&["schedule", "systemd"]).stdout;
    let (service, timer) =
        printed.split_once("\n# /etc/systemd/system/office365-collector.timer\n").expect("both");
    let printed_command = format!(
        "{} --config {}",
        env!("CARGO_BIN_EXE_office_audit_log_collector"),
        installation.config_file().display()
    );
    assert!(service.contains(&printed_command), "{service}");
    let target = "[Unit]\nDefaultDependencies=no\nWants=systemd-journald.socket office365-collector.timer\n\
                  After=systemd-journald.socket\n";
    let machine = Machine::of(&installation)
        .with("units/office365-collector.service", &text("systemd/office365-collector.service"))
        .with("units/office365-collector.timer", timer)
        .with("units/test.target", target)
        .boot("systemd");

    let output = machine.path("var/log/office365");
    let lines = || {
        let file = output.join("AuditGeneral.json");
        if file.exists() { whole_lines(&file).len() } else { 0 }
    };
    let console = || format!("{}{:?}", machine.console(), machine.journal());
    until("the first pass delivers a blob", || lines() == 3, console);
    contoso.add_blob("Audit.General", NewBlob::records(4).created(hours_ago(2)));
    until("a later pass delivers another blob", || lines() == 7, console);

    let state = machine.path("var/lib/office365-collector");
    until("the second blob is known", || whole_lines(&state.join("known_blobs")).len() == 2, console);
    let owner = |path: &Path| fs::metadata(path).expect("a folder").uid();
    assert!(owner(&state) != 0 && owner(&state) == owner(&output), "{}", console());
    let modes = [&state, &output, &output.join("AuditGeneral.json")].map(|path| mode(path));
    assert_eq!(modes, [0o700, 0o750, 0o640], "{}", console());

    let journal = machine.journal();
    for (priority, message) in &journal {
        let level = match priority.as_str() {
            "3" => "[ERROR] ",
            "4" => "[WARN] ",
            _ => "[INFO] ",
        };
        assert!(message.starts_with(level), "priority {priority}: {message}");
        assert!(!message.contains(&secret), "{message}");
    }
    let done = "[INFO] Done! Blobs found: 1 | Blobs successful: 1 | Logs saved: 3";
    assert!(journal.contains(&("6".to_owned(), done.to_owned())), "{}", console());
    assert!(!journal.iter().any(|(priority, _)| priority == "3"), "{}", console());
    installation.assert_no_violations();
}

#[test]
fn the_lines_that_switch_mail_on_are_those_of_the_documentation() {
    let service = text("systemd/office365-collector.service");
    let lines: Vec<_> = ["#OnFailure=", "#OnSuccess="]
        .iter()
        .map(|key| {
            service.lines().find(|line| line.starts_with(key)).expect("a comment").trim_start_matches('#')
        })
        .collect();
    let block = format!("```ini\n[Unit]\n{}\n```\n", lines.join("\n"));
    assert!(text("docs/monitoring/README.md").contains(&block), "{block}");
    let unit = text("systemd/office365-collector-failure@.service");
    assert!(unit.contains(&format!("\nExecStart=/{MAIL_SCRIPT_PLACE} %i\n")), "{unit}");
}

#[test]
fn a_mail_begins_an_incident_and_another_one_ends_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = |name: &str| folder.path().join(name);
    let here = folder.path().display();
    let script = |name: &str, text: &str| {
        fs::write(place(name), format!("#!/bin/sh\n{text}\n")).expect("a file");
        set_mode(&place(name), 0o755);
    };
    script("office_audit_log_collector", &format!("echo \"$@\"; exit \"$(cat {here}/code)\""));
    script("journalctl", "echo \"the log\"");
    script("mail", &format!("test ! -e {here}/refused || exit 1; {{ echo \"$@\"; cat; }} >>{here}/mails"));
    let run = |code: &str| {
        fs::write(place("code"), code).expect("a file");
        let mut command = Command::new(path(MAIL_SCRIPT));
        command
            .arg("contoso")
            .env("PATH", format!("{here}:/usr/bin:/bin"))
            .env("STATE_DIRECTORY", &*here.to_string())
            .stdout(Stdio::null());
        Run::of(&mut command).code == Some(0)
    };
    let subjects = || -> Vec<_> {
        let mails = fs::read_to_string(place("mails")).unwrap_or_default();
        let subjects = mails.lines().filter(|line| line.starts_with("-s "));
        subjects.map(|line| line.contains("works again")).collect()
    };
    for (code, mails) in [
        ("0", vec![]),
        ("1", vec![false]),
        ("1", vec![false]),
        ("78", vec![false]),
        ("0", vec![false, true]),
        ("0", vec![false, true]),
        ("74", vec![false, true, false]),
    ] {
        assert!(run(code));
        assert_eq!(subjects(), mails, "after exit code {code}");
    }
    // A mail that fails is sent after the next pass.
    fs::write(place("refused"), "").expect("a file");
    assert!(!run("0"));
    fs::remove_file(place("refused")).expect("a file");
    assert!(run("0"));
    assert_eq!(subjects(), [false, true, false, true]);
    let mails = fs::read_to_string(place("mails")).expect("mails");
    let first: Vec<_> = mails.lines().take(4).collect();
    assert!(first[0].starts_with("-s office365-collector fails on ") && first[0].ends_with(": contoso root"));
    assert_eq!(first[1..], ["--config /etc/office365-collector/contoso.yaml status", "", "the log"]);
}

#[test]
#[ignore = "needs systemd and root: cargo test --test tests -- --ignored packaging::systemd"]
fn an_incident_is_mailed_once_when_it_begins_and_once_when_it_is_over() {
    let installation = Installation::new().setting("interval: 2s");
    let set_error = |error| installation.contoso.settings(|settings| settings.login_error = error);
    set_error(Some(LoginError::ExpiredSecret));
    let service = text("systemd/office365-collector.service");
    let service = service.replace("\n#OnFailure=", "\nOnFailure=").replace("\n#OnSuccess=", "\nOnSuccess=");
    let printed = installation.run(&["schedule", "systemd"]).stdout;
    let (_, timer) = printed.split_once("\n# /etc/systemd/system/office365-collector.timer\n").expect("both");
    let target = "[Unit]\nDefaultDependencies=no\nWants=systemd-journald.socket office365-collector.timer\n\
                  After=systemd-journald.socket\n";
    let hook = "office365-collector-failure@.service";
    let machine = Machine::of(&installation)
        .with("units/office365-collector.service", &service)
        .with("units/office365-collector.timer", timer)
        .with(&format!("units/{hook}"), &text(&format!("systemd/{hook}")))
        .with("units/test.target", target)
        .with(MAIL_SCRIPT_PLACE, &text(MAIL_SCRIPT))
        .with("usr/bin/mail", "#!/bin/sh\n{ echo \"$@\"; cat; echo ==end==; } >>/var/log/office365/mails\n");
    for script in [MAIL_SCRIPT_PLACE, "usr/bin/mail"] {
        set_mode(&machine.path(script), 0o755);
    }
    let machine = machine.boot("systemd");

    let mails = || -> Vec<String> {
        let mails = fs::read_to_string(machine.path("var/log/office365/mails")).unwrap_or_default();
        mails.split("==end==\n").filter(|mail| !mail.is_empty()).map(str::to_owned).collect()
    };
    let seen = || format!("{}{:?}{:?}", machine.console(), machine.journal(), mails());
    let passes = |with: &str| machine.journal().iter().filter(|(_, line)| line.contains(with)).count();
    let (failed, done) = ("[ERROR] Authentication failed for contoso: AADSTS7000222", "[INFO] Done! ");
    let wait_for_passes = |with: &str| {
        let before = passes(with);
        until("three more passes end", || passes(with) >= before + 3, seen);
    };
    wait_for_passes(failed);
    assert_eq!(mails().len(), 1, "{}", seen());
    set_error(None);
    until("the end of the incident is mailed", || mails().len() == 2, seen);
    wait_for_passes(done);
    assert_eq!(mails().len(), 2, "{}", seen());
    set_error(Some(LoginError::ExpiredSecret));
    until("the second incident is mailed", || mails().len() == 3, seen);
    wait_for_passes(failed);

    let mails = mails();
    assert_eq!(mails.len(), 3, "{}", seen());
    for (mail, what) in mails.iter().zip(["fails", "works again", "fails"]) {
        let (subject, text) = mail.split_once('\n').expect("a subject");
        assert!(subject.starts_with(&format!("-s office365-collector {what} on ")), "{mail}");
        assert!(subject.ends_with(": config root"), "{mail}");
        assert!(text.contains("LAST ERROR") && text.contains("contoso  DLP.All"), "{mail}");
    }
    assert!(mails[0].contains("never") && mails[0].contains(failed), "{}", mails[0]);
}

/// What an administrator runs as root beside the service, and a service that starts it.
const BY_HAND: &str = "exec >/var/log/by-hand 2>&1\n\
    office365-collector-run check; echo check $?\n\
    office365-collector-run; echo pass $?\n\
    office365-collector-run status; echo status $?\n\
    office365-collector-run --stdout | wc -l\n\
    stat -c '%U %n' /var/lib/office365-collector/* /var/log/office365/*\n\
    rm /etc/office365-collector/client_secret\n\
    office365-collector-run check; echo without a secret $?\n\
    echo end\n";

#[test]
#[ignore = "needs systemd, dbus and root: cargo test --test tests -- --ignored packaging::systemd"]
fn what_is_run_by_hand_runs_as_the_service_does() {
    let installation = Installation::new();
    installation.contoso.add_blob("Audit.General", NewBlob::records(3).created(hours_ago(3)));
    let target = "[Unit]\nDefaultDependencies=no\nAfter=systemd-journald.socket\n\
                  Wants=systemd-journald.socket dbus.socket by-hand.service\n";
    let service = "[Unit]\nDefaultDependencies=no\nWants=dbus.service\nAfter=dbus.service\n\
                   [Service]\nType=oneshot\nExecStart=/bin/sh /etc/by-hand\n";
    let machine = Machine::of(&installation)
        .with("usr/sbin/office365-collector-run", &text("systemd/office365-collector-run"))
        .with("units/office365-collector.service", &text("systemd/office365-collector.service"))
        .with("units/by-hand.service", service)
        .with("units/test.target", target)
        .with("etc/by-hand", BY_HAND);
    set_mode(&machine.path("usr/sbin/office365-collector-run"), 0o755);
    let machine = machine.boot("systemd");
    let printed = || fs::read_to_string(machine.path("var/log/by-hand")).unwrap_or_default();
    until("everything was run", || printed().ends_with("end\n"), || machine.console() + &printed());
    let printed = printed();
    for line in [
        "✓ contoso: logged in",
        "✓ state: can be written in /var/lib/office365-collector",
        "check 0",
        "pass 0",
        "status 0",
        "3",
        "office365-collector /var/lib/office365-collector/known_blobs",
        "office365-collector /var/log/office365/AuditGeneral.json",
        "without a secret 243",
    ] {
        assert!(printed.lines().any(|shown| shown == line), "no {line:?} in {printed}");
    }
    assert!(!printed.contains("\nroot "), "{printed}");
    assert!(printed.contains("/etc/office365-collector/client_secret does not exist"), "{printed}");
    installation.assert_no_violations();
}

#[test]
#[ignore = "needs logrotate and root: cargo test --test tests -- --ignored packaging::systemd"]
fn logrotate_loses_and_duplicates_no_record() {
    let installation = Installation::new();
    let (output, rotation) = (installation.path("output"), installation.path("rotation"));
    let shipped = text("systemd/office365-collector.logrotate");
    let configuration = shipped
        .replace("/var/log/office365", &output.display().to_string())
        .replace("su office365-collector office365-collector", "");
    fs::write(&rotation, configuration).expect("a file");
    set_mode(&rotation, 0o644);
    let state = installation.path("rotated").display().to_string();
    for hours in [5, 4, 3] {
        installation.contoso.add_blob("Audit.General", NewBlob::records(3).created(hours_ago(hours)));
        installation.run(&[]).assert_code(0);
        let run = tool("logrotate", &["--force", "--state", &state, &rotation.display().to_string()]);
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run}");
    }
    installation.run(&[]).assert_code(0).assert_line("[WARN] No new blobs found");
    for entry in fs::read_dir(&output).expect("a folder").flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "gz") {
            tool("gzip", &["--decompress", &entry.path().display().to_string()]).assert_code(0);
        }
    }
    assert_eq!(installation.output().len(), 3, "each rotation left a file");
    installation.assert_delivered_once([(&installation.contoso, "Audit.General")]);
}
