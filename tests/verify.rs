//! `verify`: it names exactly what is missing or was delivered twice, and repairs exactly what is missing.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    path::PathBuf,
};

use serde_json::Value;
use simulator::{NewBlob, record};

use crate::support::{CONTOSO, FABRIKAM, Installation, Run, hours_ago, set_mode, whole_lines};

const FEED: &str = "Audit.General";
const FILE: &str = "AuditGeneral.json";

/// An installation that has collected three blobs of four records each.
fn collected() -> Installation {
    let installation = Installation::new();
    add_blobs(&installation, 3);
    installation.run(&[]).assert_code(0);
    installation
}

fn add_blobs(installation: &Installation, count: i64) {
    for hours in 1..=count {
        installation.contoso.add_blob(FEED, NewBlob::records(4).created(hours_ago(hours + 1)));
    }
}

fn output_file(installation: &Installation) -> PathBuf {
    installation.path("output").join(FILE)
}

/// Verifies the content, and returns the report.
fn verify(installation: &Installation, options: &[&str], code: i32) -> Value {
    let run = installation.run(&[&["verify", "--content", "--json", "--hours", "24"], options].concat());
    run.assert_code(code);
    serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {run}"))
}

/// The sum of a number over all feeds.
fn sum(report: &Value, group: &str, name: &str) -> u64 {
    let feeds = report["feeds"].as_array().expect("feeds");
    feeds.iter().filter_map(|feed| feed[group][name].as_u64()).sum()
}

/// The sums of `served`, `found`, `missing` and `repeated`.
fn records(report: &Value) -> [u64; 4] {
    ["served", "found", "missing", "repeated"].map(|name| sum(report, "records", name))
}

/// Verifies with this result, repairs, makes a pass, and expects that nothing is missing then and every record of the
/// simulator was delivered once.
fn repair(installation: &Installation, missing: u64) {
    let report = verify(installation, &["--repair"], 1);
    assert_eq!(report["repair"]["records"].as_u64(), Some(missing), "{report:#}");
    let saved = format!("Logs saved: {missing}");
    installation.run(&[]).assert_code(0).assert_line_with(&["Done!", &saved]);
    verify(installation, &[], 0);
}

/// The number of times that each Id is in the output files and in these lines.
fn ids(installation: &Installation, lines: &[String]) -> BTreeMap<String, usize> {
    let mut ids = installation.delivered_ids();
    for line in lines {
        *ids.entry(simulator::id_of(line).expect("a record")).or_default() += 1;
    }
    ids
}

#[test]
fn proves_that_everything_was_delivered() {
    let installation = collected();
    let run = installation.run(&["verify", "--content", "--hours", "24"]);
    run.assert_code(0);
    let sentence = run.stdout.lines().last().expect("a sentence");
    assert!(sentence.starts_with("Verified 5 feeds of contoso, "), "{run}");
    assert!(sentence.ends_with(": 3 blobs listed, all known; 12 records served, each found once."), "{run}");
    let ledger = installation.run(&["verify"]);
    ledger.assert_code(0);
    assert!(ledger.stdout.trim_end().ends_with(": 3 blobs listed, all known."), "{ledger}");
    let report = verify(&installation, &[], 0);
    assert_eq!((report["version"].as_u64(), report["is_clean"].as_bool()), (Some(1), Some(true)));
    installation.assert_delivered_once([(&installation.contoso, FEED)]);
}

#[test]
fn names_and_repairs_a_record_that_is_missing_in_a_file() {
    let installation = collected();
    let file = output_file(&installation);
    let mut lines = whole_lines(&file);
    lines.remove(5);
    fs::write(&file, lines.join("\n") + "\n").expect("a writable file");
    let report = verify(&installation, &[], 1);
    assert_eq!(records(&report), [12, 11, 1, 0], "{report:#}");
    let blobs = report["blobs"].as_array().expect("blobs");
    assert_eq!(blobs.len(), 1, "{report:#}");
    assert_eq!(
        (blobs[0]["records_missing"].as_u64(), blobs[0]["records_served"].as_u64()),
        (Some(1), Some(4)),
        "{report:#}"
    );
    repair(&installation, 1);
    installation.assert_delivered_once([(&installation.contoso, FEED)]);
}

#[test]
fn names_and_repairs_a_file_that_was_deleted() {
    let installation = collected();
    fs::remove_file(output_file(&installation)).expect("a file");
    assert_eq!(records(&verify(&installation, &[], 1)), [12, 0, 12, 0]);
    repair(&installation, 12);
    installation.assert_delivered_once([(&installation.contoso, FEED)]);
}

#[test]
fn names_a_record_that_is_in_a_file_twice_and_the_lines() {
    let installation = collected();
    let file = output_file(&installation);
    let mut lines = whole_lines(&file);
    lines.push(lines[2].clone());
    fs::write(&file, lines.join("\n") + "\n").expect("a writable file");
    let report = verify(&installation, &["--repair"], 1);
    assert_eq!(records(&report), [12, 11, 0, 1], "{report:#}");
    let places = report["repeated"].as_array().expect("places");
    let lines: Vec<_> = places.iter().filter_map(|place| place["line"].as_u64()).collect();
    assert_eq!(lines, [3, 13], "{report:#}");
    assert_eq!(report["repair"]["blobs"].as_u64(), Some(0), "{report:#}");
    installation.run(&[]).assert_code(0).assert_line_with(&["Done!", "Logs saved: 0"]);
}

#[test]
fn finds_records_in_rotated_and_compressed_files() {
    let installation = collected();
    let file = output_file(&installation);
    let lines = whole_lines(&file);
    let text = |lines: &[String]| lines.iter().flat_map(|line| [line, "\n"]).collect::<String>();
    fs::write(&file, text(&lines[..3])).expect("a writable file");
    fs::write(file.with_extension("json.1"), text(&lines[3..6])).expect("a writable folder");
    let compressed = File::create(file.with_extension("json.2.gz")).expect("a writable folder");
    let mut encoder = flate2::write::GzEncoder::new(compressed, flate2::Compression::fast());
    encoder.write_all(text(&lines[6..]).as_bytes()).expect("room");
    encoder.finish().expect("room");
    assert_eq!(records(&verify(&installation, &[], 0)), [12, 12, 0, 0]);
}

#[test]
fn names_a_rotated_file_that_is_damaged_and_repairs_what_it_lacks() {
    let installation = collected();
    let file = output_file(&installation);
    let lines = whole_lines(&file);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    for line in &lines {
        encoder.write_all(format!("{line}\n").as_bytes()).expect("room");
    }
    let mut bytes = encoder.finish().expect("room");
    bytes.truncate(bytes.len() / 2);
    let rotated = file.with_extension("json.1.gz");
    fs::write(&rotated, bytes).expect("a writable folder");
    fs::remove_file(&file).expect("a file");
    let report = verify(&installation, &[], 1);
    let damaged = report["files"].as_array().expect("files").iter().find(|file| !file["damage"].is_null());
    let damaged = damaged.unwrap_or_else(|| panic!("a damaged file in {report:#}"));
    assert_eq!(damaged["path"].as_str(), rotated.to_str());
    let [served, found, missing, repeated] = records(&report);
    assert!(served == 12 && found + missing == 12 && missing > 0 && repeated == 0, "{report:#}");

    let before = installation.run(&["verify", "--content", "--repair", "--hours", "24"]);
    before.assert_code(1);
    installation.run(&[]).assert_code(0).assert_line_with(&["Done!", &format!("Logs saved: {missing}")]);
    let report = verify(&installation, &[], 1); // the file stays damaged
    assert_eq!(records(&report), [12, 12, 0, 0], "{report:#}");
}

#[test]
fn names_a_blob_that_is_unknown_and_repairs_it_without_a_repeated_record() {
    let installation = collected();
    let path = installation.path("state/known_blobs");
    let known = whole_lines(&path);
    fs::write(&path, known[1..].join("\n") + "\n").expect("a writable file");
    let report = verify(&installation, &[], 1);
    assert_eq!((sum(&report, "blobs", "known"), sum(&report, "blobs", "unknown")), (2, 1), "{report:#}");
    let id = known[0].split(',').next();
    assert_eq!(report["blobs"][0]["content_id"].as_str(), id, "{report:#}");
    // Without the Ids, only the comparison with the files shows that its records were delivered.
    fs::remove_dir_all(installation.path("state/record_ids")).expect("a folder");
    repair(&installation, 0);
    installation.assert_delivered_once([(&installation.contoso, FEED)]);
}

#[test]
fn counts_a_record_with_the_same_id_in_two_tenants_as_two() {
    let (installation, fabrikam) = Installation::with_fabrikam();
    let shared = record(FEED, CONTOSO, hours_ago(5), 1);
    installation.contoso.add_blob(FEED, NewBlob::texts([&shared]).created(hours_ago(2)));
    fabrikam.add_blob(
        FEED,
        NewBlob::texts([&shared, &record(FEED, FABRIKAM, hours_ago(5), 2)]).created(hours_ago(2)),
    );
    installation.run(&[]).assert_code(0);
    assert_eq!(records(&verify(&installation, &[], 0)), [3, 3, 0, 0]);

    let file = output_file(&installation);
    let mut lines = whole_lines(&file);
    let all = lines.clone();
    let id = simulator::id_of(&shared).expect("a record");
    lines.retain(|line| !(line.contains(&id) && line.contains("\"TenantName\":\"fabrikam\"")));
    assert_eq!(lines.len(), 2);
    fs::write(&file, lines.join("\n") + "\n").expect("a writable file");
    let report = verify(&installation, &[], 1);
    assert_eq!(records(&report), [3, 2, 1, 0], "{report:#}");
    assert_eq!(report["blobs"][0]["tenant"].as_str(), Some("fabrikam"), "{report:#}");
    repair(&installation, 1);
    let sorted = |mut lines: Vec<String>| {
        lines.sort();
        lines
    };
    assert_eq!(sorted(whole_lines(&file)), sorted(all));
}

#[test]
fn names_records_that_an_earlier_filter_has_dropped_and_repairs_them() {
    let text = |number: u64, operation: &str| {
        format!("{{\"Id\":\"11111111-0000-4000-8000-{number:012}\",\"Operation\":\"{operation}\"}}")
    };
    let filter = format!("filter: {{ {FEED}: {{ Operation: [ \"Send\" ] }} }}");
    let installation = Installation::new().collect(&filter);
    let texts = [text(1, "Send"), text(2, "Send"), text(3, "Create"), text(4, "Delete")];
    installation.contoso.add_blob(FEED, NewBlob::texts(&texts).created(hours_ago(2)));
    installation.run(&[]).assert_code(0);
    let report = verify(&installation, &[], 0);
    assert_eq!((records(&report), sum(&report, "records", "filtered")), ([2, 2, 0, 0], 2), "{report:#}");

    let config = installation.path("unfiltered.yaml");
    fs::write(&config, installation.config().replace(&filter, "")).expect("a writable folder");
    set_mode(&config, 0o600);
    let config = config.display().to_string();
    let run = |arguments: &[&str]| installation.run_bare(&[&["--config", &config], arguments].concat());
    run(&[]).assert_code(0);
    let text = run(&["verify", "--content", "--hours=24"]);
    assert!(text.stdout.contains("the earlier filter may have dropped them"), "{text}");
    let verified = run(&["verify", "--content", "--hours=24", "--json", "--repair"]);
    let report: Value = serde_json::from_str(&verified.assert_code(1).stdout).expect("JSON");
    assert_eq!(records(&report), [4, 2, 2, 0], "{report:#}");
    assert_eq!(sum(&report, "records", "missing_of_earlier_filter"), 2, "{report:#}");
    run(&[]).assert_code(0).assert_line_with(&["Done!", "Logs saved: 2"]);
    run(&["verify", "--content", "--hours=24"]).assert_code(0);
    installation.assert_delivered_once([(&installation.contoso, FEED)]);
}

#[test]
fn compares_csv_and_records_without_an_id() {
    let installation = Installation::new().output_file("audit.csv");
    let plain = r#"{"Operation":"x;\"y\""}"#;
    let with_id = record(FEED, CONTOSO, hours_ago(5), 1);
    installation.contoso.add_blob(FEED, NewBlob::texts([plain, plain, &with_id]).created(hours_ago(2)));
    installation.run(&[]).assert_code(0);
    assert_eq!(records(&verify(&installation, &[], 0)), [3, 3, 0, 0]);
    let file = installation.path("output").join("audit_AuditGeneral.csv");
    let mut lines = whole_lines(&file);
    let all = lines.clone();
    lines.remove(1);
    fs::write(&file, lines.join("\n") + "\n").expect("a writable file");
    assert_eq!(records(&verify(&installation, &[], 1)), [3, 2, 1, 0]);
    repair(&installation, 1);
    assert_eq!(whole_lines(&file).len(), all.len());
}

#[test]
fn leaves_the_state_and_the_files_as_they_are() {
    let installation = collected();
    let contents = |folder: &str| -> BTreeMap<PathBuf, Vec<u8>> {
        let entries = fs::read_dir(installation.path(folder)).expect("a folder");
        let paths = entries.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_file());
        paths.map(|path| (path.clone(), fs::read(path).expect("a file"))).collect()
    };
    let before = ["state", "output"].map(contents);
    verify(&installation, &[], 0);
    installation.run(&["verify"]).assert_code(0);
    assert_eq!(["state", "output"].map(contents), before);
}

#[test]
fn says_what_keeps_it_from_a_result() {
    let installation = collected();
    let config = installation.config_with_output("  stdout:\n    enabled: true");
    let run =
        |arguments: &[&str]| -> Run { installation.run_bare(&[&["--config", &config], arguments].concat()) };
    run(&["verify", "--content"]).assert_code(64).assert_line_with(&["no output.file", "--files"]);
    run(&["verify"]).assert_code(0);
    let pattern = output_file(&installation).display().to_string();
    run(&["verify", "--files", &pattern, "--hours=24"]).assert_code(0);
    installation.contoso.settings(|settings| settings.secret = "another".to_owned());
    installation.run(&["verify"]).assert_code(77);
    assert_eq!(ids(&installation, &[]).len(), 12);
}
