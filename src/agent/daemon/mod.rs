//! Starts and stops the agent: one owner task per unit, what feeds it, the HTTP API, and systemd's messages.
//!
//! SIGTERM and SIGINT end everything in order. A switch that has begun is waited for.

pub(crate) mod context;
pub(crate) mod host;
pub(crate) mod systemd;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::agent::answering;
use crate::agent::coordinator::candidate;
use crate::agent::coordinator::gap;
use crate::agent::daemon::context::{Context, GOODBYE};
use crate::agent::node::checks;
use crate::agent::node::following;
use crate::agent::node::health;
use crate::agent::node::outlook;
use crate::agent::node::prefetch;
use crate::agent::node::publisher;
use crate::agent::node::rebuild;
use crate::agent::node::stager::Stager;
use crate::agent::node::unit::{INPUTS, Input, Owner};
use crate::api::stream::Hub;
use crate::api::{self, Api, Listener, Parts};
use crate::artifact::store::{Limits, S3Settings, Store, StoreError, StoreUrl, StoreUrlError};
use crate::chat::Chat;
use crate::config::{SecretFile, Settings, StoreSection, UnitSettings};
use crate::consul::Client;
use crate::kind::HasKind;
use crate::metrics::Metrics;
use crate::notify::Notifier;
use crate::protocol::ids::{App, Node, Unit};
use crate::protocol::journal::Journal;
use crate::protocol::keys::Keys;
use crate::protocol::participant::Participant;
use crate::protocol::record::RecordError;
use crate::protocol::shell::presence::Trust;
use crate::release::{LedgerError, Site, SiteError};
use crate::telemetry::chain;

/// "File size limit exceeded", signal(7).
const SIGXFSZ: i32 = 25;
/// How long Consul is asked for this node's name before the next try.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why an agent could not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentError {
    /// HTTP.
    #[error(transparent)]
    Listen(#[from] api::ListenError),
    /// A signal handler could not be set.
    #[error("signals cannot be handled")]
    Signals(#[source] std::io::Error),
    /// A unit's place on the disk.
    #[error("{unit} cannot be served from its deploy_to")]
    Site {
        unit: Unit,
        #[source]
        source: SiteError,
    },
    /// The store's URL.
    #[error("[store] url cannot be used")]
    StoreUrl(#[source] StoreUrlError),
    #[error("the settings have no [store]: name the place that publish uploads to, as url = \"s3://bucket/prefix\"")]
    NoStore,
    /// The artifact store's settings.
    #[error("the artifact store cannot be used")]
    Store(#[source] StoreError),
    /// The Consul agent's node name is no name for Cutover.
    #[error("the Consul agent's node name cannot be a node's name here; set `node` in the settings")]
    Node(#[source] crate::protocol::ids::InvalidName),
    /// The journal could not be written.
    #[error("{unit} cannot keep its promises: its journal cannot be written")]
    Ledger {
        unit: Unit,
        #[source]
        source: LedgerError,
    },
    /// A unit's owner has panicked: a bug.
    #[error("{unit} is followed no longer: the agent has a bug")]
    Broken {
        unit: Unit,
        #[source]
        source: tokio::task::JoinError,
    },
    /// Another agent lives under this node's name.
    #[error("{0}")]
    Taken(String),
}

impl HasKind for AgentError {
    fn kind(&self) -> &'static str {
        match self {
            Self::Listen(_) => "listen",
            Self::Signals(_) => "signals",
            Self::Site { .. } => "site",
            Self::StoreUrl(_) => "store_url",
            Self::NoStore => "no_store",
            Self::Store(_) => "store",
            Self::Node(_) => "node",
            Self::Ledger { .. } => "ledger",
            Self::Broken { .. } => "broken",
            Self::Taken(_) => "taken",
        }
    }
}

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
///
/// [`AgentError`]: it could not start, or must not go on. Consul or the store being away is neither.
///
/// # Cancel safety
///
/// Dropped, everything stops where it is, as after a kill; the next start goes on from the journal.
pub(crate) async fn run(settings: Settings, consul: Client) -> Result<(), AgentError> {
    let shutdown = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).map_err(AgentError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(AgentError::Signals)?;
    // A file beyond the user's size limit is to be an error of the write, and not the end of the agent: with a
    // listener the signal no longer kills.
    let _file_too_large = signal(SignalKind::from_raw(SIGXFSZ)).map_err(AgentError::Signals)?;
    let metrics = Arc::new(Metrics::default());
    let consul = consul.observed_by(Arc::<Metrics>::clone(&metrics));
    let listener = Listener::bind(&settings.api).await?;
    let store = store(&settings).await?;
    let tasks = TaskTracker::new();
    let notifier = Arc::new(Notifier::new(&settings));
    let secret_files: Arc<[SecretFile]> = settings.secret_files().into();
    let stopped = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    tokio::pin!(stopped);
    // Sites are opened, and locked, before anything is registered: a second agent ends here.
    let mut sites = Vec::new();
    for (unit, unit_settings) in &settings.units {
        let site =
            Site::open(&unit_settings.deploy_to).map_err(|source| AgentError::Site { unit: unit.clone(), source })?;
        sites.push((unit.clone(), unit_settings.clone(), Arc::new(site)));
    }
    let named = tokio::select! {
        () = &mut stopped => return Ok(()),
        named = name(&settings, &consul) => named,
    };
    let (node, consul_node) = named?;
    let mut stagers: BTreeMap<App, Arc<Stager>> = BTreeMap::new();
    let mut units: Vec<Arc<Context>> = Vec::new();
    let (fatal, mut fatals) = mpsc::channel::<AgentError>(1);
    let mut owners = Vec::new();
    for (unit, unit_settings, site) in sites {
        let (store, sweep_every) = store.clone().ok_or(AgentError::NoStore)?;
        let stager = stagers
            .entry(unit.app.clone())
            .or_insert_with(|| Arc::new(Stager::new(store.clone(), &settings.cache, unit.app.clone())));
        let ctx = context(
            (node.clone(), consul_node.clone()),
            (unit, unit_settings),
            Keys::new(&settings.consul.prefix),
            (consul.clone(), Arc::clone(stager), site),
            (store, sweep_every),
            (Arc::clone(&metrics), Arc::clone(&notifier), Arc::clone(&secret_files)),
            (shutdown.clone(), tasks.clone()),
        );
        owners.push(start(&ctx, &fatal).await?);
        units.push(ctx);
    }
    tracing::info!(node = %node, units = units.len(), listen = %settings.api.listen, version = env!("CARGO_PKG_VERSION"), "agent started");
    let host = Box::new(host::Units(Arc::from(units.as_slice())));
    let keys = Keys::new(&settings.consul.prefix);
    let chat = settings.chat.map(Chat::new);
    let hub = Hub::new(shutdown.clone(), tasks.clone());
    let tracker = tasks.clone();
    let store = store.map(|(store, _)| store);
    let parts =
        Parts { own: consul, keys, store, settings: settings.api, node, host, chat, hub, metrics, tasks: tracker };
    let api = Arc::new(Api::new(parts));
    let mut served = tasks.spawn(api::serve(listener, api, shutdown.clone()));
    tasks.spawn(systemd::notify(owners, Arc::from(units.as_slice()), shutdown.clone()));
    let ended = tokio::select! {
        () = &mut stopped => Ok(()),
        Some(error) = fatals.recv() => Err(error),
    };
    tracing::info!("agent stops");
    systemd::stopping();
    shutdown.cancel();
    if tokio::time::timeout(GOODBYE, &mut served).await.is_err() {
        served.abort();
    }
    tasks.close();
    tasks.wait().await;
    ended
}

/// The store that units fetch from, and how often it is swept. An agent without units can do without.
async fn store(settings: &Settings) -> Result<Option<(Store, Duration)>, AgentError> {
    match &settings.store {
        Some(section) => Ok(Some((open_store(section).await?, section.sweep_every))),
        None if settings.units.is_empty() => Ok(None),
        None => Err(AgentError::NoStore),
    }
}

async fn open_store(section: &StoreSection) -> Result<Store, AgentError> {
    let url = StoreUrl::parse(&section.url).map_err(AgentError::StoreUrl)?;
    let settings = S3Settings {
        region: section.region.clone(),
        endpoint: section.endpoint.clone(),
        force_path_style: section.force_path_style,
        limits: Limits::default(),
    };
    Store::open(&url, &settings).await.map_err(AgentError::Store)
}

/// This node's name, here and in Consul. Waits for Consul: without it there is nothing to do yet.
async fn name(settings: &Settings, consul: &Client) -> Result<(Node, String), AgentError> {
    loop {
        match consul.agent_self().await {
            Ok(agent) => {
                let node = match &settings.node {
                    Some(node) => node.clone(),
                    None => agent.node.parse().map_err(AgentError::Node)?,
                };
                return Ok((node, agent.node));
            }
            Err(error) => {
                let error = chain(&error);
                tracing::warn!(error, "waiting for Consul to say which node this is");
                systemd::waiting(&error);
            }
        }
        tokio::time::sleep(PATIENCE).await;
    }
}

fn context(
    (node, consul_node): (Node, String),
    (unit, settings): (Unit, UnitSettings),
    keys: Keys,
    (consul, stager, site): (Client, Arc<Stager>, Arc<Site>),
    (store, sweep_every): (Store, Duration),
    (metrics, notifier, secret_files): (Arc<Metrics>, Arc<Notifier>, Arc<[SecretFile]>),
    (shutdown, tasks): (CancellationToken, TaskTracker),
) -> Arc<Context> {
    Arc::new(Context {
        node,
        consul_node,
        at: keys.unit(&unit),
        unit,
        keys,
        settings,
        consul,
        site,
        stager,
        store,
        sweep_every,
        metrics,
        notifier,
        secret_files,
        shutdown,
        tasks,
        bells: Mutex::new(Vec::new()),
        has_rung: AtomicBool::new(false),
        journal: watch::Sender::new(Journal::default()),
        record: watch::Sender::new(None),
        health: watch::Sender::new(health::Health::default()),
        outlook: watch::Sender::new(outlook::Outlook::default()),
        trust: watch::Sender::new(Trust::Well),
        session: watch::Sender::new(None),
        disk: tokio::sync::Mutex::new(()),
    })
}

/// How often a journal that a newer agent wrote is looked at again.
const LOOK_AT_JOURNAL_EVERY: Duration = Duration::from_secs(2);

/// Starts a unit; later, where a newer agent wrote what it must not forget.
async fn start(ctx: &Arc<Context>, fatal: &mpsc::Sender<AgentError>) -> Result<mpsc::Sender<Input>, AgentError> {
    let (sender, receiver) = mpsc::channel(INPUTS);
    ctx.tasks.spawn(checks::keep(Arc::clone(ctx)));
    match rebuild::journal(ctx).await {
        Ok(journal) => begin(ctx, fatal, journal, (sender.clone(), receiver)),
        Err(LedgerError::Newer(newer)) => {
            let later = begin_later(Arc::clone(ctx), fatal.clone(), newer, (sender.clone(), receiver));
            ctx.tasks.spawn(later);
        }
        Err(source) => return Err(AgentError::Ledger { unit: ctx.unit.clone(), source }),
    }
    Ok(sender)
}

/// Leaves the unit as it runs while a newer agent's file stands, and starts it afterwards. Meanwhile the node has no
/// session and no `nodes/` record, so no deploy counts on it.
async fn begin_later(
    ctx: Arc<Context>,
    fatal: mpsc::Sender<AgentError>,
    mut newer: RecordError,
    (sender, mut receiver): (mpsc::Sender<Input>, mpsc::Receiver<Input>),
) {
    loop {
        ctx.meets_newer(&newer).await;
        ctx.health.send_replace(health::Health::left_alone(ctx.outlook.borrow().newer().unwrap_or_default()));
        let look = tokio::time::Instant::now() + LOOK_AT_JOURNAL_EVERY;
        loop {
            tokio::select! {
                () = ctx.shutdown.cancelled() => return,
                () = tokio::time::sleep_until(look) => break,
                Some(input) = receiver.recv() => if let Input::Ping(pong) = input {
                    // The watchdog may have given up waiting.
                    let _late = pong.send(());
                },
            }
        }
        let found = match rebuild::journal(&ctx).await {
            Ok(journal) => {
                ctx.reads_again(newer.key());
                return begin(&ctx, &fatal, journal, (sender, receiver));
            }
            Err(LedgerError::Newer(found)) => found,
            Err(source) => {
                // A second fatal error says nothing new.
                let _full = fatal.try_send(AgentError::Ledger { unit: ctx.unit.clone(), source });
                return;
            }
        };
        if found.key() != newer.key() {
            ctx.reads_again(newer.key());
        }
        newer = found;
    }
}

/// Starts a unit's tasks around its owner.
fn begin(
    ctx: &Arc<Context>,
    fatal: &mpsc::Sender<AgentError>,
    journal: Journal,
    (sender, receiver): (mpsc::Sender<Input>, mpsc::Receiver<Input>),
) {
    ctx.journal.send_replace(journal.clone());
    let deliveries = watch::Sender::new(None);
    let tasks = &ctx.tasks;
    tasks.spawn(following::follow(Arc::clone(ctx), sender.clone()));
    tasks.spawn(prefetch::follow(Arc::clone(ctx), sender.clone()));
    tasks.spawn(answering::answer(Arc::clone(ctx), sender.clone()));
    if ctx.settings.coordinate {
        tasks.spawn(candidate::stand(Arc::clone(ctx)));
    } else {
        tasks.spawn(candidate::look_on(Arc::clone(ctx)));
    }
    tasks.spawn(gap::watch(Arc::clone(ctx)));
    let sources = publisher::Sources {
        deliveries: deliveries.subscribe(),
        records: ctx.record.subscribe(),
        trust: ctx.trust.subscribe(),
    };
    let (publishes, report) = (Arc::clone(ctx), fatal.clone());
    tasks.spawn(async move {
        let unit = publishes.unit.clone();
        if let Err(taken) = publisher::publish(publishes, sources).await {
            tracing::error!(%unit, kind = taken.kind(), "{unit}: {taken}");
            // A second fatal error says nothing new.
            let _full = report.try_send(AgentError::Taken(taken.to_string()));
        }
    });
    let owner = Owner::new(Arc::clone(ctx), Participant::new(journal), (sender.clone(), receiver), deliveries);
    let (unit, report) = (ctx.unit.clone(), fatal.clone());
    let owner = tasks.spawn(owner.run());
    tasks.spawn(async move {
        // An agent that renews its session and follows nothing would be worse than none.
        let _full = match owner.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(source)) => report.try_send(AgentError::Ledger { unit, source }),
            Err(panicked) => report.try_send(AgentError::Broken { unit, source: panicked }),
        };
    });
}
