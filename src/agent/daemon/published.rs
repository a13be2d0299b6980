//! Values that the tasks of a unit publish. Each value has one writer; every task can read it and wait for changes.

use tokio::sync::watch;

use crate::agent::node::health::Health;
use crate::consul::SessionId;
use crate::protocol::journal::Journal;
use crate::protocol::record::NodeRecord;
use crate::protocol::shell::presence::Trust;

/// The sending ends. Each moves into the one task that writes it.
#[derive(Debug)]
pub(crate) struct Publishers {
    pub(crate) owner: OwnerPublishers,
    /// Written by the task that follows `barrier`.
    pub(crate) trust: watch::Sender<Trust>,
    /// Written by the task that keeps the node's session.
    pub(crate) session: watch::Sender<Option<SessionId>>,
}

/// The values that the unit's owner writes. While a newer agent's file keeps the owner from starting, the task that
/// waits for that file writes `health`.
#[derive(Debug)]
pub(crate) struct OwnerPublishers {
    /// The journal as it is on disk.
    pub(crate) journal: watch::Sender<Journal>,
    /// The node's own record for Consul; none until the owner has read the disk once.
    pub(crate) record: watch::Sender<Option<NodeRecord>>,
    /// For the unit's checks in Consul.
    pub(crate) health: watch::Sender<Health>,
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

/// Creates both ends, with nothing published yet.
pub(crate) fn channels() -> (Publishers, Published) {
    let (journal, journals) = watch::channel(Journal::default());
    let (record, records) = watch::channel(None);
    let (health, healths) = watch::channel(Health::default());
    let (trust, trusts) = watch::channel(Trust::Well);
    let (session, sessions) = watch::channel(None);
    let publishers = Publishers { owner: OwnerPublishers { journal, record, health }, trust, session };
    let published = Published { journal: journals, record: records, health: healths, trust: trusts, session: sessions };
    (publishers, published)
}
