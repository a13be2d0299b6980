//! The metrics of an agent, as `OpenMetrics` text.
//!
//! Each agent has one [`Metrics`], which is passed to every task that counts something; nothing here is global. No method
//! fails, because a metric must not stop a deploy.
//!
//! Labels stay few: units, outcomes, phases, hooks, receivers, reasons of retries, and Consul's verbs. Only one metric has a label with a build's name:
//! `cutover_release_current_info`, with one line per unit for the build that it runs. No label holds a branch, a commit,
//! a person, or a key.
//!
//! Deploys and their phases are counted once in the fleet, by the coordinator that wrote the outcome: sum over the nodes.

mod families;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use self::families::{
    ConsulLabels, DeployLabels, Families, HookLabels, NotificationLabels, PhaseLabels, ReleaseLabels, RetryLabels,
    UnitLabels,
};
use crate::protocol::ids::{ArtifactName, Unit};

/// The content type of [`Metrics::render`]: `OpenMetrics` 1.0.0, which Prometheus reads since 2.5.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Everything that an agent counts.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    families: Families,
    /// The build in `cutover_release_current_info`, so that its line can be removed.
    current: Mutex<BTreeMap<Unit, ReleaseLabels>>,
}

/// One phase of a deploy that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// From the start of the deploy to the decision to switch, or to the end without one.
    Prepare,
    /// From the decision to switch to the last node's switch, or to the decision to revert.
    Commit,
    /// From the decision to revert to the end.
    Revert,
}

impl Phase {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Commit => "commit",
            Self::Revert => "revert",
        }
    }
}

/// Why an archive is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FetchPurpose {
    /// A deploy waits for the archive.
    Deploy,
    /// The archive is fetched ahead of a deploy.
    Prefetch,
}

/// The result of a notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotificationResult {
    /// The receiver accepted the notification.
    Accepted,
    /// An attempt failed; the notification is retried.
    Failed,
    /// The notification is not retried any more.
    GivenUp,
}

impl NotificationResult {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "taken",
            Self::Failed => "failed",
            Self::GivenUp => "given_up",
        }
    }
}

/// The state of a unit on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnitState<'a> {
    /// The running build; none before the first switch.
    pub(crate) runs: Option<&'a ArtifactName>,
    /// Whether the node does not run the committed release.
    pub(crate) is_behind: bool,
    pub(crate) has_alarm: bool,
    /// Free space for the agent's user on the filesystem of the releases.
    pub(crate) free_bytes: u64,
}

impl Default for Metrics {
    /// Metrics of this program. Only release builds know their commit, from build.rs.
    fn default() -> Self {
        Self::new(env!("CARGO_PKG_VERSION"), option_env!("CUTOVER_REVISION").unwrap_or("unknown"))
    }
}

impl Metrics {
    /// Metrics with a version and a commit of the program, for `cutover_build_info`.
    #[must_use]
    pub fn new(version: &str, revision: &str) -> Self {
        let mut registry = Registry::with_prefix("cutover");
        let families = Families::register(&mut registry, version, revision);
        Self { registry, families, current: Mutex::default() }
    }

    /// The metrics as `OpenMetrics` text, to be sent with [`CONTENT_TYPE`].
    #[must_use]
    pub(crate) fn render(&self) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail.
        let _written = encode(&mut text, &self.registry);
        text
    }

    /// Counts a request that this node's coordinator ended. `result` is the word of its outcome.
    pub(crate) fn deploy_ended(&self, unit: &Unit, result: &'static str) {
        self.families.deploys.get_or_create(&DeployLabels { unit: unit.into(), result }).inc();
    }

    /// Records the duration of a phase, by the coordinator's clock.
    pub(crate) fn phase_took(&self, phase: Phase, took: Duration) {
        self.families.phases.get_or_create(&PhaseLabels { phase: phase.as_str() }).observe(took.as_secs_f64());
    }

    /// Records the duration of a hook that succeeded or failed. `hook` is one of the four names.
    pub(crate) fn hook_took(&self, hook: &'static str, took: Duration) {
        self.families.hooks.get_or_create(&HookLabels { hook }).observe(took.as_secs_f64());
    }

    /// Counts bytes that were downloaded from the store.
    pub(crate) fn fetched(&self, purpose: FetchPurpose, bytes: u64) {
        let counter = match purpose {
            FetchPurpose::Deploy => &self.families.deploy_bytes,
            FetchPurpose::Prefetch => &self.families.prefetch_bytes,
        };
        counter.inc_by(bytes);
    }

    /// Counts an archive that could not be fetched, or did not match its build record.
    pub(crate) fn fetch_failed(&self) {
        self.families.fetch_errors.inc();
    }

    /// Counts a part of a download that is retried. `reason` is the kind of the store's error.
    pub(crate) fn fetch_retried(&self, reason: &'static str) {
        self.families.fetch_retries.get_or_create(&RetryLabels { reason }).inc();
    }

    /// Counts an attempt to send a notification, or a notification that was given up. `receiver` is the name in the settings.
    pub(crate) fn notified(&self, receiver: &str, result: NotificationResult) {
        let labels = NotificationLabels { receiver: receiver.to_owned(), result: result.as_str() };
        self.families.notifications.get_or_create(&labels).inc();
    }

    /// Records a request to Consul. `status` is the HTTP status, or a word if there was no answer. `took` is `None` for a
    /// blocking query, whose duration only shows when the next change happened.
    pub(crate) fn consul_request(&self, op: &'static str, status: &str, took: Option<Duration>) {
        if let Some(took) = took {
            let labels = ConsulLabels { op, status: status.to_owned() };
            self.families.consul.get_or_create(&labels).observe(took.as_secs_f64());
        }
    }

    /// Records that Consul answered at `now`, even if it refused the request.
    pub(crate) fn consul_answered(&self, now: Timestamp) {
        self.families.consul_contact.set(now.as_duration().as_secs_f64());
    }

    /// Records the state of a unit on this node.
    pub(crate) fn unit_is(&self, unit: &Unit, state: &UnitState<'_>) {
        let labels = UnitLabels::from(unit);
        self.families.behind.get_or_create(&labels).set(i64::from(state.is_behind));
        self.families.alarm.get_or_create(&labels).set(i64::from(state.has_alarm));
        self.families.disk_free.get_or_create(&labels).set(i64::try_from(state.free_bytes).unwrap_or(i64::MAX));
        let now = state.runs.map(|build| ReleaseLabels { unit: labels, build: build.to_string() });
        // Locked to the end, so that two concurrent reports do not leave two lines.
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.get(unit) == now.as_ref() {
            return;
        }
        if let Some(before) = current.remove(unit) {
            self.families.release.remove(&before);
        }
        if let Some(now) = now {
            self.families.release.get_or_create(&now).set(1);
            current.insert(unit.clone(), now);
        }
    }

    /// Records that this node coordinates the unit.
    pub(crate) fn starts_coordinating(&self, unit: &Unit) {
        self.families.coordinator.get_or_create(&UnitLabels::from(unit)).set(1);
    }

    /// Records that this node no longer coordinates the unit.
    pub(crate) fn stops_coordinating(&self, unit: &Unit) {
        let labels = UnitLabels::from(unit);
        self.families.coordinator.get_or_create(&labels).set(0);
        // The next coordinator reports these builds; two nodes must not report them at once.
        self.families.gone.remove(&labels);
        self.families.damaged.remove(&labels);
    }

    /// Records how many builds with a record have no archive in the store, according to this node's coordinator.
    pub(crate) fn builds_gone(&self, unit: &Unit, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.families.gone.get_or_create(&UnitLabels::from(unit)).set(count);
    }

    /// Records how many builds have a cut or altered archive in the store, according to this node's coordinator.
    pub(crate) fn builds_damaged(&self, unit: &Unit, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.families.damaged.get_or_create(&UnitLabels::from(unit)).set(count);
    }
}
