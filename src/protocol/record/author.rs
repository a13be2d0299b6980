//! The author of a request or mark: the same fields in every record, body and form.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::clip;

/// `by` of a record that names no author, as one that was written by hand.
pub(crate) const UNATTRIBUTED: &str = "unattributed";
/// `via` of a record that was written by hand.
pub(crate) const BY_HAND: &str = "kv";

/// The longest author that is read where the record has no limit of its own, in bytes.
pub(super) const MAX_BY_BYTES: usize = 256;
/// The longest `via`, in bytes: one word.
const MAX_VIA_BYTES: usize = 32;

/// Who asked, through what, and why: a claim, unless an agent attests it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Author {
    /// The claimed name.
    #[serde(default = "unattributed", deserialize_with = "short_by")]
    pub by: String,
    /// `kv`, `cli`, `api`, `ui`, `chat` or `ci`.
    #[serde(default = "by_hand", skip_serializing_if = "is_by_hand", deserialize_with = "short_via")]
    pub via: String,
    /// May be empty.
    #[serde(default, deserialize_with = "short_reason")]
    pub reason: String,
    /// The caller's own mark, by which the record and its attestation are found again; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) id: String,
}

impl Author {
    /// The author of a record that was written by hand: unnamed, with the text as the reason.
    #[must_use]
    pub(crate) fn by_hand(reason: &str) -> Self {
        let reason = clip(reason.trim(), super::MAX_REASON_BYTES);
        Self { by: unattributed(), via: by_hand(), reason, id: String::new() }
    }

    #[must_use]
    pub(crate) fn is_named(&self) -> bool {
        self.by != UNATTRIBUTED
    }
}

/// [`Author`] in a record whose reason stands under `why`, since the record's `reason` would be that of its outcome.
pub(super) mod with_why {
    use schemars::JsonSchema;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Author;

    #[derive(Serialize, Deserialize, JsonSchema)]
    pub(in super::super) struct Wire {
        /// The claimed author.
        by: String,
        /// `kv`, `cli`, `api`, `ui`, `chat` or `ci`.
        via: String,
        /// The author's reason; may be empty.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        why: String,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        id: String,
    }

    pub(in super::super) fn serialize<S: Serializer>(author: &Author, serializer: S) -> Result<S::Ok, S::Error> {
        let Author { by, via, reason, id } = author.clone();
        Wire { by, via, why: reason, id }.serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Author, D::Error> {
        let Wire { by, via, why, id } = Wire::deserialize(deserializer)?;
        Ok(Author { by, via, reason: why, id })
    }
}

pub(super) fn unattributed() -> String {
    UNATTRIBUTED.to_owned()
}

pub(super) fn by_hand() -> String {
    BY_HAND.to_owned()
}

fn is_by_hand(via: &str) -> bool {
    via == BY_HAND
}

/// A reason that is put by hand may have any length, and goes into the history, into refusals and into transactions,
/// whose size Consul limits.
pub(super) fn short_reason<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(clip(&String::deserialize(deserializer)?, super::MAX_REASON_BYTES))
}

pub(super) fn short_by<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(clip(&String::deserialize(deserializer)?, MAX_BY_BYTES))
}

pub(super) fn short_via<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(clip(&String::deserialize(deserializer)?, MAX_VIA_BYTES))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::{Abort, BadMark, Forgotten, Freeze, Request, encode};
    use super::*;

    /// Reads recorded JSON and writes it again: the same fields with the same values.
    fn is_unchanged(recorded: &str, written: &str) {
        let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(json(written), json(recorded));
    }

    #[test]
    fn records_of_people_are_written_as_they_were_before_they_shared_an_author() {
        for freeze in [
            r#"{"by":"ann","via":"cli","reason":"sale weekend","until":"2026-11-27T13:53:40Z","at":"2026-11-25T13:53:40Z","id":"7"}"#,
            r#"{"by":"ann","reason":"","until":null,"at":null}"#,
            r#"{"by":"ann","via":"ui","reason":"over","until":null,"at":"2026-11-25T13:53:40Z","lifted":true}"#,
        ] {
            is_unchanged(freeze, &encode(&Freeze::read(freeze.as_bytes()).unwrap()));
        }
        for mark in [
            r#"{"by":"ann","reason":"leaks","at":null}"#,
            r#"{"by":"ann","via":"api","reason":"leaks","at":"2026-11-25T13:53:40Z","id":"7","lifted":true}"#,
        ] {
            is_unchanged(mark, &encode(&BadMark::read(mark.as_bytes()).unwrap()));
        }
        let forgotten = r#"{"by":"ann","via":"cli","reason":"burnt","at":"2026-11-25T13:53:40Z","id":"7"}"#;
        is_unchanged(forgotten, &encode(&Forgotten::read(forgotten.as_bytes())));
        let abort = r#"{"epoch":"1.512","by":"ann","via":"cli","reason":"wrong build","id":"7"}"#;
        is_unchanged(abort, &encode(&Abort::parse(abort.as_bytes()).unwrap()));
        let request = r#"{"ref":"master","by":"ann","via":"cli","reason":"fix","id":"7","force":true}"#;
        is_unchanged(request, &Request::parse(request.as_bytes()).unwrap().encode());
    }

    #[test]
    fn a_record_without_an_author_counts_as_written_by_hand() {
        let by_hand = Author::by_hand("");
        assert!(!by_hand.is_named());
        assert_eq!((by_hand.by.as_str(), by_hand.via.as_str()), (UNATTRIBUTED, BY_HAND));
        assert_eq!(Freeze::read(b"{}").unwrap().author, by_hand);
        assert_eq!(BadMark::read(b"{}").unwrap().author, by_hand);
        assert_eq!(Forgotten::read(b"{}").author, by_hand);
        assert_eq!(Abort::parse(br#"{"epoch":"7"}"#).unwrap().author, by_hand);
        assert_eq!(Request::parse(b"master").unwrap().author, by_hand);
        assert_eq!(Request::parse(br#"{"ref":"master"}"#).unwrap().author, by_hand);
    }
}
