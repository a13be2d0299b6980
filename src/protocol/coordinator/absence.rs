//! Nodes that are away or gone, by the coordinator's own clock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Coordinator, Now, Snapshot};
use crate::protocol::ids::Node;

/// Members that are not there now.
pub(super) struct Absences {
    /// Members that left the catalog, or that an operator has forgotten.
    pub(super) gone: BTreeSet<Node>,
    /// Members without a live session, and for how long.
    pub(super) absent: BTreeMap<Node, Duration>,
}

impl Coordinator {
    pub(super) fn watch_absences(&mut self, now: Now, view: &Snapshot) {
        let is_away = |node: &Node| match view.nodes.get(node) {
            Some(presence) => !presence.is_alive,
            None => view.is_forgotten(node),
        };
        self.absent.retain(|node, _| is_away(node));
        for node in view.nodes.keys().chain(&view.forgotten).filter(|node| is_away(node)) {
            self.absent.entry(node.clone()).or_insert(now.monotonic);
        }
    }

    /// For how long `node` has been without a live session.
    pub(in crate::protocol) fn absent_for(&self, now: Now, node: &Node) -> Duration {
        self.absent.get(node).map_or(Duration::ZERO, |since| now.monotonic.saturating_sub(*since))
    }

    pub(super) fn absences(&self, now: Now, view: &Snapshot) -> Absences {
        let mut absences = Absences { gone: BTreeSet::new(), absent: BTreeMap::new() };
        let consul_node = |node: &Node| -> String {
            let record = view.nodes.get(node).and_then(|presence| presence.record.as_ref());
            record.map_or_else(|| node.to_string(), |record| record.consul_node.clone())
        };
        // A catalog without this very node was shortened by an ACL, so a missing node proves nothing.
        let sees_itself = view.catalog.contains(&consul_node(&self.me));
        for node in &view.members {
            if view.is_forgotten(node) || sees_itself && !view.catalog.contains(&consul_node(node)) {
                absences.gone.insert(node.clone());
            }
            if !view.nodes.get(node).is_some_and(|presence| presence.is_alive) {
                absences.absent.insert(node.clone(), self.absent_for(now, node));
            }
        }
        absences
    }
}
