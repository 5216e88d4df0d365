//! Standard output, whose reader may be gone, slow or still: what is known was written, in whole lines.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read},
    process::{Child, ChildStdout},
    time::Duration,
};

use rustix::process::Signal;
use simulator::NewBlob;

use crate::support::{Installation, Run, hours_ago, process::signal};

const FEED: &str = "Audit.General";

/// More records in one blob than a pipe holds.
const MANY: usize = 400;

/// A pass that writes to standard output and nowhere else, and what it writes.
fn start(installation: &Installation, arguments: &[&str]) -> (Child, BufReader<ChildStdout>) {
    let config = installation.config_with_output("  stdout: { enabled: true }");
    let mut child =
        installation.command(&[&["-c", &config], arguments].concat()).spawn().expect("the program starts");
    let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
    (child, stdout)
}

/// The next line, whole.
fn line_of(stdout: &mut impl BufRead) -> String {
    let mut line = String::new();
    stdout.read_line(&mut line).expect("UTF-8");
    assert!(line.ends_with('\n'), "{line}");
    line
}

fn ids_of(lines: &str) -> BTreeSet<String> {
    lines
        .lines()
        .map(|line| simulator::id_of(line).unwrap_or_else(|| panic!("half a line: {line}")))
        .collect()
}

#[test]
fn a_reader_that_has_seen_enough_ends_the_pass_in_order() {
    let installation = Installation::new();
    installation.contoso.subscribe(FEED); // a look with --stdout starts no subscription
    for _ in 0..5 {
        installation.contoso.add_blob(FEED, NewBlob::records(MANY).created(hours_ago(2)));
    }
    for (arguments, code) in [(["--stdout"].as_slice(), 0), (&[], 1)] {
        let (child, mut stdout) = start(&installation, arguments);
        assert!(simulator::id_of(&line_of(&mut stdout)).is_some());
        drop(stdout);
        Run::finish(child)
            .assert_code(code)
            .assert_line_with(&["[WARN] Output stdout ended: standard output was closed by its reader"])
            .assert_line_with(&["Blobs successful: 0 |", "Logs saved: 0"]);
        assert_eq!(installation.known_blobs(), [""; 0], "nothing is known that was not written");
    }
    let (child, mut stdout) = start(&installation, &[]);
    let mut lines = String::new();
    stdout.read_to_string(&mut lines).expect("UTF-8");
    Run::finish(child).assert_code(0);
    assert_eq!(lines.lines().count(), 5 * MANY);
    assert_eq!(ids_of(&lines), installation.contoso.ids(FEED));
}

#[test]
fn a_reader_that_stands_still_does_not_keep_a_pass_from_ending() {
    let installation = Installation::new();
    let blob = installation.contoso.add_blob(FEED, NewBlob::records(MANY).created(hours_ago(2)));
    let (child, mut stdout) = start(&installation, &[]);
    // By now the pipe is full, or will be in a moment.
    let mut lines = line_of(&mut stdout);
    signal(&child, Signal::TERM);
    Run::finish(child)
        .assert_code(143)
        .assert_line_with(&["[ERROR] Output stdout failed: standard output: the pass had to end"])
        .assert_line_with(&["Blobs successful: 0 |"]);
    assert_eq!(installation.known_blobs(), [""; 0]);
    stdout.read_to_string(&mut lines).expect("UTF-8");
    let (whole, _) = lines.rsplit_once('\n').expect("lines");
    assert!(ids_of(whole).is_subset(&blob.ids().into_iter().collect()));
}

#[test]
fn what_is_known_when_a_pass_is_killed_was_written() {
    let installation = Installation::new().collect("maxThreads: 1");
    installation.contoso.add_blobs(FEED, 40, 3, hours_ago(20)..hours_ago(2));
    installation.simulator.set_latency(Duration::from_millis(50));
    let (mut child, mut stdout) = start(&installation, &[]);
    let mut lines = line_of(&mut stdout);
    while installation.known_blobs().is_empty() {
        lines += &line_of(&mut stdout);
    }
    child.kill().expect("a program of ours");
    stdout.read_to_string(&mut lines).expect("UTF-8");
    Run::finish(child);
    let known: BTreeSet<_> = installation.known_blobs().into_iter().collect();
    let known_ids: BTreeSet<_> = installation
        .contoso
        .blobs(FEED)
        .into_iter()
        .filter(|blob| known.iter().any(|line| line.starts_with(&format!("{},", blob.content_id()))))
        .flat_map(|blob| blob.ids())
        .collect();
    assert_eq!(known_ids.len(), known.len() * 3);
    assert!(ids_of(&lines).is_superset(&known_ids), "a known blob was not written");

    installation.simulator.set_latency(Duration::ZERO);
    let (child, mut stdout) = start(&installation, &[]);
    stdout.read_to_string(&mut lines).expect("UTF-8");
    Run::finish(child).assert_code(0);
    assert_eq!(ids_of(&lines), installation.contoso.ids(FEED));
}
