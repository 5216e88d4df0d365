//! The command line and the exit codes.

use std::{fs, os::unix::ffi::OsStrExt};

use fs2::FileExt;
use simulator::{LoginError, NewBlob, Operation};

use crate::support::{CONTOSO, FABRIKAM, Installation, Run, hours_ago, mode, set_mode};

/// Contoso with two blobs of three records each.
fn two_blobs() -> Installation {
    let installation = Installation::new();
    for hours in [3, 2] {
        let created = hours_ago(hours);
        installation.contoso.add_blob("Audit.General", NewBlob::records(3).created(created));
    }
    installation
}

#[test]
fn a_wrong_command_line_exits_with_64() {
    let installation = Installation::new();
    for (arguments, part) in [
        (&["--dryrun"][..], "did you mean --dry-run?"),
        (&["--hours", "0"], "1 to 168"),
        (&["--hours=1000"], "1 to 168"),
        (&["--hours", "-1"], "1 to 168"),
        (&["collect"], "collect"),
        (&["--config"], "--config"),
        (&["-v", "-q"], "exclude each other"),
    ] {
        let run = installation.run_bare(arguments);
        assert_eq!((run.code, run.stdout.as_str()), (Some(64), ""), "{arguments:?}: {run}");
        assert!(run.stderr.contains(part), "{arguments:?}: {run}");
    }
}

#[test]
fn reports_an_argument_that_is_not_utf_8() {
    let installation = Installation::new();
    let mut command = installation.command(&[]);
    command.arg(std::ffi::OsStr::from_bytes(b"--dry\xffrun"));
    let run = Run::of(&mut command);
    assert!(run.code == Some(64) && run.stderr.contains("--dry\u{fffd}run"), "{run}");
}

#[test]
fn prints_help_and_version_to_standard_output() {
    let installation = Installation::new();
    for argument in ["--help", "-h"] {
        let run = installation.run_bare(&[argument]);
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
        assert!(run.stdout.contains("--dry-run") && run.stdout.contains("check"), "{run}");
    }
    for argument in ["--version", "-V"] {
        let run = installation.run_bare(&[argument]);
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
        assert_eq!(run.stdout, format!("office_audit_log_collector {}\n", env!("CARGO_PKG_VERSION")));
    }
}

#[test]
fn names_both_default_paths_if_there_is_no_configuration() {
    let installation = Installation::new();
    let run = installation.run_bare(&[]);
    run.assert_code(78);
    run.assert_line_with(&["config/config.yaml", "/etc/office365-collector/config.yaml", "--config"]);
}

#[test]
fn looks_first_for_config_config_yaml() {
    let installation = two_blobs();
    fs::create_dir(installation.path("config")).expect("a folder");
    fs::rename(installation.config_file(), installation.path("config/config.yaml")).expect("a file");
    installation.run_bare(&[]).assert_code(0);
    installation.assert_delivered_once([(&installation.contoso, "Audit.General")]);
}

#[test]
fn lists_every_configuration_mistake_with_its_position() {
    let installation = Installation::new();
    let config = installation.config().replace("retryDelay: 0s", "maxThread: 5\n  hoursToCollect: 500");
    fs::write(installation.path("wrong.yaml"), config).expect("a file");
    let run = installation.run_bare(&["--config", "wrong.yaml"]);
    run.assert_code(78);
    run.assert_line_with(&["[ERROR] wrong.yaml:", "collect.maxThread", "maxThreads"]);
    run.assert_line_with(&["[ERROR] wrong.yaml:", "collect.hoursToCollect", "168"]);
    assert_eq!(installation.simulator.requests().len(), 0);
}

#[test]
fn metrics_contain_each_feeds_balance_and_the_exit_code() {
    let installation = two_blobs();
    let config = format!("{}metrics:\n  path: office365.prom\n", installation.config());
    fs::write(installation.path("metrics.yaml"), config).expect("a file");
    let metric = |name: &str| {
        let text = fs::read_to_string(installation.path("office365.prom")).expect("a file");
        let name = format!("office365_collector_{name} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&name).map(str::to_owned));
        line.unwrap_or_else(|| panic!("no {name} in {text}"))
    };
    let of_feed =
        |name: &str| metric(&format!("{name}{{tenant=\"contoso\",content_type=\"Audit.General\"}}"));
    installation.run_bare(&["-c", "metrics.yaml"]).assert_code(0);
    assert_eq!((of_feed("blobs_found"), of_feed("blobs_downloaded")), ("2".to_owned(), "2".to_owned()));
    assert_eq!((of_feed("records_saved"), metric("exit_code")), ("6".to_owned(), "0".to_owned()));
    let last_success = metric("last_success_timestamp_seconds");
    installation.contoso.add_blob("Audit.General", NewBlob::body("[").created(hours_ago(2)));
    installation.run_bare(&["-c", "metrics.yaml"]).assert_code(1);
    let balance = ["blobs_listed", "blobs_known", "blobs_failed", "blobs_downloaded"].map(of_feed);
    assert_eq!(balance, ["3", "2", "1", "0"]);
    assert_eq!(
        (metric("exit_code"), metric("last_success_timestamp_seconds")),
        ("1".to_owned(), last_success)
    );
    assert_eq!(mode(&installation.path("office365.prom")), 0o644);
}

#[test]
fn a_pass_does_nothing_if_the_configuration_is_disabled() {
    let installation = two_blobs();
    fs::write(installation.path("disabled.yaml"), format!("enabled: false\n{}", installation.config()))
        .expect("a file");
    installation
        .run_bare(&["--config", "disabled.yaml"])
        .assert_code(0)
        .assert_line_with(&["enabled: false"]);
    assert_eq!(installation.simulator.requests().len(), 0);
    assert!(!installation.path("state").exists());

    // `check` and `status` work all the same, for an administrator who prepares the configuration.
    let check = installation.run_bare(&["--config", "disabled.yaml", "check"]);
    check.assert_code(0);
    assert!(
        check.stdout.contains("enabled: false; passes do nothing")
            && check.stdout.contains("✓ contoso: logged in")
    );
    let status = installation.run_bare(&["--config", "disabled.yaml", "status", "--json"]);
    assert!(status.code == Some(1) && status.stdout.contains("\"contoso\""), "{status}");
}

#[test]
fn only_a_collecting_pass_writes_the_log_file_and_it_also_prints_errors() {
    let installation = two_blobs().setting("log: { path: collector.log }");
    installation.contoso.settings(|settings| settings.secret = "another".to_owned());
    for (arguments, code) in
        [(&["--dry-run"][..], 77), (&["--stdout"], 77), (&["status"], 1), (&["check"], 77)]
    {
        let run = installation.run(arguments);
        run.assert_code(code);
        assert!(!installation.path("collector.log").exists(), "{arguments:?}");
        assert!(code == 1 || !run.stderr.is_empty() || !run.stdout.is_empty(), "{run}");
    }
    let run = installation.run(&[]);
    run.assert_code(77).assert_line_with(&["[ERROR] Authentication failed for contoso"]);
    assert!(run.log().iter().all(|line| line.starts_with("[ERROR]")), "{run}");
    let log = fs::read_to_string(installation.path("collector.log")).expect("a file");
    assert!(log.contains("[INFO] Starting") && log.contains("[ERROR] Authentication failed"), "{log}");
}

#[test]
fn status_names_the_output_that_delays_a_feed() {
    let installation = two_blobs();
    let config = installation
        .config()
        .replace("output:\n", "output:\n  graylog: { address: 127.0.0.1, port: 1, retryTimeout: 0s }\n");
    fs::write(installation.path("two.yaml"), config).expect("a file");
    installation.run_bare(&["-c", "two.yaml"]).assert_code(1);
    let status = installation.run_bare(&["-c", "two.yaml", "status"]);
    assert!(
        status.stdout.contains("127.0.0.1:1") && status.stdout.contains("nothing listens there"),
        "{status}"
    );
}

#[test]
fn fails_if_standard_output_cannot_be_written() {
    let installation = two_blobs();
    for arguments in [&["status"][..], &["schedule", "cron"]] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("a device");
        let config = installation.config_file();
        let mut command =
            installation.command(&[&["-c", config.to_str().expect("text")], arguments].concat());
        let run = Run::of(command.stdout(full));
        assert!(run.code == Some(74) && run.stderr.contains("cannot write to standard output"), "{run}");
    }
}

#[test]
fn a_second_pass_at_the_same_time_exits_with_75() {
    let installation = two_blobs();
    fs::create_dir(installation.path("state")).expect("a folder");
    let file = fs::File::create(installation.path("state/known_blobs")).expect("a file");
    file.lock_exclusive().expect("a free lock");
    let run = installation.run(&[]);
    run.assert_code(75).assert_line_with(&["[WARN] another pass holds the lock", "known_blobs"]);
    let run = installation.run(&["--skip-if-locked"]);
    run.assert_code(0)
        .assert_line_with(&["[INFO] This pass is skipped: another pass holds the lock", "known_blobs"]);
    assert_eq!(installation.simulator.requests().len(), 0);
    drop(file);
    installation.run(&["--skip-if-locked"]).assert_code(0);
    installation.assert_delivered_once([(&installation.contoso, "Audit.General")]);
}

#[test]
fn exits_with_74_if_state_or_output_cannot_be_written() {
    let installation = two_blobs();
    fs::write(installation.path("state"), "a file where a folder should be").expect("a file");
    installation.run(&[]).assert_code(74).assert_line_with(&["[ERROR]", "state"]);
    fs::remove_file(installation.path("state")).expect("the file");

    fs::write(installation.path("output"), "a file where a folder should be").expect("a file");
    let run = installation.run(&[]);
    run.assert_code(74).assert_line_with(&["[ERROR]", "output"]);
    assert_eq!(installation.known_blobs(), [""; 0], "undelivered blobs are not known");
    fs::remove_file(installation.path("output")).expect("the file");

    installation.run(&[]).assert_code(0);
    installation.assert_delivered_once([(&installation.contoso, "Audit.General")]);
}

#[test]
fn a_full_disk_exits_with_74_and_a_hint() {
    let installation = two_blobs();
    let config = installation.config();
    let output = installation.path("output/audit.json");
    let config =
        config.replace(output.to_str().expect("text"), "/dev/full").replace("Type: true", "Type: false");
    fs::write(installation.path("full.yaml"), config).expect("a file");
    let run = installation.run_bare(&["--config", "full.yaml"]);
    run.assert_code(74)
        .assert_line_with(&["[ERROR] Output file failed: cannot write /dev/full", "free some space"]);
    assert_eq!(installation.known_blobs(), [""; 0]);
}

#[test]
fn exits_with_77_if_every_login_fails_and_with_1_if_one_does() {
    let (installation, fabrikam) = Installation::with_fabrikam();
    installation.contoso.settings(|settings| settings.login_error = Some(LoginError::WrongSecret));
    installation.run(&[]).assert_code(1);
    fabrikam.settings(|settings| settings.login_error = Some(LoginError::UnknownTenant));
    let run = installation.run(&[]);
    run.assert_code(77).assert_line_with(&["Authentication failed for contoso: AADSTS7000215"]);
    run.assert_line_with(&["Authentication failed for fabrikam: AADSTS90002", "check tenant_id"]);
}

#[test]
fn selects_a_tenant_by_its_id_or_name() {
    let (installation, fabrikam) = Installation::with_fabrikam();
    for tenant in [&installation.contoso, &fabrikam] {
        tenant.add_blob("DLP.All", NewBlob::records(2).created(hours_ago(2)));
    }
    installation.run(&["--tenant", "fabrikam"]).assert_code(0);
    installation.assert_delivered_once([(&fabrikam, "DLP.All")]);
    installation.run(&["--tenant", CONTOSO, "--tenant", FABRIKAM]).assert_code(0);
    installation.assert_delivered_once([(&installation.contoso, "DLP.All"), (&fabrikam, "DLP.All")]);
    let run = installation.run(&["--tenant=fabricam"]);
    assert_eq!(run.code, Some(64), "{run}");
    assert!(run.stderr.contains("did you mean \"fabrikam\"?"), "{run}");
}

#[test]
fn a_dry_run_lists_blobs_and_changes_nothing() {
    let installation = two_blobs();
    let contoso = &installation.contoso;
    contoso.subscribe("Audit.General");
    let run = installation.run(&["--dry-run"]);
    run.assert_code(0)
        .assert_line("[WARN] No subscription to feed dlp.all: a pass would start it")
        .assert_line(
            "[INFO] Done! Blobs found: 2 | Blobs successful: 0 | Logs saved: 0 | Blobs left for later: 2",
        );
    let mut listed: Vec<_> = run.stdout.lines().map(|line| line.split('\t').collect::<Vec<_>>()).collect();
    listed.sort_by_key(|columns| columns[2].to_owned());
    let blobs = contoso.blobs("Audit.General");
    for (columns, blob) in listed.iter().zip(&blobs) {
        assert_eq!((columns[0], columns[1], columns[3]), ("contoso", "Audit.General", blob.content_id()));
    }
    assert_eq!(listed.len(), 2);
    assert!(!installation.path("state").exists() && !installation.path("output").exists());
    let simulator = &installation.simulator;
    assert_eq!(
        (simulator.count(Operation::FetchBlob), simulator.count(Operation::StartSubscription)),
        (0, 0)
    );
}

#[test]
fn stdout_prints_all_records_of_the_period_and_changes_nothing() {
    let installation = two_blobs();
    installation.run(&[]).assert_code(0);
    let (output, known_blobs) = (installation.output(), installation.known_blobs());
    let run = installation.run(&["--stdout"]);
    run.assert_code(0);
    let mut ids: Vec<_> = run.stdout.lines().map(|line| simulator::id_of(line).expect("a record")).collect();
    ids.sort();
    assert_eq!(ids, installation.contoso.ids("Audit.General").into_iter().collect::<Vec<_>>());
    assert_eq!((installation.output(), installation.known_blobs()), (output, known_blobs));
}

#[test]
fn shards_divide_the_tenants() {
    let (installation, fabrikam) = Installation::with_fabrikam();
    for tenant in [&installation.contoso, &fabrikam] {
        tenant.add_blob("DLP.All", NewBlob::records(2).created(hours_ago(2)));
    }
    for shard in ["0/3", "1/3", "2/3"] {
        installation.run(&["--shard", shard]).assert_code(0);
    }
    installation.assert_delivered_once([(&installation.contoso, "DLP.All"), (&fabrikam, "DLP.All")]);
    assert_eq!(installation.simulator.count(Operation::Login), 2);
    let run = installation.run(&["--shard", "3/3"]);
    assert_eq!(run.code, Some(64), "{run}");
}

#[test]
fn status_reports_each_feed() {
    let installation = two_blobs();
    let run = installation.run(&["status"]);
    run.assert_code(1);
    assert!(run.stdout.contains("never"), "{run}");
    assert!(!installation.path("state").exists(), "status creates no state");

    installation.run(&[]).assert_code(0);
    let run = installation.run(&["status", "--json"]);
    run.assert_code(0);
    let feeds: Vec<serde_json::Value> = serde_json::from_str(&run.stdout).expect("an array");
    assert_eq!(feeds.len(), 5);
    for feed in &feeds {
        assert_eq!(feed["tenant"], "contoso");
        assert!(feed["lag_seconds"].as_i64().is_some_and(|lag| (0..600).contains(&lag)), "{feed}");
        assert_eq!((&feed["last_error"], &feed["blobs_failed"]), (&serde_json::Value::Null, &0.into()));
    }

    installation.contoso.add_blob("DLP.All", NewBlob::body("[").created(hours_ago(2)));
    installation.run(&[]).assert_code(1);
    let run = installation.run(&["--tenant", "contoso", "status"]);
    run.assert_code(0);
    let line = run.stdout.lines().find(|line| line.contains("DLP.All")).expect("the feed");
    assert!(line.contains(" 1 ") && line.contains("not one whole JSON array"), "{line}");
}

#[test]
fn status_and_schedule_need_no_secret() {
    let installation = two_blobs();
    let config =
        installation.config_with_credential("client_secret_file: \"${CREDENTIALS_DIRECTORY}/client_secret\"");
    fs::write(installation.path("no-secret.yaml"), config).expect("a file");
    installation.run(&[]).assert_code(0);
    let run = installation.run_bare(&["-c", "no-secret.yaml", "status"]);
    assert!(run.assert_code(0).stdout.contains("Audit.General"), "{run}");
    installation.run_bare(&["-c", "no-secret.yaml", "schedule", "cron"]).assert_code(0);
    installation
        .run_bare(&["-c", "no-secret.yaml", "check"])
        .assert_code(78)
        .assert_line_with(&["CREDENTIALS_DIRECTORY is not set"]);
}

#[test]
fn schedule_prints_units_and_crontabs_for_the_interval() {
    let installation = Installation::new().setting("interval: 15m");
    let config = installation.config_file();
    let command =
        format!("{} --quiet --config {}", env!("CARGO_BIN_EXE_office_audit_log_collector"), config.display());
    for arguments in [["-c", "config.yaml", "schedule", "cron"], ["schedule", "cron", "-c", "./config.yaml"]]
    {
        let run = installation.run_bare(&arguments);
        let line = run.assert_code(0).stdout.lines().last().expect("a line");
        assert_eq!(line, format!("*/15 * * * * office365-collector {command}"), "{run}");
    }
    let run = installation.run(&["schedule", "systemd"]);
    let command = command.replace(" --quiet", "");
    for line in ["OnCalendar=*:0/15", "RandomizedDelaySec=45s", &format!("ExecStart={command}")] {
        assert!(
            run.assert_code(0).stdout.lines().any(|printed| printed == line),
            "no line {line:?} in {run}"
        );
    }

    let config =
        format!("{} --credentials={}", config.display(), installation.path("secrets.yaml").display());
    let credentials = format!("tenants:\n  - tenant_id: {CONTOSO}\n    client_secret: a-secret\n");
    fs::write(installation.path("secrets.yaml"), credentials).expect("a file");
    let run = installation.run(&[
        "--tenant=contoso",
        "--shard",
        "0/4",
        "--credentials=secrets.yaml",
        "schedule",
        "cron",
    ]);
    let line = run.assert_code(0).stdout.lines().last().expect("a line");
    assert!(line.ends_with(&format!(" --config {config} --tenant=contoso --shard=0/4")), "{run}");

    let with_log = Installation::new().setting("log: { path: collector.log }");
    let run = with_log.run(&["schedule", "systemd"]);
    run.assert_code(0).assert_line_with(&["[WARN] log.path is relative", "make it absolute"]);
    let lines = run.stdout.lines().filter(|line| line.starts_with("LoadCredential="));
    assert_eq!(
        lines.count(),
        0,
        "the service starts without a secret that the configuration does not use: {run}"
    );

    // The log file is not opened.
    let disabled =
        Installation::new().setting("enabled: false").setting("log: { path: /nowhere/at/all.log }");
    assert!(disabled.run(&["schedule", "cron"]).assert_code(0).stdout.contains("*/5 * * * * "));

    let too_often = Installation::new().setting("interval: 30s");
    too_often
        .run(&["schedule", "cron"])
        .assert_code(78)
        .assert_line_with(&["[ERROR] interval:", "at most once a minute"]);
    assert_eq!(installation.simulator.requests().len() + too_often.simulator.requests().len(), 0);
}

#[test]
fn check_shows_logins_and_subscriptions_and_collects_nothing() {
    let (installation, fabrikam) = Installation::with_fabrikam();
    installation.contoso.subscribe("DLP.All");
    let run = installation.run(&["check"]);
    run.assert_code(0);
    for line in [
        "✓ contoso: logged in",
        "✓ contoso: subscribed to DLP.All",
        "✓ contoso: not yet subscribed to Audit.General; the first pass starts it",
    ] {
        assert!(run.stdout.lines().any(|shown| shown == line), "no {line:?} in {run}");
    }
    let simulator = &installation.simulator;
    assert_eq!(
        (simulator.count(Operation::ListContent), simulator.count(Operation::StartSubscription)),
        (0, 0)
    );
    assert!(!installation.path("state").exists() && !installation.path("output").exists());

    fabrikam.settings(|settings| settings.login_error = Some(LoginError::WrongSecret));
    let run = installation.run(&["check"]);
    run.assert_code(1);
    assert!(run.stdout.contains("✗ fabrikam: login: AADSTS7000215"), "{run}");
    installation.run(&["check", "--tenant", "fabrikam"]).assert_code(77);
}

#[test]
fn reads_secrets_from_a_file_a_second_configuration_or_the_environment() {
    let installation = two_blobs();
    let config = installation.config();
    let secret =
        config.lines().find_map(|line| line.trim().strip_prefix("client_secret: ")).expect("a secret");
    let secret_line = format!("    client_secret: {secret}\n");
    let path = installation.path("no-secret.yaml");
    let arguments = ["--config", path.to_str().expect("text"), "check"];

    fs::write(installation.path("secret"), format!("{secret}\n")).expect("a file");
    set_mode(&installation.path("secret"), 0o600);
    fs::write(&path, config.replace(&secret_line, "    client_secret_file: secret\n")).expect("a file");
    installation.run_bare(&arguments).assert_code(0);

    fs::write(&path, config.replace(&secret_line, "")).expect("a file");
    installation.run_bare(&arguments).assert_code(78);
    let credentials = format!("tenants:\n  - tenant_id: {CONTOSO}\n    client_secret: {secret}\n");
    fs::write(installation.path("credentials.yaml"), credentials).expect("a file");
    installation.run_bare(&[&arguments[..], &["--credentials", "credentials.yaml"]].concat()).assert_code(0);

    let mut command = installation.command(&arguments);
    Run::of(command.env("CLIENT_SECRET", secret)).assert_code(0);
}
