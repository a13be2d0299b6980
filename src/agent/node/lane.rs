//! One thing that a driver waits for at a time: a call that is under way, or a pause.

use std::pin::Pin;

/// Waits for the outcome of the newest call. A newer one takes the place of the one before, which is dropped.
pub(crate) struct Lane<E>(Option<Pin<Box<dyn Future<Output = E> + Send>>>);

impl<E> Lane<E> {
    pub(crate) const fn idle() -> Self {
        Self(None)
    }

    pub(crate) fn wait_for(&mut self, outcome: impl Future<Output = E> + Send + 'static) {
        self.0 = Some(Box::pin(outcome));
    }

    /// Nothing more is to be heard of what is under way.
    pub(crate) fn drop_call(&mut self) {
        self.0 = None;
    }

    /// # Cancel safety
    ///
    /// Safe: what is waited for stays.
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
