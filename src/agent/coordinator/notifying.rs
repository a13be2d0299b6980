//! The coordinator sends notifications to receivers.
//!
//! The events are those in Consul after the cursor `told/<receiver>`, so nothing depends on this process: the next
//! coordinator sends what is left. An event that was sent, but whose cursor was not stored, is sent again with the same id.
//! Each receiver has a task of its own, and leading a deploy never waits for these tasks.
//!
//! ```text
//! barrier, status, actions/, nodes/ ──► a change wakes one task per receiver: read, send, store told/ (under the lease)
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::agent::coordinator::lease::{Lease, Written};
use crate::agent::coordinator::unsent::GIVE_UP_AFTER;
use crate::agent::coordinator::wake::wake_on;
use crate::agent::daemon::context::Context;
use crate::backoff::Backoff;
use crate::consul::{Consistency, Error, TxnOp, Watch};
use crate::control::{Access, read};
use crate::document::{Drift, NodeStatus, Presence};
use crate::metrics::NotificationResult;
use crate::notify::{Drifts, Event, Receiver, Records, SendError, initial_cursor, pending};
use crate::protocol::ids::{Commit, Epoch, Node};
use crate::protocol::record::{Barrier, Build, ReceiverCursor, decode, encode};
use crate::telemetry::chain;

/// The first pause after a receiver did not accept a message; it doubles with each further failure.
const SHORTEST_PAUSE: Duration = Duration::from_secs(2);
/// The longest pause after a receiver did not accept a message.
const LONGEST_PAUSE: Duration = Duration::from_hours(1);
/// How often a message is sent that the receiver rejects for its content, before the next message is sent. Five attempts
/// take about 20 s, because a proxy in front of a starting receiver may answer in the same way.
const REFUSALS: u32 = 5;
/// The first pause after a failed read or write of Consul; it doubles with each further failure.
const CONSUL_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause after a failure of Consul. If the token lacks a right, retrying sooner does not help.
const LONGEST_CONSUL_PAUSE: Duration = Duration::from_mins(1);
/// How many records of a kind are read at a time. The backlog of a receiver stays in Consul, not in memory.
const BATCH: usize = 50;
/// How often nodes are checked for drift without any change.
const LOOK_EVERY: Duration = Duration::from_mins(1);
/// The shortest time between two checks because of changes: each check reads every node's record.
const NODES_PACE: Duration = Duration::from_secs(5);
/// Above this many nodes, changes do not trigger a check: one check reads megabytes.
const MANY: usize = 50;
/// How long a node must have drifted before it is reported. A node that starts catches up within seconds.
const DRIFT_PATIENCE: Duration = Duration::from_secs(10);

/// Sends notifications until the lease ends. Returns at once if no receiver gets events of this unit.
///
/// # Cancel safety
///
/// Safe: its tasks end with it. The next coordinator sends events again whose cursor was not stored.
pub(crate) async fn notify(ctx: Arc<Context>, lease: Lease) {
    let receivers: Vec<_> =
        ctx.agent.notifier.receivers.iter().filter(|it| it.gets_events_of(&ctx.unit)).cloned().collect();
    if receivers.is_empty() {
        return;
    }
    let mut tasks = JoinSet::new();
    let changed = Arc::new(Notify::new());
    // Each transition of a deploy writes these keys.
    for key in [ctx.at.barrier(), ctx.at.status()] {
        tasks.spawn(wake_on(Watch::key(&ctx.agent.consul, key, Consistency::Default), Arc::clone(&changed)));
    }
    tasks.spawn(wake_on(
        Watch::prefix(&ctx.agent.consul, ctx.at.all_actions(), Consistency::Default),
        Arc::clone(&changed),
    ));
    let drifts = watch::Sender::new(Drifts::default());
    for receiver in receivers {
        let task = ReceiverTask { ctx: Arc::clone(&ctx), lease: lease.clone(), receiver, drifts: drifts.subscribe() };
        tasks.spawn(task.run());
    }
    tasks.spawn(watch_nodes(Arc::clone(&ctx), drifts.clone()));
    loop {
        tokio::select! {
            () = lease.over() => break,
            // `send_modify` wakes every receiver's task, even though the drifts are unchanged.
            () = changed.notified() => drifts.send_modify(|_| ()),
        }
    }
    tasks.shutdown().await;
}

/// Watches the nodes, and publishes each drift that has lasted for [`DRIFT_PATIENCE`].
async fn watch_nodes(ctx: Arc<Context>, drifts: watch::Sender<Drifts>) {
    let access = Access::new(ctx.agent.consul.clone(), ctx.agent.keys.clone(), |_| ());
    let changed = Arc::new(Notify::new());
    let mut watches = JoinSet::new();
    let mut since: BTreeMap<(Node, String), (Instant, Timestamp)> = BTreeMap::new();
    loop {
        let mut until = Instant::now() + LOOK_EVERY;
        let document = read::status(&access, &ctx.unit).await;
        let is_large = document.as_ref().is_ok_and(|document| document.nodes.len() > MANY);
        if is_large {
            watches = JoinSet::new();
        } else if watches.is_empty() {
            let nodes = Watch::prefix(&ctx.agent.consul, ctx.at.nodes(), Consistency::Stale).with_pace(NODES_PACE);
            watches.spawn(wake_on(nodes, Arc::clone(&changed)));
        }
        match document {
            // While a deploy runs, nodes are expected to differ.
            Ok(document) if document.running.is_none() && document.phase.is_some() => {
                let committed = document.current.as_ref().map(|current| current.epoch);
                let drifted: Vec<(Node, String)> =
                    document.nodes.iter().filter_map(|node| Some((node.node.clone(), drift(node)?))).collect();
                since.retain(|key, _| drifted.contains(key));
                let away = document.nodes.iter().filter(|node| node.state == Presence::Absent);
                let mut undecided: BTreeSet<String> = away.map(|node| node.node.to_string()).collect();
                let mut lasted = BTreeMap::new();
                for (node, what) in drifted {
                    let (begun, at) =
                        *since.entry((node.clone(), what.clone())).or_insert((Instant::now(), Timestamp::now()));
                    let due = begun + DRIFT_PATIENCE;
                    if due <= Instant::now() {
                        lasted.insert(node.to_string(), Event::drift(&ctx.unit, &node, committed, &what, at));
                    } else {
                        undecided.insert(node.to_string());
                        until = until.min(due);
                    }
                }
                let seen = Drifts { lasted, undecided: Some(undecided) };
                drifts.send_if_modified(|known| {
                    let is_new = *known != seen;
                    *known = seen;
                    is_new
                });
            }
            // A deploy is running, or the unit has no keys yet.
            Ok(_) if !is_large => until = Instant::now() + DRIFT_PATIENCE,
            Ok(_) => {}
            Err(error) => {
                let error = error.chain();
                tracing::debug!(unit = %ctx.unit, error, "{}: cannot read the nodes for notifications: {error}", ctx.unit);
            }
        }
        _ = tokio::time::timeout_at(until, changed.notified()).await;
    }
}

/// How an alive node has drifted, in words; none if it has not.
fn drift(node: &NodeStatus) -> Option<String> {
    if node.state == Presence::Absent || node.drift.is_empty() {
        return None;
    }
    let word = |drift: &Drift| match drift {
        Drift::Config => "its settings differ from those of most nodes".to_owned(),
        Drift::Current => format!("current points to {}", node.current.as_deref().unwrap_or("nothing")),
        Drift::Release => {
            let runs = node.runs.as_ref().map_or("nothing", |runs| runs.artifact.as_str());
            format!("it runs {runs}, not the committed release")
        }
    };
    Some(node.drift.iter().map(word).collect::<Vec<_>>().join("; "))
}

/// The outcome of sending an event.
pub(crate) enum Sent {
    /// The receiver accepted the event, or sending was given up. The next event may be sent.
    Finished,
    /// The receiver no longer exists. Nothing more may be sent to it.
    Gone,
}

/// The lease has ended: the next coordinator sends what is left.
struct LeaseLost;

struct ReceiverTask {
    ctx: Arc<Context>,
    lease: Lease,
    receiver: Arc<Receiver>,
    drifts: watch::Receiver<Drifts>,
}

impl ReceiverTask {
    async fn run(mut self) {
        let Ok(mut cursor) = self.begin().await else { return };
        loop {
            // Before the read, so that a change during the read wakes this task again.
            let drifts = self.drifts.borrow_and_update().clone();
            let records = self.retry(|| read_records(&self.ctx, &cursor, &drifts)).await;
            let steps = pending(&cursor, &records);
            let has_steps = !steps.is_empty();
            for step in steps {
                let event = step.event.filter(|event| self.receiver.wants(event));
                if let Some(event) = &event
                    && matches!(self.deliver(event).await, Sent::Gone)
                {
                    return;
                }
                // A cursor after an unwanted event is stored together with the next wanted one, because each store is
                // a write in Consul's log.
                let must_store = event.is_some() || step.cursor.troubles != cursor.troubles;
                cursor = step.cursor;
                if must_store && self.store_cursor(&cursor).await.is_err() {
                    return;
                }
            }
            if !has_steps && self.drifts.changed().await.is_err() {
                return;
            }
        }
    }

    /// Reads the receiver's cursor. Stores an initial one for a new receiver, or over one that cannot be read.
    async fn begin(&self) -> Result<ReceiverCursor, LeaseLost> {
        let key = self.ctx.at.told(&self.receiver.name);
        let entry = self.retry(|| self.ctx.agent.consul.kv_get(&key, Consistency::Consistent)).await;
        match entry.map(|entry| decode::<ReceiverCursor>(&key, &entry.value)) {
            Some(Ok(cursor)) => return Ok(cursor),
            Some(Err(error)) if error.is_newer() => {
                // A newer agent must continue from this cursor, so this agent gives up the lock.
                self.ctx.troubles.meets_newer(&error).await;
                self.lease.end();
                return Err(LeaseLost);
            }
            Some(Err(error)) => {
                let (unit, receiver, error) = (&self.ctx.unit, &self.receiver.name, chain(&error));
                tracing::warn!(%unit, %receiver, error, "{unit}: cannot read the cursor of receiver {receiver}, which gets new events only: {error}");
            }
            None => {}
        }
        let cursor = self.retry(|| new_cursor(&self.ctx)).await;
        self.store_cursor(&cursor).await?;
        Ok(cursor)
    }

    /// Adds links to an event, and sends it with [`deliver`].
    async fn deliver(&self, event: &Event) -> Sent {
        let (ctx, receiver) = (&self.ctx, &self.receiver);
        let mut event = event.clone().linked(ctx.agent.notifier.public_url.as_deref());
        if let Some(from) = self.commit_before(&event).await {
            event = event.compared(ctx.agent.notifier.compare_url.as_deref(), &from);
        }
        deliver(ctx, receiver, &event).await
    }

    /// The commit that ran before a deploy, if `compare_url` is set. A failed read only omits the link, so that no message
    /// waits for it.
    async fn commit_before(&self, event: &Event) -> Option<Commit> {
        let (ctx, from) = (&self.ctx, event.data.from.as_ref()?);
        ctx.agent.notifier.compare_url.as_ref()?;
        let key = ctx.agent.keys.build(&ctx.unit.app, from);
        let entry = ctx.agent.consul.kv_get(&key, Consistency::Consistent).await.ok()??;
        decode::<Build>(&key, &entry.value).ok().map(|build| build.commit)
    }

    async fn store_cursor(&self, cursor: &ReceiverCursor) -> Result<(), LeaseLost> {
        let write = TxnOp::Set { key: self.ctx.at.told(&self.receiver.name), value: encode(cursor).into_bytes() };
        // Writing the same cursor twice is harmless, so an unknown outcome is simply retried.
        let written = self.retry(|| self.lease.write([write.clone()])).await;
        match written {
            Written::Applied => Ok(()),
            Written::Conflict(_) | Written::Lost => {
                let (unit, receiver) = (&self.ctx.unit, &self.receiver.name);
                tracing::info!(%unit, %receiver, "{unit}: another agent coordinates now and sends the remaining notifications to {receiver}");
                Err(LeaseLost)
            }
        }
    }

    /// Repeats a call of Consul until it succeeds.
    async fn retry<T, A: Future<Output = Result<T, Error>>>(&self, mut ask: impl FnMut() -> A) -> T {
        let mut backoff = Backoff::new(CONSUL_PAUSE, LONGEST_CONSUL_PAUSE);
        loop {
            match ask().await {
                Ok(answer) => return answer,
                Err(error) => {
                    let (unit, receiver, error) = (&self.ctx.unit, &self.receiver.name, chain(&error));
                    tracing::warn!(%unit, %receiver, error, "{unit}: notifications to {receiver} wait for Consul: {error}");
                    tokio::time::sleep(backoff.pause(fastrand::f64())).await;
                }
            }
        }
    }
}

/// Sends one event until the receiver accepts it, has rejected it [`REFUSALS`] times, or no longer exists; at most until
/// [`GIVE_UP_AFTER`] after the event.
pub(crate) async fn deliver(ctx: &Context, receiver: &Receiver, event: &Event) -> Sent {
    // The pauses are random, so that receivers are not called in step.
    let mut backoff = Backoff::new(SHORTEST_PAUSE, LONGEST_PAUSE);
    let mut refusals = 0;
    let (unit, name, kind, id) = (&ctx.unit, &receiver.name, event.kind.as_str(), &event.id);
    loop {
        if receiver.is_gone() {
            return Sent::Gone;
        }
        let now = Timestamp::now();
        let sent = ctx.agent.notifier.sender.send(receiver, event, now).await;
        receiver.note(sent.as_ref().map(|_| ()));
        ctx.agent.metrics.notified(
            &receiver.name,
            if sent.is_ok() { NotificationResult::Accepted } else { NotificationResult::Failed },
        );
        let Err(error) = sent else {
            tracing::info!(%unit, receiver = name, event = kind, id, "{unit}: sent notification {kind} {id} to {name}");
            return Sent::Finished;
        };
        let why = chain(&error);
        if matches!(error, SendError::Gone { .. }) {
            tracing::error!(%unit, receiver = name, %why, "{unit}: receiver {name} is gone, and nothing is sent there until this agent starts again: {why}");
            return Sent::Gone;
        }
        // Measured from the event's own time, so that a change of coordinators does not restart the limit.
        refusals += u32::from(error.is_about_the_message());
        if refusals >= REFUSALS || now.duration_since(event.timestamp).unsigned_abs() > GIVE_UP_AFTER {
            ctx.agent.metrics.notified(&receiver.name, NotificationResult::GivenUp);
            tracing::error!(%unit, receiver = name, event = kind, id, %why, "{unit}: notification {kind} {id} to {name} is given up: {why}");
            return Sent::Finished;
        }
        let pause = backoff.pause(fastrand::f64()).max(error.retry_after().unwrap_or_default());
        tracing::warn!(%unit, receiver = name, event = kind, id, %why, again_in = ?pause, "{unit}: {name} did not take notification {kind} {id}; the next try is in {pause:.1?}: {why}");
        tokio::time::sleep(pause).await;
    }
}

/// The cursor for a new receiver: it gets only events from now on.
async fn new_cursor(ctx: &Context) -> Result<ReceiverCursor, Error> {
    // The names are read before the barrier: a deploy that begins after this read is announced, and one that ends before
    // the barrier is read is not.
    let histories = epochs(ctx, &ctx.at.all_history()).await?;
    let actions = epochs(ctx, &ctx.at.all_actions()).await?;
    let running = barrier(ctx).await?.filter(|barrier| !barrier.phase.is_settled()).map(|barrier| barrier.epoch);
    Ok(initial_cursor(&histories, &actions, running))
}

/// The records after `cursor`, at most [`BATCH`] of each kind.
async fn read_records(ctx: &Context, cursor: &ReceiverCursor, drifts: &Drifts) -> Result<Records, Error> {
    // Read before the records, as `Records` requires.
    let barrier = barrier(ctx).await?.map(|barrier| barrier.epoch);
    let last = cursor.begun.min(cursor.ended);
    let histories = records(ctx, &ctx.at.all_history(), last, |epoch| ctx.at.history(epoch)).await?;
    let actions = records(ctx, &ctx.at.all_actions(), cursor.action, |epoch| ctx.at.action(epoch)).await?;
    Ok(Records { histories, actions, barrier, drifts: drifts.clone() })
}

/// The barrier; none if it cannot be read, because no agent acts on such a record.
async fn barrier(ctx: &Context) -> Result<Option<Barrier>, Error> {
    let key = ctx.at.barrier();
    let entry = ctx.agent.consul.kv_get(&key, Consistency::Consistent).await?;
    Ok(entry.and_then(|entry| Barrier::decode(&key, &entry.value).ok()))
}

/// The epochs that name the keys under a prefix, in order.
async fn epochs(ctx: &Context, prefix: &str) -> Result<Vec<Epoch>, Error> {
    let names = ctx.agent.consul.kv_keys(prefix, Consistency::Consistent).await?;
    let mut epochs: Vec<Epoch> = names.iter().filter_map(|name| name.strip_prefix(prefix)?.parse().ok()).collect();
    epochs.sort_unstable();
    Ok(epochs)
}

/// The oldest records after `last`. Damaged records are skipped with a warning; the list ends before a newer record.
async fn records<T: DeserializeOwned>(
    ctx: &Context,
    prefix: &str,
    last: Option<Epoch>,
    key: impl Fn(Epoch) -> String,
) -> Result<Vec<T>, Error> {
    let epochs = epochs(ctx, prefix).await?.into_iter().filter(|epoch| last.is_none_or(|last| *epoch > last));
    let mut found = Vec::new();
    for epoch in epochs.take(BATCH) {
        let key = key(epoch);
        let Some(entry) = ctx.agent.consul.kv_get(&key, Consistency::Consistent).await? else { continue };
        match decode(&key, &entry.value) {
            Ok(record) => {
                ctx.troubles.reads_again(&key);
                found.push(record);
            }
            Err(error) if error.is_newer() => {
                // Its notification waits for a newer agent, and later ones wait too, because the order must be kept.
                ctx.troubles.meets_newer(&error).await;
                break;
            }
            Err(error) => {
                let error = chain(&error);
                tracing::warn!(unit = %ctx.unit, error, "{}: cannot read {key}, and no notification is sent for it: {error}", ctx.unit);
            }
        }
    }
    Ok(found)
}
