//! What every task of one unit shares: settings, clients, the disk, and what the unit is doing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::artifact::store::Store;
use crate::config::{SecretFile, UnitSettings};
use crate::consul::{Client, Consistency, SessionId, WatchWaker};
use crate::metrics::Metrics;
use crate::notify::Notifier;
use crate::protocol::ids::{Epoch, Node, Unit};
use crate::protocol::journal::Journal;
use crate::protocol::keys::{Keys, UnitKeys};
use crate::protocol::record::{Fault, History, NodeRecord, Release, Step, decode, deploy_id};
use crate::protocol::shell::presence::Trust;
use crate::release::{Site, StageFault};

use crate::agent::node::health::Health;
use crate::agent::node::outlook::Outlook;
use crate::agent::node::stager::Stager;

/// How long Consul may take to say who asked: a hook of a switch waits for it, and with it the fleet.
const FACTS_LIMIT: Duration = Duration::from_secs(2);

/// Environment variables of a hook.
pub(crate) type Variables = BTreeMap<&'static str, String>;

/// How long to wait at shutdown: for an open HTTP request, and for Consul's answer to the last calls.
pub(crate) const GOODBYE: Duration = Duration::from_secs(2);

/// What the history says about a release, and about the deploy that it is switched to or made ready for.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// What the deploy goes by; see [`deploy_id`].
    pub(crate) id: String,
    pub(crate) branch: String,
    pub(crate) commit: String,
    pub(crate) by: String,
}

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
        Fault::new(step, &format!("the disk does not answer: {self}"))
    }
}

/// One unit on this node.
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
    /// Rung when a Consul watch calls: read again now.
    pub(crate) bells: Mutex<Vec<WatchWaker>>,
    /// Whether a Consul watch has rung since the agent started.
    pub(crate) has_rung: AtomicBool,
    /// The journal as it was last written: what must not be pruned.
    pub(crate) journal: watch::Sender<Journal>,
    /// What the node says about itself.
    pub(crate) record: watch::Sender<Option<NodeRecord>>,
    /// What its checks say.
    pub(crate) health: watch::Sender<Health>,
    /// What its checks say besides.
    pub(crate) outlook: watch::Sender<Outlook>,
    /// Whether `barrier` is what this node may follow.
    pub(crate) trust: watch::Sender<Trust>,
    /// The node's session, while it has one.
    pub(crate) session: watch::Sender<Option<SessionId>>,
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
            Err(error) => Err(Fault::new(step, &format!("the agent's own work failed: {error}"))),
        }
    }

    /// The variables that every hook of this unit gets for `release`, as `current` is now.
    pub(crate) fn hook_variables(&self, release: Option<&Release>, phase: &str) -> Variables {
        let current = std::fs::canonicalize(self.settings.deploy_to.join("current")).ok();
        // Tried again after the link has moved, the release is not what ran before itself: the journal knows that.
        let is_there = current.as_ref().is_some_and(|path| release.is_some_and(|r| path.ends_with(r.release.as_str())));
        let ran = || self.journal.borrow().runs.as_ref().map(|runs| self.release_path(runs));
        let previous = if is_there { ran() } else { current };
        let previous = previous.map(|path| path.display().to_string()).unwrap_or_default();
        let text = |of: fn(&Release) -> String| release.map(of).unwrap_or_default();
        BTreeMap::from([
            ("CUTOVER_APP", self.unit.app.to_string()),
            ("CUTOVER_GROUP", self.unit.group.to_string()),
            ("CUTOVER_NODE", self.node.to_string()),
            ("CUTOVER_EPOCH", text(|r| r.epoch.to_string())),
            ("CUTOVER_PHASE", phase.to_owned()),
            ("CUTOVER_ARTIFACT", text(|r| r.artifact.to_string())),
            ("CUTOVER_RELEASE", text(|r| r.release.to_string())),
            ("CUTOVER_RELEASE_PATH", release.map(|r| self.release_path(r).display().to_string()).unwrap_or_default()),
            ("CUTOVER_PREVIOUS_PATH", previous),
        ])
    }

    /// The deploy that stands: what the node does now, it does for this one. None before the first.
    pub(crate) fn deploy(&self) -> Option<Epoch> {
        self.journal.borrow().record.as_ref().map(|record| record.epoch)
    }

    /// Who asked for a release, what was built, and what the deploy goes by: for hooks. What cannot be read is left empty.
    pub(crate) async fn facts_of(&self, release: Option<&Release>) -> Facts {
        let deploy = self.deploy().or_else(|| release.map(|release| release.epoch));
        // On the way back the release is of an older epoch than the deploy that is taken back.
        let older = release.map(|release| release.epoch).filter(|epoch| Some(*epoch) != deploy);
        let (of_deploy, of_older) = tokio::join!(self.history_for_hooks(deploy), self.history_for_hooks(older));
        let id = deploy.map(|epoch| deploy_id(&self.unit, epoch, of_deploy.as_ref().map_or("", |h| h.id.as_str())));
        let history = if older.is_some() { of_older } else { of_deploy };
        let history = history.as_ref().filter(|_| release.is_some());
        // What was built is known here too, also while Consul is away.
        let here = match release.cloned() {
            Some(Release { release: name, artifact, .. }) => {
                let record = self.on_disk(Step::Preflight, move |site| site.record(&name)).await.ok().flatten();
                record.filter(|here| here.artifact == artifact)
            }
            None => None,
        };
        let text = |value: Option<String>| value.unwrap_or_default();
        let branch = here.as_ref().map(|r| &r.branch).or_else(|| history.and_then(|h| h.branch.as_ref()));
        let commit = here.as_ref().map(|r| &r.commit).or_else(|| history.and_then(|h| h.commit.as_ref()));
        Facts {
            id: text(id),
            branch: text(branch.map(ToString::to_string)),
            commit: text(commit.map(ToString::to_string)),
            by: text(history.map(|h| h.by.clone())),
        }
    }

    async fn history_for_hooks(&self, epoch: Option<Epoch>) -> Option<History> {
        let key = self.at.history(epoch?);
        let read = self.consul.kv_get(&key, Consistency::Stale);
        let entry = tokio::time::timeout(FACTS_LIMIT, read).await.ok().and_then(Result::ok).flatten()?;
        decode(&key, &entry.value).ok()
    }

    /// Lets this bell be rung by Consul's watches.
    pub(crate) fn hang(&self, bell: WatchWaker) {
        self.bells.lock().unwrap_or_else(PoisonError::into_inner).push(bell);
    }

    /// Has everything that is watched read again now.
    pub(crate) fn ring(&self) {
        self.has_rung.store(true, Ordering::Relaxed);
        for bell in self.bells.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            bell.wake();
        }
    }

    /// Where a release lies.
    pub(crate) fn release_path(&self, release: &Release) -> PathBuf {
        self.settings.deploy_to.join("releases").join(release.release.as_str())
    }
}
