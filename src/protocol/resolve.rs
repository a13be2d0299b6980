//! Resolving a request: from a branch, a tag, a commit, a name, or "the one before" to one build.
//!
//! Pure, over records that the caller has read. The build record decides what a build is, never the look of a name. The
//! coordinator, the dry run, the pages, `cutover builds`, retention and publishers (for `latest`, which prefetching
//! follows) all use these functions, so all of them mean the same build.
//!
//! # What counts as a build of a branch
//!
//! [`BuildRef`]: a branch, a tag and a pull request of one name are three different things. A
//! build of a pull request is none of its branch, because its author may be a stranger who chose the branch's name. Only
//! its artifact name or its commit selects it, and no run of a pull request holds up a deploy of the branch.
//!
//! A plain name is an artifact, else a branch or a tag. If both exist (at different commits, where the repository is
//! asked), the request is refused, and names `branch:…` and `tag:…`. git would take the tag; here that would let everyone
//! who may push tags decide what a deploy of `master` is.
//!
//! # The newest build of a branch
//!
//! With `repo`, the tip of the branch in the repository decides, and nothing else: also after a force-push. A tag means
//! the commit that it points to, through annotated tags. Without `repo`, the records decide ([`newest`](super::newest)):
//!
//! 1. **Ancestors.** A build whose commit is an ancestor of another recorded build's is not the newest, whenever either
//!    was built. `publish` records up to 64 ancestors of the commit if git knows it. They are facts about commits, so they
//!    need no clock. Not being listed means nothing: in a shallow clone git sees few commits or none, and step 2 decides.
//! 2. **Place** (`order`). Of the remaining builds, the one with the latest place is the newest. It is the time at which CI
//!    began the first build of the commit (`cutover build start`), else the time of the publish.
//! 3. The artifact's name, for equal places.
//!
//! Step 1 selects a subset before step 2 compares, so ancestors and places cannot form a circle, and every reader of the
//! same records finds the same build.
//!
//! The place is written by machines with different clocks. Each reads the records of the branch first, and writes a time
//! later than every place there ([`order_of`](super::newest::order_of)), so a later build has a later place, even if an
//! earlier machine's clock was two hours ahead, or its own is two hours behind. Two builds that begin at the same moment
//! may not see each other; either order is right for them. Consul's indexes would be a common clock too, but `consul kv
//! import` and a new cluster renumber them, and an order must survive both.
//!
//! A commit keeps its place: when CI runs again for an old commit, that does not make it newer. A revert is a new commit, so
//! nothing is special about it. A force-push to a commit that was not built before makes that one the newest, since it
//! began last, and the abandoned commits are no descendants of it. A force-push back to an *older* commit that the
//! abandoned ones contain cannot be told, without `repo`, from a late build of that commit: the abandoned build remains the
//! newest. Set `repo`, deploy `commit:…`, or push a new commit.
//!
//! A record without these fields (of an earlier version) is in the order of its publish time, as before.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::comparison::{Earlier, compare};
use super::coordinator::Resolved;
use super::git_ref::{BuildRef, RefKind};
use super::ids::{ArtifactName, Branch, Commit, ReleaseName, Unit};
use super::newest::{is_newer, newest};
use super::record::{
    BadMark, Build, Changes, Fault, History, Outcome, Release, Request, Run, RunState, Selector, Step, Wanted,
};

/// A branch or a tag that a request names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NameMeant {
    pub(crate) name: Branch,
    pub(crate) kind: KindMeant,
}

/// Which of them the name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KindMeant {
    /// Whichever exists.
    Any,
    Branch,
    Tag,
}

/// Where a name is in the git repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tips {
    /// The commit of the branch.
    pub(crate) branch: Option<Commit>,
    /// The commit that the tag points to.
    pub(crate) tag: Option<Commit>,
}

impl NameMeant {
    /// The commit that the name means in the repository.
    ///
    /// # Errors
    ///
    /// [`Step::NotFound`] if there is none, [`Step::Request`] if a branch and a tag have the name.
    pub(crate) fn tip<'a>(&self, tips: &'a Tips) -> Result<&'a Commit, Fault> {
        let name = &self.name;
        let absent = |what: &str| missing(&format!("the repository has no {what} {name}"));
        match (self.kind, &tips.branch, &tips.tag) {
            (KindMeant::Any | KindMeant::Branch, Some(tip), None) | (KindMeant::Branch, Some(tip), Some(_)) => Ok(tip),
            (KindMeant::Any | KindMeant::Tag, None, Some(tip)) | (KindMeant::Tag, Some(_), Some(tip)) => Ok(tip),
            (KindMeant::Any, Some(branch), Some(tag)) if branch == tag => Ok(branch),
            (KindMeant::Any, Some(_), Some(_)) => Err(ambiguous(name)),
            (KindMeant::Any, None, None) => Err(absent("branch and no tag")),
            (KindMeant::Branch, None, None) => Err(absent("branch")),
            (KindMeant::Tag, _, None) => Err(absent("tag")),
            (KindMeant::Branch, None, Some(_)) => {
                Err(missing(&format!("the repository has no branch {name}, but a tag: ask for tag:{name}")))
            }
        }
    }

    /// The name as a branch and as a tag, as a question to the nodes has it.
    #[must_use]
    pub(crate) fn into_names(self) -> (Option<Branch>, Option<Branch>) {
        match self.kind {
            KindMeant::Any => (Some(self.name.clone()), Some(self.name)),
            KindMeant::Branch => (Some(self.name), None),
            KindMeant::Tag => (None, Some(self.name)),
        }
    }

    /// The inverse of [`NameMeant::into_names`].
    #[must_use]
    pub(crate) fn from_names(branch: Option<&Branch>, tag: Option<&Branch>) -> Option<Self> {
        let kind = match (branch, tag) {
            (Some(_), Some(_)) => KindMeant::Any,
            (Some(_), None) => KindMeant::Branch,
            (None, _) => KindMeant::Tag,
        };
        branch.or(tag).map(|name| Self { name: name.clone(), kind })
    }

    /// Whether a build is one of this name and kind.
    fn means(&self, of: BuildRef<'_>) -> bool {
        let fits = match (self.kind, of.kind) {
            (KindMeant::Any, RefKind::Branch | RefKind::Tag) => true,
            (KindMeant::Branch, RefKind::Branch) | (KindMeant::Tag, RefKind::Tag) => true,
            (KindMeant::Branch, RefKind::Tag) | (KindMeant::Tag, RefKind::Branch) => false,
            (KindMeant::Any | KindMeant::Branch | KindMeant::Tag, RefKind::PullRequest(_)) => false,
        };
        fits && *of.name == self.name
    }
}

fn ambiguous(name: &Branch) -> Fault {
    let reason = format!("{name} is a branch and a tag: ask for branch:{name} or tag:{name}");
    Fault::new(Step::Request, &reason)
}

/// The records of an app's builds and of a unit's history.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Catalogue<'a> {
    /// The unit, for messages.
    pub(crate) unit: &'a Unit,
    pub(crate) builds: &'a [Build],
    pub(crate) runs: &'a BTreeMap<ArtifactName, Run>,
    pub(crate) bad: &'a BTreeMap<ArtifactName, BadMark>,
    /// Where the requested name is in the repository; none: the repository was not asked, and the newest recorded build
    /// counts.
    pub(crate) tips: Option<&'a Tips>,
    /// Every history record of the unit, in any order.
    pub(crate) history: &'a [History],
    pub(crate) committed: Option<&'a Release>,
    /// Tells a lost run from one that CI still works on.
    pub(crate) now: Timestamp,
}

/// The branch or tag whose tip the caller must look up before [`resolve`], if the request means one.
#[must_use]
pub(crate) fn name_meant(request: &Request, builds: &[Build]) -> Option<NameMeant> {
    let meant = |name: &Branch, kind| Some(NameMeant { name: name.clone(), kind });
    match &request.wanted {
        Wanted::Deploy(Selector::Branch(branch)) => meant(branch, KindMeant::Branch),
        Wanted::Deploy(Selector::Tag(tag)) => meant(tag, KindMeant::Tag),
        Wanted::Deploy(Selector::Any(text)) if !builds.iter().any(|b| b.artifact.as_str() == text) => {
            meant(&text.parse().ok()?, KindMeant::Any)
        }
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
    let changes = known.committed.map(|from| known.changes(from, build));
    Ok(Resolved { build: build.clone(), release, notes, changes })
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
            Selector::Branch(branch) => {
                self.of_name(&NameMeant { name: branch.clone(), kind: KindMeant::Branch }, strictness, notes)
            }
            Selector::Tag(tag) => {
                self.of_name(&NameMeant { name: tag.clone(), kind: KindMeant::Tag }, strictness, notes)
            }
            Selector::Any(text) => match (self.named(text), text.parse::<Branch>()) {
                (Some(build), _) => Ok(build),
                (None, Ok(name)) => self.of_name(&NameMeant { name, kind: KindMeant::Any }, strictness, notes),
                (None, Err(e)) => Err(Fault::new(Step::Request, &e.to_string())),
            },
        }
    }

    /// What `build` changes compared with the release `from`.
    fn changes(&self, from: &Release, build: &Build) -> Changes {
        let commit = self.named(from.artifact.as_str()).map(|build| &build.commit);
        compare(self.builds, Earlier { artifact: &from.artifact, commit }, build)
    }

    fn named(&self, name: &str) -> Option<&'a Build> {
        self.builds.iter().find(|build| build.artifact.as_str() == name)
    }

    fn of_commit(&self, prefix: &str) -> Result<&'a Build, Fault> {
        let matching = || self.builds.iter().filter(|build| build.commit.as_str().starts_with(prefix));
        let first = matching().next().ok_or_else(|| missing(&format!("no build of commit {prefix}")))?;
        if let Some(other) = matching().find(|build| build.commit != first.commit) {
            let reason =
                format!("commit {prefix} is ambiguous: {} and {}; give more digits", first.commit, other.commit);
            return Err(Fault::new(Step::Request, &reason));
        }
        // A pull request's build gives way to the one that was made after the merge.
        let merged: Vec<&Build> = matching().filter(|build| !build.of().is_pull_request()).collect();
        let candidates = if merged.is_empty() { matching().collect() } else { merged };
        let first = candidates.first().copied().unwrap_or(first);
        if let Some(other) = candidates.iter().find(|build| build.of() != first.of()) {
            let reason = format!(
                "commit {prefix} was built as {} and as {}; ask for {} or {}",
                first.of(),
                other.of(),
                first.artifact,
                other.artifact
            );
            return Err(Fault::new(Step::Request, &reason));
        }
        // A rebuild replaces the earlier build of its commit.
        newest(candidates).ok_or_else(|| missing(&format!("no build of commit {prefix}")))
    }

    /// The build at the repository's tip; where the repository is not asked, the newest recorded build.
    fn of_name(&self, meant: &NameMeant, strictness: Strictness, notes: &mut Vec<String>) -> Result<&'a Build, Fault> {
        let named: Vec<&Build> = self
            .builds
            .iter()
            .filter(|build| NameMeant { kind: KindMeant::Any, ..meant.clone() }.means(build.of()))
            .collect();
        let wanted = || named.iter().copied().filter(|build| meant.means(build.of()));
        let Some(tips) = self.tips else {
            let build = newest(wanted()).ok_or_else(|| self.unknown(&meant.name))?;
            if wanted().any(|other| other.of() != build.of()) {
                return Err(ambiguous(&meant.name));
            }
            notes.extend(self.passed_over(build, wanted(), "its commit is older, or its build began earlier"));
            return self.unless_newer_is_unfinished(build, strictness, notes);
        };
        let tip = meant.tip(tips)?;
        let Some(build) = newest(named.iter().copied().filter(|build| build.commit == *tip)) else {
            return Err(self.no_artifact(meant, tip, newest(wanted())));
        };
        let is_at = format!("{} is at {} in the repository", meant.name, tip.short());
        notes.extend(self.passed_over(build, wanted(), &is_at));
        Ok(build)
    }

    fn unknown(&self, name: &Branch) -> Fault {
        let text = name.as_str();
        let is_hex = text.len() >= 7 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let lower = text.to_ascii_lowercase();
        if is_hex && self.builds.iter().any(|build| build.commit.as_str().starts_with(&lower)) {
            return missing(&format!("no build and no branch is called {name}, but a commit: ask for commit:{lower}"));
        }
        let app = &self.unit.app;
        if let Some(build) = self.builds.iter().find(|build| build.branch == *name) {
            let artifact = &build.artifact;
            return missing(&format!(
                "no build of {name} can be selected by that name; {artifact} is of {}: ask for {artifact}",
                build.of()
            ));
        }
        missing(&format!("no build and no branch is called {name}; see: cutover builds {app}"))
    }

    fn no_artifact(&self, meant: &NameMeant, tip: &Commit, newest: Option<&Build>) -> Fault {
        let name = &meant.name;
        let of_tip = self.builds.iter().find(|build| build.commit == *tip);
        let instead = match (newest, of_tip) {
            (Some(build), _) => self.instead(build),
            (None, Some(build)) => format!(
                "; that commit was built as {0} of {1}: cutover deploy {2} artifact:{0}",
                build.artifact,
                build.of(),
                self.unit
            ),
            (None, None) => String::new(),
        };
        let what = match meant.kind {
            KindMeant::Tag => "tag",
            KindMeant::Any | KindMeant::Branch => "branch",
        };
        missing(&format!("{what} {name} is at {}, which has no artifact{instead}", tip.short()))
    }

    fn instead(&self, build: &Build) -> String {
        format!("; the newest that can be deployed is {0}: cutover deploy {1} artifact:{0}", build.artifact, self.unit)
    }

    /// The note about a build that was published after the selected one; none if the selected one was published last.
    fn passed_over<'b>(&self, build: &Build, others: impl Iterator<Item = &'b Build>, because: &str) -> Option<String> {
        let last = others.max_by_key(|other| (other.at, &other.artifact)).filter(|last| last.commit != build.commit)?;
        if last.at <= build.at {
            return None;
        }
        let (of, last_name, at) = (build.of(), &last.artifact, last.at);
        if last.at > self.now {
            return Some(format!(
                "{last_name} is passed over: its publish time {at} lies in the future, so that machine's clock was wrong"
            ));
        }
        Some(format!("{last_name} of {of} was published after {}, and is passed over: {because}", build.artifact))
    }

    /// The newest build, unless `runs/` has a newer commit of the branch that is building, or has failed: the author asks
    /// for the branch as it is, and would get an older one. Each newer run counts by itself, so none hides another. Runs
    /// that were canceled, that are published (their build records were removed, or are older) or that are lost do not
    /// count; a lost run is noted.
    fn unless_newer_is_unfinished(
        &self,
        build: &'a Build,
        strictness: Strictness,
        notes: &mut Vec<String>,
    ) -> Result<&'a Build, Fault> {
        let of = build.of();
        let own = self.runs.get(&build.artifact);
        let newer = self.runs.values().filter(|run| run.of() == of && is_newer(run, build, own));
        // CI will never report the end of a lost run, so the request does not wait for it.
        let (lost, known): (Vec<&Run>, Vec<&Run>) = newer.partition(|run| run.is_lost(self.now));
        if let Some(run) = lost.into_iter().max_by_key(|run| run.at) {
            notes.push(format!(
                "the build of {}, a newer commit of {of}, is lost: CI never said how it ended",
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
        let reason = format!("{}, a newer commit of {of}, {how}{}", run.commit.short(), self.instead(build));
        if strictness == Strictness::Refuse {
            return Err(Fault::new(Step::Request, &reason));
        }
        notes.push(format!("forced although {reason}"));
        Ok(build)
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
mod tests;
