//! What is found out by asking the nodes, and how this agent is set: for programs, and for the page.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::IntoResponse;

use super::body::{Asked, At};
use super::error::{Answer, Problem};
use super::review::Reviewed;
use super::{Api, Caller, guard};
use crate::control::{Code, doctor as health, dry_run as trial};
use crate::document::{DoctorDocument, DryRunDocument};
use crate::protocol::ids::{App, Group, Unit};
use crate::protocol::record::{Author, Request, UNATTRIBUTED};
use crate::ui::SettingsDocument;

/// How long nodes are waited for: below a request's own limit, with room for a slow Consul.
const NODES_LIMIT: Duration = Duration::from_secs(8);

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
    let by = caller.identity().await?.map_or_else(|| UNATTRIBUTED.to_owned(), |identity| identity.name);
    Ok(Author { by, via: via.to_owned(), reason: String::new(), id: String::new() })
}

/// What `request` would do.
///
/// # Errors
///
/// As [`trial::dry_run`].
pub(super) async fn tried(caller: &Caller, unit: &Unit, request: &Request) -> Result<DryRunDocument, Problem> {
    let author = asker(caller, &request.author.via).await?;
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
    let mut request = reviewed.request()?;
    "api".clone_into(&mut request.author.via);
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
