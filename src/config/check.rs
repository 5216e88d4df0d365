//! From the tree of YAML to what it means: the outermost keys, and those with no module of their own.

use std::{
    path::{self, Path, PathBuf},
    time::Duration,
};

use super::{
    Collect, Config, Filter, Log, Network, RequestsPerMinute, Secret, feeds, older,
    outputs::output,
    reading::Reading,
    section::Section,
    tenants::{Variables, tenants},
    url,
};
use crate::{feed::ContentType, limits};

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
    refuse_shared_files(root, &config);
    config
}

/// Records, log, metrics and state each need a file of their own: what shares one destroys the other. Devices, such as
/// `/dev/null`, can be shared.
fn refuse_shared_files(root: &Section, config: &Config) {
    let absolute = |path: &Path| path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut taken: Vec<(&str, PathBuf)> = STATE_FILES
        .iter()
        .map(|name| ("the state", absolute(&config.collect.working_dir.join(name))))
        .collect();
    let mut claim = |owner, section: Section, paths: Vec<PathBuf>| {
        let paths: Vec<_> = paths.iter().map(|path| absolute(path)).collect();
        let paths: Vec<_> = paths.into_iter().filter(|path| !path.starts_with("/dev")).collect(); // no files
        let shared = taken.iter().find(|(_, path)| paths.contains(path));
        if let (Some((other, path)), Some(value)) = (shared, section.value("path")) {
            value.mistake(format!("{} is a file of {other} too; give each its own", path.display()));
        }
        taken.extend(paths.into_iter().map(|path| (owner, path)));
    };
    if let Some(file) = &config.output.file {
        let paths = ContentType::ALL.map(|content_type| file.path_of(content_type)).to_vec();
        claim("output.file", root.section("output").section("file"), paths);
    }
    claim("log", root.section("log"), config.log.path.iter().cloned().collect());
    claim("metrics", root.section("metrics"), config.metrics_path.iter().cloned().collect());
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
