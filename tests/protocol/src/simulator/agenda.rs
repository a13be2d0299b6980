//! The queue of events: in the order of virtual time, and of their creation where the times are equal.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::mix::Fault;
use crate::consul::{Op, Refusal, Session};
use crate::protocol::coordinator::{Resolved, Snapshot};
use crate::protocol::ids::ModifyIndex;
use crate::protocol::participant::Effect;
use crate::protocol::record::{Barrier, Fault as Reason, RecordError, Request};
use crate::protocol::shell::follow::FirstRead;
use crate::protocol::shell::look::Extent;
use crate::protocol::transition::Transition;

/// A part of an agent that asks Consul. Each waits for at most one answer at a time, except reads of members and
/// histories, and a coordinator's round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// What a candidate for coordinator asks for, but the renewal.
    Candidate,
    /// Consistent reads of `barrier`.
    Follow,
    Outbox,
    Presence,
    Read,
    Renew,
    Round,
    /// The watch of `barrier`.
    Watch,
    /// The watch of the coordinator's lock.
    WatchLock,
}

/// A timer of an agent.
#[derive(Clone, Debug)]
pub(crate) enum Timer {
    /// The candidate's wait ends; the ticket of the wait.
    Candidate(u64),
    /// A watch of the coordinator reports a change.
    Changed,
    /// The coordinator's wait ends; the number of the wait.
    Due(u64),
    /// The follower's wait ends; the ticket of the wait.
    Follow(u64),
    /// The outbox's wait ends; the ticket of the wait.
    Outbox(u64),
    /// The wait of presence ends; the ticket of the wait.
    Presence(u64),
    Prune,
    /// A failed read is retried.
    Read(Effect),
    Retry,
    /// The coordinator's decision is sent.
    Send {
        ticket: u64,
        round: u64,
        transition: Box<Transition>,
    },
    /// The watch of `barrier` has something to report.
    Watch,
    /// The watch of the coordinator's lock has something to report.
    WatchLock,
}

/// A request to Consul.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    /// `barrier`, from any server.
    Barrier,
    /// `barrier`, consistently.
    BarrierNow,
    Catalog,
    Create,
    Destroy(Session),
    /// The first read of a node without a record.
    First,
    Key(String),
    /// Release the lock.
    Release(Session),
    Renew(Session),
    Resolve(Box<Request>),
    /// The node of this session.
    SessionNode(Session),
    Snapshot(Extent),
    /// A coordinator's transaction.
    Transition(Session, Box<Transition>),
    Txn(Vec<Op>),
}

impl Ask {
    pub(crate) const fn is_write(&self) -> bool {
        matches!(self, Self::Create | Self::Destroy(_) | Self::Release(_) | Self::Transition(..) | Self::Txn(_))
    }
}

/// One key as it was read.
#[derive(Clone, Debug)]
pub(crate) struct KeyRead {
    pub(crate) key: String,
    pub(crate) index: ModifyIndex,
    pub(crate) value: Arc<[u8]>,
    pub(crate) holder: Option<Session>,
}

/// A value that `barrier` has held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) index: ModifyIndex,
    /// None: the key was absent.
    pub(crate) value: Option<Arc<[u8]>>,
    /// The value, decoded.
    pub(crate) record: Option<Result<Arc<Barrier>, RecordError>>,
}

#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Barrier(Version),
    Catalog(std::collections::BTreeSet<String>),
    Created(Option<Session>),
    Done(bool),
    First(Box<FirstRead>),
    Key(Option<KeyRead>),
    /// No answer, or an error: a write may have applied, or may yet apply.
    Lost,
    Resolved(Box<Result<Resolved, Reason>>),
    SessionNode(Option<String>),
    Snapshot(Box<Snapshot>),
    /// The index at which the transaction applied, or the operations that did not hold.
    Txn(Result<ModifyIndex, Vec<Refusal>>),
}

/// A request on its way to Consul.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) node: usize,
    pub(crate) life: u32,
    pub(crate) task: Task,
    pub(crate) ticket: u64,
    pub(crate) ask: Ask,
    /// When the caller gives up.
    pub(crate) limit: Duration,
    /// Whether the answer reaches the caller.
    pub(crate) is_answered: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Event {
    Answer {
        node: usize,
        life: u32,
        task: Task,
        ticket: u64,
        answer: Answer,
    },
    Arrive(Box<Call>),
    /// The next fault.
    Fault,
    /// Consul finds a node dead that is cut off.
    Health {
        node: usize,
    },
    /// A fault is over, at a node or for all.
    Mended {
        node: usize,
        fault: Fault,
    },
    People,
    /// An operator recovers keys that were tampered with.
    Recover,
    /// A person writes `deploy` where it is still at the index that was read.
    Request {
        text: String,
        index: u64,
    },
    /// Sessions may have ended by time.
    Sessions,
    Start {
        node: usize,
    },
    Timer {
        node: usize,
        life: u32,
        timer: Timer,
    },
    WorkEnds {
        node: usize,
        life: u32,
        ticket: u64,
    },
}

impl Event {
    /// The agent that the event is for, if any, and its life.
    pub(crate) const fn agent(&self) -> Option<(usize, u32)> {
        match self {
            Self::Answer { node, life, .. } | Self::Timer { node, life, .. } | Self::WorkEnds { node, life, .. } => {
                Some((*node, *life))
            }
            Self::Arrive(_)
            | Self::Fault
            | Self::Health { .. }
            | Self::Mended { .. }
            | Self::People
            | Self::Recover
            | Self::Request { .. }
            | Self::Sessions
            | Self::Start { .. } => None,
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Agenda {
    events: BTreeMap<(Duration, u64), Event>,
    made: u64,
}

impl Agenda {
    pub(crate) fn at(&mut self, moment: Duration, event: Event) {
        self.made += 1;
        self.events.insert((moment, self.made), event);
    }

    pub(crate) fn next(&mut self) -> Option<(Duration, Event)> {
        self.events.pop_first().map(|((moment, _), event)| (moment, event))
    }
}
