//! Passes that spend their time on other things than the records of a corpus: waiting for responses, many tenants, a large
//! state, and outputs.

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
    time::Duration,
};

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

/// Measures passes without new blobs, in turns with an empty state and with this number of known blobs. The first pass with
/// known blobs reads all of them and makes their index; those that follow use it.
pub fn known(lines: usize, runs: usize, folder: &Path) -> io::Result<()> {
    let nothing = Corpus { name: "N", blobs: 0, records_of_a_blob: 0 };
    nothing.make(folder)?;
    let server = Server::start(&nothing.folder(folder), &folder.join("nginx"))?;
    let (scheme, url) = (Scheme::Plain, server.url(Scheme::Plain));
    nothing.list(folder, scheme.name(), &url)?;
    let (empty, known) = (folder.join("known-0"), folder.join("known"));
    for installation in [&empty, &known] {
        fs::create_dir_all(Collector::new(&url, installation).state())?;
    }
    let known_blobs = Collector::new(&url, &known).state().join("known_blobs");
    write_known_blobs(&known_blobs, lines)?;
    let first = Collector::new(&url, &known).pass(folder)?;
    let mut costs = [Vec::new(), Vec::new()];
    for _ in 0..runs {
        for (costs, installation) in costs.iter_mut().zip([&empty, &known]) {
            costs.push(Collector::new(&url, installation).pass(folder)?);
        }
    }
    let [without, with] = costs.map(|costs| medians(&costs));
    println!("\n### Known: nothing new, with an empty state and with {lines} known blobs\n");
    println!("| pass | wall s | CPU s | peak MB |\n| --- | --- | --- | --- |");
    for (name, cost) in
        [("empty state", without), ("known blobs, without an index", first), ("known blobs", with)]
    {
        println!("| {name} | {:.3} | {:.3} | {:.1} |", cost.wall_s, cost.cpu_s, cost.peak_mb);
    }
    println!(
        "\nThe known blobs add {:.0} ms and {:.1} MB to an idle pass.",
        (with.wall_s - without.wall_s) * 1e3,
        with.peak_mb - without.peak_mb
    );
    fs::remove_dir_all(&known)
}

fn write_known_blobs(path: &Path, lines: usize) -> io::Result<()> {
    let expiration = Timestamp::now() + (6 * 24).hours();
    let mut file = io::BufWriter::with_capacity(1 << 20, fs::File::create(path)?);
    for blob in 0..lines {
        let content_type = CONTENT_TYPES[blob % CONTENT_TYPES.len()];
        writeln!(
            file,
            "20261118051748{blob:09}$20261118051748{blob:09}$audit_sharepoint$Audit_SharePoint$emea0036,{expiration:.3},\
             {TENANT_ID},{content_type}"
        )?;
    }
    file.into_inner()?.sync_all() // so that the pass does not wait for it
}

/// Measures passes of many tenants without new blobs. The floor is the time for their requests: a login, a list of
/// subscriptions and five listings for each tenant.
pub fn idle(count: usize, latency: Duration, runs: usize, folder: &Path) -> io::Result<()> {
    let ids: Vec<_> = (1..=count).map(|tenant| format!("11111111-1111-4111-8111-{tenant:012}")).collect();
    let simulator = Simulator::start();
    for id in &ids {
        let tenant = simulator.tenant(TenantSettings::new(id).secret("benchmark"));
        for content_type in CONTENT_TYPES {
            tenant.subscribe(content_type);
        }
    }
    let installation = folder.join(format!("idle-{count}"));
    fs::create_dir_all(&installation)?;
    let collector = Collector::of_tenants(&ids, simulator.url(), &installation);
    collector.pass(folder)?; // lists the whole day
    simulator.set_latency(latency);
    let (mut costs, mut requests) = (Vec::new(), 0);
    for _ in 0..runs {
        simulator.forget_requests();
        costs.push(collector.pass(folder)?);
        requests = simulator.requests().len();
    }
    let (cost, floor_s) = (medians(&costs), floor_s(latency, requests));
    println!("\n### Idle: {count} tenants at {} ms, {THREADS} threads\n", latency.as_millis());
    println!("| requests | wall s | floor s | ratio | CPU s | CPU µs a request | peak MB |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    #[expect(clippy::cast_precision_loss, reason = "a figure that is only printed")]
    let microseconds = cost.cpu_s * 1e6 / requests as f64;
    println!(
        "| {requests} | {:.2} | {floor_s:.2} | {:.2} x | {:.2} | {microseconds:.0} | {:.0} |",
        cost.wall_s,
        cost.wall_s / floor_s,
        cost.cpu_s,
        cost.peak_mb
    );
    fs::remove_dir_all(&installation)
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
