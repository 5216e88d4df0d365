//! `output.http` through the gateway nginx (on Debian: `apt-get install nginx-light`).
//!
//! ```text
//! cargo test --locked --test tests -- --ignored interop_http
//! ```

use std::{
    fs,
    process::{Child, Command, Stdio},
};

use rustix::process::Signal;

use crate::support::{
    Installation, hours_ago,
    http::HttpReceiver,
    listener::{connect, unused_port},
    process::{signal, wait_for_end, wait_until},
    tls::certificate,
};

/// nginx in front of a receiver: it speaks TLS, requires a client certificate, closes connections after three requests and
/// rejects large bodies.
struct Gateway {
    program: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Gateway {
    fn start(receiver: &HttpReceiver) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let port = unused_port();
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
            certificate("here.pem"),
            certificate("server.key"),
            certificate("private_root.pem"),
            receiver.url(""),
            folder = folder.path().display(),
        );
        fs::write(folder.path().join("nginx.conf"), config).expect("a writable folder");
        let log = folder.path().join("error.log");
        let program = Command::new("/usr/sbin/nginx")
            .args(["-p", folder.path().to_str().expect("text"), "-c", "nginx.conf", "-e", "error.log"])
            .stdin(Stdio::null())
            .spawn()
            .expect("nginx: on Debian, apt-get install nginx-light");
        let mut gateway = Self { program, port, _folder: folder };
        wait_until("nginx listens", || {
            let ended = gateway.program.try_wait().expect("a child of this process");
            assert!(ended.is_none(), "nginx has ended: {}", fs::read_to_string(&log).unwrap_or_default());
            connect(port).is_ok()
        });
        gateway
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // After SIGKILL its worker would continue.
        signal(&self.program, Signal::TERM);
        wait_for_end(&mut self.program);
    }
}

#[test]
#[ignore = "needs nginx: cargo test --test tests -- --ignored interop_http"]
fn nginx_forwards_every_record_despite_limits() {
    let (root, own, key) =
        (certificate("private_root.pem"), certificate("here.pem"), certificate("server.key"));
    let client = format!(", cert_file: {own}, key_file: {key}");
    for (compress, client, expected) in
        [("none", client.as_str(), None), ("gzip", &client, None), ("gzip", "", Some("HTTP 400"))]
    {
        let receiver = HttpReceiver::accepting();
        let gateway = Gateway::start(&receiver);
        let installation = Installation::new().with_output(&format!(
            "  http:\n    url: https://localhost:{}/in\n    batchRecords: 100\n    compress: {compress}\n    \
             tls: {{ ca_file: {root}{client} }}",
            gateway.port
        ));
        installation.contoso.add_blobs("Audit.General", 40, 50, hours_ago(20)..hours_ago(2));
        let run = installation.run(&[]);
        if let Some(problem) = expected {
            run.assert_code(1).assert_line_with(&["[ERROR] Output http failed: localhost:", problem]);
            assert!(receiver.requests().is_empty());
            continue;
        }
        run.assert_code(0);
        let is_halved = run.stderr.contains("HTTP 413 for");
        assert_eq!(is_halved, compress == "none", "{run}");
        let accepted = receiver.accepted();
        let mut forwarded: Vec<_> = accepted.iter().flat_map(|request| request.body.lines()).collect();
        let output = installation.output();
        let mut written: Vec<_> = output.values().flatten().map(String::as_str).collect();
        forwarded.sort_unstable();
        written.sort_unstable();
        assert_eq!(written.len(), 2_000);
        assert!(forwarded == written, "{} of {} lines were forwarded", forwarded.len(), written.len());
    }
}
