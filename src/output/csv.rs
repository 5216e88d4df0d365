//! The files of `output.file` with a path that ends in `.csv`, for users of the older tool.
//!
//! [`crate::csv`] describes a row. A file that is empty or new gets its header when the first batch is complete, so that
//! the columns are those of all of its records; the records of that batch wait in memory until then. A file that exists
//! keeps its header and its separator.
//!
//! The older tool wrote its file again with each batch. This program does not: a follower would read everything again, and
//! a crash in the middle could lose it.

use std::{
    collections::HashMap,
    fs::File,
    io,
    path::{Path, PathBuf},
};

use super::{
    OnOpen, OutputError,
    append::{Files, Target},
};
use crate::{csv::Columns, limits::OUTPUT_BUFFER_BYTES, records::RecordBatch};

/// How rows look in each file that was opened.
#[derive(Debug)]
pub struct Tables {
    /// The separator of new files.
    separator: char,
    heads: HashMap<PathBuf, Head>,
}

#[derive(Debug)]
enum Head {
    /// The file has its header.
    Written(Columns),
    /// The file is empty. The records wait for its header, one line of JSON each.
    Awaited(String),
}

impl Tables {
    /// Returns no tables yet.
    pub fn new(separator: char) -> Self {
        Self { separator, heads: HashMap::new() }
    }

    /// Writes the rows of records to a file that has its header; otherwise keeps the records.
    pub fn write(
        &mut self,
        files: &mut Files,
        path: &Path,
        records: &RecordBatch,
        on_open: &mut OnOpen<'_>,
    ) -> Result<(), OutputError> {
        let (target, columns) = files.open(path, on_open, columns_of)?;
        if let Some(columns) = columns {
            let head = columns.map_or_else(|| Head::Awaited(String::new()), Head::Written);
            self.heads.insert(path.to_owned(), head);
        }
        match self.heads.get_mut(path).expect("a file gets its head when it is opened") {
            Head::Awaited(lines) => {
                lines.push_str(records.text());
                Ok(())
            }
            Head::Written(columns) => {
                let is_truncated = target.is_empty()?;
                append_rows(target, columns, records.text(), is_truncated)
            }
        }
    }

    /// Writes the headers that are due, and the rows of the records that wait for them.
    pub fn write_awaiting(&mut self, files: &mut Files) -> Result<(), OutputError> {
        for (path, head) in &mut self.heads {
            if let Head::Awaited(lines) = head
                && let Some(target) = files.get(path)
            {
                let mut columns = Columns::common(self.separator);
                lines.lines().for_each(|record| columns.unite(record));
                append_rows(target, &columns, lines, true)?;
                *head = Head::Written(columns);
            }
        }
        Ok(())
    }

    /// Returns the header with which a file begins to which rows are copied, if it is empty: that of the file in which they
    /// were.
    ///
    /// # Errors
    ///
    /// The file has other columns.
    pub fn header_for(&self, path: &Path, file: &mut File) -> io::Result<Vec<u8>> {
        let Some(Head::Written(columns)) = self.heads.get(path) else { return Ok(Vec::new()) };
        let mut header = Vec::new();
        match columns_of(file)? {
            None => columns.append_header(&mut header),
            Some(existing) if existing == *columns => {}
            Some(_) => return Err(io::Error::new(io::ErrorKind::InvalidData, "it has other columns")),
        }
        Ok(header)
    }
}

/// Checks that a file, if it exists, is one of this program.
pub fn check(path: &Path) -> io::Result<()> {
    if path.is_file() { columns_of(&mut File::open(path)?).map(drop) } else { Ok(()) }
}

/// Appends the rows of records, given one on each line.
fn append_rows(
    target: &mut Target,
    columns: &Columns,
    records: &str,
    needs_header: bool,
) -> Result<(), OutputError> {
    let mut rows = Vec::new();
    if needs_header {
        columns.append_header(&mut rows);
    }
    for record in records.lines() {
        columns.append_row(record, &mut rows);
        if rows.len() >= OUTPUT_BUFFER_BYTES {
            target.append(&rows)?;
            rows.clear();
        }
    }
    target.append(&rows)
}

/// Returns the columns of a file; `None` if it is empty, or not a regular file, which has no beginning to read.
fn columns_of(file: &mut File) -> io::Result<Option<Columns>> {
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() == 0 {
        return Ok(None);
    }
    let foreign =
        || io::Error::new(io::ErrorKind::InvalidData, "its first line is not a header of this program");
    Columns::read(file)?.map(|(columns, _)| Some(columns)).ok_or_else(foreign)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::error::Explain;
    use crate::{
        config,
        feed::ContentType,
        output::{CancelToken, FileOutput, Output, Source},
        records::{BlobRecords, Origin},
    };

    const SOURCE: Source<'static> = Source {
        tenant_id: "",
        tenant_name: None,
        content_type: ContentType::AuditExchange,
        content_id: "",
        blob: 0,
    };

    fn output(path: &Path, separate_by_content_type: bool, separator: char) -> FileOutput {
        let settings = config::FileOutput { path: path.to_owned(), separate_by_content_type, separator };
        FileOutput::new(&settings, &CancelToken::default())
    }

    fn write(output: &mut FileOutput, body: &str) -> Result<(), OutputError> {
        let records = BlobRecords::parse(body.as_bytes().to_vec(), &Origin::new("Audit.Exchange", None));
        let batch = records.expect("a whole array").iter().collect();
        output.write(&SOURCE, &batch, &mut |_| Ok(())).map_err(|failed| failed.error)
    }

    fn flush(output: &mut FileOutput) {
        output.flush(&mut |_| Ok(())).expect("room");
    }

    /// Returns the rows after the columns that every file has.
    fn further(path: &Path) -> Vec<String> {
        let text = fs::read_to_string(path).expect("a file");
        assert!(text.ends_with('\n'));
        text.lines().map(|line| line.splitn(14, [';', ',']).last().expect("a cell").to_owned()).collect()
    }

    #[test]
    fn keeps_the_columns_of_the_first_batch() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit.csv");
        let mut first = output(&path, false, ';');
        write(&mut first, r#"[{"a":1}]"#).expect("room");
        write(&mut first, r#"[{"b":2},{"a":3}]"#).expect("room");
        flush(&mut first);
        write(&mut first, r#"[{"a":4,"c":5}]"#).expect("room");
        flush(&mut first);
        let mut second = output(&path, false, ',');
        write(&mut second, r#"[{"b":"6;7"}]"#).expect("room");
        flush(&mut second);
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
    fn writes_the_header_again_after_a_truncation() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut output = output(&folder.path().join("audit.csv"), true, ';');
        let path = folder.path().join("audit_AuditExchange.csv");
        for _ in 0..2 {
            write(&mut output, r#"[{"a":1}]"#).expect("room");
            flush(&mut output);
            assert_eq!(further(&path), ["a;OriginFeed;MoreFields", "1;Audit.Exchange;"]);
            fs::File::options().write(true).open(&path).and_then(|file| file.set_len(0)).expect("a file");
        }
    }

    #[test]
    fn removes_a_torn_row_but_does_not_change_foreign_files() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit.csv");
        fs::write(&path, "CreationTime;Id\n").expect("a file");
        let error = write(&mut output(&path, false, ';'), "[{}]").expect_err("another header").explain();
        assert!(error.contains("not a header of this program; move the file away"), "{error}");
        assert!(output(&path, false, ';').check().is_err());
        assert_eq!(fs::read_to_string(&path).expect("a file"), "CreationTime;Id\n");

        fs::write(&path, "Id;a;MoreFields\nx;1;\ny;2").expect("a file");
        assert!(output(&path, false, ';').check().is_ok());
        write(&mut output(&path, false, ','), r#"[{"a":3,"OriginFeed":null}]"#).expect("room");
        let text = fs::read_to_string(&path).expect("a file");
        assert_eq!(text, "Id;a;MoreFields\nx;1;\n;3;\"{\"\"OriginFeed\"\":null}\"\n");
    }
}
