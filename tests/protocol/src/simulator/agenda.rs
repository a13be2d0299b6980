//! What happens next: events in the order of virtual time, and in the order of their making where that is equal.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::mix::Fault;
use crate::consul::{Op, Refusal, Session};
use crate::protocol::coordinator::{Resolved, Snapshot};
use crate::protocol::ids::ModifyIndex;
use crate::protocol::participant::Effect;
use crate::protocol::record::{Barrier, Fault as Reason, RecordError, Request};
use crate::protocol::shell::follow::First;
use crate::protocol::shell::look::Extent;
use crate::protocol::transition::Transition;

/// A part of an agent that waits for at most one answer at a time; reads of members and histories, and a coordinator's
/// round, wait for several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Consistent reads of `barrier`.
    Follow,
    Outbox,
    Presence,
    Read,
    Renew,
    Round,
    Stand,
    /// The watch of `barrier`.
    Watch,
}

/// What an agent waits for by itself.
#[derive(Clone, Debug)]
pub(crate) enum Timer {
    /// A watch of the coordinator's reports a change.
    Changed,
    /// The lock's session was not renewed for too long.
    Doubt,
    /// What the coordinator waits for; the number of the wait that this ends.
    Due(u64),
    /// The follower waits no longer; the ticket of the wait.
    Follow(u64),
    /// The outbox waits no longer; the ticket of the wait.
    Outbox(u64),
    /// Presence waits no longer; likewise.
    Presence(u64),
    Prune,
    /// A read that failed, once more.
    Read(Effect),
    Renew,
    Retry,
    /// What the coordinator has decided is sent.
    Send {
        ticket: u64,
        round: u64,
        transition: Box<Transition>,
    },
    Stand,
    /// The watch of `barrier` has something to report.
    Watch,
}

/// What is asked of Consul.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    /// `barrier`, from any server.
    Barrier,
    /// `barrier`, as it is now.
    BarrierNow,
    Catalog,
    Create,
    Destroy(Session),
    /// What a node without a record reads first.
    First,
    Key(String),
    /// The lock is given back.
    Release(Session),
    Renew(Session),
    Resolve(Box<Request>),
    /// Whose session it is.
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
pub(crate) struct Seen {
    pub(crate) key: String,
    pub(crate) index: ModifyIndex,
    pub(crate) value: Arc<[u8]>,
    pub(crate) holder: Option<Session>,
}

/// What `barrier` held at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) index: ModifyIndex,
    /// None: the key was not there.
    pub(crate) value: Option<Arc<[u8]>>,
    /// What that says.
    pub(crate) record: Option<Result<Arc<Barrier>, RecordError>>,
}

#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Barrier(Version),
    Catalog(std::collections::BTreeSet<String>),
    Created(Option<Session>),
    Done(bool),
    First(Box<First>),
    Key(Option<Seen>),
    /// No answer, or an error: it may have happened or not, or happen yet.
    Lost,
    Resolved(Box<Result<Resolved, Reason>>),
    SessionNode(Option<String>),
    Snapshot(Box<Snapshot>),
    /// Where it was applied, or what did not hold.
    Txn(Result<ModifyIndex, Vec<Refusal>>),
}

/// A question on its way to Consul.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) node: usize,
    pub(crate) life: u32,
    pub(crate) task: Task,
    pub(crate) ticket: u64,
    pub(crate) ask: Ask,
    /// When the caller gives up.
    pub(crate) limit: Duration,
    /// Whether the answer finds its way back, or nobody waits for one.
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
    /// A node that was cut off is found dead by the others.
    Health {
        node: usize,
    },
    /// A fault at a node, or of everything, is over.
    Mended {
        node: usize,
        fault: Fault,
    },
    People,
    /// An operator mends keys that were tampered with.
    Recover,
    /// A person who has looked at `deploy` writes it where it still stands at this index.
    Request {
        text: String,
        index: u64,
    },
    /// Sessions may have come to their end.
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
    /// The agent that it reaches, if it reaches one.
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
