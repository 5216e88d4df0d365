//! `status --html`: a page that needs nothing else and shows what `status` shows.

use std::fs;

use simulator::{LoginError, NewBlob};

use crate::support::{Installation, documents::repository, hours_ago, mode};

/// Runs `status --html`, and returns the page.
#[track_caller]
fn page(installation: &Installation, code: i32) -> String {
    let path = installation.path("status.html");
    let run = installation.run(&["status", "--html", path.to_str().expect("text")]);
    run.assert_code(code);
    assert_eq!(run.stdout, "", "{run}");
    assert_eq!(mode(&path), 0o640);
    fs::read_to_string(path).expect("a page")
}

/// Asserts that the page contains each of these.
#[track_caller]
fn assert_shows(page: &str, parts: &[&str]) {
    for part in parts {
        assert!(page.contains(part), "no {part:?} in {page}");
    }
}

#[test]
fn the_page_has_one_sentence_about_all_feeds() {
    let (installation, fabrikam) = Installation::with_fabrikam();
    assert_shows(
        &page(&installation, 1),
        &["<h1>10 feeds of 2 tenants: all late</h1>", "contains no pass yet"],
    );
    installation.contoso.add_blob("Audit.General", NewBlob::records(1_234).created(hours_ago(2)));
    installation.run(&[]).assert_code(0);
    let collected = page(&installation, 0);
    assert_shows(&collected, &["<h1>10 feeds of 2 tenants: all collected up to ", "1,234", "up to date"]);
    assert!(!collected.contains("needs attention"), "{collected}");
    fabrikam.settings(|settings| settings.login_error = Some(LoginError::ExpiredSecret));
    installation.contoso.add_blob("DLP.All", NewBlob::body("[").created(hours_ago(2)));
    installation.run(&[]).assert_code(1);
    assert_shows(
        &page(&installation, 0),
        &[
            "<h1>10 feeds of 2 tenants: 4 collected up to ",
            ", 6 need attention</h1>",
            "needs attention",
            "AADSTS7000222 the client secret has expired",
            "not one whole JSON array",
            "exit code 1",
        ],
    );
    assert_shows(
        &page(&Installation::new().setting("subscriptions: [ Audit.General ]"), 1),
        &["<h1>1 feed of 1 tenant: late</h1>"],
    );
}

#[test]
fn the_page_loads_nothing_and_escapes_every_text() {
    let installation = Installation::new();
    let name = "name: '<script>alert(1)</script>&\"x'";
    let config = installation.config().replacen("name: contoso", name, 1);
    fs::write(installation.path("names.yaml"), config).expect("a file");
    let run = installation.run_bare(&["-c", "names.yaml", "status", "--html", "page.html"]);
    run.assert_code(1);
    let page = fs::read_to_string(installation.path("page.html")).expect("a page");
    assert_shows(&page, &["&lt;script&gt;alert(1)&lt;/script&gt;&amp;&quot;x", "default-src 'none'"]);
    for forbidden in ["<script", "http://", "https://", "src=", "url(", "@import", "<iframe", "<a "] {
        assert!(!page.contains(forbidden), "{forbidden} in {page}");
    }
}

#[test]
fn the_page_replaces_only_a_page() {
    let installation = Installation::new();
    fs::write(installation.path("status.html"), "<!DOCTYPE html>an older page").expect("a file");
    assert!(!page(&installation, 1).contains("an older page"));
    let config = installation.config_file();
    let run = installation.run(&["status", "--html", "config.yaml"]);
    run.assert_code(74).assert_line_with(&["[ERROR] cannot write config.yaml", "is not a page of status"]);
    assert_eq!(fs::read_to_string(config).expect("a file"), installation.config());
    let run = installation.run(&["status", "--html", "missing/status.html"]);
    run.assert_code(74)
        .assert_line_with(&["[ERROR] cannot write missing/status.html", "choose a path whose folder"]);
    let run = installation.run(&["status", "--json", "--html", "status.html"]);
    assert!(run.assert_code(1).stdout.starts_with("[{"), "{run}");
}

#[test]
fn the_page_shows_when_a_certificate_expires() {
    let installation = Installation::new();
    let file = repository("tests/certificates/combined.pem").display().to_string();
    let config = installation.config_with_credential(&format!("certificate: {{ file: '{file}' }}"));
    fs::write(installation.path("certificate.yaml"), config).expect("a file");
    installation.run_bare(&["-c", "certificate.yaml", "status", "--html", "page.html"]).assert_code(1);
    let page = fs::read_to_string(installation.path("page.html")).expect("a page");
    assert_shows(&page, &["certificate valid until 1 Jan 2120, "]);
    assert_shows(&self::page(&installation, 1), &["client secret, expiry not known here"]);
}

#[test]
fn a_thousand_tenants_fit_on_a_page() {
    let mut installation = Installation::new();
    for number in 0..999 {
        installation.add_tenant(&format!("{number:08}-1111-4111-8111-111111111111"));
    }
    let page = page(&installation, 1);
    assert!(page.len() < 4 * 1024 * 1024, "{} bytes", page.len());
    assert_eq!(page.matches("<svg").count(), 200, "each of the others has a line");
    assert_shows(&page, &["5,000 feeds of 1,000 tenants: all late", "00000998-1111-4111-8111-111111111111"]);
}
