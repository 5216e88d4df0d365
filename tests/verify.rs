//! `verify`: it names exactly what is missing or was delivered twice, and repairs exactly what is missing.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    sync::{Mutex, mpsc},
};

use serde_json::Value;
use simulator::{Fault, NewBlob, Operation, Requests, record};

use crate::{
    exactly_once::set_listed_until,
    support::{
        CONTOSO, FABRIKAM, Installation, Run, hours_ago,
        process::{WAIT_MAX, disk_steps, wait_until},
        set_mode, whole_lines,
    },
};

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

/// The contents of the files of the state, and of those of the output.
fn contents(installation: &Installation) -> [BTreeMap<PathBuf, Vec<u8>>; 2] {
    ["state", "output"].map(|folder| {
        let entries = fs::read_dir(installation.path(folder)).expect("a folder");
        let paths = entries.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_file());
        paths.map(|path| (path.clone(), fs::read(path).expect("a file"))).collect()
    })
}

#[test]
fn leaves_the_state_and_the_files_as_they_are() {
    let installation = collected();
    let before = contents(&installation);
    verify(&installation, &[], 0);
    installation.run(&["verify"]).assert_code(0);
    assert_eq!(contents(&installation), before);
}

#[test]
fn repairs_each_copy_of_a_record_without_an_id() {
    let installation = Installation::new();
    let plain = r#"{"Operation":"x"}"#;
    for hours in [2, 3] {
        installation.contoso.add_blob(FEED, NewBlob::texts([plain]).created(hours_ago(hours)));
    }
    installation.run(&[]).assert_code(0);
    fs::write(output_file(&installation), "").expect("a writable file");
    let report = verify(&installation, &[], 1);
    assert_eq!(records(&report), [2, 0, 2, 0], "{report:#}");
    assert_eq!(report["blobs"].as_array().map(Vec::len), Some(2), "{report:#}");
    repair(&installation, 2);
    installation.assert_lines_delivered_once([(&installation.contoso, FEED)]);
}

#[test]
fn does_not_count_a_record_without_an_id_as_repeated_because_of_an_older_blob() {
    let installation = Installation::new();
    for hours in [2, 40] {
        let blob = NewBlob::texts([r#"{"Operation":"x"}"#]).created(hours_ago(hours));
        installation.contoso.add_blob(FEED, blob);
    }
    installation.run(&["--hours", "48"]).assert_code(0);
    assert_eq!(records(&verify(&installation, &[], 0)), [1, 1, 0, 0]);
}

#[test]
fn restricts_itself_to_a_tenant_and_does_not_find_the_records_of_another_one_in_its_place() {
    let (installation, fabrikam) = Installation::with_fabrikam();
    let shared = record(FEED, CONTOSO, hours_ago(5), 1);
    for tenant in [&installation.contoso, &fabrikam] {
        tenant.add_blob(FEED, NewBlob::texts([&shared]).created(hours_ago(2)));
    }
    installation.run(&[]).assert_code(0);
    let file = output_file(&installation);
    let all = whole_lines(&file);
    let own = |line: &&String| !line.contains("\"TenantName\":\"fabrikam\"");
    fs::write(&file, all.iter().filter(own).flat_map(|line| [line, "\n"]).collect::<String>())
        .expect("a writable file");
    let only_contoso = ["--tenant", "contoso", "--repair"];
    let report = verify(&installation, &only_contoso, 0);
    assert_eq!((records(&report), report["repair"]["blobs"].as_u64()), ([1, 1, 0, 0], Some(0)), "{report:#}");
    let shards = ["0/2", "1/2"].map(|shard| {
        let run = installation.run(&["verify", "--content", "--json", "--hours", "24", "--shard", shard]);
        records(&serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {run}")))
    });
    assert_eq!([0, 1, 2, 3].map(|count| shards[0][count] + shards[1][count]), [2, 1, 1, 0], "{shards:?}");
    let report = verify(&installation, &["--tenant", "fabrikam", "--repair"], 1);
    assert_eq!(records(&report), [1, 0, 1, 0], "{report:#}");
    installation.run(&[]).assert_code(0).assert_line_with(&["Done!", "Logs saved: 1"]);
    verify(&installation, &[], 0);
    assert_eq!(whole_lines(&file).len(), all.len());
}

#[test]
fn does_not_take_a_body_in_quarantine_for_a_delivered_blob() {
    let installation = Installation::new().collect("retries: 1");
    let body = format!("[{},", record(FEED, CONTOSO, hours_ago(5), 1));
    installation.contoso.add_blob(FEED, NewBlob::body(body).created(hours_ago(3)));
    let mut passes = (0..6).map(|_| installation.run(&[]));
    assert!(passes.any(|run| run.stderr.contains("quarantine")), "the blob is salvaged");
    let report = verify(&installation, &[], 0);
    assert_eq!(sum(&report, "blobs", "quarantined"), 1, "{report:#}");
    fs::write(installation.path("state/known_blobs"), "").expect("a writable file");
    let report = verify(&installation, &[], 1);
    assert_eq!(sum(&report, "blobs", "unknown"), 1, "{report:#}");
}

#[test]
fn repairs_the_file_and_no_other_output() {
    let installation = collected();
    let path = installation.path("two-outputs.yaml");
    fs::write(&path, installation.config() + "  stdout:\n    enabled: true\n").expect("a writable folder");
    set_mode(&path, 0o600);
    let path = path.display().to_string();
    let run =
        |arguments: &[&str]| -> Run { installation.run_bare(&[&["--config", &path], arguments].concat()) };
    installation.contoso.add_blob(FEED, NewBlob::records(2).created(hours_ago(1)));
    assert_eq!(run(&[]).assert_code(0).stdout.lines().count(), 2);
    let file = output_file(&installation);
    let lines = whole_lines(&file);
    fs::write(&file, lines[1..13].join("\n") + "\n").expect("a writable file");
    run(&["verify", "--repair", "--hours", "24"]).assert_code(1);
    let pass = run(&[]);
    assert_eq!(pass.assert_code(0).assert_line_with(&["Logs saved: 2"]).stdout, "");
    verify(&installation, &[], 0);
    installation.assert_delivered_once([(&installation.contoso, FEED)]);

    // Without output.file, the files are those of a receiver, and no pass writes to them.
    fs::write(&file, "").expect("a writable file");
    let config = installation.config_with_output("  stdout:\n    enabled: true");
    let pattern = file.display().to_string();
    let arguments = ["--config", &config, "verify", "--repair", "--json", "--files", &pattern];
    let run = installation.run_bare(&arguments);
    let report: Value = serde_json::from_str(&run.assert_code(1).stdout).expect("JSON");
    assert_eq!((records(&report)[2], report["repair"]["blobs"].as_u64()), (14, Some(0)), "{report:#}");
}

#[test]
fn reads_each_format_of_compressed_files() {
    let installation = collected();
    let file = output_file(&installation);
    let lines: Vec<_> = whole_lines(&file).into_iter().map(|line| line + "\n").collect();
    let part = |number: usize| lines[number * 4..(number + 1) * 4].concat();
    let bz2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    let xz = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(1));
    let bz2 = finished(bz2, &part(0), bzip2::write::BzEncoder::finish);
    let xz = finished(xz.expect("options"), &part(1), lzma_rust2::XzWriter::finish);
    let zst =
        ruzstd::encoding::compress_to_vec(part(2).as_bytes(), ruzstd::encoding::CompressionLevel::Fastest);
    for (name, bytes) in [("bz2", bz2), ("xz", xz), ("zst", zst)] {
        fs::write(file.with_extension(format!("json-20261128.{name}")), bytes).expect("a writable folder");
    }
    fs::remove_file(&file).expect("a file");
    assert_eq!(records(&verify(&installation, &[], 0)), [12, 12, 0, 0]);
}

fn finished<Encoder: Write>(
    mut encoder: Encoder,
    text: &str,
    finish: impl FnOnce(Encoder) -> std::io::Result<Vec<u8>>,
) -> Vec<u8> {
    encoder.write_all(text.as_bytes()).and_then(|()| finish(encoder)).expect("memory")
}

#[test]
fn verifies_at_every_step_of_a_pass() {
    let installation = Installation::new().setting(&format!("subscriptions: [ {FEED} ]"));
    let add_blob = |hours| {
        installation.contoso.add_blob(FEED, NewBlob::records(4).created(hours_ago(hours)));
    };
    [6, 5].into_iter().for_each(add_blob);
    installation.run(&[]).assert_code(0);
    set_listed_until(&installation, hours_ago(4));
    [3, 2].into_iter().for_each(add_blob);
    let mark = installation.path("mark");
    let mut pass = installation.pass();
    pass.env("COLLECTOR_DISK_FAULT", "1+:wait").env("COLLECTOR_DISK_FAULT_MARK", &mark);
    let mut pass = pass.spawn().expect("the program starts");
    let mut before = contents(&installation);
    let mut verified = 0;
    for step in disk_steps() {
        let mut has_ended = false;
        wait_until("the pass waits at its next step or ends", || {
            has_ended = pass.try_wait().expect("a child of this process").is_some();
            has_ended || mark.exists()
        });
        if has_ended {
            break;
        }
        let now = contents(&installation);
        if step == 1 || now != before {
            let report = verify(&installation, &[], 0);
            assert_eq!(sum(&report, "blobs", "listed"), 4, "step {step}: {report:#}");
            assert_eq!(contents(&installation), now, "step {step}");
            verified += 1;
        }
        before = now;
        fs::remove_file(&mark).expect("the mark");
    }
    Run::finish(pass).assert_code(0);
    assert!(verified > 3, "the pass changes files in more than {verified} steps");
    assert_eq!(records(&verify(&installation, &[], 0)), [16, 16, 0, 0]);
    installation.assert_delivered_once([(&installation.contoso, FEED)]);
}

#[test]
fn is_clean_if_a_pass_starts_and_ends_while_it_lists_or_downloads() {
    for operation in [Operation::ListContent, Operation::FetchBlob] {
        let installation = collected();
        let (requested, is_requested) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let (requested, released) = (Mutex::new(requested), Mutex::new(released));
        let hold = Fault::alter("held", move |_, answer| {
            let _ = requested.lock().map(|requested| requested.send(()));
            let _ = released.lock().map(|released| released.recv_timeout(WAIT_MAX));
            answer
        });
        installation.simulator.fault(Requests::to(operation).of_content_type(FEED).times(1), hold);
        let config = installation.config_file().display().to_string();
        let mut command =
            installation.command(&["--config", &config, "verify", "--content", "--json", "--hours", "24"]);
        let verify = command.spawn().expect("the program starts");
        is_requested.recv_timeout(WAIT_MAX).expect("verify makes a request");
        add_blobs(&installation, 2);
        installation.run(&[]).assert_code(0).assert_line_with(&["Logs saved: 8"]);
        fs::rename(output_file(&installation), installation.path("output").join(format!("{FILE}.1")))
            .expect("a file");
        add_blobs(&installation, 1);
        installation.run(&[]).assert_code(0).assert_line_with(&["Logs saved: 4"]);
        release.send(()).expect("a request waits");
        let run = Run::finish(verify);
        let report: Value = serde_json::from_str(&run.assert_code(0).stdout).expect("JSON");
        assert!(records(&report)[0] >= 12, "{report:#}");
        installation.assert_delivered_once([(&installation.contoso, FEED)]);
    }
}

#[test]
fn a_kill_at_any_step_of_a_repair_loses_and_duplicates_nothing() {
    for step in disk_steps() {
        let subscriptions = format!("subscriptions: [ {FEED} ]");
        let installation = Installation::new().setting(&subscriptions).collect("maxThreads: 4");
        add_blobs(&installation, 2);
        installation.run(&[]).assert_code(0);
        let file = output_file(&installation);
        let lines = whole_lines(&file);
        fs::write(&file, lines[1..].join("\n") + "\n").expect("a writable file");
        let config = installation.config_file().display().to_string();
        let mut command = installation.command(&["--config", &config, "verify", "--repair", "--hours=24"]);
        let (is_reached, run) =
            installation.run_command_with_fault(&mut command, &format!("{step}:kill-after"));
        if !is_reached {
            run.assert_code(1);
            break;
        }
        installation.run(&[]).assert_code(0);
        if installation.delivered_ids().len() < lines.len() {
            repair(&installation, 1);
        }
        installation.assert_delivered_once([(&installation.contoso, FEED)]);
    }
}

/// Makes passes over new blobs. Many passes are killed or meet a fault of the disk, and files are rotated in between.
/// Afterwards, the next pass and `verify --content` are clean.
fn verify_after_faulty_passes(seed: u64, passes: usize) {
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let installation = Installation::new().setting(&format!("subscriptions: [ {FEED} ]"));
    let output = installation.path("output");
    let mut rotations = 0;
    let mut uncompressed: Vec<PathBuf> = Vec::new();
    for _ in 0..passes {
        for _ in 0..random.usize(0..3) {
            let mut texts: Vec<_> = (0..random.u64(1..6))
                .map(|_| record(FEED, CONTOSO, hours_ago(5), random.u64(0..2_000)))
                .collect();
            if random.u8(0..4) == 0 {
                texts.push(r#"{"Operation":"x"}"#.to_owned());
            }
            installation.contoso.add_blob(FEED, NewBlob::texts(texts).created(hours_ago(random.i64(2..18))));
        }
        let kind = random.choice(["kill-before", "kill-after", "full", "short", "broken", ""]).expect("one");
        let fault = format!("{}{}:{kind}", random.u32(1..45), if random.bool() { "+" } else { "" });
        let run = if kind.is_empty() { installation.run(&[]) } else { installation.run_with_fault(&fault).1 };
        eprintln!("{fault}: exit {:?}", run.code);
        if random.u8(0..3) == 0 && output.join(FILE).exists() {
            rotations += 1;
            let rotated = output.join(format!("{FILE}.{rotations}"));
            fs::rename(output.join(FILE), &rotated).expect("a writable folder");
            uncompressed.push(rotated);
        }
        // A complete pass has adopted the records that interrupted passes have left in rotated files.
        if run.code == Some(0) && random.bool() {
            uncompressed.drain(..).for_each(|file| compress(&file));
        }
    }
    installation.run(&[]).assert_code(0);
    let report = verify(&installation, &[], 0);
    assert_eq!(sum(&report, "blobs", "known"), sum(&report, "blobs", "listed"), "{report:#}");
}

/// Replaces a file by one in the format of gzip.
fn compress(file: &Path) {
    let encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let text = fs::read_to_string(file).expect("a file");
    let bytes = finished(encoder, &text, flate2::write::GzEncoder::finish);
    fs::write(format!("{}.gz", file.display()), bytes).expect("a writable folder");
    fs::remove_file(file).expect("a writable folder");
}

#[test]
fn is_clean_after_ten_passes_with_kills_faults_and_rotations() {
    verify_after_faulty_passes(fastrand::u64(..), 10);
}

#[test]
#[ignore = "takes a minute: cargo test --test tests -- --ignored is_clean_after_two_hundred_passes"]
fn is_clean_after_two_hundred_passes_with_kills_faults_and_rotations() {
    verify_after_faulty_passes(fastrand::u64(..), 200);
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
