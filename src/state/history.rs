//! `history`: one line of JSON for each pass, oldest first, for `status`. A pass does not read what it contains.
//!
//! ```json
//! {"version":1,"start":"2026-11-22T10:15:00Z","seconds":4.2,"exit":0,"quiet":4,"lag":6,
//!  "tenants":{"11111111-1111-4111-8111-111111111111":{"Audit.Exchange":{"blobs":50,"records":25000,"lag":6}}}}
//! ```
//!
//! | field | meaning |
//! | --- | --- |
//! | `start`, `seconds`, `exit` | when the pass started, how long it took, its exit code |
//! | `restricted` | `true` if the pass was restricted to tenants by `--tenant` |
//! | `tenants` | by tenant id and content type: the feeds that the line describes |
//! | `blobs`, `records` | what was delivered; omitted if 0 |
//! | `failures` | failed blobs, and 1 if the feed could not be listed; omitted if 0 |
//! | `lag` | seconds from the end of what is listed to the end of the pass |
//! | `quiet` | the number of quiet feeds: nothing new, no failure, and a lag close to the `lag` of the line |
//! | `omitted` | the number of all other feeds that are not described because there are too many |
//!
//! A line is durable when the pass ends. A pass that is killed has none. Each line has its own version; lines that cannot be
//! read are skipped. The file has at most [`LINES_MAX`] lines of the last 30 days, and 64 MiB. When it exceeds one of these
//! bounds, the oldest tenth is removed as well, so that not every pass rewrites the file. A lock on the file keeps two passes
//! that end at the same time apart.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{StateError, lock};
use crate::{
    disk::{self, FileContext},
    limits::STATE_BUFFER_BYTES,
};

/// The file's name in `workingDir`.
pub const FILE_NAME: &str = "history";

const VERSION: u32 = 1;

/// The maximum age of a line.
pub const AGE_MAX: SignedDuration = SignedDuration::from_hours(30 * 24);

/// The maximum number of lines.
pub const LINES_MAX: usize = 20_000;

/// The maximum size of the file. A line about 1,000 tenants whose five feeds all have something new takes 400 KiB, so that the
/// file contains the passes of half a day. With new content in a tenth of the feeds, it contains those of five days.
const BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The maximum number of feeds that a line describes.
pub const FEEDS_MAX: usize = 10_000;

/// A longer line is damaged.
const LINE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// The maximum wait for another pass that writes the file.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(1);

/// No line of this program is shorter, so that a smaller file need not be read to count its lines.
const LINE_BYTES_MIN: u64 = 64;

/// What remains of a file that exceeds its bounds.
const KEPT_LINES: usize = LINES_MAX / 10 * 9;
const KEPT_BYTES: u64 = BYTES_MAX / 10 * 9;
const KEPT_AGE: SignedDuration = SignedDuration::from_secs(AGE_MAX.as_secs() / 30 * 29);

/// The longest description of a feed, with the id of a tenant that has no other.
const FEED_BYTES_MAX: usize = 200;

const _: () = assert!(FEEDS_MAX * FEED_BYTES_MAX < LINE_BYTES_MAX, "a line is not too long to be read");

/// A pass.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PassLine {
    /// The version of the line.
    pub version: u32,
    /// When the pass started.
    pub start: Timestamp,
    /// The duration of the pass in seconds.
    pub seconds: f64,
    /// The exit code.
    pub exit: u8,
    /// Whether the pass was restricted to tenants by `--tenant`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restricted: bool,
    /// The number of quiet feeds: nothing new, no failure, and the usual lag.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub quiet: u64,
    /// The lag of these feeds in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<i64>,
    /// The number of feeds that are not described because there are too many.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub omitted: u64,
    /// The other feeds, by tenant id and content type.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tenants: BTreeMap<String, BTreeMap<String, FeedLine>>,
}

/// A feed in a pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedLine {
    /// Blobs delivered.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub blobs: u64,
    /// Records delivered.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub records: u64,
    /// Failed blobs, and 1 if the feed could not be listed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failures: u64,
    /// Seconds from the end of what is listed to the end of the pass. `None` if the feed was never listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<i64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl PassLine {
    /// Returns the line of a pass without feeds.
    pub fn new(start: Timestamp, lasted: Duration, exit: u8) -> Self {
        let seconds = (lasted.as_secs_f64() * 1000.0).round() / 1000.0;
        Self { version: VERSION, start, seconds, exit, ..Self::default() }
    }
}

/// Appends the line of a pass durably, and removes the oldest lines if there are too many.
///
/// # Errors
///
/// The file cannot be read or written, or another pass has it locked for longer than `LOCK_WAIT_MAX`.
pub fn append(working_dir: &Path, pass: &PassLine) -> Result<(), StateError> {
    let path = path(working_dir);
    disk::require_own_regular(&path).context("open", &path)?;
    let mut file = open_locked(&path)?;
    disk::recover(&path).context("recover", &path)?;
    Ok(append_line(&mut file, pass).and_then(|()| trim(&file, &path, pass.start)).context("write", &path)?)
}

/// Opens and locks the file, and waits for a moment if another pass has locked it.
fn open_locked(path: &Path) -> Result<File, StateError> {
    const STEP: Duration = Duration::from_millis(10);
    let until = Instant::now() + LOCK_WAIT_MAX;
    loop {
        match lock::open_locked(path) {
            Err(StateError::Locked { .. }) if Instant::now() < until => thread::sleep(STEP),
            opened => return opened,
        }
    }
}

fn append_line(file: &mut File, pass: &PassLine) -> io::Result<()> {
    let mut line = Vec::new();
    let length = file.metadata()?.len();
    let mut last = [b'\n'];
    if length > 0 {
        file.read_exact_at(&mut last, length - 1)?;
    }
    if last != [b'\n'] {
        line.push(b'\n'); // the line before is torn, as a crash leaves it
    }
    serde_json::to_writer(&mut line, pass)?;
    line.push(b'\n');
    disk::append_durably(file, &line)
}

/// Replaces a file that exceeds its bounds by one with the newest lines.
fn trim(file: &File, path: &Path, now: Timestamp) -> io::Result<()> {
    let Some(kept) = kept_range(file, now)? else { return Ok(()) };
    let mut source = BufReader::with_capacity(STATE_BUFFER_BYTES, file);
    source.seek(SeekFrom::Start(kept.start))?;
    let mut source = source.take(kept.end - kept.start);
    disk::replace(path, 0o600, |to| io::copy(&mut source, to).map(drop), |_| Ok(())).map(drop)
}

/// Returns the part of the file that is to be kept. `None` if the file is within its bounds.
fn kept_range(file: &File, now: Timestamp) -> io::Result<Option<Range<u64>>> {
    let length = file.metadata()?.len();
    let mut is_within = length <= BYTES_MAX && is_young(&first_line(file)?, now - AGE_MAX);
    if is_within && length > LINES_MAX as u64 * LINE_BYTES_MIN {
        is_within = count_lines(file)? <= LINES_MAX;
    }
    if is_within {
        return Ok(None);
    }
    // The starts of the lines that are young, or cannot be dated and follow a young one.
    let (mut starts, mut place) = (Vec::new(), 0);
    each_line(file, |line, bytes| {
        if is_young(line, now - KEPT_AGE) || (!starts.is_empty() && start_of(line).is_none()) {
            starts.push(place);
        }
        place += bytes;
    })?;
    let newest = starts.len().saturating_sub(KEPT_LINES);
    let fits = |start: &&u64| length - **start <= KEPT_BYTES;
    Ok(Some(starts[newest..].iter().find(fits).copied().unwrap_or(length)..length))
}

/// Returns whether a line is of a pass that started after this time.
fn is_young(line: &[u8], after: Timestamp) -> bool {
    start_of(line).is_some_and(|start| start > after)
}

/// Returns when the pass of a line started, also for a line of a later version.
fn start_of(line: &[u8]) -> Option<Timestamp> {
    #[derive(Deserialize)]
    struct Start {
        start: Timestamp,
    }
    serde_json::from_slice::<Start>(line).ok().map(|Start { start }| start)
}

fn first_line(file: &File) -> io::Result<Vec<u8>> {
    let mut reader = BufReader::with_capacity(STATE_BUFFER_BYTES, file);
    reader.seek(SeekFrom::Start(0))?;
    let mut line = Vec::new();
    reader.take(LINE_BYTES_MAX as u64).read_until(b'\n', &mut line)?;
    Ok(line)
}

fn count_lines(mut file: &File) -> io::Result<usize> {
    file.seek(SeekFrom::Start(0))?;
    let (mut buffer, mut count) = (vec![0; STATE_BUFFER_BYTES], 0);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(count),
            length => count += memchr::memchr_iter(b'\n', &buffer[..length]).count(),
        }
    }
}

/// Calls `act` for each line of the file with the line and its length in the file. A line that is too long is passed on as an
/// empty one.
fn each_line(file: &File, mut act: impl FnMut(&[u8], u64)) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(STATE_BUFFER_BYTES, file);
    reader.seek(SeekFrom::Start(0))?;
    let mut line = Vec::new();
    loop {
        line.clear();
        let part = (&mut reader).take(LINE_BYTES_MAX as u64).read_until(b'\n', &mut line)?;
        if part == 0 {
            return Ok(());
        }
        let mut bytes = part as u64;
        let is_whole = line.ends_with(b"\n") || part < LINE_BYTES_MAX;
        if !is_whole {
            bytes += reader.skip_until(b'\n')? as u64;
            line.clear();
        }
        act(&line, bytes);
    }
}

/// Calls `act` for each pass, oldest first. Does nothing if there is no history.
///
/// # Errors
///
/// The file cannot be read.
pub fn read(working_dir: &Path, mut act: impl FnMut(PassLine)) -> Result<(), StateError> {
    let path = path(working_dir);
    disk::require_own_regular(&path).context("read", &path)?;
    let Some(file) = disk::none_if_missing(File::open(&path)).context("read", &path)? else { return Ok(()) };
    let each = |line: &[u8], _| {
        if let Ok(pass @ PassLine { version: VERSION, .. }) = serde_json::from_slice(line) {
            act(pass);
        }
    };
    Ok(each_line(&file, each).context("read", &path)?)
}

fn path(working_dir: &Path) -> PathBuf {
    working_dir.join(FILE_NAME)
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write};

    use super::*;

    fn time(text: &str) -> Timestamp {
        text.parse().expect("a time of the test")
    }

    fn pass(start: Timestamp) -> PassLine {
        PassLine { quiet: 5, lag: Some(6), ..PassLine::new(start, Duration::from_micros(1_234_567), 0) }
    }

    fn starts(folder: &Path) -> Vec<Timestamp> {
        let mut starts = Vec::new();
        read(folder, |pass| starts.push(pass.start)).expect("a readable file");
        starts
    }

    #[test]
    fn a_line_is_read_as_it_was_written_and_says_nothing_of_what_is_zero() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(starts(folder.path()), []);
        let mut line = pass(time("2026-11-22T10:15:00Z"));
        let feed = FeedLine { blobs: 50, records: 25_000, failures: 0, lag: Some(6) };
        line.tenants.entry("t".to_owned()).or_default().insert("Audit.Exchange".to_owned(), feed);
        append(folder.path(), &line).expect("room");
        let mut read_back = Vec::new();
        read(folder.path(), |pass| read_back.push(pass)).expect("a readable file");
        assert_eq!(read_back, [line]);
        assert_eq!(
            fs::read_to_string(path(folder.path())).expect("a file"),
            "{\"version\":1,\"start\":\"2026-11-22T10:15:00Z\",\"seconds\":1.235,\"exit\":0,\"quiet\":5,\"lag\":6,\
             \"tenants\":{\"t\":{\"Audit.Exchange\":{\"blobs\":50,\"records\":25000,\"lag\":6}}}}\n"
        );
    }

    #[test]
    fn lines_that_cannot_be_read_are_skipped() {
        let folder = tempfile::tempdir().expect("a folder");
        let (first, second) = (time("2026-11-22T10:15:00Z"), time("2026-11-22T10:20:00Z"));
        append(folder.path(), &pass(first)).expect("room");
        let mut text = fs::read(path(folder.path())).expect("a file");
        text.extend_from_slice(
            b"\xff\xfe\n\n{\"version\":2,\"start\":\"2026-11-22T10:16:00Z\"}\n{\"version\":1,\"sta",
        );
        fs::write(path(folder.path()), text).expect("a file");
        append(folder.path(), &pass(second)).expect("room");
        assert_eq!(starts(folder.path()), [first, second]);
        let mut long = vec![b'x'; LINE_BYTES_MAX * 2 + 7];
        long.push(b'\n');
        fs::File::options()
            .append(true)
            .open(path(folder.path()))
            .and_then(|mut file| file.write_all(&long))
            .expect("a file");
        append(folder.path(), &pass(second)).expect("room");
        assert_eq!(starts(folder.path()), [first, second, second]);
    }

    #[test]
    fn lines_older_than_thirty_days_are_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let now = time("2026-11-22T10:15:00Z");
        let ages = [720, 719, 696, 695, 1].map(|hours| now - SignedDuration::from_hours(hours));
        for start in &ages[1..] {
            append(folder.path(), &pass(*start)).expect("room");
        }
        append(folder.path(), &pass(now)).expect("room");
        assert_eq!(starts(folder.path()).len(), 5, "none is too old yet");
        let text = fs::read_to_string(path(folder.path())).expect("a file");
        fs::write(path(folder.path()), text.replace(&ages[1].to_string(), &ages[0].to_string()))
            .expect("a file");
        append(folder.path(), &pass(now)).expect("room");
        assert_eq!(starts(folder.path()), [ages[3], ages[4], now, now], "and those of the day after it");
    }

    #[test]
    fn the_oldest_lines_are_removed_beyond_the_maximum_number_or_size() {
        let folder = tempfile::tempdir().expect("a folder");
        let now = time("2026-11-22T10:15:00Z");
        let line = serde_json::to_string(&pass(now)).expect("a line") + "\n";
        assert!(line.len() as u64 >= LINE_BYTES_MIN);
        fs::write(path(folder.path()), line.repeat(LINES_MAX - 1)).expect("a file");
        append(folder.path(), &pass(now)).expect("room");
        assert_eq!(starts(folder.path()).len(), LINES_MAX);
        append(folder.path(), &pass(now)).expect("room");
        assert_eq!(starts(folder.path()).len(), KEPT_LINES);

        let padded = line.replace('{', &format!("{{{}", " ".repeat(1024 * 1024)));
        let count = usize::try_from(BYTES_MAX / (1024 * 1024)).expect("a few");
        fs::write(path(folder.path()), padded.repeat(count)).expect("a file");
        append(folder.path(), &pass(now)).expect("room");
        let length = fs::metadata(path(folder.path())).expect("a file").len();
        assert!(length <= KEPT_BYTES && length > KEPT_BYTES - 2 * 1024 * 1024, "{length} bytes are left");
    }
}
