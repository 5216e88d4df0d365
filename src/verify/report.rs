//! The result of `verify`: as a table with a sentence that can be quoted, and as JSON.

use std::{
    fmt::Write as _,
    mem,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::Serialize;

use super::{
    Compared,
    ledger::{BlobState, Listed, Listing},
};
use crate::{
    config::Tenant,
    disk::{self, FileContext, FileError},
    exit::Exit,
    feed::ContentType,
    redact::one_line,
    report::{
        Summary,
        metrics::{self, Labels},
        number::{amount, grouped},
        status,
    },
    state::{FeedId, Progress},
};

/// The version of the JSON. A field may be added without another version.
const VERSION: u32 = 1;

/// The maximum number of blobs that the text names, and of records that are found too often.
const SHOWN_MAX: usize = 20;

/// The result of `verify`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub struct Report {
    /// The beginning of the verified period.
    from: Timestamp,
    /// Its end.
    until: Timestamp,
    feeds: Vec<FeedResult>,
    /// Blobs that are pending or unknown, or of which records are missing.
    blobs: Vec<BlobResult>,
    /// The files that were compared; `None` without `--content`.
    files: Option<Vec<FileResult>>,
    /// Places of records that are in the files too often; at most twenty records.
    repeated: Vec<Place>,
    /// What the next pass delivers; `None` without `--repair`.
    repair: Option<Repaired>,
    #[serde(skip)]
    exit: Exit,
}

#[derive(Serialize)]
struct Json<'a> {
    version: u32,
    is_clean: bool,
    #[serde(flatten)]
    report: &'a Report,
}

/// The result for a feed.
#[derive(Clone, Debug, Serialize)]
struct FeedResult {
    #[serde(skip)]
    id: FeedId,
    tenant: String,
    tenant_id: String,
    content_type: &'static str,
    blobs: BlobCounts,
    /// `None` without `--content`.
    records: Option<RecordCounts>,
    /// When the filter was last changed, if records from before are missing.
    filter_changed: Option<Timestamp>,
    /// Why the feed could not be verified as a whole.
    error: Option<String>,
}

/// The numbers of blobs. `listed` is the sum of the others.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct BlobCounts {
    listed: u64,
    known: u64,
    pending: u64,
    gone: u64,
    quarantined: u64,
    new: u64,
    not_collected: u64,
    unknown: u64,
}

/// The numbers of records.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct RecordCounts {
    /// Different records that Microsoft serves and the filter keeps.
    served: u64,
    /// Those that are in the files as often as they should be.
    found: u64,
    missing: u64,
    /// Those of the missing ones that became available before the filter was changed, which may have dropped them.
    missing_of_earlier_filter: u64,
    repeated: u64,
    /// Records that the filter drops.
    filtered: u64,
    /// Delivered blobs that could not be downloaded again.
    blobs_not_compared: u64,
}

#[derive(Clone, Debug, Serialize)]
struct BlobResult {
    tenant: String,
    content_type: &'static str,
    content_id: String,
    created: Timestamp,
    /// `unknown`, `pending` or `known`.
    state: &'static str,
    /// Why it is pending.
    reason: Option<&'static str>,
    records_served: Option<u64>,
    records_missing: Option<u64>,
}

#[derive(Clone, Debug, Serialize)]
struct FileResult {
    path: PathBuf,
    records: u64,
    unreadable_lines: u64,
    /// Why the file could not be read, or not to its end.
    damage: Option<String>,
}

/// A line with a record that is in the files too often.
#[derive(Clone, Debug, Serialize)]
struct Place {
    tenant: String,
    content_type: &'static str,
    path: PathBuf,
    line: u64,
}

/// A column of a table: its name, and its value for a feed.
type Column = (&'static str, fn(&FeedResult) -> u64);

/// What the next pass delivers.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Repaired {
    /// Blobs that became pending.
    pub blobs: usize,
    /// Their records that are written to the files.
    pub records: usize,
}

impl Report {
    pub(super) fn new(from: Timestamp, until: Timestamp, tenants: &[Tenant]) -> Self {
        let feed = |(tenant, content_type): (&Tenant, ContentType)| FeedResult {
            id: (tenant.tenant_id.clone(), content_type),
            tenant: tenant.label().to_owned(),
            tenant_id: tenant.tenant_id.to_string(),
            content_type: content_type.name(),
            blobs: BlobCounts::default(),
            records: None,
            filter_changed: None,
            error: None,
        };
        let feeds =
            tenants.iter().flat_map(|tenant| tenant.subscriptions.iter().map(move |&feed| (tenant, feed)));
        Self {
            from,
            until,
            feeds: feeds.map(feed).collect(),
            blobs: Vec::new(),
            files: None,
            repeated: Vec::new(),
            repair: None,
            exit: Exit::Complete,
        }
    }

    /// Adds why feeds could not be listed.
    pub(super) fn add_summary(&mut self, summary: &Summary) {
        self.exit = exit_of(self.exit, summary);
        for feed in summary.feeds.iter().filter(|feed| !feed.is_listed) {
            if let Some(result) = self.feed(&(feed.tenant_id.clone(), feed.content_type)) {
                result.error = Some("it could not be listed as a whole; the log names the reason".to_owned());
            }
        }
    }

    /// Adds what the state knows of the listed blobs.
    pub(super) fn add_ledger(&mut self, listing: &Listing, states: &[BlobState]) {
        for (blob, state) in states.iter().enumerate() {
            let Some(feed) = self.feed(&listing.feed_id(blob)) else { continue };
            feed.blobs.listed += 1;
            *feed.blobs.count_of(state) += 1;
            let reason = match state {
                BlobState::Pending(reason) => Some(*reason),
                BlobState::Unknown => None,
                _ => continue,
            };
            let named = BlobResult {
                tenant: feed.tenant.clone(),
                content_type: feed.content_type,
                content_id: listing.blobs[blob].blob.content_id.clone(),
                created: listing.blobs[blob].blob.created,
                state: if reason.is_some() { "pending" } else { "unknown" },
                reason,
                records_served: None,
                records_missing: None,
            };
            self.blobs.push(named);
        }
    }

    /// Adds the comparison of records with files.
    pub(super) fn add_content(&mut self, listing: &Listing, compared: &Compared, progress: &Progress) {
        self.exit = exit_of(self.exit, &compared.summary);
        for feed in &compared.summary.feeds {
            let counts = &feed.counts;
            let Some(result) = self.feed(&(feed.tenant_id.clone(), feed.content_type)) else { continue };
            let records = result.records.get_or_insert_default();
            records.filtered = counts.filtered;
            records.blobs_not_compared = counts.failed + counts.gone + counts.left;
        }
        for (&blob, counts) in compared.blobs.iter().zip(&compared.comparison.blobs) {
            let Some(feed) = self.feed(&listing.feed_id(blob)) else { continue };
            let records = feed.records.get_or_insert_default();
            records.served += counts.served;
            records.missing += counts.missing;
            records.repeated += counts.repeated;
            records.found +=
                counts.served - counts.missing - counts.repeated.min(counts.served - counts.missing);
            if counts.missing == 0 {
                continue;
            }
            let changed = progress.feeds.get(&feed.id).and_then(|progress| progress.filter_changed);
            if changed.is_some_and(|changed| listing.blobs[blob].blob.created < changed) {
                records.missing_of_earlier_filter += counts.missing;
                feed.filter_changed = changed;
            }
            let (tenant, content_type) = (feed.tenant.clone(), feed.content_type);
            let Listed { blob, .. } = &listing.blobs[blob];
            let (served, missing) = (Some(counts.served), Some(counts.missing));
            let is_named = |it: &&mut BlobResult| {
                (&it.tenant, it.content_type, &it.content_id) == (&tenant, content_type, &blob.content_id)
            };
            if let Some(named) = self.blobs.iter_mut().find(is_named) {
                (named.records_served, named.records_missing) = (served, missing);
                continue;
            }
            self.blobs.push(BlobResult {
                tenant,
                content_type,
                content_id: blob.content_id.clone(),
                created: blob.created,
                state: "known",
                reason: None,
                records_served: served,
                records_missing: missing,
            });
        }
        for (blob, path, line) in &compared.places {
            let Some(feed) = self.feed(&listing.feed_id(compared.blobs[*blob])) else { continue };
            let (tenant, content_type) = (feed.tenant.clone(), feed.content_type);
            self.repeated.push(Place { tenant, content_type, path: path.clone(), line: *line });
        }
        let read = compared.files.iter().map(|(path, contents)| FileResult {
            path: path.clone(),
            records: contents.records,
            unreadable_lines: contents.unreadable_lines,
            damage: contents.damage.clone(),
        });
        let unreadable = compared.unreadable.iter().map(|(path, problem)| FileResult {
            path: path.clone(),
            records: 0,
            unreadable_lines: 0,
            damage: Some(problem.clone()),
        });
        self.files = Some(read.chain(unreadable).collect());
    }

    /// Adds what the next pass delivers.
    pub(super) fn add_repair(&mut self, repaired: Repaired) {
        self.repair = Some(repaired);
    }

    fn feed(&mut self, id: &FeedId) -> Option<&mut FeedResult> {
        self.feeds.iter_mut().find(|feed| feed.id == *id)
    }

    /// Returns the exit code: 0 if nothing is missing, repeated, damaged or unchecked.
    pub fn exit(&self) -> Exit {
        match self.exit {
            Exit::Complete if !self.is_clean() => Exit::TryAgain,
            exit => exit,
        }
    }

    /// Returns whether nothing is missing, repeated, damaged or unchecked.
    pub fn is_clean(&self) -> bool {
        let is_clean = |feed: &FeedResult| {
            let records = feed.records.unwrap_or_default();
            feed.error.is_none()
                && feed.blobs.unknown == 0
                && records.missing + records.repeated + records.blobs_not_compared == 0
        };
        self.exit == Exit::Complete
            && self.feeds.iter().all(is_clean)
            && self.files.iter().flatten().all(|file| file.damage.is_none())
    }

    /// Returns the report as JSON.
    pub fn as_json(&self) -> String {
        serde_json::to_string_pretty(&Json { version: VERSION, is_clean: self.is_clean(), report: self })
            .expect("a report is text, numbers and paths of text")
    }

    /// Returns the report as text: a table, what is wrong, and a sentence that can be quoted.
    pub fn as_text(&self) -> String {
        let mut text = self.tables();
        self.write_files(&mut text);
        self.write_blobs(&mut text);
        self.write_repeated(&mut text);
        for feed in &self.feeds {
            if let (Some(changed), Some(records)) = (feed.filter_changed, &feed.records) {
                let _ = writeln!(
                    text,
                    "{} {}: {} of the missing records are from before {changed:.0}, when the filter was changed; the \
                     earlier filter may have dropped them",
                    feed.tenant,
                    feed.content_type,
                    grouped(records.missing_of_earlier_filter)
                );
            }
        }
        for feed in self.feeds.iter().filter(|feed| feed.error.is_some()) {
            let error = feed.error.as_deref().unwrap_or_default();
            let _ = writeln!(text, "{} {}: {error}", feed.tenant, feed.content_type);
        }
        let _ = writeln!(text, "\n{}", self.sentence());
        if let Some(Repaired { blobs, records }) = self.repair {
            let _ = match (blobs, self.files.is_some()) {
                (0, _) => writeln!(text, "Nothing is to be repaired."),
                (_, true) => writeln!(
                    text,
                    "The next pass delivers {}, and writes {} to the files.",
                    amount(blobs as u64, "blob"),
                    amount(records as u64, "missing record")
                ),
                (_, false) => writeln!(text, "The next pass delivers {}.", amount(blobs as u64, "blob")),
            };
        }
        text
    }

    /// Replaces the textfile for Prometheus next to the one of passes: `office365-verify.prom` next to `office365.prom`.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn write_metrics(&self, of_passes: &Path) -> Result<(), FileError> {
        let stem = of_passes.file_stem().unwrap_or_default().to_string_lossy();
        let path = of_passes.with_file_name(format!("{stem}-verify.prom"));
        let written = disk::replace_with(&path, 0o644, self.metrics().as_bytes());
        written.map(drop).context("write the metrics of verify", &path)
    }

    fn metrics(&self) -> String {
        type Gauge = (&'static str, &'static str, fn(&FeedResult) -> Option<u64>);
        const GAUGES: [Gauge; 5] = [
            ("verify_blobs_listed", "Blobs that Microsoft lists.", |feed| Some(feed.blobs.listed)),
            ("verify_blobs_unknown", "Listed blobs that no pass has delivered or remembers.", |feed| {
                Some(feed.blobs.unknown)
            }),
            ("verify_records_served", "Records compared with files.", |feed| Some(feed.records?.served)),
            ("verify_records_missing", "Records that are in no file.", |feed| Some(feed.records?.missing)),
            ("verify_records_repeated", "Records that are in the files too often.", |feed| {
                Some(feed.records?.repeated)
            }),
        ];
        let (mut text, ended) = (String::new(), self.until.as_second());
        metrics::gauge(&mut text, "verify_last_run_timestamp_seconds", "When verify was last run.", ended);
        metrics::gauge(&mut text, "verify_exit_code", "The exit code of verify.", self.exit().code());
        for (name, help, value_of) in GAUGES {
            let mut is_first = true;
            for feed in &self.feeds {
                let Some(value) = value_of(feed) else { continue };
                if mem::take(&mut is_first) {
                    metrics::head(&mut text, name, help, "gauge");
                }
                let labels = Labels { tenant: &feed.tenant, content_type: feed.id.1 };
                metrics::sample(&mut text, name, labels, value);
            }
        }
        text
    }

    /// Returns the numbers of blobs, and those of records if they were compared.
    fn tables(&self) -> String {
        const BLOBS: [Column; 8] = [
            ("LISTED", |feed| feed.blobs.listed),
            ("KNOWN", |feed| feed.blobs.known),
            ("PENDING", |feed| feed.blobs.pending),
            ("GONE", |feed| feed.blobs.gone),
            ("QUARANTINED", |feed| feed.blobs.quarantined),
            ("NEW", |feed| feed.blobs.new),
            ("NOT COLLECTED", |feed| feed.blobs.not_collected),
            ("UNKNOWN", |feed| feed.blobs.unknown),
        ];
        const RECORDS: [Column; 6] = [
            ("SERVED", |feed| feed.records.unwrap_or_default().served),
            ("FOUND ONCE", |feed| feed.records.unwrap_or_default().found),
            ("MISSING", |feed| feed.records.unwrap_or_default().missing),
            ("REPEATED", |feed| feed.records.unwrap_or_default().repeated),
            ("FILTERED", |feed| feed.records.unwrap_or_default().filtered),
            ("BLOBS NOT COMPARED", |feed| feed.records.unwrap_or_default().blobs_not_compared),
        ];
        let mut text = format!("Blobs\n{}", self.table(&BLOBS));
        if self.files.is_some() {
            let _ = write!(text, "\nRecords\n{}", self.table(&RECORDS));
        }
        text
    }

    /// Returns a table with a row for each feed.
    fn table(&self, columns: &[Column]) -> String {
        let cell = |count: u64| if count == 0 { "-".to_owned() } else { grouped(count) };
        let names = columns.iter().map(|(name, _)| (*name).to_owned());
        let mut rows = vec![["TENANT", "FEED"].map(str::to_owned).into_iter().chain(names).collect()];
        for feed in &self.feeds {
            let mut row = vec![feed.tenant.clone(), feed.content_type.to_owned()];
            row.extend(columns.iter().map(|(_, value_of)| cell(value_of(feed))));
            rows.push(row);
        }
        status::aligned(&rows)
    }

    fn write_files(&self, text: &mut String) {
        let Some(files) = &self.files else { return };
        let records = files.iter().map(|file| file.records).sum();
        let _ = writeln!(
            text,
            "\nCompared with {} in {}",
            amount(records, "record"),
            amount(files.len() as u64, "file")
        );
        for file in files {
            let path = file.path.display();
            if let Some(damage) = &file.damage {
                let _ = writeln!(
                    text,
                    "{path} cannot be read to its end: {damage}; the records after that count as missing"
                );
            }
            if file.unreadable_lines > 0 {
                let lines = amount(file.unreadable_lines, "line");
                let _ = writeln!(text, "{path} has {lines} without a whole record");
            }
        }
    }

    fn write_blobs(&self, text: &mut String) {
        if self.blobs.is_empty() {
            return;
        }
        let mut rows = vec![["TENANT", "FEED", "BLOB", "AVAILABLE", "STATE", "MISSING"].map(str::to_owned)];
        // Gaps come first, because the text does not name all blobs.
        let mut blobs: Vec<_> = self.blobs.iter().collect();
        blobs.sort_by_key(|blob| (blob.reason.is_some(), blob.records_missing.is_none()));
        for blob in blobs.iter().take(SHOWN_MAX) {
            let missing = match (blob.records_missing, blob.records_served) {
                (Some(missing), Some(served)) => format!("{} of {}", grouped(missing), grouped(served)),
                _ => "-".to_owned(),
            };
            let state = match blob.reason {
                Some(reason) => format!("{}: {reason}", blob.state),
                None => blob.state.to_owned(),
            };
            let (created, id) = (format!("{:.0}", blob.created), one_line(&blob.content_id));
            rows.push([blob.tenant.clone(), blob.content_type.to_owned(), id, created, state, missing]);
        }
        let _ =
            write!(text, "\nBlobs that are pending or unknown, or lack records\n{}", status::aligned(&rows));
        if let Some(more) = self.blobs.len().checked_sub(SHOWN_MAX).filter(|more| *more > 0) {
            let _ = writeln!(text, "… and {more} more; --json names all of them");
        }
    }

    fn write_repeated(&self, text: &mut String) {
        if self.repeated.is_empty() {
            return;
        }
        let _ = writeln!(text, "\nLines of records that are in the files too often");
        for place in &self.repeated {
            let Place { tenant, content_type, path, line } = place;
            let _ = writeln!(text, "{}:{line} ({tenant} {content_type})", path.display());
        }
    }

    /// Returns the result in one sentence that can be quoted.
    fn sentence(&self) -> String {
        let blobs = |of: fn(&BlobCounts) -> u64| self.feeds.iter().map(|feed| of(&feed.blobs)).sum::<u64>();
        let (listed, known) = (blobs(|it| it.listed), blobs(|it| it.known));
        let states: [(&str, u64); 6] = [
            ("unknown", blobs(|it| it.unknown)),
            ("pending", blobs(|it| it.pending)),
            ("new since the last pass", blobs(|it| it.new)),
            ("gone", blobs(|it| it.gone)),
            ("in quarantine", blobs(|it| it.quarantined)),
            ("not to be collected", blobs(|it| it.not_collected)),
        ];
        let mut sentence = format!(
            "{} {} of {}, {:.0} to {:.0}: {} listed, ",
            if self.is_clean() { "Verified" } else { "Not verified:" },
            amount(self.feeds.len() as u64, "feed"),
            self.tenants(),
            self.from,
            self.until,
            amount(listed, "blob")
        );
        if known == listed {
            sentence.push_str("all known");
        } else {
            let _ = write!(sentence, "{} known", grouped(known));
        }
        for (state, count) in states.into_iter().filter(|(_, count)| *count > 0) {
            let _ = write!(sentence, ", {} {state}", grouped(count));
        }
        let unlisted = self.feeds.iter().filter(|feed| feed.error.is_some()).count() as u64;
        if unlisted > 0 {
            let _ = write!(sentence, "; {} not listed as a whole", amount(unlisted, "feed"));
        }
        if let Some(files) = &self.files {
            let records = |of: fn(&RecordCounts) -> u64| {
                self.feeds.iter().filter_map(|feed| feed.records.as_ref()).map(of).sum::<u64>()
            };
            let (served, found) = (records(|it| it.served), records(|it| it.found));
            let _ = write!(sentence, "; {} served, ", amount(served, "record"));
            if found == served {
                sentence.push_str("each found once");
            } else {
                let _ = write!(sentence, "{} found once", grouped(found));
            }
            for (what, count) in [
                ("missing", records(|it| it.missing)),
                ("found more often than served", records(|it| it.repeated)),
                ("filtered out", records(|it| it.filtered)),
            ] {
                if count > 0 {
                    let _ = write!(sentence, ", {} {what}", grouped(count));
                }
            }
            let not_compared = records(|it| it.blobs_not_compared);
            if not_compared > 0 {
                let _ = write!(sentence, "; {} not compared", amount(not_compared, "blob"));
            }
            let damaged = files.iter().filter(|file| file.damage.is_some()).count() as u64;
            if damaged > 0 {
                let _ = write!(sentence, "; {} damaged", amount(damaged, "file"));
            }
        }
        sentence.push('.');
        sentence
    }

    /// Returns the names of up to three tenants, or their number.
    fn tenants(&self) -> String {
        let mut names: Vec<&str> = self.feeds.iter().map(|feed| &*feed.tenant).collect();
        names.dedup();
        match names.as_slice() {
            [] => "no tenant".to_owned(),
            [name] => (*name).to_owned(),
            [first, second] => format!("{first} and {second}"),
            [first, second, third] => format!("{first}, {second} and {third}"),
            names => format!("{} tenants", grouped(names.len() as u64)),
        }
    }
}

impl BlobCounts {
    fn count_of(&mut self, state: &BlobState) -> &mut u64 {
        match state {
            BlobState::Known => &mut self.known,
            BlobState::Pending(_) => &mut self.pending,
            BlobState::Gone => &mut self.gone,
            BlobState::Quarantined => &mut self.quarantined,
            BlobState::New => &mut self.new,
            BlobState::NotCollected => &mut self.not_collected,
            BlobState::Unknown => &mut self.unknown,
        }
    }
}

/// Returns the exit code after a part of the work. A feed or blob that failed is named in the report.
fn exit_of(before: Exit, summary: &Summary) -> Exit {
    match (before, Exit::from(summary)) {
        (Exit::Complete, Exit::Complete | Exit::TryAgain) => Exit::Complete,
        (Exit::Complete, exit) => exit,
        (before, _) => before,
    }
}
