//! Checks of the pages below `docs/`: their commands run or are valid, their configurations load, their links lead somewhere,
//! and the options, keys, units, metrics and tests that they name exist.

mod object_store;
mod receivers;
mod troubleshooting;

use std::{collections::BTreeSet, fs, path::Path};

use office_audit_log_collector::{
    cli::{self, Parsed},
    config::Loaded,
};

use crate::support::{
    Installation, Run,
    documents::{self, PROGRAM, Page, repository, shell},
    set_mode,
};

/// The commands that a test cannot run, and what they need. A block with one of them is only checked: its shell syntax, the
/// arguments of the program, and the files of the repository that it names.
const NEEDS: [(&str, &str); 14] = [
    ("cargo", "minutes"),
    ("chown", "the service's user"),
    ("docker", "a container engine"),
    ("install", "the service's group"),
    ("journalctl", "a journal"),
    ("kcat", "kcat, which another test runs"),
    ("kubectl", "a cluster"),
    ("office365-collector-run", "systemd"),
    ("openssl", "openssl, which is not installed everywhere"),
    ("rsyslogd", "rsyslog, which another test runs"),
    ("systemctl", "systemd"),
    ("systemd-run", "systemd"),
    ("timedatectl", "root"),
    ("usermod", "root"),
];

/// The folders of the repository that commands name.
const FOLDERS: [&str; 6] = ["config/", "cron/", "debian/", "docker/", "docs/", "systemd/"];

/// Returns the lines of a block without comments, each with its continuation lines.
fn lines_of(block: &str) -> Vec<String> {
    let whole = block.replace("\\\n", " ");
    whole
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

/// Returns the names of the commands in a line, without the variables before them.
fn commands_of(line: &str) -> Vec<&str> {
    let commands = line.split(" | ").flat_map(|part| part.split(" && ")).flat_map(|part| part.split("; "));
    commands
        .filter_map(|command| {
            command.split_whitespace().find(|word| !word.contains('=') || word.contains("=="))
        })
        .collect()
}

/// Returns the calls of the program in this line, each with its arguments.
fn calls_of(line: &str) -> Vec<Vec<String>> {
    let words: Vec<_> = line.split_whitespace().collect();
    let is_program = |word: &&str| word.rsplit('/').next() == Some(PROGRAM) && !word.contains("target/");
    let calls = words.iter().enumerate().filter(|(_, word)| is_program(word));
    calls
        .map(|(place, _)| {
            let call =
                words[place..].iter().take_while(|word| !["|", "&&", ";", ">", ">>", "2>"].contains(*word));
            call.map(|word| word.trim_matches(['"', '\'']).to_owned()).collect()
        })
        .collect()
}

/// Returns an installation with `config/config.yaml`, as the pages have it, after its first pass.
fn installation() -> Installation {
    let installation = Installation::new().setting("interval: 5m");
    fs::create_dir(installation.path("config")).expect("a folder");
    fs::write(installation.path("config/config.yaml"), installation.config()).expect("a file");
    set_mode(&installation.path("config/config.yaml"), 0o600);
    for content_type in simulator::CONTENT_TYPES {
        let blob = simulator::NewBlob::records(3).created(crate::support::hours_ago(2));
        installation.contoso.add_blob(content_type, blob);
    }
    installation.run_bare(&[]).assert_code(0);
    installation
}

/// Replaces the system's folders in a script by those of the installation.
fn with_own_folders(installation: &Installation, script: &str) -> String {
    let mut script = script.to_owned();
    for (documented, name) in [
        ("/etc/office365-collector", "config"),
        ("/var/lib/office365-collector", "state"),
        ("/var/log/office365", "output"),
    ] {
        script = script.replace(documented, &installation.path(name).display().to_string());
    }
    script
}

#[test]
fn every_command_runs_or_is_valid() {
    let mut unavailable_commands = BTreeSet::new();
    for page in Page::all() {
        let mut of_page = None;
        for block in page.blocks("sh") {
            let lines = lines_of(block);
            let needs =
                |command: &str| NEEDS.iter().find(|(name, _)| *name == command).map(|(name, _)| *name);
            let missing: Vec<_> = lines.iter().flat_map(|line| commands_of(line)).filter_map(needs).collect();
            let installation = of_page.get_or_insert_with(installation);
            if missing.is_empty() {
                let run = Run::from(shell(installation, &with_own_folders(installation, block)));
                assert_eq!(run.code, Some(0), "{}: {block}{run}", page.name);
                continue;
            }
            unavailable_commands.extend(missing);
            Run::from(shell(installation, &format!("sh -n <<'END'\n{block}END\n"))).assert_code(0);
            for line in &lines {
                for call in calls_of(line) {
                    let is_valid = matches!(cli::parse(call.clone()), Parsed::Run(_) | Parsed::Show(_));
                    assert!(is_valid, "{}: {call:?}", page.name);
                }
                assert_files_exist(&page.name, line);
            }
        }
    }
    let listed: BTreeSet<_> = NEEDS.iter().map(|(name, _)| *name).collect();
    assert_eq!(listed, unavailable_commands, "NEEDS contains commands that no page has");
}

/// Asserts that the files of the repository in this line exist.
#[track_caller]
fn assert_files_exist(page: &str, line: &str) {
    for word in line.split(|character: char| character.is_whitespace() || "\"'=:".contains(character)) {
        if FOLDERS.iter().any(|folder| word.starts_with(folder)) && !word.contains(['*', '$']) {
            assert!(repository(word).exists(), "{page}: no {word} in {line}");
        }
    }
}

/// Loads a configuration of a page, or a part of one with the rest added. Returns `None` for YAML of another program.
fn load_part(info: &str, block: &str) -> Option<Loaded> {
    if !cfg!(feature = "kafka") && block.contains("\n  kafka:\n") {
        return None; // it loads with that feature
    }
    let mut config = String::new();
    match info {
        "yaml" => {}
        "yaml title=setting" => {
            for (key, whole) in [
                (
                    "tenants:",
                    "tenants:\n  - { tenant_id: YOUR-TENANT-ID, client_id: YOUR-CLIENT-ID, client_secret: x }\n",
                ),
                ("output:", "output: { file: { path: audit.json } }\n"),
            ] {
                if !block.lines().any(|line| line.starts_with(key)) {
                    config.push_str(whole);
                }
            }
        }
        _ => return None,
    }
    config.push_str(block);
    Some(documents::load(&config))
}

#[test]
fn every_configuration_loads_without_a_warning() {
    for page in Page::all() {
        for (info, block) in page.all_blocks().into_iter().filter(|(info, _)| info.starts_with("yaml")) {
            let Some(loaded) = load_part(info, block) else {
                let parsed = serde_yaml::from_str::<serde_yaml::Value>(block);
                assert!(parsed.is_ok(), "{}: {block}", page.name);
                continue;
            };
            let is_older = page.name.ends_with("MIGRATION.md");
            let is_expected = |warning: &String| is_older && warning.contains("has no meaning any more");
            assert!(loaded.warnings.iter().all(is_expected), "{}: {block}{:?}", page.name, loaded.warnings);
        }
    }
}

#[test]
fn every_link_leads_somewhere() {
    for page in Page::all() {
        page.assert_links_lead_somewhere();
    }
}

/// Returns the help of the program or of one of its commands.
fn help_of(command: &[&str]) -> String {
    let words = [&[PROGRAM], command, &["--help"]].concat();
    let Parsed::Show(help) = cli::parse(words.into_iter().map(str::to_owned)) else { panic!("no help") };
    help
}

#[test]
fn every_option_key_unit_and_metric_exists() {
    let help =
        ["check", "status", "verify", "schedule"].map(|command| help_of(&[command])).concat() + &help_of(&[]);
    let template = Page::read("config/config.production.template.yaml").text;
    let metrics = ["src/report/metrics.rs", "src/verify/report.rs"]
        .map(|file| fs::read_to_string(repository(file)).expect("a file"))
        .concat();
    for page in Page::all().into_iter().chain([Page::read("README.md")]) {
        for quoted in page.quoted() {
            let word = quoted.split_whitespace().next().unwrap_or_default();
            let option = word.split('=').next().unwrap_or_default();
            if option.starts_with("--") && !OTHER_OPTIONS.contains(&option) {
                assert!(help.contains(option), "{}: no option {quoted}", page.name);
            }
            let key = word.split(':').next().unwrap_or_default();
            if ["collect.", "output.", "log.", "metrics."].iter().any(|part| key.starts_with(part))
                && !OLDER_KEYS.contains(&key)
                && key != ATTRIBUTE
            {
                let is_there = key.split('.').all(|part| template.contains(&format!("{part}:")));
                assert!(is_there, "{}: no key {quoted}", page.name);
            }
            if word.starts_with("office365-collector")
                && [".service", ".timer"].iter().any(|end| word.ends_with(end))
            {
                assert!(repository("systemd").join(word).exists(), "{}: no unit {quoted}", page.name);
            }
            if let Some(metric) = word.strip_prefix("office365_collector_") {
                assert!(metrics.contains(metric), "{}: no metric {quoted}", page.name);
            }
        }
    }
}

/// The options of other programs and of the older tool.
const OTHER_OPTIONS: [&str; 13] = [
    "--collector.textfile.directory",
    "--tenant-id",
    "--client-id",
    "--secret-key",
    "--publisher-id",
    "--oms-key",
    "--unit",
    "--interactive-subscriber",
    "--interactive",
    "--table-string",
    "--blob-string",
    "--sql-string",
    "--immutable",
];

/// An attribute of OTLP, which looks like a key.
const ATTRIBUTE: &str = "log.record.uid";

/// The keys of the older tool.
const OLDER_KEYS: [&str; 8] = [
    "collect.contentTypes",
    "collect.retryCooldown",
    "collect.schedule",
    "collect.autoSubscribe",
    "collect.resume",
    "collect.rustEngine",
    "collect.duplicate",
    "output.file.cacheSize",
];

#[test]
fn the_migration_page_covers_every_older_key() {
    let page = Page::read("docs/MIGRATION.md");
    let (quoted, source) =
        (page.quoted(), fs::read_to_string(repository("src/config/schema.rs")).expect("a file"));
    let older = |text: &'static str| text.split('.').next_back().expect("a key");
    let mut keys: BTreeSet<_> = OLDER_KEYS.into_iter().map(older).map(str::to_owned).collect();
    let is_older = |line: &&str| line.ends_with("\": Gone;") || line.contains(", newer(\"");
    keys.extend(source.lines().filter(is_older).filter_map(|line| Some(line.split('"').nth(1)?.to_owned())));
    assert!(keys.len() > 12, "{keys:?}");
    for key in keys {
        let is_covered = quoted.iter().any(|quoted| quoted.split('.').next_back() == Some(&key));
        assert!(is_covered, "docs/MIGRATION.md does not name {key}");
    }
}

#[test]
fn the_documented_container_settings_are_in_their_files() {
    let file = |name: &str| fs::read_to_string(repository(name)).expect("a file");
    let quoted = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let manifest = file("docker/kubernetes/cronjob.yaml");
    for row in Page::read("docs/KUBERNETES.md").table("| setting | why |") {
        for setting in quoted(row[0]) {
            let last = setting.rsplit_once('.').filter(|(above, _)| !above.contains(':'));
            let setting = last.map_or(setting.as_str(), |(_, key)| key);
            assert!(manifest.contains(setting), "no {setting} in docker/kubernetes/cronjob.yaml");
        }
    }
    let image = file("docker/Dockerfile") + &file("docker/docker-compose.yml");
    for row in Page::read("docs/DOCKER-DEPLOYMENT.md").table("| place | what |") {
        for place in quoted(row[0]) {
            assert!(image.contains(&place), "no {place} in the files of docker/");
        }
    }
}

#[test]
fn every_documented_exit_code_exists() {
    let readme = Page::read("README.md");
    let codes: BTreeSet<_> = readme
        .table("| exit code |")
        .iter()
        .flat_map(|row| row[0].split(", ").map(str::to_owned).collect::<Vec<_>>())
        .collect();
    for page in Page::all() {
        let prose = page.prose().to_lowercase();
        for rest in prose.split("exit code ").skip(1) {
            let code: String = rest.chars().take_while(char::is_ascii_digit).collect();
            assert!(code.is_empty() || codes.contains(&code), "{}: exit code {code}", page.name);
        }
    }
}

#[test]
fn the_readme_links_every_page() {
    let readme = Page::read("README.md").text;
    for page in Page::all() {
        assert!(readme.contains(&format!("({})", page.name)), "the README does not name {}", page.name);
        assert!(Path::new(&page.name).starts_with("docs"));
    }
}

#[test]
fn each_condition_of_the_production_flow_names_an_existing_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/PRODUCTION-FLOW.md")).expect("a page");
    let (_, conditions) = page.split_once("## Conditions, and what a pass does").expect("the section");
    let mut tests = String::new();
    for entry in fs::read_dir(root.join("tests")).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            tests += &fs::read_to_string(path).expect("a source file");
        }
    }
    let rows = conditions.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| condition"));
    for row in rows.filter(|row| !row.starts_with("| ---")) {
        let names: Vec<_> =
            row.rsplit('|').nth(1).expect("a last column").split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "the last column names no test: {row}");
        for name in names {
            assert!(tests.contains(&format!("fn {name}(")), "there is no test {name}: {row}");
        }
    }
}
