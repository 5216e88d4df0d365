//! Variables: within values, and instead of the single tenant's values.

use super::*;

#[test]
fn substitutes_variables_of_every_type() {
    let trial = Trial::new(&whole(
        "collect: { maxThreads: '${THREADS}', maxMemory: '${MIB}M', workingDir: '/srv/${NAME}' }\n\
         log: { debug: '${DEBUG}' }\ninterval: ${MINUTES}m",
    ))
    .set("THREADS", "7")
    .set("MIB", "2")
    .set("NAME", "a")
    .set("DEBUG", "true")
    .set("MINUTES", "10");
    let config = trial.config();
    assert_eq!((config.collect.max_threads, config.collect.max_memory), (7, 2 << 20));
    assert_eq!(config.collect.working_dir, Path::new("/srv/a"));
    assert!(config.log.debug);
    assert_eq!(config.interval, Duration::from_secs(600));
}

#[test]
fn overrides_the_single_tenant_without_substitution() {
    let trial = Trial::new(&whole("").replace("client_secret:", "client_secret_file:"))
        .set("TENANT_ID", OTHER)
        .set("CLIENT_ID", TENANT)
        .set("CLIENT_SECRET", "p${ss}");
    let tenant = trial.config().tenants.remove(0);
    assert_eq!((&*tenant.tenant_id, &*tenant.client_id, &*tenant.publisher_id), (OTHER, TENANT, OTHER));
    assert_eq!(secret(&tenant), "p${ss}", "the environment replaces the other kind of credential");
}

#[test]
fn three_variables_define_a_tenant() {
    for tenants in ["", "tenants:\n", "tenants: []\n"] {
        let trial = Trial::new(&format!("{tenants}{END}"))
            .set("TENANT_ID", TENANT)
            .set("CLIENT_ID", CLIENT)
            .set("CLIENT_SECRET", "hunter2~");
        assert_eq!(&*trial.config().tenants[0].tenant_id, TENANT, "{tenants}");
    }
    let trial = Trial::new(END).set("TENANT_ID", TENANT).set("CLIENT_SECRET", "");
    assert_eq!(
        trial.mistakes(),
        [
            "config.yaml:1:1: tenants: is missing; list a tenant, or set CLIENT_ID, CLIENT_SECRET in the environment"
        ]
    );
}

#[test]
fn empty_variables_override_nothing() {
    let trial = Trial::new(&whole("")).set("TENANT_ID", "").set("CLIENT_SECRET", "");
    assert_eq!(&*trial.config().tenants[0].tenant_id, TENANT);
}

#[test]
fn rejects_overriding_several_tenants() {
    let text =
        format!("{BEGIN}  - tenant_id: {OTHER}\n    client_id: {CLIENT}\n    client_secret: hunter2~\n{END}");
    assert_eq!(
        Trial::new(&text).set("CLIENT_ID", CLIENT).set("CLIENT_SECRET", "x").mistakes(),
        [
            "environment: CLIENT_ID: overrides a single tenant, but there are 2; unset it",
            "environment: CLIENT_SECRET: overrides a single tenant, but there are 2; unset it",
        ]
    );
}

#[test]
fn names_the_variable_of_a_mistake() {
    assert_eq!(
        Trial::new(&whole("")).set("TENANT_ID", "contoso").mistakes(),
        ["environment: TENANT_ID: is not a GUID such as 0a1b2c3d-4e5f-6789-abcd-ef0123456789; fill in the \
             tenant_id: Entra admin center, Overview, Tenant ID"]
    );
    assert_eq!(
        Trial::new(&whole("log: { path: '${A}/${B}' }")).mistakes(),
        [
            "config.yaml:5:8: log.path: the environment variable A is not set; set it, or write $${ for a literal ${",
            "config.yaml:5:8: log.path: the environment variable B is not set; set it, or write $${ for a literal ${",
        ]
    );
}

/// What workload identity gives to a pod.
fn in_a_pod(config: &str) -> Trial {
    Trial::new(config)
        .set("AZURE_TENANT_ID", OTHER)
        .set("AZURE_CLIENT_ID", CLIENT)
        .set("AZURE_FEDERATED_TOKEN_FILE", "/var/run/token")
}

fn token_file(tenant: &Tenant) -> &Path {
    match &tenant.credential {
        Credential::FederatedTokenFile(path) => path,
        other => panic!("{other:?}"),
    }
}

#[test]
fn workload_identity_defines_or_completes_a_tenant() {
    for tenants in ["", "tenants: [{ name: contoso }]\n"] {
        let tenant = in_a_pod(&format!("{tenants}{END}")).config().tenants.remove(0);
        assert_eq!((&*tenant.tenant_id, &*tenant.client_id), (OTHER, CLIENT), "{tenants}");
        assert_eq!(token_file(&tenant), Path::new("/var/run/token"), "{tenants}");
    }
    let without_credential = whole("").replace("    client_secret: hunter2~\n", "");
    let tenant = in_a_pod(&without_credential).config().tenants.remove(0);
    assert_eq!((&*tenant.tenant_id, token_file(&tenant)), (TENANT, Path::new("/var/run/token")));
}

#[test]
fn workload_identity_overrides_nothing() {
    let tenant = in_a_pod(&whole("")).config().tenants.remove(0);
    assert_eq!((&*tenant.tenant_id, secret(&tenant)), (TENANT, "hunter2~"));
    let trial = in_a_pod(END).set("TENANT_ID", TENANT).set("CLIENT_SECRET", "of the environment");
    let tenant = trial.config().tenants.remove(0);
    assert_eq!((&*tenant.tenant_id, secret(&tenant)), (TENANT, "of the environment"));
    let other_file = whole("").replace("client_secret: hunter2~", "federated_token_file: mine");
    assert_eq!(token_file(&in_a_pod(&other_file).config().tenants[0]), Path::new("mine"));
    let several = format!("{BEGIN}{}{END}", BEGIN.replace("tenants:\n", "").replace(TENANT, OTHER));
    assert_eq!(in_a_pod(&several).config().tenants.len(), 2);
}

#[test]
fn reports_the_missing_parts_of_a_workload_identity() {
    let trial =
        Trial::new(END).set("AZURE_FEDERATED_TOKEN_FILE", "/var/run/token").set("AZURE_TENANT_ID", "contoso");
    assert_eq!(
        trial.mistakes(),
        ["config.yaml:1:1: tenants: is missing; list a tenant, or set CLIENT_ID in the environment"]
    );
    assert_eq!(
        trial.set("AZURE_CLIENT_ID", CLIENT).mistakes(),
        [
            "environment: AZURE_TENANT_ID: is not a GUID such as 0a1b2c3d-4e5f-6789-abcd-ef0123456789; fill in the \
             tenant_id: Entra admin center, Overview, Tenant ID"
        ]
    );
}
