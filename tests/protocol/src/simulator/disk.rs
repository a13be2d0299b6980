//! A node's disk as a value, and the changes that work makes to it, as in `src/release`.
//!
//! Each change is one step here. The tests of the disk layer prove what a power loss leaves in the middle of one (I10).
//! The product's own machines decide which releases are kept, and with which journal an agent starts.

use std::collections::BTreeMap;

use crate::consul::Session;
use crate::invariant::Releases;
use crate::protocol::ids::{Epoch, ReleaseName};
use crate::protocol::journal::{Journal, Origin};
use crate::protocol::record::{Fault, Release, Step};
use crate::protocol::rule::{Rule, holds};
use crate::protocol::shell::describe::{Found, Look, OnDisk};
use crate::protocol::shell::keep::{may_discard, needed_names};
use crate::protocol::shell::rebuild::{self, Ledger, Loss, Rebuilt, Start, known_epoch};
use crate::receipt::{self, Written};
use crate::retention::{Keep, LastRun, RecordedRelease, RunResult, previous, to_remove};

/// One complete release directory. The product makes an incomplete one anew, so it counts as absent here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Made {
    /// The release, with the epoch that made the directory.
    pub(crate) release: Release,
    last_run: Option<LastRun>,
    ran_in: Option<Epoch>,
}

#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub(crate) ledger: Ledger,
    /// The content of the origin's own file.
    pub(crate) origin: Option<Origin>,
    /// The release that `current` was switched to, with that switch's epoch; none: the origin.
    pub(crate) current: Option<Release>,
    pub(crate) releases: BTreeMap<ReleaseName, Made>,
    /// The stored id of the node's session.
    pub(crate) session: Option<Session>,
    pub(crate) is_full: bool,
}

impl Releases for Disk {
    /// Whether the directory holds this very release.
    fn holds(&self, release: &Release) -> bool {
        self.releases.get(&release.release).is_some_and(|made| made.release.same_tree(release))
    }
}

impl Disk {
    pub(crate) const fn new() -> Self {
        Self {
            ledger: Ledger::Absent,
            origin: None,
            current: None,
            releases: BTreeMap::new(),
            session: None,
            is_full: false,
        }
    }

    /// The target of `current`, for the participant.
    pub(crate) fn link(&self, before: &Origin) -> Origin {
        let release = |release: &Release| Origin::Link(format!("releases/{}", release.release));
        self.current.as_ref().map_or_else(|| before.clone(), release)
    }

    /// Fetches and unpacks a release.
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
        let made = Made { release: release.clone(), last_run: None, ran_in: None };
        self.releases.insert(release.release.clone(), made);
        Ok(())
    }

    /// Records the result of a run.
    pub(crate) fn mark_ran(&mut self, release: &Release, outcome: RunResult) {
        let latest = self.releases.values().filter_map(|made| made.last_run).map(|run| run.sequence).max();
        let Some(made) = self.releases.get_mut(&release.release) else { return };
        let is_known = made.last_run.is_some_and(|run| Some(run.sequence) == latest && run.outcome == outcome);
        made.ran_in = made.ran_in.max(Some(release.epoch));
        if !is_known {
            made.last_run = Some(LastRun { sequence: latest.map_or(1, |n| n + 1), outcome });
        }
    }

    /// P2. Removes the directory that the epoch made, unless it is needed.
    pub(crate) fn discard(&mut self, release: &Release, journal: &Journal) {
        if !may_discard(journal, release) {
            return;
        }
        let is_own = self.releases.get(&release.release).is_some_and(|made| made.release.epoch == release.epoch);
        let is_current = self.current.as_ref().is_some_and(|current| current.release == release.release);
        if is_own && !is_current || !holds(Rule::DiscardOwn) {
            self.releases.remove(&release.release);
        }
    }

    fn known(&self) -> Vec<RecordedRelease> {
        let known = |(name, made): (&ReleaseName, &Made)| RecordedRelease {
            name: name.clone(),
            last_run: made.last_run,
            disk_bytes: 0,
        };
        self.releases.iter().map(known).collect()
    }

    fn current_name(&self) -> Option<&ReleaseName> {
        self.current.as_ref().map(|current| &current.release)
    }

    /// Removes old releases, and returns their number.
    pub(crate) fn prune(&mut self, keep: usize, journal: &Journal) -> usize {
        let gone = to_remove(&self.known(), self.current_name(), &needed_names(journal), Keep::releases(keep));
        for name in &gone {
            self.releases.remove(name);
        }
        gone.len()
    }

    /// The records of the releases, for a rebuild.
    pub(crate) fn made(&self) -> Vec<rebuild::Made> {
        let made = |made: &Made| rebuild::Made {
            release: made.release.release.clone(),
            artifact: made.release.artifact.clone(),
            sha256: made.release.sha256.clone(),
            created_by: made.release.epoch,
            ran_in: made.ran_in,
            is_complete: true,
            has_run_well: made.last_run.is_some_and(|run| run.outcome == RunResult::Done),
        };
        self.releases.values().map(made).collect()
    }

    /// The fields of the disk in the node's record.
    pub(crate) fn look(&self, look: Look) -> Found {
        let known = match look {
            Look::Nothing => return Found::Nothing,
            Look::Disk => None,
            Look::DiskAndEpochs => known_epoch(&self.made()),
        };
        Found::Disk(OnDisk {
            current: self.current_name().map(ToString::to_string),
            previous: previous(&self.known(), self.current_name()),
            staged: Vec::new(),
            newest_release: self.releases.keys().next_back().cloned(),
            free_bytes: u64::from(!self.is_full),
            unremovable: Vec::new(),
            known,
        })
    }

    /// The journal at a start; with a loss where it was rebuilt.
    pub(crate) fn load(&mut self) -> (Journal, Option<Loss>) {
        match rebuild::start(self.ledger.clone(), self.origin.clone()) {
            Start::With { journal, origin_to_store } => {
                self.origin = origin_to_store.or_else(|| self.origin.take());
                (*journal, None)
            }
            Start::Rebuild(rebuild) => {
                let Rebuilt { journal, loss } = rebuild.journal(self.current_name(), &self.made());
                // The first publication of the new life writes the journal again, for its own receipt.
                let _written = self.store(&journal);
                (journal, Some(loss))
            }
        }
    }

    /// Writes the journal, and before it the origin, which cannot be rebuilt.
    pub(crate) fn store(&mut self, journal: &Journal) -> Written {
        let held = self.journal();
        if let Some(origin) = rebuild::origin_to_store(&held, journal) {
            self.origin = Some(origin.clone());
        }
        let mut written: Box<Journal> = Box::default();
        let receipt = receipt::write(&mut written, journal);
        self.ledger = Ledger::Intact(written);
        receipt
    }

    /// The journal as it would be read after a crash now.
    pub(crate) fn journal(&self) -> Journal {
        match &self.ledger {
            Ledger::Intact(journal) => journal.as_ref().clone(),
            Ledger::Absent | Ledger::Damaged(_) => Journal::default(),
        }
    }
}
