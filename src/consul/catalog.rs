//! The catalog: which nodes Consul knows, alive or not.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::agent::RegisteredCheck;
use super::client::{Call, Client, Consistency, escape};
use super::error::{Error, Operation};

#[derive(Deserialize)]
struct RawNode {
    #[serde(rename = "Node")]
    name: String,
}

#[derive(Deserialize)]
struct RawCheck {
    #[serde(rename = "Node")]
    node: String,
    #[serde(rename = "CheckID")]
    id: String,
}

#[derive(Deserialize)]
struct RawInstance {
    #[serde(rename = "Node")]
    node: RawNode,
    #[serde(rename = "Checks", default)]
    checks: Vec<RegisteredCheck>,
}

/// One instance of a service, with the checks of its node and its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Instance {
    /// The node's name in Consul.
    pub(crate) node: String,
    pub(crate) checks: Vec<RegisteredCheck>,
}

impl Client {
    /// Every instance of a service with `tag`, read consistently. Consul silently leaves out instances that the token may not
    /// read.
    ///
    /// # Errors
    ///
    /// The errors of any call.
    ///
    /// # Cancel safety
    ///
    /// Safe: a read changes nothing.
    pub(crate) async fn service_instances(&self, service: &str, tag: &str) -> Result<Vec<Instance>, Error> {
        let operation = Operation::read("health service", service);
        let call = Call::get(operation, format!("/v1/health/service/{}", escape(service))).param("tag", tag);
        let found: Vec<RawInstance> = self.fetch(call.consistency(Consistency::Consistent)).await?;
        Ok(found.into_iter().map(|RawInstance { node, checks }| Instance { node: node.name, checks }).collect())
    }

    /// The names of all nodes in the catalog, sorted. Consul silently leaves out nodes that the token
    /// may not read.
    ///
    /// # Errors
    ///
    /// The errors of any call.
    ///
    /// # Cancel safety
    ///
    /// Safe: a read changes nothing.
    pub async fn catalog_nodes(&self) -> Result<Vec<String>, Error> {
        let operation = Operation::read("catalog nodes", "");
        let mut names: Vec<String> = if let Some(rs) = self.rs() {
            self.within_limit(operation.clone(), rs.node_names(operation)).await?
        } else {
            let nodes: Vec<RawNode> = self.fetch(Call::get(operation, "/v1/catalog/nodes")).await?;
            nodes.into_iter().map(|node| node.name).collect()
        };
        names.sort_unstable();
        Ok(names)
    }

    /// The names of the nodes that answer Consul's gossip: those whose check `serfHealth` is passing.
    ///
    /// # Errors
    ///
    /// The errors of any call.
    ///
    /// # Cancel safety
    ///
    /// Safe: a read changes nothing.
    pub async fn alive_nodes(&self) -> Result<BTreeSet<String>, Error> {
        let operation = Operation::read("health state", "passing");
        let checks: Vec<RawCheck> = self.fetch(Call::get(operation, "/v1/health/state/passing")).await?;
        Ok(checks.into_iter().filter(|check| check.id == "serfHealth").map(|check| check.node).collect())
    }

    /// Whether the agent knows a leader.
    ///
    /// # Errors
    ///
    /// The errors of any call.
    ///
    /// # Cancel safety
    ///
    /// Safe: a read changes nothing.
    pub async fn has_leader(&self) -> Result<bool, Error> {
        let leader: String = self.fetch(Call::get(Operation::read("status leader", ""), "/v1/status/leader")).await?;
        Ok(!leader.is_empty())
    }
}
