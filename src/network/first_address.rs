//! Connects to the first address of a host that responds, including the TLS handshake.
//!
//! ureq tries the next address only when TCP fails. An address that accepts connections and then stays silent, such as a
//! load balancer without servers, would use up the time of all addresses.

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

/// A connector that tries one address after the other. Each but the last gets half of the remaining time.
#[derive(Debug)]
pub struct FirstAddress<C> {
    /// The connector for a single address.
    pub inner: C,
}

impl<C: Connector> Connector for FirstAddress<C> {
    type Out = C::Out;

    fn connect(&self, details: &ConnectionDetails, chained: Option<()>) -> Result<Option<C::Out>, Error> {
        let addresses: &[_] = &details.addrs;
        if addresses.len() < 2 {
            return self.inner.connect(details, chained); // a proxy resolves the name itself
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

/// Returns the details of the same connection to one address within this time.
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

/// Returns whether another address may succeed: this one does not respond, or closes the connection.
fn is_of_address(error: &Error) -> bool {
    match error {
        Error::Timeout(_) => true,
        Error::Io(error) => error.get_ref().is_none_or(|inner| !inner.is::<rustls::Error>()),
        _ => false,
    }
}
