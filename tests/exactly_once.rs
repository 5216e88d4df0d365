//! No record is lost or delivered twice, with repeated records, several outputs, downtimes, signals, kills and rotation.

use std::{
    fs,
    process::{Child, Stdio},
    thread,
    time::Duration,
};

use jiff::{Timestamp, ToSpan};
use rustix::process::Signal;
use simulator::{Fault, NewBlob, Operation, Requests, record, reordered};

use crate::support::{
    CONTOSO, Installation, Run, hours_ago,
    process::{WAIT_MAX, disk_steps, in_parallel, kill, signal},
    whole_lines,
};

const FEED: &str = "Audit.General";

/// Returns records of contoso with different Ids.
fn make_records(count: u64) -> Vec<String> {
    (0..count).map(|seed| record(FEED, CONTOSO, hours_ago(5), seed)).collect()
}

fn add_blob(installation: &Installation, records: &[String]) -> simulator::Blob {
    installation.contoso.add_blob(FEED, NewBlob::texts(records).created(hours_ago(2)))
}

#[test]
fn delivers_repeated_records_once() {
    let installation = Installation::new();
    let records = make_records(6);
    add_blob(&installation, &[&records[..3], &records[..2]].concat());
    add_blob(&installation, &[records[1].clone(), reordered(&records[2]), records[3].clone()]);
    installation.run(&[]).assert_code(0).assert_line_with(&["Blobs successful: 2 |", "Logs saved: 4"]);
    add_blob(&installation, &[reordered(&records[0]), records[4].clone(), records[5].clone()]);
    let run = installation.run(&["-v"]);
    run.assert_code(0).assert_line_with(&["Blobs successful: 1 |", "Logs saved: 2"]).assert_line(
        "[DEBUG] Records of contoso Audit.General: 2 saved, 1 repeated and dropped, 0 filtered out",
    );
    assert_eq!(installation.delivered_ids().len(), 6);
    installation.assert_delivered_once([(&installation.contoso, FEED)]);
}

#[test]
fn delivers_every_record_without_an_id() {
    let installation = Installation::new();
    let without_id = [
        r#"{"Operation":"x"}"#,
        r#"{"Operation":"x"}"#,
        r#"{"Id":"","Operation":"x"}"#,
        r#"{"Id":"00000000-0000-0000-0000-000000000000"}"#,
        r#"{"Id":null}"#,
    ];
    for _ in 0..2 {
        installation.contoso.add_blob(FEED, NewBlob::texts(without_id).created(hours_ago(2)));
        installation.run(&[]).assert_code(0);
    }
    installation.assert_lines_delivered_once([(&installation.contoso, FEED)]);
}

#[test]
fn delivers_repeated_records_again_if_dedup_hours_is_zero() {
    let installation = Installation::new().collect("dedupHours: 0");
    let records = make_records(2);
    add_blob(&installation, &records);
    add_blob(&installation, &records);
    installation.run(&[]).assert_code(0).assert_line_with(&["Logs saved: 4"]);
    assert!(!installation.path("state/record_ids").exists());
}

/// Returns the path of a configuration with standard output as a second output.
fn config_with_stdout(installation: &Installation) -> String {
    let path = installation.path("two-outputs.yaml");
    fs::write(&path, installation.config() + "  stdout:\n    enabled: true\n").expect("a file");
    path.to_str().expect("text").to_owned()
}

#[test]
fn a_failed_output_gets_its_records_later_and_the_other_one_no_duplicates() {
    let installation = Installation::new();
    let config = config_with_stdout(&installation);
    let records = make_records(5);
    add_blob(&installation, &records[..3]);

    let mut closed = installation.command(&["-c", &config]);
    let mut child = closed.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a program");
    drop(child.stdout.take());
    let run = Run::finish(child);
    run.assert_code(1)
        .assert_line_with(&["[WARN] Output stdout ended", "closed by its reader"])
        .assert_line_with(&["Blobs found: 1 | Blobs successful: 0 | Blobs failed: 1 |", "Logs saved: 3"]);
    installation.assert_delivered_once([(&installation.contoso, FEED)]);
    assert_eq!(installation.known_blobs(), [""; 0], "a blob is known when every output has it");
    let files = installation.output();

    // Another blob repeats a record that standard output does not have yet.
    add_blob(&installation, &[records[0].clone(), records[3].clone(), records[4].clone()]);
    let run = installation.run_bare(&["-c", &config]);
    run.assert_code(0).assert_line_with(&["Blobs successful: 2 |"]);
    let mut ids: Vec<_> = run.stdout.lines().map(|line| simulator::id_of(line).expect("an Id")).collect();
    ids.sort();
    assert_eq!(ids, installation.contoso.ids(FEED).into_iter().collect::<Vec<_>>());
    installation.assert_delivered_once([(&installation.contoso, FEED)]);
    assert_eq!(installation.output()["AuditGeneral.json"][..3], files["AuditGeneral.json"]);
    assert_eq!(installation.known_blobs().len(), 2);
}

/// Sets the time until which every feed is listed, in the state.
pub fn set_listed_until(installation: &Installation, time: Timestamp) {
    let path = installation.path("state/progress");
    let text = fs::read_to_string(&path).expect("a file");
    let lines = text.lines().map(|line| {
        let Some((before, rest)) = line.split_once("\"listedUntil\":\"") else { return line.to_owned() };
        let (_, after) = rest.split_once('"').expect("the end of a JSON string");
        format!("{before}\"listedUntil\":\"{time}\"{after}")
    });
    fs::write(&path, lines.collect::<Vec<_>>().join("\n") + "\n").expect("a file");
}

#[test]
fn catches_up_after_a_downtime() {
    let installation = Installation::new();
    installation.run(&[]).assert_code(0);
    set_listed_until(&installation, hours_ago(100));
    for hours in [99, 50, 3] {
        installation.contoso.add_blob(FEED, NewBlob::records(2).created(hours_ago(hours)));
    }
    installation.run(&[]).assert_code(0).assert_line_with(&["Blobs found: 3 | Blobs successful: 3"]);
    installation.assert_delivered_once([(&installation.contoso, FEED)]);
    installation.assert_no_violations();
    installation.simulator.forget_requests();
    installation.run(&[]).assert_code(0);
    let listings = installation.simulator.count(Operation::ListContent);
    assert!(listings <= 10, "the next pass lists only the last day, but made {listings} requests");
}

#[test]
fn reports_content_lost_in_a_downtime_of_more_than_seven_days() {
    let installation = Installation::new();
    installation.run(&[]).assert_code(0);
    set_listed_until(&installation, hours_ago(9 * 24));
    installation.run(&[]).assert_code(0).assert_line_with(&[
        "[ERROR] Content lost for contoso audit.general:",
        "run the collector more often",
    ]);
    installation.assert_no_violations();
}

#[test]
fn collects_a_blob_that_is_listed_late() {
    let installation = Installation::new();
    installation.run(&[]).assert_code(0);
    installation.contoso.add_blob(FEED, NewBlob::records(2).created(hours_ago(22)));
    installation.run(&[]).assert_code(0);
    installation.assert_delivered_once([(&installation.contoso, FEED)]);
}

#[test]
fn only_future_events_skips_blobs_from_before_the_first_pass() {
    let installation = Installation::new();
    let config = format!("only_future_events: true\n{}", installation.config());
    fs::write(installation.path("future.yaml"), config).expect("a file");
    let early = installation.contoso.add_blob(FEED, NewBlob::records(2).created(hours_ago(1)));
    for _ in 0..2 {
        installation.run_bare(&["-c", "future.yaml"]).assert_code(0).assert_line("[WARN] No new blobs found");
    }
    // Moves the first pass three hours into the past.
    let path = installation.path("state/progress");
    let text = fs::read_to_string(&path).expect("a file");
    let hour = |time: Timestamp| time.strftime("%Y-%m-%dT%H").to_string();
    let text = text.replace(&hour(Timestamp::now()), &hour(hours_ago(3)));
    fs::write(&path, text.replace(&hour(hours_ago(1)), &hour(hours_ago(4)))).expect("a file");
    let late = installation.contoso.add_blob(FEED, NewBlob::records(2).created(hours_ago(2)));
    let older = installation.contoso.add_blob(FEED, NewBlob::records(2).created(hours_ago(9)));
    installation.run_bare(&["-c", "future.yaml"]).assert_code(0);
    assert_eq!((early.served(), late.served(), older.served()), (1, 1, 0));
}

#[test]
fn an_unreadable_blob_blocks_nothing_and_is_given_up_when_it_expires() {
    let installation = Installation::new().collect("hoursToCollect: 1");
    let contoso = &installation.contoso;
    let good = contoso.add_blob(FEED, NewBlob::records(2).created(hours_ago(10)));
    let bad = contoso.add_blob(FEED, NewBlob::body("[{]").created(hours_ago(11)));
    let expired = contoso.add_blob(FEED, NewBlob::body("[").created(hours_ago(23)).expiring(hours_ago(-99)));
    let run = installation.run(&["--hours", "24"]);
    run.assert_code(1)
        .assert_line_with(&["[ERROR] Blob download failed for contoso audit.general", bad.content_id()]);
    assert_eq!((good.served(), bad.served()), (1, 4), "requests for each blob");

    // The unreadable blob is still fetched and reported, although it is older than the look-back window. The other one has
    // expired according to the state.
    let path = installation.path("state/progress");
    let text = fs::read_to_string(&path).expect("a file");
    let line = text.lines().find(|line| line.contains(expired.content_id())).expect("the pending blob");
    let (before, rest) = line.split_once("\"contentExpiration\":\"").expect("its expiration");
    let (_, after) = rest.split_once('"').expect("the end of a JSON string");
    let changed = format!("{before}\"contentExpiration\":\"{}\"{after}", hours_ago(22));
    fs::write(&path, text.replace(line, &changed)).expect("a file");
    let run = installation.run(&[]);
    run.assert_code(1)
        .assert_line_with(&["[ERROR] Blob download failed for contoso audit.general", bad.content_id()])
        .assert_line_with(&[
            "[ERROR] Blob gone for contoso audit.general",
            expired.content_id(),
            "it expired at",
        ])
        .assert_line_with(&["Blobs found: 2 |", "Blobs failed: 1 |", "| Blobs gone: 1"]);
    assert_eq!((good.served(), bad.served(), expired.served()), (1, 8, 4));

    // The third pass salvages the blob, and it is complete.
    let run = installation.run(&[]);
    run.assert_code(0).assert_line_with(&["[ERROR] Blob", bad.content_id(), "quarantine"]);
    assert!(!run.stderr.contains(expired.content_id()), "an expired blob is reported once: {run}");
    assert_eq!(expired.served(), 4);
}

#[test]
fn requests_a_gone_blob_once() {
    let installation = Installation::new();
    let blob = installation.contoso.add_blob(FEED, NewBlob::records(1).created(hours_ago(2)));
    blob.vanish();
    installation.run(&[]).assert_code(0).assert_line_with(&["[ERROR] Blob gone", blob.content_id(), "lost"]);
    assert_eq!(installation.simulator.count(Operation::FetchBlob), 1);
    let run = installation.run(&[]);
    run.assert_code(0).assert_line("[WARN] No new blobs found");
    assert_eq!(installation.simulator.count(Operation::FetchBlob), 1);
}

fn start(installation: &Installation) -> Child {
    installation.pass().spawn().expect("the program starts")
}

#[test]
fn a_signal_ends_a_pass_cleanly_even_if_a_request_hangs() {
    in_parallel([(Signal::TERM, 143), (Signal::INT, 130)], |(name, code)| {
        let installation = Installation::new();
        let contoso = &installation.contoso;
        contoso.add_blobs(FEED, 10, 3, hours_ago(20)..hours_ago(2));
        let hanging = contoso.blobs(FEED).remove(4);
        let requests = Requests::to(Operation::FetchBlob).of_blob(hanging.content_id());
        installation.simulator.fault(requests.always(), Fault::stall(None));
        let child = start(&installation);
        let all_requested = installation.simulator.wait_for(10, Operation::FetchBlob, WAIT_MAX);
        assert!(all_requested, "the pass requests all ten blobs");
        signal(&child, name);
        let run = Run::finish(child);
        run.assert_code(code).assert_line_with(&["Blobs successful: 9 |", "| Blobs left for later: 1"]);
        assert_eq!(installation.delivered_ids().len(), 27);
        assert_eq!(installation.known_blobs().len(), 9);

        installation.simulator.remove_faults();
        installation.run(&[]).assert_code(0).assert_line_with(&["Blobs found: 1 | Blobs successful: 1"]);
        installation.assert_delivered_once([(contoso, FEED)]);
    });
}

#[test]
fn two_concurrent_passes_deliver_each_record_once() {
    let installation = Installation::new();
    for round in 0..20 {
        installation.contoso.add_blobs(FEED, 5, 3, hours_ago(20)..hours_ago(2));
        let passes = [start(&installation), start(&installation)];
        let mut codes = passes.map(|child| Run::finish(child).code);
        codes.sort_unstable();
        assert!(matches!(codes, [Some(0), Some(0 | 75)]), "round {round}: {codes:?}");
        installation.assert_delivered_once([(&installation.contoso, FEED)]);
    }
}

/// Kills passes at random moments, with new blobs and rotated files between them, and then lets one finish.
fn kill_at_random(kills: u32, seed: u64) {
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let installation = Installation::new();
    let contoso = &installation.contoso;
    let feeds = ["Audit.General", "DLP.All"];
    for round in 0..kills {
        for feed in feeds {
            contoso.add_blobs(feed, random.usize(0..4), random.usize(1..30), hours_ago(20)..hours_ago(2));
        }
        if random.u8(..4) == 0 {
            let without_id = [r#"{"Operation":"x"}"#, r#"{"Operation":"x"}"#];
            contoso.add_blob(FEED, NewBlob::texts(without_id).created(hours_ago(3)));
        }
        installation.simulator.set_latency(Duration::from_millis(random.u64(0..3)));
        let child = start(&installation);
        thread::sleep(Duration::from_millis(random.u64(0..60)));
        kill(child);
        if random.u8(..4) == 0 {
            let path = installation.path("output/AuditGeneral.json");
            if path.exists() {
                fs::rename(&path, installation.path(&format!("output/AuditGeneral.json.{round}")))
                    .expect("a file");
            }
        }
    }
    installation.run(&[]).assert_code(0);
    installation.assert_lines_delivered_once(feeds.map(|feed| (contoso, feed)));
    let output = installation.output();
    installation.run(&[]).assert_code(0).assert_line("[WARN] No new blobs found");
    assert_eq!(installation.output(), output);
}

#[test]
fn fifty_random_kills_lose_and_duplicate_nothing() {
    kill_at_random(50, fastrand::u64(..));
}

#[test]
#[ignore = "takes minutes: cargo test --test tests -- --ignored a_thousand_random_kills"]
fn a_thousand_random_kills_lose_and_duplicate_nothing() {
    for _ in 0..20 {
        kill_at_random(50, fastrand::u64(..));
    }
}

/// Runs a pass that is killed after it has written records and before it has committed them.
fn kill_before_commit(installation: &Installation) {
    // The first step after records are written is the sync of the output file.
    for step in disk_steps() {
        installation.run_with_fault(&format!("{step}:kill-before"));
        let lines: usize = installation.output().values().map(Vec::len).sum();
        if lines > 0 {
            assert_eq!(installation.known_blobs(), [""; 0]);
            return;
        }
    }
}

#[test]
fn finds_a_file_renamed_after_a_kill() {
    let installation = Installation::new();
    add_blob(&installation, &make_records(3));
    kill_before_commit(&installation);
    let rotated = installation.path("output/AuditGeneral.json.1");
    fs::rename(installation.path("output/AuditGeneral.json"), &rotated).expect("a file");
    let before = whole_lines(&rotated);
    let run = installation.run(&[]);
    run.assert_code(0)
        .assert_line_with(&["[INFO] An earlier pass was interrupted: 3 records are in the files already"]);
    assert_eq!(whole_lines(&rotated), before);
    installation.assert_lines_delivered_once([(&installation.contoso, FEED)]);
}

#[test]
fn a_file_truncated_after_a_kill_loses_nothing_and_warns_of_duplicates() {
    let installation = Installation::new();
    add_blob(&installation, &make_records(1));
    installation.run(&[]).assert_code(0);
    let path = installation.path("output/AuditGeneral.json");
    add_blob(&installation, &make_records(4)[1..]);
    let known = installation.known_blobs();
    for step in disk_steps() {
        installation.run_with_fault(&format!("{step}:kill-before"));
        if whole_lines(&path).len() > 1 {
            break;
        }
    }
    assert_eq!(installation.known_blobs(), known);
    fs::copy(&path, installation.path("output/AuditGeneral.json.1")).expect("a copy");
    fs::File::options().write(true).open(&path).expect("a file").set_len(0).expect("a file");
    let run = installation.run(&[]);
    run.assert_code(0).assert_line_with(&[
        "[WARN]",
        "AuditGeneral.json was truncated",
        "may be delivered twice",
    ]);
    let delivered = installation.delivered_ids();
    assert!(installation.contoso.ids(FEED).iter().all(|id| delivered.contains_key(id)));
}

#[test]
fn fetches_the_blobs_that_a_killed_pass_listed() {
    let installation = Installation::new().collect("hoursToCollect: 1");
    let contoso = &installation.contoso;
    installation.run(&[]).assert_code(0);
    set_listed_until(&installation, hours_ago(30));
    let blob = contoso.add_blob(FEED, NewBlob::records(2).created(Timestamp::now() - 29.hours()));
    let requests = Requests::to(Operation::FetchBlob).of_blob(blob.content_id());
    installation.simulator.fault(requests.always(), Fault::stall(None));
    let child = start(&installation);
    assert!(installation.simulator.wait_for(1, Operation::FetchBlob, WAIT_MAX), "the pass requests the blob");
    kill(child);
    installation.simulator.remove_faults();
    installation.run(&[]).assert_code(0);
    installation.assert_delivered_once([(contoso, FEED)]);
}

#[test]
fn a_pass_with_a_shorter_look_back_window_hides_nothing_from_the_next() {
    let installation = Installation::new();
    let created = Timestamp::now() - (24 * 60 - 1).minutes();
    installation.contoso.add_blob(FEED, NewBlob::records(2).created(created));
    installation.contoso.add_blobs(FEED, 2, 2, hours_ago(20)..hours_ago(2));
    installation.run(&["--hours", "1"]).assert_code(0).assert_line_with(&["No new blobs found"]);
    installation.run(&[]).assert_code(0);
    installation.assert_delivered_once([(&installation.contoso, FEED)]);
}

#[test]
fn collects_the_other_blobs_if_an_entry_lacks_a_field_or_is_not_an_object() {
    for entry in [r#"{"contentCreated":"2026-11-22T10:00:00Z"}"#, "null", "7", "{}"] {
        let installation = Installation::new().collect("retries: 0");
        installation.contoso.add_blobs(FEED, 3, 2, hours_ago(20)..hours_ago(2));
        let unusual = Fault::alter("an unusual entry", move |_, answer| {
            let body = String::from_utf8_lossy(&answer.plain_body()).replacen('[', &format!("[{entry},"), 1);
            answer.with_body(body.replace(",]", "]"))
        });
        installation
            .simulator
            .fault(Requests::to(Operation::ListContent).of_content_type(FEED).always(), unusual);
        installation
            .run(&[])
            .assert_code(1)
            .assert_line_with(&["[ERROR] Listing failed for contoso", "unreadable"]);
        installation.assert_delivered_once([(&installation.contoso, FEED)]);
    }
}

#[test]
fn an_unreadable_entry_fails_only_its_listing() {
    let installation = Installation::new().collect("retries: 0");
    let contoso = &installation.contoso;
    contoso.add_blobs(FEED, 3, 2, hours_ago(20)..hours_ago(2));
    contoso.add_blobs("DLP.All", 3, 2, hours_ago(20)..hours_ago(2));
    let unusual = Fault::alter("an empty entry", |_, answer| {
        let body = String::from_utf8_lossy(&answer.plain_body()).replacen('[', "[{},", 1);
        answer.with_body(body.replace(",]", "]"))
    });
    let listings = Requests::to(Operation::ListContent).of_content_type("DLP.All");
    installation.simulator.fault(listings.always(), unusual);
    installation
        .run(&[])
        .assert_code(1)
        .assert_line_with(&["[ERROR] Listing failed for contoso dlp.all", "unreadable id"]);
    assert_eq!(installation.delivered_ids().len(), 12);
    let progress = fs::read_to_string(installation.path("state/progress")).expect("a file");
    assert!(
        !progress.lines().any(|line| line.contains("DLP.All") && !line.contains("\"listedUntil\":null")),
        "the listing is not complete: {progress}"
    );
}
