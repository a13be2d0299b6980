//! `/sign-in`: a Consul token for a cookie.

use askama::Template;

use super::filters;
use super::frame::Frame;

/// Signing in.
#[derive(Debug, Template)]
#[template(path = "sign_in.html")]
pub struct SignInPage {
    /// What every page has.
    pub frame: Frame,
    /// Where to go afterwards: an address of ours.
    pub next: String,
    /// Why the last try was in vain.
    pub refused: Option<(String, String)>,
}
