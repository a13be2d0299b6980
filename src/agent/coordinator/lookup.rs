//! The coordinator's one consistent read.

use std::collections::{BTreeMap, BTreeSet};

use crate::agent::coordinator::attests;
use crate::agent::daemon::context::Context;
use crate::consul::{Consistency, Entry, Error, Read, Snapshot as Keys};
use crate::protocol::coordinator::{Presence, Slot, Snapshot};
use crate::protocol::ids::Node;
use crate::protocol::record::{Ack, Barrier, FORMAT, NodeRecord, RecordError, check_format, decode};

/// What the caller takes the unit to be doing; it spares a read, and is never relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// A deploy runs, or is asked for.
    Deploy,
    /// Neither.
    Rest,
}

/// Reads what a decision rests on, at one place in Consul's log.
///
/// Between deploys and without a request that is four small keys; answers, nodes, and Consul's catalog are read only
/// when they matter.
///
/// # Errors
///
/// Consul's, of any of the reads.
///
/// # Cancel safety
///
/// Safe: it only reads.
pub(crate) async fn snapshot(ctx: &Context, expected: Expected) -> Result<Snapshot, Error> {
    let at = &ctx.at;
    // Before the keys: a record that this node follows meanwhile must not make the keys look old.
    let floor = ctx.journal.borrow().record.clone();
    let mut reads: Vec<Read> =
        [at.barrier(), at.deploy(), at.abort(), at.freeze(), at.status()].into_iter().map(Read::Key).collect();
    if expected == Expected::Rest {
        let keys = ctx.consul.snapshot(&reads, Consistency::Consistent).await?;
        let small = assemble(ctx, &keys, floor.clone());
        if !small.is_busy() {
            return Ok(small);
        }
    }
    reads.extend([at.acks(), at.nodes(), at.all_members(), at.attests(), at.all_forgotten()].map(Read::Prefix));
    let (keys, catalog) =
        tokio::try_join!(ctx.consul.snapshot(&reads, Consistency::Consistent), ctx.consul.catalog_nodes())?;
    let mut full = assemble(ctx, &keys, floor);
    full.catalog = catalog.into_iter().collect::<BTreeSet<String>>();
    if let Some(Ok(barrier)) = full.barrier.as_ref().map(|slot| &slot.value) {
        // Only coordinators write it, in the barrier's own transactions.
        let key = at.history(barrier.epoch);
        let entry = ctx.consul.kv_get(&key, Consistency::Consistent).await?;
        full.newer = full.newer.or_else(|| newest_format(entry.as_ref()));
        full.history = entry.and_then(|entry| decode(&key, &entry.value).ok());
    }
    Ok(full)
}

/// The record, if there is one, that keeps this agent from coordinating: a newer program wrote it. What the work beside
/// the deploys writes is looked at too, since a coordinator would write over it.
///
/// # Errors
///
/// Consul's, of any of the reads.
///
/// # Cancel safety
///
/// Safe: it only reads.
pub(crate) async fn newer_record(ctx: &Context) -> Result<Option<RecordError>, Error> {
    let of_deploys = snapshot(ctx, Expected::Rest).await?.newer;
    if of_deploys.is_some() {
        return Ok(of_deploys);
    }
    let at = &ctx.at;
    let receivers = ctx.notifier.receivers.iter().filter(|receiver| receiver.gets_events_of(&ctx.unit));
    let told = receivers.map(|receiver| at.told(&receiver.name));
    let reads: Vec<Read> = [at.seen(), at.archive(), at.store()].into_iter().chain(told).map(Read::Key).collect();
    let keys = ctx.consul.snapshot(&reads, Consistency::Consistent).await?;
    Ok(reads.iter().find_map(|read| match read {
        Read::Key(key) => newest_format(keys.key(key)),
        Read::Prefix(prefix) => newest_format(keys.under(prefix)),
    }))
}

/// The first of these entries that a newer program wrote.
fn newest_format<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Option<RecordError> {
    entries.into_iter().find_map(|entry| check_format(&entry.key, &entry.value, FORMAT).err())
}

fn assemble(ctx: &Context, keys: &Keys, floor: Option<Barrier>) -> Snapshot {
    let at = &ctx.at;
    let slot = |key: &str| keys.key(key).map(|entry| Slot { index: entry.modify_index, value: entry.value.clone() });
    let barrier = keys
        .key(&at.barrier())
        .map(|entry| Slot { index: entry.modify_index, value: Barrier::decode(&entry.key, &entry.value) });
    let epoch = barrier.as_ref().and_then(|slot| slot.value.as_ref().ok()).map(|barrier| barrier.epoch);
    let members = epoch.and_then(|epoch| {
        let entry = keys.key(&at.members(epoch))?;
        decode::<Vec<Node>>(&entry.key, &entry.value).ok()
    });
    let watched = [at.barrier(), at.deploy(), at.abort(), at.freeze(), at.status()];
    let watched = watched.iter().filter_map(|key| keys.key(key));
    let read = watched.chain(epoch.and_then(|epoch| keys.key(&at.members(epoch))));
    let prefixes = [at.acks(), at.attests(), at.all_forgotten()];
    let read = read.chain(prefixes.iter().flat_map(|prefix| keys.under(prefix)));
    // A deploy that runs needs of a node only whether its session lives, so an upgrade meanwhile does not stop it.
    let is_settled = barrier.as_ref().is_none_or(|slot| slot.value.as_ref().is_ok_and(|it| it.phase.is_settled()));
    let at_nodes = at.nodes();
    let nodes = keys.under(&at_nodes).filter(|_| is_settled);
    let newer = newest_format(read.chain(nodes));
    let deploy = slot(&at.deploy());
    let voucher = deploy.as_ref().and_then(|slot| attests::voucher(keys, &at.attests(), &at.deploy(), &slot.value));
    Snapshot {
        barrier,
        deploy,
        abort: slot(&at.abort()),
        freeze: slot(&at.freeze()),
        members: members.unwrap_or_default(),
        acks: named(keys, &at.acks(), |entry| decode::<Ack>(&entry.key, &entry.value).ok()),
        nodes: named(keys, &at.nodes(), |entry| {
            let record = decode::<NodeRecord>(&entry.key, &entry.value).ok();
            Some(Presence { is_alive: entry.session.is_some(), record })
        }),
        catalog: BTreeSet::new(),
        history: None,
        status: keys.key(&at.status()).and_then(|entry| decode(&entry.key, &entry.value).ok()),
        floor,
        voucher,
        forgotten: named(keys, &at.all_forgotten(), |_| Some(())).into_keys().collect(),
        newer,
    }
}

/// Entries by the node that their key names; what is no node's is passed over.
fn named<T>(keys: &Keys, prefix: &str, read: impl Fn(&Entry) -> Option<T>) -> BTreeMap<Node, T> {
    keys.under(prefix)
        .filter_map(|entry| {
            let node: Node = entry.key.strip_prefix(prefix)?.parse().ok()?;
            Some((node, read(entry)?))
        })
        .collect()
}
