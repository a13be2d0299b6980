//! Turns changes of keys into notifications of a task.

use std::sync::Arc;

use tokio::sync::Notify;

use crate::consul::{Change, Subject, Watch};

/// Notifies `changed` at each change that `watch` sees. Runs until it is dropped.
pub(super) async fn wake_on<T: Subject>(mut watch: Watch<T>, changed: Arc<Notify>) {
    loop {
        match watch.next().await {
            Change::Seen(_) => changed.notify_one(),
            // The waiting task reads the keys itself, and reports errors.
            Change::Failed(_) => {}
        }
    }
}
