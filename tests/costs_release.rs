//! The cost of a blob in work that valgrind counts: instructions, and the calls of the kernel with which threads wait and wake
//! each other. Each figure is a difference between two passes, so that it does not contain the start of the program.
//! `.ci/run` runs this test with the release build:
//!
//! ```sh
//! cargo build --release
//! PROGRAM=target/release/office_audit_log_collector cargo test --test tests -- --ignored --nocapture costs_release
//! ```
//!
//! The bounds are for x86-64, a quarter above what was measured. A count hardly depends on the machine: valgrind simulates a
//! processor with AVX2 at most, also on one with AVX-512, and runs one thread at a time. Without AVX2, memory is copied by
//! other code, and the figures are 0 to 10 % lower. With a load of 10 to 20 runnable threads on two cores, and with 0 to
//! 100 ms of latency, instructions differed by less than 2 % between runs; threads wait for each other less often then, with
//! 3.0 to 4.4 calls of `futex` for a blob.

use std::{
    env, fs,
    path::Path,
    process::{Command, Stdio},
};

use simulator::{CONTENT_TYPES, NewBlob};

use crate::support::{Installation, Run, hours_ago};

/// The maximum number of instructions for a blob of ten records, 15.9 KB without compression. Measured: 276,500 to 278,200.
const INSTRUCTIONS_OF_BLOB_MAX: f64 = 350_000.0;

/// The maximum number of instructions for one more byte in a blob, without compression. Measured: 11.2 to 11.4.
const INSTRUCTIONS_OF_BYTE_MAX: f64 = 14.3;

/// The maximum number of instructions for decompressing a byte. Measured: 15.8 to 16.1.
const INSTRUCTIONS_OF_DECOMPRESSED_BYTE_MAX: f64 = 20.2;

/// The maximum number of calls of `futex` for a blob: a thread waits, or wakes another one. Measured: 6.0 to 6.3. The bound is
/// for a change of the structure: one more message for each blob is two more calls.
const FUTEX_CALLS_OF_BLOB_MAX: f64 = 8.0;

/// The counts of one pass, and the size of its blobs.
struct Counted {
    instructions: f64,
    futex_calls: f64,
    bytes: f64,
}

/// Counts the work of a pass over blobs with this number of records.
fn count(blobs: usize, records: usize, is_compressed: bool) -> Counted {
    // With few threads, so that each has its connection before the last blob of the smallest pass.
    let installation = Installation::new().collect("maxThreads: 8");
    installation.contoso.settings(|settings| settings.gzip = is_compressed);
    let mut bytes = 0;
    for number in 0..blobs {
        let blob = NewBlob::records(records).plain().created(hours_ago(3));
        bytes +=
            installation.contoso.add_blob(CONTENT_TYPES[number % CONTENT_TYPES.len()], blob).body().len();
    }
    let program = env::var_os("PROGRAM").expect("PROGRAM is the path of the release build");
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(program);
    let (profile, calls) = (installation.path("profile"), installation.path("calls"));
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=callgrind", "--fair-sched=yes", "--trace-syscalls=yes"])
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .arg(format!("--log-file={}", calls.display()))
        .arg(program)
        .arg("--quiet")
        .arg("--config")
        .arg(installation.config_file())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Run::of(&mut command).assert_code(0);
    assert_eq!(installation.output().values().map(Vec::len).sum::<usize>(), blobs * records);
    let profile = fs::read_to_string(profile).expect("the profile of callgrind");
    let total =
        profile.lines().find_map(|line| line.strip_prefix("totals: ")).expect("a line with the total");
    let calls = fs::read(calls).expect("the log of valgrind");
    Counted {
        instructions: total.trim().parse().expect("a number"),
        futex_calls: number(memchr::memmem::find_iter(&calls, "sys_futex (").count()),
        bytes: number(bytes),
    }
}

/// Returns a count as a number that can be divided.
fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).expect("a small count"))
}

#[test]
#[ignore = "needs valgrind: cargo build --release && PROGRAM=target/release/office_audit_log_collector \
            cargo test --test tests -- --ignored --nocapture costs_release"]
fn a_blob_and_a_byte_need_few_instructions_and_wake_ups() {
    const BLOBS: [usize; 2] = [50, 250];
    let few = count(BLOBS[0], 10, false);
    let many = count(BLOBS[1], 10, false);
    let large = count(BLOBS[0], 100, false);
    let compressed = count(BLOBS[0], 100, true);
    let blobs = number(BLOBS[1] - BLOBS[0]);
    let figures = [
        ("instructions of a blob", (many.instructions - few.instructions) / blobs, INSTRUCTIONS_OF_BLOB_MAX),
        (
            "instructions of a byte",
            (large.instructions - few.instructions) / (large.bytes - few.bytes),
            INSTRUCTIONS_OF_BYTE_MAX,
        ),
        (
            "instructions of decompressing a byte",
            (compressed.instructions - large.instructions) / large.bytes,
            INSTRUCTIONS_OF_DECOMPRESSED_BYTE_MAX,
        ),
        ("futex calls of a blob", (many.futex_calls - few.futex_calls) / blobs, FUTEX_CALLS_OF_BLOB_MAX),
    ];
    for (name, measured, max) in figures {
        eprintln!("{name}: {measured:.1} of at most {max:.1}");
    }
    for (name, measured, max) in figures {
        assert!(measured <= max, "{name}: {measured:.1} is more than {max:.1}");
    }
}
