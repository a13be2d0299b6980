//! `question` and `answers/<node>`: what the nodes of a unit are asked besides deploys, and what each says.
//!
//! A question never changes what runs, but for `repair`, which restores what the node's own journal says it runs.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Release;
use crate::protocol::ids::{ArtifactName, Node, ReleaseName, Sha256};

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Ask {
    /// Is everything that this node needs in order?
    Doctor,
    /// What would a deploy of this build do here?
    DryRun {
        /// The build.
        artifact: ArtifactName,
        /// Its archive.
        sha256: Sha256,
        /// For a rollback, the release that it would go back to.
        release: Option<ReleaseName>,
    },
    /// Put `current` back to what the node runs by its own journal.
    Repair {
        /// Which node; the others do nothing.
        node: Node,
    },
}

/// The question that stands. A newer one replaces it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Question {
    /// The record's format.
    pub format: u32,
    /// Names it; the answers carry it.
    pub id: String,
    /// What is asked.
    pub ask: Ask,
    /// Who says to ask.
    pub by: String,
    /// Through what.
    pub via: String,
    /// When, by the asker's clock.
    pub at: Timestamp,
}

/// How one thing that was looked at stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mark {
    /// It would fail.
    Bad,
    /// In order.
    Good,
    /// Worth knowing.
    Note,
    /// It works, and somebody should look.
    Warn,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Finding {
    /// What: `store`, `disk`, `linked_files`, ...
    pub about: String,
    /// How it stands.
    pub mark: Mark,
    /// In one sentence; at most [`super::MAX_REASON_BYTES`].
    pub says: String,
    /// How to mend it; empty where nothing is to be mended.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mend: String,
}

/// A node's answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Reply {
    /// The record's format.
    pub format: u32,
    /// The question's id.
    pub id: String,
    /// What it runs now.
    pub runs: Option<Release>,
    /// What it found.
    pub findings: Vec<Finding>,
    /// Figures of a dry run: `fetch_bytes`, `unpack_bytes`, `free_bytes`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub figures: BTreeMap<String, u64>,
    /// When, by the node's clock.
    pub at: Timestamp,
}
