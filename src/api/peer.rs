//! The addresses of the connection of a request.

use std::net::IpAddr;

/// The addresses of a connection, added to each of its requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    pub(super) remote: IpAddr,
    /// The address of the agent that the client connected to.
    pub(super) local: IpAddr,
}
