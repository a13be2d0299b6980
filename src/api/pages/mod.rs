//! The web page: documents read with the caller's token, rendered by [`ui`](crate::ui), and forms that ask for what the
//! API asks for.
//!
//! A form that was carried out answers with the address of what came of it (303), so that loading that again asks for
//! nothing twice. Addresses here are for people: they are no part of the `OpenAPI` document.

mod act;
mod explain;
mod form;
mod read;
mod rights;
mod shared;
mod sign;
mod unit;
mod visit;

use axum::extract::Path;
use axum::http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::IntoResponse as _;

use super::error::{Answer, Problem};
use super::review::REVIEWED;
use super::route::Route;
use crate::ui::assets;

pub(super) use explain::explain;
pub(super) use shared::{Shared, share};

/// Everything that people see.
pub(super) fn table() -> Vec<Route> {
    const HISTORY: &[&str] = &["kind", "outcome", "by", "artifact", "before"];
    vec![
        Route::get("/", &[], read::overview),
        Route::get("/builds", &[], read::any_builds),
        Route::get("/history", &[], read::any_history),
        Route::get("/doctor", &[], read::any_doctor),
        Route::get("/nodes", &["unit", "state", "drift", "named"], read::nodes),
        Route::get("/settings", &[], read::settings),
        Route::post("/settings", sign::set),
        Route::get("/sign-in", &["next"], sign::ask),
        Route::post("/sign-in", sign::sign_in),
        Route::post("/sign-out", sign::sign_out),
        Route::get("/assets/{name}", &[], asset),
        Route::get("/apps/{app}/builds", &["state", "branch", "before"], read::builds),
        Route::post("/apps/{app}/builds/{artifact}/bad", act::mark_bad),
        Route::post("/apps/{app}/builds/{artifact}/good", act::mark_good),
        Route::get("/units/{app}/{group}", &[], unit::unit),
        Route::get("/units/{app}/{group}/deploys/{epoch}", &[], unit::deploy),
        Route::get("/units/{app}/{group}/review", &REVIEWED, unit::review),
        Route::get("/units/{app}/{group}/history", HISTORY, read::history),
        Route::get("/units/{app}/{group}/doctor", &[], unit::doctor),
        Route::post("/units/{app}/{group}/deploy", act::deploy),
        Route::post("/units/{app}/{group}/rollback", act::rollback),
        Route::post("/units/{app}/{group}/abort", act::abort),
        Route::post("/units/{app}/{group}/freeze", act::freeze),
        Route::post("/units/{app}/{group}/unfreeze", act::unfreeze),
    ]
}

/// Whether the caller takes gzip.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let named = |part: &str| {
        let (name, quality) = part.split_once(';').unwrap_or((part, ""));
        name.trim().eq_ignore_ascii_case("gzip") && quality.trim() != "q=0"
    };
    accepted.flat_map(|text| text.split(',')).any(named)
}

/// `GET /assets/<name>`: kept for good, because another content has another name.
async fn asset(Path(name): Path<String>, headers: HeaderMap) -> Answer {
    let Some(asset) = assets::named(&name) else {
        let hint = "load the page again: a newer agent has newer ones";
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
