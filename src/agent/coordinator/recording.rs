//! What was done besides deploys, put into the history: by the coordinator, beside what it coordinates.
//!
//! One transaction holds the actions and the cursor `seen`, and applies only while this agent's session holds the lock
//! and the cursor is as it was read: nothing is recorded twice, whoever coordinates, and whatever was interrupted. It
//! never writes what a deploy rests on, and a failure here is a line in the log.
//!
//! Besides, it clears away what has served: attestations that nobody has used, and marks of forgotten nodes that came
//! back.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::agent::coordinator::attests;
use crate::agent::coordinator::lease::{Lease, Written};
use crate::agent::coordinator::news::{News, Standing, move_over, numbered};
use crate::agent::coordinator::wake::wake_on;
use crate::agent::daemon::context::Context;
use crate::backoff::Backoff;
use crate::consul::{Consistency, Entry, Error, Read, Snapshot, TXN_LIMIT_BYTES, TXN_LIMIT_OPERATIONS, TxnOp, Watch};
use crate::protocol::ids::{ModifyIndex, Node, Unit};
use crate::protocol::keys::UnitKeys;
use crate::protocol::record::{Action, Barrier, FORMAT, Seen, check_format, decode, encode};
use crate::protocol::snapshot::Attestations;
use crate::telemetry::chain;

/// Actions in one transaction. With the attestations that the last of them spends, lock and cursor it stays below the 64
/// operations that Consul takes: see [`TXN_LIMIT_OPERATIONS`].
const BATCH: usize = 25;
/// The bytes of actions in one transaction, but for the last of them: a third more in base64, with as much again left for
/// the cursor, of what Consul takes.
const BATCH_BYTES: usize = TXN_LIMIT_BYTES / 4;
/// Attestations and marks that are removed in one transaction.
const CLEARED: usize = 50;
/// Without any change, everything is looked at again after this long: what lies about is cleared away then.
const LOOK_AGAIN: Duration = Duration::from_mins(1);
/// The first pause after a failure; it doubles while they go on.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest such pause. A right that is missing does not come by trying.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// What a look came to.
enum Looked {
    /// There may be more.
    Again,
    /// The lock is another's.
    Lost,
    /// Everything is recorded.
    Rest,
}

/// What is remembered between looks, to spare reads.
#[derive(Default)]
struct Memory {
    /// Where `latest` stood when the build records were read last and all of them recorded.
    latest: Option<ModifyIndex>,
}

/// Records until the lease is over. `recorded` is notified after each write.
pub(super) async fn record(ctx: Arc<Context>, lease: Lease, recorded: Arc<Notify>) {
    let (at, app) = (&ctx.at, &ctx.unit.app);
    let changed = Arc::new(Notify::new());
    let mut watches = JoinSet::new();
    for key in [at.freeze(), at.abort(), at.question(), ctx.keys.latest(app), at.barrier()] {
        watches.spawn(wake_on(Watch::key(&ctx.consul, key, Consistency::Default), Arc::clone(&changed)));
    }
    for prefix in [ctx.keys.bad_marks(app), at.all_forgotten()] {
        watches.spawn(wake_on(Watch::prefix(&ctx.consul, prefix, Consistency::Default), Arc::clone(&changed)));
    }
    let (mut memory, mut backoff) = (Memory::default(), Backoff::new(PAUSE, LONGEST_PAUSE));
    loop {
        let looked = tokio::select! {
            () = lease.over() => break,
            looked = look(&ctx, &lease, &mut memory) => looked,
        };
        match looked {
            Ok(Looked::Again) => {
                backoff.succeeded();
                recorded.notify_one();
            }
            Ok(Looked::Lost) => break,
            Ok(Looked::Rest) => {
                backoff.succeeded();
                tokio::select! {
                    () = lease.over() => break,
                    _ = timeout(LOOK_AGAIN, changed.notified()) => {}
                }
            }
            Err(error) => {
                let error = chain(&error);
                tracing::warn!(unit = %ctx.unit, error, "{}: this coordinator cannot record actions yet: {error}", ctx.unit);
                tokio::select! {
                    () = lease.over() => break,
                    () = tokio::time::sleep(backoff.pause(fastrand::f64())) => {}
                }
            }
        }
    }
    watches.shutdown().await;
}

/// Reads, and records what is news; or, where nothing is, clears away.
async fn look(ctx: &Context, lease: &Lease, memory: &mut Memory) -> Result<Looked, Error> {
    let (at, app) = (&ctx.at, &ctx.unit.app);
    let (at_latest, at_seen) = (ctx.keys.latest(app), at.seen());
    let keys = [at.barrier(), at_seen.clone(), at.freeze(), at.abort(), at.question(), at.deploy(), at_latest.clone()];
    let prefixes = [ctx.keys.bad_marks(app), at.all_forgotten(), at.attests()];
    let reads: Vec<Read> = keys.into_iter().map(Read::Key).chain(prefixes.into_iter().map(Read::Prefix)).collect();
    let read = ctx.consul.snapshot(&reads, Consistency::Consistent).await?;
    // Before the first keys, and while they are lost, there is no era to record in.
    let barrier = read.key(&at.barrier()).and_then(|entry| Barrier::decode(&entry.key, &entry.value).ok());
    let Some(barrier) = barrier else { return Ok(Looked::Rest) };
    let cursor = read.key(&at_seen);
    if let Some(Err(newer)) = cursor.map(|entry| check_format(&entry.key, &entry.value, FORMAT)) {
        // Only a newer agent can go on from there: this one gives up the lock.
        ctx.troubles.meets_newer(&newer).await;
        lease.end();
        return Ok(Looked::Lost);
    }
    let latest = read.key(&at_latest).map(|entry| entry.modify_index).unwrap_or_default();
    let standing_cursor = cursor.and_then(|entry| {
        let seen: Seen = decode(&entry.key, &entry.value).ok()?;
        seen.is_of_this_log(entry.modify_index).then_some(seen)
    });
    let builds = match (&standing_cursor, memory.latest) {
        (Some(_), Some(known)) if known == latest => None,
        _ => Some(ctx.consul.kv_list(&ctx.keys.builds(app), Consistency::Consistent).await?),
    };
    let marks_changed = ctx.consul.kv_changed(&ctx.keys.bad_marks(app), Consistency::Consistent).await?;
    let (unit, keys, era, now) = (&ctx.unit, &ctx.keys, barrier.epoch.era, Timestamp::now());
    let standing = Standing { unit, keys, at, read: &read, builds: builds.as_deref(), era, marks_changed, now };
    let index = cursor.map(|entry| entry.modify_index).unwrap_or_default();
    let Some(mut seen) = standing_cursor else {
        if cursor.is_some() {
            tracing::warn!(unit = %ctx.unit, "{}: the key seen belongs to another Consul log, restored or rebuilt; actions that stand now count as recorded", ctx.unit);
        }
        return write(lease, vec![set_cursor(ctx, &standing.cursor(), index)]).await;
    };
    for artifact in standing.unmarked_builds(&seen) {
        let build = ctx.keys.build(app, &artifact);
        if ctx.consul.kv_get(&build, Consistency::Consistent).await?.is_none() {
            // The mark went with its build.
            seen.marked.remove(&artifact);
        }
    }
    let news = standing.since(&seen);
    if news.is_empty() {
        memory.latest = Some(latest);
        return clear(ctx, lease, &read, now).await;
    }
    let names = ctx.consul.kv_keys(&at.all_actions(), Consistency::Consistent).await?;
    let recorded = names.iter().filter_map(|key| key.strip_prefix(&at.all_actions())?.parse().ok()).collect();
    let news = numbered(news, &recorded);
    let mut ops = batch(&ctx.unit, at, &read, news, &mut seen);
    ops.push(set_cursor(ctx, &seen, index));
    write(lease, ops).await
}

/// The operations that record as many of `news` as one transaction takes, at least one, and spend what vouches for them.
/// `seen` moves over them.
fn batch(unit: &Unit, at: &UnitKeys, read: &Snapshot, news: Vec<News>, seen: &mut Seen) -> Vec<TxnOp> {
    let (mut ops, mut bytes) = (Vec::new(), 0);
    for news in news.into_iter().take(BATCH) {
        if news.is_passed_over {
            move_over(seen, &news.action, news.index);
            continue;
        }
        let attestations = attests::matching(read, &at.attests(), &news.key, &news.value);
        let verified = attestations.as_ref().map(|attestations| attestations.identity.clone());
        let action = Action { verified, ..news.action };
        let record = encode(&action).into_bytes();
        bytes += record.len();
        if !ops.is_empty() && (bytes > BATCH_BYTES || ops.len() + Attestations::NODES + 3 > TXN_LIMIT_OPERATIONS) {
            break;
        }
        if let Some(Attestations { nodes, id, .. }) = attestations {
            ops.extend(nodes.iter().map(|node| TxnOp::Delete { key: at.attest(node, &id) }));
        }
        let (kind, subject, by) = (action.action.as_str(), &action.subject, &action.by);
        tracing::info!(%unit, epoch = %action.epoch, action = kind, subject, by, "{unit}: recorded the action {kind} {subject} by {by}");
        move_over(seen, &action, news.index);
        // Nobody else writes here while the lock is held, and what stands there is never written over.
        ops.push(TxnOp::Cas { key: at.action(action.epoch), value: record, index: ModifyIndex(0) });
    }
    ops
}

fn set_cursor(ctx: &Context, seen: &Seen, index: ModifyIndex) -> TxnOp {
    TxnOp::Cas { key: ctx.at.seen(), value: encode(seen).into_bytes(), index }
}

/// Removes what has served.
async fn clear(ctx: &Context, lease: &Lease, read: &Snapshot, now: Timestamp) -> Result<Looked, Error> {
    let at = &ctx.at;
    // A request may wait for long while another deploy runs.
    let waiting = read.key(&at.deploy()).map(|entry| entry.value.as_slice());
    let prefix = at.attests();
    let unused = attests::unused(read, &prefix, waiting.as_slice(), now).take(CLEARED);
    let mut stale: Vec<&Entry> = unused.collect();
    let prefix = at.all_forgotten();
    for mark in read.under(&prefix) {
        let Some(Ok(node)) = mark.key.strip_prefix(&prefix).map(str::parse::<Node>) else { continue };
        if stale.len() < CLEARED && ctx.consul.kv_get(&at.node(&node), Consistency::Consistent).await?.is_some() {
            tracing::info!(unit = %ctx.unit, %node, "{}: node {node} has registered again and is no longer forgotten", ctx.unit);
            stale.push(mark);
        }
    }
    if stale.is_empty() {
        return Ok(Looked::Rest);
    }
    let ops = stale.into_iter().map(|entry| TxnOp::DeleteCas { key: entry.key.clone(), index: entry.modify_index });
    write(lease, ops.collect()).await
}

/// Writes while the lock is held; what became of it is read again, never assumed.
async fn write(lease: &Lease, ops: Vec<TxnOp>) -> Result<Looked, Error> {
    match lease.write(ops).await? {
        Written::Applied => Ok(Looked::Again),
        Written::Lost => Ok(Looked::Lost),
        Written::Conflict(_) => {
            // Something was written at the same moment: read again.
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok(Looked::Again)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use sha2::{Digest as _, Sha256};

    use super::*;
    use crate::protocol::keys::Keys;

    fn unit() -> Unit {
        "shop/production".parse().unwrap()
    }

    fn at() -> UnitKeys {
        Keys::new("cutover").unit(&unit())
    }

    fn news(number: u64, value: &Value, why: &str) -> News {
        let action = json!({"format": 1, "era": 0, "epoch": number, "unit": unit(), "action": "freeze", "by": "ann",
            "via": "kv", "why": why, "at": "2026-01-01T00:00:00Z"});
        let (value, index) = (value.to_string().into_bytes(), Some(ModifyIndex(number)));
        let (action, key) = (serde_json::from_value(action).unwrap(), format!("key-{number}"));
        News { action, key, value, index, is_passed_over: false }
    }

    #[test]
    fn the_same_bytes_under_another_key_are_not_vouched_for_again() {
        let value = json!({"id": "m1", "by": "ann"});
        let sha256 = hex::encode(Sha256::digest(value.to_string()));
        let identity = json!({"name": "ann", "means": "token", "accessor": null});
        let attest = json!({"format": 1, "key": "key-1", "sha256": sha256, "identity": identity, "node": "web-1", "at": "2026-01-01T00:00:00Z"});
        let key = at().attest(&"web-1".parse().unwrap(), "m1");
        let read: Snapshot = [(key.as_str(), attest.to_string().as_str())].into_iter().collect();
        let ops = batch(&unit(), &at(), &read, vec![news(1, &value, ""), news(2, &value, "")], &mut Seen::default());
        let verified = |op: &TxnOp| match op {
            TxnOp::Cas { value, .. } => serde_json::from_slice::<Action>(value).unwrap().verified.is_some(),
            _ => false,
        };
        assert_eq!(ops.iter().filter(|op| verified(op)).count(), 1, "{ops:?}");
        assert_eq!(ops.iter().filter(|op| **op == TxnOp::Delete { key: key.clone() }).count(), 1, "{ops:?}");
    }

    #[test]
    fn actions_of_any_length_are_recorded_a_transaction_of_them_at_a_time() {
        let long = "y".repeat(BATCH_BYTES / 2);
        let all = |why: &str| (1..=40).map(|number| news(number, &json!({}), why)).collect();
        let mut seen = Seen::default();
        assert_eq!(batch(&unit(), &at(), &Snapshot::default(), all("x"), &mut seen).len(), BATCH);
        assert_eq!(seen.freeze, ModifyIndex(25), "the cursor stands where the batch ends");
        assert_eq!(batch(&unit(), &at(), &Snapshot::default(), all(&long), &mut seen).len(), 1);
        let longer = long.repeat(3);
        assert_eq!(batch(&unit(), &at(), &Snapshot::default(), all(&longer), &mut seen).len(), 1, "one goes alone");
    }
}
