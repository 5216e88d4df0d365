//! The bounds that several modules share, with the relations between them, which are asserted at compile time. A
//! module's own bounds are constants of that module. The ranges of the options are in the configuration's schema.

use std::{ops::RangeInclusive, time::Duration};

use jiff::SignedDuration;

/// The age up to which content is listed.
///
/// Source: "Office 365 Management Activity API reference", section "List available content": "startTime … no more than 7
/// days in the past".
pub const RETENTION: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The longest time that a blob stays known, whatever its expiration is. Content lives about 20 days (measured).
pub const KNOWN_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The time after its expiration, by Microsoft's clock, for which a blob stays known and is tried again.
pub const EXPIRATION_GRACE: Duration = Duration::from_secs(12 * 60 * 60);

/// The difference from Microsoft's clock above which this machine's clock is reported and corrected for.
pub const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_secs(60);

/// The shortest delay after throttling and after a response that asks for a delay. `Retry-After: 0` and past dates
/// occur; without this minimum a client sends hundreds of requests a second to a server that rejects them all.
pub const RETRY_AFTER_MIN: Duration = Duration::from_secs(1);

/// The longest time in which a connection is established, TLS included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// The interval at which a wait for a receiver checks whether the pass has to end.
pub const CANCEL_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The time before its expiry at which a token is renewed.
pub const TOKEN_MARGIN: Duration = Duration::from_secs(5 * 60);

/// The lifetimes of a token that are believed: it is renewed at most once a second and at least once a day.
pub const TOKEN_LIFETIME: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60);

/// The smallest step in which memory for a body is allocated.
pub const BODY_STEP_BYTES: usize = 64 * 1024;

/// The size of the chunks into which listings are read.
pub const CHUNK_BYTES: usize = 64 * 1024;

/// The largest buffer that is kept for the next blob. A larger one is freed.
pub const FREE_BUFFER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The size of the buffer through which files of the state are read and rewritten.
pub const STATE_BUFFER_BYTES: usize = 256 * 1024;

/// The size of the pieces in which lines are written to a file.
pub const OUTPUT_BUFFER_BYTES: usize = 256 * 1024;

/// The part of an error's body that is read. The rest is not, even if that costs the connection.
pub const ERROR_BODY_BYTES_MAX: usize = 64 * 1024;

/// The longest content id that is used as it is in the log and the state. Real ones have 90 to 150 bytes.
pub const CONTENT_ID_BYTES_MAX: usize = 512;

/// The longest `contentUri` that is fetched and remembered. Common servers reject request lines beyond 8 to 16 KB.
pub const CONTENT_URI_BYTES_MAX: usize = 16 * 1024;

/// The largest file that contains a secret, a token or a header's value.
pub const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// The time before its expiry from which on a certificate is reported.
pub const EXPIRY_NOTICE: SignedDuration = SignedDuration::from_hours(14 * 24);

const _: () = {
    assert!(RETENTION.as_secs() < KNOWN_MAX.as_secs());
    assert!(ERROR_BODY_BYTES_MAX <= CHUNK_BYTES, "an error is read from the first chunk");
    assert!(ERROR_BODY_BYTES_MAX <= BODY_STEP_BYTES);
    assert!(BODY_STEP_BYTES <= FREE_BUFFER_BYTES_MAX);
};
