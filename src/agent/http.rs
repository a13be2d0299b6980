//! The agent's HTTP: the doorbell for Consul's watches, and health.
//!
//! The doorbell's body is a hint and nothing more: whatever it says, the agent reads again for itself, and rings that
//! come together are one (PROTOCOL.md: watches wake). So a forged, repeated, or old call costs one small read.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use serde::de::IgnoredAny;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::context::Context;

/// The largest body of a watch: Consul replays up to 256 events of 512 bytes, and a keyprefix watch sends a subtree.
const MAX_BODY_BYTES: usize = 1024 * 1024;

/// How long a request may take, its body included: the caller is on this machine.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// The address could not be listened on.
#[derive(Debug, thiserror::Error)]
#[error("the agent cannot listen on {address}; see [api] listen")]
pub struct ListenError {
    address: SocketAddr,
    source: std::io::Error,
}

/// Binds the address.
///
/// # Errors
///
/// [`ListenError`]: taken, or not an address of this machine.
pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address).await.map_err(|source| ListenError { address, source })
}

/// Serves until shutdown.
pub(crate) async fn serve(listener: TcpListener, units: Arc<[Arc<Context>]>, shutdown: CancellationToken) {
    let router = Router::new()
        .route("/v1/watch", post(watch))
        .route("/v1/health/live", get(live))
        .route("/v1/health/ready", get(ready))
        .fallback(nothing_here)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn(within_limit))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(units);
    let served = axum::serve(listener, router).with_graceful_shutdown(async move { shutdown.cancelled().await });
    if let Err(error) = served.await {
        tracing::error!(%error, "the agent's HTTP has ended");
    }
}

async fn within_limit(request: Request, next: Next) -> Response {
    match tokio::time::timeout(REQUEST_LIMIT, next.run(request)).await {
        Ok(answer) => answer,
        Err(_) => problem(StatusCode::REQUEST_TIMEOUT, "timeout", "the request took too long to come", "send it again"),
    }
}

fn problem(status: StatusCode, kind: &str, message: &str, hint: &str) -> Response {
    (status, Json(json!({"error": {"kind": kind, "message": message, "hint": hint}}))).into_response()
}

async fn nothing_here() -> Response {
    problem(StatusCode::NOT_FOUND, "not_found", "no such address", "see docs/http.md")
}

async fn wrong_method() -> Response {
    problem(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", "this address is asked in another way", "see docs/http.md")
}

/// Event, key and keyprefix payloads, and `null` or `[]` as watches send them when they start.
async fn watch(State(units): State<Arc<[Arc<Context>]>>, body: Result<Bytes, BytesRejection>) -> Response {
    let body = match body {
        Ok(body) => body,
        Err(rejection) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            let message = format!("the body is over {MAX_BODY_BYTES} bytes");
            let hint = "does the watch follow a prefix that is too wide?";
            return problem(StatusCode::PAYLOAD_TOO_LARGE, "too_large", &message, hint);
        }
        Err(rejection) => {
            let message = format!("the body could not be read: {rejection}");
            return problem(rejection.status(), "bad_request", &message, "send it again");
        }
    };
    // Looked at, and thrown away: what has changed is read from Consul.
    if let Err(error) = serde_json::from_slice::<IgnoredAny>(&body) {
        let hint = "it is for the http handler of a Consul watch, or for cutover watch-handler";
        return problem(StatusCode::BAD_REQUEST, "bad_request", &format!("the body is not JSON: {error}"), hint);
    }
    for unit in units.iter() {
        unit.ring();
    }
    tracing::debug!(bytes = body.len(), "the doorbell rang");
    StatusCode::NO_CONTENT.into_response()
}

async fn live() -> Response {
    Json(json!({"live": true})).into_response()
}

/// Ready: every unit has a session, so that Consul is reachable and knows this node.
async fn ready(State(units): State<Arc<[Arc<Context>]>>) -> Response {
    let waiting: Vec<String> =
        units.iter().filter(|unit| unit.session.borrow().is_none()).map(|unit| unit.unit.to_string()).collect();
    if waiting.is_empty() {
        return Json(json!({"ready": true})).into_response();
    }
    let message = format!("no Consul session yet for {}", waiting.join(", "));
    problem(StatusCode::SERVICE_UNAVAILABLE, "not_ready", &message, "the agent's log says why Consul cannot be used")
}
