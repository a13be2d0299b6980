//! `GET /metrics`: the agent's metrics for Prometheus.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use schemars::json_schema;

use super::Api;
use super::describe::{Operation, Reply};
use crate::metrics::CONTENT_TYPE as METRICS_TYPE;

/// Metrics as `OpenMetrics` text. They name units and builds, but no people.
#[derive(Debug)]
pub(super) struct Exposition(String);

pub(super) async fn metrics(State(api): State<Arc<Api>>) -> Exposition {
    Exposition(api.metrics.render())
}

impl IntoResponse for Exposition {
    fn into_response(self) -> Response {
        ([(CONTENT_TYPE, METRICS_TYPE)], self.0).into_response()
    }
}

impl Reply for Exposition {
    fn describe(operation: &mut Operation<'_>) {
        let content = ("application/openmetrics-text", json_schema!({"type": "string"}));
        operation.answer(StatusCode::OK, "One sample per line, and # EOF.", Some(content));
    }
}
