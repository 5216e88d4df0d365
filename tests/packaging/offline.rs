//! `check --offline` on a machine that watches its system calls.

use std::fs;

use super::tool;
use crate::support::Installation;

#[test]
#[ignore = "needs strace: cargo test --test tests -- --ignored packaging::offline"]
fn check_offline_makes_no_system_call_of_the_network() {
    let installation = Installation::new()
        .setting("proxy: 'http://proxy.invalid:3128'")
        .with_output("  fluentd: { address: logs.invalid }\n  http: { url: 'https://logs.invalid/' }");
    let config = installation.config_file().display().to_string();
    let calls = installation.path("calls").display().to_string();
    let program = env!("CARGO_BIN_EXE_office_audit_log_collector");
    for (option, is_online) in [("--offline", false), ("--verbose", true)] {
        let traced = ["--follow-forks", "--trace=network", "--output", &calls, program, "-c", &config];
        let run = tool("strace", &[&traced[..], &["check", option]].concat());
        let made = fs::read_to_string(&calls).expect("a list of calls");
        assert_eq!(made.contains("socket("), is_online, "{option}: {made}{run}");
    }
}
