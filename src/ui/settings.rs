//! `/settings`: what this page's agent is set to, who looks, and how the page looks.

use askama::Template;
use serde::Serialize;

use super::filters;
use super::frame::{Frame, Theme};
use crate::config::ApiSection;
use crate::protocol::ids::{Node, Unit};

/// How the agent that serves is set, as far as it concerns those who come to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SettingsDocument {
    /// The node.
    pub node: Node,
    /// The agent's version.
    pub version: &'static str,
    /// The units of this node; none: it serves API and page alone.
    pub units: Vec<Unit>,
    /// Those of them that have no Consul session yet.
    pub waiting: Vec<Unit>,
    /// Where Consul is.
    pub consul: String,
    /// Where Cutover's keys lie there.
    pub prefix: String,
    /// What links in messages begin with.
    pub public_url: Option<String>,
    /// Where the agent listens.
    pub listen: String,
    /// Whether it speaks TLS itself.
    pub tls: bool,
    /// Names by which it may be called, besides its address and `localhost`.
    pub hosts: Vec<String>,
    /// The addresses of the proxy that names users; empty: none does.
    pub proxy: Vec<String>,
    /// Where two commits are compared.
    pub compare_url: Option<String>,
    /// Whether deploys can be asked for from chat.
    pub chat: bool,
}

impl SettingsDocument {
    /// Of an agent's settings under `[api]`, and of what else is known of it.
    #[must_use]
    pub fn of(settings: &ApiSection, node: Node, (consul, prefix): (&str, &str)) -> Self {
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
    /// What every page has.
    pub frame: Frame,
    /// The agent's.
    pub document: SettingsDocument,
}

impl SettingsPage {
    fn is_theme(&self, theme: Theme) -> bool {
        self.frame.prefs.theme == theme
    }
}
