//! Collects the audit records of Microsoft 365 tenants from the Office 365 Management Activity API and delivers each of
//! them exactly once to files and other receivers.
//!
//! Every invocation makes **one collection pass** and exits; a systemd timer, cron or a person supplies the cadence.
//!
//! # One pass
//!
//! ```text
//! config ─▶ plan ─▶ scheduler ⇄ workers ──blobs──▶ writer ─▶ report ─▶ exit code
//!                   (main        (rayon   bounded   (one
//!                    thread)      pool)   channel    thread)
//! ```
//!
//! [`pass`] connects them. The **scheduler** owns the state of the pass and every policy: which job runs next, what is
//! retried and what fails. A **worker** runs one job, that is, one request, and returns one outcome. The **writer** is the
//! only one that uses outputs and state.
//!
//! # Invariants
//!
//! 1. A record is accepted by the outputs, then committed to the state, never the other way round (`pass::writer`).
//! 2. An output accepts records by positive evidence only ([`output`]).
//! 3. There is one writer: nothing else uses outputs or state while a pass runs (`pass::writer`).
//! 4. Everything is bounded: bytes and records in memory, pages, attempts, time ([`limits`], `pass::memory`).
//! 5. Progress is a set of blobs, not a point in time: downloads may finish in any order, and a failed blob is absent from
//!    the set ([`state::known_blobs`]).
//! 6. The token goes to the configured origin only ([`api::client`]).
//! 7. Listed = known + delivered + failed + gone + left for later, at every moment of a pass (`pass::scheduler`).
//! 8. A failure affects the scope of its request and nothing else: a blob, a feed, a tenant or an output ([`api::retry`]).
//! 9. Windows and expiry follow Microsoft's clock, which the responses contain; without one, nothing expires ([`clock`]).
//! 10. A record is identified by its tenant and its Id ([`records`]).
//! 11. The lock is on `known_blobs` and survives the replacement of that file (`state::lock`).
//!
//! # Which module may import which
//!
//! `main` parses the command line ([`cli`]) and calls one of the [`commands`], which may import everything; [`pass`] and
//! [`check`] may import everything else. [`api`], [`output`] and [`state`] never import each other; [`report`] reads what
//! [`state`] remembers. The vocabulary ([`feed`], [`delivery`], [`records`], [`filter`], [`csv`], [`json`], [`body`],
//! [`chunks`], [`clock`], `counters`, [`limits`], [`time`], [`disk`], [`error`], [`login`], [`network`], [`redact`],
//! [`suggest`]), [`machine`], [`units`] and [`config`] import none of these. `log` imports nothing of this crate. A test
//! holds this against the code.

pub mod cli;
pub mod commands;
pub mod config;

pub mod check;
pub mod pass;
pub mod verify;

pub mod api;
pub mod output;
pub mod state;

pub mod body;
pub mod chunks;
pub mod clock;
mod counters;
pub mod csv;
pub mod feed;
pub mod filter;
pub mod json;
pub mod records;

pub mod report;

pub mod delivery;
pub mod disk;
pub mod error;
pub mod exit;
pub mod limits;
pub mod log;
pub mod login;
pub mod machine;
pub mod network;
pub mod redact;
pub mod suggest;
pub mod time;
pub mod units;

/// Returns the configuration of the property tests: inputs that failed once are kept below
/// `tests/proptest-regressions`, by the path of the source file, and run again by every later test.
#[cfg(test)]
fn proptest_config() -> proptest::test_runner::Config {
    proptest::test_runner::Config::with_failure_persistence(
        proptest::test_runner::FileFailurePersistence::SourceParallel("tests/proptest-regressions"),
    )
}
