//! The address for Consul's watches, and health.
//!
//! The body of a watch is only a hint: the agent reads the keys itself, and calls that arrive together cause one read
//! (PROTOCOL.md: watches wake). So a forged, repeated, or old call costs one small read, and needs no token.

use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRequest, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use schemars::{JsonSchema, json_schema};
use serde::Serialize;
use serde::de::IgnoredAny;

use super::Api;
use super::body::Raw;
use super::describe::{Operation, Part, Presence, Reply};
use super::error::{Answer, Problem};

/// The largest body of a watch: Consul replays up to 256 events of 512 bytes, and a keyprefix watch sends a subtree.
pub(super) const MAX_BODY_BYTES: usize = 1024 * 1024;

/// What a Consul watch sends: JSON of any kind. Only its form is checked: the agent reads from Consul what has changed.
#[derive(Debug)]
pub(super) struct Payload {
    bytes: usize,
}

impl<S: Send + Sync> FromRequest<S> for Payload {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let Raw(body) = Raw::from_request(request, state).await?;
        if let Err(error) = serde_json::from_slice::<IgnoredAny>(&body) {
            let hint = "this address is for the HTTP handler of a Consul watch, and for cutover watch-handler";
            return Err(Problem::usage(format!("the body is not JSON: {error}"), hint));
        }
        Ok(Self { bytes: body.len() })
    }
}

impl Part for Payload {
    fn describe(operation: &mut Operation<'_>) {
        operation.body(Presence::Required, "application/json", &json_schema!({}));
    }
}

/// The agent reads its keys again.
#[derive(Debug)]
pub(super) struct Rung;

impl IntoResponse for Rung {
    fn into_response(self) -> Response {
        StatusCode::NO_CONTENT.into_response()
    }
}

impl Reply for Rung {
    fn describe(operation: &mut Operation<'_>) {
        operation.answer(StatusCode::NO_CONTENT, "The agent reads its keys again.", None);
    }
}

/// `POST /v1/watch`: event, key and keyprefix payloads, and `null` or `[]` as watches send them when they start.
pub(super) async fn watch(State(api): State<Arc<Api>>, Payload { bytes }: Payload) -> Rung {
    api.host.ring();
    tracing::debug!(bytes, "a Consul watch fired: reading the watched keys");
    Rung
}

/// The agent serves requests.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Live {
    live: bool,
}

/// `GET /v1/health/live`: the process serves.
pub(super) async fn live() -> Json<Live> {
    Json(Live { live: true })
}

/// Every unit has a session.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Ready {
    ready: bool,
}

/// `GET /v1/health/ready`: every unit has a session, so that Consul is reachable and knows this node.
pub(super) async fn ready(State(api): State<Arc<Api>>) -> Answer<Json<Ready>> {
    let waiting: Vec<String> = api.host.waiting().iter().map(ToString::to_string).collect();
    if waiting.is_empty() {
        return Ok(Json(Ready { ready: true }));
    }
    let message = format!("no Consul session yet for {}", waiting.join(", "));
    let hint = "the agent's log says why Consul cannot be used";
    Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", message, hint))
}
