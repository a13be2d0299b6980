//! Marks of bad builds, which hold for every group of the app.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::attest::{self, ClaimedAuthor};
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
    Fields(claim): Fields<ClaimedAuthor>,
) -> Answer<Json<BadMark>> {
    Ok(Json(mark_bad(&api, caller, app, artifact, claim).await?))
}

/// Marks a build bad for the caller.
pub(super) async fn mark_bad(
    api: &Arc<Api>,
    caller: Caller,
    app: App,
    artifact: ArtifactName,
    claim: ClaimedAuthor,
) -> Result<BadMark, Problem> {
    attest::write(api, caller, claim, move |access, author| async move {
        operate::mark_bad(&access, &app, &artifact, &author, Timestamp::now()).await
    })
    .await
}

/// What became of a bad mark.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Unmarked {
    /// Whether there was one before.
    was_bad: bool,
}

/// `DELETE /v1/builds/<app>/<artifact>/bad`: removes the mark.
pub(super) async fn unmark(
    State(api): State<Arc<Api>>,
    caller: Caller,
    At((app, artifact)): At<(App, ArtifactName)>,
    Fields(claim): Fields<ClaimedAuthor>,
) -> Answer<Json<Unmarked>> {
    Ok(Json(Unmarked { was_bad: mark_good(&api, caller, app, artifact, claim).await? }))
}

/// Removes a build's bad mark for the caller, and returns whether there was one.
pub(super) async fn mark_good(
    api: &Arc<Api>,
    caller: Caller,
    app: App,
    artifact: ArtifactName,
    claim: ClaimedAuthor,
) -> Result<bool, Problem> {
    attest::write(api, caller, claim, move |access, author| async move {
        operate::mark_good(&access, &app, &artifact, &author, Timestamp::now()).await
    })
    .await
}
