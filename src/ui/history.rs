//! `/units/<app>/<group>/history`: all requests and actions, newest first.

use askama::Template;

use super::frame::Frame;
use super::parts::By;
use super::{filters, words};
use crate::document::{EntryKind, HistoryDocument};
use crate::protocol::ids::Unit;
use crate::protocol::record::{ActionKind, Outcome};

/// Every kind in the filter.
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

/// Every outcome in the filter.
const OUTCOMES: [Outcome; 6] =
    [Outcome::Done, Outcome::Refused, Outcome::Aborted, Outcome::Reverted, Outcome::Failed, Outcome::Superseded];

/// The filter of the history, as in the address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HistoryFilter {
    /// None shows all kinds.
    pub(crate) kind: Option<EntryKind>,
    /// None shows all entries, also those without an outcome.
    pub(crate) outcome: Option<Outcome>,
    /// The author; empty shows all.
    pub(crate) by: String,
    /// The build; empty shows all.
    pub(crate) artifact: String,
}

/// The history of one unit.
#[derive(Debug, Template)]
#[template(path = "history.html")]
pub(crate) struct HistoryPage {
    pub(crate) frame: Frame,
    pub(crate) document: HistoryDocument,
    pub(crate) filter: HistoryFilter,
    /// All units, for the navigation.
    pub(crate) units: Vec<Unit>,
    /// The address of older entries; none on the last page.
    pub(crate) next: Option<String>,
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
