//! The names and numbers that records, keys and paths are made of.
//!
//! Every name is checked once, where it enters ([`std::str::FromStr`] or serde), and is safe afterwards to stand
//! in a Consul key, a path, a log line and a page. Nothing here does I/O.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::kind::HasKind;

/// A name or number that is not what it should be.
///
/// The message says what was given, what is wrong with it, and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {given:?} {problem}")]
pub struct InvalidName {
    /// What was expected, for example "app name".
    pub(crate) what: &'static str,
    /// What was given, cut to 120 characters.
    pub(crate) given: String,
    /// What is wrong and what is allowed.
    pub(crate) problem: &'static str,
}

impl HasKind for InvalidName {
    fn kind(&self) -> &'static str {
        "invalid_name"
    }
}

impl InvalidName {
    fn new(what: &'static str, given: &str, problem: &'static str) -> Self {
        // Anyone may have written the text, and the message goes into logs and records.
        Self { what, given: given.chars().take(120).collect(), problem }
    }
}

/// Declares a checked string newtype: `FromStr`, `Display`, serde through the check. What precedes `=>` reduces the given
/// text to the name. The extension is for its schema.
macro_rules! checked_name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:path, $($key:literal = $value:expr),+) => {
        checked_name!($(#[$doc])* $name, $what, as_given => $check, $($key = $value),+);
    };
    ($(#[$doc:meta])* $name:ident, $what:literal, $reduce:path => $check:path, $($key:literal = $value:expr),+) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        #[serde(try_from = "String", into = "String")]
        #[schemars(extend($($key = $value),+))]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                let name = $reduce(text);
                match $check(name) {
                    Ok(()) => Ok(Self(name.to_owned())),
                    Err(problem) => Err(InvalidName::new($what, text, problem)),
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, InvalidName> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }
    };
}

checked_name!(
    /// An application, for example `shop`: `[A-Za-z0-9._-]{1,64}`, no leading dot.
    App, "app name", check_plain,
    "pattern" = PLAIN, "examples" = ["shop"]
);
checked_name!(
    /// A group of nodes of one app, for example `production`. Allowed is what an app's name may be, without the names of keys.
    Group, "group name", check_group,
    "pattern" = GROUP, "examples" = ["production"]
);
checked_name!(
    /// A node as Cutover names it, by default the Consul agent's node name. Allowed is what an app's name may be.
    Node, "node name", check_plain,
    "pattern" = PLAIN, "examples" = ["web-1"]
);
checked_name!(
    /// An artifact's name, `<branch>-<ref>` or `<branch>-<ref>.<n>` for a rebuild; at most 128 bytes of `[A-Za-z0-9._-]`.
    ///
    /// No code takes the name apart: the build record names branch and commit.
    ArtifactName, "artifact name", check_artifact,
    "pattern" = "^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$", "examples" = ["master-15e9f13a"]
);
checked_name!(
    /// An object's name in its app's part of the store, below `<prefix>/<app>/`: at most 200 bytes of `[A-Za-z0-9._-]`, no
    /// leading dot. Relative, so that a record stays valid if the store moves to another bucket or prefix.
    ///
    /// No code takes the name apart.
    ObjectName, "object name", check_object,
    "pattern" = "^(?!history$)[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}$",
    "examples" = ["master-15e9f13a-3c0a1fe2b94d7705.tar.gz"]
);
checked_name!(
    /// A full commit id: 40 or 64 lower-case hex digits.
    Commit, "commit", check_commit,
    "pattern" = "^([0-9a-f]{40}|[0-9a-f]{64})$"
);
checked_name!(
    /// A git branch, as git writes it: 1 to 255 bytes without blanks, control characters, or `..`. `refs/heads/x` is read
    /// as `x`. A record of a tag's build holds the tag's name.
    Branch, "branch", without_heads => check_branch,
    "minLength" = 1, "maxLength" = 255, "examples" = ["master"]
);
checked_name!(
    /// The SHA-256 of an archive's bytes, 64 lower-case hex digits.
    Sha256, "SHA-256", check_sha256,
    "pattern" = "^[0-9a-f]{64}$"
);
checked_name!(
    /// A release directory's name: UTC as `YYYYMMDDHHMMSS`, the same on every node. Sorts by time.
    ReleaseName, "release name", check_release,
    "pattern" = "^[0-9]{14}$"
);

checked_name!(
    /// The id of a minisign key, 16 upper-case hex digits, as minisign writes it.
    KeyId, "key id", check_key_id,
    "pattern" = "^[0-9A-F]{16}$", "examples" = ["E7620F1842B4E81F"]
);

impl KeyId {
    /// The id in a key or a signature: 8 bytes, little-endian.
    #[must_use]
    pub(crate) fn of(bytes: [u8; 8]) -> Self {
        Self(format!("{:016X}", u64::from_le_bytes(bytes)))
    }
}

impl Commit {
    /// The first 8 hex digits: the `<ref>` of an artifact's name.
    #[must_use]
    pub(crate) fn short(&self) -> &str {
        self.0.get(..8).unwrap_or(&self.0)
    }
}

impl ReleaseName {
    /// The release name for a moment, to the second.
    #[must_use]
    pub(crate) fn at(moment: jiff::Timestamp) -> Self {
        Self(moment.strftime("%Y%m%d%H%M%S").to_string())
    }

    /// The name one second later; the successor of a name that another release has taken.
    ///
    /// Names whose digits are no date at all (they can only be hand-made) count up as plain numbers, so that the
    /// result is above `self` in every case.
    #[must_use]
    pub(crate) fn next(&self) -> Self {
        let parsed = jiff::civil::DateTime::strptime("%Y%m%d%H%M%S", &self.0)
            .and_then(|time| time.checked_add(jiff::SignedDuration::from_secs(1)));
        match parsed {
            Ok(time) => Self(time.strftime("%Y%m%d%H%M%S").to_string()),
            Err(_) => Self(format!("{:014}", self.0.parse::<u64>().unwrap_or(0).saturating_add(1))),
        }
    }
}

const fn as_given(text: &str) -> &str {
    text
}

/// `x` for `refs/heads/x`, git's full name of the same branch.
pub(crate) fn without_heads(text: &str) -> &str {
    text.strip_prefix("refs/heads/").unwrap_or(text)
}

fn check_charset(text: &str, longest: usize, long: &'static str) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("is empty");
    }
    if text.len() > longest {
        return Err(long);
    }
    if text.starts_with('.') {
        return Err("starts with a dot");
    }
    if !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
        return Err("holds a character outside A-Z a-z 0-9 . _ -");
    }
    Ok(())
}

/// What [`check_plain`] accepts.
const PLAIN: &str = "^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$";

fn check_plain(text: &str) -> Result<(), &'static str> {
    check_charset(text, 64, "is longer than 64 bytes")
}

/// What [`check_group`] accepts.
const GROUP: &str = "^(?!(builds|latest|runs|bad)$)[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$";

fn check_group(text: &str) -> Result<(), &'static str> {
    check_plain(text)?;
    if matches!(text, "builds" | "latest" | "runs" | "bad") {
        return Err("is the name of a key under the app (builds, latest, runs, bad)");
    }
    Ok(())
}

fn check_artifact(text: &str) -> Result<(), &'static str> {
    check_charset(text, 128, "is longer than 128 bytes")
}

fn check_object(text: &str) -> Result<(), &'static str> {
    check_charset(text, 200, "is longer than 200 bytes")?;
    if text == "history" {
        return Err("is the directory of the archived history");
    }
    Ok(())
}

fn check_hex(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn check_commit(text: &str) -> Result<(), &'static str> {
    if matches!(text.len(), 40 | 64) && check_hex(text) {
        return Ok(());
    }
    Err("is not a full commit id (40 or 64 lower-case hex digits)")
}

fn check_sha256(text: &str) -> Result<(), &'static str> {
    if text.len() == 64 && check_hex(text) {
        return Ok(());
    }
    Err("is not 64 lower-case hex digits")
}

fn check_key_id(text: &str) -> Result<(), &'static str> {
    if text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F')) {
        return Ok(());
    }
    Err("is not 16 upper-case hex digits")
}

fn check_release(text: &str) -> Result<(), &'static str> {
    if text.len() == 14 && text.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(());
    }
    Err("is not 14 digits (YYYYMMDDHHMMSS)")
}

/// The rules of `git check-ref-format` that matter outside git; a branch never starts with `-`, so that it can
/// never be taken for an option.
fn check_branch(text: &str) -> Result<(), &'static str> {
    if text.is_empty() || text.len() > 255 {
        return Err("is empty or longer than 255 bytes");
    }
    if text.starts_with(['-', '/', '.']) || text.ends_with(['/', '.']) {
        return Err("starts with - / or a dot, or ends with / or a dot");
    }
    if text.contains("..") || text.contains("//") || text.contains("@{") {
        return Err("holds .. or // or @{");
    }
    if text.chars().any(|c| c.is_control() || c.is_whitespace() || "~^:?*[\\".contains(c)) {
        return Err("holds a blank, a control character, or one of ~ ^ : ? * [ \\");
    }
    Ok(())
}

/// [`PLAIN`] and [`GROUP`].
const UNIT: &str = "^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}/(?!(builds|latest|runs|bad)$)[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$";

/// A deploy unit: one app in one group, written `shop/production`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(extend("pattern" = UNIT, "examples" = ["shop/production"]))]
pub struct Unit {
    pub(crate) app: App,
    pub(crate) group: Group,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.app, self.group)
    }
}

impl FromStr for Unit {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let (app, group) = text
            .split_once('/')
            .ok_or_else(|| InvalidName::new("deploy unit", text, "is not <app>/<group>, as in shop/production"))?;
        Ok(Self { app: app.parse()?, group: group.parse()? })
    }
}

impl TryFrom<String> for Unit {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<Unit> for String {
    fn from(unit: Unit) -> Self {
        unit.to_string()
    }
}

/// The position of one write in Consul's log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub struct ModifyIndex(pub u64);

impl fmt::Display for ModifyIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a request; strictly increasing and never used again, it fences everything.
///
/// The era rises only by `cutover recover`, when Consul's indexes can no longer be compared with the old ones. Written
/// `512`, or `1.512` from era 1 on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Epoch {
    /// How often the unit's keys were recovered.
    pub era: u32,
    /// The request's ModifyIndex; 0 before the first request of the era.
    #[serde(rename = "epoch")]
    pub number: u64,
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.era == 0 { write!(f, "{}", self.number) } else { write!(f, "{}.{}", self.era, self.number) }
    }
}

/// What is read as an [`Epoch`].
pub(crate) const EPOCH_PATTERN: &str = "^([0-9]{1,9}\\.)?[0-9]{1,18}$";

impl FromStr for Epoch {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let invalid = || InvalidName::new("epoch", text, "is not a number as 512, or <era>.<number> as 1.512");
        let (era, number) = text.split_once('.').unwrap_or(("0", text));
        Ok(Self { era: era.parse().map_err(|_| invalid())?, number: number.parse().map_err(|_| invalid())? })
    }
}

// The schema of jiff's `Timestamp`, which has none of its own.
/// A moment, as RFC 3339 writes it.
#[derive(Debug, JsonSchema)]
#[schemars(inline, extend("format" = "date-time"))]
pub(crate) struct Time(#[expect(dead_code, reason = "no value of it exists")] String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_a_key_or_a_path_are_refused() {
        for bad in ["", ".", "..", ".x", "a/b", "a b", "a\n", "ä", "a:b", &"x".repeat(65)] {
            assert!(bad.parse::<App>().is_err(), "{bad:?} was taken for an app");
            assert!(bad.parse::<Node>().is_err(), "{bad:?} was taken for a node");
        }
        for good in ["shop", "web-1.example", "A_b", &"x".repeat(64)] {
            assert!(good.parse::<App>().is_ok(), "{good:?} was refused");
        }
        assert!("builds".parse::<Group>().is_err());
    }

    #[test]
    fn object_names_stay_in_their_apps_part_of_the_store() {
        let long = "x".repeat(201);
        for bad in
            ["", ".", "..", ".upload-1", "/a", "../other/a.tar.gz", "a/b", "other/a", "a\0", "a b", "history", &long]
        {
            assert!(bad.parse::<ObjectName>().is_err(), "{bad:?} was taken for an object");
        }
        for good in ["master-15e9f13a-3c0a1fe2b94d7705.tar.gz", "history.tar.gz", &long[..200]] {
            assert!(good.parse::<ObjectName>().is_ok(), "{good:?} was refused");
        }
    }

    #[test]
    fn branches_follow_gits_rules_and_are_never_options() {
        for bad in ["-x", "a..b", "a b", "a:b", "a~1", "", "/a", "a/", "a\u{7}"] {
            assert!(bad.parse::<Branch>().is_err(), "{bad:?} was taken for a branch");
        }
        for good in ["master", "feature/login", "release/1.2", "übung"] {
            assert!(good.parse::<Branch>().is_ok(), "{good:?} was refused");
        }
    }

    #[test]
    fn the_full_name_of_a_branch_means_the_branch() {
        let branch: Branch = "refs/heads/feature/x".parse().unwrap();
        assert_eq!(branch.as_str(), "feature/x");
        assert_eq!(serde_json::from_str::<Branch>("\"refs/heads/feature/x\"").unwrap(), branch);
        assert!("refs/heads/".parse::<Branch>().is_err());
    }

    #[test]
    fn release_names_only_go_up() {
        let last: ReleaseName = "20261231235959".parse().unwrap();
        assert_eq!(last.next().as_str(), "20270101000000");
        let odd: ReleaseName = "99999999999998".parse().unwrap();
        assert!(odd.next() > odd);
        assert_eq!(ReleaseName::at("2026-11-23T09:15:00.7Z".parse().unwrap()).as_str(), "20261123091500");
    }

    #[test]
    fn epochs_compare_by_era_first() {
        let (old, new): (Epoch, Epoch) = ("900".parse().unwrap(), "1.3".parse().unwrap());
        assert!(new > old);
        assert_eq!((old.to_string(), new.to_string()), ("900".to_owned(), "1.3".to_owned()));
        assert!("x".parse::<Epoch>().is_err());
    }
}
