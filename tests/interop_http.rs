//! `output.http` through a gateway that this project did not write: nginx, as Debian has it (`apt-get install
//! nginx-light`).
//!
//! ```text
//! cargo test --locked --test tests -- --ignored interop_http
//! ```

use std::{
    fs,
    net::{Ipv4Addr, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use crate::support::{
    Installation, hours_ago,
    receiver::{Receiver, certificate, unused_port},
};

/// nginx as a gateway with TLS, that wants a client's certificate, closes connections after a few requests and takes no
/// large bodies; behind it a receiver that writes down what came.
struct Gateway {
    program: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Gateway {
    fn start(behind: &Receiver) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let port = unused_port();
        let file = |name| certificate(name).display().to_string();
        let config = format!(
            "daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;\n\
             events {{}}\n\
             http {{\n\
               access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;\n\
               fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n\
               keepalive_requests 3; client_max_body_size 100k;\n\
               server {{\n\
                 listen 127.0.0.1:{port} ssl;\n\
                 ssl_certificate {}; ssl_certificate_key {};\n\
                 ssl_verify_client on; ssl_client_certificate {};\n\
                 location / {{ proxy_pass {}; }}\n\
               }}\n\
             }}\n",
            file("here.pem"),
            file("server.key"),
            file("private_root.pem"),
            behind.url(""),
            folder = folder.path().display(),
        );
        fs::write(folder.path().join("nginx.conf"), config).expect("a file");
        let program = Command::new("/usr/sbin/nginx")
            .args(["-p", folder.path().to_str().expect("text"), "-c", "nginx.conf", "-e", "error.log"])
            .stdin(Stdio::null())
            .spawn()
            .expect("nginx: on Debian, apt-get install nginx-light");
        let gateway = Self { program, port, folder };
        for _ in 0..600 {
            if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return gateway;
            }
            thread::sleep(Duration::from_millis(100));
        }
        panic!("{}", fs::read_to_string(gateway.folder.path().join("error.log")).unwrap_or_default());
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Its worker ends with it only if it is asked to end.
        let told = Command::new("kill").args(["-TERM", &self.program.id().to_string()]).status();
        assert!(told.expect("the kill command").success());
        self.program.wait().expect("a program of ours");
    }
}

#[test]
#[ignore = "needs nginx: cargo test --test tests -- --ignored interop_http"]
fn batches_go_through_nginx_with_tls_on_both_sides_whatever_it_closes_or_refuses() {
    let file = |name| certificate(name).display().to_string();
    let (root, own, key) = (file("private_root.pem"), file("here.pem"), file("server.key"));
    let client = format!(", cert_file: {own}, key_file: {key}");
    for (compress, client, expected) in
        [("none", client.as_str(), None), ("gzip", &client, None), ("gzip", "", Some("HTTP 400"))]
    {
        let behind = Receiver::kind();
        let gateway = Gateway::start(&behind);
        let installation = Installation::new().with_output(&format!(
            "  http:\n    url: https://localhost:{}/in\n    batchRecords: 100\n    compress: {compress}\n    \
             tls: {{ ca_file: {root}{client} }}",
            gateway.port
        ));
        installation.contoso.add_blobs("Audit.General", 40, 50, hours_ago(20)..hours_ago(2));
        let run = installation.run(&[]);
        if let Some(problem) = expected {
            run.assert_code(1).assert_line_with(&["[ERROR] Output http failed: localhost:", problem]);
            assert!(behind.requests().is_empty());
            continue;
        }
        run.assert_code(0);
        let is_halved = run.stderr.contains("HTTP 413 for");
        assert_eq!(is_halved, compress == "none", "{run}");
        let taken = behind.taken();
        let mut arrived: Vec<_> = taken.iter().flat_map(|request| request.body.lines()).collect();
        let output = installation.output();
        let mut written: Vec<_> = output.values().flatten().map(String::as_str).collect();
        arrived.sort_unstable();
        written.sort_unstable();
        assert_eq!(written.len(), 2_000);
        assert!(arrived == written, "{} of {} lines came", arrived.len(), written.len());
    }
}
