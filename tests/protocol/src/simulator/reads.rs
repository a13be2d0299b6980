//! The reads of a coordinator, as in `src/agent/coordinator/lookup.rs` and `resolve.rs`: keys at one index, catalog and
//! history apart from them.

use std::collections::{BTreeMap, BTreeSet};

use super::Sim;
use crate::protocol::coordinator::{Resolved, Snapshot};
use crate::protocol::ids::{ArtifactName, ModifyIndex, Unit};
use crate::protocol::record::{BadMark, Build, Fault, History, Request, decode};
use crate::protocol::resolve::{Catalogue, resolve};
use crate::protocol::shell::look::{self, Extent, Wanted};

use crate::consul::Entry;

impl Sim {
    pub(crate) fn kv_unit(&self) -> Unit {
        self.unit.clone()
    }

    pub(crate) fn snapshot(&self, extent: Extent) -> Snapshot {
        let entry = |key: &'_ str| self.kv.get(key).cloned();
        let found: Vec<(String, Entry)> = look::wanted(&self.kv.names, extent)
            .into_iter()
            .flat_map(|wanted| match wanted {
                Wanted::Key(key) => entry(&key).map(|entry| (key, entry)).into_iter().collect::<Vec<_>>(),
                Wanted::Prefix(prefix) => {
                    self.kv.consul.under(&prefix).map(|(key, entry)| (key.to_owned(), entry.clone())).collect()
                }
            })
            .collect();
        look::snapshot(
            &self.kv.names,
            found.iter().map(|(key, entry)| look::Entry {
                key,
                value: &entry.value,
                index: ModifyIndex(entry.modify_index),
                is_held: entry.holder.is_some(),
            }),
        )
    }

    /// Resolves a request, by the builds, marks and histories of now.
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
            tips: None,
            history: &history,
            committed: committed.as_ref(),
            now: jiff::Timestamp::UNIX_EPOCH,
        };
        resolve(request, &known)
    }
}

/// A build of a run, by the order of publishing. Two branches take turns.
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

/// The builds that are marked bad.
pub(crate) type Bad = BTreeSet<ArtifactName>;
