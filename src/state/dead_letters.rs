//! `dead-letters/<output>.json`: records that a receiver rejects permanently, each with the reason.
//!
//! Each line is a JSON object: `refusedAt`, `tenantId`, `tenantName`, `contentType`, `contentId`, `recordId`, `reason`, and
//! `record`, the record as in a file output. A line is durable before the record's blob is committed. After a crash in
//! between, the record is rejected again, and its line is not repeated. The administrator may move or delete the files at
//! any time.

use std::{
    borrow::Cow,
    collections::HashMap,
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use xxhash_rust::xxh3::xxh3_128;

use super::{FeedId, StateError};
use crate::{
    delivery::OutputName,
    disk::{self, FileContext},
    feed::ContentType,
    limits::STATE_BUFFER_BYTES,
};

/// The folder's name in `workingDir`.
pub const FOLDER_NAME: &str = "dead-letters";

/// The maximum size of a file. Beyond it, rejected records are sent again by later passes.
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// A rejected record.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetter<'a> {
    /// When the record was rejected.
    pub refused_at: Timestamp,
    /// The tenant's id.
    pub tenant_id: &'a str,
    /// The tenant's name, if it has one.
    pub tenant_name: Option<&'a str>,
    /// The API's name of the feed.
    pub content_type: &'static str,
    /// The id of the record's blob.
    pub content_id: &'a str,
    /// The record's `Id`, if it has one.
    pub record_id: Option<&'a str>,
    /// The receiver's response.
    pub reason: &'a str,
    /// The record: one line of JSON without the line break.
    #[serde(skip)]
    pub record: &'a [u8],
}

impl DeadLetter<'_> {
    /// Returns the identity of the letter: its record and where that came from, independent of the response.
    fn key(&self) -> u128 {
        key([self.tenant_id, self.content_type, self.content_id].map(str::as_bytes), self.record)
    }

    /// Appends its line.
    fn append_to(&self, lines: &mut Vec<u8>) {
        let head = serde_json::to_string(self).expect("texts and times can be written as JSON");
        lines.extend_from_slice(head.trim_end_matches('}').as_bytes());
        lines.extend_from_slice(b",\"record\":");
        lines.extend_from_slice(self.record);
        lines.extend_from_slice(b"}\n");
    }
}

fn key(origin: [&[u8]; 3], record: &[u8]) -> u128 {
    xxh3_128(&[&origin.join(&0)[..], record].join(&0))
}

/// The dead letters of one output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetters {
    /// The output.
    pub output: OutputName,
    /// The file.
    pub path: PathBuf,
    /// The number of dead letters.
    pub count: usize,
    /// The number of dead letters by tenant id and content type.
    pub of_feeds: HashMap<FeedId, usize>,
}

/// Returns the file of an output.
pub fn path(working_dir: &Path, output: OutputName) -> PathBuf {
    working_dir.join(FOLDER_NAME).join(format!("{output}.json"))
}

/// Adds those dead letters of an output that its file does not contain yet, durably. Returns whether there was room: a
/// file of [`FILE_BYTES_MAX`] bytes accepts no more.
///
/// # Errors
///
/// The file or its folder cannot be written.
pub(super) fn add(
    working_dir: &Path,
    output: OutputName,
    letters: &[DeadLetter<'_>],
) -> Result<bool, StateError> {
    let path = path(working_dir, output);
    Ok(append(&path, letters).context("write", &path)?)
}

fn append(path: &Path, letters: &[DeadLetter<'_>]) -> io::Result<bool> {
    disk::create_folder(disk::folder_of(path), 0o700)?;
    let mut file = disk::open_for_append(path, 0o600)?;
    let before = end_of_lines(&mut file)?;
    if file.metadata()?.len() > before {
        disk::truncate(&file, before)?; // part of a line, which a killed pass left
    }
    if before >= FILE_BYTES_MAX {
        return Ok(false);
    }
    let mut there = present(File::open(path)?, letters)?;
    let mut lines = Vec::new();
    for letter in letters {
        match there.get_mut(&letter.key()) {
            Some(count) if *count > 0 => *count -= 1,
            _ => letter.append_to(&mut lines),
        }
    }
    if before.saturating_add(lines.len() as u64) > FILE_BYTES_MAX {
        return Ok(false);
    }
    // A line of a killed pass can be in the file and not on the disk: it is synced together with the others.
    disk::append_durably(&mut file, &lines)?;
    Ok(true)
}

/// Returns how often each of these dead letters is in the file. Equal records of one blob are a line each.
fn present(file: File, letters: &[DeadLetter<'_>]) -> io::Result<HashMap<u128, usize>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Origin<'a> {
        tenant_id: Cow<'a, str>,
        content_type: Cow<'a, str>,
        content_id: Cow<'a, str>,
        #[serde(borrow)]
        record: &'a RawValue,
    }
    let mut counts: HashMap<_, _> = letters.iter().map(|letter| (letter.key(), 0)).collect();
    let (mut lines, mut line) = (BufReader::with_capacity(STATE_BUFFER_BYTES, file), Vec::new());
    while lines.read_until(b'\n', &mut line)? > 0 {
        if let Ok(Origin { tenant_id, content_type, content_id, record }) = serde_json::from_slice(&line) {
            let origin = [tenant_id, content_type, content_id];
            let key = key(origin.each_ref().map(|part| part.as_bytes()), record.get().as_bytes());
            counts.entry(key).and_modify(|count| *count += 1);
        }
        line.clear();
    }
    Ok(counts)
}

/// Returns the end of the last whole line.
fn end_of_lines(file: &mut File) -> io::Result<u64> {
    let mut end = file.metadata()?.len();
    let mut buffer = vec![0; STATE_BUFFER_BYTES];
    while end > 0 {
        let start = end.saturating_sub(buffer.len() as u64);
        let part = &mut buffer[..usize::try_from(end - start).expect("no more than the buffer")];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(part)?;
        if let Some(place) = memchr::memrchr(b'\n', part) {
            return Ok(start + place as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

/// Returns the dead letters of each output that has any.
///
/// # Errors
///
/// A file cannot be read.
pub fn read(working_dir: &Path) -> Result<Vec<DeadLetters>, StateError> {
    let mut all = Vec::new();
    for output in OutputName::ALL {
        let path = path(working_dir, output);
        let Some(file) = disk::none_if_missing(File::open(&path)).context("read", &path)? else { continue };
        let (count, of_feeds) =
            count(BufReader::with_capacity(STATE_BUFFER_BYTES, file)).context("read", &path)?;
        if count > 0 {
            all.push(DeadLetters { output, path, count, of_feeds });
        }
    }
    Ok(all)
}

type Counts = (usize, HashMap<FeedId, usize>);

/// Counts whole lines. An unreadable line is counted, but not for a feed.
fn count(mut lines: impl BufRead) -> io::Result<Counts> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Head {
        tenant_id: String,
        content_type: String,
    }
    let (mut count, mut of_feeds, mut line) = (0, HashMap::new(), Vec::new());
    while lines.read_until(b'\n', &mut line)? > 0 {
        if line.ends_with(b"\n") {
            count += 1;
            let head: Option<Head> = serde_json::from_slice(&line).ok();
            let feed = head
                .and_then(|head| Some((head.tenant_id.into(), ContentType::from_name(&head.content_type)?)));
            if let Some(feed) = feed {
                *of_feeds.entry(feed).or_default() += 1;
            }
        }
        line.clear();
    }
    Ok((count, of_feeds))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn letter(record: &[u8]) -> DeadLetter<'_> {
        DeadLetter {
            refused_at: "2026-11-28T10:00:00Z".parse().expect("a time of the test"),
            tenant_id: "t",
            tenant_name: Some("contoso"),
            content_type: "DLP.All",
            content_id: "blob$1",
            record_id: Some("a"),
            reason: "HTTP 400: {no}",
            record,
        }
    }

    #[test]
    fn line_contains_the_unchanged_record() {
        let folder = tempfile::tempdir().expect("a folder");
        let record = br#"{"Id":"a","x":1E400}"#;
        assert!(add(folder.path(), OutputName::Http, &[letter(record)]).expect("room"));
        assert_eq!(
            fs::read_to_string(folder.path().join("dead-letters/http.json")).expect("a file"),
            "{\"refusedAt\":\"2026-11-28T10:00:00Z\",\"tenantId\":\"t\",\"tenantName\":\"contoso\",\
             \"contentType\":\"DLP.All\",\"contentId\":\"blob$1\",\"recordId\":\"a\",\"reason\":\"HTTP 400: {no}\",\
             \"record\":{\"Id\":\"a\",\"x\":1E400}}\n"
        );
    }

    #[test]
    fn removes_a_torn_line_and_counts_whole_ones() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(read(folder.path()).expect("nothing"), []);
        for records in [["{}", "{}"], ["{\"y\":1}", "{\"y\":2}"]] {
            let letters = records.map(|record| letter(record.as_bytes()));
            assert!(add(folder.path(), OutputName::Http, &letters).expect("room"));
        }
        let path = path(folder.path(), OutputName::Http);
        let whole = fs::read_to_string(&path).expect("a file");
        let torn = format!("{whole}{}", "x".repeat(2 * STATE_BUFFER_BYTES));
        fs::write(&path, &torn).expect("room");
        let found = read(folder.path()).expect("a file");
        assert_eq!(found[0].count, 4);
        assert_eq!(found[0].of_feeds, HashMap::from([(("t".into(), ContentType::DlpAll), 4)]));
        assert!(add(folder.path(), OutputName::Http, &[letter(b"[]")]).expect("room"));
        let then = fs::read_to_string(&path).expect("a file");
        assert!(then.starts_with(&whole) && !then.contains('x'), "{then}");
        assert_eq!(then.lines().count(), 5);
    }

    #[test]
    fn does_not_repeat_an_existing_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let count = || read(folder.path()).expect("a file")[0].count;
        let (nameless, other_blob) = (letter(b"{}"), DeadLetter { content_id: "blob$2", ..letter(b"{}") });
        for (letters, expected) in [
            (&[nameless, nameless, letter(b"{\"Id\":\"a\"}")][..], 3),
            (&[nameless, nameless, letter(b"{\"Id\":\"a\"}")], 3),
            (&[DeadLetter { reason: "HTTP 500", ..nameless }], 3),
            (&[other_blob, nameless], 4),
            (&[nameless, nameless, nameless], 5),
        ] {
            assert!(add(folder.path(), OutputName::Http, letters).expect("room"));
            assert_eq!(count(), expected);
        }
    }

    #[test]
    fn does_not_append_to_a_full_file() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(add(folder.path(), OutputName::Http, &[letter(b"{}")]).expect("room"));
        let path = path(folder.path(), OutputName::Http);
        let file = fs::OpenOptions::new().write(true).open(&path).expect("a file");
        file.set_len(FILE_BYTES_MAX - 1).expect("a sparse file");
        io::Write::write_all(&mut fs::OpenOptions::new().append(true).open(&path).expect("a file"), b"\n")
            .expect("room");
        assert!(!add(folder.path(), OutputName::Http, &[letter(b"{}")]).expect("a readable file"));
    }
}
