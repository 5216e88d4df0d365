//! What the program does when it is called: each command, from its arguments to the exit code.

use std::{
    env,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    iter,
    os::unix::fs::OpenOptionsExt,
    path::{self, Path, PathBuf},
    time::{Duration, Instant},
};

use jiff::Timestamp;

use crate::{
    check,
    cli::{Arguments, Command, Status},
    config::{self, Config, Loaded, Sources, Tenant},
    disk::{self, FileContext},
    error::Explain,
    exit::Exit,
    limits,
    log::{self, Verbosity},
    login,
    pass::{self, Mode, PassOptions},
    report::{metrics::Metrics, status},
    schedule::{Schedule, Scheduler},
    state, suggest,
};

/// What every command begins with.
#[derive(Debug)]
pub struct Setup {
    /// The configuration's file.
    file: PathBuf,
    config: Config,
    /// What in it is allowed, but probably not meant.
    warnings: Vec<String>,
    /// Those that this call is about.
    tenants: Vec<Tenant>,
}

/// Reads the configuration, starts the log as it says, and chooses the tenants.
///
/// Otherwise logs why not and returns how the program ends.
pub fn set_up(arguments: &Arguments) -> Result<Setup, Exit> {
    let asked = match (arguments.quiet, arguments.verbose) {
        (true, _) => Verbosity::Quiet,
        (_, true) => Verbosity::Debug,
        _ => Verbosity::Normal,
    };
    log::to_stderr(asked);
    disk::report_size_limits();
    let is_check = matches!(arguments.command, Some(Command::Check(_)));
    let is_pass = arguments.command.is_none();
    let (file, Loaded { config, mut warnings }) = load(arguments).map_err(|unusable| {
        for line in unusable.to_string().lines() {
            ::log::error!("{line}");
        }
        if is_check { check::refuse() } else { Exit::from(&unusable) }
    })?;
    let verbosity = if config.log.debug && asked == Verbosity::Normal { Verbosity::Debug } else { asked };
    // Commands that change nothing log to standard error.
    let leaves_traces = is_pass && !arguments.dry_run && !arguments.stdout;
    match config.log.path.as_ref().filter(|_| leaves_traces) {
        None => log::to_stderr(verbosity),
        Some(path) => match open_log(path).context("open log.path", path) {
            Ok(file) => log::to_file(file, verbosity),
            Err(error) => {
                ::log::error!("{}", error.explain());
                return Err(Exit::from(&error));
            }
        },
    }
    if !config.enabled && is_pass {
        ::log::info!("The configuration says enabled: false: nothing is done");
        return Err(Exit::Complete);
    }
    if !config.enabled {
        warnings.push("The configuration says enabled: false: passes do nothing".to_owned());
    }
    let working_dir = &config.collect.working_dir;
    if (is_check || leaves_traces) && disk::is_writable_by_others(working_dir) {
        warnings.push(format!(
            "Other users can write to collect.workingDir {}: they can replace the state, so that records are lost or \
             delivered twice; run chmod o-w on it",
            working_dir.display()
        ));
    }
    // A check shows them among what it finds.
    for warning in warnings.iter().filter(|_| !is_check) {
        ::log::warn!("{warning}");
    }
    let tenants = chosen(&config, arguments).map_err(|message| complain(&message))?;
    Ok(Setup { file, config, warnings, tenants })
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

/// One collection pass, or the look at one that `--dry-run` and `--stdout` are.
pub fn pass(setup: Setup, arguments: &Arguments) -> Exit {
    let Setup { config, tenants, .. } = setup;
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
    let order = PassOptions { mode, look_back, show_progress: !arguments.quiet };
    let credential_expiries: Vec<_> = tenants
        .iter()
        .filter_map(|tenant| Some((tenant.label().to_owned(), login::expiry(&tenant.credential)?)))
        .collect();
    let begun = Instant::now();
    let result = pass::run(&config, tenants, &order);
    let exit = Exit::of_pass(&result, mode);
    match &result {
        Ok(_) => {}
        // Not a failure: the other pass does the work, and cron need not send a mail.
        Err(error) if exit == Exit::Locked => ::log::warn!("{}", error.explain()),
        Err(error) => ::log::error!("{}", error.explain()),
    }
    let lasted = begun.elapsed();
    if mode == Mode::Collect && lasted > config.interval {
        ::log::warn!(
            "The pass took {} s, longer than its interval of {} s: make the interval longer, raise collect.maxThreads, or \
             remove a fixed collect.maxRequestsPerMinute",
            lasted.as_secs(),
            config.interval.as_secs()
        );
    }
    // The pass that holds the lock writes its own metrics.
    if let Some(path) = config.metrics_path.filter(|_| mode == Mode::Collect && exit != Exit::Locked) {
        let (ended, exit_code) = (Timestamp::now(), exit.code());
        let summary = result.as_ref().ok().map(|outcome| &outcome.summary);
        let quarantine = state::quarantine::size(&config.collect.working_dir).ok();
        let credential_expiries = &credential_expiries;
        let metrics = Metrics { ended, lasted, exit_code, summary, quarantine, credential_expiries };
        if let Err(error) = metrics.write(&path) {
            ::log::error!("{}", error.explain());
            return if exit == Exit::Complete { Exit::from(&error) } else { exit };
        }
    }
    exit
}

/// Walks through what a pass needs.
pub fn check(setup: &Setup) -> Exit {
    check::run(&setup.config, &setup.warnings, &setup.tenants)
}

/// What the state says of each feed. Healthy, and so exit 0, if each has succeeded within the last few intervals.
pub fn status(setup: &Setup, asked: Status) -> Exit {
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
        Err(error) => {
            ::log::error!("{}", error.explain());
            return Exit::from(&error);
        }
    };
    let feeds = status::of(tenants, &progress, &dead_letters, &quarantine, now);
    let text = if asked.json {
        status::as_json(&feeds)
    } else {
        status::as_table(&feeds) + &status::of_dead_letters(&dead_letters)
    };
    let shown = show(&text);
    let late = now - config.interval * limits::INTERVALS_UNTIL_LATE;
    let is_healthy = feeds.iter().all(|feed| feed.last_success.is_some_and(|success| success >= late));
    if shown == Exit::Complete && !is_healthy { Exit::TryAgain } else { shown }
}

/// The units or the crontab for passes with these arguments, to standard output.
pub fn schedule(setup: &Setup, scheduler: Scheduler, arguments: &Arguments) -> Exit {
    let Arguments { credentials, tenant, shard, .. } = arguments;
    let credentials = credentials.as_ref().map(path::absolute).transpose();
    let paths =
        env::current_exe().and_then(|program| Ok((program, path::absolute(&setup.file)?, credentials?)));
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
    let schedule =
        Schedule { program: &program, config: &config, interval: setup.config.interval, options: &options };
    match schedule.text(scheduler) {
        Ok(text) => {
            for warning in
                schedule.warnings(scheduler).into_iter().chain(troubles(setup, arguments, scheduler))
            {
                ::log::warn!("{warning}");
            }
            show(&text)
        }
        Err(error) => {
            ::log::error!("{error}");
            Exit::from(&error)
        }
    }
}

/// Text that was asked for, to standard output.
pub fn show(text: &str) -> Exit {
    let written = writeln!(io::stdout(), "{}", text.trim_end()).and_then(|()| io::stdout().flush());
    match written {
        // A reader that has gone has seen enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            complain(&format!("cannot write to standard output: {error}; check where it leads"));
            Exit::Storage
        }
        _ => Exit::Complete,
    }
}

/// What is wrong with the command line.
pub fn complain(message: &str) -> Exit {
    // There is no place left to say that this could not be said.
    let _ = writeln!(io::stderr(), "{message}");
    Exit::Usage
}

/// What in the configuration works by hand, but not when this scheduler starts passes.
fn troubles(setup: &Setup, arguments: &Arguments, scheduler: Scheduler) -> Vec<String> {
    let Setup { file, config, .. } = setup;
    let working_dir = &config.collect.working_dir;
    let is_given = scheduler == Scheduler::Systemd && working_dir == Path::new("."); // by STATE_DIRECTORY
    let paths = [
        ("collect.workingDir", Some(working_dir).filter(|_| !is_given)),
        ("output.file.path", config.output.file.as_ref().map(|file| &file.path)),
        ("log.path", config.log.path.as_ref()),
        ("metrics.path", config.metrics_path.as_ref()),
    ];
    let relative = paths.iter().filter(|(_, path)| path.is_some_and(|path| path.is_relative()));
    let relative = relative.map(|(key, _)| {
        format!("{key} is relative, but schedulers start passes in a folder of their own: make it absolute")
    });
    let asks_for_credential = || {
        let mut files = iter::once(file).chain(&arguments.credentials);
        files.any(|file| fs::read_to_string(file).is_ok_and(|text| text.contains("CREDENTIALS_DIRECTORY")))
    };
    let credential = (scheduler == Scheduler::Systemd && !asks_for_credential()).then(|| {
        "The service does not start without the file that its LoadCredential= names, which the configuration does not \
         ask for: say client_secret_file: \"${CREDENTIALS_DIRECTORY}/client_secret\" there, or take out that line"
            .to_owned()
    });
    relative.chain(credential).collect()
}

/// The configuration's file, and what it says. What does not log in needs no secret, and runs where there is none.
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

/// The tenants named by `--tenant`, or all; and of these the ones of our shard.
fn chosen(config: &Config, arguments: &Arguments) -> Result<Vec<Tenant>, String> {
    let names = &arguments.tenant;
    let is_named = |tenant: &Tenant, name: &str| {
        tenant.tenant_id.eq_ignore_ascii_case(name) || tenant.name.as_deref() == Some(name)
    };
    for name in names {
        if !config.tenants.iter().any(|tenant| is_named(tenant, name)) {
            let labels = || config.tenants.iter().map(Tenant::label);
            let hint = match suggest::nearest(name, labels()) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("it has {}", some_of(labels())),
            };
            return Err(format!("--tenant {name}: no such tenant in the configuration; {hint}"));
        }
    }
    let is_chosen = |tenant: &&Tenant| {
        let is_ours = arguments.shard.is_none_or(|shard| shard.has(&tenant.tenant_id));
        is_ours && (names.is_empty() || names.iter().any(|name| is_named(tenant, name)))
    };
    Ok(config.tenants.iter().filter(is_chosen).cloned().collect())
}

/// The first names of perhaps many, as a text.
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
