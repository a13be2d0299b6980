//! Resolving a request: from a branch, a commit, a name, or "the one before" to one build.
//!
//! Pure, over records that the caller has read. The build record decides what a build is, never the look of a name.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::coordinator::Resolved;
use super::ids::{ArtifactName, Branch, Commit, ReleaseName, Unit};
use super::record::{BadMark, Build, Fault, History, Outcome, Release, Request, Run, RunState, Selector, Step, Wanted};

/// The records of an app's builds and of a unit's history.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Catalogue<'a> {
    /// The unit, for messages.
    pub(crate) unit: &'a Unit,
    pub(crate) builds: &'a [Build],
    pub(crate) runs: &'a BTreeMap<ArtifactName, Run>,
    pub(crate) bad: &'a BTreeMap<ArtifactName, BadMark>,
    /// The branch's commit in the repository; none: the repository was not asked, and the newest recorded build counts.
    pub(crate) tip: Option<&'a Commit>,
    /// Every history record of the unit, in any order.
    pub(crate) history: &'a [History],
    pub(crate) committed: Option<&'a Release>,
    /// Tells a lost run from one that CI still works on.
    pub(crate) now: Timestamp,
}

/// The branch whose tip the caller must look up before [`resolve`], if the request means a branch.
#[must_use]
pub(crate) fn branch_meant(request: &Request, builds: &[Build]) -> Option<Branch> {
    match &request.wanted {
        Wanted::Deploy(Selector::Branch(branch)) => Some(branch.clone()),
        Wanted::Deploy(Selector::Any(text)) if !builds.iter().any(|b| b.artifact.as_str() == text) => text.parse().ok(),
        Wanted::Deploy(Selector::Any(_) | Selector::Artifact(_) | Selector::Commit(_)) | Wanted::Rollback(_) => None,
    }
}

/// Finds the one build that the request means.
///
/// # Errors
///
/// The fault that refuses the request: [`Step::NotFound`], [`Step::BadMark`], or [`Step::Request`] for what is
/// ambiguous, not the newest of its branch, or not allowed here. Each names the way on.
pub(crate) fn resolve(request: &Request, known: &Catalogue<'_>) -> Result<Resolved, Fault> {
    let mut notes = Vec::new();
    let (build, release) = match &request.wanted {
        Wanted::Deploy(selector) => (known.select(selector, strictness(request), &mut notes)?, None),
        Wanted::Rollback(name) => {
            let (build, release) = known.rollback_target(name.as_ref())?;
            (build, Some(release))
        }
    };
    if let Some(mark) = known.bad.get(&build.artifact) {
        let marked = format!("{} is marked bad by {}: {}", build.artifact, mark.author.by, mark.author.reason);
        if !request.force {
            return Err(Fault::new(Step::BadMark, &marked));
        }
        notes.push(format!("forced although {marked}"));
    }
    Ok(Resolved { build: build.clone(), release, notes })
}

/// How a build that is not the newest of its branch is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Strictness {
    /// The request says `force`: the build is deployed, with a note.
    Note,
    Refuse,
}

const fn strictness(request: &Request) -> Strictness {
    if request.force { Strictness::Note } else { Strictness::Refuse }
}

impl<'a> Catalogue<'a> {
    fn select(&self, selector: &Selector, strictness: Strictness, notes: &mut Vec<String>) -> Result<&'a Build, Fault> {
        match selector {
            Selector::Artifact(artifact) => self.named(artifact.as_str()).ok_or_else(|| {
                let app = &self.unit.app;
                missing(&format!(
                    "no build record {artifact}: it was never published, or was removed since; see: cutover builds {app}"
                ))
            }),
            Selector::Commit(prefix) => self.of_commit(prefix),
            Selector::Branch(branch) => self.of_branch(branch, strictness, notes),
            Selector::Any(text) => match (self.named(text), text.parse::<Branch>()) {
                (Some(build), _) => Ok(build),
                (None, Ok(branch)) => self.of_branch(&branch, strictness, notes),
                (None, Err(e)) => Err(Fault::new(Step::Request, &e.to_string())),
            },
        }
    }

    fn named(&self, name: &str) -> Option<&'a Build> {
        self.builds.iter().find(|build| build.artifact.as_str() == name)
    }

    /// A rebuild replaces the earlier build of its commit, so the newest counts.
    fn newest(builds: impl Iterator<Item = &'a Build>) -> Option<&'a Build> {
        builds.max_by_key(|build| (build.at, &build.artifact))
    }

    fn of_commit(&self, prefix: &str) -> Result<&'a Build, Fault> {
        let matching = || self.builds.iter().filter(|build| build.commit.as_str().starts_with(prefix));
        let first = matching().next().ok_or_else(|| missing(&format!("no build of commit {prefix}")))?;
        if let Some(other) = matching().find(|build| build.commit != first.commit) {
            let reason =
                format!("commit {prefix} is ambiguous: {} and {}; give more digits", first.commit, other.commit);
            return Err(Fault::new(Step::Request, &reason));
        }
        if let Some(other) = matching().find(|build| build.branch != first.branch) {
            let reason = format!(
                "commit {prefix} was built on branch {} and on {}; ask for {} or {}",
                first.branch, other.branch, first.artifact, other.artifact
            );
            return Err(Fault::new(Step::Request, &reason));
        }
        Self::newest(matching()).ok_or_else(|| missing(&format!("no build of commit {prefix}")))
    }

    /// The build at the repository's tip; where the repository is not asked, the newest recorded build of the branch.
    ///
    /// That build is refused while `runs/` has a newer commit of the branch that is building, or has failed: the author asks
    /// for the branch as it is, and would get an older one. Each newer run counts by itself, so none hides another. Runs
    /// that were canceled, that are published (their build records were removed, or are older) or that are lost do not
    /// count; a lost run is noted.
    fn of_branch(&self, branch: &Branch, strictness: Strictness, notes: &mut Vec<String>) -> Result<&'a Build, Fault> {
        let on_branch = || self.builds.iter().filter(|build| build.branch == *branch);
        let newest = Self::newest(on_branch());
        let instead = newest.map_or_else(String::new, |build| {
            format!(
                "; the newest that can be deployed is {0}: cutover deploy {1} artifact:{0}",
                build.artifact, self.unit
            )
        });
        if let Some(tip) = self.tip {
            return Self::newest(on_branch().filter(|build| build.commit == *tip)).ok_or_else(|| {
                missing(&format!("branch {branch} is at {}, which has no artifact{instead}", tip.short()))
            });
        }
        let build = newest.ok_or_else(|| {
            missing(&format!("no build and no branch is called {branch}; see: cutover builds {}", self.unit.app))
        })?;
        let newer = self.runs.values().filter(|run| run.branch == *branch && self.is_newer(run, build));
        // CI will never report the end of a lost run, so the request does not wait for it.
        let (lost, known): (Vec<&Run>, Vec<&Run>) = newer.partition(|run| run.is_lost(self.now));
        if let Some(run) = lost.into_iter().max_by_key(|run| run.at) {
            notes.push(format!(
                "the build of {}, a newer commit of {branch}, is lost: CI never said how it ended",
                run.commit.short()
            ));
        }
        let unfinished = known.into_iter().filter_map(|run| match run.state {
            RunState::Building => Some((run, "is still being built")),
            RunState::Failed => Some((run, "failed to build")),
            RunState::Canceled | RunState::Published => None,
        });
        let Some((run, how)) = unfinished.max_by_key(|(run, _)| (run.begun_at.unwrap_or(run.at), run.at)) else {
            return Ok(build);
        };
        let reason = format!("{}, a newer commit of {branch}, {how}{instead}", run.commit.short());
        if strictness == Strictness::Refuse {
            return Err(Fault::new(Step::Request, &reason));
        }
        notes.push(format!("forced although {reason}"));
        Ok(build)
    }

    /// Whether a run is of a newer commit than a build: by the times at which CI began both or, where one of them is
    /// unknown, by their last reports. An older commit that fails late is not newer.
    fn is_newer(&self, run: &Run, build: &Build) -> bool {
        let own = self.runs.get(&build.artifact).and_then(|run| run.begun_at);
        run.commit != build.commit
            && match (run.begun_at, own) {
                (Some(run), Some(own)) => run > own,
                (None, _) | (_, None) => run.at > build.at,
            }
    }

    /// The unit's releases in their order, without those that a rollback has left. The last one runs.
    fn lineage(&self) -> Vec<(&'a ArtifactName, &'a ReleaseName)> {
        let mut done: Vec<&History> = self.history.iter().filter(|h| h.outcome == Some(Outcome::Done)).collect();
        done.sort_by_key(|history| history.epoch);
        let mut lineage: Vec<(&ArtifactName, &ReleaseName)> = Vec::new();
        for history in done {
            let (Some(artifact), Some(release)) = (&history.artifact, &history.release) else { continue };
            match lineage.iter().position(|(_, earlier)| *earlier == release) {
                Some(at) => lineage.truncate(at.saturating_add(1)),
                None => lineage.push((artifact, release)),
            }
        }
        lineage
    }

    fn rollback_target(&self, name: Option<&ArtifactName>) -> Result<(&'a Build, ReleaseName), Fault> {
        let committed =
            self.committed.ok_or_else(|| missing("nothing was ever deployed here: there is no way back"))?;
        let lineage = self.lineage();
        let found = match name {
            None => lineage.iter().rev().find(|(artifact, release)| {
                **release < committed.release
                    && !self.bad.contains_key(*artifact)
                    && self.named(artifact.as_str()).is_some()
            }),
            Some(name) => lineage.iter().rev().find(|(artifact, _)| *artifact == name),
        };
        // A release that a rollback has left is not in the lineage, but may still be named.
        let left = || {
            let mut done =
                self.history.iter().filter(|h| h.outcome == Some(Outcome::Done) && h.artifact.as_ref() == name);
            let newest = done.clone().map(|h| h.epoch).max();
            done.find(|h| Some(h.epoch) == newest).and_then(|h| Some((h.artifact.as_ref()?, h.release.as_ref()?)))
        };
        let (artifact, release) = found.copied().or_else(|| name.and_then(|_| left())).ok_or_else(|| {
            missing(&match name {
                Some(name) => format!("{name} was never deployed to {} with success", self.unit),
                None => format!("no release before {} was deployed here with success", committed.release),
            })
        })?;
        let build =
            self.named(artifact.as_str()).ok_or_else(|| missing(&format!("the build record of {artifact} is gone")))?;
        Ok((build, release.clone()))
    }
}

fn missing(reason: &str) -> Fault {
    Fault::new(Step::NotFound, reason)
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::protocol::record::Summary;

    fn at(minute: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_mins(minute)
    }

    fn commit(n: u32) -> Commit {
        format!("{n:08x}").repeat(5).parse().unwrap()
    }

    fn build(n: u32, minute: i64) -> Build {
        Build { at: at(minute), ..Build::sample(&format!("master-{n:08x}")) }
    }

    fn run(state: RunState, n: u32, begun: Option<i64>, minute: i64) -> (ArtifactName, Run) {
        let run = Run {
            branch: "master".parse().unwrap(),
            commit: commit(n),
            summary: Summary::default(),
            state,
            url: None,
            by: "ci".to_owned(),
            reason: String::new(),
            begun_at: begun.map(at),
            lost_at: None,
            at: at(minute),
        };
        (format!("master-{n:08x}").parse().unwrap(), run)
    }

    fn building(n: u32, minute: i64, lost_at: Option<i64>) -> (ArtifactName, Run) {
        let (name, run) = run(RunState::Building, n, Some(minute), minute);
        (name, Run { lost_at: lost_at.map(at), ..run })
    }

    fn deploy_master(runs: impl IntoIterator<Item = (ArtifactName, Run)>, now: i64) -> Result<Resolved, Fault> {
        let unit = "shop/production".parse().unwrap();
        let known = Catalogue {
            unit: &unit,
            builds: &[build(1, 0)],
            runs: &runs.into_iter().collect(),
            bad: &BTreeMap::new(),
            tip: None,
            history: &[],
            committed: None,
            now: at(now),
        };
        resolve(&Request::parse(b"branch:master").unwrap(), &known)
    }

    #[test]
    fn a_newer_run_that_is_building_holds_a_deploy_until_it_is_lost() {
        let fault = deploy_master([building(2, 10, Some(70))], 69).unwrap_err();
        assert!(fault.reason.contains("00000002, a newer commit of master, is still being built"), "{}", fault.reason);
        let found = deploy_master([building(2, 10, Some(70))], 70).unwrap();
        assert_eq!(found.build.artifact.as_str(), "master-00000001");
        assert!(found.notes[0].contains("00000002") && found.notes[0].contains("lost"), "{:?}", found.notes);
    }

    #[test]
    fn a_lost_run_does_not_hide_one_that_is_building() {
        let runs = [building(2, 10, None), building(3, 20, Some(30))];
        let fault = deploy_master(runs, 40).unwrap_err();
        assert!(fault.reason.contains("00000002, a newer commit of master, is still being built"), "{}", fault.reason);
    }
    #[test]
    fn neither_a_canceled_nor_a_published_run_hides_a_newer_one_that_failed_or_is_built() {
        use RunState::{Building, Canceled, Failed, Published};
        for (unfinished, how) in [(Failed, "failed to build"), (Building, "is still being built")] {
            for newest in [Canceled, Published] {
                let runs = [run(unfinished, 2, Some(10), 11), run(newest, 3, Some(20), 21)];
                let fault = deploy_master(runs, 40).unwrap_err();
                assert_eq!(fault.step, Step::Request, "there is a build, and it is refused");
                let expected = format!("00000002, a newer commit of master, {how}; the newest that can be deployed is");
                assert!(fault.reason.contains(&expected), "{newest:?}: {}", fault.reason);
            }
        }
        for passed_over in [Canceled, Published] {
            let found = deploy_master([run(passed_over, 2, Some(10), 11)], 40).unwrap();
            assert!(found.notes.is_empty(), "{passed_over:?}: {:?}", found.notes);
        }
    }

    #[test]
    fn of_several_unfinished_runs_the_newest_is_named() {
        let runs = [run(RunState::Failed, 2, Some(10), 30), run(RunState::Failed, 3, Some(20), 25)];
        let fault = deploy_master(runs, 40).unwrap_err();
        assert!(fault.reason.starts_with("00000003, a newer commit"), "{}", fault.reason);
    }

    #[test]
    fn an_older_commit_that_fails_late_is_not_a_newer_one() {
        // The build that is recorded at 0 began at -5.
        let own = run(RunState::Published, 1, Some(-5), 0);
        let late = deploy_master([own.clone(), run(RunState::Failed, 2, Some(-10), 10)], 40).unwrap();
        assert_eq!(late.build.artifact.as_str(), "master-00000001");
        // A run that began later and failed before the build was recorded is newer.
        let fault = deploy_master([own, run(RunState::Failed, 2, Some(-4), -1)], 40).unwrap_err();
        assert!(fault.reason.contains("00000002, a newer commit of master, failed to build"), "{}", fault.reason);
        // Where CI did not report a start, the last report counts.
        for begun in [None, Some(-10)] {
            assert!(deploy_master([run(RunState::Failed, 2, begun, 10)], 40).is_err(), "{begun:?}");
        }
    }

    #[test]
    fn runs_of_other_branches_and_of_the_same_commit_hold_no_deploy() {
        let (name, elsewhere) = run(RunState::Failed, 2, None, 10);
        let elsewhere = (name, Run { branch: "hotfix".parse().unwrap(), ..elsewhere });
        assert!(deploy_master([elsewhere], 40).is_ok());
        assert!(deploy_master([run(RunState::Failed, 1, None, 10)], 40).is_ok());
    }
}
