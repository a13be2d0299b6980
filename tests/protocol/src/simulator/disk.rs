//! A node's disk as a value, and what work does to it, as `src/release` and `src/agent/node/work.rs` do.
//!
//! Each change is one step here. What a power loss leaves in the middle of one is the disk layer's own to show (I10).

use std::collections::{BTreeMap, BTreeSet};

use crate::consul::Session;
use crate::protocol::ids::ReleaseName;
use crate::protocol::journal::{Journal, Origin, Target};
use crate::protocol::record::{Fault, Release, Step};
use crate::protocol::rule::{Rule, holds};

/// One release directory. It is complete: an incomplete one is made anew, as if it were not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Made {
    /// What was unpacked, with the epoch that made it.
    pub(crate) release: Release,
}

/// The file of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ledger {
    Absent,
    Damaged,
    Intact(Box<Journal>),
}

#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub(crate) ledger: Ledger,
    /// The release that `current` was switched to, with the epoch that did; none: it is as it was before Cutover.
    pub(crate) current: Option<Release>,
    pub(crate) releases: BTreeMap<ReleaseName, Made>,
    /// The id of the node's session.
    pub(crate) session: Option<Session>,
    pub(crate) is_full: bool,
}

impl Disk {
    pub(crate) const fn new() -> Self {
        Self { ledger: Ledger::Absent, current: None, releases: BTreeMap::new(), session: None, is_full: false }
    }

    /// What `current` says, for the participant.
    pub(crate) fn link(&self, before: &Origin) -> Origin {
        let release = |release: &Release| Origin::Link(format!("releases/{}", release.release));
        self.current.as_ref().map_or_else(|| before.clone(), release)
    }

    /// Whether this release lies here, complete, and no other under its name.
    pub(crate) fn holds(&self, release: &Release) -> bool {
        self.releases.get(&release.release).is_some_and(|made| made.release.same_tree(release))
    }

    /// Brings a release to its directory.
    pub(crate) fn make_ready(&mut self, release: &Release, is_store_away: bool) -> Result<(), Fault> {
        if self.holds(release) {
            return Ok(());
        }
        if self.releases.contains_key(&release.release) {
            return Err(Fault::new(Step::Unpack, "another release lies under its name"));
        }
        if is_store_away {
            return Err(Fault::new(Step::Fetch, "the store is away"));
        }
        if self.is_full {
            return Err(Fault::new(Step::Unpack, "no space left"));
        }
        self.releases.insert(release.release.clone(), Made { release: release.clone() });
        Ok(())
    }

    /// P2. Removes what the epoch made, where nothing needs it.
    pub(crate) fn discard(&mut self, release: &Release, journal: &Journal) {
        let is_target = journal.record.as_ref().and_then(|record| record.target()) == Some(release);
        if needed(journal).contains(&release.release) && !is_target {
            return;
        }
        let is_own = self.releases.get(&release.release).is_some_and(|made| made.release.epoch == release.epoch);
        let is_current = self.current.as_ref().is_some_and(|current| current.release == release.release);
        if is_own && !is_current || !holds(Rule::DiscardOwn) {
            self.releases.remove(&release.release);
        }
    }

    /// Removes old releases, all but the newest and what is needed. How many.
    pub(crate) fn prune(&mut self, keep: usize, journal: &Journal) -> usize {
        let needed = needed(journal);
        let current = self.current.as_ref().map(|current| current.release.clone());
        let newest: BTreeSet<ReleaseName> = self.releases.keys().rev().take(keep).cloned().collect();
        let before = self.releases.len();
        self.releases
            .retain(|name, _| needed.contains(name) || newest.contains(name) || current.as_ref() == Some(name));
        before - self.releases.len()
    }

    /// The journal at a start, and whether it was intact: made again from what lies here where it was not.
    pub(crate) fn load(&mut self) -> (Journal, bool) {
        if let Ledger::Intact(journal) = &self.ledger {
            return (journal.as_ref().clone(), true);
        }
        let mut journal = Journal::default();
        let name = self.current.as_ref().map(|current| &current.release);
        if let Some(made) = name.and_then(|name| self.releases.get(name)) {
            // The epoch that made it: a rollback's newer one is not known any more.
            journal.touched = Some(made.release.epoch);
            journal.runs = Some(made.release.clone());
        }
        self.ledger = Ledger::Intact(Box::new(journal.clone()));
        (journal, false)
    }

    /// The journal as it would be read after a crash now.
    pub(crate) fn journal(&self) -> Journal {
        match &self.ledger {
            Ledger::Intact(journal) => journal.as_ref().clone(),
            Ledger::Absent | Ledger::Damaged => Journal::default(),
        }
    }
}

/// I11: what the barrier names, and what the node runs or moves to.
fn needed(journal: &Journal) -> BTreeSet<ReleaseName> {
    let record = journal.record.as_ref();
    let moving = match &journal.moving {
        Some(Target::Release(release)) => Some(release),
        Some(Target::Origin) | None => None,
    };
    let named = [
        record.and_then(|r| r.target()),
        record.and_then(|r| r.from.as_ref()),
        record.and_then(|r| r.committed.as_ref()),
        journal.runs.as_ref(),
        moving,
    ];
    named.into_iter().flatten().map(|release| release.release.clone()).collect()
}
