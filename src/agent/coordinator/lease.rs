//! The right to write as a unit's coordinator, for as long as this agent's session holds the unit's lock.
//!
//! Every write of a coordinator goes through [`Lease::write`], which begins the transaction with a check that the session
//! holds the lock. Nothing else builds that check. The first write that Consul refuses for it ends the lease and all its
//! copies.

use tokio_util::sync::CancellationToken;

use crate::consul::{Client, Consistency, Error, Refusal, SessionId, TxnOp, TxnResult};
use crate::protocol::keys::UnitKeys;
use crate::protocol::transition::{Key, Op, Transition};

/// One term as the coordinator of a unit. Copies share the same term.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    consul: Client,
    at: UnitKeys,
    session: SessionId,
    over: CancellationToken,
}

/// The outcome of a write under the lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    Applied,
    /// Nothing was written: a key changed since it was read.
    Conflict(Vec<Refusal>),
    /// Nothing was written: the session no longer holds the lock. The lease has ended.
    Lost,
}

impl Lease {
    /// A new term: `session` has just acquired the lock. It ends at the latest when `parent` is cancelled.
    pub(crate) fn new(consul: &Client, at: &UnitKeys, session: SessionId, parent: &CancellationToken) -> Self {
        Self { consul: consul.clone(), at: at.clone(), session, over: parent.child_token() }
    }

    /// Resolves when the term is over.
    pub(crate) async fn over(&self) {
        self.over.cancelled().await;
    }

    /// Ends the term: the lock is lost, or is about to be released.
    pub(crate) fn end(&self) {
        self.over.cancel();
    }

    /// Writes `ops` in one transaction, only while the session holds the lock.
    ///
    /// # Errors
    ///
    /// Consul's; see [`Error::outcome_unknown`].
    ///
    /// # Cancel safety
    ///
    /// Not safe: a cancelled write may have happened, or may still happen.
    pub(crate) async fn write(&self, ops: impl IntoIterator<Item = TxnOp>) -> Result<Written, Error> {
        let held = TxnOp::CheckSession { key: self.at.coordinator(), session: self.session.clone() };
        let ops: Vec<TxnOp> = std::iter::once(held).chain(ops).collect();
        match self.consul.txn(&ops, Consistency::Default).await? {
            TxnResult::Applied(_) => Ok(Written::Applied),
            // The lock can be lost while its session is alive, for example if an operator deleted the key.
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
            // `write` adds this check itself.
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
