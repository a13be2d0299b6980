//! The calls that use `rs-consul`. No other file uses that crate.
//!
//! `rs-consul` neither escapes parts of URLs nor limits the time of a call, so callers must do both. Its errors are converted
//! to [`Error`].

use rs_consul::{Config, Consul, ConsulBuilder, ConsulError, CreateOrUpdateKeyRequest, GetNodesRequest};

use super::error::{Error, Operation};
use super::settings::Secret;
use crate::protocol::ids::ModifyIndex;

/// The type of HTTP client that `rs-consul` accepts. Our own calls use the same client.
pub(super) use rs_consul::HttpsClient;

/// `rs-consul` with our HTTP client.
pub(super) struct RsClient {
    consul: Consul,
    address: String,
}

/// A write of one key.
#[derive(Default)]
pub(super) struct RsWrite<'a> {
    /// The key, escaped.
    pub(super) path: &'a str,
    pub(super) value: Vec<u8>,
    /// The index that the key must have.
    pub(super) index: Option<ModifyIndex>,
    /// The session, escaped, that acquires the lock; empty for none.
    pub(super) acquire: String,
    /// The session, escaped, that releases the lock; empty for none.
    pub(super) release: String,
}

impl RsClient {
    pub(super) fn new(http: HttpsClient, address: &str, token: Option<&Secret>) -> Self {
        let address = address.to_owned();
        let token = token.map(|token| token.expose().to_owned());
        let config = Config { address: address.clone(), token, ..Config::default() };
        Self { consul: ConsulBuilder::new(config).with_https_client(http).build(), address }
    }

    /// `false` if the key has another index, or another session holds the lock.
    pub(super) async fn write(&self, operation: Operation, write: RsWrite<'_>) -> Result<bool, Error> {
        // No key has an index above the range of i64, so the check fails, which is correct.
        let check_and_set = write.index.map(|ModifyIndex(index)| i64::try_from(index).unwrap_or(i64::MAX));
        let request = CreateOrUpdateKeyRequest {
            key: write.path,
            check_and_set,
            acquire: &write.acquire,
            release: &write.release,
            ..CreateOrUpdateKeyRequest::default()
        };
        match self.consul.create_or_update_key(request, write.value).await {
            Ok((is_written, _)) => Ok(is_written),
            Err(error) => Err(self.translate(operation, error)),
        }
    }

    /// The names of all nodes in the catalog.
    pub(super) async fn node_names(&self, operation: Operation) -> Result<Vec<String>, Error> {
        match self.consul.get_nodes(GetNodesRequest::default(), None).await {
            Ok(answer) => Ok(answer.response.into_iter().map(|node| node.node).collect()),
            Err(error) => Err(self.translate(operation, error)),
        }
    }

    fn translate(&self, operation: Operation, error: ConsulError) -> Error {
        match error {
            ConsulError::UnexpectedResponseCode(status, body) => {
                Error::from_answer(operation, status, body.unwrap_or_default().as_bytes())
            }
            ConsulError::ResponseError(error) => Error::from_transport(operation, &self.address, error),
            ConsulError::InvalidResponse(error) => Error::Interrupted { operation, source: error.into() },
            ConsulError::TimeoutExceeded(limit) => Error::TimedOut { operation, limit },
            ConsulError::RequestError(_) | ConsulError::InvalidRequest(_) => {
                Error::Refused { operation, problem: "this is not valid in a URL" }
            }
            other => Error::Malformed { operation, problem: other.to_string() },
        }
    }
}
