//! The journal at a start: as it was written, or made again from what lies on the disk.
//!
//! What is made again is what the node runs, by the record of the release that `current` points to, and what it ran before
//! Cutover, which has a file of its own. The floor is not: it is one whole record of the barrier's. Until one is followed
//! again, the epochs in the records of releases bar older ones ([`known_epoch`]); so a node that has lost its journal is
//! not taken back by keys that were restored.

use crate::protocol::ids::{ArtifactName, Epoch, ReleaseName, Sha256};
use crate::protocol::journal::{Journal, Origin, Target};
use crate::protocol::record::Release;
use crate::protocol::rule::{Rule, holds};

/// A release that Cutover made on this node, by its own record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Made {
    pub(crate) release: ReleaseName,
    pub(crate) artifact: ArtifactName,
    pub(crate) sha256: Sha256,
    /// The epoch that made the directory.
    pub(crate) created_by: Epoch,
    /// The newest epoch under which it ran: a rollback has a newer one than the directory.
    pub(crate) ran_in: Option<Epoch>,
    pub(crate) is_complete: bool,
    /// Whether its last run had success, hooks included.
    pub(crate) has_run_well: bool,
}

impl Made {
    /// The newest epoch that this node is known by it to have followed.
    fn newest_epoch(&self) -> Epoch {
        self.ran_in.map_or(self.created_by, |ran_in| ran_in.max(self.created_by))
    }
}

/// The newest epoch that this node is known to have followed, by the releases that it has made and run.
pub(crate) fn known_epoch(releases: &[Made]) -> Option<Epoch> {
    releases.iter().map(Made::newest_epoch).max()
}

/// The journal's file at a start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ledger {
    Absent,
    /// With the reason.
    Damaged(String),
    Intact(Box<Journal>),
}

/// What an agent does first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// Look at the releases, and make the journal again.
    Rebuild(Rebuild),
    /// Begin with this journal; where the origin is in it alone, write that to its own file.
    With { journal: Box<Journal>, origin_to_store: Option<Origin> },
}

/// A journal that is not there to begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rebuild {
    origin: Option<Origin>,
    /// Why the file cannot be read, where there is one.
    damage: Option<String>,
}

/// What became of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    Damaged(String),
    Gone,
    /// This node is new: there was none.
    NeverWritten,
}

/// A journal that was made again. It is to be written before anything is begun with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rebuilt {
    pub(crate) journal: Journal,
    pub(crate) loss: Loss,
}

/// `origin` is what the origin's own file holds.
pub(crate) fn start(ledger: Ledger, origin: Option<Origin>) -> Start {
    match ledger {
        Ledger::Intact(journal) => {
            // Written by an agent that kept it in the journal alone, or damaged since.
            let origin_to_store = journal.origin.clone().filter(|held| origin.as_ref() != Some(held));
            Start::With { journal, origin_to_store }
        }
        Ledger::Absent => Start::Rebuild(Rebuild { origin, damage: None }),
        Ledger::Damaged(reason) => Start::Rebuild(Rebuild { origin, damage: Some(reason) }),
    }
}

impl Rebuild {
    /// `current` is the release that the link points to, where Cutover made it.
    pub(crate) fn journal(self, current: Option<&ReleaseName>, releases: &[Made]) -> Rebuilt {
        let Self { origin, damage } = self;
        let loss = match (damage, known_epoch(releases)) {
            (Some(reason), _) => Loss::Damaged(reason),
            (None, Some(_)) => Loss::Gone,
            (None, None) => Loss::NeverWritten,
        };
        let is_current = |made: &&Made| made.is_complete && Some(&made.release) == current;
        let made = releases.iter().find(is_current).filter(|_| holds(Rule::RebuildRuns));
        let journal = made.map_or_else(Journal::default, run_by);
        // Nothing is published on the strength of it: the first record that is followed is written again.
        Rebuilt { journal: Journal { origin, ..journal }, loss }
    }
}

/// The journal of a node whose `current` points to this release.
fn run_by(made: &Made) -> Journal {
    let release = Release {
        epoch: made.newest_epoch(),
        artifact: made.artifact.clone(),
        sha256: made.sha256.clone(),
        release: made.release.clone(),
    };
    let touched = Some(release.epoch);
    // That the link points there is not enough: its hooks may not have run, and run again then.
    let (runs, moving) = if made.has_run_well { (Some(release), None) } else { (None, Some(Target::Release(release))) };
    Journal { runs, moving, touched, ..Journal::default() }
}

/// What must be in the origin's own file before `next` takes the place of `held`: it cannot be made again, and a journal
/// without it could not lead back.
pub(crate) fn origin_to_store<'a>(held: &Journal, next: &'a Journal) -> Option<&'a Origin> {
    next.origin.as_ref().filter(|new| held.origin.as_ref() != Some(new))
}
