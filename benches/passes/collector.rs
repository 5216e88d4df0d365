//! The collector that is measured: the program itself, with defaults for all settings that the benchmark does not need.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::{
    corpus::TENANT_ID,
    measure::{self, Cost},
    server,
};

/// An installation in its own folder.
pub struct Collector {
    folder: PathBuf,
    config: String,
}

impl Collector {
    /// An installation with one tenant, whose login and API are at this URL. The rate of requests is practically unlimited, and
    /// bodies can be as large as those of the corpora.
    pub fn new(api_url: &str, folder: &Path) -> Self {
        Self::of_tenants(&[TENANT_ID.to_owned()], api_url, folder)
    }

    /// The same with several tenants.
    pub fn of_tenants(tenant_ids: &[String], api_url: &str, folder: &Path) -> Self {
        let output = format!("  file:\n    path: {}/output/audit.json\n", folder.display());
        Self::configured(tenant_ids, api_url, folder, &output)
    }

    /// The same with one tenant, and with these lines below `output`.
    pub fn with_output(api_url: &str, folder: &Path, output: &str) -> Self {
        Self::configured(&[TENANT_ID.to_owned()], api_url, folder, output)
    }

    fn configured(tenant_ids: &[String], api_url: &str, folder: &Path, output: &str) -> Self {
        let tenant = |id: &String| {
            format!(
                "  - tenant_id: {id}\n    client_id: c11e0000-0000-4000-8000-00000000c11e\n    \
                 client_secret: benchmark\n    login_url: {api_url}\n    api_url: {api_url}\n"
            )
        };
        let config = format!(
            "tenants:\n{tenants}collect:\n  workingDir: {folder}/state\n  maxRequestsPerMinute: 1000000\n\
             curl_max_size: 200M\nca_file: {root}\noutput:\n{output}",
            tenants = tenant_ids.iter().map(tenant).collect::<String>(),
            folder = folder.display(),
            root = server::root_certificate(),
        );
        Self { folder: folder.to_owned(), config }
    }

    /// Returns the folder of the state.
    pub fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// Runs one pass, and returns its cost.
    pub fn pass(&self, scratch: &Path) -> io::Result<Cost> {
        self.run(&[], scratch)
    }

    /// Verifies the content of the last 24 hours, and returns its cost. It is an error if anything is missing.
    pub fn verify(&self, scratch: &Path) -> io::Result<Cost> {
        self.run(&["verify", "--content", "--hours=24"], scratch)
    }

    fn run(&self, command: &[&str], scratch: &Path) -> io::Result<Cost> {
        let config = self.folder.join("config.yaml");
        fs::write(&config, &self.config)?;
        fs::set_permissions(&config, fs::Permissions::from_mode(0o600))?;
        let program = env!("CARGO_BIN_EXE_office_audit_log_collector");
        let config = config.display().to_string();
        measure::run([&[program, "--quiet", "--config", &config], command].concat(), scratch)
    }

    /// Returns the number of records in the output file.
    pub fn delivered(&self) -> io::Result<usize> {
        let file = fs::File::open(self.folder.join("output/audit.json"))?;
        let mut reader = io::BufReader::with_capacity(1 << 20, file);
        let mut lines = 0;
        loop {
            let piece = io::BufRead::fill_buf(&mut reader)?;
            if piece.is_empty() {
                return Ok(lines);
            }
            lines += memchr::memchr_iter(b'\n', piece).count();
            let read = piece.len();
            io::BufRead::consume(&mut reader, read);
        }
    }
}
