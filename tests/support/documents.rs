//! The pages of the documentation, and an installation as a reader sets it up.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use office_audit_log_collector::config::{self, Loaded, Sources};
use simulator::{CONTENT_TYPES, NewBlob, TenantSettings};

use super::{CONTOSO, Installation, SECRET, hours_ago, set_mode};

pub const PROGRAM: &str = "office_audit_log_collector";

/// A page in Markdown.
pub struct Page {
    /// The path, relative to the repository.
    pub name: String,
    pub text: String,
}

/// Returns the path of a file of the repository.
pub fn repository(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

impl Page {
    pub fn read(name: &str) -> Self {
        let text = fs::read_to_string(repository(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        Self { name: name.to_owned(), text }
    }

    /// Reads all pages below `docs/`, sorted by name.
    pub fn all() -> Vec<Self> {
        let mut pages = Vec::new();
        let mut folders = vec!["docs".to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(repository(&folder)).expect("a readable folder") {
                let entry = entry.expect("a readable folder");
                let name = format!("{folder}/{}", entry.file_name().display());
                if entry.path().is_dir() {
                    folders.push(name);
                } else if entry.path().extension().is_some_and(|extension| extension == "md") {
                    pages.push(Self::read(&name));
                }
            }
        }
        pages.sort_by(|one, other| one.name.cmp(&other.name));
        pages
    }

    /// The code blocks with exactly this info string, in order.
    pub fn blocks(&self, language: &str) -> Vec<&str> {
        self.all_blocks().into_iter().filter(|(info, _)| *info == language).map(|(_, block)| block).collect()
    }

    /// All code blocks: the info string, which follows the opening fence, and the text.
    pub fn all_blocks(&self) -> Vec<(&str, &str)> {
        let fenced = self.text.split("```").skip(1).step_by(2);
        fenced.map(|block| block.split_once('\n').expect("a code block has lines")).collect()
    }

    /// The text without its code blocks.
    pub fn prose(&self) -> String {
        self.text.split("```").step_by(2).collect()
    }

    /// The rows of the table with this heading, each as its cells.
    pub fn table(&self, heading: &str) -> Vec<Vec<&str>> {
        let below = self.text.lines().skip_while(|line| !line.starts_with(heading)).skip(2);
        let rows: Vec<Vec<_>> = below
            .take_while(|line| line.starts_with('|'))
            .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
            .collect();
        assert!(!rows.is_empty(), "no table {heading} in {}", self.name);
        rows
    }

    /// The texts between single backquotes, each within one line.
    pub fn quoted(&self) -> Vec<String> {
        let prose = self.prose();
        let quoted = prose.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
        quoted.map(str::to_owned).collect()
    }

    /// Asserts that each link leads to a file and, if it names one, to a heading.
    #[track_caller]
    pub fn assert_links_lead_somewhere(&self) {
        let path = repository(&self.name);
        let folder = path.parent().expect("a readable folder");
        let prose = self.prose();
        for link in prose.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("https://") {
                continue;
            }
            let (file, heading) =
                link.split_once('#').map_or((link, None), |(file, heading)| (file, Some(heading)));
            let target = if file.is_empty() { path.clone() } else { folder.join(file) };
            assert!(target.exists(), "{}: no file {link}", self.name);
            if let Some(heading) = heading {
                let text = fs::read_to_string(&target).expect("a page");
                assert!(
                    text.lines().filter_map(anchor).any(|anchor| anchor == heading),
                    "{}: no heading {link}",
                    self.name
                );
            }
        }
    }
}

/// Returns the name of a heading in links: `## Nothing is collected` → `nothing-is-collected`, as on GitHub.
fn anchor(line: &str) -> Option<String> {
    let title = line.strip_prefix('#')?.trim_start_matches('#').strip_prefix(' ')?;
    let anchor = title
        .to_lowercase()
        .chars()
        .filter(|character| character.is_alphanumeric() || " -_".contains(*character))
        .collect::<String>();
    Some(anchor.replace(' ', "-"))
}

/// Replaces the three placeholders that a reader replaces.
pub fn filled_in(text: &str) -> String {
    let TenantSettings { client_id, .. } = TenantSettings::new(CONTOSO);
    text.replace("YOUR-TENANT-ID", CONTOSO)
        .replace("YOUR-CLIENT-ID", &client_id)
        .replace("YOUR-CLIENT-SECRET", SECRET)
}

/// Loads a configuration of a page. Its files of secrets exist.
#[track_caller]
pub fn load(text: &str) -> Loaded {
    let folder = tempfile::tempdir().expect("a readable folder");
    let secret = folder.path().join("secret");
    fs::write(&secret, "a-secret\n").expect("a file");
    set_mode(&secret, 0o600);
    let mut config = String::new();
    for line in filled_in(text).lines() {
        config.push_str(&with_file(line, &secret));
        config.push('\n');
    }
    let path = folder.path().join("config.yaml");
    fs::write(&path, config).expect("a file");
    set_mode(&path, 0o600);
    let environment = |name: &str| match name {
        "CREDENTIALS_DIRECTORY" => Some(folder.path().display().to_string()),
        name if name.ends_with("_URL") => Some("https://receiver.example/path".to_owned()),
        _ => Some("from-the-environment".to_owned()).filter(|_| text.contains(&format!("${{{name}}}"))),
    };
    let sources = Sources { file: &path, credentials: None, environment: &environment, with_secrets: true };
    config::load(&sources).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// Returns a line of a configuration. If it names a file that is read with the configuration, it names this file instead.
fn with_file(line: &str, file: &Path) -> String {
    const KEYS: [&str; 7] = [
        "client_secret_file:",
        "password_file:",
        "cert_file:",
        "key_file:",
        "ca_file:",
        "header_files:",
        "certificate:",
    ];
    if !KEYS.iter().any(|key| line.contains(key)) {
        return line.to_owned();
    }
    let mut parts: Vec<_> = line.split('"').map(str::to_owned).collect();
    for path in parts.iter_mut().skip(1).step_by(2) {
        *path = file.display().to_string();
    }
    parts.join("\"")
}

/// An installation as a reader has it: contoso with a blob in each feed, and this configuration as `config/config.yaml`, with
/// its placeholders replaced.
pub fn reader(config: &str) -> Installation {
    let installation = Installation::new();
    for content_type in CONTENT_TYPES {
        installation.contoso.add_blob(content_type, NewBlob::records(5).created(hours_ago(2)));
    }
    let url = installation.simulator.url();
    let simulated = format!("tenants:\n  - login_url: {url}\n    api_url: {url}\n    ");
    let config = filled_in(config).replace("tenants:\n  - ", &simulated);
    fs::create_dir(installation.path("config")).expect("a readable folder");
    fs::write(installation.path("config/config.yaml"), config).expect("a file");
    installation
}

/// Runs shell commands until one fails.
pub fn shell(installation: &Installation, script: &str) -> Output {
    let program = Path::new(env!("CARGO_BIN_EXE_office_audit_log_collector"));
    let folder = program.parent().expect("a readable folder").display();
    let shell = Command::new("sh")
        .args(["-ec", script])
        .current_dir(installation.path(""))
        .env_clear()
        .env("PATH", format!("{folder}:/usr/bin:/bin"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    super::process::output_of(shell.expect("a shell"))
}
