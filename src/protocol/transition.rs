//! The transactions of a coordinator: one per transition, all or nothing.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::barrier::Cause;
use super::ids::{Epoch, ModifyIndex, Node, Unit};
use super::record::{
    Ack, Author, Barrier, Build, Current, FORMAT, History, Last, NodeOutcome, Outcome, Phase, Request, Running, Status,
    Summary, clip, encode,
};
use super::rule::{Rule, holds};
use super::snapshot::{Attestations, CurrentBarrier};

/// A key of the unit, as transitions name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    Abort,
    Barrier,
    Deploy,
    Freeze,
    History(Epoch),
    Members(Epoch),
    Status,
}

/// The value that a transition writes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Value {
    Barrier(Box<Barrier>),
    /// The key exists, and nothing waits in it.
    Empty,
    History(Box<History>),
    Members(Vec<Node>),
    Status(Box<Status>),
}

impl Value {
    #[must_use]
    pub(crate) fn encode(&self) -> String {
        match self {
            Self::Barrier(barrier) => encode(barrier),
            Self::Empty => String::new(),
            Self::History(history) => encode(history),
            Self::Members(members) => encode(members),
            Self::Status(status) => encode(status),
        }
    }
}

/// One operation of a transition. Each transition begins with [`Op::HoldLock`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Op {
    /// Only while the key is as it was read; index 0: only while it is absent.
    Cas { key: Key, index: ModifyIndex, value: Value },
    /// Only while the key is as it was read.
    CheckIndex { key: Key, index: ModifyIndex },
    /// Remove the key, if it is there.
    Delete { key: Key },
    /// Only while this coordinator's session holds the lock: I4.
    HoldLock,
    /// Write the key, whatever its former value.
    Set { key: Key, value: Value },
    /// Remove an attestation: it is used once.
    RemoveAttestation {
        /// The node whose agent attested the request.
        node: Node,
        /// The mark of the request.
        id: String,
    },
}

impl Op {
    /// Removes the attestations of the request: each counts once.
    pub(super) fn remove_attestations(attestations: Option<&Attestations>) -> impl Iterator<Item = Self> {
        let remove = |attestations: &Attestations| {
            let remove = |node: &Node| Self::RemoveAttestation { node: node.clone(), id: attestations.id.clone() };
            attestations.nodes.iter().map(remove).collect::<Vec<_>>()
        };
        attestations.map(remove).unwrap_or_default().into_iter()
    }

    /// Empties `deploy`, only as it was read: a request is taken once (I5).
    pub(super) fn take_request(index: ModifyIndex) -> Self {
        Self::only_as_read(Rule::RequestAsRead, Key::Deploy, index, Value::Empty)
    }

    /// Checks that the request is the one that was read (I12).
    pub(super) fn check_request(index: ModifyIndex) -> Option<Self> {
        holds(Rule::RevertRequestAsRead).then_some(Self::CheckIndex { key: Key::Deploy, index })
    }

    /// Moves the barrier, only from the record that the decision depends on (I2, I3).
    pub(super) fn move_barrier(index: ModifyIndex, next: &Barrier) -> Self {
        Self::only_as_read(Rule::BarrierAsRead, Key::Barrier, index, Value::Barrier(Box::new(next.clone())))
    }

    fn only_as_read(rule: Rule, key: Key, index: ModifyIndex, value: Value) -> Self {
        if holds(rule) { Self::Cas { key, index, value } } else { Self::Set { key, value } }
    }

    pub(super) const fn make_empty(key: Key) -> Self {
        Self::Cas { key, index: ModifyIndex(0), value: Value::Empty }
    }

    pub(super) fn set_history(history: &History) -> Self {
        Self::Set { key: Key::History(history.epoch), value: Value::History(Box::new(history.clone())) }
    }

    pub(super) fn set_status(status: Status) -> Self {
        Self::Set { key: Key::Status, value: Value::Status(Box::new(status)) }
    }
}

/// The writes of one transaction.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Transition {
    /// For logs.
    pub(crate) name: &'static str,
    /// In this order. The first is [`Op::HoldLock`].
    pub(crate) ops: Vec<Op>,
}

impl Transition {
    /// A transaction that applies only while the writer holds the lock (I4).
    pub(super) fn new(name: &'static str, ops: impl IntoIterator<Item = Op>) -> Self {
        let lock = holds(Rule::LockHeld).then_some(Op::HoldLock);
        Self { name, ops: lock.into_iter().chain(ops).collect() }
    }

    /// The values that it writes, in the order of the operations.
    fn values(&self) -> impl Iterator<Item = &Value> {
        self.ops.iter().filter_map(|op| match op {
            Op::Cas { value, .. } | Op::Set { value, .. } => Some(value),
            Op::CheckIndex { .. } | Op::Delete { .. } | Op::HoldLock | Op::RemoveAttestation { .. } => None,
        })
    }

    /// The history records that it writes. The first is of the deploy that moves.
    pub(crate) fn histories(&self) -> impl Iterator<Item = &History> {
        self.values().filter_map(|value| match value {
            Value::History(history) => Some(history.as_ref()),
            Value::Barrier(_) | Value::Empty | Value::Members(_) | Value::Status(_) => None,
        })
    }

    /// The barrier's next record, if it writes one.
    pub(crate) fn barrier(&self) -> Option<&Barrier> {
        self.values().find_map(|value| match value {
            Value::Barrier(barrier) => Some(barrier.as_ref()),
            Value::Empty | Value::History(_) | Value::Members(_) | Value::Status(_) => None,
        })
    }
}

/// The value of `status`, from the barrier and the newest history record.
#[must_use]
pub(crate) fn status(unit: &Unit, barrier: &Barrier, history: Option<&History>, before: Option<&Status>) -> Status {
    let current = barrier.committed.as_ref().map(|release| Current {
        artifact: release.artifact.clone(),
        release: release.release.clone(),
        epoch: release.epoch,
    });
    let running = barrier.target().filter(|_| !barrier.phase.is_settled()).map(|release| Running {
        epoch: barrier.epoch,
        phase: barrier.phase,
        artifact: release.artifact.clone(),
        by: history.map_or_else(|| "unknown".to_owned(), |h| h.author.by.clone()),
    });
    // The newest: a request can be refused or superseded while the barrier stays with an older epoch.
    let last = before.and_then(|s| s.last.clone()).into_iter().chain(history.and_then(Last::of));
    let last = last.max_by_key(|last| last.epoch);
    Status { app: unit.app.clone(), group: unit.group.clone(), current, running, last }
}

/// A request that is taken, and the coordinator that takes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken<'a> {
    pub(crate) unit: &'a Unit,
    /// The node whose agent coordinates.
    pub(crate) coordinator: &'a Node,
    /// The epoch that the request has from its index.
    pub(crate) epoch: Epoch,
    pub(crate) raw: &'a [u8],
    /// None: the bytes cannot be read.
    pub(crate) request: Option<&'a Request>,
    pub(crate) at: Timestamp,
}

impl Taken<'_> {
    /// The record of the request, as it begins.
    #[must_use]
    pub(crate) fn history(self) -> History {
        /// The longest request that is kept, in bytes. Longer text is not accepted as a request.
        const KEPT_BYTES: usize = 4096;
        let request = self.request;
        History {
            format: FORMAT,
            epoch: self.epoch,
            unit: self.unit.clone(),
            request: clip(&String::from_utf8_lossy(self.raw), KEPT_BYTES),
            author: request.map_or_else(|| Author::by_hand(""), |request| request.author.clone()),
            verified: None,
            rollback: request.is_some_and(Request::is_rollback),
            notes: Vec::new(),
            artifact: None,
            branch: None,
            commit: None,
            summary: Summary::default(),
            release: None,
            from: None,
            changes: None,
            outcome: None,
            node: None,
            fault: None,
            nodes: BTreeMap::new(),
            left_out: Vec::new(),
            coordinator: self.coordinator.clone(),
            started_at: self.at,
            committed_at: None,
            reverted_at: None,
            ended_at: None,
        }
    }
}

/// The history of a deploy whose record was lost, from its barrier.
#[must_use]
pub(crate) fn restored(unit: &Unit, coordinator: &Node, barrier: &Barrier, at: Timestamp) -> History {
    let mut history = Taken { unit, coordinator, epoch: barrier.epoch, raw: b"", request: None, at }.history();
    history.notes.push("the record of this deploy was lost and made again from its barrier".to_owned());
    "unknown".clone_into(&mut history.author.by);
    history.artifact = barrier.target().map(|r| r.artifact.clone());
    history.release = barrier.target().map(|r| r.release.clone());
    history.from.clone_from(&barrier.from);
    history
}

impl History {
    pub(crate) fn set_build(&mut self, build: &Build) {
        self.artifact = Some(build.artifact.clone());
        self.branch = Some(build.branch.clone());
        self.commit = Some(build.commit.clone());
        self.summary.clone_from(&build.summary);
    }

    pub(crate) fn end(&mut self, outcome: Outcome, now: Timestamp) {
        self.outcome = Some(outcome);
        self.ended_at = Some(now);
    }

    /// Notes why the deploy failed; the first cause stays.
    pub(crate) fn set_cause(&mut self, cause: Cause) {
        if self.fault.is_none() {
            self.node = cause.node;
            self.fault = Some(cause.fault);
        }
    }

    /// Copies every member's answer to this epoch.
    ///
    /// Only the first few faults keep their output and whole reason, and only small fleets keep timings: the record of
    /// 10,000 nodes has to fit into one transaction (512 KiB encoded, some 390,000 bytes), or the deploy could not end.
    pub(crate) fn add_answers(&mut self, members: &[Node], acks: &BTreeMap<Node, Ack>) {
        /// Output tails that are kept, beside that of the node that failed the deploy.
        const OUTPUTS: usize = 3;
        /// Reasons that are kept whole.
        const REASONS: usize = 50;
        /// The length of the other reasons, in bytes.
        const SHORT_REASON: usize = 64;
        /// The largest fleet whose timings are in its history too.
        const TIMED: usize = 1000;
        let mut faults = 0_usize;
        for node in members {
            let ack = acks.get(node).filter(|ack| ack.epoch == self.epoch);
            let mut fault = ack.and_then(|ack| ack.fault.clone());
            if let Some(fault) = &mut fault {
                faults = faults.saturating_add(1);
                if faults > OUTPUTS {
                    fault.output.clear();
                }
                if faults > REASONS {
                    fault.reason = clip(&fault.reason, SHORT_REASON);
                }
            }
            let took = ack.filter(|_| members.len() <= TIMED).map(|ack| ack.took).unwrap_or_default();
            self.nodes.insert(node.clone(), NodeOutcome { answer: ack.map(|ack| ack.answer), fault, took });
        }
    }
}

/// How the end of a revert treats the waiting request.
#[derive(Debug, Default)]
pub(super) struct EndOfRevert {
    /// On `deploy`, and on the attestations of a request that is answered.
    pub(super) guards: Vec<Op>,
    /// The record of that request.
    pub(super) answered: Option<History>,
}

/// The move of a running deploy to its next phase.
#[derive(Debug)]
pub(super) struct Step<'a> {
    pub(super) unit: &'a Unit,
    pub(super) from: CurrentBarrier<'a>,
    pub(super) to: Phase,
    /// Checks of, and changes to, the other keys that the decision depends on.
    pub(super) guards: Vec<Op>,
    pub(super) history: &'a History,
    /// The record of the request that this step answers.
    pub(super) answered: Option<&'a History>,
    pub(super) before: Option<&'a Status>,
}

impl Step<'_> {
    pub(super) fn transition(self) -> Transition {
        let next = self.from.barrier.in_phase(self.to);
        // `status` shows the newest outcome: that of the answered request.
        let status = status(self.unit, &next, self.answered.or(Some(self.history)), self.before);
        let histories = [Some(self.history), self.answered].into_iter().flatten().map(Op::set_history);
        // The request is emptied before the barrier moves: the log then shows that the revert found none waiting.
        let ops = self.guards.into_iter().chain([Op::move_barrier(self.from.index, &next)]);
        Transition::new(self.to.as_str(), ops.chain(histories).chain([Op::set_status(status)]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::record::{Answer, Identity, Means, Timings};

    #[test]
    fn the_end_of_a_deploy_of_ten_thousand_nodes_fits_into_one_transaction() {
        let epoch = Epoch { era: 0, number: 1_234_567 };
        let unit: Unit = "shop/production".parse().unwrap();
        let members: Vec<Node> = (0..10_000).map(|n| format!("web-{n:05}").parse().unwrap()).collect();
        let (prepare, link, switch) = (Some(123_456), Some(1_234), Some(12_345));
        let took = Timings { prepare_ms: prepare, link_ms: link, switch_ms: switch, revert_ms: None };
        let ack = |answer| Ack { format: FORMAT, epoch, answer, fault: None, took, at: Timestamp::UNIX_EPOCH };
        let acks = members.iter().map(|node| (node.clone(), ack(Answer::Switched))).collect();
        let taken = Taken {
            unit: &unit,
            coordinator: &members[0],
            epoch,
            raw: b"master",
            request: None,
            at: Timestamp::UNIX_EPOCH,
        };
        let mut history = taken.history();
        let long = |letter: &str| letter.repeat(512);
        let accessor = Some(long("a"));
        history.verified = Some(Identity { name: long("n"), means: Means::Proxy, accessor, token: long("t") });
        history.add_answers(&members, &acks);
        history.end(Outcome::Done, Timestamp::UNIX_EPOCH);
        assert!(encode(&history).len() < 390_000, "{}", encode(&history).len());
    }
}
