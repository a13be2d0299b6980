//! `cutover builds`: every build of an app, from its start in CI to the nodes that have it.
//!
//! A pure function of keys and the time. A time that the keys do not contain is left out, not guessed.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Entries, Problem, read, read_all, refusal_words, under};
use crate::protocol::git_ref::RefKind;
use crate::protocol::ids::{App, ArtifactName, Branch, Commit, Epoch, Group, Node, ReleaseName, Time, Unit};
use crate::protocol::keys::Keys;
use crate::protocol::newest::newest_of_each;
use crate::protocol::record::{
    BadMark, Barrier, Build, Damage, History, NodeRecord, Outcome, Refusal, Release, Run, RunState, Summary, Sweep,
    decode,
};

/// The builds of an app, newest first, as `cutover builds` prints them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct BuildsDocument {
    pub(crate) app: App,
    /// Newest first.
    pub(crate) builds: Vec<BuildRow>,
    /// Records that cannot be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) problems: Vec<Problem>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum BuildState {
    /// Published, and marked bad: a deploy of it is refused unless forced.
    Bad,
    /// CI is building it.
    Building,
    /// Canceled in CI.
    Canceled,
    /// Published, but its archive in the store is cut or altered: only nodes that already have the build can run it.
    Damaged,
    /// Ended without an artifact.
    Failed,
    /// Published, but its archive is missing from the store: only nodes that already have the build can run it.
    Gone,
    /// CI started the build but reported no result in time.
    Lost,
    /// Can be deployed.
    Published,
}

impl BuildState {
    /// The word, the same as in JSON.
    #[must_use]
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Bad => "bad",
            Self::Building => "building",
            Self::Canceled => "canceled",
            Self::Damaged => "damaged",
            Self::Failed => "failed",
            Self::Gone => "gone",
            Self::Lost => "lost",
            Self::Published => "published",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct BuildRow {
    pub(crate) artifact: ArtifactName,
    /// The exact branch.
    pub(crate) branch: Branch,
    /// The full commit.
    pub(crate) commit: Commit,
    /// Subject and author of the commit.
    #[serde(flatten)]
    pub(crate) summary: Summary,
    pub(crate) state: BuildState,
    /// The author, as CI reports it.
    pub(crate) by: String,
    /// When it was published, or its state was last written.
    #[schemars(with = "Time")]
    pub(crate) at: Timestamp,
    /// When CI started the build, if CI reported it.
    #[schemars(with = "Option<Time>")]
    pub(crate) begun_at: Option<Timestamp>,
    /// When it was published, failed, or was canceled; none while CI builds it, and for a lost build.
    #[schemars(with = "Option<Time>")]
    pub(crate) ended_at: Option<Timestamp>,
    /// From `begun_at` to `ended_at`, in seconds.
    pub(crate) took_secs: Option<u64>,
    /// When an unfinished build counts as lost; none once it has ended.
    #[schemars(with = "Option<Time>")]
    pub(crate) lost_at: Option<Timestamp>,
    /// CI's page.
    pub(crate) url: Option<String>,
    /// Why it failed or was canceled, as CI reports it; may be empty.
    pub(crate) reason: String,
    /// Whether the build itself permits a deploy.
    pub(crate) deployable: bool,
    pub(crate) bad: Option<BadMark>,
    /// The groups whose coordinator found its archive missing from the store.
    pub(crate) gone: Vec<Group>,
    /// The groups whose coordinator found its archive cut or altered in the store.
    pub(crate) damaged: BTreeMap<Group, Damage>,
    /// The build record; none without an artifact.
    pub(crate) record: Option<Build>,
    /// The tag, if CI built one; `branch` has the same name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tag: Option<Branch>,
    /// The pull request, if CI built one: no build of its branch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pull_request: Option<String>,
    /// Whether it is the newest build of its branch or tag: a deploy by that name takes it, unless the group has `repo`,
    /// where the tip of the branch decides.
    pub(crate) newest: bool,
    /// Per group: how many of its nodes run it or have it unpacked.
    pub(crate) prefetched: BTreeMap<Group, Prefetched>,
    /// Per group: the nodes that could not unpack it in advance.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) refused: BTreeMap<Group, RefusedOn>,
    /// Per group: the last successful deploy.
    pub(crate) deployed: BTreeMap<Group, Deployed>,
}

/// The number of nodes that have a build.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Prefetched {
    /// Nodes that have it.
    pub(crate) on: usize,
    /// Nodes that are registered.
    pub(crate) of: usize,
}

/// The nodes of a group that could not unpack a build in advance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct RefusedOn {
    /// How many nodes.
    #[schemars(range(min = 1))]
    pub(crate) nodes: usize,
    /// The first of them by name.
    pub(crate) node: Node,
    /// Why that node could not.
    #[serde(flatten)]
    pub(crate) why: Refusal,
}

impl RefusedOn {
    /// `web-1 and 2 more cannot prefetch it: download: access denied`.
    #[must_use]
    pub(crate) fn sentence(&self) -> String {
        let more = match self.nodes {
            0 | 1 => String::new(),
            nodes => format!(" and {} more", nodes - 1),
        };
        format!("{}{more} cannot prefetch it: {}", self.node, refusal_words(&self.why))
    }
}

/// The last successful deploy of a build to a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Deployed {
    /// The request's epoch.
    pub(crate) epoch: Epoch,
    /// The release that was made of it.
    pub(crate) release: ReleaseName,
    /// When every node ran it; none if its history is gone.
    #[schemars(with = "Option<Time>")]
    pub(crate) at: Option<Timestamp>,
    /// Whether it is the group's current release.
    pub(crate) runs: bool,
}

/// The parts of one group's keys that concern builds.
struct GroupKeys {
    nodes: BTreeMap<Node, NodeRecord>,
    committed: Option<Release>,
    sweep: Sweep,
    done: Vec<History>,
}

impl BuildsDocument {
    /// Builds the document from `builds/`, `runs/`, `bad/`, and every group's `nodes/`, `barrier`, `history/` and `store`.
    /// `now` decides which unfinished builds are lost.
    #[must_use]
    pub(crate) fn build(app: &App, keys: &Keys, entries: &Entries, now: Timestamp) -> Self {
        let mut problems = Vec::new();
        let mut records: BTreeMap<ArtifactName, Build> = read_all(entries, &keys.builds(app), &mut problems);
        let mut runs: BTreeMap<ArtifactName, Run> = read_all(entries, &keys.runs(app), &mut problems);
        let at_bad = keys.bad_marks(app);
        let mark =
            |(_, name, entry): (&str, &str, &super::Entry)| Some((name.parse().ok()?, BadMark::parse(&entry.value)?));
        let mut bad: BTreeMap<ArtifactName, BadMark> = under(entries, &at_bad).filter_map(mark).collect();
        let groups = groups_of(app, keys, entries, &mut problems);
        let names: BTreeSet<ArtifactName> = records.keys().chain(runs.keys()).cloned().collect();
        let all: Vec<Build> = records.values().cloned().collect();
        let newest: BTreeSet<&ArtifactName> = newest_of_each(&all).into_iter().map(|build| &build.artifact).collect();
        let row = |artifact: ArtifactName| {
            let known =
                Known { record: records.remove(&artifact), run: runs.remove(&artifact), bad: bad.remove(&artifact) };
            let is_newest = newest.contains(&artifact);
            row(artifact, known, &groups, now).map(|row| BuildRow { newest: is_newest, ..row })
        };
        let mut builds: Vec<BuildRow> = names.into_iter().filter_map(row).collect();
        builds.sort_by(|a, b| b.at.cmp(&a.at).then_with(|| b.artifact.cmp(&a.artifact)));
        Self { app: app.clone(), builds, problems }
    }
}

/// The records about one build, as far as they exist.
struct Known {
    record: Option<Build>,
    run: Option<Run>,
    bad: Option<BadMark>,
}

/// One row, from the build record or the CI run; none if neither exists.
fn row(artifact: ArtifactName, known: Known, groups: &BTreeMap<Group, GroupKeys>, now: Timestamp) -> Option<BuildRow> {
    let Known { record, run, bad } = known;
    let gone: Vec<Group> =
        groups.iter().filter(|(_, keys)| keys.sweep.gone.contains(&artifact)).map(|(group, _)| group.clone()).collect();
    let damage = |(group, keys): (&Group, &GroupKeys)| Some((group.clone(), *keys.sweep.damaged.get(&artifact)?));
    let damaged: BTreeMap<Group, Damage> = groups.iter().filter_map(damage).collect();
    let state = match (&record, run.as_ref()) {
        (Some(_), _) if bad.is_some() => BuildState::Bad,
        (Some(_), _) if !gone.is_empty() => BuildState::Gone,
        (Some(_), _) if !damaged.is_empty() => BuildState::Damaged,
        (Some(_), _) => BuildState::Published,
        (None, Some(run)) => of_run(run, now),
        (None, None) => return None,
    };
    let begun_at = run.as_ref().and_then(|run| run.begun_at);
    let lost_at = run.as_ref().filter(|run| record.is_none() && run.state == RunState::Building);
    let lost_at = lost_at.and_then(|run| run.lost_at);
    let reason = run.as_ref().map(|run| run.reason.clone()).unwrap_or_default();
    let of = record.as_ref().map(Build::of).or_else(|| run.as_ref().map(Run::of))?;
    let tag = (of.kind == RefKind::Tag).then(|| of.name.clone());
    let pull_request = match of.kind {
        RefKind::PullRequest(number) => Some(number.to_owned()),
        RefKind::Branch | RefKind::Tag => None,
    };
    let (branch, commit, summary, by, at, url) = match (&record, run) {
        (Some(b), _) => (b.branch.clone(), b.commit.clone(), b.summary.clone(), b.by.clone(), b.at, b.url.clone()),
        (None, Some(run)) => (run.branch, run.commit, run.summary, run.by, run.at, run.url),
        (None, None) => return None,
    };
    let ended_at = (!matches!(state, BuildState::Building | BuildState::Lost)).then_some(at);
    let took = begun_at.zip(ended_at).map(|(begun, ended)| ended.duration_since(begun).as_secs());
    Some(BuildRow {
        branch,
        commit,
        summary,
        state,
        by,
        at,
        begun_at,
        ended_at,
        // Start and end come from the clocks of two machines, so the end may precede the start.
        took_secs: took.map(|secs| u64::try_from(secs).unwrap_or(0)),
        lost_at,
        url,
        reason,
        deployable: state == BuildState::Published,
        bad,
        gone,
        damaged,
        record,
        tag,
        pull_request,
        newest: false,
        prefetched: groups
            .iter()
            .filter(|(_, keys)| !keys.nodes.is_empty())
            .map(|(group, keys)| (group.clone(), prefetched(&artifact, &keys.nodes)))
            .collect(),
        refused: groups
            .iter()
            .filter_map(|(group, keys)| Some((group.clone(), refused(&artifact, &keys.nodes)?)))
            .collect(),
        deployed: groups.iter().filter_map(|(group, keys)| Some((group.clone(), deployed(&artifact, keys)?))).collect(),
        artifact,
    })
}

/// The state of a build without a record.
fn of_run(run: &Run, now: Timestamp) -> BuildState {
    match run.state {
        RunState::Building if run.is_lost(now) => BuildState::Lost,
        RunState::Building => BuildState::Building,
        RunState::Canceled => BuildState::Canceled,
        // A published run without a build record has nothing to deploy.
        RunState::Failed | RunState::Published => BuildState::Failed,
    }
}

/// Reads the keys of every group of the app.
fn groups_of(app: &App, keys: &Keys, entries: &Entries, problems: &mut Vec<Problem>) -> BTreeMap<Group, GroupKeys> {
    let units = super::units_in(keys.prefix(), entries.keys().map(String::as_str));
    let mut groups = BTreeMap::new();
    for Unit { app: of, group } in units {
        if of != *app {
            continue;
        }
        let at = keys.unit(&Unit { app: of, group: group.clone() });
        let barrier: Option<Barrier> = read(entries, &at.barrier(), problems);
        let sweep: Option<Sweep> = read(entries, &at.store(), problems);
        // Unreadable history is skipped here; `cutover history` reports it.
        let at_history = at.all_history();
        let history = under(entries, &at_history).filter_map(|(key, _, entry)| decode(key, &entry.value).ok());
        let group_keys = GroupKeys {
            nodes: read_all(entries, &at.nodes(), problems),
            committed: barrier.and_then(|barrier| barrier.committed),
            sweep: sweep.unwrap_or_default(),
            done: history.filter(|history: &History| history.outcome == Some(Outcome::Done)).collect(),
        };
        groups.insert(group, group_keys);
    }
    groups
}

fn prefetched(artifact: &ArtifactName, nodes: &BTreeMap<Node, NodeRecord>) -> Prefetched {
    let has = |record: &&NodeRecord| {
        record.staged.contains(artifact) || record.runs.as_ref().is_some_and(|runs| runs.artifact == *artifact)
    };
    Prefetched { on: nodes.values().filter(has).count(), of: nodes.len() }
}

fn refused(artifact: &ArtifactName, nodes: &BTreeMap<Node, NodeRecord>) -> Option<RefusedOn> {
    let of = |record: &NodeRecord| Some(record.refused.iter().find(|build| build.artifact == *artifact)?.why.clone());
    let mut refused = nodes.iter().filter_map(|(node, record)| Some((node.clone(), of(record)?)));
    let (node, why) = refused.next()?;
    Some(RefusedOn { nodes: 1 + refused.count(), node, why })
}

/// The newest success. The current release counts even if its history is gone.
fn deployed(artifact: &ArtifactName, keys: &GroupKeys) -> Option<Deployed> {
    let runs = keys.committed.as_ref().filter(|release| release.artifact == *artifact);
    let newest = keys.done.iter().filter(|h| h.artifact.as_ref() == Some(artifact)).max_by_key(|history| history.epoch);
    let of_history = newest.and_then(|history| {
        let (epoch, release, at) = (history.epoch, history.release.clone()?, history.ended_at);
        Some(Deployed { epoch, release, at, runs: runs.is_some() })
    });
    let of_barrier = || runs.map(|r| Deployed { epoch: r.epoch, release: r.release.clone(), at: None, runs: true });
    of_history.or_else(of_barrier)
}
