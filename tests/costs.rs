//! The cost of a pass in counted work: allocations, syncs of files, requests. Counts do not depend on how busy the machine
//! is. `cargo bench` measures times.

use std::{fs, process::Stdio};

use office_audit_log_collector::{
    records::{BlobRecords, Origin, RecordBatch},
    redact,
};
use simulator::{CONTENT_TYPES, NewBlob, Operation, Simulator, TenantSettings};

use crate::support::{CONTOSO, Installation, Run, hours_ago, process::finish_and_count};

/// Returns the number of allocations while a blob of this many records is parsed and rendered. As in the writer, the records
/// are rendered in slices into a batch that is reused.
fn allocations_for(records: usize) -> u64 {
    let simulator = Simulator::start();
    let tenant = simulator.tenant(TenantSettings::new(CONTOSO));
    let body = tenant.add_blob("Audit.Exchange", NewBlob::records(records).plain()).body();
    let origin = Origin::new("Audit.Exchange", Some("contoso"));
    let mut batch = RecordBatch::default();
    let mut parse_and_render = |body: Vec<u8>| {
        let parsed = BlobRecords::parse(body, &origin).expect("a JSON array of objects");
        for record in parsed.iter() {
            if batch.is_full() {
                batch.clear();
            }
            batch.push(&record);
        }
        assert_eq!(parsed.len(), records);
        batch.clear();
    };
    parse_and_render(body.clone()); // so that the batch has its memory
    allocation_counter::measure(|| parse_and_render(body)).count_total
}

#[test]
fn allocates_memory_per_blob_and_not_per_record() {
    let (few, many) = (allocations_for(100), allocations_for(3_200));
    // A vector that doubles as it grows is allocated five times more for 32 times as many records.
    assert!(many <= few + 5, "{few} allocations for 100 records, {many} for 3,200");
    assert!(few <= 12, "{few} allocations for 100 records");
}

#[test]
fn searches_a_content_id_for_secrets_with_few_allocations() {
    redact::register("the-secret-of-contoso");
    let id = "20261118051748000000001$20261118051748000000001$audit_sharepoint$Audit_SharePoint$emea0036";
    let id = id.to_owned();
    let measured = allocation_counter::measure(|| assert!(redact::content_id(id).ends_with("emea0036")));
    // The text, the places where it may be Base64, and its characters there.
    assert!(measured.count_total <= 8, "{} allocations", measured.count_total);
}

#[test]
fn syncs_per_batch_and_not_per_blob() {
    let installation = Installation::new();
    for content_type in CONTENT_TYPES {
        installation.contoso.add_blobs(content_type, 200, 1, hours_ago(20)..hours_ago(1));
    }
    let steps = installation.path("steps");
    let run = Run::of(installation.pass().env("COLLECTOR_DISK_STEPS", &steps));
    run.assert_code(0).assert_line_with(&["Blobs found: 1000 | Blobs successful: 1000"]);
    let steps = fs::read_to_string(steps).expect("the steps of the pass");
    let syncs = steps.lines().filter(|step| step.starts_with("Sync")).count();
    // A commit syncs at least three files: an output file, the Ids and the journal. So a commit for each blob would be 3,000
    // syncs. A commit for each batch is at most seven syncs a second, for five output files; with the 40 for opening and
    // closing, that stays below 1,000 even in a pass that takes the two minutes for which `Run::of` waits.
    assert!(syncs < 1_000, "{syncs} syncs for 1,000 blobs");
}

#[test]
fn fetches_each_blob_with_one_request() {
    let installation = Installation::new();
    installation.contoso.add_blobs("Audit.General", 50, 1, hours_ago(20)..hours_ago(1));
    installation.run(&[]).assert_code(0);
    let simulator = &installation.simulator;
    assert_eq!(simulator.count(Operation::FetchBlob), 50);
    // The others are a login, a list of subscriptions, five started subscriptions, and at most two listings for each feed.
    let requests = simulator.requests().len();
    assert!(requests <= 50 + 2 + 5 + 10, "{requests} requests");
}

/// Returns an installation with this number of tenants, after a pass.
fn after_a_pass_of_tenants(count: usize) -> Installation {
    // With few threads, because each has memory of its own.
    let settings = Installation::new().collect("maxThreads: 2");
    let mut installation = settings.setting("metrics: { path: metrics.prom }");
    for number in 1..count {
        installation.add_tenant(&format!("{number:08}-2222-4222-8222-222222222222"));
    }
    installation.run(&["--quiet"]).assert_code(0);
    installation.simulator.forget_requests();
    installation
}

#[test]
fn an_idle_pass_makes_seven_requests_for_each_tenant() {
    let installation = after_a_pass_of_tenants(20);
    installation.run(&["--quiet"]).assert_code(0);
    let counts = [Operation::Login, Operation::ListSubscriptions, Operation::ListContent]
        .map(|operation| installation.simulator.count(operation));
    // In the first minute of an hour, a pass lists the hour before once more.
    assert!(counts[0] == 20 && counts[1] == 20 && (100..=200).contains(&counts[2]), "{counts:?}");
    assert_eq!(installation.simulator.requests().len(), counts.iter().sum::<usize>());
}

#[test]
fn an_idle_pass_needs_little_memory_for_each_tenant() {
    let peak_kib = |tenants: usize| {
        let installation = after_a_pass_of_tenants(tenants);
        let mut command = installation.pass();
        // A single arena, because what the allocator keeps in several depends on the timing of the threads.
        command.arg("--quiet").env("MALLOC_ARENA_MAX", "1");
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("the program starts");
        let (code, kib) = finish_and_count(child, "status", "VmHWM:");
        assert_eq!(code, Some(0));
        kib
    };
    let (few, many) = (peak_kib(20), peak_kib(140));
    let of_each = many.saturating_sub(few) / 120;
    // With 20,000 tenants it is 20 KiB in a release build. A copy of the metrics in memory would add 15 KiB.
    assert!(of_each <= 40, "{few} KiB for 20 tenants, {many} KiB for 140: {of_each} KiB for each");
}
