//! The output files that `verify` reads: which they are, and the records in them.
//!
//! A file may be rotated while they are read. So all of them are opened before the first one is read, and if their folder
//! changes meanwhile, they are opened again: a file that is open is read to its end whatever its name becomes.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use crate::{
    csv::{self, Columns},
    disk,
    records::Fingerprint,
};

/// The extensions of compressed files.
const COMPRESSED: [&str; 4] = ["gz", "zst", "xz", "bz2"];

/// The maximum length of a line in bytes. A record is shorter, because a blob is no larger than `curl_max_size`; a longer
/// line is skipped.
const LINE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// How often the files are opened again because their folder changed meanwhile.
const ATTEMPTS_MAX: usize = 10;

const BUFFER_BYTES: usize = 256 * 1024;

/// Open files to be read.
#[derive(Debug)]
pub struct OutputFiles {
    files: Vec<(PathBuf, File)>,
    /// The files that cannot be opened, and why.
    pub unreadable: Vec<(PathBuf, String)>,
}

/// What was read of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileContents {
    /// The number of whole records.
    pub records: u64,
    /// The number of lines that are not whole records.
    pub unreadable_lines: u64,
    /// Why the file could not be read to its end.
    pub damage: Option<String>,
}

impl OutputFiles {
    /// Opens the files that `find` returns. A file with several names is opened once.
    pub fn open(find: impl Fn() -> io::Result<Vec<PathBuf>>) -> io::Result<Self> {
        let mut paths = find()?;
        for _ in 0..ATTEMPTS_MAX {
            let opened = Self::open_all(&paths);
            let now = find()?;
            if now == paths && opened.have_same_names() {
                return Ok(opened);
            }
            paths = now;
        }
        Err(io::Error::other("they are renamed while they are read; run verify again"))
    }

    fn open_all(paths: &[PathBuf]) -> Self {
        let (mut files, mut unreadable) = (BTreeMap::new(), Vec::new());
        for path in paths {
            match File::open(path).and_then(|file| Ok((file.metadata()?, file))) {
                Ok((metadata, file)) => {
                    files.entry(disk::id_of(&metadata)).or_insert((path.clone(), file));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => unreadable.push((path.clone(), format!("{error}; {}", disk::hint(&error)))),
            }
        }
        let mut files: Vec<_> = files.into_values().collect();
        files.sort_by(|(one, _), (other, _)| one.cmp(other));
        Self { files, unreadable }
    }

    /// Returns whether each file still has the name under which it was opened.
    fn have_same_names(&self) -> bool {
        self.files.iter().all(|(path, file)| {
            let (named, opened) = (fs::metadata(path), file.metadata());
            named.is_ok_and(|named| opened.is_ok_and(|opened| disk::id_of(&named) == disk::id_of(&opened)))
        })
    }

    /// Returns the names of the files.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(path, _)| path.as_path())
    }

    /// Reads all files, and calls `on_record` with each whole record, the index of its file and its line, counted from 1.
    /// Returns what was read of each file.
    ///
    /// # Errors
    ///
    /// Those of `on_record`. A damaged file is not an error.
    pub fn read(
        &mut self,
        on_record: &mut dyn FnMut(Fingerprint, usize, u64) -> io::Result<()>,
    ) -> io::Result<Vec<FileContents>> {
        let mut all = Vec::new();
        for (index, (_, file)) in self.files.iter_mut().enumerate() {
            all.push(read_file(file, &mut |record, line| on_record(record, index, line))?);
        }
        Ok(all)
    }
}

/// Returns the files of `output.file.path`: the one of this name and those that rotation has made of it, in this folder.
/// `names` are the names that the output writes to.
///
/// A compressed file is left out as long as the file that it is made from exists.
///
/// # Errors
///
/// The folder cannot be read.
pub fn find(paths: &[PathBuf]) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in paths {
        let folder = disk::folder_of(path);
        let entries = disk::none_if_missing(fs::read_dir(folder))?;
        for entry in entries.into_iter().flatten() {
            let entry = entry?;
            if is_sibling(path, &entry.file_name()) && fs::metadata(entry.path()).is_ok_and(|it| it.is_file())
            {
                found.push(folder.join(entry.file_name()));
            }
        }
    }
    Ok(without_copies(found))
}

/// Returns the files that match these patterns.
///
/// # Errors
///
/// A pattern is wrong, or a folder cannot be read.
pub fn find_by_patterns(patterns: &[String]) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for pattern in patterns {
        let paths = glob::glob(pattern);
        for path in paths.map_err(|error| io::Error::other(format!("--files {pattern}: {error}")))? {
            found.push(path.map_err(io::Error::from)?);
        }
    }
    found.retain(|path| path.is_file());
    Ok(without_copies(found))
}

/// Sorts the files, and drops each compressed file whose source is among them.
fn without_copies(mut found: Vec<PathBuf>) -> Vec<PathBuf> {
    found.sort();
    found.dedup();
    let has_source =
        |path: &PathBuf| is_compressed(path) && found.binary_search(&path.with_extension("")).is_ok();
    found.iter().filter(|path| !has_source(path)).cloned().collect()
}

fn is_compressed(path: &Path) -> bool {
    path.extension().is_some_and(|extension| COMPRESSED.iter().any(|compressed| extension == *compressed))
}

/// Returns whether a file of this name is the output file, or was made of it by a rotation: `audit.json.1`,
/// `audit.json-20261128.gz`, `audit-20261128.json`, `audit.1.json.xz`.
fn is_sibling(path: &Path, name: &OsStr) -> bool {
    let (Some(own), Some(name)) = (path.file_name().and_then(OsStr::to_str), name.to_str()) else {
        return false;
    };
    let after = |prefix: &str| name.strip_prefix(prefix).filter(|rest| rest.starts_with(['.', '-', '_']));
    if name == own || after(own).is_some() {
        return true;
    }
    let Some((stem, extension)) = own.rsplit_once('.') else { return false };
    let plain = COMPRESSED.iter().find_map(|it| name.strip_suffix(it)?.strip_suffix('.')).unwrap_or(name);
    after(stem).is_some() && plain.strip_suffix(extension).is_some_and(|rest| rest.ends_with('.'))
}

fn read_file(
    file: &mut File,
    on_record: &mut dyn FnMut(Fingerprint, u64) -> io::Result<()>,
) -> io::Result<FileContents> {
    let mut contents = FileContents::default();
    let opened = file.seek(SeekFrom::Start(0)).and_then(|_| decompressed(file));
    let mut reader = match opened {
        Ok(reader) => BufReader::with_capacity(BUFFER_BYTES, reader),
        Err(error) => {
            contents.damage = Some(error.to_string());
            return Ok(contents);
        }
    };
    let (mut line, mut number, mut columns) = (Vec::new(), 0, None);
    loop {
        line.clear();
        match read_line(&mut reader, &mut line) {
            Ok(false) => return Ok(contents),
            Ok(true) => {}
            Err(error) => {
                contents.damage = Some(format!("{error}, after line {number}"));
                return Ok(contents);
            }
        }
        number += 1;
        match Parsed::new(&line, columns.as_ref()) {
            Parsed::Header(header) => columns = Some(header),
            Parsed::Record(record) => {
                contents.records += 1;
                on_record(record, number)?;
            }
            Parsed::Unreadable => contents.unreadable_lines += 1,
        }
    }
}

/// A line of an output file.
enum Parsed {
    Header(Columns),
    Record(Fingerprint),
    Unreadable,
}

impl Parsed {
    fn new(line: &[u8], columns: Option<&Columns>) -> Self {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let Ok(line) = std::str::from_utf8(line) else { return Self::Unreadable };
        if let Some(record) = csv::fingerprint_of_line(line) {
            return Self::Record(record);
        }
        match (Columns::of_header(line), columns) {
            (Some(header), _) => Self::Header(header),
            (None, Some(columns)) if columns.is_whole_row(line) => {
                Self::Record(columns.fingerprint_of_row(line))
            }
            _ => Self::Unreadable,
        }
    }
}

/// Reads a line without its line break; the last line of a file that is being written may lack it and is not returned.
/// Of a line that is too long, only the beginning is returned. Returns `false` at the end.
fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    loop {
        let chunk = reader.fill_buf()?;
        if chunk.is_empty() {
            return Ok(false);
        }
        let end = memchr::memchr(b'\n', chunk);
        let part = &chunk[..end.unwrap_or(chunk.len())];
        if line.len() < LINE_BYTES_MAX {
            line.extend_from_slice(part);
        }
        let consumed = part.len() + usize::from(end.is_some());
        reader.consume(consumed);
        if end.is_some() {
            return Ok(true);
        }
    }
}

/// Returns a reader of the file's contents, decompressed according to its first bytes.
fn decompressed(file: &mut File) -> io::Result<Box<dyn Read + '_>> {
    let mut magic = Vec::new();
    Read::by_ref(file).take(6).read_to_end(&mut magic)?;
    file.seek(SeekFrom::Start(0))?;
    let buffered = |file| BufReader::with_capacity(BUFFER_BYTES, file);
    Ok(match magic.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(buffered(file))),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let decoder = ruzstd::decoding::StreamingDecoder::new(buffered(file));
            Box::new(decoder.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?)
        }
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Box::new(lzma_rust2::XzReader::new(buffered(file), true)),
        [b'B', b'Z', b'h', ..] => Box::new(bzip2::read::MultiBzDecoder::new(buffered(file))),
        _ => Box::new(file),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_rotation_makes_of_a_file() {
        let path = Path::new("/var/log/office365/audit.json");
        for name in [
            "audit.json",
            "audit.json.1",
            "audit.json.2.gz",
            "audit.json-20261128",
            "audit.json-20261128.zst",
            "audit-20261128.json",
            "audit.1.json",
            "audit_2.json.xz",
            "audit.json.bz2",
        ] {
            assert!(is_sibling(path, OsStr::new(name)), "{name}");
        }
        for name in
            ["audit", "audits.json", "audit.jsonl", "other.json", "audit-1.txt", "audit.csv", "xaudit.json"]
        {
            assert!(!is_sibling(path, OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn reads_a_compressed_file_only_when_its_source_is_gone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit.json");
        for name in ["audit.json", "audit.json.1", "audit.json.1.gz", "audit.json.2.gz", "other"] {
            fs::write(folder.path().join(name), "").expect("room");
        }
        let found = find(&[path]).expect("a folder");
        let names: Vec<_> = found.iter().filter_map(|path| path.file_name()?.to_str()).collect();
        assert_eq!(names, ["audit.json", "audit.json.1", "audit.json.2.gz"]);
    }

    fn fingerprints(file: &Path) -> (Vec<Fingerprint>, FileContents) {
        let mut files = OutputFiles::open(|| Ok(vec![file.to_owned()])).expect("a file");
        let mut found = Vec::new();
        let contents = files.read(&mut |record, _, _| {
            found.push(record);
            Ok(())
        });
        (found, contents.expect("no error").remove(0))
    }

    #[test]
    fn recognizes_a_record_in_json_and_csv_whatever_its_tenant_is_called() {
        let folder = tempfile::tempdir().expect("a folder");
        let (json, csv) = (folder.path().join("a.json"), folder.path().join("a.csv"));
        let line = r#"{"Id":"A1","OrganizationId":"o","x":"1;\n2","OriginFeed":"Audit.Exchange","TenantName":"contoso"}"#;
        let plain = r#"{"x":"1;\n2","OriginFeed":"Audit.Exchange"}"#;
        fs::write(&json, format!("{line}\n{plain}\nnot a record\n{{\"torn\":")).expect("room");
        let mut columns = Columns::common(';');
        columns.unite(line);
        let mut rows = Vec::new();
        columns.append_header(&mut rows);
        columns.append_row(line, &mut rows);
        columns.append_row(plain, &mut rows);
        fs::write(&csv, rows).expect("room");
        let (in_json, contents) = fingerprints(&json);
        assert_eq!(contents, FileContents { records: 2, unreadable_lines: 1, damage: None });
        assert_eq!(fingerprints(&csv).0, in_json);
        let renamed = line.replace("contoso", "fabrikam");
        let renamed = csv::fingerprint_of(&renamed);
        assert!(renamed.key == in_json[0].key && renamed.tenant_name != in_json[0].tenant_name);
        assert!(Fingerprint::has_id(in_json[0].key) && !Fingerprint::has_id(in_json[1].key));
    }
}
