//! What a build changes: the commits and the files between an earlier build and this one.
//!
//! Lists are bounded, because agents read all build records of an app: a record with the longest lists has some 6 KB, one
//! with three commits less than 1 KB more than without. Files are only counted here; the manifest beside the archive
//! lists them.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::Summary;
use super::summary::first_line;
use crate::protocol::ids::{ArtifactName, Commit, Sha256};

/// The most commits of a list. A push rarely has more, and `git log` shows the rest.
pub(crate) const MAX_COMMITS: usize = 20;
/// The most commits of a list of commits that a build lacks.
pub(crate) const MAX_REMOVED: usize = 5;
/// The longest subject in a list, in bytes: git's own tools expect some 72.
const MAX_SUBJECT_BYTES: usize = 100;
/// The longest author in a list, in bytes.
const MAX_AUTHOR_BYTES: usize = 64;
/// The longest reason, in bytes.
const MAX_REASON_BYTES: usize = 300;

/// A commit of a list.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct CommitLine {
    /// The full commit.
    pub id: Commit,
    /// Subject and author, one line each.
    #[serde(flatten)]
    pub summary: Summary,
}

impl CommitLine {
    /// Cuts subject and author to one short line each.
    #[must_use]
    pub(crate) fn new(id: Commit, subject: &str, author: &str) -> Self {
        let (subject, author) = (first_line(subject, MAX_SUBJECT_BYTES), first_line(author, MAX_AUTHOR_BYTES));
        Self { id, summary: Summary { subject, author } }
    }
}

/// Commits, all counted, and the newest of them listed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct CommitList {
    /// How many there are.
    pub count: u64,
    /// Newest first, at most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "at_most")]
    #[schemars(length(max = MAX_COMMITS))]
    pub list: Vec<CommitLine>,
}

impl CommitList {
    #[must_use]
    pub(crate) const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The same commits with the newest `most` listed.
    #[must_use]
    pub(crate) fn cut(mut self, most: usize) -> Self {
        self.list.truncate(most);
        self
    }

    /// These commits, and the older ones of `other`.
    #[must_use]
    pub(crate) fn and_older(mut self, other: &Self) -> Self {
        // The list has a hole where it ends before its own commits do.
        let is_whole = u64::try_from(self.list.len()) == Ok(self.count);
        self.count = self.count.saturating_add(other.count);
        if is_whole {
            self.list.extend(other.list.iter().cloned());
        }
        self.cut(MAX_COMMITS)
    }
}

/// The commits between two builds, as far as they are known.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Commits {
    /// There is no earlier build.
    First,
    /// All are counted.
    Known {
        /// Commits of the build that the earlier one lacks.
        added: CommitList,
        /// Commits of the earlier build that the build lacks: after a rollback or a force-push, or for an older commit.
        #[serde(default, skip_serializing_if = "CommitList::is_empty")]
        removed: CommitList,
    },
    /// Some commits are not known.
    Unknown {
        /// Why, in one sentence.
        #[serde(deserialize_with = "short_reason")]
        reason: String,
        /// Commits that the build has in any case; there may be more.
        #[serde(default, skip_serializing_if = "CommitList::is_empty")]
        added: CommitList,
    },
}

impl Commits {
    /// No more than `added` is known, for this reason, which is cut to one line.
    #[must_use]
    pub(crate) fn unknown(reason: &str, added: CommitList) -> Self {
        Self::Unknown { reason: first_line(reason, MAX_REASON_BYTES).unwrap_or_default(), added }
    }

    /// The same commits with at most `most` of each list.
    #[must_use]
    pub(crate) fn cut(self, most: usize) -> Self {
        match self {
            Self::First => Self::First,
            Self::Known { added, removed } => Self::Known { added: added.cut(most), removed: removed.cut(most) },
            Self::Unknown { reason, added } => Self::Unknown { reason, added: added.cut(most) },
        }
    }
}

/// How many files differ between two builds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct FileCounts {
    /// Files that only the later build has.
    pub added: u64,
    /// Files that only the earlier build has.
    pub removed: u64,
    /// Files with another content, mode, or kind.
    pub changed: u64,
}

impl FileCounts {
    #[must_use]
    pub(crate) const fn total(self) -> u64 {
        self.added.saturating_add(self.removed).saturating_add(self.changed)
    }

    /// The counts of the comparison in the other direction.
    #[must_use]
    pub(crate) const fn reversed(self) -> Self {
        Self { added: self.removed, removed: self.added, changed: self.changed }
    }
}

/// Files, all counted, and the first of them listed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct FileList {
    /// How many there are.
    pub count: u64,
    /// Their paths in the build, sorted. `%` and two hex digits stand for `%`, for control characters, and for bytes that
    /// are not UTF-8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub list: Vec<String>,
}

/// The files that differ between two builds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct FileChanges {
    /// Files that only the later build has.
    pub added: FileList,
    /// Files that only the earlier build has.
    pub removed: FileList,
    /// Files with another content, mode, or kind.
    pub changed: FileList,
}

impl FileChanges {
    #[must_use]
    pub(crate) const fn counts(&self) -> FileCounts {
        FileCounts { added: self.added.count, removed: self.removed.count, changed: self.changed.count }
    }
}

/// Only counted, none listed.
impl From<FileCounts> for FileChanges {
    fn from(counts: FileCounts) -> Self {
        let list = |count| FileList { count, list: Vec::new() };
        Self { added: list(counts.added), removed: list(counts.removed), changed: list(counts.changed) }
    }
}

/// What is different in a build, in short.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Changes {
    /// The commits.
    pub commits: Commits,
    /// The files; none if they are not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<FileCounts>,
}

/// The most commits of each list in histories and messages.
const MAX_SHOWN: usize = 3;

impl Changes {
    /// The same for a history or a message, where each list has at most three commits.
    #[must_use]
    pub(crate) fn shortened(self) -> Self {
        Self { commits: self.commits.cut(MAX_SHOWN), ..self }
    }
}

/// A build with which another is compared.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Base {
    /// Its name.
    pub artifact: ArtifactName,
    /// Its full commit.
    pub commit: Commit,
}

/// What is new in a build since the newest build of its branch, as `publish` found it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Since {
    /// The newest build of the branch before this one; none: this one was the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Base>,
    /// The differences.
    #[serde(flatten)]
    pub changes: Changes,
}

/// The list of a build's files, which is stored beside its archive.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct ManifestDigest {
    /// The SHA-256 of its text.
    pub sha256: Sha256,
    /// The size of its text, before compression.
    pub bytes: u64,
}

fn at_most<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<CommitLine>, D::Error> {
    let mut list = Vec::<CommitLine>::deserialize(deserializer)?;
    list.truncate(MAX_COMMITS);
    Ok(list)
}

fn short_reason<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(first_line(&String::deserialize(deserializer)?, MAX_REASON_BYTES).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::super::{Build, decode, encode};
    use super::*;

    fn line(n: usize, subject: &str) -> CommitLine {
        CommitLine::new(format!("{n:040x}").parse().unwrap(), subject, &"ä".repeat(500))
    }

    fn list(count: usize) -> CommitList {
        CommitList {
            count: u64::try_from(count).unwrap(),
            list: (0..count).map(|n| line(n, &"s".repeat(500))).collect(),
        }
    }

    #[test]
    fn a_record_with_the_longest_lists_stays_small() {
        let plain = Build::sample("master-00000001");
        let base = Base { artifact: plain.artifact.clone(), commit: plain.commit.clone() };
        let since = |added: CommitList, removed: CommitList| {
            let files = Some(FileCounts { added: u64::MAX, removed: u64::MAX, changed: u64::MAX });
            Some(Since {
                base: Some(base.clone()),
                changes: Changes { commits: Commits::Known { added, removed }, files },
            })
        };
        let size = |since| encode(&Build { since, ..plain.clone() }).len() - encode(&plain).len();
        let longest = size(since(list(1000).cut(MAX_COMMITS), list(1000).cut(MAX_REMOVED)));
        assert!(longest < 7_000, "{longest}");
        let short = CommitLine::new(base.commit.clone(), "Fix the till of the shop", "Ann Example");
        let usual = size(since(CommitList { count: 3, list: vec![short; 3] }, CommitList::default()));
        assert!(usual < 800, "{usual}");
    }

    #[test]
    fn odd_subjects_become_one_short_line() {
        let odd = line(1, "\n \u{1b}[2JFix\tthe till\r\nsecond line\u{0}");
        assert_eq!(odd.summary.subject.as_deref(), Some("[2JFix the till"));
        assert_eq!(odd.summary.author.as_deref().map(str::len), Some(64));
        assert_eq!(line(1, "\n").summary.subject, None);
    }

    #[test]
    fn a_record_of_changes_is_read_as_it_was_written_and_longer_lists_are_cut() {
        let unknown = Commits::Unknown { reason: "the clone is shallow".to_owned(), added: list(2) };
        for commits in [Commits::First, Commits::Known { added: list(3), removed: list(1) }, unknown] {
            let since = Since { base: None, changes: Changes { commits, files: None } };
            assert_eq!(decode::<Since>("key", encode(&since).as_bytes()).unwrap(), since);
        }
        let long: CommitList = decode("key", encode(&list(30)).as_bytes()).unwrap();
        assert_eq!((long.count, long.list.len()), (30, MAX_COMMITS));
    }

    #[test]
    fn a_list_with_a_hole_is_not_continued() {
        let whole = list(2).and_older(&list(3));
        assert_eq!((whole.count, whole.list.len()), (5, 5));
        let holed = list(30).cut(20).and_older(&list(3));
        assert_eq!((holed.count, holed.list.len()), (33, 20));
        let short = list(4).cut(3).and_older(&list(3));
        assert_eq!((short.count, short.list.len()), (7, 3));
    }
}
