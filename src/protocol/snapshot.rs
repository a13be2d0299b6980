//! One consistent read of a unit's keys, on which the coordinator decides: everything at one position in Consul's log.

use std::collections::{BTreeMap, BTreeSet};

use super::ids::{Epoch, ModifyIndex, Node};
use super::record::{Ack, Barrier, History, Identity, NodeRecord, RecordError, Status};

/// The attestations of the waiting request. The reader of the keys has compared the digests.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Attestations {
    /// The nodes whose agents attest it, at most [`Attestations::NODES`]. All attestations are removed at once: with one
    /// left, the same bytes could be put again and would count as verified again.
    pub(crate) nodes: Vec<Node>,
    /// The request's own mark, under which they attest it.
    pub(crate) id: String,
    /// The author, as the first of the nodes attests it.
    pub(crate) identity: Identity,
}

impl Attestations {
    /// The most nodes that are counted. One agent writes for a caller. Many attestations are an abuse, and each takes an
    /// operation of the transaction.
    pub(crate) const NODES: usize = 16;
}

/// A key that was there, and its value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Slot<T> {
    pub(crate) index: ModifyIndex,
    pub(crate) value: T,
}

/// The record that a decision rests on, and where it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct CurrentBarrier<'a> {
    pub(super) index: ModifyIndex,
    pub(super) barrier: &'a Barrier,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Presence {
    /// Whether a live session holds the record.
    pub(crate) is_alive: bool,
    /// None: the record cannot be read.
    pub(crate) record: Option<NodeRecord>,
}

/// Everything that a decision depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// `Err`: the record cannot be read.
    pub(crate) barrier: Option<Slot<Result<Barrier, RecordError>>>,
    /// The waiting request; an empty value: no request waits.
    pub(crate) deploy: Option<Slot<Vec<u8>>>,
    pub(crate) abort: Option<Slot<Vec<u8>>>,
    pub(crate) freeze: Option<Slot<Vec<u8>>>,
    /// The frozen members of the barrier's epoch.
    pub(crate) members: Vec<Node>,
    /// Every node's newest answer.
    pub(crate) acks: BTreeMap<Node, Ack>,
    /// Every node with a `nodes/` record, alive or not.
    pub(crate) nodes: BTreeMap<Node, Presence>,
    /// Consul's own node names.
    pub(crate) catalog: BTreeSet<String>,
    /// The record of the barrier's epoch.
    pub(crate) history: Option<History>,
    pub(crate) status: Option<Status>,
    /// The newest record that this node itself had followed before the keys were read.
    pub(crate) floor: Option<Barrier>,
    /// Of the request in `deploy`, byte for byte; none: its author is a claim.
    pub(crate) attestations: Option<Attestations>,
    /// Nodes with a mark under `forgotten/`. The mark is void once the node has a `nodes/` record.
    pub(crate) forgotten: BTreeSet<Node>,
    /// A record that a newer program wrote. The fields above leave it out.
    pub(crate) newer: Option<RecordError>,
}

impl Snapshot {
    /// Whether a deploy runs, a request waits, or `barrier` or `deploy` is absent or unreadable.
    #[must_use]
    pub(crate) fn is_busy(&self) -> bool {
        let is_settled = self.barrier.as_ref().is_some_and(|s| s.value.as_ref().is_ok_and(|b| b.phase.is_settled()));
        let is_asked = self.deploy.as_ref().is_none_or(|slot| !slot.value.is_empty());
        !is_settled || is_asked
    }

    /// None: `barrier` is absent or cannot be read.
    #[must_use]
    pub(crate) fn epoch(&self) -> Option<Epoch> {
        Some(self.barrier.as_ref()?.value.as_ref().ok()?.epoch)
    }

    /// Whether `node` counts as having left for good. A node that came back has a record again, which voids its mark.
    #[must_use]
    pub(crate) fn is_forgotten(&self, node: &Node) -> bool {
        self.forgotten.contains(node) && !self.nodes.contains_key(node)
    }
}
