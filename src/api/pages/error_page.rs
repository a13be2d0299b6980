//! Errors as pages, for browsers.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{ACCEPT, ALLOW, CONNECTION, HeaderName, RETRY_AFTER};
use axum::middleware::Next;
use axum::response::Response;

use super::visit::View;
use crate::api::Api;
use crate::api::error::Problem;
use crate::ui::{ProblemPage, Viewer};

/// The headers of the error response that are copied to its page.
const KEPT: [HeaderName; 3] = [ALLOW, CONNECTION, RETRY_AFTER];

/// Renders an error as a page for clients that accept HTML. Errors of the API stay JSON for all clients.
pub(in crate::api) async fn error_page(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let accepts = request.headers().get_all(ACCEPT).iter().any(|value| {
        value.to_str().is_ok_and(|text| text.split(',').any(|part| part.trim_start().starts_with("text/html")))
    });
    let path = request.uri().path();
    let is_for_people = accepts && !path.starts_with("/v1/") && path != "/metrics";
    let view = View::of(request.uri(), request.headers());
    let is_read = request.method().is_safe();
    let response = next.run(request).await;
    let Some(problem) = response.extensions().get::<Problem>().filter(|_| is_for_people).cloned() else {
        return response;
    };
    let mut frame = view.frame(&api, Viewer::Unknown, Vec::new());
    if !is_read {
        // The address of a form only accepts POST, so links on the page lead to the overview.
        "/".clone_into(&mut frame.address);
    }
    problem.status.canonical_reason().unwrap_or("Error").clone_into(&mut frame.title);
    let Problem { status, kind, message, hint } = problem;
    let page = ProblemPage { frame, status: status.as_u16(), kind, message, hint };
    match view.answer(&page) {
        Ok(mut shown) => {
            *shown.status_mut() = status;
            for name in KEPT {
                if let Some(value) = response.headers().get(&name) {
                    shown.headers_mut().insert(name, value.clone());
                }
            }
            shown
        }
        Err(_) => response,
    }
}
