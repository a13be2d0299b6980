//! Sends one message to one receiver: a POST with a time limit, and the meaning of its answer.
//!
//! Redirects are not followed: a receiver's URL is a secret, and the body may contain a token. Retries are the caller's task.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use jiff::Timestamp;
use rustls::{ClientConfig, RootCertStore};

use super::event::Event;
use super::receiver::Receiver;
use super::send_error::{SEND_LIMIT, SendError};
use crate::telemetry::chain;

/// How much of an answer is read, in bytes. Answers are `ok`, or a sentence about the problem.
const ANSWER_LIMIT_BYTES: usize = 4096;
/// The longest accepted `Retry-After` of a receiver.
const LONGEST_RETRY_AFTER: Duration = Duration::from_hours(1);

/// The HTTP client for receivers. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct HttpSender {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

/// The answer of a receiver that accepted the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answered {
    /// The status, 2xx.
    pub(crate) status: StatusCode,
    /// The start of the answer, without secrets.
    pub(crate) body: String,
}

impl Default for HttpSender {
    fn default() -> Self {
        Self::new()
    }
}

impl HttpSender {
    /// A client with the system's CAs; plain HTTP if a URL requires it. Proxy variables in the environment are ignored.
    ///
    /// # Panics
    ///
    /// Never: ring supports both TLS versions that rustls considers safe.
    #[must_use]
    pub(crate) fn new() -> Self {
        let mut roots = RootCertStore::empty();
        // Certificates that rustls cannot parse are skipped. Without any certificate, plain HTTP still works, and TLS
        // fails at the handshake.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        #[expect(clippy::expect_used, reason = "ring has suites for the versions that rustls holds safe, both of them")]
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring speaks TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        // Messages are rare: the receiver would have closed a kept connection before the next message.
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
        Self { client }
    }

    /// Sends an event, once.
    ///
    /// # Errors
    ///
    /// [`SendError`]: the event was not accepted, or this is not known.
    ///
    /// # Cancel safety
    ///
    /// Not safe: a cancelled message may have been accepted. If it is sent again, it has the same id.
    pub(crate) async fn send(&self, receiver: &Receiver, event: &Event, now: Timestamp) -> Result<Answered, SendError> {
        let opened = receiver.open().await?;
        let body = receiver.body(event, &opened);
        let mut request = Request::post(opened.uri.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("cutover/", env!("CARGO_PKG_VERSION")))
            .header("webhook-id", &event.id);
        if let Some(key) = &opened.key {
            request = request
                .header("webhook-timestamp", now.as_second().to_string())
                .header("webhook-signature", key.sign(&event.id, now, &body));
        }
        let unreachable =
            |error: &dyn std::error::Error| SendError::Unreachable { problem: opened.redact(&chain(error)) };
        let request = request.body(Full::new(Bytes::from(body))).map_err(|error| unreachable(&error))?;
        let asked = async {
            let answer = self.client.request(request).await.map_err(|error| unreachable(&error))?;
            let (head, body) = answer.into_parts();
            // The body is only shown to people, so an error while reading it does not matter.
            let body = Limited::new(body, ANSWER_LIMIT_BYTES).collect().await;
            let body = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).trim().to_owned()).unwrap_or_default();
            Ok((head, opened.redact(&body)))
        };
        let (head, body) = tokio::time::timeout(SEND_LIMIT, asked).await.map_err(|_| SendError::Silent)??;
        let status = head.status;
        if status.is_success() {
            return Ok(Answered { status, body });
        }
        if status == StatusCode::GONE {
            return Err(SendError::Gone { body });
        }
        let seconds = head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let retry_after = seconds.map(|seconds| Duration::from_secs(seconds).min(LONGEST_RETRY_AFTER));
        Err(SendError::Refused { status, body, retry_after })
    }
}
