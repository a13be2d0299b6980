//! An interface to count and time requests to Consul.

use crate::kind::HasKind;
use std::fmt;
use std::time::Duration;

use http::StatusCode;

use super::error::Error;

/// Is called after every request that a [`Client`](super::Client) has sent.
///
/// The call runs on the task of the request, so it must be quick and must not block. Canceled requests, such as the query of a
/// watch that is woken, are not reported.
pub trait Observer: Send + Sync + fmt::Debug {
    /// One request has ended.
    fn asked(&self, asked: &Asked);
}

/// One request that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The kind of request, a fixed text: `kv get`, `txn`.
    pub(crate) verb: &'static str,
    /// The result.
    pub(crate) reply: Reply,
    /// How long the request took.
    pub(crate) took: Duration,
    /// Whether it was a blocking query, whose duration says nothing about Consul's speed.
    pub(crate) rested: bool,
}

/// The result of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// An answer with any status.
    Status(StatusCode),
    /// No answer, or an unreadable one: the word of [`Error::kind`] without `consul_`.
    Silence(&'static str),
}

impl Reply {
    /// The result for this error; none if nothing was sent.
    pub(super) fn of(error: &Error) -> Option<Self> {
        match error {
            Error::Forbidden { .. } => Some(Self::Status(StatusCode::FORBIDDEN)),
            Error::InvalidSession { .. } => Some(Self::Status(StatusCode::INTERNAL_SERVER_ERROR)),
            Error::Status { status, .. } => Some(Self::Status(*status)),
            Error::Interrupted { .. }
            | Error::Malformed { .. }
            | Error::TimedOut { .. }
            | Error::Unreachable { .. } => Some(Self::Silence(error.kind().trim_start_matches("consul_"))),
            Error::Refused { .. } | Error::Settings(_) | Error::TooLarge { .. } => None,
        }
    }
}
