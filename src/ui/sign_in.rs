//! `/sign-in`: the form that exchanges a Consul token for a cookie.

use askama::Template;

use super::filters;
use super::frame::Frame;

#[derive(Debug, Template)]
#[template(path = "sign_in.html")]
pub(crate) struct SignInPage {
    pub(crate) frame: Frame,
    /// The address of this agent to open after signing in.
    pub(crate) next: String,
    /// The error of the last attempt, and a hint.
    pub(crate) refused: Option<(String, String)>,
}
