//! The fixed lines of the log, which alerts match, and where the log is written.

use std::{fs, os::unix::fs::MetadataExt, process::Stdio};

use jiff::Timestamp;
use serde_json::Value;
use simulator::{ApiError, CONTENT_TYPES, Fault, LoginError, NewBlob, Operation, Requests};

use crate::support::{Installation, Run, hours_ago, set_mode, whole_lines};

/// Contoso with one blob of three records, two hours old.
fn one_blob() -> Installation {
    let installation = Installation::new();
    let created = hours_ago(2);
    installation.contoso.add_blob("Audit.General", NewBlob::records(3).created(created));
    installation
}

#[test]
fn a_first_pass_logs_logins_subscriptions_and_totals() {
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
fn a_pass_without_new_blobs_logs_a_warning() {
    let installation = Installation::new();
    installation
        .run(&[])
        .assert_code(0)
        .assert_line("[WARN] No new blobs found")
        .assert_line("[INFO] Done! Blobs found: 0 | Blobs successful: 0 | Logs saved: 0");
}

#[test]
fn a_failed_login_logs_tenant_cause_and_hint() {
    let installation = one_blob();
    installation.contoso.settings(|settings| settings.login_error = Some(LoginError::ExpiredSecret));
    installation.run(&[]).assert_code(77).assert_line_with(&[
        "[ERROR] Authentication failed for contoso: AADSTS7000222 the client secret has expired; create a new one under \
         Certificates & secrets",
    ]);
    assert_eq!(
        installation.simulator.count(Operation::Login),
        1,
        "a login with a wrong secret is not retried"
    );
}

#[test]
fn a_failed_subscription_logs_tenant_cause_and_hint() {
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
fn verbose_logs_the_balance_of_each_feed() {
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
fn warns_if_a_pass_takes_longer_than_its_interval() {
    let installation = one_blob();
    installation.simulator.set_latency(std::time::Duration::from_millis(300));
    let config = format!("interval: 1s\n{}", installation.config());
    fs::write(installation.path("each-second.yaml"), config).expect("a file");
    let run = installation.run_bare(&["-c", "each-second.yaml"]);
    run.assert_code(0).assert_line_with(&["[WARN] The pass took", "longer than its interval of 1 s"]);
    let run = installation.run(&[]);
    assert!(!run.stderr.contains("longer than its interval"), "{run}");
}

#[test]
fn quiet_logs_only_errors() {
    let installation = one_blob();
    assert_eq!(installation.run(&["--quiet"]).assert_code(0).stderr, "");
    assert_eq!(installation.run(&["-q"]).assert_code(0).stderr, "");
    installation.contoso.add_blob("DLP.All", NewBlob::body("[").created(hours_ago(2)));
    let run = installation.run(&["-q"]);
    run.assert_code(1);
    assert!(run.log().iter().all(|line| line.starts_with("[ERROR] ")) && !run.stderr.is_empty(), "{run}");
}

#[test]
fn writes_the_log_to_the_configured_file() {
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
fn fails_if_the_log_file_cannot_be_written() {
    let installation = one_blob();
    let config = format!("{}log:\n  path: /nowhere/at/all.log\n", installation.config());
    fs::write(installation.path("logging.yaml"), config).expect("a file");
    let run = installation.run_bare(&["--config", "logging.yaml"]);
    run.assert_code(74)
        .assert_line_with(&["[ERROR] cannot open log.path /nowhere/at/all.log", "choose a path"]);
}

#[test]
fn writes_a_priority_instead_of_the_time_under_journald() {
    let installation = one_blob();
    let path = installation.path("journal");
    let journal = fs::File::create(&path).expect("a file");
    let stream = {
        let metadata = journal.metadata().expect("a file");
        format!("{}:{}", metadata.dev(), metadata.ino())
    };
    let mut pass = installation.pass();
    Run::of(pass.env("JOURNAL_STREAM", stream).stderr(Stdio::from(journal))).assert_code(0);
    let lines = whole_lines(&path);
    assert!(
        lines.contains(&"<6>[INFO] Done! Blobs found: 1 | Blobs successful: 1 | Logs saved: 3".to_owned()),
        "{lines:?}"
    );
    assert!(lines.iter().all(|line| line.starts_with('<')), "{lines:?}");

    // The variable names another stream, so standard error is not the journal.
    Run::of(installation.pass().env("JOURNAL_STREAM", "1:2")).assert_line("[WARN] No new blobs found");
}

#[test]
fn logs_no_part_of_a_record_or_token() {
    let installation = one_blob();
    let body = r#"[{"Id":"00000000-0000-4000-8000-000000000001","password":hunter2}]"#;
    installation.contoso.add_blob("DLP.All", NewBlob::body(body).created(hours_ago(2)));
    let run = installation.run(&["--verbose"]);
    run.assert_code(1).assert_line_with(&["[ERROR] Blob download failed", "not one whole JSON array"]);
    assert!(!run.stderr.contains("hunter2") && !run.stderr.contains("Bearer"), "{run}");
}

/// The lines of a JSON log, each of which must be an object with a time, a level and a message.
#[track_caller]
fn objects(log: &str) -> Vec<Value> {
    let object = |line: &str| {
        let object: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let text = |name: &str| object[name].as_str().unwrap_or_else(|| panic!("no {name} in {line}"));
        text("time").parse::<Timestamp>().expect("a time");
        assert!(["ERROR", "WARN", "INFO", "DEBUG"].contains(&text("level")), "{line}");
        assert!(line.starts_with(r#"{"time":"#) && !text("message").is_empty(), "{line}");
        object
    };
    log.lines().map(object).collect()
}

/// The installation's configuration with `log.format: json`.
fn json_config(installation: &Installation) -> String {
    let path = installation.path("json.yaml");
    fs::write(&path, format!("{}log: {{ format: json }}\n", installation.config())).expect("a file");
    set_mode(&path, 0o600);
    path.to_str().expect("text").to_owned()
}

#[test]
fn in_json_each_line_has_the_message_of_the_text() {
    let (installation, fabrikam) = Installation::with_fabrikam();
    for tenant in [&installation.contoso, &fabrikam] {
        for content_type in CONTENT_TYPES {
            tenant.subscribe(content_type);
        }
    }
    let contoso = &installation.contoso;
    contoso.add_blob("Audit.General", NewBlob::records(3).created(hours_ago(2)));
    contoso.add_blob("DLP.All", NewBlob::body("[").created(hours_ago(2)));
    fabrikam.settings(|settings| settings.login_error = Some(LoginError::ExpiredSecret));
    let text = installation.run(&["-v"]);
    text.assert_code(1)
        .assert_line_with(&["[WARN] Retrying blob download"])
        .assert_line_with(&["[ERROR] Authentication failed"]);
    for folder in ["state", "output"] {
        fs::remove_dir_all(installation.path(folder)).expect("a folder of the pass");
    }
    let json = installation.run_bare(&["-v", "-c", &json_config(&installation)]);
    json.assert_code(1);
    let message = |object: &Value| {
        let text = |name: &str| object[name].as_str().expect("a text").to_owned();
        format!("[{}] {}", text("level"), text("message"))
    };
    let mut in_json: Vec<_> = objects(&json.stderr).iter().map(message).collect();
    let mut in_text: Vec<_> = text.log().iter().map(|line| (*line).to_owned()).collect();
    in_json.sort();
    in_text.sort();
    assert_eq!(in_json, in_text);
}

#[test]
fn in_json_tenant_feed_and_blob_are_fields_of_the_lines_about_them() {
    let installation = Installation::new();
    let contoso = &installation.contoso;
    let blob = contoso.add_blob("DLP.All", NewBlob::body("[").created(hours_ago(2)));
    contoso.add_blob("Audit.General", NewBlob::records(3).created(hours_ago(2)));
    let run = installation.run_bare(&["-v", "-c", &json_config(&installation)]);
    let objects = objects(&run.assert_code(1).stderr);
    for (phrase, feed, id) in [
        ("Blob download failed for contoso dlp.all", Some("DLP.All"), Some(blob.content_id())),
        ("Retrying blob download for contoso dlp.all", Some("DLP.All"), Some(blob.content_id())),
        ("Subscribed to feed audit.exchange", Some("Audit.Exchange"), None),
        ("Balance of contoso Audit.General", Some("Audit.General"), None),
        ("Successfully logged in", None, None),
    ] {
        let is_it = |object: &&Value| object["message"].as_str().is_some_and(|text| text.starts_with(phrase));
        let object = objects.iter().find(is_it).unwrap_or_else(|| panic!("no {phrase} in {run}"));
        let field = |name: &str| object.get(name).and_then(Value::as_str);
        assert_eq!((field("tenant"), field("feed"), field("blob")), (Some("contoso"), feed, id), "{object}");
    }
    let done = objects.last().expect("a line");
    assert_eq!(
        done["message"],
        "Done! Blobs found: 2 | Blobs successful: 1 | Blobs failed: 1 | Blobs retried: 1 | Logs saved: 3"
    );
    assert_eq!(done.as_object().map(serde_json::Map::len), Some(3), "{done}");
}

#[test]
fn in_json_under_journald_the_priority_precedes_the_object() {
    let installation = one_blob();
    let path = installation.path("journal");
    let journal = fs::File::create(&path).expect("a file");
    let metadata = journal.metadata().expect("a file");
    let mut command = installation.command(&["-c", &json_config(&installation)]);
    command.env("JOURNAL_STREAM", format!("{}:{}", metadata.dev(), metadata.ino()));
    assert!(command.stderr(Stdio::from(journal)).status().expect("a program").success());
    let lines = whole_lines(&path);
    let stripped = lines.iter().map(|line| line.strip_prefix("<6>").unwrap_or_else(|| panic!("{line}")));
    let stripped = stripped.collect::<Vec<_>>().join("\n");
    assert_eq!(objects(&stripped).len(), lines.len());
}

#[test]
fn in_json_mistakes_of_the_configuration_are_objects_too() {
    let installation = Installation::new();
    let config = format!("{}log: {{ format: json }}\nintervall: 5m\n", installation.config());
    let path = installation.path("mistakes.yaml");
    fs::write(&path, config).expect("a file");
    set_mode(&path, 0o600);
    let run = installation.run_bare(&["-c", "mistakes.yaml"]);
    let objects = objects(&run.assert_code(78).stderr);
    assert_eq!(objects.len(), 1, "{run}");
    assert!(objects[0]["message"].as_str().is_some_and(|text| text.contains("did you mean")), "{run}");
}

#[test]
fn in_json_a_panic_is_an_object() {
    let installation = one_blob();
    let config = json_config(&installation);
    let mut command = installation.command(&["-c", &config]);
    let (has_occurred, run) = installation.run_command_with_fault(&mut command, "12:panic");
    assert!(has_occurred && run.code == Some(101), "{run}");
    let panics = objects(&run.stderr);
    let panics: Vec<_> = panics.iter().filter(|object| object["level"] == "ERROR").collect();
    assert_eq!(panics.len(), 1, "{run}");
    let message = panics[0]["message"].as_str().expect("a message");
    assert!(message.starts_with("The program ends because of a bug: panicked at src/disk"), "{message}");
    assert!(message.ends_with("a fault\nof the disk"), "{message}");
    let after = installation.run_bare(&["-c", &config]);
    assert_eq!(after.code, Some(0), "{after}");
    installation.assert_delivered_once([(&installation.contoso, "Audit.General")]);
}

#[test]
fn in_json_a_log_file_and_standard_error_both_have_objects() {
    let installation = one_blob();
    let path = installation.path("collector.log");
    installation.contoso.add_blob("DLP.All", NewBlob::body("[").created(hours_ago(2)));
    let config = format!("{}log: {{ path: collector.log, format: json }}\n", installation.config());
    fs::write(installation.path("logging.yaml"), config).expect("a file");
    let run = installation.run_bare(&["-c", "logging.yaml"]);
    let errors = objects(&run.assert_code(1).stderr);
    assert!(!errors.is_empty() && errors.iter().all(|object| object["level"] == "ERROR"), "{run}");
    let written = objects(&(whole_lines(&path).join("\n")));
    assert!(errors.iter().all(|error| written.iter().any(|object| object["message"] == error["message"])));
}
