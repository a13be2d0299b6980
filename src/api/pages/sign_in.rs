//! Signing in and out, and the viewer's preferences.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::{LOCATION, SET_COOKIE};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;

use super::form::Form;
use super::visit::{PREFS, View, theme_of};
use crate::api::body::Asked;
use crate::api::error::{Answer, Problem};
use crate::api::fields::ticked;
use crate::api::{Api, cookie, session};
use crate::ui::{SignInPage, Tab, Viewer};

/// How long a browser keeps the viewer's preferences: a year.
const KEPT_SECS: u32 = 31_536_000;

/// The address to open after signing in.
#[derive(Debug, Deserialize)]
pub(super) struct Next {
    #[serde(default)]
    next: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SignIn {
    token: String,
    #[serde(default)]
    next: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

/// The form of the preferences.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Preferences {
    theme: String,
    #[serde(default)]
    keys: String,
}

/// Returns `next` if it is an address of this agent, else the overview: a link must not redirect to another site.
pub(super) fn own(next: &str) -> &str {
    let bytes = next.as_bytes();
    let is_path = bytes.first() == Some(&b'/') && !matches!(bytes.get(1), Some(b'/' | b'\\'));
    if is_path && next.bytes().all(|byte| byte.is_ascii_graphic()) { next } else { "/" }
}

fn to(address: &str, cookie: HeaderValue) -> Response {
    let place = HeaderValue::from_str(address).unwrap_or(HeaderValue::from_static("/"));
    (StatusCode::SEE_OTHER, [(LOCATION, place), (SET_COOKIE, cookie)]).into_response()
}

fn page(api: &Api, view: &View, next: &str, refused: Option<&Problem>) -> Answer {
    let frame = view.frame(api, Viewer::Unknown, Vec::new()).on(Tab::None, "Sign in").with_json("/v1/session");
    let refused = refused.map(|problem| (problem.message.clone(), problem.hint.clone()));
    view.answer(&SignInPage { frame, next: own(next).to_owned(), refused })
}

/// `GET /sign-in`. Reads nothing from Consul, so that it also works with a token that Consul no longer knows.
pub(super) async fn ask(
    State(api): State<Arc<Api>>,
    uri: Uri,
    headers: HeaderMap,
    Asked(Next { next }): Asked<Next>,
) -> Answer {
    page(&api, &View::of(&uri, &headers), &next, None)
}

/// `POST /sign-in`.
pub(super) async fn sign_in(
    State(api): State<Arc<Api>>,
    uri: Uri,
    headers: HeaderMap,
    Form(SignIn { token, next }): Form<SignIn>,
) -> Answer {
    match session::known(&api, &token).await {
        Ok((token, _)) => Ok(to(own(&next), cookie::set(&api.settings, &token))),
        Err(problem) => {
            let mut shown = problem.clone();
            if problem.kind == "not_allowed" {
                "Consul does not know this token".clone_into(&mut shown.message);
                "copy the token's SecretID exactly as Consul shows it".clone_into(&mut shown.hint);
            }
            let mut response = page(&api, &View::of(&uri, &headers), &next, Some(&shown))?;
            *response.status_mut() = problem.status;
            Ok(response)
        }
    }
}

/// `POST /sign-out`: removes the cookie. The token itself stays valid in Consul.
pub(super) async fn sign_out(State(api): State<Arc<Api>>, Form(Nothing {}): Form<Nothing>) -> Answer {
    Ok(to("/", cookie::clear(&api.settings)))
}

/// `POST /settings`.
pub(super) async fn set(Form(Preferences { theme, keys }): Form<Preferences>) -> Answer {
    let Some(theme) = theme_of(&theme) else {
        return Err(Problem::usage(format!("theme: {theme:?} is not auto, light or dark"), "choose one of them"));
    };
    let keys = if ticked("keys", &keys)? { "on" } else { "off" };
    let text = format!("{PREFS}={}.{keys}; Path=/; HttpOnly; SameSite=Lax; Max-Age={KEPT_SECS}", theme.as_str());
    let cookie = HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""));
    Ok(to("/settings", cookie))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signing_in_does_not_redirect_to_other_sites() {
        for (next, place) in [
            ("/units/shop/production?x=1", "/units/shop/production?x=1"),
            ("", "/"),
            ("//evil.example.com", "/"),
            ("/\\evil.example.com", "/"),
            ("https://evil.example.com", "/"),
            ("/a\r\nSet-Cookie: x", "/"),
        ] {
            assert_eq!(own(next), place);
        }
    }
}
