//! `output.http`.

use std::time::Duration;

use ureq::http::{HeaderName, HeaderValue, Uri};

use super::{
    AzureLogs, HttpFormat, HttpOutput, Secret, SplunkHec, Tenant,
    outputs::{COMPRESSIONS, retry_timeout, tls},
    section::Section,
    tenants, url,
};
use crate::{limits, redact};

const BATCH_BYTES: usize = 1024 * 1024;
const BATCH_RECORDS: usize = 5_000;
const CONNECTIONS: usize = 4;
const TIMEOUT: Duration = Duration::from_secs(60);
const ACK_TIMEOUT: Duration = Duration::from_secs(120);

const SOURCE: &str = "office365";
const SOURCETYPE: &str = "o365:management:activity";

const FORMATS: [(&str, Kind); 5] = [
    ("ndjson", Kind::Ndjson),
    ("array", Kind::Array),
    ("splunk-hec", Kind::SplunkHec),
    ("elastic-bulk", Kind::ElasticBulk),
    ("azure-logs-ingestion", Kind::AzureLogs),
];

/// The formats that have a section of their own, and its name.
const SECTIONS: [(Kind, &str); 3] =
    [(Kind::SplunkHec, "splunk"), (Kind::ElasticBulk, "elastic"), (Kind::AzureLogs, "azure")];

/// A format without its options.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ndjson,
    Array,
    SplunkHec,
    ElasticBulk,
    AzureLogs,
}

/// `output.http`. `tenants`: all of them, of which a single one can lend its credentials to Azure.
pub(super) fn http(section: &Section, tenants: &[Tenant]) -> Option<HttpOutput> {
    let url = section
        .required("url", "name the receiver's URL", |section, key| url::receiver(&section.value(key)?));
    let kind = section.choice("format", &FORMATS).unwrap_or(Kind::Ndjson);
    let headers = headers(section);
    let gzip = section.choice("compress", &COMPRESSIONS).unwrap_or(false);
    let batch_bytes_max = batch_bytes_max(section, kind);
    let batch_records_max =
        section.number("batchRecords", &limits::HTTP_BATCH_RECORDS).unwrap_or(BATCH_RECORDS);
    let connections = section.number("connections", &limits::HTTP_CONNECTIONS).unwrap_or(CONNECTIONS);
    let timeout = section.duration("timeout", &limits::HTTP_TIMEOUT_SECONDS).unwrap_or(TIMEOUT);
    let retry_timeout = retry_timeout(section);
    let dead_letters = section.boolean("deadLetters").unwrap_or(true);
    let tls = tls(section);
    refuse_strange_sections(section, kind);
    let splunk = splunk(&section.section("splunk"));
    let index = section.section("elastic").text("index");
    let azure = azure(section, kind, url.as_deref(), tenants);
    let url = url?;
    let is_open = url.to_ascii_lowercase().starts_with("http:");
    if tls.is_some() && is_open {
        section.reading.mistake(&section.place.key("tls"), "needs a URL that begins with https://");
    }
    let uri: Uri = url.parse().ok()?;
    if is_open && !url::is_loopback(uri.host().unwrap_or_default()) {
        let place = section.place.key("url");
        if kind == Kind::AzureLogs {
            section.reading.mistake(&place, "must begin with https://; http:// is for localhost only");
        } else if !headers.is_empty() {
            let text =
                "begins with http://, so that whoever is on the way can read the headers; use https://";
            section.reading.warn(&place, text);
        }
    }
    if kind == Kind::SplunkHec && is_raw_endpoint(uri.path()) {
        let text = "is the raw endpoint, which splits records at line ends and cannot say what it accepted; use \
                    /services/collector/event";
        section.reading.mistake(&section.place.key("url"), text);
    }
    let format = match kind {
        Kind::Ndjson => HttpFormat::Ndjson,
        Kind::Array => HttpFormat::Array,
        Kind::SplunkHec => HttpFormat::SplunkHec(splunk),
        Kind::ElasticBulk => HttpFormat::ElasticBulk { index },
        Kind::AzureLogs => HttpFormat::AzureLogs(azure?),
    };
    Some(HttpOutput {
        url,
        format,
        headers,
        gzip,
        batch_bytes_max,
        batch_records_max,
        connections,
        timeout,
        retry_timeout,
        dead_letters,
        tls,
    })
}

/// `/services/collector/raw`, and the same with a version.
fn is_raw_endpoint(path: &str) -> bool {
    let path = path.trim_end_matches('/');
    path.strip_suffix("/1.0").unwrap_or(path).ends_with("/collector/raw")
}

fn batch_bytes_max(section: &Section, kind: Kind) -> usize {
    let written = section.size("batchSize", &limits::HTTP_BATCH_BYTES);
    let most = if kind == Kind::AzureLogs { limits::AZURE_BODY_BYTES_MAX } else { usize::MAX };
    if written.is_some_and(|written| written > most) {
        let given = section.value("batchSize").map(|value| value.given()).unwrap_or_default();
        let text =
            format!("{given} is larger than {most}, the largest body that azure-logs-ingestion accepts");
        section.reading.mistake(&section.place.key("batchSize"), text);
    }
    written.unwrap_or(BATCH_BYTES).min(most)
}

/// `headers`, and `header_files` whose values are read from files.
fn headers(section: &Section) -> Vec<(String, Secret)> {
    let written = section.free_entries("headers");
    let in_files = section.free_entries("header_files");
    let all = written
        .into_iter()
        .map(|entry| (entry, false))
        .chain(in_files.into_iter().map(|entry| (entry, true)));
    let mut headers: Vec<(String, Secret)> = Vec::new();
    for ((name, value), is_file) in all {
        let text = if is_file { value.secret_file() } else { value.secret() };
        if HeaderName::from_bytes(name.as_bytes()).is_err() {
            value.mistake("is no header's name; use letters, digits and -");
            continue;
        }
        if headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(name)) {
            value.mistake("is the same header as one above; keep one of them");
            continue;
        }
        let Some(text) = text else { continue };
        if HeaderValue::from_str(text.reveal()).is_err() {
            value.mistake("has a character that no header can carry; keep to one line of text");
            continue;
        }
        redact::register_header(text.reveal());
        headers.push((name.to_owned(), text));
    }
    headers
}

/// A section of another format has no effect.
fn refuse_strange_sections(section: &Section, kind: Kind) {
    for (owner, name) in SECTIONS {
        if owner != kind && section.peek(name).is_some() {
            let (format, _) = FORMATS.iter().find(|(_, other)| *other == owner).expect("each has a name");
            section.reading.mistake(
                &section.place.key(name),
                format!("is for format: {format} only; set that format, or remove {name}"),
            );
        }
    }
}

fn splunk(section: &Section) -> SplunkHec {
    let channel = section.value("channel").and_then(|value| tenants::guid(&value, "make one with uuidgen"));
    let ack_timeout = section.duration("ackTimeout", &limits::ACK_TIMEOUT_SECONDS);
    if ack_timeout.is_some() && section.peek("channel").is_none() {
        let text = "is nothing without channel; add the GUID of one, made with uuidgen";
        section.reading.mistake(&section.place.key("ackTimeout"), text);
    }
    SplunkHec {
        index: section.text("index"),
        source: section.text("source").unwrap_or_else(|| SOURCE.to_owned()),
        sourcetype: section.text("sourcetype").unwrap_or_else(|| SOURCETYPE.to_owned()),
        host: section.text("host"),
        channel,
        ack_timeout: ack_timeout.unwrap_or(ACK_TIMEOUT),
    }
}

/// Who sends to Azure: the app in `azure`, else that of the single tenant.
fn azure(output: &Section, kind: Kind, url: Option<&str>, tenants: &[Tenant]) -> Option<AzureLogs> {
    let section = output.section("azure");
    let own = ["tenant_id", "client_id"].into_iter().chain(tenants::CREDENTIALS);
    let has_own = own.into_iter().any(|key| section.peek(key).is_some());
    let section = section.owing(has_own);
    let app = tenants::app(&section);
    let written_login_url = section.value("login_url").and_then(|value| url::origin(&value));
    let us_government = url.is_some_and(|url| {
        let host = url.split('/').nth(2).unwrap_or_default().split(':').next().unwrap_or_default();
        host.to_ascii_lowercase().ends_with(".azure.us")
    });
    let (resource, login_url) = if us_government {
        ("https://monitor.azure.us", "https://login.microsoftonline.us")
    } else {
        ("https://monitor.azure.com", "https://login.microsoftonline.com")
    };
    let login_url = written_login_url.unwrap_or_else(|| login_url.to_owned());
    let (tenant_id, client_id, credential) = match (app, tenants) {
        (Some(app), _) => app,
        (None, [tenant]) if !has_own => {
            (tenant.tenant_id.clone(), tenant.client_id.clone(), tenant.credential.clone())
        }
        (None, [_, _, ..]) if !has_own && kind == Kind::AzureLogs && output.owes() => {
            let text = "is missing; with several tenants, say which app sends: tenant_id, client_id and a credential";
            output.reading.mistake(&output.place.key("azure"), text);
            return None;
        }
        _ => return None,
    };
    Some(AzureLogs { tenant_id, client_id, credential, resource: resource.to_owned(), login_url })
}
