//! Which module may use which other module: the table below is compared with the `use` lines and paths of the code.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The modules above the vocabulary, which the vocabulary must not use.
const ABOVE_VOCABULARY: &[&str] =
    &["api", "output", "state", "pass", "verify", "report", "config", "check", "cli", "commands", "exit"];

/// The same without `config`, for the parts of the vocabulary that read their settings from it.
const ABOVE_CONFIG: &[&str] =
    &["api", "output", "state", "pass", "verify", "report", "check", "cli", "commands", "exit"];

/// Every module except `log`.
const ALL_BUT_LOG: &[&str] = &[
    "api", "body", "check", "chunks", "cli", "clock", "commands", "config", "counters", "csv", "delivery",
    "disk", "error", "exit", "feed", "filter", "json", "limits", "login", "machine", "network", "output",
    "pass", "records", "redact", "report", "state", "suggest", "time", "units", "verify",
];

/// What each module of the library must not use.
const FORBIDDEN: &[(&str, &[&str])] = &[
    ("cli", &[]),
    ("commands", &[]),
    ("verify", &["check", "cli", "commands", "units"]),
    ("pass", &["check", "verify", "cli", "commands", "machine", "units"]),
    ("check", &["pass", "verify", "cli", "commands"]),
    ("api", &["output", "state", "pass", "verify", "report", "check", "cli", "commands", "exit"]),
    ("output", &["api", "state", "pass", "verify", "report", "check", "cli", "commands", "exit"]),
    ("state", &["api", "output", "pass", "verify", "report", "check", "cli", "commands", "exit"]),
    (
        "config",
        &[
            "api", "output", "state", "pass", "verify", "report", "check", "cli", "commands", "exit",
            "login", "network",
        ],
    ),
    ("report", &["api", "output", "pass", "verify", "check", "cli", "commands", "exit"]),
    ("body", ABOVE_VOCABULARY),
    ("chunks", ABOVE_VOCABULARY),
    ("clock", ABOVE_VOCABULARY),
    ("counters", ABOVE_VOCABULARY),
    ("csv", ABOVE_VOCABULARY),
    ("delivery", ABOVE_VOCABULARY),
    ("disk", ABOVE_VOCABULARY),
    (
        "error",
        &[
            "api", "output", "state", "pass", "verify", "report", "config", "check", "cli", "commands",
            "exit", "log", "disk",
        ],
    ),
    ("exit", &["cli", "commands"]),
    ("feed", ABOVE_VOCABULARY),
    ("filter", ABOVE_VOCABULARY),
    ("json", ABOVE_VOCABULARY),
    ("limits", ABOVE_VOCABULARY),
    ("log", ALL_BUT_LOG),
    ("login", ABOVE_CONFIG),
    ("machine", ABOVE_VOCABULARY),
    ("network", ABOVE_CONFIG),
    ("records", ABOVE_VOCABULARY),
    ("redact", ABOVE_VOCABULARY),
    ("suggest", ABOVE_VOCABULARY),
    ("time", ABOVE_VOCABULARY),
    ("units", ABOVE_VOCABULARY),
];

/// The dependencies that only some modules may use, with these modules. In particular, `config` uses no HTTP client and no
/// TLS.
const RESERVED: &[(&str, &[&str])] = &[
    ("argh", &["cli"]),
    ("bzip2", &["verify"]),
    ("crossbeam_channel", &["pass", "output"]),
    ("env_logger", &["log"]),
    ("flate2", &["network", "output", "verify"]),
    ("fs2", &["state"]),
    ("glob", &["verify"]),
    ("indicatif", &["report"]),
    ("lzma_rust2", &["verify"]),
    ("maud", &["report"]),
    ("prost", &["output"]),
    ("rayon", &["pass"]),
    ("ring", &["network", "login", "output"]),
    ("rdkafka", &["config", "output"]),
    ("rmp", &["output"]),
    ("rmpv", &["output"]),
    ("rustix", &["disk", "output"]),
    ("rustls", &["network", "output"]),
    ("rustls_native_certs", &["network"]),
    ("ruzstd", &["verify"]),
    ("rustls_pki_types", &["network", "login", "output"]),
    ("serde_yaml", &["config"]),
    ("signal_hook", &["pass", "check", "disk"]),
    ("strsim", &["suggest"]),
    ("ureq", &["network", "api", "output", "time"]),
    ("wide", &["json"]),
];

/// The dependencies that every module may use.
const SHARED: &[&str] = &[
    "base64",
    "fastrand",
    "jiff",
    "log",
    "memchr",
    "serde",
    "serde_json",
    "tempfile",
    "thiserror",
    "xxhash_rust",
];

#[test]
fn modules_import_only_what_they_may() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut violations = Vec::new();
    for (module, forbidden) in FORBIDDEN {
        for file in files_of(&source, module) {
            let text = fs::read_to_string(&file).expect("a readable file");
            for (number, used) in used_modules(&text) {
                if forbidden.contains(&used.as_str()) {
                    violations.push(format!("{}:{number}: {module} uses {used}", file.display()));
                }
            }
        }
    }
    assert_eq!(violations, [""; 0]);
}

#[test]
fn every_module_is_in_the_table() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let library = fs::read_to_string(source.join("lib.rs")).expect("a readable file");
    let declared = library.lines().filter_map(|line| {
        let line = line.strip_prefix("pub ").unwrap_or(line);
        line.strip_prefix("mod ")?.strip_suffix(';')
    });
    let declared: BTreeSet<_> = declared.collect();
    let listed: BTreeSet<_> = FORBIDDEN.iter().map(|(module, _)| *module).collect();
    let missing: Vec<_> = declared.difference(&listed).collect();
    assert!(
        missing.is_empty(),
        "FORBIDDEN in tests/architecture.rs lacks {missing:?}: add what these modules must not use"
    );
    let removed: Vec<_> = listed.difference(&declared).collect();
    assert!(
        removed.is_empty(),
        "src/lib.rs lacks {removed:?}: remove these modules from FORBIDDEN in tests/architecture.rs"
    );
    assert_eq!(ALL_BUT_LOG.len() + 1, listed.len(), "ALL_BUT_LOG in tests/architecture.rs lacks a module");
    for named in FORBIDDEN.iter().flat_map(|(_, forbidden)| *forbidden) {
        assert!(
            listed.contains(named),
            "FORBIDDEN in tests/architecture.rs names {named}, which is not a module"
        );
    }
}

#[test]
fn dependencies_are_used_only_by_their_modules() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut breaches = Vec::new();
    for (module, _) in FORBIDDEN {
        for file in files_of(&source, module) {
            let text = fs::read_to_string(&file).expect("a readable file");
            for (dependency, modules) in RESERVED {
                if !modules.contains(module) && names_dependency(&text, dependency) {
                    breaches.push(format!("{}: {module} uses {dependency}", file.display()));
                }
            }
        }
    }
    assert_eq!(breaches, [""; 0]);
}

#[test]
fn each_dependency_is_reserved_or_shared() {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"));
    let manifest = manifest.expect("a readable file");
    let (_, dependencies) = manifest.split_once("\n[dependencies]\n").expect("a section");
    let (dependencies, _) = dependencies.split_once("\n[").expect("another section");
    let is_name = |line: &&str| !line.is_empty() && !line.starts_with('#');
    let declared: BTreeSet<_> = dependencies
        .lines()
        .filter(is_name)
        .filter_map(|line| Some(line.split_once([' ', '.'])?.0.replace('-', "_")))
        .collect();
    let listed = RESERVED.iter().map(|(dependency, _)| dependency).chain(SHARED);
    let listed: BTreeSet<_> = listed.map(|dependency| (*dependency).to_owned()).collect();
    assert_eq!(declared, listed, "add a new dependency to RESERVED or SHARED in tests/architecture.rs");
}

/// Whether the code names a dependency in a path, e.g. `ureq::Agent`.
fn names_dependency(text: &str, dependency: &str) -> bool {
    let path = format!("{dependency}::");
    text.match_indices(&path).any(|(place, _)| {
        let before = text[..place].chars().next_back();
        !before.is_some_and(|character| character.is_alphanumeric() || matches!(character, '_' | ':'))
    })
}

#[test]
fn only_one_module_reads_yaml() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut readers = Vec::new();
    collect_files(&source, &mut readers);
    readers.retain(|file| fs::read_to_string(file).expect("a readable file").contains("serde_yaml::"));
    assert_eq!(readers, [source.join("config/yaml.rs")]);
}

/// Returns `module.rs` and all files in the folder `module`.
fn files_of(source: &Path, module: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let file = source.join(format!("{module}.rs"));
    if file.exists() {
        files.push(file);
    }
    if source.join(module).exists() {
        collect_files(&source.join(module), &mut files);
    }
    files
}

fn collect_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable folder").path();
        if path.is_dir() {
            collect_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Returns the modules named after `crate::`, alone or in braces, each with the number of its line.
fn used_modules(text: &str) -> Vec<(usize, String)> {
    let mut used = Vec::new();
    for (start, _) in text.match_indices("crate::") {
        let rest = &text[start + "crate::".len()..];
        let names = match rest.strip_prefix('{') {
            Some(group) => top_level_names(group),
            None => vec![name_at_start(rest)],
        };
        let number = text[..start].lines().count();
        used.extend(names.into_iter().map(|name| (number, name)));
    }
    used
}

/// Returns the first segment of each path in braces: `api::{a, b}, feed, output::c};` → api, feed, output.
fn top_level_names(group: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut depth = 0;
    let mut is_at_start = true;
    for (place, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => is_at_start = true,
            _ if is_at_start && !character.is_whitespace() => {
                names.push(name_at_start(&group[place..]));
                is_at_start = false;
            }
            _ => {}
        }
    }
    names
}

fn name_at_start(text: &str) -> String {
    text.chars().take_while(|character| character.is_alphanumeric() || *character == '_').collect()
}

#[test]
fn finds_imports_in_every_form() {
    let text = "use crate::{\n    api::{Client, token},\n    feed,\n    output::Output,\n};\nlet x = crate::disk::sync();";
    let names: Vec<_> =
        used_modules(text).into_iter().map(|(number, name)| format!("{number} {name}")).collect();
    assert_eq!(names, ["1 api", "1 feed", "1 output", "6 disk"]);
}
