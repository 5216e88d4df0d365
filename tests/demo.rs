//! A demo of the collector that needs no tenant: `cargo run --release --example demo`.
//!
//! It starts a simulated Microsoft 365 on 127.0.0.1, makes two collection passes as the program does, shows their results,
//! compares the delivered records with the served ones by their Ids, and lets `verify` do the same. It exits with 1 if a check
//! fails.

#![expect(clippy::print_stdout, reason = "a demo prints what it does")]

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs, io,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use jiff::{Timestamp, ToSpan};
use office_audit_log_collector::{
    cli::{self, Command as Subcommand, Parsed},
    commands,
    exit::Exit,
};
use simulator::{CONTENT_TYPES, Operation, Simulator, Tenant, TenantSettings};

const BLOBS_OF_A_FEED: usize = 20;
const RECORDS_OF_A_BLOB: usize = 40;
const BLOBS_OF_A_PAGE: usize = 6;

/// The number of characters of a record that are shown.
const SHOWN_CHARS: usize = 104;

/// The variables that the collector reads. They are removed, because they are not for a simulated tenant.
const COLLECTOR_VARIABLES: [&str; 13] = [
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
    if COLLECTOR_VARIABLES.iter().any(|name| env::var_os(name).is_some()) {
        return run_without_variables();
    }
    match show() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("The demo failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run_without_variables() -> ExitCode {
    let run = || {
        let mut command = Command::new(env::current_exe()?);
        for name in COLLECTOR_VARIABLES {
            command.env_remove(name);
        }
        command.status()
    };
    match run() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// Runs the demo, and returns whether all checks passed.
fn show() -> io::Result<bool> {
    let folder = tempfile::tempdir()?;
    let (config, output) = (folder.path().join("config.yaml"), folder.path().join("audit"));
    let mut checks = Checks { all_passed: true };

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
    let first = run(&config, &[]);

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
    let second = run(&config, &[]);
    let is_unchanged = self::files(&output)? == files;

    println!("\n6. Compared with what the tenant served, Id by Id\n");
    let delivered = count(files.values().flat_map(|text| text.lines()));
    let missing = served.iter().filter(|id| !delivered.contains_key(*id)).count();
    let repeated = delivered.values().filter(|count| **count > 1).count();
    let unexpected = delivered.keys().filter(|id| !served.contains(*id)).count();
    let fetched = simulator.count(Operation::FetchBlob);
    let violations = simulator.violations();
    checks.check(
        missing == 0 && repeated == 0 && unexpected == 0,
        &format!(
            "{} records served, {} delivered: {missing} missing, {repeated} more than once, {unexpected} unexpected",
            served.len(),
            delivered.len()
        ),
    );
    checks.check(fetched == blobs, &format!("{blobs} blobs served, {fetched} downloads"));
    checks.check(is_unchanged, "the second pass left the files as they were");
    checks.check(
        (first, second) == (Exit::Complete, Exit::Complete),
        &format!("exit codes {} and {}", first.code(), second.code()),
    );
    checks.check(violations.is_empty(), &format!("{} requests that break the API's rules", violations.len()));

    println!("\n7. The command verify proves the same, for any tenant\n");
    let verified = run(&config, &["--quiet", "verify", "--content", "--hours=24"]);
    checks.check(verified == Exit::Complete, "verify finds each record once");
    Ok(checks.all_passed)
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

/// Runs a command, or makes one pass without a command, as the program does. It logs to standard error.
fn run(config: &Path, command: &[&str]) -> Exit {
    let arguments = ["office_audit_log_collector".to_owned(), format!("--config={}", config.display())];
    let arguments: Vec<_> =
        arguments.into_iter().chain(command.iter().map(|word| (*word).to_owned())).collect();
    println!("   $ {}\n", arguments.join(" "));
    let Parsed::Run(arguments) = cli::parse(arguments) else { unreachable!("the arguments are right") };
    let exit = commands::set_up(&arguments).map_or_else(
        |ended| ended,
        |setup| match &arguments.command {
            Some(Subcommand::Verify(asked)) => commands::verify(&setup, asked, &arguments),
            _ => commands::pass(setup, &arguments),
        },
    );
    println!("\n   exit code {}", exit.code());
    exit
}

/// Returns every file of a folder with its text.
fn files(folder: &Path) -> io::Result<BTreeMap<PathBuf, String>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let text = fs::read_to_string(&path)?;
        files.insert(path, text);
    }
    Ok(files)
}

/// Counts the lines of each Id. A line without an Id counts under its own text, which the tenant did not serve.
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

/// The checks of the demo.
struct Checks {
    all_passed: bool,
}

impl Checks {
    /// Prints a check and its result.
    fn check(&mut self, has_passed: bool, what: &str) {
        self.all_passed &= has_passed;
        println!("   {} {what}", if has_passed { "✓" } else { "✗" });
    }
}
