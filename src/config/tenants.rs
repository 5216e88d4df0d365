//! The tenants: those of the configuration, completed by a second file and by the environment.

use std::{
    collections::{HashMap, HashSet},
    ptr,
};

use super::{
    Cloud, Credential, Secret, Tenant,
    feeds::subscriptions,
    mistake::{Origin, Place},
    reading::Reading,
    scalar,
    section::{Layer, Section},
    url,
    value::Value,
    yaml::Node,
};
use crate::{feed::ContentType, limits::TENANT_NAME_CHARS};

/// Keys that a variable named like them, in capitals, overrides.
const OVERRIDDEN: [&str; 3] = ["tenant_id", "client_id", "client_secret"];

/// Keys that have their value from a variable named like them, in capitals and behind [`AZURE`], if from nowhere else.
const COMPLETED: [&str; 3] = ["tenant_id", "client_id", "federated_token_file"];

/// What Kubernetes' workload identity puts in front of the names of the variables that it gives to a pod.
///
/// Source: "Azure AD Workload Identity", section "Mutating Admission Webhook".
const AZURE: &str = "AZURE_";

const CLOUDS: [(&str, Cloud); 4] = [
    ("commercial", Cloud::Commercial),
    ("gcc", Cloud::Gcc),
    ("gcc-high", Cloud::GccHigh),
    ("dod", Cloud::Dod),
];

pub(super) const CREDENTIALS: [&str; 4] =
    ["client_secret", "client_secret_file", "certificate", "federated_token_file"];

const TENANT_ID_MEND: &str = "fill in the tenant_id: Entra admin center, Overview, Tenant ID";
const CLIENT_ID_MEND: &str = "fill in the client_id: App registrations, your app, Application (client) ID";
const CLIENT_SECRET_MEND: &str =
    "fill in the client_secret: your app, Certificates & secrets, the secret's Value";

/// The values that the environment has for a single tenant.
#[derive(Debug, Default)]
pub(super) struct Variables {
    /// Set for this program: they win over what the files say, and are a mistake where there are several tenants.
    overrides: Vec<(String, Node)>,
    /// Set for whatever runs here: they only add what is missing, and are nothing to several tenants.
    completions: Vec<(String, Node)>,
}

impl Variables {
    pub(super) fn read(reading: &Reading) -> Self {
        let entries = |prefix: &str, keys: [&str; 3]| {
            let entry = |key: &str| {
                let value = reading.variable(&format!("{prefix}{}", key.to_uppercase()))?;
                Some((key.to_owned(), Node::Text(value)))
            };
            keys.into_iter().filter_map(entry).collect()
        };
        Self { overrides: entries("", OVERRIDDEN), completions: entries(AZURE, COMPLETED) }
    }

    /// Whether one of these keys has a value.
    fn has(&self, keys: &[&str]) -> bool {
        self.overrides.iter().chain(&self.completions).any(|(key, _)| keys.contains(&key.as_str()))
    }

    /// The variables that lack for a tenant that is in no file.
    fn missing(&self) -> Vec<String> {
        let needed = [&["tenant_id"][..], &["client_id"], &["client_secret", "federated_token_file"]];
        needed.into_iter().filter(|keys| !self.has(keys)).map(|keys| keys[0].to_uppercase()).collect()
    }
}

/// All tenants. `credentials` is the second file's outermost section, `default` what is subscribed to unless a tenant
/// says otherwise.
pub(super) fn tenants<'a>(
    root: &Section<'a>,
    credentials: Option<&Section<'a>>,
    variables: &'a Variables,
    default: &[ContentType],
) -> Vec<Tenant> {
    let mut sections = root.sections("tenants");
    let entries = credentials.map(|root| root.sections("tenants")).unwrap_or_default();
    let is_listed = root
        .value("tenants")
        .is_some_and(|value| !matches!(value.node, Node::List(items) if items.is_empty()));
    let missing = variables.missing();
    if !is_listed && missing.is_empty() {
        sections.push(root.absent_item("tenants"));
    }
    if !is_listed && sections.is_empty() {
        let text = format!("is missing; list a tenant, or set {} in the environment", missing.join(", "));
        root.reading.mistake(&root.place.key("tenants"), text);
        // Read for nothing but its keys, so that they are known wherever they were written instead.
        tenant(&root.absent_item("tenants"), default);
    }
    let layer = |entries, prefix| Layer { entries, place: Place::root(Origin::Environment(prefix)) };
    let (overrides, completions) = (&variables.overrides, &variables.completions);
    if let ([single], false) = (sections.as_mut_slice(), completions.is_empty()) {
        single.underlay(layer(completions, AZURE));
    }
    let environment = layer(overrides, "");
    let single_id = overrides.iter().find(|(key, _)| key == "tenant_id").map(|(_, node)| node);
    merge(&mut sections, entries, single_id);
    match sections.as_mut_slice() {
        [] => {}
        [single] => {
            if !overrides.is_empty() {
                single.overlay([environment]);
            }
        }
        several => {
            for (key, _) in overrides {
                let text = format!("overrides a single tenant, but there are {}; unset it", several.len());
                root.reading.mistake(&environment.place.key(key), text);
            }
        }
    }
    let tenants: Vec<_> = sections.iter().map(|section| (section, tenant(section, default))).collect();
    refuse_doubles(&tenants);
    tenants.into_iter().filter_map(|(_, tenant)| tenant).collect()
}

/// Lays each entry of the second file over the tenant with the same id. The values of the environment come later, but
/// its `TENANT_ID` already says which tenant the single one is.
fn merge<'a>(sections: &mut [Section<'a>], entries: Vec<Section<'a>>, single_id: Option<&Node>) {
    let id = |section: &Section| section.peek("tenant_id")?.quiet_text().map(|text| folded(&text));
    let is_single = sections.len() == 1;
    let mut by_id: HashMap<String, usize> = HashMap::new();
    for (index, section) in sections.iter().enumerate() {
        if let Some(id) = id(section) {
            by_id.entry(id).or_insert(index);
        }
    }
    if let (Some(Node::Text(single)), true) = (single_id, is_single) {
        by_id = HashMap::from([(folded(single), 0)]);
    }
    let mut merged: HashSet<String> = HashSet::new();
    for entry in entries {
        let Some(entry_id) = id(&entry) else {
            entry.required("tenant_id", "say which tenant of the configuration is meant", Section::text);
            continue;
        };
        let place = entry.place.key("tenant_id");
        if merged.contains(&entry_id) {
            entry.reading.mistake(&place, "is the same tenant as one above; keep one of them");
            continue;
        }
        match by_id.get(&entry_id).map(|index| &mut sections[*index]) {
            Some(section) => section.overlay(entry.into_layers()),
            None => entry.reading.mistake(&place, "is no tenant of the configuration; list it there as well"),
        }
        merged.insert(entry_id);
    }
}

fn folded(id: &str) -> String {
    id.trim().to_ascii_lowercase()
}

fn tenant(section: &Section, default: &[ContentType]) -> Option<Tenant> {
    let app = app(section);
    let name = section.value("name").and_then(|value| name(&value));
    let cloud = section.choice("api_type", &CLOUDS).unwrap_or(Cloud::Commercial);
    let publisher_id = section
        .value("publisher_id")
        .and_then(|value| guid(&value, "fill in the publisher_id or remove the line for the tenant's own"));
    let login_url = section.value("login_url").and_then(|value| url::origin(&value));
    let api_url = section.value("api_url").and_then(|value| url::origin(&value));
    let subscriptions = subscriptions(section).unwrap_or_else(|| default.to_vec());
    let (tenant_id, client_id, credential) = app?;
    Some(Tenant {
        publisher_id: publisher_id.unwrap_or_else(|| tenant_id.clone()),
        tenant_id,
        client_id,
        credential,
        name,
        cloud,
        login_url: login_url.unwrap_or_else(|| cloud.login_url().to_owned()),
        api_url: api_url.unwrap_or_else(|| cloud.api_url().to_owned()),
        subscriptions,
    })
}

/// The app that logs in: its tenant, its id and what proves that it is us. `None` if any of them lacks or is wrong.
pub(super) fn app(section: &Section) -> Option<(String, String, Credential)> {
    let tenant_id = section
        .required("tenant_id", TENANT_ID_MEND, |section, key| guid(&section.value(key)?, TENANT_ID_MEND));
    let client_id = section
        .required("client_id", CLIENT_ID_MEND, |section, key| guid(&section.value(key)?, CLIENT_ID_MEND));
    let credential = credential(section);
    Some((tenant_id?, client_id?, credential?))
}

pub(super) fn guid(value: &Value, mend: &str) -> Option<String> {
    let text = value.text()?;
    if scalar::is_placeholder(&text) {
        value.mistake(format!("is still a placeholder; {mend}"));
        return None;
    }
    let guid = scalar::guid(&text);
    if guid.is_none() {
        // A secret that was written into the wrong line has other characters.
        let given = if is_id_or_domain(&text) { format!("{}: ", value.given()) } else { String::new() };
        value.mistake(format!("{given}must be a GUID such as 0a1b2c3d-4e5f-6789-abcd-ef0123456789; {mend}"));
    }
    guid
}

/// Whether a text is like a GUID with a slip in it, or a domain such as `contoso.onmicrosoft.com`.
fn is_id_or_domain(text: &str) -> bool {
    let text = text.trim();
    let is_id = text.bytes().all(|byte| byte.is_ascii_hexdigit() || b"-{} ".contains(&byte));
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    is_id || (text.contains('.') && text.split('.').all(is_label))
}

fn name(value: &Value) -> Option<String> {
    let text = value.text()?;
    let name = text.trim();
    if name.chars().any(char::is_control) || !TENANT_NAME_CHARS.contains(&name.chars().count()) {
        let most = TENANT_NAME_CHARS.end();
        value.mistake(format!(
            "{} must have at most {most} characters on one line; it appears in tags and in the log",
            value.given()
        ));
        return None;
    }
    Some(name.to_owned())
}

/// The one credential. `CLIENT_SECRET` from the environment stands for whatever the files have, and
/// `AZURE_FEDERATED_TOKEN_FILE` for none.
fn credential(section: &Section) -> Option<Credential> {
    let [secret, secret_file, certificate, token_file] = CREDENTIALS.map(|key| section.value(key));
    let certificate_keys = section.section("certificate");
    let certificate_file =
        certificate_keys.required("file", "name the certificate's PEM file", Section::pem_path);
    let key_file = certificate_keys.pem_path("key_file");

    if let Some(value) = secret.iter().find(|value| value.is_from_environment()) {
        return client_secret(value).map(Credential::Secret);
    }
    let given = [&secret, &secret_file, &certificate, &token_file].into_iter().flatten();
    let given: Vec<_> = given.filter(|value| !value.is_from_environment()).collect();
    if let [first, .., last] = given.as_slice() {
        let text = format!("is one credential too many; keep either it or {}", first.place.name());
        last.mistake(text);
        return None;
    }
    if let Some(value) = secret {
        client_secret(&value).map(Credential::Secret)
    } else if let Some(value) = secret_file {
        value.secret_file().map(Credential::Secret)
    } else if certificate.is_some() {
        certificate_keys.warn_of_exposed_key(if key_file.is_some() { "key_file" } else { "file" });
        Some(Credential::Certificate { file: certificate_file?, key_file })
    } else if let Some(value) = token_file {
        value.path_of_secret().map(Credential::FederatedTokenFile)
    } else {
        if section.owes() {
            section.mistake(format!("has no credential; add one of {}", CREDENTIALS.join(", ")));
        }
        None
    }
}

fn client_secret(value: &Value) -> Option<Secret> {
    let secret = value.secret()?;
    if scalar::is_placeholder(secret.reveal()) {
        value.mistake(format!("is still a placeholder; {CLIENT_SECRET_MEND}"));
        return None;
    }
    if scalar::guid(secret.reveal()).is_some() {
        value.reading.warn(&value.place, "looks like the secret's ID; logging in takes its Value");
    }
    Some(secret)
}

fn refuse_doubles(tenants: &[(&Section, Option<Tenant>)]) {
    let (mut ids, mut names) = (HashMap::new(), HashMap::new());
    for (section, tenant) in tenants {
        let Some(tenant) = tenant else { continue };
        let first: &Section = ids.entry(tenant.tenant_id.as_str()).or_insert(section);
        if !ptr::eq(first, *section) {
            let text = format!("is the same tenant as {}; keep one of them", first.place.name());
            section.reading.mistake(&section.place.key("tenant_id"), text);
        }
        let Some(name) = &tenant.name else { continue };
        let first: &Section = names.entry(name.as_str()).or_insert(section);
        if !ptr::eq(first, *section) {
            let text =
                format!("is the same name as that of {}; give each tenant its own", first.place.name());
            section.reading.mistake(&section.place.key("name"), text);
        }
    }
}
