//! Receivers that acknowledge everything at once and keep nothing. Each listens on its own port until the benchmark ends.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    thread,
};

use rmpv::Value;

#[cfg(feature = "kafka")]
pub use kafka::Kafka;
#[cfg(not(feature = "kafka"))]
pub use no_kafka::Kafka;

/// Listens on a free port, and serves each connection in its own thread. Returns the port.
fn listen(serve: impl Fn(TcpStream) -> io::Result<()> + Copy + Send + 'static) -> io::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            // An error means that the collector has closed the connection.
            thread::spawn(move || serve(connection));
        }
    });
    Ok(port)
}

/// Starts a receiver of the forward protocol. It acknowledges each message that names a chunk.
pub fn forward() -> io::Result<u16> {
    listen(|connection| {
        connection.set_nodelay(true)?;
        let mut reader = BufReader::with_capacity(1 << 20, &connection);
        while !reader.fill_buf()?.is_empty() {
            let message = rmpv::decode::read_value(&mut reader).map_err(io::Error::other)?;
            let options = message.as_array().and_then(|parts| parts.last()?.as_map());
            let chunk =
                options.and_then(|options| options.iter().find(|(key, _)| key.as_str() == Some("chunk")));
            if let Some((_, chunk)) = chunk {
                let answer = Value::Map(vec![("ack".into(), chunk.clone())]);
                rmpv::encode::write_value(&mut &connection, &answer).map_err(io::Error::other)?;
            }
        }
        Ok(())
    })
}

/// Starts a GELF receiver, which reads everything until the sender closes the connection.
pub fn gelf() -> io::Result<u16> {
    listen(|mut connection| io::copy(&mut connection, &mut io::sink()).map(drop))
}

/// Starts a receiver of syslog with octet counting, which reads everything until the sender closes the connection.
pub fn syslog() -> io::Result<u16> {
    listen(|mut connection| io::copy(&mut connection, &mut io::sink()).map(drop))
}

/// Starts a RELP server, which acknowledges each command.
pub fn relp() -> io::Result<u16> {
    listen(|connection| {
        connection.set_nodelay(true)?;
        let mut reader = BufReader::with_capacity(1 << 20, &connection);
        let mut responses = Vec::new();
        loop {
            if reader.buffer().is_empty() {
                (&connection).write_all(&responses)?;
                responses.clear();
            }
            let mut words = [const { Vec::new() }; 2];
            for word in &mut words {
                reader.read_until(b' ', word)?;
            }
            let mut length = Vec::new();
            while reader.fill_buf()?.first().is_some_and(u8::is_ascii_digit) {
                length.extend_from_slice(&reader.fill_buf()?[..1]);
                reader.consume(1);
            }
            let length: u64 = String::from_utf8_lossy(&length).parse().map_err(io::Error::other)?;
            let after = if length == 0 { 1 } else { length + 2 };
            io::copy(&mut reader.by_ref().take(after), &mut io::sink())?;
            let data =
                if words[1] == b"open " { "200 OK\nrelp_version=0\ncommands=syslog" } else { "200 OK" };
            responses.extend_from_slice(&words[0]);
            responses.extend_from_slice(format!("rsp {} {data}\n", data.len()).as_bytes());
        }
    })
}

/// Starts an HTTP receiver, which responds to every request with 200 and an empty message of OTLP.
pub fn http() -> io::Result<u16> {
    listen(|connection| {
        connection.set_nodelay(true)?;
        let mut reader = BufReader::with_capacity(1 << 20, &connection);
        loop {
            let mut length = 0;
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line)? == 0 {
                    return Ok(());
                }
                let line = line.trim_end().to_ascii_lowercase();
                if let Some(value) = line.strip_prefix("content-length:") {
                    length = value.trim().parse().map_err(io::Error::other)?;
                }
                if line.is_empty() {
                    break;
                }
            }
            io::copy(&mut reader.by_ref().take(length), &mut io::sink())?;
            let response =
                b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n";
            (&connection).write_all(response)?;
        }
    })
}

#[cfg(feature = "kafka")]
mod kafka {
    use rdkafka::{mocking::MockCluster, producer::DefaultProducerContext};

    const TOPIC: &str = "office365";

    /// librdkafka's own mock cluster, in this process. Each of its four partitions keeps the last 5 MB.
    pub struct Kafka(MockCluster<'static, DefaultProducerContext>);

    impl Kafka {
        /// Starts a broker with a topic.
        pub fn start() -> Self {
            let cluster = MockCluster::new(1).expect("a mock cluster");
            cluster.create_topic(TOPIC, 4, 1).expect("a topic");
            Self(cluster)
        }

        /// Returns the outputs to measure, by name.
        pub fn outputs(&self) -> Vec<(&'static str, String)> {
            let brokers = self.0.bootstrap_servers();
            let output = |(name, codec)| {
                let keys = format!("    topic: {TOPIC}\n    compress: {codec}\n");
                (name, format!("  kafka:\n    brokers: [ {brokers} ]\n{keys}"))
            };
            [("kafka", "none"), ("kafka, zstd", "zstd")].map(output).into()
        }
    }
}

#[cfg(not(feature = "kafka"))]
mod no_kafka {
    /// Stands for a cluster in a program without Kafka, which cannot be measured with it.
    pub struct Kafka;

    impl Kafka {
        /// Starts nothing.
        pub fn start() -> Self {
            Self
        }

        /// Returns no outputs.
        #[expect(clippy::unused_self, reason = "the form of the function with Kafka")]
        pub fn outputs(&self) -> Vec<(&'static str, String)> {
            Vec::new()
        }
    }
}
