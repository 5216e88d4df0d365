//! Blobs that cannot be read as a whole: their readable records are delivered, and their bodies are kept in quarantine.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use flate2::{Compression, write::GzEncoder};
use simulator::{Answer, Blob, Fault, NewBlob, Operation, Requests, id_of, record};

use crate::support::{
    CONTOSO, Installation, Run,
    gelf::{GelfBehavior, GelfReceiver},
    hours_ago, mode,
    process::disk_steps,
};

const FEED: &str = "Audit.General";

/// Returns records of contoso with different Ids.
fn make_records(count: u64) -> Vec<String> {
    (0..count).map(|seed| record(FEED, CONTOSO, hours_ago(5), seed)).collect()
}

/// Returns an installation with one whole blob and one with this body, and the latter.
fn with_body(body: impl Into<Vec<u8>>) -> (Installation, Blob) {
    let installation = Installation::new().collect("retries: 1");
    installation.contoso.add_blob(FEED, NewBlob::records(3).created(hours_ago(4)));
    let blob = installation.contoso.add_blob(FEED, NewBlob::body(body).created(hours_ago(3)));
    (installation, blob)
}

/// Returns the files in quarantine with this extension, sorted by name.
fn quarantined(installation: &Installation, extension: &str) -> Vec<PathBuf> {
    let folder = fs::read_dir(installation.path("state/quarantine")).into_iter().flatten();
    let paths = folder.map(|entry| entry.expect("a readable folder").path());
    let mut paths: Vec<_> = paths.filter(|path| path.extension().is_some_and(|it| it == extension)).collect();
    paths.sort();
    paths
}

/// Returns the line of JSON about the only blob in quarantine.
fn quarantine_entry(installation: &Installation) -> serde_json::Value {
    let [path] = &quarantined(installation, "json")[..] else { panic!("one blob in quarantine") };
    let text = fs::read_to_string(path).expect("a file");
    assert_eq!(text.matches('\n').count(), 1, "{text}");
    serde_json::from_str(&text).expect("a line of JSON")
}

/// Returns the Ids of the delivered records without those of the whole blobs, and asserts that each was delivered once.
fn salvaged_ids(installation: &Installation) -> BTreeSet<String> {
    let whole = installation.contoso.ids(FEED);
    let ids = installation.delivered_ids();
    assert!(ids.values().all(|count| *count == 1), "{ids:?}");
    ids.into_keys().filter(|id| !whole.contains(id)).collect()
}

fn ids<'a>(records: impl IntoIterator<Item = &'a String>) -> BTreeSet<String> {
    records.into_iter().map(|record| id_of(record).expect("a record with an Id")).collect()
}

/// Runs two passes that fail for the blob, and a third one that salvages it. Returns the third.
#[track_caller]
fn run_until_salvaged(installation: &Installation, blob: &Blob) -> Run {
    for _ in 0..2 {
        let run = installation.run(&[]);
        run.assert_code(1)
            .assert_line_with(&["[ERROR] Blob download failed for contoso audit.general", blob.content_id()]);
        assert!(!installation.path("state/quarantine").exists(), "{run}");
    }
    let run = installation.run(&[]);
    run.assert_code(0)
        .assert_line_with(&["[ERROR] Blob salvaged for contoso audit.general", blob.content_id()]);
    assert_eq!(run.stderr.matches("[ERROR]").count(), 1, "{run}");
    run.assert_line_with(&["Blobs found: 1 | Blobs successful: 1", "Blobs salvaged: 1"]);
    run
}

/// Asserts that the blob is known, and that one more pass changes nothing.
#[track_caller]
fn assert_complete(installation: &Installation, blob: &Blob) {
    assert!(installation.known_blobs().iter().any(|line| line.starts_with(blob.content_id())));
    let output = installation.output();
    installation.run(&[]).assert_code(0).assert_line("[WARN] No new blobs found");
    assert_eq!(installation.output(), output);
}

#[test]
fn delivers_the_readable_records_of_a_damaged_blob_and_keeps_its_body() {
    let all = make_records(4);
    let [a, b, c, d] = &all[..] else { unreachable!("four records") };
    let mut not_utf8 = format!("[{a},{b},{c}]").into_bytes();
    not_utf8[a.len() + 30] = 0xff;
    let truncated = format!("[{a},{b},{c},{}", d.split_at(300).0);
    for (body, expected, not_objects, broken) in [
        (format!("[{a},null,{b},\"text\",{c},7]").into_bytes(), vec![a, b, c], 3, 0),
        (not_utf8, vec![a, c], 0, 1),
        (truncated.into_bytes(), vec![a, b, c], 0, 1),
        (format!("[{a},{{\"Subject\":\"5\" disk\"}},{b}]").into_bytes(), vec![a, b], 0, 1),
        (b"neither JSON nor anything else".to_vec(), vec![], 0, 0),
    ] {
        let (installation, blob) = with_body(body.clone());
        run_until_salvaged(&installation, &blob);
        assert_eq!(salvaged_ids(&installation), ids(expected.clone()));
        let line = quarantine_entry(&installation);
        assert_eq!(line["tenantId"], CONTOSO);
        assert_eq!(line["contentType"], FEED);
        assert_eq!(line["contentId"], blob.content_id());
        assert_eq!(line["recordsDelivered"], expected.len());
        assert_eq!(line["elementsNotObjects"], not_objects);
        assert_eq!(line["placesBroken"], broken);
        assert!(
            line["cause"]
                .as_str()
                .is_some_and(|cause| cause.contains("not one whole JSON array") || cause.contains("object")),
            "{line}"
        );
        let [kept] = &quarantined(&installation, "body")[..] else { panic!("one body is kept") };
        assert_eq!(fs::read(kept).expect("a body"), body);
        assert_eq!((mode(kept), mode(kept.parent().expect("a folder"))), (0o600, 0o700));
        assert_complete(&installation, &blob);
    }
}

#[test]
fn salvages_a_blob_whose_transfer_always_breaks_off() {
    for fault in [Fault::cut_body(), Fault::cut_gzip(), Fault::unfinished_chunks()] {
        let name = fault.name().to_owned();
        let installation = Installation::new().collect("retries: 0");
        let blob = installation.contoso.add_blob(FEED, NewBlob::records(400).created(hours_ago(3)));
        installation.simulator.fault(Requests::to(Operation::FetchBlob).always(), fault);
        run_until_salvaged(&installation, &blob);
        let delivered = installation.delivered_ids();
        assert!(
            delivered.len() >= 50 && delivered.values().all(|count| *count == 1),
            "{name}: {}",
            delivered.len()
        );
        assert!(delivered.keys().eq(ids(&blob.records()[..delivered.len()]).iter()), "{name}");
        let [kept] = &quarantined(&installation, "body")[..] else { panic!("one body is kept") };
        assert!(blob.body().starts_with(&fs::read(kept).expect("a body")), "{name}");
        assert_complete(&installation, &blob);
    }
}

/// Returns the body to send for a response of the simulator.
type MakeBody = fn(Answer) -> Vec<u8>;

#[test]
fn salvages_a_blob_with_broken_compression_and_keeps_the_encoded_body() {
    // Half of the records, then a block of a type that does not exist. The flush makes it start at a byte boundary.
    let corrupt = |answer: Answer| {
        let body = answer.plain_body();
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&body[..body.len() / 2]).and_then(|()| encoder.flush()).expect("memory");
        [encoder.get_ref(), &[0xff; 1_000][..]].concat()
    };
    let with_wrong_checksum = |answer: Answer| {
        let mut body = answer.compressed().body;
        let place = body.len() - 8;
        body[place] ^= 1;
        body
    };
    let not_gzip = |_: Answer| b"nothing of gzip".to_vec();
    let not_gzip_cause = "not the gzip data that its header declares";
    let cases: [(_, MakeBody, _, _); 4] = [
        ("gzip", corrupt, 190..210, not_gzip_cause),
        ("GZIP", with_wrong_checksum, 400..401, not_gzip_cause),
        ("gzip", not_gzip, 0..1, not_gzip_cause),
        ("br", not_gzip, 0..1, "compressed with a method that was not requested"),
    ];
    for (coding, make_body, expected, cause) in cases {
        let installation = Installation::new().collect("retries: 0");
        let blob = installation.contoso.add_blob(FEED, NewBlob::records(400).created(hours_ago(3)));
        let sent = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&sent);
        let fault = Fault::alter("broken compression", move |_, answer| {
            let body = make_body(answer.clone());
            seen.lock().expect("no thread panics with the lock").clone_from(&body);
            answer.with_compressed_body(body).with_header("Content-Encoding", coding)
        });
        installation.simulator.fault(Requests::to(Operation::FetchBlob).always(), fault);
        run_until_salvaged(&installation, &blob).assert_line_with(&["[ERROR] Blob salvaged", cause]);
        let delivered = installation.delivered_ids();
        assert!(expected.contains(&delivered.len()), "{coding}: {} of {expected:?}", delivered.len());
        assert!(delivered.values().all(|count| *count == 1));
        assert!(delivered.keys().eq(ids(&blob.records()[..delivered.len()]).iter()), "{coding}");
        let [kept] = &quarantined(&installation, "encoded")[..] else {
            panic!("{coding}: one encoded body is kept")
        };
        let sent = sent.lock().expect("no thread panics with the lock").clone();
        assert_eq!(fs::read(kept).expect("a body"), sent);
        assert_eq!(mode(kept), 0o600);
        assert_eq!(quarantine_entry(&installation)["bytesEncoded"], sent.len());
        let [kept] = &quarantined(&installation, "body")[..] else { panic!("{coding}: one body is kept") };
        assert!(blob.body().starts_with(&fs::read(kept).expect("a body")), "{coding}");
        assert_complete(&installation, &blob);
    }
}

#[test]
fn salvages_a_blob_in_its_last_day_at_once() {
    let all = make_records(2);
    let body = format!("[{},null,{}]", all[0], all[1]);
    let installation = Installation::new();
    let new = NewBlob::body(body).created(hours_ago(3)).expiring(hours_ago(-20));
    let blob = installation.contoso.add_blob(FEED, new);
    let run = installation.run(&[]);
    run.assert_code(0).assert_line_with(&["[ERROR] Blob salvaged", blob.content_id()]);
    assert_eq!(salvaged_ids(&installation), ids(&all));
    assert_complete(&installation, &blob);
}

#[test]
fn does_not_salvage_a_blob_that_becomes_readable() {
    let installation = Installation::new().collect("retries: 0");
    let contoso = &installation.contoso;
    let blob = contoso.add_blob(FEED, NewBlob::records(3).created(hours_ago(3)));
    for fault in [Fault::malformed_json(), Fault::status(503), Fault::malformed_json(), Fault::html(500)] {
        installation.simulator.fault(Requests::to(Operation::FetchBlob).times(1), fault);
        installation
            .run(&[])
            .assert_code(1)
            .assert_line_with(&["[ERROR] Blob download failed", blob.content_id()]);
    }
    installation.run(&[]).assert_code(0);
    installation.assert_delivered_once([(contoso, FEED)]);
    assert!(!installation.path("state/quarantine").exists());
}

#[test]
fn does_not_salvage_an_empty_body() {
    let installation = Installation::new().collect("retries: 0");
    let contoso = &installation.contoso;
    contoso.add_blob(FEED, NewBlob::records(3).created(hours_ago(3)));
    installation.simulator.fault(Requests::to(Operation::FetchBlob).times(4), Fault::empty_body());
    for _ in 0..4 {
        installation.run(&[]).assert_code(1);
    }
    installation.run(&[]).assert_code(0);
    installation.assert_delivered_once([(contoso, FEED)]);
}

#[test]
fn status_and_metrics_count_the_blobs_in_quarantine() {
    let all = make_records(1);
    let (installation, blob) = with_body(format!("[{},null]", all[0]));
    let metrics = installation.path("metrics.prom");
    let installation = installation.setting(&format!("metrics: {{ path: {} }}", metrics.display()));
    run_until_salvaged(&installation, &blob);
    let metrics = fs::read_to_string(metrics).expect("metrics");
    let of_feed = format!("{{tenant=\"contoso\",content_type=\"{FEED}\"}}");
    for line in [
        format!("office365_collector_blobs_salvaged{of_feed} 1"),
        "office365_collector_quarantine_blobs 1".to_owned(),
    ] {
        assert!(metrics.lines().any(|written| written == line), "no line {line:?} in {metrics}");
    }
    let run = installation.run(&["status"]);
    assert!(run.stdout.contains("Blobs in quarantine: 1\n"), "{run}");
    let run = installation.run(&["status", "--json"]);
    let status: serde_json::Value = serde_json::from_str(&run.stdout).expect("JSON");
    let feeds = status.as_array().expect("an array").iter();
    let quarantined: Vec<_> =
        feeds.flat_map(|feed| feed["quarantined"].as_array().expect("an array")).collect();
    assert_eq!(quarantined.len(), 1, "{run}");
    assert_eq!(quarantined[0]["content_id"], blob.content_id());
    assert!(Path::new(quarantined[0]["body"].as_str().expect("a path")).exists());
}

#[test]
fn a_pass_to_standard_output_salvages_nothing() {
    let all = make_records(1);
    let (installation, blob) = with_body(format!("[{},null]", all[0]));
    installation.contoso.subscribe(FEED);
    for _ in 0..3 {
        let run = installation.run(&["--stdout"]);
        run.assert_code(1).assert_line_with(&["[ERROR] Blob download failed", blob.content_id()]);
        assert!(!run.stdout.contains(&id_of(&all[0]).expect("an Id")));
    }
    assert!(!installation.path("state/quarantine").exists());
}

#[test]
fn a_failed_output_gets_salvaged_records_later_and_the_others_no_duplicates() {
    let all = make_records(3);
    let installation = Installation::new().collect("retries: 0");
    let body = format!("[{},null,{},{}]", all[0], all[1], all[2]);
    let new = NewBlob::body(body).created(hours_ago(3)).expiring(hours_ago(-20));
    let blob = installation.contoso.add_blob(FEED, new);
    let receiver = GelfReceiver::start();
    receiver.set_behaviors(&[GelfBehavior::CloseAfter(0); 1_000]);
    let lines = format!("  graylog: {{ address: 127.0.0.1, port: {}, retryTimeout: 1s }}", receiver.port());
    let installation = installation.with_output(&lines);
    installation.run(&[]).assert_code(1);
    assert_eq!(salvaged_ids(&installation), ids(&all));
    assert_eq!(quarantined(&installation, "body").len(), 1);
    assert!(!installation.known_blobs().iter().any(|line| line.starts_with(blob.content_id())));
    receiver.set_behaviors(&[]);
    let run = installation.run(&[]);
    run.assert_code(0).assert_line_with(&["[ERROR] Blob salvaged", blob.content_id()]);
    assert_eq!(salvaged_ids(&installation), ids(&all));
    assert_eq!(quarantined(&installation, "json").len(), 1);
    assert!(receiver.ids().values().all(|count| *count == 1));
    assert!(ids(&all).iter().all(|id| receiver.ids().contains_key(id)));
}

#[test]
fn a_kill_during_a_salvage_loses_and_duplicates_nothing() {
    for step in disk_steps() {
        let all = make_records(2);
        let body = format!("[{},null,{}]", all[0], all[1]);
        let installation = Installation::new().collect("retries: 0").collect("maxThreads: 4");
        let new = NewBlob::body(&*body).created(hours_ago(3)).expiring(hours_ago(-20));
        let blob = installation.contoso.add_blob(FEED, new);
        let fault = format!("{step}:kill-before");
        let (is_reached, run) = installation.run_with_fault(&fault);
        if !is_reached {
            run.assert_code(0);
            break;
        }
        if installation.known_blobs().iter().any(|line| line.starts_with(blob.content_id())) {
            assert_eq!(
                quarantined(&installation, "json").len(),
                1,
                "{fault}: the blob is known, but not in quarantine"
            );
        }
        installation.run(&[]).assert_code(0);
        assert_eq!(salvaged_ids(&installation), ids(&all), "{fault}");
        let [kept] = &quarantined(&installation, "body")[..] else { panic!("{fault}: one body is kept") };
        assert_eq!(fs::read_to_string(kept).expect("a body"), body, "{fault}");
        assert_eq!(quarantined(&installation, "json").len(), 1, "{fault}");
        assert!(quarantined(&installation, "new").is_empty(), "{fault}: an incomplete file is left");
        assert_complete(&installation, &blob);
    }
}
