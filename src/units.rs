//! The text of the systemd units and of the crontab that `schedule` prints. From paths and an interval to text; nothing
//! is written.
//!
//! The files shipped in `systemd/` and `cron/` are the text for the default interval and the paths of the Debian package.
//! Other intervals, paths and credentials are replaced in them.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use thiserror::Error;

use crate::time;

/// The longest delay by which a timer spreads the machines that start a pass at the same time.
const RANDOM_DELAY_MAX: Duration = Duration::from_secs(60);

const SERVICE: &str = include_str!("../systemd/office365-collector.service");
const TIMER: &str = include_str!("../systemd/office365-collector.timer");
const CRONTAB: &str = include_str!("../cron/office365-collector");

/// The parts of the shipped files that are replaced.
const PROGRAM: &str = "/usr/bin/office_audit_log_collector";
const CONFIG: &str = "/etc/office365-collector/config.yaml";
const CALENDAR: &str = "OnCalendar=*:0/5\n";
const RANDOM_DELAY: &str = "RandomizedDelaySec=15s\n";
const TIMES: &str = "*/5 * * * * ";
const LOAD_CREDENTIAL: &str = "LoadCredential=client_secret:/etc/office365-collector/client_secret\n";
const CREDENTIALS_FOLDER: &str = "CREDENTIALS_DIRECTORY=/etc/office365-collector\n";
const WRITABLE: &str = "ReadWritePaths=-/var/lib/node_exporter\n";

/// The user that the shipped files run passes as, whose group has the same name.
pub const USER: &str = "office365-collector";

/// The folders that systemd creates for the service, and one that its sandbox lets it write.
pub const SERVICE_FOLDERS: [&str; 3] =
    ["/var/lib/office365-collector", "/var/log/office365", "/var/lib/node_exporter"];

/// Folders that `ProtectHome=` and `PrivateTmp=` hide from the service.
const HIDDEN: [&str; 5] = ["/home", "/root", "/run/user", "/tmp", "/var/tmp"];

const SECONDS_OF_MINUTE: u64 = 60;
const SECONDS_OF_HOUR: u64 = 60 * SECONDS_OF_MINUTE;
const SECONDS_OF_DAY: u64 = 24 * SECONDS_OF_HOUR;
const SECONDS_OF_WEEK: u64 = 7 * SECONDS_OF_DAY;

/// A program that starts passes at an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheduler {
    /// `systemd`
    Systemd,
    /// `cron`
    Cron,
}

impl FromStr for Scheduler {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "systemd" => Ok(Self::Systemd),
            "cron" => Ok(Self::Cron),
            _ => Err("write systemd or cron".to_owned()),
        }
    }
}

/// An error returned when an interval or a path has no text.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ScheduleError {
    /// The interval is shorter than cron's smallest, a minute.
    #[error(
        "interval: cron starts a program at most once a minute; write 1m or more, or use schedule systemd"
    )]
    TooOften,
    /// A path has a character that systemd or cron does not accept in all places.
    #[error(
        "{0} cannot be written into units and crontabs; move it to an absolute path of letters, digits and . _ - + @ ~"
    )]
    Path(String),
    /// The value of an option has such a character.
    #[error(
        "{0} cannot be written into units and crontabs: only letters, digits and . _ - + @ ~ can; name a tenant by its id"
    )]
    Option(String),
}

/// A command that is run at an interval.
#[derive(Clone, Copy, Debug)]
pub struct Schedule<'a> {
    /// The program's absolute path.
    pub program: &'a Path,
    /// The configuration's absolute path.
    pub config: &'a Path,
    /// From the start of a pass to the start of the next.
    pub interval: Duration,
    /// Further options of each pass, such as `--shard=0/4`.
    pub options: &'a [String],
    /// The secrets in `CREDENTIALS_DIRECTORY` that the configuration uses.
    pub credentials: Credentials<'a>,
    /// Folders outside of [`SERVICE_FOLDERS`] that passes write.
    pub writable: &'a [PathBuf],
    /// Commands that come first: they create what is missing.
    pub preparation: &'a [String],
}

/// The secrets in `CREDENTIALS_DIRECTORY` that a configuration uses.
#[derive(Clone, Copy, Debug)]
pub struct Credentials<'a> {
    /// The folder of their files.
    pub folder: &'a Path,
    /// The names of the files; none if the configuration uses no such secret.
    pub names: &'a [String],
}

/// A file of a scheduler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitFile {
    /// The folder in which the scheduler looks for it.
    pub folder: &'static str,
    /// Its name.
    pub name: &'static str,
    /// Its text.
    pub text: String,
}

impl Schedule<'_> {
    /// Returns the units, each after a comment with its path, or a file for `/etc/cron.d`. Commands that come first precede
    /// them in a comment.
    pub fn text(&self, scheduler: Scheduler) -> Result<String, ScheduleError> {
        let mut parts = Vec::new();
        if !self.preparation.is_empty() {
            let mut commands = "# Run these commands first, as root:\n".to_owned();
            for command in self.preparation {
                let _ = writeln!(commands, "#   {command}");
            }
            parts.push(commands);
        }
        for UnitFile { folder, name, text } in self.files(scheduler)? {
            let place =
                if scheduler == Scheduler::Systemd { format!("# {folder}/{name}\n") } else { String::new() };
            parts.push(place + &text);
        }
        Ok(parts.join("\n"))
    }

    /// Returns the service and its timer, or the file for cron.
    pub fn files(&self, scheduler: Scheduler) -> Result<Vec<UnitFile>, ScheduleError> {
        let file = |folder, name, text| UnitFile { folder, name, text };
        Ok(match scheduler {
            Scheduler::Systemd => vec![
                file("/etc/systemd/system", "office365-collector.service", self.service()?),
                file("/etc/systemd/system", "office365-collector.timer", self.timer()),
            ],
            Scheduler::Cron => vec![file("/etc/cron.d", "office365-collector", self.crontab()?)],
        })
    }

    /// Returns what keeps the printed text from working, and the fix.
    pub fn warnings(&self, scheduler: Scheduler) -> Vec<String> {
        let is_hidden = |path: &&Path| HIDDEN.iter().any(|folder| path.starts_with(folder));
        let hides = |path: &Path| {
            format!("The service cannot see {}, because its sandbox hides that folder", path.display())
        };
        if scheduler == Scheduler::Cron {
            return Vec::new();
        }
        let read = [self.program, self.config].into_iter().filter(is_hidden).map(|path| {
            format!("{}: move the program to /usr/local/bin and the configuration to /etc", hides(path))
        });
        let written = self.writable.iter().map(PathBuf::as_path).filter(is_hidden).map(|path| {
            format!("{}: write to /var/lib/office365-collector and /var/log/office365", hides(path))
        });
        read.chain(written).collect()
    }

    /// Returns the service. A secret that the configuration does not use must not keep it from starting, and what its
    /// sandbox hides cannot be written in any way.
    fn service(&self) -> Result<String, ScheduleError> {
        let mut credentials = String::new();
        for name in self.credentials.names {
            let file = self.credentials.folder.join(name);
            let _ = writeln!(credentials, "LoadCredential={name}:{}", plain(&file)?);
        }
        if credentials.is_empty() {
            credentials = format!("#{LOAD_CREDENTIAL}");
        }
        let mut writable = WRITABLE.to_owned();
        for folder in self.writable {
            let _ = writeln!(writable, "ReadWritePaths=-{}", plain(folder)?);
        }
        let service = self.with_paths(SERVICE)?;
        Ok(service.replace(LOAD_CREDENTIAL, &credentials).replace(WRITABLE, &writable))
    }

    fn with_paths(&self, text: &str) -> Result<String, ScheduleError> {
        let mut config = plain(self.config)?.to_owned();
        for option in self.options {
            if !option.chars().all(|character| is_plain(character) || character == '=') {
                return Err(ScheduleError::Option(option.clone()));
            }
            config.extend([" ", option]);
        }
        Ok(text.replace(PROGRAM, plain(self.program)?).replace(CONFIG, &config))
    }

    fn timer(&self) -> String {
        let seconds = self.interval.as_secs();
        let random_delay = (self.interval / 20).min(RANDOM_DELAY_MAX).as_secs();
        let Some(calendar) = calendar(seconds) else {
            return evenly(seconds);
        };
        TIMER
            .replace(CALENDAR, &format!("OnCalendar={calendar}\n"))
            .replace(RANDOM_DELAY, &format!("RandomizedDelaySec={random_delay}s\n"))
    }

    fn crontab(&self) -> Result<String, ScheduleError> {
        let requested = self.interval.as_secs();
        let (kept, times) = times(requested).ok_or(ScheduleError::TooOften)?;
        let remark = if kept == requested {
            String::new()
        } else {
            format!(
                "# cron cannot express an interval of {}; this is the next shorter one, {}.\n",
                time::duration_text(requested),
                time::duration_text(kept)
            )
        };
        let mut crontab = self.with_paths(CRONTAB)?.replace(TIMES, &format!("{remark}{times} "));
        if !self.credentials.names.is_empty() {
            let folder = format!("CREDENTIALS_DIRECTORY={}\n", plain(self.credentials.folder)?);
            crontab = crontab.replace(CREDENTIALS_FOLDER, &folder);
        }
        Ok(crontab)
    }
}

/// Whether a character has no special meaning for systemd, a shell and cron.
fn is_plain(character: char) -> bool {
    character.is_ascii_alphanumeric() || "/._-+@~".contains(character)
}

/// Returns an absolute path without special characters as text.
fn plain(path: &Path) -> Result<&str, ScheduleError> {
    path.to_str()
        .filter(|text| text.starts_with('/') && text.chars().all(is_plain))
        .ok_or_else(|| ScheduleError::Path(path.display().to_string()))
}

/// Returns the interval as a calendar event if it divides a minute, an hour or a day. See systemd.time(7).
fn calendar(seconds: u64) -> Option<String> {
    let parts = |whole: u64, unit: u64| {
        (seconds.is_multiple_of(unit) && seconds < whole && whole.is_multiple_of(seconds))
            .then_some(seconds / unit)
    };
    if let Some(seconds) = parts(SECONDS_OF_MINUTE, 1) {
        Some(format!("*:*:0/{seconds}"))
    } else if let Some(minutes) = parts(SECONDS_OF_HOUR, SECONDS_OF_MINUTE) {
        Some(format!("*:0/{minutes}"))
    } else if let Some(hours) = parts(SECONDS_OF_DAY, SECONDS_OF_HOUR) {
        Some(format!("0/{hours}:00"))
    } else {
        match seconds {
            SECONDS_OF_DAY => Some("daily".to_owned()),
            SECONDS_OF_WEEK => Some("weekly".to_owned()),
            _ => None,
        }
    }
}

/// Returns the timer for any other interval, counted from the start of a pass to that of the next. The first starts at
/// once.
fn evenly(seconds: u64) -> String {
    let begin = TIMER.find(CALENDAR).expect("the shipped timer has a calendar event");
    let end = TIMER.find("\n[Install]").expect("the shipped timer can be enabled");
    format!(
        "{}# A calendar event cannot express an interval of {}: it is counted from pass to pass. The first starts at once.\n\
         OnActiveSec=0s\nOnUnitActiveSec={seconds}s\nAccuracySec=1s\n{}",
        &TIMER[..begin],
        time::duration_text(seconds),
        &TIMER[end..]
    )
}

/// Returns the longest interval that cron can express and that is not longer than the requested one: in seconds, and as
/// the five fields of crontab(5).
fn times(requested: u64) -> Option<(u64, String)> {
    let minutes = (1..60).filter(|minutes| 60 % minutes == 0).map(|minutes| {
        let field = if minutes == 1 { "*".to_owned() } else { format!("*/{minutes}") };
        (minutes * SECONDS_OF_MINUTE, format!("{field} * * * *"))
    });
    let hours = (1..24).filter(|hours| 24 % hours == 0).map(|hours| {
        let field = if hours == 1 { "*".to_owned() } else { format!("*/{hours}") };
        (hours * SECONDS_OF_HOUR, format!("0 {field} * * *"))
    });
    let longer = [(SECONDS_OF_DAY, "0 0 * * *".to_owned()), (SECONDS_OF_WEEK, "0 0 * * 0".to_owned())];
    minutes.chain(hours).chain(longer).take_while(|(kept, _)| *kept <= requested).last()
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;

    /// With the secret of the shipped service.
    fn of(seconds: u64) -> Schedule<'static> {
        static NAMES: LazyLock<[String; 1]> = LazyLock::new(|| ["client_secret".to_owned()]);
        Schedule {
            program: Path::new(PROGRAM),
            config: Path::new(CONFIG),
            interval: Duration::from_secs(seconds),
            options: &[],
            credentials: Credentials { folder: Path::new("/etc/office365-collector"), names: &*NAMES },
            writable: &[],
            preparation: &[],
        }
    }

    fn text(seconds: u64, scheduler: Scheduler) -> String {
        of(seconds).text(scheduler).unwrap_or_else(|error| panic!("{seconds}: {error}"))
    }

    #[test]
    fn default_interval_gives_the_shipped_files() {
        assert_eq!(text(300, Scheduler::Cron), CRONTAB);
        let units = text(300, Scheduler::Systemd);
        assert_eq!(
            units,
            format!(
                "# /etc/systemd/system/office365-collector.service\n{SERVICE}\n\
                 # /etc/systemd/system/office365-collector.timer\n{TIMER}"
            )
        );
        for (file, replaced) in [
            (SERVICE, PROGRAM),
            (SERVICE, CONFIG),
            (TIMER, CALENDAR),
            (TIMER, RANDOM_DELAY),
            (CRONTAB, TIMES),
            (CRONTAB, CREDENTIALS_FOLDER),
            (SERVICE, LOAD_CREDENTIAL),
            (SERVICE, WRITABLE),
            (SERVICE, &format!("\nUser={USER}\nGroup={USER}\n")),
            (CRONTAB, &format!(" {USER} {PROGRAM} ")),
        ] {
            assert!(file.contains(replaced), "{replaced}");
        }
    }

    #[test]
    fn uses_the_paths_of_program_and_configuration() {
        let (program, config) = (Path::new("/opt/collector/bin/collect"), Path::new("/srv/a@b.yaml"));
        let schedule = Schedule { program, config, ..of(300) };
        let units = schedule.text(Scheduler::Systemd).expect("plain paths");
        assert!(units.contains("\nExecStart=/opt/collector/bin/collect --config /srv/a@b.yaml\n"), "{units}");
        assert!(units.contains("\nExecPaths=/opt/collector/bin/collect "), "{units}");
        let crontab = schedule.text(Scheduler::Cron).expect("plain paths");
        assert!(
            crontab.ends_with(" /opt/collector/bin/collect --quiet --config /srv/a@b.yaml\n"),
            "{crontab}"
        );
        for strange in ["/srv/a b", "/srv/100%", "/srv/$HOME", "/srv/\"", "/srv/a\nb", "relative", "/srv/ä"]
        {
            let schedule = Schedule { config: Path::new(strange), ..schedule };
            for scheduler in [Scheduler::Systemd, Scheduler::Cron] {
                let refused = schedule.text(scheduler).expect_err(strange);
                assert_eq!(refused, ScheduleError::Path(strange.to_owned()));
            }
        }
    }

    #[test]
    fn appends_the_options_of_a_pass() {
        let options = ["--shard=0/4".to_owned(), "--credentials=/etc/secrets.yaml".to_owned()];
        let schedule = Schedule { options: &options, ..of(300) };
        let command = format!(" --config {CONFIG} --shard=0/4 --credentials=/etc/secrets.yaml\n");
        for scheduler in [Scheduler::Systemd, Scheduler::Cron] {
            assert!(schedule.text(scheduler).expect("plain options").contains(&command), "{scheduler:?}");
        }
        let strange = ["--tenant=a b".to_owned()];
        let refused = Schedule { options: &strange, ..of(300) }.text(Scheduler::Cron);
        assert_eq!(refused, Err(ScheduleError::Option("--tenant=a b".to_owned())));
    }

    #[test]
    fn secrets_folders_and_commands_are_those_of_the_configuration() {
        let names = ["contoso", "fabrikam"].map(str::to_owned);
        let credentials = Credentials { folder: Path::new("/srv/secrets"), names: &names };
        let writable = [PathBuf::from("/srv/records")];
        let preparation = ["useradd x".to_owned(), "install -d y".to_owned()];
        let schedule = Schedule { credentials, writable: &writable, preparation: &preparation, ..of(300) };
        let units = schedule.text(Scheduler::Systemd).expect("plain paths");
        for lines in [
            "\nLoadCredential=contoso:/srv/secrets/contoso\nLoadCredential=fabrikam:/srv/secrets/fabrikam\n",
            "\nReadWritePaths=-/var/lib/node_exporter\nReadWritePaths=-/srv/records\n",
        ] {
            assert!(units.contains(lines), "{lines}: {units}");
        }
        let crontab = schedule.text(Scheduler::Cron).expect("plain paths");
        assert!(crontab.contains("\nCREDENTIALS_DIRECTORY=/srv/secrets\n"), "{crontab}");
        let first = "# Run these commands first, as root:\n#   useradd x\n#   install -d y\n\n# ";
        assert!(units.starts_with(first) && crontab.starts_with(first), "{units}{crontab}");
        for file in schedule.files(Scheduler::Systemd).expect("plain paths") {
            assert!(units.contains(&format!("# {}/{}\n{}", file.folder, file.name, file.text)));
        }

        let none = Schedule { credentials: Credentials { names: &[], ..credentials }, ..of(300) };
        let units = none.text(Scheduler::Systemd).expect("plain paths");
        assert!(
            units.contains(&format!("\n#{LOAD_CREDENTIAL}")) && !units.contains("\nLoadCredential="),
            "{units}"
        );
        assert_eq!(none.text(Scheduler::Cron).expect("plain paths"), CRONTAB);
    }

    #[test]
    fn reports_a_program_that_the_sandbox_hides() {
        let schedule = Schedule { program: Path::new("/root/.cargo/bin/collect"), ..of(300) };
        assert!(schedule.warnings(Scheduler::Systemd)[0].contains("cannot see /root/.cargo/bin/collect"));
        assert_eq!(schedule.warnings(Scheduler::Cron), [""; 0]);
        assert_eq!(of(300).warnings(Scheduler::Systemd), [""; 0]);
        let schedule = Schedule { writable: &[PathBuf::from("/home/adele/records")], ..of(300) };
        assert!(schedule.warnings(Scheduler::Systemd)[0].contains("cannot see /home/adele/records"));
    }

    #[test]
    fn cron_uses_the_interval_or_the_next_shorter_one_with_a_comment() {
        for (seconds, times, remark) in [
            (60, "* * * * *", None),
            (90, "* * * * *", Some("90s; this is the next shorter one, 1m")),
            (420, "*/6 * * * *", Some("7m; this is the next shorter one, 6m")),
            (900, "*/15 * * * *", None),
            (3600, "0 * * * *", None),
            (5400, "0 * * * *", Some("90m; this is the next shorter one, 1h")),
            (6 * 3600, "0 */6 * * *", None),
            (86_400, "0 0 * * *", None),
            (2 * 86_400, "0 0 * * *", Some("2d; this is the next shorter one, 1d")),
            (7 * 86_400, "0 0 * * 0", None),
        ] {
            let text = text(seconds, Scheduler::Cron);
            let line = text.lines().last().expect("a line");
            assert!(line.starts_with(&format!("{times} office365-collector /usr/bin/")), "{seconds}: {line}");
            let comment =
                text.lines().find_map(|line| line.strip_prefix("# cron cannot express an interval of "));
            assert_eq!(comment.map(|comment| comment.trim_end_matches('.')), remark, "{seconds}");
        }
        assert_eq!(of(59).text(Scheduler::Cron), Err(ScheduleError::TooOften));
    }

    #[test]
    fn timer_supports_any_interval() {
        for (seconds, line) in [
            (1, "OnCalendar=*:*:0/1"),
            (30, "OnCalendar=*:*:0/30"),
            (60, "OnCalendar=*:0/1"),
            (900, "OnCalendar=*:0/15"),
            (3600, "OnCalendar=0/1:00"),
            (6 * 3600, "OnCalendar=0/6:00"),
            (86_400, "OnCalendar=daily"),
            (7 * 86_400, "OnCalendar=weekly"),
        ] {
            let text = text(seconds, Scheduler::Systemd);
            assert!(text.lines().any(|written| written == line), "{seconds}: {text}");
            assert!(text.contains("\nPersistent=true\n"), "{seconds}");
        }
        for (seconds, delay) in [(1, 0), (60, 3), (3600, 60)] {
            let text = text(seconds, Scheduler::Systemd);
            assert!(text.contains(&format!("\nRandomizedDelaySec={delay}s\n")), "{seconds}: {text}");
        }
        for seconds in [45, 90, 420, 5 * 3600, 2 * 86_400] {
            let text = text(seconds, Scheduler::Systemd);
            assert!(text.contains(&format!("\nOnActiveSec=0s\nOnUnitActiveSec={seconds}s\n")), "{seconds}");
            assert!(!text.contains("OnCalendar") && !text.contains("RandomizedDelay"), "{seconds}: {text}");
            assert!(text.ends_with("\n[Install]\nWantedBy=timers.target\n"), "{seconds}: {text}");
        }
    }
}
