//! Records to files, one line each, appended.
//!
//! A pass opens its files anew, so rotation by rename needs no signal; they are opened for appending, so copytruncate
//! works too. Other programs follow these files while they grow: a line that is complete is never taken back, and a
//! line that is not never stays. The one is why nothing but the torn end of a file is ever cut off; the other is why
//! that is done right after a write that failed, and again when a file is opened.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use super::{Output, OutputError, Source};
use crate::{
    config,
    delivery::OutputName,
    disk::{self, Position},
    feed::ContentType,
    limits::OUTPUT_BUFFER_BYTES,
    records::Record,
};

/// `output.file`: one file, or one for each content type.
#[derive(Debug)]
pub struct FileOutput {
    path: PathBuf,
    separate: bool,
    /// Those that this pass has written to.
    open: Vec<Target>,
    /// Whole lines on their way to a file.
    lines: Vec<u8>,
}

/// A file that is written to.
#[derive(Debug)]
struct Target {
    path: PathBuf,
    file: File,
    is_dirty: bool,
}

impl FileOutput {
    /// Opens nothing yet: a file is made when there is something to write into it.
    pub fn new(settings: &config::FileOutput) -> Self {
        Self {
            path: settings.path.clone(),
            separate: settings.separate_by_content_type,
            open: Vec::new(),
            lines: Vec::with_capacity(OUTPUT_BUFFER_BYTES),
        }
    }

    /// `DLP.All` → `DLPAll.json` in the folder of `path`.
    fn path_of(&self, content_type: ContentType) -> PathBuf {
        if self.separate {
            self.path.with_file_name(format!("{}.json", content_type.name().replace('.', "")))
        } else {
            self.path.clone()
        }
    }
}

impl Output for FileOutput {
    fn name(&self) -> OutputName {
        OutputName::File
    }

    fn prepare(&mut self, from: &Source<'_>) -> Result<Option<Position>, OutputError> {
        let path = self.path_of(from.content_type);
        if self.open.iter().any(|target| target.path == path) {
            return Ok(None);
        }
        let target = Target::open(path)?;
        let position = target.position()?;
        self.open.push(target);
        Ok(Some(position))
    }

    fn write(&mut self, from: &Source<'_>, records: &[Record<'_>]) -> Result<(), OutputError> {
        let path = self.path_of(from.content_type);
        let target = self.open.iter_mut().find(|target| target.path == path);
        let target = target.expect("a feed is written only after it was prepared");
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
        for target in self.open.iter_mut().filter(|target| target.is_dirty) {
            disk::sync(&target.file).map_err(|error| storage("sync", &target.path, error))?;
            target.is_dirty = false;
        }
        Ok(())
    }

    fn try_out(&mut self) -> Result<(), OutputError> {
        let paths = ContentType::ALL.map(|content_type| self.path_of(content_type));
        paths
            .iter()
            .try_for_each(|path| disk::try_append(path).map_err(|error| storage("write", path, error)))
    }

    fn positions(&self) -> Result<Vec<Position>, OutputError> {
        self.open.iter().map(Target::position).collect()
    }
}

impl Target {
    /// Opens a file for appending, made if it is not there, its folder too, and mends a torn end.
    fn open(path: PathBuf) -> Result<Self, OutputError> {
        if let Some(folder) = path.parent() {
            disk::make_folder(folder, 0o750).map_err(|error| storage("make the folder", folder, error))?;
        }
        let mut file = disk::open_for_append(&path, 0o640).map_err(|error| storage("open", &path, error))?;
        mend_end(&mut file).map_err(|error| storage("mend", &path, error))?;
        Ok(Self { path, file, is_dirty: false })
    }

    fn position(&self) -> Result<Position, OutputError> {
        Position::end_of(&self.file, &self.path).map_err(|error| storage("look at", &self.path, error))
    }

    /// Appends whole lines. If that fails midway, the part of a line that got through is cut off again.
    fn append(&mut self, lines: &[u8]) -> Result<(), OutputError> {
        if lines.is_empty() {
            return Ok(());
        }
        self.is_dirty = true;
        disk::append(&mut self.file, lines).map_err(|error| {
            // If this fails too, the next pass mends the file when it opens it.
            let _ = mend_end(&mut self.file);
            storage("write", &self.path, error)
        })
    }
}

fn storage(action: &'static str, path: &Path, source: io::Error) -> OutputError {
    OutputError::Storage { action, path: path.display().to_string(), source }
}

/// If the file's last line lacks its line break: gives it one if the line is a whole record, which it is only if
/// somebody else wrote it, and else cuts it off. What is not a regular file (a pipe, `/dev/stdout`) has no end to mend.
fn mend_end(file: &mut File) -> io::Result<()> {
    let metadata = file.metadata()?;
    if !metadata.file_type().is_file() || metadata.len() == 0 {
        return Ok(());
    }
    let (start, line) = last_line(file, metadata.len())?;
    if line.is_empty() {
        return Ok(());
    }
    if serde_json::from_slice::<&serde_json::value::RawValue>(&line).is_ok() {
        return disk::append(file, b"\n");
    }
    disk::cut(file, start)
}

/// What stands behind the last line break, and where it starts.
fn last_line(file: &mut File, length: u64) -> io::Result<(u64, Vec<u8>)> {
    let mut line = Vec::new();
    let mut start = length;
    while start > 0 {
        let step = start.min(OUTPUT_BUFFER_BYTES as u64);
        let mut piece = vec![0; usize::try_from(step).expect("a step fits into memory")];
        file.seek(SeekFrom::Start(start - step))?;
        file.read_exact(&mut piece)?;
        let line_break = piece.iter().rposition(|&byte| byte == b'\n');
        let after = line_break.map_or(0, |place| place + 1);
        line.splice(0..0, piece[after..].iter().copied());
        start = start - step + after as u64;
        if line_break.is_some() {
            break;
        }
    }
    Ok((start, line))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::records::{Origin, Records};

    const FROM: Source<'static> =
        Source { tenant_id: "", tenant_name: Some("contoso"), content_type: ContentType::AuditExchange };

    fn output(path: &Path, separate_by_content_type: bool) -> FileOutput {
        let separator = String::new();
        FileOutput::new(&config::FileOutput { path: path.to_owned(), separate_by_content_type, separator })
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
