//! `forgotten/<node>`: an operator says that a node will not come back.
//!
//! The mark holds while the node has no `nodes/` record. A node that comes back has one again, and is waited for as any
//! other; the coordinator removes the mark then.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The mark. Whatever stands in the key marks; what is not this record says nothing of who put it there.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Forgotten {
    /// Who forgot the node.
    #[serde(default = "super::unattributed", deserialize_with = "super::short_by")]
    pub by: String,
    /// Through what.
    #[serde(default = "super::by_hand", deserialize_with = "super::short_via")]
    pub via: String,
    /// Why; may be empty.
    #[serde(default, deserialize_with = "super::short_reason")]
    pub reason: String,
    /// When; none for a mark put by hand.
    #[serde(default)]
    pub at: Option<Timestamp>,
    /// The caller's own mark, for which an agent may vouch; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub id: String,
}

impl Forgotten {
    /// Reads the key. A hand-put text is the reason.
    #[must_use]
    pub fn read(raw: &[u8]) -> Self {
        let text = String::from_utf8_lossy(raw);
        serde_json::from_str(&text).unwrap_or_else(|_| Self {
            by: super::unattributed(),
            via: super::by_hand(),
            reason: super::clip(text.trim(), super::MAX_REASON_BYTES),
            at: None,
            id: String::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_stands_in_the_key_is_a_mark() {
        assert_eq!(Forgotten::read(b"scaled in\n").reason, "scaled in");
        assert_eq!(Forgotten::read(b"{}").by, "unattributed");
        assert_eq!(Forgotten::read(br#"{"by":"ann","via":"cli","reason":"burnt"}"#).by, "ann");
    }
}
