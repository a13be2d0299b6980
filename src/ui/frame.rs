//! What every page shows around its content.

use jiff::Timestamp;

use super::parts::When;
use super::text::query_value;
use crate::protocol::ids::{App, Node, Unit};
use crate::protocol::record::{Identity, Running};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Viewer {
    /// Consul runs without ACLs: everybody may do everything.
    Everybody,
    /// Nobody has signed in: Consul's anonymous token acts.
    Anonymous,
    /// A person whom Consul or the proxy names.
    Known(Identity),
    /// Not looked up.
    Unknown,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Theme {
    /// The system's theme.
    #[default]
    Auto,
    /// Dark on light.
    Light,
    /// Light on dark.
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

/// The viewer's preferences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prefs {
    pub(crate) theme: Theme,
    /// Whether single keys do something: screen readers have their own use for them.
    pub(crate) keys: bool,
}

impl Default for Prefs {
    fn default() -> Self {
        Self { theme: Theme::Auto, keys: true }
    }
}

/// Which part of the page is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tab {
    /// Every unit, and what belongs to one.
    Overview,
    Builds,
    Nodes,
    /// What was done.
    History,
    /// What is wrong.
    Doctor,
    Settings,
    None,
}

/// What every page shows.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    /// The time that relative times count from.
    pub(crate) now: Timestamp,
    pub(crate) viewer: Viewer,
    /// The page's own address, with its query.
    pub(crate) address: String,
    /// The deploys that run now, anywhere.
    pub(crate) running: Vec<(Unit, Running)>,
    /// The viewer's preferences.
    pub(crate) prefs: Prefs,
    /// The agent that serves.
    pub(crate) node: Node,
    pub(crate) version: &'static str,
    /// Part of the page that is open.
    pub(crate) tab: Tab,
    /// The title, without the product's name.
    pub(crate) title: String,
    /// The address of the page's JSON.
    pub(crate) json: Option<String>,
    /// The query of the event stream; none where the page does not update itself.
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

    /// Whether nobody is signed in, so that Consul may hide what exists.
    pub(super) fn is_anonymous(&self) -> bool {
        self.viewer == Viewer::Anonymous
    }

    /// The address of a part: the one of this page's unit, if the page is about one.
    pub(super) fn part(&self, part: &str) -> String {
        let path = self.address.split(['?', '#']).next().unwrap_or_default();
        let mut segments = path.strip_prefix("/units/").unwrap_or_default().splitn(3, '/');
        match (segments.next().filter(|app| !app.is_empty()), segments.next(), part) {
            (Some(app), Some(_), "builds") => format!("/apps/{app}/builds"),
            (Some(app), Some(group), _) => format!("/units/{app}/{group}/{part}"),
            _ => format!("/{part}"),
        }
    }

    /// This page, as a value of a query.
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
    pub(crate) fn twin(self, json: impl Into<String>) -> Self {
        Self { json: Some(json.into()), ..self }
    }

    /// The same frame, following these units; all units if there are none.
    #[must_use]
    pub(crate) fn following<'a>(self, units: impl IntoIterator<Item = &'a Unit>) -> Self {
        let parts = units.into_iter().map(|unit| format!("unit={}", query_value(&unit.to_string())));
        Self { stream: Some(parts.collect::<Vec<_>>().join("&")), ..self }
    }

    /// The same frame, following the builds of an app.
    #[must_use]
    pub(crate) fn following_builds(self, app: &App) -> Self {
        Self { stream: Some(format!("builds={app}")), ..self }
    }
}
