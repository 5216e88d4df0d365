//! Bounds that hostile or broken servers run into.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use simulator::{Answer, Fault, NewBlob, Operation, Requests};

use crate::support::{Installation, Run, hours_ago};

const FEED: &str = "Audit.General";

/// Runs a pass, and returns the most memory that it had, in MiB.
fn run_measured(installation: &Installation, arguments: &[&str]) -> (Run, u64) {
    let config = installation.config_file();
    let mut command = installation.command(&["-c", config.to_str().expect("a path of text")]);
    let log = installation.path("log");
    command
        .args(arguments)
        .stdout(std::process::Stdio::null())
        .stderr(fs::File::create(&log).expect("a file"));
    let mut child = command.spawn().expect("a program");
    let status = format!("/proc/{}/status", child.id());
    let (mut most, began) = (0, Instant::now());
    let ended = loop {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
        most = most.max(kibibytes.unwrap_or(0));
        if let Some(ended) = child.try_wait().expect("a child") {
            break ended;
        }
        if began.elapsed() > Duration::from_secs(60) {
            child.kill().expect("a child");
            panic!("the pass does not end: {}", fs::read_to_string(&log).unwrap_or_default());
        }
        thread::sleep(Duration::from_millis(5));
    };
    let stderr = fs::read_to_string(log).expect("a log");
    (Run { code: ended.code(), stdout: String::new(), stderr }, most / 1024)
}

#[test]
fn large_listings_of_many_tenants_stay_within_the_memory() {
    let mut installation =
        Installation::new().setting("subscriptions: [ Audit.General ]").collect("maxMemory: \"2M\"");
    installation.contoso.subscribe(FEED);
    for number in 1..10 {
        installation.add_tenant(&format!("{number:08}-2222-4222-8222-222222222222")).subscribe(FEED);
    }
    // A dry run, so that the listings alone are measured.
    let (_, usual_mebibytes) = run_measured(&installation, &["--dry-run"]);
    let (url, created) = (installation.simulator.url(), hours_ago(3));
    let entry = |number: u32| {
        format!(
            "{{\"contentId\":\"{number:0>150}\",\"contentUri\":\"{url}/{number:0>4800}\",\
             \"contentCreated\":\"{created}\"}}"
        )
    };
    let page = format!("[{}]", (0..100).map(entry).collect::<Vec<_>>().join(","));
    assert!((450_000..550_000).contains(&page.len()), "{}", page.len());
    let answers = Fault::instead("a large page", move |_| Answer::json(200, page.clone()));
    let planted = installation.simulator.fault(Requests::to(Operation::ListContent).always(), answers);
    let (run, mebibytes) = run_measured(&installation, &["--dry-run"]);
    run.assert_code(0);
    assert!(planted.fired() >= 10, "each tenant was listed");
    // A quarter of maxMemory, and one page: its body, its blobs, and the same blobs as they are printed.
    assert!(mebibytes <= usual_mebibytes + 6, "{mebibytes} MiB instead of {usual_mebibytes}");
}

#[test]
fn a_blob_of_three_million_empty_records_stays_within_the_memory() {
    let installation = Installation::new();
    let body = format!("[{}{{}}]", "{},".repeat(2_999_999));
    installation.contoso.add_blob(FEED, NewBlob::body(body).created(hours_ago(3)));
    let (run, mebibytes) = run_measured(&installation, &[]);
    run.assert_code(0).assert_line_with(&["Logs saved: 3000000"]);
    assert!(mebibytes < 120, "{mebibytes} MiB");
}

#[test]
fn a_login_of_fifty_megabytes_is_refused() {
    let installation = Installation::new().collect("retries: 0");
    let body = format!("{{\"access_token\":\"{}\"}}", "x".repeat(50 << 20));
    let answer = Fault::instead("a large login", move |_| Answer::json(200, body.clone()));
    installation.simulator.fault(Requests::to(Operation::Login).always(), answer);
    let (run, mebibytes) = run_measured(&installation, &[]);
    run.assert_code(77).assert_line_with(&["[ERROR] Authentication failed", "1048576"]);
    assert!(mebibytes < 60, "{mebibytes} MiB");
}

#[test]
fn a_listing_that_never_ends_fails_its_feed_alone() {
    let installation = Installation::new().collect("retries: 0");
    for feed in [FEED, "Audit.Exchange"] {
        installation.contoso.add_blob(feed, NewBlob::records(3).created(hours_ago(3)));
    }
    let (number, url) = (std::sync::atomic::AtomicU32::new(0), installation.simulator.url().to_owned());
    let endless = Fault::alter("endless different pages", move |request, mut answer| {
        let number = number.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        answer.headers.retain(|(name, _)| !name.to_ascii_lowercase().starts_with("nextpage"));
        let target = request.target_without_publisher();
        let (target, _) = target.split_once("&number=").unwrap_or((&target, ""));
        answer.with_header("NextPageUri", format!("{url}{target}&number={number}"))
    });
    let pages = Requests::to(Operation::ListContent).of_content_type(FEED).always();
    let planted = installation.simulator.fault(pages, endless);
    let (run, _) = run_measured(&installation, &[]);
    run.assert_code(1).assert_line_with(&[
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
fn a_page_of_more_blobs_than_may_wait_is_listed_to_its_end() {
    let installation = Installation::new().collect("maxRequestsPerMinute: 1000000");
    installation.contoso.settings(|settings| settings.page_size = 100_000);
    installation.contoso.add_blobs(FEED, 10_500, 1, hours_ago(20)..hours_ago(19));
    installation.run(&[]).assert_code(0);
    installation.assert_delivered_once([(&installation.contoso, FEED)]);
}
