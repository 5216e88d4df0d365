//! An installation of the real program in a temporary folder, with a configuration, a state and outputs, that collects from a
//! simulator.

pub mod busy_day;
pub mod chart;
pub mod documents;
pub mod forward;
pub mod gelf;
pub mod http;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod listener;
pub mod otlp;
pub mod picture;
pub mod process;
pub mod proxy;
pub mod syslog;
pub mod syslog_daemon;
pub mod tls;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use jiff::{Timestamp, ToSpan};
use simulator::{Simulator, Tenant, TenantSettings};

pub use process::Run;

/// The tenant that most tests collect from.
pub const CONTOSO: &str = "11111111-1111-4111-8111-111111111111";
/// The second tenant, for tests of several.
pub const FABRIKAM: &str = "22222222-2222-4222-8222-222222222222";

const SECRET: &str = "a-secret-that-must-stay-secret";

/// A configured collector and the simulator that it collects from.
pub struct Installation {
    pub simulator: Simulator,
    pub contoso: Tenant,
    folder: tempfile::TempDir,
    tenants: Vec<String>,
    settings: String,
    top_level: String,
    outputs: String,
    output_file: String,
}

impl Installation {
    /// One tenant, contoso, without subscriptions and blobs. Each of the five feeds is written to its own file.
    pub fn new() -> Self {
        Self::against(Simulator::start())
    }

    /// The same as [`Installation::new`], with this simulator.
    pub fn against(simulator: Simulator) -> Self {
        let contoso = simulator.tenant(TenantSettings::new(CONTOSO).secret(SECRET));
        let mut installation = Self {
            simulator,
            contoso,
            folder: tempfile::tempdir().expect("a temporary folder"),
            tenants: Vec::new(),
            settings: String::new(),
            top_level: String::new(),
            outputs: String::new(),
            output_file: "audit.json".to_owned(),
        };
        let url = installation.simulator.url().to_owned();
        installation.add_to_config("contoso", CONTOSO, &url);
        installation
    }

    /// The same as [`Installation::new`], with a second tenant, fabrikam.
    pub fn with_fabrikam() -> (Self, Tenant) {
        let mut installation = Self::new();
        let fabrikam = installation.simulator.tenant(TenantSettings::new(FABRIKAM).secret(SECRET));
        let url = installation.simulator.url().to_owned();
        installation.add_to_config("fabrikam", FABRIKAM, &url);
        (installation, fabrikam)
    }

    /// Adds a tenant. Its id is also its name.
    pub fn add_tenant(&mut self, id: &str) -> Tenant {
        let tenant = self.simulator.tenant(TenantSettings::new(id).secret(SECRET));
        let url = self.simulator.url().to_owned();
        self.add_to_config(id, id, &url);
        tenant
    }

    /// Adds fabrikam, with its own simulator.
    pub fn add_fabrikam_at(&mut self, simulator: &Simulator) -> Tenant {
        self.add_to_config("fabrikam", FABRIKAM, simulator.url());
        simulator.tenant(TenantSettings::new(FABRIKAM).secret(SECRET))
    }

    /// Configures this URL for contoso's login and API, instead of the simulator's.
    pub fn at(mut self, url: &str) -> Self {
        self.tenants.clear();
        self.add_to_config("contoso", CONTOSO, url);
        self
    }

    fn add_to_config(&mut self, name: &str, id: &str, url: &str) {
        let client_id = TenantSettings::new(id).client_id;
        self.tenants.push(format!(
            "  - tenant_id: {id}\n    client_id: {client_id}\n    client_secret: {SECRET}\n    name: {name}\n    \
             login_url: {url}\n    api_url: {url}\n"
        ));
    }

    /// Adds a line below `collect`, without indentation.
    pub fn collect(mut self, line: &str) -> Self {
        self.settings.extend(["  ", line, "\n"]);
        self
    }

    /// Adds a line at the top level.
    pub fn setting(mut self, line: &str) -> Self {
        self.top_level.extend([line, "\n"]);
        self
    }

    /// Sets the name of the output file.
    pub fn output_file(mut self, name: &str) -> Self {
        name.clone_into(&mut self.output_file);
        self
    }

    /// Adds lines below `output`, indented by two spaces.
    pub fn with_output(mut self, lines: &str) -> Self {
        self.outputs.extend([lines, "\n"]);
        self
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Returns the configuration file, and writes it if its content is not the current configuration.
    pub fn config_file(&self) -> PathBuf {
        let path = self.path("config.yaml");
        let config = self.config();
        // A running program may be reading the file.
        if fs::read_to_string(&path).is_ok_and(|written| written == config) {
            return path;
        }
        fs::write(&path, config).expect("a writable folder");
        set_mode(&path, 0o600);
        path
    }

    /// The text of the configuration. Requests are retried without a delay unless a test sets `retryDelay`.
    pub fn config(&self) -> String {
        let retry_delay = if self.settings.contains("retryDelay") { "" } else { "  retryDelay: 0s\n" };
        format!(
            "{}tenants:\n{}collect:\n  workingDir: {state}\n{retry_delay}{}\
             output:\n  file:\n    path: {output}\n    separateByContentType: true\n{}",
            self.top_level,
            self.tenants.concat(),
            self.settings,
            self.outputs,
            state = self.path("state").display(),
            output = self.path("output").join(&self.output_file).display(),
        )
    }

    /// The same text, with these lines instead of contoso's secret; all but the first indented by four spaces.
    pub fn config_with_credential(&self, lines: &str) -> String {
        self.config().replacen(&format!("client_secret: {SECRET}"), lines, 1)
    }

    /// The same text, with this managed identity instead of contoso's app and login URL.
    pub fn config_with_identity(&self, identity: &str) -> String {
        let client_id = TenantSettings::new(CONTOSO).client_id;
        let mut config = self.config_with_credential(&format!("managed_identity: {identity}"));
        for line in
            [format!("    client_id: {client_id}\n"), format!("    login_url: {}\n", self.simulator.url())]
        {
            assert!(config.contains(&line), "{config}");
            config = config.replacen(&line, "", 1);
        }
        config
    }

    /// Writes a configuration file with these outputs, indented by two spaces, instead of the output file. Returns its path.
    pub fn config_with_output(&self, lines: &str) -> String {
        let config = self.config();
        let (before, _) = config.split_once("  file:\n").expect("an output file in the configuration");
        let path = self.path("other-output.yaml");
        fs::write(&path, format!("{before}{lines}\n")).expect("a writable folder");
        set_mode(&path, 0o600);
        path.to_str().expect("a path in UTF-8").to_owned()
    }

    /// Runs the program with this configuration.
    pub fn run(&self, arguments: &[&str]) -> Run {
        let config = self.config_file();
        self.run_bare(&[&["--config", config.to_str().expect("a path in UTF-8")], arguments].concat())
    }

    /// Runs a pass with these environment variables.
    pub fn run_with_environment(&self, environment: &[(&str, &str)]) -> Run {
        Run::of(self.pass().envs(environment.iter().copied()))
    }

    /// Runs a pass with this disk fault. Returns whether the fault occurred, and the outcome.
    pub fn run_with_fault(&self, fault: &str) -> (bool, Run) {
        self.run_command_with_fault(&mut self.pass(), fault)
    }

    /// Runs this command with a disk fault, as [`Installation::run_with_fault`] does.
    pub fn run_command_with_fault(&self, command: &mut Command, fault: &str) -> (bool, Run) {
        let mark = self.path("fault-occurred");
        let run = Run::of(command.env("COLLECTOR_DISK_FAULT", fault).env("COLLECTOR_DISK_FAULT_MARK", &mark));
        (fs::remove_file(mark).is_ok(), run)
    }

    /// Runs the program with these arguments only, without `--config`.
    pub fn run_bare(&self, arguments: &[&str]) -> Run {
        Run::of(&mut self.command(arguments))
    }

    /// A pass that is not started yet.
    pub fn pass(&self) -> Command {
        let config = self.config_file();
        self.command(&["--config", config.to_str().expect("a path in UTF-8")])
    }

    /// The program, not started yet, in the folder of the installation. Its environment is empty, except that it skips
    /// `fsync`.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_office_audit_log_collector"));
        command.args(arguments).current_dir(self.folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env_clear().env("COLLECTOR_DISK_SYNC", "skip");
        command
    }

    /// The lines of each output file, by file name.
    pub fn output(&self) -> BTreeMap<String, Vec<String>> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(self.path("output")).into_iter().flatten() {
            let path = entry.expect("a readable folder").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            files.insert(name, whole_lines(&path));
        }
        files
    }

    /// The number of records in the output files for each Id.
    pub fn delivered_ids(&self) -> BTreeMap<String, usize> {
        let mut ids = BTreeMap::new();
        for line in self.output().values().flatten() {
            let id = simulator::id_of(line).unwrap_or_else(|| panic!("a record without an Id: {line}"));
            *ids.entry(id).or_default() += 1;
        }
        ids
    }

    /// Asserts that the output files contain each record of these feeds once, and no other record.
    #[track_caller]
    pub fn assert_delivered_once<'a>(&self, feeds: impl IntoIterator<Item = (&'a Tenant, &'a str)>) {
        let mut expected = BTreeMap::new();
        for (tenant, content_type) in feeds {
            for id in tenant.ids(content_type) {
                expected.insert(id, 1);
            }
        }
        let delivered = self.delivered_ids();
        let missing: Vec<_> = expected.keys().filter(|id| !delivered.contains_key(*id)).take(5).collect();
        let unexpected: Vec<_> = delivered.keys().filter(|id| !expected.contains_key(*id)).take(5).collect();
        let repeated: Vec<_> = delivered.iter().filter(|(_, count)| **count > 1).take(5).collect();
        assert!(
            delivered == expected,
            "{} records are expected and {} delivered; missing: {missing:?}, unexpected: {unexpected:?}, \
             more than once: {repeated:?}",
            expected.len(),
            delivered.len(),
        );
    }

    /// Asserts that the lines of the output files, rotated ones included, are the records of these feeds. It compares whole
    /// lines, so that it also covers records without an Id.
    #[track_caller]
    pub fn assert_lines_delivered_once<'a>(&self, feeds: impl IntoIterator<Item = (&'a Tenant, &'a str)>) {
        let mut expected: BTreeMap<String, i64> = BTreeMap::new();
        for (tenant, content_type) in feeds {
            for record in tenant.blobs(content_type).iter().flat_map(records_of) {
                let fields = record.strip_suffix('}').expect("an object");
                let line = format!("{fields},\"OriginFeed\":\"{content_type}\",\"TenantName\":\"contoso\"}}");
                *expected.entry(line).or_default() += 1;
            }
        }
        for line in self.output().into_values().flatten() {
            *expected.entry(line).or_default() -= 1;
        }
        expected.retain(|_, missing| *missing != 0);
        let lost: i64 = expected.values().filter(|missing| **missing > 0).sum();
        let doubled: i64 = -expected.values().filter(|missing| **missing < 0).sum::<i64>();
        assert!(
            expected.is_empty(),
            "{lost} records lost, {doubled} too many, such as {:?}",
            expected.first_key_value()
        );
    }

    /// The lines of `known_blobs`.
    pub fn known_blobs(&self) -> Vec<String> {
        let path = self.path("state/known_blobs");
        if path.exists() { whole_lines(&path) } else { Vec::new() }
    }

    /// Asserts that the simulator has seen nothing that a client must not do.
    #[track_caller]
    pub fn assert_no_violations(&self) {
        assert_eq!(self.simulator.violations(), [""; 0]);
    }
}

/// The texts of a blob's records.
pub fn records_of(blob: &simulator::Blob) -> Vec<String> {
    let body = blob.body();
    let records: Vec<&serde_json::value::RawValue> = serde_json::from_slice(&body).expect("a JSON array");
    records.into_iter().map(|record| record.get().to_owned()).collect()
}

/// A time in the past.
pub fn hours_ago(hours: i64) -> Timestamp {
    Timestamp::now() - hours.hours()
}

/// Returns the lines of a file.
///
/// # Panics
///
/// Panics if the last line has no line break: a reader would find a part of a record.
#[track_caller]
pub fn whole_lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).expect("a readable file of UTF-8");
    assert!(text.is_empty() || text.ends_with('\n'), "{} ends in the middle of a line", path.display());
    text.lines().map(str::to_owned).collect()
}

pub fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a file that this test owns");
}

/// The permission bits of a file.
pub fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).expect("a file").permissions().mode() & 0o777
}
