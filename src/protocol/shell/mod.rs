//! The agent's shell without its I/O: the rules around participant and coordinator.
//!
//! Each machine takes an event and answers with steps. A step names one piece of I/O; its outcome, success or failure,
//! comes back as an event. Time and chance come in with each event. The agent and the simulator (`tests/protocol`) drive
//! the same machines, and decide nothing themselves.
//!
//! | Machine | Decides |
//! |---|---|
//! | [`candidate`] | when a candidate looks at the coordinator's lock, acquires it, gives it up, and releases it |
//! | [`describe`] | what a node reports about itself |
//! | [`follow`] | how each read of `barrier` is judged, and which reads are repeated |
//! | [`keep`] | which releases must not be removed |
//! | [`lead`] | what a coordinator reads and writes, and when, by [`look`] and [`reads`] |
//! | [`publisher`] | when the node's answer and its record are written, by [`outbox`] and [`presence`] |
//! | [`rebuild`] | with which journal an agent starts |
//!
//! Non-goals: the barrier itself. [`super::participant`] decides what a node owes.

pub(crate) mod candidate;
pub(crate) mod describe;
pub(crate) mod follow;
pub(crate) mod keep;
pub(crate) mod lead;
pub(crate) mod look;
pub(crate) mod outbox;
mod own;
pub(crate) mod presence;
pub(crate) mod publisher;
mod reads;
pub(crate) mod rebuild;
#[cfg(test)]
mod tests;

use std::time::Duration;

use super::ids::{ModifyIndex, Node};
use super::keys::UnitKeys;

/// The time of an event, with a random number for it alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// By the node's own monotonic clock.
    pub(crate) since_start: Duration,
    /// From 0 to 1: it spreads work that many nodes would do at the same time.
    pub(crate) chance: f64,
}

impl Moment {
    /// A random duration up to `most`.
    pub(crate) fn within(self, most: Duration) -> Duration {
        most.mul_f64(self.chance.clamp(0.0, 1.0))
    }
}

/// A key that a node reads or writes about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// `acks/<node>`
    Ack,
    /// `barrier`
    Barrier,
    /// `nodes/<node>`
    Node,
}

impl Key {
    /// The full name of the key in Consul.
    pub(crate) fn of(self, unit: &UnitKeys, node: &Node) -> String {
        match self {
            Self::Ack => unit.ack(node),
            Self::Barrier => unit.barrier(),
            Self::Node => unit.node(node),
        }
    }
}

/// One operation of a transaction; `S` is a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op<S> {
    /// Writes the key if it is at `index`; index 0: if it does not exist.
    Cas { key: Key, index: ModifyIndex, value: String },
    /// Holds if the key is at `index`.
    CheckIndex { key: Key, index: ModifyIndex },
    /// Holds if `session` holds the key.
    CheckHolder { key: Key, session: S },
    /// Acquires the key for `session`, and writes it.
    Lock { key: Key, session: S, value: String },
    /// Writes the key, whichever session holds it.
    Set { key: Key, value: String },
}

/// A key as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found<S> {
    pub(crate) key: String,
    pub(crate) index: ModifyIndex,
    pub(crate) value: Vec<u8>,
    pub(crate) holder: Option<S>,
}
