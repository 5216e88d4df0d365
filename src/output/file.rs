//! Records to files, one line of JSON each, appended.

use super::{
    CancelToken, Output, OutputError, Settled, Source,
    append::{Files, Opened},
    special,
};
use crate::{
    config,
    delivery::OutputName,
    disk::Position,
    feed::ContentType,
    limits::OUTPUT_BUFFER_BYTES,
    records::{self, Record},
};

/// `output.file`: one file, or one for each content type.
#[derive(Debug)]
pub struct FileOutput {
    settings: config::FileOutput,
    files: Files,
    /// Whole lines on their way to a file.
    lines: Vec<u8>,
}

impl FileOutput {
    /// Opens nothing yet. The reader of a pipe is waited for until `patience` is over.
    pub fn new(settings: &config::FileOutput, cancel: &CancelToken) -> Self {
        Self {
            settings: settings.clone(),
            files: Files::new(records::is_whole_line, cancel),
            lines: Vec::with_capacity(OUTPUT_BUFFER_BYTES),
        }
    }
}

impl Output for FileOutput {
    fn name(&self) -> OutputName {
        OutputName::File
    }

    fn prepare(&mut self, from: &Source<'_>) -> Result<Option<Position>, OutputError> {
        Ok(match self.files.open(&self.settings.path_of(from.content_type))? {
            Opened::Before => None,
            Opened::Now(position) => position,
        })
    }

    fn write(&mut self, from: &Source<'_>, records: &[Record<'_>]) -> Result<(), OutputError> {
        let path = self.settings.path_of(from.content_type);
        let target = self.files.get(&path);
        self.lines.clear();
        for record in records {
            record.append_line(&mut self.lines);
            if self.lines.len() >= OUTPUT_BUFFER_BYTES {
                target.append(&self.lines)?;
                self.lines.clear();
            }
        }
        target.append(&self.lines)
    }

    fn make_durable(&mut self) -> Result<(), OutputError> {
        self.files.make_durable()
    }

    fn try_out(&mut self) -> Result<(), OutputError> {
        let paths = ContentType::ALL.map(|content_type| self.settings.path_of(content_type));
        paths.iter().try_for_each(|path| special::try_append(path))
    }

    fn settle(&mut self) -> Result<Settled, OutputError> {
        self.files.settle()
    }

    fn write_again(&mut self) -> Result<(), OutputError> {
        self.files.write_again(|_, _| Ok(Vec::new()))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::records::{Origin, Records};

    const FROM: Source<'static> = Source {
        tenant_id: "",
        tenant_name: Some("contoso"),
        content_type: ContentType::AuditExchange,
        blob: 0,
    };

    fn output(path: &Path, separate_by_content_type: bool) -> FileOutput {
        let separator = ';';
        let settings = config::FileOutput { path: path.to_owned(), separate_by_content_type, separator };
        FileOutput::new(&settings, &CancelToken::default())
    }

    fn write(output: &mut FileOutput, body: &str) -> Result<(), OutputError> {
        let records = Records::split(body.as_bytes().to_vec(), &Origin::new("Audit.Exchange", None));
        output.prepare(&FROM)?;
        output.write(&FROM, &records.expect("a whole array").iter().collect::<Vec<_>>())?;
        output.make_durable()
    }

    #[test]
    fn records_are_appended_to_one_file_or_to_one_for_each_content_type() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("new").join("audit.json");
        for (separate, name) in [(false, "audit.json"), (true, "AuditExchange.json")] {
            for _ in 0..2 {
                let mut output = output(&path, separate);
                write(&mut output, "[{\"a\":1},{}]").expect("room");
            }
            let written = fs::read_to_string(path.with_file_name(name)).expect("a file");
            let line = "{\"a\":1,\"OriginFeed\":\"Audit.Exchange\"}\n{\"OriginFeed\":\"Audit.Exchange\"}\n";
            assert_eq!(written, line.repeat(2), "{name}");
        }
    }

    #[test]
    fn a_torn_end_is_cut_off_and_a_whole_record_without_a_line_break_gets_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit.json");
        let long = "x".repeat(3 * OUTPUT_BUFFER_BYTES);
        for (before, kept) in [
            ("{\"a\":1}\n{\"b\":".to_owned(), "{\"a\":1}\n".to_owned()),
            ("{\"a\":1}\n{\"b\":2}".to_owned(), "{\"a\":1}\n{\"b\":2}\n".to_owned()),
            ("{\"b\":".to_owned(), String::new()),
            (format!("{{}}\n{{\"b\":\"{long}"), "{}\n".to_owned()),
            (format!("{{\"b\":\"{long}"), String::new()),
        ] {
            fs::write(&path, before).expect("a file");
            write(&mut output(&path, false), "[{}]").expect("room");
            let written = fs::read_to_string(&path).expect("a file");
            assert_eq!(written, format!("{kept}{{\"OriginFeed\":\"Audit.Exchange\"}}\n"));
        }
    }

    #[test]
    fn a_device_that_is_full_is_an_error() {
        let mut output = output(Path::new("/dev/full"), false);
        let error = write(&mut output, "[{}]").expect_err("never any room").to_string();
        assert!(error.contains("/dev/full") && error.contains("make room"), "{error}");
    }
}
