//! Dry run, doctor and settings, for programs and for the page. The first two query the nodes.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;

use super::body::{Asked, At};
use super::error::{Answer, Problem};
use super::review::Reviewed;
use super::{Api, Caller, guard};
use crate::control::{Code, doctor as health, dry_run as trial};
use crate::document::{DoctorDocument, DryRunDocument};
use crate::protocol::ids::{App, Group, Unit};
use crate::protocol::record::{Author, Request, UNATTRIBUTED};
use crate::ui::SettingsDocument;

/// How long to wait for the nodes: less than the limit of the HTTP request, so that a slow Consul still fits.
const NODES_LIMIT: Duration = Duration::from_secs(8);

/// Refuses to query the nodes for another site's page, which could keep them busy.
///
/// # Errors
///
/// 403.
pub(super) fn refuse_cross_site(api: &Api, headers: &HeaderMap) -> Result<(), Problem> {
    if guard::is_from_here(&api.settings, headers) {
        return Ok(());
    }
    let hint = "open this page from another page of Cutover, or type its address";
    Err(Problem::forbidden("cross_site", "the request may come from another site, and it would query the nodes", hint))
}

/// The caller as the author of a query to the nodes.
///
/// # Errors
///
/// As any read of Consul.
pub(super) async fn author_of(caller: &Caller, via: &str) -> Result<Author, Problem> {
    let by = caller.identity().await?.map_or_else(|| UNATTRIBUTED.to_owned(), |identity| identity.name);
    Ok(Author { by, via: via.to_owned(), reason: String::new(), id: String::new() })
}

/// The dry run of `request`.
///
/// # Errors
///
/// As [`trial::dry_run`].
pub(super) async fn dry_run_of(caller: &Caller, unit: &Unit, request: &Request) -> Result<DryRunDocument, Problem> {
    let author = author_of(caller, &request.author.via).await?;
    let (document, _) = trial::dry_run(caller.access(), unit, request, &author, NODES_LIMIT).await?;
    Ok(document)
}

/// The health check of a unit.
///
/// # Errors
///
/// 404 for an unknown unit, 409 while another query to its nodes is open. Any other failure is a finding.
pub(super) async fn doctor_of(caller: &Caller, unit: &Unit, via: &str) -> Result<DoctorDocument, Problem> {
    let access = caller.access();
    if !access.units().await?.contains(unit) {
        return Err(access.unknown(unit).await.into());
    }
    let author = author_of(caller, via).await?;
    let (here, unit) = tokio::join!(health::consul(access), health::unit(access, unit, &author, NODES_LIMIT));
    Ok(DoctorDocument::of(here, vec![unit?], (Code::Done as u8, Code::Failed as u8)))
}

/// The settings of this agent that matter to its callers.
pub(super) fn settings_of(api: &Api, caller: &Caller) -> SettingsDocument {
    let consul = caller.access().kv.client().address().to_string();
    let document = SettingsDocument::of(&api.settings, api.node.clone(), &consul, api.keys.prefix());
    SettingsDocument { units: api.host.units(), waiting: api.host.waiting(), chat: api.chat.is_some(), ..document }
}

/// `GET /v1/dry-run/<app>/<group>`.
pub(super) async fn dry_run(
    State(api): State<Arc<Api>>,
    caller: Caller,
    At((app, group)): At<(App, Group)>,
    headers: HeaderMap,
    Asked(reviewed): Asked<Reviewed>,
) -> Answer<Json<DryRunDocument>> {
    refuse_cross_site(&api, &headers)?;
    let mut request = reviewed.request()?;
    "api".clone_into(&mut request.author.via);
    Ok(Json(dry_run_of(&caller, &Unit { app, group }, &request).await?))
}

/// `GET /v1/doctor/<app>/<group>`.
pub(super) async fn doctor(
    State(api): State<Arc<Api>>,
    caller: Caller,
    At((app, group)): At<(App, Group)>,
    headers: HeaderMap,
) -> Answer<Json<DoctorDocument>> {
    refuse_cross_site(&api, &headers)?;
    Ok(Json(doctor_of(&caller, &Unit { app, group }, "api").await?))
}

/// `GET /v1/settings`.
pub(super) async fn settings(State(api): State<Arc<Api>>, caller: Caller) -> Json<SettingsDocument> {
    Json(settings_of(&api, &caller))
}
