//! Connects to the first address of a host that answers, the handshake of TLS included.
//!
//! ureq tries the next address only while it connects with TCP. An address where something accepts connections and then
//! says nothing, such as a load balancer without servers, would use up the time that all addresses have.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ureq::{
    Error,
    unversioned::{
        resolver::ResolvedSocketAddrs,
        transport::{ConnectionDetails, Connector, NextTimeout},
    },
};

/// Tries another connector with one address after the other. Each but the last has half of the time that is left.
#[derive(Debug)]
pub struct FirstAddress<C> {
    /// Makes a connection to the only address that it is given.
    pub inner: C,
}

impl<C: Connector> Connector for FirstAddress<C> {
    type Out = C::Out;

    fn connect(&self, details: &ConnectionDetails, chained: Option<()>) -> Result<Option<C::Out>, Error> {
        let addresses: &[_] = &details.addrs;
        if addresses.len() < 2 {
            return self.inner.connect(details, chained); // a proxy looks the address up itself
        }
        let (begun, mut failure) = (Instant::now(), Error::HostNotFound);
        for (place, address) in addresses.iter().enumerate() {
            let left = details.timeout.after.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Err(Error::Timeout(details.timeout.reason));
            }
            let is_last = place + 1 == addresses.len();
            let mut only = ResolvedSocketAddrs::from_fn(|_| *address);
            only.push(*address);
            let share = if is_last { left } else { left / 2 };
            match self.inner.connect(&with_address(details, only, share), chained) {
                Err(error) if !is_last && is_of_address(&error) => failure = error,
                connected => return connected,
            }
        }
        Err(failure)
    }
}

/// The same connection to this address within this time.
fn with_address<'a>(
    details: &ConnectionDetails<'a>,
    addrs: ResolvedSocketAddrs,
    time: Duration,
) -> ConnectionDetails<'a> {
    ConnectionDetails {
        uri: details.uri,
        addrs,
        config: details.config,
        request_level: details.request_level,
        resolver: details.resolver,
        now: (details.current_time)(),
        timeout: NextTimeout { after: time.into(), ..details.timeout },
        current_time: Arc::clone(&details.current_time),
        run_connector: Arc::clone(&details.run_connector),
        register_shutdown: Arc::clone(&details.register_shutdown),
    }
}

/// Whether the same connection to another address can succeed: nothing answers here, or what does closes it.
fn is_of_address(error: &Error) -> bool {
    match error {
        Error::Timeout(_) => true,
        Error::Io(error) => error.get_ref().is_none_or(|inner| !inner.is::<rustls::Error>()),
        _ => false,
    }
}
