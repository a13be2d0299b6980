//! What a request means: from a branch, a commit, a name, or "the one before" to one build.
//!
//! Pure: over what was read. A build is deployed because its record says so, never because a name looks right.

use std::collections::BTreeMap;

use super::coordinator::Resolved;
use super::ids::{ArtifactName, Branch, Commit, ReleaseName, Unit};
use super::record::{BadMark, Build, Fault, History, Outcome, Release, Request, Run, RunState, Selector, Step, Wanted};

/// What is known about an app's builds and a unit's past.
#[derive(Clone, Copy, Debug)]
pub struct Catalogue<'a> {
    /// The unit, for messages.
    pub unit: &'a Unit,
    /// Every build record.
    pub builds: &'a [Build],
    /// Every CI run.
    pub runs: &'a BTreeMap<ArtifactName, Run>,
    /// Every bad mark.
    pub bad: &'a BTreeMap<ArtifactName, BadMark>,
    /// Where the branch is at the repository; none: not asked, the newest recorded build counts.
    pub tip: Option<&'a Commit>,
    /// Every history record of the unit, in any order.
    pub history: &'a [History],
    /// What is committed.
    pub committed: Option<&'a Release>,
}

/// The branch whose tip must be known before [`resolve`], if the request means one.
#[must_use]
pub fn branch_meant(request: &Request, builds: &[Build]) -> Option<Branch> {
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
/// ambiguous or not allowed here. Each names the way on.
pub fn resolve(request: &Request, known: &Catalogue<'_>) -> Result<Resolved, Fault> {
    let mut notes = Vec::new();
    let (build, release) = match &request.wanted {
        Wanted::Deploy(selector) => (known.select(selector, request.force, &mut notes)?, None),
        Wanted::Rollback(name) => {
            let (build, release) = known.way_back(name.as_ref())?;
            (build, Some(release))
        }
    };
    if let Some(mark) = known.bad.get(&build.artifact) {
        let marked = format!("{} is marked bad by {}: {}", build.artifact, mark.by, mark.reason);
        if !request.force {
            return Err(Fault::new(Step::BadMark, &marked));
        }
        notes.push(format!("forced although {marked}"));
    }
    Ok(Resolved { build: build.clone(), release, notes })
}

impl<'a> Catalogue<'a> {
    fn select(&self, selector: &Selector, force: bool, notes: &mut Vec<String>) -> Result<&'a Build, Fault> {
        match selector {
            Selector::Artifact(artifact) => self.named(artifact.as_str()).ok_or_else(|| {
                let app = &self.unit.app;
                missing(&format!("no build record {artifact}; see: cutover builds {app}"))
            }),
            Selector::Commit(prefix) => self.of_commit(prefix),
            Selector::Branch(branch) => self.of_branch(branch, force, notes),
            Selector::Any(text) => match (self.named(text), text.parse::<Branch>()) {
                (Some(build), _) => Ok(build),
                (None, Ok(branch)) => self.of_branch(&branch, force, notes),
                (None, Err(e)) => Err(Fault::new(Step::Request, &e.to_string())),
            },
        }
    }

    fn named(&self, name: &str) -> Option<&'a Build> {
        self.builds.iter().find(|build| build.artifact.as_str() == name)
    }

    /// The newest of several builds of one commit is the build of that commit: a rebuild replaces.
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

    fn of_branch(&self, branch: &Branch, force: bool, notes: &mut Vec<String>) -> Result<&'a Build, Fault> {
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
        let newer = |run: &&Run| run.branch == *branch && run.at > build.at && run.commit != build.commit;
        let unfinished = self.runs.values().filter(newer).max_by_key(|run| run.at);
        match unfinished.map(|run| (run, run.state)) {
            None | Some((_, RunState::Published | RunState::Canceled)) => Ok(build),
            Some((run, state @ (RunState::Building | RunState::Failed))) => {
                let how = if state == RunState::Building { "is still being built" } else { "failed to build" };
                let reason = format!("the newest commit of {branch}, {}, {how}{instead}", run.commit.short());
                if !force {
                    return Err(missing(&reason));
                }
                notes.push(format!("forced although {reason}"));
                Ok(build)
            }
        }
    }

    /// The releases that this unit has run, each on top of what it took over from; what was rolled back from is
    /// gone from it. The last is what runs.
    fn line(&self) -> Vec<(&'a ArtifactName, &'a ReleaseName)> {
        let mut done: Vec<&History> = self.history.iter().filter(|h| h.outcome == Some(Outcome::Done)).collect();
        done.sort_by_key(|history| history.epoch);
        let mut line: Vec<(&ArtifactName, &ReleaseName)> = Vec::new();
        for history in done {
            let (Some(artifact), Some(release)) = (&history.artifact, &history.release) else { continue };
            match line.iter().position(|(_, earlier)| *earlier == release) {
                Some(at) => line.truncate(at.saturating_add(1)),
                None => line.push((artifact, release)),
            }
        }
        line
    }

    fn way_back(&self, name: Option<&ArtifactName>) -> Result<(&'a Build, ReleaseName), Fault> {
        let committed =
            self.committed.ok_or_else(|| missing("nothing was ever deployed here: there is no way back"))?;
        let line = self.line();
        let found = match name {
            None => line.iter().rev().find(|(artifact, release)| {
                **release < committed.release
                    && !self.bad.contains_key(*artifact)
                    && self.named(artifact.as_str()).is_some()
            }),
            Some(name) => line.iter().rev().find(|(artifact, _)| *artifact == name),
        };
        // What a rollback left behind is no longer in the line, and may still be asked for by name.
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
