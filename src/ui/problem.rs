//! What is wrong with a request, and how to mend it; and pages that have nothing to show yet.

use askama::Template;

use super::filters;
use super::frame::Frame;

/// An error.
#[derive(Debug, Template)]
#[template(path = "problem.html")]
pub struct ProblemPage {
    /// What every page has.
    pub frame: Frame,
    /// The status.
    pub status: u16,
    /// What kind it is, as in the API.
    pub kind: &'static str,
    /// What is wrong.
    pub message: String,
    /// What to do; may be empty.
    pub hint: String,
}

impl ProblemPage {
    fn heading(&self) -> &'static str {
        match self.status {
            400 | 413 | 415 => "That is not understood",
            403 => "Not allowed",
            404 => "Not found",
            405 => "Not asked that way",
            408 | 504 => "It took too long",
            409 => "Not now",
            421 => "Not called that way",
            503 => "Cannot be reached",
            _ => "It failed",
        }
    }

    /// Whether the same may go well in a while.
    const fn passes(&self) -> bool {
        matches!(self.status, 408 | 429 | 503 | 504)
    }

    /// Whether another token may help.
    fn is_of_rights(&self) -> bool {
        matches!(self.kind, "not_allowed" | "forbidden")
    }
}

/// A part of the page whose matter does not exist yet.
#[derive(Debug, Template)]
#[template(path = "empty.html")]
pub struct EmptyPage {
    /// What every page has.
    pub frame: Frame,
    /// What is not there yet.
    pub lacks: &'static str,
    /// What to do.
    pub next: &'static str,
    /// The command that does it.
    pub command: &'static str,
}
