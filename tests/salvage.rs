//! Blobs that cannot be read as a whole: what can be delivered of them is delivered, and their bodies are kept.

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

/// Records with different Ids.
fn records(count: u64) -> Vec<String> {
    (0..count).map(|seed| record(FEED, CONTOSO, hours_ago(5), seed)).collect()
}

/// Contoso with one blob that is whole, and one with this body.
fn with_body(body: impl Into<Vec<u8>>) -> (Installation, Blob) {
    let installation = Installation::new().collect("retries: 1");
    installation.contoso.add_blob(FEED, NewBlob::records(3).created(hours_ago(4)));
    let blob = installation.contoso.add_blob(FEED, NewBlob::body(body).created(hours_ago(3)));
    (installation, blob)
}

/// The files in quarantine with this extension, by name.
fn quarantined(installation: &Installation, extension: &str) -> Vec<PathBuf> {
    let folder = fs::read_dir(installation.path("state/quarantine")).into_iter().flatten();
    let paths = folder.map(|entry| entry.expect("a readable folder").path());
    let mut paths: Vec<_> = paths.filter(|path| path.extension().is_some_and(|it| it == extension)).collect();
    paths.sort();
    paths
}

/// The line of JSON of the only blob in quarantine.
fn line(installation: &Installation) -> serde_json::Value {
    let [path] = &quarantined(installation, "json")[..] else { panic!("one blob in quarantine") };
    let text = fs::read_to_string(path).expect("a file");
    assert_eq!(text.matches('\n').count(), 1, "{text}");
    serde_json::from_str(&text).expect("a line of JSON")
}

/// The Ids that were delivered, each of them once, without those of the blob that is whole.
fn delivered(installation: &Installation) -> BTreeSet<String> {
    let whole = installation.contoso.ids(FEED);
    let ids = installation.delivered_ids();
    assert!(ids.values().all(|count| *count == 1), "{ids:?}");
    ids.into_keys().filter(|id| !whole.contains(id)).collect()
}

fn ids<'a>(records: impl IntoIterator<Item = &'a String>) -> BTreeSet<String> {
    records.into_iter().map(|record| id_of(record).expect("a record with an Id")).collect()
}

/// Two passes that fail for the blob and deliver nothing of it, and a third one that salvages it.
#[track_caller]
fn salvage(installation: &Installation, blob: &Blob) -> Run {
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

/// That the blob is done, and one more pass changes nothing.
#[track_caller]
fn assert_done(installation: &Installation, blob: &Blob) {
    assert!(installation.known_blobs().iter().any(|line| line.starts_with(blob.content_id())));
    let output = installation.output();
    installation.run(&[]).assert_code(0).assert_line("[WARN] No new blobs found");
    assert_eq!(installation.output(), output);
}

#[test]
fn the_records_of_a_blob_that_cannot_be_read_as_a_whole_are_delivered_and_its_body_is_kept() {
    let all = records(4);
    let [a, b, c, d] = &all[..] else { unreachable!() };
    let mut not_utf8 = format!("[{a},{b},{c}]").into_bytes();
    not_utf8[a.len() + 30] = 0xff;
    let in_its_middle = format!("[{a},{b},{c},{}", d.split_at(300).0);
    for (body, expected, not_objects, broken) in [
        (format!("[{a},null,{b},\"text\",{c},7]").into_bytes(), vec![a, b, c], 3, 0),
        (not_utf8, vec![a, c], 0, 1),
        (in_its_middle.into_bytes(), vec![a, b, c], 0, 1),
        (format!("[{a},{{\"Subject\":\"5\" disk\"}},{b}]").into_bytes(), vec![a, b], 0, 1),
        (b"neither JSON nor anything else".to_vec(), vec![], 0, 0),
    ] {
        let (installation, blob) = with_body(body.clone());
        salvage(&installation, &blob);
        assert_eq!(delivered(&installation), ids(expected.clone()));
        let line = line(&installation);
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
        assert_done(&installation, &blob);
    }
}

#[test]
fn a_blob_whose_transfer_breaks_off_every_time_is_salvaged() {
    for fault in [Fault::cut_body(), Fault::cut_gzip(), Fault::unfinished_chunks()] {
        let name = fault.name().to_owned();
        let installation = Installation::new().collect("retries: 0");
        let blob = installation.contoso.add_blob(FEED, NewBlob::records(400).created(hours_ago(3)));
        installation.simulator.fault(Requests::to(Operation::FetchBlob).always(), fault);
        salvage(&installation, &blob);
        let delivered = installation.delivered_ids();
        assert!(
            delivered.len() >= 50 && delivered.values().all(|count| *count == 1),
            "{name}: {}",
            delivered.len()
        );
        assert!(delivered.keys().eq(ids(&blob.records()[..delivered.len()]).iter()), "{name}");
        let [kept] = &quarantined(&installation, "body")[..] else { panic!("one body is kept") };
        assert!(blob.body().starts_with(&fs::read(kept).expect("a body")), "{name}");
        assert_done(&installation, &blob);
    }
}

/// Makes the body that is sent instead of an answer's own.
type BodyOf = fn(Answer) -> Vec<u8>;

#[test]
fn a_blob_whose_compression_is_broken_is_salvaged_and_kept_as_it_arrived() {
    // Half of the records, then a block of a kind that does not exist; flushing makes it begin at a byte.
    let damaged = |answer: Answer| {
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
    let nothing_of_gzip = |_: Answer| b"nothing of gzip".to_vec();
    let no_gzip = "not the gzip data that its header declares";
    let body_of: [(_, BodyOf, _, _); 4] = [
        ("gzip", damaged, 190..210, no_gzip),
        ("GZIP", with_wrong_checksum, 400..401, no_gzip),
        ("gzip", nothing_of_gzip, 0..1, no_gzip),
        ("br", nothing_of_gzip, 0..1, "compressed with a method that was not requested"),
    ];
    for (coding, body_of, expected, cause) in body_of {
        let installation = Installation::new().collect("retries: 0");
        let blob = installation.contoso.add_blob(FEED, NewBlob::records(400).created(hours_ago(3)));
        let sent = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&sent);
        let fault = Fault::alter("broken compression", move |_, answer| {
            let body = body_of(answer.clone());
            seen.lock().expect("a lock of the test").clone_from(&body);
            answer.with_compressed_body(body).with_header("Content-Encoding", coding)
        });
        installation.simulator.fault(Requests::to(Operation::FetchBlob).always(), fault);
        salvage(&installation, &blob).assert_line_with(&["[ERROR] Blob salvaged", cause]);
        let delivered = installation.delivered_ids();
        assert!(expected.contains(&delivered.len()), "{coding}: {} of {expected:?}", delivered.len());
        assert!(delivered.values().all(|count| *count == 1));
        assert!(delivered.keys().eq(ids(&blob.records()[..delivered.len()]).iter()), "{coding}");
        let [kept] = &quarantined(&installation, "encoded")[..] else { panic!("{coding}: it is kept") };
        let sent = sent.lock().expect("a lock of the test").clone();
        assert_eq!(fs::read(kept).expect("a body"), sent);
        assert_eq!(mode(kept), 0o600);
        assert_eq!(line(&installation)["bytesEncoded"], sent.len());
        let [kept] = &quarantined(&installation, "body")[..] else { panic!("{coding}: one body is kept") };
        assert!(blob.body().starts_with(&fs::read(kept).expect("a body")), "{coding}");
        assert_done(&installation, &blob);
    }
}

#[test]
fn a_blob_in_its_last_day_is_salvaged_by_the_first_pass() {
    let all = records(2);
    let body = format!("[{},null,{}]", all[0], all[1]);
    let installation = Installation::new();
    let new = NewBlob::body(body).created(hours_ago(3)).expiring(hours_ago(-20));
    let blob = installation.contoso.add_blob(FEED, new);
    let run = installation.run(&[]);
    run.assert_code(0).assert_line_with(&["[ERROR] Blob salvaged", blob.content_id()]);
    assert_eq!(delivered(&installation), ids(&all));
    assert_done(&installation, &blob);
}

#[test]
fn a_blob_that_can_be_read_again_is_not_salvaged() {
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
fn an_empty_body_is_waited_for() {
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
fn status_and_metrics_tell_of_the_blobs_in_quarantine() {
    let all = records(1);
    let (installation, blob) = with_body(format!("[{},null]", all[0]));
    let metrics = installation.path("metrics.prom");
    let installation = installation.setting(&format!("metrics: {{ path: {} }}", metrics.display()));
    salvage(&installation, &blob);
    let metrics = fs::read_to_string(metrics).expect("metrics");
    let of_feed = format!("{{tenant=\"contoso\",content_type=\"{FEED}\"}}");
    for line in [
        format!("office365_collector_blobs_salvaged{of_feed} 1"),
        "office365_collector_quarantine_blobs 1".to_owned(),
    ] {
        assert!(metrics.lines().any(|written| written == line), "no {line} in {metrics}");
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
fn what_changes_no_state_salvages_nothing() {
    let all = records(1);
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
fn an_output_that_fails_gets_the_records_later_and_no_other_gets_them_twice() {
    let all = records(3);
    let installation = Installation::new().collect("retries: 0");
    let body = format!("[{},null,{},{}]", all[0], all[1], all[2]);
    let new = NewBlob::body(body).created(hours_ago(3)).expiring(hours_ago(-20));
    let blob = installation.contoso.add_blob(FEED, new);
    let receiver = GelfReceiver::start();
    receiver.set_behaviors(&[GelfBehavior::CloseAfter(0); 1_000]);
    let lines = format!("  graylog: {{ address: 127.0.0.1, port: {}, retryTimeout: 1s }}", receiver.port());
    let installation = installation.with_output(&lines);
    installation.run(&[]).assert_code(1);
    assert_eq!(delivered(&installation), ids(&all));
    assert_eq!(quarantined(&installation, "body").len(), 1);
    assert!(!installation.known_blobs().iter().any(|line| line.starts_with(blob.content_id())));
    receiver.set_behaviors(&[]);
    let run = installation.run(&[]);
    run.assert_code(0).assert_line_with(&["[ERROR] Blob salvaged", blob.content_id()]);
    assert_eq!(delivered(&installation), ids(&all));
    assert_eq!(quarantined(&installation, "json").len(), 1);
    assert!(receiver.ids().values().all(|count| *count == 1));
    assert!(ids(&all).iter().all(|id| receiver.ids().contains_key(id)));
}

#[test]
fn a_pass_that_is_killed_while_it_salvages_loses_nothing_and_doubles_nothing() {
    for step in disk_steps() {
        let all = records(2);
        let body = format!("[{},null,{}]", all[0], all[1]);
        let installation = Installation::new().collect("retries: 0");
        let new = NewBlob::body(&*body).created(hours_ago(3)).expiring(hours_ago(-20));
        let blob = installation.contoso.add_blob(FEED, new);
        let fault = format!("{step}:kill-before");
        let (is_struck, run) = installation.run_with_fault(&fault);
        if !is_struck {
            run.assert_code(0);
            break;
        }
        if installation.known_blobs().iter().any(|line| line.starts_with(blob.content_id())) {
            assert_eq!(quarantined(&installation, "json").len(), 1, "{fault}: known without being kept");
        }
        installation.run(&[]).assert_code(0);
        assert_eq!(delivered(&installation), ids(&all), "{fault}");
        let [kept] = &quarantined(&installation, "body")[..] else { panic!("{fault}: one body is kept") };
        assert_eq!(fs::read_to_string(kept).expect("a body"), body, "{fault}");
        assert_eq!(quarantined(&installation, "json").len(), 1, "{fault}");
        assert!(quarantined(&installation, "new").is_empty(), "{fault}: a torn file is left");
        assert_done(&installation, &blob);
    }
}
