//! Records to standard output, one line each.

use std::io::{self, Write};

use super::{Output, OutputError, Source};
use crate::{delivery::OutputName, limits::OUTPUT_BUFFER_BYTES, records::Record};

/// Standard output. A line is never cut in two by us: what is written ends with a record's end.
#[derive(Debug, Default)]
pub struct Stdout {
    lines: Vec<u8>,
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

impl Stdout {
    fn pass_on(&mut self) -> Result<(), OutputError> {
        let mut stdout = io::stdout().lock();
        let passed_on = stdout.write_all(&self.lines).and_then(|()| stdout.flush());
        self.lines.clear();
        passed_on.map_err(|source| match source.kind() {
            io::ErrorKind::BrokenPipe => OutputError::Closed,
            _ => OutputError::Storage { action: "write", path: "standard output".to_owned(), source },
        })
    }
}
