//! `/`: every unit, what it runs, since when, by whom, and what needs somebody.

use std::collections::BTreeSet;

use askama::Template;

use super::filters;
use super::frame::Frame;
use super::lines;
use super::parts::{Badge, By};
use crate::document::{Presence, StatusDocument, counted};
use crate::protocol::record::History;

/// One unit of the overview.
#[derive(Clone, Debug)]
pub struct UnitCard {
    /// How it stands.
    pub status: StatusDocument,
    /// The deploy that made what runs; none where nothing runs, or its record is not in Consul any more.
    pub made_by: Option<History>,
}

/// Every unit.
#[derive(Debug, Template)]
#[template(path = "overview.html")]
pub struct OverviewPage {
    /// What every page has.
    pub frame: Frame,
    /// By name.
    pub cards: Vec<UnitCard>,
    /// The prefix of the keys, for the page of who has no unit yet.
    pub prefix: String,
}

impl OverviewPage {
    /// One sentence on the whole.
    fn summary(&self) -> String {
        // A node may be in several groups.
        let nodes = self.cards.iter().flat_map(|card| &card.status.nodes).map(|node| &node.node);
        let nodes = nodes.collect::<BTreeSet<_>>().len();
        let running = self.cards.iter().filter(|card| card.status.running.is_some()).count();
        let troubled = self.cards.iter().filter(|card| lines::needs_somebody(&card.status)).count();
        let groups = counted(self.cards.len(), "group", "groups");
        let deploys =
            if running == 0 { "no deploy runs".to_owned() } else { counted(running, "deploy runs", "deploys run") };
        let look = match troubled {
            0 => "nothing needs you".to_owned(),
            1 => "1 group needs somebody".to_owned(),
            many => format!("{many} groups need somebody"),
        };
        format!("{groups} on {}: {deploys}, {look}.", counted(nodes, "node", "nodes"))
    }
}

impl UnitCard {
    /// How it stands, in a word.
    fn badge(&self) -> Badge<'_> {
        lines::standing(&self.status)
    }

    fn alive(&self) -> usize {
        self.status.nodes.iter().filter(|node| node.state == Presence::Alive).count()
    }

    fn remarks(&self) -> Vec<(String, Badge<'static>)> {
        lines::remarks(&self.status)
    }
}
