//! `progress`: up to when each feed is listed completely, which of the listed blobs still wait, and the rate of requests that
//! works for each tenant.
//!
//! A line of JSON each, after a first one that names the version; replaced as a whole at each pass's end, so it is
//! always of one moment. Without it, a pass lists what `hoursToCollect` says and nothing is lost but the memory of what
//! waits beyond that.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::StateError;
use crate::{
    delivery::OutputSet,
    disk,
    feed::{ContentType, ListedBlob},
    limits::STATE_BUFFER_BYTES,
    redact,
};

/// The file's name in `workingDir`.
pub const FILE_NAME: &str = "progress";

const VERSION: u32 = 1;

/// What is remembered of feeds and of blobs that wait.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// By tenant id and content type.
    pub feeds: BTreeMap<(String, ContentType), FeedProgress>,
    /// By tenant id: the rate of requests that was learned.
    pub tenants: BTreeMap<String, TenantProgress>,
    /// Listed, but not delivered everywhere.
    pub waiting: Vec<Waiting>,
}

/// How far a feed is, and how it fares.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FeedProgress {
    /// Everything before is listed, and known or waiting.
    pub listed_until: Option<Timestamp>,
    /// From when on: the earliest start of the passes within the hour that `listed_until` is in.
    #[serde(default)]
    pub listed_from: Option<Timestamp>,
    /// Nothing before is wanted (`only_future_events`).
    pub wanted_from: Option<Timestamp>,
    /// When a pass last listed it to the end and delivered every blob that it found.
    pub last_success: Option<Timestamp>,
    /// What went wrong with it in the last pass.
    pub last_error: Option<String>,
    /// When its subscription was last started.
    #[serde(default)]
    pub subscription_started: Option<Timestamp>,
    /// When the newest blob that was ever listed became available.
    #[serde(default)]
    pub last_blob: Option<Timestamp>,
}

/// What is remembered of a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TenantProgress {
    /// The rate of requests that works, as far as is known.
    pub requests_per_minute: u32,
    /// When Microsoft last throttled the tenant.
    #[serde(default)]
    pub throttled_at: Option<Timestamp>,
}

/// A blob that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Whose it is.
    pub tenant_id: String,
    /// Of which feed.
    pub content_type: ContentType,
    /// As it was listed.
    pub blob: ListedBlob,
    /// Outputs that have its records already.
    pub delivered_to: OutputSet,
    /// Whether it failed when it was tried last; otherwise it was not tried.
    pub has_failed: bool,
    /// In how many passes all tries failed because its body could not be read.
    pub failed_passes: u32,
}

/// A line of the file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
enum Line {
    Version(u32),
    Feed {
        tenant_id: String,
        content_type: String,
        #[serde(flatten)]
        progress: FeedProgress,
    },
    Tenant {
        tenant_id: String,
        #[serde(flatten)]
        progress: TenantProgress,
    },
    Waiting(WaitingLine),
}

/// How a blob that waits is written, here and in the journal.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WaitingLine {
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

impl From<&Waiting> for WaitingLine {
    fn from(waiting: &Waiting) -> Self {
        let Waiting { tenant_id, content_type, blob, delivered_to, has_failed, failed_passes } =
            waiting.clone();
        Self {
            tenant_id,
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

impl WaitingLine {
    pub(super) fn read(self) -> Option<Waiting> {
        Some(Waiting {
            tenant_id: self.tenant_id,
            content_type: ContentType::from_name(&self.content_type)?,
            blob: ListedBlob {
                content_id: redact::content_id(self.content_id),
                content_uri: self.content_uri,
                created: self.content_created,
                expiration: self.content_expiration,
            },
            delivered_to: OutputSet::parse(&self.delivered_to)?,
            has_failed: self.has_failed,
            failed_passes: self.failed_passes,
        })
    }
}

impl Progress {
    /// Reads it. A file of a later version, or one that is no such file, is said so and gone without.
    pub fn read(working_dir: &Path) -> Result<Self, StateError> {
        Self::read_or(working_dir, |_| "it is")
    }

    /// The same, but such a file is put aside as `progress.unreadable`.
    pub fn read_or_put_aside(working_dir: &Path) -> Result<Self, StateError> {
        let path = path(working_dir);
        disk::recover(&path).map_err(|error| StateError::storage("recover", &path, error))?;
        Self::read_or(working_dir, |path| {
            // If it stays where it is, it is replaced at the pass's end.
            let _ = fs::rename(path, path.with_extension("unreadable"));
            "it is put aside, and"
        })
    }

    fn read_or(
        working_dir: &Path,
        put_aside: impl FnOnce(&Path) -> &'static str,
    ) -> Result<Self, StateError> {
        let path = path(working_dir);
        disk::require_own_regular(&path).map_err(|error| StateError::storage("read", &path, error))?;
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            opened => opened,
        };
        let parsed = file.and_then(|file| Self::parse(BufReader::with_capacity(STATE_BUFFER_BYTES, file)));
        let parsed = parsed.map_err(|error| StateError::storage("read", &path, error))?;
        Ok(parsed.unwrap_or_else(|problem| {
            let and_so = put_aside(&path);
            log::warn!("{} is {problem}; {and_so} gone without", path.display());
            Self::default()
        }))
    }

    /// Reads line by line, because there can be many blobs that wait. The inner error is what is wrong with the text.
    fn parse(text: impl BufRead) -> io::Result<Result<Self, &'static str>> {
        let mut progress = Self::default();
        for (place, line) in text.lines().enumerate() {
            let line = match line {
                Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(Err("damaged")),
                line => serde_json::from_str(&line?),
            };
            let taken = match (place, line) {
                (0, Ok(Line::Version(VERSION))) => Ok(()),
                (0, Ok(Line::Version(_))) => Err("of a later version"),
                (0, _) | (_, Err(_)) => Err("damaged"),
                (_, Ok(line)) => progress.take(line),
            };
            if let Err(problem) = taken {
                return Ok(Err(problem));
            }
        }
        Ok(Ok(progress))
    }

    fn take(&mut self, line: Line) -> Result<(), &'static str> {
        match line {
            Line::Version(_) => return Err("damaged"),
            Line::Feed { tenant_id, content_type, progress } => {
                let content_type = ContentType::from_name(&content_type).ok_or("damaged")?;
                self.feeds.insert((tenant_id, content_type), progress);
            }
            Line::Tenant { tenant_id, progress } => {
                self.tenants.insert(tenant_id, progress);
            }
            Line::Waiting(waiting) => self.waiting.push(waiting.read().ok_or("damaged")?),
        }
        Ok(())
    }

    /// What a pass found out about its feeds, in place of what was known of them; what it had nothing to do with stays.
    #[must_use]
    pub fn followed_by(mut self, mut later: Self) -> Self {
        self.feeds.append(&mut later.feeds);
        self.tenants.append(&mut later.tenants);
        self.waiting.append(&mut later.waiting);
        self
    }

    /// Replaces the file, durably and at one stroke.
    pub fn write(&self, working_dir: &Path) -> Result<(), StateError> {
        let feeds = self.feeds.iter().map(|((tenant_id, content_type), feed)| Line::Feed {
            tenant_id: tenant_id.clone(),
            content_type: content_type.name().to_owned(),
            progress: feed.clone(),
        });
        let tenants = self
            .tenants
            .iter()
            .map(|(tenant_id, tenant)| Line::Tenant { tenant_id: tenant_id.clone(), progress: *tenant });
        let waiting = self.waiting.iter().map(|waiting| Line::Waiting(waiting.into()));
        let path = path(working_dir);
        let written = disk::replace(
            &path,
            0o600,
            |to| {
                for line in std::iter::once(Line::Version(VERSION)).chain(feeds).chain(tenants).chain(waiting)
                {
                    serde_json::to_writer(&mut *to, &line)?;
                    to.write_all(b"\n")?;
                }
                Ok(())
            },
            |_| Ok(()),
        );
        written.map(drop).map_err(|error| StateError::storage("write", &path, error))
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
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(Progress::read(folder.path()).expect("nothing yet"), Progress::default());
        let time: Timestamp = "2026-11-22T10:00:00Z".parse().expect("a time of the test");
        let mut progress = Progress::default();
        let feed = FeedProgress {
            listed_until: Some(time),
            last_error: Some("HTTP 500".to_owned()),
            ..FeedProgress::default()
        };
        progress.feeds.insert(("a".to_owned(), ContentType::DlpAll), feed);
        let tenant = TenantProgress { requests_per_minute: 1900, throttled_at: Some(time) };
        progress.tenants.insert("a".to_owned(), tenant);
        progress.tenants.insert("b".to_owned(), TenantProgress { throttled_at: None, ..tenant });
        progress.waiting.push(Waiting {
            tenant_id: "a".to_owned(),
            content_type: ContentType::AuditGeneral,
            blob: ListedBlob {
                content_id: "x,\"y\"$".to_owned(),
                content_uri: "https://a/b".to_owned(),
                created: time,
                expiration: "2026-11-29T10:00:00.000Z".to_owned(),
            },
            delivered_to: OutputSet::EMPTY.with(OutputName::File),
            has_failed: true,
            failed_passes: 2,
        });
        progress.write(folder.path()).expect("room");
        assert_eq!(Progress::read(folder.path()).expect("a file"), progress);
    }

    #[test]
    fn what_cannot_be_read_is_put_aside() {
        let folder = tempfile::tempdir().expect("a folder");
        for text in ["{\"version\":2}\n", "garbage", "{\"version\":1}\n{\"feed\":{}}\n"] {
            fs::write(path(folder.path()), text).expect("a file");
            assert_eq!(Progress::read(folder.path()).expect("gone without"), Progress::default());
            assert!(path(folder.path()).exists(), "whoever only looks changes nothing");
            assert_eq!(
                Progress::read_or_put_aside(folder.path()).expect("gone without"),
                Progress::default()
            );
            assert!(!path(folder.path()).exists());
            assert_eq!(fs::read_to_string(folder.path().join("progress.unreadable")).expect("a file"), text);
        }
    }
}
