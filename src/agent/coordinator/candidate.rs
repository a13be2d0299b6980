//! Takes the coordinator's lock when it is free, and leads while holding it.
//!
//! A candidate reads the lock before it tries to acquire it, and waits a random moment: each failed attempt is a write
//! in Consul's log. Losing the lock is harmless: the state of a running deploy is in Consul, and any other candidate
//! continues.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use crate::agent::coordinator::leading;
use crate::agent::coordinator::lease::Lease;
use crate::agent::coordinator::lookup;
use crate::agent::coordinator::notifying;
use crate::agent::coordinator::sweeping;
use crate::agent::daemon::context::{Context, GOODBYE};
use crate::consul::{Change, Consistency, Entry, Error, SessionSpec, TxnOp, TxnResult, Watch};
use crate::protocol::record::{FORMAT, RecordError, check_format};
use crate::telemetry::chain;

/// How often the lock's session is renewed.
const RENEW_EVERY: Duration = Duration::from_secs(3);
/// How long a coordinator continues without a successful renewal. Below the session's TTL of 10 s, after which Consul may
/// end the session.
const IN_DOUBT_AFTER: Duration = Duration::from_secs(8);
/// The longest random delay before an attempt, in milliseconds, so that not all candidates try at once.
const JITTER_MS: u64 = 150;

/// The pause after a failed attempt, or one that another candidate won.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// The pause after Consul denied the permission. Long, because every node of a fleet may be in this state.
const AFTER_REFUSAL: Duration = Duration::from_secs(30);

/// The outcome of an attempt to coordinate.
enum Attempt {
    /// Another candidate was faster, or Consul's lock delay has not passed.
    NotAcquired,
    /// Another session already held the lock.
    Held,
    /// This agent coordinated, and no longer does.
    Led,
    /// A newer program wrote this record. This agent does not coordinate until it can read the record.
    TooOld(RecordError),
}

/// A random duration from half of `pause` to one and a half times `pause`, so that candidates do not retry in step.
fn around(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + fastrand::f64())
}

/// Takes part in the election until shutdown.
pub(crate) async fn run(ctx: Arc<Context>) {
    let mut watch = Watch::key(&ctx.consul, ctx.at.coordinator(), Consistency::Default);
    let mut has_looked = false;
    loop {
        let change = tokio::select! {
            () = ctx.shutdown.cancelled() => return,
            change = watch.next() => change,
        };
        match change {
            Change::Seen(Some(entry)) if entry.session.is_some() => {
                ctx.troubles.has_coordinator();
                if !std::mem::replace(&mut has_looked, true)
                    && let Err(error) = end_previous_session(&ctx, &entry).await
                {
                    let error = chain(&error);
                    tracing::debug!(unit = %ctx.unit, error, "{}: cannot read which session holds the coordinator's lock: {error}", ctx.unit);
                }
            }
            Change::Seen(_) => {
                has_looked = true;
                ctx.troubles.lacks_coordinator();
                tokio::time::sleep(Duration::from_millis(fastrand::u64(0..JITTER_MS))).await;
                let pause = match try_once(&ctx).await {
                    Ok(Attempt::Led | Attempt::Held) => Duration::ZERO,
                    Ok(Attempt::TooOld(record)) => {
                        tokio::select! {
                            () = ctx.shutdown.cancelled() => return,
                            () = until_readable(&ctx, &record) => Duration::ZERO,
                        }
                    }
                    Ok(Attempt::NotAcquired) => around(AFTER_FAILURE),
                    Err(error) => {
                        tracing::warn!(unit = %ctx.unit, error = %chain(&error), "{}: this agent could not take the coordinator's lock: {}", ctx.unit, chain(&error));
                        // Retrying soon does not help without the permission, and each attempt is two writes in
                        // Consul's log.
                        let is_forbidden = matches!(error, Error::Forbidden { .. });
                        around(if is_forbidden { AFTER_REFUSAL } else { AFTER_FAILURE })
                    }
                };
                tokio::select! {
                    () = ctx.shutdown.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
                // Read the lock again, without waiting for a change.
                watch.reset();
            }
            Change::Failed(error) => {
                let error = chain(&error);
                tracing::debug!(unit = %ctx.unit, error, "{}: cannot read the coordinator's lock: {error}", ctx.unit);
            }
        }
    }
}

/// Observes the lock until shutdown, for an agent that never coordinates: it still reports a missing coordinator.
pub(crate) async fn observe(ctx: Arc<Context>) {
    // A stale read is enough for a report.
    let mut watch = Watch::key(&ctx.consul, ctx.at.coordinator(), Consistency::Stale);
    loop {
        let change = tokio::select! {
            () = ctx.shutdown.cancelled() => return,
            change = watch.next() => change,
        };
        match change {
            Change::Seen(Some(entry)) if entry.session.is_some() => ctx.troubles.has_coordinator(),
            Change::Seen(_) => ctx.troubles.lacks_coordinator(),
            Change::Failed(error) => {
                let error = chain(&error);
                tracing::debug!(unit = %ctx.unit, error, "{}: cannot read the coordinator's lock: {error}", ctx.unit);
            }
        }
    }
}

/// Ends the session that holds the lock if it belongs to this node's previous agent process, which was killed. Otherwise
/// Consul would end it only after up to twice its TTL. Call this before the first attempt of this process.
async fn end_previous_session(ctx: &Context, lock: &Entry) -> Result<(), Error> {
    let Some(session) = lock.session.as_ref().filter(|_| lock.value == ctx.node.as_str().as_bytes()) else {
        return Ok(());
    };
    // Another Consul node may run an agent with the same name. Its session must not be ended here; presence reports it.
    let info = ctx.consul.session_info(session, Consistency::Consistent).await?;
    if info.is_some_and(|info| info.node == ctx.consul_node) {
        tracing::info!(unit = %ctx.unit, session = %session.as_str(), "{}: the previous agent of this node was killed while it coordinated; its session is ended now", ctx.unit);
        ctx.consul.session_destroy(session).await?;
    }
    Ok(())
}

/// Waits until this agent can read the record, or the record is gone.
async fn until_readable(ctx: &Context, record: &RecordError) {
    ctx.troubles.meets_newer(record).await;
    let key = record.key();
    // A stale read is enough, because the next attempt reads consistently.
    let mut watch = Watch::key(&ctx.consul, key, Consistency::Stale);
    loop {
        match watch.next().await {
            Change::Seen(Some(entry)) if check_format(key, &entry.value, FORMAT).is_err() => {}
            Change::Seen(_) => break,
            Change::Failed(error) => {
                tracing::debug!(unit = %ctx.unit, key, error = %chain(&error), "{}: cannot read {key}", ctx.unit);
            }
        }
    }
    ctx.troubles.reads_again(key);
}

/// Acquires the lock if it is free, leads until the lease ends, and releases the lock.
async fn try_once(ctx: &Arc<Context>) -> Result<Attempt, Error> {
    let key = ctx.at.coordinator();
    let held = ctx.consul.kv_get(&key, Consistency::Consistent).await?;
    if held.is_some_and(|entry| entry.session.is_some()) {
        return Ok(Attempt::Held);
    }
    if let Some(record) = lookup::newer_record(ctx).await? {
        return Ok(Attempt::TooOld(record));
    }
    let begun = Instant::now();
    let session = ctx.consul.session_create(&SessionSpec::new(format!("cutover coordinator {}", ctx.unit))).await?;
    let value = ctx.node.as_str().as_bytes().to_vec();
    let lock = TxnOp::Lock { key: key.clone(), value, session: session.clone() };
    let taken = ctx.consul.txn(&[lock], Consistency::Default).await;
    let has_led = matches!(taken, Ok(TxnResult::Applied(_)));
    if has_led {
        tracing::info!(unit = %ctx.unit, "{}: this agent coordinates", ctx.unit);
        ctx.troubles.has_coordinator();
        let lease = Lease::new(&ctx.consul, &ctx.at, session.clone(), &ctx.shutdown);
        ctx.metrics.starts_coordinating(&ctx.unit);
        let renewal = ctx.tasks.spawn(renew(Arc::clone(ctx), lease.clone(), begun));
        let sweep = ctx.tasks.spawn(sweeping::sweep(Arc::clone(ctx), lease.clone()));
        let notifications = ctx.tasks.spawn(notifying::notify(Arc::clone(ctx), lease.clone()));
        leading::lead(ctx, &lease).await;
        let _was_halted = ctx.troubles.set_halted(None);
        lease.end();
        let _panicked = tokio::join!(renewal, sweep, notifications);
        ctx.metrics.stops_coordinating(&ctx.unit);
        tracing::info!(unit = %ctx.unit, "{}: this agent coordinates no longer", ctx.unit);
        // Releasing the lock lets another agent take over at once. If it fails, the end of the session frees the lock.
        let free = ctx.consul.kv_release(&key, ctx.node.as_str(), &session);
        let _free = tokio::time::timeout(GOODBYE, free).await;
    }
    if let Ok(destroyed) = tokio::time::timeout(GOODBYE, ctx.consul.session_destroy(&session)).await {
        destroyed?;
    }
    taken.map(|_| if has_led { Attempt::Led } else { Attempt::NotAcquired })
}

/// Renews the session. Ends the lease before Consul can have ended the session.
async fn renew(ctx: Arc<Context>, lease: Lease, begun: Instant) {
    let mut tick = tokio::time::interval(RENEW_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut renewed = begun;
    loop {
        tokio::select! {
            () = lease.over() => return,
            () = tokio::time::sleep_until(renewed + IN_DOUBT_AFTER) => {
                tracing::warn!(unit = %ctx.unit, "{}: this coordinator could not renew its session in time and leaves the lock to others", ctx.unit);
                lease.end();
                return;
            }
            _ = tick.tick() => {}
        }
        let asked = Instant::now();
        let answer = tokio::time::timeout_at(renewed + IN_DOUBT_AFTER, ctx.consul.session_renew(lease.session())).await;
        match answer {
            Ok(Ok(true)) => renewed = asked,
            Ok(Ok(false)) => {
                tracing::warn!(unit = %ctx.unit, "{}: this coordinator's session has ended", ctx.unit);
                lease.end();
                return;
            }
            Ok(Err(error)) => {
                let error = chain(&error);
                tracing::warn!(unit = %ctx.unit, error, "{}: this coordinator could not renew its session yet: {error}", ctx.unit);
            }
            Err(_) => {}
        }
    }
}
