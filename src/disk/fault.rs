//! Faults on demand: makes the n-th step that a process takes on the disk fail, or the process die there.
//!
//! In debug builds only, which is what tests run; a release build has none of it. The variable
//! `COLLECTOR_DISK_FAULT=7:full` strikes at the seventh step with one of [`KINDS`]; with `7+:full` at that one and all
//! that follow; with `5:wait,7:full` at both. A struck step leaves `COLLECTOR_DISK_FAULT_MARK`, a file, so that a test
//! knows whether it was reached. `COLLECTOR_DISK_LACKS=rename folder-sync` is a file system that supports neither of
//! these.
//! Every step is written down, a line each, in the file that `COLLECTOR_DISK_STEPS` names, for a test to count.
//! With `COLLECTOR_DISK_SYNC=skip` no step waits for the disk: a test reads files back from the page cache, where a sync
//! changes nothing, and hundreds of passes with forty syncs each would spend most of their time on it.

use std::{fs::File, io};

/// What can be made to happen.
///
/// `wait` lets the process wait until the mark is removed, so that a test can change files at this point.
pub const KINDS: [&str; 6] = ["full", "short", "broken", "kill-before", "kill-after", "wait"];

/// What is done to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A file is opened or made.
    Open,
    /// Bytes are appended.
    Write,
    /// A file is made durable.
    Sync,
    /// A file's end is cut off.
    Cut,
    /// A file takes another's name.
    Rename,
    /// A new text is kept under a name of its own until the file is rewritten in place.
    Keep,
    /// A name is made durable.
    SyncFolder,
}

#[cfg(not(debug_assertions))]
mod active {
    use super::{File, Step, io};

    pub(in crate::disk) fn sync(file: &File, sync: fn(&File) -> io::Result<()>) -> io::Result<()> {
        sync(file)
    }

    pub(in crate::disk) fn before(_: Step) -> io::Result<()> {
        Ok(())
    }

    pub(in crate::disk) fn before_write(bytes: &[u8]) -> io::Result<&[u8]> {
        Ok(bytes)
    }

    pub(in crate::disk) fn after(_: Step) {}

    pub(in crate::disk) fn lacks(_: &str) -> bool {
        false
    }
}

#[cfg(debug_assertions)]
mod active {
    use std::{
        fs,
        io::Write,
        sync::{
            OnceLock,
            atomic::{AtomicU64, Ordering},
        },
    };

    use super::{File, Step, io};

    struct Plan {
        strikes_at: u64,
        and_after: bool,
        kind: String,
    }

    static TAKEN: AtomicU64 = AtomicU64::new(0);

    fn plans() -> &'static [Plan] {
        static PLANS: OnceLock<Vec<Plan>> = OnceLock::new();
        let read = |text: &str| {
            let (number, kind) = text.split_once(':')?;
            let strikes_at = number.trim_end_matches('+').parse().ok()?;
            Some(Plan { strikes_at, and_after: number.ends_with('+'), kind: kind.to_owned() })
        };
        PLANS.get_or_init(|| {
            let text = std::env::var("COLLECTOR_DISK_FAULT").unwrap_or_default();
            text.split(',').filter_map(read).collect()
        })
    }

    /// The fault that strikes now, if one does.
    fn struck() -> Option<&'static str> {
        let taken = TAKEN.load(Ordering::SeqCst);
        let is_struck =
            |plan: &&Plan| taken == plan.strikes_at || (plan.and_after && taken > plan.strikes_at);
        plans().iter().find(is_struck).map(|plan| {
            if let Ok(mark) = std::env::var("COLLECTOR_DISK_FAULT_MARK") {
                fs::write(mark, "struck").expect("the test gave a place for the mark");
            }
            plan.kind.as_str()
        })
    }

    fn wait_for_removal_of_the_mark() {
        let mark = std::env::var_os("COLLECTOR_DISK_FAULT_MARK").expect("the test gave a place for the mark");
        while std::path::Path::new(&mark).exists() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    fn write_down(step: Step) {
        if let Some(path) = std::env::var_os("COLLECTOR_DISK_STEPS") {
            let file = fs::OpenOptions::new().append(true).create(true).open(path);
            let written = file.and_then(|mut file| writeln!(file, "{step:?}"));
            written.expect("the test gave a place for the steps");
        }
    }

    /// Syncs a file or folder, unless the test does without. Pipes and devices are asked in any case: they refuse.
    pub(in crate::disk) fn sync(file: &File, sync: fn(&File) -> io::Result<()>) -> io::Result<()> {
        static IS_SKIPPED: OnceLock<bool> = OnceLock::new();
        let is_skipped =
            IS_SKIPPED.get_or_init(|| std::env::var("COLLECTOR_DISK_SYNC").is_ok_and(|it| it == "skip"));
        let kind = file.metadata()?.file_type();
        if *is_skipped && (kind.is_file() || kind.is_dir()) { Ok(()) } else { sync(file) }
    }

    pub(in crate::disk) fn before(step: Step) -> io::Result<()> {
        TAKEN.fetch_add(1, Ordering::SeqCst);
        write_down(step);
        match struck() {
            Some("full" | "short") if step == Step::Cut => Ok(()), // needs no room
            Some("full" | "short") => Err(io::ErrorKind::StorageFull.into()),
            Some("broken") => Err(io::Error::other("Input/output error")),
            Some("kill-before") => std::process::abort(),
            Some("wait") => {
                wait_for_removal_of_the_mark();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    pub(in crate::disk) fn before_write(bytes: &[u8]) -> io::Result<&[u8]> {
        match before(Step::Write) {
            Err(_) if struck() == Some("short") => Ok(&bytes[..bytes.len() / 2]),
            Err(error) => Err(error),
            Ok(()) => Ok(bytes),
        }
    }

    pub(in crate::disk) fn after(_: Step) {
        let is_due = || plans().iter().any(|plan| plan.kind == "kill-after");
        if is_due() && struck() == Some("kill-after") {
            std::process::abort();
        }
    }

    /// Whether the file system of the test lacks this feature.
    pub(in crate::disk) fn lacks(feature: &str) -> bool {
        static LACKING: OnceLock<String> = OnceLock::new();
        let lacking = LACKING.get_or_init(|| std::env::var("COLLECTOR_DISK_LACKS").unwrap_or_default());
        lacking.split(' ').any(|lacking| lacking == feature)
    }
}

pub(super) use active::{after, before, before_write, lacks, sync};
