//! A real Consul cluster on this machine: servers and client agents, each on its own address out of 127/8, or in a
//! network namespace of its own.
//!
//! All nodes use Consul's default ports, on addresses of a random free /24, so that many clusters can run side by side;
//! or where the caller says ([`Place`]). Everything that they write is under one directory that the caller owns. All
//! processes end when the [`Cluster`] is dropped.
//!
//! Linux only: elsewhere 127.0.0.1 is the only address of its kind.

mod config;
mod error;
mod node;
mod place;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cutover::consul::{Client, Secret, Settings};
use rustix::process::Signal;
use serde_json::Value;
use tokio::time::Instant;

use self::config::{Role, base_config};
use self::node::look;
use crate::process::ProcessError;

pub use self::error::ClusterError;
pub use self::node::Node;
pub use self::place::Place;

/// Consul's own ports: HTTP, server RPC, LAN gossip.
const HTTP_PORT: u16 = 8500;
const SERVER_PORT: u16 = 8300;
const GOSSIP_PORT: u16 = 8301;
/// How long a cluster may take until all nodes see each other. 1.5 s on a quiet machine; a loaded one with two cores took 12 s.
const START_LIMIT: Duration = Duration::from_mins(1);
/// How long an agent may take to leave. Consul itself waits 5 s for its leave to spread.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// How often a starting cluster's state is read.
const POLL: Duration = Duration::from_millis(50);

/// What to start.
#[derive(Clone, Debug, Default)]
pub struct ClusterSpec {
    /// How many servers, at least 1; they are the first nodes.
    pub servers: usize,
    /// How many client agents.
    pub clients: usize,
    /// Whether ACLs are on, with default policy deny. [`Cluster::management_token`] may do everything then.
    pub acl: bool,
    /// More configuration for single nodes (counted from 0), for example their watches.
    pub extra: BTreeMap<usize, Vec<NodeConfig>>,
    /// Where the nodes live, one place for each, in their order; none: on free addresses of loopback.
    pub places: Vec<Place>,
}

/// A piece of a Consul agent's configuration.
#[derive(Clone, Debug)]
pub enum NodeConfig {
    /// In Consul's own language.
    Hcl(String),
    /// As JSON.
    Json(Value),
}

/// A running cluster. Dropping it kills every agent.
#[derive(Debug)]
pub struct Cluster {
    bin: PathBuf,
    nodes: Vec<Node>,
    token: Option<Secret>,
}

impl Cluster {
    /// Starts a cluster under `dir` and waits until it has a leader and every node knows every other one as alive.
    ///
    /// Probes ports, writes files and runs `consul version`, all short and blocking. Nodes in namespaces must be within
    /// reach of the calling thread and of the runtime's.
    ///
    /// # Errors
    ///
    /// [`ClusterError::Addresses`] or [`ClusterError::Places`] before anything is started,
    /// [`ClusterError::Ended`] or [`ClusterError::NotReady`] with the end of the log; no process is left behind then.
    ///
    /// # Cancel safety
    ///
    /// Safe: what was started is killed.
    pub async fn start(bin: &Path, dir: &Path, spec: ClusterSpec) -> Result<Self, ClusterError> {
        let version = version(bin)?;
        let count = spec.servers + spec.clients;
        let places = if spec.places.is_empty() { place::free_block(count)? } else { spec.places };
        if places.len() != count {
            return Err(ClusterError::Places { places: places.len(), nodes: count });
        }
        let token = spec.acl.then(|| Secret::new(random_uuid()));
        let servers: Vec<String> = places.iter().take(spec.servers).map(|place| place.address.to_string()).collect();
        let mut cluster = Self { bin: bin.to_owned(), nodes: Vec::with_capacity(count), token };
        for (index, place) in places.into_iter().enumerate() {
            let name = format!("n{}", index + 1);
            let node = Node { dir: dir.join(&name), name, place, process: None };
            let role = if index < spec.servers { Role::Server { expect: spec.servers } } else { Role::Client };
            let base = base_config(&node, &role, &servers, cluster.token.as_ref(), version);
            node.write_config("00-base", &NodeConfig::Json(base))?;
            for (number, extra) in spec.extra.get(&index).into_iter().flatten().enumerate() {
                node.write_config(&format!("10-extra-{number}"), extra)?;
            }
            cluster.nodes.push(node);
            cluster.node_mut(index)?.spawn(bin)?;
        }
        let everyone: Vec<usize> = (0..count).collect();
        cluster.ready(&everyone).await?;
        Ok(cluster)
    }

    /// How many nodes there are, stopped ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is no node.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// A node, counted from 0; servers come first.
    ///
    /// # Errors
    ///
    /// [`ClusterError::NoNode`].
    pub fn node(&self, index: usize) -> Result<&Node, ClusterError> {
        self.nodes.get(index).ok_or(ClusterError::NoNode { index })
    }

    /// The token that may do everything, where ACLs are on.
    #[must_use]
    pub fn management_token(&self) -> Option<&Secret> {
        self.token.as_ref()
    }

    /// Settings for a node's API, with the management token where there is one.
    ///
    /// # Errors
    ///
    /// [`ClusterError::NoNode`].
    pub fn settings(&self, index: usize) -> Result<Settings, ClusterError> {
        let address = self.node(index)?.http_addr();
        Ok(Settings { address, token: self.token.clone(), ..Settings::default() })
    }

    /// A client of a node's API, with the management token where there is one.
    ///
    /// # Errors
    ///
    /// [`ClusterError::NoNode`], [`ClusterError::Consul`].
    pub fn client(&self, index: usize) -> Result<Client, ClusterError> {
        Ok(Client::new(&self.settings(index)?)?)
    }

    /// Makes an ACL policy from HCL rules.
    ///
    /// # Errors
    ///
    /// [`ClusterError::Consul`].
    ///
    /// # Cancel safety
    ///
    /// Not safe: the policy may have been made.
    pub async fn create_policy(&self, name: &str, rules: &str) -> Result<(), ClusterError> {
        Ok(self.client(0)?.policy_create(name, rules).await?)
    }

    /// Makes an ACL token with these policies, by name.
    ///
    /// # Errors
    ///
    /// [`ClusterError::Consul`].
    ///
    /// # Cancel safety
    ///
    /// Not safe: the token may have been made.
    pub async fn create_token(&self, description: &str, policies: &[&str]) -> Result<Secret, ClusterError> {
        Ok(self.client(0)?.token_create(description, policies).await?)
    }

    /// Adds a piece of configuration to a node, for its next start or [`Cluster::reload`]; the same name replaces it.
    ///
    /// # Errors
    ///
    /// [`ClusterError::NoNode`], [`ClusterError::File`].
    pub fn add_config(&self, index: usize, name: &str, config: &NodeConfig) -> Result<(), ClusterError> {
        self.node(index)?.write_config(&format!("20-{name}"), config)
    }

    /// Makes an agent read its configuration again: watches, services and checks change, the rest does not.
    ///
    /// # Errors
    ///
    /// [`ClusterError::NoNode`], [`ClusterError::Process`].
    pub fn reload(&mut self, index: usize) -> Result<(), ClusterError> {
        self.signal(index, Signal::HUP)
    }

    /// Stops an agent cleanly (SIGTERM): a client agent leaves the cluster, and its sessions end at once.
    ///
    /// # Errors
    ///
    /// [`ClusterError::NoNode`], [`ClusterError::Process`].
    ///
    /// # Cancel safety
    ///
    /// Safe: the agent has been asked to stop.
    pub async fn stop(&mut self, index: usize) -> Result<(), ClusterError> {
        if let Some(process) = &mut self.node_mut(index)?.process {
            process.stop(STOP_LIMIT).await?;
        }
        self.node_mut(index)?.process = None;
        Ok(())
    }

    /// Kills an agent (SIGKILL): the others notice by themselves.
    ///
    /// # Errors
    ///
    /// [`ClusterError::NoNode`], [`ClusterError::Process`].
    pub fn kill(&mut self, index: usize) -> Result<(), ClusterError> {
        if let Some(mut process) = self.node_mut(index)?.process.take() {
            process.kill()?;
        }
        Ok(())
    }

    /// Starts an agent again with the data that it has (killing it first, if it runs) and waits until it is a member.
    ///
    /// # Errors
    ///
    /// As [`Cluster::start`].
    ///
    /// # Cancel safety
    ///
    /// Safe: the agent goes on starting.
    pub async fn restart(&mut self, index: usize) -> Result<(), ClusterError> {
        self.kill(index)?;
        let bin = self.bin.clone();
        self.node_mut(index)?.spawn(&bin)?;
        self.ready(&[index]).await
    }

    /// Sends a signal to an agent that runs: STOP and CONT freeze and thaw it.
    ///
    /// # Errors
    ///
    /// [`ClusterError::NoNode`], [`ClusterError::Process`].
    pub fn signal(&mut self, index: usize, signal: Signal) -> Result<(), ClusterError> {
        if let Some(process) = &mut self.node_mut(index)?.process {
            process.signal(signal)?;
        }
        Ok(())
    }

    fn node_mut(&mut self, index: usize) -> Result<&mut Node, ClusterError> {
        self.nodes.get_mut(index).ok_or(ClusterError::NoNode { index })
    }

    /// Waits until the nodes `indexes` see a leader, and everyone that runs as alive.
    async fn ready(&mut self, indexes: &[usize]) -> Result<(), ClusterError> {
        let deadline = Instant::now() + START_LIMIT;
        for &index in indexes {
            let client = self.client(index)?;
            loop {
                let running: BTreeSet<String> =
                    self.nodes.iter().filter(|node| node.process.is_some()).map(|node| node.name.clone()).collect();
                self.nodes.iter_mut().try_for_each(Node::check_running)?;
                let Err(missing) = look(&client, &running).await else { break };
                if Instant::now() >= deadline {
                    let node = self.node(index)?;
                    return Err(ClusterError::NotReady { missing, node: node.name.clone(), tail: node.log_tail() });
                }
                tokio::time::sleep(POLL).await;
            }
        }
        Ok(())
    }
}

/// Major and minor version of a Consul binary.
fn version(bin: &Path) -> Result<(u32, u32), ClusterError> {
    let spawn = |source| ProcessError::Spawn { name: "consul version".to_owned(), program: bin.to_owned(), source };
    let output = Command::new(bin).arg("version").output().map_err(spawn)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let parse = || {
        let mut numbers = text.split_whitespace().find_map(|word| word.strip_prefix('v'))?.split('.');
        Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    };
    parse().ok_or_else(|| ClusterError::Version { bin: bin.to_owned() })
}

/// A UUID, the form of Consul's tokens. It guards a cluster on loopback that lives for minutes.
fn random_uuid() -> String {
    uuid::Builder::from_random_bytes(fastrand::u128(..).to_ne_bytes()).into_uuid().to_string()
}
