//! `verify`: compares what Microsoft lists with what was delivered.
//!
//! 1. **Ledger**: each feed is listed, and each listed blob is looked up in the state.
//! 2. **Content** (`--content`): the delivered blobs are downloaded again, and each of their records is looked for in the
//!    output files.
//! 3. **Repair** (`--repair`): blobs that are unknown, and those with missing records, become pending, and the state
//!    records which of their records are missing. The next pass delivers these.
//!
//! Without `--repair` nothing is changed and no lock is held, so that a pass may run at the same time. The order of reading
//! keeps the result right: the state is read before the feeds are listed, and again afterwards; files are read last.

mod compare;
mod files;
mod ledger;
mod report;

use std::{
    collections::{HashMap, HashSet},
    env, io,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;

use crate::{
    clock::Clock,
    config::{Config, Tenant},
    delivery::{OutputName, OutputSet, PendingBlob},
    disk::{FileContext, FileError},
    error::Explain,
    feed::ContentType,
    output,
    pass::{self, PassError},
    records::Fingerprint,
    report::Summary,
    state::{self, BlobKey, Ledger, Progress, RecordKey, Repair, Snapshot, StateError, quarantine::Entry},
};
use compare::{Collector, ComparedBlob, Comparison, Found, Rules};
use files::OutputFiles;
use ledger::{BlobState, Listing};
use report::Repaired;
pub use report::Report;

/// What is verified.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// The period before now.
    pub period: Duration,
    /// Whether the records are compared with files.
    pub content: bool,
    /// Patterns for the files; if there are none, those of `output.file`.
    pub files: &'a [String],
    /// Whether the next pass delivers what is missing.
    pub repair: bool,
    /// Whether a progress bar is shown, if standard error is a terminal.
    pub show_progress: bool,
}

/// An error that keeps `verify` from a result.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The blobs cannot be listed or downloaded.
    #[error(transparent)]
    Pass(#[from] PassError),
    /// A file cannot be read, or no room is left for the comparison.
    #[error(transparent)]
    File(#[from] FileError),
    /// There are no files to compare with.
    #[error("there are no files to compare the records with: the configuration has no output.file")]
    NoFiles,
}

impl Explain for VerifyError {
    fn hint(&self) -> &str {
        match self {
            Self::Pass(error) => error.hint(),
            Self::File(error) => error.hint(),
            Self::NoFiles => "name them with --files, or leave out --content",
        }
    }
}

impl From<StateError> for VerifyError {
    fn from(error: StateError) -> Self {
        Self::Pass(error.into())
    }
}

/// Compares what Microsoft lists for these tenants with what was delivered.
///
/// A feed that cannot be listed, or a blob that cannot be downloaded, is not an error but a part of the report.
///
/// # Errors
///
/// The state or the files cannot be read, another pass holds the lock (`--repair`), or there are no files to compare with.
pub fn run(config: &Config, tenants: &[Tenant], options: &Options<'_>) -> Result<Report, VerifyError> {
    // A time limit is for passes, which leave the rest to the next one.
    let mut config = config.clone();
    config.collect.global_timeout = None;
    let (config, working_dir) = (&config, &*config.collect.working_dir);
    let until = Timestamp::now();
    let mut report = Report::new(until - options.period, until, tenants);

    let (locked, before) = if options.repair { lock(config)? } else { (None, Snapshot::read(working_dir)?) };
    let quarantined = quarantined_blobs(working_dir)?;
    let mut listing = Listing::default();
    let summary = pass::list(config, tenants.to_vec(), options.period, &mut |tenant, content_type, blob| {
        listing.add(tenant, content_type, blob);
    })?;
    report.add_summary(&summary);
    if summary.stop.is_some() {
        return Ok(report);
    }
    let after = if options.repair { None } else { Some(Snapshot::read(working_dir)?) };
    let states = listing.look_up(&before, after.as_ref(), &quarantined)?;
    report.add_ledger(&listing, &states);

    let mut comparison = None;
    if options.content || options.repair && config.output.file.is_some() {
        let is_compared = |state: &BlobState| match state {
            BlobState::Known => true,
            BlobState::Unknown => options.repair,
            _ => false,
        };
        let compared = Compared::run(config, tenants, options, &listing, |blob| is_compared(&states[blob]))?;
        report.add_content(&listing, &compared, &before.progress);
        if compared.stopped.is_some() {
            return Ok(report);
        }
        comparison = Some(compared);
    }
    if let Some(ledger) = locked {
        let repaired = repair(config, ledger, before.progress, &listing, &states, comparison.as_ref())?;
        report.add_repair(repaired);
    }
    Ok(report)
}

/// Locks the state as a pass does, and completes what an interrupted pass has left undone.
fn lock(config: &Config) -> Result<(Option<Ledger>, Snapshot), VerifyError> {
    let collect = &config.collect;
    let (ledger, known, progress) =
        state::open(&collect.working_dir, collect.dedup_hours, &Clock::start(), output::recover)?;
    Ok((Some(ledger), Snapshot { known, progress }))
}

fn has_files(config: &Config, options: &Options<'_>) -> bool {
    config.output.file.is_some() || !options.files.is_empty()
}

fn quarantined_blobs(working_dir: &Path) -> Result<HashSet<BlobKey>, StateError> {
    let quarantined = state::quarantine::read(working_dir)?;
    let key = |entry: &Entry| {
        let content_type = ContentType::from_name(&entry.content_type)?;
        Some(BlobKey::new(&entry.tenant_id, content_type, &entry.content_id))
    };
    Ok(quarantined.iter().filter_map(|quarantined| key(&quarantined.entry)).collect())
}

/// The comparison of records with files.
struct Compared {
    /// The names of the files, and what was read of each.
    files: Vec<(PathBuf, files::FileContents)>,
    /// The files that cannot be opened, and why.
    unreadable: Vec<(PathBuf, String)>,
    /// For each compared blob: its index in the listing.
    blobs: Vec<usize>,
    comparison: Comparison,
    /// The places of records that are in the files too often: the index of the compared blob, the file and the line.
    places: Vec<(usize, PathBuf, u64)>,
    /// What was downloaded.
    summary: Summary,
    stopped: Option<crate::report::Stop>,
}

impl Compared {
    /// Downloads the blobs for which `is_compared` returns `true`, and looks for their records in the files.
    fn run(
        config: &Config,
        tenants: &[Tenant],
        options: &Options<'_>,
        listing: &Listing,
        is_compared: impl Fn(usize) -> bool,
    ) -> Result<Self, VerifyError> {
        if !has_files(config, options) {
            return Err(VerifyError::NoFiles);
        }
        let blobs: Vec<usize> = (0..listing.blobs.len()).filter(|&blob| is_compared(blob)).collect();
        let folder = scratch_folder(&config.collect.working_dir);
        let scratch = |error| FileError::new("create a file in", &folder, error);
        let indexes = blobs.iter().zip(0_u32..).map(|(&blob, index)| (listing.key(blob), index));
        let (collector, served) = Collector::new(indexes.collect(), &folder).map_err(scratch)?;
        let pending = |&blob: &usize| (listing.feed_id(blob), pending(listing, blob, OutputSet::EMPTY));
        let pending = blobs.iter().map(pending).collect();
        let fetched =
            pass::fetch(config, tenants.to_vec(), pending, Box::new(collector), options.show_progress)?;
        let mut compared = Self {
            files: Vec::new(),
            unreadable: Vec::new(),
            comparison: Comparison::default(),
            places: Vec::new(),
            stopped: fetched.summary.stop,
            summary: fetched.summary,
            blobs,
        };
        if let Some(error) = fetched.failures.into_iter().next() {
            return Err(
                FileError::new("write to a file in", &folder, io::Error::other(error.explain())).into()
            );
        }
        if compared.stopped.is_some() {
            return Ok(compared);
        }
        let mut files = open_files(config, options)?;
        let mut found = Found::new(&folder).map_err(scratch)?;
        let contents = files
            .read(&mut |record, _, _| found.push(record))
            .map_err(|error| FileError::new("write to a file in", &folder, error))?;
        let details: Vec<_> = compared
            .blobs
            .iter()
            .map(|&blob| {
                let listed = &listing.blobs[blob];
                ComparedBlob { tenant: listing.feeds[listed.feed].tenant, created: listed.blob.created }
            })
            .collect();
        let names = config.tenants.iter().filter_map(|tenant| tenant.name.as_deref());
        let rules = Rules {
            dedup: config.collect.dedup_hours,
            tenant_names: names.map(Fingerprint::of_tenant_name).collect(),
        };
        compared.comparison = compare::compare(served, found, &details, &rules)
            .map_err(|error| FileError::new("read a file in", &folder, error))?;
        compared.find_places(&mut files);
        compared.files = files.paths().map(Path::to_owned).zip(contents).collect();
        compared.unreadable = files.unreadable;
        Ok(compared)
    }

    /// Finds the lines of the records that are in the files too often.
    fn find_places(&mut self, files: &mut OutputFiles) {
        let repeated: HashMap<u128, usize> =
            self.comparison.repeated.iter().map(|&(blob, key)| (key, blob)).collect();
        if repeated.is_empty() {
            return;
        }
        let names: Vec<_> = files.paths().map(Path::to_owned).collect();
        let places = &mut self.places;
        // A file that cannot be read was reported when it was read first.
        let _ = files.read(&mut |record, file, line| {
            if let Some(&blob) = repeated.get(&record.key) {
                places.push((blob, names[file].clone(), line));
            }
            Ok(())
        });
    }
}

fn open_files(config: &Config, options: &Options<'_>) -> Result<OutputFiles, VerifyError> {
    if !options.files.is_empty() {
        let opened = OutputFiles::open(|| files::find_by_patterns(options.files));
        return Ok(opened.map_err(|error| FileError::new("read the files of", Path::new("--files"), error))?);
    }
    let output = config.output.file.as_ref().ok_or(VerifyError::NoFiles)?;
    let opened = OutputFiles::open(|| files::find(&output.paths()));
    Ok(opened.context("read the files of", &output.path)?)
}

/// Returns the folder for files without a name: that of the state, or, if this user cannot write there, that for temporary
/// files.
fn scratch_folder(working_dir: &Path) -> PathBuf {
    let is_writable = tempfile::tempfile_in(working_dir).is_ok();
    if is_writable { working_dir.to_owned() } else { env::temp_dir() }
}

fn pending(listing: &Listing, blob: usize, delivered_to: OutputSet) -> PendingBlob {
    PendingBlob { blob: listing.blobs[blob].blob.clone(), delivered_to, has_failed: false, failed_passes: 0 }
}

/// Makes the unknown blobs and those with missing records pending.
fn repair(
    config: &Config,
    ledger: Ledger,
    mut progress: Progress,
    listing: &Listing,
    states: &[BlobState],
    compared: Option<&Compared>,
) -> Result<Repaired, VerifyError> {
    // Records are delivered again only to files of this configuration.
    let compared = compared.filter(|_| config.output.file.is_some());
    let mut missing: HashMap<usize, Vec<u128>> = HashMap::new();
    if let Some(compared) = compared {
        for &(blob, key) in &compared.comparison.missing {
            missing.entry(compared.blobs[blob]).or_default().push(key);
        }
    }
    let file = OutputSet::EMPTY.with(OutputName::File);
    let others = output::names(config).without(file);
    let (mut repairs, mut repaired) = (Vec::new(), Repaired::default());
    for (blob, state) in states.iter().enumerate() {
        let is_unknown = *state == BlobState::Unknown;
        let missing = missing.remove(&blob);
        if !is_unknown && missing.is_none() {
            continue;
        }
        let delivered_to = if is_unknown { OutputSet::EMPTY } else { others };
        progress.pending.push((listing.feed_id(blob), pending(listing, blob, delivered_to)));
        repaired.blobs += 1;
        if compared.is_some() {
            let missing: Vec<_> = missing.unwrap_or_default().into_iter().map(RecordKey).collect();
            repaired.records += missing.len();
            let (tenant_id, content_type) = listing.feed_id(blob);
            let content_id = listing.blobs[blob].blob.content_id.clone();
            repairs.push(Repair {
                tenant_id: tenant_id.to_string(),
                content_type,
                content_id,
                output: OutputName::File,
                missing,
            });
        }
    }
    if repaired.blobs > 0 {
        ledger.repair(&progress, repairs)?;
    }
    Ok(repaired)
}
