//! Requests to a unit: deploy, rollback, abort, freeze, unfreeze.
//!
//! Nothing waits here: a request is written, or refused because another one runs or waits. The `Location` of the answer
//! shows its progress.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::IntoResponse;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

use super::attest::{self, Claim};
use super::body::{At, Fields, Object};
use super::error::{Answer, Problem};
use super::{Api, Caller};
use crate::control::{Code, operate, request};
use crate::document::{DeployDocument, DeployState};
use crate::protocol::ids::{App, ArtifactName, Epoch, Group, Unit};
use crate::protocol::record::{Author, BY_HAND, Freeze, Request, Wanted};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RollbackBody {
    to: Option<ArtifactName>,
    by: Option<String>,
    via: Option<String>,
    #[serde(default)]
    reason: String,
    id: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FreezeBody {
    until: Option<Timestamp>,
    by: Option<String>,
    via: Option<String>,
    #[serde(default)]
    reason: String,
    id: Option<String>,
}

/// `POST /v1/deploys/<app>/<group>`: the request as `consul kv put` takes it in its JSON form.
pub(super) async fn deploy(
    State(api): State<Arc<Api>>,
    caller: Caller,
    At((app, group)): At<(App, Group)>,
    Object(bytes): Object,
) -> Answer {
    let hint = "GET /v1/openapi.json describes it";
    let request = Request::parse(&bytes).map_err(|invalid| Problem::usage(invalid.to_string(), hint))?;
    ask(api, caller, Unit { app, group }, request).await
}

/// `POST …/rollback`.
pub(super) async fn rollback(
    State(api): State<Arc<Api>>,
    caller: Caller,
    At((app, group)): At<(App, Group)>,
    Fields(RollbackBody { to, by, via, reason, id }): Fields<RollbackBody>,
) -> Answer {
    let (by, via, id) = (by.unwrap_or_default(), via.unwrap_or_default(), id.unwrap_or_default());
    let author = Author { by, via, reason, id };
    let request = Request { wanted: Wanted::Rollback(to), author, force: false, again: false };
    ask(api, caller, Unit { app, group }, request).await
}

async fn ask(api: Arc<Api>, caller: Caller, unit: Unit, request: Request) -> Answer {
    let epoch = write(&api, caller, &unit, request).await?;
    let headline = format!("requested: deploy #{epoch} on {unit}");
    Ok(accepted(unit, epoch, headline))
}

/// Writes a request for the caller, and returns its epoch.
pub(super) async fn write(api: &Arc<Api>, caller: Caller, unit: &Unit, request: Request) -> Result<Epoch, Problem> {
    let (unit, Author { by, via, reason, id }) = (unit.clone(), request.author.clone());
    // A request without `via` is read as one by hand.
    let via = Some(via).filter(|via| via != BY_HAND && !via.is_empty());
    let claim = Claim { by: Some(by), via, reason, id: Some(id) };
    attest::write(api, caller, claim, move |access, author| async move {
        let author = Author { reason: request.author.reason.clone(), ..author };
        let request = Request { author, ..request };
        request::write(&access, &unit, &request, None).await
    })
    .await
}

/// `POST …/abort`: aborts the running deploy.
pub(super) async fn abort(
    State(api): State<Arc<Api>>,
    caller: Caller,
    At((app, group)): At<(App, Group)>,
    Fields(claim): Fields<Claim>,
) -> Answer {
    let unit = Unit { app, group };
    let epoch = abort_running(&api, caller, &unit, claim).await?;
    let headline = format!("abort requested: deploy #{epoch} on {unit}");
    Ok(accepted(unit, epoch, headline))
}

/// Aborts the running deploy for the caller, and returns its epoch.
pub(super) async fn abort_running(api: &Arc<Api>, caller: Caller, unit: &Unit, claim: Claim) -> Result<Epoch, Problem> {
    let unit = unit.clone();
    attest::write(
        api,
        caller,
        claim,
        move |access, author| async move { operate::abort(&access, &unit, &author).await },
    )
    .await
}

fn accepted(unit: Unit, epoch: Epoch, headline: String) -> axum::response::Response {
    let location = [(LOCATION, format!("/v1/deploys/{unit}/{epoch}"))];
    let (fate, code) = (DeployState::Requested, Code::Done as u8);
    let document = DeployDocument::without_record(unit, epoch, fate, headline, code);
    (StatusCode::ACCEPTED, location, Json(document)).into_response()
}

/// `POST …/freeze`: refuses deploys until the freeze ends.
pub(super) async fn freeze(
    State(api): State<Arc<Api>>,
    caller: Caller,
    At((app, group)): At<(App, Group)>,
    Fields(FreezeBody { until, by, via, reason, id }): Fields<FreezeBody>,
) -> Answer {
    if until.is_some_and(|until| until <= Timestamp::now()) {
        return Err(Problem::usage(
            "until: that time is in the past",
            "write a time in the future, such as 2027-01-31T08:00:00Z",
        ));
    }
    let claim = Claim { by, via, reason, id };
    Ok(Json(freeze_unit(&api, caller, &Unit { app, group }, claim, until).await?).into_response())
}

/// Freezes a group for the caller; without `until`, until somebody unfreezes it.
pub(super) async fn freeze_unit(
    api: &Arc<Api>,
    caller: Caller,
    unit: &Unit,
    claim: Claim,
    until: Option<Timestamp>,
) -> Result<Freeze, Problem> {
    let unit = unit.clone();
    attest::write(api, caller, claim, move |access, author| async move {
        operate::freeze(&access, &unit, &author, until, Timestamp::now()).await
    })
    .await
}

/// `POST …/unfreeze`.
pub(super) async fn unfreeze(
    State(api): State<Arc<Api>>,
    caller: Caller,
    At((app, group)): At<(App, Group)>,
    Fields(claim): Fields<Claim>,
) -> Answer {
    let was_frozen = unfreeze_unit(&api, caller, &Unit { app, group }, claim).await?;
    Ok(Json(json!({"was_frozen": was_frozen})).into_response())
}

/// Unfreezes a group for the caller, and returns whether it was frozen.
pub(super) async fn unfreeze_unit(api: &Arc<Api>, caller: Caller, unit: &Unit, claim: Claim) -> Result<bool, Problem> {
    let unit = unit.clone();
    attest::write(api, caller, claim, move |access, author| async move {
        operate::unfreeze(&access, &unit, &author, Timestamp::now()).await
    })
    .await
}
