//! Networks as they are: proxies, private roots, certificates that are not to be trusted, IPv6, names that do not
//! resolve, connections that are gone.

use std::{
    fs,
    io::{self, Read, Write},
    net::{Ipv4Addr, Ipv6Addr, TcpListener},
    path::Path,
    thread::{self, JoinHandle},
};

use simulator::{Fault, Identity, NewBlob, Operation, Requests, Simulator};

use crate::support::{
    Installation, hours_ago,
    proxy::{Manner, Proxy},
};

const PROXY_VARIABLES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];

/// `collector:p@ss`
const AUTHORIZATION: &str = "Basic Y29sbGVjdG9yOnBAc3M=";

/// One of the files in `tests/certificates/tls`.
fn certificate(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates/tls");
    folder.join(name).to_str().expect("a path of text").to_owned()
}

/// A simulator under TLS, called by this name, with one of the certificates.
pub fn secure(host: &str, name: &str) -> Simulator {
    let read = |name: &str| fs::read_to_string(certificate(name)).expect("a file of the tests");
    let identity = Identity {
        host: host.to_owned(),
        certificates: read(&format!("{name}.pem")),
        key: read("server.key"),
    };
    Simulator::start_with_tls(&identity)
}

/// Contoso at this simulator, with some records.
fn at(simulator: Simulator) -> Installation {
    let installation = Installation::against(simulator);
    installation.contoso.add_blobs("Audit.General", 3, 2, hours_ago(20)..hours_ago(2));
    installation
}

/// Contoso under TLS, at a name that only a proxy knows.
pub fn behind_a_proxy() -> Installation {
    at(secure("office.test", "here")).setting(&format!("ca_file: {}", certificate("private_root.pem")))
}

/// A server for one connection that says the same to whoever speaks first, and gives back what it hears after that.
fn server_that_says(words: Vec<u8>) -> (String, JoinHandle<io::Result<Vec<u8>>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let url = format!("https://{}", listener.local_addr().expect("an address"));
    let heard = thread::spawn(move || {
        let (mut client, _) = listener.accept()?;
        client.read_exact(&mut [0])?;
        client.write_all(&words)?;
        let mut heard = Vec::new();
        client.read_to_end(&mut heard)?;
        Ok(heard)
    });
    (url, heard)
}

/// Whether every connection to the simulator was a proxy's, and everything arrived.
#[track_caller]
fn assert_all_went_through(proxy: &Proxy, installation: &Installation) {
    let asked = proxy.asked();
    let target = installation.simulator.url().split('/').nth(2).expect("a host and a port");
    assert!(!asked.is_empty() && asked.iter().all(|asked| asked == target), "{asked:?}");
    assert_eq!(asked.len(), installation.simulator.connections());
    installation.assert_delivered_once([(&installation.contoso, "Audit.General")]);
    installation.assert_good_manners();
}

#[test]
fn a_pass_goes_through_the_configured_proxy() {
    for installation in [at(Simulator::start()), behind_a_proxy()] {
        let proxy = Proxy::start(Manner::Open);
        let installation = installation.setting(&format!("proxy: {}", proxy.url("")));
        installation.run(&[]).assert_code(0);
        assert_all_went_through(&proxy, &installation);
    }
}

#[test]
fn a_pass_goes_through_the_environments_proxy() {
    for variable in PROXY_VARIABLES {
        let (proxy, installation) = (Proxy::start(Manner::Open), behind_a_proxy());
        installation.run_in(&[(variable, &proxy.url(""))]).assert_code(0);
        assert_all_went_through(&proxy, &installation);
    }
}

#[test]
fn a_proxy_that_demands_a_password_gets_it() {
    let proxy = Proxy::start(Manner::Demanding(AUTHORIZATION));
    let installation = behind_a_proxy().setting(&format!("proxy: \"{}\"", proxy.url("collector:p%40ss")));
    installation.run(&[]).assert_code(0);
    assert_all_went_through(&proxy, &installation);
}

#[test]
fn a_proxy_that_refuses_is_asked_once_and_the_mend_told() {
    for (manner, credentials, status) in [
        (Manner::Demanding(AUTHORIZATION), "", "407"),
        (Manner::Demanding(AUTHORIZATION), "collector:hunter2", "407"),
        (Manner::Refusing(403), "collector:hunter2", "403"),
    ] {
        let (proxy, installation) = (Proxy::start(manner), behind_a_proxy());
        let run = installation.run_in(&[("HTTPS_PROXY", &proxy.url(credentials))]);
        run.assert_code(77).assert_line_with(&[
            "[ERROR] Authentication failed for contoso: office.test:",
            "through the proxy 127.0.0.1:",
            status,
            "give the proxy's user and password",
        ]);
        assert_eq!(proxy.asked().len(), 1, "{run}");
        assert!(!run.stderr.contains("hunter2"), "{run}");
    }
}

#[test]
fn a_proxy_in_trouble_of_its_own_is_asked_again() {
    let (proxy, installation) = (Proxy::start(Manner::Refusing(503)), behind_a_proxy().collect("retries: 1"));
    let run = installation.run_in(&[("HTTPS_PROXY", &proxy.url(""))]);
    run.assert_code(77).assert_line_with(&["[WARN] Retrying login for contoso", "503"]);
    assert_eq!(proxy.asked().len(), 2);
}

#[test]
fn exceptions_from_a_proxy_are_heeded_wherever_it_is_named() {
    let installation = at(Simulator::start());
    let port = installation.simulator.url().rsplit(':').next().expect("a port").to_owned();
    let proxy = Proxy::start(Manner::Open);
    let installation =
        installation.setting(&format!("proxy: {}", proxy.url(""))).collect("skipKnownLogs: false");
    for variable in ["NO_PROXY", "no_proxy"] {
        for list in ["*", "127.0.0.1", "one.example , 127.0.0.1", &format!("127.0.0.1:{port}"), ".0.0.1"] {
            installation.run_in(&[(variable, list)]).assert_code(0);
            assert_eq!(proxy.asked(), [""; 0], "{variable}={list}");
        }
    }
    installation.run_in(&[("NO_PROXY", "127.0.0.1:1, 0.0.1")]).assert_code(0);
    assert!(!proxy.asked().is_empty());

    let (proxy, installation) = (Proxy::start(Manner::Open), behind_a_proxy().collect("retries: 0"));
    installation.run_in(&[("HTTPS_PROXY", &proxy.url("")), ("NO_PROXY", ".test")]).assert_code(77);
    assert_eq!(proxy.asked(), [""; 0]);
}

#[test]
fn the_environments_proxy_is_not_for_this_machines_own_services() {
    let (proxy, installation) = (Proxy::start(Manner::Open), at(Simulator::start()));
    let url = proxy.url("");
    let variables = PROXY_VARIABLES.map(|variable| (variable, url.as_str()));
    installation.run_in(&variables).assert_code(0);
    assert_eq!(proxy.asked(), [""; 0]);
}

#[test]
fn a_malformed_proxy_of_the_environment_is_reported_without_its_password() {
    let installation = behind_a_proxy();
    for url in
        ["http://collector:hunter2@", "http://collector:hunter2@host:port", "socks5://collector:hunter2@host"]
    {
        let run = installation.run_in(&[("HTTPS_PROXY", url), ("ALL_PROXY", "http://127.0.0.1:1")]);
        run.assert_code(78)
            .assert_line_with(&["[ERROR] HTTPS_PROXY: not an HTTP proxy's URL", "http://host:port"]);
        assert!(!run.stderr.contains("hunter2"), "{run}");
    }
    assert_eq!(installation.simulator.connections(), 0);
}

#[test]
fn the_roots_of_ca_file_are_trusted_beside_the_systems() {
    let public = secure("localhost", "here_publicly");
    let mut installation = at(secure("127.0.0.1", "here"));
    let fabrikam = installation.add_fabrikam_at(&public);
    fabrikam.add_blob("Audit.General", NewBlob::records(2).created(hours_ago(2)));
    let installation = installation.setting(&format!("ca_file: {}", certificate("private_root.pem")));
    installation.run_in(&[("SSL_CERT_FILE", &certificate("public_root.pem"))]).assert_code(0);
    installation
        .assert_delivered_once([(&installation.contoso, "Audit.General"), (&fabrikam, "Audit.General")]);
}

#[test]
fn the_systems_roots_are_trusted_without_any_setting() {
    let installation = at(secure("localhost", "here_publicly"));
    installation.run_in(&[("SSL_CERT_FILE", &certificate("public_root.pem"))]).assert_code(0);
    installation.assert_delivered_once([(&installation.contoso, "Audit.General")]);
}

#[test]
fn a_certificate_that_is_not_trusted_ends_it_at_once_and_the_mend_is_told() {
    let private_root = format!("ca_file: {}", certificate("private_root.pem"));
    for (name, setting, reason) in [
        ("here", "", "UnknownIssuer"),
        ("here_publicly", private_root.as_str(), "UnknownIssuer"),
        ("elsewhere", &private_root, "elsewhere.test"),
        ("expired", &private_root, "expired"),
    ] {
        let installation = at(secure("localhost", name)).setting(setting);
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
fn a_machine_without_any_roots_is_told_so() {
    let installation = at(secure("localhost", "here"));
    let run = installation.run_in(&[("SSL_CERT_FILE", "/dev/null")]);
    run.assert_code(77).assert_line_with(&["[ERROR] Authentication failed", "No CA certificates", "ca_file"]);
}

#[test]
fn a_server_without_tls_behind_an_https_url_is_called_that() {
    let (url, _) = server_that_says(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n".to_vec());
    let installation = at(Simulator::start()).at(&url).collect("retries: 0");
    installation.run(&[]).assert_code(77).assert_line_with(&[
        "[ERROR] Authentication failed for contoso: 127.0.0.1:",
        "the port does not speak TLS",
    ]);
}

#[test]
fn a_handshake_that_is_cut_is_tried_again() {
    let (proxy, installation) = (Proxy::start(Manner::Cutting(2)), behind_a_proxy());
    let run = installation.run_in(&[("HTTPS_PROXY", &proxy.url(""))]);
    run.assert_code(0).assert_line_with(&["[WARN] Retrying login for contoso", "(try 3 of 4)"]);
    installation.assert_delivered_once([(&installation.contoso, "Audit.General")]);
}

#[test]
fn nothing_older_than_tls_1_2_is_spoken() {
    // A server that chooses TLS 1.1, by a ServerHello with TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA.
    let mut hello = vec![0x16, 3, 2, 0, 42, 2, 0, 0, 38, 3, 2];
    hello.extend([7; 32]);
    hello.extend([0, 0xc0, 0x13, 0]);
    let (url, heard) = server_that_says(hello);
    let installation = at(Simulator::start()).at(&url).collect("retries: 0");
    installation.run(&[]).assert_code(77).assert_line_with(&["[ERROR] Authentication failed for contoso"]);
    let said = heard.join().expect("a server").expect("a client that says why");
    let protocol_version = [2, 70];
    assert!(said.ends_with(&protocol_version), "{said:?}");
}

#[test]
fn ipv6_works() {
    let Ok(simulator) = Simulator::start_on(Ipv6Addr::LOCALHOST.into()) else {
        eprintln!("Skipped: this machine has no ::1");
        return;
    };
    assert!(simulator.url().starts_with("http://[::1]:"));
    let installation = at(simulator);
    installation.run(&[]).assert_code(0);
    installation.assert_delivered_once([(&installation.contoso, "Audit.General")]);
    installation.assert_good_manners();
}

#[test]
fn a_name_that_does_not_resolve_is_named_and_tried_again() {
    let name = "a".repeat(64); // longer than a label may be: no name server is asked
    let installation = at(Simulator::start()).at(&format!("https://{name}.test")).collect("retries: 1");
    let run = installation.run(&[]);
    run.assert_code(77)
        .assert_line_with(&["[WARN] Retrying login for contoso", "(try 2 of 2)", &name])
        .assert_line_with(&[
            "[ERROR] Authentication failed for contoso",
            &name,
            "cannot be resolved",
            "check DNS",
        ]);
}

#[test]
fn a_connection_that_was_gone_costs_no_wait() {
    for fault in [Fault::close(), Fault::reset()] {
        let installation = at(Simulator::start()).collect("retryDelay: 3600s");
        installation.simulator.fault(Requests::to(Operation::FetchBlob).times(1), fault);
        installation.run(&[]).assert_code(0).assert_line_with(&["Blobs retried: 1"]);
        installation.assert_delivered_once([(&installation.contoso, "Audit.General")]);
    }
}

#[test]
fn a_connection_that_a_firewall_forgot_is_given_up_and_made_anew() {
    let (proxy, installation) = (Proxy::start(Manner::Forgetting(3_000)), at(Simulator::start()));
    let installation = installation
        .setting(&format!("proxy: {}", proxy.url("")))
        .collect("maxThreads: 1\n  requestTimeout: 1s");
    let run = installation.run(&[]);
    run.assert_code(0).assert_line_with(&["[WARN] Retrying", "(try 2 of 4)", "no answer in time"]);
    assert_eq!(proxy.asked().len(), 2);
    installation.assert_delivered_once([(&installation.contoso, "Audit.General")]);
}
