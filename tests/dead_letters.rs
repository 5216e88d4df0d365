//! Dead letters: records that an HTTP receiver rejects in every form.

use std::fs;

use serde_json::Value;
use simulator::{NewBlob, id_of, record};

use crate::support::{
    CONTOSO, Installation, hours_ago,
    http::{HttpReceiver, Reply},
    mode,
    process::disk_steps,
};

const FEED: &str = "Audit.General";
/// The Id of the record that the receiver rejects.
const REJECTED: &str = "0000aaaa-0000-4000-8000-000000000001";

/// Starts a receiver that rejects batches with a record that contains `unwanted`.
fn receiver() -> HttpReceiver {
    HttpReceiver::start(|request, _| {
        if request.body.contains("unwanted") {
            return Reply::json(400, r#"{"message":"no such field"}"#);
        }
        Reply::status(200)
    })
}

/// Contoso with 120 records and one that the receiver rejects, and further keys of the HTTP output.
fn installation(lines: &str) -> (Installation, HttpReceiver) {
    let receiver = receiver();
    let url = receiver.url("/in");
    let installation = Installation::new().with_output(&format!("  http:\n    url: {url}\n    {lines}"));
    installation.contoso.add_blobs(FEED, 6, 20, hours_ago(20)..hours_ago(2));
    let record = format!(r#"{{"Id":"{REJECTED}","x":"unwanted"}}"#);
    installation.contoso.add_blob(FEED, NewBlob::texts([record]).created(hours_ago(1)));
    (installation, receiver)
}

/// The dead letters of the HTTP output.
fn dead_letters(installation: &Installation) -> Vec<Value> {
    let path = installation.path("state/dead-letters/http.json");
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn writes_rejected_record_with_reason_and_completes_its_blob() {
    let (installation, receiver) = installation("compress: gzip");
    let metrics = installation.path("office365.prom");
    let installation = installation.setting(&format!("metrics: {{ path: '{}' }}", metrics.display()));
    let run = installation.run(&[]);
    run.assert_code(0).assert_line_with(&[
        &format!("[WARN] Output http: the receiver rejects 1 record ({REJECTED} of contoso audit.general), kept in "),
        "/state/dead-letters/http.json: 127.0.0.1:",
        "HTTP 400: no such field",
    ]);
    let dead_letters = dead_letters(&installation);
    let [letter] = dead_letters.as_slice() else { panic!("{dead_letters:?}") };
    assert_eq!(letter["recordId"], REJECTED);
    assert_eq!(letter["tenantName"], "contoso");
    assert_eq!(letter["contentType"], FEED);
    assert_eq!(letter["reason"], "HTTP 400: no such field");
    assert!(letter["contentId"].as_str().is_some_and(|id| !id.is_empty()));
    let (output, record) = (installation.output(), &letter["record"]);
    let lines: Vec<Value> =
        output.values().flatten().map(|line| serde_json::from_str(line).unwrap_or_default()).collect();
    assert!(lines.contains(record), "{record}");
    assert_eq!(mode(&installation.path("state/dead-letters/http.json")), 0o600);

    let metrics = fs::read_to_string(metrics).expect("a file");
    let gauge =
        format!("office365_collector_records_dead_letter{{tenant=\"contoso\",content_type=\"{FEED}\"}} 1");
    assert!(metrics.contains(&gauge), "{metrics}");
    let status = installation.run(&["status"]);
    assert!(status.stdout.contains("Dead letters of output http: 1 record in "), "{status}");
    let feeds: Value = serde_json::from_str(&installation.run(&["status", "--json"]).stdout).expect("JSON");
    let feed = feeds.as_array().expect("feeds").iter().find(|feed| feed["content_type"] == FEED);
    assert_eq!(feed.expect("the feed")["dead_letters"], 1);

    let requests = receiver.requests().len();
    installation.run(&[]).assert_code(0).assert_line("[WARN] No new blobs found");
    assert_eq!(receiver.requests().len(), requests);
    assert_eq!(self::dead_letters(&installation).len(), 1);
    assert_eq!(installation.known_blobs().len(), 7);
    installation.assert_delivered_once([(&installation.contoso, FEED)]);
}

#[test]
fn resends_rejected_record_in_each_pass_without_dead_letters() {
    let (installation, _) = installation("deadLetters: false");
    for _ in 0..2 {
        installation.run(&[]).assert_code(1).assert_line_with(&[
            &format!("[ERROR] Output http failed for 1 record ({REJECTED} of contoso audit.general): "),
            "; the next pass sends it again",
        ]);
        assert_eq!(installation.known_blobs().len(), 6);
    }
    assert!(!installation.path("state/dead-letters").exists());
}

#[test]
fn writes_no_dead_letter_when_receiver_accepts_nothing() {
    let receiver = HttpReceiver::start(|_, _| Reply::status(400));
    let url = receiver.url("/in");
    let installation = Installation::new().with_output(&format!("  http: {{ url: '{url}' }}"));
    installation.contoso.add_blob(FEED, NewBlob::records(3).created(hours_ago(1)));
    installation.run(&[]).assert_code(1).assert_line_with(&["[ERROR] Output http failed for 3 records"]);
    installation.contoso.add_blobs(FEED, 2, 20, hours_ago(20)..hours_ago(2));
    installation
        .run(&[])
        .assert_code(1)
        .assert_line_with(&["[ERROR] Output http failed: ", "records were rejected"]);
    assert!(dead_letters(&installation).is_empty());
    assert!(installation.known_blobs().is_empty());
}

#[test]
fn fails_when_receiver_rejects_more_than_100_records() {
    let receiver = receiver();
    let url = receiver.url("/in");
    let installation =
        Installation::new().with_output(&format!("  http: {{ url: '{url}', connections: 1 }}"));
    let mut texts: Vec<_> = (0..150)
        .map(|number| format!(r#"{{"Id":"0000aaaa-0000-4000-8000-{number:012}","x":"unwanted"}}"#))
        .collect();
    texts.insert(0, r#"{"Id":"0000bbbb-0000-4000-8000-000000000000","x":"good"}"#.to_owned());
    installation.contoso.add_blob(FEED, NewBlob::texts(texts).created(hours_ago(1)));
    installation.run(&[]).assert_code(1).assert_line_with(&[
        "[ERROR] Output http failed: ",
        "101 records were rejected",
        "with this many, the cause is the receiver",
    ]);
    assert!(dead_letters(&installation).is_empty());
    assert!(installation.known_blobs().is_empty());
}

#[test]
fn keeps_dead_letter_once_after_kill_at_each_disk_operation() {
    let mut kills_before_commit = 0;
    for step in disk_steps() {
        let receiver = receiver();
        let installation = Installation::new()
            .setting("subscriptions: [ Audit.General ]")
            .collect("maxThreads: 4")
            .with_output(&format!("  http: {{ url: '{}' }}", receiver.url("/in")));
        installation.contoso.subscribe(FEED);
        let rejected = format!(r#"{{"Id":"{REJECTED}","x":"unwanted"}}"#);
        let without_id = r#"{"x":"unwanted"}"#.to_owned();
        let accepted = record(FEED, CONTOSO, hours_ago(3), 1);
        let accepted_id = id_of(&accepted).expect("an Id");
        let texts = [rejected, accepted, without_id.clone(), without_id];
        installation.contoso.add_blob(FEED, NewBlob::texts(texts).created(hours_ago(1)));

        let (_, run) = installation.run_with_fault(&format!("{step}:kill-before"));
        assert_eq!(run.code, None, "the pass has ended before disk operation {step}: {run}");
        let is_committed = !installation.known_blobs().is_empty();
        kills_before_commit += usize::from(!dead_letters(&installation).is_empty() && !is_committed);

        // A pass writes dead letters only if the receiver accepts something.
        installation.contoso.add_blob(FEED, NewBlob::records(1).created(hours_ago(2)));
        installation.run(&[]).assert_code(0);
        let dead_letters = dead_letters(&installation);
        let mut ids: Vec<_> = dead_letters.iter().map(|letter| letter["recordId"].as_str()).collect();
        ids.sort_unstable();
        assert_eq!(ids, [None, None, Some(REJECTED)], "killed before disk operation {step}");
        let requests = receiver.accepted();
        let deliveries = requests.iter().filter(|request| request.body.contains(&accepted_id)).count();
        assert!(
            (1..=2).contains(&deliveries),
            "killed before disk operation {step}: delivered {deliveries} times"
        );
        installation.assert_lines_delivered_once([(&installation.contoso, FEED)]);
        if is_committed {
            installation.run(&[]).assert_code(0).assert_line("[WARN] No new blobs found");
            break;
        }
    }
    assert!(kills_before_commit > 0, "no kill between a dead letter and the commit of its blob");
}
