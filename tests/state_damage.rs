//! Damaged or missing state: the pass reports it and keeps collecting.

use std::fs;

use simulator::NewBlob;

use crate::support::{Installation, Run, hours_ago, mode};

const FEED: &str = "Audit.General";

/// Returns an installation after a pass that delivered two blobs.
fn after_a_pass() -> Installation {
    let installation = Installation::new();
    installation.contoso.add_blobs(FEED, 2, 3, hours_ago(5)..hours_ago(2));
    installation.run(&[]).assert_code(0);
    installation
}

/// Runs a pass with one more blob, and asserts that each record is delivered once.
#[track_caller]
fn assert_keeps_collecting(installation: &Installation) -> Run {
    installation.contoso.add_blob(FEED, NewBlob::records(2).created(hours_ago(2)));
    let run = installation.run(&[]);
    run.assert_code(0);
    installation.assert_delivered_once([(&installation.contoso, FEED)]);
    run
}

#[test]
fn moves_unreadable_lines_of_known_blobs_to_another_file_and_reports_them() {
    let installation = after_a_pass();
    let path = installation.path("state/known_blobs");
    let text = fs::read_to_string(&path).expect("a file");
    fs::write(&path, format!("not a blob\n{text}")).expect("a file");
    let run = assert_keeps_collecting(&installation);
    run.assert_line_with(&["[WARN] Line 1 of", "known_blobs", "known_blobs.unreadable"]);
    assert_eq!(fs::read(installation.path("state/known_blobs.unreadable")).expect("a file"), b"not a blob\n");
    assert_eq!(installation.known_blobs().len(), 3);
}

#[test]
fn removes_a_torn_last_line_of_known_blobs() {
    let installation = after_a_pass();
    let path = installation.path("state/known_blobs");
    let text = fs::read_to_string(&path).expect("a file");
    fs::write(&path, format!("{text}20261122101500,2026-1")).expect("a file");
    assert_keeps_collecting(&installation).assert_line_with(&["[WARN] The last line of", "is torn"]);
    assert_eq!(installation.known_blobs().len(), 3);
}

#[test]
fn drops_repeated_records_if_known_blobs_is_missing() {
    for text in [None, Some("")] {
        let installation = after_a_pass();
        let path = installation.path("state/known_blobs");
        fs::remove_file(&path).expect("a file");
        if let Some(text) = text {
            fs::write(&path, text).expect("a file");
        }
        assert_keeps_collecting(&installation);
    }
}

#[test]
fn collects_everything_again_if_the_state_is_missing() {
    let installation = after_a_pass();
    fs::remove_dir_all(installation.path("state")).expect("a folder");
    installation.run(&[]).assert_code(0);
    assert!(installation.delivered_ids().values().all(|&count| count == 2));
}

#[test]
fn moves_state_of_a_later_version_to_another_file() {
    for name in ["progress", "journal"] {
        let installation = after_a_pass();
        let text = "{\"version\":99}\n{\"something\":\"new\"}\n";
        fs::write(installation.path("state").join(name), text).expect("a file");
        assert_keeps_collecting(&installation).assert_line_with(&["[WARN]", name, "later version"]);
        let moved = installation.path("state").join(format!("{name}.unreadable"));
        assert_eq!(fs::read_to_string(&moved).expect("a file"), text);
        assert_eq!(mode(&moved), 0o600, "{name}");
    }
}

#[test]
fn keeps_collecting_with_garbage_in_the_other_state_files() {
    for garbage in [&b"\xff\x00garbage"[..], b"", b"{}\n", b"{\"version\":1}\n{\"torn"] {
        let installation = after_a_pass();
        for name in ["progress", "journal", "record_ids/1999-01-01T00.file", "record_ids/9999-01-01T00.file"]
        {
            fs::write(installation.path("state").join(name), garbage).expect("a file");
        }
        assert_keeps_collecting(&installation);
    }
}

#[test]
fn reports_a_damaged_journal_but_not_a_torn_last_line() {
    for (rest, is_reported) in [("{\"torn", false), ("garbage\n{\"torn", true)] {
        let installation = after_a_pass();
        fs::write(installation.path("state/journal"), format!("{{\"version\":1}}\n{rest}")).expect("a file");
        let run = assert_keeps_collecting(&installation);
        assert_eq!(run.stderr.contains("journal is damaged"), is_reported, "{rest}: {run}");
    }
}

#[test]
fn leaves_other_files_in_record_ids_alone() {
    let installation = after_a_pass();
    let folder = installation.path("state/record_ids");
    fs::create_dir(folder.join(".d")).expect("a folder");
    fs::write(folder.join("1999.bak"), "a copy of the administrator").expect("a file");
    assert_keeps_collecting(&installation);
    assert!(folder.join(".d").exists() && folder.join("1999.bak").exists());
}

#[test]
fn rejects_metrics_paths_that_are_state_files() {
    let installation = after_a_pass();
    let mut names = Vec::new();
    for entry in
        fs::read_dir(installation.path("state")).expect("a folder").map(|entry| entry.expect("a file"))
    {
        if entry.path().is_dir() {
            continue;
        }
        let config = format!("{}metrics: {{ path: {} }}\n", installation.config(), entry.path().display());
        fs::write(installation.path("shared.yaml"), config).expect("a file");
        let run = installation.run_bare(&["-c", "shared.yaml"]);
        run.assert_code(78).assert_line_with(&["metrics.path", "is also a file of the state"]);
        names.push(entry.file_name());
    }
    assert_eq!(names.len(), 4, "{names:?}");
}

#[test]
fn status_reports_a_damaged_file_and_keeps_it() {
    let installation = after_a_pass();
    let path = installation.path("state/progress");
    fs::write(&path, "garbage").expect("a file");
    let run = installation.run(&["status"]);
    assert!(run.stderr.contains("is damaged; it is ignored") && path.exists(), "{run}");
}

#[test]
fn exits_with_74_if_a_state_file_is_a_folder() {
    for name in ["known_blobs", "journal", "progress"] {
        let installation = Installation::new();
        fs::create_dir_all(installation.path("state").join(name)).expect("a folder");
        installation.run(&[]).assert_code(74).assert_line_with(&["[ERROR] cannot", name]);
    }
}
