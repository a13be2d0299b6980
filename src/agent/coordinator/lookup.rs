//! Carries out the reads of a coordinator's round. [`look`] decides which keys to read.

use std::collections::BTreeSet;

use crate::agent::coordinator::attestations;
use crate::agent::daemon::context::Context;
use crate::consul::{Consistency, Error, Read};
use crate::protocol::coordinator::Snapshot;
use crate::protocol::record::{FORMAT, RecordError, check_format};
use crate::protocol::shell::look::{self, Extent, Wanted};

/// Reads keys at one index of Consul's log.
///
/// # Errors
///
/// Consul's.
///
/// # Cancel safety
///
/// Safe: it only reads.
pub(crate) async fn keys(ctx: &Context, extent: Extent) -> Result<Snapshot, Error> {
    let reads = look::wanted(&ctx.at, extent).into_iter().map(|wanted| match wanted {
        Wanted::Key(key) => Read::Key(key),
        Wanted::Prefix(prefix) => Read::Prefix(prefix),
    });
    let read = ctx.agent.consul.snapshot(&reads.collect::<Vec<_>>(), Consistency::Consistent).await?;
    let entries = read.under("").map(|entry| look::Entry {
        key: &entry.key,
        value: &entry.value,
        index: entry.modify_index,
        is_held: entry.session.is_some(),
    });
    let mut found = look::snapshot(&ctx.at, entries);
    let (prefix, key) = (ctx.at.attests(), ctx.at.deploy());
    found.attestations =
        found.deploy.as_ref().and_then(|slot| attestations::matching(&read, &prefix, &key, &slot.value));
    Ok(found)
}

/// Reads the names of all nodes in Consul's catalog.
///
/// # Errors
///
/// Consul's.
///
/// # Cancel safety
///
/// Safe: it only reads.
pub(crate) async fn catalog(ctx: &Context) -> Result<BTreeSet<String>, Error> {
    Ok(ctx.agent.consul.catalog_nodes().await?.into_iter().collect())
}

/// Reads the value of a key; none if the key does not exist.
///
/// # Errors
///
/// Consul's.
///
/// # Cancel safety
///
/// Safe: it only reads.
pub(crate) async fn value(ctx: &Context, key: &str) -> Result<Option<Vec<u8>>, Error> {
    Ok(ctx.agent.consul.kv_get(key, Consistency::Consistent).await?.map(|entry| entry.value))
}

/// A record that a newer program wrote, if there is one: it keeps this agent from coordinating. Includes the records of
/// recording, archiving, sweeping and notifying, because a coordinator would overwrite them.
///
/// # Errors
///
/// Consul's, of any of the reads.
///
/// # Cancel safety
///
/// Safe: it only reads.
pub(crate) async fn newer_record(ctx: &Context) -> Result<Option<RecordError>, Error> {
    let at = &ctx.at;
    let mut found = keys(ctx, Extent::Small).await?;
    if found.is_busy() {
        found = keys(ctx, Extent::Full).await?;
        if let Some(epoch) = found.epoch() {
            let key = at.history(epoch);
            look::add_history(&mut found, &key, value(ctx, &key).await?.as_deref());
        }
    }
    if found.newer.is_some() {
        return Ok(found.newer);
    }
    let receivers = ctx.agent.notifier.receivers.iter().filter(|receiver| receiver.gets_events_of(&ctx.unit));
    let told = receivers.map(|receiver| at.told(&receiver.name));
    let reads: Vec<Read> = [at.seen(), at.archive(), at.store()].into_iter().chain(told).map(Read::Key).collect();
    let read = ctx.agent.consul.snapshot(&reads, Consistency::Consistent).await?;
    Ok(read.under("").find_map(|entry| check_format(&entry.key, &entry.value, FORMAT).err()))
}
