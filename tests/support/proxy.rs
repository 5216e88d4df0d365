//! A proxy as companies have them: it opens tunnels for `CONNECT`, perhaps only with a password, and writes down to
//! where.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

/// A proxy on a free port of the loopback, for as long as the tests run. It finds every host at 127.0.0.1, whatever its
/// name.
pub struct Proxy {
    address: SocketAddr,
    ways: Arc<Ways>,
}

struct Ways {
    manner: Manner,
    asked: Mutex<Vec<String>>,
    tunnels: AtomicUsize,
}

/// How a proxy treats those who come.
pub enum Manner {
    /// Whoever asks gets a tunnel.
    Open,
    /// Only who brings this `Proxy-Authorization`.
    Demanding(&'static str),
    /// Nobody: the status says why.
    Refusing(u16),
    /// This number of tunnels end as soon as the client has sent something.
    Cutting(usize),
    /// The first tunnel swallows whatever the client says after this number of bytes, as a firewall does with a connection
    /// that it has forgotten.
    Forgetting(u64),
}

impl Proxy {
    pub fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port on the loopback");
        let address = listener.local_addr().expect("an address");
        let ways = Arc::new(Ways { manner, asked: Mutex::default(), tunnels: AtomicUsize::new(0) });
        let shared = Arc::clone(&ways);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let ways = Arc::clone(&shared);
                thread::spawn(move || ways.serve(client)); // its errors are its client's to notice
            }
        });
        Self { address, ways }
    }

    /// Its URL, with `user:password` or nothing in it.
    pub fn url(&self, credentials: &str) -> String {
        let joint = if credentials.is_empty() { "" } else { "@" };
        format!("http://{credentials}{joint}{}", self.address)
    }

    /// The hosts and ports for which a tunnel was asked, in order.
    pub fn asked(&self) -> Vec<String> {
        self.ways.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Ways {
    fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        let head = read_head(&mut client)?;
        let mut lines = head.lines();
        let target = lines.next().and_then(|line| line.strip_prefix("CONNECT ")?.strip_suffix(" HTTP/1.1"));
        let target = target.ok_or_else(|| io::Error::other(format!("no CONNECT: {head}")))?;
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(target.to_owned());
        let authorization = lines.find_map(|line| line.strip_prefix("Proxy-Authorization: "));
        let refusal = match self.manner {
            Manner::Demanding(demanded) if authorization != Some(demanded) => Some(407),
            Manner::Refusing(status) => Some(status),
            _ => None,
        };
        if let Some(status) = refusal {
            return write!(client, "HTTP/1.1 {status} Refused\r\nContent-Length: 0\r\n\r\n");
        }
        let port = target.rsplit(':').next().and_then(|port| port.parse().ok()).unwrap_or_default();
        let server = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
        let tunnels_before = self.tunnels.fetch_add(1, Ordering::SeqCst);
        let heeded_bytes = match self.manner {
            Manner::Cutting(count) if tunnels_before < count => {
                client.read_exact(&mut [0])?;
                return client.shutdown(Shutdown::Both);
            }
            Manner::Forgetting(bytes) if tunnels_before == 0 => bytes,
            _ => u64::MAX,
        };
        let (from_server, to_client) = (server.try_clone()?, client.try_clone()?);
        thread::spawn(move || pass_on(from_server, to_client, u64::MAX));
        pass_on(client, server, heeded_bytes);
        Ok(())
    }
}

/// What comes from one side to the other, until either has gone; what goes beyond that many bytes is dropped.
fn pass_on(mut from: TcpStream, mut to: TcpStream, bytes_max: u64) {
    let copied = io::copy(&mut (&from).take(bytes_max), &mut to);
    if copied.is_ok_and(|count| count == bytes_max) {
        let _ = io::copy(&mut from, &mut io::sink());
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

/// What a client says before it waits for an answer.
pub fn read_head(client: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte)?;
        head.extend(byte);
    }
    String::from_utf8(head).map_err(io::Error::other)
}
