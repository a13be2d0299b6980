//! Branches and tags by name, as people, CI and clients give them.
//!
//! A plain name means a branch. `refs/heads/x` is the branch `x`, `refs/tags/x` the tag `x`. What a build is of is
//! [`BuildRef`]: a branch, a tag, or a pull request. Builds of one of them never count as builds of another, even where
//! the names are the same.

use std::str::FromStr;

use super::ids::{Branch, InvalidName};

/// A branch or a tag, given by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum GitRef {
    Branch(Branch),
    Tag(Branch),
}

impl GitRef {
    #[must_use]
    pub(crate) const fn name(&self) -> &Branch {
        match self {
            Self::Branch(name) | Self::Tag(name) => name,
        }
    }

    /// The tag; none for a branch.
    #[must_use]
    pub(crate) fn tag(&self) -> Option<&Branch> {
        match self {
            Self::Branch(_) => None,
            Self::Tag(name) => Some(name),
        }
    }
}

impl FromStr for GitRef {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if let Some(tag) = text.strip_prefix("refs/tags/") {
            return Ok(Self::Tag(tag.parse().map_err(|invalid| InvalidName { what: "tag", ..invalid })?));
        }
        let branch: Branch = text.parse()?;
        if branch.as_str() == "HEAD" {
            let problem = "names no branch, but whatever is checked out; give the branch's own name";
            return Err(InvalidName { what: "branch", given: text.to_owned(), problem });
        }
        Ok(Self::Branch(branch))
    }
}

/// What a build is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct BuildRef<'a> {
    /// The branch, or the tag.
    pub(crate) name: &'a Branch,
    pub(crate) kind: RefKind<'a>,
}

/// What kind of ref CI built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum RefKind<'a> {
    Branch,
    /// With its number. The name of the branch is its author's choice, who may be a stranger: `master` of a fork.
    PullRequest(&'a str),
    Tag,
}

impl<'a> BuildRef<'a> {
    /// From the fields of a record.
    #[must_use]
    pub(crate) fn new(name: &'a Branch, tag: Option<&Branch>, pull_request: Option<&'a str>) -> Self {
        let kind = match (pull_request, tag) {
            (Some(number), _) => RefKind::PullRequest(number),
            (None, Some(_)) => RefKind::Tag,
            (None, None) => RefKind::Branch,
        };
        Self { name, kind }
    }

    #[must_use]
    pub(crate) const fn is_pull_request(&self) -> bool {
        matches!(self.kind, RefKind::PullRequest(_))
    }

    /// Distinguishes refs whose names reduce to the same artifact name; its SHA-256 gives the digits.
    #[must_use]
    pub(crate) fn distinction(&self) -> String {
        match self.kind {
            RefKind::Branch => self.name.to_string(),
            RefKind::PullRequest(number) => format!("refs/pull/{number}/{}", self.name),
            RefKind::Tag => format!("refs/tags/{}", self.name),
        }
    }
}

/// `master`, `tag v1.4.0`, `master of pull request 7`.
impl std::fmt::Display for BuildRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.kind {
            RefKind::Branch => write!(f, "{}", self.name),
            RefKind::PullRequest(number) => write!(f, "{} of pull request {number}", self.name),
            RefKind::Tag => write!(f, "tag {}", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_ref_says_branch_or_tag_and_a_plain_name_means_a_branch() {
        let read = |text: &str| text.parse::<GitRef>();
        let branch: Branch = "v1".parse().unwrap();
        assert_eq!(read("v1").unwrap(), GitRef::Branch(branch.clone()));
        assert_eq!(read("refs/heads/v1").unwrap(), GitRef::Branch(branch.clone()));
        assert_eq!(read("refs/tags/v1").unwrap(), GitRef::Tag(branch));
        for bad in ["HEAD", "refs/heads/HEAD"] {
            assert!(read(bad).unwrap_err().to_string().contains("give the branch's own name"), "{bad}");
        }
        assert!(read("refs/tags/a b").unwrap_err().to_string().starts_with("tag "));
    }
}
