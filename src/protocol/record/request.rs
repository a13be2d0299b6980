//! `deploy`, `freeze` and `abort`: the keys that people write, by hand or through a program.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::author::{Author, by_hand, unattributed};
use crate::kind::HasKind;
use crate::protocol::git_ref::GitRef;
use crate::protocol::ids::{ArtifactName, Branch, Commit, Epoch, InvalidName, Time};

/// The longest request that is read, in bytes: enough for a reason, too little to bloat the history.
const MAX_REQUEST_BYTES: usize = 4096;
/// The longest `by`, `via`, `id` in bytes.
pub(crate) const MAX_LABEL_BYTES: usize = 128;

/// Why a request, or a part of it, is refused: one sentence that says what is allowed. It stands in `status` and history.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{reason}")]
pub struct InvalidRequest {
    reason: String,
}

impl HasKind for InvalidRequest {
    fn kind(&self) -> &'static str {
        "invalid_request"
    }
}

impl From<String> for InvalidRequest {
    fn from(reason: String) -> Self {
        Self { reason }
    }
}

impl From<InvalidName> for InvalidRequest {
    fn from(invalid: InvalidName) -> Self {
        Self { reason: invalid.to_string() }
    }
}

/// How a request names a build.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Selector {
    /// `master`: an exact build record, else a branch or a tag.
    Any(String),
    /// `artifact:…`: exactly this build.
    Artifact(ArtifactName),
    /// `branch:…`: the branch's current ref.
    Branch(Branch),
    /// `commit:…`: the build of this commit, 7 to 64 hex digits of it.
    Commit(String),
    /// `tag:…`: the build of this tag.
    Tag(Branch),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Wanted {
    /// A deploy of this build.
    Deploy(Selector),
    /// A rollback to this artifact, or to the newest earlier release that was done.
    Rollback(Option<ArtifactName>),
}

/// A deploy request, checked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    pub(crate) wanted: Wanted,
    /// Who asks, and why.
    pub author: Author,
    /// Overrides a freeze, a bad mark, and a newer run without a build.
    pub(crate) force: bool,
    /// Makes a new release of a build that runs already.
    pub(crate) again: bool,
}

/// The JSON form.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    reference: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    rollback: bool,
    #[serde(default = "unattributed")]
    by: String,
    #[serde(default = "by_hand")]
    via: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    reason: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    id: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    force: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    again: bool,
}

impl Selector {
    /// Reads `master`, `branch:…`, `tag:…`, `commit:…`, `artifact:…`, git's full names `refs/heads/…` and `refs/tags/…`,
    /// and a full commit.
    ///
    /// # Errors
    ///
    /// One sentence that says what is wrong and what is allowed.
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidRequest> {
        let text = text.trim();
        if let Some(name) = text.strip_prefix("branch:") {
            return Ok(match name.parse()? {
                GitRef::Branch(branch) => Self::Branch(branch),
                GitRef::Tag(tag) => Self::Tag(tag),
            });
        }
        if let Some(tag) = text.strip_prefix("tag:").or_else(|| text.strip_prefix("refs/tags/")) {
            let full = format!("refs/tags/{}", tag.strip_prefix("refs/tags/").unwrap_or(tag));
            return Ok(Self::Tag(full.parse::<GitRef>()?.name().clone()));
        }
        if text.starts_with("refs/heads/") {
            return Ok(Self::Branch(text.parse()?));
        }
        if let Some(artifact) = text.strip_prefix("artifact:") {
            return Ok(Self::Artifact(artifact.parse()?));
        }
        if let Some(commit) = text.strip_prefix("commit:") {
            let hex = commit.to_ascii_lowercase();
            let well_formed = (7..=64).contains(&hex.len()) && hex.bytes().all(|b| b.is_ascii_hexdigit());
            return if well_formed {
                Ok(Self::Commit(hex))
            } else {
                Err(format!("commit {commit:?} is not 7 to 64 hex digits").into())
            };
        }
        // No artifact and hardly any branch is called like a full commit. git refuses to make such a branch.
        let lower = text.to_ascii_lowercase();
        if lower.parse::<Commit>().is_ok() {
            return Ok(Self::Commit(lower));
        }
        // Every artifact name is also a well-formed branch, so text that is no branch is no artifact either.
        let named: GitRef = text.parse().map_err(|e: InvalidName| {
            format!("{e}; a request is a branch, a tag, an artifact, branch:…, tag:…, commit:…, artifact:…, or the JSON form")
        })?;
        Ok(Self::Any(named.name().as_str().to_owned()))
    }
}

impl std::fmt::Display for Selector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Any(text) => f.write_str(text),
            Self::Artifact(artifact) => write!(f, "artifact:{artifact}"),
            Self::Branch(branch) => write!(f, "branch:{branch}"),
            Self::Commit(commit) => write!(f, "commit:{commit}"),
            Self::Tag(tag) => write!(f, "tag:{tag}"),
        }
    }
}

impl Wanted {
    /// Reads the field `ref` of a request without `rollback`.
    ///
    /// # Errors
    ///
    /// One sentence that says what is wrong and what is allowed.
    pub(crate) fn deploy(reference: Option<&str>) -> Result<Self, InvalidRequest> {
        let neither = || InvalidRequest::from("the request names neither \"ref\" nor \"rollback\"".to_owned());
        Ok(Self::Deploy(Selector::parse(reference.ok_or_else(neither)?)?))
    }

    /// Reads the field `ref` of a request with `rollback`: the release to return to; none: the previous one.
    ///
    /// # Errors
    ///
    /// One sentence that says what is wrong and what is allowed.
    pub(crate) fn rollback(reference: Option<&str>) -> Result<Self, InvalidRequest> {
        let artifact = |reference: &str| {
            let name = reference.trim();
            name.strip_prefix("artifact:").unwrap_or(name).parse()
        };
        Ok(Self::Rollback(reference.map(artifact).transpose()?))
    }
}

/// Refuses a request, freeze, abort or mark that is too long to be written.
///
/// # Errors
///
/// One sentence with its length and the limit.
pub(crate) fn check_size(written: &[u8]) -> Result<(), InvalidRequest> {
    if written.len() > MAX_REQUEST_BYTES {
        return Err(format!("the request is {} bytes long; at most {MAX_REQUEST_BYTES} are read", written.len()).into());
    }
    Ok(())
}

/// Refuses a field that cannot stand in a record; each label is a field's name and its text.
///
/// # Errors
///
/// One sentence that names the field.
pub(crate) fn check_labels<const N: usize>(labels: [(&str, &str); N]) -> Result<(), InvalidRequest> {
    let fits = |text: &str| text.len() <= MAX_LABEL_BYTES && !text.chars().any(char::is_control);
    match labels.into_iter().find(|(_, text)| !fits(text)) {
        Some((name, _)) => {
            Err(format!("the request's {name:?} is over {MAX_LABEL_BYTES} bytes or holds a control character").into())
        }
        None => Ok(()),
    }
}

impl Request {
    #[must_use]
    pub(crate) const fn is_rollback(&self) -> bool {
        matches!(self.wanted, Wanted::Rollback(_))
    }

    /// Reads a request as it stands in the key: a plain reference, or the JSON form.
    ///
    /// # Errors
    ///
    /// One sentence that says what is wrong and what is allowed. It stands in `status` and history.
    pub fn parse(raw: &[u8]) -> Result<Self, InvalidRequest> {
        check_size(raw)?;
        let text = std::str::from_utf8(raw).map_err(|_| "the request is not UTF-8 text".to_owned())?;
        let text = super::plain_text(text);
        if !text.starts_with('{') {
            let wanted = Wanted::Deploy(Selector::parse(text)?);
            return Ok(Self { wanted, author: Author::by_hand(""), force: false, again: false });
        }
        let wire: Wire =
            serde_json::from_str(text).map_err(|e| format!("the request's JSON is not understood: {e}"))?;
        let reference = wire.reference.as_deref();
        let wanted = if wire.rollback { Wanted::rollback(reference) } else { Wanted::deploy(reference) }?;
        check_labels([("by", &wire.by), ("via", &wire.via), ("id", &wire.id)])?;
        let Wire { by, via, reason, id, force, again, .. } = wire;
        let by = if by.trim().is_empty() { unattributed() } else { by };
        Ok(Self { wanted, author: Author { by, via, reason, id }, force, again })
    }

    /// The JSON form, which [`Request::parse`] reads back.
    #[must_use]
    pub fn encode(&self) -> String {
        let (reference, rollback) = match &self.wanted {
            Wanted::Deploy(selector) => (Some(selector.to_string()), false),
            Wanted::Rollback(artifact) => (artifact.as_ref().map(ToString::to_string), true),
        };
        super::encode(&Wire {
            reference,
            rollback,
            by: self.author.by.clone(),
            via: self.author.via.clone(),
            reason: self.author.reason.clone(),
            id: self.author.id.clone(),
            force: self.force,
            again: self.again,
        })
    }
}

/// `freeze`: new deploys are refused. Rollbacks are allowed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Freeze {
    /// Who froze the group, or lifted the freeze, and why.
    #[serde(flatten)]
    pub(crate) author: Author,
    /// None: until somebody unfreezes the group.
    #[serde(default)]
    #[schemars(with = "Option<Time>")]
    pub(crate) until: Option<Timestamp>,
    #[serde(default)]
    #[schemars(with = "Option<Time>")]
    pub(crate) at: Option<Timestamp>,
    /// Whether this lifts the freeze: as an empty key, but with an author.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) lifted: bool,
}

impl Freeze {
    /// Reads the key. Empty, blank or lifted: not frozen. Any other text that is not the record is a reason that was put by
    /// hand.
    #[must_use]
    pub(crate) fn parse(raw: &[u8]) -> Option<Self> {
        Self::read(raw).filter(|freeze| !freeze.lifted)
    }

    /// Reads the key, also a lifted freeze; none: empty.
    #[must_use]
    pub(crate) fn read(raw: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(raw);
        let text = super::plain_text(&text);
        if text.is_empty() {
            return None;
        }
        Some(serde_json::from_str(text).unwrap_or_else(|_| Self {
            author: Author::by_hand(text),
            until: None,
            at: None,
            lifted: false,
        }))
    }

    #[must_use]
    pub(crate) fn holds_at(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// `abort`: the epoch to abort, and the author of that request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Abort {
    #[serde(with = "as_text")]
    pub(crate) epoch: Epoch,
    #[serde(flatten)]
    pub(crate) author: Author,
}

impl Abort {
    /// Reads the key: an epoch as text, or the record. None: empty or unreadable, which aborts nothing.
    #[must_use]
    pub(crate) fn parse(raw: &[u8]) -> Option<Self> {
        let text = super::plain_text(std::str::from_utf8(raw).ok()?);
        let by_hand = |epoch| Self { epoch, author: Author::by_hand("") };
        text.parse().ok().map(by_hand).or_else(|| serde_json::from_str(text).ok())
    }

    /// ` by ann: the wrong build`, to end the sentence that says why a deploy failed; empty without author and reason.
    #[must_use]
    pub(crate) fn by_whom(&self) -> String {
        let Author { by, reason, .. } = &self.author;
        match (self.author.is_named(), reason.is_empty()) {
            (false, true) => String::new(),
            (false, false) => format!(": {reason}"),
            (true, true) => format!(" by {by}"),
            (true, false) => format!(" by {by}: {reason}"),
        }
    }
}

/// An epoch as people write it, `512` or `1.512`.
mod as_text {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use crate::protocol::ids::Epoch;

    pub(super) fn serialize<S: Serializer>(epoch: &Epoch, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(epoch)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Epoch, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_consul_kv_put_are_understood() {
        let plain = Request::parse(b" master\n").unwrap();
        assert_eq!(plain.wanted, Wanted::Deploy(Selector::Any("master".to_owned())));
        assert_eq!((plain.author.by.as_str(), plain.author.via.as_str()), ("unattributed", "kv"));
        let exact = Request::parse(b"commit:15E9F13A").unwrap();
        assert_eq!(exact.wanted, Wanted::Deploy(Selector::Commit("15e9f13a".to_owned())));
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_what_a_person_wrote() {
        let marked = |text: &str| format!("\u{feff}{text}\r\n").into_bytes();
        assert_eq!(Request::parse(&marked("master")).unwrap(), Request::parse(b"master").unwrap());
        assert!(Request::parse(&marked(r#"{"rollback":true}"#)).unwrap().is_rollback());
        assert_eq!(Freeze::parse(&marked("")), None);
        assert_eq!(Freeze::parse(&marked("db migration")).unwrap().author.reason, "db migration");
        assert_eq!(Abort::parse(&marked("512")).unwrap().epoch.number, 512);
        assert!(super::super::is_blank(&marked(" ")) && !super::super::is_blank(&marked("x")));
    }

    #[test]
    fn full_names_of_refs_and_full_commits_say_which_is_meant() {
        let read = |text: &str| Selector::parse(text).map(|selector| selector.to_string());
        let sha = "15e9f13a".repeat(5);
        for (given, meant) in [
            ("refs/heads/feature/x", "branch:feature/x"),
            ("branch:refs/heads/x", "branch:x"),
            ("refs/tags/v1", "tag:v1"),
            ("tag:v1", "tag:v1"),
            ("tag:refs/tags/v1", "tag:v1"),
            ("branch:refs/tags/v1", "tag:v1"),
            (sha.as_str(), &format!("commit:{sha}")),
            (&sha.to_ascii_uppercase(), &format!("commit:{sha}")),
            ("15e9f13a", "15e9f13a"),
        ] {
            assert_eq!(read(given).unwrap(), meant, "{given}");
            assert_eq!(read(meant).unwrap(), meant);
        }
        for bad in ["HEAD", "branch:HEAD", "tag:a b", "refs/tags/"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_json_form_is_read_back_as_it_was_written() {
        for raw in [
            r#"{"ref":"master","by":"ann","via":"ci","reason":"because","id":"7","force":true,"again":true}"#,
            r#"{"rollback":true,"by":"ann","via":"cli"}"#,
            r#"{"ref":"master-15e9f13a","rollback":true,"by":"ann","via":"cli"}"#,
        ] {
            let request = Request::parse(raw.as_bytes()).unwrap();
            assert_eq!(Request::parse(request.encode().as_bytes()).unwrap(), request);
        }
    }

    #[test]
    fn unreadable_requests_are_refused_with_a_reason() {
        for raw in [
            &b""[..],
            b"a b",
            b"\xff\xfe",
            b"{",
            b"{}",
            b"{\"ref\":\"master\",\"forse\":true}",
            b"-rf",
            b"commit:xyz",
            b"{\"ref\":\"master\",\"by\":\"a\\u0007\"}",
            b"[1]",
            &[b'x'; 5000],
        ] {
            let reason = Request::parse(raw).expect_err("rubbish was taken").to_string();
            assert!(reason.len() > 20 && reason.len() < 600, "{reason}");
        }
    }

    #[test]
    fn any_text_freezes_and_an_empty_value_does_not() {
        assert_eq!(Freeze::parse(b"  \n"), None);
        assert_eq!(Freeze::parse(b"db migration").unwrap().author.reason, "db migration");
        let frozen = Freeze::parse(br#"{"by":"ann","reason":"x","until":"2026-01-01T00:00:00Z"}"#).unwrap();
        assert!(frozen.holds_at("2025-12-31T23:59:59Z".parse().unwrap()));
        assert!(!frozen.holds_at("2026-01-01T00:00:00Z".parse().unwrap()));
    }

    #[test]
    fn a_lifted_freeze_is_no_freeze_and_names_its_author() {
        let lifted = br#"{"by":"ann","reason":"over","lifted":true}"#;
        assert_eq!(Freeze::parse(lifted), None);
        assert_eq!(Freeze::read(lifted).unwrap().author.by, "ann");
    }

    #[test]
    fn an_abort_is_an_epoch_or_a_record_with_an_author() {
        let plain = Abort::parse(b" 1.512\n").unwrap();
        assert_eq!((plain.epoch, plain.by_whom().as_str()), (Epoch { era: 1, number: 512 }, ""));
        let author = Author { by: "ann".to_owned(), reason: "wrong build".to_owned(), ..plain.author };
        let said = Abort { author, ..plain };
        assert_eq!(said.by_whom(), " by ann: wrong build");
        assert_eq!(Abort::parse(crate::protocol::record::encode(&said).as_bytes()), Some(said));
        for rubbish in [&b""[..], b"all", b"{}", b"{\"epoch\":\"x\"}", b"\xff"] {
            assert_eq!(Abort::parse(rubbish), None, "{rubbish:?}");
        }
    }
}
