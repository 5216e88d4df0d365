//! `known_blobs`: which blobs were delivered, so that none is delivered again.
//!
//! Text, one line a blob, newest last: `contentId,contentExpiration,tenantId,contentType`. The older tool's lines end
//! after the second column; they are read as they are and hold for every tenant and feed. Neither an id nor a time holds a
//! comma as Microsoft writes them today; a line is taken apart from its end, so that an id may.
//!
//! Appended to by the writer; read whole when a pass starts, and then mended where that is needed:
//!
//! - A last line without its end is what a crash in the middle of an append leaves. If it reads as a line it is one
//!   (the append had begun, so its blob was delivered) and gets its end; otherwise it is dropped, and its blob is
//!   collected again.
//! - A line that cannot be read is moved to `known_blobs.unreadable` and reported by its number.
//! - Lines that are there again are dropped by compaction, which happens when they are many.
//!
//! Lines past their expiration, and a grace, are dropped the same way at the end of a pass, when Microsoft's time is
//! known. Until then they count.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufRead, BufReader, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed, xxh3_128_with_seed};

use super::{
    StateError,
    key_set::{Filling, KeySet},
    lock,
};
use crate::{
    disk,
    feed::{ContentType, ListedBlob},
    limits, time,
};

/// What a line usually takes, for making room for all of them at once.
const LINE_BYTES_USUAL: usize = 150;

/// The file's name in `workingDir`.
pub const FILE_NAME: &str = "known_blobs";

/// A blob's identity in 128 bits: a hash of its tenant, its content type and its content id, so that a million of them
/// fit into memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlobKey(u128);

impl BlobKey {
    /// Content ids are opaque, and nothing says that they are unique across tenants or feeds.
    pub fn new(tenant_id: &str, content_type: ContentType, content_id: &str) -> Self {
        let tenant_id = tenant_id.to_ascii_lowercase();
        Self::of(tenant_id.as_bytes(), Some(content_type), content_id.as_bytes())
    }

    /// Of a line that names neither a tenant nor a content type.
    fn of_any_feed(content_id: &[u8]) -> Self {
        Self::of(b"", None, content_id)
    }

    fn of(tenant_id: &[u8], content_type: Option<ContentType>, content_id: &[u8]) -> Self {
        let name = content_type.map_or("", ContentType::name);
        let seed = xxh3_64_with_seed(tenant_id, xxh3_64(name.as_bytes()));
        Self(xxh3_128_with_seed(content_id, seed).max(1)) // zero is not a key of a set
    }
}

impl std::fmt::Display for BlobKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{:032x}", self.0)
    }
}

/// The blobs that are known, for looking them up.
#[derive(Debug, Default)]
pub struct KnownBlobs {
    keys: KeySet,
    /// Whether the older tool's lines are among them.
    any_feed: bool,
}

impl KnownBlobs {
    /// Adds a blob.
    pub(super) fn insert(&mut self, key: BlobKey) -> bool {
        self.keys.insert(key.0)
    }

    /// Whether this feed's blob was delivered, or given up for good.
    pub fn contains(&self, tenant_id: &str, content_type: ContentType, content_id: &str) -> bool {
        self.keys.contains(BlobKey::new(tenant_id, content_type, content_id).0)
            || (self.any_feed && self.keys.contains(BlobKey::of_any_feed(content_id.as_bytes()).0))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads what a pass would know, without a lock and without touching anything.
    pub fn read(working_dir: &Path) -> Result<Self, StateError> {
        let path = working_dir.join(FILE_NAME);
        match File::open(&path).and_then(|file| Contents::read(&file)) {
            Ok(contents) => Ok(contents.known),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(StateError::storage("read", &path, error)),
        }
    }
}

/// `known_blobs`, locked for this pass, open for the writer to append to.
#[derive(Debug)]
pub struct KnownBlobsFile {
    path: PathBuf,
    file: File,
    /// How many of its lines expire in each hour since 1970. Without those that were appended since it was read.
    expirations: HashMap<i64, usize>,
}

impl KnownBlobsFile {
    /// Locks the file (made if it is not there, and its folder with it), reads it, and mends it where it must be.
    ///
    /// Errors: another pass holds the lock; or the folder or file cannot be read or written.
    pub fn open(working_dir: &Path) -> Result<(Self, KnownBlobs), StateError> {
        disk::create_folder(working_dir, 0o700)
            .map_err(|error| StateError::storage("make the folder", working_dir, error))?;
        let path = working_dir.join(FILE_NAME);
        let file = lock::open_locked(&path)?;
        let mut opened = Self { path, file, expirations: HashMap::new() };
        disk::recover(&opened.path).map_err(|error| opened.storage("recover", error))?;
        let contents = Contents::read(&opened.file).map_err(|error| opened.storage("read", error))?;
        opened.mend(&contents)?;
        opened.expirations = contents.expirations;
        Ok((opened, contents.known))
    }

    /// Appends lines, each as [`line_of`] makes it. Durable only after [`Self::sync`]; until then the journal has them.
    pub fn append(&mut self, lines: &[String]) -> Result<(), StateError> {
        if lines.is_empty() {
            return Ok(());
        }
        let before = self.file.metadata().map_err(|error| self.storage("look at", error))?.len();
        let text: String = lines.iter().flat_map(|line| [line, "\n"]).collect();
        disk::append(&mut self.file, text.as_bytes()).map_err(|error| {
            // What is left of a failed append would be a torn line in front of the next one.
            let _ = disk::truncate(&self.file, before);
            self.storage("write", error)
        })
    }

    /// Writes the last lines of the file again, in place: as many bytes as these lines take. An fsync that failed can have
    /// left them in memory only, and no later one writes them.
    pub fn write_end_again(&self, lines: &[String]) -> Result<(), StateError> {
        let bytes: u64 = lines.iter().map(|line| line.len() as u64 + 1).sum();
        if bytes == 0 {
            return Ok(());
        }
        let length = self.file.metadata().map_err(|error| self.storage("look at", error))?.len();
        let opened = File::options().read(true).write(true).open(&self.path);
        let written =
            opened.and_then(|file| disk::rewrite_range(&file, length.saturating_sub(bytes)..length));
        written.map_err(|error| self.storage("write", error))
    }

    /// Returns when everything appended is durable.
    pub fn sync(&self) -> Result<(), StateError> {
        disk::sync(&self.file).map_err(|error| self.storage("sync", error))
    }

    /// Drops the lines that have expired at this time of Microsoft's, if they are many.
    pub fn forget_expired(&mut self, now: Timestamp) -> Result<(), StateError> {
        let expired_before = now - limits::EXPIRATION_GRACE;
        let latest = now.saturating_add(limits::KNOWN_MAX).unwrap_or(Timestamp::MAX);
        let lines = self.expirations.values().sum();
        let expired = self.expirations.iter().filter(|(hour, _)| **hour < hour_of(expired_before));
        if !is_worth_compacting(expired.map(|(_, count)| count).sum(), lines) {
            return Ok(());
        }
        self.replace(|raw, to| match Line::parse(raw.text) {
            Some(line) if line.expiration < expired_before => Ok(()),
            // The older tool's lines can hold an expiration that never comes.
            Some(line) if line.expiration > latest && line.content_type.is_none() => {
                to.write_all(line.content_id)?;
                writeln!(to, ",{latest}")
            }
            _ => raw.write_to(to),
        })
    }

    fn storage(&self, action: &'static str, error: io::Error) -> StateError {
        StateError::storage(action, &self.path, error)
    }

    fn mend(&mut self, contents: &Contents) -> Result<(), StateError> {
        for number in contents.unreadable.iter().take(limits::LOGGED_LINES_MAX) {
            log::warn!(
                "Line {number} of {} cannot be read; it is moved to {FILE_NAME}.unreadable, and collection goes on",
                self.path.display()
            );
        }
        if let Some(more) =
            contents.unreadable.len().checked_sub(limits::LOGGED_LINES_MAX).filter(|more| *more > 0)
        {
            log::warn!("… and {more} more lines of {} that cannot be read", self.path.display());
        }
        if let End::Torn { .. } = contents.end {
            log::warn!(
                "The last line of {} is torn, as a crash leaves it; it is dropped, and its blob is collected again",
                self.path.display()
            );
        }
        if contents.unreadable.is_empty() && !is_worth_compacting(contents.repeated, contents.lines) {
            return self.mend_end(contents);
        }
        let mut dropped = contents.dropped.iter().peekable();
        let compacted =
            self.set_aside(contents).and_then(|()| {
                self.replace(|raw, to| {
                    if dropped.next_if_eq(&&raw.number).is_some() { Ok(()) } else { raw.write_to(to) }
                })
            });
        if let Err(error) = compacted {
            // Then there is no file of that name any more to append to, or only a part of it.
            if disk::is_rewrite_pending(&self.path)
                || !lock::is_named(&self.file, &self.path).unwrap_or(false)
            {
                return Err(error);
            }
            log::warn!("{error}; until then the file keeps lines that no longer count");
            return self.mend_end(contents);
        }
        Ok(())
    }

    /// Without compaction the only thing to mend is a last line without its end.
    fn mend_end(&mut self, contents: &Contents) -> Result<(), StateError> {
        let mended = match contents.end {
            End::Whole => return Ok(()),
            End::LacksLineBreak => disk::append(&mut self.file, b"\n"),
            End::Torn { keep } => disk::truncate(&self.file, keep),
        };
        mended.and_then(|()| disk::sync(&self.file)).map_err(|error| self.storage("mend", error))
    }

    /// Keeps unreadable lines where a person can look at them.
    fn set_aside(&self, contents: &Contents) -> Result<(), StateError> {
        if contents.unreadable.is_empty() {
            return Ok(());
        }
        let path = self.path.with_extension("unreadable");
        let copy = || {
            let mut lines = Vec::new();
            for_each_line(&self.file, |line| {
                if contents.unreadable.binary_search(&line.number).is_ok() {
                    lines.extend([line.text, b"\n"].concat());
                }
                Ok(())
            })?;
            let mut file = disk::open_for_append(&path, 0o600)?;
            disk::append(&mut file, &lines)?;
            disk::sync(&file)
        };
        copy().map_err(|error| StateError::storage("write", &path, error))
    }

    /// Writes the lines that still count, as `write` does that with each, into a new file, locks that, and lets it take
    /// the name. A crash in between leaves the old file as it was.
    fn replace(
        &mut self,
        mut write: impl FnMut(RawLine<'_>, &mut dyn Write) -> io::Result<()>,
    ) -> Result<(), StateError> {
        let replaced = disk::replace(
            &self.path,
            0o600,
            |to| for_each_line(&self.file, |line| write(line, &mut *to)),
            lock::lock,
        );
        if let Some(file) = replaced.map_err(|error| self.storage("replace", error))? {
            self.file = file;
        }
        Ok(())
    }
}

/// The line that makes a blob known: `contentId,contentExpiration,tenantId,contentType`.
pub fn line_of(tenant_id: &str, content_type: ContentType, blob: &ListedBlob) -> String {
    let (content_id, until) = (&blob.content_id, known_until(blob));
    format!("{content_id},{until},{tenant_id},{content_type}")
}

/// Until when a blob is known: its expiration as the API wrote it; or another time, if that cannot be read, if the blob
/// can still be listed after it, or if it is so far away that the line would stay for ever.
fn known_until(blob: &ListedBlob) -> String {
    let after = |time: Duration| blob.created.saturating_add(time).unwrap_or(Timestamp::MAX);
    let (earliest, latest) = (after(limits::RETENTION), after(limits::KNOWN_MAX));
    let is_usual = |time: &Timestamp| *time >= earliest - limits::EXPIRATION_GRACE && *time <= latest;
    if time::parse(&blob.expiration).is_some_and(|time| is_usual(&time)) {
        return blob.expiration.replace(',', "."); // ISO 8601 has both for fractions, and this line one
    }
    time::expiration(&blob.expiration).unwrap_or(earliest).clamp(earliest, latest).to_string()
}

/// The key of the blob that a line makes known.
pub(super) fn key_of(line: &str) -> Option<BlobKey> {
    Line::parse(line.as_bytes()).map(|line| line.key())
}

/// A line of the file.
struct RawLine<'a> {
    /// From 1.
    number: usize,
    /// How many bytes of the file are before it.
    start: u64,
    /// Without its line break.
    text: &'a [u8],
    has_end: bool,
}

impl RawLine<'_> {
    fn write_to(&self, to: &mut dyn Write) -> io::Result<()> {
        to.write_all(self.text)?;
        to.write_all(b"\n")
    }
}

/// The hour since 1970 that a time is in.
fn hour_of(time: Timestamp) -> i64 {
    time.as_second().div_euclid(60 * 60)
}

/// Whether a file is rewritten without the lines that no longer count. That costs as much as reading it: it is done at
/// once while the file is small, and otherwise when a good part of it goes away.
fn is_worth_compacting(dead: usize, lines: usize) -> bool {
    dead > 0 && (lines <= limits::SMALL_STATE_LINES || dead >= lines / 4)
}

/// Reads a file from its start, line by line; a piece of it at a time is in memory.
fn for_each_line(mut file: &File, mut act: impl FnMut(RawLine<'_>) -> io::Result<()>) -> io::Result<()> {
    file.seek(SeekFrom::Start(0))?;
    let mut reader = BufReader::with_capacity(limits::STATE_BUFFER_BYTES, file);
    let (mut number, mut start) = (1, 0);
    // The beginning of a line whose rest is in the next piece.
    let mut begun = Vec::new();
    loop {
        let piece = reader.fill_buf()?;
        let (length, mut from) = (piece.len(), 0);
        for line_break in memchr::memchr_iter(b'\n', piece) {
            let rest = &piece[from..line_break];
            from = line_break + 1;
            let text = if begun.is_empty() {
                rest
            } else {
                begun.extend_from_slice(rest);
                &begun
            };
            act(RawLine { number, start, text, has_end: true })?;
            number += 1;
            start += text.len() as u64 + 1;
            begun.clear();
        }
        begun.extend_from_slice(&piece[from..]);
        if length == 0 {
            break;
        }
        reader.consume(length);
    }
    if !begun.is_empty() {
        act(RawLine { number, start, text: &begun, has_end: false })?;
    }
    Ok(())
}

/// What the file says.
struct Contents {
    known: KnownBlobs,
    /// How many lines can be read.
    lines: usize,
    /// How many of them are there a second time (`skipKnownLogs: false`).
    repeated: usize,
    /// How many of them expire in each hour since 1970.
    expirations: HashMap<i64, usize>,
    /// Numbers of the lines that compaction leaves out, from 1, ascending.
    dropped: Vec<usize>,
    /// Those of them that cannot be read.
    unreadable: Vec<usize>,
    end: End,
}

/// How the text ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// With a line break, or there is no text.
    Whole,
    /// With a line that reads well but has no line break.
    LacksLineBreak,
    /// In the middle of a line that starts at `keep`.
    Torn { keep: u64 },
}

impl Contents {
    fn read(file: &File) -> io::Result<Self> {
        let bytes = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
        let keys = KeySet::with_room_for(bytes / LINE_BYTES_USUAL);
        let mut known = KnownBlobs { keys, any_feed: false };
        let mut filling = Filling::new(&mut known.keys);
        let (mut lines, mut any_feed, mut end) = (0, false, End::Whole);
        let (mut unreadable, mut blank) = (Vec::new(), Vec::new());
        // Neighbours expire in the same hour: they are counted before the map is asked.
        let (mut expirations, mut hour, mut in_hour) = (HashMap::new(), 0, 0);
        for_each_line(file, |raw| {
            if !raw.has_end {
                end = End::LacksLineBreak;
            }
            let line = raw.text.strip_suffix(b"\r").unwrap_or(raw.text);
            match Line::parse(line) {
                Some(line) => {
                    any_feed |= line.content_type.is_none();
                    lines += 1;
                    if hour_of(line.expiration) != hour {
                        *expirations.entry(hour).or_default() += std::mem::take(&mut in_hour);
                        hour = hour_of(line.expiration);
                    }
                    in_hour += 1;
                    filling.add(line.key().0, raw.number);
                }
                None if line.is_empty() => blank.push(raw.number),
                None if raw.has_end => unreadable.push(raw.number),
                None => {
                    end = End::Torn { keep: raw.start };
                    blank.push(raw.number);
                }
            }
            Ok(())
        })?;
        let repeated = filling.finish();
        known.any_feed = any_feed;
        *expirations.entry(hour).or_default() += in_hour;
        let mut dropped = [repeated.clone(), blank, unreadable.clone()].concat();
        dropped.sort_unstable();
        let repeated = repeated.len();
        Ok(Self { known, lines, repeated, expirations, dropped, unreadable, end })
    }
}

/// A line, taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Line<'a> {
    content_id: &'a [u8],
    expiration: Timestamp,
    /// Empty in the older tool's lines.
    tenant_id: &'a [u8],
    /// `None` in the older tool's lines.
    content_type: Option<ContentType>,
}

impl<'a> Line<'a> {
    /// From the line's end: a content type and before it a tenant, or neither; then a time; the rest is the id.
    fn parse(line: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(line).ok()?;
        let (before_type, name) = at_last_comma(text)?;
        let content_type = ContentType::from_name(name);
        let (rest, tenant_id) = match content_type {
            Some(_) => at_last_comma(before_type)?,
            None => (text, ""),
        };
        let (content_id, expiration) = at_last_comma(rest)?;
        let expiration = time::expiration(expiration.trim())?;
        (!content_id.is_empty()).then_some(Self {
            content_id: content_id.as_bytes(),
            expiration,
            tenant_id: tenant_id.as_bytes(),
            content_type,
        })
    }

    fn key(&self) -> BlobKey {
        BlobKey::of(self.tenant_id, self.content_type, self.content_id)
    }
}

/// What is before and behind the last comma. Several times as fast as `rsplit_once`, and there are a million lines.
fn at_last_comma(text: &str) -> Option<(&str, &str)> {
    let place = memchr::memrchr(b',', text.as_bytes())?;
    Some((&text[..place], &text[place + 1..]))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const TENANT: &str = "11111111-1111-4111-8111-111111111111";
    const FEED: ContentType = ContentType::AuditGeneral;
    const OTHER_TENANT: &str = "22222222-2222-4222-8222-222222222222";

    fn now() -> Timestamp {
        "2026-11-22T10:00:00Z".parse().expect("a time of the test")
    }

    fn blob(content_id: &str) -> ListedBlob {
        ListedBlob {
            content_id: content_id.to_owned(),
            content_uri: String::new(),
            created: now(),
            expiration: "2026-11-29T10:00:00.000Z".to_owned(),
        }
    }

    /// A folder with this `known_blobs`.
    fn folder(text: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join(FILE_NAME), text).expect("a file");
        folder
    }

    /// What is known of that text, and what the file holds after it was opened.
    fn opened(text: &str) -> (KnownBlobs, String, tempfile::TempDir) {
        let folder = folder(text);
        let (_, known) = KnownBlobsFile::open(folder.path()).expect("a usable state");
        let after = fs::read_to_string(folder.path().join(FILE_NAME)).expect("a file");
        (known, after, folder)
    }

    #[test]
    fn what_is_appended_is_known_the_next_time_to_its_tenant_only() {
        let folder = folder("");
        let (mut file, known) = KnownBlobsFile::open(folder.path()).expect("a usable state");
        assert!(known.is_empty());
        let (first, second) = (blob("1$2$audit_exchange$na0022"), blob("with,comma"));
        let lines = [(ContentType::AuditExchange, &first), (ContentType::DlpAll, &second)];
        file.append(&lines.map(|(content_type, blob)| line_of(TENANT, content_type, blob))).expect("room");
        drop(file);
        let (_, known) = KnownBlobsFile::open(folder.path()).expect("a usable state");
        assert!(known.contains(TENANT, ContentType::AuditExchange, "1$2$audit_exchange$na0022"));
        assert!(known.contains(TENANT, ContentType::DlpAll, "with,comma"));
        assert!(!known.contains(TENANT, ContentType::AuditGeneral, "with,comma"), "another feed");
        assert!(!known.contains(OTHER_TENANT, ContentType::AuditExchange, "1$2$audit_exchange$na0022"));
        assert_eq!(
            fs::read_to_string(folder.path().join(FILE_NAME)).expect("a file"),
            format!(
                "1$2$audit_exchange$na0022,2026-11-29T10:00:00.000Z,{TENANT},Audit.Exchange\n\
                 with,comma,2026-11-29T10:00:00.000Z,{TENANT},DLP.All\n"
            )
        );
    }

    #[test]
    fn the_older_tools_lines_hold_for_every_tenant_and_stay_as_they_are() {
        let text = "20171014$20171014$x,2026-11-25T10:00:00.000Z\nwith,comma,2026-11-25T10:00:00Z\n";
        let (known, after, _folder) = opened(text);
        for tenant in [TENANT, OTHER_TENANT] {
            assert!(known.contains(tenant, FEED, "20171014$20171014$x"));
            assert!(known.contains(tenant, ContentType::DlpAll, "with,comma"));
        }
        assert_eq!(after, text);
    }

    #[test]
    fn a_last_line_without_its_end_is_completed_if_it_reads_and_dropped_if_not() {
        let line = format!("a,2026-11-29T10:00:00Z,{TENANT},Audit.General");
        let (known, after, _folder) = opened(&line);
        assert!(known.contains(TENANT, FEED, "a"));
        assert_eq!(after, format!("{line}\n"));
        let (known, after, _folder) = opened(&format!("{line}\nb,2026-11-2"));
        assert!(known.contains(TENANT, FEED, "a") && !known.contains(TENANT, FEED, "b"));
        assert_eq!(after, format!("{line}\n"));
    }

    #[test]
    fn an_unreadable_line_is_kept_aside_and_stops_nothing() {
        let (good, bad) = ("a,2026-11-29T10:00:00Z\n", "no time in here\n");
        let (known, after, folder) = opened(&format!("{good}{bad}b,2026-11-29T10:00:00Z\n"));
        assert!(known.contains(TENANT, FEED, "a") && known.contains(TENANT, FEED, "b"));
        assert_eq!(after, format!("{good}b,2026-11-29T10:00:00Z\n"));
        let aside = fs::read_to_string(folder.path().join("known_blobs.unreadable")).expect("a file");
        assert_eq!(aside, bad);
    }

    #[test]
    fn expired_lines_go_when_the_time_is_known_and_those_at_the_edge_stay() {
        let text = "gone,2026-11-01T00:00:00Z\njust,2026-11-22T09:59:00Z\nstays,2026-11-29T10:00:00Z\n\
                    never,9999-12-31T23:59:59.9999999Z\n";
        let (known, after, folder) = opened(text);
        assert!(known.contains(TENANT, FEED, "gone") && known.contains(TENANT, FEED, "never"));
        assert_eq!(after, text, "nothing expires before the time is known");
        let (mut file, _) = KnownBlobsFile::open(folder.path()).expect("a usable state");
        file.append(&["new,2026-11-29T11:00:00Z".to_owned()]).expect("room");
        file.forget_expired(now()).expect("room");
        file.append(&["newer,2026-11-29T12:00:00Z".to_owned()]).expect("room");
        assert_eq!(
            fs::read_to_string(folder.path().join(FILE_NAME)).expect("a file"),
            "just,2026-11-22T09:59:00Z\nstays,2026-11-29T10:00:00Z\nnever,2026-12-22T10:00:00Z\n\
             new,2026-11-29T11:00:00Z\nnewer,2026-11-29T12:00:00Z\n"
        );
    }

    #[test]
    fn the_lock_outlives_a_compaction() {
        let folder = folder("gone,2026-11-01T00:00:00Z\n");
        let mut first = KnownBlobsFile::open(folder.path()).expect("a usable state");
        first.0.forget_expired(now()).expect("room");
        let second = KnownBlobsFile::open(folder.path());
        assert!(matches!(second, Err(StateError::Locked { .. })));
        drop(first);
        KnownBlobsFile::open(folder.path()).expect("a lock that was given back");
    }

    #[test]
    fn reading_touches_nothing_and_needs_no_lock() {
        let folder = folder("gone,2026-11-01T00:00:00Z\nstays,2026-11-29T10:00:00Z\ntorn,2026");
        let before = fs::read(folder.path().join(FILE_NAME)).expect("a file");
        let known = KnownBlobs::read(folder.path()).expect("a readable state");
        assert!(known.contains(TENANT, FEED, "stays") && known.len() == 2);
        assert_eq!(fs::read(folder.path().join(FILE_NAME)).expect("a file"), before);
        assert!(KnownBlobs::read(&folder.path().join("nowhere")).expect("no state yet").is_empty());
    }

    #[test]
    fn an_expiration_with_a_comma_is_read_as_it_is_written() {
        let folder = folder("");
        let (mut file, _) = KnownBlobsFile::open(folder.path()).expect("a usable state");
        let blob = ListedBlob { expiration: "2026-11-29T10:00:00,000Z".to_owned(), ..blob("a") };
        file.append(&[line_of(TENANT, FEED, &blob)]).expect("room");
        drop(file);
        let (_, known) = KnownBlobsFile::open(folder.path()).expect("a usable state");
        assert!(known.contains(TENANT, FEED, "a"));
    }

    #[test]
    fn any_expiration_makes_a_line_that_reads_and_goes_some_day() {
        for (written, expected) in [
            ("2026-11-29T10:00:00.0000000Z", "2026-11-29T10:00:00.0000000Z"),
            ("2026-12-12T10:00:00Z", "2026-12-12T10:00:00Z"),
            ("", "2026-11-29T10:00:00Z"),
            ("0001-01-01T00:00:00", "2026-11-29T10:00:00Z"),
            ("2026-11-22T11:00:00Z", "2026-11-29T10:00:00Z"),
            ("2026-12-01", "2026-12-02T00:00:00Z"),
            ("9999-12-31T23:59:59.9999999Z", "2026-12-22T10:00:00Z"),
            ("soon, or later", "2026-11-29T10:00:00Z"),
        ] {
            let blob = ListedBlob { expiration: written.to_owned(), ..blob("a") };
            let line = line_of(TENANT, FEED, &blob);
            assert_eq!(line, format!("a,{expected},{TENANT},Audit.General"));
            assert_eq!(key_of(&line), Some(BlobKey::new(TENANT, FEED, "a")));
        }
        let last = ListedBlob { created: Timestamp::MAX, ..blob("a") };
        assert!(key_of(&line_of(TENANT, FEED, &last)).is_some());
    }

    #[test]
    fn a_line_that_is_there_again_and_again_goes() {
        let line = format!("a,2026-11-29T10:00:00Z,{TENANT},Audit.General\n");
        let (known, after, _folder) = opened(&line.repeat(3));
        assert!(known.contains(TENANT, FEED, "a"));
        assert_eq!(after, line);
    }

    proptest::proptest! {
        #[test]
        fn any_file_is_opened_and_a_second_opening_changes_nothing(
            text in "([a-c$,]{0,6}(,2026-11-(2[0-9])T10:00:00Z)?(,11111111-1111-4111-8111-111111111111,DLP.All)?\n?){0,8}",
        ) {
            let folder = folder(&text);
            let path = folder.path().join(FILE_NAME);
            let (file, first) = KnownBlobsFile::open(folder.path()).expect("a usable state");
            drop(file);
            let mended = fs::read(&path).expect("a file");
            proptest::prop_assert!(mended.is_empty() || mended.ends_with(b"\n"));
            let (_, second) = KnownBlobsFile::open(folder.path()).expect("a usable state");
            proptest::prop_assert_eq!(fs::read(&path).expect("a file"), mended);
            proptest::prop_assert_eq!((first.len(), first.any_feed), (second.len(), second.any_feed));
        }
    }
}
