//! What every task of one unit shares: names, settings, clients, the disk, and handles to what other tasks publish.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::agent::daemon::bells::Bells;
use crate::agent::daemon::published::Published;
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

/// How long to wait at shutdown: for an open HTTP request, and for Consul's answer to the last calls.
pub(crate) const GOODBYE: Duration = Duration::from_secs(2);

/// What the disk layer answers when it does not succeed.
pub(crate) trait IntoFault {
    /// As an answer in Consul says it.
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

/// One unit on this node. No task changes a value of another: each publishes its own ([`Published`]).
#[derive(Debug)]
pub(crate) struct Context {
    /// This node, as Cutover names it.
    pub(crate) node: Node,
    /// This node, as Consul's catalog names it.
    pub(crate) consul_node: String,
    pub(crate) unit: Unit,
    pub(crate) keys: Keys,
    /// The unit's keys.
    pub(crate) at: UnitKeys,
    /// The unit's settings.
    pub(crate) settings: UnitSettings,
    /// Consul, with the agent's own token.
    pub(crate) consul: Client,
    /// The unit's place on the disk.
    pub(crate) site: Arc<Site>,
    /// Fetches and unpacks; shared by the units of an app.
    pub(crate) stager: Arc<Stager>,
    /// Where archives lie.
    pub(crate) store: Store,
    /// How often the coordinator looks whether they all still do.
    pub(crate) sweep_every: Duration,
    /// What is counted and timed.
    pub(crate) metrics: Arc<Metrics>,
    /// Who is told what happens.
    pub(crate) notifier: Arc<Notifier>,
    /// What is read of this node's disk for whoever asks by chat or through a proxy.
    pub(crate) secret_files: Arc<[SecretFile]>,
    /// What is to be ended at shutdown.
    pub(crate) shutdown: CancellationToken,
    /// What is to be waited for at shutdown.
    pub(crate) tasks: TaskTracker,
    /// Wakes the unit's watches when Consul's watch handler calls.
    pub(crate) bells: Bells,
    /// What other tasks of the unit publish.
    pub(crate) published: Published,
    /// Where tasks report trouble, for the checks and the node's record.
    pub(crate) troubles: Troubles,
    /// Held by whatever places, switches or prunes releases: one at a time.
    pub(crate) disk: tokio::sync::Mutex<()>,
}

impl Context {
    /// Runs a blocking piece of disk work.
    ///
    /// # Errors
    ///
    /// What `work` answers, as a fault; what says no step itself, and a panic, is one of `step`.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the work still runs to its end.
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

    /// The deploy that stands: what the node does now, it does for this one. None before the first.
    pub(crate) fn deploy(&self) -> Option<Epoch> {
        self.published.journal.borrow().record.as_ref().map(|record| record.epoch)
    }

    /// Where a release lies.
    pub(crate) fn release_path(&self, release: &Release) -> PathBuf {
        self.settings.deploy_to.join("releases").join(release.release.as_str())
    }
}
