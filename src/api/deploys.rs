//! Requests to a unit: deploy, rollback, abort, freeze, unfreeze.
//!
//! Nothing waits here: a request is written, or refused because another one runs or waits. The `Location` of the answer
//! shows its progress.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::attest::{self, ClaimedAuthor, with_claimed_author};
use super::body::{At, Fields};
use super::describe::{Operation, Reply, header};
use super::error::{Answer, Problem};
use super::{Api, Caller};
use crate::control::{Code, operate, request};
use crate::document::{DeployDocument, DeployState};
use crate::protocol::ids::{App, ArtifactName, Epoch, Group, Time, Unit};
use crate::protocol::record::{Author, BY_HAND, Freeze, Request, Wanted};

/// One of `ref` and `rollback` is needed.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(transform = with_claimed_author, extend("anyOf" = [{"required": ["ref"]}, {"required": ["rollback"]}]))]
pub(super) struct DeployBody {
    /// A branch or an artifact; the prefixes `branch:`, `commit:` and `artifact:` say which.
    #[serde(rename = "ref")]
    #[schemars(length(min = 1, max = MAX_REF_CHARS))]
    reference: Option<String>,
    /// Roll back to `ref`, or without `ref` to the newest release that was deployed successfully before.
    #[serde(default)]
    rollback: bool,
    /// Override a freeze, a bad mark, and a newer build that is not published.
    #[serde(default)]
    force: bool,
    /// Make a new release of the build that already runs.
    #[serde(default)]
    again: bool,
    by: Option<String>,
    via: Option<String>,
    #[serde(default)]
    reason: String,
    id: Option<String>,
}

/// No `ref` is longer: a prefix, and a branch of up to 255 bytes.
const MAX_REF_CHARS: usize = 300;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(transform = with_claimed_author)]
pub(super) struct RollbackBody {
    /// The target build; if left out, the newest release that was deployed successfully before.
    to: Option<ArtifactName>,
    by: Option<String>,
    via: Option<String>,
    #[serde(default)]
    reason: String,
    id: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(transform = with_claimed_author)]
pub(super) struct FreezeBody {
    /// A time in the future; if left out, until somebody unfreezes the group.
    #[schemars(with = "Option<Time>")]
    until: Option<Timestamp>,
    by: Option<String>,
    via: Option<String>,
    #[serde(default)]
    reason: String,
    id: Option<String>,
}

/// A request that was written. `Location` is the address of its state.
#[derive(Debug)]
pub(super) struct Accepted(DeployDocument);

impl IntoResponse for Accepted {
    fn into_response(self) -> Response {
        let location = [(LOCATION, format!("/v1/deploys/{}/{}", self.0.unit, self.0.epoch))];
        (StatusCode::ACCEPTED, location, Json(self.0)).into_response()
    }
}

impl Reply for Accepted {
    fn describe(operation: &mut Operation<'_>) {
        let content = ("application/json", operation.written::<DeployDocument>());
        let description = "The request was written; nothing has happened yet.";
        let response = operation.answer(StatusCode::ACCEPTED, description, Some(content));
        header(response, "Location", "The address that shows the state of the request.");
    }
}

/// `POST /v1/deploys/<app>/<group>`.
pub(super) async fn deploy(
    State(api): State<Arc<Api>>,
    caller: Caller,
    At((app, group)): At<(App, Group)>,
    Fields(body): Fields<DeployBody>,
) -> Answer<Accepted> {
    let DeployBody { reference, rollback, force, again, by, via, reason, id } = body;
    let (by, via, id) = (by.unwrap_or_default(), via.unwrap_or_default(), id.unwrap_or_default());
    let reference = reference.as_deref();
    let wanted = if rollback { Wanted::rollback(reference) } else { Wanted::deploy(reference) };
    let wanted = wanted.map_err(|invalid| Problem::usage(invalid.to_string(), "GET /v1/openapi.json describes it"))?;
    let request = Request { wanted, author: Author { by, via, reason, id }, force, again };
    ask(api, caller, Unit { app, group }, request).await
}

/// `POST …/rollback`.
pub(super) async fn rollback(
    State(api): State<Arc<Api>>,
    caller: Caller,
    At((app, group)): At<(App, Group)>,
    Fields(RollbackBody { to, by, via, reason, id }): Fields<RollbackBody>,
) -> Answer<Accepted> {
    let (by, via, id) = (by.unwrap_or_default(), via.unwrap_or_default(), id.unwrap_or_default());
    let author = Author { by, via, reason, id };
    let request = Request { wanted: Wanted::Rollback(to), author, force: false, again: false };
    ask(api, caller, Unit { app, group }, request).await
}

async fn ask(api: Arc<Api>, caller: Caller, unit: Unit, request: Request) -> Answer<Accepted> {
    let epoch = write(&api, caller, &unit, request).await?;
    let headline = format!("requested: deploy #{epoch} on {unit}");
    Ok(accepted(unit, epoch, headline))
}

/// Writes a request for the caller, and returns its epoch.
pub(super) async fn write(api: &Arc<Api>, caller: Caller, unit: &Unit, request: Request) -> Result<Epoch, Problem> {
    let (unit, Author { by, via, reason, id }) = (unit.clone(), request.author.clone());
    // A request without `via` is read as one by hand.
    let via = Some(via).filter(|via| via != BY_HAND && !via.is_empty());
    let claim = ClaimedAuthor { by: Some(by), via, reason, id: Some(id) };
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
    Fields(claim): Fields<ClaimedAuthor>,
) -> Answer<Accepted> {
    let unit = Unit { app, group };
    let epoch = abort_running(&api, caller, &unit, claim).await?;
    let headline = format!("abort requested: deploy #{epoch} on {unit}");
    Ok(accepted(unit, epoch, headline))
}

/// Aborts the running deploy for the caller, and returns its epoch.
pub(super) async fn abort_running(
    api: &Arc<Api>,
    caller: Caller,
    unit: &Unit,
    claim: ClaimedAuthor,
) -> Result<Epoch, Problem> {
    let unit = unit.clone();
    attest::write(
        api,
        caller,
        claim,
        move |access, author| async move { operate::abort(&access, &unit, &author).await },
    )
    .await
}

fn accepted(unit: Unit, epoch: Epoch, headline: String) -> Accepted {
    let (fate, code) = (DeployState::Requested, Code::Done as u8);
    Accepted(DeployDocument::without_record(unit, epoch, fate, headline, code))
}

/// `POST …/freeze`: refuses deploys until the freeze ends.
pub(super) async fn freeze(
    State(api): State<Arc<Api>>,
    caller: Caller,
    At((app, group)): At<(App, Group)>,
    Fields(FreezeBody { until, by, via, reason, id }): Fields<FreezeBody>,
) -> Answer<Json<Freeze>> {
    if until.is_some_and(|until| until <= Timestamp::now()) {
        return Err(Problem::usage(
            "until: that time is in the past",
            "write a time in the future, such as 2027-01-31T08:00:00Z",
        ));
    }
    let claim = ClaimedAuthor { by, via, reason, id };
    Ok(Json(freeze_unit(&api, caller, &Unit { app, group }, claim, until).await?))
}

/// Freezes a group for the caller; without `until`, until somebody unfreezes it.
pub(super) async fn freeze_unit(
    api: &Arc<Api>,
    caller: Caller,
    unit: &Unit,
    claim: ClaimedAuthor,
    until: Option<Timestamp>,
) -> Result<Freeze, Problem> {
    let unit = unit.clone();
    attest::write(api, caller, claim, move |access, author| async move {
        operate::freeze(&access, &unit, &author, until, Timestamp::now()).await
    })
    .await
}

/// What became of a freeze.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Unfrozen {
    /// Whether there was one before.
    was_frozen: bool,
}

/// `POST …/unfreeze`.
pub(super) async fn unfreeze(
    State(api): State<Arc<Api>>,
    caller: Caller,
    At((app, group)): At<(App, Group)>,
    Fields(claim): Fields<ClaimedAuthor>,
) -> Answer<Json<Unfrozen>> {
    Ok(Json(Unfrozen { was_frozen: unfreeze_unit(&api, caller, &Unit { app, group }, claim).await? }))
}

/// Unfreezes a group for the caller, and returns whether it was frozen.
pub(super) async fn unfreeze_unit(
    api: &Arc<Api>,
    caller: Caller,
    unit: &Unit,
    claim: ClaimedAuthor,
) -> Result<bool, Problem> {
    let unit = unit.clone();
    attest::write(api, caller, claim, move |access, author| async move {
        operate::unfreeze(&access, &unit, &author, Timestamp::now()).await
    })
    .await
}
