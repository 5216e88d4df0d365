//! A pass without failures: it delivers each new record once.

use std::{fs, time::Duration};

use simulator::{ApiError, CONTENT_TYPES, Fault, NewBlob, Operation, Requests};

use crate::support::{Installation, hours_ago, mode};

/// Contoso with blobs of the last day in all five feeds, on several pages each.
fn five_feeds() -> Installation {
    let installation = Installation::new();
    installation.contoso.settings(|settings| settings.page_size = 4);
    for content_type in CONTENT_TYPES {
        installation.contoso.add_blobs(content_type, 15, 10, hours_ago(23)..hours_ago(1));
    }
    installation
}

fn all_feeds(installation: &Installation) -> Vec<(&simulator::Tenant, &'static str)> {
    CONTENT_TYPES.map(|content_type| (&installation.contoso, content_type)).to_vec()
}

#[test]
fn delivers_five_feeds_on_several_pages_once() {
    let installation = five_feeds();
    let run = installation.run(&[]);
    run.assert_code(0).assert_line("[INFO] Done! Blobs found: 75 | Blobs successful: 75 | Logs saved: 750");
    installation.assert_delivered_once(all_feeds(&installation));
    installation.assert_no_violations();
    let output = installation.output();
    let names: Vec<_> = output.keys().collect();
    assert_eq!(
        names,
        [
            "AuditAzureActiveDirectory.json",
            "AuditExchange.json",
            "AuditGeneral.json",
            "AuditSharePoint.json",
            "DLPAll.json"
        ]
    );
    assert_eq!(installation.known_blobs().len(), 75);
    assert_eq!(run.stdout, "");
}

#[test]
fn later_passes_deliver_only_what_is_new() {
    let installation = five_feeds();
    installation.run(&[]).assert_code(0);
    let before = installation.output();
    installation.simulator.forget_requests();
    let run = installation.run(&[]);
    run.assert_code(0).assert_line("[WARN] No new blobs found");
    assert_eq!(installation.output(), before);
    assert_eq!(installation.simulator.count(Operation::FetchBlob), 0);
    assert_eq!(installation.simulator.count(Operation::StartSubscription), 0);

    installation.contoso.add_blob("Audit.General", NewBlob::records(3).created(hours_ago(2)));
    installation
        .run(&[])
        .assert_code(0)
        .assert_line("[INFO] Done! Blobs found: 1 | Blobs successful: 1 | Logs saved: 3");
    assert_eq!(installation.simulator.count(Operation::FetchBlob), 1);
    installation.assert_delivered_once(all_feeds(&installation));
}

#[test]
fn delivers_two_thousand_blobs_as_served() {
    let installation = Installation::new();
    let contoso = &installation.contoso;
    for content_type in CONTENT_TYPES {
        contoso.add_blobs(content_type, 400, 5, hours_ago(23)..hours_ago(1));
    }
    installation
        .run(&[])
        .assert_code(0)
        .assert_line("[INFO] Done! Blobs found: 2000 | Blobs successful: 2000 | Logs saved: 10000");
    installation.assert_delivered_once(all_feeds(&installation));
    assert_eq!(installation.known_blobs().len(), 2000);
    installation.assert_no_violations();
    let connections = installation.simulator.connections();
    assert!(connections <= 51, "connections are reused: {connections} for 2000 blobs");
}

#[test]
fn writes_all_feeds_into_one_file_if_they_are_not_separated() {
    let installation = five_feeds();
    let config = installation.config().replace("separateByContentType: true", "separateByContentType: false");
    let path = installation.path("one.yaml");
    fs::write(&path, config).expect("a file");
    installation.run_bare(&["-c", path.to_str().expect("text")]).assert_code(0);
    assert_eq!(installation.output().into_keys().collect::<Vec<_>>(), ["audit.json"]);
    installation.assert_delivered_once(all_feeds(&installation));
}

#[test]
fn keeps_the_text_of_unusual_records_unchanged() {
    let installation = Installation::new();
    let records = [
        r#"{"Id":"00000000-0000-4000-8000-000000000001","a":1,"a":2,"A":3}"#.to_owned(),
        r#"{"Id":"00000000-0000-4000-8000-000000000002","n":1E400,"big":123456789012345678901234567890}"#
            .to_owned(),
        r#"{"Id":"00000000-0000-4000-8000-000000000003","s":"\u0041\/\ud83d \u0000 \"\\"}"#.to_owned(),
        "{\"Id\":\"00000000-0000-4000-8000-000000000004\",\"s\":\"\u{2028}\u{feff}😀\"}".to_owned(),
    ];
    let pretty = format!("\u{feff}[\n  {}\n]\r\n", records.join(" ,\n\t"));
    installation.contoso.add_blob("Audit.Exchange", NewBlob::body(pretty).created(hours_ago(2)));
    installation.run(&[]).assert_code(0);
    let expected: Vec<_> = records
        .iter()
        .map(|record| {
            let fields = record.strip_suffix('}').expect("an object");
            format!("{fields},\"OriginFeed\":\"Audit.Exchange\",\"TenantName\":\"contoso\"}}")
        })
        .collect();
    assert_eq!(installation.output()["AuditExchange.json"], expected);
}

#[test]
fn starts_missing_subscriptions_and_ignores_letter_case() {
    let installation = Installation::new();
    installation.contoso.subscribe("audit.sharepoint");
    installation.contoso.set_subscription("DLP.All", Some(simulator::Subscription::WithoutStatus));
    installation.contoso.set_subscription("Audit.General", Some(simulator::Subscription::Disabled));
    let run = installation.run(&[]);
    run.assert_code(0)
        .assert_line("[INFO] Already subscribed to feed audit.sharepoint")
        .assert_line("[INFO] Already subscribed to feed dlp.all")
        .assert_line("[INFO] Subscribed to feed audit.general")
        .assert_line("[INFO] Subscribed to feed audit.exchange")
        .assert_line("[INFO] Subscribed to feed audit.azureactivedirectory");
    assert_eq!(installation.simulator.count(Operation::StartSubscription), 3);
    installation.assert_no_violations();
}

#[test]
fn fetches_the_oldest_blobs_first() {
    let installation = Installation::new().collect("maxThreads: 1");
    let contoso = &installation.contoso;
    contoso.settings(|settings| settings.page_size = 100);
    contoso.add_blobs("Audit.Exchange", 30, 1, hours_ago(20)..hours_ago(2));
    installation.run(&[]).assert_code(0);
    let ages: Vec<_> = installation
        .simulator
        .requests_to(Operation::FetchBlob)
        .iter()
        .map(|seen| {
            let blobs = contoso.blobs("Audit.Exchange");
            let blob =
                blobs.iter().find(|blob| seen.request.content_id.as_deref() == Some(blob.content_id()));
            blob.expect("a blob of contoso").created()
        })
        .collect();
    assert_eq!(ages.len(), 30);
    assert!(ages.is_sorted(), "{ages:?}");
}

#[test]
fn fetches_a_blob_once_if_it_is_listed_twice() {
    let installation = Installation::new();
    let contoso = &installation.contoso;
    contoso.settings(|settings| settings.page_size = 1);
    contoso.add_blob("Audit.Exchange", NewBlob::records(2).created(hours_ago(3)).listed_also(hours_ago(2)));
    contoso.add_blob("Audit.Exchange", NewBlob::records(2).created(hours_ago(3)));
    installation
        .run(&["--hours", "48"])
        .assert_code(0)
        .assert_line("[INFO] Done! Blobs found: 2 | Blobs successful: 2 | Logs saved: 4");
    assert_eq!(installation.simulator.count(Operation::FetchBlob), 2);
    installation.assert_delivered_once([(contoso, "Audit.Exchange")]);
}

#[test]
fn keeps_the_records_of_two_tenants_apart() {
    let (installation, fabrikam) = Installation::with_fabrikam();
    for tenant in [&installation.contoso, &fabrikam] {
        tenant.add_blob("Audit.General", NewBlob::records(5).created(hours_ago(2)).content_id("1$2$same"));
    }
    let run = installation.run(&[]);
    run.assert_code(0)
        .assert_line("[INFO] Starting Office365 collector: 2 tenant(s), 10 subscription(s)")
        .assert_line("[INFO] Successfully logged in to Office Management API for contoso")
        .assert_line("[INFO] Successfully logged in to Office Management API for fabrikam")
        .assert_line("[INFO] Subscribed to feed audit.general for fabrikam");
    installation
        .assert_delivered_once([(&installation.contoso, "Audit.General"), (&fabrikam, "Audit.General")]);
    let lines = installation.output().remove("AuditGeneral.json").expect("a file");
    for name in ["contoso", "fabrikam"] {
        let ending = format!("\"OriginFeed\":\"Audit.General\",\"TenantName\":\"{name}\"}}");
        assert_eq!(lines.iter().filter(|line| line.ends_with(&ending)).count(), 5, "{name}");
    }
}

#[test]
fn looks_back_as_far_as_configured() {
    let installation = Installation::new().collect("hoursToCollect: 6");
    let contoso = &installation.contoso;
    let early = contoso.add_blob("Audit.General", NewBlob::records(1).created(hours_ago(150)));
    let late = contoso.add_blob("Audit.General", NewBlob::records(1).created(hours_ago(5)));
    installation.run(&[]).assert_code(0);
    assert_eq!((early.served(), late.served()), (0, 1));
    installation.run(&["--hours", "168"]).assert_code(0);
    assert_eq!((early.served(), late.served()), (1, 1));
    installation.assert_delivered_once([(contoso, "Audit.General")]);
    installation.assert_no_violations();
}

#[test]
fn delivers_known_blobs_again_if_skip_known_logs_is_false() {
    let installation = Installation::new().collect("skipKnownLogs: false");
    installation.contoso.add_blob("Audit.General", NewBlob::records(2).created(hours_ago(2)));
    installation.run(&[]).assert_code(0);
    installation.run(&[]).assert_code(0);
    assert!(installation.delivered_ids().values().all(|&count| count == 2));
}

#[test]
fn skips_the_known_blobs_of_the_older_tool() {
    let installation = Installation::new();
    let contoso = &installation.contoso;
    let old = contoso.add_blob("Audit.General", NewBlob::records(2).created(hours_ago(2)));
    let new = contoso.add_blob("Audit.General", NewBlob::records(2).created(hours_ago(2)));
    fs::create_dir(installation.path("state")).expect("a folder");
    let line = format!("{},{}\n", old.content_id(), old.expiration());
    fs::write(installation.path("state/known_blobs"), &line).expect("a file");
    installation.run(&[]).assert_code(0);
    assert_eq!((old.served(), new.served()), (0, 1));
    assert_eq!(installation.known_blobs()[0], line.trim_end());
}

#[test]
fn creates_state_for_its_owner_and_output_for_its_group() {
    let installation = five_feeds();
    installation.run(&[]).assert_code(0);
    assert_eq!(mode(&installation.path("state/known_blobs")), 0o600);
    assert_eq!(mode(&installation.path("output/DLPAll.json")), 0o640);
}

#[test]
fn delivers_everything_with_little_memory() {
    let installation = Installation::new().collect("maxMemory: 64K\n  cacheSize: 10");
    for content_type in CONTENT_TYPES {
        installation.contoso.add_blobs(content_type, 10, 20, hours_ago(20)..hours_ago(2));
    }
    installation.run(&[]).assert_code(0);
    installation.assert_delivered_once(all_feeds(&installation));
}

#[test]
fn reads_plain_and_compressed_responses() {
    for gzip in [true, false] {
        let installation = five_feeds();
        installation.contoso.settings(|settings| settings.gzip = gzip);
        installation.simulator.set_latency(Duration::from_millis(1));
        installation.run(&[]).assert_code(0);
        installation.assert_delivered_once(all_feeds(&installation));
    }
}

#[test]
fn a_dry_run_prints_a_pending_blob_even_if_the_listing_fails() {
    let installation = Installation::new().setting("subscriptions: [ Audit.General ]");
    let general = "Audit.General";
    installation.contoso.subscribe(general);
    installation.contoso.add_blob(general, NewBlob::records(3).created(hours_ago(3)));
    installation
        .simulator
        .fault(Requests::to(Operation::FetchBlob).always(), Fault::api_error(ApiError::Internal));
    installation.run(&[]).assert_code(1);
    let blob = installation.contoso.blobs(general)[0].content_id().to_owned();
    installation
        .simulator
        .fault(Requests::to(Operation::ListContent).always(), Fault::api_error(ApiError::Internal));
    let run = installation.run(&["--dry-run"]);
    run.assert_code(1).assert_line_with(&["Blobs found: 1", "Blobs left for later: 1"]);
    assert!(run.stdout.lines().count() == 1 && run.stdout.trim_end().ends_with(&blob), "{run}");
}
