//! `/settings`: the agent's settings, the viewer's identity, and the theme of the page.

use askama::Template;
use serde::Serialize;

use super::filters;
use super::frame::{Frame, Theme};
use crate::config::ApiSection;
use crate::protocol::ids::{Node, Unit};

/// The settings of the serving agent that matter to its users.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SettingsDocument {
    /// The node.
    pub node: Node,
    /// The agent's version.
    pub version: &'static str,
    /// The units of this node; none where the agent only serves the API and the page.
    pub units: Vec<Unit>,
    /// The units of this node that have no Consul session yet.
    pub waiting: Vec<Unit>,
    /// The address of Consul.
    pub consul: String,
    /// The prefix of Cutover's keys.
    pub prefix: String,
    /// The start of links in messages.
    pub public_url: Option<String>,
    /// The listening address.
    pub listen: String,
    /// Whether it speaks TLS itself.
    pub tls: bool,
    /// Names by which it may be called, besides its address and `localhost`.
    pub hosts: Vec<String>,
    /// The addresses of the proxy that names users; empty: none does.
    pub proxy: Vec<String>,
    /// The URL that compares two commits.
    pub compare_url: Option<String>,
    /// Whether deploys from chat are on.
    pub chat: bool,
}

impl SettingsDocument {
    /// From an agent's settings under `[api]`, its node, and where its keys are.
    #[must_use]
    pub fn of(settings: &ApiSection, node: Node, consul: &str, prefix: &str) -> Self {
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

/// Settings.
#[derive(Debug, Template)]
#[template(path = "settings.html")]
pub struct SettingsPage {
    /// The frame of the page.
    pub frame: Frame,
    /// The agent's.
    pub document: SettingsDocument,
}

impl SettingsPage {
    fn is_theme(&self, theme: Theme) -> bool {
        self.frame.prefs.theme == theme
    }
}
