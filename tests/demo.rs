//! The collector at work, without a tenant: `cargo run --release --example demo`.
//!
//! Starts a simulated Microsoft 365 on the loopback, makes two collection passes just as the program would, shows what
//! they did, and holds the records delivered against those served, Id by Id. Exits with 1 if anything does not hold.

#![expect(clippy::print_stdout, reason = "showing is what a demo is for")]

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs, io,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use jiff::{Timestamp, ToSpan};
use office_audit_log_collector::{
    cli::{self, Parsed},
    commands,
    exit::Exit,
};
use simulator::{CONTENT_TYPES, Operation, Simulator, Tenant, TenantSettings};

const BLOBS_OF_A_FEED: usize = 20;
const RECORDS_OF_A_BLOB: usize = 40;
const BLOBS_OF_A_PAGE: usize = 6;

/// How much of a record's line is shown.
const SHOWN_CHARS: usize = 104;

/// Variables that the collector heeds, and that are not meant for a simulated tenant.
const HEEDED: [&str; 13] = [
    "TENANT_ID",
    "CLIENT_ID",
    "CLIENT_SECRET",
    "AZURE_TENANT_ID",
    "AZURE_CLIENT_ID",
    "AZURE_FEDERATED_TOKEN_FILE",
    "STATE_DIRECTORY",
    "ALL_PROXY",
    "all_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
];

fn main() -> ExitCode {
    if HEEDED.iter().any(|name| env::var_os(name).is_some()) {
        return run_again_without_them();
    }
    match show() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("The demo cannot go on: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run_again_without_them() -> ExitCode {
    let again = || {
        let mut command = Command::new(env::current_exe()?);
        for name in HEEDED {
            command.env_remove(name);
        }
        command.status()
    };
    match again() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// The whole demo; says whether everything held.
fn show() -> io::Result<bool> {
    let folder = tempfile::tempdir()?;
    let (config, output) = (folder.path().join("config.yaml"), folder.path().join("audit"));
    let mut checks = Checks { all_hold: true };

    println!("1. A simulated tenant\n");
    let simulator = Simulator::start();
    let contoso = contoso(&simulator);
    let served: BTreeSet<String> =
        CONTENT_TYPES.iter().flat_map(|content_type| contoso.ids(content_type)).collect();
    let blobs = BLOBS_OF_A_FEED * CONTENT_TYPES.len();
    println!("   contoso, at {}: {} records of the last day", simulator.url(), served.len());
    println!("   in {blobs} blobs of {} feeds, {BLOBS_OF_A_PAGE} blobs a page", CONTENT_TYPES.len());

    println!("\n2. The configuration\n");
    write_private(&config, &configuration(&contoso, simulator.url(), folder.path()))?;
    for line in fs::read_to_string(&config)?.lines() {
        println!("{}", format!("   {line}").trim_end());
    }

    println!("\n3. The first pass collects everything\n");
    let first = pass(&config);

    println!("\n4. What was delivered\n");
    let files = files(&output)?;
    for (path, text) in &files {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        println!("   {name:<32} {:>9} bytes {:>6} lines", text.len(), text.lines().count());
    }
    println!();
    for line in files.values().filter_map(|text| text.lines().next()) {
        println!("   {}", cut(line));
    }

    println!("\n5. A second pass finds nothing new\n");
    let second = pass(&config);
    let is_unchanged = self::files(&output)? == files;

    println!("\n6. Compared with what the tenant served, Id by Id\n");
    let delivered = count(files.values().flat_map(|text| text.lines()));
    let missing = served.iter().filter(|id| !delivered.contains_key(*id)).count();
    let repeated = delivered.values().filter(|count| **count > 1).count();
    let unexpected = delivered.keys().filter(|id| !served.contains(*id)).count();
    let fetched = simulator.count(Operation::FetchBlob);
    let violations = simulator.violations();
    checks.hold(
        missing == 0 && repeated == 0 && unexpected == 0,
        &format!(
            "{} records served, {} delivered: {missing} missing, {repeated} more than once, {unexpected} unexpected",
            served.len(),
            delivered.len()
        ),
    );
    checks.hold(fetched == blobs, &format!("{blobs} blobs served, {fetched} downloads"));
    checks.hold(is_unchanged, "the second pass left the files as they were");
    checks.hold(
        (first, second) == (Exit::Complete, Exit::Complete),
        &format!("exit codes {} and {}", first.code(), second.code()),
    );
    checks.hold(violations.is_empty(), &format!("{} requests that break the API's rules", violations.len()));
    Ok(checks.all_hold)
}

/// A tenant with the same number of records in each feed, spread over the last day.
fn contoso(simulator: &Simulator) -> Tenant {
    let settings = TenantSettings::new("c0470500-0000-4000-8000-00000c047050").secret("not-a-secret");
    let contoso = simulator.tenant(settings);
    contoso.settings(|settings| settings.page_size = BLOBS_OF_A_PAGE);
    let now = Timestamp::now();
    for content_type in CONTENT_TYPES {
        let created = now - 23.hours()..now - 1.hour();
        contoso.add_blobs(content_type, BLOBS_OF_A_FEED, RECORDS_OF_A_BLOB, created);
    }
    contoso
}

fn configuration(tenant: &Tenant, url: &str, folder: &Path) -> String {
    let TenantSettings { id, client_id, secret, .. } = tenant.current_settings();
    let folder = folder.display();
    format!(
        r#"tenants:
  - tenant_id: "{id}"
    client_id: "{client_id}"
    client_secret: "{secret}"
    name: "contoso"
    login_url: "{url}"   # instead of Microsoft's,
    api_url: "{url}"     # only in this demo

collect:
  workingDir: "{folder}/state"

output:
  file:
    path: "{folder}/audit/audit.json"
    separateByContentType: true
"#
    )
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(text.as_bytes())
}

/// One pass, as the program makes it; its log goes to standard error.
fn pass(config: &Path) -> Exit {
    let arguments = ["office_audit_log_collector".to_owned(), format!("--config={}", config.display())];
    println!("   $ {}\n", arguments.join(" "));
    let Parsed::Run(arguments) = cli::parse(arguments) else { unreachable!("a pass was asked for") };
    let exit =
        commands::set_up(&arguments).map_or_else(|ended| ended, |setup| commands::pass(setup, &arguments));
    println!("\n   exit code {}", exit.code());
    exit
}

/// Every file of a folder, with its text.
fn files(folder: &Path) -> io::Result<BTreeMap<PathBuf, String>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let text = fs::read_to_string(&path)?;
        files.insert(path, text);
    }
    Ok(files)
}

/// How often each Id occurs. A line without one counts under its own text, which no tenant served.
fn count<'a>(lines: impl Iterator<Item = &'a str>) -> BTreeMap<String, usize> {
    let mut ids = BTreeMap::new();
    for line in lines {
        *ids.entry(simulator::id_of(line).unwrap_or_else(|| line.to_owned())).or_default() += 1;
    }
    ids
}

fn cut(line: &str) -> String {
    line.chars().take(SHOWN_CHARS).chain(['…']).collect()
}

/// What must hold.
struct Checks {
    all_hold: bool,
}

impl Checks {
    fn hold(&mut self, holds: bool, what: &str) {
        self.all_hold &= holds;
        println!("   {} {what}", if holds { "✓" } else { "✗" });
    }
}
