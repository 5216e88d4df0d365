//! The network: routes (direct or through a proxy), name resolution, TLS, and network errors.
//!
//! This module chooses the route itself. ureq would use any proxy of the environment for any target, ignore a malformed
//! one silently, and support neither ports nor spaces in `NO_PROXY`.

pub mod agents;
pub mod alias;
pub mod backoff;
pub mod encoding;
pub mod error;
mod first_address;
pub mod page;
pub mod pem;
mod receiver_tls;
mod speed;
pub mod tls;

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use ureq::{
    Proxy,
    http::Uri,
    tls::{Certificate, RootCerts},
    unversioned::{
        resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver},
        transport::NextTimeout,
    },
};

use crate::{
    config::{self, Network},
    redact,
};
use alias::Alias;
use pem::PemError;

/// The duration after which the addresses of a host are looked up again.
const ADDRESS_AGE_MAX: Duration = Duration::from_secs(60);

/// The environment variables that name a proxy if the configuration does not. The first that is set is used.
const PROXY_VARIABLES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];

/// The environment variables that list hosts reached without a proxy, wherever the proxy is configured.
const EXCEPTION_VARIABLES: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// An error returned when the network cannot be used as configured.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// `ca_file` cannot be used.
    #[error("ca_file {path}: {error}; {}", .error.hint())]
    Roots {
        /// The path as configured.
        path: String,
        /// What is wrong with it.
        error: PemError,
    },
    /// A setting is not the URL of a proxy. Its value is not repeated because it can contain a password.
    #[error("{setting}: {}", config::NOT_A_PROXY)]
    Proxy {
        /// `proxy`, or the environment variable.
        setting: &'static str,
    },
}

/// The route of each request: direct, or through a proxy.
#[derive(Debug)]
pub struct Routes {
    proxy: Option<Proxy>,
    /// Whether loopback is reached directly: a proxy of the environment is not meant for services of this machine.
    bypasses_loopback: bool,
    exceptions: Vec<Exception>,
}

impl Routes {
    /// Reads the proxy from the configuration, else from the environment.
    pub fn new(network: &Network, environment: impl Fn(&str) -> Option<String>) -> Result<Self, SetupError> {
        let first_of = |names: &[&'static str]| {
            let values = names.iter().map(|&name| (name, environment(name).unwrap_or_default()));
            values.into_iter().find(|(_, value)| !value.trim().is_empty())
        };
        let configured = network.proxy.as_ref().map(|proxy| ("proxy", proxy.reveal().to_owned()));
        let bypasses_loopback = configured.is_none();
        let proxy = match configured.or_else(|| first_of(&PROXY_VARIABLES)) {
            Some((setting, url)) => {
                redact::register_url(&url);
                Some(proxy_of(&url).ok_or(SetupError::Proxy { setting })?)
            }
            None => None,
        };
        let list = first_of(&EXCEPTION_VARIABLES).map(|(_, list)| list).unwrap_or_default();
        let exceptions = list.split([',', ' ', '\t']).filter_map(Exception::new).collect();
        Ok(Self { proxy, bypasses_loopback, exceptions })
    }

    /// Returns the proxy of all requests that are not direct.
    pub fn proxy(&self) -> Option<&Proxy> {
        self.proxy.as_ref()
    }

    /// Returns the proxy for this URL; `None` if its route is direct.
    pub fn proxy_for(&self, url: &str) -> Option<&Proxy> {
        let (host, port) = host_and_port(url)?;
        let is_direct = (self.bypasses_loopback && config::is_loopback(&host))
            || self.exceptions.iter().any(|exception| exception.matches(&host, port));
        self.proxy.as_ref().filter(|_| !is_direct)
    }

    /// Returns the host and port to which a request for this URL connects: its own, or those of the proxy.
    pub fn first_hop(&self, url: &str) -> (String, u16) {
        match self.proxy_for(url) {
            Some(proxy) => (bare(proxy.host()), proxy.port()),
            None => host_and_port(url).expect("URLs are validated with the configuration"),
        }
    }

    /// Describes the peer of a request for this URL, for messages.
    pub fn peer(&self, url: &str) -> String {
        let host = url.split('/').nth(2).unwrap_or(url);
        match self.proxy_for(url) {
            Some(proxy) => format!("{host} through the proxy {}:{}", proxy.host(), proxy.port()),
            None => host.to_owned(),
        }
    }
}

/// Returns the proxy with this URL; `None` if the URL is not valid.
fn proxy_of(url: &str) -> Option<Proxy> {
    config::is_proxy(url).then(|| Proxy::new(url.trim()).ok())?
}

/// An entry of `NO_PROXY`: `*`, `host`, `.suffix` or `*.suffix`, each optionally with `:port`. A suffix does not match the
/// domain itself.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Exception {
    hosts: Hosts,
    /// `None` matches any port.
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Hosts {
    All,
    One(String),
    EndingIn(String),
}

impl Exception {
    /// Parses an entry. `None` if it is empty.
    fn new(entry: &str) -> Option<Self> {
        let is_bare_v6 = !entry.contains(']') && entry.matches(':').count() > 1;
        let with_port = entry.rsplit_once(':').filter(|_| !is_bare_v6);
        let (host, port) = match with_port.map(|(host, port)| (host, port.parse())) {
            Some((host, Ok(port))) => (host, Some(port)),
            _ => (entry, None),
        };
        let host = bare(host);
        let hosts = match host.strip_prefix('*').unwrap_or(&host) {
            "" if host.is_empty() => return None,
            "" => Hosts::All,
            suffix if suffix.starts_with('.') || host.starts_with('*') => Hosts::EndingIn(suffix.to_owned()),
            _ => Hosts::One(host),
        };
        Some(Self { hosts, port })
    }

    /// Returns whether the entry matches a host in the form of [`bare`].
    fn matches(&self, host: &str, port: u16) -> bool {
        let is_host = match &self.hosts {
            Hosts::All => true,
            Hosts::One(name) => host == name,
            Hosts::EndingIn(suffix) => host.ends_with(suffix),
        };
        is_host && self.port.is_none_or(|only| only == port)
    }
}

/// Returns the host, in the form of [`bare`], and the port of a URL. `None` if the text is not a URL.
fn host_and_port(url: &str) -> Option<(String, u16)> {
    let uri: Uri = url.parse().ok()?;
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("http") { 80 } else { 443 });
    Some((bare(uri.host()?), port))
}

/// Returns a host in the form that is compared: lower case, an IPv6 address without brackets.
fn bare(host: &str) -> String {
    host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase()
}

/// A resolver that caches the addresses of a host for `ADDRESS_AGE_MAX`. ureq itself resolves for each request, even
/// on an open connection, and starts a thread for that.
#[derive(Debug, Default)]
pub struct Addresses {
    /// A name that is resolved as another host.
    alias: Option<Alias>,
    /// Which of a host's addresses comes first.
    first: Arc<AtomicUsize>,
    system: DefaultResolver,
    known: Mutex<HashMap<String, (ResolvedSocketAddrs, Instant)>>,
}

impl Addresses {
    /// Returns an empty cache. Each value of `first` puts another address of a host in the first place.
    pub fn new(alias: Option<Alias>, first: Arc<AtomicUsize>) -> Self {
        Self { alias, first, ..Self::default() }
    }

    fn in_turn(&self, addresses: &ResolvedSocketAddrs) -> ResolvedSocketAddrs {
        let mut addresses = addresses.clone();
        let first = self.first.load(Ordering::Relaxed) % addresses.len().max(1);
        addresses.rotate_left(first);
        addresses
    }
}

#[cfg(test)]
impl Addresses {
    /// Returns a cache with these addresses for the host of a URL.
    pub fn of_a_test(url: &str, addresses: &[std::net::SocketAddr], first: Arc<AtomicUsize>) -> Self {
        let mut resolved = ResolvedSocketAddrs::from_fn(|place| addresses[place % addresses.len()]);
        for address in addresses {
            resolved.push(*address);
        }
        let known = HashMap::from([(url.trim_end_matches('/').to_owned(), (resolved, Instant::now()))]);
        Self { first, known: Mutex::new(known), ..Self::default() }
    }
}

impl Resolver for Addresses {
    fn resolve(
        &self,
        uri: &Uri,
        config: &ureq::config::Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let real = self.alias.as_ref().and_then(|alias| alias.resolved(uri));
        let uri = real.as_ref().unwrap_or(uri);
        let name = format!(
            "{}://{}",
            uri.scheme_str().unwrap_or_default(),
            uri.authority().map_or("", |host| host.as_str())
        );
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((addresses, since)) = known().get(&name)
            && since.elapsed() < ADDRESS_AGE_MAX
        {
            return Ok(self.in_turn(addresses));
        }
        let addresses = self.system.resolve(uri, config, timeout)?;
        known().insert(name, (addresses.clone(), Instant::now()));
        Ok(self.in_turn(&addresses))
    }
}

/// Returns the system's trust store and, in addition, the certificates of `file`. There is no way to trust every
/// certificate.
///
/// # Errors
///
/// The file cannot be used.
pub fn roots(file: Option<&Path>) -> Result<RootCerts, SetupError> {
    let Some(path) = file else { return Ok(RootCerts::PlatformVerifier) };
    let roots = pem::certificates_of(path)
        .map_err(|error| SetupError::Roots { path: path.display().to_string(), error })?;
    let system = rustls_native_certs::load_native_certs().certs;
    let all = roots.iter().chain(&system).map(|certificate| Certificate::from_der(certificate).to_owned());
    Ok(RootCerts::Specific(Arc::new(all.collect())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    const API: &str = "https://manage.office.com/api/v1.0/x";

    fn routes(proxy: Option<&str>, variables: &[(&str, &str)]) -> Result<Routes, SetupError> {
        let network = Network { proxy: proxy.map(Secret::new), ca_file: None };
        Routes::new(&network, |name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    /// Returns the port of the proxy through which a URL is reached.
    #[track_caller]
    fn port_for(url: &str, proxy: Option<&str>, variables: &[(&str, &str)]) -> Option<u16> {
        routes(proxy, variables).expect("a usable proxy").proxy_for(url).map(Proxy::port)
    }

    #[test]
    fn configured_proxy_precedes_the_environment() {
        let all = ("all_proxy", "http://proxy.example:4");
        assert_eq!(port_for(API, None, &[]), None);
        assert_eq!(port_for(API, None, &[all]), Some(4));
        assert_eq!(port_for(API, None, &[all, ("https_proxy", "proxy.example:3")]), Some(3));
        assert_eq!(port_for(API, None, &[all, ("HTTPS_PROXY", " ")]), Some(4));
        assert_eq!(port_for(API, Some("http://proxy.example:1"), &[all]), Some(1));
        assert_eq!(port_for(API, None, &[("HTTP_PROXY", "http://proxy.example:5")]), None);
    }

    #[test]
    fn uses_only_a_configured_proxy_for_this_machine() {
        for url in ["https://localhost:1/", "http://127.0.0.1:1/", "http://[::1]:1/"] {
            assert_eq!(port_for(url, None, &[("HTTPS_PROXY", "http://proxy.example:3")]), None, "{url}");
            assert_eq!(port_for(url, Some("http://proxy.example:3"), &[]), Some(3), "{url}");
        }
    }

    #[test]
    fn bypasses_the_proxy_for_exceptions() {
        for (list, url, is_direct) in [
            ("*", API, true),
            ("manage.office.com", API, true),
            (" one.example ,\tManage.Office.Com , ", API, true),
            ("manage.office.com:443", API, true),
            ("manage.office.com:8443", API, false),
            ("*:443", API, true),
            (".office.com", API, true),
            ("*.office.com", API, true),
            (".office.com:443", API, true),
            ("office.com", API, false),
            (".manage.office.com", API, false),
            ("", API, false),
            (",,", API, false),
            ("::1", "http://[::1]:8080/", true),
            ("[::1]:8080", "http://[::1]:8080/", true),
            ("[::1]:8081", "http://[::1]:8080/", false),
            ("10.0.0.1", "https://10.0.0.1/", true),
        ] {
            for variable in EXCEPTION_VARIABLES {
                let proxy = "http://proxy.example:3";
                let expected = (!is_direct).then_some(3);
                assert_eq!(port_for(url, Some(proxy), &[(variable, list)]), expected, "{list}: {url}");
            }
        }
    }

    #[test]
    fn names_a_malformed_proxy_without_its_password() {
        for url in
            ["http://", "http://a:hunter2@", "http://u:hunter2@host:99999", "socks5://u:hunter2@host", "a b"]
        {
            for setting in PROXY_VARIABLES {
                let problem = routes(None, &[(setting, url)]).expect_err(url);
                assert_eq!(problem, SetupError::Proxy { setting });
                assert!(problem.to_string().starts_with(setting) && !problem.to_string().contains("hunter2"));
            }
        }
    }

    #[test]
    fn first_hop_is_the_proxy_or_the_host() {
        let through = routes(Some("http://u:hunter2@[2001:db8::1]:3128"), &[("NO_PROXY", ".example")]);
        let through = through.expect("a usable proxy");
        assert_eq!(through.first_hop(API), ("2001:db8::1".to_owned(), 3128));
        assert_eq!(through.first_hop("https://login.example:8443"), ("login.example".to_owned(), 8443));
        assert_eq!(through.first_hop("https://login.example"), ("login.example".to_owned(), 443));
    }

    #[test]
    fn describes_a_peer_behind_a_proxy_by_both_names() {
        let peer =
            routes(Some("http://u:hunter2@proxy.example:3128"), &[]).expect("a usable proxy").peer(API);
        assert_eq!(peer, "manage.office.com through the proxy proxy.example:3128");
    }
}
