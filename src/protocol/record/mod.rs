//! The records in Consul KV, byte for byte.
//!
//! Every record is JSON. Decoding reads `format` first and alone, to tell the record of a newer program from a damaged
//! one. No program acts on a record that does not decode (PROTOCOL.md, Fail static). Unknown fields are ignored
//! everywhere but in requests, so that an older agent reads the records of a newer one within one `format`.

mod ack;
mod action;
mod attest;
mod author;
mod barrier;
mod build;
mod changes;
mod forgotten;
mod history;
mod node;
mod question;
mod request;
mod signature;
mod summary;
mod upkeep;

pub(crate) use ack::MAX_OUTPUT_BYTES;

pub use ack::Fault;

pub use ack::MAX_REASON_BYTES;

pub use ack::Ack;

pub use ack::Answer;

pub use ack::Step;

pub use ack::Timings;
pub use action::Action;
pub(crate) use action::ActionKind;
pub use attest::Attestation;
pub use attest::Identity;
pub use attest::Means;
pub(crate) use author::{Author, BY_HAND, UNATTRIBUTED};
pub use barrier::Barrier;
pub use barrier::Release;
pub(crate) use barrier::{AbsentNodes, Phase, Policy, RunningPhase, SettledPhase, Stage};
pub use build::ArchiveFormat;
pub use build::BadMark;
pub use build::Build;
#[cfg(test)]
pub(crate) use build::LATEST_BUILDS;
pub use build::Latest;
pub(crate) use build::MAX_ANCESTORS;
pub use build::Place;
pub use build::Run;
pub use build::RunState;
pub use changes::{
    Base, Changes, CommitLine, CommitList, Commits, FileChanges, FileCounts, FileList, ManifestDigest, Since,
};
pub(crate) use changes::{MAX_COMMITS, MAX_REMOVED};
pub use forgotten::Forgotten;
pub use history::History;
pub use history::Last;
pub use history::NodeOutcome;
pub use history::Outcome;
pub use history::Status;
pub(crate) use history::{Current, Running, deploy_id};
pub use node::Fetching;
pub use node::NodeRecord;
pub use node::Refusal;
pub use node::RefusedBuild;
pub use node::Unremovable;
pub(crate) use node::{MAX_REFUSED, MAX_UNREMOVABLE};
pub use question::Question;
pub use question::Reply;
pub(crate) use question::{Ask, Finding, Mark};
pub use request::Abort;
pub use request::Freeze;
pub use request::Request;
pub(crate) use request::{InvalidRequest, MAX_LABEL_BYTES, Selector, Wanted, check_labels, check_size};
pub use signature::Signature;
pub(crate) use signature::{before_signature, with_signature};
pub use summary::Summary;
pub use upkeep::ActionCursor;
pub use upkeep::Archive;
pub use upkeep::Damage;
pub use upkeep::ReceiverCursor;
pub use upkeep::Segment;
pub use upkeep::Sweep;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use author::{MAX_BY_BYTES, short_by, short_via};

use crate::kind::HasKind;

/// The newest record format that this program reads and writes. Nodes publish it, and no deploy starts while a member
/// speaks an older one.
pub(crate) const FORMAT: u32 = 1;

/// A record that this program cannot read.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub enum RecordError {
    /// A newer program wrote the record. The record is fine: this program is too old for it, and must not overwrite it.
    #[error("{key} has format {found}, newer than format {readable}, the newest that this program reads")]
    Newer {
        /// The key, for example "cutover/shop/production/barrier"; of a file, its path.
        key: String,
        /// The record's format.
        found: u64,
        /// The newest format that this program reads.
        readable: u32,
    },
    /// The bytes are not this record.
    #[error("{key} does not hold a readable record: {problem}")]
    Malformed {
        /// The key; of a file, its path.
        key: String,
        /// What is wrong; for bad JSON, with line and column.
        problem: String,
    },
}

impl RecordError {
    #[must_use]
    pub(crate) fn key(&self) -> &str {
        match self {
            Self::Newer { key, .. } | Self::Malformed { key, .. } => key,
        }
    }

    #[must_use]
    pub(crate) const fn is_newer(&self) -> bool {
        matches!(self, Self::Newer { .. })
    }

    /// The message without the key.
    #[must_use]
    pub(crate) fn problem(&self) -> String {
        match self {
            Self::Newer { found, readable, .. } => {
                format!("it has format {found}, newer than format {readable}, the newest that this program reads")
            }
            Self::Malformed { problem, .. } => problem.clone(),
        }
    }
}

impl HasKind for RecordError {
    fn kind(&self) -> &'static str {
        match self {
            Self::Newer { .. } => "newer",
            Self::Malformed { .. } => "malformed",
        }
    }
}

/// The mark that some editors and PowerShell put in front of UTF-8 text. `trim` leaves it.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// Text that a person put into a key, without blanks and byte order marks around it.
fn plain_text(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || c == BYTE_ORDER_MARK)
}

/// Whether a value that people write contains nothing.
#[must_use]
pub(crate) fn is_blank(value: &[u8]) -> bool {
    plain_text(&String::from_utf8_lossy(value)).is_empty()
}

/// `format` alone. Every other field may have any shape, since a newer program may have written it.
#[derive(Deserialize)]
struct FormatOnly {
    #[serde(default)]
    format: serde_json::Value,
}

/// The number in `format`. None where there is none: text that was put by hand, a list, or a build record, whose
/// `format` is the archive's.
fn format_of(bytes: &[u8]) -> Option<u64> {
    // serde would read a list as the fields in their order, so only an object may reach it.
    let is_object = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    serde_json::from_slice::<FormatOnly>(bytes).ok().filter(|_| is_object)?.format.as_u64()
}

/// Refuses a record whose format is newer than `readable`, whatever its other fields.
///
/// # Errors
///
/// [`RecordError::Newer`].
pub fn check_format(key: &str, bytes: &[u8], readable: u32) -> Result<(), RecordError> {
    match format_of(bytes) {
        Some(found) if found > u64::from(readable) => Err(RecordError::Newer { key: key.to_owned(), found, readable }),
        Some(_) | None => Ok(()),
    }
}

/// The names of the nodes whose agents are newer than this program, from the entries of `nodes/`, each a node's name
/// and its record.
#[must_use]
pub fn newer_agents<'a>(nodes: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Vec<String> {
    let is_newer = |record: &[u8]| format_of(record).is_some_and(|format| format > u64::from(FORMAT));
    nodes.into_iter().filter(|(_, record)| is_newer(record)).map(|(node, _)| node.to_owned()).collect()
}

/// The hint that goes with a newer record: which agents are newer, and what to upgrade.
#[must_use]
pub(crate) fn upgrade_hint(newer_agents: &[String]) -> String {
    if newer_agents.is_empty() {
        return "upgrade this program; no node's agent is newer, so a newer command or a person wrote the record"
            .to_owned();
    }
    format!("upgrade this program to the version of these nodes' agents: {}", newer_agents.join(", "))
}

/// Reads a JSON record; its `format` first and alone.
///
/// # Errors
///
/// [`RecordError`] naming `key`, when `bytes` is of a newer format, not JSON, or not this record.
pub fn decode<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, RecordError> {
    check_format(key, bytes, FORMAT)?;
    serde_json::from_slice(bytes).map_err(|e| RecordError::Malformed { key: key.to_owned(), problem: e.to_string() })
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

/// A name in the form of `by`: one line, without control characters, and cut to its limit. None where nothing is left.
#[must_use]
pub(crate) fn label(name: &str) -> Option<String> {
    summary::first_line(name, MAX_LABEL_BYTES)
}

/// Cuts text to at most `longest` bytes, between characters.
#[must_use]
pub(crate) fn clip(text: &str, longest: usize) -> String {
    text.char_indices().take_while(|(at, c)| at + c.len_utf8() <= longest).map(|(_, c)| c).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record that a newer program might write: its format, an unknown phase, and fields of another shape.
    const NEWER: &[u8] = br#"{"phase":"canary","format":2,"epoch":{"of":[1,2]},"era":"first","node":["n1"],"unit":{},
        "app":7,"state":"paused","ask":{"kind":"weather"},"id":{"v":7},"answer":{"kind":"maybe"},"artifact":9,
        "builds":{"by":"branch"},"segments":"none","gone":"none","at":[2026],"key":false,"begun":"never"}"#;

    fn refusal<T: DeserializeOwned>(record: &str) -> (String, Result<(), RecordError>) {
        (record.to_owned(), decode::<T>(record, NEWER).map(|_| ()))
    }

    #[test]
    fn every_record_of_a_newer_format_is_newer_and_never_malformed() {
        use crate::protocol::ids::Node;
        let all = [
            refusal::<Ack>("acks/n1"),
            refusal::<Action>("actions/7"),
            refusal::<Archive>("archive"),
            refusal::<Attestation>("attests/n1/7"),
            refusal::<BadMark>("bad/a-1"),
            refusal::<Barrier>("barrier"),
            refusal::<Build>("builds/a-1"),
            refusal::<Freeze>("freeze"),
            refusal::<Forgotten>("forgotten/n1"),
            refusal::<History>("history/7"),
            refusal::<Latest>("latest"),
            refusal::<NodeRecord>("nodes/n1"),
            refusal::<Question>("question"),
            refusal::<Reply>("answers/n1"),
            refusal::<Run>("runs/a-1"),
            refusal::<ActionCursor>("seen"),
            refusal::<Status>("status"),
            refusal::<Sweep>("store"),
            refusal::<ReceiverCursor>("told/chat"),
            refusal::<Vec<Node>>("members/7"),
        ];
        for (key, read) in all {
            assert_eq!(read, Err(RecordError::Newer { key, found: 2, readable: FORMAT }));
        }
    }

    #[test]
    fn a_record_without_a_format_number_counts_as_this_format() {
        for raw in [
            &br#"{"format":"tar.gz","artifact":"a-1"}"#[..],
            br#"{"format":1,"phase":"canary"}"#,
            br#"[{"format":2}]"#,
            br#"{"policy":{"format":2}}"#,
            b"db migration, format 2",
            b"",
        ] {
            assert_eq!(check_format("k", raw, FORMAT), Ok(()), "{:?}", String::from_utf8_lossy(raw));
        }
    }

    #[test]
    fn newer_agents_are_named_by_the_format_alone() {
        let old: &[u8] = br#"{"format":1,"node":"n1"}"#;
        let nodes = [("n1", old), ("n2", NEWER), ("n3", &b"rubbish"[..])];
        assert_eq!(newer_agents(nodes), ["n2"]);
        assert!(upgrade_hint(&newer_agents(nodes)).ends_with("these nodes' agents: n2"));
    }

    #[test]
    fn authors_that_are_put_by_hand_are_cut_when_they_are_read() {
        let long = "\u{e9}".repeat(100_000);
        let more = |more: &str| format!(r#"{{"by":"{long}","via":"{long}","reason":"{long}"{more}}}"#).into_bytes();
        let freeze = Freeze::read(&more("")).unwrap();
        let abort = Abort::parse(&more(r#","epoch":"7""#)).unwrap();
        let mark = BadMark::read(&more("")).unwrap();
        let forgotten = Forgotten::read(&more(""));
        for Author { by, via, reason, .. } in [freeze.author, abort.author, mark.author, forgotten.author] {
            assert_eq!((by.len(), via.len(), reason.len()), (256, 32, 512));
        }
    }
}
