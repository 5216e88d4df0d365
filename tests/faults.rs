//! Disk faults. A test makes the first step of a pass on the disk fail, then the second, and so on, until a pass ends before
//! it reaches the step. After each fault: the exit code is right, every line is whole, the next pass loses and duplicates no
//! record, and one more pass changes nothing.

use std::fs;

use simulator::{NewBlob, record};

use crate::support::{CONTOSO, Installation, hours_ago, process::disk_steps};

const FEEDS: [&str; 2] = ["Audit.General", "DLP.All"];

/// Makes each step fail in turn; with `and_after`, all later steps too.
fn fail_each_step(kind: &str, and_after: bool) {
    let mut faults = 0;
    for step in disk_steps() {
        let installation = Installation::new().collect("maxThreads: 4");
        let contoso = &installation.contoso;
        let records: Vec<_> = (0..9).map(|seed| record(FEEDS[0], CONTOSO, hours_ago(5), seed)).collect();
        contoso.add_blob(FEEDS[0], NewBlob::texts(&records[..3]).created(hours_ago(4)));
        installation.run(&[]).assert_code(0);
        let without_id = [r#"{"Operation":"x"}"#, r#"{"Operation":"x"}"#];
        contoso.add_blob(FEEDS[0], NewBlob::texts(without_id).created(hours_ago(3)));
        contoso.add_blob(FEEDS[0], NewBlob::texts(&records[3..6]).created(hours_ago(3)));
        contoso.add_blob(FEEDS[1], NewBlob::texts(&records[6..]).created(hours_ago(3)));

        let fault = format!("{step}{}:{kind}", if and_after { "+" } else { "" });
        let (is_reached, run) = installation.run_with_fault(&fault);
        if !is_reached {
            run.assert_code(0);
            break;
        }
        faults += 1;
        match run.code {
            None if kind.starts_with("kill") => {}
            Some(74) if !kind.starts_with("kill") => {
                run.assert_line_with(&["[ERROR]"]);
            }
            // The line of the history is no reason to fail.
            Some(0) if !kind.starts_with("kill") && run.stderr.contains("The history lacks this pass") => {}
            _ => panic!("{fault}: {run}"),
        }
        installation.output(); // panics if a line is not whole

        let after = installation.run(&[]);
        assert_eq!(after.code, Some(0), "the pass after {fault}: {after}");
        eprintln!("{fault}");
        installation.assert_lines_delivered_once(FEEDS.map(|feed| (contoso, feed)));
        let output = installation.output();
        installation.run(&[]).assert_code(0).assert_line("[WARN] No new blobs found");
        assert_eq!(installation.output(), output, "{fault}: one more pass changes nothing");
    }
    assert!(faults > 20, "a pass takes more than {faults} steps on the disk");
}

#[test]
fn a_kill_before_any_disk_step_loses_and_duplicates_nothing() {
    fail_each_step("kill-before", false);
}

#[test]
fn a_kill_after_any_disk_step_loses_and_duplicates_nothing() {
    fail_each_step("kill-after", false);
}

#[test]
fn a_full_disk_loses_and_duplicates_nothing() {
    fail_each_step("full", false);
    fail_each_step("full", true);
}

#[test]
fn a_short_write_loses_and_duplicates_nothing() {
    fail_each_step("short", false);
    fail_each_step("short", true);
}

#[test]
fn a_broken_disk_loses_and_duplicates_nothing() {
    fail_each_step("broken", false);
    fail_each_step("broken", true);
}

#[test]
fn a_full_disk_after_a_killed_pass_duplicates_nothing() {
    let records: Vec<_> = (0..4).map(|seed| record(FEEDS[0], CONTOSO, hours_ago(5), seed)).collect();
    let installation = || {
        let installation =
            Installation::new().setting(&format!("subscriptions: [ {} ]", FEEDS[0])).collect("maxThreads: 4");
        installation.contoso.add_blob(FEEDS[0], NewBlob::texts(&records[..3]).created(hours_ago(3)));
        installation
    };
    let has_orphans = |step: &u32| {
        let installation = installation();
        installation.run_with_fault(&format!("{step}:kill-before"));
        installation.output().into_values().any(|lines| !lines.is_empty())
    };
    let kill = disk_steps().find(has_orphans).expect("a pass writes records before it commits them");
    for step in disk_steps() {
        let installation = installation();
        installation.run_with_fault(&format!("{kill}:kill-before"));
        // The killed pass has left all but the last record in the file, so this pass writes only that one.
        installation.contoso.add_blob(FEEDS[0], NewBlob::texts(&records).created(hours_ago(3)));
        let (is_reached, run) = installation.run_with_fault(&format!("{step}:full"));
        if !is_reached {
            run.assert_code(0);
            break;
        }
        let after = installation.run(&[]);
        assert_eq!(after.code, Some(0), "the pass after a full disk at step {step}: {after}");
        eprintln!("{step}");
        installation.assert_delivered_once([(&installation.contoso, FEEDS[0])]);
    }
}

#[test]
fn reports_a_killed_pass_once() {
    for step in disk_steps() {
        let installation = Installation::new().collect("maxThreads: 4");
        installation.contoso.add_blob(FEEDS[0], NewBlob::records(3).created(hours_ago(3)));
        let (is_reached, _) = installation.run_with_fault(&format!("{step}:kill-after"));
        if !is_reached {
            break;
        }
        installation.run(&[]).assert_code(0);
        let run = installation.run(&[]);
        assert!(!run.stderr.contains("An earlier pass was interrupted"), "killed after step {step}: {run}");
        let journal = fs::read_to_string(installation.path("state/journal")).expect("a file");
        assert_eq!(journal, "{\"version\":1}\n", "killed after step {step}");
    }
}

#[test]
fn does_not_report_a_failed_state_as_a_failed_output() {
    let mut ended_early = 0;
    for step in disk_steps() {
        // The start of the subscription is written to the state during the pass.
        let installation =
            Installation::new().setting("subscriptions: [ Audit.General ]").collect("maxThreads: 4");
        installation.contoso.add_blob(FEEDS[0], NewBlob::records(3).created(hours_ago(3)));
        let (is_reached, run) = installation.run_with_fault(&format!("{step}:broken"));
        if !is_reached {
            break;
        }
        if !run.stderr.contains("[ERROR] Output ") {
            assert!(!run.stderr.contains("No output is left"), "the fault at step {step}: {run}");
            ended_early += usize::from(run.stderr.contains("[WARN] The state failed: "));
        }
    }
    assert!(ended_early > 0, "a pass ends early because the state failed");
}
