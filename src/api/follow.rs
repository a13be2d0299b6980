//! `GET /v1/stream`: opens a stream with the caller's permissions.

use std::sync::Arc;

use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};

use super::describe::{Operation, Part, Reply};
use super::error::{Answer, Problem};
use super::stream::{Hub, MOST_FEEDS_PER_TOKEN, Refused, Wanted, answer, event_schema};
use super::{Api, Caller};
use crate::control::request::absent;
use crate::control::{Access, Code};

/// What the query asks to follow.
#[derive(Debug)]
pub(super) struct Followed(Wanted);

impl<S: Send + Sync> FromRequestParts<S> for Followed {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(Self(Wanted::parse(parts.uri.query())?))
    }
}

impl Part for Followed {
    fn query() -> &'static [&'static str] {
        &["unit", "builds", "last_event_id"]
    }

    fn describe(operation: &mut Operation<'_>) {
        operation.query::<Wanted>();
    }
}

#[derive(Debug)]
pub(super) struct Events(Response);

impl IntoResponse for Events {
    fn into_response(self) -> Response {
        self.0
    }
}

impl Reply for Events {
    fn describe(operation: &mut Operation<'_>) {
        let content = ("text/event-stream", event_schema());
        operation.answer(StatusCode::OK, "Events until the client disconnects.", Some(content));
    }
}

/// Server-Sent Events until the client disconnects.
pub(super) async fn stream(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Followed(wanted): Followed,
    headers: HeaderMap,
) -> Answer<Events> {
    exist(&api.hub, caller.access(), &wanted).await?;
    Ok(Events(answer(&api.hub, caller.access(), &wanted, &headers)?))
}

/// Refuses units that do not exist: each would take up a feed for nothing.
async fn exist(hub: &Hub, access: &Access, wanted: &Wanted) -> Result<(), Problem> {
    // A stream with more units is refused anyway.
    for unit in hub.unfollowed(access, wanted).into_iter().take(MOST_FEEDS_PER_TOKEN) {
        let keys = access.keys.unit(unit);
        match access.kv.entry(&keys.deploy()).await {
            Ok(Some(_)) => {}
            Ok(None) => {
                let failure = absent(access, unit, &keys).await;
                if failure.code == Code::NotFound {
                    return Err(failure.into());
                }
            }
            // The stream reports this failure itself.
            Err(_) => return Ok(()),
        }
    }
    Ok(())
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let (status, kind) = match &refused {
            Refused::BadRequest { .. } => (StatusCode::BAD_REQUEST, "bad_request"),
            Refused::TooManyOfToken | Refused::TooManyFeedsOfToken => (StatusCode::TOO_MANY_REQUESTS, "too_many"),
            Refused::TooManyStreams | Refused::TooManyFeeds | Refused::Stopping => {
                (StatusCode::SERVICE_UNAVAILABLE, "busy")
            }
        };
        Self::new(status, kind, refused.to_string(), refused.hint())
    }
}
