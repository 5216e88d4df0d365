//! A server that is reached under one name and certified under another.
//!
//! ureq takes the name that it verifies from the URL. So the URL has the certificate's name, and is looked up as the
//! server's.

use ureq::http::{Uri, uri::Authority};

/// Looks up one host as another.
#[derive(Clone, Debug)]
pub struct Alias {
    /// As URLs have it.
    pub name: String,
    /// What is looked up for it.
    pub host: String,
}

impl Alias {
    /// What is looked up for a URL that has this name.
    pub fn real(&self, uri: &Uri) -> Option<Uri> {
        with_host(uri, &self.host).filter(|_| uri.host() == Some(self.name.as_str()))
    }
}

/// The same URL with another host, an IPv6 address in its brackets.
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
    fn only_the_host_of_a_url_is_replaced() {
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
