//! The simulator, for tests.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

use crate::{
    fault::{Fault, PlantedFault, Requests},
    managed_identity::ManagedIdentities,
    protocol::is_guid,
    request::Operation,
    server::Server,
    stream::Identity,
    sync::lock,
    tenant::{SharedTenant, Tenant, TenantSettings},
    world::{LoggedRequest, World},
};

/// A running simulator. Dropping it closes every connection, also stalled ones, and ends every thread.
pub struct Simulator {
    server: Server,
}

impl Simulator {
    /// Starts a simulator on a free port of 127.0.0.1.
    ///
    /// # Panics
    ///
    /// Panics if there is no free port or thread.
    pub fn start() -> Self {
        Self::start_on(Ipv4Addr::LOCALHOST.into()).expect("a free port on 127.0.0.1")
    }

    /// Starts a simulator on a free port of another address of this machine, such as `::1`.
    ///
    /// # Errors
    ///
    /// The machine does not have this address.
    pub fn start_on(address: IpAddr) -> io::Result<Self> {
        Ok(Self { server: Server::start(address, None)? })
    }

    /// Starts a simulator under TLS on a free port of 127.0.0.1.
    ///
    /// # Panics
    ///
    /// Panics if there is no free port or thread, or if the certificate and the key do not belong together.
    pub fn start_with_tls(identity: &Identity) -> Self {
        let server = Server::start(Ipv4Addr::LOCALHOST.into(), Some(identity));
        Self { server: server.expect("a free port on 127.0.0.1") }
    }

    fn world(&self) -> &World {
        self.server.world()
    }

    /// The URL of the login endpoint and of the API: `http://127.0.0.1:PORT` or `https://HOST:PORT`.
    pub fn url(&self) -> &str {
        &self.world().url
    }

    /// Adds a tenant without subscriptions and blobs.
    ///
    /// # Panics
    ///
    /// Panics if its id is not a GUID, or if there is a tenant with this id.
    pub fn tenant(&self, settings: TenantSettings) -> Tenant {
        assert!(is_guid(&settings.id), "{} is not a GUID", settings.id);
        let world = self.world();
        let id = settings.id.clone();
        let held = Arc::new(SharedTenant::new(settings, world.url.clone(), Arc::clone(&world.clock)));
        let before = lock(&world.tenants).insert(id.clone(), Arc::clone(&held));
        assert!(before.is_none(), "the tenant {id} exists already");
        Tenant { held }
    }

    /// Changes the managed identities of the simulated machine.
    pub fn identities(&self, change: impl FnOnce(&mut ManagedIdentities)) {
        change(&mut lock(&self.world().identities));
    }

    /// Plants a fault for some requests. If several match a request, the one that was planted first occurs.
    pub fn fault(&self, requests: Requests, fault: Fault) -> PlantedFault {
        let planted = PlantedFault::new(requests, fault);
        lock(&self.world().faults).push(planted.clone());
        planted
    }

    /// Removes every fault.
    pub fn remove_faults(&self) {
        lock(&self.world().faults).clear();
    }

    /// Delays every answer by this duration.
    pub fn set_latency(&self, latency: Duration) {
        *lock(&self.world().latency) = latency;
    }

    /// Sets the difference between the server's clock and this machine's. It is negative if the server's clock is slow.
    pub fn set_clock_skew(&self, skew: SignedDuration) {
        self.world().clock.set_skew(skew);
    }

    /// The time of the server's clock.
    pub fn now(&self) -> Timestamp {
        self.world().clock.now()
    }

    /// The requests that were received, in order.
    pub fn requests(&self) -> Vec<LoggedRequest> {
        self.world().seen()
    }

    /// The requests of one operation that were received, in order.
    pub fn requests_to(&self, operation: Operation) -> Vec<LoggedRequest> {
        let mut seen = self.requests();
        seen.retain(|seen| seen.request.operation == operation);
        seen
    }

    /// The number of requests of one operation that were received.
    pub fn count(&self, operation: Operation) -> usize {
        self.world().count(operation)
    }

    /// Waits until this number of requests of one operation was received. Returns `false` if that takes longer than `time`.
    pub fn wait_for(&self, count: usize, operation: Operation, time: Duration) -> bool {
        self.world().wait_for(count, operation, time)
    }

    /// Forgets the requests that were received.
    pub fn forget_requests(&self) {
        self.world().forget_seen();
    }

    /// The violations of the protocol, each with its request. A test asserts that there are none.
    pub fn violations(&self) -> Vec<String> {
        self.world().violations()
    }

    /// The number of connections that were opened.
    pub fn connections(&self) -> usize {
        self.world().connections.load(Ordering::SeqCst)
    }

    /// The maximum number of requests that were in flight at the same time.
    pub fn in_flight_max(&self) -> usize {
        self.world().in_flight_max.load(Ordering::SeqCst)
    }
}

impl fmt::Debug for Simulator {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Simulator").field(&self.url()).finish()
    }
}
