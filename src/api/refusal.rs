//! The errors that an operation may answer with, as the `OpenAPI` document lists them.

use axum::http::StatusCode;

/// One of them. Its body is always an [`ErrorDocument`](super::error::ErrorDocument).
#[derive(Clone, Copy, Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    /// Its name among the document's responses.
    pub(super) name: &'static str,
    pub(super) description: &'static str,
}

impl Refusal {
    const fn new(status: StatusCode, name: &'static str, description: &'static str) -> Self {
        Self { status, name, description }
    }
}

/// Those of every operation: of the guard, of Consul, and of what nobody expects.
pub(super) const ANYWHERE: [Refusal; 6] = [
    Refusal::new(StatusCode::BAD_REQUEST, "BadRequest", "The request is invalid; the message says why."),
    Refusal::new(
        StatusCode::FORBIDDEN,
        "NotAllowed",
        "The caller's Consul token lacks the permission, or the request comes from another site or an address that is \
         not allowed.",
    ),
    Refusal::new(StatusCode::MISDIRECTED_REQUEST, "WrongHost", "The agent does not answer to this host name."),
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "Failed", "The agent or Consul failed; see the agent's log."),
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "Unreachable", "Consul cannot be reached from this agent."),
    Refusal::new(
        StatusCode::GATEWAY_TIMEOUT,
        "Unknown",
        "The request may still take effect: check the status before you retry.",
    ),
];

/// Those of every operation that reads a body.
pub(super) const OF_BODY: [Refusal; 2] = [
    Refusal::new(StatusCode::REQUEST_TIMEOUT, "Timeout", "The body arrived too slowly."),
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "TooLarge", "The body is too large."),
];

pub(super) const NOT_JSON: Refusal =
    Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "NotJson", "The Content-Type is not application/json.");
pub(super) const NOT_FOUND: Refusal =
    Refusal::new(StatusCode::NOT_FOUND, "NotFound", "It does not exist, or the token may not read it.");
pub(super) const CONFLICT: Refusal =
    Refusal::new(StatusCode::CONFLICT, "Conflict", "Busy, refused, frozen, or the name is already taken.");
pub(super) const NOT_READY: Refusal =
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "NotReady", "The message names the units without a session.");
pub(super) const NOT_SLACK: Refusal =
    Refusal::new(StatusCode::UNAUTHORIZED, "NotSlack", "The call is not signed by Slack, or was seen before.");
pub(super) const TOO_MANY_CALLS: Refusal =
    Refusal::new(StatusCode::TOO_MANY_REQUESTS, "TooManyCalls", "Too many calls from chat within five minutes.");
pub(super) const TOO_MANY_STREAMS: Refusal = Refusal::new(
    StatusCode::TOO_MANY_REQUESTS,
    "TooManyStreams",
    "Too many streams or followed documents with this token.",
);
