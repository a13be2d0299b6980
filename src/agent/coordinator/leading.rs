//! Carries out the rounds of a coordinator while it holds the lock.
//!
//! [`Lead`] decides what is read and written, when, and what follows from the answers. This file only runs the tasks for
//! it: watches, reads, writes and timers.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::agent::coordinator::archiving;
use crate::agent::coordinator::lease::{Lease, Written};
use crate::agent::coordinator::lookup;
use crate::agent::coordinator::metering;
use crate::agent::coordinator::recording;
use crate::agent::coordinator::resolve;
use crate::agent::coordinator::sentence;
use crate::agent::coordinator::wake::wake_on;
use crate::agent::daemon::context::Context;
use crate::consul::{Consistency, Error, Watch};
use crate::protocol::coordinator::{Attribution, Coordinator, Now};
use crate::protocol::ids::Epoch;
use crate::protocol::record::{History, Request, deploy_id};
use crate::protocol::shell::lead::{Event, Lead, Moment, Outcome, Step};
use crate::protocol::transition::Transition;
use crate::telemetry::chain;

/// The longest wait of a blocking query while a deploy runs. The queries are dropped when the deploy ends, but Consul 1.8
/// keeps their connections open until the wait is over, and refuses more than 200 from one address. With waits of one
/// minute, 77 deploys in 30 s reached that limit (measured).
const BRIEF_WAIT: Duration = Duration::from_secs(5);

/// Leads until the lease ends.
pub(crate) async fn lead(ctx: &Arc<Context>, lease: &Lease) {
    let attribution = if ctx.settings.require_attribution { Attribution::Required } else { Attribution::Claimed };
    let coordinator = Coordinator::new(ctx.agent.node.clone(), ctx.unit.clone(), ctx.settings.policy());
    let mut machine = Lead::new(coordinator.with_attribution(attribution), ctx.at.clone());
    let mut rounds = Rounds::begin(ctx, lease);
    let mut event = Some(Event::Due);
    while let Some(came) = event {
        let followed = ctx.published.journal.borrow().record.clone();
        let now = Now { monotonic: rounds.began.elapsed(), wall: Timestamp::now() };
        let moment = Moment { now, followed: followed.as_ref(), chance: fastrand::f64() };
        for step in machine.on(&moment, came) {
            rounds.carry_out(step).await;
        }
        event = rounds.next().await;
    }
    rounds.end().await;
}

/// Carries out the rounds of one lease.
struct Rounds {
    ctx: Arc<Context>,
    lease: Lease,
    began: Instant,
    /// When the machine wants to be woken; only the newest request counts.
    wake: Option<Instant>,
    changed: Arc<Notify>,
    /// Running reads and writes.
    asking: JoinSet<Event>,
    watches: JoinSet<()>,
    /// The watches of answers and nodes, while a deploy runs.
    answers: JoinSet<()>,
    /// Recording and archiving, which run beside the deploys.
    duties: JoinSet<()>,
    /// Notified when there may be records to archive.
    tidy: Arc<Notify>,
}

impl Rounds {
    fn begin(ctx: &Arc<Context>, lease: &Lease) -> Self {
        let (changed, tidy) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (mut watches, mut duties) = (JoinSet::new(), JoinSet::new());
        for key in [ctx.at.deploy(), ctx.at.abort(), ctx.at.barrier()] {
            watches.spawn(wake_on(Watch::key(&ctx.agent.consul, key, Consistency::Default), Arc::clone(&changed)));
        }
        duties.spawn(recording::record(Arc::clone(ctx), lease.clone(), Arc::clone(&tidy)));
        duties.spawn(archiving::archive(Arc::clone(ctx), lease.clone(), Arc::clone(&tidy)));
        Self {
            ctx: Arc::clone(ctx),
            lease: lease.clone(),
            began: Instant::now(),
            wake: None,
            changed,
            asking: JoinSet::new(),
            watches,
            answers: JoinSet::new(),
            duties,
            tidy,
        }
    }

    /// The next event. None: the lease has ended.
    async fn next(&mut self) -> Option<Event> {
        let wake = self.wake;
        tokio::select! {
            // In this order: an ended lease comes first, and answers come before the reads that a change would begin.
            biased;
            () = self.lease.over() => None,
            // A panic in a task is a bug. It ends this lease, because another coordinator may not be affected.
            Some(answer) = self.asking.join_next() => answer.ok(),
            () = self.changed.notified() => Some(Event::Changed),
            () = sleep_until(wake.unwrap_or(self.began)), if wake.is_some() => {
                self.wake = None;
                Some(Event::Due)
            }
        }
    }

    async fn carry_out(&mut self, step: Step) {
        let (ctx, lease) = (Arc::clone(&self.ctx), self.lease.clone());
        match step {
            Step::AtRest => {
                self.answers.abort_all();
                self.tidy.notify_one();
            }
            Step::Halted { reason } => {
                tracing::error!(unit = %ctx.unit, %reason, "{}: this coordinator has stopped until an operator fixes this: {reason}", ctx.unit);
                ctx.troubles.set_halted(Some(reason));
            }
            Step::Leave => {
                tracing::warn!(unit = %ctx.unit, "{}: this agent gives up the coordinator's lock", ctx.unit);
                lease.end();
            }
            Step::ReadCatalog { round } => drop(self.asking.spawn(async move {
                let read = lookup::catalog(&ctx).await;
                answer(&ctx, round, read.map(|nodes| Event::Catalog { round, nodes }))
            })),
            Step::ReadHistory { round, key } => drop(self.asking.spawn(async move {
                let read = lookup::value(&ctx, &key).await;
                answer(&ctx, round, read.map(|value| Event::History { round, value }))
            })),
            Step::ReadKeys { round, extent } => drop(self.asking.spawn(async move {
                let read = lookup::keys(&ctx, extent).await;
                answer(&ctx, round, read.map(|keys| Event::Keys { round, keys: Box::new(keys) }))
            })),
            Step::Resolve { round, epoch, request } => drop(self.asking.spawn(async move {
                let found = find_build(&ctx, epoch, &request).await;
                answer(&ctx, round, found.map(|result| Event::Resolved { round, result: Box::new(result) }))
            })),
            Step::Resumed => {
                tracing::info!(unit = %ctx.unit, "{}: the problem that stopped this coordinator is solved, and it continues", ctx.unit);
                ctx.troubles.set_halted(None);
            }
            Step::StandDown { record } => ctx.troubles.meets_newer(&record).await,
            Step::Wake { at } => self.wake = Some(self.began + at),
            Step::WatchAnswers { pace } => {
                for prefix in [ctx.at.acks(), ctx.at.nodes()] {
                    let watch = Watch::prefix(&ctx.agent.consul, prefix, Consistency::Default);
                    let watch = watch.with_pace(pace).with_wait(BRIEF_WAIT);
                    self.answers.spawn(wake_on(watch, Arc::clone(&self.changed)));
                }
            }
            Step::Write { round, transition } => drop(self.asking.spawn(async move {
                let written = write(&ctx, &lease, &transition).await;
                answer(&ctx, round, written.map(|outcome| Event::Written { round, outcome }))
            })),
        }
    }

    async fn end(mut self) {
        self.asking.shutdown().await;
        self.watches.shutdown().await;
        self.answers.shutdown().await;
        self.duties.shutdown().await;
    }
}

/// Turns an answer of Consul into an event; a failed read or write becomes [`Event::Failed`].
fn answer(ctx: &Context, round: u64, answer: Result<Event, Error>) -> Event {
    answer.unwrap_or_else(|error| {
        let error = chain(&error);
        tracing::warn!(unit = %ctx.unit, error, "{}: this coordinator waits for Consul: {error}", ctx.unit);
        Event::Failed { round }
    })
}

async fn find_build(ctx: &Context, epoch: Epoch, request: &Request) -> Result<resolve::Found, Error> {
    let found = resolve::resolve(ctx, request).await?;
    let (unit, by, deploy) = (&ctx.unit, &request.author.by, deploy_id(&ctx.unit, epoch, &request.author.id));
    match &found {
        Ok(resolved) => {
            let artifact = &resolved.build.artifact;
            tracing::info!(%unit, step = "request", %epoch, deploy, by, %artifact, "{unit}: request #{epoch} by {by} selects {artifact}");
        }
        Err(fault) => {
            let reason = &fault.reason;
            tracing::info!(%unit, step = "request", %epoch, deploy, by, reason, "{unit}: request #{epoch} by {by} selects no build that may run: {reason}");
        }
    }
    Ok(found)
}

async fn write(ctx: &Context, lease: &Lease, transition: &Transition) -> Result<Outcome, Error> {
    let unit = &ctx.unit;
    match lease.apply(transition).await? {
        Written::Applied => {
            for history in transition.histories() {
                metering::count_end(ctx, history);
            }
            // A revert that answers a waiting rollback ends two requests in one transaction.
            for answered in transition.histories().skip(1) {
                let epoch = answered.epoch;
                tracing::info!(%unit, %epoch, "{unit}: rollback #{epoch} is done: the revert has already restored the release that it asked for");
            }
            let history = transition.histories().next();
            let fault = history.and_then(|history| history.fault.as_ref());
            tracing::info!(
                %unit,
                step = transition.name,
                epoch = history.map(|history| history.epoch.to_string()),
                deploy = history.map(History::deploy_id),
                artifact = history.and_then(|history| history.artifact.as_ref()).map(tracing::field::display),
                node = history.and_then(|history| history.node.as_ref()).map(tracing::field::display),
                failed_step = fault.map(|fault| fault.step.as_str()),
                reason = fault.map(|fault| fault.reason.as_str()),
                "{unit}: {}",
                sentence::of(transition)
            );
            Ok(Outcome::Applied)
        }
        Written::Conflict(refusals) => {
            let step = transition.name;
            tracing::info!(%unit, step, ?refusals, "{unit}: a key changed before this coordinator could write {step}, so it reads the keys again");
            Ok(Outcome::Conflict)
        }
        Written::Lost => Ok(Outcome::Lost),
    }
}
