//! `output.stdout`, whose reader may close the pipe, be slow or stop reading: a blob is committed only after its lines were
//! written whole.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read},
    process::{Child, ChildStdout},
    time::Duration,
};

use rustix::process::Signal;
use simulator::NewBlob;

use crate::support::{
    Installation, Run, hours_ago,
    process::{signal, wait_for},
};

const FEED: &str = "Audit.General";

/// The number of records in a blob that is larger than the buffer of a pipe.
const RECORDS_OF_LARGE_BLOB: usize = 400;

/// The standard output of a running pass. It reads only when a test asks for something, and every read has a bound.
struct Stdout(BufReader<ChildStdout>);

impl Stdout {
    /// Waits for the next line.
    #[track_caller]
    fn line(self) -> (Self, String) {
        let Self(mut pipe) = self;
        wait_for("the pass writes a line", move || {
            let mut line = String::new();
            pipe.read_line(&mut line).expect("UTF-8");
            assert!(line.ends_with('\n'), "the pass ends within a line: {line}");
            (Self(pipe), line)
        })
    }

    /// Waits until the pass closes its standard output, and returns everything that was not read before.
    #[track_caller]
    fn rest(self) -> String {
        let Self(mut pipe) = self;
        wait_for("the pass closes its standard output", move || {
            let mut rest = String::new();
            pipe.read_to_string(&mut rest).expect("UTF-8");
            rest
        })
    }
}

/// Starts a pass whose only output is standard output.
fn start(installation: &Installation, arguments: &[&str]) -> (Child, Stdout) {
    let config = installation.config_with_output("  stdout: { enabled: true }");
    let mut child =
        installation.command(&[&["-c", &config], arguments].concat()).spawn().expect("the program starts");
    let stdout = child.stdout.take().expect("a pipe");
    (child, Stdout(BufReader::new(stdout)))
}

/// The Ids of these records.
#[track_caller]
fn ids_of(lines: &str) -> BTreeSet<String> {
    let id_of = |line| simulator::id_of(line).unwrap_or_else(|| panic!("not a whole record: {line}"));
    lines.lines().map(id_of).collect()
}

#[test]
fn ends_without_commit_when_reader_closes_the_pipe() {
    let installation = Installation::new();
    installation.contoso.subscribe(FEED); // with --stdout a pass starts no subscription
    for _ in 0..5 {
        let blob = NewBlob::records(RECORDS_OF_LARGE_BLOB).created(hours_ago(2));
        installation.contoso.add_blob(FEED, blob);
    }
    for (arguments, code) in [(["--stdout"].as_slice(), 0), (&[], 1)] {
        let (child, stdout) = start(&installation, arguments);
        let (stdout, line) = stdout.line();
        assert!(simulator::id_of(&line).is_some(), "not a record: {line}");
        drop(stdout);
        Run::finish(child)
            .assert_code(code)
            .assert_line_with(&["[WARN] Output stdout ended: standard output was closed by its reader"])
            .assert_line_with(&["Blobs successful: 0 |", "Logs saved: 0"]);
        assert_eq!(installation.known_blobs(), [""; 0], "a blob that was not written is committed");
    }
    let (child, stdout) = start(&installation, &[]);
    let lines = stdout.rest();
    Run::finish(child).assert_code(0);
    assert_eq!(lines.lines().count(), 5 * RECORDS_OF_LARGE_BLOB);
    assert_eq!(ids_of(&lines), installation.contoso.ids(FEED));
}

#[test]
fn ends_on_signal_while_reader_stops_reading() {
    let installation = Installation::new();
    let blob = NewBlob::records(RECORDS_OF_LARGE_BLOB).created(hours_ago(2));
    let blob = installation.contoso.add_blob(FEED, blob);
    let (child, stdout) = start(&installation, &[]);
    // The pipe is full, or will be in a moment.
    let (stdout, first) = stdout.line();
    signal(&child, Signal::TERM);
    Run::finish(child)
        .assert_code(143)
        .assert_line_with(&["[ERROR] Output stdout failed: standard output: the pass had to end"])
        .assert_line_with(&["Blobs successful: 0 |"]);
    assert_eq!(installation.known_blobs(), [""; 0]);
    let lines = first + &stdout.rest();
    let (whole, _) = lines.rsplit_once('\n').expect("lines");
    assert!(ids_of(whole).is_subset(&blob.ids().into_iter().collect()));
}

#[test]
fn has_written_every_committed_blob_when_killed() {
    let installation = Installation::new().collect("maxThreads: 1");
    installation.contoso.add_blobs(FEED, 40, 3, hours_ago(20)..hours_ago(2));
    installation.simulator.set_latency(Duration::from_millis(50));
    let (mut child, stdout) = start(&installation, &[]);
    let (mut stdout, mut lines) = stdout.line();
    while installation.known_blobs().is_empty() {
        let (reader, line) = stdout.line();
        stdout = reader;
        lines += &line;
    }
    child.kill().expect("a child of this process");
    lines += &stdout.rest();
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
    assert!(ids_of(&lines).is_superset(&known_ids), "a committed blob was not written");

    installation.simulator.set_latency(Duration::ZERO);
    let (child, stdout) = start(&installation, &[]);
    lines += &stdout.rest();
    Run::finish(child).assert_code(0);
    assert_eq!(ids_of(&lines), installation.contoso.ids(FEED));
}
