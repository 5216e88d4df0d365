//! `record_ids/`: the Ids of delivered records, because the API repeats records by design.
//!
//! Ids are remembered by the time of the content that they came with, not by when they were delivered: for `dedupHours`
//! before the oldest content of their feed that is still to be listed or that waits. So a downtime forgets nothing.
//!
//! A file holds the Ids that went to the same outputs within the same hour, e.g. `2026-11-22T10.file+stdout.v2`: the
//! line `office365-collector record ids 2`, then blocks. A block is a feed (8 bytes, a hash), an hour of content since
//! 1970 (4 bytes) and the number of its keys (4 bytes), and then the keys, 16 bytes each; all numbers are big-endian. A
//! key is that of [`crate::records::RecordId`]. A pass only appends to the file of its hour, so a pass with one new
//! blob writes only that blob's keys. A file goes when none of its blocks is needed any more.
//!
//! Files of version 1 (without `.v2`) hold GUIDs without a tenant; they count for every tenant until they are too old.
//!
//! In memory there are sets of keys, loaded when the first record comes, so a pass that finds nothing new does not read
//! them.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::{Progress, StateError, key_set::KeySet};
use crate::{
    clock::Clock,
    delivery::OutputSet,
    disk,
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

/// Which content a record came with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Content {
    /// A hash of the tenant and the content type.
    feed: u64,
    /// When its blob became available, in hours since 1970.
    hour: u32,
}

impl Content {
    /// That of a blob of this feed.
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

/// What is still to be collected of a feed.
#[derive(Clone, Copy, Debug, Default)]
struct Rest {
    listed_until: Option<Timestamp>,
    oldest_waiting: Option<Timestamp>,
}

impl Rest {
    /// The oldest content that is still to be listed or that waits. Not older than what the API lists, or keeps.
    fn oldest(self, now: Timestamp) -> Timestamp {
        let is_possible = |until: &Timestamp| until.duration_since(now) <= CLOCK_TOLERANCE * 2;
        let oldest_listed = now - RETENTION;
        let to_list = self.listed_until.filter(is_possible).map_or(oldest_listed, |at| at.max(oldest_listed));
        let waiting = self.oldest_waiting.map_or(to_list, |waiting| waiting.max(now - KNOWN_MAX));
        to_list.min(waiting)
    }
}

/// From which hour of content on the Ids of each feed are needed.
#[derive(Debug, Default)]
struct Needed {
    by_feed: HashMap<u64, u32>,
    /// Of a feed that no pass has listed to an end.
    others: u32,
}

impl Needed {
    fn needs(&self, content: Content) -> bool {
        content.hour >= *self.by_feed.get(&content.feed).unwrap_or(&self.others)
    }

    /// From which hour on any is needed of the feeds that are known.
    fn first(&self) -> u32 {
        self.by_feed.values().copied().min().unwrap_or(self.others)
    }
}

/// The Ids that are remembered, and where more of them go.
#[derive(Debug)]
pub struct RecordIds {
    folder: PathBuf,
    /// Of this pass: the name that its files begin with.
    hour: String,
    remembered: Duration,
    rests: HashMap<u64, Rest>,
    clock: Clock,
    /// Loaded when first asked for.
    loaded: Option<Loaded>,
    open: HashMap<OutputSet, File>,
}

#[derive(Debug, Default)]
struct Loaded {
    /// By the outputs that have them.
    sets: HashMap<OutputSet, KeySet>,
    /// GUIDs without a tenant, of files of version 1.
    older: HashMap<OutputSet, KeySet>,
    /// Where the last whole block of each file ends.
    ends: HashMap<PathBuf, u64>,
}

impl RecordIds {
    /// Remembers Ids for so long before the oldest content that each feed has still to collect. Reads nothing yet.
    pub fn new(working_dir: &Path, remembered: Duration, progress: &Progress, clock: &Clock) -> Self {
        let mut rests: HashMap<u64, Rest> = HashMap::new();
        for ((tenant_id, content_type), feed) in &progress.feeds {
            rests.entry(feed_key(tenant_id, *content_type)).or_default().listed_until = feed.listed_until;
        }
        for waiting in &progress.waiting {
            let rest = rests.entry(feed_key(&waiting.tenant_id, waiting.content_type)).or_default();
            let created = waiting.blob.created;
            rest.oldest_waiting = Some(rest.oldest_waiting.map_or(created, |oldest| oldest.min(created)));
        }
        Self {
            folder: working_dir.join(FOLDER_NAME),
            // Any name will do: what is in a file says how old it is.
            hour: clock.at("", clock.began()).strftime("%Y-%m-%dT%H").to_string(),
            remembered,
            rests,
            clock: clock.clone(),
            loaded: None,
            open: HashMap::new(),
        }
    }

    /// Returns the outputs that had a record with this key, or, before Ids were told apart by tenant, with this GUID.
    /// Reads the files the first time.
    pub fn outputs_with(&mut self, key: u128, guid: Option<u128>) -> Result<OutputSet, StateError> {
        let loaded = self.loaded()?;
        let with = |sets: &HashMap<OutputSet, KeySet>, key| {
            let with_key = sets.iter().filter(|(_, keys)| keys.contains(key));
            with_key.fold(OutputSet::EMPTY, |all, (outputs, _)| all.or(*outputs))
        };
        let of_older = guid.map_or(OutputSet::EMPTY, |guid| with(&loaded.older, guid));
        Ok(with(&loaded.sets, key).or(of_older))
    }

    /// Remembers keys with the outputs that have their records, and the content that they came with, durably.
    ///
    /// To be called only when their records are durable in these outputs.
    pub fn append(&mut self, ids: &[(u128, OutputSet, Content)]) -> Result<(), StateError> {
        let mut files: HashMap<OutputSet, BTreeMap<Content, Vec<u128>>> = HashMap::new();
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
            let storage = |error| StateError::storage("write", &path, error);
            if !self.open.contains_key(&outputs) {
                let end = self.loaded.as_ref().and_then(|loaded| loaded.ends.get(&path)).copied();
                self.open.insert(outputs, open_file(&self.folder, &path, end).map_err(storage)?);
            }
            let file = self.open.get_mut(&outputs).expect("opened above");
            disk::append(file, &bytes).and_then(|()| disk::sync(file)).map_err(storage)?;
        }
        Ok(())
    }

    fn loaded(&mut self) -> Result<&mut Loaded, StateError> {
        if self.loaded.is_none() {
            let loaded = self.load().map_err(|error| StateError::storage("read", &self.folder, error))?;
            self.loaded = Some(loaded);
        }
        Ok(self.loaded.as_mut().expect("loaded above"))
    }

    /// What is needed by Microsoft's time: everything, if that is not known.
    fn needed(&self, now: Option<Timestamp>) -> Needed {
        let Some(now) = now else { return Needed::default() };
        let since = |oldest: Timestamp| hour_of(oldest - self.remembered);
        let by_feed = self.rests.iter().map(|(&feed, rest)| (feed, since(rest.oldest(now)))).collect();
        Needed { by_feed, others: since(Rest::default().oldest(now)) }
    }

    /// Reads what is needed, one file after the other, and removes the files of which nothing is.
    fn load(&self) -> io::Result<Loaded> {
        let now = self.clock.earliest(Instant::now());
        let needed = self.needed(now);
        let first = Timestamp::from_second(i64::from(needed.first()) * 60 * 60).unwrap_or(Timestamp::MIN);
        let first_name = first.strftime("%Y-%m-%dT%H").to_string();
        let (mut loaded, mut files, mut older) = (Loaded::default(), HashMap::new(), HashMap::new());
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(loaded),
            entries => entries?,
        };
        for entry in entries {
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
                if blocks.spans.is_empty() && blocks.all > 0 {
                    fs::remove_file(&path)?;
                } else {
                    loaded.ends.insert(path.clone(), blocks.end);
                    files.entry(outputs).or_insert_with(Vec::new).push((path, blocks.spans));
                }
            }
        }
        for (outputs, files) in files {
            let counts = files.iter().flat_map(|(_, spans)| spans).map(|(_, keys)| keys);
            let mut set = KeySet::with_room_for(counts.sum());
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

/// What a file holds.
struct Blocks {
    /// Of the blocks that are needed: where their keys begin, and how many they are.
    spans: Vec<(u64, usize)>,
    /// How many blocks there are.
    all: usize,
    /// Where the last whole one ends; what a crash has left behind it is none.
    end: u64,
}

impl Blocks {
    /// `None` if the file is not one of this version.
    fn find(path: &Path, needed: &Needed) -> io::Result<Option<Self>> {
        disk::require_own_regular(path)?;
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let mut blocks = Self { spans: Vec::new(), all: 0, end: 0 };
        if length < HEADER.len() as u64 {
            return Ok(Some(blocks));
        }
        let mut reader = BufReader::with_capacity(STATE_BUFFER_BYTES, file);
        let mut header = *HEADER;
        reader.read_exact(&mut header)?;
        if header != *HEADER {
            warn_of_foreign(path);
            return Ok(None);
        }
        blocks.end = HEADER.len() as u64;
        while blocks.end + (BLOCK_HEAD_BYTES as u64) < length {
            let (mut feed, mut hour, mut count) = ([0; 8], [0; 4], [0; 4]);
            reader.read_exact(&mut feed)?;
            reader.read_exact(&mut hour)?;
            reader.read_exact(&mut count)?;
            let keys = u64::from(u32::from_be_bytes(count));
            let start = blocks.end + BLOCK_HEAD_BYTES as u64;
            let end = start + keys * KEY_BYTES as u64;
            if keys == 0 || end > length {
                break;
            }
            let content = Content { feed: u64::from_be_bytes(feed), hour: u32::from_be_bytes(hour) };
            if needed.needs(content) {
                blocks.spans.push((start, usize::try_from(keys).unwrap_or(usize::MAX)));
            }
            blocks.all += 1;
            blocks.end = end;
            reader.seek_relative((end - start).cast_signed())?;
        }
        Ok(Some(blocks))
    }
}

fn warn_of_foreign(path: &Path) {
    log::warn!(
        "{} is of another version or damaged; it is left alone, and records that the API repeats may be delivered again",
        path.display()
    );
}

/// Hands over the keys in these parts of a file.
fn read_keys(path: &Path, spans: &[(u64, usize)], mut insert: impl FnMut(u128) -> bool) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(STATE_BUFFER_BYTES, File::open(path)?);
    let mut at = 0;
    for &(start, keys) in spans {
        reader.seek_relative((start - at).cast_signed())?;
        for _ in 0..keys {
            let mut key = [0; KEY_BYTES];
            reader.read_exact(&mut key)?;
            // Zero is not a key: it is a page that never reached the disk.
            let _ = key == [0; KEY_BYTES] || insert(u128::from_be_bytes(key));
        }
        at = start + (keys * KEY_BYTES) as u64;
    }
    Ok(())
}

/// All GUIDs in these files of version 1.
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
            None if bytes.len() >= OLDER_HEADER.len() => warn_of_foreign(path),
            None => {}
        }
    }
    Ok(set)
}

/// Opens a file to append blocks to. What a crash left behind its `end` is cut off; a file that is there and is not ours
/// gets another name.
fn open_file(folder: &Path, path: &Path, end: Option<u64>) -> io::Result<File> {
    disk::create_folder(folder, 0o700)?;
    disk::require_own_regular(path)?;
    if end.is_none() && path.exists() {
        fs::rename(path, path.with_extension("unreadable"))?;
    }
    let mut file = disk::open_for_append(path, 0o600)?;
    if file.seek(SeekFrom::End(0))? > end.unwrap_or_default() {
        disk::truncate(&file, end.unwrap_or_default())?;
    }
    if end.unwrap_or_default() == 0 {
        disk::append(&mut file, HEADER)?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
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

    fn content(hours: i64) -> Content {
        Content::new(TENANT, FEED, at(hours))
    }

    /// At this hour, of a feed that is listed up to that one.
    fn ids(folder: &Path, now: i64, listed_until: Option<i64>) -> RecordIds {
        let clock = Clock::begun(Instant::now(), at(now));
        clock.note(TENANT, at(now), clock.began());
        let mut progress = Progress::default();
        let feed = FeedProgress { listed_until: listed_until.map(at), ..FeedProgress::default() };
        progress.feeds.insert((TENANT.to_owned(), FEED), feed);
        RecordIds::new(folder, Duration::from_secs(24 * 60 * 60), &progress, &clock)
    }

    fn file() -> OutputSet {
        OutputSet::EMPTY.with(FILE)
    }

    fn files(folder: &Path) -> usize {
        fs::read_dir(folder.join(FOLDER_NAME)).expect("a folder").count()
    }

    #[test]
    fn ids_are_remembered_by_the_outputs_that_have_them() {
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
    fn ids_are_remembered_by_their_content_for_as_long_as_their_feed_needs_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let all = [(1, file(), content(-10)), (2, file(), content(0))];
        ids(folder.path(), 0, None).append(&all).expect("room");
        let has = |now, listed_until: Option<i64>| {
            let mut ids = ids(folder.path(), now, listed_until);
            [1, 2].map(|key| ids.outputs_with(key, None).expect("a readable folder").contains(FILE))
        };
        assert_eq!(has(100, Some(0)), [true, true], "a downtime forgets nothing");
        assert_eq!(has(24, Some(24)), [false, true]);
        assert_eq!(has(0, Some(5000)), [true, true], "that is no time of this feed");
        assert_eq!(has(100, None), [true, true], "it was never listed to an end");
        assert_eq!(files(folder.path()), 1);
        assert_eq!(has(7 * 24 + 25, Some(0)), [false, false], "nothing older can be listed");
        assert_eq!(files(folder.path()), 0);
    }

    #[test]
    fn a_torn_block_is_cut_off_and_what_is_foreign_is_left_alone() {
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
        assert!(path.with_extension("unreadable").exists(), "it makes place");
        assert!(ids(folder.path(), 0, None).outputs_with(9, None).expect("a readable folder").contains(FILE));
    }

    #[test]
    fn guids_of_the_earlier_version_count_for_every_tenant_until_they_are_too_old() {
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
