//! Output files that are rotated, compressed, truncated or removed while a pass writes them, and output files that are pipes.

use std::{
    fs::{self, File},
    io::{BufRead, ErrorKind, Read},
    os::{
        fd::OwnedFd,
        unix::{fs::OpenOptionsExt, net::UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::{Mutex, OnceLock, mpsc},
    time::Duration,
};

use rustix::{fs::OFlags, process::Signal};
use simulator::{Fault, NewBlob, Operation, Requests};

use crate::support::{
    Installation, Run, hours_ago,
    process::{WAIT_MAX, disk_steps, kill, signal, wait_until},
    whole_lines,
};

const FEED: &str = "Audit.General";

/// Starts a pass with this disk fault.
pub fn start(installation: &Installation, fault: &str) -> Child {
    let mut pass = installation.pass();
    pass.env("COLLECTOR_DISK_FAULT", fault).env("COLLECTOR_DISK_FAULT_MARK", installation.path("mark"));
    pass.spawn().expect("the program starts")
}

/// Returns an installation with two blobs. A pass has delivered the first; the second is for the test.
fn after_a_pass(output: &str) -> Installation {
    let installation = Installation::new().output_file(output);
    installation.contoso.add_blob(FEED, NewBlob::records(3).created(hours_ago(5)));
    installation.run(&[]).assert_code(0);
    installation.contoso.add_blob(FEED, NewBlob::records(4).created(hours_ago(2)));
    installation
}

/// Returns the step before which the second pass of [`after_a_pass`] has written its batch and not yet synced it.
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
        unreachable!("disk_steps panics before it ends")
    })
}

/// Runs the second pass of [`after_a_pass`] twice. `change` changes the output file in the first run before the batch is
/// synced, and in the second run after it is synced and before it is committed.
pub fn change_during_a_batch(
    output: &str,
    change: impl Fn(&Installation, &Path),
) -> Vec<(Installation, Run)> {
    let name = if output == "audit.csv" { "audit_AuditGeneral.csv" } else { "AuditGeneral.json" };
    (0..2)
        .map(|steps_later| {
            let installation = after_a_pass(output);
            let child = start(&installation, &format!("{}:wait", step_before_sync() + steps_later));
            let mark = installation.path("mark");
            wait_until("the pass waits at the step", || mark.exists());
            change(&installation, &installation.path("output").join(name));
            fs::remove_file(&mark).expect("the mark");
            (installation, Run::finish(child))
        })
        .collect()
}

/// Renames a file within its folder, or to a path relative to it.
fn rename(path: &Path, name: &str) -> PathBuf {
    let new = path.with_file_name(name);
    fs::create_dir_all(new.parent().expect("a folder")).expect("a folder");
    fs::rename(path, &new).expect("a file");
    new
}

/// Asserts that one more pass delivers nothing.
#[track_caller]
fn assert_nothing_left(installation: &Installation) {
    let output = installation.output();
    installation.run(&[]).assert_code(0).assert_line("[WARN] No new blobs found");
    assert_eq!(installation.output(), output);
}

#[test]
fn a_file_renamed_during_a_batch_keeps_the_batch() {
    for (installation, run) in change_during_a_batch("audit.json", |_, path| {
        rename(path, "AuditGeneral.json.1");
    }) {
        run.assert_code(0);
        installation.assert_lines_delivered_once([(&installation.contoso, FEED)]);
        assert_nothing_left(&installation);
    }
}

#[test]
fn a_file_moved_to_another_folder_during_a_batch_keeps_the_batch() {
    for (installation, run) in change_during_a_batch("audit.json", |_, path| {
        rename(path, "../old/AuditGeneral.json.1");
    }) {
        run.assert_code(0);
        assert!(!run.stderr.contains("written again"), "{run}");
        assert_eq!(whole_lines(&installation.path("old/AuditGeneral.json.1")).len(), 7);
    }
}

#[test]
fn a_file_compressed_and_deleted_during_a_batch_loses_nothing() {
    for (place, (installation, run)) in change_during_a_batch("audit.json", |_, path| {
        // The compressed file has everything except this batch.
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
            assert_nothing_left(&installation);
        }
    }
}

#[test]
fn rewrites_the_batch_if_its_file_is_being_compressed() {
    for compressed in ["AuditGeneral.json.1.gz", "archive.tar.xz"] {
        let (installation, run) = change_during_a_batch("audit.json", |_, path| {
            rename(path, "AuditGeneral.json.1");
            fs::write(path.with_file_name(compressed), "").expect("a file");
        })
        .remove(0);
        run.assert_code(0).assert_line_with(&["[WARN]", "rotated and compressed", "may have them too"]);
        assert_eq!(whole_lines(&installation.path("output/AuditGeneral.json")).len(), 4, "{compressed}");
        assert_eq!(whole_lines(&installation.path("output/AuditGeneral.json.1")).len(), 7, "{compressed}");
        assert_nothing_left(&installation);
    }
}

#[test]
fn ignores_compressed_files_of_another_feed_or_an_earlier_day() {
    let (installation, run) = change_during_a_batch("audit.json", |_, path| {
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
fn rewrites_the_batch_if_its_file_or_folder_is_removed() {
    for remove in [(|path: &Path| fs::remove_file(path).expect("a file")) as fn(&Path), |path| {
        fs::remove_dir_all(path.parent().expect("a folder")).expect("a folder");
    }] {
        let (installation, run) = change_during_a_batch("audit.json", |_, path| remove(path)).remove(0);
        run.assert_code(0).assert_line_with(&["[WARN]", "AuditGeneral.json was removed", "written again"]);
        assert_eq!(whole_lines(&installation.path("output/AuditGeneral.json")).len(), 4);
        assert_eq!(installation.known_blobs().len(), 2);
    }
}

#[test]
fn rewrites_csv_rows_below_a_header_if_their_file_is_removed() {
    let (installation, run) =
        change_during_a_batch("audit.csv", |_, path| fs::remove_file(path).expect("a file")).remove(0);
    run.assert_code(0).assert_line_with(&["[WARN]", "written again to a new file"]);
    let lines = whole_lines(&installation.path("output/audit_AuditGeneral.csv"));
    assert_eq!(lines.len(), 5, "{lines:?}");
    assert!(lines[0].starts_with("Id;RecordType;") && !lines[1].starts_with("Id;"), "{lines:?}");
}

#[test]
fn collects_the_batch_again_if_its_file_is_truncated() {
    let (installation, run) = change_during_a_batch("audit.json", |_, path| {
        fs::copy(path, path.with_file_name("AuditGeneral.json.1")).expect("a copy");
        File::options().write(true).open(path).expect("a file").set_len(0).expect("a file");
    })
    .remove(0);
    run.assert_code(1).assert_line_with(&["[WARN] Output file", "truncated", "without copytruncate"]);
    assert_eq!(installation.known_blobs().len(), 1);
    let run = installation.run(&[]);
    run.assert_code(0).assert_line_with(&["Blobs successful: 1 |"]);
    assert_eq!(whole_lines(&installation.path("output/AuditGeneral.json")).len(), 4);
    assert_nothing_left(&installation);
}

#[test]
fn a_kill_after_a_batch_is_rewritten_duplicates_nothing() {
    for steps_later in 1..10 {
        let installation = after_a_pass("audit.json");
        let (step, mark) = (step_before_sync(), installation.path("mark"));
        let child = start(&installation, &format!("{step}:wait,{}:kill-before", step + steps_later));
        wait_until("the pass waits at the step", || mark.exists());
        let path = installation.path("output/AuditGeneral.json");
        let before = whole_lines(&path)[..3].join("\n") + "\n";
        fs::remove_file(&path).expect("a file");
        fs::write(path.with_file_name("AuditGeneral.json.1.gz"), before).expect("a file");
        fs::remove_file(&mark).expect("the mark");
        Run::finish(child);
        installation.run(&[]).assert_code(0);
        eprintln!("killed {steps_later} steps later");
        installation.assert_lines_delivered_once([(&installation.contoso, FEED)]);
    }
}

#[test]
fn writes_the_next_batch_to_a_new_file_after_a_rotation() {
    let installation = Installation::new();
    let contoso = &installation.contoso;
    contoso.add_blob(FEED, NewBlob::records(3).created(hours_ago(5)));
    let late = contoso.add_blob(FEED, NewBlob::records(4).created(hours_ago(2)));
    let requests = Requests::to(Operation::FetchBlob).of_blob(late.content_id());
    // The second blob is answered when `hold` is dropped.
    let (hold, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let wait = Fault::alter("held back", move |_, answer| {
        let _ = released.lock().expect("no thread panics with the lock").recv_timeout(WAIT_MAX);
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
    drop(hold);
    let run = Run::finish(child);
    run.assert_code(0);
    assert!(!run.stderr.contains("written again"), "{run}");
    installation.assert_lines_delivered_once([(contoso, FEED)]);
}

/// Returns an installation with 1,000 records. They are about 20 times as large as the buffer of a pipe.
fn with_records() -> Installation {
    let installation = Installation::new();
    installation.contoso.add_blobs(FEED, 20, 50, hours_ago(20)..hours_ago(2));
    installation
}

/// Writes a configuration whose only output is this path, and returns the path of the configuration.
fn config_with_path(installation: &Installation, path: &Path) -> String {
    installation.config_with_output(&format!("  file: {{ path: {} }}", path.display()))
}

/// Runs a pass that delivers 1,000 records to this path.
fn run_with_path(path: &str) -> Run {
    let installation = with_records();
    let config = config_with_path(&installation, Path::new(path));
    installation.run_bare(&["-c", &config])
}

/// Returns an installation with 1,000 records, a configuration whose only output is a named pipe, and the pipe.
fn with_pipe() -> (Installation, String, PathBuf) {
    let installation = with_records();
    let pipe = installation.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo of coreutils").success());
    let config = config_with_path(&installation, &pipe);
    (installation, config, pipe)
}

/// Opens a pipe for reading. This does not wait for a writer.
fn open_pipe(pipe: &Path) -> File {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    File::options().read(true).custom_flags(flags).open(pipe).expect("a pipe")
}

/// Reads this number of bytes from a pipe, or less if the writer closes it before.
fn read_pipe(pipe: &mut File, bytes_max: usize) -> Vec<u8> {
    let (mut bytes, mut piece) = (Vec::new(), vec![0; 65_536]);
    wait_until("the pass writes to the pipe", || match pipe.read(&mut piece) {
        Ok(0) => !bytes.is_empty(), // closed, or not opened yet
        Ok(count) => {
            bytes.extend_from_slice(&piece[..count]);
            bytes.len() >= bytes_max
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        Err(error) => panic!("the pipe cannot be read: {error}"),
    });
    bytes
}

#[test]
fn a_pipe_without_a_reader_is_an_error_and_gets_its_records_later() {
    let (installation, config, pipe) = with_pipe();
    let run = installation.run_bare(&["-c", &config]);
    run.assert_code(1).assert_line_with(&["[ERROR] Output file failed", "pipe: no process reads it"]);
    let run = installation.run_bare(&["-c", &config, "check"]);
    assert!(run.stdout.contains("no process reads it"), "{run}");

    let mut reader = open_pipe(&pipe);
    let child = installation.command(&["-c", &config]).spawn().expect("the program starts");
    let text = read_pipe(&mut reader, usize::MAX);
    Run::finish(child).assert_code(0);
    assert_eq!(text.lines().count(), 1_000);
}

#[test]
fn keeps_the_records_for_the_next_pass_if_the_pipes_reader_leaves() {
    let (installation, config, pipe) = with_pipe();
    let mut reader = open_pipe(&pipe);
    let child = installation.command(&["-c", &config]).spawn().expect("the program starts");
    assert!(read_pipe(&mut reader, 100_000).len() >= 100_000);
    drop(reader);
    Run::finish(child)
        .assert_code(1)
        .assert_line_with(&["[ERROR] Output file failed", "its reader has closed it"]);
    assert_eq!(installation.known_blobs(), [""; 0]);
}

#[test]
fn a_signal_ends_a_pass_that_is_blocked_on_a_pipe() {
    let (installation, config, pipe) = with_pipe();
    let mut reader = open_pipe(&pipe);
    let child = installation.command(&["-c", &config]).spawn().expect("the program starts");
    read_pipe(&mut reader, 1); // then the buffer fills up, and the pass waits for the reader
    signal(&child, Signal::TERM);
    Run::finish(child)
        .assert_code(143)
        .assert_line_with(&["[ERROR] Output file failed", "the pass had to end"]);
    drop(reader);
    assert_eq!(installation.known_blobs(), [""; 0]);
}

#[test]
fn writes_to_dev_stdout_as_pipe_and_socket_and_to_devices() {
    let run = run_with_path("/dev/stdout");
    run.assert_code(0);
    assert_eq!(run.stdout.lines().count(), 1_000);

    // A socket, which systemd passes to services.
    let installation = with_records();
    let config = config_with_path(&installation, Path::new("/dev/stdout"));
    let (mut ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    let mut command = installation.command(&["-c", &config]);
    let child = command.stdout(OwnedFd::from(theirs)).spawn().expect("the program starts");
    drop(command); // closes the other end of the socket in this process
    ours.set_read_timeout(Some(WAIT_MAX)).expect("a socket");
    let mut text = String::new();
    ours.read_to_string(&mut text).expect("the pass writes, and closes the socket when it ends");
    let run = Run::finish(child);
    assert_eq!(text.lines().count(), 1_000, "{run}");

    run_with_path("/dev/null").assert_code(0);
    run_with_path("/dev/full").assert_code(74).assert_line_with(&["/dev/full", "free some space"]);
}
