//! Reads the records that decide which build a request selects.
//!
//! The coordinator and the dry run both pass them to the pure [`resolve`](crate::protocol::resolve::resolve), so both
//! select the same build. Non-goals: the tip of a branch in the git repository, and the unit's rules. Both are settings
//! of nodes.

use std::collections::BTreeMap;

use crate::consul::{Client, Consistency, Entry, Error};
use crate::protocol::ids::{ArtifactName, Unit};
use crate::protocol::keys::Keys;
use crate::protocol::record::{BadMark, Barrier, Build, History, RecordError, Release, Request, Run, Wanted, decode};
use crate::protocol::resolve::{Catalogue, Tips};

/// The records that a request may select from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// Every build record of the app that can be read.
    pub(crate) builds: Vec<Build>,
    pub(crate) runs: BTreeMap<ArtifactName, Run>,
    pub(crate) bad: BTreeMap<ArtifactName, BadMark>,
    /// The unit's history; empty unless the request is a rollback.
    pub(crate) history: Vec<History>,
    pub(crate) committed: Option<Release>,
    /// The errors of unreadable records, which count as absent.
    pub(crate) passed_over: Vec<RecordError>,
}

impl Known {
    /// The records as [`resolve`](crate::protocol::resolve::resolve) takes them. `tips` are the commits of the requested
    /// name in the git repository, if that was read.
    #[must_use]
    pub(crate) fn catalogue<'a>(&'a self, unit: &'a Unit, tips: Option<&'a Tips>) -> Catalogue<'a> {
        Catalogue {
            unit,
            builds: &self.builds,
            runs: &self.runs,
            bad: &self.bad,
            tips,
            history: &self.history,
            committed: self.committed.as_ref(),
            now: jiff::Timestamp::now(),
        }
    }
}

/// Reads the records for `request`, consistently.
///
/// # Errors
///
/// Consul's, of any of the reads.
///
/// # Cancel safety
///
/// Safe: it only reads.
pub(crate) async fn known(client: &Client, keys: &Keys, unit: &Unit, request: &Request) -> Result<Known, Error> {
    let app = &unit.app;
    let at = keys.unit(unit);
    let at_history = at.all_history();
    let (at_builds, at_runs, at_bad, at_barrier) =
        (keys.builds(app), keys.runs(app), keys.bad_marks(app), at.barrier());
    let past = async {
        match request.wanted {
            Wanted::Rollback(_) => client.kv_list(&at_history, Consistency::Consistent).await,
            Wanted::Deploy(_) => Ok(Vec::new()),
        }
    };
    let (builds, runs, bad, past, barrier) = tokio::try_join!(
        client.kv_list(&at_builds, Consistency::Consistent),
        client.kv_list(&at_runs, Consistency::Consistent),
        client.kv_list(&at_bad, Consistency::Consistent),
        past,
        client.kv_get(&at_barrier, Consistency::Consistent),
    )?;
    let mut passed_over = Vec::new();
    let builds = records(&at_builds, builds, &mut passed_over).into_iter().map(|(_, build)| build).collect();
    let history = records(&at_history, past, &mut passed_over).into_iter().map(|(_, record)| record).collect();
    let runs = records(&at_runs, runs, &mut passed_over);
    let runs = runs.into_iter().filter_map(|(name, run)| Some((name.parse().ok()?, run))).collect();
    let mark = |entry: Entry| Some((entry.key.strip_prefix(&at_bad)?.parse().ok()?, BadMark::parse(&entry.value)?));
    let bad = bad.into_iter().filter_map(mark).collect();
    let committed = barrier.and_then(|entry| Barrier::decode(&entry.key, &entry.value).ok()).and_then(|b| b.committed);
    Ok(Known { builds, runs, bad, history, committed, passed_over })
}

/// Every readable record, with its name under `prefix`.
fn records<T: serde::de::DeserializeOwned>(
    prefix: &str,
    entries: Vec<Entry>,
    passed_over: &mut Vec<RecordError>,
) -> Vec<(String, T)> {
    let mut found = Vec::with_capacity(entries.len());
    for entry in entries {
        let Some(name) = entry.key.strip_prefix(prefix) else { continue };
        match decode::<T>(&entry.key, &entry.value) {
            Ok(record) => found.push((name.to_owned(), record)),
            Err(error) => passed_over.push(error),
        }
    }
    found
}
