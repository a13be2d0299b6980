//! One row of the table of routes.

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::handler::Handler;
use axum::middleware::from_fn;
use axum::routing::{MethodRouter, delete, get, post};

use super::{Api, body};

/// The methods that the agent serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Delete,
    Get,
    Post,
}

impl Verb {
    /// Whether requests may have a body.
    pub(super) const fn has_body(self) -> bool {
        match self {
            Self::Get => false,
            Self::Delete | Self::Post => true,
        }
    }

    /// As the `OpenAPI` document writes it.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Delete => "delete",
            Self::Get => "get",
            Self::Post => "post",
        }
    }
}

/// One address with its method and handler.
pub(super) struct Route {
    #[cfg_attr(not(test), expect(dead_code, reason = "the handler has it too; tests read it"))]
    pub(super) verb: Verb,
    /// With names in braces, as in `OpenAPI`.
    pub(super) path: &'static str,
    /// The parameters that the query may have.
    pub(super) query: &'static [&'static str],
    pub(super) handler: MethodRouter<Arc<Api>>,
}

impl Route {
    pub(super) fn new<T: 'static>(
        verb: Verb,
        path: &'static str,
        query: &'static [&'static str],
        handler: impl Handler<T, Arc<Api>>,
    ) -> Self {
        let handler = match verb {
            Verb::Delete => delete(handler),
            Verb::Get => get(handler),
            Verb::Post => post(handler),
        };
        let handler = if verb.has_body() { handler.route_layer(from_fn(body::whole)) } else { handler };
        Self { verb, path, query, handler }
    }

    pub(super) fn get<T: 'static>(
        path: &'static str,
        query: &'static [&'static str],
        handler: impl Handler<T, Arc<Api>>,
    ) -> Self {
        Self::new(Verb::Get, path, query, handler)
    }

    pub(super) fn post<T: 'static>(path: &'static str, handler: impl Handler<T, Arc<Api>>) -> Self {
        Self::new(Verb::Post, path, &[], handler)
    }

    /// With another limit for the body.
    pub(super) fn up_to(self, bytes: usize) -> Self {
        Self { handler: self.handler.layer(DefaultBodyLimit::max(bytes)), ..self }
    }
}
