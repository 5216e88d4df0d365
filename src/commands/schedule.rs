//! `schedule`: the files of a scheduler, and what this machine lacks for them.

use std::{
    collections::BTreeSet,
    env,
    fmt::Write as _,
    fs, io, iter,
    path::{self, Path, PathBuf},
};

use super::{Setup, failed, show};
use crate::{
    cli::{self, Arguments},
    disk::{self, FileContext, FileError},
    exit::Exit,
    machine::{Account, Missing, Need},
    units::{Credentials, SERVICE_FOLDERS, Schedule, Scheduler, USER, UnitFile},
};

/// The folders of [`SERVICE_FOLDERS`] that systemd creates.
const CREATED_FOLDERS: &[&str] = SERVICE_FOLDERS.split_at(2).0;

/// The variable with the folder of a service's secrets: systemd.exec(5), `LoadCredential=`.
const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// Prints the units or the crontab for passes with these arguments, or writes them as files. Warns about what this machine
/// lacks for them.
pub fn schedule(setup: &Setup, asked: &cli::Schedule, arguments: &Arguments) -> Exit {
    let places = match Places::of(setup, arguments) {
        Ok(places) => places,
        Err(error) => {
            ::log::error!("cannot find the paths of the program and its configuration: {error}");
            return Exit::Storage;
        }
    };
    let scheduler = asked.scheduler;
    let writable: BTreeSet<_> = setup.written_folders().into_iter().map(|(.., folder)| folder).collect();
    let writable: Vec<_> =
        writable.into_iter().filter(|folder| !is_below(folder, &SERVICE_FOLDERS)).collect();
    let missing = places.missing(setup, scheduler);
    let mut preparation: Vec<String> = Vec::new();
    for command in missing.iter().filter_map(|missing| missing.command.clone()) {
        if !preparation.contains(&command) {
            preparation.push(command);
        }
    }
    let schedule = Schedule {
        program: &places.program,
        config: &places.config,
        interval: setup.config.interval,
        options: &places.options,
        credentials: Credentials { folder: &places.credentials_folder, names: &places.credentials },
        writable: &writable,
        preparation: &preparation,
    };
    let printed = schedule.text(scheduler).and_then(|text| Ok((text, schedule.files(scheduler)?)));
    let (text, files) = match printed {
        Ok(printed) => printed,
        Err(error) => {
            ::log::error!("{error}");
            return Exit::from(&error);
        }
    };
    for warning in schedule.warnings(scheduler).into_iter().chain(relative_paths(setup, scheduler)) {
        ::log::warn!("{warning}");
    }
    for missing in &missing {
        ::log::warn!("{missing}");
    }
    let Some(folder) = &asked.install_to else { return show(&text) };
    match install(&files, folder) {
        Ok(paths) => {
            if scheduler == Scheduler::Systemd {
                ::log::info!(
                    "Start it with systemctl daemon-reload && systemctl enable --now office365-collector.timer"
                );
            }
            show(&paths)
        }
        Err(error) => failed(&error),
    }
}

/// Writes the scheduler's files into a folder, and returns their paths, a line each.
fn install(files: &[UnitFile], folder: &Path) -> Result<String, FileError> {
    disk::create_folder(folder, 0o755).context("create the folder", folder)?;
    let mut paths = String::new();
    for file in files {
        let path = folder.join(file.name);
        disk::replace_with(&path, 0o644, file.text.as_bytes()).context("write", &path)?;
        let _ = writeln!(paths, "{}", path.display());
    }
    Ok(paths)
}

/// Whether a path is one of these folders or below one.
fn is_below(path: &Path, folders: &[&str]) -> bool {
    folders.iter().any(|folder| path.starts_with(folder))
}

/// Returns what works by hand, but not when a scheduler starts passes in another folder.
fn relative_paths(setup: &Setup, scheduler: Scheduler) -> Vec<String> {
    // systemd sets STATE_DIRECTORY.
    let is_set = |key: &str, path: &Path| {
        key == "collect.workingDir" && scheduler == Scheduler::Systemd && path == Path::new(".")
    };
    let paths = setup.written_paths().into_iter();
    paths
        .filter(|(key, _, path)| path.is_relative() && !is_set(key, path))
        .map(|(key, ..)| {
            format!("{key} is relative, but schedulers start passes in another folder; make it absolute")
        })
        .collect()
}

impl Setup {
    /// What a pass writes: the key, how it is written, and the path as it is configured.
    fn written_paths(&self) -> Vec<(&'static str, Need, &Path)> {
        let config = &self.config;
        let file = config.output.file.as_ref().map(|file| file.path.as_path());
        [
            ("collect.workingDir", Need::Fill, Some(config.collect.working_dir.as_path())),
            ("output.file.path", Need::Fill, file),
            ("log.path", Need::Append, config.log.path.as_deref()),
            ("metrics.path", Need::Replace, config.metrics_path.as_deref()),
        ]
        .into_iter()
        .filter_map(|(key, need, path)| Some((key, need, path?)))
        .collect()
    }

    /// The absolute ones of their folders. Devices are left out.
    fn written_folders(&self) -> Vec<(&'static str, Need, PathBuf)> {
        let paths = self.written_paths().into_iter().filter(|(.., path)| path.is_absolute());
        paths
            .filter(|(.., path)| !is_below(path, &["/dev", "/proc"]))
            .map(|(key, need, path)| {
                let folder = if key == "collect.workingDir" { path } else { disk::folder_of(path) };
                (key, need, folder.to_owned())
            })
            .collect()
    }
}

/// The paths and options of the scheduled passes.
struct Places {
    program: PathBuf,
    config: PathBuf,
    options: Vec<String>,
    /// The folder of the secrets in `CREDENTIALS_DIRECTORY`, and their names.
    credentials_folder: PathBuf,
    credentials: Vec<String>,
}

impl Places {
    fn of(setup: &Setup, arguments: &Arguments) -> io::Result<Self> {
        let Arguments { credentials, tenant, shard, .. } = arguments;
        let config = path::absolute(&setup.file)?;
        let second = credentials.as_ref().map(path::absolute).transpose()?;
        let texts = iter::once(&config).chain(&second).filter_map(|file| fs::read_to_string(file).ok());
        let mut names: Vec<String> = Vec::new();
        for name in texts.flat_map(|text| credential_names(&text)) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let folder = env::var_os(CREDENTIALS_DIRECTORY).filter(|folder| !folder.is_empty());
        let credentials_folder = folder.map_or_else(|| disk::folder_of(&config).to_owned(), PathBuf::from);
        let second = second.map(|path| format!("--credentials={}", path.display()));
        let tenants = tenant.iter().map(|tenant| format!("--tenant={tenant}"));
        let shard = shard.map(|shard| format!("--shard={shard}"));
        let options = second.into_iter().chain(tenants).chain(shard).collect();
        Ok(Self { program: env::current_exe()?, config, options, credentials_folder, credentials: names })
    }

    /// Returns what this machine lacks for these passes.
    fn missing(&self, setup: &Setup, scheduler: Scheduler) -> Vec<Missing> {
        let account = match Account::find(USER) {
            Ok(account) => account,
            Err(error) => {
                let what = format!("Whether {USER} can run the passes is not known: {error}");
                return vec![Missing { what, command: None }];
            }
        };
        let is_systemd = scheduler == Scheduler::Systemd;
        let mut missing: Vec<_> = account.missing().into_iter().collect();
        missing.extend(account.lacks(Need::Run, "The program", &self.program));
        // systemd reads the secrets as root, before it starts the service.
        let is_read =
            |path: &Path| !(is_systemd && path.starts_with(&self.credentials_folder) && path != self.config);
        for (key, path) in
            setup.files_read.iter().filter(|(_, path)| path.is_absolute() || *path == setup.file)
        {
            let path = if *path == setup.file { &self.config } else { path };
            if is_read(path) {
                missing.extend(account.lacks(Need::Read, key, path));
            }
        }
        for name in &self.credentials {
            missing.extend(self.missing_for_credential(&account, name, is_systemd));
        }
        for (key, need, folder) in setup.written_folders() {
            if is_systemd && is_below(&folder, CREATED_FOLDERS) {
                continue;
            }
            let log = setup.config.log.path.as_deref().filter(|_| need == Need::Append);
            missing.extend(account.lacks(need, key, log.unwrap_or(&folder)));
        }
        missing
    }

    fn missing_for_credential(&self, account: &Account, name: &str, is_systemd: bool) -> Vec<Missing> {
        let file = self.credentials_folder.join(name);
        let shown = file.display();
        if file.exists() {
            return if is_systemd { Vec::new() } else { account.lacks(Need::Read, "The secret", &file) };
        }
        let what = format!("{shown} does not exist; write the secret {name} into it");
        vec![if is_systemd {
            let what = format!("{what}: without it the service fails with 243/CREDENTIALS");
            Missing { what, command: Some(format!("install -m 0600 /dev/stdin {shown}")) }
        } else {
            Missing { what, command: Some(format!("install -m 0640 -g {USER} /dev/stdin {shown}")) }
        }]
    }
}

/// Returns the names in `${CREDENTIALS_DIRECTORY}/NAME` of a text, in its order.
fn credential_names(text: &str) -> Vec<String> {
    let is_part = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    lines
        .flat_map(|line| line.split("${CREDENTIALS_DIRECTORY}/").skip(1))
        .map(|rest| rest.chars().take_while(|character| is_part(*character)).collect::<String>())
        .filter(|name| !name.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secrets_that_a_configuration_uses_are_found() {
        let text = "a: \"${CREDENTIALS_DIRECTORY}/contoso.secret\" # ${CREDENTIALS_DIRECTORY}/x\n\
                    #b: ${CREDENTIALS_DIRECTORY}/off\nc: { d: '${CREDENTIALS_DIRECTORY}/app.pem', e: ${HOME}/f }\n";
        assert_eq!(credential_names(text), ["contoso.secret", "x", "app.pem"]);
    }
}
