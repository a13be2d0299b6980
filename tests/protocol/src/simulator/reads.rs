//! What a coordinator reads, as `src/agent/coordinator/lookup.rs` and `resolve.rs` do: keys at one place in the log, the catalog and
//! the history apart from them.

use std::collections::{BTreeMap, BTreeSet};

use super::Sim;
use crate::protocol::coordinator::{Presence, Resolved, Slot, Snapshot};
use crate::protocol::ids::{ArtifactName, ModifyIndex, Node, Unit};
use crate::protocol::record::{BadMark, Build, Fault, History, NodeRecord, Request, decode};
use crate::protocol::resolve::{Catalogue, resolve};

use crate::consul::Entry;

impl Sim {
    pub(crate) fn kv_unit(&self) -> Unit {
        self.unit.clone()
    }

    /// One read of the keys. What is only needed while a deploy runs or waits is left out otherwise.
    pub(crate) fn snapshot(&mut self, is_full: bool) -> Snapshot {
        let names = &self.kv.names;
        let slot = |key: String| {
            let entry = self.kv.get(&key)?;
            Some(Slot { index: ModifyIndex(entry.modify_index), value: entry.value.to_vec() })
        };
        let newest = self.newest();
        let barrier = newest.record.as_ref().map(|record| Slot {
            index: newest.index,
            value: record.as_ref().map(|record| record.as_ref().clone()).map_err(Clone::clone),
        });
        let mut snapshot = Snapshot {
            deploy: slot(names.deploy()),
            abort: slot(names.abort()),
            freeze: slot(names.freeze()),
            status: self.kv.get(&names.status()).and_then(|entry| decode("status", &entry.value).ok()),
            ..Snapshot::default()
        };
        if is_full {
            let epoch = barrier.as_ref().and_then(|slot| slot.value.as_ref().ok()).map(|barrier| barrier.epoch);
            snapshot.members = epoch.map(|epoch| self.kv.members(epoch)).unwrap_or_default();
            snapshot.acks = named(self, &names.acks(), |entry| decode("ack", &entry.value).ok());
            let record = |entry: &Entry| decode::<NodeRecord>("node", &entry.value).ok();
            snapshot.nodes = named(self, &names.nodes(), |entry| {
                Some(Presence { is_alive: entry.holder.is_some(), record: record(entry) })
            });
        }
        snapshot.barrier = barrier;
        snapshot
    }

    /// What a request means, by what is published, marked, and past now.
    pub(crate) fn resolve(&self, request: &Request) -> Result<Resolved, Fault> {
        let at_history = self.kv.names.all_history();
        let past = self.kv.under(&at_history).filter_map(|(_, entry)| decode::<History>("history", &entry.value).ok());
        let history: Vec<History> = if request.is_rollback() { past.collect() } else { Vec::new() };
        let committed = self.newest().record.as_ref().and_then(|record| record.as_ref().ok()?.committed.clone());
        let builds: Vec<Build> = (0..self.builds).map(build).collect();
        let leaks = BadMark::parse(b"it leaks");
        let mark = |artifact: &ArtifactName| Some((artifact.clone(), leaks.clone()?));
        let known = Catalogue {
            unit: &self.unit,
            builds: &builds,
            runs: &BTreeMap::new(),
            bad: &self.bad.iter().filter_map(mark).collect(),
            tip: None,
            history: &history,
            committed: committed.as_ref(),
            now: jiff::Timestamp::UNIX_EPOCH,
        };
        resolve(request, &known)
    }
}

/// Entries by the node that their key names.
fn named<T>(sim: &Sim, prefix: &str, read: impl Fn(&Entry) -> Option<T>) -> BTreeMap<Node, T> {
    sim.kv.under(prefix).filter_map(|(name, entry)| Some((name.parse().ok()?, read(entry)?))).collect()
}

/// The builds of a run, in the order in which they are published: two branches by turns.
pub(crate) fn build(number: u32) -> Build {
    Build {
        sha256: format!("{number:08x}").repeat(8).parse().unwrap(),
        at: super::START + jiff::SignedDuration::from_secs(i64::from(number)),
        ..Build::sample(artifact(number).as_str())
    }
}

pub(crate) fn artifact(number: u32) -> ArtifactName {
    let branch = if number.is_multiple_of(2) { "master" } else { "hotfix" };
    format!("{branch}-{number:08x}").parse().unwrap()
}

/// Marks of builds, by artifact.
pub(crate) type Bad = BTreeSet<ArtifactName>;
