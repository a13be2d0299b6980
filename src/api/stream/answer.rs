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

/// Makes nginx and similar proxies pass on each event at once.
const UNBUFFERED: (HeaderName, HeaderValue) =
    (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));

/// Answers `GET /v1/stream` with the permissions of `access`. Of `headers` only `Last-Event-ID` is read; it takes
/// precedence over `last_event_id` in the query.
///
/// # Errors
///
/// [`Refused`]. For all except [`Refused::BadRequest`], the response has [`RETRY_AFTER`](super::RETRY_AFTER).
pub(crate) fn answer(hub: &Hub, access: &Access, wanted: &Wanted, headers: &HeaderMap) -> Result<Response, Refused> {
    let last = match headers.get("last-event-id").map(HeaderValue::to_str) {
        Some(Ok(text)) => event_id(text)?,
        Some(Err(_)) => event_id("not text")?,
        None => None,
    };
    let events = hub.open(access, wanted, last)?.map(Ok::<_, Infallible>);
    Ok(([UNBUFFERED], Sse::new(events)).into_response())
}
