//! Removes old builds of an app: first the archive from the store, then the record from Consul.
//!
//! [`plan::builds`](crate::plan::builds) decides which builds to remove, from one consistent read of all keys of the app.
//! Nothing is removed if
//!
//! 1. some of the keys cannot be read (but Consul hides a group of which the token may read no key at all);
//! 2. the store contains none of the newest builds: it may be the wrong store, or not be mounted;
//! 3. the token may not remove the record. This is checked before the archive is removed.
//!
//! Before each archive is removed, and again before its record is, the set of groups and the request and barrier of every
//! group must be unchanged. If a deploy begins meanwhile, the plan is made again.
//!
//! If a run is interrupted, a record without an archive may remain. `cutover builds` shows it as gone, and the next run
//! removes it. An archive without a record never remains.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::access::Access;
use super::code::{Code, Failure};
use crate::artifact::object_key;
use crate::artifact::store::Store;
use crate::consul::{Consistency, TXN_LIMIT_OPERATIONS, TxnOp, TxnResult};
use crate::document::{Entries, Entry};
use crate::plan::builds::{Group, surplus};
use crate::protocol::ids::{App, ArtifactName, Group as GroupName, ModifyIndex, Unit};
use crate::protocol::keys::UnitKeys;
use crate::protocol::record::{Barrier, Build, Latest, Request, decode, is_blank};
use crate::telemetry::chain;

/// How often the plan is made again because a group changed meanwhile. After that, the next publish removes the rest.
const TRIES: usize = 5;
/// How many of the newest builds are searched in the store before any build is removed.
const KNOWN: usize = 10;
/// The operations of a transaction that remove one build: record, run and bad mark.
const REMOVALS: usize = 3;

/// The result of removing old builds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Pruned {
    /// Whether this only lists what would be removed.
    pub(crate) dry_run: bool,
    /// Removed builds, oldest first.
    pub(crate) removed: Vec<ArtifactName>,
    /// Builds that could not be removed, with the reason.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) left: BTreeMap<ArtifactName, String>,
}

/// The builds to remove, and the keys on which this choice depends.
struct Plan {
    surplus: Vec<Build>,
    /// The newest builds, at most [`KNOWN`].
    newest: Vec<Build>,
    /// The objects of the builds that stay. A record that did not come from `cutover publish` may name the object of another.
    kept_objects: BTreeSet<String>,
    groups: BTreeSet<GroupName>,
    /// The index of each group's barrier and request; none if the key does not exist. While they are unchanged, no
    /// group has a new request or a new deploy.
    indexes: BTreeMap<String, Option<ModifyIndex>>,
    entries: Entries,
}

/// The builds that [`prune`] would remove now.
///
/// # Errors
///
/// As [`prune`], without errors of the store, which is not queried.
///
/// # Cancel safety
///
/// Safe: it only reads.
pub(crate) async fn would_prune(access: &Access, app: &App, keep: u32) -> Result<Pruned, Failure> {
    let plan = plan(access, app, keep).await?;
    let removed = plan.surplus.into_iter().map(|build| build.artifact).collect();
    Ok(Pruned { dry_run: true, removed, left: BTreeMap::new() })
}

/// Removes all builds of `app` except the newest `keep` and those that a group needs. If an archive cannot be removed, its
/// build stays unchanged.
///
/// # Errors
///
/// [`Code::NotAllowed`] if the token may not read all keys of the app; [`Code::Failed`] if a key of the app is
/// unreadable or missing, or the store contains none of the newest builds; as any use of Consul. Builds that were
/// removed before the error stay removed.
///
/// # Cancel safety
///
/// Not safe: one build may have lost its archive but not its record. The next call completes the removal.
pub(crate) async fn prune(access: &Access, store: &Store, app: &App, keep: u32) -> Result<Pruned, Failure> {
    store.remove_dead_uploads(app).await;
    let mut pruned = Pruned::default();
    // Builds whose archive was removed, but not their record.
    let mut halfway: BTreeSet<ArtifactName> = BTreeSet::new();
    for _ in 0..TRIES {
        let plan = plan(access, app, keep).await?;
        let surplus: BTreeSet<&ArtifactName> = plan.surplus.iter().map(|build| &build.artifact).collect();
        for artifact in halfway.iter().filter(|artifact| !surplus.contains(artifact)) {
            let why = "a deploy of it was requested while it was being removed, and its archive is gone: publish the same \
                       archive again";
            pruned.left.insert(artifact.clone(), why.to_owned());
        }
        if remove_all(access, store, app, &plan, &mut halfway, &mut pruned).await? == Turn::Done {
            return Ok(pruned);
        }
    }
    (access.print_line)(&format!(
        "{app}  some old builds were not removed, because its groups were busy; the next publish removes them"
    ));
    Ok(pruned)
}

/// How carrying out a plan ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Done,
    /// A group changed, so the plan must be made again.
    Again,
}

async fn remove_all(
    access: &Access,
    store: &Store,
    app: &App,
    plan: &Plan,
    halfway: &mut BTreeSet<ArtifactName>,
    pruned: &mut Pruned,
) -> Result<Turn, Failure> {
    let client = access.kv.client();
    if !plan.surplus.is_empty() {
        plan.check_store(store, app).await?;
    }
    for build in &plan.surplus {
        if pruned.left.contains_key(&build.artifact) {
            continue;
        }
        let removal = plan.removal(access, app, &build.artifact);
        if let Some(why) = forbidden(access, &removal).await? {
            pruned.left.insert(build.artifact.clone(), why);
            continue;
        }
        if !plan.is_valid(access, app, &build.artifact).await? {
            return Ok(Turn::Again);
        }
        if !plan.kept_objects.contains(&object_key(app, build)) {
            if let Some(why) = remove_objects(store, app, build).await {
                pruned.left.insert(build.artifact.clone(), why);
                continue;
            }
            halfway.insert(build.artifact.clone());
        }
        if !plan.is_valid(access, app, &build.artifact).await? {
            return Ok(Turn::Again);
        }
        let ops: Vec<TxnOp> = plan.unchanged().chain(removal).collect();
        match client.txn(&ops, Consistency::Default).await? {
            TxnResult::Applied(_) => {
                halfway.remove(&build.artifact);
                pruned.removed.push(build.artifact.clone());
            }
            TxnResult::Refused(_) => return Ok(Turn::Again),
        }
    }
    Ok(Turn::Done)
}

/// Removes the list of a build's files, and then its archive, so a failure leaves a build that still runs. Returns the reason
/// if one of them stays.
async fn remove_objects(store: &Store, app: &App, build: &Build) -> Option<String> {
    let list = build.manifest.as_ref().map(|_| store.manifest_key(app, build));
    for key in list.into_iter().chain([store.key(app, build)]) {
        if let Err(error) = store.delete(&key).await {
            return Some(format!("{} could not be removed: {}", store.place(&key), chain(&error)));
        }
    }
    None
}

impl Plan {
    /// Fails unless the store contains at least one of the newest builds. In the wrong store, or one that is not mounted,
    /// removing an archive would seem to succeed.
    async fn check_store(&self, store: &Store, app: &App) -> Result<(), Failure> {
        let key = |build: &Build| store.key(app, build);
        let known: Vec<String> = self.newest.iter().map(key).collect();
        if store.has_any(&known).await? {
            return Ok(());
        }
        let place = known.first().map(|key| store.place(key)).unwrap_or_default();
        let what = format!("no build was removed: the store contains none of the newest builds, for example {place}");
        Err(Failure::new(Code::Failed, what).hint("is this the right store, and is it mounted?"))
    }

    /// Whether the plan is still valid for a build: its record, the groups, their requests and their barriers are unchanged. A
    /// record that was removed and written again may need the object that this plan would remove.
    async fn is_valid(&self, access: &Access, app: &App, artifact: &ArtifactName) -> Result<bool, Failure> {
        let root = root(access, app);
        let names = access.kv.names_in(&root).await?;
        if group_names(names.iter(), &root) != self.groups {
            return Ok(false);
        }
        let record = access.keys.build(app, artifact);
        let keys: Vec<String> = self.indexes.keys().chain([&record]).cloned().collect();
        let now = access.kv.at_one_moment(&keys).await?;
        let index = |key: &String| now.get(key).map(|entry| entry.modify_index);
        let is_same_build = index(&record) == self.entries.get(&record).map(|entry| entry.modify_index);
        Ok(is_same_build && self.indexes.iter().all(|(key, then)| index(key) == *then))
    }

    /// The checks of [`Plan::is_valid`] as operations. Missing keys are left out, because checking that a key does not
    /// exist needs the right to write it.
    fn unchanged(&self) -> impl Iterator<Item = TxnOp> {
        let there = self.indexes.iter().filter_map(|(key, index)| Some((key.clone(), (*index)?)));
        there.map(|(key, index)| TxnOp::CheckIndex { key, index })
    }

    /// The operations that remove a build: its record only if unchanged, its run and its bad mark in any case.
    fn removal(&self, access: &Access, app: &App, artifact: &ArtifactName) -> Vec<TxnOp> {
        let keys = &access.keys;
        let record = keys.build(app, artifact);
        let index = self.entries.get(&record).map(|entry| entry.modify_index).unwrap_or_default();
        let others = [keys.run(app, artifact), keys.bad(app, artifact)];
        // Keys that do not exist are left out, so that no right to remove them is needed.
        let others = others.into_iter().filter(|key| self.entries.contains_key(key));
        std::iter::once(TxnOp::DeleteCas { key: record, index })
            .chain(others.map(|key| TxnOp::Delete { key }))
            .collect()
    }
}

/// Why the token may not carry out `removal`; none if it may.
async fn forbidden(access: &Access, removal: &[TxnOp]) -> Result<Option<String>, Failure> {
    let key = |op: &TxnOp| match op {
        TxnOp::Delete { key } | TxnOp::DeleteCas { key, .. } => Some(key.clone()),
        _ => None,
    };
    let lacking = access.kv.unwritable(removal.iter().filter_map(key)).await?;
    Ok(lacking
        .map(|key| format!("it was not removed: the token may not remove {key}; see consul/policies/publisher.hcl")))
}

fn root(access: &Access, app: &App) -> String {
    format!("{}{app}/", access.keys.prefix())
}

/// Fails unless the token may read all of these keys. A list silently omits keys that the token may not read, and a build
/// that only such a key needs would be removed. Reading a single key fails instead.
async fn readable(access: &Access, keys: impl IntoIterator<Item = String>, root: &str) -> Result<(), Failure> {
    for key in keys {
        access.kv.entry(&key).await.map_err(|failure| {
            let hint = format!("to find out which builds are needed, the token must read all keys under {root}");
            if failure.code == Code::NotAllowed { failure.hint(hint) } else { failure }
        })?;
    }
    Ok(())
}

/// Reads all keys of the app, and selects the builds to remove.
async fn plan(access: &Access, app: &App, keep: u32) -> Result<Plan, Failure> {
    let keys = &access.keys;
    let root = root(access, app);
    readable(access, [root.clone(), keys.builds(app) + "x", keys.latest(app)], &root).await?;
    let entries = access.kv.entries(&root).await?;
    let builds: Vec<Build> = records(&entries, &keys.builds(app))?;
    let at_latest = keys.latest(app);
    let latest = entries.get(&at_latest).filter(|entry| !entry.value.trim_ascii().is_empty());
    let latest: Latest = latest.map(|entry| record(&at_latest, entry)).transpose()?.unwrap_or_default();
    let names = group_names(entries.keys(), &root);
    let (mut groups, mut indexes) = (Vec::new(), BTreeMap::new());
    for group in names.iter().cloned() {
        let unit = Unit { app: app.clone(), group };
        let at = keys.unit(&unit);
        // An ACL rule may hide only a part of a group.
        readable(access, [at.barrier(), at.deploy(), at.nodes() + "x", at.all_history() + "x"], &root).await?;
        for key in [at.barrier(), at.deploy()] {
            let index = entries.get(&key).map(|entry| entry.modify_index);
            indexes.insert(key, index);
        }
        groups.push(group_of(&entries, &unit, &at)?);
    }
    if indexes.len() + REMOVALS > TXN_LIMIT_OPERATIONS {
        let what = format!("{app} has {} groups, too many to remove builds safely", groups.len());
        return Err(Failure::new(Code::Failed, what).hint("remove old archives by a rule of the bucket instead"));
    }
    let keep = usize::try_from(keep).unwrap_or(usize::MAX);
    let surplus: Vec<Build> = surplus(&builds, &latest, &groups, keep).into_iter().cloned().collect();
    let goes: BTreeSet<&ArtifactName> = surplus.iter().map(|build| &build.artifact).collect();
    let stays = builds.iter().filter(|build| !goes.contains(&build.artifact));
    let kept_objects = stays.map(|build| object_key(app, build)).collect();
    let mut newest = builds;
    newest.sort_by_key(|build| std::cmp::Reverse(build.at));
    newest.truncate(KNOWN);
    Ok(Plan { surplus, newest, kept_objects, groups: names, indexes, entries })
}

/// The groups of all keys of the app.
fn group_names<'a>(keys: impl Iterator<Item = &'a String>, root: &str) -> BTreeSet<GroupName> {
    let name = |key: &String| key.strip_prefix(root)?.split_once('/')?.0.parse().ok();
    keys.filter_map(name).collect()
}

fn group_of(entries: &Entries, unit: &Unit, at: &UnitKeys) -> Result<Group, Failure> {
    let nodes = records(entries, &at.nodes())?;
    let history = records(entries, &at.all_history())?;
    let barrier = match entries.get(&at.barrier()) {
        Some(entry) if entry.value.is_empty() => None,
        Some(entry) => {
            Some(Barrier::decode(&at.barrier(), &entry.value).map_err(|e| unreadable(&at.barrier(), &e.problem()))?)
        }
        None if nodes.is_empty() && history.is_empty() => None,
        None => {
            let what =
                format!("no build was removed: keys of {unit} are missing, so it is unknown which builds it needs");
            return Err(Failure::new(Code::Failed, what).hint(format!("`cutover recover {unit}` rebuilds the keys")));
        }
    };
    // An unreadable request needs no build, because the coordinator refuses it.
    let request = entries.get(&at.deploy()).filter(|entry| !is_blank(&entry.value));
    let request = request.and_then(|entry| Request::parse(&entry.value).ok());
    Ok(Group { barrier, request, nodes, history })
}

/// Every record under `prefix`, without empty keys.
fn records<T: DeserializeOwned>(entries: &Entries, prefix: &str) -> Result<Vec<T>, Failure> {
    let under = entries.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
    under.filter(|(_, entry)| !entry.value.is_empty()).map(|(key, entry)| record(key, entry)).collect()
}

fn record<T: DeserializeOwned>(key: &str, entry: &Entry) -> Result<T, Failure> {
    decode(key, &entry.value).map_err(|error| unreadable(key, &error.problem()))
}

fn unreadable(key: &str, problem: &str) -> Failure {
    Failure::new(Code::Failed, format!("no build was removed: {key} has no readable record: {problem}"))
        .hint("a build that it names may still be needed; fix the key, or delete it if it is not needed")
}
