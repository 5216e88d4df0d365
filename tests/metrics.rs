//! The textfile of `metrics.path`: counters that add up over passes, and each feed's last success.

use std::{collections::BTreeMap, fs};

use jiff::Timestamp;
use simulator::{Fault, LoginError, NewBlob, Operation, Requests, Tenant};

use crate::support::{FABRIKAM, Installation, hours_ago, process::disk_steps};

const PREFIX: &str = "office365_collector_";
const FEED: &str = "Audit.General";

/// What a pass adds to a counter is also a gauge, except for the suffix.
const COUNTED: [&str; 12] = [
    "blobs_found",
    "blobs_downloaded",
    "blobs_failed",
    "blobs_expired",
    "blobs_salvaged",
    "records_saved",
    "records_filtered",
    "records_duplicate",
    "records_dead_letter",
    "bytes_downloaded",
    "api_requests",
    "api_throttled",
];

/// Two tenants, and a textfile.
fn two_tenants() -> (Installation, Tenant) {
    let (installation, fabrikam) = Installation::with_fabrikam();
    (installation.setting("metrics: { path: office365.prom }"), fabrikam)
}

/// The samples of the textfile that are whole numbers, by name and labels.
#[derive(Debug)]
struct Samples(BTreeMap<String, i64>);

impl Samples {
    fn of(installation: &Installation) -> Self {
        let text = fs::read_to_string(installation.path("office365.prom")).unwrap_or_default();
        let samples = text.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            Some((series.to_owned(), value.parse().ok()?))
        });
        Self(samples.collect())
    }

    fn value(&self, name: &str, tenant: &str, feed: &str) -> Option<i64> {
        let series = format!("{PREFIX}{name}{{tenant=\"{tenant}\",content_type=\"{feed}\"}}");
        self.0.get(&series).copied()
    }

    /// The series of this name, of all feeds of a tenant.
    fn of_tenant(&self, name: &str, tenant: &str) -> Vec<(&str, i64)> {
        let begin = format!("{PREFIX}{name}{{tenant=\"{tenant}\",");
        let found = self.0.iter().filter(|(series, _)| series.starts_with(&begin));
        found.map(|(series, value)| (series.as_str(), *value)).collect()
    }

    /// The sum over all feeds.
    fn sum(&self, name: &str) -> i64 {
        ["contoso", "fabrikam"]
            .iter()
            .flat_map(|tenant| self.of_tenant(name, tenant))
            .map(|(_, value)| value)
            .sum()
    }
}

/// The sum of a total over all feeds, as the state remembers it.
fn remembered(installation: &Installation, name: &str) -> i64 {
    let text = fs::read_to_string(installation.path("state/progress")).unwrap_or_default();
    let feeds = text.lines().filter_map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        line.get("feed")?["totals"][name].as_i64()
    });
    feeds.sum()
}

/// The number of records in the output.
fn delivered(installation: &Installation) -> i64 {
    installation.delivered_ids().len().try_into().expect("a small number")
}

#[test]
fn counters_add_up_over_passes_also_when_something_fails() {
    let (installation, fabrikam) = two_tenants();
    let installation = installation
        .collect("retries: 0")
        .collect("filter: { Audit.General: { Operation: [ \"FileAccessed\" ] } }");
    let contoso = &installation.contoso;
    let mut sums: BTreeMap<_, i64> = BTreeMap::new();
    for pass in 0..5 {
        for tenant in [contoso, &fabrikam] {
            tenant.add_blob(FEED, NewBlob::records(6).created(hours_ago(3)));
            let blob = tenant.add_blob("DLP.All", NewBlob::records(4).created(hours_ago(3)));
            // The records come again in another blob: they are duplicates.
            tenant.add_blob("DLP.All", NewBlob::texts(blob.records()).created(hours_ago(2)));
        }
        contoso.add_blob("DLP.All", NewBlob::body("[").created(hours_ago(3)));
        if pass == 2 {
            fabrikam.settings(|settings| settings.login_error = Some(LoginError::ExpiredSecret));
        }
        if pass == 3 {
            let throttled = Requests::to(Operation::FetchBlob).times(1);
            installation.simulator.fault(throttled, Fault::throttled(429, None));
        }
        installation.run(&[]).assert_code(1);
        let samples = Samples::of(&installation);
        for name in COUNTED {
            let sum = sums.entry(name).or_default();
            *sum += samples.sum(name);
            assert_eq!(samples.sum(&format!("{name}_total")), *sum, "{name} in pass {pass}");
        }
    }
    for name in ["blobs_found", "blobs_downloaded", "blobs_failed", "records_saved", "records_filtered"] {
        assert!(sums[name] > 5, "{sums:?}");
    }
    assert!(sums["records_duplicate"] > 5 && sums["api_throttled"] > 0, "{sums:?}");
    assert_eq!(sums["records_saved"], delivered(&installation), "{sums:?}");
}

#[test]
fn a_killed_pass_counts_nothing_that_it_did_not_commit() {
    let (installation, fabrikam) = two_tenants();
    let mut killed = 0;
    for step in disk_steps().step_by(3) {
        for tenant in [&installation.contoso, &fabrikam] {
            tenant.add_blob(FEED, NewBlob::records(2).created(hours_ago(3)));
        }
        let before = remembered(&installation, "recordsSaved");
        let (is_killed, _) = installation.run_with_fault(&format!("{step}:kill-before"));
        let counted = remembered(&installation, "recordsSaved");
        assert!((before..=delivered(&installation)).contains(&counted), "step {step}: {counted}");
        installation.run(&[]).assert_code(0);
        let samples = Samples::of(&installation);
        let expected = counted + samples.sum("records_saved");
        assert_eq!(samples.sum("records_saved_total"), expected, "step {step}: {samples:?}");
        assert!(expected <= delivered(&installation), "step {step}");
        killed += u32::from(is_killed);
        if !is_killed {
            break;
        }
    }
    assert!(killed > 3);
    installation.assert_delivered_once([(&installation.contoso, FEED), (&fabrikam, FEED)]);
}

#[test]
fn the_last_success_of_each_feed_shows_which_tenant_fails() {
    const LAST: &str = "feed_last_success_timestamp_seconds";
    let (installation, fabrikam) = two_tenants();
    fabrikam.settings(|settings| settings.login_error = Some(LoginError::ExpiredSecret));
    installation.run(&[]).assert_code(1);
    let first = Samples::of(&installation);
    assert_eq!(first.of_tenant(LAST, "contoso").len(), 5);
    assert_eq!(first.of_tenant(LAST, "fabrikam"), [], "it never succeeded");
    assert_eq!(first.value("blobs_found", "fabrikam", FEED), Some(0), "but its feeds are there");

    fabrikam.settings(|settings| settings.login_error = None);
    let late = Requests::to(Operation::ListContent).of_tenant(FABRIKAM).of_content_type("DLP.All");
    installation.simulator.fault(late.always(), Fault::status(500));
    installation.run(&[]).assert_code(1);
    let second = Samples::of(&installation);
    let now = Timestamp::now().as_second();
    assert!((now - 100..=now + 100).contains(&second.value(LAST, "fabrikam", FEED).expect("a success")));
    assert_eq!(second.value(LAST, "fabrikam", "DLP.All"), None);
    installation.simulator.remove_faults();

    fabrikam.settings(|settings| settings.login_error = Some(LoginError::ExpiredSecret));
    installation.run(&[]).assert_code(1);
    let third = Samples::of(&installation);
    assert_eq!(third.of_tenant(LAST, "fabrikam"), second.of_tenant(LAST, "fabrikam"));
    assert!(third.value(LAST, "contoso", FEED) >= second.value(LAST, "contoso", FEED));
}

/// The lines that remain when a pass knows nothing of these feeds.
fn kept(samples: &Samples, tenant: &str) -> Vec<(String, i64)> {
    let totals = COUNTED.map(|name| format!("{name}_total"));
    let times = ["feed_last_success_timestamp_seconds", "listed_until_timestamp_seconds"];
    let names = totals.iter().map(String::as_str).chain(times);
    let lines = names.flat_map(|name| samples.of_tenant(name, tenant));
    lines.map(|(series, value)| (series.to_owned(), value)).collect()
}

#[test]
fn a_pass_keeps_what_it_does_not_know_of_other_feeds() {
    let (installation, fabrikam) = two_tenants();
    for tenant in [&installation.contoso, &fabrikam] {
        tenant.add_blob(FEED, NewBlob::records(3).created(hours_ago(2)));
    }
    installation.run(&[]).assert_code(0);
    let before = kept(&Samples::of(&installation), "fabrikam");
    assert_eq!(before.len(), 5 * (12 + 2));

    // A pass for another tenant.
    installation.run(&["--tenant", "contoso"]).assert_code(0);
    let samples = Samples::of(&installation);
    assert_eq!(kept(&samples, "fabrikam"), before);
    assert_eq!(samples.value("blobs_found", "fabrikam", FEED), None, "a gauge is about this pass");

    // A pass that cannot read the state.
    let known = installation.path("state/known_blobs");
    fs::rename(&known, installation.path("moved")).expect("a file");
    fs::create_dir(&known).expect("a folder");
    installation.run(&[]).assert_code(74);
    assert_eq!(kept(&Samples::of(&installation), "fabrikam"), before);
    fs::remove_dir(&known).expect("a folder");
    fs::rename(installation.path("moved"), &known).expect("a file");

    // A dry run.
    let text = fs::read_to_string(installation.path("office365.prom")).expect("a file");
    let progress = fs::read_to_string(installation.path("state/progress")).expect("a file");
    installation.contoso.add_blob(FEED, NewBlob::records(3).created(hours_ago(2)));
    installation.run(&["--dry-run"]).assert_code(0);
    assert_eq!(fs::read_to_string(installation.path("office365.prom")).expect("a file"), text);
    assert_eq!(fs::read_to_string(installation.path("state/progress")).expect("a file"), progress);
}

#[test]
fn a_shard_reports_its_own_feeds_only_and_a_new_state_counts_from_zero() {
    let (installation, fabrikam) = two_tenants();
    for tenant in [&installation.contoso, &fabrikam] {
        tenant.add_blob(FEED, NewBlob::records(3).created(hours_ago(2)));
    }
    let total = |samples: &Samples| samples.sum("records_saved_total");
    installation.run(&[]).assert_code(0);
    installation.run(&[]).assert_code(0);
    assert_eq!(total(&Samples::of(&installation)), 6);

    let mut feeds = Vec::new();
    for shard in ["0/2", "1/2"] {
        installation.run(&["--shard", shard]).assert_code(0);
        let samples = Samples::of(&installation);
        feeds.push(
            samples.of_tenant("api_requests_total", "contoso").len()
                + samples.of_tenant("api_requests_total", "fabrikam").len(),
        );
    }
    assert_eq!(feeds.iter().sum::<usize>(), 10, "{feeds:?}");

    fs::remove_dir_all(installation.path("state")).expect("a folder");
    fs::remove_dir_all(installation.path("output")).expect("a folder");
    installation.run(&[]).assert_code(0);
    let samples = Samples::of(&installation);
    for name in COUNTED {
        assert_eq!(samples.sum(&format!("{name}_total")), samples.sum(name), "{name}");
    }
}
