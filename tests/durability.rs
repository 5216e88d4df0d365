//! Files after a crash, a power loss or a failed sync, and the owner of files that root creates.

use std::{
    fs,
    os::unix::fs::{MetadataExt, chown},
    path::{Path, PathBuf},
};

use simulator::NewBlob;

use crate::support::{Installation, Run, hours_ago, process::disk_steps, whole_lines};

const FEED: &str = "Audit.General";

/// Runs a pass that really syncs, and returns its steps on the disk.
fn run_and_record_steps(installation: &Installation) -> (Run, Vec<String>) {
    let steps = installation.path("steps");
    let mut pass = installation.pass();
    let run = Run::of(pass.env("COLLECTOR_DISK_STEPS", &steps).env_remove("COLLECTOR_DISK_SYNC"));
    let text = fs::read_to_string(steps).expect("steps");
    (run, text.lines().map(str::to_owned).collect())
}

/// Returns an installation whose only pass met a fault of this kind after it wrote its batch and before it synced it, and the
/// output file.
fn fail_before_sync(output: &str, kind: &str) -> (Installation, PathBuf) {
    for step in disk_steps() {
        let installation = Installation::new().output_file(output).collect("maxThreads: 4");
        installation.contoso.add_blob(FEED, NewBlob::records(3).created(hours_ago(5)));
        installation.contoso.add_blob(FEED, NewBlob::records(4).created(hours_ago(2)));
        let (is_reached, _) = installation.run_with_fault(&format!("{step}:{kind}"));
        assert!(is_reached, "a pass writes within {step} steps");
        if let Some((name, _)) = installation.output().into_iter().find(|(_, lines)| lines.len() >= 7) {
            let path = installation.path("output").join(name);
            return (installation, path);
        }
    }
    unreachable!("disk_steps panics before it ends")
}

#[test]
fn removes_a_line_damaged_by_a_power_loss_and_collects_it_again() {
    for (output, damage) in
        [("audit.json", &b"\0"[..]), ("audit.json", b"7"), ("audit.csv", b"\0"), ("audit.csv", b"x")]
    {
        let (installation, path) = fail_before_sync(output, "kill-before");
        // All but one record of the batch reached the disk.
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
fn rewrites_and_syncs_records_after_a_failed_sync() {
    for kind in ["broken", "kill-before"] {
        let (installation, path) = fail_before_sync("audit.json", kind);
        let (inode, before) = (fs::metadata(&path).expect("a file").ino(), whole_lines(&path));
        let (run, steps) = run_and_record_steps(&installation);
        run.assert_code(0).assert_line_with(&["7 records are in the files already"]);
        let write = steps.iter().position(|step| step == "Write").expect("a step");
        assert_eq!(steps[write + 1], "Sync", "written in place, then synced: {steps:?}");
        // A shipper that follows the file sees no change.
        assert_eq!((fs::metadata(&path).expect("a file").ino(), whole_lines(&path)), (inode, before));
        installation.assert_lines_delivered_once([(&installation.contoso, FEED)]);
    }
}

#[test]
fn syncs_the_folder_of_each_file_that_a_pass_opens() {
    let installation = Installation::new();
    installation.contoso.add_blob(FEED, NewBlob::records(3).created(hours_ago(5)));
    installation.run(&[]).assert_code(0);
    installation.contoso.add_blob(FEED, NewBlob::records(3).created(hours_ago(4)));
    let (run, steps) = run_and_record_steps(&installation);
    run.assert_code(0);
    for (place, _) in steps.iter().enumerate().filter(|(_, step)| *step == "Open") {
        let next = steps[place + 1..].iter().find(|step| *step != "Write" && *step != "Sync");
        assert!(
            next.is_some_and(|step| step == "SyncFolder" || step == "Rename"),
            "step {place} of {steps:?}"
        );
    }
}

/// Returns a folder and every file below it, each with the user id of its owner.
fn owners(folder: &Path) -> Vec<(PathBuf, u32)> {
    let mut owned = vec![(folder.to_owned(), fs::metadata(folder).expect("a file or folder").uid())];
    for entry in fs::read_dir(folder).into_iter().flatten() {
        owned.extend(owners(&entry.expect("a readable folder").path()));
    }
    owned
}

#[test]
fn files_created_by_root_belong_to_the_owner_of_the_folder() {
    const SERVICE: u32 = 4_711;
    let installation = Installation::new().setting("log: { path: output/log/collector.log }");
    if fs::metadata(installation.path(".")).expect("a folder").uid() != 0 {
        return; // only root can change owners
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
    // Files of root, as an earlier version or a copy leaves them.
    let path = installation.path("output/AuditGeneral.json");
    chown(&path, Some(0), Some(0)).expect("root");
    chown(installation.path("state/journal"), Some(0), Some(0)).expect("root");
    for command in ["check", "status"] {
        let run = installation.run(&[command]);
        let all = run.to_string();
        for part in ["AuditGeneral.json", "state/journal", "chown 4711:4711", "as that user"] {
            assert!(all.contains(part), "{command}: no {part} in {run}");
        }
    }
}
