//! Decides which releases are removed from a node.
//!
//! Works on Cutover's records of its own releases. Releases of other tools have no record, and are never pruned. Always kept
//! are the current release, the previous one, and those that the caller protects (the release of a running deploy, its `from`,
//! and `committed`). Of the others, the last releases that ran successfully are kept, up to a number and to a budget of disk space.
//! Releases that failed or never ran do not count, and are removed.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::protocol::ids::ReleaseName;

/// The result of a release's last run on the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunResult {
    /// The switch and its hooks succeeded.
    Done,
    /// A hook failed here, or the deploy was reverted.
    Failed,
}

/// The last time that the node ran a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct LastRun {
    /// Counts this node's switches; higher is later.
    pub(crate) sequence: u64,
    pub(crate) outcome: RunResult,
}

/// A release with a record, as retention needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RecordedRelease {
    pub(crate) name: ReleaseName,
    /// None if the release never ran on this node.
    pub(crate) last_run: Option<LastRun>,
    /// Its disk space; 0 if it is not known.
    pub(crate) disk_bytes: u64,
}

/// How many releases are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// The number of successful releases.
    pub releases: usize,
    /// The most disk space of all releases together. Releases in use are kept anyway, and count.
    pub budget_bytes: Option<u64>,
}

impl Keep {
    /// Without a budget.
    #[must_use]
    pub const fn releases(releases: usize) -> Self {
        Self { releases, budget_bytes: None }
    }
}

impl RecordedRelease {
    pub(crate) fn has_run_well(&self) -> bool {
        self.done_at().is_some()
    }

    fn done_at(&self) -> Option<u64> {
        self.last_run.filter(|run| run.outcome == RunResult::Done).map(|run| run.sequence)
    }
}

/// The releases that ran successfully, latest first.
fn done_latest_first(releases: &[RecordedRelease]) -> Vec<&ReleaseName> {
    let mut done: Vec<_> = releases.iter().filter_map(|it| it.done_at().map(|at| (at, &it.name))).collect();
    done.sort_unstable_by(|a, b| b.cmp(a));
    done.into_iter().map(|(_, name)| name).collect()
}

/// The last release that ran successfully before `current`: the target of a rollback without a name.
#[must_use]
pub(crate) fn previous(releases: &[RecordedRelease], current: Option<&ReleaseName>) -> Option<ReleaseName> {
    done_latest_first(releases).into_iter().find(|name| Some(*name) != current).cloned()
}

/// The releases to remove, oldest name first.
#[must_use]
pub(crate) fn to_remove(
    releases: &[RecordedRelease],
    current: Option<&ReleaseName>,
    protected: &BTreeSet<ReleaseName>,
    keep: Keep,
) -> Vec<ReleaseName> {
    let previous = previous(releases, current);
    let is_used =
        |name: &ReleaseName| Some(name) == current || Some(name) == previous.as_ref() || protected.contains(name);
    let size = |name: &ReleaseName| releases.iter().find(|it| it.name == *name).map_or(0, |it| it.disk_bytes);
    let mut used_bytes: u64 = releases.iter().filter(|it| is_used(&it.name)).map(|it| it.disk_bytes).sum();
    let mut successful = BTreeSet::new();
    for name in done_latest_first(releases).into_iter().take(keep.releases).filter(|name| !is_used(name)) {
        used_bytes = used_bytes.saturating_add(size(name));
        // The last ones are kept without a gap, so that rollbacks reach each of them.
        if keep.budget_bytes.is_some_and(|budget| used_bytes > budget) {
            break;
        }
        successful.insert(name);
    }
    let stays = |name: &ReleaseName| is_used(name) || successful.contains(name);
    let mut gone: Vec<_> = releases.iter().map(|it| &it.name).filter(|name| !stays(name)).cloned().collect();
    gone.sort_unstable();
    gone
}

/// How many failed releases are kept for inspection, the latest first: at most `most`, as far as their sizes fit into `room_bytes`,
/// which the releases leave of the budget.
#[must_use]
pub(crate) fn failed_to_keep(most: usize, room_bytes: Option<u64>, sizes: &[u64]) -> usize {
    let mut left = room_bytes.unwrap_or(u64::MAX);
    let fits = |size: &&u64| left.checked_sub(**size).map(|rest| left = rest).is_some();
    sizes.iter().take(most).take_while(fits).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_releases_are_kept_by_number_and_in_what_the_others_leave_of_the_budget() {
        for (most, room, sizes, kept) in [
            (0, None, &[5][..], 0),
            (1, None, &[5, 1], 1),
            (3, None, &[5, 1], 2),
            (3, Some(5), &[5, 1], 1),
            (3, Some(4), &[5, 1], 0),
            (3, Some(6), &[5, 1, 0], 3),
        ] {
            assert_eq!(failed_to_keep(most, room, sizes), kept, "{most} {room:?} {sizes:?}");
        }
    }

    fn name(n: u64) -> ReleaseName {
        format!("{n:014}").parse().unwrap()
    }

    fn done(n: u64, sequence: u64) -> RecordedRelease {
        RecordedRelease {
            name: name(n),
            last_run: Some(LastRun { sequence, outcome: RunResult::Done }),
            disk_bytes: 10,
        }
    }

    fn failed(n: u64, sequence: u64) -> RecordedRelease {
        let last_run = Some(LastRun { sequence, outcome: RunResult::Failed });
        RecordedRelease { name: name(n), last_run, disk_bytes: 10 }
    }

    fn removed(releases: &[RecordedRelease], current: u64, protected: &[u64], keep: usize) -> Vec<u64> {
        removed_within(releases, current, protected, Keep::releases(keep))
    }

    fn removed_within(releases: &[RecordedRelease], current: u64, protected: &[u64], keep: Keep) -> Vec<u64> {
        let protected = protected.iter().copied().map(name).collect();
        let gone = to_remove(releases, Some(&name(current)), &protected, keep);
        gone.iter().map(|n| n.as_str().parse().unwrap()).collect()
    }

    #[test]
    fn the_last_successful_releases_are_kept() {
        let releases: Vec<_> = (1..=8).map(|n| done(n, n)).collect();
        assert_eq!(removed(&releases, 8, &[], 5), [1, 2, 3]);
    }

    #[test]
    fn failed_releases_are_removed_and_do_not_count() {
        let releases = [done(1, 1), done(2, 2), failed(3, 3), failed(4, 5), done(5, 7)];
        assert_eq!(removed(&releases, 5, &[], 3), [3, 4]);
    }

    #[test]
    fn current_and_previous_are_kept_even_with_keep_0() {
        let releases = [done(1, 1), done(2, 2), done(3, 3), failed(4, 4)];
        assert_eq!(removed(&releases, 3, &[], 0), [1, 4]);
        // After a rollback from 3 to 1, 3 is the previous release, although its name is newer.
        let releases = [done(1, 4), done(2, 2), done(3, 3)];
        assert_eq!(removed(&releases, 1, &[], 0), [2]);
        assert_eq!(previous(&releases, Some(&name(1))), Some(name(3)));
    }

    #[test]
    fn a_failed_release_is_never_a_rollback_target() {
        let releases = [done(1, 1), done(2, 4), failed(3, 3)];
        assert_eq!(previous(&releases, Some(&name(2))), Some(name(1)));
        assert_eq!(previous(&[], None), None);
    }

    #[test]
    fn protected_releases_are_always_kept() {
        let prepared = RecordedRelease { name: name(9), last_run: None, disk_bytes: 10 };
        let releases = [done(1, 1), failed(2, 2), done(3, 3), done(4, 4), prepared];
        assert_eq!(removed(&releases, 4, &[9, 2], 1), [1]);
        assert_eq!(removed(&releases, 4, &[], 1), [1, 2, 9]);
    }

    #[test]
    fn a_failed_current_is_not_removed() {
        let releases = [done(1, 1), failed(2, 2)];
        assert_eq!(removed(&releases, 2, &[], 0), Vec::<u64>::new());
    }

    #[test]
    fn a_budget_removes_the_oldest_kept_releases_and_never_one_in_use() {
        let mut releases: Vec<_> = (1..=6).map(|n| done(n, n)).collect();
        let within = |releases: &[RecordedRelease], protected: &[u64], budget| {
            removed_within(releases, 6, protected, Keep { releases: 5, budget_bytes: Some(budget) })
        };
        assert_eq!(within(&releases, &[], 50), [1]);
        assert_eq!(within(&releases, &[], 49), [1, 2]);
        assert_eq!(within(&releases, &[], 0), [1, 2, 3, 4], "the current and the previous one stay");
        assert_eq!(within(&releases, &[1], 40), [2, 3], "a protected one counts");
        // A large one in between: those before it go as well, though they are small.
        releases[2].disk_bytes = 1000;
        assert_eq!(within(&releases, &[], 50), [1, 2, 3]);
    }
}
