//! `output.http` with `format: otlp` against a receiver that decodes what it gets. What it accepts is compared with what was
//! served, Id by Id.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use jiff::Timestamp;
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};
use serde_json::{Value, json, value::RawValue};
use simulator::NewBlob;

use crate::interop::Peer;
use crate::support::{
    CONTOSO, Installation, hours_ago,
    http::{HttpReceiver, ReceivedRequest, Reply},
    otlp::{self, ENCODINGS, LogRecord, accepted, error, is_json, log_records, log_records_of, partial},
    process::in_parallel,
};

const FEED: &str = "Audit.General";
const BAD: &str = "0000aaaa-0000-4000-8000-000000000001";

/// Contoso with 120 records in 6 blobs, and an OTLP output with this URL and further keys.
fn installation(url: &str, lines: &str) -> Installation {
    let output = format!("  http:\n    url: {url}\n    format: otlp\n    {lines}");
    let installation = Installation::new().with_output(&output);
    installation.contoso.add_blobs(FEED, 6, 20, hours_ago(20)..hours_ago(2));
    installation
}

/// Adds a record that a receiver can recognize in both encodings.
fn add_bad_record(installation: &Installation) {
    let record = format!(r#"{{"Id":"{BAD}","Operation":"Bad"}}"#);
    installation.contoso.add_blob(FEED, NewBlob::texts([record]).created(hours_ago(1)));
}

/// The number of records for each Id in these requests.
fn ids(requests: &[ReceivedRequest]) -> BTreeMap<String, usize> {
    let mut ids = BTreeMap::new();
    for record in requests.iter().flat_map(log_records) {
        *ids.entry(record.id().to_owned()).or_default() += 1;
    }
    ids
}

/// The Ids of contoso's records, each with the number 1.
fn each_once(installation: &Installation) -> BTreeMap<String, usize> {
    installation.contoso.ids(FEED).into_iter().map(|id| (id, 1)).collect()
}

/// Asserts that these requests contain each record once, and that each blob is committed.
#[track_caller]
fn assert_delivered_once(installation: &Installation, requests: &[ReceivedRequest]) {
    assert_eq!(ids(requests), each_once(installation));
    installation.assert_delivered_once([(&installation.contoso, FEED)]);
    assert_eq!(installation.known_blobs().len(), installation.contoso.blobs(FEED).len());
}

/// The texts of the fields of an object. A record can contain what `serde_json::Value` cannot.
fn fields(object: &str) -> BTreeMap<String, String> {
    let fields: BTreeMap<String, &RawValue> = serde_json::from_str(object).expect("an object");
    fields.into_iter().map(|(name, value)| (name, value.get().trim_matches('"').to_owned())).collect()
}

fn dead_letters(installation: &Installation) -> Vec<BTreeMap<String, String>> {
    let path = installation.path("state/dead-letters/http.json");
    fs::read_to_string(path).unwrap_or_default().lines().map(fields).collect()
}

fn dead_ids(installation: &Installation) -> Vec<String> {
    let mut ids: Vec<_> =
        dead_letters(installation).iter().map(|letter| letter["recordId"].clone()).collect();
    ids.sort();
    ids
}

/// The lines of the output files, by Id.
fn lines_by_id(installation: &Installation) -> BTreeMap<String, String> {
    let id = |line: String| (simulator::id_of(&line).expect("an Id"), line);
    installation.output().into_values().flatten().map(id).collect()
}

/// Asserts what a log record has besides the record itself.
fn assert_header(record: &LogRecord, line: &str) {
    let fields = fields(line);
    assert_eq!(record.scope, fields["OriginFeed"]);
    assert_eq!(record.event_name, fields["Operation"]);
    assert_eq!(record.severity, 9);
    let created: Timestamp =
        format!("{}Z", fields["CreationTime"].trim_end_matches('Z')).parse().expect("a time");
    assert_eq!(record.time, Some(created));
    let age = Timestamp::now().duration_since(record.observed);
    assert!(
        !age.is_negative() && age < jiff::SignedDuration::from_mins(10),
        "observed at {}",
        record.observed
    );
    let resource =
        [("service.name", "audit"), ("office365.tenant.id", CONTOSO), ("office365.tenant.name", "contoso")];
    let expected: BTreeMap<_, _> =
        resource.map(|(key, text)| (key.to_owned(), Value::from(text))).into_iter().collect();
    assert_eq!(record.resource, expected);
}

#[test]
fn sends_the_text_of_each_record_once_in_both_encodings() {
    in_parallel(
        ENCODINGS.into_iter().flat_map(|encoding| [(encoding, "none"), (encoding, "gzip")]),
        |case| {
            let ((encoding, content_type), compress) = case;
            let receiver = otlp::receiver();
            let options = format!(
                "compress: {compress}\n    headers: {{ X-Key: k }}\n    \
             otlp: {{ encoding: {encoding}, serviceName: audit }}"
            );
            let installation = installation(&receiver.url(""), &options);
            installation.contoso.add_blobs("Audit.Exchange", 2, 10, hours_ago(20)..hours_ago(2));
            installation.run(&[]).assert_code(0);
            let requests = receiver.accepted();
            for request in &requests {
                assert_eq!((&*request.method, &*request.target), ("POST", "/v1/logs"));
                assert_eq!(
                    (&*request.headers["content-type"], &*request.headers["x-key"]),
                    (content_type, "k")
                );
                assert_eq!(request.wire_bytes < request.bytes.len(), compress == "gzip");
            }
            let mut lines = lines_by_id(&installation);
            assert_eq!(lines.len(), 140);
            for record in requests.iter().flat_map(log_records) {
                let line = lines.remove(record.id()).expect("a record that was sent once");
                assert_eq!(record.body, Value::from(&*line));
                assert_eq!(record.attributes.len(), 1);
                assert_header(&record, &line);
            }
            assert!(lines.is_empty(), "{} records were not sent", lines.len());
        },
    );
}

/// The fields of an object, unless a name is empty, repeated or not a text.
struct UniqueFields<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for UniqueFields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = UniqueFields<'de>;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let (mut fields, mut names) = (Vec::new(), BTreeSet::new());
                while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
                    if name.is_empty() || !names.insert(name.clone()) {
                        return Err(A::Error::custom("an empty or a repeated name"));
                    }
                    fields.push((name, value));
                }
                Ok(UniqueFields(fields))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// What a value is after its way through OTLP: itself, or its text if OTLP cannot represent it.
fn expected(json: &str) -> Value {
    match json.as_bytes()[0] {
        b'{' => match serde_json::from_str(json) {
            Ok(UniqueFields(fields)) => {
                fields.into_iter().map(|(name, value)| (name, expected(value.get()))).collect()
            }
            Err(_) => json.into(),
        },
        b'[' => {
            let elements: Vec<&RawValue> = serde_json::from_str(json).expect("an array");
            elements.into_iter().map(|element| expected(element.get())).collect()
        }
        // A number with many digits can be more than a double holds.
        b'-' | b'0'..=b'9' if json.parse::<i64>().is_err() && json.len() > 15 => json.into(),
        _ => serde_json::from_str(json).unwrap_or_else(|_| json.into()),
    }
}

/// Asserts that a log record is this line, in this form. Returns whether OTLP cannot represent its fields.
fn assert_same(mut record: LogRecord, line: &str, record_as: &str) -> bool {
    assert_header(&record, line);
    let fields = expected(line);
    let uid = record.attributes.remove("log.record.uid");
    assert_eq!(uid, simulator::id_of(line).map(Value::from));
    let (body, attributes) = match record_as {
        "map" => (fields.clone(), json!({})),
        "attributes" if fields.is_object() => (Value::Null, fields.clone()),
        _ => (line.into(), json!({})),
    };
    assert_eq!((&record.body, Value::from(record.attributes)), (&body, attributes));
    fields.is_string()
}

#[test]
fn sends_fields_as_map_and_as_attributes() {
    in_parallel(
        ENCODINGS.into_iter().flat_map(|encoding| [(encoding, "map"), (encoding, "attributes")]),
        |case| {
            let ((encoding, _), record_as) = case;
            let receiver = otlp::receiver();
            let options = format!(
                "batchSize: 16K\n    otlp: {{ encoding: {encoding}, recordAs: {record_as}, serviceName: audit }}"
            );
            let installation = installation(&receiver.url("/v1/logs"), &options);
            installation.run(&[]).assert_code(0);
            let (mut lines, mut texts) = (lines_by_id(&installation), 0);
            for record in receiver.accepted().iter().flat_map(log_records) {
                let line = lines.remove(record.id()).expect("a record that was sent once");
                texts += usize::from(assert_same(record, &line, record_as));
            }
            assert!(texts < 60, "{texts} records were sent as text");
            assert!(lines.is_empty(), "{} records were not sent", lines.len());
        },
    );
}

#[test]
fn sends_unusual_records_without_loss() {
    let fields = r#""big":12345678901234567890,"huge":1E400,"half":"\ud83d","twice":{"a":1,"a":2},"none":null,"x":[1,1.5,true]"#;
    let usable = format!(r#"{{"Id":"0000aaaa-0000-4000-8000-000000000002",{fields}}}"#);
    let repeated = r#"{"Id":"0000aaaa-0000-4000-8000-000000000003","a":1,"a":2}"#.to_owned();
    let without_header = r#"{"CreationTime":"soon","Operation":7,"a":1}"#.to_owned();
    let deep = format!(
        r#"{{"Id":"0000aaaa-0000-4000-8000-000000000004","CreationTime":"1969-12-31T00:00:00","a":{}{}}}"#,
        "[".repeat(500),
        "]".repeat(500)
    );
    in_parallel(ENCODINGS, |(encoding, _)| {
        let receiver = otlp::receiver();
        let output = format!(
            "  http:\n    url: {}\n    format: otlp\n    otlp: {{ encoding: {encoding}, recordAs: map }}",
            receiver.url("")
        );
        let installation = Installation::new().with_output(&output);
        let blob = NewBlob::texts([&usable, &repeated, &without_header, &deep]).created(hours_ago(1));
        installation.contoso.add_blob(FEED, blob);
        installation.run(&[]).assert_code(0);
        let records: Vec<_> = receiver.accepted().iter().flat_map(log_records).collect();
        assert_eq!(records.len(), 4);
        let [usable, repeated, without_header, deep] = records.as_slice() else { panic!("four records") };
        let expected = json!({
            "Id": "0000aaaa-0000-4000-8000-000000000002",
            "big": "12345678901234567890", "huge": "1E400", "half": r#""\ud83d""#, "twice": r#"{"a":1,"a":2}"#,
            "none": null, "x": [1, 1.5, true], "OriginFeed": FEED, "TenantName": "contoso",
        });
        assert_eq!(usable.body, expected);
        assert!(repeated.body.as_str().is_some_and(|text| text.contains(r#""a":1,"a":2"#)), "{repeated:?}");
        assert!(without_header.time.is_none() && without_header.event_name.is_empty());
        assert!(!without_header.attributes.contains_key("log.record.uid"));
        assert_eq!(without_header.body["Operation"], 7);
        let (mut value, mut depth) = (&deep.body["a"], 0);
        while let Value::Array(elements) = value {
            (value, depth) = (&elements[0], depth + 1);
        }
        let rest = value.as_str().expect("the rest as text");
        assert_eq!(rest.len(), 2 * (500 - depth));
        assert!(deep.time.is_none() && depth > 20, "{depth} levels");
    });
}

#[test]
fn retries_only_what_the_protocol_allows() {
    in_parallel(
        ENCODINGS.into_iter().flat_map(|(encoding, _)| [429, 502, 503, 504].map(|status| (encoding, status))),
        |(encoding, status)| {
            let receiver = HttpReceiver::start(move |request, place| match place {
                0 => error(request, status, "no room"),
                _ => accepted(request),
            });
            let options = format!("connections: 1\n    otlp: {{ encoding: {encoding} }}");
            let installation = installation(&receiver.url(""), &options);
            let run = installation.run(&[]);
            let problem = format!("HTTP {status}: no room; trying again in");
            run.assert_code(0).assert_line_with(&["[WARN] Output http: 127.0.0.1:", &problem]);
            assert_delivered_once(&installation, &receiver.accepted());
        },
    );
    in_parallel([401, 408, 500, 501], |status| {
        let receiver = HttpReceiver::start(move |request, _| error(request, status, "no service"));
        let installation = installation(&receiver.url(""), "connections: 1\n    retryTimeout: 60s");
        let run = installation.run(&[]);
        let problem = format!("HTTP {status}: no service");
        run.assert_code(1).assert_line_with(&["[ERROR] Output http failed: 127.0.0.1:", &problem]);
        assert!(!run.stderr.contains("trying again"), "{run}");
        assert!(receiver.requests().len() <= 20, "{}", receiver.requests().len());
        assert!(installation.known_blobs().is_empty());
    });
}

#[test]
fn waits_for_retry_after() {
    let early = std::sync::Arc::new(AtomicUsize::new(0));
    let (early_requests, not_before) = (std::sync::Arc::clone(&early), std::sync::OnceLock::new());
    let receiver = HttpReceiver::start(move |request, place| {
        let now = Timestamp::now();
        if now < *not_before.get_or_init(|| now + Duration::from_secs(1)) && place > 0 {
            early_requests.fetch_add(1, Ordering::SeqCst);
        }
        if place == 0 { Reply::retry_after(429, "1") } else { accepted(request) }
    });
    let installation = installation(&receiver.url(""), "connections: 1");
    installation.run(&[]).assert_code(0);
    assert_eq!(early.load(Ordering::SeqCst), 0, "requests before the requested time");
    assert_delivered_once(&installation, &receiver.accepted());
}

/// Returns whether a request contains the bad record.
fn has_bad_record(request: &ReceivedRequest) -> bool {
    log_records(request).iter().any(|record| record.event_name == "Bad")
}

#[test]
fn finds_the_record_that_the_receiver_does_not_accept() {
    // 400 and 500 concern the whole request. A partial success in which all records are rejected is treated alike.
    in_parallel(
        ENCODINGS.into_iter().flat_map(|(encoding, _)| [400, 500, 200].map(|status| (encoding, status))),
        |(encoding, status)| {
            let receiver = HttpReceiver::start(move |request, _| {
                if !has_bad_record(request) {
                    return accepted(request);
                }
                let count = i64::try_from(log_records(request).len()).expect("a small number");
                match status {
                    200 => partial(request, count, "no such event"),
                    _ => error(request, status, "no such event"),
                }
            });
            let options = format!("connections: 1\n    otlp: {{ encoding: {encoding} }}");
            let installation = installation(&receiver.url(""), &options);
            add_bad_record(&installation);
            let run = installation.run(&[]);
            run.assert_code(0).assert_line_with(&[
                &format!(
                    "[WARN] Output http: the receiver rejects 1 record ({BAD} of contoso audit.general)"
                ),
                "no such event",
            ]);
            assert!(!run.stderr.contains("trying again"), "{run}");
            let mut requests = receiver.accepted();
            requests.retain(|request| !has_bad_record(request));
            let mut expected = each_once(&installation);
            expected.remove(BAD);
            assert_eq!(ids(&requests), expected);
            assert_eq!(dead_ids(&installation), [BAD]);
            assert!(dead_letters(&installation)[0]["record"].contains(r#""Operation":"Bad""#));
            assert_eq!(installation.known_blobs().len(), 7);
        },
    );
}

#[test]
fn keeps_all_records_of_a_batch_of_which_some_are_rejected() {
    in_parallel(ENCODINGS, |(encoding, _)| {
        let receiver = HttpReceiver::start(move |request, _| {
            if has_bad_record(request) { partial(request, 1, "no such event") } else { accepted(request) }
        });
        let options = format!(
            "connections: 1\n    batchRecords: 10\n    otlp: {{ encoding: {encoding}, recordAs: attributes }}"
        );
        let installation = installation(&receiver.url(""), &options);
        let others =
            (2..8).map(|number| format!(r#"{{"Id":"0000aaaa-0000-4000-8000-00000000000{number}"}}"#));
        let bad = format!(r#"{{"Id":"{BAD}","Operation":"Bad"}}"#);
        let blob = NewBlob::texts([bad].into_iter().chain(others)).created(hours_ago(1));
        installation.contoso.add_blob(FEED, blob);
        let run = installation.run(&[]);
        run.assert_code(0).assert_line_with(&[
            "[WARN] Output http: 127.0.0.1:",
            "it rejected 1 of ",
            " records and does not say which: no such event; all ",
            " become dead letters, and are not sent again",
        ]);
        run.assert_line_with(&[
            "[WARN] Output http: the receiver rejects ",
            ", kept in ",
            "dead-letters/http.json",
        ]);
        let requests = receiver.requests();
        assert_delivered_once(&installation, &requests);
        let undecided = requests.into_iter().find(has_bad_record).expect("a request with the bad record");
        let candidates: Vec<_> = ids(&[undecided]).into_keys().collect();
        assert!(candidates.len() > 1 && candidates.contains(&BAD.to_owned()), "{candidates:?}");
        assert_eq!(dead_ids(&installation), candidates);
        let letters = dead_letters(&installation);
        let marked =
            format!("it rejected 1 of {} records and does not say which: no such event", letters.len());
        assert!(letters.iter().all(|letter| letter["reason"] == marked), "{letters:?}");
        let lines = lines_by_id(&installation);
        assert!(letters.iter().all(|letter| letter["record"] == lines[&letter["recordId"]]), "{letters:?}");
        installation.run(&[]).assert_code(0);
        assert_delivered_once(&installation, &receiver.requests());
    });
}

#[test]
fn keeps_undecided_records_when_the_output_fails_later() {
    let receiver = HttpReceiver::start(|request, place| match place {
        0 => partial(request, 1, "no such event"),
        1 => error(request, 401, "no such token"),
        _ => accepted(request),
    });
    let installation = installation(&receiver.url(""), "connections: 1\n    batchRecords: 10");
    installation
        .run(&[])
        .assert_code(1)
        .assert_line_with(&["[ERROR] Output http failed: 127.0.0.1:", "HTTP 401: no such token"]);
    let candidates: Vec<_> = ids(&receiver.requests()[..1]).into_keys().collect();
    assert_eq!(candidates.len(), 10);
    assert_eq!(dead_ids(&installation), candidates);
    installation.run(&[]).assert_code(0);
    let mut requests = receiver.requests();
    requests.remove(1);
    assert_delivered_once(&installation, &requests);
    assert_eq!(dead_ids(&installation), candidates);
}

#[test]
fn fails_when_the_receiver_rejects_too_many_records() {
    let receiver = HttpReceiver::start(|request, _| partial(request, 9, "out of quota"));
    let installation = installation(&receiver.url(""), "connections: 1\n    batchRecords: 10");
    installation.contoso.add_blobs(FEED, 2, 20, hours_ago(20)..hours_ago(2));
    let run = installation.run(&[]);
    run.assert_code(1).assert_line_with(&[
        "[ERROR] Output http failed: 127.0.0.1:",
        "101 records were rejected",
        "the cause is the receiver or its configuration",
    ]);
    let candidates: Vec<_> = ids(&receiver.requests()).into_keys().collect();
    assert_eq!(dead_ids(&installation), candidates);
}

#[test]
fn logs_a_warning_of_the_receiver_once() {
    in_parallel(ENCODINGS, |(encoding, _)| {
        let receiver = HttpReceiver::start(|request, _| partial(request, 0, "this endpoint moves in May"));
        let options = format!("batchRecords: 10\n    otlp: {{ encoding: {encoding} }}");
        let installation = installation(&receiver.url(""), &options);
        let run = installation.run(&[]);
        let warning =
            "[WARN] Output http: the receiver accepts the records and warns: this endpoint moves in May";
        run.assert_code(0).assert_line_with(&[warning]);
        assert_eq!(run.stderr.matches("this endpoint moves").count(), 1, "{run}");
        assert_delivered_once(&installation, &receiver.accepted());
    });
}

/// A reply with this status, content type and body.
fn reply(status: u16, content_type: &str, body: &str) -> Reply {
    Reply::Response(status, vec![("Content-Type", content_type.to_owned())], body.to_owned())
}

#[test]
fn accepts_only_the_response_of_an_otlp_receiver() {
    let (json, protobuf) = ("application/json", "application/x-protobuf");
    in_parallel(
        [
            ("protobuf", Reply::web_page(200), "HTTP 200 with a web page"),
            ("json", Reply::web_page(200), "HTTP 200 with a web page"),
            ("protobuf", Reply::status(200), "HTTP 200 without the Content-Type application/x-protobuf"),
            ("protobuf", reply(200, json, "{}"), "HTTP 200 without the Content-Type application/x-protobuf"),
            ("protobuf", reply(200, protobuf, "ok"), "HTTP 200 without the response of an OTLP receiver"),
            ("protobuf", reply(202, protobuf, ""), "HTTP 202, where an OTLP receiver answers 200"),
            ("json", reply(200, "text/plain", "{}"), "HTTP 200 without the Content-Type application/json"),
            ("json", reply(200, json, ""), "HTTP 200 without the response of an OTLP receiver"),
            ("json", reply(200, json, "[]"), "HTTP 200 without the response of an OTLP receiver"),
            (
                "json",
                reply(200, json, r#"{"status":"ok"}"#),
                "HTTP 200 without the response of an OTLP receiver",
            ),
            ("json", reply(201, json, "{}"), "HTTP 201, where an OTLP receiver answers 200"),
        ],
        |(encoding, reply, problem)| {
            let receiver = HttpReceiver::start(move |_, _| reply.clone());
            let options = format!("connections: 1\n    otlp: {{ encoding: {encoding} }}");
            let installation = installation(&receiver.url("/in"), &options);
            let run = installation.run(&[]);
            run.assert_code(1).assert_line_with(&["[ERROR] Output http failed: 127.0.0.1:", problem]);
            assert_eq!(receiver.requests().len(), 1, "{run}");
            assert!(installation.known_blobs().is_empty());
        },
    );
    in_parallel(
        [
            ("json", reply(200, "application/json; charset=utf-8", r#"{"partialSuccess":{}}"#)),
            ("json", reply(200, json, r#"{"partialSuccess":null}"#)),
            ("protobuf", reply(200, protobuf, "\n\0")),
            ("protobuf", Reply::status(204)), // Loki
        ],
        |(encoding, reply)| {
            let receiver = HttpReceiver::start(move |_, _| reply.clone());
            let options = format!("otlp: {{ encoding: {encoding} }}");
            let installation = installation(&receiver.url(""), &options);
            installation.run(&[]).assert_code(0);
            assert_delivered_once(&installation, &receiver.accepted());
        },
    );
}

type ReplyTo = fn(&ReceivedRequest) -> Reply;

#[test]
fn checks_the_receiver_with_a_request_without_records() {
    for (encoding, _) in ENCODINGS {
        let receiver = HttpReceiver::start(|request, _| {
            assert!(log_records(request).is_empty());
            accepted(request)
        });
        let options = format!("compress: gzip\n    otlp: {{ encoding: {encoding} }}");
        let installation = installation(&receiver.url(""), &options);
        installation.run(&["check"]).assert_code(0);
        let requests = receiver.requests();
        assert_eq!((requests.len(), &*requests[0].target), (1, "/v1/logs"));
        assert!(!is_json(&requests[0]) || requests[0].body == r#"{"resourceLogs":[]}"#);
        assert_eq!(requests[0].headers["content-encoding"], "gzip");
    }
    let loki = |request: &ReceivedRequest| error(request, 422, "at least one valid stream is required");
    let missing = |request: &ReceivedRequest| error(request, 404, "page not found");
    let web_page = |_: &ReceivedRequest| Reply::web_page(200);
    let unauthorized = |request: &ReceivedRequest| error(request, 401, "no such token");
    let replies: [(ReplyTo, _); 4] = [
        (loki, None),
        (missing, Some("HTTP 404: page not found; check url: the path of an OTLP receiver ends in /v1/logs")),
        (web_page, Some("HTTP 200 with a web page")),
        (unauthorized, Some("HTTP 401: no such token; check the token in headers")),
    ];
    for (reply, problem) in replies {
        let receiver = HttpReceiver::start(move |request, _| reply(request));
        let run = installation(&receiver.url("/otlp"), "compress: none").run(&["check"]);
        match problem {
            None => {
                run.assert_code(0);
            }
            Some(problem) => {
                run.assert_code(1);
                assert!(run.stdout.contains(problem), "{run}");
            }
        }
        assert_eq!(receiver.requests()[0].target, "/otlp");
    }
}

#[test]
#[ignore = "needs Python and opentelemetry-proto: cargo test --test tests -- --ignored interop"]
fn interop_python_decodes_every_field_of_both_encodings() {
    let cases = ENCODINGS.map(|(encoding, _)| ["text", "map", "attributes"].map(|form| (encoding, form)));
    in_parallel(cases.into_iter().flatten(), |(encoding, record_as)| {
        let peer = Peer::start("python3", "otlp_server.py", &[]);
        let options = format!(
            "batchRecords: 50\n    compress: gzip\n    \
             otlp: {{ encoding: {encoding}, recordAs: {record_as}, serviceName: audit }}"
        );
        let installation = installation(&format!("http://127.0.0.1:{}", peer.port), &options);
        let deep = format!(
            r#"{{"Id":"{BAD}","CreationTime":"2026-11-22T10:15:00","Operation":"Deep","a":{}{}}}"#,
            "[".repeat(20),
            "]".repeat(20)
        );
        installation.contoso.add_blob(FEED, NewBlob::texts([deep]).created(hours_ago(1)));
        installation.contoso.add_blobs("Audit.Exchange", 4, 100, hours_ago(20)..hours_ago(2));
        installation.run(&["check"]).assert_code(0);
        installation.run(&[]).assert_code(0);
        let mut lines = lines_by_id(&installation);
        assert_eq!(lines.len(), 521);
        while !lines.is_empty() {
            for record in peer.events(1).iter().flat_map(log_records_of) {
                let line = lines.remove(record.id()).expect("a record that was sent once");
                assert_same(record, &line, record_as);
            }
        }
    });
}
