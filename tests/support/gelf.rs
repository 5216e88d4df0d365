//! A receiver of GELF over TCP: takes messages that end with a null byte, and plays the faults that receivers have.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Map, Value};

/// With this begins the handshake of TLS.
const TLS_HANDSHAKE: &[u8; 1] = b"\x16";

/// The longest wait for anything here.
const WAIT_MAX: Duration = Duration::from_secs(20);

/// What the receiver does with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Reads to the end, and closes then.
    Read,
    /// Reads this number of bytes, and closes although more is there or comes.
    BreakOffAfter(usize),
    /// Accepts it and never reads.
    Stand,
    /// Reads, and keeps its side open when the other one is closed, as a load balancer can.
    KeepOpen,
}

/// The running receiver. It ends with the test's process.
pub struct GelfReceiver {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// What is done with the next connections; with all others it reads.
    manners: Mutex<Vec<Manner>>,
    /// Whole messages, by connection.
    connections: Mutex<Vec<Vec<Vec<u8>>>>,
    is_closed: AtomicBool,
}

impl GelfReceiver {
    /// On loopback, at a port of its own.
    pub fn start() -> Self {
        Self::listen(None)
    }

    /// The same under TLS.
    pub fn start_with_tls(config: Arc<ServerConfig>) -> Self {
        Self::listen(Some(config))
    }

    fn listen(tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        thread::spawn(move || {
            for socket in listener.incoming() {
                if theirs.is_closed.load(Ordering::SeqCst) {
                    break;
                }
                theirs.serve(socket.expect("a connection"), tls.as_ref());
            }
        });
        Self { address, shared }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The manners of the next connections, the first one first.
    pub fn behave(&self, manners: &[Manner]) {
        *lock(&self.shared.manners) = manners.to_vec();
    }

    /// From now on nothing listens.
    pub fn close(&self) {
        self.shared.is_closed.store(true, Ordering::SeqCst);
        let until = Instant::now() + WAIT_MAX;
        while TcpStream::connect(self.address).is_ok() {
            assert!(Instant::now() < until, "the receiver still listens");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// How many connections there were.
    pub fn connections(&self) -> usize {
        lock(&self.shared.connections).len()
    }

    /// Waits until this many messages have come whole.
    #[track_caller]
    pub fn wait_for_messages(&self, count: usize) {
        let until = Instant::now() + WAIT_MAX;
        while self.messages().len() < count {
            assert!(Instant::now() < until, "{} messages of {count}", self.messages().len());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Every message that came whole.
    pub fn messages(&self) -> Vec<Map<String, Value>> {
        let parse = |message: &Vec<u8>| serde_json::from_slice(message).expect("a message is an object");
        lock(&self.shared.connections).iter().flatten().map(parse).collect()
    }

    /// How often the record of each Id came.
    pub fn ids(&self) -> BTreeMap<String, usize> {
        let mut ids = BTreeMap::new();
        for message in self.messages() {
            *ids.entry(message["_Id"].as_str().expect("an Id").to_owned()).or_default() += 1;
        }
        ids
    }
}

impl Shared {
    fn serve(&self, socket: TcpStream, tls: Option<&Arc<ServerConfig>>) {
        let mut first = [0];
        if tls.is_none() && matches!(socket.peek(&mut first), Ok(1)) && first == *TLS_HANDSHAKE {
            return; // it cannot be read as a message
        }
        let mut manners = lock(&self.manners);
        let manner = if manners.is_empty() { Manner::Read } else { manners.remove(0) };
        drop(manners);
        let mut connections = lock(&self.connections);
        let place = connections.len();
        connections.push(Vec::new());
        drop(connections);
        let kept = (manner == Manner::KeepOpen).then(|| socket.try_clone().expect("a socket"));
        std::mem::forget(kept); // as long as the process lives
        let mut stream: Box<dyn Read> = match tls {
            None => Box::new(socket),
            Some(config) => {
                let session = ServerConnection::new(Arc::clone(config)).expect("a valid configuration");
                Box::new(StreamOwned::new(session, socket))
            }
        };
        let mut left = match manner {
            Manner::Read | Manner::KeepOpen => usize::MAX,
            Manner::BreakOffAfter(bytes) => bytes,
            Manner::Stand => {
                // As long as the process lives.
                std::mem::forget(stream);
                return;
            }
        };
        let mut text = Vec::new();
        let mut piece = [0; 4096];
        while left > 0 {
            let most = left.min(piece.len());
            match stream.read(&mut piece[..most]) {
                Ok(0) => {
                    assert!(text.is_empty(), "what is closed in order ends with a delimiter");
                    break;
                }
                Ok(count) => {
                    text.extend_from_slice(&piece[..count]);
                    left -= count;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
            while let Some(end) = text.iter().position(|&byte| byte == 0) {
                let rest = text.split_off(end + 1);
                text.pop();
                lock(&self.connections)[place].push(std::mem::replace(&mut text, rest));
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic")
}
