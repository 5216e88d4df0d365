//! Managed identities: the endpoints of a virtual machine, of App Service and of Azure Arc, and what `check` says about each
//! failure. The endpoints are on 127.0.0.1, by the variables of the environment that Azure sets.

use std::{fs, path::PathBuf};

use simulator::{Fault, NewBlob, Operation, Requests};

use crate::support::{
    CONTOSO, Installation, Run, hours_ago,
    http::{HttpReceiver, Reply},
    listener::unused_port,
    set_mode,
};

pub const IDENTITY: &str = "44444444-4444-4444-8444-444444444444";

const HEADER: &str = "853b9a84-5bfa-4b22-a3f3-0b9a43d9ad8a";

const LOGGED_IN: &str = "[INFO] Successfully logged in to Office Management API";

/// Contoso with a blob of three records, on a machine with a system-assigned and a user-assigned identity.
pub fn with_identities() -> Installation {
    let installation = Installation::new();
    installation.contoso.add_blob("Audit.General", NewBlob::records(3).created(hours_ago(2)));
    installation.simulator.identities(|identities| {
        CONTOSO.clone_into(&mut identities.tenant);
        identities.has_system = true;
        identities.user_assigned = vec![IDENTITY.to_owned()];
        HEADER.clone_into(&mut identities.app_service_header);
    });
    installation
}

/// The variables by which IMDS of the simulator is found.
pub fn imds(installation: &Installation) -> Vec<(&'static str, String)> {
    vec![("AZURE_POD_IDENTITY_AUTHORITY_HOST", installation.simulator.url().to_owned())]
}

/// Those of App Service.
pub fn app_service(installation: &Installation) -> Vec<(&'static str, String)> {
    let endpoint = format!("{}/msi/token", installation.simulator.url());
    vec![("IDENTITY_ENDPOINT", endpoint), ("IDENTITY_HEADER", HEADER.to_owned())]
}

/// Those of Azure Arc.
pub fn arc(installation: &Installation) -> Vec<(&'static str, String)> {
    let url = installation.simulator.url();
    let endpoint = format!("{url}/metadata/identity/oauth2/token");
    vec![("IDENTITY_ENDPOINT", endpoint), ("IMDS_ENDPOINT", url.to_owned())]
}

/// Runs the program with this configuration and environment. Asserts that it prints no secret.
#[track_caller]
fn run_config(
    installation: &Installation,
    config: &str,
    variables: &[(&'static str, String)],
    arguments: &[&str],
) -> Run {
    let path = installation.path("identity.yaml");
    fs::write(&path, config).expect("a writable folder");
    set_mode(&path, 0o600);
    let mut command = installation.command(&[&["-v", "--config", "identity.yaml"], arguments].concat());
    let run = Run::of(command.envs(variables.iter().map(|(name, value)| (*name, value))));
    for secret in ["eyJ", HEADER] {
        assert!(!run.to_string().contains(secret), "{secret}: {run}");
    }
    run
}

#[track_caller]
fn run(
    installation: &Installation,
    identity: &str,
    variables: &[(&'static str, String)],
    arguments: &[&str],
) -> Run {
    run_config(installation, &installation.config_with_identity(identity), variables, arguments)
}

/// Asserts that `check` prints a line with these parts.
#[track_caller]
fn assert_checked(run: &Run, code: i32, parts: &[&str]) {
    run.assert_code(code);
    let matches = |line: &str| parts.iter().all(|part| line.contains(part));
    assert!(run.stdout.lines().any(matches), "no line with {parts:?} in {run}");
}

#[test]
fn collects_with_each_identity_of_each_endpoint() {
    let user = format!("{{ client_id: {IDENTITY} }}");
    for variables in [imds, app_service] {
        for identity in ["system", user.as_str()] {
            let installation = with_identities();
            let run = run(&installation, identity, &variables(&installation), &[]);
            run.assert_code(0).assert_line(LOGGED_IN);
            installation.assert_delivered_once([(&installation.contoso, "Audit.General")]);
            installation.assert_no_violations();
            assert_eq!(installation.simulator.count(Operation::ManagedIdentity), 1);
            assert_eq!(installation.simulator.count(Operation::Login), 0);
            let request = &installation.simulator.requests_to(Operation::ManagedIdentity)[0].request;
            assert_eq!(request.parameter("resource"), Some("https://manage.office.com"));
        }
    }
}

#[test]
fn requests_a_token_in_each_pass() {
    let installation = with_identities();
    for passes in 1..=2 {
        run(&installation, "system", &imds(&installation), &[]).assert_code(0);
        assert_eq!(installation.simulator.count(Operation::ManagedIdentity), passes);
    }
}

#[test]
fn retries_what_azure_documents_as_transient() {
    for status in [404, 429, 500, 503] {
        let installation = with_identities();
        let requests = Requests::to(Operation::ManagedIdentity).times(2);
        let fault = installation.simulator.fault(requests, Fault::status(status));
        run(&installation, "system", &imds(&installation), &[]).assert_code(0).assert_line(LOGGED_IN);
        assert_eq!(fault.fired(), 2, "{status}");
    }
    let installation = with_identities();
    installation.simulator.identities(|identities| identities.has_system = false);
    run(&installation, "system", &imds(&installation), &[]).assert_code(77).assert_line_with(&[
        "[ERROR] Authentication failed for contoso: no system-assigned managed identity",
    ]);
    assert_eq!(installation.simulator.count(Operation::ManagedIdentity), 1);
}

#[test]
fn requests_the_token_without_the_proxy() {
    let installation = with_identities();
    let proxy = format!("http://127.0.0.1:{}", unused_port());
    let config = format!("proxy: '{proxy}'\n{}", installation.config_with_identity("system"));
    let mut variables = imds(&installation);
    variables.extend(["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"].map(|name| (name, proxy.clone())));
    let run = run_config(&installation, &config, &variables, &["check"]);
    assert_checked(&run, 1, &["✓ contoso: logged in"]);
    installation.assert_no_violations();
}

#[test]
fn check_tells_each_failure_apart() {
    let installation = with_identities();
    let check = |identity: &str, variables: &[(&'static str, String)], code: i32, parts: &[&str]| {
        assert_checked(&run(&installation, identity, variables, &["check"]), code, parts);
    };
    let imds = imds(&installation);
    check("system", &imds, 0, &["✓ contoso: the token permits ActivityFeed.Read"]);

    let nothing = format!("http://127.0.0.1:{}", unused_port());
    let nowhere = vec![("AZURE_POD_IDENTITY_AUTHORITY_HOST", nothing)];
    let parts = ["✗ contoso: login: no managed identity on this machine: ", "run the collector in Azure"];
    check("system", &nowhere, 77, &parts);

    let unknown = "{ client_id: 55555555-5555-4555-8555-555555555555 }";
    let parts = ["login: the managed identity 55555555-5555-", "is not assigned", "copy the Client ID"];
    check(unknown, &imds, 77, &parts);
    check(unknown, &app_service(&installation), 77, &parts);

    let error =
        r#"{"error":"invalid_resource","error_description":"AADSTS500011: The resource was not found."}"#;
    installation.simulator.fault(Requests::to(Operation::ManagedIdentity).times(1), Fault::json(400, error));
    check("system", &imds, 77, &["no token for https://manage.office.com", "New-MgServicePrincipal"]);

    installation.contoso.settings(|settings| settings.roles = Some(Vec::new()));
    let parts =
        ["✗ contoso: the token lacks ActivityFeed.Read; assign this app role", "CREDENTIALS-CHECKLIST"];
    check("system", &imds, 1, &parts);

    installation.simulator.identities(|identities| identities.has_system = false);
    let parts =
        ["login: no system-assigned managed identity on this machine", "turn it on in the Azure portal"];
    check("system", &imds, 77, &parts);

    let mut wrong = app_service(&installation);
    wrong[1].1 = "another header".to_owned();
    check("system", &wrong, 77, &["HTTP 401 Unauthorized", "the variables of the environment are Azure's"]);
}

#[test]
fn check_offline_finds_an_environment_without_such_an_identity() {
    let installation = with_identities();
    let user = format!("{{ client_id: {IDENTITY} }}");
    let broken = vec![("IDENTITY_ENDPOINT", "localhost:40342".to_owned())];
    let mut fabric = app_service(&installation);
    fabric.push(("IDENTITY_SERVER_THUMBPRINT", "00".to_owned()));
    for (identity, variables, code, parts) in [
        (
            "system",
            imds(&installation),
            0,
            ["contoso: the managed identity: not checked offline", "the role"],
        ),
        ("system", arc(&installation), 0, ["contoso: the managed identity: not checked offline", "the role"]),
        (
            user.as_str(),
            arc(&installation),
            77,
            ["has only a system-assigned", "write managed_identity: system"],
        ),
        ("system", broken, 77, ["IDENTITY_ENDPOINT of the environment is not a URL", "unset it"]),
        ("system", fabric, 77, ["Service Fabric are not supported", "configure a certificate"]),
    ] {
        let run = run(&installation, identity, &variables, &["check", "--offline"]);
        assert_checked(&run, code, &parts);
    }
    assert_eq!(installation.simulator.connections(), 0);
}

#[test]
fn reads_no_challenge_of_azure_arc_outside_its_folder() {
    let installation = with_identities();
    let file = installation.path("other.key");
    fs::write(&file, "the content of another file").expect("a file");
    for path in [file, PathBuf::from("/var/opt/azcmagent/tokens/../other.key")] {
        let challenge = Some((path, "key".to_owned()));
        installation.simulator.identities(|identities| identities.arc_challenge = challenge);
        let run = run(&installation, "system", &arc(&installation), &["check"]);
        assert_checked(&run, 77, &["not in /var/opt/azcmagent/tokens", "other.key; it was not read"]);
    }
    assert!(
        installation.simulator.requests().iter().all(|seen| seen.request.header("Authorization").is_none())
    );
}

#[test]
fn sends_to_azure_monitor_as_the_identity_of_the_tenant() {
    let receiver = HttpReceiver::start(|_, _| Reply::status(204));
    let url = receiver.url("/dataCollectionRules/dcr-1/streams/Custom-O365?api-version=2023-01-01");
    let output = format!("  http:\n    url: {url}\n    format: azure-logs-ingestion");
    let installation = with_identities().with_output(&output);
    run(&installation, "system", &imds(&installation), &[]).assert_code(0);
    let requests = installation.simulator.requests_to(Operation::ManagedIdentity);
    let resources: Vec<_> = requests.iter().map(|seen| seen.request.parameter("resource")).collect();
    assert_eq!(resources, [Some("https://manage.office.com"), Some("https://monitor.azure.com")]);
    let accepted = receiver.accepted();
    assert!(
        !accepted.is_empty()
            && accepted.iter().all(|sent| sent.headers["authorization"].starts_with("Bearer eyJ"))
    );
}
