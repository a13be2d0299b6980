//! Which builds of an app may be removed from the store, when only the newest are to be kept.
//!
//! A build stays while any group runs it, could go back to it, or may still take it up: to remove one too few costs
//! space, and one too many a release that nobody can bring back. So whatever a key may mean, it protects; a caller that
//! could not read a key of the app must not plan at all.

use std::collections::BTreeSet;

use crate::protocol::ids::{ArtifactName, Branch, ReleaseName};
use crate::protocol::record::{Barrier, Build, History, Latest, NodeRecord, Outcome, Request, Selector, Wanted};

/// What one group of the app is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// Its barrier; none before the first.
    pub barrier: Option<Barrier>,
    /// The request that waits.
    pub request: Option<Request>,
    /// What its nodes say of themselves.
    pub nodes: Vec<NodeRecord>,
    /// Every request whose record is in KV.
    pub history: Vec<History>,
}

/// The builds that may be removed: those beyond the newest `keep` that no group needs. Oldest first.
///
/// `builds` are the records of the whole app, `latest` its newest in short, `groups` every group of the app.
#[must_use]
pub fn surplus<'a>(builds: &'a [Build], latest: &Latest, groups: &[Group], keep: usize) -> Vec<&'a Build> {
    let mut needed: BTreeSet<&ArtifactName> = BTreeSet::new();
    for group in groups {
        needed.extend(group.runs());
        needed.extend(group.could_go_back_to());
        needed.extend(group.asks_for(builds));
    }
    let mut newest: Vec<&Build> = builds.iter().collect();
    newest.sort_by(|a, b| b.at.cmp(&a.at).then_with(|| b.artifact.cmp(&a.artifact)));
    needed.extend(newest.iter().take(keep).map(|build| &build.artifact));
    needed.extend(latest.builds.iter().take(keep).map(|build| &build.artifact));
    // A branch is deployed, and prefetched, at its newest build, by either order.
    let by_time = newest.iter().map(|build| (&build.branch, &build.artifact));
    let by_publish = latest.builds.iter().map(|build| (&build.branch, &build.artifact));
    needed.extend(first_of_each(by_time));
    needed.extend(first_of_each(by_publish));
    newest.into_iter().rev().filter(|build| !needed.contains(&build.artifact)).collect()
}

fn first_of_each<'a>(builds: impl Iterator<Item = (&'a Branch, &'a ArtifactName)>) -> Vec<&'a ArtifactName> {
    let mut seen: BTreeSet<&Branch> = BTreeSet::new();
    builds.filter(|(branch, _)| seen.insert(branch)).map(|(_, artifact)| artifact).collect()
}

impl Group {
    /// What is committed or on its way, and what the nodes run or have unpacked.
    fn runs(&self) -> impl Iterator<Item = &ArtifactName> {
        let barrier = self.barrier.iter();
        let named = barrier.flat_map(|b| [b.target(), b.from.as_ref(), b.committed.as_ref()]).flatten();
        let on_nodes = self.nodes.iter().filter_map(|node| node.runs.as_ref());
        let staged = self.nodes.iter().flat_map(|node| node.staged.iter());
        named.chain(on_nodes).map(|release| &release.artifact).chain(staged)
    }

    /// What was done here before, and what nodes keep as the release before.
    fn could_go_back_to(&self) -> impl Iterator<Item = &ArtifactName> {
        let previous: BTreeSet<&ReleaseName> =
            self.nodes.iter().flat_map(|node| node.previous.iter().chain(node.newest_release.iter())).collect();
        let keeps = move |history: &&History| {
            let is_kept = history.release.as_ref().is_some_and(|release| previous.contains(release));
            // One that has no end yet may still be done.
            is_kept || matches!(history.outcome, Some(Outcome::Done) | None)
        };
        self.history.iter().filter(keeps).flat_map(|h| h.artifact.iter().chain(h.from.iter().map(|r| &r.artifact)))
    }

    /// What the request that waits may come to.
    fn asks_for<'a>(&'a self, builds: &'a [Build]) -> impl Iterator<Item = &'a ArtifactName> {
        let is_meant = |build: &&Build| {
            let Some(request) = &self.request else { return false };
            let artifact = build.artifact.as_str();
            match &request.wanted {
                Wanted::Deploy(Selector::Any(text)) => artifact == text || build.branch.as_str() == text,
                Wanted::Deploy(Selector::Artifact(name)) | Wanted::Rollback(Some(name)) => *name == build.artifact,
                // With `repo` a branch may be at any of its commits.
                Wanted::Deploy(Selector::Branch(branch)) => *branch == build.branch,
                Wanted::Deploy(Selector::Commit(prefix)) => build.commit.as_str().starts_with(prefix.as_str()),
                Wanted::Rollback(None) => false,
            }
        };
        builds.iter().filter(is_meant).map(|build| &build.artifact)
    }
}

#[cfg(test)]
mod tests;
