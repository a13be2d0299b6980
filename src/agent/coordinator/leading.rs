//! What the coordinator does while it holds the lock: read, decide, write, and read again.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::agent::coordinator::archiving;
use crate::agent::coordinator::lease::{Lease, Written};
use crate::agent::coordinator::lookup::{self, Expected};
use crate::agent::coordinator::metering;
use crate::agent::coordinator::recording;
use crate::agent::coordinator::resolve;
use crate::agent::coordinator::sentence;
use crate::agent::coordinator::wake::wake_on;
use crate::agent::daemon::context::Context;
use crate::backoff::Backoff;
use crate::consul::{Consistency, Error, Watch};
use crate::protocol::coordinator::{Attribution, Coordinator, Decision, Now};
use crate::protocol::record::{History, deploy_id};
use crate::protocol::transition::Transition;
use crate::telemetry::chain;

/// The pause after a failed read or write; it doubles while they go on to fail.
const PAUSE: Duration = Duration::from_millis(300);
/// The longest such pause. What fails for good, for want of a right or for its size, must not become a storm of reads.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The least time between two reads while many nodes answer: each brings every answer.
const PACE_OF_MANY: Duration = Duration::from_millis(100);
/// From how many nodes on answers are read at that pace: below, each read is a few kilobytes.
const MANY: usize = 50;
/// How long the queries of a running deploy rest at Consul. They are dropped at its end, and Consul 1.8 holds their
/// connections until they are over; it refuses more than 200 from one address (measured: 77 deploys in 30 s were
/// enough with waits of a minute).
const BRIEF_WAIT: Duration = Duration::from_secs(5);
/// Without any change, everything is read again after this long: what the watches missed costs at most this.
const LOOK_AGAIN: Duration = Duration::from_mins(1);

/// Leads until the lease is over.
pub(crate) async fn lead(ctx: &Arc<Context>, lease: &Lease) {
    let coordinator = Coordinator::new(ctx.node.clone(), ctx.unit.clone(), ctx.settings.policy());
    let mut coordinator = coordinator.with_attribution(attribution(ctx));
    let began = Instant::now();
    let changed = Arc::new(Notify::new());
    let mut watches = JoinSet::new();
    for key in [ctx.at.deploy(), ctx.at.abort(), ctx.at.barrier()] {
        watches.spawn(wake_on(Watch::key(&ctx.consul, key, Consistency::Default), Arc::clone(&changed)));
    }
    let (mut besides, tidy) = begin_besides(ctx, lease);
    // Only a deploy that runs makes answers and absences matter.
    let mut running = JoinSet::new();
    let mut backoff = Backoff::new(PAUSE, LONGEST_PAUSE);
    let mut expected = Expected::Rest;
    loop {
        let read = Instant::now();
        let round = async {
            let snapshot = lookup::snapshot(ctx, expected).await?;
            let now = Now { monotonic: began.elapsed(), wall: Timestamp::now() };
            let pace = if snapshot.nodes.len() > MANY { PACE_OF_MANY } else { Duration::ZERO };
            let is_busy = snapshot.is_busy();
            let decision = coordinator.decide(now, &snapshot);
            let next = act(ctx, lease, &mut coordinator, decision, began).await?;
            Ok::<_, Error>((next, is_busy, pace))
        };
        let round = tokio::select! {
            () = lease.over() => break,
            round = round => round,
        };
        match round {
            Ok((next, is_busy, pace)) => {
                backoff.succeeded();
                expected = if is_busy { Expected::Deploy } else { Expected::Rest };
                if is_busy && running.is_empty() {
                    watch_answers(ctx, &mut running, pace, &changed);
                } else if !is_busy {
                    tidy.notify_one();
                    running.abort_all();
                    while running.join_next().await.is_some() {}
                }
                let halted = match &next {
                    Next::Halted { reason } => Some(reason.clone()),
                    Next::AtOnce | Next::Leave | Next::Change { .. } => None,
                };
                let is_news = ctx.set_halted(halted);
                let until = match next {
                    Next::AtOnce => continue,
                    Next::Leave => break,
                    Next::Change { until } => until,
                    Next::Halted { reason } => {
                        if is_news {
                            tracing::error!(unit = %ctx.unit, %reason, "{}: nothing is coordinated until a person has looked: {reason}", ctx.unit);
                        }
                        None
                    }
                };
                let deadline =
                    until.map_or(Instant::now() + LOOK_AGAIN, |until| began + until).min(Instant::now() + LOOK_AGAIN);
                tokio::select! {
                    () = lease.over() => break,
                    _ = timeout_at(deadline, changed.notified()) => {}
                }
                tokio::time::sleep_until(read + pace).await;
            }
            Err(error) => {
                say_it_waits(ctx, &error);
                tokio::select! {
                    () = lease.over() => break,
                    () = tokio::time::sleep(backoff.pause(fastrand::f64())) => {}
                }
            }
        }
    }
    watches.shutdown().await;
    running.shutdown().await;
    besides.shutdown().await;
}

/// Watches answers and sessions while a deploy runs, until `running` is aborted.
fn watch_answers(ctx: &Context, running: &mut JoinSet<()>, pace: Duration, changed: &Arc<Notify>) {
    for prefix in [ctx.at.acks(), ctx.at.nodes()] {
        let watch = Watch::prefix(&ctx.consul, prefix, Consistency::Default);
        running.spawn(wake_on(watch.with_pace(pace).with_wait(BRIEF_WAIT), Arc::clone(changed)));
    }
}

fn say_it_waits(ctx: &Context, error: &Error) {
    let error = chain(error);
    tracing::warn!(unit = %ctx.unit, error, "{}: this coordinator waits for Consul: {error}", ctx.unit);
}

/// Starts what goes on beside the deploys, and ends with them; it stands in no deploy's way. The bell says that there may
/// be something to archive.
fn begin_besides(ctx: &Arc<Context>, lease: &Lease) -> (JoinSet<()>, Arc<Notify>) {
    let (mut besides, tidy) = (JoinSet::new(), Arc::new(Notify::new()));
    besides.spawn(recording::record(Arc::clone(ctx), lease.clone(), Arc::clone(&tidy)));
    besides.spawn(archiving::archive(Arc::clone(ctx), lease.clone(), Arc::clone(&tidy)));
    (besides, tidy)
}

fn attribution(ctx: &Context) -> Attribution {
    if ctx.settings.require_attribution { Attribution::Required } else { Attribution::Claimed }
}

/// When to read again.
enum Next {
    AtOnce,
    Change {
        until: Option<Duration>,
    },
    /// Not at all: the lock is another's, or gone.
    Leave,
    Halted {
        reason: String,
    },
}

async fn act(
    ctx: &Arc<Context>,
    lease: &Lease,
    coordinator: &mut Coordinator,
    decision: Decision,
    began: Instant,
) -> Result<Next, Error> {
    match decision {
        Decision::Stay { until } => Ok(Next::Change { until }),
        Decision::StandDown { record } => {
            ctx.meets_newer(&record).await;
            Ok(Next::Leave)
        }
        Decision::Halt { reason } => Ok(Next::Halted { reason }),
        Decision::Resolve { epoch, request } => {
            let result = resolve::resolve(ctx, &request).await?;
            let deploy = deploy_id(&ctx.unit, epoch, &request.author.id);
            let (unit, by) = (&ctx.unit, &request.author.by);
            match &result {
                Ok(resolved) => {
                    let artifact = &resolved.build.artifact;
                    tracing::info!(%unit, step = "request", %epoch, deploy, by, %artifact, "{unit}: request #{epoch} by {by} means {artifact}");
                }
                Err(fault) => {
                    let reason = &fault.reason;
                    tracing::info!(%unit, step = "request", %epoch, deploy, by, reason, "{unit}: request #{epoch} by {by} names no build that may run: {reason}");
                }
            }
            coordinator.resolved(epoch, result);
            Ok(Next::AtOnce)
        }
        Decision::Write(transition) => write(ctx, lease, &transition, began).await,
    }
}

/// Writes a transition. Refused or unknown, it is read again and decided anew: nothing is assumed.
async fn write(ctx: &Context, lease: &Lease, transition: &Transition, began: Instant) -> Result<Next, Error> {
    match lease.apply(transition).await? {
        Written::Applied => {
            for history in transition.histories() {
                metering::count_end(ctx, history);
            }
            // A revert that answers a waiting rollback ends two requests.
            for answered in transition.histories().skip(1) {
                tracing::info!(unit = %ctx.unit, epoch = %answered.epoch, "{}: the revert has answered the waiting rollback #{}", ctx.unit, answered.epoch);
            }
            let history = transition.histories().next();
            let fault = history.and_then(|h| h.fault.as_ref());
            tracing::info!(
                unit = %ctx.unit,
                step = transition.name,
                epoch = history.map(|h| h.epoch.to_string()),
                deploy = history.map(History::deploy_id),
                artifact = history.and_then(|h| h.artifact.as_ref()).map(tracing::field::display),
                node = history.and_then(|h| h.node.as_ref()).map(tracing::field::display),
                failed_step = fault.map(|f| f.step.as_str()),
                reason = fault.map(|f| f.reason.as_str()),
                "{}",
                sentence::about(&ctx.unit, transition)
            );
        }
        Written::Lost => {
            tracing::warn!(unit = %ctx.unit, "{}: this agent's session has lost the coordinator's lock", ctx.unit);
            return Ok(Next::Leave);
        }
        Written::Conflict(refusals) => {
            let (unit, step) = (&ctx.unit, transition.name);
            tracing::info!(%unit, step, ?refusals, since = ?began.elapsed(), "{unit}: another write came before {step}; everything is read again");
            // A key that changed is read at once.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(Next::AtOnce)
}
