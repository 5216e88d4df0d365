//! The TCP server of all receivers in the tests. It accepts connections on a free port of 127.0.0.1 and serves each in a
//! thread of its own, until it is closed or the test process ends.
//!
//! Every read and write on a connection has a time-out, so that a test fails instead of hanging when the program sends
//! nothing or reads nothing.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use super::process::{WAIT_MAX, wait_until};

/// A server that listens.
pub struct Listener {
    address: SocketAddr,
    is_closed: Arc<AtomicBool>,
}

impl Listener {
    /// Serves each connection with this function. Its errors are ignored: the program under test notices a connection that
    /// ends.
    pub fn start(serve: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port on 127.0.0.1");
        let address = listener.local_addr().expect("the address of a listening socket");
        let is_closed = Arc::new(AtomicBool::new(false));
        let (serve, closed) = (Arc::new(serve), Arc::clone(&is_closed));
        thread::spawn(move || {
            for client in listener.incoming() {
                if closed.load(Ordering::SeqCst) {
                    break;
                }
                let serve = Arc::clone(&serve);
                thread::spawn(move || client.and_then(with_timeouts).and_then(|client| serve(client)));
            }
        });
        Self { address, is_closed }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Stops listening. When this returns, new connections are refused.
    #[track_caller]
    pub fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
        // A connection wakes the thread that accepts.
        wait_until("the listener refuses connections", || TcpStream::connect(self.address).is_err());
    }
}

/// Gives every read and write on this connection a time-out.
fn with_timeouts(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_read_timeout(Some(WAIT_MAX))?;
    stream.set_write_timeout(Some(WAIT_MAX))?;
    Ok(stream)
}

/// Connects to a port of 127.0.0.1, with time-outs as for accepted connections.
pub fn connect(port: u16) -> io::Result<TcpStream> {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).and_then(with_timeouts)
}

/// Waits for the first byte of a connection, and returns whether it begins a TLS handshake.
pub fn begins_with_tls(socket: &TcpStream) -> bool {
    const HANDSHAKE: [u8; 1] = *b"\x16";
    let mut first = [0];
    matches!(socket.peek(&mut first), Ok(1)) && first == HANDSHAKE
}

/// Waits for longer than any test does, while the caller keeps a connection open and silent.
pub fn stay_silent() {
    thread::sleep(WAIT_MAX * 2);
}

/// Returns a port on which nothing listens.
pub fn unused_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port on 127.0.0.1");
    listener.local_addr().expect("the address of a listening socket").port()
}
