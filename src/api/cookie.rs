//! The page's session cookie. It contains the caller's Consul token, percent-encoded, because the agent keeps no sessions.

use axum::http::header::COOKIE;
use axum::http::{HeaderMap, HeaderValue};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::config::ApiSection;
use crate::consul::Secret;

pub(super) const NAME: &str = "cutover_session";

/// All values of the cookie. Browsers send several if the paths or domains of the cookies differ.
fn values(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let pairs = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(';'));
    pairs.filter_map(|pair| pair.trim().split_once('=')).filter(|(name, _)| *name == NAME).map(|(_, value)| value)
}

/// Whether the request carries the cookie.
pub(super) fn is_in(headers: &HeaderMap) -> bool {
    values(headers).next().is_some()
}

/// The tokens in the cookie. A value that cannot be decoded becomes a token that Consul does not know.
pub(super) fn tokens(headers: &HeaderMap) -> Vec<Secret> {
    let decode = |value: &str| Secret::new(percent_decode_str(value).decode_utf8_lossy());
    values(headers).map(decode).collect()
}

/// `Set-Cookie` for a token; it ends with the browser's session.
pub(super) fn set(settings: &ApiSection, token: &Secret) -> HeaderValue {
    let value = utf8_percent_encode(token.expose(), NON_ALPHANUMERIC).to_string();
    header(settings, &value, "")
}

/// `Set-Cookie` that removes the cookie.
pub(super) fn clear(settings: &ApiSection) -> HeaderValue {
    header(settings, "", "; Max-Age=0")
}

fn header(settings: &ApiSection, value: &str, lifetime: &str) -> HeaderValue {
    let over_tls = settings.tls.is_some() || settings.public_url.as_ref().is_some_and(|url| url.starts_with("https:"));
    let secure = if over_tls { "; Secure" } else { "" };
    let text = format!("{NAME}={value}; Path=/; HttpOnly; SameSite=Strict{secure}{lifetime}");
    // Percent-encoded text is always valid in a header. An empty value would only fail to sign in.
    let mut header = HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(""));
    header.set_sensitive(true);
    header
}
