//! Wrong clocks, expiration, and the identity of records and blobs.

use std::{collections::BTreeSet, fs};

use jiff::{SignedDuration, Timestamp, ToSpan};
use simulator::{Answer, Fault, NewBlob, Operation, Requests, record};

use crate::support::{CONTOSO, Installation, hours_ago, process::disk_steps};

const FEED: &str = "Audit.General";

/// Changes each entry in the listings of a feed. `change` receives the number of the entry in its listing, and the entry.
fn change_entries(
    installation: &Installation,
    feed: &str,
    change: impl Fn(usize, &mut serde_json::Map<String, serde_json::Value>) + Send + Sync + 'static,
) {
    let alter = move |_: &_, answer: Answer| {
        let mut entries: Vec<serde_json::Map<_, _>> =
            serde_json::from_slice(&answer.plain_body()).expect("a listing");
        for (number, entry) in entries.iter_mut().enumerate() {
            change(number, entry);
        }
        answer.with_body(serde_json::to_vec(&entries).expect("JSON"))
    };
    let requests = Requests::to(Operation::ListContent).of_content_type(feed).always();
    installation.simulator.fault(requests, Fault::alter("changed entries", alter));
}

#[test]
fn collects_a_blob_once_whatever_times_its_entry_contains() {
    for field in ["contentExpiration", "contentCreated"] {
        let installation = Installation::new();
        installation.contoso.add_blobs(FEED, 12, 2, hours_ago(20)..hours_ago(2));
        change_entries(&installation, FEED, move |number, entry| {
            let value = match number % 6 {
                0 => serde_json::Value::Null,
                1 => "2026-11-29".into(),
                2 => "9999-12-31T23:59:59.9999999Z".into(),
                3 => "0001-01-01T00:00:00".into(),
                4 => serde_json::json!({ "a": 7 }),
                _ => {
                    entry.remove(field);
                    return;
                }
            };
            entry.insert(field.to_owned(), value);
        });
        installation.run(&[]).assert_code(0).assert_line_with(&["Blobs found: 12 | Blobs successful: 12"]);
        installation.assert_delivered_once([(&installation.contoso, FEED)]);
        assert_eq!(installation.known_blobs().len(), 12);
        installation.run(&[]).assert_code(0).assert_line("[WARN] No new blobs found");
        assert_eq!(installation.known_blobs().len(), 12);
        assert!(!installation.path("state/known_blobs.unreadable").exists());
    }
}

#[test]
fn retries_a_failed_blob_later_whatever_its_expiration_is() {
    let installation = Installation::new().collect("retries: 0");
    let contoso = &installation.contoso;
    contoso.add_blobs(FEED, 4, 2, hours_ago(20)..hours_ago(2));
    change_entries(&installation, FEED, |number, entry| {
        let unusual = [
            serde_json::Value::Null,
            "0001-01-01T00:00:00".into(),
            "9999-12-31T23:59:59.9999999Z".into(),
            "".into(),
        ];
        entry.insert("contentExpiration".to_owned(), unusual[number % 4].clone());
    });
    let planted = Requests::to(Operation::FetchBlob).times(4);
    installation.simulator.fault(planted, Fault::status(500));
    installation.run(&[]).assert_code(1).assert_line_with(&["Blobs failed: 4"]);
    installation.run(&[]).assert_code(0).assert_line_with(&["Blobs successful: 4"]);
    installation.assert_delivered_once([(contoso, FEED)]);
}

#[test]
fn reports_an_unreadable_entry_by_its_readable_part() {
    let installation = Installation::new().collect("retries: 0");
    installation.contoso.add_blobs(FEED, 3, 2, hours_ago(20)..hours_ago(2));
    change_entries(&installation, FEED, |number, entry| {
        if number == 1 {
            entry.insert("contentId".to_owned(), "odd\u{7}id".into());
            for field in ["contentUri", "contentCreated", "contentExpiration", "contentType"] {
                entry.insert(field.to_owned(), serde_json::json!([{ "not": "text" }]));
            }
        }
    });
    installation.run(&[]).assert_code(1).assert_line_with(&[
        "[ERROR] Listing failed for contoso audit.general",
        "blob \"oddid…",
        "unreadable id or URI",
    ]);
    assert_eq!(installation.delivered_ids().len(), 4);
}

#[test]
fn treats_the_same_content_id_in_two_feeds_as_two_blobs() {
    let installation = Installation::new().collect("retries: 0");
    let contoso = &installation.contoso;
    let one = contoso.add_blob(FEED, NewBlob::records(3).created(hours_ago(3)));
    contoso.add_blob("DLP.All", NewBlob::records(2).created(hours_ago(3)));
    let id = one.content_id().to_owned();
    change_entries(&installation, "DLP.All", move |_, entry| {
        entry.insert("contentId".to_owned(), id.as_str().into());
    });
    // In the first pass one of the two fails.
    let requests = Requests::to(Operation::FetchBlob).of_blob(one.content_id()).times(1);
    installation.simulator.fault(requests, Fault::status(500));
    installation
        .run(&[])
        .assert_code(1)
        .assert_line_with(&["Blobs found: 2 | Blobs successful: 1 | Blobs failed: 1"]);
    installation.run(&[]).assert_code(0).assert_line_with(&["Blobs found: 1 | Blobs successful: 1"]);
    installation.assert_delivered_once([(contoso, FEED), (contoso, "DLP.All")]);
    assert_eq!(installation.known_blobs().len(), 2);
    installation.run(&[]).assert_code(0).assert_line("[WARN] No new blobs found");
}

#[test]
fn collects_the_oldest_minutes_of_the_seven_days() {
    let installation = Installation::new().collect("hoursToCollect: 168");
    let oldest = Timestamp::now() - (7 * 24 * 60 - 5).minutes();
    let contoso = &installation.contoso;
    contoso.add_blob(FEED, NewBlob::records(2).created(oldest));
    contoso.add_blob(FEED, NewBlob::records(2).created(oldest + 66.minutes()));
    contoso.add_blob(FEED, NewBlob::records(2).created(hours_ago(100)));
    installation.run(&[]).assert_code(0).assert_line_with(&["Blobs found: 3 | Blobs successful: 3"]);
    installation.assert_delivered_once([(contoso, FEED)]);
    installation.assert_no_violations();
}

/// Removes the time from the responses to these requests.
fn remove_dates(installation: &Installation, requests: Requests) {
    let alter = |_: &_, answer: Answer| answer.with_header("Date", "none");
    installation.simulator.fault(requests, Fault::alter("no date", alter));
}

#[test]
fn a_local_clock_a_month_ahead_expires_nothing() {
    let installation = Installation::new().collect("retries: 0").collect("hoursToCollect: 168");
    installation.simulator.set_clock_skew(SignedDuration::from_hours(-30 * 24));
    let contoso = &installation.contoso;
    let now = installation.simulator.now();
    contoso.add_blobs(FEED, 5, 3, now - 140.hours()..now - 2.hours());
    let failing = contoso.add_blob(FEED, NewBlob::records(2).created(now - 3.hours()));
    let requests = Requests::to(Operation::FetchBlob).of_blob(failing.content_id()).times(2);
    installation.simulator.fault(requests, Fault::status(500));
    for _ in 0..2 {
        installation.run(&[]).assert_code(1).assert_line_with(&["Blobs failed: 1"]);
    }
    let run = installation.run(&[]);
    run.assert_code(0).assert_line_with(&["Blobs found: 1 | Blobs successful: 1"]);
    assert!(!run.stderr.contains("Blob gone"), "{run}");
    installation.assert_delivered_once([(contoso, FEED)]);
    assert_eq!(installation.known_blobs().len(), 6);
    installation.run(&[]).assert_code(0).assert_line("[WARN] No new blobs found");
    assert_eq!(installation.known_blobs().len(), 6);
    installation.assert_no_violations();
}

#[test]
fn reads_the_time_from_any_response_with_a_date() {
    for skew in [-5, 5] {
        let installation = Installation::new();
        remove_dates(&installation, Requests::to(Operation::Login).always());
        installation.simulator.set_clock_skew(SignedDuration::from_hours(skew));
        let newest = installation.simulator.now() - 2.minutes();
        installation.contoso.add_blob(FEED, NewBlob::records(1).created(newest));
        installation.run(&[]).assert_code(0).assert_line_with(&["[WARN] This machine's clock is"]);
        installation.assert_delivered_once([(&installation.contoso, FEED)]);
        let progress = fs::read_to_string(installation.path("state/progress")).expect("a file");
        // A new hour may begin during the pass.
        let hours = [newest + 2.minutes(), installation.simulator.now()];
        let is_of_hour =
            |hour: Timestamp| progress.matches(&hour.strftime("%Y-%m-%dT%H:").to_string()).count() >= 2;
        assert!(hours.into_iter().any(is_of_hour), "no time near {} in {progress}", hours[1]);
        installation.assert_no_violations();
    }
}

#[test]
fn nothing_expires_until_a_response_has_a_date() {
    let installation = Installation::new().collect("retries: 0");
    let contoso = &installation.contoso;
    let blob = contoso.add_blob(FEED, NewBlob::records(1).created(hours_ago(23)));
    let fetches = Requests::to(Operation::FetchBlob).of_blob(blob.content_id()).always();
    installation.simulator.fault(fetches, Fault::status(500));
    installation.run(&[]).assert_code(1);
    let path = installation.path("state/progress");
    let text = fs::read_to_string(&path).expect("a file");
    let (before, rest) = text.split_once("\"contentExpiration\":\"").expect("a pending blob");
    let (_, after) = rest.split_once('"').expect("the end of a JSON string");
    let expired = hours_ago(22);
    fs::write(&path, format!("{before}\"contentExpiration\":\"{expired}\"{after}")).expect("a file");
    let line = format!("x,2020-01-01T00:00:00Z,{CONTOSO},{FEED}");
    fs::write(installation.path("state/known_blobs"), format!("{line}\n")).expect("a file");

    installation.simulator.remove_faults();
    for operation in [Operation::Login, Operation::ListSubscriptions, Operation::ListContent] {
        remove_dates(&installation, Requests::to(operation).always());
    }
    let without_date = |_: &_, _| Answer::status(500).with_header("Date", "none");
    installation.simulator.fault(
        Requests::to(Operation::FetchBlob).always(),
        Fault::alter("an error without a date", without_date),
    );
    let run = installation.run(&[]);
    assert!(!run.stderr.contains("Blob gone"), "{run}");
    assert_eq!(installation.known_blobs(), [line.as_str()]);

    installation.simulator.remove_faults();
    fs::write(&path, format!("{before}\"contentExpiration\":\"{expired}\"{after}")).expect("a file");
    installation.run(&[]).assert_line_with(&["[ERROR] Blob gone", blob.content_id(), "it expired at"]);
    assert_eq!(installation.known_blobs().len(), 1, "the line of the gone blob replaces the expired line");
    assert!(installation.known_blobs()[0].starts_with(blob.content_id()));
}

#[test]
fn delivers_the_same_record_id_once_for_each_tenant() {
    let (installation, fabrikam) = Installation::with_fabrikam();
    let contoso = &installation.contoso;
    let event = record(FEED, CONTOSO, hours_ago(5), 1);
    let named = r#"{"Id":"not a GUID","Operation":"x"}"#;
    let numbered = r#"{"Id":17,"Operation":"x"}"#;
    let texts = [event.as_str(), named, numbered];
    for _ in 0..2 {
        contoso.add_blob(FEED, NewBlob::texts(texts).created(hours_ago(3)));
        fabrikam.add_blob(FEED, NewBlob::texts(texts).created(hours_ago(3)));
        installation.run(&[]).assert_code(0);
    }
    let lines = &installation.output()["AuditGeneral.json"];
    for name in ["contoso", "fabrikam"] {
        let of_tenant = |line: &&String| line.contains(&format!("\"TenantName\":\"{name}\""));
        let unique: BTreeSet<_> = lines.iter().filter(of_tenant).collect();
        assert_eq!((lines.iter().filter(of_tenant).count(), unique.len()), (3, 3), "{name}: {lines:?}");
    }
}

#[test]
fn records_of_a_killed_pass_hide_no_records_of_another_tenant() {
    let (installation, fabrikam) = Installation::with_fabrikam();
    let contoso = &installation.contoso;
    let event = record(FEED, CONTOSO, hours_ago(5), 1);
    contoso.add_blob(FEED, NewBlob::texts([&event]).created(hours_ago(3)));
    for step in disk_steps() {
        installation.run_with_fault(&format!("{step}:kill-before"));
        if installation.output().values().any(|lines| !lines.is_empty()) {
            break;
        }
    }
    fabrikam.add_blob(FEED, NewBlob::texts([&event]).created(hours_ago(4)));
    let contosos_blob = Requests::to(Operation::FetchBlob).of_blob(contoso.blobs(FEED)[0].content_id());
    installation.simulator.fault(contosos_blob.times(1), Fault::status(500));
    installation.run(&[]).assert_code(0);
    let lines = &installation.output()["AuditGeneral.json"];
    for name in ["contoso", "fabrikam"] {
        let count = lines.iter().filter(|line| line.contains(&format!("\"TenantName\":\"{name}\""))).count();
        assert_eq!(count, 1, "{name}: {lines:?}");
    }
}

#[test]
fn reads_the_record_ids_of_the_earlier_version() {
    let (installation, fabrikam) = Installation::with_fabrikam();
    let event = record(FEED, CONTOSO, hours_ago(5), 1);
    let guid = simulator::id_of(&event).expect("an Id").replace('-', "");
    let guid = u128::from_str_radix(&guid, 16).expect("a GUID");
    let folder = installation.path("state/record_ids");
    fs::create_dir_all(&folder).expect("a folder");
    let bytes = [b"office365-collector record ids 1\n".as_slice(), &guid.to_be_bytes()].concat();
    fs::write(folder.join(hours_ago(1).strftime("%Y-%m-%dT%H.file").to_string()), bytes).expect("a file");
    installation.contoso.add_blob(FEED, NewBlob::texts([&event]).created(hours_ago(3)));
    fabrikam.add_blob(FEED, NewBlob::texts([&event]).created(hours_ago(3)));
    installation.run(&[]).assert_code(0).assert_line_with(&["Blobs successful: 2 |", "Logs saved: 0"]);
}

#[test]
fn delivers_a_record_repeated_across_a_downtime_once() {
    let installation = Installation::new();
    let contoso = &installation.contoso;
    let pass_at = |hours: i64| {
        installation.simulator.set_clock_skew(SignedDuration::from_hours(hours));
        installation.run(&[]).assert_code(0);
    };
    let start = hours_ago(0);
    let event = record(FEED, CONTOSO, hours_ago(5), 1);
    contoso.add_blob(FEED, NewBlob::texts([&event]).created(start - 1.hours()));
    pass_at(0);
    contoso.add_blob(FEED, NewBlob::texts([&event]).created(start + 2.hours()));
    pass_at(30);
    installation.assert_delivered_once([(contoso, FEED)]);
}

#[test]
fn outages_of_any_length_duplicate_no_record_repeated_within_a_day() {
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let installation = Installation::new().collect("retries: 0");
    let contoso = &installation.contoso;
    let start = hours_ago(0);
    let (mut now, mut number) = (0, 0);
    // Each record, with the creation time of its first blob in minutes since the start.
    let mut records: Vec<(String, i64)> = Vec::new();
    for _ in 0..25 {
        let hours = if random.bool() { 30 } else { 1 };
        let length = random.i64(5..60 * hours);
        for _ in 0..random.usize(1..5) {
            let created = now + random.i64(0..length);
            let mut texts = Vec::new();
            for _ in 0..3 {
                number += 1;
                texts.push(record(FEED, CONTOSO, start, number));
            }
            let is_within_a_day = |at: &i64| *at <= created && created - at <= 23 * 60;
            let recent: Vec<_> =
                records.iter().filter(|(_, at)| is_within_a_day(at)).map(|(text, _)| text.clone()).collect();
            texts.extend(random.choice(&recent).cloned());
            contoso.add_blob(FEED, NewBlob::texts(&texts).created(start + created.minutes()));
            records.extend(texts.into_iter().take(3).map(|text| (text, created)));
        }
        now += length;
        installation.simulator.set_clock_skew(SignedDuration::from_mins(now));
        if random.u8(..4) == 0 {
            let fetches = Requests::to(Operation::FetchBlob).times(random.usize(1..4));
            installation.simulator.fault(fetches, Fault::status(500));
        }
        let run = installation.run(&[]);
        assert!(matches!(run.code, Some(0 | 1)), "{run}");
        installation.simulator.remove_faults();
    }
    installation.simulator.set_clock_skew(SignedDuration::from_mins(now + 2));
    installation.run(&[]).assert_code(0);
    installation.assert_delivered_once([(contoso, FEED)]);
}
