//! Records to standard output, one line each.

use std::{
    io::{self, Write},
    path::Path,
};

use super::{CancelToken, DeliveryError, Flushed, OnOpen, Output, OutputError, Source};
use crate::{delivery::OutputName, disk::FileError, records::RecordBatch};

/// Standard output. Each write ends with the end of a record. Records count as safe when the system has accepted them: what
/// the reader does with them is unknown.
#[derive(Debug)]
pub struct Stdout {
    cancel: CancelToken,
}

impl Stdout {
    /// Waits for a reader that has stopped until `cancel` says otherwise.
    pub fn new(cancel: &CancelToken) -> Self {
        Self { cancel: cancel.clone() }
    }
}

impl Output for Stdout {
    fn name(&self) -> OutputName {
        OutputName::Stdout
    }

    fn write(
        &mut self,
        _: &Source<'_>,
        records: &RecordBatch,
        _: &mut OnOpen<'_>,
    ) -> Result<(), DeliveryError> {
        let lines = records.text().to_owned();
        let written = self.cancel.attempt(move || {
            let mut stdout = io::stdout().lock();
            stdout.write_all(lines.as_bytes()).and_then(|()| stdout.flush())
        });
        let path = "standard output".to_owned();
        let error = match written {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => OutputError::Closed,
            Ok(Err(source)) => FileError::new("write", Path::new(&path), source).into(),
            Err(cancelled) => OutputError::Receiver {
                receiver: path,
                problem: cancelled.to_string(),
                hint: "read it faster".to_owned(),
            },
        };
        Err(error.into())
    }

    fn flush(&mut self, _: &mut OnOpen<'_>) -> Result<Flushed, DeliveryError> {
        Ok(Flushed::default())
    }

    fn check(&mut self) -> Result<&'static str, OutputError> {
        Ok("needs nothing")
    }

    fn check_offline(&mut self) -> Result<Option<&'static str>, OutputError> {
        self.check().map(Some)
    }
}
