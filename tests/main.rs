//! The collector's tests, by behaviour. Most run the real program against the simulator, in an installation of their
//! own, and compare what was delivered with what was served, record by record.

#![allow(clippy::print_stderr, reason = "a failure shows the seed or the fault that led to it")]

mod support;

mod api_errors;
mod architecture;
mod bounds;
mod check;
mod clocks;
mod commands;
mod costs;
mod credentials;
mod csv;
mod dead_letters;
mod docs;
mod durability;
mod exactly_once;
mod failure_scope;
mod faults;
mod filter;
mod fluentd;
mod graylog;
mod http_output;
mod interop;
mod interop_http;
mod interop_rotation;
mod log_lines;
mod metrics;
mod network;
mod packaging;
mod pass;
mod paths;
mod readme;
mod redaction;
mod rotation;
mod salvage;
mod state_damage;
mod stdout;
mod throttling;
mod trouble;
mod unusual_answers;
