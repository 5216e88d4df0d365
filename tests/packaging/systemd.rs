//! The units, and their `logrotate` and `sysusers` fragments.

use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt, path::Path};

use jiff::Timestamp;
use office_audit_log_collector::exit::Exit;
use simulator::{LoginError, NewBlob};

use super::{machine::Machine, path, text, tool, until};
use crate::support::{Installation, hours_ago, mode, set_mode, whole_lines};

const UNITS: [&str; 5] = [
    "office365-collector.service",
    "office365-collector.timer",
    "office365-collector@.service",
    "office365-collector@.timer",
    "office365-collector-failure@.service",
];

/// What differs between the units for one configuration and those for one instance a configuration.
const OF_INSTANCES: [(&str, &str); 6] = [
    ("/etc/office365-collector/config.yaml", "/etc/office365-collector/%i.yaml"),
    ("/etc/office365-collector/client_secret", "/etc/office365-collector/%i.client_secret"),
    ("StateDirectory=office365-collector\n", "StateDirectory=office365-collector/%i\n"),
    ("LogsDirectory=office365\n", "LogsDirectory=office365/%i\n"),
    ("office365-collector-failure@config.service", "office365-collector-failure@%i.service"),
    ("\n[Unit]\nDescription=", "\n[Unit]\nDescription=%i: "),
];

/// A unit's settings, in the order of its lines; comments are left out.
fn settings(unit: &str) -> Vec<(String, String)> {
    let lines = unit.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once('=')).map(|(key, value)| (key.into(), value.into())).collect()
}

#[test]
fn the_units_of_an_instance_are_those_of_the_one_configuration_but_for_the_names() {
    for kind in ["service", "timer"] {
        let mut expected = text(&format!("systemd/office365-collector.{kind}"));
        for (one, instance) in OF_INSTANCES {
            expected = expected.replace(one, instance);
        }
        let instance = text(&format!("systemd/office365-collector@.{kind}"));
        assert_eq!(settings(&instance), settings(&expected), "{kind}");
    }
}

#[test]
fn the_service_knows_the_exit_codes_and_the_time_that_a_pass_needs_to_end() {
    let service: BTreeMap<_, _> =
        settings(&text("systemd/office365-collector.service")).into_iter().collect();
    let no_failures = format!("{} {}", Exit::Locked.code(), Exit::Terminated.code());
    assert_eq!(service["SuccessExitStatus"], no_failures);
    let stop: u64 = service["TimeoutStopSec"].trim_end_matches('s').parse().expect("seconds");
    assert!(stop > 5, "a signal ends a pass within five seconds");
}

#[test]
#[ignore = "needs systemd-analyze: cargo test --test tests -- --ignored packaging::systemd"]
fn systemd_finds_nothing_to_say_about_the_units() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = env!("CARGO_BIN_EXE_office_audit_log_collector");
    let mut files = Vec::new();
    for unit in UNITS {
        let text = text(&format!("systemd/{unit}")).replace("/usr/bin/office_audit_log_collector", program);
        fs::write(folder.path().join(unit), &text).expect("a file");
        let instance = unit.replace('@', "@contoso");
        fs::write(folder.path().join(&instance), &text).expect("a file");
        files.push(folder.path().join(instance).display().to_string());
    }
    for file in files {
        // It says what is misspelt, and exits with 0 all the same.
        let run = tool("systemd-analyze", &["verify", "--man=no", &file]);
        assert_eq!((run.code, run.stdout.as_str(), run.stderr.as_str()), (Some(0), "", ""), "{file}");
    }
}

#[test]
#[ignore = "needs systemd-analyze: cargo test --test tests -- --ignored packaging::systemd"]
fn the_sandbox_is_as_strict_as_it_says() {
    for unit in ["office365-collector.service", "office365-collector@.service"] {
        let file = path(&format!("systemd/{unit}")).display().to_string();
        let run =
            tool("systemd-analyze", &["security", "--offline=true", "--threshold=15", "--no-pager", &file]);
        assert_eq!(run.code, Some(0), "{run}");
    }
}

#[test]
#[ignore = "needs systemd-analyze: cargo test --test tests -- --ignored packaging::systemd"]
fn the_calendar_events_of_a_schedule_come_at_its_interval() {
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
fn a_timer_starts_passes_that_work_within_the_sandbox_of_the_service() {
    let installation = Installation::new().setting("interval: 2s");
    let contoso = &installation.contoso;
    contoso.add_blob("Audit.General", NewBlob::records(3).created(hours_ago(3)));
    let secret = contoso.settings_now().secret;
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
    until("the first tick delivers a blob", || lines() == 3, console);
    contoso.add_blob("Audit.General", NewBlob::records(4).created(hours_ago(2)));
    until("a later tick delivers another one", || lines() == 7, console);

    let state = machine.path("var/lib/office365-collector");
    until("the second blob is known", || whole_lines(&state.join("known_blobs")).len() == 2, console);
    let found = |path: &Path| fs::metadata(path).expect("a file");
    assert!(found(&state).uid() != 0 && found(&state).uid() == found(&output).uid(), "{}", console());
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
#[ignore = "needs systemd and root: cargo test --test tests -- --ignored packaging::systemd"]
fn a_failure_mails_how_the_feeds_fare_and_the_log() {
    let installation = Installation::new();
    installation.contoso.settings(|settings| settings.login_error = Some(LoginError::ExpiredSecret));
    let service = text("systemd/office365-collector.service");
    let service = service.replace("\n#OnFailure=", "\nOnFailure=");
    let target = "[Unit]\nDefaultDependencies=no\nWants=systemd-journald.socket office365-collector.service\n\
                  After=systemd-journald.socket\n";
    let hook = "office365-collector-failure@.service";
    let machine = Machine::of(&installation)
        .with("units/office365-collector.service", &service)
        .with(&format!("units/{hook}"), &text(&format!("systemd/{hook}")))
        .with("units/test.target", target)
        .with("usr/bin/mail", "#!/bin/sh\n{ echo \"$@\"; cat; echo end; } >/var/log/office365/mail\n");
    set_mode(&machine.path("usr/bin/mail"), 0o755);
    let machine = machine.boot("systemd");
    let mail = || fs::read_to_string(machine.path("var/log/office365/mail")).unwrap_or_default();
    until("a mail is there", || mail().ends_with("end\n"), || machine.console());
    let mail = mail();
    assert!(
        mail.starts_with("-s office365-collector fails on ") && mail.contains(": config root\n"),
        "{mail}"
    );
    let parts = [
        "LAST ERROR",
        "contoso  DLP.All",
        "never",
        "[ERROR] Authentication failed for contoso: AADSTS7000222",
    ];
    assert!(parts.iter().all(|part| mail.contains(part)), "{mail}");
}

#[test]
#[ignore = "needs logrotate and root: cargo test --test tests -- --ignored packaging::systemd"]
fn rotation_neither_loses_nor_repeats_records() {
    let installation = Installation::new();
    let (output, rotation) = (installation.path("output"), installation.path("rotation"));
    let shipped = text("systemd/office365-collector.logrotate");
    let here = output.display().to_string();
    let fragment = shipped
        .replace("/var/log/office365", &here)
        .replace("su office365-collector office365-collector", "");
    fs::write(&rotation, fragment).expect("a file");
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
