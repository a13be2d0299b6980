//! Which build of a branch is the newest; see [`resolve`](super::resolve) for the reasons.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::git_ref::BuildRef;
use super::ids::Commit;
use super::record::{Build, Place, Run};

/// The distance to the latest known place of a branch, for a machine whose clock is behind that.
const STEP: SignedDuration = SignedDuration::from_micros(1);
/// The distance between two builds of one commit. A thousand of them fit between two commits.
const REBUILD_STEP: SignedDuration = SignedDuration::from_nanos(1);

/// The newest of some builds of one branch or tag.
///
/// A build whose commit is an ancestor of another one's is never the newest. Of the others, the one with the latest
/// place is.
#[must_use]
pub(crate) fn newest<'a>(builds: impl IntoIterator<Item = &'a Build>) -> Option<&'a Build> {
    let builds: Vec<&Build> = builds.into_iter().collect();
    let contained: BTreeSet<&str> =
        builds.iter().flat_map(|build| build.place.ancestors.iter().map(String::as_str)).collect();
    let latest = |builds: &mut dyn Iterator<Item = &&'a Build>| {
        builds.copied().max_by_key(|build| (position(build), &build.artifact))
    };
    latest(&mut builds.iter().filter(|build| !contained.contains(Place::digits(&build.commit))))
        // Only records that contradict each other contain all of them.
        .or_else(|| latest(&mut builds.iter()))
}

/// The newest build of each branch and of each tag.
#[must_use]
pub(crate) fn newest_of_each(builds: &[Build]) -> Vec<&Build> {
    let mut by_ref: BTreeMap<BuildRef<'_>, Vec<&Build>> = BTreeMap::new();
    for build in builds.iter().filter(|build| !build.of().is_pull_request()) {
        by_ref.entry(build.of()).or_default().push(build);
    }
    by_ref.into_values().filter_map(newest).collect()
}

/// The place of a build. Records of earlier versions have none, and are in the order of their times.
pub(super) fn position(build: &Build) -> Timestamp {
    build.place.order.unwrap_or(build.at)
}

/// The place of a run. Without one, it is where CI began it or, where that is unknown, its last report.
fn position_of_run(run: &Run) -> Timestamp {
    run.place.order.or(run.begun_at).unwrap_or(run.at)
}

/// Whether a run is of a newer commit than a build of the same branch, whose own run is `own`.
///
/// As between builds, ancestors decide before places. Against a build without a place, the times at which CI began both
/// decide or, where one of them is unknown, their last reports. An older commit that fails late is not newer.
pub(super) fn is_newer(run: &Run, build: &Build, own: Option<&Run>) -> bool {
    if run.commit == build.commit || build.place.contains(&run.commit) {
        return false;
    }
    if run.place.contains(&build.commit) {
        return true;
    }
    match (build.place.order, run.begun_at, own.and_then(|own| own.begun_at)) {
        (Some(order), _, _) => position_of_run(run) > order,
        (None, Some(run), Some(own)) => run > own,
        (None, _, _) => run.at > build.at,
    }
}

/// The place of a commit whose build begins, or is published without a report of its beginning.
///
/// A commit that has a place keeps it, and each further build of it comes directly behind the one before. Otherwise the
/// place is the time `now`, or behind every known place of the branch if `now` is not later than these.
#[must_use]
pub(crate) fn order_of<'a>(
    of: BuildRef<'_>,
    commit: &Commit,
    builds: impl IntoIterator<Item = &'a Build>,
    runs: impl IntoIterator<Item = &'a Run>,
    now: Timestamp,
) -> Timestamp {
    let (own, others): (Vec<&Build>, Vec<&Build>) =
        builds.into_iter().filter(|build| build.of() == of).partition(|build| build.commit == *commit);
    let (own_runs, other_runs): (Vec<&Run>, Vec<&Run>) =
        runs.into_iter().filter(|run| run.of() == of).partition(|run| run.commit == *commit);
    let begun = own_runs.iter().filter_map(|run| run.place.order.or(run.begun_at)).min();
    let last_own = own.into_iter().map(position).max();
    let of_runs = other_runs.into_iter().map(position_of_run);
    let latest = others.into_iter().map(position).chain(of_runs).max();
    let behind = |place: Timestamp, step| place.checked_add(step).unwrap_or(place);
    let fresh = || latest.map_or(now, |latest| now.max(behind(latest, STEP)));
    let first = begun.or(last_own).unwrap_or_else(fresh);
    last_own.map_or(first, |last| first.max(behind(last, REBUILD_STEP)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minute: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_mins(minute)
    }

    fn build(n: u32, published: i64, order: Option<i64>, ancestors: &[u32]) -> Build {
        let ancestors = ancestors.iter().map(|n| Place::digits(&commit(*n)).to_owned()).collect();
        let place = Place { order: order.map(at), ancestors };
        Build { at: at(published), place, ..Build::sample(&format!("master-{n:08x}")) }
    }

    fn commit(n: u32) -> Commit {
        format!("{n:08x}").repeat(5).parse().unwrap()
    }

    fn run(n: u32, order: Option<i64>) -> Run {
        Run {
            place: Place { order: order.map(at), ancestors: Vec::new() },
            begun_at: order.map(at),
            at: at(order.unwrap_or(0)),
            ..Run::sample(&format!("master-{n:08x}"))
        }
    }

    /// The number of the newest; the same whatever the order of reading.
    fn newest_of(builds: &[Build]) -> u32 {
        let found = newest(builds).unwrap();
        assert_eq!(newest(builds.iter().rev()).unwrap(), found);
        u32::from_str_radix(&found.commit.as_str()[..8], 16).unwrap()
    }

    #[test]
    fn an_older_commit_that_is_published_last_is_not_the_newest() {
        // By ancestors, although the older one began and ended later.
        assert_eq!(newest_of(&[build(2, 1, Some(1), &[1]), build(1, 9, Some(9), &[])]), 2);
        // By the places, where git did not know.
        assert_eq!(newest_of(&[build(2, 3, Some(2), &[]), build(1, 9, Some(1), &[])]), 2);
        // Records of earlier versions keep the order of their times.
        assert_eq!(newest_of(&[build(2, 3, None, &[]), build(1, 9, None, &[])]), 1);
    }

    #[test]
    fn ancestors_and_times_never_make_a_circle() {
        // 1 is an ancestor of 2, 3 is of another line. By time: 1 after 3 after 2.
        let builds = [build(1, 9, Some(9), &[]), build(2, 1, Some(1), &[1]), build(3, 5, Some(5), &[])];
        assert_eq!(newest_of(&builds), 3);
        // Forged records: each contains the other.
        assert_eq!(newest_of(&[build(1, 1, Some(1), &[2]), build(2, 2, Some(2), &[1])]), 2);
    }

    #[test]
    fn a_branch_that_was_pushed_by_force_has_the_build_that_began_last() {
        // 2 was replaced by 3; both contain 1.
        assert_eq!(newest_of(&[build(2, 2, Some(2), &[1]), build(3, 3, Some(3), &[1]), build(1, 1, Some(1), &[])]), 3);
    }

    #[test]
    fn a_clock_that_is_ahead_puts_no_build_before_the_later_ones() {
        let of = build(1, 0, None, &[]);
        let (of, none): (_, [&Run; 0]) = (of.of(), []);
        let ahead = build(1, 120, Some(120), &[]);
        let next = order_of(of, &commit(2), [&ahead], none, at(5));
        assert!(next > at(120) && next < at(121), "{next}");
        assert_eq!(order_of(of, &commit(2), [&ahead], none, at(500)), at(500));
        // The same by a run that has only begun, and by a record of an earlier version.
        assert!(order_of(of, &commit(2), [], [&run(1, Some(120))], at(5)) > at(120));
        assert!(order_of(of, &commit(2), [&build(1, 120, None, &[])], none, at(5)) > at(120));
    }

    #[test]
    fn a_commit_keeps_its_place_and_a_rebuild_comes_directly_behind() {
        let first = build(1, 3, Some(2), &[]);
        let of = first.of();
        assert_eq!(order_of(of, &commit(1), [], [&run(1, Some(2)), &run(2, Some(4))], at(9)), at(2), "it had begun");
        let later = build(2, 5, Some(4), &[]);
        let again = order_of(of, &commit(1), [&first, &later], [&run(1, Some(2))], at(9));
        assert!(again > at(2) && again < at(4), "{again}");
        assert_eq!(order_of(of, &commit(1), [&first, &later], [], at(9)), again, "its run was removed");
    }

    #[test]
    fn places_of_another_branch_a_tag_and_a_pull_request_do_not_count() {
        let of = build(1, 0, None, &[]);
        let ahead = build(3, 120, Some(120), &[]);
        let name = "v1".parse().unwrap();
        for other in [
            Build { branch: "hotfix".parse().unwrap(), ..ahead.clone() },
            Build { tag: Some(name), ..ahead.clone() },
            Build { pull_request: Some("7".to_owned()), ..ahead.clone() },
        ] {
            assert_eq!(order_of(of.of(), &commit(2), [&other], [], at(5)), at(5), "{other:?}");
        }
        let builds = [of.clone(), Build { pull_request: Some("7".to_owned()), ..ahead }];
        assert_eq!(newest_of_each(&builds), [&of]);
    }
}
