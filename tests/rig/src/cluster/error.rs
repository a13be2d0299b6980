//! Why a cluster cannot be started or handled.

use std::path::PathBuf;
use std::process::ExitStatus;

use cutover::consul;

use super::START_LIMIT;
use super::place::BLOCKS_TRIED;
use crate::process::ProcessError;

/// Why a cluster cannot be started or handled.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// No /24 of loopback has all its ports free.
    #[error("no free block of addresses in 127/8 after {BLOCKS_TRIED} tries (Linux only: does this system route it?)")]
    Addresses,
    /// A call to an agent's API failed.
    #[error(transparent)]
    Consul(#[from] consul::Error),
    /// An agent ended by itself.
    #[error("the Consul agent {node} ended ({status}); its log ends:\n{tail}")]
    Ended {
        /// Its node's name.
        node: String,
        /// Its exit status.
        status: ExitStatus,
        /// The last lines of its log.
        tail: String,
    },
    /// A configuration file cannot be written.
    #[error("cannot write {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The specification names more or fewer places than nodes.
    #[error("{places} places for {nodes} nodes; name one for each, or none at all")]
    Places {
        /// How many places.
        places: usize,
        /// How many nodes.
        nodes: usize,
    },
    /// The cluster has fewer nodes.
    #[error("the cluster has no node {index}; they count from 0")]
    NoNode {
        /// The index that was asked for.
        index: usize,
    },
    /// A node does not see the others in time.
    #[error("the Consul cluster is not ready after {START_LIMIT:?}: {missing}; the log of {node} ends:\n{tail}")]
    NotReady {
        /// What is missing, in words.
        missing: String,
        /// The node's name.
        node: String,
        /// The last lines of its log.
        tail: String,
    },
    /// A process cannot be started or stopped.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The program is not a Consul.
    #[error("{} does not print a version as Consul does (`consul version`)", bin.display())]
    Version {
        /// The program.
        bin: PathBuf,
    },
}
