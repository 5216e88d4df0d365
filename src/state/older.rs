//! The state of the older tools: where their collection of a feed stopped, so that this program continues there.
//!
//! Both older tools list delivered blobs in [`known_blobs`], in two columns that name neither a tenant nor a feed. One of
//! them also writes `office365-TENANT-FEED.json` for each feed. Its `last_log_time` is the time at the end of a run, and not
//! of the listing, so that the last blobs before it can be missing. Both kinds of files stay as they are.
//!
//! Source: `src/state.rs` and `Collector::end_run` of Infopercept/office365-log-collector, version 2.7.
//!
//! A feed that this program has listed needs none of that. A feed that is added later has neither a file nor lines of its
//! own, and lines without a feed count only until this program has listed its first feed: it begins like every new feed.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use serde::Deserialize;

use super::{FeedId, KnownBlobs, Progress, StateError, known_blobs};
use crate::{
    disk::{self, FileContext},
    feed::ContentType,
    time,
};

/// The longest run of an older tool. The feed is listed again from this long before the time in its file.
const RUN_LASTS_MAX: Duration = Duration::from_secs(15 * 60);

/// The maximum number of bytes that are read of a feed's file. A real one has about 120.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Where the collection of a feed stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// The tenant's id.
    pub tenant_id: Arc<str>,
    /// The content type.
    pub content_type: ContentType,
    /// The time in the feed's own file. `None` if only `known_blobs` shows that an older tool collected it.
    pub at: Option<Timestamp>,
}

/// A feed's file.
#[derive(Deserialize)]
struct FeedFile {
    last_log_time: String,
    /// Whether the older tool had not completed a run yet.
    #[serde(default)]
    first_run: bool,
}

/// Lets `progress` continue each feed that an older tool has collected and this program has not. Returns these feeds.
///
/// `feeds` are all feeds of the configuration, also those that are not part of this pass, because the state of the older tool
/// counts only once. Without `only_future`, a feed whose stop is not known is not among them: its first pass looks back as
/// usual.
///
/// # Errors
///
/// A file of the older tool cannot be read. One that can be read and has no valid time is reported, and its feed continues as
/// if it had no file.
pub fn adopt(
    working_dir: &Path,
    feeds: &[FeedId],
    known: &KnownBlobs,
    only_future: bool,
    progress: &mut Progress,
) -> Result<Vec<Stopped>, StateError> {
    let is_new = |feed: &&FeedId| progress.feeds.get(*feed).is_none_or(|before| !before.has_begun());
    let new: Vec<_> = feeds.iter().filter(is_new).cloned().collect();
    if new.is_empty() {
        return Ok(Vec::new());
    }
    let files: HashMap<_, _> = feed_files(working_dir)?.into_iter().collect();
    let is_first_pass = progress.feeds.values().all(|before| before.listed_until.is_none());
    let is_any_known = is_first_pass && known.has_lines_of_any_feed();
    let is_never_seen = new.iter().any(|feed| !progress.feeds.contains_key(feed));
    let own_lines = if only_future && is_never_seen && !known.is_empty() {
        known_blobs::feeds_of(working_dir)?
    } else {
        HashSet::new()
    };
    let mut stopped = Vec::new();
    for (tenant_id, content_type) in new {
        let file = files.get(&file_name(&tenant_id, content_type));
        let read = file.map(|path| FeedFile::read(path)).transpose()?;
        let is_known = is_any_known || own_lines.contains(&(tenant_id.clone(), content_type));
        let (at, wanted_from) = match read {
            Some(Some((at, is_first_run))) => {
                let overlap = if is_known && !is_first_run { RUN_LASTS_MAX } else { Duration::ZERO };
                (Some(at), at - overlap)
            }
            // What is available may have been delivered before, but nothing is lost.
            Some(None) if only_future => (None, Timestamp::UNIX_EPOCH),
            None if only_future && is_known => (None, Timestamp::UNIX_EPOCH),
            _ => continue,
        };
        let before = progress.feeds.entry((tenant_id.clone(), content_type)).or_default();
        let before = Arc::make_mut(before);
        (before.listed_until, before.wanted_from) = (at, Some(wanted_from));
        stopped.push(Stopped { tenant_id, content_type, at });
    }
    Ok(stopped)
}

/// Returns the files of feeds in the folder, by name in lower case, because ids and content types differ in letter case.
fn feed_files(working_dir: &Path) -> Result<Vec<(String, PathBuf)>, StateError> {
    let entries = disk::none_if_missing(fs::read_dir(working_dir)).context("read", working_dir)?;
    let mut files = Vec::new();
    for entry in entries.into_iter().flatten() {
        let entry = entry.context("read", working_dir)?;
        let name = entry.file_name().to_string_lossy().to_ascii_lowercase();
        if name.starts_with(FILE_NAME_PREFIX) && name.ends_with(FILE_NAME_SUFFIX) {
            files.push((name, entry.path()));
        }
    }
    Ok(files)
}

const FILE_NAME_PREFIX: &str = "office365-";
const FILE_NAME_SUFFIX: &str = ".json";

/// Returns the name of a feed's file in lower case.
fn file_name(tenant_id: &str, content_type: ContentType) -> String {
    format!("{FILE_NAME_PREFIX}{tenant_id}-{content_type}{FILE_NAME_SUFFIX}").to_ascii_lowercase()
}

impl FeedFile {
    /// Returns the time in a file, and whether no run was complete. `None`: the file has no valid time, which is reported.
    fn read(path: &Path) -> Result<Option<(Timestamp, bool)>, StateError> {
        let text = read_text(path).context("read", path)?;
        let parsed = serde_json::from_slice(&text).map_err(|error| error.to_string());
        let read =
            parsed.and_then(|Self { last_log_time, first_run }| match time::parse(last_log_time.trim()) {
                Some(at) if at <= Timestamp::now() => Ok((at, first_run)),
                Some(at) => Err(format!("its last_log_time, {at}, is in the future")),
                None => Err("its last_log_time is not a time".to_owned()),
            });
        Ok(read
            .map_err(|problem| {
                log::warn!(
                    "{} is an older tool's state that cannot be used: {problem}; with only_future_events, what is available \
                     of the last 7 days is collected",
                    path.display()
                );
            })
            .ok())
    }
}

fn read_text(path: &Path) -> io::Result<Vec<u8>> {
    disk::require_own_regular(path)?;
    let mut text = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::FeedProgress;

    const TENANT: &str = "11111111-1111-4111-8111-111111111111";
    const OTHER_TENANT: &str = "22222222-2222-4222-8222-222222222222";
    const AT: &str = "2026-11-20T10:15:30.123456789Z";

    fn feed(content_type: ContentType) -> FeedId {
        (TENANT.into(), content_type)
    }

    /// A folder with the file of Audit.Exchange.
    fn folder(state: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let name = format!("office365-{TENANT}-Audit.Exchange.json");
        fs::write(folder.path().join(name), state).expect("a file");
        folder
    }

    fn with_known_blobs(lines: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join(known_blobs::FILE_NAME), lines).expect("a file");
        folder
    }

    /// What is adopted of Exchange and General, and the progress afterwards.
    fn adopted(folder: &Path, only_future: bool, mut progress: Progress) -> (Vec<Stopped>, Progress) {
        let feeds = [ContentType::AuditExchange, ContentType::AuditGeneral].map(feed);
        let known = KnownBlobs::read(folder).expect("a readable state");
        let stopped = adopt(folder, &feeds, &known, only_future, &mut progress).expect("a readable state");
        (stopped, progress)
    }

    fn stopped(content_type: ContentType, at: Option<&str>) -> Stopped {
        let at = at.map(|at| at.parse().expect("a time of the test"));
        Stopped { tenant_id: TENANT.into(), content_type, at }
    }

    fn state(first_run: bool) -> String {
        format!(r#"{{"last_log_time":"{AT}","last_run":"{AT}","first_run":{first_run}}}"#)
    }

    #[test]
    fn a_feed_with_a_file_continues_at_its_time() {
        let folder = folder(&state(false));
        for only_future in [true, false] {
            let (found, progress) = adopted(folder.path(), only_future, Progress::default());
            assert_eq!(found, [stopped(ContentType::AuditExchange, Some(AT))]);
            let at: Timestamp = AT.parse().expect("a time of the test");
            let of_feed = &progress.feeds[&feed(ContentType::AuditExchange)];
            assert_eq!((of_feed.listed_until, of_feed.wanted_from), (Some(at), Some(at)));
            assert_eq!(progress.feeds.len(), 1, "the other feed begins with its first pass");
        }
    }

    #[test]
    fn the_last_run_of_the_older_tool_is_listed_again_if_known_blobs_tells_what_it_delivered() {
        for (first_run, overlap) in [(false, RUN_LASTS_MAX), (true, Duration::ZERO)] {
            let folder = folder(&state(first_run));
            fs::write(folder.path().join(known_blobs::FILE_NAME), "a,2026-11-27T10:00:00.000Z\n")
                .expect("a file");
            let (_, progress) = adopted(folder.path(), true, Progress::default());
            let at: Timestamp = AT.parse().expect("a time of the test");
            assert_eq!(progress.feeds[&feed(ContentType::AuditExchange)].wanted_from, Some(at - overlap));
        }
    }

    #[test]
    fn every_spelling_of_the_ids_is_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let name = "office365-AAAAAAAA-1111-4111-8111-111111111111-Audit.Sharepoint.json";
        fs::write(folder.path().join(name), state(false)).expect("a file");
        let feeds = [("aaaaaaaa-1111-4111-8111-111111111111".into(), ContentType::AuditSharePoint)];
        let found = adopt(folder.path(), &feeds, &KnownBlobs::default(), true, &mut Progress::default());
        assert_eq!(found.expect("a readable state").len(), 1);
    }

    #[test]
    fn a_file_that_makes_no_sense_loses_nothing() {
        for text in [
            "",
            "{}",
            "{\"last_log_time\":7}",
            "{\"last_log_time\":\"soon\"}",
            "{\"last_log_time\":\"2999-01-01T00:00:00Z\"}",
        ] {
            let folder = folder(text);
            let (found, progress) = adopted(folder.path(), true, Progress::default());
            assert_eq!(found, [stopped(ContentType::AuditExchange, None)], "{text}");
            let of_feed = &progress.feeds[&feed(ContentType::AuditExchange)];
            assert_eq!(
                (of_feed.listed_until, of_feed.wanted_from),
                (None, Some(Timestamp::UNIX_EPOCH)),
                "{text}"
            );
            assert_eq!(adopted(folder.path(), false, Progress::default()).0, []);
        }
    }

    #[test]
    fn lines_without_a_feed_count_for_every_feed_until_one_is_listed() {
        let folder = with_known_blobs("a,2026-11-27T10:00:00.000Z\n");
        let all = [ContentType::AuditExchange, ContentType::AuditGeneral].map(|feed| stopped(feed, None));
        let (found, mut progress) = adopted(folder.path(), true, Progress::default());
        assert_eq!(found, all);
        assert_eq!(adopted(folder.path(), true, progress.clone()).0, [], "they are adopted");
        assert_eq!(adopted(folder.path(), false, Progress::default()).0, []);

        let listed = FeedProgress { listed_until: Some(Timestamp::UNIX_EPOCH), ..FeedProgress::default() };
        progress.feeds.clear();
        progress.feeds.insert((OTHER_TENANT.into(), ContentType::DlpAll), Arc::new(listed));
        assert_eq!(
            adopted(folder.path(), true, progress).0,
            [],
            "a feed that is added later begins like any other"
        );
    }

    #[test]
    fn a_feed_without_progress_continues_if_lines_of_its_own_tell_that_it_was_collected() {
        let line = format!("a,2026-11-27T10:00:00.000Z,{TENANT},Audit.General\n");
        let folder = with_known_blobs(&line);
        let (found, mut progress) = adopted(folder.path(), true, Progress::default());
        assert_eq!(found, [stopped(ContentType::AuditGeneral, None)]);
        let failed = FeedProgress { last_error: Some("x".to_owned()), ..FeedProgress::default() };
        progress.feeds = [ContentType::AuditExchange, ContentType::AuditGeneral]
            .map(|of| (feed(of), Arc::new(failed.clone())))
            .into();
        assert_eq!(adopted(folder.path(), true, progress).0, []);
    }
}
