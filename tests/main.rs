//! The collector's tests, by behaviour. Most run the real program against the simulator, in an installation of their
//! own, and compare what was delivered with what was served, record by record.

#![allow(clippy::print_stderr, reason = "a failure shows the seed or the fault that led to it")]

mod support;

mod api_errors;
mod architecture;
mod commands;
mod costs;
mod credentials;
mod docs;
mod exactly_once;
mod faults;
mod fluentd;
mod interop;
mod log_lines;
mod network;
mod pass;
mod readme;
mod state_damage;
mod trouble;
