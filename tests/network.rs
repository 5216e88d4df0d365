//! Connections to Microsoft's services: proxies, private roots, untrusted certificates, IPv6, host names that cannot be
//! resolved, lost connections.

use std::{
    io::{self, Read, Write},
    net::Ipv6Addr,
    sync::mpsc,
};

use simulator::{Fault, NewBlob, Operation, Requests, Simulator};

use crate::support::{
    Installation, hours_ago,
    listener::Listener,
    process::WAIT_MAX,
    proxy::{Proxy, ProxyBehavior},
    tls::{certificate, start_simulator},
};

const PROXY_VARIABLES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];

/// The credentials `collector:p@ss`.
const AUTHORIZATION: &str = "Basic Y29sbGVjdG9yOnBAc3M=";

/// Contoso with this simulator and some records.
fn installation(simulator: Simulator) -> Installation {
    let installation = Installation::against(simulator);
    installation.contoso.add_blobs("Audit.General", 3, 2, hours_ago(20)..hours_ago(2));
    installation
}

/// Contoso under TLS, at a host name that only a proxy can resolve.
pub fn behind_a_proxy() -> Installation {
    installation(start_simulator("office.test", "here.pem"))
        .setting(&format!("ca_file: {}", certificate("private_root.pem")))
}

/// Starts a server that answers the first byte of a client with these bytes. Returns its URL, and where to get what the client
/// sends after that.
fn start_server(answer: Vec<u8>) -> (String, mpsc::Receiver<Vec<u8>>) {
    let (sender, received) = mpsc::channel();
    let listener = Listener::start(move |mut client| {
        client.read_exact(&mut [0])?;
        client.write_all(&answer)?;
        let mut bytes = Vec::new();
        client.read_to_end(&mut bytes)?;
        sender.send(bytes).map_err(io::Error::other)
    });
    (format!("https://{}", listener.address()), received)
}

/// Asserts that every connection to the simulator was a tunnel of the proxy, and that all records were delivered.
#[track_caller]
fn assert_collected_through(proxy: &Proxy, installation: &Installation) {
    let targets = proxy.targets();
    let host = installation.simulator.url().split('/').nth(2).expect("a host and a port");
    assert!(!targets.is_empty() && targets.iter().all(|target| target == host), "{targets:?}");
    assert_eq!(targets.len(), installation.simulator.connections());
    installation.assert_delivered_once([(&installation.contoso, "Audit.General")]);
    installation.assert_no_violations();
}

#[test]
fn uses_configured_proxy() {
    for installation in [installation(Simulator::start()), behind_a_proxy()] {
        let proxy = Proxy::start(ProxyBehavior::Open);
        let installation = installation.setting(&format!("proxy: {}", proxy.url("")));
        installation.run(&[]).assert_code(0);
        assert_collected_through(&proxy, &installation);
    }
}

#[test]
fn uses_proxy_of_environment() {
    for variable in PROXY_VARIABLES {
        let (proxy, installation) = (Proxy::start(ProxyBehavior::Open), behind_a_proxy());
        installation.run_with_environment(&[(variable, &proxy.url(""))]).assert_code(0);
        assert_collected_through(&proxy, &installation);
    }
}

#[test]
fn authenticates_to_proxy() {
    let proxy = Proxy::start(ProxyBehavior::Authorize(AUTHORIZATION));
    let installation = behind_a_proxy().setting(&format!("proxy: \"{}\"", proxy.url("collector:p%40ss")));
    installation.run(&[]).assert_code(0);
    assert_collected_through(&proxy, &installation);
}

#[test]
fn reports_rejecting_proxy_with_hint_and_without_retry() {
    for (behavior, credentials, status) in [
        (ProxyBehavior::Authorize(AUTHORIZATION), "", "407"),
        (ProxyBehavior::Authorize(AUTHORIZATION), "collector:hunter2", "407"),
        (ProxyBehavior::Reject(403), "collector:hunter2", "403"),
    ] {
        let (proxy, installation) = (Proxy::start(behavior), behind_a_proxy());
        let run = installation.run_with_environment(&[("HTTPS_PROXY", &proxy.url(credentials))]);
        run.assert_code(77).assert_line_with(&[
            "[ERROR] Authentication failed for contoso: office.test:",
            "through the proxy 127.0.0.1:",
            status,
            "give the proxy's user and password",
        ]);
        assert_eq!(proxy.targets().len(), 1, "{run}");
        assert!(!run.stderr.contains("hunter2"), "{run}");
    }
}

#[test]
fn retries_after_server_error_of_proxy() {
    let (proxy, installation) =
        (Proxy::start(ProxyBehavior::Reject(503)), behind_a_proxy().collect("retries: 1"));
    let run = installation.run_with_environment(&[("HTTPS_PROXY", &proxy.url(""))]);
    run.assert_code(77).assert_line_with(&["[WARN] Retrying login for contoso", "503"]);
    assert_eq!(proxy.targets().len(), 2);
}

#[test]
fn applies_no_proxy_to_configured_and_environment_proxy() {
    let installation = installation(Simulator::start());
    let port = installation.simulator.url().rsplit(':').next().expect("a port").to_owned();
    let proxy = Proxy::start(ProxyBehavior::Open);
    let installation =
        installation.setting(&format!("proxy: {}", proxy.url(""))).collect("skipKnownLogs: false");
    for variable in ["NO_PROXY", "no_proxy"] {
        for list in ["*", "127.0.0.1", "one.example , 127.0.0.1", &format!("127.0.0.1:{port}"), ".0.0.1"] {
            installation.run_with_environment(&[(variable, list)]).assert_code(0);
            assert_eq!(proxy.targets(), [""; 0], "{variable}={list}");
        }
    }
    installation.run_with_environment(&[("NO_PROXY", "127.0.0.1:1, 0.0.1")]).assert_code(0);
    assert!(!proxy.targets().is_empty());

    let (proxy, installation) = (Proxy::start(ProxyBehavior::Open), behind_a_proxy().collect("retries: 0"));
    installation
        .run_with_environment(&[("HTTPS_PROXY", &proxy.url("")), ("NO_PROXY", ".test")])
        .assert_code(77);
    assert_eq!(proxy.targets(), [""; 0]);
}

#[test]
fn does_not_use_proxy_of_environment_for_loopback() {
    let (proxy, installation) = (Proxy::start(ProxyBehavior::Open), installation(Simulator::start()));
    let url = proxy.url("");
    let variables = PROXY_VARIABLES.map(|variable| (variable, url.as_str()));
    installation.run_with_environment(&variables).assert_code(0);
    assert_eq!(proxy.targets(), [""; 0]);
}

#[test]
fn reports_invalid_proxy_of_environment_without_password() {
    let installation = behind_a_proxy();
    for url in
        ["http://collector:hunter2@", "http://collector:hunter2@host:port", "socks5://collector:hunter2@host"]
    {
        let run =
            installation.run_with_environment(&[("HTTPS_PROXY", url), ("ALL_PROXY", "http://127.0.0.1:1")]);
        run.assert_code(78)
            .assert_line_with(&["[ERROR] HTTPS_PROXY: not an HTTP proxy's URL", "http://host:port"]);
        assert!(!run.stderr.contains("hunter2"), "{run}");
    }
    assert_eq!(installation.simulator.connections(), 0);
}

#[test]
fn trusts_roots_of_ca_file_and_of_system() {
    let public = start_simulator("localhost", "here_publicly.pem");
    let mut installation = installation(start_simulator("127.0.0.1", "here.pem"));
    let fabrikam = installation.add_fabrikam_at(&public);
    fabrikam.add_blob("Audit.General", NewBlob::records(2).created(hours_ago(2)));
    let installation = installation.setting(&format!("ca_file: {}", certificate("private_root.pem")));
    installation.run_with_environment(&[("SSL_CERT_FILE", &certificate("public_root.pem"))]).assert_code(0);
    installation
        .assert_delivered_once([(&installation.contoso, "Audit.General"), (&fabrikam, "Audit.General")]);
}

#[test]
fn trusts_roots_of_system_by_default() {
    let installation = installation(start_simulator("localhost", "here_publicly.pem"));
    installation.run_with_environment(&[("SSL_CERT_FILE", &certificate("public_root.pem"))]).assert_code(0);
    installation.assert_delivered_once([(&installation.contoso, "Audit.General")]);
}

#[test]
fn reports_untrusted_certificate_with_hint_and_without_retry() {
    let private_root = format!("ca_file: {}", certificate("private_root.pem"));
    for (name, setting, reason) in [
        ("here.pem", "", "UnknownIssuer"),
        ("here_publicly.pem", private_root.as_str(), "UnknownIssuer"),
        ("elsewhere.pem", &private_root, "elsewhere.test"),
        ("expired.pem", &private_root, "expired"),
    ] {
        let installation = installation(start_simulator("localhost", name)).setting(setting);
        let run = installation.run(&[]);
        run.assert_code(77).assert_line_with(&[
            "[ERROR] Authentication failed for contoso: the server's certificate is not trusted: localhost:",
            reason,
            "give its root certificate in ca_file",
        ]);
        assert_eq!(installation.simulator.connections(), 1, "{name}: {run}");
        assert_eq!(run.stderr.matches("ertificate is not trusted").count(), 1, "{run}");
    }
}

#[test]
fn reports_missing_system_roots() {
    let installation = installation(start_simulator("localhost", "here.pem"));
    let run = installation.run_with_environment(&[("SSL_CERT_FILE", "/dev/null")]);
    run.assert_code(77).assert_line_with(&["[ERROR] Authentication failed", "No CA certificates", "ca_file"]);
}

#[test]
fn reports_server_without_tls() {
    let (url, _received) = start_server(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n".to_vec());
    let installation = installation(Simulator::start()).at(&url).collect("retries: 0");
    installation.run(&[]).assert_code(77).assert_line_with(&[
        "[ERROR] Authentication failed for contoso: 127.0.0.1:",
        "the port does not speak TLS",
    ]);
}

#[test]
fn retries_after_cut_handshake() {
    let (proxy, installation) = (Proxy::start(ProxyBehavior::CloseTunnels(2)), behind_a_proxy());
    let run = installation.run_with_environment(&[("HTTPS_PROXY", &proxy.url(""))]);
    run.assert_code(0).assert_line_with(&["[WARN] Retrying login for contoso", "(attempt 3 of 4)"]);
    installation.assert_delivered_once([(&installation.contoso, "Audit.General")]);
}

#[test]
fn rejects_tls_1_1() {
    // A ServerHello that chooses TLS 1.1 and TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA.
    let mut hello = vec![0x16, 3, 2, 0, 42, 2, 0, 0, 38, 3, 2];
    hello.extend([7; 32]);
    hello.extend([0, 0xc0, 0x13, 0]);
    let (url, received) = start_server(hello);
    let installation = installation(Simulator::start()).at(&url).collect("retries: 0");
    installation.run(&[]).assert_code(77).assert_line_with(&["[ERROR] Authentication failed for contoso"]);
    let received =
        received.recv_timeout(WAIT_MAX).expect("the client closes the connection after the ServerHello");
    let protocol_version_alert = [2, 70];
    assert!(received.ends_with(&protocol_version_alert), "{received:?}");
}

#[test]
fn collects_over_ipv6() {
    let Ok(simulator) = Simulator::start_on(Ipv6Addr::LOCALHOST.into()) else {
        eprintln!("skipped: this machine has no address ::1");
        return;
    };
    assert!(simulator.url().starts_with("http://[::1]:"));
    let installation = installation(simulator);
    installation.run(&[]).assert_code(0);
    installation.assert_delivered_once([(&installation.contoso, "Audit.General")]);
    installation.assert_no_violations();
}

#[test]
fn retries_and_reports_unresolvable_name() {
    let name = "a".repeat(64); // longer than a label may be, so that no name server is asked
    let installation =
        installation(Simulator::start()).at(&format!("https://{name}.test")).collect("retries: 1");
    let run = installation.run(&[]);
    run.assert_code(77)
        .assert_line_with(&["[WARN] Retrying login for contoso", "(attempt 2 of 2)", &name])
        .assert_line_with(&[
            "[ERROR] Authentication failed for contoso",
            &name,
            "cannot be resolved",
            "check DNS",
        ]);
}

#[test]
fn retries_at_once_after_closed_connection() {
    for fault in [Fault::close(), Fault::reset()] {
        let installation = installation(Simulator::start()).collect("retryDelay: 3600s");
        installation.simulator.fault(Requests::to(Operation::FetchBlob).times(1), fault);
        installation.run(&[]).assert_code(0).assert_line_with(&["Blobs retried: 1"]);
        installation.assert_delivered_once([(&installation.contoso, "Audit.General")]);
    }
}

#[test]
fn reconnects_after_firewall_drops_connection() {
    let (proxy, installation) =
        (Proxy::start(ProxyBehavior::DropAfter(3_000)), installation(Simulator::start()));
    let installation = installation
        .setting(&format!("proxy: {}", proxy.url("")))
        .collect("maxThreads: 1\n  requestTimeout: 1s");
    let run = installation.run(&[]);
    run.assert_code(0).assert_line_with(&["[WARN] Retrying", "(attempt 2 of 4)", "no answer in time"]);
    assert!(proxy.targets().len() >= 2, "no new connection: {run}");
    installation.assert_delivered_once([(&installation.contoso, "Audit.General")]);
}
