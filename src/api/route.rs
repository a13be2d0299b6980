//! One row of the table of routes.

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::handler::Handler;
use axum::http::Method;
use axum::middleware::from_fn;
use axum::routing::{MethodRouter, delete, get, post};

use super::{Api, body};

/// One address with its method and handler.
pub(super) struct Route {
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "the handler has it too; the OpenAPI document is checked against it")
    )]
    pub(super) method: Method,
    /// With names in braces, as in `OpenAPI`.
    pub(super) path: &'static str,
    /// The parameters that the query may have.
    pub(super) query: &'static [&'static str],
    pub(super) handler: MethodRouter<Arc<Api>>,
}

impl Route {
    pub(super) fn get<T: 'static>(
        path: &'static str,
        query: &'static [&'static str],
        handler: impl Handler<T, Arc<Api>>,
    ) -> Self {
        Self { method: Method::GET, path, query, handler: get(handler) }
    }

    pub(super) fn post<T: 'static>(path: &'static str, handler: impl Handler<T, Arc<Api>>) -> Self {
        Self { method: Method::POST, path, query: &[], handler: post(handler).route_layer(from_fn(body::whole)) }
    }

    pub(super) fn delete<T: 'static>(path: &'static str, handler: impl Handler<T, Arc<Api>>) -> Self {
        Self { method: Method::DELETE, path, query: &[], handler: delete(handler).route_layer(from_fn(body::whole)) }
    }

    /// With another limit for the body.
    pub(super) fn up_to(self, bytes: usize) -> Self {
        Self { handler: self.handler.layer(DefaultBodyLimit::max(bytes)), ..self }
    }
}
