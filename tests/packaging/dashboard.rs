//! The dashboard with the metrics of real passes over a day: Grafana's schema accepts it, Prometheus evaluates each of its
//! expressions, and the documentation shows a picture of it.

use std::{
    collections::{BTreeSet, HashMap},
    env,
    f64::consts::E,
    fs,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
};

use jiff::{Timestamp, ToSpan, tz::TimeZone};
use serde_json::Value;
use simulator::{CONTENT_TYPES, Fault, LoginError, NewBlob, Operation, Requests, RetryAfter, Tenant};

use super::{monitoring::metric_names, path, text, tool, until};
use crate::support::{
    CONTOSO, Installation,
    chart::{self, Panel, Series},
    picture,
};

const DASHBOARD: &str = "docs/monitoring/dashboard.json";
const PICTURE: &str = "docs/monitoring/dashboard.svg";

/// The passes of the day, in seconds after its beginning.
const INTERVAL: i64 = 300;
const DAY: i64 = 24 * 60 * 60;
const HOUR: i64 = 60 * 60;
/// `node_exporter` reads the file once a minute.
const SCRAPE: i64 = 60;
/// Panels have a point for each of these steps, their "Min interval".
const STEP: i64 = 600;

/// What happens on that day, in seconds after its beginning.
const FABRIKAM_FAILS: std::ops::Range<i64> = 9 * HOUR..10 * HOUR;
const BLOB_IS_UNREADABLE: i64 = 12 * HOUR;
const CONTOSO_IS_THROTTLED: std::ops::Range<i64> = 14 * HOUR..14 * HOUR + 1800;

fn dashboard() -> Value {
    serde_json::from_str(&text(DASHBOARD)).expect("JSON")
}

fn panels(dashboard: &Value) -> &[Value] {
    dashboard["panels"].as_array().expect("panels")
}

#[test]
fn the_picture_shows_each_panel_of_the_dashboard() {
    let dashboard = dashboard();
    let expected: Vec<_> = panels(&dashboard)
        .iter()
        .map(|panel| {
            let title = panel["title"].as_str().expect("a title").to_owned();
            (title, chart::expressions_of(panel).join(" ;; "))
        })
        .collect();
    assert!(
        chart::panels_of(&text(PICTURE)) == expected,
        "DRAW=1 cargo test --test tests dashboard_picture -- --ignored draws {PICTURE} again"
    );
}

#[test]
#[ignore = "needs Grafana's schema in the folder $GRAFANA: tests/packaging/grafana/install FOLDER, then \
            GRAFANA=FOLDER cargo test --test tests -- --ignored packaging::dashboard"]
fn grafanas_schema_accepts_the_dashboard() {
    let packages = env::var("GRAFANA").expect("GRAFANA names the folder of tests/packaging/grafana/install");
    let packages = Path::new(&packages).join("node_modules");
    let folder = tempfile::tempdir().expect("a folder");
    std::os::unix::fs::symlink(&packages, folder.path().join("node_modules")).expect("a link");
    let types = "dashboard-json.ts";
    fs::copy(path("tests/packaging/grafana").join(types), folder.path().join(types)).expect("a file");
    let dashboard = text(DASHBOARD);
    let misspelt = dashboard.replacen("\"drawStyle\": \"line\"", "\"drawStyle\": \"lien\"", 1);
    let unknown = dashboard.replacen("\"reduceOptions\"", "\"reduceOption\"", 1);
    for (json, is_valid) in [(&dashboard, true), (&misspelt, false), (&unknown, false)] {
        let check = format!(
            "import type {{ DashboardJson }} from \"./dashboard-json\";\nexport const json: DashboardJson = {json}"
        );
        let file = folder.path().join("check.ts");
        fs::write(&file, check).expect("a file");
        let compiler = packages.join(".bin/tsc").display().to_string();
        let options =
            ["--noEmit", "--strict", "--skipLibCheck", "--module", "nodenext", "--target", "es2022"];
        let run = tool(&compiler, &[&options[..], &[&file.display().to_string()]].concat());
        assert_eq!(run.code == Some(0), is_valid, "{run}");
    }
}

#[test]
#[ignore = "needs prometheus, promtool and openssl: cargo test --test tests -- --ignored packaging::dashboard"]
fn dashboard_picture() {
    let start =
        Timestamp::now().to_zoned(TimeZone::UTC).start_of_day().expect("a day").timestamp().as_second() - DAY;
    let folder = tempfile::tempdir().expect("a folder");
    let prometheus = Prometheus::with(folder.path(), &samples_of_a_day(start));

    // Who fails is named by an alert, and no one else.
    let fails = start + FABRIKAM_FAILS.end - INTERVAL;
    for (at, tenants) in [(fails, BTreeSet::from(["fabrikam"])), (start + 16 * HOUR, BTreeSet::new())] {
        let found = prometheus.at(at, &expression_of("Office365CollectorFeedNoSuccess"));
        let named = found.iter().map(|(labels, _)| labels["tenant"].as_str().expect("a tenant"));
        assert_eq!(named.collect::<BTreeSet<_>>(), tenants);
    }

    let dashboard = dashboard();
    let end = start + DAY;
    let mut drawn = Vec::new();
    for json in panels(&dashboard) {
        let mut series = Vec::new();
        for target in json["targets"].as_array().expect("targets") {
            let expression = target["expr"].as_str().expect("an expression");
            let expression = expression
                .replace("$instance", ".*")
                .replace("$tenant", ".*")
                .replace("$__rate_interval", &format!("{}s", STEP + SCRAPE));
            let found = if json["type"] == "stat" {
                prometheus.at(end - SCRAPE, &expression)
            } else {
                // Between two passes, as most of the time.
                prometheus.between(start + 4 * SCRAPE, end, &expression)
            };
            let legend = target["legendFormat"].as_str().expect("a legend");
            series.extend(
                found.into_iter().map(|(labels, points)| Series { name: filled_in(legend, &labels), points }),
            );
        }
        assert!(series.iter().any(|series| !series.points.is_empty()), "no data in {}", json["title"]);
        drawn.push(Panel { json, series });
    }
    if picture::is_requested() {
        let title = dashboard["title"].as_str().expect("a title");
        picture::replace(PICTURE, &chart::draw(title, &drawn, start, end));
    }
}

/// Returns the expression of a shipped alert.
fn expression_of(alert: &str) -> String {
    let rules: Value = serde_yaml::from_str(&text("docs/monitoring/alerts.yaml")).expect("YAML");
    let rules = rules["groups"][0]["rules"].as_array().expect("rules").clone();
    let rule = rules.into_iter().find(|rule| rule["alert"] == alert).expect("the alert");
    rule["expr"].as_str().expect("an expression").to_owned()
}

/// Returns a legend such as `{{tenant}} {{content_type}}` with the labels' values.
fn filled_in(legend: &str, labels: &Value) -> String {
    let labels = labels.as_object().expect("labels").iter();
    labels.fold(legend.to_owned(), |legend, (name, value)| {
        legend.replace(&format!("{{{{{name}}}}}"), value.as_str().unwrap_or_default())
    })
}

/// Returns the metrics of a day of passes, in the `OpenMetrics` format, as Prometheus would have read them.
///
/// Microsoft's clock is set to the time of each pass. The times of this machine's clock are replaced by those of the pass
/// that wrote them.
fn samples_of_a_day(start: i64) -> String {
    let (installation, fabrikam) = Installation::with_fabrikam();
    let installation = installation
        .setting("metrics: { path: office365.prom }")
        .collect("hoursToCollect: 2")
        .collect("retries: 0")
        .collect("filter: { Audit.SharePoint: { Operation: [ \"FileAccessed\", \"FileModified\", \"FileDownloaded\" ] } }");
    let thumbprint = certificate(&installation);
    installation.contoso.settings(|settings| settings.certificate_thumbprint = Some(thumbprint));
    let credential = "certificate: { file: app.pem }";
    fs::write(installation.path("day.yaml"), installation.config_with_credential(credential))
        .expect("a file");
    let used =
        metric_names(&text(DASHBOARD)).into_iter().chain(metric_names(&text("docs/monitoring/alerts.yaml")));
    let used: BTreeSet<_> = used.collect();
    let mut random = fastrand::Rng::with_seed(7);
    let mut local_times = HashMap::new();
    let mut samples = String::new();
    for second in (0..DAY).step_by(usize::try_from(INTERVAL).expect("a small number")) {
        let now = Timestamp::from_second(start + second).expect("a time");
        installation.simulator.set_clock_skew(now.duration_since(Timestamp::now()));
        for (tenant, share) in [(&installation.contoso, 1.0), (&fabrikam, 0.4)] {
            add_blobs(tenant, now, activity(second) * share, &mut random);
        }
        happen(&installation, &fabrikam, second, now);
        let run = installation.run_bare(&["-c", "day.yaml"]);
        assert!(matches!(run.code, Some(0 | 1)), "{run}");
        installation.simulator.remove_faults();
        let text = fs::read_to_string(installation.path("office365.prom")).expect("a file");
        let mut lines = Vec::new();
        for (series, value) in text.lines().filter_map(|line| line.rsplit_once(' ')) {
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            let Some(short) = name.strip_prefix("office365_collector_").filter(|short| used.contains(*short))
            else {
                continue;
            };
            if short == "last_run_timestamp_seconds" {
                local_times.insert(value.to_owned(), now.as_second().to_string());
            }
            let is_local = ["last_run_timestamp_seconds", "last_success_timestamp_seconds"].contains(&short);
            let value = if is_local { local_times[value].as_str() } else { value };
            let comma = if labels == "}" { "" } else { "," };
            lines.push(format!("{name}{{instance=\"collector-1\"{comma}{labels} {value}"));
        }
        for scrape in (0..INTERVAL).step_by(usize::try_from(SCRAPE).expect("a small number")) {
            let at = now.as_second() + scrape;
            samples.extend(lines.iter().map(|line| format!("{line} {at}\n")));
        }
    }
    samples + "# EOF\n"
}

/// Makes a certificate that expires after 45 days, for contoso's login. Returns its thumbprint.
fn certificate(installation: &Installation) -> String {
    let file = installation.path("app.pem").display().to_string();
    let make = format!(
        "openssl req -x509 -newkey rsa:2048 -nodes -days 45 -subj /CN=contoso -keyout {file}.key -out {file} 2>&1 && \
         cat {file}.key >>{file} && chmod 600 {file} && openssl x509 -in {file} -outform der | \
         openssl dgst -sha256 -binary | openssl base64 -A | tr '+/' '-_' | tr -d ="
    );
    let run = tool("sh", &["-c", &make]);
    run.assert_code(0);
    run.stdout.lines().last().expect("a thumbprint").to_owned()
}

/// How much people work at this time of the day, from 0 to 1.
fn activity(second: i64) -> f64 {
    let hour = f64::from(i32::try_from(second).expect("a small number")) / 3600.0;
    let around = |peak: f64, width: f64| E.powf(-((hour - peak) / width).powi(2));
    0.06 + 0.9 * around(10.5, 1.9) + 0.8 * around(15.2, 1.9)
}

fn add_blobs(tenant: &Tenant, now: Timestamp, activity: f64, random: &mut fastrand::Rng) {
    for content_type in CONTENT_TYPES {
        let records = match content_type {
            "Audit.SharePoint" => 90,
            "Audit.Exchange" => 60,
            "DLP.All" => 5,
            _ => 35,
        };
        let records = f64::from(records) * activity * (0.7 + 0.6 * random.f64());
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a small positive number"
        )]
        let records = records.round() as usize;
        let created = now - 4.minutes();
        if records > 0 {
            let blob = tenant.add_blob(content_type, NewBlob::records(records).created(created));
            if random.u8(..12) == 0 {
                tenant.add_blob(content_type, NewBlob::texts(blob.records()).created(created)); // duplicates
            }
        }
    }
}

/// Lets something of the day's events happen to the pass at this second of the day.
fn happen(installation: &Installation, fabrikam: &Tenant, second: i64, now: Timestamp) {
    let error = FABRIKAM_FAILS.contains(&second).then_some(LoginError::ExpiredSecret);
    fabrikam.settings(|settings| settings.login_error = error);
    if second == BLOB_IS_UNREADABLE {
        installation.contoso.add_blob("Audit.SharePoint", NewBlob::body("[{").created(now - 4.minutes()));
    }
    if CONTOSO_IS_THROTTLED.contains(&second) {
        let requests = Requests::to(Operation::FetchBlob).of_tenant(CONTOSO).times(2);
        installation.simulator.fault(requests, Fault::throttled(429, Some(RetryAfter::Seconds(0))));
    }
}

/// Labels, and values by time.
type Found = Vec<(Value, Vec<(i64, f64)>)>;

/// A Prometheus server with samples of the past.
struct Prometheus {
    server: Child,
    url: String,
}

impl Prometheus {
    fn with(folder: &Path, samples: &str) -> Self {
        let place = |name: &str| folder.join(name).display().to_string();
        fs::write(place("samples"), samples).expect("a file");
        fs::write(place("prometheus.yml"), "global: {}\n").expect("a file");
        let (samples, blocks) = (place("samples"), place("data"));
        tool("promtool", &["tsdb", "create-blocks-from", "openmetrics", "--quiet", &samples, &blocks])
            .assert_code(0);
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a port")
            .port();
        let address = format!("127.0.0.1:{port}");
        let log = fs::File::create(place("log")).expect("a file");
        let server = Command::new("prometheus")
            .arg(format!("--config.file={}", place("prometheus.yml")))
            .arg(format!("--storage.tsdb.path={blocks}"))
            .args(["--storage.tsdb.retention.time=30d", "--log.level=warn"])
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("prometheus, which .ci/run installs");
        let prometheus = Self { server, url: format!("http://{address}") };
        let is_ready =
            || tool("promtool", &["query", "instant", &prometheus.url, "vector(1)"]).code == Some(0);
        until("Prometheus answers", is_ready, || fs::read_to_string(place("log")).unwrap_or_default());
        prometheus
    }

    /// Evaluates an expression at a time.
    fn at(&self, at: i64, expression: &str) -> Found {
        let time = format!("--time={at}");
        query(&["instant", &time, &self.url, expression])
    }

    /// Evaluates an expression at each step of a time.
    fn between(&self, start: i64, end: i64, expression: &str) -> Found {
        let (start, end, step) =
            (format!("--start={start}"), format!("--end={end}"), format!("--step={STEP}s"));
        query(&["range", &start, &end, &step, &self.url, expression])
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.server.kill().and_then(|()| self.server.wait().map(drop));
    }
}

/// Runs `promtool query` with these arguments.
fn query(arguments: &[&str]) -> Found {
    let run = tool("promtool", &[&["query", "--format=json"], arguments].concat());
    assert_eq!(run.code, Some(0), "{run}");
    let found: Vec<Value> = serde_json::from_str(&run.stdout).expect("JSON");
    let point = |point: &Value| {
        let value = point[1].as_str().and_then(|value| value.parse::<f64>().ok())?;
        #[expect(clippy::cast_possible_truncation, reason = "seconds since 1970")]
        let at = point[0].as_f64()? as i64;
        value.is_finite().then_some((at, value))
    };
    let values = |series: &Value| match series["values"].as_array() {
        Some(values) => values.iter().filter_map(point).collect(),
        None => point(&series["value"]).into_iter().collect(),
    };
    found.into_iter().map(|series| (series["metric"].clone(), values(&series))).collect()
}
