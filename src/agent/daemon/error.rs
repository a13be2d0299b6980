//! Errors that keep an agent from starting, or end it.

use crate::agent::node::publisher::TakenError;
use crate::api::ListenError;
use crate::artifact::store::{StoreError, StoreUrlError};
use crate::kind::HasKind;
use crate::protocol::ids::{InvalidName, Unit};
use crate::release::{LedgerError, SiteError};

/// The reason why an agent could not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentError {
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("cannot install the signal handlers")]
    Signals(#[source] std::io::Error),
    #[error("{unit} cannot be served from its deploy_to")]
    Site {
        unit: Unit,
        #[source]
        source: SiteError,
    },
    #[error("[store] url cannot be used")]
    StoreUrl(#[source] StoreUrlError),
    #[error("the settings have no [store]: name the place that publish uploads to, as url = \"s3://bucket/prefix\"")]
    NoStore,
    #[error("the artifact store cannot be used")]
    Store(#[source] StoreError),
    #[error("the Consul agent's node name is not a valid node name for Cutover; set `node` in the settings")]
    Node(#[source] InvalidName),
    /// The journal could not be read or written. Without it the agent could break a promise, so it ends.
    #[error("{unit}: the agent cannot read or write its journal")]
    Ledger {
        unit: Unit,
        #[source]
        source: LedgerError,
    },
    /// The unit's owner task has panicked.
    #[error("{unit}: the task that follows this group has crashed, which is a bug in the agent")]
    Broken {
        unit: Unit,
        #[source]
        source: tokio::task::JoinError,
    },
    /// Another live agent uses this node's name.
    #[error(transparent)]
    Taken(#[from] TakenError),
}

impl HasKind for AgentError {
    fn kind(&self) -> &'static str {
        match self {
            Self::Listen(_) => "listen",
            Self::Signals(_) => "signals",
            Self::Site { .. } => "site",
            Self::StoreUrl(_) => "store_url",
            Self::NoStore => "no_store",
            Self::Store(_) => "store",
            Self::Node(_) => "node",
            Self::Ledger { .. } => "ledger",
            Self::Broken { .. } => "broken",
            Self::Taken(_) => "taken",
        }
    }
}
