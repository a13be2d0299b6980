//! Why a message was not delivered, and what that means for sending it again.

use std::path::PathBuf;
use std::time::Duration;

use http::StatusCode;

use crate::kind::HasKind;

/// The time limit for one message, including the connection.
pub(crate) const SEND_LIMIT: Duration = Duration::from_secs(10);

/// Why a message was not accepted, or may not have been. No variant contains a secret.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    #[error("{} {problem}", path.display())]
    Content { path: PathBuf, problem: String },
    #[error("{} cannot be read", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the receiver no longer exists: 410 Gone{}", quoted(body))]
    Gone {
        /// The beginning of the answer.
        body: String,
    },
    /// The receiver answered, but did not accept the message.
    #[error("the receiver answered {status}{}", quoted(body))]
    Refused {
        /// The status, not 2xx.
        status: StatusCode,
        /// The beginning of the answer.
        body: String,
        /// When to retry, as requested by the receiver.
        retry_after: Option<Duration>,
    },
    /// No answer within [`SEND_LIMIT`].
    #[error("the receiver did not answer within {} s", SEND_LIMIT.as_secs())]
    Silent,
    /// No connection, or something that is not HTTP.
    #[error("the receiver cannot be reached: {problem}")]
    Unreachable { problem: String },
}

impl HasKind for SendError {
    fn kind(&self) -> &'static str {
        match self {
            Self::Content { .. } => "content",
            Self::File { .. } => "file",
            Self::Gone { .. } => "gone",
            Self::Refused { .. } => "refused",
            Self::Silent => "silent",
            Self::Unreachable { .. } => "unreachable",
        }
    }
}

fn quoted(body: &str) -> String {
    if body.is_empty() { String::new() } else { format!(": {body}") }
}

impl SendError {
    /// Whether the receiver did not answer.
    #[must_use]
    pub(crate) const fn is_unreachable(&self) -> bool {
        matches!(self, Self::Silent | Self::Unreachable { .. })
    }

    /// Whether the answer is about this message: the receiver may accept the next one. Answers about a wrong secret or
    /// address (401, 403, 404) do not count, because an operator can fix them, nor do temporary ones (408, 429).
    #[must_use]
    pub(crate) fn is_about_the_message(&self) -> bool {
        match self {
            Self::Refused { status, .. } => {
                status.is_client_error() && !matches!(status.as_u16(), 401 | 403 | 404 | 408 | 410 | 429)
            }
            Self::Content { .. } | Self::File { .. } | Self::Gone { .. } | Self::Silent | Self::Unreachable { .. } => {
                false
            }
        }
    }

    /// When to retry, as requested by the receiver.
    #[must_use]
    pub(crate) const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            Self::Content { .. } | Self::File { .. } | Self::Gone { .. } | Self::Silent | Self::Unreachable { .. } => {
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rejections_of_the_message_itself_are_about_the_message() {
        let refused = |status: u16| {
            let status = StatusCode::from_u16(status).unwrap();
            SendError::Refused { status, body: String::new(), retry_after: None }.is_about_the_message()
        };
        assert!([400, 405, 413, 415, 422].into_iter().all(refused));
        assert!(![302, 401, 403, 404, 408, 429, 500, 503].into_iter().any(refused));
        assert!(!SendError::Silent.is_about_the_message());
    }
}
