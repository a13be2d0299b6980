//! The events that a participant takes, and the error for a report about work that it never asked for.

use std::fmt;

use super::ids::{Epoch, ModifyIndex};
use super::journal::Target;
use super::record::{Barrier, Fault};

use crate::kind::HasKind;

/// A fact that the node has learnt.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Event {
    /// The directory that an aborted epoch made is gone, or is left to be pruned.
    Discarded { epoch: Epoch },
    /// `history/<epoch>` was read: whether that deploy was reverted.
    History { epoch: Epoch, verdict: Verdict },
    /// `members/<epoch>` was read, consistently.
    Members { epoch: Epoch, is_member: bool },
    /// [`Effect::Prepare`](super::effect::Effect::Prepare) has ended.
    PrepareEnded {
        epoch: Epoch,
        /// Whether the release is complete and durable here; a halt counts as a fault.
        result: Result<(), Fault>,
    },
    /// `barrier` was read.
    Record {
        index: ModifyIndex,
        record: Box<Barrier>,
        /// Whether the read was consistent; a late record in such a read means that keys were restored.
        is_consistent: bool,
    },
    /// A failed switch may be retried.
    Retry,
    /// [`Effect::Switch`](super::effect::Effect::Switch) has ended.
    SwitchEnded {
        to: Target,
        /// Whether `current` is there, durable, and the hooks succeeded; a halt counts as a fault.
        result: Result<(), Fault>,
    },
    /// `barrier` cannot be read, or is no record: why.
    Unreadable {
        /// One sentence.
        reason: String,
    },
}

/// A report about work that is not under way: the participant never asked for it.
///
/// The participant ignores the report. Late and repeated facts are no errors: each is a named case.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{event} was reported, and the participant was {during}: nothing was changed by the report")]
pub(crate) struct IllegalEvent {
    pub(crate) event: EndOfWork,
    pub(crate) during: &'static str,
}

impl HasKind for IllegalEvent {
    fn kind(&self) -> &'static str {
        match self.event {
            EndOfWork::Discarded(_) => "discarded",
            EndOfWork::Prepared(_) => "prepared",
            EndOfWork::Switched(_) => "switched",
        }
    }
}

/// A report that is legal only while its work is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EndOfWork {
    /// [`Event::Discarded`].
    Discarded(Epoch),
    /// [`Event::PrepareEnded`].
    Prepared(Epoch),
    /// [`Event::SwitchEnded`].
    Switched(Target),
}

impl fmt::Display for EndOfWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Discarded(epoch) => write!(f, "the end of the clean-up after deploy #{epoch}"),
            Self::Prepared(epoch) => write!(f, "the end of the preparation of deploy #{epoch}"),
            Self::Switched(Target::Origin) => f.write_str("the end of the switch to what ran before Cutover"),
            Self::Switched(Target::Release(release)) => write!(f, "the end of the switch to deploy #{}", release.epoch),
        }
    }
}

/// Whether a deploy was reverted, by `history/<epoch>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Verdict {
    /// The history says otherwise, or is absent.
    NotReverted,
    Reverted,
}
