//! `cutover builds`: what CI has built or tries to, and where it lies ready.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Serialize;

use super::{Entries, Problem, read_all, under};
use crate::protocol::ids::{App, ArtifactName, Branch, Commit, Group, Node};
use crate::protocol::keys::Keys;
use crate::protocol::record::{BadMark, Build, NodeRecord, Run, RunState};

/// Every known build of an app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BuildsDocument {
    /// The app.
    pub app: App,
    /// Newest first.
    pub builds: Vec<BuildRow>,
    /// Records that cannot be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

/// What can be said about a build in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BuildState {
    /// Published, and marked bad: a deploy of it is refused unless forced.
    Bad,
    /// CI has begun and not ended.
    Building,
    /// Stopped by somebody.
    Canceled,
    /// Ended without an artifact.
    Failed,
    /// Can be deployed.
    Published,
}

impl BuildState {
    /// The word, the same as in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bad => "bad",
            Self::Building => "building",
            Self::Canceled => "canceled",
            Self::Failed => "failed",
            Self::Published => "published",
        }
    }
}

/// One build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BuildRow {
    /// Its name.
    pub artifact: ArtifactName,
    /// The exact branch.
    pub branch: Branch,
    /// The full commit.
    pub commit: Commit,
    /// Where it stands.
    pub state: BuildState,
    /// Who, as CI reports it.
    pub by: String,
    /// When it was published, or its state last written.
    pub at: Timestamp,
    /// CI's page.
    pub url: Option<String>,
    /// Whether a deploy of it is not refused because of the build itself.
    pub deployable: bool,
    /// Its bad mark.
    pub bad: Option<BadMark>,
    /// The build record; none without an artifact.
    pub record: Option<Build>,
    /// Per group: how many of its nodes have it unpacked or run it.
    pub prefetched: BTreeMap<Group, Prefetched>,
}

/// On how many of how many nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Prefetched {
    /// Nodes that have it.
    pub on: usize,
    /// Nodes that are registered.
    pub of: usize,
}

impl BuildsDocument {
    /// Builds the document from `builds/`, `runs/`, `bad/` and the `nodes/` of every group of the app.
    #[must_use]
    pub fn build(app: &App, keys: &Keys, entries: &Entries) -> Self {
        let mut problems = Vec::new();
        let mut records: BTreeMap<ArtifactName, Build> = read_all(entries, &keys.builds(app), &mut problems);
        let mut runs: BTreeMap<ArtifactName, Run> = read_all(entries, &keys.runs(app), &mut problems);
        let at_bad = keys.bad_marks(app);
        let mark =
            |(_, name, entry): (&str, &str, &super::Entry)| Some((name.parse().ok()?, BadMark::parse(&entry.value)?));
        let mut bad: BTreeMap<ArtifactName, BadMark> = under(entries, &at_bad).filter_map(mark).collect();
        let nodes = nodes_of(app, keys, entries, &mut problems);
        let names: BTreeSet<ArtifactName> = records.keys().chain(runs.keys()).cloned().collect();
        let row = |artifact: ArtifactName| {
            let (record, run, bad) = (records.remove(&artifact), runs.remove(&artifact), bad.remove(&artifact));
            let prefetched = prefetched(&artifact, &nodes);
            row(artifact, record, run, bad, prefetched)
        };
        let mut builds: Vec<BuildRow> = names.into_iter().filter_map(row).collect();
        builds.sort_by(|a, b| b.at.cmp(&a.at).then_with(|| b.artifact.cmp(&a.artifact)));
        Self { app: app.clone(), builds, problems }
    }
}

/// A build has a record or a run; what neither of them says cannot be a row.
fn row(
    artifact: ArtifactName,
    record: Option<Build>,
    run: Option<Run>,
    bad: Option<BadMark>,
    prefetched: BTreeMap<Group, Prefetched>,
) -> Option<BuildRow> {
    let state = match (&record, &bad, run.as_ref().map(|r| r.state)) {
        (Some(_), Some(_), _) => BuildState::Bad,
        (Some(_), None, _) => BuildState::Published,
        (None, _, Some(RunState::Building)) => BuildState::Building,
        (None, _, Some(RunState::Canceled)) => BuildState::Canceled,
        // "Published" without a record is a publish that lost its record: nothing to deploy.
        (None, _, Some(RunState::Failed | RunState::Published)) => BuildState::Failed,
        (None, _, None) => return None,
    };
    let (branch, commit, by, at, url) = match (&record, run) {
        (Some(b), _) => (b.branch.clone(), b.commit.clone(), b.by.clone(), b.at, b.url.clone()),
        (None, Some(run)) => (run.branch, run.commit, run.by, run.at, run.url),
        (None, None) => return None,
    };
    let deployable = state == BuildState::Published;
    Some(BuildRow { artifact, branch, commit, state, by, at, url, deployable, bad, record, prefetched })
}

/// Every readable node record of every group of the app.
fn nodes_of(
    app: &App,
    keys: &Keys,
    entries: &Entries,
    problems: &mut Vec<Problem>,
) -> BTreeMap<Group, BTreeMap<Node, NodeRecord>> {
    let prefix = format!("{}{app}/", keys.prefix());
    let groups: BTreeSet<Group> = entries
        .range(prefix.clone()..)
        .map_while(|(key, _)| key.strip_prefix(&prefix))
        .filter_map(|rest| rest.split_once("/nodes/")?.0.parse().ok())
        .collect();
    let of_group = |group: Group| {
        let nodes = keys.unit(&crate::protocol::ids::Unit { app: app.clone(), group: group.clone() }).nodes();
        debug_assert!(under(entries, &nodes).next().is_some(), "the group was found by its nodes");
        let records = read_all(entries, &nodes, problems);
        (group, records)
    };
    groups.into_iter().map(of_group).collect()
}

fn prefetched(
    artifact: &ArtifactName,
    nodes: &BTreeMap<Group, BTreeMap<Node, NodeRecord>>,
) -> BTreeMap<Group, Prefetched> {
    let has = |record: &&NodeRecord| {
        record.staged.contains(artifact) || record.runs.as_ref().is_some_and(|runs| runs.artifact == *artifact)
    };
    nodes
        .iter()
        .map(|(group, records)| {
            (group.clone(), Prefetched { on: records.values().filter(has).count(), of: records.len() })
        })
        .collect()
}
