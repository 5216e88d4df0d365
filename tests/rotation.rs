//! Output files that are rotated, compressed or removed while a pass writes them, and output files that are pipes.

use std::{
    fs::{self, File},
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, OnceLock, mpsc},
    thread,
    time::Duration,
};

use rustix::process::Signal;
use simulator::{Fault, NewBlob, Operation, Requests};

use crate::support::{
    Installation, Run, hours_ago,
    process::{WAIT_MAX, disk_steps, kill, signal, wait_until},
    whole_lines,
};

const FEED: &str = "Audit.General";

/// Starts a pass with this fault of the disk.
pub fn start(installation: &Installation, fault: &str) -> Child {
    let mut pass = installation.pass();
    pass.env("COLLECTOR_DISK_FAULT", fault).env("COLLECTOR_DISK_FAULT_MARK", installation.path("mark"));
    pass.spawn().expect("the program starts")
}

/// An installation with two blobs, of which a pass has delivered one.
fn after_a_pass(output: &str) -> Installation {
    let installation = Installation::new().output_file(output);
    installation.contoso.add_blob(FEED, NewBlob::records(3).created(hours_ago(5)));
    installation.run(&[]).assert_code(0);
    installation.contoso.add_blob(FEED, NewBlob::records(4).created(hours_ago(2)));
    installation
}

/// The step at which the second pass of [`after_a_pass`] has written its batch and not yet synced it.
fn step_before_sync() -> u32 {
    static STEP: OnceLock<u32> = OnceLock::new();
    *STEP.get_or_init(|| {
        let installation = after_a_pass("audit.json");
        let path = installation.path("output/AuditGeneral.json");
        let written = fs::metadata(&path).expect("a file").len();
        let (child, mark) = (start(&installation, "1+:wait"), installation.path("mark"));
        for step in disk_steps() {
            wait_until("the pass waits at its next step", || mark.exists());
            let is_written = fs::metadata(&path).expect("a file").len() > written;
            if is_written {
                kill(child);
                return step;
            }
            fs::remove_file(&mark).expect("the mark");
        }
        unreachable!("a pass ends, and then nothing waits")
    })
}

/// Runs the second pass of [`after_a_pass`], and lets `change` do something to the files before the batch is synced, and
/// in another run after that, before it is committed.
pub fn rotate_in_a_batch(output: &str, change: impl Fn(&Installation, &Path)) -> Vec<(Installation, Run)> {
    let name = if output == "audit.csv" { "audit_AuditGeneral.csv" } else { "AuditGeneral.json" };
    (0..2)
        .map(|later| {
            let installation = after_a_pass(output);
            let child = start(&installation, &format!("{}:wait", step_before_sync() + later));
            let mark = installation.path("mark");
            wait_until("the pass waits", || mark.exists());
            change(&installation, &installation.path("output").join(name));
            fs::remove_file(&mark).expect("the mark");
            (installation, Run::finish(child))
        })
        .collect()
}

fn rename(path: &Path, name: &str) -> PathBuf {
    let new = path.with_file_name(name);
    fs::create_dir_all(new.parent().expect("a folder")).expect("a folder");
    fs::rename(path, &new).expect("a file");
    new
}

#[track_caller]
fn assert_quiet_afterwards(installation: &Installation) {
    let output = installation.output();
    installation.run(&[]).assert_code(0).assert_line("[WARN] No new blobs found");
    assert_eq!(installation.output(), output);
}

#[test]
fn a_file_renamed_within_a_batch_keeps_the_batch_and_is_left_with_the_next() {
    for (installation, run) in rotate_in_a_batch("audit.json", |_, path| {
        rename(path, "AuditGeneral.json.1");
    }) {
        run.assert_code(0);
        installation.assert_lines_delivered_once([(&installation.contoso, FEED)]);
        assert_quiet_afterwards(&installation);
    }
}

#[test]
fn a_file_moved_to_another_folder_within_a_batch_keeps_the_batch() {
    for (installation, run) in rotate_in_a_batch("audit.json", |_, path| {
        rename(path, "../old/AuditGeneral.json.1");
    }) {
        run.assert_code(0);
        assert!(!run.stderr.contains("written again"), "{run}");
        assert_eq!(whole_lines(&installation.path("old/AuditGeneral.json.1")).len(), 7);
    }
}

#[test]
fn a_file_compressed_and_deleted_within_a_batch_loses_nothing() {
    for (place, (installation, run)) in rotate_in_a_batch("audit.json", |_, path| {
        // The compressor has read everything but this batch.
        let lines = whole_lines(path);
        let renamed = rename(path, "AuditGeneral.json.1");
        fs::write(path.with_file_name("AuditGeneral.json.1.gz"), lines[..3].join("\n") + "\n")
            .expect("a file");
        fs::remove_file(renamed).expect("a file");
    })
    .into_iter()
    .enumerate()
    {
        run.assert_code(0);
        if place == 0 {
            run.assert_line_with(&["[WARN]", "AuditGeneral.json was removed", "written again to a new file"]);
            installation.assert_lines_delivered_once([(&installation.contoso, FEED)]);
            assert_quiet_afterwards(&installation);
        }
    }
}

#[test]
fn a_file_that_a_compressor_reads_is_not_relied_on() {
    for compressed in ["AuditGeneral.json.1.gz", "archive.tar.xz"] {
        let (installation, run) = rotate_in_a_batch("audit.json", |_, path| {
            rename(path, "AuditGeneral.json.1");
            fs::write(path.with_file_name(compressed), "").expect("a file");
        })
        .remove(0);
        run.assert_code(0).assert_line_with(&["[WARN]", "rotated and compressed", "may have them too"]);
        assert_eq!(whole_lines(&installation.path("output/AuditGeneral.json")).len(), 4, "{compressed}");
        assert_eq!(whole_lines(&installation.path("output/AuditGeneral.json.1")).len(), 7, "{compressed}");
        assert_quiet_afterwards(&installation);
    }
}

#[test]
fn a_compressed_file_of_another_feed_or_an_earlier_day_repeats_nothing() {
    let (installation, run) = rotate_in_a_batch("audit.json", |_, path| {
        rename(path, "AuditGeneral.json.1");
        let old = path.with_file_name("AuditGeneral.json.2.gz");
        let old = File::create(old).expect("a file");
        old.set_modified(std::time::SystemTime::now() - Duration::from_secs(24 * 60 * 60)).expect("a file");
        fs::write(path.with_file_name("AuditGeneral.json.10"), "").expect("a file");
    })
    .remove(0);
    run.assert_code(0);
    installation.assert_lines_delivered_once([(&installation.contoso, FEED)]);
}

#[test]
fn a_file_or_its_folder_removed_within_a_batch_has_the_batch_written_again() {
    for remove in [(|path: &Path| fs::remove_file(path).expect("a file")) as fn(&Path), |path| {
        fs::remove_dir_all(path.parent().expect("a folder")).expect("a folder");
    }] {
        let (installation, run) = rotate_in_a_batch("audit.json", |_, path| remove(path)).remove(0);
        run.assert_code(0).assert_line_with(&["[WARN]", "AuditGeneral.json was removed", "written again"]);
        assert_eq!(whole_lines(&installation.path("output/AuditGeneral.json")).len(), 4);
        assert_eq!(installation.known_blobs().len(), 2);
    }
}

#[test]
fn rows_of_a_file_removed_within_a_batch_are_written_again_below_a_header() {
    let (installation, run) =
        rotate_in_a_batch("audit.csv", |_, path| fs::remove_file(path).expect("a file")).remove(0);
    run.assert_code(0).assert_line_with(&["[WARN]", "written again to a new file"]);
    let lines = whole_lines(&installation.path("output/audit_AuditGeneral.csv"));
    assert_eq!(lines.len(), 5, "{lines:?}");
    assert!(lines[0].starts_with("Id;RecordType;") && !lines[1].starts_with("Id;"), "{lines:?}");
}

#[test]
fn a_file_truncated_within_a_batch_has_the_batch_collected_again() {
    let (installation, run) = rotate_in_a_batch("audit.json", |_, path| {
        fs::copy(path, path.with_file_name("AuditGeneral.json.1")).expect("a copy");
        File::options().write(true).open(path).expect("a file").set_len(0).expect("a file");
    })
    .remove(0);
    run.assert_code(1).assert_line_with(&["[WARN] Output file", "truncated", "without copytruncate"]);
    assert_eq!(installation.known_blobs().len(), 1);
    let run = installation.run(&[]);
    run.assert_code(0).assert_line_with(&["Blobs successful: 1 |"]);
    assert_eq!(whole_lines(&installation.path("output/AuditGeneral.json")).len(), 4);
    assert_quiet_afterwards(&installation);
}

#[test]
fn a_pass_that_is_killed_after_it_has_written_a_batch_again_doubles_nothing() {
    for after in 1..10 {
        let installation = after_a_pass("audit.json");
        let (step, mark) = (step_before_sync(), installation.path("mark"));
        let child = start(&installation, &format!("{step}:wait,{}:kill-before", step + after));
        wait_until("the pass waits", || mark.exists());
        let path = installation.path("output/AuditGeneral.json");
        let before = whole_lines(&path)[..3].join("\n") + "\n";
        fs::remove_file(&path).expect("a file");
        fs::write(path.with_file_name("AuditGeneral.json.1.gz"), before).expect("a file");
        fs::remove_file(&mark).expect("the mark");
        Run::finish(child);
        installation.run(&[]).assert_code(0);
        eprintln!("killed {after} steps later");
        installation.assert_lines_delivered_once([(&installation.contoso, FEED)]);
    }
}

#[test]
fn a_file_rotated_between_batches_is_left_within_a_second() {
    let installation = Installation::new();
    let contoso = &installation.contoso;
    contoso.add_blob(FEED, NewBlob::records(3).created(hours_ago(5)));
    let late = contoso.add_blob(FEED, NewBlob::records(4).created(hours_ago(2)));
    let requests = Requests::to(Operation::FetchBlob).of_blob(late.content_id());
    let (open, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let wait = Fault::alter("a gate", move |_, answer| {
        let _ = gate.lock().expect("no panic").recv_timeout(WAIT_MAX);
        answer
    });
    installation.simulator.fault(requests.always(), wait);
    let child = start(&installation, "");
    wait_until("the first batch is committed", || installation.known_blobs().len() == 1);
    let path = installation.path("output/AuditGeneral.json");
    let renamed = rename(&path, "AuditGeneral.json.1");
    fs::write(path.with_file_name("AuditGeneral.json.1.gz"), fs::read(&renamed).expect("a file"))
        .expect("a file");
    fs::remove_file(&renamed).expect("a file");
    drop(open);
    let run = Run::finish(child);
    run.assert_code(0);
    assert!(!run.stderr.contains("written again"), "{run}");
    installation.assert_lines_delivered_once([(contoso, FEED)]);
}

/// An installation whose only output is this path.
fn into(path: &Path) -> (Installation, String) {
    let installation = Installation::new();
    installation.contoso.add_blobs(FEED, 20, 50, hours_ago(20)..hours_ago(2));
    let config = installation.config_with_output(&format!("  file: {{ path: {} }}", path.display()));
    (installation, config)
}

fn make_pipe(installation: &Installation) -> PathBuf {
    let path = installation.path("pipe");
    assert!(Command::new("mkfifo").arg(&path).status().expect("mkfifo").success());
    path
}

fn into_pipe() -> (Installation, String, PathBuf) {
    let installation = Installation::new();
    installation.contoso.add_blobs(FEED, 20, 50, hours_ago(20)..hours_ago(2));
    let pipe = make_pipe(&installation);
    let config = installation.config_with_output(&format!("  file: {{ path: {} }}", pipe.display()));
    (installation, config, pipe)
}

#[test]
fn a_pipe_without_a_reader_is_an_error_and_its_records_come_later() {
    let (installation, config, pipe) = into_pipe();
    let run = installation.run_bare(&["-c", &config]);
    run.assert_code(1).assert_line_with(&["[ERROR] Output file failed", "pipe: no process reads it"]);
    let run = installation.run_bare(&["-c", &config, "check"]);
    assert!(run.stdout.contains("no process reads it"), "{run}");

    let reader = thread::spawn(move || {
        let mut text = String::new();
        File::open(&pipe).and_then(|mut pipe| pipe.read_to_string(&mut text)).expect("a pipe");
        text
    });
    wait_until("the reader is there", || {
        let run = installation.run_bare(&["-c", &config]);
        run.code == Some(0)
    });
    assert_eq!(reader.join().expect("no panic").lines().count(), 1_000);
}

#[test]
fn a_reader_of_a_pipe_that_goes_away_leaves_its_records_to_the_next_pass() {
    let (installation, config, pipe) = into_pipe();
    let reader = thread::spawn(move || {
        let mut some = vec![0; 100_000];
        File::open(&pipe).and_then(|mut pipe| pipe.read_exact(&mut some)).expect("a pipe");
    });
    thread::sleep(Duration::from_millis(50)); // so that it is opening the pipe; if it is not, the pipe has no reader
    let run = installation.run_bare(&["-c", &config]);
    run.assert_code(1);
    assert!(
        run.stderr.contains("its reader has closed it") || run.stderr.contains("no process reads it"),
        "{run}"
    );
    assert_eq!(installation.known_blobs(), [""; 0]);
    drop(reader);
}

#[test]
fn a_signal_ends_a_pass_whose_pipe_is_not_read() {
    let (installation, config, pipe) = into_pipe();
    let reader = thread::spawn(move || File::open(&pipe).expect("a pipe"));
    let child = installation.command(&["-c", &config]).spawn().expect("the program starts");
    let reader = reader.join().expect("no panic");
    thread::sleep(Duration::from_millis(300));
    signal(&child, Signal::TERM);
    Run::finish(child)
        .assert_code(143)
        .assert_line_with(&["[ERROR] Output file failed", "the pass had to end"]);
    drop(reader);
    assert_eq!(installation.known_blobs(), [""; 0]);
}

#[test]
fn standard_output_as_a_file_is_written_whatever_it_is() {
    let (installation, config) = into(Path::new("/dev/stdout"));
    let run = installation.run_bare(&["-c", &config]);
    run.assert_code(0);
    assert_eq!(run.stdout.lines().count(), 1_000);

    // A socket, as under systemd.
    let (installation, config) = into(Path::new("/dev/stdout"));
    let (mut ours, theirs) = std::os::unix::net::UnixStream::pair().expect("sockets");
    let mut command = installation.command(&["-c", &config]);
    let child =
        command.stdout(std::os::fd::OwnedFd::from(theirs)).stderr(Stdio::piped()).spawn().expect("a program");
    drop(command); // it holds the socket's other end
    let mut text = String::new();
    ours.read_to_string(&mut text).expect("a socket");
    let run = Run::finish(child);
    assert_eq!(text.lines().count(), 1_000, "{run}");

    let (installation, config) = into(Path::new("/dev/null"));
    installation.run_bare(&["-c", &config]).assert_code(0);
    let (installation, config) = into(Path::new("/dev/full"));
    installation
        .run_bare(&["-c", &config])
        .assert_code(74)
        .assert_line_with(&["/dev/full", "free some space"]);
    std::io::stdout().flush().expect("standard output");
}
