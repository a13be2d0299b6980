//! One unit's owner: the only task that holds its participant.
//!
//! ```text
//!  barrier watch ──┐                       ┌─► work (prepare, switch, discard), one at a time
//!  reads of members, history ──► owner ────┼─► outbox ──► acks/<node>
//!  results of work ┘   │                   └─► presence ──► nodes/<node>, Consul checks
//!                      └─ journal on disk, written before all of these
//! ```
//!
//! Observations arrive as events. Effects run as tasks that report back as events. If the journal cannot be written,
//! the agent ends, because to continue could break a promise (PROTOCOL.md I6, I7).

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::agent::daemon::context::Context;
use crate::agent::daemon::published::OwnerPublishers;
use crate::agent::node::health::Health;
use crate::agent::node::inbox::{Inbox, Input};
use crate::agent::node::logging;
use crate::agent::node::next_look::NextLook;
use crate::agent::node::pruning;
use crate::agent::node::reading;
use crate::agent::node::repairing;
use crate::agent::node::telling;
use crate::agent::node::work;
use crate::backoff::Backoff;
use crate::protocol::ids::Epoch;
use crate::protocol::journal::Journal;
use crate::protocol::participant::{Effect, Effects, Event, Participant};
use crate::protocol::record::{Fetching, NodeRecord, Phase, Timings};
use crate::protocol::shell::describe::{Identity, Problems, Reporter};
use crate::protocol::shell::keep::is_time_to_prune;
use crate::protocol::shell::outbox::Delivery;
use crate::protocol::shell::rebuild::origin_to_store;
use crate::release::{LedgerError, Persisted};

/// The pause after the first failure of the work. Retries help when a full disk is freed or the store is back.
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// The longest such pause.
const LONGEST_RETRY: Duration = Duration::from_mins(1);
/// How long a switch in progress may continue after the agent is told to stop. Less than systemd's stop timeout.
const DRAIN: Duration = Duration::from_secs(30);

pub(crate) struct Owner {
    ctx: Arc<Context>,
    publishers: OwnerPublishers,
    participant: Participant,
    /// The receipt of the last journal write since the agent started. An answer cannot be sent without it.
    receipt: Option<Persisted<Journal>>,
    reporter: Reporter,
    inputs: mpsc::Receiver<Input>,
    sender: mpsc::Sender<Input>,
    deliveries: watch::Sender<Option<Delivery>>,
    /// Halt and handle of the latest work.
    work: Option<(CancellationToken, tokio::task::JoinHandle<()>)>,
    backoff: Backoff,
    /// What the work downloads, as it was told last.
    fetching: Option<Fetching>,
    /// When the current record arrived.
    arrived: Instant,
    /// How long each phase of one epoch took on this node.
    took: (Option<Epoch>, Timings),
    next_look: NextLook,
    /// When the latest switch moved `current`.
    moved: Arc<OnceLock<std::time::Instant>>,
}

impl Owner {
    /// Creates an owner that continues from `journal`, and publishes the journal.
    pub(crate) fn new(
        ctx: Arc<Context>,
        journal: Journal,
        inbox: Inbox,
        publishers: OwnerPublishers,
        deliveries: watch::Sender<Option<Delivery>>,
    ) -> Self {
        let Inbox { sender, inputs } = inbox;
        publishers.journal.send_replace(journal.clone());
        let identity = Identity {
            unit: ctx.unit.clone(),
            node: ctx.agent.node.clone(),
            consul_node: ctx.agent.consul_node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            config_digest: ctx.settings.digest(),
        };
        Self {
            reporter: Reporter::new(identity),
            ctx,
            publishers,
            participant: Participant::new(journal),
            receipt: None,
            inputs,
            sender,
            deliveries,
            work: None,
            backoff: Backoff::new(FIRST_RETRY, LONGEST_RETRY),
            fetching: None,
            arrived: Instant::now(),
            took: (None, Timings::default()),
            next_look: NextLook::default(),
            moved: Arc::default(),
        }
    }

    /// Handles events until shutdown, and then waits until a switch in progress has ended.
    ///
    /// # Errors
    ///
    /// [`LedgerError`]: the journal cannot be written. The agent must end.
    pub(crate) async fn run(mut self) -> Result<(), LedgerError> {
        self.look_and_report().await;
        let shutdown = self.ctx.agent.shutdown.clone();
        let mut troubles = self.ctx.troubles.subscribe();
        loop {
            let input = tokio::select! {
                // Shutdown comes first: work that ends because of it must not be answered as a failure.
                biased;
                () = shutdown.cancelled() => return self.drain().await,
                Some(input) = self.inputs.recv() => input,
                // A halted coordinator shows its reason in its own node's record.
                Ok(()) = troubles.changed() => Input::Look,
                () = self.next_look.is_due() => Input::Look,
            };
            match input {
                Input::Event(event) => {
                    if let Err(error) = self.take(event).await {
                        self.halt_preparing();
                        return Err(error);
                    }
                }
                Input::Fetching(fetching) => {
                    self.fetching = fetching;
                    self.look_and_report().await;
                }
                Input::Ping(pong) => {
                    // The watchdog may have given up waiting.
                    let _late = pong.send(());
                }
                Input::Look => {
                    self.look_and_report().await;
                }
                Input::Prune if is_time_to_prune(&self.participant) => self.prune(),
                // The end of the deploy prunes.
                Input::Prune => {}
                Input::Repair(answer) => {
                    // In the owner, so that no event of a deploy comes between reading the link and switching it.
                    let finding = repairing::repair(&self.ctx, &self.participant).await;
                    self.look_and_report().await;
                    // The asker may have given up.
                    let _late = answer.send(finding);
                }
            }
        }
    }

    async fn describe(&mut self) -> NodeRecord {
        let found = reading::look_at_disk(&self.ctx, self.reporter.look(&self.participant)).await;
        self.next_look.after(&found);
        let trouble = {
            let troubles = self.ctx.troubles.now();
            Problems { newer: troubles.newer(), halted: troubles.halted(), refused: troubles.refused.clone() }
        };
        let record = self.reporter.describe(&self.participant, found, trouble, Timestamp::now());
        NodeRecord { fetching: self.fetching.clone(), ..record }
    }

    fn report(&mut self, record: NodeRecord) {
        reading::report(&self.ctx, self.reporter.last(), &record);
        let health = Health::of(&self.participant, &record);
        reading::measure(&self.ctx, &record, &health);
        self.publishers.health.send_if_modified(|held| {
            let is_new = *held != health;
            *held = health;
            is_new
        });
        if self.reporter.is_changed(&record) {
            self.publishers.record.send_replace(Some(record));
        }
    }

    async fn look_and_report(&mut self) {
        let record = self.describe().await;
        self.report(record);
    }

    /// Halts the work unless it is a switch: a fetch may take long, and an agent that stops has no use for it.
    fn halt_preparing(&self) {
        if let Some((halt, _)) = &self.work
            && !self.participant.is_switching()
        {
            halt.cancel();
        }
    }

    /// Ends the work in progress: preparing at once, a switch when its hooks have ended, or are halted after [`DRAIN`].
    async fn drain(mut self) -> Result<(), LedgerError> {
        self.halt_preparing();
        let Some((halt, mut task)) = self.work.take() else { return Ok(()) };
        let deadline = Instant::now() + DRAIN;
        let mut is_late = false;
        let ended = loop {
            tokio::select! {
                biased;
                Some(input) = self.inputs.recv() => {
                    if let Some(event) = end_of_work(input) {
                        break Some(event);
                    }
                }
                _ = &mut task => {
                    // The result is in the channel by now, unless the work had ended earlier and the result was
                    // handled.
                    break std::iter::from_fn(|| self.inputs.try_recv().ok()).find_map(end_of_work);
                }
                () = tokio::time::sleep_until(deadline), if !is_late => {
                    is_late = true;
                    halt.cancel();
                }
            }
        };
        let Some(event) = ended else { return Ok(()) };
        // The journal records the result, but the agent stops, so no effect of it is begun.
        let origin = reading::origin(&self.ctx.site);
        match self.participant.handle(event, &origin) {
            Ok(effects) => self.store(effects).await.map(|_| ()),
            Err(illegal) => {
                logging::illegal_event(&self.ctx, &illegal);
                Ok(())
            }
        }
    }

    async fn take(&mut self, event: Event) -> Result<(), LedgerError> {
        let before = self.participant.journal().record.clone();
        let alarm = self.participant.alarm();
        self.clock(&event);
        let origin = reading::origin(&self.ctx.site);
        let ended = is_end_of_work(&event);
        if ended {
            self.fetching = None;
        }
        let effects = match self.participant.handle(event, &origin) {
            Ok(effects) => effects,
            Err(illegal) => {
                logging::illegal_event(&self.ctx, &illegal);
                return Ok(());
            }
        };
        let run = self.store(effects).await?;
        let after = self.participant.journal().record.clone();
        if before != after
            && let Some(record) = &after
        {
            self.arrived = Instant::now();
            self.backoff.succeeded();
            logging::phase(&self.ctx, record);
        }
        let is_said = alarm == self.participant.alarm();
        if run.is_empty() && before == after && is_said && !ended {
            return Ok(());
        }
        // The disk is read before new effects begin: the answer carries a node record that includes the finished work.
        let record = self.describe().await;
        for effect in run {
            self.begin(effect, &record);
        }
        // After the answer, which carries the record: reported first, the record would cost a write of its own.
        self.report(record);
        if is_time_to_prune(&self.participant) {
            self.prune();
        }
        Ok(())
    }

    /// Starts to remove old releases.
    fn prune(&self) {
        let (ctx, sender) = (Arc::clone(&self.ctx), self.sender.clone());
        self.ctx.agent.tasks.spawn(async move {
            if pruning::prune(&ctx).await {
                // The owner may have ended already.
                let _gone = sender.send(Input::Look).await;
            }
        });
    }

    /// Writes the journal if it has changed, and returns the effects to run only after that.
    async fn store(&mut self, effects: Effects) -> Result<Vec<Effect>, LedgerError> {
        let ctx = Arc::clone(&self.ctx);
        let journals = self.publishers.journal.clone();
        let mut receipt = self.receipt.take();
        let stored = tokio::task::spawn_blocking(move || {
            let published = effects.publish(&mut receipt, |journal| {
                if let Some(origin) = origin_to_store(&ctx.published.journal.borrow(), journal) {
                    let _persisted = ctx.site.origin_ledger().store(origin)?;
                }
                let persisted = ctx.site.ledger().store(journal)?;
                journals.send_replace(journal.clone());
                Ok(persisted)
            });
            (receipt, published)
        });
        match stored.await {
            Ok((receipt, published)) => {
                self.receipt = receipt;
                published
            }
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }

    /// Notes how long the phase took. The next answer contains it.
    fn clock(&mut self, event: &Event) {
        let Some(record) = &self.participant.journal().record else { return };
        if self.took.0 != Some(record.epoch) {
            self.took = (Some(record.epoch), Timings::default());
        }
        let since = |at: Instant| u64::try_from(at.duration_since(self.arrived).as_millis()).ok();
        let ms = since(Instant::now());
        match (event, record.phase) {
            (Event::PrepareEnded { .. }, Phase::Prepare) => self.took.1.prepare_ms = ms,
            (Event::SwitchEnded { .. }, Phase::Commit) => {
                self.took.1.link_ms = self.moved.get().and_then(|at| since(Instant::from_std(*at)));
                self.took.1.switch_ms = ms;
            }
            (Event::SwitchEnded { .. }, Phase::Revert) => self.took.1.revert_ms = ms,
            (_, _) => {}
        }
    }

    fn begin(&mut self, effect: Effect, record: &NodeRecord) {
        match effect {
            Effect::Acknowledge(given) => {
                let took = if self.took.0 == Some(given.epoch) { self.took.1 } else { Timings::default() };
                let delivery = Delivery::new(given, took, Timestamp::now(), record.clone());
                self.deliveries.send_replace(Some(delivery));
            }
            Effect::Prepare { release, from } => {
                let (ctx, owner) = (Arc::clone(&self.ctx), self.sender.clone());
                self.work(move |halt| async move {
                    let artifacts: Vec<_> = from.iter().chain([&release]).map(|it| it.artifact.clone()).collect();
                    let result = tokio::select! {
                        result = work::prepare(&ctx, &release, from.as_ref(), &halt) => result,
                        never = telling::tell(&ctx, release.epoch, &artifacts, &owner) => match never {},
                    };
                    logging::prepare_ended(&ctx, &result);
                    Event::PrepareEnded { epoch: release.epoch, result }
                });
            }
            Effect::Switch { to, way } => {
                let ctx = Arc::clone(&self.ctx);
                let origin = self.participant.journal().origin.clone();
                self.moved = Arc::default();
                let moved = Arc::clone(&self.moved);
                self.work(move |halt| async move {
                    let result = work::switch(&ctx, &to, way, origin.as_ref(), &moved, &halt).await;
                    logging::switch_ended(&ctx, &to, &result);
                    Event::SwitchEnded { to, result }
                });
            }
            Effect::Discard { release } => {
                let ctx = Arc::clone(&self.ctx);
                self.work(move |_| async move {
                    pruning::discard(&ctx, &release).await;
                    Event::Discarded { epoch: release.epoch }
                });
            }
            Effect::HaltPrepare | Effect::HaltSwitch => {
                if let Some((halt, _)) = &self.work {
                    halt.cancel();
                }
            }
            Effect::ReadMembers { epoch } => {
                let ctx = Arc::clone(&self.ctx);
                self.read(async move { reading::members(&ctx, epoch).await });
            }
            Effect::ReadHistory { epoch } => {
                let ctx = Arc::clone(&self.ctx);
                self.read(async move { reading::history(&ctx, epoch).await });
            }
            Effect::RetryLater => {
                let pause = self.backoff.pause(fastrand::f64());
                self.read(async move {
                    tokio::time::sleep(pause).await;
                    Event::Retry
                });
            }
        }
    }

    /// Starts work that changes the disk. Only one such work runs at a time.
    fn work<F: Future<Output = Event> + Send + 'static>(&mut self, work: impl FnOnce(CancellationToken) -> F) {
        let halt = CancellationToken::new();
        let (done, sender) = (work(halt.clone()), self.sender.clone());
        let task = self.ctx.agent.tasks.spawn(async move {
            let event = done.await;
            // The owner may have ended already.
            let _gone = sender.send(Input::Event(event)).await;
        });
        self.work = Some((halt, task));
    }

    /// Starts a task that changes nothing and ends in an event. Shutdown drops it.
    fn read(&self, reading: impl Future<Output = Event> + Send + 'static) {
        let (sender, shutdown) = (self.sender.clone(), self.ctx.agent.shutdown.clone());
        self.ctx.agent.tasks.spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                event = reading => {
                    let _gone = sender.send(Input::Event(event)).await;
                }
            }
        });
    }
}

fn is_end_of_work(event: &Event) -> bool {
    matches!(event, Event::SwitchEnded { .. } | Event::PrepareEnded { .. } | Event::Discarded { .. })
}

/// The event, if it is the end of work.
fn end_of_work(input: Input) -> Option<Event> {
    match input {
        Input::Event(event) if is_end_of_work(&event) => Some(event),
        Input::Event(_) | Input::Fetching(_) | Input::Ping(_) | Input::Look | Input::Prune | Input::Repair(_) => None,
    }
}
