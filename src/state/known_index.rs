//! `known_blobs_index`: the keys of the lines of [`known_blobs`](super::known_blobs), sorted, so that a pass does not read
//! millions of lines to look up a few blobs.
//!
//! The text file is the truth, and the index is a copy of its first lines that can be deleted at any time. The lines after
//! them are read as text, so that a pass appends lines to one file only. The index is used only if its stamp proves that
//! nothing but this program has changed the text file since: length, inode, and the times of the last modification and of
//! the last change of the inode, in nanoseconds. No program can set the last one.
//!
//! Numbers are little-endian, and most have 64 bits:
//!
//! | part | contents |
//! | --- | --- |
//! | header, in the first page of 4096 bytes | version, salt, counts, checksum of the directory, stamp, checksum |
//! | pages of 4096 bytes | up to 255 keys of 16 bytes, zeros, the number of keys, checksum |
//! | directory | the number of lines that expire in each hour; the hash of the first key of each page |
//!
//! Keys are sorted by their hash. The salt, a random number, is part of every checksum, so that pages of another index are
//! detected. A header is written when the pass that made the index has ended in order. Nothing is synced for the index: after
//! a power loss a checksum or the stamp is wrong.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{self, Write},
    iter,
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::key_set::{self, KeySet};
use crate::disk;

/// The file's name in `workingDir`.
pub const FILE_NAME: &str = "known_blobs_index";

/// The size of a text file below which an index does not pay. Unit tests make indexes of small files.
pub(super) const TEXT_BYTES_MIN: u64 = if cfg!(test) { 600 } else { 256 * 1024 };

/// The maximum number of hours in which lines expire. More occur only in a damaged file.
const HOURS_MAX: usize = 10_000;

const PAGE_BYTES: usize = 4096;

/// A page ends with the number of its keys and its checksum.
const PAGE_KEYS_MAX: usize = (PAGE_BYTES - 16) / size_of::<u128>();

/// The maximum number of pages in memory: 8 MiB.
const CACHED_PAGES_MAX: usize = 2048;

/// The name of the format and its version.
const FORMAT: u64 = u64::from_le_bytes(*b"OALCKBI1");

/// The number of words of the header.
const HEADER_WORDS: usize = 18;

/// The length of the text before the end of the indexed lines that has a checksum of its own.
const END_BYTES_MAX: u64 = 4096;

/// What proves that a file has not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    length: u64,
    inode: u64,
    /// The time of the last modification: seconds and nanoseconds.
    modified: (i64, i64),
    /// The time of the last change of the inode.
    changed: (i64, i64),
}

impl Stamp {
    /// Returns the stamp of an open file.
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            length: metadata.len(),
            inode: metadata.ino(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    /// Returns the length of the file.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Returns whether the file system stores fractions of a second. Otherwise, a change within the same second is not
    /// detected.
    pub(super) fn is_exact(&self) -> bool {
        self.changed.1 != 0
    }

    fn to_words(self) -> [u64; 6] {
        let Self { length, inode, modified, changed } = self;
        let times = [modified.0, modified.1, changed.0, changed.1].map(i64::cast_unsigned);
        [length, inode, times[0], times[1], times[2], times[3]]
    }
}

/// The lines that an index covers: those at the start of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Covered {
    /// Their length in bytes.
    pub bytes: u64,
    /// Their number, blank lines included.
    pub raw_lines: usize,
    /// The number of lines that name a blob.
    pub lines: usize,
    /// Whether there are lines of older tools.
    pub any_feed: bool,
    /// By hour since 1970: the number of lines that expire in it.
    pub expirations: HashMap<i64, usize>,
}

/// The header of an index without its stamp.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    salt: u64,
    any_feed: bool,
    covered_bytes: u64,
    raw_lines: u64,
    lines: u64,
    keys: u64,
    pages: u64,
    hours: u64,
    directory_checksum: u64,
    /// A checksum of the end of the covered lines.
    end_checksum: u64,
}

impl Header {
    /// Returns the bytes of the header with a stamp.
    fn to_bytes(self, stamp: Stamp) -> Vec<u8> {
        let words = [
            FORMAT,
            self.salt,
            u64::from(self.any_feed),
            self.covered_bytes,
            self.raw_lines,
            self.lines,
            self.keys,
            self.pages,
            self.hours,
            self.directory_checksum,
            self.end_checksum,
        ];
        let mut bytes: Vec<u8> =
            words.into_iter().chain(stamp.to_words()).flat_map(u64::to_le_bytes).collect();
        bytes.extend(xxh3_64_with_seed(&bytes, self.salt).to_le_bytes());
        bytes
    }

    /// Reads a header and the words of its stamp. `None` if it is damaged, was never written, or has another version.
    fn read(file: &File) -> io::Result<Option<(Self, [u64; 6])>> {
        let mut bytes = [0; HEADER_WORDS * 8];
        file.read_exact_at(&mut bytes, 0)?;
        let mut words = bytes.chunks_exact(8).map(word);
        let mut next = || words.next().unwrap_or_default();
        let format = next();
        let header = Self {
            salt: next(),
            any_feed: next() != 0,
            covered_bytes: next(),
            raw_lines: next(),
            lines: next(),
            keys: next(),
            pages: next(),
            hours: next(),
            directory_checksum: next(),
            end_checksum: next(),
        };
        let stamp = [(); 6].map(|()| next());
        let is_whole = xxh3_64_with_seed(&bytes[..bytes.len() - 8], header.salt) == next();
        Ok((is_whole && format == FORMAT).then_some((header, stamp)))
    }

    /// Returns the offset of the directory, after the header's page and the pages of keys.
    fn directory_at(&self) -> u64 {
        (self.pages + 1) * PAGE_BYTES as u64
    }

    /// Writes the header with this stamp of the text file, which makes the index valid.
    pub(super) fn write(self, path: &Path, stamp: Stamp) -> io::Result<()> {
        disk::write_at(&OpenOptions::new().write(true).open(path)?, &self.to_bytes(stamp), 0)
    }
}

/// An index, of which parts are read when they are needed.
#[derive(Debug)]
pub(super) struct Index {
    file: File,
    header: Header,
    expirations: HashMap<i64, usize>,
    /// The hash of the first key of each page.
    first_hashes: Vec<u64>,
    /// The pages that were read last. A page has one place in it.
    cache: Vec<Option<(u64, Box<[u8]>)>>,
}

impl Index {
    /// Opens the index if it is one of this text file with this stamp. `None` if there is none, or if it is not.
    ///
    /// # Errors
    ///
    /// The index cannot be read, or its directory is damaged.
    pub(super) fn open(path: &Path, text: &File, stamp: Stamp) -> io::Result<Option<Self>> {
        disk::require_own_regular(path)?;
        let Some(file) = disk::none_if_missing(File::open(path))? else { return Ok(None) };
        let Some((header, of_text)) = Header::read(&file)? else { return Ok(None) };
        if of_text != stamp.to_words() || header.end_checksum != end_checksum(text, header.covered_bytes)? {
            return Ok(None);
        }
        let length = file.metadata()?.len().saturating_sub(header.directory_at());
        let mut directory = vec![0; usize::try_from(length).map_err(|_| damaged())?];
        file.read_exact_at(&mut directory, header.directory_at())?;
        if xxh3_64_with_seed(&directory, header.salt) != header.directory_checksum {
            return Err(damaged());
        }
        let hours = usize::try_from(header.hours).unwrap_or(usize::MAX).saturating_mul(16);
        let (hours, first_hashes) = directory.split_at_checked(hours).ok_or_else(damaged)?;
        let expirations = hours.chunks_exact(16).map(|entry| {
            let (hour, lines) = entry.split_at(8);
            (word(hour).cast_signed(), to_usize(word(lines)))
        });
        let (expirations, first_hashes) =
            (expirations.collect(), first_hashes.chunks_exact(8).map(word).collect());
        Ok(Some(Self { file, header, expirations, first_hashes, cache: Vec::new() }))
    }

    pub(super) fn header(&self) -> Header {
        self.header
    }

    /// Returns the lines that the index covers.
    pub(super) fn covered(&self) -> Covered {
        Covered {
            bytes: self.header.covered_bytes,
            raw_lines: to_usize(self.header.raw_lines),
            lines: to_usize(self.header.lines),
            any_feed: self.header.any_feed,
            expirations: self.expirations.clone(),
        }
    }

    /// Returns the number of keys.
    pub(super) fn len(&self) -> usize {
        to_usize(self.header.keys)
    }

    /// Returns whether the index has the key.
    ///
    /// # Errors
    ///
    /// The page of the key is damaged or cannot be read.
    pub(super) fn contains(&mut self, key: u128) -> io::Result<bool> {
        let place = key_set::order(key);
        // Keys with the same hash can continue on the next page.
        let first = self.first_hashes.partition_point(|hash| *hash < place.0).saturating_sub(1);
        let last = self.first_hashes.partition_point(|hash| *hash <= place.0);
        for page in first..last {
            if has_key(self.page(page as u64)?, place) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns the keys of a page, reading it if it is not in memory.
    fn page(&mut self, number: u64) -> io::Result<&[u8]> {
        if self.cache.is_empty() {
            self.cache.resize_with(CACHED_PAGES_MAX.min(self.first_hashes.len()), || None);
        }
        let place = to_usize(number) % self.cache.len();
        let cached = self.cache[place].take();
        let page = match cached {
            Some((cached, page)) if cached == number => page,
            other => {
                let mut page = other.map_or_else(|| vec![0; PAGE_BYTES].into_boxed_slice(), |(_, page)| page);
                read_page(&self.file, &self.header, number, &mut page)?;
                page
            }
        };
        let (_, page) = self.cache[place].insert((number, page));
        Ok(keys_of(page))
    }

    /// Returns all keys in their order, reading page by page.
    fn keys(&self) -> impl Iterator<Item = io::Result<u128>> {
        let read = |number| {
            let mut page = vec![0; PAGE_BYTES];
            let read = read_page(&self.file, &self.header, number, &mut page);
            read.map(|()| keys_of(&page).chunks_exact(16).map(key).collect::<Vec<_>>())
        };
        (0..self.header.pages).map(read).flat_map(|page| {
            let (keys, error) = page.map_or_else(|error| (Vec::new(), Some(error)), |keys| (keys, None));
            keys.into_iter().map(Ok).chain(error.map(Err))
        })
    }
}

/// Writes an index of the keys of an older one and of these. It has no valid header yet.
///
/// # Errors
///
/// The older index is damaged, or the new one cannot be written.
pub(super) fn write(
    path: &Path,
    text: &File,
    before: Option<&Index>,
    keys: &KeySet,
    covered: &Covered,
) -> io::Result<Header> {
    if covered.expirations.len() > HOURS_MAX {
        return Err(io::Error::other("its lines expire in too many different hours"));
    }
    let mut header = Header {
        salt: fastrand::u64(..),
        any_feed: covered.any_feed,
        covered_bytes: covered.bytes,
        raw_lines: covered.raw_lines as u64,
        lines: covered.lines as u64,
        keys: 0,
        pages: 0,
        hours: covered.expirations.len() as u64,
        directory_checksum: 0,
        end_checksum: end_checksum(text, covered.bytes)?,
    };
    disk::require_own_regular(path)?;
    let written = disk::replace_unsynced(path, 0o600, |to| {
        to.write_all(&[0; PAGE_BYTES])?; // for the header
        let mut pages =
            Pages { to, salt: header.salt, page: Vec::with_capacity(PAGE_BYTES), first_hashes: Vec::new() };
        for key in merged(before.into_iter().flat_map(Index::keys), keys.sorted()) {
            header.keys += 1;
            pages.push(key?)?;
        }
        pages.end_page()?;
        let Pages { to, first_hashes, .. } = pages;
        header.pages = first_hashes.len() as u64;
        let hours =
            covered.expirations.iter().flat_map(|(hour, lines)| [hour.cast_unsigned(), *lines as u64]);
        let directory: Vec<u8> = hours.chain(first_hashes).flat_map(u64::to_le_bytes).collect();
        header.directory_checksum = xxh3_64_with_seed(&directory, header.salt);
        to.write_all(&directory)
    });
    written.map(|()| header)
}

/// The pages of an index while it is written.
struct Pages<'a> {
    to: &'a mut dyn Write,
    salt: u64,
    page: Vec<u8>,
    first_hashes: Vec<u64>,
}

impl Pages<'_> {
    fn push(&mut self, key: u128) -> io::Result<()> {
        if self.page.len() == PAGE_KEYS_MAX * 16 {
            self.end_page()?;
        }
        if self.page.is_empty() {
            self.first_hashes.push(key_set::order(key).0);
        }
        self.page.extend(key.to_le_bytes());
        Ok(())
    }

    fn end_page(&mut self) -> io::Result<()> {
        let Some(number) = self.first_hashes.len().checked_sub(1) else { return Ok(()) };
        let keys = (self.page.len() / 16) as u64;
        self.page.resize(PAGE_BYTES - 16, 0);
        self.page.extend(keys.to_le_bytes());
        let checksum = page_checksum(&self.page, self.salt, number as u64);
        self.page.extend(checksum.to_le_bytes());
        self.to.write_all(&self.page)?;
        self.page.clear();
        Ok(())
    }
}

/// Merges two ordered sequences of keys. Keys that are in both occur once.
fn merged(
    first: impl Iterator<Item = io::Result<u128>>,
    second: impl Iterator<Item = u128>,
) -> impl Iterator<Item = io::Result<u128>> {
    let (mut first, mut second) = (first.peekable(), second.peekable());
    iter::from_fn(move || match (first.peek(), second.peek()) {
        (Some(Ok(one)), Some(two)) if one == two => {
            second.next();
            first.next()
        }
        (Some(Ok(one)), Some(two)) if key_set::order(*one) > key_set::order(*two) => second.next().map(Ok),
        (None, _) => second.next().map(Ok),
        _ => first.next(),
    })
}

/// Reads a page of keys and verifies it.
fn read_page(file: &File, header: &Header, number: u64, page: &mut [u8]) -> io::Result<()> {
    file.read_exact_at(page, (number + 1) * PAGE_BYTES as u64)?;
    let (contents, checksum) = page.split_at(PAGE_BYTES - 8);
    if page_checksum(contents, header.salt, number) == word(checksum) { Ok(()) } else { Err(damaged()) }
}

fn page_checksum(contents: &[u8], salt: u64, number: u64) -> u64 {
    xxh3_64_with_seed(contents, salt.wrapping_add(number))
}

/// Returns the bytes of a page's keys.
fn keys_of(page: &[u8]) -> &[u8] {
    let keys = to_usize(word(&page[PAGE_BYTES - 16..PAGE_BYTES - 8]));
    &page[..keys.min(PAGE_KEYS_MAX) * 16]
}

/// Returns whether sorted keys contain the one with this place in the order.
fn has_key(keys: &[u8], place: (u64, u128)) -> bool {
    let (keys, _) = keys.as_chunks::<16>();
    keys.binary_search_by_key(&place, |bytes| key_set::order(u128::from_le_bytes(*bytes))).is_ok()
}

/// Returns a checksum of the last bytes of the text before this offset.
fn end_checksum(text: &File, end: u64) -> io::Result<u64> {
    let start = end.saturating_sub(END_BYTES_MAX);
    let mut bytes = vec![0; to_usize(end - start)];
    text.read_exact_at(&mut bytes, start)?;
    Ok(xxh3_64_with_seed(&bytes, end))
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a checksum is wrong")
}

fn word(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

fn key(bytes: &[u8]) -> u128 {
    bytes.try_into().map_or(0, u128::from_le_bytes)
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
