//! Checks every request before a handler runs, and adds security headers to every response.
//!
//! A page of another site can make a browser on the same machine or network send requests to the agent. So the host name
//! of a request must be one of the agent's own (against DNS rebinding), and a request that changes something must come
//! from a page of the agent, or from no page at all (against CSRF).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, HeaderName, ORIGIN, REFERER, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use url::Url;

use super::cookie;
use super::error::Problem;
use super::peer::Peer;
use super::{Api, caller};
use crate::config::ApiSection;

/// How long a request may take, not counting an event stream. Long enough for three calls to a Consul without a leader,
/// each of which fails within 10 s.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);

/// Headers of every response: a page loads only from the agent, cannot be framed, and sends no referrer to other sites. The
/// referrer policy is `same-origin` instead of `no-referrer`, because with the latter the `Origin` of forms would be `null`.
const SEALS: [(HeaderName, &str); 5] = [
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (
        CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; form-action 'self'; \
         frame-ancestors 'none'; base-uri 'none'",
    ),
    (REFERRER_POLICY, "same-origin"),
    (X_FRAME_OPTIONS, "DENY"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Adds [`SEALS`] and forbids caching.
pub(super) async fn seal(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    // Assets are named by their digest and set their own `Cache-Control`.
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    for (name, value) in SEALS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Ends a request that takes too long with 504.
pub(super) async fn within_limit(request: Request, next: Next) -> Response {
    match tokio::time::timeout(REQUEST_LIMIT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::new(
            StatusCode::GATEWAY_TIMEOUT,
            "timeout",
            format!("the request took more than {} seconds", REQUEST_LIMIT.as_secs()),
            "the request may still take effect: check the status before you retry",
        )
        .into_response(),
    }
}

/// Refuses requests for another host name, and requests of other sites that change something.
pub(super) async fn check(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    match judge(&api.settings, &request) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// Decides whether [`check`] accepts a request.
pub(super) fn judge(settings: &ApiSection, request: &Request) -> Result<(), Problem> {
    let peer = request.extensions().get::<Peer>().copied();
    let own = host(settings, peer, request)?;
    origin(settings, &own, request)
}

/// The request's host name and port, if the name is one of the agent's.
fn host(settings: &ApiSection, peer: Option<Peer>, request: &Request) -> Result<Authority, Problem> {
    let refused = |message: String| {
        let hint = "use the agent's address or localhost, or add the name to hosts under [api] in its settings";
        Problem::new(StatusCode::MISDIRECTED_REQUEST, "wrong_host", message, hint)
    };
    let mut named = request.headers().get_all(HOST).iter();
    let (Some(given), None) = (named.next(), named.next()) else {
        return Err(refused("the request must have exactly one Host header".to_owned()));
    };
    let authority = given.to_str().ok().and_then(|text| text.parse::<Authority>().ok());
    let authority = authority.ok_or_else(|| refused("the Host header is not a valid host name".to_owned()))?;
    let in_target = request.uri().authority();
    for called in [Some(&authority), in_target].into_iter().flatten() {
        if !is_own(settings, peer, called.host()) {
            return Err(refused(format!("this agent does not answer to the host name {:?}", called.host())));
        }
    }
    Ok(authority)
}

fn is_own(settings: &ApiSection, peer: Option<Peer>, host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    if host == "localhost" || settings.hosts.contains(&host) {
        return true;
    }
    let public = settings.public_url.as_ref().and_then(|public| public.url().host_str());
    let public = public.map(|host| host.trim_start_matches('[').trim_end_matches(']'));
    if public == Some(host.as_str()) {
        return true;
    }
    if let Ok(address) = host.parse::<IpAddr>() {
        let address = address.to_canonical();
        // An agent that listens on 0.0.0.0 answers to the address that the request came to.
        return address == settings.listen.ip() || peer.is_some_and(|peer| peer.local == address);
    }
    false
}

/// Refuses a request of another site that changes something.
fn origin(settings: &ApiSection, own: &Authority, request: &Request) -> Result<(), Problem> {
    if matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) {
        return Ok(());
    }
    let headers = request.headers();
    let refused = |message: &str| {
        let hint = "only the agent's own page, or a program that sends no Origin header, may change something";
        Err(Problem::forbidden("cross_site", message, hint))
    };
    let (origin, site) = (headers.get(ORIGIN), headers.get("sec-fetch-site"));
    if site.is_some_and(|site| site != "same-origin") {
        return refused("the request comes from another site");
    }
    if origin.is_some_and(|origin| !is_same(settings, own, origin)) {
        return refused("the request comes from a page of another origin");
    }
    if origin.is_none() && site.is_none() && is_ambient(settings, headers) {
        return refused("a request with a cookie or a proxy user must have an Origin or Sec-Fetch-Site header");
    }
    Ok(())
}

/// Whether a request that only reads cannot come from another site's page. Browsers do not send `Sec-Fetch-Site` over plain
/// HTTP; `Referer`, which other pages cannot forge, then identifies the agent's own pages.
pub(super) fn is_from_here(settings: &ApiSection, headers: &HeaderMap) -> bool {
    if let Some(site) = headers.get("sec-fetch-site") {
        return site == "same-origin" || site == "none";
    }
    let own = headers.get(HOST).and_then(|host| host.to_str().ok()?.parse().ok());
    let is_ours = |page: &HeaderValue| own.as_ref().is_some_and(|own| is_same(settings, own, page));
    !is_ambient(settings, headers) || headers.get(REFERER).is_some_and(is_ours)
}

/// Whether a browser may have added the credentials by itself: the agent's cookie, or those for the proxy.
fn is_ambient(settings: &ApiSection, headers: &HeaderMap) -> bool {
    cookie::is_in(headers) || caller::names_user(settings, headers)
}

/// Whether `origin` is the host of the request, or the public URL. The scheme may differ behind a proxy. The port must be
/// equal, because cookies do not distinguish ports: a page on another port of the same host could use them.
fn is_same(settings: &ApiSection, own: &Authority, origin: &HeaderValue) -> bool {
    let Some(from) = origin.to_str().ok().and_then(|text| Url::parse(text).ok()) else { return false };
    if settings.public_url.as_ref().is_some_and(|public| public.url().origin() == from.origin()) {
        return true;
    }
    let port = own.port_u16().or(match from.scheme() {
        "https" => Some(443),
        "http" => Some(80),
        _ => None,
    });
    from.host_str().is_some_and(|host| host.eq_ignore_ascii_case(own.host())) && from.port_or_known_default() == port
}
