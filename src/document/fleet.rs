//! The apps with their groups, and every node of every group.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::Serialize;

use super::{NodeStatus, Presence, StatusDocument, units_in};
use crate::protocol::ids::{App, Group, Unit};

/// Every app that has keys, sorted by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct AppsDocument {
    /// By name.
    pub(crate) apps: Vec<AppRow>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct AppRow {
    /// Its name.
    pub(crate) app: App,
    /// The app's groups, by name; empty if the app only has builds.
    pub(crate) groups: Vec<Group>,
}

impl AppsDocument {
    /// Builds the document from the names of all keys under `prefix`.
    #[must_use]
    pub(crate) fn build(prefix: &str, names: &[String]) -> Self {
        let mut apps: BTreeMap<App, BTreeSet<Group>> = BTreeMap::new();
        for rest in names.iter().filter_map(|name| name.strip_prefix(prefix)) {
            let Some((app, below)) = rest.split_once('/') else { continue };
            let is_built = ["builds/", "runs/"].iter().any(|kind| below.starts_with(kind)) || below == "latest";
            if let (true, Ok(app)) = (is_built, app.parse()) {
                apps.entry(app).or_default();
            }
        }
        for Unit { app, group } in units_in(prefix, names.iter().map(String::as_str)) {
            apps.entry(app).or_default().insert(group);
        }
        Self {
            apps: apps.into_iter().map(|(app, groups)| AppRow { app, groups: groups.into_iter().collect() }).collect(),
        }
    }
}

/// Every node of every group, sorted by group and name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct NodesDocument {
    /// By group, then by name. A node with several groups has one row for each.
    pub(crate) nodes: Vec<NodeRow>,
}

/// One node of one group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct NodeRow {
    pub(crate) unit: Unit,
    #[serde(flatten)]
    pub(crate) status: NodeStatus,
}

impl NodesDocument {
    /// Builds the document from the status of each group.
    #[must_use]
    pub(crate) fn build(units: Vec<StatusDocument>) -> Self {
        let rows = |document: StatusDocument| {
            let unit = document.unit;
            document.nodes.into_iter().map(move |status| NodeRow { unit: unit.clone(), status })
        };
        Self { nodes: units.into_iter().flat_map(rows).collect() }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodesFilter {
    /// Only nodes of this group.
    pub(crate) unit: Option<Unit>,
    /// Only nodes that are alive, or absent.
    pub(crate) state: Option<Presence>,
    /// Only nodes with drift or an alarm.
    pub(crate) drift: bool,
    /// Only nodes whose name contains this.
    pub(crate) named: String,
}

impl NodesFilter {
    /// Whether the filter selects a row.
    #[must_use]
    pub(crate) fn matches(&self, row: &NodeRow) -> bool {
        self.unit.as_ref().is_none_or(|unit| row.unit == *unit)
            && self.state.is_none_or(|state| row.status.state == state)
            && (!self.drift || !row.status.drift.is_empty() || row.status.alarm.is_some())
            && row.status.node.as_str().contains(self.named.trim())
    }
}
