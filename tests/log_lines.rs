//! The lines that people's alerts match, to the letter.

use std::{fs, os::unix::fs::MetadataExt, process::Stdio};

use jiff::Timestamp;
use simulator::{ApiError, CONTENT_TYPES, Fault, LoginError, NewBlob, Operation, Requests};

use crate::support::{Installation, Run, hours_ago, whole_lines};

/// Contoso with one blob of three records, two hours old.
fn one_blob() -> Installation {
    let installation = Installation::new();
    let created = hours_ago(2);
    installation.contoso.add_blob("Audit.General", NewBlob::records(3).created(created));
    installation
}

#[test]
fn a_first_pass_says_what_it_does() {
    let installation = one_blob();
    installation.contoso.subscribe("DLP.All");
    let run = installation.run(&[]);
    run.assert_code(0);
    assert_eq!(
        run.log()[..3],
        [
            "[INFO] Starting Office365 collector: 1 tenant(s), 5 subscription(s)",
            "[INFO] Successfully logged in to Office Management API",
            "[INFO] Already subscribed to feed dlp.all",
        ]
    );
    run.assert_line("[INFO] Subscribed to feed audit.exchange")
        .assert_line("[INFO] Done! Blobs found: 1 | Blobs successful: 1 | Logs saved: 3");
}

#[test]
fn each_line_begins_with_the_time_in_utc_and_the_level() {
    let run = one_blob().run(&[]);
    for line in run.stderr.lines() {
        let (time, rest) = line.split_once(' ').expect("a time and the rest");
        assert!(time.len() == "2026-11-22T10:15:00Z".len() && time.ends_with('Z'), "{line}");
        time.parse::<Timestamp>().expect("a time");
        assert!(["[INFO] ", "[WARN] ", "[ERROR] "].iter().any(|level| rest.starts_with(level)), "{line}");
    }
}

#[test]
fn a_pass_without_anything_new_says_so() {
    let installation = Installation::new();
    installation
        .run(&[])
        .assert_code(0)
        .assert_line("[WARN] No new blobs found")
        .assert_line("[INFO] Done! Blobs found: 0 | Blobs successful: 0 | Logs saved: 0");
}

#[test]
fn a_login_that_fails_says_whose_and_why_and_what_to_do() {
    let installation = one_blob();
    installation.contoso.settings(|settings| settings.login_error = Some(LoginError::ExpiredSecret));
    installation.run(&[]).assert_code(77).assert_line_with(&[
        "[ERROR] Authentication failed for contoso: AADSTS7000222 the client secret has expired; create a new one under \
         Certificates & secrets",
    ]);
    assert_eq!(installation.simulator.count(Operation::Login), 1, "a wrong secret is not tried again");
}

#[test]
fn a_subscription_that_fails_says_whose_and_why_and_what_to_do() {
    let installation = one_blob();
    installation.simulator.fault(
        Requests::to(Operation::StartSubscription).always(),
        Fault::api_error(ApiError::PermissionMissing),
    );
    installation.run(&[]).assert_code(1).assert_line_with(&[
        "[ERROR] Subscription failed for contoso ",
        "AF10001",
        "ActivityFeed.Read",
        "admin consent",
    ]);
}

#[test]
fn with_debug_each_feeds_balance_is_told() {
    let installation = one_blob();
    let expected = "[DEBUG] Balance of contoso Audit.General: 1 listed = 0 known + 1 delivered + 0 failed + 0 gone + \
                    0 left for later";
    let run = installation.run(&["--verbose"]);
    run.assert_code(0).assert_line(expected);
    let balances = run.log().iter().filter(|line| line.contains("Balance of")).count();
    assert_eq!(balances, CONTENT_TYPES.len());
    let run = installation.run(&["-v"]);
    run.assert_line(&expected.replace("0 known + 1 delivered", "1 known + 0 delivered"));
}

#[test]
fn a_pass_longer_than_its_interval_says_so() {
    let installation = one_blob();
    installation.simulator.set_latency(std::time::Duration::from_millis(300));
    let config = format!("interval: 1s\n{}", installation.config());
    fs::write(installation.path("often.yaml"), config).expect("a file");
    let run = installation.run_bare(&["-c", "often.yaml"]);
    run.assert_code(0).assert_line_with(&["[WARN] The pass took", "longer than its interval of 1 s"]);
    let run = installation.run(&[]);
    assert!(!run.stderr.contains("longer than its interval"), "{run}");
}

#[test]
fn quiet_leaves_errors_only() {
    let installation = one_blob();
    assert_eq!(installation.run(&["--quiet"]).assert_code(0).stderr, "");
    assert_eq!(installation.run(&["-q"]).assert_code(0).stderr, "");
    installation.contoso.add_blob("DLP.All", NewBlob::body("[").created(hours_ago(2)));
    let run = installation.run(&["-q"]);
    run.assert_code(1);
    assert!(run.log().iter().all(|line| line.starts_with("[ERROR] ")) && !run.stderr.is_empty(), "{run}");
}

#[test]
fn the_log_goes_to_a_file_if_it_is_told_to() {
    let installation = one_blob();
    let path = installation.path("collector.log");
    let config = format!("{}log:\n  path: {}\n  debug: true\n", installation.config(), path.display());
    fs::write(installation.path("logging.yaml"), config).expect("a file");
    for _ in 0..2 {
        let run = installation.run_bare(&["--config", "logging.yaml"]);
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run}");
    }
    let lines = whole_lines(&path);
    assert_eq!(lines.iter().filter(|line| line.contains("[INFO] Done!")).count(), 2);
    assert!(lines.iter().any(|line| line.contains("[DEBUG]")));
}

#[test]
fn a_log_file_that_cannot_be_written_is_an_error() {
    let installation = one_blob();
    let config = format!("{}log:\n  path: /nowhere/at/all.log\n", installation.config());
    fs::write(installation.path("logging.yaml"), config).expect("a file");
    let run = installation.run_bare(&["--config", "logging.yaml"]);
    run.assert_code(74)
        .assert_line_with(&["[ERROR] cannot open log.path /nowhere/at/all.log", "choose a path"]);
}

#[test]
fn under_journald_the_priority_stands_where_the_time_was() {
    let installation = one_blob();
    let path = installation.path("journal");
    let journal = fs::File::create(&path).expect("a file");
    let stream = {
        let metadata = journal.metadata().expect("a file");
        format!("{}:{}", metadata.dev(), metadata.ino())
    };
    let config = installation.config_file();
    let mut command = installation.command(&["--config", config.to_str().expect("text")]);
    command.env("JOURNAL_STREAM", stream).stderr(Stdio::from(journal));
    assert!(command.status().expect("a program").success());
    let lines = whole_lines(&path);
    assert!(
        lines.contains(&"<6>[INFO] Done! Blobs found: 1 | Blobs successful: 1 | Logs saved: 3".to_owned()),
        "{lines:?}"
    );
    assert!(lines.iter().all(|line| line.starts_with('<')), "{lines:?}");

    let mut command = installation.command(&["--config", config.to_str().expect("text")]);
    let run = Run::of(command.env("JOURNAL_STREAM", "1:2"));
    run.assert_line("[WARN] No new blobs found");
}

#[test]
fn nothing_of_a_record_or_a_token_reaches_the_log() {
    let installation = one_blob();
    let body = r#"[{"Id":"00000000-0000-4000-8000-000000000001","password":hunter2}]"#;
    installation.contoso.add_blob("DLP.All", NewBlob::body(body).created(hours_ago(2)));
    let run = installation.run(&["--verbose"]);
    run.assert_code(1).assert_line_with(&["[ERROR] Blob download failed", "not one whole JSON array"]);
    assert!(!run.stderr.contains("hunter2") && !run.stderr.contains("Bearer"), "{run}");
}
