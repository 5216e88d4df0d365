//! Output files that logrotate rotates while passes write them, and that rsyslog and syslog-ng follow. On Debian:
//! `apt-get install logrotate rsyslog`; `tests/interop/install` installs syslog-ng.
//!
//! ```text
//! INTEROP=FOLDER cargo test --locked --test tests -- --ignored interop_rotation
//! ```

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use simulator::{Fault, NewBlob, Operation, Requests};

use crate::{
    rotation::{change_during_a_batch, start},
    support::{
        Installation, Run, hours_ago,
        process::{output_of, wait_until},
        set_mode,
        syslog_daemon::{rsyslogd, syslog_ng},
    },
};

const FEED: &str = "Audit.General";

/// Options of logrotate that rename a file and leave it readable.
const BY_RENAMING: [&str; 5] = [
    "create",
    "nocreate",
    "create\n dateext\n dateformat -%Y%m%d-%s",
    "create\n olddir ../old\n createolddir 0755",
    "nocreate\n compress\n delaycompress",
];

/// Options of logrotate that compress a file at once and delete the original.
const BY_COMPRESSING: [&str; 2] = ["nocreate\n compress", "create\n compress\n nodelaycompress"];

/// Rotates the output files with these options.
fn rotate(installation: &Installation, options: &str) {
    let config = installation.path("logrotate.conf");
    let files = installation.path("output/*.json");
    let text = format!("{} {{\n rotate 100\n missingok\n notifempty\n {options}\n}}\n", files.display());
    fs::write(&config, text).expect("a writable folder");
    set_mode(&config, 0o600);
    let logrotate = Command::new("/usr/sbin/logrotate")
        .args(["--force", "--state"])
        .arg(installation.path("logrotate.state"))
        .arg(&config)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let output = output_of(logrotate.expect("logrotate: on Debian, apt-get install logrotate"));
    // It exits with an error when the pass removes or creates a file at the same moment, which is allowed.
    assert!(output.status.code().is_some(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Whether a file was rotated.
fn is_rotated(installation: &Installation) -> bool {
    ["output", "old"].into_iter().any(|folder| {
        fs::read_dir(installation.path(folder))
            .into_iter()
            .flatten()
            .any(|entry| entry.expect("a readable folder").file_name() != "AuditGeneral.json")
    })
}

/// The number of records for each Id in the output files, rotated and compressed ones included.
fn delivered(installation: &Installation) -> BTreeMap<String, usize> {
    let mut ids = BTreeMap::new();
    for folder in ["output", "old"] {
        for entry in fs::read_dir(installation.path(folder)).into_iter().flatten() {
            let path = entry.expect("a readable folder").path();
            let mut gzip = Command::new("gzip");
            gzip.args(["-dcf"]).arg(&path).stdout(Stdio::piped()).stderr(Stdio::piped());
            let output = output_of(gzip.spawn().expect("gzip"));
            assert!(
                output.status.success(),
                "{}: {}",
                path.display(),
                String::from_utf8_lossy(&output.stderr)
            );
            count_ids(&String::from_utf8(output.stdout).expect("UTF-8"), &mut ids);
        }
    }
    ids
}

fn count_ids(text: &str, ids: &mut BTreeMap<String, usize>) {
    for line in text.lines() {
        let id = simulator::id_of(line).unwrap_or_else(|| panic!("not a whole record: {line}"));
        *ids.entry(id).or_default() += 1;
    }
}

/// Asserts that each Id that the simulator served was delivered, and at most this number of times.
#[track_caller]
fn assert_each(installation: &Installation, ids: &BTreeMap<String, usize>, most: usize, options: &str) {
    assert!(is_rotated(installation), "{options}: logrotate has rotated nothing");
    let served = installation.contoso.ids(FEED);
    let missing = served.iter().filter(|id| !ids.contains_key(*id)).count();
    let repeated: Vec<_> = ids.values().filter(|count| **count > most).collect();
    assert!(
        missing == 0 && repeated.is_empty(),
        "{options}: {missing} of {} records are missing, {} were delivered more than {most} times",
        served.len(),
        repeated.len()
    );
}

/// Runs passes. Calls `during` again and again while each of them runs, with the number of calls before in this pass, until it
/// returns false.
fn passes(installation: &Installation, mut during: impl FnMut(u32) -> bool) -> Vec<Run> {
    let slow = Fault::alter("slow", |_, answer| {
        thread::sleep(Duration::from_millis(20));
        answer
    });
    installation.simulator.fault(Requests::to(Operation::FetchBlob).always(), slow);
    (0..6)
        .map(|pass| {
            for _ in 0..20 {
                installation.contoso.add_blob(FEED, NewBlob::records(20).created(hours_ago(10 - pass)));
            }
            let mut child = start(installation, "");
            let mut calls = 0;
            while child.try_wait().expect("a child of this process").is_none() && during(calls) {
                calls += 1;
                thread::sleep(Duration::from_millis(20));
            }
            Run::finish(child)
        })
        .collect()
}

fn installation() -> Installation {
    Installation::new().collect("maxThreads: 2")
}

#[test]
#[ignore = "needs logrotate: cargo test --test tests -- --ignored interop_rotation"]
fn logrotate_renaming_during_passes_loses_and_doubles_nothing() {
    for options in BY_RENAMING {
        let installation = installation();
        // With `delaycompress` a file is compressed by the second rotation, which must not be in the same pass.
        let most = if options.contains("delaycompress") { 1 } else { 10 };
        for run in passes(&installation, |before| {
            rotate(&installation, options);
            before + 1 < most
        }) {
            run.assert_code(0);
        }
        assert_each(&installation, &delivered(&installation), 1, options);
    }
}

#[test]
#[ignore = "needs logrotate: cargo test --test tests -- --ignored interop_rotation"]
fn logrotate_compressing_during_passes_loses_nothing() {
    for options in BY_COMPRESSING {
        let installation = installation();
        for run in passes(&installation, |before| {
            rotate(&installation, options);
            before < 9
        }) {
            run.assert_code(0);
        }
        // A batch that is written again may already be in a compressed file, and so may its second copy.
        assert_each(&installation, &delivered(&installation), 3, options);
    }
}

#[test]
#[ignore = "needs logrotate: cargo test --test tests -- --ignored interop_rotation"]
fn logrotate_truncating_between_passes_loses_and_doubles_nothing() {
    let installation = installation();
    for _ in 0..4 {
        for run in passes(&installation, |_| false) {
            run.assert_code(0);
        }
        rotate(&installation, "copytruncate");
    }
    assert_each(&installation, &delivered(&installation), 1, "copytruncate");
}

#[test]
#[ignore = "needs logrotate: cargo test --test tests -- --ignored interop_rotation"]
fn logrotate_within_a_batch_loses_nothing() {
    let repeating = BY_COMPRESSING.iter().chain(&["copytruncate"]).map(|options| (*options, 2));
    for (options, most) in BY_RENAMING.map(|options| (options, 1)).into_iter().chain(repeating) {
        for (installation, run) in
            change_during_a_batch("audit.json", |installation, _| rotate(installation, options))
        {
            assert!(
                run.code == Some(0) || options == "copytruncate" && run.code == Some(1),
                "{options}: {run}"
            );
            installation.run(&[]).assert_code(0);
            assert_each(&installation, &delivered(&installation), most, options);
        }
    }
}

/// A program that follows the output file and writes each line to another file. Dropping it ends the program.
struct Follower {
    program: Child,
    received: PathBuf,
}

impl Follower {
    fn start(installation: &Installation, command: &mut Command) -> Self {
        let program =
            command.stdin(Stdio::null()).spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { program, received: installation.path("received") }
    }

    /// Waits until it has received every record, and asserts that it has received each once.
    #[track_caller]
    fn assert_each_once(&self, installation: &Installation) {
        let served = installation.contoso.ids(FEED).len();
        let text = || fs::read_to_string(&self.received).unwrap_or_default();
        wait_until("the follower has received every record", || text().lines().count() >= served);
        let mut ids = BTreeMap::new();
        count_ids(&text(), &mut ids);
        assert_each(installation, &ids, 1, "the follower");
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.program.kill().and_then(|()| self.program.wait()).expect("a child of this process");
    }
}

/// Runs passes with a rotation in each, with the options of the shipped configuration.
fn rotated_passes(installation: &Installation) {
    for run in passes(installation, |_| {
        rotate(installation, "nocreate\n compress\n delaycompress");
        false
    }) {
        run.assert_code(0);
    }
}

#[test]
#[ignore = "needs logrotate and rsyslog: cargo test --test tests -- --ignored interop_rotation"]
fn rsyslog_receives_each_record_once_during_rotation() {
    let installation = installation();
    fs::create_dir_all(installation.path("output")).expect("a new folder");
    let config = format!(
        "global(workDirectory=\"{}\" maxMessageSize=\"8m\")\nmodule(load=\"imfile\")\n\
         template(name=\"office365\" type=\"string\" string=\"%msg%\\n\")\n\
         ruleset(name=\"office365\") {{ action(type=\"omfile\" file=\"{}\" template=\"office365\") }}\n\
         input(type=\"imfile\" file=\"{}\" tag=\"office365\" ruleset=\"office365\")\n",
        installation.path("spool").display(),
        installation.path("received").display(),
        installation.path("output/*.json").display(),
    );
    let follower = Follower::start(&installation, &mut rsyslogd(&installation, &config));
    rotated_passes(&installation);
    follower.assert_each_once(&installation);
}

#[test]
#[ignore = "needs logrotate and syslog-ng: cargo test --test tests -- --ignored interop_rotation"]
fn syslog_ng_receives_each_record_once_during_rotation() {
    let installation = installation();
    fs::create_dir_all(installation.path("output")).expect("a new folder");
    let config = format!(
        "@version: 3.38\n\
         options {{ time-reopen(1); log-msg-size(8388608); }};\n\
         source office365 {{ file(\"{}\" follow-freq(0.1) flags(no-parse)); }};\n\
         destination received {{ file(\"{}\" template(\"$MSG\\n\")); }};\n\
         log {{ source(office365); destination(received); }};\n",
        installation.path("output/AuditGeneral.json").display(),
        installation.path("received").display(),
    );
    let follower = Follower::start(&installation, &mut syslog_ng(&installation, &config));
    rotated_passes(&installation);
    follower.assert_each_once(&installation);
}
