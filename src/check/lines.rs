//! What was found, a line each on standard output, and the exit code that follows from all of it.

use std::{
    fmt::Display,
    io::{self, Stdout, Write},
};

use crate::exit::Exit;

/// The lines, as they are found.
#[derive(Debug)]
pub struct Lines {
    to: Stdout,
    noted: Vec<Exit>,
}

/// Of several reasons not to exit with 0, the first of these counts.
const BY_WEIGHT: [Exit; 4] = [Exit::Configuration, Exit::NoLogin, Exit::Storage, Exit::TryAgain];

impl Default for Lines {
    fn default() -> Self {
        Self { to: io::stdout(), noted: Vec::new() }
    }
}

impl Lines {
    /// It works.
    pub fn good(&self, text: impl Display) {
        self.write('✓', text);
    }

    /// It works, but somebody should see to it.
    pub fn warn(&self, text: impl Display) {
        self.write('!', text);
    }

    /// It was not tried, and why.
    pub fn untried(&self, text: impl Display) {
        self.write('–', text);
    }

    /// It does not work, and a pass would end so because of it.
    pub fn bad(&mut self, exit: Exit, text: impl Display) {
        self.note(exit);
        self.write('✗', text);
    }

    /// A pass would end so, for reasons whose lines are there already.
    pub fn note(&mut self, exit: Exit) {
        self.noted.push(exit);
    }

    /// How the check ends.
    pub fn exit(&self) -> Exit {
        BY_WEIGHT.into_iter().find(|exit| self.noted.contains(exit)).unwrap_or(Exit::Complete)
    }

    fn write(&self, mark: char, text: impl Display) {
        // A reader that has gone has seen enough.
        let _ = writeln!(&self.to, "{mark} {text}");
    }
}
