//! The one call or pause that a driver waits for.

use std::pin::Pin;

/// Waits for the outcome of the newest call. A new call replaces and drops the one before.
pub(crate) struct Lane<E>(Option<Pin<Box<dyn Future<Output = E> + Send>>>);

impl<E> Lane<E> {
    pub(crate) const fn idle() -> Self {
        Self(None)
    }

    pub(crate) fn wait_for(&mut self, outcome: impl Future<Output = E> + Send + 'static) {
        self.0 = Some(Box::pin(outcome));
    }

    /// Drops the call in progress, so its outcome never arrives.
    pub(crate) fn drop_call(&mut self) {
        self.0 = None;
    }

    /// The outcome of the call. Waits forever while no call is in progress.
    ///
    /// # Cancel safety
    ///
    /// Safe: the call stays in the lane.
    pub(crate) async fn next(&mut self) -> E {
        match &mut self.0 {
            Some(outcome) => {
                let event = outcome.await;
                self.0 = None;
                event
            }
            None => std::future::pending().await,
        }
    }
}
