//! `quarantine/`: the bodies of blobs that could be delivered in part only, or not at all.
//!
//! Two files per blob, named after a hash of its identity, so that a blob that is salvaged again replaces its own files:
//! `….body`, the body as it arrived, decompressed as far as possible, and `….json`, one line of JSON ([`Entry`]). A body
//! that cannot be decompressed to its end has a third one: `….encoded`, the body before decompression. All are durable
//! before the blob is known. The line is written last, so there is no line without a body.
//!
//! No pass uses these files. The administrator may remove them at any time. A pass removes the oldest ones when the folder
//! has more than `BYTES_MAX`, and those that are older than `AGE_MAX`.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{BlobKey, StateError};
use crate::disk::{self, FileContext};

/// The folder's name in `workingDir`.
pub const FOLDER_NAME: &str = "quarantine";

/// The maximum size of all files together.
const BYTES_MAX: u64 = 256 * 1024 * 1024;

/// The age at which files are removed.
const AGE_MAX: SignedDuration = SignedDuration::from_hours(90 * 24);

const BODY: &str = "body";
const ENCODED: &str = "encoded";
const LINE: &str = "json";

/// The description of a blob in quarantine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// When the blob was put into quarantine; not before it became available, even if this machine's clock is wrong.
    pub time: Timestamp,
    /// The tenant's GUID.
    pub tenant_id: String,
    /// The API's name of the feed.
    pub content_type: String,
    /// The blob's id.
    pub content_id: String,
    /// When the blob became available.
    pub content_created: Timestamp,
    /// Until when the blob can be fetched, as the API wrote it.
    pub content_expiration: String,
    /// Why the body cannot be read as a whole.
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
    /// Places of the body that are not valid JSON in UTF-8; each has cost at least one record.
    pub places_broken: u64,
    /// Whether the end of the body is missing.
    pub is_cut_short: bool,
}

/// A blob in quarantine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// The description of the blob.
    pub entry: Entry,
    /// The file with the body.
    pub body: PathBuf,
}

/// The files of a blob.
#[derive(Debug, Default)]
struct Files {
    paths: Vec<PathBuf>,
    bytes: u64,
    /// `None` if the line was not written or cannot be read.
    entry: Option<Entry>,
    /// The time of the entry, otherwise the modification time of a file.
    time: Timestamp,
}

/// Puts a blob into quarantine, durably. Returns the file with its body.
pub(super) fn add(
    working_dir: &Path,
    key: BlobKey,
    entry: &Entry,
    body: &[u8],
    encoded: Option<&[u8]>,
) -> Result<PathBuf, StateError> {
    let folder = working_dir.join(FOLDER_NAME);
    disk::create_folder(&folder, 0o700).context("create the folder", &folder)?;
    let line = serde_json::to_string(entry).expect("what is written is text, numbers and times") + "\n";
    let path = |extension: &str| folder.join(key.to_string()).with_extension(extension);
    let replace = |extension: &str, bytes: &[u8]| {
        let path = path(extension);
        disk::replace_with(&path, 0o600, bytes).context("write", &path)?;
        Ok::<_, StateError>(path)
    };
    match encoded {
        Some(encoded) => drop(replace(ENCODED, encoded)?),
        None => {
            // An earlier salvage of the blob can have left one. If it stays, it is harmless.
            let _ = fs::remove_file(path(ENCODED));
        }
    }
    let body = replace(BODY, body)?;
    replace(LINE, line.as_bytes())?;
    if let Err(error) = remove_oldest(&folder, BYTES_MAX) {
        log::warn!("{} cannot be kept within its bound: {error}; check the folder", folder.display());
    }
    Ok(body)
}

/// Returns the blobs in quarantine, oldest first, without those whose line cannot be read.
pub fn read(working_dir: &Path) -> Result<Vec<Quarantined>, StateError> {
    let folder = working_dir.join(FOLDER_NAME);
    let blobs = blobs(&folder).context("read", &folder)?;
    let quarantined = blobs.into_iter().filter_map(|files| {
        Some(Quarantined { entry: files.entry?, body: files.paths.first()?.with_extension(BODY) })
    });
    Ok(quarantined.collect())
}

/// Returns the number of blobs in quarantine, and the size of their files in bytes.
pub fn size(working_dir: &Path) -> io::Result<(u64, u64)> {
    let blobs = blobs(&working_dir.join(FOLDER_NAME))?;
    Ok((blobs.len() as u64, blobs.iter().map(|files| files.bytes).sum()))
}

/// Removes the files that are older than [`AGE_MAX`] at this time of Microsoft's clock.
pub(super) fn expire(working_dir: &Path, now: Timestamp) {
    let folder = working_dir.join(FOLDER_NAME);
    let expired = || -> io::Result<usize> {
        let blobs = blobs(&folder)?;
        let is_old = |files: &&Files| now.duration_since(files.time) > AGE_MAX;
        blobs.iter().filter(is_old).try_fold(0, |count, files| files.remove().map(|()| count + 1))
    };
    match expired() {
        Ok(0) => {}
        Ok(count) => {
            let days = AGE_MAX.as_hours() / 24;
            log::info!("Removed {count} bodies from {}: they were there for {days} days", folder.display());
        }
        Err(error) => log::warn!("{} cannot be cleaned up: {error}; check the folder", folder.display()),
    }
}

/// Removes the oldest blobs until the files of the others have at most this size. The newest blob always stays.
fn remove_oldest(folder: &Path, bytes_max: u64) -> io::Result<()> {
    let blobs = blobs(folder)?;
    let mut bytes: u64 = blobs.iter().map(|files| files.bytes).sum();
    let mut removed = 0;
    while bytes > bytes_max && removed + 1 < blobs.len() {
        blobs[removed].remove()?;
        bytes -= blobs[removed].bytes;
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

/// Returns the files of each blob, oldest blob first; none if there is no folder.
fn blobs(folder: &Path) -> io::Result<Vec<Files>> {
    let mut blobs: BTreeMap<PathBuf, Files> = BTreeMap::new();
    for file in disk::none_if_missing(fs::read_dir(folder))?.into_iter().flatten() {
        let path = file?.path();
        // The administrator may remove a file at any time.
        let Some(metadata) = disk::none_if_missing(fs::symlink_metadata(&path))? else { continue };
        if !metadata.is_file() {
            continue;
        }
        let files = blobs.entry(path.with_extension("")).or_default();
        files.bytes += metadata.len();
        if path.extension().is_some_and(|extension| extension == LINE) {
            files.entry = fs::read(&path).ok().and_then(|line| serde_json::from_slice(&line).ok());
        }
        let modified = metadata.modified().ok().and_then(|time| Timestamp::try_from(time).ok());
        files.time = files.entry.as_ref().map_or(modified.unwrap_or_default(), |entry| entry.time);
        files.paths.push(path);
    }
    let mut blobs: Vec<_> = blobs.into_values().collect();
    blobs.sort_by_key(|files| files.time);
    Ok(blobs)
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
    fn adding_a_blob_again_replaces_its_files() {
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
    fn removes_the_oldest_blobs_beyond_maximum_size_or_age() {
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
        let at_its_end = entry(3).time + AGE_MAX;
        expire(folder.path(), at_its_end);
        assert_eq!(ids().len(), 1);
        expire(folder.path(), at_its_end + jiff::SignedDuration::from_secs(1));
        assert_eq!(size(folder.path()).expect("a folder"), (0, 0));
    }
}
