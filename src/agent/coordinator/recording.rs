//! The coordinator records actions besides deploys (freezes, bad marks, published builds and so on) under `actions/`.
//!
//! One transaction writes the actions and the cursor `seen`. It applies only while this agent's session holds the lock and
//! the cursor is unchanged, so no action is recorded twice, even across coordinators and interruptions. Recording never
//! writes a key that a deploy depends on, and a failure is only logged.
//!
//! Recording also removes unused attestations, and the `forgotten/` marks of nodes that came back.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::agent::coordinator::actions::{ActionKeys, NewAction, advance, assign_numbers};
use crate::agent::coordinator::attestations;
use crate::agent::coordinator::lease::{Lease, Written};
use crate::agent::coordinator::wake::wake_on;
use crate::agent::daemon::context::Context;
use crate::backoff::Backoff;
use crate::consul::{Consistency, Entry, Error, Read, Snapshot, TXN_LIMIT_BYTES, TXN_LIMIT_OPERATIONS, TxnOp, Watch};
use crate::protocol::ids::{ModifyIndex, Node, Unit};
use crate::protocol::keys::UnitKeys;
use crate::protocol::record::{Action, ActionCursor, Barrier, FORMAT, check_format, decode, encode};
use crate::protocol::snapshot::Attestations;
use crate::telemetry::chain;

/// Actions in one transaction. With the check of the lock, the cursor, and the attestations that the last action uses up,
/// a transaction stays within [`TXN_LIMIT_OPERATIONS`].
const BATCH: usize = 25;
/// The bytes of actions in one transaction, not counting the last. Base64 adds a third, and the cursor needs space too.
const BATCH_BYTES: usize = TXN_LIMIT_BYTES / 4;
/// The most attestations and `forgotten/` marks removed in one transaction.
const CLEARED: usize = 50;
/// The pause between rounds while no key changes. A round also removes attestations that have expired.
const IDLE_PAUSE: Duration = Duration::from_mins(1);
/// The first pause after a failure; it doubles with each further failure.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest pause after a failure. If the token lacks a right, retrying sooner does not help.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// The outcome of a round.
enum Round {
    /// Actions were recorded or keys removed, and there may be more.
    Again,
    /// This session no longer holds the lock.
    Lost,
    /// There is nothing to do.
    Idle,
}

/// State kept between rounds to save reads.
#[derive(Default)]
struct Memory {
    /// The index of `latest` when all build records were last found recorded. While it is unchanged, they are not read.
    latest: Option<ModifyIndex>,
}

/// Records until the lease ends. Notifies `recorded` after each write.
pub(super) async fn record(ctx: Arc<Context>, lease: Lease, recorded: Arc<Notify>) {
    let (at, app) = (&ctx.at, &ctx.unit.app);
    let changed = Arc::new(Notify::new());
    let mut watches = JoinSet::new();
    for key in [at.freeze(), at.abort(), at.question(), ctx.agent.keys.latest(app), at.barrier()] {
        watches.spawn(wake_on(Watch::key(&ctx.agent.consul, key, Consistency::Default), Arc::clone(&changed)));
    }
    for prefix in [ctx.agent.keys.bad_marks(app), at.all_forgotten()] {
        watches.spawn(wake_on(Watch::prefix(&ctx.agent.consul, prefix, Consistency::Default), Arc::clone(&changed)));
    }
    let (mut memory, mut backoff) = (Memory::default(), Backoff::new(PAUSE, LONGEST_PAUSE));
    loop {
        let round = tokio::select! {
            () = lease.over() => break,
            round = run_round(&ctx, &lease, &mut memory) => round,
        };
        match round {
            Ok(Round::Again) => {
                backoff.succeeded();
                recorded.notify_one();
            }
            Ok(Round::Lost) => break,
            Ok(Round::Idle) => {
                backoff.succeeded();
                tokio::select! {
                    () = lease.over() => break,
                    _ = timeout(IDLE_PAUSE, changed.notified()) => {}
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

/// Records one batch of new actions; without any, removes keys that are no longer needed.
async fn run_round(ctx: &Context, lease: &Lease, memory: &mut Memory) -> Result<Round, Error> {
    let (at, app) = (&ctx.at, &ctx.unit.app);
    let (at_latest, at_seen) = (ctx.agent.keys.latest(app), at.seen());
    let keys = [at.barrier(), at_seen.clone(), at.freeze(), at.abort(), at.question(), at.deploy(), at_latest.clone()];
    let prefixes = [ctx.agent.keys.bad_marks(app), at.all_forgotten(), at.attests()];
    let reads: Vec<Read> = keys.into_iter().map(Read::Key).chain(prefixes.into_iter().map(Read::Prefix)).collect();
    let read = ctx.agent.consul.snapshot(&reads, Consistency::Consistent).await?;
    // Without a readable barrier, the era of the records is unknown.
    let barrier = read.key(&at.barrier()).and_then(|entry| Barrier::decode(&entry.key, &entry.value).ok());
    let Some(barrier) = barrier else { return Ok(Round::Idle) };
    let cursor = read.key(&at_seen);
    if let Some(Err(newer)) = cursor.map(|entry| check_format(&entry.key, &entry.value, FORMAT)) {
        // A newer agent must continue from this cursor, so this agent gives up the lock.
        ctx.troubles.meets_newer(&newer).await;
        lease.end();
        return Ok(Round::Lost);
    }
    let latest = read.key(&at_latest).map(|entry| entry.modify_index).unwrap_or_default();
    let known_cursor = cursor.and_then(|entry| {
        let seen: ActionCursor = decode(&entry.key, &entry.value).ok()?;
        seen.is_of_this_log(entry.modify_index).then_some(seen)
    });
    let builds = match (&known_cursor, memory.latest) {
        (Some(_), Some(known)) if known == latest => None,
        _ => Some(ctx.agent.consul.kv_list(&ctx.agent.keys.builds(app), Consistency::Consistent).await?),
    };
    let marks_changed = ctx.agent.consul.kv_changed(&ctx.agent.keys.bad_marks(app), Consistency::Consistent).await?;
    let (unit, keys, era, now) = (&ctx.unit, &ctx.agent.keys, barrier.epoch.era, Timestamp::now());
    let action_keys = ActionKeys { unit, keys, at, read: &read, builds: builds.as_deref(), era, marks_changed, now };
    let index = cursor.map(|entry| entry.modify_index).unwrap_or_default();
    let Some(mut seen) = known_cursor else {
        if cursor.is_some() {
            tracing::warn!(unit = %ctx.unit, "{}: the key seen belongs to another Consul log, restored or rebuilt; actions that stand now count as recorded", ctx.unit);
        }
        return write(lease, vec![set_cursor(ctx, &action_keys.initial_cursor(), index)]).await;
    };
    for artifact in action_keys.unmarked_builds(&seen) {
        let build = ctx.agent.keys.build(app, &artifact);
        if ctx.agent.consul.kv_get(&build, Consistency::Consistent).await?.is_none() {
            // The build was pruned together with its mark, so this is not a mark-good.
            seen.marked.remove(&artifact);
        }
    }
    let actions = action_keys.since(&seen);
    if actions.is_empty() {
        memory.latest = Some(latest);
        return clean_up(ctx, lease, &read, now).await;
    }
    let names = ctx.agent.consul.kv_keys(&at.all_actions(), Consistency::Consistent).await?;
    let recorded = names.iter().filter_map(|key| key.strip_prefix(&at.all_actions())?.parse().ok()).collect();
    let actions = assign_numbers(actions, &recorded);
    let mut ops = batch(&ctx.unit, at, &read, actions, &mut seen);
    ops.push(set_cursor(ctx, &seen, index));
    write(lease, ops).await
}

/// The operations that record as many actions as fit into one transaction, at least one, and use up their attestations.
/// Advances `seen` past them.
fn batch(unit: &Unit, at: &UnitKeys, read: &Snapshot, actions: Vec<NewAction>, seen: &mut ActionCursor) -> Vec<TxnOp> {
    let (mut ops, mut bytes) = (Vec::new(), 0);
    for new in actions.into_iter().take(BATCH) {
        if new.is_skipped {
            advance(seen, &new.action, new.index);
            continue;
        }
        let matching = attestations::matching(read, &at.attests(), &new.key, &new.value);
        let verified = matching.as_ref().map(|matching| matching.identity.clone());
        let action = Action { verified, ..new.action };
        let record = encode(&action).into_bytes();
        bytes += record.len();
        // 3: the check of the lock, the cursor, and this action itself.
        if !ops.is_empty() && (bytes > BATCH_BYTES || ops.len() + Attestations::NODES + 3 > TXN_LIMIT_OPERATIONS) {
            break;
        }
        if let Some(Attestations { nodes, id, .. }) = matching {
            ops.extend(nodes.iter().map(|node| TxnOp::Delete { key: at.attest(node, &id) }));
        }
        let (kind, subject, by) = (action.action.as_str(), &action.subject, &action.author.by);
        tracing::info!(%unit, epoch = %action.epoch, action = kind, subject, by, "{unit}: recorded the action {kind} {subject} by {by}");
        advance(seen, &action, new.index);
        // Index 0: never overwrites a record. Only the coordinator creates these keys.
        ops.push(TxnOp::Cas { key: at.action(action.epoch), value: record, index: ModifyIndex(0) });
    }
    ops
}

fn set_cursor(ctx: &Context, seen: &ActionCursor, index: ModifyIndex) -> TxnOp {
    TxnOp::Cas { key: ctx.at.seen(), value: encode(seen).into_bytes(), index }
}

/// Removes unused attestations, and marks of forgotten nodes that came back.
async fn clean_up(ctx: &Context, lease: &Lease, read: &Snapshot, now: Timestamp) -> Result<Round, Error> {
    let at = &ctx.at;
    // A request may wait a long time for another deploy, so its attestation does not expire while it waits.
    let waiting = read.key(&at.deploy()).map(|entry| entry.value.as_slice());
    let prefix = at.attests();
    let unused = attestations::unused(read, &prefix, waiting.as_slice(), now).take(CLEARED);
    let mut stale: Vec<&Entry> = unused.collect();
    let prefix = at.all_forgotten();
    for mark in read.under(&prefix) {
        let Some(Ok(node)) = mark.key.strip_prefix(&prefix).map(str::parse::<Node>) else { continue };
        if stale.len() < CLEARED && ctx.agent.consul.kv_get(&at.node(&node), Consistency::Consistent).await?.is_some() {
            tracing::info!(unit = %ctx.unit, %node, "{}: node {node} has registered again and is no longer forgotten", ctx.unit);
            stale.push(mark);
        }
    }
    if stale.is_empty() {
        return Ok(Round::Idle);
    }
    let ops = stale.into_iter().map(|entry| TxnOp::DeleteCas { key: entry.key.clone(), index: entry.modify_index });
    write(lease, ops.collect()).await
}

/// Writes under the lease. After a conflict, the next round reads the keys again.
async fn write(lease: &Lease, ops: Vec<TxnOp>) -> Result<Round, Error> {
    match lease.write(ops).await? {
        Written::Applied => Ok(Round::Again),
        Written::Lost => Ok(Round::Lost),
        Written::Conflict(_) => {
            // Another client wrote a key at the same moment. The pause keeps a busy key from causing a tight loop.
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok(Round::Again)
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

    fn new_action(number: u64, value: &Value, why: &str) -> NewAction {
        let action = json!({"format": 1, "era": 0, "epoch": number, "unit": unit(), "action": "freeze", "by": "ann",
            "via": "kv", "why": why, "at": "2026-01-01T00:00:00Z"});
        let (value, index) = (value.to_string().into_bytes(), Some(ModifyIndex(number)));
        let (action, key) = (serde_json::from_value(action).unwrap(), format!("key-{number}"));
        NewAction { action, key, value, index, is_skipped: false }
    }

    #[test]
    fn an_attestation_does_not_verify_the_same_bytes_under_another_key() {
        let value = json!({"id": "m1", "by": "ann"});
        let sha256 = hex::encode(Sha256::digest(value.to_string()));
        let identity = json!({"name": "ann", "means": "token", "accessor": null});
        let attest = json!({"format": 1, "key": "key-1", "sha256": sha256, "identity": identity, "node": "web-1", "at": "2026-01-01T00:00:00Z"});
        let key = at().attest(&"web-1".parse().unwrap(), "m1");
        let read: Snapshot = [(key.as_str(), attest.to_string().as_str())].into_iter().collect();
        let ops = batch(
            &unit(),
            &at(),
            &read,
            vec![new_action(1, &value, ""), new_action(2, &value, "")],
            &mut ActionCursor::default(),
        );
        let verified = |op: &TxnOp| match op {
            TxnOp::Cas { value, .. } => serde_json::from_slice::<Action>(value).unwrap().verified.is_some(),
            _ => false,
        };
        assert_eq!(ops.iter().filter(|op| verified(op)).count(), 1, "{ops:?}");
        assert_eq!(ops.iter().filter(|op| **op == TxnOp::Delete { key: key.clone() }).count(), 1, "{ops:?}");
    }

    #[test]
    fn long_actions_are_recorded_in_several_transactions() {
        let long = "y".repeat(BATCH_BYTES / 2);
        let all = |why: &str| (1..=40).map(|number| new_action(number, &json!({}), why)).collect();
        let mut seen = ActionCursor::default();
        assert_eq!(batch(&unit(), &at(), &Snapshot::default(), all("x"), &mut seen).len(), BATCH);
        assert_eq!(seen.freeze, ModifyIndex(25), "the cursor is at the end of the batch");
        assert_eq!(batch(&unit(), &at(), &Snapshot::default(), all(&long), &mut seen).len(), 1);
        let longer = long.repeat(3);
        assert_eq!(
            batch(&unit(), &at(), &Snapshot::default(), all(&longer), &mut seen).len(),
            1,
            "an action that is too long for a batch is recorded alone"
        );
    }
}
