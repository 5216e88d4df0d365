//! The network between here and everybody else: which way a request takes, and whose certificates are trusted at its
//! end.
//!
//! The choice of the way is made here and not left to ureq, which would take any proxy of the environment for any
//! target, drop a malformed one without a word, and know neither ports nor blanks in `NO_PROXY`.

pub mod agents;
pub mod alias;
pub mod encoding;
pub mod error;
mod first_address;
pub mod page;
mod receiver_tls;
mod speed;
pub mod tls;

use std::{
    collections::HashMap,
    fs,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use ureq::{
    Proxy,
    http::Uri,
    tls::{Certificate, PemItem, RootCerts},
    unversioned::{
        resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver},
        transport::NextTimeout,
    },
};

use crate::{
    config::{self, Network},
    limits::ADDRESS_AGE_MAX,
    redact,
};
use alias::Alias;

/// Where a proxy is taken from if the configuration names none. The first that is set counts.
const PROXY_VARIABLES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];

/// Where the exceptions from a proxy are listed, whether it is the configuration's or the environment's.
const EXCEPTION_VARIABLES: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// The network cannot be used as configured.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// `ca_file` cannot be read.
    #[error("ca_file {path}: {problem}; give a readable PEM file")]
    Roots {
        /// As configured.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A setting is no proxy's URL. Its text is not repeated: it can hold a password.
    #[error("{setting}: {}", config::NOT_A_PROXY)]
    Proxy {
        /// `proxy`, or the environment's variable.
        setting: &'static str,
    },
}

/// Which way requests take: straight, or through a proxy.
#[derive(Debug)]
pub struct Routes {
    proxy: Option<Proxy>,
    /// A proxy that was not configured for this program is not meant for this machine's own services.
    spares_loopback: bool,
    exceptions: Vec<Exception>,
}

impl Routes {
    /// As configured, else as the environment says.
    pub fn new(network: &Network, environment: impl Fn(&str) -> Option<String>) -> Result<Self, Unusable> {
        let first_of = |names: &[&'static str]| {
            let values = names.iter().map(|&name| (name, environment(name).unwrap_or_default()));
            values.into_iter().find(|(_, value)| !value.trim().is_empty())
        };
        let configured = network.proxy.as_ref().map(|proxy| ("proxy", proxy.reveal().to_owned()));
        let spares_loopback = configured.is_none();
        let proxy = match configured.or_else(|| first_of(&PROXY_VARIABLES)) {
            Some((setting, url)) => {
                redact::register_url(&url);
                Some(proxy_of(&url).ok_or(Unusable::Proxy { setting })?)
            }
            None => None,
        };
        let list = first_of(&EXCEPTION_VARIABLES).map(|(_, list)| list).unwrap_or_default();
        let exceptions = list.split([',', ' ', '\t']).filter_map(Exception::new).collect();
        Ok(Self { proxy, spares_loopback, exceptions })
    }

    /// The proxy for all that does not go straight.
    pub fn proxy(&self) -> Option<&Proxy> {
        self.proxy.as_ref()
    }

    /// The proxy through which this URL is reached; `None`: straight.
    pub fn proxy_for(&self, url: &str) -> Option<&Proxy> {
        let (host, port) = host_and_port(url)?;
        let goes_straight = (self.spares_loopback && config::is_loopback(&host))
            || self.exceptions.iter().any(|exception| exception.holds_for(&host, port));
        self.proxy.as_ref().filter(|_| !goes_straight)
    }

    /// Host and port that are connected to for this URL: its own, or those of the proxy on the way.
    pub fn first_hop(&self, url: &str) -> (String, u16) {
        match self.proxy_for(url) {
            Some(proxy) => (bare(proxy.host()), proxy.port()),
            None => host_and_port(url).expect("a URL of the configuration was checked when that was read"),
        }
    }

    /// What is connected to for this URL, in words.
    pub fn peer(&self, url: &str) -> String {
        let host = url.split('/').nth(2).unwrap_or(url);
        match self.proxy_for(url) {
            Some(proxy) => format!("{host} through the proxy {}:{}", proxy.host(), proxy.port()),
            None => host.to_owned(),
        }
    }
}

/// The proxy at this URL.
fn proxy_of(url: &str) -> Option<Proxy> {
    config::is_proxy(url).then(|| Proxy::new(url.trim()).ok())?
}

/// An entry of `NO_PROXY`: `*`, `host`, `.suffix` or `*.suffix`, each with `:port` or without. A suffix does not stand
/// for the domain itself.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Exception {
    hosts: Hosts,
    /// Any if `None`.
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Hosts {
    All,
    One(String),
    EndingIn(String),
}

impl Exception {
    /// Reads an entry; nothing for an empty one.
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

    /// Whether it holds for a host as [`bare`] gives it.
    fn holds_for(&self, host: &str, port: u16) -> bool {
        let is_host = match &self.hosts {
            Hosts::All => true,
            Hosts::One(name) => host == name,
            Hosts::EndingIn(suffix) => host.ends_with(suffix),
        };
        is_host && self.port.is_none_or(|only| only == port)
    }
}

/// Those of a URL, the host as [`bare`] gives it; nothing for what is no URL.
fn host_and_port(url: &str) -> Option<(String, u16)> {
    let uri: Uri = url.parse().ok()?;
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("http") { 80 } else { 443 });
    Some((bare(uri.host()?), port))
}

/// A host as it is compared: in lower case, an IPv6 address without its brackets.
fn bare(host: &str) -> String {
    host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase()
}

/// Looks the addresses of a host up once and remembers them for a while. Without it ureq would look them up for each
/// request, even for one on a connection that is there already, and start a thread for that.
#[derive(Debug, Default)]
pub struct Addresses {
    /// A host that is found at the addresses of another.
    alias: Option<Alias>,
    /// Which of a host's addresses comes first.
    first: Arc<AtomicUsize>,
    system: DefaultResolver,
    known: Mutex<HashMap<String, (ResolvedSocketAddrs, Instant)>>,
}

impl Addresses {
    /// Knows none yet. `first` counts up to give each of a host's addresses the first place in turn.
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
    /// Knows these addresses of the host of a URL.
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
        let real = self.alias.as_ref().and_then(|alias| alias.real(uri));
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

/// The system's trust store, and the roots in this file in addition. There is no way to trust every certificate.
pub fn roots(file: Option<&Path>) -> Result<RootCerts, Unusable> {
    let mut certificates = Vec::new();
    if let Some(path) = file {
        let unusable = |problem: String| Unusable::Roots { path: path.display().to_string(), problem };
        let pem = fs::read(path).map_err(|error| unusable(error.to_string()))?;
        for item in ureq::tls::parse_pem(&pem) {
            if let PemItem::Certificate(certificate) =
                item.map_err(|_| unusable("not a PEM file".to_owned()))?
            {
                certificates.push(certificate);
            }
        }
        if certificates.is_empty() {
            return Err(unusable("holds no certificate".to_owned()));
        }
    }
    if certificates.is_empty() {
        return Ok(RootCerts::PlatformVerifier);
    }
    let system = rustls_native_certs::load_native_certs().certs;
    certificates.extend(system.iter().map(|certificate| Certificate::from_der(certificate).to_owned()));
    Ok(RootCerts::Specific(Arc::new(certificates)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    const API: &str = "https://manage.office.com/api/v1.0/x";

    fn routes(proxy: Option<&str>, variables: &[(&str, &str)]) -> Result<Routes, Unusable> {
        let network = Network { proxy: proxy.map(Secret::new), ca_file: None };
        Routes::new(&network, |name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    /// The port of the proxy through which a URL is reached.
    #[track_caller]
    fn port_for(url: &str, proxy: Option<&str>, variables: &[(&str, &str)]) -> Option<u16> {
        routes(proxy, variables).expect("a usable proxy").proxy_for(url).map(Proxy::port)
    }

    #[test]
    fn the_configured_proxy_comes_first_then_the_environments() {
        let all = ("all_proxy", "http://proxy.example:4");
        assert_eq!(port_for(API, None, &[]), None);
        assert_eq!(port_for(API, None, &[all]), Some(4));
        assert_eq!(port_for(API, None, &[all, ("https_proxy", "proxy.example:3")]), Some(3));
        assert_eq!(port_for(API, None, &[all, ("HTTPS_PROXY", " ")]), Some(4));
        assert_eq!(port_for(API, Some("http://proxy.example:1"), &[all]), Some(1));
        assert_eq!(port_for(API, None, &[("HTTP_PROXY", "http://proxy.example:5")]), None);
    }

    #[test]
    fn only_a_configured_proxy_is_used_for_this_machine() {
        for url in ["https://localhost:1/", "http://127.0.0.1:1/", "http://[::1]:1/"] {
            assert_eq!(port_for(url, None, &[("HTTPS_PROXY", "http://proxy.example:3")]), None, "{url}");
            assert_eq!(port_for(url, Some("http://proxy.example:3"), &[]), Some(3), "{url}");
        }
    }

    #[test]
    fn exceptions_from_the_proxy_go_straight() {
        for (list, url, goes_straight) in [
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
                let expected = (!goes_straight).then_some(3);
                assert_eq!(port_for(url, Some(proxy), &[(variable, list)]), expected, "{list}: {url}");
            }
        }
    }

    #[test]
    fn a_malformed_proxy_is_named_without_its_password() {
        for url in
            ["http://", "http://a:hunter2@", "http://u:hunter2@host:99999", "socks5://u:hunter2@host", "a b"]
        {
            for setting in PROXY_VARIABLES {
                let problem = routes(None, &[(setting, url)]).expect_err(url);
                assert_eq!(problem, Unusable::Proxy { setting });
                assert!(problem.to_string().starts_with(setting) && !problem.to_string().contains("hunter2"));
            }
        }
    }

    #[test]
    fn the_first_hop_is_the_proxy_or_the_host_itself() {
        let through = routes(Some("http://u:hunter2@[2001:db8::1]:3128"), &[("NO_PROXY", ".example")]);
        let through = through.expect("a usable proxy");
        assert_eq!(through.first_hop(API), ("2001:db8::1".to_owned(), 3128));
        assert_eq!(through.first_hop("https://login.example:8443"), ("login.example".to_owned(), 8443));
        assert_eq!(through.first_hop("https://login.example"), ("login.example".to_owned(), 443));
    }

    #[test]
    fn a_peer_behind_a_proxy_is_called_by_both_names() {
        let peer =
            routes(Some("http://u:hunter2@proxy.example:3128"), &[]).expect("a usable proxy").peer(API);
        assert_eq!(peer, "manage.office.com through the proxy proxy.example:3128");
    }
}
