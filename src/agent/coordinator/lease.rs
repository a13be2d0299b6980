//! The right to write as a unit's coordinator, for as long as this agent's session holds the unit's lock.
//!
//! Nothing else builds that condition: whatever a coordinator writes goes through [`Lease::write`], which begins each
//! transaction with it. The first write that Consul refuses for it ends the lease, for every holder of a copy.

use tokio_util::sync::CancellationToken;

use crate::consul::{Client, Consistency, Error, Refusal, SessionId, TxnOp, TxnResult};
use crate::protocol::keys::UnitKeys;
use crate::protocol::transition::{Key, Op, Transition};

/// One term as the coordinator of a unit. Copies are of the same term.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    consul: Client,
    at: UnitKeys,
    session: SessionId,
    over: CancellationToken,
}

/// What became of a write under the lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// All of it happened.
    Applied,
    /// Nothing of it happened: a key was not as it was read.
    Conflict(Vec<Refusal>),
    /// Nothing of it happened: the session does not hold the lock any more.
    Lost,
}

impl Lease {
    /// A term that has just begun: `session` holds the lock. It ends with `parent`, or before.
    pub(crate) fn new(consul: &Client, at: &UnitKeys, session: SessionId, parent: &CancellationToken) -> Self {
        Self { consul: consul.clone(), at: at.clone(), session, over: parent.child_token() }
    }

    /// Resolves when the term is over.
    pub(crate) async fn over(&self) {
        self.over.cancelled().await;
    }

    /// Ends the term here: the lock is lost, or is about to be released.
    pub(crate) fn end(&self) {
        self.over.cancel();
    }

    /// The session that holds the lock.
    pub(crate) const fn session(&self) -> &SessionId {
        &self.session
    }

    /// Writes all of `ops` in one transaction, or nothing of it, and only while the session holds the lock.
    ///
    /// # Errors
    ///
    /// Consul's; see [`Error::outcome_unknown`].
    ///
    /// # Cancel safety
    ///
    /// Not safe: what is cancelled may have happened, or may happen yet.
    pub(crate) async fn write(&self, ops: impl IntoIterator<Item = TxnOp>) -> Result<Written, Error> {
        let held = TxnOp::CheckSession { key: self.at.coordinator(), session: self.session.clone() };
        let ops: Vec<TxnOp> = std::iter::once(held).chain(ops).collect();
        match self.consul.txn(&ops, Consistency::Default).await? {
            TxnResult::Applied(_) => Ok(Written::Applied),
            // A lock can be lost while its session lives: somebody has deleted the key.
            TxnResult::Refused(refusals) if refusals.iter().any(|refusal| refusal.op_index == 0) => {
                self.end();
                Ok(Written::Lost)
            }
            TxnResult::Refused(refusals) => Ok(Written::Conflict(refusals)),
        }
    }

    /// Writes a transition of the unit.
    ///
    /// # Errors
    ///
    /// As [`Lease::write`].
    ///
    /// # Cancel safety
    ///
    /// As [`Lease::write`].
    pub(crate) async fn apply(&self, transition: &Transition) -> Result<Written, Error> {
        self.write(transition.ops.iter().filter_map(|op| self.operation(op))).await
    }

    fn operation(&self, op: &Op) -> Option<TxnOp> {
        Some(match op {
            // Every write begins with it.
            Op::HoldLock => return None,
            Op::Cas { key, index, value } => {
                TxnOp::Cas { key: self.name(*key), value: value.encode().into_bytes(), index: *index }
            }
            Op::CheckIndex { key, index } => TxnOp::CheckIndex { key: self.name(*key), index: *index },
            Op::Delete { key } => TxnOp::Delete { key: self.name(*key) },
            Op::Set { key, value } => TxnOp::Set { key: self.name(*key), value: value.encode().into_bytes() },
            Op::RemoveAttestation { node, id } => TxnOp::Delete { key: self.at.attest(node, id) },
        })
    }

    fn name(&self, key: Key) -> String {
        match key {
            Key::Abort => self.at.abort(),
            Key::Barrier => self.at.barrier(),
            Key::Deploy => self.at.deploy(),
            Key::Freeze => self.at.freeze(),
            Key::History(epoch) => self.at.history(epoch),
            Key::Members(epoch) => self.at.members(epoch),
            Key::Status => self.at.status(),
        }
    }
}
