//! How the program ends, as its exit code tells it: the only place with the numbers.

use std::process::ExitCode;

/// How the program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Everything that was asked for is done.
    Complete,
    /// The pass ended, but something must be tried again.
    TryAgain,
    /// The command line is wrong.
    Usage,
    /// State or output cannot be read or written.
    Storage,
    /// Another pass holds the lock.
    Locked,
    /// No tenant could log in.
    NoLogin,
    /// The configuration is wrong.
    Configuration,
    /// Ended by SIGINT, after committing what was delivered.
    Interrupted,
    /// Ended by SIGTERM, after committing what was delivered.
    Terminated,
}

impl Exit {
    /// The number: 0 and 1, those of `sysexits.h`, and 128 plus the signal's number.
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
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
