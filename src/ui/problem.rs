//! The page of an error, and pages that have nothing to show yet.

use askama::Template;

use super::filters;
use super::frame::Frame;

/// The page of an error.
#[derive(Debug, Template)]
#[template(path = "problem.html")]
pub(crate) struct ProblemPage {
    pub(crate) frame: Frame,
    pub(crate) status: u16,
    /// The kind of the error, as in the API.
    pub(crate) kind: &'static str,
    pub(crate) message: String,
    /// What to do; may be empty.
    pub(crate) hint: String,
}

impl ProblemPage {
    fn heading(&self) -> &'static str {
        match self.status {
            400 | 413 | 415 => "Request not understood",
            403 => "Not allowed",
            404 => "Not found",
            405 => "Method not allowed",
            408 | 504 => "Timed out",
            409 => "Not possible now",
            421 => "Unknown host name",
            503 => "Not available",
            _ => "Internal error",
        }
    }

    /// Whether a retry may succeed.
    const fn is_temporary(&self) -> bool {
        matches!(self.status, 408 | 429 | 503 | 504)
    }

    /// Whether another token may have the permission.
    fn is_permission_problem(&self) -> bool {
        matches!(self.kind, "not_allowed" | "forbidden")
    }
}

/// A page that has nothing to show yet.
#[derive(Debug, Template)]
#[template(path = "empty.html")]
pub(crate) struct EmptyPage {
    pub(crate) frame: Frame,
    /// The sentence that says what is missing.
    pub(crate) lacks: &'static str,
    pub(crate) next: &'static str,
    pub(crate) command: &'static str,
}
