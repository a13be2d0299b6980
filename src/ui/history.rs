//! `/units/<app>/<group>/history`: everything that was done, newest first.

use askama::Template;

use super::frame::Frame;
use super::parts::By;
use super::{filters, words};
use crate::document::{EntryKind, HistoryDocument};
use crate::protocol::ids::Unit;
use crate::protocol::record::{ActionKind, Outcome};

/// Every kind that lines can be asked for by.
const KINDS: [EntryKind; 11] = [
    EntryKind::Deploy,
    EntryKind::Rollback,
    EntryKind::Recover,
    EntryKind::Action(ActionKind::Abort),
    EntryKind::Action(ActionKind::Freeze),
    EntryKind::Action(ActionKind::Unfreeze),
    EntryKind::Action(ActionKind::Publish),
    EntryKind::Action(ActionKind::MarkBad),
    EntryKind::Action(ActionKind::MarkGood),
    EntryKind::Action(ActionKind::Forget),
    EntryKind::Action(ActionKind::Repair),
];

/// Every outcome that lines can be asked for by.
const OUTCOMES: [Outcome; 6] =
    [Outcome::Done, Outcome::Refused, Outcome::Aborted, Outcome::Reverted, Outcome::Failed, Outcome::Superseded];

/// Which lines are asked for, as it stands in the address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryFilter {
    /// Only lines of this kind.
    pub kind: Option<EntryKind>,
    /// Only requests that ended so.
    pub outcome: Option<Outcome>,
    /// Only what these say to have done.
    pub by: String,
    /// Only what was done with this build.
    pub artifact: String,
}

/// A unit's past.
#[derive(Debug, Template)]
#[template(path = "history.html")]
pub struct HistoryPage {
    /// What every page has.
    pub frame: Frame,
    /// The lines that are asked for.
    pub document: HistoryDocument,
    /// Which are asked for.
    pub filter: HistoryFilter,
    /// Every unit, to choose from.
    pub units: Vec<Unit>,
    /// Where older lines are.
    pub next: Option<String>,
}

impl HistoryPage {
    fn is_filtered(&self) -> bool {
        self.filter != HistoryFilter::default()
    }

    fn is_kind(&self, kind: EntryKind) -> bool {
        self.filter.kind == Some(kind)
    }

    fn is_outcome(&self, outcome: Outcome) -> bool {
        self.filter.outcome == Some(outcome)
    }
}
