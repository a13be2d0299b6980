//! Keys that the coordinator keeps beside the barrier: what of the past was archived, what the store lacks, what was told.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::protocol::ids::{ArtifactName, Epoch, ModifyIndex, Sha256};

/// `archive`: where the older history lies. Segments in order, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Archive {
    /// The record's format.
    #[serde(default)]
    pub(crate) format: u32,
    /// Every segment that was written, and read back.
    #[serde(default)]
    pub(crate) segments: Vec<Segment>,
}

/// One object of archived history: JSON lines, each a history or action record, by epoch.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Segment {
    /// The object's key below the store's prefix, `<app>/history/<group>/<first epoch>-<16 hex digits of sha256>.jsonl`.
    /// No other bytes are ever put there.
    pub(crate) object: String,
    /// The first and the last epoch in it.
    pub(crate) first: String,
    /// The last epoch in it.
    pub(crate) last: String,
    /// How many records it holds.
    pub(crate) records: u64,
    /// The digest of its bytes.
    pub(crate) sha256: Sha256,
}

/// `store`: what the last sweep of the artifact store has found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Sweep {
    /// The record's format.
    #[serde(default)]
    pub(crate) format: u32,
    /// Builds with a record and without an object.
    #[serde(default)]
    pub(crate) gone: BTreeSet<ArtifactName>,
    /// When the newest sweep that found something else than the one before has ended.
    pub(crate) at: Option<Timestamp>,
}

impl Sweep {
    /// What is said where the archive of what runs is not in the store.
    #[must_use]
    pub(crate) fn alarm(artifact: &ArtifactName) -> String {
        format!(
            "the archive of {artifact} is not in the store, and it is what runs: a new node could not join; publish the \
             same archive again"
        )
    }
}

/// `seen`: up to where the coordinator has put actions into the history. Indexes of keys as they were read.
///
/// It is written after what it names was read, so it stands above all of it in Consul's log. Where it does not, the keys
/// were brought into another log, and its indexes mean nothing there ([`Seen::is_of_this_log`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Seen {
    /// Of `freeze`.
    #[serde(default)]
    pub(crate) freeze: ModifyIndex,
    /// Whether it froze the group then: an empty key is news only where it did.
    #[serde(default)]
    pub(crate) frozen: bool,
    /// Of `abort`.
    #[serde(default)]
    pub(crate) abort: ModifyIndex,
    /// Of the newest build record.
    #[serde(default)]
    pub(crate) builds: ModifyIndex,
    /// Of the newest bad mark.
    #[serde(default)]
    pub(crate) bad: ModifyIndex,
    /// The builds that were marked bad then: a mark whose key is gone was taken away.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) marked: BTreeSet<ArtifactName>,
    /// Of the newest forgotten node.
    #[serde(default)]
    pub(crate) forgotten: ModifyIndex,
    /// Of the newest `question` that was a repair.
    #[serde(default)]
    pub(crate) question: ModifyIndex,
}

impl Seen {
    /// Whether the key that holds it, which stands at `index`, was written in the log whose indexes it names.
    #[must_use]
    pub(crate) fn is_of_this_log(&self, index: ModifyIndex) -> bool {
        [self.freeze, self.abort, self.builds, self.bad, self.forgotten, self.question].iter().all(|seen| *seen < index)
    }
}

/// `told/<receiver>`: what a receiver of notifications has been told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Told {
    /// The newest request whose beginning was told.
    #[serde(default)]
    pub(crate) begun: Option<Epoch>,
    /// The newest request whose end was told.
    #[serde(default)]
    pub(crate) ended: Option<Epoch>,
    /// The newest action that was told.
    #[serde(default)]
    pub(crate) action: Option<Epoch>,
    /// Troubles that were told and have not ended: the drift of a node, by its name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) troubles: BTreeMap<String, String>,
}
