//! Where records go.

use std::time::Duration;

use super::{
    FileOutput, FluentdOutput, GraylogOutput, Output, Tenant, Tls, http::http, older, section::Section,
    value::Value,
};
use crate::{csv, limits};

const FLUENTD_PORT: u16 = 24224;
const GRAYLOG_PORT: u16 = 12201;
const TAG: &str = "office365.{tenant}.{contentType}";
const TAG_PARTS: [&str; 3] = ["tenant", "contentType", "workload"];
const SEPARATOR: char = ';';
/// The default of Fluentd's own sender.
const ACK_TIMEOUT: Duration = Duration::from_secs(190);
/// A receiver that restarts is back within seconds.
const RETRY_TIMEOUT: Duration = Duration::from_secs(60);

/// What `compress` can say.
pub(super) const COMPRESSIONS: [(&str, bool); 2] = [("gzip", true), ("none", false)];

/// `output`. `tenants`: all of them.
pub(super) fn output(root: &Section, tenants: &[Tenant]) -> Output {
    let section = root.section("output");
    let mut parts = ["file", "fluentd", "graylog", "http", "stdout"].map(|name| {
        let mut part = section.section(name);
        let enabled = part.switch(true);
        (part, enabled)
    });
    older::outputs(&section);
    if parts.iter().all(|(_, enabled)| !enabled) {
        section.mistake("has no enabled output; add one of file, fluentd, graylog, http, stdout");
    }
    let [
        (file_keys, file_on),
        (fluentd_keys, fluentd_on),
        (graylog_keys, graylog_on),
        (http_keys, http_on),
        (_, stdout),
    ] = &mut parts;
    Output {
        file: file(file_keys).filter(|_| *file_on),
        fluentd: fluentd(fluentd_keys).filter(|_| *fluentd_on),
        graylog: graylog(graylog_keys).filter(|_| *graylog_on),
        http: http(http_keys, tenants).filter(|_| *http_on),
        stdout: *stdout,
    }
}

fn file(section: &Section) -> Option<FileOutput> {
    let path = section.required("path", "name the file to append to", Section::path);
    let separate_by_content_type = section.boolean("separateByContentType").unwrap_or(false);
    let separator = section.value("separator").and_then(|value| separator(&value));
    older::file(section);
    let path = path?;
    if path.file_name().is_none() || path.to_string_lossy().ends_with('/') {
        let value = section.value("path")?;
        value.mistake(format!("{} names a folder; add a file's name, such as audit.json", value.given()));
    }
    if separator.is_some() && !csv::is_csv(&path) {
        let place = section.place.key("separator");
        section
            .reading
            .warn(&place, "has no effect: records are written as JSON lines unless the path ends in .csv");
    }
    let separator = separator.unwrap_or(SEPARATOR);
    Some(FileOutput { path, separate_by_content_type, separator })
}

fn separator(value: &Value) -> Option<char> {
    let text = value.scalar_text()?;
    let mut characters = text.chars();
    match (characters.next(), characters.next()) {
        (Some(one), None) if !matches!(one, '"' | '\r' | '\n') => Some(one),
        _ => {
            let given = value.given();
            value.mistake(format!(
                "{given} is not one character other than a quote or a line end; write one, such as ;"
            ));
            None
        }
    }
}

fn fluentd(section: &Section) -> Option<FluentdOutput> {
    let address = section.required("address", "name the receiver's host", address);
    let port = section.number("port", &limits::PORT).unwrap_or(FLUENTD_PORT);
    let tenant_name = section.text("tenantName");
    let tag = section.value("tag").and_then(|value| tag(&value)).unwrap_or_else(|| TAG.to_owned());
    let shared_key = section.secret("sharedKey");
    let username = section.text("username");
    let password = section.secret("password");
    let gzip = section.choice("compress", &COMPRESSIONS).unwrap_or(false);
    let ack_timeout = section.duration("ackTimeout", &limits::ACK_TIMEOUT_SECONDS).unwrap_or(ACK_TIMEOUT);
    let retry_timeout = retry_timeout(section);
    let tls = tls(section);
    for (one, other) in [("username", "password"), ("password", "username")] {
        if section.peek(one).is_some() && section.peek(other).is_none() {
            section.reading.mistake(&section.place.key(one), format!("is nothing without {other}; add it"));
        }
    }
    Some(FluentdOutput {
        tenant_name,
        address: address?,
        port,
        tag,
        shared_key,
        username,
        password,
        gzip,
        ack_timeout,
        retry_timeout,
        tls,
    })
}

fn tag(value: &Value) -> Option<String> {
    let tag = value.text()?;
    let parts: Vec<_> = TAG_PARTS.iter().map(|part| format!("{{{part}}}")).collect();
    let rest = parts.iter().fold(tag.clone(), |rest, part| rest.replace(part.as_str(), ""));
    if rest.contains(['{', '}']) || rest.contains(char::is_whitespace) {
        let given = value.given();
        value.mistake(format!("{given} must have no spaces and no braces but {}", parts.join(", ")));
        return None;
    }
    Some(tag)
}

fn graylog(section: &Section) -> Option<GraylogOutput> {
    let address = section.required("address", "name the receiver's host", address);
    let port = section.number("port", &limits::PORT).unwrap_or(GRAYLOG_PORT);
    let confirm = section.boolean("confirm").unwrap_or(true);
    let retry_timeout = retry_timeout(section);
    let tls = tls(section);
    Some(GraylogOutput { address: address?, port, confirm, retry_timeout, tls })
}

/// `retryTimeout`, the same for each output that sends to a receiver.
pub(super) fn retry_timeout(section: &Section) -> Duration {
    section.duration("retryTimeout", &limits::RETRY_TIMEOUT_SECONDS).unwrap_or(RETRY_TIMEOUT)
}

/// A host's name or address; the brackets of an IPv6 address may be there.
fn address(section: &Section, key: &'static str) -> Option<String> {
    let value = section.value(key)?;
    let text = value.text()?;
    let host = text.trim().trim_start_matches('[').trim_end_matches(']');
    if host.contains(['/', '@', '[', ']'])
        || host.contains(char::is_whitespace)
        || host.matches(':').count() == 1
    {
        // What has an @ may hold a password.
        let given = if text.contains('@') { "the value".to_owned() } else { value.given() };
        value.mistake(format!("{given} is not a host's name or address; the port has a key of its own"));
        return None;
    }
    Some(host.to_owned())
}

/// `tls`, the same for each output that speaks to a receiver.
pub(super) fn tls(section: &Section) -> Option<Tls> {
    let keys = section.section("tls");
    let tls = Tls {
        ca_file: keys.pem_file("ca_file"),
        cert_file: keys.pem_file("cert_file"),
        key_file: keys.pem_file("key_file"),
        server_name: keys.text("server_name"),
    };
    if keys.peek("key_file").is_some() && keys.peek("cert_file").is_none() {
        keys.reading.mistake(&keys.place.key("key_file"), "is nothing without cert_file; add it");
    }
    if let Some(value) = section.null("tls") {
        value.mistake("is empty; write `tls: {}` for TLS with the system's roots, or remove the line");
    }
    keys.is_present().then_some(tls)
}
