//! Marks of bad builds, which hold for every group of the app.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use jiff::Timestamp;
use serde_json::json;

use super::attest;
use super::body::{At, Fields};
use super::deploys::Words;
use super::error::Answer;
use super::{Api, Caller};
use crate::control::operate;
use crate::protocol::ids::{App, ArtifactName};

/// `POST /v1/builds/<app>/<artifact>/bad`: a deploy of it is refused from now on.
pub(super) async fn mark(
    State(api): State<Arc<Api>>,
    caller: Caller,
    At((app, artifact)): At<(App, ArtifactName)>,
    Fields(words): Fields<Words>,
) -> Answer {
    let written = Arc::clone(&api);
    let marked = async move {
        let (access, author) = attest::vouch(&written, caller.access(), caller.identity().await?, words.into())?;
        Ok(operate::mark_bad(&access, &app, &artifact, &author, Timestamp::now()).await?)
    };
    Ok(Json(api.to_its_end(marked).await?).into_response())
}

/// `DELETE /v1/builds/<app>/<artifact>/bad`: takes the mark away.
pub(super) async fn unmark(
    State(api): State<Arc<Api>>,
    caller: Caller,
    At((app, artifact)): At<(App, ArtifactName)>,
    Fields(words): Fields<Words>,
) -> Answer {
    let written = Arc::clone(&api);
    let lifted = async move {
        let (access, author) = attest::vouch(&written, caller.access(), caller.identity().await?, words.into())?;
        Ok(operate::mark_good(&access, &app, &artifact, &author, Timestamp::now()).await?)
    };
    let was_bad = api.to_its_end(lifted).await?;
    Ok(Json(json!({"was_bad": was_bad})).into_response())
}
