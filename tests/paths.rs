//! Paths of state, outputs and configuration: symbolic links, mounts, special files, and limits of the file system.

use std::{
    fs,
    os::unix::{
        fs::{FileTypeExt, MetadataExt, chown, lchown, symlink},
        net::UnixListener,
        process::CommandExt,
    },
    path::Path,
    process::{Command, Stdio},
};

use simulator::NewBlob;

use crate::support::{Installation, Run, hours_ago, process::disk_steps, set_mode};

const FEED: &str = "Audit.General";

/// A line of `known_blobs` that a compaction removes.
const EXPIRED: &str = "gone,2020-01-01T00:00:00Z\n";

fn installation() -> Installation {
    let installation = Installation::new();
    installation.contoso.add_blob(FEED, NewBlob::records(3).created(hours_ago(3)));
    installation
}

fn add_blob(installation: &Installation) {
    installation.contoso.add_blob(FEED, NewBlob::records(2).created(hours_ago(2)));
}

#[track_caller]
fn assert_delivered_once(installation: &Installation) {
    installation.assert_delivered_once([(&installation.contoso, FEED)]);
}

fn make_fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().expect("mkfifo of coreutils").success());
}

#[test]
fn follows_symbolic_links_and_replaces_their_targets() {
    let installation = installation().setting("metrics: { path: office365.prom }");
    let folder = installation.path("targets");
    fs::create_dir_all(installation.path("state")).expect("a folder");
    fs::create_dir(&folder).expect("a folder");
    fs::write(folder.join("known_blobs"), EXPIRED).expect("a file");
    let names = ["state/known_blobs", "state/journal", "state/progress", "office365.prom"];
    for name in names {
        let target = folder.join(Path::new(name).file_name().expect("a name"));
        symlink(target, installation.path(name)).expect("a link"); // most targets do not exist yet
    }
    installation.run(&[]).assert_code(0);
    add_blob(&installation);
    installation.run(&[]).assert_code(0);
    assert_delivered_once(&installation);
    for name in names {
        let metadata = fs::symlink_metadata(installation.path(name)).expect("a link");
        assert!(metadata.is_symlink(), "{name} was replaced");
        let target = fs::metadata(installation.path(name)).expect("a target");
        assert!(target.is_file() && target.len() > 0, "{name}");
    }
    let known = fs::read_to_string(folder.join("known_blobs")).expect("a file");
    assert!(!known.contains("gone") && known.lines().count() == 2, "{known}");
    let mut left: Vec<_> =
        fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry").file_name()).collect();
    left.sort();
    assert_eq!(left, ["journal", "known_blobs", "office365.prom", "progress"]);
}

/// Runs a pass on a file system that lacks these features.
fn run_without(installation: &Installation, features: &str, more: &[(&str, &str)]) -> Run {
    installation.run_with_environment(&[&[("COLLECTOR_DISK_LACKS", features)], more].concat())
}

/// Returns the inodes of the three state files.
fn inodes(installation: &Installation) -> Vec<u64> {
    let inode = |name| fs::metadata(installation.path("state").join(name)).expect("a file").ino();
    ["known_blobs", "journal", "progress"].into_iter().map(inode).collect()
}

#[test]
fn rewrites_files_in_place_if_they_cannot_be_replaced() {
    let installation = installation();
    installation.run(&[]).assert_code(0);
    let before = inodes(&installation);
    let path = installation.path("state/known_blobs");
    let known = fs::read_to_string(&path).expect("a file");
    fs::write(&path, format!("{EXPIRED}{known}{}", EXPIRED.repeat(50))).expect("a file");
    add_blob(&installation);
    run_without(&installation, "rename", &[]).assert_code(0);
    assert_delivered_once(&installation);
    assert_eq!(inodes(&installation), before, "the files are not replaced");
    assert_eq!(installation.known_blobs().len(), 2, "known_blobs is compacted");
    run_without(&installation, "rename", &[]).assert_code(0).assert_line("[WARN] No new blobs found");
    let left = fs::read_dir(installation.path("state")).expect("a folder").count();
    assert_eq!(left, 5, "the three files, record_ids and the history");
}

#[test]
fn a_kill_during_a_rewrite_in_place_loses_and_duplicates_nothing() {
    let mut faults = 0;
    for step in disk_steps() {
        let installation = installation().collect("maxThreads: 4");
        installation.run(&[]).assert_code(0);
        let path = installation.path("state/known_blobs");
        let known = fs::read_to_string(&path).expect("a file");
        fs::write(&path, format!("{EXPIRED}{known}{EXPIRED}")).expect("a file");
        add_blob(&installation);
        let fault = format!("{step}:kill-after");
        let mut pass = installation.pass();
        let (is_reached, run) =
            installation.run_command_with_fault(pass.env("COLLECTOR_DISK_LACKS", "rename"), &fault);
        if !is_reached {
            run.assert_code(0);
            break;
        }
        faults += 1;
        let after = run_without(&installation, "rename", &[]);
        assert_eq!(after.code, Some(0), "the pass after {fault}: {after}");
        assert_delivered_once(&installation);
        assert_eq!(installation.known_blobs().len(), 2, "{fault}");
        assert!(!installation.path("state/known_blobs.unreadable").exists(), "{fault}");
    }
    assert!(faults > 30, "a pass takes more than {faults} steps on the disk");
}

#[test]
fn logs_a_folder_that_cannot_be_synced_only_for_debugging() {
    let installation = installation().setting("log: { debug: true }");
    let run = run_without(&installation, "folder-sync", &[]);
    run.assert_code(0).assert_line_with(&["[DEBUG] The file system cannot sync the folder"]);
    assert!(!run.stderr.contains("[ERROR]") && !run.stderr.contains("[WARN]"), "{run}");
    assert_delivered_once(&installation);
}

#[test]
fn keeps_collecting_if_a_compaction_fails() {
    let installation = installation();
    installation.run(&[]).assert_code(0);
    let path = installation.path("state/known_blobs");
    let known = fs::read_to_string(&path).expect("a file");
    fs::write(&path, format!("nonsense\n{EXPIRED}{known}torn,2026-1")).expect("a file");
    let obstacle = installation.path("state/known_blobs.new");
    fs::create_dir(&obstacle).expect("a folder");
    add_blob(&installation);
    let run = installation.run(&[]);
    run.assert_code(0).assert_line_with(&[
        "[WARN] cannot replace",
        "known_blobs",
        "the file keeps expired lines",
    ]);
    run.assert_line_with(&["[WARN] The expired lines of known_blobs stay", "cannot replace"]);
    assert_delivered_once(&installation);
    fs::remove_dir(&obstacle).expect("a folder");
    installation.run(&[]).assert_code(0).assert_line("[WARN] No new blobs found");
    assert_eq!(installation.known_blobs().len(), 2);
}

#[test]
fn exits_with_74_if_a_state_file_is_not_regular() {
    for name in ["known_blobs", "journal", "progress", "known_blobs.unreadable", "journal.unreadable"] {
        let installation = installation();
        fs::create_dir(installation.path("state")).expect("a folder");
        let path = installation.path("state").join(name);
        let assert_rejected = |kind: &str| {
            installation.run(&[]).assert_code(74).assert_line_with(&["[ERROR] cannot", name, kind]);
            let check = installation.run(&["check"]);
            assert!(check.stdout.contains(kind), "{name}: {check}");
        };
        make_fifo(&path);
        assert_rejected("it is a FIFO, but must be a regular file");
        fs::remove_file(&path).expect("a FIFO");
        let listener = UnixListener::bind(&path).expect("a socket");
        assert_rejected("it is a socket");
        drop(listener);
        fs::remove_file(&path).expect("a socket");
        symlink("/dev/zero", &path).expect("a link");
        assert_rejected("it is a device");
        fs::remove_file(&path).expect("a link");
        let target = installation.path("target");
        fs::write(&target, "not the collector's").expect("a file");
        symlink(&target, &path).expect("a link");
        // Only root can give a link to another user.
        if lchown(&path, Some(54321), Some(54321)).is_ok() {
            assert_rejected("is a symbolic link of another user (uid 54321)");
            assert_eq!(fs::read_to_string(&target).expect("a file"), "not the collector's");
        }
    }
    let installation = installation();
    fs::create_dir(installation.path("state")).expect("a folder");
    make_fifo(&installation.path("state/progress"));
    installation.run(&["status"]).assert_code(74).assert_line_with(&["progress", "it is a FIFO"]);
    let installation = self::installation();
    fs::create_dir_all(installation.path("state/record_ids")).expect("a folder");
    make_fifo(&installation.path("state/record_ids/9999-01-01T00.file"));
    installation.run(&[]).assert_code(74).assert_line_with(&["record_ids", "it is a FIFO"]);
}

#[test]
fn a_folder_of_another_user_exits_with_74_and_names_the_command_that_gives_it_to_the_collectors_user() {
    const USER: u32 = 54321;
    let installation = installation();
    let config = installation.config_file();
    if chown(&config, Some(USER), Some(USER)).is_err() {
        return; // only root can run the program as another user
    }
    set_mode(&installation.path(""), 0o755);
    for folder in ["state", "output"] {
        fs::create_dir(installation.path(folder)).expect("a folder");
        fs::write(installation.path(folder).join("left"), "by another user").expect("a file");
    }
    set_mode(&installation.path("state"), 0o700);
    let pass = || Run::of(installation.pass().uid(USER).gid(USER));
    for folder in ["state", "output"] {
        let run = pass();
        let folder = installation.path(folder).display().to_string();
        run.assert_code(74).assert_line_with(&[
            "[ERROR]",
            &folder,
            "Permission denied",
            "belongs to another user",
        ]);
        let command =
            run.stderr.split_once("run as root: ").and_then(|(_, rest)| rest.split_once(" (")).expect("it").0;
        assert_eq!(command, format!("chown -R {USER}:{USER} {folder}"));
        let words: Vec<_> = command.split(' ').collect();
        assert!(Command::new(words[0]).args(&words[1..]).status().expect("coreutils").success());
    }
    pass().assert_code(0);
    let left = fs::metadata(installation.path("output/left")).expect("a file");
    assert_eq!((left.uid(), left.gid()), (USER, USER));
    fs::remove_file(installation.path("output/left")).expect("our file");
    assert_delivered_once(&installation);
}

#[test]
fn metrics_replace_only_regular_files() {
    let installation = installation().setting("metrics: { path: fifo }");
    make_fifo(&installation.path("fifo"));
    installation.run(&[]).assert_code(78).assert_line_with(&["metrics.path", "fifo is a FIFO"]);
    assert!(fs::metadata(installation.path("fifo")).expect("a FIFO").file_type().is_fifo());
}

#[test]
fn a_file_at_its_maximum_size_is_an_error_and_loses_nothing() {
    let installation = Installation::new();
    for _ in 0..4 {
        installation.contoso.add_blob(FEED, NewBlob::records(20).created(hours_ago(3)));
    }
    let program = installation.command(&[]).get_program().to_owned();
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -f 8; exec \"$0\" \"$@\""]).arg(program);
    shell.arg("--config").arg(installation.config_file()).env_clear();
    let run = Run::of(shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()));
    run.assert_code(74).assert_line_with(&["[ERROR]", "File too large", "raise the limit"]);
    installation.run(&[]).assert_code(0);
    assert_delivered_once(&installation);
}

#[test]
fn warns_if_others_can_write_to_the_working_directory() {
    let installation = installation();
    fs::create_dir(installation.path("state")).expect("a folder");
    let warning = "Other users can write to collect.workingDir";
    for (mode, is_warned) in [(0o777, true), (0o1777, true), (0o770, false)] {
        set_mode(&installation.path("state"), mode);
        let (pass, check) = (installation.run(&[]), installation.run(&["check"]));
        pass.assert_code(0);
        assert_eq!(pass.stderr.contains(&format!("[WARN] {warning}")), is_warned, "{mode:o}: {pass}");
        assert_eq!(check.stdout.contains(warning), is_warned, "{mode:o}: {check}");
    }
}

#[test]
fn logs_five_unreadable_lines_and_counts_the_rest() {
    let installation = installation();
    fs::create_dir(installation.path("state")).expect("a folder");
    fs::write(installation.path("state/known_blobs"), "nonsense\n".repeat(300)).expect("a file");
    let run = installation.run(&[]);
    run.assert_code(0).assert_line_with(&["[WARN] Line 5 of", "cannot be read"]);
    run.assert_line_with(&["[WARN] … and 295 more lines of", "known_blobs"]);
    assert_eq!(run.stderr.matches("[WARN]").count(), 6, "{run}");
}

#[test]
fn rejects_a_configuration_of_half_a_megabyte_of_brackets() {
    let installation = Installation::new();
    fs::write(installation.path("brackets.yaml"), "[".repeat(500_000)).expect("a file");
    let run = installation.run_bare(&["--config", "brackets.yaml"]);
    run.assert_code(78).assert_line_with(&["brackets.yaml:1:101: is nested more than 100 levels deep"]);
}

#[test]
fn rejects_output_paths_that_are_inputs_or_state() {
    let installation = installation();
    for (path, owner) in [("with.yaml", "the configuration itself"), ("state/progress", "the state")] {
        let config = format!("{}metrics: {{ path: {path} }}\n", installation.config());
        fs::write(installation.path("with.yaml"), &config).expect("a file");
        let run = installation.run_bare(&["--config", "with.yaml"]);
        run.assert_code(78).assert_line_with(&["metrics.path", path, &format!("is also a file of {owner}")]);
        assert_eq!(fs::read_to_string(installation.path("with.yaml")).expect("a file"), config);
    }
    let config = format!(
        "{}log: {{ path: ./secret }}\n",
        installation.config_with_credential("client_secret_file: secret")
    );
    fs::write(installation.path("secret"), "a-secret").expect("a file");
    fs::write(installation.path("with.yaml"), config).expect("a file");
    let run = installation.run_bare(&["--config", "with.yaml"]);
    run.assert_code(78).assert_line_with(&["log.path", "is also a file of tenants[0].client_secret_file"]);
    assert_eq!(fs::read_to_string(installation.path("secret")).expect("a file"), "a-secret");
}

#[test]
fn rejects_a_path_with_shell_syntax() {
    for path in ["~/office365.prom", "$HOME/office365.prom"] {
        let installation = installation().setting(&format!("metrics: {{ path: {path} }}"));
        let run = installation.run(&[]);
        run.assert_code(78).assert_line_with(&["metrics.path: \"", path, "${HOME}"]);
        assert!(!installation.path("~").exists() && !installation.path("state").exists());
    }
}

#[test]
fn accepts_a_secret_file_with_a_byte_order_mark_and_line_breaks() {
    let installation = installation();
    let config = installation.config();
    let (_, rest) = config.split_once("client_secret: ").expect("a secret");
    let secret = rest.lines().next().expect("a line");
    let path = installation.path("secret");
    fs::write(&path, format!("\u{feff}{secret} \r\n\n")).expect("a file");
    set_mode(&path, 0o600);
    let config = installation.config_with_credential("client_secret_file: secret");
    fs::write(installation.path("with.yaml"), config).expect("a file");
    installation.run_bare(&["--config", "with.yaml"]).assert_code(0);
    assert_delivered_once(&installation);
}

#[test]
fn reads_a_configuration_of_twenty_thousand_tenants() {
    let installation = Installation::new();
    let mut text = String::from("output: { stdout: { enabled: true } }\ntenants:\n");
    for number in 0..20_000 {
        text.extend([
            &*format!("  - tenant_id: 0a1b2c3d-0000-4000-8000-{number:012x}\n"),
            "    client_id: 0a1b2c3d-0000-4000-8000-0000000000c1\n    client_secret: 'a secret'\n",
            &*format!("    name: tenant-{number}\n    subscriptions: [ DLP.All ]\n"),
        ]);
    }
    assert!(text.len() > 3 << 20, "the configuration has more than 3 MiB");
    fs::write(installation.path("many.yaml"), text).expect("a file");
    set_mode(&installation.path("many.yaml"), 0o600);
    let run = installation.run_bare(&["--config", "many.yaml", "status"]);
    run.assert_code(1); // no feed has succeeded yet
    assert_eq!(run.stdout.lines().count(), 20_001);
}

/// Mounts each file of the state on its own, as containers can.
#[test]
#[ignore = "needs root and unshare: cargo test --test tests -- --ignored single_mounted_files"]
fn rewrites_single_mounted_files_in_place() {
    let installation = installation();
    installation.run(&[]).assert_code(0);
    add_blob(&installation);
    let state = installation.path("state");
    let path = state.join("known_blobs");
    let known = fs::read_to_string(&path).expect("a file");
    fs::write(&path, format!("{EXPIRED}{known}{EXPIRED}")).expect("a file");
    let outside = installation.path("outside");
    fs::create_dir(&outside).expect("a folder");
    for name in ["known_blobs", "journal", "progress"] {
        fs::copy(state.join(name), outside.join(name)).expect("a file");
    }
    let script = "for name in known_blobs journal progress; do mount --bind \"$1/$name\" \"$2/$name\"; done; \
                  shift 2; exec \"$0\" --config \"$1\"";
    let program = installation.command(&[]).get_program().to_owned();
    for pass in 0..2 {
        let mut unshare = Command::new("unshare");
        unshare.args(["-m", "sh", "-ec", script]).arg(&program);
        unshare.args([&outside, &state, &installation.config_file()]);
        unshare.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        unshare.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Run::of(&mut unshare).assert_code(0);
        assert_delivered_once(&installation);
        let known = fs::read_to_string(outside.join("known_blobs")).expect("a file");
        assert!(known.lines().count() == 2 && !known.contains("gone"), "pass {pass}: {known}");
    }
}
