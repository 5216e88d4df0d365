//! Records to standard output, one line each.

use std::io::{self, Write};

use super::{CancelToken, Output, OutputError, Source};
use crate::{delivery::OutputName, limits::OUTPUT_BUFFER_BYTES, records::Record};

/// Standard output. What is written ends with a record's end, and counts as safe when the system has taken it: of what
/// whoever reads it does with it, nothing is known.
#[derive(Debug)]
pub struct Stdout {
    lines: Vec<u8>,
    cancel: CancelToken,
}

impl Stdout {
    /// A reader that stands still is waited for until `patience` is over.
    pub fn new(cancel: &CancelToken) -> Self {
        Self { lines: Vec::new(), cancel: cancel.clone() }
    }

    fn pass_on(&mut self) -> Result<(), OutputError> {
        if self.lines.is_empty() {
            return Ok(());
        }
        let lines = std::mem::take(&mut self.lines);
        let passed_on = self.cancel.attempt(move || {
            let mut stdout = io::stdout().lock();
            stdout.write_all(&lines).and_then(|()| stdout.flush())
        });
        let standard_output = || "standard output".to_owned();
        match passed_on {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => Err(OutputError::Closed),
            Ok(Err(source)) => Err(OutputError::Storage { action: "write", path: standard_output(), source }),
            Err(over) => Err(OutputError::Receiver {
                receiver: standard_output(),
                problem: over.to_string(),
                hint: "read it faster".to_owned(),
            }),
        }
    }
}

impl Output for Stdout {
    fn name(&self) -> OutputName {
        OutputName::Stdout
    }

    fn write(&mut self, _: &Source<'_>, records: &[Record<'_>]) -> Result<(), OutputError> {
        for record in records {
            record.append_line(&mut self.lines);
            if self.lines.len() >= OUTPUT_BUFFER_BYTES {
                self.pass_on()?;
            }
        }
        self.pass_on()
    }

    fn make_durable(&mut self) -> Result<(), OutputError> {
        self.pass_on()
    }

    fn try_out(&mut self) -> Result<(), OutputError> {
        Ok(())
    }
}
