//! `collect.filter`: matching records are delivered, the others are counted, and the blobs of both are known.

use std::fs;

use simulator::NewBlob;

use crate::support::{Installation, hours_ago};

/// Returns a record with these fields, and an Id made from the number.
fn record(number: u32, fields: &str) -> String {
    format!(r#"{{"Id":"00000000-0000-4000-8000-{number:012}",{fields}}}"#)
}

/// Returns the numbers of the delivered records, in order.
fn delivered_numbers(installation: &Installation) -> Vec<u32> {
    let number = |id: String| id.rsplit('-').next().and_then(|digits| digits.parse().ok()).expect("a number");
    installation.delivered_ids().into_keys().map(number).collect()
}

#[test]
fn delivers_records_that_match_the_filter_and_counts_the_others() {
    let installation = Installation::new()
        .collect("filter:")
        .collect("  Audit.Exchange: { Operation: [ \"Send*\", 7 ], Item.Folders.Path: \"!*Junk*\" }")
        .collect("  Audit.General: { Workload: Teams }")
        .setting("metrics:\n  path: metrics.prom");
    let exchange = [
        record(1, r#""Operation":"SendAs","Item":{"Folders":[{"Path":"\\Inbox"}]}"#),
        record(2, r#""Operation":"SendAs","Item":{"Folders":[{"Path":"\\Inbox"},{"Path":"\\Junk"}]}"#),
        record(3, r#""Operation":"SendAs""#),
        record(4, r#""Operation" : 7 , "Item" : {"F\u006flders":{"Path":null}}"#),
        record(5, r#""Operation":"send","Item":{"Folders":[{"Path":"\\Inbox"}]}"#),
    ];
    let contoso = &installation.contoso;
    contoso.add_blob("Audit.Exchange", NewBlob::texts(&exchange).created(hours_ago(2)));
    contoso.add_blob(
        "Audit.General",
        NewBlob::texts([record(6, r#""Workload":"Yammer""#)]).created(hours_ago(2)),
    );
    contoso.add_blob("DLP.All", NewBlob::texts([record(7, r#""Workload":"Yammer""#)]).created(hours_ago(2)));

    let run = installation.run(&["-v"]);
    run.assert_code(0)
        .assert_line("[INFO] Done! Blobs found: 3 | Blobs successful: 3 | Logs saved: 3 | Logs filtered: 4")
        .assert_line(
            "[DEBUG] Records of contoso Audit.Exchange: 2 saved, 0 repeated and dropped, 3 filtered out",
        )
        .assert_line(
            "[DEBUG] Records of contoso Audit.General: 0 saved, 0 repeated and dropped, 1 filtered out",
        );
    assert_eq!(delivered_numbers(&installation), [1, 4, 7]);
    let metrics = fs::read_to_string(installation.path("metrics.prom")).expect("a file");
    let filtered = "records_filtered{tenant=\"contoso\",content_type=\"Audit.Exchange\"} 3\n";
    assert!(metrics.contains(filtered), "{metrics}");
    assert_eq!(
        installation.known_blobs().len(),
        3,
        "a blob is known even if the filter drops all of its records"
    );
    installation.run(&[]).assert_code(0).assert_line("[WARN] No new blobs found");
    assert_eq!(delivered_numbers(&installation), [1, 4, 7]);
}

#[test]
fn filters_records_printed_to_standard_output() {
    let installation = Installation::new().collect("filter: { DLP.All: { Severity: High } }");
    installation.contoso.subscribe("DLP.All"); // a pass with --stdout starts no subscription
    let records = [record(1, r#""Severity":"Low""#), record(2, r#""Severity":"High""#)];
    installation.contoso.add_blob("DLP.All", NewBlob::texts(&records).created(hours_ago(2)));
    let run = installation.run(&["--stdout"]);
    run.assert_code(0).assert_line_with(&["Logs saved: 1 | Logs filtered: 1"]);
    assert_eq!(run.stdout.lines().count(), 1);
    assert!(run.stdout.contains("High"), "{run}");
}
