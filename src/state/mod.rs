//! The state that is kept from pass to pass, in `workingDir`.
//!
//! An entry is written only after the outputs have made its records durable. If the state is deleted, a pass collects
//! everything again that is still available.
//!
//! | file | contents | written |
//! | --- | --- | --- |
//! | [`known_blobs`] | delivered blobs; also carries the lock | appended at each commit |
//! | [`known_index`] | an index of `known_blobs`, once that is large | when it does not match, and stamped after a pass |
//! | [`record_ids`] | Ids of delivered records, with the time of their content | appended at each commit |
//! | [`progress`] | up to when feeds are listed, totals, pending blobs, request rates | replaced at the end of a pass |
//! | [`dead_letters`] | records that a receiver rejects | appended before the commit of their blobs |
//! | [`quarantine`] | bodies of blobs that could not be read as a whole | two new files for each such blob |
//! | [`history`] | what each pass did, for `status` | appended after a pass |
//! | [`repairs`] | records that `verify --repair` found missing in files | replaced by `verify --repair` and when done |
//! | [`journal`] | the commits of this pass | appended at each commit, emptied at the end of a pass |
//! | [`older`] | where an older tool stopped: its own files | never |
//!
//! Unreadable parts of a file are moved to `NAME.unreadable`. `NAME.new` and `NAME.rewrite` exist while a file is replaced
//! ([`disk::replace`]).

pub mod dead_letters;
pub mod history;
pub mod journal;
mod key_set;
pub mod known_blobs;
pub mod known_index;
mod lock;
pub mod older;
pub mod progress;
pub mod quarantine;
pub mod record_ids;
pub mod repairs;

use std::{
    collections::{HashMap, HashSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;

pub use dead_letters::{DeadLetter, DeadLetters};
pub use journal::{BatchCommit, RecordKey};
pub use known_blobs::{BlobKey, KnownBlobs};
pub use progress::{FeedId, FeedProgress, GONE_MAX, GoneBlob, Progress, TenantProgress, Totals};
pub use record_ids::ContentHour;
pub use repairs::{MissingRecords, Repair};

use crate::{
    clock::Clock,
    delivery::{OutputName, OutputSet, PendingBlob},
    disk::{self, FileContext, FileError, Position},
    error::Explain,
    feed::ContentType,
};
use journal::{Journal, Orphans, RecoveredJournal};
use known_blobs::KnownBlobsFile;
use record_ids::RecordIds;
use repairs::Repairs;

/// The files in `workingDir` that are inspected before the state is used. The others are inspected when they are opened.
pub const FILE_NAMES: [&str; 4] =
    [known_blobs::FILE_NAME, progress::FILE_NAME, journal::FILE_NAME, repairs::FILE_NAME];

/// The extension of the file that gets the unreadable parts of a file.
const UNREADABLE: &str = "unreadable";

/// An error returned when the state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another pass holds the lock.
    #[error("another pass holds the lock on {}", path.display())]
    Locked {
        /// The locked file.
        path: PathBuf,
    },
    /// A file of the state or its folder cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
}

impl Explain for StateError {
    fn hint(&self) -> &str {
        match self {
            Self::Locked { .. } => "the running pass continues",
            Self::File(error) => error.hint(),
        }
    }
}

/// Locks the state, completes what an interrupted pass left undone, and reads what a pass starts with.
///
/// Record Ids are remembered for `dedup`; not at all if it is zero. Nothing expires before `clock` knows Microsoft's time.
/// `recover` returns the keys of the records that an output file contains after a committed position.
///
/// # Errors
///
/// Another pass holds the lock, or the folder or a file in it cannot be read or written.
pub fn open(
    working_dir: &Path,
    dedup: Duration,
    clock: &Clock,
    recover: impl Fn(&Position) -> io::Result<Vec<u128>>,
) -> Result<(Ledger, KnownBlobs, Progress), StateError> {
    disk::create_folder(working_dir, 0o700).context("create the folder", working_dir)?;
    inspect(working_dir)?;
    let (mut known_blobs, mut known) = KnownBlobsFile::open(working_dir)?;
    let (mut journal, recovered) = Journal::open(working_dir, recover)?;
    let RecoveredJournal { known: recovered, pending, started, orphans, .. } = recovered;
    known_blobs.rewrite_tail(&recovered)?;
    let mut missing = Vec::new();
    for line in recovered {
        if let Some(key) = known_blobs::key_of(&line)
            && known.insert(key)?
        {
            missing.push(line);
        }
    }
    known_blobs.append(&missing)?;
    known_blobs.sync()?;
    journal.restart(&orphans, &pending, &started)?;
    let mut progress = Progress::recover(working_dir)?;
    for (feed, at) in started {
        let feed = Arc::make_mut(progress.feeds.entry(feed).or_default());
        feed.subscription_started = feed.subscription_started.max(Some(at));
    }
    progress.pending = merged(progress.pending, pending, &known)?;
    let repairs = open_repairs(working_dir, &progress)?;
    let record_ids = (!dedup.is_zero()).then(|| RecordIds::new(working_dir, dedup, &progress, clock));
    let (working_dir, clock) = (working_dir.to_owned(), clock.clone());
    let orphans_left = orphans.clone();
    let ledger =
        Ledger { working_dir, known_blobs, journal, record_ids, orphans, orphans_left, repairs, clock };
    Ok((ledger, known, progress))
}

/// Reads the records that are missing in the files, and drops those of blobs that are no longer pending.
fn open_repairs(
    working_dir: &Path,
    progress: &Progress,
) -> Result<HashMap<BlobKey, MissingRecords>, StateError> {
    let path = working_dir.join(repairs::FILE_NAME);
    disk::recover(&path).context("recover", &path)?;
    let mut repairs = Repairs::read(working_dir)?;
    let key =
        |(feed, pending): &(FeedId, PendingBlob)| BlobKey::new(&feed.0, feed.1, &pending.blob.content_id);
    let pending: HashSet<_> = progress.pending.iter().map(key).collect();
    if repairs.retain(|blob| pending.contains(&blob)) {
        repairs.write(working_dir)?;
    }
    Ok(repairs.by_blob())
}

/// Returns an error if a pass could not use this state. Changes nothing; an existing state is locked for a moment.
///
/// # Errors
///
/// Those of [`open`].
pub fn check(working_dir: &Path) -> Result<(), StateError> {
    inspect(working_dir)?;
    lock::check(&working_dir.join(known_blobs::FILE_NAME))?;
    for name in [known_blobs::FILE_NAME, journal::FILE_NAME] {
        let path = working_dir.join(name);
        disk::check_append(&path).context("write", &path)?;
    }
    if working_dir.exists() {
        let path = working_dir.join(progress::FILE_NAME);
        disk::check_replace(&path).context("replace", &path)?;
    }
    Ok(())
}

/// Rejects state files that are not regular files, and links of other users, before one of them is opened: opening a FIFO
/// can block forever.
fn inspect(working_dir: &Path) -> Result<(), StateError> {
    for name in FILE_NAMES {
        let path = working_dir.join(name);
        for path in [path.clone(), path.with_extension(UNREADABLE)] {
            disk::require_own_regular(&path).context("open", &path)?;
        }
    }
    Ok(())
}

/// Reads what a pass would start with, without a lock and without changing anything.
pub fn peek(working_dir: &Path) -> Result<(KnownBlobs, Progress), StateError> {
    inspect(working_dir)?;
    Ok((KnownBlobs::read(working_dir)?, Progress::read(working_dir)?))
}

/// What the state knows at one moment, also while a pass runs.
#[derive(Debug)]
pub struct Snapshot {
    /// The known blobs.
    pub known: KnownBlobs,
    /// The progress of feeds, and the pending blobs.
    pub progress: Progress,
}

impl Snapshot {
    /// Reads the state without a lock and without changing anything.
    ///
    /// The order makes it consistent: a blob that is listed, according to `progress`, is pending in `progress` or in the
    /// journal, or it is known; a pass only makes pending blobs known. So what is known is read last.
    pub fn read(working_dir: &Path) -> Result<Self, StateError> {
        inspect(working_dir)?;
        let mut progress = Progress::read(working_dir)?;
        let journal = journal::peek(working_dir)?;
        let mut known = KnownBlobs::read(working_dir)?;
        for key in journal.known.iter().filter_map(|line| known_blobs::key_of(line)) {
            known.insert(key)?;
        }
        progress.pending = merged(progress.pending, journal.pending, &known)?;
        Ok(Self { known, progress })
    }
}

/// Returns each pending blob that is not known once, with all outputs that have it.
fn merged(
    first: Vec<(FeedId, PendingBlob)>,
    then: Vec<(FeedId, PendingBlob)>,
    known: &KnownBlobs,
) -> Result<Vec<(FeedId, PendingBlob)>, StateError> {
    let mut places = HashMap::new();
    let mut merged: Vec<(FeedId, PendingBlob)> = Vec::new();
    for (feed, pending) in first.into_iter().chain(then) {
        let (tenant_id, content_type) = &feed;
        if known.contains(tenant_id, *content_type, &pending.blob.content_id)? {
            continue;
        }
        let key = BlobKey::new(tenant_id, *content_type, &pending.blob.content_id);
        let place = *places.entry(key).or_insert(merged.len());
        match merged.get_mut(place) {
            Some((_, existing)) => {
                existing.delivered_to = existing.delivered_to.or(pending.delivered_to);
                existing.failed_passes = existing.failed_passes.max(pending.failed_passes);
            }
            None => merged.push((feed, pending)),
        }
    }
    Ok(merged)
}

/// The state as the writer changes it. Its owner holds the lock.
#[derive(Debug)]
pub struct Ledger {
    working_dir: PathBuf,
    known_blobs: KnownBlobsFile,
    journal: Journal,
    /// `None` without `dedupHours`.
    record_ids: Option<RecordIds>,
    orphans: Orphans,
    /// Those that no committed batch has adopted.
    orphans_left: Orphans,
    /// The records to which a pass restricts what it writes of a blob to files.
    repairs: HashMap<BlobKey, MissingRecords>,
    clock: Clock,
}

impl Ledger {
    /// Loads only the record Ids of these tenants. A pass looks up no others.
    pub fn restrict_to<'a>(&mut self, tenant_ids: impl Iterator<Item = &'a str>) {
        if let Some(record_ids) = &mut self.record_ids {
            record_ids.restrict_to(tenant_ids);
        }
    }

    /// Returns the outputs that accepted a record with this key, or this GUID, in an earlier batch.
    pub fn outputs_with(&mut self, key: u128, guid: Option<u128>) -> Result<OutputSet, StateError> {
        self.record_ids.as_mut().map_or(Ok(OutputSet::EMPTY), |ids| ids.outputs_with(key, guid))
    }

    /// Returns whether repeated records are recognized by their Ids.
    pub fn knows_records(&self) -> bool {
        self.record_ids.is_some()
    }

    /// Returns whether an interrupted pass left records in the output files that are not adopted yet.
    pub fn has_orphans(&self) -> bool {
        !self.orphans.is_empty()
    }

    /// Returns whether an interrupted pass has left a record with this key in the output files. Each is found once; it counts
    /// as adopted when the batch is committed.
    pub fn adopt(&mut self, key: u128) -> bool {
        self.orphans.adopt(key)
    }

    /// Records durably that a feed's subscription was started.
    pub fn subscription_started(
        &mut self,
        tenant_id: &str,
        content_type: ContentType,
        at: Timestamp,
    ) -> Result<(), StateError> {
        self.journal.subscription_started(tenant_id, content_type, at)
    }

    /// Records where an output file ends before this pass first writes to it.
    pub fn opened(&mut self, position: Position) -> Result<(), StateError> {
        self.journal.opened(position)
    }

    /// Keeps records that an output rejects, durably; then their blobs may be committed. Returns whether there was room.
    pub fn add_dead_letters(
        &self,
        output: OutputName,
        letters: &[DeadLetter<'_>],
    ) -> Result<bool, StateError> {
        dead_letters::add(&self.working_dir, output, letters)
    }

    /// Returns the file of an output's dead letters.
    pub fn dead_letters_path(&self, output: OutputName) -> PathBuf {
        dead_letters::path(&self.working_dir, output)
    }

    /// Keeps the body of a blob that could not be read as a whole, and what it was decompressed from if that is broken.
    /// Both are durable when this returns. Returns the body's file.
    pub fn quarantine(
        &self,
        key: BlobKey,
        entry: &quarantine::Entry,
        body: &[u8],
        encoded: Option<&[u8]>,
    ) -> Result<PathBuf, StateError> {
        quarantine::add(&self.working_dir, key, entry, body, encoded)
    }

    /// Returns the records of this blob that are missing in the files of `output.file`, if `verify --repair` has found any.
    pub fn missing_records(&self, blob: BlobKey) -> Option<MissingRecords> {
        self.repairs.get(&blob).cloned()
    }

    /// Makes blobs pending again that are known or were never listed, and records which of their records are missing.
    /// `progress` contains them already. Nothing else may use the ledger afterwards.
    ///
    /// A crash in the middle leaves blobs known; `verify` finds them again.
    pub fn repair(mut self, progress: &Progress, added: Vec<Repair>) -> Result<(), StateError> {
        let known: HashSet<_> = added
            .iter()
            .flat_map(|repair| {
                known_blobs::keys_of(&repair.tenant_id, repair.content_type, &repair.content_id)
            })
            .collect();
        let mut repairs = Repairs::read(&self.working_dir)?;
        repairs.extend(added);
        repairs.write(&self.working_dir)?;
        progress.write(&self.working_dir)?;
        self.known_blobs.forget(&known)
    }

    /// Commits a batch that is durable in the outputs, in three steps:
    ///
    /// 1. Record the Ids. After a crash here the blobs are collected again and their records, which are durable, are
    ///    dropped as known.
    /// 2. Write the journal's line, which commits the whole batch. After a crash in the middle of it the blobs are unknown
    ///    and their records are orphans.
    /// 3. Append to `known_blobs`. After a crash before this is durable the lines are restored from the journal.
    pub fn commit(
        &mut self,
        batch: &BatchCommit,
        ids: &[(u128, OutputSet, ContentHour)],
    ) -> Result<(), StateError> {
        if let Some(record_ids) = &mut self.record_ids {
            record_ids.append(ids)?;
        }
        self.journal.committed(batch)?;
        for &key in &batch.adopted {
            self.orphans_left.adopt(key);
        }
        self.known_blobs.append(&batch.known)
    }

    /// Ends a pass: syncs `known_blobs`, replaces `progress`, and empties the journal, which nothing needs any more.
    ///
    /// Without `files_are_whole`, an output file may end in uncommitted records. Then the journal stays, so that the next
    /// pass finds them. Last, entries that have expired by Microsoft's clock are removed; if that fails, they stay for
    /// longer, which is harmless.
    pub fn finish(mut self, progress: &Progress, files_are_whole: bool) -> Result<(), StateError> {
        self.known_blobs.sync()?;
        progress.write(&self.working_dir)?;
        if files_are_whole {
            self.journal.restart(&self.orphans_left, &[], &[])?;
        }
        if let Some(now) = self.clock.earliest(Instant::now()) {
            quarantine::expire(&self.working_dir, now);
            if let Err(error) = self.known_blobs.forget_expired(now) {
                log::warn!("The expired lines of {} stay: {}", known_blobs::FILE_NAME, error.explain());
            }
        }
        self.known_blobs.stamp_index();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs};

    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        feed::{ContentType, ListedBlob},
        limits,
    };

    const TENANT: &str = "11111111-1111-4111-8111-111111111111";
    const FEED: ContentType = ContentType::AuditGeneral;
    const HOUR: Duration = Duration::from_secs(60 * 60);
    const DEDUP: Duration = Duration::from_secs(24 * 60 * 60);
    const LIFE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

    /// What happens to the state.
    #[derive(Clone, Debug)]
    enum Step {
        /// A batch of this number of blobs is committed, each with one record.
        Commit(u32),
        /// A batch that only one of two outputs has is committed.
        CommitPartly,
        /// The pass ends in order, and another one begins this number of hours later.
        Finish(u64),
        /// The pass is killed, and another one begins.
        Kill,
        /// The same, and an append to one of the files was under way.
        KillTearing(usize),
        /// The same, and what was not synced is gone.
        LosePower,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (1_u32..5).prop_map(Step::Commit),
            1 => Just(Step::CommitPartly),
            2 => prop_oneof![Just(0), 0_u64..30, Just(200)].prop_map(Step::Finish),
            1 => Just(Step::Kill),
            2 => (0_usize..3).prop_map(Step::KillTearing),
            2 => Just(Step::LosePower),
        ]
    }

    /// What must be remembered, in the simplest terms.
    #[derive(Default)]
    struct Model {
        /// By number: when it expires.
        known: BTreeMap<u32, Timestamp>,
        pending: BTreeMap<u32, Timestamp>,
        /// By number: when it was delivered.
        records: BTreeMap<u32, Timestamp>,
    }

    /// The state under test, and the world around it.
    struct World {
        folder: tempfile::TempDir,
        now: Timestamp,
        next: u32,
        ledger: Option<Ledger>,
        progress: Progress,
        /// How much of `known_blobs` was synced.
        synced: u64,
        model: Model,
    }

    fn id_of(number: u32) -> u128 {
        u128::from(number) + 1
    }

    impl World {
        fn new() -> Self {
            let mut world = Self {
                folder: tempfile::tempdir().expect("a folder"),
                now: "2026-11-22T10:00:00Z".parse().expect("a time of the test"),
                next: 0,
                ledger: None,
                progress: Progress::default(),
                synced: 0,
                model: Model::default(),
            };
            world.begin();
            world
        }

        fn known_blobs(&self) -> PathBuf {
            self.folder.path().join(known_blobs::FILE_NAME)
        }

        fn blob(&self, number: u32) -> ListedBlob {
            ListedBlob {
                content_id: format!("blob${number}"),
                content_uri: "https://manage.office.com/blob".to_owned(),
                created: self.now,
                expiration: (self.now + LIFE).to_string(),
            }
        }

        fn apply(&mut self, step: &Step) {
            match step {
                Step::Commit(count) => {
                    let numbers: Vec<_> = (self.next..self.next + count).collect();
                    self.next += count;
                    let known =
                        numbers.iter().map(|&number| known_blobs::line_of(TENANT, FEED, &self.blob(number)));
                    let batch = BatchCommit { known: known.collect(), ..BatchCommit::default() };
                    let everywhere = OutputSet::EMPTY.with(OutputName::File);
                    let content = ContentHour::new(TENANT, FEED, self.now);
                    let ids: Vec<_> =
                        numbers.iter().map(|&number| (id_of(number), everywhere, content)).collect();
                    self.ledger.as_mut().expect("a pass").commit(&batch, &ids).expect("room");
                    for number in numbers {
                        self.model.known.insert(number, self.now + LIFE);
                        self.model.records.insert(number, self.now);
                    }
                }
                Step::CommitPartly => {
                    let (number, blob) = (self.next, self.blob(self.next));
                    self.next += 1;
                    let delivered_to = OutputSet::EMPTY.with(OutputName::File);
                    let pending = PendingBlob { blob, delivered_to, has_failed: true, failed_passes: 0 };
                    let pending = ((TENANT.into(), FEED), pending);
                    let batch = BatchCommit { pending: vec![pending.clone()], ..BatchCommit::default() };
                    self.ledger.as_mut().expect("a pass").commit(&batch, &[]).expect("room");
                    self.progress.pending.push(pending);
                    self.model.pending.insert(number, self.now + LIFE);
                }
                Step::Finish(hours) => {
                    let feed = FeedProgress { listed_until: Some(self.now), ..FeedProgress::default() };
                    self.progress.feeds.insert((TENANT.into(), FEED), Arc::new(feed));
                    self.ledger.take().expect("a pass").finish(&self.progress, true).expect("room");
                    self.now += HOUR * u32::try_from(*hours).expect("a few");
                    self.begin();
                }
                Step::Kill => self.begin(),
                Step::KillTearing(file) => {
                    self.ledger = None;
                    let (name, torn): (_, &[u8]) = [
                        ("known_blobs", b"blob$999,2026-1".as_slice()),
                        ("journal", b"{\"committed\":{\"posi"),
                        ("record_ids/2026-11-22T10.file.v2", b"\x01\x02\x03"),
                    ][*file];
                    if let Ok(mut file) =
                        fs::OpenOptions::new().append(true).open(self.folder.path().join(name))
                    {
                        std::io::Write::write_all(&mut file, torn).expect("room");
                    }
                    self.begin();
                }
                Step::LosePower => {
                    self.ledger = None;
                    let file = fs::OpenOptions::new().write(true).open(self.known_blobs()).expect("a file");
                    file.set_len(self.synced).expect("a file of ours");
                    self.begin();
                }
            }
        }

        /// Begins a pass, and holds what it knows against the model.
        fn begin(&mut self) {
            self.ledger = None;
            let clock = Clock::begun(Instant::now(), self.now);
            clock.note(&TENANT.into(), self.now, clock.began());
            let (mut ledger, known, progress) =
                open(self.folder.path(), DEDUP, &clock, |_| Ok(Vec::new())).expect("a usable state");
            self.synced = fs::metadata(self.known_blobs()).expect("a file").len();
            let is_known = |number: u32| {
                known.contains(TENANT, FEED, &format!("blob${number}")).expect("a readable file")
            };
            let is_pending = |number: u32| {
                progress.pending.iter().any(|(_, it)| it.blob.content_id == format!("blob${number}"))
            };
            for number in 0..self.next {
                match self.model.known.get(&number) {
                    Some(&expires) if expires > self.now => {
                        assert!(is_known(number), "blob {number} is forgotten");
                    }
                    Some(_) => {}
                    None => assert!(!is_known(number), "blob {number} was never committed"),
                }
                assert_eq!(is_pending(number), self.model.pending.contains_key(&number), "blob {number}");
                // An Id is remembered while content that may repeat it is pending or not listed yet.
                let feed = progress.feeds.get(&(TENANT.into(), FEED));
                let listed_until = feed.and_then(|feed| feed.listed_until);
                let to_list = listed_until.unwrap_or(Timestamp::MIN).max(self.now - LIFE);
                let oldest = progress.pending.iter().map(|(_, pending)| pending.blob.created).min();
                let oldest = oldest.map_or(to_list, |oldest| oldest.max(self.now - limits::KNOWN_MAX));
                let since = to_list.min(oldest) - DEDUP;
                let mut has = |id| !ledger.outputs_with(id, None).expect("readable files").is_empty();
                match self.model.records.get(&number) {
                    Some(&at) if at >= since => {
                        assert!(has(id_of(number)), "record {number} is forgotten");
                    }
                    Some(&at) if at < since - HOUR => {
                        assert!(!has(id_of(number)), "record {number} stays");
                    }
                    Some(_) => {}
                    None => assert!(!has(id_of(number)), "record {number} was never delivered"),
                }
            }
            assert!(!is_known(999), "a torn line is no blob");
            (self.ledger, self.progress) = (Some(ledger), progress);
        }
    }

    proptest! {
        #![proptest_config(crate::proptest_config())]

        #[test]
        fn remembers_committed_batches_after_any_interruption(
            steps in prop::collection::vec(step(), 1..25),
        ) {
            let mut world = World::new();
            for step in &steps {
                world.apply(step);
            }
            world.begin();
        }
    }
}
