//! The table of all addresses. The router is built from it, and the `OpenAPI` document is checked against it.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use url::form_urlencoded;

use super::error::Problem;
use super::route::Route;
use super::{
    Api, builds, chat, checks, deploys, follow, guard, lists, marks, metrics, openapi, pages, review, session, watch,
};

/// The largest body, but for the doorbell's. A deploy request is at most 4 KiB.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// Every address except the pages, which are in [`pages::table`].
pub(super) fn table() -> Vec<Route> {
    const UNIT: &str = "/v1/deploys/{app}/{group}";
    const BAD: &str = "/v1/builds/{app}/{artifact}/bad";
    vec![
        Route::post("/v1/watch", watch::watch).up_to(watch::MAX_BODY_BYTES),
        Route::get("/v1/health/live", &[], watch::live),
        Route::get("/v1/health/ready", &[], watch::ready),
        Route::get("/metrics", &[], metrics::metrics),
        Route::get("/v1/openapi.json", &[], openapi::document),
        Route::get("/v1/session", &[], session::who),
        Route::post("/v1/session", session::sign_in),
        Route::delete("/v1/session", session::sign_out),
        Route::post("/v1/chat/slack", chat::slack),
        Route::get("/v1/stream", &["unit", "builds", "last_event_id"], follow::stream),
        Route::get("/v1/apps", &["limit", "before"], lists::apps),
        Route::get("/v1/nodes", &["limit", "before", "unit", "state", "drift", "named"], lists::nodes),
        Route::get("/v1/builds/{app}", &["limit", "before", "state", "branch"], lists::builds),
        Route::post("/v1/builds/{app}", builds::record),
        Route::post(BAD, marks::mark),
        Route::delete(BAD, marks::unmark),
        Route::get("/v1/settings", &[], checks::settings),
        Route::get("/v1/status", &[], lists::statuses),
        Route::get("/v1/doctor/{app}/{group}", &[], checks::doctor),
        Route::get("/v1/dry-run/{app}/{group}", &review::REVIEWED, checks::dry_run),
        Route::get("/v1/status/{app}/{group}", &[], lists::status),
        Route::get(UNIT, &["limit", "before", "kind", "outcome", "by", "artifact"], lists::deploys),
        Route::post(UNIT, deploys::deploy),
        Route::get("/v1/deploys/{app}/{group}/{epoch}", &[], lists::deploy),
        Route::post("/v1/deploys/{app}/{group}/abort", deploys::abort),
        Route::post("/v1/deploys/{app}/{group}/rollback", deploys::rollback),
        Route::post("/v1/deploys/{app}/{group}/freeze", deploys::freeze),
        Route::post("/v1/deploys/{app}/{group}/unfreeze", deploys::unfreeze),
    ]
}

/// The router of the table, behind its guard.
pub(super) fn router(api: Arc<Api>) -> Router {
    let mut router = Router::new();
    let user_header = api.settings.proxy.as_ref().map(|proxy| proxy.user_header.clone());
    let shared = Arc::new(pages::Cache::new(user_header));
    let pages = pages::table().into_iter().map(|route| {
        let handler = route.handler.route_layer(from_fn_with_state(Arc::clone(&shared), pages::share));
        Route { handler, ..route }
    });
    for Route { path, query, handler, .. } in table().into_iter().chain(pages) {
        let known = move |request: Request, next: Next| only(query, request, next);
        router = router.route(path, handler.route_layer(from_fn(known)));
    }
    router
        .fallback(nothing_here)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(from_fn_with_state(Arc::clone(&api), guard::check))
        .layer(from_fn(guard::within_limit))
        .layer(from_fn_with_state(Arc::clone(&api), pages::error_page))
        .layer(from_fn(guard::seal))
        .with_state(api)
}

/// Refuses unknown query parameters: a filter with a typo in its name would silently show everything.
async fn only(known: &'static [&'static str], request: Request, next: Next) -> Response {
    let pairs = form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes());
    let unknown: BTreeSet<String> =
        pairs.map(|(name, _)| name.into_owned()).filter(|name| !known.contains(&name.as_str())).collect();
    let Some(name) = unknown.first() else { return next.run(request).await };
    let hint = match known {
        [] => "this address has no query parameters".to_owned(),
        _ => format!("the parameters are {}", known.join(", ")),
    };
    Problem::usage(format!("unknown query parameter {name:?}"), hint).into_response()
}

async fn nothing_here() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not_found", "no such address", "GET /v1/openapi.json lists all addresses")
}

async fn wrong_method() -> Problem {
    let (message, hint) = ("this address does not support that method", "the Allow header lists its methods");
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", message, hint)
}
