//! From the tree of YAML to what it means: the outermost keys, and those with no module of their own.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{self, Path, PathBuf},
    time::Duration,
};

use super::{
    Collect, Config, Filter, Log, Network, RequestsPerMinute, Secret, feeds,
    mistake::Origin,
    older,
    outputs::output,
    reading::Reading,
    section::Section,
    tenants::{Variables, tenants},
    url,
};
use crate::{disk, feed::ContentType, limits};

const INTERVAL: Duration = Duration::from_secs(5 * 60);
const HELD_RECORDS: usize = 500_000;
const HELD_BYTES: usize = 64 * 1024 * 1024;
const BODY_BYTES: usize = 10 * 1024 * 1024;
const THREADS: usize = 50;
const RETRIES: u32 = 3;
const RETRY_DELAY: Duration = Duration::from_secs(1);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
const DEDUP_HOURS: u64 = 24;
const LOOK_BACK_HOURS: u64 = 24;

/// What the state keeps in `workingDir`, its folder of Ids apart.
const STATE_FILES: [&str; 3] = ["known_blobs", "progress", "journal"];

/// What the state adds to the names of its files while it replaces them, and for what it cannot read of them.
const STATE_EXTENSIONS: [&str; 2] = ["new", "unreadable"];

/// Devices that log and records can go to; what is in the first two is a name for whatever the program was given.
const STREAMS: [&str; 6] =
    ["/dev/fd/", "/proc/self/fd/", "/dev/stdout", "/dev/stderr", "/dev/null", "/dev/full"];

/// What the files mean. It counts only if `root`'s reading ends without a mistake: until then, what is wrong stands as
/// its default, so that one mistake hides no other.
pub(super) fn config<'a>(
    root: &Section<'a>,
    credentials: Option<&Section<'a>>,
    variables: &'a Variables,
) -> Config {
    let collect_keys = root.section("collect");
    let subscriptions = subscriptions(root, &collect_keys);
    let tenants = tenants(root, credentials, variables, &subscriptions);
    let interval = root.duration("interval", &limits::INTERVAL_SECONDS).unwrap_or(INTERVAL);
    let config = Config {
        enabled: root.boolean("enabled").unwrap_or(true),
        interval,
        only_future_events: root.boolean("only_future_events").unwrap_or(false),
        collect: collect(root, &collect_keys, interval),
        output: output(root, &tenants),
        tenants,
        log: log(&root.section("log")),
        metrics_path: root.section("metrics").path("path"),
        network: Network { proxy: proxy(root), ca_file: root.pem_file("ca_file") },
    };
    refuse_shared_files(root, credentials, &config);
    refuse_unusual_files(root, &config);
    config
}

/// Records, log, metrics and state each need a file of their own, and so has what is read: what shares one destroys the
/// other. Devices, such as `/dev/null`, can be shared.
fn refuse_shared_files(root: &Section, credentials: Option<&Section>, config: &Config) {
    let mut taken = Taken::default();
    for section in [Some(root), credentials].into_iter().flatten() {
        if let Origin::File(document) = section.place.origin {
            taken.add("the configuration itself", &document.path);
        }
    }
    for (key, path) in root.reading.files() {
        taken.add(&key, &path);
    }
    for name in STATE_FILES {
        let path = config.collect.working_dir.join(name);
        taken.add("the state", &path);
        for extension in STATE_EXTENSIONS {
            taken.add("the state", &path.with_extension(extension));
        }
        taken.add("the state", &config.collect.working_dir.join(format!("{name}.rewrite")));
    }
    let mut claim = |owner, section: Section, paths: &[PathBuf]| {
        let paths: Vec<&PathBuf> = paths.iter().filter(|path| !path.starts_with("/dev")).collect(); // no files
        let shared = paths.iter().find_map(|path| Some((path, taken.owner_of(path)?)));
        if let (Some((path, other)), Some(value)) = (shared, section.value("path")) {
            let path = path::absolute(path).unwrap_or_else(|_| PathBuf::clone(path));
            value.mistake(format!("{} is a file of {other} too; give each its own", path.display()));
        }
        for path in paths {
            taken.add(owner, path);
        }
    };
    if let Some(file) = &config.output.file {
        let paths = ContentType::ALL.map(|content_type| file.path_of(content_type));
        claim("output.file", root.section("output").section("file"), &paths);
    }
    claim("log", root.section("log"), config.log.path.as_slice());
    claim("metrics", root.section("metrics"), config.metrics_path.as_slice());
}

/// Files that are in use, by where their paths lead to and by their numbers on the disk.
#[derive(Default)]
struct Taken {
    by_path: HashMap<PathBuf, String>,
    by_inode: HashMap<(u64, u64), String>,
}

impl Taken {
    fn add(&mut self, owner: &str, path: &Path) {
        self.by_path.entry(resolved(path)).or_insert_with(|| owner.to_owned());
        if let Some(inode) = inode_of(path) {
            self.by_inode.entry(inode).or_insert_with(|| owner.to_owned());
        }
    }

    fn owner_of(&self, path: &Path) -> Option<&str> {
        let by_path = self.by_path.get(&resolved(path));
        let owner = by_path.or_else(|| self.by_inode.get(&inode_of(path)?))?;
        Some(owner.as_str())
    }
}

/// A path without symbolic links, as far as it exists.
fn resolved(path: &Path) -> PathBuf {
    let target = disk::target_of(path).unwrap_or_else(|_| path.to_owned());
    let absolute = path::absolute(&target).unwrap_or(target);
    let folder = absolute.parent().and_then(|folder| folder.canonicalize().ok());
    match (folder, absolute.file_name()) {
        (Some(folder), Some(name)) => folder.join(name),
        _ => absolute,
    }
}

/// The device and the number of a regular file: two names of one file have the same.
fn inode_of(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(path).ok()?;
    metadata.is_file().then(|| (metadata.dev(), metadata.ino()))
}

/// The metrics are replaced, so they must be a regular file. Log and records can also go to a FIFO, and to the streams
/// that the program was given.
fn refuse_unusual_files(root: &Section, config: &Config) {
    let kind_of = |path: &Path| disk::unusual_kind(&fs::metadata(path).ok()?);
    let refuse = |section: Section, path: &Path, kind: &str, expected: &str| {
        if let Some(value) = section.value("path") {
            value.mistake(format!(
                "{} is {kind}, but must be {expected}; choose another path",
                path.display()
            ));
        }
    };
    if let Some(path) = &config.metrics_path
        && let Some(kind) = kind_of(path)
    {
        refuse(root.section("metrics"), path, kind, "a regular file, because it is replaced after each pass");
    }
    let check_stream = |section: Section, path: &Path| {
        let is_stream = STREAMS.iter().any(|stream| match stream.strip_suffix('/') {
            Some(folder) => path.parent() == Some(Path::new(folder)),
            None => path == Path::new(stream),
        });
        if let Some(kind) = kind_of(path).filter(|kind| !is_stream && *kind != disk::FIFO) {
            refuse(section, path, kind, "a regular file, a FIFO, /dev/stdout, /dev/stderr or /dev/null");
        }
    };
    // A feed's own file is looked at when it is opened, so that it stops no other feed.
    if let Some(file) = config.output.file.as_ref().filter(|file| !file.separate_by_content_type) {
        check_stream(root.section("output").section("file"), &file.path);
    }
    if let Some(path) = &config.log.path {
        check_stream(root.section("log"), path);
    }
}

fn subscriptions(root: &Section, collect: &Section) -> Vec<ContentType> {
    let newer = feeds::subscriptions(root);
    let older = older::content_types(collect);
    if root.peek("subscriptions").is_some() {
        older::refuse_both(collect.older("contentTypes"), "subscriptions");
    }
    newer.or(older).unwrap_or_else(|| ContentType::ALL.to_vec())
}

fn collect(root: &Section, section: &Section, interval: Duration) -> Collect {
    let hours = |hours: u64| Duration::from_secs(hours * 3600);
    let skip_known = section.boolean("skipKnownLogs").unwrap_or(true);
    let dedup = section.number("dedupHours", &limits::DEDUP_HOURS).unwrap_or(DEDUP_HOURS);
    let deadline_minutes = section.number("globalTimeout", &limits::DEADLINE_MINUTES).unwrap_or(0);
    let retry_delay = section.duration("retryDelay", &limits::RETRY_DELAY_SECONDS);
    older::collect(section);
    Collect {
        working_dir: section.path("workingDir").unwrap_or_else(|| working_dir(root.reading)),
        held_records_max: section.number("cacheSize", &limits::HELD_RECORDS).unwrap_or(HELD_RECORDS),
        held_bytes_max: section.size("maxMemory", &limits::HELD_BYTES).unwrap_or(HELD_BYTES),
        body_bytes_max: root.size("curl_max_size", &limits::BODY_BYTES).unwrap_or(BODY_BYTES),
        threads: section.number("maxThreads", &limits::THREADS).unwrap_or(THREADS),
        requests_per_minute: requests_per_minute(section).unwrap_or(RequestsPerMinute::Auto),
        retries: section.number("retries", &limits::RETRIES).unwrap_or(RETRIES),
        retry_delay: retry_delay.or(older::retry_delay(section)).unwrap_or(RETRY_DELAY),
        request_timeout: section
            .duration("requestTimeout", &limits::REQUEST_TIMEOUT_SECONDS)
            .unwrap_or(REQUEST_TIMEOUT),
        skip_known,
        dedup: if skip_known { hours(dedup) } else { Duration::ZERO },
        look_back: hours(
            section.number("hoursToCollect", &limits::LOOK_BACK_HOURS).unwrap_or(LOOK_BACK_HOURS),
        ),
        deadline: (deadline_minutes > 0).then(|| Duration::from_secs(deadline_minutes * 60)),
        straggler_wait: interval,
        filters: filters(root, section),
    }
}

fn requests_per_minute(section: &Section) -> Option<RequestsPerMinute> {
    const KEY: &str = "maxRequestsPerMinute";
    let value = section.value(KEY)?;
    if value.quiet_text().is_some_and(|text| text.trim().eq_ignore_ascii_case("auto")) {
        return Some(RequestsPerMinute::Auto);
    }
    value.number_or("auto", &limits::REQUESTS_PER_MINUTE).map(RequestsPerMinute::Fixed)
}

/// Where a service manager puts the state, else the current folder.
fn working_dir(reading: &Reading) -> PathBuf {
    let folders = reading.variable("STATE_DIRECTORY").unwrap_or_default();
    folders.split(':').find(|folder| !folder.is_empty()).unwrap_or(".").into()
}

fn filters(root: &Section, collect: &Section) -> Vec<(ContentType, Filter)> {
    let newer = collect.value("filter").map(|value| feeds::filters(&value));
    let older = older::top_filters(root);
    if newer.is_some() {
        older::refuse_both(root.older("filter"), "collect.filter");
    }
    newer.or(older).unwrap_or_default()
}

fn log(section: &Section) -> Log {
    Log { path: section.path("path"), debug: section.boolean("debug").unwrap_or(false) }
}

fn proxy(root: &Section) -> Option<Secret> {
    let value = root.value("proxy")?;
    let text = value.text()?;
    if url::proxy_of(&text).is_none() {
        value.mistake(format!("is {}", url::NOT_A_PROXY));
        return None;
    }
    if text.contains('@') { value.secret() } else { Some(Secret::new(text)) }
}
