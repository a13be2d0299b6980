//! Starts one unit: its owner task, and the tasks around it.
//!
//! ```text
//! Agent + UnitParts ──► Context (for every task), Publishers (each end for one task)
//! start ──► checks ──► journal is readable? ── yes ──► begin: owner, following, publisher, prefetch, candidate, …
//!                                          └── newer agent's file ──► wait, look again
//! ```

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};

use crate::agent::answering;
use crate::agent::coordinator::candidate;
use crate::agent::coordinator::missing_coordinator;
use crate::agent::daemon::OpenStore;
use crate::agent::daemon::bells::Bells;
use crate::agent::daemon::context::{Agent, Context};
use crate::agent::daemon::error::AgentError;
use crate::agent::daemon::published::Publishers;
use crate::agent::node::accepted::Accepted;
use crate::agent::node::checks;
use crate::agent::node::following;
use crate::agent::node::health::Health;
use crate::agent::node::inbox::{Inbox, Input};
use crate::agent::node::prefetch;
use crate::agent::node::publisher;
use crate::agent::node::rebuild;
use crate::agent::node::removing_again;
use crate::agent::node::stager::Stager;
use crate::agent::node::troubles::Troubles;
use crate::agent::node::unit::Owner;
use crate::config::UnitSettings;
use crate::kind::HasKind;
use crate::protocol::ids::Unit;
use crate::protocol::journal::Journal;
use crate::protocol::record::RecordError;
use crate::release::{LedgerError, Site};

/// How often the agent tries again to read a journal that a newer agent wrote.
const LOOK_AT_JOURNAL_EVERY: Duration = Duration::from_secs(2);

pub(super) struct UnitParts {
    pub(super) unit: Unit,
    pub(super) settings: UnitSettings,
    pub(super) site: Arc<Site>,
    /// All units of an app share one.
    pub(super) stager: Arc<Stager>,
    pub(super) store: OpenStore,
}

/// Creates the context of a unit, and the sending ends of the values that its tasks publish.
pub(super) fn context(agent: &Arc<Agent>, parts: UnitParts) -> (Arc<Context>, Publishers) {
    let UnitParts { unit, settings, site, stager, store } = parts;
    let publishers = Publishers::default();
    let at = agent.keys.unit(&unit);
    let context = Context {
        agent: Arc::clone(agent),
        settings,
        site,
        stager,
        store: store.store,
        sweep_every: store.sweep_every,
        bells: Bells::default(),
        published: publishers.subscribe(),
        troubles: Troubles::new(unit.clone(), at.clone(), agent.consul.clone()),
        disk: tokio::sync::Mutex::new(()),
        gave_way: Notify::new(),
        accepted: Accepted::default(),
        at,
        unit,
    };
    let context = Arc::new(context);
    agent.neighbours.add(&context);
    (context, publishers)
}

/// Starts a unit, and returns the sender to its owner. If a newer agent wrote the journal or a release record, the unit
/// starts only when that file is gone or readable.
///
/// # Errors
///
/// [`AgentError::Ledger`]: the journal cannot be read or written.
pub(super) async fn start(
    ctx: &Arc<Context>,
    publishers: Publishers,
    fatal: &mpsc::Sender<AgentError>,
) -> Result<mpsc::Sender<Input>, AgentError> {
    let inbox = Inbox::new();
    let sender = inbox.sender.clone();
    ctx.agent.tasks.spawn(checks::keep(Arc::clone(ctx)));
    match rebuild::journal(ctx).await {
        Ok(journal) => begin(ctx, publishers, fatal, journal, inbox),
        Err(LedgerError::Newer(newer)) => {
            ctx.agent.tasks.spawn(begin_later(Arc::clone(ctx), publishers, fatal.clone(), newer, inbox));
        }
        Err(source) => return Err(AgentError::Ledger { unit: ctx.unit.clone(), source }),
    }
    Ok(sender)
}

/// Leaves the unit as it runs while a newer agent's file is there, and starts it afterwards. Until then the node has no
/// session and no record below `nodes/`, so no deploy counts it as a member.
async fn begin_later(
    ctx: Arc<Context>,
    publishers: Publishers,
    fatal: mpsc::Sender<AgentError>,
    mut newer: RecordError,
    mut inbox: Inbox,
) {
    loop {
        ctx.troubles.meets_newer(&newer).await;
        let reason = ctx.troubles.now().newer().unwrap_or_default();
        publishers.owner.health.send_replace(Health::left_alone(reason));
        let look = tokio::time::Instant::now() + LOOK_AT_JOURNAL_EVERY;
        loop {
            tokio::select! {
                () = ctx.agent.shutdown.cancelled() => return,
                () = tokio::time::sleep_until(look) => break,
                // Only pings arrive here: the tasks that send other inputs start together with the owner.
                Some(input) = inbox.inputs.recv() => if let Input::Ping(pong) = input {
                    // The watchdog may have given up waiting.
                    let _late = pong.send(());
                },
            }
        }
        let found = match rebuild::journal(&ctx).await {
            Ok(journal) => {
                ctx.troubles.reads_again(newer.key());
                return begin(&ctx, publishers, &fatal, journal, inbox);
            }
            Err(LedgerError::Newer(found)) => found,
            Err(source) => {
                // The channel is full if another fatal error was reported first; one is enough to end the agent.
                let _full = fatal.try_send(AgentError::Ledger { unit: ctx.unit.clone(), source });
                return;
            }
        };
        if found.key() != newer.key() {
            ctx.troubles.reads_again(newer.key());
        }
        newer = found;
    }
}

/// Starts a unit's owner and the tasks around it.
fn begin(ctx: &Arc<Context>, publishers: Publishers, fatal: &mpsc::Sender<AgentError>, journal: Journal, inbox: Inbox) {
    let Publishers { owner, trust, session } = publishers;
    let sender = inbox.sender.clone();
    let (deliveries, acknowledgements) = watch::channel(None);
    // The owner comes first: it publishes the journal that the other tasks start from.
    let owner = Owner::new(Arc::clone(ctx), journal, inbox, owner, deliveries);
    let tasks = &ctx.agent.tasks;
    tasks.spawn(following::follow(Arc::clone(ctx), sender.clone(), trust));
    tasks.spawn(prefetch::follow(Arc::clone(ctx), sender.clone()));
    tasks.spawn(removing_again::follow(Arc::clone(ctx), sender.clone()));
    tasks.spawn(answering::answer(Arc::clone(ctx), sender));
    if ctx.settings.coordinate {
        tasks.spawn(candidate::run(Arc::clone(ctx)));
    } else {
        tasks.spawn(candidate::observe(Arc::clone(ctx)));
    }
    tasks.spawn(missing_coordinator::watch(Arc::clone(ctx)));
    let (of_publisher, report) = (Arc::clone(ctx), fatal.clone());
    tasks.spawn(async move {
        let unit = of_publisher.unit.clone();
        if let Err(taken) = publisher::publish(of_publisher, acknowledgements, session).await {
            tracing::error!(%unit, kind = taken.kind(), "{unit}: {taken}");
            // The channel is full if another fatal error was reported first; one is enough to end the agent.
            let _full = report.try_send(AgentError::Taken(taken));
        }
    });
    let (unit, report) = (ctx.unit.clone(), fatal.clone());
    let owner = tasks.spawn(owner.run());
    tasks.spawn(async move {
        // Without this the agent would renew its session while nothing follows the barrier.
        let _full = match owner.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(source)) => report.try_send(AgentError::Ledger { unit, source }),
            Err(panicked) => report.try_send(AgentError::Broken { unit, source: panicked }),
        };
    });
}
