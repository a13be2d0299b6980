//! Who calls: the token that a request carries, or the user that a proxy names. Extracted by every handler that reads or
//! writes for somebody.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use tokio::sync::OwnedSemaphorePermit;

use super::connection::Peer;
use super::error::Problem;
use super::{Api, cookie, identity};
use crate::config::ApiSection;
use crate::consul::Secret;
use crate::control::{Access, Failure};
use crate::protocol::record::{Identity, Means};

/// A caller, with the rights that they came with and no others.
#[derive(Clone)]
pub struct Caller {
    access: Access,
    who: Who,
    /// Its place among those that ask Consul at one time, kept for as long as the caller is.
    _room: Arc<OwnedSemaphorePermit>,
}

/// Requests that may ask Consul at one time: its agent takes 200 connections from one address
/// (`http_max_conns_per_client`, its default), and this agent's sessions and watches come from the same one.
pub(super) const MOST_CALLS: usize = 32;
/// How long a request waits for its turn.
const ROOM_LIMIT: Duration = Duration::from_secs(5);

/// How the caller has said who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Who {
    /// Not at all: Consul's anonymous token acts.
    Anonymous,
    /// By a user name of the proxy's, whose delegate token acts.
    Proxied {
        /// The name.
        user: String,
    },
    /// By a token of their own.
    Token,
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").field("who", &self.who).finish_non_exhaustive()
    }
}

impl Caller {
    /// Consul with the caller's rights.
    #[must_use]
    pub const fn access(&self) -> &Access {
        &self.access
    }

    /// Who it is. None: nobody can tell.
    ///
    /// # Errors
    ///
    /// As [`identity::of_token`].
    ///
    /// # Cancel safety
    ///
    /// Safe: reads only.
    pub async fn identity(&self) -> Result<Option<Identity>, Failure> {
        match &self.who {
            Who::Anonymous => Ok(None),
            Who::Proxied { user } => identity::of_delegate(&self.access, user, Means::Proxy).await.map(Some),
            Who::Token => identity::of_token(self.access.kv.client()).await,
        }
    }
}

impl FromRequestParts<Arc<Api>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let token = token(&parts.headers)?;
        let room = Arc::new(room(api).await?);
        let Some(user) = user(&api.settings, parts)? else {
            let who = if token.is_some() { Who::Token } else { Who::Anonymous };
            return Ok(Self { access: api.access(token.as_ref())?, who, _room: room });
        };
        if token.is_some() {
            let hint = "send one of them: what the user may do, or what the token may";
            return Err(Problem::usage("the request names a user of the proxy and carries a token too", hint));
        }
        let Some(settings) = api.settings.users.get(&user) else {
            let message = format!("{user:?} is no user of this agent");
            return Err(Problem::forbidden(
                "unknown_user",
                message,
                "users are named under [api.users] in its settings",
            ));
        };
        Ok(Self { access: api.delegate(&settings.token_file).await?, who: Who::Proxied { user }, _room: room })
    }
}

/// A place among those that ask Consul at one time, for whoever is no [`Caller`] too.
///
/// # Errors
///
/// 503 where none is free for a while.
///
/// # Cancel safety
///
/// Safe.
pub(super) async fn room(api: &Api) -> Result<OwnedSemaphorePermit, Problem> {
    let busy = || {
        let message =
            format!("{MOST_CALLS} requests are being answered already, which is as many as this agent does at once");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message, "ask another agent, or try again")
    };
    let waited = tokio::time::timeout(ROOM_LIMIT, Arc::clone(&api.room).acquire_owned()).await;
    waited.map_err(|_| busy())?.map_err(|_| busy())
}

/// Whether the request names a user of a proxy, rightly or not.
pub(super) fn names_user(settings: &ApiSection, headers: &HeaderMap) -> bool {
    settings.proxy.as_ref().is_some_and(|proxy| headers.contains_key(&proxy.user_header))
}

/// The user that the proxy names.
fn user(settings: &ApiSection, parts: &Parts) -> Result<Option<String>, Problem> {
    let Some(proxy) = settings.proxy.as_ref().filter(|_| names_user(settings, &parts.headers)) else { return Ok(None) };
    let from = parts.extensions.get::<Peer>().map(|peer| peer.remote);
    if !from.is_some_and(|from| proxy.from.iter().any(|address| address.to_canonical() == from)) {
        let message = format!("the header {} is not believed from this address", proxy.user_header);
        return Err(Problem::forbidden("not_the_proxy", message, "only the proxy names users; send a Consul token"));
    }
    let mut given = parts.headers.get_all(&proxy.user_header).iter();
    match (given.next().map(HeaderValue::to_str), given.next()) {
        (Some(Ok(user)), None) if !user.trim().is_empty() => Ok(Some(user.trim().to_owned())),
        _ => {
            let message = format!("the header {} names no user, or several", proxy.user_header);
            Err(Problem::usage(message, "the proxy sets it once, whatever its clients send"))
        }
    }
}

/// The one token that the request carries, wherever.
fn token(headers: &HeaderMap) -> Result<Option<Secret>, Problem> {
    let unreadable = |what: &str| Problem::usage(format!("{what} holds no token"), "send the token as Consul shows it");
    let mut found = Vec::new();
    for value in headers.get_all("x-consul-token") {
        let text = value.to_str().map_err(|_| unreadable("X-Consul-Token"))?;
        found.push(Secret::new(text.trim()));
    }
    for value in headers.get_all(AUTHORIZATION) {
        let wrong = || unreadable("Authorization");
        let (scheme, text) = value.to_str().ok().and_then(|text| text.trim().split_once(' ')).ok_or_else(wrong)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Problem::usage(
                "Authorization is not of the kind Bearer",
                "send: Authorization: Bearer <token>",
            ));
        }
        found.push(Secret::new(text.trim()));
    }
    found.append(&mut cookie::tokens(headers));
    if found.iter().any(|token| token.expose().is_empty()) {
        return Err(unreadable("the request"));
    }
    let first = found.first().cloned();
    if found.iter().any(|token| Some(token) != first.as_ref()) {
        let hint = "X-Consul-Token, the bearer token and the session cookie must agree; sign out, or send one of them";
        return Err(Problem::usage("the request carries different tokens", hint));
    }
    Ok(first)
}
