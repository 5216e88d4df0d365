//! Records to files as rows of CSV, for those who come from the older tool: `output.file.path` ends in `.csv`.
//!
//! [`crate::csv`] says how a row looks. A file that is empty or new gets its header when the first batch is complete,
//! so that the columns are those of all of its records; the rows of that batch wait in memory until then. A file that
//! is there goes on with its own header, and its own separator.
//!
//! The older tool wrote its file anew with each batch. That is not done here: whoever follows a file would read
//! everything again, and a crash in the middle could lose it.

use std::{collections::HashMap, fs::File, io, path::PathBuf};

use super::{
    CancelToken, Output, OutputError, Settled, Source,
    append::{Files, Opened, Target, storage},
    special,
};
use crate::{
    config,
    csv::{self, Columns},
    delivery::OutputName,
    disk::Position,
    feed::ContentType,
    limits::OUTPUT_BUFFER_BYTES,
    records::Record,
};

/// `output.file` with a path that ends in `.csv`: one file, or one for each content type.
#[derive(Debug)]
pub struct CsvOutput {
    settings: config::FileOutput,
    files: Files,
    /// How rows look in each file that was opened.
    heads: HashMap<PathBuf, Head>,
}

#[derive(Debug)]
enum Head {
    /// The file has its header.
    Written(Columns),
    /// The file is empty: the records that wait for its header, one line of JSON each.
    Awaited(Vec<u8>),
}

impl CsvOutput {
    /// Opens nothing yet. The reader of a pipe is waited for until `patience` is over.
    pub fn new(settings: &config::FileOutput, cancel: &CancelToken) -> Self {
        Self {
            settings: settings.clone(),
            // A line that is not ended can be a whole row or not: nobody can tell.
            files: Files::new(|_| false, cancel),
            heads: HashMap::new(),
        }
    }
}

impl Output for CsvOutput {
    fn name(&self) -> OutputName {
        OutputName::File
    }

    fn prepare(&mut self, from: &Source<'_>) -> Result<Option<Position>, OutputError> {
        let path = self.settings.path_of(from.content_type);
        let Opened::Now(position) = self.files.open(&path)? else { return Ok(None) };
        let head = match self.files.get(&path).read(columns_of)? {
            Some(columns) => Head::Written(columns),
            None => Head::Awaited(Vec::new()),
        };
        self.heads.insert(path, head);
        Ok(position)
    }

    fn write(&mut self, from: &Source<'_>, records: &[Record<'_>]) -> Result<(), OutputError> {
        let path = self.settings.path_of(from.content_type);
        let head = self.heads.get_mut(&path).expect("a feed is written only after it was prepared");
        match head {
            Head::Awaited(lines) => records.iter().for_each(|record| record.append_line(lines)),
            Head::Written(columns) => {
                let target = self.files.get(&path);
                let mut rows = Rows { has_header: !target.is_empty()?, target, columns, text: Vec::new() };
                let mut line = Vec::new();
                for record in records {
                    line.clear();
                    record.append_line(&mut line);
                    rows.append(&line)?;
                }
                rows.finish()?;
            }
        }
        Ok(())
    }

    fn make_durable(&mut self) -> Result<(), OutputError> {
        for (path, head) in &mut self.heads {
            let Head::Awaited(lines) = head else { continue };
            let lines = || lines.split_inclusive(|&byte| byte == b'\n');
            let mut columns = Columns::common(self.settings.separator);
            lines().filter_map(text).for_each(|record| columns.unite(record));
            let target = self.files.get(path);
            let mut rows = Rows { has_header: false, target, columns: &columns, text: Vec::new() };
            for line in lines() {
                rows.append(line)?;
            }
            rows.finish()?;
            *head = Head::Written(columns);
        }
        self.files.make_durable()
    }

    fn try_out(&mut self) -> Result<(), OutputError> {
        for path in ContentType::ALL.map(|content_type| self.settings.path_of(content_type)) {
            special::try_append(&path)?;
            if path.is_file() {
                let columns = File::open(&path).and_then(|mut file| columns_of(&mut file));
                columns.map_err(|error| storage("append to", &path, error))?;
            }
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<Settled, OutputError> {
        self.files.settle()
    }

    /// The rows are copied as they are, so a new file begins with the header of the one that they were written to.
    fn write_again(&mut self) -> Result<(), OutputError> {
        let heads = &self.heads;
        self.files.write_again(|path, file| {
            let Some(Head::Written(columns)) = heads.get(path) else { return Ok(Vec::new()) };
            match columns_of(file)? {
                None => {
                    let mut header = Vec::new();
                    columns.append_header(&mut header);
                    Ok(header)
                }
                Some(there) if there == *columns => Ok(Vec::new()),
                Some(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "it has other columns")),
            }
        })
    }

    fn key(&self, record: &Record<'_>) -> u128 {
        csv::key_of(record)
    }
}

/// The columns of a file; `None` if it is empty, or is no regular file, which has no beginning to read.
fn columns_of(file: &mut File) -> io::Result<Option<Columns>> {
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() == 0 {
        return Ok(None);
    }
    let foreign =
        || io::Error::new(io::ErrorKind::InvalidData, "its first line is not a header of this program");
    Columns::read(file)?.map(|(columns, _)| Some(columns)).ok_or_else(foreign)
}

/// Rows on their way to a file.
struct Rows<'a> {
    target: &'a mut Target,
    columns: &'a Columns,
    has_header: bool,
    /// Whole rows.
    text: Vec<u8>,
}

impl Rows<'_> {
    /// Appends the row of the record in this line, and before the first one the header if it has none.
    fn append(&mut self, line: &[u8]) -> Result<(), OutputError> {
        if !self.has_header {
            self.columns.append_header(&mut self.text);
            self.has_header = true;
        }
        if let Some(record) = text(line) {
            self.columns.append_row(record, &mut self.text);
        }
        if self.text.len() >= OUTPUT_BUFFER_BYTES {
            self.target.append(&self.text)?;
            self.text.clear();
        }
        Ok(())
    }

    fn finish(self) -> Result<(), OutputError> {
        self.target.append(&self.text)
    }
}

/// A record's text. There is always one: what is no UTF-8 was refused with its blob.
fn text(line: &[u8]) -> Option<&str> {
    str::from_utf8(line).ok()
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::records::{Origin, Records};

    const FROM: Source<'static> =
        Source { tenant_id: "", tenant_name: None, content_type: ContentType::AuditExchange, blob: 0 };

    fn output(path: &Path, separate_by_content_type: bool, separator: char) -> CsvOutput {
        let settings = config::FileOutput { path: path.to_owned(), separate_by_content_type, separator };
        CsvOutput::new(&settings, &CancelToken::default())
    }

    fn write(output: &mut CsvOutput, body: &str) -> Result<(), OutputError> {
        let records = Records::split(body.as_bytes().to_vec(), &Origin::new("Audit.Exchange", None));
        output.prepare(&FROM)?;
        output.write(&FROM, &records.expect("a whole array").iter().collect::<Vec<_>>())
    }

    /// The rows behind the columns that every file has.
    fn further(path: &Path) -> Vec<String> {
        let text = fs::read_to_string(path).expect("a file");
        assert!(text.ends_with('\n'));
        text.lines().map(|line| line.splitn(14, [';', ',']).last().expect("a cell").to_owned()).collect()
    }

    #[test]
    fn the_columns_are_those_of_the_first_batch_and_what_comes_later_is_kept_in_the_last_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit.csv");
        let mut first = output(&path, false, ';');
        write(&mut first, r#"[{"a":1}]"#).expect("room");
        write(&mut first, r#"[{"b":2},{"a":3}]"#).expect("room");
        first.make_durable().expect("room");
        write(&mut first, r#"[{"a":4,"c":5}]"#).expect("room");
        first.make_durable().expect("room");
        let mut second = output(&path, false, ',');
        write(&mut second, r#"[{"b":"6;7"}]"#).expect("room");
        second.make_durable().expect("room");
        let feed = "Audit.Exchange";
        assert_eq!(
            further(&path),
            [
                "a;OriginFeed;b;MoreFields".to_owned(),
                format!("1;{feed};;"),
                format!(";{feed};2;"),
                format!("3;{feed};;"),
                format!("4;{feed};;\"{{\"\"c\"\":5}}\""),
                format!(";{feed};\"6;7\";"),
            ]
        );
    }

    #[test]
    fn a_file_truncated_within_a_pass_gets_its_header_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut output = output(&folder.path().join("audit.csv"), true, ';');
        let path = folder.path().join("audit_AuditExchange.csv");
        for _ in 0..2 {
            write(&mut output, r#"[{"a":1}]"#).expect("room");
            output.make_durable().expect("room");
            assert_eq!(further(&path), ["a;OriginFeed;MoreFields", "1;Audit.Exchange;"]);
            fs::File::options().write(true).open(&path).and_then(|file| file.set_len(0)).expect("a file");
        }
    }

    #[test]
    fn a_file_of_somebody_else_is_left_alone_and_a_torn_row_is_cut_off() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit.csv");
        fs::write(&path, "CreationTime;Id\n").expect("a file");
        let error = write(&mut output(&path, false, ';'), "[{}]").expect_err("another header").to_string();
        assert!(error.contains("not a header of this program; move the file away"), "{error}");
        assert!(output(&path, false, ';').try_out().is_err());
        assert_eq!(fs::read_to_string(&path).expect("a file"), "CreationTime;Id\n");

        fs::write(&path, "Id;a;MoreFields\nx;1;\ny;2").expect("a file");
        assert!(output(&path, false, ';').try_out().is_ok());
        write(&mut output(&path, false, ','), r#"[{"a":3,"OriginFeed":null}]"#).expect("room");
        let text = fs::read_to_string(&path).expect("a file");
        assert_eq!(text, "Id;a;MoreFields\nx;1;\n;3;\"{\"\"OriginFeed\"\":null}\"\n");
    }
}
