//! Secrets, control characters and unusual ids in responses: what the program prints, logs and stores of them.

use std::{fs, path::Path};

use simulator::{Answer, Fault, NewBlob, Operation, Request, Requests};

use crate::support::{Installation, hours_ago};

const FEED: &str = "Audit.General";
const SECRET: &str = "pa~ss/wo+rd&of=this%test-7";

/// Contoso with one blob, a secret with special characters, and metrics.
fn installation() -> Installation {
    let installation = Installation::new().setting("subscriptions: [ Audit.General ]").collect("retries: 0");
    installation.contoso.settings(|settings| SECRET.clone_into(&mut settings.secret));
    installation.contoso.subscribe(FEED);
    installation.contoso.add_blob(FEED, NewBlob::records(2).created(hours_ago(2)));
    let metrics = format!("metrics: {{ path: {} }}", installation.path("metrics.prom").display());
    let config = installation.config_with_credential(&format!("client_secret: \"{SECRET}\""));
    fs::write(installation.path("secret.yaml"), format!("{config}{metrics}\n")).expect("a writable folder");
    installation
}

/// Returns the bearer token of a request, or the client secret if it is a login.
fn secret_of(request: &Request) -> String {
    let bearer = request.header("Authorization").and_then(|value| value.strip_prefix("Bearer "));
    bearer.unwrap_or(SECRET).to_owned()
}

fn percent_encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |encoded, byte| encoded + &format!("%{byte:02X}"))
}

fn base64(text: &str) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    STANDARD.encode(text)
}

/// Returns a text with a secret in each form in which a server can repeat it.
fn echo(secret: &str) -> String {
    format!(
        "you sent {secret} and {} and {} and Basic {}.",
        percent_encoded(secret),
        base64(secret),
        base64(&format!("app:{secret}"))
    )
}

/// Asserts that neither the printed texts nor the files of state and metrics contain a secret in any form.
#[track_caller]
fn assert_no_secret(installation: &Installation, printed: &[&str], secrets: &[String]) {
    let mut written: Vec<(String, String)> =
        printed.iter().map(|text| ("output".to_owned(), (*text).to_owned())).collect();
    read_files(&installation.path("state"), &mut written);
    read_files(&installation.path("metrics.prom"), &mut written);
    assert!(written.len() > printed.len(), "there are files");
    for secret in secrets {
        let forms = [
            secret.clone(),
            percent_encoded(secret),
            base64(secret).trim_end_matches('=').to_owned(),
            base64(&format!("app:{secret}")).trim_end_matches('=').to_owned(),
            secret[..20].to_owned(),
        ];
        for (name, text) in &written {
            for form in &forms {
                assert!(!text.contains(form.as_str()), "{name} contains {form}: {text}");
            }
        }
    }
}

/// Adds the path and the text of each file below a path.
fn read_files(path: &Path, written: &mut Vec<(String, String)>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("a readable folder") {
            read_files(&entry.expect("an entry").path(), written);
        }
    } else if path.exists() {
        let text = String::from_utf8_lossy(&fs::read(path).expect("a readable file")).into_owned();
        written.push((path.display().to_string(), text));
    }
}

/// Returns the secrets and tokens that the simulator has received.
fn secrets_seen(installation: &Installation) -> Vec<String> {
    let mut secrets: Vec<_> =
        installation.simulator.requests().iter().map(|seen| secret_of(&seen.request)).collect();
    secrets.push(SECRET.to_owned());
    secrets.sort();
    secrets.dedup();
    secrets
}

/// Replaces one field of each entry of a listing.
fn with_field(answer: Answer, name: &str, value: &str) -> Answer {
    let mut entries: Vec<serde_json::Value> =
        serde_json::from_slice(&answer.plain_body()).expect("a listing of the simulator");
    for entry in &mut entries {
        entry[name] = value.into();
    }
    answer.with_body(serde_json::to_vec(&entries).expect("JSON"))
}

/// Replaces a URL of a listing by one of another origin that contains the token.
fn foreign_url(name: &'static str) -> Fault {
    Fault::alter(name, move |request, answer| {
        let url = format!("https://192.0.2.1/{}?token={}", secret_of(request), secret_of(request));
        match name {
            "NextPageUri" => answer.with_header(name, url),
            _ => with_field(answer, name, &url),
        }
    })
}

#[test]
fn writes_no_secret_that_a_server_repeats() {
    use Operation::{FetchBlob, ListContent, ListSubscriptions, Login};
    let error = || {
        Fault::instead("error", |request| {
            let message = serde_json::to_string(&echo(&secret_of(request))).expect("a text");
            Answer::json(400, format!(r#"{{"error":{{"code":"AF29999","message":{message}}}}}"#))
        })
    };
    let login_error = Fault::instead("login error", |request| {
        let description = serde_json::to_string(&format!("AADSTS9999999: {}", echo(&secret_of(request))));
        Answer::json(400, format!(r#"{{"error":"x","error_description":{}}}"#, description.expect("a text")))
    });
    let page = |status| {
        Fault::instead("page", move |request| {
            Answer::status(status).with_body(format!("<html><title>{}</title>", echo(&secret_of(request))))
        })
    };
    let redirect = Fault::instead("redirect", |request| {
        Answer::status(302).with_header("Location", format!("https://192.0.2.1/{}?x", secret_of(request)))
    });
    let token_in_uri = Fault::alter("token in contentUri", |request, answer| {
        let host = request.header("Host").unwrap_or_default();
        let path = format!("http://{host}/api/v1.0/x/activity/feed/audit/a?token={}", secret_of(request));
        with_field(answer, "contentUri", &path)
    });
    let token_in_id = Fault::alter("token in contentId", |request, answer| {
        with_field(answer, "contentId", &format!("id${}$x", secret_of(request)))
    });
    let unreadable = Fault::alter("unreadable entry", |request, answer| {
        let answer = with_field(answer, "contentUri", &"x".repeat(20_000));
        with_field(answer, "contentId", &secret_of(request))
    });
    let cases: Vec<(Vec<(Operation, Fault)>, i32)> = vec![
        (vec![(Login, login_error)], 77),
        (vec![(Login, page(200))], 77),
        (vec![(ListSubscriptions, error())], 1),
        (vec![(ListContent, page(403))], 1),
        (vec![(ListContent, redirect)], 1),
        (vec![(ListContent, foreign_url("contentUri"))], 1),
        (vec![(ListContent, foreign_url("NextPageUri"))], 1),
        (vec![(ListContent, token_in_uri)], 1),
        (vec![(ListContent, token_in_id), (FetchBlob, error())], 1),
        (vec![(ListContent, unreadable)], 1),
    ];
    for (faults, code) in cases {
        let installation = installation();
        let names: Vec<_> = faults.iter().map(|(_, fault)| fault.name().to_owned()).collect();
        for (operation, fault) in faults {
            installation.simulator.fault(Requests::to(operation).always(), fault);
        }
        let run = installation.run_bare(&["-c", "secret.yaml", "--verbose"]);
        assert_eq!(run.code, Some(code), "{names:?}: {run}");
        assert!(run.stderr.contains("[ERROR]"), "{names:?}: {run}");
        let table = installation.run_bare(&["-c", "secret.yaml", "status"]);
        let json = installation.run_bare(&["-c", "secret.yaml", "status", "--json"]);
        installation.run_bare(&["-c", "secret.yaml", "status", "--html", "page.html"]);
        let page = fs::read_to_string(installation.path("page.html")).expect("a page");
        let printed = [run.stderr.as_str(), &run.stdout, &table.stdout, &table.stderr, &json.stdout, &page];
        assert_no_secret(&installation, &printed, &secrets_seen(&installation));
    }
}

#[test]
fn reduces_text_from_a_server_to_one_line_of_readable_characters() {
    let installation = installation();
    let error = Fault::instead("control characters", |_| {
        let message = r"a\u202eb\u2066c\u2028[ERROR] forged\u001b[31m\u0007\u200b end\r\nsecond line";
        Answer::json(
            500,
            format!(r#"{{"error":{{"code":"AF50000","message":"{message}{}"}}}}"#, "x".repeat(9_999)),
        )
    });
    installation.simulator.fault(Requests::to(Operation::ListContent).always(), error);
    let run = installation.run_bare(&["-c", "secret.yaml"]);
    assert_eq!(run.code, Some(1), "{run}");
    run.assert_line_with(&["[ERROR] Listing failed", "HTTP 500 AF50000 abc [ERROR] forged[31m end;"]);
    let state = fs::read_to_string(installation.path("state/progress")).expect("a state");
    for text in [&run.stderr, &state] {
        let is_invisible = |c: char| (c.is_control() && c != '\n') || ('\u{200b}'..='\u{206f}').contains(&c);
        assert!(!text.contains(is_invisible), "{text:?}");
    }
    let longest = run.stderr.lines().map(|line| line.chars().count()).max();
    assert!(longest < Some(800), "{longest:?}");
}

#[test]
fn collects_a_blob_with_an_unusual_id_once_and_shortens_the_id() {
    let ids = ["x".repeat(3_000_000), "a\u{202e}b\nc".to_owned(), String::new()];
    for id in ids {
        let installation = installation();
        let sent = id.clone();
        let unusual_id = Fault::alter("unusual id", move |_, answer| with_field(answer, "contentId", &sent));
        installation.simulator.fault(Requests::to(Operation::ListContent).always(), unusual_id);
        let failing = installation.simulator.fault(Requests::to(Operation::FetchBlob), Fault::status(503));
        let run = installation.run_bare(&["-c", "secret.yaml", "--verbose"]);
        assert_eq!(run.code, Some(1), "{run}");
        run.assert_line_with(&["[ERROR] Blob download failed for contoso audit.general blob "]);
        assert_eq!(failing.fired(), 1);
        let second = installation.run_bare(&["-c", "secret.yaml", "--verbose"]);
        assert_eq!(second.code, Some(0), "{second}");
        installation.assert_delivered_once([(&installation.contoso, FEED)]);
        installation.simulator.forget_requests();
        let third = installation.run_bare(&["-c", "secret.yaml"]);
        assert_eq!(third.code, Some(0), "{third}");
        assert_eq!(installation.simulator.count(Operation::FetchBlob), 0, "the blob is known");
        let mut written = Vec::new();
        read_files(&installation.path("state"), &mut written);
        let bytes: usize = written.iter().map(|(_, text)| text.len()).sum();
        assert!(bytes < 5_000, "{bytes} bytes of state");
        for text in [&run.stderr, &second.stderr, &third.stderr] {
            assert!(text.len() < 10_000 && !text.contains('\u{202e}'), "{text}");
        }
    }
}
