//! `POST /v1/chat/slack`: slash commands, carried out with the token that the settings give to the user.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{FromRequest, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use jiff::Timestamp;
use schemars::json_schema;

use super::body::Raw;
use super::describe::{Operation, Part, Presence, Reply};
use super::error::{Answer, Problem};
use super::{Api, attest, capacity, identity};
use crate::chat::{Backend, Reply as ChatReply};
use crate::control::{Access, Failure};
use crate::protocol::record::Means;

/// How long the answer may take. Slack shows an error to the user after 3 s.
const ANSWER_LIMIT: Duration = Duration::from_millis(2_500);

/// The API as chat uses it.
struct ChatBackend(Arc<Api>);

impl Backend for ChatBackend {
    async fn delegate(&self, token_file: &Path) -> Result<Access, Failure> {
        self.0.delegate(token_file).await
    }

    async fn attested_by(&self, access: Access, name: &str) -> Result<Access, Failure> {
        let identity = identity::of_delegate(&access, name, Means::Chat).await?;
        Ok(access.attested_by(attest::attester_of(&self.0, identity)))
    }
}

/// A call of Slack: a form, whose bytes it has signed.
#[derive(Debug)]
pub(super) struct Signed(Bytes);

impl<S: Send + Sync> FromRequest<S> for Signed {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        Raw::from_request(request, state).await.map(|Raw(bytes)| Self(bytes))
    }
}

impl Part for Signed {
    fn describe(operation: &mut Operation<'_>) {
        operation.body(Presence::Required, "application/x-www-form-urlencoded", &json_schema!({"type": "object"}));
    }
}

/// The answer to Slack.
#[derive(Debug)]
pub(super) struct Said(ChatReply);

impl IntoResponse for Said {
    fn into_response(self) -> Response {
        (self.0.status, Json(self.0.body)).into_response()
    }
}

impl Reply for Said {
    fn describe(operation: &mut Operation<'_>) {
        let content = ("application/json", json_schema!({"type": ["object", "null"]}));
        operation.answer(StatusCode::OK, "The message that the chat shows; null where it shows none.", Some(content));
    }
}

/// Answers Slack within its limit of 3 s. A signed call is carried out even if that takes longer, because the same call is
/// not accepted again.
pub(super) async fn slack(State(api): State<Arc<Api>>, headers: HeaderMap, Signed(body): Signed) -> Answer<Said> {
    let Some(chat) = &api.chat else {
        let hint = "turn it on with [chat] in the agent's settings; see docs/notifications.md";
        return Err(Problem::new(StatusCode::NOT_FOUND, "not_found", "deploys from chat are off", hint));
    };
    let order = match chat.admit(&headers, &body, Timestamp::now()).await {
        Ok(order) => order,
        Err(reply) => return Ok(Said(reply)),
    };
    let (late, backend) = (order.late(), ChatBackend(Arc::clone(&api)));
    let carried_out = api.finish(async move {
        let _slot = capacity::slot(&backend.0).await?;
        Ok(order.carry_out(&backend).await)
    });
    let reply = tokio::time::timeout(ANSWER_LIMIT, carried_out).await.unwrap_or(Ok(late))?;
    Ok(Said(reply))
}
