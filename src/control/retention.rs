//! Removes old builds of an app: from the store first, then from Consul.
//!
//! What may go is decided by [`plan::builds`](crate::plan::builds), over one consistent read of every key of the app.
//! Where a part of them cannot be read, nothing is removed; of a group of which the token may read no key at all, Consul
//! says nothing. Before each archive is removed, and again before its record is, there must be no other group, and the
//! request and the barrier of every group must still stand as they were read: a deploy that begins meanwhile wins, and is
//! planned with anew. Whether the token may remove the record is asked before the archive is removed. A store that shows
//! none of the newest builds may be another one, or not be mounted, and nothing is removed either.
//!
//! In this order a record without an archive may be left behind, which `cutover builds` shows as gone and the next run
//! removes, and never an archive that nothing names.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::access::Access;
use super::code::{Code, Failure};
use crate::artifact::store::Store;
use crate::consul::{Consistency, TXN_LIMIT_OPERATIONS, TxnOp, TxnResult};
use crate::document::{Entries, Entry};
use crate::plan::builds::{Group, surplus};
use crate::protocol::ids::{App, ArtifactName, Group as GroupName, ModifyIndex, Unit};
use crate::protocol::keys::UnitKeys;
use crate::protocol::record::{Barrier, Build, Latest, Request, decode};
use crate::telemetry::chain;

/// How often is planned anew because a group did something meanwhile. Then the rest is left to the next publish.
const TRIES: usize = 5;
/// How many builds are looked for in the store before any is removed.
const KNOWN: usize = 10;
/// The operations of a transaction that remove one build: its record, its run, its bad mark.
const REMOVALS: usize = 3;

/// What became of the builds that were to go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Pruned {
    /// Whether nothing was done, and it was only asked what would be.
    pub(crate) dry_run: bool,
    /// The builds that were removed, oldest first.
    pub(crate) removed: Vec<ArtifactName>,
    /// Those that should have been, and why they were not.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) left: BTreeMap<ArtifactName, String>,
}

/// The builds to remove, and the keys that this choice rests on.
struct Plan {
    surplus: Vec<Build>,
    /// The newest builds, at most [`KNOWN`].
    newest: Vec<Build>,
    groups: BTreeSet<GroupName>,
    /// Where the barrier and the request of each stand: as long as these do, no group has been asked for anything, or has
    /// begun anything. None: there is no such key.
    stand: BTreeMap<String, Option<ModifyIndex>>,
    entries: Entries,
}

/// What [`prune`] would remove now.
///
/// # Errors
///
/// As [`prune`]; the store is not asked.
///
/// # Cancel safety
///
/// Safe: it only reads.
pub(crate) async fn would_prune(access: &Access, app: &App, keep: u32) -> Result<Pruned, Failure> {
    let plan = plan(access, app, keep).await?;
    let removed = plan.surplus.into_iter().map(|build| build.artifact).collect();
    Ok(Pruned { dry_run: true, removed, left: BTreeMap::new() })
}

/// Removes every build of `app` but the newest `keep` and those that a group needs. An archive that could not be removed
/// leaves its build as it was.
///
/// # Errors
///
/// [`Code::NotAllowed`] where the token does not read everything of the app, or may not remove; [`Code::Failed`] where a
/// key of the app cannot be read or was lost; as any use of Consul. What was removed until then stays removed.
///
/// # Cancel safety
///
/// The build under way may have lost its archive and not its record; the next call ends that.
pub(crate) async fn prune(access: &Access, store: &Store, app: &App, keep: u32) -> Result<Pruned, Failure> {
    let mut pruned = Pruned::default();
    // Builds whose archive is gone, and whose record is not yet.
    let mut halfway: BTreeSet<ArtifactName> = BTreeSet::new();
    for _ in 0..TRIES {
        let plan = plan(access, app, keep).await?;
        let goes: BTreeSet<&ArtifactName> = plan.surplus.iter().map(|build| &build.artifact).collect();
        for artifact in halfway.iter().filter(|artifact| !goes.contains(artifact)) {
            let why = "a deploy of it was asked for while it was being removed, and its archive is gone: publish the same \
                       archive again";
            pruned.left.insert(artifact.clone(), why.to_owned());
        }
        if remove_all(access, store, app, &plan, &mut halfway, &mut pruned).await? == Turn::Done {
            return Ok(pruned);
        }
    }
    (access.print_line)(&format!(
        "{app}  some old builds are left: its groups were busy; the next publish removes them"
    ));
    Ok(pruned)
}

/// How far a plan has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Done,
    /// A group has begun something.
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
        plan.find_in(store, app).await?;
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
        if !plan.still_holds(access, app).await? {
            return Ok(Turn::Again);
        }
        let key = store.key(app, &build.artifact, build.format);
        if let Err(error) = store.delete(&key).await {
            let why = format!("{} could not be removed: {}", store.place(&key), chain(&error));
            pruned.left.insert(build.artifact.clone(), why);
            continue;
        }
        halfway.insert(build.artifact.clone());
        if !plan.still_holds(access, app).await? {
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

impl Plan {
    /// Fails unless the store shows a build that is recorded: of what is in another store, or of what is not mounted, it
    /// would say that it is removed.
    async fn find_in(&self, store: &Store, app: &App) -> Result<(), Failure> {
        let key = |build: &Build| store.key(app, &build.artifact, build.format);
        let known: Vec<String> = self.newest.iter().map(key).collect();
        if store.shows_any(&known).await? {
            return Ok(());
        }
        let place = known.first().map(|key| store.place(key)).unwrap_or_default();
        let what = format!("no build is removed: the store shows none of the newest, not even {place}");
        Err(Failure::new(Code::Failed, what).hint("is it the store that they were published to, and is it mounted?"))
    }

    /// Whether there are no other groups by now, and none has been asked for anything, or has begun anything.
    async fn still_holds(&self, access: &Access, app: &App) -> Result<bool, Failure> {
        let root = root(access, app);
        let names = access.kv.names_in(&root).await?;
        if group_names(names.iter(), &root) != self.groups {
            return Ok(false);
        }
        let keys: Vec<String> = self.stand.keys().cloned().collect();
        if keys.is_empty() {
            return Ok(true);
        }
        let now = access.kv.at_one_moment(&keys).await?;
        Ok(self.stand.iter().all(|(key, index)| now.get(key).map(|entry| entry.modify_index) == *index))
    }

    /// The same for a transaction, as far as there are keys: that one is absent takes the right to write it.
    fn unchanged(&self) -> impl Iterator<Item = TxnOp> {
        let there = self.stand.iter().filter_map(|(key, index)| Some((key.clone(), (*index)?)));
        there.map(|(key, index)| TxnOp::CheckIndex { key, index })
    }

    /// The record only as it was read; its run and its mark, whatever they say.
    fn removal(&self, access: &Access, app: &App, artifact: &ArtifactName) -> Vec<TxnOp> {
        let keys = &access.keys;
        let record = keys.build(app, artifact);
        let index = self.entries.get(&record).map(|entry| entry.modify_index).unwrap_or_default();
        let besides = [keys.run(app, artifact), keys.bad(app, artifact)];
        // A key that is not there needs no right to remove it.
        let besides = besides.into_iter().filter(|key| self.entries.contains_key(key));
        std::iter::once(TxnOp::DeleteCas { key: record, index })
            .chain(besides.map(|key| TxnOp::Delete { key }))
            .collect()
    }
}

/// Why the token may not do what `removal` does; none: it may.
async fn forbidden(access: &Access, removal: &[TxnOp]) -> Result<Option<String>, Failure> {
    let key = |op: &TxnOp| match op {
        TxnOp::Delete { key } | TxnOp::DeleteCas { key, .. } => Some(key.clone()),
        _ => None,
    };
    let lacking = access.kv.unwritable(removal.iter().filter_map(key)).await?;
    Ok(lacking.map(|key| {
        format!("nothing of it is removed: the token may not remove {key}; see consul/policies/publisher.hcl")
    }))
}

fn root(access: &Access, app: &App) -> String {
    format!("{}{app}/", access.keys.prefix())
}

/// Fails unless the token reads all of these. A list hides what it may not read, and what is not seen would not be kept; a
/// single key tells.
async fn readable(access: &Access, keys: impl IntoIterator<Item = String>, root: &str) -> Result<(), Failure> {
    for key in keys {
        access.kv.entry(&key).await.map_err(|failure| {
            let hint = format!("to tell which builds are needed, the token must read everything below {root}");
            if failure.code == Code::NotAllowed { failure.hint(hint) } else { failure }
        })?;
    }
    Ok(())
}

/// Reads everything of the app, and decides.
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
    let (mut groups, mut stand) = (Vec::new(), BTreeMap::new());
    for group in names.iter().cloned() {
        let unit = Unit { app: app.clone(), group };
        let at = keys.unit(&unit);
        // A narrower rule may hide a part of a group.
        readable(access, [at.barrier(), at.deploy(), at.nodes() + "x", at.all_history() + "x"], &root).await?;
        for key in [at.barrier(), at.deploy()] {
            let index = entries.get(&key).map(|entry| entry.modify_index);
            stand.insert(key, index);
        }
        groups.push(group_of(&entries, &unit, &at)?);
    }
    if stand.len() + REMOVALS > TXN_LIMIT_OPERATIONS {
        let what = format!("{app} has {} groups, too many to remove builds safely", groups.len());
        return Err(Failure::new(Code::Failed, what).hint("remove old archives by a rule of the bucket instead"));
    }
    let keep = usize::try_from(keep).unwrap_or(usize::MAX);
    let surplus = surplus(&builds, &latest, &groups, keep).into_iter().cloned().collect();
    let mut newest = builds;
    newest.sort_by_key(|build| std::cmp::Reverse(build.at));
    newest.truncate(KNOWN);
    Ok(Plan { surplus, newest, groups: names, stand, entries })
}

/// Every group that any key of the app names.
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
                format!("no build is removed: the keys of {unit} are not all there, so what it needs is not known");
            return Err(Failure::new(Code::Failed, what).hint(format!("the way on is `cutover recover {unit}`")));
        }
    };
    // One that cannot be read asks for nothing: the coordinator refuses it.
    let request = entries.get(&at.deploy()).filter(|entry| !entry.value.trim_ascii().is_empty());
    let request = request.and_then(|entry| Request::parse(&entry.value).ok());
    Ok(Group { barrier, request, nodes, history })
}

/// Every record directly under `prefix`; an empty key is none.
fn records<T: DeserializeOwned>(entries: &Entries, prefix: &str) -> Result<Vec<T>, Failure> {
    let under = entries.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
    under.filter(|(_, entry)| !entry.value.is_empty()).map(|(key, entry)| record(key, entry)).collect()
}

fn record<T: DeserializeOwned>(key: &str, entry: &Entry) -> Result<T, Failure> {
    decode(key, &entry.value).map_err(|error| unreadable(key, &error.problem()))
}

fn unreadable(key: &str, problem: &str) -> Failure {
    Failure::new(Code::Failed, format!("no build is removed: {key} does not hold a readable record: {problem}"))
        .hint("a build that it names may still be needed; fix the key, or delete it if it is not needed")
}
