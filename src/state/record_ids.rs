//! `record_ids/`: the Ids of the records delivered within `dedupHours`, because the API repeats records by design.
//!
//! A file holds the Ids that went to the same outputs within the same hour, e.g. `2026-11-22T10.file+stdout`: the line
//! `office365-collector record ids 1`, then 16 bytes an Id, big-endian, in the order of delivery. A pass only appends
//! to the file of its hour; what is too old goes by removing whole files. So a pass with one new blob writes only that
//! blob's Ids, however many are remembered.
//!
//! In memory they are sets of keys, loaded when the first record comes, so a pass that finds nothing new does not read
//! them.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;

use super::{StateError, key_set::KeySet};
use crate::{
    delivery::{OutputName, OutputSet},
    disk,
};

/// The folder's name in `workingDir`.
pub const FOLDER_NAME: &str = "record_ids";

const HEADER: &[u8; 33] = b"office365-collector record ids 1\n";
const ID_BYTES: usize = 16;

/// The Ids that are remembered, and where more of them go.
#[derive(Debug)]
pub struct RecordIds {
    folder: PathBuf,
    /// Of this pass: the name that its files begin with.
    hour: String,
    /// The oldest hour that still counts.
    oldest_hour: String,
    /// By the outputs that have them; loaded when first asked for.
    sets: Option<HashMap<OutputSet, KeySet>>,
    open: HashMap<OutputSet, File>,
}

impl RecordIds {
    /// Remembers Ids for so long. Reads nothing yet.
    pub fn new(working_dir: &Path, now: Timestamp, remembered: Duration) -> Self {
        Self {
            folder: working_dir.join(FOLDER_NAME),
            hour: hour(now),
            oldest_hour: hour(now - remembered),
            sets: None,
            open: HashMap::new(),
        }
    }

    /// Whether an output had a record of this Id. Reads the files the first time.
    pub fn contains(&mut self, output: OutputName, id: u128) -> Result<bool, StateError> {
        Ok(self.sets()?.iter().any(|(outputs, ids)| outputs.contains(output) && ids.contains(id)))
    }

    /// Remembers Ids with the outputs that have them, durably.
    ///
    /// To be called only when their records are durable in these outputs.
    pub fn append(&mut self, ids: &[(u128, OutputSet)]) -> Result<(), StateError> {
        let mut bytes: HashMap<OutputSet, Vec<u8>> = HashMap::new();
        for (id, outputs) in ids.iter().filter(|(_, outputs)| !outputs.is_empty()) {
            if self.sets()?.entry(*outputs).or_default().insert(*id) {
                bytes.entry(*outputs).or_default().extend_from_slice(&id.to_be_bytes());
            }
        }
        for (outputs, bytes) in bytes {
            let path = self.folder.join(format!("{}.{outputs}", self.hour));
            let storage = |error| StateError::storage("write", &path, error);
            let file = match self.open.entry(outputs) {
                std::collections::hash_map::Entry::Occupied(open) => open.into_mut(),
                std::collections::hash_map::Entry::Vacant(place) => {
                    place.insert(open_file(&self.folder, &path).map_err(storage)?)
                }
            };
            disk::append(file, &bytes).and_then(|()| disk::sync(file)).map_err(storage)?;
        }
        Ok(())
    }

    fn sets(&mut self) -> Result<&mut HashMap<OutputSet, KeySet>, StateError> {
        if self.sets.is_none() {
            let loaded = self.load().map_err(|error| StateError::storage("read", &self.folder, error))?;
            self.sets = Some(loaded);
        }
        Ok(self.sets.as_mut().expect("loaded above"))
    }

    /// Reads the files that count, one after the other, and removes those that no longer do.
    fn load(&self) -> io::Result<HashMap<OutputSet, KeySet>> {
        let mut files: HashMap<OutputSet, Vec<PathBuf>> = HashMap::new();
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(HashMap::new()),
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            match name.split_once('.').map(|(hour, outputs)| (hour, OutputSet::parse(outputs))) {
                Some((hour, Some(_))) if hour < self.oldest_hour.as_str() => fs::remove_file(&path)?,
                Some((_, Some(outputs))) => files.entry(outputs).or_default().push(path),
                _ => {} // nothing of ours
            }
        }
        files.into_iter().map(|(outputs, files)| Ok((outputs, set_of(&files)?))).collect()
    }
}

/// All Ids in these files.
fn set_of(paths: &[PathBuf]) -> io::Result<KeySet> {
    let mut bytes = 0;
    for path in paths {
        bytes += usize::try_from(fs::metadata(path)?.len()).unwrap_or(usize::MAX);
    }
    let mut set = KeySet::with_room_for(bytes / ID_BYTES);
    for path in paths {
        for id in read_ids(path)?.chunks_exact(ID_BYTES) {
            set.insert(u128::from_be_bytes(id.try_into().expect("16 bytes")));
        }
    }
    Ok(set)
}

/// The Ids in a file, without one that a crash has torn.
fn read_ids(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = fs::read(path)?;
    if bytes.starts_with(HEADER) {
        bytes.drain(..HEADER.len());
        return Ok(bytes);
    }
    if bytes.len() >= HEADER.len() {
        log::warn!(
            "{} is of another version or damaged; it is left alone, and records that the API repeats may be delivered \
             again",
            path.display()
        );
    }
    Ok(Vec::new())
}

/// Opens a file to append Ids to. What a crash left of a header or of an Id at its end is cut off.
fn open_file(folder: &Path, path: &Path) -> io::Result<File> {
    disk::make_folder(folder, 0o700)?;
    let mut file = disk::open_for_append(path, 0o600)?;
    let length = file.metadata()?.len();
    let header = HEADER.len() as u64;
    if length < header {
        disk::cut(&file, 0)?;
        disk::append(&mut file, HEADER)?;
    } else if !(length - header).is_multiple_of(ID_BYTES as u64) {
        disk::cut(&file, length - (length - header) % ID_BYTES as u64)?;
    }
    Ok(file)
}

/// `2026-11-22T10`: names that sort as their times do.
fn hour(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-22T10:30:00Z".parse().expect("a time of the test")
    }

    fn ids(folder: &Path, now: Timestamp) -> RecordIds {
        RecordIds::new(folder, now, Duration::from_secs(24 * 60 * 60))
    }

    const FILE: OutputName = OutputName::File;

    fn file() -> OutputSet {
        OutputSet::EMPTY.with(FILE)
    }

    #[test]
    fn ids_are_remembered_for_their_time_by_the_outputs_that_have_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let both = file().with(OutputName::Stdout);
        ids(folder.path(), now()).append(&[(1, file()), (2, both), (3, OutputSet::EMPTY)]).expect("room");
        let mut later = ids(folder.path(), now() + Duration::from_secs(23 * 3600));
        let mut has = |output, id| later.contains(output, id).expect("a readable folder");
        assert!(has(FILE, 1) && has(FILE, 2) && !has(FILE, 3));
        assert!(!has(OutputName::Stdout, 1) && has(OutputName::Stdout, 2));
        let mut too_late = ids(folder.path(), now() + Duration::from_secs(25 * 3600));
        assert!(!too_late.contains(FILE, 1).expect("a readable folder"));
        assert_eq!(fs::read_dir(folder.path().join(FOLDER_NAME)).expect("a folder").count(), 0);
    }

    #[test]
    fn a_torn_id_is_cut_off_and_what_is_foreign_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        ids(folder.path(), now()).append(&[(1, file()), (2, file())]).expect("room");
        let path = folder.path().join(FOLDER_NAME).join("2026-11-22T10.file");
        let whole = fs::read(&path).expect("a file");
        for torn in [whole.len() - 1, HEADER.len() + 1, HEADER.len(), HEADER.len() - 1, 0] {
            fs::write(&path, &whole[..torn]).expect("a file");
            fs::write(
                folder.path().join(FOLDER_NAME).join("2026-11-22T09.file"),
                "another version\n".repeat(9),
            )
            .expect("a file");
            ids(folder.path(), now()).append(&[(9, file())]).expect("room");
            let mut read = ids(folder.path(), now());
            assert!(read.contains(FILE, 9).expect("a readable folder"), "cut at {torn}");
            assert_eq!(read.contains(FILE, 1).expect("a readable folder"), torn == whole.len() - 1);
            assert!(!read.contains(FILE, 2).expect("a readable folder"));
        }
    }
}
