//! How errors are reported: `what happened: cause; what to do`.
//!
//! The `Display` of an error never repeats its source. Only [`Explain::explain`] joins an error, its sources and its hint.

use std::{error::Error, fmt::Write};

/// An error with a hint for the administrator.
pub trait Explain: Error {
    /// Returns what the administrator can do about the error; empty if only waiting helps.
    fn hint(&self) -> &str;

    /// Returns the error, its sources and its hint in one line, such as
    /// `cannot write journal: No space left on device; free some space`.
    fn explain(&self) -> String {
        let mut text = self.to_string();
        let mut source = self.source();
        while let Some(error) = source {
            let _ = write!(text, ": {error}");
            source = error.source();
        }
        if !self.hint().is_empty() {
            let _ = write!(text, "; {}", self.hint());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot start")]
    struct Outer(#[from] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read the file")]
    struct Inner(#[source] io::Error);

    impl Explain for Outer {
        fn hint(&self) -> &'static str {
            "check the disk"
        }
    }

    #[test]
    fn explanation_has_error_sources_and_hint() {
        let error = Outer(Inner(io::Error::other("the disk is broken")));
        assert_eq!(error.explain(), "cannot start: cannot read the file: the disk is broken; check the disk");
    }
}
