//! Renders a page once for all viewers with the same permissions.
//!
//! At each event all open pages of a group fetch themselves again at the same moment. Each sends a digest of the events
//! that it has seen, and may get a page that was rendered for another viewer with the same digest. So 500 open pages cost
//! Consul as much as one. A page that is opened, or follows a form, sends no digest and is always rendered anew.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::header::{ACCEPT_ENCODING, AUTHORIZATION, COOKIE, HOST};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use tokio::time::Instant;

use crate::api::error::Problem;
use crate::api::peer::Peer;

/// The header with the events that a page has seen: the id of the last event, and a digest of the newest event of each kind.
const SEEN: &str = "x-cutover-seen";
/// How long a page is shared. Relative times on it are never older than this.
const FRESH: Duration = Duration::from_secs(2);
/// The most pages that are kept at a time. A page with 1,000 nodes has 20 kB, compressed.
const MOST_PAGES: usize = 128;
/// The largest page that is kept, in bytes.
const MOST_BYTES: usize = 4 << 20;

/// The longest value of [`SEEN`], in bytes. The value is an event id and a number.
const MOST_SEEN_BYTES: usize = 64;

/// The caller and the page of a request. Requests with the same key may share a rendered page.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    address: String,
    /// The values of each header that identifies the caller or the encoding.
    headers: Vec<Vec<u8>>,
    /// The client's address, if it decides whether a proxy user is accepted.
    from: Option<IpAddr>,
}

#[derive(Debug)]
struct Rendered {
    /// The value of [`SEEN`] in the request that the page was rendered for.
    seen: String,
    at: Instant,
    headers: HeaderMap,
    body: Bytes,
}

type Slot = Arc<tokio::sync::Mutex<Option<Rendered>>>;

/// The pages that were rendered within the last [`FRESH`].
#[derive(Debug, Default)]
pub(in crate::api) struct Cache {
    /// The header in which a proxy names the user.
    user_header: Option<String>,
    slots: Mutex<BTreeMap<Key, Slot>>,
}

impl Cache {
    pub(in crate::api) fn new(user_header: Option<String>) -> Self {
        Self { user_header, slots: Mutex::default() }
    }

    fn key(&self, request: &Request) -> Option<(Key, String)> {
        let headers = request.headers();
        let seen = headers.get(SEEN)?.to_str().ok()?.to_owned();
        if *request.method() != Method::GET || seen.len() > MOST_SEEN_BYTES {
            return None;
        }
        let user = self.user_header.as_deref().unwrap_or_default();
        let peer = request.extensions().get::<Peer>().map(|peer| peer.remote);
        let names =
            [HOST.as_str(), COOKIE.as_str(), AUTHORIZATION.as_str(), "x-consul-token", ACCEPT_ENCODING.as_str(), user];
        let values = |name: &&str| {
            let mut joined = Vec::new();
            for value in headers.get_all(*name).iter().filter(|_| !name.is_empty()) {
                joined.extend_from_slice(value.as_bytes());
                // A separator: a header value cannot contain a line end.
                joined.push(b'\n');
            }
            joined
        };
        let values = names.iter().map(values).collect();
        let from = peer.filter(|_| !user.is_empty() && headers.contains_key(user));
        Some((Key { address: request.uri().to_string(), headers: values, from }, seen))
    }

    /// The slot of this page; none if too many are in use.
    fn slot(&self, key: Key) -> Option<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get(&key) {
            return Some(Arc::clone(slot));
        }
        // Drop pages that no request waits for and that are too old to be used.
        let is_useful = |slot: &Slot| {
            let is_fresh = |page: Option<&Rendered>| page.is_some_and(|kept| kept.at.elapsed() < FRESH);
            Arc::strong_count(slot) > 1 || slot.try_lock().is_ok_and(|page| is_fresh(page.as_ref()))
        };
        slots.retain(|_, slot| is_useful(slot));
        (slots.len() < MOST_PAGES).then(|| Arc::clone(slots.entry(key).or_default()))
    }
}

/// Answers with a page that was rendered for a viewer with the same permissions and events, if there is one.
pub(in crate::api) async fn share(State(shared): State<Arc<Cache>>, request: Request, next: Next) -> Response {
    let kept = shared.key(&request).and_then(|(key, seen)| Some((shared.slot(key)?, seen)));
    let Some((slot, seen)) = kept else { return next.run(request).await };
    // Requests for the same page wait here, and then share this rendering.
    let mut page = slot.lock().await;
    if let Some(kept) = page.as_ref().filter(|kept| kept.seen == seen && kept.at.elapsed() < FRESH) {
        return (kept.headers.clone(), kept.body.clone()).into_response();
    }
    let at = Instant::now();
    let response = next.run(request).await;
    if response.status() != StatusCode::OK {
        return response;
    }
    let (parts, body) = response.into_parts();
    let Ok(body) = to_bytes(body, MOST_BYTES).await else {
        let (message, hint) = ("the page is too large", "filter the list");
        return Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", message, hint).into_response();
    };
    *page = Some(Rendered { seen, at, headers: parts.headers.clone(), body: body.clone() });
    Response::from_parts(parts, Body::from(body))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::Router;
    use axum::middleware::from_fn_with_state;
    use axum::routing::get;
    use hyper::service::Service as _;
    use hyper_util::service::TowerToHyperService;

    use super::*;

    /// Counts how often the page is rendered for these requests, one after another: seen event, cookie, address.
    async fn rendered(requests: &[(Option<&str>, &str, &str)]) -> usize {
        let count = Arc::new(AtomicUsize::new(0));
        let counting = Arc::clone(&count);
        let page = move || {
            let counting = Arc::clone(&counting);
            async move { counting.fetch_add(1, Ordering::Relaxed).to_string() }
        };
        let shared = Arc::new(Cache::new(Some("x-forwarded-user".to_owned())));
        let router: Router = Router::new().route("/{page}", get(page)).layer(from_fn_with_state(shared, share));
        let service = TowerToHyperService::new(router);
        for (seen, cookie, address) in requests {
            let mut request = Request::builder().uri(*address).header(COOKIE, *cookie);
            if let Some(seen) = seen {
                request = request.header(SEEN, *seen);
            }
            let response = service.call(request.body(Body::empty()).unwrap()).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
        }
        count.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn only_viewers_with_the_same_token_and_events_share_a_page() {
        let a = (Some("7.1"), "a", "/x");
        assert_eq!(rendered(&[a, a, a]).await, 1);
        assert_eq!(rendered(&[a, (Some("8.1"), "a", "/x")]).await, 2, "another event may have changed the page");
        assert_eq!(rendered(&[a, (Some("7.2"), "a", "/x")]).await, 2, "another digest");
        assert_eq!(rendered(&[a, (Some("7.1"), "b", "/x")]).await, 2, "another token may read less");
        assert_eq!(rendered(&[a, (Some("7.1"), "a", "/y")]).await, 2);
        assert_eq!(rendered(&[a, (None, "a", "/x"), (None, "a", "/x")]).await, 3, "a request without the header");
        let long = "7".repeat(MOST_SEEN_BYTES + 1);
        let long = (Some(long.as_str()), "a", "/x");
        assert_eq!(rendered(&[long, long]).await, 2);
    }
}
