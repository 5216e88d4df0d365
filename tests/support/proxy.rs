//! An HTTP proxy that opens tunnels for `CONNECT`, like those of companies, and records where to.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use super::listener::{Listener, connect};

/// A proxy on a free port of 127.0.0.1. It connects to 127.0.0.1 for every host name.
pub struct Proxy {
    listener: Listener,
    state: Arc<State>,
}

struct State {
    behavior: ProxyBehavior,
    /// The hosts and ports of the `CONNECT` requests.
    targets: Mutex<Vec<String>>,
    tunnels: AtomicUsize,
}

/// What a proxy does with `CONNECT` requests.
pub enum ProxyBehavior {
    /// Opens a tunnel for every request.
    Open,
    /// Answers 407 to requests without this `Proxy-Authorization`.
    Authorize(&'static str),
    /// Answers every request with this status.
    Reject(u16),
    /// Closes this number of tunnels as soon as the client has sent something.
    CloseTunnels(usize),
    /// Drops what the client sends through the first tunnel after this number of bytes, as a firewall does that has removed
    /// the connection from its table.
    DropAfter(u64),
}

impl Proxy {
    pub fn start(behavior: ProxyBehavior) -> Self {
        let state = Arc::new(State { behavior, targets: Mutex::default(), tunnels: AtomicUsize::new(0) });
        let served = Arc::clone(&state);
        Self { listener: Listener::start(move |client| served.serve(client)), state }
    }

    /// Its URL, with `user:password` or, if empty, without.
    pub fn url(&self, credentials: &str) -> String {
        let separator = if credentials.is_empty() { "" } else { "@" };
        format!("http://{credentials}{separator}{}", self.listener.address())
    }

    /// The hosts and ports of the `CONNECT` requests, in order.
    pub fn targets(&self) -> Vec<String> {
        self.state.targets.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl State {
    fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        let head = read_head(&mut client)?;
        let mut lines = head.lines();
        let target = lines.next().and_then(|line| line.strip_prefix("CONNECT ")?.strip_suffix(" HTTP/1.1"));
        let target = target.ok_or_else(|| io::Error::other(format!("not a CONNECT request: {head}")))?;
        self.targets.lock().unwrap_or_else(PoisonError::into_inner).push(target.to_owned());
        let authorization = lines.find_map(|line| line.strip_prefix("Proxy-Authorization: "));
        let rejection = match self.behavior {
            ProxyBehavior::Authorize(expected) if authorization != Some(expected) => Some(407),
            ProxyBehavior::Reject(status) => Some(status),
            _ => None,
        };
        if let Some(status) = rejection {
            return write!(client, "HTTP/1.1 {status} Rejected\r\nContent-Length: 0\r\n\r\n");
        }
        let port = target.rsplit(':').next().and_then(|port| port.parse().ok()).unwrap_or_default();
        let server = connect(port)?;
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
        let tunnels_before = self.tunnels.fetch_add(1, Ordering::SeqCst);
        let client_bytes_max = match self.behavior {
            ProxyBehavior::CloseTunnels(count) if tunnels_before < count => {
                client.read_exact(&mut [0])?;
                return client.shutdown(Shutdown::Both);
            }
            ProxyBehavior::DropAfter(bytes) if tunnels_before == 0 => bytes,
            _ => u64::MAX,
        };
        let (from_server, to_client) = (server.try_clone()?, client.try_clone()?);
        thread::spawn(move || forward(from_server, to_client, u64::MAX));
        forward(client, server, client_bytes_max);
        Ok(())
    }
}

/// Forwards bytes until either side closes, and drops those after this number.
fn forward(mut from: TcpStream, mut to: TcpStream, bytes_max: u64) {
    let copied = io::copy(&mut (&from).take(bytes_max), &mut to);
    if copied.is_ok_and(|count| count == bytes_max) {
        let _ = io::copy(&mut from, &mut io::sink());
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

/// Reads up to the empty line that ends the head of a request.
fn read_head(client: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte)?;
        head.extend(byte);
    }
    String::from_utf8(head).map_err(io::Error::other)
}
