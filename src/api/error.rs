//! The form of every error, and the only place that chooses HTTP statuses.

use axum::Json;
use axum::http::header::{CONNECTION, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;

use super::stream;
use crate::control::{Code, Failure};

/// The result of a handler.
pub(crate) type Answer<T = Response> = Result<T, Problem>;

/// The body of every error.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ErrorDocument<'a> {
    error: ErrorFields<'a>,
}

/// What an error says.
#[derive(Debug, Serialize, JsonSchema)]
struct ErrorFields<'a> {
    /// What to do; may be empty.
    hint: &'a str,
    /// For programs; one of a fixed set.
    kind: &'a str,
    /// What is wrong.
    message: &'a str,
}

/// An error as it is answered: an [`ErrorDocument`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    /// The kind of error, for programs; one of a fixed set.
    pub(crate) kind: &'static str,
    pub(crate) message: String,
    /// What to do; may be empty.
    pub(crate) hint: String,
}

impl Problem {
    /// An error of this status.
    #[must_use]
    pub(crate) fn new(
        status: StatusCode,
        kind: &'static str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self { status, kind, message: message.into(), hint: hint.into() }
    }

    /// An invalid request.
    #[must_use]
    pub(crate) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message, hint)
    }

    /// A request that is refused because of where it comes from.
    #[must_use]
    pub(crate) fn forbidden(kind: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, kind, message, hint)
    }
}

/// Status and kind of each code, and a hint where that of the command line makes no sense here.
const fn of(code: Code) -> (StatusCode, &'static str, Option<&'static str>) {
    match code {
        Code::Usage => (StatusCode::BAD_REQUEST, "bad_request", None),
        Code::NotFound => (StatusCode::NOT_FOUND, "not_found", None),
        Code::Refused => (StatusCode::CONFLICT, "refused", None),
        Code::Busy => (
            StatusCode::CONFLICT,
            "busy",
            Some("wait for the running deploy to end (GET /v1/status shows it), then retry"),
        ),
        Code::Frozen => (StatusCode::CONFLICT, "frozen", None),
        Code::NotAllowed => (
            StatusCode::FORBIDDEN,
            "not_allowed",
            Some(
                "use a Consul token that has this permission: sign in with it, or send it as X-Consul-Token or as a bearer token",
            ),
        ),
        Code::Unreachable => {
            (StatusCode::SERVICE_UNAVAILABLE, "unreachable", Some("this agent cannot reach Consul; try again later"))
        }
        Code::Unknown => (
            StatusCode::GATEWAY_TIMEOUT,
            "unknown",
            Some("the request may still take effect: check the status before you retry"),
        ),
        Code::Done | Code::Failed | Code::Reverted => (StatusCode::INTERNAL_SERVER_ERROR, "failed", None),
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        let (status, kind, hint) = of(failure.code);
        let hint = hint.map(str::to_owned).or(failure.hint.clone()).unwrap_or_default();
        Self { status, kind, message: failure.chain(), hint }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Self { status, kind, message, hint } = self;
        if status.is_server_error() {
            tracing::warn!(%status, kind, "a request failed with {status}: {message}");
        }
        let error = ErrorFields { hint: &hint, kind, message: &message };
        let mut response = (status, Json(ErrorDocument { error })).into_response();
        // `pages::error_page` renders this as a page for browsers.
        response.extensions_mut().insert(Self { status, kind, message, hint });
        if status == StatusCode::REQUEST_TIMEOUT {
            // The rest of the body would be read as the next request.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(stream::RETRY_AFTER.as_secs()));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_status_and_no_hint_of_the_command_line() {
        for (code, status) in [
            (Code::Usage, 400),
            (Code::NotAllowed, 403),
            (Code::NotFound, 404),
            (Code::Busy, 409),
            (Code::Refused, 409),
            (Code::Frozen, 409),
            (Code::Failed, 500),
            (Code::Unreachable, 503),
            (Code::Unknown, 504),
        ] {
            let problem = Problem::from(Failure::new(code, "x").hint("--queue, CONSUL_HTTP_TOKEN"));
            assert_eq!(problem.status.as_u16(), status, "{code:?}");
            let own = matches!(code, Code::Busy | Code::NotAllowed | Code::Unreachable | Code::Unknown);
            assert_eq!(problem.hint != "--queue, CONSUL_HTTP_TOKEN", own, "{code:?}: {}", problem.hint);
        }
    }
}
