//! A receiver of GELF over TCP: messages end with a null byte.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{self, ErrorKind, Read},
    mem,
    net::TcpStream,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use rustls::ServerConfig;
use serde_json::{Map, Value};

use super::{
    listener::{Listener, begins_with_tls, stay_silent},
    process::wait_until,
    tls,
};

/// What the receiver does with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GelfBehavior {
    /// Reads until the client closes its side, and then closes the connection.
    Read,
    /// Reads this number of bytes and closes the connection, whatever else arrives.
    CloseAfter(usize),
    /// Accepts the connection and never reads.
    NeverRead,
    /// Reads, and keeps its side open after the client has closed, as a load balancer can.
    NeverClose,
}

/// A receiver on a free port of 127.0.0.1.
pub struct GelfReceiver {
    listener: Listener,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// For the next connections, in order. Later connections are read.
    behaviors: Mutex<VecDeque<GelfBehavior>>,
    /// The whole messages of each connection.
    connections: Mutex<Vec<Vec<Vec<u8>>>>,
    /// The number of connections that the client closed within a message.
    cut_messages: AtomicUsize,
}

impl GelfReceiver {
    pub fn start() -> Self {
        Self::listen(None)
    }

    pub fn start_with_tls(config: Arc<ServerConfig>) -> Self {
        Self::listen(Some(config))
    }

    fn listen(tls: Option<Arc<ServerConfig>>) -> Self {
        let state = Arc::new(State::default());
        let served = Arc::clone(&state);
        Self { listener: Listener::start(move |socket| served.serve(socket, tls.as_ref())), state }
    }

    pub fn port(&self) -> u16 {
        self.listener.port()
    }

    /// Sets what is done with the next connections, one each. Later connections are read.
    pub fn set_behaviors(&self, behaviors: &[GelfBehavior]) {
        *lock(&self.state.behaviors) = behaviors.iter().copied().collect();
    }

    /// Stops listening. When this returns, new connections are refused.
    #[track_caller]
    pub fn close(&self) {
        self.listener.close();
    }

    pub fn connections(&self) -> usize {
        lock(&self.state.connections).len()
    }

    #[track_caller]
    pub fn wait_for_connections(&self, count: usize) {
        wait_until(&format!("the receiver has {count} connections"), || self.connections() >= count);
    }

    #[track_caller]
    pub fn wait_for_messages(&self, count: usize) {
        wait_until(&format!("the receiver has {count} messages"), || self.messages().len() >= count);
    }

    /// The messages that arrived whole.
    ///
    /// # Panics
    ///
    /// Panics if the client closed a connection within a message.
    pub fn messages(&self) -> Vec<Map<String, Value>> {
        assert_eq!(self.state.cut_messages.load(Ordering::SeqCst), 0, "messages without an end");
        let parse = |message: &Vec<u8>| serde_json::from_slice(message).expect("a message is a JSON object");
        lock(&self.state.connections).iter().flatten().map(parse).collect()
    }

    /// The number of messages for each record Id.
    pub fn ids(&self) -> BTreeMap<String, usize> {
        let mut ids = BTreeMap::new();
        for message in self.messages() {
            *ids.entry(message["_Id"].as_str().expect("an Id").to_owned()).or_default() += 1;
        }
        ids
    }
}

impl State {
    fn serve(&self, socket: TcpStream, tls: Option<&Arc<ServerConfig>>) -> io::Result<()> {
        if tls.is_none() && begins_with_tls(&socket) {
            return Ok(()); // the program looks whether this port speaks TLS
        }
        let behavior = lock(&self.behaviors).pop_front().unwrap_or(GelfBehavior::Read);
        let connection = {
            let mut connections = lock(&self.connections);
            connections.push(Vec::new());
            connections.len() - 1
        };
        let mut stream: Box<dyn Read> = match tls {
            None => Box::new(socket),
            Some(config) => Box::new(tls::accept(socket, config)?),
        };
        match behavior {
            GelfBehavior::Read => self.read_to_end(&mut stream, connection)?,
            GelfBehavior::CloseAfter(bytes) => drop(self.read(stream.take(bytes as u64), connection)?),
            GelfBehavior::NeverRead => stay_silent(),
            GelfBehavior::NeverClose => {
                self.read_to_end(&mut stream, connection)?;
                stay_silent();
            }
        }
        Ok(())
    }

    fn read_to_end(&self, stream: &mut dyn Read, connection: usize) -> io::Result<()> {
        if !self.read(stream, connection)?.is_empty() {
            self.cut_messages.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Reads messages until the end of the stream. Returns what follows the last whole message.
    fn read(&self, mut stream: impl Read, connection: usize) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        let mut bytes = [0; 4096];
        loop {
            match stream.read(&mut bytes) {
                Ok(0) => return Ok(text),
                Ok(count) => text.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            while let Some(end) = text.iter().position(|&byte| byte == 0) {
                let rest = text.split_off(end + 1);
                text.pop();
                lock(&self.connections)[connection].push(mem::replace(&mut text, rest));
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
