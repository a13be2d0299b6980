//! What stands in Consul KV, byte for byte.
//!
//! Every record is JSON. Decoding checks; a record that does not decode is nonsense, and nonsense is never acted on
//! (PROTOCOL.md, Fail static). Unknown fields are let through everywhere but in requests, so that an older agent can
//! read what a newer one writes within one `format`.

mod ack;
mod action;
mod attest;
mod barrier;
mod build;
mod forgotten;
mod history;
mod node;
mod question;
mod request;
mod upkeep;

pub use ack::{Ack, Answer, Fault, MAX_OUTPUT_BYTES, MAX_REASON_BYTES, Step, Timings};
pub use action::{Action, ActionKind};
pub use attest::{Attest, Identity, Means};
pub use barrier::{AbsentNodes, Barrier, Phase, Policy, Release};
pub use build::{ArchiveFormat, BadMark, Build, LATEST_BUILDS, Latest, LatestBuild, Run, RunState, Summary};
pub use forgotten::Forgotten;
pub use history::{Current, History, Last, NodeOutcome, Outcome, Running, Status, deploy_id};
pub use node::NodeRecord;
pub use question::{Ask, Finding, MAX_REPLY_BYTES, Mark, Question, Reply};
pub use request::{Abort, Freeze, Request, Selector, Wanted, check_labels, check_size};
pub use upkeep::{Archive, Seen, Segment, Sweep, Told};

use serde::de::DeserializeOwned;
use serde::{Deserialize as _, Deserializer, Serialize};

/// The newest record format that this program writes and reads; nodes publish it, and a deploy does not start while
/// a member speaks an older one.
pub const FORMAT: u32 = 1;

/// A record that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} does not hold a readable record: {problem}")]
pub struct RecordError {
    /// The key, or what stands for it, for example "cutover/shop/production/barrier".
    pub key: String,
    /// What is wrong, with line and column where JSON is.
    pub problem: String,
}

/// What every refusal of a record of a newer format says: the record is fine, and its reader is not.
const UPGRADE: &str = "upgrade this program";

impl RecordError {
    /// Whether the record is only too new for this program.
    #[must_use]
    pub fn is_newer(&self) -> bool {
        is_newer(&self.problem)
    }
}

/// The same of an error that is a text by now.
#[must_use]
pub fn is_newer(problem: &str) -> bool {
    problem.contains(UPGRADE)
}

/// Reads a JSON record.
///
/// # Errors
///
/// [`RecordError`] naming `key`, when `bytes` is not JSON, or not this record.
pub fn decode<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, RecordError> {
    serde_json::from_slice(bytes).map_err(|e| RecordError { key: key.to_owned(), problem: e.to_string() })
}

/// Writes a JSON record, in one line and with fields in their declared order, so that equal records are equal bytes.
///
/// # Panics
///
/// Never for the records of this module: each is made of text, numbers, lists, and maps with text keys.
#[must_use]
pub fn encode<T: Serialize>(record: &T) -> String {
    #[expect(clippy::expect_used, reason = "records hold nothing that JSON cannot write")]
    serde_json::to_string(record).expect("records are plain data")
}

/// A name as a record takes it for `by`: one line, without control characters, and cut. None where nothing is left.
#[must_use]
pub fn label(name: &str) -> Option<String> {
    build::first_line(name, request::MAX_LABEL_BYTES)
}

/// The author of what was written by hand, and does not say.
pub const UNATTRIBUTED: &str = "unattributed";

fn unattributed() -> String {
    UNATTRIBUTED.to_owned()
}

/// Through what it was written then.
fn by_hand() -> String {
    "kv".to_owned()
}

/// The longest author that is read where the record has no limit of its own, in bytes.
const MAX_BY_BYTES: usize = 256;
/// The longest of what it was asked through, in bytes: a word.
const MAX_VIA_BYTES: usize = 32;

/// How a reason is read: anybody may put one of any length by hand, and it goes into the history, into refusals, and into
/// transactions that Consul takes up to a size.
fn short_reason<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(clip(&String::deserialize(deserializer)?, MAX_REASON_BYTES))
}

/// How an author is read; see [`short_reason`].
fn short_by<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(clip(&String::deserialize(deserializer)?, MAX_BY_BYTES))
}

/// How what it was asked through is read; see [`short_reason`].
fn short_via<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(clip(&String::deserialize(deserializer)?, MAX_VIA_BYTES))
}

/// Cuts text to at most `longest` bytes, at a character's edge.
#[must_use]
pub fn clip(text: &str, longest: usize) -> String {
    text.char_indices().take_while(|(at, c)| at + c.len_utf8() <= longest).map(|(_, c)| c).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_anybody_may_put_is_read_up_to_a_length() {
        let long = "\u{e9}".repeat(100_000);
        let more = |more: &str| format!(r#"{{"by":"{long}","via":"{long}","reason":"{long}"{more}}}"#).into_bytes();
        let freeze = Freeze::read(&more("")).unwrap();
        let abort = Abort::parse(&more(r#","epoch":"7""#)).unwrap();
        let mark = BadMark::read(&more("")).unwrap();
        let forgotten = Forgotten::read(&more(""));
        for (by, via, reason) in [
            (freeze.by, freeze.via, freeze.reason),
            (abort.by, abort.via, abort.reason),
            (mark.by, mark.via, mark.reason),
            (forgotten.by, forgotten.via, forgotten.reason),
        ] {
            assert_eq!((by.len(), via.len(), reason.len()), (256, 32, 512));
        }
    }
}
