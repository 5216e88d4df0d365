//! The tenants' values from four sources: the environment's overrides, the second file, the configuration, and the
//! environment's completions. The first that has a key decides its value.

use std::collections::{HashMap, HashSet};

use super::{
    mistake::{Origin, Place},
    schema::{self, CREDENTIALS},
    values::Section,
    walk::{Layer, Walk},
    yaml::{Document, Node},
};

/// Keys that a variable overrides. Its name is the key in capitals.
const OVERRIDDEN: [&str; 3] = ["tenant_id", "client_id", "client_secret"];

/// Keys that a variable completes. Its name is [`AZURE`] and the key in capitals.
const COMPLETED: [&str; 3] = ["tenant_id", "client_id", "federated_token_file"];

/// The prefix of the variables that Kubernetes' workload identity sets in a pod.
///
/// Source: "Azure AD Workload Identity", section "Mutating Admission Webhook".
const AZURE: &str = "AZURE_";

/// The values that the environment has for a single tenant.
pub(super) struct Variables {
    /// Set for this program. With several tenants they are a mistake.
    overrides: Vec<(String, Node)>,
    /// Set for all programs of a pod. With several tenants they have no effect.
    completions: Vec<(String, Node)>,
}

impl Variables {
    pub(super) fn read(environment: &dyn Fn(&str) -> Option<String>) -> Self {
        let entries = |prefix: &str, keys: [&str; 3]| {
            let entry = |key: &str| {
                let value = environment(&format!("{prefix}{}", key.to_uppercase()))?;
                (!value.is_empty()).then(|| (key.to_owned(), Node::Text(value)))
            };
            keys.into_iter().filter_map(entry).collect()
        };
        Self { overrides: entries("", OVERRIDDEN), completions: entries(AZURE, COMPLETED) }
    }

    /// The variables without which they do not make up a tenant.
    fn missing(&self) -> Vec<String> {
        let has = |keys: &&[&str]| {
            self.overrides.iter().chain(&self.completions).any(|(key, _)| keys.contains(&key.as_str()))
        };
        let needed = [&["tenant_id"][..], &["client_id"], &["client_secret", "federated_token_file"]];
        needed.into_iter().filter(|keys| !has(keys)).map(|keys| keys[0].to_uppercase()).collect()
    }
}

/// A tenant before its values are read.
struct Tenant<'a> {
    place: Place<'a>,
    layers: Vec<Layer<'a>>,
}

impl Tenant<'_> {
    /// The id in its files, in lower case.
    fn id(&self, walk: &Walk) -> Option<String> {
        let (node, place) = self.layers.iter().find_map(|layer| layer.value("tenant_id"))?;
        Some(folded(&walk.entry(node, place).text_if_valid()?))
    }
}

/// Reads the tenants, one after the other: the values of all of them at once would take much memory.
pub(super) fn tenants<'w, 'a>(
    walk: &'w Walk<'a>,
    document: &'a Document,
    credentials: Option<&'a Document>,
    variables: &'a Variables,
) -> impl Iterator<Item = Section<'a>> + use<'w, 'a> {
    let mut tenants = listed(walk, document);
    let root = Layer::new(&document.entries, Place::root(Origin::File(document)));
    let is_empty = |node: &Node| matches!(node, Node::List(items) if items.is_empty());
    if root.value("tenants").is_none_or(|(node, _)| is_empty(node)) {
        let place = root.place.key("tenants");
        let missing = variables.missing();
        if missing.is_empty() {
            tenants.push(Tenant { place, layers: Vec::new() });
        } else {
            let text = format!("is missing; list a tenant, or set {} in the environment", missing.join(", "));
            walk.report.mistake(&place, text);
        }
    }
    if let Some(credentials) = credentials {
        merge(walk, &mut tenants, listed(walk, credentials), variables);
    }
    apply_variables(walk, &mut tenants, variables);
    tenants.into_iter().map(|tenant| walk.section(schema::TENANT, tenant.place, &tenant.layers))
}

/// The tenants that a file lists.
fn listed<'a>(walk: &Walk<'a>, document: &'a Document) -> Vec<Tenant<'a>> {
    let root = Layer::new(&document.entries, Place::root(Origin::File(document)));
    let Some((node, place)) = root.value("tenants") else { return Vec::new() };
    let items = walk.entry(node, place).items("begin each of them with `- `").unwrap_or_default();
    let tenant = |entry: super::entry::Entry<'_, 'a>| match entry.node {
        Node::Map(entries) => {
            let layers = vec![Layer::new(entries, entry.place.clone())];
            Some(Tenant { place: entry.place, layers })
        }
        other => {
            entry.mistake(format!(
                "must be a map of keys, but is {}; write them as `key: value`",
                other.kind()
            ));
            None
        }
    };
    items.into_iter().filter_map(tenant).collect()
}

/// Puts each entry of the second file before the values of the tenant with the same id. `TENANT_ID` of the environment
/// already says which tenant a single one is.
fn merge<'a>(walk: &Walk<'a>, tenants: &mut [Tenant<'a>], entries: Vec<Tenant<'a>>, variables: &Variables) {
    let mut by_id: HashMap<String, usize> = HashMap::new();
    for (index, tenant) in tenants.iter().enumerate() {
        if let Some(id) = tenant.id(walk) {
            by_id.entry(id).or_insert(index);
        }
    }
    let single =
        variables.overrides.iter().find(|(key, _)| key == "tenant_id").filter(|_| tenants.len() == 1);
    if let Some((_, Node::Text(id))) = single {
        by_id = HashMap::from([(folded(id), 0)]);
    }
    let mut merged: HashSet<String> = HashSet::new();
    for entry in entries {
        let place = entry.place.key("tenant_id");
        let Some(id) = entry.id(walk) else {
            if entry.layers[0].value("tenant_id").is_none() {
                walk.report.mistake(&place, "is missing; name the tenant of the configuration that is meant");
            }
            continue;
        };
        match by_id.get(&id) {
            _ if merged.contains(&id) => {
                walk.report.mistake(&place, "repeats a tenant; keep one of them");
            }
            Some(index) => {
                tenants[*index].layers.splice(..0, entry.layers);
            }
            None => walk.report.mistake(&place, "is not a tenant of the configuration; list it there too"),
        }
        merged.insert(id);
    }
}

/// Adds the values of the environment to a single tenant. A credential of the environment replaces any other one, or
/// completes a tenant without one.
fn apply_variables<'a>(walk: &Walk<'a>, tenants: &mut [Tenant<'a>], variables: &'a Variables) {
    let layer = |entries: &'a [_], prefix| Layer::new(entries, Place::root(Origin::Environment(prefix)));
    let (overrides, mut completions) =
        (layer(&variables.overrides, ""), layer(&variables.completions, AZURE));
    match tenants {
        [] => {}
        [single] => {
            let layers = &mut single.layers;
            if overrides.value("client_secret").is_some() {
                for layer in layers.iter_mut() {
                    layer.hidden = &CREDENTIALS;
                }
                completions.hidden = &CREDENTIALS;
            } else if CREDENTIALS.iter().any(|key| layers.iter().any(|layer| layer.value(key).is_some())) {
                completions.hidden = &CREDENTIALS;
            }
            layers.insert(0, overrides);
            layers.push(completions);
        }
        several => {
            for (key, _) in &variables.overrides {
                let text = format!("overrides a single tenant, but there are {}; unset it", several.len());
                walk.report.mistake(&overrides.place.key(key), text);
            }
        }
    }
}

fn folded(id: &str) -> String {
    id.trim().to_ascii_lowercase()
}
