//! Limits the number of requests that use Consul at the same time.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use tokio::sync::OwnedSemaphorePermit;

use super::Api;
use super::error::Problem;

/// Requests that may use Consul at the same time. A Consul agent accepts 200 connections from one address
/// (`http_max_conns_per_client`, its default), and the sessions and watches of this agent use the same address.
pub(super) const MOST_CALLS: usize = 32;
/// How long a request waits for a free slot.
const WAIT_LIMIT: Duration = Duration::from_secs(5);

/// Waits for one of the slots; the slot is free again when the permit is dropped.
///
/// # Errors
///
/// 503 when no slot becomes free within [`WAIT_LIMIT`].
///
/// # Cancel safety
///
/// Safe: dropped, no slot is taken.
pub(super) async fn slot(api: &Api) -> Result<OwnedSemaphorePermit, Problem> {
    let busy = || {
        let message = format!("this agent already answers {MOST_CALLS} requests, which is its limit");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message, "use another agent, or try again")
    };
    let waited = tokio::time::timeout(WAIT_LIMIT, Arc::clone(&api.slots).acquire_owned()).await;
    waited.map_err(|_| busy())?.map_err(|_| busy())
}
