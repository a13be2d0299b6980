//! The journal at a start: as it was written, or rebuilt from the disk.
//!
//! Rebuilt are the release that the node runs, from the record of the release that `current` points to, and the origin,
//! which has a file of its own. The floor cannot be rebuilt: it is one whole record of the barrier. Until the node follows
//! a record again, the epochs in its releases' records exclude older ones ([`known_epoch`]). So restored keys do not roll
//! back a node that has lost its journal.

use crate::protocol::ids::{ArtifactName, Epoch, ReleaseName, Sha256};
use crate::protocol::journal::{Journal, Origin, Target};
use crate::protocol::record::Release;
use crate::protocol::rule::{Rule, holds};

/// A release that Cutover made on this node, by the release's own record.
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
    /// Whether its last switch succeeded, hooks included.
    pub(crate) has_run_well: bool,
}

impl Made {
    /// The newest epoch that this release shows the node to have followed.
    fn newest_epoch(&self) -> Epoch {
        self.ran_in.map_or(self.created_by, |ran_in| ran_in.max(self.created_by))
    }
}

/// The newest epoch that the releases show this node to have followed.
pub(crate) fn known_epoch(releases: &[Made]) -> Option<Epoch> {
    releases.iter().map(Made::newest_epoch).max()
}

/// The journal's file at a start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ledger {
    Absent,
    Damaged(String),
    Intact(Box<Journal>),
}

/// An agent's first work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// Look at the releases, and rebuild the journal.
    Rebuild(Rebuild),
    /// Begin with this journal; where only the journal has the origin, write the origin to its own file first.
    With { journal: Box<Journal>, origin_to_store: Option<Origin> },
}

/// A journal that must be rebuilt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rebuild {
    origin: Option<Origin>,
    /// Why the file cannot be read; none: there is no file.
    damage: Option<String>,
}

/// How the journal was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    Damaged(String),
    Gone,
    /// The node is new.
    NeverWritten,
}

/// A rebuilt journal. It must be written before anything begins with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rebuilt {
    pub(crate) journal: Journal,
    pub(crate) loss: Loss,
}

/// `origin` is the content of the origin's own file.
pub(crate) fn start(ledger: Ledger, origin: Option<Origin>) -> Start {
    match ledger {
        Ledger::Intact(journal) => {
            // An older agent kept the origin in the journal alone, or its own file is damaged.
            let origin_to_store = journal.origin.clone().filter(|held| origin.as_ref() != Some(held));
            Start::With { journal, origin_to_store }
        }
        Ledger::Absent => Start::Rebuild(Rebuild { origin, damage: None }),
        Ledger::Damaged(reason) => Start::Rebuild(Rebuild { origin, damage: Some(reason) }),
    }
}

impl Rebuild {
    /// `current` is the release that the link points to; none: Cutover did not make it.
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
        // Nothing is published from it alone: the first record that the node follows is written again.
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
    // The link alone is not enough: its hooks may not have run. They run again then.
    let (runs, moving) = if made.has_run_well { (Some(release), None) } else { (None, Some(Target::Release(release))) };
    Journal { runs, moving, touched, ..Journal::default() }
}

/// The origin to store in its own file before `next` replaces `held`. The origin cannot be rebuilt, and a journal without
/// it could not lead back.
pub(crate) fn origin_to_store<'a>(held: &Journal, next: &'a Journal) -> Option<&'a Origin> {
    next.origin.as_ref().filter(|new| held.origin.as_ref() != Some(new))
}
