//! CSV as the older tool's users know it: columns united over a batch, nothing lost, nothing twice, every row whole.

use std::{collections::BTreeMap, fs, path::Path, thread, time::Duration};

use serde_json::{Map, Value};
use simulator::{NewBlob, record};

use crate::support::{
    CONTOSO, Installation, hours_ago,
    process::{disk_steps, kill},
    records_of, whole_lines,
};

const FEEDS: [&str; 2] = ["Audit.General", "DLP.All"];

/// Two records that nothing tells apart, and one whose fields say different things.
const NAMELESS: [&str; 3] =
    [r#"{"Operation":"x;y"}"#, r#"{"Operation":"x;y"}"#, r#"{"Operation":"a \"b\"\n","New":{"c":[1]}}"#];

fn csv(installation: &Installation) -> String {
    let path = installation.path("output/audit.csv");
    installation
        .config_with_output(&format!("  file: {{ path: {}, separateByContentType: true }}", path.display()))
}

/// The fields of each row, by the header's names, empty ones left out; those of the last column among them.
fn rows_of(path: &Path) -> Vec<BTreeMap<String, String>> {
    let lines = whole_lines(path);
    let mut lines = lines.iter().map(|line| cells_of(line));
    let Some(header) = lines.next() else { return Vec::new() };
    assert_eq!((header[0].as_str(), header[header.len() - 1].as_str()), ("Id", "MoreFields"));
    lines
        .map(|cells| {
            assert_eq!(cells.len(), header.len(), "{cells:?}");
            let mut fields: BTreeMap<_, _> =
                header.iter().cloned().zip(cells.into_iter().map(normal)).collect();
            if let Some(rest) = fields.remove("MoreFields").filter(|rest| !rest.is_empty()) {
                for (name, value) in serde_json::from_str::<Map<String, Value>>(&rest).expect("an object") {
                    fields.insert(name, said(&value));
                }
            }
            fields.retain(|_, text| !text.is_empty());
            fields
        })
        .collect()
}

/// Reads a line as RFC 4180 has it.
fn cells_of(line: &str) -> Vec<String> {
    let mut cells = vec![String::new()];
    let mut characters = line.chars().peekable();
    let mut is_quoted = false;
    while let Some(character) = characters.next() {
        match character {
            '"' if is_quoted && characters.next_if_eq(&'"').is_some() => {
                cells.last_mut().expect("one").push('"');
            }
            '"' => is_quoted = !is_quoted,
            ';' if !is_quoted => cells.push(String::new()),
            _ => cells.last_mut().expect("one").push(character),
        }
    }
    assert!(!is_quoted, "{line}");
    cells
}

/// What a cell says of a value.
fn said(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.chars().map(on_one_line).collect(),
        _ => value.to_string(),
    }
}

fn on_one_line(character: char) -> String {
    let text = character.to_string();
    if character < ' ' { Value::from(text).to_string().trim_matches('"').to_owned() } else { text }
}

/// With the escapes in it as this test writes them.
fn normal(cell: String) -> String {
    match cell.chars().next() {
        Some('{' | '[') => serde_json::from_str::<Value>(&cell).map_or(cell, |value| value.to_string()),
        _ => cell,
    }
}

/// Every row of every file, rotated ones included.
fn delivered(installation: &Installation) -> Vec<BTreeMap<String, String>> {
    let files = fs::read_dir(installation.path("output")).into_iter().flatten();
    let mut rows: Vec<_> =
        files.flat_map(|entry| rows_of(&entry.expect("a readable folder").path())).collect();
    rows.sort();
    rows
}

/// Holds the rows against the records, field by field.
#[track_caller]
fn assert_rows_delivered_once(installation: &Installation, what: &str) {
    let mut expected = Vec::new();
    for feed in FEEDS {
        for text in installation.contoso.blobs(feed).iter().flat_map(records_of) {
            let fields: Map<String, Value> = serde_json::from_str(&text).expect("an object");
            let mut row: BTreeMap<_, _> =
                fields.iter().map(|(name, value)| (name.clone(), said(value))).collect();
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
    let strange: Vec<_> = delivered.iter().filter(|row| !expected.contains(row)).take(2).collect();
    assert!(
        delivered == expected,
        "{what}: {} rows are expected and {} delivered; lost: {lost:?}, strange: {strange:?}",
        expected.len(),
        delivered.len()
    );
}

#[test]
fn each_field_is_in_its_column_or_in_the_last_one() {
    let installation = Installation::new();
    let contoso = &installation.contoso;
    let config = csv(&installation);
    for hours in [5, 4] {
        contoso.add_blob(FEEDS[0], NewBlob::records(40).plain().created(hours_ago(hours)));
        contoso.add_blob(FEEDS[1], NewBlob::records(10).plain().created(hours_ago(hours)));
        contoso.add_blob(FEEDS[0], NewBlob::texts(NAMELESS).created(hours_ago(hours)));
        installation.run_bare(&["-c", &config]).assert_code(0);
        assert_rows_delivered_once(&installation, "after a pass");
    }
    let mut names: Vec<_> = installation.output().into_keys().collect();
    names.sort();
    assert_eq!(names, ["audit_AuditGeneral.csv", "audit_DLPAll.csv"]);
    installation.run_bare(&["-c", &config, "check"]).assert_code(0);
}

#[test]
fn a_file_with_another_header_is_left_as_it_is_and_the_mend_is_told() {
    let installation = Installation::new();
    installation.contoso.add_blob(FEEDS[0], NewBlob::records(2).created(hours_ago(2)));
    fs::create_dir(installation.path("output")).expect("a folder");
    let path = installation.path("output/audit_AuditGeneral.csv");
    fs::write(&path, "CreationTime,Id\n").expect("a file");
    let config = csv(&installation);
    let run = installation.run_bare(&["-c", &config]);
    run.assert_code(74).assert_line_with(&["not a header of this program; move the file away"]);
    assert_eq!(installation.known_blobs(), [""; 0]);
    fs::remove_file(&path).expect("a file");
    installation.run_bare(&["-c", &config]).assert_code(0);
    assert_eq!(rows_of(&path).len(), 2);
}

/// Strikes at each step on the disk in turn.
fn strike_everywhere(kind: &str) {
    let mut struck = 0;
    for step in disk_steps() {
        let installation = Installation::new().setting("subscriptions: [ Audit.General, DLP.All ]");
        let contoso = &installation.contoso;
        let config = csv(&installation);
        // One file goes on with its columns, the other one is new.
        fs::create_dir(installation.path("output")).expect("a folder");
        let there = "Id;Operation;MoreFields\n";
        fs::write(installation.path("output/audit_AuditGeneral.csv"), there).expect("a file");
        for (feed, seed) in [(FEEDS[0], 0), (FEEDS[1], 9)] {
            let records = [seed, seed + 1].map(|seed| record(feed, CONTOSO, hours_ago(5), seed));
            contoso.add_blob(feed, NewBlob::texts(records).created(hours_ago(3)));
            contoso.add_blob(feed, NewBlob::texts(NAMELESS).created(hours_ago(3)));
        }
        let fault = format!("{step}:{kind}");
        let (is_struck, run) = installation.strike(&mut installation.command(&["-c", &config]), &fault);
        if !is_struck {
            run.assert_code(0);
            break;
        }
        struck += 1;
        delivered(&installation); // every row is whole
        installation.run_bare(&["-c", &config]).assert_code(0);
        assert_rows_delivered_once(&installation, &fault);
    }
    assert!(struck > 20, "a pass takes more than {struck} steps on the disk");
}

#[test]
fn a_kill_before_any_step_loses_no_row_and_doubles_none() {
    strike_everywhere("kill-before");
}

#[test]
fn a_write_cut_short_at_any_step_loses_no_row_and_doubles_none() {
    strike_everywhere("short");
}

#[test]
fn random_kills_and_rotations_lose_no_row_and_double_none() {
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let installation = Installation::new();
    let config = csv(&installation);
    for round in 0..20 {
        for feed in FEEDS {
            for _ in 0..random.usize(0..4) {
                let blob = NewBlob::records(random.usize(1..20)).plain();
                installation.contoso.add_blob(feed, blob.created(hours_ago(random.i64(2..20))));
            }
        }
        if random.u8(..4) == 0 {
            installation.contoso.add_blob(FEEDS[0], NewBlob::texts(NAMELESS).created(hours_ago(3)));
        }
        let child = installation.command(&["-c", &config]).spawn().expect("the program starts");
        thread::sleep(Duration::from_millis(random.u64(0..60)));
        kill(child);
        let path = installation.path("output/audit_AuditGeneral.csv");
        if random.u8(..4) == 0 && path.exists() {
            fs::rename(&path, path.with_extension(format!("csv.{round}"))).expect("a file");
        }
    }
    installation.run_bare(&["-c", &config]).assert_code(0);
    assert_rows_delivered_once(&installation, "after kills");
    installation.run_bare(&["-c", &config]).assert_code(0).assert_line("[WARN] No new blobs found");
    assert_rows_delivered_once(&installation, "one more pass changes nothing");
}
