//! Passes that spend their time on other things than the records of a corpus: waiting for responses, many tenants, a large
//! state, and outputs.

use std::{fmt::Write as _, fs, io, path::Path, time::Duration};

use jiff::{Timestamp, ToSpan};
use simulator::{CONTENT_TYPES, Simulator, Tenant, TenantSettings};

use super::{
    collector::Collector,
    corpus::{self, Corpus, TENANT_ID},
    measure::medians,
    server::{Scheme, Server},
    sinks,
};

/// Measures 20,000 blobs of the simulator, with a latency of 50 ms for each response. The floor is the time for the requests
/// for blobs alone.
pub fn latency(folder: &Path) -> io::Result<()> {
    const BLOBS: usize = 20_000;
    const LATENCY: Duration = Duration::from_millis(50);
    let simulator = Simulator::start();
    add_blobs(&simulator.tenant(TenantSettings::new(TENANT_ID).secret("benchmark")), BLOBS);
    simulator.set_latency(LATENCY);
    let collector = Collector::new(simulator.url(), &folder.join("latency"));
    fs::create_dir_all(folder.join("latency"))?;
    let cost = collector.pass(folder)?;
    let floor_s = floor_s(LATENCY, BLOBS);
    println!("\n### Latency: {BLOBS} blobs at {} ms, {THREADS} threads\n", LATENCY.as_millis());
    println!("| wall s | floor s | ratio | CPU s | peak MB |\n| --- | --- | --- | --- | --- |");
    println!(
        "| {:.2} | {floor_s:.2} | {:.2} x | {:.2} | {:.0} |",
        cost.wall_s,
        cost.wall_s / floor_s,
        cost.cpu_s,
        cost.peak_mb
    );
    Ok(())
}

/// Measures 15,000 blobs of the simulator, of one tenant and of a thousand, with a latency of 20 ms for each response. The
/// floor is the time for all requests: logins, lists of subscriptions, listings and blobs.
pub fn tenants(folder: &Path) -> io::Result<()> {
    const BLOBS: usize = 15_000;
    const LATENCY: Duration = Duration::from_millis(20);
    println!("\n### Tenants: {BLOBS} blobs at {} ms, {THREADS} threads\n", LATENCY.as_millis());
    println!("| tenants | requests | wall s | floor s | ratio | CPU s | peak MB |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for count in [1, 1_000] {
        let ids: Vec<_> = (1..=count).map(|tenant| format!("11111111-1111-4111-8111-{tenant:012}")).collect();
        let simulator = Simulator::start();
        for id in &ids {
            let tenant = simulator.tenant(TenantSettings::new(id).secret("benchmark"));
            add_blobs(&tenant, BLOBS / count);
        }
        simulator.set_latency(LATENCY);
        let installation = folder.join(format!("tenants-{count}"));
        let collector = Collector::of_tenants(&ids, simulator.url(), &installation);
        fs::create_dir_all(&installation)?;
        let cost = collector.pass(folder)?;
        let requests = simulator.requests().len();
        let floor_s = floor_s(LATENCY, requests);
        println!(
            "| {count} | {requests} | {:.2} | {floor_s:.2} | {:.2} x | {:.2} | {:.0} |",
            cost.wall_s,
            cost.wall_s / floor_s,
            cost.cpu_s,
            cost.peak_mb
        );
    }
    Ok(())
}

/// Spreads blobs over the content types and the last 20 hours.
fn add_blobs(tenant: &Tenant, count: usize) {
    let (from, to) = (Timestamp::now() - 20.hours(), Timestamp::now() - 1.hour());
    for content_type in CONTENT_TYPES {
        tenant.add_blobs(content_type, count / CONTENT_TYPES.len(), 10, from..to);
    }
}

/// The default of `collect.maxThreads`.
const THREADS: u32 = 50;

/// Returns the least time in seconds for this number of requests, of which each thread makes one at a time.
#[expect(clippy::cast_precision_loss, reason = "a figure that is only printed")]
fn floor_s(latency: Duration, requests: usize) -> f64 {
    latency.as_secs_f64() * requests as f64 / f64::from(THREADS)
}

/// Measures a pass without new blobs, in turns with an empty state and with a million known blobs.
pub fn known(runs: usize, folder: &Path) -> io::Result<()> {
    const LINES: usize = 1_000_000;
    let nothing = Corpus { name: "N", blobs: 0, records_of_a_blob: 0 };
    nothing.make(folder)?;
    let server = Server::start(&nothing.folder(folder), &folder.join("nginx"))?;
    let (scheme, url) = (Scheme::Plain, server.url(Scheme::Plain));
    nothing.list(folder, scheme.name(), &url)?;
    let expiration = Timestamp::now() + (6 * 24).hours();
    let mut lines = String::new();
    for blob in 0..LINES {
        let content_type = CONTENT_TYPES[blob % CONTENT_TYPES.len()];
        let _ = writeln!(
            lines,
            "20261118051748{blob:09}$20261118051748{blob:09}$audit_sharepoint$Audit_SharePoint$emea0036,{expiration:.3},\
             {TENANT_ID},{content_type}"
        );
    }
    println!("\n### Known: nothing new, with an empty state and with {LINES} known blobs\n");
    println!("| known blobs | wall s | CPU s | peak MB |\n| --- | --- | --- | --- |");
    let mut costs = [Vec::new(), Vec::new()];
    for _ in 0..runs {
        for (costs, lines) in costs.iter_mut().zip(["", &lines]) {
            let installation = folder.join("known");
            let collector = Collector::new(&url, &installation);
            fs::create_dir_all(collector.state())?;
            let known_blobs = collector.state().join("known_blobs");
            fs::write(&known_blobs, lines)?;
            fs::File::open(known_blobs)?.sync_all()?; // so that the pass does not wait for it
            costs.push(collector.pass(folder)?);
            fs::remove_dir_all(&installation)?;
        }
    }
    for (costs, count) in costs.iter().zip([0, LINES]) {
        let cost = medians(costs);
        println!("| {count} | {:.2} | {:.2} | {:.0} |", cost.wall_s, cost.cpu_s, cost.peak_mb);
    }
    Ok(())
}

/// Measures corpus M with each kind of output, in turns. The receivers acknowledge everything at once, so that the collector is
/// measured and not the receiver.
pub fn outputs(corpora: &Path, runs: usize, folder: &Path) -> io::Result<()> {
    let corpus = *corpus::ALL.iter().find(|corpus| corpus.name == "M").expect("corpus M");
    corpus.make(corpora)?;
    let server = Server::start(&corpus.folder(corpora), &folder.join("nginx"))?;
    let url = server.url(Scheme::Plain);
    corpus.list(corpora, Scheme::Plain.name(), &url)?;
    let run = folder.join("outputs");
    let (forward, gelf, http) = (sinks::forward()?, sinks::gelf()?, sinks::http()?);
    let (syslog, relp) = (sinks::syslog()?, sinks::relp()?);
    let outputs = [
        ("file", format!("  file:\n    path: {}/audit.json\n", run.display())),
        ("file, CSV", format!("  file:\n    path: {}/audit.csv\n", run.display())),
        ("fluentd", format!("  fluentd:\n    address: 127.0.0.1\n    port: {forward}\n")),
        (
            "fluentd, gzip",
            format!("  fluentd:\n    address: 127.0.0.1\n    port: {forward}\n    compress: gzip\n"),
        ),
        ("graylog", format!("  graylog:\n    address: 127.0.0.1\n    port: {gelf}\n")),
        (
            "syslog, tcp",
            format!("  syslog:\n    address: 127.0.0.1\n    port: {syslog}\n    protocol: tcp\n"),
        ),
        (
            "syslog, relp",
            format!("  syslog:\n    address: 127.0.0.1\n    port: {relp}\n    protocol: relp\n"),
        ),
        ("http, ndjson", format!("  http:\n    url: http://127.0.0.1:{http}/\n")),
        ("http, ndjson, gzip", format!("  http:\n    url: http://127.0.0.1:{http}/\n    compress: gzip\n")),
        ("http, otlp", format!("  http:\n    url: http://127.0.0.1:{http}/\n    format: otlp\n")),
        (
            "http, otlp, attributes",
            format!(
                "  http:\n    url: http://127.0.0.1:{http}/\n    format: otlp\n    otlp: {{ recordAs: attributes }}\n"
            ),
        ),
    ];
    let kafka = sinks::Kafka::start();
    let outputs: Vec<_> = outputs.into_iter().chain(kafka.outputs()).collect();
    let mut costs = vec![Vec::new(); outputs.len()];
    for _ in 0..runs {
        for ((_, output), costs) in outputs.iter().zip(&mut costs) {
            fs::create_dir_all(&run)?;
            costs.push(Collector::with_output(&url, &run, output).pass(folder)?);
            fs::remove_dir_all(&run)?;
        }
    }
    println!("\n### Outputs: {} records of corpus M to each\n", corpus.records());
    println!("| output | wall s | CPU s | peak MB | records a CPU s | records a s | MB a s |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    #[expect(clippy::cast_precision_loss, reason = "figures that are only printed")]
    let (records, megabytes) = (corpus.records() as f64, corpus.bytes(corpora)? as f64 / 1e6);
    for ((name, _), costs) in outputs.iter().zip(&costs) {
        let cost = medians(costs);
        println!(
            "| {name} | {:.2} | {:.2} | {:.0} | {:.0} | {:.0} | {:.0} |",
            cost.wall_s,
            cost.cpu_s,
            cost.peak_mb,
            records / cost.cpu_s,
            records / cost.wall_s,
            megabytes / cost.wall_s,
        );
    }
    Ok(())
}

/// Measures `verify --content` of corpus M, compared with the pass that has collected it.
pub fn verify(corpora: &Path, runs: usize, folder: &Path) -> io::Result<()> {
    let corpus = *corpus::ALL.iter().find(|corpus| corpus.name == "M").expect("corpus M");
    corpus.make(corpora)?;
    let server = Server::start(&corpus.folder(corpora), &folder.join("nginx"))?;
    let url = server.url(Scheme::Plain);
    corpus.list(corpora, Scheme::Plain.name(), &url)?;
    let installation = folder.join("verify");
    let mut costs = [Vec::new(), Vec::new()];
    for _ in 0..runs {
        fs::create_dir_all(&installation)?;
        let collector = Collector::new(&url, &installation);
        costs[0].push(collector.pass(folder)?);
        costs[1].push(collector.verify(folder)?);
        fs::remove_dir_all(&installation)?;
    }
    println!("\n### Verify: {} records of corpus M in a file\n", corpus.records());
    println!("| command | wall s | CPU s | peak MB | wall ratio | CPU ratio |");
    println!("| --- | --- | --- | --- | --- | --- |");
    let pass = medians(&costs[0]);
    for (name, costs) in ["a pass", "verify --content"].iter().zip(&costs) {
        let cost = medians(costs);
        println!(
            "| {name} | {:.2} | {:.2} | {:.0} | {:.2} x | {:.2} x |",
            cost.wall_s,
            cost.cpu_s,
            cost.peak_mb,
            cost.wall_s / pass.wall_s,
            cost.cpu_s / pass.cpu_s,
        );
    }
    Ok(())
}
