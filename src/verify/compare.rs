//! The comparison of the records that Microsoft serves with those in files.
//!
//! Both sides are written to files without a name, in parts by the record's key, and then compared part by part. So memory
//! does not grow with the number of records: fifty million of them need 2.4 GB of disk and less than 100 MB of memory.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{self, BufWriter, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;

use crate::{
    csv,
    delivery::OutputName,
    disk::FileContext,
    output::{DeliveryError, Flushed, OnOpen, Output, OutputError, Source},
    records::{Fingerprint, RecordBatch},
    state::BlobKey,
};

/// The number of parts that each side is written in.
const PARTS: usize = 64;

/// The maximum number of missing records that are remembered one by one, which a repair needs: 32 MB.
pub const MISSING_MAX: usize = 1_000_000;

const PART_BUFFER_BYTES: usize = 32 * 1024;

/// The number of records that are found too often and whose places are remembered.
const REPEATED_SHOWN_MAX: usize = 20;

/// A blob whose records are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ComparedBlob {
    /// The index of its tenant.
    pub tenant: usize,
    /// When it became available.
    pub created: Timestamp,
}

/// The result for one blob, in numbers of records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Different records that Microsoft serves. A record that it serves again within `dedupHours` counts once; one without an
    /// `Id` counts each time.
    pub served: u64,
    /// Those of them that are in no file.
    pub missing: u64,
    /// Those of them that are in the files more often than they were served.
    pub repeated: u64,
}

/// The result of the comparison.
#[derive(Debug, Default)]
pub struct Comparison {
    /// For each blob. A record with an `Id` that several blobs contain is counted for the oldest of them.
    pub blobs: Vec<Counts>,
    /// The missing records: the index of the blob and the key of the record, at most [`MISSING_MAX`].
    pub missing: Vec<(usize, u128)>,
    /// Records that are in the files too often: the index of the blob and the key of the record.
    pub repeated: Vec<(usize, u128)>,
}

/// An output that keeps the fingerprint of each record for the comparison.
pub struct Collector {
    blobs: HashMap<BlobKey, u32>,
    served: Arc<Mutex<Spill>>,
    folder: PathBuf,
}

/// The records that Microsoft serves.
pub struct Served(Arc<Mutex<Spill>>);

/// The records in the files.
pub struct Found(Spill);

impl Collector {
    /// Returns the output, for blobs with these indexes, and what it collects. `folder` gets files without a name.
    ///
    /// # Errors
    ///
    /// No file can be created there.
    pub fn new(blobs: HashMap<BlobKey, u32>, folder: &Path) -> io::Result<(Self, Served)> {
        let served = Arc::new(Mutex::new(Spill::new(folder)?));
        Ok((Self { blobs, served: Arc::clone(&served), folder: folder.to_owned() }, Served(served)))
    }
}

impl Output for Collector {
    fn name(&self) -> OutputName {
        OutputName::File
    }

    fn write(
        &mut self,
        source: &Source<'_>,
        records: &RecordBatch,
        _on_open: &mut OnOpen<'_>,
    ) -> Result<(), DeliveryError> {
        let key = BlobKey::new(source.tenant_id, source.content_type, source.content_id);
        let Some(&blob) = self.blobs.get(&key) else { return Ok(()) };
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        for record in records.iter() {
            let Fingerprint { key, tenant_name } = csv::fingerprint_of(record.line());
            let written = served.push(Entry { key, tenant_name, blob });
            written.context("write to a file in", &self.folder).map_err(OutputError::from)?;
        }
        Ok(())
    }

    fn flush(&mut self, _on_open: &mut OnOpen<'_>) -> Result<Flushed, DeliveryError> {
        Ok(Flushed::default())
    }

    fn check(&mut self) -> Result<&'static str, OutputError> {
        Ok("collects fingerprints")
    }

    fn check_offline(&mut self) -> Result<Option<&'static str>, OutputError> {
        self.check().map(Some)
    }
}

impl Found {
    /// Returns no records yet. `folder` gets files without a name.
    ///
    /// # Errors
    ///
    /// No file can be created there.
    pub fn new(folder: &Path) -> io::Result<Self> {
        Ok(Self(Spill::new(folder)?))
    }

    /// Adds a record.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn push(&mut self, record: Fingerprint) -> io::Result<()> {
        self.0.push(Entry { key: record.key, tenant_name: record.tenant_name, blob: 0 })
    }
}

/// What the comparison knows of the configuration.
#[derive(Debug)]
pub struct Rules {
    /// `dedupHours`
    pub dedup: Duration,
    /// The hashes of the names of all tenants of the configuration ([`Fingerprint::of_tenant_name`]).
    pub tenant_names: HashSet<u64>,
}

/// Compares both sides. A record with an `Id` may be in the files again for each blob that became available more than
/// `dedupHours` after the one before; it has to be there for each blob if `dedupHours` is zero or the record has no `Id`.
///
/// # Errors
///
/// The files without a name cannot be read.
pub fn compare(
    served: Served,
    found: Found,
    blobs: &[ComparedBlob],
    rules: &Rules,
) -> io::Result<Comparison> {
    let mut comparison = Comparison { blobs: vec![Counts::default(); blobs.len()], ..Comparison::default() };
    let Served(served) = served;
    let mut served = served.lock().unwrap_or_else(PoisonError::into_inner);
    let Found(mut found) = found;
    for part in 0..PARTS {
        let mut served = served.read(part)?;
        let place = |entry: &Entry| &blobs[entry.blob as usize];
        served.sort_unstable_by_key(|it| (it.key, place(it).tenant, place(it).created, it.blob));
        let mut found = found.read(part)?;
        found.sort_unstable_by_key(|entry| (entry.key, entry.tenant_name));
        let mut found = found.as_slice();
        for copies in served.chunk_by(|one, other| one.key == other.key) {
            let key = copies[0].key;
            found = &found[found.partition_point(|entry| entry.key < key)..];
            let (of_key, rest) = found.split_at(found.partition_point(|entry| entry.key == key));
            found = rest;
            comparison.add(key, copies, of_key, blobs, rules);
        }
    }
    Ok(comparison)
}

/// What is expected of a record in one tenant, and what was found.
struct Expected<'a> {
    /// How often it was served, from the oldest blob to the newest.
    servings: &'a [Entry],
    min: usize,
    max: usize,
    found: usize,
}

impl Comparison {
    /// Compares the copies of one record, in any number of tenants.
    fn add(&mut self, key: u128, served: &[Entry], found: &[Entry], blobs: &[ComparedBlob], rules: &Rules) {
        let (dedup, has_id) = (rules.dedup, Fingerprint::has_id(key));
        let place = |entry: &Entry| &blobs[entry.blob as usize];
        let mut tenants: Vec<_> = served
            .chunk_by(|one, other| place(one).tenant == place(other).tenant)
            .map(|servings| {
                let may_repeat = !has_id || dedup.is_zero();
                let max = if may_repeat { servings.len() } else { separate(servings, blobs, dedup) };
                Expected { servings, min: if may_repeat { max } else { 1 }, max, found: 0 }
            })
            .collect();
        let mut left: Vec<(u64, usize)> = found
            .chunk_by(|one, other| one.tenant_name == other.tenant_name)
            .map(|copies| (copies[0].tenant_name, copies.len()))
            .collect();
        let has_name = |tenant: &Expected<'_>, name| tenant.servings.iter().any(|it| it.tenant_name == name);
        for tenant in &mut tenants {
            for (name, count) in &mut left {
                if has_name(tenant, *name) {
                    tenant.receive(count, tenant.max);
                }
            }
        }
        // The tenant may have had another name when the record was delivered, but not that of another tenant.
        for tenant in &mut tenants {
            for (_, count) in left.iter_mut().filter(|(name, _)| !rules.tenant_names.contains(name)) {
                tenant.receive(count, tenant.min);
            }
        }
        for tenant in &tenants {
            let missing = tenant.min.saturating_sub(tenant.found);
            for (number, serving) in tenant.servings.iter().take(tenant.min).enumerate() {
                let blob = serving.blob as usize;
                self.blobs[blob].served += 1;
                if number < missing {
                    self.blobs[blob].missing += 1;
                    if self.missing.len() < MISSING_MAX {
                        self.missing.push((blob, key));
                    }
                }
            }
            // A copy with the name of none of these tenants may be of a tenant that is not verified. One without an Id may be
            // another record, of a blob that is not compared.
            let is_left = |(name, count): &(u64, usize)| *count > 0 && has_name(tenant, *name);
            if has_id && left.iter().any(is_left) {
                let blob = tenant.servings[0].blob as usize;
                self.blobs[blob].repeated += 1;
                if self.repeated.len() < REPEATED_SHOWN_MAX {
                    self.repeated.push((blob, key));
                }
            }
        }
    }
}

impl Expected<'_> {
    /// Accepts copies that were found, until there are `wanted`.
    fn receive(&mut self, copies: &mut usize, wanted: usize) {
        let accepted = wanted.saturating_sub(self.found).min(*copies);
        self.found += accepted;
        *copies -= accepted;
    }
}

/// Returns how often a record may be delivered that was served in these blobs, from the oldest to the newest.
fn separate(servings: &[Entry], blobs: &[ComparedBlob], dedup: Duration) -> usize {
    // The time for which an Id is remembered is rounded to hours.
    let apart = dedup.saturating_sub(Duration::from_secs(60 * 60));
    let (mut count, mut last) = (1, blobs[servings[0].blob as usize].created);
    for serving in servings {
        let created = blobs[serving.blob as usize].created;
        if created >= last.saturating_add(apart).unwrap_or(Timestamp::MAX) && created > last {
            (count, last) = (count + 1, created);
        }
    }
    count
}

/// A record on one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    key: u128,
    tenant_name: u64,
    /// The index of the blob that serves it; zero for a record in a file.
    blob: u32,
}

impl Entry {
    const BYTES: usize = 28;

    fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..16].copy_from_slice(&self.key.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.tenant_name.to_le_bytes());
        bytes[24..].copy_from_slice(&self.blob.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let (key, rest) = bytes.split_first_chunk().expect("28 bytes");
        let (tenant_name, rest) = rest.split_first_chunk().expect("12 bytes");
        let blob = rest.first_chunk().expect("4 bytes");
        Self {
            key: u128::from_le_bytes(*key),
            tenant_name: u64::from_le_bytes(*tenant_name),
            blob: u32::from_le_bytes(*blob),
        }
    }
}

/// Records of one side, in files without a name, in parts by their key.
struct Spill {
    parts: Vec<BufWriter<File>>,
}

impl Spill {
    fn new(folder: &Path) -> io::Result<Self> {
        let parts = (0..PARTS)
            .map(|_| Ok(BufWriter::with_capacity(PART_BUFFER_BYTES, tempfile::tempfile_in(folder)?)));
        Ok(Self { parts: parts.collect::<io::Result<_>>()? })
    }

    fn push(&mut self, entry: Entry) -> io::Result<()> {
        // The lowest bit is set if the record has an Id; the others are those of a hash.
        self.parts[(entry.key >> 1) as usize % PARTS].write_all(&entry.to_bytes())
    }

    /// Reads a part.
    fn read(&mut self, part: usize) -> io::Result<Vec<Entry>> {
        let file = &mut self.parts[part];
        file.flush()?;
        let file = file.get_mut();
        file.seek(SeekFrom::Start(0))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes.as_chunks().0.iter().map(Entry::from_bytes).collect())
    }
}
