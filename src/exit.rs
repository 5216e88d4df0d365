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
}

impl Exit {
    /// The number: 0 and 1, and for the rest those of `sysexits.h`.
    pub fn code(self) -> u8 {
        match self {
            Self::Complete => 0,
            Self::TryAgain => 1,
            Self::Usage => 64,
            Self::Storage => 74,
            Self::Locked => 75,
            Self::NoLogin => 77,
            Self::Configuration => 78,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
