//! `check`: it prints a line for each step, with a hint if the step fails. Only the steps that depend on a failed step are
//! skipped.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    path::Path,
};

use fs2::FileExt;
use jiff::SignedDuration;
use rustix::process::Signal;
use simulator::{LoginError, Operation, Subscription};

use crate::{
    network::behind_a_proxy,
    support::{
        FABRIKAM, Installation, Run, documents,
        forward::{ForwardOptions, ForwardReceiver},
        http::HttpReceiver,
        listener::unused_port,
        process::{signal, wait_until},
        proxy::{Proxy, ProxyBehavior},
        set_mode,
        tls::{certificate, start_simulator},
    },
};

const KEY: &str = "a-key-that-must-stay-secret";

const API_PERMISSIONS: &str = "grant it as an application permission (not a delegated one)";

/// Runs `check` and asserts its exit code, and that it prints no secret.
#[track_caller]
fn check(installation: &Installation, code: i32) -> Run {
    let run = installation.run(&["check"]);
    run.assert_code(code);
    assert_no_secret(installation, &run);
    run
}

/// Asserts that the program printed neither the tenants' secret, nor a receiver's key, nor a part of a token.
#[track_caller]
fn assert_no_secret(installation: &Installation, run: &Run) {
    let printed = run.to_string();
    for seen in installation.simulator.requests() {
        let token = seen.request.header("Authorization").unwrap_or_default();
        for part in token.trim_start_matches("Bearer ").split('.').filter(|part| !part.is_empty()) {
            assert!(!printed.contains(part), "a part of a token: {printed}");
        }
    }
    let config = installation.config();
    let secret = config.lines().find_map(|line| line.trim().strip_prefix("client_secret: "));
    assert!(!printed.contains(secret.expect("a secret")) && !printed.contains(KEY), "a secret: {printed}");
}

/// Asserts that one line starts with this text and contains these parts.
#[track_caller]
fn assert_shown(run: &Run, start: &str, parts: &[&str]) {
    let matches = |line: &str| line.starts_with(start) && parts.iter().all(|part| line.contains(part));
    assert!(run.stdout.lines().any(matches), "no line {start:?} with {parts:?} in {run}");
}

/// Returns a URL of this machine on whose port nothing listens.
fn unused_url() -> String {
    format!("http://127.0.0.1:{}", unused_port())
}

/// Returns every file and folder below a folder, with its length.
fn files_below(folder: &Path) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let entry = entry.expect("a readable folder");
        found.push((entry.path().display().to_string(), entry.metadata().expect("a file").len()));
        found.extend(files_below(&entry.path()));
    }
    found.sort();
    found
}

#[test]
fn reports_each_step_that_succeeds() {
    let receiver = ForwardReceiver::start(ForwardOptions { key: Some(KEY), ..ForwardOptions::default() });
    let installation = Installation::new().with_output(&receiver.config(&format!("sharedKey: {KEY}")));
    let (log, metrics) = (installation.path("collector.log"), installation.path("office365.prom"));
    let installation = installation
        .setting(&format!("log: {{ path: {} }}", log.display()))
        .setting(&format!("metrics: {{ path: {} }}", metrics.display()));
    installation.contoso.subscribe("DLP.All");
    let run = check(&installation, 0);
    let server = installation.simulator.url().strip_prefix("http://").expect("a URL");
    // The precision is that of the response time.
    let clock =
        run.stdout.lines().find(|line| line.starts_with("✓ clock: within ")).expect("a line about the clock");
    assert!(clock.ends_with(&format!(" s of that of {server}")), "{clock}");
    let expected = [
        "✓ The configuration is valid",
        &format!("✓ connection: {server} answers"),
        clock,
        "✓ contoso: logged in",
        "✓ contoso: the token permits ActivityFeed.Read and ActivityFeed.ReadDlp",
        "✓ contoso: subscribed to DLP.All",
        "✓ contoso: not yet subscribed to Audit.Exchange; the first pass starts it",
        "✓ contoso: not yet subscribed to Audit.SharePoint; the first pass starts it",
        "✓ contoso: not yet subscribed to Audit.AzureActiveDirectory; the first pass starts it",
        "✓ contoso: not yet subscribed to Audit.General; the first pass starts it",
        &format!("✓ state: can be written in {}", installation.path("state").display()),
        "✓ output.file: can be written",
        "✓ output.fluentd: can be reached",
        &format!("✓ log.path: {} can be written", log.display()),
        &format!("✓ metrics.path: {} can be replaced", metrics.display()),
    ];
    assert_eq!(run.stdout.lines().collect::<Vec<_>>(), expected, "{run}");
    assert_eq!(run.stderr, "", "the log is empty");
    installation.assert_no_violations();
}

#[test]
fn changes_no_file_and_no_subscription() {
    let installation = Installation::new();
    check(&installation, 0);
    assert!(!installation.path("state").exists() && !installation.path("output").exists());
    installation.run(&[]).assert_code(0);
    let before = files_below(&installation.path("."));
    check(&installation, 0);
    assert_eq!(files_below(&installation.path(".")), before);
    let operations = [Operation::StartSubscription, Operation::ListContent].map(|operation| {
        installation.simulator.forget_requests();
        check(&installation, 0);
        installation.simulator.count(operation)
    });
    assert_eq!(operations, [0, 0]);
}

#[test]
fn checks_the_other_steps_if_a_name_does_not_resolve() {
    let name = format!("{}.test", "a".repeat(64)); // longer than a DNS label can be, so that no name server is queried
    let installation = Installation::new().at(&format!("https://{name}"));
    let run = check(&installation, 77);
    assert_shown(&run, "✗ DNS: ", &[&name, "cannot be resolved", "check DNS"]);
    assert_shown(&run, "– contoso: login: not checked", &[&name]);
    assert_shown(&run, "✓ state: can be written", &[]);
    assert_shown(&run, "✓ output.file: can be written", &[]);
    assert_eq!(run.stdout.matches(&name).count(), 2, "once for DNS and once for the login: {run}");
}

#[test]
fn reports_a_closed_port_with_a_hint() {
    let installation = Installation::new().at(&unused_url());
    let run = check(&installation, 77);
    assert_shown(&run, "✗ connection: 127.0.0.1:", &["refused", "check DNS, the firewall, and the proxy"]);
    assert_shown(&run, "– contoso: login: not checked", &[]);
    assert_shown(&run, "✓ output.file: can be written", &[]);
}

#[test]
fn checks_permissions_if_the_api_cannot_be_reached() {
    let installation = Installation::new();
    let api = format!("api_url: {}", installation.simulator.url());
    let config = installation.config().replace(&api, &format!("api_url: {}", unused_url()));
    fs::write(installation.path("other-api.yaml"), config).expect("a file");
    let run = installation.run_bare(&["--config", "other-api.yaml", "check"]);
    run.assert_code(1);
    assert_shown(&run, "✓ contoso: logged in", &[]);
    assert_shown(&run, "✓ contoso: the token permits", &[]);
    assert_shown(&run, "✗ connection: 127.0.0.1:", &["refused"]);
    assert_shown(&run, "– contoso: subscriptions: not checked", &[]);
}

#[test]
fn reports_an_untrusted_certificate_and_sends_no_secret() {
    let installation = Installation::against(start_simulator("localhost", "here.pem"));
    let run = check(&installation, 77);
    assert_shown(&run, "✓ DNS: localhost is 127.0.0.1", &[]);
    assert_shown(&run, "✗ connection: the server's certificate is not trusted: localhost:", &["ca_file"]);
    assert_eq!(installation.simulator.count(Operation::Login), 0);

    let with_root = installation.setting(&format!("ca_file: {}", certificate("private_root.pem")));
    assert_shown(&check(&with_root, 0), "✓ connection: localhost:", &["its certificate is trusted"]);
}

#[test]
fn connects_through_the_configured_proxy() {
    let installation = behind_a_proxy();
    let check_through = |proxy: &Proxy, code| {
        let config = installation.config_file();
        let arguments = ["--config", config.to_str().expect("text"), "check"];
        let mut command = installation.command(&arguments);
        command.env("HTTPS_PROXY", proxy.url("collector:hunter2"));
        let run = Run::of(&mut command);
        assert!(!run.to_string().contains("hunter2"), "{run}");
        run.assert_code(code);
        run
    };
    let run = check_through(&Proxy::start(ProxyBehavior::Open), 0);
    assert_shown(&run, "✓ connection: office.test:", &["through the proxy 127.0.0.1:", "is trusted"]);
    assert_shown(&run, "✓ contoso: logged in", &[]);
    let run = check_through(&Proxy::start(ProxyBehavior::Reject(407)), 77);
    assert_shown(&run, "✗ connection: office.test:", &["407", "give the proxy's user and password"]);
    assert_shown(&run, "– contoso: login: not checked", &[]);
}

#[test]
fn resolves_the_proxys_name_instead_of_the_servers() {
    let name = "b".repeat(64);
    let installation = behind_a_proxy().setting(&format!("proxy: http://{name}.test:3128"));
    let run = check(&installation, 77);
    assert_shown(&run, "✗ DNS: ", &[&name, "cannot be resolved"]);
    assert!(!run.stdout.contains("DNS: office.test"), "{run}");
}

#[test]
fn checks_the_later_steps_if_the_secret_is_wrong() {
    let installation = Installation::new();
    installation.contoso.settings(|settings| settings.login_error = Some(LoginError::WrongSecret));
    let run = check(&installation, 77);
    assert_shown(
        &run,
        "✗ contoso: login: AADSTS7000215 the client secret is wrong",
        &["Certificates & secrets"],
    );
    assert_shown(&run, "✓ output.file: can be written", &[]);
    assert_eq!(installation.simulator.count(Operation::Login), 1, "the login is not retried");
}

#[test]
fn reads_credential_files_even_if_no_server_can_be_reached() {
    let installation = Installation::new().at(&unused_url());
    let config = installation.config_with_credential("federated_token_file: missing");
    fs::write(installation.path("federated.yaml"), config).expect("a file");
    let run = installation.run_bare(&["--config", "federated.yaml", "check"]);
    assert_shown(run.assert_code(77), "✗ contoso: login: federated_token_file missing", &["check the path"]);
}

#[test]
fn names_missing_permissions() {
    let installation = Installation::new();
    let grant = |roles: &[&str]| {
        let roles = roles.iter().map(|&role| role.to_owned()).collect();
        installation.contoso.settings(|settings| settings.roles = Some(roles));
    };
    grant(&["ServiceHealth.Read"]);
    let run = check(&installation, 1);
    assert_shown(&run, "✗ contoso: the token lacks ActivityFeed.Read; ", &[API_PERMISSIONS, "admin consent"]);
    assert_shown(&run, "✗ contoso: the token lacks ActivityFeed.ReadDlp; ", &["remove DLP.All"]);
    assert_shown(&run, "✗ contoso: subscriptions: HTTP 401 AF10001", &[]);

    grant(&["ActivityFeed.Read"]);
    let run = check(&installation, 1);
    assert_shown(&run, "✗ contoso: the token lacks ActivityFeed.ReadDlp; ", &[API_PERMISSIONS]);
    assert_eq!(run.stdout.matches('✗').count(), 1, "one failed step: {run}");

    let installation = installation.setting("subscriptions: [ Audit.General ]");
    let run = check(&installation, 0);
    assert_shown(&run, "✓ contoso: the token permits ActivityFeed.Read", &[]);
}

#[test]
fn succeeds_with_an_opaque_token() {
    let installation = Installation::new();
    installation.contoso.settings(|settings| settings.roles = None);
    let run = check(&installation, 0);
    assert_shown(&run, "– contoso: permissions: not checked, because the token is not a JWT", &[]);
    assert_shown(&run, "✓ contoso: not yet subscribed to DLP.All", &[]);
}

#[test]
fn warns_about_a_disabled_subscription() {
    let installation = Installation::new();
    installation.contoso.set_subscription("Audit.Exchange", Some(Subscription::Disabled));
    installation.contoso.set_subscription("audit.general", Some(Subscription::WithoutStatus));
    let run = check(&installation, 0);
    assert_shown(&run, "! contoso: the subscription to Audit.Exchange is disabled; ", &["starts it again"]);
    assert_shown(&run, "✓ contoso: subscribed to Audit.General", &[]);
}

#[test]
fn reports_each_path_that_cannot_be_written_with_a_hint() {
    let receiver = ForwardReceiver::plain();
    let installation = Installation::new().with_output(&receiver.config(""));
    fs::write(installation.path("output"), "a file where a folder should be").expect("a file");
    let run = check(&installation, 74);
    assert_shown(&run, "✗ output.file: cannot write ", &["DLPAll.json", "choose a path whose folder"]);
    assert_shown(&run, "✓ output.fluentd: can be reached", &[]);

    fs::write(installation.path("state"), "a file where a folder should be").expect("a file");
    let installation = installation
        .setting("log: { path: missing/collector.log }")
        .setting("metrics: { path: missing/office365.prom }");
    let run = check(&installation, 74);
    assert_shown(&run, "✗ state: cannot open ", &["known_blobs", "choose a path whose folder"]);
    assert_shown(&run, "✗ output.file: cannot write ", &[]);
    assert_shown(&run, "✗ log.path: cannot write missing/collector.log: ", &["choose a path whose folder"]);
    assert_shown(&run, "✗ metrics.path: cannot replace missing/office365.prom: ", &["choose a path"]);
    assert_shown(&run, "✓ contoso: logged in", &[]);
}

#[test]
fn reports_a_receiver_that_is_absent_or_rejects_the_key() {
    let port = unused_port();
    let absent =
        Installation::new().with_output(&format!("  fluentd:\n    address: 127.0.0.1\n    port: {port}"));
    let run = check(&absent, 1);
    assert_shown(&run, "✗ output.fluentd: 127.0.0.1:", &["nothing listens there", "start the receiver"]);
    assert_shown(&run, "✓ output.file: can be written", &[]);

    let receiver =
        ForwardReceiver::start(ForwardOptions { key: Some("another key"), ..ForwardOptions::default() });
    let installation = Installation::new().with_output(&receiver.config(&format!("sharedKey: {KEY}")));
    let run = check(&installation, 1);
    assert_shown(&run, "✗ output.fluentd: 127.0.0.1:", &["sharedKey"]);
    assert!(receiver.chunks().is_empty());
}

#[test]
fn checks_every_enabled_output_even_if_another_fails() {
    let outputs = |port: u16| {
        format!(
            "  graylog: {{ address: 127.0.0.1, port: {port} }}\n  http: {{ url: 'http://127.0.0.1:{port}/' }}\n  \
             stdout: {{ enabled: true }}"
        )
    };
    let run = check(&Installation::new().with_output(&outputs(unused_port())), 1);
    assert_shown(&run, "✗ output.graylog: 127.0.0.1:", &["nothing listens there"]);
    assert_shown(&run, "✗ output.http: 127.0.0.1:", &["refused"]);
    assert_shown(&run, "✓ output.stdout: needs nothing", &[]);

    let receiver = HttpReceiver::accepting();
    let run = check(&Installation::new().with_output(&outputs(receiver.port())), 0);
    assert_shown(&run, "✓ output.graylog: can be reached", &[]);
    assert_shown(&run, "✓ output.http: can be reached", &[]);
    assert!(receiver.requests().iter().all(|request| request.body.is_empty()), "check sends no record");
}

#[test]
fn succeeds_while_a_pass_holds_the_lock() {
    let installation = Installation::new();
    fs::create_dir(installation.path("state")).expect("a folder");
    let file = fs::File::create(installation.path("state/known_blobs")).expect("a file");
    file.lock_exclusive().expect("a free lock");
    let run = check(&installation, 0);
    assert_shown(&run, "– state: not checked, because a pass is running", &["known_blobs"]);
    drop(file);
    assert_shown(&check(&installation, 0), "✓ state: can be written in ", &[]);
}

#[test]
fn warns_about_a_wrong_clock() {
    let installation = Installation::new();
    for (hours, side) in [(2, "behind"), (-2, "ahead of")] {
        installation.simulator.set_clock_skew(SignedDuration::from_hours(hours));
        let run = check(&installation, 0);
        assert_shown(&run, "! clock: ", &[&format!(" s {side} that of 127.0.0.1:"), "timedatectl"]);
    }
}

#[test]
fn stops_at_configuration_mistakes_but_not_at_warnings() {
    let installation = Installation::new();
    fs::write(installation.path("wrong.yaml"), format!("intervall: 5m\n{}", installation.config()))
        .expect("a file");
    let run = installation.run_bare(&["--config", "wrong.yaml", "check"]);
    run.assert_code(78).assert_line_with(&["[ERROR] wrong.yaml", "interval"]);
    assert_eq!(run.stdout, "✗ The configuration is wrong; fix what the log lists, then check again\n");

    set_mode(&installation.config_file(), 0o644);
    let run = check(&installation, 0);
    assert_shown(&run, "! ", &["config.yaml", "other users can read it", "chmod 600"]);
    assert_shown(&run, "✓ contoso: logged in", &[]);
    assert_eq!(run.stderr, "", "what check prints is not logged as well");

    fs::write(installation.path("roots.pem"), "no certificate").expect("a file");
    let roots = format!("ca_file: {}", installation.path("roots.pem").display());
    let run = check(&installation.setting(&roots), 78);
    assert_shown(
        &run,
        "✗ ca_file ",
        &["roots.pem: contains no readable PEM certificate; ", "-----BEGIN CERTIFICATE-----"],
    );
    assert_shown(&run, "✓ output.file: can be written", &[]);
}

#[test]
fn checks_each_host_once_and_each_tenant() {
    let (installation, fabrikam) = Installation::with_fabrikam();
    fabrikam.settings(|settings| settings.login_error = Some(LoginError::UnknownClient));
    let run = check(&installation, 1);
    assert_eq!(run.stdout.matches("✓ connection: ").count(), 1, "{run}");
    assert_shown(&run, "✓ contoso: logged in", &[]);
    assert_shown(&run, "✗ fabrikam: login: AADSTS700016", &["check client_id"]);

    let run = installation.run(&["check", "--tenant", "contoso"]);
    assert!(!run.assert_code(0).stdout.contains("fabrikam"), "{run}");
    let logged_in: usize = ["0/2", "1/2"]
        .map(|shard| installation.run(&["check", "--shard", shard]).stdout.matches(": log").count())
        .iter()
        .sum();
    assert_eq!(logged_in, 2, "each tenant belongs to one shard");
}

#[test]
fn checks_the_storage_of_a_shard_without_tenants() {
    let installation = Installation::new();
    let runs = ["0/2", "1/2"].map(|shard| installation.run(&["check", "--shard", shard]));
    let empty = runs.iter().find(|run| !run.stdout.contains("contoso")).expect("an empty shard");
    assert_shown(empty.assert_code(0), "– No tenant belongs to this shard", &[]);
    assert_shown(empty, "✓ state: can be written", &[]);
    assert_eq!(installation.simulator.count(Operation::Login), 1);
}

#[test]
fn a_signal_ends_the_wait_for_a_silent_server() {
    for (name, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        listener.set_nonblocking(true).expect("a listening socket");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let installation = Installation::new().at(&url);
        let mut command = installation.pass();
        let child = command.arg("check").spawn().expect("the program starts");
        let mut connection = None;
        wait_until("check connects", || {
            connection = listener.accept().ok();
            connection.is_some()
        });
        signal(&child, name);
        Run::finish(child).assert_code(code);
        drop(connection); // it stays open and silent until check has ended
    }
}

#[test]
fn reports_a_token_of_another_tenant() {
    let installation = Installation::new();
    installation.contoso.settings(|settings| FABRIKAM.clone_into(&mut settings.id));
    let run = check(&installation, 1);
    assert_shown(&run, &format!("✗ contoso: the token is of the tenant {FABRIKAM}; "), &["check tenant_id"]);
}

/// Runs `check --offline`, and asserts that it has connected to none of these.
#[track_caller]
fn check_offline(installation: &Installation, config: &str, code: i32, receivers: &[&TcpListener]) -> Run {
    let run = installation.run_bare(&["--config", config, "check", "--offline"]);
    run.assert_code(code);
    assert_no_secret(installation, &run);
    assert_eq!(installation.simulator.connections(), 0, "{run}");
    for receiver in receivers {
        receiver.set_nonblocking(true).expect("a socket");
        let waiting = receiver.accept().map_err(|error| error.kind());
        assert!(matches!(waiting, Err(std::io::ErrorKind::WouldBlock)), "a connection: {run}");
    }
    run
}

/// Writes a configuration that only its owner can read, and returns its path.
fn private(installation: &Installation, config: &str) -> String {
    let path = installation.path("offline.yaml");
    fs::write(&path, config).expect("a file");
    set_mode(&path, 0o600);
    path.to_str().expect("a path of text").to_owned()
}

#[test]
fn offline_connects_to_nothing_and_checks_the_rest() {
    let receiver = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = receiver.local_addr().expect("an address").port();
    let installation = Installation::new().with_output(&format!(
        "  fluentd: {{ address: 127.0.0.1, port: {port}, sharedKey: {KEY} }}\n  \
         graylog: {{ address: 127.0.0.1, port: {port} }}\n  http: {{ url: 'http://127.0.0.1:{port}/' }}\n  \
         stdout: {{ enabled: true }}"
    ));
    let (log, metrics) = (installation.path("collector.log"), installation.path("office365.prom"));
    let installation = installation
        .setting(&format!("log: {{ path: {} }}", log.display()))
        .setting(&format!("metrics: {{ path: {} }}", metrics.display()));
    let before = files_below(&installation.path("."));
    let run = check_offline(&installation, &private(&installation, &installation.config()), 0, &[&receiver]);
    let expected = [
        "✓ The configuration is valid",
        "✓ contoso: a client secret is set; only Microsoft knows when it expires",
        "– contoso: login, permissions and subscriptions: not checked offline",
        &format!("✓ state: can be written in {}", installation.path("state").display()),
        "✓ output.file: can be written",
        "– output.fluentd: the receiver is not checked offline",
        "– output.http: the receiver is not checked offline",
        "– output.graylog: the receiver is not checked offline",
        "✓ output.stdout: needs nothing",
        &format!("✓ log.path: {} can be written", log.display()),
        &format!("✓ metrics.path: {} can be replaced", metrics.display()),
    ];
    assert_eq!(run.stdout.lines().collect::<Vec<_>>(), expected, "{run}");
    assert_eq!(run.stderr, "");
    fs::remove_file(installation.path("offline.yaml")).expect("a file");
    assert_eq!(files_below(&installation.path(".")), before, "nothing is changed");
}

#[test]
fn offline_resolves_no_name() {
    let installation = Installation::new()
        .at("https://office.invalid")
        .setting("proxy: 'http://proxy.invalid:3128'")
        .with_output("  fluentd: { address: logs.invalid }\n  http: { url: 'https://logs.invalid/' }");
    let config = private(&installation, &installation.config());
    check_offline(&installation, &config, 0, &[]);
    assert_shown(
        &installation.run_bare(&["--config", &config, "check"]),
        "✗ DNS: ",
        &["proxy.invalid", "cannot be resolved"],
    );
}

#[test]
fn offline_finds_credentials_that_cannot_be_used() {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let (installation, _) = Installation::with_fabrikam();
    let file =
        |name: &str| documents::repository(&format!("tests/certificates/{name}")).display().to_string();
    let token = |expiry: i64| {
        let claims = URL_SAFE_NO_PAD.encode(format!(r#"{{"exp":{expiry}}}"#));
        fs::write(installation.path("token"), format!("e30.{claims}.c2lnbmF0dXJl\n")).expect("a file");
    };
    token(1_600_000_000);
    let certificate = |name: &str| format!("certificate: {{ file: '{}' }}", file(name));
    for (credential, code, start, part) in [
        (certificate("combined.pem"), 0, "✓ contoso: the certificate is valid until 2120-01-01", ""),
        (certificate("expired.pem"), 1, "✗ contoso: login: certificate.file ", "expired.pem"),
        (certificate("missing.pem"), 1, "✗ contoso: login: certificate.file ", "check the path"),
        (
            "federated_token_file: token".to_owned(),
            1,
            "✗ contoso: login: the token in token",
            "expired at 2020-",
        ),
        (
            "client_secret: 33333333-3333-4333-8333-333333333333".to_owned(),
            0,
            "! ",
            "tenants[0].client_secret: looks like the secret's ID, but logging in needs its Value",
        ),
    ] {
        let config = private(&installation, &installation.config_with_credential(&credential));
        assert_shown(&check_offline(&installation, &config, code, &[]), start, &[part]);
    }
    token(4_000_000_000);
    let with_token = installation.config_with_credential("federated_token_file: token");
    let config = private(&installation, &with_token);
    let run = check_offline(&installation, &config, 0, &[]);
    assert_shown(&run, "✓ contoso: the token in token can be read", &[]);
    token(1_600_000_000);
    let run = installation.run_bare(&["-c", &config, "--tenant", "contoso", "check", "--offline"]);
    run.assert_code(77);
}

#[test]
fn offline_has_the_exit_codes_of_a_check() {
    let installation = Installation::new();
    let wrong = private(&installation, &format!("intervall: 5m\n{}", installation.config()));
    check_offline(&installation, &wrong, 78, &[]);
    let tls = |file: &str| {
        let outputs = format!("  graylog: {{ address: logs.invalid, tls: {{ ca_file: {file} }} }}");
        installation.config_with_output(&outputs)
    };
    fs::write(installation.path("roots.pem"), "no certificate").expect("a file");
    let run = check_offline(&installation, &tls("roots.pem"), 1, &[]);
    assert_shown(&run, "✗ output.graylog: ", &["tls.ca_file", "roots.pem"]);
    let https = installation
        .config_with_output("  http: { url: 'https://logs.invalid/', tls: { ca_file: roots.pem } }");
    let run = check_offline(&installation, &https, 1, &[]);
    assert_shown(&run, "✗ output.http: ", &["tls.ca_file", "roots.pem"]);
    fs::write(installation.path("output"), "a file where a folder should be").expect("a file");
    let config = private(&installation, &installation.config());
    let run = check_offline(&installation, &config, 74, &[]);
    assert_shown(&run, "✗ output.file: cannot write ", &["choose a path whose folder"]);
}
