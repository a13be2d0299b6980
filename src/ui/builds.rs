//! `/apps/<app>/builds`: the life of every build.

use askama::Template;

use super::frame::Frame;
use super::parts::{Badge, Button, Says};
use super::{filters, words};
use crate::document::{BuildRow, BuildState, BuildsDocument, counted};
use crate::protocol::ids::App;

/// Every state that a build can be asked for by.
const STATES: [BuildState; 7] = [
    BuildState::Published,
    BuildState::Building,
    BuildState::Failed,
    BuildState::Canceled,
    BuildState::Lost,
    BuildState::Bad,
    BuildState::Gone,
];

/// Which builds are asked for, as it stands in the address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BuildsFilter {
    /// Only those that stand so.
    pub state: Option<BuildState>,
    /// Only those of this branch.
    pub branch: String,
}

/// Builds of one app.
#[derive(Debug, Template)]
#[template(path = "builds.html")]
pub struct BuildsPage {
    /// What every page has.
    pub frame: Frame,
    /// Those that are asked for; none where the app has none yet.
    pub document: BuildsDocument,
    /// How many there are in all.
    pub of: usize,
    /// Which are asked for.
    pub filter: BuildsFilter,
    /// Every app, to choose from.
    pub apps: Vec<App>,
    /// Every branch, to choose from.
    pub branches: Vec<String>,
    /// The next page of a long list.
    pub next: Option<String>,
    /// Why the caller may not mark builds.
    pub no_marks: Option<String>,
}

impl BuildsPage {
    fn summary(&self) -> String {
        let shown = self.document.builds.len();
        let all = counted(self.of, "build", "builds");
        if shown == self.of { format!("{all}, newest first.") } else { format!("{shown} of {all}, newest first.") }
    }

    fn is_filtered(&self) -> bool {
        self.filter != BuildsFilter::default()
    }

    fn is_state(&self, state: BuildState) -> bool {
        self.filter.state == Some(state)
    }

    /// From its beginning to its end.
    fn took(row: &BuildRow) -> Option<u64> {
        row.took_secs.map(|secs| secs.saturating_mul(1_000))
    }

    /// What CI's page is, where it is one that a link may lead to.
    fn link(row: &BuildRow) -> Option<&str> {
        row.url.as_deref().filter(|url| url.starts_with("https://") || url.starts_with("http://"))
    }

    fn mark_button(&self, row: &BuildRow) -> Button<'_> {
        let (id, label) = if row.bad.is_some() { ("mark-good", "Mark good") } else { ("mark-bad", "Mark bad") };
        Button::new(format!("{id}-{}", row.artifact), label, "", self.no_marks.as_deref())
    }
}
