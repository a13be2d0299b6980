//! What an agent counts and times, as `OpenMetrics` text.
//!
//! One [`Metrics`] per agent, passed to whoever has something to count; nothing here is global. Each method takes what
//! happened in the caller's words, and never fails: a metric is no reason to stop.
//!
//! Labels stay few: units, outcomes, phases, hooks, receivers, and Consul's verbs. A build's name stands in one metric alone,
//! `cutover_release_current_info`, in which each unit has one line, for what it runs. No label holds a branch, a commit,
//! a person, or a key.
//!
//! What is counted by the coordinator (deploys and their phases) is counted once in the fleet, by the node that wrote
//! the end: sum over the nodes.

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
    ConsulLabels, DeployLabels, Families, HookLabels, NotificationLabels, PhaseLabels, ReleaseLabels, UnitLabels,
};
use crate::protocol::ids::{ArtifactName, Unit};

/// What [`Metrics::render`] gives: `OpenMetrics` 1.0.0, which Prometheus reads since 2.5.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Everything that an agent counts.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    families: Families,
    /// Which build stands in `cutover_release_current_info`, so that it can be taken out again.
    current: Mutex<BTreeMap<Unit, ReleaseLabels>>,
}

/// One phase of a deploy that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// From the request's being taken to the decision, or to the end without one.
    Prepare,
    /// From the decision to switch to the last node, or to the decision to go back.
    Commit,
    /// From the decision to go back to the end.
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
pub enum Errand {
    /// A deploy waits for it.
    Deploy,
    /// Ahead of time.
    Prefetch,
}

/// What became of a notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notified {
    /// The receiver has it.
    Taken,
    /// A try failed; there are more.
    Failed,
    /// It is not tried any more.
    GivenUp,
}

impl Notified {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Failed => "failed",
            Self::GivenUp => "given_up",
        }
    }
}

/// What one node of a unit is like now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitState<'a> {
    /// What it runs; none before its first switch.
    pub runs: Option<&'a ArtifactName>,
    /// Whether it knows of a committed release that it does not run.
    pub is_behind: bool,
    /// Whether something there wants a person.
    pub has_alarm: bool,
    /// Free space where its releases lie, in bytes.
    pub free_bytes: u64,
}

impl Default for Metrics {
    /// Of this program; its commit is known in release builds, from build.rs.
    fn default() -> Self {
        Self::new(env!("CARGO_PKG_VERSION"), option_env!("CUTOVER_REVISION").unwrap_or("unknown"))
    }
}

impl Metrics {
    /// Metrics of a program of this version, built from this commit.
    #[must_use]
    pub fn new(version: &str, revision: &str) -> Self {
        let mut registry = Registry::with_prefix("cutover");
        let families = Families::register(&mut registry, version, revision);
        Self { registry, families, current: Mutex::default() }
    }

    /// All of it as `OpenMetrics` text, to be sent with [`CONTENT_TYPE`].
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail.
        let _written = encode(&mut text, &self.registry);
        text
    }

    /// A request has ended with `result`, the outcome's word, and this node's coordinator has written so.
    pub fn deploy_ended(&self, unit: &Unit, result: &'static str) {
        self.families.deploys.get_or_create(&DeployLabels { unit: unit.into(), result }).inc();
    }

    /// A phase of a deploy took this long, by the coordinator's clock.
    pub fn phase_took(&self, phase: Phase, took: Duration) {
        self.families.phases.get_or_create(&PhaseLabels { phase: phase.as_str() }).observe(took.as_secs_f64());
    }

    /// A hook ran this long, however it ended. `hook` is one of the four names.
    pub fn hook_took(&self, hook: &'static str, took: Duration) {
        self.families.hooks.get_or_create(&HookLabels { hook }).observe(took.as_secs_f64());
    }

    /// So many bytes came from the store.
    pub fn fetched(&self, errand: Errand, bytes: u64) {
        let counter = match errand {
            Errand::Deploy => &self.families.deploy_bytes,
            Errand::Prefetch => &self.families.prefetch_bytes,
        };
        counter.inc_by(bytes);
    }

    /// An archive could not be had from the store, or was not what the build record says.
    pub fn fetch_failed(&self) {
        self.families.fetch_errors.inc();
    }

    /// A notification was sent to the receiver of this name, or was given up.
    pub fn notified(&self, receiver: &str, result: Notified) {
        let labels = NotificationLabels { receiver: receiver.to_owned(), result: result.as_str() };
        self.families.notifications.get_or_create(&labels).inc();
    }

    /// Consul was asked. `status` is the HTTP status, or a word where there was no answer; `took` none for a query that
    /// rests at Consul until something changes, whose time says nothing.
    pub fn consul_asked(&self, op: &'static str, status: &str, took: Option<Duration>) {
        if let Some(took) = took {
            let labels = ConsulLabels { op, status: status.to_owned() };
            self.families.consul.get_or_create(&labels).observe(took.as_secs_f64());
        }
    }

    /// Consul has answered something at `now`, be it a refusal.
    pub fn consul_answered(&self, now: Timestamp) {
        self.families.consul_contact.set(now.as_duration().as_secs_f64());
    }

    /// How a unit stands on this node.
    pub fn unit_is(&self, unit: &Unit, state: &UnitState<'_>) {
        let labels = UnitLabels::from(unit);
        self.families.behind.get_or_create(&labels).set(i64::from(state.is_behind));
        self.families.alarm.get_or_create(&labels).set(i64::from(state.has_alarm));
        self.families.disk_free.get_or_create(&labels).set(i64::try_from(state.free_bytes).unwrap_or(i64::MAX));
        let now = state.runs.map(|build| ReleaseLabels { unit: labels, build: build.to_string() });
        // Held throughout: two reports must not leave two builds behind.
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

    /// Whether this node coordinates the unit.
    pub fn coordinates(&self, unit: &Unit, is: bool) {
        self.families.coordinator.get_or_create(&UnitLabels::from(unit)).set(i64::from(is));
        if !is {
            // Another node's to say now.
            self.families.gone.remove(&UnitLabels::from(unit));
        }
    }

    /// How many builds with a record have no archive in the store, as this node's coordinator has found.
    pub fn builds_gone(&self, unit: &Unit, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.families.gone.get_or_create(&UnitLabels::from(unit)).set(count);
    }
}
