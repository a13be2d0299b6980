//! What every Consul agent of a cluster is configured with.

use cutover::consul::Secret;
use serde_json::{Value, json};

use super::Node;

/// What a node is.
pub(super) enum Role {
    Client,
    Server { expect: usize },
}

/// What every node is configured with.
pub(super) fn base_config(
    node: &Node,
    role: &Role,
    servers: &[String],
    token: Option<&Secret>,
    version: (u32, u32),
) -> Value {
    let address = node.place.address.to_string();
    let mut config = json!({
        "node_name": node.name,
        "data_dir": node.dir.join("data"),
        "bind_addr": address,
        "client_addr": address,
        "ports": {"dns": -1, "serf_wan": -1},
        "retry_join": servers,
        "retry_interval": "200ms",
        // The fastest that Consul offers: a leader is found within a second or two, and lost as quickly.
        "performance": {"raft_multiplier": 1},
        "disable_update_check": true,
        "log_level": "INFO",
    });
    let Some(fields) = config.as_object_mut() else { return config };
    if let Role::Server { expect } = role {
        fields.insert("server".to_owned(), true.into());
        fields.insert("bootstrap_expect".to_owned(), (*expect).into());
    }
    if let Some(token) = token {
        let initial = if version >= (1, 11) { "initial_management" } else { "master" };
        let tokens = match role {
            Role::Server { .. } => json!({initial: token.expose(), "agent": token.expose()}),
            Role::Client => json!({"agent": token.expose()}),
        };
        fields.insert("acl".to_owned(), json!({"enabled": true, "default_policy": "deny", "tokens": tokens}));
    }
    config
}
