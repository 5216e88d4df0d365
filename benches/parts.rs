//! The throughput of the parts of a pass: `cargo bench --bench parts`.
//!
//! Compare only throughputs of the same run. The benchmarks `compare_with_…` are a scale: a copy of the same bytes, and
//! `serde_json` that parses them into values and into raw values.

use std::{fmt::Write as _, fs, path::Path, time::Duration};

use divan::{
    Bencher, black_box,
    counter::{BytesCount, ItemsCount},
};
use jiff::{Timestamp, ToSpan};
use office_audit_log_collector::{
    clock::Clock,
    csv::Columns,
    delivery::{OutputName, OutputSet},
    feed::ContentType,
    filter::Filter,
    output::{Source, fluentd::message_pack, gelf::Gelf},
    records::{BlobRecords, Origin, Record, RecordBatch},
    state::{ContentHour, KnownBlobs, Progress, record_ids::RecordIds},
};
use serde_json::value::RawValue;
use simulator::{NewBlob, Simulator, TenantSettings};

const TENANT_ID: &str = "11111111-1111-4111-8111-111111111111";
const CONTENT_TYPE: &str = "Audit.SharePoint";

fn main() {
    divan::main();
}

/// Returns the body of a blob of 1,000 records.
fn body() -> Vec<u8> {
    let simulator = Simulator::start();
    let tenant = simulator.tenant(TenantSettings::new(TENANT_ID));
    tenant.add_blob(CONTENT_TYPE, NewBlob::records(1_000).plain()).body()
}

/// Measures a function of a blob's body. Each call gets its own copy.
fn with_body<T>(bencher: Bencher, function: impl Fn(Vec<u8>) -> T + Sync) {
    let body = body();
    bencher.counter(BytesCount::new(body.len())).with_inputs(|| body.clone()).bench_values(function);
}

#[divan::bench]
fn parse_a_blob(bencher: Bencher) {
    let origin = Origin::new(CONTENT_TYPE, Some("contoso"));
    with_body(bencher, |body| BlobRecords::parse(body, &origin).expect("a JSON array"));
}

#[divan::bench]
fn parse_and_render_a_blob(bencher: Bencher) {
    let origin = Origin::new(CONTENT_TYPE, Some("contoso"));
    with_body(bencher, |body| {
        let records = BlobRecords::parse(body, &origin).expect("a JSON array");
        let mut batch = RecordBatch::default();
        let mut rendered = 0;
        for record in records.iter() {
            batch.push(&record);
            if batch.is_full() {
                rendered += black_box(&batch).text().len();
                batch.clear();
            }
        }
        rendered + black_box(&batch).text().len()
    });
}

#[divan::bench]
fn filter_a_blob(bencher: Bencher) {
    let wanted = |field: &str, text: &str| (field.to_owned(), vec![text.to_owned()]);
    let filter = Filter::new(&[wanted("Operation", "File*"), wanted("UserId", "!*@fabrikam.com")]);
    let origin = Origin::new(CONTENT_TYPE, Some("contoso"));
    let body = body();
    let records = || BlobRecords::parse(body.clone(), &origin).expect("a JSON array");
    bencher
        .counter(BytesCount::new(body.len()))
        .with_inputs(records)
        .bench_local_values(|mut records| (filter.apply(&mut records), records));
}

/// Measures the conversion of each record of a blob.
fn convert(bencher: Bencher, mut append: impl FnMut(Record<'_>, &mut Vec<u8>)) {
    let records =
        BlobRecords::parse(body(), &Origin::new(CONTENT_TYPE, Some("contoso"))).expect("a JSON array");
    let batch: RecordBatch = records.iter().collect();
    let mut converted = Vec::with_capacity(2 * batch.text().len());
    bencher.counter(BytesCount::new(batch.text().len())).bench_local(|| {
        converted.clear();
        batch.iter().for_each(|record| append(record, &mut converted));
        black_box(converted.len())
    });
}

#[divan::bench]
fn convert_a_blob_to_message_pack(bencher: Bencher) {
    convert(bencher, |record, to| {
        message_pack::append_object(record.line(), to);
    });
}

#[divan::bench]
fn convert_a_blob_to_gelf(bencher: Bencher) {
    let content_type = ContentType::AuditSharePoint;
    let from =
        Source { tenant_id: TENANT_ID, tenant_name: Some("contoso"), content_type, content_id: "", blob: 0 };
    let mut gelf = Gelf::default();
    convert(bencher, |record, to| gelf.append(record, &from, to));
}

#[divan::bench]
fn convert_a_blob_to_csv(bencher: Bencher) {
    let mut columns = Columns::common(';');
    convert(bencher, |record, to| {
        columns.unite(record.line()); // as for the first batch of a file
        columns.append_row(record.line(), to);
    });
}

#[divan::bench]
fn compare_with_a_copy(bencher: Bencher) {
    with_body(bencher, |body| black_box(&body).clone());
}

#[divan::bench]
fn compare_with_raw_values(bencher: Bencher) {
    with_body(bencher, |body| serde_json::from_slice::<Vec<&RawValue>>(&body).expect("a JSON array").len());
}

#[divan::bench]
fn compare_with_values(bencher: Bencher) {
    with_body(bencher, |body| serde_json::from_slice::<serde_json::Value>(&body).expect("a JSON array"));
}

#[divan::bench(args = [10_000, 1_000_000])]
fn read_known_blobs(bencher: Bencher, lines: usize) {
    let folder = tempfile::tempdir().expect("a folder");
    let expiration = Timestamp::now() + (6 * 24).hours();
    let mut text = String::new();
    for blob in 0..lines {
        let _ = writeln!(
            text,
            "20261118051748{blob:09}$20261118051748{blob:09}$audit_sharepoint$Audit_SharePoint$emea0036,{expiration:.3},\
             {TENANT_ID},{CONTENT_TYPE}"
        );
    }
    fs::write(folder.path().join("known_blobs"), text).expect("space on the disk");
    bencher
        .counter(ItemsCount::new(lines))
        .bench(|| KnownBlobs::read(folder.path()).expect("a readable state"));
}

/// Writes the Ids of this number of records to a folder, as passes do, and opens them. They are read at the first lookup.
fn remembered_ids(folder: &Path, count: u128) -> RecordIds {
    let new =
        || RecordIds::new(folder, Duration::from_secs(24 * 3600), &Progress::default(), &Clock::start());
    let file = OutputSet::EMPTY.with(OutputName::File);
    let content = ContentHour::new(TENANT_ID, ContentType::AuditSharePoint, Timestamp::now());
    let all: Vec<_> = (0..count).map(|number| (spread(number), file, content)).collect();
    new().append(&all).expect("space on the disk");
    new()
}

/// Returns a number that is spread over 128 bits, like a GUID.
fn spread(number: u128) -> u128 {
    (number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835)
}

#[divan::bench(args = [1_000_000, 10_000_000], sample_count = 10)]
fn read_record_ids(bencher: Bencher, remembered: u128) {
    let folder = tempfile::tempdir().expect("a folder");
    remembered_ids(folder.path(), remembered);
    bencher.counter(ItemsCount::new(remembered as usize)).bench_local(|| {
        let mut ids = remembered_ids(folder.path(), 0);
        ids.outputs_with(spread(0), None).expect("a readable state")
    });
}

#[divan::bench(args = [1_000_000])]
fn look_up_an_id(bencher: Bencher, remembered: u128) {
    const LOOKED_UP: u128 = 1_000;
    let folder = tempfile::tempdir().expect("a folder");
    let mut ids = remembered_ids(folder.path(), remembered);
    bencher.counter(ItemsCount::new(LOOKED_UP as usize)).bench_local(|| {
        let known = (0..LOOKED_UP).filter(|number| {
            !ids.outputs_with(spread(number * 1_999), None).expect("a readable state").is_empty()
        });
        known.count()
    });
}
