//! What a pass costs beside what it costs to fetch the same blobs with curl: `cargo bench --bench passes`.
//!
//! Serves each corpus by a stock nginx on the loopback, plain and over TLS, and runs turn by turn: the collector to
//! files; curl, 50 at a time, to nowhere, and to files that are then synced; curl and `jq -c '.[]'`; and whatever other
//! commands are given. Prints the medians and their ratios as Markdown. Nothing here fails because of a figure; it does
//! if the records delivered are not all there. Needs nginx, curl, jq and GNU time (Debian: `nginx-light curl jq time`).

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "showing figures is what a benchmark is for")]

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
};

use argh::FromArgs;

use collector::Collector;
use corpus::Corpus;
use measure::{Cost, medians};
use server::{Scheme, Server};

/// Measures passes beside curl and jq, on this machine.
#[derive(FromArgs)]
struct Arguments {
    /// what to measure, separated by commas: S, M, L, H, and the cases latency, tenants, known and outputs; default:
    /// all
    #[argh(option, default = "String::from(\"S,M,L,H,latency,tenants,known,outputs\")")]
    only: String,

    /// how often each command runs, turn by turn; default 5
    #[argh(option, default = "5")]
    runs: usize,

    /// how often the slow ones do: jq, and the other collectors; default 1
    #[argh(option, default = "1")]
    slow_runs: usize,

    /// another collector's command line, run by sh: {urls} is replaced by a file with every blob's URL, {api} by the
    /// URL of login and API, {folder} by an empty folder; can be given several times
    #[argh(option)]
    other: Vec<String>,

    /// where blobs are kept from run to run; default: the target folder
    #[argh(option, default = "PathBuf::from(env!(\"CARGO_TARGET_TMPDIR\")).join(\"corpora\")")]
    corpora: PathBuf,
}

fn main() -> ExitCode {
    let typed: Vec<_> = env::args().skip(1).filter(|word| word != "--bench").collect(); // cargo adds that
    let typed: Vec<_> = typed.iter().map(String::as_str).collect();
    let arguments = match Arguments::from_args(&["cargo bench --bench passes --"], &typed) {
        Ok(arguments) => arguments,
        Err(exit) => {
            println!("{}", exit.output);
            return if exit.status.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
    };
    match measure_all(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("The benchmark cannot go on: {error}");
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
                "known" => cases::known(arguments.runs, folder.path())?,
                _ => return Err(io::Error::other(format!("there is nothing named {name}"))),
            }
        }
    }
    Ok(())
}

/// Something that is run for a corpus.
struct Contender {
    name: String,
    kind: Kind,
    costs: Vec<Cost>,
}

enum Kind {
    Collector,
    /// A script for sh.
    Script(String),
    /// One that takes its time.
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
                        let wanted = corpus.records();
                        return Err(io::Error::other(format!(
                            "{delivered} of {wanted} records were delivered"
                        )));
                    }
                    Some(cost)
                }
                Kind::Script(text) => Some(script(text)?),
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
    let (nowhere, files) = (folder.join("to-nowhere"), folder.join("to-files"));
    let run = folder.join("run");
    fs::write(&nowhere, corpus.curl_config(&url, None))?;
    fs::write(&files, corpus.curl_config(&url, Some(&run)))?;
    let urls = folder.join("urls");
    let lines: Vec<_> = (0..corpus.blobs).map(|blob| format!("{url}/blobs/{blob}")).collect();
    fs::write(&urls, lines.join("\n"))?;
    let root = server::root_certificate();
    let curl = format!("curl -sS --no-progress-meter --cacert {root} --parallel --parallel-max 50");
    let contender = |name: &str, kind| Contender { name: name.to_owned(), kind, costs: Vec::new() };
    let mut contenders = vec![
        contender("collector, to files", Kind::Collector),
        contender("curl, to /dev/null", Kind::Script(format!("{curl} -K {}", nowhere.display()))),
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
    #[expect(clippy::cast_precision_loss, reason = "figures to look at")]
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
    for contender in contenders.iter().filter(|contender| !contender.costs.is_empty()) {
        let Cost { wall_s, cpu_s, peak_mb } = medians(&contender.costs);
        println!(
            "| {} | {wall_s:.2} | {cpu_s:.2} | {peak_mb:.0} | {:.0} | {:.2} x | {:.2} x |",
            contender.name,
            records / cpu_s,
            collector.wall_s / wall_s,
            collector.cpu_s / cpu_s,
        );
    }
}
