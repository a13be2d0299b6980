//! Starts and stops the agent: one owner task per unit, the tasks that feed it, the HTTP API, and messages to systemd.
//!
//! SIGTERM and SIGINT stop all tasks in order. The agent waits until a switch in progress has ended.

mod bells;
pub(crate) mod context;
pub(crate) mod error;
mod host;
pub(crate) mod published;
mod start;
mod systemd;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::agent::daemon::context::{Agent, Context, GOODBYE};
use crate::agent::daemon::error::AgentError;
use crate::agent::daemon::start::UnitParts;
use crate::agent::node::stager::{Stager, StagerLimits};
use crate::api::stream::Hub;
use crate::api::{self, Api, Listener, Parts};
use crate::artifact::cache::{Cache, CacheLimits};
use crate::artifact::store::{Limits, S3Settings, Store, StoreUrl};
use crate::chat::Chat;
use crate::config::{CacheSettings, Settings, StoreSection, UnitSettings};
use crate::consul::Client;
use crate::metrics::Metrics;
use crate::notify::Notifier;
use crate::protocol::ids::{App, Node, Unit};
use crate::protocol::keys::Keys;
use crate::release::{Confinement, Site};
use crate::telemetry::chain;

/// The signal "file size limit exceeded", see signal(7).
const SIGXFSZ: i32 = 25;
/// How often the limits of the cache are checked. A check reads the names and sizes of some dozen archives.
const TEND_EVERY: Duration = Duration::from_mins(1);
/// The pause between two requests to Consul for this node's name.
const PATIENCE: Duration = Duration::from_secs(2);

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
///
/// [`AgentError`]: the agent could not start, or must not continue. An outage of Consul or of the store is neither.
///
/// # Cancel safety
///
/// If dropped, all tasks stop where they are, as after a kill. The next start continues from the journal.
pub(crate) async fn run(settings: Settings, consul: Client) -> Result<(), AgentError> {
    let shutdown = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).map_err(AgentError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(AgentError::Signals)?;
    // With a listener the signal does not kill the agent: a write beyond the user's file size limit fails instead.
    let _file_too_large = signal(SignalKind::from_raw(SIGXFSZ)).map_err(AgentError::Signals)?;
    let metrics = Arc::new(Metrics::default());
    let consul = consul.observed_by(Arc::<Metrics>::clone(&metrics));
    let listener = Listener::bind(&settings.api).await?;
    let store = open_configured_store(&settings).await?;
    let tasks = TaskTracker::new();
    let stopped = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    tokio::pin!(stopped);
    // The directories are opened and locked before anything is registered in Consul, so a second agent ends here.
    let sites = open_sites(&settings)?;
    let named = tokio::select! {
        () = &mut stopped => return Ok(()),
        named = name(&settings, &consul) => named,
    };
    let (node, consul_node) = named?;
    let agent = Arc::new(Agent {
        node: node.clone(),
        consul_node,
        keys: Keys::new(&settings.consul.prefix),
        consul: consul.clone(),
        metrics: Arc::clone(&metrics),
        notifier: Notifier::new(&settings),
        secret_files: settings.secret_files(),
        shutdown: shutdown.clone(),
        tasks: tasks.clone(),
        neighbours: Arc::default(),
    });
    let cache = start_cache(&settings, &agent);
    let limits = StagerLimits::new(&settings.fetch);
    let mut stagers: BTreeMap<App, Arc<Stager>> = BTreeMap::new();
    let mut units: Vec<Arc<Context>> = Vec::new();
    let (fatal, mut fatals) = mpsc::channel::<AgentError>(1);
    let mut owners = Vec::new();
    for UnitSite { unit, settings: settings_of_unit, site } in sites {
        let store = store.clone().ok_or(AgentError::NoStore)?;
        let new = || Stager::new(store.store.clone(), Arc::clone(&cache), unit.app.clone(), &limits, &metrics);
        let stager = stagers.entry(unit.app.clone()).or_insert_with(|| Arc::new(new()));
        let parts = UnitParts { unit, settings: settings_of_unit, site, stager: Arc::clone(stager), store };
        let (ctx, publishers) = start::context(&agent, parts);
        owners.push(start::start(&ctx, publishers, &fatal).await?);
        units.push(ctx);
    }
    let (version, listen) = (env!("CARGO_PKG_VERSION"), &settings.api.listen);
    tracing::info!(%node, units = units.len(), %listen, version, "agent started as node {node}: version {version}, API on {listen}");
    warn_of_all_rights(&agent.node, Confinement::of_this_process());
    let host = Box::new(host::Units(Arc::from(units.as_slice())));
    let keys = agent.keys.clone();
    let chat = settings.chat.map(Chat::new);
    let hub = Hub::new(shutdown.clone(), tasks.clone());
    let tracker = tasks.clone();
    let store = store.map(|opened| opened.store);
    let parts =
        Parts { own: consul, keys, store, settings: settings.api, node, host, chat, hub, metrics, tasks: tracker };
    let api = Arc::new(Api::new(parts));
    let mut served = tasks.spawn(api::serve(listener, api, shutdown.clone()));
    tasks.spawn(systemd::notify(owners, Arc::from(units.as_slice()), shutdown.clone()));
    let ended = tokio::select! {
        () = &mut stopped => Ok(()),
        Some(error) = fatals.recv() => Err(error),
    };
    log_stop(&agent.node, &ended);
    systemd::stopping();
    shutdown.cancel();
    if tokio::time::timeout(GOODBYE, &mut served).await.is_err() {
        served.abort();
    }
    tasks.close();
    tasks.wait().await;
    ended
}

/// A unit and its open deploy directory.
struct UnitSite {
    unit: Unit,
    settings: UnitSettings,
    site: Arc<Site>,
}

fn open_sites(settings: &Settings) -> Result<Vec<UnitSite>, AgentError> {
    let open = |(unit, settings): (&Unit, &UnitSettings)| {
        let failed = |source| AgentError::Site { unit: unit.clone(), source };
        let kept = usize::try_from(settings.keep_failed).unwrap_or(usize::MAX);
        let site = Site::open(&settings.deploy_to).map_err(failed)?.verifying(settings.verify).keeping_failed(kept);
        Ok(UnitSite { unit: unit.clone(), settings: settings.clone(), site: Arc::new(site) })
    };
    settings.units.iter().map(open).collect()
}

fn log_stop(node: &Node, ended: &Result<(), AgentError>) {
    match ended {
        Ok(()) => tracing::info!(%node, "the agent on {node} is stopping after SIGTERM or SIGINT"),
        Err(error) => {
            let reason = chain(error);
            tracing::error!(%node, reason, "the agent on {node} is stopping because it cannot continue: {reason}");
        }
    }
}

/// Logs that unpacking is not limited to its directory.
fn warn_of_all_rights(node: &Node, found: &Confinement) {
    if let Confinement::Off(why) = found {
        let (reason, remedy) = (why.reason(), why.remedy());
        tracing::warn!(%node, reason, "{node} unpacks with all rights of the agent, because {reason}; to limit it to its directory: {remedy}");
    }
}

/// The cache that all units share, and the task that keeps its limits.
fn start_cache(settings: &Settings, agent: &Agent) -> Arc<Cache> {
    let CacheSettings { dir, budget_bytes, min_free_bytes } = settings.cache.clone();
    let limits = CacheLimits { budget_bytes, min_free_bytes };
    let cache = Arc::new(Cache::new(dir, limits, settings.units.keys().cloned()));
    agent.tasks.spawn(tend(Arc::clone(&cache), agent.shutdown.clone()));
    cache
}

/// Keeps the limits of the cache, also while other programs fill the disk.
async fn tend(cache: Arc<Cache>, shutdown: CancellationToken) {
    // Repeated failures are logged once.
    let mut has_failed = false;
    loop {
        let tended = {
            let cache = Arc::clone(&cache);
            tokio::task::spawn_blocking(move || cache.tend()).await
        };
        if let Ok(Err(error)) = &tended
            && !has_failed
        {
            let (dir, error) = (cache.dir().display(), chain(error));
            tracing::warn!(error, "old archives in the cache {dir} cannot be removed: {error}");
        }
        has_failed = !matches!(tended, Ok(Ok(())));
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(TEND_EVERY) => {}
        }
    }
}

/// The store that units fetch from.
#[derive(Clone, Debug)]
struct OpenStore {
    store: Store,
    sweep_every: Duration,
}

/// Opens the store of the settings. An agent without units needs none.
async fn open_configured_store(settings: &Settings) -> Result<Option<OpenStore>, AgentError> {
    match &settings.store {
        Some(section) => {
            let store = open_store(section).await?;
            Ok(Some(OpenStore { store, sweep_every: section.sweep_every }))
        }
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
    let store = Store::open(&url, &settings).await.map_err(AgentError::Store)?;
    for note in store.notes() {
        tracing::warn!("{note}");
    }
    Ok(store)
}

/// This node's name in Cutover and in Consul. Retries until Consul answers, because the agent cannot start without it.
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
                tracing::warn!(error, "the agent waits for Consul to return this node's name, and retries: {error}");
                systemd::waiting(&error);
            }
        }
        tokio::time::sleep(PATIENCE).await;
    }
}
