//! Passes whose cost lies elsewhere than in the bytes: in waiting for answers, and in what is remembered.

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

/// 20,000 blobs whose every answer takes 50 ms, from the simulator: the floor is what this number of requests takes, so many at
/// a time, one after the other.
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

/// The same number of blobs, 20 ms for every answer, of one tenant and of a thousand, from the simulator. The floor is
/// what the blobs, and each tenant's login, list of subscriptions and listings take, a number at a time.
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
        let place = folder.join(format!("tenants-{count}"));
        let collector = Collector::of_tenants(&ids, simulator.url(), &place);
        fs::create_dir_all(&place)?;
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

/// `collect.maxThreads` by default.
const THREADS: u32 = 50;

/// What this number of requests takes, as many at a time as there are threads, in seconds.
#[expect(clippy::cast_precision_loss, reason = "a figure to look at")]
fn floor_s(latency: Duration, requests: usize) -> f64 {
    latency.as_secs_f64() * requests as f64 / f64::from(THREADS)
}

/// A pass with nothing new, once with an empty state and once with a million known blobs, in turns.
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
            let place = folder.join("known");
            let collector = Collector::new(&url, &place);
            fs::create_dir_all(collector.state())?;
            let known_blobs = collector.state().join("known_blobs");
            fs::write(&known_blobs, lines)?;
            fs::File::open(known_blobs)?.sync_all()?; // else the pass would have to
            costs.push(collector.pass(folder)?);
            fs::remove_dir_all(&place)?;
        }
    }
    for (costs, count) in costs.iter().zip([0, LINES]) {
        let cost = medians(costs);
        println!("| {count} | {:.2} | {:.2} | {:.0} |", cost.wall_s, cost.cpu_s, cost.peak_mb);
    }
    Ok(())
}

/// Corpus M to each kind of output, in turns. The receivers take everything and acknowledge it at once, so that what is
/// measured is the collector.
pub fn outputs(corpora: &Path, runs: usize, folder: &Path) -> io::Result<()> {
    let corpus = *corpus::ALL.iter().find(|corpus| corpus.name == "M").expect("one of them");
    corpus.make(corpora)?;
    let server = Server::start(&corpus.folder(corpora), &folder.join("nginx"))?;
    let url = server.url(Scheme::Plain);
    corpus.list(corpora, Scheme::Plain.name(), &url)?;
    let run = folder.join("outputs");
    let (forward, gelf, http) = (sinks::forward()?, sinks::gelf()?, sinks::http()?);
    let outputs = [
        ("file", format!("  file:\n    path: {}/audit.json\n", run.display())),
        ("file, CSV", format!("  file:\n    path: {}/audit.csv\n", run.display())),
        ("fluentd", format!("  fluentd:\n    address: 127.0.0.1\n    port: {forward}\n")),
        (
            "fluentd, gzip",
            format!("  fluentd:\n    address: 127.0.0.1\n    port: {forward}\n    compress: gzip\n"),
        ),
        ("graylog", format!("  graylog:\n    address: 127.0.0.1\n    port: {gelf}\n")),
        ("http, ndjson", format!("  http:\n    url: http://127.0.0.1:{http}/\n")),
        ("http, ndjson, gzip", format!("  http:\n    url: http://127.0.0.1:{http}/\n    compress: gzip\n")),
    ];
    let mut costs = outputs.each_ref().map(|_| Vec::new());
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
    #[expect(clippy::cast_precision_loss, reason = "figures to look at")]
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
