//! `GET /v1/stream`: opens a stream with the caller's rights, or says why not.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};

use super::error::Problem;
use super::stream::{Refused, answer};
use super::{Api, Caller};

/// Server-Sent Events until the caller hangs up.
pub(super) async fn follow(
    State(api): State<Arc<Api>>,
    caller: Caller,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let refused = match answer(&api.hub, caller.access(), query.as_deref(), &headers) {
        Ok(answer) => return answer,
        Err(refused) => refused,
    };
    let (status, kind) = match &refused {
        Refused::BadRequest { .. } => (StatusCode::BAD_REQUEST, "bad_request"),
        Refused::TooManyOfToken => (StatusCode::TOO_MANY_REQUESTS, "too_many"),
        Refused::TooManyStreams | Refused::TooManyFeeds | Refused::Stopping => {
            (StatusCode::SERVICE_UNAVAILABLE, "busy")
        }
    };
    Problem::new(status, kind, refused.to_string(), refused.hint()).into_response()
}
