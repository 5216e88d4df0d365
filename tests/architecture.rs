//! Which module may use which other one: the table here is compared with the `use` lines and paths of the code.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The modules that do the work. The vocabulary uses none of them.
const WORKING: &[&str] =
    &["api", "output", "state", "pass", "report", "config", "check", "cli", "commands", "exit"];

/// The vocabulary that reads its settings from `config`.
const CONFIGURED: &[&str] = &["api", "output", "state", "pass", "report", "check", "cli", "commands", "exit"];

/// Every module but `log`, which the others write to.
const EVERY_OTHER: &[&str] = &[
    "api", "body", "check", "chunks", "cli", "clock", "commands", "config", "csv", "delivery", "disk",
    "error", "exit", "feed", "filter", "json", "limits", "login", "network", "output", "pass", "records",
    "redact", "report", "state", "suggest", "time", "units",
];

/// What each module of the library must not use.
const FORBIDDEN: &[(&str, &[&str])] = &[
    ("cli", &[]),
    ("commands", &[]),
    ("pass", &["check", "cli", "commands", "units"]),
    ("check", &["pass", "cli", "commands"]),
    ("api", &["output", "state", "pass", "report", "check", "cli", "commands", "exit"]),
    ("output", &["api", "state", "pass", "report", "check", "cli", "commands", "exit"]),
    ("state", &["api", "output", "pass", "report", "check", "cli", "commands", "exit"]),
    (
        "config",
        &["api", "output", "state", "pass", "report", "check", "cli", "commands", "exit", "login", "network"],
    ),
    ("report", &["api", "output", "pass", "check", "cli", "commands", "exit"]),
    ("body", WORKING),
    ("chunks", WORKING),
    ("clock", WORKING),
    ("csv", WORKING),
    ("delivery", WORKING),
    ("disk", WORKING),
    (
        "error",
        &[
            "api", "output", "state", "pass", "report", "config", "check", "cli", "commands", "exit", "log",
            "disk",
        ],
    ),
    ("exit", &["cli", "commands"]),
    ("feed", WORKING),
    ("filter", WORKING),
    ("json", WORKING),
    ("limits", WORKING),
    ("log", EVERY_OTHER),
    ("login", CONFIGURED),
    ("network", CONFIGURED),
    ("records", WORKING),
    ("redact", WORKING),
    ("suggest", WORKING),
    ("time", WORKING),
    ("units", WORKING),
];

/// The dependencies that only some modules may use, with these modules. In particular, `config` uses no HTTP client and no
/// TLS.
const RESERVED: &[(&str, &[&str])] = &[
    ("argh", &["cli"]),
    ("crossbeam_channel", &["pass", "output"]),
    ("env_logger", &["log"]),
    ("flate2", &["network", "output"]),
    ("fs2", &["state"]),
    ("indicatif", &["report"]),
    ("rayon", &["pass"]),
    ("ring", &["network", "login", "output"]),
    ("rmpv", &["output"]),
    ("rustix", &["disk", "output"]),
    ("rustls", &["network", "output"]),
    ("rustls_native_certs", &["network"]),
    ("rustls_pki_types", &["network", "login", "output"]),
    ("serde_yaml", &["config"]),
    ("signal_hook", &["pass", "check", "disk"]),
    ("strsim", &["suggest"]),
    ("ureq", &["network", "api", "output", "time"]),
];

/// The dependencies that every module may use.
const SHARED: &[&str] =
    &["base64", "fastrand", "jiff", "log", "memchr", "serde", "serde_json", "thiserror", "xxhash_rust"];

#[test]
fn no_module_uses_what_it_must_not() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut breaches = Vec::new();
    for (module, forbidden) in FORBIDDEN {
        for file in files_of(&source, module) {
            let text = fs::read_to_string(&file).expect("a readable file");
            for (number, used) in used_modules(&text) {
                if forbidden.contains(&used.as_str()) {
                    breaches.push(format!("{}:{number}: {module} uses {used}", file.display()));
                }
            }
        }
    }
    assert_eq!(breaches, [""; 0]);
}

#[test]
fn each_module_is_in_the_table_of_what_it_must_not_use() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let library = fs::read_to_string(source.join("lib.rs")).expect("a readable file");
    let declared = library.lines().filter_map(|line| {
        let line = line.strip_prefix("pub ").unwrap_or(line);
        line.strip_prefix("mod ")?.strip_suffix(';')
    });
    let declared: BTreeSet<_> = declared.collect();
    let listed: BTreeSet<_> = FORBIDDEN.iter().map(|(module, _)| *module).collect();
    let new: Vec<_> = declared.difference(&listed).collect();
    assert!(
        new.is_empty(),
        "{new:?} of src/lib.rs: add to FORBIDDEN in tests/architecture.rs what they must not use"
    );
    let gone: Vec<_> = listed.difference(&declared).collect();
    assert!(
        gone.is_empty(),
        "src/lib.rs lacks {gone:?}: remove them from FORBIDDEN in tests/architecture.rs"
    );
    assert_eq!(EVERY_OTHER.len() + 1, listed.len(), "EVERY_OTHER in tests/architecture.rs lacks a module");
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

/// `module.rs` and everything in the folder `module`.
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

/// The modules named after `crate::`, alone or in braces, with the number of the line on which each is named.
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

/// `api::{a, b}, feed, output::c};` → api, feed, output
fn top_level_names(group: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut depth = 0;
    let mut is_name_due = true;
    for (place, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => is_name_due = true,
            _ if is_name_due && !character.is_whitespace() => {
                names.push(name_at_start(&group[place..]));
                is_name_due = false;
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
fn the_names_after_crate_are_found_in_any_form() {
    let text = "use crate::{\n    api::{Client, token},\n    feed,\n    output::Output,\n};\nlet x = crate::disk::sync();";
    let names: Vec<_> =
        used_modules(text).into_iter().map(|(number, name)| format!("{number} {name}")).collect();
    assert_eq!(names, ["1 api", "1 feed", "1 output", "6 disk"]);
}
