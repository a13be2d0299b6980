//! `/apps/<app>/builds`: the life of every build.

use askama::Template;

use super::frame::Frame;
use super::parts::{Badge, Button, CommitSummary};
use super::{filters, words};
use crate::document::{BuildRow, BuildState, BuildsDocument, counted};
use crate::protocol::ids::App;

/// Every state in the filter.
const STATES: [BuildState; 8] = [
    BuildState::Published,
    BuildState::Building,
    BuildState::Failed,
    BuildState::Canceled,
    BuildState::Lost,
    BuildState::Bad,
    BuildState::Gone,
    BuildState::Damaged,
];

/// The filter of the builds, as in the address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BuildsFilter {
    /// None shows all states.
    pub(crate) state: Option<BuildState>,
    /// Empty shows all branches.
    pub(crate) branch: String,
}

/// Builds of one app.
#[derive(Debug, Template)]
#[template(path = "builds.html")]
pub(crate) struct BuildsPage {
    pub(crate) frame: Frame,
    pub(crate) document: BuildsDocument,
    /// The number of rows without the filter.
    pub(crate) total: usize,
    pub(crate) filter: BuildsFilter,
    /// Every app, to choose from.
    pub(crate) apps: Vec<App>,
    /// Every branch, to choose from.
    pub(crate) branches: Vec<String>,
    /// The address of the next page; none on the last one.
    pub(crate) next: Option<String>,
    /// Why the caller may not mark builds; none if they may.
    pub(crate) no_marks: Option<String>,
}

impl BuildsPage {
    fn summary(&self) -> String {
        let shown = self.document.builds.len();
        let all = counted(self.total, "build", "builds");
        if shown == self.total { format!("{all}, newest first.") } else { format!("{shown} of {all}, newest first.") }
    }

    fn is_filtered(&self) -> bool {
        self.filter != BuildsFilter::default()
    }

    fn is_state(&self, state: BuildState) -> bool {
        self.filter.state == Some(state)
    }

    /// The duration of the build, in milliseconds.
    fn took(row: &BuildRow) -> Option<u64> {
        row.took_secs.map(|secs| secs.saturating_mul(1_000))
    }

    /// The link to CI's page, if it is an HTTP URL.
    fn link(row: &BuildRow) -> Option<&str> {
        row.url.as_deref().filter(|url| url.starts_with("https://") || url.starts_with("http://"))
    }

    fn mark_button(&self, row: &BuildRow) -> Button<'_> {
        let (id, label) = if row.bad.is_some() { ("mark-good", "Mark good") } else { ("mark-bad", "Mark bad") };
        Button::new(format!("{id}-{}", row.artifact), label, "", self.no_marks.as_deref())
    }
}
