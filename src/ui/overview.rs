//! `/`: every unit, what it runs, since when, by whom, and what needs attention.

use std::collections::BTreeSet;

use askama::Template;

use super::filters;
use super::frame::Frame;
use super::parts::{Badge, By};
use super::unit_state;
use crate::document::{Presence, StatusDocument, counted};
use crate::protocol::record::History;

/// One unit of the overview.
#[derive(Clone, Debug)]
pub(crate) struct UnitCard {
    pub(crate) status: StatusDocument,
    /// The deploy of the running release; none where nothing runs, or its record is no longer in Consul.
    pub(crate) current_deploy: Option<History>,
}

#[derive(Debug, Template)]
#[template(path = "overview.html")]
pub(crate) struct OverviewPage {
    pub(crate) frame: Frame,
    /// Sorted by name.
    pub(crate) cards: Vec<UnitCard>,
    /// The prefix of Cutover's keys, shown while there are no units.
    pub(crate) prefix: String,
}

impl OverviewPage {
    /// The summary above the table.
    fn summary(&self) -> String {
        // A node of several groups counts once.
        let nodes = self.cards.iter().flat_map(|card| &card.status.nodes).map(|node| &node.node);
        let nodes = nodes.collect::<BTreeSet<_>>().len();
        let running = self.cards.iter().filter(|card| card.status.running.is_some()).count();
        let troubled = self.cards.iter().filter(|card| unit_state::needs_attention(&card.status)).count();
        let groups = counted(self.cards.len(), "group", "groups");
        let deploys = if running == 0 {
            "no deploy running".to_owned()
        } else {
            counted(running, "deploy running", "deploys running")
        };
        let attention = match troubled {
            0 => "no action needed".to_owned(),
            1 => "1 group needs attention".to_owned(),
            many => format!("{many} groups need attention"),
        };
        format!("{groups} on {}: {deploys}, {attention}.", counted(nodes, "node", "nodes"))
    }
}

impl UnitCard {
    fn badge(&self) -> Badge<'_> {
        unit_state::badge(&self.status)
    }

    fn alive(&self) -> usize {
        self.status.nodes.iter().filter(|node| node.state == Presence::Alive).count()
    }

    fn remarks(&self) -> Vec<(String, Badge<'static>)> {
        unit_state::remarks(&self.status)
    }
}
