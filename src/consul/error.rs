//! What can go wrong between Cutover and Consul, and what a caller may conclude from it.

use std::fmt;
use std::time::Duration;

use http::StatusCode;

use super::settings::SettingsError;

/// How much of Consul's answer an error carries, in characters: its own messages are one line of about 100.
const SHOWN_BODY_CHARS: usize = 300;

/// What was asked of Consul: a verb, and a key or name where there is one. Shown as `kv put cutover/shop/latest`.
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
    /// The session that the request rests on is gone. Whoever acted under it must stop.
    Fenced,
    /// The token lacks a right. Trying again helps only after an operator has changed that.
    Forbidden,
    /// The same request can never succeed.
    Permanent,
    /// Consul or the way to it is ill. Try again later; see [`Error::outcome_unknown`] first.
    Transient,
}

/// A call to Consul that gave no answer to work with.
///
/// The text names the operation, its key, the status and Consul's own words; never a token.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The token may not do this (403, or a transaction that was refused for that reason).
    #[error("{operation}: not allowed by Consul's ACLs ({message}); the token needs the right for exactly this")]
    Forbidden {
        /// What was asked.
        operation: Operation,
        /// Consul's own words.
        message: String,
    },
    /// The connection broke after the request may have been sent.
    #[error("{operation}: the connection to Consul broke before its answer")]
    Interrupted {
        /// What was asked.
        operation: Operation,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The session does not exist (any more); the request changed nothing.
    #[error("{operation}: the session is gone ({message})")]
    InvalidSession {
        /// What was asked.
        operation: Operation,
        /// Consul's own words.
        message: String,
    },
    /// The answer is not what Consul's API promises.
    #[error("{operation}: Consul's answer is not understood: {problem}")]
    Malformed {
        /// What was asked.
        operation: Operation,
        /// What is wrong with the answer.
        problem: String,
    },
    /// Refused here, before anything was sent: the request can never be valid.
    #[error("{operation}: {problem}")]
    Refused {
        /// What was asked.
        operation: Operation,
        /// Why it cannot be.
        problem: &'static str,
    },
    /// No client can be made of the settings.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// Consul answered, and not with success.
    #[error("{operation}: Consul answered {status}: {message}")]
    Status {
        /// What was asked.
        operation: Operation,
        /// The HTTP status.
        status: StatusCode,
        /// Consul's own words, cut, without control characters.
        message: String,
    },
    /// No answer within the call's time limit.
    #[error("{operation}: no answer from Consul within {limit:?}")]
    TimedOut {
        /// What was asked.
        operation: Operation,
        /// The limit.
        limit: Duration,
    },
    /// Refused here, before anything was sent: Consul's limit is lower.
    #[error("{operation}: {size} {unit}, and Consul takes at most {limit}")]
    TooLarge {
        /// What was asked.
        operation: Operation,
        /// How much it is.
        size: usize,
        /// Of what.
        unit: &'static str,
        /// How much Consul takes.
        limit: usize,
    },
    /// No connection could be made; nothing was sent.
    #[error("{operation}: cannot reach Consul at {address}; is its agent running there?")]
    Unreachable {
        /// What was asked.
        operation: Operation,
        /// Scheme, host and port.
        address: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// One of a fixed set of words, for metrics and JSON.
    #[must_use]
    pub fn kind(&self) -> &'static str {
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

    /// What can be done about it.
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

    /// Whether a write may or may not have happened: it must be read again, consistently, before anything else.
    ///
    /// Always false for a read. True for a write that timed out, whose connection broke, whose answer could not be
    /// understood, or that Consul answered with a 5xx: a server can lose its leader after the entry is in the log.
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

    /// Whether the token lacks a right.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Forbidden { .. })
    }

    /// Whether Consul could not be reached, or did not answer.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Interrupted { .. } | Self::TimedOut { .. } | Self::Unreachable { .. })
    }

    /// The error for a request that got no answer.
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

    /// The error for an answer that is no success.
    pub(super) fn from_answer(operation: Operation, status: StatusCode, body: &[u8]) -> Self {
        let message = clip(String::from_utf8_lossy(body).trim());
        // Through a server's RPC the right status can be lost, so the words count as well.
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

/// Text from outside, fit for one line of a log or a terminal: cut, control and bidirectional characters replaced.
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
    fn only_a_write_that_may_have_happened_is_unknown() {
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
    fn a_lost_right_is_seen_behind_any_status() {
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
    fn what_consul_says_fits_into_one_line() {
        let error =
            answer(&Operation::read("kv get", "a\u{202e}b"), 500, &format!("a\nb\u{1b}[31m{}", "x".repeat(1000)));
        let shown = error.to_string();
        assert!(!shown.contains(['\n', '\u{1b}', '\u{202e}']), "{shown}");
        assert!(shown.len() < 450 && shown.ends_with('…'), "{shown}");
    }
}
