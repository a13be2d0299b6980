//! A build that is to be recorded, and whether a record is of it.

use crate::control::naming::NameForm;
use crate::control::{Code, Failure};
use crate::protocol::git_ref::BuildRef;
use crate::protocol::ids::{ArtifactName, Branch, Commit, Sha256};
use crate::protocol::record::Build;

/// The most rebuilds of one commit. Each number that is in use costs one read.
pub(super) const MAX_REBUILDS: u32 = 99;

/// A build that is to be recorded.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) branch: Branch,
    pub(crate) tag: Option<Branch>,
    pub(crate) pull_request: Option<String>,
    pub(crate) commit: Commit,
    pub(crate) content: Content,
}

/// What is known of a build's content: of a directory, at first only the digest of its tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    /// As `Build::tree`.
    pub(crate) tree: Option<Sha256>,
    /// As `Build::sha256`.
    pub(crate) sha256: Option<Sha256>,
}

impl Content {
    /// Whether a record is of this content; none if only the digest of the archive can tell. One tree can be packed into
    /// several archives, so the digests of trees count first.
    fn is_in(&self, build: &Build) -> Option<bool> {
        match (&self.tree, &build.tree, &self.sha256) {
            (Some(tree), Some(recorded), _) => Some(tree == recorded),
            (_, _, Some(sha256)) => Some(*sha256 == build.sha256),
            (_, _, None) => None,
        }
    }

    fn differing(&self, build: &Build) -> Differing {
        match (&self.tree, &build.tree, &self.sha256) {
            (Some(own), Some(recorded), _) => {
                Differing { recorded: format!("the tree {recorded}"), own: format!("the tree {own}") }
            }
            (tree, _, own) => Differing {
                recorded: build.sha256.to_string(),
                own: own.as_ref().or(tree.as_ref()).map(ToString::to_string).unwrap_or_default(),
            },
        }
    }
}

/// The digests that differ, in words.
struct Differing {
    recorded: String,
    own: String,
}

impl Candidate {
    pub(crate) fn of(&self) -> BuildRef<'_> {
        BuildRef::new(&self.branch, self.tag.as_ref(), self.pull_request.as_deref())
    }

    /// Checks that a name follows from branch and commit.
    ///
    /// # Errors
    ///
    /// [`Code::Usage`], with the right name.
    pub(crate) fn check_name(&self, name: &ArtifactName) -> Result<(), Failure> {
        let named = |form: NameForm, rebuild| form.name(self.of(), &self.commit, rebuild) == *name;
        let is_one = |form| named(form, None) || (2..=MAX_REBUILDS).any(|number| named(form, Some(number)));
        if NameForm::ALL.into_iter().any(is_one) {
            return Ok(());
        }
        let first = NameForm::Short.name(self.of(), &self.commit, None);
        let what = format!("{name} is not the name of this branch and commit, which is {first}");
        Err(Failure::new(Code::Usage, what).hint(format!("rebuilds are named {first}.2 and so on")))
    }

    /// The failure for a name that belongs to another branch, tag or pull request.
    pub(crate) fn name_taken(&self, name: &ArtifactName) -> Failure {
        let other = NameForm::Distinct.name(self.of(), &self.commit, None);
        let what = format!("{name} belongs to a build of another branch, tag or pull request");
        Failure::new(Code::Failed, what).hint(format!("the name of {} at this commit is {other}", self.of()))
    }

    /// Whether a record is of exactly this build; none if only the digest of the archive can tell. Two branches may result in
    /// the same name.
    pub(super) fn is(&self, build: &Build) -> Option<bool> {
        if build.of() != self.of() || build.commit != self.commit {
            return Some(false);
        }
        self.content.is_in(build)
    }

    /// The failure for a name that the record of another build has.
    pub(super) fn taken(&self, standing: &Build) -> Failure {
        let name = &standing.artifact;
        if standing.of() != self.of() {
            return self.name_taken(name);
        }
        if standing.commit != self.commit {
            let what = format!(
                "{name} is published already from another commit of {}: {}, this build is of {}",
                standing.of(),
                standing.commit,
                self.commit
            );
            return Failure::new(Code::Failed, what)
                .hint("the commits begin with the same digits: --rebuild numbers them");
        }
        let Differing { recorded, own } = self.content.differing(standing);
        let what = format!(
            "{name} is published already with different content: the record has {recorded} of {} {}, this build has {own}",
            standing.of(),
            standing.commit.short(),
        );
        Failure::new(Code::Failed, what)
            .hint(format!("--rebuild publishes it beside the first, as {name}.2 or the next free number"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_archive_of_another_branch_is_another_build() {
        let standing = Build::sample("master-00000001");
        let of_record = || {
            let Build { branch, tag, pull_request, commit, sha256, .. } = standing.clone();
            Candidate { branch, tag, pull_request, commit, content: Content { tree: None, sha256: Some(sha256) } }
        };
        let mut candidate = of_record();
        assert_eq!(candidate.is(&standing), Some(true));
        candidate.branch = "master/x".parse().unwrap();
        assert_eq!(candidate.is(&standing), Some(false));
        for other in [
            Candidate { tag: Some(standing.branch.clone()), ..of_record() },
            Candidate { pull_request: Some("7".to_owned()), ..of_record() },
        ] {
            assert_eq!(other.is(&standing), Some(false), "{other:?}");
        }
    }

    #[test]
    fn one_tree_in_two_archives_is_one_build() {
        let digest = |digit: &str| -> Sha256 { digit.repeat(64).parse().unwrap() };
        let content =
            |tree: Option<&str>, sha256: Option<&str>| Content { tree: tree.map(digest), sha256: sha256.map(digest) };
        let recorded = |tree: Option<&str>| Build {
            tree: tree.map(digest),
            sha256: digest("a"),
            ..Build::sample("master-00000001")
        };
        for (content, tree, expected) in [
            (content(Some("1"), None), Some("1"), Some(true)),
            (content(Some("1"), Some("b")), Some("1"), Some(true)),
            (content(Some("2"), Some("a")), Some("1"), Some(false)),
            (content(None, Some("a")), Some("1"), Some(true)),
            (content(None, Some("b")), Some("1"), Some(false)),
            (content(Some("1"), Some("a")), None, Some(true)),
            (content(Some("1"), Some("b")), None, Some(false)),
            (content(Some("1"), None), None, None),
        ] {
            assert_eq!(content.is_in(&recorded(tree)), expected, "{content:?} and {tree:?}");
        }
    }
}
