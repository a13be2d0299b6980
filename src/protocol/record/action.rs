//! `actions/<index>`: actions besides deploys, as the coordinator has seen them.
//!
//! The number is the ModifyIndex of the key that was written, so actions and requests sort in the order of their writes.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Author, Changes, Identity, Summary};
use crate::protocol::ids::{Epoch, Unit};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(crate) enum ActionKind {
    /// An abort was requested; `subject` is the epoch.
    Abort,
    Forget,
    Freeze,
    MarkBad,
    /// A build's bad mark was removed.
    MarkGood,
    Publish,
    /// A node's `current` was repaired.
    Repair,
    Unfreeze,
}

impl ActionKind {
    /// The word as users read it, the same as in JSON.
    #[must_use]
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Abort => "abort",
            Self::Forget => "forget",
            Self::Freeze => "freeze",
            Self::MarkBad => "mark_bad",
            Self::MarkGood => "mark_good",
            Self::Publish => "publish",
            Self::Repair => "repair",
            Self::Unfreeze => "unfreeze",
        }
    }
}

/// One action besides deploys.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Action {
    pub(crate) format: u32,
    /// The unit's era, and the index of the key that was written.
    #[serde(flatten)]
    pub(crate) epoch: Epoch,
    pub(crate) unit: Unit,
    #[allow(clippy::struct_field_names, reason = "the key of the record")]
    pub(crate) action: ActionKind,
    /// An artifact, a node or an epoch; empty: the group.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) subject: String,
    /// The commit of a published build. Not named `subject`, which has another meaning here.
    #[serde(default, skip_serializing_if = "Summary::is_empty")]
    pub(crate) summary: Summary,
    /// What is new in a published build, in short.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) changes: Option<Changes>,
    /// The claimed author, without an `id`.
    #[serde(flatten, with = "super::author::with_why")]
    pub(crate) author: Author,
    /// The author, where an agent attested it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) verified: Option<Identity>,
    /// When a freeze expires; none: it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<Timestamp>,
    /// The time in the record, else the time at which the coordinator saw the action.
    pub(crate) at: Timestamp,
}
