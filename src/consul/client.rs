//! Sends requests to Consul: address, headers, time limit, and the meaning of the answer.
//!
//! Nothing is retried here. Callers must check [`Error::outcome_unknown`] before they repeat a write.

use std::convert::Infallible;
use std::fmt;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

use super::error::{Error, Operation};
use super::observer::{Observer, Reply, RequestKind, RequestReport};
use super::rs_client::{HttpsClient, RsClient};
use super::settings::{Secret, Settings, SettingsError};
use super::tls;

/// The default time limit of a call.
///
/// Longer than the 7.2 s after which a Consul without a leader answers (measured on 1.8.7): "No cluster leader" is more helpful
/// for an operator than a timeout.
pub(crate) const CALL_LIMIT: Duration = Duration::from_secs(10);
/// The largest accepted answer, in bytes. A list of 10,000 node records of 4 KiB is half of that, encoded.
const ANSWER_LIMIT_BYTES: usize = 128 * 1024 * 1024;
/// The secret of Consul's anonymous token, the same everywhere.
const ANONYMOUS: &str = "anonymous";
/// Everything except the unreserved characters of RFC 3986, so that a key cannot change its URL.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// From the leader without a quorum: a deposed leader can return an old value for a short time.
    #[default]
    Default,
    /// From any server, also without a leader: usually about 50 ms old, without limit in an outage.
    Stale,
    /// From the leader, confirmed by a quorum. Required for decisions.
    Consistent,
}

/// A connection to Consul's HTTP API. Cheap to clone; clones share one connection pool.
///
/// Every call has a time limit: [`CALL_LIMIT`], unless its own documentation names another.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
    observer: Option<Arc<dyn Observer>>,
}

struct Inner {
    http: HttpsClient,
    /// None if `rs-consul` does not support the settings; see [`super`].
    rs: Option<RsClient>,
    base: String,
    token: Option<HeaderValue>,
    auth: Option<HeaderValue>,
    /// `ns=…&partition=…&dc=…`, encoded.
    scope: String,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("base", &self.inner.base)
            .field("scope", &self.inner.scope)
            .finish_non_exhaustive()
    }
}

/// Distinguishes callers without storing their tokens. Keep it in memory only: a short token could be guessed from it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct TokenDigest([u8; 32]);

impl fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenDigest")
    }
}

/// One request, before it is sent.
pub(super) struct Call {
    pub(super) operation: Operation,
    method: Method,
    path: String,
    query: String,
    body: Option<Bytes>,
    json: bool,
    limit: Duration,
    kind: RequestKind,
    /// Statuses other than 200 that are not errors.
    also: &'static [u16],
}

/// An answer with an expected status.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// `X-Consul-Index`; `None` if missing, not a number, or 0. A query must never wait on 0.
    pub(super) index: Option<u64>,
    pub(super) body: Bytes,
}

impl Call {
    pub(super) fn get(operation: Operation, path: impl Into<String>) -> Self {
        Self::new(operation, Method::GET, path.into())
    }

    pub(super) fn put(operation: Operation, path: impl Into<String>) -> Self {
        Self::new(operation, Method::PUT, path.into())
    }

    /// A POST, which Consul uses for reads with a body.
    pub(super) fn post(operation: Operation, path: impl Into<String>) -> Self {
        Self::new(operation, Method::POST, path.into())
    }

    pub(super) fn delete(operation: Operation, path: impl Into<String>) -> Self {
        Self::new(operation, Method::DELETE, path.into())
    }

    fn new(operation: Operation, method: Method, path: String) -> Self {
        let query = String::new();
        let kind = RequestKind::Immediate;
        Self { operation, method, path, query, body: None, json: false, limit: CALL_LIMIT, kind, also: &[] }
    }

    /// Adds `name=value` to the query.
    pub(super) fn param(mut self, name: &str, value: &str) -> Self {
        let separator = if self.query.is_empty() { "" } else { "&" };
        // Writing into a String cannot fail.
        _ = write!(self.query, "{separator}{name}={}", escape(value));
        self
    }

    /// Adds a parameter without a value.
    pub(super) fn flag(mut self, name: &str) -> Self {
        if !self.query.is_empty() {
            self.query.push('&');
        }
        self.query.push_str(name);
        self
    }

    pub(super) fn consistency(self, consistency: Consistency) -> Self {
        match consistency {
            Consistency::Default => self,
            Consistency::Stale => self.flag("stale"),
            Consistency::Consistent => self.flag("consistent"),
        }
    }

    pub(super) fn bytes(mut self, body: impl Into<Bytes>) -> Self {
        self.body = Some(body.into());
        self
    }

    pub(super) fn json(mut self, document: &serde_json::Value) -> Self {
        self.body = Some(document.to_string().into());
        self.json = true;
        self
    }

    pub(super) fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Marks a blocking query, which Consul answers within `limit`.
    pub(super) fn blocking(self, limit: Duration) -> Self {
        Self { kind: RequestKind::Blocking, ..self.limit(limit) }
    }

    pub(super) fn also(mut self, statuses: &'static [u16]) -> Self {
        self.also = statuses;
        self
    }
}

impl Answer {
    pub(super) fn parse<T: DeserializeOwned>(&self, operation: &Operation) -> Result<T, Error> {
        serde_json::from_slice(&self.body)
            .map_err(|e| Error::Malformed { operation: operation.clone(), problem: e.to_string() })
    }
}

impl Client {
    /// A client with these settings. Reads the token file and the certificates (small files, blocking); sends nothing yet.
    ///
    /// # Errors
    ///
    /// [`Error::Settings`] with the invalid setting or file.
    pub fn new(settings: &Settings) -> Result<Self, Error> {
        settings.check()?;
        let base = settings.endpoint()?.base();
        let http = tls::https_client(settings)?;
        let auth = settings.auth.as_ref().map(|auth| {
            let pair = BASE64.encode(format!("{}:{}", auth.user, auth.password.expose()));
            header("password", &format!("Basic {pair}"))
        });
        let mut scope = String::new();
        let scopes = [("ns", &settings.namespace), ("partition", &settings.partition), ("dc", &settings.datacenter)];
        for (name, value) in scopes.iter().filter_map(|(name, value)| value.as_ref().map(|value| (name, value))) {
            let separator = if scope.is_empty() { "" } else { "&" };
            _ = write!(scope, "{separator}{name}={}", escape(value)); // Writing into a String cannot fail.
        }
        Self::assemble(http, base, read_token(settings)?.as_ref(), auth.transpose()?, scope)
    }

    /// A client with another token, for the same Consul over the same connections.
    ///
    /// `None` sends Consul's anonymous token explicitly: without any token, the Consul agent would use its own default token
    /// (`acl.tokens.default`), which does not belong to the caller.
    ///
    /// # Errors
    ///
    /// [`Error::Settings`] if the token is not valid in a header.
    pub fn with_token(&self, token: Option<&Secret>) -> Result<Self, Error> {
        let anonymous = Secret::new(ANONYMOUS);
        let token = Some(token.unwrap_or(&anonymous));
        let Inner { http, base, auth, scope, .. } = &*self.inner;
        let client = Self::assemble(http.clone(), base.clone(), token, auth.clone(), scope.clone())?;
        Ok(Self { observer: self.observer.clone(), ..client })
    }

    /// A client that reports every request to `observer`, as do all clients made from it.
    #[must_use]
    pub fn observed_by(self, observer: Arc<dyn Observer>) -> Self {
        Self { observer: Some(observer), ..self }
    }

    fn assemble(
        http: HttpsClient,
        base: String,
        token: Option<&Secret>,
        auth: Option<HeaderValue>,
        scope: String,
    ) -> Result<Self, Error> {
        let header = token.map(|token| header("token", token.expose())).transpose()?;
        // `rs-consul` sends no basic authentication and no partition, and builds a wrong URL for a namespace or datacenter
        // without the other.
        let is_plain = auth.is_none() && scope.is_empty();
        let rs = is_plain.then(|| RsClient::new(http.clone(), &base, token));
        Ok(Self { inner: Arc::new(Inner { http, rs, base, token: header, auth, scope }), observer: None })
    }

    /// The address of this client's Consul: scheme, host, port and path prefix.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.inner.base
    }

    /// A digest of this client's token. Equal for equal tokens, and for clients without a token.
    #[must_use]
    pub(crate) fn token_digest(&self) -> TokenDigest {
        let token = self.inner.token.as_ref().map_or(&[][..], HeaderValue::as_bytes);
        TokenDigest(Sha256::digest(token).into())
    }

    /// `rs-consul`, if it supports the settings.
    pub(super) fn rs(&self) -> Option<&RsClient> {
        self.inner.rs.as_ref()
    }

    /// Sends one request and reads its whole answer within the call's limit.
    pub(super) async fn send(&self, call: Call) -> Result<Answer, Error> {
        let (verb, kind, begun) = (call.operation.verb, call.kind, Instant::now());
        let answer = self.exchange(call).await;
        let reply = match &answer {
            Ok(answer) => Some(Reply::Status(answer.status)),
            Err(error) => Reply::of(error),
        };
        self.report(verb, reply, begun, kind);
        answer
    }

    /// Reports a request to the observer, if it was sent.
    fn report(&self, verb: &'static str, reply: Option<Reply>, begun: Instant, kind: RequestKind) {
        if let (Some(observer), Some(reply)) = (&self.observer, reply) {
            observer.request_ended(&RequestReport { verb, reply, took: begun.elapsed(), kind });
        }
    }

    async fn exchange(&self, call: Call) -> Result<Answer, Error> {
        let Call { operation, limit, also, .. } = &call;
        let (operation, limit, also) = (operation.clone(), *limit, *also);
        let request = self.request(call)?;
        let exchange = async {
            let response = match self.inner.http.request(request).await {
                Ok(response) => response,
                Err(error) => return Err(Error::from_transport(operation.clone(), &self.inner.base, error)),
            };
            let status = response.status();
            let index = response.headers().get("x-consul-index");
            let index = index.and_then(|value| value.to_str().ok()?.parse().ok()).filter(|index| *index > 0);
            match Limited::new(response.into_body(), ANSWER_LIMIT_BYTES).collect().await {
                Ok(body) => Ok(Answer { status, index, body: body.to_bytes() }),
                Err(error) if error.is::<LengthLimitError>() => {
                    let problem = format!("it is longer than {ANSWER_LIMIT_BYTES} bytes");
                    Err(Error::Malformed { operation: operation.clone(), problem })
                }
                Err(source) => Err(Error::Interrupted { operation: operation.clone(), source }),
            }
        };
        let answer = match tokio::time::timeout(limit, exchange).await {
            Ok(answer) => answer?,
            Err(_) => return Err(Error::TimedOut { operation, limit }),
        };
        if answer.status == StatusCode::OK || also.contains(&answer.status.as_u16()) {
            return Ok(answer);
        }
        Err(Error::from_answer(operation, answer.status, &answer.body))
    }

    fn request(&self, call: Call) -> Result<Request<BoxBody<Bytes, Infallible>>, Error> {
        let Inner { base, token, auth, scope, .. } = &*self.inner;
        let query =
            [call.query.as_str(), scope].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("&");
        let separator = if query.is_empty() { "" } else { "?" };
        let mut request = Request::builder().method(call.method).uri(format!("{base}{}{separator}{query}", call.path));
        if let Some(token) = token {
            request = request.header("X-Consul-Token", token);
        }
        if let Some(auth) = auth {
            request = request.header(AUTHORIZATION, auth);
        }
        if call.json {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        // `Full` has a known length, so the body is not sent in chunks. Consul silently drops the payload of a chunked event.
        let body = BoxBody::new(Full::new(call.body.unwrap_or_default()));
        request
            .body(body)
            .map_err(|_| Error::Refused { operation: call.operation, problem: "this is not valid in a URL" })
    }

    /// Applies [`CALL_LIMIT`] to a call of `rs-consul`, which has no time limit of its own, and reports the call.
    pub(super) async fn within_limit<T>(
        &self,
        operation: Operation,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let (verb, begun) = (operation.verb, Instant::now());
        let timed_out = |_| Err(Error::TimedOut { operation, limit: CALL_LIMIT });
        let answer = tokio::time::timeout(CALL_LIMIT, call).await.unwrap_or_else(timed_out);
        let reply = match &answer {
            Ok(_) => Some(Reply::Status(StatusCode::OK)),
            Err(error) => Reply::of(error),
        };
        self.report(verb, reply, begun, RequestKind::Immediate);
        answer
    }

    /// Sends a read and parses its JSON.
    pub(super) async fn fetch<T: DeserializeOwned>(&self, call: Call) -> Result<T, Error> {
        let operation = call.operation.clone();
        self.send(call).await?.parse(&operation)
    }
}

/// A header value that is hidden in `Debug` output.
fn header(what: &'static str, text: &str) -> Result<HeaderValue, SettingsError> {
    let mut value = HeaderValue::from_str(text).map_err(|_| SettingsError::NotAHeader { what })?;
    value.set_sensitive(true);
    Ok(value)
}

/// The token from the file, else the given token. An empty file is ignored, as in the official client.
fn read_token(settings: &Settings) -> Result<Option<Secret>, SettingsError> {
    if let Some(path) = &settings.token_file {
        let text = std::fs::read_to_string(path).map_err(|source| SettingsError::Read {
            what: "the Consul token file",
            path: path.clone(),
            source,
        })?;
        let token = text.trim();
        if !token.is_empty() {
            return Ok(Some(Secret::new(token)));
        }
    }
    Ok(settings.token.clone().filter(|token| !token.expose().is_empty()))
}

/// One query value or path segment.
pub(super) fn escape(text: &str) -> String {
    utf8_percent_encode(text, ESCAPED).to_string()
}

/// A key as a URL path, with its slashes.
pub(super) fn key_path(key: &str) -> String {
    key.split('/').map(escape).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_cannot_change_its_url() {
        assert_eq!(key_path("cutover/a b?c=d&e#f%/ü"), "cutover/a%20b%3Fc%3Dd%26e%23f%25/%C3%BC");
        assert_eq!(key_path("a//b/"), "a//b/");
    }

    #[test]
    fn the_token_file_takes_precedence_unless_it_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let settings =
            Settings { token: Some(Secret::new("given")), token_file: Some(path.clone()), ..Settings::default() };
        assert!(matches!(Client::new(&settings), Err(Error::Settings(SettingsError::Read { .. }))));
        std::fs::write(&path, "from-file\n").unwrap();
        assert_eq!(read_token(&settings).unwrap(), Some(Secret::new("from-file")));
        std::fs::write(&path, " \n").unwrap();
        assert_eq!(read_token(&settings).unwrap(), Some(Secret::new("given")));
    }

    #[test]
    fn certificate_files_without_a_certificate_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        std::fs::write(&path, "nothing here\n").unwrap();
        let mut settings = Settings::default();
        settings.tls.ca_file = Some(path.clone());
        let error = Client::new(&settings).unwrap_err();
        assert!(error.to_string().contains("ca.pem contains no certificate"), "{error}");
        settings.tls.ca_file = None;
        settings.tls.ca_dir = Some(dir.path().to_owned());
        assert!(Client::new(&settings).is_err());
    }

    #[test]
    fn no_token_is_printed() {
        let settings = Settings { token: Some(Secret::new("hunter2")), ..Settings::default() };
        assert!(!format!("{:?}", Client::new(&settings).unwrap()).contains("hunter2"));
    }
}
