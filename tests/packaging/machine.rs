//! A machine of its own, booted over a folder by the script `boot`: a real scheduler with the shipped files.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use super::{path, text, tool, until};
use crate::support::{Installation, set_mode};

/// The folder, and the process that ends all others of the machine with it.
pub struct Machine {
    folder: PathBuf,
    init: Option<Child>,
}

impl Machine {
    /// With nothing but the machine's own files.
    pub fn bare(installation: &Installation) -> Self {
        Self { folder: installation.path("machine"), init: None }
    }

    /// With the program in `/usr/bin`, contoso's configuration and secret in `/etc/office365-collector`, and state and
    /// records where the shipped files want them.
    pub fn of(installation: &Installation) -> Self {
        let machine = Self::bare(installation);
        let place = |name| installation.path(name).display().to_string();
        let config = installation
            .config_with_credential("client_secret_file: \"${CREDENTIALS_DIRECTORY}/client_secret\"")
            .replace(&place("state"), "/var/lib/office365-collector")
            .replace(&place("output"), "/var/log/office365");
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

    /// With this file.
    pub fn with(self, name: &str, text: &str) -> Self {
        let file = self.path(name);
        fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        fs::write(&file, text).expect("a file");
        self
    }

    /// Starts it: systemd, cron, the image's cadence, or the steps of a package.
    pub fn boot(mut self, scheduler: &str) -> Self {
        let console = fs::File::create(self.path("console")).expect("a file");
        let mut boot = Command::new(path("tests/packaging/boot"));
        boot.arg(&self.folder).arg(scheduler).stdin(Stdio::null());
        boot.stdout(console.try_clone().expect("a file")).stderr(console);
        self.init = Some(boot.spawn().expect("a shell"));
        self
    }

    /// Waits until it ends by itself, and says whether well.
    pub fn ends_well(&mut self) -> bool {
        let ended = self.init.take().expect("it was started").wait();
        ended.expect("a child").success()
    }

    /// A place in its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The journal of the service: each line's priority and text.
    pub fn journal(&self) -> Vec<(String, String)> {
        let folder = self.path("journal").display().to_string();
        let unit = "_SYSTEMD_UNIT=office365-collector.service";
        let run = tool("journalctl", &["--directory", &folder, "--output=json", "--quiet", unit]);
        let text = |line: &serde_json::Value, key: &str| line[key].as_str().unwrap_or_default().to_owned();
        let lines = run.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON"));
        lines.map(|line| (text(&line, "PRIORITY"), text(&line, "MESSAGE"))).collect()
    }

    /// What the scheduler itself says.
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
        // The processes of its namespace end with it; only then its cgroups can be removed.
        let cgroup = fs::read_to_string(self.path("cgroup")).unwrap_or_default();
        if !cgroup.is_empty() {
            until("the cgroups are empty", || remove_cgroup(Path::new(cgroup.trim())), || self.console());
        }
    }
}

fn remove_cgroup(cgroup: &Path) -> bool {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_cgroup(&entry.path());
        }
    }
    fs::remove_dir(cgroup).is_ok() || !cgroup.exists()
}
