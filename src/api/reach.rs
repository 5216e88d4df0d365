//! Whether Microsoft can be reached at all, step by step: the name, then the connection, with nothing to prove who
//! asks.

use std::net::{IpAddr, ToSocketAddrs};

use jiff::SignedDuration;

use super::{ApiError, Client, client::clock_ahead};
use crate::network::error::NetworkError;

impl Client {
    /// The name or address that is connected to for this URL: its host's, or that of the proxy on the way.
    pub fn first_hop(&self, url: &str) -> String {
        self.agents.first_hop(url).0
    }

    /// Whom a request to this URL is made to, in words.
    pub fn peer(&self, url: &str) -> String {
        self.agents.peer(url)
    }

    /// An address of what is connected to for this URL. Takes as long as the system's resolver does.
    pub fn look_up(&self, url: &str) -> Result<IpAddr, ApiError> {
        let (host, port) = self.agents.first_hop(url);
        let found = (host.as_str(), port).to_socket_addrs();
        let first = found.map_err(|error| NetworkError::from_ureq(&host, error.into()))?.next();
        let address =
            first.ok_or_else(|| NetworkError::Unreachable(format!("{host}: the name has no address")))?;
        Ok(address.ip())
    }

    /// Asks for the root of this server. Whatever the answer, somebody is there, and under TLS it is who it should be.
    /// Returns how far that clock is ahead of this machine's, if it is told.
    pub fn reach(&self, origin: &str) -> Result<Option<SignedDuration>, ApiError> {
        let answer = self.agents.agent_for(origin).get(format!("{origin}/")).call();
        let answer = answer.map_err(|error| NetworkError::from_ureq(&self.agents.peer(origin), error))?;
        Ok(clock_ahead(answer.headers()))
    }
}
