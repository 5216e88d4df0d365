//! Crashes and power loss at the worst moment.

use std::{
    fs,
    io::Write,
    os::unix::fs::{MetadataExt, chown},
    path::{Path, PathBuf},
};

use simulator::NewBlob;

use crate::support::{Installation, Run, hours_ago, process::disk_steps, whole_lines};

const FEED: &str = "Audit.General";

/// The steps of the disk that a pass takes, a line each. This pass waits for the disk.
fn steps_of_a_pass(installation: &Installation) -> (Run, Vec<String>) {
    let steps = installation.path("steps");
    let mut pass = installation.pass();
    let run = Run::of(pass.env("COLLECTOR_DISK_STEPS", &steps).env_remove("COLLECTOR_DISK_SYNC"));
    let text = fs::read_to_string(steps).expect("steps");
    (run, text.lines().map(str::to_owned).collect())
}

/// An installation whose only pass was killed, or met a fault of this kind, after it wrote its batch and before that was
/// synced.
fn struck_at_the_sync(output: &str, kind: &str) -> (Installation, PathBuf) {
    for step in disk_steps() {
        let installation = Installation::new().output_file(output);
        installation.contoso.add_blob(FEED, NewBlob::records(3).created(hours_ago(5)));
        installation.contoso.add_blob(FEED, NewBlob::records(4).created(hours_ago(2)));
        let (is_struck, _) = installation.run_with_fault(&format!("{step}:{kind}"));
        assert!(is_struck, "a pass writes within {step} steps");
        if let Some((name, _)) = installation.output().into_iter().find(|(_, lines)| lines.len() >= 7) {
            let path = installation.path("output").join(name);
            return (installation, path);
        }
    }
    unreachable!("the loop ends")
}

#[test]
fn a_line_of_zero_bytes_that_a_power_loss_leaves_is_cut_off_and_collected_again() {
    for (output, damage) in
        [("audit.json", &b"\0"[..]), ("audit.json", b"7"), ("audit.csv", b"\0"), ("audit.csv", b"x")]
    {
        let (installation, path) = struck_at_the_sync(output, "kill-before");
        // The third record's pages did not reach the disk, the others' did.
        let mut lines = whole_lines(&path);
        let place = lines.len() - 4;
        lines[place] = String::from_utf8(damage.repeat(lines[place].len())).expect("text");
        fs::write(&path, lines.join("\n") + "\n").expect("a file");
        let run = installation.run(&[]);
        run.assert_code(0).assert_line_with(&["[WARN]", "not whole records", "collected again"]);
        let written = whole_lines(&path);
        assert!(!written.contains(&lines[place]), "{written:?}");
        assert_eq!(written.len(), lines.len(), "{output}");
        if output == "audit.json" {
            installation.assert_lines_delivered_once([(&installation.contoso, FEED)]);
        }
        installation.run(&[]).assert_code(0).assert_line("[WARN] No new blobs found");
    }
}

#[test]
fn what_a_failed_sync_left_is_written_again_before_it_counts() {
    for kind in ["broken", "kill-before"] {
        let (installation, path) = struck_at_the_sync("audit.json", kind);
        let (inode, before) = (fs::metadata(&path).expect("a file").ino(), whole_lines(&path));
        let (run, steps) = steps_of_a_pass(&installation);
        run.assert_code(0).assert_line_with(&["7 records are in the files already"]);
        let write = steps.iter().position(|step| step == "Write").expect("a step");
        assert_eq!(steps[write + 1], "Sync", "written in place, then synced: {steps:?}");
        // The followers of the file see no change.
        assert_eq!((fs::metadata(&path).expect("a file").ino(), whole_lines(&path)), (inode, before));
        installation.assert_lines_delivered_once([(&installation.contoso, FEED)]);
    }
}

#[test]
fn the_folder_of_a_file_is_synced_by_each_pass_that_opens_it() {
    let installation = Installation::new();
    installation.contoso.add_blob(FEED, NewBlob::records(3).created(hours_ago(5)));
    installation.run(&[]).assert_code(0);
    installation.contoso.add_blob(FEED, NewBlob::records(3).created(hours_ago(4)));
    let (run, steps) = steps_of_a_pass(&installation);
    run.assert_code(0);
    for (place, _) in steps.iter().enumerate().filter(|(_, step)| *step == "Open") {
        let next = steps[place + 1..].iter().find(|step| *step != "Write" && *step != "Sync");
        assert!(
            next.is_some_and(|step| step == "SyncFolder" || step == "Rename"),
            "step {place} of {steps:?}"
        );
    }
}

/// The user id of files and folders below a folder, and itself.
fn owners(folder: &Path) -> Vec<(PathBuf, u32)> {
    let mut found = vec![(folder.to_owned(), fs::metadata(folder).expect("a folder").uid())];
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let more = if path.is_dir() { owners(&path) } else { Vec::new() };
        let own = (path.clone(), entry.metadata().expect("a file").uid());
        found.extend(if more.is_empty() { vec![own] } else { more });
    }
    found
}

#[test]
fn what_root_creates_belongs_to_the_owner_of_the_folder() {
    const SERVICE: u32 = 4_711;
    let installation = Installation::new().setting("log: { path: output/log/collector.log }");
    if fs::metadata(installation.path(".")).expect("a folder").uid() != 0 {
        return; // only root can create files for others
    }
    installation.contoso.add_blob(FEED, NewBlob::records(3).created(hours_ago(5)));
    for name in ["state", "output", "output/log"] {
        fs::create_dir_all(installation.path(name)).expect("a folder");
        chown(installation.path(name), Some(SERVICE), Some(SERVICE)).expect("root");
    }
    installation.run(&[]).assert_code(0);
    for name in ["state", "output"] {
        for (path, owner) in owners(&installation.path(name)) {
            assert_eq!(owner, SERVICE, "{}", path.display());
        }
    }
    // A file of root's that an earlier version left, or that was copied.
    let path = installation.path("output/AuditGeneral.json");
    chown(&path, Some(0), Some(0)).expect("root");
    chown(installation.path("state/journal"), Some(0), Some(0)).expect("root");
    for command in ["check", "status"] {
        let run = installation.run(&[command]);
        let all = run.stdout.clone() + &run.stderr;
        for part in ["AuditGeneral.json", "state/journal", "chown 4711:4711", "as that user"] {
            assert!(all.contains(part), "{command}: no {part} in {run}");
        }
    }
    fs::File::options().append(true).open(&path).and_then(|mut file| file.write_all(b"")).expect("a file");
}
