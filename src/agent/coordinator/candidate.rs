//! Stands for coordinator: takes the lock where it is free, and leads while it holds it.
//!
//! It looks before it acquires, with jitter, since each failed acquire is a write in Consul's log. Losing the lock is
//! never fatal: whatever was under way stands in Consul, and any other candidate goes on from there.

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
/// How long without a renewal that went through it still acts: under the session's TTL of 10 s, the earliest moment
/// at which Consul may end it.
const IN_DOUBT_AFTER: Duration = Duration::from_secs(8);
/// Spreads the candidates of a fleet when the lock becomes free.
const JITTER_MS: u64 = 150;

/// The pause after a try that failed, or was lost to another.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// The pause where Consul's ACLs do not allow it: every node of a fleet may be in this state.
const AFTER_REFUSAL: Duration = Duration::from_secs(30);

/// What a try came to.
enum Stood {
    /// The lock was free, and another was quicker; or Consul does not give it yet.
    Beaten,
    /// Somebody held it already.
    Late,
    /// It was held, and is not any more.
    Led,
    /// A newer program wrote this record: newer agents may coordinate, and this one does not while it stands.
    TooOld(RecordError),
}

/// Between half and one and a half of `pause`.
fn around(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + fastrand::f64())
}

/// Stands until shutdown.
pub(crate) async fn stand(ctx: Arc<Context>) {
    let mut watch = Watch::key(&ctx.consul, ctx.at.coordinator(), Consistency::Default);
    let mut has_looked = false;
    loop {
        let change = tokio::select! {
            () = ctx.shutdown.cancelled() => return,
            change = watch.next() => change,
        };
        match change {
            Change::Seen(Some(entry)) if entry.session.is_some() => {
                ctx.troubles.is_coordinated(true);
                if !std::mem::replace(&mut has_looked, true)
                    && let Err(error) = end_former_self(&ctx, &entry).await
                {
                    let error = chain(&error);
                    tracing::debug!(unit = %ctx.unit, error, "{}: cannot read which session holds the coordinator's lock: {error}", ctx.unit);
                }
            }
            Change::Seen(_) => {
                has_looked = true;
                ctx.troubles.is_coordinated(false);
                tokio::time::sleep(Duration::from_millis(fastrand::u64(0..JITTER_MS))).await;
                let pause = match try_once(&ctx).await {
                    Ok(Stood::Led | Stood::Late) => Duration::ZERO,
                    Ok(Stood::TooOld(record)) => {
                        tokio::select! {
                            () = ctx.shutdown.cancelled() => return,
                            () = until_readable(&ctx, &record) => Duration::ZERO,
                        }
                    }
                    Ok(Stood::Beaten) => around(AFTER_FAILURE),
                    Err(error) => {
                        tracing::warn!(unit = %ctx.unit, error = %chain(&error), "{}: this agent could not take the coordinator's lock: {}", ctx.unit, chain(&error));
                        // A right does not come by trying, and each try is two writes in Consul's log.
                        let is_forbidden = matches!(error, Error::Forbidden { .. });
                        around(if is_forbidden { AFTER_REFUSAL } else { AFTER_FAILURE })
                    }
                };
                tokio::select! {
                    () = ctx.shutdown.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
                // Whoever holds it now: look again.
                watch.reset();
            }
            Change::Failed(error) => {
                let error = chain(&error);
                tracing::debug!(unit = %ctx.unit, error, "{}: cannot read the coordinator's lock: {error}", ctx.unit);
            }
        }
    }
}

/// Looks on until shutdown: an agent that never coordinates still says when nobody does.
pub(crate) async fn look_on(ctx: Arc<Context>) {
    // Stale: it is for people, and as good as any read a moment later.
    let mut watch = Watch::key(&ctx.consul, ctx.at.coordinator(), Consistency::Stale);
    loop {
        let change = tokio::select! {
            () = ctx.shutdown.cancelled() => return,
            change = watch.next() => change,
        };
        match change {
            Change::Seen(entry) => ctx.troubles.is_coordinated(entry.is_some_and(|entry| entry.session.is_some())),
            Change::Failed(error) => {
                let error = chain(&error);
                tracing::debug!(unit = %ctx.unit, error, "{}: cannot read the coordinator's lock: {error}", ctx.unit);
            }
        }
    }
}

/// This agent has never stood, and its node holds the lock: that is its former self, which was killed. Its session is
/// ended now, and not by Consul after up to twice its TTL.
async fn end_former_self(ctx: &Context, lock: &Entry) -> Result<(), Error> {
    let Some(session) = lock.session.as_ref().filter(|_| lock.value == ctx.node.as_str().as_bytes()) else {
        return Ok(());
    };
    // An agent elsewhere that calls itself the same is for presence to find.
    let info = ctx.consul.session_info(session, Consistency::Consistent).await?;
    if info.is_some_and(|info| info.node == ctx.consul_node) {
        tracing::info!(unit = %ctx.unit, session = %session.as_str(), "{}: this node's agent was killed while it coordinated; its session ends now", ctx.unit);
        ctx.consul.session_destroy(session).await?;
    }
    Ok(())
}

/// Waits until a record that a newer program wrote is gone, or one that this agent reads.
async fn until_readable(ctx: &Context, record: &RecordError) {
    ctx.troubles.meets_newer(record).await;
    let key = record.key();
    // Stale: the next try reads consistently.
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

/// Takes the lock if it is free, leads until it is lost or the agent stops, and says goodbye.
async fn try_once(ctx: &Arc<Context>) -> Result<Stood, Error> {
    let key = ctx.at.coordinator();
    let held = ctx.consul.kv_get(&key, Consistency::Consistent).await?;
    if held.is_some_and(|entry| entry.session.is_some()) {
        return Ok(Stood::Late);
    }
    if let Some(record) = lookup::newer_record(ctx).await? {
        return Ok(Stood::TooOld(record));
    }
    let begun = Instant::now();
    let session = ctx.consul.session_create(&SessionSpec::new(format!("cutover coordinator {}", ctx.unit))).await?;
    let value = ctx.node.as_str().as_bytes().to_vec();
    let lock = TxnOp::Lock { key: key.clone(), value, session: session.clone() };
    let taken = ctx.consul.txn(&[lock], Consistency::Default).await;
    let has_led = matches!(taken, Ok(TxnResult::Applied(_)));
    if has_led {
        tracing::info!(unit = %ctx.unit, "{}: this agent coordinates", ctx.unit);
        ctx.troubles.is_coordinated(true);
        let lease = Lease::new(&ctx.consul, &ctx.at, session.clone(), &ctx.shutdown);
        ctx.metrics.coordinates(&ctx.unit, true);
        let renewal = ctx.tasks.spawn(renew(Arc::clone(ctx), lease.clone(), begun));
        let sweep = ctx.tasks.spawn(sweeping::sweep(Arc::clone(ctx), lease.clone()));
        let telling = ctx.tasks.spawn(notifying::tell(Arc::clone(ctx), lease.clone()));
        leading::lead(ctx, &lease).await;
        let _was_halted = ctx.troubles.set_halted(None);
        lease.end();
        let _panicked = tokio::join!(renewal, sweep, telling);
        ctx.metrics.coordinates(&ctx.unit, false);
        tracing::info!(unit = %ctx.unit, "{}: this agent coordinates no longer", ctx.unit);
        // A goodbye lets another take over at once; without it the session's end does.
        let free = ctx.consul.kv_release(&key, ctx.node.as_str(), &session);
        let _free = tokio::time::timeout(GOODBYE, free).await;
    }
    if let Ok(destroyed) = tokio::time::timeout(GOODBYE, ctx.consul.session_destroy(&session)).await {
        destroyed?;
    }
    taken.map(|_| if has_led { Stood::Led } else { Stood::Beaten })
}

/// Renews the session; gives up well before it can have ended.
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
