//! Patterns for branches and groups.
//!
//! A pattern matches the whole branch or group, case-sensitively: `*` matches any characters, including `/`, `?` matches one
//! character, and `[ab]` one of those. So `*` matches every branch, and `release/*` matches `release/1.2` and
//! `release/1.2/rc`, but not `release`. As for every branch, `refs/heads/` in front is left out: `refs/heads/master` means
//! `master`.

use std::fmt;

use glob::{MatchOptions, Pattern};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::protocol::ids::{Branch, Unit, without_heads};

/// A branch is a name, not a path, so `/` and a leading dot have no special meaning.
const OPTIONS: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: false, require_literal_leading_dot: false };

/// A list of patterns. A branch matches the list if it matches one of the patterns.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Globs(Vec<Pattern>);

impl Globs {
    /// The pattern that every branch matches.
    #[must_use]
    pub(crate) fn every_branch() -> Self {
        Self(Pattern::new("*").into_iter().collect())
    }

    /// Whether `branch` matches one of the patterns.
    #[must_use]
    pub(crate) fn matches(&self, branch: &Branch) -> bool {
        self.0.iter().any(|pattern| pattern.matches_with(branch.as_str(), OPTIONS))
    }

    /// Whether `unit`, as `shop/production`, matches one of the patterns.
    #[must_use]
    pub(crate) fn matches_unit(&self, unit: &Unit) -> bool {
        let unit = unit.to_string();
        self.0.iter().any(|pattern| pattern.matches_with(&unit, OPTIONS))
    }

    /// Whether there is no pattern at all.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The patterns, as they were written.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(Pattern::as_str)
    }
}

impl fmt::Debug for Globs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl fmt::Display for Globs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.iter().collect::<Vec<_>>().join(", "))
    }
}

/// One pattern. A separate type, so that an error names its index in the list.
struct OnePattern(Pattern);

impl<'de> Deserialize<'de> for OnePattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() {
            return Err(serde::de::Error::custom("is empty; write a branch, or a pattern such as \"release/*\""));
        }
        Pattern::new(without_heads(&text)).map(Self).map_err(|e| {
            serde::de::Error::custom(format!(
                "{text:?} is not a pattern: {} at character {}; write a branch, or a pattern such as \"release/*\"",
                e.msg,
                e.pos + 1
            ))
        })
    }
}

impl<'de> Deserialize<'de> for Globs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Vec::<OnePattern>::deserialize(deserializer)?.into_iter().map(|one| one.0).collect()))
    }
}

impl Serialize for Globs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_also_matches_slashes() {
        let matches = |pattern: &str, branch: &str| {
            let globs: Globs = serde_json::from_value(serde_json::json!([pattern])).unwrap();
            globs.matches(&branch.parse().unwrap())
        };
        for (pattern, branch) in [
            ("*", "master"),
            ("*", "feature/a/b"),
            ("release/*", "release/1.2"),
            ("release/*", "release/1.2/rc"),
            ("v[12].?", "v2.x"),
            ("master", "master"),
            ("refs/heads/master", "master"),
            ("refs/heads/release/*", "release/1.2"),
            ("master", "refs/heads/master"),
        ] {
            assert!(matches(pattern, branch), "{pattern} {branch}");
        }
        for (pattern, branch) in
            [("release/*", "release"), ("release/*", "prerelease/1"), ("master", "master2"), ("Master", "master")]
        {
            assert!(!matches(pattern, branch), "{pattern} {branch}");
        }
    }
}
