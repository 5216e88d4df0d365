//! Who may use whom, held against the `use` lines and paths of the code.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// What each part of the library must not use.
const FORBIDDEN: [(&str, &[&str]); 24] = [
    ("api", &["output", "state", "pass", "report", "check", "cli"]),
    ("output", &["api", "state", "pass", "report", "check", "cli"]),
    ("state", &["api", "output", "pass", "report", "check", "cli"]),
    ("config", &["api", "output", "state", "pass", "report", "check", "cli"]),
    ("report", &["api", "output", "pass", "check", "cli"]),
    ("records", &["api", "output", "state", "pass", "report", "config", "check", "cli"]),
    ("body", &["api", "output", "state", "pass", "report", "config", "check", "cli"]),
    ("clock", &["api", "output", "state", "pass", "report", "config", "check", "cli"]),
    ("csv", &["api", "output", "state", "pass", "report", "config", "check", "cli"]),
    ("filter", &["api", "output", "state", "pass", "report", "config", "check", "cli"]),
    ("json", &["api", "output", "state", "pass", "report", "config", "check", "cli"]),
    ("feed", &["api", "output", "state", "pass", "report", "config", "check", "cli"]),
    ("delivery", &["api", "output", "state", "pass", "report", "config", "check", "cli"]),
    ("limits", &["api", "output", "state", "pass", "report", "config", "check", "cli"]),
    ("time", &["api", "output", "state", "pass", "report", "config", "check", "cli"]),
    ("disk", &["api", "output", "state", "pass", "report", "config", "check", "cli"]),
    ("login", &["api", "output", "state", "pass", "report", "check", "cli"]),
    ("network", &["api", "output", "state", "pass", "report", "check", "cli"]),
    ("redact", &["api", "output", "state", "pass", "report", "config", "check", "cli"]),
    ("suggest", &["api", "output", "state", "pass", "report", "config", "check", "cli"]),
    ("units", &["api", "output", "state", "pass", "report", "config", "check", "cli"]),
    ("error", &["api", "output", "state", "pass", "report", "config", "check", "cli", "exit", "log", "disk"]),
    (
        "log",
        &[
            "api", "output", "state", "pass", "report", "config", "check", "cli", "exit", "disk", "error",
            "limits",
        ],
    ),
    ("pass", &["check", "cli", "units"]),
];

#[test]
fn no_part_uses_what_it_must_not() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut breaches = Vec::new();
    for (part, forbidden) in FORBIDDEN {
        let files = files_of(&source, part);
        assert!(!files.is_empty(), "no part {part}");
        for file in files {
            let text = fs::read_to_string(&file).expect("a readable file");
            for (number, used) in used_parts(&text) {
                if forbidden.contains(&used.as_str()) || used == "commands" {
                    breaches.push(format!("{}:{number}: {part} uses {used}", file.display()));
                }
            }
        }
    }
    assert_eq!(breaches, [""; 0]);
}

#[test]
fn only_one_module_reads_yaml() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut readers = Vec::new();
    collect_files(&source, &mut readers);
    readers.retain(|file| fs::read_to_string(file).expect("a readable file").contains("serde_yaml::"));
    assert_eq!(readers, [source.join("config/yaml.rs")]);
}

/// `part.rs` and everything in the folder `part`.
fn files_of(source: &Path, part: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let file = source.join(format!("{part}.rs"));
    if file.exists() {
        files.push(file);
    }
    if source.join(part).exists() {
        collect_files(&source.join(part), &mut files);
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

/// The parts named behind `crate::`, alone or in braces, with the number of the line on which each is named.
fn used_parts(text: &str) -> Vec<(usize, String)> {
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
fn the_names_behind_crate_are_found_in_any_form() {
    let text = "use crate::{\n    api::{Client, token},\n    feed,\n    output::Output,\n};\nlet x = crate::disk::mend();";
    let names: Vec<_> =
        used_parts(text).into_iter().map(|(number, name)| format!("{number} {name}")).collect();
    assert_eq!(names, ["1 api", "1 feed", "1 output", "6 disk"]);
}
