//! Both ends of the connection that a request came over.

use std::net::IpAddr;

/// The addresses of a connection, added to each of its requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    pub(super) remote: IpAddr,
    /// The agent's own address, as the client used it.
    pub(super) local: IpAddr,
}
