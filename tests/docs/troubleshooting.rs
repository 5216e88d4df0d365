//! The messages that `docs/TROUBLESHOOTING.md` quotes are those of the program. Passes with failures cause nearly all of them.

use std::{collections::BTreeSet, fs, fs::File, thread, time::Duration};

use fs2::FileExt;
use jiff::SignedDuration;
use simulator::{
    Answer, ApiError, Fault, Identity, LoginError, NewBlob, Operation, Requests, RetryAfter, Simulator,
};

use crate::support::{
    CONTOSO, Installation, Run,
    documents::{Page, repository},
    forward::{ForwardOptions, ForwardReceiver},
    hours_ago,
    http::{HttpReceiver, Reply},
    set_mode,
    syslog::{SyslogBehavior, SyslogReceiver, Transport},
};

const FEED: &str = "Audit.Exchange";

/// The ends of the messages that no test can cause, because root can read and write everything, only root can change owners,
/// or seven days have to pass, and of those about Kafka, which only a program with that feature logs. They are looked up in the
/// source.
const ENDS_IN_SOURCE: [&str; 9] = [
    "build it with: cargo build --release --features kafka",
    "create the topic, or check topic",
    "start the brokers, or check brokers and tls; the addresses that the brokers advertise must be reachable",
    "let the collector's user read and write it",
    " and the others",
    "the file system is read-only: use another folder, or mount it writable",
    "was truncated by a rotation; the records of an interrupted pass may be delivered twice",
    "was rotated and cannot be found; the records of an interrupted pass may be delivered twice",
    "was not listed in time, and the API lists only 7 days; run the collector more often",
];

/// A run with a failure, with the paths and ports of the page instead of its own.
struct FailedRun {
    /// The expected exit code.
    code: i32,
    run: Run,
}

/// Contoso with two blobs of one feed.
fn installation() -> Installation {
    with_blobs(Installation::new())
}

fn with_blobs(installation: Installation) -> Installation {
    for hours in [3, 2] {
        installation.contoso.add_blob(FEED, NewBlob::records(2).created(hours_ago(hours)));
    }
    installation
}

/// Runs the program, with the installation's configuration if there are no arguments.
fn run(code: i32, installation: &Installation, arguments: &[&str]) -> FailedRun {
    let mut run = if arguments.is_empty() { installation.run(&[]) } else { installation.run_bare(arguments) };
    for (name, documented) in [("state", "/var/lib/office365-collector"), ("output", "/var/log/office365")] {
        run.stderr = run.stderr.replace(&installation.path(name).display().to_string(), documented);
    }
    run.stderr = with_documented_port(&run.stderr);
    FailedRun { code, run }
}

/// Replaces every port of 127.0.0.1 by the one of the page.
fn with_documented_port(text: &str) -> String {
    let mut parts = text.split("127.0.0.1:");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        text + "127.0.0.1:24224" + part.trim_start_matches(|digit: char| digit.is_ascii_digit())
    })
}

/// Runs a pass whose login fails.
fn login(error: LoginError) -> FailedRun {
    let installation = installation();
    installation.contoso.settings(|settings| settings.login_error = Some(error));
    run(77, &installation, &[])
}

/// Runs a pass with a fault of each request of one kind.
fn request(code: i32, operation: Operation, fault: Fault) -> FailedRun {
    let installation = installation();
    installation.simulator.fault(Requests::to(operation).always(), fault);
    run(code, &installation, &[])
}

/// Runs a pass with parts of the configuration replaced.
fn configured(code: i32, mode: u32, parts: &[(&str, &str)]) -> FailedRun {
    let installation = installation();
    let mut config = installation.config();
    for (part, by) in parts {
        assert!(config.contains(part), "{config}");
        config = config.replacen(part, by, 1);
    }
    let path = installation.path("config.yaml");
    fs::write(&path, config).expect("a file");
    set_mode(&path, mode);
    run(code, &installation, &["--config", "config.yaml"])
}

/// Contoso at a server whose certificate has an unknown root.
fn untrusted() -> Installation {
    let read = |name: &str| {
        fs::read_to_string(repository("tests/certificates/tls").join(name)).expect("a file of the tests")
    };
    let identity =
        Identity { host: "localhost".to_owned(), certificates: read("here.pem"), key: read("server.key") };
    with_blobs(Installation::against(Simulator::start_with_tls(&identity)))
}

/// Contoso with a state that consists of this `known_blobs`.
fn with_state(known_blobs: &str) -> Installation {
    let installation = installation();
    fs::create_dir(installation.path("state")).expect("a folder");
    fs::write(installation.path("state/known_blobs"), known_blobs).expect("a file");
    installation
}

fn failures_of_microsoft() -> Vec<FailedRun> {
    let throttled = installation();
    let fault = Fault::throttled(429, Some(RetryAfter::Seconds(1)));
    throttled.simulator.fault(Requests::to(Operation::FetchBlob).times(1), fault);
    let late = installation();
    late.simulator.set_clock_skew(SignedDuration::from_hours(2));
    let unreadable = Installation::new();
    let last_day = NewBlob::body("[{\"Id\":7},").created(hours_ago(3)).expiring(hours_ago(-20));
    unreadable.contoso.add_blob(FEED, last_day);
    vec![
        run(0, &unreadable, &[]),
        login(LoginError::WrongSecret),
        login(LoginError::ExpiredSecret),
        login(LoginError::UnknownClient),
        login(LoginError::UnknownTenant),
        login(LoginError::WrongAssertion),
        login(LoginError::ConditionalAccess),
        request(1, Operation::ListSubscriptions, Fault::api_error(ApiError::PermissionMissing)),
        request(1, Operation::ListSubscriptions, Fault::api_error(ApiError::AuditingOff)),
        request(1, Operation::ListContent, Fault::unauthorized()),
        request(1, Operation::FetchBlob, Fault::gzip_bomb(16)),
        request(0, Operation::FetchBlob, Fault::api_error(ApiError::ContentExpired)),
        request(1, Operation::FetchBlob, Fault::status(503)),
        run(0, &throttled, &[]),
        run(0, &late, &[]),
        run(77, &untrusted(), &[]),
        run(0, &Installation::new(), &[]),
    ]
}

fn unusual_responses() -> Vec<FailedRun> {
    let html = "<!DOCTYPE html><html><head><title>Guest Wi-Fi</title></head></html>";
    let page = Fault::instead("a sign-in page", move |_| Answer::json(200, html));
    let looping = installation();
    looping.contoso.settings(|settings| settings.page_size = 1);
    looping.simulator.fault(Requests::to(Operation::ListContent).always(), Fault::endless_paging());
    let quiet = installation();
    quiet.run(&[]).assert_code(0);
    quiet.simulator.set_clock_skew(SignedDuration::from_hours(26));
    let disabled = with_blobs(Installation::new().setting("subscriptions: [ Audit.Exchange ]"));
    disabled.simulator.fault(Requests::to(Operation::ListSubscriptions).always(), Fault::json(200, "[]"));
    let error = Fault::api_error(ApiError::SubscriptionDisabled);
    disabled.simulator.fault(Requests::to(Operation::ListContent).always(), error);
    vec![
        request(77, Operation::Login, page),
        run(1, &looping, &[]),
        run(0, &quiet, &[]),
        run(1, &disabled, &[]),
    ]
}

fn slow_servers() -> Vec<FailedRun> {
    let slow = Installation::new().collect("retries: 1").collect("requestTimeout: 1s");
    slow.contoso.add_blob(FEED, NewBlob::records(200).created(hours_ago(2)));
    // 750 bytes a second, with headers of about 300 bytes.
    let drip = Fault::drip(300, Duration::from_millis(400));
    slow.simulator.fault(Requests::to(Operation::FetchBlob).always(), drip);
    let hanging = with_blobs(Installation::new().setting("interval: 2s"));
    hanging.contoso.subscribe("Audit.General");
    hanging.simulator.fault(Requests::to(Operation::FetchBlob).times(1), Fault::stall(None));
    let listing = Requests::to(Operation::ListContent).of_content_type("Audit.General");
    hanging.simulator.fault(listing.times(1), Fault::stall(None));
    vec![run(1, &slow, &[]), run(1, &hanging, &[])]
}

fn failures_of_files_and_records() -> Vec<FailedRun> {
    let not_replaceable = with_state("nonsense\n");
    for name in ["known_blobs.new", "history"] {
        fs::create_dir(not_replaceable.path("state").join(name)).expect("a folder");
    }
    let receiver = HttpReceiver::start(|request, _| {
        if request.body.contains("unwanted") {
            return Reply::json(400, r#"{"message":"no such field"}"#);
        }
        Reply::status(200)
    });
    let refused = installation().with_output(&format!("  http: {{ url: '{}' }}", receiver.url("/in")));
    let record = r#"{"Id":"0000aaaa-0000-4000-8000-000000000001","x":"unwanted"}"#;
    refused.contoso.add_blob(FEED, NewBlob::texts([record]).created(hours_ago(1)));
    let (not_indexed, damaged) = (with_state(&known_blobs()), with_state(&known_blobs()));
    fs::create_dir(not_indexed.path("state/known_blobs_index.new")).expect("a folder");
    damaged.run(&[]).assert_code(0);
    let index = damaged.path("state/known_blobs_index");
    let mut pages = fs::read(&index).expect("an index");
    pages[4096..].chunks_exact_mut(4096).for_each(|page| page[0] ^= 1);
    fs::write(index, pages).expect("a file");
    damaged.contoso.add_blob(FEED, NewBlob::records(1).created(hours_ago(1)));
    vec![
        run(0, &not_replaceable, &[]),
        run(0, &refused, &[]),
        run(0, &not_indexed, &[]),
        run(0, &damaged, &[]),
    ]
}

/// Returns the lines of a `known_blobs` that is large enough for an index.
fn known_blobs() -> String {
    let line = |number| format!("{number:0>150},{:.0},{CONTOSO},{FEED}\n", hours_ago(-100));
    (0..2_000).map(line).collect()
}

fn failures_of_this_machine() -> Vec<FailedRun> {
    let locked = with_state("");
    let lock = File::open(locked.path("state/known_blobs")).expect("a file");
    lock.try_lock_exclusive().expect("an unlocked file");
    let slow = Installation::new().setting("interval: 1s");
    slow.simulator.set_latency(Duration::from_millis(400)); // the login and the two kinds of listings take 1.2 s
    let folder = installation();
    fs::create_dir_all(folder.path("output/AuditExchange.json")).expect("a folder");
    let (without_receiver, receiver) = (
        installation(),
        ForwardReceiver::start(ForwardOptions { key: Some("sesame"), ..ForwardOptions::default() }),
    );
    let without_receiver =
        without_receiver.with_output("  fluentd:\n    address: 127.0.0.1\n    port: 1\n    retryTimeout: 0s");
    let wrong_key = installation().with_output(&receiver.config("sharedKey: wrong-key"));
    let no_relp = SyslogReceiver::start(Transport::Relp);
    no_relp.set_behaviors(&[SyslogBehavior::Say("220 smtp.example\r\n")]);
    let no_relp = installation().with_output(&format!(
        "  syslog:\n    address: 127.0.0.1\n    port: {}\n    protocol: relp",
        no_relp.port()
    ));
    let full = [
        ("output:\n  file:\n    path: ", "output:\n  file:\n    path: /dev/full #"),
        ("Type: true", "Type: false"),
    ];
    vec![
        run(75, &locked, &[]),
        run(0, &with_state("what is this\nblob,20"), &[]),
        run(0, &slow, &[]),
        run(74, &folder, &[]),
        run(1, &without_receiver, &[]),
        run(1, &wrong_key, &[]),
        run(1, &no_relp, &[]),
        run(78, &installation(), &["--verbose"]),
        configured(74, 0o600, &full),
        configured(0, 0o644, &[]),
        configured(78, 0o600, &[("workingDir:", "workDir:")]),
        configured(78, 0o600, &[("client_secret: ", "client_secret: ${CREDENTIALS_DIRECTORY}/")]),
        configured(78, 0o600, &[("client_secret: ", "client_secret_file: /etc/nowhere/secret # ")]),
        configured(0, 0o600, &[("tenants:", "enabled: false\ntenants:")]),
        configured(77, 0o600, &[("tenants:", "proxy: http://127.0.0.1:1\ntenants:")]),
    ]
}

/// Runs a pass with a managed identity and these variables of the environment.
fn identity(installation: &Installation, identity: &str, variables: &[(&str, &str)]) -> FailedRun {
    let path = installation.path("identity.yaml");
    fs::write(&path, installation.config_with_identity(identity)).expect("a file");
    set_mode(&path, 0o600);
    let mut command = installation.command(&["--config", "identity.yaml"]);
    FailedRun { code: 77, run: Run::of(command.envs(variables.iter().copied())) }
}

fn failures_of_managed_identities() -> Vec<FailedRun> {
    let imds = |requests: Option<Fault>, name: &str| {
        let installation = installation();
        if let Some(fault) = requests {
            installation.simulator.fault(Requests::to(Operation::ManagedIdentity).always(), fault);
        }
        let url = installation.simulator.url().to_owned();
        identity(&installation, name, &[("AZURE_POD_IDENTITY_AUTHORITY_HOST", &url)])
    };
    let user = "{ client_id: 44444444-4444-4444-8444-444444444444 }";
    let resource =
        r#"{"error":"invalid_resource","error_description":"AADSTS500011: The resource was not found."}"#;
    let arc = |name: &str, challenge: &str| {
        let installation = installation();
        let challenge = Some((challenge.into(), "key".to_owned()));
        installation.simulator.identities(|identities| identities.arc_challenge = challenge);
        let url = installation.simulator.url();
        let endpoint = format!("{url}/metadata/identity/oauth2/token");
        identity(&installation, name, &[("IDENTITY_ENDPOINT", &endpoint), ("IMDS_ENDPOINT", url)])
    };
    let app_service = |endpoint: &str, thumbprint: &str| {
        let installation = installation();
        let endpoint = endpoint.replace("URL", installation.simulator.url());
        let variables = [
            ("IDENTITY_ENDPOINT", endpoint.as_str()),
            ("IDENTITY_HEADER", "wrong"),
            ("IDENTITY_SERVER_THUMBPRINT", thumbprint),
        ];
        identity(&installation, "system", &variables)
    };
    vec![
        identity(&installation(), "system", &[("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://127.0.0.1:1")]),
        imds(None, "system"),
        imds(None, user),
        imds(Some(Fault::json(400, resource)), "system"),
        imds(Some(Fault::status(404)), "system"),
        imds(Some(Fault::json(200, "{}")), "system"),
        app_service("URL/msi/token", ""),
        app_service("URL/msi/token", "00"),
        app_service("localhost", ""),
        arc(user, ""),
        arc("system", "/var/opt/azcmagent/tokens/missing.key"),
        arc("system", "/etc/shadow"),
    ]
}

/// Returns the source code, with each string in one line.
fn source() -> String {
    let mut text = String::new();
    let mut folders = vec![repository("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("a readable folder").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                text.push_str(&fs::read_to_string(path).expect("a file"));
            }
        }
    }
    text.split("\\\n").map(str::trim_start).collect()
}

/// Returns whether a line of the log matches a quote of the page, in which `…` matches any text.
fn matches_quote(line: &str, quote: &str) -> bool {
    let mut rest = Some(line);
    let mut parts = quote.split('…').peekable();
    while let (Some(part), Some(left)) = (parts.next(), rest) {
        rest = match parts.peek() {
            None => left.ends_with(part).then_some(""),
            Some(_) => left.find(part).map(|place| &left[place + part.len()..]),
        };
    }
    rest.is_some() && line.starts_with(quote.split('…').next().expect("a part"))
}

#[test]
fn the_page_shows_what_check_prints() {
    let installation = installation();
    installation.contoso.settings(|settings| settings.roles = Some(vec!["ActivityFeed.Read".to_owned()]));
    let run = installation.run(&["check"]);
    run.assert_code(1);

    installation.contoso.settings(|settings| settings.roles = Some(Vec::new()));
    installation.simulator.identities(|identities| {
        CONTOSO.clone_into(&mut identities.tenant);
        identities.has_system = true;
    });
    let path = installation.path("identity.yaml");
    fs::write(&path, installation.config_with_identity("system")).expect("a file");
    set_mode(&path, 0o600);
    let mut command = installation.command(&["--config", "identity.yaml", "check"]);
    let as_identity = Run::of(command.env("AZURE_POD_IDENTITY_AUTHORITY_HOST", installation.simulator.url()));
    as_identity.assert_code(1);
    let page = Page::read("docs/TROUBLESHOOTING.md");
    let quoted: Vec<_> = page.blocks("check").into_iter().flat_map(str::lines).collect();
    assert!(!quoted.is_empty());
    for line in quoted {
        let mut printed = run.stdout.lines().chain(as_identity.stdout.lines());
        assert!(
            printed.any(|printed| matches_quote(printed, line)),
            "no line {line:?} in {run}{as_identity}"
        );
    }
}

#[test]
fn the_program_logs_every_quoted_message() {
    let page = Page::read("docs/TROUBLESHOOTING.md");
    let in_code = page.quoted();
    let in_tables = in_code.iter().map(String::as_str).filter(|text| text.starts_with('['));
    let messages: BTreeSet<_> =
        page.blocks("log").into_iter().flat_map(str::lines).chain(in_tables).collect();
    assert!(messages.len() > 30, "{messages:?}");

    let kinds = [
        failures_of_microsoft,
        unusual_responses,
        slow_servers,
        failures_of_files_and_records,
        failures_of_this_machine,
        failures_of_managed_identities,
    ];
    let runs: Vec<_> = thread::scope(|scope| {
        let threads = kinds.map(|kind| scope.spawn(kind));
        threads.into_iter().flat_map(|thread| thread.join().expect("the thread does not panic")).collect()
    });
    for FailedRun { code, run } in &runs {
        run.assert_code(*code);
    }
    let lines: BTreeSet<_> = runs.iter().flat_map(|failed| failed.run.log()).collect();
    let source = source();
    let mut unused_ends: BTreeSet<_> = ENDS_IN_SOURCE.into_iter().collect();
    for message in messages {
        if lines.iter().any(|line| matches_quote(line, message)) {
            continue;
        }
        let end = ENDS_IN_SOURCE.into_iter().find(|end| message.ends_with(end));
        let end = end.unwrap_or_else(|| panic!("no run logs {message:?}\n{lines:#?}"));
        assert!(source.contains(end), "the source does not contain {end:?}");
        unused_ends.remove(end);
    }
    assert!(unused_ends.is_empty(), "the page does not contain {unused_ends:?}");
}
