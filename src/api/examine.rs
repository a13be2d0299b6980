//! What is found out by asking the nodes, and how this agent is set: for programs, and for the page.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::IntoResponse;
use serde::Deserialize;

use super::body::{Asked, At};
use super::error::{Answer, Problem};
use super::{Api, Caller, guard};
use crate::control::operate::Author;
use crate::control::{Code, doctor as health, dry_run as trial};
use crate::document::{DoctorDocument, DryRunDocument};
use crate::protocol::ids::{App, ArtifactName, Group, Unit};
use crate::protocol::record::{Request, Selector, Wanted};
use crate::ui::SettingsDocument;

/// How long nodes are waited for: below a request's own limit, with room for a slow Consul.
const NODES_LIMIT: Duration = Duration::from_secs(8);

/// The parameters of a dry run's query.
pub(super) const REVIEWED: [&str; 6] = ["ref", "rollback", "to", "reason", "force", "again"];

/// What a dry run is about, as it stands in the query. What is empty there is not said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Reviewed {
    #[serde(default, rename = "ref")]
    pub(super) reference: String,
    #[serde(default)]
    pub(super) rollback: String,
    #[serde(default)]
    pub(super) to: String,
    #[serde(default)]
    pub(super) reason: String,
    #[serde(default)]
    pub(super) force: String,
    #[serde(default)]
    pub(super) again: String,
}

/// Whether a box is ticked.
///
/// # Errors
///
/// 400 for anything but `on` and nothing.
pub(super) fn ticked(name: &str, value: &str) -> Result<bool, Problem> {
    match value {
        "on" => Ok(true),
        "" => Ok(false),
        other => Err(Problem::usage(format!("{name}: {other:?} is not on"), "write on, or leave it out")),
    }
}

/// A name that may be left out.
///
/// # Errors
///
/// 400 for what is no such name.
pub(super) fn optional<T: std::str::FromStr<Err: std::fmt::Display>>(
    name: &str,
    value: &str,
) -> Result<Option<T>, Problem> {
    let value = value.trim();
    if value.is_empty() {
        return Ok(None);
    }
    value.parse().map(Some).map_err(|error| Problem::usage(format!("{name}: {error}"), "correct it, or leave it out"))
}

impl Reviewed {
    /// The request that it is about.
    ///
    /// # Errors
    ///
    /// 400 for what no request can be.
    pub(super) fn request(&self) -> Result<Request, Problem> {
        let wanted = if ticked("rollback", &self.rollback)? {
            Wanted::Rollback(optional::<ArtifactName>("to", &self.to)?)
        } else if self.reference.trim().is_empty() {
            let hint = "write a branch, a build's name, commit:… or artifact:…";
            return Err(Problem::usage("ref: it is empty, so nothing is asked for", hint));
        } else {
            let selector = Selector::parse(&self.reference);
            let hint = "write a branch, a build's name, commit:… or artifact:…";
            Wanted::Deploy(selector.map_err(|problem| Problem::usage(format!("ref: {problem}"), hint))?)
        };
        Ok(Request {
            wanted,
            by: String::new(),
            via: "ui".to_owned(),
            reason: self.reason.trim().to_owned(),
            id: String::new(),
            force: ticked("force", &self.force)?,
            again: ticked("again", &self.again)?,
        })
    }
}

/// Refuses to ask the nodes for a page that is none of ours: it could keep them from hearing anybody else.
///
/// # Errors
///
/// 403.
pub(super) fn from_here(api: &Api, headers: &HeaderMap) -> Result<(), Problem> {
    if guard::is_from_here(&api.settings, headers) {
        return Ok(());
    }
    let hint = "open it from Cutover's own pages, or type its address";
    Err(Problem::forbidden("cross_site", "another site may have led here, and this would ask the nodes", hint))
}

/// The author of a question that the caller asks.
///
/// # Errors
///
/// As any read of Consul.
pub(super) async fn asker(caller: &Caller, via: &str) -> Result<Author, Problem> {
    let by = caller.identity().await?.map_or_else(|| "unattributed".to_owned(), |identity| identity.name);
    Ok(Author { by, via: via.to_owned(), reason: String::new(), id: String::new() })
}

/// What `request` would do.
///
/// # Errors
///
/// As [`trial::dry_run`].
pub(super) async fn tried(caller: &Caller, unit: &Unit, request: &Request) -> Result<DryRunDocument, Problem> {
    let author = asker(caller, &request.via).await?;
    let (document, _) = trial::dry_run(caller.access(), unit, request, &author, NODES_LIMIT).await?;
    Ok(document)
}

/// What is wrong in a unit.
///
/// # Errors
///
/// 404 for a unit that is not known, 409 where others ask its nodes; what else cannot be found out is a finding.
pub(super) async fn examined(caller: &Caller, unit: &Unit, via: &str) -> Result<DoctorDocument, Problem> {
    let access = caller.access();
    if !access.units().await?.contains(unit) {
        return Err(access.unknown(unit).await.into());
    }
    let author = asker(caller, via).await?;
    let (here, unit) = tokio::join!(health::consul(access), health::unit(access, unit, &author, NODES_LIMIT));
    Ok(DoctorDocument::of(here, vec![unit?], (Code::Done as u8, Code::Failed as u8)))
}

/// How this agent is set, as far as it concerns its callers.
pub(super) fn set(api: &Api, caller: &Caller) -> SettingsDocument {
    let consul = caller.access().kv.client().address().to_string();
    let document = SettingsDocument::of(&api.settings, api.node.clone(), (&consul, api.keys.prefix()));
    SettingsDocument { units: api.host.units(), waiting: api.host.waiting(), chat: api.chat.is_some(), ..document }
}

/// `GET /v1/dry-run/<app>/<group>`.
pub(super) async fn dry_run(
    State(api): State<Arc<Api>>,
    caller: Caller,
    At((app, group)): At<(App, Group)>,
    headers: HeaderMap,
    Asked(reviewed): Asked<Reviewed>,
) -> Answer {
    from_here(&api, &headers)?;
    let request = Request { via: "api".to_owned(), ..reviewed.request()? };
    Ok(Json(tried(&caller, &Unit { app, group }, &request).await?).into_response())
}

/// `GET /v1/doctor/<app>/<group>`.
pub(super) async fn doctor(
    State(api): State<Arc<Api>>,
    caller: Caller,
    At((app, group)): At<(App, Group)>,
    headers: HeaderMap,
) -> Answer {
    from_here(&api, &headers)?;
    Ok(Json(examined(&caller, &Unit { app, group }, "api").await?).into_response())
}

/// `GET /v1/settings`.
pub(super) async fn settings(State(api): State<Arc<Api>>, caller: Caller) -> Answer {
    Ok(Json(set(&api, &caller)).into_response())
}
