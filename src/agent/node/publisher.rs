//! Writes the node's answer and its record into Consul, and keeps its session. [`Publisher`] takes every decision; this
//! module only carries out its steps.
//!
//! `src/agent/daemon` starts it. Answers and records arrive through watch channels, so only the newest one is written.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::agent::daemon::context::Context;
use crate::agent::lane::Lane;
use crate::agent::node::current_troubles::Need;
use crate::consul::{Consistency, Entry, Error, SessionId, SessionSpec, TxnOp, TxnResult};
use crate::document::step_words;
use crate::kind::HasKind;
use crate::protocol::ids::ModifyIndex;
use crate::protocol::record::{Answer, NodeRecord};
use crate::protocol::shell::outbox::{self, Delivery, Outcome};
use crate::protocol::shell::presence::{self, Trust};
use crate::protocol::shell::publisher::{Event, Publisher, Step};
use crate::protocol::shell::{Found, Key, Moment, Op};
use crate::telemetry::chain;

/// Another live agent uses this node's name.
#[derive(Debug, thiserror::Error)]
#[error(
    "another agent is alive as node {node} of {unit}, on Consul node {holder}: give one of them another `node` name \
     in its settings, or stop it"
)]
pub(crate) struct TakenError {
    node: String,
    unit: String,
    holder: String,
}

impl HasKind for TakenError {
    fn kind(&self) -> &'static str {
        "taken_error"
    }
}

/// The values that the publisher writes into Consul, and whether it may write.
struct Sources {
    deliveries: watch::Receiver<Option<Delivery>>,
    records: watch::Receiver<Option<NodeRecord>>,
    trust: watch::Receiver<Trust>,
}

/// Publishes until shutdown.
///
/// # Errors
///
/// [`TakenError`]: this agent must stop.
pub(crate) async fn publish(
    ctx: Arc<Context>,
    deliveries: watch::Receiver<Option<Delivery>>,
    session: watch::Sender<Option<SessionId>>,
) -> Result<(), TakenError> {
    let published = ctx.published.clone();
    let mut sources = Sources { deliveries, records: published.record, trust: published.trust };
    let began = Instant::now();
    let machine = Publisher::new(ctx.agent.consul_node.clone(), remembered(&ctx).await, moment(began));
    let mut driver = Driver { ctx, session, began, machine, outbox: Lane::idle(), presence: Lane::idle() };
    let mut event = Event::Presence(presence::Event::Waited);
    loop {
        driver.handle(event).await?;
        event = match driver.next(&mut sources).await {
            Some(event) => event,
            None => return Ok(()),
        };
    }
}

fn moment(began: Instant) -> Moment {
    Moment { since_start: began.elapsed(), chance: fastrand::f64() }
}

struct Driver {
    ctx: Arc<Context>,
    session: watch::Sender<Option<SessionId>>,
    began: Instant,
    machine: Publisher<SessionId>,
    outbox: Lane<outbox::Event<SessionId>>,
    presence: Lane<presence::Event<SessionId>>,
}

impl Driver {
    /// The next event; none at shutdown.
    async fn next(&mut self, sources: &mut Sources) -> Option<Event<SessionId>> {
        let Sources { deliveries, records, trust } = sources;
        loop {
            let event = tokio::select! {
                () = self.ctx.agent.shutdown.cancelled() => return None,
                Ok(()) = deliveries.changed() => {
                    let delivery = deliveries.borrow_and_update().clone().map(Box::new);
                    delivery.map(|delivery| Event::Outbox(outbox::Event::Deliver(delivery)))
                }
                Ok(()) = records.changed() => {
                    let record = records.borrow_and_update().clone().map(Box::new);
                    record.map(|record| Event::Presence(presence::Event::Record(record)))
                }
                Ok(()) = trust.changed() => Some(Event::Presence(presence::Event::Trust(*trust.borrow_and_update()))),
                event = self.outbox.next() => Some(Event::Outbox(event)),
                event = self.presence.next() => Some(Event::Presence(event)),
            };
            if event.is_some() {
                return event;
            }
        }
    }

    async fn handle(&mut self, event: Event<SessionId>) -> Result<(), TakenError> {
        for step in self.machine.on(moment(self.began), event) {
            match step {
                Step::Outbox(step) => self.deliver(step).await,
                Step::Presence(step) => self.attend(step).await?,
                Step::Session(session) => {
                    self.session.send_replace(session);
                }
            }
        }
        Ok(())
    }

    async fn deliver(&mut self, step: outbox::Step<SessionId>) {
        let ctx = Arc::clone(&self.ctx);
        match step {
            outbox::Step::Drop => self.outbox.drop_call(),
            outbox::Step::Ended(outcome, delivery) => tell_end(&ctx, outcome, &delivery),
            outbox::Step::NotYet(reason, delivery) => {
                let (unit, epoch) = (&ctx.unit, delivery.ack().epoch);
                tracing::warn!(%unit, %epoch, reason, "{unit}: {} cannot write its answer to deploy #{epoch} yet and retries: {reason}", ctx.agent.node);
            }
            outbox::Step::Read(key) => self.outbox.wait_for(async move {
                match read(&ctx, key, Consistency::Consistent).await {
                    Ok(found) => outbox::Event::Read(found),
                    Err(error) => outbox::Event::Failed(chain(&error)),
                }
            }),
            outbox::Step::Newer(error) => ctx.troubles.meets_newer(&error).await,
            outbox::Step::Readable(key) => ctx.troubles.reads_again(&key),
            // `Publisher` has already passed this on to presence.
            outbox::Step::SessionLost => {}
            outbox::Step::Wait(pause) => self.outbox.wait_for(async move {
                tokio::time::sleep(pause).await;
                outbox::Event::Waited
            }),
            outbox::Step::Write(ops) => self.outbox.wait_for(async move {
                match write(&ctx, ops).await {
                    Ok(TxnResult::Applied(entries)) => {
                        let index = entries.iter().map(|entry| entry.modify_index).max();
                        outbox::Event::Applied(index.unwrap_or(ModifyIndex(0)))
                    }
                    Ok(TxnResult::Refused(refusals)) => {
                        tracing::debug!(unit = %ctx.unit, ?refusals, "{}: Consul refused to write the answer of {}", ctx.unit, ctx.agent.node);
                        outbox::Event::Refused(refusals.iter().map(|refusal| refusal.op_index).collect())
                    }
                    Err(error) => outbox::Event::Failed(chain(&error)),
                }
            }),
        }
    }

    async fn attend(&mut self, step: presence::Step<SessionId>) -> Result<(), TakenError> {
        use presence::Event as Told;
        let ctx = Arc::clone(&self.ctx);
        let failed = |error: &Error| Told::Failed(chain(error));
        match step {
            presence::Step::AskHolder(holder) => self.presence.wait_for(async move {
                let info = ctx.agent.consul.session_info(&holder, Consistency::Consistent).await;
                info.map_or_else(|error| failed(&error), |info| Told::HolderIs(info.map(|info| info.node)))
            }),
            presence::Step::Create => self.presence.wait_for(async move {
                let spec = SessionSpec::new(format!("cutover {} {}", ctx.unit, ctx.agent.node));
                ctx.agent.consul.session_create(&spec).await.map_or_else(|error| failed(&error), Told::Created)
            }),
            presence::Step::Destroy(holder) => self.presence.wait_for(async move {
                tracing::info!(unit = %ctx.unit, session = %holder, "{}: {} ends the session of its previous agent", ctx.unit, ctx.agent.node);
                ctx.agent.consul.session_destroy(&holder).await.map_or_else(|error| failed(&error), |()| Told::Done)
            }),
            presence::Step::Keep(session) => keep(&ctx, &session).await,
            presence::Step::Look(key) => self.presence.wait_for(async move {
                read(&ctx, key, Consistency::Default).await.map_or_else(|error| failed(&error), Told::Read)
            }),
            presence::Step::NotWritten(reason) => {
                let unit = &ctx.unit;
                tracing::warn!(%unit, reason, "{unit}: {} cannot write its node record: {reason}", ctx.agent.node);
            }
            presence::Step::Read(key) => self.presence.wait_for(async move {
                read(&ctx, key, Consistency::Consistent).await.map_or_else(|error| failed(&error), Told::Read)
            }),
            presence::Step::Renew(session) => self.presence.wait_for(async move {
                match ctx.agent.consul.session_renew(&session).await {
                    Ok(true) => Told::Done,
                    Ok(false) => Told::Gone,
                    Err(error) => failed(&error),
                }
            }),
            presence::Step::SessionKept => ctx.troubles.has_consul(Need::Session),
            presence::Step::SessionNotKept(reason) => {
                let unit = &ctx.unit;
                tracing::warn!(%unit, reason, "{unit}: {} cannot keep its session: {reason}", ctx.agent.node);
                ctx.troubles.lacks_consul(Need::Session, format!("Consul does not keep this node's session: {reason}"));
            }
            presence::Step::Taken(holder) => {
                return Err(TakenError { node: ctx.agent.node.to_string(), unit: ctx.unit.to_string(), holder });
            }
            presence::Step::Wait(pause) => self.presence.wait_for(async move {
                tokio::time::sleep(pause).await;
                Told::Waited
            }),
            presence::Step::Write(ops) => self.presence.wait_for(async move {
                match write(&ctx, ops).await {
                    Ok(TxnResult::Applied(_)) => Told::Applied,
                    Ok(TxnResult::Refused(refusals)) => {
                        tracing::info!(unit = %ctx.unit, ?refusals, "{}: the session of {} has ended", ctx.unit, ctx.agent.node);
                        Told::Refused
                    }
                    Err(error) => failed(&error),
                }
            }),
        }
        Ok(())
    }
}

fn tell_end(ctx: &Context, outcome: Outcome, delivery: &Delivery) {
    let (unit, ack) = (&ctx.unit, delivery.ack());
    let (epoch, answer) = (ack.epoch, ack.answer);
    match outcome {
        Outcome::Delivered | Outcome::FoundWritten => {
            let fault = ack
                .fault
                .as_ref()
                .map(|fault| format!(": {}: {}", step_words(fault.step), fault.reason))
                .unwrap_or_default();
            tracing::info!(%unit, %epoch, ?answer, "{unit}: deploy #{epoch}: {} {}{fault}", ctx.agent.node, words(answer));
        }
        Outcome::Fenced => {
            tracing::info!(%unit, %epoch, ?answer, "{unit}: deploy #{epoch} has moved on, so {} does not report that it {}", ctx.agent.node, words(answer));
        }
        Outcome::PromiseKept => {
            tracing::warn!(%unit, %epoch, fault = ?ack.fault, "{unit}: deploy #{epoch}: {} keeps its promise to follow, although it could not prepare again", ctx.agent.node);
        }
    }
}

const fn words(answer: Answer) -> &'static str {
    match answer {
        Answer::Prepared => "has prepared",
        Answer::Refused => "could not prepare",
        Answer::Switched => "has switched",
        Answer::Failed => "could not switch",
        Answer::Reverted => "has reverted",
        Answer::Stuck => "could not revert",
    }
}

async fn read(ctx: &Context, key: Key, consistency: Consistency) -> Result<Option<Found<SessionId>>, Error> {
    let found = |Entry { key, modify_index: index, value, session: holder, .. }| Found { key, index, value, holder };
    Ok(ctx.agent.consul.kv_get(&key.of(&ctx.at, &ctx.agent.node), consistency).await?.map(found))
}

async fn write(ctx: &Context, ops: Vec<Op<SessionId>>) -> Result<TxnResult, Error> {
    let key = |key: Key| key.of(&ctx.at, &ctx.agent.node);
    let op = |op| match op {
        Op::Cas { key: at, index, value } => TxnOp::Cas { key: key(at), value: value.into_bytes(), index },
        Op::CheckIndex { key: at, index } => TxnOp::CheckIndex { key: key(at), index },
        Op::CheckHolder { key: at, session } => TxnOp::CheckSession { key: key(at), session },
        Op::Lock { key: at, session, value } => TxnOp::Lock { key: key(at), value: value.into_bytes(), session },
        Op::Set { key: at, value } => TxnOp::Set { key: key(at), value: value.into_bytes() },
    };
    let ops: Vec<TxnOp> = ops.into_iter().map(op).collect();
    ctx.agent.consul.txn(&ops, Consistency::Default).await
}

fn session_file(ctx: &Context) -> std::path::PathBuf {
    ctx.settings.deploy_to.join(".cutover/session")
}

/// The session id that this agent saved before its last restart. A text that cannot be an id is ignored.
async fn remembered(ctx: &Context) -> Option<SessionId> {
    let text = tokio::fs::read_to_string(session_file(ctx)).await.ok()?;
    let id = text.trim();
    (!id.is_empty() && id.len() <= 64 && id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-'))
        .then(|| SessionId::new(id))
}

async fn keep(ctx: &Context, session: &SessionId) {
    let (unit, file) = (&ctx.unit, session_file(ctx));
    tracing::info!(%unit, %session, "{unit}: {} has started the session {session}", ctx.agent.node);
    if let Err(error) = tokio::fs::write(&file, session.as_str()).await {
        // Without the file, an agent that restarts within the session's TTL does not recognize its own session.
        let file = file.display();
        tracing::warn!(%unit, %file, %error, "{unit}: {} cannot save its session id to {file}: {error}", ctx.agent.node);
    }
}
