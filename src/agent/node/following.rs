//! Reads and watches `barrier` for the unit's owner. [`Follower`] takes every decision; this module only reads.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::agent::daemon::context::Context;
use crate::agent::lane::Lane;
use crate::agent::node::current_troubles::Need;
use crate::agent::node::inbox::Input;
use crate::agent::node::rebuild;
use crate::consul::{Change, Consistency, Entry, Error, Read, Watch};
use crate::protocol::shell::Moment;
use crate::protocol::shell::follow::{BarrierRead, Event, FirstRead, Follower, KeyRead, Step};
use crate::protocol::shell::presence::Trust;
use crate::protocol::shell::rebuild::known_epoch;
use crate::telemetry::chain;

/// The owner task has ended, so events have no receiver.
struct Gone;

/// Follows until shutdown.
pub(crate) async fn follow(ctx: Arc<Context>, sender: mpsc::Sender<Input>, trust: watch::Sender<Trust>) {
    let held = ctx.published.journal.borrow().record.clone();
    let mut machine = Follower::new(ctx.agent.node.clone(), ctx.at.barrier(), held);
    let steps = machine.begin();
    let shutdown = ctx.agent.shutdown.clone();
    let driver = Driver { ctx, sender, trust, machine, began: Instant::now(), watch: None, lane: Lane::idle() };
    tokio::select! {
        () = shutdown.cancelled() => {}
        Err(Gone) = driver.run(steps) => {}
    }
}

struct Driver {
    ctx: Arc<Context>,
    sender: mpsc::Sender<Input>,
    trust: watch::Sender<Trust>,
    machine: Follower,
    began: Instant,
    watch: Option<Watch<Option<Entry>>>,
    lane: Lane<Event>,
}

impl Driver {
    async fn run(mut self, steps: Vec<Step>) -> Result<(), Gone> {
        let mut steps = steps;
        loop {
            for step in steps {
                self.carry_out(step).await?;
            }
            let event = tokio::select! {
                event = watched(&mut self.watch) => event,
                event = self.lane.next() => event,
            };
            let moment = Moment { since_start: self.began.elapsed(), chance: fastrand::f64() };
            steps = self.machine.on(moment, event);
        }
    }

    async fn carry_out(&mut self, step: Step) -> Result<(), Gone> {
        let ctx = Arc::clone(&self.ctx);
        match step {
            Step::Newer(error) => ctx.troubles.meets_newer(&error).await,
            Step::Readable(key) => ctx.troubles.reads_again(&key),
            Step::Read => self.lane.wait_for(async move {
                match ctx.agent.consul.kv_get(&ctx.at.barrier(), Consistency::Consistent).await {
                    Ok(entry) => Event::Read(entry.map(seen)),
                    Err(error) => Event::Failed(chain(&error)),
                }
            }),
            Step::ReadFirst => self.lane.wait_for(async move {
                match read_first(&ctx).await {
                    Ok(first) => Event::First(Box::new(first)),
                    Err(error) => Event::Failed(chain(&error)),
                }
            }),
            Step::ReadSucceeded => ctx.troubles.has_consul(Need::Barrier),
            Step::ReadFailed(reason) => {
                let unit = &ctx.unit;
                tracing::warn!(%unit, reason, "{unit}: {} cannot read the barrier, so the running release is left alone: {reason}", ctx.agent.node);
                ctx.troubles.lacks_consul(Need::Barrier, format!("Consul does not return the key barrier: {reason}"));
            }
            Step::Tell(event) => self.sender.send(Input::Event(event)).await.map_err(|_| Gone)?,
            Step::Trust(trust) => {
                self.trust.send_replace(trust);
            }
            Step::Wait(pause) => self.lane.wait_for(async move {
                tokio::time::sleep(pause).await;
                Event::Waited
            }),
            Step::Watch => {
                // The first read succeeded, so no record below these prefixes has a newer format any more.
                ctx.troubles.reads_again_below(&ctx.at.nodes());
                ctx.troubles.reads_again_below(&ctx.at.acks());
                // Stale: any server answers, and the participant's floor makes a late record harmless.
                let watch = Watch::key(&ctx.agent.consul, ctx.at.barrier(), Consistency::Stale);
                ctx.bells.hang(watch.waker());
                self.watch = Some(watch);
            }
        }
        Ok(())
    }
}

async fn watched(watch: &mut Option<Watch<Option<Entry>>>) -> Event {
    match watch {
        Some(watch) => match watch.next().await {
            Change::Seen(entry) => Event::Watched(entry.map(seen)),
            Change::Failed(error) => Event::WatchFailed(chain(&error)),
        },
        None => std::future::pending().await,
    }
}

fn seen(entry: Entry) -> BarrierRead {
    BarrierRead { index: entry.modify_index, value: entry.value }
}

async fn read_first(ctx: &Context) -> Result<FirstRead, Error> {
    let at = &ctx.at;
    let reads = [Read::Key(at.barrier()), Read::Key(at.ack(&ctx.agent.node)), Read::Prefix(at.nodes())];
    let keys = ctx.agent.consul.snapshot(&reads, Consistency::Consistent).await?;
    let site = Arc::clone(&ctx.site);
    let made = tokio::task::spawn_blocking(move || rebuild::made(&site)).await.unwrap_or_default();
    let kept = |entry: &Entry| KeyRead {
        key: entry.key.clone(),
        value: entry.value.clone(),
        is_held: entry.session.is_some(),
    };
    Ok(FirstRead {
        barrier: keys.key(&at.barrier()).cloned().map(seen),
        own_ack: keys.key(&at.ack(&ctx.agent.node)).map(kept),
        nodes: keys.under(&at.nodes()).map(kept).collect(),
        on_disk: known_epoch(&made),
    })
}
