//! A plain GET, for the apps and agents on loopback.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

/// How long an answer may take. Everything asked here answers from memory.
const LIMIT: Duration = Duration::from_secs(3);
/// The largest answer that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// Without blanks around it.
    pub(super) text: String,
}

/// Asks `url`.
///
/// # Errors
///
/// Why there is no answer, in words.
///
/// # Cancel safety
///
/// Safe.
pub(super) async fn get(url: &str) -> Result<Answer, String> {
    let uri = url.parse::<http::Uri>().map_err(|error| format!("{url} is no address: {error}"))?;
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let asked = async {
        let answer = client.get(uri).await.map_err(|error| format!("{url} does not answer: {error}"))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| format!("{url} did not finish its answer: {error}"))?.to_bytes();
        Ok(Answer { status, text: String::from_utf8_lossy(&body).trim().to_owned() })
    };
    tokio::time::timeout(LIMIT, asked).await.unwrap_or_else(|_| Err(format!("{url} does not answer within {LIMIT:?}")))
}
