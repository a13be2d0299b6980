//! `GET /v1/openapi.json`: the document that `spec` builds and a test compares with this file.

use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use schemars::json_schema;

use super::describe::{Operation, Reply};

const DOCUMENT: &str = include_str!("openapi.json");

#[derive(Debug)]
pub(super) struct Description;

pub(super) async fn document() -> Description {
    Description
}

impl IntoResponse for Description {
    fn into_response(self) -> Response {
        ([(CONTENT_TYPE, "application/json")], DOCUMENT).into_response()
    }
}

impl Reply for Description {
    fn describe(operation: &mut Operation<'_>) {
        let content = ("application/json", json_schema!({"type": "object"}));
        operation.answer(StatusCode::OK, "This document.", Some(content));
    }
}
