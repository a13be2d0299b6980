//! Takes part in the election of a coordinator: [`Candidate`] decides, this carries out its steps.
//!
//! Started by `src/agent/daemon`. Non-goals: deciding anything.

use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::agent::coordinator::leading;
use crate::agent::coordinator::lease::Lease;
use crate::agent::coordinator::lookup;
use crate::agent::coordinator::notifying;
use crate::agent::coordinator::sweeping;
use crate::agent::daemon::context::{Context, GOODBYE};
use crate::agent::lane::Lane;
use crate::consul::{Change, Consistency, Entry, Error, SessionId, SessionSpec, TxnOp, TxnResult, Watch};
use crate::protocol::record::{FORMAT, RecordError, check_format};
use crate::protocol::shell::Moment;
use crate::protocol::shell::candidate::{Candidate, Event, Failure, Leaving, Lock, Step};
use crate::telemetry::chain;

/// Takes part in the election until shutdown.
pub(crate) async fn run(ctx: Arc<Context>) {
    let mut watch = Watch::key(&ctx.agent.consul, ctx.at.coordinator(), Consistency::Default);
    let machine = Candidate::new(ctx.agent.node.as_str().to_owned(), ctx.agent.consul_node.clone());
    let (work, renewal) = (Lane::idle(), Lane::idle());
    let mut driver = Driver { ctx, began: Instant::now(), machine, work, renewal, term: None };
    let mut steps = driver.machine.begin();
    loop {
        for step in steps {
            driver.carry_out(step, &mut watch);
        }
        let Some(event) = driver.next(&mut watch).await else { return };
        let moment = Moment { since_start: driver.began.elapsed(), chance: fastrand::f64() };
        steps = driver.machine.on(moment, event);
    }
}

/// Observes the lock until shutdown, for an agent that never coordinates: it still reports a missing coordinator.
pub(crate) async fn observe(ctx: Arc<Context>) {
    // A stale read is enough for a report.
    let mut watch = Watch::key(&ctx.agent.consul, ctx.at.coordinator(), Consistency::Stale);
    loop {
        let change = tokio::select! {
            () = ctx.agent.shutdown.cancelled() => return,
            change = watch.next() => change,
        };
        match change {
            Change::Seen(entry) => ctx.troubles.sees_lock(entry.as_ref()),
            Change::Failed(error) => {
                let error = chain(&error);
                tracing::debug!(unit = %ctx.unit, error, "{}: cannot read the coordinator's lock: {error}", ctx.unit);
            }
        }
    }
}

struct Driver {
    ctx: Arc<Context>,
    began: Instant,
    machine: Candidate<SessionId>,
    work: Lane<Event<SessionId>>,
    renewal: Lane<Event<SessionId>>,
    term: Option<Term>,
}

/// The tasks of this agent while it coordinates.
struct Term {
    lease: Lease,
    task: JoinHandle<()>,
}

impl Driver {
    /// The next event; none: shutdown.
    async fn next(&mut self, watch: &mut Watch<Option<Entry>>) -> Option<Event<SessionId>> {
        loop {
            let change = tokio::select! {
                () = self.ctx.agent.shutdown.cancelled(), if self.machine.is_idle() => return None,
                change = watch.next(), if self.machine.is_watching() => change,
                event = self.work.next() => return Some(event),
                event = self.renewal.next() => return Some(event),
                () = over(self.term.as_ref()) => return Some(Event::Left),
            };
            match change {
                Change::Seen(entry) => {
                    self.ctx.troubles.sees_lock(entry.as_ref());
                    return Some(Event::Watched(entry.map(lock)));
                }
                Change::Failed(error) => {
                    let error = chain(&error);
                    tracing::debug!(unit = %self.ctx.unit, error, "{}: cannot read the coordinator's lock: {error}", self.ctx.unit);
                }
            }
        }
    }

    fn carry_out(&mut self, step: Step<SessionId>, watch: &mut Watch<Option<Entry>>) {
        let ctx = Arc::clone(&self.ctx);
        match step {
            Step::Acquire(session) => self
                .work
                .wait_for(async move { or_failed(&ctx, "take the coordinator's lock", acquire(&ctx, session).await) }),
            Step::AskHolder(holder) => self.work.wait_for(async move { ask_holder(&ctx, &holder).await }),
            Step::AwaitReadable(record) => self.work.wait_for(async move {
                until_readable(&ctx, &record).await;
                Event::Readable
            }),
            Step::Create => self.work.wait_for(async move {
                let spec = SessionSpec::new(format!("cutover coordinator {}", ctx.unit));
                let created = ctx.agent.consul.session_create(&spec).await;
                or_failed(&ctx, "create a session to coordinate with", created.map(Event::Created))
            }),
            Step::Destroy(session) => self.work.wait_for(async move { destroy(&ctx, &session).await }),
            Step::DestroyFormer(session) => {
                tracing::info!(unit = %ctx.unit, session = %session.as_str(), "{}: the previous agent of this node was killed while it coordinated; its session is ended now", ctx.unit);
                self.work.wait_for(async move { destroy(&ctx, &session).await });
            }
            Step::EndTerm(leaving) => self.end_term(leaving),
            Step::FindNewer => self.work.wait_for(async move {
                let found = lookup::newer_record(&ctx).await;
                or_failed(&ctx, "look for records of a newer agent", found.map(Event::Checked))
            }),
            Step::Lead(session) => self.lead(session),
            Step::ReadLock => self.work.wait_for(async move {
                let read = ctx.agent.consul.kv_get(&ctx.at.coordinator(), Consistency::Consistent).await;
                or_failed(&ctx, "read the coordinator's lock", read.map(|entry| Event::Read(entry.map(lock))))
            }),
            Step::Release(session) => self.work.wait_for(async move {
                let key = ctx.at.coordinator();
                let free = ctx.agent.consul.kv_release(&key, ctx.agent.node.as_str(), &session);
                // If it fails, the end of the session frees the lock.
                let _free = timeout(GOODBYE, free).await;
                Event::Done
            }),
            Step::Renew(session) => self.renewal.wait_for(async move { renew(&ctx, &session).await }),
            Step::Wait(pause) => self.work.wait_for(async move {
                tokio::time::sleep(pause).await;
                Event::Waited
            }),
            Step::Watch => {
                self.work.drop_call();
                watch.reset();
            }
        }
    }

    fn lead(&mut self, session: SessionId) {
        let ctx = &self.ctx;
        tracing::info!(unit = %ctx.unit, "{}: this agent coordinates", ctx.unit);
        ctx.troubles.has_coordinator();
        ctx.agent.metrics.starts_coordinating(&ctx.unit);
        let lease = Lease::new(&ctx.agent.consul, &ctx.at, session, &ctx.agent.shutdown);
        let task = ctx.agent.tasks.spawn(coordinate(Arc::clone(ctx), lease.clone()));
        self.term = Some(Term { lease, task });
    }

    fn end_term(&mut self, leaving: Leaving) {
        let ctx = Arc::clone(&self.ctx);
        match leaving {
            Leaving::InDoubt => {
                tracing::warn!(unit = %ctx.unit, "{}: this coordinator could not renew its session in time and leaves the lock to others", ctx.unit);
            }
            Leaving::SessionGone => {
                tracing::warn!(unit = %ctx.unit, "{}: this coordinator's session has ended", ctx.unit);
            }
            Leaving::Left => {}
        }
        self.renewal.drop_call();
        let term = self.term.take();
        if let Some(term) = &term {
            term.lease.end();
        }
        self.work.wait_for(async move {
            if let Some(term) = term {
                let _panicked = term.task.await;
            }
            ctx.agent.metrics.stops_coordinating(&ctx.unit);
            tracing::info!(unit = %ctx.unit, "{}: this agent coordinates no longer", ctx.unit);
            Event::TermEnded
        });
    }
}

/// Resolves when the term is over; never without a term.
async fn over(term: Option<&Term>) {
    match term {
        Some(term) => term.lease.over().await,
        None => std::future::pending().await,
    }
}

/// Leads, with the other duties of a coordinator, until the lease is over.
async fn coordinate(ctx: Arc<Context>, lease: Lease) {
    let sweep = ctx.agent.tasks.spawn(sweeping::sweep(Arc::clone(&ctx), lease.clone()));
    let notifications = ctx.agent.tasks.spawn(notifying::notify(Arc::clone(&ctx), lease.clone()));
    leading::lead(&ctx, &lease).await;
    let _was_halted = ctx.troubles.set_halted(None);
    lease.end();
    let _panicked = tokio::join!(sweep, notifications);
}

fn lock(entry: Entry) -> Lock<SessionId> {
    Lock { holder: entry.session, value: entry.value }
}

/// The event of a call to Consul. `call` completes "could not ..." in the log.
fn or_failed(ctx: &Context, call: &str, result: Result<Event<SessionId>, Error>) -> Event<SessionId> {
    result.unwrap_or_else(|error| {
        let is_forbidden = matches!(error, Error::Forbidden { .. });
        let error = chain(&error);
        tracing::warn!(unit = %ctx.unit, error, "{}: this agent could not {call}: {error}", ctx.unit);
        Event::Failed(if is_forbidden { Failure::Forbidden } else { Failure::Unanswered })
    })
}

async fn acquire(ctx: &Context, session: SessionId) -> Result<Event<SessionId>, Error> {
    let value = ctx.agent.node.as_str().as_bytes().to_vec();
    let lock = TxnOp::Lock { key: ctx.at.coordinator(), value, session };
    Ok(match ctx.agent.consul.txn(&[lock], Consistency::Default).await? {
        TxnResult::Applied(_) => Event::Acquired,
        TxnResult::Refused(_) => Event::Refused,
    })
}

async fn ask_holder(ctx: &Context, holder: &SessionId) -> Event<SessionId> {
    match ctx.agent.consul.session_info(holder, Consistency::Consistent).await {
        Ok(info) => Event::HolderIs(info.map(|info| info.node)),
        Err(error) => {
            let error = chain(&error);
            tracing::debug!(unit = %ctx.unit, error, "{}: cannot read which session holds the coordinator's lock: {error}", ctx.unit);
            Event::Failed(Failure::Unanswered)
        }
    }
}

/// Not for longer than [`GOODBYE`]: an agent that ends waits for this, and the session ends by itself too.
async fn destroy(ctx: &Context, session: &SessionId) -> Event<SessionId> {
    match timeout(GOODBYE, ctx.agent.consul.session_destroy(session)).await {
        Ok(destroyed) => or_failed(ctx, "end its coordinator's session", destroyed.map(|()| Event::Done)),
        Err(_) => Event::Done,
    }
}

async fn renew(ctx: &Context, session: &SessionId) -> Event<SessionId> {
    match ctx.agent.consul.session_renew(session).await {
        Ok(true) => Event::Renewed,
        Ok(false) => Event::Gone,
        Err(error) => {
            let error = chain(&error);
            tracing::warn!(unit = %ctx.unit, error, "{}: this coordinator could not renew its session yet: {error}", ctx.unit);
            Event::RenewalFailed
        }
    }
}

/// Waits until this agent can read the record, or the record is gone.
async fn until_readable(ctx: &Context, record: &RecordError) {
    ctx.troubles.meets_newer(record).await;
    let key = record.key();
    // A stale read is enough, because the next attempt reads consistently.
    let mut watch = Watch::key(&ctx.agent.consul, key, Consistency::Stale);
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
