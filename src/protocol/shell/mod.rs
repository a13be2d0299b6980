//! The agent's shell without its I/O: what an agent does around its participant.
//!
//! Each machine takes an event and answers with steps. A step names one piece of I/O; its outcome comes back as an
//! event, whichever it is. Time and chance come in with each event. The agent and the simulator
//! (`tests/protocol`) drive the same machines, and decide nothing themselves.
//!
//! | Machine | Decides |
//! |---|---|
//! | [`describe`] | what a node says about itself |
//! | [`follow`] | what each read of `barrier` becomes, and what is read again |
//! | [`keep`] | which releases nothing may remove |
//! | [`lead`] | what a coordinator reads and writes, and when, by [`look`] |
//! | [`publisher`] | when the node's answer and its record are written, by [`outbox`] and [`presence`] |
//! | [`rebuild`] | with which journal an agent starts |
//!
//! Non-goals: the barrier itself. What a node owes is for [`super::participant`] to say.

pub(crate) mod describe;
pub(crate) mod follow;
pub(crate) mod keep;
pub(crate) mod lead;
pub(crate) mod look;
pub(crate) mod outbox;
mod own;
pub(crate) mod presence;
pub(crate) mod publisher;
pub(crate) mod rebuild;
#[cfg(test)]
mod tests;

use std::time::Duration;

use super::ids::{ModifyIndex, Node};
use super::keys::UnitKeys;

/// When an event came, with a number drawn for it alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// By the node's own clock, which never goes back.
    pub(crate) since_start: Duration,
    /// From 0 to 1: it spreads what many nodes would do at the same time.
    pub(crate) chance: f64,
}

impl Moment {
    /// A span from nothing up to `most`, by chance.
    pub(crate) fn within(self, most: Duration) -> Duration {
        most.mul_f64(self.chance.clamp(0.0, 1.0))
    }
}

/// A key that this node reads and writes for itself.
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
    /// The whole key in Consul.
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
    /// Writes the key if it stands at `index`; index 0: if it does not exist.
    Cas { key: Key, index: ModifyIndex, value: String },
    /// Holds if the key stands at `index`.
    CheckIndex { key: Key, index: ModifyIndex },
    /// Holds if `session` holds the key.
    CheckHolder { key: Key, session: S },
    /// Takes the key for `session`, and writes it.
    Lock { key: Key, session: S, value: String },
    /// Writes the key, whoever holds it.
    Set { key: Key, value: String },
}

/// A key as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found<S> {
    pub(crate) key: String,
    pub(crate) index: ModifyIndex,
    pub(crate) value: Vec<u8>,
    /// The session that holds it.
    pub(crate) holder: Option<S>,
}
