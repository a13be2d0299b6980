//! `forgotten/<node>`: an operator's mark that a node will not come back.
//!
//! The mark holds while the node has no `nodes/` record. A node that comes back has one again, and counts as any other
//! node; the coordinator then removes the mark.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Author;

/// The mark. Any value of the key marks the node; a value that is not this record names no author.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Forgotten {
    /// Who forgot the node, and why.
    #[serde(flatten)]
    pub(crate) author: Author,
    /// None for a mark that was put by hand.
    #[serde(default)]
    pub(crate) at: Option<Timestamp>,
}

impl Forgotten {
    /// Reads the key. Text that was put by hand is the reason.
    #[must_use]
    pub(crate) fn read(raw: &[u8]) -> Self {
        let text = String::from_utf8_lossy(raw);
        let text = super::plain_text(&text);
        serde_json::from_str(text).unwrap_or_else(|_| Self { author: Author::by_hand(text), at: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_value_of_the_key_is_a_mark() {
        assert_eq!(Forgotten::read(b"scaled in\n").author.reason, "scaled in");
        assert_eq!(Forgotten::read(b"{}").author.by, "unattributed");
        assert_eq!(Forgotten::read(br#"{"by":"ann","via":"cli","reason":"burnt"}"#).author.by, "ann");
    }
}
