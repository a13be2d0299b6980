//! `question` and `answers/<node>`: what the nodes of a unit are asked besides deploys, and what each says.
//!
//! A question never changes what runs, but for `repair`, which restores what the node's own journal says it runs.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::de::{Deserializer, Error as _, Unexpected};
use serde::{Deserialize, Serialize};

use super::Release;
use crate::protocol::ids::{ArtifactName, Branch, Node, ReleaseName, Sha256};

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Ask {
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
        /// The branch whose tip the build must be, where a branch was asked for: the coordinator's node looks it up at
        /// the repository that only it may know.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        branch: Option<Branch>,
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
    pub(crate) format: u32,
    /// Names it; the answers carry it. At most 128 of `A-Z a-z 0-9 . _ : -`, or the question is not read.
    #[serde(deserialize_with = "plain_id")]
    pub(crate) id: String,
    pub(crate) ask: Ask,
    /// Who says to ask.
    #[serde(deserialize_with = "super::short_by")]
    pub(crate) by: String,
    /// Through what.
    #[serde(deserialize_with = "super::short_via")]
    pub(crate) via: String,
    /// When, by the asker's clock.
    pub(crate) at: Timestamp,
}

/// The longest id of a question, in bytes: every answer repeats it, and the whole fleet answers.
const MAX_ID_BYTES: usize = 128;

/// Anybody who may ask writes the id; a node must be able to repeat it in what [`Reply::encode`] bounds.
fn plain_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let id = String::deserialize(deserializer)?;
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-');
    if id.len() <= MAX_ID_BYTES && id.bytes().all(is_plain) {
        return Ok(id);
    }
    let given = super::clip(&id, MAX_ID_BYTES);
    Err(D::Error::invalid_value(Unexpected::Str(&given), &"an id of at most 128 of A-Z a-z 0-9 . _ : -"))
}

/// How one thing that was looked at stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mark {
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
pub(crate) struct Finding {
    /// What: `store`, `disk`, `linked_files`, ...
    pub(crate) about: String,
    /// How it stands.
    pub(crate) mark: Mark,
    /// In one sentence; at most [`super::MAX_REASON_BYTES`].
    pub(crate) says: String,
    /// How to mend it; empty where nothing is to be mended.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) mend: String,
}

impl Question {
    /// Whether `node` is asked at all.
    #[must_use]
    pub(crate) fn is_for(&self, node: &Node) -> bool {
        match &self.ask {
            Ask::Doctor | Ask::DryRun { .. } => true,
            Ask::Repair { node: asked } => asked == node,
        }
    }
}

impl Finding {
    /// A finding; both texts are cut to [`super::MAX_REASON_BYTES`].
    #[must_use]
    pub(crate) fn new(about: &str, mark: Mark, says: &str) -> Self {
        let says = super::clip(says, super::MAX_REASON_BYTES);
        Self { about: about.to_owned(), mark, says, mend: String::new() }
    }

    /// The same with how to mend it.
    #[must_use]
    pub(crate) fn mend(mut self, how: &str) -> Self {
        self.mend = super::clip(how, super::MAX_REASON_BYTES);
        self
    }
}

/// The longest answer, in bytes of JSON: an asker reads those of the whole fleet at once.
pub(crate) const MAX_REPLY_BYTES: usize = 16 * 1024;

/// A node's answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Reply {
    /// The record's format.
    pub(crate) format: u32,
    /// The question's id.
    pub(crate) id: String,
    /// What it runs now.
    pub(crate) runs: Option<Release>,
    /// What it found.
    pub(crate) findings: Vec<Finding>,
    /// Figures of a dry run: `fetch_bytes`, `unpack_bytes`, `free_bytes`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) figures: BTreeMap<String, u64>,
    /// When, by the node's clock.
    pub(crate) at: Timestamp,
}

impl Reply {
    /// The answer as it is written: at most [`MAX_REPLY_BYTES`], what is in order left out first where it is longer. An
    /// answer to an id that no [`Question`] has may be longer: it has nothing left to leave out.
    #[must_use]
    pub(crate) fn encode(mut self) -> String {
        loop {
            let text = super::encode(&self);
            if text.len() <= MAX_REPLY_BYTES {
                return text;
            }
            let least = self.findings.iter().rposition(|f| matches!(f.mark, Mark::Good | Mark::Note));
            match least.or_else(|| self.findings.len().checked_sub(1)) {
                Some(at) => drop(self.findings.remove(at)),
                None if self.figures.is_empty() => return text,
                None => self.figures.clear(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_never_too_long_and_loses_last_what_is_bad() {
        let finding = |mark| Finding::new("x", mark, &"y".repeat(600));
        let mut findings = vec![finding(Mark::Good); 60];
        findings.push(finding(Mark::Bad));
        let at = Timestamp::UNIX_EPOCH;
        let reply = Reply { format: 1, id: "i".to_owned(), runs: None, findings, figures: BTreeMap::new(), at };
        let text = reply.encode();
        assert!(text.len() <= MAX_REPLY_BYTES, "{}", text.len());
        let read: Reply = super::super::decode("k", text.as_bytes()).unwrap();
        assert!(read.findings.len() > 20 && read.findings.iter().any(|f| f.mark == Mark::Bad));
    }

    #[test]
    fn an_id_that_leaves_no_room_is_not_read_and_ends_no_node() {
        let asked = |id: &str| {
            let text = format!(
                r#"{{"format":1,"id":"{id}","ask":{{"kind":"doctor"}},"by":"a","via":"kv","at":"2026-01-01T00:00:00Z"}}"#
            );
            super::super::decode::<Question>("k", text.as_bytes()).is_ok()
        };
        assert!(asked("0199f0a2-8c31-7f50-9d6e-5a2b1c3d4e5f") && asked(&"i".repeat(128)));
        assert!(!asked(&"i".repeat(129)) && !asked("a b"));
        let (id, at) = ("i".repeat(2 * MAX_REPLY_BYTES), Timestamp::UNIX_EPOCH);
        let figures = [("free_bytes".to_owned(), 1)].into();
        let findings = vec![Finding::new("x", Mark::Bad, "y")];
        let reply = Reply { format: 1, id, runs: None, findings, figures, at };
        assert!(reply.encode().len() > MAX_REPLY_BYTES, "it ends");
    }
}
