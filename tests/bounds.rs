//! The bounds on memory and requests, with servers that exceed them.

use std::{
    fs,
    process::Stdio,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use simulator::{Answer, Fault, NewBlob, Operation, Requests};

use crate::support::{Installation, Run, hours_ago, process::finish_and_count};

const FEED: &str = "Audit.General";

/// Runs a pass, and returns its peak of resident memory in MiB.
fn run_and_measure(installation: &Installation, arguments: &[&str]) -> (Run, u64) {
    let log = installation.path("log");
    let mut command = installation.pass();
    command.args(arguments).stdout(Stdio::null()).stderr(fs::File::create(&log).expect("a file"));
    let child = command.spawn().expect("the program starts");
    let (code, peak_kib) = finish_and_count(child, "status", "VmHWM:");
    let stderr = fs::read_to_string(log).expect("a log");
    (Run { code, stdout: String::new(), stderr }, peak_kib / 1024)
}

#[test]
fn large_listings_of_many_tenants_stay_within_the_memory_limit() {
    let mut installation =
        Installation::new().setting("subscriptions: [ Audit.General ]").collect("maxMemory: \"2M\"");
    installation.contoso.subscribe(FEED);
    for number in 1..10 {
        installation.add_tenant(&format!("{number:08}-2222-4222-8222-222222222222")).subscribe(FEED);
    }
    let (url, created) = (installation.simulator.url(), hours_ago(3));
    let entry = |number: u32| {
        format!(
            "{{\"contentId\":\"{number:0>150}\",\"contentUri\":\"{url}/{number:0>4800}\",\
             \"contentCreated\":\"{created}\"}}"
        )
    };
    let page = format!("[{}]", (0..200).map(entry).collect::<Vec<_>>().join(","));
    assert!(page.len() > 950_000, "{} bytes", page.len());
    let answers = Fault::instead("a large page", move |_| Answer::json(200, page.clone()));
    let planted = installation.simulator.fault(Requests::to(Operation::ListContent).always(), answers);
    // A dry run, so that only listings use memory.
    let (run, mebibytes) = run_and_measure(&installation, &["--dry-run"]);
    run.assert_code(0);
    assert!(planted.fired() >= 10, "each tenant is listed");
    // This pass needs 25 MiB, of which the program itself needs 15. With maxMemory at 128M, where all listings are in memory
    // at once, it needs 55 MiB.
    assert!(mebibytes < 40, "{mebibytes} MiB");
}

#[test]
fn a_blob_of_three_million_empty_records_stays_within_the_memory_limit() {
    let installation = Installation::new();
    let body = format!("[{}{{}}]", "{},".repeat(2_999_999));
    installation.contoso.add_blob(FEED, NewBlob::body(body).created(hours_ago(3)));
    let (run, mebibytes) = run_and_measure(&installation, &[]);
    run.assert_code(0).assert_line_with(&["Logs saved: 3000000"]);
    // This pass needs 37 MiB. An allocation of 32 bytes for each record would add 92 MiB.
    assert!(mebibytes < 100, "{mebibytes} MiB");
}

#[test]
fn fifty_busy_connections_need_little_memory() {
    let installation = Installation::new();
    installation.contoso.add_blobs(FEED, 200, 20, hours_ago(20)..hours_ago(19));
    installation.simulator.set_latency(Duration::from_millis(20)); // so that each thread has a connection
    let (run, mebibytes) = run_and_measure(&installation, &[]);
    run.assert_code(0).assert_line_with(&["Blobs successful: 200"]);
    // This pass needs 33 MiB. With the buffers of ureq's defaults it would need 9 MiB more.
    assert!(mebibytes < 40, "{mebibytes} MiB");
}

#[test]
fn rejects_a_login_response_of_fifty_megabytes() {
    let installation = Installation::new().collect("retries: 0");
    let body = format!("{{\"access_token\":\"{}\"}}", "x".repeat(50 << 20));
    let answer = Fault::instead("a large login", move |_| Answer::json(200, body.clone()));
    installation.simulator.fault(Requests::to(Operation::Login).always(), answer);
    let (run, mebibytes) = run_and_measure(&installation, &[]);
    run.assert_code(77).assert_line_with(&["[ERROR] Authentication failed", "1048576"]);
    // This pass needs 15 MiB, and would need 50 MiB more for the whole body.
    assert!(mebibytes < 40, "{mebibytes} MiB");
}

#[test]
fn an_endless_listing_fails_only_its_feed() {
    let installation = Installation::new().collect("retries: 0");
    for feed in [FEED, "Audit.Exchange"] {
        installation.contoso.add_blob(feed, NewBlob::records(3).created(hours_ago(3)));
    }
    let (number, url) = (AtomicU32::new(0), installation.simulator.url().to_owned());
    let endless = Fault::alter("endless different pages", move |request, mut answer| {
        let number = number.fetch_add(1, Ordering::SeqCst);
        answer.headers.retain(|(name, _)| !name.to_ascii_lowercase().starts_with("nextpage"));
        let target = request.target_without_publisher();
        let (target, _) = target.split_once("&number=").unwrap_or((&target, ""));
        answer.with_header("NextPageUri", format!("{url}{target}&number={number}"))
    });
    let pages = Requests::to(Operation::ListContent).of_content_type(FEED).always();
    let planted = installation.simulator.fault(pages, endless);
    installation.run(&[]).assert_code(1).assert_line_with(&[
        "[ERROR] Listing failed for contoso audit.general",
        "consecutive pages brought almost nothing new",
    ]);
    assert!(planted.fired() < 400, "{} pages", planted.fired());
    installation
        .assert_delivered_once([(&installation.contoso, FEED), (&installation.contoso, "Audit.Exchange")]);
    let status = installation.run(&["status"]);
    assert!(status.stdout.contains("brought almost nothing new"), "{status}");
}

#[test]
fn lists_a_page_with_more_blobs_than_the_queue_holds() {
    let installation = Installation::new().collect("maxRequestsPerMinute: 1000000");
    installation.contoso.settings(|settings| settings.page_size = 100_000);
    installation.contoso.add_blobs(FEED, 10_500, 1, hours_ago(20)..hours_ago(19));
    installation.run(&[]).assert_code(0);
    installation.assert_delivered_once([(&installation.contoso, FEED)]);
}
