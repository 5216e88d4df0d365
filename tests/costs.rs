//! What a pass costs, in work that can be counted: memory taken, waits for the disk, requests. Counts are the same on
//! every machine, however busy it is; what the work takes in time is told by `cargo bench`.

use std::fs;

use office_audit_log_collector::records::{BlobRecords, Origin, RecordBatch};
use simulator::{CONTENT_TYPES, NewBlob, Operation, Simulator, TenantSettings};

use crate::support::{CONTOSO, Installation, Run, hours_ago};

/// Returns the number of allocations while a blob of this many records is parsed and rendered, as the writer does it: in
/// slices, into a batch that is used again.
fn allocations_for(records: usize) -> u64 {
    let simulator = Simulator::start();
    let tenant = simulator.tenant(TenantSettings::new(CONTOSO));
    let body = tenant.add_blob("Audit.Exchange", NewBlob::records(records).plain()).body();
    let origin = Origin::new("Audit.Exchange", Some("contoso"));
    let mut batch = RecordBatch::default();
    let mut parse_and_render = |body: Vec<u8>| {
        let parsed = BlobRecords::parse(body, &origin).expect("a whole array");
        for record in parsed.iter() {
            if batch.is_full() {
                batch.clear();
            }
            batch.push(&record);
        }
        assert_eq!(parsed.len(), records);
        batch.clear();
    };
    parse_and_render(body.clone());
    allocation_counter::measure(|| parse_and_render(body)).count_total
}

#[test]
fn memory_is_taken_for_a_blob_and_not_for_its_records() {
    let (few, many) = (allocations_for(100), allocations_for(3_200));
    // A list that doubles as it grows takes memory five times more for 32 times as many records.
    assert!(many <= few + 5, "{few} times for 100 records, {many} times for 3,200");
    assert!(few <= 12, "{few} times for 100 records");
}

#[test]
fn the_disk_is_waited_for_by_the_batch_and_not_by_the_blob() {
    let installation = Installation::new();
    for content_type in CONTENT_TYPES {
        installation.contoso.add_blobs(content_type, 60, 2, hours_ago(20)..hours_ago(1));
    }
    let steps = installation.path("steps");
    let run = Run::of(installation.pass().env("COLLECTOR_DISK_STEPS", &steps));
    run.assert_code(0).assert_line_with(&["Blobs found: 300 | Blobs successful: 300"]);
    let steps = fs::read_to_string(steps).expect("steps");
    let syncs = steps.lines().filter(|step| step.starts_with("Sync")).count();
    // Some 40 for opening and closing, and at each commit one for each of the five files, one for the Ids and one for
    // the journal; there is a commit a second, on a machine as slow as you like.
    assert!(syncs < 150, "{syncs} syncs for 300 blobs");
}

#[test]
fn a_blob_costs_one_request() {
    let installation = Installation::new();
    installation.contoso.add_blobs("Audit.General", 50, 1, hours_ago(20)..hours_ago(1));
    installation.run(&[]).assert_code(0);
    let simulator = &installation.simulator;
    assert_eq!(simulator.count(Operation::FetchBlob), 50);
    // A login, a list of subscriptions, five feeds to subscribe to, and each feed's 24 hours in two windows at the
    // most.
    assert!(simulator.requests().len() <= 50 + 2 + 5 + 10, "{} requests", simulator.requests().len());
}
