//! The simulator as a test sees it.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

use crate::{
    fault::{Fault, Planted, Requests},
    protocol::is_guid,
    request::Operation,
    server::Server,
    stream::Identity,
    sync::lock,
    tenant::{Held, Tenant, TenantSettings},
    world::{Seen, World},
};

/// A running simulator. Dropping it closes every connection, stalled ones too, and ends every thread.
pub struct Simulator {
    server: Server,
}

impl Simulator {
    /// Starts one on a free port of the loopback.
    ///
    /// # Panics
    ///
    /// If there is no port or thread left.
    pub fn start() -> Self {
        Self::start_on(Ipv4Addr::LOCALHOST.into()).expect("a port on the loopback")
    }

    /// Starts one on a free port of another address of this machine, such as `::1`.
    ///
    /// # Errors
    ///
    /// If the machine does not have that address.
    pub fn start_on(address: IpAddr) -> io::Result<Self> {
        Ok(Self { server: Server::start(address, None)? })
    }

    /// Starts one that is spoken to under TLS, on a free port of 127.0.0.1.
    ///
    /// # Panics
    ///
    /// If there is no port or thread left, or the identity's certificate and key are no pair.
    pub fn start_with_tls(identity: &Identity) -> Self {
        let server = Server::start(Ipv4Addr::LOCALHOST.into(), Some(identity));
        Self { server: server.expect("a port on the loopback") }
    }

    fn world(&self) -> &World {
        self.server.world()
    }

    /// Its URL, `http://127.0.0.1:PORT` or `https://HOST:PORT`: for the login as well as for the API.
    pub fn url(&self) -> &str {
        &self.world().url
    }

    /// A new tenant, without subscriptions or blobs.
    ///
    /// # Panics
    ///
    /// If its id is no GUID or taken.
    pub fn tenant(&self, settings: TenantSettings) -> Tenant {
        assert!(is_guid(&settings.id), "{} is no GUID", settings.id);
        let world = self.world();
        let id = settings.id.clone();
        let held = Arc::new(Held::new(settings, world.url.clone(), Arc::clone(&world.clock)));
        let before = lock(&world.tenants).insert(id.clone(), Arc::clone(&held));
        assert!(before.is_none(), "the tenant {id} exists already");
        Tenant { held }
    }

    /// Makes a fault lie in wait for some requests. Of several for one request, the one planted first strikes.
    pub fn fault(&self, requests: Requests, fault: Fault) -> Planted {
        let planted = Planted::new(requests, fault);
        lock(&self.world().faults).push(planted.clone());
        planted
    }

    /// Removes every fault.
    pub fn heal(&self) {
        lock(&self.world().faults).clear();
    }

    /// Every answer takes that much longer.
    pub fn set_latency(&self, latency: Duration) {
        *lock(&self.world().latency) = latency;
    }

    /// The server's clock is that much ahead of the machine's, or behind it if negative.
    pub fn set_clock_skew(&self, skew: SignedDuration) {
        self.world().clock.set_skew(skew);
    }

    /// The time by the server's clock.
    pub fn now(&self) -> Timestamp {
        self.world().clock.now()
    }

    /// The requests that have come, in order.
    pub fn requests(&self) -> Vec<Seen> {
        self.world().seen()
    }

    /// The requests of one operation that have come, in order.
    pub fn requests_to(&self, operation: Operation) -> Vec<Seen> {
        let mut seen = self.requests();
        seen.retain(|seen| seen.request.operation == operation);
        seen
    }

    /// How many requests of one operation have come.
    pub fn count(&self, operation: Operation) -> usize {
        self.world().count(operation)
    }

    /// Waits until this number of requests of one operation has arrived; `false` if the time runs out first.
    pub fn wait_for(&self, count: usize, operation: Operation, time: Duration) -> bool {
        self.world().wait_for(count, operation, time)
    }

    /// Forgets the requests that have come.
    pub fn forget_requests(&self) {
        self.world().forget_seen();
    }

    /// What clients did that they must not, each with the request. A test asserts that there is nothing.
    pub fn violations(&self) -> Vec<String> {
        self.world().violations()
    }

    /// How many connections were opened.
    pub fn connections(&self) -> usize {
        self.world().connections.load(Ordering::SeqCst)
    }

    /// The most requests that were being answered at one time.
    pub fn in_flight_max(&self) -> usize {
        self.world().in_flight_max.load(Ordering::SeqCst)
    }
}

impl fmt::Debug for Simulator {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Simulator").field(&self.url()).finish()
    }
}
