//! The commands of the program, each from its arguments to the exit code.

mod schedule;

use std::{
    env,
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use jiff::Timestamp;

use crate::{
    check,
    cli::{Arguments, Check, Command, Status, Verify},
    config::{self, Config, Loaded, Sources, Tenant},
    disk::{self, FileContext},
    error::Explain,
    exit::Exit,
    limits,
    log::{self, Verbosity},
    login,
    pass::{self, Mode, PassOptions},
    report::{
        Summary,
        history::{self, History},
        metrics::Metrics,
        page::{CredentialStatus, Page},
        status,
    },
    state, suggest, verify,
};

/// A feed that has not succeeded for this number of intervals is late, and `status` exits with 1.
const INTERVALS_UNTIL_LATE: u32 = 3;

pub use schedule::schedule;

/// The configuration and the tenants of a call.
#[derive(Debug)]
pub struct Setup {
    /// The path of the configuration.
    file: PathBuf,
    config: Config,
    /// What is allowed but probably not intended.
    warnings: Vec<String>,
    /// The tenants that the call is about.
    tenants: Vec<Tenant>,
    /// The files that the configuration names, and itself: what names each, and its path.
    files_read: Vec<(String, PathBuf)>,
}

/// Reads the configuration, starts the log and chooses the tenants.
///
/// # Errors
///
/// The exit code, after the reason is logged.
pub fn set_up(arguments: &Arguments) -> Result<Setup, Exit> {
    let requested = match (arguments.quiet, arguments.verbose) {
        (true, _) => Verbosity::Quiet,
        (_, true) => Verbosity::Debug,
        _ => Verbosity::Normal,
    };
    log::to_stderr(requested, log::Format::default());
    disk::report_size_limits();
    let is_check = matches!(arguments.command, Some(Command::Check(_)));
    let is_pass = arguments.command.is_none();
    let (file, Loaded { config, mut warnings, files_read }) = load(arguments).map_err(|error| {
        log::to_stderr(requested, error.log_format());
        for warning in error.warnings() {
            ::log::warn!("{warning}");
        }
        for line in error.to_string().lines() {
            ::log::error!("{line}");
        }
        if is_check { check::refuse() } else { Exit::from(&error) }
    })?;
    let is_debug = config.log.debug && requested == Verbosity::Normal;
    let verbosity = if is_debug { Verbosity::Debug } else { requested };
    // Only a pass that collects writes to the log file and the state.
    let collects = is_pass && !arguments.dry_run && !arguments.stdout;
    match config.log.path.as_ref().filter(|_| collects) {
        None => log::to_stderr(verbosity, config.log.format),
        Some(path) => match open_log(path).context("open log.path", path) {
            Ok(file) => log::to_file(file, verbosity, config.log.format),
            Err(error) => {
                log::to_stderr(verbosity, config.log.format);
                return Err(failed(&error));
            }
        },
    }
    if !config.enabled && is_pass {
        ::log::info!("The configuration has enabled: false; nothing is collected");
        return Err(Exit::Complete);
    }
    if !config.enabled {
        warnings.push("The configuration has enabled: false; passes do nothing".to_owned());
    }
    let working_dir = &config.collect.working_dir;
    if (is_check || collects) && disk::is_writable_by_others(working_dir) {
        warnings.push(format!(
            "Other users can write to collect.workingDir {} and replace the state, so that records are lost or \
             delivered twice; run chmod o-w on it",
            working_dir.display()
        ));
    }
    // A check prints them with its results.
    for warning in warnings.iter().filter(|_| !is_check) {
        ::log::warn!("{warning}");
    }
    let tenants = chosen(&config, arguments).map_err(|message| complain(&message))?;
    Ok(Setup { file, config, warnings, tenants, files_read })
}

/// Opens `log.path` for appending. Unlike an output's folder, the folder must exist.
fn open_log(path: &Path) -> io::Result<File> {
    let is_new = !path.exists();
    let file = OpenOptions::new().append(true).create(true).mode(0o640).open(path)?;
    if is_new {
        disk::give_to_owner(&file, path)?;
    }
    Ok(file)
}

/// Makes one collection pass, or what `--dry-run` or `--stdout` ask for instead.
pub fn pass(setup: Setup, arguments: &Arguments) -> Exit {
    let Setup { config, tenants, .. } = setup;
    if tenants.is_empty() {
        ::log::info!("No tenant belongs to this shard; nothing to do");
        return Exit::Complete;
    }
    let mode = match (arguments.dry_run, arguments.stdout) {
        (true, _) => Mode::DryRun,
        (_, true) => Mode::Retrieve,
        _ => Mode::Collect,
    };
    let look_back = arguments.hours.map(|hours| Duration::from_secs(hours * 60 * 60));
    let options = PassOptions { mode, look_back, show_progress: !arguments.quiet };
    let (start, started) = (Timestamp::now(), Instant::now());
    let result = pass::run(&config, tenants, &options);
    let exit = Exit::of_pass(&result, mode);
    match &result {
        Ok(_) => {}
        Err(error) if exit == Exit::Locked && arguments.skip_if_locked => {
            ::log::info!("This pass is skipped: {error}");
        }
        // Not a failure: the other pass does the work, and cron need not send a mail.
        Err(error) if exit == Exit::Locked => ::log::warn!("{}", error.explain()),
        Err(error) => ::log::error!("{}", error.explain()),
    }
    let lasted = started.elapsed();
    if mode == Mode::Collect && lasted > config.interval {
        ::log::warn!(
            "The pass took {} s, longer than its interval of {} s; make the interval longer, raise collect.maxThreads, or \
             remove a fixed collect.maxRequestsPerMinute",
            lasted.as_secs(),
            config.interval.as_secs()
        );
    }
    // The pass that holds the lock writes its own metrics and its own line of the history.
    if exit == Exit::Locked && arguments.skip_if_locked {
        return Exit::Complete;
    }
    if mode != Mode::Collect || exit == Exit::Locked {
        return exit;
    }
    let summary = result.as_ref().ok().map(|outcome| &outcome.summary);
    let exit = write_metrics(&config, arguments, lasted, exit, summary);
    let mut line = history::line_of(start, lasted, exit.code(), summary);
    line.restricted = !arguments.tenant.is_empty();
    if let Err(error) = state::history::append(&config.collect.working_dir, &line) {
        ::log::warn!("The history lacks this pass, which is otherwise not affected: {}", error.explain());
    }
    exit
}

/// Writes the metrics of a pass, if they are configured. Returns the exit code of the pass.
fn write_metrics(
    config: &Config,
    arguments: &Arguments,
    lasted: Duration,
    exit: Exit,
    summary: Option<&Summary>,
) -> Exit {
    let Some(path) = &config.metrics_path else { return exit };
    let (ended, exit_code) = (Timestamp::now(), exit.code());
    let quarantine = state::quarantine::size(&config.collect.working_dir).ok();
    // Those of `--tenant` are in the pass; the metrics keep the others.
    let tenants: Vec<_> = config.tenants.iter().filter(|tenant| is_of_shard(tenant, arguments)).collect();
    let mut feeds = Vec::new();
    for tenant in &tenants {
        feeds.extend(tenant.subscriptions.iter().map(|&content_type| (tenant.label(), content_type)));
    }
    let expiry_of = |tenant: &&Tenant| Some((tenant.label().to_owned(), login::expiry(&tenant.credential)?));
    let credential_expiries: Vec<_> = tenants.iter().filter_map(expiry_of).collect();
    let metrics = Metrics {
        ended,
        lasted,
        exit_code,
        summary,
        feeds: &feeds,
        quarantine,
        credential_expiries: &credential_expiries,
    };
    match metrics.write(path) {
        Ok(()) => exit,
        Err(error) => {
            let failed = failed(&error);
            if exit == Exit::Complete { failed } else { exit }
        }
    }
}

/// Checks what a pass needs.
pub fn check(setup: &Setup, options: Check) -> Exit {
    let Setup { config, warnings, tenants, .. } = setup;
    if options.offline {
        check::run_offline(config, warnings, tenants)
    } else {
        check::run(config, warnings, tenants)
    }
}

/// Prints the state of each feed. The exit code is 0 if each feed has succeeded within the last few intervals.
pub fn status(setup: &Setup, options: &Status) -> Exit {
    let Setup { config, tenants, .. } = setup;
    let now = Timestamp::now();
    for foreign in config.foreign_files() {
        if !foreign.is_empty() {
            ::log::warn!("{foreign}");
        }
    }
    let working_dir = &config.collect.working_dir;
    let read = state::Progress::read(working_dir).and_then(|progress| {
        Ok((progress, state::dead_letters::read(working_dir)?, state::quarantine::read(working_dir)?))
    });
    let (progress, dead_letters, quarantine) = match read {
        Ok(read) => read,
        Err(error) => return failed(&error),
    };
    let mut history = History::at(now);
    if let Err(error) = state::history::read(working_dir, |pass| history.add(pass)) {
        ::log::warn!("The last 24 hours are not shown: {}", error.explain());
    }
    let feeds = status::of(tenants, &progress, &dead_letters, &quarantine, &history, now);
    let late = now - config.interval * INTERVALS_UNTIL_LATE;
    if let Some(path) = &options.html {
        let credentials: Vec<_> = tenants.iter().map(CredentialStatus::of).collect();
        let page = Page { now, late, feeds: &feeds, last: history.last, credentials: &credentials };
        if let Err(error) = page.write(path) {
            return failed(&error);
        }
    }
    let shown = match options {
        Status { json: true, .. } => show(&status::as_json(&feeds)),
        Status { html: Some(_), .. } => Exit::Complete,
        Status { html: None, .. } => {
            show(&(status::as_table(&feeds) + &status::of_dead_letters(&dead_letters)))
        }
    };
    let is_healthy = feeds.iter().all(|feed| feed.last_success.is_some_and(|success| success >= late));
    if shown == Exit::Complete && !is_healthy { Exit::TryAgain } else { shown }
}

/// Compares what Microsoft lists with what was delivered, and prints the result. The exit code is 0 if nothing is missing or
/// repeated.
pub fn verify(setup: &Setup, asked: &Verify, arguments: &Arguments) -> Exit {
    let Setup { config, tenants, .. } = setup;
    let options = verify::Options {
        period: arguments.hours.map_or(limits::RETENTION, |hours| Duration::from_secs(hours * 60 * 60)),
        content: asked.content || !asked.files.is_empty(),
        files: &asked.files,
        repair: asked.repair,
        show_progress: !arguments.quiet,
    };
    let report = match verify::run(config, tenants, &options) {
        Ok(report) => report,
        Err(error) => return failed(&error),
    };
    let shown = show(&if asked.json { report.as_json() } else { report.as_text() });
    // The metrics are about all tenants.
    if let Some(path) = config.metrics_path.as_ref().filter(|_| arguments.tenant.is_empty())
        && let Err(error) = report.write_metrics(path)
    {
        return failed(&error);
    }
    if shown == Exit::Complete { report.exit() } else { shown }
}

/// Logs the error that ends a command. Returns the exit code.
fn failed<E: Explain>(error: &E) -> Exit
where
    for<'e> Exit: From<&'e E>,
{
    ::log::error!("{}", error.explain());
    Exit::from(error)
}

/// Prints a text to standard output.
pub fn show(text: &str) -> Exit {
    let written = writeln!(io::stdout(), "{}", text.trim_end()).and_then(|()| io::stdout().flush());
    match written {
        // A reader that has closed the pipe needs no more.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            complain(&format!("cannot write to standard output: {error}; check where it is redirected"));
            Exit::Storage
        }
        _ => Exit::Complete,
    }
}

/// Prints a mistake of the command line.
pub fn complain(message: &str) -> Exit {
    // There is nowhere left to report a failure to.
    let _ = writeln!(io::stderr(), "{message}");
    Exit::Usage
}

/// Reads the configuration. Commands that do not log in read no secret.
fn load(arguments: &Arguments) -> Result<(PathBuf, Loaded), config::ConfigError> {
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

/// Returns the tenants that `--tenant` names, or all, restricted to the shard.
fn chosen(config: &Config, arguments: &Arguments) -> Result<Vec<Tenant>, String> {
    let names = &arguments.tenant;
    let is_named = |tenant: &Tenant, name: &str| {
        tenant.tenant_id.eq_ignore_ascii_case(name) || tenant.name.as_deref() == Some(name)
    };
    for name in names {
        if !config.tenants.iter().any(|tenant| is_named(tenant, name)) {
            let labels = || config.tenants.iter().map(Tenant::label);
            let hint = match suggest::nearest(name, labels()) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("it has {}", some_of(labels())),
            };
            return Err(format!("--tenant {name}: not a tenant of the configuration; {hint}"));
        }
    }
    let is_chosen = |tenant: &&Tenant| {
        is_of_shard(tenant, arguments)
            && (names.is_empty() || names.iter().any(|name| is_named(tenant, name)))
    };
    Ok(config.tenants.iter().filter(is_chosen).cloned().collect())
}

fn is_of_shard(tenant: &Tenant, arguments: &Arguments) -> bool {
    arguments.shard.is_none_or(|shard| shard.has(&tenant.tenant_id))
}

/// Returns the first names and the number of the others.
fn some_of<'a>(names: impl Iterator<Item = &'a str>) -> String {
    const SHOWN: usize = 5;
    let names: Vec<_> = names.collect();
    match names.get(..SHOWN) {
        Some(shown) if names.len() > SHOWN => {
            format!("{} and {} more", shown.join(", "), names.len() - SHOWN)
        }
        _ => names.join(", "),
    }
}
