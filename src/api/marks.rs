//! Marks of bad builds, which hold for every group of the app.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use jiff::Timestamp;
use serde_json::json;

use super::attest::{self, Claim};
use super::body::{At, Fields};
use super::error::{Answer, Problem};
use super::{Api, Caller};
use crate::control::operate;
use crate::protocol::ids::{App, ArtifactName};
use crate::protocol::record::BadMark;

/// `POST /v1/builds/<app>/<artifact>/bad`: refuses deploys of the build from now on.
pub(super) async fn mark(
    State(api): State<Arc<Api>>,
    caller: Caller,
    At((app, artifact)): At<(App, ArtifactName)>,
    Fields(claim): Fields<Claim>,
) -> Answer {
    Ok(Json(mark_bad(&api, caller, app, artifact, claim).await?).into_response())
}

/// Marks a build bad for the caller.
pub(super) async fn mark_bad(
    api: &Arc<Api>,
    caller: Caller,
    app: App,
    artifact: ArtifactName,
    claim: Claim,
) -> Result<BadMark, Problem> {
    attest::write(api, caller, claim, move |access, author| async move {
        operate::mark_bad(&access, &app, &artifact, &author, Timestamp::now()).await
    })
    .await
}

/// `DELETE /v1/builds/<app>/<artifact>/bad`: removes the mark.
pub(super) async fn unmark(
    State(api): State<Arc<Api>>,
    caller: Caller,
    At((app, artifact)): At<(App, ArtifactName)>,
    Fields(claim): Fields<Claim>,
) -> Answer {
    let was_bad = mark_good(&api, caller, app, artifact, claim).await?;
    Ok(Json(json!({"was_bad": was_bad})).into_response())
}

/// Removes a build's bad mark for the caller, and returns whether there was one.
pub(super) async fn mark_good(
    api: &Arc<Api>,
    caller: Caller,
    app: App,
    artifact: ArtifactName,
    claim: Claim,
) -> Result<bool, Problem> {
    attest::write(api, caller, claim, move |access, author| async move {
        operate::mark_good(&access, &app, &artifact, &author, Timestamp::now()).await
    })
    .await
}
