//! The web page: reads documents with the caller's token, lets [`ui`](crate::ui) render them, and handles forms that do what
//! the API does.
//!
//! A form answers with a redirect (303) to its result, so that a reload does not send the form again. The addresses here
//! are for people and not part of the `OpenAPI` document.

mod actions;
mod cache;
mod error_page;
mod form;
mod permissions;
mod read;
mod sign_in;
mod unit;
mod visit;

use axum::extract::Path;
use axum::http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::IntoResponse as _;

use super::body::names;
use super::error::{Answer, Problem};
use super::review::Reviewed;
use super::route::Route;
use crate::ui::assets;

pub(super) use cache::{Cache, share};
pub(super) use error_page::error_page;

/// Every address of the web page.
pub(super) fn table() -> Vec<Route> {
    const HISTORY: &[&str] = &["kind", "outcome", "by", "artifact", "before"];
    vec![
        Route::get("/", &[], read::overview),
        Route::get("/builds", &[], read::any_builds),
        Route::get("/history", &[], read::any_history),
        Route::get("/doctor", &[], read::any_doctor),
        Route::get("/nodes", &["unit", "state", "drift", "named"], read::nodes),
        Route::get("/settings", &[], read::settings),
        Route::post("/settings", sign_in::set),
        Route::get("/sign-in", &["next"], sign_in::ask),
        Route::post("/sign-in", sign_in::sign_in),
        Route::post("/sign-out", sign_in::sign_out),
        Route::get("/assets/{name}", &[], asset),
        Route::get("/apps/{app}/builds", &["state", "branch", "before"], read::builds),
        Route::post("/apps/{app}/builds/{artifact}/bad", actions::mark_bad),
        Route::post("/apps/{app}/builds/{artifact}/good", actions::mark_good),
        Route::get("/units/{app}/{group}", &[], unit::unit),
        Route::get("/units/{app}/{group}/deploys/{epoch}", &[], unit::deploy),
        Route::get("/units/{app}/{group}/review", names::<Reviewed>(), unit::review),
        Route::get("/units/{app}/{group}/history", HISTORY, read::history),
        Route::get("/units/{app}/{group}/doctor", &[], unit::doctor),
        Route::post("/units/{app}/{group}/deploy", actions::deploy),
        Route::post("/units/{app}/{group}/rollback", actions::rollback),
        Route::post("/units/{app}/{group}/abort", actions::abort),
        Route::post("/units/{app}/{group}/freeze", actions::freeze),
        Route::post("/units/{app}/{group}/unfreeze", actions::unfreeze),
    ]
}

/// Whether the client accepts gzip.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let named = |part: &str| {
        let (name, quality) = part.split_once(';').unwrap_or((part, ""));
        name.trim().eq_ignore_ascii_case("gzip") && quality.trim() != "q=0"
    };
    accepted.flat_map(|text| text.split(',')).any(named)
}

/// `GET /assets/<name>`: cached forever, because a changed file has another name.
async fn asset(Path(name): Path<String>, headers: HeaderMap) -> Answer {
    let Some(asset) = assets::named(&name) else {
        let hint = "reload the page: a newer agent has newer files";
        return Err(Problem::new(StatusCode::NOT_FOUND, "not_found", "no such file", hint));
    };
    let tag = HeaderValue::from_str(&format!("\"{}\"", asset.name())).unwrap_or(HeaderValue::from_static("\"\""));
    let kept = [
        (CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable")),
        (VARY, HeaderValue::from_static("accept-encoding")),
        (ETAG, tag.clone()),
    ];
    if headers.get(IF_NONE_MATCH) == Some(&tag) {
        return Ok((StatusCode::NOT_MODIFIED, kept).into_response());
    }
    let kind = [(CONTENT_TYPE, HeaderValue::from_static(asset.kind))];
    if takes_gzip(&headers) && !asset.gzip.is_empty() {
        let packed = [(CONTENT_ENCODING, HeaderValue::from_static("gzip"))];
        return Ok((kept, kind, packed, asset.gzip.as_slice()).into_response());
    }
    Ok((kept, kind, asset.plain).into_response())
}
