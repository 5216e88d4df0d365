//! Servers whose certificate has another name than the one they are reached under.
//!
//! ureq verifies the certificate against the name in the URL. So the URL contains the name of the certificate, and the
//! address is resolved for the name of the server.

use ureq::http::{Uri, uri::Authority};

/// A name in URLs that is resolved as another host.
#[derive(Clone, Debug)]
pub struct Alias {
    /// The name in URLs, which the certificate has.
    pub name: String,
    /// The host whose address is used.
    pub host: String,
}

impl Alias {
    /// Returns the URL to resolve in place of one with this name; `None` for other URLs.
    pub fn resolved(&self, uri: &Uri) -> Option<Uri> {
        with_host(uri, &self.host).filter(|_| uri.host() == Some(self.name.as_str()))
    }
}

/// Replaces the host of a URL. An IPv6 address is in brackets.
pub fn with_host(uri: &Uri, host: &str) -> Option<Uri> {
    let port = uri.port().map(|port| format!(":{port}")).unwrap_or_default();
    let mut parts = uri.clone().into_parts();
    parts.authority = Some(format!("{host}{port}").parse::<Authority>().ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_only_the_host_of_a_url() {
        for (url, host, expected) in [
            ("https://a.example/x?y=z", "b.example", "https://b.example/x?y=z"),
            ("https://[::1]:8080/x", "b.example", "https://b.example:8080/x"),
            ("https://a.example:8080/", "[::1]", "https://[::1]:8080/"),
        ] {
            let uri = url.parse().expect("a URL");
            assert_eq!(with_host(&uri, host).map(|uri| uri.to_string()).as_deref(), Some(expected));
        }
    }
}
