//! The metrics by name: types, labels, buckets, and help texts.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit as Base};

use crate::protocol::ids::Unit;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct UnitLabels {
    app: String,
    group: String,
}

impl From<&Unit> for UnitLabels {
    fn from(unit: &Unit) -> Self {
        Self { app: unit.app.to_string(), group: unit.group.to_string() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct DeployLabels {
    #[prometheus(flatten)]
    pub(super) unit: UnitLabels,
    pub(super) result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ReleaseLabels {
    #[prometheus(flatten)]
    pub(super) unit: UnitLabels,
    pub(super) build: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct PhaseLabels {
    pub(super) phase: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct HookLabels {
    pub(super) hook: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RetryLabels {
    pub(super) reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct NotificationLabels {
    pub(super) receiver: String,
    pub(super) result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ConsulLabels {
    pub(super) op: &'static str,
    pub(super) status: String,
}

/// Durations of phases and hooks in seconds: from a switch, which only renames a link, to a prepare that downloads for longer
/// than the ten minutes of the default time limit.
const DEPLOY_BUCKETS: [f64; 14] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0];
/// Durations of requests to Consul in seconds: from a read on loopback to the time limit of every call, 10 s.
const CONSUL_BUCKETS: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0];

fn of_deploys() -> Histogram {
    Histogram::new(DEPLOY_BUCKETS)
}

fn of_consul() -> Histogram {
    Histogram::new(CONSUL_BUCKETS)
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// All metrics except `cutover_build_info`, which never changes.
#[derive(Debug)]
pub(super) struct Families {
    pub(super) deploys: Family<DeployLabels, Counter>,
    pub(super) phases: Histograms<PhaseLabels>,
    pub(super) hooks: Histograms<HookLabels>,
    pub(super) prefetch_bytes: Counter,
    pub(super) deploy_bytes: Counter,
    pub(super) fetch_errors: Counter,
    pub(super) fetch_retries: Family<RetryLabels, Counter>,
    pub(super) notifications: Family<NotificationLabels, Counter>,
    pub(super) consul: Histograms<ConsulLabels>,
    pub(super) consul_contact: Gauge<f64, AtomicU64>,
    pub(super) release: Family<ReleaseLabels, Gauge>,
    pub(super) behind: Family<UnitLabels, Gauge>,
    pub(super) alarm: Family<UnitLabels, Gauge>,
    pub(super) coordinator: Family<UnitLabels, Gauge>,
    pub(super) gone: Family<UnitLabels, Gauge>,
    pub(super) damaged: Family<UnitLabels, Gauge>,
    pub(super) disk_free: Family<UnitLabels, Gauge>,
}

impl Families {
    /// Registers all metrics. The registry puts its prefix before each name, and a full stop after each help text.
    pub(super) fn register(registry: &mut Registry, version: &str, revision: &str) -> Self {
        let families = Self {
            deploys: Family::default(),
            phases: Family::new_with_constructor(of_deploys),
            hooks: Family::new_with_constructor(of_deploys),
            prefetch_bytes: Counter::default(),
            deploy_bytes: Counter::default(),
            fetch_errors: Counter::default(),
            fetch_retries: Family::default(),
            notifications: Family::default(),
            consul: Family::new_with_constructor(of_consul),
            consul_contact: Gauge::default(),
            release: Family::default(),
            behind: Family::default(),
            alarm: Family::default(),
            coordinator: Family::default(),
            gone: Family::default(),
            damaged: Family::default(),
            disk_free: Family::default(),
        };
        let build = Info::new([("version", version.to_owned()), ("revision", revision.to_owned())]);
        registry.register("build", "Version and revision of the program", build);
        let Self { deploys, phases, hooks, prefetch_bytes, deploy_bytes, fetch_errors, .. } = &families;
        registry.register("deploys", "Requests that this node's coordinator ended, by outcome", deploys.clone());
        let help = "Duration of a deploy phase, measured by this node's coordinator";
        registry.register_with_unit("deploy_phase", help, Base::Seconds, phases.clone());
        registry.register_with_unit("hook", "Duration of a hook", Base::Seconds, hooks.clone());
        let help = "Bytes fetched from the store ahead of deploys";
        registry.register_with_unit("prefetch", help, Base::Bytes, prefetch_bytes.clone());
        let help = "Bytes fetched from the store during deploys";
        registry.register_with_unit("deploy_fetch", help, Base::Bytes, deploy_bytes.clone());
        registry.register(
            "fetch_errors",
            "Fetches that failed, or whose archive did not match its build record",
            fetch_errors.clone(),
        );
        let help = "Parts of downloads that were retried, by reason";
        registry.register("fetch_retries", help, families.fetch_retries.clone());
        let help = "Notifications by receiver and result, sent by this node's coordinator";
        registry.register("notifications", help, families.notifications.clone());
        let Self { consul, consul_contact, release, behind, alarm, coordinator, gone, damaged, disk_free, .. } =
            &families;
        let help = "Time until Consul answered, without blocking queries";
        registry.register_with_unit("consul_request", help, Base::Seconds, consul.clone());
        let help = "When Consul last answered";
        registry.register_with_unit("consul_last_contact_timestamp", help, Base::Seconds, consul_contact.clone());
        registry.register("release_current_info", "1 for the build that this node runs", release.clone());
        let help = "Whether this node does not run the committed release";
        registry.register("unit_behind", help, behind.clone());
        registry.register("unit_alarm", "Whether there is an alarm on this node", alarm.clone());
        registry.register("coordinator", "Whether this node coordinates the unit", coordinator.clone());
        let help = "Builds whose archive is missing in the store, according to this node's coordinator";
        registry.register("builds_gone", help, gone.clone());
        let help = "Builds whose archive is cut or altered in the store, according to this node's coordinator";
        registry.register("builds_damaged", help, damaged.clone());
        registry.register_with_unit(
            "disk_free",
            "Free space on the filesystem of the releases",
            Base::Bytes,
            disk_free.clone(),
        );
        families
    }
}
