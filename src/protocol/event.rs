//! What a participant is told.

use super::ids::{Epoch, ModifyIndex};
use super::journal::Target;
use super::record::{Barrier, Fault};

/// What the node has learnt.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The directory that an aborted epoch made is gone, or is left to be pruned.
    Discarded {
        /// The epoch.
        epoch: Epoch,
    },
    /// `history/<epoch>` was read: whether that deploy was reverted.
    History {
        /// The epoch.
        epoch: Epoch,
        /// What it says.
        verdict: Verdict,
    },
    /// `members/<epoch>` was read, consistently.
    Members {
        /// The epoch.
        epoch: Epoch,
        /// Whether this node is in it.
        is_member: bool,
    },
    /// [`Effect::Prepare`](super::effect::Effect::Prepare) has ended.
    PrepareEnded {
        /// The epoch.
        epoch: Epoch,
        /// Whether the release is complete and durable here; a halt counts as a fault.
        result: Result<(), Fault>,
    },
    /// `barrier` was read.
    Record {
        /// Where it stands in Consul's log.
        index: ModifyIndex,
        /// The record.
        record: Box<Barrier>,
        /// Whether the read was consistent; a late record in such a read means that keys were restored.
        is_consistent: bool,
    },
    /// Time to try again what failed.
    Retry,
    /// [`Effect::Switch`](super::effect::Effect::Switch) has ended.
    SwitchEnded {
        /// Where it led.
        to: Target,
        /// Whether `current` is there, durable, with its hooks content; a halt counts as a fault.
        result: Result<(), Fault>,
    },
    /// `barrier` cannot be read, or is no record: why.
    Unreadable {
        /// One sentence.
        reason: String,
    },
}

/// What `history/<epoch>` says about a deploy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It says anything else, or is not there.
    NotReverted,
    /// It was taken back.
    Reverted,
}
