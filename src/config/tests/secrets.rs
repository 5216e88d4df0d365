//! Secrets: read from files, never shown, and reported where others can read them.

use proptest::prelude::*;

use super::*;

fn with_secret_file(content: &[u8], mode: u32) -> Trial {
    let trial = Trial::new("");
    let path = trial.file("secret", content, mode);
    let text =
        whole("").replace("client_secret: hunter2~", &format!("client_secret_file: {}", path.display()));
    trial.file("config.yaml", text, 0o644);
    trial
}

#[test]
fn trims_whitespace_around_a_secret() {
    for content in ["hunter2~", "hunter2~\n", "hunter2~\r\n", "\u{feff}hunter2~\n", " \t hunter2~ \n\n"] {
        let trial = Trial::new(&whole("").replace("hunter2~", "${SECRET}")).set("SECRET", content);
        assert_eq!(secret(&trial.config().tenants[0]), "hunter2~", "{content:?} in a variable");
        let trial = Trial::new(&whole("")).set("CLIENT_SECRET", content);
        assert_eq!(secret(&trial.config().tenants[0]), "hunter2~", "{content:?} in CLIENT_SECRET");
        assert_eq!(secret(&with_secret_file(content.as_bytes(), 0o400).config().tenants[0]), "hunter2~");
    }
    assert_eq!(secret(&with_secret_file(b"hunter2~ ${A}\n", 0o400).config().tenants[0]), "hunter2~ ${A}");
}

#[test]
fn rejects_a_secret_file_without_a_secret() {
    let place = "config.yaml:4:5: tenants[0].client_secret_file";
    let large = vec![b'x'; 64 * 1024 + 1];
    for (content, expected) in [
        (&b""[..], "the file is empty; write the secret into it"),
        (b" \n\n", "the file is empty; write the secret into it"),
        (&large, "the file … cannot be read: it is too large for a secret; check the path"),
        (b"\xef\xbb\xbf\n", "the file is empty; write the secret into it"),
        (b"\xff", "the file … cannot be read: stream did not contain valid UTF-8; name a text file"),
    ] {
        let trial = with_secret_file(content, 0o600);
        let path = format!("\"{}\"", trial.folder.path().join("secret").display());
        let mistakes: Vec<_> = trial.load().unwrap_err().to_string().lines().map(str::to_owned).collect();
        let expected = format!("{place}: {expected}").replace('…', &path);
        assert!(mistakes.len() == 1 && mistakes[0].ends_with(&expected), "{mistakes:?}");
    }
    assert_mistakes(
        &whole("").replace("client_secret: hunter2~", "client_secret_file: /nowhere"),
        &[&format!(
            "{place}: the file \"/nowhere\" cannot be read: No such file or directory (os error 2); check the path"
        )],
    );
}

#[test]
fn rejects_a_pipe_as_secret_file_without_waiting() {
    let trial = with_secret_file(b"hunter2~", 0o600);
    let pipe = trial.folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("coreutils").success());
    let place = "config.yaml:4:5: tenants[0].client_secret_file";
    let text =
        whole("").replace("client_secret: hunter2~", &format!("client_secret_file: {}", pipe.display()));
    let path = pipe.display();
    assert_mistakes(
        &text,
        &[&format!(
            "{place}: the file \"{path}\" cannot be read: it is not a regular file; choose another path"
        )],
    );
}

#[test]
fn does_not_read_secrets_when_not_needed() {
    let output = "output: { http: { url: \"https://logs.example/\", headers: { Authorization: \"${NOWHERE}\" }, \
                  header_files: { X-Key: \"${NOWHERE}/key\" }, tls: { ca_file: \"${NOWHERE}/ca.pem\" } } }\n";
    for credential in [
        "client_secret: \"${NOWHERE}\"",
        "client_secret_file: \"${NOWHERE}/client_secret\"",
        "client_secret_file: /nowhere",
        "certificate: { file: \"${NOWHERE}/app.pem\" }",
        "federated_token_file: \"${NOWHERE}/token\"",
    ] {
        let text = format!("{}{output}", BEGIN.replace("client_secret: hunter2~", credential));
        Trial::new(&text).without_secrets().config();
        assert!(Trial::new(&text).mistakes().len() > 2, "{credential}");
    }
    let text = whole("").replace("    client_secret: hunter2~\n", "");
    assert!(Trial::new(&text).without_secrets().load().is_err(), "no credential is a mistake all the same");
}

#[test]
fn warns_of_files_that_others_can_read() {
    assert_eq!(
        with_secret_file(b"hunter2~", 0o644).warnings(),
        [
            "config.yaml:4:5: tenants[0].client_secret_file: other users can read the file; run chmod 600 on it"
        ]
    );
    for (mode, lines, expected) in [
        (0o600, "", None),
        (0o640, "", None),
        (0o644, "", Some("tenants[0].client_secret")),
        (0o604, "", Some("tenants[0].client_secret")),
    ] {
        let trial = Trial::new("");
        trial.file("config.yaml", whole(lines), mode);
        let expected: Vec<_> = expected
            .map(|key| {
                format!("config.yaml: has a secret ({key}) and other users can read it; run chmod 600 on it")
            })
            .into_iter()
            .collect();
        assert_eq!(trial.warnings(), expected, "{mode:o}");
    }
    for (key_file, expected) in [
        (
            "",
            &[
                "config.yaml:4:20: tenants[0].certificate.file: other users can read the file; run chmod 600 on it",
            ][..],
        ),
        (", key_file: app.key", &[]),
        (", key_file: /nowhere", &[]),
    ] {
        let trial = Trial::new("");
        let (file, key) = (trial.file("app.pem", "", 0o644), trial.file("app.key", "", 0o600));
        let certificate = format!("certificate: {{ file: {}{key_file} }}", file.display());
        let certificate = certificate.replace("app.key", &key.display().to_string());
        trial.file("config.yaml", whole("").replace("client_secret: hunter2~", &certificate), 0o600);
        assert_eq!(trial.warnings(), expected, "{certificate}");
    }
    let trial = Trial::new(&whole("").replace("    client_secret: hunter2~\n", ""))
        .credentials(&format!("tenants: [ {{ tenant_id: {TENANT}, client_secret: a }} ]"));
    trial.file("config.yaml", fs::read(trial.folder.path().join("config.yaml")).unwrap(), 0o644);
    trial.config();
    trial.file("credentials.yaml", fs::read(trial.folder.path().join("credentials.yaml")).unwrap(), 0o644);
    assert_eq!(
        trial.warnings(),
        [
            "credentials.yaml: has a secret (tenants[0].client_secret) and other users can read it; run chmod 600 on it"
        ]
    );
}

#[test]
fn counts_every_kind_of_secret_but_no_variables() {
    let tenant = BEGIN.replace("hunter2~", "'${SECRET}'");
    for (lines, key) in [
        ("proxy: http://me:pass@proxy:1", "proxy"),
        ("output: { fluentd: { address: a, sharedKey: b } }", "output.fluentd.sharedKey"),
        ("output: { fluentd: { address: a, username: b, password: c } }", "output.fluentd.password"),
        ("output: { http: { url: 'https://a', headers: { b: c } } }", "output.http.headers.b"),
        ("proxy: http://proxy:1", ""),
        ("output: { http: { url: 'https://a', headers: { b: 'Bearer ${SECRET}' } } }", ""),
    ] {
        let end = if lines.starts_with("output") { "" } else { END };
        let trial = Trial::new("").set("SECRET", "x");
        trial.file("config.yaml", format!("{tenant}{lines}\n{end}"), 0o644);
        let found = trial.warnings().iter().any(|warning| warning.contains(&format!("has a secret ({key})")));
        assert_eq!(found, !key.is_empty(), "{lines}");
    }
}

#[test]
fn warns_of_a_secret_that_looks_like_its_id() {
    assert_eq!(
        Trial::new(&whole("").replace("hunter2~", OTHER)).warnings(),
        [
            "config.yaml:4:5: tenants[0].client_secret: looks like the secret's ID, but logging in needs its Value; copy that \
             from Certificates & secrets"
        ]
    );
    let warnings = with_secret_file(OTHER.as_bytes(), 0o600).warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].contains("tenants[0].client_secret_file: looks like the secret's ID"),
        "{warnings:?}"
    );
}

#[test]
fn debug_output_shows_no_secret() {
    let trial = Trial::new(&format!(
        "{BEGIN}proxy: http://me:hunter2~@proxy:1\noutput:\n  fluentd: {{ address: a, sharedKey: hunter2~, username: b, \
         password: hunter2~ }}\n  http: {{ url: 'https://a', headers: {{ b: hunter2~ }} }}\n"
    ));
    let shown = format!("{:?}", trial.load().unwrap());
    assert!(!shown.contains("hunter2~"), "{shown}");
}

#[test]
fn does_not_show_a_secret_that_became_a_key() {
    for lines in ["    certificate: { Hunter2~ }", "log: { debug:Hunter2 }", "'Hunter2 Hunter2': x"] {
        let shown = Trial::new(&whole(lines)).load().unwrap_err().to_string();
        assert!(!shown.contains("Hunter2"), "{shown}");
    }
}

proptest! {
    #![proptest_config(crate::proptest_config())]

    /// No message repeats a secret that is where a secret belongs, or was pasted into the line above or a mistyped
    /// key: wrong type, broken YAML.
    #[test]
    fn no_message_repeats_a_secret(
        key in prop_oneof![
            Just("client_secret"), Just("client_secert"), Just("client_id"), Just("certificate"),
            Just("client_secret_file"), Just("proxi"),
        ],
        before in prop_oneof![
            Just(": "), Just(":"), Just(" "), Just(": !!int "), Just(": !x "), Just(": [ "), Just(": { a: "), Just(": '"),
            Just(": \""), Just(": *"), Just(": &"), Just(": |"), Just(": ${"), Just(": {"), Just(": \t"), Just("=")
        ],
        after in prop_oneof![Just(""), Just("'"), Just("\""), Just(" ]"), Just(" }"), Just(": a"), Just("@host"), Just("#")],
        top in any::<bool>(),
    ) {
        let indent = if top { "" } else { "    " };
        let begin = BEGIN.replace("    client_secret: hunter2~\n", "");
        let text = format!("{begin}{indent}{key}{before}Hunter2~{after}\n{END}");
        if let Err(error) = Trial::new(&text).load() {
            let shown = format!("{error} {error:?}");
            prop_assert!(!shown.contains("Hunter2"), "{text}\n{shown}");
        }
    }
}
