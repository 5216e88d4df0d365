//! The second file.

use super::*;

const SETTINGS: &str = "\
tenants:
  - tenant_id: 0a1b2c3d-0000-4000-8000-00000000000a
    client_id: 0a1b2c3d-0000-4000-8000-0000000000c1
  - tenant_id: 0a1b2c3d-0000-4000-8000-00000000000b
    client_id: 0a1b2c3d-0000-4000-8000-0000000000c1
    client_secret: settings
output: { stdout: { enabled: true } }
";

#[test]
fn merges_entries_by_tenant_id() {
    let trial = Trial::new(SETTINGS).credentials(
        "tenants:\n  - { tenant_id: 0A1B2C3D-0000-4000-8000-00000000000B, client_secret: b }\n  \
             - { tenant_id: 0a1b2c3d-0000-4000-8000-00000000000a, client_secret: a, name: contoso }\n",
    );
    let tenants = trial.config().tenants;
    assert_eq!((secret(&tenants[0]), tenants[0].label()), ("a", "contoso"));
    assert_eq!((secret(&tenants[1]), &*tenants[1].tenant_id), ("b", OTHER));
}

#[test]
fn key_without_a_value_overrides_nothing() {
    let trial = Trial::new(&whole(""))
        .credentials(&format!("tenants: [ {{ tenant_id: {TENANT}, client_secret: }} ]"));
    assert_eq!(secret(&trial.config().tenants[0]), "hunter2~");
}

#[test]
fn environment_identifies_the_single_tenant() {
    let trial = Trial::new(&whole(""))
        .set("TENANT_ID", OTHER)
        .credentials(&format!("tenants: [ {{ tenant_id: {OTHER}, client_secret: b }} ]"));
    let tenant = trial.config().tenants.remove(0);
    assert_eq!((&*tenant.tenant_id, secret(&tenant)), (OTHER, "b"));
}

#[test]
fn lists_the_mistakes_of_both_files() {
    let trial = Trial::new(SETTINGS).credentials(
        "\
enabled: true
tenants:
  - tenant_id: 0a1b2c3d-0000-4000-8000-00000000000c
    client_secret: c
  - client_secret: d
  - tenant_id: 0a1b2c3d-0000-4000-8000-00000000000b
    client_secert: b
    certificate: { file: app.pem }
  - tenant_id: 0a1b2c3d-0000-4000-8000-00000000000b
",
    );
    assert_eq!(
        trial.mistakes(),
        [
            "config.yaml:2:5: tenants[0]: has no credential; add one of client_secret, client_secret_file, \
                 certificate, federated_token_file, managed_identity",
            "credentials.yaml:1:1: enabled: unknown key \"enabled\"; known keys here: tenants",
            "credentials.yaml:3:5: tenants[0].tenant_id: is not a tenant of the configuration; list it there too",
            "credentials.yaml:5:5: tenants[1].tenant_id: is missing; name the tenant of the configuration that is meant",
            "credentials.yaml:7:5: tenants[2].client_secert: unknown key \"client_secert\"; did you mean \"client_secret\"?",
            "credentials.yaml:8:5: tenants[2].certificate: is a second credential; keep either it or \
                 tenants[1].client_secret",
            "credentials.yaml:9:5: tenants[3].tenant_id: repeats a tenant; keep one of them",
        ]
    );
}

#[test]
fn unreadable_second_file_causes_no_further_mistakes() {
    let mut trial = Trial::new(&format!("{SETTINGS}colour: red\n"));
    trial.has_credentials = true;
    assert_eq!(
        trial.mistakes(),
        [
            "config.yaml:8:1: colour: unknown key \"colour\"; known keys here: enabled, interval, only_future_events, tenants, \
                 subscriptions, collect, curl_max_size, output, log, metrics, proxy, ca_file",
            "credentials.yaml: cannot be read: No such file or directory (os error 2); check the path",
        ]
    );
}
