//! Damaged state: a clear message where one helps, and collection goes on.

use std::fs;

use simulator::NewBlob;

use crate::support::{Installation, hours_ago, mode};

const FEED: &str = "Audit.General";

/// Contoso after a pass with two blobs.
fn after_a_pass() -> Installation {
    let installation = Installation::new();
    installation.contoso.add_blobs(FEED, 2, 3, hours_ago(5)..hours_ago(2));
    installation.run(&[]).assert_code(0);
    installation
}

/// A further blob is collected, and nothing is delivered twice.
#[track_caller]
fn assert_goes_on(installation: &Installation) -> crate::support::Run {
    installation.contoso.add_blob(FEED, NewBlob::records(2).created(hours_ago(2)));
    let run = installation.run(&[]);
    run.assert_code(0);
    installation.assert_delivered_once([(&installation.contoso, FEED)]);
    run
}

#[test]
fn garbage_in_known_blobs_is_kept_aside_and_reported_by_its_line() {
    let installation = after_a_pass();
    let path = installation.path("state/known_blobs");
    let text = fs::read_to_string(&path).expect("a file");
    fs::write(&path, format!("no blob at all\n{text}")).expect("a file");
    let run = assert_goes_on(&installation);
    run.assert_line_with(&["[WARN] Line 1 of", "known_blobs", "known_blobs.unreadable"]);
    assert_eq!(
        fs::read(installation.path("state/known_blobs.unreadable")).expect("a file"),
        b"no blob at all\n"
    );
    assert_eq!(installation.known_blobs().len(), 3);
}

#[test]
fn a_torn_last_line_is_fixed() {
    let installation = after_a_pass();
    let path = installation.path("state/known_blobs");
    let text = fs::read_to_string(&path).expect("a file");
    fs::write(&path, format!("{text}20261122101500,2026-1")).expect("a file");
    assert_goes_on(&installation).assert_line_with(&["[WARN] The last line of", "is torn"]);
    assert_eq!(installation.known_blobs().len(), 3);
}

#[test]
fn without_known_blobs_its_blobs_are_collected_again_and_their_records_dropped() {
    for text in [None, Some("")] {
        let installation = after_a_pass();
        let path = installation.path("state/known_blobs");
        fs::remove_file(&path).expect("a file");
        if let Some(text) = text {
            fs::write(&path, text).expect("a file");
        }
        assert_goes_on(&installation);
    }
}

#[test]
fn without_any_state_a_pass_collects_again_what_is_available() {
    let installation = after_a_pass();
    fs::remove_dir_all(installation.path("state")).expect("a folder");
    installation.run(&[]).assert_code(0);
    assert!(installation.delivered_ids().values().all(|&count| count == 2));
}

#[test]
fn state_of_a_later_version_is_put_aside() {
    for name in ["progress", "journal"] {
        let installation = after_a_pass();
        let text = "{\"version\":99}\n{\"something\":\"new\"}\n";
        fs::write(installation.path("state").join(name), text).expect("a file");
        assert_goes_on(&installation).assert_line_with(&["[WARN]", name, "later version"]);
        let aside = installation.path("state").join(format!("{name}.unreadable"));
        assert_eq!(fs::read_to_string(&aside).expect("a file"), text);
        assert_eq!(mode(&aside), 0o600, "{name}");
    }
}

#[test]
fn garbage_in_any_other_file_of_the_state_stops_nothing() {
    for garbage in [&b"\xff\x00garbage"[..], b"", b"{}\n", b"{\"version\":1}\n{\"torn"] {
        let installation = after_a_pass();
        for name in ["progress", "journal", "record_ids/1999-01-01T00.file", "record_ids/9999-01-01T00.file"]
        {
            fs::write(installation.path("state").join(name), garbage).expect("a file");
        }
        assert_goes_on(&installation);
    }
}

#[test]
fn a_journal_that_is_damaged_in_its_midst_says_so_and_a_torn_end_is_usual() {
    for (rest, is_said) in [("{\"torn", false), ("garbage\n{\"torn", true)] {
        let installation = after_a_pass();
        fs::write(installation.path("state/journal"), format!("{{\"version\":1}}\n{rest}")).expect("a file");
        let run = assert_goes_on(&installation);
        assert_eq!(run.stderr.contains("journal is damaged"), is_said, "{rest}: {run}");
    }
}

#[test]
fn what_is_none_of_ours_among_the_ids_is_left_alone() {
    let installation = after_a_pass();
    let folder = installation.path("state/record_ids");
    fs::create_dir(folder.join(".d")).expect("a folder");
    fs::write(folder.join("1999.bak"), "mine").expect("a file");
    assert_goes_on(&installation);
    assert!(folder.join(".d").exists() && folder.join("1999.bak").exists());
}

#[test]
fn no_file_of_the_state_can_be_an_outputs_too() {
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
    assert_eq!(names.len(), 3, "{names:?}");
}

#[test]
fn status_says_of_a_damaged_file_no_more_than_it_does() {
    let installation = after_a_pass();
    let path = installation.path("state/progress");
    fs::write(&path, "garbage").expect("a file");
    let run = installation.run(&["status"]);
    assert!(run.stderr.contains("is damaged; it is ignored") && path.exists(), "{run}");
}

#[test]
fn a_folder_where_a_file_should_be_exits_with_74() {
    for name in ["known_blobs", "journal", "progress"] {
        let installation = Installation::new();
        fs::create_dir_all(installation.path("state").join(name)).expect("a folder");
        installation.run(&[]).assert_code(74).assert_line_with(&["[ERROR] cannot", name]);
    }
}
