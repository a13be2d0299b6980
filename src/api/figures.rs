//! `GET /metrics`: what the agent counts and times, for whoever scrapes it.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

use super::Api;
use crate::metrics;

/// As `OpenMetrics` text. It names units and builds, and nobody.
pub(super) async fn metrics(State(api): State<Arc<Api>>) -> Response {
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], api.metrics.render()).into_response()
}
