//! Collects the reads of a coordinator's round: the keys and, while a deploy runs or waits, Consul's catalog.

use std::collections::BTreeSet;

use super::super::coordinator::Snapshot;
use super::super::record::Barrier;
use super::look::Extent;

/// The reads under way, with the answers that have arrived, in whichever order.
#[derive(Clone, Debug)]
pub(super) struct Reads {
    /// The newest record that this node had followed before it read the keys.
    floor: Option<Barrier>,
    extent: Extent,
    keys: Option<Box<Snapshot>>,
    catalog: Option<BTreeSet<String>>,
}

/// The answer to one read.
#[derive(Debug)]
pub(super) enum Answer {
    Catalog(BTreeSet<String>),
    Keys(Box<Snapshot>),
}

/// The state of the reads after an answer.
#[derive(Debug)]
pub(super) enum Progress {
    /// The small keys show that a deploy runs or waits: everything must be read.
    Busy { floor: Option<Barrier> },
    /// The keys, with the catalog, are complete.
    Complete { floor: Option<Barrier>, keys: Box<Snapshot> },
    /// The small keys show that no deploy runs or waits: nothing else matters, and nothing else is read.
    Idle { floor: Option<Barrier>, keys: Box<Snapshot> },
    /// Another read is still under way.
    Incomplete,
}

impl Reads {
    pub(super) const fn new(floor: Option<Barrier>, extent: Extent) -> Self {
        Self { floor, extent, keys: None, catalog: None }
    }

    pub(super) fn add(&mut self, answer: Answer) -> Progress {
        match answer {
            Answer::Catalog(nodes) => self.catalog = Some(nodes),
            Answer::Keys(keys) => self.keys = Some(keys),
        }
        match self.extent {
            Extent::Small => self.small(),
            Extent::Full => self.full(),
        }
    }

    fn small(&mut self) -> Progress {
        match self.keys.take() {
            Some(keys) if keys.is_busy() => Progress::Busy { floor: self.floor.take() },
            Some(keys) => Progress::Idle { floor: self.floor.take(), keys },
            None => Progress::Incomplete,
        }
    }

    fn full(&mut self) -> Progress {
        match (self.keys.take(), self.catalog.take()) {
            (Some(mut keys), Some(catalog)) => {
                keys.catalog = catalog;
                Progress::Complete { floor: self.floor.take(), keys }
            }
            (keys, catalog) => {
                (self.keys, self.catalog) = (keys, catalog);
                Progress::Incomplete
            }
        }
    }
}
