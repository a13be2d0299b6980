//! `/nodes`: every node of every unit, what it runs and ran before, its agent, and its drift.

use std::collections::{BTreeMap, BTreeSet};

use askama::Template;

use super::frame::Frame;
use super::parts::Badge;
use super::text::plain;
use super::{filters, words};
use crate::document::{NodeStatus, NodesDocument, NodesFilter, Presence, counted, fetching_words, refusal_words};
use crate::protocol::ids::Unit;

#[derive(Debug, Template)]
#[template(path = "nodes.html")]
pub(crate) struct NodesPage {
    pub(crate) frame: Frame,
    pub(crate) nodes: NodesDocument,
    /// The number of rows without the filter.
    pub(crate) total: usize,
    pub(crate) filter: NodesFilter,
    /// All units, for the navigation.
    pub(crate) units: Vec<Unit>,
}

impl NodesPage {
    fn summary(&self) -> String {
        let rows = &self.nodes.nodes;
        // A node of several groups has a row for each.
        let nodes = rows.iter().map(|row| &row.status.node).collect::<BTreeSet<_>>().len();
        let groups = rows.iter().map(|row| &row.unit).collect::<BTreeSet<_>>().len();
        let all =
            if rows.len() == self.total { String::new() } else { format!("; {} of {} lines", rows.len(), self.total) };
        format!("{} in {}{all}.", counted(nodes, "node", "nodes"), counted(groups, "group", "groups"))
    }

    /// The versions of the agents and the number of nodes of each; empty if all agents have the same version.
    fn versions(&self) -> Vec<(&str, usize)> {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        let agents = self.nodes.nodes.iter().map(|row| &row.status);
        let agents = agents.filter_map(|node| Some((&node.node, node.version.as_deref()?)));
        for (_, version) in agents.collect::<BTreeSet<_>>() {
            *counts.entry(version).or_default() += 1;
        }
        if counts.len() < 2 { Vec::new() } else { counts.into_iter().collect() }
    }

    fn is_filtered(&self) -> bool {
        self.filter != NodesFilter::default()
    }

    fn notes(node: &NodeStatus) -> Vec<String> {
        notes(node)
    }

    fn is_state(&self, state: &str) -> bool {
        match self.filter.state {
            None => state.is_empty(),
            Some(Presence::Alive) => state == "alive",
            Some(Presence::Absent) => state == "absent",
        }
    }
}

/// Notes on a node: drift, its download, builds that it could not prefetch, alarm, the fault in its answer, and files that it cannot remove.
pub(super) fn notes(node: &NodeStatus) -> Vec<String> {
    let drift = node.drift.iter().map(|drift| match (drift, &node.current) {
        (crate::document::Drift::Current, current) => {
            let current = current.as_deref().map_or_else(|| "nothing".to_owned(), plain);
            format!("something other than Cutover moved current to {current}")
        }
        (drift, _) => words::drift(*drift).to_owned(),
    });
    let fault = node.answer.as_ref().and_then(|answer| answer.fault.as_ref());
    let fault = fault.map(|fault| format!("{}: {}", fault.step.as_str(), plain(&fault.reason)));
    let refused = node.refused.iter();
    let refused =
        refused.map(|build| format!("cannot prefetch {}: {}", build.artifact, plain(&refusal_words(&build.why))));
    let unremovable = node.unremovable.iter().map(|stays| plain(&stays.sentence()));
    let fetching = node.fetching.iter().map(fetching_words);
    drift
        .chain(fetching)
        .chain(refused)
        .chain(node.alarm.as_deref().map(plain))
        .chain(fault)
        .chain(unremovable)
        .collect()
}
