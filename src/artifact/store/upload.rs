//! What an upload tells the store and its caller, and what dead publishers leave behind.

use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Store, Told};
use crate::protocol::ids::App;

/// An unfinished upload of another machine counts as dead after this time. An upload of 100 GB at 10 Mbit/s takes 22 hours.
pub(super) const DEAD_AFTER: Duration = Duration::from_hours(24);

/// The slowest accepted upload, in bytes per second. A slower attempt counts as stuck.
pub(super) const SLOWEST_UPLOAD_BYTES_PER_SEC: u64 = 64 << 10;

/// The most bytes that a connection's send buffer holds: the default maximum of Linux, `net.ipv4.tcp_wmem`.
pub(super) const SEND_BUFFER_BYTES: u64 = 4 << 20;

/// How long the slowest accepted upload may send bytes that the kernel has buffered, which the SDK takes for a pause.
pub(super) const fn unseen_limit() -> Duration {
    Duration::from_secs(SEND_BUFFER_BYTES / SLOWEST_UPLOAD_BYTES_PER_SEC)
}

/// An upload: what it tells the store, how far it is, and how it is stopped.
#[derive(Debug, Default)]
pub struct Upload {
    /// What S3 keeps as metadata of the object.
    pub told: Option<Told>,
    /// Counts the uploaded bytes.
    pub sent: AtomicU64,
    /// Stops the upload, which then removes what it uploaded.
    pub stop: CancellationToken,
    left: OnceLock<String>,
}

impl Upload {
    /// An upload that tells this.
    #[must_use]
    pub fn of(told: Told, stop: &CancellationToken) -> Self {
        Self { told: Some(told), stop: stop.clone(), ..Self::default() }
    }

    /// An upload whose digest the store does not keep.
    #[must_use]
    pub fn without_digest(stop: &CancellationToken) -> Self {
        Self { stop: stop.clone(), ..Self::default() }
    }

    /// What a failed upload left in the store because it could not be removed.
    #[must_use]
    pub fn left(&self) -> Option<&str> {
        self.left.get().map(String::as_str)
    }

    pub(super) fn leaves(&self, what: String) {
        tracing::warn!("an upload leaves {what}");
        let _first_counts = self.left.set(what);
    }
}

impl Store {
    /// Removes what dead publishers of an app left: temporary files of a directory, unfinished uploads of a bucket. Best
    /// effort: a missing permission is no error.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn remove_dead_uploads(&self, app: &App) {
        match self {
            Self::Dir(store) => store.remove_dead_uploads(app.as_str()).await,
            Self::S3(store) => store.abort_dead_uploads(&self.key_below(&format!("{app}/"))).await,
        }
    }
}
