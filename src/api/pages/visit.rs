//! One request for a page: the viewer, their preferences, and how the page is sent.

use std::sync::Arc;

use askama::Template;
use axum::extract::FromRequestParts;
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE, COOKIE, VARY};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Uri};
use axum::response::{IntoResponse as _, Response};
use flate2::Compression;
use jiff::Timestamp;

use super::takes_gzip;
use crate::api::error::Problem;
use crate::api::{Api, Caller};
use crate::control::{Code, Failure, read};
use crate::protocol::ids::Unit;
use crate::protocol::record::Running;
use crate::ui::{Frame, Prefs, Tab, Theme, Viewer, assets};

/// The cookie with the viewer's preferences.
pub(super) const PREFS: &str = "cutover_page";

/// A request for a page.
#[derive(Debug)]
pub(super) struct Visit {
    pub(super) api: Arc<Api>,
    pub(super) caller: Caller,
    view: View,
}

/// The part of a [`Visit`] that needs no access to Consul.
#[derive(Clone, Debug)]
pub(super) struct View {
    address: String,
    prefs: Prefs,
    gzip: bool,
}

impl View {
    pub(super) fn of(uri: &Uri, headers: &HeaderMap) -> Self {
        let address = uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
        Self { address, prefs: prefs(headers), gzip: takes_gzip(headers) }
    }

    /// The frame of a page for this viewer.
    pub(super) fn frame(&self, api: &Api, viewer: Viewer, running: Vec<(Unit, Running)>) -> Frame {
        Frame {
            now: Timestamp::now(),
            viewer,
            address: self.address.clone(),
            running,
            prefs: self.prefs,
            node: api.node.clone(),
            version: env!("CARGO_PKG_VERSION"),
            tab: Tab::None,
            title: String::new(),
            json: None,
            stream: None,
        }
    }

    /// Renders a page, compressed if the client accepts gzip.
    ///
    /// # Errors
    ///
    /// 500 if rendering fails, which is a bug.
    pub(super) fn answer(&self, page: &impl Template) -> Result<Response, Problem> {
        let html = page.render().map_err(|error| {
            Failure::new(Code::Failed, "the page cannot be rendered").caused_by(error).hint("see the agent's log")
        })?;
        let kind = (CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        let vary = (VARY, HeaderValue::from_static("accept-encoding, cookie"));
        if self.gzip {
            let packed = assets::packed(html.as_bytes(), Compression::fast());
            if !packed.is_empty() {
                let encoding = (CONTENT_ENCODING, HeaderValue::from_static("gzip"));
                return Ok(([kind, vary, encoding], packed).into_response());
            }
        }
        Ok(([kind, vary], html).into_response())
    }
}

impl Visit {
    pub(super) fn access(&self) -> &crate::control::Access {
        self.caller.access()
    }

    /// The frame of a page for this caller, with the running deploys of `units`.
    ///
    /// # Errors
    ///
    /// As any read of Consul.
    pub(super) async fn frame(&self, units: &[Unit]) -> Result<Frame, Problem> {
        let (viewer, running) = tokio::join!(self.viewer(), read::running(self.access(), units));
        Ok(self.view.frame(&self.api, viewer?, running?))
    }

    async fn viewer(&self) -> Result<Viewer, Failure> {
        if let Some(identity) = self.caller.identity().await? {
            return Ok(Viewer::Person(identity));
        }
        // Consul without ACLs knows no tokens. Consul with ACLs returns the anonymous token, or refuses the read.
        match self.access().kv.client().token_self().await.map_err(Failure::from) {
            Ok(None) => Ok(Viewer::Everybody),
            Ok(Some(_)) => Ok(Viewer::Anonymous),
            Err(failure) if failure.code == Code::NotAllowed => Ok(Viewer::Anonymous),
            Err(failure) => Err(failure),
        }
    }

    /// Renders a page, compressed if the client accepts gzip.
    ///
    /// # Errors
    ///
    /// As [`View::answer`].
    pub(super) fn answer(&self, page: &impl Template) -> Result<Response, Problem> {
        self.view.answer(page)
    }
}

impl FromRequestParts<Arc<Api>> for Visit {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let view = View::of(&parts.uri, &parts.headers);
        let caller = Caller::from_request_parts(parts, api).await?;
        Ok(Self { api: Arc::clone(api), caller, view })
    }
}

/// Reads the cookie, as `dark.off`: theme and keyboard shortcuts. Unknown values are ignored.
fn prefs(headers: &HeaderMap) -> Prefs {
    let cookies =
        headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(';'));
    let mut named = cookies.filter_map(|pair| pair.trim().split_once('=')).filter(|(name, _)| *name == PREFS);
    let Some((theme, keys)) = named.next().and_then(|(_, value)| value.split_once('.')) else {
        return Prefs::default();
    };
    Prefs { theme: theme_of(theme).unwrap_or_default(), keys: keys != "off" }
}

pub(super) fn theme_of(word: &str) -> Option<Theme> {
    [Theme::Auto, Theme::Light, Theme::Dark].into_iter().find(|theme| theme.as_str() == word)
}
