//! Where the nodes of a cluster live: addresses of loopback, or network namespaces that the caller has made.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::process::Command;

use super::{ClusterError, GOSSIP_PORT, HTTP_PORT, SERVER_PORT};

/// How many blocks of addresses are tried.
pub(super) const BLOCKS_TRIED: usize = 20;

/// Where one node lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The address that is its own there.
    pub address: Ipv4Addr,
    /// The network namespace, as `ip netns` lists it; none: this process's own.
    pub netns: Option<String>,
}

impl Place {
    /// A command that runs there. Entering a namespace needs root; the program's pid is the child's.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let Some(netns) = &self.netns else { return Command::new(program) };
        let mut command = Command::new("ip");
        command.args(["netns", "exec", netns]).arg(program);
        command
    }
}

/// `count` addresses of one /24 of loopback on which all ports are free.
pub(super) fn free_block(count: usize) -> Result<Vec<Place>, ClusterError> {
    let last = u8::try_from(count).map_err(|_| ClusterError::Addresses)?;
    let free = |place: &Place| {
        let address = place.address;
        let tcp = [HTTP_PORT, SERVER_PORT, GOSSIP_PORT].iter().all(|port| TcpListener::bind((address, *port)).is_ok());
        tcp && UdpSocket::bind((address, GOSSIP_PORT)).is_ok()
    };
    for _ in 0..BLOCKS_TRIED {
        // Below 127.64 people put their own things.
        let (high, low) = (fastrand::u8(64..=254), fastrand::u8(..));
        let place = |host| Place { address: Ipv4Addr::new(127, high, low, host), netns: None };
        let block: Vec<Place> = (1..=last).map(place).collect();
        if block.iter().all(free) {
            return Ok(block);
        }
    }
    Err(ClusterError::Addresses)
}
