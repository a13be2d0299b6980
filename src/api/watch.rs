//! The address for Consul's watches, and health.
//!
//! The body of a watch is only a hint: the agent reads the keys itself, and calls that arrive together cause one read
//! (PROTOCOL.md: watches wake). So a forged, repeated, or old call costs one small read, and needs no token.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::de::IgnoredAny;
use serde_json::json;

use super::Api;
use super::body::Raw;
use super::error::{Answer, Problem};

/// The largest body of a watch: Consul replays up to 256 events of 512 bytes, and a keyprefix watch sends a subtree.
pub(super) const MAX_BODY_BYTES: usize = 1024 * 1024;

/// `POST /v1/watch`: event, key and keyprefix payloads, and `null` or `[]` as watches send them when they start.
pub(super) async fn watch(State(api): State<Arc<Api>>, Raw(body): Raw) -> Answer {
    // Only checked: the agent reads from Consul what has changed.
    if let Err(error) = serde_json::from_slice::<IgnoredAny>(&body) {
        let hint = "this address is for the HTTP handler of a Consul watch, and for cutover watch-handler";
        return Err(Problem::usage(format!("the body is not JSON: {error}"), hint));
    }
    api.host.ring();
    tracing::debug!(bytes = body.len(), "a Consul watch fired: reading the watched keys");
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `GET /v1/health/live`: the process serves.
pub(super) async fn live() -> Response {
    Json(json!({"live": true})).into_response()
}

/// `GET /v1/health/ready`: every unit has a session, so that Consul is reachable and knows this node.
pub(super) async fn ready(State(api): State<Arc<Api>>) -> Answer {
    let waiting: Vec<String> = api.host.waiting().iter().map(ToString::to_string).collect();
    if waiting.is_empty() {
        return Ok(Json(json!({"ready": true})).into_response());
    }
    let message = format!("no Consul session yet for {}", waiting.join(", "));
    let hint = "the agent's log says why Consul cannot be used";
    Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", message, hint))
}
