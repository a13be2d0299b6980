//! Waiting for a server that asks for fewer requests, as S3 does with `SlowDown`.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::error::StoreError;
use super::s3_error::is_busy;
use crate::backoff::Backoff;

/// The first pause. The attempts of the request itself have paused before it.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(16);

/// The calls to one store that wait.
#[derive(Clone, Debug)]
pub(super) struct Busy {
    waiting: Arc<AtomicUsize>,
    patience: Duration,
}

impl Busy {
    pub(super) fn new(patience: Duration) -> Self {
        Self { waiting: Arc::default(), patience }
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Calls again with growing pauses while the server is busy, up to [`Limits::patience`](super::Limits::patience).
    ///
    /// # Cancel safety
    ///
    /// As the call.
    pub(super) async fn patiently<T, F>(&self, call: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut backoff = Backoff::new(SHORTEST_PAUSE, LONGEST_PAUSE);
        let mut waiting = None;
        loop {
            let error = match call().await {
                Err(error) if is_busy(&error) => error,
                ended => return ended,
            };
            let since = waiting.get_or_insert_with(|| self.wait()).since;
            let left = self.patience.saturating_sub(since.elapsed());
            if left.is_zero() {
                return Err(error);
            }
            tokio::time::sleep(backoff.pause(fastrand::f64()).min(left)).await;
        }
    }

    fn wait(&self) -> Waiting {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting { waiting: Arc::clone(&self.waiting), since: Instant::now() }
    }
}

/// A call that waits, from its first refusal to its end.
struct Waiting {
    waiting: Arc<AtomicUsize>,
    since: Instant,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
