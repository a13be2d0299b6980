//! Signing in: exchanges a Consul token for a cookie that scripts cannot read.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::SET_COOKIE;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};

use super::body::Fields;
use super::error::{Answer, Problem};
use super::{Api, Caller, capacity, cookie, identity};
use crate::consul::Secret;
use crate::protocol::record::Identity;

/// The document of a session.
#[derive(Debug, Serialize)]
struct Session {
    /// None for the anonymous token and without ACLs.
    identity: Option<Identity>,
}

/// The body of a sign-in.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SignIn {
    token: String,
}

/// `GET /v1/session`: who the caller is.
pub(super) async fn who(caller: Caller) -> Answer {
    Ok(Json(Session { identity: caller.identity().await? }).into_response())
}

/// `POST /v1/session`: signs in with a token that Consul knows.
pub(super) async fn sign_in(State(api): State<Arc<Api>>, Fields(SignIn { token }): Fields<SignIn>) -> Answer {
    let (token, identity) = known(&api, &token).await?;
    let cookie = [(SET_COOKIE, cookie::set(&api.settings, &token))];
    Ok((cookie, Json(Session { identity: Some(identity) })).into_response())
}

/// Checks a token with Consul.
pub(super) async fn known(api: &Arc<Api>, token: &str) -> Result<(Secret, Identity), Problem> {
    let token = token.trim();
    if token.is_empty() {
        return Err(Problem::usage("token: must not be empty", "enter a Consul token"));
    }
    let token = Secret::new(token);
    let _slot = capacity::slot(api).await?;
    let access = api.access(Some(&token))?;
    let Some(identity) = identity::of_token(access.kv.client()).await? else {
        let hint = "Consul runs without ACLs, or this is the anonymous token: no sign-in is needed";
        return Err(Problem::new(StatusCode::CONFLICT, "refused", "this token has no identity in Consul", hint));
    };
    Ok((token, identity))
}

/// `DELETE /v1/session`: signs out. Consul still knows the token.
pub(super) async fn sign_out(State(api): State<Arc<Api>>) -> Answer {
    Ok((StatusCode::NO_CONTENT, [(SET_COOKIE, cookie::clear(&api.settings))]).into_response())
}
