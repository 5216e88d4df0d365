//! A service that a scheduler starts: what `schedule` finds on this machine, and what runs beside the service.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::{
        fs::{MetadataExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use simulator::NewBlob;

use crate::support::{Installation, Run, documents::repository, hours_ago, mode, set_mode};

const FEED: &str = "Audit.General";

/// An installation whose configuration has its secret in a file of the service.
fn with_a_secret_of_the_service() -> Installation {
    let installation = Installation::new();
    let line = "client_secret_file: \"${CREDENTIALS_DIRECTORY}/client_secret\"";
    fs::write(installation.path("service.yaml"), installation.config_with_credential(line)).expect("a file");
    installation
}

#[test]
fn a_schedule_lists_first_what_this_machine_lacks() {
    let installation = with_a_secret_of_the_service();
    let place = |name: &str| installation.path(name).display().to_string();
    for (scheduler, command, setting) in [
        (
            "systemd",
            format!("install -m 0600 /dev/stdin {}", place("client_secret")),
            format!("LoadCredential=client_secret:{}", place("client_secret")),
        ),
        (
            "cron",
            format!("install -m 0640 -g office365-collector /dev/stdin {}", place("client_secret")),
            format!(
                "CREDENTIALS_DIRECTORY={}",
                installation.path("service.yaml").parent().expect("a folder").display()
            ),
        ),
    ] {
        let run = installation.run_bare(&["-c", "service.yaml", "schedule", scheduler]);
        run.assert_code(0).assert_line_with(&[
            "[WARN]",
            "client_secret does not exist",
            &format!("; run: {command}"),
        ]);
        let (first, files) = run.stdout.split_once("\n\n").expect("commands and files");
        assert!(first.starts_with("# Run these commands first, as root:\n#   "), "{run}");
        assert!(first.lines().any(|line| line == format!("#   {command}")), "{run}");
        assert!(files.lines().any(|line| line == setting), "no {setting} in {run}");
        let warned: BTreeSet<_> =
            run.log().into_iter().filter_map(|line| Some(line.split_once("; run: ")?.1)).collect();
        let listed: BTreeSet<_> = first.lines().filter_map(|line| line.strip_prefix("#   ")).collect();
        assert_eq!(warned, listed, "each command is in a warning and in the comment: {run}");
    }
    let units = installation.run_bare(&["-c", "service.yaml", "schedule", "systemd"]);
    units.assert_line_with(&["243/CREDENTIALS"]);
    for folder in ["output", "state"] {
        let line = format!("ReadWritePaths=-{}", place(folder));
        assert!(units.stdout.lines().any(|printed| printed == line), "no {line} in {units}");
    }

    fs::write(installation.path("client_secret"), "a-secret").expect("a file");
    let run = installation.run_bare(&["-c", "service.yaml", "schedule", "systemd"]);
    assert!(!run.assert_code(0).stderr.contains("client_secret"), "{run}");
    assert_eq!(installation.simulator.requests().len(), 0);
}

#[test]
fn a_schedule_writes_the_files_that_it_prints() {
    let installation = Installation::new();
    let printed = |scheduler: &str| installation.run(&["schedule", scheduler]).stdout;
    let folder = installation.path("etc/units").display().to_string();
    for (scheduler, names) in [
        ("systemd", &["office365-collector.service", "office365-collector.timer"][..]),
        ("cron", &["office365-collector"]),
    ] {
        for _ in 0..2 {
            let run = installation.run(&["schedule", scheduler, "--install-to", &folder]);
            let paths: Vec<_> = names.iter().map(|name| format!("{folder}/{name}")).collect();
            assert_eq!(run.assert_code(0).stdout.lines().collect::<Vec<_>>(), paths);
            for path in &paths {
                let text = fs::read_to_string(path).expect("a file");
                assert!(printed(scheduler).contains(text.trim_end()), "{path}: {text}");
                assert_eq!(mode(Path::new(path)), 0o644);
            }
        }
    }
    let mut left: Vec<_> =
        fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry").file_name()).collect();
    left.sort();
    assert_eq!(left, ["office365-collector", "office365-collector.service", "office365-collector.timer"]);
    fs::write(installation.path("file"), "").expect("a file");
    let run = installation.run(&["schedule", "cron", "--install-to", "file/below"]);
    run.assert_code(74).assert_line_with(&["[ERROR] cannot create the folder file/below"]);
}

/// The user id of a service that is not that of the tests.
const SERVICE: u32 = 4_711;

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![folder.to_owned()];
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files_below(&path)) } else { found.push(path) }
    }
    found
}

#[test]
fn the_service_goes_on_after_a_pass_of_root() {
    let installation = Installation::new()
        .setting("log: { path: output/collector.log }\nmetrics: { path: state/metrics/office365.prom }");
    let contoso = &installation.contoso;
    if fs::metadata(installation.path(".")).expect("a folder").uid() != 0 {
        return; // only root can run a program as another user
    }
    for name in ["", "state", "state/metrics", "output"] {
        fs::create_dir_all(installation.path(name)).expect("a folder");
        chown(installation.path(name), Some(SERVICE), Some(SERVICE)).expect("root");
    }
    let run_as_service = || {
        let mut pass = installation.pass();
        chown(installation.path("config.yaml"), Some(SERVICE), Some(SERVICE)).expect("root");
        Run::of(pass.uid(SERVICE).gid(SERVICE))
    };
    let add = |hours: i64| {
        contoso.add_blob(FEED, NewBlob::records(3).created(hours_ago(hours)));
        contoso
            .add_blob(FEED, NewBlob::body("[{\"Id\":7},").created(hours_ago(hours)).expiring(hours_ago(-20)));
    };
    add(5);
    run_as_service().assert_code(0);
    add(4);
    installation.run(&[]).assert_code(0);
    let strange: Vec<_> = ["state", "output"]
        .iter()
        .flat_map(|name| files_below(&installation.path(name)))
        .filter(|path| fs::metadata(path).expect("a file").uid() != SERVICE)
        .collect();
    assert!(strange.is_empty(), "the service cannot write {strange:?}");
    assert!(
        installation.path("state/quarantine").exists()
            && installation.path("state/metrics/office365.prom").exists()
    );
    add(3);
    run_as_service().assert_code(0);
    installation.run(&["check"]).assert_code(0);
    let lines = installation.output()["AuditGeneral.json"].len();
    assert_eq!(lines, 3 * 3 + 1, "three blobs, and the one record of all that could not be read");
}

/// Stands in for a program of systemd.
fn write_program(path: &Path, script: &str) {
    fs::write(path, format!("#!/bin/sh\n{script}\n")).expect("a file");
    set_mode(path, 0o755);
}

/// Runs `office365-collector-run` with `systemctl cat` printing the shipped units, and `systemd-run` printing its arguments.
fn run_beside_the_service(drop_in: &str, arguments: &[&str]) -> Run {
    let folder = tempfile::tempdir().expect("a folder");
    let units = repository("systemd").display().to_string();
    fs::write(folder.path().join("drop-in.conf"), drop_in).expect("a file");
    write_program(&folder.path().join("id"), "echo 0");
    write_program(&folder.path().join("systemd-run"), "printf '%s\\n' \"$@\"; exit 7");
    write_program(
        &folder.path().join("systemctl"),
        &format!(
            "case $2 in *@*) unit=office365-collector@.service ;; *) unit=$2 ;; esac\n\
             cat {units}/$unit {}/drop-in.conf",
            folder.path().display()
        ),
    );
    let mut command = Command::new("sh");
    command.arg(repository("systemd/office365-collector-run")).args(arguments).env_clear();
    command.env("PATH", format!("{}:/usr/bin:/bin", folder.path().display()));
    Run::of(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()))
}

#[test]
fn the_program_is_run_by_hand_with_the_settings_of_the_unit() {
    let run = run_beside_the_service("", &["--hours", "6", "--stdout"]);
    let words: Vec<_> = run.stdout.lines().collect();
    assert_eq!(run.code, Some(7), "the exit code is the program's: {run}");
    for option in ["--pipe", "--wait", "--quiet", "--collect"] {
        assert!(words.contains(&option), "{run}");
    }
    let command = [
        "/usr/bin/office_audit_log_collector",
        "--config",
        "/etc/office365-collector/config.yaml",
        "--hours",
        "6",
        "--stdout",
    ];
    assert!(words.ends_with(&command), "{run}");
    let settings: BTreeSet<_> = words.iter().filter_map(|word| word.strip_prefix("--property=")).collect();
    let service = fs::read_to_string(repository("systemd/office365-collector.service")).expect("a unit");
    let (_, section) = service.split_once("\n[Service]\n").expect("a section");
    let left_out = ["Type", "ExecStart", "SuccessExitStatus", "TimeoutStartSec", "TimeoutStopSec"];
    let expected: BTreeSet<_> = section
        .lines()
        .filter(|line| !line.starts_with('#') && line.contains('='))
        .filter(|line| !left_out.contains(&line.split('=').next().unwrap_or_default()))
        .collect();
    assert_eq!(settings, expected);
    assert!(settings.contains("User=office365-collector") && settings.contains("ProtectSystem=strict"));
    assert!(run.stderr.contains("/etc/office365-collector/client_secret does not exist"), "{run}");
}

#[test]
fn drop_ins_and_instances_count_for_a_run_by_hand() {
    let drop_in = "\n[Unit]\nDescription=no setting\n[Service]\nLoadCredential=\nReadWritePaths=/srv/%i \\\n    /srv/100%%\n\
                   StandardOutput=null\nExecStart=\nExecStart=-/opt/collect --config /srv/%i.yaml --shard=0/2\n";
    let run = run_beside_the_service(drop_in, &["--unit", "office365-collector@contoso.service", "check"]);
    let words: Vec<_> = run.stdout.lines().collect();
    assert!(
        words.ends_with(&["/opt/collect", "--config", "/srv/contoso.yaml", "--shard=0/2", "check"]),
        "{run}"
    );
    let single_spaced: Vec<_> =
        words.iter().map(|word| word.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for setting in ["StateDirectory=office365-collector/contoso", "ReadWritePaths=/srv/contoso /srv/100%"] {
        assert!(single_spaced.contains(&format!("--property={setting}")), "no {setting} in {run}");
    }
    assert!(!run.stdout.contains("StandardOutput") && !run.stdout.contains("Description"), "{run}");
    assert!(run.stderr.is_empty(), "no credential is left: {run}");
    let run = run_beside_the_service("", &["--unit"]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(64), ""), "{run}");
}
