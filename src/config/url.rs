//! URLs of the configuration. None of them may carry a user or a password: those would end up in messages.

use std::net::IpAddr;

use ureq::{Proxy, ProxyProtocol, http::Uri};

use super::value::Value;

/// `https://host[:port]` without a path, or `http://` on loopback; a slash at the end is dropped.
pub(super) fn origin(value: &Value) -> Option<String> {
    let (text, uri) = parse(value)?;
    let given = given(value, &text);
    if uri.scheme_str() == Some("http") && !is_loopback(uri.host().unwrap_or_default()) {
        value.mistake(format!("{given} must begin with https://; http:// is for localhost only"));
        return None;
    }
    if uri.path() != "/" || uri.query().is_some() {
        value.mistake(format!("{given} must be the root of a server; remove what follows the host"));
        return None;
    }
    Some(text.trim_end_matches('/').to_owned())
}

/// What to say of a text that is no proxy's URL.
pub(crate) const NOT_A_PROXY: &str = "not an HTTP proxy's URL; write it as http://host:port or \
     http://user:password@host:port, a special character in user or password as %XX";

/// `http://` or `https://`, perhaps `user:password@`, `host` and perhaps `:port`; a scheme that is missing is `http`.
pub(crate) fn proxy_of(text: &str) -> Option<Proxy> {
    let proxy = Proxy::new(text.trim()).ok()?;
    let is_http = matches!(proxy.protocol(), ProxyProtocol::Http | ProxyProtocol::Https);
    let authority = proxy.uri().authority()?;
    let after_host = authority.as_str().rsplit(['@', ']']).next()?;
    let port_is_readable = authority.port_u16().is_some_and(|port| port > 0) || !after_host.contains(':');
    (is_http && port_is_readable && !authority.host().is_empty()).then_some(proxy)
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
        value.mistake(format!(
            "{} is not a URL; write https://host or https://host:port",
            given(value, &text)
        ));
        return None;
    };
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        value.mistake("must not hold a user or password; remove what stands before the @");
        return None;
    }
    if uri.host().is_none_or(str::is_empty) {
        value.mistake(format!(
            "{} is not a URL; write https://host or https://host:port",
            given(value, &text)
        ));
        return None;
    }
    Some((text, uri))
}

/// A URL as a message shows it: without a password, and without a query, in which receivers expect tokens.
fn given(value: &Value, text: &str) -> String {
    if text.contains('@') {
        return "the value".to_owned();
    }
    match text.split_once('?') {
        Some((before, _)) => format!("\"{before}?…\""),
        None => value.given(),
    }
}

/// Whether this host, an IPv6 address in brackets or without, is this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
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
