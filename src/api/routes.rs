//! The table of what there is: the router is built from it, and the `OpenAPI` document is checked against it.

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
    Api, builds, chat, deploys, doorbell, examine, figures, guard, lists, marks, openapi, pages, review, session,
    streams,
};

/// The largest body, but for the doorbell's. A deploy request is at most 4 KiB.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// Everything that is served but for the pages, which [`pages::table`] has.
pub(super) fn table() -> Vec<Route> {
    const UNIT: &str = "/v1/deploys/{app}/{group}";
    const BAD: &str = "/v1/builds/{app}/{artifact}/bad";
    vec![
        Route::post("/v1/watch", doorbell::watch).up_to(doorbell::MAX_BODY_BYTES),
        Route::get("/v1/health/live", &[], doorbell::live),
        Route::get("/v1/health/ready", &[], doorbell::ready),
        Route::get("/metrics", &[], figures::metrics),
        Route::get("/v1/openapi.json", &[], openapi::document),
        Route::get("/v1/session", &[], session::who),
        Route::post("/v1/session", session::sign_in),
        Route::delete("/v1/session", session::sign_out),
        Route::post("/v1/chat/slack", chat::slack),
        Route::get("/v1/stream", &["unit", "builds", "last_event_id"], streams::follow),
        Route::get("/v1/apps", &["limit", "before"], lists::apps),
        Route::get("/v1/nodes", &["limit", "before", "unit", "state", "drift", "named"], lists::nodes),
        Route::get("/v1/builds/{app}", &["limit", "before", "state", "branch"], lists::builds),
        Route::post("/v1/builds/{app}", builds::record),
        Route::post(BAD, marks::mark),
        Route::delete(BAD, marks::unmark),
        Route::get("/v1/settings", &[], examine::settings),
        Route::get("/v1/status", &[], lists::statuses),
        Route::get("/v1/doctor/{app}/{group}", &[], examine::doctor),
        Route::get("/v1/dry-run/{app}/{group}", &review::REVIEWED, examine::dry_run),
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
    let shared = Arc::new(pages::Shared::new(user_header));
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
        .layer(from_fn_with_state(Arc::clone(&api), pages::explain))
        .layer(from_fn(guard::seal))
        .with_state(api)
}

/// Lets through queries with these parameters alone: a filter with a slip in its name would silently show everything.
async fn only(known: &'static [&'static str], request: Request, next: Next) -> Response {
    let pairs = form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes());
    let unknown: BTreeSet<String> =
        pairs.map(|(name, _)| name.into_owned()).filter(|name| !known.contains(&name.as_str())).collect();
    let Some(name) = unknown.first() else { return next.run(request).await };
    let hint = match known {
        [] => "this address takes none".to_owned(),
        _ => format!("this address takes {}", known.join(", ")),
    };
    Problem::usage(format!("the query's parameter {name:?} is not known here"), hint).into_response()
}

async fn nothing_here() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not_found", "no such address", "GET /v1/openapi.json names them all")
}

async fn wrong_method() -> Problem {
    let (message, hint) = ("this address is asked in another way", "GET /v1/openapi.json names them all");
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", message, hint)
}
