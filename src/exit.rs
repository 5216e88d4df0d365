//! The exit codes, and what leads to each of them. No other module knows a number.

use std::process::ExitCode;

use crate::{
    config::ConfigError,
    disk::FileError,
    output::OutputError,
    pass::{Mode, PassError, PassOutcome},
    report::{Stop, Summary},
    state::StateError,
    units::ScheduleError,
    verify::VerifyError,
};

/// The exit code of a panic, which Rust's runtime sets: a bug of this program. Nothing is lost, because a blob is known
/// only after it was committed.
pub const PANIC: u8 = 101;

/// How the program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: everything that was asked for is done.
    Complete,
    /// 1: a tenant, feed, blob or output failed, and the next pass tries again; or `check`, `status` or `verify` found a
    /// problem.
    TryAgain,
    /// 64: the command line is wrong.
    Usage,
    /// 74: state or output cannot be read or written.
    Storage,
    /// 75: another pass holds the lock.
    Locked,
    /// 77: no tenant could log in.
    NoLogin,
    /// 78: the configuration is wrong.
    Configuration,
    /// 130: ended by SIGINT, after committing what was delivered.
    Interrupted,
    /// 143: ended by SIGTERM, after committing what was delivered.
    Terminated,
}

impl Exit {
    /// Returns the number: 0, 1, one of `sysexits.h`, or 128 plus the number of a signal.
    pub fn code(self) -> u8 {
        match self {
            Self::Complete => 0,
            Self::TryAgain => 1,
            Self::Usage => 64,
            Self::Storage => 74,
            Self::Locked => 75,
            Self::NoLogin => 77,
            Self::Configuration => 78,
            Self::Interrupted => 130,
            Self::Terminated => 143,
        }
    }

    /// Returns how a pass ends the program.
    pub fn of_pass(result: &Result<PassOutcome, PassError>, mode: Mode) -> Self {
        let PassOutcome { summary, failures } = match result {
            Ok(outcome) => outcome,
            Err(error) => return error.into(),
        };
        match Self::from(summary) {
            exit @ (Self::Interrupted | Self::Terminated | Self::NoLogin) => exit,
            _ if failures.iter().any(OutputError::is_storage) => Self::Storage,
            exit if failures.is_empty() => exit,
            _ if mode == Mode::Retrieve => Self::Complete, // the reader of standard output has closed it
            _ => Self::TryAgain,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

impl From<&Summary> for Exit {
    fn from(summary: &Summary) -> Self {
        match summary.stop {
            Some(stop @ (Stop::Interrupted | Stop::Terminated)) => stop.into(),
            _ if !summary.any_login => Self::NoLogin,
            _ if summary.is_complete() => Self::Complete,
            _ => Self::TryAgain,
        }
    }
}

impl From<Stop> for Exit {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Interrupted => Self::Interrupted,
            Stop::Terminated => Self::Terminated,
            Stop::Deadline | Stop::Stragglers | Stop::Writer | Stop::State => Self::TryAgain,
        }
    }
}

impl From<&PassError> for Exit {
    fn from(error: &PassError) -> Self {
        match error {
            PassError::State(error) => error.into(),
            PassError::Client(_) | PassError::Threads { .. } => Self::Configuration,
        }
    }
}

impl From<&VerifyError> for Exit {
    fn from(error: &VerifyError) -> Self {
        match error {
            VerifyError::Pass(error) => error.into(),
            VerifyError::File(error) => error.into(),
            VerifyError::NoFiles => Self::Usage,
        }
    }
}

impl From<&StateError> for Exit {
    fn from(error: &StateError) -> Self {
        match error {
            StateError::Locked { .. } => Self::Locked,
            StateError::File(error) => error.into(),
        }
    }
}

impl From<&FileError> for Exit {
    fn from(_: &FileError) -> Self {
        Self::Storage
    }
}

impl From<&OutputError> for Exit {
    fn from(error: &OutputError) -> Self {
        if error.is_storage() { Self::Storage } else { Self::TryAgain }
    }
}

impl From<&ConfigError> for Exit {
    fn from(_: &ConfigError) -> Self {
        Self::Configuration
    }
}

impl From<&ScheduleError> for Exit {
    fn from(_: &ScheduleError) -> Self {
        Self::Configuration
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        feed::ContentType,
        report::{Counts, FeedReport},
    };

    #[test]
    fn exit_code_depends_on_failures() {
        let summary = |counts| {
            let (tenant, content_type) = ("contoso".into(), ContentType::AuditExchange);
            let feed = FeedReport {
                tenant,
                tenant_id: "11111111-1111-4111-8111-111111111111".into(),
                content_type,
                counts,
                is_listed: true,
                progress: Arc::default(),
            };
            Summary { feeds: vec![feed], any_login: true, stop: None }
        };
        let fine = summary(Counts { gone: 1, listed: 1, ..Counts::default() });
        let stopped = |stop| Summary { stop: Some(stop), ..fine.clone() };
        for (summary, code) in [
            (fine.clone(), 0),
            (summary(Counts { failed: 1, listed: 1, ..Counts::default() }), 1),
            (stopped(Stop::Deadline), 1),
            (Summary { any_login: false, ..fine.clone() }, 77),
            (stopped(Stop::Interrupted), 130),
            (stopped(Stop::Terminated), 143),
        ] {
            assert_eq!(Exit::from(&summary).code(), code, "{summary:?}");
        }
    }
}
