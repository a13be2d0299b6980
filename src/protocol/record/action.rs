//! `actions/<index>`: actions besides deploys, as the coordinator has seen them.
//!
//! The number is the ModifyIndex of the key that was written, so actions and requests sort as they happened.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Identity, Summary};
use crate::protocol::ids::{Epoch, Unit};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ActionKind {
    /// Somebody asked for the end of a deploy; `subject` is its epoch.
    Abort,
    /// A node was forgotten.
    Forget,
    /// The group was frozen.
    Freeze,
    /// A build was marked bad.
    MarkBad,
    /// A build's bad mark was taken away.
    MarkGood,
    /// A build was published.
    Publish,
    /// A node's `current` was put right.
    Repair,
    /// The freeze was lifted.
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

/// One action.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Action {
    /// The record's format.
    pub(crate) format: u32,
    /// The unit's era, and the index of the key that was written.
    #[serde(flatten)]
    pub(crate) epoch: Epoch,
    pub(crate) unit: Unit,
    #[allow(clippy::struct_field_names, reason = "the key of the record")]
    pub(crate) action: ActionKind,
    /// To what: an artifact, a node, an epoch; empty: to the group.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) subject: String,
    /// The commit of a published build. `summary` and not `subject`, which names something else here.
    #[serde(default, skip_serializing_if = "Summary::is_empty")]
    pub(crate) summary: Summary,
    /// The author: a claim.
    pub(crate) by: String,
    /// Through what.
    pub(crate) via: String,
    /// Why; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) why: String,
    /// The author, where an agent has attested it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) verified: Option<Identity>,
    /// Until when a freeze holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<Timestamp>,
    /// When, as far as the record says; else when the coordinator saw it.
    pub(crate) at: Timestamp,
}
