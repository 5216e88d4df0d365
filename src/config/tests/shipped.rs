//! The files in `config/`.

use std::collections::BTreeSet;

use super::*;
use crate::config::{
    schema,
    yaml::{Document, Node},
};

const CONFIG: &str = include_str!("../../../config/config.yaml");
const TEMPLATE: &str = include_str!("../../../config/config.production.template.yaml");
const TRIAL: &str = include_str!("../../../config/config-test.yaml");
const CREDENTIALS: &str = include_str!("../../../config/credentials.yaml.example");

fn filled_in(text: &str) -> String {
    text.replace("YOUR-TENANT-ID", TENANT)
        .replace("YOUR-CLIENT-ID", CLIENT)
        .replace("YOUR-CLIENT-SECRET", "hunter2~")
}

/// With every option that is off switched on: `#name: …` without a space behind the `#`.
fn uncommented(text: &str) -> String {
    let uncomment = |line: &str| match line.split_once('#') {
        Some((indent, option)) if indent.trim().is_empty() && !option.starts_with(' ') => {
            format!("{indent}{option}\n")
        }
        Some((indent, option)) if indent.trim().is_empty() && option.starts_with("  ") => {
            format!("{indent}{option}\n")
        }
        _ => format!("{line}\n"),
    };
    text.lines().map(uncomment).collect()
}

#[test]
fn short_file_lacks_exactly_three_values() {
    for text in [CONFIG, TEMPLATE] {
        let mistakes = Trial::new(text).mistakes();
        let keys: Vec<_> = mistakes.iter().map(|line| line.split(": ").nth(1).unwrap()).collect();
        assert_eq!(keys, ["tenants[0].tenant_id", "tenants[0].client_id", "tenants[0].client_secret"]);
        assert!(mistakes.iter().all(|line| line.contains("is still a placeholder; fill in the ")));
    }
}

#[test]
fn short_file_works_with_three_values() {
    let config = Trial::new(&filled_in(CONFIG)).config();
    assert!(config.enabled);
    assert_eq!(config.output.file.unwrap().path, Path::new("data/audit.json"));
    assert_eq!(config.collect.working_dir, Path::new("data"));
}

#[test]
fn template_shows_the_defaults() {
    let template = Trial::new(&filled_in(TEMPLATE)).config();
    let mut least = Trial::new(&filled_in(CONFIG)).config();
    least.collect.working_dir.clone_from(&template.collect.working_dir);
    assert_eq!(format!("{:?}", template.collect), format!("{:?}", least.collect));
    assert_eq!(format!("{:?}", template.tenants), format!("{:?}", least.tenants));
    assert_eq!(template.interval, least.interval);
    assert_eq!(template.only_future_events, least.only_future_events);
}

#[test]
fn trial_file_works_unchanged() {
    let config = Trial::new(TRIAL).config();
    assert!(config.log.debug);
    assert!(config.tenants[0].api_url.starts_with("http://127.0.0.1"));
}

#[test]
fn second_file_completes_the_short_file() {
    let settings = filled_in(CONFIG).replace("    client_secret:", "    #client_secret:");
    let config = Trial::new(&settings).credentials(&filled_in(CREDENTIALS)).config();
    assert_eq!(secret(&config.tenants[0]), "hunter2~");
}

/// `UPDATE_TEMPLATE=1 cargo test --lib the_template_is` writes the file.
#[test]
fn the_template_is_written_from_the_schema() {
    if std::env::var_os("UPDATE_TEMPLATE").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/config.production.template.yaml");
        fs::write(path, template()).unwrap();
        return;
    }
    let differs = "config/config.production.template.yaml differs from the schema; write it again with \
                   UPDATE_TEMPLATE=1 cargo test --lib the_template_is";
    assert!(TEMPLATE == template(), "{differs}");
}

#[test]
fn template_names_every_key_and_no_other() {
    let trial = Trial::new("");
    let path = trial.file("template.yaml", uncommented(TEMPLATE), 0o600);
    let document = Document::read(&path).unwrap();
    let known: BTreeSet<_> = schema::sections(schema::ROOT)
        .into_iter()
        .flat_map(|(section, keys)| keys.iter().map(move |key| (section.clone(), key)))
        .filter(|(_, key)| !key.is_older())
        .map(|(section, key)| format!("{section}{}{}", if section.is_empty() { "" } else { "." }, key.name))
        .collect();
    let mut named = BTreeSet::new();
    for (key, node) in &document.entries {
        name_keys(key, node, &mut named);
    }
    let free =
        ["collect.filter.", "output.http.headers.", "output.http.header_files.", "output.kafka.options."];
    named.retain(|key| !free.iter().any(|prefix| key.starts_with(prefix)));
    assert_eq!(named, known);
}

fn name_keys(path: &str, node: &Node, names: &mut BTreeSet<String>) {
    names.insert(path.to_owned());
    let (items, path) = match node {
        Node::List(items) => (items.as_slice(), format!("{path}[]")),
        other => (std::slice::from_ref(other), path.to_owned()),
    };
    for item in items {
        let Node::Map(entries) = item else { continue };
        for (key, node) in entries {
            name_keys(&format!("{path}.{key}"), node, names);
        }
    }
}
