//! Records to files, appended: one line of JSON each, or one row of CSV if the path ends in `.csv`.

use super::{
    CancelToken, DeliveryError, Flushed, OnOpen, Output, OutputError, Source,
    append::Files,
    csv::{self, Tables},
    special,
};
use crate::{
    config,
    csv::{is_csv, key_of},
    delivery::OutputName,
    disk::FileContext,
    feed::ContentType,
    records::{self, RecordBatch},
};

/// `output.file`: one file, or one for each content type.
#[derive(Debug)]
pub struct FileOutput {
    settings: config::FileOutput,
    files: Files,
    /// For a path that ends in `.csv`: how rows look in each file.
    tables: Option<Tables>,
}

impl FileOutput {
    /// Opens nothing yet. Stops waiting for the reader of a pipe when `cancel` says so.
    pub fn new(settings: &config::FileOutput, cancel: &CancelToken) -> Self {
        let tables = is_csv(&settings.path).then(|| Tables::new(settings.separator));
        // It is unknown whether a row of CSV without a line break is whole.
        let is_whole = if tables.is_some() { |_: &[u8]| false } else { records::is_whole_line };
        Self { settings: settings.clone(), files: Files::new(is_whole, cancel), tables }
    }
}

impl Output for FileOutput {
    fn name(&self) -> OutputName {
        OutputName::File
    }

    fn write(
        &mut self,
        source: &Source<'_>,
        records: &RecordBatch,
        on_open: &mut OnOpen<'_>,
    ) -> Result<(), DeliveryError> {
        let path = self.settings.path_of(source.content_type);
        if let Some(tables) = &mut self.tables {
            tables.write(&mut self.files, &path, records, on_open)?;
        } else {
            let (target, _) = self.files.open(&path, on_open, |_| Ok(()))?;
            target.append(records.text().as_bytes())?;
        }
        Ok(())
    }

    fn flush(&mut self, on_open: &mut OnOpen<'_>) -> Result<Flushed, DeliveryError> {
        let positions = match &mut self.tables {
            Some(tables) => {
                tables.write_awaiting(&mut self.files)?;
                self.files.flush(on_open, |path, file| tables.header_for(path, file))?
            }
            None => self.files.flush(on_open, |_, _| Ok(Vec::new()))?,
        };
        Ok(Flushed { rejected: None, positions })
    }

    fn check(&mut self) -> Result<&'static str, OutputError> {
        for path in ContentType::ALL.map(|content_type| self.settings.path_of(content_type)) {
            special::check_append(&path)?;
            if self.tables.is_some() {
                csv::check(&path).context("append to", &path)?;
            }
        }
        Ok("can be written")
    }

    fn check_offline(&mut self) -> Result<Option<&'static str>, OutputError> {
        self.check().map(Some)
    }

    fn key_in_files(&self, line: &str) -> Option<u128> {
        Some(if self.tables.is_some() { key_of(line) } else { records::key_of_line(line) })
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::records::{BlobRecords, Origin};
    use crate::{error::Explain, limits::OUTPUT_BUFFER_BYTES};

    const SOURCE: Source<'static> = Source {
        tenant_id: "",
        tenant_name: Some("contoso"),
        content_type: ContentType::AuditExchange,
        content_id: "",
        blob: 0,
    };

    fn output(path: &Path, separate_by_content_type: bool) -> FileOutput {
        let separator = ';';
        let settings = config::FileOutput { path: path.to_owned(), separate_by_content_type, separator };
        FileOutput::new(&settings, &CancelToken::default())
    }

    fn write(output: &mut FileOutput, body: &str) -> Result<(), OutputError> {
        let records = BlobRecords::parse(body.as_bytes().to_vec(), &Origin::new("Audit.Exchange", None));
        let batch = records.expect("a whole array").iter().collect();
        let written = output.write(&SOURCE, &batch, &mut |_| Ok(()));
        written.and_then(|()| output.flush(&mut |_| Ok(()))).map(drop).map_err(|failed| failed.error)
    }

    #[test]
    fn appends_to_one_file_or_one_per_content_type() {
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
    fn repairs_the_end_of_a_file() {
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
    fn full_device_is_an_error() {
        let mut output = output(Path::new("/dev/full"), false);
        let error = write(&mut output, "[{}]").expect_err("never any room").explain();
        assert!(error.contains("/dev/full") && error.contains("free some space"), "{error}");
    }
}
