//! Keys that the coordinator keeps beside the barrier: the archive of the history, missing and damaged builds in the store, and the
//! cursors of actions and notifications.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::protocol::ids::{ArtifactName, Epoch, ModifyIndex, Sha256};

/// `archive`: the index of archived history.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Archive {
    #[serde(default)]
    pub(crate) format: u32,
    /// Every segment that was written and read back, oldest first.
    #[serde(default)]
    pub(crate) segments: Vec<Segment>,
}

/// One object of archived history: JSON lines, each a history or action record, by epoch.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Segment {
    /// The object's key below the store's prefix, `<app>/history/<group>/<first epoch>-<16 hex digits of sha256>.jsonl`.
    /// The name holds the digest, so no other bytes are ever put there.
    pub(crate) object: String,
    pub(crate) first: String,
    pub(crate) last: String,
    pub(crate) records: u64,
    /// The digest of the object's bytes.
    pub(crate) sha256: Sha256,
}

/// `store`: the result of the last sweep of the artifact store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Sweep {
    #[serde(default)]
    pub(crate) format: u32,
    /// Builds that have a record but no object.
    #[serde(default)]
    pub(crate) gone: BTreeSet<ArtifactName>,
    /// Builds whose object is not the archive that the record describes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) damaged: BTreeMap<ArtifactName, Damage>,
    /// The end of the last sweep whose result differed from the one before.
    pub(crate) at: Option<Timestamp>,
}

impl Sweep {
    /// The alarm where the running build's archive is missing from the store, or damaged there.
    #[must_use]
    pub(crate) fn alarm(&self, artifact: &ArtifactName) -> Option<String> {
        let problem = match self.damaged.get(artifact) {
            Some(damage) => format!("is {} in the store", damage.as_str()),
            None if self.gone.contains(artifact) => "is not in the store".to_owned(),
            None => return None,
        };
        Some(format!(
            "the archive of {artifact} {problem}, and it is what runs: a new node could not join; publish the same archive \
             again"
        ))
    }
}

/// How an object differs from the archive that the build record describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Damage {
    /// It has fewer bytes.
    Cut,
    /// It has other bytes.
    Altered,
}

impl Damage {
    /// The word, the same as in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cut => "cut",
            Self::Altered => "altered",
        }
    }
}

/// `seen`: the coordinator's cursor of recorded actions: for each key, the index up to which its actions are recorded.
///
/// The cursor is written after the keys that it names, so its own index is above theirs. Where it is not, the keys were
/// copied into another Consul log, and the indexes mean nothing there ([`ActionCursor::is_of_this_log`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ActionCursor {
    #[serde(default)]
    pub(crate) freeze: ModifyIndex,
    /// Whether the group was frozen then: only in that case is an emptied key an action.
    #[serde(default)]
    pub(crate) frozen: bool,
    #[serde(default)]
    pub(crate) abort: ModifyIndex,
    /// The newest build record.
    #[serde(default)]
    pub(crate) builds: ModifyIndex,
    /// The newest bad mark.
    #[serde(default)]
    pub(crate) bad: ModifyIndex,
    /// The builds that were marked bad then: where the key is gone, the mark was removed.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) marked: BTreeSet<ArtifactName>,
    /// The newest mark of a forgotten node.
    #[serde(default)]
    pub(crate) forgotten: ModifyIndex,
    /// The newest `question` that was a repair.
    #[serde(default)]
    pub(crate) question: ModifyIndex,
}

impl ActionCursor {
    /// Whether the cursor belongs to this Consul log; `index` is the cursor's own.
    #[must_use]
    pub(crate) fn is_of_this_log(&self, index: ModifyIndex) -> bool {
        [self.freeze, self.abort, self.builds, self.bad, self.forgotten, self.question].iter().all(|seen| *seen < index)
    }
}

/// `told/<receiver>`: the cursor of a receiver of notifications.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ReceiverCursor {
    /// The newest request whose start was notified.
    #[serde(default)]
    pub(crate) begun: Option<Epoch>,
    /// The newest request whose end was notified.
    #[serde(default)]
    pub(crate) ended: Option<Epoch>,
    /// The newest action that was notified.
    #[serde(default)]
    pub(crate) action: Option<Epoch>,
    /// Problems that were notified and have not ended: the drift of a node, by the node's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) troubles: BTreeMap<String, String>,
}
