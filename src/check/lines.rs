//! The results of a check: a line each on standard output, and the exit code of all of them.

use std::{
    fmt::Display,
    io::{self, Stdout, Write},
};

use crate::{error::Explain, exit::Exit};

/// The lines, printed as they are added.
#[derive(Debug)]
pub struct Lines {
    to: Stdout,
    noted: Vec<Exit>,
}

/// Of several exit codes, the first of these counts.
const BY_PRIORITY: [Exit; 4] = [Exit::Configuration, Exit::NoLogin, Exit::Storage, Exit::TryAgain];

impl Default for Lines {
    fn default() -> Self {
        Self { to: io::stdout(), noted: Vec::new() }
    }
}

impl Lines {
    /// Prints what works.
    pub fn good(&self, text: impl Display) {
        self.write('✓', text);
    }

    /// Prints what works but needs attention.
    pub fn warn(&self, text: impl Display) {
        self.write('!', text);
    }

    /// Prints what was not checked, and why.
    pub fn skipped(&self, text: impl Display) {
        self.write('–', text);
    }

    /// Prints what does not work, and notes the exit code of a pass with that failure.
    pub fn bad(&mut self, exit: Exit, text: impl Display) {
        self.note(exit);
        self.write('✗', text);
    }

    /// Prints the result of a check of `what`, and notes the exit code of a pass with its error.
    pub fn result<E: Explain>(&mut self, what: impl Display, result: Result<impl Display, E>)
    where
        for<'e> Exit: From<&'e E>,
    {
        match result {
            Ok(found) => self.good(format_args!("{what}: {found}")),
            Err(error) => self.bad(Exit::from(&error), format_args!("{what}: {}", error.explain())),
        }
    }

    /// Notes the exit code of a pass, for a failure whose lines are already printed.
    pub fn note(&mut self, exit: Exit) {
        self.noted.push(exit);
    }

    /// Returns the exit code of the check.
    pub fn exit(&self) -> Exit {
        BY_PRIORITY.into_iter().find(|exit| self.noted.contains(exit)).unwrap_or(Exit::Complete)
    }

    fn write(&self, mark: char, text: impl Display) {
        // A reader that has closed the pipe needs no more.
        let _ = writeln!(&self.to, "{mark} {text}");
    }
}
