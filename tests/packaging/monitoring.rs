//! Metrics with their alerts and dashboard, and the picture of `status`.

use std::{collections::BTreeSet, fmt::Write, fs};

use simulator::NewBlob;

use super::{path, path_text, text, tool};
use crate::support::{Installation, busy_day, hours_ago, picture};

const PREFIX: &str = "office365_collector_";
const PICTURE: &str = "docs/monitoring/status.svg";
/// The width of the terminal in the picture. Longer lines are cut.
const COLUMNS: usize = 190;

/// Returns the names of the metrics in a text.
pub fn metric_names(text: &str) -> BTreeSet<String> {
    let is_part = |letter: char| letter.is_ascii_lowercase() || letter == '_';
    let rests = text.split(PREFIX).skip(1);
    rests.map(|rest| rest.chars().take_while(|letter| is_part(*letter)).collect()).collect()
}

/// Returns the metrics file of a pass whose credential is a certificate, and that of `verify`.
fn written_metrics() -> String {
    let installation = Installation::new().setting("metrics: { path: office365.prom }");
    installation.contoso.add_blob("DLP.All", NewBlob::records(1).created(hours_ago(2)));
    let certificate =
        format!("certificate: {{ file: '{}' }}", path("tests/certificates/combined.pem").display());
    fs::write(installation.path("metrics.yaml"), installation.config_with_credential(&certificate))
        .expect("a file");
    installation.run_bare(&["-c", "metrics.yaml"]);
    installation.run(&[]).assert_code(0);
    let first = installation.run_bare(&["-c", "metrics.yaml"]);
    installation.run(&["verify", "--content", "--hours", "24"]).assert_code(0);
    let read = |name: &str| {
        fs::read_to_string(installation.path(name)).unwrap_or_else(|error| panic!("{error}: {first}"))
    };
    read("office365.prom") + &read("office365-verify.prom")
}

#[test]
fn alerts_and_dashboard_use_metrics_that_are_written() {
    let written = metric_names(&written_metrics());
    let readme = text("docs/monitoring/README.md");
    let alerts = text("docs/monitoring/alerts.yaml");
    for (file, text) in
        [("alerts.yaml", &alerts), ("dashboard.json", &text("docs/monitoring/dashboard.json"))]
    {
        let used = metric_names(text);
        let unknown: Vec<_> = used.difference(&written).collect();
        assert!(
            unknown.is_empty(),
            "{file} uses metrics that neither a pass nor `verify` writes: {unknown:?}"
        );
        assert!(used.len() > 8, "{file} uses only {used:?}");
    }
    let defined = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    let described = readme.lines().filter_map(|line| line.rsplit('|').nth(1)?.trim().strip_prefix('`'));
    let described = described.map(|name| name.trim_end_matches('`'));
    assert_eq!(defined.collect::<BTreeSet<_>>(), described.collect::<BTreeSet<_>>());
}

#[test]
fn the_panels_of_the_dashboard_have_queries_and_do_not_overlap() {
    let dashboard: serde_json::Value =
        serde_json::from_str(&text("docs/monitoring/dashboard.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut cells = BTreeSet::new();
    for panel in panels {
        let edge = |name: &str| panel["gridPos"][name].as_u64().expect("a number");
        for column in edge("x")..edge("x") + edge("w") {
            for row in edge("y")..edge("y") + edge("h") {
                assert!(column < 24 && cells.insert((column, row)), "{}", panel["title"]);
            }
        }
        assert!(panel["targets"].as_array().is_some_and(|targets| !targets.is_empty()), "{}", panel["title"]);
    }
    assert!(panels.len() > 8);
}

#[test]
#[ignore = "needs promtool: cargo test --test tests -- --ignored packaging::monitoring"]
fn prometheus_accepts_the_metrics_and_raises_the_alerts() {
    tool("promtool", &["check", "rules", &path_text("docs/monitoring/alerts.yaml")]).assert_code(0);
    for tests in ["alerts.yaml", "alerts-after-a-week.yaml"] {
        let run = tool("promtool", &["test", "rules", &path_text(&format!("tests/packaging/{tests}"))]);
        assert_eq!(run.code, Some(0), "{tests}: {run}");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("office365.prom");
    fs::write(&file, written_metrics()).expect("a file");
    let check = format!("promtool check metrics <{}", file.display());
    let run = tool("sh", &["-c", &check]);
    assert_eq!((run.code, run.stdout.as_str(), run.stderr.as_str()), (Some(0), "", ""), "{run}");
}

/// Returns what `status` prints at the end of a busy day, with fixed times and lags.
fn printed_status() -> String {
    let status = loop {
        let hour = busy_day::hour();
        let status = busy_day::installation().run(&["status"]);
        if busy_day::hour() == hour {
            break status; // else the history is that of the hour before
        }
    };
    let mut lines = status.stdout.lines();
    let heading = lines.next().expect("a heading");
    let column = heading.find("LAG").expect("a column");
    let mut printed = format!("{heading}\n");
    for line in lines {
        let lag = line[column..].split(' ').next().expect("a lag");
        let words = line.split(' ').map(|word| match word.parse::<jiff::Timestamp>() {
            Ok(_) => "2026-11-22T10:15:00Z",
            Err(_) => word,
        });
        let line = words.collect::<Vec<_>>().join(" ");
        let _ = writeln!(
            printed,
            "{}{:<width$}{}",
            &line[..column],
            "5s",
            &line[column + lag.len()..],
            width = lag.len()
        );
    }
    printed
}

/// Draws a terminal in which `status` printed this.
fn draw(printed: &str) -> String {
    let lines = printed.lines().enumerate().map(|(number, line)| match number {
        0 => (picture::DIM, line),
        _ if line.ends_with(" -") => (picture::PLAIN, line),
        _ => (picture::BAD, line),
    });
    let command = (picture::PROMPT, "$ office_audit_log_collector status");
    picture::draw(
        "office_audit_log_collector status",
        &[command].into_iter().chain(lines).collect::<Vec<_>>(),
    )
}

#[test]
fn the_picture_shows_what_status_prints() {
    let shown: String =
        printed_status().lines().map(|line| line.chars().take(COLUMNS).collect::<String>() + "\n").collect();
    let picture = draw(&shown);
    if picture::is_requested() {
        picture::replace(PICTURE, &picture);
    }
    assert!(
        text(PICTURE) == picture,
        "DRAW=1 cargo test the_picture draws {PICTURE} again; it should show\n{shown}"
    );
}
