//! Collects the audit records of Microsoft 365 tenants from the Office 365 Management Activity API and delivers each of
//! them exactly once to files and other receivers.
//!
//! Every invocation makes **one collection pass** and exits; a systemd timer, cron, or a person supplies the cadence.
//!
//! # One pass
//!
//! ```text
//! config ─▶ plan ─▶ schedule ⇄ work ──blobs──▶ write ─▶ report ─▶ exit
//!                   (main      (rayon  bounded  (one
//!                    thread)    pool)  channel   thread)
//! ```
//!
//! [`pass`] joins them. The **schedule** owns all of the pass's state and every policy: whose turn it is, what is tried
//! again, what is given up. **Work** is what a pool thread does with one task: one request, one outcome. The **writer**
//! is the only one that touches outputs and state.
//!
//! # Invariants
//!
//! 1. Durable in the outputs, then in the state, never the other way round (`pass::write`).
//! 2. One writer: nothing else touches outputs or state while a pass runs (`pass::write`).
//! 3. Everything is bounded: bytes and records in memory, pages, tries, time ([`limits`], `pass::memory`).
//! 4. Progress is a set of blobs, not a point in time: the order of downloads is free, and a failed blob is just absent
//!    ([`state::known_blobs`]).
//! 5. The token goes to the configured origin only ([`api::client`]).
//! 6. Listed = known + delivered + failed + gone + left for later, at the end of every pass (`pass::schedule`).
//! 7. A tenant's trouble stays that tenant's (`pass::schedule`).
//! 8. The lock is on `known_blobs`, and goes along when that file is replaced (`state::lock`).
//!
//! # Who may use whom
//!
//! [`pass`] and [`check`] may use everything. [`api`], [`output`] and [`state`] never use each other; [`report`] reads
//! what [`state`] remembers. The vocabulary ([`feed`], [`delivery`], [`records`], [`filter`], [`csv`], [`json`],
//! [`body`], [`limits`], [`time`], [`disk`], [`login`], [`network`], [`suggest`]), [`schedule`] and [`config`] use none of
//! these. A test holds this against the code.

pub mod cli;
pub mod config;

pub mod check;
pub mod pass;
pub mod schedule;

pub mod api;
pub mod output;
pub mod state;

pub mod body;
pub mod csv;
pub mod feed;
pub mod filter;
pub mod json;
pub mod records;

pub mod report;

pub mod delivery;
pub mod disk;
pub mod exit;
pub mod limits;
pub mod log;
pub mod login;
pub mod network;
pub mod suggest;
pub mod time;

use std::{
    env,
    io::{self, Write},
    path::{self, Path, PathBuf},
    time::{Duration, Instant},
};

use jiff::Timestamp;

use cli::{Arguments, Command, Parsed};
use config::{Config, Loaded, Sources, Tenant};
use exit::Exit;
use log::Detail;
use output::OutputError;
use pass::{Ended, Mode, Order, PassError};
use report::{metrics::Metrics, status};
use schedule::{Schedule, Scheduler};

/// Runs the program with these arguments, its name first, and says how it ended.
pub fn run(typed: impl IntoIterator<Item = String>) -> Exit {
    match cli::parse(typed) {
        Parsed::Show(text) => show(&text),
        Parsed::Wrong(message) => complain(&message),
        Parsed::Run(Arguments { version: true, .. }) => {
            show(concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")))
        }
        Parsed::Run(arguments) => configured(&arguments),
    }
}

/// Reads the configuration, starts the log as it says, and does what was asked for.
fn configured(arguments: &Arguments) -> Exit {
    let asked = match (arguments.quiet, arguments.verbose) {
        (true, _) => Detail::Quiet,
        (_, true) => Detail::Debug,
        _ => Detail::Usual,
    };
    log::to_stderr(asked);
    let is_check = matches!(arguments.command, Some(Command::Check(_)));
    let (file, Loaded { config, warnings }) = match load(arguments) {
        Ok(loaded) => loaded,
        Err(unusable) => {
            for line in unusable.to_string().lines() {
                ::log::error!("{line}");
            }
            return if is_check { check::refuse() } else { Exit::Configuration };
        }
    };
    let detail = if config.log.debug && asked == Detail::Usual { Detail::Debug } else { asked };
    // Whoever asks for a schedule sees what is said, and gets it for what is not switched on yet.
    let is_schedule = matches!(arguments.command, Some(Command::Schedule(_)));
    // A check only tries its file out, and shows the warnings among what it finds.
    match config.log.path.as_ref().filter(|_| !is_schedule && !is_check) {
        None => log::to_stderr(detail),
        Some(path) => {
            if let Err(error) = log::to_file(path, detail) {
                ::log::error!("cannot open log.path {}: {error}; {}", path.display(), disk::mend(&error));
                return Exit::Storage;
            }
        }
    }
    for warning in warnings.iter().filter(|_| !is_check) {
        ::log::warn!("{warning}");
    }
    if !config.enabled && !is_schedule {
        ::log::info!("The configuration says enabled: false: nothing is done");
        return Exit::Complete;
    }
    match chosen(&config, arguments) {
        Err(message) => complain(&message),
        Ok(tenants) => match arguments.command {
            Some(Command::Check(_)) => check::run(&config, &warnings, &tenants),
            Some(Command::Status(asked)) => show_status(&config, &tenants, asked),
            Some(Command::Schedule(asked)) => {
                show_schedule(&file, config.interval, asked.scheduler, arguments)
            }
            None => one_pass(config, tenants, arguments),
        },
    }
}

/// The configuration's file, and what it says. What does not log in needs no secret, and runs where there is none.
fn load(arguments: &Arguments) -> Result<(PathBuf, Loaded), config::Unusable> {
    let file: PathBuf = match &arguments.config {
        Some(file) => file.clone(),
        None => config::find_default()?,
    };
    let loaded = config::load(&Sources {
        file: &file,
        credentials: arguments.credentials.as_deref(),
        environment: &|name| env::var(name).ok(),
        with_secrets: !matches!(arguments.command, Some(Command::Status(_) | Command::Schedule(_))),
    })?;
    Ok((file, loaded))
}

/// The units or the crontab for passes with these arguments, to standard output.
fn show_schedule(config: &Path, interval: Duration, scheduler: Scheduler, arguments: &Arguments) -> Exit {
    let Arguments { credentials, tenant, shard, .. } = arguments;
    let credentials = credentials.as_ref().map(path::absolute).transpose();
    let paths = env::current_exe().and_then(|program| Ok((program, path::absolute(config)?, credentials?)));
    let (program, config, credentials) = match paths {
        Ok(paths) => paths,
        Err(error) => {
            ::log::error!("cannot tell where the program and its configuration are: {error}");
            return Exit::Storage;
        }
    };
    let credentials = credentials.map(|path| format!("--credentials={}", path.display()));
    let tenants = tenant.iter().map(|tenant| format!("--tenant={tenant}"));
    let shard = shard.map(|shard| format!("--shard={shard}"));
    let options: Vec<_> = credentials.into_iter().chain(tenants).chain(shard).collect();
    let schedule = Schedule { program: &program, config: &config, interval, options: &options };
    match schedule.text(scheduler) {
        Ok(text) => {
            for warning in schedule.warnings(scheduler) {
                ::log::warn!("{warning}");
            }
            show(&text)
        }
        Err(error) => {
            ::log::error!("{error}");
            Exit::Configuration
        }
    }
}

/// The tenants named by `--tenant`, or all; and of these the ones of our shard.
fn chosen(config: &Config, arguments: &Arguments) -> Result<Vec<Tenant>, String> {
    let names = &arguments.tenant;
    let is_named = |tenant: &Tenant, name: &str| {
        tenant.tenant_id.eq_ignore_ascii_case(name) || tenant.name.as_deref() == Some(name)
    };
    for name in names {
        if !config.tenants.iter().any(|tenant| is_named(tenant, name)) {
            let labels = || config.tenants.iter().map(Tenant::label);
            let near = suggest::nearest(name, labels());
            let near = near.map_or_else(|| labels().collect::<Vec<_>>().join(", "), str::to_owned);
            return Err(format!(
                "--tenant {name}: no such tenant in the configuration; did you mean {near}?"
            ));
        }
    }
    let is_chosen = |tenant: &&Tenant| {
        let is_ours = arguments.shard.is_none_or(|shard| shard.has(&tenant.tenant_id));
        is_ours && (names.is_empty() || names.iter().any(|name| is_named(tenant, name)))
    };
    Ok(config.tenants.iter().filter(is_chosen).cloned().collect())
}

/// What the state says of each feed. Healthy, and so exit 0, if each has succeeded within the last few intervals.
fn show_status(config: &Config, tenants: &[Tenant], asked: cli::Status) -> Exit {
    let now = Timestamp::now();
    let progress = match state::Progress::read(&config.collect.working_dir) {
        Ok(progress) => progress,
        Err(error) => {
            ::log::error!("{error}");
            return Exit::Storage;
        }
    };
    let feeds = status::of(tenants, &progress, now);
    show(&if asked.json { status::as_json(&feeds) } else { status::as_table(&feeds) });
    let late = now - config.interval * limits::INTERVALS_UNTIL_LATE;
    let is_healthy = feeds.iter().all(|feed| feed.last_success.is_some_and(|success| success >= late));
    if is_healthy { Exit::Complete } else { Exit::TryAgain }
}

fn one_pass(config: Config, tenants: Vec<Tenant>, arguments: &Arguments) -> Exit {
    if tenants.is_empty() {
        ::log::info!("No tenant falls into this shard: nothing is to be done");
        return Exit::Complete;
    }
    let mode = match (arguments.dry_run, arguments.stdout) {
        (true, _) => Mode::DryRun,
        (_, true) => Mode::Retrieve,
        _ => Mode::Collect,
    };
    let look_back = arguments.hours.map(|hours| Duration::from_secs(hours * 60 * 60));
    let order = Order { mode, look_back, show_progress: !arguments.quiet };
    let credential_expiries: Vec<_> = tenants
        .iter()
        .filter_map(|tenant| Some((tenant.label().to_owned(), login::expiry(&tenant.credential)?)))
        .collect();
    let begun = Instant::now();
    let (exit, summary) = match pass::run(&config, tenants, &order) {
        Ok(ended) => (exit_of_ended(&ended, mode), Some(ended.summary)),
        Err(error) => {
            match exit_of(&error) {
                // No failure: the work is being done, and cron need not mail that.
                Exit::Locked => ::log::warn!("{error}"),
                _ => ::log::error!("{error}"),
            }
            (exit_of(&error), None)
        }
    };
    let lasted = begun.elapsed();
    if mode == Mode::Collect && lasted > config.interval {
        ::log::warn!(
            "The pass took {} s, longer than its interval of {} s: make the interval longer, or raise collect.maxThreads \
             or collect.maxRequestsPerMinute",
            lasted.as_secs(),
            config.interval.as_secs()
        );
    }
    // The pass that holds the lock tells its own numbers.
    if let Some(path) = config.metrics_path.filter(|_| mode == Mode::Collect && exit != Exit::Locked) {
        let (ended, summary) = (Timestamp::now(), summary.as_ref());
        let metrics = Metrics { ended, lasted, exit, summary, credential_expiries: &credential_expiries };
        if let Err(error) = metrics.write(&path) {
            ::log::error!("cannot write metrics.path {}: {error}; {}", path.display(), disk::mend(&error));
            return if exit == Exit::Complete { Exit::Storage } else { exit };
        }
    }
    exit
}

/// How a pass that came to its end ends the program.
fn exit_of_ended(ended: &Ended, mode: Mode) -> Exit {
    let exit = ended.summary.exit();
    match (exit, mode) {
        (Exit::Interrupted | Exit::Terminated | Exit::NoLogin, _) => exit,
        _ if ended.failures.iter().any(OutputError::is_storage) => Exit::Storage,
        _ if ended.failures.is_empty() => exit,
        (_, Mode::Retrieve) => Exit::Complete, // whoever read the records has seen enough
        _ => Exit::TryAgain,
    }
}

/// How a pass that could not be made, or not be brought to its end, ends the program.
fn exit_of(error: &PassError) -> Exit {
    match error {
        PassError::State(state::StateError::Locked { .. }) => Exit::Locked,
        PassError::State(state::StateError::Storage { .. }) => Exit::Storage,
        PassError::Client(_) | PassError::Threads { .. } => Exit::Configuration,
    }
}

fn show(text: &str) -> Exit {
    // A reader that has gone has seen enough.
    let _ = writeln!(io::stdout(), "{}", text.trim_end());
    Exit::Complete
}

fn complain(message: &str) -> Exit {
    // There is no place left to say that this could not be said.
    let _ = writeln!(io::stderr(), "{message}");
    Exit::Usage
}
