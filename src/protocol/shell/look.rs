//! Which keys a coordinator reads before it decides, and the snapshot that it makes of them.

use std::collections::BTreeMap;

use super::super::coordinator::{Presence, Slot, Snapshot};
use super::super::ids::{Epoch, ModifyIndex, Node};
use super::super::keys::UnitKeys;
use super::super::record::{Barrier, FORMAT, NodeRecord, RecordError, check_format, decode};

/// How much of a unit's keys is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// A few small keys, which show whether a deploy runs or is requested.
    Small,
    /// Everything that a decision about a deploy depends on.
    Full,
}

/// A part of the keys that is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Exactly this key.
    Key(String),
    /// All keys that start with this.
    Prefix(String),
}

/// One key as it was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<'a> {
    pub key: &'a str,
    pub value: &'a [u8],
    pub(crate) index: ModifyIndex,
    pub(crate) is_held: bool,
}

/// The parts to read, at one position in Consul's log.
#[must_use]
pub(crate) fn wanted(at: &UnitKeys, extent: Extent) -> Vec<Wanted> {
    let small = [at.barrier(), at.deploy(), at.abort(), at.freeze(), at.status()].map(Wanted::Key);
    let more = [at.acks(), at.nodes(), at.all_members(), at.attests(), at.all_forgotten()].map(Wanted::Prefix);
    match extent {
        Extent::Small => small.into(),
        Extent::Full => small.into_iter().chain(more).collect(),
    }
}

/// The snapshot that `entries` show. The caller fills in the rest: `catalog`, `floor`, `history` and `attestations`.
///
/// An unreadable value counts as absent, except that of `barrier`. A key below a prefix of nodes that names no node is
/// ignored.
pub(crate) fn snapshot<'a>(at: &UnitKeys, entries: impl IntoIterator<Item = Entry<'a>>) -> Snapshot {
    let (barrier, deploy, abort, freeze, status) = (at.barrier(), at.deploy(), at.abort(), at.freeze(), at.status());
    let (acks, nodes, all_members, forgotten) = (at.acks(), at.nodes(), at.all_members(), at.all_forgotten());
    let (attests, mut found) = (at.attests(), Snapshot::default());
    let (mut newer, mut newer_node): (Option<RecordError>, Option<RecordError>) = (None, None);
    let mut members: BTreeMap<Epoch, Entry<'a>> = BTreeMap::new();
    for entry in entries {
        let Entry { key, value, index, is_held } = entry;
        let slot = || Some(Slot { index, value: value.to_vec() });
        let too_new = || check_format(key, value, FORMAT).err();
        let node = |prefix: &str| key.strip_prefix(prefix).and_then(|name| name.parse::<Node>().ok());
        if key == barrier {
            found.barrier = Some(Slot { index, value: Barrier::decode(key, value) });
        } else if key == deploy {
            found.deploy = slot();
        } else if key == abort {
            found.abort = slot();
        } else if key == freeze {
            found.freeze = slot();
        } else if key == status {
            found.status = decode(key, value).ok();
        } else if let Some(node) = node(&acks) {
            found.acks.extend(decode(key, value).ok().map(|ack| (node, ack)));
        } else if let Some(node) = node(&nodes) {
            newer_node = newer_node.or_else(too_new);
            let record = decode::<NodeRecord>(key, value).ok();
            found.nodes.insert(node, Presence { is_alive: is_held, record });
            continue;
        } else if let Some(node) = node(&forgotten) {
            found.forgotten.insert(node);
        } else if let Some(Ok(epoch)) = key.strip_prefix(&all_members).map(str::parse) {
            members.insert(epoch, entry);
            continue;
        } else if !key.starts_with(&attests) {
            continue;
        }
        newer = newer.or_else(too_new);
    }
    let barrier = found.barrier.as_ref().map(|slot| &slot.value);
    // A deploy that runs needs of a node only whether its session lives, so an upgrade meanwhile does not stop it.
    let is_settled = barrier.is_none_or(|value| value.as_ref().is_ok_and(|barrier| barrier.phase.is_settled()));
    let members = found.epoch().and_then(|epoch| members.get(&epoch));
    let newer = newer.or_else(|| members.and_then(|entry| check_format(entry.key, entry.value, FORMAT).err()));
    found.newer = newer.or_else(|| newer_node.filter(|_| is_settled));
    found.members = members.and_then(|entry| decode(entry.key, entry.value).ok()).unwrap_or_default();
    found
}

/// Adds the record of the barrier's epoch, as it stands in `key`; one that cannot be decoded counts as absent.
pub(crate) fn add_history(found: &mut Snapshot, key: &str, value: Option<&[u8]>) {
    let Some(value) = value else { return };
    found.newer = found.newer.take().or_else(|| check_format(key, value, FORMAT).err());
    found.history = decode(key, value).ok();
}
