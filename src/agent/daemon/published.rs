//! Values that the tasks of a unit publish. Each value has one writer; every task can read it and wait for changes.

use tokio::sync::watch;

use crate::agent::node::health::Health;
use crate::consul::SessionId;
use crate::protocol::journal::Journal;
use crate::protocol::record::NodeRecord;
use crate::protocol::shell::presence::Trust;

/// The sending ends; by default with nothing published yet. Each moves into the one task that writes it.
#[derive(Debug, Default)]
pub(crate) struct Publishers {
    pub(crate) owner: OwnerPublishers,
    /// Written by the task that follows `barrier`.
    pub(crate) trust: watch::Sender<Trust>,
    /// Written by the task that keeps the node's session.
    pub(crate) session: watch::Sender<Option<SessionId>>,
}

/// The values that the unit's owner writes. While a newer agent's file keeps the owner from starting, the task that
/// waits for that file writes `health`.
#[derive(Debug, Default)]
pub(crate) struct OwnerPublishers {
    /// The journal as it is on disk.
    pub(crate) journal: watch::Sender<Journal>,
    /// The node's own record for Consul; none until the owner has read the disk once.
    pub(crate) record: watch::Sender<Option<NodeRecord>>,
    /// For the unit's checks in Consul.
    pub(crate) health: watch::Sender<Health>,
}

impl Publishers {
    /// Creates the receiving ends.
    pub(crate) fn subscribe(&self) -> Published {
        Published {
            journal: self.owner.journal.subscribe(),
            record: self.owner.record.subscribe(),
            health: self.owner.health.subscribe(),
            trust: self.trust.subscribe(),
            session: self.session.subscribe(),
        }
    }
}

/// The receiving ends.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    pub(crate) journal: watch::Receiver<Journal>,
    pub(crate) record: watch::Receiver<Option<NodeRecord>>,
    pub(crate) health: watch::Receiver<Health>,
    pub(crate) trust: watch::Receiver<Trust>,
    /// None while the node has no session.
    pub(crate) session: watch::Receiver<Option<SessionId>>,
}
