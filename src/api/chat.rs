//! `POST /v1/chat/slack`: slash commands, which act with the token that their user is mapped to.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse as _;
use jiff::Timestamp;

use super::body::Raw;
use super::error::{Answer, Problem};
use super::{Api, attest};
use crate::chat::{Surroundings, answer};
use crate::consul::Secret;
use crate::control::{Access, Failure, Witness};
use crate::protocol::record::Identity;

/// What chat needs of the API.
struct Around(Arc<Api>);

impl Surroundings for Around {
    fn access(&self, token: Secret) -> Result<Access, Failure> {
        self.0.access(Some(&token))
    }

    fn witness(&self, identity: Identity) -> Arc<dyn Witness> {
        attest::witness_of(&self.0, identity)
    }
}

/// Answers Slack, within its 3 s.
pub(super) async fn slack(State(api): State<Arc<Api>>, headers: HeaderMap, Raw(body): Raw) -> Answer {
    let around = Around(Arc::clone(&api));
    let Some(chat) = &api.chat else {
        let hint = "it is turned on by [chat] in this agent's settings; see docs/notifications.md";
        return Err(Problem::new(StatusCode::NOT_FOUND, "not_found", "deploys from chat are off", hint));
    };
    let reply = answer(chat, &around, &headers, &body, Timestamp::now()).await;
    Ok((reply.status, Json(reply.body)).into_response())
}
