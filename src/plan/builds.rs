//! Decides which builds of an app may be removed from the store, if only the newest are kept.
//!
//! A build is kept while a group runs it, could roll back to it, or may still deploy it. Keeping a build too many costs space;
//! removing a build too many loses it. So in doubt a key protects a build, and a caller that could not read a key of the app
//! must not remove anything.

use std::collections::BTreeSet;

use crate::protocol::git_ref::BuildRef;
use crate::protocol::ids::{ArtifactName, ReleaseName};
use crate::protocol::newest::newest_of_each;
use crate::protocol::record::{Barrier, Build, History, Latest, NodeRecord, Outcome, Request, Selector, Wanted};

/// The state of one group of the app.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Group {
    /// Its barrier; none before the first deploy.
    pub(crate) barrier: Option<Barrier>,
    /// The waiting request.
    pub(crate) request: Option<Request>,
    pub(crate) nodes: Vec<NodeRecord>,
    /// Every history record in KV.
    pub(crate) history: Vec<History>,
}

/// The builds that may be removed: those beyond the newest `keep` that no group needs. Oldest first.
///
/// `builds` are the records of the whole app, `latest` its newest in short, `groups` every group of the app.
#[must_use]
pub(crate) fn surplus<'a>(builds: &'a [Build], latest: &Latest, groups: &[Group], keep: usize) -> Vec<&'a Build> {
    let mut needed: BTreeSet<&ArtifactName> = BTreeSet::new();
    for group in groups {
        needed.extend(group.runs());
        needed.extend(group.could_go_back_to());
        needed.extend(group.asks_for(builds));
    }
    let mut newest: Vec<&Build> = builds.iter().collect();
    newest.sort_by(|a, b| b.at.cmp(&a.at).then_with(|| b.artifact.cmp(&a.artifact)));
    needed.extend(newest.iter().take(keep).map(|build| &build.artifact));
    // Builds of pull requests do not displace those of branches and tags.
    needed.extend(newest.iter().filter(|build| !build.of().is_pull_request()).take(keep).map(|build| &build.artifact));
    needed.extend(latest.builds.iter().take(keep).map(|build| &build.artifact));
    // Deploys use the newest build of a branch or tag by the records, prefetching by `latest`.
    needed.extend(newest_of_each(builds).into_iter().map(|build| &build.artifact));
    needed.extend(first_of_each(latest));
    newest.into_iter().rev().filter(|build| !needed.contains(&build.artifact)).collect()
}

fn first_of_each(latest: &Latest) -> Vec<&ArtifactName> {
    let mut seen: BTreeSet<BuildRef<'_>> = BTreeSet::new();
    latest.builds.iter().filter(|build| seen.insert(build.of())).map(|build| &build.artifact).collect()
}

impl Group {
    /// The builds that are committed or being deployed, and those that nodes run or have unpacked.
    fn runs(&self) -> impl Iterator<Item = &ArtifactName> {
        let barrier = self.barrier.iter();
        let named = barrier.flat_map(|b| [b.target(), b.from.as_ref(), b.committed.as_ref()]).flatten();
        let on_nodes = self.nodes.iter().filter_map(|node| node.runs.as_ref());
        let staged = self.nodes.iter().flat_map(|node| node.staged.iter());
        named.chain(on_nodes).map(|release| &release.artifact).chain(staged)
    }

    /// The rollback targets: builds deployed before, and the previous releases of nodes.
    fn could_go_back_to(&self) -> impl Iterator<Item = &ArtifactName> {
        let previous: BTreeSet<&ReleaseName> =
            self.nodes.iter().flat_map(|node| node.previous.iter().chain(node.newest_release.iter())).collect();
        let keeps = move |history: &&History| {
            let is_kept = history.release.as_ref().is_some_and(|release| previous.contains(release));
            // A request without an outcome may still succeed.
            is_kept || matches!(history.outcome, Some(Outcome::Done) | None)
        };
        self.history.iter().filter(keeps).flat_map(|h| h.artifact.iter().chain(h.from.iter().map(|r| &r.artifact)))
    }

    /// The builds that the waiting request may select.
    fn asks_for<'a>(&'a self, builds: &'a [Build]) -> impl Iterator<Item = &'a ArtifactName> {
        let is_meant = |build: &&Build| {
            let Some(request) = &self.request else { return false };
            let artifact = build.artifact.as_str();
            match &request.wanted {
                Wanted::Deploy(Selector::Any(text)) => {
                    artifact == text || build.branch.as_str() == text && !build.of().is_pull_request()
                }
                Wanted::Deploy(Selector::Artifact(name)) | Wanted::Rollback(Some(name)) => *name == build.artifact,
                // With `repo`, the request may select any commit of the branch.
                Wanted::Deploy(Selector::Branch(name) | Selector::Tag(name)) => {
                    *name == build.branch && !build.of().is_pull_request()
                }
                Wanted::Deploy(Selector::Commit(prefix)) => build.commit.as_str().starts_with(prefix.as_str()),
                Wanted::Rollback(None) => false,
            }
        };
        builds.iter().filter(is_meant).map(|build| &build.artifact)
    }
}

#[cfg(test)]
mod tests;
