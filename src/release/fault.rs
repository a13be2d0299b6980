//! Faults of disk operations, in the form that answers in Consul KV contain.

use std::error::Error;
use std::io;

use crate::kind::HasKind;
use crate::protocol::record::{Fault, MAX_REASON_BYTES, Step, clip};

/// Whether the same step may succeed later, with the same build record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// It may: the disk, the network or the store failed.
    MayHelp,
    /// It may, when the disk has room.
    WithRoom,
    /// It fails again: the archive has the right digest, and its content is not accepted.
    Useless,
}

/// A failed step on this node. It leaves nothing behind, unless the reason says so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct StageFault {
    /// The step that failed, as the node answers it.
    pub step: Step,
    /// The problem, the path, and the fix if there is one. Suitable for `status`: at most [`MAX_REASON_BYTES`], without
    /// control characters.
    pub reason: String,
    /// Whether it may succeed later.
    pub retry: Retry,
}

impl HasKind for StageFault {
    fn kind(&self) -> &'static str {
        "stage_fault"
    }
}

impl StageFault {
    /// Builds a fault. Replaces control characters by blanks, and cuts the reason at [`MAX_REASON_BYTES`].
    pub(crate) fn new(step: Step, reason: &str) -> Self {
        let plain: String = reason.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        Self { step, reason: clip(&plain, MAX_REASON_BYTES), retry: Retry::MayHelp }
    }

    /// Builds a fault whose reason is `what`, followed by the error and its causes. If one of them is a full disk, a retry
    /// may help with more room.
    pub(crate) fn of(step: Step, what: &str, error: &(dyn Error + 'static)) -> Self {
        let mut reason = what.to_owned();
        let mut cause: Option<&(dyn Error + 'static)> = Some(error);
        let mut retry = Retry::MayHelp;
        while let Some(error) = cause {
            if error.downcast_ref().is_some_and(is_full) {
                retry = Retry::WithRoom;
            }
            reason.push_str(": ");
            reason.push_str(&error.to_string());
            cause = error.source();
        }
        Self { retry, ..Self::new(step, &reason) }
    }
}

/// Whether the disk, or the quota of the agent's user, is full.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl From<StageFault> for Fault {
    fn from(fault: StageFault) -> Self {
        Self::new(fault.step, &fault.reason)
    }
}
