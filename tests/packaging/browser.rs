//! The page of `status --html` in a real browser: Debian's chromium, without a window.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{Ipv4Addr, TcpListener},
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
};

use super::path;
use crate::support::{Run, busy_day, picture};

const PICTURE: &str = "docs/status.png";
/// The largest picture that the documentation may contain.
const PICTURE_BYTES_MAX: u64 = 150 * 1024;

/// The hosts that chromium itself asks, whatever page it shows. None of them is reached: the proxy answers nothing.
const HOSTS_OF_THE_BROWSER: [&str; 6] = [
    "accounts.google.com",
    "clients2.google.com",
    "clientservices.googleapis.com",
    "optimizationguide-pa.googleapis.com",
    "redirector.gvt1.com",
    "update.googleapis.com",
];

/// Opens a file in a browser whose only way out is a proxy of this test. Returns the browser's run, and the first line of each
/// request that was not the browser's own.
fn browse(file: &Path, options: &[&str]) -> (Run, Vec<String>) {
    let proxy = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = proxy.local_addr().expect("an address");
    let (sender, requests) = mpsc::channel();
    thread::spawn(move || {
        for connection in proxy.incoming().map_while(Result::ok) {
            let mut line = String::new();
            let read = BufReader::new(connection).read_line(&mut line);
            if read.is_err() || sender.send(line).is_err() {
                return;
            }
        }
    });
    let profile = tempfile::tempdir().expect("a folder");
    let mut command = Command::new("chromium");
    command
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args([&format!("--proxy-server={address}"), "--proxy-bypass-list=<-loopback>"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(options)
        .arg(format!("file://{}", file.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let run = Run::of(&mut command);
    let is_own = |line: &String| {
        HOSTS_OF_THE_BROWSER
            .iter()
            .any(|host| line.contains(&format!("{host}:")) || line.contains(&format!("//{host}/")))
    };
    (run, requests.try_iter().filter(|line| !is_own(line)).collect())
}

#[test]
#[ignore = "needs chromium: cargo test --test tests -- --ignored packaging::browser"]
fn a_browser_shows_the_page_and_makes_no_request() {
    let installation = busy_day::installation();
    let file = installation.path("status.html");
    installation.run(&["status", "--html", file.to_str().expect("text")]).assert_code(0);
    let (run, requests) = browse(&file, &["--dump-dom"]);
    assert_eq!(run.code, Some(0), "{run}");
    assert_eq!(requests, [""; 0]);
    for part in [
        "<h1>10 feeds of 2 tenants: 9 collected up to ",
        "<h2>contoso</h2>",
        "<h2>fabrikam</h2>",
        "needs attention",
        "not one whole JSON array",
        "client secret, expiry not known here",
    ] {
        assert!(run.stdout.contains(part), "no {part:?} in {run}");
    }
    for (element, count) in [("<article", 10), ("<svg", 10), ("<rect", 10 * 24 + 3), ("<script", 0)] {
        assert_eq!(run.stdout.matches(element).count(), count, "{element} in {run}");
    }

    // A page that does load something is noticed.
    let loading = installation.path("loading.html");
    fs::write(&loading, "<img src='http://logs.example/x.png'>").expect("a file");
    let (_, requests) = browse(&loading, &["--dump-dom"]);
    assert!(requests.iter().any(|line| line.contains("logs.example")), "{requests:?}");
    let policy = fs::read_to_string(&file).expect("a page");
    fs::write(&loading, policy.replace("</body>", "<img src='http://logs.example/x.png'></body>"))
        .expect("a file");
    let (_, requests) = browse(&loading, &["--dump-dom"]);
    assert_eq!(requests, [""; 0], "the policy of the page forbids it");

    let drawn = installation.path("status.png");
    let screenshot = format!("--screenshot={}", drawn.display());
    let (run, _) = browse(&file, &[&screenshot, "--window-size=1080,960"]);
    assert_eq!(run.code, Some(0), "{run}");
    let bytes = fs::metadata(&drawn).expect("a picture").len();
    assert!((10_000..PICTURE_BYTES_MAX).contains(&bytes), "{bytes} bytes");
    if picture::is_requested() {
        fs::copy(&drawn, path(PICTURE)).expect("a writable folder");
    }
}

#[test]
fn the_documentation_has_a_small_picture_of_the_page() {
    let picture = fs::read(path(PICTURE)).expect("a picture");
    assert!(picture.starts_with(b"\x89PNG\r\n"), "{PICTURE} is a PNG file");
    assert!(picture.len() as u64 <= PICTURE_BYTES_MAX, "{} bytes", picture.len());
}
