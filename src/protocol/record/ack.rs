//! `acks/<node>`: a node's durable answer to the record that stands.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::protocol::ids::Epoch;

/// The longest reason in an answer, in bytes.
pub const MAX_REASON_BYTES: usize = 512;
/// The longest output tail in an answer, in bytes. The node itself keeps the last 64 KiB.
pub(crate) const MAX_OUTPUT_BYTES: usize = 2048;

/// What a node answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// To a prepare: the release is complete on disk, and the node will switch if asked.
    Prepared,
    /// To prepare: the node cannot.
    Refused,
    /// To commit: `current` is the release, and the hooks succeeded.
    Switched,
    /// To commit: the switch failed.
    Failed,
    /// To a revert: the node runs the release that it ran before.
    Reverted,
    /// To revert: the node could not roll back.
    Stuck,
}

impl Answer {
    /// Whether the answer carries a fault.
    #[must_use]
    pub(crate) const fn is_no(self) -> bool {
        match self {
            Self::Refused | Self::Failed | Self::Stuck => true,
            Self::Prepared | Self::Switched | Self::Reverted => false,
        }
    }
}

/// The step in which something went wrong, on a node or at the coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// An operator's abort.
    Abort,
    /// The build is marked bad.
    BadMark,
    /// The phase took longer than its policy allows.
    Deadline,
    /// The archive could not be fetched from the store.
    Fetch,
    /// The record contradicts what the node holds as decided.
    Floor,
    /// Shared directories and files could not be linked in.
    Link,
    /// No such branch, build, or rollback target.
    NotFound,
    /// The group is frozen.
    Freeze,
    /// A check before the switch found that the switch cannot succeed here.
    Preflight,
    /// The prepare hook.
    PrepareHook,
    /// The request cannot be carried out: unknown, ambiguous, or not allowed.
    Request,
    /// The reverted hook.
    RevertedHook,
    /// The node has no live session.
    Session,
    /// The check hook.
    CheckHook,
    /// The `current` link could not be switched.
    Switch,
    /// The switched hook.
    SwitchedHook,
    /// Data could not be made durable.
    Sync,
    /// The archive could not be unpacked.
    Unpack,
    /// The archive's digest or size is not what the build record says, or the record is not signed as it must be.
    Verify,
}

impl Step {
    /// The step as users read it, the same word as in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Abort => "abort",
            Self::BadMark => "bad_mark",
            Self::Deadline => "deadline",
            Self::Fetch => "fetch",
            Self::Floor => "floor",
            Self::Link => "link",
            Self::NotFound => "not_found",
            Self::Freeze => "freeze",
            Self::Preflight => "preflight",
            Self::PrepareHook => "prepare_hook",
            Self::Request => "request",
            Self::RevertedHook => "reverted_hook",
            Self::Session => "session",
            Self::CheckHook => "check_hook",
            Self::Switch => "switch",
            Self::SwitchedHook => "switched_hook",
            Self::Sync => "sync",
            Self::Unpack => "unpack",
            Self::Verify => "verify",
        }
    }
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Fault {
    /// The step that failed.
    pub step: Step,
    /// Why, in one sentence.
    #[schemars(length(max = MAX_REASON_BYTES))]
    pub reason: String,
    /// The last output of the hook, without secrets.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = MAX_OUTPUT_BYTES))]
    pub output: String,
}

impl Fault {
    /// A fault without output; `reason` is cut to its limit.
    #[must_use]
    pub(crate) fn new(step: Step, reason: &str) -> Self {
        Self { step, reason: super::clip(reason, MAX_REASON_BYTES), output: String::new() }
    }
}

/// How long a node took, by its own monotonic clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Timings {
    /// From the arrival of the prepare to the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prepare_ms: Option<u64>,
    /// From the arrival of the commit until `current` was switched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) link_ms: Option<u64>,
    /// From the arrival of the commit to the end of the check hook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switch_ms: Option<u64>,
    /// From the arrival of the revert to the end of the reverted hook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) revert_ms: Option<u64>,
}

impl Timings {
    #[must_use]
    pub(crate) fn is_unknown(&self) -> bool {
        *self == Self::default()
    }
}

/// A node's newest answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ack {
    pub(crate) format: u32,
    #[serde(flatten)]
    pub(crate) epoch: Epoch,
    pub(crate) answer: Answer,
    /// Present only where [`Answer::is_no`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fault: Option<Fault>,
    #[serde(default)]
    pub(crate) took: Timings,
    /// By the node's clock; for people only.
    pub(crate) at: Timestamp,
}

impl Ack {
    /// P3. Whether this answer may take the place of the node's former one.
    ///
    /// Prepared is a promise: a commit that depends on it may already be on its way. So a later life, which prepares again
    /// and may fail, does not take the promise back. If that node cannot switch, it answers failed, and the fleet rolls
    /// back.
    #[must_use]
    pub(crate) fn may_replace(&self, former: &Self) -> bool {
        (former.epoch, former.answer, self.answer) != (self.epoch, Answer::Prepared, Answer::Refused)
    }
}
