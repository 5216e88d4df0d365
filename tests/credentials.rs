//! Logins without a client secret: with a certificate, or with the token of another identity provider.

use std::{fs, path::Path};

use simulator::{LoggedRequest, NewBlob, Operation, Tenant, TenantSettings};

use crate::support::{CONTOSO, Installation, Run, hours_ago, set_mode};

const THUMBPRINT: &str = "IKlqzHVf7IwrjgmFYxGQXqsMZDpLXaAZKVYwYcUT5YA";

const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJwb2QifQ.the-first-signature";

const LOGGED_IN: &str = "[INFO] Successfully logged in to Office Management API";

/// Returns the path of a file of `tests/certificates`.
fn pem(name: &str) -> String {
    format!("{}/tests/certificates/{name}.pem", env!("CARGO_MANIFEST_DIR"))
}

/// The setting for a certificate whose key is in another file.
fn with_key_file(certificate: &str, key: &str) -> String {
    format!("certificate: {{ file: '{}', key_file: '{}' }}", pem(certificate), pem(key))
}

/// The setting for a certificate whose key is in the same file.
fn combined(path: impl AsRef<Path>) -> String {
    format!("certificate: {{ file: '{}' }}", path.as_ref().display())
}

fn token_file(path: impl AsRef<Path>) -> String {
    format!("federated_token_file: '{}'", path.as_ref().display())
}

/// Contoso with a blob of three records. It accepts the certificate and the token, but no secret.
fn without_secret() -> Installation {
    let installation = Installation::new();
    register_credentials(&installation.contoso);
    installation.contoso.add_blob("Audit.General", NewBlob::records(3).created(hours_ago(2)));
    installation
}

fn register_credentials(tenant: &Tenant) {
    tenant.settings(|settings| {
        "another secret".clone_into(&mut settings.secret);
        settings.certificate_thumbprint = Some(THUMBPRINT.to_owned());
        settings.certificate_key = Some(include_bytes!("certificates/public-key.der").to_vec());
        settings.federated_token = Some(TOKEN.to_owned());
    });
}

/// Runs the program with `--verbose` and with this credential for contoso. Asserts that it prints no secret.
#[track_caller]
fn run_with(installation: &Installation, credential: &str, arguments: &[&str]) -> Run {
    let path = installation.path("credential.yaml");
    fs::write(&path, installation.config_with_credential(credential)).expect("a writable folder");
    set_mode(&path, 0o600);
    let run = installation.run_bare(&[&["-v", "--config", "credential.yaml"], arguments].concat());
    assert_no_secret(&run);
    run
}

/// Asserts that the program printed neither a token, which starts with `eyJ`, nor a part of a key.
#[track_caller]
fn assert_no_secret(run: &Run) {
    let printed = run.to_string();
    assert!(!printed.contains("eyJ"), "a token: {printed}");
    for key in ["key", "key-pkcs1", "key-encrypted", "key-pkcs1-encrypted", "key-elliptic", "other-key"] {
        let text = fs::read_to_string(pem(key)).expect("a key");
        for line in text.lines().filter(|line| !line.starts_with("-----") && line.len() > 16) {
            assert!(!printed.contains(&line[..16]), "a line of {key}: {printed}");
        }
    }
}

#[test]
fn logs_in_with_a_certificate_in_each_supported_form() {
    for credential in [
        with_key_file("certificate", "key"),
        with_key_file("certificate", "key-pkcs1"),
        combined(pem("combined")),
    ] {
        let installation = without_secret();
        let run = run_with(&installation, &credential, &[]);
        run.assert_code(0).assert_line(LOGGED_IN);
        installation.assert_delivered_once([(&installation.contoso, "Audit.General")]);
        installation.assert_no_violations();
    }
}

#[test]
fn finds_the_certificate_within_a_chain() {
    let installation = without_secret();
    let text = |name| fs::read_to_string(pem(name)).expect("a file");
    let chain = installation.path("chain.pem");
    let attributes = "Bag Attributes\r\n    friendlyName: contoso\r\n";
    let parts =
        [attributes, &text("other"), attributes, &text("key"), &text("expired"), &text("certificate")]
            .concat();
    fs::write(&chain, parts.replace("\r\n", "\n").replace('\n', "\r\n")).expect("a file");
    set_mode(&chain, 0o600);
    run_with(&installation, &combined(&chain), &[]).assert_code(0).assert_line(LOGGED_IN);
}

#[test]
fn check_logs_in_with_a_certificate() {
    let installation = without_secret();
    let run = run_with(&installation, &with_key_file("certificate", "key"), &["check"]);
    run.assert_code(0);
    assert!(run.stdout.contains("✓ contoso: the certificate is valid until 2120-01-01\n"), "{run}");
    assert!(run.stdout.contains("✓ contoso: logged in"), "{run}");

    let run = run_with(&installation, &with_key_file("certificate", "key-encrypted"), &["check"]);
    run.assert_code(77);
    assert!(run.stdout.contains("✗ contoso: login: certificate.key_file /"), "{run}");
    assert!(run.stdout.contains("key-encrypted.pem: the private key is encrypted; "), "{run}");
}

#[test]
fn reports_an_unregistered_certificate_with_a_hint() {
    let installation = without_secret();
    run_with(&installation, &with_key_file("other", "other-key"), &[]).assert_code(77).assert_line_with(&[
        "[ERROR] Authentication failed for contoso: AADSTS700027",
        "not the one registered with the app, or it has expired",
        "upload it under Certificates & secrets",
    ]);
}

#[test]
fn reports_a_signature_that_the_registered_key_does_not_verify() {
    let installation = without_secret();
    installation.contoso.settings(|settings| {
        let key = settings.certificate_key.as_mut().expect("a key");
        key[100] ^= 1;
    });
    let run = run_with(&installation, &with_key_file("certificate", "key"), &[]);
    run.assert_code(77).assert_line_with(&["AADSTS700027"]);
}

#[test]
fn sends_a_new_assertion_with_each_login() {
    let installation = without_secret();
    for _ in 0..2 {
        run_with(&installation, &with_key_file("certificate", "key"), &["check"]).assert_code(0);
    }
    let logins = installation.simulator.requests_to(Operation::Login);
    let assertion =
        |seen: &LoggedRequest| seen.request.form().into_iter().find(|(name, _)| name == "client_assertion");
    let assertions: Vec<_> = logins.iter().filter_map(assertion).collect();
    assert_eq!(assertions.len(), 2);
    assert_ne!(assertions[0], assertions[1]);
}

#[test]
fn reports_each_unusable_credential_file_with_cause_and_hint() {
    let installation = without_secret();
    let file = |name: &str, content: &[u8]| {
        let path = installation.path(name);
        fs::write(&path, content).expect("a file");
        set_mode(&path, 0o600);
        path
    };
    let garbage = file("garbage.pem", b"\xff\xfe no PEM \x00");
    let broken = file("broken.pem", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let binary = file("binary.pem", b"\x30\x82\x09\x59\x02\x01\x03");
    let large = file("large.pem", &vec![b' '; 65_537]);
    let empty = file("empty", b"\n");
    let two_lines = file("two-lines", b"one\ntwo\n");
    let missing = installation.path("missing");
    let folder = installation.path("");
    for (credential, parts) in [
        (
            with_key_file("certificate", "key-encrypted"),
            ["key-encrypted.pem: the private key is encrypted", "openssl pkey"],
        ),
        (
            with_key_file("certificate", "key-pkcs1-encrypted"),
            ["the private key is encrypted", "openssl pkey"],
        ),
        (
            combined(pem("certificate")),
            ["certificate.pem: contains no readable PEM private key", "certificate.key_file"],
        ),
        (
            with_key_file("certificate", "key-elliptic"),
            ["the private key is not an RSA key", "RSA key of 2048"],
        ),
        (
            with_key_file("certificate", "other-key"),
            ["other-key.pem: the private key does not belong", "created with"],
        ),
        (
            with_key_file("expired", "key"),
            ["expired.pem: the certificate expired at 2021-01-01T00:00:00Z", "create a new one"],
        ),
        (
            with_key_file("key", "key"),
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
fn a_missing_certificate_fails_only_its_tenant() {
    let (installation, fabrikam) = Installation::with_fabrikam();
    fabrikam.add_blob("Audit.General", NewBlob::records(3).created(hours_ago(2)));
    let run = run_with(&installation, &combined(installation.path("missing.pem")), &[]);
    run.assert_code(1).assert_line_with(&["[ERROR] Authentication failed for contoso: certificate.file "]);
    installation.assert_delivered_once([(&fabrikam, "Audit.General")]);
}

#[test]
fn reads_the_token_file_in_each_pass() {
    let installation = without_secret();
    let path = installation.path("token");
    let credential = token_file(&path);
    fs::write(&path, format!("{TOKEN}\n")).expect("a file");
    run_with(&installation, &credential, &[]).assert_code(0).assert_line(LOGGED_IN);
    installation.assert_delivered_once([(&installation.contoso, "Audit.General")]);

    let rotated = TOKEN.replace("first", "second");
    installation.contoso.settings(|settings| settings.federated_token = Some(rotated.clone()));
    run_with(&installation, &credential, &[]).assert_code(77).assert_line_with(&["AADSTS"]);
    fs::write(&path, &rotated).expect("a file");
    run_with(&installation, &credential, &[]).assert_code(0).assert_line(LOGGED_IN);
    installation.assert_no_violations();
}

#[test]
fn reads_a_workload_identity_from_the_environment() {
    let installation = without_secret();
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
