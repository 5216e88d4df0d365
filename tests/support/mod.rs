//! An installation in a temporary folder: a configuration, state, outputs, and the real program, against a simulator.

pub mod documents;
pub mod forward;
pub mod gelf;
pub mod picture;
pub mod process;
pub mod proxy;
pub mod receiver;

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
/// Its neighbour.
pub const FABRIKAM: &str = "22222222-2222-4222-8222-222222222222";

const SECRET: &str = "a-secret-that-must-stay-secret";

/// A configured collector and the world that it collects from.
pub struct Installation {
    pub simulator: Simulator,
    pub contoso: Tenant,
    folder: tempfile::TempDir,
    tenants: Vec<String>,
    settings: String,
    outermost: String,
    outputs: String,
    output_file: String,
}

impl Installation {
    /// One tenant, contoso, without subscriptions or blobs; all five feeds into a file each.
    pub fn new() -> Self {
        Self::against(Simulator::start())
    }

    /// The same against this simulator.
    pub fn against(simulator: Simulator) -> Self {
        let contoso = simulator.tenant(TenantSettings::new(CONTOSO).secret(SECRET));
        let mut installation = Self {
            simulator,
            contoso,
            folder: tempfile::tempdir().expect("a folder"),
            tenants: Vec::new(),
            settings: String::new(),
            outermost: String::new(),
            outputs: String::new(),
            output_file: "audit.json".to_owned(),
        };
        let url = installation.simulator.url().to_owned();
        installation.add_to_config("contoso", CONTOSO, &url);
        installation
    }

    /// The same with a second tenant, fabrikam.
    pub fn with_fabrikam() -> (Self, Tenant) {
        let mut installation = Self::new();
        let fabrikam = installation.simulator.tenant(TenantSettings::new(FABRIKAM).secret(SECRET));
        let url = installation.simulator.url().to_owned();
        installation.add_to_config("fabrikam", FABRIKAM, &url);
        (installation, fabrikam)
    }

    /// A further tenant, named by its id.
    pub fn add_tenant(&mut self, id: &str) -> Tenant {
        let tenant = self.simulator.tenant(TenantSettings::new(id).secret(SECRET));
        let url = self.simulator.url().to_owned();
        self.add_to_config(id, id, &url);
        tenant
    }

    /// Adds fabrikam, which another simulator serves.
    pub fn add_fabrikam_at(&mut self, simulator: &Simulator) -> Tenant {
        self.add_to_config("fabrikam", FABRIKAM, simulator.url());
        simulator.tenant(TenantSettings::new(FABRIKAM).secret(SECRET))
    }

    /// Lets the configuration say that contoso's login and API are at this URL.
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

    /// Adds a line under `collect`, at the margin of its keys.
    pub fn collect(mut self, line: &str) -> Self {
        self.settings.extend(["  ", line, "\n"]);
        self
    }

    /// Adds a line at the outermost margin.
    pub fn setting(mut self, line: &str) -> Self {
        self.outermost.extend([line, "\n"]);
        self
    }

    /// Lets the output file have this name.
    pub fn output_file(mut self, name: &str) -> Self {
        name.clone_into(&mut self.output_file);
        self
    }

    /// Adds lines under `output`, at the margin of the outputs' names.
    pub fn with_output(mut self, lines: &str) -> Self {
        self.outputs.extend([lines, "\n"]);
        self
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The file that the program is told to read, written if it is not there as it should be.
    pub fn config_file(&self) -> PathBuf {
        let path = self.path("config.yaml");
        let config = self.config();
        // Another program may be reading it.
        if fs::read_to_string(&path).is_ok_and(|written| written == config) {
            return path;
        }
        fs::write(&path, config).expect("a writable folder");
        set_mode(&path, 0o600);
        path
    }

    /// The configuration's text. Tries follow each other quickly, so that tests of failures do not take long.
    pub fn config(&self) -> String {
        let retry_delay = if self.settings.contains("retryDelay") { "" } else { "  retryDelay: 0s\n" };
        format!(
            "{}tenants:\n{}collect:\n  workingDir: {state}\n{retry_delay}{}\
             output:\n  file:\n    path: {output}\n    separateByContentType: true\n{}",
            self.outermost,
            self.tenants.concat(),
            self.settings,
            self.outputs,
            state = self.path("state").display(),
            output = self.path("output").join(&self.output_file).display(),
        )
    }

    /// The same with these lines, at the margin of a tenant's keys, instead of contoso's secret.
    pub fn config_with_credential(&self, lines: &str) -> String {
        self.config().replacen(&format!("client_secret: {SECRET}"), lines, 1)
    }

    /// A configuration file with these lines, at the margin of the outputs' names, instead of the output file.
    pub fn config_with_output(&self, lines: &str) -> String {
        let config = self.config();
        let (before, _) = config.split_once("  file:\n").expect("the output file");
        let path = self.path("other-output.yaml");
        fs::write(&path, format!("{before}{lines}\n")).expect("a writable folder");
        set_mode(&path, 0o600);
        path.to_str().expect("a path of text").to_owned()
    }

    /// Runs the program with this configuration.
    pub fn run(&self, arguments: &[&str]) -> Run {
        let config = self.config_file();
        self.run_bare(&[&["--config", config.to_str().expect("a path of text")], arguments].concat())
    }

    /// Runs the program with this configuration, and these variables in its environment.
    pub fn run_in(&self, environment: &[(&str, &str)]) -> Run {
        Run::of(self.pass().envs(environment.iter().copied()))
    }

    /// Runs a pass with this fault of the disk. Returns whether the fault struck, and the outcome.
    pub fn run_with_fault(&self, fault: &str) -> (bool, Run) {
        self.strike(&mut self.pass(), fault)
    }

    /// Runs this command with a fault of the disk, as [`Installation::run_with_fault`] does.
    pub fn strike(&self, command: &mut Command, fault: &str) -> (bool, Run) {
        let mark = self.path("struck");
        let run = Run::of(command.env("COLLECTOR_DISK_FAULT", fault).env("COLLECTOR_DISK_FAULT_MARK", &mark));
        (fs::remove_file(mark).is_ok(), run)
    }

    /// Runs the program with nothing but these arguments.
    pub fn run_bare(&self, arguments: &[&str]) -> Run {
        Run::of(&mut self.command(arguments))
    }

    /// A pass with this configuration, not started yet.
    pub fn pass(&self) -> Command {
        let config = self.config_file();
        self.command(&["--config", config.to_str().expect("a path of text")])
    }

    /// The program, not started yet: in the installation's folder, and with nothing in its environment but that it does
    /// not wait for the disk.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_office_audit_log_collector"));
        command.args(arguments).current_dir(self.folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env_clear().env("COLLECTOR_DISK_SYNC", "skip");
        command
    }

    /// Every line of every output file, by file name.
    pub fn output(&self) -> BTreeMap<String, Vec<String>> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(self.path("output")).into_iter().flatten() {
            let path = entry.expect("a readable folder").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            files.insert(name, whole_lines(&path));
        }
        files
    }

    /// How often each record Id is in the output files.
    pub fn delivered_ids(&self) -> BTreeMap<String, usize> {
        let mut ids = BTreeMap::new();
        for line in self.output().values().flatten() {
            let id = simulator::id_of(line).unwrap_or_else(|| panic!("a record without an Id: {line}"));
            *ids.entry(id).or_default() += 1;
        }
        ids
    }

    /// Holds the output against what these tenants have in these feeds: each record there, and once.
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
        let strange: Vec<_> = delivered.keys().filter(|id| !expected.contains_key(*id)).take(5).collect();
        let repeated: Vec<_> = delivered.iter().filter(|(_, count)| **count > 1).take(5).collect();
        assert!(
            delivered == expected,
            "{} records are expected and {} delivered; missing: {missing:?}, strange: {strange:?}, \
             more than once: {repeated:?}",
            expected.len(),
            delivered.len(),
        );
    }

    /// Holds the output, rotated files included, against the records of these feeds, line by line: each there, and as
    /// often as it was served. For records without an Id too.
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

    /// Holds what the simulator saw against what a client must never do.
    #[track_caller]
    pub fn assert_good_manners(&self) {
        assert_eq!(self.simulator.violations(), [""; 0]);
    }
}

/// The texts of a blob's records.
pub fn records_of(blob: &simulator::Blob) -> Vec<String> {
    let body = blob.body();
    let records: Vec<&serde_json::value::RawValue> = serde_json::from_slice(&body).expect("a whole array");
    records.into_iter().map(|record| record.get().to_owned()).collect()
}

/// A time in the past.
pub fn hours_ago(hours: i64) -> Timestamp {
    Timestamp::now() - hours.hours()
}

/// A file's lines. A last line without its end is a failure: no reader may find half a record.
#[track_caller]
pub fn whole_lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).expect("a readable file of UTF-8");
    assert!(text.is_empty() || text.ends_with('\n'), "{} ends in the middle of a line", path.display());
    text.lines().map(str::to_owned).collect()
}

pub fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a file of our own");
}

/// The permission bits of a file.
pub fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).expect("a file").permissions().mode() & 0o777
}
