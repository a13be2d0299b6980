//! `question` and `answers/<node>`: a question to the nodes of a unit, and each node's reply.
//!
//! A question never changes the running release. `repair` only restores the release in the node's own journal.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::de::{Deserializer, Error as _, Unexpected};
use serde::{Deserialize, Serialize};

use super::{FileChanges, Release};
use crate::protocol::ids::{ArtifactName, Branch, Node, ReleaseName, Sha256};

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Ask {
    /// Does this node have everything that it needs?
    Doctor,
    /// What would a deploy of this build do on this node?
    DryRun {
        artifact: ArtifactName,
        sha256: Sha256,
        /// For a rollback, its target.
        release: Option<ReleaseName>,
        /// The branch whose tip the build must be, where the caller named a branch. The coordinator's node looks the tip up:
        /// only it may know the repository.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        branch: Option<Branch>,
        /// The same for a tag. With both, whichever exists.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tag: Option<Branch>,
    },
    /// Point `current` back to the release in the node's own journal.
    Repair {
        /// The other nodes do nothing.
        node: Node,
    },
}

/// The current question. A newer one replaces it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Question {
    pub(crate) format: u32,
    /// Each reply repeats it. At most 128 of `A-Z a-z 0-9 . _ : -`, or the question is not read.
    #[serde(deserialize_with = "plain_id")]
    pub(crate) id: String,
    pub(crate) ask: Ask,
    /// The claimed author.
    #[serde(deserialize_with = "super::short_by")]
    pub(crate) by: String,
    #[serde(deserialize_with = "super::short_via")]
    pub(crate) via: String,
    /// By the author's clock.
    pub(crate) at: Timestamp,
}

/// The longest id of a question, in bytes: the whole fleet repeats it.
const MAX_ID_BYTES: usize = 128;

/// The author of a question chooses the id, and it must leave room in a reply, which [`Reply::encode`] bounds.
fn plain_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let id = String::deserialize(deserializer)?;
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-');
    if id.len() <= MAX_ID_BYTES && id.bytes().all(is_plain) {
        return Ok(id);
    }
    let given = super::clip(&id, MAX_ID_BYTES);
    Err(D::Error::invalid_value(Unexpected::Str(&given), &"an id of at most 128 of A-Z a-z 0-9 . _ : -"))
}

/// The result of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mark {
    /// A deploy would fail.
    Bad,
    Good,
    /// For information.
    Note,
    /// It works, but a person should look at it.
    Warn,
}

/// One check of a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Finding {
    /// For example `store`, `disk`, `linked_files`.
    pub(crate) about: String,
    pub(crate) mark: Mark,
    /// One sentence.
    #[schemars(length(max = super::MAX_REASON_BYTES))]
    pub(crate) says: String,
    /// How to fix it; may be empty.
    #[serde(rename = "mend", default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = super::MAX_REASON_BYTES))]
    pub(crate) remedy: String,
}

impl Question {
    #[must_use]
    pub(crate) fn is_for(&self, node: &Node) -> bool {
        match &self.ask {
            Ask::Doctor | Ask::DryRun { .. } => true,
            Ask::Repair { node: asked } => asked == node,
        }
    }
}

impl Finding {
    /// `says` is cut to [`super::MAX_REASON_BYTES`].
    #[must_use]
    pub(crate) fn new(about: &str, mark: Mark, says: &str) -> Self {
        let says = super::clip(says, super::MAX_REASON_BYTES);
        Self { about: about.to_owned(), mark, says, remedy: String::new() }
    }

    /// The same finding with a remedy, cut to the same length.
    #[must_use]
    pub(crate) fn remedy(mut self, how: &str) -> Self {
        self.remedy = super::clip(how, super::MAX_REASON_BYTES);
        self
    }
}

/// The longest reply, in bytes of JSON: a caller reads the replies of the whole fleet at once.
pub(crate) const MAX_REPLY_BYTES: usize = 16 * 1024;

/// A node's reply to a question.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Reply {
    pub(crate) format: u32,
    /// The question's id.
    pub(crate) id: String,
    /// The release that the node runs now.
    pub(crate) runs: Option<Release>,
    pub(crate) findings: Vec<Finding>,
    /// Figures of a dry run: `fetch_bytes`, `unpack_bytes`, `free_bytes`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) figures: BTreeMap<String, u64>,
    /// Files that a deploy would change, by the coordinator's node; none from the others, and where they are not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) files: Option<FileChanges>,
    /// By the node's clock.
    pub(crate) at: Timestamp,
}

impl Reply {
    /// The reply as it is written: at most [`MAX_REPLY_BYTES`]. From a longer one, the files are left out first, then the
    /// good findings. Only with an id that no [`Question`] can have may it stay longer: then nothing is left to leave out.
    #[must_use]
    pub(crate) fn encode(mut self) -> String {
        loop {
            let text = super::encode(&self);
            if text.len() <= MAX_REPLY_BYTES {
                return text;
            }
            if self.files.take().is_some() {
                continue;
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
    use super::super::FileList;
    use super::*;

    fn long_files() -> FileChanges {
        let list = || FileList { count: 9, list: vec!["x".repeat(4096); 9] };
        FileChanges { added: list(), removed: list(), changed: list() }
    }

    #[test]
    fn a_reply_is_never_too_long_and_loses_bad_findings_last() {
        let finding = |mark| Finding::new("x", mark, &"y".repeat(600));
        let mut findings = vec![finding(Mark::Good); 60];
        findings.push(finding(Mark::Bad));
        let at = Timestamp::UNIX_EPOCH;
        let files = Some(long_files());
        let reply = Reply { format: 1, id: "i".to_owned(), runs: None, findings, figures: BTreeMap::new(), files, at };
        let text = reply.encode();
        assert!(text.len() <= MAX_REPLY_BYTES, "{}", text.len());
        let read: Reply = super::super::decode("k", text.as_bytes()).unwrap();
        assert!(read.findings.len() > 20 && read.findings.iter().any(|f| f.mark == Mark::Bad));
    }

    #[test]
    fn an_id_that_is_too_long_is_refused_and_never_hangs_a_reply() {
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
        let reply = Reply { format: 1, id, runs: None, findings, figures, files: Some(long_files()), at };
        assert!(reply.encode().len() > MAX_REPLY_BYTES, "it ends");
    }
}
