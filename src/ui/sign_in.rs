//! `/sign-in`: the form that exchanges a Consul token for a cookie.

use askama::Template;

use super::filters;
use super::frame::Frame;

/// Signing in.
#[derive(Debug, Template)]
#[template(path = "sign_in.html")]
pub struct SignInPage {
    /// The frame of the page.
    pub frame: Frame,
    /// Where to go afterwards: an address of this agent.
    pub next: String,
    /// Why the last try failed, and what to do.
    pub refused: Option<(String, String)>,
}
