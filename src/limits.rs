//! The bounds that several modules share. Their relations are asserted when the program is compiled. The ranges of the
//! options are in the configuration's schema.

use std::{ops::RangeInclusive, time::Duration};

use jiff::SignedDuration;

/// The API lists at most this much at once; more would be answered in part only.
///
/// Source: "Office 365 Management Activity API reference", section "List available content".
pub const WINDOW_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// No window is shorter: shorter ones were seen to be answered with errors.
pub const WINDOW_MIN: Duration = Duration::from_secs(60);

/// A blob whose creation time is further than this from the period that it is listed for has none that can be believed.
pub const LISTED_CREATED_DISTANCE_MAX: SignedDuration = SignedDuration::from_hours(60 * 24);

/// How far back content is listed.
///
/// Source: the same section, "startTime … no more than 7 days in the past".
pub const RETENTION: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How far from the edge of [`RETENTION`] a window stays: being seconds beyond it is an error. What lies in it is lost
/// after a long downtime, so it is short.
pub const RETENTION_MARGIN: Duration = Duration::from_secs(4 * 60);

/// How long a blob stays known at most, whatever its expiration says. Content lives about 20 days (measured).
pub const KNOWN_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// How long a blob stays known, and is tried again, after its expiration by Microsoft's clock.
pub const EXPIRATION_GRACE: Duration = Duration::from_secs(12 * 60 * 60);

/// The number of passes for which a record that a killed pass left in a file waits for its blob: three weeks of them at the usual
/// cadence, and blobs live no longer than that.
pub const ORPHANS_PASSES_MAX: u32 = 6_000;

/// Symbolic links followed from one path. The kernel's own limit: `path_resolution(7)`.
pub const SYMBOLIC_LINKS_MAX: usize = 40;

/// Lines of the log about the same cause, before the rest is only counted.
pub const LOGGED_LINES_MAX: usize = 5;

/// A clock that differs from Microsoft's by more than this is reported, and corrected for.
pub const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_secs(60);

/// The newest seconds of a listing are not stable yet: windows end this long before now.
pub const SETTLING: Duration = Duration::from_secs(5);

/// Maximum number of pages of one listing, which is of an hour if it has many. An API that names a next page for ever is
/// not followed for ever, however much its pages bring.
pub const PAGES_MAX: u32 = 2_000;

/// A page that names a next one and brings at most this number of new blobs is thin. Real pages have about 200.
pub const THIN_PAGE_BLOBS_MAX: usize = 1;

/// A feed whose listings bring this number of thin pages in a row does not end, …
pub const THIN_PAGES_MAX: u32 = 200;

/// … nor does one that brings only thin pages for this time, …
pub const THIN_PAGES_LAST_MAX: Duration = Duration::from_secs(60);

/// … if they are at least this number: a single page can wait for this long because its tenant is throttled.
pub const THIN_PAGES_TIMED_MIN: u32 = 5;

/// A window with more pages than these is listed in parts of an hour, side by side, instead of page after page.
pub const PAGES_BEFORE_SPLIT: u32 = 4;

/// Most blobs that wait for their download. While there are as many, a tenant that has some lists no further page.
pub const WAITING_BLOBS_MAX: usize = 10_000;

/// While as many blobs wait, this number of a page's blobs is still accepted; the page is listed again for the others.
pub const PAGE_BLOBS_MIN: usize = 1_000;

/// Maximum size of the blobs that wait for their download, apart from their number: a `contentUri` can be long.
pub const WAITING_BYTES_MAX: usize = 16 * 1024 * 1024;

/// While as many bytes wait, this number of bytes of a page's blobs is still accepted.
pub const PAGE_BYTES_MIN: usize = 1024 * 1024;

/// Listings and logins get this fraction of `maxMemory`: a quarter.
pub const LISTINGS_SHARE: usize = 4;

/// Maximum number of times that a page is listed again because it has more blobs than may wait.
pub const PARTS_MAX: u32 = 100;

/// Maximum size of an answer to a login or about subscriptions. Real ones have a few kilobytes.
pub const SMALL_BODY_BYTES_MAX: usize = 1024 * 1024;

/// Most blobs on their way from the pool to the writer; their bytes are bounded by `maxMemory`.
pub const WRITER_QUEUE_BLOBS: usize = 64;

/// A batch is committed when it has this number of bytes, …
pub const BATCH_BYTES: usize = 16 * 1024 * 1024;

/// … or this number of blobs, …
pub const BATCH_BLOBS: usize = 1_000;

/// … or is this old.
pub const BATCH_AGE: Duration = Duration::from_secs(1);

/// The number of times that a batch is written again because its file was removed meanwhile. With more, something removes
/// the files as fast as they are written.
pub const REWRITES_MAX: u32 = 5;

/// How far the times of files can be behind the clock: some file systems keep them in steps of two seconds.
pub const FILE_TIME_STEP: Duration = Duration::from_secs(2);

/// A pipe or device that accepts nothing for this long has failed.
pub const READER_STALL_MAX: Duration = Duration::from_secs(60);

/// The longest wait before a request is tried again.
pub const RETRY_DELAY_MAX: Duration = Duration::from_secs(60);

/// The shortest wait after an answer that asks for one, and after throttling. `Retry-After: 0` and past dates occur;
/// without this floor a client sends hundreds of requests a second to a server that refuses them all.
pub const RETRY_AFTER_MIN: Duration = Duration::from_secs(1);

/// The longest random addition to a wait that an answer asks for.
pub const RETRY_AFTER_JITTER_MAX: Duration = Duration::from_secs(5);

/// The longest pause of a tenant that a throttling answer can ask for.
pub const THROTTLE_PAUSE_MAX: Duration = Duration::from_secs(15 * 60);

/// A tenant that is throttled for longer than this, with no request accepted meanwhile, is left to the next pass,
/// because the lock keeps all others waiting for this one's end.
pub const THROTTLED_MAX: Duration = Duration::from_secs(15 * 60);

/// `maxRequestsPerMinute: auto` begins with this many requests a minute. Source: "Office 365 Management Activity API
/// reference", section "API throttling": 2,000 requests a minute as the baseline of each tenant.
pub const AUTO_START: u32 = 2_000;

/// `maxRequestsPerMinute: auto` never goes below this rate: enough for a pass of a tenant without a backlog.
pub const AUTO_MIN: u32 = 200;

/// `maxRequestsPerMinute: auto` never goes beyond this rate.
pub const AUTO_MAX: u32 = 1_000_000;

/// After a throttling answer, `maxRequestsPerMinute: auto` stays below the rate that met it for this time.
pub const AUTO_HOLD: Duration = Duration::from_secs(10 * 60);

/// A rate that was throttled within this time is taken to be near the quota when a pass begins.
pub const AUTO_REMEMBERED: SignedDuration = SignedDuration::from_hours(1);

/// How often in a row a tenant's throttling is waited for before the item that met it is given up.
pub const THROTTLES_MAX: u32 = 20;

/// So many tokens in a row may be refused, each fresh from the login endpoint; then it is not the token.
pub const REFUSED_TOKENS_MAX: u32 = 2;

/// Maximum number of a feed's requests in a row that are refused with HTTP 401 although a fresh token was used; with one
/// more, the feed is left to the next pass.
pub const REFUSED_ITEMS_MAX: u32 = 2;

/// The shortest time between two starts of a subscription.
///
/// Source: "Office 365 Management Activity API reference", section "Start a subscription", as of 2025-08.
pub const SUBSCRIPTION_START_INTERVAL: Duration = Duration::from_secs(15 * 60);

/// A feed that had content before and has had none for this time is reported, once in each such time.
pub const QUIET_FEED_NOTICE: SignedDuration = SignedDuration::from_hours(24);

/// The slowest body that is waited for, in bytes a second, …
pub const BODY_BYTES_PER_SECOND_MIN: u64 = 1024;

/// … measured over this time of waiting for it.
pub const BODY_SPEED_PERIOD: Duration = Duration::from_secs(30);

/// When everything else of a pass is done, its receivers get at least this long to confirm what they were sent, also if
/// `interval` is shorter.
pub const RECEIVERS_LAST_WAIT_MIN: Duration = Duration::from_secs(60);

/// A feed that has not succeeded for this number of intervals is late, and `status` exits with 1.
pub const INTERVALS_UNTIL_LATE: u32 = 3;

/// The longest delay by which a timer spreads the machines that start a pass at the same time.
pub const RANDOM_DELAY_MAX: Duration = Duration::from_secs(60);

/// A certificate that ends within this time is told of by `check`.
pub const EXPIRY_NOTICE: SignedDuration = SignedDuration::from_hours(14 * 24);

/// `check` waits no longer than this for a name, or for an answer.
pub const CHECK_WAIT_MAX: Duration = Duration::from_secs(20);

/// How long a connection may take to be made, TLS included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// A connection that was idle for longer is not used again: a firewall may have forgotten it without a word, and a
/// request on it would fail, at worst only after `requestTimeout`. The short-lived ones forget after 30 seconds.
pub const IDLE_CONNECTION_AGE_MAX: Duration = Duration::from_secs(15);

/// The addresses of a host are looked up again after this time.
pub const ADDRESS_AGE_MAX: Duration = Duration::from_secs(60);

/// The longest that one request may last, however steadily its body drips.
pub const REQUEST_LASTS_MAX: Duration = Duration::from_secs(15 * 60);

/// After a signal or `globalTimeout`, what runs has this long to finish; then its connections are cut, …
pub const STOP_CUT_AFTER: Duration = Duration::from_secs(2);

/// … and this long after the signal the pass ends without it and without an answer of a receiver.
pub const STOP_LEAVE_AFTER: Duration = Duration::from_millis(3_500);

/// Whoever waits for a receiver looks so often whether the pass has to end.
pub const CANCEL_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A token is renewed this long before it expires.
pub const TOKEN_MARGIN: Duration = Duration::from_secs(5 * 60);

/// No token is renewed more often than this, however short it is said to live; nor is any used for longer than a day.
pub const TOKEN_LIFETIME: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60);

/// What a token is taken to live if the login endpoint does not say, in seconds.
pub const TOKEN_LIFETIME_ASSUMED: u64 = 60 * 60;

/// How long a client assertion is good for. Ten minutes are allowed.
///
/// Source: "Microsoft identity platform application authentication certificate credentials", claim `exp`.
pub const ASSERTION_LIFETIME_SECONDS: i64 = 5 * 60;

/// Memory for a body is taken in steps of at least this size, …
pub const BODY_STEP_BYTES: usize = 256 * 1024;

/// … doubling with the body, up to this size.
pub const BODY_GROWTH_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Listings are read into chunks of this size.
pub const CHUNK_BYTES: usize = 64 * 1024;

/// Memory for the places of a body's records is taken in steps of at least this size, …
pub const INDEX_STEP_BYTES: usize = 4 * 1024;

/// … doubling with their number, up to this size.
pub const INDEX_GROWTH_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A blob that cannot be read as a whole is salvaged when all tries of this number of passes have failed for that, …
pub const SALVAGE_PASSES: u32 = 3;

/// … or when it expires within this time: then a later pass may come too late.
pub const SALVAGE_LAST_HOURS: SignedDuration = SignedDuration::from_hours(24);

/// A compressed body that is broken is decompressed in steps of this size: at most so much before the break is lost.
pub const SALVAGE_READ_BYTES: usize = 256;

/// `status` lists at most this number of blobs in quarantine in its table.
pub const QUARANTINED_SHOWN_MAX: usize = 50;

/// Records are rendered for the outputs in groups of about this number of bytes: about as much as is written to a file at
/// once, and little enough to stay in a processor's cache.
pub const RENDERED_BYTES: usize = OUTPUT_BUFFER_BYTES;

/// The maximum number of records that are rendered at once: each takes about 150 bytes besides its text.
pub const RENDERED_RECORDS_MAX: usize = 4_096;

/// A buffer of at most this size is kept for the next blob; a larger one is the exception and goes back to the system.
pub const SPARE_BUFFER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// So much of a file of the state is in memory at a time while it is read or rewritten.
pub const STATE_BUFFER_BYTES: usize = 256 * 1024;

/// Lines are handed to a file in pieces of about this size.
pub const OUTPUT_BUFFER_BYTES: usize = 256 * 1024;

/// Entries of one chunk for a forward receiver, before compression. A message of 1 to 2 MB is acknowledged within a
/// second or two; one record that is larger goes alone.
pub const FORWARD_CHUNK_BYTES: usize = 1_000_000;

/// The largest message that Fluent Bit takes unless told otherwise, decompressed.
///
/// Source: Fluent Bit's manual, input `forward`, `buffer_max_size` (6144000).
pub const FLUENT_BIT_MESSAGE_BYTES_MAX: usize = 6_144_000;

/// Most chunks that wait for their acknowledgements at a time; each is held until then, to be sent again if need be.
pub const FORWARD_CHUNKS_IN_FLIGHT_MAX: usize = 8;

/// The wait before a receiver is tried again for the first time; it doubles from attempt to attempt, …
pub const RECEIVER_RETRY_DELAY: Duration = Duration::from_millis(250);

/// … up to this: a receiver that restarts is back within seconds.
pub const RECEIVER_RETRY_DELAY_MAX: Duration = Duration::from_secs(5);

/// The longest silence of a receiver during the TLS handshake. One that does not speak TLS may say nothing at all.
pub const TLS_HANDSHAKE_WAIT: Duration = Duration::from_secs(5);

/// The wait for the answer to a TLS handshake with a receiver that is not expected to speak TLS.
pub const TLS_PROBE_WAIT: Duration = Duration::from_secs(2);

/// The longest that one of several addresses of a host is waited for, before the next one is tried.
pub const ADDRESS_WAIT_MAX: Duration = Duration::from_secs(5);

/// The largest answer of a forward receiver: a HELO, a PONG or an acknowledgement.
pub const FORWARD_ANSWER_BYTES_MAX: usize = 64 * 1024;

/// The wait for a HELO, which a receiver with a shared key sends as soon as it has accepted the connection.
pub const FORWARD_HELO_WAIT: Duration = Duration::from_secs(3);

/// The wait for the acknowledgement of a message without events.
pub const FORWARD_CHECK_WAIT: Duration = Duration::from_secs(3);

/// A receiver that closes the connection after each acknowledgement without saying so is noticed if it does within this
/// time of the first one.
pub const FORWARD_CLOSE_WAIT: Duration = Duration::from_millis(50);

/// So many objects and arrays may lie in each other in a record that becomes MessagePack; what is deeper is sent as
/// text. The arrays and the map that a message and a receiver put around it must find room too.
///
/// Source: msgpack-c, with which Fluent Bit decodes, takes 32 levels (`MSGPACK_EMBED_STACK_SIZE`).
pub const NESTING_MAX: usize = 24;

/// Most characters of a tenant's name or a workload in a tag.
pub const TAG_PART_CHARACTERS_MAX: usize = 64;

/// The longest value of a field that Graylog's index takes, in bytes of UTF-8: the longest term of Lucene. A longer one
/// would make it refuse the message.
///
/// Source: Graylog2/graylog2-server, issue 873, "String fields longer than 32kb cannot be indexed".
pub const GELF_FIELD_BYTES_MAX: usize = 32_766;

/// The largest message that a GELF input takes, without its delimiter; larger ones are thrown away.
///
/// Source: Graylog's default of `max_message_size`, 2097152.
pub const GELF_MESSAGE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Of that, what is kept for the fields that every message has: the longest of them, every character escaped.
pub const GELF_ENDING_BYTES_MAX: usize = 256 * 1024;

/// The longest name of a field in a GELF message.
pub const GELF_NAME_BYTES_MAX: usize = 255;

/// The maximum size of messages that Graylog has not confirmed yet. They are held in memory.
pub const GELF_UNCONFIRMED_BYTES: usize = 16 * 1024 * 1024;

/// The longest that a connection to Graylog stands still before it is given up.
pub const GELF_SILENCE_MAX: Duration = Duration::from_secs(60);

/// Most columns that a CSV file gets. Each costs a byte in each row, and records can have fields that no other one has.
pub const CSV_COLUMNS_MAX: usize = 1_000;

/// The longest name of a column; a field with a longer one gets none of its own.
pub const CSV_NAME_BYTES_MAX: usize = 255;

/// The longest header of a CSV file.
pub const CSV_HEADER_BYTES_MAX: usize = 1024 * 1024;

/// Most of a body that is read only to keep its connection usable.
pub const ERROR_BODY_BYTES_MAX: usize = 64 * 1024;

/// Maximum number of characters of a server's text in one line of the log, …
pub const MESSAGE_CHARACTERS_MAX: usize = 300;

/// … and of those that are looked at: secrets are removed before the text is cut.
pub const MESSAGE_CHARACTERS_READ: usize = 4 * 1024;

/// Maximum number of characters of the title of a page that a gateway answered.
pub const PAGE_TITLE_CHARACTERS_MAX: usize = 100;

/// Shorter secrets are not looked for in a server's text: they would match common words.
pub const SECRET_BYTES_MIN: usize = 6;

/// A beginning of a secret that is at least as long as this is removed too.
pub const SECRET_PREFIX_BYTES_MIN: usize = 16;

/// A blob's content id up to this length is used as it is, in the log and the state. Real ones have 90 to 150 bytes.
pub const CONTENT_ID_BYTES_MAX: usize = 512;

/// How many characters are kept of a content id that is longer, or has odd characters.
pub const CONTENT_ID_CHARACTERS_KEPT: usize = 100;

/// The longest `contentUri` that is fetched and remembered. Common servers refuse request lines beyond 8 to 16 KB.
pub const CONTENT_URI_BYTES_MAX: usize = 16 * 1024;

/// A secret, a token or a header's value in a file of its own.
pub const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// How often a batch is tried again within `output.http.retryTimeout`.
pub const HTTP_RETRIES_MAX: u32 = 20;

/// The wait before a batch is tried again for the first time; it doubles from try to try.
pub const HTTP_RETRY_DELAY: Duration = Duration::from_millis(250);

/// So many records are left out of what is sent in a pass because the receiver refuses each of them; with more, the
/// output fails. A receiver that refuses everything costs twice as many requests, and one that refuses a few records a
/// day, each of which comes again for a week, holds up nothing.
pub const HTTP_REFUSED_RECORDS_MAX: usize = 100;

/// Records that are refused before the receiver has accepted a single one in this pass: with this many, the output
/// fails, because its receiver or its configuration is at fault, and not the records.
pub const HTTP_REFUSED_BEFORE_SUCCESS_MAX: usize = 10;

/// The same for records to which a receiver answers with an error of its own, such as HTTP 500.
pub const HTTP_SUSPECTS_MAX: usize = 3;

/// How often in one commit batches are sent again because their ack ids were given out twice.
pub const SPLUNK_RESENDS_MAX: usize = 10;

/// Most cookies of a receiver that are kept, …
pub const COOKIES_MAX: usize = 16;

/// … and the longest of them, name and value, in bytes.
pub const COOKIE_BYTES_MAX: usize = 4096;

/// Most records that a message names.
pub const NAMED_RECORDS_MAX: usize = 3;

/// Most bytes of a receiver's answer: to a batch of many records it says something of each.
pub const HTTP_ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Most characters of a receiver's own words in a message.
pub const REASON_CHARACTERS_MAX: usize = 160;

/// The largest body that Azure Monitor's Logs Ingestion API takes, in bytes, compressed or not.
///
/// Source: "Azure Monitor service limits", section "Logs Ingestion API".
pub const AZURE_BODY_BYTES_MAX: usize = 1_000_000;

/// The longest `_id` that Elasticsearch takes, in bytes.
///
/// Source: "`_id` field" of the Elasticsearch reference.
pub const ELASTIC_ID_BYTES_MAX: usize = 512;

/// How often Splunk is asked whether events are indexed, …
pub const SPLUNK_ACK_STEP: Duration = Duration::from_millis(200);

/// … at first; the wait doubles up to this.
pub const SPLUNK_ACK_STEP_MAX: Duration = Duration::from_secs(5);

const _: () = {
    assert!(WINDOW_MIN.as_secs() < WINDOW_MAX.as_secs());
    assert!(WINDOW_MAX.as_secs() <= RETENTION.as_secs());
    assert!(SETTLING.as_secs() < WINDOW_MIN.as_secs(), "a window may not end before it starts");
    assert!(RETENTION_MARGIN.as_secs() > SETTLING.as_secs());
    assert!(RETENTION_MARGIN.as_secs() > 2 * CLOCK_TOLERANCE.as_secs().cast_unsigned());
    assert!(RETENTION.as_secs() < KNOWN_MAX.as_secs());
    assert!(PAGES_BEFORE_SPLIT < PAGES_MAX);
    assert!(THIN_PAGES_MAX < PAGES_MAX);
    assert!(ERROR_BODY_BYTES_MAX <= CHUNK_BYTES, "an error is read from the first chunk");
    assert!(CONTENT_URI_BYTES_MAX + CONTENT_ID_BYTES_MAX < PAGE_BYTES_MIN, "a page brings at least one blob");
    assert!(ASSERTION_LIFETIME_SECONDS <= 10 * 60);
    assert!(BODY_STEP_BYTES <= BODY_GROWTH_BYTES_MAX);
    assert!(BODY_STEP_BYTES <= SPARE_BUFFER_BYTES_MAX);
    assert!(ERROR_BODY_BYTES_MAX <= BODY_STEP_BYTES);
    assert!(
        7 * GELF_FIELD_BYTES_MAX < GELF_ENDING_BYTES_MAX,
        "six bytes for an escaped one, and the names of cut fields"
    );
    assert!(GELF_ENDING_BYTES_MAX + GELF_FIELD_BYTES_MAX < GELF_MESSAGE_BYTES_MAX);
    assert!(OUTPUT_BUFFER_BYTES < GELF_UNCONFIRMED_BYTES);
    assert!(
        (CSV_COLUMNS_MAX + 1) * (2 * CSV_NAME_BYTES_MAX + 6) < CSV_HEADER_BYTES_MAX,
        "every quote of a name is written twice, and quotes and a separator stand around it"
    );
    assert!(MESSAGE_CHARACTERS_MAX < MESSAGE_CHARACTERS_READ);
    assert!(SECRET_BYTES_MIN < SECRET_PREFIX_BYTES_MIN);
    assert!(
        4 * CONTENT_ID_CHARACTERS_KEPT + 3 + 32 < CONTENT_ID_BYTES_MAX,
        "a shortened content id is not shortened again"
    );
    assert!(STOP_CUT_AFTER.as_millis() < STOP_LEAVE_AFTER.as_millis());
    assert!(
        STOP_LEAVE_AFTER.as_millis() + BATCH_AGE.as_millis() + CANCEL_POLL_INTERVAL.as_millis() < 5_000,
        "a signal ends a pass within five seconds"
    );
    assert!(CONNECT_TIMEOUT.as_secs() < REQUEST_LASTS_MAX.as_secs());
    assert!(FORWARD_CHUNK_BYTES * 2 < FLUENT_BIT_MESSAGE_BYTES_MAX);
    assert!(NESTING_MAX < 32);
    assert!(
        FORWARD_HELO_WAIT.as_secs() + FORWARD_CHECK_WAIT.as_secs() + TLS_PROBE_WAIT.as_secs() < 10,
        "a wrong configuration is reported within ten seconds"
    );
    assert!(TLS_HANDSHAKE_WAIT.as_secs() < 10);
    assert!(RECEIVER_RETRY_DELAY.as_millis() < RECEIVER_RETRY_DELAY_MAX.as_millis());
};
