//! A stock nginx on 127.0.0.1 that serves the blobs and listings of a folder over HTTP and HTTPS, and accepts every login.

use std::{
    fs, io,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

/// The protocol over which the blobs are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Plain,
    Tls,
}

impl Scheme {
    pub const ALL: [Self; 2] = [Self::Plain, Self::Tls];

    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "http",
            Self::Tls => "https",
        }
    }
}

/// A running server. It ends when this is dropped.
pub struct Server {
    configuration: PathBuf,
    process: Child,
    ports: [u16; 2],
}

/// Returns the path of a certificate of the tests.
fn certificate(name: &str) -> String {
    format!("{}/tests/certificates/tls/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Returns the path of the root certificate that signed the server's.
pub fn root_certificate() -> String {
    certificate("private_root.pem")
}

impl Server {
    /// Serves the corpus in the folder `root`. The server's own files are written to `folder`.
    pub fn start(root: &Path, folder: &Path) -> io::Result<Self> {
        let ports = free_ports()?;
        let subscriptions: Vec<_> = simulator::CONTENT_TYPES
            .iter()
            .map(|name| format!("{{\"contentType\":\"{name}\",\"status\":\"enabled\"}}"))
            .collect();
        fs::create_dir_all(folder)?;
        let configuration = folder.join("nginx.conf");
        fs::write(
            &configuration,
            format!(
                r#"
daemon off;
worker_processes 2;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    default_type application/json;
    keepalive_requests 1000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    sendfile on;
    server {{
        listen 127.0.0.1:{plain};
        listen 127.0.0.1:{tls} ssl;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        root {root};
        location ~ /oauth2/v2.0/token$ {{
            return 200 '{{"token_type":"Bearer","expires_in":3599,"access_token":"benchmark"}}';
        }}
        location ~ /subscriptions/list$ {{ return 200 '[{subscriptions}]'; }}
        location ~ /subscriptions/content$ {{ try_files /listings-$scheme/$arg_contentType.json =404; }}
    }}
}}
"#,
                folder = folder.display(),
                root = root.display(),
                plain = ports[0],
                tls = ports[1],
                certificate = certificate("here.pem"),
                key = certificate("server.key"),
                subscriptions = subscriptions.join(","),
            ),
        )?;
        let process = Command::new("nginx")
            .arg("-c")
            .arg(&configuration)
            .arg("-p")
            .arg(folder)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let server = Self { configuration, process, ports };
        for _ in 0..200 {
            if ports.iter().all(|&port| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()) {
                return Ok(server);
            }
            thread::sleep(Duration::from_millis(50));
        }
        Err(io::Error::other(format!("nginx does not listen; see {}/error.log", folder.display())))
    }

    /// Returns the URL of blobs, login and API.
    pub fn url(&self, scheme: Scheme) -> String {
        format!("{}://127.0.0.1:{}", scheme.name(), self.ports[scheme as usize])
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let stopped = Command::new("nginx")
            .arg("-c")
            .arg(&self.configuration)
            .args(["-s", "stop"])
            .stderr(Stdio::null())
            .status();
        if !stopped.is_ok_and(|status| status.success()) {
            let _ = self.process.kill();
        }
        let _ = self.process.wait();
    }
}

/// Returns two ports that are free now.
fn free_ports() -> io::Result<[u16; 2]> {
    let listeners =
        [TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?, TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?];
    Ok([listeners[0].local_addr()?.port(), listeners[1].local_addr()?.port()])
}
