//! `GET /metrics`: the agent's metrics for Prometheus.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

use super::Api;
use crate::metrics::CONTENT_TYPE as METRICS_TYPE;

/// The metrics as `OpenMetrics` text. They name units and builds, but no people.
pub(super) async fn metrics(State(api): State<Arc<Api>>) -> Response {
    ([(CONTENT_TYPE, METRICS_TYPE)], api.metrics.render()).into_response()
}
