//! `progress`: up to when each feed is listed completely, its totals, the pending blobs, and the request rate that works
//! for each tenant.
//!
//! Lines of JSON, of which the first one is the version. The file is replaced at the end of each pass, so it describes one
//! moment. Without it a pass lists what `hoursToCollect` says, and the totals begin with zero again; only pending blobs that
//! are older are lost.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufRead, BufReader},
    iter,
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{StateError, UNREADABLE};
use crate::{
    counters::counters,
    delivery::{OutputSet, PendingBlob},
    disk::{self, FileContext},
    feed::{ContentType, ListedBlob},
    limits::STATE_BUFFER_BYTES,
    redact,
};

/// The file's name in `workingDir`.
pub const FILE_NAME: &str = "progress";

const VERSION: u32 = 1;

/// A feed: the tenant's id and the content type.
pub type FeedId = (Arc<str>, ContentType);

/// The progress of feeds and tenants, and the pending blobs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The progress of each feed.
    pub feeds: BTreeMap<FeedId, Arc<FeedProgress>>,
    /// By tenant id.
    pub tenants: BTreeMap<Arc<str>, TenantProgress>,
    /// Listed blobs that not every output has.
    pub pending: Vec<(FeedId, PendingBlob)>,
}

/// The progress of a feed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FeedProgress {
    /// All content before this time is listed, and known or pending.
    pub listed_until: Option<Timestamp>,
    /// The earliest start of the passes within the hour that `listed_until` is in.
    pub listed_from: Option<Timestamp>,
    /// Content before this time is not collected (`only_future_events`). Without `listed_until`, an older tool has collected
    /// the feed, and this program continues from here.
    pub wanted_from: Option<Timestamp>,
    /// When a pass last listed the feed to the end and delivered every blob that it found.
    pub last_success: Option<Timestamp>,
    /// The error of the last pass.
    pub last_error: Option<String>,
    /// When the subscription was last started.
    pub subscription_started: Option<Timestamp>,
    /// When the newest listed blob became available.
    pub last_blob: Option<Timestamp>,
    /// The earliest time of content that a pass was to list. `None` if earlier versions began to collect the feed.
    pub collected_from: Option<Timestamp>,
    /// A hash of the filter of the last pass.
    pub filter: Option<u64>,
    /// When a pass last had another filter than the one before.
    pub filter_changed: Option<Timestamp>,
    /// The blobs of the last days that could not be fetched any more, the oldest first; no more than [`GONE_MAX`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<GoneBlob>,
    /// What all passes have counted.
    pub totals: Totals,
}

counters! {
    /// Running totals of a feed: the sums over all passes since the state was created.
    ///
    /// A pass adds its numbers when it ends. A pass that is killed adds nothing, so the totals can be lower than what was
    /// delivered, but never higher.
    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    Totals {
        /// Listed blobs that were not known. Each pass that finds a blob counts it, until it is delivered.
        blobs_found,
        /// Blobs that every output has accepted.
        blobs_downloaded,
        /// Blobs that the next pass retries. Each pass in which a blob fails counts it.
        blobs_failed,
        /// Blobs that could no longer be fetched.
        blobs_expired,
        /// Delivered blobs whose bodies could not be read as a whole.
        blobs_salvaged,
        /// Records delivered.
        records_saved,
        /// Records that were filtered out.
        records_filtered,
        /// Records dropped because their Id was delivered before.
        records_duplicate,
        /// Records that a receiver rejected and that are kept as dead letters.
        records_dead_letter,
        /// Bytes of blobs after decompression.
        bytes_downloaded,
        /// Requests about the feed.
        api_requests,
        /// Requests that were throttled.
        api_throttled,
    }
}

impl FeedProgress {
    /// Returns whether this program has listed the feed, or continues what an older tool began.
    pub fn has_begun(&self) -> bool {
        self.listed_until.is_some() || self.wanted_from.is_some()
    }
}

/// A blob that could not be fetched any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GoneBlob {
    /// The id of the blob.
    pub content_id: String,
    /// When a pass found that out.
    pub at: Timestamp,
}

/// The maximum number of blobs of a feed that are remembered as gone.
pub const GONE_MAX: usize = 200;

/// The progress of a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TenantProgress {
    /// The request rate that works, as far as is known.
    pub requests_per_minute: u32,
    /// When Microsoft last throttled the tenant.
    #[serde(default)]
    pub throttled_at: Option<Timestamp>,
}

/// A line of the file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
enum ProgressLine {
    Version(u32),
    Feed {
        tenant_id: String,
        content_type: ContentType,
        #[serde(flatten)]
        progress: Box<FeedProgress>,
    },
    Tenant {
        tenant_id: String,
        #[serde(flatten)]
        progress: TenantProgress,
    },
    #[serde(rename = "waiting")]
    Pending(PendingLine),
}

/// The form in which a pending blob is written, here and in the journal.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PendingLine {
    tenant_id: String,
    content_type: String,
    content_id: String,
    content_uri: String,
    content_created: Timestamp,
    content_expiration: String,
    delivered_to: String,
    has_failed: bool,
    #[serde(default)]
    failed_passes: u32,
}

impl From<&(FeedId, PendingBlob)> for PendingLine {
    fn from(pending: &(FeedId, PendingBlob)) -> Self {
        let ((tenant_id, content_type), pending) = pending.clone();
        let PendingBlob { blob, delivered_to, has_failed, failed_passes } = pending;
        Self {
            tenant_id: tenant_id.to_string(),
            content_type: content_type.name().to_owned(),
            content_id: blob.content_id,
            content_uri: redact::secrets(&blob.content_uri).into_owned(),
            content_created: blob.created,
            content_expiration: blob.expiration,
            delivered_to: delivered_to.to_string(),
            has_failed,
            failed_passes,
        }
    }
}

impl PendingLine {
    /// Returns `None` if the content type or an output is unknown.
    pub(super) fn read(self) -> Option<(FeedId, PendingBlob)> {
        let content_type = ContentType::from_name(&self.content_type)?;
        let blob = ListedBlob {
            content_id: redact::content_id(self.content_id),
            content_uri: self.content_uri,
            created: self.content_created,
            expiration: self.content_expiration,
        };
        let delivered_to = OutputSet::parse(&self.delivered_to)?;
        let Self { has_failed, failed_passes, .. } = self;
        Some((
            (self.tenant_id.into(), content_type),
            PendingBlob { blob, delivered_to, has_failed, failed_passes },
        ))
    }
}

impl Progress {
    /// Reads the file without changing anything. A damaged file, or one of a later version, is reported and ignored.
    pub fn read(working_dir: &Path) -> Result<Self, StateError> {
        Self::read_or(working_dir, |_| "it is ignored")
    }

    /// Completes an interrupted replacement and reads the file. A damaged file, or one of a later version, is reported and
    /// renamed to `progress.unreadable`.
    pub fn recover(working_dir: &Path) -> Result<Self, StateError> {
        let path = path(working_dir);
        disk::recover(&path).context("recover", &path)?;
        Self::read_or(working_dir, |path| {
            // If this fails, the file is replaced at the end of the pass.
            let _ = fs::rename(path, path.with_extension(UNREADABLE));
            "it is renamed to progress.unreadable and ignored"
        })
    }

    fn read_or(working_dir: &Path, dismiss: impl FnOnce(&Path) -> &'static str) -> Result<Self, StateError> {
        let path = path(working_dir);
        disk::require_own_regular(&path).context("read", &path)?;
        let file = disk::none_if_missing(File::open(&path)).context("read", &path)?;
        let Some(file) = file else { return Ok(Self::default()) };
        let parsed =
            Self::parse(BufReader::with_capacity(STATE_BUFFER_BYTES, file)).context("read", &path)?;
        Ok(parsed.unwrap_or_else(|problem| {
            let consequence = dismiss(&path);
            log::warn!("{} is {problem}; {consequence}", path.display());
            Self::default()
        }))
    }

    /// Parses line by line, because there can be many pending blobs. The inner error says what is wrong with the text.
    fn parse(text: impl BufRead) -> io::Result<Result<Self, &'static str>> {
        let mut progress = Self::default();
        for (index, line) in text.lines().enumerate() {
            let line = match line {
                Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(Err("damaged")),
                line => serde_json::from_str(&line?),
            };
            let added = match (index, line) {
                (0, Ok(ProgressLine::Version(VERSION))) => Ok(()),
                (0, Ok(ProgressLine::Version(_))) => Err("of a later version"),
                (0, _) | (_, Err(_)) => Err("damaged"),
                (_, Ok(line)) => progress.add(line),
            };
            if let Err(problem) = added {
                return Ok(Err(problem));
            }
        }
        Ok(Ok(progress))
    }

    fn add(&mut self, line: ProgressLine) -> Result<(), &'static str> {
        match line {
            ProgressLine::Version(_) => return Err("damaged"),
            ProgressLine::Feed { tenant_id, content_type, progress } => {
                let before = self.feeds.last_key_value().map(|((before, _), _)| before);
                let same = before.filter(|before| ***before == tenant_id).cloned(); // the file is sorted
                self.feeds
                    .insert((same.unwrap_or_else(|| tenant_id.into()), content_type), Arc::new(*progress));
            }
            ProgressLine::Tenant { tenant_id, progress } => {
                self.tenants.insert(tenant_id.into(), progress);
            }
            ProgressLine::Pending(pending) => self.pending.push(pending.read().ok_or("damaged")?),
        }
        Ok(())
    }

    /// Returns this progress with the feeds and tenants of a later one replaced, and its pending blobs added.
    #[must_use]
    pub fn followed_by(mut self, mut later: Self) -> Self {
        self.feeds.append(&mut later.feeds);
        self.tenants.append(&mut later.tenants);
        self.pending.append(&mut later.pending);
        self
    }

    /// Replaces the file durably.
    pub fn write(&self, working_dir: &Path) -> Result<(), StateError> {
        let feeds = self.feeds.iter().map(|((tenant_id, content_type), feed)| ProgressLine::Feed {
            tenant_id: tenant_id.to_string(),
            content_type: *content_type,
            progress: Box::new(FeedProgress::clone(feed)),
        });
        let tenants = self.tenants.iter().map(|(tenant_id, tenant)| ProgressLine::Tenant {
            tenant_id: tenant_id.to_string(),
            progress: *tenant,
        });
        let pending = self.pending.iter().map(|pending| ProgressLine::Pending(pending.into()));
        let path = path(working_dir);
        let written = disk::replace(
            &path,
            0o600,
            |to| {
                for line in
                    iter::once(ProgressLine::Version(VERSION)).chain(feeds).chain(tenants).chain(pending)
                {
                    serde_json::to_writer(&mut *to, &line)?;
                    to.write_all(b"\n")?;
                }
                Ok(())
            },
            |_| Ok(()),
        );
        Ok(written.map(drop).context("write", &path)?)
    }
}

fn path(working_dir: &Path) -> PathBuf {
    working_dir.join(FILE_NAME)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::OutputName;

    #[test]
    fn round_trips_progress() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(Progress::read(folder.path()).expect("nothing yet"), Progress::default());
        let time: Timestamp = "2026-11-22T10:00:00Z".parse().expect("a time of the test");
        let mut progress = Progress::default();
        let feed = FeedProgress {
            listed_until: Some(time),
            last_error: Some("HTTP 500".to_owned()),
            totals: Totals { records_saved: 40, ..Totals::default() },
            ..FeedProgress::default()
        };
        progress.feeds.insert(("a".into(), ContentType::DlpAll), Arc::new(feed));
        let tenant = TenantProgress { requests_per_minute: 1900, throttled_at: Some(time) };
        progress.tenants.insert("a".into(), tenant);
        progress.tenants.insert("b".into(), TenantProgress { throttled_at: None, ..tenant });
        let pending = PendingBlob {
            blob: ListedBlob {
                content_id: "x,\"y\"$".to_owned(),
                content_uri: "https://a/b".to_owned(),
                created: time,
                expiration: "2026-11-29T10:00:00.000Z".to_owned(),
            },
            delivered_to: OutputSet::EMPTY.with(OutputName::File),
            has_failed: true,
            failed_passes: 2,
        };
        progress.pending.push((("a".into(), ContentType::AuditGeneral), pending));
        progress.write(folder.path()).expect("room");
        assert_eq!(Progress::read(folder.path()).expect("a file"), progress);
    }

    #[test]
    fn a_file_without_totals_begins_with_zero() {
        let folder = tempfile::tempdir().expect("a folder");
        let key = ("a".into(), ContentType::DlpAll);
        let feed = r#""tenantId":"a","contentType":"DLP.All","listedUntil":null,"wantedFrom":null,"lastSuccess":null,"lastError":null"#;
        for (totals, saved) in [("", 0), (r#","totals":{"recordsSaved":7}"#, 7)] {
            let text = format!("{{\"version\":1}}\n{{\"feed\":{{{feed}{totals}}}}}\n");
            fs::write(path(folder.path()), text).expect("a file");
            let progress = Progress::read(folder.path()).expect("a file");
            assert_eq!(progress.feeds[&key].totals, Totals { records_saved: saved, ..Totals::default() });
        }
    }

    #[test]
    fn totals_do_not_overflow() {
        let most = Totals { api_requests: u64::MAX, ..Totals::default() };
        assert_eq!(most.plus(Totals { api_requests: 1, ..Totals::default() }), most);
    }

    #[test]
    fn only_a_pass_renames_an_unreadable_file() {
        let folder = tempfile::tempdir().expect("a folder");
        for text in ["{\"version\":2}\n", "garbage", "{\"version\":1}\n{\"feed\":{}}\n"] {
            fs::write(path(folder.path()), text).expect("a file");
            assert_eq!(Progress::read(folder.path()).expect("an ignored file"), Progress::default());
            assert!(path(folder.path()).exists());
            assert_eq!(Progress::recover(folder.path()).expect("an ignored file"), Progress::default());
            assert!(!path(folder.path()).exists());
            assert_eq!(fs::read_to_string(folder.path().join("progress.unreadable")).expect("a file"), text);
        }
    }
}
