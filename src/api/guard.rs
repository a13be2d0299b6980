//! What is checked of every request before anything is done, and added to every answer.
//!
//! A browser on the same machine or network is the way in for others: a page of theirs can make it send requests here.
//! So the name by which the agent is called must be one of its own (a page that has its own name point here is refused:
//! DNS rebinding), and what changes something must come from a page of the agent's own, or from no page at all (CSRF).

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

/// How long a request may take as a whole, but for the stream that it may answer with. Three calls to a Consul without a
/// leader, each of which says so within 10 s.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);

/// What every answer says to a browser: which sources it may load from, that it stands in no other site's frame, and that
/// other sites learn no address of ours. A form's own site must see `Origin`, so the referrer is kept within it.
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

/// Adds to each answer what keeps it out of caches and out of guesses.
pub(super) async fn seal(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    // What is named by its digest says itself how long it may be kept.
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    for (name, value) in SEALS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Answers for a request that takes too long.
pub(super) async fn within_limit(request: Request, next: Next) -> Response {
    match tokio::time::timeout(REQUEST_LIMIT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::new(
            StatusCode::GATEWAY_TIMEOUT,
            "timeout",
            format!("the request took more than {} seconds", REQUEST_LIMIT.as_secs()),
            "what it asked for may have happened, or happen yet: look before asking again",
        )
        .into_response(),
    }
}

/// Lets through what calls the agent by a name of its own and, where it changes something, comes from no other site.
pub(super) async fn check(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    match judge(&api.settings, &request) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// The same, of a request that is let through or not.
pub(super) fn judge(settings: &ApiSection, request: &Request) -> Result<(), Problem> {
    let peer = request.extensions().get::<Peer>().copied();
    let own = host(settings, peer, request)?;
    origin(settings, &own, request)
}

/// The authority that the request calls, where it is one of the agent's.
fn host(settings: &ApiSection, peer: Option<Peer>, request: &Request) -> Result<Authority, Problem> {
    let refused = |message: String| {
        let hint = "call it by its address or localhost, or name the host under [api] hosts in the agent's settings";
        Problem::new(StatusCode::MISDIRECTED_REQUEST, "wrong_host", message, hint)
    };
    let mut named = request.headers().get_all(HOST).iter();
    let (Some(given), None) = (named.next(), named.next()) else {
        return Err(refused("the request has no Host header, or several".to_owned()));
    };
    let authority = given.to_str().ok().and_then(|text| text.parse::<Authority>().ok());
    let authority = authority.ok_or_else(|| refused("the Host header names no host".to_owned()))?;
    let in_target = request.uri().authority();
    for called in [Some(&authority), in_target].into_iter().flatten() {
        if !is_own(settings, peer, called.host()) {
            return Err(refused(format!("this agent is not called {:?}", called.host())));
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
        // An agent that listens on every address is called by the one that the request came to.
        return address == settings.listen.ip() || peer.is_some_and(|peer| peer.local == address);
    }
    false
}

/// Whether a request that changes something comes from where it may.
fn origin(settings: &ApiSection, own: &Authority, request: &Request) -> Result<(), Problem> {
    if matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) {
        return Ok(());
    }
    let headers = request.headers();
    let refused = |message: &str| {
        let hint = "requests that change something come from the agent's own page, or from a program without Origin";
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
        return refused("a request that a browser signs by itself must say which page it comes from");
    }
    Ok(())
}

/// Whether no page but one of the agent's own may have sent a request that only reads. Over plain HTTP browsers do not say
/// `Sec-Fetch-Site`; our pages are then told by `Referer`, which no other page can set to one of them.
pub(super) fn is_from_here(settings: &ApiSection, headers: &HeaderMap) -> bool {
    if let Some(site) = headers.get("sec-fetch-site") {
        return site == "same-origin" || site == "none";
    }
    let own = headers.get(HOST).and_then(|host| host.to_str().ok()?.parse().ok());
    let is_ours = |page: &HeaderValue| own.as_ref().is_some_and(|own| is_same(settings, own, page));
    !is_ambient(settings, headers) || headers.get(REFERER).is_some_and(is_ours)
}

/// Whether the request may be authenticated without its page knowing a secret: by cookie, ours or the proxy's.
fn is_ambient(settings: &ApiSection, headers: &HeaderMap) -> bool {
    cookie::is_in(headers) || caller::names_user(settings, headers)
}

/// Whether `origin` is the one that is called, or the public one. The scheme is a proxy's affair; ports are compared,
/// because cookies do not tell them apart.
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
