//! Signing in: exchanges a Consul token for a cookie that scripts cannot read.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header::SET_COOKIE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::body::Fields;
use super::describe::{Operation, Reply, header};
use super::error::{Answer, Problem};
use super::{Api, Caller, capacity, cookie, identity};
use crate::consul::Secret;
use crate::protocol::record::Identity;

/// The caller's identity.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Session {
    /// null for the anonymous token and without ACLs.
    identity: Option<Identity>,
}

/// The body of a sign-in.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SignIn {
    /// A Consul token.
    #[schemars(length(min = 1, max = MAX_TOKEN_CHARS))]
    token: String,
}

/// No token of Consul is longer: it creates UUIDs, and a legacy token may be any text that fits in a header.
const MAX_TOKEN_CHARS: usize = 1024;

/// Sets or clears the session cookie.
#[derive(Debug)]
pub(super) struct WithCookie<T> {
    cookie: HeaderValue,
    answer: T,
}

impl<T: IntoResponse> IntoResponse for WithCookie<T> {
    fn into_response(self) -> Response {
        ([(SET_COOKIE, self.cookie)], self.answer).into_response()
    }
}

impl Reply for WithCookie<Json<Session>> {
    fn describe(operation: &mut Operation<'_>) {
        let response = operation.document::<Session>(StatusCode::OK);
        header(response, "Set-Cookie", "HttpOnly, SameSite=Strict, and Secure over TLS.");
    }
}

impl Reply for WithCookie<StatusCode> {
    fn describe(operation: &mut Operation<'_>) {
        let response = operation.answer(StatusCode::NO_CONTENT, "Signed out.", None);
        header(response, "Set-Cookie", "Removes the cookie.");
    }
}

/// `GET /v1/session`: who the caller is.
pub(super) async fn who(caller: Caller) -> Answer<Json<Session>> {
    Ok(Json(Session { identity: caller.identity().await? }))
}

/// `POST /v1/session`: signs in with a token that Consul knows.
pub(super) async fn sign_in(
    State(api): State<Arc<Api>>,
    Fields(SignIn { token }): Fields<SignIn>,
) -> Answer<WithCookie<Json<Session>>> {
    let (token, identity) = known(&api, &token).await?;
    let answer = Json(Session { identity: Some(identity) });
    Ok(WithCookie { cookie: cookie::set(&api.settings, &token), answer })
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
pub(super) async fn sign_out(State(api): State<Arc<Api>>) -> WithCookie<StatusCode> {
    WithCookie { cookie: cookie::clear(&api.settings), answer: StatusCode::NO_CONTENT }
}
