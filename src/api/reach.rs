//! Steps that test whether a server can be reached, without credentials: name resolution, then a request.

use std::net::{IpAddr, ToSocketAddrs};

use jiff::SignedDuration;

use super::{ApiError, Client, client::clock_ahead};
use crate::network::error::NetworkError;

impl Client {
    /// Returns the name or address to which a request for this URL connects: its host, or the proxy.
    pub fn first_hop(&self, url: &str) -> String {
        self.agents.first_hop(url).0
    }

    /// Returns the description of the peer of a request to this URL, for messages.
    pub fn peer(&self, url: &str) -> String {
        self.agents.peer(url)
    }

    /// Resolves the name of [`Self::first_hop`]. Blocks as long as the system's resolver does.
    pub fn look_up(&self, url: &str) -> Result<IpAddr, ApiError> {
        let (host, port) = self.agents.first_hop(url);
        let found = (host.as_str(), port).to_socket_addrs();
        let first = found.map_err(|error| NetworkError::from_ureq(&host, error.into()))?.next();
        let address =
            first.ok_or_else(|| NetworkError::Unreachable(format!("{host}: the name has no address")))?;
        Ok(address.ip())
    }

    /// Requests the root of this server; any response shows that it can be reached, and that its certificate is trusted.
    /// Returns how far its clock is ahead of this machine's, if the response has a `Date`.
    pub fn reach(&self, origin: &str) -> Result<Option<SignedDuration>, ApiError> {
        let answer = self.agents.agent_for(origin).get(format!("{origin}/")).call();
        let answer = answer.map_err(|error| NetworkError::from_ureq(&self.agents.peer(origin), error))?;
        Ok(clock_ahead(answer.headers()))
    }
}
