//! An interface to count and time requests to Consul.

use std::fmt;
use std::time::Duration;

use http::StatusCode;

use super::error::Error;
use crate::kind::HasKind;

/// Receives a report after every request that a [`Client`](super::Client) has sent.
///
/// The report is made on the task of the request, so it must be quick and must not block. Canceled requests, such as the
/// query of a watch that is woken, are not reported.
pub trait Observer: Send + Sync + fmt::Debug {
    /// Reports one request after its end.
    fn request_ended(&self, request: &RequestReport);
}

/// Whether Consul answers a request at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestKind {
    /// A blocking query, which Consul answers after a change. Its duration does not show Consul's speed.
    Blocking,
    /// Any other request.
    Immediate,
}

/// One request that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestReport {
    /// The verb of the operation, a fixed text: `kv get`, `txn`.
    pub(crate) verb: &'static str,
    pub(crate) reply: Reply,
    pub(crate) took: Duration,
    pub(crate) kind: RequestKind,
}

/// The result of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// An answer with any status.
    Status(StatusCode),
    /// No answer, or a malformed one. Contains [`HasKind::kind`] of the error without `consul_`.
    NoAnswer(&'static str),
}

impl Reply {
    /// The result for this error; none if no request was sent.
    pub(super) fn of(error: &Error) -> Option<Self> {
        match error {
            Error::Forbidden { .. } => Some(Self::Status(StatusCode::FORBIDDEN)),
            Error::InvalidSession { .. } => Some(Self::Status(StatusCode::INTERNAL_SERVER_ERROR)),
            Error::Status { status, .. } => Some(Self::Status(*status)),
            Error::Interrupted { .. }
            | Error::Malformed { .. }
            | Error::TimedOut { .. }
            | Error::Unreachable { .. } => Some(Self::NoAnswer(error.kind().trim_start_matches("consul_"))),
            Error::Refused { .. } | Error::Settings(_) | Error::TooLarge { .. } => None,
        }
    }
}
