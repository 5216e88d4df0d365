//! Fault injection: makes the n-th disk operation of a process fail, or kills the process there.
//!
//! Debug builds only, which tests run; a release build contains none of it.
//!
//! | variable | effect |
//! | --- | --- |
//! | `COLLECTOR_DISK_FAULT=7:full` | the seventh step has this kind of fault |
//! | `COLLECTOR_DISK_FAULT=7+:full` | so do all steps after it |
//! | `COLLECTOR_DISK_FAULT=5:wait,7:full` | several faults |
//! | `COLLECTOR_DISK_FAULT_MARK=FILE` | a faulty step creates the file, so that a test knows that it was reached |
//! | `COLLECTOR_DISK_LACKS=rename folder-sync` | the file system supports neither of these |
//! | `COLLECTOR_DISK_STEPS=FILE` | every step is appended to the file, one a line |
//! | `COLLECTOR_DISK_SYNC=skip` | no step waits for the disk |
//!
//! The kinds of faults: `full` (no space), `short` (no space after half of the bytes), `broken` (an I/O error), `kill-before`,
//! `kill-after`, `wait` (until the mark is removed, so that a test can change files at this point) and `panic` (a bug).
//!
//! Tests read files back from the page cache, where a sync changes nothing. Hundreds of passes with forty syncs each would
//! spend most of their time on waiting for the disk.

use std::{fs::File, io};

/// A disk operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A file is opened or created.
    Open,
    /// Bytes are appended.
    Write,
    /// A file is synced.
    Sync,
    /// A file is truncated.
    Cut,
    /// A file is renamed over another one.
    Rename,
    /// The new contents get a name of their own until the file is rewritten in place.
    Keep,
    /// A folder is synced.
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

    struct Fault {
        step: u64,
        and_after: bool,
        kind: String,
    }

    /// The number of the current step, from 1.
    static STEP: AtomicU64 = AtomicU64::new(0);

    fn faults() -> &'static [Fault] {
        static FAULTS: OnceLock<Vec<Fault>> = OnceLock::new();
        let parse = |text: &str| {
            let (number, kind) = text.split_once(':')?;
            let step = number.trim_end_matches('+').parse().ok()?;
            Some(Fault { step, and_after: number.ends_with('+'), kind: kind.to_owned() })
        };
        FAULTS.get_or_init(|| {
            let text = std::env::var("COLLECTOR_DISK_FAULT").unwrap_or_default();
            text.split(',').filter_map(parse).collect()
        })
    }

    /// Returns the kind of the current step's fault, if it has one.
    fn current() -> Option<&'static str> {
        let step = STEP.load(Ordering::SeqCst);
        let is_current = |fault: &&Fault| step == fault.step || (fault.and_after && step > fault.step);
        faults().iter().find(is_current).map(|fault| {
            if let Ok(mark) = std::env::var("COLLECTOR_DISK_FAULT_MARK") {
                fs::write(mark, "reached").expect("a writable mark");
            }
            fault.kind.as_str()
        })
    }

    fn wait_until_the_mark_is_removed() {
        let mark = std::env::var_os("COLLECTOR_DISK_FAULT_MARK").expect("the variable with the mark's path");
        while std::path::Path::new(&mark).exists() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    fn record(step: Step) {
        if let Some(path) = std::env::var_os("COLLECTOR_DISK_STEPS") {
            let file = fs::OpenOptions::new().append(true).create(true).open(path);
            let written = file.and_then(|mut file| writeln!(file, "{step:?}"));
            written.expect("a writable file of steps");
        }
    }

    /// Syncs a file or folder, unless the test skips it. Pipes and devices are always synced: they return an error.
    pub(in crate::disk) fn sync(file: &File, sync: fn(&File) -> io::Result<()>) -> io::Result<()> {
        static IS_SKIPPED: OnceLock<bool> = OnceLock::new();
        let is_skipped =
            IS_SKIPPED.get_or_init(|| std::env::var("COLLECTOR_DISK_SYNC").is_ok_and(|it| it == "skip"));
        let kind = file.metadata()?.file_type();
        if *is_skipped && (kind.is_file() || kind.is_dir()) { Ok(()) } else { sync(file) }
    }

    pub(in crate::disk) fn before(step: Step) -> io::Result<()> {
        STEP.fetch_add(1, Ordering::SeqCst);
        record(step);
        match current() {
            Some("full" | "short") if step == Step::Cut => Ok(()), // needs no space
            Some("full" | "short") => Err(io::ErrorKind::StorageFull.into()),
            Some("broken") => Err(io::Error::other("Input/output error")),
            Some("kill-before") => std::process::abort(),
            Some("panic") => panic!("a fault\nof the disk"),
            Some("wait") => {
                wait_until_the_mark_is_removed();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    pub(in crate::disk) fn before_write(bytes: &[u8]) -> io::Result<&[u8]> {
        match before(Step::Write) {
            Err(_) if current() == Some("short") => Ok(&bytes[..bytes.len() / 2]),
            Err(error) => Err(error),
            Ok(()) => Ok(bytes),
        }
    }

    pub(in crate::disk) fn after(_: Step) {
        let is_planned = || faults().iter().any(|fault| fault.kind == "kill-after");
        if is_planned() && current() == Some("kill-after") {
            std::process::abort();
        }
    }

    /// Returns whether the file system of the test lacks this feature.
    pub(in crate::disk) fn lacks(feature: &str) -> bool {
        static LACKS: OnceLock<String> = OnceLock::new();
        let lacks = LACKS.get_or_init(|| std::env::var("COLLECTOR_DISK_LACKS").unwrap_or_default());
        lacks.split(' ').any(|lacking| lacking == feature)
    }
}

pub(super) use active::{after, before, before_write, lacks, sync};
