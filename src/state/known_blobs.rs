//! `known_blobs`: the delivered blobs, so that none is delivered again.
//!
//! Text, one line a blob, newest last: `contentId,contentExpiration,tenantId,contentType`. The lines of older tools end
//! after the second column and count for every tenant and feed. Microsoft's ids and times contain no comma today; a line is
//! parsed from its end, so that an id may contain one.
//!
//! The writer appends lines. Of a large file, a pass reads the lines that its index does not cover ([`known_index`]); without
//! a valid index it reads the whole file. It repairs what it has read if necessary:
//!
//! - A crash during an append leaves a last line without a line break. If it can be parsed, it gets its line break: the
//!   append had begun, so the blob was delivered. Otherwise the line is dropped, and its blob is collected again.
//! - An unreadable line is moved to `known_blobs.unreadable` and reported with its number.
//! - Repeated lines are dropped by compaction once there are many.
//!
//! Lines past their expiration and a grace period are dropped the same way at the end of a pass, when Microsoft's time is
//! known.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed, xxh3_128_with_seed};

use super::{
    FeedId, StateError, UNREADABLE,
    key_set::{BulkInsert, KeySet},
    known_index::{self, Covered, Header, Index, Stamp},
    lock,
};
use crate::{
    disk::{self, FileContext},
    error::Explain,
    feed::{ContentType, ListedBlob},
    limits, time,
};

/// The maximum number of unreadable lines that are logged; the others are counted.
const LOGGED_LINES_MAX: usize = 5;

/// The length of a typical line, from which the number of lines is estimated.
const TYPICAL_LINE_BYTES: usize = 150;

/// A file with at most this number of lines is compacted as soon as one line no longer counts.
const SMALL_FILE_LINES: usize = 10_000;

/// The length of the lines that the index does not cover above which a new index is made, …
const TAIL_BYTES_MIN: u64 = if cfg!(test) { 200 } else { 1024 * 1024 };

/// … if they are also more than this part of the lines that it covers, so that a line is written to few indexes.
const TAIL_PART: u64 = 16;

/// The longest step in which a kernel's file times advance: a timer interrupt at 100 Hz.
const FILE_TIME_STEP: Duration = Duration::from_millis(if cfg!(test) { 0 } else { 10 });

/// The file's name in `workingDir`.
pub const FILE_NAME: &str = "known_blobs";

/// A blob's identity in 128 bits: a hash of its tenant, its content type and its content id, so that a million of them
/// fit into memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlobKey(u128);

impl BlobKey {
    /// Returns the identity of a feed's blob. Content ids are not documented as unique across tenants or feeds.
    pub fn new(tenant_id: &str, content_type: ContentType, content_id: &str) -> Self {
        let tenant_id = tenant_id.to_ascii_lowercase();
        Self::of(tenant_id.as_bytes(), Some(content_type), content_id.as_bytes())
    }

    /// Returns the identity in a line without tenant and content type.
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

/// The known blobs, for look-ups.
#[derive(Debug, Default)]
pub struct KnownBlobs {
    /// Those in lines that the index does not cover.
    keys: KeySet,
    /// Whether there are lines of older tools.
    any_feed: bool,
    /// Those in lines that the index covers.
    indexed: Option<RefCell<IndexedBlobs>>,
}

impl KnownBlobs {
    /// Adds a blob. Returns whether it is new.
    ///
    /// # Errors
    ///
    /// Those of [`Self::contains`].
    pub(super) fn insert(&mut self, key: BlobKey) -> Result<bool, StateError> {
        Ok(!self.has(key)? && self.keys.insert(key.0))
    }

    /// Returns whether this feed's blob was delivered or has become unavailable.
    ///
    /// # Errors
    ///
    /// The index is damaged, and the file cannot be read either.
    pub fn contains(
        &self,
        tenant_id: &str,
        content_type: ContentType,
        content_id: &str,
    ) -> Result<bool, StateError> {
        Ok(self.has(BlobKey::new(tenant_id, content_type, content_id))?
            || (self.any_feed && self.has(BlobKey::of_any_feed(content_id.as_bytes()))?))
    }

    fn has(&self, key: BlobKey) -> Result<bool, StateError> {
        match &self.indexed {
            _ if self.keys.contains(key.0) => Ok(true),
            Some(indexed) => indexed.borrow_mut().contains(key),
            None => Ok(false),
        }
    }

    /// Returns whether there are lines of older tools, which name no feed.
    pub fn has_lines_of_any_feed(&self) -> bool {
        self.any_feed
    }

    /// Returns the number of known blobs.
    pub fn len(&self) -> usize {
        self.keys.len() + self.indexed_len()
    }

    /// Returns the number of those in lines that the index covers.
    pub fn indexed_len(&self) -> usize {
        self.indexed.as_ref().map_or(0, |indexed| indexed.borrow().index.len())
    }

    /// Returns whether no blob is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads the file without a lock and without changing anything.
    pub fn read(working_dir: &Path) -> Result<Self, StateError> {
        let path = working_dir.join(FILE_NAME);
        let Some(file) = disk::none_if_missing(File::open(&path)).context("read", &path)? else {
            return Ok(Self::default());
        };
        let stamp = Stamp::of(&file).context("inspect", &path)?;
        let indexed = IndexedBlobs::open(&path, stamp, false);
        let tail = indexed.as_ref().map_or(LineStart::FIRST, IndexedBlobs::end);
        let Contents { known, .. } = Contents::read(&file, tail).context("read", &path)?;
        Ok(known.with_indexed(indexed))
    }

    /// Returns known blobs that cannot be looked up: a page of the index is damaged, and the text cannot be read.
    #[cfg(test)]
    pub fn unreadable_for_test() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let lines: Vec<_> = (0..50).map(|number| format!("{number},2026-11-29T10:00:00Z\n")).collect();
        fs::write(folder.path().join(FILE_NAME), lines.concat()).expect("a file");
        let open = || KnownBlobsFile::open(folder.path()).expect("a usable state");
        open().0.stamp_index();
        let (_, known) = open();
        let index = folder.path().join(known_index::FILE_NAME);
        let zeros = vec![0; fs::read(&index).expect("an index").len()];
        fs::write(&index, zeros).expect("a writable file");
        let indexed = known.indexed.as_ref().expect("an index of all lines");
        indexed.borrow_mut().text =
            File::open(folder.path()).expect("a folder, which cannot be read as a file");
        known
    }

    fn with_indexed(self, indexed: Option<IndexedBlobs>) -> Self {
        let any_feed =
            self.any_feed || indexed.as_ref().is_some_and(|indexed| indexed.index.covered().any_feed);
        Self { any_feed, indexed: indexed.map(RefCell::new), ..self }
    }
}

/// The blobs of the lines that an index covers.
#[derive(Debug)]
struct IndexedBlobs {
    path: PathBuf,
    /// The text, in case the index is damaged.
    text: File,
    index: Index,
    /// Whether this process holds the lock.
    is_locked: bool,
    /// Read from the text instead of the index, once a part of the index was damaged.
    read: Option<KeySet>,
}

impl IndexedBlobs {
    /// Opens the index of the file if it is valid for this stamp.
    fn open(path: &Path, stamp: Stamp, is_locked: bool) -> Option<Self> {
        if stamp.length() < known_index::TEXT_BYTES_MIN {
            return None;
        }
        let open = || {
            let text = File::open(path)?;
            let index = Index::open(&path.with_file_name(known_index::FILE_NAME), &text, stamp)?;
            Ok((text, index))
        };
        match open() {
            Ok((text, Some(index))) => {
                Some(Self { path: path.to_owned(), text, index, is_locked, read: None })
            }
            Ok((_, None)) => None,
            Err(error) => {
                let error: io::Error = error;
                log::debug!("{} cannot be used and is recreated: {error}", known_index::FILE_NAME);
                None
            }
        }
    }

    /// Returns where the lines begin that the index does not cover.
    fn end(&self) -> LineStart {
        let Covered { bytes, raw_lines, .. } = self.index.covered();
        LineStart { offset: bytes, number: raw_lines + 1 }
    }

    fn contains(&mut self, key: BlobKey) -> Result<bool, StateError> {
        if self.read.is_none() {
            match self.index.contains(key.0) {
                Ok(has) => return Ok(has),
                Err(error) => log::warn!(
                    "{} is damaged: {error}; {} is read instead",
                    known_index::FILE_NAME,
                    self.path.display()
                ),
            }
            let keys = Contents::read_range(&self.text, LineStart::FIRST, self.end().offset);
            self.read = Some(keys.context("read", &self.path)?.known.keys);
            if self.is_locked {
                // The next pass makes a new one. If this fails, that pass reads the text as well.
                let _ = fs::remove_file(self.path.with_file_name(known_index::FILE_NAME));
            }
        }
        Ok(self.read.as_ref().is_some_and(|keys| keys.contains(key.0)))
    }
}

/// The locked file, to which the writer appends.
#[derive(Debug)]
pub struct KnownBlobsFile {
    path: PathBuf,
    file: File,
    /// By hour since 1970: the number of lines that expire in it, without those that were appended since the file was read.
    expirations: HashMap<i64, usize>,
    index: Option<TrackedIndex>,
}

/// An index whose lines have not changed, as long as only this process changes the file.
#[derive(Debug)]
struct TrackedIndex {
    header: Header,
    /// The stamp of the file after this process last changed it.
    stamp: Stamp,
    changed_at: Instant,
    /// Whether the index has that stamp.
    is_stamped: bool,
}

impl KnownBlobsFile {
    /// Locks the file in an existing folder, reads what its index does not cover, and repairs it. Creates the file if it does
    /// not exist.
    ///
    /// # Errors
    ///
    /// Another pass holds the lock, or the file cannot be read or written.
    pub fn open(working_dir: &Path) -> Result<(Self, KnownBlobs), StateError> {
        let path = working_dir.join(FILE_NAME);
        let file = lock::open_locked(&path)?;
        disk::recover(&path).context("recover", &path)?;
        let stamp = Stamp::of(&file).context("inspect", &path)?;
        let indexed = IndexedBlobs::open(&path, stamp, true);
        let mut opened = Self { path, file, expirations: HashMap::new(), index: None };
        let known = match indexed {
            Some(indexed) => opened.read_tail(indexed, stamp)?,
            None => None,
        };
        let known = known.map_or_else(|| opened.read_all(stamp), Ok)?;
        Ok((opened, known))
    }

    /// Reads the lines that the index does not cover. `None` if the whole file has to be read.
    fn read_tail(&mut self, indexed: IndexedBlobs, stamp: Stamp) -> Result<Option<KnownBlobs>, StateError> {
        let tail = Contents::read(&self.file, indexed.end()).context("read", &self.path)?;
        let before = indexed.index.covered();
        let covered = before.and(&tail);
        let repeated = before.lines.saturating_sub(indexed.index.len()) + tail.repeated;
        if !tail.unreadable.is_empty() || is_worth_compacting(repeated, covered.lines) {
            return Ok(None);
        }
        self.report_torn_end(&tail);
        self.index = Some(TrackedIndex {
            header: indexed.index.header(),
            stamp,
            changed_at: Instant::now(),
            is_stamped: true,
        });
        self.change(|file| file.repair_end(&tail))?;
        if covered.bytes - before.bytes > TAIL_BYTES_MIN.max(before.bytes / TAIL_PART) {
            self.write_index(Some(&indexed.index), &tail, &covered, stamp);
        }
        self.expirations = covered.expirations;
        Ok(Some(tail.known.with_indexed(Some(indexed))))
    }

    /// Reads and repairs the whole file, and writes an index if it is large.
    fn read_all(&mut self, stamp: Stamp) -> Result<KnownBlobs, StateError> {
        let contents = Contents::read(&self.file, LineStart::FIRST).context("read", &self.path)?;
        self.index = None;
        self.repair(&contents)?;
        let covered = Covered::default().and(&contents);
        if stamp.length() >= known_index::TEXT_BYTES_MIN {
            self.write_index(None, &contents, &covered, stamp);
        }
        self.expirations = covered.expirations;
        Ok(contents.known)
    }

    /// Writes an index of the lines that were read since the file had this stamp, unless something has changed it. The index
    /// becomes valid at the end of the pass ([`Self::stamp_index`]).
    fn write_index(&mut self, before: Option<&Index>, contents: &Contents, covered: &Covered, stamp: Stamp) {
        let is_unchanged = Stamp::of(&self.file).is_ok_and(|now| now == stamp);
        if !is_unchanged || contents.end != End::Whole || !stamp.is_exact() {
            return;
        }
        let path = self.path.with_file_name(known_index::FILE_NAME);
        match known_index::write(&path, &self.file, before, &contents.known.keys, covered) {
            Ok(header) => {
                self.index =
                    Some(TrackedIndex { header, stamp, changed_at: Instant::now(), is_stamped: false });
            }
            Err(error) => log::warn!(
                "cannot write {}: {error}; every pass reads all of {FILE_NAME} until it can be written",
                path.display()
            ),
        }
    }

    /// Makes the index valid for the file as it is now, if nothing but this process has changed it since it was opened. The
    /// file must be durable.
    pub fn stamp_index(&mut self) {
        let Some(TrackedIndex { header, stamp, changed_at, is_stamped: false }) = self.index else { return };
        // A change of the file from now on has another time.
        thread::sleep(FILE_TIME_STEP.saturating_sub(changed_at.elapsed()));
        if !stamp.is_exact() || !Stamp::of(&self.file).is_ok_and(|now| now == stamp) {
            return;
        }
        let written = header.write(&self.path.with_file_name(known_index::FILE_NAME), stamp);
        // A damaged index was removed.
        if let Err(error) = disk::none_if_missing(written) {
            log::warn!(
                "cannot write {}: {error}; the next pass reads all of {FILE_NAME}",
                self.path.with_file_name(known_index::FILE_NAME).display()
            );
        }
    }

    /// Changes the file after the lines that the index covers. The index becomes invalid if something else has changed the
    /// file.
    fn change(&mut self, change: impl FnOnce(&mut Self) -> Result<(), StateError>) -> Result<(), StateError> {
        let before = self.index.as_ref().map(|index| index.stamp);
        if before.is_some() && Stamp::of(&self.file).ok() != before {
            self.index = None;
        }
        let changed = change(self);
        if let (Some(index), Ok(stamp)) = (&mut self.index, Stamp::of(&self.file)) {
            index.is_stamped &= index.stamp == stamp;
            index.stamp = stamp;
            index.changed_at = Instant::now();
        }
        changed
    }

    /// Appends lines that [`line_of`] returned. They are durable after [`Self::sync`]; until then the journal has them.
    pub fn append(&mut self, lines: &[String]) -> Result<(), StateError> {
        if lines.is_empty() {
            return Ok(());
        }
        let text: String = lines.iter().flat_map(|line| [line, "\n"]).collect();
        self.change(|known| {
            let length = known.file.metadata().context("inspect", &known.path)?.len();
            let appended = disk::append(&mut known.file, text.as_bytes());
            if appended.is_err() {
                // Otherwise the next line would be appended to a torn one.
                let _ = disk::truncate(&known.file, length);
            }
            Ok(appended.context("write", &known.path)?)
        })
    }

    /// Writes the end of the file again in place: as many bytes as these lines have. A failed fsync can have left them in
    /// memory only, and no later one writes them ([`disk::rewrite_range`]).
    pub fn rewrite_tail(&mut self, lines: &[String]) -> Result<(), StateError> {
        let bytes: u64 = lines.iter().map(|line| line.len() as u64 + 1).sum();
        if bytes == 0 {
            return Ok(());
        }
        self.change(|known| {
            let length = known.file.metadata().context("inspect", &known.path)?.len();
            let opened = File::options().read(true).write(true).open(&known.path);
            let tail = length.saturating_sub(bytes)..length;
            Ok(opened.and_then(|file| disk::rewrite_range(&file, tail)).context("write", &known.path)?)
        })
    }

    /// Makes all appended lines durable.
    pub fn sync(&self) -> Result<(), StateError> {
        Ok(disk::sync(&self.file).context("sync", &self.path)?)
    }

    /// Drops the lines that have expired at this time of Microsoft's clock, if there are many.
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
            // A line of an older tool can have an expiration that never comes.
            Some(line) if line.expiration > latest && line.content_type.is_none() => {
                to.write_all(line.content_id)?;
                writeln!(to, ",{latest}")
            }
            _ => raw.write_to(to),
        })
    }

    /// Drops the lines of these blobs.
    pub(super) fn forget(&mut self, blobs: &HashSet<BlobKey>) -> Result<(), StateError> {
        let is_forgotten =
            |raw: &RawLine<'_>| Line::parse(raw.text).is_some_and(|line| blobs.contains(&line.key()));
        self.replace(|raw, to| if is_forgotten(&raw) { Ok(()) } else { raw.write_to(to) })
    }

    fn repair(&mut self, contents: &Contents) -> Result<(), StateError> {
        for number in contents.unreadable.iter().take(LOGGED_LINES_MAX) {
            log::warn!(
                "Line {number} of {} cannot be read; it is moved to {FILE_NAME}.unreadable, and collection continues",
                self.path.display()
            );
        }
        if let Some(more) = contents.unreadable.len().checked_sub(LOGGED_LINES_MAX).filter(|more| *more > 0) {
            log::warn!("… and {more} more lines of {} that cannot be read", self.path.display());
        }
        self.report_torn_end(contents);
        if contents.unreadable.is_empty() && !is_worth_compacting(contents.repeated, contents.lines) {
            return self.repair_end(contents);
        }
        let mut dropped = contents.dropped.iter().peekable();
        let compacted =
            self.copy_unreadable_lines(contents).and_then(|()| {
                self.replace(|raw, to| {
                    if dropped.next_if_eq(&&raw.number).is_some() { Ok(()) } else { raw.write_to(to) }
                })
            });
        if let Err(error) = compacted {
            // Lines must not be appended to a half-written file, or to one that is no longer named `known_blobs`.
            if disk::is_rewrite_pending(&self.path)
                || !lock::is_named(&self.file, &self.path).unwrap_or(false)
            {
                return Err(error);
            }
            log::warn!("{}; until then the file keeps expired lines", error.explain());
            return self.repair_end(contents);
        }
        Ok(())
    }

    fn report_torn_end(&self, contents: &Contents) {
        if let End::Torn { .. } = contents.end {
            log::warn!(
                "The last line of {} is torn, as a crash leaves it; it is dropped, and its blob is collected again",
                self.path.display()
            );
        }
    }

    /// Completes or drops a last line without a line break.
    fn repair_end(&mut self, contents: &Contents) -> Result<(), StateError> {
        let repaired = match contents.end {
            End::Whole => return Ok(()),
            End::LacksLineBreak => disk::append(&mut self.file, b"\n"),
            End::Torn { keep } => disk::truncate(&self.file, keep),
        };
        Ok(repaired.and_then(|()| disk::sync(&self.file)).context("repair", &self.path)?)
    }

    /// Appends the unreadable lines to `known_blobs.unreadable`.
    fn copy_unreadable_lines(&self, contents: &Contents) -> Result<(), StateError> {
        if contents.unreadable.is_empty() {
            return Ok(());
        }
        let path = self.path.with_extension(UNREADABLE);
        let copy = || {
            let mut lines = Vec::new();
            for_each_line(&self.file, WHOLE_FILE, |line| {
                if contents.unreadable.binary_search(&line.number).is_ok() {
                    lines.extend([line.text, b"\n"].concat());
                }
                Ok(())
            })?;
            let mut file = disk::open_for_append(&path, 0o600)?;
            disk::append(&mut file, &lines)?;
            disk::sync(&file)
        };
        Ok(copy().context("write", &path)?)
    }

    /// Replaces the file by what `write` writes for each line. The new file is locked before it gets the name.
    fn replace(
        &mut self,
        mut write: impl FnMut(RawLine<'_>, &mut dyn Write) -> io::Result<()>,
    ) -> Result<(), StateError> {
        let replaced = disk::replace(
            &self.path,
            0o600,
            |to| for_each_line(&self.file, WHOLE_FILE, |line| write(line, &mut *to)),
            lock::lock,
        );
        self.index = None;
        if let Some(file) = replaced.context("replace", &self.path)? {
            self.file = file;
        }
        Ok(())
    }
}

/// Returns the feeds that lines of the file name, each as its tenant's id and its content type. Reads the whole file.
pub(super) fn feeds_of(working_dir: &Path) -> Result<HashSet<FeedId>, StateError> {
    let path = working_dir.join(FILE_NAME);
    let mut feeds = HashSet::new();
    let mut add = |raw: RawLine<'_>| {
        let line = Line::parse(raw.text.strip_suffix(b"\r").unwrap_or(raw.text));
        if let Some((content_type, line)) = line.and_then(|line| Some((line.content_type?, line))) {
            let tenant_id = String::from_utf8_lossy(line.tenant_id).to_ascii_lowercase();
            feeds.insert((tenant_id.into(), content_type));
        }
        Ok(())
    };
    File::open(&path).and_then(|file| for_each_line(&file, WHOLE_FILE, &mut add)).context("read", &path)?;
    Ok(feeds)
}

/// Returns the line that makes a blob known: `contentId,contentExpiration,tenantId,contentType`.
pub fn line_of(tenant_id: &str, content_type: ContentType, blob: &ListedBlob) -> String {
    let (content_id, until) = (&blob.content_id, known_until(blob));
    format!("{content_id},{until},{tenant_id},{content_type}")
}

/// Returns until when a blob is known: its expiration as the API wrote it. Another time replaces an expiration that cannot
/// be read, after which the blob can still be listed, or that is so far away that the line would never be dropped.
fn known_until(blob: &ListedBlob) -> String {
    let after = |time: Duration| blob.created.saturating_add(time).unwrap_or(Timestamp::MAX);
    let (earliest, latest) = (after(limits::RETENTION), after(limits::KNOWN_MAX));
    let is_usual = |time: &Timestamp| *time >= earliest - limits::EXPIRATION_GRACE && *time <= latest;
    if time::parse(&blob.expiration).is_some_and(|time| is_usual(&time)) {
        return blob.expiration.replace(',', "."); // ISO 8601 allows both before a fraction
    }
    time::expiration(&blob.expiration).unwrap_or(earliest).clamp(earliest, latest).to_string()
}

/// Returns the keys under which a blob can be known: that of its feed, and that of older tools' lines.
pub(super) fn keys_of(tenant_id: &str, content_type: ContentType, content_id: &str) -> [BlobKey; 2] {
    [BlobKey::new(tenant_id, content_type, content_id), BlobKey::of_any_feed(content_id.as_bytes())]
}

/// Returns the key of the blob in a line.
pub(super) fn key_of(line: &str) -> Option<BlobKey> {
    Line::parse(line.as_bytes()).map(|line| line.key())
}

/// A line of the file.
struct RawLine<'a> {
    /// Counted from 1.
    number: usize,
    /// The offset in bytes.
    start: u64,
    /// The text without the line break.
    text: &'a [u8],
    has_line_break: bool,
}

impl RawLine<'_> {
    fn write_to(&self, to: &mut dyn Write) -> io::Result<()> {
        to.write_all(self.text)?;
        to.write_all(b"\n")
    }
}

/// Returns the hour since 1970 that a time is in.
fn hour_of(time: Timestamp) -> i64 {
    time.as_second().div_euclid(60 * 60)
}

/// Returns whether a file is rewritten without its dead lines. That costs as much as reading it, so a large file is
/// rewritten only if a quarter of its lines is dead.
fn is_worth_compacting(dead: usize, lines: usize) -> bool {
    dead > 0 && (lines <= SMALL_FILE_LINES || dead >= lines / 4)
}

/// Where a line starts.
#[derive(Clone, Copy, Debug)]
struct LineStart {
    offset: u64,
    /// The number of the line, from 1.
    number: usize,
}

impl LineStart {
    const FIRST: Self = Self { offset: 0, number: 1 };
}

/// The lines to read: the first one, and the offset at which the last one ends.
type Lines = (LineStart, u64);

const WHOLE_FILE: Lines = (LineStart::FIRST, u64::MAX);

/// Reads lines of a file. Only a part of it is in memory at a time.
fn for_each_line(
    mut file: &File,
    (first, end): Lines,
    mut act: impl FnMut(RawLine<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let LineStart { offset: mut start, mut number } = first;
    file.seek(SeekFrom::Start(start))?;
    let mut reader =
        BufReader::with_capacity(limits::STATE_BUFFER_BYTES, file.take(end.saturating_sub(start)));
    // The beginning of a line that continues in the next chunk.
    let mut partial = Vec::new();
    loop {
        let chunk = reader.fill_buf()?;
        let (length, mut from) = (chunk.len(), 0);
        for line_break in memchr::memchr_iter(b'\n', chunk) {
            let rest = &chunk[from..line_break];
            from = line_break + 1;
            let text = if partial.is_empty() {
                rest
            } else {
                partial.extend_from_slice(rest);
                &partial
            };
            act(RawLine { number, start, text, has_line_break: true })?;
            number += 1;
            start += text.len() as u64 + 1;
            partial.clear();
        }
        partial.extend_from_slice(&chunk[from..]);
        if length == 0 {
            break;
        }
        reader.consume(length);
    }
    if !partial.is_empty() {
        act(RawLine { number, start, text: &partial, has_line_break: false })?;
    }
    Ok(())
}

/// The contents of the file.
struct Contents {
    known: KnownBlobs,
    /// The number of all lines.
    raw_lines: usize,
    /// The length of all lines in bytes.
    bytes: u64,
    /// The number of readable lines.
    lines: usize,
    /// The number of readable lines that repeat an earlier one (`skipKnownLogs: false`).
    repeated: usize,
    /// By hour since 1970: the number of readable lines that expire in it.
    expirations: HashMap<i64, usize>,
    /// The numbers of the lines that compaction drops, counted from 1, ascending.
    dropped: Vec<usize>,
    /// The numbers of the unreadable lines among them.
    unreadable: Vec<usize>,
    end: End,
}

/// How the file ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// With a line break, or the file is empty.
    Whole,
    /// With a readable line without a line break.
    LacksLineBreak,
    /// With an unreadable line without a line break, which starts at `keep`.
    Torn { keep: u64 },
}

impl Contents {
    /// Reads the lines from this one on.
    fn read(file: &File, first: LineStart) -> io::Result<Self> {
        Self::read_range(file, first, u64::MAX)
    }

    /// Reads the lines from this one to the end of another one.
    fn read_range(file: &File, first: LineStart, end: u64) -> io::Result<Self> {
        let bytes = file.metadata()?.len().min(end).saturating_sub(first.offset);
        let lines = usize::try_from(bytes).unwrap_or(usize::MAX) / TYPICAL_LINE_BYTES;
        let mut known = KnownBlobs { keys: KeySet::with_capacity(lines), ..KnownBlobs::default() };
        let mut bulk = BulkInsert::new(&mut known.keys);
        let (mut lines, mut any_feed, mut file_end) = (0, false, End::Whole);
        let (mut unreadable, mut blank) = (Vec::new(), Vec::new());
        // Neighbouring lines expire in the same hour: they are counted before the map is updated.
        let (mut expirations, mut hour, mut in_hour) = (HashMap::new(), 0, 0);
        let (mut raw_lines, mut bytes) = (0, 0);
        for_each_line(file, (first, end), |raw| {
            raw_lines += 1;
            bytes += raw.text.len() as u64 + u64::from(raw.has_line_break);
            if !raw.has_line_break {
                file_end = End::LacksLineBreak;
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
                    bulk.add(line.key().0, raw.number);
                }
                None if line.is_empty() => blank.push(raw.number),
                None if raw.has_line_break => unreadable.push(raw.number),
                None => {
                    file_end = End::Torn { keep: raw.start };
                    blank.push(raw.number);
                }
            }
            Ok(())
        })?;
        let repeated = bulk.finish();
        known.any_feed = any_feed;
        *expirations.entry(hour).or_default() += in_hour;
        let mut dropped = [repeated.clone(), blank, unreadable.clone()].concat();
        dropped.sort_unstable();
        let repeated = repeated.len();
        Ok(Self { known, raw_lines, bytes, lines, repeated, expirations, dropped, unreadable, end: file_end })
    }
}

impl Covered {
    /// Returns these lines and those that follow them.
    fn and(&self, then: &Contents) -> Self {
        let mut expirations = self.expirations.clone();
        for (hour, lines) in &then.expirations {
            *expirations.entry(*hour).or_default() += lines;
        }
        Self {
            bytes: self.bytes + then.bytes,
            raw_lines: self.raw_lines + then.raw_lines,
            lines: self.lines + then.lines,
            any_feed: self.any_feed || then.known.any_feed,
            expirations,
        }
    }
}

/// A parsed line.
#[derive(Debug, PartialEq, Eq)]
struct Line<'a> {
    content_id: &'a [u8],
    expiration: Timestamp,
    /// Empty in lines of older tools.
    tenant_id: &'a [u8],
    /// `None` in lines of older tools.
    content_type: Option<ContentType>,
}

impl<'a> Line<'a> {
    /// Parses a line from its end: a content type and a tenant, or neither; then a time; the rest is the id.
    fn parse(line: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(line).ok()?;
        let (before_type, name) = split_at_last_comma(text)?;
        let content_type = ContentType::from_name(name);
        let (rest, tenant_id) = match content_type {
            Some(_) => split_at_last_comma(before_type)?,
            None => (text, ""),
        };
        let (content_id, expiration) = split_at_last_comma(rest)?;
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

/// Splits a text at its last comma. Several times as fast as `rsplit_once`, which matters for a million lines.
fn split_at_last_comma(text: &str) -> Option<(&str, &str)> {
    let comma = memchr::memrchr(b',', text.as_bytes())?;
    Some((&text[..comma], &text[comma + 1..]))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const TENANT: &str = "11111111-1111-4111-8111-111111111111";
    const FEED: ContentType = ContentType::AuditGeneral;
    const OTHER_TENANT: &str = "22222222-2222-4222-8222-222222222222";

    fn has(known: &KnownBlobs, tenant_id: &str, content_type: ContentType, content_id: &str) -> bool {
        known.contains(tenant_id, content_type, content_id).expect("a readable file")
    }

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

    /// Returns a folder with this `known_blobs`.
    fn folder(text: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join(FILE_NAME), text).expect("a file");
        folder
    }

    /// Returns the known blobs of a text, and the text of the file after it was opened.
    fn opened(text: &str) -> (KnownBlobs, String, tempfile::TempDir) {
        let folder = folder(text);
        let (_, known) = KnownBlobsFile::open(folder.path()).expect("a usable state");
        let after = fs::read_to_string(folder.path().join(FILE_NAME)).expect("a file");
        (known, after, folder)
    }

    #[test]
    fn appended_blob_is_known_to_its_feed_only() {
        let folder = folder("");
        let (mut file, known) = KnownBlobsFile::open(folder.path()).expect("a usable state");
        assert!(known.is_empty());
        let (first, second) = (blob("1$2$audit_exchange$na0022"), blob("with,comma"));
        let lines = [(ContentType::AuditExchange, &first), (ContentType::DlpAll, &second)];
        file.append(&lines.map(|(content_type, blob)| line_of(TENANT, content_type, blob))).expect("room");
        drop(file);
        let (_, known) = KnownBlobsFile::open(folder.path()).expect("a usable state");
        assert!(has(&known, TENANT, ContentType::AuditExchange, "1$2$audit_exchange$na0022"));
        assert!(has(&known, TENANT, ContentType::DlpAll, "with,comma"));
        assert!(!has(&known, TENANT, ContentType::AuditGeneral, "with,comma"), "another feed");
        assert!(!has(&known, OTHER_TENANT, ContentType::AuditExchange, "1$2$audit_exchange$na0022"));
        assert_eq!(
            fs::read_to_string(folder.path().join(FILE_NAME)).expect("a file"),
            format!(
                "1$2$audit_exchange$na0022,2026-11-29T10:00:00.000Z,{TENANT},Audit.Exchange\n\
                 with,comma,2026-11-29T10:00:00.000Z,{TENANT},DLP.All\n"
            )
        );
    }

    #[test]
    fn lines_of_older_tools_count_for_every_tenant() {
        let text = "20171014$20171014$x,2026-11-25T10:00:00.000Z\nwith,comma,2026-11-25T10:00:00Z\n";
        let (known, after, _folder) = opened(text);
        for tenant in [TENANT, OTHER_TENANT] {
            assert!(has(&known, tenant, FEED, "20171014$20171014$x"));
            assert!(has(&known, tenant, ContentType::DlpAll, "with,comma"));
        }
        assert_eq!(after, text);
    }

    #[test]
    fn completes_or_drops_an_unterminated_last_line() {
        let line = format!("a,2026-11-29T10:00:00Z,{TENANT},Audit.General");
        let (known, after, _folder) = opened(&line);
        assert!(has(&known, TENANT, FEED, "a"));
        assert_eq!(after, format!("{line}\n"));
        let (known, after, _folder) = opened(&format!("{line}\nb,2026-11-2"));
        assert!(has(&known, TENANT, FEED, "a") && !has(&known, TENANT, FEED, "b"));
        assert_eq!(after, format!("{line}\n"));
    }

    #[test]
    fn moves_an_unreadable_line_to_its_own_file() {
        let (good, bad) = ("a,2026-11-29T10:00:00Z\n", "no time in here\n");
        let (known, after, folder) = opened(&format!("{good}{bad}b,2026-11-29T10:00:00Z\n"));
        assert!(has(&known, TENANT, FEED, "a") && has(&known, TENANT, FEED, "b"));
        assert_eq!(after, format!("{good}b,2026-11-29T10:00:00Z\n"));
        let moved = fs::read_to_string(folder.path().join("known_blobs.unreadable")).expect("a file");
        assert_eq!(moved, bad);
    }

    #[test]
    fn drops_expired_lines_after_the_grace_period() {
        let text = "gone,2026-11-01T00:00:00Z\njust,2026-11-22T09:59:00Z\nstays,2026-11-29T10:00:00Z\n\
                    never,9999-12-31T23:59:59.9999999Z\n";
        let (known, after, folder) = opened(text);
        assert!(has(&known, TENANT, FEED, "gone") && has(&known, TENANT, FEED, "never"));
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
    fn lock_survives_a_compaction() {
        let folder = folder("gone,2026-11-01T00:00:00Z\n");
        let mut first = KnownBlobsFile::open(folder.path()).expect("a usable state");
        first.0.forget_expired(now()).expect("room");
        let second = KnownBlobsFile::open(folder.path());
        assert!(matches!(second, Err(StateError::Locked { .. })));
        drop(first);
        KnownBlobsFile::open(folder.path()).expect("a released lock");
    }

    #[test]
    fn reads_without_lock_or_change() {
        let folder = folder("gone,2026-11-01T00:00:00Z\nstays,2026-11-29T10:00:00Z\ntorn,2026");
        let before = fs::read(folder.path().join(FILE_NAME)).expect("a file");
        let known = KnownBlobs::read(folder.path()).expect("a readable state");
        assert!(has(&known, TENANT, FEED, "stays") && known.len() == 2);
        assert_eq!(fs::read(folder.path().join(FILE_NAME)).expect("a file"), before);
        assert!(KnownBlobs::read(&folder.path().join("nowhere")).expect("no state yet").is_empty());
    }

    #[test]
    fn writes_a_readable_line_for_an_expiration_with_a_comma() {
        let folder = folder("");
        let (mut file, _) = KnownBlobsFile::open(folder.path()).expect("a usable state");
        let blob = ListedBlob { expiration: "2026-11-29T10:00:00,000Z".to_owned(), ..blob("a") };
        file.append(&[line_of(TENANT, FEED, &blob)]).expect("room");
        drop(file);
        let (_, known) = KnownBlobsFile::open(folder.path()).expect("a usable state");
        assert!(has(&known, TENANT, FEED, "a"));
    }

    #[test]
    fn writes_an_expiring_line_for_every_expiration() {
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
    fn drops_repeated_lines() {
        let line = format!("a,2026-11-29T10:00:00Z,{TENANT},Audit.General\n");
        let (known, after, _folder) = opened(&line.repeat(3));
        assert!(has(&known, TENANT, FEED, "a"));
        assert_eq!(after, line);
    }

    proptest::proptest! {
        #![proptest_config(crate::proptest_config())]

        #[test]
        fn opens_any_file_idempotently(
            text in "([a-c$,]{0,6}(,2026-11-(2[0-9])T10:00:00Z)?(,11111111-1111-4111-8111-111111111111,DLP.All)?\n?){0,8}",
        ) {
            let folder = folder(&text);
            let path = folder.path().join(FILE_NAME);
            let (file, first) = KnownBlobsFile::open(folder.path()).expect("a usable state");
            drop(file);
            let repaired = fs::read(&path).expect("a file");
            proptest::prop_assert!(repaired.is_empty() || repaired.ends_with(b"\n"));
            let (_, second) = KnownBlobsFile::open(folder.path()).expect("a usable state");
            proptest::prop_assert_eq!(fs::read(&path).expect("a file"), repaired);
            proptest::prop_assert_eq!((first.len(), first.any_feed), (second.len(), second.any_feed));
        }
    }
}
