//! The cost of a pass, compared with downloading the same blobs with curl: `cargo bench --bench passes`.
//!
//! A stock nginx on 127.0.0.1 serves each corpus over HTTP and HTTPS. These commands run in turns: the collector to files; the
//! two parts of the floor (h2load, which fetches every blob and discards it, and cat, which copies all blobs to one file
//! that is then synced); curl with 50 transfers at a time, to `/dev/null` and to files that are then synced; curl and
//! `jq -c '.[]'`; and the commands given with `--other`. The medians and their ratios are printed as Markdown. No figure makes
//! the benchmark fail, but a missing record does. It needs nginx, h2load, curl, jq and GNU time (Debian: `nginx-light
//! nghttp2-client curl jq time`).

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints its figures")]

mod cases;
mod collector;
mod corpus;
mod measure;
mod server;
mod sinks;

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use argh::FromArgs;

use collector::Collector;
use corpus::Corpus;
use measure::{Cost, medians};
use server::{Scheme, Server};

/// Measures passes and compares them with curl and jq, on this machine.
#[derive(FromArgs)]
struct Arguments {
    /// what to measure, separated by commas: S, M, L, H, and the cases latency, tenants, known, idle, outputs and verify;
    /// default: all; and two that take minutes: known-many (ten million blobs) and idle-many (20,000 tenants)
    #[argh(option, default = "String::from(\"S,M,L,H,latency,tenants,known,idle,outputs,verify\")")]
    only: String,

    /// number of runs of each command, which take turns; default 5
    #[argh(option, default = "5")]
    runs: usize,

    /// number of runs of the slow commands: jq, and other collectors; default 1
    #[argh(option, default = "1")]
    slow_runs: usize,

    /// another collector's command line, run by sh: {urls} is replaced by a file with every blob's URL, {api} by the
    /// URL of login and API, {folder} by an empty folder; can be given several times
    #[argh(option)]
    other: Vec<String>,

    /// folder in which the blobs are kept for later runs; default: in the target folder
    #[argh(option, default = "PathBuf::from(env!(\"CARGO_TARGET_TMPDIR\")).join(\"corpora\")")]
    corpora: PathBuf,
}

/// The latency of the simulator for passes of many tenants.
const LATENCY: Duration = Duration::from_millis(20);

fn main() -> ExitCode {
    let words: Vec<_> = env::args().skip(1).filter(|word| word != "--bench").collect(); // cargo adds --bench
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let arguments = match Arguments::from_args(&["cargo bench --bench passes --"], &words) {
        Ok(arguments) => arguments,
        Err(exit) => {
            println!("{}", exit.output);
            return if exit.status.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
    };
    match measure_all(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("The benchmark failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure_all(arguments: &Arguments) -> io::Result<()> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    for name in arguments.only.split(',') {
        if let Some(&corpus) = corpus::ALL.iter().find(|corpus| corpus.name == name) {
            corpus.make(&arguments.corpora)?;
            let server = Server::start(&corpus.folder(&arguments.corpora), &folder.path().join("nginx"))?;
            for scheme in Scheme::ALL {
                corpus.list(&arguments.corpora, scheme.name(), &server.url(scheme))?;
                measure_corpus(corpus, scheme, &server, arguments, folder.path())?;
            }
        } else {
            match name {
                "latency" => cases::latency(folder.path())?,
                "tenants" => cases::tenants(folder.path())?,
                "outputs" => cases::outputs(&arguments.corpora, arguments.runs, folder.path())?,
                "verify" => cases::verify(&arguments.corpora, arguments.runs, folder.path())?,
                "known" => cases::known(1_000_000, arguments.runs, folder.path())?,
                "known-many" => cases::known(10_000_000, arguments.runs, folder.path())?,
                "idle" => cases::idle(1_000, LATENCY, arguments.runs, folder.path())?,
                "idle-many" => cases::idle(20_000, LATENCY, arguments.slow_runs, folder.path())?,
                _ => {
                    return Err(io::Error::other(format!(
                        "--only: unknown corpus or case {name:?}; see --help"
                    )));
                }
            }
        }
    }
    Ok(())
}

/// A command that is measured with a corpus.
struct Contender {
    name: String,
    kind: Kind,
    costs: Vec<Cost>,
}

enum Kind {
    Collector,
    /// A script for sh: a part of the floor, that is, of the least work that a collector has to do.
    Floor(String),
    /// A script for sh.
    Script(String),
    /// A script with fewer runs.
    SlowScript(String),
}

fn measure_corpus(
    corpus: Corpus,
    scheme: Scheme,
    server: &Server,
    arguments: &Arguments,
    folder: &Path,
) -> io::Result<()> {
    let mut contenders = contenders(corpus, scheme, server, arguments, folder)?;
    for turn in 0..arguments.runs {
        for contender in &mut contenders {
            let run = folder.join("run");
            fs::create_dir_all(&run)?;
            let script = |script: &str| {
                let script = script.replace("{folder}", &run.display().to_string());
                measure::run(["sh", "-c", &script], folder)
            };
            let cost = match &contender.kind {
                Kind::Collector => {
                    let collector = Collector::new(&server.url(scheme), &run);
                    let cost = collector.pass(folder)?;
                    let delivered = collector.delivered()?;
                    if delivered != corpus.records() {
                        let expected = corpus.records();
                        return Err(io::Error::other(format!(
                            "the collector delivered {delivered} of {expected} records"
                        )));
                    }
                    Some(cost)
                }
                Kind::Floor(text) | Kind::Script(text) => Some(script(text)?),
                Kind::SlowScript(text) => (turn < arguments.slow_runs).then(|| script(text)).transpose()?,
            };
            contender.costs.extend(cost);
            fs::remove_dir_all(&run)?;
        }
    }
    print(corpus, scheme, &contenders, corpus.bytes(&arguments.corpora)?);
    Ok(())
}

fn contenders(
    corpus: Corpus,
    scheme: Scheme,
    server: &Server,
    arguments: &Arguments,
    folder: &Path,
) -> io::Result<Vec<Contender>> {
    let url = server.url(scheme);
    let (discard, files) = (folder.join("curl-discard"), folder.join("curl-files"));
    let run = folder.join("run");
    fs::write(&discard, corpus.curl_config(&url, None))?;
    fs::write(&files, corpus.curl_config(&url, Some(&run)))?;
    let urls = folder.join("urls");
    let lines: Vec<_> = (0..corpus.blobs).map(|blob| format!("{url}/blobs/{blob}")).collect();
    fs::write(&urls, lines.join("\n"))?;
    let root = server::root_certificate();
    let (blobs, clients) = (corpus.blobs, corpus.blobs.min(50)); // h2load requires a request for each client
    let blobs_folder = corpus.folder(&arguments.corpora).join("blobs");
    let curl = format!("curl -sS --no-progress-meter --cacert {root} --parallel --parallel-max 50");
    let contender = |name: &str, kind| Contender { name: name.to_owned(), kind, costs: Vec::new() };
    let mut contenders = vec![
        contender("collector, to files", Kind::Collector),
        contender(
            "h2load",
            Kind::Floor(format!(
                "h2load --h1 --threads=1 --clients={clients} --requests={blobs} --input-file={}",
                urls.display()
            )),
        ),
        contender(
            "cat to one file, synced",
            Kind::Floor(format!(
                "cd {} && cat [0-9]* > {{folder}}/blobs && sync {{folder}}/blobs",
                blobs_folder.display()
            )),
        ),
        contender("curl, to /dev/null", Kind::Script(format!("{curl} -K {}", discard.display()))),
        contender(
            "curl, to files, synced",
            Kind::Script(format!("{curl} -K {} && sync -f {{folder}}", files.display())),
        ),
        contender(
            "curl and jq -c '.[]'",
            Kind::SlowScript(format!(
                "{curl} -K {} && cd {{folder}} && cat [0-9]* | jq -c '.[]' > lines",
                files.display()
            )),
        ),
    ];
    for other in &arguments.other {
        let script =
            other.replace("{urls}", &urls.display().to_string()).replace("{api}", &server.url(scheme));
        contenders.push(contender(other, Kind::SlowScript(script)));
    }
    Ok(contenders)
}

fn print(corpus: Corpus, scheme: Scheme, contenders: &[Contender], bytes: u64) {
    #[expect(clippy::cast_precision_loss, reason = "figures that are only printed")]
    let (records, megabytes) = (corpus.records() as f64, bytes as f64 / 1e6);
    println!(
        "\n### {}, {}: {} blobs, {records} records, {megabytes:.0} MB\n",
        corpus.name,
        scheme.name(),
        corpus.blobs
    );
    println!(
        "| command | wall s | CPU s | peak MB | records a CPU s | wall of the collector | CPU of the collector |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    let collector = medians(&contenders[0].costs);
    let row = |name: &str, Cost { wall_s, cpu_s, peak_mb }| {
        println!(
            "| {name} | {wall_s:.2} | {cpu_s:.2} | {peak_mb:.0} | {:.0} | {:.2} x | {:.2} x |",
            records / cpu_s,
            collector.wall_s / wall_s,
            collector.cpu_s / cpu_s,
        );
    };
    for contender in contenders.iter().filter(|contender| !contender.costs.is_empty()) {
        row(&contender.name, medians(&contender.costs));
    }
    let parts = contenders.iter().filter(|contender| matches!(contender.kind, Kind::Floor(_)));
    let floor = parts.map(|part| medians(&part.costs)).reduce(Cost::followed_by);
    if let Some(floor) = floor {
        row("floor: h2load, then cat", floor);
    }
}
