//! The command-line program: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    office_audit_log_collector::run(std::env::args()).into()
}
