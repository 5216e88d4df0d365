//! Collects the audit records of Microsoft 365 tenants from the Office 365 Management Activity API and delivers each of
//! them exactly once to files and other receivers.
//!
//! Every invocation makes **one collection pass** and exits; a systemd timer, cron, or a person supplies the cadence.
//!
//! # One pass
//!
//! ```text
//! config ─▶ plan ─▶ schedule ⇄ work ──blobs──▶ write ─▶ report ─▶ exit
//!                   (main      (rayon  bounded  (one
//!                    thread)    pool)  channel   thread)
//! ```
//!
//! [`pass`] joins them. The **schedule** owns all of the pass's state and every policy: whose turn it is, what is tried
//! again, what is given up. **Work** is what a pool thread does with one task: one request, one outcome. The **writer**
//! is the only one that touches outputs and state.
//!
//! # Invariants
//!
//! 1. Durable in the outputs, then in the state, never the other way round (`pass::writer`).
//! 2. One writer: nothing else touches outputs or state while a pass runs (`pass::writer`).
//! 3. Everything is bounded: bytes and records in memory, pages, tries, time ([`limits`], `pass::memory`).
//! 4. Progress is a set of blobs, not a point in time: the order of downloads is free, and a failed blob is just absent
//!    ([`state::known_blobs`]).
//! 5. The token goes to the configured origin only ([`api::client`]).
//! 6. Listed = known + delivered + failed + gone + left for later, at the end of every pass (`pass::scheduler`).
//! 7. A tenant's trouble stays that tenant's (`pass::scheduler`).
//! 8. What depends on the time of day follows Microsoft's clock, as its answers tell it; without one, nothing expires
//!    ([`clock`]).
//! 9. The lock is on `known_blobs`, and goes along when that file is replaced (`state::lock`).
//!
//! # Who may use whom
//!
//! `main` parses the command line ([`cli`]) and calls one of the [`commands`], which may use everything; [`pass`] and
//! [`check`] may use everything else. [`api`], [`output`] and [`state`] never use each other; [`report`] reads what
//! [`state`] remembers. The vocabulary ([`feed`], [`delivery`], [`records`], [`filter`], [`csv`], [`json`], [`body`], [`clock`],
//! [`limits`], [`time`], [`disk`], [`error`], [`login`], [`network`], [`redact`], [`suggest`]), [`units`] and [`config`] use none of these.
//! A test holds this against the code.

pub mod cli;
pub mod commands;
pub mod config;

pub mod check;
pub mod pass;

pub mod api;
pub mod output;
pub mod state;

pub mod body;
pub mod clock;
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
pub mod network;
pub mod redact;
pub mod suggest;
pub mod time;
pub mod units;

/// The configuration of the property tests: inputs that failed once are kept below `tests/proptest-regressions`, by the
/// path of the source file, and run again by every later test.
#[cfg(test)]
fn proptest_config() -> proptest::test_runner::Config {
    proptest::test_runner::Config::with_failure_persistence(
        proptest::test_runner::FileFailurePersistence::SourceParallel("tests/proptest-regressions"),
    )
}
