//! `/settings`: the agent's settings, the viewer's identity, and the theme of the page.

use askama::Template;
use schemars::JsonSchema;
use serde::Serialize;

use super::filters;
use super::frame::{Frame, Theme};
use crate::config::ApiSection;
use crate::protocol::ids::{Node, Unit};

/// The settings of the answering agent that matter to its callers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct SettingsDocument {
    pub(crate) node: Node,
    /// The agent's version.
    pub(crate) version: &'static str,
    /// The units of this node; none where the agent only serves the API and the page.
    pub(crate) units: Vec<Unit>,
    /// The units of this node that have no Consul session yet.
    pub(crate) waiting: Vec<Unit>,
    /// The address of Consul.
    pub(crate) consul: String,
    /// The prefix of Cutover's keys.
    pub(crate) prefix: String,
    /// The start of links in messages.
    pub(crate) public_url: Option<String>,
    /// The listening address.
    pub(crate) listen: String,
    /// Whether it speaks TLS itself.
    pub(crate) tls: bool,
    /// Names by which it may be called, besides its address and `localhost`.
    pub(crate) hosts: Vec<String>,
    /// The addresses of the proxy that names users; empty: none does.
    pub(crate) proxy: Vec<String>,
    /// The URL that compares two commits.
    pub(crate) compare_url: Option<String>,
    /// Whether deploys from chat are on.
    pub(crate) chat: bool,
}

impl SettingsDocument {
    /// From an agent's settings under `[api]`, its node, and where its keys are.
    #[must_use]
    pub(crate) fn of(settings: &ApiSection, node: Node, consul: &str, prefix: &str) -> Self {
        Self {
            node,
            version: env!("CARGO_PKG_VERSION"),
            units: Vec::new(),
            waiting: Vec::new(),
            consul: consul.to_owned(),
            prefix: prefix.to_owned(),
            public_url: settings.public_url.as_deref().map(str::to_owned),
            listen: settings.listen.to_string(),
            tls: settings.tls.is_some(),
            hosts: settings.hosts.clone(),
            proxy: settings.proxy.iter().flat_map(|proxy| proxy.from.iter().map(ToString::to_string)).collect(),
            compare_url: settings.compare_url.clone(),
            chat: false,
        }
    }
}

#[derive(Debug, Template)]
#[template(path = "settings.html")]
pub(crate) struct SettingsPage {
    pub(crate) frame: Frame,
    /// The agent's.
    pub(crate) document: SettingsDocument,
}

impl SettingsPage {
    fn is_theme(&self, theme: Theme) -> bool {
        self.frame.prefs.theme == theme
    }
}
