//! `record_ids/`: the Ids of delivered records, because the API repeats records by design.
//!
//! Ids are remembered by the time of their content, not by the time of delivery: for `dedupHours` before the oldest content
//! of their feed that is pending or not listed yet. So no downtime makes a pass forget Ids that it still needs.
//!
//! A file contains the Ids that the same outputs accepted within the same hour, e.g. `2026-11-22T10.file+stdout.v2`: the
//! line `office365-collector record ids 2`, then blocks. A block is a feed (8 bytes, a hash), an hour of content since
//! 1970 (4 bytes), the number of its keys (4 bytes), and the keys, 16 bytes each; all numbers are big-endian. The keys are
//! those of [`crate::records::RecordId`]. A pass only appends to the file of its hour, so a pass with one new blob writes
//! only that blob's keys. A file is removed when none of its blocks is needed any more.
//!
//! Files of version 1 (without `.v2`) contain GUIDs without a tenant; they count for every tenant until they are too old.
//!
//! The keys are loaded when the first record arrives, so a pass that finds nothing new does not read them.

use std::{
    collections::{BTreeMap, HashMap, HashSet, hash_map::Entry},
    fs::{self, File},
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::{Progress, StateError, UNREADABLE, key_set::KeySet};
use crate::{
    clock::Clock,
    delivery::OutputSet,
    disk::{self, FileContext},
    feed::ContentType,
    limits::{CLOCK_TOLERANCE, KNOWN_MAX, RETENTION, STATE_BUFFER_BYTES},
};

/// The folder's name in `workingDir`.
pub const FOLDER_NAME: &str = "record_ids";

const HEADER: &[u8; 33] = b"office365-collector record ids 2\n";
const OLDER_HEADER: &[u8; 33] = b"office365-collector record ids 1\n";
const SUFFIX: &str = ".v2";
const KEY_BYTES: usize = 16;
const BLOCK_HEAD_BYTES: usize = 16;

/// The hour of a feed's content in which a record's blob became available.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentHour {
    /// A hash of the tenant and the content type.
    feed: u64,
    /// The hour since 1970.
    hour: u32,
}

impl ContentHour {
    /// Returns the content hour of a blob of this feed.
    pub fn new(tenant_id: &str, content_type: ContentType, created: Timestamp) -> Self {
        Self { feed: feed_key(tenant_id, content_type), hour: hour_of(created) }
    }
}

fn feed_key(tenant_id: &str, content_type: ContentType) -> u64 {
    xxh3_64_with_seed(tenant_id.to_ascii_lowercase().as_bytes(), xxh3_64(content_type.name().as_bytes()))
}

fn hour_of(time: Timestamp) -> u32 {
    u32::try_from((time.as_second() / (60 * 60)).max(0)).unwrap_or(u32::MAX)
}

/// What remains to be collected of a feed.
#[derive(Clone, Copy, Debug, Default)]
struct Remaining {
    listed_until: Option<Timestamp>,
    oldest_pending: Option<Timestamp>,
}

impl Remaining {
    /// Returns the time of the oldest content that is pending or not listed yet, within what the API lists and keeps.
    fn oldest(self, now: Timestamp) -> Timestamp {
        let is_possible = |until: &Timestamp| until.duration_since(now) <= CLOCK_TOLERANCE * 2;
        let oldest_listed = now - RETENTION;
        let to_list = self.listed_until.filter(is_possible).map_or(oldest_listed, |at| at.max(oldest_listed));
        let pending = self.oldest_pending.map_or(to_list, |pending| pending.max(now - KNOWN_MAX));
        to_list.min(pending)
    }
}

/// The first hour of content whose Ids are needed, by feed.
#[derive(Debug, Default)]
struct Needed {
    by_feed: HashMap<u64, u32>,
    /// For feeds that were never listed to the end.
    others: u32,
    /// The feeds whose Ids are loaded; `None` for all. The files keep those of the other feeds.
    loaded: Option<HashSet<u64>>,
}

impl Needed {
    fn includes(&self, content: ContentHour) -> bool {
        content.hour >= *self.by_feed.get(&content.feed).unwrap_or(&self.others)
    }

    fn is_loaded(&self, content: ContentHour) -> bool {
        self.loaded.as_ref().is_none_or(|loaded| loaded.contains(&content.feed))
    }

    /// Returns the first hour that any known feed needs.
    fn first(&self) -> u32 {
        self.by_feed.values().copied().min().unwrap_or(self.others)
    }
}

/// The remembered Ids, and the files to which new ones are appended.
#[derive(Debug)]
pub struct RecordIds {
    folder: PathBuf,
    /// The beginning of the names of this pass's files.
    hour: String,
    remembered: Duration,
    remaining: HashMap<u64, Remaining>,
    /// The feeds of the tenants that the pass collects; `None` for all.
    collected: Option<HashSet<u64>>,
    clock: Clock,
    /// `None` until the first look-up.
    loaded: Option<Loaded>,
    open: HashMap<OutputSet, File>,
}

#[derive(Debug, Default)]
struct Loaded {
    /// By the outputs that accepted their records.
    sets: HashMap<OutputSet, KeySet>,
    /// GUIDs from files of version 1.
    older: HashMap<OutputSet, KeySet>,
    /// The end of the last whole block of each file.
    ends: HashMap<PathBuf, u64>,
}

impl RecordIds {
    /// Remembers Ids for this duration before the oldest content that remains to be collected of each feed. Reads no file
    /// yet.
    pub fn new(working_dir: &Path, remembered: Duration, progress: &Progress, clock: &Clock) -> Self {
        let mut remaining: HashMap<u64, Remaining> = HashMap::new();
        for ((tenant_id, content_type), feed) in &progress.feeds {
            remaining.entry(feed_key(tenant_id, *content_type)).or_default().listed_until = feed.listed_until;
        }
        for ((tenant_id, content_type), pending) in &progress.pending {
            let feed = remaining.entry(feed_key(tenant_id, *content_type)).or_default();
            let created = pending.blob.created;
            feed.oldest_pending = Some(feed.oldest_pending.map_or(created, |oldest| oldest.min(created)));
        }
        Self {
            folder: working_dir.join(FOLDER_NAME),
            // The name need not be exact: the age of a file's Ids is in its blocks.
            hour: clock.at("", clock.began()).strftime("%Y-%m-%dT%H").to_string(),
            remembered,
            remaining,
            collected: None,
            clock: clock.clone(),
            loaded: None,
            open: HashMap::new(),
        }
    }

    /// Loads only the Ids of these tenants. A folder can contain those of many more: of the other tenants of a `--tenant`,
    /// and of other shards after their number was changed.
    pub fn restrict_to<'a>(&mut self, tenant_ids: impl Iterator<Item = &'a str>) {
        let feeds_of = |tenant_id| ContentType::ALL.map(|content_type| feed_key(tenant_id, content_type));
        self.collected = Some(tenant_ids.flat_map(feeds_of).collect());
    }

    /// Returns the outputs that accepted a record with this key, or, in files of version 1, with this GUID. The first call
    /// reads the files.
    pub fn outputs_with(&mut self, key: u128, guid: Option<u128>) -> Result<OutputSet, StateError> {
        let loaded = self.loaded()?;
        let with = |sets: &HashMap<OutputSet, KeySet>, key| {
            let with_key = sets.iter().filter(|(_, keys)| keys.contains(key));
            with_key.fold(OutputSet::EMPTY, |all, (outputs, _)| all.or(*outputs))
        };
        let of_older = guid.map_or(OutputSet::EMPTY, |guid| with(&loaded.older, guid));
        Ok(with(&loaded.sets, key).or(of_older))
    }

    /// Remembers keys durably, with the outputs that accepted their records and the content of their blobs. The records
    /// must be durable in these outputs.
    pub fn append(&mut self, ids: &[(u128, OutputSet, ContentHour)]) -> Result<(), StateError> {
        let mut files: HashMap<OutputSet, BTreeMap<ContentHour, Vec<u128>>> = HashMap::new();
        let sets = &mut self.loaded()?.sets;
        for &(key, outputs, content) in ids.iter().filter(|(_, outputs, _)| !outputs.is_empty()) {
            if sets.entry(outputs).or_default().insert(key) {
                files.entry(outputs).or_default().entry(content).or_default().push(key);
            }
        }
        for (outputs, blocks) in files {
            let mut bytes = Vec::new();
            for (content, keys) in blocks {
                bytes.extend_from_slice(&content.feed.to_be_bytes());
                bytes.extend_from_slice(&content.hour.to_be_bytes());
                let count = u32::try_from(keys.len()).expect("a batch is smaller");
                bytes.extend_from_slice(&count.to_be_bytes());
                for key in keys {
                    bytes.extend_from_slice(&key.to_be_bytes());
                }
            }
            let path = self.folder.join(format!("{}.{outputs}{SUFFIX}", self.hour));
            let file = match self.open.entry(outputs) {
                Entry::Occupied(open) => open.into_mut(),
                Entry::Vacant(place) => {
                    let end = self.loaded.as_ref().and_then(|loaded| loaded.ends.get(&path)).copied();
                    place.insert(open_file(&self.folder, &path, end).context("write", &path)?)
                }
            };
            disk::append_durably(file, &bytes).context("write", &path)?;
        }
        Ok(())
    }

    fn loaded(&mut self) -> Result<&mut Loaded, StateError> {
        if self.loaded.is_none() {
            self.loaded = Some(self.load().context("read", &self.folder)?);
        }
        Ok(self.loaded.as_mut().expect("loaded above"))
    }

    /// Returns which Ids are needed at this time of Microsoft's clock: all of them if it is unknown.
    fn needed(&self, now: Option<Timestamp>) -> Needed {
        let loaded = self.collected.clone();
        let Some(now) = now else { return Needed { loaded, ..Needed::default() } };
        let since = |oldest: Timestamp| hour_of(oldest - self.remembered);
        let by_feed = self.remaining.iter().map(|(&feed, remaining)| (feed, since(remaining.oldest(now))));
        Needed { by_feed: by_feed.collect(), others: since(Remaining::default().oldest(now)), loaded }
    }

    /// Reads the needed Ids, and removes the files without any.
    fn load(&self) -> io::Result<Loaded> {
        let needed = self.needed(self.clock.earliest(Instant::now()));
        let first = Timestamp::from_second(i64::from(needed.first()) * 60 * 60).unwrap_or(Timestamp::MIN);
        let first_name = first.strftime("%Y-%m-%dT%H").to_string();
        let (mut loaded, mut files, mut older) = (Loaded::default(), HashMap::new(), HashMap::new());
        for entry in disk::none_if_missing(fs::read_dir(&self.folder))?.into_iter().flatten() {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let (name, is_older) = name.strip_suffix(SUFFIX).map_or((name, true), |name| (name, false));
            let Some((hour, outputs)) = name.split_once('.') else { continue };
            let Some(outputs) = OutputSet::parse(outputs) else { continue };
            if is_older && hour < first_name.as_str() {
                fs::remove_file(&path)?;
            } else if is_older {
                older.entry(outputs).or_insert_with(Vec::new).push(path);
            } else if let Some(blocks) = Blocks::find(&path, &needed)? {
                if blocks.needed == 0 && blocks.all > 0 {
                    fs::remove_file(&path)?;
                } else {
                    loaded.ends.insert(path.clone(), blocks.end);
                    files.entry(outputs).or_insert_with(Vec::new).push((path, blocks.spans));
                }
            }
        }
        for (outputs, files) in files {
            let counts = files.iter().flat_map(|(_, spans)| spans).map(|(_, keys)| keys);
            let mut set = KeySet::with_capacity(counts.sum());
            for (path, spans) in files {
                read_keys(&path, &spans, |key| set.insert(key))?;
            }
            loaded.sets.insert(outputs, set);
        }
        for (outputs, files) in older {
            loaded.older.insert(outputs, set_of_older(&files)?);
        }
        Ok(loaded)
    }
}

/// The blocks of a file.
struct Blocks {
    /// The offset of the keys and their number, of each block to load.
    spans: Vec<(u64, usize)>,
    /// The number of needed blocks.
    needed: usize,
    /// The number of all blocks.
    all: usize,
    /// The end of the last whole block; a crash can leave a part of a block after it.
    end: u64,
}

impl Blocks {
    /// Finds the blocks of a file. `None` if it is not a file of this version.
    fn find(path: &Path, needed: &Needed) -> io::Result<Option<Self>> {
        disk::require_own_regular(path)?;
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let mut blocks = Self { spans: Vec::new(), needed: 0, all: 0, end: 0 };
        if length < HEADER.len() as u64 {
            return Ok(Some(blocks));
        }
        let mut reader = BufReader::with_capacity(STATE_BUFFER_BYTES, file);
        let mut header = *HEADER;
        reader.read_exact(&mut header)?;
        if header != *HEADER {
            warn_of_other_version(path);
            return Ok(None);
        }
        blocks.end = HEADER.len() as u64;
        while blocks.end + (BLOCK_HEAD_BYTES as u64) < length {
            let (mut feed, mut hour, mut count) = ([0; 8], [0; 4], [0; 4]);
            for number in [feed.as_mut_slice(), &mut hour, &mut count] {
                reader.read_exact(number)?;
            }
            let keys = u64::from(u32::from_be_bytes(count));
            let start = blocks.end + BLOCK_HEAD_BYTES as u64;
            let end = start + keys * KEY_BYTES as u64;
            if keys == 0 || end > length {
                break;
            }
            let content = ContentHour { feed: u64::from_be_bytes(feed), hour: u32::from_be_bytes(hour) };
            if needed.includes(content) {
                blocks.needed += 1;
                if needed.is_loaded(content) {
                    blocks.spans.push((start, usize::try_from(keys).unwrap_or(usize::MAX)));
                }
            }
            blocks.all += 1;
            blocks.end = end;
            reader.seek_relative((end - start).cast_signed())?;
        }
        Ok(Some(blocks))
    }
}

fn warn_of_other_version(path: &Path) {
    log::warn!(
        "{} is of another version or damaged; it is ignored, and records that the API repeats may be delivered again",
        path.display()
    );
}

/// Passes the keys in these parts of a file to `insert`.
fn read_keys(path: &Path, spans: &[(u64, usize)], mut insert: impl FnMut(u128) -> bool) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(STATE_BUFFER_BYTES, File::open(path)?);
    let mut at = 0;
    for &(start, keys) in spans {
        reader.seek_relative((start - at).cast_signed())?;
        for _ in 0..keys {
            let mut key = [0; KEY_BYTES];
            reader.read_exact(&mut key)?;
            // Zero is not a key but part of a page that never reached the disk.
            let _ = key == [0; KEY_BYTES] || insert(u128::from_be_bytes(key));
        }
        at = start + (keys * KEY_BYTES) as u64;
    }
    Ok(())
}

/// Returns all GUIDs in these files of version 1.
fn set_of_older(paths: &[PathBuf]) -> io::Result<KeySet> {
    let mut set = KeySet::default();
    for path in paths {
        disk::require_own_regular(path)?;
        let bytes = fs::read(path)?;
        match bytes.strip_prefix(OLDER_HEADER) {
            Some(guids) => {
                let guids = guids.chunks_exact(KEY_BYTES).map(|guid| guid.try_into().expect("16 bytes"));
                for guid in guids.map(u128::from_be_bytes).filter(|&guid| guid != 0) {
                    set.insert(guid);
                }
            }
            None if bytes.len() >= OLDER_HEADER.len() => warn_of_other_version(path),
            None => {}
        }
    }
    Ok(set)
}

/// Opens a file for appending blocks. `end` is the end of its last whole block, after which it is truncated. A file without
/// an `end` is not one of this program and is renamed to `*.unreadable`.
fn open_file(folder: &Path, path: &Path, end: Option<u64>) -> io::Result<File> {
    disk::create_folder(folder, 0o700)?;
    disk::require_own_regular(path)?;
    if end.is_none() && path.exists() {
        fs::rename(path, path.with_extension(UNREADABLE))?;
    }
    let end = end.unwrap_or_default();
    let mut file = disk::open_for_append(path, 0o600)?;
    if file.metadata()?.len() > end {
        disk::truncate(&file, end)?;
    }
    if end == 0 {
        disk::append(&mut file, HEADER)?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::delivery::OutputName;
    use crate::state::FeedProgress;

    const TENANT: &str = "11111111-1111-4111-8111-111111111111";
    const FEED: ContentType = ContentType::AuditGeneral;
    const FILE: OutputName = OutputName::File;

    fn at(hours: i64) -> Timestamp {
        let start: Timestamp = "2026-11-22T10:30:00Z".parse().expect("a time of the test");
        start + jiff::SignedDuration::from_hours(hours)
    }

    fn content(hours: i64) -> ContentHour {
        ContentHour::new(TENANT, FEED, at(hours))
    }

    /// Returns the Ids at hour `now` of a feed that is listed up to hour `listed_until`.
    fn ids(folder: &Path, now: i64, listed_until: Option<i64>) -> RecordIds {
        let clock = Clock::begun(Instant::now(), at(now));
        clock.note(&TENANT.into(), at(now), clock.began());
        let mut progress = Progress::default();
        let feed = FeedProgress { listed_until: listed_until.map(at), ..FeedProgress::default() };
        progress.feeds.insert((TENANT.into(), FEED), Arc::new(feed));
        RecordIds::new(folder, Duration::from_secs(24 * 60 * 60), &progress, &clock)
    }

    fn file() -> OutputSet {
        OutputSet::EMPTY.with(FILE)
    }

    #[test]
    fn only_the_ids_of_collected_tenants_are_loaded_and_the_others_stay_in_the_files() {
        const OTHER: &str = "22222222-2222-4222-8222-222222222222";
        let folder = tempfile::tempdir().expect("a folder");
        let of_other = ContentHour::new(OTHER, FEED, at(0));
        ids(folder.path(), 0, None).append(&[(1, file(), content(0)), (2, file(), of_other)]).expect("room");
        for (tenant_id, own, other) in [(TENANT, 1, 2), (OTHER, 2, 1)] {
            let mut ids = ids(folder.path(), 1, Some(1));
            ids.restrict_to([tenant_id].into_iter());
            let mut has = |key| ids.outputs_with(key, None).expect("a readable folder").contains(FILE);
            assert!(has(own) && !has(other), "{tenant_id}");
        }
        assert_eq!(files(folder.path()), 1);
    }

    fn files(folder: &Path) -> usize {
        fs::read_dir(folder.join(FOLDER_NAME)).expect("a folder").count()
    }

    #[test]
    fn remembers_ids_for_the_outputs_that_accepted_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let both = file().with(OutputName::Stdout);
        let all = [(1, file(), content(0)), (2, both, content(0)), (3, OutputSet::EMPTY, content(0))];
        ids(folder.path(), 0, None).append(&all).expect("room");
        let mut later = ids(folder.path(), 23, Some(23));
        let mut has =
            |output, key| later.outputs_with(key, None).expect("a readable folder").contains(output);
        assert!(has(FILE, 1) && has(FILE, 2) && !has(FILE, 3));
        assert!(!has(OutputName::Stdout, 1) && has(OutputName::Stdout, 2));
    }

    #[test]
    fn remembers_ids_while_their_feed_needs_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let all = [(1, file(), content(-10)), (2, file(), content(0))];
        ids(folder.path(), 0, None).append(&all).expect("room");
        let has = |now, listed_until: Option<i64>| {
            let mut ids = ids(folder.path(), now, listed_until);
            [1, 2].map(|key| ids.outputs_with(key, None).expect("a readable folder").contains(FILE))
        };
        assert_eq!(has(100, Some(0)), [true, true], "a downtime forgets nothing");
        assert_eq!(has(24, Some(24)), [false, true]);
        assert_eq!(has(0, Some(5000)), [true, true], "an impossible time is ignored");
        assert_eq!(has(100, None), [true, true], "it was never listed to the end");
        assert_eq!(files(folder.path()), 1);
        assert_eq!(has(7 * 24 + 25, Some(0)), [false, false], "nothing older can be listed");
        assert_eq!(files(folder.path()), 0);
    }

    #[test]
    fn removes_a_torn_block_but_does_not_change_other_versions() {
        let folder = tempfile::tempdir().expect("a folder");
        ids(folder.path(), 0, None).append(&[(1, file(), content(0))]).expect("room");
        ids(folder.path(), 0, None).append(&[(2, file(), content(0))]).expect("room");
        let path = folder.path().join(FOLDER_NAME).join("2026-11-22T10.file.v2");
        let whole = fs::read(&path).expect("a file");
        for torn in [whole.len() - 1, HEADER.len() + 33, HEADER.len() + 1, HEADER.len(), HEADER.len() - 1, 0]
        {
            fs::write(&path, &whole[..torn]).expect("a file");
            let foreign = folder.path().join(FOLDER_NAME).join("2026-11-22T09.file.v2");
            fs::write(&foreign, "another version\n".repeat(9)).expect("a file");
            ids(folder.path(), 0, None).append(&[(9, file(), content(0))]).expect("room");
            let mut read = ids(folder.path(), 0, None);
            let mut has = |key| read.outputs_with(key, None).expect("a readable folder").contains(FILE);
            assert_eq!([has(1), has(2), has(9)], [torn > HEADER.len() + 32, false, true], "cut at {torn}");
            assert!(foreign.exists());
        }
        fs::write(&path, "another version\n".repeat(9)).expect("a file");
        ids(folder.path(), 0, None).append(&[(9, file(), content(0))]).expect("room");
        assert!(path.with_extension("unreadable").exists(), "the file is renamed");
        assert!(ids(folder.path(), 0, None).outputs_with(9, None).expect("a readable folder").contains(FILE));
    }

    #[test]
    fn version_1_guids_count_for_every_tenant_until_they_expire() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(FOLDER_NAME).join("2026-11-22T10.file");
        fs::create_dir(folder.path().join(FOLDER_NAME)).expect("a folder");
        fs::write(&path, [OLDER_HEADER.as_slice(), &7_u128.to_be_bytes(), b"torn"].concat()).expect("a file");
        let mut read = ids(folder.path(), 30, Some(1));
        assert!(read.outputs_with(1, Some(7)).expect("a readable folder").contains(FILE));
        assert!(!read.outputs_with(7, None).expect("a readable folder").contains(FILE));
        let mut too_late = ids(folder.path(), 30, Some(30));
        assert!(!too_late.outputs_with(1, Some(7)).expect("a readable folder").contains(FILE));
        assert!(!path.exists());
    }
}
