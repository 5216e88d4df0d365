//! What an app logs in with instead of a secret: a certificate, or the token of another identity provider.

use std::{fs, path::Path};

use simulator::{LoggedRequest, NewBlob, Operation, Tenant, TenantSettings};

use crate::support::{CONTOSO, Installation, Run, hours_ago, set_mode};

const THUMBPRINT: &str = "IKlqzHVf7IwrjgmFYxGQXqsMZDpLXaAZKVYwYcUT5YA";

const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJwb2QifQ.the-first-signature";

const LOGGED_IN: &str = "[INFO] Successfully logged in to Office Management API";

/// A file of `tests/certificates`.
fn pem(name: &str) -> String {
    format!("{}/tests/certificates/{name}.pem", env!("CARGO_MANIFEST_DIR"))
}

/// The lines of a configuration for a certificate with its key apart.
fn apart(certificate: &str, key: &str) -> String {
    format!("certificate: {{ file: '{}', key_file: '{}' }}", pem(certificate), pem(key))
}

fn combined(path: impl AsRef<Path>) -> String {
    format!("certificate: {{ file: '{}' }}", path.as_ref().display())
}

fn token_file(path: impl AsRef<Path>) -> String {
    format!("federated_token_file: '{}'", path.as_ref().display())
}

/// Contoso, at which the certificate is registered and no secret is accepted, with a blob of three records.
fn registered() -> Installation {
    let installation = Installation::new();
    register(&installation.contoso);
    installation.contoso.add_blob("Audit.General", NewBlob::records(3).created(hours_ago(2)));
    installation
}

fn register(tenant: &Tenant) {
    tenant.settings(|settings| {
        "another secret".clone_into(&mut settings.secret);
        settings.certificate_thumbprint = Some(THUMBPRINT.to_owned());
        settings.certificate_key = Some(include_bytes!("certificates/public-key.der").to_vec());
        settings.federated_token = Some(TOKEN.to_owned());
    });
}

/// Runs the program, with all that it can say, with this credential for contoso.
#[track_caller]
fn run_with(installation: &Installation, credential: &str, arguments: &[&str]) -> Run {
    let path = installation.path("credential.yaml");
    fs::write(&path, installation.config_with_credential(credential)).expect("a writable folder");
    set_mode(&path, 0o600);
    let run = installation.run_bare(&[&["-v", "--config", "credential.yaml"], arguments].concat());
    assert_no_secret(&run);
    run
}

/// Neither a key nor a token is in what the program says: both begin like this, or are of lines like these.
#[track_caller]
fn assert_no_secret(run: &Run) {
    let said = run.to_string();
    assert!(!said.contains("eyJ"), "a token: {said}");
    for key in ["key", "key-pkcs1", "key-encrypted", "key-pkcs1-encrypted", "key-elliptic", "other-key"] {
        let text = fs::read_to_string(pem(key)).expect("a key");
        for line in text.lines().filter(|line| !line.starts_with("-----") && line.len() > 16) {
            assert!(!said.contains(&line[..16]), "a line of {key}: {said}");
        }
    }
}

#[test]
fn a_pass_logs_in_with_a_certificate_in_each_of_its_forms() {
    for credential in
        [apart("certificate", "key"), apart("certificate", "key-pkcs1"), combined(pem("combined"))]
    {
        let installation = registered();
        let run = run_with(&installation, &credential, &[]);
        run.assert_code(0).assert_line(LOGGED_IN);
        installation.assert_delivered_once([(&installation.contoso, "Audit.General")]);
        installation.assert_no_violations();
    }
}

#[test]
fn a_chain_may_stand_around_the_certificate() {
    let installation = registered();
    let text = |name| fs::read_to_string(pem(name)).expect("a file");
    let chain = installation.path("chain.pem");
    let friendly = "Bag Attributes\r\n    friendlyName: contoso\r\n";
    let parts =
        [friendly, &text("other"), friendly, &text("key"), &text("expired"), &text("certificate")].concat();
    fs::write(&chain, parts.replace("\r\n", "\n").replace('\n', "\r\n")).expect("a file");
    set_mode(&chain, 0o600);
    run_with(&installation, &combined(&chain), &[]).assert_code(0).assert_line(LOGGED_IN);
}

#[test]
fn check_logs_in_with_a_certificate() {
    let installation = registered();
    let run = run_with(&installation, &apart("certificate", "key"), &["check"]);
    run.assert_code(0);
    assert!(run.stdout.contains("✓ contoso: the certificate is valid until 2120-01-01\n"), "{run}");
    assert!(run.stdout.contains("✓ contoso: logged in"), "{run}");

    let run = run_with(&installation, &apart("certificate", "key-encrypted"), &["check"]);
    run.assert_code(77);
    assert!(run.stdout.contains("✗ contoso: login: certificate.key_file /"), "{run}");
    assert!(run.stdout.contains("key-encrypted.pem: the private key is encrypted; "), "{run}");
}

#[test]
fn a_certificate_that_is_not_registered_is_named_with_its_mend() {
    let installation = registered();
    run_with(&installation, &apart("other", "other-key"), &[]).assert_code(77).assert_line_with(&[
        "[ERROR] Authentication failed for contoso: AADSTS700027",
        "not the one registered with the app, or it has expired",
        "upload it under Certificates & secrets",
    ]);
}

#[test]
fn a_signature_that_does_not_fit_the_registered_key_is_refused() {
    let installation = registered();
    installation.contoso.settings(|settings| {
        let key = settings.certificate_key.as_mut().expect("a key");
        key[100] ^= 1;
    });
    let run = run_with(&installation, &apart("certificate", "key"), &[]);
    run.assert_code(77).assert_line_with(&["AADSTS700027"]);
}

#[test]
fn each_login_has_an_assertion_of_its_own() {
    let installation = registered();
    for _ in 0..2 {
        run_with(&installation, &apart("certificate", "key"), &["check"]).assert_code(0);
    }
    let logins = installation.simulator.requests_to(Operation::Login);
    let assertion =
        |seen: &LoggedRequest| seen.request.form().into_iter().find(|(name, _)| name == "client_assertion");
    let assertions: Vec<_> = logins.iter().filter_map(assertion).collect();
    assert_eq!(assertions.len(), 2);
    assert_ne!(assertions[0], assertions[1]);
}

#[test]
fn a_file_that_cannot_be_used_is_named_with_what_is_wrong_and_the_mend() {
    let installation = registered();
    let here = |name: &str, content: &[u8]| {
        let path = installation.path(name);
        fs::write(&path, content).expect("a file");
        set_mode(&path, 0o600);
        path
    };
    let garbage = here("garbage.pem", b"\xff\xfe no PEM \x00");
    let broken = here("broken.pem", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let binary = here("binary.pem", b"\x30\x82\x09\x59\x02\x01\x03");
    let large = here("large.pem", &vec![b' '; 65_537]);
    let empty = here("empty", b"\n");
    let two_lines = here("two-lines", b"one\ntwo\n");
    let missing = installation.path("missing");
    let folder = installation.path("");
    for (credential, parts) in [
        (
            apart("certificate", "key-encrypted"),
            ["key-encrypted.pem: the private key is encrypted", "openssl pkey"],
        ),
        (apart("certificate", "key-pkcs1-encrypted"), ["the private key is encrypted", "openssl pkey"]),
        (
            combined(pem("certificate")),
            ["certificate.pem: contains no readable PEM private key", "certificate.key_file"],
        ),
        (apart("certificate", "key-elliptic"), ["the private key is not an RSA key", "RSA key of 2048"]),
        (
            apart("certificate", "other-key"),
            ["other-key.pem: the private key does not belong", "created with"],
        ),
        (
            apart("expired", "key"),
            ["expired.pem: the certificate expired at 2021-01-01T00:00:00Z", "create a new one"],
        ),
        (
            apart("key", "key"),
            ["key.pem: contains no readable PEM certificate", "-----BEGIN CERTIFICATE-----"],
        ),
        (
            combined(&garbage),
            ["garbage.pem: contains no readable PEM certificate", "-----BEGIN CERTIFICATE-----"],
        ),
        (
            combined(&broken),
            ["broken.pem: contains no readable PEM certificate", "-----BEGIN CERTIFICATE-----"],
        ),
        (combined(&binary), ["binary.pem: a binary file", "openssl pkcs12 -in app.pfx"]),
        (combined(&large), ["large.pem: the file is too large", "check the path"]),
        (combined(&folder), ["not a regular file", "check the path"]),
        (combined(&missing), ["certificate.file /", "/missing: there is no such file; check the path"]),
        (token_file(&missing), ["federated_token_file /", "/missing: there is no such file; check the path"]),
        (
            token_file(&empty),
            ["empty: contains no token", "check the path, and the program that writes the token"],
        ),
        (
            token_file(&two_lines),
            ["two-lines: contains no token", "check the path, and the program that writes the token"],
        ),
        (token_file(&large), ["large.pem: the file is too large", "check the path"]),
    ] {
        let run = run_with(&installation, &credential, &[]);
        run.assert_code(77);
        run.assert_line_with(&["[ERROR] Authentication failed for contoso: ", parts[0], parts[1]]);
        assert!(!run.stderr.contains("panicked"), "{run}");
    }
    assert_eq!(installation.simulator.count(Operation::Login), 0);
}

#[test]
fn one_tenants_certificate_takes_no_other_tenant_down() {
    let (installation, fabrikam) = Installation::with_fabrikam();
    fabrikam.add_blob("Audit.General", NewBlob::records(3).created(hours_ago(2)));
    let run = run_with(&installation, &combined(installation.path("missing.pem")), &[]);
    run.assert_code(1).assert_line_with(&["[ERROR] Authentication failed for contoso: certificate.file "]);
    installation.assert_delivered_once([(&fabrikam, "Audit.General")]);
}

#[test]
fn a_token_file_is_read_anew_because_it_rotates() {
    let installation = registered();
    let path = installation.path("token");
    let credential = token_file(&path);
    fs::write(&path, format!("{TOKEN}\n")).expect("a file");
    run_with(&installation, &credential, &[]).assert_code(0).assert_line(LOGGED_IN);
    installation.assert_delivered_once([(&installation.contoso, "Audit.General")]);

    let next = TOKEN.replace("first", "second");
    installation.contoso.settings(|settings| settings.federated_token = Some(next.clone()));
    run_with(&installation, &credential, &[]).assert_code(77).assert_line_with(&["AADSTS"]);
    fs::write(&path, &next).expect("a file");
    run_with(&installation, &credential, &[]).assert_code(0).assert_line(LOGGED_IN);
    installation.assert_no_violations();
}

#[test]
fn a_workload_identity_is_taken_from_the_environment() {
    let installation = registered();
    let client_id = TenantSettings::new(CONTOSO).client_id;
    let config = installation.config_with_credential("#");
    let ids = format!("tenant_id: {CONTOSO}\n    client_id: {client_id}\n    #\n    ");
    assert!(config.contains(&ids), "{config}");
    fs::write(installation.path("pod.yaml"), config.replace(&ids, "")).expect("a file");
    fs::write(installation.path("token"), TOKEN).expect("a file");
    let run = |variables: &[(&str, &str)]| {
        let mut command = installation.command(&["--config", "pod.yaml"]);
        let command = command.envs([
            ("AZURE_TENANT_ID", CONTOSO),
            ("AZURE_CLIENT_ID", &client_id),
            ("AZURE_FEDERATED_TOKEN_FILE", "token"),
        ]);
        Run::of(command.envs(variables.iter().copied()))
    };
    run(&[]).assert_code(0).assert_line(LOGGED_IN);
    installation.assert_delivered_once([(&installation.contoso, "Audit.General")]);
    run(&[("CLIENT_SECRET", "wrong")]).assert_code(77).assert_line_with(&["AADSTS7000215"]);
    run(&[("AZURE_CLIENT_ID", CONTOSO)]).assert_code(77).assert_line_with(&["AADSTS700016"]);
}
