//! Every step that a pass takes on the disk is made to fail, one after the other, until a pass no longer reaches the
//! fault; after each the same questions: nothing lost, nothing twice, every line whole, the exit code right, and one
//! more pass changes nothing.

use std::fs;

use simulator::{NewBlob, record};

use crate::support::{CONTOSO, Installation, hours_ago, process::disk_steps};

const FEEDS: [&str; 2] = ["Audit.General", "DLP.All"];

/// Strikes at each step in turn. `and_after` strikes at all later steps too.
fn strike_everywhere(kind: &str, and_after: bool) {
    let mut struck = 0;
    for step in disk_steps() {
        let installation = Installation::new().collect("maxThreads: 4");
        let contoso = &installation.contoso;
        let records: Vec<_> = (0..9).map(|seed| record(FEEDS[0], CONTOSO, hours_ago(5), seed)).collect();
        contoso.add_blob(FEEDS[0], NewBlob::texts(&records[..3]).created(hours_ago(4)));
        installation.run(&[]).assert_code(0);
        let nameless = [r#"{"Operation":"x"}"#, r#"{"Operation":"x"}"#];
        contoso.add_blob(FEEDS[0], NewBlob::texts(nameless).created(hours_ago(3)));
        contoso.add_blob(FEEDS[0], NewBlob::texts(&records[3..6]).created(hours_ago(3)));
        contoso.add_blob(FEEDS[1], NewBlob::texts(&records[6..]).created(hours_ago(3)));

        let fault = format!("{step}{}:{kind}", if and_after { "+" } else { "" });
        let (is_struck, run) = installation.run_with_fault(&fault);
        if !is_struck {
            run.assert_code(0);
            break;
        }
        struck += 1;
        match run.code {
            None if kind.starts_with("kill") => {}
            Some(74) if !kind.starts_with("kill") => {
                run.assert_line_with(&["[ERROR]"]);
            }
            _ => panic!("{fault}: {run}"),
        }
        installation.output(); // every line is whole

        let after = installation.run(&[]);
        assert_eq!(after.code, Some(0), "the pass after {fault}: {after}");
        eprintln!("{fault}");
        installation.assert_lines_delivered_once(FEEDS.map(|feed| (contoso, feed)));
        let output = installation.output();
        installation.run(&[]).assert_code(0).assert_line("[WARN] No new blobs found");
        assert_eq!(installation.output(), output, "{fault}: one more pass changes nothing");
    }
    assert!(struck > 20, "a pass takes more than {struck} steps on the disk");
}

#[test]
fn a_kill_before_any_step_loses_nothing_and_doubles_nothing() {
    strike_everywhere("kill-before", false);
}

#[test]
fn a_kill_after_any_step_loses_nothing_and_doubles_nothing() {
    strike_everywhere("kill-after", false);
}

#[test]
fn a_disk_that_is_full_once_or_for_good_loses_nothing_and_doubles_nothing() {
    strike_everywhere("full", false);
    strike_everywhere("full", true);
}

#[test]
fn a_write_cut_short_once_or_for_good_loses_nothing_and_doubles_nothing() {
    strike_everywhere("short", false);
    strike_everywhere("short", true);
}

#[test]
fn a_disk_that_is_broken_once_or_for_good_loses_nothing_and_doubles_nothing() {
    strike_everywhere("broken", false);
    strike_everywhere("broken", true);
}

#[test]
fn what_a_killed_pass_left_is_told_once_and_then_forgotten() {
    for step in disk_steps() {
        let installation = Installation::new().collect("maxThreads: 4");
        installation.contoso.add_blob(FEEDS[0], NewBlob::records(3).created(hours_ago(3)));
        let (is_struck, _) = installation.run_with_fault(&format!("{step}:kill-after"));
        if !is_struck {
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
fn a_state_that_fails_during_a_pass_is_not_reported_as_a_failed_output() {
    let mut ended_early = 0;
    for step in disk_steps() {
        // The start of the subscription is written to the state while the pass goes on.
        let installation = Installation::new().setting("subscriptions: [ Audit.General ]");
        installation.contoso.add_blob(FEEDS[0], NewBlob::records(3).created(hours_ago(3)));
        let (is_struck, run) = installation.run_with_fault(&format!("{step}:broken"));
        if !is_struck {
            break;
        }
        if !run.stderr.contains("[ERROR] Output ") {
            assert!(!run.stderr.contains("No output is left"), "the fault at step {step}: {run}");
            ended_early += usize::from(run.stderr.contains("[WARN] The state failed: "));
        }
    }
    assert!(ended_early > 0, "a pass ends early because the state failed");
}
