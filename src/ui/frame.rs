//! The part of every page around its content: navigation, viewer, running deploys, footer.

use jiff::Timestamp;

use super::parts::When;
use super::text::query_value;
use crate::protocol::ids::{App, Node, Unit};
use crate::protocol::record::{Identity, Running};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Viewer {
    /// Consul runs without ACLs, so everyone may do everything.
    Everybody,
    /// Not signed in. Requests use Consul's anonymous token.
    Anonymous,
    /// The identity that Consul or the proxy confirms.
    Person(Identity),
    /// The identity was not looked up: on error pages and the sign-in page.
    Unknown,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Theme {
    /// The system's theme.
    #[default]
    Auto,
    Light,
    Dark,
}

impl Theme {
    /// The word in the cookie and in the form.
    #[must_use]
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Light => "light",
            Self::Dark => "dark",
        }
    }
}

/// The viewer's preferences, kept in a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prefs {
    pub(crate) theme: Theme,
    /// Whether keyboard shortcuts are on. Screen readers use single keys themselves.
    pub(crate) keys: bool,
}

impl Default for Prefs {
    fn default() -> Self {
        Self { theme: Theme::Auto, keys: true }
    }
}

/// The open entry of the navigation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tab {
    /// Every unit, and the pages of one unit.
    Overview,
    Builds,
    Nodes,
    History,
    Doctor,
    Settings,
    None,
}

/// The values that every page shows.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    /// The time that relative times count from.
    pub(crate) now: Timestamp,
    pub(crate) viewer: Viewer,
    /// The page's own address, with its query.
    pub(crate) address: String,
    /// The running deploys of all units.
    pub(crate) running: Vec<(Unit, Running)>,
    pub(crate) prefs: Prefs,
    /// The node of the agent that serves the page.
    pub(crate) node: Node,
    pub(crate) version: &'static str,
    pub(crate) tab: Tab,
    /// The title, without the product's name.
    pub(crate) title: String,
    /// The address of the page's JSON.
    pub(crate) json: Option<String>,
    /// The query of the event stream; none if the page does not update itself.
    pub(crate) stream: Option<String>,
}

impl Frame {
    pub(super) fn when(&self, at: &Timestamp) -> When {
        When::new(*at, self.now)
    }

    pub(super) fn is_tab(&self, tab: &str) -> bool {
        let own = match self.tab {
            Tab::Overview => "overview",
            Tab::Builds => "builds",
            Tab::Nodes => "nodes",
            Tab::History => "history",
            Tab::Doctor => "doctor",
            Tab::Settings => "settings",
            Tab::None => "",
        };
        own == tab
    }

    /// Whether the viewer is not signed in. Consul then may hide groups.
    pub(super) fn is_anonymous(&self) -> bool {
        self.viewer == Viewer::Anonymous
    }

    /// The address of a navigation entry. On the page of a unit it leads to the same unit.
    pub(super) fn part(&self, part: &str) -> String {
        let path = self.address.split(['?', '#']).next().unwrap_or_default();
        let mut segments = path.strip_prefix("/units/").unwrap_or_default().splitn(3, '/');
        match (segments.next().filter(|app| !app.is_empty()), segments.next(), part) {
            (Some(app), Some(_), "builds") => format!("/apps/{app}/builds"),
            (Some(app), Some(group), _) => format!("/units/{app}/{group}/{part}"),
            _ => format!("/{part}"),
        }
    }

    /// The page's own address, escaped for a query: sign-in leads back to it.
    pub(super) fn here(&self) -> String {
        query_value(&self.address)
    }

    /// The same frame, with this tab and title.
    #[must_use]
    pub(crate) fn on(self, tab: Tab, title: impl Into<String>) -> Self {
        Self { tab, title: title.into(), ..self }
    }

    /// The same frame, with the address of the page's JSON.
    #[must_use]
    pub(crate) fn with_json(self, json: impl Into<String>) -> Self {
        Self { json: Some(json.into()), ..self }
    }

    /// The same frame with the events of these units; of all units if the list is empty.
    #[must_use]
    pub(crate) fn following<'a>(self, units: impl IntoIterator<Item = &'a Unit>) -> Self {
        let parts = units.into_iter().map(|unit| format!("unit={}", query_value(&unit.to_string())));
        Self { stream: Some(parts.collect::<Vec<_>>().join("&")), ..self }
    }

    /// The same frame with the events of an app's builds.
    #[must_use]
    pub(crate) fn following_builds(self, app: &App) -> Self {
        Self { stream: Some(format!("builds={app}")), ..self }
    }
}
