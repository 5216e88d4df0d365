//! `output.http` against receivers that behave like real ones. What they accept is compared with what was served, Id by Id.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use office_audit_log_collector::{
    config::{self, Sources},
    delivery::OutputName,
    error::Explain,
    output::{self, CancelToken},
};
use rustix::process::Signal;
use serde_json::{Value, json, value::RawValue};
use simulator::NewBlob;

use crate::support::{
    CONTOSO, Installation, Run, hours_ago,
    http::{BodyLimit, HttpReceiver, ReceivedRequest, Reply},
    listener::unused_port,
    process::{in_parallel, signal, wait_until},
    proxy::{Proxy, ProxyBehavior},
    tls::{ClientCertificate, certificate},
};

const FEED: &str = "Audit.General";
const CHANNEL: &str = "7d1f7f1e-58a3-4c6a-9a55-0c1d3a6f2b10";

/// Contoso with 120 records in 6 blobs, and an HTTP output with this URL and further keys.
fn installation(url: &str, lines: &str) -> Installation {
    let installation = Installation::new().with_output(&format!("  http:\n    url: {url}\n    {lines}"));
    installation.contoso.add_blobs(FEED, 6, 20, hours_ago(20)..hours_ago(2));
    installation
}

/// The number of records for each Id in these requests, given how to find the records of a body.
fn ids(requests: &[ReceivedRequest], records: impl Fn(&str) -> Vec<String>) -> BTreeMap<String, usize> {
    let mut ids = BTreeMap::new();
    for record in requests.iter().flat_map(|request| records(&request.body)) {
        let id = simulator::id_of(&record).unwrap_or_else(|| panic!("a record without an Id: {record}"));
        *ids.entry(id).or_default() += 1;
    }
    ids
}

/// The records of `ndjson`.
fn lines(body: &str) -> Vec<String> {
    assert!(body.ends_with('\n'), "the last line has no line break");
    body.lines().map(str::to_owned).collect()
}

/// The records of `array` and `azure-logs-ingestion`.
fn elements(body: &str) -> Vec<String> {
    let array: Vec<&RawValue> = serde_json::from_str(body).expect("an array");
    array.iter().map(|element| element.get().to_owned()).collect()
}

/// The records of `elastic-bulk`.
fn documents(body: &str) -> Vec<String> {
    body.lines().skip(1).step_by(2).map(str::to_owned).collect()
}

/// The text of a field. A record can contain numbers that `serde_json::Value` cannot.
fn field(record: &str, name: &str) -> String {
    let fields: BTreeMap<String, &RawValue> = serde_json::from_str(record).expect("an object");
    fields[name].get().trim_matches('"').to_owned()
}

/// The Ids of contoso's records, each with the number 1.
fn each_once(installation: &Installation) -> BTreeMap<String, usize> {
    installation.contoso.ids(FEED).into_iter().map(|id| (id, 1)).collect()
}

/// Asserts that these requests and the files contain each record once, and that each blob is committed.
#[track_caller]
fn assert_delivered_once(
    installation: &Installation,
    requests: &[ReceivedRequest],
    records: impl Fn(&str) -> Vec<String>,
) {
    assert_eq!(ids(requests, records), each_once(installation));
    installation.assert_delivered_once([(&installation.contoso, FEED)]);
    assert_eq!(installation.known_blobs().len(), installation.contoso.blobs(FEED).len());
}

#[test]
fn sends_records_unchanged_as_lines_and_arrays() {
    for (format, content_type, split) in [
        ("ndjson", "application/x-ndjson", lines as fn(&str) -> Vec<String>),
        ("array", "application/json", elements),
    ] {
        for compress in ["none", "gzip"] {
            let receiver = HttpReceiver::accepting();
            let options = format!("format: {format}\n    compress: {compress}\n    headers: {{ X-Key: k }}");
            let installation = installation(&receiver.url("/in?a=b"), &options);
            installation.run(&[]).assert_code(0);
            let accepted = receiver.accepted();
            assert_delivered_once(&installation, &accepted, split);
            let delivered: BTreeSet<_> = accepted.iter().flat_map(|request| split(&request.body)).collect();
            assert_eq!(delivered, installation.output().into_values().flatten().collect());
            for request in &accepted {
                assert_eq!((&*request.method, &*request.target), ("POST", "/in?a=b"));
                assert_eq!(
                    (&*request.headers["content-type"], &*request.headers["x-key"]),
                    (content_type, "k")
                );
                assert_eq!(request.wire_bytes < request.body.len(), compress == "gzip");
            }
        }
    }
}

#[test]
fn limits_batches_by_bytes_and_records() {
    let receiver = HttpReceiver::accepting();
    let installation = installation(&receiver.url("/"), "batchSize: 8K\n    batchRecords: 5");
    let large = format!(r#"{{"Id":"0000aaaa-0000-4000-8000-000000000001","x":"{}"}}"#, "x".repeat(20_000));
    installation.contoso.add_blob(FEED, NewBlob::texts([large]).created(hours_ago(1)));
    installation.run(&[]).assert_code(0);
    assert_delivered_once(&installation, &receiver.accepted(), lines);
    for request in receiver.accepted() {
        let count = lines(&request.body).len();
        assert!(
            count == 1 || (count <= 5 && request.body.len() <= 8 * 1024),
            "{count} records in {} bytes",
            request.body.len()
        );
    }
    assert!(receiver.accepted().len() >= 25);
    assert!(receiver.connections() <= 4, "connections are not reused");
}

#[test]
fn retries_transient_errors() {
    in_parallel(
        [
            ("HTTP 503", Reply::status(503)),
            ("HTTP 429", Reply::status(429)),
            ("HTTP 408", Reply::status(408)),
            ("HTTP 500: no room", Reply::json(500, r#"{"message":"no room"}"#)),
            ("HTTP 503", Reply::retry_after(503, "1")),
            ("", Reply::Close),
        ],
        |(problem, reply)| {
            let receiver = HttpReceiver::start(
                move |_, place| if place == 0 { reply.clone() } else { Reply::status(200) },
            );
            let installation = installation(&receiver.url("/"), "connections: 1");
            let run = installation.run(&[]);
            run.assert_code(0).assert_line_with(&[
                "[WARN] Output http: 127.0.0.1:",
                problem,
                "trying again in",
            ]);
            assert_delivered_once(&installation, &receiver.accepted(), lines);
            assert!(receiver.requests().len() >= 2);
        },
    );
}

#[test]
fn waits_for_retry_after() {
    in_parallel([false, true], |is_date| {
        let early = Arc::new(AtomicUsize::new(0));
        let (early_requests, not_before) = (Arc::clone(&early), OnceLock::new());
        let receiver = HttpReceiver::start(move |_, place| {
            let now = jiff::Timestamp::now();
            let a_second_later = now + Duration::from_secs(1);
            if now < *not_before.get_or_init(|| a_second_later) && place > 0 {
                early_requests.fetch_add(1, Ordering::SeqCst);
            }
            // Dates have no fractions of seconds: this one is between one and two seconds later.
            let date = (now + Duration::from_secs(2)).strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
            match (place, is_date) {
                (0, false) => Reply::retry_after(429, "1"),
                (0, true) => Reply::retry_after(429, date),
                _ => Reply::status(200),
            }
        });
        let installation = installation(&receiver.url("/"), "connections: 1");
        installation.run(&[]).assert_code(0);
        assert_eq!(early.load(Ordering::SeqCst), 0, "requests before the requested time");
        assert_delivered_once(&installation, &receiver.accepted(), lines);
    });
}

#[test]
fn fails_when_retry_after_exceeds_retry_timeout() {
    for seconds in ["3600", "18446744073709551615"] {
        let receiver = HttpReceiver::start(move |_, place| {
            if place == 0 { Reply::retry_after(503, seconds) } else { Reply::status(200) }
        });
        let installation = installation(&receiver.url("/"), "retryTimeout: 5s\n    connections: 1");
        installation.run(&[]).assert_code(1).assert_line_with(&[
            "[ERROR] Output http failed: 127.0.0.1:",
            &format!("HTTP 503, and asks to wait {seconds} s (attempts: 1)"),
        ]);
        assert_eq!(receiver.requests().len(), 1);
        installation.run(&[]).assert_code(0);
        assert_delivered_once(&installation, &receiver.accepted(), lines);
    }
}

#[test]
fn reports_permanent_errors_with_reason_and_hint_and_without_retry() {
    for (reply, problem, hint) in [
        (
            Reply::json(401, r#"{"message":"bad key keep-it-secret"}"#),
            "HTTP 401: bad key …",
            "check the token in headers",
        ),
        (Reply::status(403), "HTTP 403; ", "check the token in headers"),
        (Reply::json(404, "no such source"), "HTTP 404: no such source", "check url"),
        (Reply::status(415), "HTTP 415", "compress"),
        (
            Reply::Response(307, vec![("Location", "http://192.0.2.1/".to_owned())], String::new()),
            "HTTP 307",
            "redirects are not followed",
        ),
    ] {
        let receiver = HttpReceiver::start(move |_, _| reply.clone());
        let options = "connections: 1\n    headers: { Authorization: Bearer keep-it-secret }";
        let installation = installation(&receiver.url("/path-token"), options);
        let run = installation.run(&[]);
        run.assert_code(1).assert_line_with(&["[ERROR] Output http failed: 127.0.0.1:", problem, hint]);
        assert!(!run.stderr.contains("keep-it-secret") && !run.stderr.contains("path-token"), "{run}");
        assert_eq!(receiver.requests().len(), 1, "{run}");
        installation.assert_delivered_once([(&installation.contoso, FEED)]);
        assert!(installation.known_blobs().is_empty());
    }
}

#[test]
fn splits_batch_after_413() {
    let receiver =
        HttpReceiver::start(
            |request, _| {
                if request.body.len() > 4_000 { Reply::status(413) } else { Reply::status(200) }
            },
        );
    let installation = installation(&receiver.url("/"), "format: array");
    let run = installation.run(&[]);
    run.assert_code(0).assert_line_with(&[
        "[WARN] Output http",
        "HTTP 413 for",
        "sent in halves; lower batchSize",
    ]);
    assert_eq!(run.stderr.matches("HTTP 413").count(), 1, "{run}");
    assert_delivered_once(&installation, &receiver.accepted(), elements);

    let receiver = HttpReceiver::start(|_, _| Reply::status(413));
    let installation = self::installation(&receiver.url("/"), "connections: 1");
    installation.run(&[]).assert_code(1).assert_line_with(&[
        "[ERROR] Output http failed",
        "10 records were rejected, the last one with HTTP 413 for a single record of",
        "let the receiver accept larger bodies",
    ]);
}

#[test]
fn splits_batch_when_receiver_closes_during_upload() {
    for sends_413 in [true, false] {
        let receiver = HttpReceiver::with_body_limit(BodyLimit { bytes_max: 200_000, sends_413 });
        let installation =
            Installation::new().with_output(&format!("  http: {{ url: '{}' }}", receiver.url("/")));
        installation.contoso.add_blobs(FEED, 2, 100, hours_ago(20)..hours_ago(2));
        let run = installation.run(&[]);
        run.assert_code(0).assert_line_with(&["[WARN] Output http", "sent in halves; lower batchSize"]);
        assert_delivered_once(&installation, &receiver.accepted(), lines);
    }
}

#[test]
fn delivers_once_after_outage_of_two_passes() {
    let is_down = Arc::new(AtomicBool::new(true));
    let down = Arc::clone(&is_down);
    let receiver = HttpReceiver::start(move |_, _| {
        if down.load(Ordering::SeqCst) { Reply::status(503) } else { Reply::status(200) }
    });
    let installation = installation(&receiver.url("/"), "retryTimeout: 0s");
    for _ in 0..2 {
        installation.run(&[]).assert_code(1).assert_line_with(&["[ERROR] Output http failed", "HTTP 503"]);
        installation.contoso.add_blob(FEED, NewBlob::records(10).created(hours_ago(1)));
    }
    assert!(installation.known_blobs().is_empty());
    is_down.store(false, Ordering::SeqCst);
    installation.run(&[]).assert_code(0);
    assert_delivered_once(&installation, &receiver.accepted(), lines);
    installation.run(&[]).assert_code(0).assert_line("[WARN] No new blobs found");
    assert_delivered_once(&installation, &receiver.accepted(), lines);
}

/// Runs a pass that fails and, when the receiver is up again, one that succeeds. Asserts that the second pass sends exactly
/// the records that the receiver did not accept from the requests of the first one.
#[track_caller]
fn assert_accepted_is_not_resent(
    (receiver, is_down): (&HttpReceiver, &AtomicBool),
    options: &str,
    records: fn(&str) -> Vec<String>,
    accepted: impl Fn(&[ReceivedRequest]) -> BTreeMap<String, usize>,
) {
    let installation = installation(&receiver.url(""), &format!("{options}\n    retryTimeout: 0s"));
    installation.run(&[]).assert_code(1).assert_line_with(&["[ERROR] Output http failed"]);
    let accepted = accepted(&receiver.requests());
    let before = receiver.requests().len();
    is_down.store(false, Ordering::SeqCst);
    installation.run(&[]).assert_code(0);
    let second = ids(&receiver.requests()[before..], records);
    assert!(!accepted.is_empty() && accepted.keys().all(|id| !second.contains_key(id)));
    assert_eq!(accepted.len() + second.len(), 120);
}

#[test]
fn does_not_resend_batches_accepted_before_failure() {
    let is_down = Arc::new(AtomicBool::new(true));
    let down = Arc::clone(&is_down);
    let receiver = HttpReceiver::start(move |_, place| {
        Reply::status(if place >= 3 && down.load(Ordering::SeqCst) { 503 } else { 200 })
    });
    let options = "batchRecords: 10\n    connections: 1";
    assert_accepted_is_not_resent((&receiver, &is_down), options, lines, |requests| {
        ids(&requests[..3], lines)
    });
}

#[test]
fn does_not_resend_documents_accepted_before_failure() {
    let is_down = Arc::new(AtomicBool::new(true));
    let down = Arc::clone(&is_down);
    let is_rejected = |id: &str| id.ends_with(['0', '1', '2', '3']);
    let (receiver, _) = elasticsearch(move |id, _| {
        let error = json!({ "type": "es_rejected_execution_exception", "reason": "full" });
        if down.load(Ordering::SeqCst) && is_rejected(id) { (429, error) } else { (201, Value::Null) }
    });
    assert_accepted_is_not_resent((&receiver, &is_down), ELASTIC, documents, |requests| {
        let mut accepted = ids(requests, documents);
        accepted.retain(|id, _| !is_rejected(id));
        accepted
    });
}

/// Contoso with 120 records, and a receiver that rejects each batch with one of them until it is fixed. It accepts all other
/// batches after a moment, so that several are in flight when it rejects one.
struct OneRejected {
    installation: Installation,
    receiver: HttpReceiver,
    /// The Id of the rejected record.
    id: String,
    is_fixed: Arc<AtomicBool>,
}

impl OneRejected {
    fn new(rejection: Reply, options: &str) -> Self {
        let (rejected, is_fixed) = (Arc::new(OnceLock::<String>::new()), Arc::new(AtomicBool::new(false)));
        let (rejected_id, fixed) = (Arc::clone(&rejected), Arc::clone(&is_fixed));
        let receiver = HttpReceiver::start(move |request, _| {
            if contains(request, &rejected_id) && !fixed.load(Ordering::SeqCst) {
                return rejection.clone();
            }
            thread::sleep(Duration::from_millis(50));
            Reply::json(200, r#"{"text":"Success","code":0}"#)
        });
        let installation = installation(&receiver.url("/in"), options).collect("maxThreads: 1");
        let id = choose_record(&installation, &rejected);
        Self { installation, receiver, id, is_fixed }
    }

    /// The number of times that each record was accepted.
    fn accepted(&self, records: fn(&str) -> Vec<String>) -> BTreeMap<String, usize> {
        ids(&self.receiver.accepted(), records)
    }

    /// Every record but the rejected one, each with the number 1.
    fn others_once(&self) -> BTreeMap<String, usize> {
        let mut others = each_once(&self.installation);
        others.remove(&self.id).expect("a record of contoso");
        others
    }
}

/// Whether a request contains the Id that was chosen.
fn contains(request: &ReceivedRequest, id: &OnceLock<String>) -> bool {
    id.get().is_some_and(|id| request.body.contains(id.as_str()))
}

/// Chooses one of contoso's records. Returns its Id.
fn choose_record(installation: &Installation, chosen: &OnceLock<String>) -> String {
    let id = installation.contoso.ids(FEED).into_iter().nth(30).expect("more than 30 records");
    chosen.set(id.clone()).expect("no other record is chosen");
    id
}

/// The records of `splunk-hec`.
fn events(body: &str) -> Vec<String> {
    let record = |event: String| {
        let (_, record) = event.split_once(",\"event\":").expect("an event");
        record[..record.len() - 1].to_owned()
    };
    lines(body).into_iter().map(record).collect()
}

#[test]
fn does_not_resend_batches_in_flight_during_failure() {
    let setup = OneRejected::new(Reply::status(403), "batchRecords: 10");
    for _ in 0..3 {
        let run = setup.installation.run(&[]);
        run.assert_code(1).assert_line_with(&["[ERROR] Output http failed", "HTTP 403"]);
        let accepted = setup.accepted(lines);
        assert!(accepted.len() >= 10 && accepted.values().all(|count| *count == 1), "{accepted:?}");
    }
    setup.is_fixed.store(true, Ordering::SeqCst);
    setup.installation.run(&[]).assert_code(0);
    assert_delivered_once(&setup.installation, &setup.receiver.accepted(), lines);
}

#[test]
fn remembers_accepted_records_while_their_blob_is_pending() {
    let setup = OneRejected::new(Reply::status(400), "deadLetters: false");
    setup.installation.run(&[]).assert_code(1);
    assert_eq!(setup.accepted(lines), setup.others_once());

    // As if the first pass had run this number of hours earlier.
    let hours_earlier =
        |hours: i64| (jiff::Timestamp::now() - jiff::SignedDuration::from_hours(hours)).to_string();
    let progress = setup.installation.path("state/progress");
    let text = fs::read_to_string(&progress).expect("a readable file");
    let (before, rest) = text.split_once("\"contentCreated\":\"").expect("a pending blob");
    let (_, after) = rest.split_once('"').expect("a time");
    fs::write(&progress, format!("{before}\"contentCreated\":\"{}\"{after}", hours_earlier(40)))
        .expect("a writable file");
    for file in fs::read_dir(setup.installation.path("state/record_ids")).expect("a readable folder") {
        let path = file.expect("a readable folder").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name in UTF-8");
        let earlier = format!("{}{}", &hours_earlier(30)[..13], &name[13..]);
        fs::rename(&path, path.with_file_name(earlier)).expect("a writable folder");
    }
    setup.installation.run(&[]).assert_code(1);
    assert_eq!(setup.accepted(lines), setup.others_once());
}

#[test]
fn does_not_wait_for_retry_after_permanent_error() {
    let requests = AtomicUsize::new(0);
    let receiver = HttpReceiver::start(move |_, _| {
        if requests.fetch_add(1, Ordering::SeqCst) > 0 {
            return Reply::retry_after(503, "1800");
        }
        wait_until("every connection has sent a batch", || requests.load(Ordering::SeqCst) >= 4);
        Reply::status(403)
    });
    let options = "batchRecords: 10\n    connections: 4\n    retryTimeout: 3600s";
    let installation = installation(&receiver.url("/"), options);
    installation.run(&[]).assert_code(1).assert_line_with(&["[ERROR] Output http failed", "HTTP 403"]);
}

#[test]
fn names_rejected_record_and_delivers_all_others() {
    for (status, format, split) in [
        (400, "ndjson", lines as fn(&str) -> Vec<String>),
        (422, "array", elements),
        (413, "ndjson", lines),
        (400, "splunk-hec", events),
    ] {
        let reply = Reply::json(status, r#"{"text":"no such field","code":6}"#);
        let options = format!("format: {format}\n    batchRecords: 50\n    deadLetters: false");
        let setup = OneRejected::new(reply, &options);
        let OneRejected { receiver, installation, id, is_fixed } = &setup;
        let assert_named = |run: &Run| {
            let line = format!("[ERROR] Output http failed for 1 record ({id} of contoso audit.general): ");
            run.assert_code(1).assert_line_with(&[
                &line,
                &format!("HTTP {status}: no such field"),
                "; the next pass sends it again",
            ]);
            assert_eq!(run.stderr.matches("[ERROR] Output http").count(), 1, "{run}");
        };
        assert_named(&installation.run(&[]));
        assert_eq!(setup.accepted(split), setup.others_once(), "{status} {format}");
        assert_eq!(installation.known_blobs().len(), 5);

        installation.contoso.add_blob(FEED, NewBlob::records(10).created(hours_ago(1)));
        let before = receiver.requests().len();
        assert_named(&installation.run(&[]));
        assert_eq!(setup.accepted(split), setup.others_once(), "{status} {format}");
        assert_eq!(installation.known_blobs().len(), 6);
        let requests = receiver.requests().len() - before;
        assert!(status == 413 || requests <= 10, "{requests} requests to find one of eleven records");

        is_fixed.store(true, Ordering::SeqCst);
        installation.run(&[]).assert_code(0);
        assert_delivered_once(installation, &receiver.accepted(), split);
    }
}

#[test]
fn resends_only_blob_of_rejected_record_without_id() {
    for dedup in ["dedupHours: 0", "dedupHours: 24"] {
        let receiver = HttpReceiver::start(|request, _| {
            Reply::status(if request.body.contains("unwanted") { 400 } else { 200 })
        });
        let options = "batchRecords: 50\n    deadLetters: false";
        let installation = installation(&receiver.url("/"), options).collect(dedup);
        let texts = ["{\"a\":1}", "{\"a\":\"unwanted\"}", "{\"a\":2}"].map(str::to_owned);
        installation.contoso.add_blob(FEED, NewBlob::texts(texts).created(hours_ago(1)));
        let accepted =
            || receiver.accepted().iter().flat_map(|request| lines(&request.body)).collect::<Vec<_>>();
        for pass in 1..=2 {
            installation.run(&[]).assert_code(1).assert_line_with(&[
                "Output http failed for 1 record (one without an Id of contoso audit.general)",
            ]);
            assert_eq!(installation.known_blobs().len(), 6);
            assert_eq!(
                accepted().len(),
                120 + 2 * pass,
                "only the blob of the rejected record is sent again"
            );
        }
    }
}

#[test]
fn logs_no_record_and_no_token_that_receiver_quotes() {
    for status in [400, 403, 503] {
        let receiver = HttpReceiver::start(move |request, _| {
            let record = request.body.lines().next().unwrap_or_default();
            let (user, token) = (field(record, "UserId"), request.headers["authorization"].clone());
            Reply::json(status, format!("bad value '{user}' in UserId of {token}"))
        });
        let options = "retryTimeout: 1s\n    headers: { Authorization: Bearer keep-it-secret }";
        let installation = installation(&receiver.url("/"), options);
        let run = installation.run(&[]);
        run.assert_code(1).assert_line_with(&[&format!("HTTP {status}: "), "'…' in UserId"]);
        let users = installation.output().into_values().flatten().map(|record| field(&record, "UserId"));
        for user in users.collect::<HashSet<_>>() {
            assert!(!run.stderr.contains(&user), "{user}: {run}");
        }
        assert!(!run.stderr.contains("keep-it-secret"), "{run}");
    }
}

#[test]
fn gives_up_when_receiver_rejects_everything() {
    let receiver = HttpReceiver::start(|_, _| Reply::json(400, r#"unwanted {"Id":1} is bad"#));
    let installation = installation(&receiver.url("/"), "connections: 2");
    installation.contoso.add_blobs(FEED, 6, 200, hours_ago(20)..hours_ago(2));
    let run = installation.run(&[]);
    run.assert_code(1).assert_line_with(&[
        "[ERROR] Output http failed: 127.0.0.1:",
        "with HTTP 400: unwanted; check format",
    ]);
    assert!(receiver.requests().len() <= 400, "{} requests", receiver.requests().len());
    assert!(installation.known_blobs().is_empty());
}

#[test]
fn reports_missing_receiver() {
    let installation = installation(&format!("http://127.0.0.1:{}", unused_port()), "retryTimeout: 1s");
    installation.run(&[]).assert_code(1).assert_line_with(&[
        "[ERROR] Output http failed: 127.0.0.1:",
        "refused",
        "check DNS, the firewall",
    ]);
    installation.assert_delivered_once([(&installation.contoso, FEED)]);
}

#[test]
fn retries_after_timeout_of_silent_receiver() {
    let receiver =
        HttpReceiver::start(|_, place| if place == 0 { Reply::Silence } else { Reply::status(200) });
    let installation = installation(&receiver.url("/"), "timeout: 1s\n    connections: 1");
    installation.run(&[]).assert_code(0).assert_line_with(&["[WARN] Output http", "no answer in time"]);
    assert_delivered_once(&installation, &receiver.accepted(), lines);
}

#[test]
fn ends_on_signal_while_receiver_hangs() {
    let receiver = HttpReceiver::start(|_, _| Reply::Silence);
    let installation = installation(&receiver.url("/"), "timeout: 10m");
    let child = installation.pass().spawn().expect("the program starts");
    wait_until("the receiver has a request", || !receiver.requests().is_empty());
    signal(&child, Signal::TERM);
    let run = Run::finish(child);
    run.assert_code(143).assert_line_with(&["[ERROR] Output http failed", "the pass had to end"]);
    assert!(installation.known_blobs().is_empty());
}

#[test]
fn sends_splunk_events_with_time_and_metadata() {
    let receiver = HttpReceiver::start(|_, _| Reply::json(200, r#"{"text":"Success","code":0}"#));
    let options =
        "format: splunk-hec\n    headers: { Authorization: Splunk hec-token }\n    splunk: { index: o365 }";
    let installation = installation(&receiver.url(""), options);
    installation.run(&[]).assert_code(0);
    let accepted = receiver.accepted();
    assert_delivered_once(&installation, &accepted, events);
    for request in accepted {
        assert_eq!(request.target, "/services/collector/event");
        assert_eq!(request.headers["authorization"], "Splunk hec-token");
        for event in request.body.lines() {
            let metadata = ["host", "source", "sourcetype", "index"].map(|name| field(event, name));
            assert_eq!(metadata, ["contoso", "office365", "o365:management:activity", "o365"]);
            let created = format!("{}Z", field(&field(event, "event"), "CreationTime").trim_end_matches('Z'));
            let created: jiff::Timestamp = created.parse().expect("a time");
            let time: f64 = field(event, "time").parse().expect("a number");
            assert!((time - created.as_duration().as_secs_f64()).abs() < 0.01, "{time} {created}");
        }
    }
}

/// When the indexers acknowledge a batch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Indexed {
    AtSecondRequest,
    Never,
}

/// A Splunk with indexer acknowledgement, which accepts every batch.
fn splunk_with_acks(indexed: Indexed) -> HttpReceiver {
    splunk_with_acks_and_rejections(indexed, |_| None)
}

/// A Splunk with indexer acknowledgement, which accepts every batch for which there is no other reply.
fn splunk_with_acks_and_rejections(
    indexed: Indexed,
    rejection: impl Fn(&ReceivedRequest) -> Option<Reply> + Send + Sync + 'static,
) -> HttpReceiver {
    let requested = Mutex::new(HashSet::new());
    let last_id = AtomicUsize::new(0);
    HttpReceiver::start(move |request, _| {
        assert_eq!(request.headers["x-splunk-request-channel"], CHANNEL);
        if request.target == "/services/collector/event" {
            return rejection(request)
                .unwrap_or_else(|| accepted_with_ack_id(last_id.fetch_add(1, Ordering::SeqCst) + 1));
        }
        assert_eq!(request.target, format!("/services/collector/ack?channel={CHANNEL}"));
        let mut requested = requested.lock().expect("no thread has panicked");
        let mut is_indexed = |id| !requested.insert(id) && indexed == Indexed::AtSecondRequest;
        acks(ack_ids(request).into_iter().map(|id| (id, is_indexed(id))))
    })
}

/// The ids in a request for acknowledgements.
fn ack_ids(request: &ReceivedRequest) -> Vec<usize> {
    let body: Value = serde_json::from_str(&request.body).expect("a JSON object");
    serde_json::from_value(body["acks"].clone()).expect("a list of numbers")
}

/// The Ids of the records in a batch.
fn record_ids(body: &str) -> Vec<String> {
    events(body).iter().map(|event| simulator::id_of(event).expect("an Id")).collect()
}

/// The response to a batch that is accepted.
fn accepted_with_ack_id(id: usize) -> Reply {
    Reply::json(200, json!({ "text": "Success", "code": 0, "ackId": id }).to_string())
}

/// A response with these acknowledgements.
fn acks(acks: impl IntoIterator<Item = (usize, bool)>) -> Reply {
    let acks: BTreeMap<_, _> = acks.into_iter().collect();
    Reply::json(200, json!({ "acks": acks }).to_string())
}

#[test]
fn commits_after_splunk_has_indexed() {
    let options =
        |seconds| format!("format: splunk-hec\n    splunk: {{ channel: {CHANNEL}, ackTimeout: {seconds}s }}");
    let receiver = splunk_with_acks(Indexed::AtSecondRequest);
    let late = installation(&receiver.url(""), &options(60));
    late.run(&[]).assert_code(0);
    assert_eq!(late.known_blobs().len(), 6);
    assert!(receiver.requests().iter().filter(|request| request.target.contains("/ack")).count() >= 2);

    let never = installation(&splunk_with_acks(Indexed::Never).url(""), &options(1));
    never.run(&[]).assert_code(1).assert_line_with(&["not indexed after 1 s", "raise splunk.ackTimeout"]);
    assert!(never.known_blobs().is_empty());
}

#[test]
fn does_not_resend_events_indexed_before_rejection() {
    for (status, body, problem) in [
        (403, r#"{"text":"Token disabled","code":1}"#, "Output http failed: "),
        (400, r#"{"text":"Invalid data format","code":6}"#, "Output http failed for 1 record ("),
    ] {
        let rejected = Arc::new(OnceLock::<String>::new());
        let rejected_id = Arc::clone(&rejected);
        let receiver = splunk_with_acks_and_rejections(Indexed::AtSecondRequest, move |request| {
            contains(request, &rejected_id).then(|| Reply::json(status, body))
        });
        let options = format!(
            "format: splunk-hec\n    batchRecords: 10\n    deadLetters: false\n    \
             splunk: {{ channel: {CHANNEL}, ackTimeout: 60s }}"
        );
        let installation = installation(&receiver.url(""), &options);
        choose_record(&installation, &rejected);
        for _ in 0..2 {
            installation.run(&[]).assert_code(1).assert_line_with(&[problem]);
            let mut events = receiver.accepted();
            events.retain(|request| request.target == "/services/collector/event");
            let accepted = ids(&events, self::events);
            assert!(!accepted.is_empty() && accepted.values().all(|count| *count == 1), "{accepted:?}");
            assert!(status == 403 || accepted.len() == 119, "{} events", accepted.len());
        }
    }
}

#[test]
fn explains_error_codes_of_splunk() {
    for (status, body, parts) in [
        (
            403,
            r#"{"text":"Invalid token","code":4}"#,
            ["HTTP 403: Invalid token", "the token is not one of this Splunk's"],
        ),
        (
            400,
            r#"{"text":"Data channel is missing","code":10}"#,
            ["HTTP 400: Data channel", "splunk.channel"],
        ),
        (400, r#"{"text":"Incorrect index","code":7}"#, ["HTTP 400: Incorrect index", "splunk.index"]),
    ] {
        let receiver = HttpReceiver::start(move |_, _| Reply::json(status, body));
        let installation = installation(&receiver.url(""), "format: splunk-hec");
        installation.run(&[]).assert_code(1).assert_line_with(&parts);
    }
}

/// The documents of an index, by `_id`.
struct Index {
    documents: Mutex<BTreeMap<String, String>>,
}

/// An Elasticsearch that answers each document with a status and an error, given its `_id` and text. With status 201 it
/// stores the document, or answers 409 if it has one with this `_id`.
fn elasticsearch(
    status_of: impl Fn(&str, &str) -> (u16, Value) + Send + Sync + 'static,
) -> (HttpReceiver, Arc<Index>) {
    let index = Arc::new(Index { documents: Mutex::default() });
    let shared = Arc::clone(&index);
    let receiver = HttpReceiver::start(move |request, _| {
        let mut documents = shared.documents.lock().expect("no thread has panicked");
        let rows: Vec<_> = request.body.lines().collect();
        let mut items = Vec::new();
        for pair in rows.chunks(2) {
            let action: Value = serde_json::from_str(pair[0]).expect("an action");
            let action = action["create"].as_object().expect("a create");
            assert_eq!(action["_index"], "logs-o365");
            let id = action["_id"].as_str().expect("an Id").to_owned();
            let (mut status, error) = status_of(&id, pair[1]);
            if status == 201 && documents.contains_key(&id) {
                status = 409;
            } else if status == 201 {
                documents.insert(id, pair[1].to_owned());
            }
            items.push(match status {
                201 => json!({ "create": { "status": 201 } }),
                _ => json!({ "create": { "status": status, "error": error } }),
            });
        }
        let errors = items.iter().any(|item| item["create"]["status"] != 201);
        Reply::json(200, json!({ "errors": errors, "items": items }).to_string())
    });
    (receiver, index)
}

const ELASTIC: &str = "format: elastic-bulk\n    elastic: { index: logs-o365 }";

#[test]
fn sends_elasticsearch_documents_with_id_and_time() {
    let (receiver, index) = elasticsearch(|_, _| (201, Value::Null));
    let installation = installation(&receiver.url(""), ELASTIC);
    installation.run(&[]).assert_code(0);
    assert_delivered_once(&installation, &receiver.accepted(), documents);
    assert!(receiver.accepted().iter().all(|request| request.target == "/_bulk"));
    let documents = index.documents.lock().expect("no thread has panicked");
    assert_eq!(
        documents.keys().cloned().collect::<BTreeSet<_>>(),
        each_once(&installation).into_keys().collect()
    );
    for document in documents.values() {
        let (created, time) = (field(document, "CreationTime"), field(document, "@timestamp"));
        assert!(time.starts_with(&created[..19]) && time.ends_with('Z'), "{time} {created}");
    }
}

#[test]
fn resends_only_documents_that_elasticsearch_rejected_as_busy() {
    let busy = Mutex::new(HashSet::new());
    let (receiver, index) = elasticsearch(move |id, _| {
        let is_first = busy.lock().expect("no thread has panicked").insert(id.to_owned());
        if is_first && id.ends_with(['0', '1', '2', '3']) {
            (429, json!({ "type": "es_rejected_execution_exception", "reason": "full" }))
        } else {
            (201, Value::Null)
        }
    });
    let installation = installation(&receiver.url(""), ELASTIC);
    installation
        .run(&[])
        .assert_code(0)
        .assert_line_with(&["records are not accepted: es_rejected_execution_exception"]);
    let sent = ids(&receiver.requests(), documents);
    let stored: BTreeSet<_> =
        index.documents.lock().expect("no thread has panicked").keys().cloned().collect();
    assert_eq!(stored, each_once(&installation).into_keys().collect());
    for (id, count) in sent {
        assert_eq!(count, if id.ends_with(['0', '1', '2', '3']) { 2 } else { 1 }, "{id}");
    }
}

#[test]
fn counts_existing_document_as_accepted() {
    let (receiver, index) = elasticsearch(|_, _| (201, Value::Null));
    let installation = installation(&receiver.url(""), ELASTIC).collect("skipKnownLogs: false");
    for _ in 0..2 {
        installation.run(&[]).assert_code(0);
    }
    assert_eq!(index.documents.lock().expect("no thread has panicked").len(), 120);
    assert!(ids(&receiver.accepted(), documents).values().all(|count| *count == 2));
}

#[test]
fn sends_record_as_text_after_mapping_error() {
    let reason =
        "[1:9] failed to parse field [ResultStatus] of type [long]. Preview of field's value: 'hunter2'";
    let (receiver, index) = elasticsearch(move |id, document| {
        if id.ends_with('7') && !document.starts_with("{\"event\":") {
            (400, json!({ "type": "document_parsing_exception", "reason": reason }))
        } else {
            (201, Value::Null)
        }
    });
    let installation = installation(&receiver.url(""), ELASTIC);
    let run = installation.run(&[]);
    run.assert_code(0);
    let documents = index.documents.lock().expect("no thread has panicked");
    assert_eq!(
        documents.keys().cloned().collect::<BTreeSet<_>>(),
        each_once(&installation).into_keys().collect()
    );
    let texts: Vec<_> = documents.iter().filter(|(id, _)| id.ends_with('7')).collect();
    assert!(!texts.is_empty());
    for (id, text) in texts {
        let text: Value = serde_json::from_str(text).expect("a document");
        let original = text["event"]["original"].as_str().expect("a text");
        assert_eq!(simulator::id_of(original).as_ref(), Some(id));
        assert_eq!((&text["error"]["message"], text["@timestamp"].is_string()), (&json!(reason), true));
    }
    run.assert_line_with(&[
        "[WARN] Output http: the mapping rejects",
        "(document_parsing_exception, field ResultStatus): they are sent as text in event.original",
    ]);
    assert!(!run.stderr.contains("hunter2"), "{run}");
}

#[test]
fn writes_dead_letter_when_text_is_rejected_too() {
    let (receiver, index) = elasticsearch(|id, _| {
        let error = json!({ "type": "strict_dynamic_mapping_exception", "reason": "no" });
        if id.ends_with("77") { (400, error) } else { (201, Value::Null) }
    });
    let installation = installation(&receiver.url(""), ELASTIC);
    installation.contoso.add_blob(
        FEED,
        NewBlob::texts([r#"{"Id":"00000000-0000-4000-8000-000000000077","a":1}"#.to_owned()])
            .created(hours_ago(1)),
    );
    installation.run(&[]).assert_code(0).assert_line_with(&[
        "[WARN] Output http: the receiver rejects ",
        "is rejected: status 400, strict_dynamic_mapping_exception",
        "correct the index's mapping",
    ]);
    assert_eq!(installation.known_blobs().len(), 7);
    let letters = fs::read_to_string(installation.path("state/dead-letters/http.json")).expect("a file");
    let stored = index.documents.lock().expect("no thread has panicked").len();
    assert_eq!(letters.lines().count() + stored, 121);
    assert!(
        letters.contains(r#""record":{"Id":"00000000-0000-4000-8000-000000000077","a":1,"OriginFeed""#),
        "{letters}"
    );
}

#[test]
fn fails_when_index_rejects_everything() {
    for (r#type, reason) in [
        (
            "validation_exception",
            "this action would add [2] shards, but this cluster has [1000]/[1000] maximum shards",
        ),
        ("illegal_argument_exception", "pipeline with id [o365] does not exist"),
    ] {
        let (receiver, _) = elasticsearch(move |_, _| (400, json!({ "type": r#type, "reason": reason })));
        let installation = installation(&receiver.url(""), &format!("{ELASTIC}\n    connections: 1"));
        let run = installation.run(&[]);
        run.assert_code(1).assert_line_with(&["[ERROR] Output http failed", r#type, reason]);
        assert_eq!(receiver.requests().len(), 1);
        assert!(!run.stderr.contains("sent as text"), "{run}");
        assert!(check_error(&installation).is_some_and(|error| error.contains(reason)));
    }
}

#[test]
fn splits_rejected_bulk_body_down_to_the_record() {
    let index = Arc::new(Index { documents: Mutex::default() });
    let invalid = Arc::new(OnceLock::<String>::new());
    let invalid_id = Arc::clone(&invalid);
    let shared = Arc::clone(&index);
    let receiver = HttpReceiver::start(move |request, _| {
        let rows: Vec<_> = request.body.lines().collect();
        let is_invalid = |document: &str| {
            let is_text = document.starts_with("{\"event\":");
            !is_text && invalid_id.get().is_some_and(|id| document.contains(id.as_str()))
        };
        if rows.chunks(2).any(|pair| is_invalid(pair[1])) {
            let error = json!({ "type": "x_content_parse_exception", "reason": "Duplicate field 'Id'" });
            return Reply::json(400, json!({ "error": error, "status": 400 }).to_string());
        }
        let mut documents = shared.documents.lock().expect("no thread has panicked");
        let items: Vec<_> = rows
            .chunks(2)
            .map(|pair| {
                let action: Value = serde_json::from_str(pair[0]).expect("an action");
                let id = action["create"]["_id"].as_str().expect("an Id").to_owned();
                assert!(documents.insert(id, pair[1].to_owned()).is_none());
                json!({ "create": { "status": 201 } })
            })
            .collect();
        Reply::json(200, json!({ "errors": false, "items": items }).to_string())
    });
    let installation = installation(&receiver.url(""), ELASTIC);
    choose_record(&installation, &invalid);
    installation
        .run(&[])
        .assert_code(0)
        .assert_line_with(&["(x_content_parse_exception): they are sent as text"]);
    let documents = index.documents.lock().expect("no thread has panicked");
    assert_eq!(
        documents.keys().cloned().collect::<BTreeSet<_>>(),
        each_once(&installation).into_keys().collect()
    );
}

const AZURE_PATH: &str = "/dataCollectionRules/dcr-1/streams/Custom-O365?api-version=2023-01-01";

#[test]
fn sends_azure_arrays_of_at_most_one_megabyte() {
    let tokens = Mutex::new(Vec::new());
    let receiver = HttpReceiver::start(move |request, _| {
        assert!(request.body.len() <= 1_000_000);
        let mut tokens = tokens.lock().expect("no thread has panicked");
        let token = request.headers["authorization"].clone();
        if tokens.is_empty() {
            tokens.push(token);
            return Reply::json(401, r#"{"error":{"code":"InvalidToken","message":"old"}}"#);
        }
        assert!(token.starts_with("Bearer ") && !tokens.contains(&token), "the token was not renewed");
        Reply::status(204)
    });
    let installation = Installation::new();
    let login = installation.simulator.url().to_owned();
    let installation = installation.with_output(&format!(
        "  http:\n    url: {}\n    format: azure-logs-ingestion\n    connections: 1\n    azure: {{ login_url: {login} }}",
        receiver.url(AZURE_PATH)
    ));
    installation.contoso.add_blobs(FEED, 6, 300, hours_ago(20)..hours_ago(2));
    installation.run(&[]).assert_code(0);
    let accepted = receiver.accepted();
    assert_delivered_once(&installation, &accepted, elements);
    for record in accepted.iter().flat_map(|request| elements(&request.body)) {
        let (created, time) = (field(&record, "CreationTime"), field(&record, "TimeGenerated"));
        assert!(time.starts_with(&created[..19]) && time.ends_with('Z'), "{record}");
    }
    assert!(accepted.iter().all(|request| request.target == AZURE_PATH));
}

#[test]
fn reports_missing_azure_role_and_wrong_secret() {
    let receiver = HttpReceiver::start(|request, _| {
        let token = request.headers.get("authorization").cloned().unwrap_or_default();
        let message = format!("no access {token}");
        Reply::json(403, json!({ "error": { "code": "OperationFailed", "message": message } }).to_string())
    });
    for (secret, parts) in [
        (
            "a-secret-that-must-stay-secret",
            ["HTTP 403: OperationFailed no access", "Monitoring Metrics Publisher"],
        ),
        (
            "another-secret",
            ["the login of output.http.azure: HTTP 401 AADSTS7000215", "the client secret is wrong"],
        ),
    ] {
        let installation = installation(&receiver.url(AZURE_PATH), "format: azure-logs-ingestion");
        let (login, id) = (installation.simulator.url().to_owned(), CONTOSO);
        let client = simulator::TenantSettings::new(id).client_id;
        let installation = installation.with_output(&format!(
            "    azure: {{ tenant_id: {id}, client_id: {client}, client_secret: {secret}, login_url: {login} }}"
        ));
        let run = installation.run(&[]);
        run.assert_code(1).assert_line_with(&parts);
        for request in receiver.requests() {
            let token = request.headers["authorization"].trim_start_matches("Bearer ").to_owned();
            assert!(!run.stderr.contains(&token[..20]), "{run}");
        }
        assert!(!run.stderr.contains("another-secret"), "{run}");
    }
}

#[test]
fn uses_configured_root_server_name_and_client_certificate() {
    let receiver = HttpReceiver::with_tls("here.pem", ClientCertificate::Required);
    let (root, own, key) =
        (certificate("private_root.pem"), certificate("here.pem"), certificate("server.key"));
    let tls =
        format!("tls: {{ ca_file: {root}, cert_file: {own}, key_file: {key}, server_name: office.test }}");
    let trusted = installation(&receiver.url("/"), &tls);
    trusted.run(&[]).assert_code(0);
    assert_delivered_once(&trusted, &receiver.accepted(), lines);
    let host = format!("127.0.0.1:{}", receiver.port());
    assert!(receiver.accepted().iter().all(|request| request.headers["host"] == host));

    let untrusted = installation(&receiver.url("/"), "retryTimeout: 0s");
    untrusted.run(&[]).assert_code(1).assert_line_with(&["certificate is not trusted", "tls.ca_file"]);
    let without_certificate =
        installation(&receiver.url("/"), &format!("tls: {{ ca_file: {root} }}\n    retryTimeout: 0s"));
    without_certificate
        .run(&[])
        .assert_code(1)
        .assert_line_with(&["[ERROR] Output http failed", "tls.cert_file"]);
}

#[test]
fn does_not_resume_tls_sessions_over_http() {
    let tls = format!(
        "tls: {{ ca_file: {} }}\n    batchRecords: 20\n    connections: 1\n    retryTimeout: 0s",
        certificate("private_root.pem")
    );
    let receiver = HttpReceiver::with_tls_closing_connections();
    let direct = installation(&receiver.url("/"), &tls);
    direct.run(&[]).assert_code(0);
    assert_delivered_once(&direct, &receiver.accepted(), lines);
    assert!(receiver.connections() > 2, "the connection was not closed after a response");

    let (receiver, proxy) = (HttpReceiver::with_tls_closing_connections(), Proxy::start(ProxyBehavior::Open));
    let proxied = installation(&receiver.url("/"), &tls).setting(&format!("proxy: {}", proxy.url("")));
    proxied.run(&[]).assert_code(0);
    assert_delivered_once(&proxied, &receiver.accepted(), lines);
    assert!(proxy.targets().contains(&format!("127.0.0.1:{}", receiver.port())));
}

#[test]
fn trusts_self_signed_certificate_in_ca_file_over_http() {
    let receiver = HttpReceiver::with_tls("self_signed.pem", ClientCertificate::NotRequired);
    let tls = format!("tls: {{ ca_file: {} }}", certificate("self_signed.pem"));
    let installation = installation(&receiver.url("/"), &tls);
    installation.run(&[]).assert_code(0);
    assert_delivered_once(&installation, &receiver.accepted(), lines);
}

#[test]
fn reports_tls_errors_over_http_with_hint() {
    let root = format!("ca_file: {}", certificate("private_root.pem"));
    let other_root = format!("ca_file: {}", certificate("other_root.pem"));
    let elsewhere = format!("{root}, server_name: elsewhere.test");
    let no_key = format!("cert_file: {}", certificate("here.pem"));
    let encrypted = format!("{no_key}, key_file: {}", certificate("../key-encrypted.pem"));
    let receiver = HttpReceiver::with_tls("elsewhere.pem", ClientCertificate::NotRequired);
    assert_check(&installation(&receiver.url("/"), &format!("tls: {{ {elsewhere} }}")), None);
    for (name, tls, parts) in [
        ("elsewhere.pem", &root, ["certificate has another name", "in tls.server_name"]),
        ("expired.pem", &root, ["certificate is not trusted", "renew it"]),
        ("name_in_cn.pem", &other_root, ["no subjectAltName", "subjectAltName=IP:127.0.0.1"]),
        (
            "self_signed.pem",
            &root,
            ["of an authority (CA:TRUE)", "put this very certificate into tls.ca_file"],
        ),
        ("version_1.pem", &root, ["X.509 version 1", "create one of version 3"]),
        ("here.pem", &no_key, ["tls.cert_file", "-----BEGIN PRIVATE KEY-----"]),
        ("here.pem", &encrypted, ["key is encrypted", "openssl pkey -in"]),
    ] {
        let receiver = HttpReceiver::with_tls(name, ClientCertificate::NotRequired);
        let installation = installation(&receiver.url("/"), &format!("tls: {{ {tls} }}"));
        let error = check_error(&installation).expect("TLS fails");
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
}

/// Checks the output of this installation, as the command `check` does. Returns the error, if there is one.
fn check_error(installation: &Installation) -> Option<String> {
    let path = installation.config_file();
    let sources = Sources { file: &path, credentials: None, environment: &|_| None, with_secrets: true };
    let config = config::load(&sources).unwrap_or_else(|error| panic!("{error}")).config;
    let mut outputs = output::open(&config, &CancelToken::default());
    let http = outputs.iter_mut().find(|output| output.name() == OutputName::Http).expect("an HTTP output");
    http.check().err().map(|error| error.explain())
}

/// Asserts that the check of the output succeeds, or fails with this problem.
#[track_caller]
fn assert_check(installation: &Installation, problem: Option<&str>) {
    match (check_error(installation), problem) {
        (None, None) => {}
        (Some(error), Some(problem)) => assert!(error.contains(problem), "{error} instead of {problem}"),
        (error, problem) => panic!("{error:?} instead of {problem:?}"),
    }
}

#[test]
fn checks_receiver_without_delivery() {
    let azure = |receiver: &HttpReceiver, login: &str| {
        installation(
            &receiver.url(AZURE_PATH),
            &format!("format: azure-logs-ingestion\n    azure: {{ login_url: {login} }}"),
        )
    };
    let json = |status, body: &str| Reply::json(status, body);
    let bulk = |status: u16, r#type: &str| {
        let error = json!({ "type": r#type, "reason": "r" });
        Reply::json(
            200,
            json!({ "errors": true, "items": [{ "create": { "status": status, "error": error } }] })
                .to_string(),
        )
    };
    for (format, reply, problem) in [
        ("ndjson", Reply::status(200), None),
        ("ndjson", Reply::status(405), Some("HTTP 405; check url")),
        ("ndjson", Reply::web_page(200), Some("HTTP 200 with a web page")),
        ("array", Reply::status(401), Some("HTTP 401; check the token")),
        ("array", Reply::status(503), Some("HTTP 503")),
        ("splunk-hec", json(400, r#"{"text":"No data","code":5}"#), None),
        ("splunk-hec", json(400, r#"{"text":"Invalid data format","code":6}"#), None),
        ("splunk-hec", json(403, r#"{"text":"Invalid token","code":4}"#), Some("the token is not one of")),
        ("splunk-hec", json(400, r#"{"text":"Data channel is missing","code":10}"#), Some("splunk.channel")),
        ("splunk-hec", json(200, "ok"), Some("HTTP 200 without the code")),
        ("elastic-bulk", bulk(400, "document_parsing_exception"), None),
        ("elastic-bulk", bulk(403, "security_exception"), Some("create_doc and auto_configure")),
        ("elastic-bulk", bulk(404, "index_not_found_exception"), Some("create the index")),
        ("elastic-bulk", json(200, "{}"), Some("not that of the bulk API")),
        ("elastic-bulk", Reply::status(401), Some("HTTP 401; check the token")),
    ] {
        let receiver = HttpReceiver::start(move |_, _| reply.clone());
        let installation = installation(&receiver.url("/in"), &format!("format: {format}"));
        assert_check(&installation, problem);
        let requests = receiver.requests();
        let requests: Vec<_> =
            requests.iter().map(|request| (request.method.as_str(), request.target.as_str())).collect();
        assert_eq!(requests, [("POST", "/in")], "{format}");
    }
    let login = Installation::new();
    for (reply, problem) in [
        (Reply::status(204), None),
        (Reply::status(200), Some("where the Logs Ingestion API answers 204")),
        (json(400, r#"{"error":{"code":"InvalidStream","message":"no"}}"#), Some("InvalidStream")),
        (
            json(403, r#"{"error":{"code":"OperationFailed","message":"no"}}"#),
            Some("Monitoring Metrics Publisher"),
        ),
    ] {
        let receiver = HttpReceiver::start(move |_, _| reply.clone());
        assert_check(&azure(&receiver, login.simulator.url()), problem);
    }
    let receiver = HttpReceiver::start(|_, _| Reply::status(405));
    let problem = "the login of output.http.azure: HTTP 405";
    assert_check(&azure(&receiver, &receiver.url("")), Some(problem));
    let without_receiver = installation(&format!("http://127.0.0.1:{}", unused_port()), "format: array");
    assert_check(&without_receiver, Some("refused"));
}

#[test]
fn uses_configured_proxy_but_not_that_of_environment_on_loopback() {
    let (receiver, proxy) = (HttpReceiver::accepting(), Proxy::start(ProxyBehavior::Open));
    let installation = installation(&receiver.url("/"), "format: ndjson");
    installation.run_with_environment(&[("HTTPS_PROXY", &proxy.url(""))]).assert_code(0);
    assert_eq!(proxy.targets(), [""; 0]);
    assert_delivered_once(&installation, &receiver.accepted(), lines);

    let receiver = HttpReceiver::accepting();
    let installation = self::installation(&receiver.url("/"), "format: ndjson");
    let installation = installation.setting(&format!("proxy: {}", proxy.url("")));
    installation.run(&[]).assert_code(0);
    assert!(proxy.targets().contains(&format!("127.0.0.1:{}", receiver.port())));
    assert_delivered_once(&installation, &receiver.accepted(), lines);
}

#[test]
fn does_not_take_web_page_for_acceptance() {
    for format in ["ndjson", "array", "splunk-hec", "elastic-bulk"] {
        let receiver = HttpReceiver::start(|_, _| Reply::web_page(200));
        let installation =
            installation(&receiver.url("/in"), &format!("format: {format}\n    connections: 1"));
        let parts = ["[ERROR] Output http failed", "HTTP 200 with a web page"];
        installation.run(&[]).assert_code(1).assert_line_with(&parts);
        assert!(installation.known_blobs().is_empty());
    }
    let receiver = HttpReceiver::start(|_, _| Reply::CutBody(200, "o".to_owned()));
    let installation = installation(&receiver.url("/in"), "format: ndjson");
    installation.run(&[]).assert_code(0);
    assert_delivered_once(&installation, &receiver.accepted(), lines);
}

#[test]
fn accepts_only_204_of_azure() {
    for (reply, problem) in [
        (
            Reply::json(400, r#"{"error":{"code":"InvalidStream","message":"no such stream"}}"#),
            "InvalidStream",
        ),
        (Reply::status(200), "where the Logs Ingestion API answers 204"),
    ] {
        let receiver = HttpReceiver::start(move |_, _| reply.clone());
        let installation = Installation::new();
        let login = installation.simulator.url().to_owned();
        let installation = installation.with_output(&format!(
            "  http:\n    url: {}\n    format: azure-logs-ingestion\n    connections: 1\n    azure: {{ login_url: {login} }}",
            receiver.url(AZURE_PATH)
        ));
        installation.contoso.add_blobs(FEED, 6, 20, hours_ago(20)..hours_ago(2));
        installation.run(&[]).assert_code(1).assert_line_with(&["[ERROR] Output http failed", problem]);
        assert_eq!(receiver.requests().len(), 1);
    }
}

#[test]
fn finds_record_that_causes_server_error() {
    let receiver = HttpReceiver::start(|request, _| {
        Reply::status(if request.body.contains("1E400") { 500 } else { 200 })
    });
    let installation = installation(&receiver.url("/"), "retryTimeout: 0s");
    let bad = r#"{"Id":"0000aaaa-0000-4000-8000-000000000001","x":1E400}"#.to_owned();
    installation.contoso.add_blob(FEED, NewBlob::texts([bad]).created(hours_ago(1)));
    let run = installation.run(&[]);
    run.assert_code(0).assert_line_with(&[
        "[WARN] Output http",
        "HTTP 500",
        "looking for the record that causes it",
    ]);
    run.assert_line_with(&[
        "[WARN] Output http: the receiver rejects 1 record (0000aaaa-0000-4000-8000-000000000001 of contoso",
    ]);
    let accepted = ids(&receiver.accepted(), lines);
    assert!(accepted.len() == 120 && accepted.values().all(|count| *count == 1), "{accepted:?}");
    assert_eq!(installation.known_blobs().len(), 7);

    let down = HttpReceiver::start(|_, _| Reply::status(500));
    let installation = self::installation(&down.url("/"), "retryTimeout: 0s\n    connections: 1");
    installation.run(&[]).assert_code(1).assert_line_with(&["[ERROR] Output http failed", "HTTP 500"]);
    assert!(installation.known_blobs().is_empty());
    assert!(down.requests().len() <= 20, "{}", down.requests().len());
}

/// A Splunk that indexes the events of a batch up to the first one that it rejects, and names that one.
struct Splunk {
    receiver: HttpReceiver,
    /// The Ids of the indexed records.
    indexed: Arc<Mutex<Vec<String>>>,
}

impl Splunk {
    /// Starts a receiver that rejects events for which there is a status and a code.
    fn start(rejection: impl Fn(&str) -> Option<(u16, u32)> + Send + Sync + 'static) -> Self {
        let indexed = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&indexed);
        let receiver = HttpReceiver::start(move |request, _| {
            let mut indexed = shared.lock().expect("no thread has panicked");
            for (number, event) in events(&request.body).into_iter().enumerate() {
                if let Some((status, code)) = rejection(&event) {
                    let body = json!({ "text": "no", "code": code, "invalid-event-number": number });
                    return Reply::json(status, body.to_string());
                }
                indexed.push(simulator::id_of(&event).expect("an Id"));
            }
            Reply::json(200, r#"{"text":"Success","code":0}"#)
        });
        Self { receiver, indexed }
    }

    /// The Ids of the indexed records, sorted. An Id that was indexed twice occurs twice.
    fn indexed(&self) -> Vec<String> {
        let mut indexed = self.indexed.lock().expect("no thread has panicked").clone();
        indexed.sort();
        indexed
    }
}

#[test]
fn counts_events_before_invalid_event_number_as_accepted() {
    let was_busy = Mutex::new(HashSet::new());
    let splunk = Splunk::start(move |event| {
        if event.contains("blank") {
            return Some((400, 12));
        }
        let id = simulator::id_of(event).expect("an Id");
        let mut was_busy = was_busy.lock().expect("no thread has panicked");
        (was_busy.len() < 2 && was_busy.insert(id)).then_some((503, 9))
    });
    let installation = installation(&splunk.receiver.url(""), "format: splunk-hec\n    connections: 1");
    let bad = r#"{"Id":"0000aaaa-0000-4000-8000-000000000001","x":"blank"}"#.to_owned();
    installation.contoso.add_blob(FEED, NewBlob::texts([bad]).created(hours_ago(1)));
    installation
        .run(&[])
        .assert_code(0)
        .assert_line_with(&["[WARN] Output http: the receiver rejects 1 record (0000aaaa-"]);
    let mut expected = each_once(&installation);
    expected.remove("0000aaaa-0000-4000-8000-000000000001");
    assert_eq!(splunk.indexed(), expected.into_keys().collect::<Vec<_>>());
    assert_eq!(installation.known_blobs().len(), 7);
}

#[test]
fn keeps_retrying_while_each_attempt_makes_progress() {
    let was_busy = Mutex::new(HashSet::new());
    let splunk = Splunk::start(move |event| {
        let id = simulator::id_of(event).expect("an Id");
        let mut was_busy = was_busy.lock().expect("no thread has panicked");
        (was_busy.len() < 7 && was_busy.insert(id)).then_some((503, 9))
    });
    // Seven attempts in a row without progress would take longer than this, because their delays double.
    let options = "format: splunk-hec\n    connections: 1\n    retryTimeout: 1s";
    let installation = installation(&splunk.receiver.url(""), options);
    installation.run(&[]).assert_code(0);
    assert_eq!(splunk.indexed(), each_once(&installation).into_keys().collect::<Vec<_>>());
}

/// Two Splunk indexers behind a load balancer. Each numbers its batches from 0, and acknowledges those for which
/// `is_indexed` holds. The load balancer sends requests with the cookie of an indexer to that one, and all others to each in
/// turn.
fn splunk_indexers(is_indexed: impl Fn(&str) -> bool + Send + Sync + 'static) -> HttpReceiver {
    let (turn, batches) = (AtomicUsize::new(0), Mutex::new([Vec::<String>::new(), Vec::new()]));
    HttpReceiver::start(move |request, _| {
        let cookie = request.headers.get("cookie");
        let indexer = match cookie.map(String::as_str) {
            Some("indexer=0") => 0,
            Some("indexer=1") => 1,
            _ => turn.fetch_add(1, Ordering::SeqCst) % 2,
        };
        let mut batches = batches.lock().expect("no thread has panicked");
        if request.target.starts_with("/prefix/services/collector/ack?") {
            let is_indexed = |id: usize| batches[indexer].get(id).is_some_and(|body| is_indexed(body));
            return acks(ack_ids(request).into_iter().map(|id| (id, is_indexed(id))));
        }
        assert_eq!(request.target, "/prefix/services/collector/event");
        batches[indexer].push(request.body.clone());
        let body = json!({ "text": "Success", "code": 0, "ackId": batches[indexer].len() - 1 }).to_string();
        Reply::Response(200, vec![("Set-Cookie", format!("indexer={indexer}; Path=/; HttpOnly"))], body)
    })
}

#[test]
fn resends_batches_with_repeated_ack_id() {
    let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
    let shared = Arc::clone(&acknowledged);
    let state = Mutex::new((Vec::<String>::new(), false));
    // A Splunk that restarts once, when it has three batches: it loses them, and numbers the next ones from 0 again.
    let receiver = HttpReceiver::start(move |request, _| {
        let mut state = state.lock().expect("no thread has panicked");
        let (batches, has_restarted) = &mut *state;
        if request.target.contains("/ack?") {
            let ids = ack_ids(request);
            let indexed = ids.iter().filter_map(|id| batches.get(*id)).flat_map(|body| record_ids(body));
            shared.lock().expect("no thread has panicked").extend(indexed);
            return acks(ids.into_iter().map(|id| (id, id < batches.len())));
        }
        if batches.len() == 3 && !*has_restarted {
            batches.clear();
            *has_restarted = true;
        }
        batches.push(request.body.clone());
        accepted_with_ack_id(batches.len() - 1)
    });
    let options = format!(
        "format: splunk-hec\n    batchRecords: 20\n    splunk: {{ channel: {CHANNEL}, ackTimeout: 1s }}"
    );
    let installation = installation(&receiver.url(""), &options);
    let first = installation.run(&[]);
    if first.code == Some(0) {
        first.assert_line_with(&["[WARN] Output http: ack id 0 was given out for two batches"]);
    } else {
        // On a busy machine the pass requests acknowledgements before the restart, and fails for the lost batches.
        installation.run(&[]).assert_code(0);
    }
    let acknowledged = acknowledged.lock().expect("no thread has panicked").clone();
    assert_eq!(acknowledged, each_once(&installation).into_keys().collect());
}

#[test]
fn resends_batches_when_repeated_ack_id_arrives_first() {
    let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
    let shared = Arc::clone(&acknowledged);
    let (posts, batches) = (AtomicUsize::new(0), Mutex::new(Vec::<String>::new()));
    // A Splunk that restarts after two batches: it loses them, and numbers the next ones from 0 again. The response to the
    // second one arrives after the response to a later one with the same id.
    let receiver = HttpReceiver::start(move |request, _| {
        let mut batches = batches.lock().expect("no thread has panicked");
        if request.target.contains("/ack?") {
            let ids = ack_ids(request);
            let indexed = ids.iter().filter_map(|id| batches.get(*id)).flat_map(|body| record_ids(body));
            shared.lock().expect("no thread has panicked").extend(indexed);
            return acks(ids.into_iter().filter(|id| *id < batches.len()).map(|id| (id, true)));
        }
        match posts.fetch_add(1, Ordering::SeqCst) {
            0 => accepted_with_ack_id(0),
            1 => {
                drop(batches);
                // There are two connections: the fifth request is sent after the response to the fourth one.
                wait_until("the fifth batch is sent", || posts.load(Ordering::SeqCst) >= 5);
                accepted_with_ack_id(1)
            }
            _ => {
                batches.push(request.body.clone());
                accepted_with_ack_id(batches.len() - 1)
            }
        }
    });
    let options = format!(
        "format: splunk-hec\n    batchRecords: 20\n    connections: 2\n    splunk: {{ channel: {CHANNEL}, ackTimeout: 60s }}"
    );
    let installation = installation(&receiver.url(""), &options);
    let run = installation.run(&[]);
    run.assert_code(0).assert_line_with(&["[WARN] Output http: ack id 1 was given out for two batches"]);
    let acknowledged = acknowledged.lock().expect("no thread has panicked").clone();
    assert_eq!(acknowledged, each_once(&installation).into_keys().collect());
}

#[test]
fn returns_cookies_of_load_balancer() {
    let receiver = splunk_indexers(|_| true);
    let options = format!(
        "format: splunk-hec\n    batchRecords: 20\n    splunk: {{ channel: {CHANNEL}, ackTimeout: 60s }}"
    );
    let installation = installation(&receiver.url("/prefix/services/collector/event"), &options);
    let run = installation.run(&[]);
    run.assert_code(0);
    assert!(!run.stderr.contains("ack id"), "{run}");
    let mut accepted = receiver.accepted();
    accepted.retain(|request| request.target.ends_with("/event"));
    assert_delivered_once(&installation, &accepted, events);
}

#[test]
fn does_not_resend_acknowledged_batches() {
    let never_indexed = Arc::new(OnceLock::<String>::new());
    let id = Arc::clone(&never_indexed);
    let receiver = splunk_indexers(move |body| id.get().is_none_or(|id| !body.contains(id.as_str())));
    let options = format!(
        "format: splunk-hec\n    batchRecords: 20\n    splunk: {{ channel: {CHANNEL}, ackTimeout: 1s }}"
    );
    let installation = installation(&receiver.url("/prefix/services/collector/event"), &options);
    choose_record(&installation, &never_indexed);
    for _ in 0..2 {
        installation.run(&[]).assert_code(1).assert_line_with(&["1 batches are not indexed after 1 s"]);
    }
    let mut sent = receiver.requests();
    sent.retain(|request| request.target.ends_with("/event"));
    let repeated = ids(&sent, events).values().filter(|count| **count > 1).count();
    assert_eq!(repeated, 20);
}
