//! What a build changes, in words: the same in histories, messages, on the command line and on the page.

use schemars::JsonSchema;
use serde::Serialize;

use super::Problem;
use super::builds::BuildRow;
use super::text::counted;
use crate::protocol::ids::{App, ArtifactName};
use crate::protocol::record::{Changes, CommitList, Commits, FileChanges, FileCounts};

/// How many subjects one line names.
const SHOWN_SUBJECTS: usize = 3;

/// One build, and what it changes compared with an earlier one, as `cutover build show` prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct BuildDocument {
    pub(crate) app: App,
    pub(crate) build: BuildRow,
    /// The build that it is compared with; none: there is no earlier build of its branch, or it has no artifact.
    pub(crate) against: Option<ArtifactName>,
    /// The commits between the two; at most 20 are listed.
    pub(crate) commits: Commits,
    /// The files that differ between the two.
    pub(crate) files: Files,
    /// Records that cannot be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) problems: Vec<Problem>,
}

/// The files that differ between two builds, as far as they are known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(crate) enum Files {
    /// From the manifests of both builds; long lists are cut.
    Listed {
        #[serde(flatten)]
        changes: FileChanges,
    },
    /// From the build record, which has only the numbers.
    Counted {
        #[serde(flatten)]
        changes: FileChanges,
        /// Why there is no list.
        reason: String,
    },
    /// Not known, and why.
    Unknown { reason: String },
}

impl Files {
    /// What the records know of files that no manifest lists, and why.
    #[must_use]
    pub(crate) fn unlisted(counted: Option<FileCounts>, reason: String) -> Self {
        match counted {
            Some(counts) => Self::Counted { changes: counts.into(), reason },
            None => Self::Unknown { reason },
        }
    }
}

/// `5 commits, 12 files changed`.
#[must_use]
pub(crate) fn changes_line(changes: &Changes) -> String {
    let files = changes.files.map(|counts| format!("{} changed", files(counts.total())));
    std::iter::once(commits_line(&changes.commits)).chain(files).collect::<Vec<_>>().join(", ")
}

/// `5 commits, 12 files changed: “Fix the till”, “Add a till”, “Paint it” and 2 more`; why, where commits are not known.
#[must_use]
pub(crate) fn changes_sentence(changes: &Changes) -> String {
    let why = match &changes.commits {
        Commits::Unknown { reason, .. } => format!(" ({reason})"),
        Commits::First | Commits::Known { .. } => String::new(),
    };
    let subjects = subjects_line(&changes.commits).map_or_else(String::new, |subjects| format!(": {subjects}"));
    format!("{}{why}{subjects}", changes_line(changes))
}

/// `5 commits`, `no new commits`, `takes back 2 commits`, or what is known of them.
#[must_use]
pub(crate) fn commits_line(commits: &Commits) -> String {
    match commits {
        Commits::First => "first build of its branch".to_owned(),
        Commits::Known { added, removed } if removed.is_empty() => match added.count {
            0 => "no new commits".to_owned(),
            count => commits_of(count),
        },
        Commits::Known { added, removed } if added.is_empty() => format!("takes back {}", commits_of(removed.count)),
        Commits::Known { added, removed } => {
            format!("{}, takes back {}", commits_of(added.count), commits_of(removed.count))
        }
        Commits::Unknown { added, .. } if added.is_empty() => "commits unknown".to_owned(),
        Commits::Unknown { added, .. } => format!("at least {}", commits_of(added.count)),
    }
}

/// `12 files: 3 added, 1 removed, 8 changed`.
#[must_use]
pub(crate) fn files_line(counts: FileCounts) -> String {
    let FileCounts { added, removed, changed } = counts;
    match counts.total() {
        0 => "no file differs".to_owned(),
        total => format!("{}: {added} added, {removed} removed, {changed} changed", files(total)),
    }
}

/// `“Fix the till”, “Add a till” and 3 more`: the newest subjects; none if none is known. After a rollback, those of the
/// commits that it takes back.
fn subjects_line(commits: &Commits) -> Option<String> {
    let list = match commits {
        Commits::First => return None,
        Commits::Known { added, removed } if added.is_empty() => removed,
        Commits::Known { added, .. } | Commits::Unknown { added, .. } => added,
    };
    let CommitList { count, list } = list;
    let subjects: Vec<String> = list
        .iter()
        .take(SHOWN_SUBJECTS)
        .map(|line| match &line.summary.subject {
            Some(subject) => format!("“{subject}”"),
            None => line.id.short().to_owned(),
        })
        .collect();
    let shown = subjects.join(", ");
    match count.saturating_sub(subjects.len() as u64) {
        _ if shown.is_empty() => None,
        0 => Some(shown),
        more => Some(format!("{shown} and {more} more")),
    }
}

fn commits_of(count: u64) -> String {
    counted(usize::try_from(count).unwrap_or(usize::MAX), "commit", "commits")
}

fn files(count: u64) -> String {
    counted(usize::try_from(count).unwrap_or(usize::MAX), "file", "files")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::record::CommitLine;

    fn list(count: u64) -> CommitList {
        let line = |n| CommitLine::new(format!("{n:040x}").parse().unwrap(), &format!("Change {n}"), "Ann");
        CommitList { count, list: (1..=count).map(line).collect() }
    }

    fn known(added: u64, removed: u64) -> Commits {
        Commits::Known { added: list(added), removed: list(removed) }
    }

    #[test]
    fn a_line_says_what_is_known_and_what_is_not() {
        let files = Some(FileCounts { added: 3, removed: 1, changed: 8 });
        let line = |commits, files| changes_line(&Changes { commits, files });
        assert_eq!(line(known(5, 0), files), "5 commits, 12 files changed");
        assert_eq!(line(known(1, 0), None), "1 commit");
        assert_eq!(line(known(0, 2), files), "takes back 2 commits, 12 files changed");
        assert_eq!(line(known(2, 1), None), "2 commits, takes back 1 commit");
        assert_eq!(line(known(0, 0), Some(FileCounts::default())), "no new commits, 0 files changed");
        assert_eq!(line(Commits::First, None), "first build of its branch");
        assert_eq!(line(Commits::unknown("x", CommitList::default()), None), "commits unknown");
        assert_eq!(line(Commits::unknown("x", list(2)), None), "at least 2 commits");
    }

    #[test]
    fn at_most_three_subjects_are_named() {
        assert_eq!(subjects_line(&known(2, 0)).unwrap(), "“Change 1”, “Change 2”");
        assert_eq!(subjects_line(&known(5, 1)).unwrap(), "“Change 1”, “Change 2”, “Change 3” and 2 more");
        assert_eq!(subjects_line(&known(0, 1)).unwrap(), "“Change 1”");
        assert_eq!(subjects_line(&known(0, 0)), None);
        let id: crate::protocol::ids::Commit = "15e9f13a".repeat(5).parse().unwrap();
        let bare = CommitList { count: 1, list: vec![CommitLine::new(id, "", "")] };
        let commits = Commits::Known { added: bare, removed: CommitList::default() };
        assert_eq!(subjects_line(&commits).unwrap(), "15e9f13a");
        let sentence = |commits| changes_sentence(&Changes { commits, files: None });
        assert_eq!(sentence(known(1, 0)), "1 commit: “Change 1”");
        assert_eq!(sentence(Commits::unknown("no git", list(1))), "at least 1 commit (no git): “Change 1”");
    }
}
