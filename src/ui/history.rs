//! `/units/<app>/<group>/history`: everything that was done, newest first.

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
    /// Only entries of this kind.
    pub(crate) kind: Option<EntryKind>,
    /// Only requests with this outcome.
    pub(crate) outcome: Option<Outcome>,
    /// Only entries by this author.
    pub(crate) by: String,
    /// Only entries about this build.
    pub(crate) artifact: String,
}

/// A unit's past.
#[derive(Debug, Template)]
#[template(path = "history.html")]
pub(crate) struct HistoryPage {
    pub(crate) frame: Frame,
    /// The matching entries.
    pub(crate) document: HistoryDocument,
    pub(crate) filter: HistoryFilter,
    /// All units, for the navigation.
    pub(crate) units: Vec<Unit>,
    /// The address of older entries.
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
