//! `output.http`, against receivers that do what receivers do: what arrives is held against what was served, Id by Id.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
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
    process::{at_once, signal, wait_until},
    proxy::{Manner, Proxy},
    receiver::{Received, Receiver, Reply, certificate, unused_port},
};

const FEED: &str = "Audit.General";
const CHANNEL: &str = "7d1f7f1e-58a3-4c6a-9a55-0c1d3a6f2b10";

/// Contoso with some records, and a receiver at this URL.
fn installation(url: &str, lines: &str) -> Installation {
    let installation = Installation::new().with_output(&format!("  http:\n    url: {url}\n    {lines}"));
    installation.contoso.add_blobs(FEED, 6, 20, hours_ago(20)..hours_ago(2));
    installation
}

/// How often each record's Id is in what was taken, given how to find the records of a body.
fn ids(taken: &[Received], records: impl Fn(&str) -> Vec<String>) -> BTreeMap<String, usize> {
    let mut ids = BTreeMap::new();
    for record in taken.iter().flat_map(|request| records(&request.body)) {
        let id = simulator::id_of(&record).unwrap_or_else(|| panic!("a record without an Id: {record}"));
        *ids.entry(id).or_default() += 1;
    }
    ids
}

fn lines(body: &str) -> Vec<String> {
    assert!(body.ends_with('\n'), "a last line without its end");
    body.lines().map(str::to_owned).collect()
}

fn elements(body: &str) -> Vec<String> {
    let array: Vec<&RawValue> = serde_json::from_str(body).expect("an array");
    array.iter().map(|element| element.get().to_owned()).collect()
}

fn documents(body: &str) -> Vec<String> {
    body.lines().skip(1).step_by(2).map(str::to_owned).collect()
}

/// A field's text in a record, which can hold what `serde_json::Value` cannot.
fn field(record: &str, name: &str) -> String {
    let fields: BTreeMap<String, &RawValue> = serde_json::from_str(record).expect("an object");
    fields[name].get().trim_matches('"').to_owned()
}

/// What contoso has, each once.
fn served(installation: &Installation) -> BTreeMap<String, usize> {
    installation.contoso.ids(FEED).into_iter().map(|id| (id, 1)).collect()
}

/// Each record at the receiver and in the files, once, and each blob known.
#[track_caller]
fn assert_all_once(installation: &Installation, taken: &[Received], records: impl Fn(&str) -> Vec<String>) {
    assert_eq!(ids(taken, records), served(installation));
    installation.assert_delivered_once([(&installation.contoso, FEED)]);
    assert_eq!(installation.known_blobs().len(), installation.contoso.blobs(FEED).len());
}

#[test]
fn lines_and_arrays_have_each_record_as_it_is() {
    for (format, content_type, split) in [
        ("ndjson", "application/x-ndjson", lines as fn(&str) -> Vec<String>),
        ("array", "application/json", elements),
    ] {
        for compress in ["none", "gzip"] {
            let receiver = Receiver::kind();
            let options = format!("format: {format}\n    compress: {compress}\n    headers: {{ X-Key: k }}");
            let installation = installation(&receiver.url("/in?a=b"), &options);
            installation.run(&[]).assert_code(0);
            let taken = receiver.taken();
            assert_all_once(&installation, &taken, split);
            let delivered: BTreeSet<_> = taken.iter().flat_map(|request| split(&request.body)).collect();
            assert_eq!(delivered, installation.output().into_values().flatten().collect());
            for request in &taken {
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
fn batches_are_bounded_in_bytes_and_in_records_and_a_large_record_goes_alone() {
    let receiver = Receiver::kind();
    let installation = installation(&receiver.url("/"), "batchSize: 8K\n    batchRecords: 5");
    let large = format!(r#"{{"Id":"0000aaaa-0000-4000-8000-000000000001","x":"{}"}}"#, "x".repeat(20_000));
    installation.contoso.add_blob(FEED, NewBlob::texts([large]).created(hours_ago(1)));
    installation.run(&[]).assert_code(0);
    assert_all_once(&installation, &receiver.taken(), lines);
    for request in receiver.taken() {
        let count = lines(&request.body).len();
        assert!(
            count == 1 || (count <= 5 && request.body.len() <= 8 * 1024),
            "{count} {}",
            request.body.len()
        );
    }
    assert!(receiver.taken().len() >= 25);
    assert!(receiver.connections() <= 4, "connections are kept");
}

#[test]
fn what_may_be_over_the_next_time_is_tried_again() {
    at_once(
        [
            ("HTTP 503", Reply::status(503)),
            ("HTTP 429", Reply::status(429)),
            ("HTTP 408", Reply::status(408)),
            ("HTTP 500: no room", Reply::json(500, r#"{"message":"no room"}"#)),
            ("HTTP 503", Reply::retry_after(503, "1")),
            ("", Reply::Cut),
        ],
        |(name, reply)| {
            let receiver =
                Receiver::start(move |_, place| if place == 0 { reply.clone() } else { Reply::status(200) });
            let installation = installation(&receiver.url("/"), "connections: 1");
            let run = installation.run(&[]);
            run.assert_code(0).assert_line_with(&["[WARN] Output http: 127.0.0.1:", name, "trying again in"]);
            assert_all_once(&installation, &receiver.taken(), lines);
            assert!(receiver.requests().len() >= 2);
        },
    );
}

#[test]
fn no_batch_is_sent_again_before_the_requested_time() {
    let in_2_seconds = || {
        let date = jiff::Timestamp::now() + Duration::from_secs(2);
        date.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
    };
    at_once([false, true], |is_date| {
        let times = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&times);
        let receiver = Receiver::start(move |_, place| {
            noted.lock().expect("no panic").push(Instant::now());
            match (place, is_date) {
                (0, false) => Reply::retry_after(429, "1"),
                (0, true) => Reply::retry_after(429, in_2_seconds()),
                _ => Reply::status(200),
            }
        });
        let installation = installation(&receiver.url("/"), "connections: 1");
        installation.run(&[]).assert_code(0);
        let times = times.lock().expect("no panic");
        assert!(times[1] - times[0] >= Duration::from_secs(1), "{:?}", times[1] - times[0]);
        assert_all_once(&installation, &receiver.taken(), lines);
    });
}

#[test]
fn who_asks_for_more_time_than_there_is_gets_it_until_the_next_pass() {
    for wish in ["3600", "18446744073709551615"] {
        let receiver =
            Receiver::start(
                move |_, place| {
                    if place == 0 { Reply::retry_after(503, wish) } else { Reply::status(200) }
                },
            );
        let installation = installation(&receiver.url("/"), "retryTimeout: 5s\n    connections: 1");
        installation.run(&[]).assert_code(1).assert_line_with(&[
            "[ERROR] Output http failed: 127.0.0.1:",
            &format!("HTTP 503, and asks to wait {wish} s (tries: 1)"),
        ]);
        assert_eq!(receiver.requests().len(), 1);
        installation.run(&[]).assert_code(0);
        assert_all_once(&installation, &receiver.taken(), lines);
    }
}

#[test]
fn what_the_receiver_will_never_take_is_told_at_once_with_its_reason_and_the_mend() {
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
            Reply::Answer(307, vec![("Location", "http://192.0.2.1/".to_owned())], String::new()),
            "HTTP 307",
            "a redirect is not followed",
        ),
    ] {
        let receiver = Receiver::start(move |_, _| reply.clone());
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
fn a_batch_that_is_too_large_is_halved_until_it_is_not() {
    let receiver =
        Receiver::start(
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
    assert_all_once(&installation, &receiver.taken(), elements);

    let receiver = Receiver::start(|_, _| Reply::status(413));
    let installation = self::installation(&receiver.url("/"), "connections: 1");
    installation.run(&[]).assert_code(1).assert_line_with(&[
        "[ERROR] Output http failed",
        "10 records were refused, the last one with HTTP 413 for a single record of",
        "let the receiver accept larger bodies",
    ]);
}

#[test]
fn who_closes_on_a_batch_that_is_too_large_gets_halves() {
    for says_why in [true, false] {
        let receiver = Receiver::curt(200_000, says_why);
        let installation =
            Installation::new().with_output(&format!("  http: {{ url: '{}' }}", receiver.url("/")));
        installation.contoso.add_blobs(FEED, 2, 100, hours_ago(20)..hours_ago(2));
        let run = installation.run(&[]);
        run.assert_code(0).assert_line_with(&["[WARN] Output http", "sent in halves; lower batchSize"]);
        assert_all_once(&installation, &receiver.taken(), lines);
    }
}

#[test]
fn an_outage_of_two_passes_loses_nothing_and_repeats_nothing_elsewhere() {
    let is_down = Arc::new(AtomicBool::new(true));
    let down = Arc::clone(&is_down);
    let receiver =
        Receiver::start(
            move |_, _| {
                if down.load(Ordering::SeqCst) { Reply::status(503) } else { Reply::status(200) }
            },
        );
    let installation = installation(&receiver.url("/"), "retryTimeout: 0s");
    for _ in 0..2 {
        installation.run(&[]).assert_code(1).assert_line_with(&["[ERROR] Output http failed", "HTTP 503"]);
        installation.contoso.add_blob(FEED, NewBlob::records(10).created(hours_ago(1)));
    }
    assert!(installation.known_blobs().is_empty());
    is_down.store(false, Ordering::SeqCst);
    installation.run(&[]).assert_code(0);
    assert_all_once(&installation, &receiver.taken(), lines);
    installation.run(&[]).assert_code(0).assert_line("[WARN] No new blobs found");
    assert_all_once(&installation, &receiver.taken(), lines);
}

/// Lets a pass fail, then one succeed, once the receiver is told that it is up. Of the first one's requests only this
/// part was taken: none of it came again, and all the rest did.
#[track_caller]
fn assert_taken_is_not_repeated(
    (receiver, is_down): (&Receiver, &AtomicBool),
    options: &str,
    records: fn(&str) -> Vec<String>,
    taken: impl Fn(&[Received]) -> BTreeMap<String, usize>,
) {
    let installation = installation(&receiver.url(""), &format!("{options}\n    retryTimeout: 0s"));
    installation.run(&[]).assert_code(1).assert_line_with(&["[ERROR] Output http failed"]);
    let taken = taken(&receiver.requests());
    let before = receiver.requests().len();
    is_down.store(false, Ordering::SeqCst);
    installation.run(&[]).assert_code(0);
    let second = ids(&receiver.requests()[before..], records);
    assert!(!taken.is_empty() && taken.keys().all(|id| !second.contains_key(id)));
    assert_eq!(taken.len() + second.len(), 120);
}

#[test]
fn batches_that_were_taken_before_a_failure_do_not_come_again() {
    let is_down = Arc::new(AtomicBool::new(true));
    let down = Arc::clone(&is_down);
    let receiver = Receiver::start(move |_, place| {
        Reply::status(if place >= 3 && down.load(Ordering::SeqCst) { 503 } else { 200 })
    });
    let options = "batchRecords: 10\n    connections: 1";
    assert_taken_is_not_repeated((&receiver, &is_down), options, lines, |requests| {
        ids(&requests[..3], lines)
    });
}

#[test]
fn documents_that_were_taken_before_a_failure_do_not_come_again() {
    let is_down = Arc::new(AtomicBool::new(true));
    let down = Arc::clone(&is_down);
    let is_refused = |id: &str| id.ends_with(['0', '1', '2', '3']);
    let (receiver, _) = elastic(move |id, _| {
        let refusal = json!({ "type": "es_rejected_execution_exception", "reason": "full" });
        if down.load(Ordering::SeqCst) && is_refused(id) { (429, refusal) } else { (201, Value::Null) }
    });
    assert_taken_is_not_repeated((&receiver, &is_down), ELASTIC, documents, |requests| {
        let mut taken = ids(requests, documents);
        taken.retain(|id, _| !is_refused(id));
        taken
    });
}

/// A receiver, Contoso with some records, and one record of them: a batch that holds it is answered with this until it
/// is told that it has fixed. All other batches are taken, after a moment.
struct Picky {
    receiver: Receiver,
    installation: Installation,
    refused: String,
    is_fixed: Arc<AtomicBool>,
}

impl Picky {
    fn new(refusal: Reply, options: &str) -> Self {
        let (refused, is_fixed) = (Arc::new(OnceLock::<String>::new()), Arc::new(AtomicBool::new(false)));
        let (looked_for, fixed) = (Arc::clone(&refused), Arc::clone(&is_fixed));
        let receiver = Receiver::start(move |request, _| {
            let is_in = looked_for.get().is_some_and(|text| request.body.contains(text.as_str()));
            if is_in && !fixed.load(Ordering::SeqCst) {
                return refusal.clone();
            }
            thread::sleep(Duration::from_millis(300));
            Reply::json(200, r#"{"text":"Success","code":0}"#)
        });
        let installation = installation(&receiver.url("/in"), options).collect("maxThreads: 1");
        let id = installation.contoso.ids(FEED).into_iter().nth(30).expect("a record");
        refused.set(id.clone()).expect("not set yet");
        Self { receiver, installation, refused: id, is_fixed }
    }

    /// How often each record was taken.
    fn taken(&self, records: fn(&str) -> Vec<String>) -> BTreeMap<String, usize> {
        ids(&self.receiver.taken(), records)
    }

    /// What is taken once while the record is refused.
    fn all_but_the_refused(&self) -> BTreeMap<String, usize> {
        let mut served = served(&self.installation);
        served.remove(&self.refused).expect("one of them");
        served
    }
}

fn events(body: &str) -> Vec<String> {
    let record = |event: String| {
        let (_, record) = event.split_once(",\"event\":").expect("an event");
        record[..record.len() - 1].to_owned()
    };
    lines(body).into_iter().map(record).collect()
}

#[test]
fn batches_that_are_taken_beside_one_that_fails_do_not_come_again() {
    let picky = Picky::new(Reply::status(403), "batchRecords: 10");
    for _ in 0..3 {
        picky
            .installation
            .run(&[])
            .assert_code(1)
            .assert_line_with(&["[ERROR] Output http failed", "HTTP 403"]);
        let taken = picky.taken(lines);
        assert!(taken.len() >= 10 && taken.values().all(|count| *count == 1), "{taken:?}");
    }
    picky.is_fixed.store(true, Ordering::SeqCst);
    picky.installation.run(&[]).assert_code(0);
    assert_all_once(&picky.installation, &picky.receiver.taken(), lines);
}

#[test]
fn what_was_taken_of_a_blob_that_waits_is_remembered_as_long_as_it_waits() {
    let picky = Picky::new(Reply::status(400), "deadLetters: false");
    picky.installation.run(&[]).assert_code(1);
    assert_eq!(picky.taken(lines), picky.all_but_the_refused());

    // As if all of it had happened this number of hours earlier.
    let hours_earlier =
        |hours: i64| (jiff::Timestamp::now() - jiff::SignedDuration::from_hours(hours)).to_string();
    let progress = picky.installation.path("state/progress");
    let text = fs::read_to_string(&progress).expect("a file");
    let (before, rest) = text.split_once("\"contentCreated\":\"").expect("a blob that waits");
    let (_, after) = rest.split_once('"').expect("a time");
    fs::write(&progress, format!("{before}\"contentCreated\":\"{}\"{after}", hours_earlier(40)))
        .expect("room");
    for file in fs::read_dir(picky.installation.path("state/record_ids")).expect("a folder") {
        let path = file.expect("a file").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("text");
        let earlier = format!("{}{}", &hours_earlier(30)[..13], &name[13..]);
        fs::rename(&path, path.with_file_name(earlier)).expect("a name");
    }
    picky.installation.run(&[]).assert_code(1);
    assert_eq!(picky.taken(lines), picky.all_but_the_refused());
}

#[test]
fn no_retry_is_waited_for_after_another_batch_has_failed() {
    let failed = AtomicBool::new(false);
    let receiver = Receiver::start(move |_, _| {
        if failed.swap(true, Ordering::SeqCst) {
            return Reply::retry_after(503, "1800");
        }
        thread::sleep(Duration::from_millis(300));
        Reply::status(403)
    });
    let installation = installation(&receiver.url("/"), "batchRecords: 10\n    retryTimeout: 3600s");
    installation.run(&[]).assert_code(1).assert_line_with(&["[ERROR] Output http failed", "HTTP 403"]);
}

#[test]
fn a_record_that_is_refused_holds_up_no_other_and_is_named() {
    for (status, format, split) in [
        (400, "ndjson", lines as fn(&str) -> Vec<String>),
        (422, "array", elements),
        (413, "ndjson", lines),
        (400, "splunk-hec", events),
    ] {
        let reply = Reply::json(status, r#"{"text":"no such field","code":6}"#);
        let options = format!("format: {format}\n    batchRecords: 50\n    deadLetters: false");
        let picky = Picky::new(reply, &options);
        let Picky { receiver, installation, refused, is_fixed } = &picky;
        let assert_named = |run: &Run| {
            let line =
                format!("[ERROR] Output http failed for 1 record ({refused} of contoso audit.general): ");
            run.assert_code(1).assert_line_with(&[
                &line,
                &format!("HTTP {status}: no such field"),
                "; the next pass sends it again",
            ]);
            assert_eq!(run.stderr.matches("[ERROR] Output http").count(), 1, "{run}");
        };
        assert_named(&installation.run(&[]));
        assert_eq!(picky.taken(split), picky.all_but_the_refused(), "{status} {format}");
        assert_eq!(installation.known_blobs().len(), 5);

        installation.contoso.add_blob(FEED, NewBlob::records(10).created(hours_ago(1)));
        let before = receiver.requests().len();
        assert_named(&installation.run(&[]));
        assert_eq!(picky.taken(split), picky.all_but_the_refused(), "{status} {format}");
        assert_eq!(installation.known_blobs().len(), 6);
        let searches = receiver.requests().len() - before;
        assert!(status == 413 || searches <= 10, "{searches} requests for one among eleven");

        is_fixed.store(true, Ordering::SeqCst);
        installation.run(&[]).assert_code(0);
        assert_all_once(installation, &receiver.taken(), split);
    }
}

#[test]
fn what_is_taken_beside_a_refused_record_is_known_where_nothing_is_remembered_by_id() {
    for lines_of_collect in ["dedupHours: 0", "dedupHours: 24"] {
        let receiver = Receiver::start(|request, _| {
            Reply::status(if request.body.contains("refused") { 400 } else { 200 })
        });
        let options = "batchRecords: 50\n    deadLetters: false";
        let installation = installation(&receiver.url("/"), options).collect(lines_of_collect);
        let texts = ["{\"a\":1}", "{\"a\":\"refused\"}", "{\"a\":2}"].map(str::to_owned);
        installation.contoso.add_blob(FEED, NewBlob::texts(texts).created(hours_ago(1)));
        let taken = || receiver.taken().iter().flat_map(|request| lines(&request.body)).collect::<Vec<_>>();
        for pass in 1..=2 {
            installation.run(&[]).assert_code(1).assert_line_with(&[
                "Output http failed for 1 record (one without an Id of contoso audit.general)",
            ]);
            assert_eq!(installation.known_blobs().len(), 6);
            assert_eq!(taken().len(), 120 + 2 * pass, "only the refused record's blob comes again");
        }
    }
}

#[test]
fn no_record_and_no_token_that_a_receiver_quotes_is_in_the_log() {
    for status in [400, 403, 503] {
        let receiver = Receiver::start(move |request, _| {
            let record = request.body.lines().next().unwrap_or_default();
            let (user, token) = (field(record, "UserId"), request.headers["authorization"].clone());
            Reply::json(status, format!("bad value '{user}' in UserId, says {token}"))
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
fn who_refuses_everything_is_given_up() {
    let receiver = Receiver::start(|_, _| Reply::json(400, r#"unwanted {"Id":1} is bad"#));
    let installation = installation(&receiver.url("/"), "connections: 2");
    installation.contoso.add_blobs(FEED, 6, 200, hours_ago(20)..hours_ago(2));
    let run = installation.run(&[]);
    run.assert_code(1).assert_line_with(&[
        "[ERROR] Output http failed: 127.0.0.1:",
        "with HTTP 400: unwanted; check format",
    ]);
    assert!(receiver.requests().len() <= 400, "{}", receiver.requests().len());
    assert!(installation.known_blobs().is_empty());
}

#[test]
fn a_missing_receiver_is_reported() {
    let installation = installation(&format!("http://127.0.0.1:{}", unused_port()), "retryTimeout: 1s");
    installation.run(&[]).assert_code(1).assert_line_with(&[
        "[ERROR] Output http failed: 127.0.0.1:",
        "refused",
        "check DNS, the firewall",
    ]);
    installation.assert_delivered_once([(&installation.contoso, FEED)]);
}

#[test]
fn a_receiver_that_falls_silent_is_given_up_and_asked_again() {
    let receiver = Receiver::start(|_, place| if place == 0 { Reply::Silence } else { Reply::status(200) });
    let installation = installation(&receiver.url("/"), "timeout: 1s\n    connections: 1");
    installation.run(&[]).assert_code(0).assert_line_with(&["[WARN] Output http", "no answer in time"]);
    assert_all_once(&installation, &receiver.taken(), lines);
}

#[test]
fn a_receiver_that_hangs_does_not_keep_a_signal_waiting() {
    let receiver = Receiver::start(|_, _| Reply::Silence);
    let installation = installation(&receiver.url("/"), "timeout: 10m");
    let child = installation.pass().spawn().expect("the program starts");
    wait_until("the receiver has a request", || !receiver.requests().is_empty());
    signal(&child, Signal::TERM);
    let run = Run::finish(child);
    run.assert_code(143).assert_line_with(&["[ERROR] Output http failed", "the pass had to end"]);
    assert!(installation.known_blobs().is_empty());
}

#[test]
fn splunk_gets_events_with_their_time_and_where_they_come_from() {
    let receiver = Receiver::start(|_, _| Reply::json(200, r#"{"text":"Success","code":0}"#));
    let options =
        "format: splunk-hec\n    headers: { Authorization: Splunk hec-token }\n    splunk: { index: o365 }";
    let installation = installation(&receiver.url(""), options);
    installation.run(&[]).assert_code(0);
    let taken = receiver.taken();
    assert_all_once(&installation, &taken, events);
    for request in taken {
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

/// A Splunk that says so late that it has indexed: only when it is asked for the second time; or never.
fn acknowledging(never: bool) -> Receiver {
    acknowledging_but(never, |_| None)
}

/// The same, unless there is another answer to a batch.
fn acknowledging_but(
    never: bool,
    refusal: impl Fn(&Received) -> Option<Reply> + Send + Sync + 'static,
) -> Receiver {
    let asked = Mutex::new(HashSet::new());
    let numbered = Mutex::new(0);
    Receiver::start(move |request, _| {
        assert_eq!(request.headers["x-splunk-request-channel"], CHANNEL);
        if request.target == "/services/collector/event" {
            if let Some(refusal) = refusal(request) {
                return refusal;
            }
            let mut number = numbered.lock().expect("no panic");
            *number += 1;
            return Reply::json(200, format!(r#"{{"text":"Success","code":0,"ackId":{number}}}"#));
        }
        assert_eq!(request.target, format!("/services/collector/ack?channel={CHANNEL}"));
        let question: Value = serde_json::from_str(&request.body).expect("a question");
        let ids = question["acks"].as_array().expect("a list");
        let mut asked = asked.lock().expect("no panic");
        let acks: serde_json::Map<_, _> =
            ids.iter().map(|id| (id.to_string(), json!(!asked.insert(id.clone()) && !never))).collect();
        Reply::json(200, json!({ "acks": acks }).to_string())
    })
}

#[test]
fn what_splunk_has_not_indexed_is_not_known() {
    let options = format!("format: splunk-hec\n    splunk: {{ channel: {CHANNEL}, ackTimeout: 1s }}");
    let receiver = acknowledging(false);
    let late = installation(&receiver.url(""), &options);
    late.run(&[]).assert_code(0);
    assert_eq!(late.known_blobs().len(), 6);
    assert!(receiver.requests().iter().filter(|request| request.target.contains("/ack")).count() >= 2);

    let never = installation(&acknowledging(true).url(""), &options);
    never.run(&[]).assert_code(1).assert_line_with(&["not indexed after 1 s", "raise splunk.ackTimeout"]);
    assert!(never.known_blobs().is_empty());
}

#[test]
fn what_splunk_has_indexed_beside_a_batch_or_a_record_that_it_refuses_does_not_come_again() {
    for (status, body, problem) in [
        (403, r#"{"text":"Token disabled","code":1}"#, "Output http failed: "),
        (400, r#"{"text":"Invalid data format","code":6}"#, "Output http failed for 1 record ("),
    ] {
        let refused = Arc::new(OnceLock::<String>::new());
        let looked_for = Arc::clone(&refused);
        let receiver = acknowledging_but(false, move |request| {
            let is_in = looked_for.get().is_some_and(|id| request.body.contains(id.as_str()));
            is_in.then(|| Reply::json(status, body))
        });
        let options = format!(
            "format: splunk-hec\n    batchRecords: 10\n    deadLetters: false\n    \
             splunk: {{ channel: {CHANNEL}, ackTimeout: 20s }}"
        );
        let installation = installation(&receiver.url(""), &options);
        let id = installation.contoso.ids(FEED).into_iter().nth(30).expect("a record");
        refused.set(id).expect("not set yet");
        for _ in 0..2 {
            installation.run(&[]).assert_code(1).assert_line_with(&[problem]);
            let mut events = receiver.taken();
            events.retain(|request| request.target == "/services/collector/event");
            let taken = ids(&events, self::events);
            assert!(!taken.is_empty() && taken.values().all(|count| *count == 1), "{taken:?}");
            assert!(status == 403 || taken.len() == 119, "{}", taken.len());
        }
    }
}

#[test]
fn what_splunk_says_by_number_is_told_in_words() {
    for (status, body, words) in [
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
        let receiver = Receiver::start(move |_, _| Reply::json(status, body));
        let installation = installation(&receiver.url(""), "format: splunk-hec");
        installation.run(&[]).assert_code(1).assert_line_with(&words);
    }
}

/// An index: documents by their `_id`, and what each document is refused with before it is taken.
struct Index {
    documents: Mutex<BTreeMap<String, String>>,
}

/// An Elasticsearch that says of each document what `verdict` says of its `_id` and text: a status and an error.
fn elastic(verdict: impl Fn(&str, &str) -> (u16, Value) + Send + Sync + 'static) -> (Receiver, Arc<Index>) {
    let index = Arc::new(Index { documents: Mutex::default() });
    let shared = Arc::clone(&index);
    let receiver = Receiver::start(move |request, _| {
        let mut documents = shared.documents.lock().expect("no panic");
        let rows: Vec<_> = request.body.lines().collect();
        let mut items = Vec::new();
        for pair in rows.chunks(2) {
            let action: Value = serde_json::from_str(pair[0]).expect("an action");
            let action = action["create"].as_object().expect("a create");
            assert_eq!(action["_index"], "logs-o365");
            let id = action["_id"].as_str().expect("an Id").to_owned();
            let (mut status, error) = verdict(&id, pair[1]);
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
fn elasticsearch_gets_each_record_under_its_id_with_its_time() {
    let (receiver, index) = elastic(|_, _| (201, Value::Null));
    let installation = installation(&receiver.url(""), ELASTIC);
    installation.run(&[]).assert_code(0);
    assert_all_once(&installation, &receiver.taken(), documents);
    assert!(receiver.taken().iter().all(|request| request.target == "/_bulk"));
    let documents = index.documents.lock().expect("no panic");
    assert_eq!(
        documents.keys().cloned().collect::<BTreeSet<_>>(),
        served(&installation).into_keys().collect()
    );
    for document in documents.values() {
        let (created, time) = (field(document, "CreationTime"), field(document, "@timestamp"));
        assert!(time.starts_with(&created[..19]) && time.ends_with('Z'), "{time} {created}");
    }
}

#[test]
fn only_what_elasticsearch_could_not_take_is_sent_again() {
    let busy = Mutex::new(HashSet::new());
    let (receiver, index) = elastic(move |id, _| {
        let is_first = busy.lock().expect("no panic").insert(id.to_owned());
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
        .assert_line_with(&["records are not taken: es_rejected_execution_exception"]);
    let sent = ids(&receiver.requests(), documents);
    let stored: BTreeSet<_> = index.documents.lock().expect("no panic").keys().cloned().collect();
    assert_eq!(stored, served(&installation).into_keys().collect());
    for (id, count) in sent {
        assert_eq!(count, if id.ends_with(['0', '1', '2', '3']) { 2 } else { 1 }, "{id}");
    }
}

#[test]
fn a_record_that_is_there_already_is_taken() {
    let (receiver, index) = elastic(|_, _| (201, Value::Null));
    let installation = installation(&receiver.url(""), ELASTIC).collect("skipKnownLogs: false");
    for _ in 0..2 {
        installation.run(&[]).assert_code(0);
    }
    assert_eq!(index.documents.lock().expect("no panic").len(), 120);
    assert!(ids(&receiver.taken(), documents).values().all(|count| *count == 2));
}

#[test]
fn a_record_that_no_mapping_takes_is_kept_as_text_and_holds_up_no_other() {
    let reason =
        "[1:9] failed to parse field [ResultStatus] of type [long]. Preview of field's value: 'hunter2'";
    let (receiver, index) = elastic(move |id, document| {
        if id.ends_with('7') && !document.starts_with("{\"event\":") {
            (400, json!({ "type": "document_parsing_exception", "reason": reason }))
        } else {
            (201, Value::Null)
        }
    });
    let installation = installation(&receiver.url(""), ELASTIC);
    let run = installation.run(&[]);
    run.assert_code(0);
    let documents = index.documents.lock().expect("no panic");
    assert_eq!(
        documents.keys().cloned().collect::<BTreeSet<_>>(),
        served(&installation).into_keys().collect()
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
        "[WARN] Output http: the mapping cannot take",
        "(document_parsing_exception, field ResultStatus): they are sent as text in event.original",
    ]);
    assert!(!run.stderr.contains("hunter2"), "{run}");
}

#[test]
fn a_record_that_is_refused_as_text_too_holds_up_nothing() {
    let (receiver, index) = elastic(|id, _| {
        let refusal = json!({ "type": "strict_dynamic_mapping_exception", "reason": "no" });
        if id.ends_with("77") { (400, refusal) } else { (201, Value::Null) }
    });
    let installation = installation(&receiver.url(""), ELASTIC);
    installation.contoso.add_blob(
        FEED,
        NewBlob::texts([r#"{"Id":"00000000-0000-4000-8000-000000000077","a":1}"#.to_owned()])
            .created(hours_ago(1)),
    );
    installation.run(&[]).assert_code(0).assert_line_with(&[
        "[WARN] Output http refuses ",
        "is refused: status 400, strict_dynamic_mapping_exception",
        "correct the index's mapping",
    ]);
    assert_eq!(installation.known_blobs().len(), 7);
    let letters = fs::read_to_string(installation.path("state/dead-letters/http.json")).expect("a file");
    let stored = index.documents.lock().expect("no panic").len();
    assert_eq!(letters.lines().count() + stored, 121);
    assert!(
        letters.contains(r#""record":{"Id":"00000000-0000-4000-8000-000000000077","a":1,"OriginFeed""#),
        "{letters}"
    );
}

#[test]
fn an_index_that_accepts_nothing_is_named_and_no_record_becomes_text() {
    for (r#type, reason) in [
        (
            "validation_exception",
            "this action would add [2] shards, but this cluster has [1000]/[1000] maximum shards",
        ),
        ("illegal_argument_exception", "pipeline with id [o365] does not exist"),
    ] {
        let (receiver, _) = elastic(move |_, _| (400, json!({ "type": r#type, "reason": reason })));
        let installation = installation(&receiver.url(""), &format!("{ELASTIC}\n    connections: 1"));
        let run = installation.run(&[]);
        run.assert_code(1).assert_line_with(&["[ERROR] Output http failed", r#type, reason]);
        assert_eq!(receiver.requests().len(), 1);
        assert!(!run.stderr.contains("sent as text"), "{run}");
        assert!(check_error(&installation).is_some_and(|found| found.contains(reason)));
    }
}

#[test]
fn a_bulk_body_that_is_refused_as_a_whole_is_halved_down_to_the_record() {
    let index = Arc::new(Index { documents: Mutex::default() });
    let bad = Arc::new(OnceLock::<String>::new());
    let looked_for = Arc::clone(&bad);
    let shared = Arc::clone(&index);
    let receiver = Receiver::start(move |request, _| {
        let rows: Vec<_> = request.body.lines().collect();
        let is_bad = |document: &str| {
            !document.starts_with("{\"event\":")
                && looked_for.get().is_some_and(|id| document.contains(id.as_str()))
        };
        if rows.chunks(2).any(|pair| is_bad(pair[1])) {
            let error = json!({ "type": "x_content_parse_exception", "reason": "Duplicate field 'Id'" });
            return Reply::json(400, json!({ "error": error, "status": 400 }).to_string());
        }
        let mut documents = shared.documents.lock().expect("no panic");
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
    bad.set(installation.contoso.ids(FEED).into_iter().nth(30).expect("a record")).expect("not set yet");
    installation
        .run(&[])
        .assert_code(0)
        .assert_line_with(&["(x_content_parse_exception): they are sent as text"]);
    let documents = index.documents.lock().expect("no panic");
    assert_eq!(
        documents.keys().cloned().collect::<BTreeSet<_>>(),
        served(&installation).into_keys().collect()
    );
}

const AZURE_PATH: &str = "/dataCollectionRules/dcr-1/streams/Custom-O365?api-version=2023-01-01";

#[test]
fn azure_gets_arrays_of_a_megabyte_from_the_tenants_own_app() {
    let tokens = Mutex::new(Vec::new());
    let receiver = Receiver::start(move |request, _| {
        assert!(request.body.len() <= 1_000_000);
        let mut tokens = tokens.lock().expect("no panic");
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
    let taken = receiver.taken();
    assert_all_once(&installation, &taken, elements);
    for record in taken.iter().flat_map(|request| elements(&request.body)) {
        let (created, time) = (field(&record, "CreationTime"), field(&record, "TimeGenerated"));
        assert!(time.starts_with(&created[..19]) && time.ends_with('Z'), "{record}");
    }
    assert!(taken.iter().all(|request| request.target == AZURE_PATH));
}

#[test]
fn azure_says_which_role_lacks_and_a_login_which_credential() {
    let receiver = Receiver::start(|request, _| {
        let token = request.headers.get("authorization").cloned().unwrap_or_default();
        let message = format!("no access {token}");
        Reply::json(403, json!({ "error": { "code": "OperationFailed", "message": message } }).to_string())
    });
    for (secret, words) in [
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
        run.assert_code(1).assert_line_with(&words);
        for request in receiver.requests() {
            let token = request.headers["authorization"].trim_start_matches("Bearer ").to_owned();
            assert!(!run.stderr.contains(&token[..20]), "{run}");
        }
        assert!(!run.stderr.contains("another-secret"), "{run}");
    }
}

#[test]
fn tls_trusts_the_configured_root_verifies_the_given_name_and_shows_a_certificate() {
    let receiver = Receiver::kind_with_tls();
    let (root, own, key) =
        (certificate("private_root.pem"), certificate("here.pem"), certificate("server.key"));
    let tls = format!(
        "tls: {{ ca_file: {}, cert_file: {}, key_file: {}, server_name: office.test }}",
        root.display(),
        own.display(),
        key.display()
    );
    let trusted = installation(&receiver.url("/"), &tls);
    trusted.run(&[]).assert_code(0);
    assert_all_once(&trusted, &receiver.taken(), lines);
    let host = format!("127.0.0.1:{}", receiver.port());
    assert!(receiver.taken().iter().all(|request| request.headers["host"] == host));

    let untrusted = installation(&receiver.url("/"), "retryTimeout: 0s");
    untrusted.run(&[]).assert_code(1).assert_line_with(&["certificate is not trusted", "tls.ca_file"]);
    let without = installation(
        &receiver.url("/"),
        &format!("tls: {{ ca_file: {} }}\n    retryTimeout: 0s", root.display()),
    );
    without.run(&[]).assert_code(1).assert_line_with(&["[ERROR] Output http failed", "tls.cert_file"]);
}

#[test]
fn tls_sessions_with_a_receiver_are_not_resumed_straight_or_through_a_proxy() {
    let tls = format!(
        "tls: {{ ca_file: {} }}\n    batchRecords: 20\n    connections: 1\n    retryTimeout: 0s",
        certificate("private_root.pem").display()
    );
    let receiver = Receiver::closing_with_tls();
    let straight = installation(&receiver.url("/"), &tls);
    straight.run(&[]).assert_code(0);
    assert_all_once(&straight, &receiver.taken(), lines);
    assert!(receiver.connections() > 2, "{} connections", receiver.connections());

    let (receiver, proxy) = (Receiver::closing_with_tls(), Proxy::start(Manner::Open));
    let proxied = installation(&receiver.url("/"), &tls).setting(&format!("proxy: {}", proxy.url("")));
    proxied.run(&[]).assert_code(0);
    assert_all_once(&proxied, &receiver.taken(), lines);
    assert!(proxy.asked().contains(&format!("127.0.0.1:{}", receiver.port())));
}

#[test]
fn a_self_signed_certificate_that_is_in_ca_file_is_trusted_over_http() {
    let receiver = Receiver::certified("self_signed.pem");
    let tls = format!("tls: {{ ca_file: {} }}", certificate("self_signed.pem").display());
    let installation = installation(&receiver.url("/"), &tls);
    installation.run(&[]).assert_code(0);
    assert_all_once(&installation, &receiver.taken(), lines);
}

#[test]
fn what_is_wrong_with_tls_to_a_receiver_is_named_with_a_hint() {
    let root = format!("ca_file: {}", certificate("private_root.pem").display());
    let other_root = format!("ca_file: {}", certificate("other_root.pem").display());
    let elsewhere = format!("{root}, server_name: elsewhere.test");
    let no_key = format!("cert_file: {}", certificate("here.pem").display());
    let encrypted = certificate("../key-encrypted.pem");
    let encrypted = format!("{no_key}, key_file: {}", encrypted.display());
    assert_eq!(
        check_error(&installation(
            &Receiver::certified("elsewhere.pem").url("/"),
            &format!("tls: {{ {elsewhere} }}")
        )),
        None
    );
    for (name, tls, said) in [
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
        let receiver = Receiver::certified(name);
        let found = check_error(&installation(&receiver.url("/"), &format!("tls: {{ {tls} }}")));
        assert!(
            found.as_ref().is_some_and(|found| said.iter().all(|part| found.contains(part))),
            "{found:?}"
        );
    }
}

/// Tries out the output of this installation, as `check` does, and gives back what is wrong.
fn check_error(installation: &Installation) -> Option<String> {
    let path = installation.config_file();
    let sources = Sources { file: &path, credentials: None, environment: &|_| None, with_secrets: true };
    let config = config::load(&sources).unwrap_or_else(|unusable| panic!("{unusable}")).config;
    let mut outputs = output::open(&config, &CancelToken::default());
    let http = outputs.iter_mut().find(|output| output.name() == OutputName::Http).expect("an output");
    http.check().err().map(|error| error.explain())
}

#[test]
fn a_receiver_can_be_tried_out_without_a_delivery() {
    let azure = |receiver: &Receiver, login: &str| {
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
    for (format, target, reply, problem) in [
        ("ndjson", "/in", Reply::status(200), None),
        ("ndjson", "/in", Reply::status(405), Some("HTTP 405; check url")),
        ("ndjson", "/in", Reply::web_page(200), Some("HTTP 200 with a web page")),
        ("array", "/in", Reply::status(401), Some("HTTP 401; check the token")),
        ("array", "/in", Reply::status(503), Some("HTTP 503")),
        ("splunk-hec", "/in", json(400, r#"{"text":"No data","code":5}"#), None),
        ("splunk-hec", "/in", json(400, r#"{"text":"Invalid data format","code":6}"#), None),
        (
            "splunk-hec",
            "/in",
            json(403, r#"{"text":"Invalid token","code":4}"#),
            Some("the token is not one of"),
        ),
        (
            "splunk-hec",
            "/in",
            json(400, r#"{"text":"Data channel is missing","code":10}"#),
            Some("splunk.channel"),
        ),
        ("splunk-hec", "/in", json(200, "ok"), Some("HTTP 200 without the code")),
        ("elastic-bulk", "/in", bulk(400, "document_parsing_exception"), None),
        ("elastic-bulk", "/in", bulk(403, "security_exception"), Some("create_doc and auto_configure")),
        ("elastic-bulk", "/in", bulk(404, "index_not_found_exception"), Some("create the index")),
        ("elastic-bulk", "/in", json(200, "{}"), Some("not that of the bulk API")),
        ("elastic-bulk", "/in", Reply::status(401), Some("HTTP 401; check the token")),
    ] {
        let receiver = Receiver::start(move |_, _| reply.clone());
        let installation = installation(&receiver.url("/in"), &format!("format: {format}"));
        let found = check_error(&installation);
        match problem {
            None => assert_eq!(found, None, "{format}"),
            Some(problem) => {
                assert!(found.as_ref().is_some_and(|found| found.contains(problem)), "{problem}: {found:?}");
            }
        }
        let asked: Vec<_> =
            receiver.requests().iter().map(|asked| (asked.method.clone(), asked.target.clone())).collect();
        assert_eq!(asked, [("POST".to_owned(), target.to_owned())], "{format}");
    }
    let world = Installation::new();
    for (reply, problem) in [
        (Reply::status(204), None),
        (Reply::status(200), Some("where the Logs Ingestion API answers 204")),
        (json(400, r#"{"error":{"code":"InvalidStream","message":"no"}}"#), Some("InvalidStream")),
        (
            json(403, r#"{"error":{"code":"OperationFailed","message":"no"}}"#),
            Some("Monitoring Metrics Publisher"),
        ),
    ] {
        let receiver = Receiver::start(move |_, _| reply.clone());
        let found = check_error(&azure(&receiver, world.simulator.url()));
        assert_eq!(found.is_some(), problem.is_some(), "{found:?}");
        assert!(problem.is_none_or(|problem| found.is_some_and(|found| found.contains(problem))));
    }
    let receiver = Receiver::start(|_, _| Reply::status(405));
    let found = check_error(&azure(&receiver, &receiver.url(""))).expect("no login there");
    assert!(found.contains("the login of output.http.azure: HTTP 405"), "{found}");
    let without_receiver = installation(&format!("http://127.0.0.1:{}", unused_port()), "format: array");
    assert!(check_error(&without_receiver).expect("a closed port").contains("refused"));
}

#[test]
fn a_receiver_is_reached_through_the_configured_proxy_and_not_through_the_environments_on_loopback() {
    let (receiver, proxy) = (Receiver::kind(), Proxy::start(Manner::Open));
    let installation = installation(&receiver.url("/"), "format: ndjson");
    installation.run_in(&[("HTTPS_PROXY", &proxy.url(""))]).assert_code(0);
    assert_eq!(proxy.asked(), [""; 0]);
    assert_all_once(&installation, &receiver.taken(), lines);

    let receiver = Receiver::kind();
    let installation = self::installation(&receiver.url("/"), "format: ndjson");
    let installation = installation.setting(&format!("proxy: {}", proxy.url("")));
    installation.run(&[]).assert_code(0);
    assert!(proxy.asked().contains(&format!("127.0.0.1:{}", receiver.port())));
    assert_all_once(&installation, &receiver.taken(), lines);
}

#[test]
fn a_web_page_accepts_nothing_and_a_status_is_enough_where_no_more_is_answered() {
    for format in ["ndjson", "array", "splunk-hec", "elastic-bulk"] {
        let receiver = Receiver::start(|_, _| Reply::web_page(200));
        let installation =
            installation(&receiver.url("/in"), &format!("format: {format}\n    connections: 1"));
        let words = ["[ERROR] Output http failed", "HTTP 200 with a web page"];
        installation.run(&[]).assert_code(1).assert_line_with(&words);
        assert!(installation.known_blobs().is_empty());
    }
    let receiver = Receiver::start(|_, _| Reply::CutBody(200, "o".to_owned()));
    let installation = installation(&receiver.url("/in"), "format: ndjson");
    installation.run(&[]).assert_code(0);
    assert_all_once(&installation, &receiver.taken(), lines);
}

#[test]
fn azure_accepts_with_204_only_and_a_wrong_stream_ends_the_output_at_once() {
    for (reply, problem) in [
        (
            Reply::json(400, r#"{"error":{"code":"InvalidStream","message":"no such stream"}}"#),
            "InvalidStream",
        ),
        (Reply::status(200), "where the Logs Ingestion API answers 204"),
    ] {
        let receiver = Receiver::start(move |_, _| reply.clone());
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
fn an_error_that_one_record_causes_holds_up_no_other() {
    let receiver =
        Receiver::start(|request, _| Reply::status(if request.body.contains("1E400") { 500 } else { 200 }));
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
        "[WARN] Output http refuses 1 record (0000aaaa-0000-4000-8000-000000000001 of contoso",
    ]);
    let taken = ids(&receiver.taken(), lines);
    assert!(taken.len() == 120 && taken.values().all(|count| *count == 1), "{}", taken.len());
    assert_eq!(installation.known_blobs().len(), 7);

    let down = Receiver::start(|_, _| Reply::status(500));
    let installation = self::installation(&down.url("/"), "retryTimeout: 0s\n    connections: 1");
    installation.run(&[]).assert_code(1).assert_line_with(&["[ERROR] Output http failed", "HTTP 500"]);
    assert!(installation.known_blobs().is_empty());
    assert!(down.requests().len() <= 20, "{}", down.requests().len());
}

/// A Splunk as it is: events before the one that it names are indexed, and so is nothing after it.
struct Hec {
    receiver: Receiver,
    indexed: Arc<Mutex<Vec<String>>>,
}

/// `verdict`: what an event is refused with, as status and code, if it is.
fn hec(verdict: impl Fn(&str) -> Option<(u16, u32)> + Send + Sync + 'static) -> Hec {
    let indexed = Arc::new(Mutex::new(Vec::new()));
    let shared = Arc::clone(&indexed);
    let receiver = Receiver::start(move |request, _| {
        let mut indexed = shared.lock().expect("no panic");
        for (number, event) in events(&request.body).into_iter().enumerate() {
            if let Some((status, code)) = verdict(&event) {
                let body = json!({ "text": "no", "code": code, "invalid-event-number": number });
                return Reply::json(status, body.to_string());
            }
            indexed.push(simulator::id_of(&event).expect("an Id"));
        }
        Reply::json(200, r#"{"text":"Success","code":0}"#)
    });
    Hec { receiver, indexed }
}

#[test]
fn splunk_has_the_events_before_the_one_that_it_names() {
    let was_busy = Mutex::new(HashSet::new());
    let hec = hec(move |event| {
        if event.contains("blank") {
            return Some((400, 12));
        }
        let id = simulator::id_of(event).expect("an Id");
        let mut was_busy = was_busy.lock().expect("no panic");
        (was_busy.len() < 2 && was_busy.insert(id)).then_some((503, 9))
    });
    let installation = installation(&hec.receiver.url(""), "format: splunk-hec\n    connections: 1");
    let bad = r#"{"Id":"0000aaaa-0000-4000-8000-000000000001","x":"blank"}"#.to_owned();
    installation.contoso.add_blob(FEED, NewBlob::texts([bad]).created(hours_ago(1)));
    installation
        .run(&[])
        .assert_code(0)
        .assert_line_with(&["[WARN] Output http refuses 1 record (0000aaaa-"]);
    let mut indexed = hec.indexed.lock().expect("no panic").clone();
    indexed.sort();
    let mut expected = served(&installation);
    expected.remove("0000aaaa-0000-4000-8000-000000000001");
    assert_eq!(indexed, expected.into_keys().collect::<Vec<_>>());
    assert_eq!(installation.known_blobs().len(), 7);
}

#[test]
fn a_batch_of_which_each_attempt_accepts_a_part_does_not_time_out() {
    let was_busy = Mutex::new(HashSet::new());
    let hec = hec(move |event| {
        let id = simulator::id_of(event).expect("an Id");
        let mut was_busy = was_busy.lock().expect("no panic");
        (was_busy.len() < 7 && was_busy.insert(id)).then_some((503, 9))
    });
    // Seven attempts in a row without progress would take longer than this, because their delays double.
    let options = "format: splunk-hec\n    connections: 1\n    retryTimeout: 1s";
    let installation = installation(&hec.receiver.url(""), options);
    installation.run(&[]).assert_code(0);
    let mut indexed = hec.indexed.lock().expect("no panic").clone();
    indexed.sort();
    assert_eq!(indexed, served(&installation).into_keys().collect::<Vec<_>>());
}

/// Two Splunk indexers behind a load balancer: each numbers its batches from 0. The balancer leads requests with the
/// cookie of an indexer to that one, and all others in turn. A batch is confirmed if `confirms` says so.
fn indexers(confirms: impl Fn(&str) -> bool + Send + Sync + 'static) -> Receiver {
    let (turn, batches) = (Mutex::new(0), Mutex::new([Vec::<String>::new(), Vec::new()]));
    Receiver::start(move |request, _| {
        let cookie = request.headers.get("cookie");
        let place = match cookie.map(String::as_str) {
            Some("indexer=0") => 0,
            Some("indexer=1") => 1,
            _ => {
                let mut turn = turn.lock().expect("no panic");
                *turn += 1;
                *turn % 2
            }
        };
        let mut batches = batches.lock().expect("no panic");
        if request.target.starts_with("/prefix/services/collector/ack?") {
            let question: Value = serde_json::from_str(&request.body).expect("a question");
            let acks: serde_json::Map<_, _> = question["acks"]
                .as_array()
                .expect("a list")
                .iter()
                .map(|id| {
                    let number = usize::try_from(id.as_u64().expect("a number")).expect("a small one");
                    let body = batches[place].get(number).filter(|body| confirms(body));
                    (id.to_string(), json!(body.is_some()))
                })
                .collect();
            return Reply::json(200, json!({ "acks": acks }).to_string());
        }
        assert_eq!(request.target, "/prefix/services/collector/event");
        batches[place].push(request.body.clone());
        let body = json!({ "text": "Success", "code": 0, "ackId": batches[place].len() - 1 }).to_string();
        Reply::Answer(200, vec![("Set-Cookie", format!("indexer={place}; Path=/; HttpOnly"))], body)
    })
}

/// A Splunk that restarts once, when it has three batches: it loses them, and numbers the next ones from 0 again.
#[test]
fn what_lost_its_ack_id_to_a_later_batch_is_sent_again() {
    let confirmed = Arc::new(Mutex::new(BTreeSet::new()));
    let shared = Arc::clone(&confirmed);
    let state = Mutex::new((Vec::<String>::new(), false));
    let receiver = Receiver::start(move |request, _| {
        let mut state = state.lock().expect("no panic");
        let (batches, has_restarted) = &mut *state;
        if request.target.contains("/ack?") {
            let question: Value = serde_json::from_str(&request.body).expect("a question");
            let mut acks = serde_json::Map::new();
            for id in question["acks"].as_array().expect("a list") {
                let number = usize::try_from(id.as_u64().expect("a number")).expect("a small one");
                let events = batches.get(number).map(|body| events(body)).unwrap_or_default();
                acks.insert(id.to_string(), json!(!events.is_empty()));
                let ids = events.iter().map(|event| simulator::id_of(event).expect("an Id"));
                shared.lock().expect("no panic").extend(ids);
            }
            return Reply::json(200, json!({ "acks": acks }).to_string());
        }
        if batches.len() == 3 && !*has_restarted {
            batches.clear();
            *has_restarted = true;
        }
        batches.push(request.body.clone());
        Reply::json(200, json!({ "text": "Success", "code": 0, "ackId": batches.len() - 1 }).to_string())
    });
    let options = format!(
        "format: splunk-hec\n    batchRecords: 20\n    splunk: {{ channel: {CHANNEL}, ackTimeout: 1s }}"
    );
    let installation = installation(&receiver.url(""), &options);
    let first = installation.run(&[]);
    if first.code == Some(0) {
        first.assert_line_with(&["[WARN] Output http: ack id 0 was given out for two batches"]);
    } else {
        installation.run(&[]).assert_code(0); // a slow machine asked before the restart: what was lost is not confirmed
    }
    let confirmed = confirmed.lock().expect("no panic").clone();
    assert_eq!(confirmed, served(&installation).into_keys().collect());
}

/// A Splunk that loses its first two batches in a restart and numbers the next ones from 0 again. The answer to the second
/// one arrives after that to a later one with the same id.
#[test]
fn a_batch_whose_ack_id_is_repeated_before_its_answer_arrives_is_sent_again() {
    let confirmed = Arc::new(Mutex::new(BTreeSet::new()));
    let shared = Arc::clone(&confirmed);
    let (posts, batches) = (AtomicUsize::new(0), Mutex::new(Vec::<String>::new()));
    let receiver = Receiver::start(move |request, _| {
        if request.target.contains("/ack?") {
            let batches = batches.lock().expect("no panic");
            let question: Value = serde_json::from_str(&request.body).expect("a question");
            let asked = question["acks"].as_array().expect("a list").iter();
            let number_of =
                |id: &Value| usize::try_from(id.as_u64().expect("a number")).expect("a small one");
            let known: Vec<_> = asked.map(number_of).filter(|number| *number < batches.len()).collect();
            let events = known.iter().flat_map(|number| events(&batches[*number]));
            let ids = events.map(|event| simulator::id_of(&event).expect("an Id"));
            shared.lock().expect("no panic").extend(ids);
            let acks: serde_json::Map<_, _> = known.iter().map(|id| (id.to_string(), json!(true))).collect();
            return Reply::json(200, json!({ "acks": acks }).to_string());
        }
        let accepted = |number: usize| {
            Reply::json(200, json!({ "text": "Success", "code": 0, "ackId": number }).to_string())
        };
        match posts.fetch_add(1, Ordering::SeqCst) {
            0 => accepted(0),
            1 => {
                // One of two connections: the fifth request comes after the answer to the fourth one.
                wait_until("the fifth request", || posts.load(Ordering::SeqCst) >= 5);
                accepted(1)
            }
            _ => {
                let mut batches = batches.lock().expect("no panic");
                batches.push(request.body.clone());
                accepted(batches.len() - 1)
            }
        }
    });
    let options = format!(
        "format: splunk-hec\n    batchRecords: 20\n    connections: 2\n    splunk: {{ channel: {CHANNEL}, ackTimeout: 20s }}"
    );
    let installation = installation(&receiver.url(""), &options);
    let run = installation.run(&[]);
    run.assert_code(0).assert_line_with(&["[WARN] Output http: ack id 1 was given out for two batches"]);
    let confirmed = confirmed.lock().expect("no panic").clone();
    assert_eq!(confirmed, served(&installation).into_keys().collect());
}

#[test]
fn the_cookies_of_a_load_balancer_are_sent_back() {
    let receiver = indexers(|_| true);
    let options = format!(
        "format: splunk-hec\n    batchRecords: 20\n    splunk: {{ channel: {CHANNEL}, ackTimeout: 20s }}"
    );
    let installation = installation(&receiver.url("/prefix/services/collector/event"), &options);
    let run = installation.run(&[]);
    run.assert_code(0);
    assert!(!run.stderr.contains("ack id"), "{run}");
    let mut taken = receiver.taken();
    taken.retain(|request| request.target.ends_with("/event"));
    assert_all_once(&installation, &taken, events);
}

#[test]
fn an_unconfirmed_batch_does_not_repeat_the_confirmed_ones() {
    let never = Arc::new(OnceLock::<String>::new());
    let looked_for = Arc::clone(&never);
    let receiver = indexers(move |body| looked_for.get().is_none_or(|id| !body.contains(id.as_str())));
    let options = format!(
        "format: splunk-hec\n    batchRecords: 20\n    splunk: {{ channel: {CHANNEL}, ackTimeout: 1s }}"
    );
    let installation = installation(&receiver.url("/prefix/services/collector/event"), &options);
    never.set(installation.contoso.ids(FEED).into_iter().nth(30).expect("a record")).expect("not set yet");
    for _ in 0..2 {
        installation.run(&[]).assert_code(1).assert_line_with(&["1 batches are not indexed after 1 s"]);
    }
    let mut sent = receiver.requests();
    sent.retain(|request| request.target.ends_with("/event"));
    let repeated = ids(&sent, events).values().filter(|count| **count > 1).count();
    assert_eq!(repeated, 20);
}
