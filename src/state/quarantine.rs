//! `quarantine/`: the bodies of blobs that could be delivered in part only, or not at all.
//!
//! Two files per blob, named after a hash of its identity, so that a blob that is salvaged again replaces its own files:
//! `….body`, the body as it arrived, decompressed as far as possible, and `….json`, one line of JSON ([`Entry`]). A body
//! that cannot be decompressed to its end has a third one: `….encoded`, the body before that. All are durable before
//! the blob is known. The line comes last: a line without a body never exists.
//!
//! Nothing here is read by a pass. The administrator may remove files at any time; a pass removes the oldest ones when
//! the folder holds more than [`QUARANTINE_BYTES_MAX`], and those that are older than [`QUARANTINE_AGE_MAX`].

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{BlobKey, StateError};
use crate::{
    disk,
    limits::{QUARANTINE_AGE_MAX, QUARANTINE_BYTES_MAX},
};

/// The folder's name in `workingDir`.
pub const FOLDER_NAME: &str = "quarantine";

const BODY: &str = "body";
const ENCODED: &str = "encoded";
const LINE: &str = "json";

/// What is known of a blob in quarantine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// When it was put there. Not before it became available, whatever this machine's clock says.
    pub time: Timestamp,
    /// The tenant's GUID.
    pub tenant_id: String,
    /// The API's name of the feed.
    pub content_type: String,
    /// The blob's id.
    pub content_id: String,
    /// When the blob became available.
    pub content_created: Timestamp,
    /// Until when it can be fetched, as the API wrote it.
    pub content_expiration: String,
    /// Why the body cannot be read as a whole, in words.
    pub cause: String,
    /// The length of the body.
    pub bytes: u64,
    /// The length of the body as it arrived, if it cannot be decompressed to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_encoded: Option<u64>,
    /// Records that were delivered.
    pub records_delivered: u64,
    /// Records that were delivered before, from this blob or another one.
    pub records_duplicate: u64,
    /// Records that the filter dropped.
    pub records_filtered: u64,
    /// Elements of the array that are not objects.
    pub elements_not_objects: u64,
    /// Places of the body that are not valid JSON in UTF-8, each of at least one record.
    pub places_broken: u64,
    /// Whether the end of the body is missing.
    pub is_cut_short: bool,
}

/// An entry, and the file with its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// What is known of the blob.
    pub entry: Entry,
    /// The body.
    pub body: PathBuf,
}

/// The files of a blob.
#[derive(Debug, Default)]
struct Files {
    paths: Vec<PathBuf>,
    bytes: u64,
    /// When they were put there; for a body whose line was not written, when it was changed last.
    time: Timestamp,
}

/// Puts a blob into quarantine; when this returns, its files are durable. Returns where its body is.
pub(super) fn add(
    working_dir: &Path,
    key: BlobKey,
    entry: &Entry,
    body: &[u8],
    encoded: Option<&[u8]>,
) -> Result<PathBuf, StateError> {
    let folder = working_dir.join(FOLDER_NAME);
    disk::create_folder(&folder, 0o700)
        .map_err(|error| StateError::storage("make the folder", &folder, error))?;
    let line = serde_json::to_string(entry).expect("what is written is text, numbers and times") + "\n";
    let path = |extension: &str| folder.join(key.to_string()).with_extension(extension);
    let replace = |extension: &str, bytes: &[u8]| {
        let path = path(extension);
        disk::replace(&path, 0o600, |to| to.write_all(bytes), |_| Ok(()))
            .map_err(|error| StateError::storage("write", &path, error))?;
        Ok(path)
    };
    match encoded {
        Some(encoded) => drop(replace(ENCODED, encoded)?),
        None => {
            // An earlier salvage of the blob can have left one. It is harmless if it stays.
            let _ = fs::remove_file(path(ENCODED));
        }
    }
    let body = replace(BODY, body)?;
    replace(LINE, line.as_bytes())?;
    if let Err(error) = remove_oldest(&folder, QUARANTINE_BYTES_MAX) {
        log::warn!("{} cannot be kept within its bound: {error}; check the folder", folder.display());
    }
    Ok(body)
}

/// What is in quarantine, oldest first. A line that cannot be read is left out.
pub fn read(working_dir: &Path) -> Result<Vec<Quarantined>, StateError> {
    let folder = working_dir.join(FOLDER_NAME);
    let read = || {
        let mut entries = Vec::new();
        for path in paths(&folder)?.into_iter().filter(|path| has_extension(path, LINE)) {
            if let Some(entry) = fs::read(&path).ok().and_then(|line| serde_json::from_slice(&line).ok()) {
                entries.push(Quarantined { entry, body: path.with_extension(BODY) });
            }
        }
        entries.sort_by_key(|quarantined: &Quarantined| quarantined.entry.time);
        Ok(entries)
    };
    read().map_err(|error| StateError::storage("read", &folder, error))
}

/// How many blobs are in quarantine, and how many bytes they take.
pub fn size(working_dir: &Path) -> io::Result<(u64, u64)> {
    let groups = groups(&working_dir.join(FOLDER_NAME))?;
    Ok((groups.len() as u64, groups.iter().map(|files| files.bytes).sum()))
}

/// Removes what is older than [`QUARANTINE_AGE_MAX`] at this time of Microsoft's.
pub(super) fn expire(working_dir: &Path, now: Timestamp) {
    let folder = working_dir.join(FOLDER_NAME);
    let expired = || -> io::Result<usize> {
        let groups = groups(&folder)?;
        let is_old = |files: &&Files| now.duration_since(files.time) > QUARANTINE_AGE_MAX;
        groups.iter().filter(is_old).try_fold(0, |count, files| files.remove().map(|()| count + 1))
    };
    match expired() {
        Ok(0) => {}
        Ok(count) => {
            let days = QUARANTINE_AGE_MAX.as_hours() / 24;
            log::info!("Removed {count} bodies from {}: they were there for {days} days", folder.display());
        }
        Err(error) => log::warn!("{} cannot be cleaned up: {error}; check the folder", folder.display()),
    }
}

/// Removes the oldest blobs until the others take at most so many bytes. The newest one stays in any case.
fn remove_oldest(folder: &Path, bytes_max: u64) -> io::Result<()> {
    let groups = groups(folder)?;
    let mut bytes: u64 = groups.iter().map(|files| files.bytes).sum();
    let others = groups.len().saturating_sub(1);
    let mut removed = 0;
    for files in groups.iter().take(others).take_while(|files| {
        let is_over = bytes > bytes_max;
        bytes -= files.bytes;
        is_over
    }) {
        files.remove()?;
        removed += 1;
    }
    if removed > 0 {
        log::warn!(
            "Removed the {removed} oldest bodies from {}: it holds at most {} MiB; move the files elsewhere, or remove \
             them once they are dealt with",
            folder.display(),
            bytes_max / (1024 * 1024)
        );
    }
    Ok(())
}

/// The files of each blob, oldest blob first.
fn groups(folder: &Path) -> io::Result<Vec<Files>> {
    let mut groups: BTreeMap<PathBuf, Files> = BTreeMap::new();
    for path in paths(folder)? {
        let metadata = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue, // removed by the administrator
            metadata => metadata?,
        };
        if !metadata.is_file() {
            continue;
        }
        let line = has_extension(&path, LINE).then(|| fs::read(&path)).transpose()?;
        let entry = line.and_then(|line| serde_json::from_slice::<Entry>(&line).ok());
        let changed = metadata.modified().ok().and_then(|time| Timestamp::try_from(time).ok());
        let files = groups.entry(path.with_extension("")).or_default();
        files.bytes += metadata.len();
        if let Some(entry) = entry {
            files.time = entry.time;
        } else if files.paths.is_empty() {
            files.time = changed.unwrap_or_default();
        }
        files.paths.push(path);
    }
    let mut groups: Vec<_> = groups.into_values().collect();
    groups.sort_by_key(|files| files.time);
    Ok(groups)
}

/// The files in the folder, in the order of their names; none if there is no folder.
fn paths(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut paths: Vec<_> =
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<_>>()?;
    paths.sort();
    Ok(paths)
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}

impl Files {
    fn remove(&self) -> io::Result<()> {
        self.paths.iter().try_for_each(fs::remove_file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::ContentType;

    fn key(number: usize) -> BlobKey {
        BlobKey::new(
            "11111111-1111-4111-8111-111111111111",
            ContentType::AuditGeneral,
            &format!("blob${number}"),
        )
    }

    fn entry(number: usize) -> Entry {
        let created: Timestamp = "2026-11-22T10:00:00Z".parse().expect("a time of the test");
        let time = created + jiff::SignedDuration::from_hours(i64::try_from(number).expect("a few"));
        Entry {
            time,
            tenant_id: "11111111-1111-4111-8111-111111111111".to_owned(),
            content_type: ContentType::AuditGeneral.name().to_owned(),
            content_id: format!("blob${number}"),
            content_created: created,
            content_expiration: "2026-11-29T10:00:00Z".to_owned(),
            cause: "the answer is cut short".to_owned(),
            bytes: 1_000,
            bytes_encoded: None,
            records_delivered: 3,
            records_duplicate: 0,
            records_filtered: 0,
            elements_not_objects: 0,
            places_broken: 1,
            is_cut_short: true,
        }
    }

    #[test]
    fn what_is_added_is_read_and_replaced_by_the_same_blob() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(read(folder.path()).expect("nothing yet"), []);
        assert_eq!(size(folder.path()).expect("nothing yet"), (0, 0));
        for number in [2, 1, 2] {
            add(folder.path(), key(number), &entry(number), &[b'['; 1_000], None).expect("room");
        }
        let there = read(folder.path()).expect("a folder");
        let entries: Vec<_> = there.iter().map(|quarantined| quarantined.entry.clone()).collect();
        assert_eq!(entries, [entry(1), entry(2)]);
        assert_eq!(fs::read(&there[0].body).expect("a body").len(), 1_000);
        assert_eq!(size(folder.path()).expect("a folder").0, 2);
    }

    #[test]
    fn the_oldest_go_when_they_take_too_much_or_are_too_old() {
        let folder = tempfile::tempdir().expect("a folder");
        let quarantine = folder.path().join(FOLDER_NAME);
        let ids = || {
            let there = read(folder.path()).expect("a folder");
            there.into_iter().map(|quarantined| quarantined.entry.content_id).collect::<Vec<_>>()
        };
        for number in 0..4 {
            add(folder.path(), key(number), &entry(number), &[b'['; 1_000], None).expect("room");
        }
        let (_, bytes) = size(folder.path()).expect("a folder");
        remove_oldest(&quarantine, bytes).expect("a folder");
        assert_eq!(ids().len(), 4);
        remove_oldest(&quarantine, bytes - 1).expect("a folder");
        assert_eq!(ids(), ["blob$1", "blob$2", "blob$3"]);
        remove_oldest(&quarantine, 0).expect("a folder");
        assert_eq!(ids(), ["blob$3"], "the newest one stays");
        let at_its_end = entry(3).time + QUARANTINE_AGE_MAX;
        expire(folder.path(), at_its_end);
        assert_eq!(ids().len(), 1);
        expire(folder.path(), at_its_end + jiff::SignedDuration::from_secs(1));
        assert_eq!(size(folder.path()).expect("a folder"), (0, 0));
    }
}
