//! `/sign-in`: the form that exchanges a Consul token for a cookie.

use askama::Template;

use super::filters;
use super::frame::Frame;

#[derive(Debug, Template)]
#[template(path = "sign_in.html")]
pub(crate) struct SignInPage {
    pub(crate) frame: Frame,
    /// Where to go afterwards: an address of this agent.
    pub(crate) next: String,
    /// Why the last try failed, and what to do.
    pub(crate) refused: Option<(String, String)>,
}
