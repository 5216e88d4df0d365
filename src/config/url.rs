//! URLs of the configuration. None of them may carry a user or a password: those would end up in messages.

use std::net::IpAddr;

use ureq::http::Uri;

use super::value::Value;

/// `https://host[:port]` without a path, or `http://` on loopback; a slash at the end is dropped.
pub(super) fn origin(value: &Value) -> Option<String> {
    let (text, uri) = parse(value)?;
    if uri.scheme_str() == Some("http") && !is_loopback(uri.host().unwrap_or_default()) {
        value.mistake("must begin with https://; http:// is for localhost only");
        return None;
    }
    if uri.path() != "/" || uri.query().is_some() {
        value.mistake("must be the root of a server; remove what follows the host");
        return None;
    }
    Some(text.trim_end_matches('/').to_owned())
}

/// A receiver's URL: `https://` or `http://`, with any path.
pub(super) fn receiver(value: &Value) -> Option<String> {
    parse(value).map(|(text, _)| text)
}

fn parse(value: &Value) -> Option<(String, Uri)> {
    let text = value.text()?.trim().to_owned();
    let uri: Option<Uri> = text.parse().ok();
    let Some(uri) =
        uri.filter(|uri| matches!(uri.scheme_str(), Some("https" | "http")) && !text.contains('#'))
    else {
        value.mistake("is no URL; write https://host or https://host:port");
        return None;
    };
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        value.mistake("must not hold a user or password; remove what stands before the @");
        return None;
    }
    if uri.host().is_none_or(str::is_empty) {
        value.mistake("is no URL; write https://host or https://host:port");
        return None;
    }
    Some((text, uri))
}

fn is_loopback(host: &str) -> bool {
    let address: Option<IpAddr> = host.trim_start_matches('[').trim_end_matches(']').parse().ok();
    host.eq_ignore_ascii_case("localhost") || address.is_some_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_this_machine_and_no_name_that_looks_like_it() {
        for host in ["localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "[::1]"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["", "127.0.0.1.example", "localhost.example", "10.0.0.1", "[::2]", "128.0.0.1"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
