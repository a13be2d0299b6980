//! The context that all tasks of one unit share: names, settings, clients, the disk, and handles to the values that
//! other tasks publish.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::agent::daemon::bells::Bells;
use crate::agent::daemon::published::Published;
use crate::agent::node::accepted::Accepted;
use crate::agent::node::stager::Stager;
use crate::agent::node::troubles::Troubles;
use crate::artifact::store::Store;
use crate::config::{SecretFile, UnitSettings};
use crate::consul::Client;
use crate::metrics::Metrics;
use crate::notify::Notifier;
use crate::protocol::ids::{Epoch, Node, Unit};
use crate::protocol::keys::{Keys, UnitKeys};
use crate::protocol::record::{Fault, Release, Step};
use crate::release::{Site, StageFault};

/// How long shutdown waits for open HTTP requests, and for Consul's answer to the agent's last calls.
pub(crate) const GOODBYE: Duration = Duration::from_secs(2);

/// An error of the disk layer that can become the fault of an answer in Consul.
pub(crate) trait IntoFault {
    /// `step` is the step of the fault, unless the error has its own.
    fn into_fault(self, step: Step) -> Fault;
}

impl IntoFault for StageFault {
    fn into_fault(self, _: Step) -> Fault {
        self.into()
    }
}

impl IntoFault for std::io::Error {
    fn into_fault(self, step: Step) -> Fault {
        Fault::new(step, &format!("a disk operation failed: {self}"))
    }
}

/// What all units of this agent share.
#[derive(Debug)]
pub(crate) struct Agent {
    /// The name of this node in Cutover.
    pub(crate) node: Node,
    /// The name of this node in Consul's catalog.
    pub(crate) consul_node: String,
    pub(crate) keys: Keys,
    /// Uses the agent's own token.
    pub(crate) consul: Client,
    pub(crate) metrics: Arc<Metrics>,
    /// Sends notifications to the receivers of the settings.
    pub(crate) notifier: Notifier,
    /// The secret files of the settings. `cutover doctor` checks that the agent can read them.
    pub(crate) secret_files: Vec<SecretFile>,
    /// Canceled when the agent stops.
    pub(crate) shutdown: CancellationToken,
    /// Tasks that shutdown waits for.
    pub(crate) tasks: TaskTracker,
    /// The units, which share the disks.
    pub(crate) neighbours: Arc<Neighbours>,
}

/// One unit on this node. Each task changes only its own values and publishes them through [`Published`].
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) agent: Arc<Agent>,
    pub(crate) unit: Unit,
    pub(crate) at: UnitKeys,
    pub(crate) settings: UnitSettings,
    /// The unit's `deploy_to` directory.
    pub(crate) site: Arc<Site>,
    /// Fetches and unpacks builds. All units of an app share one.
    pub(crate) stager: Arc<Stager>,
    pub(crate) store: Store,
    /// How often the coordinator checks that the archives are still in the store.
    pub(crate) sweep_every: Duration,
    /// Wakes the unit's watches when Consul's watch handler calls.
    pub(crate) bells: Bells,
    /// Values that other tasks of the unit publish.
    pub(crate) published: Published,
    /// Problems that tasks report. The unit's checks and the node's record show them.
    pub(crate) troubles: Troubles,
    /// Serializes placing, switching and pruning of releases.
    pub(crate) disk: tokio::sync::Mutex<()>,
    pub(crate) accepted: Accepted,
    /// Wakes prefetching after prefetched builds were removed for a deploy.
    pub(crate) gave_way: Notify,
}

/// The units of this agent, which share its disks.
#[derive(Debug, Default)]
pub(crate) struct Neighbours {
    units: Mutex<Vec<Weak<Context>>>,
    /// Deploys for which room is being made.
    waiting: AtomicUsize,
}

impl Neighbours {
    pub(super) fn add(&self, unit: &Arc<Context>) {
        self.units.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(unit));
    }

    pub(crate) fn units(&self) -> Vec<Arc<Context>> {
        self.units.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade).collect()
    }

    /// Whether a deploy waits for room, so that no prefetch may take it.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Notes that a deploy waits for room, until the result is dropped.
    pub(crate) fn wait_for_room(self: &Arc<Self>) -> WaitingForRoom {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        WaitingForRoom(Arc::clone(self))
    }
}

/// A deploy that waits for room.
#[derive(Debug)]
pub(crate) struct WaitingForRoom(Arc<Neighbours>);

impl Drop for WaitingForRoom {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Context {
    /// Runs blocking disk work on a thread for blocking work.
    ///
    /// # Errors
    ///
    /// The error of `work` as a fault. An error without a step of its own, and a panic, becomes a fault of `step`.
    ///
    /// # Cancel safety
    ///
    /// If dropped, the work still runs to its end.
    pub(crate) async fn on_disk<T: Send + 'static, E: IntoFault + Send + 'static>(
        &self,
        step: Step,
        work: impl FnOnce(&Site) -> Result<T, E> + Send + 'static,
    ) -> Result<T, Fault> {
        let site = Arc::clone(&self.site);
        match tokio::task::spawn_blocking(move || work(&site)).await {
            Ok(result) => result.map_err(|error| error.into_fault(step)),
            Err(error) => Err(Fault::new(step, &format!("an internal task of the agent failed: {error}"))),
        }
    }

    /// The deploy that the node follows now; none before the first.
    pub(crate) fn deploy(&self) -> Option<Epoch> {
        self.published.journal.borrow().record.as_ref().map(|record| record.epoch)
    }

    /// The directory of a release.
    pub(crate) fn release_path(&self, release: &Release) -> PathBuf {
        self.settings.deploy_to.join("releases").join(release.release.as_str())
    }
}
