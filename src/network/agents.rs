//! Who makes requests: over connections that are used again, each the way that its URL takes.

use std::{env, io::Read, iter, sync::Arc, time::Duration};

use ureq::{
    Agent, Body, Proxy,
    http::{HeaderMap, Response},
    tls::TlsConfig,
    unversioned::transport::{ConnectProxyConnector, Connector, DefaultConnector, TcpConnector},
};

use super::{
    Addresses, Routes, Unusable, alias::Alias, encoding, error::NetworkError, receiver_tls::ReceiverTls,
    speed::MinimumSpeed, tls::TlsSettings,
};
use crate::{config::Network, limits};

/// Two agents, one of which goes through the proxy. Clones share their connections.
#[derive(Clone, Debug)]
pub struct Agents {
    straight: Agent,
    proxied: Option<Agent>,
    routes: Arc<Routes>,
}

/// How requests are made.
#[derive(Clone, Debug)]
pub struct Manner {
    /// So many are made at one time, by as many threads.
    pub at_once: usize,
    /// The longest silence of the other side.
    pub silence_max: Duration,
    /// How TLS is done.
    pub tls: TlsChoice,
    /// A server that is certified under another name.
    pub alias: Option<Alias>,
}

/// Who does TLS.
#[derive(Clone, Debug)]
pub enum TlsChoice {
    /// ureq, which resumes sessions: that saves handshakes.
    Resuming(TlsConfig),
    /// We, as for all receivers: without resumption, because some receivers reject it.
    Receiver(TlsSettings),
}

impl Agents {
    /// Connects to nothing yet. Redirects are never followed, because credentials would go along, and no status is an
    /// error by itself.
    pub fn new(network: &Network, manner: &Manner) -> Result<Self, Unusable> {
        let routes = Routes::new(network, |name| {
            let value = env::var_os(name)?;
            Some(value.to_string_lossy().into_owned())
        })?;
        let idle_connections_max = manner.at_once + 1;
        let silence_max = Some(manner.silence_max);
        let receiver_tls = match &manner.tls {
            TlsChoice::Resuming(_) => None,
            TlsChoice::Receiver(settings) => Some(ReceiverTls::new(settings.clone())),
        };
        let agent = |proxy: Option<Proxy>| {
            let settings = Agent::config_builder()
                .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
                .accept_encoding(encoding::ACCEPTED)
                .http_status_as_error(false) // an error's body and its Retry-After are read here
                .max_redirects(0)
                .max_idle_connections(idle_connections_max)
                .max_idle_connections_per_host(idle_connections_max)
                .max_idle_age(limits::IDLE_CONNECTION_AGE_MAX)
                .timeout_connect(Some(limits::CONNECT_TIMEOUT.min(manner.silence_max)))
                .timeout_recv_response(silence_max)
                .timeout_per_read(silence_max)
                .timeout_per_write(silence_max)
                .timeout_global(Some(limits::REQUEST_LASTS_MAX))
                .tls_config(match &manner.tls {
                    TlsChoice::Resuming(tls) => tls.clone(),
                    TlsChoice::Receiver(_) => TlsConfig::default(), // not used
                })
                .proxy(proxy) // `None` too: else ureq would look into the environment by itself
                .build();
            let addresses = Addresses::new(manner.alias.clone());
            let period = limits::BODY_SPEED_PERIOD.min(manner.silence_max);
            let speed = MinimumSpeed { period };
            match &receiver_tls {
                None => Agent::with_parts(settings, DefaultConnector::default().chain(speed), addresses),
                Some(receiver_tls) => {
                    // As ureq's own chain: the proxy's tunnel, else a socket, and TLS over either.
                    let sockets = ().chain(ConnectProxyConnector::default()).chain(TcpConnector::default());
                    let connector = sockets.chain(receiver_tls.clone()).chain(speed);
                    Agent::with_parts(settings, connector, addresses)
                }
            }
        };
        Ok(Self {
            straight: agent(None),
            proxied: routes.proxy().map(|proxy| agent(Some(proxy.clone()))),
            routes: Arc::new(routes),
        })
    }

    /// Who makes a request to this URL.
    pub fn agent_for(&self, url: &str) -> &Agent {
        let proxied = self.proxied.as_ref().filter(|_| self.is_proxied(url));
        proxied.unwrap_or(&self.straight)
    }

    /// Host and port that are connected to for this URL: its own, or those of the proxy on the way.
    pub fn first_hop(&self, url: &str) -> (String, u16) {
        self.routes.first_hop(url)
    }

    /// What is connected to for this URL, in words.
    pub fn peer(&self, url: &str) -> String {
        self.routes.peer(url)
    }

    /// Whether requests to this URL go through a proxy.
    pub fn is_proxied(&self, url: &str) -> bool {
        self.routes.proxy_for(url).is_some()
    }

    /// Cuts every connection, in all threads: requests that run fail at once, and so does each one after.
    pub fn shut_down(&self) {
        for agent in iter::once(&self.straight).chain(&self.proxied) {
            agent.clone().shutdown();
        }
    }
}

/// Reads the body of an answer that says no, within bounds: its connection is used again only if it was read to its
/// end. A body that breaks off takes nothing from what the status says.
pub fn read_refusal(headers: &HeaderMap, body: Body) -> Vec<u8> {
    let mut reason = Vec::new();
    if let Ok(reader) = encoding::reader(headers, body.into_reader()) {
        let _ = reader.take(limits::ERROR_BODY_BYTES_MAX as u64).read_to_end(&mut reason);
    }
    reason
}

/// The status, headers and body of an answer whose body is at most so many bytes, and short of its end if it is more.
pub fn read_answer(
    peer: &str,
    answer: Result<Response<Body>, ureq::Error>,
    bytes_max: usize,
) -> Result<(u16, HeaderMap, Vec<u8>), NetworkError> {
    let (status, headers, body, cut) = read_even_if_cut(peer, answer, bytes_max)?;
    cut.map_or(Ok((status, headers, body)), Err)
}

/// The same, with what could be read of the body and why that was not all of it.
pub fn read_even_if_cut(
    peer: &str,
    answer: Result<Response<Body>, ureq::Error>,
    bytes_max: usize,
) -> Result<(u16, HeaderMap, Vec<u8>, Option<NetworkError>), NetworkError> {
    let (head, body) = answer.map_err(|error| NetworkError::from_ureq(peer, error))?.into_parts();
    let status = head.status.as_u16();
    if !head.status.is_success() {
        let reason = read_refusal(&head.headers, body);
        return Ok((status, head.headers, reason, None));
    }
    let mut bytes = Vec::new();
    let read =
        encoding::reader(&head.headers, body.into_reader())?.take(bytes_max as u64).read_to_end(&mut bytes);
    let cut = read.err().map(|error| NetworkError::from_body(peer, error));
    Ok((status, head.headers, bytes, cut))
}
