//! The HTTP answer around a stream.

use std::convert::Infallible;

use axum::http::header::HeaderName;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::sse::Sse;
use axum::response::{IntoResponse, Response};
use tokio_stream::StreamExt as _;

use super::wanted::{Wanted, event_id};
use super::{Hub, Refused};
use crate::control::Access;

/// Tells nginx, and what follows its example, to pass each event on at once.
const UNBUFFERED: (HeaderName, HeaderValue) =
    (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));

/// Answers `GET /v1/stream` for the caller whose token `access` carries: of `headers` only `Last-Event-ID` is read, which
/// wins over the query's.
///
/// # Errors
///
/// [`Refused`]: [`Refused::BadRequest`] is the caller's, with the others [`RETRY_AFTER`](super::RETRY_AFTER) goes out.
pub(crate) fn answer(hub: &Hub, access: &Access, wanted: &Wanted, headers: &HeaderMap) -> Result<Response, Refused> {
    let last = match headers.get("last-event-id").map(HeaderValue::to_str) {
        Some(Ok(text)) => event_id(text)?,
        Some(Err(_)) => event_id("not text")?,
        None => None,
    };
    let events = hub.open(access, wanted, last)?.map(Ok::<_, Infallible>);
    Ok(([UNBUFFERED], Sse::new(events)).into_response())
}
