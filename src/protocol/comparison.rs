//! What a build changes compared with another one, from the build records alone.
//!
//! Each record names the build before it on its branch, and what was new since that one. Such steps lead from a build back
//! to an earlier one; their commits add up. Files do not add up, since a file can change in two steps, so they are known
//! only for a single step. A gap between the two builds is named, never skipped.

use std::collections::BTreeMap;

use super::ids::{ArtifactName, Commit};
use super::record::{Build, Changes, CommitList, Commits, FileCounts, Since};

/// The most steps between two builds.
const MAX_STEPS: usize = 1000;

/// The build that another is compared with. Its record may be gone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Earlier<'a> {
    pub(crate) artifact: &'a ArtifactName,
    /// None if it is not known.
    pub(crate) commit: Option<&'a Commit>,
}

impl Earlier<'_> {
    fn is(&self, artifact: &ArtifactName, commit: &Commit) -> bool {
        self.artifact == artifact || self.commit == Some(commit)
    }
}

/// The changes from the build `from` to the build `to`.
#[must_use]
pub(crate) fn compare<'a>(builds: impl IntoIterator<Item = &'a Build>, from: Earlier<'_>, to: &'a Build) -> Changes {
    let builds: BTreeMap<&ArtifactName, &Build> = builds.into_iter().map(|build| (&build.artifact, build)).collect();
    let walk = Walk::new(&builds, to, from);
    if walk.is_there {
        return walk.changes(from, to);
    }
    // After a rollback the steps lead the other way.
    if let Some(later) = builds.get(from.artifact) {
        let to = Earlier { artifact: &to.artifact, commit: Some(&to.commit) };
        let back = Walk::new(&builds, later, to);
        if back.is_there {
            return reversed(back.changes(to, later));
        }
    }
    let reason = format!("no recorded builds lead from {} to {}: {}", from.artifact, to.artifact, walk.end);
    // Commits of the steps may be in the other build too, so none is certain.
    Changes { commits: Commits::unknown(&reason, CommitList::default()), files: None }
}

fn reversed(changes: Changes) -> Changes {
    let commits = match changes.commits {
        Commits::First => Commits::First,
        Commits::Known { added, removed } => Commits::Known { added: removed, removed: added },
        Commits::Unknown { reason, .. } => Commits::Unknown { reason, added: CommitList::default() },
    };
    Changes { commits, files: changes.files.map(FileCounts::reversed) }
}

/// The steps from a build back to an earlier one.
struct Walk<'a> {
    /// Newest first, each with the build that it leads to.
    steps: Vec<Step<'a>>,
    /// Whether they lead to the earlier build.
    is_there: bool,
    /// Why they lead no further.
    end: String,
}

struct Step<'a> {
    artifact: &'a ArtifactName,
    since: &'a Since,
}

impl<'a> Walk<'a> {
    fn new(builds: &BTreeMap<&ArtifactName, &'a Build>, later: &'a Build, earlier: Earlier<'_>) -> Self {
        let mut walk = Self { steps: Vec::new(), is_there: false, end: String::new() };
        let mut at = later;
        while !earlier.is(&at.artifact, &at.commit) {
            let artifact = &at.artifact;
            let Some(since) = &at.since else {
                walk.end = format!("the record of {artifact} lists no commits");
                return walk;
            };
            let Some(base) = &since.base else {
                walk.end = format!("{artifact} was the first build of its branch");
                return walk;
            };
            walk.steps.push(Step { artifact, since });
            if earlier.is(&base.artifact, &base.commit) {
                break;
            }
            match builds.get(&base.artifact) {
                Some(build) if walk.steps.len() < MAX_STEPS => at = build,
                Some(_) => {
                    walk.end = format!("there are more than {MAX_STEPS} builds between them");
                    return walk;
                }
                None => {
                    walk.end = format!("the record of {} was removed", base.artifact);
                    return walk;
                }
            }
        }
        walk.is_there = true;
        walk
    }

    /// The changes of all steps, which lead from `to` back to `from`.
    fn changes(&self, from: Earlier<'_>, to: &Build) -> Changes {
        match self.steps.as_slice() {
            [] => {
                let none = Commits::Known { added: CommitList::default(), removed: CommitList::default() };
                // A rebuild of the same commit may have other files.
                let files = (*from.artifact == to.artifact).then(FileCounts::default);
                Changes { commits: none, files }
            }
            [only] => only.since.changes.clone(),
            steps => Changes { commits: sum(steps), files: None },
        }
    }
}

/// The commits of several steps. They add up as long as each build contains the one before.
fn sum(steps: &[Step<'_>]) -> Commits {
    let mut all = CommitList::default();
    for Step { artifact, since } in steps {
        let why = match &since.changes.commits {
            Commits::Known { added, removed } => {
                all = all.and_older(added);
                if removed.is_empty() {
                    continue;
                }
                format!("{artifact} lacks commits of the build before it: its branch was rewritten, or it is older")
            }
            Commits::First => format!("{artifact} was the first build of its branch"),
            Commits::Unknown { reason, added } => {
                all = all.and_older(added);
                format!("{artifact}: {reason}")
            }
        };
        return Commits::unknown(&why, all);
    }
    Commits::Known { added: all, removed: CommitList::default() }
}

#[cfg(test)]
mod tests {
    use super::super::record::{Base, CommitLine};
    use super::*;

    /// `master-0000000n`, with `since` the build before it.
    fn build(n: u64, since: Option<Since>) -> Build {
        Build { since, ..Build::sample(&format!("master-{n:08x}")) }
    }

    fn list(commits: &[u64]) -> CommitList {
        let line = |n: &u64| CommitLine::new(format!("{n:040x}").parse().unwrap(), &format!("commit {n}"), "Ann");
        CommitList { count: u64::try_from(commits.len()).unwrap(), list: commits.iter().map(line).collect() }
    }

    fn step(n: u64, base: u64, added: &[u64], removed: &[u64]) -> Build {
        let commits = Commits::Known { added: list(added), removed: list(removed) };
        let files = Some(FileCounts { added: 1, removed: 2, changed: n });
        build(n, Some(since(base, Changes { commits, files })))
    }

    fn since(base: u64, changes: Changes) -> Since {
        let base = build(base, None);
        Since { base: Some(Base { artifact: base.artifact, commit: base.commit }), changes }
    }

    fn first(n: u64) -> Build {
        build(n, Some(Since { base: None, changes: Changes { commits: Commits::First, files: None } }))
    }

    fn between(builds: &[Build], from: u64, to: u64) -> Changes {
        let from = build(from, None);
        let to = builds.iter().find(|build| build.artifact == build_name(to)).unwrap();
        compare(builds, Earlier { artifact: &from.artifact, commit: Some(&from.commit) }, to)
    }

    fn build_name(n: u64) -> ArtifactName {
        build(n, None).artifact
    }

    fn reason(changes: &Changes) -> &str {
        let Commits::Unknown { reason, .. } = &changes.commits else { panic!("{changes:?}") };
        reason
    }

    #[test]
    fn the_commits_of_all_steps_add_up_and_a_rollback_takes_them_back() {
        let builds = [first(1), step(2, 1, &[21, 20], &[]), step(3, 2, &[30], &[])];
        let forward = between(&builds, 1, 3);
        assert_eq!(forward.commits, Commits::Known { added: list(&[30, 21, 20]), removed: list(&[]) });
        assert_eq!(forward.files, None, "a file may have changed in both steps");
        let back = between(&builds, 3, 1);
        assert_eq!(back.commits, Commits::Known { added: list(&[]), removed: list(&[30, 21, 20]) });
        let one = between(&builds, 2, 3);
        assert_eq!(one.files, Some(FileCounts { added: 1, removed: 2, changed: 3 }));
        assert_eq!(between(&builds, 3, 2).files, Some(FileCounts { added: 2, removed: 1, changed: 3 }));
        let same = between(&builds, 3, 3);
        assert_eq!(same.commits, Commits::Known { added: list(&[]), removed: list(&[]) });
        assert_eq!(same.files, Some(FileCounts::default()));
    }

    #[test]
    fn a_removed_record_in_between_is_a_gap_but_a_removed_start_is_none() {
        let all = [step(2, 1, &[20], &[]), step(3, 2, &[30], &[])];
        assert_eq!(between(&all, 1, 3).commits, Commits::Known { added: list(&[30, 20]), removed: list(&[]) });
        let changes = between(&all[1..], 1, 3);
        let says = "no recorded builds lead from master-00000001 to master-00000003: \
                    the record of master-00000002 was removed";
        assert_eq!(reason(&changes), says);
    }

    #[test]
    fn a_force_push_is_counted_in_one_step_and_not_added_up_over_several() {
        let builds = [first(1), step(2, 1, &[20], &[]), step(3, 2, &[31, 30], &[20])];
        assert_eq!(between(&builds, 2, 3).commits, Commits::Known { added: list(&[31, 30]), removed: list(&[20]) });
        let over = between(&builds, 1, 3);
        assert!(reason(&over).starts_with("master-00000003 lacks commits of the build before it"), "{over:?}");
        let Commits::Unknown { added, .. } = over.commits else { panic!() };
        assert_eq!(added, list(&[31, 30]));
    }

    #[test]
    fn an_unknown_step_and_records_of_older_versions_are_named() {
        let shallow = Commits::unknown("the clone is shallow", CommitList::default());
        let unknown = build(2, Some(since(1, Changes { commits: shallow, files: None })));
        let builds = [first(1), unknown, step(3, 2, &[30], &[])];
        let over = between(&builds, 1, 3);
        assert_eq!(reason(&over), "master-00000002: the clone is shallow");
        let old = [build(1, None), build(2, None), step(3, 2, &[30], &[])];
        let over = between(&old, 1, 3);
        assert!(reason(&over).ends_with("the record of master-00000002 lists no commits"), "{over:?}");
        let other = [first(1), first(2)];
        let over = between(&other, 1, 2);
        assert!(reason(&over).ends_with("master-00000002 was the first build of its branch"), "{over:?}");
    }

    #[test]
    fn records_that_name_each_other_end() {
        let circle = [step(2, 3, &[20], &[]), step(3, 2, &[30], &[])];
        assert!(reason(&between(&circle, 1, 3)).contains("more than 1000 builds"));
    }
}
