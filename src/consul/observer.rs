//! Whoever wants to count and time what is asked of Consul.

use std::fmt;
use std::time::Duration;

use http::StatusCode;

use super::error::Error;

/// Hears of every request that a [`Client`](super::Client) has sent, once it has ended.
///
/// Called on the task that asked, so it must be quick and must not block. A request that was dropped halfway, as the
/// query of a watch that is rung, is not told.
pub trait Observer: Send + Sync + fmt::Debug {
    /// One request has ended.
    fn asked(&self, asked: &Asked);
}

/// One request that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// What was asked, one of a few fixed texts: `kv get`, `txn`.
    pub verb: &'static str,
    /// What came back.
    pub reply: Reply,
    /// How long that took, or how long it was waited for.
    pub took: Duration,
    /// Whether Consul was to hold it until something changes: then its time says nothing about Consul.
    pub rested: bool,
}

/// What came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// An answer, whatever it was.
    Status(StatusCode),
    /// None, or none that can be read; one of the words of [`Error::kind`] without `consul_`.
    Silence(&'static str),
}

impl Reply {
    /// What this error says came back; none: nothing was sent.
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
