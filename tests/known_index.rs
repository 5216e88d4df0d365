//! The index of a large `known_blobs`: what a pass reads of the state, and what happens if the index and the text do not match.

use std::{
    fmt::Write as _,
    fs::{self, FileTimes, OpenOptions},
    io::Write as _,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Stdio,
};

use jiff::Timestamp;
use simulator::{NewBlob, Operation};

use crate::support::{
    CONTOSO, Installation, hours_ago, mode,
    process::{disk_steps, finish_and_count},
};

const FEED: &str = "Audit.General";

/// The number of lines in a file that is large enough for an index.
const LINES: usize = 2_500;

/// Returns lines of 130 bytes for `known_blobs` that name blobs which are not listed any more.
fn lines(count: usize) -> String {
    lines_until("blob", hours_ago(-100), count)
}

fn lines_until(name: &str, expires: Timestamp, count: usize) -> String {
    let end = format!(",{expires:.0},{CONTOSO},{FEED}");
    let mut text = String::new();
    for number in 0..count {
        let _ = writeln!(text, "{name}{number:0>width$}{end}", width = 129 - name.len() - end.len());
    }
    text
}

/// Returns an installation with many known blobs and two new ones.
fn with_known_blobs(count: usize) -> Installation {
    let installation =
        Installation::new().setting("subscriptions: [ Audit.General ]").collect("dedupHours: 0");
    fs::create_dir(installation.path("state")).expect("a folder");
    fs::write(text(&installation), lines(count)).expect("a file");
    installation.contoso.add_blobs(FEED, 2, 3, hours_ago(5)..hours_ago(2));
    installation
}

/// Returns the same after a pass, which has made an index and appended two lines. Repeated records are not recognized, so
/// that each download of a blob is seen.
fn after_a_pass() -> Installation {
    let installation = with_known_blobs(LINES);
    installation.run(&[]).assert_code(0);
    assert_eq!(installation.known_blobs().len(), LINES + 2);
    assert_eq!(indexed(&installation), LINES);
    installation
}

/// Returns the same after another pass, which has made an index that covers the two lines as well.
fn with_an_index_of_all() -> Installation {
    let installation = after_a_pass();
    fs::remove_file(index(&installation)).expect("a file");
    installation.run(&[]).assert_code(0);
    assert_eq!(indexed(&installation), LINES + 2);
    installation
}

fn text(installation: &Installation) -> PathBuf {
    installation.path("state/known_blobs")
}

fn index(installation: &Installation) -> PathBuf {
    installation.path("state/known_blobs_index")
}

/// Returns the number of blobs that a dry run, which changes nothing, looks up in the index.
fn indexed(installation: &Installation) -> usize {
    let run = installation.run(&["--dry-run", "--verbose"]);
    run.assert_code(0);
    let (before, _) = run.stderr.split_once(" of them in the index").expect("a line with the number");
    before.rsplit(' ').next().and_then(|number| number.parse().ok()).expect("a number")
}

/// Asserts that the next passes download each new blob once and no other blob, and use an index again.
#[track_caller]
fn assert_downloads_only_new_blobs(installation: &Installation) {
    let downloads = || installation.simulator.count(Operation::FetchBlob);
    let before = downloads();
    installation.contoso.add_blob(FEED, NewBlob::records(2).created(hours_ago(2)));
    installation.run(&[]).assert_code(0);
    installation.run(&[]).assert_code(0).assert_line("[WARN] No new blobs found");
    assert_eq!(downloads(), before + 1);
    installation.assert_delivered_once([(&installation.contoso, FEED)]);
    assert!(indexed(installation) >= LINES, "an index is used");
}

/// Sets the times of a file to those of an earlier moment, as a program that restores a backup does.
fn restore_times(path: &Path, of: &fs::Metadata) {
    let times = FileTimes::new().set_modified(of.modified().expect("a time"));
    OpenOptions::new().write(true).open(path).and_then(|file| file.set_times(times)).expect("a file");
}

/// Replaces a file by one with another inode.
fn replace(path: &Path, contents: &[u8]) {
    let other = path.with_extension("other");
    fs::write(&other, contents).and_then(|()| fs::rename(&other, path)).expect("a file");
}

/// Runs a pass, and returns the number of bytes that it has read, as the kernel counts them.
fn run_and_count(installation: &Installation) -> u64 {
    let mut command = installation.pass();
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().expect("the program starts");
    let (code, bytes) = finish_and_count(child, "io", "rchar:");
    assert_eq!(code, Some(0));
    bytes
}

#[test]
fn an_idle_pass_reads_little_of_many_known_blobs() {
    let installation = with_known_blobs(40_000);
    let first = run_and_count(&installation);
    assert!(first > 5_000_000, "the first pass reads the text: {first} bytes");
    let idle = run_and_count(&installation);
    let (without, text) =
        (run_and_count(&Installation::new()), fs::read(text(&installation)).expect("a file"));
    assert!(idle < without + 200_000, "{idle} bytes, and {without} without known blobs");
    assert_eq!(mode(&index(&installation)), 0o600);
    assert_eq!(installation.known_blobs().len(), 40_002);
    installation.run(&[]).assert_code(0);
    assert!(fs::read(self::text(&installation)).expect("a file") == text, "an idle pass writes no line");
}

#[test]
fn makes_no_index_of_a_small_file() {
    let installation = with_known_blobs(100);
    installation.run(&[]).assert_code(0);
    assert!(!index(&installation).exists());
}

#[test]
fn a_damaged_index_loses_and_repeats_nothing() {
    let installation = after_a_pass();
    let whole = fs::read(index(&installation)).expect("a file");
    let flipped = |place: usize| {
        let mut bytes = whole.clone();
        bytes[place] ^= 0x10;
        bytes
    };
    // Header: format, salt, counts, stamp; then pages: keys, count, checksum; the directory.
    let places = [0, 9, 25, 100, 143, 4096, 6000, 8190, whole.len() - 5];
    let damaged = places.into_iter().map(flipped).chain([
        Vec::new(),
        b"garbage".to_vec(),
        whole[..100].to_vec(),
        whole[..5000].to_vec(),
        whole[..whole.len() - 1].to_vec(),
        [&whole[..4096], &whole[8192..12288], &whole[4096..8192], &whole[12288..]].concat(),
        [&whole[..], b"more"].concat(),
        [&whole[..4096], &vec![0; whole.len() - 4096]].concat(),
    ]);
    for (number, damaged) in damaged.enumerate() {
        fs::write(index(&installation), damaged).expect("a file");
        eprintln!("damage {number}");
        assert_downloads_only_new_blobs(&installation);
    }
}

#[test]
fn reads_the_text_instead_of_damaged_pages_of_the_index() {
    let installation = with_an_index_of_all();
    let mut bytes = fs::read(index(&installation)).expect("a file");
    bytes[4096..].chunks_exact_mut(4096).for_each(|page| page[100] ^= 1);
    fs::write(index(&installation), bytes).expect("a file");
    let run = installation.run(&["--dry-run"]);
    run.assert_code(0).assert_line_with(&["[WARN] known_blobs_index is damaged", "is read instead"]);
    assert!(index(&installation).exists(), "a dry run changes nothing");
    installation.run(&[]).assert_code(0).assert_line_with(&["[WARN] known_blobs_index is damaged"]);
    assert_downloads_only_new_blobs(&installation);
}

#[test]
fn a_missing_or_older_index_loses_and_repeats_nothing() {
    let installation = after_a_pass();
    let older = fs::read(index(&installation)).expect("a file");
    installation.contoso.add_blobs(FEED, 2, 3, hours_ago(5)..hours_ago(2));
    installation.run(&[]).assert_code(0);
    assert_eq!(indexed(&installation), LINES, "appended lines are read as text");
    fs::write(index(&installation), &older).expect("a file");
    assert_eq!(indexed(&installation), 0, "an index of before the last lines does not count");
    assert_downloads_only_new_blobs(&installation);
    fs::remove_file(index(&installation)).expect("a file");
    assert_downloads_only_new_blobs(&installation);
    let other = after_a_pass();
    fs::copy(index(&other), index(&installation)).expect("a file");
    assert_downloads_only_new_blobs(&installation);
}

#[test]
fn a_blob_whose_line_is_removed_or_changed_is_collected_again() {
    type Edit = fn(&Path, &str, &str);
    let edits: [(&str, Edit); 4] = [
        ("removed", |path, text, line| fs::write(path, text.replacen(line, "", 1)).expect("a file")),
        ("removed, new file", |path, text, line| replace(path, text.replacen(line, "", 1).as_bytes())),
        ("changed in place", |path, text, line| {
            let place = text.find(line).expect("a line") as u64;
            let file = OpenOptions::new().write(true).open(path).expect("a file");
            file.write_all_at(b"another blob", place).expect("a file");
        }),
        ("changed, new file", |path, text, line| {
            let changed = format!("another blob{}", &line[12..]);
            replace(path, text.replacen(line, &changed, 1).as_bytes());
        }),
    ];
    for (name, edit) in edits {
        let installation = with_an_index_of_all();
        let before = fs::metadata(text(&installation)).expect("a file");
        let contents = fs::read_to_string(text(&installation)).expect("a file");
        let line = contents.lines().next_back().expect("the line of a delivered blob");
        edit(&text(&installation), &contents, &format!("{line}\n"));
        restore_times(&text(&installation), &before);
        let downloads = installation.simulator.count(Operation::FetchBlob);
        installation.run(&[]).assert_code(0);
        assert_eq!(installation.simulator.count(Operation::FetchBlob), downloads + 1, "{name}");
    }
}

#[test]
fn an_older_text_of_the_same_size_counts_and_not_the_index() {
    let installation = with_an_index_of_all();
    let backup = fs::read_to_string(text(&installation)).expect("a file");
    let before = fs::metadata(text(&installation)).expect("a file");
    // The last line of the backup is that of another blob.
    let line = backup.lines().next_back().expect("a line");
    let restored = backup.replacen(line, &format!("another blob{}", &line[12..]), 1);
    for restore in [
        |path: &Path, text: &str| replace(path, text.as_bytes()),
        |path: &Path, text: &str| {
            fs::write(path, text).expect("a file");
        },
    ] {
        let downloads = installation.simulator.count(Operation::FetchBlob);
        restore(&text(&installation), &restored);
        restore_times(&text(&installation), &before);
        installation.run(&[]).assert_code(0);
        assert_eq!(installation.simulator.count(Operation::FetchBlob), downloads + 1);
    }
}

#[test]
fn lines_that_an_older_version_writes_count() {
    let installation = after_a_pass();
    let listed = installation.contoso.add_blob(FEED, NewBlob::records(2).created(hours_ago(3)));
    let expires = hours_ago(-100);
    let line = format!("{},{expires:.0},{CONTOSO},{FEED}\n", listed.content_id());
    OpenOptions::new()
        .append(true)
        .open(text(&installation))
        .expect("a file")
        .write_all(line.as_bytes())
        .expect("room");
    let downloads = installation.simulator.count(Operation::FetchBlob);
    installation.run(&[]).assert_code(0);
    // Its compaction replaces the file.
    let rest: Vec<_> = installation.known_blobs().into_iter().skip(10).map(|line| line + "\n").collect();
    replace(&text(&installation), rest.concat().as_bytes());
    installation.run(&[]).assert_code(0);
    assert_eq!(installation.simulator.count(Operation::FetchBlob), downloads);
    assert_eq!(indexed(&installation), LINES + 3 - 10);
}

#[test]
fn merges_appended_lines_into_the_index_once_they_are_many() {
    let installation = after_a_pass();
    for count in [5_000, 15_000] {
        let mut file = OpenOptions::new().append(true).open(text(&installation)).expect("a file");
        file.write_all(lines(count).as_bytes()).expect("room");
        installation.run(&[]).assert_code(0);
        assert_downloads_only_new_blobs(&installation);
    }
    assert!(indexed(&installation) >= 15_000);
}

#[test]
fn removes_expired_lines_with_an_index() {
    let installation = with_known_blobs(LINES);
    let expired = lines_until("expired", hours_ago(100), 6 * LINES);
    fs::write(text(&installation), expired + &lines(LINES)).expect("a file");
    installation.run(&[]).assert_code(0);
    assert_downloads_only_new_blobs(&installation);
    assert_eq!(installation.known_blobs().len(), LINES + 3);
}

#[test]
fn a_fault_at_any_step_with_an_index_loses_and_repeats_nothing() {
    for kind in ["kill-after", "short"] {
        let mut faults = 0;
        for step in disk_steps() {
            let installation = with_known_blobs(LINES).collect("maxThreads: 4");
            if step % 2 == 0 {
                installation.run(&[]).assert_code(0); // so that the pass with the fault finds an index
            }
            installation.contoso.add_blob(FEED, NewBlob::records(3).created(hours_ago(3)));
            let (is_reached, run) = installation.run_with_fault(&format!("{step}:{kind}"));
            if !is_reached {
                run.assert_code(0);
                break;
            }
            faults += 1;
            eprintln!("{step}:{kind}");
            installation.run(&[]).assert_code(0);
            installation.run(&[]).assert_code(0).assert_line("[WARN] No new blobs found");
            installation.assert_delivered_once([(&installation.contoso, FEED)]);
            assert_eq!(installation.known_blobs().len(), LINES + 3);
        }
        assert!(faults > 30, "{faults} steps");
    }
}
