//! `attests/<node>/<id>`: an agent attests the author of a write.
//!
//! `by` in a record is a claim. An agent that writes for a caller knows the author: from Consul, by the token, or from
//! the proxy or chat that it trusts. The agent writes that here with its own token, in keys that callers cannot write,
//! **before** it writes the record with the caller's token. The coordinator counts a record as verified where an
//! attestation matches its bytes, and removes the attestation in the same transaction: each counts once.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::protocol::ids::{Node, Sha256};

/// How an agent verified the author.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Means {
    /// A signed chat message.
    Chat,
    /// The user header of a proxy that the agent trusts.
    Proxy,
    /// The caller's Consul token.
    Token,
}

/// The author, as an agent has verified it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Identity {
    /// The token's description, or the user's name.
    pub name: String,
    /// How the agent knows the author.
    pub means: Means,
    /// The accessor id of the Consul token that was used: the caller's own, or that of the user's token file.
    pub accessor: Option<String>,
    /// The description of that token.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub token: String,
}

/// An agent's attestation of one write.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Attestation {
    pub(crate) format: u32,
    /// The key of the write: the same bytes under another key may mean something else.
    pub(crate) key: String,
    /// The digest of the written bytes.
    pub(crate) sha256: Sha256,
    pub(crate) identity: Identity,
    /// The node whose agent attests.
    pub(crate) node: Node,
    pub(crate) at: Timestamp,
}
