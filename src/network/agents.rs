//! Who makes requests: over connections that are used again, each the way that its URL takes.

use std::{
    env,
    io::Read,
    iter,
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
    Addresses, Routes, SetupError, alias::Alias, encoding, error::NetworkError, first_address::FirstAddress,
    receiver_tls::ReceiverTls, speed::MinimumSpeed, tls::TlsSettings,
};
use crate::{config::Network, limits};

/// Two agents, one of which goes through the proxy. Clones share their connections.
#[derive(Clone, Debug)]
pub struct Agents {
    straight: Agent,
    proxied: Option<Agent>,
    routes: Arc<Routes>,
    /// Which of a host's addresses is connected to first, modulo their number.
    first_address: Arc<AtomicUsize>,
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
    pub fn new(network: &Network, manner: &Manner) -> Result<Self, SetupError> {
        Self::with_addresses(network, manner, |first| Addresses::new(manner.alias.clone(), Arc::clone(first)))
    }

    fn with_addresses(
        network: &Network,
        manner: &Manner,
        addresses: impl Fn(&Arc<AtomicUsize>) -> Addresses,
    ) -> Result<Self, SetupError> {
        let first_address = Arc::default();
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
            let addresses = addresses(&first_address);
            let period = limits::BODY_SPEED_PERIOD.min(manner.silence_max);
            let speed = MinimumSpeed { period };
            match &receiver_tls {
                None => Agent::with_parts(settings, DefaultConnector::default().chain(speed), addresses),
                Some(receiver_tls) => {
                    // As ureq's own chain: the proxy's tunnel, else a socket, and TLS over either.
                    let sockets = ().chain(ConnectProxyConnector::default()).chain(TcpConnector::default());
                    let inner = sockets.chain(receiver_tls.clone());
                    let connector = FirstAddress { inner }.chain(speed);
                    Agent::with_parts(settings, connector, addresses)
                }
            }
        };
        Ok(Self {
            straight: agent(None),
            proxied: routes.proxy().map(|proxy| agent(Some(proxy.clone()))),
            routes: Arc::new(routes),
            first_address,
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

    /// Returns which of a host's addresses is connected to first, for [`Self::avoid_address`].
    pub fn first_address(&self) -> usize {
        self.first_address.load(Ordering::Relaxed)
    }

    /// Lets further connections begin with the next address after one that accepted a connection and did not answer.
    /// Several requests that began with the same one count as one.
    pub fn avoid_address(&self, first: usize) {
        let next = first.wrapping_add(1);
        let _ = self.first_address.compare_exchange(first, next, Ordering::Relaxed, Ordering::Relaxed);
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

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Write},
        net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
        path::PathBuf,
        thread,
        time::Instant,
    };

    use rustls::{ServerConfig, ServerConnection, StreamOwned, crypto::ring};
    use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

    use super::*;
    use crate::config::Tls;

    fn certificate(name: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/certificates/tls").join(name)
    }

    fn listen() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port on the loopback");
        let address = listener.local_addr().expect("an address");
        (listener, address)
    }

    /// Answers each request with 204, under TLS or not.
    fn answering(has_tls: bool) -> SocketAddr {
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
                    answer(StreamOwned::new(session, socket));
                } else {
                    answer(socket);
                }
            }
        });
        address
    }

    fn answer(stream: impl Read + Write) {
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        while stream.read_line(&mut line).is_ok_and(|length| length > 2) {
            line.clear();
        }
        let _ = stream.get_mut().write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
    }

    /// Agents for a receiver whose host has these addresses.
    fn agents(url: &str, addresses: &[SocketAddr]) -> Agents {
        let tls = Tls { ca_file: Some(certificate("private_root.pem")), ..Tls::default() };
        let manner = Manner {
            at_once: 1,
            silence_max: Duration::from_millis(600),
            tls: TlsChoice::Receiver(TlsSettings { shared_roots: None, tls }),
            alias: None,
        };
        let network = Network { proxy: None, ca_file: None };
        Agents::with_addresses(&network, &manner, |first| {
            Addresses::of_a_test(url, addresses, Arc::clone(first))
        })
        .expect("a usable network")
    }

    fn status(agents: &Agents, url: &str) -> Result<u16, ureq::Error> {
        agents.straight.get(url).call().map(|response| response.status().as_u16())
    }

    #[test]
    fn the_next_address_is_tried_when_the_first_one_is_silent() {
        let (silent, silent_address) = listen();
        for (url, has_tls) in [("http://localhost:9/", false), ("https://localhost:9/", true)] {
            let addresses = [silent_address, answering(has_tls)];
            let agents = agents(url, &addresses);
            if !has_tls {
                // The request may have been accepted, so another address is left to another try.
                let first = agents.first_address();
                status(&agents, url).expect_err("a time-out");
                agents.avoid_address(first);
                agents.avoid_address(first);
            }
            assert_eq!(status(&agents, url).expect("an answer"), 204, "{url}");
        }
        drop(silent);
    }

    #[test]
    fn the_next_address_is_tried_when_the_first_one_accepts_no_connection() {
        let (full, full_address) = listen();
        let bound = Duration::from_millis(50);
        // Beyond a full backlog the kernel drops what would open another connection.
        let waiting: Vec<_> = std::iter::from_fn(|| TcpStream::connect_timeout(&full_address, bound).ok())
            .take(10_000)
            .collect();
        assert!(waiting.len() < 10_000, "the backlog has a bound");
        let (closed, closed_address) = listen();
        drop(closed);
        for (url, has_tls) in [("http://localhost:9/", false), ("https://localhost:9/", true)] {
            for silent_address in [full_address, closed_address] {
                let agents = agents(url, &[silent_address, answering(has_tls)]);
                let begun = Instant::now();
                assert_eq!(status(&agents, url).expect("an answer"), 204, "{url}");
                assert!(begun.elapsed() < Duration::from_secs(10));
            }
        }
        drop((full, waiting));
    }
}
