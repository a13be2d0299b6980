//! Tells receivers what has happened: whoever coordinates a unit, for as long as it does.
//!
//! What is told is what stands in Consul, compared with `told/<receiver>`, so that nothing rests on this process: a
//! coordinator that dies leaves what was not told to the next, and what was sent but not noted goes out once more, with
//! the same id. Each receiver has a task of its own, and none of them is waited for by the loop that leads.
//!
//! ```text
//! barrier, status, actions/, nodes/ ──► rings ──► one task a receiver: read, send, note in told/ (fenced by the lock)
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
use crate::agent::coordinator::untold::GIVE_UP_AFTER;
use crate::agent::coordinator::wake::wake_on;
use crate::agent::daemon::context::Context;
use crate::backoff::Backoff;
use crate::consul::{Consistency, Error, TxnOp, Watch};
use crate::control::{Access, read};
use crate::document::{Drift, NodeStatus, Presence};
use crate::metrics::Notified;
use crate::notify::{Drifts, Event, Receiver, Records, SendError, initial_cursor, pending};
use crate::protocol::ids::{Commit, Epoch, Node};
use crate::protocol::record::{Barrier, Build, Told, decode, encode};
use crate::telemetry::chain;

/// The first pause after a message that was not taken.
const SHORTEST_PAUSE: Duration = Duration::from_secs(2);
/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_hours(1);
/// How often a message is sent that the receiver says it does not take as it is: over some 20 s, since what stands before
/// it may say so, too, while it starts. Then the next one goes.
const REFUSALS: u32 = 5;
/// The pause after a read or a write that Consul did not do; it doubles while that goes on.
const CONSUL_PAUSE: Duration = Duration::from_secs(1);
/// The longest such pause: it may be for want of a right, which does not come by trying.
const LONGEST_CONSUL_PAUSE: Duration = Duration::from_mins(1);
/// How many records of a kind are read at a time. A receiver that was away for long has its backlog in Consul, not here.
const BATCH: usize = 50;
/// How often nodes are looked at without any change of theirs.
const LOOK_EVERY: Duration = Duration::from_mins(1);
/// The least time between two looks at nodes because of a change: each reads every record.
const NODES_PACE: Duration = Duration::from_secs(5);
/// Above this many nodes a change is not looked at before its time: one look reads megabytes.
const MANY: usize = 50;
/// How long a node must have drifted before it is told: one that starts catches up within seconds.
const DRIFT_PATIENCE: Duration = Duration::from_secs(10);

/// Tells until the lease is over. Returns at once where nobody wants to hear of this unit.
///
/// # Cancel safety
///
/// Dropped, its tasks end; what was sent and not noted is sent again by whoever coordinates next.
pub(crate) async fn tell(ctx: Arc<Context>, lease: Lease) {
    let receivers: Vec<_> = ctx.notifier.receivers.iter().filter(|it| it.gets_events_of(&ctx.unit)).cloned().collect();
    if receivers.is_empty() {
        return;
    }
    let mut tasks = JoinSet::new();
    let changed = Arc::new(Notify::new());
    // The end of each transition; deploys begin and end with one.
    for key in [ctx.at.barrier(), ctx.at.status()] {
        tasks.spawn(wake_on(Watch::key(&ctx.consul, key, Consistency::Default), Arc::clone(&changed)));
    }
    tasks.spawn(wake_on(Watch::prefix(&ctx.consul, ctx.at.all_actions(), Consistency::Default), Arc::clone(&changed)));
    let troubles = watch::Sender::new(Drifts::default());
    for receiver in receivers {
        let teller = Teller { ctx: Arc::clone(&ctx), lease: lease.clone(), receiver, troubles: troubles.subscribe() };
        tasks.spawn(teller.run());
    }
    tasks.spawn(look_at_nodes(Arc::clone(&ctx), troubles.clone()));
    loop {
        tokio::select! {
            () = lease.over() => break,
            // Every receiver is woken: the same troubles count as news here.
            () = changed.notified() => troubles.send_modify(|_| ()),
        }
    }
    tasks.shutdown().await;
}

/// Keeps what has lasted of the nodes' troubles.
async fn look_at_nodes(ctx: Arc<Context>, troubles: watch::Sender<Drifts>) {
    let access = Access::new(ctx.consul.clone(), ctx.keys.clone(), |_| ());
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
            let nodes = Watch::prefix(&ctx.consul, ctx.at.nodes(), Consistency::Stale).with_pace(NODES_PACE);
            watches.spawn(wake_on(nodes, Arc::clone(&changed)));
        }
        match document {
            // While a deploy runs, what nodes run is work in progress.
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
                troubles.send_if_modified(|known| {
                    let is_new = *known != seen;
                    *known = seen;
                    is_new
                });
            }
            // Before the first keys of a unit, too.
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

/// In what a node that lives differs from what it should be, in words.
fn drift(node: &NodeStatus) -> Option<String> {
    if node.state == Presence::Absent || node.drift.is_empty() {
        return None;
    }
    let word = |drift: &Drift| match drift {
        Drift::Config => "its settings are not those of most nodes".to_owned(),
        Drift::Current => format!("current points to {}", node.current.as_deref().unwrap_or("nothing")),
        Drift::Release => {
            let runs = node.runs.as_ref().map_or("nothing", |runs| runs.artifact.as_str());
            format!("it runs {runs}, and not what is committed")
        }
    };
    Some(node.drift.iter().map(word).collect::<Vec<_>>().join("; "))
}

/// What became of an event.
pub(crate) enum Sent {
    /// The receiver has it, or it is given up: the next may go.
    Over,
    /// The receiver is there no more: nothing may go.
    Gone,
}

/// The lock is another's: whatever is left to tell is theirs.
struct Fenced;

/// One receiver's task.
struct Teller {
    ctx: Arc<Context>,
    lease: Lease,
    receiver: Arc<Receiver>,
    troubles: watch::Receiver<Drifts>,
}

impl Teller {
    async fn run(mut self) {
        let Ok(mut told) = self.begin().await else { return };
        loop {
            // Before the read, so that nothing falls between the two.
            let troubles = self.troubles.borrow_and_update().clone();
            let standing = self.until_read(|| standing(&self.ctx, &told, &troubles)).await;
            let steps = pending(&told, &standing);
            let is_news = !steps.is_empty();
            for step in steps {
                let event = step.event.filter(|event| self.receiver.wants(event));
                if let Some(event) = &event
                    && matches!(self.deliver(event).await, Sent::Gone)
                {
                    return;
                }
                // What nobody wanted to hear is noted with the next event that somebody did: each note is an entry in
                // Consul's log.
                let is_worth_it = event.is_some() || step.cursor.troubles != told.troubles;
                told = step.cursor;
                if is_worth_it && self.note(&told).await.is_err() {
                    return;
                }
            }
            if !is_news && self.troubles.changed().await.is_err() {
                return;
            }
        }
    }

    /// What the receiver was told; from now on, where nobody has ever told it anything.
    async fn begin(&self) -> Result<Told, Fenced> {
        let key = self.ctx.at.told(&self.receiver.name);
        let entry = self.until_read(|| self.ctx.consul.kv_get(&key, Consistency::Consistent)).await;
        match entry.map(|entry| decode::<Told>(&key, &entry.value)) {
            Some(Ok(told)) => return Ok(told),
            Some(Err(error)) if error.is_newer() => {
                // Only a newer agent can go on from there: this one gives up the lock.
                self.ctx.troubles.meets_newer(&error).await;
                self.lease.end();
                return Err(Fenced);
            }
            Some(Err(error)) => {
                let (unit, receiver, error) = (&self.ctx.unit, &self.receiver.name, chain(&error));
                tracing::warn!(%unit, %receiver, error, "{unit}: cannot read the cursor of receiver {receiver}, which gets new events only: {error}");
            }
            None => {}
        }
        let told = self.until_read(|| from_now_on(&self.ctx)).await;
        self.note(&told).await?;
        Ok(told)
    }

    /// Sends an event until the receiver takes it, or is given up.
    async fn deliver(&self, event: &Event) -> Sent {
        let (ctx, receiver) = (&self.ctx, &self.receiver);
        let mut event = event.clone().linked(ctx.notifier.public_url.as_deref());
        if let Some(from) = self.commit_before(&event).await {
            event = event.compared(ctx.notifier.compare_url.as_deref(), &from);
        }
        deliver(ctx, receiver, &event).await
    }

    /// The commit that a deploy leads away from, where anything is to be compared with it. No message waits for it: what
    /// cannot be read is left out.
    async fn commit_before(&self, event: &Event) -> Option<Commit> {
        let (ctx, from) = (&self.ctx, event.data.from.as_ref()?);
        ctx.notifier.compare_url.as_ref()?;
        let key = ctx.keys.build(&ctx.unit.app, from);
        let entry = ctx.consul.kv_get(&key, Consistency::Consistent).await.ok()??;
        decode::<Build>(&key, &entry.value).ok().map(|build| build.commit)
    }

    /// Notes what was told, while this session holds the lock.
    async fn note(&self, told: &Told) -> Result<(), Fenced> {
        let write = TxnOp::Set { key: self.ctx.at.told(&self.receiver.name), value: encode(told).into_bytes() };
        // Written twice it is the same, so that an unknown outcome is simply tried again.
        let written = self.until_read(|| self.lease.write([write.clone()])).await;
        match written {
            Written::Applied => Ok(()),
            Written::Conflict(_) | Written::Lost => {
                let (unit, receiver) = (&self.ctx.unit, &self.receiver.name);
                tracing::info!(%unit, %receiver, "{unit}: another agent coordinates now and sends the remaining notifications to {receiver}");
                Err(Fenced)
            }
        }
    }

    /// Asks Consul until it answers.
    async fn until_read<T, A: Future<Output = Result<T, Error>>>(&self, mut ask: impl FnMut() -> A) -> T {
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

/// Sends one event until the receiver takes it, has said often enough that it does not take this one, or is there no more;
/// at most for a day since it happened.
pub(crate) async fn deliver(ctx: &Context, receiver: &Receiver, event: &Event) -> Sent {
    // By chance, so that receivers are not called in step.
    let mut backoff = Backoff::new(SHORTEST_PAUSE, LONGEST_PAUSE);
    let mut refusals = 0;
    let (unit, name, kind, id) = (&ctx.unit, &receiver.name, event.kind.as_str(), &event.id);
    loop {
        if receiver.is_gone() {
            return Sent::Gone;
        }
        let now = Timestamp::now();
        let sent = ctx.notifier.sender.send(receiver, event, now).await;
        receiver.note(sent.as_ref().map(|_| ()));
        ctx.metrics.notified(&receiver.name, if sent.is_ok() { Notified::Taken } else { Notified::Failed });
        let Err(error) = sent else {
            tracing::info!(%unit, receiver = name, event = kind, id, "{unit}: sent notification {kind} {id} to {name}");
            return Sent::Over;
        };
        let why = chain(&error);
        if matches!(error, SendError::Gone { .. }) {
            tracing::error!(%unit, receiver = name, %why, "{unit}: receiver {name} is gone, and nothing is sent there until this agent starts again: {why}");
            return Sent::Gone;
        }
        // By the event's own time, which does not begin anew with another coordinator.
        refusals += u32::from(error.is_about_the_message());
        if refusals >= REFUSALS || now.duration_since(event.timestamp).unsigned_abs() > GIVE_UP_AFTER {
            ctx.metrics.notified(&receiver.name, Notified::GivenUp);
            tracing::error!(%unit, receiver = name, event = kind, id, %why, "{unit}: notification {kind} {id} to {name} is given up: {why}");
            return Sent::Over;
        }
        let pause = backoff.pause(fastrand::f64()).max(error.retry_after().unwrap_or_default());
        tracing::warn!(%unit, receiver = name, event = kind, id, %why, again_in = ?pause, "{unit}: {name} did not take notification {kind} {id}; the next try is in {pause:.1?}: {why}");
        tokio::time::sleep(pause).await;
    }
}

/// What is to be noted for a receiver that was never told anything.
async fn from_now_on(ctx: &Context) -> Result<Told, Error> {
    // The names first: what begins after them is news, and what ends before the barrier is read is not.
    let histories = epochs(ctx, &ctx.at.all_history()).await?;
    let actions = epochs(ctx, &ctx.at.all_actions()).await?;
    let running = barrier(ctx).await?.filter(|barrier| !barrier.phase.is_settled()).map(|barrier| barrier.epoch);
    Ok(initial_cursor(&histories, &actions, running))
}

/// What stands in Consul beyond `told`, at most [`BATCH`] records of a kind.
async fn standing(ctx: &Context, told: &Told, troubles: &Drifts) -> Result<Records, Error> {
    // Before the records, as `Records` wants it.
    let barrier = barrier(ctx).await?.map(|barrier| barrier.epoch);
    let last = told.begun.min(told.ended);
    let histories = records(ctx, &ctx.at.all_history(), last, |epoch| ctx.at.history(epoch)).await?;
    let actions = records(ctx, &ctx.at.all_actions(), told.action, |epoch| ctx.at.action(epoch)).await?;
    Ok(Records { histories, actions, barrier, drifts: troubles.clone() })
}

/// The barrier; one that cannot be read is none: nobody acts on it.
async fn barrier(ctx: &Context) -> Result<Option<Barrier>, Error> {
    let key = ctx.at.barrier();
    let entry = ctx.consul.kv_get(&key, Consistency::Consistent).await?;
    Ok(entry.and_then(|entry| Barrier::decode(&key, &entry.value).ok()))
}

/// The epochs that keys under a prefix are named by, in order.
async fn epochs(ctx: &Context, prefix: &str) -> Result<Vec<Epoch>, Error> {
    let names = ctx.consul.kv_keys(prefix, Consistency::Consistent).await?;
    let mut epochs: Vec<Epoch> = names.iter().filter_map(|name| name.strip_prefix(prefix)?.parse().ok()).collect();
    epochs.sort_unstable();
    Ok(epochs)
}

/// The oldest records after `last`. What cannot be read is passed over: the next program version may.
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
        let Some(entry) = ctx.consul.kv_get(&key, Consistency::Consistent).await? else { continue };
        match decode(&key, &entry.value) {
            Ok(record) => {
                ctx.troubles.reads_again(&key);
                found.push(record);
            }
            Err(error) if error.is_newer() => {
                // Its notification waits for a newer agent, and those after it come in their order.
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
