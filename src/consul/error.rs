//! Errors of Consul requests, and what a caller may conclude from them.
//!
//! Two questions matter to callers: is a retry useful ([`Error::class`]), and may a failed write have happened anyway
//! ([`Error::outcome_unknown`])? Callers must ask the second one before they repeat a write.

use std::fmt;
use std::time::Duration;

use http::StatusCode;

use super::settings::SettingsError;

use crate::kind::HasKind;

/// How much of Consul's answer an error contains, in characters. Consul's messages have about 100.
const SHOWN_BODY_CHARS: usize = 300;

/// A request to Consul: a verb, and optionally a key or name. Displayed as `kv put cutover/shop/latest`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    pub(super) verb: &'static str,
    pub(super) target: String,
    pub(super) effect: Effect,
}

/// Whether a request can have changed something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Read,
    Write,
}

impl Operation {
    pub(super) fn read(verb: &'static str, target: impl Into<String>) -> Self {
        Self { verb, target: target.into(), effect: Effect::Read }
    }

    pub(super) fn write(verb: &'static str, target: impl Into<String>) -> Self {
        Self { verb, target: target.into(), effect: Effect::Write }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.verb)?;
        if !self.target.is_empty() {
            write!(f, " {}", clip(&self.target))?;
        }
        Ok(())
    }
}

/// What a caller can do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The session of the request has ended. Work under this session must stop.
    Fenced,
    /// The token lacks a permission. A retry only helps after an operator has changed that.
    Forbidden,
    /// The same request can never succeed.
    Permanent,
    /// Consul or the connection to it fails. Retry later, but check [`Error::outcome_unknown`] first.
    Transient,
}

/// A failed call to Consul.
///
/// The text contains the operation, its key, the status and Consul's message; never a token.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The token lacks a permission (403, or a transaction that was refused for that reason).
    #[error("{operation}: not allowed by Consul's ACLs ({message}); the token lacks this permission")]
    Forbidden {
        /// The request.
        operation: Operation,
        /// Consul's message.
        message: String,
    },
    /// The connection broke after the request may have been sent.
    #[error("{operation}: the connection to Consul broke before an answer arrived")]
    Interrupted {
        /// The request.
        operation: Operation,
        /// The error of the connection.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The session does not exist, or has ended. The request changed nothing.
    #[error("{operation}: the session has ended ({message})")]
    InvalidSession {
        /// The request.
        operation: Operation,
        /// Consul's message.
        message: String,
    },
    /// The answer does not match Consul's API.
    #[error("{operation}: Consul's answer is invalid: {problem}")]
    Malformed {
        /// The request.
        operation: Operation,
        /// The problem of the answer.
        problem: String,
    },
    /// An invalid request, refused before it was sent.
    #[error("{operation}: {problem}")]
    Refused {
        /// The request.
        operation: Operation,
        /// Why it is invalid.
        problem: &'static str,
    },
    /// The settings are invalid.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// Consul answered with an error.
    #[error("{operation}: Consul answered {status}: {message}")]
    Status {
        /// The request.
        operation: Operation,
        /// The HTTP status.
        status: StatusCode,
        /// Consul's message, cut, without control characters.
        message: String,
    },
    /// No answer within the call's time limit.
    #[error("{operation}: no answer from Consul within {limit:?}")]
    TimedOut {
        /// The request.
        operation: Operation,
        /// The limit.
        limit: Duration,
    },
    /// A request above Consul's limit, refused before it was sent.
    #[error("{operation}: {size} {unit} are too many; Consul accepts at most {limit}")]
    TooLarge {
        /// The request.
        operation: Operation,
        /// The size.
        size: usize,
        /// The unit of size and limit.
        unit: &'static str,
        /// Consul's limit.
        limit: usize,
    },
    /// No connection could be made; nothing was sent.
    #[error("{operation}: cannot reach Consul at {address}; check that a Consul agent runs there")]
    Unreachable {
        /// The request.
        operation: Operation,
        /// Scheme, host and port.
        address: String,
        /// The error of the connection.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// What the caller can do.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Forbidden { .. } => Class::Forbidden,
            Self::InvalidSession { .. } => Class::Fenced,
            Self::Interrupted { .. } | Self::TimedOut { .. } | Self::Unreachable { .. } => Class::Transient,
            Self::Status { status, .. } => {
                if status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS {
                    Class::Transient
                } else {
                    Class::Permanent
                }
            }
            Self::Malformed { .. } | Self::Refused { .. } | Self::Settings(_) | Self::TooLarge { .. } => {
                Class::Permanent
            }
        }
    }

    /// Whether it is unknown if a write took effect. The caller must read again, consistently, before anything else.
    ///
    /// Always false for a read. True for a write that timed out, lost its connection, got an invalid answer, or was answered
    /// with a 5xx: a server can lose its leader after the entry is in the log.
    #[must_use]
    pub fn outcome_unknown(&self) -> bool {
        match self {
            Self::Interrupted { operation, .. }
            | Self::Malformed { operation, .. }
            | Self::TimedOut { operation, .. } => operation.effect == Effect::Write,
            Self::Status { operation, status, .. } => operation.effect == Effect::Write && status.is_server_error(),
            Self::Forbidden { .. }
            | Self::InvalidSession { .. }
            | Self::Refused { .. }
            | Self::Settings(_)
            | Self::TooLarge { .. }
            | Self::Unreachable { .. } => false,
        }
    }

    /// Whether the token lacks a permission.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Forbidden { .. })
    }

    /// Whether Consul could not be reached, or did not answer.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Interrupted { .. } | Self::TimedOut { .. } | Self::Unreachable { .. })
    }

    /// The error for a request without an answer.
    pub(super) fn from_transport(
        operation: Operation,
        address: &str,
        error: hyper_util::client::legacy::Error,
    ) -> Self {
        if error.is_connect() {
            return Self::Unreachable { operation, address: address.to_owned(), source: error.into() };
        }
        Self::Interrupted { operation, source: error.into() }
    }

    /// The error for an unsuccessful answer.
    pub(super) fn from_answer(operation: Operation, status: StatusCode, body: &[u8]) -> Self {
        let message = clip(String::from_utf8_lossy(body).trim());
        // Consul's servers can lose the status in their RPC, so the message is checked, too.
        let denied = message.contains("Permission denied") || message.contains("ACL not found");
        if status == StatusCode::FORBIDDEN || denied {
            return Self::Forbidden { operation, message };
        }
        if status == StatusCode::INTERNAL_SERVER_ERROR && message.contains("invalid session") {
            return Self::InvalidSession { operation, message };
        }
        Self::Status { operation, status, message }
    }
}

impl HasKind for Error {
    fn kind(&self) -> &'static str {
        match self {
            Self::Forbidden { .. } => "consul_forbidden",
            Self::Interrupted { .. } => "consul_interrupted",
            Self::InvalidSession { .. } => "consul_invalid_session",
            Self::Malformed { .. } => "consul_malformed",
            Self::Refused { .. } => "consul_refused",
            Self::Settings(_) => "consul_settings",
            Self::Status { .. } => "consul_status",
            Self::TimedOut { .. } => "consul_timed_out",
            Self::TooLarge { .. } => "consul_too_large",
            Self::Unreachable { .. } => "consul_unreachable",
        }
    }
}

/// Makes foreign text safe for one line of a log or a terminal: cut, with control and bidirectional characters replaced.
pub(super) fn clip(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .take(SHOWN_BODY_CHARS)
        .map(|c| match c {
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
            c if c.is_control() => ' ',
            c => c,
        })
        .collect();
    if text.chars().nth(SHOWN_BODY_CHARS).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(operation: &Operation, status: u16, body: &str) -> Error {
        Error::from_answer(operation.clone(), StatusCode::from_u16(status).unwrap(), body.as_bytes())
    }

    #[test]
    fn the_outcome_is_unknown_only_for_writes_that_may_have_taken_effect() {
        let (read, write) = (Operation::read("kv get", "a"), Operation::write("kv put", "a"));
        assert!(answer(&write, 500, "No cluster leader").outcome_unknown());
        assert!(!answer(&read, 500, "No cluster leader").outcome_unknown());
        assert!(!answer(&write, 403, "Permission denied").outcome_unknown());
        assert!(!answer(&write, 400, "Missing key name").outcome_unknown());
        assert!(!answer(&write, 500, "invalid session \"x\"").outcome_unknown());
        let limit = Duration::from_secs(1);
        assert!(Error::TimedOut { operation: write, limit }.outcome_unknown());
        assert!(!Error::TimedOut { operation: read, limit }.outcome_unknown());
    }

    #[test]
    fn a_missing_permission_is_recognised_with_any_status() {
        let read = Operation::read("kv get", "a");
        for (status, body) in
            [(403, "Permission denied"), (500, "rpc error: Permission denied"), (403, "ACL not found")]
        {
            assert!(answer(&read, status, body).is_forbidden(), "{status} {body}");
        }
        assert_eq!(answer(&read, 429, "").class(), Class::Transient);
        assert_eq!(answer(&read, 404, "").class(), Class::Permanent);
    }

    #[test]
    fn consuls_message_is_one_line() {
        let error =
            answer(&Operation::read("kv get", "a\u{202e}b"), 500, &format!("a\nb\u{1b}[31m{}", "x".repeat(1000)));
        let shown = error.to_string();
        assert!(!shown.contains(['\n', '\u{1b}', '\u{202e}']), "{shown}");
        assert!(shown.len() < 450 && shown.ends_with('…'), "{shown}");
    }
}
