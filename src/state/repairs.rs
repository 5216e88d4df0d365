//! `repairs`: the records that `verify --repair` has found missing in the files of `output.file`.
//!
//! A blob that was delivered, but of which records are missing in the files, becomes pending again. This file names its
//! missing records, so that the next pass writes these to the file and no others, whether or not their Ids are remembered.
//!
//! Lines of JSON, of which the first one is the version. An entry is dropped when its blob is no longer pending.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    fs::{self, File},
    io::{self, BufRead, BufReader},
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::{BlobKey, RecordKey, StateError};
use crate::{
    delivery::{OutputName, OutputSet},
    disk::{self, FileContext},
    feed::ContentType,
    limits::STATE_BUFFER_BYTES,
};

/// The file's name in `workingDir`.
pub const FILE_NAME: &str = "repairs";

const VERSION: u32 = 1;

/// The missing records of a blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Repair {
    /// The tenant's id.
    pub tenant_id: String,
    /// The feed of the blob.
    pub content_type: ContentType,
    /// The id of the blob.
    pub content_id: String,
    /// The output in whose files they are missing.
    pub output: OutputName,
    /// The keys of the missing records ([`crate::records::Fingerprint::key`]); a key that is missing twice is in it twice.
    pub missing: Vec<RecordKey>,
}

/// The missing records of one blob that are not written yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MissingRecords {
    /// The outputs in whose files they are missing.
    outputs: OutputSet,
    /// Each key, and how many records with it.
    counts: HashMap<u128, u32>,
}

impl MissingRecords {
    /// Returns the outputs of which the missing records are known: they get these and no others.
    pub fn outputs(&self) -> OutputSet {
        self.outputs
    }

    /// Removes a record. Returns whether it is missing.
    pub fn remove(&mut self, key: u128) -> bool {
        let Some(count) = self.counts.get_mut(&key).filter(|count| **count > 0) else { return false };
        *count -= 1;
        true
    }
}

/// The entries of the file.
#[derive(Debug, Default)]
pub(super) struct Repairs(Vec<Repair>);

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Line<'a> {
    Version(u32),
    Repair(Cow<'a, Repair>),
}

impl Repairs {
    /// Reads the file. A damaged line is reported and ignored: its blob's remembered Ids decide what is delivered.
    pub fn read(working_dir: &Path) -> Result<Self, StateError> {
        let path = working_dir.join(FILE_NAME);
        let Some(file) = disk::none_if_missing(File::open(&path)).context("read", &path)? else {
            return Ok(Self::default());
        };
        let mut repairs = Vec::new();
        for line in BufReader::with_capacity(STATE_BUFFER_BYTES, file).split(b'\n') {
            let line = line.context("read", &path)?;
            match serde_json::from_slice(&line) {
                Ok(Line::Version(VERSION)) => {}
                Ok(Line::Repair(repair)) => repairs.push(repair.into_owned()),
                _ => log::warn!("{} has a damaged line, which is ignored; run verify again", path.display()),
            }
        }
        Ok(Self(repairs))
    }

    /// Replaces the file; removes it if there are no entries.
    pub fn write(&self, working_dir: &Path) -> Result<(), StateError> {
        let path = working_dir.join(FILE_NAME);
        if self.0.is_empty() {
            let removed = disk::none_if_missing(fs::remove_file(&path));
            return Ok(removed.map(drop).context("remove", &path)?);
        }
        let write = |to: &mut dyn io::Write| {
            for line in std::iter::once(Line::Version(VERSION))
                .chain(self.0.iter().map(|repair| Line::Repair(Cow::Borrowed(repair))))
            {
                serde_json::to_writer(&mut *to, &line)?;
                to.write_all(b"\n")?;
            }
            Ok(())
        };
        Ok(disk::replace(&path, 0o600, write, |_| Ok(())).map(drop).context("write", &path)?)
    }

    /// Adds entries. Each replaces the entry of the same blob.
    pub fn extend(&mut self, added: Vec<Repair>) {
        let replaced: HashSet<_> = added.iter().map(Repair::key).collect();
        self.0.retain(|repair| !replaced.contains(&repair.key()));
        self.0.extend(added);
    }

    /// Drops the entries of blobs for which `is_pending` returns `false`. Returns whether there were any.
    pub fn retain(&mut self, is_pending: impl Fn(BlobKey) -> bool) -> bool {
        let before = self.0.len();
        self.0.retain(|repair| is_pending(repair.key()));
        self.0.len() < before
    }

    /// Returns the missing records of each blob.
    pub fn by_blob(self) -> HashMap<BlobKey, MissingRecords> {
        let mut by_blob: HashMap<_, MissingRecords> = HashMap::new();
        for repair in self.0 {
            let missing = by_blob.entry(repair.key()).or_default();
            missing.outputs = missing.outputs.with(repair.output);
            for RecordKey(key) in repair.missing {
                *missing.counts.entry(key).or_default() += 1;
            }
        }
        by_blob
    }
}

impl Repair {
    fn key(&self) -> BlobKey {
        BlobKey::new(&self.tenant_id, self.content_type, &self.content_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repair(content_id: &str, missing: &[u128]) -> Repair {
        Repair {
            tenant_id: "11111111-1111-4111-8111-111111111111".to_owned(),
            content_type: ContentType::AuditExchange,
            content_id: content_id.to_owned(),
            output: OutputName::File,
            missing: missing.iter().copied().map(RecordKey).collect(),
        }
    }

    #[test]
    fn reads_what_it_writes_and_ignores_damaged_lines() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(FILE_NAME);
        let mut repairs = Repairs::default();
        repairs.extend(vec![repair("a", &[1, 2, 2]), repair("b", &[])]);
        repairs.extend(vec![repair("b", &[3])]);
        repairs.write(folder.path()).expect("room");
        let mut text = fs::read_to_string(&path).expect("a file");
        text.push_str("{\"repair\":{\"tenantId\":\n");
        fs::write(&path, text).expect("room");
        let mut read = Repairs::read(folder.path()).expect("a file");
        assert_eq!(read.0, [repair("a", &[1, 2, 2]), repair("b", &[3])]);

        let key = repair("a", &[]).key();
        assert!(read.retain(|of| of == key) && !read.retain(|_| true));
        let mut missing = read.by_blob().remove(&key).expect("an entry");
        assert_eq!(
            [1, 1, 2, 2, 2, 3].map(|key| missing.remove(key)),
            [true, false, true, true, false, false]
        );

        Repairs::default().write(folder.path()).expect("a folder");
        assert!(!path.exists());
    }
}
