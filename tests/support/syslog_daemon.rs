//! rsyslog and syslog-ng as receivers. `tests/interop/install` unpacks syslog-ng into the folder that `INTEROP` names, because
//! Debian's packages of the two conflict.

use std::{
    env, fs,
    path::Path,
    process::{Child, Command, Stdio},
};

use super::{
    Installation,
    listener::connect,
    process::{kill, wait_until},
};

/// A running program. Dropping it kills the program.
pub struct SyslogDaemon(Option<Child>);

impl SyslogDaemon {
    /// Starts the program, and waits until it listens on this port.
    #[track_caller]
    pub fn start(mut command: Command, port: u16) -> Self {
        let child = command.stdin(Stdio::null()).spawn().expect("the receiver is installed");
        let started = Self(Some(child));
        wait_until("the receiver listens", || connect(port).is_ok());
        started
    }
}

impl Drop for SyslogDaemon {
    fn drop(&mut self) {
        if let Some(child) = self.0.take() {
            kill(child);
        }
    }
}

/// Writes a configuration of rsyslog. Returns the program, not started yet.
pub fn rsyslogd(installation: &Installation, config: &str) -> Command {
    let path = installation.path("rsyslog.conf");
    fs::write(&path, config).expect("a writable folder");
    fs::create_dir_all(installation.path("spool")).expect("a writable folder");
    let mut command = Command::new("/usr/sbin/rsyslogd");
    command.arg("-n").arg("-f").arg(path).arg("-i").arg(installation.path("rsyslog.pid"));
    command
}

/// Writes a configuration of syslog-ng. Returns the program, not started yet.
pub fn syslog_ng(installation: &Installation, config: &str) -> Command {
    let path = installation.path("syslog-ng.conf");
    fs::write(&path, config).expect("a writable folder");
    let unpacked = env::var_os("INTEROP").expect("INTEROP names the folder of tests/interop/install");
    let unpacked = Path::new(&unpacked).join("syslog-ng");
    let libraries = [
        "usr/lib/syslog-ng",
        "usr/lib/x86_64-linux-gnu",
        "lib/x86_64-linux-gnu",
        "usr/lib/aarch64-linux-gnu",
        "lib/aarch64-linux-gnu",
    ]
    .map(|folder| unpacked.join(folder));
    let own = |name: &str| installation.path(name).display().to_string();
    let mut command = Command::new(unpacked.join("usr/sbin/syslog-ng"));
    command
        .env("LD_LIBRARY_PATH", env::join_paths(&libraries).expect("paths without a colon"))
        .args(["--foreground", "--no-caps", "--stderr", "--cfgfile"])
        .arg(path)
        .arg(format!("--module-path={}", unpacked.join("usr/lib/syslog-ng/3.38").display()))
        .arg(format!("--persist-file={}", own("syslog-ng.persist")))
        .arg(format!("--pidfile={}", own("syslog-ng.pid")))
        .arg(format!("--control={}", own("syslog-ng.ctl")));
    command
}
