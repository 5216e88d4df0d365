//! Every bound of the program, with its reason.

use std::ops::RangeInclusive;

/// A configuration file is written by hand; what is larger is another file by mistake.
pub const CONFIG_BYTES_MAX: u64 = 1024 * 1024;

/// A secret, a token or a header's value in a file of its own.
pub const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// Mistakes listed before the rest is only counted: each costs a second look at the file.
pub const MISTAKES_MAX: usize = 50;

/// `interval` in seconds: content expires after seven days, so a longer cadence would lose records.
pub const INTERVAL_SECONDS: RangeInclusive<u64> = 1..=7 * 24 * 3600;

/// `collect.cacheSize` in records: at least one has to fit, and more than this cannot be meant.
pub const HELD_RECORDS: RangeInclusive<u64> = 1..=1_000_000_000;

/// `collect.maxMemory` in bytes.
pub const HELD_BYTES: RangeInclusive<u64> = 1024..=2 * 1024 * 1024 * 1024;

/// `curl_max_size` in bytes: one response body.
pub const BODY_BYTES: RangeInclusive<u64> = 1024..=2 * 1024 * 1024 * 1024;

/// `collect.maxThreads`: beyond it, threads cost memory and the API only throttles.
pub const THREADS: RangeInclusive<u64> = 1..=512;

/// `collect.maxRequestsPerMinute`: the upper end stands for "as many as possible".
pub const REQUESTS_PER_MINUTE: RangeInclusive<u64> = 1..=1_000_000;

/// `collect.retries`: with a doubling delay, twenty of them already last days.
pub const RETRIES: RangeInclusive<u64> = 0..=20;

/// `collect.retryDelay` in seconds.
pub const RETRY_DELAY_SECONDS: RangeInclusive<u64> = 0..=3600;

/// `collect.requestTimeout` in seconds.
pub const REQUEST_TIMEOUT_SECONDS: RangeInclusive<u64> = 1..=3600;

/// `collect.dedupHours`: content can be listed for seven days, so no record comes again later.
pub const DEDUP_HOURS: RangeInclusive<u64> = 0..=168;

/// `collect.hoursToCollect`: the API lists the last seven days.
///
/// Source: "Office 365 Management Activity API reference", section "List available content".
pub const LOOK_BACK_HOURS: RangeInclusive<u64> = 1..=168;

/// `collect.globalTimeout` in minutes: up to seven days, 0 for none.
pub const DEADLINE_MINUTES: RangeInclusive<u64> = 0..=7 * 24 * 60;

/// A TCP port that can be connected to.
pub const PORT: RangeInclusive<u64> = 1..=65_535;

/// `output.fluentd.ackTimeout` in seconds.
pub const ACK_TIMEOUT_SECONDS: RangeInclusive<u64> = 1..=3600;

/// `output.http.batchSize` in bytes.
pub const BATCH_BYTES: RangeInclusive<u64> = 1024..=512 * 1024 * 1024;

/// A tenant's `name` in characters: it becomes part of tags, labels and log lines.
pub const TENANT_NAME_CHARS: RangeInclusive<usize> = 1..=64;
