//! librdkafka's own mock cluster, a proxy that adds TLS to it, and a broker that only checks logins.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::TcpStream,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    message::{Headers, OwnedMessage},
    mocking::MockCluster,
    producer::DefaultProducerContext,
    types::{RDKafkaApiKey, RDKafkaRespErr},
};
use rustls::ServerConfig;

use super::{listener::Listener, process::WAIT_MAX, tls};

/// The topic of the tests.
pub const TOPIC: &str = "office365";

/// A cluster with the topic. It ends with the test.
pub struct Cluster {
    cluster: MockCluster<'static, DefaultProducerContext>,
    partitions: i32,
}

/// A message as a consumer reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    pub key: String,
    pub value: String,
    pub headers: BTreeMap<String, String>,
}

impl Cluster {
    pub fn start(brokers: i32, partitions: i32) -> Self {
        let cluster = MockCluster::new(brokers).expect("a mock cluster");
        cluster.create_topic(TOPIC, partitions, brokers).expect("a topic");
        Self { cluster, partitions }
    }

    /// The addresses of the brokers, as the configuration has them.
    pub fn brokers(&self) -> String {
        self.cluster.bootstrap_servers()
    }

    /// The port of a cluster of one broker.
    pub fn port(&self) -> u16 {
        let brokers = self.brokers();
        let (_, port) = brokers.rsplit_once(':').expect("host and port");
        port.parse().expect("a port")
    }

    /// The `kafka` block below `output`, with further lines. `retryTimeout` is a minute.
    pub fn output(&self, lines: &str) -> String {
        output(&self.brokers(), lines)
    }

    /// Makes the next requests of a kind fail.
    pub fn fail(&self, requests: RDKafkaApiKey, errors: &[RDKafkaRespErr]) {
        self.cluster.request_errors(requests, errors);
    }

    pub fn stop_failing(&self, requests: RDKafkaApiKey) {
        self.cluster.clear_request_errors(requests);
    }

    /// Gives the topic an error in the answers to all questions about it.
    pub fn fail_topic(&self, error: RDKafkaRespErr) {
        self.cluster.topic_error(TOPIC, error).expect("a topic");
    }

    pub fn stop_brokers(&self) {
        self.cluster.broker_down(-1).expect("brokers");
    }

    pub fn start_brokers(&self) {
        self.cluster.broker_up(-1).expect("brokers");
    }

    pub fn set_leader(&self, partition: i32, broker: i32) {
        self.cluster.partition_leader(TOPIC, partition, Some(broker)).expect("a partition");
    }

    pub fn set_round_trip_time(&self, time: Duration) {
        self.cluster.broker_round_trip_time(-1, time).expect("brokers");
    }

    /// Reads all messages of the topic.
    pub fn messages(&self) -> Vec<Received> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.brokers())
            .set("group.id", "reader")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .create()
            .expect("a consumer");
        let mut partitions = TopicPartitionList::new();
        for partition in 0..self.partitions {
            partitions.add_partition_offset(TOPIC, partition, Offset::Beginning).expect("an offset");
        }
        consumer.assign(&partitions).expect("an assignment");
        let (mut received, mut open, begin) = (Vec::new(), self.partitions, Instant::now());
        while open > 0 {
            assert!(begin.elapsed() < WAIT_MAX, "{open} partitions were not read to their ends");
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => received.push(Received::from(message.detach())),
                Some(Err(KafkaError::PartitionEOF(_))) => open -= 1,
                Some(Err(error)) => panic!("{error}"),
                None => {}
            }
        }
        received
    }

    /// The number of messages for each `Id`.
    pub fn ids(&self) -> BTreeMap<String, usize> {
        let mut ids = BTreeMap::new();
        for message in self.messages() {
            *ids.entry(simulator::id_of(&message.value).expect("a record with an Id")).or_default() += 1;
        }
        ids
    }
}

/// The `kafka` block below `output` for these brokers, joined by commas.
pub fn output(brokers: &str, lines: &str) -> String {
    format!("  kafka:\n    brokers: [ {brokers} ]\n    topic: {TOPIC}\n{lines}")
}

impl From<OwnedMessage> for Received {
    fn from(message: OwnedMessage) -> Self {
        let text =
            |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap_or_default().to_vec()).expect("UTF-8");
        let headers = message.headers().expect("headers").iter();
        Self {
            key: text(message.key()),
            value: text(message.payload()),
            headers: headers.map(|header| (header.key.to_owned(), text(header.value))).collect(),
        }
    }
}

/// Starts a proxy with TLS before a cluster of one broker. In what the broker sends, its port is replaced by that of the proxy.
pub fn tls_proxy(cluster: &Cluster, config: Arc<ServerConfig>) -> Listener {
    let broker = cluster.port();
    let own = Arc::new(Mutex::new(0));
    let port = Arc::clone(&own);
    let listener = Listener::start(move |client| {
        let own = *port.lock().unwrap_or_else(PoisonError::into_inner);
        forward(tls::accept(client, &config)?, TcpStream::connect(("127.0.0.1", broker))?, [broker, own])
    });
    *own.lock().unwrap_or_else(PoisonError::into_inner) = listener.port();
    listener
}

/// Copies bytes between a client and a broker until one of them ends the connection.
fn forward(
    mut client: rustls::StreamOwned<rustls::ServerConnection, TcpStream>,
    mut broker: TcpStream,
    [from, to]: [u16; 2],
) -> io::Result<()> {
    const STEP: Duration = Duration::from_millis(5);
    client.sock.set_read_timeout(Some(STEP))?;
    broker.set_read_timeout(Some(STEP))?;
    let address = |port: u16| [&b"127.0.0.1"[..], &u32::from(port).to_be_bytes()].concat();
    let (from, to) = (address(from), address(to));
    let mut bytes = vec![0; 1 << 20];
    let is_pause =
        |error: &io::Error| matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
    loop {
        match client.read(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(count) => broker.write_all(&bytes[..count])?,
            Err(error) if is_pause(&error) => {}
            Err(error) => return Err(error),
        }
        match broker.read(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                let mut place = 0;
                while place + from.len() <= count {
                    if bytes[place..].starts_with(&from) {
                        bytes[place..place + to.len()].copy_from_slice(&to);
                    }
                    place += 1;
                }
                client.write_all(&bytes[..count])?;
                client.flush()?;
            }
            Err(error) if is_pause(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

/// A broker that knows the mechanism PLAIN, and rejects every login. It speaks as much of the protocol as that needs.
///
/// Source: the Kafka protocol guide: `ApiVersions` v0, `SaslHandshake` v1, `SaslAuthenticate` v0.
pub struct LoginBroker {
    listener: Listener,
    logins: Arc<Mutex<Vec<String>>>,
}

impl LoginBroker {
    pub fn start() -> Self {
        let logins = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&logins);
        let listener = Listener::start(move |mut client| {
            loop {
                let request = frame(&mut client)?;
                let number = |place: usize| i16::from_be_bytes([request[place], request[place + 1]]);
                let (api, version, correlation) = (number(0), number(2), &request[4..8]);
                let mut answer = correlation.to_vec();
                match api {
                    18 => {
                        let unsupported: i16 = if version == 0 { 0 } else { 35 };
                        answer.extend(unsupported.to_be_bytes());
                        answer.extend(4_i32.to_be_bytes());
                        for (api, version) in [(3_i16, 1_i16), (17, 1), (18, 0), (36, 0)] {
                            answer.extend([api, 0, version].iter().flat_map(|it| it.to_be_bytes()));
                        }
                    }
                    17 => {
                        answer.extend(0_i16.to_be_bytes());
                        answer.extend(1_i32.to_be_bytes());
                        answer.extend([0, 5]);
                        answer.extend(b"PLAIN");
                    }
                    36 => {
                        let header = 10 + usize::try_from(number(8)).expect("a client id");
                        let login = String::from_utf8_lossy(&request[header + 4..]).into_owned();
                        let text =
                            format!("Authentication failed for {}", login.replace('\0', " ").trim_start());
                        seen.lock().unwrap_or_else(PoisonError::into_inner).push(login);
                        answer.extend(58_i16.to_be_bytes());
                        answer.extend(u16::try_from(text.len()).expect("a short text").to_be_bytes());
                        answer.extend(text.bytes());
                        answer.extend((-1_i32).to_be_bytes());
                    }
                    _ => return Ok(()),
                }
                client.write_all(&u32::try_from(answer.len()).expect("a short answer").to_be_bytes())?;
                client.write_all(&answer)?;
            }
        });
        Self { listener, logins }
    }

    pub fn address(&self) -> String {
        self.listener.address().to_string()
    }

    /// The logins: an empty identity, the user and the password, with a null byte before each of the last two.
    pub fn logins(&self) -> Vec<String> {
        self.logins.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn frame(client: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    client.read_exact(&mut length)?;
    let mut request = vec![0; u32::from_be_bytes(length) as usize];
    client.read_exact(&mut request)?;
    Ok(request)
}

/// Changes the leaders of all partitions until `is_over` says so. Returns the number of changes.
pub fn change_leaders(cluster: &Cluster, brokers: i32, mut is_over: impl FnMut() -> bool) -> i32 {
    let (mut changes, begin) = (0, Instant::now());
    while !is_over() {
        assert!(begin.elapsed() < WAIT_MAX, "the program did not end");
        for partition in 0..cluster.partitions {
            cluster.set_leader(partition, 1 + (changes + partition) % brokers);
        }
        changes += 1;
        thread::sleep(Duration::from_millis(20));
    }
    changes
}
