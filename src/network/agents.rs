//! HTTP agents, which reuse connections and send each request along the route of its URL.

use std::{
    env,
    io::Read,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ureq::{
    Agent, Body, Proxy,
    http::{HeaderMap, Response},
    tls::TlsConfig,
    unversioned::transport::{ConnectProxyConnector, Connector, DefaultConnector, TcpConnector},
};

use super::{
    Addresses, Routes, SetupError,
    alias::Alias,
    encoding,
    error::NetworkError,
    first_address::FirstAddress,
    receiver_tls::ReceiverTls,
    speed::{self, MinimumSpeed},
    tls::TlsSettings,
};
use crate::{config::Network, limits};

/// The age at which an idle connection is closed. A firewall may have dropped it silently, and a request on it would
/// fail, in the worst case after `requestTimeout`. The strictest firewalls drop connections after 30 seconds.
const IDLE_CONNECTION_AGE_MAX: Duration = Duration::from_secs(15);

/// The longest duration of a request, however steadily its body arrives.
const REQUEST_DURATION_MAX: Duration = Duration::from_secs(15 * 60);

const _: () = assert!(limits::CONNECT_TIMEOUT.as_secs() < REQUEST_DURATION_MAX.as_secs());

/// The longest time in which an endpoint of this machine accepts a connection. Where there is none, such as the link-local
/// address of Azure's metadata service outside of Azure, nothing answers.
///
/// Source: azure-identity for Python, `PIPELINE_SETTINGS` of `imds.py`.
const LOCAL_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Three agents: one for direct requests, one for the proxy, and one for endpoints of this machine. Clones share their
/// connections.
#[derive(Clone, Debug)]
pub struct Agents {
    direct: Agent,
    local: Agent,
    proxied: Option<Agent>,
    routes: Arc<Routes>,
    /// The index of the address of a host that is tried first, modulo the number of its addresses.
    first_address: Arc<AtomicUsize>,
}

/// The options of agents.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// The maximum number of concurrent requests.
    pub requests_max: usize,
    /// The time-out of each read and write, and for the beginning of a response.
    pub io_timeout: Duration,
    /// The implementation of TLS.
    pub tls: TlsChoice,
    /// A server whose certificate has another name.
    pub alias: Option<Alias>,
    /// The size of each buffer of a connection. It has two, and two more with TLS. The longest line of a request and the
    /// whole head of a response must fit.
    pub buffer_bytes: usize,
}

/// The implementation of TLS.
#[derive(Clone, Debug)]
pub enum TlsChoice {
    /// That of ureq, which resumes sessions and so saves handshakes.
    Resuming(TlsConfig),
    /// That of [`super::tls`], without resumption, which some receivers reject.
    Receiver(TlsSettings),
}

impl Agents {
    /// Creates the agents without connecting. They follow no redirect, because that would pass credentials on, and return
    /// every status as a response.
    ///
    /// # Errors
    ///
    /// The proxy is not usable.
    pub fn new(network: &Network, options: &AgentOptions) -> Result<Self, SetupError> {
        Self::with_addresses(network, options, |first| {
            Addresses::new(options.alias.clone(), Arc::clone(first))
        })
    }

    fn with_addresses(
        network: &Network,
        options: &AgentOptions,
        addresses: impl Fn(&Arc<AtomicUsize>) -> Addresses,
    ) -> Result<Self, SetupError> {
        let first_address = Arc::default();
        let routes = Routes::new(network, |name| {
            let value = env::var_os(name)?;
            Some(value.to_string_lossy().into_owned())
        })?;
        let idle_connections_max = options.requests_max + 1;
        let io_timeout = Some(options.io_timeout);
        let receiver_tls = match &options.tls {
            TlsChoice::Resuming(_) => None,
            TlsChoice::Receiver(settings) => Some(ReceiverTls::new(settings.clone())),
        };
        let connect_timeout = limits::CONNECT_TIMEOUT.min(options.io_timeout);
        let agent = |proxy: Option<Proxy>, connect_timeout: Duration| {
            let settings = Agent::config_builder()
                .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
                .accept_encoding(encoding::ACCEPTED)
                .http_status_as_error(false) // the body and Retry-After of an error response are needed
                .max_redirects(0)
                .input_buffer_size(options.buffer_bytes)
                .output_buffer_size(options.buffer_bytes)
                .max_idle_connections(idle_connections_max)
                .max_idle_connections_per_host(idle_connections_max)
                .max_idle_age(IDLE_CONNECTION_AGE_MAX)
                .timeout_connect(Some(connect_timeout))
                .timeout_recv_response(io_timeout)
                .timeout_per_read(io_timeout)
                .timeout_per_write(io_timeout)
                .timeout_global(Some(REQUEST_DURATION_MAX))
                .tls_config(match &options.tls {
                    TlsChoice::Resuming(tls) => tls.clone(),
                    TlsChoice::Receiver(_) => TlsConfig::default(), // not used
                })
                .proxy(proxy) // also `None`: by default ureq reads the environment
                .build();
            let addresses = addresses(&first_address);
            let period = speed::PERIOD.min(options.io_timeout);
            let speed = MinimumSpeed { period };
            match &receiver_tls {
                None => Agent::with_parts(settings, DefaultConnector::default().chain(speed), addresses),
                Some(receiver_tls) => {
                    // Like the chain of ureq: the tunnel of a proxy, else a socket, and TLS over either.
                    let sockets = ().chain(ConnectProxyConnector::default()).chain(TcpConnector::default());
                    let inner = sockets.chain(receiver_tls.clone());
                    let connector = FirstAddress { inner }.chain(speed);
                    Agent::with_parts(settings, connector, addresses)
                }
            }
        };
        Ok(Self {
            direct: agent(None, connect_timeout),
            local: agent(None, connect_timeout.min(LOCAL_CONNECT_TIMEOUT)),
            proxied: routes.proxy().map(|proxy| agent(Some(proxy.clone()), connect_timeout)),
            routes: Arc::new(routes),
            first_address,
        })
    }

    /// Returns the agent for requests to this URL.
    pub fn agent_for(&self, url: &str) -> &Agent {
        let proxied = self.proxied.as_ref().filter(|_| self.is_proxied(url));
        proxied.unwrap_or(&self.direct)
    }

    /// Returns the agent for endpoints of this machine. It uses no proxy, whatever is configured.
    pub fn local(&self) -> &Agent {
        &self.local
    }

    /// Returns the host and port to which a request for this URL connects: its own, or those of the proxy.
    pub fn first_hop(&self, url: &str) -> (String, u16) {
        self.routes.first_hop(url)
    }

    /// Describes the peer of a request for this URL, for messages.
    pub fn peer(&self, url: &str) -> String {
        self.routes.peer(url)
    }

    /// Returns whether requests to this URL use the proxy.
    pub fn is_proxied(&self, url: &str) -> bool {
        self.routes.proxy_for(url).is_some()
    }

    /// Returns the index of the address that is tried first, for [`Self::avoid_address`].
    pub fn first_address(&self) -> usize {
        self.first_address.load(Ordering::Relaxed)
    }

    /// Makes further connections begin with the next address, after one that accepted a connection and did not respond.
    /// Concurrent calls with the same `first` count once.
    pub fn avoid_address(&self, first: usize) {
        let next = first.wrapping_add(1);
        let _ = self.first_address.compare_exchange(first, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Closes every connection in all threads: running and later requests fail at once.
    pub fn shut_down(&self) {
        for agent in [&self.direct, &self.local].into_iter().chain(&self.proxied) {
            agent.clone().shutdown();
        }
    }
}

/// Reads the body of an error response, at most [`limits::ERROR_BODY_BYTES_MAX`] bytes. A connection is reused only after
/// its response was read to the end. Errors are ignored because the status is meaningful without the body.
pub fn read_error_body(headers: &HeaderMap, body: Body) -> Vec<u8> {
    let mut reason = Vec::new();
    if let Ok(reader) = encoding::reader(headers, body.into_reader()) {
        let _ = reader.take(limits::ERROR_BODY_BYTES_MAX as u64).read_to_end(&mut reason);
    }
    reason
}

/// Returns the status, headers and body of a response. A body longer than `bytes_max` is truncated.
///
/// # Errors
///
/// The response or its body did not arrive completely.
pub fn read_response(
    peer: &str,
    response: Result<Response<Body>, ureq::Error>,
    bytes_max: usize,
) -> Result<(u16, HeaderMap, Vec<u8>), NetworkError> {
    let (status, headers, body, cut) = read_even_if_cut(peer, response, bytes_max)?;
    cut.map_or(Ok((status, headers, body)), Err)
}

/// Does the same, and returns a body that was cut off together with the error.
///
/// # Errors
///
/// No response arrived.
pub fn read_even_if_cut(
    peer: &str,
    response: Result<Response<Body>, ureq::Error>,
    bytes_max: usize,
) -> Result<(u16, HeaderMap, Vec<u8>, Option<NetworkError>), NetworkError> {
    let (head, body) = response.map_err(|error| NetworkError::from_ureq(peer, error))?.into_parts();
    let status = head.status.as_u16();
    if !head.status.is_success() {
        let reason = read_error_body(&head.headers, body);
        return Ok((status, head.headers, reason, None));
    }
    let mut bytes = Vec::new();
    let read =
        encoding::reader(&head.headers, body.into_reader())?.take(bytes_max as u64).read_to_end(&mut bytes);
    let cut = read.err().map(|error| NetworkError::from_body(peer, error));
    Ok((status, head.headers, bytes, cut))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Write},
        net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
        path::PathBuf,
        thread,
    };

    use rustls::{ServerConfig, ServerConnection, StreamOwned, crypto::ring};
    use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

    use super::*;
    use crate::config::Tls;

    /// Half of it must suffice for a handshake, also on a machine that is busy with other things.
    const IO_TIMEOUT: Duration = Duration::from_secs(6);

    fn certificate(name: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/certificates/tls").join(name)
    }

    fn listen() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port on the loopback");
        let address = listener.local_addr().expect("an address");
        (listener, address)
    }

    /// Starts a server that responds to each request with 204, with TLS or without.
    fn responding(has_tls: bool) -> SocketAddr {
        let (listener, address) = listen();
        let chain = CertificateDer::pem_file_iter(certificate("here.pem")).expect("a file of the tests");
        let chain = chain.collect::<Result<_, _>>().expect("certificates");
        let key = PrivateKeyDer::from_pem_file(certificate("server.key")).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions that ring knows")
            .with_no_client_auth()
            .with_single_cert(chain, key);
        let config = Arc::new(config.expect("a certificate and its key"));
        thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                if has_tls {
                    let session = ServerConnection::new(Arc::clone(&config)).expect("a session");
                    respond(StreamOwned::new(session, socket));
                } else {
                    respond(socket);
                }
            }
        });
        address
    }

    fn respond(stream: impl Read + Write) {
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        while stream.read_line(&mut line).is_ok_and(|length| length > 2) {
            line.clear();
        }
        let _ = stream.get_mut().write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
    }

    /// Returns agents for a receiver whose host has these addresses.
    fn agents(url: &str, addresses: &[SocketAddr]) -> Agents {
        let tls = Tls { ca_file: Some(certificate("private_root.pem")), ..Tls::default() };
        let options = AgentOptions {
            requests_max: 1,
            io_timeout: IO_TIMEOUT,
            tls: TlsChoice::Receiver(TlsSettings { shared_roots: None, tls }),
            alias: None,
            buffer_bytes: 16 * 1024,
        };
        let network = Network { proxy: None, ca_file: None };
        Agents::with_addresses(&network, &options, |first| {
            Addresses::of_a_test(url, addresses, Arc::clone(first))
        })
        .expect("a usable network")
    }

    fn status(agents: &Agents, url: &str) -> Result<u16, ureq::Error> {
        agents.direct.get(url).call().map(|response| response.status().as_u16())
    }

    #[test]
    fn tries_the_next_address_after_a_silent_one() {
        let (silent, silent_address) = listen();
        for (url, has_tls) in [("http://localhost:9/", false), ("https://localhost:9/", true)] {
            let addresses = [silent_address, responding(has_tls)];
            let agents = agents(url, &addresses);
            if !has_tls {
                // The receiver may have accepted the request, so only the next attempt uses another address.
                let first = agents.first_address();
                status(&agents, url).expect_err("a time-out");
                agents.avoid_address(first);
                agents.avoid_address(first);
            }
            assert_eq!(status(&agents, url).expect("a response"), 204, "{url}");
        }
        drop(silent);
    }

    #[test]
    fn tries_the_next_address_after_a_failed_connection() {
        let (full, full_address) = listen();
        let bound = Duration::from_millis(50);
        // The kernel ignores further connections once the backlog is full.
        let waiting: Vec<_> = std::iter::from_fn(|| TcpStream::connect_timeout(&full_address, bound).ok())
            .take(10_000)
            .collect();
        assert!(waiting.len() < 10_000, "the backlog has a bound");
        let (closed, closed_address) = listen();
        drop(closed);
        for (url, has_tls) in [("http://localhost:9/", false), ("https://localhost:9/", true)] {
            for silent_address in [full_address, closed_address] {
                let agents = agents(url, &[silent_address, responding(has_tls)]);
                assert_eq!(status(&agents, url).expect("a response"), 204, "{url}");
            }
        }
        drop((full, waiting));
    }
}
