//! The tests of the collector, one module for each topic. Most run the real program against the simulator, each in its own
//! installation, and compare the delivered records with those that were served.

#![allow(clippy::print_stderr, reason = "a failed test prints its seed or its fault")]

mod support;

mod api_errors;
mod architecture;
mod bounds;
mod check;
mod clocks;
mod commands;
mod costs;
mod costs_release;
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
mod history;
mod http_output;
mod interop;
mod interop_http;
mod interop_identity;
mod interop_rotation;
mod interop_syslog;
#[cfg(feature = "kafka")]
mod kafka;
mod known_index;
mod log_lines;
mod managed_identity;
mod metrics;
mod migration;
mod network;
mod otlp;
mod packaging;
mod pass;
mod paths;
mod readme;
mod redaction;
mod rotation;
mod salvage;
mod server_faults;
mod service;
mod state_damage;
mod status_page;
mod stdout;
mod syslog;
mod throttling;
mod unusual_responses;
mod verify;
