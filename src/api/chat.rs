//! `POST /v1/chat/slack`: slash commands, which act with the token that their user is mapped to.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use jiff::Timestamp;

use super::body::Raw;
use super::error::{Answer, Problem};
use super::{Api, attest, capacity, identity};
use crate::chat::{Reply, Surroundings};
use crate::control::{Access, Failure};
use crate::protocol::record::Means;

/// How long the answer may take. Slack shows an error to the user after 3 s.
const ANSWER_LIMIT: Duration = Duration::from_millis(2_500);

/// What chat needs of the API.
struct Around(Arc<Api>);

impl Surroundings for Around {
    async fn delegate(&self, token_file: &Path) -> Result<Access, Failure> {
        self.0.delegate(token_file).await
    }

    async fn attested_by(&self, access: Access, name: &str) -> Result<Access, Failure> {
        let identity = identity::of_delegate(&access, name, Means::Chat).await?;
        Ok(access.attested_by(attest::attester_of(&self.0, identity)))
    }
}

/// Answers Slack, within its 3 s. What a signed call asks for is seen to its end, however long that takes: the same call
/// is not taken again.
pub(super) async fn slack(State(api): State<Arc<Api>>, headers: HeaderMap, Raw(body): Raw) -> Answer {
    let Some(chat) = &api.chat else {
        let hint = "it is turned on by [chat] in this agent's settings; see docs/notifications.md";
        return Err(Problem::new(StatusCode::NOT_FOUND, "not_found", "deploys from chat are off", hint));
    };
    let order = match chat.admit(&headers, &body, Timestamp::now()).await {
        Ok(order) => order,
        Err(reply) => return Ok(answered(reply)),
    };
    let (late, around) = (order.late(), Around(Arc::clone(&api)));
    let carried_out = api.to_its_end(async move {
        let _slot = capacity::slot(&around.0).await?;
        Ok(order.carry_out(&around).await)
    });
    let reply = tokio::time::timeout(ANSWER_LIMIT, carried_out).await.unwrap_or(Ok(late))?;
    Ok(answered(reply))
}

fn answered(reply: Reply) -> Response {
    (reply.status, Json(reply.body)).into_response()
}
