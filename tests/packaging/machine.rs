//! A machine in namespaces of its own, which the script `boot` boots over a folder: a real scheduler with the shipped files.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use super::{path, text, tool, until};
use crate::support::{Installation, Run, set_mode};

/// A machine. All of its processes end when it is dropped.
pub struct Machine {
    folder: PathBuf,
    /// The first process; the others end with it.
    init: Option<Child>,
}

impl Machine {
    /// A machine with nothing but its own files.
    pub fn bare(installation: &Installation) -> Self {
        Self { folder: installation.path("machine"), init: None }
    }

    /// A machine with the program in `/usr/bin`, contoso's configuration and secret in `/etc/office365-collector`, and the
    /// folders for state and records that the shipped files name.
    pub fn of(installation: &Installation) -> Self {
        let machine = Self::bare(installation);
        let path_text = |name| installation.path(name).display().to_string();
        let config = installation
            .config_with_credential("client_secret_file: \"${CREDENTIALS_DIRECTORY}/client_secret\"")
            .replace(&path_text("state"), "/var/lib/office365-collector")
            .replace(&path_text("output"), "/var/log/office365");
        let program = machine.path("usr/bin/office_audit_log_collector");
        fs::create_dir_all(machine.path("usr/bin")).expect("a folder");
        fs::copy(env!("CARGO_BIN_EXE_office_audit_log_collector"), program).expect("a copy");
        let secret = installation.contoso.current_settings().secret;
        let machine = machine
            .with("etc/office365-collector/config.yaml", &config)
            .with("etc/office365-collector/client_secret", &secret)
            .with("etc/office365-collector.sysusers", &text("systemd/office365-collector.sysusers"));
        set_mode(&machine.path("etc/office365-collector/client_secret"), 0o600);
        machine
    }

    /// Adds a file.
    pub fn with(self, name: &str, text: &str) -> Self {
        let file = self.path(name);
        fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        fs::write(&file, text).expect("a file");
        self
    }

    /// Starts the machine with a scheduler: `systemd` or `cron`. With `package` it runs its script `steps` instead.
    pub fn boot(mut self, scheduler: &str) -> Self {
        let console = fs::File::create(self.path("console")).expect("a file");
        let mut boot = Command::new(path("tests/packaging/boot"));
        boot.arg(&self.folder).arg(scheduler).stdin(Stdio::null());
        boot.stdout(console.try_clone().expect("a file")).stderr(console);
        self.init = Some(boot.spawn().expect("a shell"));
        self
    }

    /// Waits until the machine ends by itself, and returns whether its first process succeeded.
    pub fn ends_successfully(&mut self) -> bool {
        Run::finish(self.init.take().expect("a booted machine")).code == Some(0)
    }

    /// Returns a path in the folder of the machine.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Returns the priority and the text of each line in the journal of the service.
    pub fn journal(&self) -> Vec<(String, String)> {
        let folder = self.path("journal").display().to_string();
        let unit = "_SYSTEMD_UNIT=office365-collector.service";
        let run = tool("journalctl", &["--directory", &folder, "--output=json", "--quiet", unit]);
        let text = |line: &serde_json::Value, key: &str| line[key].as_str().unwrap_or_default().to_owned();
        let lines = run.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON"));
        lines.map(|line| (text(&line, "PRIORITY"), text(&line, "MESSAGE"))).collect()
    }

    /// Returns the output of the scheduler itself.
    pub fn console(&self) -> String {
        fs::read_to_string(self.path("console")).unwrap_or_default()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(mut init) = self.init.take() {
            let _ = init.kill();
            let _ = init.wait();
        }
        // The other processes end with the first one. Their cgroups can be removed only after that.
        let cgroup = fs::read_to_string(self.path("cgroup")).unwrap_or_default();
        if !cgroup.is_empty() {
            until("the cgroups are removed", || remove_cgroup(Path::new(cgroup.trim())), || self.console());
        }
    }
}

/// Removes a cgroup and those below it. Returns whether they are gone.
fn remove_cgroup(cgroup: &Path) -> bool {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_cgroup(&entry.path());
        }
    }
    fs::remove_dir(cgroup).is_ok() || !cgroup.exists()
}
