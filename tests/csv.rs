//! CSV files as the older tool wrote them: the columns are those of the first batch, and each record is one whole row.

use std::{collections::BTreeMap, fs, path::Path, thread, time::Duration};

use serde_json::{Map, Value};
use simulator::{NewBlob, record};

use crate::support::{
    CONTOSO, Installation, hours_ago,
    process::{disk_steps, kill},
    records_of, whole_lines,
};

const FEEDS: [&str; 2] = ["Audit.General", "DLP.All"];

/// Records without an Id: two equal ones, and one with quotes, a line break and a nested object.
const WITHOUT_ID: [&str; 3] =
    [r#"{"Operation":"x;y"}"#, r#"{"Operation":"x;y"}"#, r#"{"Operation":"a \"b\"\n","New":{"c":[1]}}"#];

/// Writes a configuration with CSV files. Returns its path.
fn csv_config(installation: &Installation) -> String {
    let path = installation.path("output/audit.csv");
    installation
        .config_with_output(&format!("  file: {{ path: {}, separateByContentType: true }}", path.display()))
}

/// The fields of each row that are not empty, by column. The fields in the JSON of the last column are included.
fn rows_of(path: &Path) -> Vec<BTreeMap<String, String>> {
    let lines = whole_lines(path);
    let mut lines = lines.iter().map(|line| cells_of(line));
    let Some(header) = lines.next() else { return Vec::new() };
    assert_eq!((header[0].as_str(), header[header.len() - 1].as_str()), ("Id", "MoreFields"));
    lines
        .map(|cells| {
            assert_eq!(cells.len(), header.len(), "{cells:?}");
            let mut fields: BTreeMap<_, _> =
                header.iter().cloned().zip(cells.into_iter().map(normalized)).collect();
            if let Some(rest) = fields.remove("MoreFields").filter(|rest| !rest.is_empty()) {
                for (name, value) in serde_json::from_str::<Map<String, Value>>(&rest).expect("an object") {
                    fields.insert(name, cell_of(&value));
                }
            }
            fields.retain(|_, text| !text.is_empty());
            fields
        })
        .collect()
}

/// Splits a line into its cells, as RFC 4180 defines them, with semicolons.
fn cells_of(line: &str) -> Vec<String> {
    let mut cells = vec![String::new()];
    let mut characters = line.chars().peekable();
    let mut is_quoted = false;
    while let Some(character) = characters.next() {
        match character {
            '"' if is_quoted && characters.next_if_eq(&'"').is_some() => {
                cells.last_mut().expect("at least one cell").push('"');
            }
            '"' => is_quoted = !is_quoted,
            ';' if !is_quoted => cells.push(String::new()),
            _ => cells.last_mut().expect("at least one cell").push(character),
        }
    }
    assert!(!is_quoted, "a quote is not closed: {line}");
    cells
}

/// The expected cell for a value.
fn cell_of(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.chars().map(escaped).collect(),
        _ => value.to_string(),
    }
}

/// Replaces a control character by its JSON escape.
fn escaped(character: char) -> String {
    let text = character.to_string();
    if character < ' ' { Value::from(text).to_string().trim_matches('"').to_owned() } else { text }
}

/// A cell with its JSON as `serde_json` writes it.
fn normalized(cell: String) -> String {
    match cell.chars().next() {
        Some('{' | '[') => serde_json::from_str::<Value>(&cell).map_or(cell, |value| value.to_string()),
        _ => cell,
    }
}

/// The rows of all files, rotated ones included, sorted.
fn delivered(installation: &Installation) -> Vec<BTreeMap<String, String>> {
    let files = fs::read_dir(installation.path("output")).into_iter().flatten();
    let mut rows: Vec<_> =
        files.flat_map(|entry| rows_of(&entry.expect("a readable folder").path())).collect();
    rows.sort();
    rows
}

/// Asserts that the files contain one row for each record, with the same fields.
#[track_caller]
fn assert_rows_delivered_once(installation: &Installation, when: &str) {
    let mut expected = Vec::new();
    for feed in FEEDS {
        for text in installation.contoso.blobs(feed).iter().flat_map(records_of) {
            let fields: Map<String, Value> = serde_json::from_str(&text).expect("an object");
            let mut row: BTreeMap<_, _> =
                fields.iter().map(|(name, value)| (name.clone(), cell_of(value))).collect();
            row.extend([
                ("OriginFeed".to_owned(), feed.to_owned()),
                ("TenantName".to_owned(), "contoso".to_owned()),
            ]);
            row.retain(|_, text| !text.is_empty());
            expected.push(row);
        }
    }
    expected.sort();
    let delivered = delivered(installation);
    let lost: Vec<_> = expected.iter().filter(|row| !delivered.contains(row)).take(2).collect();
    let unexpected: Vec<_> = delivered.iter().filter(|row| !expected.contains(row)).take(2).collect();
    assert!(
        delivered == expected,
        "{when}: {} rows are expected and {} delivered; lost: {lost:?}, unexpected: {unexpected:?}",
        expected.len(),
        delivered.len()
    );
}

#[test]
fn writes_each_field_into_its_column_or_the_last_one() {
    let installation = Installation::new();
    let contoso = &installation.contoso;
    let config = csv_config(&installation);
    for hours in [5, 4] {
        contoso.add_blob(FEEDS[0], NewBlob::records(40).plain().created(hours_ago(hours)));
        contoso.add_blob(FEEDS[1], NewBlob::records(10).plain().created(hours_ago(hours)));
        contoso.add_blob(FEEDS[0], NewBlob::texts(WITHOUT_ID).created(hours_ago(hours)));
        installation.run_bare(&["-c", &config]).assert_code(0);
        assert_rows_delivered_once(&installation, "after a pass");
    }
    let mut names: Vec<_> = installation.output().into_keys().collect();
    names.sort();
    assert_eq!(names, ["audit_AuditGeneral.csv", "audit_DLPAll.csv"]);
    installation.run_bare(&["-c", &config, "check"]).assert_code(0);
}

#[test]
fn leaves_file_with_other_header_and_reports_hint() {
    let installation = Installation::new();
    installation.contoso.add_blob(FEEDS[0], NewBlob::records(2).created(hours_ago(2)));
    fs::create_dir(installation.path("output")).expect("a new folder");
    let path = installation.path("output/audit_AuditGeneral.csv");
    fs::write(&path, "CreationTime,Id\n").expect("a writable folder");
    let config = csv_config(&installation);
    let run = installation.run_bare(&["-c", &config]);
    run.assert_code(74).assert_line_with(&["not a header of this program; move the file away"]);
    assert_eq!(installation.known_blobs(), [""; 0]);
    fs::remove_file(&path).expect("a writable folder");
    installation.run_bare(&["-c", &config]).assert_code(0);
    assert_eq!(rows_of(&path).len(), 2);
}

/// Runs a pass with this kind of fault at each disk operation in turn, each followed by a pass without a fault.
fn run_with_fault_at_each_disk_operation(kind: &str) {
    let mut faults = 0;
    for step in disk_steps() {
        let installation =
            Installation::new().setting("subscriptions: [ Audit.General, DLP.All ]").collect("maxThreads: 4");
        let contoso = &installation.contoso;
        let config = csv_config(&installation);
        // One file exists and keeps its columns; the other one is new.
        fs::create_dir(installation.path("output")).expect("a new folder");
        let header = "Id;Operation;MoreFields\n";
        fs::write(installation.path("output/audit_AuditGeneral.csv"), header).expect("a writable folder");
        for (feed, seed) in [(FEEDS[0], 0), (FEEDS[1], 9)] {
            let records = [seed, seed + 1].map(|seed| record(feed, CONTOSO, hours_ago(5), seed));
            contoso.add_blob(feed, NewBlob::texts(records).created(hours_ago(3)));
            contoso.add_blob(feed, NewBlob::texts(WITHOUT_ID).created(hours_ago(3)));
        }
        let fault = format!("{step}:{kind}");
        let (has_occurred, run) =
            installation.run_command_with_fault(&mut installation.command(&["-c", &config]), &fault);
        if !has_occurred {
            run.assert_code(0);
            break;
        }
        faults += 1;
        delivered(&installation); // asserts that every row is whole
        installation.run_bare(&["-c", &config]).assert_code(0);
        assert_rows_delivered_once(&installation, &fault);
    }
    assert!(faults > 20, "a pass has more than {faults} disk operations");
}

#[test]
fn loses_and_doubles_no_row_after_kill_at_any_disk_operation() {
    run_with_fault_at_each_disk_operation("kill-before");
}

#[test]
fn loses_and_doubles_no_row_after_short_write_at_any_disk_operation() {
    run_with_fault_at_each_disk_operation("short");
}

#[test]
fn loses_and_doubles_no_row_after_random_kills_and_rotations() {
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let installation = Installation::new();
    let config = csv_config(&installation);
    for round in 0..20 {
        for feed in FEEDS {
            for _ in 0..random.usize(0..4) {
                let blob = NewBlob::records(random.usize(1..20)).plain();
                installation.contoso.add_blob(feed, blob.created(hours_ago(random.i64(2..20))));
            }
        }
        if random.u8(..4) == 0 {
            installation.contoso.add_blob(FEEDS[0], NewBlob::texts(WITHOUT_ID).created(hours_ago(3)));
        }
        let child = installation.command(&["-c", &config]).spawn().expect("the program starts");
        thread::sleep(Duration::from_millis(random.u64(0..60)));
        kill(child);
        let path = installation.path("output/audit_AuditGeneral.csv");
        if random.u8(..4) == 0 && path.exists() {
            fs::rename(&path, path.with_extension(format!("csv.{round}"))).expect("a writable folder");
        }
    }
    installation.run_bare(&["-c", &config]).assert_code(0);
    assert_rows_delivered_once(&installation, "after kills");
    installation.run_bare(&["-c", &config]).assert_code(0).assert_line("[WARN] No new blobs found");
    assert_rows_delivered_once(&installation, "after one more pass");
}
