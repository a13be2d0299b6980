//! The sender of a request: the owner of its token, or the user that a proxy names. Every handler that reads or writes in
//! Consul extracts a [`Caller`].

use std::fmt;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue};
use tokio::sync::OwnedSemaphorePermit;

use super::describe::{Operation, Part};
use super::error::Problem;
use super::peer::Peer;
use super::{Api, capacity, cookie, identity};
use crate::config::ApiSection;
use crate::consul::Secret;
use crate::control::{Access, Failure};
use crate::protocol::record::{Identity, Means};

/// The sender of a request, with the permissions of their token and no others.
#[derive(Clone)]
pub(crate) struct Caller {
    access: Access,
    who: Who,
    /// Counts towards [`capacity::MOST_CALLS`] for as long as the caller is kept.
    _slot: Arc<OwnedSemaphorePermit>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Who {
    /// Not identified: requests use Consul's anonymous token.
    Anonymous,
    /// Named by the proxy: requests use the token that the settings give to this user.
    Proxied {
        user: String,
    },
    Token,
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").field("who", &self.who).finish_non_exhaustive()
    }
}

impl Caller {
    /// Consul with the caller's permissions.
    #[must_use]
    pub(crate) const fn access(&self) -> &Access {
        &self.access
    }

    /// The caller's identity; none for the anonymous token and without ACLs.
    ///
    /// # Errors
    ///
    /// As [`identity::of_token`].
    ///
    /// # Cancel safety
    ///
    /// Safe: reads only.
    pub(crate) async fn identity(&self) -> Result<Option<Identity>, Failure> {
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
        let slot = Arc::new(capacity::slot(api).await?);
        let Some(user) = user(&api.settings, parts)? else {
            let who = if token.is_some() { Who::Token } else { Who::Anonymous };
            return Ok(Self { access: api.access(token.as_ref())?, who, _slot: slot });
        };
        if token.is_some() {
            let hint = "send only one of them";
            return Err(Problem::usage("the request names a proxy user and also carries a token", hint));
        }
        let Some(settings) = api.settings.users.get(&user) else {
            let message = format!("this agent has no user {user:?}");
            return Err(Problem::forbidden(
                "unknown_user",
                message,
                "add the user under [api.users] in the agent's settings",
            ));
        };
        Ok(Self { access: api.delegate(&settings.token_file).await?, who: Who::Proxied { user }, _slot: slot })
    }
}

impl Part for Caller {
    fn describe(operation: &mut Operation<'_>) {
        operation.takes_token();
    }
}

/// Whether the request has the header in which the proxy names a user, whoever sent it.
pub(super) fn names_user(settings: &ApiSection, headers: &HeaderMap) -> bool {
    settings.proxy.as_ref().is_some_and(|proxy| headers.contains_key(&proxy.user_header))
}

/// The user that the proxy names.
fn user(settings: &ApiSection, parts: &Parts) -> Result<Option<String>, Problem> {
    let Some(proxy) = settings.proxy.as_ref().filter(|_| names_user(settings, &parts.headers)) else { return Ok(None) };
    let from = parts.extensions.get::<Peer>().map(|peer| peer.remote);
    if !from.is_some_and(|from| proxy.from.iter().any(|address| address.to_canonical() == from)) {
        let message = format!("the header {} is accepted only from the proxy", proxy.user_header);
        return Err(Problem::forbidden("not_the_proxy", message, "send a Consul token instead"));
    }
    let mut given = parts.headers.get_all(&proxy.user_header).iter();
    match (given.next().map(HeaderValue::to_str), given.next()) {
        (Some(Ok(user)), None) if !user.trim().is_empty() => Ok(Some(user.trim().to_owned())),
        _ => {
            let message = format!("the header {} must name exactly one user", proxy.user_header);
            Err(Problem::usage(message, "set up the proxy to replace the header that its clients send"))
        }
    }
}

/// The token in the request's headers or cookie. Several different tokens are refused.
fn token(headers: &HeaderMap) -> Result<Option<Secret>, Problem> {
    let unreadable =
        |what: &str| Problem::usage(format!("{what} contains no token"), "send the token exactly as Consul shows it");
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
                "the Authorization header is not a bearer token",
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
        let hint = "X-Consul-Token, the bearer token and the session cookie must be the same token; sign out, or send only one";
        return Err(Problem::usage("the request carries different tokens", hint));
    }
    Ok(first)
}
