//! `cutover recover`: the damage to a group's keys, what each node runs, and the state to be written.
//!
//! Only describes a recovery: [`crate::protocol::recovery`] detects the damage and proposes a release, and
//! [`crate::control::recover`] writes. Because the keys are damaged, each one is decoded separately, and an unreadable one does
//! not hide the others.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::waiting::Waiting;
use super::{Entries, Entry, coordinator, under};
use crate::protocol::coordinator::Presence;
use crate::protocol::ids::{ArtifactName, Epoch, Node, ReleaseName, Unit};
use crate::protocol::keys::UnitKeys;
use crate::protocol::record::{Barrier, Release, decode};
use crate::protocol::recovery::{Choice, Remains, era_in_name, era_in_value};

/// A recovery, planned or done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct RecoverDocument {
    /// The group.
    pub(crate) unit: Unit,
    /// Its state.
    pub(crate) fate: Recovery,
    /// The result in one sentence, with the next step.
    pub(crate) headline: String,
    /// The exit code for scripts.
    pub(crate) code: u8,
    /// The damage to the keys; empty if they are intact.
    pub(crate) troubles: Vec<String>,
    /// The epoch that is or would be started; none if nothing is to be written.
    pub(crate) epoch: Option<Epoch>,
    /// The release that every node will run; none if there is none, or it is not decided yet.
    pub(crate) committed: Option<Release>,
    /// The releases that `--to` accepts, if the nodes run different ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) choices: Vec<RecoverChoice>,
    /// Every known node.
    pub(crate) nodes: Vec<RecoverNode>,
}

/// The state of a recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Recovery {
    /// A deploy is running; nothing was written.
    Busy,
    /// The new era is written, and every live node follows it.
    Done,
    Nothing,
    /// A plan; nothing was written.
    Planned,
    /// Unclear which release to run; nothing was written.
    Refused,
    /// The new era is written, but not every live node follows it yet.
    Unfinished,
}

/// A release that `--to` may name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct RecoverChoice {
    /// The build.
    pub(crate) artifact: ArtifactName,
    /// Its directory.
    pub(crate) release: ReleaseName,
    /// The live nodes that run it.
    pub(crate) nodes: Vec<Node>,
    /// The absent nodes that ran it last.
    pub(crate) away: Vec<Node>,
}

impl From<Choice> for RecoverChoice {
    fn from(choice: Choice) -> Self {
        let Choice { release, nodes, away } = choice;
        Self { artifact: release.artifact, release: release.release, nodes, away }
    }
}

/// The state of a node's agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum AgentState {
    /// The agent has a live session.
    Alive,
    /// The agent has no live session.
    Absent,
    /// The agent is alive in Consul's catalog but has not reported what it runs.
    Silent,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct RecoverNode {
    /// Its name; for a silent agent, the node's name in Consul.
    pub(crate) node: String,
    pub(crate) state: AgentState,
    /// The release it switched to last.
    pub(crate) runs: Option<Release>,
    /// The newest epoch that it followed.
    pub(crate) floor: Option<Epoch>,
    /// The node's alarm, unless the keys caused it.
    pub(crate) alarm: Option<String>,
    /// Whether it runs another release than the new era's, and will switch.
    pub(crate) will_switch: bool,
    /// Whether it follows the new era.
    pub(crate) follows: bool,
}

/// What is left of a group's keys. `entries` must contain at least `barrier`, its member list, `deploy`, `coordinator` and
/// `nodes/`.
#[must_use]
pub(crate) fn remains(keys: &UnitKeys, entries: &Entries) -> Remains {
    // An empty key counts as missing, as everywhere.
    let barrier = entries.get(&keys.barrier()).filter(|entry| !entry.value.is_empty());
    let barrier = barrier.map(|entry| Barrier::decode(&keys.barrier(), &entry.value));
    let epoch = barrier.as_ref().and_then(|read| read.as_ref().ok()).map(|barrier| barrier.epoch);
    let members = epoch.map(|epoch| keys.members(epoch));
    let has_members = members.is_some_and(|key| {
        entries
            .get(&key)
            .is_some_and(|entry| decode::<Vec<Node>>(&key, &entry.value).is_ok_and(|list| !list.is_empty()))
    });
    let prefix = keys.nodes();
    let presence = |(key, name, entry): (&str, &str, &Entry)| {
        let record = decode(key, &entry.value).ok();
        Some((name.parse().ok()?, Presence { is_alive: entry.session.is_some(), record }))
    };
    Remains {
        barrier,
        has_members,
        waiting: entries.get(&keys.deploy()).and_then(Waiting::read).map(|waiting| waiting.epoch),
        nodes: under(entries, &prefix).filter_map(presence).collect(),
        coordinator: coordinator(keys, entries).and_then(|name| name.parse().ok()),
    }
}

/// The highest era that any entry mentions, readable or not; 0 if none does.
#[must_use]
pub(crate) fn newest_era(keys: &UnitKeys, entries: &Entries) -> u32 {
    let named = [keys.all_history(), keys.all_members()];
    let in_name = |key: &String| named.iter().find_map(|prefix| era_in_name(key.strip_prefix(prefix.as_str())?));
    entries.iter().flat_map(|(key, entry)| [in_name(key), era_in_value(&entry.value)]).flatten().max().unwrap_or(0)
}

/// The nodes in Consul's catalog with a live agent that has no live session.
#[must_use]
pub(crate) fn silent<'a>(remains: &Remains, living: &'a BTreeSet<String>) -> Vec<&'a String> {
    let has_reported = |name: &String| {
        let records = remains.nodes.values().filter(|presence| presence.is_alive).filter_map(|p| p.record.as_ref());
        records.map(|record| &record.consul_node).any(|node| node == name)
    };
    living.iter().filter(|name| !has_reported(name)).collect()
}

/// Every known node, by name. `begun` is the new era, planned or written, and its release.
#[must_use]
pub(crate) fn nodes(remains: &Remains, silent: &[&String], begun: Option<(u32, Option<&Release>)>) -> Vec<RecoverNode> {
    let mut rows: BTreeMap<String, RecoverNode> = BTreeMap::new();
    for (node, presence) in &remains.nodes {
        let record = presence.record.as_ref();
        let runs = record.and_then(|record| record.runs.clone());
        let floor = record.and_then(|record| record.floor);
        let other = |release: &Release| !runs.as_ref().is_some_and(|runs| runs.same_tree(release));
        let will_switch = begun.and_then(|(_, release)| release).is_some_and(other);
        // Old agents report no floor. They follow if they run the release without an alarm.
        let has_followed = |era: u32| floor.map_or(record.is_some_and(|r| r.alarm.is_none()), |floor| floor.era >= era);
        let row = RecoverNode {
            node: node.to_string(),
            state: if presence.is_alive { AgentState::Alive } else { AgentState::Absent },
            follows: begun.is_some_and(|(era, _)| has_followed(era)) && !will_switch,
            // An alarm caused by the keys is already listed in `troubles`.
            alarm: record.filter(|record| !record.astray).and_then(|record| record.alarm.clone()),
            runs,
            floor,
            will_switch,
        };
        rows.insert(row.node.clone(), row);
    }
    for name in silent {
        let (runs, floor, alarm) = (None, None, None);
        let row = RecoverNode {
            node: (*name).clone(),
            state: AgentState::Silent,
            runs,
            floor,
            alarm,
            will_switch: false,
            follows: false,
        };
        rows.insert((*name).clone(), row);
    }
    rows.into_values().collect()
}
