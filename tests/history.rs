//! The history: a line for each pass, whatever becomes of it.

use std::{fs, os::unix::fs::MetadataExt};

use rustix::process::Signal;
use serde_json::Value;
use simulator::{Fault, LoginError, NewBlob, Operation, Requests};

use crate::support::{
    CONTOSO, FABRIKAM, Installation, Run, hours_ago, mode,
    process::{signal, wait_until},
    whole_lines,
};

const FEED: &str = "Audit.General";

/// The lines of the history.
fn history(installation: &Installation) -> Vec<Value> {
    let lines = whole_lines(&installation.path("state/history"));
    lines.iter().map(|line| serde_json::from_str(line).expect("an object")).collect()
}

/// Contoso with one blob of three records.
fn one_blob() -> Installation {
    let installation = Installation::new();
    installation.contoso.add_blob(FEED, NewBlob::records(3).created(hours_ago(2)));
    installation
}

#[test]
fn each_pass_adds_a_line_with_what_it_did() {
    let installation = one_blob();
    installation.run(&[]).assert_code(0);
    installation.contoso.add_blob("DLP.All", NewBlob::body("[").created(hours_ago(2)));
    installation.run(&[]).assert_code(1);
    let lines = history(&installation);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!(mode(&installation.path("state/history")), 0o600);
    for (line, exit, quiet) in [(&lines[0], 0, 4), (&lines[1], 1, 4)] {
        assert_eq!(
            (&line["version"], &line["exit"], &line["quiet"]),
            (&1.into(), &exit.into(), &quiet.into())
        );
        line["start"].as_str().and_then(|time| time.parse::<jiff::Timestamp>().ok()).expect("a time");
        assert!(line["seconds"].as_f64().is_some_and(|seconds| (0.0..120.0).contains(&seconds)), "{line}");
        assert!(line["lag"].as_i64().is_some_and(|lag| (0..300).contains(&lag)), "{line}");
    }
    let delivered = &lines[0]["tenants"][CONTOSO][FEED];
    assert_eq!((&delivered["blobs"], &delivered["records"]), (&1.into(), &3.into()), "{}", lines[0]);
    assert_eq!(lines[1]["tenants"][CONTOSO]["DLP.All"]["failures"], 1, "{}", lines[1]);
    assert_eq!(lines[1]["tenants"].as_object().map(serde_json::Map::len), Some(1), "{}", lines[1]);
}

#[test]
fn a_tenant_that_cannot_log_in_has_a_failure_in_each_feed() {
    let (installation, fabrikam) = Installation::with_fabrikam();
    fabrikam.settings(|settings| settings.login_error = Some(LoginError::ExpiredSecret));
    installation.run(&[]).assert_code(1);
    let lines = history(&installation);
    let feeds = lines[0]["tenants"][FABRIKAM].as_object().expect("feeds");
    assert_eq!(feeds.len(), 5, "{}", lines[0]);
    assert!(feeds.values().all(|feed| feed["failures"] == 1), "{}", lines[0]);
    installation.run(&["--tenant", "contoso"]).assert_code(0);
    let lines = history(&installation);
    assert_eq!((&lines[0]["restricted"], &lines[1]["restricted"]), (&Value::Null, &true.into()));
}

#[test]
fn a_pass_that_fails_as_a_whole_adds_a_line_too() {
    let installation = one_blob();
    installation.contoso.settings(|settings| settings.login_error = Some(LoginError::WrongSecret));
    installation.run(&[]).assert_code(77);
    let metrics = "metrics: { path: /nowhere/office365.prom }";
    fs::write(installation.path("metrics.yaml"), format!("{}{metrics}\n", installation.config()))
        .expect("a file");
    installation.contoso.settings(|settings| settings.login_error = None);
    installation.run_bare(&["-c", "metrics.yaml"]).assert_code(74);
    fs::remove_file(installation.path("state/journal")).expect("a file");
    fs::create_dir(installation.path("state/journal")).expect("a folder");
    installation.run(&[]).assert_code(74);
    let exits: Vec<_> = history(&installation).iter().map(|line| line["exit"].as_u64()).collect();
    assert_eq!(exits, [Some(77), Some(74), Some(74)]);
}

#[test]
fn a_pass_that_sigterm_ends_adds_a_line_too() {
    let installation = one_blob();
    let stalled =
        installation.simulator.fault(Requests::to(Operation::FetchBlob).always(), Fault::stall(None));
    let child = installation.pass().spawn().expect("the program starts");
    wait_until("the download is requested", || stalled.fired() > 0);
    signal(&child, Signal::TERM);
    Run::finish(child).assert_code(143);
    let lines = history(&installation);
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["exit"], 143);
    let failures = lines[0]["tenants"][CONTOSO][FEED].get("failures");
    assert_eq!(failures, None, "what is left for later has not failed: {}", lines[0]);
}

#[test]
fn what_collects_nothing_adds_no_line() {
    let installation = one_blob();
    for arguments in [&["--dry-run"][..], &["--stdout"], &["check"], &["schedule", "cron"]] {
        installation.run(arguments).assert_code(0);
    }
    installation.run(&["status"]).assert_code(1);
    assert!(!installation.path("state/history").exists());
    installation.run(&[]).assert_code(0);
    let lock = fs::File::open(installation.path("state/known_blobs")).expect("a file");
    fs2::FileExt::lock_exclusive(&lock).expect("a free lock");
    installation.run(&[]).assert_code(75);
    assert_eq!(history(&installation).len(), 1, "the other pass writes its own line");
}

#[test]
fn a_history_that_cannot_be_written_is_a_warning() {
    let installation = one_blob();
    fs::create_dir_all(installation.path("state/history")).expect("a folder");
    installation
        .run(&[])
        .assert_code(0)
        .assert_line_with(&[
            "[WARN] The history lacks this pass, which is otherwise not affected: cannot open",
        ])
        .assert_line("[INFO] Done! Blobs found: 1 | Blobs successful: 1 | Logs saved: 3");
    installation.assert_delivered_once([(&installation.contoso, FEED)]);
}

#[test]
fn damaged_lines_are_skipped_and_a_torn_one_is_ended() {
    let installation = one_blob();
    installation.run(&[]).assert_code(0);
    let path = installation.path("state/history");
    let line = fs::read_to_string(&path).expect("a file");
    fs::write(&path, format!("{line}garbage\n{}", &line[..20])).expect("a file");
    installation.run(&[]).assert_code(0);
    let lines = whole_lines(&path);
    assert_eq!(lines.len(), 4);
    assert!(serde_json::from_str::<Value>(&lines[3]).is_ok(), "{lines:?}");
    installation.run(&["status"]).assert_code(0);
}

#[test]
fn a_history_that_is_too_long_is_replaced_with_the_same_mode() {
    let installation = one_blob();
    installation.run(&[]).assert_code(0);
    let path = installation.path("state/history");
    let line = fs::read_to_string(&path).expect("a file");
    fs::write(&path, line.repeat(20_000)).expect("a file");
    let before = fs::metadata(&path).expect("a file");
    installation.run(&[]).assert_code(0);
    let after = fs::metadata(&path).expect("a file");
    assert_eq!(whole_lines(&path).len(), 18_000);
    assert_eq!((after.mode(), after.uid(), after.gid()), (before.mode(), before.uid(), before.gid()));
}

#[test]
fn status_shows_the_last_24_hours_and_the_usual_lag() {
    let installation = Installation::new();
    installation.run(&[]).assert_code(0);
    let line = |minutes: i64, lag: i64, feed: &str| {
        let start = jiff::Timestamp::now() - jiff::SignedDuration::from_mins(minutes);
        format!(
            "{{\"version\":1,\"start\":\"{start}\",\"seconds\":1.5,\"exit\":0,\"quiet\":4,\"lag\":{lag},\
             \"tenants\":{{\"{CONTOSO}\":{{\"{FEED}\":{feed}}}}}}}\n"
        )
    };
    let history = [
        line(25 * 60, 3, r#"{"blobs":9,"records":900,"lag":100}"#),
        line(90, 4, r#"{"blobs":1,"records":30,"lag":200}"#),
        line(60, 5, r#"{"blobs":1,"records":12,"failures":2,"lag":300}"#),
    ];
    fs::write(installation.path("state/history"), history.concat()).expect("a file");
    let run = installation.run(&["status", "--json"]);
    let feeds: Vec<Value> = serde_json::from_str(&run.assert_code(0).stdout).expect("an array");
    for feed in &feeds {
        let sum = |name: &str| {
            let hours = feed[name].as_array().expect("hours");
            assert_eq!(hours.len(), 24, "{feed}");
            hours.iter().filter_map(Value::as_u64).sum::<u64>()
        };
        let is_described = feed["content_type"] == FEED;
        let (usual, records, failures) = if is_described { (200, 42, 2) } else { (4, 0, 0) };
        assert_eq!(feed["usual_lag_seconds"], usual, "{feed}");
        assert_eq!((sum("records_by_hour"), sum("failures_by_hour")), (records, failures), "{feed}");
    }
    let table = installation.run(&["status"]).stdout;
    let line = table.lines().find(|line| line.contains(FEED)).expect("the feed");
    assert!(line.contains('·') && line.contains(" 42 ") && line.contains(" 3m "), "{table}");
}
