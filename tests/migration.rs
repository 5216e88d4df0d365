//! Moving from the older tools: their configurations, their state, their command lines.

use std::{collections::BTreeMap, fs, path::Path};

use jiff::Timestamp;
use simulator::{Blob, NewBlob};

use crate::support::{
    CONTOSO, FABRIKAM, Installation, Run, documents::repository, forward, gelf::GelfReceiver, hours_ago,
    process::in_parallel, set_mode,
};

const CLIENT: &str = "c11e0000-0000-4000-8000-00000000c11e";
const SECRET: &str = "not-a-real-secret";
const FEEDS: [&str; 5] =
    ["DLP.All", "Audit.Exchange", "Audit.SharePoint", "Audit.AzureActiveDirectory", "Audit.General"];

/// What the samples have in their environment.
struct World {
    installation: Installation,
    fluentd: forward::ForwardReceiver,
    graylog: GelfReceiver,
}

impl World {
    fn new() -> Self {
        let (mut installation, fluentd) = (Installation::new(), forward::ForwardReceiver::plain());
        let fabrikam = installation.add_tenant(FABRIKAM);
        for tenant in [&installation.contoso, &fabrikam] {
            tenant.settings(|settings| SECRET.clone_into(&mut settings.secret));
            for feed in FEEDS {
                tenant.add_blob(feed, NewBlob::records(3).created(hours_ago(2)));
            }
        }
        for folder in ["output", "state"] {
            fs::create_dir(installation.path(folder)).expect("a folder");
        }
        fs::write(installation.path("fabrikam.txt"), SECRET).expect("a file");
        set_mode(&installation.path("fabrikam.txt"), 0o600);
        Self { installation, fluentd, graylog: GelfReceiver::start() }
    }

    /// A sample with the addresses and the folders of this world.
    fn placed(&self, sample: &str) -> String {
        let (ours, url) = (
            |name: &str| self.installation.path(name).display().to_string(),
            self.installation.simulator.url(),
        );
        let fluentd = self.fluentd.port().to_string();
        let graylog = self.graylog.port().to_string();
        let mut text = sample.to_owned();
        for (there, here) in [
            (
                "  - tenant_id:",
                &format!("  - login_url: \"{url}\"\n    api_url: \"{url}\"\n    tenant_id:") as &str,
            ),
            ("/var/lib/office365-collector", &ours("state")),
            ("/var/log/office365", &ours("output")),
            ("/var/logs/office365", &ours("output")),
            ("/etc/secrets/fabrikam.txt", &ours("fabrikam.txt")),
            ("localhost", "127.0.0.1"),
            ("192.0.2.10", "127.0.0.1"),
            ("192.0.2.11", "127.0.0.1"),
            ("graylog.contoso.example", "127.0.0.1"),
            ("24224", &fluentd),
            ("12201", &graylog),
            ("5555", &graylog),
        ] {
            text = text.replace(there, here);
        }
        if text.contains("tenants:") {
            return text;
        }
        format!("tenants: [ {{ login_url: \"{url}\", api_url: \"{url}\" }} ]\n{text}")
    }

    /// Runs a pass with a sample. Each feed that it collects has been collected by the older tool until three hours ago.
    fn run(&self, name: &str) -> Run {
        let text = fs::read_to_string(repository("tests/older_configurations").join(name)).expect("a sample");
        let file = self.installation.path("config.yaml");
        fs::write(&file, self.placed(&text)).expect("a file");
        set_mode(&file, 0o600);
        let state = if text.contains("\nworkingDir") { "state" } else { "" };
        for (tenant, feed) in [CONTOSO, FABRIKAM].iter().flat_map(|tenant| FEEDS.map(|feed| (tenant, feed))) {
            write_feed_file(&self.installation.path(state), tenant, feed, hours_ago(3));
        }
        let mut command = self.installation.command(&["--config", file.to_str().expect("text")]);
        if !text.contains("tenants:") {
            command.envs([("TENANT_ID", CONTOSO), ("CLIENT_ID", CLIENT), ("CLIENT_SECRET", SECRET)]);
        }
        let mut run = Run::of(&mut command);
        let log = fs::read_to_string(self.installation.path("output/collector.log"));
        run.stderr.push_str(&log.unwrap_or_default());
        run
    }
}

fn write_feed_file(folder: &Path, tenant: &str, feed: &str, at: Timestamp) {
    let state = format!(
        "{{\n  \"last_log_time\": \"{at:.9}\",\n  \"last_run\": \"{at:.9}\",\n  \"first_run\": false\n}}"
    );
    fs::write(folder.join(format!("office365-{tenant}-{feed}.json")), state).expect("a file");
}

const SEPARATOR: &str = "output.file.separator: has no effect";

#[test]
fn every_sample_of_the_older_tools_runs_with_warnings_for_what_no_longer_has_a_meaning() {
    let samples: [(&str, usize, &[&str]); 6] = [
        ("ddbnl-1.yaml", 4 * 3, &[SEPARATOR, "collect.duplicate: has no meaning any more"]),
        ("fork-1-file-by-type.yaml", 5 * 3, &[]),
        ("fork-2-working-dir.yaml", 5 * 3, &[]),
        ("fork-3-separator.yaml", 2 * 3, &[SEPARATOR]),
        ("fork-4-fluentd.yaml", 2 * 2 * 3, &[]),
        (
            "fork-5-graylog-and-azure.yaml",
            3,
            &[
                "output.azureLogAnalytics: has no meaning any more: use output.http with `format: azure-logs-ingestion`",
            ],
        ),
    ];
    let folder = fs::read_dir(repository("tests/older_configurations")).expect("a folder");
    assert_eq!(folder.count(), samples.len(), "each sample is run");
    for (name, records, expected) in samples {
        let world = World::new();
        let run = world.run(name);
        run.assert_code(0).assert_line_with(&["[INFO] Done! ", &format!("| Logs saved: {records}")]);
        let warnings: Vec<_> = run.log().into_iter().filter(|line| line.starts_with("[WARN]")).collect();
        assert_eq!(warnings.len(), expected.len(), "{name}: {run}");
        for part in expected {
            run.assert_line_with(&["[WARN] ", part]);
        }
        world.installation.assert_no_violations();
    }
}

/// The feed of the tests below.
const FEED: &str = "Audit.Exchange";

/// Contoso with `only_future_events`, 20 blobs that the older tool has delivered, and 570 that became available since it
/// stopped.
struct Migration {
    installation: Installation,
    delivered: Vec<Blob>,
}

const STOPPED_HOURS_AGO: i64 = 50;

impl Migration {
    fn new() -> Self {
        let installation = Installation::new().setting("only_future_events: true");
        let contoso = &installation.contoso;
        contoso.add_blobs(FEED, 20, 1, hours_ago(STOPPED_HOURS_AGO + 20)..hours_ago(STOPPED_HOURS_AGO));
        let delivered = contoso.blobs(FEED);
        contoso.add_blobs(FEED, 570, 1, hours_ago(STOPPED_HOURS_AGO)..hours_ago(1));
        fs::create_dir(installation.path("state")).expect("a folder");
        Self { installation, delivered }
    }

    fn write_known_blobs(&self, text: &str) {
        fs::write(self.installation.path("state/known_blobs"), text).expect("a file");
    }

    fn write_feed_file(&self, at: Timestamp) {
        write_feed_file(&self.installation.path("state"), CONTOSO, FEED, at);
    }

    /// Each blob since the stop is delivered once, none that is known is requested, and another pass finds nothing.
    #[track_caller]
    fn assert_continues(&self, log: &[&str]) {
        let run = self.installation.run(&[]);
        run.assert_code(0)
            .assert_line_with(log)
            .assert_line_with(&["Blobs successful: 570 | Logs saved: 570"]);
        self.assert_delivered();
        self.installation.run(&[]).assert_code(0).assert_line("[WARN] No new blobs found");
        self.installation.assert_no_violations();
    }

    #[track_caller]
    fn assert_delivered(&self) {
        let expected: BTreeMap<_, _> =
            self.new_blobs().iter().flat_map(Blob::ids).map(|id| (id, 1)).collect();
        assert_eq!(self.installation.delivered_ids(), expected);
        let again = self.delivered.iter().filter(|blob| blob.served() > 0).count();
        assert_eq!(again, 0, "blobs that the older tool has delivered");
    }

    fn new_blobs(&self) -> Vec<Blob> {
        let is_known =
            |blob: &Blob| self.delivered.iter().any(|known| known.content_id() == blob.content_id());
        self.installation.contoso.blobs(FEED).into_iter().filter(|blob| !is_known(blob)).collect()
    }
}

/// The lines of an older tool, each with a time of that form.
fn known_lines(blobs: &[Blob], time: impl Fn(Timestamp) -> String) -> Vec<String> {
    blobs.iter().map(|blob| format!("{},{}", blob.content_id(), time(blob.expiration()))).collect()
}

fn milliseconds(time: Timestamp) -> String {
    format!("{time:.3}")
}

#[test]
fn known_blobs_of_an_older_tool_continues_every_feed_in_each_of_its_variants() {
    type Variant = (&'static str, fn(&[Blob]) -> String);
    let variants: [Variant; 6] = [
        ("two columns", |known| known_lines(known, milliseconds).join("\n") + "\n"),
        ("line breaks of Windows", |known| known_lines(known, milliseconds).join("\r\n") + "\r\n"),
        ("repeated lines", |known| (known_lines(known, milliseconds).join("\n") + "\n").repeat(3)),
        ("no last line break", |known| known_lines(known, milliseconds).join("\n")),
        ("no zone", |known| {
            known_lines(known, |time| milliseconds(time).trim_end_matches('Z').to_owned()).join("\n") + "\n"
        }),
        ("seven digits", |known| known_lines(known, |time| format!("{time:.7}")).join("\n") + "\n"),
    ];
    in_parallel(variants, |(name, text)| {
        let migration = Migration::new();
        migration.write_known_blobs(&text(&migration.delivered));
        eprintln!("{name}");
        migration.assert_continues(&["[INFO] Continuing 5 feed(s) that were collected before", "7 days"]);
    });
}

#[test]
fn the_file_of_a_feed_continues_it_with_and_without_known_blobs() {
    let stopped = hours_ago(STOPPED_HOURS_AGO);
    in_parallel([true, false], |has_known_blobs| {
        let migration = Migration::new();
        migration.write_feed_file(stopped);
        if has_known_blobs {
            let lines = known_lines(&migration.delivered, milliseconds);
            migration.write_known_blobs(&(lines.join("\n") + "\n"));
        }
        let line =
            format!("Continuing contoso audit.exchange from {stopped:.0}, where an older tool stopped");
        migration.assert_continues(&["[INFO]", &line]);
    });
}

#[test]
fn what_the_older_tool_stopped_too_long_ago_for_is_reported_and_the_rest_is_collected() {
    let installation = Installation::new().setting("only_future_events: true");
    let contoso = &installation.contoso;
    let blob = contoso.add_blob(FEED, NewBlob::records(2).created(hours_ago(6 * 24)));
    fs::create_dir(installation.path("state")).expect("a folder");
    write_feed_file(&installation.path("state"), CONTOSO, FEED, hours_ago(9 * 24));
    let run = installation.run(&[]);
    run.assert_code(0).assert_line_with(&["[ERROR] Content lost for contoso audit.exchange:", "only 7 days"]);
    assert_eq!(blob.served(), 1);
    installation.assert_no_violations();
}

#[test]
fn a_feed_that_is_added_after_the_migration_begins_like_any_other() {
    let migration = Migration::new();
    migration.write_known_blobs(&(known_lines(&migration.delivered, milliseconds).join("\n") + "\n"));
    let installation = &migration.installation;
    let of_other_feed = installation.contoso.add_blob("DLP.All", NewBlob::records(2).created(hours_ago(2)));
    let one_feed = installation.config().replace("tenants:", "subscriptions: [ Audit.Exchange ]\ntenants:");
    fs::write(installation.path("one-feed.yaml"), one_feed).expect("a file");
    installation.run_bare(&["-c", "one-feed.yaml"]).assert_code(0);
    migration.assert_delivered();
    installation.run(&[]).assert_code(0).assert_line("[WARN] No new blobs found");
    assert_eq!(of_other_feed.served(), 0);
}

#[test]
fn what_an_older_tool_left_is_not_forgotten_by_a_pass_that_fails_or_that_collects_another_tenant() {
    let (installation, fabrikam) = Installation::with_fabrikam();
    let installation = installation.setting("only_future_events: true");
    let blobs: Vec<_> = [&installation.contoso, &fabrikam]
        .map(|tenant| tenant.add_blob(FEED, NewBlob::records(2).created(hours_ago(30))))
        .into();
    fs::create_dir(installation.path("state")).expect("a folder");
    fs::write(installation.path("state/known_blobs"), format!("x,{}\n", hours_ago(-20))).expect("a file");
    let dry_run = installation.run(&["--dry-run"]);
    dry_run.assert_code(0);
    assert_eq!(dry_run.stdout.lines().count(), 0, "without subscriptions nothing is listed");

    let secret = installation.contoso.current_settings().secret;
    installation.contoso.settings(|settings| settings.secret = "another".to_owned());
    installation.run(&["--tenant", "contoso"]).assert_code(77);
    installation.contoso.settings(|settings| settings.secret = secret);
    installation.run(&["--tenant", "contoso"]).assert_code(0);
    installation.run(&[]).assert_code(0);
    assert_eq!(blobs.iter().map(Blob::served).collect::<Vec<_>>(), [1, 1]);
    installation.assert_delivered_once([(&installation.contoso, FEED), (&fabrikam, FEED)]);
}

#[test]
fn lines_that_name_a_feed_continue_that_feed_only() {
    let installation = Installation::new().setting("only_future_events: true");
    let [exchange, general] = [FEED, "Audit.General"]
        .map(|feed| installation.contoso.add_blob(feed, NewBlob::records(2).created(hours_ago(30))));
    fs::create_dir(installation.path("state")).expect("a folder");
    let line = format!("x,{},{CONTOSO},{FEED}\n", hours_ago(-20));
    fs::write(installation.path("state/known_blobs"), line).expect("a file");
    installation.run(&[]).assert_code(0).assert_line_with(&["[INFO] Continuing 1 feed(s)"]);
    assert_eq!((exchange.served(), general.served()), (1, 0));
}

#[test]
fn the_command_line_of_an_older_tool_is_answered_with_what_to_write_instead() {
    let installation = Installation::new();
    let config = installation.config_file().display().to_string();
    for (arguments, parts) in [
        (
            vec!["--config", &config, "--tenant-id", CONTOSO, "--client-id", CLIENT, "--secret-key", SECRET],
            vec![
                "--tenant-id is an option of an older tool; write tenant_id",
                "CLIENT_ID",
                "client_secret_file",
            ],
        ),
        (vec!["--config", &config, "--publisher-id", CONTOSO], vec!["write publisher_id into the tenant"]),
        (vec!["--interactive-subscriber", "--config", &config], vec!["each pass starts the subscriptions"]),
        (vec!["--config", &config, "--oms-key=12345"], vec!["azure-logs-ingestion"]),
        (vec![CONTOSO, CLIENT, SECRET, "--config", &config], vec!["TENANT_ID, CLIENT_ID and CLIENT_SECRET"]),
    ] {
        let run = installation.run_bare(&arguments);
        assert_eq!((run.code, run.stdout.as_str()), (Some(64), ""), "{run}");
        assert!(parts.iter().all(|part| run.stderr.contains(part)) && !run.stderr.contains(SECRET), "{run}");
    }
    assert_eq!(installation.simulator.requests().len(), 0);
}
