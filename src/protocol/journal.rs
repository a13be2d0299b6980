//! The journal: a node's promises and switches, as they are on its disk.

use serde::{Deserialize, Serialize};

use super::ids::Epoch;
use super::record::{Barrier, Release};

/// Where a switch leads.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Target {
    /// What the node ran before its first switch: [`Journal::origin`].
    Origin,
    /// A release that Cutover made.
    Release(Release),
}

/// What `current` was before Cutover first switched it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Origin {
    /// The text of a symlink that another tool made.
    Link(String),
    Nothing,
}

/// The durable half of a participant: `<deploy_to>/.cutover/state.json`.
///
/// Written before anything is done or said that follows from it (I6, I7); the agent can rebuild it from what is on
/// disk and in `acks/` when it is lost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Journal {
    /// The newest record that the node follows: its floor.
    ///
    /// Invariant: only replaced by a record that [`super::floor::admit`]s as new.
    pub(crate) record: Option<Barrier>,
    /// Whether the node is a member of that record's deploy; none: not read yet.
    ///
    /// Use: read once per epoch; the members of an epoch never change (I5).
    pub(crate) member: Option<bool>,
    /// The epoch for which this node may have made a release directory that it has not discarded since.
    pub(crate) began: Option<Epoch>,
    /// The release that the node runs: switched to, durable, its hooks succeeded.
    pub(crate) runs: Option<Release>,
    /// A switch that was begun, and may have been done in part.
    ///
    /// Invariant: set before `current` is touched, cleared when the hooks have succeeded.
    pub(crate) moving: Option<Target>,
    /// The newest epoch whose release `current` may point to; none: `current` is the origin.
    ///
    /// Invariant: raised before `current` is touched, lowered only when a switch back is complete.
    pub(crate) touched: Option<Epoch>,
    /// What `current` was before the first switch; none: there was none yet.
    pub(crate) origin: Option<Origin>,
}
