//! `cutover recover`: what is wrong with a unit's keys, what each node runs, and what is begun again.

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
pub struct RecoverDocument {
    /// The unit.
    pub unit: Unit,
    /// What became of it.
    pub fate: Recovery,
    /// The same in one sentence, with the way on.
    pub headline: String,
    /// The exit code that says the same to scripts.
    pub code: u8,
    /// What is wrong with the keys; empty: nothing is.
    pub troubles: Vec<String>,
    /// The epoch that is begun, or would be; none where nothing is to be written.
    pub epoch: Option<Epoch>,
    /// What every node is to run from then on; none: nothing, or not decided yet.
    pub committed: Option<Release>,
    /// What `--to` may name, where nodes run several releases.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<RecoverChoice>,
    /// Every node that is known.
    pub nodes: Vec<RecoverNode>,
}

/// What became of a recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Recovery {
    /// A deploy runs, and is not cut.
    Busy,
    /// The new era is written, and every live node follows it.
    Done,
    /// There is nothing to recover.
    Nothing,
    /// This would be written; nothing was.
    Planned,
    /// It cannot be told what is to run; nothing was written.
    Refused,
    /// The new era is written, and not every live node follows it yet.
    Unfinished,
}

/// A release that `--to` may name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RecoverChoice {
    /// The build.
    pub artifact: ArtifactName,
    /// Its directory.
    pub release: ReleaseName,
    /// The live nodes that run it.
    pub nodes: Vec<Node>,
    /// The nodes that said so last, and are away.
    pub away: Vec<Node>,
}

impl From<Choice> for RecoverChoice {
    fn from(choice: Choice) -> Self {
        let Choice { release, nodes, away } = choice;
        Self { artifact: release.artifact, release: release.release, nodes, away }
    }
}

/// Where a node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// Its session lives.
    Alive,
    /// It does not.
    Absent,
    /// Its agent lives by Consul's catalog, and has not said what it runs.
    Silent,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RecoverNode {
    /// Its name; of a silent one, that of its Consul agent.
    pub node: String,
    /// Where it stands.
    pub state: Standing,
    /// What it has switched to.
    pub runs: Option<Release>,
    /// The newest epoch that it has followed.
    pub floor: Option<Epoch>,
    /// What is wrong there besides the keys.
    pub alarm: Option<String>,
    /// Whether it runs something else than what is to be begun with, and will switch.
    pub will_switch: bool,
    /// Whether it follows the era that was begun.
    pub follows: bool,
}

/// What is left of a unit's keys, from at least `barrier`, the list of its members, `deploy`, `coordinator` and `nodes/`.
#[must_use]
pub fn remains(keys: &UnitKeys, entries: &Entries) -> Remains {
    // Empty is none, as everywhere.
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

/// The highest era that anything among `entries` mentions, readable or not; 0 where nothing does.
#[must_use]
pub fn newest_era(keys: &UnitKeys, entries: &Entries) -> u32 {
    let named = [keys.all_history(), keys.all_members()];
    let in_name = |key: &String| named.iter().find_map(|prefix| era_in_name(key.strip_prefix(prefix.as_str())?));
    entries.iter().flat_map(|(key, entry)| [in_name(key), era_in_value(&entry.value)]).flatten().max().unwrap_or(0)
}

/// The nodes of Consul's whose agent lives, and that no live presence speaks for.
#[must_use]
pub fn silent<'a>(remains: &Remains, living: &'a BTreeSet<String>) -> Vec<&'a String> {
    let speaks = |name: &String| {
        let records = remains.nodes.values().filter(|presence| presence.is_alive).filter_map(|p| p.record.as_ref());
        records.map(|record| &record.consul_node).any(|node| node == name)
    };
    living.iter().filter(|name| !speaks(name)).collect()
}

/// Every node that is known, by name. `begun` is the era that was, or would be, begun, and its release.
#[must_use]
pub fn nodes(remains: &Remains, silent: &[&String], begun: Option<(u32, Option<&Release>)>) -> Vec<RecoverNode> {
    let mut rows: BTreeMap<String, RecoverNode> = BTreeMap::new();
    for (node, presence) in &remains.nodes {
        let record = presence.record.as_ref();
        let runs = record.and_then(|record| record.runs.clone());
        let floor = record.and_then(|record| record.floor);
        let other = |release: &Release| !runs.as_ref().is_some_and(|runs| runs.same_tree(release));
        let will_switch = begun.and_then(|(_, release)| release).is_some_and(other);
        // An agent from before floors shows that it follows by running what is asked for, without an alarm.
        let has_come = |era: u32| floor.map_or(record.is_some_and(|r| r.alarm.is_none()), |floor| floor.era >= era);
        let row = RecoverNode {
            node: node.to_string(),
            state: if presence.is_alive { Standing::Alive } else { Standing::Absent },
            follows: begun.is_some_and(|(era, _)| has_come(era)) && !will_switch,
            // What the keys do to it is told once, and for all.
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
            state: Standing::Silent,
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
