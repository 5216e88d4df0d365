//! URLs as text. The network turns them into the types of its HTTP client.

use std::net::{IpAddr, Ipv6Addr};

/// An absolute `http://` or `https://` URL without a fragment.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Url<'a> {
    pub(super) is_https: bool,
    /// What precedes the `@`, perhaps with a password.
    pub(super) user: Option<&'a str>,
    /// A name, an IPv4 address, or an IPv6 address in brackets.
    pub(super) host: &'a str,
    /// Empty or beginning with a slash.
    pub(super) path: &'a str,
    pub(super) query: Option<&'a str>,
}

impl<'a> Url<'a> {
    /// Reads a URL of which every character is one that RFC 3986 allows.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let is_https = scheme.eq_ignore_ascii_case("https");
        let is_allowed = |byte: u8| byte.is_ascii_graphic() && !b"\"#<>\\^`{|}".contains(&byte);
        if !(is_https || scheme.eq_ignore_ascii_case("http")) || !rest.bytes().all(is_allowed) {
            return None;
        }
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        let (path, query) = match path.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (path, None),
        };
        Some(Self { is_https, user, host: host_of(host)?, path, query })
    }

    /// Whether the host is this machine.
    pub(super) fn is_loopback(&self) -> bool {
        is_loopback(self.host)
    }
}

/// The host of `host` or `host:port`.
pub(super) fn host_of(text: &str) -> Option<&str> {
    let end = text.find(']').map_or_else(|| text.find(':'), |bracket| Some(bracket + 1));
    let (host, port) = text.split_at(end.unwrap_or(text.len()));
    let is_host = match host.strip_prefix('[') {
        Some(address) => address.strip_suffix(']')?.parse::<Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        }
    };
    let is_port = |port: &str| {
        port.strip_prefix(':').is_some_and(|digits| digits.parse().is_ok_and(|port: u16| port > 0))
    };
    (is_host && (port.is_empty() || is_port(port))).then_some(host)
}

/// What a message says of a text that is not a proxy's URL.
pub(crate) const NOT_A_PROXY: &str = "not an HTTP proxy's URL; write it as http://host:port or \
     http://user:password@host:port, a special character in user or password as %XX";

/// Whether the text is `http://` or `https://`, optionally `user:password@`, `host` and optionally `:port`. A missing
/// scheme is `http`.
pub(crate) fn is_proxy(text: &str) -> bool {
    let text = text.trim();
    let with_scheme = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    Url::parse(&with_scheme).is_some_and(|url| matches!(url.path, "" | "/") && url.query.is_none())
}

/// Whether a host is this machine. An IPv6 address can be in brackets.
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

    #[test]
    fn urls_are_split_into_their_parts() {
        let url = |text| Url::parse(text).map(|url| (url.is_https, url.user, url.host, url.path, url.query));
        for (text, expected) in [
            ("https://host", Some((true, None, "host", "", None))),
            ("HTTP://host:1/", Some((false, None, "host", "/", None))),
            ("http://[::1]:80/a?b=c?d", Some((false, None, "[::1]", "/a", Some("b=c?d")))),
            ("https://u:p@ho_st-1.example?x", Some((true, Some("u:p"), "ho_st-1.example", "", Some("x")))),
        ] {
            assert_eq!(url(text), expected, "{text}");
        }
        for text in [
            "",
            "host",
            "ftp://host",
            "https://",
            "https://:1",
            "https://host:",
            "https://host:0",
            "https://host:99999",
            "https://host:1:2",
            "https://[::1",
            "https://[::1]x",
            "https://[host]",
            "https://a b",
            "https://host/#a",
            "https://höst",
            "https://host/ä",
            "https://host/{a}",
            "https://u@",
            "https://[::1]]",
        ] {
            assert_eq!(url(text), None, "{text}");
        }
    }

    #[test]
    fn a_proxy_has_no_path_and_can_lack_the_scheme() {
        for text in ["proxy", "proxy:3128", " http://proxy:3128/ ", "https://u:p%40x@proxy", "http://[::1]:1"]
        {
            assert!(is_proxy(text), "{text}");
        }
        for text in
            ["", "http://", "http://u@", "socks5://proxy", "http://proxy:0", "http://proxy/path", "a b"]
        {
            assert!(!is_proxy(text), "{text}");
        }
    }
}
