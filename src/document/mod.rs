//! The documents that `--output json` prints and the HTTP API serves: one shape for both.
//!
//! Pure functions of the records in KV. An unreadable record is listed in `problems` and left out; its content is never
//! guessed.
//!
//! The caller must
//!
//! 1. read the keys, with a consistent read if it acts on the document;
//! 2. strip control characters before it prints text of a document.

mod answers;
pub(crate) mod builds;
mod changes;
mod deploy;
mod fleet;
mod history;
mod recover;
pub(crate) mod status;
mod text;
mod waiting;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::protocol::ids::{ModifyIndex, Node, Unit};
use crate::protocol::keys::UnitKeys;
use crate::protocol::record;

pub(crate) use answers::{
    AnswerState, DoctorDocument, DryRunBuild, DryRunDocument, NodeReply, RepairDocument, Ships, UnitHealth,
};
pub(crate) use builds::{BuildRow, BuildState, BuildsDocument, Deployed};
pub(crate) use changes::{BuildDocument, Files, changes_line, changes_sentence, commits_line, files_line};
pub(crate) use deploy::{BuildInfo, DeployDocument, DeployState, Usual, fault_sentence, request_target};
pub(crate) use fleet::{AppsDocument, NodeRow, NodesDocument, NodesFilter};
pub(crate) use history::{EntryKind, FullHistory, HistoryDocument, HistoryEntry, Selection};
pub(crate) use recover::{
    AgentState, RecoverDocument, RecoverNode, Recovery, newest_era, nodes as recover_nodes, remains, silent,
};
pub(crate) use status::{Drift, NodeStatus, Presence, StatusDocument};
pub(crate) use text::{bytes, counted, fetching_words, moment, named, refusal_words, step_words};
pub(crate) use waiting::Waiting;

/// One key's entry in KV.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Empty if Consul has `null`.
    pub value: Vec<u8>,
    pub modify_index: ModifyIndex,
    /// The session that holds the key as a lock.
    pub session: Option<String>,
}

/// The entries under one or more prefixes, by full key.
pub(crate) type Entries = BTreeMap<String, Entry>;

/// A record that a document had to leave out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Problem {
    pub(crate) key: String,
    /// Why it cannot be read.
    pub(crate) problem: String,
}

/// The groups that have a barrier, a request key, or a node, in order: `<app>/<group>/barrier`, `<app>/<group>/deploy` or
/// `<app>/<group>/nodes/<node>`. A group whose other keys were lost still has its nodes. Other keys are ignored.
#[must_use]
pub(crate) fn units_in<'a>(prefix: &str, keys: impl IntoIterator<Item = &'a str>) -> Vec<Unit> {
    let mut units: Vec<Unit> = keys
        .into_iter()
        .filter_map(|key| {
            let rest = key.strip_prefix(prefix)?;
            let of_node = || rest.rsplit_once('/')?.0.strip_suffix("/nodes");
            rest.strip_suffix("/barrier").or_else(|| rest.strip_suffix("/deploy")).or_else(of_node)?.parse().ok()
        })
        .collect();
    units.sort();
    units.dedup();
    units
}

/// Reads one record; adds an unreadable one to `problems`. A missing or empty key gives none.
fn read<T: DeserializeOwned>(entries: &Entries, key: &str, problems: &mut Vec<Problem>) -> Option<T> {
    let entry = entries.get(key)?;
    if entry.value.is_empty() {
        return None;
    }
    match record::decode(key, &entry.value) {
        Ok(record) => Some(record),
        Err(error) => {
            problems.push(Problem { key: error.key().to_owned(), problem: error.problem() });
            None
        }
    }
}

/// The name of the coordinator, from the value of its lock; the session's id if the value is not a node name. None if the
/// lock is free.
fn coordinator(keys: &UnitKeys, entries: &Entries) -> Option<String> {
    let entry = entries.get(&keys.coordinator())?;
    let session = entry.session.as_ref()?;
    let name = std::str::from_utf8(&entry.value).ok().and_then(|text| text.trim().parse::<Node>().ok());
    Some(name.map_or_else(|| format!("session {session}"), |node| node.to_string()))
}

/// Every entry directly under `prefix`, by the rest of its key.
fn under<'a>(entries: &'a Entries, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a str, &'a Entry)> {
    entries
        .range(prefix.to_owned()..)
        .map_while(move |(key, entry)| Some((key.as_str(), key.strip_prefix(prefix)?, entry)))
        .filter(|(_, rest, _)| !rest.is_empty() && !rest.contains('/'))
}

/// Reads every record under `prefix` whose name parses.
fn read_all<N, T>(entries: &Entries, prefix: &str, problems: &mut Vec<Problem>) -> BTreeMap<N, T>
where
    N: std::str::FromStr<Err: std::fmt::Display> + Ord,
    T: DeserializeOwned,
{
    let mut found = BTreeMap::new();
    for (key, rest, entry) in under(entries, prefix) {
        if entry.value.is_empty() {
            continue;
        }
        let name = rest.parse::<N>().map_err(|e| e.to_string());
        match name.and_then(|name| Ok((name, record::decode(key, &entry.value).map_err(|e| e.problem())?))) {
            Ok((name, record)) => {
                found.insert(name, record);
            }
            Err(problem) => problems.push(Problem { key: key.to_owned(), problem }),
        }
    }
    found
}

#[cfg(test)]
mod tests;
