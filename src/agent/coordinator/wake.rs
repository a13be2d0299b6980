//! Wakes whoever waits for a change of some keys.

use std::sync::Arc;

use tokio::sync::Notify;

use crate::consul::{Change, Subject, Watch};

/// Notifies `changed` of whatever `watch` sees, until it is dropped.
pub(super) async fn wake_on<T: Subject>(mut watch: Watch<T>, changed: Arc<Notify>) {
    loop {
        match watch.next().await {
            Change::Seen(_) => changed.notify_one(),
            // Whoever waits reads by itself too, and reports what cannot be read.
            Change::Failed(_) => {}
        }
    }
}
